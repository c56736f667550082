//! [`Connection`]: one end of a pipe as a program has it.

use std::cell::RefCell;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::de::{self, Deserialize, DeserializeOwned, Deserializer};
use serde::ser::{self, Serialize, Serializer};

use super::end::{End, Taken, Target};
use super::folder::{Folder, Side};
use super::frame::{WHOLE, What};
use super::transit;
use crate::error::{Error, Result};
use crate::wait::{Waitable, Watch, sealed};

/// One end of a pipe: sends values of type `S`, receives values of type `R`.
///
/// [`Pipe::new`](super::Pipe::new) makes two that belong together; [`Listener`](super::Listener) and [`Client`](super::Client) make
/// them between unrelated programs. All methods take `&self`, so threads can share one; a clone is another reference to the same
/// end, closed when any of them is closed. Each message is received by exactly one `recv`, in the order in which they were
/// sent.
///
/// A connection is a serde value: as an argument of a process, on a queue, or in a message on another pipe it is **duplicated**,
/// as in Python. See the [module](super) for what that means, and for what happens when a process dies.
///
/// Messages are values ([`send`](Self::send), [`recv`](Self::recv)) or bytes ([`send_bytes`](Self::send_bytes),
/// [`recv_bytes`](Self::recv_bytes)); each is received by the method of its kind. The first call that sends, receives or polls
/// claims the end for this process.
pub struct Connection<S, R> {
    handle: Arc<Handle>,
    types: PhantomData<fn(S) -> R>,
}

struct Handle {
    end: Arc<End>,
    is_closed: AtomicBool,
    can: Can,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Can {
    Both = 0,
    Send = 1,
    Receive = 2,
}

impl Handle {
    fn is_open(&self) -> bool {
        !self.is_closed.load(Ordering::Acquire)
    }

    fn close(&self) {
        if !self.is_closed.swap(true, Ordering::AcqRel) {
            self.end.release();
        }
    }

    fn check(&self, forbidden: Can) -> Result<()> {
        if !self.is_open() {
            return Err(Error::ConnectionClosed);
        }
        if self.can == forbidden {
            return Err(Error::OneWay {
                can_send: self.can == Can::Send,
            });
        }
        Ok(())
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.close();
    }
}

thread_local! {
    /// Small values are encoded in it.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A larger scratch is not kept.
const KEPT: usize = 64 << 10;

impl<S, R> Connection<S, R> {
    pub(super) fn new(end: Arc<End>, can: Can) -> Self {
        Self {
            handle: Arc::new(Handle {
                end,
                is_closed: AtomicBool::new(false),
                can,
            }),
            types: PhantomData,
        }
    }

    /// Sends a value.
    ///
    /// It returns when the value is on its way, and waits while the other end does not read: up to about 4 MiB are taken in
    /// advance, 1 MiB while the other end is not in use yet. Values over 1 MiB travel in parts; they are encoded as a whole
    /// before, so for large binary data take [`send_bytes`](Self::send_bytes).
    ///
    /// ```
    /// use procession::Pipe;
    ///
    /// let (here, there) = Pipe::new::<(u32, String), ()>()?;
    /// here.send(&(7, "seven".to_owned()))?;
    /// assert_eq!(there.recv()?, (7, "seven".to_owned()));
    /// # Ok::<(), procession::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::BrokenPipe`] when nobody holds the other end any more; [`Error::Busy`] when another process uses this end;
    /// [`Error::Encoding`] when the value cannot be encoded, and then nothing was sent; [`Error::ConnectionClosed`].
    pub fn send(&self, value: &S) -> Result<()>
    where
        S: Serialize,
    {
        self.send_until(value, None).map(drop)
    }

    /// As [`send`](Self::send), but gives up when the other end has made no room until then for a value that is not sent in parts; whether it was sent.
    pub(crate) fn send_until(&self, value: &S, until: Option<Instant>) -> Result<bool>
    where
        S: Serialize,
    {
        self.handle.check(Can::Receive)?;
        let mut frame = SCRATCH.take();
        frame.clear();
        frame.push(What::Value.kinds().0);
        // Without the scratch borrowed: encoding is the user's code, and may send something itself.
        let sent = rmp_serde::encode::write(&mut frame, value)
            .map_err(|error| Error::Encoding {
                what: format!("cannot encode {}", std::any::type_name::<S>()),
                why: error.to_string(),
            })
            .and_then(|()| self.put(What::Value, &frame, until));
        if frame.capacity() <= KEPT {
            SCRATCH.set(frame);
        }
        sent
    }

    /// Sends a message, behind the kind byte.
    fn put(&self, what: What, frame: &[u8], until: Option<Instant>) -> Result<bool> {
        let handle = &self.handle;
        if frame.len() <= WHOLE + 1 {
            handle.end.send_whole(|| handle.is_open(), frame, until)
        } else {
            let end = &handle.end;
            end.send_long(|| handle.is_open(), what, &frame[1..])?;
            Ok(true)
        }
    }

    /// Sends bytes as one message, as they are. Of any size, none included, without a copy of the whole.
    ///
    /// ```
    /// use procession::Pipe;
    ///
    /// let (here, there) = Pipe::new::<(), ()>()?;
    /// here.send_bytes(b"as they are")?;
    /// assert_eq!(there.recv_bytes(None)?, b"as they are");
    /// # Ok::<(), procession::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn send_bytes(&self, bytes: &[u8]) -> Result<()> {
        self.handle.check(Can::Receive)?;
        let handle = &self.handle;
        if bytes.len() > WHOLE {
            return handle
                .end
                .send_long(|| handle.is_open(), What::Bytes, bytes);
        }
        let mut frame = SCRATCH.take();
        frame.clear();
        frame.push(What::Bytes.kinds().0);
        frame.extend_from_slice(bytes);
        let sent = self.put(What::Bytes, &frame, None).map(drop);
        if frame.capacity() <= KEPT {
            SCRATCH.set(frame);
        }
        sent
    }

    /// As [`send_bytes`](Self::send_bytes) of a message that is one frame, but gives up when the other end has made no room for it until
    /// then; whether it was sent.
    pub(crate) fn send_frame_until(&self, head: u8, bytes: &[u8], until: Instant) -> Result<bool> {
        self.handle.check(Can::Receive)?;
        let mut frame = SCRATCH.take();
        frame.clear();
        frame.extend_from_slice(&[What::Bytes.kinds().0, head]);
        frame.extend_from_slice(bytes);
        let sent = self.put(What::Bytes, &frame, Some(until));
        if frame.capacity() <= KEPT {
            SCRATCH.set(frame);
        }
        sent
    }

    /// Sends the bytes of a buffer from `offset` on, `size` of them or all: Python's `send_bytes(buffer, offset, size)`.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] when the buffer has not so many; otherwise as [`send`](Self::send).
    pub fn send_bytes_at(
        &self,
        buffer: &[u8],
        offset: usize,
        size: impl Into<Option<usize>>,
    ) -> Result<()> {
        let size = size.into();
        let rest = buffer.get(offset..);
        let wanted = match size {
            Some(size) => rest.and_then(|rest| rest.get(..size)),
            None => rest,
        };
        match wanted {
            Some(bytes) => self.send_bytes(bytes),
            None => Err(Error::OutOfRange {
                offset,
                size,
                len: buffer.len(),
            }),
        }
    }

    /// Receives a value; waits until there is one.
    ///
    /// # Errors
    /// [`Error::EndOfFile`] when everything was received and all processes that held the other end have closed it or died
    /// (Python's `EOFError`); [`Error::OtherKind`] when the next message is bytes, which stay; [`Error::Encoding`] when it is not
    /// an `R`: that message is lost, and no other; [`Error::Busy`] when another process uses this end;
    /// [`Error::ConnectionClosed`].
    pub fn recv(&self) -> Result<R>
    where
        R: DeserializeOwned,
    {
        loop {
            if let Some(value) = self.recv_until(None)? {
                return Ok(value);
            }
        }
    }

    /// Receives a value if one is there: `None` when there is none at the moment.
    ///
    /// Of a value over 1 MiB that has begun to arrive it waits for the rest.
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    pub fn try_recv(&self) -> Result<Option<R>>
    where
        R: DeserializeOwned,
    {
        self.recv_until(Some(Instant::now()))
    }

    /// Receives a value, or `None` after so long. Otherwise as [`try_recv`](Self::try_recv).
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    pub fn recv_timeout(&self, timeout: Duration) -> Result<Option<R>>
    where
        R: DeserializeOwned,
    {
        self.recv_until(Instant::now().checked_add(timeout))
    }

    fn recv_until(&self, until: Option<Instant>) -> Result<Option<R>>
    where
        R: DeserializeOwned,
    {
        let taken = match self.take(What::Value, Target::Memory(None), until)? {
            None => return Ok(None),
            Some(taken) => taken,
        };
        let bytes = match &taken {
            Taken::Whole(frame) => &frame[1..],
            Taken::Memory(bytes) => &bytes[..],
            Taken::Buffer(_) => &[],
        };
        rmp_serde::from_slice(bytes)
            .map(Some)
            .map_err(|error| Error::Encoding {
                what: format!(
                    "a message of {} bytes is not a {}",
                    bytes.len(),
                    std::any::type_name::<R>()
                ),
                why: format!("{error}; both ends must be of the same types"),
            })
    }

    fn take(
        &self,
        what: What,
        target: Target<'_>,
        until: Option<Instant>,
    ) -> Result<Option<Taken>> {
        self.handle.check(Can::Send)?;
        let handle = &self.handle;
        handle.end.receive(|| handle.is_open(), what, target, until)
    }

    /// Receives a message of bytes; waits until there is one. With a `max_length` in bytes, a longer one is an error.
    ///
    /// # Errors
    /// [`Error::TooLong`] when the message is longer than `max_length`: it stays, and can be received with a larger limit (Python
    /// closes the connection). [`Error::OtherKind`] when the next message is a value. Otherwise as [`recv`](Self::recv).
    pub fn recv_bytes(&self, max_length: impl Into<Option<usize>>) -> Result<Vec<u8>> {
        let max_length = max_length.into();
        loop {
            match self.take(What::Bytes, Target::Memory(max_length), None)? {
                Some(Taken::Whole(frame)) => return Ok(frame[1..].to_vec()),
                Some(Taken::Memory(bytes)) => return Ok(bytes),
                Some(Taken::Buffer(_)) | None => {}
            }
        }
    }

    /// Receives a message of bytes into the front of `buffer`, without other memory for it, and returns its length; waits until
    /// there is one.
    ///
    /// For an offset, give a part of a buffer: `&mut buffer[offset..]`. What is in the buffer is of no meaning after an error.
    ///
    /// ```
    /// use procession::Pipe;
    ///
    /// let (here, there) = Pipe::new::<(), ()>()?;
    /// here.send_bytes(b"four")?;
    /// let mut buffer = [b'-'; 8];
    /// assert_eq!(there.recv_bytes_into(&mut buffer[2..])?, 4);
    /// assert_eq!(&buffer, b"--four--");
    /// # Ok::<(), procession::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::TooLong`] when the message is longer than `buffer`: it stays. Otherwise as [`recv_bytes`](Self::recv_bytes).
    pub fn recv_bytes_into(&self, buffer: &mut [u8]) -> Result<usize> {
        loop {
            let target = Target::Buffer(&mut *buffer);
            if let Some(Taken::Buffer(len)) = self.take(What::Bytes, target, None)? {
                return Ok(len);
            }
        }
    }

    /// Whether `recv` or `recv_bytes` would have something to say: a message, or the end of all messages. Waits for it, at most
    /// `timeout`; zero only looks, [`Duration::MAX`] waits as long as it takes.
    ///
    /// # Errors
    /// [`Error::Busy`] when another process uses this end; [`Error::ConnectionClosed`].
    pub fn poll(&self, timeout: Duration) -> Result<bool> {
        self.handle.check(Can::Send)?;
        let handle = &self.handle;
        let until = Instant::now().checked_add(timeout);
        handle.end.poll(|| handle.is_open(), until)
    }

    /// Closes this end in this process. Other processes that hold it, and other handles of it that were received, stay open;
    /// clones are closed with it. Calls that wait on it return [`Error::ConnectionClosed`]. A second time it does nothing.
    ///
    /// What was sent is not lost: `close` waits until it has left this process, at most 10 s, which is a moment unless
    /// the other process is stopped. Dropping the last clone closes too.
    pub fn close(&self) {
        self.handle.close();
    }

    /// Whether it was closed here.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        !self.handle.is_open()
    }
}

impl<S, R> Clone for Connection<S, R> {
    fn clone(&self) -> Self {
        Self {
            handle: Arc::clone(&self.handle),
            types: PhantomData,
        }
    }
}

impl<S, R> fmt::Debug for Connection<S, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Connection");
        if let Some((folder, side)) = self.handle.end.place() {
            shown.field("pipe", &folder.path());
            shown.field("side", &side.number());
        }
        shown.field("is_closed", &self.is_closed()).finish()
    }
}

impl<S, R> sealed::Sealed for Connection<S, R> {}

impl<S, R> Waitable for Connection<S, R> {
    /// A message, the end of all messages, or an error, which `recv` will say.
    fn is_ready(&self) -> bool {
        self.poll(Duration::ZERO).unwrap_or(true)
    }

    fn watch<'a>(&'a self, watch: &mut Watch<'a>) {
        self.handle.end.watch(watch);
    }
}

/// A connection as it travels.
#[derive(serde::Serialize, serde::Deserialize)]
struct Passed {
    folder: String,
    side: u8,
    can: u8,
    ticket: String,
}

impl<S, R> Serialize for Connection<S, R> {
    /// Puts the end into transit: it counts as held until the receiver has it, or this process ends. What is encoded is to be
    /// decoded once; something that is encoded and thrown away keeps the end open as long as this process lives.
    fn serialize<Z: Serializer>(&self, serializer: Z) -> Result<Z::Ok, Z::Error> {
        if self.is_closed() {
            return Err(ser::Error::custom(
                "this connection was closed in this process, so it cannot be handed on",
            ));
        }
        let Some((folder, side)) = self.handle.end.place() else {
            return Err(ser::Error::custom(
                "a connection of a Listener or Client belongs to its process; hand on the endpoint, and connect there",
            ));
        };
        let Some(path) = folder.path().to_str() else {
            return Err(ser::Error::custom("the path of its folder is not UTF-8"));
        };
        let (ticket, name) = folder
            .issue(*side)
            .map_err(|error| ser::Error::custom(format!("cannot hand a connection on: {error}")))?;
        let passed = Passed {
            folder: path.to_owned(),
            side: side.number(),
            can: self.handle.can as u8,
            ticket: name,
        };
        let encoded = passed.serialize(serializer)?;
        transit::keep(ticket);
        Ok(encoded)
    }
}

impl<'de, S, R> Deserialize<'de> for Connection<S, R> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let passed = Passed::deserialize(deserializer)?;
        let side = Side::from_number(passed.side)
            .ok_or_else(|| de::Error::custom("a pipe has no such side"))?;
        let can = match passed.can {
            0 => Can::Both,
            1 => Can::Send,
            2 => Can::Receive,
            _ => {
                return Err(de::Error::custom(
                    "a connection of a kind that is not known",
                ));
            }
        };
        let gone = |error: std::io::Error| {
            de::Error::custom(format!(
                "there is no pipe {} (any more) on this machine: {error}; its processes may have ended, \
                 and between machines or containers take Listener and Client",
                passed.folder
            ))
        };
        let folder = Folder::found(passed.folder.clone().into()).map_err(gone)?;
        let hold = folder.redeem(side, &passed.ticket).map_err(gone)?;
        Ok(Self::new(End::of_side(folder, side, hold), can))
    }
}
