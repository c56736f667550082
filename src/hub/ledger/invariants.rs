//! What holds of a ledger at any time, for the simulation to look at.

use std::collections::HashMap;

use rustc_hash::FxHashSet;

use super::{Ledger, State};
use crate::wire::frame::{PeerId, TaskId};

/// How much was sent to each consumer on its lane, when the ledger was looked at last.
pub(in crate::hub) type Sent = HashMap<PeerId, u64>;

impl Ledger {
    /// Each task waits, is leased or is done, and all that is counted is counted rightly.
    pub(in crate::hub) fn check_tasks(&self) -> Result<(), String> {
        let mut waiting = 0;
        let mut leases: HashMap<PeerId, usize> = HashMap::new();
        let queued: FxHashSet<TaskId> = self.waiting.iter().copied().collect();
        for id in 1..self.next_id {
            let Some(task) = self.tasks.get(id) else {
                if self.acked.contains(id) {
                    continue;
                }
                return Err(format!("task {id} is lost: neither unfinished nor done"));
            };
            if self.acked.contains(id) {
                return Err(format!("task {id} is done and {:?}", task.state));
            }
            match task.state {
                State::Waiting => {
                    waiting += task.weight();
                    let findable = match task.suspect {
                        true => self.suspects.contains(&id),
                        false => queued.contains(&id),
                    };
                    if !findable {
                        return Err(format!("task {id} waits where nobody looks"));
                    }
                }
                State::Leased { to, seq, alone } => {
                    *leases.entry(to).or_default() += 1;
                    let Some(consumer) = self.consumers.get(&to) else {
                        return Err(format!("task {id} is leased to {to:x}, which is gone"));
                    };
                    if !consumer.lane.contains(&(seq, id)) {
                        return Err(format!(
                            "task {id} is leased to {to:x}, which does not know"
                        ));
                    }
                    if consumer.silent {
                        return Err(format!("task {id} is leased to {to:x}, which is silent"));
                    }
                    let others = consumer.ahead() > 1 || consumer.running > 1;
                    if alone && seq == consumer.sent_tasks && consumer.is_alone() && others {
                        return Err(format!("suspect {id} is not alone at {to:x}"));
                    }
                    if !alone && seq != 0 && seq == consumer.sent_tasks && consumer.is_alone() {
                        return Err(format!(
                            "task {id} was sent to {to:x}, which runs a suspect"
                        ));
                    }
                }
                State::Condemned => {}
            }
        }
        if waiting != self.waiting_count {
            return Err(format!(
                "{waiting} tasks wait, and {} are counted",
                self.waiting_count
            ));
        }
        for (&peer, consumer) in &self.consumers {
            let held = leases.get(&peer).copied().unwrap_or_default();
            if held != consumer.leases {
                return Err(format!(
                    "{peer:x} holds {held} leases, and {} are counted",
                    consumer.leases
                ));
            }
        }
        Ok(())
    }

    /// Nobody was sent more than it can take: but for one task where that is allowed, and one body that passes the limit.
    pub(in crate::hub) fn check_credit(&self, before: &mut Sent) -> Result<(), String> {
        for (&peer, consumer) in &self.consumers {
            let sent = consumer.sent_tasks;
            let was = before.insert(peer, sent).unwrap_or_default();
            if sent <= was {
                continue;
            }
            let beyond = u64::from(consumer.alone || consumer.reserved.is_some());
            if sent > consumer.tasks_limit.max(was) + beyond {
                return Err(format!(
                    "{peer:x} was sent {sent} tasks and can take {}",
                    consumer.tasks_limit
                ));
            }
            let bytes = consumer.sent_bytes.saturating_sub(self.largest);
            if bytes > consumer.bytes_limit && beyond == 0 && consumer.leases > 1 {
                return Err(format!(
                    "{peer:x} was sent {bytes} bytes and can take {}",
                    consumer.bytes_limit
                ));
            }
            if !consumer.ready {
                return Err(format!(
                    "{peer:x} was sent tasks and has not asked for them"
                ));
            }
        }
        Ok(())
    }

    /// The tasks that were leased to a consumer with nothing else, and to whom.
    pub(in crate::hub) fn alone(&self) -> impl Iterator<Item = (TaskId, PeerId)> + '_ {
        let leases = (1..self.next_id).filter_map(|id| Some((id, self.tasks.get(id)?.state)));
        leases.filter_map(|(id, state)| match state {
            State::Leased {
                to, alone: true, ..
            } => Some((id, to)),
            _ => None,
        })
    }
}
