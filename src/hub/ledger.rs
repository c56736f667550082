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

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use rustc_hash::{FxHashMap, FxHashSet};

use super::task_table::TaskTable;
use crate::wire::body::Body;
use crate::wire::frame::{Kept, PeerId, TaskId};
use crate::wire::id_set::IdSet;

/// A task that kills its worker so often while it runs alone is given up.
pub const DEATHS_ALONE: u8 = 3;
/// A task that was leased at so many deaths, started or not, is a suspect too: the word that it had started may have died
/// with its worker.
const DEATHS_NEAR: u8 = 2;
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
    tries_left: u32,
    attempt: u32,
    state: State,
    deaths_near: u8,
    deaths_alone: u8,
    suspect: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    Leased { to: PeerId, seq: u64, alone: bool },
    Condemned,
}

/// One consumer as the ledger sees it.
#[derive(Debug)]
pub struct Consumer {
    pub(super) slots: u32,
    /// Tasks and bytes that may have been sent in all, and that were.
    pub(super) tasks_limit: u64,
    pub(super) bytes_limit: u64,
    pub(super) sent_tasks: u64,
    pub(super) sent_bytes: u64,
    /// Tasks of the lane up to this one were started or handed back.
    pub(super) taken: u64,
    pub(super) running: u32,
    /// Leases in the order of the lane, each with its place there, from 1; 0 for those from before the lane. Entries of
    /// tasks that are no longer leased here stay until they are swept.
    lane: VecDeque<(u64, TaskId)>,
    pub(super) leases: usize,
    /// Its lane is connected and it has said what it can take.
    pub(super) ready: bool,
    /// Not heard for too long: it holds nothing, and gets nothing before it says hello again.
    pub(super) silent: bool,
    /// Kept free, or being emptied, for a suspect.
    pub(super) apart: bool,
    /// It runs a suspect and nothing else.
    pub(super) alone: bool,
    /// Was asked for tasks back and has not answered.
    pub(super) revoking: bool,
    /// Holds a task beyond its credit.
    reserved: Option<TaskId>,
    last_heard: Time,
    relay: Vec<(TaskId, u64)>,
    done: u64,
}

impl Consumer {
    /// How many tasks more it may be sent.
    #[must_use]
    pub fn credit(&self) -> u64 {
        if self.ready && !self.silent && self.sent_bytes < self.bytes_limit {
            self.tasks_limit.saturating_sub(self.sent_tasks)
        } else {
            0
        }
    }

    /// Tasks sent that it has not taken up; those that were handed back count until it has passed them.
    #[must_use]
    pub const fn ahead(&self) -> u64 {
        self.sent_tasks.saturating_sub(self.taken)
    }

    /// Slots for which nothing is running or under way.
    #[must_use]
    pub fn idle_slots(&self) -> u64 {
        u64::from(self.slots.saturating_sub(self.running)).saturating_sub(self.ahead())
    }

    /// Tasks sent beyond what its slots can start now.
    #[must_use]
    pub fn queued(&self) -> u64 {
        self.ahead()
            .saturating_sub(u64::from(self.slots.saturating_sub(self.running)))
    }

    /// Whether something runs there or is on its way. Results that wait for their acknowledgement are no work: under keep-order
    /// they may wait for the very task that shall come next.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.running > 0 || self.ahead() > 0
    }

    /// Leases held: sent and not acknowledged.
    #[must_use]
    pub const fn leases(&self) -> usize {
        self.leases
    }

    /// Tasks that run there, as far as it has said.
    #[must_use]
    pub const fn running(&self) -> u32 {
        self.running
    }

    /// Tasks of it whose results were kept.
    #[must_use]
    pub const fn done(&self) -> u64 {
        self.done
    }

    /// Whether it is not heard.
    #[must_use]
    pub const fn is_silent(&self) -> bool {
        self.silent
    }
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
    memory: u64,
    /// The largest body in memory so far.
    largest: u64,
    ordered: bool,
    ended: bool,
    halted: bool,
    totals: Totals,
    pub(super) actions: Vec<Action>,
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
            memory: 0,
            largest: 0,
            ordered: false,
            ended: false,
            halted: false,
            totals: Totals::default(),
            actions: Vec::new(),
        }
    }

    // ---- the input ----

    /// Adds the next task; its id.
    pub fn put(&mut self, body: Body, tries: u32) -> TaskId {
        let id = self.next_id;
        self.next_id += 1;
        self.memory += body.in_memory() as u64;
        self.largest = self.largest.max(body.in_memory() as u64);
        self.tasks.insert(
            id,
            Task {
                body,
                tries_left: tries.saturating_sub(1),
                attempt: 0,
                state: State::Waiting,
                deaths_near: 0,
                deaths_alone: 0,
                suspect: false,
            },
        );
        self.waiting.push_back(id);
        self.waiting_count += 1;
        id
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
            self.next_id - self.acked.first_missing(1)
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

    // ---- consumers ----

    /// A consumer says hello, for the first time or again; `held` is what it holds.
    pub fn join(&mut self, peer: PeerId, slots: u32, held: &[(TaskId, u32)], now: Time) {
        let mut lane = VecDeque::new();
        let mut relay = Vec::new();
        let mut revoked = Vec::new();
        let before = self.consumers.remove(&peer);
        let done = before.as_ref().map_or(0, |consumer| consumer.done);
        let mut still_held = FxHashSet::default();
        for &(id, attempt) in held {
            if !still_held.insert(id) {
                continue;
            }
            match self.tasks.get_mut(id) {
                None if id < self.next_id => push_range(&mut relay, id, 1),
                None => {}
                Some(task) => match task.state {
                    State::Leased { to, .. } if to != peer => revoked.push((id, attempt)),
                    State::Condemned => revoked.push((id, attempt)),
                    state => {
                        if state == State::Waiting {
                            self.waiting_count -= 1;
                            self.suspects.remove(&id);
                        }
                        task.attempt = task.attempt.max(attempt);
                        task.state = State::Leased {
                            to: peer,
                            seq: 0,
                            alone: false,
                        };
                        lane.push_back((0, id));
                    }
                },
            }
        }
        if let Some(before) = before {
            // What was on its way to it and never arrived.
            self.hand_on(peer, &before, Gone::Left, |seq, id| {
                seq != 0 || !still_held.contains(&id)
            });
        }
        let leases = lane.len();
        self.consumers.insert(
            peer,
            Consumer {
                slots: slots.max(1),
                tasks_limit: 0,
                bytes_limit: 0,
                sent_tasks: 0,
                sent_bytes: 0,
                taken: 0,
                running: 0,
                lane,
                leases,
                ready: false,
                silent: false,
                apart: false,
                alone: false,
                revoking: false,
                reserved: None,
                last_heard: now,
                relay,
                done,
            },
        );
        if !revoked.is_empty() {
            self.actions.push(Action::Revoke {
                from: peer,
                tasks: revoked,
            });
        }
    }

    /// What a consumer can take and does.
    pub fn credit(&mut self, peer: PeerId, tasks: u64, bytes: u64, taken: u64, running: u32) {
        if let Some(consumer) = self.consumers.get_mut(&peer) {
            consumer.ready = true;
            // Taken as said: who is about to leave says less than before.
            consumer.tasks_limit = tasks;
            consumer.bytes_limit = bytes;
            consumer.taken = consumer.taken.max(taken).min(consumer.sent_tasks);
            consumer.running = running;
        }
    }

    /// A message of this consumer's arrived. `false`: it is not known here, or was given up, and must say hello again.
    pub fn heard(&mut self, peer: PeerId, now: Time) -> bool {
        match self.consumers.get_mut(&peer) {
            Some(consumer) => {
                consumer.last_heard = now;
                !consumer.silent
            }
            None => false,
        }
    }

    /// Gives up those who were not heard since `now - patience`; who they are.
    pub fn give_up_silent(&mut self, now: Time, patience: Duration) -> Vec<PeerId> {
        let silent: Vec<PeerId> = self
            .consumers
            .iter()
            .filter(|(_, c)| !c.silent && now.saturating_sub(c.last_heard) > patience)
            .map(|(&peer, _)| peer)
            .collect();
        for &peer in &silent {
            if let Some(mut consumer) = self.consumers.remove(&peer) {
                self.hand_on(peer, &consumer, Gone::Left, |_, _| true);
                consumer.lane.clear();
                consumer.leases = 0;
                consumer.running = 0;
                consumer.silent = true;
                consumer.apart = false;
                consumer.alone = false;
                consumer.revoking = false;
                consumer.reserved = None;
                self.consumers.insert(peer, consumer);
            }
        }
        silent
    }

    /// Our own clock stood still for so long (the machine slept): nobody's silence counts for that time.
    pub fn slept(&mut self, time: Duration) {
        for consumer in self.consumers.values_mut() {
            consumer.last_heard += time;
        }
    }

    /// A consumer is gone for good.
    pub fn gone(&mut self, peer: PeerId, why: Gone) {
        if let Some(consumer) = self.consumers.remove(&peer) {
            self.hand_on(peer, &consumer, why, |_, _| true);
        }
    }

    /// Puts the leases of a lost lane to the head of the queue, in their order, or under suspicion.
    fn hand_on(
        &mut self,
        peer: PeerId,
        consumer: &Consumer,
        why: Gone,
        which: impl Fn(u64, TaskId) -> bool,
    ) {
        for &(seq, id) in consumer.lane.iter().rev() {
            if !which(seq, id) {
                continue;
            }
            let Some(task) = self.tasks.get_mut(id) else {
                continue;
            };
            let State::Leased {
                to,
                seq: held,
                alone,
            } = task.state
            else {
                continue;
            };
            if to != peer || held != seq {
                continue;
            }
            if why == Gone::Died {
                task.deaths_near = task.deaths_near.saturating_add(1);
                if alone {
                    task.deaths_alone += 1;
                    if task.deaths_alone >= DEATHS_ALONE {
                        task.state = State::Condemned;
                        self.actions.push(Action::Condemn {
                            id,
                            attempt: task.attempt,
                            consumer: peer,
                        });
                        continue;
                    }
                }
                if seq <= consumer.taken || task.deaths_near >= DEATHS_NEAR {
                    task.suspect = true;
                }
            }
            task.state = State::Waiting;
            self.waiting_count += 1;
            if task.suspect {
                self.suspects.insert(id);
            } else {
                self.waiting.push_front(id);
            }
        }
    }

    // ---- leases ----

    /// Leases up to `count` waiting tasks to `peer`, within its byte credit.
    pub(super) fn lease(&mut self, peer: PeerId, count: u64) -> u64 {
        let Some(consumer) = self.consumers.get_mut(&peer) else {
            return 0;
        };
        let mut tasks = Vec::new();
        while (tasks.len() as u64) < count
            && (consumer.sent_bytes < consumer.bytes_limit || consumer.leases == 0)
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
            self.waiting_count -= 1;
            tasks.push(consumer.take_on(peer, id, task, false, &mut self.totals));
        }
        let leased = tasks.len() as u64;
        if leased > 0 {
            self.actions.push(Action::Lease { to: peer, tasks });
        }
        leased
    }

    /// Leases the next suspect to `peer`, which holds nothing.
    pub(super) fn lease_suspect(&mut self, peer: PeerId) -> bool {
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
            self.waiting_count -= 1;
            consumer.apart = true;
            consumer.alone = true;
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
    pub(super) fn lease_reserved(&mut self) {
        if !self.ordered || self.waiting_count == 0 {
            return;
        }
        let lowest = self.acked.first_missing(1);
        let blocked = self
            .tasks
            .get(lowest)
            .is_some_and(|task| task.state == State::Waiting && !task.suspect);
        if !blocked || self.waiting.front() != Some(&lowest) {
            return;
        }
        let freest = self
            .consumers
            .iter()
            .filter(|(_, c)| c.ready && !c.silent && !c.apart && c.reserved.is_none())
            .min_by_key(|(peer, c)| (c.ahead() + u64::from(c.running), **peer))
            .map(|(&peer, _)| peer);
        if let Some(peer) = freest
            && self.lease(peer, 1) == 1
            && let Some(consumer) = self.consumers.get_mut(&peer)
        {
            consumer.reserved = Some(lowest);
        }
    }

    /// Asks `peer` for up to `count` tasks back, from the end of its lane.
    pub(super) fn revoke(&mut self, peer: PeerId, count: usize) {
        let unstarted = self.unstarted(peer);
        let Some(consumer) = self.consumers.get_mut(&peer) else {
            return;
        };
        if consumer.revoking || consumer.silent {
            return;
        }
        let tasks: Vec<(TaskId, u32)> = unstarted.into_iter().take(count).collect();
        if !tasks.is_empty() {
            consumer.revoking = true;
            self.actions.push(Action::Revoke { from: peer, tasks });
        }
    }

    /// What a consumer holds and has not started as far as we know, the last of its lane first.
    pub(super) fn unstarted(&self, peer: PeerId) -> Vec<(TaskId, u32)> {
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
                    .then_some((id, task.attempt))
            })
            .collect()
    }

    /// A consumer gives back tasks that it had not started. It is no attempt.
    pub fn returned(&mut self, peer: PeerId, tasks: &[(TaskId, u32)]) {
        let mut tasks = tasks.to_vec();
        tasks.sort_unstable();
        for &(id, attempt) in tasks.iter().rev() {
            self.withdraw(peer, id, attempt);
        }
        if let Some(consumer) = self.consumers.get_mut(&peer) {
            consumer.revoking = false;
        }
    }

    /// A lease ends as if it had never been given.
    pub fn withdraw(&mut self, peer: PeerId, id: TaskId, attempt: u32) {
        if self.take_from(peer, id, attempt)
            && let Some(task) = self.tasks.get_mut(id)
        {
            task.attempt = task.attempt.saturating_sub(1);
            if task.attempt > 0 {
                self.totals.again = self.totals.again.saturating_sub(1);
            }
        }
    }

    /// A lease ends that never went out. The consumer counts what arrives, so this one does not count on its lane, and those
    /// behind it move up; otherwise its credit would be lost for good.
    pub fn recall(&mut self, peer: PeerId, id: TaskId, attempt: u32) {
        let sent = self.tasks.get(id).and_then(|task| match task.state {
            State::Leased { to, seq, .. } if to == peer && task.attempt == attempt && seq != 0 => {
                Some((seq, task.body.len()))
            }
            _ => None,
        });
        self.withdraw(peer, id, attempt);
        let (Some((place, bytes)), Some(consumer)) = (sent, self.consumers.get_mut(&peer)) else {
            return;
        };
        consumer.sent_tasks = consumer.sent_tasks.saturating_sub(1);
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
                        *held -= 1
                    }
                    _ => {}
                }
            }
            *seq -= 1;
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
            State::Leased { to, .. } if to == peer && task.attempt == attempt => {}
            _ => return false,
        }
        task.state = State::Waiting;
        self.waiting_count += 1;
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

    // ---- results ----

    /// The sink has kept these results. Of whichever attempt: the first one kept wins.
    pub fn acknowledge(&mut self, kept: &Kept) {
        let end = kept.first.saturating_add(kept.count).min(self.next_id);
        let mut fresh = 0;
        for id in kept.first..end {
            let Some(task) = self.tasks.remove(id) else {
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
                    self.waiting_count -= 1;
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
            self.totals.micros += kept.micros;
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

    // ---- what can be seen ----

    /// Takes the decisions made since this was called last.
    pub fn actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
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

    /// Tasks put.
    #[must_use]
    pub const fn put_in_all(&self) -> u64 {
        self.next_id - 1
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

    /// The attempt under which a task was leased last.
    #[must_use]
    pub fn attempt(&self, id: TaskId) -> u32 {
        self.tasks.get(id).map_or(0, |task| task.attempt)
    }
}

impl Consumer {
    fn take_on(
        &mut self,
        peer: PeerId,
        id: TaskId,
        task: &mut Task,
        alone: bool,
        totals: &mut Totals,
    ) -> (TaskId, u32, u32) {
        self.sent_tasks += 1;
        self.sent_bytes += task.body.len();
        task.attempt += 1;
        if task.attempt > 1 {
            totals.again += 1;
        }
        task.state = State::Leased {
            to: peer,
            seq: self.sent_tasks,
            alone,
        };
        self.lane.push_back((self.sent_tasks, id));
        self.leases += 1;
        (id, task.attempt, task.tries_left)
    }

    /// One lease fewer.
    fn release(&mut self, id: TaskId) {
        self.leases = self.leases.saturating_sub(1);
        if self.reserved == Some(id) {
            self.reserved = None;
        }
        if self.leases == 0 {
            self.lane.clear();
        } else if self.lane.front().is_some_and(|&(_, first)| first == id) {
            self.lane.pop_front();
        }
    }

    pub(super) fn lane_needs_sweep(&self) -> bool {
        self.lane.len() > 2 * self.leases + 1024
    }
}

impl Ledger {
    /// Forgets lane entries of tasks that ended, so that one long task in front does not keep millions of them.
    pub(super) fn sweep(&mut self) {
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

/// Adds ids to a list of ranges.
pub(crate) fn push_range(ranges: &mut Vec<(TaskId, u64)>, first: TaskId, count: u64) {
    match ranges.last_mut() {
        Some((start, len)) if *start + *len == first => *len += count,
        _ => ranges.push((first, count)),
    }
}
