//! [`Barrier`]: a number of threads wait for each other.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::deadline;
use crate::error::{Error, Result};

type Action = Box<dyn Fn() + Send + Sync>;

/// Python's `threading.Barrier`: a number of threads wait for each other, again and again.
///
/// ```
/// use procession::thread::{Barrier, Thread};
///
/// let barrier = Barrier::new(3);
/// let threads: Vec<_> = (0..3)
///     .map(|_| Thread::spawn(|barrier: Barrier| barrier.wait(), (barrier.clone(),)))
///     .collect::<Result<_, _>>()?;
/// let mut places = Vec::new();
/// for thread in threads {
///     places.push(thread.join_once()??);
/// }
/// places.sort();
/// assert_eq!(places, [0, 1, 2]);
/// # Ok::<(), procession::Error>(())
/// ```
///
/// When one of them is late, calls [`abort`](Self::abort), or panics in the action, all have [`Error::BrokenBarrier`], and so has
/// everybody who comes later, until [`reset`](Self::reset). A thread that ends elsewhere is not missed: give the others a timeout.
#[derive(Clone)]
pub struct Barrier {
    inner: Arc<Inner>,
}

struct Inner {
    parties: usize,
    action: Option<Action>,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// How many are here.
    count: usize,
    /// Who comes now belongs to this round.
    round: Arc<Round>,
    is_broken: bool,
}

/// One meeting. Those who wait for it learn from it how it ended, while others may be in the next one.
#[derive(Default)]
struct Round {
    /// Written under the state's lock: whether all have met, once it is over.
    met: OnceLock<bool>,
}

impl Barrier {
    /// A barrier for so many threads. For none it is one for one, at which nobody waits.
    #[must_use]
    pub fn new(parties: usize) -> Self {
        Self::make(parties, None)
    }

    /// As [`new`](Self::new); when all are there, and before any goes on, the last one to come calls `action`.
    ///
    /// When it panics the barrier is broken, and the panic goes on in that thread.
    #[must_use]
    pub fn with_action(parties: usize, action: impl Fn() + Send + Sync + 'static) -> Self {
        Self::make(parties, Some(Box::new(action)))
    }

    fn make(parties: usize, action: Option<Action>) -> Self {
        Self {
            inner: Arc::new(Inner {
                parties: parties.max(1),
                action,
                state: Mutex::new(State {
                    count: 0,
                    round: Arc::default(),
                    is_broken: false,
                }),
                changed: Condvar::new(),
            }),
        }
    }

    /// Waits until all are there; which place this thread has, by the order in which they came, from 0.
    ///
    /// # Errors
    /// [`Error::BrokenBarrier`].
    pub fn wait(&self) -> Result<usize> {
        self.wait_until(None)
    }

    /// As [`wait`](Self::wait), for at most `time`; then the barrier is broken, for all.
    ///
    /// # Errors
    /// [`Error::BrokenBarrier`].
    pub fn wait_timeout(&self, time: Duration) -> Result<usize> {
        self.wait_until(deadline(time))
    }

    fn wait_until(&self, deadline: Option<Instant>) -> Result<usize> {
        let inner = &*self.inner;
        let mut state = inner.state.lock();
        // All are here, and one of them calls the action: this thread belongs to the next round.
        while state.count == inner.parties && !state.is_broken {
            let round = Arc::clone(&state.round);
            self.sleep(&mut state, &round, None);
        }
        if state.is_broken {
            return Err(Error::BrokenBarrier);
        }
        let (place, round) = (state.count, Arc::clone(&state.round));
        state.count += 1;
        if state.count == inner.parties {
            return self.act(state, &round).map(|()| place);
        }
        if !self.sleep(&mut state, &round, deadline) {
            if state.count == inner.parties {
                // All are here: it is the action that takes so long, and nobody is late.
                self.sleep(&mut state, &round, None);
            } else {
                self.shatter(&mut state);
            }
        }
        match round.met.get() {
            Some(true) => Ok(place),
            _ => Err(Error::BrokenBarrier),
        }
    }

    /// Waits for the end of the round; whether it came in time.
    fn sleep(
        &self,
        state: &mut MutexGuard<'_, State>,
        round: &Round,
        deadline: Option<Instant>,
    ) -> bool {
        let changed = &self.inner.changed;
        while round.met.get().is_none() {
            match deadline {
                None => changed.wait(state),
                Some(deadline) => {
                    if changed.wait_until(state, deadline).timed_out() {
                        return round.met.get().is_some();
                    }
                }
            }
        }
        true
    }

    /// All are here.
    fn act(&self, state: MutexGuard<'_, State>, round: &Round) -> Result<()> {
        // With no lock held: it may look at this barrier.
        drop(state);
        let called = match &self.inner.action {
            // Nothing of ours is left half done by a panic; what it shares with others is the user's.
            Some(action) => catch_unwind(AssertUnwindSafe(action)),
            None => Ok(()),
        };
        let mut state = self.inner.state.lock();
        let is_over = round.met.get().is_some();
        match called {
            // It was aborted or reset meanwhile.
            Ok(()) if is_over => Err(Error::BrokenBarrier),
            Ok(()) => {
                self.end_round(&mut state, true);
                Ok(())
            }
            Err(panic) => {
                if !is_over {
                    self.shatter(&mut state);
                }
                drop(state);
                resume_unwind(panic)
            }
        }
    }

    fn end_round(&self, state: &mut State, met: bool) {
        let round = std::mem::take(&mut state.round);
        let _ = round.met.set(met);
        state.count = 0;
        self.inner.changed.notify_all();
    }

    fn shatter(&self, state: &mut State) {
        state.is_broken = true;
        self.end_round(state, false);
    }

    /// Breaks it: all who wait, or come before [`reset`](Self::reset), have [`Error::BrokenBarrier`].
    pub fn abort(&self) {
        self.shatter(&mut self.inner.state.lock());
    }

    /// Makes it a new one. Those who wait have [`Error::BrokenBarrier`].
    pub fn reset(&self) {
        let mut state = self.inner.state.lock();
        state.is_broken = false;
        self.end_round(&mut state, false);
    }

    /// How many it is for.
    #[must_use]
    pub fn parties(&self) -> usize {
        self.inner.parties
    }

    /// How many wait, at this moment.
    #[must_use]
    #[doc(alias = "n_waiting")]
    pub fn waiting(&self) -> usize {
        self.inner.state.lock().count
    }

    /// Whether it is broken.
    #[must_use]
    #[doc(alias = "broken")]
    pub fn is_broken(&self) -> bool {
        self.inner.state.lock().is_broken
    }
}

impl fmt::Debug for Barrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Barrier")
            .field("parties", &self.parties())
            .field("waiting", &self.waiting())
            .field("broken", &self.is_broken())
            .finish()
    }
}
