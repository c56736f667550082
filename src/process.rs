//! Processes that run a function of this program, or a type's `run` method: Python's `multiprocessing.Process`.
//!
//! ```
//! use procession::Process;
//!
//! #[procession::task]
//! fn add(left: u64, right: u64) -> u64 {
//!     left + right
//! }
//!
//! #[procession::main]
//! fn main() -> procession::Result<()> {
//!     let process = Process::spawn(add, (1, 2))?;
//!     assert_eq!(process.join()?, 3);
//!     Ok(())
//! }
//! ```
//!
//! For many small tasks take a pool, which keeps its processes; for waiting, rather than computing, take threads.
//!
//! # What a child is
//!
//! The same program, run again from the start (Python's `spawn`; there is no `fork`, which copies locks that other threads hold).
//! It is found by its inode and not by its path, so it does not matter that the file was replaced or removed, or that the current
//! directory is gone. What it is to do it reads from a channel that nobody else can open; arguments of any size travel over it, and
//! nothing of them is in the environment or on the command line. The child sees the arguments, environment and directory of its
//! parent, and has an empty standard input (see [`Builder::stdin`]).
//!
//! With [`#[procession::main]`](macro@crate::main) the task is run instead of the user's `main`. Without it (under `cargo test`, or
//! in a program that has its own `main`) it is run before `main`, so the code in `main` is never run by a child:
//!
//! ```
//! # use procession::Process;
//! #[procession::task]
//! fn add(left: u64, right: u64) -> u64 {
//!     left + right
//! }
//!
//! fn main() -> procession::Result<()> {
//!     let process = Process::spawn(add, (1, 2))?;
//!     assert_eq!(process.join()?, 3);
//!     Ok(())
//! }
//! ```
//!
//! Such a program joins its processes itself: when its `main` returns they are ended.
//!
//! # How it ends
//!
//! | the child | exit code | [`join`](Process::join) |
//! |---|---|---|
//! | returns a value | 0 | the value |
//! | returns `Err` | 1 | the error's text |
//! | panics | 1 | the message and where |
//! | calls `std::process::exit(n)` | n | that it did; for 0 and no value to wait for, `()` |
//! | is killed by a signal | minus the signal's number | the signal's name |
//!
//! A child ends when its parent ends, however that happens, SIGKILL included: there are no orphans. What distinguishes a *daemon*
//! ([`Builder::daemon`]) is what [`#[procession::main]`](macro@crate::main) does at the end: it joins the others, and ends the
//! daemons. So **join a daemon before `main` ends** if what it does matters. A daemon may have no children.
//!
//! Ctrl-C on a terminal reaches parent and children alike, as they are one process group (a pool's workers leave it to their
//! parent). [`Process`] handles can be dropped: the
//! child goes on.
//!
//! # Cost
//!
//! A child costs its start (about a millisecond), two descriptors while it runs, and one thread for all of them.

use std::fmt;
use std::marker::PhantomData;
use std::process::{ChildStderr, ChildStdin, ChildStdout};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use serde::de::{DeserializeOwned, IgnoredAny};

use crate::error::{Error, Result};
use crate::registry::Task;
use crate::wait::{Waitable, Watch, sealed};

mod builder;
mod channel;
mod child;
mod children;
pub(crate) mod end;
#[doc(hidden)]
pub mod ending;
mod identity;
#[doc(hidden)]
pub mod inside;
mod run;
mod start;
mod stdio;

pub use builder::Builder;
pub use end::ProcessEnd;
pub(crate) use end::signal_name;
pub use identity::{CurrentProcess, Parent, current_process, parent_process};
pub use run::Run;
pub use stdio::Stdio;

pub use crate::wait::wait;
use channel::Answer;
use child::{Child, End};

/// A process that was started: the handle by which it is joined, or ended.
///
/// It can be used by several threads at once. When it is dropped, the process goes on.
pub struct Process<R> {
    child: Arc<Child>,
    /// Its standard input, where that is [`Stdio::piped`]. To be taken, and dropped when there is no more to be read.
    pub stdin: Option<ChildStdin>,
    /// Its standard output, where that is [`Stdio::piped`].
    pub stdout: Option<ChildStdout>,
    /// Its standard error, where that is [`Stdio::piped`].
    pub stderr: Option<ChildStderr>,
    value: PhantomData<fn() -> R>,
}

impl Process<()> {
    /// Starts a process that calls `task` with `args`, a tuple.
    ///
    /// Returns as soon as the process exists, without waiting for it to begin. Arguments of another type or number do not
    /// compile:
    ///
    /// ```compile_fail,E0308
    /// use procession::Process;
    ///
    /// #[procession::task]
    /// fn clock(interval: f64) {}
    ///
    /// #[procession::main]
    /// fn main() -> procession::Result<()> {
    ///     Process::spawn(clock, ("three",))?;
    ///     Ok(())
    /// }
    /// ```
    ///
    /// Nor does what is no task, a closure for example:
    ///
    /// ```compile_fail,E0277
    /// # use procession::Process;
    /// fn clock(interval: f64) {}
    /// # fn main() -> procession::Result<()> {
    /// Process::spawn(clock, (3.0,))?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Start`] when the system does not start it; [`Error::DaemonWithChildren`] in a daemon; [`Error::AmbiguousTask`]
    /// when two tasks have the same name; [`Error::Encoding`] when the arguments cannot be encoded.
    pub fn spawn<T: Task>(task: T, args: T::Args) -> Result<Process<T::Output>> {
        Builder::new().spawn(task, args)
    }

    /// A process with a name, a daemon, one with another environment or other standard streams.
    pub fn builder() -> Builder {
        Builder::new()
    }
}

impl<R> Process<R> {
    fn of(child: Arc<Child>) -> Self {
        Self {
            child,
            stdin: None,
            stdout: None,
            stderr: None,
            value: PhantomData,
        }
    }

    /// Its number.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its name: the one that it was given, or `Process-1`, counted from 1 in each process.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.child.name
    }

    /// Whether it is a daemon.
    #[must_use]
    pub fn daemon(&self) -> bool {
        self.child.is_daemon
    }

    /// Whether it still runs.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.child.end().is_none()
    }

    /// Its exit code: 0, 1 after a panic or an error, what it gave to `std::process::exit`, or minus the number of the signal
    /// that killed it. `None` while it runs (or if somebody else took it, see [`ProcessEnd::Unknown`]).
    #[must_use]
    pub fn exit_code(&self) -> Option<i32> {
        self.child.end().and_then(|end| end.code)
    }

    /// Asks it to end, by SIGTERM, and does not wait for that. That it has ended already is no error.
    ///
    /// What it holds is not freed in order, and a queue that it was just reading or writing may lose items: prefer a message.
    ///
    /// # Errors
    /// When the system forbids it: the process has become another user's.
    pub fn terminate(&self) -> Result<()> {
        self.child.signal(Signal::TERM)
    }

    /// Ends it, by SIGKILL, and does not wait for that. That it has ended already is no error.
    ///
    /// # Errors
    /// As [`terminate`](Self::terminate).
    pub fn kill(&self) -> Result<()> {
        self.child.signal(Signal::KILL)
    }
}

impl<R: DeserializeOwned + 'static> Process<R> {
    /// Waits until it has ended, and returns its value. Can be called again, and by several threads: each gets the value.
    ///
    /// It never waits for anything but the end of the process; what the process wrote to queues need not be read before.
    ///
    /// # Errors
    /// [`Error::Process`] when it panicked, returned an error, exited or was killed.
    pub fn join(&self) -> Result<R> {
        loop {
            if let Some(value) = self.child.wait(None) {
                return self.value(&value);
            }
        }
    }

    /// As [`join`](Self::join), for at most `timeout`; `None` when it still runs then.
    ///
    /// # Errors
    /// As [`join`](Self::join).
    pub fn join_timeout(&self, timeout: Duration) -> Result<Option<R>> {
        match self.child.wait(Some(timeout)) {
            Some(end) => self.value(&end).map(Some),
            None => Ok(None),
        }
    }

    fn value(&self, end: &End) -> Result<R> {
        let decode = |bytes| {
            rmp_serde::from_slice(bytes).map_err(|error| Error::Encoding {
                what: format!("cannot read the value of process {}", self.name()),
                why: error.to_string(),
            })
        };
        let failed = |what| Err(self.child.error(what));
        let is_torn = matches!(end.answer, Answer::Part);
        match (&end.answer, end.code) {
            (Answer::Failure(failure), _) => failed(ProcessEnd::Failed(failure.clone())),
            (_, Some(code)) if code < 0 => failed(ProcessEnd::Killed {
                signal: -code,
                while_answering: is_torn,
            }),
            (Answer::Value(bytes), Some(0) | None) => decode(bytes),
            (Answer::Nothing, Some(0)) if is_nothing::<R>() => decode(&[NIL]),
            (_, Some(code)) => failed(ProcessEnd::Exited(code)),
            (_, None) => failed(ProcessEnd::Unknown),
        }
    }
}

/// The MessagePack of `()`.
const NIL: u8 = 0xc0;

/// Whether there is no value to wait for, so that an exit with code 0 says all.
fn is_nothing<R: 'static>() -> bool {
    use std::any::TypeId;
    [TypeId::of::<()>(), TypeId::of::<IgnoredAny>()].contains(&TypeId::of::<R>())
}

impl<R> sealed::Sealed for Process<R> {}

impl<R> Waitable for Process<R> {
    fn is_ready(&self) -> bool {
        !self.is_alive()
    }

    fn watch<'a>(&'a self, watch: &mut Watch<'a>) {
        watch.subscribe(&self.child.subscribers);
    }
}

impl<R> fmt::Debug for Process<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process")
            .field("name", &self.name())
            .field("pid", &self.pid())
            .field("daemon", &self.daemon())
            .field("exit_code", &self.exit_code())
            .finish_non_exhaustive()
    }
}

/// A process whatever its value is: it can be joined, but the value is not looked at.
pub type AnyProcess = Process<IgnoredAny>;

/// The children of this process that run, in the order in which they were started.
///
/// Python's `active_children` also reaps those that have ended; here that is done at once, by itself.
#[must_use]
pub fn active_children() -> Vec<AnyProcess> {
    children::living().into_iter().map(Process::of).collect()
}

/// How many processors this process may use: its affinity and its control group's quota count, not only what the machine has. At
/// least 1.
///
/// ```
/// assert!(procession::process::cpu_count() >= 1);
/// ```
#[must_use]
pub fn cpu_count() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
