//! The examples of processes, run as programs: `#[procession::main]`, both ways to make a process, daemons, and how programs end.
//!
//! They are built by `cargo test`; for this file alone, `cargo build --examples` comes first.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process_group};

/// Ends a test that hangs; far more than any of them takes.
const DEADLINE: Duration = Duration::from_secs(240);

fn example(name: &str) -> Command {
    let tests = std::env::current_exe().expect("this program has a path");
    let built: Option<PathBuf> = tests.ancestors().nth(2).map(|dir| dir.join("examples"));
    let program = built.expect("it is in target/PROFILE/deps").join(name);
    assert!(
        program.exists(),
        "{} is not there: cargo build --examples",
        program.display()
    );
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).env_remove("RUST_BACKTRACE");
    command
}

/// Runs it to its end, and until nobody holds its standard output any more: so no child of it is left.
fn run(command: &mut Command) -> Output {
    let (mut out, writer) = std::io::pipe().expect("a pipe");
    let mut child = command
        .stdout(writer)
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    // The command keeps the writing end.
    command.stdout(Stdio::null());
    let mut stdout = Vec::new();
    let end = std::time::Instant::now() + DEADLINE;
    loop {
        let left = end.saturating_duration_since(std::time::Instant::now());
        let timeout = Timespec {
            tv_sec: left.as_secs() as _,
            tv_nsec: left.subsec_nanos().into(),
        };
        let mut fds = [PollFd::new(&out, PollFlags::IN)];
        if poll(&mut fds, Some(&timeout)).expect("poll") == 0 {
            let _ = child.kill();
            panic!("it hangs; it said {}", String::from_utf8_lossy(&stdout));
        }
        let mut buffer = [0; 4096];
        match out.read(&mut buffer).expect("a pipe can be read") {
            0 => break,
            read => stdout.extend_from_slice(&buffer[..read]),
        }
    }
    let mut ended = child.wait_with_output().expect("it ends");
    ended.stdout = stdout;
    ended
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn clocks_are_a_function_and_a_type() {
    let ended = run(example("clock").args(["2", "0.01"]));
    let out = text(&ended.stdout);
    assert!(ended.status.success(), "{out}{}", text(&ended.stderr));
    let times = |start: &str| out.lines().filter(|line| line.starts_with(start)).count();
    assert_eq!(times("Process-1: the time is "), 2, "{out}");
    assert_eq!(times("ClockProcess-2: the time is "), 2, "{out}");
    assert_eq!(times("Process-1 told the time 2 times"), 1, "{out}");
    assert_eq!(times("ClockProcess-2 told the time 2 times"), 1, "{out}");
}

#[test]
fn daemons_end_with_main_and_others_are_joined() {
    let ended = run(&mut example("daemon"));
    let out = text(&ended.stdout);
    assert!(ended.status.success(), "{out}{}", text(&ended.stderr));
    for line in ["joined daemon: done", "worker: done", "main: done"] {
        assert!(out.contains(line), "{line}: {out}");
    }
    assert!(!out.contains("forgotten daemon: done"), "{out}");
    assert!(out.contains("a daemon may have no children"), "{out}");
}

#[test]
fn however_main_ends_nobody_is_left_and_workers_are_joined_if_that_can_be() {
    for (way, code, is_joined, said) in [
        ("return", Some(0), true, ""),
        ("error", Some(1), true, "endings: error: no more of this\n"),
        ("code", Some(42), true, ""),
        ("panic", Some(101), true, "all is lost"),
        ("exit", Some(7), false, ""),
        ("killed", None, false, ""),
    ] {
        let ended = run(example("endings").arg(way));
        let (out, err) = (text(&ended.stdout), text(&ended.stderr));
        assert_eq!(ended.status.code(), code, "{way}: {out}{err}");
        assert_eq!(out.contains("worker: done"), is_joined, "{way}: {out}{err}");
        assert!(!out.contains("daemon: done"), "{way}: {out}{err}");
        assert!(err.contains(said), "{way}: {err}");
        assert!(said.contains("lost") || err == said, "{way}: {err}");
    }
}

#[test]
fn children_are_joined_where_the_system_reaps_them_by_itself() {
    let endings = example("endings");
    let ignores = "trap '' CHLD; exec \"$0\" return";
    let ended = run(Command::new("sh")
        .args(["-c", ignores])
        .arg(endings.get_program()));
    let (out, err) = (text(&ended.stdout), text(&ended.stderr));
    assert!(
        ended.status.success() && out.contains("worker: done"),
        "{out}{err}"
    );
    assert!(!out.contains("daemon: done"), "{out}{err}");
}

#[test]
fn ctrl_c_reaches_parent_and_children() {
    // Whoever starts tests in the background may have the signal ignored, and that is inherited.
    let mut command = std::process::Command::new("env");
    command
        .arg("--default-signal=INT")
        .arg(example("clock").get_program());
    let (out, writer) = std::io::pipe().expect("a pipe");
    let mut clock = command
        .args(["1000000", "3600"])
        .process_group(0)
        .stdout(writer)
        .spawn()
        .expect("it starts");
    command.stdout(Stdio::null());
    let mut lines = BufReader::new(out).lines();
    for _ in 0..2 {
        let line = lines.next().expect("a clock tells the time").expect("text");
        assert!(line.contains("the time is"), "{line}");
    }
    kill_process_group(Pid::from_child(&clock), Signal::INT).expect("it is there");
    let status = clock.wait().expect("it ends");
    assert_eq!(status.signal(), Some(2));
    assert_eq!(lines.count(), 0, "until nobody holds its output");
}

#[test]
fn a_lock_of_processes_loses_nothing_in_either_form_and_is_released_by_a_panic_and_a_kill() {
    let ended = run(&mut example("lock_processes"));
    let out = text(&ended.stdout);
    assert!(ended.status.success(), "{out}{}", text(&ended.stderr));
    for line in [
        "counted 2000",
        "in the critical section",
        "locked after the panic: false",
        "locked by the one that stays: true",
        "a holder was killed: true",
        "another process's release: this thread does not hold the lock",
    ] {
        assert!(out.contains(line), "{line}: {out}");
    }
}

#[test]
fn a_semaphore_of_processes_keeps_its_number_when_one_is_killed() {
    let ended = run(&mut example("semaphore"));
    let out = text(&ended.stdout);
    assert!(ended.status.success(), "{out}{}", text(&ended.stderr));
    for line in [
        "six came, two at a time",
        "one has all: true",
        "given back after it was killed: true",
        "units: 2",
        "one release too many: the semaphore was released more often than it was acquired",
        "heard 3 signals",
    ] {
        assert!(out.contains(line), "{line}: {out}");
    }
}
