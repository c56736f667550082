//! [`Place`]: something in shared memory, and the handle of it that goes from process to process.

use std::io;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};

use super::raw_mutex::ABI;
use crate::error::{Error, Result};
use crate::shared::{Segment, Ticket};

/// What can be in a [`Place`].
///
/// # Safety
/// It is `repr(C)`, has no pointer or padding that anybody reads, is usable by several processes at once through `&self` (atomics and
/// system mutexes), and needs an alignment of no more than 128 bytes.
pub(super) unsafe trait Shared: Sync + Sized {
    /// What it is called; no two types have the same.
    const KIND: &'static str;

    /// Whether there is a mutex of the system's in it, which both programs must have alike.
    const HAS_MUTEX: bool = true;

    /// Makes one of memory that is all zeros.
    ///
    /// # Errors
    /// The system's.
    ///
    /// # Safety
    /// `place` is aligned, valid, all zeros, and nobody else's yet; what is made there is never moved.
    unsafe fn init(place: *mut Self) -> io::Result<()>;

    /// Whether it cannot be unmapped in this process now, because a thread holds a mutex in it.
    fn is_held_by_this_process(&self) -> bool {
        false
    }
}

/// Something in shared memory. A clone is the same, and so is what another process makes of its encoding.
pub(super) struct Place<T: Shared> {
    mapped: Arc<Mapped<T>>,
}

fn kind<T: Shared>() -> String {
    match T::HAS_MUTEX {
        true => format!("{} ({ABI})", T::KIND),
        false => T::KIND.to_owned(),
    }
}

struct Mapped<T: Shared> {
    there: NonNull<T>,
    segment: Arc<Segment>,
}

// SAFETY: it is as a `&T`, and an `Arc` that can be sent; `T` may be used by several threads, as `Shared` says.
unsafe impl<T: Shared> Send for Mapped<T> {}
// SAFETY: as above.
unsafe impl<T: Shared> Sync for Mapped<T> {}

impl<T: Shared> Place<T> {
    /// Makes one.
    ///
    /// # Errors
    /// When there is no memory, or no file can be opened.
    pub(super) fn new() -> Result<Self> {
        let place = Self::of(Segment::anonymous(&kind::<T>(), size_of::<T>())?)?;
        // SAFETY: the segment is new, all zeros, and of that size; nobody else knows it.
        unsafe { T::init(place.mapped.there.as_ptr()) }
            .map_err(|error| Error::system(format!("cannot make a {}", T::KIND), error))?;
        Ok(place)
    }

    /// Lets go of what is kept for handles that may be under way.
    pub(super) fn unlink(&self) {
        self.mapped.segment.forget_lent();
    }

    fn of(segment: Arc<Segment>) -> Result<Self> {
        let there = NonNull::new(segment.as_ptr().cast::<T>())
            .filter(|_| segment.len() == size_of::<T>() && align_of::<T>() <= 128);
        let Some(there) = there else {
            return Err(Error::BadHandle {
                endpoint: format!("a {}", T::KIND),
                why: "it has another size; build both programs with one version of this library"
                    .to_owned(),
            });
        };
        // The kernel's list of what a thread holds goes through it.
        // SAFETY: it is as large. If it could not be made it is all zeros, which can be read.
        segment.stays_if(|there| unsafe { &*there.cast::<T>() }.is_held_by_this_process());
        Ok(Self {
            mapped: Arc::new(Mapped { there, segment }),
        })
    }
}

impl<T: Shared> Deref for Place<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: it was made there before anybody had a handle, is as large, and stays while the segment is kept.
        unsafe { self.mapped.there.as_ref() }
    }
}

impl<T: Shared> Clone for Place<T> {
    fn clone(&self) -> Self {
        Self {
            mapped: Arc::clone(&self.mapped),
        }
    }
}

impl<T: Shared> Serialize for Place<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let ticket = self.mapped.segment.lend().map_err(ser::Error::custom)?;
        ticket.serialize(serializer)
    }
}

impl<'de, T: Shared> Deserialize<'de> for Place<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let segment = Ticket::deserialize(deserializer)?.redeem(&kind::<T>());
        segment.and_then(Self::of).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::heritage::Mutex;

    fn error(segment: &Arc<Segment>) -> Result<String> {
        let bytes = rmp_serde::to_vec(&segment.lend()?).expect("it is a few numbers");
        let place = rmp_serde::from_slice::<Place<Mutex>>(&bytes);
        segment.forget_lent();
        Ok(place
            .err()
            .map_or_else(String::new, |error| error.to_string()))
    }

    #[test]
    fn what_another_c_library_or_layout_has_made_is_refused() -> Result<()> {
        let size = size_of::<Mutex>();
        assert_eq!(error(&Segment::anonymous(&kind::<Mutex>(), size)?)?, "");
        let other = Segment::anonymous("sync::Lock (musl, 32 bits, layout 2)", size)?;
        let why = error(&other)?;
        assert!(
            why.contains("is sync::Lock (musl, 32 bits, layout 2), and not"),
            "{why}"
        );
        assert!(why.contains(ABI), "{why}");
        for size in [size - 8, size + 8] {
            let why = error(&Segment::anonymous(&kind::<Mutex>(), size)?)?;
            assert!(why.contains("it has another size"), "{why}");
        }
        Ok(())
    }
}
