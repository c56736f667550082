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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{Action, Gone};
    use super::*;
    use crate::wire::frame::Kept;

    const NOW: Duration = Duration::ZERO;

    fn resumed() -> Ledger {
        let mut ledger = Ledger::new();
        let totals = Totals {
            done: 2,
            ..Totals::default()
        };
        ledger.resume([(1, 2)].into_iter().collect(), 6, totals);
        ledger
    }

    fn kept(id: TaskId) -> Kept {
        Kept {
            first: id,
            count: 1,
            attempt: 1,
            worker: 7,
            exit: 0,
            signal: 0,
            micros: 1,
        }
    }

    #[test]
    fn a_task_that_a_worker_holds_is_leased_to_it_alone() {
        let mut ledger = resumed();
        ledger.join(7, 1, &[(3, 2)], NOW);
        ledger.join(8, 1, &[], NOW);
        ledger.credit(8, 10, 1 << 20, 0, 0);
        for id in 1..=4 {
            assert_eq!(ledger.put_as(id, Body::from("x"), 1, 1), id > 2);
        }
        ledger.deal();
        let leased: Vec<Action> = ledger.actions();
        assert_eq!(
            leased,
            [Action::Lease {
                to: 8,
                tasks: vec![(4, 2, 0)]
            }]
        );
        assert_eq!((ledger.attempt(3), ledger.unread()), (2, 1));
        // Until it is gone.
        ledger.gone(7, Gone::Left);
        assert_eq!(ledger.waiting(), 1);
    }

    #[test]
    fn what_is_kept_before_it_is_read_is_passed_over() {
        let mut ledger = resumed();
        ledger.join(7, 1, &[(3, 1)], NOW);
        ledger.acknowledge(&kept(3));
        ledger.acknowledge(&kept(3));
        assert_eq!((ledger.totals().done, ledger.unread()), (3, 2));
        assert!(!ledger.put_as(3, Body::from("x"), 1, 0));
        for id in [5, 4] {
            assert!(ledger.put_as(id, Body::from("x"), 1, 0));
            ledger.acknowledge(&kept(id));
        }
        ledger.end();
        assert!(ledger.is_over() && ledger.unread() == 0);
        assert_eq!(
            (ledger.put_in_all(), ledger.put(Body::from("new"), 1)),
            (5, 6)
        );
    }

    #[test]
    fn under_keep_order_the_input_is_read_until_the_lowest_has_come() {
        let mut ledger = Ledger::new();
        ledger.resume(IdSet::new(), 3 * super::super::WINDOW, Totals::default());
        ledger.set_ordered(true);
        ledger.put_as(3 * super::super::WINDOW - 1, Body::from("last"), 1, 0);
        assert!(ledger.room() > 0);
    }
}
