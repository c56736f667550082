//! [`Memory`]: a block of bytes, with or without a name.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64};

use bytemuck::Pod;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::segment::Segment;
use super::{lend, redeem, words};
use crate::error::{Error, Result};

const KIND: &str = "shared::Memory";

/// A block of bytes that processes of one host share: Python's `shared_memory.SharedMemory`.
///
/// A clone is the same block, and so is a handle that was sent to another process. Where no handle can be sent, because the processes do
/// not know each other, it has a name:
///
/// ```
/// use procession::shared::Memory;
///
/// # let name = format!("table-{}", std::process::id());
/// # let name = name.as_str();
/// let memory = Memory::create(name, 4096)?;
/// memory.write_at(8, b"hello")?;
///
/// // In another program of this user:
/// let same = Memory::attach(name)?;
/// let mut word = [0; 5];
/// same.read_at(8, &mut word)?;
/// assert_eq!(&word, b"hello");
///
/// memory.unlink()?; // nobody finds it any more; those who have it keep it
/// # Ok::<(), procession::Error>(())
/// ```
///
/// Its bytes are zero at first. [`read_at`](Self::read_at) and [`write_at`](Self::write_at) copy; [`get`](Self::get) and [`set`](Self::set) do so for
/// a value of any plain type. **Others may write at the same time**: then each aligned word of 8 bytes is either the old or the new one, and
/// of larger parts some words may be old and some new. What is to be seen whole is put under a [`Value`](super::Value), or guarded by a lock
/// that both sides take. Writes of one process are seen by another in any order, unless something orders them: a lock, a message on a
/// queue, the end of a process, or one of the block's [atomics](Self::atomic_u64).
///
/// # How it ends
///
/// The memory is freed when the last process that has it has dropped it or has ended, killed or not. A name is removed by
/// [`unlink`](Self::unlink), or with its last holder; if the last was killed, when anybody creates or attaches to any name. (In Python a
/// process that only attached may remove the name of the others at its end; and without `unlink` it stays for ever.) All programs of one user
/// see the same names. Whoever passes a handle on keeps the memory; see [the module](super#how-long-it-lives).
///
/// No process can make the block shorter under another, and all its memory is there from the start, so reading it cannot fail.
#[derive(Clone)]
pub struct Memory {
    segment: Arc<Segment>,
}

impl Memory {
    /// A block of so many bytes, all zero, without a name.
    ///
    /// # Errors
    /// [`Error::NoRoom`] when there is not so much memory, or `size` is 0; [`Error::System`] when there are too many open files.
    pub fn new(size: usize) -> Result<Self> {
        check_size(size)?;
        let segment = Segment::anonymous(KIND, size)?;
        Ok(Self { segment })
    }

    /// As [`new`](Self::new), with a name by which other programs of this user find it. A name has up to 255 bytes, no `/`, and begins
    /// with no dot.
    ///
    /// # Errors
    /// As [`new`](Self::new); [`Error::NameExists`]; [`Error::BadName`].
    pub fn create(name: &str, size: usize) -> Result<Self> {
        check_size(size)?;
        let segment = Segment::create(name, KIND, size)?;
        Ok(Self { segment })
    }

    /// The block of that name.
    ///
    /// # Errors
    /// [`Error::NoSuchName`]; [`Error::BadName`]; [`Error::BadHandle`] when its holders are in another container, or forbid to be looked into.
    pub fn attach(name: &str) -> Result<Self> {
        let segment = Segment::attach(name, KIND)?;
        Ok(Self { segment })
    }

    /// Takes its name away: nobody else finds it, and the name can be given again. Those who have the block keep it. It also says that no
    /// handle of it is under way: this process will not keep it for those. Without a name it does only that.
    ///
    /// # Errors
    /// When the directory of names cannot be used.
    pub fn unlink(&self) -> Result<()> {
        self.segment.unlink()
    }

    /// Its size, in bytes, as it was asked for.
    #[must_use]
    pub fn size(&self) -> usize {
        self.segment.len()
    }

    /// The name by which it was created or found, even if nobody can find it any more.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.segment.name()
    }

    fn check(&self, offset: usize, size: usize) -> Result<()> {
        match offset.checked_add(size) {
            Some(end) if end <= self.size() => Ok(()),
            _ => Err(Error::OutOfRange {
                offset,
                size: Some(size),
                len: self.size(),
            }),
        }
    }

    /// Copies what is at `offset` (in bytes) into a buffer, and fills it.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] when the block has not so many bytes there; then nothing was copied.
    pub fn read_at(&self, offset: usize, buffer: &mut [u8]) -> Result<()> {
        self.check(offset, buffer.len())?;
        words::read(&self.segment, offset, buffer);
        Ok(())
    }

    /// Copies bytes to `offset` (in bytes).
    ///
    /// # Errors
    /// [`Error::OutOfRange`] when the block has not so many bytes there; then nothing was written.
    pub fn write_at(&self, offset: usize, bytes: &[u8]) -> Result<()> {
        self.check(offset, bytes.len())?;
        words::write(&self.segment, offset, bytes);
        Ok(())
    }

    /// The value at `offset`, in bytes, which need not be aligned for it.
    ///
    /// ```
    /// # use procession::shared::Memory;
    /// let memory = Memory::new(100)?;
    /// memory.set(90, 2.5_f32)?;
    /// assert_eq!(memory.get::<f32>(90)?, 2.5);
    /// assert!(memory.get::<f64>(93).is_err(), "it is too short for that");
    /// # Ok::<(), procession::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn get<T: Pod>(&self, offset: usize) -> Result<T> {
        let mut value = T::zeroed();
        self.read_at(offset, bytemuck::bytes_of_mut(&mut value))?;
        Ok(value)
    }

    /// Writes a value to `offset`, in bytes, which need not be aligned for it.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn set<T: Pod>(&self, offset: usize, value: T) -> Result<()> {
        self.write_at(offset, bytemuck::bytes_of(&value))
    }

    /// The number at `offset`, in bytes, to be changed in one step, and to order what is written elsewhere in the block:
    ///
    /// ```
    /// # use procession::shared::Memory;
    /// use std::sync::atomic::Ordering;
    ///
    /// let memory = Memory::new(1024)?;
    /// memory.write_at(8, b"the news")?;
    /// memory.atomic_u64(0)?.fetch_add(1, Ordering::Release); // whoever sees this (`Acquire`) sees the news
    /// # Ok::<(), procession::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::OutOfRange`]; [`Error::Unaligned`] when `offset` is no multiple of 8.
    pub fn atomic_u64(&self, offset: usize) -> Result<&AtomicU64> {
        self.check(offset, size_of::<u64>())?;
        match offset % 8 {
            0 => Ok(words::word(&self.segment, offset)),
            _ => Err(Error::Unaligned { offset }),
        }
    }

    /// As [`atomic_u64`](Self::atomic_u64), with a sign.
    ///
    /// # Errors
    /// As [`atomic_u64`](Self::atomic_u64).
    pub fn atomic_i64(&self, offset: usize) -> Result<&AtomicI64> {
        let word = self.atomic_u64(offset)?;
        // SAFETY: both atomics are one number in memory, which lives as long.
        Ok(unsafe { AtomicI64::from_ptr(word.as_ptr().cast()) })
    }

    /// Where it begins, aligned to 128 bytes. It stays there as long as a handle of it is in this process.
    #[must_use]
    pub fn as_ptr(&self) -> *mut u8 {
        self.segment.as_ptr()
    }

    /// Its bytes, where they are.
    ///
    /// # Safety
    /// As long as the slice lives nobody writes to the block, in this process or another: because it was filled before and is only read
    /// now, or because a lock is held that all who write take.
    #[must_use]
    pub unsafe fn as_slice(&self) -> &[u8] {
        // SAFETY: it is mapped, so long, and stays as long as `self`; the rest is the caller's.
        unsafe { std::slice::from_raw_parts(self.as_ptr(), self.size()) }
    }

    /// Its bytes, where they are, to be written.
    ///
    /// # Safety
    /// As long as the slice lives nobody else reads or writes the block by any means, in this process or another: because nobody else
    /// has it yet, or because a lock is held that all take.
    #[must_use]
    #[allow(
        clippy::mut_from_ref,
        reason = "others have it too: that is what the caller answers for"
    )]
    pub unsafe fn as_mut_slice(&self) -> &mut [u8] {
        // SAFETY: it is mapped, so long, and stays as long as `self`; the rest is the caller's.
        unsafe { std::slice::from_raw_parts_mut(self.as_ptr(), self.size()) }
    }
}

fn check_size(size: usize) -> Result<()> {
    match size {
        0 => Err(Error::NoRoom {
            size,
            why: "a block has at least one byte".to_owned(),
        }),
        _ => Ok(()),
    }
}

impl PartialEq for Memory {
    /// Whether both are the same block.
    fn eq(&self, other: &Self) -> bool {
        self.segment.id() == other.segment.id()
    }
}

impl Eq for Memory {}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory")
            .field("name", &self.name())
            .field("size", &self.size())
            .finish()
    }
}

impl Serialize for Memory {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        lend(&self.segment, serializer)
    }
}

impl<'de> Deserialize<'de> for Memory {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let segment = redeem(deserializer, KIND, |_| true)?;
        Ok(Self { segment })
    }
}
