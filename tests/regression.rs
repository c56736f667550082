//! Bugs that were found and mended, one test each: what was seen is in its name.

mod common;

use std::os::unix::net::UnixListener;

use common::{Scene, Signal, numbers};

fn began(scene: &Scene, name: &str) -> bool {
    scene.path(name).exists()
}

/// Its running tasks were reported as killed, though another worker was there.
#[test]
fn a_worker_told_twice_to_leave_hands_on_what_it_killed() {
    let scene = Scene::new();
    let endpoint = scene.ipc("jobs");
    let command =
        "touch began.$PROCESSION_WORKER.{#}; until test -e go; do sleep 0.02; done; echo {}";
    let ventilator = scene
        .procession(["ventilator", "--bind", &endpoint, command, ":::", "1", "2"])
        .start();
    let sink = scene
        .procession(["sink", "--connect", &endpoint, "-k"])
        .start();
    let deserter = scene
        .procession(["worker", "--connect", &endpoint, "-j2"])
        .start();
    let begun = || {
        std::fs::read_dir(scene.dir())
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b"began."))
            .count()
    };
    scene.until_true("two tasks begin", || begun() == 2);
    deserter.signal(Signal::INT);
    scene.until_true("it leaves", || {
        deserter.stderr_so_far().contains("the rest goes to others")
    });
    deserter.signal(Signal::INT);
    deserter.wait().assert_code(130);
    let other = scene
        .procession(["worker", "--connect", &endpoint, "-j2"])
        .start();
    scene.until_true("they begin elsewhere", || begun() == 4);
    std::fs::write(scene.path("go"), "").expect("the file go");
    ventilator.wait().assert_success();
    other.wait().assert_success();
    sink.wait().assert_success().assert_stdout(&numbers(2));
    scene.assert_nothing_left();
}

/// Its results waited for the turn of a task that nobody was left to do, and it waited for them.
#[test]
fn a_worker_leaves_although_its_results_wait_for_their_turn() {
    let scene = Scene::new();
    let endpoint = scene.ipc("jobs");
    // The first task hangs at its first attempt; its worker is killed, and the other one is told to leave.
    let command =
        "touch at.{}; test {} -gt 1 || test $PROCESSION_ATTEMPT -gt 1 || sleep 1000; echo {}";
    let ventilator = scene
        .procession(["ventilator", "--bind", &endpoint, "--heartbeat", "0.3"])
        .args([command, ":::", "1", "2", "3"])
        .start();
    let sink = scene
        .procession(["sink", "--connect", &endpoint, "-k"])
        .start();
    let mut first = scene
        .procession(["worker", "--connect", &endpoint, "-j1"])
        .start();
    scene.until_true("the first task hangs", || began(&scene, "at.1"));
    let second = scene
        .procession(["worker", "--connect", &endpoint, "-j1"])
        .start();
    scene.until_true("the second worker has results", || began(&scene, "at.3"));
    second.signal(Signal::TERM);
    second.wait().assert_code(143);
    first.kill();
    let third = scene
        .procession(["worker", "--connect", &endpoint, "-j1"])
        .start();
    ventilator.wait().assert_success();
    third.wait().assert_success();
    sink.wait().assert_success().assert_stdout(&numbers(3));
    scene.assert_nothing_left();
}

/// The socket of a program that is not one of ours was removed and taken over.
#[test]
fn a_path_on_which_another_program_listens_is_in_use() {
    let scene = Scene::new();
    let path = scene.path("theirs");
    let theirs = UnixListener::bind(&path).expect("a socket");
    let endpoint = scene.ipc("theirs");
    let refused = scene
        .procession(["ventilator", "--bind", &endpoint, "true", ":::", "1"])
        .run();
    refused.assert_code(255);
    assert!(
        refused.stderr.contains("address in use"),
        "{}",
        refused.stderr
    );
    assert!(path.exists(), "the other program's socket is gone");
    drop(theirs);
    std::fs::remove_file(&path).expect("still there");
    scene.assert_nothing_left();
}

/// A bind that failed left its lock behind.
#[test]
fn a_bind_that_fails_leaves_no_lock_and_the_file_as_it_was() {
    let scene = Scene::new();
    std::fs::write(scene.path("file"), "text").expect("a file");
    let endpoint = scene.ipc("file");
    let refused = scene
        .procession(["ventilator", "--bind", &endpoint, "true", ":::", "1"])
        .run();
    refused.assert_code(255);
    assert!(
        refused.stderr.contains("not a socket"),
        "{}",
        refused.stderr
    );
    assert_eq!(
        std::fs::read(scene.path("file")).expect("the file"),
        b"text"
    );
    assert!(!scene.path("file.lock").exists());
}

/// After `su` it is another user's, and nothing ran.
#[test]
fn a_runtime_directory_that_cannot_be_used_is_done_without() {
    let scene = Scene::new();
    std::fs::write(scene.path("no-directory"), "").expect("a file");
    let run = scene
        .procession(["run", "echo", ":::", "a"])
        .env("XDG_RUNTIME_DIR", scene.path("no-directory"))
        .run();
    run.assert_success().assert_stdout(b"a\n");
}

/// It was accepted, and waited for somebody who could not come.
#[test]
fn an_endpoint_within_a_process_is_refused() {
    let scene = Scene::new();
    for args in [
        &["ventilator", "--bind", "inproc://x", "true", ":::", "1"][..],
        &["run", "--bind", "inproc://x", "true", ":::", "1"],
        &["worker", "--connect", "inproc://x"],
        &["sink", "--connect", "inproc://x"],
        &["status", "--connect", "inproc://x"],
    ] {
        let refused = scene.procession(args).run();
        refused.assert_code(255);
        assert!(refused.stderr.contains("ipc://PATH"), "{}", refused.stderr);
    }
}

/// Two thousand tasks said the same two thousand times.
#[test]
fn one_reason_for_many_failures_is_said_for_a_few() {
    let scene = Scene::new();
    let run = scene
        .procession(["run", "no-such-command"])
        .input(numbers(200))
        .run();
    run.assert_code(101);
    let said = run.stderr.matches("no-such-command").count();
    assert!((2..=8).contains(&said), "{said} times:\n{}", run.stderr);
    assert!(run.stderr.contains("200 tasks in all"), "{}", run.stderr);
}

/// Filters that answer at their end had one line under way, and waited for each other.
#[test]
fn a_filter_that_answers_at_its_end_gets_all_its_lines() {
    let scene = Scene::new();
    let run = scene
        .procession(["run", "-j1", "-k", "--filter", "sed", "s/^//"])
        .input(numbers(1000))
        .run();
    run.assert_success().assert_stdout(&numbers(1000));
    assert!(!run.stderr.contains("answered nothing"), "{}", run.stderr);
}
