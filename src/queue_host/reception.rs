//! The well-known endpoint of a host of queues: who comes says which queue is meant, and is told where it listens.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::directory::Directory;
use crate::error::Result;
use crate::hub::limits::{Door, Limits};
use crate::hub::outside::{Instant, Socket, poll};
use crate::wire::access::Listening;
use crate::wire::endpoint::{Endpoint, Transport};
use crate::wire::frame::{self, Find, Found, Hello, Message, Refused, Role, kind};
use crate::wire::runtime_dir::RuntimeDir;
use crate::wire::socket::Kind;
use crate::wire::wake::Waker;

/// How often the queues are looked after.
const ROUND: Duration = Duration::from_millis(250);
/// How many messages are read before the queues have their turn.
const TURN: usize = 256;

/// The event loop at the endpoints that were bound.
pub(super) struct Reception {
    control: Socket,
    waker: Waker,
    door: Door,
    directory: Arc<Mutex<Directory>>,
    started: Instant,
    stop: Arc<AtomicBool>,
    /// Where the keys are found by the port.
    _dir: RuntimeDir,
}

impl Reception {
    /// Listens; where, with real ports.
    pub(super) fn bind(
        binds: &[Endpoint],
        limits: Limits,
        listening: Option<&Arc<Listening>>,
        dir: RuntimeDir,
        waker: Waker,
    ) -> Result<(Listener, Vec<Endpoint>)> {
        let server = listening.map(|how| &how.server);
        let mut control = Socket::new(Kind::Router)?
            .guarded(server)
            .taking_at_most(limits.message, limits.messages());
        let mut bound = binds.to_vec();
        // What is plain comes first: see Socket::guarded.
        let is_tcp = |endpoint: &Endpoint| endpoint.transport() == Transport::Tcp;
        for tcp in [false, true] {
            for endpoint in bound.iter_mut().filter(|endpoint| is_tcp(endpoint) == tcp) {
                *endpoint = control.bind(endpoint)?;
            }
        }
        let listener = Listener {
            control,
            waker,
            door: Door::new(limits),
            dir,
        };
        Ok((listener, bound))
    }

    /// Serves until it is told to stop.
    pub(super) fn run(mut self) -> Result<()> {
        let mut next_round = Instant::now() + ROUND;
        loop {
            let timeout = next_round.saturating_duration_since(Instant::now());
            poll(&[&self.control], &self.waker, timeout)?;
            if self.stop.load(Ordering::Acquire) {
                return Ok(());
            }
            self.read();
            let now = Instant::now();
            if now >= next_round {
                next_round = now + ROUND;
                self.lock().look_after(now)?;
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Directory> {
        self.directory
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&mut self) {
        for _ in 0..TURN {
            let Some((route, address, bytes)) = self.control.recv_from() else {
                break;
            };
            if self.door.is_offender(&route) {
                continue;
            }
            match frame::decode(&bytes) {
                Ok(message) => self.on_message(&route, message),
                Err(error) => {
                    log::warn!(
                        "from now on ignores {}, which sent what is no message: {error}",
                        address.as_deref().unwrap_or("a peer on this host")
                    );
                    self.door.offend(&route);
                }
            }
        }
    }

    fn on_message(&mut self, route: &[u8], message: Message) {
        match message {
            Message::Find(find) => {
                let answer = self.find(&find);
                match answer {
                    Ok(found) => {
                        self.control.send_to(route, frame::encode(&found));
                    }
                    Err((why, again)) => self.refuse(route, why, again),
                }
            }
            Message::Hello(hello) => self.refuse(route, for_whom(&hello), false),
            Message::OtherVersion(version) => self.refuse(
                route,
                format!(
                    "it speaks version {version} of the protocol and this host of queues version {}; \
                     install the same procession on both sides",
                    frame::VERSION
                ),
                false,
            ),
            Message::Status(_) => {
                let state = self
                    .lock()
                    .state(self.started.elapsed(), self.door.turned_away());
                self.control.send_to(route, frame::encode(&state));
            }
            other => log::debug!("ignored at the reception: {other:?}"),
        }
    }

    fn find(&mut self, find: &Find) -> std::result::Result<Found, (String, bool)> {
        // Those who are there are counted by each queue; here it matters how many come at once.
        self.door.knock(self.started.elapsed(), 0)?;
        let mut directory = self.lock();
        let there = directory.find(find)?;
        let by_same_way = |at: &&Endpoint| at.transport() as u8 == find.via;
        let address = there.iter().find(by_same_way).ok_or_else(|| {
            let why = format!("transport {} does not lead to its queues", find.via);
            (why, false)
        })?;
        Ok(Found {
            kind: kind::FOUND,
            peer: find.peer,
            address: address.clone().with_any_host().to_string(),
            lasting: directory.is_lasting(),
        })
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
}

/// Why nobody says hello here.
fn for_whom(hello: &Hello) -> String {
    if hello.role == Role::Member as u8 {
        "many queues are here, by name: say which one with ?queue=NAME behind the endpoint"
            .to_owned()
    } else {
        "queues are here and no pipeline; give the endpoint of a ventilator".to_owned()
    }
}

/// A reception that listens and does not serve yet.
pub(super) struct Listener {
    control: Socket,
    waker: Waker,
    door: Door,
    dir: RuntimeDir,
}

impl Listener {
    /// What serves, until `stop` is set and its waker woken.
    pub(super) fn with(self, directory: Arc<Mutex<Directory>>, stop: Arc<AtomicBool>) -> Reception {
        Reception {
            control: self.control,
            waker: self.waker,
            door: self.door,
            directory,
            started: Instant::now(),
            stop,
            _dir: self.dir,
        }
    }

    /// Where its files are.
    pub(super) fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }
}
