//! [`Event`]: something that has happened, or not yet.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::deadline;
use crate::wait::{Subscribers, Waitable, Watch, sealed};

#[derive(Default)]
struct Inner {
    is_set: Mutex<bool>,
    set: Condvar,
    subscribers: Subscribers,
}

/// Python's `threading.Event`: a flag that threads wait for.
///
/// ```
/// use procession::thread::{Event, Thread};
/// use std::time::Duration;
///
/// let stop = Event::new();
/// let ticker = Thread::spawn(
///     |stop: Event| {
///         let mut ticks = 0;
///         while !stop.wait_timeout(Duration::from_millis(1)) {
///             ticks += 1;
///         }
///         ticks
///     },
///     (stop.clone(),),
/// )?;
/// stop.set();
/// assert!(ticker.join()? < 1_000_000);
/// # Ok::<(), procession::Error>(())
/// ```
///
/// Together with processes, queues and connections: [`procession::wait`](crate::wait()).
#[derive(Clone, Default)]
pub struct Event {
    inner: Arc<Inner>,
}

impl Event {
    /// One that is not set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets it: all that wait for it go on, and nobody waits until it is [cleared](Self::clear).
    pub fn set(&self) {
        *self.inner.is_set.lock() = true;
        self.inner.set.notify_all();
        self.inner.subscribers.wake_if_any();
    }

    /// Unsets it.
    pub fn clear(&self) {
        *self.inner.is_set.lock() = false;
    }

    /// Whether it is set.
    #[must_use]
    pub fn is_set(&self) -> bool {
        *self.inner.is_set.lock()
    }

    /// Waits until it is set.
    pub fn wait(&self) {
        let mut is_set = self.inner.is_set.lock();
        if !*is_set {
            // One that is cleared at once has been set all the same: whoever is woken goes on.
            self.inner.set.wait(&mut is_set);
        }
    }

    /// Waits until it is set, for at most `time`; whether it was.
    pub fn wait_timeout(&self, time: Duration) -> bool {
        let Some(deadline) = deadline(time) else {
            self.wait();
            return true;
        };
        let mut is_set = self.inner.is_set.lock();
        if !*is_set && self.inner.set.wait_until(&mut is_set, deadline).timed_out() {
            return *is_set;
        }
        true
    }
}

impl sealed::Sealed for Event {}

impl Waitable for Event {
    fn is_ready(&self) -> bool {
        self.is_set()
    }

    fn watch<'a>(&'a self, watch: &mut Watch<'a>) {
        watch.subscribe(&self.inner.subscribers);
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event")
            .field("is_set", &self.is_set())
            .finish()
    }
}
