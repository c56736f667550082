//! A pool of threads that run functions: Python's `multiprocessing.pool.ThreadPool`.
//!
//! | file | what it is |
//! |---|---|
//! | `pool/builder` | settings, and the threads themselves |
//! | `pool/job` | the calls of an `apply` or `map`, and what came of them |
//! | `pool/imap` | results one by one |

mod builder;
mod imap;
mod job;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};

pub use builder::PoolBuilder;
pub use imap::Imap;

use job::{Job, Ticket};

use super::{AnyThread, Function, Queue, Target, current_thread};
use crate::error::{Error, Result};
use crate::pool::AsyncResult;
use crate::pool::callbacks::Callbacks;
use crate::registry::panics::{caught, text_of};
use crate::registry::{Failure, FailureKind};

/// What a thread of the pool does next.
type Work = Box<dyn FnOnce() + Send>;

/// Threads that run functions, closures and [tasks](macro@crate::task), with the verbs of the [pool of processes](crate::Pool).
///
/// ```
/// use procession::thread::Pool;
///
/// let pool = Pool::new(4)?;
/// assert_eq!(pool.apply(|left: u64, right: u64| left + right, (3, 4))?, 7);
/// assert_eq!(pool.map(|n: u64| n * n, 0..5)?, [0, 1, 4, 9, 16]);
/// let first_over_1000 = pool
///     .imap(|n: u64| n * n, 0..)?
///     .map_while(Result::ok)
///     .find(|value| *value > 1000);
/// assert_eq!(first_over_1000, Some(1024));
/// # Ok::<(), procession::Error>(())
/// ```
///
/// Nothing is encoded: arguments and values are moved, so they can be any type that is `Send`, and functions may capture what is `Sync`.
/// What is asked for later ([`AsyncResult`]) can be asked for several times, and so must be `Clone`.
///
/// A call that panics has [`Error::CallFailed`] as its value, and the pool goes on. But a call that aborts takes the program with it,
/// and nobody can kill one that hangs: for those take the pool of processes. A call that waits for another one of the same pool may
/// wait for ever, when all its threads do so.
///
/// [`join`](Self::join) waits until everything is done. Dropped, a pool is [terminated](Self::terminate).
pub struct Pool {
    inner: Arc<Inner>,
}

struct Inner {
    work: Queue<Work>,
    threads: Vec<AnyThread>,
    fate: Arc<Fate>,
    callbacks: Callbacks,
}

/// Why there will be no more, once that is so.
#[derive(Default)]
struct Fate {
    /// No thread gets through its initializer, for this reason.
    does_not_start: OnceLock<String>,
}

impl Fate {
    fn error(&self) -> Error {
        match self.does_not_start.get() {
            Some(why) => Error::PoolStart { why: why.clone() },
            None => Error::Ended("the pool was terminated before this was done".to_owned()),
        }
    }
}

/// What came of one call.
type Outcome<O> = std::result::Result<O, Failed>;

/// Why a call has no value.
#[derive(Clone)]
enum Failed {
    /// It failed itself.
    Call { thread: Box<str>, failure: Failure },
    /// It was not made.
    Ended(Arc<Fate>),
}

impl Failed {
    fn error(&self, task: &str, call: usize) -> Error {
        match self {
            Self::Ended(fate) => fate.error(),
            Self::Call { thread, failure } => Error::CallFailed {
                task: task.into(),
                call: call as u64,
                thread: thread.clone(),
                failure: failure.clone(),
            },
        }
    }
}

/// Makes a call in this thread.
fn make<O>(call: impl FnOnce() -> std::result::Result<O, String>) -> Outcome<O> {
    let returned = |message| Failure {
        message,
        location: None,
        kind: FailureKind::Error,
    };
    caught(|| call().map_err(returned)).map_err(|failure| Failed::Call {
        thread: current_thread().name().into(),
        failure,
    })
}

/// Drops what the user's function has captured, before its values are told; a panic in that throws none of them away.
fn let_go<T>(function: Arc<T>) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(function))) {
        log::error!(
            "what a function of the pool had captured panicked when it was dropped: {}",
            text_of(panic)
        );
    }
}

impl Pool {
    /// A pool of so many threads.
    ///
    /// # Errors
    /// [`Error::ThreadStart`]; [`Error::PoolStart`] when it is to have none.
    pub fn new(workers: u32) -> Result<Self> {
        Self::builder().workers(workers).start()
    }

    /// Settings of a pool.
    pub fn builder() -> PoolBuilder {
        PoolBuilder::default()
    }

    fn hand_in(&self, work: Work) -> Result<()> {
        hand_in(&self.inner, work)
    }

    fn begin_one<M, T: Target<M>>(
        &self,
        target: T,
        args: T::Args,
        on_done: Option<job::OnDone<T::Output>>,
    ) -> Result<Arc<Job<T::Output>>> {
        let job = Job::new(std::any::type_name::<T>(), 1);
        let ticket = Ticket::new(&self.inner, &job, 0, 1);
        self.hand_in(Box::new(move || {
            ticket.fulfil(vec![make(|| target.call_with(args))]);
        }))?;
        job.when_done(&self.inner, on_done);
        Ok(job)
    }

    fn begin_many<M, T: Function<M>>(
        &self,
        function: T,
        items: impl IntoIterator<Item = T::Args>,
        chunksize: Option<u32>,
        on_done: Option<job::OnDone<T::Output>>,
    ) -> Result<Arc<Job<T::Output>>> {
        let mut items: Vec<_> = items.into_iter().collect();
        let job = Job::new(T::title(), items.len());
        let function = Arc::new(function);
        let threads = self.inner.threads.len();
        // From the end, because a vector gives its last items away without moving the others.
        let mut tickets = Vec::new();
        let mut left = items.len();
        let mut sizes = Vec::new();
        while left > 0 {
            let size = match chunksize {
                Some(size) => size.max(1) as usize,
                // The last ones are small, so that all threads end at about the same time.
                None => (left / (4 * threads)).max(1),
            };
            let size = size.min(left);
            sizes.push((job.len() - left, size));
            left -= size;
        }
        for (first, size) in sizes.into_iter().rev() {
            tickets.push((
                items.split_off(first),
                Ticket::new(&self.inner, &job, first, size),
            ));
        }
        for (chunk, ticket) in tickets.into_iter().rev() {
            let function = Arc::clone(&function);
            self.hand_in(Box::new(move || {
                let calls = chunk.into_iter();
                let outcomes = calls.map(|args| make(|| function.call_again(args)));
                let outcomes = outcomes.collect();
                let_go(function);
                ticket.fulfil(outcomes);
            }))?;
        }
        job.when_done(&self.inner, on_done);
        Ok(job)
    }

    /// Calls `target` with `args`, a tuple, in a thread of the pool; waits for the value.
    ///
    /// # Errors
    /// [`Error::CallFailed`]; [`Error::Ended`] when the pool is closed or terminated; [`Error::PoolStart`].
    pub fn apply<M, T: Target<M>>(&self, target: T, args: T::Args) -> Result<T::Output> {
        self.begin_one(target, args, None)?.take_one()
    }

    /// Calls `target` with `args` in a thread of the pool, and returns at once.
    ///
    /// # Errors
    /// [`Error::Ended`] when the pool is closed.
    pub fn apply_async<M, T: Target<M>>(
        &self,
        target: T,
        args: T::Args,
    ) -> Result<AsyncResult<T::Output>>
    where
        T::Output: Clone,
    {
        self.begin_one(target, args, None).map(job::one)
    }

    /// As [`apply_async`](Self::apply_async), and calls `on_result` with the value or `on_error` with the error, in the pool's thread
    /// for such calls (one after the other, as they come). They may use the pool, but what they wait for must not need another callback.
    ///
    /// # Errors
    /// [`Error::Ended`] when the pool is closed.
    pub fn apply_async_with<M, T: Target<M>>(
        &self,
        target: T,
        args: T::Args,
        on_result: impl FnOnce(T::Output) + Send + 'static,
        on_error: impl FnOnce(Error) + Send + 'static,
    ) -> Result<AsyncResult<T::Output>>
    where
        T::Output: Clone,
    {
        let on_done = job::callback(job::one, on_result, on_error);
        self.begin_one(target, args, Some(on_done)).map(job::one)
    }

    /// Calls `function` with each item; waits for all values, and gives them in the order of the items. The items are read at once.
    ///
    /// # Errors
    /// The error of the first item that has no value, when all have been tried, as Python does; to have the others' values use
    /// [`imap`](Self::imap). [`Error::Ended`] when the pool is closed or terminated.
    pub fn map<M, T, A, I>(&self, function: T, items: I) -> Result<Vec<T::Output>>
    where
        T: Function<M, Args = (A,)>,
        I: IntoIterator<Item = A>,
    {
        self.starmap(function, items.into_iter().map(|item| (item,)))
    }

    /// As [`map`](Self::map), with `chunksize` items at a time to a thread, instead of fewer towards the end.
    ///
    /// # Errors
    /// As [`map`](Self::map).
    pub fn map_chunked<M, T, A, I>(
        &self,
        function: T,
        items: I,
        chunksize: u32,
    ) -> Result<Vec<T::Output>>
    where
        T: Function<M, Args = (A,)>,
        I: IntoIterator<Item = A>,
    {
        let items = items.into_iter().map(|item| (item,));
        self.begin_many(function, items, Some(chunksize), None)?
            .take_all()
    }

    /// As [`map`](Self::map), without waiting.
    ///
    /// # Errors
    /// [`Error::Ended`] when the pool is closed.
    pub fn map_async<M, T, A, I>(
        &self,
        function: T,
        items: I,
    ) -> Result<AsyncResult<Vec<T::Output>>>
    where
        T: Function<M, Args = (A,)>,
        T::Output: Clone,
        I: IntoIterator<Item = A>,
    {
        self.starmap_async(function, items.into_iter().map(|item| (item,)))
    }

    /// As [`map_async`](Self::map_async), and calls one of these functions when all is done, in the pool's thread for such calls.
    ///
    /// # Errors
    /// [`Error::Ended`] when the pool is closed.
    pub fn map_async_with<M, T, A, I>(
        &self,
        function: T,
        items: I,
        on_result: impl FnOnce(Vec<T::Output>) + Send + 'static,
        on_error: impl FnOnce(Error) + Send + 'static,
    ) -> Result<AsyncResult<Vec<T::Output>>>
    where
        T: Function<M, Args = (A,)>,
        T::Output: Clone,
        I: IntoIterator<Item = A>,
    {
        let items = items.into_iter().map(|item| (item,));
        let on_done = job::callback(job::all, on_result, on_error);
        self.begin_many(function, items, None, Some(on_done))
            .map(job::all)
    }

    /// As [`map`](Self::map), of a function with any number of arguments: the items are the tuples.
    ///
    /// # Errors
    /// As [`map`](Self::map).
    pub fn starmap<M, T, I>(&self, function: T, items: I) -> Result<Vec<T::Output>>
    where
        T: Function<M>,
        I: IntoIterator<Item = T::Args>,
    {
        self.begin_many(function, items, None, None)?.take_all()
    }

    /// As [`starmap`](Self::starmap), without waiting.
    ///
    /// # Errors
    /// [`Error::Ended`] when the pool is closed.
    pub fn starmap_async<M, T, I>(
        &self,
        function: T,
        items: I,
    ) -> Result<AsyncResult<Vec<T::Output>>>
    where
        T: Function<M>,
        T::Output: Clone,
        I: IntoIterator<Item = T::Args>,
    {
        self.begin_many(function, items, None, None).map(job::all)
    }

    /// Calls `function` with each item, and gives the results one by one, in the order of the items. The input may be endless: it is read
    /// a bounded way ahead, by whoever asks for results.
    ///
    /// # Errors
    /// [`Error::Ended`] when the pool is closed. A call that has no value is an item of the iterator.
    pub fn imap<M, T, A, I>(&self, function: T, items: I) -> Result<Imap<I::IntoIter, T::Output>>
    where
        A: Send + 'static,
        T: Function<M, Args = (A,)>,
        I: IntoIterator<Item = A>,
    {
        Imap::new(&self.inner, function, items.into_iter(), true)
    }

    /// As [`imap`](Self::imap), in the order in which the results come.
    ///
    /// # Errors
    /// As [`imap`](Self::imap).
    pub fn imap_unordered<M, T, A, I>(
        &self,
        function: T,
        items: I,
    ) -> Result<Imap<I::IntoIter, T::Output>>
    where
        A: Send + 'static,
        T: Function<M, Args = (A,)>,
        I: IntoIterator<Item = A>,
    {
        Imap::new(&self.inner, function, items.into_iter(), false)
    }

    /// The threads of this pool.
    #[must_use]
    pub fn threads(&self) -> &[AnyThread] {
        &self.inner.threads
    }

    /// No more calls are taken. What was handed in is done; an `imap` reads no more.
    pub fn close(&self) {
        self.inner.work.shutdown();
    }

    /// Closes the pool, and waits until everything is done, callbacks too, and all its threads have ended. (Python wants `close` called
    /// before.) In one of its own threads it does not wait for that one.
    ///
    /// # Errors
    /// [`Error::PoolStart`] when the pool had given up.
    pub fn join(&self) -> Result<()> {
        self.close();
        for thread in &self.inner.threads {
            // What fails is the value of a call; a thread itself does not.
            let _ = thread.join();
        }
        self.inner.callbacks.end(true);
        match self.inner.fate.does_not_start.get() {
            Some(_) => Err(self.inner.fate.error()),
            None => Ok(()),
        }
    }

    /// Ends the pool now: calls that have not begun are not made, and everybody who waits for one gets [`Error::Ended`]. What runs
    /// goes on to its end, which is not waited for; [`join`](Self::join) does.
    pub fn terminate(&self) {
        self.inner.work.shutdown_now();
        self.inner.callbacks.end(false);
    }
}

fn hand_in(inner: &Inner, work: Work) -> Result<()> {
    inner
        .work
        .put(work)
        .map_err(|_| match inner.fate.does_not_start.get() {
            Some(_) => inner.fate.error(),
            None => Error::Ended("the pool is closed and takes no more tasks".to_owned()),
        })
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.terminate();
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("threads", &self.inner.threads)
            .finish_non_exhaustive()
    }
}
