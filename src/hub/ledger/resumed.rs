//! A run that goes on after its ventilator was gone: tasks keep their numbers, some have their results already, and some are in
//! the hands of workers before the input has come to them again.

use super::{Ledger, State, Totals};
use crate::wire::body::Body;
use crate::wire::frame::{PeerId, TaskId};
use crate::wire::id_set::IdSet;

impl Ledger {
    /// What an earlier life of the run had recorded: the tasks that have a result, the next new number, and how many there were.
    /// Before anything is put.
    pub fn resume(&mut self, done: IdSet, next_id: TaskId, totals: Totals) {
        let last = done
            .ranges()
            .last()
            .map_or(0, |(first, count)| first + count);
        self.next_id = self.next_id.max(next_id).max(last);
        self.acked = done;
        self.totals = totals;
        self.resumed = true;
    }

    /// Adds the task of this number, which was given to it before, in an earlier life of the run perhaps; `attempts` were made then.
    /// `false` where it has a result already, or is here.
    pub fn put_as(&mut self, id: TaskId, body: Body, tries: u32, attempts: u32) -> bool {
        if id == 0 || self.acked.contains(id) || self.tasks.get(id).is_some() {
            return false;
        }
        if id > self.next_id {
            self.resumed = true;
        }
        self.add_as(id, body, tries, 0);
        let Some(task) = self.tasks.get_mut(id) else {
            return false;
        };
        task.attempt = attempts;
        if let Some((peer, attempt)) = self.claims.remove(&id)
            && let Some(consumer) = self.consumers.get_mut(&peer)
            && !consumer.silent
        {
            task.attempt = task.attempt.max(attempt);
            task.state = State::Leased {
                to: peer,
                seq: 0,
                alone: false,
            };
            // What is held from before stands before all that is sent.
            consumer.lane.push_front((0, id));
            consumer.leases += 1;
            return true;
        }
        self.waiting.push_back(id);
        self.waiting_count += 1;
        true
    }

    /// The next number that no task has had.
    #[must_use]
    pub const fn next_id(&self) -> TaskId {
        self.next_id
    }

    /// Whether an earlier life of the run knew this task, it has no result, and the input has not come to it again.
    #[must_use]
    pub fn is_unread(&self, id: TaskId) -> bool {
        self.resumed
            && id < self.next_id
            && self.tasks.get(id).is_none()
            && !self.acked.contains(id)
    }

    /// How many such tasks there are.
    #[must_use]
    pub fn unread(&self) -> u64 {
        if self.resumed {
            (self.next_id - 1).saturating_sub(self.acked.len() + self.tasks.len() as u64)
        } else {
            0
        }
    }

    /// Forgets what a consumer had said of tasks that were not read.
    pub(super) fn forget_claims(&mut self, peer: PeerId) {
        if !self.claims.is_empty() {
            self.claims.retain(|_, (holder, _)| *holder != peer);
        }
    }
}
