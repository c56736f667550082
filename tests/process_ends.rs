//! Processes that end badly by themselves: panics, errors, exits, what cannot be sent or started, and programs whose files are gone.

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio as StdStdio};
use std::time::Duration;

use procession::process::Stdio;
use procession::{Error, Process, Task};
use rustix::process::{Resource, Rlimit, setrlimit};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// Ends a test that hangs; far more than any of them takes.
const DEADLINE: Duration = Duration::from_secs(240);

/// The error of a process, which must be there in time.
fn failure<R>(process: &Process<R>) -> Outcome<String>
where
    R: serde::de::DeserializeOwned + std::fmt::Debug + 'static,
{
    match process.join_timeout(DEADLINE) {
        Ok(value) => Err(format!("{process:?} ended well: {value:?}").into()),
        Err(error) => Ok(error.to_string()),
    }
}

#[procession::task]
fn add(left: u64, right: u64) -> u64 {
    left + right
}

#[procession::task]
fn nap(millis: u64) {
    std::thread::sleep(Duration::from_millis(millis));
}

const EXPLOSION: u32 = line!() + 4;

#[procession::task]
fn explode(words: String) -> u32 {
    panic!("{words}");
}

#[test]
fn a_panic_comes_back_with_its_message_and_place_and_is_on_standard_error() -> Outcome {
    let mut process = Process::builder()
        .name("bomb")
        .stderr(Stdio::piped())
        .spawn(explode, ("boom".to_owned(),))?;
    let mut printed = String::new();
    process
        .stderr
        .take()
        .ok_or("it is piped")?
        .read_to_string(&mut printed)?;
    let error = failure(&process)?;
    let place = format!("tests/process_ends.rs:{EXPLOSION}:5");
    assert!(
        error.ends_with(&format!(") panicked at {place}: boom")),
        "{error}"
    );
    assert_eq!(process.exit_code(), Some(1));
    assert!(printed.starts_with("process bomb:\n"), "{printed}");
    assert!(printed.contains("boom"), "{printed}");
    Ok(())
}

#[procession::task]
fn refuse() -> Result<u32, Box<dyn std::error::Error>> {
    Err("not today".into())
}

#[test]
fn an_error_comes_back_as_text_and_is_on_standard_error() -> Outcome {
    let mut process = Process::builder()
        .name("clerk")
        .stderr(Stdio::piped())
        .spawn(refuse, ())?;
    let mut printed = String::new();
    process
        .stderr
        .take()
        .ok_or("it is piped")?
        .read_to_string(&mut printed)?;
    let error = failure(&process)?;
    assert!(error.ends_with(") returned an error: not today"), "{error}");
    assert_eq!(process.exit_code(), Some(1));
    assert_eq!(printed, "process clerk: error: not today\n");
    Ok(())
}

/// It can be made, and then neither written nor read.
#[derive(Debug)]
struct Secret;

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("it is secret"))
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(serde::de::Error::custom("it is secret"))
    }
}

#[derive(Serialize)]
struct Promise;

impl<'de> Deserialize<'de> for Promise {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        panic!("broken")
    }
}

#[procession::task]
fn hide() -> Secret {
    Secret
}

#[procession::task]
fn keep(_: Promise) {}

#[procession::task]
fn tell(_: Secret) {}

#[test]
fn what_cannot_be_encoded_or_decoded_is_an_error_and_no_hang() -> Outcome {
    let error = failure(&Process::spawn(hide, ())?)?;
    assert!(error.contains("cannot encode its value"), "{error}");
    assert!(error.contains("it is secret"), "{error}");
    let error = Process::spawn(tell, (Secret,))
        .expect_err("it is secret")
        .to_string();
    assert!(
        error.starts_with("cannot encode the arguments of process_ends::tell"),
        "{error}"
    );
    let error = failure(&Process::spawn(keep, (Promise,))?)?;
    assert!(
        error.contains("panicked at tests/process_ends.rs"),
        "{error}"
    );
    Ok(())
}

#[procession::task]
fn leave(code: i32) {
    std::process::exit(code);
}

#[procession::task]
fn leave_without_value(code: i32) -> u32 {
    std::process::exit(code)
}

#[test]
fn an_exit_code_is_kept() -> Outcome {
    let process = Process::spawn(leave, (3,))?;
    let error = failure(&process)?;
    assert!(
        error.ends_with(") exited with code 3 before it gave its value"),
        "{error}"
    );
    assert_eq!(process.exit_code(), Some(3));

    let process = Process::spawn(leave, (0,))?;
    assert_eq!(
        process.join_timeout(DEADLINE)?,
        Some(()),
        "there is no value to wait for"
    );
    let process = Process::spawn(leave_without_value, (0,))?;
    let error = failure(&process)?;
    assert!(
        error.ends_with(") exited with code 0 before it gave its value"),
        "{error}"
    );
    Ok(())
}

/// A task that nobody registered.
#[derive(Clone, Copy)]
struct Unregistered;

impl Task for Unregistered {
    type Args = ();
    type Output = ();
    const NAME: &'static str = "elsewhere::refuze";

    fn call(self, (): ()) -> Result<(), String> {
        Ok(())
    }
}

mod twice {
    #[procession::task(name = "the same name")]
    pub fn one() {}
    #[procession::task(name = "the same name")]
    pub fn other() {}
}

#[test]
fn a_task_must_be_known_by_one_name() {
    let error = Process::spawn(Unregistered, ()).expect_err("nobody knows it");
    let text = error.to_string();
    assert!(
        text.starts_with(
            "this program has no task elsewhere::refuze (it has process_ends::refuse)"
        ),
        "{text}"
    );
    for error in [
        Process::spawn(twice::one, ()).expect_err("two have it"),
        Process::spawn(twice::other, ()).expect_err("two have it"),
    ] {
        assert!(matches!(error, Error::AmbiguousTask { .. }), "{error}");
    }
}

/// Starts children until there is no descriptor left for another; returns the error.
#[procession::task]
fn exhaust_descriptors() -> Result<String, Box<dyn std::error::Error>> {
    let limit = Rlimit {
        current: Some(32),
        maximum: Some(32),
    };
    setrlimit(Resource::Nofile, limit)?;
    let mut children = Vec::new();
    let error = loop {
        match Process::spawn(nap, (600_000,)) {
            Ok(child) => children.push(child),
            Err(error) => break error.to_string(),
        }
    };
    for child in &children {
        child.kill()?;
        child.join().expect_err("it is killed");
    }
    // Now there is room again.
    assert_eq!(Process::spawn(add, (1, 1))?.join()?, 2);
    Ok(error)
}

#[test]
fn without_descriptors_starting_is_an_error_that_says_so() -> Outcome {
    let process = Process::spawn(exhaust_descriptors, ())?;
    let error = process.join_timeout(DEADLINE)?.ok_or("it hangs")?;
    assert!(
        error.starts_with("cannot start process Process-"),
        "{error}"
    );
    assert!(
        error.ends_with("each running child costs two descriptors (see ulimit -n)"),
        "{error}"
    );
    Ok(())
}

/// Run in a copy of this program by the test below: its file is replaced, and its directory removed.
#[test]
#[ignore = "part of another test"]
fn in_a_copy_that_is_replaced() -> Outcome {
    let Some(dir) = std::env::var_os("TEST_COPY").map(PathBuf::from) else {
        return Ok(());
    };
    let program = std::env::current_exe()?;
    assert!(program.starts_with(&dir), "{}", program.display());
    let newer = dir.join("newer");
    std::fs::write(&newer, "#!/bin/sh\nexit 99\n")?;
    std::fs::rename(&newer, &program)?;
    assert_eq!(
        Process::spawn(add, (1, 2))?.join_timeout(DEADLINE)?,
        Some(3),
        "replaced"
    );
    std::fs::remove_dir_all(&dir)?;
    assert!(std::env::current_dir().is_err());
    assert_eq!(
        Process::spawn(add, (3, 4))?.join_timeout(DEADLINE)?,
        Some(7),
        "removed"
    );
    println!("both were found");
    Ok(())
}

#[test]
fn a_replaced_program_and_a_removed_directory_do_no_harm() -> Outcome {
    let outer = tempfile::tempdir()?;
    let dir = outer.path().join("inner");
    std::fs::create_dir(&dir)?;
    let copy = dir.join("program");
    std::fs::copy(std::env::current_exe()?, &copy)?;
    let output = Command::new(&copy)
        .args([
            "--exact",
            "in_a_copy_that_is_replaced",
            "--ignored",
            "--nocapture",
        ])
        .env("TEST_COPY", &dir)
        .current_dir(&dir)
        .stdin(StdStdio::null())
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("both were found"), "{output:?}");
    assert_eq!(output.status, ExitStatus::from_raw(0), "{output:?}");
    Ok(())
}
