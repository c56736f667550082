//! Processes: started, joined, ended, and what becomes of their value in every case.

use procession::Process;

type Outcome = Result<(), Box<dyn std::error::Error>>;

#[procession::task]
fn add(left: u64, right: u64) -> u64 {
    left + right
}

#[procession::task]
fn explode(words: String) {
    panic!("{words}");
}

#[test]
fn a_value_comes_back() -> Outcome {
    let process = Process::spawn(add, (1, 2))?;
    assert_eq!(process.join()?, 3);
    assert_eq!(process.join()?, 3, "a second time");
    assert_eq!(process.exit_code(), Some(0));
    Ok(())
}

#[test]
fn a_panic_comes_back_with_message_and_place() -> Outcome {
    let process = Process::spawn(explode, ("boom".to_owned(),))?;
    let error = process.join().expect_err("it panics").to_string();
    assert!(error.contains("boom"), "{error}");
    assert!(error.contains("tests/processes.rs:14:5"), "{error}");
    assert_eq!(process.exit_code(), Some(1));
    Ok(())
}
