//! [`Semaphore`] and [`BoundedSemaphore`]: so many at a time.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::deadline;
use super::place::Place;
use super::units::{By, GiveBack, Units};
use crate::error::{Error, Result};

/// Python's `multiprocessing.Semaphore`: a number of units. To acquire takes one, and waits while there is none; to release gives one back,
/// or a new one. Any process can release.
///
/// ```
/// use procession::Process;
/// use procession::sync::Semaphore;
///
/// #[procession::task]
/// fn square(two_at_a_time: Semaphore, number: u32) -> u32 {
///     let _unit = two_at_a_time.lock(); // given back at the end of the block, also by a panic
///     number * number
/// }
///
/// #[procession::main]
/// fn main() -> procession::Result<()> {
///     let two_at_a_time = Semaphore::new(2)?;
///     let children = (0..6)
///         .map(|number| Process::spawn(square, (two_at_a_time.clone(), number)))
///         .collect::<Result<Vec<_>, _>>()?;
///     for child in children {
///         child.join()?;
///     }
///     assert_eq!(two_at_a_time.value(), 2);
///     Ok(())
/// }
/// ```
///
/// # When a process dies
///
/// What it had is given back, at the latest 0.2 s after somebody has begun to wait for a unit (or tries in vain), and never while
/// nobody does:
///
/// - **units of guards** ([`lock`](Self::lock), [`try_lock`](Self::try_lock), [`lock_timeout`](Self::lock_timeout)), always;
/// - **units acquired by hand**, as long as whoever acquires is who releases. As soon as a process has released a unit that it had not
///   acquired, the semaphore is a signal: one waits for units, another makes them, and they are nobody's. (So they must be where the value
///   begins with 0.) From then on only units of guards are given back.
///
/// It does not matter how the process has ended: who leaves without releasing gives back as well. This is known of 256 processes that have
/// units at one time; those beyond have them for good.
#[derive(Clone, Serialize, Deserialize)]
pub struct Semaphore {
    units: Place<Units<false>>,
}

/// Python's `multiprocessing.BoundedSemaphore`: a [`Semaphore`] that never has more units than it began with, so that a release too many is
/// found.
///
/// ```
/// use procession::sync::BoundedSemaphore;
///
/// let semaphore = BoundedSemaphore::new(1)?;
/// semaphore.acquire();
/// semaphore.release()?;
/// let error = semaphore.release().expect_err("it was acquired once");
/// assert!(error.to_string().contains("more often than it was acquired"), "{error}");
/// # Ok::<(), procession::Error>(())
/// ```
///
/// What a process had that dies is given back as there, but this one never becomes a signal: a unit that a process releases without having acquired
/// one by hand is taken to be one of those that another process has by hand.
#[derive(Clone, Serialize, Deserialize)]
pub struct BoundedSemaphore {
    units: Place<Units<true>>,
}

/// Has a unit of a [`Semaphore`] or [`BoundedSemaphore`], which it gives back when it is dropped, in any thread.
#[must_use = "the unit is given back when the guard is dropped: let _unit = semaphore.lock()"]
pub struct SemaphoreGuard<'a> {
    units: &'a dyn GiveBack,
}

impl Drop for SemaphoreGuard<'_> {
    fn drop(&mut self) {
        self.units.give_back();
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
            /// A semaphore with so many units.
            ///
            /// # Errors
            /// When the system has no memory for it, or this process has too many open files.
            pub fn new(units: usize) -> Result<Self> {
                let place = Place::<Units<_>>::new()?;
                place.begin(units);
                Ok(Self { units: place })
            }

            /// Waits for a unit and has it until the guard is dropped. Python's `with semaphore:`.
            pub fn lock(&self) -> SemaphoreGuard<'_> {
                self.units.take(By::Guard, None);
                SemaphoreGuard {
                    units: &*self.units,
                }
            }

            /// Takes a unit until the guard is dropped, if there is one now.
            #[must_use = "the unit is given back when the guard is dropped"]
            pub fn try_lock(&self) -> Option<SemaphoreGuard<'_>> {
                let taken = self.units.try_take(By::Guard);
                taken.then_some(()).map(|()| SemaphoreGuard {
                    units: &*self.units,
                })
            }

            /// As [`lock`](Self::lock), but waits for at most `time`.
            #[must_use = "the unit is given back when the guard is dropped"]
            pub fn lock_timeout(&self, time: Duration) -> Option<SemaphoreGuard<'_>> {
                let taken = self.units.take(By::Guard, deadline(time));
                taken.then_some(()).map(|()| SemaphoreGuard {
                    units: &*self.units,
                })
            }

            /// Takes a unit; waits for one.
            pub fn acquire(&self) {
                self.units.take(By::Hand, None);
            }

            /// Takes a unit if there is one now; whether it has.
            #[must_use = "it may not have a unit"]
            pub fn try_acquire(&self) -> bool {
                self.units.try_take(By::Hand)
            }

            /// As [`acquire`](Self::acquire), but waits for at most `time`; whether it has a unit.
            #[must_use = "it may not have a unit"]
            pub fn acquire_timeout(&self, time: Duration) -> bool {
                self.units.take(By::Hand, deadline(time))
            }

            /// How many units there are, at this moment.
            #[must_use]
            #[doc(alias = "get_value")]
            pub fn value(&self) -> usize {
                self.units.left()
            }

            /// Says that no handle of it is under way: this process will not keep it for those. See
            /// [the module](super#how-long-it-lives).
            pub fn unlink(&self) {
                self.units.unlink();
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
    /// Gives one unit more.
    pub fn release(&self) {
        self.release_many(1);
    }

    /// Gives so many units more; `usize::MAX` is as many as there can be.
    pub fn release_many(&self, units: usize) {
        if !self.units.give(units) {
            // More than can be counted is as good as any number.
            self.units.fill();
        }
    }
}

impl BoundedSemaphore {
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
        match self.units.give(units) {
            true => Ok(()),
            false => Err(Error::ReleasedTooOften {
                limit: self.units.limit(),
            }),
        }
    }
}
