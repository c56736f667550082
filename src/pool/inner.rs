//! What the threads of a pool, its jobs and its handle share, and how it ends.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::callbacks::Callbacks;
use super::crew::{AFTER_THE_PILL, Crew};
use super::job::{End, Job, OnDone};
use super::living::Living;
use super::table::Table;
use crate::hub::host::Orders;
use crate::pipeline::{Ventilator, VentilatorHandle};
use crate::registry::panics::text_of;
use crate::wire::body::Body;

/// How old the number of workers may be.
const COUNT_AGAIN: Duration = Duration::from_millis(100);

/// What runs as long as the pool does.
pub(super) struct Parts {
    pub(super) ventilator: Ventilator<Body>,
    pub(super) gatherer: JoinHandle<()>,
}

/// What the pool's threads and its jobs share.
pub(super) struct Inner {
    pub(super) table: Arc<Table>,
    pub(super) orders: Arc<Orders>,
    pub(super) handle: VentilatorHandle,
    /// Processes of our own.
    pub(super) local: u32,
    /// Workers in all, and when they were counted.
    pub(super) seen: AtomicU32,
    pub(super) seen_at: Mutex<Option<Instant>>,
    /// How long tasks wait for workers of others, when there are no others.
    pub(super) patience: Option<Duration>,
    pub(super) endpoint: String,
    pub(super) crew: Mutex<Option<Arc<Crew>>>,
    pub(super) feeds: Mutex<Vec<Background>>,
    pub(super) callbacks: Callbacks,
    /// Taken by whoever ends the pool.
    pub(super) parts: Mutex<Option<Parts>>,
    /// Held by whoever terminates the pool: others wait until that is done, or the program might end before.
    pub(super) terminating: Mutex<()>,
    /// Since when it is known that no worker is there.
    pub(super) nobody_since: Mutex<Option<Instant>>,
}

/// Hands in what there is room for; whether that was the last.
pub(super) type Background = Box<dyn FnMut() -> bool + Send>;

impl Inner {
    pub(super) fn crew(&self) -> MutexGuard<'_, Option<Arc<Crew>>> {
        self.crew.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn feeds(&self) -> MutexGuard<'_, Vec<Background>> {
        self.feeds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many workers there are, about.
    pub(super) fn workers(&self) -> u32 {
        if self.endpoint.is_empty() {
            return self.local;
        }
        let mut seen_at = self.seen_at.lock().unwrap_or_else(PoisonError::into_inner);
        if seen_at.is_none_or(|at| at.elapsed() > COUNT_AGAIN) {
            *seen_at = Some(Instant::now());
            let state = self.handle.state();
            let workers = state.peers.iter().filter(|peer| peer.role == "worker");
            self.seen
                .store(self.local.max(workers.count() as u32), Ordering::Relaxed);
        }
        self.seen.load(Ordering::Relaxed).max(1)
    }

    pub(super) fn how_it_died(&self, pid: u32, host: &str) -> String {
        let crew = self.crew().clone();
        crew.and_then(|crew| crew.how_it_died(pid, host))
            .unwrap_or_else(|| "died".to_owned())
    }

    pub(super) fn feed_in_background(&self, feed: Background) {
        self.feeds().push(feed);
        // What was handed in before may have come back already.
        self.refill();
    }

    /// Hands in more of those jobs that nobody waits for.
    pub(super) fn refill(&self) {
        let mut feeds = self.feeds();
        if feeds.is_empty() {
            return;
        }
        // The user's own code is in it: how items are encoded.
        feeds.retain_mut(|feed| match catch_unwind(AssertUnwindSafe(feed)) {
            Ok(ended) => !ended,
            Err(panic) => {
                log::error!("the input of a call panicked: {}", text_of(panic));
                false
            }
        });
    }

    /// A function as a job's callback.
    pub(super) fn callback(
        self: &Arc<Self>,
        call: impl FnOnce(&Arc<Job>) + Send + 'static,
    ) -> OnDone {
        let this = Arc::downgrade(self);
        Box::new(move |job| {
            let job = Arc::clone(job);
            match this.upgrade() {
                Some(inner) => inner.callbacks.call(Box::new(move || call(&job))),
                None => call(&job),
            }
        })
    }

    /// Whether tasks have waited for too long while nobody was there.
    pub(super) fn check_patience(&self) {
        let Some(patience) = self.patience else {
            return;
        };
        let somebody = || {
            let state = self.handle.state();
            let mut peers = state.peers.iter();
            peers.any(|peer| peer.role == "worker" && peer.state == "live")
        };
        let waited = self.table.out_for();
        let mut since = self
            .nobody_since
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if waited.is_none() || somebody() {
            *since = None;
            return;
        }
        // Not only since something came back: a long call may have been running until its worker left.
        let alone = since.get_or_insert_with(Instant::now).elapsed();
        if waited.is_some_and(|waited| waited > patience) && alone > patience {
            self.table.end(&End::Nobody {
                endpoint: self.endpoint.clone(),
                waited: patience,
            });
        }
    }

    pub(super) fn parts(&self) -> MutexGuard<'_, Option<Parts>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing is out: has the workers leave, and waits for that.
    pub(super) fn end_gently(&self) {
        let mut parts = self.parts();
        let Some(Parts {
            ventilator,
            gatherer,
        }) = parts.take()
        else {
            return;
        };
        let crew = self.crew().clone();
        if let Some(crew) = &crew {
            crew.stop_replacing();
        }
        if let Err(error) = ventilator.finish() {
            log::warn!("{error}");
        }
        if let Some(crew) = crew {
            crew.join(Some(AFTER_THE_PILL));
        }
        end_thread(gatherer);
    }

    /// Kills what runs, and tells everybody who waits.
    pub(super) fn terminate(&self) {
        self.table.end(&End::Ended(
            "the pool was terminated before this was done".to_owned(),
        ));
        let _one = self
            .terminating
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let crew = self.crew().take();
        if let Some(crew) = crew {
            // Its folder as well: somebody else may have the crew in hand.
            crew.end();
        }
        let mut parts = match self.parts.try_lock() {
            Ok(parts) => parts,
            Err(_) => {
                // Another thread waits for the end in good order, which does not come when a worker was killed just now.
                self.handle.halt(255);
                self.parts()
            }
        };
        if let Some(Parts {
            ventilator,
            gatherer,
        }) = parts.take()
        {
            self.handle.kill();
            // Halts, and waits for those of other hosts no longer than until they are silent.
            drop(ventilator);
            end_thread(gatherer);
        }
        drop(parts);
        self.refill();
        self.callbacks.end(false);
    }
}

impl Living for Inner {
    fn end(&self) {
        self.terminate();
    }
}

fn end_thread(thread: JoinHandle<()>) {
    if thread.join().is_err() {
        log::error!("a thread of the pool panicked");
    }
}
