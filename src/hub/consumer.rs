//! The other end of a lane: takes tasks in, hands them to slots, keeps results until they are acknowledged, and says how
//! much more it can take.
//!
//! **Credit** follows the length of tasks: as many tasks ahead of the slots as they do in [`HORIZON`], so that microsecond
//! tasks come thousands at a time and tasks of a second one by one. Results that wait for a slow sink stop it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use super::dial::{Dial, Need, say_malformed};
use super::hand_over;
use super::host::{host_name, machine_id};
use super::outbox::{Finished, Outbox, error_body};
use crate::error::{Error, Result};
use crate::wire::body::{Arriving, Body, IN_MEMORY};
use crate::wire::endpoint::{Endpoint, Transport};
use crate::wire::frame::{
    self, Again, Credit, Goodbye, Heartbeat, Hello, Message, Part, PeerId, Pill, Place, Role,
    RunId, TaskId, TaskList, Welcome, kind,
};
use crate::wire::socket::{Kind, LinkEvent, Socket, poll};
use crate::wire::wake::Waker;

/// How much work lies ahead of the slots.
const HORIZON: Duration = Duration::from_millis(20);
/// Tasks ahead of one slot at most.
const DEEPEST: u64 = 8_192;
/// Tasks shorter than this are over before anybody could ask for them.
const BRIEF: Duration = Duration::from_millis(5);
/// Tasks longer than this are not fetched ahead at all.
const LONG: Duration = Duration::from_millis(500);
/// How many results may wait for their acknowledgement.
const KEPT: usize = 16_384;
/// How many bytes of results in memory may, in bytes.
const KEPT_BYTES: usize = 4 << 20;

/// A task in a worker's hands.
#[derive(Debug)]
pub(crate) struct Assigned {
    pub(crate) id: TaskId,
    pub(crate) attempt: u32,
    pub(crate) tries_left: u32,
    pub(crate) body: Body,
    /// Its place on its lane, from 1, and which lane that was.
    seq: u64,
    lane: u32,
}

/// What the slots and the event loop share.
#[derive(Debug)]
pub(crate) struct Shared {
    inbox: Mutex<Inbox>,
    ready: Condvar,
    out: Mutex<Out>,
    waker: Waker,
    slots: u32,
    /// Mean duration of a task in nanoseconds, 0 before the first has ended.
    mean: AtomicU64,
    /// Tasks to fetch ahead of each slot, whatever their length; 0: by their length.
    pub(crate) ahead: AtomicU64,
    leave: AtomicBool,
    kill: AtomicBool,
    /// The ventilator is in this process: nobody could learn of a death of ours, so starts need not be told at once.
    local: bool,
    ran: AtomicU64,
}

#[derive(Debug, Default)]
struct Inbox {
    tasks: VecDeque<Assigned>,
    /// Taken by slots and not finished: task and attempt.
    running: FxHashMap<TaskId, u32>,
    /// Nothing more will come.
    ended: bool,
    /// Bytes of bodies that were taken up, of the present lane.
    consumed: u64,
    lane: u32,
    waiting_slots: u32,
    /// The ventilator has nothing more for now: what is here is the last, unless somebody dies.
    last: bool,
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

#[derive(Debug, Default)]
struct Out {
    finished: Vec<Finished>,
    again: Vec<(TaskId, u32, i32, i32)>,
}

impl Shared {
    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn out(&self) -> MutexGuard<'_, Out> {
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
                // What runs long is told at once, what does not with its result; a death must find what had started told,
                // but in this process nobody would be left to ask.
                let mean = Duration::from_nanos(self.mean.load(Ordering::Relaxed));
                if !self.local || mean.is_zero() || mean > BRIEF {
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
        {
            let mut out = self.out();
            for (result, tries_left) in results {
                count += 1;
                ids.push(result.id);
                micros += result.micros;
                let failed = result.exit != 0 || result.signal != 0;
                if failed && tries_left > 0 && !self.kill.load(Ordering::Relaxed) {
                    out.again
                        .push((result.id, result.attempt, result.exit, result.signal));
                } else {
                    out.finished.push(result);
                }
            }
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
        drop(inbox);
        self.waker.wake();
    }

    pub(crate) fn leave(&self) {
        self.leave.store(true, Ordering::Release);
        self.waker.wake();
    }

    pub(crate) fn kill(&self) {
        self.kill.store(true, Ordering::Release);
        self.leave();
    }

    pub(crate) fn is_killed(&self) -> bool {
        self.kill.load(Ordering::Acquire)
    }

    pub(crate) fn ran(&self) -> u64 {
        self.ran.load(Ordering::Relaxed)
    }
}

/// What a consumer needs to know.
pub(crate) struct Settings {
    pub(crate) endpoint: Endpoint,
    pub(crate) peer: PeerId,
    pub(crate) slots: u32,
    pub(crate) patience: Duration,
    /// Called once when what runs is to be killed.
    pub(crate) on_kill: Option<Box<dyn Fn() + Send>>,
}

/// How it ended.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ended {
    /// The pill's words, when it was a pill.
    pub(crate) pill: Option<Pill>,
}

struct Lane {
    socket: Socket,
    received: u64,
    /// Bodies that come in parts.
    parts: FxHashMap<(TaskId, u32), Arriving>,
    /// Bytes of parts that went to a temporary file and hold no memory.
    spilled: u64,
}

pub(crate) struct Consumer {
    settings: Settings,
    shared: Arc<Shared>,
    dial: Dial,
    run: RunId,
    heartbeat: Duration,
    lane: Option<Lane>,
    lanes: u32,
    outbox: Outbox,
    said: Option<Credit>,
    last_sent: Instant,
    pill: Option<Pill>,
    leaving: bool,
    killed: bool,
    goodbye_at: Option<Instant>,
    goodbye_heard: bool,
    link_retry: Option<Instant>,
}

impl Consumer {
    /// Dials, says hello, and waits for the welcome; what the ventilator's program says about the run.
    pub(crate) fn connect(
        settings: Settings,
        before_dialling: impl FnOnce(&Arc<Shared>),
    ) -> Result<(Self, Arc<Shared>, Vec<u8>)> {
        let waker = Waker::new().map_err(|error| Error::system("cannot make an eventfd", error))?;
        let shared = Arc::new(Shared {
            inbox: Mutex::default(),
            ready: Condvar::new(),
            out: Mutex::default(),
            waker,
            slots: settings.slots,
            mean: AtomicU64::new(0),
            ahead: AtomicU64::new(0),
            leave: AtomicBool::new(false),
            kill: AtomicBool::new(false),
            local: settings.endpoint.transport() == Transport::Inproc,
            ran: AtomicU64::new(0),
        });
        before_dialling(&shared);
        let mut consumer = Self {
            dial: Dial::new("worker", &settings.endpoint, settings.patience)?,
            shared: Arc::clone(&shared),
            run: 0,
            heartbeat: Duration::from_secs(1),
            lane: None,
            lanes: 0,
            outbox: Outbox::new(0, settings.peer),
            said: None,
            last_sent: Instant::now(),
            pill: None,
            leaving: false,
            killed: false,
            goodbye_at: None,
            goodbye_heard: false,
            link_retry: None,
            settings,
        };
        consumer.hello();
        let mut job = None;
        while job.is_none() && consumer.pill.is_none() {
            if consumer.shared.leave.load(Ordering::Acquire) {
                consumer.pill = Some(no_pill());
                break;
            }
            consumer.wait(Duration::from_millis(100))?;
            consumer.dial.read_links()?;
            while let Some(bytes) = consumer.dial.recv() {
                match frame::decode(&bytes) {
                    Ok(Message::Welcome(welcome)) => {
                        job = Some(welcome.job.clone());
                        consumer.on_welcome(&welcome)?;
                    }
                    Ok(message) => consumer.on_control(message)?,
                    Err(error) => say_malformed("worker", &error),
                }
            }
            if consumer.dial.tick(consumer.heartbeat)? == Need::Hello {
                consumer.hello();
            }
        }
        consumer.note_end();
        Ok((consumer, shared, job.unwrap_or_default()))
    }

    /// Works until the pill, until told to leave, or until the ventilator is lost.
    pub(crate) fn run(mut self) -> Result<Ended> {
        let outcome = self.serve();
        if outcome.is_err() {
            // Nobody wants what runs here any more.
            self.shared.kill();
            self.read_orders();
        }
        // Whatever happened, no slot waits any longer.
        self.shared.inbox().ended = true;
        self.shared.ready.notify_all();
        outcome.map(|()| Ended { pill: self.pill })
    }

    fn serve(&mut self) -> Result<()> {
        let mut next_tick = Instant::now() + self.heartbeat / 2;
        loop {
            self.pump()?;
            if self.is_finished() {
                return Ok(());
            }
            let now = Instant::now();
            let timeout = match self.goodbye_at {
                Some(_) => Duration::from_millis(20),
                None => next_tick.saturating_duration_since(now),
            };
            self.wait(timeout)?;
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

    fn wait(&self, timeout: Duration) -> Result<()> {
        let mut sockets = vec![&self.dial.socket];
        sockets.extend(self.lane.as_ref().map(|lane| &lane.socket));
        sockets.extend(self.outbox.socket.as_ref());
        poll(&sockets, &self.shared.waker, timeout).map(drop)
    }

    /// Everything that can be done without waiting.
    fn pump(&mut self) -> Result<()> {
        self.dial.read_links()?;
        while let Some(bytes) = self.dial.recv() {
            match frame::decode(&bytes) {
                Ok(message) => self.on_control(message)?,
                Err(error) => say_malformed("worker", &error),
            }
        }
        self.read_lane();
        self.read_slots();
        self.read_orders();
        if self.outbox.link_lost() {
            // Not at once: who refuses a connection would be asked without pause.
            self.link_retry = Some(Instant::now() + Duration::from_millis(100));
            self.outbox.socket = None;
        }
        self.outbox.flush();
        self.say_credit();
        Ok(())
    }

    fn hello(&mut self) {
        let mut held: Vec<(TaskId, u32)> = Vec::new();
        {
            let inbox = self.shared.inbox();
            held.extend(inbox.tasks.iter().map(|task| (task.id, task.attempt)));
            held.extend(inbox.running.iter().map(|(&id, &attempt)| (id, attempt)));
        }
        // After the running ones: what a slot finishes meanwhile is found here.
        self.read_slots();
        held.extend(self.outbox.held());
        held.sort_unstable();
        held.dedup();
        // What does not fit in a frame counts as not held, and is done by somebody else.
        held.truncate(50_000);
        let hello = Hello {
            kind: kind::HELLO,
            magic: frame::MAGIC.to_owned(),
            version: frame::VERSION,
            role: Role::Worker as u8,
            peer: self.settings.peer,
            run: self.run,
            via: self.settings.endpoint.transport() as u8,
            slots: self.settings.slots,
            host: host_name(),
            machine: machine_id(),
            pid: std::process::id(),
            held,
            ordered: false,
            endpoints: Vec::new(),
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
        let mut socket = Socket::new(Kind::Pull)?.without_reconnect();
        if address.transport() != Transport::Inproc {
            socket = socket.monitored()?;
        }
        socket.connect(&address)?;
        self.dial.welcomed();
        self.run = welcome.run;
        self.outbox.set_run(welcome.run);
        self.heartbeat = Duration::from_millis(welcome.heartbeat.max(10).into());
        self.lanes += 1;
        {
            let mut inbox = self.shared.inbox();
            inbox.lane = self.lanes;
            inbox.consumed = 0;
        }
        self.lane = Some(Lane {
            socket,
            received: 0,
            parts: FxHashMap::default(),
            spilled: 0,
        });
        self.said = None;
        self.set_sink(welcome.sink, &welcome.endpoints, welcome.window)
    }

    fn set_sink(&mut self, sink: PeerId, endpoints: &[String], window: u64) -> Result<()> {
        self.link_retry = None;
        self.outbox
            .set_sink(sink, endpoints, window, &self.settings.endpoint)
            .map_err(|why| Error::Connect {
                endpoint: endpoints.join(", "),
                why,
            })
    }

    fn on_control(&mut self, message: Message) -> Result<()> {
        match message {
            Message::Welcome(welcome) => self.on_welcome(&welcome)?,
            Message::SinkAt(at) if at.run == self.run => {
                self.set_sink(at.sink, &at.endpoints, at.window)?;
            }
            Message::Done(done) if done.run == self.run => {
                for &(first, count) in &done.tasks {
                    let before = self.outbox.kept();
                    self.outbox.done(first, count);
                    let removed = before - self.outbox.kept();
                    if (removed as u64) < count {
                        // Somebody else's result was kept first.
                        let ids = first..first.saturating_add(count);
                        self.shared
                            .inbox()
                            .tasks
                            .retain(|task| !ids.contains(&task.id));
                    }
                }
                self.outbox.absorbed(done.link, done.absorbed);
            }
            Message::Revoke(list) if list.run == self.run => self.give_back(&list.tasks),
            Message::Rejoin(pill) if pill.run == self.run && !self.dial.is_greeting() => {
                self.hello();
            }
            Message::Pill(pill) => self.on_pill(pill),
            Message::Stop(pill) if pill.run == self.run => {
                self.shared.kill();
            }
            Message::Goodbye(_) => self.goodbye_heard = true,
            Message::Refused(refused) => {
                self.dial
                    .refused(refused.why, refused.again, self.heartbeat)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn on_pill(&mut self, pill: Pill) {
        self.pill = Some(pill);
        if pill.kill {
            self.shared.kill();
        }
        self.note_end();
    }

    fn note_end(&self) {
        if self.pill.is_some() {
            self.shared.inbox().ended = true;
            self.shared.ready.notify_all();
        }
    }

    // ---- the lane ----

    fn read_lane(&mut self) {
        let Some(lane) = &mut self.lane else {
            return;
        };
        let mut pill = None;
        let mut fresh = Vec::new();
        let mut lost = Vec::new();
        let mut last = false;
        while let Some(bytes) = lane.socket.recv() {
            match frame::decode(&bytes) {
                Ok(Message::Last(end)) if end.run == self.run => last = true,
                Ok(Message::Tasks(tasks)) if tasks.run == self.run => {
                    last = false;
                    for entry in tasks.entries {
                        lane.received += 1;
                        let key_of = (entry.id, entry.attempt);
                        let body = match entry.place {
                            Place::Inline(bytes) => Body::Memory(bytes),
                            // Only of our own process a path is believed.
                            Place::File(body) if self.shared.local => body,
                            Place::Parts(len) => {
                                match lane.parts.remove(&key_of).unwrap_or_default().finish(len) {
                                    Ok(body) => body,
                                    Err(why) => {
                                        lost.push((key_of, why));
                                        continue;
                                    }
                                }
                            }
                            Place::Handed(key) => match hand_over::take(key) {
                                Some(body) => {
                                    // A body in a file is in nobody's memory.
                                    lane.spilled += body.len() - weight(&body);
                                    body
                                }
                                None => {
                                    lost.push((
                                        key_of,
                                        "it was handed over and is not there".to_owned(),
                                    ));
                                    continue;
                                }
                            },
                            Place::File(_) | Place::Error(_) => {
                                lost.push((key_of, "it is not here".to_owned()));
                                continue;
                            }
                        };
                        fresh.push(Assigned {
                            id: entry.id,
                            attempt: entry.attempt,
                            tries_left: entry.tries_left,
                            body,
                            seq: lane.received,
                            lane: self.lanes,
                        });
                    }
                }
                Ok(Message::Part(part)) if part.run == self.run => lane.add(&part),
                Ok(Message::Pill(at_end)) if at_end.run == self.run => pill = Some(at_end),
                Ok(other) => log::debug!("ignored on a lane: {other:?}"),
                Err(error) => say_malformed("worker", &error),
            }
        }
        let link_lost = lane
            .socket
            .link_events()
            .iter()
            .any(|event| !matches!(event, LinkEvent::Up));
        if link_lost && self.pill.is_none() && pill.is_none() {
            // Not ours to decide whether it is an accident: the ventilator tells us, or is not heard.
            self.lane = None;
            if !self.dial.is_greeting() && self.goodbye_at.is_none() {
                self.hello();
            }
        }
        for ((id, attempt), why) in lost {
            // It would be no other at the next attempt: that is what became of the task.
            self.outbox.add(Finished {
                id,
                attempt,
                exit: 255,
                signal: 0,
                micros: 0,
                body: error_body(format!("its input was lost at the worker: {why}")),
                error: true,
            });
        }
        if !fresh.is_empty() {
            if self.leaving {
                let back: Vec<_> = fresh.iter().map(|task| (task.id, task.attempt)).collect();
                self.send_returned(back);
            } else {
                let mut inbox = self.shared.inbox();
                inbox.last = last;
                inbox.tasks.extend(fresh);
                let (tasks, waiting) = (inbox.tasks.len(), inbox.waiting_slots);
                drop(inbox);
                match waiting as usize {
                    0 => {}
                    waiting if waiting <= tasks => self.shared.ready.notify_all(),
                    _ => (0..tasks).for_each(|_| self.shared.ready.notify_one()),
                }
            }
        }
        if last {
            self.shared.inbox().last = true;
            self.shared.ready.notify_all();
        }
        if let Some(pill) = pill {
            self.on_pill(pill);
        }
    }

    fn give_back(&mut self, tasks: &[(TaskId, u32)]) {
        let mut back = Vec::new();
        {
            let wanted: std::collections::HashSet<(TaskId, u32)> = tasks.iter().copied().collect();
            let mut inbox = self.shared.inbox();
            let lane = inbox.lane;
            let mut bytes = 0;
            inbox.tasks.retain(|task| {
                let key = (task.id, task.attempt);
                let out = wanted.contains(&key);
                if out {
                    back.push(key);
                    if task.lane == lane {
                        bytes += weight(&task.body);
                    }
                }
                !out
            });
            inbox.consumed += bytes;
        }
        self.send_returned(back);
    }

    fn send_returned(&mut self, tasks: Vec<(TaskId, u32)>) {
        let returned = TaskList {
            kind: kind::RETURNED,
            run: self.run,
            tasks,
        };
        self.send(frame::encode(&returned));
    }

    fn send(&mut self, frame: Vec<u8>) {
        self.dial.socket.send(frame);
        self.last_sent = Instant::now();
    }

    // ---- the slots ----

    fn read_slots(&mut self) {
        let (finished, again) = {
            let mut out = self.shared.out();
            (
                std::mem::take(&mut out.finished),
                std::mem::take(&mut out.again),
            )
        };
        for result in finished {
            self.outbox.add(result);
        }
        for (id, attempt, exit, signal) in again {
            let again = Again {
                kind: kind::AGAIN,
                run: self.run,
                id,
                attempt,
                exit,
                signal,
            };
            self.send(frame::encode(&again));
        }
    }

    fn read_orders(&mut self) {
        if self.shared.is_killed()
            && !std::mem::replace(&mut self.killed, true)
            && let Some(on_kill) = &self.settings.on_kill
        {
            on_kill();
        }
        if self.shared.leave.load(Ordering::Acquire) && !std::mem::replace(&mut self.leaving, true)
        {
            let all: Vec<(TaskId, u32)> = {
                let inbox = self.shared.inbox();
                inbox
                    .tasks
                    .iter()
                    .map(|task| (task.id, task.attempt))
                    .collect()
            };
            if !all.is_empty() {
                self.give_back(&all);
            }
            self.shared.inbox().ended = true;
            self.shared.ready.notify_all();
        }
    }

    /// Says what can be taken, when that is something new.
    fn say_credit(&mut self) {
        let Some(lane) = &self.lane else {
            return;
        };
        if self.dial.is_greeting() || self.goodbye_at.is_some() {
            return;
        }
        let inbox = self.shared.inbox();
        let open = inbox.tasks.len() as u64 + inbox.running.len() as u64;
        let taken = inbox.tasks.front().map_or(lane.received, |first| {
            if first.lane == self.lanes {
                first.seq - 1
            } else {
                0
            }
        });
        let budget = (4 << 20) + u64::from(self.settings.slots).min(28) * (1 << 20);
        let credit = Credit {
            kind: kind::CREDIT,
            run: self.run,
            tasks: lane.received + self.target().saturating_sub(open),
            bytes: inbox.consumed + lane.spilled + budget,
            taken,
            running: inbox.running.len() as u32,
        };
        drop(inbox);
        // While there is plenty, a few tasks of credit more need not be said one by one.
        let worth_saying = self.said.is_none_or(|said| {
            let unused = said.tasks.saturating_sub(lane.received);
            let more = credit.tasks.saturating_sub(said.tasks);
            said.running != credit.running
                || credit.tasks < said.tasks
                || more > unused / 4
                || credit.bytes - said.bytes.min(credit.bytes) > budget / 4
                || (said.taken != credit.taken && !self.shared.local)
        });
        if worth_saying && self.said != Some(credit) {
            self.said = Some(credit);
            self.send(frame::encode(&credit));
        }
    }

    /// How many tasks should be here, running or not.
    fn target(&self) -> u64 {
        let slots = u64::from(self.settings.slots);
        if self.leaving || self.pill.is_some() {
            return 0;
        }
        if self.outbox.kept() >= KEPT || self.outbox.memory() >= KEPT_BYTES {
            return 0;
        }
        let mean = Duration::from_nanos(self.shared.mean.load(Ordering::Relaxed));
        let fixed = self.shared.ahead.load(Ordering::Relaxed);
        let ahead = if fixed > 0 {
            fixed * slots
        } else if mean.is_zero() || mean > LONG {
            0
        } else {
            let each = (HORIZON.as_nanos() / mean.as_nanos().max(1)) as u64;
            (slots * each.min(DEEPEST)).max(1)
        };
        slots + ahead.min(KEPT as u64)
    }

    // ---- time and the end ----

    fn tick(&mut self, now: Instant) -> Result<()> {
        if self.goodbye_at.is_some() || self.pill.is_some() {
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
            let beat = Heartbeat {
                kind: kind::HEARTBEAT,
                run: self.run,
                ack: 0,
            };
            self.send(frame::encode(&beat));
        }
        if self.link_retry.is_some_and(|at| now >= at) {
            self.link_retry = None;
            self.outbox.reconnect();
        }
        Ok(())
    }

    /// Says goodbye when there is nothing left here, and waits a little for the answer.
    fn is_finished(&mut self) -> bool {
        if let Some(at) = self.goodbye_at {
            return self.goodbye_heard || at.elapsed() > Duration::from_millis(500);
        }
        if self.pill.is_none() && !self.leaving {
            return false;
        }
        let busy = {
            let inbox = self.shared.inbox();
            !inbox.running.is_empty() || !inbox.tasks.is_empty()
        };
        let unsaid = {
            let out = self.shared.out();
            !out.finished.is_empty() || !out.again.is_empty()
        };
        // Behind a pill all that counts was acknowledged; who leaves by himself waits for that.
        let kept = self.pill.is_none() && !self.killed && self.outbox.kept() > 0;
        if busy || unsaid || kept {
            return false;
        }
        if self.run == 0 {
            return true;
        }
        let goodbye = Goodbye {
            kind: kind::GOODBYE,
            run: self.run,
            why: String::new(),
            end: false,
        };
        self.send(frame::encode(&goodbye));
        self.goodbye_at = Some(Instant::now());
        false
    }
}

impl Lane {
    fn add(&mut self, part: &Part) {
        let key = (part.id, part.attempt);
        let arriving = self.parts.entry(key).or_default();
        let before = arriving.len();
        arriving.add(part.offset, &part.bytes);
        if arriving.len() > IN_MEMORY as u64 {
            let counted = if before > IN_MEMORY as u64 { before } else { 0 };
            self.spilled += arriving.len().saturating_sub(counted);
        }
    }
}

/// What a body that was taken up gives back to the lane's byte credit, in bytes; one in a temporary file has given it back
/// when it was written there.
fn weight(body: &Body) -> u64 {
    match body {
        Body::File { .. } => 0,
        other => other.len(),
    }
}

fn no_pill() -> Pill {
    Pill {
        kind: kind::PILL,
        run: 0,
        done: 0,
        failed: 0,
        cause: 0,
        kill: false,
    }
}
