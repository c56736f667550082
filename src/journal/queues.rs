//! The journal of a host of queues: what was accepted is in the file before anybody is told so, and is taken out when it is done with.
//!
//! One file and one thread that writes for all queues of a host: what has gathered while a transaction was written is the next one.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use rusqlite::{Connection, Transaction, params};
use rustc_hash::{FxHashMap, FxHashSet};

use super::store::{explain, id, not_a_journal, open_file};
use crate::error::{Error, Result};
use crate::hub::ledger::Finished;
use crate::wire::block;
use crate::wire::body::{Body, BodyWriter};
use crate::wire::frame::{PeerId, QueueInfo, RunId};
use crate::wire::id_set::IdSet;
use crate::wire::wake::Waker;

/// What the journal is of, for people and against confusion with the journal of a run.
const WHAT: &str = "procession queue";
/// So many entries are one transaction at most.
const MOST: usize = 1024;
/// A body beyond this many bytes is written in parts of so many.
const PART: usize = 1 << 20;
/// Of so many putters it is remembered across lives how far they were accepted, the latest of each queue.
const PUTTERS: i64 = 10_000;

/// `block.done`: which of its items are done with, as pairs of the first's number, from 0, and how many (four bytes each, the lowest first).
/// A body is in `block.body`, or in `part` where that is NULL. `putter` says how far each was accepted: blocks and items in all.
const SCHEMA: &str = "
    CREATE TABLE queue (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        joinable INTEGER NOT NULL,
        maxsize INTEGER NOT NULL,
        shut INTEGER NOT NULL DEFAULT 0
    );
    CREATE TABLE block (
        id INTEGER PRIMARY KEY,
        queue INTEGER NOT NULL,
        items INTEGER NOT NULL,
        done BLOB,
        body BLOB
    );
    CREATE TABLE part (
        block INTEGER NOT NULL,
        at INTEGER NOT NULL,
        bytes BLOB NOT NULL,
        PRIMARY KEY (block, at)
    );
    CREATE TABLE putter (
        queue INTEGER NOT NULL,
        peer INTEGER NOT NULL,
        number INTEGER NOT NULL,
        items INTEGER NOT NULL,
        UNIQUE (queue, peer)
    );
";

/// Something that happened at a queue.
#[derive(Debug)]
pub(crate) enum Entry {
    /// It was made.
    Made(String, QueueInfo),
    /// A putter's blocks came: each with its number in the journal, its items, and its body. So far it has put so many blocks and items in all.
    Put {
        peer: PeerId,
        number: u64,
        items: u64,
        blocks: Vec<(u64, u32, Body)>,
    },
    /// Items that are done with.
    Done(Vec<Finished>),
    /// A putter has left.
    Left(PeerId),
    /// It was shut down.
    Shut,
    /// It is forgotten.
    Gone,
}

/// A queue as it was when its host died.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) id: i64,
    pub(crate) name: String,
    pub(crate) info: QueueInfo,
    pub(crate) past: Past,
}

/// What was in it.
#[derive(Debug, Default)]
pub(crate) struct Past {
    /// What was put and is not done with, in order.
    pub(crate) blocks: Vec<Left>,
    /// How far each putter was accepted: blocks, items.
    pub(crate) putters: FxHashMap<PeerId, (u64, u64)>,
    pub(crate) shut: bool,
    /// How many lives the host had before.
    pub(crate) lives: u64,
}

/// What is left of a block.
#[derive(Debug)]
pub(crate) struct Left {
    pub(crate) origin: u64,
    pub(crate) first: u32,
    pub(crate) items: u32,
    pub(crate) body: Body,
}

/// The journal, open. Queues write with a [`Pen`] each.
#[derive(Debug)]
pub(crate) struct QueueJournal {
    orders: Option<Sender<Order>>,
    thread: Option<JoinHandle<()>>,
    error: Arc<Mutex<Option<Error>>>,
    path: PathBuf,
    next_queue: i64,
    next_block: Arc<AtomicU64>,
    /// The life of the first host that had it: queues of the same name are the same in all later ones.
    pub(crate) life: RunId,
    lives: u64,
}

#[derive(Debug)]
struct Order {
    queue: i64,
    entry: Entry,
    written: Arc<Written>,
    waker: Waker,
}

#[derive(Debug, Default)]
struct Written {
    count: AtomicU64,
    failed: Mutex<Option<String>>,
}

/// By which one queue's host writes.
#[derive(Debug)]
pub(crate) struct Pen {
    queue: i64,
    orders: Sender<Order>,
    given: u64,
    written: Arc<Written>,
    waker: Waker,
    next_block: Arc<AtomicU64>,
    path: PathBuf,
}

impl Pen {
    /// The number of the next block, in the journal.
    pub(crate) fn next_block(&self) -> u64 {
        self.next_block.fetch_add(1, Ordering::Relaxed)
    }

    /// Takes an entry; its number, which [`written`](Self::written) will reach.
    pub(crate) fn record(&mut self, entry: Entry) -> u64 {
        self.given += 1;
        let order = Order {
            queue: self.queue,
            entry,
            written: Arc::clone(&self.written),
            waker: self.waker.clone(),
        };
        // It fails only behind an error, which the loop will see.
        let _ = self.orders.send(order);
        self.given
    }

    /// How many entries are written.
    pub(crate) fn written(&self) -> u64 {
        self.written.count.load(Ordering::Acquire)
    }

    /// What the writing has failed of.
    pub(crate) fn error(&self) -> Option<Error> {
        let failed = self.written.failed.lock();
        let why = failed.unwrap_or_else(PoisonError::into_inner).clone()?;
        Some(Error::Journal {
            path: self.path.clone(),
            why,
        })
    }
}

impl QueueJournal {
    /// Opens the journal, or makes it; `fresh` is the host's life if there was none before.
    pub(crate) fn open(path: &Path, fresh: RunId, sync: bool) -> Result<(Self, Vec<Kept>)> {
        let db = open_file(path, WHAT, SCHEMA)?;
        let failed = |error: rusqlite::Error| explain(path, &error);
        if sync {
            db.pragma_update(None, "synchronous", "FULL")
                .map_err(failed)?;
        }
        let (life, lives) = begin_life(&db, fresh).map_err(failed)?;
        let life = RunId::from_str_radix(&life, 16).map_err(|_| not_a_journal(path))?;
        let mut reading = Reading::default();
        let kept = reading.queues(&db, lives, path)?;
        let orders_error = Arc::<Mutex<Option<Error>>>::default();
        let next_queue = kept.iter().map(|kept| kept.id).max().unwrap_or(0) + 1;
        let next_block = Arc::new(AtomicU64::new(reading.next));
        let (orders, given) = channel();
        let mut writing = Writing {
            db,
            path: path.to_owned(),
            live: reading.live,
        };
        let error = Arc::clone(&orders_error);
        let thread = std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || writing.run(&given, &error))
            .map_err(|error| Error::system("cannot start the journal's thread", error))?;
        let journal = Self {
            orders: Some(orders),
            thread: Some(thread),
            error: orders_error,
            path: path.to_owned(),
            next_queue,
            next_block,
            life,
            lives,
        };
        Ok((journal, kept))
    }

    /// What a queue that was not there before writes with, and that it had no past.
    pub(crate) fn pen_for_new(
        &mut self,
        name: &str,
        info: QueueInfo,
        waker: Waker,
    ) -> Result<(Pen, Past)> {
        let queue = self.next_queue;
        self.next_queue += 1;
        let mut pen = self.pen(queue, waker)?;
        pen.record(Entry::Made(name.to_owned(), info));
        let past = Past {
            lives: self.lives,
            ..Past::default()
        };
        Ok((pen, past))
    }

    /// What the queue of this number writes with.
    pub(crate) fn pen(&self, queue: i64, waker: Waker) -> Result<Pen> {
        let closed = || Error::Journal {
            path: self.path.clone(),
            why: "it is closed".to_owned(),
        };
        Ok(Pen {
            queue,
            orders: self.orders.clone().ok_or_else(closed)?,
            given: 0,
            written: Arc::default(),
            waker,
            next_block: Arc::clone(&self.next_block),
            path: self.path.clone(),
        })
    }

    /// What the writing has failed of.
    pub(crate) fn take_error(&self) -> Option<Error> {
        lock(&self.error).take()
    }
}

impl Drop for QueueJournal {
    /// Waits until all that was given is written: the queues' hosts, and with them their pens, are gone before.
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The life of the first host, and how many there were before this one.
fn begin_life(db: &Connection, fresh: RunId) -> rusqlite::Result<(String, u64)> {
    db.execute(
        "UPDATE journal SET lives = lives + 1, run = coalesce(run, ?1)",
        [format!("{fresh:016x}")],
    )?;
    db.execute(
        "DELETE FROM putter WHERE rowid IN (
            SELECT rowid FROM (
                SELECT rowid, row_number() OVER (PARTITION BY queue ORDER BY rowid DESC) AS place FROM putter
            ) WHERE place > ?1
        )",
        [PUTTERS],
    )?;
    db.query_row("SELECT run, lives - 1 FROM journal", [], |row| {
        Ok((row.get(0)?, id(row.get(1)?)))
    })
}

/// A block that is in the file.
#[derive(Debug)]
struct Live {
    items: u32,
    in_parts: bool,
    /// Numbers from 1.
    done: IdSet,
}

impl Live {
    const fn weight(&self) -> u64 {
        if self.items == 0 {
            1
        } else {
            self.items as u64
        }
    }
}

#[derive(Default)]
struct Reading {
    live: FxHashMap<u64, Live>,
    next: u64,
}

impl Reading {
    fn queues(&mut self, db: &Connection, lives: u64, path: &Path) -> Result<Vec<Kept>> {
        let failed = |error: rusqlite::Error| explain(path, &error);
        self.next = 1;
        let mut kept = {
            let mut statement = db
                .prepare("SELECT id, name, joinable, maxsize, shut FROM queue ORDER BY id")
                .map_err(failed)?;
            let rows = statement
                .query_map([], |row| {
                    Ok(Kept {
                        id: row.get(0)?,
                        name: row.get(1)?,
                        info: QueueInfo {
                            joinable: row.get(2)?,
                            maxsize: id(row.get(3)?),
                        },
                        past: Past {
                            shut: row.get(4)?,
                            lives,
                            ..Past::default()
                        },
                    })
                })
                .map_err(failed)?;
            rows.collect::<rusqlite::Result<Vec<Kept>>>()
                .map_err(failed)?
        };
        for queue in &mut kept {
            queue.past.putters = putters(db, queue.id).map_err(failed)?;
            self.blocks(db, queue, path)?;
        }
        Ok(kept)
    }

    fn blocks(&mut self, db: &Connection, queue: &mut Kept, path: &Path) -> Result<()> {
        let failed = |error: rusqlite::Error| explain(path, &error);
        let mut statement = db
            .prepare("SELECT id, items, done, body FROM block WHERE queue = ?1 ORDER BY id")
            .map_err(failed)?;
        let mut rows = statement.query([queue.id]).map_err(failed)?;
        while let Some(row) = rows.next().map_err(failed)? {
            let origin = id(row.get(0).map_err(failed)?);
            let items: u32 = row.get(1).map_err(failed)?;
            let done: Option<Vec<u8>> = row.get(2).map_err(failed)?;
            let body: Option<Vec<u8>> = row.get(3).map_err(failed)?;
            let in_parts = body.is_none();
            let body = match body {
                Some(bytes) => Body::Memory(bytes.into()),
                None => parts(db, origin, path)?,
            };
            let live = Live {
                items,
                in_parts,
                done: ranges(&done.unwrap_or_default()),
            };
            self.next = self.next.max(origin + 1);
            let left = left(origin, &live, body).ok_or_else(|| Error::Journal {
                path: path.to_owned(),
                why: format!(
                    "it is damaged: block {origin} of queue {} has other items than it says; nothing was changed in it: restore it from a copy, or remove it, and with it all that is in the queues",
                    queue.name
                ),
            })?;
            queue.past.blocks.extend(left);
            self.live.insert(origin, live);
        }
        Ok(())
    }
}

fn putters(db: &Connection, queue: i64) -> rusqlite::Result<FxHashMap<PeerId, (u64, u64)>> {
    let mut statement =
        db.prepare_cached("SELECT peer, number, items FROM putter WHERE queue = ?1")?;
    let rows = statement.query_map([queue], |row| {
        Ok((id(row.get(0)?), (id(row.get(1)?), id(row.get(2)?))))
    })?;
    rows.collect()
}

/// A body that was written in parts.
fn parts(db: &Connection, block: u64, path: &Path) -> Result<Body> {
    let failed = |error: rusqlite::Error| explain(path, &error);
    let mut writer = BodyWriter::new();
    let mut statement = db
        .prepare_cached("SELECT bytes FROM part WHERE block = ?1 ORDER BY at")
        .map_err(failed)?;
    let mut rows = statement.query([block as i64]).map_err(failed)?;
    while let Some(row) = rows.next().map_err(failed)? {
        let bytes: Vec<u8> = row.get(0).map_err(failed)?;
        writer
            .write_all(&bytes)
            .map_err(|error| Error::system("cannot keep a large item of the journal", error))?;
    }
    writer
        .finish()
        .map_err(|error| Error::system("cannot keep a large item of the journal", error))
}

fn ranges(bytes: &[u8]) -> IdSet {
    let mut set = IdSet::new();
    let (pairs, _) = bytes.as_chunks::<8>();
    for [a, b, c, d, e, f, g, h] in pairs {
        let first = u32::from_le_bytes([*a, *b, *c, *d]);
        let count = u32::from_le_bytes([*e, *f, *g, *h]);
        set.insert_range(u64::from(first) + 1, count.into());
    }
    set
}

fn bytes_of(done: &IdSet) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (first, count) in done.ranges() {
        // No block has more items than fit.
        let small = |number: u64| u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes();
        bytes.extend_from_slice(&small(first - 1));
        bytes.extend_from_slice(&small(count));
    }
    bytes
}

/// The stretches of a block that are not done with; `None` when it has not the items that it should have.
fn left(origin: u64, live: &Live, body: Body) -> Option<Vec<Left>> {
    if live.items == 0 {
        return Some(vec![Left {
            origin,
            first: 0,
            items: 0,
            body,
        }]);
    }
    let Body::Memory(bytes) = body else {
        return None;
    };
    if block::count(&bytes)? != live.items {
        return None;
    }
    let mut all = Vec::new();
    for (first, count) in live.done.missing(1, live.items.into()) {
        let first = u32::try_from(first - 1).ok()?;
        let items = u32::try_from(count).ok()?;
        let (_, from) = block::split(&bytes, first)?;
        let (stretch, _) = block::split(&from, items)?;
        all.push(Left {
            origin,
            first,
            items,
            body: Body::Memory(stretch),
        });
    }
    Some(all)
}

struct Writing {
    db: Connection,
    path: PathBuf,
    live: FxHashMap<u64, Live>,
}

impl Writing {
    fn run(&mut self, given: &Receiver<Order>, error: &Mutex<Option<Error>>) {
        while let Ok(first) = given.recv() {
            let mut orders = vec![first];
            orders.extend(given.try_iter().take(MOST));
            if let Err(why) = self.write(&orders) {
                let said = match &why {
                    Error::Journal { why, .. } => why.clone(),
                    other => other.to_string(),
                };
                *lock(error) = Some(why);
                for order in orders.iter().chain(&given.try_iter().collect::<Vec<_>>()) {
                    *lock(&order.written.failed) = Some(said.clone());
                    order.waker.wake();
                }
                // Nothing is accepted any more.
                return;
            }
            for order in &orders {
                order.written.count.fetch_add(1, Ordering::AcqRel);
            }
            for order in &orders {
                order.waker.wake();
            }
        }
    }

    /// All of these in one transaction: all of them or none.
    fn write(&mut self, orders: &[Order]) -> Result<()> {
        let path = &self.path;
        let failed = |error: rusqlite::Error| explain(path, &error);
        let transaction = self.db.transaction().map_err(failed)?;
        let mut touched = FxHashSet::default();
        for Order { queue, entry, .. } in orders {
            match entry {
                Entry::Put {
                    peer,
                    number,
                    items,
                    blocks,
                } => {
                    for (block, items, body) in blocks {
                        let in_parts = put(&transaction, *queue, *block, *items, body, path)?;
                        self.live.insert(
                            *block,
                            Live {
                                items: *items,
                                in_parts,
                                done: IdSet::new(),
                            },
                        );
                    }
                    transaction
                        .prepare_cached(
                            "INSERT OR REPLACE INTO putter (queue, peer, number, items) VALUES (?1, ?2, ?3, ?4)",
                        )
                        .and_then(|mut statement| {
                            let values =
                                params![queue, *peer as i64, *number as i64, *items as i64];
                            statement.execute(values)
                        })
                        .map_err(failed)?;
                }
                Entry::Done(finished) => {
                    for one in finished {
                        if let Some(live) = self.live.get_mut(&one.origin) {
                            live.done
                                .insert_range(u64::from(one.first) + 1, one.count.into());
                            touched.insert(one.origin);
                        }
                    }
                }
                rare => change(&transaction, *queue, rare).map_err(failed)?,
            }
        }
        for block in touched {
            let Some(live) = self.live.get(&block) else {
                continue;
            };
            if live.done.len() < live.weight() {
                transaction
                    .prepare_cached("UPDATE block SET done = ?2 WHERE id = ?1")
                    .and_then(|mut statement| {
                        statement.execute(params![block as i64, bytes_of(&live.done)])
                    })
                    .map_err(failed)?;
                continue;
            }
            if live.in_parts {
                transaction
                    .prepare_cached("DELETE FROM part WHERE block = ?1")
                    .and_then(|mut statement| statement.execute([block as i64]))
                    .map_err(failed)?;
            }
            transaction
                .prepare_cached("DELETE FROM block WHERE id = ?1")
                .and_then(|mut statement| statement.execute([block as i64]))
                .map_err(failed)?;
            self.live.remove(&block);
        }
        transaction.commit().map_err(failed)
    }
}

/// Writes a block; whether in parts.
fn put(
    transaction: &Transaction<'_>,
    queue: i64,
    block: u64,
    items: u32,
    body: &Body,
    path: &Path,
) -> Result<bool> {
    let failed = |error: rusqlite::Error| explain(path, &error);
    let whole = match body {
        Body::Memory(bytes) if bytes.len() <= PART => Some(bytes.as_ref()),
        _ => None,
    };
    transaction
        .prepare_cached("INSERT INTO block (id, queue, items, body) VALUES (?1, ?2, ?3, ?4)")
        .and_then(|mut statement| statement.execute(params![block as i64, queue, items, whole]))
        .map_err(failed)?;
    if whole.is_some() {
        return Ok(false);
    }
    let unreadable =
        |error| Error::system("cannot read an item back from its temporary file", error);
    let mut buffer = vec![0; PART];
    let mut at = 0;
    while at < body.len() {
        let read = body.read_at(at, &mut buffer).map_err(unreadable)?;
        if read == 0 {
            return Err(unreadable(std::io::ErrorKind::UnexpectedEof.into()));
        }
        transaction
            .prepare_cached("INSERT INTO part (block, at, bytes) VALUES (?1, ?2, ?3)")
            .and_then(|mut statement| {
                statement.execute(params![block as i64, at as i64, &buffer[..read]])
            })
            .map_err(failed)?;
        at += read as u64;
    }
    Ok(true)
}

/// What does not happen often.
fn change(transaction: &Transaction<'_>, queue: i64, entry: &Entry) -> rusqlite::Result<()> {
    match entry {
        Entry::Made(name, info) => transaction
            .execute(
                "INSERT INTO queue (id, name, joinable, maxsize) VALUES (?1, ?2, ?3, ?4)",
                params![queue, name, info.joinable, info.maxsize as i64],
            )
            .map(drop),
        Entry::Left(peer) => transaction
            .prepare_cached("DELETE FROM putter WHERE queue = ?1 AND peer = ?2")?
            .execute(params![queue, *peer as i64])
            .map(drop),
        Entry::Shut => transaction
            .execute("UPDATE queue SET shut = 1 WHERE id = ?1", [queue])
            .map(drop),
        Entry::Gone => {
            // It was empty: there are no blocks of it.
            transaction.execute("DELETE FROM putter WHERE queue = ?1", [queue])?;
            transaction
                .execute("DELETE FROM queue WHERE id = ?1", [queue])
                .map(drop)
        }
        Entry::Put { .. } | Entry::Done(_) => Ok(()),
    }
}
