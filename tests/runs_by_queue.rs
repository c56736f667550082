//! Runs whose tasks and results go through a queue: of a host of queues, and of each server.

mod common;
mod servers;

use std::time::Duration;

use common::{Running, Scene, Signal, assert_each_once, let_pass, numbers, tcp};
use servers::unique;

/// A scene, and a URL of which the queue's name is still missing.
struct Stage {
    scene: Scene,
    server: String,
    /// Hosts queues until the test is over.
    host: Option<Running>,
}

impl Stage {
    /// With a host of queues of its own.
    fn hosted() -> Option<Self> {
        let scene = Scene::new();
        let server = tcp();
        let host = scene.procession(["queue", "--bind", &server]).start();
        Some(Self {
            scene,
            server,
            host: Some(host),
        })
    }

    /// On a server that was started for tests.
    fn on(variable: &str) -> Option<Self> {
        Some(Self {
            scene: Scene::new(),
            server: servers::url(variable)?,
            host: None,
        })
    }

    fn queue(&self, name: &str) -> String {
        format!("{}?queue={}&lease=2", self.server, unique(name)).replace(
            "&lease=2",
            if self.host.is_some() { "" } else { "&lease=2" },
        )
    }

    fn ventilator(&self, url: &str, command: &str, tasks: u64) -> Running {
        self.scene
            .procession(["ventilator", "--queue", url, command])
            .input(numbers(tasks))
            .start()
    }

    fn worker(&self, url: &str, slots: &str) -> Running {
        self.scene
            .procession(["worker", "--queue", url, slots])
            .start()
    }

    fn sink(&self, url: &str, option: &str) -> Running {
        self.scene
            .procession(["sink", "--queue", url, option])
            .start()
    }

    /// Nothing is left but the host of queues, which ends when it is told to.
    fn end(mut self) {
        if let Some(host) = self.host.take() {
            host.signal(Signal::TERM);
            let ended = host.wait();
            assert_eq!(ended.code(), Some(143), "{}", ended.text());
        }
        self.scene.assert_nothing_left();
    }
}

fn printed(bytes: &[u8]) -> Vec<u64> {
    let text = String::from_utf8_lossy(bytes);
    let number = |line: &str| {
        line.parse()
            .unwrap_or_else(|_| panic!("a number: {line:?}"))
    };
    text.lines().map(number).collect()
}

fn the_ventilator_leaves_and_each_task_has_its_result_in_order(stage: Stage) {
    const TASKS: u64 = 3_000;
    let url = stage.queue("order");
    // Nobody else is there yet.
    let ventilator = stage
        .scene
        .procession(["ventilator", "--queue", &url, "--filter", "cat"]);
    ventilator
        .input(numbers(TASKS))
        .start()
        .wait()
        .assert_success();
    let sink = stage.sink(&url, "-k");
    let workers = [stage.worker(&url, "-j2"), stage.worker(&url, "-j1")];
    let sink = sink.wait();
    sink.assert_success().assert_stdout(&numbers(TASKS));
    for worker in workers {
        worker.wait().assert_success();
    }
    stage.end();
}

fn tasks_of_killed_workers_are_run_by_others(stage: Stage) {
    const TASKS: u64 = 120;
    let url = stage.queue("deaths");
    let sink = stage.sink(&url, "-q");
    stage
        .ventilator(&url, "sleep 0.05; echo {}", TASKS)
        .wait()
        .assert_success();
    let mut workers: Vec<Running> = (0..2).map(|_| stage.worker(&url, "-j3")).collect();
    for _ in 0..3 {
        let before = sink.stdout_so_far().len();
        stage.scene.until_true("results since the last death", || {
            sink.stdout_so_far().len() > before
        });
        workers.remove(0).kill();
        workers.push(stage.worker(&url, "-j3"));
    }
    let sink = sink.wait();
    sink.assert_success();
    assert_each_once(
        "results",
        &printed(&sink.stdout),
        &(1..=TASKS).collect::<Vec<_>>(),
    );
    for worker in workers {
        worker.wait().assert_success();
    }
    stage.end();
}

fn what_a_killed_sink_had_not_kept_comes_to_the_next_one(stage: Stage) {
    const TASKS: u64 = 200;
    let url = stage.queue("sinks");
    let log = stage.scene.path("log");
    let log = log.to_str().expect("a path");
    let words = ["sink", "--queue", &url, "--joblog", log];
    let sink = || stage.scene.procession(words).start();
    let mut first = sink();
    stage
        .ventilator(&url, "sleep 0.02; echo {}", TASKS)
        .wait()
        .assert_success();
    let worker = stage.worker(&url, "-j2");
    stage.scene.until_true("a quarter of the results", || {
        common::joblog(log.as_ref()).len() as u64 > TASKS / 4
    });
    first.kill();
    let second = sink().wait();
    second.assert_success();
    worker.wait().assert_success();
    let seqs: Vec<u64> = common::joblog(log.as_ref())
        .iter()
        .map(|line| line.seq)
        .collect();
    assert_each_once("lines of the log", &seqs, &(1..=TASKS).collect::<Vec<_>>());
    stage.end();
}

fn a_task_that_fails_is_tried_again_and_failures_are_counted(stage: Stage) {
    let url = stage.queue("retries");
    let command = "test -e tried-{} && echo {} || { touch tried-{}; exit 7; }";
    let words = [
        "ventilator",
        "--queue",
        &url,
        "--retries",
        "2",
        command,
        ":::",
        "1",
        "2",
        "3",
    ];
    stage.scene.procession(words).run().assert_success();
    let worker = stage.worker(&url, "-j2");
    let sink = stage.sink(&url, "-k").wait();
    sink.assert_success().assert_stdout(b"1\n2\n3\n");
    worker.wait().assert_success();

    let url = stage.queue("failures");
    let words = [
        "ventilator",
        "--queue",
        &url,
        "exit {}",
        ":::",
        "0",
        "1",
        "2",
    ];
    stage.scene.procession(words).run().assert_success();
    let worker = stage.worker(&url, "-j2");
    assert_eq!(stage.sink(&url, "-k").wait().code(), Some(2));
    worker.wait().assert_success();
    stage.end();
}

fn a_worker_that_is_told_to_leave_finishes_what_runs_and_gives_the_rest_back(stage: Stage) {
    const TASKS: u64 = 40;
    let url = stage.queue("leaving");
    stage
        .ventilator(&url, "echo started >> starts; sleep 0.1; echo {}", TASKS)
        .wait()
        .assert_success();
    let starts = stage.scene.path("starts");
    let sink = stage.sink(&url, "-q");
    let leaving = stage.worker(&url, "-j2");
    stage.scene.until_true("a task runs", || starts.exists());
    let_pass(Duration::from_millis(150));
    leaving.signal(Signal::TERM);
    assert_eq!(leaving.wait().code(), Some(143));
    let worker = stage.worker(&url, "-j4");
    let sink = sink.wait();
    sink.assert_success();
    assert_each_once(
        "results",
        &printed(&sink.stdout),
        &(1..=TASKS).collect::<Vec<_>>(),
    );
    worker.wait().assert_success();
    let started = std::fs::read_to_string(&starts).expect("what was started");
    assert_eq!(
        started.lines().count() as u64,
        TASKS,
        "nothing was run twice"
    );
    stage.end();
}

fn two_runs_on_one_server_do_not_see_each_other(stage: Stage) {
    let urls = [stage.queue("one"), stage.queue("other")];
    for (url, word) in urls.iter().zip(["one", "other"]) {
        let words = ["ventilator", "--queue", url, "echo", word, ":::", "1", "2"];
        stage.scene.procession(words).run().assert_success();
    }
    let workers: Vec<Running> = urls.iter().map(|url| stage.worker(url, "-j1")).collect();
    for (url, word) in urls.iter().zip(["one", "other"]) {
        let expected = format!("{word} 1\n{word} 2\n");
        stage
            .sink(url, "-k")
            .wait()
            .assert_success()
            .assert_stdout(expected.as_bytes());
    }
    for worker in workers {
        worker.wait().assert_success();
    }
    stage.end();
}

fn a_task_is_tried_again_though_the_queue_is_full(stage: Stage) {
    const TASKS: u64 = 12;
    let url = format!("{}&maxsize=2", stage.queue("full"));
    let command = "test -e tried-{} && echo {} || { touch tried-{}; exit 7; }";
    let words = ["ventilator", "--queue", &url, "--retries", "2", command];
    let ventilator = stage.scene.procession(words).input(numbers(TASKS)).start();
    let worker = stage.worker(&url, "-j1");
    let sink = stage.sink(&url, "-k").wait();
    sink.assert_success().assert_stdout(&numbers(TASKS));
    ventilator.wait().assert_success();
    worker.wait().assert_success();
    stage.end();
}

fn a_second_sink_waits_until_the_first_is_gone(stage: Stage) {
    const TASKS: u64 = 60;
    let url = stage.queue("twosinks");
    let log = stage.scene.path("log");
    let log = log.to_str().expect("a path");
    let sink = || {
        stage
            .scene
            .procession(["sink", "--queue", &url, "--joblog", log])
            .start()
    };
    stage
        .ventilator(&url, "sleep 0.02; echo {}", TASKS)
        .wait()
        .assert_success();
    let mut first = sink();
    let worker = stage.worker(&url, "-j2");
    stage
        .scene
        .until_true("some results", || common::joblog(log.as_ref()).len() > 5);
    let second = sink();
    let_pass(Duration::from_millis(300));
    first.kill();
    second.wait().assert_success();
    worker.wait().assert_success();
    let seqs: Vec<u64> = common::joblog(log.as_ref())
        .iter()
        .map(|line| line.seq)
        .collect();
    assert_each_once("lines of the log", &seqs, &(1..=TASKS).collect::<Vec<_>>());
    stage.end();
}

/// Each of these on each of the engines.
macro_rules! on_all {
    ($($test:ident),* $(,)?) => {
        mod hosted { $( #[test] fn $test() { super::Stage::hosted().map(super::$test); } )* }
        mod redis { $( #[test] fn $test() { super::Stage::on("PROCESSION_TEST_REDIS").map(super::$test); } )* }
        mod rabbitmq { $( #[test] fn $test() { super::Stage::on("PROCESSION_TEST_AMQP").map(super::$test); } )* }
        mod beanstalkd { $( #[test] fn $test() { super::Stage::on("PROCESSION_TEST_BEANSTALK").map(super::$test); } )* }
    };
}

on_all!(
    the_ventilator_leaves_and_each_task_has_its_result_in_order,
    tasks_of_killed_workers_are_run_by_others,
    what_a_killed_sink_had_not_kept_comes_to_the_next_one,
    a_task_that_fails_is_tried_again_and_failures_are_counted,
    a_worker_that_is_told_to_leave_finishes_what_runs_and_gives_the_rest_back,
    two_runs_on_one_server_do_not_see_each_other,
    a_task_is_tried_again_though_the_queue_is_full,
    a_second_sink_waits_until_the_first_is_gone,
);
