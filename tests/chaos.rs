//! Faults on purpose, on real processes: whoever is killed, stopped or cut off, the output is complete and nothing is there twice.
//!
//! `PROCESSION_CHAOS_TASKS` makes the largest test larger: `make chaos` has it at 10,000.

mod common;

use std::fs;
use std::time::Duration;

use common::{Ended, Running, Scene, assert_each_once, joblog, numbers, tcp};

/// What the ledger of a rehearsal says.
#[derive(Debug, Default)]
struct Ledger {
    line: String,
    kills: u64,
    stops: u64,
    cuts: u64,
}

impl Ledger {
    fn of(stderr: &str) -> Self {
        let line = stderr
            .lines()
            .rfind(|line| line.contains(": chaos: "))
            .unwrap_or_else(|| panic!("no ledger in {stderr}"))
            .to_owned();
        let before = |word: &str| -> u64 {
            let (text, _) = line
                .split_once(word)
                .unwrap_or_else(|| panic!("no {word} in {line}"));
            let number = text.trim_end().rsplit(' ').next().unwrap_or_default();
            number
                .parse()
                .unwrap_or_else(|_| panic!("no number of {word} in {line}"))
        };
        Self {
            kills: before("kills"),
            stops: before("stops"),
            cuts: before("cuts"),
            line,
        }
    }
}

fn sorted(output: &[u8]) -> Vec<u64> {
    let text = String::from_utf8_lossy(output);
    let mut all: Vec<u64> = text
        .lines()
        .map(|line| line.parse().expect("a number"))
        .collect();
    all.sort_unstable();
    all
}

fn assert_complete(ended: &Ended, tasks: u64) {
    let expected: Vec<u64> = (1..=tasks).collect();
    assert!(sorted(&ended.stdout) == expected, "{}", ended.stderr);
}

#[test]
fn a_run_whose_workers_meet_faults_of_all_kinds_has_each_result_once() {
    let scene = Scene::new();
    let ended = scene
        .procession([
            "run",
            "-j4",
            "--heartbeat",
            "0.3",
            "--chaos",
            "kill=6%,stop=1%,cut=4%,seed=3",
            "echo",
        ])
        .input(numbers(600))
        .run();
    ended.assert_success();
    assert_complete(&ended, 600);
    let ledger = Ledger::of(&ended.stderr);
    assert!(
        ledger.line.contains("600 in, 600 out (0 lost, 0 doubled)"),
        "{ledger:?}"
    );
    assert!(
        ledger.kills > 0 && ledger.stops > 0 && ledger.cuts > 0,
        "{ledger:?}"
    );
    scene.assert_nothing_left();
}

#[test]
fn kills_that_are_rehearsed_count_against_no_task() {
    let scene = Scene::new();
    // Each task is killed eight times; three deaths alone would make it fail.
    let ended = scene
        .procession([
            "run",
            "-j2",
            "-k",
            "--chaos",
            "kill=100%,seed=1",
            "sleep 0.03; echo",
        ])
        .input(numbers(3))
        .run();
    ended.assert_success();
    assert_eq!(ended.stdout, b"1\n2\n3\n");
    let ledger = Ledger::of(&ended.stderr);
    assert!(ledger.kills >= 12, "{ledger:?}");
    scene.assert_nothing_left();
}

#[test]
fn a_task_that_is_deadly_itself_is_given_up_while_kills_are_rehearsed() {
    let scene = Scene::new();
    let ended = scene
        .procession(["run", "-j2", "--chaos", "kill=1%,seed=1"])
        // The worker's process is the parent of its command.
        .arg("[ {} = 2 ] && kill -9 $PPID && sleep 600; echo {}")
        .input(numbers(3))
        .run();
    assert_eq!(ended.code(), Some(1), "{}", ended.stderr);
    assert_eq!(sorted(&ended.stdout), [1, 3]);
    assert!(
        ended.stderr.contains("task 2 was given up"),
        "{}",
        ended.stderr
    );
    scene.assert_nothing_left();
}

#[test]
fn a_filter_under_faults_answers_each_line_once() {
    let scene = Scene::new();
    let ended = scene
        .procession([
            "run",
            "-j2",
            "--filter",
            "--chaos",
            "kill=2%,cut=2%,seed=5",
            "sed",
            "-u",
            "s/^/1/",
        ])
        .input(numbers(300))
        .run();
    ended.assert_success();
    assert_eq!(sorted(&ended.stdout).len(), 300, "{}", ended.stderr);
    assert_each_once(
        "lines",
        sorted(&ended.stdout)
            .into_iter()
            .map(|n| n.to_string()[1..].parse().expect("a number behind the 1")),
        1..=300,
    );
    scene.assert_nothing_left();
}

#[test]
fn nonsense_faults_are_refused_with_what_to_write() {
    let scene = Scene::new();
    let ended = scene
        .procession(["run", "--chaos", "burn=1%", "echo", ":::", "a"])
        .run();
    assert_eq!(ended.code(), Some(255));
    assert!(
        ended.stderr.contains("kill, stop and cut"),
        "{}",
        ended.stderr
    );
}

/// Whether the command has an option.
fn has(scene: &Scene, subcommand: &str, option: &str) -> bool {
    let help = scene.procession([subcommand, "--help"]).run();
    String::from_utf8_lossy(&help.stdout).contains(option)
}

fn crews(scene: &Scene, endpoint: &str) -> Vec<Running> {
    (1..=3)
        .map(|seed| {
            let faults = format!("kill=4%,stop=0.3%,cut=1%,seed={seed}");
            scene
                .procession(["worker", "--connect", endpoint, "-j2", "--chaos", &faults])
                .start()
        })
        .collect()
}

#[test]
fn whoever_is_killed_the_log_is_complete_and_has_no_double() {
    let tasks: u64 = std::env::var("PROCESSION_CHAOS_TASKS")
        .ok()
        .and_then(|tasks| tasks.parse().ok())
        .unwrap_or(1000);
    let scene = Scene::with_deadline(Duration::from_secs(240 + tasks / 20));
    let endpoint = tcp();
    fs::write(scene.path("input"), numbers(tasks)).expect("room for the input");
    let journal = has(&scene, "ventilator", "--journal");
    let ventilator = || {
        let program = scene.procession([
            "ventilator",
            "--bind",
            &endpoint,
            "--heartbeat",
            "0.5",
            "-a",
            "input",
        ]);
        match journal {
            true => program.args(["--journal", "journal"]),
            false => program,
        }
        .arg("echo")
        .start()
    };
    let sink = || {
        scene
            .procession(["sink", "--connect", &endpoint, "--joblog", "log"])
            .start()
    };
    let mut ventilating = ventilator();
    let crews = crews(&scene, &endpoint);
    let log = scene.path("log");
    let step = (tasks / 100).max(40) as usize;
    let (mut sinks, mut ventilators) = (0, 0);
    let mut sinking = sink();
    loop {
        let before = joblog(&log).len();
        scene.until_true("the log grows", || {
            !sinking.is_running() || joblog(&log).len() >= before + step
        });
        // Behind the last result nobody waits for another sink.
        if !sinking.is_running() || joblog(&log).len() as u64 + step as u64 > tasks {
            break;
        }
        sinking.kill();
        sinks += 1;
        if journal && sinks % 2 == 0 {
            ventilating.kill();
            ventilators += 1;
            ventilating = ventilator();
        }
        sinking = sink();
    }
    sinking.wait().assert_success();
    ventilating.wait().assert_success();
    let mut kills = 0;
    for crew in crews {
        let ended = crew.wait();
        ended.assert_success();
        kills += Ledger::of(&ended.stderr).kills;
    }
    assert_each_once("log", joblog(&log).iter().map(|line| line.seq), 1..=tasks);
    assert!(
        kills > tasks / 100 && sinks > 5,
        "{kills} workers and {sinks} sinks were killed"
    );
    println!(
        "{tasks} tasks, none lost, none doubled; SIGKILL of {kills} workers, {sinks} sinks, {ventilators} ventilators{}",
        if journal {
            ""
        } else {
            " (there is no --journal to kill them with)"
        }
    );
    scene.assert_nothing_left();
}
