//! One task of a pool, with settings of its own: the same verbs as the pool's.

use std::fmt;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use super::Pool;
use super::async_result::AsyncResult;
use super::chunk::Manner;
use super::feed::Feed;
use super::imap::{Imap, ImapOf, Single};
use super::inner::Inner;
use super::job::{End, Job, OnDone, Reader, Rules};
use crate::error::{Error, Result};
use crate::registry::Task;
use crate::registry::panics::text_of;

/// A chunk whose size was not asked for stops after so long between two calls, that others can have the rest, in milliseconds.
const CUT: u64 = 20;

/// A task and how it is to be run: what [`Pool::tasks`] gives.
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
///     let pool = Pool::new(2)?;
///     let squares = pool
///         .tasks(square)
///         .chunksize(10)
///         .time_limit(Duration::from_secs(60))
///         .retries(1)
///         .map(0..100)?;
///     assert_eq!(squares[99], 99 * 99);
///     Ok(())
/// }
/// ```
#[must_use = "nothing is run before apply, map or another verb"]
pub struct Tasks<'p, T> {
    pool: &'p Pool,
    chunksize: Option<u32>,
    time_limit: Option<Duration>,
    retries: u32,
    retry_timed_out: bool,
    task: PhantomData<fn() -> T>,
}

impl<T> Clone for Tasks<'_, T> {
    fn clone(&self) -> Self {
        Self { ..*self }
    }
}

impl<'p, T: Task> Tasks<'p, T> {
    pub(super) fn new(pool: &'p Pool) -> Self {
        Self {
            pool,
            chunksize: None,
            time_limit: pool.time_limit,
            retries: pool.retries,
            retry_timed_out: false,
            task: PhantomData,
        }
    }

    /// Sends so many items at a time to a worker, instead of as many as take about 2 ms; 0 is taken for 1.
    pub const fn chunksize(mut self, items: u32) -> Self {
        self.chunksize = Some(if items == 0 { 1 } else { items });
        self
    }

    /// How long one call may take: when it takes longer its worker is killed and replaced, and the call's value is
    /// [`Error::TaskTimedOut`]. Other tasks of that worker are run elsewhere. Counted in whole milliseconds, at least one.
    pub const fn time_limit(mut self, limit: Duration) -> Self {
        self.time_limit = Some(limit);
        self
    }

    /// How often a call is made again because its worker died (the pool's, 2).
    pub const fn retries(mut self, retries: u32) -> Self {
        self.retries = retries;
        self
    }

    /// Whether a call that took longer than its limit is made again, too, as often as [`retries`](Self::retries) says (no).
    pub const fn retry_timed_out(mut self, again: bool) -> Self {
        self.retry_timed_out = again;
        self
    }

    fn job(&self, chunksize: Option<u32>, on_done: Option<OnDone>) -> Arc<Job> {
        let limit = self.time_limit.map_or(0, |limit| {
            u64::try_from(limit.as_millis()).unwrap_or(u64::MAX).max(1)
        });
        Job::new(
            Rules {
                task: T::NAME,
                manner: Manner {
                    limit,
                    cut: if chunksize.is_none() { CUT } else { 0 },
                },
                retries: self.retries,
                retry_timed_out: self.retry_timed_out,
            },
            chunksize,
            on_done,
        )
    }

    fn inner(&self) -> &Arc<Inner> {
        &self.pool.inner
    }

    /// As [`Pool::apply`].
    ///
    /// # Errors
    /// As there.
    pub fn apply(&self, args: T::Args) -> Result<T::Output> {
        self.apply_async(args)?.get()
    }

    /// As [`Pool::apply_async`].
    ///
    /// # Errors
    /// As there.
    pub fn apply_async(&self, args: T::Args) -> Result<AsyncResult<T::Output>> {
        self.begin_one(args, None)
    }

    /// As [`Pool::apply_async_with`].
    ///
    /// # Errors
    /// As there.
    pub fn apply_async_with(
        &self,
        args: T::Args,
        on_result: impl FnOnce(T::Output) + Send + 'static,
        on_error: impl FnOnce(Error) + Send + 'static,
    ) -> Result<AsyncResult<T::Output>> {
        let on_done = self.inner().callback(move |job| {
            match AsyncResult::<T::Output>::one(Arc::clone(job)).get() {
                Ok(value) => on_result(value),
                Err(error) => on_error(error),
            }
        });
        self.begin_one(args, Some(on_done))
    }

    fn begin_one(&self, args: T::Args, on_done: Option<OnDone>) -> Result<AsyncResult<T::Output>> {
        let inner = self.inner();
        inner.table.check_open().map_err(|end| end.error())?;
        let job = self.job(Some(1), on_done);
        let mut feed = Feed::new(Arc::clone(inner), Arc::clone(&job), Some(args).into_iter());
        feed.fill_all()?;
        Ok(AsyncResult::one(job))
    }

    /// As [`Pool::map`].
    ///
    /// # Errors
    /// As there.
    pub fn map<A, I>(&self, items: I) -> Result<Vec<T::Output>>
    where
        T: Task<Args = (A,)>,
        I: IntoIterator<Item = A>,
    {
        self.starmap(Single(items.into_iter()))
    }

    /// As [`Pool::starmap`].
    ///
    /// # Errors
    /// As there.
    pub fn starmap<I>(&self, items: I) -> Result<Vec<T::Output>>
    where
        I: IntoIterator<Item = T::Args>,
    {
        let inner = self.inner();
        let _feeding = inner.table.begin_feeding().map_err(|end| end.error())?;
        let job = self.job(self.chunksize, None);
        let items = items.into_iter();
        let mut values: Vec<Option<T::Output>> =
            Vec::with_capacity(items.size_hint().0.min(1 << 20));
        let mut first_error: Option<(u64, Error)> = None;
        let mut feed = Feed::new(Arc::clone(inner), Arc::clone(&job), items);
        loop {
            feed.fill(0)?;
            // Half of what is under way has come back: the others still have something to do meanwhile.
            let segments = job.take(feed.half(), false, None);
            if segments.is_empty() && job.is_over() {
                break;
            }
            for segment in segments {
                Reader::new(segment).each(&job.rules, |index, value| match value {
                    Ok(value) => {
                        let at = index as usize;
                        if at == values.len() {
                            values.push(Some(value));
                        } else {
                            if at > values.len() {
                                values.resize_with(at + 1, || None);
                            }
                            values[at] = Some(value);
                        }
                    }
                    Err(error) => {
                        if first_error.as_ref().is_none_or(|(first, _)| index < *first) {
                            first_error = Some((index, error));
                        }
                    }
                });
            }
        }
        job.ended()?;
        match first_error {
            Some((_, error)) => Err(error),
            None => Ok(values.into_iter().flatten().collect()),
        }
    }

    /// As [`Pool::map_async`].
    ///
    /// # Errors
    /// As there.
    pub fn map_async<A, I>(&self, items: I) -> Result<AsyncResult<Vec<T::Output>>>
    where
        A: Send + 'static,
        T: Task<Args = (A,)>,
        I: IntoIterator<Item = A>,
    {
        self.starmap_async(Single(items.into_iter()))
    }

    /// As [`map_async`](Self::map_async), and calls one of these functions when all is done, in the pool's thread for such calls.
    ///
    /// # Errors
    /// As there.
    pub fn map_async_with<A, I>(
        &self,
        items: I,
        on_result: impl FnOnce(Vec<T::Output>) + Send + 'static,
        on_error: impl FnOnce(Error) + Send + 'static,
    ) -> Result<AsyncResult<Vec<T::Output>>>
    where
        A: Send + 'static,
        T: Task<Args = (A,)>,
        I: IntoIterator<Item = A>,
    {
        let on_done = self.inner().callback(move |job| {
            match AsyncResult::<Vec<T::Output>>::all(Arc::clone(job)).get() {
                Ok(values) => on_result(values),
                Err(error) => on_error(error),
            }
        });
        self.begin_many(Single(items.into_iter()), Some(on_done))
    }

    /// As [`Pool::starmap_async`].
    ///
    /// # Errors
    /// As there.
    pub fn starmap_async<I>(&self, items: I) -> Result<AsyncResult<Vec<T::Output>>>
    where
        I: IntoIterator<Item = T::Args>,
    {
        self.begin_many(items, None)
    }

    fn begin_many(
        &self,
        items: impl IntoIterator<Item = T::Args>,
        on_done: Option<OnDone>,
    ) -> Result<AsyncResult<Vec<T::Output>>> {
        let inner = self.inner();
        let feeding = inner.table.begin_feeding().map_err(|end| end.error())?;
        let job = self.job(self.chunksize, on_done);
        // The user's iterator is read here and now; what is encoded when there is room for it is ours.
        let items: Vec<T::Args> = items.into_iter().collect();
        let mut feed =
            Feed::new(Arc::clone(inner), Arc::clone(&job), items.into_iter()).background();
        feed.fill(0)?;
        if !feed.has_ended() {
            let its_job = Arc::clone(&job);
            let table = Arc::clone(&inner.table);
            inner.feed_in_background(Box::new(move || {
                let _ = &feeding;
                // The user's own code is in it: how items are encoded.
                let end = match catch_unwind(AssertUnwindSafe(|| feed.fill(0))) {
                    Ok(Ok(())) => return feed.has_ended(),
                    Ok(Err(error)) => {
                        let why = || End::Ended(error.to_string());
                        table.ended().unwrap_or_else(why)
                    }
                    Err(panic) => {
                        let text = text_of(panic);
                        let why = format!("encoding the arguments of {} panicked: {text}", T::NAME);
                        End::Ended(why)
                    }
                };
                its_job.end(&end);
                true
            }));
        }
        Ok(AsyncResult::all(job))
    }

    /// As [`Pool::imap`].
    ///
    /// # Errors
    /// As there.
    pub fn imap<A, I>(&self, items: I) -> Result<ImapOf<I, T::Output>>
    where
        T: Task<Args = (A,)>,
        I: IntoIterator<Item = A>,
    {
        self.begin_imap(Single(items.into_iter()), true)
    }

    /// As [`Pool::imap_unordered`].
    ///
    /// # Errors
    /// As there.
    pub fn imap_unordered<A, I>(&self, items: I) -> Result<ImapOf<I, T::Output>>
    where
        T: Task<Args = (A,)>,
        I: IntoIterator<Item = A>,
    {
        self.begin_imap(Single(items.into_iter()), false)
    }

    fn begin_imap<I>(&self, items: I, ordered: bool) -> Result<Imap<I, T::Output>>
    where
        I: Iterator<Item = T::Args>,
    {
        let inner = self.inner();
        inner.table.check_open().map_err(|end| end.error())?;
        let job = self.job(self.chunksize, None);
        let feed = Feed::new(Arc::clone(inner), Arc::clone(&job), items).lazy();
        Ok(Imap::new(feed, job, ordered))
    }
}

impl<T: Task> fmt::Debug for Tasks<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tasks")
            .field("task", &T::NAME)
            .field("chunksize", &self.chunksize)
            .field("time_limit", &self.time_limit)
            .field("retries", &self.retries)
            .finish_non_exhaustive()
    }
}
