//! How a process with children ends: what `#[procession::main]` does behind the user's function, and every child behind its task.

use crate::hub::outside::Instant;
use std::fmt::{Debug, Display};
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::ExitCode;
use std::time::Duration;

use rustix::process::Signal;

use super::children::living;
use super::inside;

/// How long daemons have between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(2);

/// How often who waits for its children looks whether they can end.
const LOOK: Duration = Duration::from_millis(500);

/// Runs the program's main, or, in a child, its task instead. What `#[procession::main]` writes.
#[doc(hidden)]
pub fn main<T>(main: impl FnOnce() -> T, report: impl FnOnce(T) -> ExitCode) -> ExitCode {
    inside::run_if_child();
    // Nothing of ours is left half done by a panic, and what the user shares with others is the user's.
    let outcome = catch_unwind(AssertUnwindSafe(|| report(main())));
    finish();
    match outcome {
        Ok(code) => code,
        // It has been printed when it happened; the exit code is that of any panic.
        Err(payload) => resume_unwind(payload),
    }
}

/// Joins the threads that are no daemons, ends pools, joins the children that are no daemons, then ends the daemons, and lets what was
/// sent on pipes leave this process.
pub(super) fn finish() {
    // First: they may start processes, use pools, and put into queues.
    crate::thread::join_all();
    // Then, or their workers, which are daemons, would be replaced as they are ended.
    crate::at_exit::run_first();
    end_children();
    crate::at_exit::run();
}

fn end_children() {
    let over = Instant::now();
    // Again and again, for what other threads have started meanwhile.
    loop {
        let workers: Vec<_> = living()
            .into_iter()
            .filter(|child| !child.is_daemon)
            .collect();
        if workers.is_empty() {
            break;
        }
        let pids: Vec<u32> = workers
            .iter()
            .map(|child| child.pid.as_raw_nonzero().get().unsigned_abs())
            .collect();
        crate::queue::end_unread(&pids, over);
        workers[0].wait(Some(LOOK));
    }
    let daemons = living();
    let signal = |signal| {
        for child in &daemons {
            // It has ended, or is another user's by now: no signal would do more.
            let _ = child.signal(signal);
        }
    };
    signal(Signal::TERM);
    let deadline = Instant::now() + GRACE;
    for child in &daemons {
        child.wait(Some(deadline.saturating_duration_since(Instant::now())));
    }
    signal(Signal::KILL);
    for child in &daemons {
        child.wait(Some(GRACE));
    }
}

/// Prints the error that main returned, as commands print theirs.
#[doc(hidden)]
#[must_use]
pub fn report_error(text: String) -> ExitCode {
    let program = std::env::args_os().next().unwrap_or_default();
    let name = std::path::Path::new(&program).file_name();
    let name = name.unwrap_or(program.as_os_str()).to_string_lossy();
    // Not eprintln!, which panics when standard error is closed.
    let _ = std::io::stderr().write_all(format!("{name}: error: {text}\n").as_bytes());
    ExitCode::FAILURE
}

/// An error as text: by its `Display` if it has one, otherwise by its `Debug`. Method resolution takes [`ByDisplay`] first, because
/// it needs one reference less.
#[doc(hidden)]
#[derive(Debug)]
pub struct Shown<'a, E>(pub &'a E);

/// See [`Shown`].
#[doc(hidden)]
pub trait ByDisplay {
    /// The text.
    fn text(&self) -> String;
}

impl<E: Display> ByDisplay for &Shown<'_, E> {
    fn text(&self) -> String {
        // The alternate form shows causes, with error types that have one.
        format!("{:#}", self.0)
    }
}

/// See [`Shown`].
#[doc(hidden)]
pub trait ByDebug {
    /// The text.
    fn text(&self) -> String;
}

impl<E: Debug> ByDebug for Shown<'_, E> {
    fn text(&self) -> String {
        format!("{:?}", self.0)
    }
}

/// What a task's function returned, as it travels. What the attributes write.
#[doc(hidden)]
pub fn outcome<T, E: Display>(returned: Result<T, E>) -> Result<T, String> {
    returned.map_err(|error| format!("{error:#}"))
}
