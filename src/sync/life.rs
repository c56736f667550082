//! Which process did something, and whether it lives.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::here;
use crate::shared::started;

/// How often those who wait look whether somebody who was to do something has died.
pub(super) const LOOK: Duration = Duration::from_millis(100);

/// A process: its number, and when it was started, as the number may be another's later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Life {
    pub(super) pid: u64,
    /// In ticks since the boot; 0: unknown.
    pub(super) started: u64,
}

static PID: AtomicU64 = AtomicU64::new(0);
static STARTED: AtomicU64 = AtomicU64::new(0);

/// This process is another one now, the child of a fork.
pub(super) fn forget_here() {
    PID.store(0, Ordering::Relaxed);
}

impl Life {
    /// This process.
    #[inline]
    pub(super) fn here() -> Self {
        match PID.load(Ordering::Acquire) {
            0 => Self::first_here(),
            pid => Self {
                pid,
                started: STARTED.load(Ordering::Relaxed),
            },
        }
    }

    #[cold]
    fn first_here() -> Self {
        here::watch_forks();
        let pid = std::process::id();
        let here = Self {
            pid: pid.into(),
            started: started(pid).unwrap_or(0),
        };
        // Several threads may do so, and store the same.
        STARTED.store(here.started, Ordering::Relaxed);
        PID.store(here.pid, Ordering::Release);
        here
    }

    /// Whether it has surely ended. A zombie has.
    pub(super) fn has_ended(self) -> bool {
        let Ok(pid) = u32::try_from(self.pid) else {
            return false;
        };
        match started(pid) {
            Ok(started) => self.started != 0 && started != self.started,
            // Where /proc does not show it, though it may live, it is asked for in another way.
            Err(error) if error.kind() == io::ErrorKind::NotFound => has_no_threads(pid),
            Err(_) => false,
        }
    }
}

/// Whether no process has this number, or only what is left of one that has ended (a zombie). One whose first thread alone has ended looks
/// like a zombie in /proc, and lives.
fn has_no_threads(pid: u32) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::process::{Pid, PidfdFlags, pidfd_open};
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        return false;
    };
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(process) => {
            let mut fds = [PollFd::new(&process, PollFlags::IN)];
            let now = Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            };
            poll(&mut fds, Some(&now)).is_ok_and(|ready| ready > 0)
        }
        Err(error) => error == rustix::io::Errno::SRCH,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_process_lives_until_it_has_ended_even_if_nobody_has_waited_for_it()
    -> Result<(), Box<dyn std::error::Error>> {
        assert!(!Life::here().has_ended());
        let earlier = Life {
            started: Life::here().started - 1,
            ..Life::here()
        };
        assert!(earlier.has_ended(), "its number is this process's now");
        let mut child = Command::new("sleep").arg("60").spawn()?;
        let life = Life {
            pid: child.id().into(),
            started: started(child.id())?,
        };
        assert!(!life.has_ended());
        child.kill()?;
        while !life.has_ended() {
            std::thread::yield_now();
        }
        child.wait()?;
        assert!(life.has_ended());
        Ok(())
    }
}
