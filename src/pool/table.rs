//! What a pool has handed in and not got back: which task of the pipeline is which calls of which job.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::job::{End, Job};
use crate::hub::intake::Intake;
use crate::hub::task_table::TaskTable;
use crate::wire::body::Body;

/// One task of the pipeline: some calls of a job that follow one another.
pub(super) struct Entry {
    pub(super) job: Arc<Job>,
    pub(super) first: u64,
    pub(super) calls: u32,
    pub(super) body: Body,
    /// How often it may be run again because its worker died.
    pub(super) left: u32,
}

/// A pool's record of its own.
pub(super) struct Table {
    state: Mutex<State>,
    /// Something came back, or ended.
    changed: Condvar,
    intake: Intake,
}

#[derive(Default)]
struct State {
    entries: TaskTable<Entry>,
    /// Jobs whose input has not ended, and which hand in the rest by themselves.
    feeding: usize,
    /// What came back, and may be handed in anew in parts.
    dealing: usize,
    closed: bool,
    end: Option<End>,
    /// Since when nothing came back although something is out.
    out_since: Option<Instant>,
}

impl Table {
    pub(super) fn new(intake: Intake) -> Self {
        Self {
            state: Mutex::default(),
            changed: Condvar::new(),
            intake,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a new job may begin.
    pub(super) fn check_open(&self) -> Result<(), End> {
        self.state().check_open()
    }

    /// A job begins whose input is handed in bit by bit; [`join`](Self::end_when_idle) waits for it.
    pub(super) fn begin_feeding(self: &Arc<Self>) -> Result<Feeding, End> {
        let mut state = self.state();
        state.check_open()?;
        state.feeding += 1;
        drop(state);
        Ok(Feeding {
            table: Arc::clone(self),
        })
    }

    /// Hands in tasks; never waits. `alone`: each to a worker that runs nothing else.
    pub(super) fn hand_in(&self, entries: Vec<Entry>, alone: bool) -> Result<(), End> {
        let mut state = self.state();
        if let Some(end) = &state.end {
            return Err(end.clone());
        }
        if entries.is_empty() {
            return Ok(());
        }
        let bodies = entries.iter().map(|entry| entry.body.clone()).collect();
        // Numbered under the lock: whoever looks up a result finds its entry.
        let Some(first) = self.intake.put_now(bodies, alone) else {
            return Err(End::Ended("the pool has ended".to_owned()));
        };
        state.out_since.get_or_insert_with(Instant::now);
        for (id, entry) in (first..).zip(entries) {
            let bytes = entry.body.len();
            entry.job.handed_in(entry.calls.into(), bytes);
            state.entries.insert(id, entry);
        }
        Ok(())
    }

    /// The entries of these tasks, which are no longer out. [`dealt`](Self::dealt) is to follow.
    pub(super) fn take(&self, ids: impl Iterator<Item = u64>) -> Vec<Option<Entry>> {
        let mut state = self.state();
        state.dealing += 1;
        let taken = ids.map(|id| state.entries.remove(id)).collect();
        state.out_since = (!state.entries.is_empty()).then(Instant::now);
        taken
    }

    /// To be called when what [`take`](Self::take) gave has been dealt with.
    pub(super) fn dealt(&self) {
        let idle = {
            let mut state = self.state();
            state.dealing -= 1;
            state.is_idle()
        };
        if idle {
            self.changed.notify_all();
        }
    }

    /// No new jobs.
    pub(super) fn close(&self) {
        self.state().closed = true;
    }

    /// There will be nothing more: all who wait are told why. The first reason counts.
    pub(super) fn end(&self, end: &End) {
        let entries = {
            let mut state = self.state();
            if state.end.is_none() {
                state.end = Some(end.clone());
            }
            state.closed = true;
            std::mem::take(&mut state.entries)
        };
        self.changed.notify_all();
        for entry in entries.values() {
            entry.job.end(end);
        }
    }

    pub(super) fn ended(&self) -> Option<End> {
        self.state().end.clone()
    }

    /// How long something has been out without anything coming back.
    pub(super) fn out_for(&self) -> Option<Duration> {
        self.state().out_since.map(|since| since.elapsed())
    }

    /// Waits until nothing is out and nobody hands in, and ends it then for `reason`; or until it has ended otherwise, and why.
    pub(super) fn end_when_idle(&self, reason: &End) -> Option<End> {
        let mut state = self.state();
        while state.end.is_none() && !state.is_idle() {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        let before = state.end.clone();
        // At once: an imap that another thread reads might hand in more.
        state.end.get_or_insert_with(|| reason.clone());
        before
    }
}

impl State {
    fn check_open(&self) -> Result<(), End> {
        match &self.end {
            Some(end) => Err(end.clone()),
            None if self.closed => Err(End::Ended(
                "the pool is closed and takes no more tasks".to_owned(),
            )),
            None => Ok(()),
        }
    }

    fn is_idle(&self) -> bool {
        self.feeding == 0 && self.dealing == 0 && self.entries.is_empty()
    }
}

/// A job that hands in its input bit by bit, until it is dropped.
pub(super) struct Feeding {
    table: Arc<Table>,
}

impl Drop for Feeding {
    fn drop(&mut self) {
        self.table.state().feeding -= 1;
        self.table.changed.notify_all();
    }
}
