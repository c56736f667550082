//! A worker that stands still loses its tasks to others, and works on when it is back.

mod common;

use std::fs;
use std::io::Write;

use common::{Running, Scene, Signal, assert_each_once, joblog};

/// Notes who runs the task; waits for the file `gate-NAME` where one is to be waited for; says who did it.
const COMMAND: &str = "echo $NAME >> ran-{}; \
     if [ -n \"$WAITS\" ]; then until [ -e gate-$NAME ]; do sleep 0.02; done; fi; \
     sleep 0.02; echo {} by $NAME";

/// A ventilator with quick heartbeats whose input stays open, a sink, and what they are asked.
struct Stage {
    scene: Scene,
    endpoint: String,
    ventilator: Running,
    sink: Running,
}

impl Stage {
    fn new() -> Self {
        let scene = Scene::new();
        let endpoint = scene.ipc("v");
        let ventilator = scene
            .procession([
                "ventilator",
                "--bind",
                &endpoint,
                "--heartbeat",
                "0.2",
                COMMAND,
            ])
            .open_input()
            .start();
        let sink = scene
            .procession(["sink", "--connect", &endpoint, "--joblog", "log"])
            .start();
        Self {
            scene,
            endpoint,
            ventilator,
            sink,
        }
    }

    fn put(&mut self, ids: std::ops::RangeInclusive<u64>) {
        let input = self.ventilator.stdin.as_mut().expect("an open input");
        for id in ids {
            writeln!(input, "{id}").expect("a ventilator that reads");
        }
    }

    /// A worker called `name`; `waits`: its commands wait for `gate-NAME`.
    fn worker(&self, name: &str, waits: bool) -> Running {
        self.scene
            .procession(["worker", "--connect", &self.endpoint, "-j2"])
            .env("NAME", name)
            .env("WAITS", if waits { "yes" } else { "" })
            .start()
    }

    /// Who ran the task, in order.
    fn ran(&self, id: u64) -> Vec<String> {
        let names = fs::read_to_string(self.scene.path(&format!("ran-{id}"))).unwrap_or_default();
        names.lines().map(str::to_owned).collect()
    }

    fn did_run(&self, id: u64, name: &str) -> bool {
        self.ran(id).iter().any(|by| by == name)
    }

    fn open_gate(&self, name: &str) {
        common::file(&self.scene.path(&format!("gate-{name}")));
    }

    fn until_state(&self, worker: &Running, state: &str) {
        self.scene
            .until("the ventilator's opinion of a worker", || {
                let status = self.scene.status(&self.endpoint)?;
                let peer = status["peers"]
                    .as_array()?
                    .iter()
                    .find(|peer| peer["pid"] == worker.pid())?;
                (peer["state"] == state).then_some(())
            });
    }

    fn kept(&self) -> usize {
        joblog(&self.scene.path("log")).len()
    }

    /// All end well, with each of `1..=tasks` once; what was printed.
    fn end(self, workers: Vec<Running>, tasks: u64) -> String {
        let ventilator = self.ventilator.wait();
        eprintln!("{}", ventilator.stderr);
        ventilator.assert_success();
        let sink = self.sink.wait();
        sink.assert_success();
        for worker in workers {
            worker.wait().assert_success();
        }
        let text = sink.text();
        let printed = text.lines().map(|line| {
            let id = line.split(' ').next().unwrap_or_default();
            id.parse::<u64>()
                .unwrap_or_else(|_| panic!("a number: {line:?}"))
        });
        assert_each_once("stdout", printed, 1..=tasks);
        let logged = joblog(&self.scene.path("log"));
        assert_each_once("log", logged.iter().map(|line| line.seq), 1..=tasks);
        self.scene.assert_nothing_left();
        text
    }
}

#[test]
fn a_stopped_worker_loses_its_tasks_and_its_late_results_are_dropped() {
    let mut stage = Stage::new();
    stage.put(1..=10);
    let slow = stage.worker("slow", true);
    stage.scene.until_true("its slots are taken", || {
        stage.did_run(1, "slow") && stage.did_run(2, "slow")
    });
    slow.signal(Signal::STOP);
    stage.until_state(&slow, "silent");
    let fast = stage.worker("fast", false);
    stage
        .scene
        .until_true("another has done them", || stage.kept() == 10);

    stage.open_gate("slow");
    slow.signal(Signal::CONT);
    stage.until_state(&slow, "live");
    let mut put = 10;
    loop {
        stage.put(put + 1..=put + 8);
        put += 8;
        let new = 11..=put;
        stage
            .scene
            .until_true("they are done", || stage.kept() as u64 == put);
        if new.into_iter().any(|id| stage.did_run(id, "slow")) {
            break;
        }
    }
    let text = stage.end(vec![slow, fast], put);
    for id in 1..=10 {
        assert!(
            text.contains(&format!("{id} by fast\n")),
            "task {id} of:\n{text}"
        );
    }
    assert!(text.contains(" by slow\n"), "it worked on:\n{text}");
}

#[test]
fn late_results_win_where_no_other_was_kept() {
    let mut stage = Stage::new();
    stage.put(1..=2);
    let first = stage.worker("first", true);
    stage.scene.until_true("it runs both", || {
        stage.did_run(1, "first") && stage.did_run(2, "first")
    });
    first.signal(Signal::STOP);
    stage.until_state(&first, "silent");
    let second = stage.worker("second", true);
    stage.scene.until_true("another has them", || {
        stage.did_run(1, "second") && stage.did_run(2, "second")
    });
    stage.open_gate("first");
    first.signal(Signal::CONT);
    stage
        .scene
        .until_true("the late results are kept", || stage.kept() == 2);
    stage.open_gate("second");
    // Both have slots again.
    stage.put(3..=20);
    let text = stage.end(vec![first, second], 20);
    for id in 1..=2 {
        assert!(
            text.contains(&format!("{id} by first\n")),
            "task {id} of:\n{text}"
        );
    }
}

#[test]
fn a_stopped_ventilator_gives_nobody_up() {
    let mut stage = Stage::new();
    stage.put(1..=20);
    let workers = vec![stage.worker("one", false), stage.worker("two", false)];
    stage
        .scene
        .until_true("some are done", || stage.kept() >= 4);
    stage.ventilator.signal(Signal::STOP);
    // Time itself is what is tested: five times three heartbeats.
    common::let_pass(std::time::Duration::from_secs(3));
    stage.ventilator.signal(Signal::CONT);
    stage.put(21..=60);
    let text = stage.end(workers, 60);
    assert_eq!(text.lines().count(), 60);
}
