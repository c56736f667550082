//! What a process and its child say to each other, over a pair of sockets that nobody else can read.
//!
//! ```text
//! to the child:    LENGTH(u32, native) ORDER  ARGUMENTS     once, before it starts; then nothing: it waits for the end
//! to the parent:   KIND(u8) LENGTH(u64, native) ANSWER      once, at its end; 'v' a value, 'f' a failure
//! ```
//!
//! Both sides are the same program, so there is no version. When the parent is gone, however it ended, the child reads the end of
//! the stream: the channel is the life pipe as well.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{SendFlags, send};
use serde::{Deserialize, Serialize};

use super::identity::Parent;
use crate::registry::Failure;

const VALUE: u8 = b'v';
const FAILURE: u8 = b'f';
const HEADER: usize = 1 + size_of::<u64>();
/// Up to here copying is cheaper than a second system call.
const SMALL: usize = 16 << 10;

/// What the child is and what it is to do.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Order {
    /// The task's name in the registry.
    pub task: String,
    pub name: String,
    /// Python's identity: the numbers in its name, the parent's first.
    pub numbers: Vec<u32>,
    pub is_daemon: bool,
    pub parent: Parent,
    /// How many bytes of arguments follow.
    arguments: u64,
}

impl Order {
    pub fn new(
        task: &str,
        name: String,
        numbers: Vec<u32>,
        is_daemon: bool,
        parent: Parent,
        arguments: &[u8],
    ) -> Self {
        Self {
            task: task.to_owned(),
            name,
            numbers,
            is_daemon,
            parent,
            arguments: arguments.len() as u64,
        }
    }

    /// The bytes that come before the arguments.
    pub fn encode(&self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; size_of::<u32>()];
        rmp_serde::encode::write(&mut bytes, self).map_err(io::Error::other)?;
        let length = (bytes.len() - size_of::<u32>()) as u32;
        bytes[..size_of::<u32>()].copy_from_slice(&length.to_ne_bytes());
        Ok(bytes)
    }

    /// Reads an order and its arguments.
    pub fn read(channel: &mut impl Read) -> io::Result<(Self, Vec<u8>)> {
        let mut length = [0; size_of::<u32>()];
        channel.read_exact(&mut length)?;
        let head = read_exactly(channel, u64::from(u32::from_ne_bytes(length)))?;
        let order: Self = rmp_serde::from_slice(&head).map_err(io::Error::other)?;
        let arguments = read_exactly(channel, order.arguments)?;
        Ok((order, arguments))
    }
}

fn read_exactly(channel: &mut impl Read, length: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    channel.take(length).read_to_end(&mut bytes)?;
    match bytes.len() as u64 == length {
        true => Ok(bytes),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Sends the child's answer.
pub(super) fn answer(
    channel: &mut impl Write,
    answer: &std::result::Result<Vec<u8>, Failure>,
) -> io::Result<()> {
    let failure;
    let (kind, bytes) = match answer {
        Ok(value) => (VALUE, value),
        Err(told) => {
            failure = rmp_serde::to_vec(told).map_err(io::Error::other)?;
            (FAILURE, &failure)
        }
    };
    let mut header = vec![kind];
    header.extend_from_slice(&(bytes.len() as u64).to_ne_bytes());
    // A small answer goes in one piece, which wakes the parent once.
    if bytes.len() < SMALL {
        header.extend_from_slice(bytes);
        return channel.write_all(&header);
    }
    channel.write_all(&header)?;
    channel.write_all(bytes)
}

/// One end of the channel, read and written without SIGPIPE.
#[derive(Debug)]
pub(super) struct Channel(pub OwnedFd);

impl Read for &Channel {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(self.0.as_fd(), buffer)?)
    }
}

impl Write for &Channel {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(send(self.0.as_fd(), bytes, SendFlags::NOSIGNAL)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An order as it goes out, as the channel takes it.
#[derive(Debug)]
pub(super) struct Outgoing {
    /// What comes first is last.
    parts: Vec<Vec<u8>>,
    /// How much of the next part is sent.
    sent: usize,
}

impl Outgoing {
    pub fn new(order: Vec<u8>, arguments: Vec<u8>) -> Self {
        Self {
            parts: vec![arguments, order],
            sent: 0,
        }
    }

    pub fn is_sent(&self) -> bool {
        self.parts.is_empty()
    }

    /// Sends as much as the channel takes now, but not more than a piece; returns whether there is no more to be sent.
    pub fn send(&mut self, mut channel: &Channel) -> bool {
        let mut left = PIECE;
        while let Some(next) = self.parts.last() {
            let rest = &next[self.sent..];
            if rest.is_empty() {
                self.parts.pop();
                self.sent = 0;
                continue;
            }
            if left == 0 {
                return false;
            }
            match channel.write(&rest[..rest.len().min(left)]) {
                Ok(written) => {
                    self.sent += written;
                    left -= written;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                // The child is gone, and its exit says the rest.
                Err(_) => {
                    self.parts.clear();
                    self.sent = 0;
                }
            }
        }
        true
    }
}

/// An answer as it comes in, piece by piece.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    header: Vec<u8>,
    body: Vec<u8>,
}

/// How much is read at a time, so that one child with much to say does not keep the others waiting.
const PIECE: usize = 1 << 20;

/// What reading gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// There may be more at once.
    More,
    /// There is nothing now.
    Nothing,
    /// The other end is closed, or says more than it should.
    End,
}

impl Incoming {
    /// Reads one piece.
    pub fn read(&mut self, channel: &Channel) -> Progress {
        let missing = match self.header.len() < HEADER {
            true => HEADER - self.header.len(),
            // Believed a piece at a time: what is claimed to come is not reserved before it does.
            false => PIECE.min(self.missing()),
        };
        if missing == 0 {
            // All is here; the only thing that can still come is the end.
            let mut nothing = [0];
            return match rustix::io::read(channel.0.as_fd(), &mut nothing) {
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Progress::Nothing,
                _ => Progress::End,
            };
        }
        let into = match self.header.len() < HEADER {
            true => &mut self.header,
            false => &mut self.body,
        };
        let before = into.len();
        into.resize(before + missing, 0);
        let read = rustix::io::read(channel.0.as_fd(), &mut into[before..]);
        into.truncate(before + read.unwrap_or(0));
        match read {
            Ok(0) => Progress::End,
            Ok(_) => Progress::More,
            Err(rustix::io::Errno::AGAIN) => Progress::Nothing,
            Err(rustix::io::Errno::INTR) => Progress::More,
            Err(_) => Progress::End,
        }
    }

    /// How much of the body is still to come.
    fn missing(&self) -> usize {
        let length = self.header.get(1..).and_then(|bytes| bytes.try_into().ok());
        let length = usize::try_from(length.map_or(0, u64::from_ne_bytes));
        length.unwrap_or(usize::MAX).saturating_sub(self.body.len())
    }

    /// What has come, at the end.
    pub fn finish(self) -> Answer {
        let missing = self.missing();
        match self.header.first() {
            None => Answer::Nothing,
            Some(_) if self.header.len() < HEADER || missing > 0 => Answer::Part,
            Some(&VALUE) => Answer::Value(self.body),
            Some(_) => match rmp_serde::from_slice(&self.body) {
                Ok(failure) => Answer::Failure(failure),
                Err(_) => Answer::Part,
            },
        }
    }
}

/// What a child has said before it ended.
#[derive(Debug)]
pub(super) enum Answer {
    /// It had not come to that.
    Nothing,
    /// It ended in the middle.
    Part,
    /// An encoded value.
    Value(Vec<u8>),
    /// Why there is none.
    Failure(Failure),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::FailureKind;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    fn pair() -> (Channel, Channel) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (one, other) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)
            .expect("a pair of sockets");
        (Channel(one), Channel(other))
    }

    fn receive(bytes: &[u8]) -> Answer {
        let (parent, child) = pair();
        (&child).write_all(bytes).expect("it fits");
        drop(child);
        let mut incoming = Incoming::default();
        while incoming.read(&parent) != Progress::End {}
        incoming.finish()
    }

    #[test]
    fn an_order_is_read_as_it_was_written() -> io::Result<()> {
        let parent = Parent {
            name: "MainProcess".to_owned(),
            pid: 17,
        };
        let order = Order::new(
            "a::task",
            "p".to_owned(),
            vec![1, 2],
            true,
            parent,
            b"arguments",
        );
        let bytes = [order.encode()?, b"arguments".to_vec()].concat();
        let (read, arguments) = Order::read(&mut &bytes[..])?;
        assert_eq!(
            (read.task, read.numbers),
            ("a::task".to_owned(), vec![1, 2])
        );
        assert_eq!(arguments, b"arguments");
        assert!(Order::read(&mut &bytes[..bytes.len() - 1]).is_err(), "torn");
        Ok(())
    }

    #[test]
    fn a_torn_answer_is_told_from_a_whole_one() -> io::Result<()> {
        let mut bytes = Vec::new();
        answer(&mut bytes, &Ok(b"the value".to_vec()))?;
        assert!(matches!(receive(&bytes), Answer::Value(value) if value == b"the value"));
        for length in 1..bytes.len() {
            assert!(
                matches!(receive(&bytes[..length]), Answer::Part),
                "{length}"
            );
        }
        assert!(matches!(receive(&[]), Answer::Nothing));
        Ok(())
    }

    #[test]
    fn a_failure_arrives_whole() -> io::Result<()> {
        let failure = Failure {
            message: "boom".to_owned(),
            location: Some("a.rs:1:2".to_owned()),
            kind: FailureKind::Panic,
        };
        let mut bytes = Vec::new();
        answer(&mut bytes, &Err(failure.clone()))?;
        assert!(matches!(receive(&bytes), Answer::Failure(told) if told == failure));
        Ok(())
    }
}
