//! The sink's loop: takes results from the queue, each once, and is done with those that the program has kept.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;

use super::{About, Done, Queues, Reply, TURN, Task};
use crate::JoinableQueue;
use crate::error::{Error, Result};
use crate::hub::gather::{Arrived, Deliver, Joined, Shared};
use crate::hub::member::{Taken, Wait};
use crate::hub::outside::{Instant, poll};
use crate::queue::after;
use crate::wait::Waitable;
use crate::wire::body::Body;
use crate::wire::frame::{Pill, RunId, TaskId, kind};
use crate::wire::id_set::IdSet;

/// So long a sink waits for what the one before it had heard.
const BEFORE: Duration = Duration::from_millis(300);
/// So many results may be with the program and not kept, unless they wait for their turn.
const AHEAD: usize = 16_384;

/// A sink whose results come from a queue.
pub(crate) struct Gathering {
    queues: Queues,
    shared: Arc<Shared>,
    tasks: JoinableQueue<Task>,
    results: JoinableQueue<Done>,
    about: JoinableQueue<About>,
    ordered: bool,
    /// Results that are with the program, and how they came.
    leased: FxHashMap<TaskId, Taken>,
    seen: IdSet,
    kept: IdSet,
    failed: u64,
    /// How many tasks there are, once that is known, and why there are no more.
    total: Option<(u64, u8)>,
    /// What is said about the run is done with when the run is: who comes after us is to hear it, too.
    told: Vec<Taken>,
    /// The run has had a sink.
    gathered: bool,
    /// When that was asked for last.
    heard: Instant,
    job: Vec<u8>,
}

impl Gathering {
    /// Joins the queues, and waits to hear what the run is about. `None`: it was over, or we were told to leave.
    pub(crate) fn connect(
        queues: Queues,
        shared: &Arc<Shared>,
        ordered: bool,
    ) -> Result<(Self, Option<Joined>)> {
        let leaving = || shared.is_leaving().0;
        let mut gathering = Self {
            tasks: queues.tasks_to_do(leaving)?,
            results: queues.results("", leaving)?,
            about: queues.about(leaving)?,
            queues,
            shared: Arc::clone(shared),
            ordered,
            leased: FxHashMap::default(),
            seen: IdSet::new(),
            kept: IdSet::new(),
            failed: 0,
            total: None,
            told: Vec::new(),
            gathered: false,
            heard: Instant::now(),
            job: Vec::new(),
        };
        let since = Instant::now();
        let mut said = false;
        while gathering.job.is_empty() && !shared.is_leaving().0 {
            match gathering.hear(TURN) {
                Ok(()) => {}
                Err(Error::ShutDown) => break,
                Err(error) => return Err(error),
            }
            if since.elapsed() >= gathering.queues.patience && !std::mem::replace(&mut said, true) {
                log::warn!(
                    "waiting: no ventilator has begun at {}, or another sink gathers there",
                    gathering.queues.shown()
                );
            }
        }
        if !gathering.job.is_empty() {
            // What the sink before has said comes with what it has heard.
            let until = Instant::now() + BEFORE;
            while !gathering.gathered && Instant::now() < until {
                match gathering.hear(TURN) {
                    Ok(()) => {}
                    Err(Error::ShutDown) => break,
                    Err(error) => return Err(error),
                }
            }
        }
        let resumed = gathering.gathered;
        if !resumed && !gathering.job.is_empty() {
            let about = &gathering.about;
            about.put(About::Gathered).map_err(|error| *error.why)?;
            about.flush()?;
        }
        let joined = (!gathering.job.is_empty()).then(|| Joined {
            job: gathering.job.clone(),
            resumed,
            acked: IdSet::new(),
            run: gathering.queues.run(),
        });
        Ok((gathering, joined))
    }

    /// The results of a pool, each of which is given to `deliver`.
    pub(crate) fn of_pool(
        queues: Queues,
        shared: &Arc<Shared>,
        reply: Reply,
        deliver: Deliver,
    ) -> Result<PoolResults> {
        Ok(PoolResults {
            results: queues.results(&reply.name, || false)?,
            shared: Arc::clone(shared),
            run: queues.run(),
            reply,
            deliver,
        })
    }

    /// Gathers until each task has its result, or until told to leave.
    pub(crate) fn run(mut self) -> Result<()> {
        let outcome = self.serve();
        let pill = match &outcome {
            Ok(Some(cause)) => Some(self.pill(*cause)),
            _ => None,
        };
        self.shared.close(pill);
        outcome.map(drop)
    }

    /// Why the run ended; `None`: it has not.
    fn serve(&mut self) -> Result<Option<u8>> {
        loop {
            self.read_kept();
            if let Some((total, cause)) = self.total
                && (self.kept.len() >= total)
            {
                self.end()?;
                return Ok(Some(cause));
            }
            let (leaving, ending) = self.shared.is_leaving();
            if leaving {
                self.read_kept();
                if ending {
                    self.end()?;
                }
                return Ok(None);
            }
            if self.total.is_none() && self.heard.elapsed() >= TURN {
                self.hear(Duration::ZERO)?;
                self.heard = Instant::now();
            }
            if self.leased.len() >= AHEAD && !self.ordered {
                poll(&[], self.shared.waker(), TURN)?;
                continue;
            }
            match self.take() {
                Ok(arrived) => self.shared.deliver(arrived),
                Err(Error::ShutDown) => {
                    return Err(Error::Ended(format!(
                        "{} was shut down before each task had its result: {} have",
                        self.queues.shown(),
                        self.kept.len()
                    )));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Hears what is said about the run, and holds it.
    fn hear(&mut self, time: Duration) -> Result<()> {
        loop {
            let wait = match time {
                Duration::ZERO => Wait::No,
                time => after(time),
            };
            match self.about.lease(wait) {
                Ok((about, taken)) => {
                    self.told.push(taken);
                    match about {
                        About::End { total, cause } => self.total = Some((total, cause)),
                        About::Gathered => self.gathered = true,
                        About::Begin { job } => {
                            if !self.job.is_empty() && self.job != job {
                                log::error!(
                                    "two ventilators put other tasks under the same name, {}: give each run a name of its own",
                                    self.queues.shown()
                                );
                            }
                            self.job = job;
                            return Ok(());
                        }
                    }
                }
                Err(Error::Empty) => return Ok(()),
                Err(error @ Error::Encoding { .. }) => log::warn!("passed over: {error}"),
                Err(error) => return Err(error),
            }
        }
    }

    /// What the queue has: each task's first result.
    fn take(&mut self) -> Result<Vec<Arrived>> {
        let mut arrived = Vec::new();
        loop {
            match self.results.lease(after(TURN)) {
                Ok((done, taken)) => arrived.extend(self.first(done, taken)),
                Err(Error::Empty) => return Ok(arrived),
                Err(error @ Error::Encoding { .. }) => log::warn!("passed over: {error}"),
                Err(Error::ShutDown) if !arrived.is_empty() => return Ok(arrived),
                Err(error) => return Err(error),
            }
            // More only if they are here already.
            if arrived.len() >= AHEAD || !self.results.is_ready() {
                return Ok(arrived);
            }
        }
    }

    /// A result, if it is its task's first.
    fn first(&mut self, done: Done, taken: Taken) -> Option<Arrived> {
        if self.kept.contains(done.id) {
            self.results.settle(taken);
            self.shared.dropped_double();
            return None;
        }
        if self.seen.contains(done.id) {
            // The same one again, by a new connection, or another: either may go when the task's result is kept.
            if let Some(before) = self.leased.insert(done.id, taken) {
                self.results.settle(before);
            }
            self.shared.dropped_double();
            return None;
        }
        self.seen.insert(done.id);
        self.leased.insert(done.id, taken);
        Some(done.into())
    }

    fn read_kept(&mut self) {
        for kept in self.shared.take_kept() {
            if kept.exit != 0 || kept.signal != 0 {
                self.failed += kept.count;
            }
            for id in kept.first..kept.first.saturating_add(kept.count) {
                self.kept.insert(id);
                self.seen.insert(id);
                if let Some(taken) = self.leased.remove(&id) {
                    self.results.settle(taken);
                }
            }
        }
    }

    /// The poison pill.
    fn end(&mut self) -> Result<()> {
        // This first: who comes from now on knows that the run is over. What it holds goes last: should this sink die on the way,
        // the next one ends the run.
        self.about.shutdown()?;
        self.tasks.shutdown_now()?;
        self.results.shutdown_now()?;
        for taken in self.told.drain(..) {
            self.about.settle(taken);
        }
        Ok(())
    }

    fn pill(&self, cause: u8) -> Pill {
        Pill {
            kind: kind::PILL,
            run: self.queues.run(),
            done: self.kept.len(),
            failed: self.failed,
            cause,
            kill: false,
        }
    }
}

impl From<Done> for Arrived {
    fn from(done: Done) -> Self {
        Self {
            id: done.id,
            attempt: done.attempt,
            worker: done.worker,
            exit: done.exit,
            signal: done.signal,
            micros: done.micros,
            cost: done.body.len() as u64,
            body: Body::from(done.body),
            error: done.error,
            link: 0,
            obituaries: done.obituaries,
        }
    }
}

/// The results of one pool, of which there may be several at one queue of tasks.
pub(crate) struct PoolResults {
    results: JoinableQueue<Done>,
    shared: Arc<Shared>,
    run: RunId,
    reply: Reply,
    deliver: Deliver,
}

impl PoolResults {
    pub(crate) fn joined(&self) -> Joined {
        Joined {
            run: self.run,
            ..Joined::default()
        }
    }

    /// Gives results to the pool until it is over.
    pub(crate) fn run(mut self) -> Result<()> {
        let outcome = self.serve();
        self.shared.close(None);
        outcome
    }

    fn serve(&mut self) -> Result<()> {
        while !self.reply.is_over() && !self.shared.is_leaving().0 {
            let mut wait = after(TURN);
            let (mut arrived, mut leased) = (VecDeque::new(), Vec::new());
            loop {
                match self.results.lease(wait) {
                    Ok((done, taken)) => {
                        arrived.push_back(Arrived::from(done));
                        leased.push(taken);
                    }
                    Err(Error::Empty) => break,
                    Err(Error::ShutDown) if !arrived.is_empty() => break,
                    Err(Error::ShutDown) => {
                        return Err(Error::Ended(
                            "somebody else has shut down the queue of this pool's results"
                                .to_owned(),
                        ));
                    }
                    Err(error @ Error::Encoding { .. }) => log::warn!("passed over: {error}"),
                    Err(error) => return Err(error),
                }
                if arrived.len() >= AHEAD || !self.results.is_ready() {
                    break;
                }
                wait = after(TURN);
            }
            if !arrived.is_empty() {
                (self.deliver)(arrived);
            }
            for taken in leased {
                self.results.settle(taken);
            }
        }
        // What comes later is nobody's.
        self.results.shutdown_now()
    }
}
