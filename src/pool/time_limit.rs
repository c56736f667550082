//! The time limit of calls, kept by the worker process itself: it knows when each began, wherever it runs, and nothing has to be
//! said for it on the way.
//!
//! A thread sleeps until the deadline. When the call has not ended by then, the thread sends what the chunk has so far and the
//! call's error, gives back what has not begun, and has the worker leave. Behind the goodbye the process kills itself, because a call
//! cannot be ended in any other way; whoever started it replaces it.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::child::finish_expired;
use super::chunk::{Entries, Fault};
use crate::pipeline::{Lease, Slot, WorkerHandle};
use crate::wire::body::Body;

#[derive(Default)]
pub(super) struct TimeLimit {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    deadline: Option<Instant>,
    current: Option<Current>,
    expired: bool,
    /// The thread that watches runs.
    watched: bool,
    /// It wakes by itself then, and never while there is no deadline.
    wakes: Option<Instant>,
}

/// The chunk whose calls are made, and what lies behind it.
struct Current {
    slot: Slot<Body, Body>,
    lease: Lease<Body>,
    entries: Entries,
    failed: bool,
    rest: Vec<Lease<Body>>,
    handle: WorkerHandle,
}

impl TimeLimit {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn has_expired(&self) -> bool {
        self.state().expired
    }

    /// A chunk begins.
    pub(super) fn begin(
        self: &Arc<Self>,
        slot: Slot<Body, Body>,
        lease: Lease<Body>,
        entries: Entries,
        rest: Vec<Lease<Body>>,
        handle: &WorkerHandle,
    ) {
        let mut state = self.state();
        state.current = Some(Current {
            slot,
            lease,
            entries,
            failed: false,
            rest,
            handle: handle.clone(),
        });
        if !state.watched {
            let this = Arc::clone(self);
            let watcher = std::thread::Builder::new()
                .name("time-limit".to_owned())
                .spawn(move || this.watch());
            match watcher {
                Ok(_) => state.watched = true,
                Err(error) => log::error!("time limits are not kept: no thread for them: {error}"),
            }
        }
    }

    /// A call begins, and may take so long; or it has ended.
    pub(super) fn set(&self, limit: Option<Duration>) {
        let mut state = self.state();
        if state.expired {
            return park(state);
        }
        // A time that is beyond the clock's end is no limit.
        state.deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
        // One that wakes earlier by itself sees this one then.
        if let Some(deadline) = state.deadline
            && state.wakes.is_none_or(|wakes| wakes > deadline)
        {
            state.wakes = state.deadline;
            self.changed.notify_one();
        }
    }

    /// A call's outcome.
    pub(super) fn push(&self, value: Result<Vec<u8>, Fault>) {
        let mut state = self.state();
        let Some(current) = &mut state.current else {
            return park(state);
        };
        match value {
            Ok(value) => current.entries.push(&value),
            Err(fault) => {
                current.failed = true;
                current.entries.push_fault(&fault);
            }
        }
    }

    /// The chunk has ended: it is given back to the slot's thread.
    pub(super) fn end(&self) -> (Lease<Body>, Entries, bool, Vec<Lease<Body>>) {
        loop {
            let mut state = self.state();
            match state.current.take() {
                Some(Current {
                    lease,
                    entries,
                    failed,
                    rest,
                    ..
                }) => return (lease, entries, failed, rest),
                None => park(state),
            }
        }
    }

    fn watch(&self) {
        let mut state = self.state();
        loop {
            let left = state
                .deadline
                .map(|deadline| deadline.saturating_duration_since(Instant::now()));
            state.wakes = state.deadline;
            state = match left {
                Some(left) if left.is_zero() => break,
                Some(left) => {
                    let waited = self.changed.wait_timeout(state, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => {
                    let waited = self.changed.wait(state);
                    waited.unwrap_or_else(PoisonError::into_inner)
                }
            };
        }
        state.expired = true;
        let Some(Current {
            mut slot,
            lease,
            entries,
            rest,
            handle,
            ..
        }) = state.current.take()
        else {
            return;
        };
        drop(state);
        // First, so that no more is taken from the lane; what is there goes back.
        handle.leave();
        finish_expired(&mut slot, lease, entries, rest);
    }
}

/// The call has come back after all, but too late: its process ends in a moment.
fn park(state: MutexGuard<'_, State>) {
    drop(state);
    loop {
        std::thread::park();
    }
}
