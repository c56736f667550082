//! The memory of a ring: a sealed memfd of one process, mapped by two.
//!
//! ```text
//! 0     magic u64, number u64, data bytes u32, version u32, state u32, reader's process u32, reader's descriptor u32
//! 64    written u64
//! 128   read u64
//! 192   asleep u32
//! 4096  data
//! ```

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};

use super::ring::Memory;

const MAGIC: u64 = u64::from_le_bytes(*b"procring");
pub(super) const VERSION: u8 = 1;
/// Where the data begin, in bytes.
const DATA: usize = 4096;
/// No ring is larger, in bytes.
const LARGEST: u32 = 64 << 20;

/// What has become of an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Offered = 0,
    /// The reader has mapped it, and made its pipe.
    Accepted = 1,
    /// The writer has opened that pipe.
    Joined = 2,
    /// One of the two wants no more of it.
    Closed = 3,
}

#[repr(C)]
struct Header {
    magic: AtomicU64,
    number: AtomicU64,
    size: AtomicU32,
    version: AtomicU32,
    state: AtomicU32,
    reader: AtomicU32,
    reader_fd: AtomicU32,
    written: Line<AtomicU64>,
    read: Line<AtomicU64>,
    asleep: Line<AtomicU32>,
}

/// A cache line of its own, because each is written by one side and read by the other.
#[repr(C, align(64))]
struct Line<T>(T);

const _: () = assert!(size_of::<Header>() <= DATA);

/// A mapping that both processes have.
#[derive(Clone)]
pub(super) struct Shared(Arc<Mapping>);

struct Mapping {
    base: NonNull<u8>,
    /// Bytes of data, as they were checked when it was mapped: what the header says may change.
    size: usize,
}

// SAFETY: the header is atomics only, and who may touch which of the data is the ring's protocol: one writer, one reader.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this length, and nobody has a reference into it but through this value.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), DATA + self.size) };
    }
}

impl Shared {
    /// A new ring with so many bytes of data, and the descriptor by which another process finds it.
    pub(super) fn create(size: u32, number: u64) -> io::Result<(Self, OwnedFd)> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd = rustix::fs::memfd_create("procession-ring", flags)?;
        rustix::fs::ftruncate(&fd, (DATA + size as usize) as u64)?;
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let shared = Self::map(&fd, size)?;
        let header = shared.header();
        header.magic.store(MAGIC, Ordering::Relaxed);
        header.number.store(number, Ordering::Relaxed);
        header.size.store(size, Ordering::Relaxed);
        header.version.store(VERSION.into(), Ordering::Relaxed);
        header.state.store(State::Offered as u32, Ordering::Release);
        Ok((shared, fd))
    }

    /// The ring of another process.
    pub(super) fn open(process: u32, fd: u32, size: u32, number: u64) -> io::Result<Self> {
        let path = format!("/proc/{process}/fd/{fd}");
        // Looked at before it is opened: the number may be anything's, and opening and closing some things does something.
        let name = std::fs::read_link(&path)?;
        if !name.to_string_lossy().starts_with("/memfd:procession-ring") {
            return Err(io::Error::other("it is no ring"));
        }
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let looked = rustix::fs::open(&path, flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&looked)?;
        let is_file = rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file();
        let is_ours = stat.st_uid == rustix::process::geteuid().as_raw();
        let len = u64::try_from(stat.st_size).unwrap_or_default();
        if !is_file || !is_ours || size > LARGEST || len != (DATA + size as usize) as u64 {
            return Err(io::Error::other("it is no ring of this user"));
        }
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let own = format!("/proc/self/fd/{}", looked.as_raw_fd());
        let fd = rustix::fs::open(own, flags, Mode::empty())?;
        if !rustix::fs::fcntl_get_seals(&fd)?.contains(SealFlags::SHRINK) {
            return Err(io::Error::other("it might shrink"));
        }
        // It may have shrunk until then.
        if u64::try_from(rustix::fs::fstat(&fd)?.st_size).unwrap_or_default() != len {
            return Err(io::Error::other("it has shrunk"));
        }
        let shared = Self::map(&fd, size)?;
        let header = shared.header();
        let is_it = header.magic.load(Ordering::Acquire) == MAGIC
            && header.number.load(Ordering::Relaxed) == number
            && header.version.load(Ordering::Relaxed) == u32::from(VERSION);
        if is_it && size.is_multiple_of(8) && size > 0 {
            Ok(shared)
        } else {
            Err(io::Error::other("it is another ring"))
        }
    }

    fn map(fd: &impl AsFd, size: u32) -> io::Result<Self> {
        // SAFETY: a fresh mapping at an address that the kernel chooses; the file has this length and is sealed against shrinking.
        let base = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                DATA + size as usize,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                fd,
                0,
            )
        }?;
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self(Arc::new(Mapping {
            base,
            size: size as usize,
        })))
    }

    fn header(&self) -> &Header {
        // SAFETY: a mapping begins at a page, has at least `DATA` bytes, and all fields are atomics, for which any bytes will do.
        unsafe { self.0.base.cast().as_ref() }
    }

    pub(super) fn state(&self) -> State {
        match self.header().state.load(Ordering::Acquire) {
            0 => State::Offered,
            1 => State::Accepted,
            2 => State::Joined,
            _ => State::Closed,
        }
    }

    pub(super) fn set_state(&self, state: State) {
        self.header().state.store(state as u32, Ordering::Release);
    }

    /// The reader's process, and the descriptor that wakes it.
    pub(super) fn reader(&self) -> (u32, u32) {
        let header = self.header();
        let process = header.reader.load(Ordering::Relaxed);
        (process, header.reader_fd.load(Ordering::Relaxed))
    }

    pub(super) fn set_reader(&self, process: u32, fd: u32) {
        let header = self.header();
        header.reader.store(process, Ordering::Relaxed);
        header.reader_fd.store(fd, Ordering::Relaxed);
    }

    /// Where `len` bytes of data begin.
    fn data(&self, offset: u64, len: usize) -> *mut u8 {
        let end = usize::try_from(offset)
            .ok()
            .and_then(|o| o.checked_add(len));
        assert!(
            end.is_some_and(|end| end <= self.0.size),
            "a ring's entries lie in it: they are checked before they are touched"
        );
        // SAFETY: it lies within the mapping.
        unsafe { self.0.base.as_ptr().add(DATA + offset as usize) }
    }
}

impl Memory for Shared {
    fn size(&self) -> u64 {
        self.0.size as u64
    }

    fn written(&self, order: Ordering) -> u64 {
        self.header().written.0.load(order)
    }

    fn set_written(&self, at: u64, order: Ordering) {
        self.header().written.0.store(at, order);
    }

    fn read(&self, order: Ordering) -> u64 {
        self.header().read.0.load(order)
    }

    fn set_read(&self, at: u64, order: Ordering) {
        self.header().read.0.store(at, order);
    }

    fn asleep(&self, order: Ordering) -> bool {
        self.header().asleep.0.load(order) != 0
    }

    fn swap_asleep(&self, asleep: bool, order: Ordering) -> bool {
        self.header().asleep.0.swap(asleep.into(), order) != 0
    }

    fn fence(&self) {
        fence(Ordering::SeqCst);
    }

    fn put(&self, offset: u64, bytes: &[u8]) {
        let to = self.data(offset, bytes.len());
        // SAFETY: `to` has room for them; the ring's protocol keeps the reader away from there until they are published.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
    }

    fn get(&self, offset: u64, bytes: &mut [u8]) {
        let from = self.data(offset, bytes.len());
        // SAFETY: `from` has so many; the ring's protocol keeps the writer away from there until they are read.
        unsafe { std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), bytes.len()) };
    }

    fn append(&self, offset: u64, len: usize, bytes: &mut Vec<u8>) {
        let from = self.data(offset, len);
        bytes.reserve(len);
        // SAFETY: there is room behind what it has, `from` has so many, and then they are initialized; otherwise as in `get`.
        unsafe {
            let to = bytes.as_mut_ptr().add(bytes.len());
            std::ptr::copy_nonoverlapping(from, to, len);
            bytes.set_len(bytes.len() + len);
        }
    }
}
