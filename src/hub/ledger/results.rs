//! Results that the sink has kept: whose lease ends with them, and whom to tell.

use super::{Ledger, State};
use crate::wire::frame::{Kept, PeerId, TaskId};

impl Ledger {
    /// The sink has kept these results. Of whichever attempt: the first one kept wins.
    pub fn acknowledge(&mut self, kept: &Kept) {
        let end = kept.first.saturating_add(kept.count).min(self.next_id);
        let mut fresh = 0;
        for id in kept.first..end {
            let Some(task) = self.tasks.remove(id) else {
                if self.is_unread(id) {
                    // The input will come to it, and pass it over.
                    fresh += 1;
                    self.acked.insert(id);
                    if let Some((holder, _)) = self.claims.remove(&id)
                        && holder != kept.worker
                        && let Some(holder) = self.consumers.get_mut(&holder)
                    {
                        push_range(&mut holder.relay, id, 1);
                    }
                }
                continue;
            };
            fresh += 1;
            self.memory -= task.body.in_memory() as u64;
            match task.state {
                State::Leased { to, .. } => {
                    if let Some(holder) = self.consumers.get_mut(&to) {
                        holder.release(id);
                        if to != kept.worker {
                            push_range(&mut holder.relay, id, 1);
                        }
                    }
                }
                State::Waiting => {
                    self.waiting_count -= task.weight();
                    self.suspects.remove(&id);
                }
                State::Condemned => {}
            }
        }
        if end > kept.first {
            self.acked.insert_range(kept.first, end - kept.first);
            if let Some(worker) = self.consumers.get_mut(&kept.worker) {
                push_range(&mut worker.relay, kept.first, end - kept.first);
                worker.done += fresh;
            }
        }
        self.totals.done += fresh;
        if kept.failed() {
            self.totals.failed += fresh;
        }
        if fresh > 0 {
            self.totals.micros = self.totals.micros.saturating_add(kept.micros);
        }
    }

    /// The acknowledgements to be relayed to a consumer since this was asked last.
    pub fn relay(&mut self, peer: PeerId) -> Vec<(TaskId, u64)> {
        self.consumers
            .get_mut(&peer)
            .map(|consumer| std::mem::take(&mut consumer.relay))
            .unwrap_or_default()
    }

    /// How many tasks are to be relayed to a consumer.
    #[must_use]
    pub fn relay_len(&self, peer: PeerId) -> u64 {
        self.consumers.get(&peer).map_or(0, |consumer| {
            consumer.relay.iter().map(|&(_, count)| count).sum()
        })
    }
}

/// Adds ids to a list of ranges.
pub(super) fn push_range(ranges: &mut Vec<(TaskId, u64)>, first: TaskId, count: u64) {
    match ranges.last_mut() {
        Some((start, len)) if *start + *len == first => *len += count,
        _ => ranges.push((first, count)),
    }
}
