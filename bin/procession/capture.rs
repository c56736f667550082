//! The pipes of one command: what it writes is captured, and what it reads is fed, neither ever blocking the other.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use procession::Body;
use procession::wire::body::BodyWriter;
use rustix::io::Errno;
use rustix::pipe::{SpliceFlags, fcntl_setpipe_size, splice};

/// What a pipe is widened to, in bytes: the most that the system gives to anybody. Three times the throughput of the
/// 64 KiB that it has at first.
pub const WIDE_PIPE: usize = 1 << 20;
/// How much is read at once at first, in bytes: what a pipe holds that is not widened.
const READ: usize = 64 << 10;
/// How much is read at once from a widened pipe, in bytes: more would fall out of the processor's cache.
const READ_WIDE: usize = 256 << 10;
/// How much of a file that cannot be spliced is copied at once, in bytes.
const COPY: usize = 64 << 10;

/// The buffer that all captures of one slot read through, one after the other.
#[derive(Debug)]
pub struct ReadBuffer(Vec<u8>);

impl ReadBuffer {
    /// A small one; it grows at the first command that writes much.
    pub fn new() -> Self {
        Self(vec![0; READ])
    }
}

/// One output of a command on its way into a [`Body`].
#[derive(Debug)]
pub struct Capture {
    /// None once its end was seen.
    pipe: Option<OwnedFd>,
    body: BodyWriter,
    wide: bool,
}

impl Capture {
    /// Of this pipe's reading end; of nothing if there is none.
    pub fn new(pipe: Option<OwnedFd>) -> Self {
        Self {
            pipe,
            body: BodyWriter::new(),
            wide: false,
        }
    }

    /// What to poll, with `IN`, while the end has not been seen.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(AsFd::as_fd)
    }

    /// Whether nothing more can come.
    pub fn is_at_end(&self) -> bool {
        self.pipe.is_none()
    }

    /// Whether so much came that the pipe was widened.
    pub fn is_wide(&self) -> bool {
        self.wide
    }

    /// Reads once. To be called when `poll` says that this does not block.
    ///
    /// # Errors
    /// When the output cannot be kept: the disk for temporary files is full.
    pub fn read(&mut self, buffer: &mut ReadBuffer) -> io::Result<()> {
        let Some(pipe) = &self.pipe else {
            return Ok(());
        };
        match rustix::io::read(pipe, &mut buffer.0[..]) {
            Ok(0) => self.pipe = None,
            Ok(n) => {
                if n >= READ && !self.wide {
                    self.wide = true;
                    // A refusal (too many wide pipes of this user) costs speed only.
                    let _ = fcntl_setpipe_size(pipe, WIDE_PIPE);
                    if buffer.0.len() < READ_WIDE {
                        self.body.write_all(&buffer.0[..n])?;
                        buffer.0.resize(READ_WIDE, 0);
                        return Ok(());
                    }
                }
                self.body.write_all(&buffer.0[..n])?;
            }
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Reads what is in the pipe at this moment and no more, without blocking: some process in the background may hold
    /// the pipe open, and write, for ever.
    ///
    /// # Errors
    /// When the output cannot be kept.
    pub fn drain(&mut self, buffer: &mut ReadBuffer) -> io::Result<()> {
        let Some(pipe) = &self.pipe else {
            return Ok(());
        };
        let until = self.body.len() + rustix::io::ioctl_fionread(pipe)?;
        while self.pipe.is_some() && self.body.len() < until {
            self.read(buffer)?;
        }
        Ok(())
    }

    /// All that was captured.
    ///
    /// # Errors
    /// When the body cannot be finished.
    pub fn finish(self) -> io::Result<Body> {
        self.body.finish()
    }
}

/// Why feeding failed. That the command does not read all of its input is no failure.
#[derive(Debug)]
pub enum FeedError {
    /// The body could not be read.
    Read(io::Error),
    /// The pipe could not be written.
    Write(io::Error),
}

/// A [`Body`] on its way into a command's standard input.
#[derive(Debug)]
pub struct Feed {
    /// None once all is written or the command reads no more.
    pipe: Option<OwnedFd>,
    body: Body,
    sent: u64,
    spliced: bool,
    chunk: Vec<u8>,
}

impl Feed {
    /// Into this pipe's writing end.
    ///
    /// # Errors
    /// When the body's file cannot be opened, or the pipe not be made non-blocking.
    pub fn new(pipe: Option<OwnedFd>, body: &Body) -> Result<Self, FeedError> {
        let body = body.open().map_err(FeedError::Read)?;
        if let Some(pipe) = &pipe {
            // The flag belongs to this end of the pipe only: the command's end goes on blocking.
            rustix::io::ioctl_fionbio(pipe, true).map_err(|e| FeedError::Write(e.into()))?;
            if body.len() > READ as u64 {
                // A refusal costs speed only. At the default block size everything then fits at once.
                let _ = fcntl_setpipe_size(pipe, WIDE_PIPE);
            }
        }
        Ok(Self {
            pipe,
            body,
            sent: 0,
            spliced: true,
            chunk: Vec::new(),
        })
    }

    /// Nothing to feed.
    pub fn nothing() -> Self {
        Self {
            pipe: None,
            body: Body::empty(),
            sent: 0,
            spliced: false,
            chunk: Vec::new(),
        }
    }

    /// What to poll, with `OUT`, while there is more to write.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(AsFd::as_fd)
    }

    /// Bytes written so far.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Stops, whatever is left: the command's input ends here.
    pub fn close(&mut self) {
        self.pipe = None;
    }

    /// Writes as much as the pipe takes; closes it behind the last byte.
    ///
    /// # Errors
    /// When the body cannot be read, or the pipe not be written.
    pub fn push(&mut self) -> Result<(), FeedError> {
        while let Some(pipe) = &self.pipe {
            if self.sent == self.body.len() {
                self.pipe = None;
                break;
            }
            let result = match &self.body {
                Body::Memory(bytes) => {
                    rustix::io::write(pipe, &bytes[self.sent as usize..]).map_err(Into::into)
                }
                _ if self.spliced => match self.splice(pipe) {
                    Err(FeedError::Write(error))
                        if Errno::from_io_error(&error) == Some(Errno::INVAL) =>
                    {
                        // This file system cannot; nearly all can.
                        self.spliced = false;
                        continue;
                    }
                    Err(FeedError::Write(error)) => Err(error),
                    Err(read) => return Err(read),
                    Ok(n) => Ok(n),
                },
                body => {
                    self.chunk.resize(COPY, 0);
                    let n = body
                        .read_at(self.sent, &mut self.chunk)
                        .map_err(FeedError::Read)?;
                    rustix::io::write(pipe, &self.chunk[..n]).map_err(Into::into)
                }
            };
            match result {
                Ok(n) => self.sent += n as u64,
                Err(error) => match Errno::from_io_error(&error) {
                    Some(Errno::AGAIN) => return Ok(()),
                    Some(Errno::INTR) => {}
                    Some(Errno::PIPE) => self.pipe = None,
                    _ => return Err(FeedError::Write(error)),
                },
            }
        }
        Ok(())
    }

    /// Moves pages of the file into the pipe without copying them.
    fn splice(&self, pipe: &OwnedFd) -> Result<usize, FeedError> {
        let Body::File { file, offset, len } = &self.body else {
            return Err(FeedError::Write(Errno::INVAL.into()));
        };
        let mut at = offset + self.sent;
        let want = usize::try_from(len - self.sent)
            .unwrap_or(WIDE_PIPE)
            .min(WIDE_PIPE);
        match splice(file, Some(&mut at), pipe, None, want, SpliceFlags::NONBLOCK) {
            Ok(0) => Err(FeedError::Read(io::ErrorKind::UnexpectedEof.into())),
            Ok(n) => Ok(n),
            Err(Errno::IO) => Err(FeedError::Read(Errno::IO.into())),
            Err(error) => Err(FeedError::Write(error.into())),
        }
    }
}
