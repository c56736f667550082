//! [`Event`]: something that has happened, or not yet.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::place::{Place, Shared};
use super::{deadline, futex};
use crate::error::Result;
use crate::wait::{Waitable, Watch, sealed};

/// It is set.
const SET: u32 = 1;
/// Somebody may sleep until it is.
const AWAITED: u32 = 2;
/// One more time that it was set.
const ONCE: u32 = 4;

/// All in one number, so that there is no order to get wrong: whether it is set, whether anybody waits, and how often it was set. A new
/// [`ONCE`] is what those who slept look for, because it may have been cleared again since.
#[repr(C)]
struct Flag {
    state: AtomicU32,
}

// SAFETY: an atomic.
unsafe impl Shared for Flag {
    const KIND: &'static str = "sync::Event";
    const HAS_MUTEX: bool = false;

    unsafe fn init(_: *mut Self) -> io::Result<()> {
        Ok(())
    }
}

/// Who was killed between setting it and waking those who wait is made good for by their looking, so often.
const LOOK: Duration = Duration::from_secs(1);
/// [`procession::wait`](crate::wait()) has no way to sleep on it among other things, and looks.
const LOOK_AMONG_OTHERS: Duration = Duration::from_millis(5);

/// Python's `multiprocessing.Event`: a flag that processes wait for.
///
/// ```
/// use procession::Process;
/// use procession::sync::Event;
/// use std::time::Duration;
///
/// #[procession::task]
/// fn tick(stop: Event) -> u64 {
///     let mut ticks = 0;
///     while !stop.wait_timeout(Duration::from_millis(1)) {
///         ticks += 1;
///     }
///     ticks
/// }
///
/// #[procession::main]
/// fn main() -> procession::Result<()> {
///     let stop = Event::new()?;
///     let ticker = Process::spawn(tick, (stop.clone(),))?;
///     stop.set();
///     assert!(ticker.join()? < 1_000_000);
///     Ok(())
/// }
/// ```
///
/// It belongs to nobody, so the death of a process changes nothing; who waits for one that was to set it waits for that process too:
/// [`procession::wait`](crate::wait()), which looks at an event of processes every 5 ms.
#[derive(Clone, Serialize, Deserialize)]
pub struct Event {
    flag: Place<Flag>,
}

impl Event {
    /// One that is not set.
    ///
    /// # Errors
    /// When the system has no memory for it, or this process has too many open files.
    pub fn new() -> Result<Self> {
        Ok(Self {
            flag: Place::new()?,
        })
    }

    /// Sets it: all that wait for it go on, and nobody waits until it is [cleared](Self::clear).
    pub fn set(&self) {
        let state = &self.flag.state;
        let before = state.fetch_update(Ordering::AcqRel, Ordering::Acquire, |now| {
            Some((now.wrapping_add(ONCE) & !AWAITED) | SET)
        });
        if before.is_ok_and(|before| before & AWAITED != 0) {
            futex::wake(state, usize::MAX);
        }
    }

    /// Unsets it.
    pub fn clear(&self) {
        self.flag.state.fetch_and(!SET, Ordering::AcqRel);
    }

    /// Whether it is set.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.flag.state.load(Ordering::Acquire) & SET != 0
    }

    /// Waits until it is set.
    pub fn wait(&self) {
        self.wait_until(None);
    }

    /// Waits until it is set, for at most `time`; whether it was.
    pub fn wait_timeout(&self, time: Duration) -> bool {
        self.wait_until(deadline(time))
    }

    fn wait_until(&self, deadline: Option<Instant>) -> bool {
        let state = &self.flag.state;
        let mut first = None;
        loop {
            let now = state.load(Ordering::Acquire);
            // One that is cleared at once has been set all the same: whoever was there goes on.
            if now & SET != 0 || now / ONCE != *first.get_or_insert(now / ONCE) {
                return true;
            }
            let left = futex::left(deadline);
            if left == Some(Duration::ZERO) {
                return false;
            }
            let awaited = now | AWAITED;
            if now == awaited
                || state
                    .compare_exchange(now, awaited, Ordering::AcqRel, Ordering::Acquire)
                    .is_ok()
            {
                let time = left.map_or(LOOK, |left| left.min(LOOK));
                futex::sleep(state, awaited, Some(time));
            }
        }
    }

    /// Says that no handle of it is under way: this process will not keep it for those. See [the module](super#how-long-it-lives).
    pub fn unlink(&self) {
        self.flag.unlink();
    }
}

impl sealed::Sealed for Event {}

impl Waitable for Event {
    fn is_ready(&self) -> bool {
        self.is_set()
    }

    fn watch<'a>(&'a self, watch: &mut Watch<'a>) {
        watch.look_every(LOOK_AMONG_OTHERS);
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event")
            .field("is_set", &self.is_set())
            .finish()
    }
}
