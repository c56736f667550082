//! The ventilator's input: values from the command line, or the lines or blocks of files and of standard input, one task
//! each, read only as fast as they are taken.
//!
//! A line is what stands before a newline (before a NUL with `-0`); the last may lack it. Bytes are kept as they are, a
//! carriage return included, and an empty line is a task, as for GNU parallel. With `--pipe` the input is cut after a line
//! end into blocks: of a regular file named with `-a` only the places of the cuts are read here, and a task is a range of it.
//!
//! Memory is bounded whatever the input: a line or block of more than 1 MiB is gathered in a temporary file.

mod blocks;
mod lines;

use std::ffi::OsString;
use std::fs::{File, FileType, Metadata};
use std::io::{self, Seek};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::vec::IntoIter;

use procession::Body;

use blocks::{FileBlocks, StreamBlocks};
use lines::Lines;

/// Where the input comes from.
#[derive(Debug)]
pub enum Source {
    /// The words after `:::`.
    Values(Vec<OsString>),
    /// The files named with `-a`, one after the other; `-` is standard input.
    Files(Vec<PathBuf>),
    /// Standard input.
    Stdin,
}

/// The tasks of an input, one by one.
///
/// Ends after the first error: what follows an unreadable place is unknown.
#[derive(Debug)]
pub struct Input {
    end: u8,
    block: Option<u64>,
    files: IntoIter<Origin>,
    current: Current,
    tasks_total: Option<u64>,
    bytes_total: Option<u64>,
    /// Of the files that were read to their end.
    bytes_before: u64,
}

#[derive(Debug)]
enum Origin {
    Stdin,
    Path(PathBuf),
}

#[derive(Debug)]
enum Current {
    Nothing,
    Values(IntoIter<OsString>),
    Lines(Lines, String),
    Stream(StreamBlocks, String),
    Ranges(FileBlocks, String),
}

impl Input {
    /// Opens the input. `null`: lines end in NUL; `block`: cut into blocks of about so many bytes (`--pipe`).
    ///
    /// Every file is looked at now, so that a name mistyped is known before the first task runs.
    ///
    /// # Errors
    /// When a file is missing, unreadable or a directory.
    pub fn open(source: Source, null: bool, block: Option<u64>) -> io::Result<Self> {
        let mut input = Self {
            end: if null { 0 } else { b'\n' },
            block: block.map(|size| size.max(1)),
            files: Vec::new().into_iter(),
            current: Current::Nothing,
            tasks_total: None,
            bytes_total: None,
            bytes_before: 0,
        };
        let origins: Vec<_> = match source {
            Source::Values(values) => {
                input.tasks_total = Some(values.len() as u64);
                input.current = Current::Values(values.into_iter());
                return Ok(input);
            }
            Source::Stdin => vec![Origin::Stdin],
            Source::Files(paths) => paths
                .into_iter()
                .map(|path| match path.as_os_str() == "-" {
                    true => Origin::Stdin,
                    false => Origin::Path(path),
                })
                .collect(),
        };
        let mut total = Some(0_u64);
        for origin in &origins {
            let bytes = origin.check().map_err(|error| origin.explain(error))?;
            total = total.and_then(|total| total.checked_add(bytes?));
        }
        input.bytes_total = total;
        input.files = origins.into_iter();
        Ok(input)
    }

    /// How many tasks there are in all, where that is known beforehand: of values.
    pub fn tasks_total(&self) -> Option<u64> {
        self.tasks_total
    }

    /// How many bytes there are to be read in all, where that is known: of regular files.
    pub fn bytes_total(&self) -> Option<u64> {
        self.bytes_total
    }

    /// How many bytes have become tasks so far, those between them included.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_before
            + match &self.current {
                Current::Nothing | Current::Values(_) => 0,
                Current::Lines(lines, _) => lines.bytes_taken(),
                Current::Stream(blocks, _) => blocks.bytes_taken(),
                Current::Ranges(blocks, _) => blocks.bytes_taken(),
            }
    }

    fn start(&self, origin: &Origin) -> io::Result<Current> {
        let name = origin.name();
        let (file, metadata) = origin.open()?;
        let Some(size) = self.block else {
            return Ok(Current::Lines(Lines::new(file, self.end), name));
        };
        Ok(match origin {
            Origin::Path(path) if has_known_size(&metadata) => {
                let path = std::path::absolute(path)?;
                let blocks = FileBlocks::new(file, path, metadata.len(), size, self.end);
                Current::Ranges(blocks, name)
            }
            _ => Current::Stream(StreamBlocks::new(file, size, self.end), name),
        })
    }
}

impl Iterator for Input {
    type Item = io::Result<Body>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (item, name) = match &mut self.current {
                Current::Nothing => {
                    let origin = self.files.next()?;
                    match self.start(&origin) {
                        Ok(current) => self.current = current,
                        Err(error) => {
                            self.files = Vec::new().into_iter();
                            return Some(Err(origin.explain(error)));
                        }
                    }
                    continue;
                }
                Current::Values(values) => {
                    return Some(Ok(Body::from(values.next()?.into_vec())));
                }
                Current::Lines(lines, name) => (lines.next(), name),
                Current::Stream(blocks, name) => (blocks.next(), name),
                Current::Ranges(blocks, name) => (blocks.next(), name),
            };
            match item {
                Some(Ok(body)) => return Some(Ok(body)),
                Some(Err(error)) => {
                    let error =
                        io::Error::new(error.kind(), format!("cannot read {name}: {error}"));
                    self.current = Current::Nothing;
                    self.files = Vec::new().into_iter();
                    return Some(Err(error));
                }
                None => {
                    self.bytes_before = self.bytes_read();
                    self.current = Current::Nothing;
                }
            }
        }
    }
}

impl Origin {
    fn name(&self) -> String {
        match self {
            Self::Stdin => "standard input".into(),
            Self::Path(path) => path.display().to_string(),
        }
    }

    /// Opens the file; a wide pipe carries more bytes a second, and costs its writer fewer switches.
    fn open(&self) -> io::Result<(File, Metadata)> {
        let file = match self {
            Self::Stdin => File::from(io::stdin().as_fd().try_clone_to_owned()?),
            Self::Path(path) => File::open(path)?,
        };
        let metadata = file.metadata()?;
        refuse_directory(metadata.file_type())?;
        if metadata.file_type().is_fifo() {
            // Refused where the user's pipes have their fill; any width will do.
            let _ = rustix::pipe::fcntl_setpipe_size(&file, 1 << 20);
        }
        Ok((file, metadata))
    }

    /// Whether the file can be read, and how many bytes there are if that is known. A pipe is not opened, since its writer
    /// would see it closed again.
    fn check(&self) -> io::Result<Option<u64>> {
        match self {
            Self::Stdin => {
                let (mut file, metadata) = self.open()?;
                let known = has_known_size(&metadata);
                Ok(match known.then(|| file.stream_position()) {
                    Some(Ok(at)) => Some(metadata.len().saturating_sub(at)),
                    _ => None,
                })
            }
            Self::Path(path) => {
                let metadata = std::fs::metadata(path)?;
                refuse_directory(metadata.file_type())?;
                if metadata.is_file() {
                    File::open(path)?;
                } else {
                    may_read(path)?;
                }
                Ok(has_known_size(&metadata).then_some(metadata.len()))
            }
        }
    }

    fn explain(&self, error: io::Error) -> io::Error {
        let name = self.name();
        let advice = match (self, error.kind()) {
            (Self::Stdin, io::ErrorKind::IsADirectory) => {
                "redirect a file, or give its files as values with :::".into()
            }
            (Self::Path(_), io::ErrorKind::IsADirectory) => {
                format!(
                    "name a file, or give its files as values: ::: {}/*",
                    name.trim_end_matches('/')
                )
            }
            (_, io::ErrorKind::NotFound) => {
                "check the name after -a; values are given with :::".into()
            }
            (_, io::ErrorKind::PermissionDenied) => {
                "make it readable for this user (chmod, or sudo cat FILE | …)".into()
            }
            _ => "choose another input with -a FILE".into(),
        };
        io::Error::new(
            error.kind(),
            format!("cannot read {name}: {error}; {advice}"),
        )
    }
}

fn may_read(path: &Path) -> io::Result<()> {
    Ok(rustix::fs::access(path, rustix::fs::Access::READ_OK)?)
}

fn refuse_directory(file_type: FileType) -> io::Result<()> {
    match file_type.is_dir() {
        true => Err(io::Error::new(
            io::ErrorKind::IsADirectory,
            "it is a directory",
        )),
        false => Ok(()),
    }
}

/// Files under /proc call themselves regular and empty, yet have content.
fn has_known_size(metadata: &Metadata) -> bool {
    metadata.is_file() && metadata.len() > 0
}

#[cfg(test)]
mod tests;
