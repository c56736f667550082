//! One call of `map`, `apply` and the like: what of it has come back, and who waits for that.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::de::DeserializeOwned;

use super::chunk::{Fault, Manner, Results, kind};
use super::pace::Pace;
use crate::error::{Error, Result};
use crate::wait::Subscribers;

/// How a job's calls are made, and what is done about those that fail.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    /// The task's name.
    pub(super) task: &'static str,
    pub(super) manner: Manner,
    /// How often a call is made again because its worker died.
    pub(super) retries: u32,
    /// Whether one that took longer than its limit is made again as well.
    pub(super) retry_timed_out: bool,
}

/// What came back for some calls that follow one another.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    /// The first of them, counted from 0.
    pub(super) first: u64,
    pub(super) calls: u32,
    pub(super) what: What,
}

/// What came back.
#[derive(Clone, Debug)]
pub(super) enum What {
    /// A result as it arrived; see [`chunk`](super::chunk).
    Result(Bytes),
    /// None of them has a value, for this reason.
    Lost(Lost),
}

/// Why a call has no value, when it is not for its worker to say.
#[derive(Clone, Debug)]
pub(super) enum Lost {
    /// Its worker died, and too often.
    Died {
        pid: u32,
        host: String,
        how: String,
        attempt: u32,
    },
    /// Its arguments cannot be encoded, or its bytes were lost on the way.
    Bytes(String),
}

/// Why there will be nothing more of a pool, for all who wait.
#[derive(Clone, Debug)]
pub(super) enum End {
    Ended(String),
    Start { why: String },
    Nobody { endpoint: String, waited: Duration },
}

impl End {
    pub(super) fn error(&self) -> Error {
        match self {
            Self::Ended(why) => Error::Ended(why.clone()),
            Self::Start { why } => Error::PoolStart { why: why.clone() },
            Self::Nobody { endpoint, waited } => Error::NobodyThere {
                who: "pool",
                endpoint: endpoint.clone(),
                waited: *waited,
                advice: format!(
                    "no worker is there: start one with Pool::worker(\"{endpoint}\"), or wait longer with PoolBuilder::patience"
                ),
            },
        }
    }
}

/// What to do when a job is complete.
pub(super) type OnDone = Box<dyn FnOnce(&Arc<Job>) + Send>;

pub(super) struct Job {
    pub(super) rules: Rules,
    state: Mutex<State>,
    changed: Condvar,
    /// Those who wait for this and other things at once.
    pub(super) subscribers: Subscribers,
}

struct State {
    arrived: VecDeque<Segment>,
    /// Calls handed in and not come back, and the bytes of their arguments.
    calls: u64,
    bytes: u64,
    /// Calls that came back, and the bytes of their results.
    done: u64,
    result_bytes: u64,
    /// Calls whose results nobody has taken yet.
    here: u64,
    /// How many there are in all, once that is known.
    total: Option<u64>,
    failed: bool,
    end: Option<End>,
    pace: Pace,
    /// Somebody waits until no more than so many calls are under way.
    wake_at: Option<u64>,
    on_done: Option<OnDone>,
    /// Nobody wants the results.
    abandoned: bool,
}

/// What is under way, and how much more may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    pub(super) calls: u64,
    pub(super) bytes: u64,
    pub(super) window: u64,
    /// Calls that came back and whose results were not taken.
    pub(super) here: u64,
    /// Bytes of a call's result, on the average.
    pub(super) result: u64,
}

impl Job {
    pub(super) fn new(rules: Rules, chunksize: Option<u32>, on_done: Option<OnDone>) -> Arc<Self> {
        Arc::new(Self {
            rules,
            state: Mutex::new(State {
                arrived: VecDeque::new(),
                calls: 0,
                bytes: 0,
                done: 0,
                result_bytes: 0,
                here: 0,
                total: None,
                failed: false,
                end: None,
                pace: Pace::new(chunksize),
                wake_at: None,
                on_done,
                abandoned: false,
            }),
            changed: Condvar::new(),
            subscribers: Subscribers::default(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // ---- who hands in ----

    pub(super) fn room(&self, workers: u32) -> Room {
        let state = self.state();
        Room {
            calls: state.calls,
            bytes: state.bytes,
            window: state.pace.window(workers),
            here: state.here,
            result: state.result_bytes.checked_div(state.done).unwrap_or(0),
        }
    }

    /// Calls in the next chunk.
    pub(super) fn chunk(&self, left: Option<u64>, workers: u32) -> u32 {
        self.state().pace.chunk(left, workers)
    }

    pub(super) fn handed_in(&self, calls: u64, bytes: u64) {
        let mut state = self.state();
        state.calls += calls;
        state.bytes += bytes;
    }

    /// There are so many calls in all.
    pub(super) fn set_total(self: &Arc<Self>, total: u64) {
        let mut state = self.state();
        state.total = Some(total);
        self.announce(state);
    }

    /// Nobody wants what is still to come.
    pub(super) fn abandon(&self) {
        let mut state = self.state();
        state.abandoned = true;
        state.here = 0;
        state.arrived.clear();
    }

    // ---- who gathers ----

    /// Some calls came back, or are handed in anew: `calls` and `bytes` fewer are under way.
    pub(super) fn came_back(
        self: &Arc<Self>,
        segments: impl IntoIterator<Item = Segment>,
        fewer: Fewer,
    ) {
        let mut state = self.state();
        state.calls = state.calls.saturating_sub(fewer.calls);
        state.bytes = state.bytes.saturating_sub(fewer.bytes);
        state.failed |= fewer.failed;
        state.pace.observe(fewer.measured, fewer.time);
        for segment in segments {
            state.done += u64::from(segment.calls);
            match &segment.what {
                What::Lost(_) => state.failed = true,
                What::Result(bytes) => state.result_bytes += bytes.len() as u64,
            }
            if !state.abandoned {
                state.here += u64::from(segment.calls);
                state.arrived.push_back(segment);
            }
        }
        self.announce(state);
    }

    /// The pool has ended: nothing more will come.
    pub(super) fn end(self: &Arc<Self>, end: &End) {
        let mut state = self.state();
        if !state.is_complete() {
            state.end.get_or_insert_with(|| end.clone());
        }
        self.announce(state);
    }

    fn announce(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        let over = state.is_over();
        let wake = state.wake_at.is_some_and(|at| over || state.calls <= at);
        let on_done = if over { state.on_done.take() } else { None };
        drop(state);
        if wake {
            self.changed.notify_all();
        }
        if over {
            self.subscribers.wake();
        }
        if let Some(call) = on_done {
            call(self);
        }
    }

    // ---- who waits ----

    /// What has arrived since it was asked last; waits until no more than `most` calls are under way, or all are done, but not if
    /// something is there and `any` is enough. Empty when all was given, or the deadline has passed.
    pub(super) fn take(
        &self,
        most: u64,
        any: bool,
        deadline: Option<Instant>,
    ) -> VecDeque<Segment> {
        let mut state = self.state();
        loop {
            let enough = state.calls <= most || (any && !state.arrived.is_empty());
            if enough || state.is_over() {
                return state.take_arrived();
            }
            // Of several who wait each sees what it waits for: whoever wants less decides when they are woken.
            let at = if any { u64::MAX } else { most };
            state.wake_at = Some(state.wake_at.map_or(at, |before| before.max(at)));
            let (again, late) = self.wait(state, deadline);
            state = again;
            if late {
                return state.take_arrived();
            }
            state.wake_at = None;
        }
    }

    /// Waits until all calls are done or the pool has ended; whether that is so.
    pub(super) fn wait_done(&self, deadline: Option<Instant>) -> bool {
        let mut state = self.state();
        while !state.is_over() {
            state.wake_at = Some(state.wake_at.unwrap_or(0));
            let (again, late) = self.wait(state, deadline);
            state = again;
            if late {
                return state.is_over();
            }
        }
        true
    }

    fn wait<'a>(
        &'a self,
        state: MutexGuard<'a, State>,
        deadline: Option<Instant>,
    ) -> (MutexGuard<'a, State>, bool) {
        match deadline {
            None => {
                let again = self.changed.wait(state);
                (again.unwrap_or_else(PoisonError::into_inner), false)
            }
            Some(deadline) => {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return (state, true);
                }
                let again = self.changed.wait_timeout(state, left);
                (again.unwrap_or_else(PoisonError::into_inner).0, false)
            }
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.state().is_over()
    }

    /// Whether every call has a value; `None` before all are done.
    pub(super) fn successful(&self) -> Option<bool> {
        let state = self.state();
        state
            .is_over()
            .then(|| state.end.is_none() && !state.failed)
    }

    /// Why nothing more will come.
    pub(super) fn ended(&self) -> Result<()> {
        match &self.state().end {
            Some(end) => Err(end.error()),
            None => Ok(()),
        }
    }

    /// How many calls there are in all, once that is known.
    pub(super) fn total(&self) -> Option<u64> {
        self.state().total
    }

    /// A copy of what has arrived, in the order of the calls; the bytes are shared.
    pub(super) fn arrived(&self) -> Vec<Segment> {
        let mut all: Vec<Segment> = self.state().arrived.iter().cloned().collect();
        all.sort_unstable_by_key(|segment| segment.first);
        all
    }
}

impl State {
    fn take_arrived(&mut self) -> VecDeque<Segment> {
        self.here = 0;
        std::mem::take(&mut self.arrived)
    }

    fn is_complete(&self) -> bool {
        self.total.is_some_and(|total| self.done >= total)
    }

    fn is_over(&self) -> bool {
        self.end.is_some() || self.is_complete()
    }
}

/// What is no longer under way.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fewer {
    pub(super) calls: u64,
    pub(super) bytes: u64,
    /// So many calls took so long.
    pub(super) measured: u64,
    pub(super) time: Duration,
    pub(super) failed: bool,
}

/// Reads the entries of a segment, one after the other.
#[derive(Debug)]
pub(super) struct Reader {
    segment: Segment,
    read: u32,
    at: usize,
}

impl Reader {
    pub(super) const fn new(segment: Segment) -> Self {
        Self {
            segment,
            read: 0,
            at: 0,
        }
    }

    /// The number of the call that [`next`](Self::next) gives.
    pub(super) const fn index(&self) -> u64 {
        self.segment.first + self.read as u64
    }

    /// The next call's value.
    pub(super) fn next<O: DeserializeOwned>(&mut self, rules: &Rules) -> Option<Result<O>> {
        let left = self
            .segment
            .calls
            .checked_sub(self.read)
            .filter(|&n| n > 0)?;
        let index = self.index();
        self.read += 1;
        match &self.segment.what {
            What::Lost(lost) => Some(Err(lost.error(rules, index))),
            What::Result(bytes) => {
                let mut results = Results::resume(bytes, self.at, left);
                let value = results.next()?;
                self.at = results.at();
                Some(value_of(value, rules, index))
            }
        }
    }

    /// Calls `each` with every value that is left; faster than one by one.
    pub(super) fn each<O: DeserializeOwned>(
        self,
        rules: &Rules,
        mut each: impl FnMut(u64, Result<O>),
    ) {
        let left = self.segment.calls - self.read;
        let first = self.index();
        match &self.segment.what {
            What::Lost(lost) => {
                (first..first + u64::from(left))
                    .for_each(|index| each(index, Err(lost.error(rules, index))));
            }
            What::Result(bytes) => {
                let results = Results::resume(bytes, self.at, left);
                for (index, value) in (first..).zip(results) {
                    each(index, value_of(value, rules, index));
                }
            }
        }
    }
}

fn value_of<O: DeserializeOwned>(
    value: std::result::Result<&[u8], Fault>,
    rules: &Rules,
    index: u64,
) -> Result<O> {
    match value {
        Ok(bytes) => rmp_serde::from_slice(bytes).map_err(|error| Error::Encoding {
            what: format!("the value of {} (call {index})", rules.task),
            why: format!(
                "{} bytes are not a {}: {error}",
                bytes.len(),
                std::any::type_name::<O>()
            ),
        }),
        Err(fault) => Err(fault_error(fault, rules, index)),
    }
}

fn fault_error(fault: Fault, rules: &Rules, index: u64) -> Error {
    let Fault {
        kind,
        message,
        location,
        pid,
        host,
    } = fault;
    let task = rules.task.into();
    let host = host.into();
    if kind == kind::TIMED_OUT {
        return Error::TaskTimedOut {
            task,
            call: index,
            limit: Duration::from_millis(rules.manner.limit),
            pid,
            host,
        };
    }
    Error::TaskFailed {
        task,
        call: index,
        how: match kind {
            kind::PANIC => "panicked",
            kind::ARGUMENTS => "was not run, its arguments cannot be decoded",
            kind::OUTPUT => "has a value that cannot be encoded",
            kind::UNKNOWN => "is not known there",
            _ => "failed",
        },
        message,
        location: location.map(Into::into),
        pid,
        host,
    }
}

impl Lost {
    fn error(&self, rules: &Rules, index: u64) -> Error {
        match self {
            Self::Bytes(why) => Error::Encoding {
                what: format!("{} (call {index})", rules.task),
                why: why.clone(),
            },
            Self::Died {
                pid,
                host,
                how,
                attempt,
            } => Error::WorkerDied {
                task: rules.task.into(),
                call: index,
                pid: *pid,
                host: host.as_str().into(),
                how: how.clone(),
                attempt: *attempt,
            },
        }
    }
}
