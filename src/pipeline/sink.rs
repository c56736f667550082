//! The sink: gathers results.

use crate::hub::outside::Instant;
use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::marker::PhantomData;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::by_queue::{self, Gathering, Queues, Reply};
use super::{Cause, random_id};
use crate::error::{Error, Result};
use crate::hub::gather::{Arrived, Deliver, Gather, Joined, KeptBox, Settings, Shared, Waited};
use crate::journal::{Journal, Record};
use crate::keys::Proof;
use crate::obituary::Obituary;
use crate::registry::panics::text_of;
use crate::wire::access::Means;
use crate::wire::body::Body;
use crate::wire::endpoint::{Endpoint, Transport};
use crate::wire::frame::{Kept, Pill};
use crate::wire::id_set::IdSet;
use crate::wire::payload::Payload;
use crate::wire::wake::Waker;

/// Under keep-order, results that wait for their turn have so many bytes in memory at most; the rest is in a temporary file.
const IN_TURN_MEMORY: usize = 4 << 20;
/// A temporary file of waiting results is begun anew after so many bytes, so that old ones can go.
const SPOOL: u64 = 64 << 20;
/// So many bytes are acknowledged as taken in even when no result was kept; less than the smallest window.
const MANY_BYTES: u64 = 32 << 10;
/// Acknowledgements are held back no longer than this while more results are there.
const HOLD_BACK: Duration = Duration::from_millis(4);

/// Gathers results of type `R`.
///
/// It is an iterator of [`Outcome`]s that ends with the poison pill. A result counts as kept, and is acknowledged, when the
/// next one is asked for (or, with [`SinkBuilder::keep_by_hand`], when the program says so): if the sink dies before, another
/// one gets it. When the ventilator dies the sink dials again until [`patience`](SinkBuilder::patience) is at its end.
pub struct Sink<R: Payload> {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<()>>>,
    here: VecDeque<Arrived>,
    turn: Option<Turn>,
    mine: KeptBox,
    held_since: Option<Instant>,
    by_hand: bool,
    /// What the program holds and has not asked beyond.
    given: Option<Receipt>,
    pill: Option<Pill>,
    ended: bool,
    joined: Joined,
    dir: Option<std::path::PathBuf>,
    /// What an earlier life of this sink had kept.
    before: IdSet,
    journal: Option<Journal>,
    /// What could not be recorded, and so is not acknowledged.
    unrecorded: Option<Error>,
    types: PhantomData<fn() -> R>,
}

/// Results in the order of their tasks.
struct Turn {
    next: u64,
    /// Done in an earlier life of the sink.
    done: IdSet,
    waiting: BTreeMap<u64, Arrived>,
    memory: usize,
    spool: Option<(Arc<File>, u64)>,
}

/// A task's result.
#[derive(Debug)]
#[non_exhaustive]
pub struct Outcome<R> {
    /// The task's number, from 1, in the order of input.
    pub id: u64,
    /// The attempt that this is the result of; 1 unless the task was tried again or handed on.
    pub attempt: u32,
    /// The worker's id; 0 when the ventilator reports a task that nobody survives.
    pub worker: u64,
    /// Exit status: 0 is success.
    pub exit: i32,
    /// The signal that ended it; 0 for none.
    pub signal: i32,
    /// How long it ran.
    pub time: Duration,
    /// The value, or why there is none.
    pub result: std::result::Result<R, TaskError>,
    /// How attempts at the task ended that failed, the last ones; this one too, if it did.
    pub obituaries: Vec<Obituary>,
    /// To be given to [`Sink::keep`].
    pub receipt: Receipt,
}

impl<R> Outcome<R> {
    /// Whether the task failed.
    #[must_use]
    pub const fn failed(&self) -> bool {
        self.exit != 0 || self.signal != 0
    }
}

/// Why a task has no value: a panic's message, an error's text, or that every worker died of it.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message}")]
#[non_exhaustive]
pub struct TaskError {
    /// The text.
    pub message: String,
    /// How the task's attempts ended, the last ones.
    pub obituaries: Vec<Obituary>,
}

/// The right to acknowledge one result.
#[derive(Clone, Copy, Debug)]
#[must_use = "a result that is not kept is sent again to the next sink"]
pub struct Receipt {
    kept: Kept,
}

/// What [`Sink::try_get`] found.
#[derive(Debug)]
pub enum Got<R> {
    /// A result.
    Outcome(Box<Outcome<R>>),
    /// None now.
    Nothing,
    /// None any more: the pill came.
    Ended,
}

/// How a [`Sink`] shall be.
pub struct SinkBuilder {
    on_dial: Option<Box<dyn FnOnce(SinkHandle) + Send>>,
    bind: Option<String>,
    tcp_host: Option<String>,
    ports: Option<(u16, u16)>,
    patience: Duration,
    means: Means,
    ordered: bool,
    by_hand: bool,
    deliver: Option<Deliver>,
    reply: Option<Reply>,
    journal: Option<Journal>,
}

impl SinkBuilder {
    /// Writes down which results were kept, before they are acknowledged: a sink that is started again after it was killed gets none
    /// of them again. See [`Journal`].
    #[must_use]
    pub fn journal(mut self, journal: &Journal) -> Self {
        self.journal = Some(journal.clone());
        self
    }

    /// Gathers results at this endpoint; by default at one of the same transport as the ventilator's.
    #[must_use]
    pub fn bind(mut self, endpoint: impl Into<String>) -> Self {
        self.bind = Some(endpoint.into());
        self
    }

    /// Gathers results by TCP too, on this host's address or interface, at a port of [`lane_ports`](Self::lane_ports): a sink in the
    /// ventilator's own process, when workers of other processes may come.
    #[must_use]
    pub fn gather_on(mut self, host: impl Into<String>) -> Self {
        self.tcp_host = Some(host.into());
        self
    }

    /// The TCP ports to choose from (any free one).
    #[must_use]
    pub fn lane_ports(mut self, first: u16, last: u16) -> Self {
        self.ports = Some((first, last));
        self
    }

    /// How long to wait for a ventilator (30 s).
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

    /// Gives results in the order of their tasks. What comes early waits in memory and in a temporary file, not acknowledged, and
    /// the ventilator reads no further than a window ahead of the first that is missing.
    #[must_use]
    pub fn keep_order(mut self, ordered: bool) -> Self {
        self.ordered = ordered;
        self
    }

    /// Gives results to this function, in the sink's own thread, instead of to who asks for them.
    #[must_use]
    pub(crate) fn deliver(mut self, deliver: Deliver) -> Self {
        self.deliver = Some(deliver);
        self
    }

    /// The results of a pool at a queue.
    pub(crate) fn reply(mut self, reply: Reply) -> Self {
        self.reply = Some(reply);
        self
    }

    /// Nothing is acknowledged before the program calls [`Sink::keep`].
    #[must_use]
    pub fn keep_by_hand(mut self) -> Self {
        self.by_hand = true;
        self
    }

    /// Called with the sink's handle before it dials, so that a wait for a ventilator can be broken off.
    #[must_use]
    pub fn on_dial(mut self, call: impl FnOnce(SinkHandle) + Send + 'static) -> Self {
        self.on_dial = Some(Box::new(call));
        self
    }

    /// Binds, dials, and waits for the welcome. A [queue's URL](crate::engine::Address) leads to a run that goes through that queue; it waits
    /// for its ventilator then, however long that takes.
    ///
    /// # Errors
    /// [`Error::NobodyThere`], [`Error::Refused`] (there is a live sink already), or a bad endpoint.
    pub fn connect<R: Payload>(self, endpoint: &str) -> Result<Sink<R>> {
        if by_queue::is_queue(endpoint) {
            return self.take_from(endpoint);
        }
        let endpoint: Endpoint = endpoint.parse()?;
        let credentials = self.means.to_dial(&endpoint)?;
        let bind = match &self.bind {
            Some(text) => Some(text.parse::<Endpoint>()?),
            None => None,
        };
        // Only members of the run get in there, and only where the run is insecure it may be otherwise.
        let by_tcp = endpoint.transport() == Transport::Tcp
            || self.tcp_host.is_some()
            || bind
                .as_ref()
                .is_some_and(|bind| bind.transport() == Transport::Tcp);
        let guard = match by_tcp {
            true => self.means.to_gather()?,
            false => None,
        };
        let (gather, shared, joined) = Gather::connect(
            Settings {
                endpoint,
                credentials,
                guard,
                bind,
                tcp_host: self.tcp_host,
                ports: self.ports,
                peer: random_id()?,
                patience: self.patience,
                ordered: self.ordered,
                deliver: self.deliver,
                run: match &self.journal {
                    Some(journal) => journal.run()?,
                    None => 0,
                },
            },
            |shared, dir| {
                if let Some(call) = self.on_dial {
                    call(SinkHandle {
                        shared: Arc::clone(shared),
                        dir: dir.map(std::path::Path::to_owned),
                    });
                }
            },
        )?;
        let dir = gather.private_dir().map(std::path::Path::to_owned);
        Sink::new(
            (shared, dir, joined),
            (self.ordered, self.by_hand, self.journal),
            || gather.run(),
        )
    }

    /// The sink of a run that goes through a queue.
    fn take_from<R: Payload>(self, url: &str) -> Result<Sink<R>> {
        let queues = Queues::new(url, self.means, self.patience)?;
        let waker = Waker::new().map_err(|error| Error::system("cannot make an eventfd", error))?;
        let shared = Shared::new(waker);
        if let Some(call) = self.on_dial {
            call(SinkHandle {
                shared: Arc::clone(&shared),
                dir: None,
            });
        }
        if let Some((reply, deliver)) = self.reply.zip(self.deliver) {
            let results = Gathering::of_pool(queues, &shared, reply, deliver)?;
            let joined = Some(results.joined());
            return Sink::new((shared, None, joined), (false, false, None), || {
                results.run()
            });
        }
        let (gathering, joined) = Gathering::connect(queues, &shared, self.ordered)?;
        Sink::new(
            (shared, None, joined),
            (self.ordered, self.by_hand, self.journal),
            || gathering.run(),
        )
    }
}

impl Sink<()> {
    /// Settings of a sink.
    #[must_use]
    pub fn builder() -> SinkBuilder {
        SinkBuilder {
            on_dial: None,
            bind: None,
            tcp_host: None,
            ports: None,
            patience: Duration::from_secs(30),
            means: Means::default(),
            ordered: false,
            by_hand: false,
            deliver: None,
            reply: None,
            journal: None,
        }
    }
}

impl<R: Payload> Sink<R> {
    fn new(
        (shared, dir, joined): (Arc<Shared>, Option<std::path::PathBuf>, Option<Joined>),
        (ordered, by_hand, journal): (bool, bool, Option<Journal>),
        gather: impl FnOnce() -> Result<()> + Send + 'static,
    ) -> Result<Self> {
        let joined = joined.unwrap_or_default();
        let thread = std::thread::Builder::new()
            .name("sink".to_owned())
            .spawn(gather)
            .map_err(|error| Error::system("cannot start the sink's thread", error))?;
        let turn = ordered.then(|| Turn {
            next: joined.acked.first_missing(1),
            done: joined.acked.clone(),
            waiting: BTreeMap::new(),
            memory: 0,
            spool: None,
        });
        let mut sink = Self {
            shared,
            thread: Some(thread),
            here: VecDeque::new(),
            turn,
            mine: KeptBox::default(),
            held_since: None,
            by_hand,
            given: None,
            pill: None,
            ended: false,
            joined,
            dir,
            before: IdSet::new(),
            journal: None,
            unrecorded: None,
            types: PhantomData,
        };
        if let Some(journal) = journal.filter(|_| sink.joined.run != 0) {
            sink.go_on_with(journal)?;
        }
        Ok(sink)
    }

    /// The sink of the pipeline whose ventilator listens at `endpoint`.
    ///
    /// # Errors
    /// As [`SinkBuilder::connect`].
    pub fn connect(endpoint: &str) -> Result<Self> {
        Sink::<()>::builder().connect(endpoint)
    }

    /// What the ventilator's program said about the run.
    ///
    /// # Errors
    /// When it said something else than a `J`.
    pub fn job<J: DeserializeOwned>(&self) -> Result<J> {
        rmp_serde::from_slice(&self.joined.job).map_err(|error| Error::Encoding {
            what: "the run's job".to_owned(),
            why: error.to_string(),
        })
    }

    /// Whether this run has had a sink before.
    #[must_use]
    pub const fn is_resumed(&self) -> bool {
        self.joined.resumed
    }

    /// The run's id; 0 when it ended before it was joined.
    #[must_use]
    pub const fn run_id(&self) -> u64 {
        self.joined.run
    }

    /// The tasks that had a result when this sink joined.
    #[must_use]
    pub const fn done_before(&self) -> &IdSet {
        &self.joined.acked
    }

    /// What an earlier life of this sink had recorded as kept it acknowledges again, where that is not known.
    fn go_on_with(&mut self, journal: Journal) -> Result<()> {
        if journal.run()? == 0 {
            journal.set_run(self.joined.run)?;
        }
        self.before = journal.done().clone();
        let acked = self.joined.acked.clone();
        if let Some(turn) = &mut self.turn {
            for (first, count) in self.before.ranges() {
                turn.done.insert_range(first, count);
            }
        }
        journal.each_kept(&acked, |kept| {
            self.mine.push(kept);
            if self.mine.kept.len() >= 4096 {
                self.shared.acknowledge(&mut self.mine);
            }
        })?;
        self.shared.acknowledge(&mut self.mine);
        self.journal = Some(journal);
        Ok(())
    }

    /// The next result; waits for it. `None` behind the last one.
    ///
    /// # Errors
    /// [`Error::VentilatorLost`].
    pub fn get(&mut self) -> Result<Option<Outcome<R>>> {
        match self.next_until(None)? {
            Got::Outcome(outcome) => Ok(Some(*outcome)),
            Got::Nothing | Got::Ended => Ok(None),
        }
    }

    /// The next result if it is there.
    ///
    /// # Errors
    /// [`Error::VentilatorLost`].
    #[doc(alias = "get_nowait")]
    pub fn try_get(&mut self) -> Result<Got<R>> {
        self.next_until(Some(Instant::now()))
    }

    /// The next result if it comes before `timeout` has passed.
    ///
    /// # Errors
    /// [`Error::VentilatorLost`].
    pub fn get_timeout(&mut self, timeout: Duration) -> Result<Got<R>> {
        self.next_until(Some(Instant::now() + timeout))
    }

    fn next_until(&mut self, deadline: Option<Instant>) -> Result<Got<R>> {
        if let Some(receipt) = self.given.take() {
            self.keep(receipt);
        }
        if self
            .held_since
            .is_some_and(|since| since.elapsed() > HOLD_BACK)
        {
            self.acknowledge();
        }
        loop {
            if let Some(error) = self.unrecorded.take() {
                return Err(error);
            }
            if let Some(arrived) = self.next_here() {
                let outcome = self.outcome(arrived);
                return Ok(Got::Outcome(Box::new(outcome)));
            }
            if self.ended {
                return self.ended();
            }
            // Bytes taken in are no news by themselves, before they are many.
            if !self.mine.kept.is_empty() || self.mine.absorbed.values().sum::<u64>() > MANY_BYTES {
                self.acknowledge();
            }
            match self.shared.wait(deadline) {
                Waited::Arrived(arrived) => self.here = arrived,
                Waited::Nothing => return Ok(Got::Nothing),
                Waited::Ended(pill) => {
                    self.pill = pill;
                    self.ended = true;
                }
            }
        }
    }

    /// Behind the pill: the rest that waited for its turn was stopped before it was done, and has gaps.
    fn ended(&mut self) -> Result<Got<R>> {
        if let Some(turn) = &mut self.turn
            && let Some((_, arrived)) = turn.waiting.pop_first()
        {
            let outcome = self.outcome(arrived);
            return Ok(Got::Outcome(Box::new(outcome)));
        }
        self.acknowledge();
        if let Some(error) = self.unrecorded.take() {
            return Err(error);
        }
        if self.pill.is_none() {
            // The loop ended by itself: for a reason.
            self.join()?;
        }
        Ok(Got::Ended)
    }

    /// The next one of those that have arrived whose turn it is.
    fn next_here(&mut self) -> Option<Arrived> {
        let Some(turn) = &mut self.turn else {
            loop {
                let arrived = self.here.pop_front()?;
                absorb(&mut self.mine, &arrived);
                if !self.before.contains(arrived.id) {
                    return Some(arrived);
                }
                self.mine.push(arrived.kept());
            }
        };
        loop {
            turn.next = turn.done.first_missing(turn.next);
            if let Some(entry) = turn.waiting.first_entry()
                && *entry.key() == turn.next
            {
                turn.next += 1;
                let arrived = entry.remove();
                turn.memory -= arrived.body.in_memory();
                return Some(arrived);
            }
            let arrived = self.here.pop_front()?;
            absorb(&mut self.mine, &arrived);
            if self.before.contains(arrived.id) {
                self.mine.push(arrived.kept());
                continue;
            }
            if arrived.id == turn.next {
                turn.next += 1;
                return Some(arrived);
            }
            turn.wait(arrived);
        }
    }

    fn outcome(&mut self, arrived: Arrived) -> Outcome<R> {
        let receipt = Receipt {
            kept: arrived.kept(),
        };
        if !self.by_hand {
            self.given = Some(receipt);
        }
        let result = if arrived.error {
            let text = arrived.body.to_bytes().unwrap_or_default();
            Err(TaskError {
                message: String::from_utf8_lossy(&text).into_owned(),
                obituaries: arrived.obituaries.clone(),
            })
        } else {
            R::from_body(arrived.body).map_err(|message| TaskError {
                message,
                obituaries: arrived.obituaries.clone(),
            })
        };
        Outcome {
            id: arrived.id,
            attempt: arrived.attempt,
            worker: arrived.worker,
            exit: arrived.exit,
            signal: arrived.signal,
            time: Duration::from_micros(arrived.micros),
            result,
            obituaries: arrived.obituaries,
            receipt,
        }
    }

    /// This result is safe: it may be acknowledged. Acknowledgements go out when the next result is asked for, or with
    /// [`acknowledge`](Self::acknowledge).
    pub fn keep(&mut self, receipt: Receipt) {
        self.mine.push(receipt.kept);
        self.held_since.get_or_insert_with(Instant::now);
    }

    /// A task whose result an earlier life of this sink had kept (and perhaps not acknowledged): it counts as done.
    pub fn keep_from_before(&mut self, id: u64, exit: i32, signal: i32, time: Duration) {
        if let Some(turn) = &mut self.turn {
            turn.done.insert(id);
        }
        self.before.insert(id);
        self.mine.push(Kept {
            first: id,
            count: 1,
            attempt: 0,
            worker: 0,
            exit,
            signal,
            micros: time.as_micros() as u64,
        });
        if self.mine.kept.len() >= 4096 {
            self.acknowledge();
        }
    }

    /// How many results were dropped here because their tasks had one already: what is run twice is not seen twice.
    #[must_use]
    pub fn doubles_dropped(&self) -> u64 {
        self.shared.doubles()
    }

    /// Sends the acknowledgements of what was kept.
    pub fn acknowledge(&mut self) {
        self.held_since = None;
        if let Some(journal) = &self.journal
            && !self.mine.kept.is_empty()
        {
            let kept = Record::Kept(std::mem::take(&mut self.mine.kept));
            match journal.write(std::slice::from_ref(&kept)) {
                Ok(()) => {
                    if let Record::Kept(kept) = kept {
                        self.mine.kept = kept;
                    }
                }
                // Not acknowledged: it comes again to who goes on with the journal.
                Err(error) => self.unrecorded = Some(error),
            }
        }
        self.shared.acknowledge(&mut self.mine);
    }

    /// Why the run ended, and how many tasks had a result and how many of these failed; `None` before the pill.
    #[must_use]
    pub fn end(&self) -> Option<(Cause, u64, u64)> {
        self.pill
            .map(|pill| (Cause::from_number(pill.cause), pill.done, pill.failed))
    }

    /// Leaves, and ends the run: nobody wants what is still to come. `why` is for people.
    ///
    /// # Errors
    /// What had ended the sink before.
    pub fn close_and_end(mut self, why: &str) -> Result<()> {
        self.acknowledge();
        self.shared.leave_because(why);
        self.join()
    }

    /// Leaves: what was kept is acknowledged, and the goodbye said.
    ///
    /// # Errors
    /// What had ended the sink before.
    pub fn close(mut self) -> Result<()> {
        if let Some(receipt) = self.given.take() {
            self.keep(receipt);
        }
        self.acknowledge();
        let left = self.join();
        self.unrecorded.take().map_or(left, Err)
    }

    /// A handle that stops the sink from another thread.
    #[must_use]
    pub fn handle(&self) -> SinkHandle {
        SinkHandle {
            shared: Arc::clone(&self.shared),
            dir: self.dir.clone(),
        }
    }

    fn join(&mut self) -> Result<()> {
        self.shared.leave();
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(outcome)) => outcome,
            Some(Err(panic)) => Err(Error::Ended(format!(
                "the sink's thread panicked: {}",
                text_of(panic)
            ))),
            None => Ok(()),
        }
    }
}

impl<R: Payload> Iterator for Sink<R> {
    type Item = Result<Outcome<R>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get().transpose()
    }
}

impl<R: Payload> Drop for Sink<R> {
    fn drop(&mut self) {
        // What the program held last was not asked beyond: it is not kept.
        self.acknowledge();
        if self.thread.is_some()
            && let Err(error) = self.join()
        {
            log::warn!("{error}");
        }
    }
}

/// Stops a [`Sink`] from another thread.
#[derive(Clone, Debug)]
pub struct SinkHandle {
    shared: Arc<Shared>,
    dir: Option<std::path::PathBuf>,
}

impl SinkHandle {
    /// The sink's private directory with its socket, where it has one; it is removed at the end.
    #[must_use]
    pub fn private_dir(&self) -> Option<&std::path::Path> {
        self.dir.as_deref()
    }

    /// Leaves: [`Sink::get`] gives what has arrived, and then ends.
    pub fn leave(&self) {
        self.shared.leave();
    }
}

fn absorb(mine: &mut KeptBox, arrived: &Arrived) {
    *mine
        .absorbed
        .entry((arrived.worker, arrived.link))
        .or_default() += arrived.cost;
}

impl Turn {
    fn wait(&mut self, mut arrived: Arrived) {
        if let Body::Memory(bytes) = &arrived.body {
            if self.memory + bytes.len() > IN_TURN_MEMORY {
                match self.spool(bytes) {
                    Ok(body) => arrived.body = body,
                    Err(error) => {
                        log::warn!(
                            "a result that waits for its turn stays in memory: no temporary file: {error}"
                        );
                    }
                }
            } else {
                // A copy of its own: a slice would keep the whole message that it came in.
                arrived.body = Body::from(bytes.to_vec());
            }
        }
        self.memory += arrived.body.in_memory();
        self.waiting.insert(arrived.id, arrived);
    }

    fn spool(&mut self, bytes: &[u8]) -> std::io::Result<Body> {
        let (file, offset) = match self.spool.take() {
            Some((file, len)) if len < SPOOL => (file, len),
            _ => (Arc::new(tempfile::tempfile()?), 0),
        };
        file.write_all_at(bytes, offset)?;
        let len = bytes.len() as u64;
        self.spool = Some((Arc::clone(&file), offset + len));
        Ok(Body::File { file, offset, len })
    }
}
