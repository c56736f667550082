//! What one side sent while nobody was connected: a small file in the pipe's folder, which the other side reads first.
//!
//! Its first eight bytes say how far it is valid, and are written last: of a writer that is killed nothing is half there.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::FlockOperation;

use super::folder::flock;

/// How large it may become, in bytes.
const LIMIT: u64 = 1 << 20;
const HEAD: u64 = 8;

/// Appends a frame; `false` when there is no room for it.
pub(super) fn append(path: &Path, frame: &[u8]) -> io::Result<bool> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)?;
    flock(&file, FlockOperation::LockExclusive)?;
    let end = valid(&file)?;
    let len = frame.len() as u64;
    if end + 4 + len > LIMIT {
        return Ok(false);
    }
    let mut record = Vec::with_capacity(4 + frame.len());
    // It fits: a frame is at most 1 MiB.
    record.extend_from_slice(&(len as u32).to_be_bytes());
    record.extend_from_slice(frame);
    file.write_all_at(&record, end)?;
    file.write_all_at(&(end + 4 + len).to_be_bytes(), 0)?;
    Ok(true)
}

/// Takes all frames out of it.
pub(super) fn take(path: &Path) -> io::Result<Vec<Vec<u8>>> {
    let file = match OpenOptions::new().read(true).write(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    if file.metadata()?.len() == 0 {
        return Ok(Vec::new());
    }
    flock(&file, FlockOperation::LockExclusive)?;
    let end = valid(&file)?.min(file.metadata()?.len()).min(LIMIT);
    let mut bytes = vec![0; (end.max(HEAD) - HEAD) as usize];
    file.read_exact_at(&mut bytes, HEAD)?;
    file.set_len(0)?;
    let mut frames = Vec::new();
    let mut rest = &bytes[..];
    while let Some((len, behind)) = rest.split_first_chunk::<4>() {
        let Some((frame, behind)) = behind.split_at_checked(u32::from_be_bytes(*len) as usize)
        else {
            break;
        };
        frames.push(frame.to_vec());
        rest = behind;
    }
    Ok(frames)
}

fn valid(file: &File) -> io::Result<u64> {
    let mut end = [0; 8];
    match file.read_exact_at(&mut end, 0) {
        Ok(()) => Ok(u64::from_be_bytes(end).max(HEAD)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(HEAD),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_in_order_and_once() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("spool-0");
        assert!(take(&path)?.is_empty());
        for frame in [&b"one"[..], b"", b"three"] {
            assert!(append(&path, frame)?);
        }
        assert_eq!(take(&path)?, [&b"one"[..], b"", b"three"]);
        assert!(take(&path)?.is_empty());
        assert!(append(&path, b"four")?);
        assert_eq!(take(&path)?, [b"four"]);
        Ok(())
    }

    #[test]
    fn it_is_bounded_and_what_was_cut_is_overwritten() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("spool-0");
        assert!(append(&path, &vec![1; 600_000])?);
        assert!(!append(&path, &vec![2; 600_000])?);
        // A record whose writer was killed before it said so.
        let file = OpenOptions::new().write(true).open(&path)?;
        file.write_all_at(b"\0\0\xff\xffcut", HEAD + 4 + 600_000)?;
        assert!(append(&path, b"next")?);
        let frames = take(&path)?;
        assert_eq!(frames.len(), 2);
        assert_eq!(frames[1], b"next");
        Ok(())
    }
}
