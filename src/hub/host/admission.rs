//! Who says hello, and becomes a worker with a lane of its own, or the sink, or is refused.

use crate::hub::outside::Instant;

use super::{Host, Peer};
use crate::error::Result;
use crate::hub::lane::Lane;
use crate::obituary::OomKills;
use crate::wire::endpoint::{Endpoint, Transport};
use crate::wire::frame::{self, Hello, Role, Welcome, kind};

/// What all workers together may have under way to the sink, in bytes.
const SINK_BUDGET: u64 = 16 << 20;

impl Host {
    pub(super) fn on_hello(&mut self, route: &[u8], address: Option<&str>, hello: Hello) {
        if hello.run != 0 && hello.run != self.settings.run {
            return self.refuse(
                route,
                format!(
                    "it belongs to run {:016x}, which is over, and this is run {:016x}; start it again to join",
                    hello.run, self.settings.run
                ),
                false,
            );
        }
        if hello.peer == 0 {
            return self.refuse(route, "it has no id".to_owned(), false);
        }
        if self.closing.is_some()
            && (self.members.is_none() || self.left_at.is_some() || hello.slots > 0)
        {
            self.control.send_to(route, self.pill(kind::PILL));
            return;
        }
        // Who is known comes back, and takes no more room.
        let is_known = self.peers.contains_key(&hello.peer)
            || self.sink.as_ref().is_some_and(|sink| sink.id == hello.peer)
            || self
                .members
                .as_ref()
                .is_some_and(|members| members.has(hello.peer));
        if !is_known && let Err((why, again)) = self.door.knock(self.now(), self.population()) {
            return self.refuse(route, why, again);
        }
        let Some(via) = Transport::from_number(hello.via) else {
            return self.refuse(
                route,
                format!("transport {} is not known", hello.via),
                false,
            );
        };
        match hello.role {
            role if role == Role::Member as u8 => self.on_member_hello(route, via, hello),
            _ if self.members.is_some() => self.refuse(
                route,
                "a queue is here and no pipeline; give the endpoint of a ventilator".to_owned(),
                false,
            ),
            role if role == Role::Worker as u8 => self.on_worker(route, via, hello),
            role if role == Role::Sink as u8 => self.on_sink(route, address, via, hello),
            other => self.refuse(route, format!("role {other} is not known"), false),
        }
    }

    /// How many are there.
    fn population(&self) -> usize {
        let members = self.members.as_ref().map_or(0, |members| members.number());
        self.peers.len().max(members) + usize::from(self.sink.is_some())
    }

    fn on_worker(&mut self, route: &[u8], via: Transport, hello: Hello) {
        let address = match self.admit(route, via, &hello) {
            Ok(address) => address,
            Err(error) => return self.refuse(route, format!("no lane for it: {error}"), true),
        };
        let welcome = Welcome {
            peer: hello.peer,
            address: address.with_any_host().to_string(),
            ..self.welcome()
        };
        self.control.send_to(route, frame::encode(&welcome));
    }

    /// A consumer joins, for the first time or again, and gets a lane: where that is.
    pub(super) fn admit(
        &mut self,
        route: &[u8],
        via: Transport,
        hello: &Hello,
    ) -> Result<Endpoint> {
        let lane = self.new_lane(via, hello.rings)?;
        let address = lane.address.clone();
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
        let same_machine = via != Transport::Tcp || hello.machine == self.machine;
        // Of items nobody dies.
        let oom_kills = match self.members {
            None if same_machine => OomKills::of_process(hello.pid),
            _ => OomKills::default(),
        };
        let now = self.now();
        self.ledger.join(id, slots, &hello.held, now);
        if self.ledger.is_halted() {
            // It has nothing to do but to finish what it holds.
            self.ledger.heard(id, now);
        }
        self.had_worker = true;
        self.routes.insert(route.to_vec(), id);
        self.peers.insert(
            id,
            Peer {
                route: route.to_vec(),
                slots,
                host: hello.host.clone(),
                pid: hello.pid,
                same_machine,
                lane,
                goodbye: false,
                last_sent: Instant::now(),
                absorbed: self.absorbed.get(&id).copied(),
                relayed: Instant::now(),
                doomed: false,
                oom_before: oom_kills.count(),
                oom_kills,
            },
        );
        Ok(address)
    }

    pub(super) fn welcome(&self) -> Welcome {
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
            key: self
                .sink
                .as_ref()
                .map(|sink| sink.key.clone())
                .unwrap_or_default(),
            pass: self
                .settings
                .listening
                .as_ref()
                .map(|how| how.pass())
                .unwrap_or_default(),
        }
    }

    /// How many bytes a worker may have under way to the sink.
    fn window(&self) -> u64 {
        (SINK_BUDGET / (self.peers.len() as u64 + 1)).clamp(64 << 10, 1 << 20)
    }

    fn new_lane(&mut self, via: Transport, rings: bool) -> Result<Lane> {
        self.lanes_made += 1;
        let lane = Lane::bind(
            via,
            self.lane_host(),
            self.settings.ports,
            self.dir.path(),
            self.lanes_made,
            self.settings.run,
            self.server(),
        )?;
        let lane = match rings {
            true => lane.offering_rings(),
            false => lane,
        };
        Ok(match self.members {
            Some(_) => lane.of_items(),
            None => lane,
        })
    }

    /// Lanes listen on the interface that control listens on.
    pub(super) fn lane_host(&self) -> &str {
        self.settings
            .binds
            .iter()
            .find_map(Endpoint::host)
            .unwrap_or("127.0.0.1")
    }
}
