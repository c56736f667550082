//! The host's event loop: admission on control, a lane for each consumer, acknowledgements from the sink, and the
//! [`Ledger`](super::ledger::Ledger) that decides.
//!
//! It never blocks but in its poll. What may block (the user's input, the user's consumer) is in other threads, behind the
//! intake and the sink's own queue.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use super::intake::Intake;
use super::lane::{Lane, Link};
use super::ledger::{Action, Gone, Ledger};
use super::outbox::{Finished, Outbox, error_body};
use crate::error::{Error, Result};
use crate::wire::endpoint::{Endpoint, Transport};
use crate::wire::frame::{
    self, Again, Credit, Done, Goodbye, Heartbeat, Hello, Message, PeerId, PeerState, Pill,
    Refused, Role, RunId, SinkAt, State, TaskList, Welcome, kind,
};
use crate::wire::runtime_dir::RuntimeDir;
use crate::wire::socket::{Kind, LinkEvent, Socket, poll};
use crate::wire::wake::Waker;

/// Three missed heartbeats are silence.
pub(crate) const MISSED: u32 = 3;
/// What all workers together may have under way to the sink, in bytes.
const SINK_BUDGET: u64 = 16 << 20;
/// The cause of a run whose output was closed: the number of SIGPIPE.
pub(crate) const OUTPUT_CLOSED: u8 = 13;
/// Acknowledgements are relayed in groups, and small groups of tasks left to grow, for no longer than this: each message wakes
/// somebody, and that costs more than a hundred small tasks.
const HOLD_BACK: Duration = Duration::from_millis(1);
/// A group of so many is relayed at once.
const RELAY: u64 = 512;
/// How many messages are read from one socket before the others have their turn.
const TURN: usize = 256;

/// What a host needs to know.
pub(crate) struct Settings {
    pub(crate) run: RunId,
    pub(crate) binds: Vec<Endpoint>,
    pub(crate) heartbeat: Duration,
    pub(crate) patience: Duration,
    pub(crate) ports: Option<(u16, u16)>,
    pub(crate) advertise: Option<String>,
    pub(crate) job: Vec<u8>,
    pub(crate) title: String,
    pub(crate) tries: u32,
}

/// What other threads tell the host, and ask of it.
#[derive(Debug, Default)]
pub(crate) struct Orders {
    inner: Mutex<OrdersInner>,
}

#[derive(Debug, Default)]
struct OrdersInner {
    /// Stop handing out; the cause as in [`Pill`].
    halt: Option<u8>,
    kill: bool,
    total: Option<u64>,
    state: State,
}

impl Orders {
    fn lock(&self) -> std::sync::MutexGuard<'_, OrdersInner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn halt(&self, cause: u8) {
        self.lock().halt.get_or_insert(cause);
    }

    pub(crate) fn kill(&self) {
        self.lock().kill = true;
    }

    pub(crate) fn set_total(&self, total: u64) {
        self.lock().total = Some(total);
    }

    pub(crate) fn state(&self) -> State {
        self.lock().state.clone()
    }
}

/// How a run ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// Tasks that have a result.
    pub done: u64,
    /// Those of them that failed.
    pub failed: u64,
    /// Tasks that were put and have no result, because the run was stopped.
    pub unfinished: u64,
    /// Leases beyond a task's first: tried again, handed on after a death or a silence.
    pub again: u64,
    /// Why it ended: 0 all done, otherwise the number of the signal that stopped it, or 255 for an error.
    pub cause: u8,
}

struct Peer {
    route: Vec<u8>,
    slots: u32,
    host: String,
    pid: u32,
    same_machine: bool,
    lane: Lane,
    goodbye: bool,
    last_sent: Instant,
    absorbed: Option<(u32, u64)>,
    /// When it was told of acknowledgements last.
    relayed: Instant,
}

struct SinkPeer {
    id: PeerId,
    route: Vec<u8>,
    host: String,
    pid: u32,
    same_machine: bool,
    endpoints: Vec<String>,
    acks: Socket,
    address: Endpoint,
    up: bool,
    number: u64,
    last_heard: Instant,
    last_sent: Instant,
    goodbye: bool,
}

pub(crate) struct Host {
    settings: Settings,
    control: Socket,
    dir: RuntimeDir,
    machine: String,
    waker: Waker,
    intake: Intake,
    orders: Arc<Orders>,
    ledger: Ledger,
    peers: FxHashMap<PeerId, Peer>,
    routes: HashMap<Vec<u8>, PeerId>,
    sink: Option<SinkPeer>,
    had_sink: bool,
    verdicts: Outbox,
    started: Instant,
    lanes_made: u64,
    closing: Option<Instant>,
    cause: u8,
    killed: bool,
    /// There will be no sink any more: what is leased need not be waited for.
    abandoned: bool,
    /// Something was held back that must go out soon.
    held_back: bool,
    /// Since when tasks wait in the intake.
    intake_since: Option<Instant>,
    alone_since: Instant,
    sinkless_since: Instant,
    error: Option<Error>,
}

impl Host {
    pub(crate) fn bind(
        settings: Settings,
        dir: RuntimeDir,
        waker: Waker,
        intake: Intake,
        orders: Arc<Orders>,
    ) -> Result<(Self, Vec<Endpoint>)> {
        let mut control = Socket::new(Kind::Router)?;
        let mut bound = Vec::new();
        for endpoint in &settings.binds {
            bound.push(control.bind(endpoint)?);
        }
        let now = Instant::now();
        let run = settings.run;
        Ok((
            Self {
                settings,
                control,
                dir,
                machine: machine_id(),
                waker,
                intake,
                orders,
                ledger: Ledger::new(),
                peers: FxHashMap::default(),
                routes: HashMap::new(),
                sink: None,
                had_sink: false,
                verdicts: Outbox::new(run, 0),
                started: now,
                lanes_made: 0,
                closing: None,
                cause: 0,
                killed: false,
                abandoned: false,
                held_back: false,
                intake_since: None,
                alone_since: now,
                sinkless_since: now,
                error: None,
            },
            bound,
        ))
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Runs until all is done or stopped.
    pub(crate) fn run(mut self) -> Result<Summary> {
        let outcome = self.serve();
        self.intake.close();
        self.publish();
        if let Err(error) = outcome {
            self.error.get_or_insert(error);
        }
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        Ok(self.summary())
    }

    fn summary(&self) -> Summary {
        let totals = self.ledger.totals();
        Summary {
            done: totals.done,
            failed: totals.failed,
            unfinished: self.ledger.put_in_all() - totals.done,
            again: totals.again,
            cause: self.cause,
        }
    }

    fn serve(&mut self) -> Result<()> {
        let tick = self.settings.heartbeat / 2;
        let mut next_tick = Instant::now() + tick;
        let mut published = Instant::now();
        self.publish();
        loop {
            let mut timeout = next_tick.saturating_duration_since(Instant::now());
            if self.held_back || self.intake_since.is_some() {
                timeout = timeout.min(HOLD_BACK);
            }
            let ready = {
                let mut sockets = vec![&self.control];
                sockets.extend(self.sink.as_ref().map(|sink| &sink.acks));
                sockets.extend(self.verdicts.socket.as_ref());
                sockets.extend(self.peers.values().map(|peer| &peer.lane.socket));
                poll(&sockets, &self.waker, timeout)?
            };
            let now = Instant::now();
            // Our own clock stood still (the machine slept, or we were stopped): nobody's silence counts for that time.
            if now > next_tick + self.settings.heartbeat {
                let late = now - next_tick;
                self.ledger.slept(late);
                self.alone_since += late;
                self.sinkless_since += late;
                if let Some(sink) = &mut self.sink {
                    sink.last_heard += late;
                }
            }
            self.read_orders();
            let control_ready = ready.first().is_some_and(|&(message, _)| message);
            if ready.get(1).is_some_and(|&(message, _)| message) {
                self.read_acks();
            }
            if control_ready {
                self.read_control();
            }
            // Links last: what a peer said before it went counts.
            if ready.iter().any(|&(_, link)| link) {
                self.read_links();
            }
            self.read_intake();
            self.ledger.deal();
            self.act();
            self.flush();
            if now >= next_tick {
                next_tick = now + tick;
                self.tick(now);
            }
            if now.duration_since(published) > Duration::from_millis(50) {
                published = now;
                self.publish();
            }
            if self.is_finished(now) {
                return Ok(());
            }
        }
    }

    // ---- the end ----

    fn is_finished(&mut self, now: Instant) -> bool {
        if self.closing.is_none()
            && (self.ledger.is_over() || self.error.is_some() || self.abandoned)
        {
            self.closing = Some(now);
            self.intake.close();
            self.pill_all();
        }
        let Some(since) = self.closing else {
            return false;
        };
        // Over before a sink came, as with an empty input: whoever is dialling now still hears that there is nothing to do.
        let awaited = !self.had_sink && now.duration_since(since) < self.settings.heartbeat;
        let all_gone =
            self.peers.is_empty() && self.sink.as_ref().is_none_or(|sink| sink.goodbye) && !awaited;
        let limit = if self.killed {
            Duration::from_secs(2)
        } else {
            (self.settings.heartbeat * MISSED).max(Duration::from_secs(3))
        };
        all_gone || now.duration_since(since) > limit
    }

    fn pill(&self, kind: u8) -> Vec<u8> {
        let totals = self.ledger.totals();
        frame::encode(&Pill {
            kind,
            run: self.settings.run,
            done: totals.done,
            failed: totals.failed,
            cause: if self.error.is_some() {
                255
            } else {
                self.cause
            },
            kill: self.killed,
        })
    }

    /// A pill on every lane, and the sink's.
    fn pill_all(&mut self) {
        let pill = self.pill(kind::PILL);
        self.peers.retain(|&id, peer| {
            // A silent one would hold up the end; it hears of it when it comes back to nobody.
            let silent = self.ledger.consumer(id).is_none_or(|c| c.is_silent());
            if peer.lane.up {
                peer.lane.socket.send(pill.clone());
            } else {
                self.control.send_to(&peer.route, pill.clone());
            }
            !silent
        });
        if let Some(sink) = &self.sink {
            self.control.send_to(&sink.route, pill);
        }
    }

    fn read_orders(&mut self) {
        let (halt, kill) = {
            let orders = self.orders.lock();
            (orders.halt, orders.kill)
        };
        if let (Some(cause), false) = (halt, self.ledger.is_halted()) {
            self.cause = cause;
            self.intake.close();
            self.ledger.halt();
        }
        if kill && !self.killed {
            self.killed = true;
            let stop = self.pill(kind::STOP);
            for peer in self.peers.values() {
                self.control.send_to(&peer.route, stop.clone());
            }
        }
    }

    // ---- input ----

    fn read_intake(&mut self) {
        if self.ledger.has_ended() || self.ledger.is_halted() {
            return;
        }
        let room = self.ledger.room();
        // A small group is left to grow while everybody has something to do, but not for long.
        let starving = self.ledger.is_starving();
        let waited = self
            .intake_since
            .is_some_and(|since| since.elapsed() >= HOLD_BACK);
        let (tasks, ended) = self.intake.take(room, starving || waited);
        self.intake_since = match self.intake.has_some() {
            true => self.intake_since.or(Some(Instant::now())),
            false => None,
        };
        let tries = self.settings.tries;
        for body in tasks {
            self.ledger.put(body, tries);
        }
        if ended {
            self.ledger.end();
        }
    }

    // ---- control ----

    fn read_control(&mut self) {
        for _ in 0..TURN {
            let Some((route, address, bytes)) = self.control.recv_from() else {
                break;
            };
            match frame::decode(&bytes) {
                Ok(message) => self.on_control(&route, address.as_deref(), message),
                Err(error) => log::warn!(
                    "ignored a message from {}: {error}",
                    address.as_deref().unwrap_or("a peer on this host")
                ),
            }
        }
    }

    fn on_control(&mut self, route: &[u8], address: Option<&str>, message: Message) {
        match message {
            Message::Hello(hello) => self.on_hello(route, address, hello),
            Message::OtherVersion(version) => self.refuse(
                route,
                format!(
                    "it speaks version {version} of the protocol and this ventilator version {}; \
                     install the same procession on both sides",
                    frame::VERSION
                ),
                false,
            ),
            Message::Status(_) => {
                self.publish();
                let state = self.orders.state();
                self.control.send_to(route, frame::encode(&state));
            }
            message => self.on_member(route, message),
        }
    }

    /// Messages of those who have been welcomed.
    fn on_member(&mut self, route: &[u8], message: Message) {
        let run = match &message {
            Message::Credit(Credit { run, .. })
            | Message::Heartbeat(Heartbeat { run, .. })
            | Message::Returned(TaskList { run, .. })
            | Message::Again(Again { run, .. })
            | Message::Goodbye(Goodbye { run, .. }) => *run,
            other => {
                log::debug!("ignored on control: {other:?}");
                return;
            }
        };
        let rejoin = self.pill(kind::REJOIN);
        if run != self.settings.run {
            return self.refuse(route, "this is another run".to_owned(), false);
        }
        if let Some(sink) = &mut self.sink
            && sink.route == route
        {
            sink.last_heard = Instant::now();
            if let Message::Goodbye(goodbye) = message {
                sink.goodbye = true;
                if self.closing.is_none() {
                    self.read_acks();
                    if !goodbye.end {
                        self.sink_gone("said goodbye");
                    } else {
                        // Nobody will read what is still to come.
                        log::info!("the sink ends the run: {}", goodbye.why);
                        self.orders.halt(OUTPUT_CLOSED);
                        self.orders.kill();
                        self.sink_gone("has closed");
                        self.abandoned = true;
                    }
                }
            }
            return;
        }
        let Some(&id) = self.routes.get(route) else {
            if !matches!(message, Message::Goodbye(_)) {
                self.control.send_to(route, rejoin);
            }
            return;
        };
        let now = self.now();
        if !self.ledger.heard(id, now) && !matches!(message, Message::Goodbye(_)) {
            // Given up as silent, and there it is: it must say what it still holds.
            self.control.send_to(route, rejoin);
            return;
        }
        match message {
            Message::Credit(credit) => {
                self.ledger
                    .credit(id, credit.tasks, credit.bytes, credit.taken, credit.running);
                if let Some(peer) = self.peers.get_mut(&id) {
                    peer.lane.allow(credit.bytes);
                }
            }
            Message::Returned(list) => self.ledger.returned(id, &list.tasks),
            Message::Again(again) => self.ledger.again(id, again.id, again.attempt),
            Message::Goodbye(_) => {
                log::info!("worker {id:016x} leaves");
                let answer = Goodbye {
                    kind: kind::GOODBYE,
                    run,
                    why: String::new(),
                    end: false,
                };
                self.control.send_to(route, frame::encode(&answer));
                self.remove(id, Gone::Left);
            }
            _ => {}
        }
    }

    fn refuse(&self, route: &[u8], why: String, again: bool) {
        log::warn!("refused a peer: {why}");
        let refused = Refused {
            kind: kind::REFUSED,
            version: frame::VERSION,
            why,
            again,
        };
        self.control.send_to(route, frame::encode(&refused));
    }

    fn on_hello(&mut self, route: &[u8], address: Option<&str>, hello: Hello) {
        if hello.run != 0 && hello.run != self.settings.run {
            return self.refuse(
                route,
                format!(
                    "it belongs to run {:016x}, and this is run {:016x}",
                    hello.run, self.settings.run
                ),
                false,
            );
        }
        if hello.peer == 0 {
            return self.refuse(route, "it has no id".to_owned(), false);
        }
        if self.closing.is_some() {
            self.control.send_to(route, self.pill(kind::PILL));
            return;
        }
        let Some(via) = Transport::from_number(hello.via) else {
            return self.refuse(
                route,
                format!("transport {} is not known", hello.via),
                false,
            );
        };
        match hello.role {
            role if role == Role::Worker as u8 => self.on_worker(route, via, hello),
            role if role == Role::Sink as u8 => self.on_sink(route, address, via, hello),
            other => self.refuse(route, format!("role {other} is not known"), false),
        }
    }

    fn on_worker(&mut self, route: &[u8], via: Transport, hello: Hello) {
        let lane = match self.new_lane(via) {
            Ok(lane) => lane,
            Err(error) => return self.refuse(route, format!("no lane for it: {error}"), true),
        };
        let id = hello.peer;
        log::info!(
            "worker {id:016x} joins: {} slots, process {} on {}",
            hello.slots,
            hello.pid,
            hello.host
        );
        if let Some(before) = self.peers.remove(&id) {
            self.routes.remove(&before.route);
        }
        let slots = hello.slots.clamp(1, 1 << 16);
        let now = self.now();
        self.ledger.join(id, slots, &hello.held, now);
        if self.ledger.is_halted() {
            // It has nothing to do but to finish what it holds.
            self.ledger.heard(id, now);
        }
        self.routes.insert(route.to_vec(), id);
        let welcome = Welcome {
            peer: id,
            address: lane.address.clone().with_any_host().to_string(),
            acked: Vec::new(),
            resumed: false,
            ack: 0,
            ..self.welcome()
        };
        self.peers.insert(
            id,
            Peer {
                route: route.to_vec(),
                slots,
                host: hello.host,
                pid: hello.pid,
                same_machine: via != Transport::Tcp || hello.machine == self.machine,
                lane,
                goodbye: false,
                last_sent: Instant::now(),
                absorbed: None,
                relayed: Instant::now(),
            },
        );
        self.control.send_to(route, frame::encode(&welcome));
    }

    fn welcome(&self) -> Welcome {
        Welcome {
            kind: kind::WELCOME,
            run: self.settings.run,
            peer: 0,
            heartbeat: u32::try_from(self.settings.heartbeat.as_millis()).unwrap_or(u32::MAX),
            address: String::new(),
            job: self.settings.job.clone(),
            sink: self.sink.as_ref().map_or(0, |sink| sink.id),
            endpoints: self
                .sink
                .as_ref()
                .map(|sink| sink.endpoints.clone())
                .unwrap_or_default(),
            window: self.window(),
            acked: Vec::new(),
            resumed: false,
            ack: 0,
        }
    }

    /// How many bytes a worker may have under way to the sink.
    fn window(&self) -> u64 {
        (SINK_BUDGET / (self.peers.len() as u64 + 1)).clamp(64 << 10, 1 << 20)
    }

    fn new_lane(&mut self, via: Transport) -> Result<Lane> {
        self.lanes_made += 1;
        Lane::bind(
            via,
            self.lane_host(),
            self.settings.ports,
            self.dir.path(),
            self.lanes_made,
            self.settings.run,
        )
    }

    /// Lanes listen on the interface that control listens on.
    fn lane_host(&self) -> &str {
        self.settings
            .binds
            .iter()
            .find_map(Endpoint::host)
            .unwrap_or("127.0.0.1")
    }

    fn on_sink(&mut self, route: &[u8], address: Option<&str>, via: Transport, hello: Hello) {
        let number = match &self.sink {
            Some(sink) if sink.id != hello.peer => {
                let why = format!(
                    "this run has a sink already: process {} on {}",
                    sink.pid, sink.host
                );
                return self.refuse(route, why, true);
            }
            Some(sink) => sink.number,
            None => 0,
        };
        let bound = Socket::new(Kind::Pull)
            .and_then(|socket| match via {
                Transport::Inproc => Ok(socket),
                _ => socket.monitored(),
            })
            .and_then(|mut socket| {
                self.lanes_made += 1;
                let name = format!("a{}", self.lanes_made);
                let address = match via {
                    Transport::Inproc => {
                        socket.bind(&Endpoint::Inproc(format!("{:x}-{name}", self.settings.run)))
                    }
                    Transport::Ipc => socket.bind(&Endpoint::Ipc(self.dir.path().join(name))),
                    Transport::Tcp => socket.bind_in(self.lane_host(), self.settings.ports),
                }?;
                Ok((socket, address))
            });
        let (acks, bound) = match bound {
            Ok(bound) => bound,
            Err(error) => return self.refuse(route, format!("no socket for it: {error}"), true),
        };
        let endpoints = hello
            .endpoints
            .iter()
            .filter_map(|text| text.parse::<Endpoint>().ok())
            .map(|endpoint| self.seen_from_workers(endpoint, address).to_string())
            .collect();
        log::info!("the sink joins: process {} on {}", hello.pid, hello.host);
        self.ledger.set_ordered(hello.ordered);
        let resumed = std::mem::replace(&mut self.had_sink, true);
        let now = Instant::now();
        self.sink = Some(SinkPeer {
            id: hello.peer,
            route: route.to_vec(),
            host: hello.host,
            pid: hello.pid,
            same_machine: via != Transport::Tcp || hello.machine == self.machine,
            endpoints,
            acks,
            address: bound.clone(),
            up: via == Transport::Inproc,
            number,
            last_heard: now,
            last_sent: now,
            goodbye: false,
        });
        let welcome = Welcome {
            peer: hello.peer,
            address: bound.with_any_host().to_string(),
            // As many ranges as fit in a frame: what is missing is acknowledged again when its double comes.
            acked: self.ledger.acked().ranges().take(40_000).collect(),
            resumed,
            ack: number,
            ..self.welcome()
        };
        self.control.send_to(route, frame::encode(&welcome));
        self.announce_sink();
    }

    /// The sink's endpoint in the words of somebody else's: its host is what we see of it, or what we were told to say; a
    /// sink on our own machine is where the worker finds us.
    fn seen_from_workers(&self, endpoint: Endpoint, address: Option<&str>) -> Endpoint {
        let Endpoint::Tcp { host, port } = &endpoint else {
            return endpoint;
        };
        if host != "*" && host != "0.0.0.0" && host != "::" && !endpoint.is_this_machine() {
            return endpoint;
        }
        let host = match (&self.settings.advertise, address) {
            (Some(name), _) => name.clone(),
            (None, Some(address)) => {
                let seen = Endpoint::Tcp {
                    host: address.to_owned(),
                    port: *port,
                };
                if seen.is_this_machine() {
                    "*".to_owned()
                } else {
                    address.to_owned()
                }
            }
            (None, None) => "*".to_owned(),
        };
        Endpoint::Tcp { host, port: *port }
    }

    /// Tells everybody where the sink is, or that there is none.
    fn announce_sink(&mut self) {
        let welcome = self.welcome();
        let at = frame::encode(&SinkAt {
            kind: kind::SINK,
            run: self.settings.run,
            sink: welcome.sink,
            endpoints: welcome.endpoints.clone(),
            window: welcome.window,
        });
        for peer in self.peers.values() {
            self.control.send_to(&peer.route, at.clone());
        }
        let here = self
            .settings
            .binds
            .iter()
            .min_by_key(|endpoint| endpoint.transport())
            .cloned()
            .unwrap_or(Endpoint::Inproc(String::new()));
        if let Err(why) =
            self.verdicts
                .set_sink(welcome.sink, &welcome.endpoints, welcome.window, &here)
        {
            log::warn!("{why}");
        }
    }

    fn sink_gone(&mut self, why: &str) {
        if let Some(sink) = self.sink.take() {
            // One in this process ends with the run, and whoever ends it says why.
            let here = sink.address.transport() == Transport::Inproc;
            if self.closing.is_none() && !self.ledger.is_halted() && !here {
                log::warn!(
                    "the sink (process {} on {}) {why}; results wait for another",
                    sink.pid,
                    sink.host
                );
            }
            self.sinkless_since = Instant::now();
            self.announce_sink();
        }
    }

    fn remove(&mut self, id: PeerId, why: Gone) {
        if let Some(peer) = self.peers.remove(&id) {
            self.routes.remove(&peer.route);
            if why == Gone::Died && self.closing.is_none() {
                log::warn!(
                    "worker {id:016x} (process {} on {}) died; its tasks are handed on",
                    peer.pid,
                    peer.host
                );
            }
        }
        self.ledger.gone(id, why);
        if self.peers.is_empty() {
            self.alone_since = Instant::now();
        }
    }

    // ---- acknowledgements, and links that come and go ----

    fn read_acks(&mut self) {
        let Some(sink) = &mut self.sink else {
            return;
        };
        for _ in 0..TURN {
            let Some(bytes) = sink.acks.recv() else {
                break;
            };
            sink.last_heard = Instant::now();
            let ack = match frame::decode(&bytes) {
                Ok(Message::Ack(ack)) if ack.run == self.settings.run && ack.sink == sink.id => ack,
                Ok(other) => {
                    log::debug!("ignored among acknowledgements: {other:?}");
                    continue;
                }
                Err(error) => {
                    log::warn!("ignored an acknowledgement: {error}");
                    continue;
                }
            };
            if ack.number <= sink.number {
                continue;
            }
            sink.number = ack.number;
            for kept in &ack.kept {
                self.ledger.acknowledge(kept);
                self.verdicts.done(kept.first, kept.count);
            }
            for &(worker, link, bytes) in &ack.absorbed {
                if worker == 0 {
                    self.verdicts.absorbed(link, bytes);
                } else if let Some(peer) = self.peers.get_mut(&worker) {
                    peer.absorbed = Some((link, bytes));
                }
            }
        }
    }

    fn read_links(&mut self) {
        let mut gone = Vec::new();
        let mut intruded = Vec::new();
        for (&id, peer) in &mut self.peers {
            match peer.lane.link() {
                Link::Down => gone.push((id, peer.same_machine, peer.goodbye)),
                Link::Intruder => {
                    log::warn!(
                        "somebody else connected to the lane of worker {id:016x}; it gets another one"
                    );
                    intruded.push(id);
                }
                Link::Up | Link::Unchanged => {}
            }
        }
        for id in intruded {
            // Its hello says what it holds; what went elsewhere is leased anew.
            let rejoin = self.pill(kind::REJOIN);
            if let Some(peer) = self.peers.get(&id) {
                self.control.send_to(&peer.route, rejoin);
            }
        }
        for (id, same_machine, goodbye) in gone {
            if self.closing.is_some() || goodbye {
                self.remove(id, Gone::Left);
            } else if same_machine {
                // What it had said before is read first: it may have been a goodbye.
                self.read_control();
                if self.peers.contains_key(&id) {
                    self.remove(id, Gone::Died);
                }
            } else if let Some(peer) = self.peers.get(&id) {
                let rejoin = self.pill(kind::REJOIN);
                self.control.send_to(&peer.route, rejoin);
            }
        }
        let mut sink_down = false;
        if let Some(sink) = &mut self.sink {
            for event in sink.acks.link_events() {
                match event {
                    LinkEvent::Up if !sink.up => {
                        sink.up = true;
                        let address = sink.address.clone();
                        sink.acks.unbind(&address);
                    }
                    LinkEvent::Down if sink.up => sink_down = sink.same_machine,
                    _ => {}
                }
            }
        }
        if sink_down {
            self.read_acks();
            self.read_control();
            self.sink_gone("is gone");
        }
        if self.verdicts.link_lost() {
            self.verdicts.reconnect();
        }
    }

    // ---- what the ledger wants ----

    fn act(&mut self) {
        for action in self.ledger.actions() {
            match action {
                Action::Lease { to, tasks } => {
                    let Some(peer) = self.peers.get_mut(&to) else {
                        continue;
                    };
                    for (id, attempt, tries_left) in tasks {
                        if let Some(body) = self.ledger.body(id) {
                            peer.lane.push(id, attempt, tries_left, body.clone());
                        }
                    }
                }
                Action::Revoke { from, tasks } => {
                    let Some(peer) = self.peers.get_mut(&from) else {
                        continue;
                    };
                    let withdrawn = peer.lane.withdraw(&tasks);
                    let rest: Vec<_> = tasks
                        .into_iter()
                        .filter(|task| !withdrawn.contains(task))
                        .collect();
                    for &(id, attempt) in withdrawn.iter().rev() {
                        self.ledger.recall(from, id, attempt);
                    }
                    if rest.is_empty() {
                        self.ledger.returned(from, &[]);
                    } else {
                        let revoke = frame::encode(&TaskList {
                            kind: kind::REVOKE,
                            run: self.settings.run,
                            tasks: rest,
                        });
                        self.control.send_to(&peer.route, revoke);
                    }
                }
                Action::Condemn {
                    id,
                    attempt,
                    consumer,
                } => {
                    let text = format!(
                        "task {id} was given up: {} workers died while they ran it and nothing else, the last of them {consumer:016x} in attempt {attempt}",
                        super::ledger::DEATHS_ALONE
                    );
                    log::error!("{text}");
                    self.verdict(id, attempt, text);
                }
            }
        }
    }

    /// Reports a task as failed in the host's own name.
    fn verdict(&mut self, id: u64, attempt: u32, text: String) {
        self.verdicts.add(Finished {
            id,
            attempt,
            exit: 255,
            signal: 0,
            micros: 0,
            body: error_body(text),
            error: true,
        });
    }

    fn flush(&mut self) {
        let run = self.settings.run;
        let mut unreadable = Vec::new();
        let no_more = self.ledger.has_ended() && self.ledger.waiting() == 0;
        let last = self.pill(kind::LAST);
        let now = Instant::now();
        self.held_back = false;
        for (&id, peer) in &mut self.peers {
            if !peer.lane.is_idle() {
                unreadable.extend(peer.lane.flush(run));
            }
            if no_more && peer.lane.up && peer.lane.is_idle() && !peer.lane.told_last {
                peer.lane.told_last = true;
                peer.lane.socket.send(last.clone());
            }
            let waiting = self.ledger.relay_len(id);
            if waiting == 0 && peer.absorbed.is_none() {
                continue;
            }
            if waiting < RELAY && now.duration_since(peer.relayed) < HOLD_BACK {
                self.held_back = true;
            } else {
                peer.relayed = now;
                let absorbed = peer.absorbed.take();
                let (link, absorbed) = absorbed.unwrap_or((0, 0));
                let done = Done {
                    kind: kind::DONE,
                    run,
                    tasks: self.ledger.relay(id),
                    link,
                    absorbed,
                };
                send_done(&self.control, &peer.route, done);
                peer.last_sent = Instant::now();
            }
        }
        for (id, attempt, error) in unreadable {
            let text = format!("task {id} cannot be read any more: {error}");
            log::error!("{text}");
            self.verdict(id, attempt, text);
        }
        self.verdicts.flush();
    }

    // ---- time ----

    fn tick(&mut self, now: Instant) {
        let heartbeat = self.settings.heartbeat;
        let mut beat = Heartbeat {
            kind: kind::HEARTBEAT,
            run: self.settings.run,
            ack: 0,
        };
        for peer in self.peers.values_mut() {
            if now.duration_since(peer.last_sent) >= heartbeat / 2 {
                peer.last_sent = now;
                self.control.send_to(&peer.route, frame::encode(&beat));
            }
        }
        let silence = heartbeat * MISSED;
        for id in self.ledger.give_up_silent(self.now(), silence) {
            if let Some(peer) = self.peers.get(&id) {
                log::warn!(
                    "worker {id:016x} (process {} on {}) was not heard for {:.1} s; its tasks are handed on",
                    peer.pid,
                    peer.host,
                    silence.as_secs_f64()
                );
            }
            if self.closing.is_some() {
                self.remove(id, Gone::Left);
            }
        }
        if let Some(sink) = &mut self.sink {
            if now.duration_since(sink.last_sent) >= heartbeat / 2 {
                sink.last_sent = now;
                beat.ack = sink.number;
                self.control.send_to(&sink.route, frame::encode(&beat));
            }
            // A sink on this machine is gone when its link is; a stopped one is waited for.
            if !sink.same_machine && now.duration_since(sink.last_heard) > silence {
                self.sink_gone("was not heard for three heartbeats");
            }
        }
        self.check_patience(now);
    }

    fn check_patience(&mut self, now: Instant) {
        if self.closing.is_some() || self.error.is_some() {
            return;
        }
        let live = self.ledger.consumers().any(|(_, c)| !c.is_silent());
        if live {
            self.alone_since = now;
        }
        if self.sink.is_some() {
            self.sinkless_since = now;
        }
        let patience = self.settings.patience;
        let endpoint = self
            .settings
            .binds
            .last()
            .map(ToString::to_string)
            .unwrap_or_default();
        let waited = |since: Instant| now.duration_since(since);
        let missing = if waited(self.sinkless_since) > patience {
            Some(("sink", "procession sink --connect"))
        } else if waited(self.alone_since) > patience {
            Some(("worker", "procession worker --connect"))
        } else {
            None
        };
        if let Some((who, command)) = missing {
            self.error = Some(Error::NobodyThere {
                who: "ventilator",
                waited: patience,
                advice: format!(
                    "no {who} is there: start one with `{command} {endpoint}`, or wait longer with --patience"
                ),
                endpoint,
            });
        }
    }

    /// What [`Orders::state`] shows.
    fn publish(&mut self) {
        let totals = self.ledger.totals();
        let mut peers: Vec<PeerState> = self
            .peers
            .iter()
            .map(|(&id, peer)| {
                let consumer = self.ledger.consumer(id);
                PeerState {
                    peer: id,
                    role: "worker".to_owned(),
                    host: peer.host.clone(),
                    pid: peer.pid,
                    slots: peer.slots,
                    running: consumer.map_or(0, |c| c.running()),
                    leased: consumer.map_or(0, |c| c.leases() as u64),
                    done: consumer.map_or(0, |c| c.done()),
                    state: match consumer {
                        Some(c) if c.is_silent() => "silent",
                        _ => "live",
                    }
                    .to_owned(),
                }
            })
            .collect();
        peers.sort_by_key(|peer| peer.peer);
        if let Some(sink) = &self.sink {
            peers.push(PeerState {
                peer: sink.id,
                role: "sink".to_owned(),
                host: sink.host.clone(),
                pid: sink.pid,
                state: "live".to_owned(),
                done: totals.done,
                ..PeerState::default()
            });
        }
        let mut orders = self.orders.lock();
        let known = self.ledger.has_ended().then(|| self.ledger.put_in_all());
        orders.state = State {
            kind: kind::STATE,
            run: self.settings.run,
            pid: std::process::id(),
            host: host_name(),
            title: self.settings.title.clone(),
            seconds: self.started.elapsed().as_secs_f64(),
            waiting: self.ledger.waiting(),
            leased: self.ledger.leased(),
            running: self
                .ledger
                .consumers()
                .map(|(_, c)| u64::from(c.running()))
                .sum(),
            done: totals.done,
            failed: totals.failed,
            total: known.or(orders.total),
            again: totals.again,
            peers,
        };
    }
}

/// A list of ranges may be longer than a frame takes.
fn send_done(control: &Socket, route: &[u8], done: Done) {
    const MOST: usize = 30_000;
    for tasks in done.tasks.chunks(MOST) {
        control.send_to(
            route,
            frame::encode(&Done {
                tasks: tasks.to_vec(),
                ..done.clone()
            }),
        );
    }
    if done.tasks.is_empty() {
        control.send_to(route, frame::encode(&done));
    }
}

/// This boot of this machine: who has the same one dies with its sockets.
pub(crate) fn machine_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim().to_owned())
        .unwrap_or_else(|_| host_name())
}

/// This host's name.
pub(crate) fn host_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}
