//! Processes that are killed, by themselves or by others, at every stage; and their children.

use std::io::{BufRead, BufReader, Read};
use std::time::{Duration, Instant};

use procession::process::{ProcessEnd, Stdio};
use procession::{Error, Process};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

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

/// Prints the pids of two children, one of them a daemon, and waits for ever.
#[procession::task]
fn parent_of_two() -> Result<(), Error> {
    let child = Process::spawn(nap, (120_000,))?;
    let daemon = Process::builder().daemon(true).spawn(nap, (120_000,))?;
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
    let daemon = Process::builder().daemon(true).spawn(nap, (120_000,))?;
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

/// Does not end by SIGTERM.
#[procession::task]
fn stubborn() -> Result<(), std::io::Error> {
    let flag = std::sync::Arc::default();
    signal_hook::flag::register(15, flag)?;
    println!("ready");
    let end = Instant::now() + DEADLINE;
    while let Some(left) = end.checked_duration_since(Instant::now()) {
        std::thread::sleep(left);
    }
    Ok(())
}

#[procession::task]
fn parent_of_a_stubborn_daemon() -> Result<u32, Box<dyn std::error::Error>> {
    let builder = Process::builder().daemon(true).stdout(Stdio::piped());
    let mut daemon = builder.spawn(stubborn, ())?;
    let mut out = BufReader::new(daemon.stdout.take().ok_or("it is piped")?);
    out.read_line(&mut String::new())?;
    Ok(daemon.pid())
}

#[test]
fn a_daemon_that_ignores_sigterm_is_killed() -> Outcome {
    let since = Instant::now();
    let process = Process::spawn(parent_of_a_stubborn_daemon, ())?;
    let daemon = process.join_timeout(DEADLINE)?.ok_or("it hangs")?;
    assert!(
        since.elapsed() >= Duration::from_secs(2),
        "it had no time to end"
    );
    let state = std::fs::read_to_string(format!("/proc/{daemon}/stat")).unwrap_or_default();
    assert!(!state.contains("(Process-"), "{state}");
    Ok(())
}
