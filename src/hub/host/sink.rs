//! The run's sink: how it is admitted, where workers find it, what it has kept, and what happens when it is gone.

use crate::hub::outside::{Instant, Socket};

use super::{Host, SinkPeer, TURN};
use crate::wire::access;
use crate::wire::endpoint::{Endpoint, Transport};
use crate::wire::frame::{self, Hello, Message, SinkAt, Welcome, kind};
use crate::wire::socket::Kind;

impl Host {
    pub(super) fn on_sink(
        &mut self,
        route: &[u8],
        address: Option<&str>,
        via: Transport,
        hello: Hello,
    ) {
        let by_tcp = |text: &String| text.starts_with("tcp:");
        let is_open = hello.key.is_empty() && hello.endpoints.iter().any(by_tcp);
        if is_open && self.settings.listening.is_some() {
            let why = "it would gather results in the open, and this run is encrypted; start the sink without --insecure";
            return self.refuse(route, why.to_owned(), false);
        }
        let (number, received) = match &self.sink {
            Some(sink) if sink.id != hello.peer => {
                let why = format!(
                    "this run has a sink already: process {} on {}",
                    sink.pid, sink.host
                );
                return self.refuse(route, why, true);
            }
            Some(sink) => (sink.number, sink.received),
            None => (0, 0),
        };
        let bound = Socket::new(Kind::Pull)
            .map(|socket| socket.taking_rings().guarded(self.server()))
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
            key: hello.key,
            acks,
            address: bound.clone(),
            up: via == Transport::Inproc,
            number,
            received,
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
            key: welcome.key.clone(),
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
        let pass = self.settings.listening.as_ref().map(|how| how.own_pass());
        let client = access::to_results(&welcome.key, pass);
        let set = self.verdicts.set_sink(
            welcome.sink,
            &welcome.endpoints,
            welcome.window,
            &here,
            client,
        );
        if let Err(why) = set {
            log::warn!("{why}");
        }
    }

    pub(super) fn read_acks(&mut self) {
        let Some(sink) = &mut self.sink else {
            return;
        };
        let mut acks = Vec::new();
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
            if ack.number <= sink.received {
                continue;
            }
            sink.received = ack.number;
            for &(worker, link, bytes) in &ack.absorbed {
                if worker == 0 {
                    self.verdicts.absorbed(link, bytes);
                } else {
                    // What came late by an earlier link says nothing of the present one.
                    let known = self.absorbed.entry(worker).or_default();
                    *known = (link, bytes).max(*known);
                    if let Some(peer) = self.peers.get_mut(&worker) {
                        peer.absorbed = Some(*known);
                    }
                }
            }
            acks.push(ack);
        }
        for ack in acks {
            self.acknowledge_when_written(ack);
        }
    }

    pub(super) fn sink_gone(&mut self, why: &str) {
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
}
