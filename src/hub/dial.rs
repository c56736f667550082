//! How a worker, a sink or a question for the state comes to a host: the DEALER that says hello until it is answered, and
//! notices when the host is not heard any more.

use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::wire::endpoint::Endpoint;
use crate::wire::frame;
use crate::wire::socket::{Kind, LinkEvent, Socket};

/// How often a hello that is not answered is said again, on a new connection.
const HELLO_AGAIN: Duration = Duration::from_secs(2);
/// So many broken handshakes are no accident.
const STRANGE: u32 = 3;

/// Who dials a queue.
pub(crate) const MEMBER: &str = "member of a queue";

pub(crate) struct Dial {
    who: &'static str,
    endpoint: Endpoint,
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
    pub(crate) fn new(who: &'static str, endpoint: &Endpoint, patience: Duration) -> Result<Self> {
        Ok(Self {
            who,
            endpoint: endpoint.clone(),
            patience,
            socket: Self::open(endpoint)?,
            last_heard: Instant::now(),
            hello_at: None,
            broken: 0,
            connected: false,
            reached: false,
            ever_heard: false,
            link_lost: false,
            failed: false,
            refusal: None,
        })
    }

    fn open(endpoint: &Endpoint) -> Result<Socket> {
        let mut socket = Socket::new(Kind::Dealer)?;
        if !matches!(endpoint, Endpoint::Inproc(_)) {
            socket = socket.monitored()?;
        }
        socket.connect(endpoint)?;
        Ok(socket)
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

    /// The next frame from the host.
    pub(crate) fn recv(&mut self) -> Option<Bytes> {
        let bytes = self.socket.recv()?;
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
                LinkEvent::Foreign(why) => {
                    self.broken += 1;
                    log::debug!("{}: {why}", self.endpoint);
                    if self.broken >= STRANGE && !self.ever_heard {
                        return Err(Error::Connect {
                            endpoint: self.endpoint.to_string(),
                            why: format!("{why}; is a procession {} there?", self.host()),
                        });
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether a new connection is due; an error when patience is at its end.
    pub(crate) fn tick(&mut self, heartbeat: Duration) -> Result<Need> {
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
                    advice: if self.connected {
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
        let unheard =
            self.hello_at.is_none() && self.ever_heard && silent > heartbeat * super::host::MISSED;
        if !(unanswered || lost || unheard) {
            return Ok(Need::Nothing);
        }
        self.reopen()?;
        Ok(Need::Hello)
    }

    /// A new socket, so that nothing said to the old connection comes late.
    pub(crate) fn reopen(&mut self) -> Result<()> {
        self.socket = Self::open(&self.endpoint)?;
        self.connected = false;
        self.link_lost = false;
        Ok(())
    }
}

/// Why a frame was not understood, for the log.
pub(crate) fn say_malformed(who: &str, error: &frame::Malformed) {
    log::warn!("{who}: ignored a message of the ventilator's: {error}");
}
