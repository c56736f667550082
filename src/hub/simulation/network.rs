//! The network of the simulation: sockets as [`wire::socket`](crate::wire::socket) has them, in memory and in virtual time.
//!
//! A connection has two channels, each in order, as over TCP; different connections know nothing of each other's order. It is
//! lost as TCP's are: what a killed process had not got out is gone, what it had got out arrives, and then the end is seen.
//! A cut link holds everything up; when it is mended, connections live or are reset.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::process;
use super::random::Random;
use crate::error::{Error, Result};
use crate::wire::access::{Client, Server};
use crate::wire::endpoint::Endpoint;
use crate::wire::frame::kind;
use crate::wire::socket::{Kind, LinkEvent};
use crate::wire::wake::Waker;

pub(super) type ProcessId = usize;
pub(super) type Machine = usize;
type SocketId = usize;
type LinkId = usize;

thread_local! {
    static NETWORK: RefCell<Option<Network>> = const { RefCell::new(None) };
}

/// Does something with the network of this thread's simulation.
pub(super) fn network<R>(call: impl FnOnce(&mut Network) -> R) -> R {
    NETWORK.with_borrow_mut(|network| call(network.as_mut().expect("a simulation runs")))
}

/// Begins a simulation in this thread.
pub(super) fn begin(random: Random, weather: Weather) {
    NETWORK.set(Some(Network::new(random, weather)));
}

pub(super) fn end() {
    NETWORK.set(None);
}

/// What time it is for the process that runs, if one does.
pub(super) fn time_here() -> Option<Duration> {
    NETWORK.with_borrow(|network| {
        let network = network.as_ref()?;
        Some(network.now + network.processes.get(network.current)?.ahead)
    })
}

/// Who runs, and when, for the log.
pub(super) fn whereabouts() -> Option<(ProcessId, Duration)> {
    NETWORK.with(|network| {
        let network = network.try_borrow().ok()?;
        let network = network.as_ref()?;
        let here = (network.current != NOBODY).then_some(network.current)?;
        Some((here, network.now))
    })
}

/// The machine of the process that runs, if one does.
pub(crate) fn machine() -> Option<String> {
    NETWORK.with_borrow(|network| {
        let network = network.as_ref()?;
        let here = network.processes.get(network.current)?.machine;
        Some(format!("machine-{here}"))
    })
}

/// What is usual on this network.
#[derive(Clone, Debug)]
pub(super) struct Weather {
    /// Between machines.
    pub(super) latency: Duration,
    /// Messages of a hundred that come twice, where that may be (not on lanes).
    pub(super) doubles: u64,
}

/// Something that happens at a time.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// A process goes on: its poll is over.
    Resume(ProcessId, u64),
    /// The first frame of a channel may be due.
    Deliver(LinkId, usize),
    /// An attempt to connect.
    Connect(SocketId, u64),
    /// One end sees that the connection is there, or gone.
    Up(LinkId, usize),
    Down(LinkId, usize),
    /// For whoever drives the simulation.
    Program(super::course::Event),
}

struct Scheduled(Duration, u64, Event);

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

/// A process as the network knows it.
pub(super) struct Process {
    pub(super) machine: Machine,
    /// How far its clock is ahead of the simulation's.
    ahead: Duration,
    pub(super) alive: bool,
    /// Stopped till then.
    pub(super) stopped: Duration,
    /// When it goes on, and which of the events that say so counts.
    wakes: Option<Duration>,
    generation: u64,
    waker: Option<Waker>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Address {
    Tcp(Machine, u16),
    Ipc(Machine, PathBuf),
    Inproc(String),
}

struct End {
    process: ProcessId,
    kind: Kind,
    watched: bool,
    reconnects: bool,
    target: Option<Endpoint>,
    attempt: u64,
    /// It has connected once, will not again, and takes nothing any more.
    over: bool,
    waits: VecDeque<Bytes>,
    links: Vec<LinkId>,
    addresses: Vec<Address>,
    arrived: VecDeque<(LinkId, Bytes)>,
    events: VecDeque<LinkEvent>,
    turn: usize,
    lingers: bool,
}

#[derive(Default)]
struct Channel {
    frames: VecDeque<(Duration, Bytes)>,
    last: Duration,
    /// Nothing comes after these.
    over: bool,
}

struct Link {
    ends: [SocketId; 2],
    machines: [Machine; 2],
    /// From the one who connected, and to it.
    channels: [Channel; 2],
    open: [bool; 2],
    seen: [bool; 2],
    last_seen: [Duration; 2],
    inproc: bool,
}

pub(super) struct Network {
    pub(super) now: Duration,
    pub(super) current: ProcessId,
    random: Random,
    weather: Weather,
    processes: Vec<Process>,
    ends: Vec<Option<End>>,
    links: Vec<Link>,
    bound: HashMap<Address, SocketId>,
    events: BinaryHeap<Reverse<Scheduled>>,
    scheduled: u64,
    next_port: u16,
    cut: BTreeSet<(Machine, Machine)>,
    slow: HashMap<(Machine, Machine), u32>,
}

const MICRO: Duration = Duration::from_micros(1);
/// Outside of any process.
pub(super) const NOBODY: ProcessId = usize::MAX;

fn pair(a: Machine, b: Machine) -> (Machine, Machine) {
    (a.min(b), a.max(b))
}

impl Network {
    fn new(random: Random, weather: Weather) -> Self {
        Self {
            now: Duration::from_secs(86_400),
            current: NOBODY,
            random,
            weather,
            processes: Vec::new(),
            ends: Vec::new(),
            links: Vec::new(),
            bound: HashMap::new(),
            events: BinaryHeap::new(),
            scheduled: 0,
            next_port: 10_000,
            cut: BTreeSet::new(),
            slow: HashMap::new(),
        }
    }

    // ---- time ----

    pub(super) fn at(&mut self, time: Duration, event: Event) {
        self.scheduled += 1;
        let scheduled = Scheduled(time.max(self.now), self.scheduled, event);
        self.events.push(Reverse(scheduled));
    }

    pub(super) fn after(&mut self, time: Duration, event: Event) {
        self.at(self.now + time, event);
    }

    /// The next event; the clock goes on to it.
    pub(super) fn next(&mut self) -> Option<Event> {
        let Reverse(Scheduled(time, _, event)) = self.events.pop()?;
        self.now = self.now.max(time);
        Some(event)
    }

    // ---- processes ----

    pub(super) fn start_process(&mut self, machine: Machine) -> ProcessId {
        self.processes.push(Process {
            machine,
            ahead: Duration::ZERO,
            alive: true,
            stopped: Duration::ZERO,
            wakes: None,
            generation: 0,
            waker: None,
        });
        let id = self.processes.len() - 1;
        self.wake_at(id, self.now);
        id
    }

    pub(super) fn process(&self, id: ProcessId) -> &Process {
        &self.processes[id]
    }

    /// Lets a process go on at `time`, or before, if that was said already.
    pub(super) fn wake_at(&mut self, id: ProcessId, time: Duration) {
        let process = &mut self.processes[id];
        let time = time.max(process.stopped);
        if !process.alive || process.wakes.is_some_and(|at| at <= time) {
            return;
        }
        process.wakes = Some(time);
        process.generation += 1;
        let generation = process.generation;
        self.at(time, Event::Resume(id, generation));
    }

    /// Something happened that ends a poll.
    fn wake(&mut self, id: ProcessId) {
        // As if the machine had something else to do, now and then.
        let busy = MICRO * (1 + self.random.below(20) as u32);
        self.wake_at(id, self.now + busy);
    }

    /// Whether this event lets the process go on now.
    pub(super) fn is_due(&mut self, id: ProcessId, generation: u64) -> bool {
        let now = self.now;
        let process = &mut self.processes[id];
        if !process.alive || process.generation != generation {
            return false;
        }
        if process.stopped > now {
            let at = process.stopped;
            self.at(at, Event::Resume(id, generation));
            return false;
        }
        process.wakes = None;
        true
    }

    /// Whoever was told from outside, through its waker, goes on.
    pub(super) fn wake_if_told(&mut self, id: ProcessId) {
        let told = self.processes[id]
            .waker
            .as_ref()
            .is_some_and(Waker::is_told);
        if told {
            self.wake(id);
        }
    }

    pub(super) fn stop(&mut self, id: ProcessId, time: Duration) {
        let until = self.now + time;
        let process = &mut self.processes[id];
        process.stopped = process.stopped.max(until);
        process.wakes = None;
        self.wake_at(id, until);
    }

    pub(super) fn jump(&mut self, id: ProcessId, time: Duration) {
        self.processes[id].ahead += time;
        self.wake(id);
    }

    /// Ends a process: its sockets are closed by the kernel, and nobody hears of it when its machine is `gone`.
    pub(super) fn kill(&mut self, id: ProcessId, gone: bool) {
        self.processes[id].alive = false;
        self.processes[id].waker = None;
        for socket in 0..self.ends.len() {
            if self.ends[socket]
                .as_ref()
                .is_some_and(|end| end.process == id)
            {
                self.close(socket, true, gone);
            }
        }
    }

    // ---- weather ----

    pub(super) fn cut(&mut self, a: Machine, b: Machine) {
        self.cut.insert(pair(a, b));
    }

    pub(super) fn slow_down(&mut self, a: Machine, b: Machine, factor: u32) {
        self.slow.insert(pair(a, b), factor);
    }

    /// A connection between machines breaks, as one end sees it, and, when the link is not cut, the other soon after. On one machine
    /// none does, while both live.
    pub(super) fn break_one(&mut self) {
        let open: Vec<LinkId> = (0..self.links.len())
            .filter(|&link| {
                let link = &self.links[link];
                link.open == [true; 2] && link.machines[0] != link.machines[1]
            })
            .collect();
        if open.is_empty() {
            return;
        }
        let link = open[self.random.below(open.len())];
        let side = self.random.below(2);
        self.at(self.now, Event::Down(link, side));
    }

    pub(super) fn mend(&mut self, a: Machine, b: Machine, reset_percent: u64) {
        let between = pair(a, b);
        self.slow.remove(&between);
        if !self.cut.remove(&between) {
            return;
        }
        for id in 0..self.links.len() {
            let link = &mut self.links[id];
            if pair(link.machines[0], link.machines[1]) != between || link.open == [false; 2] {
                continue;
            }
            if self.random.chance(reset_percent) {
                for channel in &mut link.channels {
                    channel.frames.clear();
                    channel.over = true;
                }
            }
            for side in 0..2 {
                let soon = MICRO * (1 + self.random.below(100_000) as u32);
                self.after(soon, Event::Deliver(id, side));
            }
        }
    }

    fn is_cut(&self, machines: [Machine; 2]) -> bool {
        !self.cut.is_empty() && self.cut.contains(&pair(machines[0], machines[1]))
    }

    fn latency(&mut self, machines: [Machine; 2], inproc: bool) -> Duration {
        let usual = if inproc {
            MICRO
        } else if machines[0] == machines[1] {
            20 * MICRO
        } else {
            let factor = self.slow.get(&pair(machines[0], machines[1])).copied();
            self.weather.latency * factor.unwrap_or(1)
        };
        usual + usual.mul_f64(self.random.below(1000) as f64 / 1000.0)
    }

    // ---- events ----

    /// What happens to links.
    pub(super) fn happen(&mut self, event: Event) {
        match event {
            Event::Connect(socket, attempt) => self.try_connect(socket, attempt),
            Event::Deliver(link, side) => self.deliver(link, side),
            Event::Up(link, side) => {
                if self.links[link].open[side] {
                    self.links[link].seen[side] = true;
                    self.tell(link, side, &[LinkEvent::Reached, LinkEvent::Up]);
                }
            }
            Event::Down(link, side) => self.down(link, side),
            Event::Resume(..) | Event::Program(_) => {}
        }
    }

    fn tell(&mut self, link: LinkId, side: usize, events: &[LinkEvent]) {
        let socket = self.links[link].ends[side];
        let Some(end) = &mut self.ends[socket] else {
            return;
        };
        if end.watched {
            // Who has bound is not told that it was reached.
            let told = events
                .iter()
                .filter(|event| side == 0 || **event != LinkEvent::Reached);
            end.events.extend(told.cloned());
            let process = end.process;
            self.wake(process);
        }
    }

    fn try_connect(&mut self, socket: SocketId, attempt: u64) {
        let Some(end) = &self.ends[socket] else {
            return;
        };
        if end.attempt != attempt || end.over || !end.links.is_empty() {
            return;
        }
        let process = end.process;
        let here = self.processes[process].machine;
        let Some(target) = end.target.clone() else {
            return;
        };
        let address = self.address(&target, process);
        let there = match &address {
            Address::Tcp(machine, _) | Address::Ipc(machine, _) => *machine,
            Address::Inproc(_) => here,
        };
        let inproc = matches!(address, Address::Inproc(_));
        if self.is_cut([here, there]) {
            // The kernel tries on by itself.
            return self.after(Duration::from_millis(200), Event::Connect(socket, attempt));
        }
        let Some(&other) = self.bound.get(&address) else {
            let again = MICRO * (20_000 + self.random.below(180_000) as u32);
            if let Some(end) = &mut self.ends[socket] {
                if end.watched {
                    end.events.push_back(LinkEvent::Failed);
                }
                if end.reconnects {
                    self.after(again, Event::Connect(socket, attempt));
                } else {
                    end.over = true;
                }
                self.wake(process);
            }
            return;
        };
        self.links.push(Link {
            ends: [socket, other],
            machines: [here, there],
            channels: <[Channel; 2]>::default(),
            open: [true; 2],
            seen: [false; 2],
            last_seen: [self.now; 2],
            inproc,
        });
        let link = self.links.len() - 1;
        for (side, socket) in [socket, other].into_iter().enumerate() {
            let soon = self.latency([here, there], inproc);
            self.links[link].last_seen[side] = self.now + soon;
            self.after(soon, Event::Up(link, side));
            if let Some(end) = &mut self.ends[socket] {
                end.links.push(link);
            }
        }
        let waits = self.ends[socket]
            .as_mut()
            .map(|end| std::mem::take(&mut end.waits));
        for frame in waits.unwrap_or_default() {
            self.transmit(link, 0, frame);
        }
    }

    fn transmit(&mut self, link: LinkId, side: usize, frame: Bytes) {
        let machines = self.links[link].machines;
        let inproc = self.links[link].inproc;
        let latency = self.latency(machines, inproc);
        let doubles = if inproc { 0 } else { self.weather.doubles };
        let is_lane = self.ends[self.links[link].ends[1]]
            .as_ref()
            .is_some_and(|end| end.kind == Kind::Push);
        // A large body in parts comes twice only on another connection.
        let once = is_lane || frame.get(1) == Some(&kind::PART);
        let times = 1 + usize::from(!once && doubles > 0 && self.random.chance(doubles));
        let now = self.now;
        let channel = &mut self.links[link].channels[side];
        if channel.over {
            return;
        }
        let at = (now + latency).max(channel.last + Duration::from_nanos(1));
        channel.last = at;
        for _ in 0..times {
            channel.frames.push_back((at, frame.clone()));
        }
        self.at(at, Event::Deliver(link, side));
    }

    fn deliver(&mut self, id: LinkId, side: usize) {
        if self.is_cut(self.links[id].machines) {
            return;
        }
        let now = self.now;
        let link = &mut self.links[id];
        let other = 1 - side;
        let socket = link.ends[other];
        let channel = &mut link.channels[side];
        let mut some = false;
        while channel.frames.front().is_some_and(|&(at, _)| at <= now) {
            let Some((_, frame)) = channel.frames.pop_front() else {
                break;
            };
            if let (true, Some(end)) = (link.open[other], &mut self.ends[socket]) {
                end.arrived.push_back((id, frame));
                some = true;
            }
        }
        let ends = channel.over && channel.frames.is_empty() && link.open[other];
        let next = channel.frames.front().map(|&(at, _)| at);
        if let Some(at) = next {
            self.at(at, Event::Deliver(id, side));
        }
        if some && let Some(end) = &self.ends[socket] {
            let process = end.process;
            self.wake(process);
        }
        if ends {
            let soon = self.latency(self.links[id].machines, self.links[id].inproc);
            let at = (now + soon).max(self.links[id].last_seen[other]);
            self.at(at, Event::Down(id, other));
        }
    }

    /// One end sees that the connection is gone.
    fn down(&mut self, id: LinkId, side: usize) {
        if !std::mem::take(&mut self.links[id].open[side]) {
            return;
        }
        let seen = self.links[id].seen[side];
        let socket = self.links[id].ends[side];
        self.end_channel(id, side, true);
        let drops = self.random.chance(50);
        let again = MICRO * (20_000 + self.random.below(180_000) as u32);
        let Some(end) = &mut self.ends[socket] else {
            return;
        };
        end.links.retain(|&link| link != id);
        if side == 0 {
            if end.reconnects {
                end.attempt += 1;
                let attempt = end.attempt;
                self.after(again, Event::Connect(socket, attempt));
            } else {
                end.over = true;
                if drops {
                    // libzmq ends the pipe at once: what was received and not read is gone.
                    end.arrived.clear();
                }
            }
        }
        if seen {
            self.tell(id, side, &[LinkEvent::Down]);
        } else if side == 0 {
            self.tell(id, side, &[LinkEvent::Failed]);
        }
    }

    /// Nothing more is sent from that side; of what is under way a part arrives, or all, and then the other end sees it.
    fn end_channel(&mut self, id: LinkId, side: usize, killed: bool) {
        let length = self.links[id].channels[side].frames.len();
        let left = if killed {
            self.random.below(length + 1)
        } else {
            length
        };
        let channel = &mut self.links[id].channels[side];
        channel.frames.truncate(left);
        channel.over = true;
        self.at(self.now, Event::Deliver(id, side));
    }

    fn close(&mut self, socket: SocketId, killed: bool, gone: bool) {
        let Some(end) = self.ends[socket].take() else {
            return;
        };
        for address in &end.addresses {
            self.bound.remove(address);
        }
        for id in end.links {
            let side = usize::from(self.links[id].ends[0] != socket);
            self.links[id].open[side] = false;
            if gone {
                self.links[id].channels[side].frames.clear();
            } else {
                self.end_channel(id, side, killed || !end.lingers);
            }
        }
    }

    fn address(&self, endpoint: &Endpoint, process: ProcessId) -> Address {
        let here = self.processes[process].machine;
        match endpoint {
            Endpoint::Inproc(name) => Address::Inproc(name.clone()),
            Endpoint::Ipc(path) => Address::Ipc(here, path.clone()),
            Endpoint::Tcp { host, port } => {
                let number = host
                    .strip_prefix("10.0.0.")
                    .and_then(|tail| tail.parse().ok());
                Address::Tcp(number.unwrap_or(here), *port)
            }
        }
    }
}

/// A socket of the process that runs.
pub(crate) struct Socket(SocketId);

impl Drop for Socket {
    fn drop(&mut self) {
        NETWORK.with_borrow_mut(|network| {
            if let Some(network) = network {
                network.close(self.0, false, false);
            }
        });
    }
}

impl Socket {
    fn end<R>(&self, call: impl FnOnce(&mut End) -> R) -> Option<R> {
        network(|network| network.ends[self.0].as_mut().map(call))
    }

    pub(crate) fn new(kind: Kind) -> Result<Self> {
        Ok(Self(network(|network| {
            network.ends.push(Some(End {
                process: network.current,
                kind,
                watched: false,
                reconnects: true,
                target: None,
                attempt: 0,
                over: false,
                waits: VecDeque::new(),
                links: Vec::new(),
                addresses: Vec::new(),
                arrived: VecDeque::new(),
                events: VecDeque::new(),
                turn: 0,
                lingers: false,
            }));
            network.ends.len() - 1
        })))
    }

    pub(crate) const fn taking_rings(self) -> Self {
        self
    }

    pub(crate) const fn offering_rings(self, _: &Endpoint, _: u32) -> Self {
        self
    }

    pub(crate) const fn guarded(self, _: Option<&Arc<Server>>) -> Self {
        self
    }

    pub(crate) const fn proving(self, _: Option<&Arc<Client>>) -> Self {
        self
    }

    pub(crate) const fn taking_at_most(self, _: usize, _: i32) -> Self {
        self
    }

    pub(crate) fn recv_and_user(&self) -> Option<(Bytes, Option<u32>)> {
        self.recv().map(|frame| (frame, None))
    }

    pub(crate) fn without_reconnect(self) -> Self {
        self.end(|end| end.reconnects = false);
        self
    }

    pub(crate) fn set_linger(&self, time: Duration) {
        self.end(|end| end.lingers = !time.is_zero());
    }

    pub(crate) fn monitored(self) -> Result<Self> {
        self.end(|end| end.watched = true);
        Ok(self)
    }

    pub(crate) fn link_events(&self) -> Vec<LinkEvent> {
        self.end(|end| end.events.drain(..).collect())
            .unwrap_or_default()
    }

    pub(crate) fn bind(&mut self, endpoint: &Endpoint) -> Result<Endpoint> {
        network(|network| {
            let endpoint = match endpoint {
                Endpoint::Tcp { host, port: 0 } => {
                    network.next_port += 1;
                    Endpoint::Tcp {
                        host: host.clone(),
                        port: network.next_port,
                    }
                }
                other => other.clone(),
            };
            let address = network.address(&endpoint, network.current);
            if network.bound.contains_key(&address) {
                return Err(Error::Bind {
                    endpoint: endpoint.to_string(),
                    why: "address in use".to_owned(),
                });
            }
            network.bound.insert(address.clone(), self.0);
            if let Some(end) = &mut network.ends[self.0] {
                end.addresses.push(address);
            }
            Ok(endpoint)
        })
    }

    pub(crate) fn bind_in(&mut self, host: &str, _: Option<(u16, u16)>) -> Result<Endpoint> {
        self.bind(&Endpoint::Tcp {
            host: host.to_owned(),
            port: 0,
        })
    }

    pub(crate) fn unbind(&mut self, endpoint: &Endpoint) {
        network(|network| {
            let address = network.address(endpoint, network.current);
            // A TCP port stays open.
            if matches!(address, Address::Ipc(..)) {
                network.bound.remove(&address);
            }
        });
    }

    pub(crate) fn connect(&mut self, endpoint: &Endpoint) -> Result<()> {
        network(|network| {
            if let Some(end) = &mut network.ends[self.0] {
                end.target = Some(endpoint.clone());
                let attempt = end.attempt;
                let soon = MICRO * (30 + network.random.below(100) as u32);
                network.after(soon, Event::Connect(self.0, attempt));
            }
        });
        Ok(())
    }

    pub(crate) fn send(&self, frame: Vec<u8>) -> bool {
        network(|network| {
            let Some(end) = &mut network.ends[self.0] else {
                return false;
            };
            if end.over {
                return false;
            }
            if end.links.is_empty() {
                let will = end.target.is_some();
                if will {
                    end.waits.push_back(frame.into());
                }
                return will;
            }
            end.turn += 1;
            let link = end.links[end.turn % end.links.len()];
            let side = usize::from(end.target.is_none());
            network.transmit(link, side, frame.into());
            true
        })
    }

    #[allow(dead_code, reason = "as the real one")]
    pub(crate) fn send_slice(&self, frame: &[u8]) -> bool {
        self.send(frame.to_vec())
    }

    pub(crate) fn send_to(&self, to: &[u8], frame: Vec<u8>) -> bool {
        let Some(link) = to.try_into().ok().map(u64::from_le_bytes) else {
            return false;
        };
        network(|network| {
            let link = link as usize;
            let known = network.ends[self.0]
                .as_ref()
                .is_some_and(|end| end.links.contains(&link));
            if known {
                network.transmit(link, 1, frame.into());
            }
            known
        })
    }

    pub(crate) fn recv(&self) -> Option<Bytes> {
        self.end(|end| end.arrived.pop_front())?
            .map(|(_, frame)| frame)
    }

    pub(crate) fn recv_from(&self) -> Option<(Vec<u8>, Option<String>, Bytes)> {
        network(|network| {
            let (link, frame) = network.ends[self.0].as_mut()?.arrived.pop_front()?;
            let [there, here] = network.links[link].machines;
            let address = if there == here {
                "127.0.0.1".to_owned()
            } else {
                format!("10.0.0.{there}")
            };
            Some(((link as u64).to_le_bytes().to_vec(), Some(address), frame))
        })
    }
}

/// Waits in virtual time: the process that runs stands still until one of its sockets has something, it is woken, or `timeout`
/// has passed.
pub(crate) fn poll(
    sockets: &[&Socket],
    waker: &Waker,
    timeout: Duration,
) -> Result<Vec<(bool, bool)>> {
    let here = network(|network| {
        let here = network.current;
        let some = waker.is_told() || sockets.iter().any(|socket| network.has_some(socket.0));
        let time = if some { 2 * MICRO } else { timeout.max(MICRO) };
        network.processes[here].waker = Some(waker.clone());
        network.wake_at(here, network.now + time);
        here
    });
    process::stand_still();
    network(|network| {
        debug_assert_eq!(network.current, here);
        if waker.is_told() {
            waker.hear();
        }
        let ready = |socket: &&Socket| match &network.ends[socket.0] {
            Some(end) => (!end.arrived.is_empty(), !end.events.is_empty()),
            None => (false, false),
        };
        Ok(sockets.iter().map(ready).collect())
    })
}

impl Network {
    fn has_some(&self, socket: SocketId) -> bool {
        let end = self.ends[socket].as_ref();
        end.is_some_and(|end| !end.arrived.is_empty() || !end.events.is_empty())
    }
}
