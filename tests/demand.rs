//! Tasks go where they are done: a slow worker takes no more than it can do, and nothing waits behind a long task.

mod common;

use std::io::Write;

use common::{Logged, Running, Scene, assert_each_once, joblog, numbers};

/// A ventilator with an open input, a sink and two workers of one slot each, all there before the first task is.
struct Stage {
    scene: Scene,
    ventilator: Running,
    sink: Running,
    workers: [Running; 2],
}

impl Stage {
    /// `own`: what the workers run instead of the ventilator's command.
    fn new(command: &str, own: [&str; 2]) -> Self {
        let scene = Scene::new();
        let endpoint = scene.ipc("v");
        let ventilator = scene
            .procession(["ventilator", "--bind", &endpoint, command])
            .open_input()
            .start();
        let sink = scene
            .procession(["sink", "--connect", &endpoint, "--joblog", "log"])
            .start();
        let workers = own.map(|own| {
            let worker = scene.procession(["worker", "--connect", &endpoint, "-j1"]);
            match own {
                "" => worker.start(),
                own => worker.arg(own).start(),
            }
        });
        scene.until("all are there", || {
            let status = scene.status(&endpoint)?;
            (status["peers"].as_array()?.len() == 3).then_some(())
        });
        Self {
            scene,
            ventilator,
            sink,
            workers,
        }
    }

    fn put(&mut self, input: &[u8]) {
        let mut pipe = self.ventilator.stdin.take().expect("an open input");
        pipe.write_all(input).expect("a ventilator that reads");
    }

    fn logged(&self) -> Vec<Logged> {
        joblog(&self.scene.path("log"))
    }

    /// All end well; what was logged and what was printed.
    fn end(self) -> (Vec<Logged>, String) {
        let sink = self.sink.wait();
        sink.assert_success();
        self.ventilator.wait().assert_success();
        for worker in self.workers {
            worker.wait().assert_success();
        }
        self.scene.assert_nothing_left();
        (joblog(&self.scene.path("log")), sink.text())
    }
}

/// From the first start to the last end, in seconds.
fn span(logged: &[Logged]) -> f64 {
    let first = logged
        .iter()
        .map(|line| line.start)
        .fold(f64::MAX, f64::min);
    let last = logged
        .iter()
        .map(|line| line.start + line.seconds)
        .fold(0.0, f64::max);
    last - first
}

#[test]
fn a_slow_worker_takes_few_tasks() {
    let mut stage = Stage::new(
        "true",
        ["sleep 1; echo {} slow", "sleep 0.01; echo {} fast"],
    );
    stage.put(&numbers(300));
    let (logged, text) = stage.end();
    assert_each_once("log", logged.iter().map(|line| line.seq), 1..=300);
    let count = |name: &str| text.lines().filter(|line| line.ends_with(name)).count();
    let (slow, fast) = (count(" slow"), count(" fast"));
    let seconds = span(&logged);
    eprintln!("{slow} slow, {fast} fast, in {seconds:.2} s");
    assert_eq!(slow + fast, 300);
    // It may have one a second, however long the fast one needed on this machine.
    let limit = 10.max(seconds.ceil() as usize + 2);
    assert!(slow < limit, "{slow} of 300");
    // When the fast one has nothing more to do, the slow one is busy with its last.
    let last_fast = logged
        .iter()
        .filter(|line| line.seconds < 1.0)
        .map(|line| line.start + line.seconds)
        .fold(0.0, f64::max);
    let late = logged.iter().filter(|line| line.start > last_fast).count();
    assert!(late <= 1, "{late} tasks waited behind a slow one");
}

#[test]
fn a_slow_worker_takes_few_tasks_whatever_the_clock_says() {
    // The slow one's task lasts as long as a hundred of the other's: nobody's speed matters.
    let slow = "had=$(wc -l < fast); until [ $(wc -l < fast) -ge $((had + 100)) ] || [ -e end ]; do sleep 0.02; done; echo {} slow";
    let mut stage = Stage::new("true", [slow, "echo {} >> fast; echo {} fast"]);
    common::file(&stage.scene.path("fast"));
    stage.put(&numbers(600));
    let log = stage.scene.path("log");
    stage
        .scene
        .until_true("all but what the slow one holds are done", || {
            joblog(&log).len() >= 599
        });
    common::file(&stage.scene.path("end"));
    let (logged, text) = stage.end();
    assert_each_once("log", logged.iter().map(|line| line.seq), 1..=600);
    let slow = text.lines().filter(|line| line.ends_with(" slow")).count();
    eprintln!("{slow} slow");
    assert!((1..=8).contains(&slow), "{slow} of 600");
}

/// A thousand small tasks, and one, at `place`, that does not end before they have: whoever waits behind it waits for ever.
fn nothing_waits_behind(place: usize) {
    let command = "if [ {} = long ]; then until [ -e gate ]; do sleep 0.02; done; else sleep 0.001; fi; echo {}";
    let mut stage = Stage::new(command, ["", ""]);
    let mut lines: Vec<String> = (1..=1000).map(|n| format!("{n}\n")).collect();
    lines.insert(place, "long\n".to_owned());
    stage.put(lines.concat().as_bytes());
    stage
        .scene
        .until_true("the small ones are done", || stage.logged().len() == 1000);
    common::file(&stage.scene.path("gate"));
    let (logged, _) = stage.end();
    assert_each_once("log", logged.iter().map(|line| line.seq), 1..=1001);
}

#[test]
fn nothing_waits_behind_a_long_task_at_the_beginning() {
    nothing_waits_behind(0);
}

#[test]
fn nothing_waits_behind_a_long_task_in_the_middle() {
    nothing_waits_behind(500);
}

#[test]
fn nothing_waits_behind_a_long_task_near_the_end() {
    nothing_waits_behind(990);
}

#[test]
fn nothing_waits_behind_a_long_task_of_one_run() {
    let scene = Scene::new();
    let command = "if [ {} = 500 ]; then until [ -e gate ]; do sleep 0.02; done; fi; echo {}";
    let run = scene
        .procession(["run", "-j2", "--joblog", "log", command])
        .input(numbers(1000))
        .start();
    let log = scene.path("log");
    scene.until_true("the small ones are done", || joblog(&log).len() == 999);
    common::file(&scene.path("gate"));
    run.wait().assert_success();
    assert_each_once("log", joblog(&log).iter().map(|line| line.seq), 1..=1000);
    scene.assert_nothing_left();
}

#[test]
fn one_task_of_five_seconds_does_not_hold_up_a_thousand_small_ones() {
    let command = "if [ {} = 400 ]; then sleep 5; else sleep 0.001; fi; echo {} $PROCESSION_WORKER";
    let mut stage = Stage::new(command, ["", ""]);
    stage.put(&numbers(1001));
    let (logged, text) = stage.end();
    assert_each_once("log", logged.iter().map(|line| line.seq), 1..=1001);
    eprintln!("{:.2} s in all", span(&logged));
    let worker_of = |seq: u64| {
        text.lines()
            .find_map(|line| line.strip_prefix(&format!("{seq} ")))
            .expect("each is printed")
    };
    let long = logged
        .iter()
        .find(|line| line.seq == 400)
        .expect("the long one");
    let end = long.start + long.seconds;
    let late = logged.iter().filter(|line| line.start > end).count();
    // On a machine so slow that five seconds do not suffice, the other worker was busy all the time.
    let other_was_busy = logged.iter().any(|line| {
        line.start + line.seconds > end - 0.5
            && line.start < end
            && worker_of(line.seq) != worker_of(400)
    });
    assert!(
        late == 0 || other_was_busy,
        "{late} tasks waited behind the long one"
    );
}
