//! The sink is killed and started again: what it keeps in files is complete, and nothing is there twice.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;

use common::{Running, Scene, assert_each_once, joblog, numbers, tcp};

fn workers(scene: &Scene, endpoint: &str) -> Vec<Running> {
    let worker = || {
        scene
            .procession(["worker", "--connect", endpoint, "-j2"])
            .start()
    };
    (0..3).map(|_| worker()).collect()
}

fn sink(scene: &Scene, endpoint: &str, more: &[&str]) -> Running {
    scene
        .procession([
            "sink",
            "--connect",
            endpoint,
            "--joblog",
            "log",
            "--results",
            "out",
        ])
        .args(more)
        .start()
}

/// What `--results` holds: each value's output.
fn results(dir: &Path) -> BTreeMap<u64, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir.join("1")).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let value = name
            .parse()
            .unwrap_or_else(|_| panic!("a task's directory: {name:?}"));
        let read = |file: &str| {
            fs::read(entry.path().join(file))
                .unwrap_or_else(|error| panic!("{name}/{file}: {error}"))
        };
        assert_eq!(String::from_utf8_lossy(&read("seq")).trim(), name);
        found.insert(value, read("stdout"));
    }
    found
}

/// Kills the sink each time that the log has grown by `step`, while work goes on; in the end all is there once.
fn killed_again_and_again(endpoint: &str, scene: &Scene, tasks: u64, command: &str, more: &[&str]) {
    const TIMES: usize = 6;
    let mut ventilator = scene
        .procession(["ventilator", "--bind", endpoint, command])
        .open_input()
        .start();
    // In portions, and open until the last sink is there: or all might be done before a sink is killed.
    let mut input = ventilator.stdin.take().expect("an open input");
    let all = numbers(tasks);
    let lines: Vec<&[u8]> = all.split_inclusive(|byte| *byte == b'\n').collect();
    let portion = lines.len() / (TIMES + 1);
    let mut portions = lines.chunks(portion).map(<[_]>::concat);
    let workers = workers(scene, endpoint);
    let log = scene.path("log");
    for _ in 0..TIMES {
        let before = joblog(&log).len();
        let more_input = portions.next().expect("a portion for each");
        input
            .write_all(&more_input)
            .expect("a ventilator that reads");
        let mut sink = sink(scene, endpoint, more);
        // It has kept some, and more are on their way to it.
        scene.until_true("the log grows", || {
            assert!(
                sink.is_running(),
                "the sink ended: {}",
                sink.stderr_so_far()
            );
            joblog(&log).len() >= before + portion / 2
        });
        sink.kill();
    }
    for rest in portions {
        input.write_all(&rest).expect("a ventilator that reads");
    }
    let last = sink(scene, endpoint, more);
    scene.until("the last sink is there", || {
        let status = scene.status(endpoint)?;
        let peers = status["peers"].as_array()?;
        peers
            .iter()
            .any(|peer| peer["role"] == "sink" && peer["pid"] == last.pid())
            .then_some(())
    });
    drop(input);
    last.wait().assert_success();
    ventilator.wait().assert_success();
    for worker in workers {
        worker.wait().assert_success();
    }
    let logged = joblog(&log);
    assert_each_once("log", logged.iter().map(|line| line.seq), 1..=tasks);
    assert_each_once(
        "results",
        results(&scene.path("out")).into_keys(),
        1..=tasks,
    );
    assert!(logged.iter().all(|line| (line.exit, line.signal) == (0, 0)));
    scene.assert_nothing_left();
}

fn assert_small_results(scene: &Scene) {
    for (value, output) in results(&scene.path("out")) {
        assert_eq!(String::from_utf8_lossy(&output), format!("{value}\n"));
    }
}

#[test]
fn a_sink_killed_again_and_again_loses_nothing_over_ipc() {
    let scene = Scene::new();
    killed_again_and_again(&scene.ipc("v"), &scene, 3_000, "sleep 0.002; echo {}", &[]);
    assert_small_results(&scene);
}

#[test]
fn a_sink_killed_again_and_again_loses_nothing_over_tcp() {
    let scene = Scene::new();
    killed_again_and_again(&tcp(), &scene, 2_000, "sleep 0.002; echo {}", &[]);
    assert_small_results(&scene);
}

#[test]
fn a_sink_that_keeps_order_may_be_killed_too() {
    let scene = Scene::new();
    killed_again_and_again(
        &scene.ipc("v"),
        &scene,
        2_000,
        "sleep 0.002; echo {}",
        &["-k"],
    );
    assert_small_results(&scene);
    let seqs: Vec<u64> = joblog(&scene.path("log"))
        .iter()
        .map(|line| line.seq)
        .collect();
    assert!(seqs.is_sorted(), "the log is in order: {seqs:?}");
}

#[test]
fn large_results_outlive_their_sink() {
    let scene = Scene::new();
    let command = "head -c 3000000 /dev/zero | tr '\\0' x; echo {}";
    killed_again_and_again(&scene.ipc("v"), &scene, 60, command, &[]);
    for (value, output) in results(&scene.path("out")) {
        let end = format!("{value}\n");
        assert_eq!(output.len(), 3_000_000 + end.len(), "task {value}");
        assert!(output.ends_with(end.as_bytes()), "task {value}");
        assert!(
            output[..3_000_000].iter().all(|byte| *byte == b'x'),
            "task {value}"
        );
    }
}

#[test]
fn sinks_and_workers_may_die_together() {
    const TASKS: u64 = 1_500;
    let scene = Scene::new();
    let endpoint = scene.ipc("v");
    let ventilator = scene
        .procession(["ventilator", "--bind", &endpoint, "sleep 0.002; echo {}"])
        .input(numbers(TASKS))
        .start();
    let log = scene.path("log");
    // A task whose workers die three times is given up, whoever killed them.
    for time in 1..=2 {
        let mut workers = workers(&scene, &endpoint);
        let mut sink = sink(&scene, &endpoint, &[]);
        scene.until_true("the log grows", || joblog(&log).len() >= time * 400);
        for worker in &mut workers {
            worker.kill();
        }
        sink.kill();
    }
    let workers = workers(&scene, &endpoint);
    sink(&scene, &endpoint, &[]).wait().assert_success();
    ventilator.wait().assert_success();
    for worker in workers {
        worker.wait().assert_success();
    }
    assert_each_once("log", joblog(&log).iter().map(|line| line.seq), 1..=TASKS);
    assert_each_once(
        "results",
        results(&scene.path("out")).into_keys(),
        1..=TASKS,
    );
    scene.assert_nothing_left();
}

#[test]
fn a_second_sink_is_refused_while_the_first_lives() {
    let scene = Scene::new();
    let endpoint = scene.ipc("v");
    let mut ventilator = scene
        .procession([
            "ventilator",
            "--bind",
            &endpoint,
            "--heartbeat",
            "0.2",
            "echo",
        ])
        .open_input()
        .start();
    let first = sink(&scene, &endpoint, &[]);
    scene.until("the sink is there", || {
        let status = scene.status(&endpoint)?;
        status["peers"].get(0).map(drop)
    });
    let second = scene.procession(["sink", "--connect", &endpoint]).run();
    second.assert_code(255);
    assert!(
        second.stderr.contains("has a sink already"),
        "{}",
        second.stderr
    );
    let workers = workers(&scene, &endpoint);
    {
        let input = ventilator.stdin.as_mut().expect("an open input");
        input
            .write_all(&numbers(10))
            .expect("a ventilator that reads");
    }
    ventilator.wait().assert_success();
    first.wait().assert_success();
    for worker in workers {
        worker.wait().assert_success();
    }
    assert_each_once(
        "log",
        joblog(&scene.path("log")).iter().map(|line| line.seq),
        1..=10,
    );
    scene.assert_nothing_left();
}
