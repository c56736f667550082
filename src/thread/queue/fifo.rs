//! First in, first out, with a lock for those who put and another for those who get.
//!
//! Those who put fill a *front* list, those who get empty a *back* list, and when that is empty a getter exchanges the two. So putters and
//! getters meet once in a batch, and not at every item. (crossbeam's channels, which need no lock, cannot be shut down by one of many
//! handles, and do not count tasks.)
//!
//! # Order of locks
//!
//! That of the tasks, then `back`, then `front`. Whoever waits holds one of the two, and it is the one under which what it waits for changes:
//!
//! | waits for | holds | woken by |
//! |---|---|---|
//! | an item | `front` | a put, under `front` |
//! | room | `back` | a get, under `back` |
//!
//! A shutdown wakes all, under both.
//!
//! `put` and `got` only grow, each written under one of the locks. A putter may see a `got` that is too small, and then takes the queue
//! for full; before it waits it looks again, under `back`.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crossbeam_utils::{Backoff, CachePadded};
use parking_lot::{Condvar, Mutex, MutexGuard};

use super::tasks::Tasks;
use super::{NoItem, NotPut, Patience, Shelves};
use crate::wait::Subscribers;

pub(super) struct Fifo<T> {
    /// 0: any number.
    maxsize: usize,
    front: CachePadded<Mutex<Front<T>>>,
    back: CachePadded<Mutex<VecDeque<T>>>,
    /// How many were put; written under `front`.
    put: CachePadded<AtomicUsize>,
    /// How many were taken; written under `back`.
    got: CachePadded<AtomicUsize>,
    items: Condvar,
    room: Condvar,
    tasks: Tasks,
    subscribers: Subscribers,
}

struct Front<T> {
    items: VecDeque<T>,
    put: usize,
    /// `got` when a putter looked last.
    got: usize,
    is_shut: bool,
}

impl<T> Fifo<T> {
    fn is_full(&self, front: &mut Front<T>) -> bool {
        if self.maxsize == 0 || front.put.wrapping_sub(front.got) < self.maxsize {
            return false;
        }
        front.got = self.got.load(Ordering::Acquire);
        front.put.wrapping_sub(front.got) >= self.maxsize
    }

    pub(super) fn is_shut(&self) -> bool {
        self.tasks.is_shut()
    }

    fn count(&self) -> usize {
        let got = self.got.load(Ordering::Acquire);
        self.put.load(Ordering::Acquire).wrapping_sub(got)
    }

    /// Spins a little; whether there is room.
    fn spin_for_room(&self) -> bool {
        let backoff = Backoff::new();
        while !backoff.is_completed() {
            if self.count() < self.maxsize {
                return true;
            }
            backoff.snooze();
        }
        false
    }

    fn spin_for_item(&self) {
        let backoff = Backoff::new();
        while !backoff.is_completed() && self.count() == 0 {
            backoff.snooze();
        }
    }

    /// Sleeps until there may be room; whether the time was up before.
    fn wait_for_room(&self, deadline: Option<Instant>) -> bool {
        let mut back = self.back.lock();
        // Nobody gets while this is held, so what is seen now is what there is. Putters can only make it less.
        if self.count() < self.maxsize || self.tasks.is_shut() {
            return false;
        }
        wait(&self.room, &mut back, deadline)
    }

    fn taken(&self, back: MutexGuard<'_, VecDeque<T>>) {
        let got = self.got.load(Ordering::Relaxed).wrapping_add(1);
        self.got.store(got, Ordering::Release);
        drop(back);
        if self.maxsize != 0 {
            self.room.notify_one();
        }
    }
}

/// Whether the time was up.
pub(super) fn wait<T>(
    condition: &Condvar,
    guard: &mut MutexGuard<'_, T>,
    deadline: Option<Instant>,
) -> bool {
    match deadline {
        None => {
            condition.wait(guard);
            false
        }
        Some(deadline) => condition.wait_until(guard, deadline).timed_out(),
    }
}

impl<T> Shelves<T> for Fifo<T> {
    fn with_maxsize(maxsize: usize) -> Self {
        Self {
            maxsize,
            front: CachePadded::new(Mutex::new(Front {
                items: VecDeque::new(),
                put: 0,
                got: 0,
                is_shut: false,
            })),
            back: CachePadded::new(Mutex::default()),
            put: CachePadded::default(),
            got: CachePadded::default(),
            items: Condvar::new(),
            room: Condvar::new(),
            tasks: Tasks::default(),
            subscribers: Subscribers::default(),
        }
    }

    fn maxsize(&self) -> usize {
        self.maxsize
    }

    fn put(&self, item: T, patience: Patience) -> Result<(), (T, NotPut)> {
        let mut has_spun = false;
        let mut is_late = false;
        loop {
            let mut front = self.front.lock();
            if front.is_shut {
                return Err((item, NotPut::ShutDown));
            }
            if !self.is_full(&mut front) {
                front.items.push_back(item);
                front.put = front.put.wrapping_add(1);
                self.put.store(front.put, Ordering::Release);
                drop(front);
                self.items.notify_one();
                self.subscribers.wake_if_any();
                return Ok(());
            }
            drop(front);
            let Some(deadline) = patience.deadline().filter(|_| !is_late) else {
                return Err((item, NotPut::Full));
            };
            if !has_spun && self.spin_for_room() {
                continue;
            }
            has_spun = true;
            is_late = self.wait_for_room(deadline);
        }
    }

    fn get(&self, patience: Patience) -> Result<T, NoItem> {
        let mut has_spun = false;
        let mut is_late = false;
        loop {
            let mut back = self.back.lock();
            if let Some(item) = back.pop_front() {
                self.taken(back);
                return Ok(item);
            }
            let mut front = self.front.lock();
            std::mem::swap(&mut *back, &mut front.items);
            if let Some(item) = back.pop_front() {
                drop(front);
                self.taken(back);
                return Ok(item);
            }
            drop(back);
            if front.is_shut {
                return Err(NoItem::ShutDown);
            }
            let Some(deadline) = patience.deadline().filter(|_| !is_late) else {
                return Err(NoItem::Empty);
            };
            if !has_spun {
                has_spun = true;
                drop(front);
                self.spin_for_item();
                continue;
            }
            is_late = wait(&self.items, &mut front, deadline);
        }
    }

    fn len(&self) -> usize {
        let back = self.back.lock();
        back.len() + self.front.lock().items.len()
    }

    fn is_over(&self) -> bool {
        let back = self.back.lock();
        let front = self.front.lock();
        back.is_empty() && front.items.is_empty() && front.is_shut
    }

    fn shut_down(&self, immediately: bool) {
        let mut dropped = (VecDeque::new(), VecDeque::new());
        self.tasks.dropping(|| {
            let mut back = self.back.lock();
            let mut front = self.front.lock();
            front.is_shut = true;
            self.tasks.shut();
            if immediately {
                dropped = (std::mem::take(&mut *back), std::mem::take(&mut front.items));
                self.got.store(front.put, Ordering::Release);
            }
            self.items.notify_all();
            self.room.notify_all();
            (dropped.0.len() + dropped.1.len(), front.put)
        });
        self.subscribers.wake();
        // With no lock held: it may be the user's code.
        drop(dropped);
    }

    fn task_done(&self) -> bool {
        self.tasks.done(
            || self.got.load(Ordering::Acquire),
            || self.put.load(Ordering::Acquire),
        )
    }

    fn join(&self, deadline: Option<Instant>) -> bool {
        self.tasks
            .join(|| self.put.load(Ordering::Acquire), deadline)
    }

    fn unfinished(&self) -> usize {
        self.tasks.unfinished(|| self.put.load(Ordering::Acquire))
    }

    fn subscribers(&self) -> &Subscribers {
        &self.subscribers
    }
}
