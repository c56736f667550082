//! What waits, what is leased to whom, and what is done.
//!
//! Pure: no socket, clock or thread. Events go in as calls with the time as an argument, decisions come out of
//! [`Ledger::actions`]. Whoever drives it sends what they say.
//!
//! ```text
//!            put                 lease                    acknowledge (of any attempt)
//!   input ────────► Waiting ──────────────► Leased ────────────────────────────────► done
//!                      ▲   returned, left,    │ holder died while it ran
//!                      └──── silent, again ───┤
//!                                             ▼
//!                      Waiting, suspect: leased next to a consumer that runs nothing else;
//!                      died so three times: Condemned, reported failed
//! ```

mod blocks;
mod holder;
#[cfg(test)]
pub(super) mod invariants;
mod leases;
mod membership;
mod results;
mod resumed;

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use rustc_hash::FxHashMap;

pub use holder::Consumer;

use super::task_table::TaskTable;
use crate::wire::body::Body;
use crate::wire::frame::{PeerId, TaskId};
use crate::wire::id_set::IdSet;

/// A task that kills its worker so often while it runs alone is given up, unless [`Ledger::set_deaths`] says otherwise.
pub const DEATHS_ALONE: u8 = 3;
/// How many tasks may be unfinished at once; under keep-order, how far ahead of the lowest unfinished task input is read.
pub const WINDOW: u64 = 16_384;
/// How many bytes of bodies may be in memory, in bytes.
pub const MEMORY: u64 = 12 << 20;
/// How many tasks are read ahead of all credit.
const AHEAD: u64 = 128;

/// Monotonic time since some start.
pub type Time = Duration;

/// What the ledger wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send these tasks on the consumer's lane, in this order.
    Lease {
        /// The consumer.
        to: PeerId,
        /// Task, attempt, tries left should this one fail.
        tasks: Vec<(TaskId, u32, u32)>,
    },
    /// Ask the consumer to give back those of these that it has not started.
    Revoke {
        /// The consumer.
        from: PeerId,
        /// Task and attempt.
        tasks: Vec<(TaskId, u32)>,
    },
    /// Report this task to the sink as failed: nobody survives it.
    Condemn {
        /// The task.
        id: TaskId,
        /// Its last attempt.
        attempt: u32,
        /// The consumer that died of it last.
        consumer: PeerId,
    },
}

/// An attempt at a task that had started when its consumer died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CutShort {
    /// The task.
    pub id: TaskId,
    /// The attempt.
    pub attempt: u32,
    /// The consumer.
    pub consumer: PeerId,
    /// How long it had had the task.
    pub held: Time,
}

/// Items of a queue that are done with: of which block as it was put, from which on, and how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finished {
    /// The block.
    pub origin: TaskId,
    /// The first of them.
    pub first: u32,
    /// How many.
    pub count: u32,
}

/// Why a consumer is no longer there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// Its process ended without a goodbye: what it had started is under suspicion.
    Died,
    /// It said goodbye, or is not heard: nobody's fault.
    Left,
}

#[derive(Debug)]
struct Task {
    body: Body,
    /// How many items of a queue it is a block of; 0 for what is one whole.
    items: u32,
    /// Which block as it was put they were cut out of, and its how manieth is the first of them: by that they are known where they
    /// are written down.
    origin: TaskId,
    first: u32,
    /// How many of these its holder's program has taken, and how many it is done with.
    taken: u32,
    done: u32,
    tries_left: u32,
    /// The number of its last lease, and the one by which its holder knows it: who comes back may hold an earlier one.
    attempt: u32,
    held_as: u32,
    state: State,
    deaths_near: u8,
    deaths_alone: u8,
    suspect: bool,
    /// When it was leased last.
    since: Time,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    Leased { to: PeerId, seq: u64, alone: bool },
    Condemned,
}

/// How many, for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Tasks with a result.
    pub done: u64,
    /// Those of them that failed.
    pub failed: u64,
    /// Leases beyond a task's first.
    pub again: u64,
    /// Microseconds that all kept attempts ran.
    pub micros: u64,
}

/// The record of a run.
#[derive(Debug)]
pub struct Ledger {
    tasks: TaskTable<Task>,
    /// Ids to be leased; those whose state is no longer `Waiting` are passed over.
    waiting: VecDeque<TaskId>,
    pub(super) waiting_count: u64,
    /// Waiting tasks that are under suspicion; the lowest goes first, as others may wait for it.
    pub(super) suspects: BTreeSet<TaskId>,
    pub(super) consumers: FxHashMap<PeerId, Consumer>,
    acked: IdSet,
    next_id: TaskId,
    /// The highest number put so far.
    highest: TaskId,
    /// Numbers below the next one may stand for tasks that an earlier life of the run knew and this one has not read yet.
    resumed: bool,
    /// Such tasks that a consumer says it holds.
    claims: FxHashMap<TaskId, (PeerId, u32)>,
    memory: u64,
    /// The largest body in memory so far.
    largest: u64,
    /// How many deaths alone a task is given up after; 0: after the first at which it had started.
    pub(super) deaths: u8,
    ordered: bool,
    ended: bool,
    halted: bool,
    pub(super) clock: Time,
    /// Somebody has nothing, and what others hold may be taken back before long.
    pub(super) undecided: bool,
    totals: Totals,
    /// Items of blocks: how many were put, taken by a program, and done with.
    items_put: u64,
    items_taken: u64,
    items_done: u64,
    /// Whether it is noted which items are done with, and those since somebody asked last.
    notes: bool,
    finished: Vec<Finished>,
    pub(super) actions: Vec<Action>,
    cut_short: Vec<CutShort>,
}

impl Default for Ledger {
    fn default() -> Self {
        Self::new()
    }
}

impl Ledger {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self {
            tasks: TaskTable::default(),
            waiting: VecDeque::new(),
            waiting_count: 0,
            suspects: BTreeSet::new(),
            consumers: FxHashMap::default(),
            acked: IdSet::new(),
            next_id: 1,
            highest: 0,
            resumed: false,
            claims: FxHashMap::default(),
            memory: 0,
            largest: 0,
            deaths: DEATHS_ALONE,
            ordered: false,
            ended: false,
            halted: false,
            clock: Time::ZERO,
            undecided: false,
            totals: Totals::default(),
            items_put: 0,
            items_taken: 0,
            items_done: 0,
            notes: false,
            finished: Vec::new(),
            actions: Vec::new(),
            cut_short: Vec::new(),
        }
    }

    // ---- the input ----

    /// Adds the next task; its id.
    pub fn put(&mut self, body: Body, tries: u32) -> TaskId {
        let id = self.add(body, tries, 0);
        self.waiting.push_back(id);
        self.waiting_count += 1;
        id
    }

    /// Adds the next task as a suspect: it is leased to a consumer that runs nothing else.
    pub fn put_alone(&mut self, body: Body, tries: u32) -> TaskId {
        let id = self.add(body, tries, 0);
        if let Some(task) = self.tasks.get_mut(id) {
            task.suspect = true;
        }
        self.suspects.insert(id);
        self.waiting_count += 1;
        id
    }

    fn add(&mut self, body: Body, tries: u32, items: u32) -> TaskId {
        let id = self.next_id;
        self.add_as(id, body, tries, items);
        id
    }

    fn add_as(&mut self, id: TaskId, body: Body, tries: u32, items: u32) {
        self.next_id = self.next_id.max(id.saturating_add(1));
        self.highest = self.highest.max(id);
        self.memory += body.in_memory() as u64;
        self.largest = self.largest.max(body.in_memory() as u64);
        self.tasks.insert(
            id,
            Task {
                body,
                items,
                origin: 0,
                first: 0,
                taken: 0,
                done: 0,
                tries_left: tries.saturating_sub(1),
                attempt: 0,
                held_as: 0,
                state: State::Waiting,
                deaths_near: 0,
                deaths_alone: 0,
                suspect: false,
                since: Time::ZERO,
            },
        );
    }

    /// How many tasks more may be put now: enough to use all credit, and no more than may be unfinished.
    #[must_use]
    pub fn room(&self) -> u64 {
        if self.ended || self.halted {
            return 0;
        }
        // Large tasks: what keeps every slot busy, one more each on its way.
        let slots: u64 = self.consumers.values().map(|c| u64::from(c.slots)).sum();
        if self.memory >= MEMORY.max(self.largest.saturating_mul(2 * slots + 2)) {
            return 0;
        }
        let unfinished = if self.ordered {
            let lowest = self.acked.first_missing(1);
            if self.is_unread(lowest) {
                // It must be read before anything else can end, wherever it stands in the input now.
                0
            } else {
                (self.highest + 1).saturating_sub(lowest)
            }
        } else {
            self.tasks.len() as u64
        };
        let credit: u64 = self.consumers.values().map(Consumer::credit).sum();
        (credit.saturating_mul(2) + AHEAD)
            .saturating_sub(self.waiting_count)
            .min(WINDOW.saturating_sub(unfinished))
    }

    /// Whether somebody could run tasks now and has none.
    #[must_use]
    pub fn is_starving(&self) -> bool {
        self.waiting_count == 0
            && self
                .consumers
                .values()
                .any(|consumer| consumer.credit() > 0 && consumer.idle_slots() > 0)
    }

    /// After how many deaths alone a task is given up (3); 0: after the first at which it had started.
    pub fn set_deaths(&mut self, deaths: u8) {
        self.deaths = deaths;
    }

    /// Whether [`deal`](Self::deal) is to be called again before long, even if nothing comes.
    #[must_use]
    pub const fn is_undecided(&self) -> bool {
        self.undecided
    }

    /// There will be no more tasks.
    pub fn end(&mut self) {
        self.ended = true;
    }

    /// Whether [`end`](Self::end) was called.
    #[must_use]
    pub const fn has_ended(&self) -> bool {
        self.ended
    }

    /// Hand out no more, and take back what has not started.
    pub fn halt(&mut self) {
        if !std::mem::replace(&mut self.halted, true) {
            let all: Vec<PeerId> = self.consumers.keys().copied().collect();
            for consumer in all {
                self.revoke(consumer, usize::MAX);
            }
        }
    }

    /// Nobody may run further ahead of the lowest unfinished task than the window.
    pub fn set_ordered(&mut self, ordered: bool) {
        self.ordered = ordered;
    }

    /// Whether nothing is left to do: every task has a result, or, when halted, nothing is leased.
    #[must_use]
    pub fn is_over(&self) -> bool {
        if self.halted {
            let condemned = self
                .tasks
                .values()
                .any(|task| task.state == State::Condemned);
            !condemned && self.consumers.values().all(|consumer| consumer.leases == 0)
        } else {
            self.ended && self.tasks.is_empty()
        }
    }

    // ---- what can be seen ----

    /// Takes the decisions made since this was called last.
    pub fn actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// Takes the attempts that ended with their consumers since this was called last.
    pub fn cut_short(&mut self) -> Vec<CutShort> {
        std::mem::take(&mut self.cut_short)
    }

    /// A task's body, while the task has no result.
    #[must_use]
    pub fn body(&self, id: TaskId) -> Option<&Body> {
        self.tasks.get(id).map(|task| &task.body)
    }

    /// The tasks that have a result.
    #[must_use]
    pub const fn acked(&self) -> &IdSet {
        &self.acked
    }

    /// A consumer.
    #[must_use]
    pub fn consumer(&self, peer: PeerId) -> Option<&Consumer> {
        self.consumers.get(&peer)
    }

    /// All consumers that are there, the silent ones too.
    pub fn consumers(&self) -> impl Iterator<Item = (PeerId, &Consumer)> {
        self.consumers
            .iter()
            .map(|(&peer, consumer)| (peer, consumer))
    }

    /// How many.
    #[must_use]
    pub const fn totals(&self) -> Totals {
        self.totals
    }

    /// Tasks put and not leased.
    #[must_use]
    pub const fn waiting(&self) -> u64 {
        self.waiting_count
    }

    /// Tasks put, in earlier lives of the run too.
    #[must_use]
    pub fn put_in_all(&self) -> u64 {
        if self.resumed {
            self.acked.len() + self.tasks.len() as u64
        } else {
            self.next_id - 1
        }
    }

    /// Tasks leased.
    #[must_use]
    pub fn leased(&self) -> u64 {
        self.consumers
            .values()
            .map(|consumer| consumer.leases as u64)
            .sum()
    }

    /// Whether [`halt`](Self::halt) was called.
    #[must_use]
    pub const fn is_halted(&self) -> bool {
        self.halted
    }

    /// How many tries a task has left beyond the present one.
    #[must_use]
    pub fn tries_left(&self, id: TaskId) -> u32 {
        self.tasks.get(id).map_or(0, |task| task.tries_left)
    }

    /// The attempt under which a task was leased last.
    #[must_use]
    pub fn attempt(&self, id: TaskId) -> u32 {
        self.tasks.get(id).map_or(0, |task| task.attempt)
    }
}
