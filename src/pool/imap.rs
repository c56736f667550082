//! Results one by one, of an input that may be endless.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::feed::Feed;
use super::job::{Job, Reader, Segment};
use crate::error::{Error, Result};

/// The results of [`imap`](super::Pool::imap) and [`imap_unordered`](super::Pool::imap_unordered): an iterator of `Result<O>`, one
/// for each item.
///
/// The input is read by [`next`](Iterator::next), in the thread that calls it, a bounded way ahead of the results that were
/// taken; so it may be endless, and it may borrow. An input whose next item depends on a result of this same iterator waits for
/// ever. Dropped, what has been read of the input is still worked on, and the results are thrown away.
///
/// When the pool [closes](super::Pool::close) it goes on. When the pool has ended it gives the results that are there, then
/// [`Error::Ended`](crate::Error::Ended) once, and ends, endless or not.
pub struct Imap<I, O> {
    feed: Feed<I>,
    job: Arc<Job>,
    ordered: bool,
    /// In order: what came before its turn.
    early: BTreeMap<u64, Segment>,
    arrived: VecDeque<Segment>,
    current: Option<Reader>,
    next: u64,
    /// Calls whose results are here and were not given.
    held: u64,
    over: bool,
    /// Why no more items can be handed in.
    broken: Option<Error>,
    values: PhantomData<fn() -> O>,
}

impl<I: Iterator, O: DeserializeOwned> Imap<I, O>
where
    I::Item: Serialize,
{
    pub(super) fn new(feed: Feed<I>, job: Arc<Job>, ordered: bool) -> Self {
        let mut imap = Self {
            feed,
            job,
            ordered,
            early: BTreeMap::new(),
            arrived: VecDeque::new(),
            current: None,
            next: 0,
            held: 0,
            over: false,
            broken: None,
            values: PhantomData,
        };
        // Work begins at once. An error is found again by whoever asks for a result.
        let _ = imap.feed.fill(0);
        imap
    }

    fn absorb(&mut self, segments: VecDeque<Segment>) {
        for segment in segments {
            self.held += u64::from(segment.calls);
            if self.ordered {
                self.early.insert(segment.first, segment);
            } else {
                self.arrived.push_back(segment);
            }
        }
    }

    fn next_segment(&mut self) -> Option<Segment> {
        if self.ordered {
            self.early.remove(&self.next)
        } else {
            self.arrived.pop_front()
        }
    }

    /// Has the next results in `current`; `false` when there are none any more.
    fn advance(&mut self) -> Result<bool> {
        loop {
            let here = self.job.take(u64::MAX, true, None);
            self.absorb(here);
            if self.broken.is_none() {
                self.broken = self.feed.fill(self.held).err();
            }
            if let Some(segment) = self.next_segment() {
                self.current = Some(Reader::new(segment));
                return Ok(true);
            }
            // Behind what is there.
            if let Some(error) = self.broken.take() {
                return Err(error);
            }
            let came = self.job.take(0, true, None);
            if came.is_empty() && self.job.is_over() && self.feed.has_ended() {
                self.job.ended()?;
                return Ok(false);
            }
            if came.is_empty() {
                self.job.ended()?;
            }
            self.absorb(came);
        }
    }
}

impl<I: Iterator, O: DeserializeOwned> Iterator for Imap<I, O>
where
    I::Item: Serialize,
{
    type Item = Result<O>;

    fn next(&mut self) -> Option<Result<O>> {
        loop {
            if self.over {
                return None;
            }
            if let Some(reader) = &mut self.current {
                if let Some(value) = reader.next(&self.job.rules) {
                    self.held -= 1;
                    self.next += 1;
                    return Some(value);
                }
                self.current = None;
            }
            match self.advance() {
                Ok(true) => {}
                Ok(false) => self.over = true,
                Err(error) => {
                    self.over = true;
                    return Some(Err(error));
                }
            }
        }
    }
}

impl<I, O> Drop for Imap<I, O> {
    fn drop(&mut self) {
        self.job.abandon();
    }
}

impl<I, O> fmt::Debug for Imap<I, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Imap")
            .field("task", &self.job.rules.task)
            .field("given", &self.next)
            .field("ordered", &self.ordered)
            .finish_non_exhaustive()
    }
}

/// The results of a [`Pool::imap`](super::Pool::imap) whose items come from `I`.
pub type ImapOf<I, O> = Imap<Single<<I as IntoIterator>::IntoIter>, O>;

/// The input of [`imap`](super::Pool::imap): each item as the one argument of a call.
#[derive(Clone, Debug)]
pub struct Single<I>(pub(super) I);

impl<I: Iterator> Iterator for Single<I> {
    type Item = (I::Item,);

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next().map(|item| (item,))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}
