//! Where a program puts tasks, from any thread, and waits while there are enough: the boundary between the user's threads
//! and the event loop of the host.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::wire::body::Body;
use crate::wire::wake::Waker;

#[derive(Clone, Debug)]
pub(crate) struct Intake {
    shared: Arc<(Mutex<State>, Condvar)>,
    waker: Waker,
}

#[derive(Debug, Default)]
struct State {
    tasks: Vec<Body>,
    /// How many tasks the host will take before it asks again.
    room: u64,
    /// The host waits for tasks and wants to be woken for the first one.
    hungry: bool,
    /// No more will be put.
    ended: bool,
    /// The host takes no more.
    closed: bool,
}

/// Tasks are handed over in groups of at least so many while more room is left, so that the loop is not woken for each.
const GROUP: usize = 64;

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

    /// Puts a task, waiting for room; gives it back when the host takes no more.
    pub(crate) fn put(&self, body: Body) -> Result<(), Body> {
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
        state.room -= 1;
        state.tasks.push(body);
        // A host that starves is woken for one task; while it has work, for a group.
        if state.hungry && (state.tasks.len() == 1 || state.tasks.len() >= GROUP) {
            state.hungry = false;
            self.waker.wake();
        }
        Ok(())
    }

    pub(crate) fn end(&self) {
        self.state().ended = true;
        self.waker.wake();
    }

    /// The host: what was put, and whether it was the last. `room`: how many tasks more it can take now.
    pub(crate) fn take(&self, room: u64) -> (Vec<Body>, bool) {
        let mut state = self.state();
        let tasks = std::mem::take(&mut state.tasks);
        let had_none = state.room == 0;
        state.room = room.saturating_sub(tasks.len() as u64);
        state.hungry = true;
        if had_none && state.room > 0 {
            self.shared.1.notify_all();
        }
        (tasks, state.ended)
    }

    /// The host takes no more: who waits gets its task back.
    pub(crate) fn close(&self) {
        self.state().closed = true;
        self.shared.1.notify_all();
    }
}
