//! Who holds leases: one consumer as the ledger sees it.

use std::collections::VecDeque;

use super::{State, Task, Time, Totals};
use crate::wire::frame::{PeerId, TaskId};

/// How long nobody is asked again who has handed back what it was sent.
const PAUSE: Time = Time::from_millis(100);

/// One consumer as the ledger sees it.
#[derive(Debug)]
pub struct Consumer {
    pub(in crate::hub) slots: u32,
    /// Tasks and bytes that may have been sent in all, and that were.
    pub(in crate::hub) tasks_limit: u64,
    pub(in crate::hub) bytes_limit: u64,
    pub(in crate::hub) sent_tasks: u64,
    pub(in crate::hub) sent_bytes: u64,
    /// Tasks of the lane up to this one were started or handed back.
    pub(in crate::hub) taken: u64,
    pub(in crate::hub) running: u32,
    /// Leases in the order of the lane, each with its place there, from 1 (that of its last item); 0 for those from before the
    /// lane. Entries of tasks that are no longer leased here stay until they are swept.
    pub(super) lane: VecDeque<(u64, TaskId)>,
    pub(in crate::hub) leases: usize,
    /// Its lane is connected and it has said what it can take.
    pub(in crate::hub) ready: bool,
    /// Not heard for too long: it holds nothing, and gets nothing before it says hello again.
    pub(in crate::hub) silent: bool,
    /// Kept free, or being emptied, for a suspect.
    pub(in crate::hub) apart: bool,
    /// It runs a suspect and nothing else.
    pub(in crate::hub) alone: bool,
    /// Was asked for tasks back and has not answered.
    pub(in crate::hub) revoking: bool,
    /// Holds a task beyond its credit.
    pub(super) reserved: Option<TaskId>,
    pub(super) last_heard: Time,
    /// When it handed something back that nobody had asked for, as one that leaves does.
    pub(super) handed_back: Option<Time>,
    /// When it took something of a queue's last, or got something while it had nothing.
    pub(in crate::hub) moved: Time,
    pub(super) relay: Vec<(TaskId, u64)>,
    pub(super) done: u64,
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

    /// Whether it runs a suspect and nothing else, as far as it has said: the last that it was sent.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.alone && self.is_busy()
    }

    /// Whether it may be sent a task beyond its credit: not at once to one that has just handed one back.
    pub(in crate::hub) fn takes_more(&self, now: Time) -> bool {
        let lately = self.handed_back.is_some_and(|at| now < at + PAUSE);
        self.ready && !self.silent && !lately
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

impl Consumer {
    pub(super) fn take_on(
        &mut self,
        peer: PeerId,
        id: TaskId,
        task: &mut Task,
        alone: bool,
        totals: &mut Totals,
    ) -> (TaskId, u32, u32) {
        self.sent_tasks += task.weight();
        self.sent_bytes += task.body.len();
        task.attempt += 1;
        task.held_as = task.attempt;
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
    pub(super) fn release(&mut self, id: TaskId) {
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
