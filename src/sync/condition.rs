//! [`Condition`]: a lock, and threads of any process that wait under it until something has changed.

use std::fmt;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::deadline;
use super::place::Place;
use super::rlock::{RLock, RLockGuard};
use super::waiters::{LIMIT, Waiters};
use crate::error::{Error, Result};

/// Python's `multiprocessing.Condition`: a lock, and threads of any process that wait under it until something has changed.
///
/// Its lock is an [`RLock`], its own or [one that is given](Self::with_lock); while a thread waits the lock is released, however often the
/// thread has acquired it. Those that wait are woken in the order in which they came, and only by a notify.
///
/// ```
/// use procession::Process;
/// use procession::sync::{Condition, Event};
///
/// #[procession::task]
/// fn waits(condition: Condition, ready: Event) -> procession::Result<()> {
///     let _held = condition.lock()?;
///     condition.wait_for(|| ready.is_set())
/// }
///
/// #[procession::main]
/// fn main() -> procession::Result<()> {
///     let (condition, ready) = (Condition::new()?, Event::new()?);
///     let child = Process::spawn(waits, (condition.clone(), ready.clone()))?;
///     {
///         let _held = condition.lock()?;
///         ready.set();
///         condition.notify_all()?;
///     }
///     child.join()
/// }
/// ```
///
/// # When a process dies
///
/// One that is killed while it waits is passed over by a notify. If it is killed after it was notified and before it had the lock again,
/// another one is notified in its stead, up to 0.2 s later. If it is killed when it has the lock, the next one has it, and is
/// [told](Self::holder_died).
///
/// Up to 256 threads can wait at once.
#[derive(Clone, Serialize, Deserialize)]
pub struct Condition {
    lock: RLock,
    waiters: Place<Waiters>,
}

impl Condition {
    /// A condition with a lock of its own.
    ///
    /// # Errors
    /// When the system has no memory for it, or this process has too many open files.
    pub fn new() -> Result<Self> {
        Self::with_lock(RLock::new()?)
    }

    /// A condition of this lock; several may share one.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_lock(lock: RLock) -> Result<Self> {
        Ok(Self {
            lock,
            waiters: Place::new()?,
        })
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

    /// As [`RLock::holder_died`], of its lock.
    #[must_use]
    pub fn holder_died(&self) -> bool {
        self.lock.holder_died()
    }

    /// As [`RLock::mark_consistent`], of its lock.
    pub fn mark_consistent(&self) {
        self.lock.mark_consistent();
    }

    /// Releases the lock, waits for a notify, and acquires the lock again.
    ///
    /// # Errors
    /// [`Error::NotHeld`] when this thread does not hold the lock; [`Error::TooManyWait`] when 256 wait already.
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
        // Before the lock is released: a notify after that finds it.
        let waiter = self
            .waiters
            .join()
            .ok_or(Error::TooManyWait { limit: LIMIT })?;
        let times = self.lock.release_all();
        let notified = waiter.wait(deadline);
        let held = self.lock.acquire_again(times);
        // Only now: if it had died before it had the lock, its notify would be another's.
        waiter.leave();
        held.map(|()| notified)
    }

    /// Wakes those `count` that have waited longest, or all when there are fewer.
    ///
    /// # Errors
    /// [`Error::NotHeld`] when this thread does not hold the lock.
    pub fn notify(&self, count: usize) -> Result<()> {
        self.check_held()?;
        self.waiters.notify(count);
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

    /// Says that no handle of it is under way, nor of its lock: this process will not keep it for those. See [the module](super#how-long-it-lives).
    pub fn unlink(&self) {
        self.lock.unlink();
        self.waiters.unlink();
    }
}

impl fmt::Debug for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Condition")
            .field("lock", &self.lock)
            .field("waiting", &self.waiters.count())
            .finish()
    }
}
