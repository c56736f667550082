//! [`Thread`]: the handle by which a thread is joined.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::deadline;
use super::living::Record;
use super::{Builder, Target};
use crate::error::{Error, Result};
use crate::wait::{Waitable, Watch, sealed};

/// A thread that was started: Python's `threading.Thread`, with the shape of [`Process`](crate::Process).
///
/// It can be used by several threads at once. When it is dropped, the thread goes on.
///
/// ```
/// use procession::thread::Thread;
///
/// fn add(left: u64, right: u64) -> u64 {
///     left + right
/// }
///
/// let thread = Thread::spawn(add, (1, 2))?;
/// assert_eq!(thread.join()?, 3);
/// assert_eq!(thread.join()?, 3); // any number of times
///
/// let failed = Thread::builder().name("divider").spawn(|by: u64| 1 / by, (0,))?;
/// let error = failed.join().expect_err("there is no value");
/// assert!(error.to_string().starts_with("thread divider panicked at "), "{error}");
/// assert!(error.to_string().ends_with("attempt to divide by zero"), "{error}");
/// # Ok::<(), procession::Error>(())
/// ```
pub struct Thread<R> {
    any: AnyThread,
    value: Arc<Mutex<Option<R>>>,
}

impl Thread<()> {
    /// Starts a thread that calls `target` with `args`, a tuple. `target` is a function, a closure or a
    /// [task](macro@crate::task); of a task that returns a `Result<T, E>` the thread's value is `T`.
    ///
    /// A closure's arguments need their types: `|number: u64| …`. Arguments of another type or number do not compile:
    ///
    /// ```compile_fail
    /// use procession::thread::Thread;
    ///
    /// fn clock(interval: f64) {}
    /// Thread::spawn(clock, ("three",))?;
    /// # Ok::<(), procession::Error>(())
    /// ```
    ///
    /// Nor does what cannot be sent to another thread:
    ///
    /// ```compile_fail
    /// # use procession::thread::Thread;
    /// let text = std::rc::Rc::new("three");
    /// Thread::spawn(move || println!("{text}"), ())?;
    /// # Ok::<(), procession::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::ThreadStart`] when the system does not start it.
    pub fn spawn<M, T: Target<M>>(target: T, args: T::Args) -> Result<Thread<T::Output>> {
        Builder::new().spawn(target, args)
    }

    /// A thread with a name, a daemon, one with another stack.
    pub fn builder() -> Builder {
        Builder::new()
    }
}

impl<R> Thread<R> {
    pub(super) fn new(record: Arc<Record>, value: Arc<Mutex<Option<R>>>) -> Self {
        let any = AnyThread { record };
        Self { any, value }
    }

    /// Waits until it has ended, and returns a clone of its value. Can be called again, and by several threads.
    ///
    /// # Errors
    /// [`Error::Thread`] when it panicked or returned an error; [`Error::JoinsItself`].
    pub fn join(&self) -> Result<R>
    where
        R: Clone,
    {
        self.any.join()?;
        self.value.lock().clone().ok_or_else(|| self.no_value())
    }

    /// As [`join`](Self::join), for at most `timeout`; `None` when it still runs then.
    ///
    /// # Errors
    /// As [`join`](Self::join).
    pub fn join_timeout(&self, timeout: Duration) -> Result<Option<R>>
    where
        R: Clone,
    {
        match self.any.join_timeout(timeout)? {
            true => Ok(self.value.lock().clone()),
            false => Ok(None),
        }
    }

    /// As [`join`](Self::join), and the value itself: for those that cannot be cloned, and for large ones.
    ///
    /// # Errors
    /// As [`join`](Self::join).
    pub fn join_once(self) -> Result<R> {
        self.any.join()?;
        let value = self.value.lock().take();
        value.ok_or_else(|| self.no_value())
    }

    fn no_value(&self) -> Error {
        Error::Ended(format!("the value of thread {} was taken", self.name()))
    }
}

impl<R> Deref for Thread<R> {
    type Target = AnyThread;

    fn deref(&self) -> &AnyThread {
        &self.any
    }
}

impl<R> sealed::Sealed for Thread<R> {}

impl<R> Waitable for Thread<R> {
    fn is_ready(&self) -> bool {
        self.any.is_ready()
    }

    fn watch<'a>(&'a self, watch: &mut Watch<'a>) {
        self.any.watch(watch);
    }
}

impl<R> fmt::Debug for Thread<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.any.record.fmt_as("Thread", f)
    }
}

/// A thread whatever its value is: it can be joined, but the value is not looked at.
#[derive(Clone)]
pub struct AnyThread {
    pub(super) record: Arc<Record>,
}

impl AnyThread {
    /// Its name: the one that it was given, or `Thread-1`, counted from 1.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.record.name
    }

    /// Its number in this process, which no other thread has or will have.
    #[must_use]
    pub fn ident(&self) -> u64 {
        self.record.ident
    }

    /// The system's number for it; `None` when it has not begun.
    #[must_use]
    pub fn native_id(&self) -> Option<u32> {
        self.record.native_id()
    }

    /// Whether it is a daemon.
    #[must_use]
    pub fn daemon(&self) -> bool {
        self.record.is_daemon
    }

    /// Whether it still runs.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.record.is_alive()
    }

    /// As that of a process: 0 when it gave its value, 1 after a panic or an error, `None` while it runs.
    #[must_use]
    pub fn exit_code(&self) -> Option<i32> {
        self.record.exit_code()
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// [`Error::Thread`] when it panicked or returned an error; [`Error::JoinsItself`].
    pub fn join(&self) -> Result<()> {
        self.record.check_not_current()?;
        self.record.wait(None);
        self.record.wait_gone();
        self.record.outcome()
    }

    /// As [`join`](Self::join), for at most `timeout`; whether it has ended.
    ///
    /// # Errors
    /// As [`join`](Self::join).
    pub fn join_timeout(&self, timeout: Duration) -> Result<bool> {
        self.record.check_not_current()?;
        match self.record.wait(deadline(timeout)) {
            true => self.record.outcome().map(|()| true),
            false => Ok(false),
        }
    }
}

impl sealed::Sealed for AnyThread {}

impl Waitable for AnyThread {
    fn is_ready(&self) -> bool {
        !self.is_alive()
    }

    fn watch<'a>(&'a self, watch: &mut Watch<'a>) {
        watch.subscribe(&self.record.subscribers);
    }
}

impl fmt::Debug for AnyThread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.record.fmt_as("AnyThread", f)
    }
}
