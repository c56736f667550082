//! The examples of shared memory, run as programs. They are built by `cargo test`; for this file alone, `cargo build --examples` comes first.

mod common;

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

fn said_nothing_else(ended: &Ended) {
    ended.assert_success();
    assert_eq!(ended.stderr, "", "{}", ended.label);
}

#[test]
fn counters_are_exact_and_careless_ones_count_no_more() {
    let scene = Scene::new();
    let ended = example(&scene, "shared_counter").args(["3", "2000"]).run();
    said_nothing_else(&ended);
    let text = ended.text();
    assert!(
        text.starts_with("expected 6000\natomic   6000\nlocked   6000\ncareless "),
        "{text}"
    );
    let careless = text.trim_end().rsplit(' ').next();
    let careless: u64 = careless
        .and_then(|number| number.parse().ok())
        .unwrap_or_else(|| panic!("{text}"));
    assert!((1..=6000).contains(&careless), "{text}");
    scene.assert_nothing_left();
}

#[test]
fn an_array_is_filled_in_parts_and_set_right_after_a_death() {
    let scene = Scene::new();
    let ended = example(&scene, "shared_array").run();
    said_nothing_else(&ended);
    let text = ended.text();
    let squares: Vec<u64> = (0..20).map(|number| number * number).collect();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], format!("squares: {squares:?}"));
    assert_eq!(lines[1], "it died in the middle");
    assert!(
        lines[2].starts_with("this array may be half changed"),
        "{text}"
    );
    assert_eq!(
        lines[3..],
        ["consistent: false, [70, 0]", "set right: [100, 0]"]
    );
    scene.assert_nothing_left();
}
