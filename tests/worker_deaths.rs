//! Workers die, by accident or of a task: every task still has exactly one result.

mod common;

use std::collections::VecDeque;
use std::fs;
use std::time::Duration;

use common::{Running, Scene, assert_each_once, joblog, let_pass, numbers};

/// The numbers that were printed, one a line.
fn printed(text: &str) -> Vec<u64> {
    text.lines()
        .map(|line| {
            line.parse()
                .unwrap_or_else(|_| panic!("a number: {line:?}"))
        })
        .collect()
}

fn worker(scene: &Scene, endpoint: &str, slots: &str) -> Running {
    scene
        .procession(["worker", "--connect", endpoint, slots])
        .start()
}

/// A sink that logs to `log`.
fn sink(scene: &Scene, endpoint: &str) -> Running {
    scene
        .procession(["sink", "--connect", endpoint, "--joblog", "log"])
        .start()
}

#[test]
fn workers_killed_one_after_the_other_cost_nobody_a_result() {
    const TASKS: u64 = 5_000;
    const WORKERS: usize = 3;
    let scene = Scene::new();
    let endpoint = scene.ipc("v");
    let ventilator = scene
        .procession(["ventilator", "--bind", &endpoint, "sleep 0.003; echo {}"])
        .input(numbers(TASKS))
        .start();
    let sink = sink(&scene, &endpoint);
    let log = scene.path("log");
    let mut workers: VecDeque<Running> = (0..WORKERS)
        .map(|_| worker(&scene, &endpoint, "-j2"))
        .collect();
    let mut killed = 0;
    let mut done = 0;
    while done < TASKS as usize * 9 / 10 {
        let_pass(Duration::from_millis(100));
        // However slow the machine is: between two deaths something is done.
        done = scene.until("a result since the last death", || {
            let now = joblog(&log).len();
            (now > done).then_some(now)
        });
        let mut oldest = workers.pop_front().expect("a worker");
        assert!(
            oldest.is_running(),
            "it ended by itself: {}",
            oldest.stderr_so_far()
        );
        oldest.kill();
        killed += 1;
        workers.push_back(worker(&scene, &endpoint, "-j2"));
    }
    let sink = sink.wait();
    let ventilator = ventilator.wait();
    eprintln!("{killed} workers were killed\n{}", ventilator.stderr);
    sink.assert_success();
    ventilator.assert_success().assert_stdout(b"");
    for worker in workers {
        worker.wait().assert_success();
    }
    assert!(killed >= 10, "{killed} deaths are a poor test");
    let logged = joblog(&log);
    assert_each_once("log", logged.iter().map(|line| line.seq), 1..=TASKS);
    assert_each_once("stdout", printed(&sink.text()), 1..=TASKS);
    let failed: Vec<_> = logged
        .iter()
        .filter(|line| (line.exit, line.signal) != (0, 0))
        .collect();
    assert!(failed.is_empty(), "{failed:?}");
    scene.assert_nothing_left();
}

#[test]
fn all_workers_killed_at_once_are_replaced() {
    const TASKS: u64 = 400;
    let scene = Scene::new();
    let endpoint = scene.ipc("v");
    let ventilator = scene
        .procession(["ventilator", "--bind", &endpoint, "sleep 0.01; echo {}"])
        .input(numbers(TASKS))
        .start();
    let sink = sink(&scene, &endpoint);
    let log = scene.path("log");
    for generation in 1..=3 {
        let mut workers: Vec<_> = (0..3).map(|_| worker(&scene, &endpoint, "-j2")).collect();
        scene.until_true("some more are done", || {
            joblog(&log).len() >= generation * 80
        });
        for worker in &mut workers {
            worker.kill();
        }
    }
    let last = worker(&scene, &endpoint, "-j2");
    let sink = sink.wait();
    sink.assert_success();
    ventilator.wait().assert_success();
    last.wait().assert_success();
    assert_each_once("stdout", printed(&sink.text()), 1..=TASKS);
    assert_each_once("log", joblog(&log).iter().map(|line| line.seq), 1..=TASKS);
    scene.assert_nothing_left();
}

/// Runs `tasks` tasks, of which the `killers` kill their worker process, with `count` workers that are replaced when they
/// die.
fn with_killers(tasks: u64, killers: &[u64], count: usize, slots: &str) {
    let scene = Scene::new();
    let endpoint = scene.ipc("v");
    let listed: Vec<String> = killers.iter().map(|id| format!(" {id} ")).collect();
    // The command's parent is the worker.
    let command = format!(
        "case '{}' in *\" \"{{}}\" \"*) echo >> deaths-{{}}; kill -9 $PPID; sleep 60;; esac; sleep 0.005; echo {{}}",
        listed.concat()
    );
    let ventilator = scene
        .procession(["ventilator", "--bind", &endpoint, &command])
        .input(numbers(tasks))
        .start();
    let mut sink = scene
        .procession(["sink", "--connect", &endpoint, "--joblog", "log"])
        .args(["--results", "out"])
        .start();
    let mut workers: Vec<_> = (0..count)
        .map(|_| worker(&scene, &endpoint, slots))
        .collect();
    let mut died = 0;
    scene.until_true("the end of the sink", || {
        for at in &mut workers {
            if !at.is_running() {
                let next = worker(&scene, &endpoint, slots);
                let ended = std::mem::replace(at, next).wait();
                if ended.signal() == Some(9) {
                    died += 1;
                } else {
                    // It was faster than the sink.
                    ended.assert_success();
                }
            }
        }
        !sink.is_running()
    });
    let sink = sink.wait();
    let failed = killers.len() as i32;
    let ventilator = ventilator.wait();
    eprintln!("{died} deaths\n{}", ventilator.stderr);
    ventilator.assert_code(failed);
    sink.assert_code(failed);
    // Those that came when all was over find nobody; they are not waited for.
    for mut worker in workers {
        worker.kill();
    }
    let logged = joblog(&scene.path("log"));
    assert_each_once("log", logged.iter().map(|line| line.seq), 1..=tasks);
    let given_up = logged
        .iter()
        .filter(|line| (line.exit, line.signal) != (0, 0))
        .map(|line| line.seq);
    assert_each_once("failed", given_up, killers.iter().copied());
    for line in &logged {
        // Also those of which no worker lived to tell are in the log and in files under their own names.
        let (id, command) = (line.seq, &line.command);
        assert!(command.ends_with(&format!("; echo {id}")), "{command}");
        assert!(line.start > 0.0, "task {id}");
        assert!(scene.path(&format!("out/1/{id}/seq")).exists(), "task {id}");
    }
    let good = (1..=tasks).filter(|id| !killers.contains(id));
    assert_each_once("stdout", printed(&sink.text()), good);
    for id in killers {
        let deaths = fs::read(scene.path(&format!("deaths-{id}")))
            .unwrap_or_default()
            .len();
        // Three alone, and before that those among others, which do not count.
        assert!(
            (3..=5).contains(&deaths),
            "task {id} killed {deaths} workers"
        );
        assert!(
            ventilator
                .stderr
                .contains(&format!("task {id} was given up")),
            "{}",
            ventilator.stderr
        );
    }
    scene.assert_nothing_left();
}

#[test]
fn a_task_that_kills_its_worker_is_given_up_and_the_others_succeed() {
    with_killers(300, &[100], 3, "-j4");
}

#[test]
fn a_killer_is_found_among_many_slots() {
    with_killers(200, &[7], 1, "-j16");
}

#[test]
fn several_killers_do_not_take_the_innocent_along() {
    with_killers(200, &[1, 50, 51, 200], 2, "-j4");
}

#[test]
fn a_lone_killer_is_given_up() {
    with_killers(1, &[1], 1, "-j1");
}
