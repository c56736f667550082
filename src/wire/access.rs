//! Who may use TCP, and how each side proves who it is: decided once for each endpoint, before a socket is made.
//!
//! | TCP endpoint | who listens | who connects |
//! |---|---|---|
//! | given keys ([`Keys`]) | `server.key_secret`, and lets `clients/*.key` in | `client.key_secret`, and believes `server.key` only |
//! | on loopback, without | a pair for the time that it listens; who connects finds it by the port, in this user's private directory | what is found there |
//! | a ticket | a pair for the run, which is in the ticket with another one for who comes | what the ticket says |
//! | `insecure` | plain | what is found by the port, or plain |
//! | beyond, without any of these | refused | refused |

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::error::{Error, Result};
use crate::keys::{KeyPair, Keys, Proof, PublicKey, Ticket};
use crate::wire::by_port;
use crate::wire::endpoint::{Endpoint, Transport};

/// Who listens: its pair, and whom it lets in. All sockets of one host share it.
#[derive(Debug)]
pub(crate) struct Server {
    pair: KeyPair,
    guests: Arc<Guests>,
    domain: String,
}

/// Those that are let in.
#[derive(Debug, Default)]
pub(crate) struct Guests {
    known: Mutex<Vec<(PublicKey, &'static str)>>,
    keys: Option<Keys>,
}

impl Guests {
    /// The name of who has this key, if it is let in.
    ///
    /// # Errors
    /// When the list cannot be read now.
    pub(crate) fn name_of(&self, key: PublicKey) -> Result<Option<String>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let name = known.iter().find(|(known, _)| *known == key);
        match name {
            Some((_, name)) => Ok(Some((*name).to_owned())),
            None => {
                drop(known);
                let named = self.keys.as_ref().map(|keys| keys.name_of(key));
                named.unwrap_or(Ok(None))
            }
        }
    }

    /// Nobody is let in, yet.
    pub(crate) fn is_empty(&self) -> bool {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        self.keys.is_none() && known.is_empty()
    }

    pub(crate) fn let_in(&self, key: PublicKey, name: &'static str) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.contains(&(key, name)) {
            known.push((key, name));
        }
    }
}

impl Server {
    fn new(pair: KeyPair, keys: Option<Keys>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self {
            pair,
            guests: Arc::new(Guests {
                keys,
                ..Guests::default()
            }),
            domain: format!("procession-{}", NEXT.fetch_add(1, Ordering::Relaxed)),
        }
    }

    /// With a pair of its own that nobody knows yet, and nobody let in.
    pub(crate) fn ephemeral() -> Result<Self> {
        Ok(Self::new(KeyPair::generate()?, None))
    }

    pub(crate) const fn pair(&self) -> &KeyPair {
        &self.pair
    }

    pub(crate) const fn guests(&self) -> &Arc<Guests> {
        &self.guests
    }

    pub(crate) fn domain(&self) -> &str {
        &self.domain
    }
}

/// Who connects: its pair, and whom it believes.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    server: PublicKey,
    pair: KeyPair,
}

impl PartialEq for Client {
    fn eq(&self, other: &Self) -> bool {
        self.server == other.server && self.pair.public() == other.pair.public()
    }
}

impl Client {
    pub(crate) const fn new(server: PublicKey, pair: KeyPair) -> Self {
        Self { server, pair }
    }

    pub(crate) const fn server(&self) -> PublicKey {
        self.server
    }

    pub(crate) const fn pair(&self) -> &KeyPair {
        &self.pair
    }
}

impl From<&Ticket> for Client {
    fn from(ticket: &Ticket) -> Self {
        Self::new(ticket.server(), ticket.client().clone())
    }
}

/// How a worker comes to where the sink gathers results: `key` is the sink's, `pass` is what the ventilator gave to all that it let in. Plain,
/// where the sink has none.
pub(crate) fn to_results(key: &str, pass: Option<&KeyPair>) -> Option<Arc<Client>> {
    let key = key
        .parse()
        .inspect_err(|why| {
            if !key.is_empty() {
                log::warn!("the sink's key is none: {why}");
            }
        })
        .ok()?;
    Some(Arc::new(Client::new(key, pass?.clone())))
}

/// What a program allows, and has.
#[derive(Clone, Debug, Default)]
pub(crate) struct Means {
    pub(crate) insecure: bool,
    pub(crate) keys: Option<Keys>,
    /// To connect: with this. To listen: make one.
    pub(crate) ticket: Option<Ticket>,
    pub(crate) make_ticket: bool,
}

impl Means {
    pub(crate) fn insecure(insecure: bool) -> Self {
        Self {
            insecure,
            ..Self::default()
        }
    }

    pub(crate) fn show(&mut self, proof: Proof) {
        match proof {
            Proof::Keys(keys) => self.keys = Some(keys),
            Proof::Ticket(ticket) => self.ticket = Some(ticket),
        }
    }

    /// Those given, or those of the environment; none where insecure was said.
    fn keys(&self) -> Result<Option<Keys>> {
        match &self.keys {
            Some(keys) => Ok(Some(keys.clone())),
            None if self.insecure => Ok(None),
            None => Keys::from_environment(),
        }
    }

    /// How to listen at these endpoints; `None`: without keys, because there is no TCP or it is insecure.
    pub(crate) fn to_listen(&self, endpoints: &[Endpoint]) -> Result<Option<Listening>> {
        let tcp = || {
            endpoints
                .iter()
                .filter(|endpoint| endpoint.transport() == Transport::Tcp)
        };
        if tcp().next().is_none() {
            return Ok(None);
        }
        let keys = self.keys()?;
        let server = match &keys {
            Some(keys) => {
                let pair = keys.server()?;
                // What is wrong with the list is said now, and not when somebody comes.
                keys.clients()?;
                Server::new(pair, Some(keys.clone()))
            }
            None if self.insecure => return Ok(None),
            None => {
                if !self.make_ticket
                    && let Some(beyond) = tcp().find(|endpoint| !endpoint.is_this_machine())
                {
                    return Err(Error::BeyondLoopback {
                        endpoint: beyond.to_string(),
                    });
                }
                Server::ephemeral()?
            }
        };
        let guest = KeyPair::generate()?;
        let name = if self.make_ticket {
            "with the ticket"
        } else {
            "this user on this machine"
        };
        server.guests.let_in(guest.public(), name);
        Ok(Some(Listening {
            server: Arc::new(server),
            guest,
            pass: KeyPair::generate()?,
        }))
    }

    /// How to connect to `endpoint`.
    pub(crate) fn to_dial(&self, endpoint: &Endpoint) -> Result<Credentials> {
        if endpoint.transport() != Transport::Tcp {
            return Ok(Credentials::Plain);
        }
        if let Some(ticket) = &self.ticket {
            return Ok(Credentials::Have(Arc::new(ticket.into())));
        }
        let here = endpoint.is_this_machine();
        let keys = match self.keys()? {
            Some(keys) => Some(Arc::new(Self::client(&keys)?)),
            None => None,
        };
        match keys {
            Some(client) if !here => Ok(Credentials::Have(client)),
            // Who is found by the port is this user's in any case.
            client if here => Ok(Credentials::ByPort {
                insecure: self.insecure,
                client,
            }),
            _ if self.insecure => Ok(Credentials::Plain),
            _ => Err(Error::ConnectBeyondLoopback {
                endpoint: endpoint.to_string(),
            }),
        }
    }

    /// How a sink guards where it gathers results by TCP.
    pub(crate) fn to_gather(&self) -> Result<Option<Arc<Server>>> {
        if self.insecure && self.ticket.is_none() && self.keys()?.is_none() {
            return Ok(None);
        }
        Ok(Some(Arc::new(Server::ephemeral()?)))
    }

    fn client(keys: &Keys) -> Result<Client> {
        Ok(Client::new(keys.server_key()?, keys.client()?))
    }
}

/// How a host listens by TCP.
#[derive(Debug)]
pub(crate) struct Listening {
    pub(crate) server: Arc<Server>,
    /// The pair of who comes with a ticket, or finds it by the port.
    guest: KeyPair,
    /// What all that are let in show to the sink.
    pass: KeyPair,
}

impl Listening {
    /// What all that are let in show to the sink, as a welcome has it.
    pub(crate) fn pass(&self) -> String {
        let (public, secret) = self.pass.to_z85();
        format!("{public}{}", secret.as_str())
    }

    /// The same, for our own link to the sink.
    pub(crate) const fn own_pass(&self) -> &KeyPair {
        &self.pass
    }

    /// Lets this user's programs on this machine find the keys by the ports of these endpoints, as long as `dir` is there, a folder below the
    /// private directory.
    pub(crate) fn publish(&self, bound: &[Endpoint], dir: &Path) {
        for endpoint in bound {
            if let Err(error) = by_port::publish(&self.ticket(endpoint), dir) {
                log::warn!(
                    "{endpoint} is not found by programs on this machine that have no keys: {error}"
                );
            }
        }
    }

    /// A ticket for who comes to `endpoint`.
    pub(crate) fn ticket(&self, endpoint: &Endpoint) -> Ticket {
        let server = self.server.pair().public();
        Ticket::new(endpoint.clone(), server, self.guest.clone())
    }
}

/// How one dials.
#[derive(Clone, Debug)]
pub(crate) enum Credentials {
    /// Not by TCP, or insecure.
    Plain,
    /// With these keys.
    Have(Arc<Client>),
    /// With what is found by the port, when it is there; plain, if that is allowed and nothing is there.
    ByPort {
        /// It is allowed.
        insecure: bool,
        /// With these keys, if nothing is there.
        client: Option<Arc<Client>>,
    },
}

/// How one dials now.
#[derive(Debug)]
pub(crate) enum Now {
    Plain,
    With(Arc<Client>),
    /// Nothing to be found yet: not at all.
    NotYet,
}

impl Credentials {
    /// What they say now, of `endpoint`.
    pub(crate) fn now(&self, endpoint: &Endpoint) -> Now {
        match self {
            Self::Plain => Now::Plain,
            Self::Have(client) => Now::With(Arc::clone(client)),
            Self::ByPort { insecure, client } => match (by_port::find(endpoint), client) {
                (Some(ticket), _) => Now::With(Arc::new((&ticket).into())),
                (None, Some(client)) => Now::With(Arc::clone(client)),
                (None, None) if *insecure => Now::Plain,
                (None, None) => Now::NotYet,
            },
        }
    }
}
