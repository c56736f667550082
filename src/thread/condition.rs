//! [`Condition`]: a lock, and threads that wait under it until something has changed.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::deadline;
use super::rlock::{RLock, RLockGuard};
use crate::error::{Error, Result};

/// Python's `threading.Condition`: a lock, and threads that wait under it until something has changed.
///
/// Its lock is an [`RLock`], its own or [one that is given](Self::with_lock); while a thread waits the lock is released, however often the
/// thread has acquired it. Those that wait are woken in the order in which they came, and only by a notify.
///
/// ```
/// use procession::thread::{Condition, Thread};
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
///
/// let (condition, ready) = (Condition::new(), Arc::new(AtomicBool::new(false)));
/// let thread = Thread::spawn(
///     |condition: Condition, ready: Arc<AtomicBool>| {
///         let _held = condition.lock()?;
///         condition.wait_for(|| ready.load(Relaxed))
///     },
///     (condition.clone(), ready.clone()),
/// )?;
/// {
///     let _held = condition.lock()?;
///     ready.store(true, Relaxed);
///     condition.notify_all()?;
/// }
/// thread.join_once()?
/// # ?; Ok::<(), procession::Error>(())
/// ```
///
/// Where what changes is one value, `std::sync::Mutex<T>` with `Condvar` has the value inside the lock; where it is a flag, take an
/// [`Event`](super::Event); where it is a list of things to do, a [`Queue`](super::Queue).
#[derive(Clone)]
pub struct Condition {
    lock: RLock,
    waiting: Arc<Mutex<VecDeque<Arc<Waiter>>>>,
}

/// One thread that waits.
#[derive(Default)]
struct Waiter {
    is_notified: Mutex<bool>,
    changed: Condvar,
}

impl Waiter {
    fn notify(&self) {
        *self.is_notified.lock() = true;
        self.changed.notify_one();
    }

    fn wait(&self, deadline: Option<Instant>) -> bool {
        let mut is_notified = self.is_notified.lock();
        while !*is_notified {
            match deadline {
                None => self.changed.wait(&mut is_notified),
                Some(deadline) => {
                    if self
                        .changed
                        .wait_until(&mut is_notified, deadline)
                        .timed_out()
                    {
                        break;
                    }
                }
            }
        }
        *is_notified
    }
}

impl Condition {
    /// A condition with a lock of its own.
    #[must_use]
    pub fn new() -> Self {
        Self::with_lock(RLock::new())
    }

    /// A condition of this lock; several may share one.
    #[must_use]
    pub fn with_lock(lock: RLock) -> Self {
        Self {
            lock,
            waiting: Arc::default(),
        }
    }

    /// Waits for its lock and holds it until the guard is dropped.
    ///
    /// # Errors
    /// As [`RLock::lock`].
    pub fn lock(&self) -> Result<RLockGuard<'_>> {
        self.lock.lock()
    }

    /// As [`RLock::acquire`], of its lock.
    ///
    /// # Errors
    /// As there.
    pub fn acquire(&self) -> Result<()> {
        self.lock.acquire()
    }

    /// As [`RLock::try_acquire`], of its lock.
    #[must_use = "it may not be held"]
    pub fn try_acquire(&self) -> bool {
        self.lock.try_acquire()
    }

    /// As [`RLock::acquire_timeout`], of its lock.
    #[must_use = "it may not be held"]
    pub fn acquire_timeout(&self, time: Duration) -> bool {
        self.lock.acquire_timeout(time)
    }

    /// As [`RLock::release`], of its lock.
    ///
    /// # Errors
    /// As there.
    pub fn release(&self) -> Result<()> {
        self.lock.release()
    }

    /// Releases the lock, waits for a notify, and acquires the lock again.
    ///
    /// # Errors
    /// [`Error::NotHeld`] when this thread does not hold the lock.
    pub fn wait(&self) -> Result<()> {
        self.wait_until(None).map(drop)
    }

    /// As [`wait`](Self::wait), for at most `time`, after which the lock is acquired all the same; whether there was a notify.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn wait_timeout(&self, time: Duration) -> Result<bool> {
        self.wait_until(deadline(time))
    }

    /// [Waits](Self::wait) until `is_so` says so, which is called under the lock: at once, and after every notify.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn wait_for(&self, is_so: impl FnMut() -> bool) -> Result<()> {
        self.wait_for_until(is_so, None).map(drop)
    }

    /// As [`wait_for`](Self::wait_for), for at most `time`; what `is_so` said last.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn wait_for_timeout(&self, is_so: impl FnMut() -> bool, time: Duration) -> Result<bool> {
        self.wait_for_until(is_so, deadline(time))
    }

    fn wait_for_until(
        &self,
        mut is_so: impl FnMut() -> bool,
        deadline: Option<Instant>,
    ) -> Result<bool> {
        self.check_held()?;
        loop {
            if is_so() {
                return Ok(true);
            }
            if !self.wait_until(deadline)? {
                return Ok(is_so());
            }
        }
    }

    fn wait_until(&self, deadline: Option<Instant>) -> Result<bool> {
        self.check_held()?;
        let waiter = Arc::new(Waiter::default());
        // Before the lock is released: a notify after that finds it.
        self.waiting.lock().push_back(Arc::clone(&waiter));
        let times = self.lock.release_all();
        let mut notified = waiter.wait(deadline);
        if !notified {
            let mut waiting = self.waiting.lock();
            let place = waiting.iter().position(|other| Arc::ptr_eq(other, &waiter));
            // Whoever is not in the list any more was chosen by a notify, which must not be lost.
            notified = place.is_none();
            if let Some(place) = place {
                waiting.remove(place);
            }
        }
        self.lock.acquire_again(times);
        Ok(notified)
    }

    /// Wakes those `count` that have waited longest, or all when there are fewer.
    ///
    /// # Errors
    /// [`Error::NotHeld`] when this thread does not hold the lock.
    pub fn notify(&self, count: usize) -> Result<()> {
        self.check_held()?;
        let chosen: Vec<_> = {
            let mut waiting = self.waiting.lock();
            let count = count.min(waiting.len());
            waiting.drain(..count).collect()
        };
        for waiter in chosen {
            waiter.notify();
        }
        Ok(())
    }

    /// Wakes the one that has waited longest.
    ///
    /// # Errors
    /// As [`notify`](Self::notify).
    pub fn notify_one(&self) -> Result<()> {
        self.notify(1)
    }

    /// Wakes all that wait.
    ///
    /// # Errors
    /// As [`notify`](Self::notify).
    pub fn notify_all(&self) -> Result<()> {
        self.notify(usize::MAX)
    }

    fn check_held(&self) -> Result<()> {
        match self.lock.is_mine() {
            true => Ok(()),
            false => Err(Error::NotHeld {
                what: "condition's lock",
            }),
        }
    }
}

impl Default for Condition {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Condition")
            .field("lock", &self.lock)
            .field("waiting", &self.waiting.lock().len())
            .finish()
    }
}
