//! The order to stop, as the threads that run commands see it: run on, start nothing more, or kill what runs.
//!
//! Levels only rise. A thread that waits in `poll` for a command adds [`Stop::kill_fd`] to what it waits for, so that
//! the order to kill reaches it at once; the order to drain needs no such thing, as commands that run may finish.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use rustix::event::{EventfdFlags, eventfd};

/// How urgent the end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// Everything goes on.
    Run = 0,
    /// Nothing new is started; what runs may finish.
    Drain = 1,
    /// What runs is killed.
    Kill = 2,
}

/// A handle, shared by all threads that it concerns.
#[derive(Clone, Debug)]
pub struct Stop(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    level: AtomicU8,
    /// Readable, for ever, once the level is `Kill`: nobody reads it, everybody may poll it.
    killed: OwnedFd,
}

impl Stop {
    /// At level [`Level::Run`].
    ///
    /// # Errors
    /// When the system has no file descriptor left.
    pub fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(Shared {
            level: AtomicU8::new(Level::Run as u8),
            killed: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        })))
    }

    /// Raises the level; a lower one than the present changes nothing.
    pub fn raise(&self, level: Level) {
        let before = self.0.level.fetch_max(level as u8, Ordering::SeqCst);
        if level == Level::Kill && before < Level::Kill as u8 {
            // Cannot fail: the counter is written once.
            let _ = rustix::io::write(&self.0.killed, &1u64.to_ne_bytes());
        }
    }

    /// The present level.
    #[must_use]
    pub fn level(&self) -> Level {
        match self.0.level.load(Ordering::SeqCst) {
            0 => Level::Run,
            1 => Level::Drain,
            _ => Level::Kill,
        }
    }

    /// Whether what runs is to be killed.
    #[must_use]
    pub fn is_kill(&self) -> bool {
        self.level() == Level::Kill
    }

    /// Becomes readable when the level becomes [`Level::Kill`]; to be polled, not read.
    #[must_use]
    pub fn kill_fd(&self) -> BorrowedFd<'_> {
        self.0.killed.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_only_rise_and_reach_every_clone() -> io::Result<()> {
        let stop = Stop::new()?;
        let clone = stop.clone();
        assert_eq!(clone.level(), Level::Run);
        stop.raise(Level::Kill);
        stop.raise(Level::Drain);
        assert_eq!(clone.level(), Level::Kill);
        assert!(clone.is_kill());
        Ok(())
    }
}
