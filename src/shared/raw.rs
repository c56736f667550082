//! [`RawValue`] and [`RawArray`]: without a lock.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use bytemuck::Pod;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::segment::Segment;
use super::{kind_of, lend, redeem, words};
use crate::error::{Error, Result};

/// An array that processes of one host share, without a lock: Python's `RawArray`.
///
/// ```
/// use procession::shared::RawArray;
///
/// let samples = RawArray::<f32>::new(1000)?;
/// samples.write(10, &[0.5, 0.25])?;
/// assert_eq!(samples.get(11)?, 0.25);
/// # Ok::<(), procession::Error>(())
/// ```
///
/// It is for arrays of which each element has one writer at a time, because every process has its own part, or because something else
/// says whose turn it is. Nothing waits, and a process that is killed holds up nobody.
///
/// **What may be seen of a write that is going on:** elements of 1, 2, 4 or 8 bytes are the old or the new one, never a mixture. Larger ones
/// are copied in words of 8 bytes, some of which may be old and some new (in Rust's terms: relaxed atomics, no data race). Of several
/// writes another process may see the later before the earlier, unless something orders them, as a lock, a message or the end of
/// a process does.
///
/// A clone is the same array, and so is a handle that was sent to another process; how long it lives, and what `T` can be: see
/// [the module](super#how-long-it-lives).
pub struct RawArray<T: Pod> {
    segment: Arc<Segment>,
    of: PhantomData<fn() -> T>,
}

impl<T: Pod> RawArray<T> {
    fn kind() -> String {
        const { assert!(size_of::<T>() > 0, "an array of nothing") };
        kind_of::<T>("RawArray")
    }

    const fn of(segment: Arc<Segment>) -> Self {
        Self {
            segment,
            of: PhantomData,
        }
    }

    /// An array of so many elements, all zero.
    ///
    /// # Errors
    /// [`Error::NoRoom`], or [`Error::System`] when there are too many open files.
    pub fn new(len: usize) -> Result<Self> {
        let size = len.saturating_mul(size_of::<T>());
        Segment::anonymous(&Self::kind(), size).map(Self::of)
    }

    /// An array that begins as a copy of this.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn from_slice(values: &[T]) -> Result<Self> {
        let new = Self::new(values.len())?;
        new.write(0, values)?;
        Ok(new)
    }

    /// How many elements it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.segment.len() / size_of::<T>()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where so many elements begin, in bytes.
    fn offset(&self, index: usize, count: usize) -> Result<usize> {
        match index.checked_add(count) {
            Some(end) if end <= self.len() => Ok(index * size_of::<T>()),
            _ => Err(Error::NoSuchElement {
                index,
                count,
                len: self.len(),
            }),
        }
    }

    /// A copy of one element.
    ///
    /// # Errors
    /// [`Error::NoSuchElement`].
    pub fn get(&self, index: usize) -> Result<T> {
        let mut value = T::zeroed();
        let offset = self.offset(index, 1)?;
        words::read(&self.segment, offset, bytemuck::bytes_of_mut(&mut value));
        Ok(value)
    }

    /// Sets one element.
    ///
    /// # Errors
    /// [`Error::NoSuchElement`].
    pub fn set(&self, index: usize, value: T) -> Result<()> {
        let offset = self.offset(index, 1)?;
        words::write(&self.segment, offset, bytemuck::bytes_of(&value));
        Ok(())
    }

    /// Copies elements from `index` on into a slice, and fills it.
    ///
    /// # Errors
    /// [`Error::NoSuchElement`]; then nothing was copied.
    pub fn read(&self, index: usize, into: &mut [T]) -> Result<()> {
        let offset = self.offset(index, into.len())?;
        words::read(&self.segment, offset, bytemuck::cast_slice_mut(into));
        Ok(())
    }

    /// Copies a slice to the elements from `index` on.
    ///
    /// # Errors
    /// [`Error::NoSuchElement`]; then nothing was written.
    pub fn write(&self, index: usize, values: &[T]) -> Result<()> {
        let offset = self.offset(index, values.len())?;
        words::write(&self.segment, offset, bytemuck::cast_slice(values));
        Ok(())
    }

    /// A copy of all elements.
    #[must_use]
    pub fn to_vec(&self) -> Vec<T> {
        let mut all = vec![T::zeroed(); self.len()];
        words::read(&self.segment, 0, bytemuck::cast_slice_mut(&mut all));
        all
    }

    /// Says that no handle of it is under way: this process will not keep it for those.
    pub fn unlink(&self) {
        self.segment.forget_lent();
    }
}

impl<T: Pod> Clone for RawArray<T> {
    fn clone(&self) -> Self {
        Self::of(Arc::clone(&self.segment))
    }
}

impl<T: Pod> fmt::Debug for RawArray<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawArray")
            .field("len", &self.len())
            .finish()
    }
}

impl<T: Pod> Serialize for RawArray<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        lend(&self.segment, serializer)
    }
}

impl<'de, T: Pod> Deserialize<'de> for RawArray<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let fits = |len: usize| len.is_multiple_of(size_of::<T>());
        redeem(deserializer, &Self::kind(), fits).map(Self::of)
    }
}

/// A value that processes of one host share, without a lock: Python's `RawValue`.
///
/// ```
/// use procession::shared::RawValue;
///
/// let progress = RawValue::new(0.0_f64)?; // one process sets it, others look
/// progress.set(0.5);
/// assert_eq!(progress.get(), 0.5);
/// # Ok::<(), procession::Error>(())
/// ```
///
/// Values of up to 8 bytes are always seen whole. A larger one may be seen half written, as elements of a [`RawArray`]: then take a
/// [`Value`](super::Value). Reading and then writing loses what others do in between: for that, a `Value` or an
/// [`AtomicCounter`](super::AtomicCounter).
///
/// A clone is the same value, and so is a handle that was sent to another process; how long it lives, and what `T` can be: see
/// [the module](super#how-long-it-lives).
pub struct RawValue<T: Pod> {
    segment: Arc<Segment>,
    of: PhantomData<fn() -> T>,
}

impl<T: Pod> RawValue<T> {
    fn kind() -> String {
        kind_of::<T>("RawValue")
    }

    const fn of(segment: Arc<Segment>) -> Self {
        Self {
            segment,
            of: PhantomData,
        }
    }

    /// A value, which begins as this.
    ///
    /// # Errors
    /// [`Error::NoRoom`], or [`Error::System`] when there are too many open files.
    pub fn new(value: T) -> Result<Self> {
        let new = Self::of(Segment::anonymous(&Self::kind(), size_of::<T>())?);
        new.set(value);
        Ok(new)
    }

    /// A copy of the value.
    #[must_use]
    pub fn get(&self) -> T {
        let mut value = T::zeroed();
        words::read(&self.segment, 0, bytemuck::bytes_of_mut(&mut value));
        value
    }

    /// Sets it.
    pub fn set(&self, value: T) {
        words::write(&self.segment, 0, bytemuck::bytes_of(&value));
    }

    /// Says that no handle of it is under way: this process will not keep it for those.
    pub fn unlink(&self) {
        self.segment.forget_lent();
    }
}

impl<T: Pod> Clone for RawValue<T> {
    fn clone(&self) -> Self {
        Self::of(Arc::clone(&self.segment))
    }
}

impl<T: Pod + fmt::Debug> fmt::Debug for RawValue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RawValue").field(&self.get()).finish()
    }
}

impl<T: Pod> Serialize for RawValue<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        lend(&self.segment, serializer)
    }
}

impl<'de, T: Pod> Deserialize<'de> for RawValue<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let fits = |len: usize| len == size_of::<T>();
        redeem(deserializer, &Self::kind(), fits).map(Self::of)
    }
}
