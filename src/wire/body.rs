//! The bytes of a task or of a result, wherever they are: in memory while they are few, in an unlinked temporary file
//! when they are many, or still in the file that they came from.
//!
//! A [`Body`] is immutable and cheap to clone. Nobody who handles one needs to know its size beforehand: write it with a
//! [`BodyWriter`], which moves to a temporary file past [`IN_MEMORY`] bytes, and read it with [`Body::reader`].

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

/// How many bytes a body may have in memory, in bytes; what is larger goes to a temporary file.
pub const IN_MEMORY: usize = 1 << 20;

/// Immutable bytes in memory, in a temporary file, or in a range of a named file.
///
/// ```
/// use procession::Body;
/// let body = Body::from("hello");
/// assert_eq!(body.len(), 5);
/// assert_eq!(&body.to_bytes()?[..], b"hello");
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
pub enum Body {
    /// In memory.
    Memory(Bytes),
    /// A part of an open file that has no name any more, or whose name does not matter.
    File {
        /// The file; read with positioned reads only, so that clones do not disturb one another.
        file: Arc<File>,
        /// Where the body starts, in bytes.
        offset: u64,
        /// Its length, in bytes.
        len: u64,
    },
    /// A range of a file that is opened where it is read.
    Range {
        /// The file's path.
        path: Arc<Path>,
        /// Where the range starts, in bytes.
        offset: u64,
        /// Its length, in bytes.
        len: u64,
    },
}

impl Body {
    /// A body of no bytes.
    #[must_use]
    pub const fn empty() -> Self {
        Self::Memory(Bytes::new())
    }

    /// A range of a file, not opened before it is read.
    pub fn range(path: impl Into<PathBuf>, offset: u64, len: u64) -> Self {
        Self::Range {
            path: Arc::from(path.into()),
            offset,
            len,
        }
    }

    /// The length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File { len, .. } | Self::Range { len, .. } => *len,
        }
    }

    /// Whether there is no byte in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many bytes of memory it holds.
    #[must_use]
    pub fn in_memory(&self) -> usize {
        match self {
            Self::Memory(bytes) => bytes.len(),
            Self::File { .. } | Self::Range { .. } => 0,
        }
    }

    /// `len` bytes from `offset`, sharing the same memory or file; cut to what there is.
    #[must_use]
    pub fn slice(&self, offset: u64, len: u64) -> Self {
        let offset = offset.min(self.len());
        let len = len.min(self.len() - offset);
        match self {
            // Both fit: they are within the length of something in memory.
            Self::Memory(bytes) => {
                let start = offset as usize;
                Self::Memory(bytes.slice(start..start + len as usize))
            }
            Self::File {
                file, offset: at, ..
            } => Self::File {
                file: Arc::clone(file),
                offset: at + offset,
                len,
            },
            Self::Range {
                path, offset: at, ..
            } => Self::Range {
                path: Arc::clone(path),
                offset: at + offset,
                len,
            },
        }
    }

    /// A range opened: the same body, read from then on from the file as it is now, whatever happens to its name.
    ///
    /// # Errors
    /// When the file of a [`Body::Range`] cannot be opened.
    pub fn open(&self) -> io::Result<Self> {
        match self {
            Self::Range { path, offset, len } => Ok(Self::File {
                file: Arc::new(File::open(path).map_err(|error| {
                    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
                })?),
                offset: *offset,
                len: *len,
            }),
            other => Ok(other.clone()),
        }
    }

    /// Reads at `offset` into `buffer`; returns how many bytes were read, 0 at the end.
    ///
    /// # Errors
    /// When the file cannot be read, or has become shorter than the body ([`io::ErrorKind::UnexpectedEof`]).
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.len().saturating_sub(offset);
        let want = buffer
            .len()
            .min(usize::try_from(left).unwrap_or(usize::MAX));
        if want == 0 {
            return Ok(0);
        }
        match self {
            Self::Memory(bytes) => {
                let start = offset as usize;
                buffer[..want].copy_from_slice(&bytes[start..start + want]);
                Ok(want)
            }
            Self::File {
                file, offset: at, ..
            } => match file.read_at(&mut buffer[..want], at + offset)? {
                0 => Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the file has become shorter",
                )),
                n => Ok(n),
            },
            Self::Range { .. } => self.open()?.read_at(offset, buffer),
        }
    }

    /// A reader from the first byte to the last.
    ///
    /// # Errors
    /// When the file of a [`Body::Range`] cannot be opened.
    pub fn reader(&self) -> io::Result<BodyReader> {
        Ok(BodyReader {
            body: self.open()?,
            at: 0,
        })
    }

    /// All bytes, in memory. For bodies that are known to be small.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn to_bytes(&self) -> io::Result<Bytes> {
        if let Self::Memory(bytes) = self {
            return Ok(bytes.clone());
        }
        let mut all = Vec::new();
        self.reader()?.read_to_end(&mut all)?;
        Ok(all.into())
    }

    /// Writes all bytes to `out`.
    ///
    /// # Errors
    /// When the body cannot be read or `out` cannot be written.
    pub fn write_to(&self, out: &mut impl Write) -> io::Result<()> {
        match self {
            Self::Memory(bytes) => out.write_all(bytes),
            _ => {
                let body = self.open()?;
                let mut piece = vec![0; 256 << 10];
                let mut at = 0;
                loop {
                    match body.read_at(at, &mut piece)? {
                        0 => return Ok(()),
                        n => {
                            out.write_all(&piece[..n])?;
                            at += n as u64;
                        }
                    }
                }
            }
        }
    }
}

impl Default for Body {
    fn default() -> Self {
        Self::empty()
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::Memory(bytes)
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Memory(bytes.into())
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Self::Memory(Bytes::from_static(text.as_bytes()))
    }
}

/// Reads a [`Body`] from front to back.
#[derive(Debug)]
pub struct BodyReader {
    body: Body,
    at: u64,
}

impl Read for BodyReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.body.read_at(self.at, buffer)?;
        self.at += n as u64;
        Ok(n)
    }
}

/// A body that arrives in parts, whose bytes may not find a place: the first error is kept until the end.
#[derive(Debug, Default)]
pub(crate) struct Arriving {
    writer: BodyWriter,
    error: Option<String>,
    /// Bytes that arrived, kept or not.
    len: u64,
}

impl Arriving {
    /// Adds the part that starts at `offset`; one that starts at 0 begins anew.
    pub(crate) fn add(&mut self, offset: u64, bytes: &[u8]) {
        if offset != self.len {
            *self = Self::default();
            if offset != 0 {
                return;
            }
        }
        self.len += bytes.len() as u64;
        if self.error.is_none() {
            self.error = self.writer.write_all(bytes).err().map(|error| {
                format!(
                    "there is no room for it in {}: {error}",
                    std::env::temp_dir().display()
                )
            });
        }
    }

    pub(crate) const fn len(&self) -> u64 {
        self.len
    }

    /// The whole, of which `len` bytes were announced; or why it is not there.
    pub(crate) fn finish(self, len: u64) -> Result<Body, String> {
        match self.error {
            Some(error) => Err(error),
            None if self.len != len => Err(format!("{} of its {len} bytes arrived", self.len)),
            None => self.writer.finish().map_err(|error| error.to_string()),
        }
    }
}

/// Gathers the bytes of a [`Body`], in memory up to [`IN_MEMORY`] bytes, in an unlinked temporary file beyond.
#[derive(Debug, Default)]
pub struct BodyWriter {
    memory: Vec<u8>,
    file: Option<File>,
    len: u64,
}

impl BodyWriter {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes written so far.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing has been written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The body of all that was written.
    ///
    /// # Errors
    /// None today; the signature leaves room for a file that must be flushed.
    pub fn finish(self) -> io::Result<Body> {
        Ok(match self.file {
            Some(file) => Body::File {
                file: Arc::new(file),
                offset: 0,
                len: self.len,
            },
            None => Body::Memory(self.memory.into()),
        })
    }
}

impl Write for BodyWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.file.is_none() && self.memory.len() + bytes.len() > IN_MEMORY {
            let mut file = tempfile::tempfile()?;
            file.write_all(&self.memory)?;
            self.memory = Vec::new();
            self.file = Some(file);
        }
        match &mut self.file {
            Some(file) => file.write_all(bytes)?,
            None => self.memory.extend_from_slice(bytes),
        }
        self.len += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_moves_to_a_file_past_its_limit_and_reads_the_same() -> io::Result<()> {
        for len in [0, 1, IN_MEMORY, IN_MEMORY + 1, 3 * IN_MEMORY + 7] {
            let bytes: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
            let mut writer = BodyWriter::new();
            for chunk in bytes.chunks(65_537) {
                writer.write_all(chunk)?;
            }
            let body = writer.finish()?;
            assert_eq!(body.len(), len as u64);
            assert_eq!(matches!(body, Body::Memory(_)), len <= IN_MEMORY, "{len}");
            assert!(body.to_bytes()? == bytes, "{len} bytes differ");
            let middle = body.slice(len as u64 / 2, 10);
            let end = (len / 2 + 10).min(len);
            assert_eq!(&middle.to_bytes()?[..], &bytes[len / 2..end]);
        }
        Ok(())
    }

    #[test]
    fn a_range_of_a_file_that_became_shorter_is_an_error() -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new()?;
        file.write_all(b"0123456789")?;
        let body = Body::range(file.path(), 5, 10);
        let error = body.to_bytes().expect_err("ten bytes are not there");
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(&Body::range(file.path(), 5, 5).to_bytes()?[..], b"56789");
        Ok(())
    }
}
