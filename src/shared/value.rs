//! [`Value`]: one value behind a lock.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytemuck::Pod;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::guarded::{Guarded, Held, REST};
use super::{ALIGNMENT, kind_with_lock, lend, redeem};
use crate::error::Result;

/// A value that processes of one host share, behind a lock of its own: Python's `multiprocessing.Value`.
///
/// ```
/// use procession::shared::Value;
///
/// let balance = Value::new(100_i64)?;
/// balance.update(|balance| *balance -= 30)?; // nobody comes in between
/// assert_eq!(balance.get()?, 70);
///
/// let mut held = balance.lock()?; // Python's `with balance.get_lock():`
/// if *held >= 50 {
///     *held -= 50;
/// }
/// drop(held);
/// assert_eq!(balance.get()?, 20);
/// # Ok::<(), procession::Error>(())
/// ```
///
/// (In Python `balance.value += 1` loses additions, although `Value` has a lock: it is taken for the reading and for the writing, each alone.)
///
/// **A holder that is killed, or panics, has changed nothing.** What is done to the value under the lock is done to a copy, which takes its place
/// in one step at the end. The next one has the lock at once and finds the value as it was before. (In Python all others wait for ever.)
///
/// A clone is the same value, and so is a handle that was sent to another process; how long it lives: see
/// [the module](super#how-long-it-lives). What `T` can be, too. A value of some kilobytes is better an [`Array`](super::Array), of which no copy is
/// made. Without a lock: [`RawValue`](super::RawValue), [`AtomicCounter`](super::AtomicCounter).
pub struct Value<T: Pod> {
    guarded: Guarded,
    of: PhantomData<fn() -> T>,
}

impl<T: Pod> Value<T> {
    /// Where the two places begin of which the state says which one is the value.
    const FIRST: usize = {
        assert!(
            align_of::<T>() <= ALIGNMENT,
            "it is aligned to more than 128 bytes"
        );
        REST.next_multiple_of(align_of::<T>())
    };
    const LEN: usize = Self::FIRST + 2 * size_of::<T>();

    fn kind() -> String {
        kind_with_lock::<T>("Value")
    }

    fn of(guarded: Guarded) -> Self {
        Self {
            guarded,
            of: PhantomData,
        }
    }

    /// A value, which begins as this.
    ///
    /// # Errors
    /// [`Error::NoRoom`](crate::Error::NoRoom), or [`Error::System`](crate::Error::System) when there are too many open files.
    pub fn new(value: T) -> Result<Self> {
        let new = Self::of(Guarded::new(&Self::kind(), Self::LEN)?);
        new.set(value)?;
        Ok(new)
    }

    fn place(&self, which: u32) -> *mut T {
        let offset = Self::FIRST + (which as usize & 1) * size_of::<T>();
        // SAFETY: it is inside.
        unsafe { self.guarded.segment().as_ptr().add(offset).cast() }
    }

    fn guard<'a>(&'a self, held: Held<'a>) -> ValueGuard<'a, T> {
        ValueGuard {
            which: self.guarded.state().load(Ordering::Relaxed),
            changed: false,
            value: self,
            held,
        }
    }

    /// Waits for its lock, and holds it until the guard is dropped.
    ///
    /// # Errors
    /// [`Error::HeldAlready`](crate::Error::HeldAlready) when this thread holds it.
    pub fn lock(&self) -> Result<ValueGuard<'_, T>> {
        self.guarded.lock().map(|held| self.guard(held))
    }

    /// Holds its lock until the guard is dropped, if nobody does now.
    #[must_use = "the lock is released when the guard is dropped"]
    pub fn try_lock(&self) -> Option<ValueGuard<'_, T>> {
        self.guarded.try_lock().map(|held| self.guard(held))
    }

    /// As [`lock`](Self::lock), but waits for at most `time`. By a thread that holds it already it is not had, at once.
    #[must_use = "the lock is released when the guard is dropped"]
    pub fn lock_timeout(&self, time: Duration) -> Option<ValueGuard<'_, T>> {
        let held = self.guarded.lock_timeout(time)?;
        Some(self.guard(held))
    }

    /// A copy of the value, taken under the lock.
    ///
    /// # Errors
    /// As [`lock`](Self::lock).
    pub fn get(&self) -> Result<T> {
        self.lock().map(|held| *held)
    }

    /// Sets it, under the lock.
    ///
    /// # Errors
    /// As [`lock`](Self::lock).
    pub fn set(&self, value: T) -> Result<()> {
        self.lock().map(|mut held| *held = value)
    }

    /// Changes it under the lock, and returns what `change` returns. If that panics nothing has changed.
    ///
    /// # Errors
    /// As [`lock`](Self::lock).
    pub fn update<R>(&self, change: impl FnOnce(&mut T) -> R) -> Result<R> {
        self.lock().map(|mut held| change(&mut held))
    }

    /// Says that no handle of it is under way: this process will not keep it for those.
    pub fn unlink(&self) {
        self.guarded.segment().forget_lent();
    }
}

impl<T: Pod> Clone for Value<T> {
    fn clone(&self) -> Self {
        Self::of(self.guarded.clone())
    }
}

impl<T: Pod + fmt::Debug> fmt::Debug for Value<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.try_lock() {
            Some(held) => f.debug_tuple("Value").field(&*held).finish(),
            None => f.write_str("Value(<locked>)"),
        }
    }
}

impl<T: Pod> Serialize for Value<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        lend(self.guarded.segment(), serializer)
    }
}

impl<'de, T: Pod> Deserialize<'de> for Value<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let segment = redeem(deserializer, &Self::kind(), |len| len == Self::LEN)?;
        Ok(Self::of(Guarded::of(segment)))
    }
}

/// Holds the lock of a [`Value`] until it is dropped, which must be in the thread that acquired it. It stands for the value; what is
/// changed takes effect when it is dropped, and not if by a panic.
#[must_use = "the lock is released when the guard is dropped"]
pub struct ValueGuard<'a, T: Pod> {
    value: &'a Value<T>,
    /// The place of what the guard stands for: the value, or its changed copy.
    which: u32,
    changed: bool,
    held: Held<'a>,
}

impl<T: Pod> Deref for ValueGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: it is inside, aligned, any pattern of bits is a `T`, and nobody else writes it while the lock is held.
        unsafe { &*self.value.place(self.which) }
    }
}

impl<T: Pod> DerefMut for ValueGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        let copy = self.value.place(self.which ^ 1);
        if self.changed {
            // SAFETY: as in `deref`; the copy is this guard's alone, which is borrowed mutably.
            return unsafe { &mut *self.value.place(self.which) };
        }
        // SAFETY: both are inside and aligned, and apart; the copy is nobody's until the state says that it is the value.
        unsafe { copy.copy_from_nonoverlapping(self.value.place(self.which), 1) };
        self.changed = true;
        self.which ^= 1;
        // SAFETY: as above.
        unsafe { &mut *copy }
    }
}

impl<T: Pod> Drop for ValueGuard<'_, T> {
    fn drop(&mut self) {
        if self.changed && !self.held.is_unwound() {
            // Killed before this nothing has happened, and after it all.
            self.held
                .guarded()
                .state()
                .store(self.which & 1, Ordering::Release);
        }
    }
}

impl<T: Pod + fmt::Debug> fmt::Debug for ValueGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ValueGuard").field(&**self).finish()
    }
}
