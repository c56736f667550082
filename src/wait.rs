//! Waiting for the first of several things: the end of a process, an item on a queue, a message on a connection.
//!
//! This is Python's `multiprocessing.connection.wait`. [`wait`] sleeps until one of the objects is ready, and says which are.
//! It takes nothing from them: whoever else uses the same object may be faster, so what follows is the form that does not
//! wait (`try_get`, `poll`), or the one with a timeout.
//!
//! | object | is ready when |
//! |---|---|
//! | [`AsyncResult`](crate::pool::AsyncResult) | its value, or the error in its place, is there |
//! | [`Process`](crate::Process), [`thread::Thread`](crate::thread::Thread) | it has ended, however that came about |
//! | [`Queue`](crate::Queue), [`JoinableQueue`](crate::JoinableQueue), [`SimpleQueue`](crate::SimpleQueue) | there is an item, or there will be none any more |
//! | [`thread::Queue`](crate::thread::Queue), [`LifoQueue`](crate::thread::LifoQueue), [`PriorityQueue`](crate::thread::PriorityQueue) | the same |
//! | [`thread::Event`](crate::thread::Event), [`sync::Event`](crate::sync::Event) | it is set |
//!
//! ```
//! use procession::{Process, wait};
//! use std::time::Duration;
//!
//! #[procession::task]
//! fn nap(millis: u64) {
//!     std::thread::sleep(Duration::from_millis(millis));
//! }
//!
//! #[procession::main]
//! fn main() -> procession::Result<()> {
//!     let long = Process::spawn(nap, (60_000,))?;
//!     let short = Process::spawn(nap, (1,))?;
//!     let ready = wait(&[&long, &short], None)?;
//!     assert_eq!(ready, [1]);
//!     long.kill()?;
//!     Ok(())
//! }
//! ```
//!
//! # How it works
//!
//! An object with a thread of its own keeps a list of subscribers and wakes them when it may have become ready; one without gives a
//! descriptor to poll. A wake-up is only a reason to look again, so one too many does no harm.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::error::{Error, Result};
use crate::wire::wake::Waker;

/// What [`wait`] can wait for. Only types of this library are, because their event loops have to take part.
pub trait Waitable: sealed::Sealed {
    /// Whether it is ready now. Never waits.
    fn is_ready(&self) -> bool;

    /// Whether it is ready now, if need be after asking those who know.
    #[doc(hidden)]
    fn look(&self) -> bool {
        self.is_ready()
    }

    /// Has `watch` woken when it may have become ready.
    #[doc(hidden)]
    fn watch<'a>(&'a self, watch: &mut Watch<'a>);
}

pub(crate) mod sealed {
    /// Not to be implemented elsewhere.
    pub trait Sealed {}
}

/// Waits until one of the objects is ready, and returns the indices of all that are, in ascending order.
///
/// `timeout` is the longest time to wait; `None` waits as long as it takes, and zero only looks. Nothing ready in that time is
/// an empty answer, and so is an empty list, at once. A process that dies is ready, so this never waits for the dead.
///
/// # Errors
/// When the system has no descriptor left to sleep on.
pub fn wait(objects: &[&dyn Waitable], timeout: Option<Duration>) -> Result<Vec<usize>> {
    let ready = look(objects);
    if !ready.is_empty() || objects.is_empty() {
        return Ok(ready);
    }
    if timeout == Some(Duration::ZERO) {
        return Ok(indices_of(objects, |object| object.look()));
    }
    // A time that is beyond the clock's end is no limit.
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let mut watch = Watch::new()?;
    for object in objects {
        object.watch(&mut watch);
    }
    loop {
        // Only now, with everything subscribed: what became ready before is seen here, what comes later ends the sleep.
        let ready = look(objects);
        if !ready.is_empty() {
            return Ok(ready);
        }
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left == Some(Duration::ZERO) {
            return Ok(Vec::new());
        }
        watch.sleep(left)?;
    }
}

fn look(objects: &[&dyn Waitable]) -> Vec<usize> {
    indices_of(objects, |object| object.is_ready())
}

fn indices_of(objects: &[&dyn Waitable], is_so: impl Fn(&dyn Waitable) -> bool) -> Vec<usize> {
    let indexed = objects.iter().enumerate();
    indexed
        .filter(|(_, object)| is_so(**object))
        .map(|(index, _)| index)
        .collect()
}

/// One call of [`wait`], to which the objects say what wakes it.
pub struct Watch<'a> {
    waker: Waker,
    /// Ended when the call ends.
    subscriptions: Vec<Subscription>,
    descriptors: Vec<BorrowedFd<'a>>,
    look_every: Option<Duration>,
    /// Dropped when the call ends.
    kept: Vec<Box<dyn std::any::Any>>,
}

impl<'a> Watch<'a> {
    fn new() -> Result<Self> {
        Ok(Self {
            waker: Waker::new()
                .map_err(|error| Error::system("cannot wait for several objects", error))?,
            subscriptions: Vec::new(),
            descriptors: Vec::new(),
            look_every: None,
            kept: Vec::new(),
        })
    }

    /// Woken by whoever owns this list.
    pub(crate) fn subscribe(&mut self, subscribers: &Subscribers) {
        self.subscriptions.push(subscribers.add(&self.waker));
    }

    /// Woken when this is readable, or hung up. It must stop being so when the object is looked at and not ready, or the
    /// call would spin.
    #[allow(dead_code, reason = "for objects without a thread of their own")]
    pub(crate) fn descriptor(&mut self, descriptor: BorrowedFd<'a>) {
        self.descriptors.push(descriptor);
    }

    /// Drops `guard` when the call ends.
    pub(crate) fn keep(&mut self, guard: impl std::any::Any) {
        self.kept.push(Box::new(guard));
    }

    /// Looks again at least this often. For ZeroMQ's descriptors, which tell only of a change: if another thread that uses the
    /// same socket has taken notice of it, they stay silent.
    #[allow(dead_code, reason = "for objects without a thread of their own")]
    pub(crate) fn look_every(&mut self, time: Duration) {
        self.look_every = Some(self.look_every.map_or(time, |other| other.min(time)));
    }

    fn sleep(&mut self, left: Option<Duration>) -> Result<()> {
        let time = match (left, self.look_every) {
            (Some(left), Some(every)) => Some(left.min(every)),
            (left, every) => left.or(every),
        };
        let mut fds = vec![PollFd::from_borrowed_fd(self.waker.as_fd(), PollFlags::IN)];
        let given = self.descriptors.iter();
        fds.extend(given.map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)));
        match poll(&mut fds, time.map(timespec).as_ref()) {
            // A signal is a reason to look again like any other.
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(Error::system("cannot wait for several objects", error)),
        }
        if !fds[0].revents().is_empty() {
            self.waker.hear();
        }
        Ok(())
    }
}

impl fmt::Debug for Watch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

/// Those who wait for one object at this moment; the object wakes them when it may have become ready.
#[derive(Clone, Debug, Default)]
pub(crate) struct Subscribers {
    list: Arc<Mutex<Vec<(u64, Waker)>>>,
    /// Its length.
    count: Arc<AtomicUsize>,
}

impl Subscribers {
    /// Has `waker` woken until the subscription is dropped.
    pub(crate) fn add(&self, waker: &Waker) -> Subscription {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        // One more than the newest, so none of those that are in the list.
        let id = list.last().map_or(0, |(last, _)| last + 1);
        list.push((id, waker.clone()));
        self.count.store(list.len(), Ordering::Release);
        Subscription {
            of: self.clone(),
            id,
        }
    }

    /// As [`wake`](Self::wake), at the cost of one load when there is nobody. Only for an object whose `is_ready` takes the lock under which
    /// it was just changed: then whoever subscribes too late for this to be seen here looks after the change.
    pub(crate) fn wake_if_any(&self) {
        if self.has_some() {
            self.wake();
        }
    }

    /// Whether anybody waits.
    pub(crate) fn has_some(&self) -> bool {
        self.count.load(Ordering::Acquire) != 0
    }

    /// To be called after what they are to see has been written.
    pub(crate) fn wake(&self) {
        for (_, waker) in &*self.list.lock().unwrap_or_else(PoisonError::into_inner) {
            waker.wake();
        }
    }
}

/// A place in a list of [`Subscribers`], until it is dropped.
pub(crate) struct Subscription {
    of: Subscribers,
    id: u64,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut list = self.of.list.lock().unwrap_or_else(PoisonError::into_inner);
        list.retain(|(id, _)| *id != self.id);
        self.of.count.store(list.len(), Ordering::Release);
    }
}

/// A duration as `poll` takes it.
pub(crate) fn timespec(duration: Duration) -> Timespec {
    // No wait is longer than the 68 years that fit even 32 bits; a larger one is cut to that.
    let seconds = duration.as_secs().min(i32::MAX as u64);
    Timespec {
        tv_sec: seconds as _,
        tv_nsec: duration.subsec_nanos().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    #[derive(Default)]
    struct Flag {
        is_up: AtomicBool,
        subscribers: Subscribers,
    }

    impl Flag {
        fn raise(&self) {
            self.is_up.store(true, Ordering::SeqCst);
            self.subscribers.wake();
        }
    }

    impl sealed::Sealed for Flag {}

    impl Waitable for Flag {
        fn is_ready(&self) -> bool {
            self.is_up.load(Ordering::SeqCst)
        }

        fn watch<'a>(&'a self, watch: &mut Watch<'a>) {
            watch.subscribe(&self.subscribers);
        }
    }

    #[test]
    fn what_is_ready_is_told_at_once_and_all_of_it() -> Result<()> {
        let flags = [Flag::default(), Flag::default(), Flag::default()];
        flags[0].raise();
        flags[2].raise();
        let ready = wait(&[&flags[0], &flags[1], &flags[2]], None)?;
        assert_eq!(ready, [0, 2]);
        Ok(())
    }

    #[test]
    fn nothing_ready_in_time_is_an_empty_answer() -> Result<()> {
        let flag = Flag::default();
        assert!(wait(&[&flag], Some(Duration::ZERO))?.is_empty());
        assert!(wait(&[&flag], Some(Duration::from_millis(5)))?.is_empty());
        assert!(wait(&[], None)?.is_empty());
        Ok(())
    }

    #[test]
    fn one_that_becomes_ready_later_ends_the_wait_and_nobody_stays_subscribed() -> Result<()> {
        let flags = [Flag::default(), Flag::default()];
        let ready = std::thread::scope(|scope| {
            scope.spawn(|| {
                while flags[1]
                    .subscribers
                    .list
                    .lock()
                    .expect("unpoisoned")
                    .is_empty()
                {
                    std::thread::yield_now();
                }
                flags[1].raise();
            });
            wait(&[&flags[0], &flags[1]], None)
        })?;
        assert_eq!(ready, [1]);
        assert!(
            flags[0]
                .subscribers
                .list
                .lock()
                .expect("unpoisoned")
                .is_empty()
        );
        Ok(())
    }
}
