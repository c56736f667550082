//! [`Semaphore`] and [`BoundedSemaphore`]: so many threads at a time.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::deadline;
use crate::error::{Error, Result};

struct Units {
    left: Mutex<usize>,
    more: Condvar,
}

impl Units {
    fn new(units: usize) -> Arc<Self> {
        Arc::new(Self {
            left: Mutex::new(units),
            more: Condvar::new(),
        })
    }

    fn take(&self, deadline: Option<Instant>) -> bool {
        let mut left = self.left.lock();
        while *left == 0 {
            match deadline {
                None => self.more.wait(&mut left),
                Some(deadline) => {
                    if self.more.wait_until(&mut left, deadline).timed_out() {
                        break;
                    }
                }
            }
        }
        let taken = *left > 0;
        *left -= usize::from(taken);
        taken
    }

    fn try_take(&self) -> bool {
        let mut left = self.left.lock();
        let taken = *left > 0;
        *left -= usize::from(taken);
        taken
    }

    /// Gives so many back, if there are no more than `limit` then; whether that is so.
    fn give(&self, units: usize, limit: usize) -> bool {
        let mut left = self.left.lock();
        match left.checked_add(units).filter(|sum| *sum <= limit) {
            None => false,
            Some(sum) => {
                *left = sum;
                drop(left);
                match units {
                    1 => drop(self.more.notify_one()),
                    _ => drop(self.more.notify_all()),
                }
                true
            }
        }
    }
}

/// Python's `threading.Semaphore`: a number of units. To acquire takes one, and waits while there is none; to release gives one back, or a
/// new one. Any thread can release.
///
/// ```
/// use procession::thread::{Semaphore, Thread};
///
/// let two_at_a_time = Semaphore::new(2);
/// let threads: Vec<_> = (0..6)
///     .map(|number: u32| {
///         Thread::spawn(
///             |semaphore: Semaphore, number: u32| {
///                 let _unit = semaphore.lock(); // given back at the end of the block, also by a panic
///                 number * number
///             },
///             (two_at_a_time.clone(), number),
///         )
///     })
///     .collect::<Result<_, _>>()?;
/// for thread in threads {
///     thread.join()?;
/// }
/// assert_eq!(two_at_a_time.value(), 2);
/// # Ok::<(), procession::Error>(())
/// ```
#[derive(Clone)]
pub struct Semaphore {
    units: Arc<Units>,
}

/// Python's `threading.BoundedSemaphore`: a [`Semaphore`] that never has more units than it began with, so that a release too many is found.
///
/// ```
/// use procession::thread::BoundedSemaphore;
///
/// let semaphore = BoundedSemaphore::new(1);
/// semaphore.acquire();
/// semaphore.release()?;
/// let error = semaphore.release().expect_err("it was acquired once");
/// assert!(error.to_string().contains("more often than it was acquired"), "{error}");
/// # Ok::<(), procession::Error>(())
/// ```
#[derive(Clone)]
pub struct BoundedSemaphore {
    units: Arc<Units>,
    limit: usize,
}

/// Has a unit of a [`Semaphore`] or [`BoundedSemaphore`], which it gives back when it is dropped, in any thread.
#[must_use = "the unit is given back when the guard is dropped: let _unit = semaphore.lock()"]
pub struct SemaphoreGuard<'a> {
    units: &'a Units,
}

impl Drop for SemaphoreGuard<'_> {
    fn drop(&mut self) {
        self.units.give(1, usize::MAX);
    }
}

impl fmt::Debug for SemaphoreGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SemaphoreGuard").finish_non_exhaustive()
    }
}

macro_rules! acquire {
    ($semaphore:ident, $name:literal) => {
        impl $semaphore {
            /// Waits for a unit and has it until the guard is dropped. Python's `with semaphore:`.
            pub fn lock(&self) -> SemaphoreGuard<'_> {
                self.acquire();
                SemaphoreGuard { units: &self.units }
            }

            /// Takes a unit until the guard is dropped, if there is one now.
            #[must_use = "the unit is given back when the guard is dropped"]
            pub fn try_lock(&self) -> Option<SemaphoreGuard<'_>> {
                let units = &self.units;
                units
                    .try_take()
                    .then_some(())
                    .map(|()| SemaphoreGuard { units })
            }

            /// As [`lock`](Self::lock), but waits for at most `time`.
            #[must_use = "the unit is given back when the guard is dropped"]
            pub fn lock_timeout(&self, time: Duration) -> Option<SemaphoreGuard<'_>> {
                let taken = self.acquire_timeout(time);
                taken
                    .then_some(())
                    .map(|()| SemaphoreGuard { units: &self.units })
            }

            /// Takes a unit; waits for one.
            pub fn acquire(&self) {
                self.units.take(None);
            }

            /// Takes a unit if there is one now; whether it has.
            #[must_use = "it may not have a unit"]
            pub fn try_acquire(&self) -> bool {
                self.units.try_take()
            }

            /// As [`acquire`](Self::acquire), but waits for at most `time`; whether it has a unit.
            #[must_use = "it may not have a unit"]
            pub fn acquire_timeout(&self, time: Duration) -> bool {
                self.units.take(deadline(time))
            }

            /// How many units there are, at this moment.
            #[must_use]
            pub fn value(&self) -> usize {
                *self.units.left.lock()
            }
        }

        impl fmt::Debug for $semaphore {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct($name)
                    .field("value", &self.value())
                    .finish_non_exhaustive()
            }
        }
    };
}

acquire!(Semaphore, "Semaphore");
acquire!(BoundedSemaphore, "BoundedSemaphore");

impl Semaphore {
    /// A semaphore with so many units. (Python's has one if nothing is said.)
    #[must_use]
    pub fn new(units: usize) -> Self {
        Self {
            units: Units::new(units),
        }
    }

    /// Gives one unit more.
    pub fn release(&self) {
        self.release_many(1);
    }

    /// Gives so many units more; `usize::MAX` is as many as there can be.
    pub fn release_many(&self, units: usize) {
        if !self.units.give(units, usize::MAX) {
            // More than can be counted is as good as any number.
            let mut left = self.units.left.lock();
            *left = usize::MAX;
            self.units.more.notify_all();
        }
    }
}

impl BoundedSemaphore {
    /// A semaphore with so many units.
    #[must_use]
    pub fn new(units: usize) -> Self {
        Self {
            units: Units::new(units),
            limit: units,
        }
    }

    /// Gives a unit back.
    ///
    /// # Errors
    /// [`Error::ReleasedTooOften`] when all are there.
    pub fn release(&self) -> Result<()> {
        self.release_many(1)
    }

    /// Gives so many units back, or none when that is an error.
    ///
    /// # Errors
    /// As [`release`](Self::release).
    pub fn release_many(&self, units: usize) -> Result<()> {
        match self.units.give(units, self.limit) {
            true => Ok(()),
            false => Err(Error::ReleasedTooOften { limit: self.limit }),
        }
    }
}
