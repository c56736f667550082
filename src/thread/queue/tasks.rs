//! How many of a queue's items were done with, and who waits until all are.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use super::fifo::wait;

/// Counts those that were done with, from the queue's beginning; how many were put and got the queue counts itself.
#[derive(Default)]
pub(super) struct Tasks {
    done: Mutex<usize>,
    all_done: Condvar,
    is_shut: AtomicBool,
}

impl Tasks {
    /// One more is done with; `false` when none was got that is not.
    pub(super) fn done(&self, got: impl Fn() -> usize, put: impl Fn() -> usize) -> bool {
        let mut done = self.done.lock();
        // What this thread has got is in the number that it sees.
        if *done == got() {
            return false;
        }
        *done = done.wrapping_add(1);
        if *done == put() {
            self.all_done.notify_all();
        }
        true
    }

    /// Drops items by `call`, which are then done with; it says how many, and how many were put in all.
    pub(super) fn dropping(&self, call: impl FnOnce() -> (usize, usize)) {
        let mut done = self.done.lock();
        // They count as got and as done with at once: between the two somebody else could be done with them.
        let (count, put) = call();
        *done = done.wrapping_add(count);
        if *done == put {
            self.all_done.notify_all();
        }
    }

    /// Waits until all are done with; whether they are.
    pub(super) fn join(&self, put: impl Fn() -> usize, deadline: Option<Instant>) -> bool {
        let mut done = self.done.lock();
        loop {
            if *done == put() {
                return true;
            }
            // A put that comes now only adds to what is waited for.
            if wait(&self.all_done, &mut done, deadline) {
                return *done == put();
            }
        }
    }

    pub(super) fn unfinished(&self, put: impl Fn() -> usize) -> usize {
        let done = self.done.lock();
        put().wrapping_sub(*done)
    }

    pub(super) fn shut(&self) {
        self.is_shut.store(true, Ordering::Release);
    }

    pub(super) fn is_shut(&self) -> bool {
        self.is_shut.load(Ordering::Acquire)
    }
}
