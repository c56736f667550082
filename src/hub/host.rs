//! The host's event loop: admission on control, a lane for each consumer, acknowledgements from the sink, and the
//! [`Ledger`](super::ledger::Ledger) that decides.
//!
//! It never blocks but in its poll. What may block (the user's input, the user's consumer) is in other threads, behind the
//! intake and the sink's own queue.

mod admission;
mod control;
mod dispatch;
mod ending;
mod heartbeat;
#[cfg(test)]
mod invariants;
mod journal;
mod keeping;
mod links;
mod members;
mod sink;
mod state;

use crate::hub::outside::{Instant, Socket, poll};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;

pub(crate) use ending::CREATOR_LEFT;
pub use ending::Summary;
pub(crate) use state::Orders;

pub(crate) use super::outside::{host_name, machine_id};

use super::intake::Intake;
use super::lane::Lane;
use super::ledger::Ledger;
use super::limits::{Door, Limits};
use super::obituaries::Obituaries;
use super::outbox::Outbox;
use crate::error::{Error, Result};
use crate::journal::{Journal, Past, queues};
use crate::obituary::OomKills;
use crate::wire::access::{Listening, Server};
use crate::wire::body::Body;
use crate::wire::endpoint::{Endpoint, Transport};
use crate::wire::frame::{PeerId, QueueInfo, RunId, TaskId};
use crate::wire::id_set::IdSet;
use crate::wire::runtime_dir::RuntimeDir;
use crate::wire::socket::Kind;
use crate::wire::wake::Waker;

/// Three missed heartbeats are silence.
pub(crate) const MISSED: u32 = 3;
/// Acknowledgements are relayed in groups, and small groups of tasks left to grow, for no longer than this: each message wakes
/// somebody, and that costs more than a hundred small tasks.
const HOLD_BACK: Duration = Duration::from_millis(4);
/// How old what [`Orders::state`] shows may be while something happens.
const PUBLISH: Duration = Duration::from_millis(50);
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
    /// It is a queue.
    pub(crate) queue: Option<QueueInfo>,
    /// After how many deaths alone a task is given up.
    pub(crate) deaths: u8,
    pub(crate) given_up: Option<GivenUp>,
    /// How it listens by TCP; plain without.
    pub(crate) listening: Option<Arc<Listening>>,
    pub(crate) limits: Limits,
    /// What is written down, and what was before.
    pub(crate) journal: Option<(Journal, Past)>,
    /// Tasks of these numbers have results of an earlier run, so many of which failed.
    pub(crate) done_before: (IdSet, u64),
    /// A queue that outlives its host: by what it writes, and what was in it before.
    pub(crate) keeping: Option<(queues::Pen, queues::Past)>,
    /// It is one of several queues of its host, and takes its own endpoint from the ports for lanes.
    pub(crate) one_of_many: bool,
}

/// Makes the result of a task that is given up: of its id, of what was put in, and of the reason.
#[derive(Clone)]
pub(crate) struct GivenUp(pub(crate) Arc<MakeResult>);

type MakeResult = dyn Fn(TaskId, &Body, &str) -> Option<Body> + Send + Sync;

impl std::fmt::Debug for GivenUp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("GivenUp")
    }
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
    /// It has said that it is about to be killed by somebody who means no task in it.
    doomed: bool,
    /// Those whom the kernel kills where it runs, and how many they were when it came.
    oom_kills: OomKills,
    oom_before: u64,
}

/// A worker that died.
struct Dead {
    id: PeerId,
    pid: u32,
    host: String,
    /// The kernel killed in its cgroup for want of memory while it was here.
    out_of_memory: bool,
}

struct SinkPeer {
    id: PeerId,
    route: Vec<u8>,
    host: String,
    pid: u32,
    same_machine: bool,
    endpoints: Vec<String>,
    /// Its public key where it gathers results by TCP.
    key: String,
    acks: Socket,
    address: Endpoint,
    up: bool,
    /// The last of its acknowledgements that has taken effect, and the last that has come.
    number: u64,
    received: u64,
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
    /// How much the sink has absorbed of each worker, on which link: who comes back is told again, as the word may have been lost
    /// with its connection.
    absorbed: FxHashMap<PeerId, (u32, u64)>,
    had_sink: bool,
    had_worker: bool,
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
    /// Process and host of those who died since decisions were carried out last.
    died: Vec<Dead>,
    /// How attempts at unfinished tasks have ended so far.
    obituaries: Obituaries,
    alone_since: Instant,
    sinkless_since: Instant,
    error: Option<Error>,
    door: Door,
    members: Option<members::Members>,
    /// Since when a queue's creator has left, and how many items it left behind.
    left_at: Option<Instant>,
    dropped: u64,
    /// What waits until it is written down.
    unwritten: journal::Unwritten,
    keeping: keeping::Keeping,
}

impl Host {
    pub(crate) fn bind(
        mut settings: Settings,
        dir: RuntimeDir,
        waker: Waker,
        intake: Intake,
        orders: Arc<Orders>,
    ) -> Result<(Self, Vec<Endpoint>)> {
        let server = settings.listening.as_ref().map(|how| &how.server);
        let mut control = Socket::new(Kind::Router)?
            .guarded(server)
            .taking_at_most(settings.limits.message, settings.limits.messages());
        let mut bound = settings.binds.clone();
        // What is plain comes first: see Socket::guarded.
        let is_tcp = |endpoint: &Endpoint| endpoint.transport() == Transport::Tcp;
        for tcp in [false, true] {
            for endpoint in bound.iter_mut().filter(|endpoint| is_tcp(endpoint) == tcp) {
                *endpoint = match (&*endpoint, settings.one_of_many) {
                    (Endpoint::Tcp { host, port: 0 }, true) => {
                        control.bind_in(host, settings.ports)?
                    }
                    (given, _) => control.bind(given)?,
                };
            }
        }
        settings.binds.clone_from(&bound);
        if let Some(how) = &settings.listening {
            how.publish(&bound, dir.path());
        }
        let now = Instant::now();
        let run = settings.run;
        let queue = settings.queue;
        let door = Door::new(settings.limits);
        let mut ledger = Ledger::new();
        ledger.set_deaths(settings.deaths);
        let (unwritten, resumed) = journal::Unwritten::start(&mut settings, &mut ledger, &waker)?;
        let keeping = keeping::Keeping::start(settings.keeping.take(), &mut ledger);
        let mut host = Self {
            settings,
            control,
            dir,
            machine: machine_id(),
            waker,
            intake,
            orders,
            ledger,
            peers: FxHashMap::default(),
            routes: HashMap::new(),
            sink: None,
            absorbed: FxHashMap::default(),
            had_sink: resumed,
            had_worker: false,
            verdicts: Outbox::new(run, 0),
            started: now,
            lanes_made: 0,
            closing: None,
            cause: 0,
            killed: false,
            abandoned: false,
            held_back: false,
            intake_since: None,
            died: Vec::new(),
            obituaries: Obituaries::default(),
            alone_since: now,
            sinkless_since: now,
            error: None,
            door,
            members: queue.map(members::Members::new),
            left_at: None,
            dropped: 0,
            unwritten,
            keeping,
        };
        if queue.is_some() {
            host.bind_puts()?;
        }
        if host.keeping.take_shut() {
            host.shut_down();
        }
        host.publish();
        Ok((host, bound))
    }

    /// Guards all its TCP sockets.
    fn server(&self) -> Option<&Arc<Server>> {
        self.settings.listening.as_ref().map(|how| &how.server)
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Runs until all is done or stopped.
    pub(crate) fn run(mut self) -> Result<Summary> {
        let outcome = self.serve();
        self.unwritten.close();
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

    fn serve(&mut self) -> Result<()> {
        let tick = self.settings.heartbeat / 2;
        let mut next_tick = Instant::now() + tick;
        let mut published = Instant::now();
        let mut unpublished = false;
        self.publish();
        loop {
            let mut timeout = next_tick.saturating_duration_since(Instant::now());
            if unpublished {
                timeout = timeout.min(PUBLISH);
            }
            if self.held_back || self.intake_since.is_some() {
                timeout = timeout.min(HOLD_BACK);
            }
            let ready = {
                let mut sockets = vec![&self.control];
                sockets.extend(self.sink.as_ref().map(|sink| &sink.acks));
                sockets.extend(self.verdicts.socket.as_ref());
                sockets.extend(self.peers.values().map(|peer| &peer.lane.socket));
                let members = self.members.iter();
                sockets.extend(members.flat_map(|members| members.puts.iter().map(|(_, put)| put)));
                poll(&sockets, &self.waker, timeout)?
            };
            let now = Instant::now();
            // Our own clock stood still (the machine slept, or we were stopped): nobody's silence counts for that time.
            if now > next_tick + self.settings.heartbeat {
                let late = now - next_tick;
                self.ledger.slept(late);
                self.members_slept(late);
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
            // They are the last ones.
            let puts = self
                .members
                .as_ref()
                .map_or(0, |members| members.puts.len());
            if ready.iter().rev().take(puts).any(|&(message, _)| message) {
                self.read_puts();
            }
            // Links last: what a peer said before it went counts.
            if ready.iter().any(|&(_, link)| link) {
                self.read_links();
            }
            self.apply_written();
            self.apply_kept();
            self.read_intake();
            self.drop_waiting();
            self.ledger.set_clock(self.now());
            self.ledger.deal();
            self.act();
            self.flush();
            self.keeping.note(&mut self.ledger);
            self.held_back |= self.ledger.is_undecided();
            self.serve_members(now);
            if now >= next_tick {
                next_tick = now + tick;
                self.tick(now);
            }
            unpublished = now.duration_since(published) < PUBLISH;
            if !unpublished {
                published = now;
                self.publish();
            }
            #[cfg(test)]
            super::simulation::look_at(self);
            if self.is_finished(now) {
                return Ok(());
            }
        }
    }

    fn read_intake(&mut self) {
        if self.members.is_some() || self.ledger.has_ended() || self.ledger.is_halted() {
            return;
        }
        if self.awaits_holders() {
            return;
        }
        let room = self.ledger.room().saturating_sub(self.unwritten.put);
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
        let mut fresh = Vec::new();
        for task in tasks {
            if let Some(known) = task.known {
                self.put_known(task.body, known, &mut fresh);
            } else if task.alone {
                self.ledger.put_alone(task.body, tries);
            } else {
                self.ledger.put(task.body, tries);
            }
        }
        self.put_when_written(fresh);
        if ended && self.unwritten.put == 0 {
            self.ledger.end();
        }
    }
}
