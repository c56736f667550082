//! Where a program puts tasks, from any thread, and waits while there are enough: the boundary between the user's threads
//! and the event loop of the host.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::journal::Entry as Known;
use crate::wire::body::Body;
use crate::wire::wake::Waker;

#[derive(Clone, Debug)]
pub(crate) struct Intake {
    shared: Arc<(Mutex<State>, Condvar)>,
    waker: Waker,
}

#[derive(Debug, Default)]
struct State {
    tasks: Vec<Entry>,
    /// What the journal says of each of them; empty without one.
    known: Vec<Known>,
    /// The bytes of small bodies, one after the other: one allocation for many, and a count of references that only the host's
    /// thread touches.
    bytes: Vec<u8>,
    /// How many tasks the host will take before it asks again.
    room: u64,
    /// The host waits for tasks and wants to be woken for the first one.
    hungry: bool,
    /// Somebody has nothing to do.
    starving: bool,
    /// Tasks put in all: the number of the last.
    count: u64,
    /// No more will be put.
    ended: bool,
    /// The host takes no more.
    closed: bool,
}

#[derive(Debug)]
enum Entry {
    /// So many bytes of [`State::bytes`].
    Small(u32),
    Whole(Body),
    /// To be run by a consumer that runs nothing else.
    Alone(Body),
}

/// A task as the host takes it.
#[derive(Debug)]
pub(crate) struct Fresh {
    pub(crate) body: Body,
    pub(crate) alone: bool,
    /// What the journal says of it.
    pub(crate) known: Option<Known>,
}

/// Bodies up to this size are gathered, in bytes.
const SMALL: usize = 1024;
/// Gathered bodies share allocations of about this size: one task that lives long keeps no more than that.
const SHARED: usize = 16 << 10;

/// Tasks are handed over in groups of at least so many while more room is left, so that the loop is not woken for each.
const GROUP: usize = 256;

impl Intake {
    pub(crate) fn new(waker: Waker) -> Self {
        Self {
            shared: Arc::default(),
            waker,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a task, waiting for room; gives it back when the host takes no more. `known` is what the journal says of it: all tasks of
    /// a run have that, or none.
    pub(crate) fn put(&self, body: Body, known: Option<Known>) -> Result<(), Body> {
        let mut state = self.state();
        while state.room == 0 && !state.closed {
            if !state.tasks.is_empty() && std::mem::take(&mut state.hungry) {
                self.waker.wake();
            }
            state = self
                .shared
                .1
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if state.closed || state.ended {
            return Err(body);
        }
        state.push(body);
        state.known.extend(known);
        self.wake_if_due(&mut state);
        Ok(())
    }

    /// Puts tasks without waiting for room, for a caller that bounds by itself how many are under way; the number of the first.
    /// `None` when the host takes no more. A task `alone` is run by a consumer that runs nothing else.
    pub(crate) fn put_now(&self, bodies: Vec<Body>, alone: bool) -> Option<u64> {
        let mut state = self.state();
        if state.closed || state.ended {
            return None;
        }
        let first = state.count + 1;
        for body in bodies {
            if alone {
                state.count += 1;
                state.tasks.push(Entry::Alone(body));
            } else {
                state.push(body);
            }
        }
        self.wake_if_due(&mut state);
        Some(first)
    }

    /// A host that starves is woken for one task; while it has work, for a group.
    fn wake_if_due(&self, state: &mut State) {
        if state.hungry && (state.starving || state.tasks.len() >= GROUP) {
            state.hungry = false;
            self.waker.wake();
        }
    }

    pub(crate) fn end(&self) {
        self.state().ended = true;
        self.waker.wake();
    }

    /// The host: what was put, and whether it was the last. `room`: how many tasks more it can take now; `eager`: take even a
    /// small group; otherwise it is left to grow.
    pub(crate) fn take(&self, room: u64, eager: bool) -> (Vec<Fresh>, bool) {
        let mut state = self.state();
        state.hungry = true;
        state.starving = eager;
        if !eager && !state.ended && state.tasks.len() < GROUP && state.room > 0 {
            // What may be put grows all the same.
            state.room = state
                .room
                .max(room.saturating_sub(state.tasks.len() as u64));
            return (Vec::new(), false);
        }
        let entries = std::mem::take(&mut state.tasks);
        let known = std::mem::take(&mut state.known);
        let capacity = state.bytes.capacity().min(SHARED * 16);
        let bytes = std::mem::replace(&mut state.bytes, Vec::with_capacity(capacity));
        let had_none = state.room == 0;
        state.room = room.saturating_sub(entries.len() as u64);
        if had_none && state.room > 0 {
            self.shared.1.notify_all();
        }
        let ended = state.ended;
        drop(state);
        let mut tasks = bodies(entries, &bytes);
        for (task, known) in tasks.iter_mut().zip(known) {
            task.known = Some(known);
        }
        (tasks, ended)
    }

    /// Whether [`put`](Self::put) would not wait.
    #[cfg(test)]
    pub(crate) fn has_room(&self) -> bool {
        let state = self.state();
        state.room > 0 && !state.closed
    }

    /// Whether something was put and not taken.
    pub(crate) fn has_some(&self) -> bool {
        !self.state().tasks.is_empty()
    }

    /// The host takes no more: who waits gets its task back.
    pub(crate) fn close(&self) {
        self.state().closed = true;
        self.shared.1.notify_all();
    }
}

/// Cuts gathered bodies apart again, so that those that share an allocation share a small one.
fn bodies(entries: Vec<Entry>, mut bytes: &[u8]) -> Vec<Fresh> {
    let mut bodies = Vec::with_capacity(entries.len());
    let mut shared = Bytes::new();
    let mut left = entries.iter().map(Entry::gathered).sum::<usize>();
    for entry in entries {
        match entry {
            Entry::Small(len) => {
                let len = len as usize;
                if shared.len() < len {
                    // A whole number of bodies is not needed: what is cut off is copied again.
                    shared = Bytes::copy_from_slice(&bytes[..left.min(SHARED.max(len))]);
                }
                bodies.push(Fresh {
                    body: Body::Memory(shared.split_to(len)),
                    alone: false,
                    known: None,
                });
                bytes = &bytes[len..];
                left -= len;
            }
            Entry::Whole(body) => bodies.push(Fresh {
                body,
                alone: false,
                known: None,
            }),
            Entry::Alone(body) => bodies.push(Fresh {
                body,
                alone: true,
                known: None,
            }),
        }
    }
    bodies
}

impl State {
    fn push(&mut self, body: Body) {
        self.count += 1;
        self.room = self.room.saturating_sub(1);
        match body {
            Body::Memory(small) if small.len() <= SMALL => {
                self.bytes.extend_from_slice(&small);
                self.tasks.push(Entry::Small(small.len() as u32));
            }
            body => self.tasks.push(Entry::Whole(body)),
        }
    }
}

impl Entry {
    const fn gathered(&self) -> usize {
        match self {
            Self::Small(len) => *len as usize,
            Self::Whole(_) | Self::Alone(_) => 0,
        }
    }
}
