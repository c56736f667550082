//! [`Store`]: the connections of this process to one store, and what is done when one is lost.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::address::{Address, Place};
use super::link::{Changes, Commit, Dial, Done, Fault, Link, Outcome, Page, Row, Version};
use crate::bytes::Bytes;
use crate::error::{Error, Result};

/// Connections that are kept for the next call.
const IDLE: usize = 4;
/// Between two tries to reach a store.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// One store, as this process reaches it. All its handles share it.
pub(super) struct Store {
    dial: Box<dyn Dial>,
    idle: Mutex<Vec<Box<dyn Link>>>,
    patience: Duration,
    /// Without a password.
    pub(super) shown: String,
    /// Of a manager: which one it is. Another one may be there later.
    pub(super) life: Option<u64>,
}

/// A connection that one watcher has for itself.
pub(super) type Own = Option<Box<dyn Link>>;

/// Tells those who wait for the same from each other.
pub(super) fn pause(most: Duration) {
    let share = f64::from(getrandom::u32().unwrap_or(u32::MAX)) / f64::from(u32::MAX);
    std::thread::sleep(most.mul_f64(share));
}

impl Store {
    pub(super) fn new(
        dial: Box<dyn Dial>,
        shown: String,
        patience: Duration,
        life: Option<u64>,
    ) -> Self {
        Self {
            dial,
            idle: Mutex::default(),
            patience,
            shown,
            life,
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Box<dyn Link>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn error(&self, why: impl Into<String>) -> Error {
        Error::SharedData {
            at: self.shown.clone(),
            why: why.into(),
        }
    }

    /// Asks for something, on another connection if one is lost, for as long as there is patience. It must do no harm to be asked for twice.
    fn ask<T>(
        &self,
        writes: Option<&'static str>,
        own: &mut Own,
        ask: impl FnMut(&mut dyn Link) -> Done<T>,
    ) -> Result<T> {
        let dial = |left| self.dial.dial(left);
        let taken = own.take().or_else(|| self.idle().pop());
        match persist(taken, self.patience, dial, ask) {
            Ok((value, link)) => {
                *own = Some(link);
                Ok(value)
            }
            Err(GivenUp::Final(error)) => Err(error),
            Err(GivenUp::Lost { why, was_asked }) => {
                // What is idle is lost, too.
                self.idle().clear();
                Err(match writes {
                    Some(what) if was_asked => Error::FateUnknown {
                        at: self.shown.clone(),
                        what: what.to_owned(),
                        why,
                    },
                    _ => self.error(format!(
                        "not to be reached for {} s: {why}; is it running, and is the URL right?",
                        self.patience.as_secs_f64()
                    )),
                })
            }
        }
    }

    fn call<T>(
        &self,
        writes: Option<&'static str>,
        ask: impl FnMut(&mut dyn Link) -> Done<T>,
    ) -> Result<T> {
        let mut own = None;
        let answer = self.ask(writes, &mut own, ask)?;
        let mut idle = self.idle();
        if let Some(link) = own
            && idle.len() < IDLE
        {
            idle.push(link);
        }
        Ok(answer)
    }

    /// Connects, so that what is wrong is known now.
    pub(super) fn reach(&self) -> Result<()> {
        self.call(None, |_| Ok(()))
    }

    pub(super) fn read(&self, object: &str, keys: &[Bytes]) -> Result<Vec<Option<Row>>> {
        let rows = self.call(None, |link| link.read(object, keys))?;
        match rows.len() == keys.len() {
            true => Ok(rows),
            false => Err(self.error("what answers there is no store of this version")),
        }
    }

    pub(super) fn commit(&self, object: &str, commit: &Commit) -> Result<Outcome> {
        let outcome = self.call(Some("write"), |link| link.commit(object, commit))?;
        match &outcome {
            Outcome::Conflict(rows) if rows.len() != commit.checks.len() => {
                Err(self.error("what answers there is no store of this version"))
            }
            _ => Ok(outcome),
        }
    }

    pub(super) fn scan(&self, object: &str, after: Option<&Bytes>) -> Result<Page> {
        self.call(None, |link| link.scan(object, after))
    }

    pub(super) fn count(&self, object: &str) -> Result<u64> {
        self.call(None, |link| link.count(object))
    }

    pub(super) fn changes(
        &self,
        own: &mut Own,
        object: &str,
        after: Option<Version>,
        wait: Duration,
    ) -> Result<Changes> {
        self.ask(None, own, |link| link.changes(object, after, wait))
    }
}

/// Why it was given up.
enum GivenUp {
    Final(Error),
    Lost { why: String, was_asked: bool },
}

/// Asks until there is an answer. The connection on which it came is for the next question.
fn persist<T>(
    mut link: Own,
    patience: Duration,
    dial: impl Fn(Duration) -> Done<Box<dyn Link>>,
    mut ask: impl FnMut(&mut dyn Link) -> Done<T>,
) -> Result<(T, Box<dyn Link>), GivenUp> {
    let begun = Instant::now();
    let mut longest = FIRST_PAUSE;
    let mut was_asked = false;
    loop {
        let is_new = link.is_none();
        let left = patience.saturating_sub(begun.elapsed());
        let why = match link.take().map_or_else(|| dial(left), Ok) {
            Ok(mut up) => match ask(&mut *up) {
                Ok(answer) => return Ok((answer, up)),
                Err(Fault::Final(error)) => return Err(GivenUp::Final(error)),
                Err(Fault::Lost(why)) => {
                    was_asked = true;
                    why
                }
            },
            Err(Fault::Final(error)) => return Err(GivenUp::Final(error)),
            Err(Fault::Lost(why)) => why,
        };
        if !is_new {
            // It may have been lost long ago.
            continue;
        }
        if begun.elapsed() >= patience {
            return Err(GivenUp::Lost { why, was_asked });
        }
        log::debug!("shared data: {why}");
        std::thread::sleep(longest / 2);
        pause(longest / 2);
        longest = (longest * 2).min(LONGEST_PAUSE);
    }
}

/// By URL, or by a manager's life.
type Stores = HashMap<(String, Option<u64>), Weak<Store>>;

/// The stores that this process has open.
static OPEN: Mutex<Option<Stores>> = Mutex::new(None);

/// The one that is open already, or this one.
pub(super) fn shared(
    url: &str,
    life: Option<u64>,
    make: impl FnOnce() -> Result<Store>,
) -> Result<Arc<Store>> {
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    let table = open.get_or_insert_with(HashMap::new);
    table.retain(|_, store| store.strong_count() > 0);
    // A manager is known by its life, by whichever name it is reached.
    let key = match life {
        Some(_) => (String::new(), life),
        None => (url.to_owned(), None),
    };
    if let Some(store) = table.get(&key).and_then(Weak::upgrade) {
        return Ok(store);
    }
    let store = Arc::new(make()?);
    table.insert(key, Arc::downgrade(&store));
    Ok(store)
}

/// The store of that address; of a manager's of that life, if it is known.
pub(super) fn store_of(address: &Address, life: Option<u64>) -> Result<Arc<Store>> {
    let make =
        |dial: Box<dyn Dial>, life| Store::new(dial, address.shown.clone(), address.patience, life);
    match &address.place {
        Place::Hosted { endpoint, insecure } => {
            let life = match life {
                Some(life) => life,
                None => super::hosted::life_of(endpoint, *insecure, address.patience)?,
            };
            shared(&address.store, Some(life), || {
                let dial = super::hosted::Hosted::new(endpoint.clone(), *insecure, life);
                Ok(make(Box::new(dial), Some(life)))
            })
        }
        Place::Sqlite { path, syncs } => shared(&address.store, None, || {
            let dial = super::sqlite::Sqlite::new(path.clone(), *syncs);
            Ok(make(Box::new(dial), None))
        }),
        #[cfg(feature = "redis")]
        Place::Redis(url) => shared(&address.store, None, || {
            Ok(make(
                Box::new(super::redis::Redis::new(url, &address.shown)?),
                None,
            ))
        }),
        #[cfg(feature = "postgres")]
        Place::Postgres(url) => shared(&address.store, None, || {
            let dial = super::postgres::Postgres::new(url, &address.shown)?;
            Ok(make(Box::new(dial), None))
        }),
        #[cfg(not(feature = "redis"))]
        Place::Redis(_) => Err(not_built("redis", &address.shown)),
        #[cfg(not(feature = "postgres"))]
        Place::Postgres(_) => Err(not_built("postgres", &address.shown)),
    }
}

#[cfg(not(all(feature = "redis", feature = "postgres")))]
fn not_built(feature: &str, shown: &str) -> Error {
    Error::BadEndpoint {
        endpoint: shown.to_owned(),
        why: format!(
            "this program's procession was built without the feature {feature:?}; add it in Cargo.toml"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::link::{Life, MOST_WRITES, Write};
    use super::*;

    fn key(number: usize) -> Bytes {
        Bytes::from(number.to_be_bytes().to_vec())
    }

    fn commit(numbers: std::ops::Range<usize>, value: Option<&Bytes>) -> Commit {
        let writes = numbers.map(|number| Write {
            key: key(number),
            value: value.cloned(),
            life: Life::Forever,
        });
        Commit {
            token: Bytes::from(getrandom::u64().expect("random").to_be_bytes().to_vec()),
            checks: Vec::new(),
            clears: false,
            writes: writes.collect(),
        }
    }

    /// Removals beyond the limit are forgotten, those before are told, and nothing that is there is left out.
    fn forgets_old_removals(url: &str) -> Result<()> {
        let address: Address = url.parse()?;
        let store = store_of(&address, None)?;
        let object = format!("dict:{:x}", crate::pipeline::random_id()?);
        let value = Bytes::from(b"value".to_vec());
        let mut own = None;
        let mut changes = |after| store.changes(&mut own, &object, after, Duration::ZERO);
        let put = |commit: Commit| store.commit(&object, &commit).map(drop);
        assert_eq!(changes(None)?.version, 0);
        put(commit(0..1, Some(&value)))?;
        let begun = changes(None)?.version;
        for numbers in [1..MOST_WRITES, MOST_WRITES..MOST_WRITES + 2000] {
            put(commit(numbers.clone(), Some(&value)))?;
            put(commit(numbers, None))?;
        }
        let recent = changes(None)?.version;
        // Stores look now and then only.
        let mut rounds = 0;
        while !changes(Some(begun))?.missed {
            rounds += 1;
            assert!(rounds < 5000, "nothing is forgotten");
            put(commit(1..2, Some(&value)))?;
            put(commit(1..2, None))?;
        }
        let since = changes(Some(recent))?;
        assert!(!since.missed && since.rows.iter().all(|(_, value)| value.is_none()));
        let mut after = changes(Some(0))?;
        assert!(
            after.missed,
            "who begins at the beginning has missed something"
        );
        // But what is there is read.
        assert_eq!(store.scan(&object, None)?.rows, [(key(0), value.clone())]);
        assert_eq!(store.count(&object)?, 1);
        after = changes(Some(after.version))?;
        assert!(after.is_empty());
        Ok(())
    }

    #[test]
    fn old_removals_are_forgotten_in_a_file() -> Result<()> {
        let folder = tempfile::tempdir().map_err(|error| Error::system("a folder", error))?;
        let path = folder.path().join("data.db");
        forgets_old_removals(&format!("sqlite:{}?sync=normal", path.display()))
    }

    #[test]
    fn old_removals_are_forgotten_by_servers() -> Result<()> {
        for variable in ["PROCESSION_TEST_REDIS", "PROCESSION_TEST_POSTGRES"] {
            match std::env::var(variable) {
                Ok(url) => forgets_old_removals(&url)?,
                Err(_) => {
                    let said = format!("NOT RUN: old removals, because {variable} is not set");
                    let all = std::env::var_os("PROCESSION_TEST_SERVERS");
                    assert!(all.is_none_or(|all| all != "required"), "{said}");
                    // Not eprintln!, which the test's harness would keep to itself.
                    let _ = std::io::Write::write_all(
                        &mut std::io::stderr(),
                        format!("{said}\n").as_bytes(),
                    );
                }
            }
        }
        Ok(())
    }
}
