//! What the tests of queues share: deadlines for what could hang, and children that are this test program again.
#![allow(dead_code, reason = "no test uses all of it")]

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use procession::{Error, Item, Process, Queue};
use serde::de::DeserializeOwned;

/// What a test returns.
pub type Outcome<T = ()> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Ends a test that hangs; far more than any of them takes.
pub const DEADLINE: Duration = Duration::from_secs(240);

/// Runs a test in a thread of its own, and gives it up when it hangs.
pub fn in_time(test: impl FnOnce() -> Outcome + Send + 'static) -> Outcome {
    within(DEADLINE, test)?
}

/// Runs something in a thread of its own, for no longer than `time`.
pub fn within<T: Send + 'static>(
    time: Duration,
    run: impl FnOnce() -> T + Send + 'static,
) -> Outcome<T> {
    let (tell, told) = mpsc::channel();
    let thread = thread::spawn(move || {
        // Who waited for it may have given up.
        let _ = tell.send(run());
    });
    match told.recv_timeout(time) {
        Ok(value) => Ok(value),
        Err(mpsc::RecvTimeoutError::Timeout) => Err(format!("it hangs: {time:?} are over").into()),
        Err(mpsc::RecvTimeoutError::Disconnected) => match thread.join() {
            Err(panic) => std::panic::resume_unwind(panic),
            Ok(()) => Err("it said nothing".into()),
        },
    }
}

/// The value of a process, which must be there in time.
pub fn value<R: DeserializeOwned + 'static>(process: &Process<R>) -> Outcome<R> {
    let joined = process.join_timeout(DEADLINE)?;
    joined.ok_or_else(|| format!("{process:?} runs and runs").into())
}

/// Kills a process, and waits for its end.
pub fn kill<R: DeserializeOwned + 'static>(process: &Process<R>) -> Outcome {
    process.kill()?;
    match process.join_timeout(DEADLINE) {
        Ok(None) => Err(format!("{process:?} survives SIGKILL").into()),
        _ => Ok(()),
    }
}

/// The next item, which must come in time.
pub fn next<T: Item>(queue: &Queue<T>) -> Outcome<T> {
    Ok(queue.get_timeout(DEADLINE)?)
}

/// Everything until the end, which must come in time.
pub fn rest<T: Item>(queue: &Queue<T>) -> Outcome<Vec<T>> {
    let mut all = Vec::new();
    loop {
        match queue.get_timeout(DEADLINE) {
            Ok(item) => all.push(item),
            Err(Error::ShutDown) => return Ok(all),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Waits until `condition` holds, looking from time to time.
pub fn until(what: &str, mut condition: impl FnMut() -> Outcome<bool>) -> Outcome {
    let deadline = Instant::now() + DEADLINE;
    while !condition()? {
        if Instant::now() >= deadline {
            return Err(format!("it does not come to this: {what}").into());
        }
        thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// Each of these exactly once, in whatever order.
pub fn assert_each_once(mut found: Vec<u64>, expected: std::ops::Range<u64>) {
    found.sort_unstable();
    let twice: Vec<u64> = found
        .windows(2)
        .filter(|pair| pair[0] == pair[1])
        .map(|pair| pair[0])
        .collect();
    let missing: Vec<u64> = expected
        .clone()
        .filter(|number| found.binary_search(number).is_err())
        .collect();
    assert!(
        twice.is_empty()
            && missing.is_empty()
            && found.len() as u64 == expected.end - expected.start,
        "of {expected:?}: {} twice ({:?}…), {} missing ({:?}…)",
        twice.len(),
        twice.iter().take(5).collect::<Vec<_>>(),
        missing.len(),
        missing.iter().take(5).collect::<Vec<_>>()
    );
}
