//! What the slots and the event loop share: tasks that wait for a slot, those that run, and what became of them.

use crate::hub::outside::Instant;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustc_hash::FxHashMap;

use crate::hub::outbox::Finished;
use crate::obituary::Obituary;
use crate::wire::body::Body;
use crate::wire::frame::TaskId;
use crate::wire::wake::Waker;

/// Tasks shorter than this are brief.
const BRIEF: Duration = Duration::from_millis(2);
/// While tasks are brief, the event loop looks so often for what they have done.
pub(super) const ROUND: Duration = Duration::from_millis(8);
/// So many results are not held back.
const MANY: usize = 256;

/// A task in a worker's hands.
#[derive(Debug)]
pub(crate) struct Assigned {
    pub(crate) id: TaskId,
    pub(crate) attempt: u32,
    pub(crate) tries_left: u32,
    pub(crate) body: Body,
    /// How earlier attempts at it ended.
    pub(crate) obituaries: Vec<Obituary>,
    /// Its place on its lane, from 1, and which lane that was.
    pub(crate) seq: u64,
    pub(crate) lane: u32,
}

/// What the slots and the event loop share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(super) inbox: Mutex<Inbox>,
    pub(super) ready: Condvar,
    pub(super) out: Mutex<Out>,
    pub(super) waker: Waker,
    pub(super) slots: u32,
    /// Mean duration of a task in nanoseconds, 0 before the first has ended.
    pub(super) mean: AtomicU64,
    /// Tasks to fetch ahead of each slot, whatever their length; 0: by their length.
    pub(crate) ahead: AtomicU64,
    pub(super) leave: AtomicBool,
    pub(super) kill: AtomicBool,
    pub(super) deserting: AtomicBool,
    /// Whether this process is about to be killed, and the ventilator knows.
    pub(super) doom: Mutex<Doom>,
    pub(super) doom_known: Condvar,
    /// All connections are to be dropped, as a test of what follows.
    pub(super) cut: AtomicBool,
    /// The ventilator is in this process: nobody could learn of a death of ours, so starts need not be told at once.
    pub(super) local: bool,
    pub(super) ran: AtomicU64,
}

#[derive(Debug, Default)]
pub(super) struct Inbox {
    pub(super) tasks: VecDeque<Assigned>,
    /// Taken by slots and not finished: task and attempt.
    pub(super) running: FxHashMap<TaskId, u32>,
    /// Nothing more will come.
    pub(super) ended: bool,
    /// Bytes of bodies that were taken up, of the present lane.
    pub(super) consumed: u64,
    pub(super) lane: u32,
    pub(super) waiting_slots: u32,
    /// The ventilator has nothing more for now: what is here is the last, unless somebody dies.
    pub(super) last: bool,
}

/// What a slot wants of the inbox.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Want {
    /// So many tasks at most.
    pub(crate) tasks: usize,
    /// Of so many bytes in all, but at least one task.
    pub(crate) bytes: u64,
    /// Waits no longer than this for the first.
    pub(crate) deadline: Option<Instant>,
    /// Nor when there are no more for now.
    pub(crate) until_last: bool,
}

/// An announcement that this process is about to be killed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Doom {
    #[default]
    None,
    ToBeSaid,
    Said,
    Known,
}

#[derive(Debug, Default)]
pub(super) struct Out {
    pub(super) finished: Vec<Finished>,
    pub(super) again: Vec<Finished>,
    pub(super) returned: Vec<(TaskId, u32)>,
}

impl Shared {
    /// For so many slots. `local`: the ventilator is in this process.
    pub(crate) fn new(waker: Waker, slots: u32, local: bool) -> Arc<Self> {
        Arc::new(Self {
            inbox: Mutex::default(),
            ready: Condvar::new(),
            out: Mutex::default(),
            waker,
            slots,
            mean: AtomicU64::new(0),
            ahead: AtomicU64::new(0),
            leave: AtomicBool::new(false),
            kill: AtomicBool::new(false),
            deserting: AtomicBool::new(false),
            doom: Mutex::new(Doom::None),
            doom_known: Condvar::new(),
            cut: AtomicBool::new(false),
            local,
            ran: AtomicU64::new(0),
        })
    }

    pub(super) fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn out(&self) -> MutexGuard<'_, Out> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tasks for one slot. Empty: the time for waiting is over. `None`: no more will come.
    pub(crate) fn take(&self, want: Want) -> Option<Vec<Assigned>> {
        let mut inbox = self.inbox();
        loop {
            if !inbox.tasks.is_empty() {
                // The others of us have slots too.
                let fair = inbox.tasks.len().div_ceil(self.slots as usize);
                let most = want.tasks.min(fair).max(1);
                let mut bytes = 0;
                let count = inbox
                    .tasks
                    .iter()
                    .take(most)
                    .take_while(|task| {
                        bytes += task.body.len();
                        bytes <= want.bytes
                    })
                    .count()
                    .max(1);
                let taken: Vec<Assigned> = inbox.tasks.drain(..count).collect();
                for task in &taken {
                    if task.lane == inbox.lane {
                        inbox.consumed += weight(&task.body);
                    }
                    inbox.running.insert(task.id, task.attempt);
                }
                drop(inbox);
                // What runs long is told at once, as a death must find told what had started; what is brief, at the loop's next
                // round.
                if !self.is_brisk() {
                    self.waker.wake();
                }
                return Some(taken);
            }
            if inbox.ended {
                return None;
            }
            if want.until_last && inbox.last {
                return Some(Vec::new());
            }
            inbox.waiting_slots += 1;
            inbox = match want.deadline {
                None => self
                    .ready
                    .wait(inbox)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        inbox.waiting_slots -= 1;
                        return Some(Vec::new());
                    }
                    self.ready
                        .wait_timeout(inbox, left)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
            };
            inbox.waiting_slots = inbox.waiting_slots.saturating_sub(1);
        }
    }

    /// How many tasks a slot should take at once: about a millisecond's worth.
    pub(crate) fn grain(&self) -> usize {
        match self.mean.load(Ordering::Relaxed) {
            0 => 1,
            mean => (1_000_000 / mean).clamp(1, 1024) as usize,
        }
    }

    /// Results of tasks that a slot had taken; those that failed with tries left are tried again instead.
    pub(crate) fn finish(&self, results: impl IntoIterator<Item = (Finished, u32)>) {
        let mut count = 0u32;
        let mut micros = 0u64;
        let mut ids = Vec::new();
        let mut many = false;
        {
            let mut out = self.out();
            for (result, tries_left) in results {
                count += 1;
                ids.push(result.id);
                micros = micros.saturating_add(result.micros);
                let failed = result.exit != 0 || result.signal != 0;
                if failed && self.deserting.load(Ordering::Relaxed) {
                    // Killed because we leave, not because nobody wants it: somebody else does it.
                    out.returned.push((result.id, result.attempt));
                } else if failed && tries_left > 0 && !self.kill.load(Ordering::Relaxed) {
                    out.again.push(result);
                } else {
                    out.finished.push(result);
                }
            }
            many |= out.finished.len() >= MANY;
        }
        if count == 0 {
            return;
        }
        self.ran.fetch_add(u64::from(count), Ordering::Relaxed);
        // A moving mean over about eight observations; a race between slots only loses one of them.
        let now = (micros * 1000 / u64::from(count)).max(100);
        let mean = match self.mean.load(Ordering::Relaxed) {
            0 => now,
            before => (before * 7 + now) / 8,
        };
        self.mean.store(mean.max(1), Ordering::Relaxed);
        let mut inbox = self.inbox();
        for id in ids {
            inbox.running.remove(&id);
        }
        let short = inbox.tasks.len() <= self.slots as usize;
        drop(inbox);
        if many || short || !self.is_brisk() {
            self.waker.wake();
        }
    }

    /// Whether brief tasks run now.
    pub(super) fn is_at_it(&self) -> bool {
        self.is_brisk() && !self.inbox().running.is_empty()
    }

    /// Whether tasks are so brief that to wake the event loop for each would cost more than they do: it then looks every
    /// [`ROUND`].
    pub(super) fn is_brisk(&self) -> bool {
        let mean = Duration::from_nanos(self.mean.load(Ordering::Relaxed));
        !mean.is_zero() && mean < BRIEF
    }

    pub(crate) fn leave(&self) {
        self.leave.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Leaves at once: what runs is killed, and done by somebody else.
    pub(crate) fn desert(&self) {
        self.deserting.store(true, Ordering::Release);
        self.kill();
    }

    /// Tells the ventilator that this process, or its connection, is about to be ended by somebody who means no task in it; whether it
    /// has heard that.
    pub(crate) fn announce_doom(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        let mut doom = self.doom.lock().unwrap_or_else(PoisonError::into_inner);
        *doom = Doom::ToBeSaid;
        self.waker.wake();
        while *doom != Doom::Known {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            doom = self
                .doom_known
                .wait_timeout(doom, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        true
    }

    /// Has all connections dropped, without a goodbye.
    pub(crate) fn cut(&self) {
        self.cut.store(true, Ordering::Release);
        self.waker.wake();
    }

    pub(crate) fn kill(&self) {
        self.kill.store(true, Ordering::Release);
        self.leave();
    }

    pub(crate) fn is_killed(&self) -> bool {
        self.kill.load(Ordering::Acquire)
    }

    pub(crate) const fn waker(&self) -> &Waker {
        &self.waker
    }

    /// Whether it was told to leave.
    pub(crate) fn is_leaving(&self) -> bool {
        self.leave.load(Ordering::Acquire)
    }

    /// A task for the slots, of a loop that has no lane.
    pub(crate) fn assign(&self, task: Assigned) {
        self.inbox().tasks.push_back(task);
        self.ready.notify_one();
    }

    /// No more tasks will come; `drop_rest`: those that no slot has taken are not to be run here.
    pub(crate) fn end(&self, drop_rest: bool) {
        let mut inbox = self.inbox();
        inbox.ended = true;
        if drop_rest {
            inbox.tasks.clear();
        }
        drop(inbox);
        self.ready.notify_all();
    }

    /// How many tasks are here, running or not.
    pub(crate) fn here(&self) -> u64 {
        let inbox = self.inbox();
        (inbox.tasks.len() + inbox.running.len()) as u64
    }

    /// What the slots have done since this was asked last: finished, to be tried again, and not done because we leave.
    pub(crate) fn take_out(&self) -> (Vec<Finished>, Vec<Finished>, Vec<(TaskId, u32)>) {
        let out = std::mem::take(&mut *self.out());
        (out.finished, out.again, out.returned)
    }

    pub(crate) fn ran(&self) -> u64 {
        self.ran.load(Ordering::Relaxed)
    }
}

/// What a body that was taken up gives back to the lane's byte credit, in bytes; one in a temporary file has given it back
/// when it was written there.
pub(in crate::hub) fn weight(body: &Body) -> u64 {
    match body {
        Body::File { .. } => 0,
        other => other.len(),
    }
}
