//! The calls of one `apply` or `map`, and what came of them.

use std::sync::{Arc, Weak};
use std::time::Instant;

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::{Failed, Inner, Outcome};
use crate::error::{Error, Result};
use crate::pool::{AsyncResult, Pending};
use crate::wait::Subscribers;

/// What is called when all is done.
pub(super) type OnDone<O> = Box<dyn FnOnce(Arc<Job<O>>) + Send>;

pub(super) struct Job<O> {
    title: &'static str,
    len: usize,
    state: Mutex<State<O>>,
    done: Condvar,
    subscribers: Subscribers,
}

struct State<O> {
    /// In the order of the items; `None` while there is none, and when it was taken.
    outcomes: Vec<Option<Outcome<O>>>,
    left: usize,
    failed: bool,
    on_done: Option<OnDone<O>>,
}

impl<O: Send + 'static> Job<O> {
    pub(super) fn new(title: &'static str, len: usize) -> Arc<Self> {
        let mut outcomes = Vec::new();
        outcomes.resize_with(len, || None);
        Arc::new(Self {
            title,
            len,
            state: Mutex::new(State {
                outcomes,
                left: len,
                failed: false,
                on_done: None,
            }),
            done: Condvar::new(),
            subscribers: Subscribers::default(),
        })
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// What came of some calls that follow one another.
    fn came(self: &Arc<Self>, inner: &Weak<Inner>, first: usize, outcomes: Vec<Outcome<O>>) {
        let mut state = self.state.lock();
        state.left -= outcomes.len();
        state.failed |= outcomes.iter().any(Result::is_err);
        for (place, outcome) in state.outcomes[first..].iter_mut().zip(outcomes) {
            *place = Some(outcome);
        }
        if state.left == 0 {
            self.announce(inner, state);
        }
    }

    /// What is called when all is done, which may be now. Set behind the handing in of all: who cannot hand in returns that error,
    /// and nothing is called.
    pub(super) fn when_done(self: &Arc<Self>, inner: &Arc<Inner>, on_done: Option<OnDone<O>>) {
        let mut state = self.state.lock();
        state.on_done = on_done;
        if state.left == 0 {
            self.announce(&Arc::downgrade(inner), state);
        }
    }

    fn announce(self: &Arc<Self>, inner: &Weak<Inner>, mut state: MutexGuard<'_, State<O>>) {
        let on_done = state.on_done.take();
        drop(state);
        self.done.notify_all();
        self.subscribers.wake_if_any();
        let Some(call) = on_done else {
            return;
        };
        let this = Arc::clone(self);
        match inner.upgrade() {
            Some(inner) => inner.callbacks.call(Box::new(move || call(this))),
            None => call(this),
        }
    }

    fn wait_done(&self, deadline: Option<Instant>) -> MutexGuard<'_, State<O>> {
        let mut state = self.state.lock();
        while state.left > 0 {
            match deadline {
                None => self.done.wait(&mut state),
                Some(deadline) => {
                    if self.done.wait_until(&mut state, deadline).timed_out() {
                        break;
                    }
                }
            }
        }
        state
    }

    /// Waits for the value of the one call, and takes it.
    pub(super) fn take_one(&self) -> Result<O> {
        let outcome = self
            .wait_done(None)
            .outcomes
            .first_mut()
            .and_then(Option::take);
        self.value(0, outcome)
    }

    /// Waits for all values, and takes them; or the first error.
    pub(super) fn take_all(&self) -> Result<Vec<O>> {
        let outcomes = std::mem::take(&mut self.wait_done(None).outcomes);
        let numbered = outcomes.into_iter().enumerate();
        numbered
            .map(|(call, outcome)| self.value(call, outcome))
            .collect()
    }

    fn value(&self, call: usize, outcome: Option<Outcome<O>>) -> Result<O> {
        match outcome {
            Some(Ok(value)) => Ok(value),
            Some(Err(failed)) => Err(failed.error(self.title, call)),
            None => Err(Error::Ended(format!(
                "the value of {} was taken",
                self.title
            ))),
        }
    }
}

/// The job, for those who ask for a clone of its one value.
struct One<O>(Arc<Job<O>>);

/// For those who ask for clones of all its values.
struct All<O>(Arc<Job<O>>);

pub(super) fn one<O: Clone + Send + 'static>(job: Arc<Job<O>>) -> AsyncResult<O> {
    AsyncResult::new(Arc::new(One(job)))
}

pub(super) fn all<O: Clone + Send + 'static>(job: Arc<Job<O>>) -> AsyncResult<Vec<O>> {
    AsyncResult::new(Arc::new(All(job)))
}

/// Calls one of the two when all is done.
pub(super) fn callback<O: Send + 'static, R: 'static>(
    result: fn(Arc<Job<O>>) -> AsyncResult<R>,
    on_result: impl FnOnce(R) + Send + 'static,
    on_error: impl FnOnce(Error) + Send + 'static,
) -> OnDone<O> {
    Box::new(move |job| match result(job).get() {
        Ok(value) => on_result(value),
        Err(error) => on_error(error),
    })
}

macro_rules! pending {
    ($kind:ident, $value:ty, $read:expr) => {
        impl<O: Clone + Send + 'static> Pending<$value> for $kind<O> {
            fn wait(&self, deadline: Option<Instant>) -> bool {
                self.0.wait_done(deadline).left == 0
            }

            fn is_over(&self) -> bool {
                self.0.state.lock().left == 0
            }

            fn successful(&self) -> Option<bool> {
                let state = self.0.state.lock();
                (state.left == 0).then_some(!state.failed)
            }

            fn value(&self) -> Result<$value> {
                let outcomes = self.0.state.lock().outcomes.clone();
                let numbered = outcomes.into_iter().enumerate();
                let mut values = numbered.map(|(call, outcome)| self.0.value(call, outcome));
                $read(&mut values)
            }

            fn subscribers(&self) -> &Subscribers {
                &self.0.subscribers
            }

            fn title(&self) -> &str {
                self.0.title
            }
        }
    };
}

pending!(One, O, |values: &mut dyn Iterator<Item = Result<O>>| {
    let none = || Err(Error::Ended("there was no call".to_owned()));
    values.next().unwrap_or_else(none)
});
pending!(All, Vec<O>, |values: &mut dyn Iterator<
    Item = Result<O>,
>| { values.collect() });

/// Some calls of a job that are out. If they are not made, because the pool has ended, the job learns it when this is dropped.
pub(super) struct Ticket<O: Send + 'static> {
    inner: Weak<Inner>,
    job: Arc<Job<O>>,
    first: usize,
    calls: usize,
    is_fulfilled: bool,
}

impl<O: Send + 'static> Ticket<O> {
    pub(super) fn new(inner: &Arc<Inner>, job: &Arc<Job<O>>, first: usize, calls: usize) -> Self {
        Self {
            inner: Arc::downgrade(inner),
            job: Arc::clone(job),
            first,
            calls,
            is_fulfilled: false,
        }
    }

    pub(super) fn fulfil(mut self, outcomes: Vec<Outcome<O>>) {
        self.is_fulfilled = true;
        self.job.came(&self.inner, self.first, outcomes);
    }
}

impl<O: Send + 'static> Drop for Ticket<O> {
    fn drop(&mut self) {
        if !self.is_fulfilled {
            let fate = self.inner.upgrade().map(|inner| Arc::clone(&inner.fate));
            let failed = Failed::Ended(fate.unwrap_or_default());
            let outcomes = (0..self.calls).map(|_| Err(failed.clone())).collect();
            self.job.came(&self.inner, self.first, outcomes);
        }
    }
}
