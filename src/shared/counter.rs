//! [`AtomicCounter`]: a number that many processes change, each in one step.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::segment::Segment;
use super::{lend, redeem, words};
use crate::error::Result;

const KIND: &str = "shared::AtomicCounter";
const ORDER: Ordering = Ordering::SeqCst;

/// A whole number that processes of one host share and change in one step, without a lock: nothing is lost, whoever is killed when.
///
/// ```
/// use procession::Process;
/// use procession::shared::AtomicCounter;
///
/// #[procession::task]
/// fn count(counter: AtomicCounter) {
///     for _ in 0..1000 {
///         counter.add(1);
///     }
/// }
///
/// #[procession::main]
/// fn main() -> procession::Result<()> {
///     let counter = AtomicCounter::new(0)?;
///     let children = [(); 2].map(|()| Process::spawn(count, (counter.clone(),)));
///     for child in children {
///         child?.join()?;
///     }
///     assert_eq!(counter.get(), 2000);
///     Ok(())
/// }
/// ```
///
/// Beyond `i64::MAX` it goes on at `i64::MIN`. All operations are in one order that all processes see (`SeqCst`), so a counter can also say
/// that something else is ready. A clone is the same counter. Two counters are in different cache lines. For many, or for `u64`, see
/// [`Memory::atomic_u64`](super::Memory::atomic_u64); how long it lives: see [the module](super#how-long-it-lives).
#[derive(Clone)]
pub struct AtomicCounter {
    segment: Arc<Segment>,
}

impl AtomicCounter {
    /// A counter that begins with this number.
    ///
    /// # Errors
    /// [`Error::NoRoom`](crate::Error::NoRoom), or [`Error::System`](crate::Error::System) when there are too many open files.
    pub fn new(value: i64) -> Result<Self> {
        let segment = Segment::anonymous(KIND, size_of::<i64>())?;
        let counter = Self { segment };
        counter.set(value);
        Ok(counter)
    }

    fn number(&self) -> &AtomicI64 {
        let word = words::word(&self.segment, 0);
        // SAFETY: both atomics are one number in memory, which lives as long.
        unsafe { AtomicI64::from_ptr(word.as_ptr().cast()) }
    }

    /// Its value at this moment.
    #[must_use]
    pub fn get(&self) -> i64 {
        self.number().load(ORDER)
    }

    /// Sets it.
    pub fn set(&self, value: i64) {
        self.number().store(value, ORDER);
    }

    /// Sets it, and returns what it was.
    pub fn swap(&self, value: i64) -> i64 {
        self.number().swap(value, ORDER)
    }

    /// Adds to it, and returns what it was before: no two who add get the same.
    #[doc(alias = "fetch_add")]
    pub fn add(&self, number: i64) -> i64 {
        self.number().fetch_add(number, ORDER)
    }

    /// Subtracts from it, and returns what it was before.
    #[doc(alias = "fetch_sub")]
    pub fn sub(&self, number: i64) -> i64 {
        self.number().fetch_sub(number, ORDER)
    }

    /// Makes it `number` if it is less, and returns what it was before.
    pub fn fetch_max(&self, number: i64) -> i64 {
        self.number().fetch_max(number, ORDER)
    }

    /// Makes it `number` if it is more, and returns what it was before.
    pub fn fetch_min(&self, number: i64) -> i64 {
        self.number().fetch_min(number, ORDER)
    }

    /// Sets it to `new` if it is `current`, and returns what it was before.
    ///
    /// # Errors
    /// What it is instead.
    pub fn compare_exchange(&self, current: i64, new: i64) -> Result<i64, i64> {
        self.number().compare_exchange(current, new, ORDER, ORDER)
    }

    /// Sets it to what `change` makes of it, which is called again when somebody else was faster; returns what it was before.
    ///
    /// ```
    /// # use procession::shared::AtomicCounter;
    /// let tickets = AtomicCounter::new(1)?;
    /// let take = |left: i64| (left > 0).then(|| left - 1);
    /// assert_eq!(tickets.fetch_update(take), Ok(1));
    /// assert_eq!(tickets.fetch_update(take), Err(0), "none is left");
    /// # Ok::<(), procession::Error>(())
    /// ```
    ///
    /// # Errors
    /// What it is, when `change` returned `None` for that.
    pub fn fetch_update(&self, change: impl FnMut(i64) -> Option<i64>) -> Result<i64, i64> {
        self.number().fetch_update(ORDER, ORDER, change)
    }

    /// Says that no handle of it is under way: this process will not keep it for those.
    pub fn unlink(&self) {
        self.segment.forget_lent();
    }
}

impl fmt::Debug for AtomicCounter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AtomicCounter").field(&self.get()).finish()
    }
}

impl Serialize for AtomicCounter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        lend(&self.segment, serializer)
    }
}

impl<'de> Deserialize<'de> for AtomicCounter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let segment = redeem(deserializer, KIND, |len| len == size_of::<i64>())?;
        Ok(Self { segment })
    }
}
