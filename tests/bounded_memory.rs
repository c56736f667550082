//! Memory is bounded by configuration, not by the input or the output: every process stays under 64 MiB.
//!
//! The inputs are as long as this takes to be seen: each process's peak is read from the kernel (`VmHWM`) until it ends.
//! A stalled sink is one whose standard output is a pipe that nobody reads for a while.

mod common;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use common::{Program, Running, Scene};

/// The limit of each process, in KiB.
const LIMIT: u64 = 64 << 10;
/// How long the input of the filters is, in lines: the full length in one test, a part in the others.
const LINES: u64 = 10_000_000;
const FEWER_LINES: u64 = 2_000_000;
/// How much one task puts out, in bytes.
const OUTPUT: u64 = 1 << 30;
/// Held by a test that has a gigabyte kept on disk: one at a time, so that little room is enough.
static DISK: Mutex<()> = Mutex::new(());

/// The peak of a process and its name, in KiB; `None` when it has ended.
fn peak(pid: u32) -> Option<(String, u64)> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    let kib = field("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok()?;
    Some((field("Name:")?.trim().to_owned(), kib))
}

/// Reads the peaks of the scene's own programs, again and again until it is dropped.
struct Watch {
    peaks: Arc<Mutex<HashMap<u32, (String, u64)>>>,
    end: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Watch {
    fn over(pids: &[u32]) -> Self {
        let peaks: Arc<Mutex<HashMap<u32, (String, u64)>>> = Arc::default();
        let end = Arc::new(AtomicBool::new(false));
        let (pids, to, ended) = (pids.to_vec(), Arc::clone(&peaks), Arc::clone(&end));
        let thread = thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                for &pid in &pids {
                    if let Some(found) = peak(pid) {
                        let mut peaks = to.lock().unwrap_or_else(PoisonError::into_inner);
                        peaks.insert(pid, found);
                    }
                }
                thread::sleep(Duration::from_millis(5));
            }
        });
        Self {
            peaks,
            end,
            thread: Some(thread),
        }
    }

    fn now(&self) -> Vec<(String, u64)> {
        let peaks = self.peaks.lock().unwrap_or_else(PoisonError::into_inner);
        peaks.values().cloned().collect()
    }

    /// Waits until no peak has risen for a while: whoever is stalled takes in no more.
    fn until_stable(&self, scene: &Scene) {
        let (mut before, mut since) = (self.now(), Instant::now());
        scene.until_true("memory is stable", || {
            let now = self.now();
            if now != before {
                (before, since) = (now, Instant::now());
            }
            since.elapsed() > Duration::from_secs(2)
        });
    }

    /// Every peak was below the limit.
    fn assert_bounded(mut self, what: &str) {
        self.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the watch does not panic");
        }
        let peaks = self.now();
        assert!(!peaks.is_empty(), "{what}: no peak was seen");
        eprintln!("{what}: {peaks:?}");
        for (name, kib) in &peaks {
            assert!(
                *kib < LIMIT,
                "{what}: {name} had {} MiB: {peaks:?}",
                kib / 1024
            );
        }
    }
}

/// Counts what comes out, after a stall if there is to be one: bytes, and whether they are `1\n2\n…` in order.
struct Reader {
    thread: thread::JoinHandle<(u64, bool)>,
    go: std::sync::mpsc::Sender<()>,
}

impl Reader {
    fn of(mut pipe: std::io::PipeReader) -> Self {
        let (go, may_start) = std::sync::mpsc::channel();
        let thread = thread::spawn(move || {
            let _ = may_start.recv();
            let (mut bytes, mut ordered) = (0u64, true);
            let (mut line, mut number) = (0u64, 0u64);
            let mut piece = vec![0; 1 << 20];
            while let Ok(count @ 1..) = pipe.read(&mut piece) {
                bytes += count as u64;
                for &byte in &piece[..count] {
                    if byte == b'\n' {
                        number += 1;
                        ordered &= line == number;
                        line = 0;
                    } else {
                        line = line
                            .wrapping_mul(10)
                            .wrapping_add(byte.wrapping_sub(b'0').into());
                    }
                }
            }
            (bytes, ordered)
        });
        Self { thread, go }
    }

    fn start(&self) {
        let _ = self.go.send(());
    }

    fn end(self) -> (u64, bool) {
        self.start();
        self.thread.join().expect("the reader does not panic")
    }
}

/// The bytes of `seq N`.
fn length_of_seq(n: u64) -> u64 {
    (1..=n.ilog10() + 1)
        .map(|digits| {
            let first = 10u64.pow(digits - 1);
            let last = n.min(first * 10 - 1);
            (last + 1 - first) * u64::from(digits + 1)
        })
        .sum()
}

/// `seq N` on a program's standard input.
fn fed_with_numbers(scene: &Scene, program: Program, n: u64) -> (Running, Running) {
    let (input, seq) = std::io::pipe().expect("a pipe");
    let seq = scene.program("seq").arg(n.to_string()).stdout(seq).start();
    let program = program.with(|program| {
        program.stdin(Stdio::from(input));
    });
    (program.start(), seq)
}

fn lines_through_filters(order: &[&str], lines: u64, stalled: bool) {
    let what = format!("run {order:?}, {lines} lines, stalled: {stalled}");
    let scene = Scene::new();
    let (output, to) = std::io::pipe().expect("a pipe");
    let run = scene
        .procession(["run", "-j2"])
        .args(order)
        .args(["--filter", "cat"])
        .stdout(to);
    let (run, seq) = fed_with_numbers(&scene, run, lines);
    let watch = Watch::over(&[run.pid()]);
    let reader = Reader::of(output);
    if stalled {
        watch.until_stable(&scene);
    }
    reader.start();
    run.wait().assert_success();
    seq.wait().assert_success();
    let (bytes, ordered) = reader.end();
    assert_eq!(bytes, length_of_seq(lines), "{what}");
    assert!(ordered || !order.contains(&"-k"), "{what}: not in order");
    watch.assert_bounded(&what);
    scene.assert_nothing_left();
}

#[test]
fn ten_million_lines_in_order_through_a_sink_that_stalls() {
    lines_through_filters(&["-k"], LINES, true);
}

#[test]
fn lines_in_any_order() {
    lines_through_filters(&[], FEWER_LINES, false);
}

#[test]
fn lines_in_any_order_through_a_sink_that_stalls() {
    lines_through_filters(&[], FEWER_LINES, true);
}

#[test]
fn lines_through_three_roles_of_which_the_sink_stalls() {
    for order in [&[][..], &["-k"]] {
        let scene = Scene::new();
        let endpoint = scene.ipc("jobs");
        let (output, to) = std::io::pipe().expect("a pipe");
        let sink = scene
            .procession(["sink", "--connect", &endpoint])
            .args(order)
            .stdout(to)
            .start();
        let workers = [(); 2].map(|()| {
            scene
                .procession(["worker", "--connect", &endpoint, "-j1"])
                .start()
        });
        let ventilator = scene
            .procession(["ventilator", "--bind", &endpoint])
            .args(["--filter", "cat"]);
        let (ventilator, seq) = fed_with_numbers(&scene, ventilator, FEWER_LINES);
        let pids = [
            ventilator.pid(),
            workers[0].pid(),
            workers[1].pid(),
            sink.pid(),
        ];
        let watch = Watch::over(&pids);
        let reader = Reader::of(output);
        watch.until_stable(&scene);
        reader.start();
        ventilator.wait().assert_success();
        seq.wait().assert_success();
        sink.wait().assert_success();
        for worker in workers {
            worker.wait().assert_success();
        }
        let (bytes, ordered) = reader.end();
        assert_eq!(bytes, length_of_seq(FEWER_LINES));
        assert!(ordered || order.is_empty(), "not in order");
        watch.assert_bounded(&format!("three roles {order:?}"));
        scene.assert_nothing_left();
    }
}

/// One task puts out a gigabyte; before it under `-k` there is another that ends after it.
fn a_gigabyte_of_output(order: &[&str], stalled: bool) {
    let what = format!("run {order:?}, a gigabyte, stalled: {stalled}");
    let _disk = DISK.lock().unwrap_or_else(PoisonError::into_inner);
    let scene = Scene::new();
    let (output, to) = std::io::pipe().expect("a pipe");
    let large = format!("head -c {OUTPUT} /dev/zero; touch done");
    let run = scene
        .procession(["run", "-j2"])
        .args(order)
        .args([":::", "until test -e done; do sleep 0.05; done", &large])
        .stdout(to)
        .start();
    let watch = Watch::over(&[run.pid()]);
    let reader = Reader::of(output);
    if stalled {
        scene.until_true("all is put out", || scene.path("done").exists());
        watch.until_stable(&scene);
    }
    reader.start();
    run.wait().assert_success();
    assert_eq!(reader.end().0, OUTPUT, "{what}");
    watch.assert_bounded(&what);
    scene.assert_nothing_left();
}

#[test]
fn a_gigabyte_of_one_task_in_order() {
    a_gigabyte_of_output(&["-k"], false);
}

#[test]
fn a_gigabyte_of_one_task_through_a_sink_that_stalls() {
    a_gigabyte_of_output(&[], true);
}

#[test]
fn a_gigabyte_of_one_task_through_three_roles_of_which_the_sink_stalls() {
    let _disk = DISK.lock().unwrap_or_else(PoisonError::into_inner);
    let scene = Scene::new();
    let endpoint = scene.ipc("jobs");
    let (output, to) = std::io::pipe().expect("a pipe");
    let sink = scene
        .procession(["sink", "--connect", &endpoint])
        .stdout(to)
        .start();
    let worker = scene
        .procession(["worker", "--connect", &endpoint, "-j1"])
        .start();
    let large = format!("head -c {OUTPUT} /dev/zero; touch done");
    let ventilator = scene
        .procession(["ventilator", "--bind", &endpoint, ":::", &large])
        .start();
    let watch = Watch::over(&[ventilator.pid(), worker.pid(), sink.pid()]);
    let reader = Reader::of(output);
    scene.until_true("all is put out", || scene.path("done").exists());
    watch.until_stable(&scene);
    reader.start();
    ventilator.wait().assert_success();
    sink.wait().assert_success();
    worker.wait().assert_success();
    assert_eq!(reader.end().0, OUTPUT);
    watch.assert_bounded("three roles, a gigabyte");
    scene.assert_nothing_left();
}

#[test]
fn a_line_that_never_ends_fails_its_task_and_not_the_memory() {
    let scene = Scene::new();
    let (input, to) = std::io::pipe().expect("a pipe");
    let writer = thread::spawn(move || {
        let mut to = to;
        let piece = vec![b'x'; 1 << 20];
        // It may be told early that nobody reads on.
        (0..200).all(|_| to.write_all(&piece).is_ok())
    });
    let run = scene
        .procession(["run", "echo"])
        .with(|run| {
            run.stdin(Stdio::from(input));
        })
        .start();
    let watch = Watch::over(&[run.pid()]);
    let run = run.wait();
    assert!(run.code().is_some_and(|code| code != 0), "{}", run.stderr);
    assert!(run.stderr.contains("--pipe"), "{}", run.stderr);
    let _ = writer.join();
    watch.assert_bounded("a line of 200 MiB");
    scene.assert_nothing_left();
}
