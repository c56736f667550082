//! With `--journal`, what was killed goes on where it was: nothing is lost, doubled, or done again.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use common::{Program, Running, Scene, assert_each_once, joblog, numbers, tcp};
use procession::pipeline::{Journal, Sink, Ventilator, Worker};

/// Standard output as `>> FILE` makes it.
fn appending(path: &Path) -> fs::File {
    OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)
        .expect("a file to append to")
}

/// The lines of a file that are whole.
fn lines(path: &Path) -> Vec<String> {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(str::to_owned).collect()
}

/// Starts it again and again, and kills it when `done` has grown by `step` since, `times` times; then it runs to its end.
fn killed_again_and_again(
    scene: &Scene,
    times: usize,
    step: usize,
    done: impl Fn() -> usize,
    start: impl Fn() -> Running,
) -> Running {
    for _ in 0..times {
        let before = done();
        let mut running = start();
        scene.until_true("something is done", || {
            assert!(
                running.is_running(),
                "it ended: {}",
                running.stderr_so_far()
            );
            done() >= before + step
        });
        running.kill();
    }
    start()
}

fn assert_log_and_results(scene: &Scene, tasks: u64) {
    let logged = joblog(&scene.path("log"));
    assert_each_once("log", logged.iter().map(|line| line.seq), 1..=tasks);
    let commands = logged.iter().map(|line| line.command.clone());
    assert_each_once("commands", commands, {
        let mut all: Vec<String> = logged.iter().map(|line| line.command.clone()).collect();
        all.sort();
        all.dedup();
        all
    });
    let found = fs::read_dir(scene.path("out/1"))
        .expect("results")
        .flatten();
    let found = found.map(|entry| {
        let read = |name: &str| fs::read_to_string(entry.path().join(name)).expect("a file");
        let value = entry.file_name().to_string_lossy().into_owned();
        assert_eq!(read("stdout"), format!("{value}\n"));
        assert!(!read("seq").is_empty());
        value.parse::<u64>().expect("a number")
    });
    assert_each_once("results", found, 1..=tasks);
}

const COMMAND: &str = "sleep 0.002; echo {}";

fn run(scene: &Scene, tasks: u64, more: &[&str]) -> Program {
    let options = [
        "run",
        "--journal",
        "journal",
        "--joblog",
        "log",
        "--results",
        "out",
        "-j4",
    ];
    scene
        .procession(options)
        .args(more)
        .arg(COMMAND)
        .input(numbers(tasks))
        .stdout(appending(&scene.path("stdout")))
}

#[test]
fn a_run_that_is_killed_again_and_again_loses_and_doubles_nothing() {
    let scene = Scene::new();
    let log = scene.path("log");
    let last = killed_again_and_again(
        &scene,
        8,
        90,
        || joblog(&log).len(),
        || run(&scene, 1_200, &["--json"]).start(),
    );
    let ended = last.wait();
    ended.assert_success();
    assert!(
        ended.stderr.contains("going on with journal"),
        "{}",
        ended.stderr
    );
    assert_log_and_results(&scene, 1_200);
    // A record may be there twice, with the same id and the same answer; none is missing.
    let mut answers: BTreeMap<u64, BTreeSet<String>> = BTreeMap::new();
    for line in lines(&scene.path("stdout")) {
        // One was cut where the run was killed, and the next begins behind it.
        let Ok(record) = serde_json::from_str::<serde_json::Value>(&line) else {
            continue;
        };
        let id = record["id"].as_u64().expect("an id");
        let input = record["input"].to_string();
        answers.entry(id).or_default().insert(input);
    }
    assert_each_once("ids", answers.keys().copied(), 1..=1_200);
    assert!(
        answers.values().all(|inputs| inputs.len() == 1),
        "one input for each id"
    );
    scene.assert_nothing_left();
}

#[test]
fn a_run_that_keeps_order_may_be_killed_too() {
    let scene = Scene::new();
    let log = scene.path("log");
    let last = killed_again_and_again(
        &scene,
        4,
        60,
        || joblog(&log).len(),
        || run(&scene, 600, &["-k"]).start(),
    );
    last.wait().assert_success();
    assert_log_and_results(&scene, 600);
    let seqs: Vec<u64> = joblog(&log).iter().map(|line| line.seq).collect();
    assert_eq!(seqs, (1..=600).collect::<Vec<_>>());
}

#[test]
fn blocks_of_a_file_are_known_by_their_content() {
    let scene = Scene::new();
    fs::write(scene.path("in"), numbers(20_000)).expect("an input");
    let start = || {
        scene
            .procession([
                "run",
                "--journal",
                "journal",
                "--joblog",
                "log",
                "-j2",
                "-a",
                "in",
            ])
            .args(["--pipe", "--block", "1k", "sleep 0.01; cat >> all"])
            .start()
    };
    let log = scene.path("log");
    let last = killed_again_and_again(&scene, 3, 12, || joblog(&log).len(), start);
    last.wait().assert_success();
    let seqs = joblog(&log).into_iter().map(|line| line.seq);
    let blocks = seqs.clone().max().expect("a block");
    assert_each_once("blocks", seqs, 1..=blocks);
    let all: BTreeSet<String> = lines(&scene.path("all")).into_iter().collect();
    assert_eq!(all.len(), 20_000, "each line went into some command");
}

fn three_roles(endpoint: &str, scene: &Scene) {
    const TASKS: u64 = 1_000;
    let start = || {
        scene
            .procession(["ventilator", "--bind", endpoint, "--journal", "journal"])
            .args(["--heartbeat", "0.5", "sleep 0.003; echo {} >> ran; echo {}"])
            .input(numbers(TASKS))
            .start()
    };
    let worker = || {
        scene
            .procession(["worker", "--connect", endpoint, "-j2"])
            .start()
    };
    let workers = [worker(), worker()];
    let sink = scene
        .procession([
            "sink",
            "--connect",
            endpoint,
            "--joblog",
            "log",
            "--results",
            "out",
        ])
        .start();
    let log = scene.path("log");
    let last = killed_again_and_again(scene, 4, 120, || joblog(&log).len(), start);
    let ended = last.wait();
    ended.assert_success();
    for other in workers.into_iter().chain([sink]) {
        let ended = other.wait();
        ended.assert_success();
        assert!(
            ended.stderr.contains("lost the ventilator"),
            "{}",
            ended.stderr
        );
    }
    assert_log_and_results(scene, TASKS);
    scene.assert_nothing_left();
}

#[test]
fn workers_and_sink_go_on_with_a_ventilator_that_is_started_again_over_ipc() {
    let scene = Scene::new();
    three_roles(&scene.ipc("v"), &scene);
}

#[test]
fn workers_and_sink_go_on_with_a_ventilator_that_is_started_again_over_tcp() {
    let scene = Scene::new();
    three_roles(&tcp(), &scene);
}

#[test]
fn what_a_worker_holds_or_has_finished_is_not_done_again_by_another() {
    let scene = Scene::new();
    let endpoint = scene.ipc("v");
    let start = || {
        scene
            .procession(["ventilator", "--bind", &endpoint, "--journal", "journal"])
            .arg("echo {} >> ran; while ! [ -e go ]; do sleep 0.02; done; echo {}")
            .input(numbers(12))
            .start()
    };
    let mut first = start();
    let worker = |jobs: &str| {
        scene
            .procession(["worker", "--connect", &endpoint, jobs])
            .start()
    };
    let workers = [worker("-j2"), worker("-j2")];
    scene.until_true("four run", || lines(&scene.path("ran")).len() == 4);
    first.kill();
    // They end while nobody is there to hear of it.
    fs::write(scene.path("go"), "").expect("a file");
    let second = start();
    let sink = scene.procession(["sink", "--connect", &endpoint]).start();
    second.wait().assert_success();
    let ended = sink.wait();
    ended.assert_success();
    let output = ended.text();
    let output = output.lines().map(str::to_owned);
    assert_each_once("output", output, (1..=12).map(|n| n.to_string()));
    for worker in workers {
        worker.wait().assert_success();
    }
    let ran = lines(&scene.path("ran")).into_iter();
    assert_each_once("runs", ran, (1..=12).map(|n| n.to_string()));
}

#[test]
fn a_killed_sink_goes_on_with_its_journal_alone() {
    const TASKS: u64 = 800;
    let scene = Scene::new();
    let endpoint = scene.ipc("v");
    let ventilator = scene
        .procession([
            "ventilator",
            "--bind",
            &endpoint,
            "--journal",
            "tasks",
            COMMAND,
        ])
        .input(numbers(TASKS))
        .start();
    let worker = scene
        .procession(["worker", "--connect", &endpoint, "-j4"])
        .start();
    let out = scene.path("stdout");
    let start = || {
        scene
            .procession([
                "sink",
                "--connect",
                &endpoint,
                "--journal",
                "kept",
                "--json",
            ])
            .stdout(appending(&out))
            .start()
    };
    let last = killed_again_and_again(&scene, 4, 100, || lines(&out).len(), start);
    last.wait().assert_success();
    ventilator.wait().assert_success();
    worker.wait().assert_success();
    let ids: BTreeSet<u64> = lines(&out)
        .iter()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|record| record["id"].as_u64())
        .collect();
    assert_each_once("ids", ids, 1..=TASKS);
    let again = start().wait();
    again.assert_success();
    assert!(again.stderr.contains("all 800 done at"), "{}", again.stderr);
}

#[test]
fn ventilator_and_sink_may_be_killed_together() {
    const TASKS: u64 = 900;
    let scene = Scene::new();
    let endpoint = scene.ipc("v");
    let ventilator = || {
        scene
            .procession(["ventilator", "--bind", &endpoint, "--journal", "tasks"])
            .args(["--heartbeat", "0.5", COMMAND])
            .input(numbers(TASKS))
            .start()
    };
    let sink = || {
        scene
            .procession(["sink", "--connect", &endpoint, "--journal", "kept"])
            .args(["--joblog", "log", "--results", "out"])
            .start()
    };
    let worker = scene
        .procession(["worker", "--connect", &endpoint, "-j4"])
        .start();
    let log = scene.path("log");
    for round in 0..4 {
        let before = joblog(&log).len();
        let mut both = [ventilator(), sink()];
        scene.until_true("the log grows", || joblog(&log).len() >= before + 100);
        if round % 2 == 0 {
            both.reverse();
        }
        both.iter_mut().for_each(Running::kill);
    }
    let last = [ventilator(), sink()];
    for role in last {
        role.wait().assert_success();
    }
    worker.wait().assert_success();
    assert_log_and_results(&scene, TASKS);
}

#[test]
fn tasks_are_known_by_content_and_by_how_often_it_came() {
    let scene = Scene::new();
    let start = |input: &str| {
        scene
            .procession(["run", "--journal", "journal", "--joblog", "log", "-j1"])
            .arg("[ {} = stop ] && while ! [ -e go ]; do sleep 0.02; done; echo {} >> ran")
            .input(input)
            .start()
    };
    let log = scene.path("log");
    let mut first = start("a\nb\na\nstop\nc\n");
    scene.until_true("three are done", || joblog(&log).len() == 3);
    first.kill();
    fs::write(scene.path("go"), "").expect("a file");
    // In another order, with one more of a, and something new.
    let last = start("c\na\nd\na\nstop\nb\na\n").wait();
    last.assert_success();
    let ran = lines(&scene.path("ran"));
    let mut sorted = ran.clone();
    sorted.sort();
    assert_eq!(sorted, ["a", "a", "a", "b", "c", "d", "stop"], "{ran:?}");
    let seqs = joblog(&log).into_iter().map(|line| line.seq);
    assert_each_once("log", seqs, 1..=7);
}

#[test]
fn a_finished_journal_says_so_and_gives_the_old_exit_code() {
    let scene = Scene::new();
    let start = || {
        scene
            .procession([
                "run",
                "--journal",
                "journal",
                "echo {} >> ran; [ {} -lt 9 ]",
            ])
            .input(numbers(10))
            .run()
    };
    start().assert_code(2);
    let again = start();
    again.assert_code(2);
    assert!(
        again.stderr.contains("all 10 done at 20")
            && again.stderr.contains("remove journal to run again"),
        "{}",
        again.stderr
    );
    assert_eq!(lines(&scene.path("ran")).len(), 10);
}

#[test]
fn failures_of_earlier_lives_count_in_the_exit_code() {
    let scene = Scene::new();
    let start = || {
        scene
            .procession(["run", "--journal", "journal", "--joblog", "log", "-j1"])
            .arg("[ {} = 5 ] && while ! [ -e go ]; do sleep 0.02; done; [ {} -gt 3 ]")
            .input(numbers(6))
            .start()
    };
    let log = scene.path("log");
    let mut first = start();
    scene.until_true("four are done", || joblog(&log).len() == 4);
    first.kill();
    fs::write(scene.path("go"), "").expect("a file");
    start().wait().assert_code(3);
}

#[test]
fn tries_go_on_counting() {
    let scene = Scene::new();
    let start = || {
        scene
            .procession(["run", "--journal", "journal", "--retries", "4", "-j1"])
            .arg("echo $PROCESSION_ATTEMPT >> ran; [ -e go ] || exec sleep 0.05; false {}")
            .input("x\n")
            .start()
    };
    let mut first = start();
    scene.until_true("it was tried", || !lines(&scene.path("ran")).is_empty());
    first.kill();
    fs::write(scene.path("go"), "").expect("a file");
    start().wait();
    let ran = lines(&scene.path("ran"));
    let attempts: Vec<u32> = ran.iter().map(|n| n.parse().expect("a number")).collect();
    assert!(attempts.is_sorted(), "{attempts:?}");
}

#[test]
fn a_journal_that_cannot_be_used_is_refused_and_left_as_it_is() {
    let scene = Scene::new();
    let refused = |args: &[&str], words: &[&str]| {
        let ended = scene.procession(args).input("1\n").run();
        ended.assert_code(255);
        for word in words {
            assert!(ended.stderr.contains(word), "{word:?} in: {}", ended.stderr);
        }
    };
    let made = ["run", "--journal", "journal", "echo", "a b"];
    scene.procession(made).input("1\n").run().assert_success();
    let other = "it is the journal of `run echo \"a b\"`";
    refused(
        &["run", "--journal", "journal", "cat"],
        &["journal journal", other, "`run cat`"],
    );
    refused(
        &["run", "--journal", "journal", "--filter", "cat"],
        &[other],
    );
    refused(
        &[
            "sink",
            "--journal",
            "journal",
            "--connect",
            "ipc:///tmp/nobody",
        ],
        &[other, "`sink`"],
    );
    fs::write(scene.path("text"), "my thesis\n").expect("a file");
    refused(
        &["run", "--journal", "text", "echo"],
        &["it is no journal of procession's"],
    );
    assert_eq!(lines(&scene.path("text")), ["my thesis"]);
    let foreign = rusqlite::Connection::open(scene.path("foreign")).expect("a database");
    foreign
        .execute_batch("CREATE TABLE mine (a)")
        .expect("a table");
    drop(foreign);
    let before = fs::read(scene.path("foreign")).expect("a file");
    refused(
        &["run", "--journal", "foreign", "echo"],
        &["it is no journal of procession's"],
    );
    assert_eq!(fs::read(scene.path("foreign")).expect("a file"), before);
    refused(
        &["run", "--journal", "no/such/folder", "echo"],
        &["cannot be opened"],
    );
    refused(
        &["run", "--journal", "/dev/null", "echo"],
        &["journal /dev/null"],
    );
    let newer = rusqlite::Connection::open(scene.path("journal")).expect("a database");
    newer
        .pragma_update(None, "user_version", 99)
        .expect("a number");
    drop(newer);
    refused(&made, &["it has format 99"]);
    let damaged = scene.path("journal");
    let mut bytes = fs::read(&damaged).expect("a file");
    bytes[100..].fill(0xaa);
    fs::write(&damaged, bytes).expect("a file");
    refused(&made, &["damaged"]);
    refused(&["run", "--journal-sync", "echo"], &["--journal"]);
}

#[test]
fn a_journal_that_a_living_process_has_is_refused() {
    let scene = Scene::new();
    let args = ["run", "--journal", "journal", "--joblog", "log", "echo"];
    let mut first = scene.procession(args).open_input().start();
    scene.until_true("it has begun", || scene.path("log").exists());
    let second = scene.procession(args).input("1\n").run();
    second.assert_code(255);
    assert!(
        second.stderr.contains("another process has it"),
        "{}",
        second.stderr
    );
    drop(first.stdin.take());
    first.wait().assert_success();
}

#[test]
fn a_journal_that_is_read_only_is_refused() {
    let scene = Scene::new();
    let made = scene
        .procession(["run", "--journal", "journal", "echo"])
        .input("1\n")
        .run();
    made.assert_success();
    let mut mode = fs::metadata(scene.path("journal"))
        .expect("a file")
        .permissions();
    mode.set_mode(0o400);
    fs::set_permissions(scene.path("journal"), mode).expect("a mode");
    if OpenOptions::new()
        .write(true)
        .open(scene.path("journal"))
        .is_ok()
    {
        // Whoever runs this may write all files.
        return;
    }
    let again = scene
        .procession(["run", "--journal", "journal", "echo"])
        .input("1\n")
        .run();
    again.assert_code(255);
    assert!(
        again.stderr.contains("cannot be written"),
        "{}",
        again.stderr
    );
}

#[test]
fn a_cut_transaction_is_left_out_and_its_tasks_are_done() {
    let scene = Scene::new();
    let log = scene.path("log");
    for cut in [1, 100, 5_000, 20_000] {
        for file in ["journal", "journal-wal", "log", "out", "stdout"] {
            let path = scene.path(file);
            let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path));
        }
        let mut first = run(&scene, 300, &[]).start();
        scene.until_true("some are done", || joblog(&log).len() >= 100);
        first.kill();
        let wal = OpenOptions::new()
            .write(true)
            .open(scene.path("journal-wal"))
            .expect("a log of transactions");
        let len = wal.metadata().expect("its size").len();
        wal.set_len(len.saturating_sub(cut)).expect("a cut file");
        // And half a line in the joblog.
        let mut text = fs::read(&log).expect("a log");
        let whole = text
            .iter()
            .rposition(|byte| *byte == b'\n')
            .expect("a line");
        text.truncate(whole + 1);
        text.extend_from_slice(b"301\t:\t1764");
        fs::write(&log, text).expect("a log");
        let last = run(&scene, 300, &[]).run();
        last.assert_success();
        assert!(last.stderr.contains("half-written"), "{}", last.stderr);
        assert_log_and_results(&scene, 300);
    }
}

#[test]
fn a_full_disk_ends_the_run_with_an_error_and_loses_nothing() {
    let scene = Scene::new();
    let binary = env!("CARGO_BIN_EXE_procession");
    let log = scene.path("log");
    let start = |limit: &str| {
        // Files of so many KiB at most; the error instead of the signal.
        scene
            .program("bash")
            .args(["-c", &format!("trap '' XFSZ; ulimit -f {limit}; exec {binary} run --journal journal --results out --filter cat")])
            .input(numbers(5_000))
            .run()
    };
    let full = start("60");
    full.assert_code(255);
    assert!(full.stderr.contains("journal journal:"), "{}", full.stderr);
    start("unlimited").assert_success();
    assert!(!log.exists());
    let results = fs::read_dir(scene.path("out/1")).expect("results").count();
    assert_eq!(results, 5_000);
}

#[test]
fn a_programs_own_pipeline_goes_on_with_its_journal() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("journal");
    let mut seen = Vec::new();
    for life in 0..3 {
        let endpoint = format!("inproc://life-{life}");
        let journal = Journal::open(&file, "squares").expect("a journal");
        assert_eq!(journal.done_before(), seen.len() as u64);
        assert!(journal.finished().expect("a readable journal").is_none());
        let ventilator = Ventilator::<()>::builder(&endpoint)
            .journal(&journal)
            .start::<u64>()
            .expect("a ventilator");
        let at = endpoint.clone();
        let worker = std::thread::spawn(move || Worker::connect(&at)?.run(|n: u64| n * n));
        let mut sink = Sink::<()>::builder()
            .journal(&journal)
            .connect::<u64>(&endpoint)
            .expect("a sink");
        for n in 0..1_000_u64 {
            ventilator.put(n % 500).expect("a ventilator that takes it");
            if n % 3 == 0 {
                while let procession::pipeline::Got::Outcome(outcome) =
                    sink.try_get().expect("a sink")
                {
                    seen.push(outcome.id);
                }
            }
            if life < 2 && n == 300 * (life + 1) {
                break;
            }
        }
        if life < 2 {
            // As by Ctrl-C: what runs may finish.
            ventilator.handle().halt(2);
            while let Some(outcome) = sink.get().expect("a sink") {
                seen.push(outcome.id);
            }
            drop(sink);
            ventilator.wait().expect("a run that was stopped");
        } else {
            let handle = std::thread::spawn(move || ventilator.finish());
            while let Some(outcome) = sink.get().expect("a sink") {
                seen.push(outcome.id);
            }
            drop(sink);
            let summary = handle.join().expect("no panic").expect("a run");
            assert_eq!((summary.done, summary.unread), (1_000, 0));
            journal.finish(0).expect("a journal");
        }
        let _ = worker.join().expect("no panic");
        // What was given and not asked beyond is not kept: it comes again.
        let kept = Journal::open(&file, "squares");
        assert!(kept.is_err() || life == 2, "this handle still has it");
        drop(journal);
        let journal = Journal::open(&file, "squares").expect("a journal");
        seen.truncate(journal.done_before() as usize);
    }
    assert_each_once("results", seen, 1..=1_000);
}

fn resumed(scene: &Scene, input: &str, options: &[&str]) -> common::Ended {
    scene
        .procession(["run", "--joblog", "log", "-j1"])
        .args(options)
        .arg("echo {} >> ran; [ -e go ] || [ {} != bad ]")
        .input(input)
        .run()
}

#[test]
fn resume_passes_over_what_the_joblog_has_wherever_it_stands() {
    let scene = Scene::new();
    resumed(&scene, "a\nb\nbad\na\n", &[]).assert_code(1);
    fs::write(scene.path("go"), "").expect("a file");
    // One a more, and in another order; what failed is done, and counts.
    let ended = resumed(&scene, "new\nbad\na\na\nb\na\n", &["--resume", "-k"]);
    ended.assert_code(1);
    let ran = lines(&scene.path("ran"));
    assert_eq!(ran, ["a", "b", "bad", "a", "new", "a"]);
    let seqs = joblog(&scene.path("log")).into_iter().map(|line| line.seq);
    assert_each_once("numbers", seqs, 1..=6);
    // And again: nothing is left.
    resumed(&scene, "new\nbad\na\na\nb\na\n", &["--resume"]).assert_code(1);
    assert_eq!(lines(&scene.path("ran")).len(), 6);
    // The failed one, under its number.
    resumed(&scene, "bad\nnew\n", &["--retry-failed"]).assert_success();
    assert_eq!(lines(&scene.path("ran"))[6..], ["bad"]);
    let last = joblog(&scene.path("log")).pop().expect("a line");
    assert_eq!((last.seq, last.exit), (3, 0));
    resumed(&scene, "bad\nnew\n", &["--retry-failed"]).assert_success();
    assert_eq!(lines(&scene.path("ran")).len(), 7);
}

#[test]
fn a_joblog_of_another_command_is_refused_and_half_a_line_is_left_out() {
    let scene = Scene::new();
    let run = |options: &[&str]| {
        scene
            .procession(["run", "--joblog", "log"])
            .args(options)
            .input(numbers(3))
            .run()
    };
    run(&["echo", "one"]).assert_success();
    let before = fs::read(scene.path("log")).expect("a log");
    let other = run(&["--resume", "echo", "two"]);
    other.assert_code(255);
    let said = "line 2 of joblog log is of another command: `echo one";
    assert!(other.stderr.contains(said), "{}", other.stderr);
    assert_eq!(fs::read(scene.path("log")).expect("a log"), before);
    for (options, word) in [
        (["--resume", "--pipe", "cat"], "--pipe"),
        (["--resume", "echo", "{%}"], "--journal"),
    ] {
        let refused = run(&options);
        refused.assert_code(255);
        assert!(refused.stderr.contains(word), "{}", refused.stderr);
    }
    fs::write(scene.path("log"), &before[..before.len() - 4]).expect("a cut log");
    let last = run(&["--resume", "echo", "one"]);
    last.assert_success();
    assert!(last.stderr.contains("half-written"), "{}", last.stderr);
    assert_eq!(last.text().lines().count(), 1);
    let seqs = joblog(&scene.path("log")).into_iter().map(|line| line.seq);
    assert_each_once("log", seqs, 1..=3);
}
