//! Last in, first out, and lowest first: one lock for all, because every put may change what the next get returns.

use std::cell::Cell;
use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use super::fifo::wait;
use super::tasks::Tasks;
use super::{NoItem, NotPut, Patience, Shelves};
use crate::registry::panics::text_of;
use crate::wait::Subscribers;

/// Where items are kept, and which one is next.
pub(super) trait Store<T>: Default {
    fn push(&mut self, item: T);
    fn pop(&mut self) -> Option<T>;
    fn len(&self) -> usize;
}

/// The last one is next.
pub(super) struct Stack<T>(Vec<T>);

impl<T> Default for Stack<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Store<T> for Stack<T> {
    fn push(&mut self, item: T) {
        self.0.push(item);
    }

    fn pop(&mut self) -> Option<T> {
        self.0.pop()
    }

    fn len(&self) -> usize {
        self.0.len()
    }
}

/// The lowest one is next; of equal ones that which came first.
pub(super) struct Heap<T> {
    items: BinaryHeap<Numbered<T>>,
    next: u64,
}

thread_local! {
    /// An item is being taken from a heap.
    static GETS: Cell<bool> = const { Cell::new(false) };
}

struct Numbered<T> {
    item: T,
    number: u64,
}

impl<T: Ord> Ord for Numbered<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        // The heap gives its greatest first.
        let compare = || other.item.cmp(&self.item);
        let reversed = if GETS.get() {
            catch_unwind(AssertUnwindSafe(compare)).unwrap_or_else(|panic| {
                log::error!("two items could not be compared: {}", text_of(panic));
                Ordering::Equal
            })
        } else {
            compare()
        };
        reversed.then(other.number.cmp(&self.number))
    }
}

impl<T: Ord> PartialOrd for Numbered<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T: Ord> PartialEq for Numbered<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<T: Ord> Eq for Numbered<T> {}

impl<T: Ord> Default for Heap<T> {
    fn default() -> Self {
        Self {
            items: BinaryHeap::new(),
            next: 0,
        }
    }
}

impl<T: Ord> Store<T> for Heap<T> {
    fn push(&mut self, item: T) {
        let number = self.next;
        self.next += 1;
        self.items.push(Numbered { item, number });
    }

    fn pop(&mut self) -> Option<T> {
        // Whoever gets an item has it: what panics while the others are put in order counts as equal.
        let gets = GETS.replace(true);
        let item = self.items.pop().map(|numbered| numbered.item);
        GETS.set(gets);
        item
    }

    fn len(&self) -> usize {
        self.items.len()
    }
}

pub(super) struct Sorted<S> {
    /// 0: any number.
    maxsize: usize,
    state: Mutex<State<S>>,
    items: Condvar,
    room: Condvar,
    tasks: Tasks,
    subscribers: Subscribers,
}

struct State<S> {
    store: S,
    put: usize,
    got: usize,
    is_shut: bool,
}

impl<S> Sorted<S> {
    fn put_in_all(&self) -> usize {
        self.state.lock().put
    }
}

impl<T, S: Store<T>> Shelves<T> for Sorted<S> {
    fn with_maxsize(maxsize: usize) -> Self {
        Self {
            maxsize,
            state: Mutex::new(State {
                store: S::default(),
                put: 0,
                got: 0,
                is_shut: false,
            }),
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
        let mut is_late = false;
        let mut state = self.state.lock();
        loop {
            if state.is_shut {
                return Err((item, NotPut::ShutDown));
            }
            if self.maxsize == 0 || state.store.len() < self.maxsize {
                break;
            }
            let Some(deadline) = patience.deadline().filter(|_| !is_late) else {
                return Err((item, NotPut::Full));
            };
            is_late = wait(&self.room, &mut state, deadline);
        }
        state.put = state.put.wrapping_add(1);
        // Comparing items is the user's code and may panic, and then the item is there all the same.
        let pushed = catch_unwind(AssertUnwindSafe(|| state.store.push(item)));
        drop(state);
        self.items.notify_one();
        self.subscribers.wake_if_any();
        if let Err(panic) = pushed {
            resume_unwind(panic);
        }
        Ok(())
    }

    fn get(&self, patience: Patience) -> Result<T, NoItem> {
        let mut is_late = false;
        let mut state = self.state.lock();
        loop {
            if let Some(item) = state.store.pop() {
                state.got = state.got.wrapping_add(1);
                drop(state);
                self.room.notify_one();
                return Ok(item);
            }
            if state.is_shut {
                return Err(NoItem::ShutDown);
            }
            let Some(deadline) = patience.deadline().filter(|_| !is_late) else {
                return Err(NoItem::Empty);
            };
            is_late = wait(&self.items, &mut state, deadline);
        }
    }

    fn len(&self) -> usize {
        self.state.lock().store.len()
    }

    fn is_over(&self) -> bool {
        let state = self.state.lock();
        state.is_shut && state.store.len() == 0
    }

    fn shut_down(&self, immediately: bool) {
        let mut dropped = S::default();
        self.tasks.dropping(|| {
            let mut state = self.state.lock();
            state.is_shut = true;
            if immediately {
                dropped = std::mem::take(&mut state.store);
                state.got = state.got.wrapping_add(dropped.len());
            }
            self.items.notify_all();
            self.room.notify_all();
            (dropped.len(), state.put)
        });
        self.subscribers.wake();
        // With no lock held: it may be the user's code.
        drop(dropped);
    }

    fn task_done(&self) -> bool {
        self.tasks
            .done(|| self.state.lock().got, || self.put_in_all())
    }

    fn join(&self, deadline: Option<Instant>) -> bool {
        self.tasks.join(|| self.put_in_all(), deadline)
    }

    fn unfinished(&self) -> usize {
        self.tasks.unfinished(|| self.put_in_all())
    }

    fn subscribers(&self) -> &Subscribers {
        &self.subscribers
    }
}
