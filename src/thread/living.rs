//! The threads of this process that were started here: what is known of each, and which of them live.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use super::handle::AnyThread;
use super::identity;
use crate::error::{Error, Result};
use crate::registry::Failure;
use crate::wait::Subscribers;

/// One thread, as its handles and the list of the living know it.
pub(super) struct Record {
    pub(super) name: String,
    pub(super) ident: u64,
    pub(super) is_daemon: bool,
    /// The system's number; 0 before it has begun.
    native_id: AtomicU32,
    /// `None` while it lives.
    end: Mutex<Option<Result<(), Failure>>>,
    ended: Condvar,
    pub(super) subscribers: Subscribers,
    /// Until somebody has waited for the system's thread, which ends a little later: it drops its thread-local variables.
    pub(super) system: Mutex<Option<JoinHandle<()>>>,
}

/// By number, which is the order in which they were started.
static LIVING: Mutex<BTreeMap<u64, Arc<Record>>> = Mutex::new(BTreeMap::new());

impl Record {
    pub(super) fn new(name: String, is_daemon: bool) -> Arc<Self> {
        Arc::new(Self {
            name,
            ident: identity::next_ident(),
            is_daemon,
            native_id: AtomicU32::new(0),
            end: Mutex::new(None),
            ended: Condvar::new(),
            subscribers: Subscribers::default(),
            system: Mutex::new(None),
        })
    }

    pub(super) fn enlist(self: &Arc<Self>) {
        LIVING.lock().insert(self.ident, Arc::clone(self));
    }

    pub(super) fn strike(&self) {
        LIVING.lock().remove(&self.ident);
    }

    /// To be called by the thread itself, first of all.
    pub(super) fn begin(self: &Arc<Self>) {
        self.native_id
            .store(identity::native_id(), Ordering::Relaxed);
        identity::become_thread(Arc::clone(self));
    }

    /// To be called by the thread itself, when its value is where its handles look for it.
    pub(super) fn finish(&self, outcome: Result<(), Failure>) {
        *self.end.lock() = Some(outcome);
        self.ended.notify_all();
        self.subscribers.wake();
        self.strike();
    }

    pub(super) fn native_id(&self) -> Option<u32> {
        Some(self.native_id.load(Ordering::Relaxed)).filter(|id| *id != 0)
    }

    pub(super) fn is_alive(&self) -> bool {
        self.end.lock().is_none()
    }

    pub(super) fn exit_code(&self) -> Option<i32> {
        let end = self.end.lock();
        end.as_ref().map(|outcome| i32::from(outcome.is_err()))
    }

    pub(super) fn check_not_current(&self) -> Result<()> {
        if identity::is_current(self.ident) {
            return Err(Error::JoinsItself {
                name: self.name.clone(),
            });
        }
        Ok(())
    }

    /// Waits until it has ended; whether it has.
    pub(super) fn wait(&self, deadline: Option<Instant>) -> bool {
        let mut end = self.end.lock();
        while end.is_none() {
            match deadline {
                None => self.ended.wait(&mut end),
                Some(deadline) => {
                    if self.ended.wait_until(&mut end, deadline).timed_out() {
                        return end.is_some();
                    }
                }
            }
        }
        true
    }

    /// Waits for the end of the system's thread, of one that has ended.
    pub(super) fn wait_gone(&self) {
        let mut system = self.system.lock();
        if let Some(thread) = system.take() {
            // What it ran cannot panic: panics of the user's are caught in it.
            let _ = thread.join();
        }
    }

    /// How it ended, of one that has.
    pub(super) fn outcome(&self) -> Result<()> {
        match &*self.end.lock() {
            Some(Err(failure)) => Err(Error::Thread {
                name: self.name.clone(),
                failure: failure.clone(),
            }),
            _ => Ok(()),
        }
    }

    pub(super) fn fmt_as(&self, kind: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(kind)
            .field("name", &self.name)
            .field("ident", &self.ident)
            .field("daemon", &self.is_daemon)
            .field("alive", &self.is_alive())
            .finish_non_exhaustive()
    }
}

pub(super) fn living() -> Vec<Arc<Record>> {
    let living = LIVING.lock();
    let alive = living.values().filter(|record| record.is_alive());
    alive.cloned().collect()
}

/// The threads that were started here and run, in the order in which they were started, this one not among them. To have the main thread and
/// this one as well: [`enumerate`](super::enumerate).
///
/// ```
/// use procession::thread::{Event, Thread, active_children};
///
/// let go_on = Event::new();
/// let thread = Thread::builder().name("waiter").spawn(|event: Event| event.wait(), (go_on.clone(),))?;
/// assert!(active_children().iter().any(|thread| thread.name() == "waiter"));
/// go_on.set();
/// thread.join()?;
/// assert!(!active_children().iter().any(|thread| thread.name() == "waiter"));
/// # Ok::<(), procession::Error>(())
/// ```
#[must_use]
pub fn active_children() -> Vec<AnyThread> {
    let others = living().into_iter();
    others
        .filter(|record| !identity::is_current(record.ident))
        .map(|record| AnyThread { record })
        .collect()
}

/// Joins all threads that are no daemons, those too that are started meanwhile. What comes at the end of a program.
pub(crate) fn join_all() {
    loop {
        let others: Vec<_> = {
            let living = LIVING.lock();
            let ours = living.values();
            ours.filter(|record| !record.is_daemon && !identity::is_current(record.ident))
                .cloned()
                .collect()
        };
        if others.is_empty() {
            return;
        }
        for record in others {
            record.wait(None);
            record.wait_gone();
        }
    }
}
