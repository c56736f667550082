//! `worker --allow`: a worker runs what its owner has named, whatever it is sent.

mod common;

use common::{Ended, Scene};

/// A ventilator with this command and the values a and b, one worker with these options, and a sink.
fn with_worker(scene: &Scene, worker: &[&str], ventilator: &[&str]) -> Ended {
    let endpoint = scene.ipc("jobs");
    let ventilating = scene
        .procession(["ventilator", "--bind", &endpoint])
        .args(ventilator)
        .start();
    let working = scene
        .procession(["worker", "--connect", &endpoint])
        .args(worker)
        .start();
    let ended = scene
        .procession(["sink", "--connect", &endpoint, "-k", "--joblog", "log"])
        .run();
    ventilating.wait();
    working.wait().assert_success();
    ended
}

#[test]
fn a_program_that_is_named_is_run() {
    let scene = Scene::new();
    let ended = with_worker(
        &scene,
        &["--allow", "gzip,echo"],
        &["echo", "hello", ":::", "a", "b"],
    );
    ended.assert_success();
    assert_eq!(ended.stdout, b"hello a\nhello b\n");
}

#[test]
fn another_is_refused_with_the_option_and_the_host_and_not_tried_again() {
    let scene = Scene::new();
    let ended = with_worker(
        &scene,
        &["--allow", "gzip,/opt/jobs/*"],
        // 0: until it succeeds.
        &["--retries", "0", "touch", ":::", "a", "b"],
    );
    assert_eq!(ended.code(), Some(2), "{}", ended.stderr);
    let said = &ended.stderr;
    let host = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    assert!(
        said.contains("--allow") && said.contains("gzip,/opt/jobs/*"),
        "{said}"
    );
    assert!(said.contains(&host) && said.contains("touch"), "{said}");
    assert!(!scene.path("a").exists() && !scene.path("b").exists());
    let log = common::joblog(&scene.path("log"));
    assert_eq!(log.len(), 2);
}

#[test]
fn a_command_for_the_shell_is_the_program_sh() {
    let scene = Scene::new();
    let ended = with_worker(
        &scene,
        &["--allow", "echo"],
        &["echo x > {}", ":::", "a", "b"],
    );
    assert_eq!(ended.code(), Some(2));
    assert!(ended.stderr.contains("run by sh"), "{}", ended.stderr);
    assert!(!scene.path("a").exists());
    let scene = Scene::new();
    with_worker(
        &scene,
        &["--allow", "sh"],
        &["echo x > {}", ":::", "a", "b"],
    )
    .assert_success();
    assert!(scene.path("a").exists());
}

#[test]
fn a_program_that_comes_with_the_task_is_looked_at_for_each_task() {
    let scene = Scene::new();
    // The value is the program: one is allowed, one is another file of the same name.
    std::fs::copy("/bin/echo", scene.path("echo")).expect("room");
    let other = scene.path("echo");
    let ended = with_worker(
        &scene,
        &["--allow", "echo"],
        &["{}", "ran", ":::", "echo", &other.to_string_lossy()],
    );
    assert_eq!(ended.code(), Some(1), "{}", ended.stderr);
    assert_eq!(ended.stdout, b"ran\n");
}

#[test]
fn a_path_is_matched_by_patterns_of_paths_and_cannot_lead_elsewhere() {
    let scene = Scene::new();
    std::fs::create_dir(scene.path("bin")).expect("room");
    std::fs::copy("/bin/echo", scene.path("bin/say")).expect("room");
    std::fs::copy("/bin/echo", scene.path("say")).expect("room");
    let pattern = scene.path("bin/*");
    let inside = scene.path("bin/say");
    let outside = scene.path("bin/../say");
    let ended = with_worker(
        &scene,
        &["--allow", &pattern.to_string_lossy()],
        &[
            "{}",
            "ran",
            ":::",
            &inside.to_string_lossy(),
            &outside.to_string_lossy(),
        ],
    );
    assert_eq!(ended.code(), Some(1), "{}", ended.stderr);
    assert_eq!(ended.stdout, b"ran\n");
}

#[test]
fn a_filter_that_is_not_named_is_refused_for_every_line() {
    let scene = Scene::new();
    let ended = with_worker(
        &scene,
        &["--allow", "sed"],
        &["--filter", "--retries", "0", "tee", "out", ":::", "a", "b"],
    );
    assert_eq!(ended.code(), Some(2), "{}", ended.stderr);
    assert!(ended.stderr.contains("--allow"), "{}", ended.stderr);
    assert!(!scene.path("out").exists());
}
