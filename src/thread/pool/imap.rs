//! Results one by one, of an input that may be endless.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::{Failed, Fate, Inner, Outcome, hand_in, let_go, make};
use crate::error::{Error, Result};
use crate::thread::{Function, Queue};

/// How many calls for each thread are read ahead of the results that were taken.
const AHEAD: usize = 16;

type HandIn<A> = Box<dyn Fn(usize, A) -> Result<()> + Send>;

/// The results of [`imap`](super::Pool::imap) and [`imap_unordered`](super::Pool::imap_unordered): an iterator of `Result<O>`, one
/// for each item.
///
/// The input is read by [`next`](Iterator::next), in the thread that calls it, at most 16 items for each thread of the pool ahead of the
/// results that were taken; so it may be endless, and it may borrow. Dropped, what has been read of the input is still worked on,
/// and the results are thrown away.
pub struct Imap<I: Iterator, O> {
    /// `None` when it has ended, or nothing more is to be read.
    items: Option<I>,
    hand_in: HandIn<I::Item>,
    results: Queue<(usize, Outcome<O>)>,
    title: &'static str,
    ahead: usize,
    is_ordered: bool,
    /// In order: what came before its turn.
    early: BTreeMap<usize, Outcome<O>>,
    read: usize,
    given: usize,
    /// Why no more was read, told when all results have been given.
    ended: Option<Error>,
}

impl<I: Iterator, O: Send + 'static> Imap<I, O> {
    pub(super) fn new<M, T>(
        inner: &Arc<Inner>,
        function: T,
        items: I,
        is_ordered: bool,
    ) -> Result<Self>
    where
        T: Function<M, Args = (I::Item,), Output = O>,
        I::Item: Send + 'static,
    {
        let results = Queue::new();
        let function = Arc::new(function);
        let hand_in = {
            let (inner, results) = (Arc::clone(inner), results.clone());
            Box::new(move |call, item| {
                let function = Arc::clone(&function);
                let ticket = Ticket {
                    results: results.clone(),
                    fate: Arc::clone(&inner.fate),
                    call,
                    is_fulfilled: false,
                };
                hand_in(
                    &inner,
                    Box::new(move || {
                        let outcome = make(|| function.call_again((item,)));
                        let_go(function);
                        ticket.fulfil(outcome);
                    }),
                )
            })
        };
        // An error here is one for everybody who begins; those that come later are items.
        if inner.work.is_shut() {
            return Err(match inner.fate.does_not_start.get() {
                Some(_) => inner.fate.error(),
                None => Error::Ended("the pool is closed and takes no more tasks".to_owned()),
            });
        }
        let mut imap = Self {
            items: Some(items),
            hand_in,
            results,
            title: T::title(),
            ahead: AHEAD * inner.threads.len(),
            is_ordered,
            early: BTreeMap::new(),
            read: 0,
            given: 0,
            ended: None,
        };
        // Work begins at once.
        imap.read_ahead();
        Ok(imap)
    }
}

impl<I: Iterator, O> Imap<I, O> {
    fn read_ahead(&mut self) {
        while self.read - self.given < self.ahead {
            let Some(item) = self.items.as_mut().and_then(Iterator::next) else {
                self.items = None;
                return;
            };
            if let Err(error) = (self.hand_in)(self.read, item) {
                // The ticket that came back has put the same into the results, where nobody looks for it.
                self.ended = Some(error);
                self.items = None;
                return;
            }
            self.read += 1;
        }
    }
}

impl<I: Iterator, O> Iterator for Imap<I, O> {
    type Item = Result<O>;

    fn next(&mut self) -> Option<Result<O>> {
        self.read_ahead();
        if self.given == self.read {
            return self.ended.take().map(Err);
        }
        let (call, outcome) = loop {
            if let Some(outcome) = self.early.remove(&self.given) {
                break (self.given, outcome);
            }
            // Every call that was handed in puts one, also one that is not made; so this ends.
            let (call, outcome) = self.results.get().ok()?;
            if call >= self.read {
                continue;
            }
            if !self.is_ordered || call == self.given {
                break (call, outcome);
            }
            self.early.insert(call, outcome);
        };
        self.given += 1;
        Some(outcome.map_err(|failed| failed.error(self.title, call)))
    }
}

impl<I: Iterator, O> fmt::Debug for Imap<I, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Imap")
            .field("task", &self.title)
            .field("given", &self.given)
            .field("ordered", &self.is_ordered)
            .finish_non_exhaustive()
    }
}

/// One call that is out. If it is not made, because the pool has ended, its place in the results says so.
struct Ticket<O> {
    results: Queue<(usize, Outcome<O>)>,
    fate: Arc<Fate>,
    call: usize,
    is_fulfilled: bool,
}

impl<O> Ticket<O> {
    fn fulfil(mut self, outcome: Outcome<O>) {
        self.is_fulfilled = true;
        // It has no bound, and nobody shuts it down.
        let _ = self.results.put((self.call, outcome));
    }
}

impl<O> Drop for Ticket<O> {
    fn drop(&mut self) {
        if !self.is_fulfilled {
            let failed = Failed::Ended(Arc::clone(&self.fate));
            let _ = self.results.put((self.call, Err(failed)));
        }
    }
}
