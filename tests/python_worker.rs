//! A worker in another language: `examples/python_worker.py` beside workers of our own.
//!
//! `PROCESSION_TEST_PYTHON` names a Python that has pyzmq and msgpack; `make test` makes one. Without it these tests
//! cannot run, and say so.

mod common;

use std::path::{Path, PathBuf};

use common::{Program, Running, Scene, assert_each_once, numbers, tcp};

/// The interpreter, or nothing after having said why a test did not run.
fn python(test: &str) -> Option<PathBuf> {
    let python = std::env::var_os("PROCESSION_TEST_PYTHON").map(PathBuf::from);
    if python.is_none() {
        eprintln!(
            "NOT RUN: {test}: PROCESSION_TEST_PYTHON does not name a Python with pyzmq and msgpack; \
             `make test` sets it up"
        );
    }
    python
}

fn python_worker(scene: &Scene, python: &Path, endpoint: &str) -> Program {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/python_worker.py");
    scene.program(python).arg(script).arg(endpoint)
}

/// The objects of `--json`.
fn objects(stdout: &[u8]) -> Vec<serde_json::Value> {
    String::from_utf8_lossy(stdout)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|why| panic!("{why}: {line}")))
        .collect()
}

fn by_python(results: &[serde_json::Value]) -> usize {
    results
        .iter()
        .filter(|result| {
            result["worker"]
                .as_str()
                .is_some_and(|id| id.starts_with("python-"))
        })
        .count()
}

/// Waits until so many workers have joined, so that each gets its share.
fn until_joined(scene: &Scene, endpoint: &str, workers: usize) {
    scene.until_true("the workers join", || {
        scene.status(endpoint).is_some_and(|state| {
            let peers = state["peers"].as_array().map_or(&[][..], Vec::as_slice);
            peers.iter().filter(|peer| peer["role"] == "worker").count() >= workers
        })
    });
}

/// Python and two of ours do tasks whose input comes when all of them are there.
/// `by_ticket`: Python is told where, and with which keys, by a ticket, as it cannot find those keys by the port.
fn works_beside_others(test: &str, endpoint: impl Fn(&Scene) -> String, by_ticket: bool) {
    let Some(python) = python(test) else {
        return;
    };
    let scene = Scene::new();
    let endpoint = endpoint(&scene);
    let start = |args: &[&str]| -> Running { scene.procession(args).start() };
    // Started in an order in which nobody is there yet for anybody.
    let by_endpoint = || python_worker(&scene, &python, &endpoint).start();
    let foreign = (!by_ticket).then(by_endpoint);
    let ours = [(); 2].map(|()| start(&["worker", "--connect", &endpoint, "-j1"]));
    let sink = start(&["sink", "--connect", &endpoint, "--json"]);
    let mut ventilator = scene
        .procession(["ventilator", "--bind", &endpoint])
        .args(by_ticket.then_some("--ticket-out=ticket"))
        .arg("sleep 0.01; echo {}")
        .open_input()
        .start();
    let foreign = foreign.unwrap_or_else(|| {
        scene.until_true("the ticket", || scene.path("ticket").exists());
        python_worker(&scene, &python, "ticket").start()
    });
    until_joined(&scene, &endpoint, 3);
    if let Some(mut input) = ventilator.stdin.take() {
        std::io::Write::write_all(&mut input, &numbers(200)).expect("the ventilator reads");
    }
    ventilator.wait().assert_success();
    let sink = sink.wait();
    sink.assert_success();
    foreign.wait().assert_success();
    for worker in ours {
        worker.wait().assert_success();
    }
    let results = objects(&sink.stdout);
    let ids = results
        .iter()
        .map(|result| result["id"].as_u64().unwrap_or(0));
    assert_each_once(test, ids, 1..=200);
    for result in &results {
        let id = &result["id"];
        assert_eq!(result["input"], id.to_string(), "{result}");
        assert_eq!(result["stdout"], format!("{id}\n"), "{result}");
        assert_eq!(
            (&result["exit"], &result["attempts"]),
            (&0.into(), &1.into()),
            "{result}"
        );
    }
    let foreign = by_python(&results);
    assert!(
        (1..200).contains(&foreign),
        "Python did {foreign} of 200 tasks"
    );
    scene.assert_nothing_left();
}

#[test]
fn python_works_beside_rust_over_ipc() {
    works_beside_others(
        "python_works_beside_rust_over_ipc",
        |scene| scene.ipc("jobs"),
        false,
    );
}

#[test]
fn python_works_beside_rust_over_tcp_with_a_ticket() {
    works_beside_others(
        "python_works_beside_rust_over_tcp_with_a_ticket",
        |_| tcp(),
        true,
    );
}

/// Python alone does the tasks of `run -j0`, given as words, as a script, or as the input itself.
#[test]
fn python_understands_each_form_of_command() {
    let Some(python) = python("python_understands_each_form_of_command") else {
        return;
    };
    type Row<'a> = (&'a str, &'a [&'a str], &'a [&'a str], &'a [&'a str]);
    let rows: &[Row] = &[
        (
            "words",
            &["printf", "<%s>"],
            &["a b", "$(id)"],
            &["<a b>", "<$(id)>"],
        ),
        (
            "a word's part",
            &["printf", "%s", "x{}y"],
            &["1", "''"],
            &["x1y", "x''y"],
        ),
        (
            "a script",
            &["echo {} | tr a-z A-Z"],
            &["it's", "a;b"],
            &["IT'S\n", "A;B\n"],
        ),
        ("a script without {}", &["printf %s"], &["a  b"], &["a  b"]),
        ("the input", &[], &["echo 1; echo 2 >&2"], &["1\n"]),
    ];
    for (name, command, values, expected) in rows {
        let scene = Scene::new();
        let endpoint = scene.ipc("jobs");
        let worker = python_worker(&scene, &python, &endpoint).start();
        let run = scene
            .procession(["run", "--bind", &endpoint, "-j0", "-k"])
            .args(*command)
            .arg(":::")
            .args(*values)
            .run();
        run.assert_success();
        assert_eq!(run.text(), expected.concat(), "{name}");
        worker.wait().assert_success();
        scene.assert_nothing_left();
    }
}

#[test]
fn what_fails_in_python_is_reported_and_tried_again() {
    let Some(python) = python("what_fails_in_python_is_reported_and_tried_again") else {
        return;
    };
    let scene = Scene::new();
    let endpoint = scene.ipc("jobs");
    let worker = python_worker(&scene, &python, &endpoint).start();
    // The third is well at its second try; the last one's output goes in more than one batch.
    let run = scene
        .procession([
            "run",
            "--bind",
            &endpoint,
            "-j0",
            "--json",
            "--retries",
            "2",
            ":::",
        ])
        .args([
            "exit 3",
            "kill -9 $$",
            "test $PROCESSION_ATTEMPT = 2",
            "no-such-command-at-all",
            "head -c 500000 /dev/zero | tr '\\0' x",
        ])
        .run();
    run.assert_code(3);
    worker.wait().assert_success();
    let mut results = objects(&run.stdout);
    results.sort_by_key(|result| result["id"].as_u64());
    let ends: Vec<_> = results
        .iter()
        .map(|r| {
            (
                r["exit"].as_i64(),
                r["signal"].as_i64(),
                r["attempts"].as_i64(),
            )
        })
        .collect();
    let end = |exit, signal, attempts| (Some(exit), Some(signal), Some(attempts));
    assert_eq!(
        ends,
        [
            end(3, 0, 2),
            end(0, 9, 2),
            end(0, 0, 2),
            end(127, 0, 2),
            end(0, 0, 1)
        ]
    );
    assert_eq!(results[4]["stdout"], "x".repeat(500_000));
    scene.assert_nothing_left();
}
