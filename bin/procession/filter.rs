//! `--filter`: one process a slot that stays. Each task is a line to its standard input, each result the line that it
//! answers, in order.
//!
//! Two threads: one takes tasks, which may block for long; the other does all that concerns the process, and never
//! blocks in a write while there is something to read. At most [`WINDOW`] bytes of tasks are under way, so that a
//! filter is kept busy and a slow one does not hoard.
//!
//! What a filter must do is to answer one line to each line. When it does not:
//!
//! - **It dies** (a signal, an exit other than 0, an exit while its input is open or not read to the end): it is started again with what it
//!   had not answered, see the module `window`. An answer that it had begun is dropped.
//! - **It answers too much** (a line while nothing is under way): nobody can say which line was the one too many. It
//!   is ended, and the tasks whose answers were read together with it fail; if there are none, the next task does.
//! - **It answers too little** (its input was closed, it has read all of it and exits with 0): what is unanswered fails. A last line without
//!   terminator counts as an answer.
//! - **It answers nothing for long**: a warning says how to make it answer line by line. If it has read all that it
//!   was given, its input is closed, so that it writes what it buffers, and another is started for what comes.
//!
//! Its standard error is ours.

mod driver;
mod intake;
mod process;
mod window;

use std::io;
use std::time::Duration;

use bytes::Bytes;
use procession::command::Invocation;
use rustix::process::Signal;

use self::driver::Driver;
use self::intake::{CloseOnDrop, Intake};
use crate::guardian::GroupSlot;
use crate::stop::Stop;

/// How many bytes of tasks are under way to one filter at most.
pub const WINDOW: usize = 256 << 10;
/// How many tasks are under way to one filter at most: empty lines count as well.
pub const WINDOW_TASKS: usize = 32 << 10;
/// After how long without any answer the warning is given.
pub const NO_PROGRESS: Duration = Duration::from_secs(5);

/// Tasks with what says whose they are.
pub type Tasks<K> = Vec<(K, Bytes)>;
/// What became of them.
pub type Answers<K> = Vec<(K, Outcome)>;

/// Where tasks come from and answers go.
pub trait FilterTasks: Sync {
    /// What says whose answer it is.
    type Token: Send;

    /// Takes up to this many tasks of up to this many bytes in all, and at least one; blocks until there is one. None:
    /// there will be no more, and the filter's input ends. It must return (None) when the run is stopped.
    ///
    /// # Errors
    /// What [`run`] then returns, when what was taken before is answered.
    fn take(&self, max_tasks: usize, max_bytes: usize) -> io::Result<Option<Tasks<Self::Token>>>;

    /// Takes answers, in the order of the tasks.
    fn answer(&self, answers: Answers<Self::Token>);
}

/// What became of one task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The line that the filter answered, without its terminator.
    Line(Bytes),
    /// No answer.
    Failed {
        /// The exit code of the filter, or 127 or 126 if it could not be started; 0 if a signal ended it.
        exit: i32,
        /// The signal that ended it, or 0.
        signal: i32,
        /// What happened and what to do.
        note: String,
    },
}

/// Which filter, and where.
#[derive(Clone, Copy, Debug)]
pub struct FilterSpec<'a> {
    /// The command.
    pub invocation: &'a Invocation,
    /// Whether tasks and answers end in NUL instead of a newline.
    pub null: bool,
    /// The slot's number, from 1: `PROCESSION_SLOT`.
    pub slot: u32,
    /// The worker's id: `PROCESSION_WORKER`.
    pub worker: &'a str,
    /// After how long without any answer it is urged: [`NO_PROGRESS`].
    pub no_progress: Duration,
}

/// Runs the filter of one slot until there are no more tasks, or the run is stopped; then it has exited.
///
/// # Errors
/// When tasks cannot be taken, when the system has no descriptor left, or when the filter has answered too much and
/// there is no task left that could carry the message.
pub fn run<T: FilterTasks>(
    spec: &FilterSpec<'_>,
    tasks: &T,
    slot: &GroupSlot,
    stop: &Stop,
) -> io::Result<()> {
    let intake = Intake::new()?;
    std::thread::scope(|scope| {
        scope.spawn(|| intake.fill_from(tasks, spec.null));
        // However the driver ends, the other thread must end as well.
        let _closed = CloseOnDrop(&intake);
        Driver::new(spec, tasks, slot, stop, &intake).drive()
    })
}

fn terminator(null: bool) -> u8 {
    if null { 0 } else { b'\n' }
}

fn failed(exit: i32, signal: i32, note: impl Into<String>) -> Outcome {
    Outcome::Failed {
        exit,
        signal,
        note: note.into(),
    }
}

fn stopped() -> Outcome {
    failed(
        0,
        Signal::TERM.as_raw(),
        "not answered: the run was stopped",
    )
}

#[cfg(test)]
mod tests;
