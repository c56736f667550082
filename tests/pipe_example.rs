//! The example of pipes, run as a program.

use std::process::{Command, Stdio};

#[test]
fn both_processes_say_what_they_received_and_the_parent_sees_the_end() {
    let tests = std::env::current_exe().expect("this program has a path");
    let profile = tests
        .ancestors()
        .nth(2)
        .expect("it is in target/PROFILE/deps");
    let output = Command::new(profile.join("examples/pipe"))
        .stdin(Stdio::null())
        .output()
        .expect("cargo build --examples");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    for line in [
        "child: received \"hello\"",
        "parent: received [\"hello\", \"HELLO\"]",
        "child: received 10 bytes",
        "parent: received 4 bytes: ..2345..",
        "child: closed its end",
        "parent: end of file",
    ] {
        assert!(
            said.lines().any(|said| said == line),
            "no {line:?} in {said}"
        );
    }
}
