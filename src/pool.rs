//! A pool of processes that run tasks: Python's `multiprocessing.Pool`.
//!
//! ```
//! use procession::Pool;
//!
//! #[procession::task]
//! fn square(n: u64) -> u64 {
//!     n * n
//! }
//!
//! #[procession::main]
//! fn main() -> procession::Result<()> {
//!     let pool = Pool::new(4)?;
//!     assert_eq!(pool.apply(square, (7,))?, 49);
//!     assert_eq!(pool.map(square, 0..5)?, [0, 1, 4, 9, 16]);
//!     let first_over_1000 = pool
//!         .imap(square, 0..)?
//!         .map_while(Result::ok)
//!         .find(|value| *value > 1000);
//!     assert_eq!(first_over_1000, Some(1024));
//!     Ok(())
//! }
//! ```
//!
//! Choose it for calls that compute and that do not know of one another. For one long function take a [`Process`](crate::Process);
//! for what only waits, threads.
//!
//! | verb | gives | the input is read |
//! |---|---|---|
//! | [`apply`](Pool::apply) | a value, waits for it | |
//! | [`apply_async`](Pool::apply_async) | an [`AsyncResult`] | |
//! | [`map`](Pool::map), [`starmap`](Pool::starmap) | a `Vec` in the order of the items, waits for all | as there is room |
//! | [`map_async`](Pool::map_async), [`starmap_async`](Pool::starmap_async) | an [`AsyncResult`] of such a `Vec` | at once |
//! | [`imap`](Pool::imap) | an iterator of results in the order of the items | as results are taken: it may be endless |
//! | [`imap_unordered`](Pool::imap_unordered) | the same, in the order in which they come | the same |
//!
//! [`Pool::tasks`] has the same verbs with settings: chunk size, time limit, retries.
//!
//! A pool can be used by any number of threads at once, and several maps go on at the same time. It cannot be sent to a worker, and a
//! worker can have no pool of its own ([`Error::DaemonWithChildren`]).
//!
//! # Chunks
//!
//! Brief calls are sent many at a time: as many as take about 2 ms, by what was measured of this very map, fewer towards the end; long
//! ones one by one. A chunk that turns out to take longer stops after 20 ms, and others get the rest. So there is no chunk size to be
//! found by trying, and [`chunksize`](Tasks::chunksize) is for when you know better.
//!
//! # When something goes wrong
//!
//! | | then |
//! |---|---|
//! | a call panics, or returns `Err` | that is its result: [`Error::TaskFailed`] with the message, and where. The other calls of its chunk have their values |
//! | a worker is killed, or runs out of memory | it is replaced at once, and what it had is run again, [`retries`](PoolBuilder::retries) times at most, alone on a worker; then it is [`Error::WorkerDied`], with the signal. (Python's `Pool` waits for ever.) So a call may run more than once |
//! | a call takes longer than its [`time_limit`](Tasks::time_limit) | its worker is killed and replaced; the call is [`Error::TaskTimedOut`] |
//! | a worker cannot be replaced, because descriptors, processes or memory have run out | it is tried again, up to a second apart, and the other workers go on. When there is none at all for [`patience`](PoolBuilder::patience), the pool gives up: [`Error::PoolStart`] with the system's reason for everybody who waits |
//! | the initializer fails, or workers die before they are ready, again and again | when no other worker is there, the pool gives up: [`Error::PoolStart`] for everybody who waits |
//! | the pool is dropped or terminated | [`Error::Ended`] for everybody who waits |
//! | a worker on another host is not heard for three heartbeats | its calls are made elsewhere |
//!
//! # How it ends
//!
//! [`join`](Pool::join) waits until everything is done. Dropped, a pool is [terminated](Pool::terminate), as by Python's `with`: what
//! runs is killed. Either way no process is left, and neither waits for ever.
//!
//! One that is not dropped (in a `static`, leaked, forgotten) is terminated when the program ends: behind `main`, before its other
//! children are waited for, and at `std::process::exit`. When the program is killed, its workers end at once, and what it left in the
//! [private directory](crate::wire::runtime_dir) is removed by the next program that makes a pool or a queue.
//!
//! Workers do not end by Ctrl-C, which a terminal sends to them as well: the program decides. If it has no handler it ends, and its
//! workers with it; if it has one, what runs goes on until the program terminates the pool. (In Python an initializer does that by
//! hand.) Commands that a task starts get their Ctrl-C as ever; an [initializer](PoolBuilder::initializer) can set another handler.
//!
//! # Over hosts
//!
//! ```no_run
//! use procession::Pool;
//! # #[procession::task]
//! # fn square(n: u64) -> u64 { n * n }
//! # fn one() -> procession::Result<()> {
//! // One program:
//! let pool = Pool::bind("tcp://127.0.0.1:5557")?;
//! let squares = pool.map(square, 0..1_000_000)?;
//! # Ok(()) }
//! # fn other() -> procession::Result<()> {
//! // Any number of others, which have the same tasks (tunnel the port, or see PoolBuilder::insecure):
//! Pool::worker("tcp://127.0.0.1:5557").workers(16).run()?;
//! # Ok(()) }
//! ```
//!
//! # How it is made
//!
//! A pool is a [pipeline](crate::pipeline): a ventilator and the sink in this process, and each worker process is a worker with one
//! slot. See [reliability](https://github.com/procession-rs/procession/blob/main/docs/reliability.md) for what that gives.
//!
//! | file | what it is |
//! |---|---|
//! | `pool/builder`, `pool/tasks` | settings of a pool, and of a task |
//! | `pool/async_result`, `pool/imap` | what those get who ask |
//! | `pool/feed`, `pool/pace` | items become chunks, as many and as large as is good (`pace` is pure) |
//! | `pool/chunk` | their bytes, and those of their results (pure) |
//! | `pool/table`, `pool/job` | what is out, and what has come back |
//! | `pool/gather` | results find their job, and what must be done again goes out anew |
//! | `pool/callbacks` | the thread that calls the user's |
//! | `pool/crew` | worker processes are started and replaced |
//! | `pool/inner` | what all of these share, and how a pool ends |
//! | `pool/living` | pools that are still there when the program ends |
//! | `pool/child`, `pool/time_limit` | what runs in them |
//! | `pool/worker` | workers for another program's pool |

mod async_result;
mod builder;
pub(crate) mod callbacks;
mod child;
mod chunk;
mod crew;
mod feed;
mod gather;
mod imap;
mod inner;
mod job;
mod living;
mod pace;
mod table;
mod tasks;
mod time_limit;
mod worker;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub use async_result::AsyncResult;
pub(crate) use async_result::Pending;
pub use builder::PoolBuilder;
pub use imap::{Imap, ImapOf, Single};
pub use tasks::Tasks;
pub use worker::PoolWorker;

use inner::Inner;
use job::End;

use crate::error::{Error, Result};
use crate::registry::Task;
use crate::wire::endpoint::Endpoint;

/// Processes that run tasks. See the [module](self).
pub struct Pool {
    inner: Arc<Inner>,
    public: Option<Endpoint>,
    time_limit: Option<Duration>,
    retries: u32,
}

impl Pool {
    /// A pool of so many processes on this host.
    ///
    /// # Errors
    /// As [`PoolBuilder::start`].
    pub fn new(workers: u32) -> Result<Self> {
        Self::builder().workers(workers).start()
    }

    /// A pool that workers of other programs and hosts can join, at `endpoint` (`tcp://127.0.0.1:*` takes any free port, which
    /// [`endpoint`](Self::endpoint) tells), beside as many processes here as this one may use processors.
    ///
    /// # Errors
    /// As [`PoolBuilder::start`].
    pub fn bind(endpoint: &str) -> Result<Self> {
        Self::builder().bind(endpoint).start()
    }

    /// A pool whose calls go through a queue that is somebody else's: of a server (`redis://HOST/0?queue=NAME`, `amqp://`,
    /// `beanstalk://`), or of a host of queues (`tcp://HOST:PORT?queue=NAME`, see [`QueueHost`](crate::QueueHost)). Its workers are those of
    /// any programs that [work](Self::worker) at the same URL, and go on working there when this pool is gone, for others: there may be
    /// several pools at one queue, and each gets the results of its own calls.
    ///
    /// ```no_run
    /// use procession::Pool;
    /// # #[procession::task]
    /// # fn square(n: u64) -> u64 { n * n }
    /// # fn one() -> procession::Result<()> {
    /// let pool = Pool::open("redis://127.0.0.1:6379/0?queue=squares")?;
    /// let squares = pool.map(square, 0..1_000_000)?;
    /// # Ok(()) }
    /// # fn other() -> procession::Result<()> {
    /// // Any number of other programs, till they are told to end:
    /// Pool::worker("redis://127.0.0.1:6379/0?queue=squares").workers(16).run()?;
    /// # Ok(()) }
    /// ```
    ///
    /// A call whose worker dies is made again by another one, as often as that happens: a queue does not say of whose death an item came
    /// back, so [`retries`](PoolBuilder::retries) does not bound it. When nobody works there calls wait, however long.
    ///
    /// # Errors
    /// A bad URL; [`Error::Connect`] and [`Error::NobodyThere`] when the server is not to be reached within the
    /// [patience](PoolBuilder::patience).
    pub fn open(url: &str) -> Result<Self> {
        Self::builder().open(url)
    }

    /// Workers of this program for the pool that another one has bound at `endpoint`, or for those at a [queue](Self::open).
    pub fn worker(endpoint: &str) -> PoolWorker {
        PoolWorker::new(endpoint)
    }

    /// Settings of a pool.
    pub fn builder() -> PoolBuilder {
        PoolBuilder::default()
    }

    /// The same verbs with settings of their own for `task`: chunk size, time limit, retries.
    pub fn tasks<T: Task>(&self, task: T) -> Tasks<'_, T> {
        let _ = task;
        Tasks::new(self)
    }

    /// Calls `task` with `args`, a tuple, in a worker; waits for the value.
    ///
    /// # Errors
    /// As [`AsyncResult::get`]; [`Error::Ended`] when the pool is closed.
    pub fn apply<T: Task>(&self, task: T, args: T::Args) -> Result<T::Output> {
        self.tasks(task).apply(args)
    }

    /// Calls `task` with `args` in a worker, and returns at once. The caller bounds how many such calls wait at the same time: their
    /// arguments are in memory.
    ///
    /// # Errors
    /// [`Error::Ended`] when the pool is closed.
    pub fn apply_async<T: Task>(&self, task: T, args: T::Args) -> Result<AsyncResult<T::Output>> {
        self.tasks(task).apply_async(args)
    }

    /// As [`apply_async`](Self::apply_async), and calls `on_result` with the value or `on_error` with the error, in the pool's thread
    /// for such calls (one after the other, as they come). They may use the pool, but what they wait for must not need another callback.
    ///
    /// ```
    /// use procession::Pool;
    /// use std::sync::mpsc::channel;
    ///
    /// #[procession::task]
    /// fn square(n: u64) -> u64 {
    ///     n * n
    /// }
    ///
    /// #[procession::main]
    /// fn main() -> procession::Result<()> {
    ///     let pool = Pool::new(1)?;
    ///     let (values, come) = channel();
    ///     pool.apply_async_with(
    ///         square,
    ///         (7,),
    ///         move |value| values.send(value).expect("somebody listens"),
    ///         |error| eprintln!("{error}"),
    ///     )?;
    ///     assert_eq!(come.recv(), Ok(49));
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    /// [`Error::Ended`] when the pool is closed.
    pub fn apply_async_with<T: Task>(
        &self,
        task: T,
        args: T::Args,
        on_result: impl FnOnce(T::Output) + Send + 'static,
        on_error: impl FnOnce(Error) + Send + 'static,
    ) -> Result<AsyncResult<T::Output>> {
        self.tasks(task).apply_async_with(args, on_result, on_error)
    }

    /// Calls `task` with each item; waits for all values, and gives them in the order of the items.
    ///
    /// # Errors
    /// The error of the first item that has no value, when all have been tried, as Python does; to have the others' values use
    /// [`imap`](Self::imap). [`Error::Ended`] when the pool is closed, terminated or dropped.
    pub fn map<T, A, I>(&self, task: T, items: I) -> Result<Vec<T::Output>>
    where
        T: Task<Args = (A,)>,
        I: IntoIterator<Item = A>,
    {
        self.tasks(task).map(items)
    }

    /// As [`map`](Self::map), with `chunksize` items at a time to a worker.
    ///
    /// # Errors
    /// As [`map`](Self::map).
    pub fn map_chunked<T, A, I>(&self, task: T, items: I, chunksize: u32) -> Result<Vec<T::Output>>
    where
        T: Task<Args = (A,)>,
        I: IntoIterator<Item = A>,
    {
        self.tasks(task).chunksize(chunksize).map(items)
    }

    /// As [`map`](Self::map), without waiting. The items are read at once.
    ///
    /// # Errors
    /// [`Error::Ended`] when the pool is closed.
    pub fn map_async<T, A, I>(&self, task: T, items: I) -> Result<AsyncResult<Vec<T::Output>>>
    where
        A: Send + 'static,
        T: Task<Args = (A,)>,
        I: IntoIterator<Item = A>,
    {
        self.tasks(task).map_async(items)
    }

    /// As [`map`](Self::map), of a task with any number of arguments: the items are the tuples.
    ///
    /// # Errors
    /// As [`map`](Self::map).
    pub fn starmap<T, I>(&self, task: T, items: I) -> Result<Vec<T::Output>>
    where
        T: Task,
        I: IntoIterator<Item = T::Args>,
    {
        self.tasks(task).starmap(items)
    }

    /// As [`starmap`](Self::starmap), without waiting. The items are read at once.
    ///
    /// # Errors
    /// [`Error::Ended`] when the pool is closed.
    pub fn starmap_async<T, I>(&self, task: T, items: I) -> Result<AsyncResult<Vec<T::Output>>>
    where
        T: Task,
        I: IntoIterator<Item = T::Args>,
    {
        self.tasks(task).starmap_async(items)
    }

    /// Calls `task` with each item, and gives the results one by one, in the order of the items. The input may be endless: it is read
    /// a bounded way ahead, by whoever asks for results.
    ///
    /// # Errors
    /// [`Error::Ended`] when the pool is closed. A call that has no value is an item of the iterator.
    pub fn imap<T, A, I>(&self, task: T, items: I) -> Result<ImapOf<I, T::Output>>
    where
        T: Task<Args = (A,)>,
        I: IntoIterator<Item = A>,
    {
        self.tasks(task).imap(items)
    }

    /// As [`imap`](Self::imap), in the order in which the results come.
    ///
    /// # Errors
    /// As [`imap`](Self::imap).
    pub fn imap_unordered<T, A, I>(&self, task: T, items: I) -> Result<ImapOf<I, T::Output>>
    where
        T: Task<Args = (A,)>,
        I: IntoIterator<Item = A>,
    {
        self.tasks(task).imap_unordered(items)
    }

    /// Where workers of other programs can join, with its real port; `None` without [`bind`](Self::bind).
    #[must_use]
    pub const fn endpoint(&self) -> Option<&Endpoint> {
        self.public.as_ref()
    }

    /// The processes of this pool on this host, those that are being replaced not counted.
    #[must_use]
    pub fn pids(&self) -> Vec<u32> {
        let crew = self.inner.crew().clone();
        crew.map(|crew| crew.pids()).unwrap_or_default()
    }

    /// No more tasks are taken. What was begun goes on, as in Python: a `map` reads the rest of its items, and an `imap` goes on
    /// reading its items as its results are taken, endless ones too.
    pub fn close(&self) {
        self.inner.table.close();
    }

    /// Closes the pool, waits until everything is done, callbacks too, and ends the workers. (Python wants `close` called before.)
    ///
    /// An `imap` reads its items in the thread that takes its results, so nobody can wait for those that it has not read: what it has
    /// read is waited for, and its results can still be taken; behind them it gives [`Error::Ended`] once and ends. **So read an
    /// `imap` to its end before `join`** (in Python it may be read afterwards).
    ///
    /// # Errors
    /// [`Error::PoolStart`] or [`Error::NobodyThere`] when the pool had given up.
    pub fn join(&self) -> Result<()> {
        self.close();
        let joined = End::Ended(
            "the pool has ended, as it was joined; read an imap to its end before that".to_owned(),
        );
        let gave_up = match self.inner.table.end_when_idle(&joined) {
            Some(end @ (End::Start { .. } | End::Nobody { .. })) => Err(end.error()),
            Some(End::Ended(_)) => Ok(()),
            None => {
                self.inner.end_gently();
                Ok(())
            }
        };
        self.inner.terminate();
        self.inner.callbacks.end(true);
        gave_up
    }

    /// Ends the pool now: what runs is killed, and everybody who waits gets [`Error::Ended`]; so does whoever reads an `imap`, once,
    /// behind the results that were there. Returns when all processes of this host have ended. After the end it does nothing.
    pub fn terminate(&self) {
        self.inner.terminate();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.terminate();
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("pids", &self.pids())
            .field("endpoint", &self.public)
            .finish_non_exhaustive()
    }
}
