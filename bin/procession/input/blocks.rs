//! A stream of bytes, or a file, cut into blocks at line ends.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use procession::{Body, BodyWriter};
use rustix::buffer::spare_capacity;

use super::lines::read_some;

/// How large a block may be and still be gathered in memory, in bytes.
const IN_MEMORY: u64 = 1 << 20;
/// How much is read at a time of a block that is not, in bytes.
const PIECE: usize = 256 << 10;
/// How much of a file is read at a time in search of a place to cut, in bytes.
const SEARCH: usize = 16 << 10;

/// The blocks of a pipe, or of whatever can only be read from front to back.
///
/// A block is what `size` bytes hold up to their last line end, and the rest begins the next. Where they hold none, it goes
/// on to where one is found.
#[derive(Debug)]
pub struct StreamBlocks {
    file: File,
    size: u64,
    end: u8,
    /// What was read beyond the last cut; no line ends in it.
    rest: Body,
    at_end: bool,
    taken: u64,
}

impl StreamBlocks {
    /// The blocks of `file` of about `size` bytes, whose lines end in `end`.
    pub fn new(file: File, size: u64, end: u8) -> Self {
        Self {
            file,
            size,
            end,
            rest: Body::empty(),
            at_end: false,
            taken: 0,
        }
    }

    /// Bytes that have become blocks.
    pub fn bytes_taken(&self) -> u64 {
        self.taken
    }

    fn block(&mut self) -> io::Result<Body> {
        let rest = std::mem::take(&mut self.rest);
        if self.size > IN_MEMORY || rest.len() >= self.size {
            return self.spooled(&rest);
        }
        // One allocation and one copy, from the kernel: the block is handed on in the buffer that it was read into.
        let mut block = Vec::with_capacity(self.size as usize);
        block.extend_from_slice(&rest.to_bytes()?);
        while !self.at_end && block.len() < block.capacity() {
            match rustix::io::read(&self.file, spare_capacity(&mut block)) {
                Ok(n) => self.at_end = n == 0,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if !self.at_end {
            match memchr::memrchr(self.end, &block) {
                Some(last) => {
                    self.rest = block[last + 1..].to_vec().into();
                    block.truncate(last + 1);
                }
                None => return self.spooled(&block.into()),
            }
        } else if block.len() < block.capacity() / 2 {
            block.shrink_to_fit();
        }
        Ok(block.into())
    }

    /// A block that may not fit in memory, which begins with `begun`, where no line ends.
    fn spooled(&mut self, begun: &Body) -> io::Result<Body> {
        let mut writer = BufWriter::with_capacity(PIECE, BodyWriter::new());
        begun.write_to(&mut writer)?;
        let mut writer = writer
            .into_inner()
            .map_err(io::IntoInnerError::into_error)?;
        let mut piece = vec![0; PIECE];
        let mut cut = None;
        while !self.at_end && (cut.is_none() || writer.len() < self.size) {
            let missing = self.size.saturating_sub(writer.len());
            let want = match usize::try_from(missing) {
                Ok(missing @ 1..PIECE) => missing,
                _ => PIECE,
            };
            let n = read_some(&mut self.file, &mut piece[..want])?;
            self.at_end = n == 0;
            if let Some(last) = memchr::memrchr(self.end, &piece[..n]) {
                cut = Some(writer.len() + last as u64 + 1);
            }
            writer.write_all(&piece[..n])?;
        }
        let body = writer.finish()?;
        let Some(cut) = cut.filter(|_| !self.at_end) else {
            return Ok(body);
        };
        let rest = body.slice(cut, body.len());
        // A small rest must not keep the file.
        self.rest = match rest.len() <= PIECE as u64 {
            true => rest.to_bytes()?.to_vec().into(),
            false => rest,
        };
        Ok(body.slice(0, cut))
    }
}

impl Iterator for StreamBlocks {
    type Item = io::Result<Body>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at_end && self.rest.is_empty() {
            return None;
        }
        let block = self.block();
        match &block {
            Ok(block) if block.is_empty() => return None,
            Ok(block) => self.taken += block.len(),
            Err(_) => {}
        }
        Some(block)
    }
}

/// The blocks of a regular file, as ranges of it, of which only the surroundings of the cuts are read.
#[derive(Debug)]
pub struct FileBlocks {
    file: File,
    path: Arc<Path>,
    len: u64,
    size: u64,
    end: u8,
    at: u64,
}

impl FileBlocks {
    /// The blocks of the first `len` bytes of `file`, which is found at `path`.
    pub fn new(file: File, path: PathBuf, len: u64, size: u64, end: u8) -> Self {
        Self {
            file,
            path: path.into(),
            len,
            size,
            end,
            at: 0,
        }
    }

    /// Bytes that have become blocks.
    pub fn bytes_taken(&self) -> u64 {
        self.at
    }

    /// Where the block ends that begins at `self.at`.
    fn cut(&self) -> io::Result<u64> {
        let target = self.at.saturating_add(self.size);
        if target >= self.len {
            return Ok(self.len);
        }
        let mut buffer = [0; SEARCH];
        // Backwards from the target to the beginning of the block, then forwards.
        let mut high = target;
        while high > self.at {
            let low = high.saturating_sub(SEARCH as u64).max(self.at);
            let piece = &mut buffer[..(high - low) as usize];
            self.read_exact_at(piece, low)?;
            if let Some(last) = memchr::memrchr(self.end, piece) {
                return Ok(low + last as u64 + 1);
            }
            high = low;
        }
        let mut low = target;
        while low < self.len {
            let len = (self.len - low).min(SEARCH as u64) as usize;
            self.read_exact_at(&mut buffer[..len], low)?;
            if let Some(first) = memchr::memchr(self.end, &buffer[..len]) {
                return Ok(low + first as u64 + 1);
            }
            low += len as u64;
        }
        Ok(self.len)
    }

    fn read_exact_at(&self, piece: &mut [u8], at: u64) -> io::Result<()> {
        self.file
            .read_exact_at(piece, at)
            .map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => {
                    io::Error::new(error.kind(), "it has become shorter while it was read")
                }
                _ => error,
            })
    }
}

impl Iterator for FileBlocks {
    type Item = io::Result<Body>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.len {
            return None;
        }
        Some(self.cut().map(|cut| {
            let offset = std::mem::replace(&mut self.at, cut);
            Body::Range {
                path: Arc::clone(&self.path),
                offset,
                len: cut - offset,
            }
        }))
    }
}
