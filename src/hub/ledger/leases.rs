//! Leases: given, asked back, handed back, tried again.

use super::{Action, Ledger, State};
use crate::wire::frame::{PeerId, TaskId};

impl Ledger {
    /// Leases up to `count` waiting tasks to `peer`, within its byte credit.
    pub(in crate::hub) fn lease(&mut self, peer: PeerId, count: u64) -> u64 {
        let Some(consumer) = self.consumers.get_mut(&peer) else {
            return 0;
        };
        if consumer.ahead() == 0 {
            consumer.moved = self.clock;
        }
        let mut tasks = Vec::new();
        let mut leased = 0;
        let mut rest = None;
        while leased < count && (consumer.sent_bytes < consumer.bytes_limit || consumer.leases == 0)
        {
            let Some(id) = self.waiting.pop_front() else {
                break;
            };
            let Some(task) = self.tasks.get_mut(id) else {
                continue;
            };
            if task.state != State::Waiting || task.suspect {
                continue;
            }
            rest = task.split_for(count - leased);
            self.waiting_count -= task.weight();
            leased += task.weight();
            task.since = self.clock;
            tasks.push(consumer.take_on(peer, id, task, false, &mut self.totals));
            if rest.is_some() {
                break;
            }
        }
        if let Some(rest) = rest {
            // It was counted as waiting, and is.
            self.waiting_count -= u64::from(rest.items);
            self.put_rest(rest);
        }
        if leased > 0 {
            self.actions.push(Action::Lease { to: peer, tasks });
        }
        leased
    }

    /// Leases the next suspect to `peer`, which holds nothing.
    pub(in crate::hub) fn lease_suspect(&mut self, peer: PeerId) -> bool {
        let Some(consumer) = self.consumers.get_mut(&peer) else {
            return false;
        };
        while let Some(id) = self.suspects.pop_first() {
            let Some(task) = self.tasks.get_mut(id) else {
                continue;
            };
            if task.state != State::Waiting {
                continue;
            }
            self.waiting_count -= task.weight();
            consumer.apart = true;
            consumer.alone = true;
            task.since = self.clock;
            let lease = consumer.take_on(peer, id, task, true, &mut self.totals);
            self.actions.push(Action::Lease {
                to: peer,
                tasks: vec![lease],
            });
            return true;
        }
        false
    }

    /// Under keep-order, the lowest unfinished task must never wait for credit that only its own result would free.
    pub(in crate::hub) fn lease_reserved(&mut self) {
        if !self.ordered || self.waiting_count == 0 {
            return;
        }
        let lowest = self.acked.first_missing(1);
        let blocked = self
            .tasks
            .get(lowest)
            .is_some_and(|task| task.state == State::Waiting && !task.suspect);
        if !blocked {
            return;
        }
        let freest = self
            .consumers
            .iter()
            .filter(|(_, c)| c.takes_more(self.clock) && !c.apart && c.reserved.is_none())
            .min_by_key(|(peer, c)| (c.ahead() + u64::from(c.running), **peer))
            .map(|(&peer, _)| peer);
        let Some(peer) = freest else {
            return;
        };
        if self.waiting.front() != Some(&lowest) {
            // What came back after it stands before it. Its entry there is passed over when its turn comes.
            self.waiting.push_front(lowest);
        }
        if self.lease(peer, 1) == 1
            && let Some(consumer) = self.consumers.get_mut(&peer)
        {
            consumer.reserved = Some(lowest);
        }
    }

    /// Asks `peer` for up to `count` tasks back, from the end of its lane.
    pub(in crate::hub) fn revoke(&mut self, peer: PeerId, count: usize) {
        let unstarted = self.unstarted(peer);
        let Some(consumer) = self.consumers.get_mut(&peer) else {
            return;
        };
        if consumer.revoking || consumer.silent {
            return;
        }
        let mut asked = 0;
        let tasks: Vec<(TaskId, u32)> = unstarted
            .into_iter()
            .take_while(|&(id, _)| {
                let before = asked;
                asked += self.tasks.get(id).map_or(0, |task| task.weight() as usize);
                before < count
            })
            .collect();
        if !tasks.is_empty() {
            consumer.revoking = true;
            self.actions.push(Action::Revoke { from: peer, tasks });
        }
    }

    /// What a consumer holds and has not started as far as we know, the last of its lane first.
    pub(in crate::hub) fn unstarted(&self, peer: PeerId) -> Vec<(TaskId, u32)> {
        let Some(consumer) = self.consumers.get(&peer) else {
            return Vec::new();
        };
        consumer
            .lane
            .iter()
            .rev()
            .take_while(|(seq, _)| *seq > consumer.taken)
            .filter_map(|&(seq, id)| {
                let task = self.tasks.get(id)?;
                matches!(task.state, State::Leased { to, seq: held, .. } if to == peer && held == seq)
                    .then_some((id, task.held_as))
            })
            .collect()
    }

    /// A consumer gives back tasks that it had not started. It is no attempt.
    pub fn returned(&mut self, peer: PeerId, tasks: &[(TaskId, u32)]) {
        let mut tasks = tasks.to_vec();
        tasks.sort_unstable();
        let mut some = false;
        for &(id, attempt) in tasks.iter().rev() {
            some |= self.withdraw(peer, id, attempt);
        }
        let now = self.clock;
        if let Some(consumer) = self.consumers.get_mut(&peer) {
            let asked = std::mem::take(&mut consumer.revoking);
            if some && !asked {
                consumer.handed_back = Some(now);
            }
        }
    }

    /// A lease ends as if it had never been given; whether there was one.
    pub fn withdraw(&mut self, peer: PeerId, id: TaskId, attempt: u32) -> bool {
        let ended = self.take_from(peer, id, attempt);
        if ended
            && let Some(task) = self.tasks.get_mut(id)
            // Its number can only be given again when nobody has had a later one.
            && task.attempt == attempt
        {
            task.attempt = attempt.saturating_sub(1);
            if task.attempt > 0 {
                self.totals.again = self.totals.again.saturating_sub(1);
            }
        }
        ended
    }

    /// A lease ends that never went out. The consumer counts what arrives, so this one does not count on its lane, and those
    /// behind it move up; otherwise its credit would be lost for good.
    pub fn recall(&mut self, peer: PeerId, id: TaskId, attempt: u32) {
        let sent = self.tasks.get(id).and_then(|task| match task.state {
            State::Leased { to, seq, .. } if to == peer && task.attempt == attempt && seq != 0 => {
                Some((seq, task.body.len(), task.weight()))
            }
            _ => None,
        });
        self.withdraw(peer, id, attempt);
        let (Some((place, bytes, weight)), Some(consumer)) = (sent, self.consumers.get_mut(&peer))
        else {
            return;
        };
        consumer.sent_tasks = consumer.sent_tasks.saturating_sub(weight);
        consumer.sent_bytes = consumer.sent_bytes.saturating_sub(bytes);
        if let Some(at) = consumer
            .lane
            .iter()
            .rposition(|&entry| entry == (place, id))
        {
            consumer.lane.remove(at);
        }
        let behind = consumer.lane.iter_mut().rev();
        for (seq, other) in behind.take_while(|(seq, _)| *seq > place) {
            if let Some(task) = self.tasks.get_mut(*other) {
                match &mut task.state {
                    State::Leased { to, seq: held, .. } if *to == peer && *held == *seq => {
                        *held -= weight
                    }
                    _ => {}
                }
            }
            *seq -= weight;
        }
    }

    /// A try failed, and the task has tries left.
    pub fn again(&mut self, peer: PeerId, id: TaskId, attempt: u32) {
        if self.take_from(peer, id, attempt)
            && let Some(task) = self.tasks.get_mut(id)
        {
            task.tries_left = task.tries_left.saturating_sub(1);
        }
    }

    /// Ends a lease without a result; the task goes to the head of the queue.
    fn take_from(&mut self, peer: PeerId, id: TaskId, attempt: u32) -> bool {
        let Some(task) = self.tasks.get_mut(id) else {
            return false;
        };
        match task.state {
            State::Leased { to, .. } if to == peer && task.held_as == attempt => {}
            _ => return false,
        }
        task.state = State::Waiting;
        self.items_taken -= task.untake();
        self.waiting_count += task.weight();
        if task.suspect {
            self.suspects.insert(id);
        } else {
            self.waiting.push_front(id);
        }
        if let Some(consumer) = self.consumers.get_mut(&peer) {
            consumer.release(id);
        }
        true
    }

    /// Forgets lane entries of tasks that ended, so that one long task in front does not keep millions of them.
    pub(in crate::hub) fn sweep(&mut self) {
        for (&peer, consumer) in &mut self.consumers {
            if consumer.lane_needs_sweep() {
                let tasks = &self.tasks;
                consumer.lane.retain(|&(seq, id)| {
                    tasks.get(id).is_some_and(|task| {
                        matches!(task.state, State::Leased { to, seq: held, .. } if to == peer && held == seq)
                    })
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{Action, Gone, Ledger};
    use crate::wire::body::Body;

    const NOW: Duration = Duration::ZERO;

    #[test]
    fn the_lowest_task_is_leased_beyond_all_credit_wherever_it_waits() {
        let mut ledger = Ledger::new();
        ledger.set_ordered(true);
        for _ in 0..4 {
            ledger.put(Body::from("x"), 1);
        }
        for worker in [7, 8] {
            ledger.join(worker, 1, &[], NOW);
            ledger.credit(worker, 2, 1 << 20, 0, 0);
            ledger.deal();
        }
        // Tasks 1 and 2 come back, then 3 and 4, which wait before them.
        ledger.gone(7, Gone::Left);
        ledger.gone(8, Gone::Left);
        ledger.actions();
        ledger.join(9, 1, &[], NOW);
        ledger.credit(9, 0, 1 << 20, 0, 0);
        ledger.deal();
        assert_eq!(
            ledger.actions(),
            [Action::Lease {
                to: 9,
                tasks: vec![(1, 2, 0)]
            }]
        );
    }
}
