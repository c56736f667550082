//! The examples of shared data, run as programs. They are built by `cargo test`; for this file alone, `cargo build --examples` comes first.

mod common;

use std::io::Write;
use std::path::PathBuf;

use common::{Ended, Program, Scene};

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

/// The last lines, which are the same wherever the data is.
fn says(ended: &Ended, expected: &str) {
    ended.assert_success();
    assert_eq!(ended.stderr, "", "{}", ended.label);
    assert!(ended.text().ends_with(expected), "{}", ended.text());
}

const COUNTS: &str = "11 words have changed\n5 the\n3 fox\n3 jumps\n";

#[test]
fn words_are_counted_by_several_processes_in_a_dict_of_this_process_and_in_a_file() {
    let scene = Scene::new();
    says(&example(&scene, "shared_dict").run(), COUNTS);
    let url = format!(
        "sqlite:{}?name=words",
        scene.dir().join("words.db").display()
    );
    says(&example(&scene, "shared_dict").args([&*url]).run(), COUNTS);
    // What is in the file is counted on.
    let twice = "11 words have changed\n10 the\n6 fox\n6 jumps\n";
    says(&example(&scene, "shared_dict").args([&*url]).run(), twice);
    scene.assert_nothing_left();
}

#[test]
fn words_are_counted_in_servers_by_the_same_program() {
    for variable in ["PROCESSION_TEST_REDIS", "PROCESSION_TEST_POSTGRES"] {
        let Ok(server) = std::env::var(variable) else {
            let said = format!("the example of shared data, because {variable} is not set");
            let is_required =
                std::env::var_os("PROCESSION_TEST_SERVERS").is_some_and(|all| all == "required");
            assert!(!is_required, "NOT RUN: {said}");
            // Not eprintln!, which the test's harness would keep to itself.
            let _ = writeln!(std::io::stderr(), "NOT RUN: {said}");
            continue;
        };
        let scene = Scene::new();
        let name = format!("words-{}-{}", std::process::id(), fastrand::u64(..));
        let url = format!("{server}?name={name}");
        says(&example(&scene, "shared_dict").args([&*url]).run(), COUNTS);
        scene.assert_nothing_left();
    }
}

#[test]
fn a_bank_is_held_by_a_manager_and_no_money_is_lost() {
    let scene = Scene::new();
    let ended = example(&scene, "manager").run();
    ended.assert_success();
    let text = ended.text();
    assert!(
        text.starts_with("3 entries in the log\n300 in the bank\nBank.withdraw at ipc://"),
        "{text}"
    );
    assert!(
        text.ends_with("returned an error: Ada has 100 only\n"),
        "{text}"
    );
    scene.assert_nothing_left();
}
