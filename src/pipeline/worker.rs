//! The worker: runs tasks.

use crate::hub::outside::Instant;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use bytes::BytesMut;
use serde::de::DeserializeOwned;

use super::by_queue::{self, Queues, Working};
use super::{Cause, random_id};
use crate::error::{Error, Result};
use crate::hub::consumer::{Assigned, Consumer, Ended, Settings, Shared, Want};
use crate::hub::host::host_name;
use crate::hub::outbox::{Finished, error_body};
use crate::keys::Proof;
use crate::obituary::{self, Obituary};
use crate::registry::panics::text_of;
use crate::wire::access::Means;
use crate::wire::body::Body;
use crate::wire::endpoint::Endpoint;
use crate::wire::payload::Payload;
use crate::wire::wake::Waker;

/// A process (or thread) that runs tasks for a ventilator.
///
/// [`run`](Self::run) returns when the poison pill comes. When the ventilator is lost the worker dials again until
/// [`patience`](WorkerBuilder::patience) is at its end, and then fails with [`Error::VentilatorLost`].
///
/// ```no_run
/// use procession::pipeline::Worker;
/// let end = Worker::connect("tcp://127.0.0.1:5557")?.run(|line: String| line.len())?;
/// println!("{} tasks", end.tasks);
/// # Ok::<(), procession::Error>(())
/// ```
pub struct Worker {
    work: Loop,
    shared: Arc<Shared>,
    slots: u32,
    peer: u64,
    job: Vec<u8>,
    on_end: Option<Box<dyn FnOnce() + Send>>,
}

/// Where its tasks come from.
enum Loop {
    Ventilator(Box<Consumer>),
    Queue(Box<Working>),
}

impl Loop {
    fn run(self) -> Result<Ended> {
        match self {
            Self::Ventilator(consumer) => consumer.run(),
            Self::Queue(working) => working.run(),
        }
    }
}

/// How a [`Worker`] shall be.
pub struct WorkerBuilder {
    slots: u32,
    patience: Duration,
    means: Means,
    on_kill: Option<Box<dyn Fn() + Send>>,
    on_dial: Option<Box<dyn FnOnce(WorkerHandle) + Send>>,
    on_end: Option<Box<dyn FnOnce() + Send>>,
}

impl WorkerBuilder {
    /// How many tasks it runs at once (1).
    #[must_use]
    pub fn slots(mut self, slots: u32) -> Self {
        self.slots = slots.max(1);
        self
    }

    /// How long to wait for a ventilator, at the start or when it is lost (30 s).
    #[must_use]
    pub fn patience(mut self, time: Duration) -> Self {
        self.patience = time;
        self
    }

    /// Shows this by TCP: [`Keys`](crate::keys::Keys), instead of those that `PROCESSION_KEYS` names, or a [`Ticket`](crate::keys::Ticket). The
    /// endpoint that is dialled may be another than the ticket's, where a tunnel leads there.
    #[must_use]
    pub fn proof(mut self, proof: impl Into<Proof>) -> Self {
        self.means.show(proof.into());
        self
    }

    /// Allows plain TCP, also beyond this machine.
    #[must_use]
    pub fn insecure(mut self, allowed: bool) -> Self {
        self.means.insecure = allowed;
        self
    }

    /// Called once, from the worker's own thread, when what runs is to be killed. It must not block.
    #[must_use]
    pub fn on_kill(mut self, call: impl Fn() + Send + 'static) -> Self {
        self.on_kill = Some(Box::new(call));
        self
    }

    /// Dials, and waits for the welcome. A [queue's URL](crate::engine::Address) leads to a run, or a pool, that goes through that queue.
    ///
    /// # Errors
    /// [`Error::NobodyThere`], [`Error::Refused`], or a bad endpoint.
    pub fn connect(self, endpoint: &str) -> Result<Worker> {
        if by_queue::is_queue(endpoint) {
            return self.take_from(endpoint);
        }
        let endpoint: Endpoint = endpoint.parse()?;
        let credentials = self.means.to_dial(&endpoint)?;
        let peer = random_id()?;
        let (consumer, shared, job) = Consumer::connect(
            Settings {
                endpoint,
                credentials,
                peer,
                slots: self.slots,
                patience: self.patience,
                on_kill: self.on_kill,
            },
            |shared| {
                if let Some(call) = self.on_dial {
                    call(WorkerHandle {
                        shared: Arc::clone(shared),
                    });
                }
            },
        )?;
        Ok(Worker {
            work: Loop::Ventilator(Box::new(consumer)),
            shared,
            slots: self.slots,
            peer,
            job,
            on_end: self.on_end,
        })
    }

    /// A worker of a run that goes through a queue.
    fn take_from(self, url: &str) -> Result<Worker> {
        let queues = Queues::new(url, self.means, self.patience)?;
        let waker = Waker::new().map_err(|error| Error::system("cannot make an eventfd", error))?;
        let shared = Shared::new(waker, self.slots, false);
        if let Some(call) = self.on_dial {
            call(WorkerHandle {
                shared: Arc::clone(&shared),
            });
        }
        let peer = random_id()?;
        let working = Working::connect(queues, peer, &shared, self.on_kill)?;
        Ok(Worker {
            work: Loop::Queue(Box::new(working)),
            shared,
            slots: self.slots,
            peer,
            job: Vec::new(),
            on_end: self.on_end,
        })
    }

    /// Called when the worker has left its ventilator, before it waits for slots that still run something.
    #[must_use]
    pub fn on_end(mut self, call: impl FnOnce() + Send + 'static) -> Self {
        self.on_end = Some(Box::new(call));
        self
    }

    /// Called with the worker's handle before it dials, so that a wait for a ventilator can be broken off.
    #[must_use]
    pub fn on_dial(mut self, call: impl FnOnce(WorkerHandle) + Send + 'static) -> Self {
        self.on_dial = Some(Box::new(call));
        self
    }
}

/// How a worker ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkerEnd {
    /// Tasks that ran here.
    pub tasks: u64,
    /// The pill's words: why the run ended. `None`: there was no pill, the worker was told to leave.
    pub cause: Option<Cause>,
}

impl Worker {
    /// A worker with one slot.
    ///
    /// # Errors
    /// As [`WorkerBuilder::connect`].
    pub fn connect(endpoint: &str) -> Result<Self> {
        Self::builder().connect(endpoint)
    }

    /// Settings of a worker.
    #[must_use]
    pub fn builder() -> WorkerBuilder {
        WorkerBuilder {
            slots: 1,
            patience: Duration::from_secs(30),
            means: Means::default(),
            on_kill: None,
            on_dial: None,
            on_end: None,
        }
    }

    /// This worker's id, which is random.
    #[must_use]
    pub const fn id(&self) -> u64 {
        self.peer
    }

    /// How many tasks it runs at once.
    #[must_use]
    pub const fn slots(&self) -> u32 {
        self.slots
    }

    /// The interval of heartbeats, as the ventilator has it: who is not heard for three of them is taken to be gone.
    #[must_use]
    pub fn heartbeat(&self) -> Duration {
        match &self.work {
            Loop::Ventilator(consumer) => consumer.heartbeat(),
            Loop::Queue(_) => Duration::from_secs(1),
        }
    }

    /// What the ventilator's program said about the run. In a run that goes through a queue that comes with the first task, for which it
    /// waits.
    ///
    /// # Errors
    /// When it said something else than a `J`, or nothing.
    pub fn job<J: DeserializeOwned>(&self) -> Result<J> {
        let said;
        let job = match &self.work {
            Loop::Ventilator(_) => &self.job,
            Loop::Queue(working) => {
                said = working.job()?;
                &said
            }
        };
        rmp_serde::from_slice(job).map_err(|error| Error::Encoding {
            what: "the run's job".to_owned(),
            why: error.to_string(),
        })
    }

    /// Fetches so many tasks ahead of each slot, instead of as many as they do in 20 ms: for slots that have many tasks under way at
    /// once, whose times say nothing of how many they can take.
    pub fn fetch_ahead(&self, tasks: u64) {
        self.shared
            .ahead
            .store(tasks, std::sync::atomic::Ordering::Relaxed);
    }

    /// A handle for other threads.
    #[must_use]
    pub fn handle(&self) -> WorkerHandle {
        WorkerHandle {
            shared: Arc::clone(&self.shared),
        }
    }

    /// Runs `function` for each task, in every slot, until the pill. A panic becomes that task's error, with its message.
    ///
    /// # Errors
    /// [`Error::VentilatorLost`].
    pub fn run<T: Payload, R: Payload>(
        self,
        function: impl Fn(T) -> R + Sync,
    ) -> Result<WorkerEnd> {
        self.serve(|mut slot: Slot<T, R>| slot.run(&function))
    }

    /// As [`run`](Self::run), for a function that may fail: an error becomes that task's, and the task is tried again when it has
    /// [tries](super::VentilatorBuilder::tries) left.
    ///
    /// # Errors
    /// [`Error::VentilatorLost`].
    pub fn try_run<T: Payload, R: Payload, E: std::fmt::Display>(
        self,
        function: impl Fn(T) -> std::result::Result<R, E> + Sync,
    ) -> Result<WorkerEnd> {
        self.serve(|mut slot: Slot<T, R>| {
            while let Some(lease) = slot.get() {
                let answer = match catch_unwind(AssertUnwindSafe(|| match lease.task() {
                    Ok(task) => function(task).map_err(|error| error.to_string()),
                    Err(why) => Err(why),
                })) {
                    Ok(Ok(value)) => Answer::done(value),
                    Ok(Err(text)) => Answer::failed(text),
                    Err(panic) => Answer::failed(text_of(panic)),
                };
                slot.finish(lease, answer);
            }
        })
    }

    /// Calls `slot` in a thread for each slot; it takes tasks and answers them as it likes.
    ///
    /// # Errors
    /// [`Error::VentilatorLost`].
    pub fn serve<T: Payload, R: Payload>(
        self,
        slot: impl Fn(Slot<T, R>) + Sync,
    ) -> Result<WorkerEnd> {
        let shared = &self.shared;
        let work = self.work;
        let ended = thread::scope(|scope| {
            let mut slots = Vec::new();
            for number in 1..=self.slots {
                let slot = &slot;
                let mine = Slot {
                    shared: Arc::clone(shared),
                    number,
                    worker: self.peer,
                    host: host_name(),
                    scratch: BytesMut::new(),
                    last_finish: None,
                    types: PhantomData,
                };
                let spawned = thread::Builder::new()
                    .name(format!("slot-{number}"))
                    .spawn_scoped(scope, move || slot(mine));
                match spawned {
                    Ok(handle) => slots.push(handle),
                    Err(error) if number == 1 => {
                        return Err(Error::system("cannot start a slot's thread", error));
                    }
                    Err(error) => {
                        log::warn!("cannot start more than {} slots: {error}", number - 1);
                        break;
                    }
                }
            }
            let ended = work.run();
            if let Some(call) = self.on_end {
                call();
            }
            for slot in slots {
                if let Err(panic) = slot.join() {
                    log::error!("a slot's thread panicked: {}", text_of(panic));
                }
            }
            ended
        })?;
        Ok(WorkerEnd {
            tasks: self.shared.ran(),
            cause: ended
                .pill
                .filter(|pill| pill.run != 0)
                .map(|pill| Cause::from_number(pill.cause)),
        })
    }
}

/// Stops a [`Worker`] from any thread.
#[derive(Clone, Debug)]
pub struct WorkerHandle {
    shared: Arc<Shared>,
}

impl WorkerHandle {
    /// Starts no more, gives back what has not started, finishes what runs, and leaves.
    pub fn leave(&self) {
        self.shared.leave();
    }

    /// As [`leave`](Self::leave), and calls [`on_kill`](WorkerBuilder::on_kill); tasks that fail from then on are given back, for
    /// somebody else to do.
    pub fn kill(&self) {
        self.shared.desert();
    }

    /// Tells the ventilator that this process is about to be killed, or its connection cut, by somebody who means no task in it (an
    /// operator, a scheduler that takes the machine back, a rehearsal): its death will count against no task. Waits until the
    /// ventilator has heard that; whether it has, within `timeout`.
    #[must_use]
    pub fn announce_doom(&self, timeout: Duration) -> bool {
        self.shared.announce_doom(timeout)
    }

    /// Drops all connections without a goodbye, as a failing network does; the worker comes back by itself.
    pub fn cut(&self) {
        self.shared.cut();
    }

    /// How many tasks have run here.
    #[must_use]
    pub fn ran(&self) -> u64 {
        self.shared.ran()
    }
}

/// One of the places in which a worker runs tasks.
pub struct Slot<T: Payload, R: Payload> {
    shared: Arc<Shared>,
    number: u32,
    worker: u64,
    host: String,
    scratch: BytesMut,
    last_finish: Option<Instant>,
    types: PhantomData<fn(T) -> R>,
}

const ANY: Want = Want {
    tasks: usize::MAX,
    bytes: u64::MAX,
    deadline: None,
    until_last: false,
};

/// A task that a slot holds. It must be given back with [`Slot::finish`].
#[derive(Debug)]
#[must_use = "a lease that is not finished is held until this process ends"]
pub struct Lease<T> {
    assigned: Assigned,
    since: Instant,
    task: PhantomData<fn() -> T>,
}

impl<T: Payload> Lease<T> {
    /// The task's number.
    #[must_use]
    pub const fn id(&self) -> u64 {
        self.assigned.id
    }

    /// The attempt, from 1.
    #[must_use]
    pub const fn attempt(&self) -> u32 {
        self.assigned.attempt
    }

    /// How many tries are left should this one fail.
    #[must_use]
    pub const fn tries_left(&self) -> u32 {
        self.assigned.tries_left
    }

    /// The task's bytes.
    pub(crate) const fn body(&self) -> &crate::wire::body::Body {
        &self.assigned.body
    }

    /// The task.
    ///
    /// # Errors
    /// A text that says why its bytes are not a `T`.
    pub fn task(&self) -> std::result::Result<T, String> {
        T::from_body(self.assigned.body.clone())
    }
}

/// What came of a task.
#[derive(Debug)]
pub struct Answer<R> {
    /// The result, or the text of an error that stands for it.
    pub value: std::result::Result<R, String>,
    /// Exit status: 0 is success.
    pub exit: i32,
    /// The signal that ended it; 0 for none.
    pub signal: i32,
    /// What else is known of how it failed. Task, attempt and worker need not be filled in.
    pub obituary: Option<Box<Obituary>>,
    /// It would be the same each time: a failure is not tried again, however many tries are left.
    pub is_final: bool,
}

impl<R> Answer<R> {
    /// Success.
    #[must_use]
    pub const fn done(value: R) -> Self {
        Self {
            value: Ok(value),
            exit: 0,
            signal: 0,
            obituary: None,
            is_final: false,
        }
    }

    /// A failure without a result.
    #[must_use]
    pub fn failed(text: impl Into<String>) -> Self {
        Self {
            value: Err(text.into()),
            exit: 1,
            signal: 0,
            obituary: None,
            is_final: false,
        }
    }
}

impl<T: Payload, R: Payload> Slot<T, R> {
    /// The slot's number, from 1.
    #[must_use]
    pub const fn number(&self) -> u32 {
        self.number
    }

    /// The next task; waits for it. `None` when there will be none.
    #[must_use]
    pub fn get(&self) -> Option<Lease<T>> {
        self.get_many(1)?.pop()
    }

    /// Tasks of about a millisecond in all; waits for the first. `None` when there will be none.
    pub(crate) fn get_group(&self) -> Option<Vec<Lease<T>>> {
        self.get_many(self.shared.grain())
    }

    /// Up to `most` tasks; waits for the first. `None` when there will be none.
    #[must_use]
    pub fn get_many(&self, most: usize) -> Option<Vec<Lease<T>>> {
        Some(leases(self.shared.take(Want { tasks: most, ..ANY })?))
    }

    /// Up to `most` tasks of up to `bytes` bytes in all (but at least one task); waits for the first. Empty when the
    /// ventilator has no more for now: more will come only if tasks of somebody else's have to be done again. `None` when
    /// there will be none.
    #[must_use]
    pub fn get_many_or_last(&self, most: usize, bytes: u64) -> Option<Vec<Lease<T>>> {
        Some(leases(self.shared.take(Want {
            tasks: most,
            bytes,
            until_last: true,
            ..ANY
        })?))
    }

    /// The same slot for another thread: one may take tasks while the other gives them back.
    #[must_use]
    pub fn twin(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            number: self.number,
            worker: self.worker,
            host: self.host.clone(),
            scratch: BytesMut::new(),
            last_finish: None,
            types: PhantomData,
        }
    }

    /// Whether what runs is to be killed.
    #[must_use]
    pub fn is_killed(&self) -> bool {
        self.shared.is_killed()
    }

    /// Gives a task back with its answer. A failure is tried again, here or elsewhere, when tries are left.
    pub fn finish(&mut self, lease: Lease<T>, answer: Answer<R>) {
        self.finish_many([(lease, answer)]);
    }

    /// Gives several tasks back at once. Their time is the time since they were taken, or since the slot last gave some back,
    /// shared among them: tasks that were under way together are not each counted the whole time.
    pub fn finish_many(&mut self, answers: impl IntoIterator<Item = (Lease<T>, Answer<R>)>) {
        let now = Instant::now();
        let answers: Vec<_> = answers.into_iter().collect();
        let Some((first, _)) = answers.first() else {
            return;
        };
        let since = self
            .last_finish
            .map_or(first.since, |last| last.max(first.since));
        self.last_finish = Some(now);
        let each = now.saturating_duration_since(since) / answers.len() as u32;
        let finished: Vec<_> = answers
            .into_iter()
            .map(|(lease, answer)| self.finished(lease, answer, each))
            .collect();
        self.shared.finish(finished);
    }

    fn finished(&mut self, lease: Lease<T>, answer: Answer<R>, time: Duration) -> (Finished, u32) {
        let Answer {
            value,
            mut exit,
            signal,
            obituary,
            is_final,
        } = answer;
        let encoded = value.and_then(|value| value.into_body(&mut self.scratch));
        let error = encoded.is_err();
        let body = encoded.unwrap_or_else(|text| {
            if exit == 0 && signal == 0 {
                exit = 1;
            }
            error_body(text)
        });
        let Assigned {
            id,
            attempt,
            tries_left,
            mut obituaries,
            ..
        } = lease.assigned;
        if exit != 0 || signal != 0 {
            let mut own = obituary.map_or_else(Obituary::default, |own| *own);
            if own.pid == 0 {
                own.pid = std::process::id();
            }
            if own.seconds == 0.0 {
                own.seconds = time.as_secs_f64();
            }
            if let (true, Body::Memory(text)) = (error && own.cause.is_empty(), &body) {
                own.cause = String::from_utf8_lossy(text).into_owned();
            }
            let own = Obituary {
                attempt,
                host: self.host.clone(),
                worker: self.worker,
                exit,
                signal,
                ..own
            };
            obituary::add(&mut obituaries, own);
        }
        let finished = Finished {
            id,
            attempt,
            exit,
            signal,
            micros: time.as_micros() as u64,
            body,
            error,
            obituaries,
        };
        (finished, if is_final { 0 } else { tries_left })
    }

    /// The loop of [`Worker::run`]: tasks in groups of about a millisecond.
    fn run(&mut self, function: &impl Fn(T) -> R) {
        while let Some(assigned) = self.shared.take(Want {
            tasks: self.shared.grain(),
            ..ANY
        }) {
            let mut finished = Vec::with_capacity(assigned.len());
            let mut since = Instant::now();
            let mut group = since;
            for assigned in assigned {
                let lease = Lease {
                    assigned,
                    since,
                    task: PhantomData::<fn() -> T>,
                };
                let answer = match catch_unwind(AssertUnwindSafe(|| lease.task().map(function))) {
                    Ok(Ok(value)) => Answer::done(value),
                    Ok(Err(text)) => Answer::failed(text),
                    Err(panic) => Answer::failed(text_of(panic)),
                };
                let now = Instant::now();
                finished.push(self.finished(lease, answer, now.duration_since(since)));
                since = now;
                // A group that turns out to be long gives its results early.
                if now.duration_since(group) > GROUP {
                    group = now;
                    self.shared.finish(finished.drain(..));
                }
            }
            self.shared.finish(finished);
        }
    }
}

/// Results of a group are held back no longer than this.
const GROUP: Duration = Duration::from_millis(5);

fn leases<T>(assigned: Vec<Assigned>) -> Vec<Lease<T>> {
    let since = Instant::now();
    assigned
        .into_iter()
        .map(|assigned| Lease {
            assigned,
            since,
            task: PhantomData,
        })
        .collect()
}
