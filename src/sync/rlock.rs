//! [`RLock`]: one thread of one process at a time, which may acquire it again.

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::deadline;
use super::heritage::{Heir, Mutex, is_had};
use super::place::{Place, Shared};
use crate::error::{Error, Result};

#[repr(C)]
struct Inner {
    mutex: Mutex,
    /// How often the thread that holds it has acquired it. Read and written by that thread only.
    times: AtomicU32,
}

// SAFETY: atomics and a system mutex for several processes, `repr(C)`.
unsafe impl Shared for Inner {
    const KIND: &'static str = "sync::RLock";

    unsafe fn init(place: *mut Self) -> io::Result<()> {
        // SAFETY: the caller's; for the number zeros are right.
        unsafe { Mutex::init(&raw mut (*place).mutex) }
    }

    fn is_held_by_this_process(&self) -> bool {
        self.mutex.is_held_by_this_process()
    }
}

/// Python's `multiprocessing.RLock`: held by one thread of one process at a time, which may acquire it again, and releases it as often.
///
/// Both forms are those of [`Lock`](super::Lock), and so is what is said there of panics, and of holders that are killed: however often it
/// had acquired the lock, the next one has it.
///
/// ```
/// use procession::sync::RLock;
///
/// let lock = RLock::new()?;
/// let _outer = lock.lock()?;
/// {
///     let _inner = lock.lock()?; // a Lock would be an error here
/// }
/// assert!(lock.locked());
/// # Ok::<(), procession::Error>(())
/// ```
#[derive(Clone, Serialize, Deserialize)]
pub struct RLock {
    inner: Place<Inner>,
}

impl RLock {
    /// A lock that nobody holds.
    ///
    /// # Errors
    /// When the system has no memory for it, or this process has too many open files.
    pub fn new() -> Result<Self> {
        Ok(Self {
            inner: Place::new()?,
        })
    }

    /// `take` is called when this thread does not hold it yet.
    fn take(&self, take: impl FnOnce(&Mutex) -> Result<bool>) -> Result<bool> {
        let times = &self.inner.times;
        if !self.is_mine() {
            let taken = take(&self.inner.mutex)?;
            if taken {
                times.store(1, Ordering::Relaxed);
            }
            return Ok(taken);
        }
        match times.load(Ordering::Relaxed) {
            u32::MAX => Err(Error::TooOften { times: u32::MAX }),
            held => {
                times.store(held + 1, Ordering::Relaxed);
                Ok(true)
            }
        }
    }

    /// Waits for it and holds it until the guard is dropped.
    ///
    /// # Errors
    /// [`Error::TooOften`] when this thread holds it 4,294,967,295 times.
    pub fn lock(&self) -> Result<RLockGuard<'_>> {
        self.acquire()?;
        Ok(RLockGuard::new(self))
    }

    /// Holds it until the guard is dropped, if no other thread does now.
    #[must_use = "it is released when the guard is dropped"]
    pub fn try_lock(&self) -> Option<RLockGuard<'_>> {
        self.try_acquire().then(|| RLockGuard::new(self))
    }

    /// As [`lock`](Self::lock), but waits for at most `time`.
    #[must_use = "it is released when the guard is dropped"]
    pub fn lock_timeout(&self, time: Duration) -> Option<RLockGuard<'_>> {
        self.acquire_timeout(time).then(|| RLockGuard::new(self))
    }

    /// Waits for it and holds it until [`release`](Self::release).
    ///
    /// # Errors
    /// As [`lock`](Self::lock).
    pub fn acquire(&self) -> Result<()> {
        self.take(|mutex| mutex.acquire_until(None, Heir::AnyTime))
            .map(drop)
    }

    /// Holds it if no other thread does now; whether it does.
    #[must_use = "it may not be held"]
    pub fn try_acquire(&self) -> bool {
        is_had(self.take(|mutex| mutex.try_acquire(Heir::AnyTime)))
    }

    /// As [`acquire`](Self::acquire), but waits for at most `time`; whether it is held.
    #[must_use = "it may not be held"]
    pub fn acquire_timeout(&self, time: Duration) -> bool {
        is_had(self.take(|mutex| mutex.acquire_until(deadline(time), Heir::AnyTime)))
    }

    /// Takes back one `acquire`; the last one lets others have it.
    ///
    /// # Errors
    /// [`Error::NotHeld`] when this thread does not hold it.
    pub fn release(&self) -> Result<()> {
        if !self.is_mine() {
            return Err(Error::NotHeld { what: "lock" });
        }
        let times = self.inner.times.load(Ordering::Relaxed);
        self.inner
            .times
            .store(times.saturating_sub(1), Ordering::Relaxed);
        if times <= 1 {
            self.inner.mutex.release();
        }
        Ok(())
    }

    /// Whether any thread of any process holds it, at this moment. One that was killed does not.
    #[must_use]
    pub fn locked(&self) -> bool {
        self.inner.mutex.is_held()
    }

    /// As [`Lock::holder_died`](super::Lock::holder_died).
    #[must_use]
    pub fn holder_died(&self) -> bool {
        self.inner.mutex.died()
    }

    /// As [`Lock::mark_consistent`](super::Lock::mark_consistent).
    pub fn mark_consistent(&self) {
        self.inner.mutex.forget_death();
    }

    pub(super) fn is_mine(&self) -> bool {
        self.inner.mutex.is_mine()
    }

    /// Releases it as often as it is held; how often that was. This thread must hold it.
    pub(super) fn release_all(&self) -> u32 {
        let times = self.inner.times.swap(0, Ordering::Relaxed);
        self.inner.mutex.release();
        times
    }

    /// Waits for it, and holds it so often.
    ///
    /// # Errors
    /// When its memory was overwritten.
    pub(super) fn acquire_again(&self, times: u32) -> Result<()> {
        self.inner.mutex.acquire_until(None, Heir::AnyTime)?;
        self.inner.times.store(times, Ordering::Relaxed);
        Ok(())
    }

    /// Says that no handle of it is under way: this process will not keep it for those. See [the module](super#how-long-it-lives).
    pub fn unlink(&self) {
        self.inner.unlink();
    }
}

impl fmt::Debug for RLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RLock")
            .field("locked", &self.locked())
            .finish()
    }
}

/// Holds an [`RLock`], once, until it is dropped.
#[must_use = "the lock is released when the guard is dropped: let _held = lock.lock()?"]
pub struct RLockGuard<'a> {
    lock: &'a RLock,
    /// Not to be sent to another thread.
    here: PhantomData<*const ()>,
}

impl<'a> RLockGuard<'a> {
    const fn new(lock: &'a RLock) -> Self {
        Self {
            lock,
            here: PhantomData,
        }
    }

    /// As [`Lock::holder_died`](super::Lock::holder_died).
    #[must_use]
    pub fn holder_died(&self) -> bool {
        self.lock.holder_died()
    }

    /// As [`Lock::mark_consistent`](super::Lock::mark_consistent).
    pub fn mark_consistent(&self) {
        self.lock.mark_consistent();
    }
}

impl Drop for RLockGuard<'_> {
    fn drop(&mut self) {
        // If it was released by hand before, there is nothing left to do.
        let _ = self.lock.release();
    }
}

impl fmt::Debug for RLockGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RLockGuard").field(self.lock).finish()
    }
}
