//! [`Segment`]: a piece of memory that processes of one host share.
//!
//! It is a file in memory (memfd) that each of its holders has mapped, and which the kernel frees when the last of them is gone, killed
//! or not. It has all its pages from the start and is sealed against shrinking, so that nothing that another process does, nor a full
//! memory, takes a page away from under a reader (SIGBUS). In front of the data is a header, which says what it is:
//!
//! ```text
//!   0  magic "PROCSHAR"      16  length of the data, u64      48  kind, as text, zeros behind it (72 bytes)
//!   8  version, u32          24  kind, as a hash, u64        120  zeros
//!  12  data's offset, u32    32  id, two u64                 128  data
//! ```
//!
//! Numbers are native, as nothing leaves the host. The header is written before anybody else can see the memory, read through the file and
//! never through the mapping, so that it is checked before it is believed, and once.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::SealFlags;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::memfd;
use super::names::{self, Found, Holder};
use super::table;
use crate::error::{Error, Result};

/// Two cache lines, which some processors fetch together: what is written behind it does not slow down who reads it.
const HEADER: usize = 128;
const MAGIC: [u8; 8] = *b"PROCSHAR";
const VERSION: u32 = 1;
/// A process that is killed gives up its files one after another: for a moment it may still hold a name, and no longer the memory.
const DYING: Duration = Duration::from_secs(1);
const KIND: std::ops::Range<usize> = 48..120;

/// How long the file of so much data is: it ends with a whole word, so that its last bytes can be reached as part of one.
fn whole(len: usize) -> Option<usize> {
    len.checked_next_multiple_of(8)?.checked_add(HEADER)
}

/// A block's number, which no other has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub(crate) struct Id(pub(super) u64, pub(super) u64);

impl Id {
    fn random() -> Result<Self> {
        Ok(Self(
            crate::pipeline::random_id()?,
            crate::pipeline::random_id()?,
        ))
    }
}

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}{:016x}", self.0, self.1)
    }
}

/// What the header says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Header {
    id: Id,
    len: usize,
    kind: String,
    kind_hash: u64,
}

impl Header {
    fn new(id: Id, len: usize, kind: &str) -> Self {
        let mut kind_hash = 0xcbf2_9ce4_8422_2325;
        for byte in kind.bytes() {
            // FNV-1a: the same in every build, as it must be.
            kind_hash = (kind_hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        let mut end = kind.len().min(KIND.len());
        while !kind.is_char_boundary(end) {
            end -= 1;
        }
        Self {
            id,
            len,
            kind: kind[..end].to_owned(),
            kind_hash,
        }
    }

    fn to_bytes(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        let mut put = |at: usize, part: &[u8]| bytes[at..at + part.len()].copy_from_slice(part);
        put(0, &MAGIC);
        put(8, &VERSION.to_ne_bytes());
        put(12, &(HEADER as u32).to_ne_bytes());
        put(16, &(self.len as u64).to_ne_bytes());
        put(24, &self.kind_hash.to_ne_bytes());
        put(32, &self.id.0.to_ne_bytes());
        put(40, &self.id.1.to_ne_bytes());
        put(KIND.start, self.kind.as_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8; HEADER]) -> Result<Self, &'static str> {
        let number = |at: usize| {
            let mut number = [0; 8];
            number.copy_from_slice(&bytes[at..at + 8]);
            u64::from_ne_bytes(number)
        };
        if bytes[..8] != MAGIC {
            return Err("it is no shared memory of this library's");
        }
        if bytes[8..12] != VERSION.to_ne_bytes() || bytes[12..16] != (HEADER as u32).to_ne_bytes() {
            return Err(
                "it was made by another version of this library; build both programs with one",
            );
        }
        let kind = bytes[KIND].split(|byte| *byte == 0).next();
        Ok(Self {
            id: Id(number(32), number(40)),
            len: usize::try_from(number(16)).map_err(|_| "its length is nonsense")?,
            kind: String::from_utf8_lossy(kind.unwrap_or_default()).into_owned(),
            kind_hash: number(24),
        })
    }

    /// Reads it from a file that another process named, and sees whether the file is what the header says.
    fn read(file: &impl AsFd) -> io::Result<Self> {
        let mut bytes = [0; HEADER];
        read_at_start(file, &mut bytes)?;
        let header = Self::from_bytes(&bytes).map_err(io::Error::other)?;
        let size = rustix::fs::fstat(file)?.st_size;
        let fits = usize::try_from(size).is_ok_and(|size| whole(header.len) == Some(size));
        if !fits {
            return Err(io::Error::other("its length is not what its header says"));
        }
        // Without this seal its end could be cut off, and who reads it would be killed.
        if !rustix::fs::fcntl_get_seals(file)?.contains(SealFlags::SHRINK) {
            return Err(io::Error::other("it is not sealed"));
        }
        Ok(header)
    }
}

fn read_at_start(file: &impl AsFd, bytes: &mut [u8; HEADER]) -> io::Result<()> {
    let mut done = 0;
    while done < HEADER {
        match rustix::io::pread(file, &mut bytes[done..], done as u64) {
            Ok(0) => return Err(io::Error::other("it is too short to be shared memory")),
            Ok(read) => done += read,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// A piece of memory that processes of one host share, as this process has mapped it. All handles of one piece in one process share
/// one of these.
///
/// The data is zeroed when it is made, and aligned to 128 bytes.
#[derive(Debug)]
pub(crate) struct Segment {
    header: Header,
    /// Of the mapping, header included.
    base: NonNull<u8>,
    /// Also kept by the table, once it was lent.
    file: Arc<OwnedFd>,
    name: Option<String>,
    /// Given up before, when the program ends with this still in use.
    holder: Mutex<Option<Holder>>,
    /// Whether this process has become a holder, or has tried to.
    is_settled: OnceLock<()>,
    /// Whether something in it must stay where it is.
    busy: OnceLock<fn(*mut u8) -> bool>,
}

// SAFETY: it is memory that any thread of any process may reach. What makes this orderly is the matter of those who use its pointer; there
// is nothing here that belongs to one thread.
unsafe impl Send for Segment {}
// SAFETY: as above; nothing of the rest changes.
unsafe impl Sync for Segment {}

impl Segment {
    /// Makes one without a name.
    ///
    /// # Errors
    /// [`Error::NoRoom`] when there is not so much memory; [`Error::System`] when there are too many open files.
    pub(crate) fn anonymous(kind: &str, len: usize) -> Result<Arc<Self>> {
        let segment = Arc::new(Self::make(kind, len)?);
        table::lock().remember(&segment);
        Ok(segment)
    }

    /// Makes one that others find by its name.
    ///
    /// # Errors
    /// As [`anonymous`](Self::anonymous); [`Error::BadName`]; [`Error::NameExists`].
    pub(crate) fn create(name: &str, kind: &str, len: usize) -> Result<Arc<Self>> {
        names::check(name)?;
        let segment = Self::make(kind, len)?;
        let holder = names::create(name, segment.header.id, segment.file.as_raw_fd())?;
        let segment = Arc::new(segment.held(name, holder));
        table::lock().remember(&segment);
        Ok(segment)
    }

    /// Finds one by its name.
    ///
    /// # Errors
    /// [`Error::BadName`], [`Error::NoSuchName`]; [`Error::OtherMemory`] when it is of another kind; [`Error::BadHandle`] when none of
    /// its holders can be reached.
    pub(crate) fn attach(name: &str, kind: &str) -> Result<Arc<Self>> {
        names::check(name)?;
        let deadline = Instant::now() + DYING;
        let segment = loop {
            if let Some(segment) = Self::find(name)? {
                break segment;
            }
            if Instant::now() >= deadline {
                return Err(Error::BadHandle {
                    endpoint: format!("shared memory {name}"),
                    why: "its holders cannot be reached from here: they are in another container, or may not be looked into"
                        .to_owned(),
                });
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        segment.check_kind(kind)?;
        Ok(segment)
    }

    fn find(name: &str) -> Result<Option<Arc<Self>>> {
        let (file, id, holder) = match names::attach(name, |id| table::lock().get(id))? {
            Some(Found::There(file, id, holder)) => (file, id, holder),
            Some(Found::Here(segment)) => return Ok(Some(segment)),
            None => return Ok(None),
        };
        let segment = Self::map(file, id)
            .map_err(|error| Error::system(format!("cannot attach {name}"), error))?;
        let segment = Arc::new(segment.held(name, holder));
        let mut table = table::lock();
        // Another thread may have mapped it meanwhile.
        let found = table.get(id).unwrap_or_else(|| {
            table.remember(&segment);
            Arc::clone(&segment)
        });
        drop(table);
        Ok(Some(found))
    }

    /// Found or made by that name, of which this process is a holder.
    fn held(mut self, name: &str, holder: Holder) -> Self {
        self.name = Some(name.to_owned());
        self.holder = Mutex::new(Some(holder));
        self.is_settled = OnceLock::from(());
        self
    }

    fn make(kind: &str, len: usize) -> Result<Self> {
        let header = Header::new(Id::random()?, len, kind);
        let failed = |error| memfd::error(len, error);
        let file = memfd::allocate(len, whole(len))?;
        file.write_all_at(&header.to_bytes(), 0).map_err(failed)?;
        let file = memfd::seal(file).map_err(failed)?;
        Self::mapped(Arc::new(file), header).map_err(failed)
    }

    /// Maps what another process, or this one at another time, has made.
    pub(super) fn map(file: Arc<OwnedFd>, id: Id) -> io::Result<Self> {
        let header = Header::read(&*file)?;
        if header.id != id {
            return Err(io::Error::other("it is other memory than was meant"));
        }
        Self::mapped(file, header)
    }

    /// Whether that file is this memory.
    pub(super) fn is(file: &File, id: Id) -> bool {
        Header::read(file).is_ok_and(|header| header.id == id)
    }

    fn mapped(file: Arc<OwnedFd>, header: Header) -> io::Result<Self> {
        // SAFETY: it is a new mapping at an address of the kernel's choice; the file is as long, and can become neither shorter nor
        // longer.
        let base = unsafe {
            mmap(
                std::ptr::null_mut(),
                whole(header.len).ok_or(io::ErrorKind::OutOfMemory)?,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                &*file,
                0,
            )
        }?;
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self {
            header,
            base,
            file,
            name: None,
            holder: Mutex::default(),
            is_settled: OnceLock::new(),
            busy: OnceLock::new(),
        })
    }

    /// Has the name that whoever lent it says.
    pub(super) fn with_name(mut self, name: Option<String>) -> Self {
        self.name = name;
        self
    }

    /// Has this process count as a holder of its name, if it still has it. Waits for others.
    pub(super) fn hold_name(&self) {
        let Some(name) = &self.name else { return };
        self.is_settled.get_or_init(|| {
            match names::join(name, self.header.id, self.file.as_raw_fd()) {
                Ok(joined) => *self.holder() = joined,
                Err(error) => log::warn!("this process does not keep the name {name}: {error}"),
            }
        });
    }

    fn holder(&self) -> MutexGuard<'_, Option<Holder>> {
        self.holder.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds its name no longer, at the end of the program.
    pub(super) fn leave_name(&self, deadline: Instant) {
        let holder = self.holder().take();
        if let Some(holder) = holder {
            holder.leave_by(deadline);
        }
    }

    /// # Errors
    /// [`Error::OtherMemory`] when it is of another kind.
    pub(super) fn check_kind(&self, kind: &str) -> Result<()> {
        match Header::new(self.header.id, self.header.len, kind).kind_hash == self.header.kind_hash
        {
            true => Ok(()),
            false => Err(Error::OtherMemory {
                found: self.header.kind.clone(),
                wanted: kind.to_owned(),
            }),
        }
    }

    /// Where its data begins. It stays there as long as this lives, and is aligned to 128 bytes.
    pub(crate) fn as_ptr(&self) -> *mut u8 {
        // SAFETY: the mapping is at least as long as the header.
        unsafe { self.base.as_ptr().add(HEADER) }
    }

    /// How long its data is, in bytes.
    pub(crate) const fn len(&self) -> usize {
        self.header.len
    }

    /// The number that only it has, in every process.
    pub(crate) const fn id(&self) -> Id {
        self.header.id
    }

    /// The name by which it was made or found, even when it is no longer there.
    pub(crate) fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Has it stay mapped for ever if, when it is dropped, `busy` says so of its data: for what the kernel, too, knows the place of.
    pub(crate) fn stays_if(&self, busy: fn(*mut u8) -> bool) {
        let _ = self.busy.set(busy);
    }

    pub(super) const fn file(&self) -> &Arc<OwnedFd> {
        &self.file
    }

    /// Lets go of what is kept for handles that may be under way.
    pub(crate) fn forget_lent(&self) {
        table::lock().forget_lent(self.header.id);
    }

    /// Takes its name away, if it has one, and lets go of what is kept for handles that may be under way.
    ///
    /// # Errors
    /// When the directory of names cannot be used.
    pub(crate) fn unlink(&self) -> Result<()> {
        self.forget_lent();
        match &self.name {
            Some(name) => names::unlink_if(name, self.header.id).map(drop),
            None => Ok(()),
        }
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        if !self.busy.get().is_some_and(|busy| busy(self.as_ptr())) {
            let size = self.header.len.next_multiple_of(8) + HEADER;
            // SAFETY: it is the mapping that this made, of that size, and nobody has a pointer into it: those that do keep an `Arc` of this.
            let unmapped = unsafe { munmap(self.base.as_ptr().cast(), size) };
            if let Err(error) = unmapped {
                log::debug!("cannot unmap shared memory: {error}");
            }
        }
        table::lock().clean(self.header.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn byte(segment: &Segment, at: usize) -> *mut u8 {
        assert!(at < segment.len());
        // SAFETY: it is inside.
        unsafe { segment.as_ptr().add(at) }
    }

    fn write(segment: &Segment, at: usize, value: u8) {
        // SAFETY: it is inside, and the tests use one thread each.
        unsafe { byte(segment, at).write_volatile(value) }
    }

    fn read(segment: &Segment, at: usize) -> u8 {
        // SAFETY: as above.
        unsafe { byte(segment, at).read_volatile() }
    }

    #[test]
    fn new_memory_is_zeroed_and_aligned_and_cannot_change_its_size() -> Result<()> {
        let segment = Segment::anonymous("test", 10_000)?;
        assert_eq!(segment.len(), 10_000);
        assert!((0..10_000).all(|at| read(&segment, at) == 0));
        assert_eq!(segment.as_ptr() as usize % 128, 0);
        for len in [0, 1, 1 << 20] {
            assert!(rustix::fs::ftruncate(&**segment.file(), len).is_err());
        }
        assert_eq!(Segment::anonymous("test", 0)?.len(), 0);
        Ok(())
    }

    #[test]
    fn absurd_sizes_are_errors() {
        for len in [
            usize::MAX,
            usize::MAX - HEADER,
            isize::MAX as usize,
            1 << 62,
            1 << 46,
        ] {
            let error = Segment::anonymous("test", len).expect_err("there is not so much");
            assert!(
                matches!(error, Error::NoRoom { size, .. } if size == len),
                "{error}"
            );
        }
    }

    #[test]
    fn a_second_mapping_sees_what_is_written_to_the_first() -> Result<()> {
        let first = Segment::anonymous("test", 100)?;
        let second = Segment::map(Arc::clone(first.file()), first.id())
            .map_err(|error| Error::system("map", error))?;
        write(&first, 99, 7);
        assert_eq!(read(&second, 99), 7);
        assert!(Segment::map(Arc::clone(first.file()), Id(1, 2)).is_err());
        Ok(())
    }

    #[test]
    fn what_is_no_shared_memory_is_not_believed() -> io::Result<()> {
        let id = Id(1, 2);
        let header = Header::new(id, 100, "test").to_bytes();
        let bad = |change: &dyn Fn(&mut Vec<u8>)| -> io::Result<String> {
            let mut bytes = header.to_vec();
            bytes.resize(HEADER + 104, 0);
            change(&mut bytes);
            let file = memfd::allocate(100, Some(bytes.len().max(1))).map_err(io::Error::other)?;
            file.set_len(bytes.len() as u64)?;
            file.write_all_at(&bytes, 0)?;
            let file = Arc::new(memfd::seal(file)?);
            Ok(Segment::map(file, id).expect_err("it is bad").to_string())
        };
        assert!(bad(&|bytes| bytes.clear())?.contains("too short"));
        assert!(bad(&|bytes| bytes.truncate(HEADER - 1))?.contains("too short"));
        assert!(bad(&|bytes| bytes[0] = 0)?.contains("no shared memory"));
        assert!(bad(&|bytes| bytes[8] = 9)?.contains("another version"));
        assert!(bad(&|bytes| bytes.truncate(HEADER + 103))?.contains("length"));
        assert!(bad(&|bytes| bytes[16..24].fill(0xff))?.contains("length"));
        assert!(bad(&|bytes| bytes[32] = 9)?.contains("other memory"));
        let file = tempfile::tempfile()?;
        file.write_all_at(&header, 0)?;
        file.set_len(HEADER as u64 + 104)?;
        assert!(
            Segment::map(Arc::new(file.into()), id).is_err(),
            "not sealed"
        );
        Ok(())
    }

    #[test]
    fn the_header_reads_as_it_was_written() {
        let long = "é".repeat(60);
        for kind in ["", "test", long.as_str()] {
            let header = Header::new(Id(3, 4), 5, kind);
            assert_eq!(Header::from_bytes(&header.to_bytes()).as_ref(), Ok(&header));
        }
    }
}
