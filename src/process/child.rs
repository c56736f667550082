//! One child as its parent knows it: shared by the handles that programs hold and the thread that watches it.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

use super::channel::Answer;
use super::end::ProcessEnd;
use crate::error::{Error, Result};
use crate::pipe::transit::InTransit;
use crate::wait::Subscribers;

#[derive(Debug)]
pub(super) struct Child {
    pub pid: Pid,
    pub name: String,
    pub is_daemon: bool,
    /// None while it lives, which includes the time in which it has exited and has not been reaped: until then its number
    /// cannot be somebody else's.
    end: Mutex<Option<Arc<End>>>,
    has_ended: Condvar,
    /// Ends of pipes among its arguments: what it has not received when it ends, nobody will.
    in_transit: Mutex<InTransit>,
    pub subscribers: Subscribers,
}

/// How it ended, and what it said before.
#[derive(Debug)]
pub(super) struct End {
    /// The exit code, or minus the signal's number; unknown when somebody else took it.
    pub code: Option<i32>,
    pub answer: Answer,
}

impl Child {
    pub fn new(pid: Pid, name: String, is_daemon: bool, in_transit: InTransit) -> Self {
        Self {
            pid,
            name,
            is_daemon,
            end: Mutex::new(None),
            has_ended: Condvar::new(),
            in_transit: Mutex::new(in_transit),
            subscribers: Subscribers::default(),
        }
    }

    /// Its number as the standard library has it.
    pub fn id(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<End>>> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How it ended, if it has.
    pub fn end(&self) -> Option<Arc<End>> {
        self.lock().clone()
    }

    /// Waits for its end, at most so long.
    pub fn wait(&self, timeout: Option<Duration>) -> Option<Arc<End>> {
        // A time that is beyond the clock's end is no limit.
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut end = self.lock();
        loop {
            if end.is_some() {
                return end.clone();
            }
            end = match deadline {
                None => self
                    .has_ended
                    .wait(end)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return None;
                    }
                    let waited = self.has_ended.wait_timeout(end, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Sends it a signal, unless it has ended, which is no error.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        // Held, so that it is not reaped meanwhile and its number given to another.
        let end = self.lock();
        if end.is_some() {
            return Ok(());
        }
        match kill_process(self.pid, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(Error::system(
                format!("cannot signal process {} (pid {})", self.name, self.id()),
                error,
            )),
        }
    }

    /// Looks whether it has exited. It is reaped only by [`Child::reap`].
    pub fn has_exited(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        loop {
            match waitid(WaitId::Pid(self.pid), options) {
                Ok(status) => return status.is_some(),
                Err(rustix::io::Errno::INTR) => {}
                // There is no such child any more: somebody else has reaped it.
                Err(_) => return true,
            }
        }
    }

    /// Takes the exit code of a child that has exited, and tells everybody who waits for it.
    pub fn reap(&self, answer: Answer) {
        let mut end = self.lock();
        let code = loop {
            match waitid(WaitId::Pid(self.pid), WaitIdOptions::EXITED) {
                Ok(Some(status)) => {
                    break status
                        .exit_status()
                        .or_else(|| status.terminating_signal().map(|signal| -signal));
                }
                Err(rustix::io::Errno::INTR) => {}
                Ok(None) | Err(_) => break None,
            }
        };
        *end = Some(Arc::new(End { code, answer }));
        drop(end);
        let mut in_transit = self
            .in_transit
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        drop(std::mem::take(&mut *in_transit));
        self.has_ended.notify_all();
        self.subscribers.wake();
    }

    /// The error of a child that ended so.
    pub fn error(&self, end: ProcessEnd) -> Error {
        Error::Process {
            name: self.name.clone(),
            pid: self.id(),
            end,
        }
    }
}
