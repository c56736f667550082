//! The sink's loop: takes results from the queue, each once, and is done with those that the program has kept.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::{Done, Queues, Report, TURN, Task};
use crate::JoinableQueue;
use crate::error::{Error, Result};
use crate::hub::gather::{Arrived, Joined, Shared};
use crate::hub::member::Taken;
use crate::queue::after;
use crate::wait::Waitable;
use crate::wire::body::Body;
use crate::wire::frame::{Pill, TaskId, kind};
use crate::wire::id_set::IdSet;

/// So many results may be with the program and not kept, unless they wait for their turn.
const AHEAD: usize = 16_384;

/// A sink whose results come from a queue.
pub(crate) struct Gathering {
    queues: Queues,
    shared: Arc<Shared>,
    tasks: JoinableQueue<Task>,
    results: JoinableQueue<Report>,
    ordered: bool,
    /// Results that are with the program, and how they came.
    leased: FxHashMap<TaskId, Taken>,
    seen: IdSet,
    kept: IdSet,
    failed: u64,
    /// How many tasks there are, once that is known, and why there are no more.
    total: Option<(u64, u8)>,
    /// What is said about the run is done with when the run is: who comes after us is to hear it, too.
    about: Vec<Taken>,
    job: Vec<u8>,
    early: Vec<(Done, Taken)>,
}

impl Gathering {
    /// Joins the queues, and waits to hear what the run is about. `None`: it was over, or we were told to leave.
    pub(crate) fn connect(
        queues: Queues,
        shared: &Arc<Shared>,
        ordered: bool,
    ) -> Result<(Self, Option<Joined>)> {
        let (tasks, results) = (queues.tasks()?, queues.results()?);
        let mut gathering = Self {
            queues,
            shared: Arc::clone(shared),
            tasks,
            results,
            ordered,
            leased: FxHashMap::default(),
            seen: IdSet::new(),
            kept: IdSet::new(),
            failed: 0,
            total: None,
            about: Vec::new(),
            job: Vec::new(),
            early: Vec::new(),
        };
        while gathering.job.is_empty() && !shared.is_leaving().0 {
            if !gathering.take()? {
                return Ok((gathering, None));
            }
        }
        let joined = (!gathering.job.is_empty()).then(|| Joined {
            job: gathering.job.clone(),
            resumed: false,
            acked: IdSet::new(),
            run: gathering.queues.run(),
        });
        Ok((gathering, joined))
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
            let early = std::mem::take(&mut self.early);
            let arrived = early
                .into_iter()
                .filter_map(|(done, taken)| self.first(done, taken));
            let arrived: Vec<Arrived> = arrived.collect();
            self.shared.deliver(arrived);
            if self.leased.len() >= AHEAD && !self.ordered {
                crate::hub::outside::poll(&[], self.shared.waker(), TURN)?;
                continue;
            }
            if !self.take()? && self.total.is_none_or(|(total, _)| self.kept.len() < total) {
                return Err(Error::Ended(format!(
                    "{} was shut down before each task had its result: {} have",
                    self.queues.shown(),
                    self.kept.len()
                )));
            }
        }
    }

    /// Takes what the queue has; `false` when it was shut down.
    fn take(&mut self) -> Result<bool> {
        let mut wait = after(TURN);
        for _ in 0..AHEAD {
            match self.results.lease(wait) {
                Ok((Report::Result(done), taken)) => self.early.push((done, taken)),
                Ok((Report::Begin { job }, taken)) => {
                    if !self.job.is_empty() && self.job != job {
                        log::error!(
                            "two ventilators put other tasks under the same name, {}: give each run a name of its own",
                            self.queues.shown()
                        );
                    }
                    self.job = job;
                    self.about.push(taken);
                }
                Ok((Report::End { total }, taken)) => {
                    self.total = Some((total, 0));
                    self.about.push(taken);
                }
                Ok((Report::Stopped { total, cause }, taken)) => {
                    self.total = Some((total, cause));
                    self.about.push(taken);
                }
                Err(Error::Empty) => return Ok(true),
                Err(Error::ShutDown) => return Ok(!self.early.is_empty()),
                Err(error @ Error::Encoding { .. }) => log::warn!("passed over: {error}"),
                Err(error) => return Err(error),
            }
            // The others only if they are here already.
            if !self.results.is_ready() {
                return Ok(true);
            }
            wait = after(TURN);
        }
        Ok(true)
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
        Some(Arrived {
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
        })
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
        for taken in self.about.drain(..) {
            self.results.settle(taken);
        }
        self.tasks.shutdown_now()?;
        self.results.shutdown_now()
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
