//! [`Lock`]: one thread at a time.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::RawMutex;
use parking_lot::lock_api::{RawMutex as _, RawMutexTimed as _};

use super::identity::ident;
use crate::error::{Error, Result};

/// A mutex that knows which thread holds it.
pub(super) struct Owned {
    raw: RawMutex,
    /// The number of the thread that holds it; 0: none does. A thread that reads its own number has written it itself, so no order between
    /// threads matters.
    owner: AtomicU64,
}

impl Owned {
    pub(super) const fn new() -> Self {
        Self {
            raw: RawMutex::INIT,
            owner: AtomicU64::new(0),
        }
    }

    fn is_taken(&self, taken: bool) -> bool {
        if taken {
            self.owner.store(ident(), Ordering::Relaxed);
        }
        taken
    }

    pub(super) fn acquire(&self) {
        self.raw.lock();
        self.is_taken(true);
    }

    pub(super) fn try_acquire(&self) -> bool {
        self.is_taken(self.raw.try_lock())
    }

    pub(super) fn acquire_timeout(&self, time: Duration) -> bool {
        match super::deadline(time) {
            Some(deadline) => self.is_taken(self.raw.try_lock_until(deadline)),
            None => {
                self.acquire();
                true
            }
        }
    }

    /// Whether this thread holds it.
    pub(super) fn is_mine(&self) -> bool {
        self.owner.load(Ordering::Relaxed) == ident()
    }

    /// Releases it; `false` when this thread does not hold it.
    pub(super) fn release(&self) -> bool {
        if !self.is_mine() {
            return false;
        }
        self.owner.store(0, Ordering::Relaxed);
        // SAFETY: this thread holds it. Its number, which no other thread ever has, was there, and it is only written by the thread itself,
        // after it has locked `raw`; and before every unlock it is taken away.
        unsafe { self.raw.unlock() };
        true
    }

    pub(super) fn is_locked(&self) -> bool {
        self.raw.is_locked()
    }
}

/// Python's `threading.Lock`: held by one thread at a time.
///
/// In both forms of Python's. The first is `with lock:`, and releases by itself at the end of the block, also by a panic:
///
/// ```
/// use procession::thread::{Lock, Thread};
///
/// fn report(lock: Lock, name: &str) -> procession::Result<()> {
///     let _held = lock.lock()?;
///     println!("{name} begins");
///     println!("{name} ends"); // no other thread's line comes between these two
///     Ok(())
/// }
///
/// let lock = Lock::new();
/// let thread = Thread::spawn(report, (lock.clone(), "one"))?;
/// report(lock, "other")?;
/// thread.join_once()?
/// # ?; Ok::<(), procession::Error>(())
/// ```
///
/// The second is `acquire` and `release`, which after a panic or a `?` in between leaves the lock held. Take it where the two are in
/// different functions, and the first everywhere else:
///
/// ```
/// # use procession::thread::Lock;
/// let lock = Lock::new();
/// lock.acquire()?;
/// // critical section
/// lock.release()?;
/// # Ok::<(), procession::Error>(())
/// ```
///
/// **Only the thread that holds it can release it**; for others it is [`Error::NotHeld`]. (In Python any thread can, which is mostly a
/// mistake. To let another thread go on, take an [`Event`](super::Event) or a [`Semaphore`](super::Semaphore).) A thread that acquires it
/// twice would wait for itself for ever, and has [`Error::HeldAlready`] instead; see [`RLock`](super::RLock).
///
/// **A holder that panics** releases it if it has a guard, and the next one is not told. A thread that ends while it holds the lock by
/// `acquire` leaves it held, as in Python.
///
/// It guards no data. What is to be reached only under a lock is better put *into* one, a `std::sync::Mutex<T>`, where the compiler sees to it.
#[derive(Clone)]
pub struct Lock {
    owned: Arc<Owned>,
}

impl Lock {
    /// A lock that nobody holds.
    #[must_use]
    pub fn new() -> Self {
        Self {
            owned: Arc::new(Owned::new()),
        }
    }

    fn check_not_mine(&self) -> Result<()> {
        match self.owned.is_mine() {
            true => Err(Error::HeldAlready),
            false => Ok(()),
        }
    }

    /// Waits for it and holds it until the guard is dropped.
    ///
    /// # Errors
    /// [`Error::HeldAlready`] when this thread holds it.
    pub fn lock(&self) -> Result<LockGuard<'_>> {
        self.acquire()?;
        Ok(LockGuard::new(self))
    }

    /// Holds it until the guard is dropped, if nobody does now.
    #[must_use = "it is released when the guard is dropped"]
    pub fn try_lock(&self) -> Option<LockGuard<'_>> {
        self.try_acquire().then(|| LockGuard::new(self))
    }

    /// As [`lock`](Self::lock), but waits for at most `time`.
    #[must_use = "it is released when the guard is dropped"]
    pub fn lock_timeout(&self, time: Duration) -> Option<LockGuard<'_>> {
        self.acquire_timeout(time).then(|| LockGuard::new(self))
    }

    /// Waits for it and holds it until [`release`](Self::release).
    ///
    /// # Errors
    /// [`Error::HeldAlready`] when this thread holds it.
    pub fn acquire(&self) -> Result<()> {
        self.check_not_mine()?;
        self.owned.acquire();
        Ok(())
    }

    /// Holds it if nobody does now, this thread included; whether it does.
    #[must_use = "it may not be held"]
    pub fn try_acquire(&self) -> bool {
        self.owned.try_acquire()
    }

    /// As [`acquire`](Self::acquire), but waits for at most `time`; whether it is held.
    #[must_use = "it may not be held"]
    pub fn acquire_timeout(&self, time: Duration) -> bool {
        self.owned.acquire_timeout(time)
    }

    /// Lets others have it.
    ///
    /// # Errors
    /// [`Error::NotHeld`] when this thread does not hold it.
    pub fn release(&self) -> Result<()> {
        match self.owned.release() {
            true => Ok(()),
            false => Err(Error::NotHeld { what: "lock" }),
        }
    }

    /// Whether any thread holds it, at this moment.
    #[must_use]
    pub fn locked(&self) -> bool {
        self.owned.is_locked()
    }
}

impl Default for Lock {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lock")
            .field("locked", &self.locked())
            .finish()
    }
}

/// Holds a [`Lock`] until it is dropped, which must be in the thread that acquired it:
///
/// ```compile_fail
/// # use procession::thread::Lock;
/// let lock = Lock::new();
/// let held = lock.lock()?;
/// std::thread::scope(|scope| scope.spawn(move || drop(held)));
/// # Ok::<(), procession::Error>(())
/// ```
#[must_use = "the lock is released when the guard is dropped: let _held = lock.lock()?"]
pub struct LockGuard<'a> {
    lock: &'a Lock,
    /// Not to be sent to another thread.
    here: PhantomData<*const ()>,
}

impl<'a> LockGuard<'a> {
    const fn new(lock: &'a Lock) -> Self {
        Self {
            lock,
            here: PhantomData,
        }
    }
}

impl Drop for LockGuard<'_> {
    fn drop(&mut self) {
        // If it was released by hand before, there is nothing left to do.
        self.lock.owned.release();
    }
}

impl fmt::Debug for LockGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LockGuard").field(self.lock).finish()
    }
}
