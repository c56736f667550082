//! What the host writes down, and what waits until it is written: nothing goes out that follows from what is not.

use std::collections::VecDeque;

use rustc_hash::FxHashMap;

use super::{Host, Settings};
use crate::error::Result;
use crate::hub::ledger::Ledger;
use crate::journal::{Digest, Entry, Record, Recorder};
use crate::wire::body::Body;
use crate::wire::endpoint::Endpoint;
use crate::wire::frame::{Ack, TaskId};
use crate::wire::wake::Waker;

/// What happened, in its order, until it is written; without a journal always empty.
#[derive(Default)]
pub(super) struct Unwritten {
    recorder: Option<Recorder>,
    events: VecDeque<(u64, Event)>,
    /// How many tasks of these were put.
    pub(super) put: u64,
    /// The next new task's number: those that wait have theirs.
    next_id: TaskId,
    /// How many lives the run had before this one.
    lives: u32,
    /// Of tasks that had failed in an earlier life and have tries left: attempts, and these.
    tried: FxHashMap<TaskId, (u32, u32)>,
}

enum Event {
    Put(TaskId, Vec<Body>),
    Kept(Ack),
}

impl Unwritten {
    /// What was before goes into the ledger; whether there was anything.
    pub(super) fn start(
        settings: &mut Settings,
        ledger: &mut Ledger,
        waker: &Waker,
    ) -> Result<(Self, bool)> {
        let Some((journal, past)) = settings.journal.take() else {
            let (done, failed) = std::mem::take(&mut settings.done_before);
            if !done.is_empty() {
                let totals = crate::hub::ledger::Totals {
                    done: done.len(),
                    failed,
                    ..Default::default()
                };
                ledger.resume(done, 1, totals);
            }
            return Ok((Self::default(), false));
        };
        let resumed = past.next_id > 1;
        ledger.resume(past.done, past.next_id, past.totals);
        let unwritten = Self {
            recorder: Some(Recorder::start(journal, waker.clone())?),
            events: VecDeque::new(),
            put: 0,
            next_id: ledger.next_id(),
            lives: past.lives,
            tried: past
                .tried
                .into_iter()
                .map(|(id, attempts, tries)| (id, (attempts, tries)))
                .collect(),
        };
        Ok((unwritten, resumed))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Writes what is left.
    pub(super) fn close(&mut self) {
        self.recorder = None;
    }
}

impl Host {
    /// Whether those who hold tasks of an earlier life may still be on their way back: nothing is leased that they have, perhaps with
    /// its result. Within one process all die together.
    pub(super) fn awaits_holders(&self) -> bool {
        let others = |endpoint: &Endpoint| match endpoint {
            Endpoint::Inproc(_) => false,
            Endpoint::Ipc(path) => !path.starts_with(self.dir.path()),
            Endpoint::Tcp { .. } => true,
        };
        self.unwritten.lives > 0
            && self.started.elapsed() < self.settings.heartbeat
            && self.settings.binds.iter().any(others)
    }

    /// A task of which the journal knows something, or that is to be recorded: then it is added to `fresh`.
    pub(super) fn put_known(&mut self, body: Body, known: Entry, fresh: &mut Vec<(Body, Digest)>) {
        match known {
            Entry::Done => {}
            Entry::Fresh(digest) => fresh.push((body, digest)),
            Entry::Known(id) => {
                let lives = self.unwritten.lives;
                let (attempts, tries_left) = self
                    .unwritten
                    .tried
                    .remove(&id)
                    .unwrap_or((0, self.settings.tries.saturating_sub(1)));
                // Nobody knows whether it was leased before; a number is not used again for another attempt if it was.
                let attempts = attempts.max(lives);
                self.ledger
                    .put_as(id, body, tries_left.saturating_add(1), attempts);
            }
        }
    }

    /// New tasks are put, under the next numbers, as soon as they are recorded.
    pub(super) fn put_when_written(&mut self, tasks: Vec<(Body, Digest)>) {
        let Some(recorder) = &mut self.unwritten.recorder else {
            return;
        };
        if tasks.is_empty() {
            return;
        }
        let first = self.unwritten.next_id;
        let (bodies, digests): (Vec<_>, Vec<_>) = tasks.into_iter().unzip();
        self.unwritten.next_id += bodies.len() as u64;
        self.unwritten.put += bodies.len() as u64;
        let number = recorder.record(Record::Put { first, digests });
        let event = Event::Put(first, bodies);
        self.unwritten.events.push_back((number, event));
    }

    /// The sink's word counts as soon as it is recorded.
    pub(super) fn acknowledge_when_written(&mut self, ack: Ack) {
        match &mut self.unwritten.recorder {
            Some(recorder) if !ack.kept.is_empty() => {
                let number = recorder.record(Record::Kept(ack.kept.clone()));
                let event = Event::Kept(ack);
                self.unwritten.events.push_back((number, event));
            }
            // Behind those that wait, which have lower numbers.
            Some(_) if !self.unwritten.events.is_empty() => {
                let number = self
                    .unwritten
                    .events
                    .back()
                    .map_or(0, |(number, _)| *number);
                let event = Event::Kept(ack);
                self.unwritten.events.push_back((number, event));
            }
            _ => self.acknowledge(&ack),
        }
    }

    fn acknowledge(&mut self, ack: &Ack) {
        for kept in &ack.kept {
            self.ledger.acknowledge(kept);
            self.verdicts.done(kept.first, kept.count);
            self.obituaries.forget(kept.first, kept.count);
        }
        if let Some(sink) = &mut self.sink
            && sink.id == ack.sink
        {
            sink.number = sink.number.max(ack.number);
        }
    }

    pub(super) fn record_try(&mut self, id: TaskId) {
        if let Some(recorder) = &mut self.unwritten.recorder {
            let record = Record::Tried {
                id,
                attempts: self.ledger.attempt(id),
                tries: self.ledger.tries_left(id),
            };
            recorder.record(record);
        }
    }

    /// What is written takes effect.
    pub(super) fn apply_written(&mut self) {
        let Some(recorder) = &self.unwritten.recorder else {
            return;
        };
        let written = recorder.written();
        if let Some(error) = recorder.take_error() {
            self.ledger.halt();
            self.error.get_or_insert(error);
        }
        let tries = self.settings.tries;
        while let Some((number, _)) = self.unwritten.events.front()
            && *number <= written
            && let Some((_, event)) = self.unwritten.events.pop_front()
        {
            match event {
                Event::Put(first, bodies) => {
                    self.unwritten.put -= bodies.len() as u64;
                    for (id, body) in (first..).zip(bodies) {
                        self.ledger.put_as(id, body, tries, 0);
                    }
                }
                Event::Kept(ack) => self.acknowledge(&ack),
            }
        }
    }
}
