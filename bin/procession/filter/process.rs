//! One life of the filter: its process, its pipes, and what is in them by halves.

use std::os::fd::OwnedFd;
use std::process::Child;
use std::time::Instant;

use bytes::Bytes;
use rustix::pipe::fcntl_setpipe_size;

use super::{Answers, WINDOW};
use crate::process_group::ProcessGroup;

/// The present process.
pub struct Live<K> {
    pub group: ProcessGroup,
    /// None once it was closed.
    pub stdin: Option<OwnedFd>,
    /// The other end of the same pipe, to see what the filter has not read.
    pub unread: OwnedFd,
    /// None once its end was seen.
    pub stdout: Option<OwnedFd>,
    /// Lines to be written, from `written` on.
    pub out: Vec<u8>,
    pub written: usize,
    /// The beginning of an answer whose end is to come.
    pub partial: Vec<u8>,
    /// When it last answered, or was given something to answer after a pause.
    pub progress: Instant,
    /// Whether its input was closed by us: from then on it may exit.
    pub closed: bool,
    /// The last answers, until it is certain that none follows.
    pub held: Answers<K>,
    /// Since when only its end is waited for: all is answered, or its output has ended.
    pub ending: Option<Instant>,
}

impl<K> Live<K> {
    /// Of a child that was just spawned, and the pipe that is its input.
    pub fn new(mut child: Child, unread: OwnedFd, stdin: OwnedFd) -> Self {
        let stdout: Option<OwnedFd> = child.stdout.take().map(Into::into);
        for pipe in [Some(&stdin), stdout.as_ref()].into_iter().flatten() {
            // The flag belongs to our end only. Neither can fail on a pipe of ours, but for a size that is refused,
            // and that costs speed only.
            let _ = rustix::io::ioctl_fionbio(pipe, true);
            let _ = fcntl_setpipe_size(pipe, WINDOW);
        }
        Self {
            group: ProcessGroup::new(child),
            stdin: Some(stdin),
            unread,
            stdout,
            out: Vec::new(),
            written: 0,
            partial: Vec::new(),
            progress: Instant::now(),
            closed: false,
            held: Vec::new(),
            ending: None,
        }
    }

    /// Closes its input: from now on it may exit.
    pub fn close(&mut self) {
        self.stdin = None;
        self.closed = true;
    }

    /// Whether the filter has read all that it was given.
    pub fn has_read_all(&self) -> bool {
        self.written == self.out.len() && rustix::io::ioctl_fionread(&self.unread) == Ok(0)
    }

    /// Adds what was read to what was there; takes off all complete lines, if there is one.
    pub fn complete_lines(&mut self, read: &[u8], terminator: u8) -> Option<Bytes> {
        let Some(last) = memchr::memrchr(terminator, read) else {
            self.partial.extend_from_slice(read);
            return None;
        };
        let (whole, rest) = read.split_at(last + 1);
        // Copied to its exact size: answers that are kept for long shall not keep a large buffer with them.
        let lines = if self.partial.is_empty() {
            Bytes::copy_from_slice(whole)
        } else {
            self.partial.extend_from_slice(whole);
            Bytes::from(std::mem::take(&mut self.partial))
        };
        self.partial.extend_from_slice(rest);
        Some(lines)
    }
}
