//! Memory that can be shared: made, really there, sealed.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags, fallocate, fcntl_add_seals, memfd_create};
use rustix::io::Errno;

use super::room;
use crate::error::{Error, Result};

/// Taken at once, so that a signal loses no more work than this.
const STEP: u64 = 16 << 20;

/// A file in memory of `size` bytes which has all its pages, for `len` bytes of data.
pub(super) fn allocate(len: usize, size: Option<usize>) -> Result<File> {
    let no_room = |why| Error::NoRoom { size: len, why };
    let size = size.filter(|size| isize::try_from(*size).is_ok());
    let size = size.ok_or_else(|| no_room("no process can have so much".to_owned()))? as u64;
    room::check(size).map_err(no_room)?;
    let failed = |source: Errno| error(len, source.into());
    let file = new().map_err(failed)?;
    let mut at = 0;
    while at < size {
        let step = STEP.min(size - at);
        match fallocate(&file, FallocateFlags::empty(), at, step) {
            Ok(()) => at += step,
            Err(Errno::INTR) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(file)
}

fn new() -> rustix::io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Some systems allow no other, and old ones do not know this flag.
    let new = match memfd_create("procession", flags | MemfdFlags::NOEXEC_SEAL) {
        Err(Errno::INVAL) => memfd_create("procession", flags),
        other => other,
    };
    new.map(File::from)
}

/// Its size does not change any more.
pub(super) fn seal(file: File) -> io::Result<OwnedFd> {
    fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(file.into())
}

/// What such a failure means for who wants so much memory.
pub(super) fn error(size: usize, source: io::Error) -> Error {
    match Errno::from_io_error(&source) {
        Some(Errno::NOSPC | Errno::NOMEM | Errno::FBIG | Errno::INVAL | Errno::OVERFLOW) => {
            Error::NoRoom {
                size,
                why: source.to_string(),
            }
        }
        _ => Error::system("cannot make shared memory", source),
    }
}
