//! Processes that end badly: panics, errors, exits, signals at every stage, and programs whose files are gone.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio as StdStdio};
use std::time::Duration;

use procession::process::{ProcessEnd, Stdio};
use procession::{Error, Process, Task};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Resource, Rlimit, pidfd_open, setrlimit};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// Ends a test that hangs; far more than any of them takes.
const DEADLINE: Duration = Duration::from_secs(60);

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

fn timeout() -> Timespec {
    Timespec {
        tv_sec: DEADLINE.as_secs() as _,
        tv_nsec: 0,
    }
}

fn pid_of(word: &str) -> Result<Pid, rustix::io::Errno> {
    let pid = word.parse().ok().and_then(Pid::from_raw);
    pid.ok_or(rustix::io::Errno::INVAL)
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

#[procession::task]
fn abort() {
    std::process::abort();
}

#[test]
fn a_signal_is_named() -> Outcome {
    let process = Process::spawn(nap, (600_000,))?;
    process.terminate()?;
    let error = failure(&process)?;
    assert!(error.ends_with(") was killed by SIGTERM"), "{error}");
    assert_eq!(process.exit_code(), Some(-15));
    process.terminate()?;

    let process = Process::spawn(nap, (600_000,))?;
    process.kill()?;
    let error = failure(&process)?;
    assert!(error.contains(") was killed by SIGKILL"), "{error}");
    assert_eq!(process.exit_code(), Some(-9));

    let process = Process::spawn(abort, ())?;
    let error = failure(&process)?;
    assert!(error.ends_with(") was killed by SIGABRT"), "{error}");
    Ok(())
}

#[test]
fn a_child_that_is_killed_before_it_begins_is_an_error() -> Outcome {
    for _ in 0..20 {
        let process = Process::spawn(add, (1, 2))?;
        process.kill()?;
        // Once in a while it is faster.
        match process.join_timeout(DEADLINE) {
            Ok(value) => assert_eq!(value, Some(3)),
            Err(error) => assert!(error.to_string().contains("SIGKILL"), "{error}"),
        }
    }
    Ok(())
}

#[test]
fn a_child_that_is_killed_while_it_is_sent_its_arguments_is_an_error() -> Outcome {
    #[procession::task]
    fn measure(bytes: serde_bytes::ByteBuf) -> usize {
        bytes.len()
    }
    let bytes = serde_bytes::ByteBuf::from(vec![1; 64 << 20]);
    let process = Process::spawn(measure, (bytes,))?;
    process.kill()?;
    assert!(failure(&process)?.contains("SIGKILL"));
    Ok(())
}

/// The number of the system call that sends.
const SENDTO: &str = if cfg!(target_arch = "x86_64") {
    "44 "
} else {
    "206 "
};

#[procession::task]
fn die_while_answering() -> serde_bytes::ByteBuf {
    let main = std::process::id();
    std::thread::spawn(move || {
        loop {
            // The main thread is held by a full channel: part of the value is on its way.
            let call = std::fs::read_to_string(format!("/proc/{main}/task/{main}/syscall"));
            if call.is_ok_and(|call| call.starts_with(SENDTO)) {
                let _ = rustix::process::kill_process(
                    rustix::process::getpid(),
                    rustix::process::Signal::SEGV,
                );
            }
        }
    });
    serde_bytes::ByteBuf::from(vec![7; 256 << 20])
}

#[test]
fn a_child_that_is_killed_in_the_middle_of_its_value_is_an_error_that_says_so() -> Outcome {
    let process = Process::spawn(die_while_answering, ())?;
    let error = match process.join_timeout(DEADLINE) {
        Err(error @ Error::Process { .. }) => error,
        other => {
            return Err(format!("{:?}", other.map(|value| value.map(|bytes| bytes.len()))).into());
        }
    };
    let text = error.to_string();
    assert!(
        text.ends_with(") was killed by SIGSEGV while it sent its value"),
        "{text}"
    );
    let Error::Process { end, .. } = error else {
        return Err("it is one".into());
    };
    let expected = ProcessEnd::Killed {
        signal: 11,
        while_answering: true,
    };
    assert_eq!(end, expected);
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

/// Prints the pids of two children, one of them a daemon, and waits for ever.
#[procession::task]
fn parent_of_two() -> Result<(), Error> {
    let child = Process::spawn(nap, (3_600_000,))?;
    let daemon = Process::builder().daemon(true).spawn(nap, (3_600_000,))?;
    println!("{} {}", child.pid(), daemon.pid());
    child.join()
}

#[test]
fn children_end_when_their_parent_is_killed() -> Outcome {
    let mut parent = Process::builder()
        .stdout(Stdio::piped())
        .spawn(parent_of_two, ())?;
    let mut out = BufReader::new(parent.stdout.take().ok_or("it is piped")?);
    let mut line = String::new();
    out.read_line(&mut line)?;
    assert_eq!(line.split_whitespace().count(), 2, "{line}");
    let children: Vec<_> = line
        .split_whitespace()
        .map(|pid| pidfd_open(pid_of(pid)?, PidfdFlags::empty()))
        .collect::<Result<_, _>>()?;
    parent.kill()?;
    for child in &children {
        let mut fds = [PollFd::new(child, PollFlags::IN)];
        assert_eq!(poll(&mut fds, Some(&timeout()))?, 1, "an orphan lives");
    }
    assert!(failure(&parent)?.contains("SIGKILL"));
    Ok(())
}

#[procession::task]
fn parent_that_returns() -> Result<u32, Error> {
    let daemon = Process::builder().daemon(true).spawn(nap, (3_600_000,))?;
    Process::spawn(nap, (50,))?;
    Ok(daemon.pid())
}

#[test]
fn a_child_that_returns_joins_its_children_and_ends_its_daemons() -> Outcome {
    let mut process = Process::builder()
        .stdout(Stdio::piped())
        .spawn(parent_that_returns, ())?;
    let daemon = process.join_timeout(DEADLINE)?.ok_or("it returns")?;
    let mut nothing = String::new();
    process
        .stdout
        .take()
        .ok_or("it is piped")?
        .read_to_string(&mut nothing)?;
    assert_ne!(daemon, 0);
    Ok(())
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
