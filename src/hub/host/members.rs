//! The members of a queue: what they put comes in here, is granted room, and is accepted; their questions are answered.

use crate::hub::outside::{Instant, Socket};
use std::time::Duration;

use super::{HOLD_BACK, Host, TURN, machine_id};
use crate::error::Result;
use crate::wire::block;
use crate::wire::body::{Arriving, Body};
use crate::wire::endpoint::{Endpoint, Transport};
use crate::wire::frame::{
    self, Ask, Confirm, Hello, Message, PeerId, Place, Put, PutEntry, QueueInfo, Room, Want,
    Welcome, kind,
};
use crate::wire::socket::Kind;

/// Bytes that were taken in are told no later than after so many, in bytes.
const TOLD_AFTER: u64 = 512 << 10;

/// The queue's side of a host.
pub(super) struct Members {
    pub(super) info: QueueInfo,
    /// Where blocks come in, one socket for each transport that control listens on.
    pub(super) puts: Vec<(Endpoint, Socket)>,
    all: rustc_hash::FxHashMap<PeerId, Member>,
    /// Who waits until all is done with: route and number of the question.
    joining: Vec<(Vec<u8>, u64)>,
    /// Nobody puts any more.
    closed: bool,
    /// And what is inside is dropped.
    dropping: bool,
    /// The one who was granted room last; the next one comes first.
    last_granted: PeerId,
    /// How many items had been taken when somebody looked last.
    taken_before: u64,
    /// Till when the creator, who wants to end, lets others take what is here.
    pub(super) until: Option<Instant>,
}

struct Member {
    route: Vec<u8>,
    /// Its process, when that is on this machine.
    pid: Option<u32>,
    /// Since when it waits for room.
    blocked: Option<Instant>,
    /// The numbers of the last block that came, and of the last that was accepted.
    received: u64,
    accepted: u64,
    /// Items that came, that it may have put, and that it wants to.
    items: u64,
    granted: u64,
    wanted: u64,
    want: u64,
    link: u32,
    absorbed: u64,
    arriving: Arriving,
    last_heard: Instant,
    silent: bool,
    /// Something is to be told: since when, and whether at once.
    due: Option<Instant>,
    prompt: bool,
    told: u64,
}

impl Members {
    pub(super) fn has(&self, id: PeerId) -> bool {
        self.all.contains_key(&id)
    }

    pub(super) fn number(&self) -> usize {
        self.all.len()
    }

    pub(super) fn new(info: QueueInfo) -> Self {
        Self {
            info,
            puts: Vec::new(),
            all: rustc_hash::FxHashMap::default(),
            joining: Vec::new(),
            closed: false,
            dropping: false,
            last_granted: 0,
            taken_before: 0,
            until: None,
        }
    }
}

impl Host {
    /// Listens for blocks, by each transport by which members may come.
    pub(super) fn bind_puts(&mut self) -> Result<()> {
        let mut transports: Vec<Transport> = self
            .settings
            .binds
            .iter()
            .map(Endpoint::transport)
            .collect();
        transports.sort_unstable();
        transports.dedup();
        for transport in transports {
            let mut socket = Socket::new(Kind::Pull)?
                .taking_rings()
                .guarded(self.server());
            let address = match transport {
                Transport::Inproc => {
                    socket.bind(&Endpoint::Inproc(format!("{:x}-put", self.settings.run)))?
                }
                Transport::Ipc => socket.bind(&Endpoint::Ipc(self.dir.path().join("put")))?,
                Transport::Tcp => socket.bind_in(self.lane_host(), self.settings.ports)?,
            };
            if let Some(members) = &mut self.members {
                members.puts.push((address, socket));
            }
        }
        Ok(())
    }

    pub(super) fn on_member_hello(&mut self, route: &[u8], via: Transport, hello: Hello) {
        let Some(members) = &mut self.members else {
            return self.refuse(
                route,
                "a pipeline is here and no queue; give the endpoint of a queue".to_owned(),
                false,
            );
        };
        let id = hello.peer;
        let endless = members.info.maxsize == 0;
        let keeping = &mut self.keeping;
        let member = members.all.entry(id).or_insert_with(|| {
            let (accepted, items) = keeping.known(id);
            Member {
                route: Vec::new(),
                pid: (hello.machine == machine_id()).then_some(hello.pid),
                blocked: None,
                received: accepted,
                accepted,
                items,
                granted: if endless { u64::MAX } else { items },
                wanted: items,
                want: 0,
                link: 0,
                absorbed: 0,
                arriving: Arriving::default(),
                last_heard: Instant::now(),
                silent: false,
                due: None,
                prompt: false,
                told: 0,
            }
        });
        if !member.route.is_empty() && member.route != route {
            self.routes.remove(&member.route);
        }
        member.route = route.to_vec();
        member.last_heard = Instant::now();
        member.silent = false;
        member.due = Some(Instant::now());
        member.prompt = true;
        let accepted = member.accepted;
        let endpoints = members
            .puts
            .iter()
            .filter(|(address, _)| address.transport() == via)
            .map(|(address, _)| address.clone().with_any_host().to_string())
            .collect();
        let job = frame::encode(&members.info);
        self.routes.insert(route.to_vec(), id);
        let address = if hello.slots == 0 {
            if self.peers.remove(&id).is_some() {
                self.ledger.gone(id, crate::hub::ledger::Gone::Left);
            }
            String::new()
        } else {
            match self.admit(route, via, &hello) {
                Ok(address) => address.with_any_host().to_string(),
                Err(error) => {
                    return self.refuse(route, format!("no lane for it: {error}"), true);
                }
            }
        };
        let welcome = Welcome {
            peer: id,
            address,
            job,
            endpoints,
            ack: accepted,
            ..self.welcome()
        };
        self.control.send_to(route, frame::encode(&welcome));
        self.take_back_from_before(route, &hello);
    }

    /// Takes in some of what members have put; whether there may be more.
    pub(super) fn read_puts(&mut self) -> bool {
        let Some(members) = &mut self.members else {
            return false;
        };
        let mut strangers = Vec::new();
        let mut is_empty = true;
        for (_, socket) in &members.puts {
            for turn in 1..=TURN {
                let Some(bytes) = socket.recv() else {
                    break;
                };
                is_empty &= turn < TURN;
                let (run, peer) = match frame::decode(&bytes) {
                    Ok(Message::Put(put)) => {
                        let of = (put.run, put.peer);
                        if put.run == self.settings.run
                            && let Some(member) = members.all.get_mut(&put.peer)
                        {
                            // Behind the end nothing is accepted any more, and the putter hears so.
                            let late = members.closed && self.closing.is_some();
                            let (peer, prompt) = (put.peer, put.prompt);
                            let before = member.received;
                            let fresh = member.take_in(put, late);
                            if member.received == before {
                                // Nothing is new.
                            } else if self.keeping.is_on() {
                                let in_all = (member.received, member.items);
                                self.keeping.put(peer, in_all, fresh, prompt);
                            } else {
                                member.accepted = member.received;
                                for (body, items) in fresh {
                                    self.ledger.put_block(body, items);
                                }
                            }
                            continue;
                        }
                        of
                    }
                    Ok(Message::Part(part)) => {
                        if part.run == self.settings.run
                            && let Some(member) = members.all.get_mut(&part.peer)
                        {
                            member.take_in_part(&part);
                            continue;
                        }
                        (part.run, part.peer)
                    }
                    Ok(other) => {
                        log::debug!("ignored among items: {other:?}");
                        continue;
                    }
                    Err(error) => {
                        log::warn!("ignored a message among items: {error}");
                        continue;
                    }
                };
                strangers.push((run, peer));
            }
        }
        for (run, peer) in strangers {
            log::debug!("items of {peer:016x}, who is no member of this queue (run {run:016x})");
        }
        !is_empty
    }

    /// A member says something; whether that was all that there is to do.
    pub(super) fn on_queue(&mut self, id: PeerId, route: &[u8], message: &Message) -> bool {
        let Some(members) = &mut self.members else {
            return false;
        };
        let Some(member) = members.all.get_mut(&id) else {
            return false;
        };
        member.last_heard = Instant::now();
        if std::mem::take(&mut member.silent) && members.info.maxsize > 0 {
            // What it had been granted was given to others meanwhile.
            member.wanted = member.items;
            member.granted = member.items;
            member.due = Some(Instant::now());
            member.prompt = true;
        }
        match message {
            Message::Want(want) => self.on_want(id, want),
            Message::Confirm(confirm) => self.on_confirm(id, confirm),
            Message::Ask(ask) => self.on_ask(route, ask),
            _ => return false,
        }
        true
    }

    fn on_want(&mut self, id: PeerId, want: &Want) {
        if let Some(members) = &mut self.members
            && members.info.maxsize > 0
            && let Some(member) = members.all.get_mut(&id)
        {
            member.wanted = want.items;
            member.granted = member.granted.min(want.items).max(member.items);
            member.want = want.number;
            member.due = Some(Instant::now());
            member.prompt = true;
        }
    }

    fn on_confirm(&mut self, id: PeerId, confirm: &Confirm) {
        let joinable = self.members.as_ref().is_some_and(|m| m.info.joinable);
        for said in &confirm.blocks {
            let mut said = *said;
            if !joinable {
                said.done = said.taken;
            }
            self.ledger.confirm(id, &said);
        }
        if confirm.answer {
            self.ledger.has_given_back(id);
        }
    }

    fn on_ask(&mut self, route: &[u8], ask: &Ask) {
        self.keeping.note(&mut self.ledger);
        match ask.kind {
            kind::JOIN if self.unfinished() > 0 => {
                if let Some(members) = &mut self.members {
                    members.joining.push((route.to_vec(), ask.number));
                }
                return;
            }
            kind::SHUTDOWN | kind::DROP => {
                if ask.kind == kind::DROP
                    && let Some(members) = &mut self.members
                {
                    members.dropping = true;
                    self.drop_waiting();
                }
                self.shut_down();
                if self.keeping.is_on() {
                    self.keeping.note(&mut self.ledger);
                    self.keeping.shut_down(route, ask.number);
                    return;
                }
                // Whoever has the answer knows that nothing more can be put.
                self.serve_members(Instant::now());
            }
            _ => {}
        }
        self.answer(route, ask.number);
    }

    /// After a shutdown at once, what comes back from getters is dropped as well.
    pub(super) fn drop_waiting(&mut self) {
        if self
            .members
            .as_ref()
            .is_some_and(|members| members.dropping)
        {
            let dropped = self.ledger.drop_all();
            if dropped > 0 {
                log::info!("shut down at once: {dropped} items dropped");
            }
        }
    }

    pub(super) fn shut_down(&mut self) {
        self.ledger.end();
        if let Some(members) = &mut self.members
            && !std::mem::replace(&mut members.closed, true)
        {
            for member in members.all.values_mut() {
                member.due = Some(Instant::now());
                member.prompt = true;
            }
        }
    }

    /// Items that were put and are not done with, as far as that can be known again.
    fn unfinished(&self) -> u64 {
        self.ledger.items_unfinished() + self.keeping.undone
    }

    /// What a putter has put so far is accepted.
    pub(super) fn accepted(&mut self, id: PeerId, number: u64, prompt: bool) {
        if let Some(members) = &mut self.members
            && let Some(member) = members.all.get_mut(&id)
        {
            member.accepted = member.accepted.max(number);
            member.due.get_or_insert_with(Instant::now);
            member.prompt |= prompt;
        }
    }

    pub(super) fn answer(&self, route: &[u8], number: u64) {
        let answer = Ask {
            kind: kind::ANSWER,
            run: self.settings.run,
            number,
            inside: self.ledger.items_inside(),
            unfinished: self.unfinished(),
        };
        self.control.send_to(route, frame::encode(&answer));
    }

    /// Grants room, and tells what was accepted.
    pub(super) fn serve_members(&mut self, now: Instant) {
        // What waits to be written has its room.
        let inside = self.ledger.items_inside() + self.keeping.coming;
        let unfinished = self.unfinished();
        let run = self.settings.run;
        let Some(members) = &mut self.members else {
            return;
        };
        members.grant(inside);
        for (&id, member) in &mut members.all {
            let Some(since) = member.due else {
                continue;
            };
            let many = member.absorbed.saturating_sub(member.told) >= TOLD_AFTER;
            if !(member.prompt || many || now.duration_since(since) >= HOLD_BACK) {
                self.held_back = true;
                continue;
            }
            let room = Room {
                kind: kind::ROOM,
                run,
                accepted: member.accepted,
                items: member.granted,
                want: member.want,
                link: member.link,
                absorbed: member.absorbed,
                closed: members.closed,
            };
            member.due = None;
            member.prompt = false;
            member.told = member.absorbed;
            if self.control.send_to(&member.route, frame::encode(&room))
                && let Some(peer) = self.peers.get_mut(&id)
            {
                peer.last_sent = now;
            }
        }
        if unfinished == 0 && !members.joining.is_empty() {
            for (route, number) in std::mem::take(&mut members.joining) {
                self.answer(&route, number);
            }
        }
    }

    /// Before the end: who does not hear that its items were accepted would say that they are lost.
    pub(super) fn tell_accepted(&mut self, now: Instant) {
        if let Some(members) = &mut self.members {
            for member in members.all.values_mut() {
                member.prompt |= member.due.is_some();
            }
        }
        self.serve_members(now);
    }

    /// Members who only put are heard, and hear us, too.
    pub(super) fn tick_members(&mut self, now: Instant, beat: &[u8], silence: Duration) {
        let Some(members) = &mut self.members else {
            return;
        };
        let info = members.info;
        // Nobody is forgotten for being silent: who comes back goes on counting its blocks.
        for (id, member) in &mut members.all {
            if !self.peers.contains_key(id) {
                self.control.send_to(&member.route, beat.to_vec());
            }
            let quiet = now.duration_since(member.last_heard);
            if quiet > silence && !member.silent {
                member.silent = true;
                if info.maxsize > 0 {
                    member.granted = member.items;
                    member.wanted = member.items;
                }
            }
        }
    }

    /// The processes of this machine that wait for room which nobody will make: nothing has been taken since, and no other process is
    /// there that could.
    pub(super) fn note_blocked(&mut self, now: Instant) {
        let taken = self.ledger.items_taken();
        let Some(members) = &mut self.members else {
            return;
        };
        if members.info.maxsize == 0 || self.left_at.is_some() {
            return;
        }
        let moves = std::mem::replace(&mut members.taken_before, taken) != taken;
        let mut blocked = Vec::new();
        let here = std::process::id();
        let mut others = false;
        for member in members.all.values_mut() {
            if member.wanted > member.granted && !member.silent {
                if moves {
                    member.blocked = None;
                }
                let since = *member.blocked.get_or_insert(now);
                blocked.extend(member.pid.map(|pid| (pid, since)));
                others |= member.pid.is_none();
            } else {
                member.blocked = None;
                // It may get yet.
                others |= member.pid != Some(here) && !member.silent;
            }
        }
        let others_get = self.ledger.consumers().any(|(id, _)| {
            let waits = |pid| pid == here || blocked.iter().any(|&(blocked, _)| blocked == pid);
            !self
                .peers
                .get(&id)
                .is_some_and(|peer| peer.same_machine && waits(peer.pid))
        });
        if others || others_get {
            blocked.clear();
        }
        self.orders.set_blocked(blocked);
    }

    /// Our own clock stood still for so long: nobody's silence counts for that time.
    pub(super) fn members_slept(&mut self, time: Duration) {
        if let Some(members) = &mut self.members {
            for member in members.all.values_mut() {
                member.last_heard += time;
            }
        }
    }

    /// Nobody else is there, or all that is here has been taken, or the time for that is over: the creator may end.
    pub(super) fn may_leave(&self, now: Instant) -> bool {
        let Some(members) = &self.members else {
            return false;
        };
        let Some(until) = members.until else {
            return false;
        };
        let getters = self
            .ledger
            .consumers()
            .any(|(id, c)| !c.is_silent() && !self.is_local(id));
        now >= until || self.ledger.items_unfinished() == 0 || !getters
    }

    /// Those who have no lane hear of the end on control.
    pub(super) fn pill_members(&mut self) {
        let pill = self.pill(kind::PILL);
        if let Some(members) = &self.members {
            for (id, member) in &members.all {
                if !self.peers.contains_key(id) {
                    self.control.send_to(&member.route, pill.clone());
                }
            }
        }
    }

    fn is_local(&self, id: PeerId) -> bool {
        self.peers
            .get(&id)
            .is_some_and(|peer| peer.lane.address.transport() == Transport::Inproc)
    }

    pub(super) fn member_gone(&mut self, id: PeerId) {
        if let Some(members) = &mut self.members
            && let Some(member) = members.all.remove(&id)
        {
            self.routes.remove(&member.route);
            if member.received > 0 {
                self.keeping.left(id);
            }
        }
    }

    pub(super) fn members_empty(&self) -> bool {
        self.members
            .as_ref()
            .is_none_or(|members| members.all.is_empty())
    }
}

impl Members {
    /// Shares what room there is among those who want some: one after the other, beginning behind the one who had some last.
    fn grant(&mut self, inside: u64) {
        if self.info.maxsize == 0 || self.closed {
            return;
        }
        let promised: u64 = self.all.values().map(|m| m.granted - m.items).sum();
        let mut room = self.info.maxsize.saturating_sub(inside + promised);
        if room == 0 {
            return;
        }
        let mut wanting: Vec<PeerId> = self
            .all
            .iter()
            .filter(|(_, m)| m.wanted > m.granted && !m.silent)
            .map(|(&id, _)| id)
            .collect();
        wanting.sort_unstable();
        let first = wanting.partition_point(|&id| id <= self.last_granted);
        wanting.rotate_left(first);
        let mut left = wanting.len() as u64;
        for id in wanting {
            let share = room.div_ceil(left).min(room);
            left -= 1;
            let Some(member) = self.all.get_mut(&id) else {
                continue;
            };
            let more = share.min(member.wanted - member.granted);
            if more == 0 {
                break;
            }
            member.granted += more;
            member.due = Some(Instant::now());
            member.prompt = true;
            room -= more;
            self.last_granted = id;
        }
    }
}

impl Member {
    /// What is new of a message; nothing when it comes too `late`.
    fn take_in(&mut self, put: Put, late: bool) -> Vec<(Body, u32)> {
        self.last_heard = Instant::now();
        self.on_link(put.link);
        self.due.get_or_insert_with(Instant::now);
        self.prompt |= put.prompt;
        let mut fresh = Vec::with_capacity(put.entries.len());
        for entry in put.entries {
            let PutEntry {
                number,
                items,
                place,
            } = entry;
            let body = match place {
                Place::Inline(bytes) => {
                    self.absorbed += bytes.len() as u64;
                    Ok(Body::Memory(bytes))
                }
                Place::Parts(len) => std::mem::take(&mut self.arriving).finish(len),
                Place::Handed(key) => crate::hub::hand_over::take(key)
                    .inspect(|body| self.absorbed += body.len())
                    .ok_or_else(|| "it was handed over and is not there".to_owned()),
                Place::File(_) | Place::Error(_) => Err("it is not here".to_owned()),
            };
            if late || number != self.received + 1 {
                continue;
            }
            self.received = number;
            self.items += u64::from(items.max(1));
            self.granted = self.granted.max(self.items);
            match body {
                Ok(Body::Memory(bytes)) if items > 0 && block::count(&bytes) != Some(items) => {
                    log::error!("a block of {items} items has others; it is dropped");
                }
                Ok(body) if items > 0 && !matches!(body, Body::Memory(_)) => {
                    log::error!("a block of {} bytes is dropped", body.len());
                }
                Ok(body) => fresh.push((body, items)),
                Err(why) => log::error!("an item was lost at the host: {why}"),
            }
        }
        fresh
    }

    fn take_in_part(&mut self, part: &frame::Part) {
        self.last_heard = Instant::now();
        self.on_link(part.link);
        self.absorbed += part.bytes.len() as u64;
        self.arriving.add(part.offset, &part.bytes);
        self.due.get_or_insert_with(Instant::now);
    }

    fn on_link(&mut self, link: u32) {
        if link != self.link {
            self.link = link;
            self.absorbed = 0;
            self.told = 0;
            self.arriving = Arriving::default();
        }
    }
}
