//! [`Proxy`]: an object that a [`Manager`](super::Manager) holds, as other processes call it.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::address::{Address, Place};
use super::host::Host;
use super::hosted::{Hosted, life_of};
use super::link::Fault;
use super::object::{decode, encode};
use super::talk::{Answer, LONGEST, Line, Request, SILENCE, Target, hear, say};
use crate::bytes::Bytes;
use crate::error::{Error, Result};
use crate::hub::host::{host_name, machine_id};

/// Connections that are kept for the next call.
const IDLE: usize = 4;

/// An object of a type of yours that a [`Manager`](super::Manager) holds: its methods run there, and are called from here, by name.
///
/// ```
/// use procession::Process;
/// use procession::shared::{Manager, Proxy, Remote};
///
/// #[procession::task]
/// fn note(log: Proxy) -> procession::Result<()> {
///     log.call("push", ("from another process",))
/// }
///
/// #[procession::main]
/// fn main() -> procession::Result<()> {
///     let manager = Manager::new()?;
///     manager.register(
///         Remote::new("Log", Vec::<String>::new)
///             .method("push", Vec::push)
///             .method("len", |log: &Vec<String>| log.len()),
///     )?;
///     let log = manager.proxy("Log")?;
///     Process::spawn(note, (log.clone(),))?.join()?;
///     assert_eq!(log.call::<_, usize>("len", ())?, 1);
///     Ok(())
/// }
/// ```
///
/// A handle is a serde value, and a clone is the same object. Arguments and values travel as MessagePack; both sides must mean the same types by a method's name, which is checked when it is
/// called. A call waits as long as the method takes.
#[derive(Clone)]
pub struct Proxy {
    ticket: Arc<Ticket>,
    caller: Arc<Caller>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Ticket {
    url: String,
    life: u64,
    target: Target,
    /// Of the object's type.
    name: String,
    machine: String,
    host: String,
}

/// The way to one manager.
pub(super) enum Caller {
    /// In this process.
    Here(Arc<Host>),
    There {
        manager: Hosted,
        patience: Duration,
        idle: Mutex<Vec<Line>>,
    },
}

/// The managers that this process calls, by their lives.
static CALLERS: Mutex<Option<HashMap<u64, Weak<Caller>>>> = Mutex::new(None);

pub(super) fn caller_of(life: u64, make: impl FnOnce() -> Caller) -> Arc<Caller> {
    let mut callers = CALLERS.lock().unwrap_or_else(PoisonError::into_inner);
    let table = callers.get_or_insert_with(HashMap::new);
    table.retain(|_, caller| caller.strong_count() > 0);
    if let Some(caller) = table.get(&life).and_then(Weak::upgrade) {
        return caller;
    }
    let caller = Arc::new(make());
    table.insert(life, Arc::downgrade(&caller));
    caller
}

fn there(address: &Address, life: u64) -> Result<Arc<Caller>> {
    let Place::Hosted { endpoint, insecure } = &address.place else {
        return Err(Error::BadEndpoint {
            endpoint: address.shown.clone(),
            why: "only a manager runs methods; its URL begins with tcp:// or ipc://".to_owned(),
        });
    };
    Ok(caller_of(life, || Caller::There {
        manager: Hosted::new(endpoint.clone(), *insecure, life),
        patience: address.patience,
        idle: Mutex::default(),
    }))
}

impl Caller {
    fn ask(&self, at: &str, what: &str, request: Request) -> Result<Answer> {
        match self {
            Self::Here(host) => Ok(match request {
                Request::Call {
                    target,
                    method,
                    arguments,
                } => host.state.call(&target, &method, &arguments),
                Request::Find(target) => match host.state.find(&target) {
                    Ok(found) => Answer::Found(found.name().to_owned()),
                    Err(why) => Answer::Refused(why),
                },
                Request::Create(name) => match host.state.create(&name) {
                    Ok(id) => Answer::Created { id, name },
                    Err(why) => Answer::Refused(why),
                },
                Request::Remove(id) => {
                    host.state.remove(id);
                    Answer::Removed
                }
                _ => Answer::Refused("it is no call".to_owned()),
            }),
            Self::There {
                manager,
                patience,
                idle,
            } => {
                let idle = || -> MutexGuard<'_, Vec<Line>> {
                    idle.lock().unwrap_or_else(PoisonError::into_inner)
                };
                let found = loop {
                    let Some(line) = idle().pop() else { break None };
                    // Nothing is to be heard there but that it was closed.
                    if matches!(line.poll(Duration::ZERO), Ok(false)) {
                        break Some(line);
                    }
                };
                let line = match found.map_or_else(|| manager.enter(*patience), Ok) {
                    Ok(line) => line,
                    Err(Fault::Final(error)) => return Err(error),
                    Err(Fault::Lost(why)) => {
                        return Err(Error::SharedData {
                            at: at.to_owned(),
                            why,
                        });
                    }
                };
                // A call is not made twice: nobody knows what that would do.
                let answer = say(&line, &request).and_then(|()| hear(&line, SILENCE));
                let answer = answer.map_err(|why| Error::FateUnknown {
                    at: at.to_owned(),
                    what: what.to_owned(),
                    why,
                })?;
                let mut idle = idle();
                if idle.len() < IDLE {
                    idle.push(line);
                }
                Ok(answer)
            }
        }
    }
}

impl Proxy {
    /// The object of that type that all share, of the manager at `tcp://HOST:PORT?name=TYPE` or `ipc://PATH?name=TYPE`. Waits until there is a manager, up
    /// to 10 s.
    ///
    /// # Errors
    /// [`Error::NobodyThere`]; [`Error::BadHandle`] when the manager has no such type, with those that it has;
    /// [`Error::BadEndpoint`].
    pub fn open(url: impl AsRef<str>) -> Result<Self> {
        let (caller, url, life, name) = Self::reach(url.as_ref())?;
        Self::shared(caller, &url, life, name)
    }

    /// A new object of a type, of the manager at `tcp://HOST:PORT?name=TYPE` or `ipc://PATH?name=TYPE`. It is there until it is [removed](Self::remove) or the
    /// manager ends.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn create(url: impl AsRef<str>) -> Result<Self> {
        let (caller, url, life, name) = Self::reach(url.as_ref())?;
        Self::created(caller, &url, life, name)
    }

    fn reach(url: &str) -> Result<(Arc<Caller>, String, u64, String)> {
        let address: Address = url.parse()?;
        let (Place::Hosted { endpoint, insecure }, Some(name)) = (&address.place, &address.name)
        else {
            return Err(Error::BadEndpoint {
                endpoint: address.shown,
                why: "write tcp://HOST:PORT?name=TYPE or ipc://PATH?name=TYPE".to_owned(),
            });
        };
        let life = life_of(endpoint, *insecure, address.patience)?;
        Ok((
            there(&address, life)?,
            address.store.clone(),
            life,
            name.clone(),
        ))
    }

    pub(super) fn shared(caller: Arc<Caller>, url: &str, life: u64, name: String) -> Result<Self> {
        let proxy = Self::new(caller, url, life, Target::Shared(name.clone()), name);
        match proxy.ask("find it", Request::Find(proxy.ticket.target.clone()))? {
            Answer::Found(_) => Ok(proxy),
            answer => Err(proxy.refused(answer)),
        }
    }

    pub(super) fn created(caller: Arc<Caller>, url: &str, life: u64, name: String) -> Result<Self> {
        let mut proxy = Self::new(caller, url, life, Target::Created(0), name.clone());
        match proxy.ask("create an object", Request::Create(name))? {
            Answer::Created { id, name } => {
                let ticket = Arc::make_mut(&mut proxy.ticket);
                ticket.target = Target::Created(id);
                ticket.name = name;
                Ok(proxy)
            }
            answer => Err(proxy.refused(answer)),
        }
    }

    fn new(caller: Arc<Caller>, url: &str, life: u64, target: Target, name: String) -> Self {
        let ticket = Ticket {
            url: url.to_owned(),
            life,
            target,
            name,
            machine: machine_id(),
            host: host_name(),
        };
        Self {
            ticket: Arc::new(ticket),
            caller,
        }
    }

    fn at(&self) -> &str {
        let url = &self.ticket.url;
        url.split_once('?').map_or(url, |(at, _)| at)
    }

    fn ask(&self, what: &str, request: Request) -> Result<Answer> {
        self.caller.ask(self.at(), what, request)
    }

    fn refused(&self, answer: Answer) -> Error {
        let why = match answer {
            Answer::Refused(why) => why,
            other => {
                log::debug!("a manager answers {other:?}");
                "the manager answers something else than was asked".to_owned()
            }
        };
        Error::BadHandle {
            endpoint: self.at().to_owned(),
            why,
        }
    }

    /// Calls a method, and waits for its value. The arguments are a tuple: `(1, "two")`, of one `(1,)`, of none `()`.
    ///
    /// # Errors
    /// [`Error::MethodFailed`] when it panicked or returned an error, and when its arguments are not what was sent; [`Error::BadHandle`] when there is no such
    /// method, with those that there are, or the object was removed; [`Error::ManagerGone`] when the manager had ended before; [`Error::FateUnknown`] when it was lost while it ran, or is
    /// not heard for 5 s: the method may have been called or not. [`Error::Encoding`] when what came back is no `R`.
    pub fn call<A: Serialize, R: DeserializeOwned>(&self, method: &str, arguments: A) -> Result<R> {
        let arguments: Bytes = encode(&arguments)?;
        if arguments.len() > LONGEST / 2 {
            return Err(Error::TooLong {
                len: arguments.len() as u64,
                limit: (LONGEST / 2) as u64,
            });
        }
        let request = Request::Call {
            target: self.ticket.target.clone(),
            method: method.to_owned(),
            arguments,
        };
        let what = format!("call {}.{method}", self.ticket.name);
        match self.ask(&what, request)? {
            Answer::Value(value) => decode(&value),
            Answer::Failed(method, failure) => Err(Error::MethodFailed {
                method,
                at: self.at().to_owned(),
                failure,
            }),
            answer => Err(self.refused(answer)),
        }
    }

    /// Removes an object that was created: further calls of it are errors. The one that all share stays.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub fn remove(&self) -> Result<()> {
        let Target::Created(id) = self.ticket.target else {
            return Ok(());
        };
        match self.ask("remove an object", Request::Remove(id))? {
            Answer::Removed => Ok(()),
            answer => Err(self.refused(answer)),
        }
    }

    /// The name of its type.
    #[must_use]
    pub fn type_name(&self) -> &str {
        &self.ticket.name
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy")
            .field("at", &self.at())
            .field("type", &self.ticket.name)
            .finish_non_exhaustive()
    }
}

impl Serialize for Proxy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.ticket.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Proxy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let ticket = Ticket::deserialize(deserializer)?;
        let address: Address = ticket.url.parse().map_err(de::Error::custom)?;
        if address.place.is_of_this_machine() && ticket.machine != machine_id() {
            return Err(de::Error::custom(format!(
                "the manager is on {}, and {} leads nowhere from {}; bind it where other machines can reach it",
                ticket.host,
                address.shown,
                host_name()
            )));
        }
        let caller = there(&address, ticket.life).map_err(de::Error::custom)?;
        Ok(Self {
            ticket: Arc::new(ticket),
            caller,
        })
    }
}
