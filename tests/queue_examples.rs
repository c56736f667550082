//! The examples of queues, run as programs. They are built by `cargo test`; for this file alone, `cargo build --examples` comes first.

mod common;
mod servers;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use common::{Ended, Program, Running, Scene};

fn example(scene: &Scene, name: &str) -> Program {
    let tests = std::env::current_exe().expect("this program has a path");
    let built: Option<PathBuf> = tests.ancestors().nth(2).map(|dir| dir.join("examples"));
    let program = built.expect("it is in target/PROFILE/deps").join(name);
    assert!(
        program.exists(),
        "{} is not there: cargo build --examples",
        program.display()
    );
    scene.program(program)
}

fn said_nothing_else(ended: &Ended) {
    ended.assert_success();
    assert_eq!(ended.stderr, "", "{}", ended.label);
}

#[test]
fn consumers_end_by_a_sentinel_and_by_a_shutdown() {
    let scene = Scene::new();
    let ended = example(&scene, "consumer_producer").run();
    said_nothing_else(&ended);
    ended.assert_stdout(b"1\n2\n3\n4\nConsumer done\n1\n2\n3\n4\nConsumer done\n");
    scene.assert_nothing_left();
}

#[test]
fn a_joinable_queue_is_joined_although_a_consumer_dies() {
    let scene = Scene::new();
    let ended = example(&scene, "joinable_queue").run();
    said_nothing_else(&ended);
    let text = ended.text();
    assert!(text.contains("clumsy: dies over 3\n"), "{text}");
    assert!(
        text.contains("was killed by") && text.contains("SIGABRT"),
        "{text}"
    );
    // What it said to be done with in its last moments may be done again.
    let last = text.lines().last().unwrap_or_default();
    let done = last
        .strip_prefix("done by others: ")
        .unwrap_or_else(|| panic!("{text}"));
    let all: Vec<String> = (3..=20).map(|number| number.to_string()).collect();
    assert!(done.ends_with(&format!("{}]", all.join(", "))), "{text}");
    assert!(text.contains("\nall done\n"), "{text}");
    scene.assert_nothing_left();
}

/// Waits until it has said a line that begins so; the rest of the line.
fn line(running: &Running, start: &str) -> String {
    let deadline = Instant::now() + common::DEADLINE;
    loop {
        let text = String::from_utf8_lossy(&running.stdout_so_far()).into_owned();
        let complete = text
            .split_inclusive('\n')
            .filter(|line| line.ends_with('\n'));
        if let Some(rest) = complete.filter_map(|line| line.strip_prefix(start)).next() {
            return rest.trim_end().to_owned();
        }
        assert!(Instant::now() < deadline, "no {start:?} in {text}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn two_programs_share_a_queue_over_tcp() {
    let scene = Scene::new();
    let server = example(&scene, "queue_server").start();
    let endpoint = line(&server, "listening at ");
    assert!(endpoint.starts_with("tcp://127.0.0.1:"), "{endpoint}");
    for words in [&["one", "two"][..], &["three"]] {
        let client = example(&scene, "queue_client")
            .arg(&endpoint)
            .args(words)
            .run();
        said_nothing_else(&client);
        client.assert_stdout(format!("{} words handed over\n", words.len()).as_bytes());
    }
    said_nothing_else(
        &example(&scene, "queue_client")
            .args([&*endpoint, "--last"])
            .run(),
    );
    let ended = server.wait();
    said_nothing_else(&ended);
    let text = ended.text();
    let lines: Vec<&str> = text.lines().collect();
    for (line, word) in lines[1..].iter().zip(["one", "two", "three", "shut down"]) {
        assert!(line.starts_with(word), "{text}");
    }
    assert_eq!(lines.len(), 5, "{text}");
    scene.assert_nothing_left();
}

#[test]
fn one_program_runs_unchanged_on_every_engine() {
    let variables = [
        "PROCESSION_TEST_REDIS",
        "PROCESSION_TEST_AMQP",
        "PROCESSION_TEST_BEANSTALK",
    ];
    let served = variables.into_iter().filter_map(servers::url);
    let queue = |server| format!("{server}?queue={}", servers::unique("pages"));
    let urls: Vec<Vec<String>> = served.map(|server| vec![queue(server)]).collect();
    // Without a URL it hosts queues itself.
    for words in urls.into_iter().chain([Vec::new()]) {
        let scene = Scene::new();
        let ended = example(&scene, "any_engine").args(&words).run();
        said_nothing_else(&ended);
        ended.assert_stdout(b"12 pages, 171 letters\n");
        scene.assert_nothing_left();
    }
}
