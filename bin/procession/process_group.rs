//! One child process that leads a process group of its own: seen to exit, signalled as a group, reaped last of all.
//!
//! The order matters. A process that has exited keeps its number until it is reaped; so the group is signalled, and
//! the guardian told that the slot is free, only before [`ProcessGroup::reap`], and no number can be somebody else's.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process_group, pidfd_open, waitid,
};

use wait4::{ResUse, Wait4};

use crate::guardian::GroupSlot;

/// How a group is asked to end, and how long each time: GNU parallel's `TERM,200,TERM,100,TERM,50,KILL,25`.
pub const TERMINATION: [(Signal, Duration); 4] = [
    (Signal::TERM, Duration::from_millis(200)),
    (Signal::TERM, Duration::from_millis(100)),
    (Signal::TERM, Duration::from_millis(50)),
    (Signal::KILL, Duration::from_millis(25)),
];

/// How often an exit is looked for where the kernel has no pidfd.
const LOOK: Duration = Duration::from_millis(5);

/// A child and the group that it leads.
#[derive(Debug)]
pub struct ProcessGroup {
    child: Child,
    leader: Pid,
    /// Readable once the child has exited; none where the system does not have such a thing (or no descriptor left).
    exit: Option<OwnedFd>,
}

impl ProcessGroup {
    /// Of a child that was spawned with `process_group(0)` and has not been waited for.
    pub fn new(child: Child) -> Self {
        let leader = Pid::from_child(&child);
        Self {
            child,
            leader,
            exit: pidfd_open(leader, PidfdFlags::empty()).ok(),
        }
    }

    /// The leader's process id, which is the group's as well.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What to poll for the exit, with [`PollFlags::IN`].
    pub fn exit_fd(&self) -> Option<BorrowedFd<'_>> {
        self.exit.as_ref().map(AsFd::as_fd)
    }

    /// How long to poll at most, if the caller has until `wait`: briefly where the exit cannot be polled for.
    pub fn patience(&self, wait: Option<Duration>) -> Option<Duration> {
        match self.exit {
            Some(_) => wait,
            None => Some(wait.map_or(LOOK, |wait| wait.min(LOOK))),
        }
    }

    /// Whether the child has exited; it is not reaped by this.
    pub fn has_exited(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        loop {
            match waitid(WaitId::Pid(self.leader), options) {
                Ok(status) => return status.is_some(),
                Err(rustix::io::Errno::INTR) => {}
                // There is no such child to wait for, so there is nothing to wait for.
                Err(_) => return true,
            }
        }
    }

    /// Waits for the exit until `deadline`; returns whether it was seen.
    pub fn wait_until(&self, deadline: Instant) -> bool {
        loop {
            if self.has_exited() {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let exit = self.exit_fd();
            let mut fds: Vec<_> = exit
                .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
                .into_iter()
                .collect();
            // An error is a signal of ours that came in between; the loop looks again.
            let _ = poll(&mut fds, self.patience(Some(left)).map(timespec).as_ref());
        }
    }

    /// Sends a signal to the whole group. That it is gone already is no error.
    pub fn signal(&self, signal: Signal) {
        let _ = kill_process_group(self.leader, signal);
    }

    /// Ends the group, politely first, and returns when the child has exited.
    pub fn terminate(&self) {
        for (signal, wait) in TERMINATION {
            self.signal(signal);
            if self.wait_until(Instant::now() + wait) {
                break;
            }
        }
        // Others of the group may have ignored what the leader obeyed.
        self.signal(Signal::KILL);
        while !self.wait_until(Instant::now() + Duration::from_secs(1)) {}
    }

    /// Frees the slot and gives the child's number back to the system; waits for the exit if it is still to come.
    ///
    /// # Errors
    /// When the system refuses to say how the child ended.
    pub fn reap(self, slot: &GroupSlot) -> io::Result<ExitStatus> {
        Ok(self.reap_with_usage(slot)?.status)
    }

    /// As [`reap`](Self::reap), with what the child, and those of its own that it has waited for, have used.
    ///
    /// # Errors
    /// When the system refuses to say how the child ended.
    pub fn reap_with_usage(mut self, slot: &GroupSlot) -> io::Result<ResUse> {
        slot.clear();
        loop {
            match self.child.wait4() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                outcome => return outcome,
            }
        }
    }
}

/// A duration as `poll` takes it.
pub fn timespec(duration: Duration) -> Timespec {
    // No wait is longer than the 68 years that fit even 32 bits; a larger one is cut to that.
    let seconds = duration.as_secs().min(i32::MAX as u64);
    Timespec {
        tv_sec: seconds as _,
        tv_nsec: duration.subsec_nanos().into(),
    }
}
