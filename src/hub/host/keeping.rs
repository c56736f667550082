//! What the host of a queue writes down, where its items outlive it: they are recorded before their putter is told that they are
//! accepted, and before a getter sees them.

use std::collections::VecDeque;

use rustc_hash::FxHashMap;

use super::Host;
use crate::error::Error;
use crate::hub::ledger::Ledger;
use crate::journal::queues::{Entry, Past, Pen};
use crate::wire::body::Body;
use crate::wire::frame::{Hello, PeerId, TaskId, TaskList, encode, kind};

/// Each life of a host numbers its blocks from another multiple of this: what a getter holds of an earlier life is known by it.
const LIFE: TaskId = 1 << 40;

/// What is on its way to the journal; without one always empty.
#[derive(Default)]
pub(super) struct Keeping {
    pen: Option<Pen>,
    puts: VecDeque<(u64, Arrived)>,
    /// Items of these.
    pub(super) coming: u64,
    /// Items that are done with and still in the journal, by the entry that takes them out.
    done: VecDeque<(u64, u64)>,
    pub(super) undone: u64,
    /// Questions to be answered when an entry is written: route and number.
    answers: VecDeque<(u64, Vec<u8>, u64)>,
    /// How far putters of an earlier life were accepted: blocks, items.
    putters: FxHashMap<PeerId, (u64, u64)>,
    first_id: TaskId,
    /// An earlier life had shut it down.
    shut: bool,
}

/// Blocks of one putter.
struct Arrived {
    peer: PeerId,
    number: u64,
    prompt: bool,
    blocks: Vec<(u64, u32, Body)>,
    items: u64,
}

impl Keeping {
    /// What was before goes into the ledger.
    pub(super) fn start(kept: Option<(Pen, Past)>, ledger: &mut Ledger) -> Self {
        let Some((pen, past)) = kept else {
            return Self::default();
        };
        let first_id = past.lives.saturating_mul(LIFE) + 1;
        ledger.begin_noting(first_id);
        for left in past.blocks {
            ledger.put_block_of(left.body, left.items, left.origin, left.first);
        }
        Self {
            pen: Some(pen),
            putters: past.putters,
            first_id,
            shut: past.shut,
            ..Self::default()
        }
    }

    pub(super) const fn is_on(&self) -> bool {
        self.pen.is_some()
    }

    /// Whether an earlier life had shut it down, once.
    pub(super) fn take_shut(&mut self) -> bool {
        std::mem::take(&mut self.shut)
    }

    /// Something is not written yet.
    pub(super) fn is_busy(&self) -> bool {
        !(self.puts.is_empty() && self.done.is_empty() && self.answers.is_empty())
    }

    /// How far this putter was accepted in an earlier life: blocks, items.
    pub(super) fn known(&mut self, peer: PeerId) -> (u64, u64) {
        self.putters.remove(&peer).unwrap_or_default()
    }

    /// Blocks came, and this putter has put so many blocks and items in all.
    pub(super) fn put(
        &mut self,
        peer: PeerId,
        (number, in_all): (u64, u64),
        fresh: Vec<(Body, u32)>,
        prompt: bool,
    ) {
        let Some(pen) = &mut self.pen else {
            return;
        };
        let blocks: Vec<(u64, u32, Body)> = fresh
            .into_iter()
            .map(|(body, items)| (pen.next_block(), items, body))
            .collect();
        let items = blocks.iter().map(|block| u64::from(block.1.max(1))).sum();
        let entry = pen.record(Entry::Put {
            peer,
            number,
            items: in_all,
            // Bytes are shared, not copied.
            blocks: blocks.clone(),
        });
        self.coming += items;
        let arrived = Arrived {
            peer,
            number,
            prompt,
            blocks,
            items,
        };
        self.puts.push_back((entry, arrived));
    }

    /// What getters are done with.
    pub(super) fn note(&mut self, ledger: &mut Ledger) {
        let Some(pen) = &mut self.pen else {
            return;
        };
        let finished = ledger.take_finished();
        if !finished.is_empty() {
            let items = finished.iter().map(|one| u64::from(one.count)).sum();
            self.undone += items;
            self.done
                .push_back((pen.record(Entry::Done(finished)), items));
        }
    }

    /// A putter has left, or is gone.
    pub(super) fn left(&mut self, peer: PeerId) {
        if let Some(pen) = &mut self.pen {
            pen.record(Entry::Left(peer));
        }
    }

    /// It is shut down. The question is answered when that is written.
    pub(super) fn shut_down(&mut self, route: &[u8], number: u64) {
        if let Some(pen) = &mut self.pen {
            let entry = pen.record(Entry::Shut);
            self.answers.push_back((entry, route.to_vec(), number));
        }
    }

    /// It is empty, nobody is there, and it is forgotten.
    pub(super) fn forget(&mut self) {
        if let Some(pen) = &mut self.pen {
            pen.record(Entry::Gone);
        }
    }

    fn written(&self) -> u64 {
        self.pen.as_ref().map_or(0, Pen::written)
    }

    fn error(&self) -> Option<Error> {
        self.pen.as_ref().and_then(Pen::error)
    }
}

/// The front, if it is written.
fn due<T>(waiting: &mut VecDeque<(u64, T)>, written: u64) -> Option<T> {
    let (entry, _) = waiting.front()?;
    if *entry > written {
        return None;
    }
    waiting.pop_front().map(|(_, waits)| waits)
}

impl Host {
    /// What is written takes effect.
    pub(super) fn apply_kept(&mut self) {
        if !self.keeping.is_on() {
            return;
        }
        if let Some(error) = self.keeping.error() {
            self.error.get_or_insert(error);
        }
        let written = self.keeping.written();
        while let Some(arrived) = due(&mut self.keeping.puts, written) {
            self.keeping.coming -= arrived.items;
            for (origin, items, body) in arrived.blocks {
                self.ledger.put_block_of(body, items, origin, 0);
            }
            self.accepted(arrived.peer, arrived.number, arrived.prompt);
        }
        while let Some(items) = due(&mut self.keeping.done, written) {
            self.keeping.undone -= items;
        }
        while let Some((entry, ..)) = self.keeping.answers.front()
            && *entry <= written
            && let Some((_, route, number)) = self.keeping.answers.pop_front()
        {
            self.answer(&route, number);
        }
    }

    /// What a getter holds that an earlier life had given it is given out again: of that it shall show its program nothing more.
    pub(super) fn take_back_from_before(&self, route: &[u8], hello: &Hello) {
        if !self.keeping.is_on() {
            return;
        }
        let before = hello.held.iter().copied();
        let before: Vec<(TaskId, u32)> = before
            .filter(|&(id, _)| id < self.keeping.first_id)
            .collect();
        if !before.is_empty() {
            let revoke = TaskList {
                kind: kind::REVOKE,
                run: self.settings.run,
                tasks: before,
            };
            self.control.send_to(route, encode(&revoke));
        }
    }
}
