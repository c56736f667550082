//! [`Lock`]: one thread of one process at a time.

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::deadline;
use super::heritage::{Heir, Mutex, is_had};
use super::place::{Place, Shared};
use crate::error::{Error, Result};

// SAFETY: atomics and a system mutex for several processes, `repr(C)`.
unsafe impl Shared for Mutex {
    const KIND: &'static str = "sync::Lock";

    unsafe fn init(place: *mut Self) -> io::Result<()> {
        // SAFETY: the caller's.
        unsafe { Self::init(place) }
    }

    fn is_held_by_this_process(&self) -> bool {
        self.is_held_by_this_process()
    }
}

/// Python's `multiprocessing.Lock`: held by one thread of one process at a time.
///
/// In both forms of Python's. The first is `with lock:`, and releases by itself at the end of the block, also by a panic:
///
/// ```
/// use procession::Process;
/// use procession::sync::Lock;
///
/// #[procession::task]
/// fn report(lock: Lock, name: String) -> procession::Result<()> {
///     let _held = lock.lock()?;
///     println!("{name} begins");
///     println!("{name} ends"); // no other process's line comes between these two
///     Ok(())
/// }
///
/// #[procession::main]
/// fn main() -> procession::Result<()> {
///     let lock = Lock::new()?;
///     let child = Process::spawn(report, (lock.clone(), "child".to_owned()))?;
///     report(lock, "parent".to_owned())?;
///     child.join()
/// }
/// ```
///
/// The second is `acquire` and `release`, which after a panic or a `?` in between leaves the lock held. Take it where the two are in
/// different functions, and the first everywhere else:
///
/// ```
/// # use procession::sync::Lock;
/// let lock = Lock::new()?;
/// lock.acquire()?;
/// // critical section
/// lock.release()?;
/// # Ok::<(), procession::Error>(())
/// ```
///
/// **Only the thread that holds it can release it**; for others it is [`Error::NotHeld`]. (In Python anybody can, which is mostly a
/// mistake. To let another process go on, take an [`Event`](super::Event) or a [`Semaphore`](super::Semaphore).) A thread that acquires it
/// twice would wait for itself for ever, and has [`Error::HeldAlready`] instead; see [`RLock`](super::RLock).
///
/// **A holder that is killed**, or whose thread ends, does not leave the others waiting, as it does in Python: the next one has the lock
/// as soon as the process has ended (if it lives on without that thread: at most a second later). What it guards may be half changed then,
/// and [`holder_died`](Self::holder_died) says so, to everybody, until somebody who has put it in order calls
/// [`mark_consistent`](Self::mark_consistent):
///
/// ```
/// # use procession::sync::Lock;
/// # fn repair() {}
/// # let lock = Lock::new()?;
/// let held = lock.lock()?;
/// if held.holder_died() {
///     repair();
///     held.mark_consistent();
/// }
/// # Ok::<(), procession::Error>(())
/// ```
///
/// A holder that panics releases it if it has a guard, and the next one is not told.
#[derive(Clone, Serialize, Deserialize)]
pub struct Lock {
    mutex: Place<Mutex>,
}

impl Lock {
    /// A lock that nobody holds.
    ///
    /// # Errors
    /// When the system has no memory for it, or this process has too many open files.
    pub fn new() -> Result<Self> {
        Ok(Self {
            mutex: Place::new()?,
        })
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
        self.mutex.acquire_until(None, Heir::AnyTime).map(drop)
    }

    /// Holds it if nobody does now, this thread included; whether it does.
    #[must_use = "it may not be held"]
    pub fn try_acquire(&self) -> bool {
        is_had(self.mutex.try_acquire(Heir::AnyTime))
    }

    /// As [`acquire`](Self::acquire), but waits for at most `time`; whether it is held. Not at all, and at once, by a thread that holds it
    /// already.
    #[must_use = "it may not be held"]
    pub fn acquire_timeout(&self, time: Duration) -> bool {
        is_had(self.mutex.acquire_until(deadline(time), Heir::AnyTime))
    }

    /// Lets others have it.
    ///
    /// # Errors
    /// [`Error::NotHeld`] when this thread does not hold it.
    pub fn release(&self) -> Result<()> {
        match self.mutex.release() {
            true => Ok(()),
            false => Err(Error::NotHeld { what: "lock" }),
        }
    }

    /// Whether any thread of any process holds it, at this moment. One that was killed does not.
    #[must_use]
    pub fn locked(&self) -> bool {
        self.mutex.is_held()
    }

    /// Whether a holder was killed or its thread has ended, and nobody has [said since](Self::mark_consistent) that what it guards is in
    /// order. To be asked by a holder: before, nobody may have noticed.
    #[must_use]
    pub fn holder_died(&self) -> bool {
        self.mutex.died()
    }

    /// Says that what it guards is in order, after the death of a holder. To be called by a holder.
    pub fn mark_consistent(&self) {
        self.mutex.forget_death();
    }

    /// Says that no handle of it is under way: this process will not keep it for those. See [the module](super#how-long-it-lives).
    pub fn unlink(&self) {
        self.mutex.unlink();
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
/// # use procession::sync::Lock;
/// let lock = Lock::new()?;
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

    /// As [`Lock::holder_died`].
    #[must_use]
    pub fn holder_died(&self) -> bool {
        self.lock.holder_died()
    }

    /// As [`Lock::mark_consistent`].
    pub fn mark_consistent(&self) {
        self.lock.mark_consistent();
    }
}

impl Drop for LockGuard<'_> {
    fn drop(&mut self) {
        // If it was released by hand before, there is nothing left to do.
        self.lock.mutex.release();
    }
}

impl fmt::Debug for LockGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LockGuard").field(self.lock).finish()
    }
}
