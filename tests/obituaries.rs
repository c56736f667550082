//! How a task died is told: by whom, where, in which attempt, of what, with its last words; and of all attempts that failed.

mod common;

use common::{Scene, signal, tcp};
use procession::pipeline::{Sink, Ventilator, Worker};
use rustix::process::Signal;
use serde_json::Value;

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn records(stdout: &[u8]) -> Vec<Value> {
    let lines = stdout
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty());
    lines
        .map(|line| serde_json::from_slice(line).expect("a JSON object"))
        .collect()
}

#[test]
fn each_failed_attempt_of_a_command_is_told() {
    let scene = Scene::new();
    let ended = scene
        .procession(["run", "-v", "--json", "--retries", "3"])
        .args([
            "echo words $PROCESSION_ATTEMPT >&2; [ $PROCESSION_ATTEMPT = 3 ] || exit 4",
            ":::",
            "a",
        ])
        .run();
    ended.assert_success();
    let records = records(&ended.stdout);
    assert_eq!(records.len(), 1);
    let failures = records[0]["failures"].as_array().expect("failures");
    assert_eq!(failures.len(), 2, "{failures:?}");
    for (failure, attempt) in failures.iter().zip(1..) {
        assert_eq!(failure["attempt"], attempt);
        assert_eq!(failure["exit"], 4);
        assert_eq!(failure["signal"], 0);
        assert_eq!(failure["worker"], records[0]["worker"]);
        assert_eq!(failure["host"], records[0]["host"]);
        assert_eq!(failure["stderr"], format!("words {attempt}"));
        assert_eq!(failure["out_of_memory"], false);
        assert!(failure["peak_memory"].as_u64() > Some(100_000), "{failure}");
        assert!(failure["seconds"].as_f64() > Some(0.0), "{failure}");
        assert!(failure["pid"].as_u64() > Some(1), "{failure}");
    }
    let said = &ended.stderr;
    assert!(
        said.contains("attempt 1 on ") && said.contains("last on stderr: words 2"),
        "{said}"
    );
}

#[test]
fn peak_memory_is_that_of_the_command() {
    let scene = Scene::new();
    let ended = scene
        // tail keeps it all, as there is no end of line in it.
        .procession([
            "run",
            "--json",
            "head -c 100000000 /dev/zero | tail -n1 >/dev/null; exit 1",
            ":::",
            "a",
        ])
        .run();
    assert_eq!(ended.code(), Some(1));
    let peak = records(&ended.stdout)[0]["failures"][0]["peak_memory"].as_u64();
    assert!(
        peak > Some(100_000_000) && peak < Some(400_000_000),
        "{peak:?}"
    );
}

#[test]
fn the_last_four_of_many_attempts_are_told() {
    let scene = Scene::new();
    let ended = scene
        .procession(["run", "--json", "--retries", "9", "kill -9 $$", ":::", "a"])
        .run();
    assert_eq!(ended.code(), Some(1));
    let record = &records(&ended.stdout)[0];
    let failures = record["failures"].as_array().expect("failures");
    let attempts: Vec<u64> = failures
        .iter()
        .filter_map(|one| one["attempt"].as_u64())
        .collect();
    assert_eq!(attempts, [6, 7, 8, 9]);
    assert!(failures.iter().all(|one| one["signal"] == 9), "{record}");
}

#[test]
fn a_worker_that_died_is_told_with_what_became_of_the_task_elsewhere() {
    let scene = Scene::new();
    let endpoint = tcp();
    let ventilator = scene
        .procession(["ventilator", "--bind", &endpoint, "-v"])
        .args([
            "[ $PROCESSION_ATTEMPT != 1 ] || { touch began; sleep 600; }; echo done",
            ":::",
            "a",
        ])
        .start();
    let sink = scene
        .procession(["sink", "--connect", &endpoint, "--json"])
        .start();
    let mut first = scene.procession(["worker", "--connect", &endpoint]).start();
    scene.until_true("the task begins", || scene.path("began").exists());
    scene.until("it is known to run", || {
        (scene.status(&endpoint)?["running"] == 1).then_some(())
    });
    let pid = first.pid();
    first.kill();
    let second = scene.procession(["worker", "--connect", &endpoint]).start();
    let ended = sink.wait();
    ended.assert_success();
    let record = &records(&ended.stdout)[0];
    assert_eq!(record["exit"], 0);
    let failures = record["failures"].as_array().expect("failures");
    assert_eq!(failures.len(), 1, "{record}");
    assert_eq!(failures[0]["attempt"], 1);
    assert_eq!(failures[0]["pid"], pid);
    assert_eq!(failures[0]["cause"], "its worker died");
    assert_ne!(failures[0]["worker"], record["worker"]);
    second.wait().assert_success();
    let ended = ventilator.wait();
    ended.assert_success();
    assert!(
        ended.stderr.contains("task 1: attempt 1 on "),
        "{}",
        ended.stderr
    );
}

#[test]
fn a_command_that_the_kernel_killed_for_want_of_memory_is_told_as_such() {
    let Some(group) = MemoryGroup::new(96 << 20) else {
        eprintln!("not run: no memory cgroup can be made here (it needs root)");
        return;
    };
    let scene = Scene::new();
    // The shell puts itself into the group, and with it all that it becomes.
    let script = format!(
        "echo $$ > {}/cgroup.procs && exec {} run -j1 --json ': {{}}; head -c 1G /dev/zero | tail -n1 >/dev/null' ::: a",
        group.path.display(),
        env!("CARGO_BIN_EXE_procession")
    );
    let ended = scene.program("sh").args(["-c", &script]).run();
    assert_eq!(ended.code(), Some(1), "{}", ended.stderr);
    let record = &records(&ended.stdout)[0];
    assert_eq!(record["failures"][0]["out_of_memory"], true, "{record}");
    // A kill of somebody else's is none of the kernel's.
    let ended = scene
        .procession(["run", "--json", "kill -9 $$", ":::", "a"])
        .run();
    assert_eq!(
        records(&ended.stdout)[0]["failures"][0]["out_of_memory"],
        false
    );
}

/// A memory cgroup with a limit, of either version; removed in the end.
struct MemoryGroup {
    path: std::path::PathBuf,
}

impl MemoryGroup {
    fn new(limit: u64) -> Option<Self> {
        let name = format!("procession-test-{}", std::process::id());
        let roots = [
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            ("/sys/fs/cgroup", "memory.max"),
        ];
        roots.iter().find_map(|(root, file)| {
            let path = std::path::Path::new(root).join(&name);
            std::fs::create_dir(&path).ok()?;
            let group = Self { path };
            std::fs::write(group.path.join(file), limit.to_string()).ok()?;
            // Swapping would put the end off; not every kernel counts it.
            let _ = std::fs::write(group.path.join("memory.swap.max"), "0");
            let _ = std::fs::write(
                group.path.join("memory.memsw.limit_in_bytes"),
                limit.to_string(),
            );
            Some(group)
        })
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        for _ in 0..100 {
            if std::fs::remove_dir(&self.path).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

#[test]
fn an_error_of_the_library_has_all_failed_attempts() -> Outcome {
    let endpoint = "inproc://obituaries";
    let ventilator: Ventilator<u32> = Ventilator::<()>::builder(endpoint).tries(2).start()?;
    let worker = std::thread::spawn(move || {
        Worker::connect(endpoint)?.try_run(|task: u32| match task {
            1 => Err(format!("no {task}")),
            _ => Ok(task),
        })
    });
    let mut sink: Sink<u32> = Sink::connect(endpoint)?;
    ventilator.put(1)?;
    ventilator.put(2)?;
    let ended = std::thread::spawn(move || ventilator.finish());
    let mut failed = 0;
    while let Some(outcome) = sink.get()? {
        match outcome.result {
            Ok(value) => assert_eq!((value, outcome.obituaries.len()), (2, 0)),
            Err(error) => {
                failed += 1;
                assert_eq!(error.message, "no 1");
                let attempts: Vec<u32> = error.obituaries.iter().map(|one| one.attempt).collect();
                assert_eq!(attempts, [1, 2]);
                for obituary in &error.obituaries {
                    assert_eq!(obituary.worker, outcome.worker);
                    assert_eq!(obituary.pid, std::process::id());
                    assert_eq!(obituary.cause, "no 1");
                    assert!(!obituary.host.is_empty());
                }
                assert_eq!(error.obituaries, outcome.obituaries);
            }
        }
    }
    assert_eq!(failed, 1);
    ended.join().map_err(|_| "the ventilator panicked")??;
    worker.join().map_err(|_| "the worker panicked")??;
    Ok(())
}

#[test]
fn obituaries_outlive_the_sink_that_was_to_get_them() {
    let scene = Scene::new();
    let endpoint = tcp();
    let ventilator = scene
        .procession(["ventilator", "--bind", &endpoint, "--retries", "2"])
        .args(["echo $PROCESSION_ATTEMPT >> attempts; exit 3", ":::", "a"])
        .start();
    let worker = scene.procession(["worker", "--connect", &endpoint]).start();
    // The result waits at the worker.
    scene.until_true("both attempts are over", || {
        std::fs::read(scene.path("attempts")).is_ok_and(|text| text == b"1\n2\n")
    });
    let stopped = scene
        .procession(["sink", "--connect", &endpoint, "--json", "--bind", &tcp()])
        .start();
    signal(stopped.pid(), Signal::KILL);
    drop(stopped.wait());
    let sink = scene
        .procession(["sink", "--connect", &endpoint, "--json"])
        .start();
    let ended = sink.wait();
    let record = &records(&ended.stdout)[0];
    assert_eq!(
        record["failures"].as_array().map(Vec::len),
        Some(2),
        "{record}"
    );
    assert_eq!(ventilator.wait().code(), Some(1));
    worker.wait().assert_success();
}
