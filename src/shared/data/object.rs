//! [`Object`]: one named thing in a store; what [`Dict`](super::Dict), [`List`](super::List), [`Counter`](super::Counter) and
//! [`Namespace`](super::Namespace) are made of.

use std::any::type_name;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::address::{Address, is_name};
use super::link::{
    Commit, LARGEST_COMMIT, LONGEST_KEY, LONGEST_VALUE, MOST_WRITES, Outcome, Page, Row, Version,
    Write,
};
use super::store::{Own, Store, pause, store_of};
use crate::bytes::Bytes;
use crate::error::{Error, Result};
use crate::hub::host::{host_name, machine_id};

/// For how long something is tried that others change again and again.
const PERSISTENCE: Duration = Duration::from_secs(30);
/// The longest pause between two such tries.
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

/// What an object is, and how its handle travels.
#[derive(Clone, Serialize, Deserialize)]
struct Ticket {
    /// The store; with its password, if it has one.
    url: String,
    object: String,
    life: Option<u64>,
    machine: String,
    host: String,
}

#[derive(Clone)]
pub(super) struct Object {
    store: Arc<Store>,
    ticket: Arc<Ticket>,
}

/// What comes next in a change.
pub(super) enum Step<T> {
    /// Nothing is to be changed.
    Leave(T),
    /// Writes that, if what was read is still so.
    Commit {
        clears: bool,
        writes: Vec<Write>,
        value: T,
    },
    /// Other keys are wanted.
    Read(Vec<Bytes>),
}

impl<T> Step<T> {
    pub(super) fn write(write: Write, value: T) -> Self {
        Self::Commit {
            clears: false,
            writes: vec![write],
            value,
        }
    }
}

/// A value as MessagePack; structs as arrays.
pub(super) fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Bytes> {
    let encoded = rmp_serde::to_vec(value).map_err(|error| Error::Encoding {
        what: format!("cannot encode {}", type_name::<T>()),
        why: error.to_string(),
    })?;
    Ok(Bytes::from(encoded))
}

pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    rmp_serde::from_slice(bytes).map_err(|error| Error::Encoding {
        what: format!(
            "{} bytes of shared data are not a {}",
            bytes.len(),
            type_name::<T>()
        ),
        why: format!("{error}; all who use it must use the same types"),
    })
}

pub(super) fn decode_row<T: DeserializeOwned>(row: Option<&Row>) -> Result<Option<T>> {
    row.map(|row| decode(&row.value)).transpose()
}

fn checked(key: &Bytes) -> Result<()> {
    match key.len() <= LONGEST_KEY {
        true => Ok(()),
        false => Err(Error::TooLong {
            len: key.len() as u64,
            limit: LONGEST_KEY as u64,
        }),
    }
}

impl Object {
    /// The object of that kind at a URL with a name; its store was reached.
    pub(super) fn open(url: &str, kind: &str) -> Result<Self> {
        let address: Address = url.parse()?;
        let Some(name) = &address.name else {
            return Err(Error::BadEndpoint {
                endpoint: address.shown,
                why: format!("it says where, but not which {kind}; add ?name=NAME"),
            });
        };
        let store = store_of(&address, None)?;
        store.reach()?;
        Ok(Self::new(store, &address.store, kind, name))
    }

    pub(super) fn new(store: Arc<Store>, url: &str, kind: &str, name: &str) -> Self {
        let ticket = Ticket {
            url: url.to_owned(),
            object: format!("{kind}:{name}"),
            life: store.life,
            machine: machine_id(),
            host: host_name(),
        };
        Self {
            store,
            ticket: Arc::new(ticket),
        }
    }

    fn of_ticket(ticket: Ticket) -> Result<Self> {
        let address: Address = ticket.url.parse()?;
        if address.place.is_of_this_machine() && ticket.machine != machine_id() {
            return Err(Error::BadHandle {
                endpoint: address.shown,
                why: format!(
                    "the data is on {}, and that leads nowhere from {}; take a URL that other machines can reach",
                    ticket.host,
                    host_name()
                ),
            });
        }
        let store = store_of(&address, ticket.life)?;
        Ok(Self {
            store,
            ticket: Arc::new(ticket),
        })
    }

    pub(super) fn name(&self) -> &str {
        let object = &self.ticket.object;
        object.split_once(':').map_or(object, |(_, name)| name)
    }

    /// Where it is, for people.
    pub(super) fn shown(&self) -> String {
        format!("{}?name={}", self.store.shown, self.name())
    }

    fn error(&self, why: impl Into<String>) -> Error {
        Error::SharedData {
            at: self.shown(),
            why: why.into(),
        }
    }

    pub(super) fn read(&self, keys: &[Bytes]) -> Result<Vec<Option<Row>>> {
        keys.iter().try_for_each(checked)?;
        self.store.read(&self.ticket.object, keys)
    }

    pub(super) fn read_one(&self, key: Bytes) -> Result<Option<Row>> {
        let mut rows = self.read(&[key])?;
        Ok(rows.pop().flatten())
    }

    pub(super) fn scan(&self, after: Option<&Bytes>) -> Result<Page> {
        self.store.scan(&self.ticket.object, after)
    }

    pub(super) fn count(&self) -> Result<u64> {
        self.store.count(&self.ticket.object)
    }

    pub(super) fn changes(
        &self,
        own: &mut Own,
        after: Option<Version>,
        wait: Duration,
    ) -> Result<super::link::Changes> {
        self.store.changes(own, &self.ticket.object, after, wait)
    }

    fn commit(
        &self,
        checks: Vec<(Bytes, Version)>,
        clears: bool,
        writes: Vec<Write>,
    ) -> Result<Outcome> {
        let mut bytes = 0;
        for write in &writes {
            checked(&write.key)?;
            let len = write.value.as_ref().map_or(0, |value| value.len());
            if len > LONGEST_VALUE {
                return Err(Error::TooLong {
                    len: len as u64,
                    limit: LONGEST_VALUE as u64,
                });
            }
            bytes += write.key.len() + len;
        }
        if writes.len() > MOST_WRITES || bytes > LARGEST_COMMIT {
            return Err(self.error(format!(
                "this would change {} rows with {bytes} bytes in one step, and it may be {MOST_WRITES} with {LARGEST_COMMIT}: do it in several",
                writes.len()
            )));
        }
        let mut token = vec![0; 16];
        getrandom::fill(&mut token).map_err(|error| {
            let source = std::io::Error::other(error.to_string());
            Error::system("cannot get random numbers", source)
        })?;
        let commit = Commit {
            token: Bytes::from(token),
            checks,
            clears,
            writes,
        };
        self.store.commit(&self.ticket.object, &commit)
    }

    /// Writes, whatever is there.
    pub(super) fn write(&self, clears: bool, writes: Vec<Write>) -> Result<()> {
        self.commit(Vec::new(), clears, writes).map(drop)
    }

    /// Reads, has `step` say what becomes of it, and writes that if nobody else has written meanwhile; else again. Nothing is locked while `step` runs.
    pub(super) fn change<T>(
        &self,
        mut keys: Vec<Bytes>,
        mut step: impl FnMut(&[Option<Row>]) -> Result<Step<T>>,
    ) -> Result<T> {
        let mut rows = self.read(&keys)?;
        let begun = Instant::now();
        let mut longest = Duration::from_micros(50);
        loop {
            match step(&rows)? {
                Step::Leave(value) => return Ok(value),
                Step::Read(others) => {
                    rows = self.read(&others)?;
                    keys = others;
                    continue;
                }
                Step::Commit {
                    clears,
                    writes,
                    value,
                } => {
                    let versions = rows
                        .iter()
                        .map(|row| row.as_ref().map_or(0, |row| row.version));
                    let checks = keys.iter().cloned().zip(versions).collect();
                    match self.commit(checks, clears, writes)? {
                        Outcome::Done => return Ok(value),
                        Outcome::Conflict(now) => rows = now,
                    }
                }
            }
            if begun.elapsed() >= PERSISTENCE {
                return Err(self.error(format!(
                    "others changed the same for {} s, faster than this process could; spread what is changed most over several keys, or change it less often",
                    PERSISTENCE.as_secs()
                )));
            }
            pause(longest);
            longest = (longest * 2).min(LONGEST_PAUSE);
            // Others may have gone on during the pause.
            if longest > Duration::from_millis(1) {
                rows = self.read(&keys)?;
            }
        }
    }
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown())
    }
}

impl Serialize for Object {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.ticket.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let ticket = Ticket::deserialize(deserializer)?;
        if !ticket
            .object
            .split_once(':')
            .is_some_and(|(_, name)| is_name(name))
        {
            return Err(de::Error::custom("this is no handle of shared data"));
        }
        Self::of_ticket(ticket).map_err(de::Error::custom)
    }
}

/// Has the traits that every handle has. They ask nothing of the types of keys and values.
macro_rules! handle {
    ($type:ident $(<$($parameter:ident),*>)?, $kind:literal) => {
        impl $(<$($parameter),*>)? Clone for $type $(<$($parameter),*>)? {
            fn clone(&self) -> Self {
                Self::of_object(self.object.clone())
            }
        }

        impl $(<$($parameter),*>)? std::fmt::Debug for $type $(<$($parameter),*>)? {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_tuple(stringify!($type)).field(&self.object).finish()
            }
        }

        impl $(<$($parameter),*>)? serde::Serialize for $type $(<$($parameter),*>)? {
            fn serialize<Z: serde::Serializer>(&self, serializer: Z) -> Result<Z::Ok, Z::Error> {
                self.object.serialize(serializer)
            }
        }

        impl<'de $($(, $parameter)*)?> serde::Deserialize<'de> for $type $(<$($parameter),*>)? {
            fn deserialize<Z: serde::Deserializer<'de>>(deserializer: Z) -> Result<Self, Z::Error> {
                let object = Object::deserialize(deserializer)?;
                match object.is_a($kind) {
                    true => Ok(Self::of_object(object)),
                    false => Err(serde::de::Error::custom(concat!("this is a handle of something that is no ", $kind))),
                }
            }
        }

        impl $(<$($parameter),*>)? $type $(<$($parameter),*>)? {
            #[doc = concat!("The ", $kind, " of that name at a URL: `tcp://HOST:PORT?name=NAME`, `ipc://PATH?name=NAME`, `sqlite:FILE?name=NAME`,")]
            /// `redis://HOST/0?name=NAME`, `postgres://HOST/DATABASE?name=NAME`. What is not there yet is empty, and need not be made.
            ///
            /// # Errors
            /// [`Error::SharedData`](crate::Error::SharedData) when the store cannot be reached within the patience, or is none;
            /// [`Error::NobodyThere`](crate::Error::NobodyThere) when there is no manager;
            /// [`Error::BadEndpoint`](crate::Error::BadEndpoint) when the URL is wrong, which is said without its password.
            pub fn open(url: impl AsRef<str>) -> Result<Self> {
                Object::open(url.as_ref(), $kind).map(Self::of_object)
            }

            /// Its name.
            #[must_use]
            pub fn name(&self) -> &str {
                self.object.name()
            }
        }
    };
}

pub(super) use handle;

impl Object {
    pub(super) fn is_a(&self, kind: &str) -> bool {
        let object = self.ticket.object.split_once(':');
        object.is_some_and(|(found, _)| found == kind)
    }
}
