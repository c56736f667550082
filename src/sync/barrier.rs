//! [`Barrier`]: a number of processes wait for each other.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::deadline;
use super::meeting::Meeting;
use super::place::Place;
use crate::error::Result;

/// Python's `multiprocessing.Barrier`: a number of threads of any process wait for each other, again and again.
///
/// ```
/// use procession::Process;
/// use procession::sync::Barrier;
///
/// #[procession::task]
/// fn meets(barrier: Barrier) -> procession::Result<usize> {
///     barrier.wait()
/// }
///
/// #[procession::main]
/// fn main() -> procession::Result<()> {
///     let barrier = Barrier::new(3)?;
///     let children = (0..2)
///         .map(|_| Process::spawn(meets, (barrier.clone(),)))
///         .collect::<Result<Vec<_>, _>>()?;
///     let mut places = vec![barrier.wait()?];
///     for child in children {
///         places.push(child.join()?);
///     }
///     places.sort();
///     assert_eq!(places, [0, 1, 2]);
///     Ok(())
/// }
/// ```
///
/// When one of them is late or calls [`abort`](Self::abort), all have [`Error::BrokenBarrier`](crate::Error::BrokenBarrier), and so has
/// everybody who comes later, until [`reset`](Self::reset).
///
/// **A process that dies with a handle breaks it**, wherever it is, within 0.2 s for those who wait: they would wait for ever. That is every process
/// that was given the handle (and has begun so far that it has it), and who has made it once it has waited; not one that has dropped all its handles before it
/// ended. Nobody goes on from a round of which one was killed while it waited, whoever comes last. A process that leaves by `std::process::exit` drops nothing. Up to 256 processes are known at one time. Those that ended in
/// order, or in which only a thread has ended, are not missed: give the others a timeout.
///
/// Python's `action` is not there, because a function cannot be called by another process: whose place is 0 does what is to be done once,
/// and all wait once more.
#[derive(Clone)]
pub struct Barrier {
    handle: Arc<Handle>,
}

struct Handle {
    meeting: Place<Meeting>,
    /// This process is missed from now on.
    has_joined: OnceLock<()>,
}

impl Handle {
    fn join(&self) {
        self.has_joined.get_or_init(|| self.meeting.join());
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.has_joined.get().is_some() {
            self.meeting.leave();
        }
    }
}

impl Barrier {
    /// A barrier for so many. For none it is one for one, at which nobody waits.
    ///
    /// # Errors
    /// When the system has no memory for it, or this process has too many open files.
    pub fn new(parties: usize) -> Result<Self> {
        let meeting = Place::<Meeting>::new()?;
        meeting.begin(parties);
        Ok(Self::of(meeting))
    }

    fn of(meeting: Place<Meeting>) -> Self {
        Self {
            handle: Arc::new(Handle {
                meeting,
                has_joined: OnceLock::new(),
            }),
        }
    }

    fn meeting(&self) -> &Meeting {
        &self.handle.meeting
    }

    /// Waits until all are there; which place this thread has, by the order in which they came, from 0.
    ///
    /// # Errors
    /// [`Error::BrokenBarrier`](crate::Error::BrokenBarrier).
    pub fn wait(&self) -> Result<usize> {
        self.handle.join();
        self.meeting().wait(None)
    }

    /// As [`wait`](Self::wait), for at most `time`; then the barrier is broken, for all.
    ///
    /// # Errors
    /// [`Error::BrokenBarrier`](crate::Error::BrokenBarrier).
    pub fn wait_timeout(&self, time: Duration) -> Result<usize> {
        self.handle.join();
        self.meeting().wait(deadline(time))
    }

    /// Breaks it: all who wait, or come before [`reset`](Self::reset), have [`Error::BrokenBarrier`](crate::Error::BrokenBarrier).
    pub fn abort(&self) {
        self.meeting().abort();
    }

    /// Makes it a new one, without the processes that have died. Those who wait have
    /// [`Error::BrokenBarrier`](crate::Error::BrokenBarrier).
    pub fn reset(&self) {
        self.meeting().reset();
    }

    /// How many it is for.
    #[must_use]
    pub fn parties(&self) -> usize {
        self.meeting().parties()
    }

    /// How many wait, at this moment.
    #[must_use]
    #[doc(alias = "n_waiting")]
    pub fn waiting(&self) -> usize {
        self.meeting().count()
    }

    /// Whether it is broken.
    #[must_use]
    #[doc(alias = "broken")]
    pub fn is_broken(&self) -> bool {
        self.meeting().is_broken()
    }

    /// Says that no handle of it is under way: this process will not keep it for those. See [the module](super#how-long-it-lives).
    pub fn unlink(&self) {
        self.handle.meeting.unlink();
    }
}

impl Serialize for Barrier {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.handle.meeting.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Barrier {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let barrier = Self::of(Place::deserialize(deserializer)?);
        barrier.handle.join();
        Ok(barrier)
    }
}

impl fmt::Debug for Barrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Barrier")
            .field("parties", &self.parties())
            .field("waiting", &self.waiting())
            .field("broken", &self.is_broken())
            .finish()
    }
}
