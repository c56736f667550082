//! The examples of pools, run as programs.
//!
//! They are built by `cargo test`; for this file alone, `cargo build --examples` comes first.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Ends a test that hangs; far more than any of them takes.
const DEADLINE: Duration = Duration::from_secs(120);

fn example(name: &str) -> Command {
    let tests = std::env::current_exe().expect("this program has a path");
    let built: Option<PathBuf> = tests.ancestors().nth(2).map(|dir| dir.join("examples"));
    let program = built.expect("it is in target/PROFILE/deps").join(name);
    assert!(
        program.exists(),
        "{} is not there: cargo build --examples",
        program.display()
    );
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).env_remove("RUST_BACKTRACE");
    command
}

/// A program and what it says, which is killed when it is dropped.
struct Running {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Running {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("it starts");
        let stdout = child.stdout.take().expect("it is piped");
        let (say, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if say.send(line).is_err() {
                    break;
                }
            }
        });
        Self { child, lines }
    }

    fn line(&self) -> String {
        self.lines.recv_timeout(DEADLINE).expect("another line")
    }

    /// What else it says until its end, which is a success. Its children have its output too, so none is left.
    fn rest(mut self) -> Vec<String> {
        let mut rest = Vec::new();
        loop {
            match self.lines.recv_timeout(DEADLINE) {
                Ok(line) => rest.push(line),
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => panic!("it hangs; it said {rest:?}"),
            }
        }
        assert!(self.child.wait().expect("it ends").success());
        rest
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended, as a rule.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn pool_shows_values_and_errors() {
    let said = Running::start(&mut example("pool")).rest();
    let text = said.join("\n");
    for expected in [
        "apply: 100",
        "map: [1, 4, 9, 16, 25, 36, 49, 64, 81, 100]",
        "the first square over a million is 1002001",
        "starmap: [42, -3]",
        "divide by zero",
        "signal 6",
        "and the pool goes on: 121",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
}

#[test]
fn pool_server_has_its_work_done_by_pool_worker() {
    let server = Running::start(example("pool_server").arg("tcp://127.0.0.1:*"));
    let first = server.line();
    let endpoint = first.rsplit(' ').next().expect("an endpoint").to_owned();
    let workers: Vec<_> = (0..2)
        .map(|_| Running::start(example("pool_worker").arg(&endpoint)))
        .collect();
    let said = server.rest();
    assert_eq!(said[0], "78498 primes below 1000000");
    for worker in workers {
        worker.rest();
    }
}
