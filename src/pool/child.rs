//! What runs in a worker process: the initializer, then a pipeline's worker with one slot that makes the calls of chunks.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, sigaction};
use rustix::process::{Signal, getpid, kill_process};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::chunk::{Chunk, Entries, Fault, Manner, kind};
use super::feed::to_body;
use super::gather::{FAILED, TIMED_OUT};
use super::time_limit::TimeLimit;
use crate::keys::Keys;
use crate::pipeline::{Answer, Lease, Slot, Worker, WorkerHandle};
use crate::registry::{self, Entry};
use crate::wire::body::Body;

/// What a worker process is told when it is started.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Orders {
    pub(super) endpoint: String,
    pub(super) insecure: bool,
    /// The folder of the keys to show.
    pub(super) keys: Option<PathBuf>,
    pub(super) patience: Duration,
    /// A task that is run before all others, and its encoded arguments.
    pub(super) initializer: Option<(String, ByteBuf)>,
    /// After how many calls it leaves; 0: never.
    pub(super) max_tasks: u64,
    /// A file that it makes when it is initialized, and writes to when it is ready for tasks.
    pub(super) came: PathBuf,
}

impl Orders {
    /// Whoever started us wants to know how far we came; when that cannot be said, we are taken for one that did not come so far.
    fn say(&self, came: &[u8]) {
        if let Err(error) = std::fs::write(&self.came, came) {
            log::debug!("cannot write {}: {error}", self.came.display());
        }
    }
}

/// How a worker process ended by itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum ChildEnd {
    /// By the pill.
    Pill,
    /// It has made as many calls as it may.
    Retired,
    /// The initializer has failed: its words.
    Initializer(String),
    /// It cannot join the pool, or has lost it.
    Lost(String),
}

/// Ends this process at once, whatever its threads are in the middle of.
pub(super) fn die() {
    if kill_process(getpid(), Signal::KILL).is_err() {
        std::process::abort();
    }
}

/// The task of every worker process.
#[crate::task]
pub(super) fn pool_worker(orders: Orders) -> ChildEnd {
    leave_ctrl_c_to_the_parent();
    if let Some((name, arguments)) = &orders.initializer {
        let run = registry::find(name)
            .map_err(|error| error.to_string())
            .and_then(|entry| {
                entry
                    .run(arguments)
                    .map_err(|failure| match failure.location {
                        Some(location) => format!("{} (at {location})", failure.message),
                        None => failure.message,
                    })
            });
        if let Err(why) = run {
            return ChildEnd::Initializer(format!("initializer {name}: {why}"));
        }
    }
    orders.say(b"");
    work(&orders)
}

extern "C" fn nothing(_signal: std::ffi::c_int) {}

/// Ctrl-C on a terminal reaches this process as well as its parent, which decides what is to become of it.
fn leave_ctrl_c_to_the_parent() {
    // A handler, and not that it is ignored: commands that a task starts would inherit that, and outlive a Ctrl-C.
    let handler = SigAction::new(
        SigHandler::Handler(nothing),
        SaFlags::SA_RESTART,
        SigSet::empty(),
    );
    // SAFETY: the handler does nothing, so it may interrupt anything.
    let set = |action: &SigAction| unsafe { sigaction(nix::sys::signal::SIGINT, action) };
    match set(&handler) {
        // It was ignored (in a shell's background job) or has a handler of the program's own.
        Ok(before) if !matches!(before.handler(), SigHandler::SigDfl) => {
            let _ = set(&before);
        }
        Ok(_) => {}
        Err(error) => log::debug!("Ctrl-C will end this worker: {error}"),
    }
}

/// Joins the pool and works until it leaves.
pub(super) fn work(orders: &Orders) -> ChildEnd {
    let busy = Arc::new(AtomicBool::new(false));
    let on_kill = {
        let busy = Arc::clone(&busy);
        move || {
            if busy.load(Ordering::Acquire) {
                die();
            }
        }
    };
    let limit = Arc::new(TimeLimit::default());
    let on_end = {
        let limit = Arc::clone(&limit);
        move || {
            if limit.has_expired() {
                die();
            }
        }
    };
    let mut worker = Worker::builder();
    match orders.keys.as_ref().map(Keys::open).transpose() {
        Ok(None) => {}
        Ok(Some(keys)) => worker = worker.proof(keys),
        Err(error) => return ChildEnd::Lost(error.to_string()),
    }
    let worker = worker
        .patience(orders.patience)
        .insecure(orders.insecure)
        .on_kill(on_kill)
        .on_end(on_end)
        .connect(&orders.endpoint);
    let worker = match worker {
        Ok(worker) => worker,
        Err(error) => return ChildEnd::Lost(error.to_string()),
    };
    orders.say(b"joined");
    let handle = worker.handle();
    let end = worker.serve(|slot: Slot<Body, Body>| {
        Caller {
            max_tasks: orders.max_tasks,
            made: 0,
            known: None,
            busy: &busy,
            limit: &limit,
            handle: &handle,
        }
        .run(slot);
    });
    match end {
        Ok(end) if end.cause.is_some() => ChildEnd::Pill,
        Ok(_) => ChildEnd::Retired,
        Err(error) => ChildEnd::Lost(error.to_string()),
    }
}

/// Makes the calls of one slot.
struct Caller<'a> {
    max_tasks: u64,
    made: u64,
    /// The task that was looked up last.
    known: Option<(String, Result<&'static Entry, Fault>)>,
    busy: &'a AtomicBool,
    limit: &'a Arc<TimeLimit>,
    handle: &'a WorkerHandle,
}

/// Results of a group are held back no longer than this.
const GROUP: Duration = Duration::from_millis(5);
/// The clock is looked at after calls that have taken about so long in all.
const GLANCE: Duration = Duration::from_micros(500);
/// And at least after so many.
const GLANCE_CALLS: u32 = 64;

impl Caller<'_> {
    fn run(&mut self, mut slot: Slot<Body, Body>) {
        while let Some(leases) = slot.get_group() {
            self.busy.store(true, Ordering::Release);
            let mut answers = Vec::with_capacity(leases.len());
            let mut since = Instant::now();
            let mut done = 0u32;
            let mut leases = leases.into_iter();
            while let Some(lease) = leases.next() {
                // Small ones are in memory, and need not be touched more than this.
                let read;
                let bytes: &[u8] = match lease.body() {
                    Body::Memory(bytes) => bytes,
                    body => match body.to_bytes() {
                        Ok(bytes) => {
                            read = bytes;
                            &read
                        }
                        Err(error) => {
                            let why = format!("its arguments cannot be read back: {error}");
                            answers.push((lease, Answer::failed(why)));
                            continue;
                        }
                    },
                };
                let chunk = match Chunk::read(bytes) {
                    Ok(chunk) => chunk,
                    Err(why) => {
                        answers.push((lease, Answer::failed(why)));
                        continue;
                    }
                };
                if chunk.manner.limit == 0 {
                    let answer = self.call_all(chunk);
                    answers.push((lease, answer));
                } else {
                    // If it takes too long this thread does not come back: what is done must be on its way, and what is not begun
                    // in other hands.
                    slot.finish_many(answers.drain(..));
                    let rest: Vec<Lease<Body>> = leases.by_ref().collect();
                    let bytes = Bytes::copy_from_slice(bytes);
                    leases = self
                        .call_limited(&mut slot, lease, &bytes, rest)
                        .into_iter();
                }
                done += 1;
                if done.is_multiple_of(16) && since.elapsed() > GROUP {
                    slot.finish_many(answers.drain(..));
                    since = Instant::now();
                }
            }
            self.busy.store(false, Ordering::Release);
            slot.finish_many(answers);
        }
    }

    /// Makes a chunk's calls, as many as it may.
    fn call_all(&mut self, chunk: Chunk<'_>) -> Answer<Body> {
        let Manner { cut, .. } = chunk.manner;
        let mut entries = Entries::results(chunk.arguments.left());
        let mut exit = 0;
        let began = (cut > 0).then(Instant::now);
        let mut glance = 1;
        let known = self.find(chunk.name);
        for arguments in chunk.arguments {
            if !self.may_call() {
                break;
            }
            match known.clone().and_then(|entry| run(entry, arguments)) {
                Ok(value) => entries.push(&value),
                Err(fault) => {
                    exit = FAILED;
                    entries.push_fault(&fault);
                }
            }
            if entries.count() >= glance
                && let Some(began) = began
            {
                let taken = began.elapsed();
                if taken.as_millis() as u64 >= cut {
                    break;
                }
                let mean = (taken.as_nanos() / u128::from(entries.count())).max(1);
                let more = GLANCE.as_nanos() / mean;
                glance = entries.count() + (more as u32).clamp(1, GLANCE_CALLS);
            }
        }
        answer(entries, exit)
    }

    /// Makes the calls of a chunk that have a time limit. When one takes longer, its worker leaves, and this does not return.
    fn call_limited(
        &mut self,
        slot: &mut Slot<Body, Body>,
        lease: Lease<Body>,
        chunk: &[u8],
        rest: Vec<Lease<Body>>,
    ) -> Vec<Lease<Body>> {
        let chunk = match Chunk::read(chunk) {
            Ok(chunk) => chunk,
            Err(why) => {
                slot.finish(lease, Answer::failed(why));
                return rest;
            }
        };
        let Manner { limit, cut } = chunk.manner;
        let known = self.find(chunk.name);
        let entries = Entries::results(chunk.arguments.left());
        let began = Instant::now();
        self.limit
            .begin(slot.twin(), lease, entries, rest, self.handle);
        for arguments in chunk.arguments {
            if !self.may_call() {
                break;
            }
            self.limit.set(Some(Duration::from_millis(limit)));
            let value = known.clone().and_then(|entry| run(entry, arguments));
            self.limit.set(None);
            self.limit.push(value);
            if cut > 0 && began.elapsed().as_millis() as u64 >= cut {
                break;
            }
        }
        let (lease, entries, failed, rest) = self.limit.end();
        slot.finish(lease, answer(entries, if failed { FAILED } else { 0 }));
        rest
    }

    /// Whether another call may be made here; counts it.
    fn may_call(&mut self) -> bool {
        if self.max_tasks == 0 {
            return true;
        }
        if self.made >= self.max_tasks {
            return false;
        }
        self.made += 1;
        if self.made == self.max_tasks {
            // What has not begun goes back while the last call runs.
            self.handle.leave();
        }
        true
    }

    fn find(&mut self, name: &str) -> Result<&'static Entry, Fault> {
        if let Some((known, entry)) = &self.known
            && known == name
        {
            return entry.clone();
        }
        let found =
            registry::find(name).map_err(|error| Fault::new(kind::UNKNOWN, error.to_string()));
        self.known = Some((name.to_owned(), found.clone()));
        found
    }
}

fn run(entry: &Entry, arguments: &[u8]) -> Result<Vec<u8>, Fault> {
    entry.run(arguments).map_err(Fault::of)
}

fn answer(entries: Entries, exit: i32) -> Answer<Body> {
    match to_body(entries.finish()) {
        Ok(body) => Answer {
            value: Ok(body),
            exit,
            signal: 0,
            obituary: None,
            is_final: false,
        },
        Err(error) => Answer::failed(format!("there is no room for its value: {error}")),
    }
}

/// What a call that took too long leaves, sent by whoever noticed.
pub(super) fn finish_expired(
    slot: &mut Slot<Body, Body>,
    lease: Lease<Body>,
    mut entries: Entries,
    rest: Vec<Lease<Body>>,
) {
    entries.push_fault(&Fault::new(kind::TIMED_OUT, String::new()));
    slot.finish(lease, answer(entries, TIMED_OUT));
    // Not begun: made elsewhere.
    slot.finish_many(
        rest.into_iter()
            .map(|lease| (lease, answer(Entries::results(0), 0))),
    );
}
