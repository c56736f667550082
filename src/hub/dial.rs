//! How a worker, a sink or a question for the state comes to a host: the DEALER that says hello until it is answered, and
//! notices when the host is not heard any more.

use crate::hub::outside::{Instant, Socket};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::wire::access::{Client, Credentials, Now};
use crate::wire::endpoint::Endpoint;
use crate::wire::frame;
use crate::wire::socket::{Kind, LinkEvent};

/// How often a hello that is not answered is said again, on a new connection.
const HELLO_AGAIN: Duration = Duration::from_secs(2);
/// So many broken handshakes are no accident.
const STRANGE: u32 = 3;

/// Who dials a queue.
pub(crate) const MEMBER: &str = "member of a queue";

pub(crate) struct Dial {
    who: &'static str,
    endpoint: Endpoint,
    credentials: Credentials,
    /// With what it is on its way, where that is TCP.
    client: Option<Arc<Client>>,
    /// There is nothing to prove itself with yet, so it is not on its way: since when.
    keyless: Option<Instant>,
    /// Another user's process listens there.
    stranger: Option<u32>,
    patience: Duration,
    pub(crate) socket: Socket,
    /// Since when nothing was heard.
    pub(crate) last_heard: Instant,
    hello_at: Option<Instant>,
    broken: u32,
    connected: bool,
    /// Somebody took the connection, whoever it is.
    reached: bool,
    ever_heard: bool,
    link_lost: bool,
    /// An attempt to connect found nobody.
    failed: bool,
    /// Why it was told to ask again later.
    refusal: Option<(Instant, String)>,
}

/// What is to be done about the connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Need {
    Nothing,
    /// Say hello, on this new connection.
    Hello,
}

impl Dial {
    pub(crate) fn new(
        who: &'static str,
        endpoint: &Endpoint,
        credentials: Credentials,
        patience: Duration,
    ) -> Result<Self> {
        let mut dial = Self {
            who,
            endpoint: endpoint.clone(),
            credentials,
            client: None,
            keyless: None,
            stranger: None,
            patience,
            socket: Socket::new(Kind::Dealer)?,
            last_heard: Instant::now(),
            hello_at: None,
            broken: 0,
            connected: false,
            reached: false,
            ever_heard: false,
            link_lost: false,
            failed: false,
            refusal: None,
        };
        dial.open()?;
        Ok(dial)
    }

    /// Makes a new connection, unless there is nothing to prove itself with yet.
    fn open(&mut self) -> Result<()> {
        let mut socket = Socket::new(Kind::Dealer)?;
        if !matches!(self.endpoint, Endpoint::Inproc(_)) {
            socket = socket.monitored()?;
        }
        self.client = match self.credentials.now(&self.endpoint) {
            Now::Plain => None,
            Now::With(client) => Some(client),
            Now::NotYet => {
                self.client = None;
                self.keyless = self.keyless.or_else(|| Some(Instant::now()));
                // Nobody of this user's is there, so it is as if nobody was.
                self.failed = true;
                self.socket = socket;
                return Ok(());
            }
        };
        self.keyless = None;
        socket = socket.proving(self.client.as_ref());
        socket.connect(&self.endpoint)?;
        self.socket = socket;
        Ok(())
    }

    /// With what it proves itself to the host; the same goes for the host's other sockets.
    pub(crate) const fn client(&self) -> Option<&Arc<Client>> {
        self.client.as_ref()
    }

    /// Somebody listens there, whoever it is.
    fn is_somebody_there(&self) -> bool {
        let Endpoint::Tcp { host, port } = &self.endpoint else {
            return false;
        };
        std::net::ToSocketAddrs::to_socket_addrs(&(host.as_str(), *port))
            .into_iter()
            .flatten()
            .any(|address| {
                std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok()
            })
    }

    /// What is looked for.
    fn host(&self) -> &'static str {
        if self.who == MEMBER {
            "queue"
        } else {
            "ventilator"
        }
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The next frame from the host. What another user's process says is not heard; `tick` is an error then.
    pub(crate) fn recv(&mut self) -> Option<Bytes> {
        let (bytes, user) = self.socket.recv_and_user()?;
        if user.is_some() && self.endpoint.path().is_some() {
            self.stranger = user;
            return None;
        }
        self.last_heard = Instant::now();
        self.ever_heard = true;
        Some(bytes)
    }

    /// Whether the path of an ipc endpoint is closed to this user.
    fn may_not_open(&self) -> bool {
        self.endpoint.path().is_some_and(|path| {
            std::os::unix::net::UnixStream::connect(path)
                .is_err_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied)
        })
    }

    /// A hello went out.
    pub(crate) fn greeted(&mut self, hello: Vec<u8>) {
        self.socket.send(hello);
        self.hello_at = Some(Instant::now());
    }

    /// The hello was answered.
    pub(crate) fn welcomed(&mut self) {
        self.hello_at = None;
        self.refusal = None;
    }

    /// The hello was refused; an error unless asking again may help, for a little longer.
    pub(crate) fn refused(&mut self, why: String, again: bool, heartbeat: Duration) -> Result<()> {
        let since = self
            .refusal
            .take()
            .map_or_else(Instant::now, |(since, _)| since);
        if !again || since.elapsed() > heartbeat * super::host::MISSED {
            return Err(self.refusal_error(why));
        }
        self.refusal = Some((since, why));
        Ok(())
    }

    fn refusal_error(&self, why: String) -> Error {
        Error::Refused {
            who: self.who,
            endpoint: self.endpoint.to_string(),
            why,
        }
    }

    /// Whether there was a connection and it is lost.
    pub(crate) const fn is_lost(&self) -> bool {
        self.link_lost
    }

    /// Whether an attempt to connect found nobody.
    pub(crate) const fn has_failed(&self) -> bool {
        self.failed
    }

    pub(crate) fn is_greeting(&self) -> bool {
        self.hello_at.is_some()
    }

    /// The host must have stood still rather than we: our own time stood still for `late`.
    pub(crate) fn slept(&mut self, late: Duration) {
        self.last_heard += late;
        if let Some(at) = &mut self.hello_at {
            *at += late;
        }
    }

    /// Reads the connection's events.
    pub(crate) fn read_links(&mut self) -> Result<()> {
        for event in self.socket.link_events() {
            match event {
                LinkEvent::Reached => self.reached = true,
                LinkEvent::Up => self.connected = true,
                LinkEvent::Down => {
                    // One that never came about was refused, by a host that has no descriptor left for it.
                    self.link_lost |= std::mem::take(&mut self.connected);
                }
                LinkEvent::Failed => {
                    self.failed = true;
                    // Whoever was there, and perhaps strange, listens no longer.
                    self.reached = false;
                    self.broken = 0;
                    log::trace!("{}: no connection yet", self.endpoint);
                }
                // libzmq does not try again after these.
                LinkEvent::TurnedAway if self.is_keyless_or_outdated() => {}
                LinkEvent::TurnedAway => return Err(self.turned_away()),
                LinkEvent::OneSided => return Err(self.one_sided()),
                LinkEvent::Foreign(why) => {
                    self.broken += 1;
                    log::debug!("{}: {why}", self.endpoint);
                    if self.broken >= STRANGE && !self.ever_heard {
                        return Err(self.strange(&why));
                    }
                }
            }
        }
        Ok(())
    }

    fn turned_away(&self) -> Error {
        let key = self.client.as_ref().map(|client| client.pair().public());
        Error::TurnedAway {
            who: self.who,
            endpoint: self.endpoint.to_string(),
            why: format!(
                "its key {} is not among those that may join; put its client.key into the folder clients there, or ask for a new ticket",
                key.map(|key| key.to_string()).unwrap_or_default()
            ),
        }
    }

    fn one_sided(&self) -> Error {
        let host = self.host();
        Error::TurnedAway {
            who: self.who,
            endpoint: self.endpoint.to_string(),
            why: match &self.client {
                Some(_) => format!(
                    "that {host} is plain, and this {} has keys; it may not be the one that is meant. If it is, say --insecure here, too, without keys",
                    self.who
                ),
                None => format!("that {host} has keys; give --keys or --ticket"),
            },
        }
    }

    fn strange(&self, why: &str) -> Error {
        let host = self.host();
        let advice = match &self.client {
            Some(_) => format!(
                "is a procession {host} there, with the keys that this one expects? A ticket is good for one run only; \
                 server.key has to be that of the {host}'s host; and with --insecure there, it is needed here too"
            ),
            None if matches!(self.endpoint, Endpoint::Tcp { .. }) => format!(
                "is a procession {host} there? One that has keys turns those away that have none: give --keys or --ticket"
            ),
            None => format!("is a procession {host} there?"),
        };
        Error::Connect {
            endpoint: self.endpoint.to_string(),
            why: format!("{why}; {advice}"),
        }
    }

    /// Why there is nothing to prove itself with, after all the time that it had.
    fn advice_without_keys(&self) -> String {
        if self.is_somebody_there() {
            format!(
                "somebody listens there, but it is no {} of this user's on this machine: across users, containers and tunnels \
                 give --keys or --ticket, or --insecure on both sides",
                self.host()
            )
        } else if self.who == MEMBER {
            "make the queue there first, with bind, or wait longer (patience)".to_owned()
        } else {
            format!(
                "start a ventilator with --bind {}, or wait longer (--patience, in a program: patience)",
                self.endpoint
            )
        }
    }

    /// Whether a new connection is due; an error when patience is at its end.
    pub(crate) fn tick(&mut self, heartbeat: Duration) -> Result<Need> {
        if let Some(user) = self.stranger {
            return Err(Error::TurnedAway {
                who: self.who,
                endpoint: self.endpoint.to_string(),
                why: format!(
                    "a process of user {user} listens there, and what it says would be done as this user; choose a path in a directory of your own"
                ),
            });
        }
        let now = Instant::now();
        let silent = now.duration_since(self.last_heard);
        if self.refusal.is_some() && silent > self.patience {
            let why = self.refusal.take().map(|(_, why)| why).unwrap_or_default();
            return Err(self.refusal_error(why));
        }
        if let Some((since, _)) = &self.refusal {
            // Whoever refused us is gone meanwhile: that is the better answer than that nobody is there.
            if silent > heartbeat * super::host::MISSED && since.elapsed() > silent {
                let why = self.refusal.take().map(|(_, why)| why).unwrap_or_default();
                return Err(self.refusal_error(why));
            }
        }
        if silent > self.patience {
            return Err(if self.ever_heard {
                Error::VentilatorLost {
                    endpoint: self.endpoint.to_string(),
                    waited: self.patience,
                }
            } else {
                Error::NobodyThere {
                    who: self.who,
                    endpoint: self.endpoint.to_string(),
                    waited: self.patience,
                    advice: if self.keyless.is_some() {
                        self.advice_without_keys()
                    } else if self.connected {
                        format!(
                            "something is there, but it does not answer as a {}; look at what listens there",
                            self.host()
                        )
                    } else if self.broken > 0 || self.reached {
                        format!(
                            "something listens there that is no {}: it does not answer as ZeroMQ does; look at what it is",
                            self.host()
                        )
                    } else if self.may_not_open() {
                        format!(
                            "this user may not open that socket; the {}'s user must start this, too",
                            self.host()
                        )
                    } else if self.who == MEMBER {
                        "make the queue there first, with bind, or wait longer (patience)"
                            .to_owned()
                    } else {
                        format!(
                            "start a ventilator with --bind {}, or wait longer (--patience, in a program: patience)",
                            self.endpoint
                        )
                    },
                }
            });
        }
        let unanswered = self
            .hello_at
            .is_some_and(|at| self.connected && now.duration_since(at) > HELLO_AGAIN);
        let lost = std::mem::take(&mut self.link_lost);
        if self.is_keyless_or_outdated() {
            self.open()?;
            self.connected = false;
            self.broken = 0;
            return Ok(match self.keyless {
                Some(_) => Need::Nothing,
                None => Need::Hello,
            });
        }
        let unheard =
            self.hello_at.is_none() && self.ever_heard && silent > heartbeat * super::host::MISSED;
        if !(unanswered || lost || unheard) {
            return Ok(Need::Nothing);
        }
        self.reopen()?;
        Ok(match self.keyless {
            Some(_) => Need::Nothing,
            None => Need::Hello,
        })
    }

    /// What is looked for is there: a new connection, to that endpoint.
    pub(crate) fn go_to(&mut self, endpoint: &Endpoint) -> Result<()> {
        self.endpoint.clone_from(endpoint);
        self.welcomed();
        self.failed = false;
        self.reached = false;
        self.reopen()
    }

    /// A new socket, so that nothing said to the old connection comes late.
    pub(crate) fn reopen(&mut self) -> Result<()> {
        self.open()?;
        self.connected = false;
        self.link_lost = false;
        Ok(())
    }

    /// There are keys now, and there were none; or others, while it is not connected: who listened is gone, and somebody else is there.
    fn is_keyless_or_outdated(&self) -> bool {
        let by_port = matches!(self.credentials, Credentials::ByPort { .. });
        if !by_port || self.connected {
            return false;
        }
        match (self.credentials.now(&self.endpoint), &self.client) {
            (Now::NotYet, _) => false,
            (Now::Plain, client) => client.is_some(),
            (Now::With(_), None) => true,
            (Now::With(now), Some(then)) => now != *then,
        }
    }
}

/// Why a frame was not understood, for the log.
pub(crate) fn say_malformed(who: &str, error: &frame::Malformed) {
    log::warn!("{who}: ignored a message of the ventilator's: {error}");
}
