//! The sink's event loop: takes results in, hands each task's first one to the program, and acknowledges what the program
//! has kept.

use crate::hub::outside::{Instant, Socket, poll};
use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustc_hash::FxHashMap;

use super::dial::{Dial, Need, say_malformed};
use super::hand_over;
use super::host::{host_name, machine_id};
use super::outbox::{cost, weight};
use crate::error::{Error, Result};
use crate::obituary::Obituary;
use crate::wire::access::{Credentials, Server};
use crate::wire::body::{Arriving, Body};
use crate::wire::endpoint::{Endpoint, Transport};
use crate::wire::frame::{
    self, Ack, Goodbye, Heartbeat, Hello, Kept, Message, PeerId, Pill, Place, ResultEntry, Role,
    RunId, TaskId, Welcome, kind,
};
use crate::wire::id_set::IdSet;
use crate::wire::runtime_dir::RuntimeDir;
use crate::wire::same_host;
use crate::wire::socket::{Kind, LinkEvent};
use crate::wire::wake::Waker;

/// Acknowledgements go out in groups of so many, or after so long: each message wakes two event loops.
const GROUP: u64 = 512;
const HOLD_BACK: Duration = Duration::from_millis(4);

/// A result that has arrived.
#[derive(Debug)]
pub(crate) struct Arrived {
    pub(crate) id: TaskId,
    pub(crate) attempt: u32,
    pub(crate) worker: PeerId,
    pub(crate) exit: i32,
    pub(crate) signal: i32,
    pub(crate) micros: u64,
    pub(crate) body: Body,
    /// There is no value: the body is an error's text.
    pub(crate) error: bool,
    pub(crate) link: u32,
    /// How the task's attempts ended that failed.
    pub(crate) obituaries: Vec<Obituary>,
    /// What it counts against its sender's window.
    pub(crate) cost: u64,
}

impl Arrived {
    /// What is said of it when it is kept.
    pub(crate) const fn kept(&self) -> Kept {
        Kept {
            first: self.id,
            count: 1,
            attempt: self.attempt,
            worker: self.worker,
            exit: self.exit,
            signal: self.signal,
            micros: self.micros,
        }
    }
}

/// What the program and the event loop share.
#[derive(Debug)]
pub(crate) struct Shared {
    queue: Mutex<Queue>,
    ready: Condvar,
    kept: Mutex<KeptBox>,
    waker: Waker,
    leave: AtomicBool,
    /// How many results were dropped that were there already.
    doubles: AtomicU64,
    /// Whether the run shall end with us, and why.
    end: AtomicBool,
    why: Mutex<String>,
}

#[derive(Debug, Default)]
struct Queue {
    arrived: VecDeque<Arrived>,
    pill: Option<Pill>,
    closed: bool,
}

#[derive(Debug, Default)]
pub(crate) struct KeptBox {
    pub(crate) kept: Vec<Kept>,
    pub(crate) absorbed: FxHashMap<(PeerId, u32), u64>,
}

impl KeptBox {
    /// Adds what was kept; tasks that ended alike, one after the other, become one entry.
    pub(crate) fn push(&mut self, kept: Kept) {
        if let Some(last) = self.kept.last_mut()
            && last.first + last.count == kept.first
            && last.worker == kept.worker
            && last.attempt == kept.attempt
            && last.exit == kept.exit
            && last.signal == kept.signal
        {
            last.count += kept.count;
            last.micros = last.micros.saturating_add(kept.micros);
            return;
        }
        self.kept.push(kept);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.kept.is_empty() && self.absorbed.is_empty()
    }
}

/// What came of waiting for results.
pub(crate) enum Waited {
    Arrived(VecDeque<Arrived>),
    Nothing,
    Ended(Option<Pill>),
}

impl Shared {
    pub(crate) fn new(waker: Waker) -> Arc<Self> {
        Arc::new(Self {
            queue: Mutex::default(),
            ready: Condvar::new(),
            kept: Mutex::default(),
            waker,
            leave: AtomicBool::new(false),
            doubles: AtomicU64::new(0),
            end: AtomicBool::new(false),
            why: Mutex::default(),
        })
    }

    pub(crate) const fn waker(&self) -> &Waker {
        &self.waker
    }

    /// Whether it was told to leave, and whether the run is to end with it.
    pub(crate) fn is_leaving(&self) -> (bool, bool) {
        (
            self.leave.load(Ordering::Acquire),
            self.end.load(Ordering::Acquire),
        )
    }

    /// Results for the program.
    pub(crate) fn deliver(&self, arrived: impl IntoIterator<Item = Arrived>) {
        self.queue().arrived.extend(arrived);
        self.ready.notify_all();
    }

    /// A result was dropped because its task had one already.
    pub(crate) fn dropped_double(&self) {
        self.doubles.fetch_add(1, Ordering::Relaxed);
    }

    /// What the program has kept since this was asked last.
    pub(crate) fn take_kept(&self) -> Vec<Kept> {
        let mut all = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        all.absorbed.clear();
        std::mem::take(&mut all.kept)
    }

    /// No more results will come.
    pub(crate) fn close(&self, pill: Option<Pill>) {
        let mut queue = self.queue();
        queue.pill = pill;
        queue.closed = true;
        drop(queue);
        self.ready.notify_all();
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All that has arrived; waits for the first until `deadline`.
    pub(crate) fn wait(&self, deadline: Option<Instant>) -> Waited {
        let mut queue = self.queue();
        loop {
            if !queue.arrived.is_empty() {
                return Waited::Arrived(std::mem::take(&mut queue.arrived));
            }
            if queue.pill.is_some() || queue.closed {
                return Waited::Ended(queue.pill);
            }
            queue = match deadline {
                None => self
                    .ready
                    .wait(queue)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Waited::Nothing;
                    }
                    self.ready
                        .wait_timeout(queue, left)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
            };
        }
    }

    /// Hands over what was kept since the last time.
    pub(crate) fn acknowledge(&self, mine: &mut KeptBox) {
        if mine.is_empty() {
            return;
        }
        let mut all = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        for kept in mine.kept.drain(..) {
            all.push(kept);
        }
        for (link, bytes) in mine.absorbed.drain() {
            *all.absorbed.entry(link).or_default() += bytes;
        }
        drop(all);
        self.waker.wake();
    }

    pub(crate) fn leave_because(&self, why: &str) {
        *self.why.lock().unwrap_or_else(PoisonError::into_inner) = why.to_owned();
        self.end.store(true, Ordering::Release);
        self.leave();
    }

    /// How many results were dropped because the task had one already.
    pub(crate) fn doubles(&self) -> u64 {
        self.doubles.load(Ordering::Relaxed)
    }

    pub(crate) fn leave(&self) {
        self.leave.store(true, Ordering::Release);
        self.waker.wake();
    }
}

/// Takes results in place of the queue, in the sink's own thread: nobody has to be woken for them. They count as kept.
pub(crate) type Deliver = Box<dyn FnMut(VecDeque<Arrived>) + Send>;

/// What a sink needs to know.
pub(crate) struct Settings {
    pub(crate) endpoint: Endpoint,
    pub(crate) credentials: Credentials,
    /// Guards where results come in by TCP; plain without.
    pub(crate) guard: Option<Arc<Server>>,
    /// Where to gather results, beyond what follows from `endpoint`.
    pub(crate) bind: Option<Endpoint>,
    pub(crate) tcp_host: Option<String>,
    pub(crate) ports: Option<(u16, u16)>,
    pub(crate) peer: PeerId,
    pub(crate) patience: Duration,
    pub(crate) ordered: bool,
    pub(crate) deliver: Option<Deliver>,
    /// The run that it goes on with; 0: any.
    pub(crate) run: RunId,
}

/// What the ventilator said at the welcome.
#[derive(Clone, Debug, Default)]
pub(crate) struct Joined {
    pub(crate) job: Vec<u8>,
    pub(crate) resumed: bool,
    pub(crate) acked: IdSet,
    pub(crate) run: RunId,
}

pub(crate) struct Gather {
    settings: Settings,
    shared: Arc<Shared>,
    dial: Dial,
    results: Socket,
    endpoints: Vec<String>,
    acks: Option<Socket>,
    dir: Option<RuntimeDir>,
    run: RunId,
    heartbeat: Duration,
    /// Acknowledgements that the ventilator has not confirmed, with their numbers.
    unconfirmed: VecDeque<(u64, Vec<u8>)>,
    number: u64,
    /// Results that were handed to the program, or need not be; and those of them that it has kept.
    seen: IdSet,
    kept: IdSet,
    /// By worker and its link, so that what comes late by a lost one is not mixed with what is sent again.
    parts: FxHashMap<(PeerId, u32, TaskId, u32), Arriving>,
    /// How attempts at tasks ended whose results come next.
    obituaries: FxHashMap<(PeerId, TaskId, u32), Vec<Obituary>>,
    absorbed: FxHashMap<(PeerId, u32), u64>,
    last_sent: Instant,
    /// When acknowledgements went out last, and whether some wait for their turn.
    acked_at: Instant,
    held_back: bool,
    pill: Option<Pill>,
    goodbye: bool,
}

impl Gather {
    /// Dials, says hello, and waits for the welcome.
    pub(crate) fn connect(
        settings: Settings,
        before_dialling: impl FnOnce(&Arc<Shared>, Option<&Path>),
    ) -> Result<(Self, Arc<Shared>, Option<Joined>)> {
        let waker = Waker::new().map_err(|error| Error::system("cannot make an eventfd", error))?;
        let shared = Shared::new(waker);
        let mut results = Socket::new(Kind::Pull)?
            .taking_rings()
            .guarded(settings.guard.as_ref());
        let (endpoints, dir) = bind_results(&mut results, &settings)?;
        before_dialling(&shared, dir.as_ref().map(RuntimeDir::path));
        let mut gather = Self {
            dial: Dial::new(
                "sink",
                &settings.endpoint,
                settings.credentials.clone(),
                settings.patience,
            )?,
            shared: Arc::clone(&shared),
            results,
            endpoints,
            acks: None,
            dir,
            run: settings.run,
            heartbeat: Duration::from_secs(1),
            unconfirmed: VecDeque::new(),
            number: 0,
            seen: IdSet::new(),
            kept: IdSet::new(),
            parts: FxHashMap::default(),
            obituaries: FxHashMap::default(),
            absorbed: FxHashMap::default(),
            last_sent: Instant::now(),
            acked_at: Instant::now(),
            held_back: false,
            pill: None,
            goodbye: false,
            settings,
        };
        gather.hello();
        let mut joined = None;
        while joined.is_none() && gather.pill.is_none() {
            poll(
                &[&gather.dial.socket],
                &shared.waker,
                Duration::from_millis(100),
            )?;
            if shared.leave.load(Ordering::Acquire) {
                break;
            }
            gather.dial.read_links()?;
            while let Some(bytes) = gather.dial.recv() {
                match frame::decode(&bytes) {
                    Ok(Message::Welcome(welcome)) => {
                        gather.on_welcome(&welcome)?;
                        joined = Some(Joined {
                            job: welcome.job,
                            resumed: welcome.resumed,
                            acked: gather.kept.clone(),
                            run: gather.run,
                        });
                    }
                    Ok(message) => gather.on_control(message)?,
                    Err(error) => say_malformed("sink", &error),
                }
            }
            if gather.dial.tick(gather.heartbeat)? == Need::Hello {
                gather.hello();
            }
        }
        Ok((gather, shared, joined))
    }

    /// Its private directory with its socket, where it has one.
    pub(crate) fn private_dir(&self) -> Option<&Path> {
        self.dir.as_ref().map(RuntimeDir::path)
    }

    /// Gathers until the pill or until told to leave.
    pub(crate) fn run(mut self) -> Result<()> {
        let outcome = self.serve();
        let mut queue = self.shared.queue();
        queue.pill = queue.pill.or(self.pill);
        queue.closed = true;
        drop(queue);
        self.shared.ready.notify_all();
        outcome
    }

    fn serve(&mut self) -> Result<()> {
        let mut next_tick = Instant::now() + self.heartbeat / 2;
        // What poll has said of control, results and acknowledgements; before the first one all are asked.
        let mut ready = vec![(true, true); 3];
        loop {
            self.pump(&ready)?;
            if self.goodbye {
                return Ok(());
            }
            let mut timeout = next_tick.saturating_duration_since(Instant::now());
            if self.held_back {
                timeout = timeout.min(HOLD_BACK);
            }
            let mut sockets = vec![&self.dial.socket, &self.results];
            sockets.extend(self.acks.as_ref());
            ready = poll(&sockets, &self.shared.waker, timeout)?;
            let now = Instant::now();
            if now > next_tick + self.heartbeat {
                self.dial.slept(now - next_tick);
            }
            if now >= next_tick {
                next_tick = now + self.heartbeat / 2;
                self.tick(now)?;
            }
        }
    }

    /// Everything that can be done without waiting. A socket that has nothing is not asked: each question is a system call.
    fn pump(&mut self, ready: &[(bool, bool)]) -> Result<()> {
        let on = |at: usize| ready.get(at).copied().unwrap_or_default();
        if on(0).1 {
            self.dial.read_links()?;
        }
        while on(0).0
            && let Some(bytes) = self.dial.recv()
        {
            match frame::decode(&bytes) {
                Ok(message) => self.on_control(message)?,
                Err(error) => say_malformed("sink", &error),
            }
        }
        if on(1).0 || self.shared.leave.load(Ordering::Acquire) {
            self.read_results();
        }
        self.send_acks();
        if on(2).1
            && let Some(acks) = &self.acks
        {
            let lost = acks.link_events().iter().any(LinkEvent::is_loss);
            if lost && self.pill.is_none() {
                self.acks = None;
                self.hello();
            }
        }
        if self.shared.leave.load(Ordering::Acquire) {
            self.say_goodbye();
        }
        Ok(())
    }

    fn say_goodbye(&mut self) {
        if std::mem::replace(&mut self.goodbye, true) || self.run == 0 {
            return;
        }
        self.dial.socket.set_linger(super::GOODBYE);
        if let Some(acks) = &self.acks {
            acks.set_linger(super::GOODBYE);
        }
        let goodbye = Goodbye {
            kind: kind::GOODBYE,
            run: self.run,
            why: self
                .shared
                .why
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
            end: self.shared.end.load(Ordering::Acquire),
        };
        self.dial.socket.send(frame::encode(&goodbye));
        if self.pill.is_none() {
            self.await_goodbye();
        }
    }

    /// Waits until the ventilator has heard it: the end of the acknowledgements' connection, seen before, would be a death.
    fn await_goodbye(&mut self) {
        let deadline = Instant::now() + super::GOODBYE;
        loop {
            while let Some(bytes) = self.dial.recv() {
                if let Ok(Message::Goodbye(_) | Message::Pill(_) | Message::Refused(_)) =
                    frame::decode(&bytes)
                {
                    return;
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let polled = poll(&[&self.dial.socket], &self.shared.waker, left);
            if left.is_zero()
                || polled.is_err()
                || self.dial.read_links().is_err()
                || self.dial.is_lost()
            {
                return;
            }
        }
    }

    fn hello(&mut self) {
        let hello = Hello {
            kind: kind::HELLO,
            magic: frame::MAGIC.to_owned(),
            version: frame::VERSION,
            role: Role::Sink as u8,
            peer: self.settings.peer,
            run: self.run,
            via: self.settings.endpoint.transport() as u8,
            slots: 0,
            host: host_name(),
            machine: machine_id(),
            pid: std::process::id(),
            held: Vec::new(),
            ordered: self.settings.ordered,
            endpoints: self.endpoints.clone(),
            rings: false,
            key: self
                .settings
                .guard
                .as_ref()
                .map(|guard| guard.pair().public().to_string())
                .unwrap_or_default(),
        };
        self.dial.greeted(frame::encode(&hello));
    }

    fn on_welcome(&mut self, welcome: &Welcome) -> Result<()> {
        if welcome.peer != self.settings.peer || !self.dial.is_greeting() {
            return Ok(());
        }
        let address: Endpoint = welcome.address.parse()?;
        let address =
            address.with_host_if_any(self.settings.endpoint.host().unwrap_or("127.0.0.1"));
        let mut acks = Socket::new(Kind::Push)?
            .without_reconnect()
            .proving(self.dial.client())
            .offering_rings(&address, same_host::SMALL);
        if address.transport() != Transport::Inproc {
            acks = acks.monitored()?;
        }
        acks.connect(&address)?;
        if let (Some(guard), Some(pass)) = (&self.settings.guard, welcome.pass()?) {
            guard.guests().let_in(pass.public(), "a member of the run");
        }
        self.dial.welcomed();
        self.run = welcome.run;
        self.heartbeat = Duration::from_millis(welcome.heartbeat.max(10).into());
        for &(first, count) in &welcome.acked {
            self.seen.insert_range(first, count);
            self.kept.insert_range(first, count);
        }
        self.confirm(welcome.ack);
        for (_, frame) in &self.unconfirmed {
            acks.send(frame.clone());
        }
        self.acks = Some(acks);
        Ok(())
    }

    fn confirm(&mut self, number: u64) {
        while self.unconfirmed.front().is_some_and(|&(n, _)| n <= number) {
            self.unconfirmed.pop_front();
        }
    }

    fn on_control(&mut self, message: Message) -> Result<()> {
        match message {
            Message::Welcome(welcome) => self.on_welcome(&welcome)?,
            Message::Heartbeat(beat) if beat.run == self.run => self.confirm(beat.ack),
            Message::Rejoin(pill) if pill.run == self.run && !self.dial.is_greeting() => {
                self.hello();
            }
            Message::Pill(pill) => {
                self.pill = Some(pill);
                self.shared.queue().pill = Some(pill);
                self.shared.ready.notify_all();
            }
            Message::Refused(refused) => {
                self.dial
                    .refused(refused.why, refused.again, self.heartbeat)?;
            }
            _ => {}
        }
        Ok(())
    }

    // ---- results ----

    fn read_results(&mut self) {
        let mut fresh = VecDeque::new();
        let mut again = KeptBox::default();
        // Bounded, so that heartbeats and acknowledgements have their turn.
        for _ in 0..256 {
            let Some(bytes) = self.results.recv() else {
                break;
            };
            match frame::decode(&bytes) {
                Ok(Message::Results(results)) if results.run == self.run => {
                    for entry in results.entries {
                        self.on_result(results.peer, results.link, entry, &mut fresh, &mut again);
                    }
                }
                Ok(Message::Part(part)) if part.run == self.run => {
                    let len = part.bytes.len() as u64;
                    *again.absorbed.entry((part.peer, part.link)).or_default() += len;
                    if self.seen.contains(part.id) {
                        continue;
                    }
                    let key = (part.peer, part.link, part.id, part.attempt);
                    self.parts
                        .entry(key)
                        .or_default()
                        .add(part.offset, &part.bytes);
                }
                Ok(Message::Obituaries(of)) if of.run == self.run => {
                    for (id, attempt, obituaries) in of.tasks {
                        self.obituaries.insert((of.peer, id, attempt), obituaries);
                    }
                }
                Ok(other) => log::debug!("ignored among results: {other:?}"),
                Err(error) => log::warn!("sink: ignored a result: {error}"),
            }
        }
        if !again.is_empty() {
            self.shared.acknowledge(&mut again);
        }
        if let Some(deliver) = &mut self.settings.deliver {
            if !fresh.is_empty() {
                let mut kept = self
                    .shared
                    .kept
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                for arrived in &fresh {
                    let key = (arrived.worker, arrived.link);
                    *kept.absorbed.entry(key).or_default() += arrived.cost;
                    kept.push(arrived.kept());
                }
                drop(kept);
                deliver(fresh);
            }
        } else if !fresh.is_empty() {
            let mut queue = self.shared.queue();
            let was_empty = queue.arrived.is_empty();
            queue.arrived.append(&mut fresh);
            drop(queue);
            if was_empty {
                self.shared.ready.notify_all();
            }
        }
    }

    fn on_result(
        &mut self,
        worker: PeerId,
        link: u32,
        entry: ResultEntry,
        fresh: &mut VecDeque<Arrived>,
        again: &mut KeptBox,
    ) {
        let (inline, error) = match &entry.place {
            Place::Inline(bytes) => (bytes.len(), false),
            Place::Error(text) => (text.len(), true),
            _ => (0, false),
        };
        let obituaries = match self.obituaries.is_empty() {
            true => Vec::new(),
            false => (self.obituaries)
                .remove(&(worker, entry.id, entry.attempt))
                .unwrap_or_default(),
        };
        let cost = cost(inline) + weight(&obituaries);
        let parts = match entry.place {
            Place::Parts(_) => self.parts.remove(&(worker, link, entry.id, entry.attempt)),
            _ => None,
        };
        if self.seen.contains(entry.id) {
            self.shared.doubles.fetch_add(1, Ordering::Relaxed);
            *again.absorbed.entry((worker, link)).or_default() += cost;
            if self.kept.contains(entry.id) {
                // A double of what was kept: its worker must learn that, or it would keep it for ever.
                again.push(Kept {
                    first: entry.id,
                    count: 1,
                    attempt: entry.attempt,
                    worker,
                    exit: entry.exit,
                    signal: entry.signal,
                    micros: entry.micros,
                });
            }
            return;
        }
        let mut exit = entry.exit;
        let mut error = error;
        let body = match entry.place {
            Place::Inline(bytes) => Body::Memory(bytes),
            Place::Error(text) => Body::from(text.into_bytes()),
            Place::Parts(len) => match parts.unwrap_or_default().finish(len) {
                Ok(body) => body,
                Err(why) => {
                    // It would be no other at the next attempt: that is what became of the task.
                    error = true;
                    exit = 255;
                    Body::from(format!("its result was lost at the sink: {why}").into_bytes())
                }
            },
            Place::Handed(key) => match hand_over::take(key) {
                Some(body) => body,
                None => {
                    error = true;
                    exit = 255;
                    Body::from("its result was handed over and is not there")
                }
            },
            Place::File(body) => body,
        };
        self.seen.insert(entry.id);
        // What came of it by other ways is not wanted any more.
        self.parts.retain(|&(_, _, id, _), _| id != entry.id);
        fresh.push_back(Arrived {
            id: entry.id,
            attempt: entry.attempt,
            worker,
            exit,
            signal: entry.signal,
            micros: entry.micros,
            body,
            error,
            link,
            obituaries,
            cost,
        });
    }

    fn send_acks(&mut self) {
        let (kept, absorbed) = {
            let mut all = self
                .shared
                .kept
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            self.held_back = false;
            if all.is_empty() {
                return;
            }
            let leaving = self.shared.leave.load(Ordering::Acquire);
            let few = all.kept.iter().map(|kept| kept.count).sum::<u64>() < GROUP;
            if few && !leaving && self.acked_at.elapsed() < HOLD_BACK {
                self.held_back = true;
                return;
            }
            self.acked_at = Instant::now();
            (
                std::mem::take(&mut all.kept),
                std::mem::take(&mut all.absorbed),
            )
        };
        let mut totals = Vec::with_capacity(absorbed.len());
        for ((peer, link), bytes) in absorbed {
            let total = self.absorbed.entry((peer, link)).or_default();
            *total += bytes;
            totals.push((peer, link, *total));
        }
        for range in &kept {
            // A result that the program had from an earlier life of its own counts as seen from now on.
            self.seen.insert_range(range.first, range.count);
            self.kept.insert_range(range.first, range.count);
        }
        let mut chunks: Vec<&[Kept]> = kept.chunks(8_000).collect();
        if chunks.is_empty() {
            chunks.push(&[]);
        }
        for chunk in chunks {
            self.number += 1;
            let frame = frame::encode(&Ack {
                kind: kind::ACK,
                run: self.run,
                sink: self.settings.peer,
                number: self.number,
                kept: chunk.to_vec(),
                absorbed: std::mem::take(&mut totals),
            });
            if let Some(acks) = &self.acks {
                acks.send(frame.clone());
            }
            self.unconfirmed.push_back((self.number, frame));
        }
        self.last_sent = Instant::now();
    }

    fn tick(&mut self, now: Instant) -> Result<()> {
        if self.pill.is_some() {
            return Ok(());
        }
        if self.dial.tick(self.heartbeat)? == Need::Hello {
            log::warn!(
                "lost the ventilator at {}; dialling again",
                self.dial.endpoint()
            );
            self.hello();
        }
        if now.duration_since(self.last_sent) >= self.heartbeat / 2 && !self.dial.is_greeting() {
            self.last_sent = now;
            self.dial.socket.send(frame::encode(&Heartbeat {
                kind: kind::HEARTBEAT,
                run: self.run,
                ack: 0,
            }));
        }
        Ok(())
    }
}

/// Binds where results are gathered: by the same transport that leads to the ventilator, and where the user says besides.
fn bind_results(
    results: &mut Socket,
    settings: &Settings,
) -> Result<(Vec<String>, Option<RuntimeDir>)> {
    let mut dir = None;
    let mut endpoints = Vec::new();
    if let Some(bind) = &settings.bind {
        endpoints.push(results.bind(bind)?.to_string());
    }
    let name = format!("s{:x}", settings.peer);
    match &settings.endpoint {
        Endpoint::Inproc(_) => {
            endpoints.push(results.bind(&Endpoint::Inproc(name))?.to_string());
        }
        _ if settings.bind.is_some() => {}
        Endpoint::Ipc(_) => {
            let made = RuntimeDir::create(&name)?;
            let endpoint = Endpoint::Ipc(made.path().join("results"));
            endpoints.push(results.bind(&endpoint)?.to_string());
            dir = Some(made);
        }
        Endpoint::Tcp { .. } => {
            let host = if settings.endpoint.is_this_machine() {
                settings.endpoint.host().unwrap_or("127.0.0.1")
            } else {
                "*"
            };
            let bound = results.bind_in(host, settings.ports)?;
            endpoints.push(bound.with_any_host().to_string());
        }
    }
    if let Some(host) = &settings.tcp_host {
        let bound = results.bind_in(host, settings.ports)?;
        endpoints.push(bound.with_any_host().to_string());
    }
    Ok((endpoints, dir))
}
