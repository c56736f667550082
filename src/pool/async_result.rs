//! A value that is on its way.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;

use super::job::{Job, Reader};
use crate::error::Result;
use crate::wait::{Subscribers, Waitable, Watch, sealed};

/// The value of an [`apply_async`](super::Pool::apply_async) or [`map_async`](super::Pool::map_async), which may not be there yet.
///
/// It is the same for a pool of processes and for a [pool of threads](crate::thread::Pool). It can be asked any number of times, by several threads at once. It need not be: dropped, its calls are made all the same.
/// With [`wait`](crate::wait()) one can wait for several, and for processes and queues beside them. Nobody waits for ever: when the pool is dropped or terminated, or cannot go on, the value is an error that says so.
///
/// ```
/// use procession::Pool;
/// use std::time::Duration;
///
/// #[procession::task]
/// fn square(n: u64) -> u64 {
///     n * n
/// }
///
/// #[procession::main]
/// fn main() -> procession::Result<()> {
///     let pool = Pool::new(1)?;
///     let result = pool.apply_async(square, (7,))?;
///     result.wait();
///     assert!(result.ready());
///     assert_eq!(result.successful(), Some(true));
///     assert_eq!(result.get_timeout(Duration::from_secs(5))?, Some(49));
///     assert_eq!(result.get()?, 49);
///     Ok(())
/// }
/// ```
pub struct AsyncResult<R> {
    of: Arc<dyn Pending<R>>,
}

/// What a result waits for.
pub(crate) trait Pending<R>: Send + Sync {
    /// Waits until it is over; whether it is.
    fn wait(&self, deadline: Option<Instant>) -> bool;
    fn is_over(&self) -> bool;
    /// `None` before it is over.
    fn successful(&self) -> Option<bool>;
    /// Of one that is over.
    fn value(&self) -> Result<R>;
    fn subscribers(&self) -> &Subscribers;
    /// The task's name.
    fn title(&self) -> &str;
}

/// What worker processes send back, which is decoded for everybody who asks.
struct Encoded<R> {
    job: Arc<Job>,
    read: fn(&Job) -> Result<R>,
}

impl<R> Pending<R> for Encoded<R> {
    fn wait(&self, deadline: Option<Instant>) -> bool {
        self.job.wait_done(deadline)
    }

    fn is_over(&self) -> bool {
        self.job.is_over()
    }

    fn successful(&self) -> Option<bool> {
        self.job.successful()
    }

    fn value(&self) -> Result<R> {
        (self.read)(&self.job)
    }

    fn subscribers(&self) -> &Subscribers {
        &self.job.subscribers
    }

    fn title(&self) -> &str {
        self.job.rules.task
    }
}

impl<O: DeserializeOwned + 'static> AsyncResult<O> {
    pub(super) fn one(job: Arc<Job>) -> Self {
        let read = read_one;
        Self::new(Arc::new(Encoded { job, read }))
    }
}

impl<O: DeserializeOwned + 'static> AsyncResult<Vec<O>> {
    pub(super) fn all(job: Arc<Job>) -> Self {
        let read = read_all;
        Self::new(Arc::new(Encoded { job, read }))
    }
}

impl<R> AsyncResult<R> {
    pub(crate) fn new(of: Arc<dyn Pending<R>>) -> Self {
        Self { of }
    }

    /// The value; waits for it.
    ///
    /// # Errors
    /// [`Error::TaskFailed`](crate::Error::TaskFailed), [`TaskTimedOut`](crate::Error::TaskTimedOut) and
    /// [`WorkerDied`](crate::Error::WorkerDied) of the first call that has no value; [`Ended`](crate::Error::Ended) when the pool
    /// was terminated or dropped; [`PoolStart`](crate::Error::PoolStart) when its workers do not start. Of a pool of threads
    /// [`CallFailed`](crate::Error::CallFailed) instead of the first three.
    pub fn get(&self) -> Result<R> {
        self.of.wait(None);
        self.of.value()
    }

    /// The value, if it comes within `timeout`; `None` otherwise, and it may come later.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn get_timeout(&self, timeout: Duration) -> Result<Option<R>> {
        match self.wait_timeout(timeout) {
            true => self.of.value().map(Some),
            false => Ok(None),
        }
    }

    /// Waits until the value, or the error in its place, is there.
    pub fn wait(&self) {
        self.of.wait(None);
    }

    /// Waits for at most `timeout`; whether it is there.
    pub fn wait_timeout(&self, timeout: Duration) -> bool {
        // A time that is beyond the clock's end is no limit.
        self.of.wait(Instant::now().checked_add(timeout))
    }

    /// Whether the value, or the error in its place, is there.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.of.is_over()
    }

    /// Whether there is a value and no error; `None` when it is not [`ready`](Self::ready) (Python raises `ValueError`).
    #[must_use]
    pub fn successful(&self) -> Option<bool> {
        self.of.successful()
    }
}

impl<R> sealed::Sealed for AsyncResult<R> {}

impl<R> Waitable for AsyncResult<R> {
    fn is_ready(&self) -> bool {
        self.ready()
    }

    fn watch<'a>(&'a self, watch: &mut Watch<'a>) {
        watch.subscribe(self.of.subscribers());
    }
}

impl<R> fmt::Debug for AsyncResult<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsyncResult")
            .field("task", &self.of.title())
            .field("ready", &self.ready())
            .finish_non_exhaustive()
    }
}

fn read_one<O: DeserializeOwned>(job: &Job) -> Result<O> {
    for segment in job.arrived() {
        if let Some(value) = Reader::new(segment).next(&job.rules) {
            return value;
        }
    }
    job.ended()?;
    Err(crate::Error::Ended("the pool has ended".to_owned()))
}

fn read_all<O: DeserializeOwned>(job: &Job) -> Result<Vec<O>> {
    job.ended()?;
    let mut values = Vec::with_capacity(job.total().unwrap_or_default() as usize);
    let mut first_error = None;
    for segment in job.arrived() {
        Reader::new(segment).each(&job.rules, |_, value| match value {
            Ok(value) => values.push(value),
            Err(error) => {
                first_error.get_or_insert(error);
            }
        });
    }
    match first_error {
        Some(error) => Err(error),
        None => Ok(values),
    }
}
