//! How another thread interrupts an event loop that sleeps in poll: a counter with a file descriptor (eventfd), written
//! only when the loop has not been told yet.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{EventfdFlags, eventfd};

#[derive(Clone, Debug)]
pub(crate) struct Waker {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    fd: OwnedFd,
    told: AtomicBool,
}

impl Waker {
    pub(crate) fn new() -> io::Result<Self> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self {
            inner: Arc::new(Inner {
                fd,
                told: AtomicBool::new(false),
            }),
        })
    }

    /// Ends the loop's present or next poll. What it is to see must have been written before.
    pub(crate) fn wake(&self) {
        if !self.inner.told.swap(true, Ordering::AcqRel) {
            // It can only fail when the counter is full, and then the loop is awake anyway.
            let _ = rustix::io::write(&self.inner.fd, &1u64.to_ne_bytes());
        }
    }

    /// To be called by the loop when poll shows the descriptor readable, *before* it looks at what it was woken for: who
    /// wakes it after this is heard at the next poll.
    pub(crate) fn hear(&self) {
        let mut counter = [0; 8];
        let _ = rustix::io::read(&self.inner.fd, &mut counter);
        self.inner.told.store(false, Ordering::Release);
    }

    /// Whether the loop was told, and has not heard yet.
    pub(crate) fn is_told(&self) -> bool {
        self.inner.told.load(Ordering::Relaxed)
    }

    pub(crate) fn raw_fd(&self) -> RawFd {
        self.inner.fd.as_raw_fd()
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.fd.as_fd()
    }
}
