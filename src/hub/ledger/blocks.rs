//! Blocks of a queue's items: leased in parts where a getter can take a part only, and confirmed item by item.

use super::{Consumer, Finished, Ledger, State, Task, Time};
use crate::wire::block;
use crate::wire::body::Body;
use crate::wire::frame::{Confirmed, PeerId, TaskId};

/// What was sent ahead to a getter is taken back when it has taken nothing for so long. Not before: it would come to others behind
/// later items of the same putter.
const STUCK: Time = Time::from_millis(500);

/// A getter with credit for at least so many items may get a block that is larger than its credit: splitting costs more than they
/// do.
const COARSE: u64 = 128;

/// What was cut off a block.
pub(in crate::hub) struct Rest {
    body: Body,
    pub(in crate::hub) items: u32,
    origin: TaskId,
    first: u32,
}

impl Task {
    /// How many items it is.
    pub(in crate::hub) const fn weight(&self) -> u64 {
        if self.items == 0 {
            1
        } else {
            self.items as u64
        }
    }

    /// Keeps the first `credit` items; the rest, when there is one worth cutting off.
    pub(super) fn split_for(&mut self, credit: u64) -> Option<Rest> {
        if credit >= COARSE || credit == 0 {
            return None;
        }
        self.split(u32::try_from(credit).unwrap_or(u32::MAX))
    }

    /// Keeps the first `keep` items; the rest.
    fn split(&mut self, keep: u32) -> Option<Rest> {
        if keep >= self.items {
            return None;
        }
        let Body::Memory(bytes) = &self.body else {
            return None;
        };
        let (head, tail) = block::split(bytes, keep)?;
        let rest = self.items - keep;
        self.body = Body::Memory(head);
        self.items = keep;
        Some(Rest {
            body: Body::Memory(tail),
            items: rest,
            origin: self.origin,
            first: self.first + keep,
        })
    }

    /// Nobody holds it any more: what was done with is cut off, and what was only taken counts as not taken. How many these
    /// were.
    pub(super) fn untake(&mut self) -> u64 {
        let untaken = self.taken - self.done;
        if self.done > 0
            && let Some(rest) = self.split(self.done)
        {
            self.body = rest.body;
            self.items = rest.items;
            self.first = rest.first;
        }
        self.taken = 0;
        self.done = 0;
        u64::from(untaken)
    }
}

impl Ledger {
    /// Adds the next block of a queue; its id. `items` is 0 for a large item that is no block but is sent as it is.
    pub fn put_block(&mut self, body: Body, items: u32) -> TaskId {
        self.items_put += u64::from(items.max(1));
        let id = self.add(body, 1, items);
        self.waiting.push_back(id);
        self.waiting_count += u64::from(items.max(1));
        id
    }

    /// As [`put_block`](Self::put_block), of items that are known elsewhere by their place in a block: those from `first` on, of `origin`.
    pub fn put_block_of(&mut self, body: Body, items: u32, origin: TaskId, first: u32) -> TaskId {
        let id = self.put_block(body, items);
        if let Some(task) = self.tasks.get_mut(id) {
            task.origin = origin;
            task.first = first;
        }
        id
    }

    /// Blocks have numbers from `id` on, and it is noted which items are done with.
    pub fn begin_noting(&mut self, id: TaskId) {
        self.next_id = self.next_id.max(id);
        self.notes = true;
    }

    /// The items that were done with since this was called last.
    pub fn take_finished(&mut self) -> Vec<Finished> {
        std::mem::take(&mut self.finished)
    }

    /// What was cut off a block goes before all others.
    pub(super) fn put_rest(&mut self, rest: Rest) {
        let Rest {
            body,
            items,
            origin,
            first,
        } = rest;
        self.memory -= body.in_memory() as u64;
        let id = self.add(body, 1, items);
        if let Some(task) = self.tasks.get_mut(id) {
            task.origin = origin;
            task.first = first;
        }
        self.waiting.push_front(id);
        self.waiting_count += u64::from(items);
    }

    /// How many items a block has; 0 when it is none.
    #[must_use]
    pub fn items(&self, id: TaskId) -> u32 {
        self.tasks.get(id).map_or(0, |task| task.items)
    }

    /// A getter says how far it is with a block that it holds. Of somebody else's it is not believed.
    pub fn confirm(&mut self, peer: PeerId, said: &Confirmed) {
        let Some(task) = self.tasks.get_mut(said.id) else {
            return;
        };
        match task.state {
            State::Leased { to, .. } if to == peer && task.attempt == said.attempt => {}
            _ => return,
        }
        let items = u32::try_from(task.weight()).unwrap_or(u32::MAX);
        let taken = said.taken.clamp(task.taken, items);
        let done = said.done.clamp(task.done, taken);
        if taken > task.taken
            && let Some(holder) = self.consumers.get_mut(&peer)
        {
            holder.moved = self.clock;
        }
        self.items_taken += u64::from(taken - task.taken);
        self.items_done += u64::from(done - task.done);
        if self.notes && done > task.done {
            self.finished.push(Finished {
                origin: task.origin,
                first: task.first + task.done,
                count: done - task.done,
            });
        }
        task.taken = taken;
        task.done = done;
        let keep = said.kept.max(taken);
        if keep < items && task.items > 0 {
            if keep == 0 {
                self.returned(peer, &[(said.id, said.attempt)]);
                return;
            }
            if let Some(rest) = task.split(keep) {
                self.put_rest(rest);
            }
        }
        let Some(task) = self.tasks.get(said.id) else {
            return;
        };
        if u64::from(task.done) == task.weight()
            && let Some(task) = self.tasks.remove(said.id)
        {
            self.memory -= task.body.in_memory() as u64;
            if let Some(holder) = self.consumers.get_mut(&peer) {
                holder.release(said.id);
                holder.done += task.weight();
            }
        }
    }

    /// The getter has answered all that it was asked to give back.
    pub fn has_given_back(&mut self, peer: PeerId) {
        if let Some(consumer) = self.consumers.get_mut(&peer) {
            consumer.revoking = false;
        }
    }

    /// Items that were taken by a program.
    pub(in crate::hub) const fn items_taken(&self) -> u64 {
        self.items_taken
    }

    /// Items that were put and not yet taken by a program, those that are on their way included.
    #[must_use]
    pub const fn items_inside(&self) -> u64 {
        self.items_put - self.items_taken
    }

    /// Items that were put and that nobody has said to be done with.
    #[must_use]
    pub const fn items_unfinished(&self) -> u64 {
        self.items_put - self.items_done
    }

    /// Nothing waits, and whoever holds something waits for more itself: there is nobody left who could give anything back or
    /// finish it.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.ended
            && self.waiting_count == 0
            && self
                .consumers
                .values()
                .all(|c| c.leases == 0 || (c.running < c.slots && c.ahead() == 0))
    }

    /// Whether what this one holds unopened may be given to others.
    pub(in crate::hub) fn may_take_back(&self, holder: &Consumer) -> bool {
        self.items_put == 0 || self.clock.saturating_sub(holder.moved) >= STUCK
    }

    /// A block is no longer there.
    pub fn lose(&mut self, id: TaskId) {
        let Some(task) = self.tasks.remove(id) else {
            return;
        };
        self.memory -= task.body.in_memory() as u64;
        self.items_taken += task.weight() - u64::from(task.taken);
        self.items_done += task.weight() - u64::from(task.done);
        self.note_rest(&task);
        match task.state {
            State::Leased { to, .. } => {
                if let Some(holder) = self.consumers.get_mut(&to) {
                    holder.release(id);
                }
            }
            State::Waiting => self.waiting_count -= task.weight(),
            State::Condemned => {}
        }
    }

    /// All that is left of a block is done with.
    fn note_rest(&mut self, task: &Task) {
        if self.notes {
            self.finished.push(Finished {
                origin: task.origin,
                first: task.first + task.done,
                count: u32::try_from(task.weight()).unwrap_or(u32::MAX) - task.done,
            });
        }
    }

    /// Forgets all that waits and asks for all back that was not taken: how many items these are now.
    pub fn drop_all(&mut self) -> u64 {
        let mut dropped = 0;
        while let Some(id) = self.waiting.pop_front() {
            let waits = |task: &Task| task.state == State::Waiting;
            if self.tasks.get(id).is_some_and(waits)
                && let Some(task) = self.tasks.remove(id)
            {
                self.memory -= task.body.in_memory() as u64;
                self.waiting_count -= task.weight();
                dropped += task.weight();
                self.note_rest(&task);
            }
        }
        self.items_taken += dropped;
        self.items_done += dropped;
        let all: Vec<PeerId> = self.consumers.keys().copied().collect();
        for consumer in all {
            self.revoke(consumer, usize::MAX);
        }
        dropped
    }
}
