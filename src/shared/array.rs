//! [`Array`]: many values behind one lock.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{Ordering, compiler_fence};
use std::time::Duration;

use bytemuck::Pod;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::guarded::{Guarded, Held};
use super::{ALIGNMENT, kind_with_lock, lend, redeem};
use crate::error::{Error, Result};

/// Where the elements begin: behind the lock, in another cache line, and aligned for all.
const FIRST: usize = ALIGNMENT;

/// An array that processes of one host share, behind a lock of its own: Python's `multiprocessing.Array`.
///
/// ```
/// use procession::shared::Array;
///
/// let squares = Array::<u64>::new(10)?;
/// for index in 0..squares.len() {
///     squares.set(index, (index * index) as u64)?; // locks for each
/// }
/// let mut held = squares.lock()?; // locks once, and is a slice: no copy is made
/// held.reverse();
/// assert_eq!(held[..3], [81, 64, 49]);
/// # Ok::<(), procession::Error>(())
/// ```
///
/// **A holder that is killed**, or panics, while it changes the array may leave it half changed. Others do not wait for ever, as in Python: the next
/// [`lock`](Self::lock) succeeds, and its guard says so ([`is_consistent`](ArrayGuard::is_consistent)). All other methods have
/// [`Error::Inconsistent`] from then on, until somebody has set the array right under the lock, and has said so with
/// [`mark_consistent`](ArrayGuard::mark_consistent). One who had only read has done no harm.
///
/// A clone is the same array, and so is a handle that was sent to another process; how long it lives, and what `T` can be: see
/// [the module](super#how-long-it-lives). Without a lock: [`RawArray`](super::RawArray).
pub struct Array<T: Pod> {
    guarded: Guarded,
    of: PhantomData<fn() -> T>,
}

/// What the state says: nothing is amiss, or somebody is changing it.
const WHOLE: u32 = 0;
const CHANGING: u32 = 1;

impl<T: Pod> Array<T> {
    fn kind() -> String {
        const {
            assert!(
                align_of::<T>() <= ALIGNMENT,
                "it is aligned to more than 128 bytes"
            );
            assert!(size_of::<T>() > 0, "an array of nothing");
        }
        kind_with_lock::<T>("Array")
    }

    fn of(guarded: Guarded) -> Self {
        Self {
            guarded,
            of: PhantomData,
        }
    }

    /// An array of so many elements, all zero.
    ///
    /// # Errors
    /// [`Error::NoRoom`], or [`Error::System`] when there are too many open files.
    pub fn new(len: usize) -> Result<Self> {
        let size = len.saturating_mul(size_of::<T>()).saturating_add(FIRST);
        Guarded::new(&Self::kind(), size).map(Self::of)
    }

    /// An array that begins as a copy of this.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn from_slice(values: &[T]) -> Result<Self> {
        let new = Self::new(values.len())?;
        new.update(|array| array.copy_from_slice(values))?;
        Ok(new)
    }

    /// How many elements it has.
    #[must_use]
    pub fn len(&self) -> usize {
        (self.guarded.segment().len() - FIRST) / size_of::<T>()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn first(&self) -> *mut T {
        // SAFETY: it is inside, or at the end.
        unsafe { self.guarded.segment().as_ptr().add(FIRST).cast() }
    }

    fn guard<'a>(&'a self, held: Held<'a>) -> ArrayGuard<'a, T> {
        ArrayGuard {
            array: self,
            is_consistent: self.guarded.state().load(Ordering::Relaxed) == WHOLE,
            changes: false,
            held,
        }
    }

    /// Waits for its lock, and holds it until the guard is dropped. Whether somebody has left the array half changed, the guard says.
    ///
    /// # Errors
    /// [`Error::HeldAlready`] when this thread holds it.
    pub fn lock(&self) -> Result<ArrayGuard<'_, T>> {
        self.guarded.lock().map(|held| self.guard(held))
    }

    /// Holds its lock until the guard is dropped, if nobody does now.
    #[must_use = "the lock is released when the guard is dropped"]
    pub fn try_lock(&self) -> Option<ArrayGuard<'_, T>> {
        self.guarded.try_lock().map(|held| self.guard(held))
    }

    /// As [`lock`](Self::lock), but waits for at most `time`. By a thread that holds it already it is not had, at once.
    #[must_use = "the lock is released when the guard is dropped"]
    pub fn lock_timeout(&self, time: Duration) -> Option<ArrayGuard<'_, T>> {
        let held = self.guarded.lock_timeout(time)?;
        Some(self.guard(held))
    }

    fn lock_consistent(&self) -> Result<ArrayGuard<'_, T>> {
        let held = self.lock()?;
        match held.is_consistent {
            true => Ok(held),
            false => Err(Error::Inconsistent { what: "array" }),
        }
    }

    fn missing(&self, index: usize) -> Error {
        Error::NoSuchElement {
            index,
            count: 1,
            len: self.len(),
        }
    }

    /// A copy of one element, taken under the lock.
    ///
    /// # Errors
    /// [`Error::NoSuchElement`]; [`Error::Inconsistent`]; as [`lock`](Self::lock).
    pub fn get(&self, index: usize) -> Result<T> {
        let held = self.lock_consistent()?;
        held.get(index).copied().ok_or_else(|| self.missing(index))
    }

    /// Sets one element, under the lock.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn set(&self, index: usize, value: T) -> Result<()> {
        if index >= self.len() {
            return Err(self.missing(index));
        }
        let mut held = self.lock_consistent()?;
        held[index] = value;
        Ok(())
    }

    /// A copy of all elements, taken under the lock.
    ///
    /// # Errors
    /// [`Error::Inconsistent`]; as [`lock`](Self::lock).
    pub fn to_vec(&self) -> Result<Vec<T>> {
        self.lock_consistent().map(|held| held.to_vec())
    }

    /// Changes it under the lock, and returns what `change` returns. If that panics the array may be half changed, as when its process is
    /// killed.
    ///
    /// # Errors
    /// [`Error::Inconsistent`]; as [`lock`](Self::lock).
    pub fn update<R>(&self, change: impl FnOnce(&mut [T]) -> R) -> Result<R> {
        self.lock_consistent().map(|mut held| change(&mut held))
    }

    /// Says that no handle of it is under way: this process will not keep it for those.
    pub fn unlink(&self) {
        self.guarded.segment().forget_lent();
    }
}

impl<T: Pod> Clone for Array<T> {
    fn clone(&self) -> Self {
        Self::of(self.guarded.clone())
    }
}

impl<T: Pod> fmt::Debug for Array<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Array").field("len", &self.len()).finish()
    }
}

impl<T: Pod> Serialize for Array<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        lend(self.guarded.segment(), serializer)
    }
}

impl<'de, T: Pod> Deserialize<'de> for Array<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let segment = redeem(deserializer, &Self::kind(), |len| {
            len >= FIRST && (len - FIRST).is_multiple_of(size_of::<T>())
        })?;
        Ok(Self::of(Guarded::of(segment)))
    }
}

/// Holds the lock of an [`Array`] until it is dropped, which must be in the thread that acquired it. It stands for the slice of all elements.
#[must_use = "the lock is released when the guard is dropped"]
pub struct ArrayGuard<'a, T: Pod> {
    array: &'a Array<T>,
    is_consistent: bool,
    /// The state says that it is being changed.
    changes: bool,
    held: Held<'a>,
}

impl<T: Pod> ArrayGuard<'_, T> {
    /// Whether all who have changed it until now have come to an end with it: `false` when one was killed, or panicked, in between.
    ///
    /// ```
    /// # use procession::shared::Array;
    /// let array = Array::<u8>::new(2)?;
    /// let mut held = array.lock()?;
    /// if !held.is_consistent() {
    ///     held.fill(0); // whatever sets it right
    ///     held.mark_consistent();
    /// }
    /// # Ok::<(), procession::Error>(())
    /// ```
    #[must_use]
    pub const fn is_consistent(&self) -> bool {
        self.is_consistent
    }

    /// Says that it is right again, for everybody.
    pub fn mark_consistent(&mut self) {
        self.is_consistent = true;
        if !self.changes {
            self.say(WHOLE);
        }
    }

    fn say(&self, state: u32) {
        self.held.guarded().state().store(state, Ordering::Release);
    }
}

impl<T: Pod> Deref for ArrayGuard<'_, T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: it is inside and aligned, any pattern of bits is a `T`, and nobody else writes it while the lock is held.
        unsafe { std::slice::from_raw_parts(self.array.first(), self.array.len()) }
    }
}

impl<T: Pod> DerefMut for ArrayGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut [T] {
        if !self.changes {
            self.changes = true;
            self.say(CHANGING);
            // A killed process has done what stands in its program up to some point: so this is to stand before the changes.
            compiler_fence(Ordering::SeqCst);
        }
        // SAFETY: as in `deref`; the guard is borrowed mutably, and nobody else reads while the lock is held.
        unsafe { std::slice::from_raw_parts_mut(self.array.first(), self.array.len()) }
    }
}

impl<T: Pod> Drop for ArrayGuard<'_, T> {
    fn drop(&mut self) {
        if self.changes && self.is_consistent && !self.held.is_unwound() {
            self.say(WHOLE);
        }
    }
}

impl<T: Pod + fmt::Debug> fmt::Debug for ArrayGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}
