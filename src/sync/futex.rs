//! Sleeping until a number in shared memory has changed.

use std::sync::atomic::AtomicU32;
use std::time::{Duration, Instant};

use rustix::thread::futex::{self, Flags};

/// Sleeps while `word` is `seen`, until somebody [wakes](wake) it or `time` is over. May come back for no reason.
pub(super) fn sleep(word: &AtomicU32, seen: u32, time: Option<Duration>) {
    let time = time.map(crate::wait::timespec);
    // Whatever ended it (a wake-up, a signal, the time, a change that came first), the caller looks again.
    let _ = futex::wait(word, Flags::empty(), seen, time.as_ref());
}

/// Wakes so many that sleep; how many there were.
pub(super) fn wake(word: &AtomicU32, count: usize) -> usize {
    let count = u32::try_from(count)
        .unwrap_or(u32::MAX)
        .min(i32::MAX as u32);
    futex::wake(word, Flags::empty(), count).unwrap_or(0)
}

/// How long may be slept until then: `None` for as long as it takes, zero when it is over.
pub(super) fn left(deadline: Option<Instant>) -> Option<Duration> {
    deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
}

/// The same, but no longer than until it is time to look for the dead.
pub(super) fn left_until_look(deadline: Option<Instant>) -> Duration {
    left(deadline).map_or(super::life::LOOK, |left| left.min(super::life::LOOK))
}
