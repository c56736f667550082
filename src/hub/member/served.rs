//! A member of a queue that is on a server: the two loops between its threads and two connections of an
//! [`Engine`](crate::engine::Engine). One puts and asks, the other one, made when somebody first wants an item, gets.
//!
//! ```text
//!   put ─► putting ─► putter ══► server ══► getter ─► getting ─► get        done, given back, renewed: by the getter
//! ```

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use super::asking::LOOK;
use super::{End, LIVELY, ROUND, Shared};
use crate::engine::{Accepted, Connection, Count, Engine, Receipt, Taken};
use crate::error::{Error, Result};
use crate::hub::outside::{Instant, poll};
use crate::wait::Subscribers;
use crate::wire::frame::{Ask, QueueInfo, RunId, TaskId, kind};
use crate::wire::wake::Waker;

/// So many items go to the server at once, and no more bytes.
const BATCH: usize = 1024;
const BATCH_BYTES: usize = 1 << 20;
/// So many are fetched at once.
const MOST: u64 = 4096;
/// Items that lie here ahead of the program have so many bytes in all, about.
const AHEAD_BYTES: u64 = 8 << 20;
/// A getter with nothing in hand waits at the server for so long at a time, and one that has something to be done with for so long.
const EMPTY_HANDED: Duration = Duration::from_millis(250);
const WITH_SOME: Duration = Duration::from_millis(10);
/// What is waited for at a server that cannot tell when it has come is asked for again after so long, then twice as long.
const AGAIN: Duration = Duration::from_millis(2);
const AGAIN_AT_MOST: Duration = Duration::from_millis(50);
/// A lost connection is made again after so long, then twice as long.
const RECONNECT: Duration = Duration::from_millis(50);
const RECONNECT_AT_MOST: Duration = Duration::from_secs(2);
/// So often it counts again while items are acknowledged.
const TURNS: u32 = 100;
/// So long the putter waits for the getter to say what the program is done with, before it counts.
const SAYING: Duration = Duration::from_millis(300);

/// What such a member needs to know.
pub(crate) struct Settings {
    pub(crate) engine: Arc<dyn Engine>,
    /// As the queue is shown to people.
    pub(crate) shown: String,
    pub(crate) run: RunId,
    pub(crate) info: QueueInfo,
    pub(crate) patience: Duration,
    pub(crate) watchers: Subscribers,
}

/// What the two loops share.
struct Both {
    shared: Arc<Shared>,
    engine: Arc<dyn Engine>,
    shown: String,
    patience: Duration,
    maxsize: u64,
    /// Items that the server has given this process and that were not acknowledged to it.
    held: AtomicU64,
    /// How often that has changed, twice; odd while it is being acknowledged, when the server's numbers are of one moment or the other.
    changes: AtomicU64,
    bell: Bell,
    over: AtomicBool,
}

/// How the putter's loop, which hears of everything, tells the getter's.
#[derive(Default)]
struct Bell {
    rung: Mutex<bool>,
    heard: Condvar,
}

impl Bell {
    fn ring(&self) {
        *self.rung.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.heard.notify_all();
    }

    fn wait(&self, time: Duration) {
        let mut rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        if !*rung {
            let waited = self.heard.wait_timeout(rung, time);
            rung = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        *rung = false;
    }
}

/// A connection that is made again when it is lost, for as long as there is patience.
struct Link {
    connection: Option<Box<dyn Connection>>,
    lost: Option<(Instant, Duration)>,
    next: Instant,
}

impl Link {
    fn new(connection: Option<Box<dyn Connection>>) -> Self {
        Self {
            connection,
            lost: None,
            next: Instant::now(),
        }
    }

    /// The connection, if there is one; tries to make it if it is time to.
    ///
    /// # Errors
    /// What is final, or has lasted longer than the patience.
    fn get(&mut self, both: &Both) -> Result<Option<&mut Box<dyn Connection>>> {
        if self.connection.is_none() && Instant::now() >= self.next {
            match both.engine.connect() {
                Ok(connection) => self.connection = Some(connection),
                Err(error) => self.failed(both, error)?,
            }
        }
        Ok(self.connection.as_mut())
    }

    /// A call has succeeded, so the server is really there.
    fn worked(&mut self, both: &Both) {
        if self.lost.take().is_some() {
            log::info!("{} is back", both.shown);
        }
    }

    /// A call has failed: the connection is given up. Fails with what is final.
    fn failed(&mut self, both: &Both, error: Error) -> Result<()> {
        self.connection = None;
        let now = Instant::now();
        let (since, pause) = match self.lost {
            Some((since, pause)) => (since, (pause * 2).min(RECONNECT_AT_MOST)),
            None => {
                log::warn!("{error}; trying again");
                (now, RECONNECT)
            }
        };
        self.lost = Some((since, pause));
        self.next = now + pause;
        if !matches!(error, Error::Connect { .. }) || now.duration_since(since) >= both.patience {
            return Err(error);
        }
        Ok(())
    }
}

/// The loop that puts and asks.
pub(crate) struct Member {
    both: Arc<Both>,
    link: Link,
    /// Not accepted yet.
    items: VecDeque<Bytes>,
    /// The queue is full, or seems to be: when to try again, and after how long after that.
    full: Option<(Instant, Duration)>,
    ahead: u64,
    joins: Vec<u64>,
    next_count: (Instant, Duration),
    getter: Option<std::thread::JoinHandle<()>>,
}

impl Member {
    /// Connects.
    pub(crate) fn connect(settings: Settings) -> Result<(Self, Arc<Shared>)> {
        let waker = Waker::new().map_err(|error| Error::system("cannot make an eventfd", error))?;
        let shared = Shared::new(waker, settings.watchers, settings.patience);
        let both = Arc::new(Both {
            shared: Arc::clone(&shared),
            engine: settings.engine,
            shown: settings.shown,
            patience: settings.patience,
            maxsize: settings.info.maxsize,
            held: AtomicU64::new(0),
            changes: AtomicU64::new(0),
            bell: Bell::default(),
            over: AtomicBool::new(false),
        });
        let mut link = Link::new(None);
        while link.get(&both)?.is_none() {
            std::thread::sleep(link.next.saturating_duration_since(Instant::now()));
        }
        let _ = shared.run.set(settings.run);
        shared.set_joinable(settings.info.joinable);
        if settings.info.maxsize == 0 {
            shared.set_endless();
        }
        let _ = shared.info.set(settings.info);
        let now = Instant::now();
        let member = Self {
            both,
            link,
            items: VecDeque::new(),
            full: None,
            ahead: 0,
            joins: Vec::new(),
            next_count: (now, AGAIN),
            getter: None,
        };
        Ok((member, shared))
    }

    /// Serves the program's threads until told to leave, or the server is gone.
    pub(crate) fn run(mut self) {
        let end = match self.serve() {
            Ok(()) => End::HostGone("this process has left the queue".to_owned()),
            Err(error) => End::HostGone(error.to_string()),
        };
        self.both.over.store(true, Ordering::Release);
        self.both.bell.ring();
        // The getter gives back what was not taken.
        if let Some(getter) = self.getter.take() {
            let _ = getter.join();
        }
        self.both.shared.end(&end);
    }

    fn serve(&mut self) -> Result<()> {
        loop {
            let shared = Arc::clone(&self.both.shared);
            if shared.leave.load(Ordering::Acquire) {
                return Ok(());
            }
            if self.getter.is_none() && shared.appetite().ever {
                self.start_getter()?;
            }
            self.both.bell.ring();
            let (fresh, _) = shared.take_items();
            self.items.extend(fresh);
            self.put()?;
            self.make_room()?;
            self.answer()?;
            let now = Instant::now();
            let mut next = Duration::from_secs(1);
            let mut until = |at: Instant| next = next.min(at.saturating_duration_since(now));
            if self.link.connection.is_none() {
                until(self.link.next);
            } else if let Some((at, _)) = self.full {
                until(at);
            } else if !self.items.is_empty() {
                continue;
            }
            if !self.joins.is_empty() {
                until(self.next_count.0);
            }
            if self.both.over.load(Ordering::Acquire) {
                // The getter has failed for good, and has said why.
                return Err(Error::Connect {
                    endpoint: self.both.shown.clone(),
                    why: "it was lost while getting".to_owned(),
                });
            }
            if !next.is_zero() {
                poll(&[], &self.both.shared.waker, next)?;
            }
        }
    }

    fn start_getter(&mut self) -> Result<()> {
        let getter = Getter {
            both: Arc::clone(&self.both),
            link: Link::new(None),
            blocks: HashMap::new(),
            next_block: 1,
            renewed: Instant::now(),
            lively: Instant::now(),
            each: 0,
        };
        let thread = std::thread::Builder::new()
            .name("queue-getter".to_owned())
            .spawn(move || getter.run())
            .map_err(|error| Error::system("cannot start a queue's thread", error))?;
        self.getter = Some(thread);
        Ok(())
    }

    /// Sends what there is, unless the queue is full.
    fn put(&mut self) -> Result<()> {
        if self.items.is_empty() || self.full.is_some_and(|(at, _)| Instant::now() < at) {
            return Ok(());
        }
        let Some(connection) = self.link.get(&self.both)? else {
            return Ok(());
        };
        let mut bytes = 0;
        let mut batch: Vec<Bytes> = Vec::new();
        for item in self.items.iter().take(BATCH) {
            if !batch.is_empty() && bytes + item.len() > BATCH_BYTES {
                break;
            }
            bytes += item.len();
            batch.push(item.clone());
        }
        let mut result = connection.put(&batch);
        if batch.len() > 1 && matches!(result, Err(Error::Encoding { .. })) {
            // One of them cannot be put at all: which one shows when they go one by one.
            batch.truncate(1);
            result = connection.put(&batch);
        }
        if result.is_ok() {
            self.link.worked(&self.both);
        }
        match result {
            Ok(Accepted::All) => {
                self.full = None;
                self.were_accepted(batch.len());
            }
            Ok(Accepted::Full(count)) => {
                self.were_accepted(count);
                let pause = match (count, self.full) {
                    (0, Some((_, pause))) => (pause * 2).min(AGAIN_AT_MOST),
                    _ => AGAIN,
                };
                self.full = Some((Instant::now() + pause, pause));
            }
            Ok(Accepted::ShutDown(count)) => {
                self.were_accepted(count);
                self.items.clear();
                self.full = None;
                self.both.shared.puts_are_over(true);
            }
            Err(error @ Error::Encoding { .. }) => {
                log::error!("an item cannot be put, and is lost: {error}");
                if let Some(item) = self.items.pop_front() {
                    self.both.shared.lost(item.len() as u64);
                }
            }
            Err(error) => self.link.failed(&self.both, error)?,
        }
        Ok(())
    }

    fn were_accepted(&mut self, count: usize) {
        let count = count.min(self.items.len());
        let bytes: usize = self.items.drain(..count).map(|item| item.len()).sum();
        if count > 0 {
            self.both.shared.accepted(count as u64, bytes as u64);
        }
    }

    /// Finds out how much room there is for who waits for some.
    fn make_room(&mut self) -> Result<()> {
        let maxsize = self.both.maxsize;
        if maxsize == 0 || self.full.is_some_and(|(at, _)| Instant::now() < at) {
            return Ok(());
        }
        let mut ahead = self.ahead;
        let wanted = self.both.shared.wanted_room(&mut ahead, maxsize);
        if wanted == 0 {
            self.ahead = ahead;
            return Ok(());
        }
        let Some((inside, _, count)) = self.count()? else {
            return Ok(());
        };
        if count.shut_down {
            self.both.shared.puts_are_over(false);
            return Ok(());
        }
        let room = maxsize.saturating_sub(inside + self.items.len() as u64);
        if room > 0 {
            self.ahead = ahead;
            self.full = None;
        } else {
            let pause = self.full.map_or(AGAIN, |(_, pause)| pause * 2);
            let pause = pause.min(AGAIN_AT_MOST);
            self.full = Some((Instant::now() + pause, pause));
        }
        self.both.shared.grant(room.min(wanted));
        Ok(())
    }

    /// How many items were put and not returned by any `get`, as far as this process can know, how many are unfinished, and what the
    /// server counts.
    fn count(&mut self) -> Result<Option<(u64, u64, Count)>> {
        let both = Arc::clone(&self.both);
        // What was taken here is said first.
        let until = Instant::now() + SAYING;
        while both.shared.ahead().1 && Instant::now() < until && self.getter.is_some() {
            both.bell.ring();
            std::thread::sleep(Duration::from_micros(200));
        }
        let mut turns = 0;
        loop {
            turns += 1;
            let before = both.changes.load(Ordering::Acquire);
            if before % 2 == 1 && turns < TURNS {
                std::thread::sleep(Duration::from_micros(200));
                continue;
            }
            let held = both.held.load(Ordering::Acquire);
            let Some(connection) = self.link.get(&both)? else {
                return Ok(None);
            };
            let count = match connection.count() {
                Ok(count) => {
                    self.link.worked(&both);
                    count
                }
                Err(error) => {
                    self.link.failed(&both, error)?;
                    return Ok(None);
                }
            };
            let (untaken, _) = both.shared.ahead();
            let returned = held.saturating_sub(untaken);
            let unfinished = count.ready + count.held;
            let inside = unfinished.saturating_sub(returned);
            // While much goes on the number is old in any case.
            if before == both.changes.load(Ordering::Acquire) || turns >= TURNS {
                return Ok(Some((inside, unfinished, count)));
            }
        }
    }

    fn answer(&mut self) -> Result<()> {
        if self.link.connection.is_none() && self.link.get(&self.both)?.is_none() {
            return Ok(());
        }
        let shared = Arc::clone(&self.both.shared);
        for (number, kind) in shared.questions() {
            match kind {
                kind::JOIN => {
                    self.joins.push(number);
                    self.next_count = (Instant::now(), AGAIN);
                }
                kind::SHUTDOWN | kind::DROP => {
                    let Some(connection) = self.link.get(&self.both)? else {
                        shared.ask_again();
                        return Ok(());
                    };
                    if let Err(error) = connection.shutdown(kind == kind::DROP) {
                        self.link.failed(&self.both, error)?;
                        shared.ask_again();
                        return Ok(());
                    }
                    shared.puts_are_over(false);
                    self.tell(number, kind, 0, 0);
                }
                _ => match self.count()? {
                    Some((inside, unfinished, count)) => {
                        let ahead = shared.ahead().0;
                        let inside = if kind == LOOK {
                            count.ready + ahead
                        } else {
                            inside
                        };
                        self.tell(number, kind, inside, unfinished);
                    }
                    None => {
                        shared.ask_again();
                        return Ok(());
                    }
                },
            }
        }
        self.joins.retain(|number| shared.is_open(*number));
        if !self.joins.is_empty() && Instant::now() >= self.next_count.0 {
            let unfinished = self.count()?.map(|(_, unfinished, _)| unfinished);
            if unfinished == Some(0) {
                for number in std::mem::take(&mut self.joins) {
                    self.tell(number, kind::JOIN, 0, 0);
                }
            }
            let pause = self.next_count.1;
            self.next_count = (Instant::now() + pause, (pause * 2).min(AGAIN_AT_MOST));
        }
        Ok(())
    }

    fn tell(&self, number: u64, kind: u8, inside: u64, unfinished: u64) {
        self.both.shared.on_answer(&Ask {
            kind,
            run: self.both.shared.run(),
            number,
            inside,
            unfinished,
        });
    }
}

/// The loop that gets.
struct Getter {
    both: Arc<Both>,
    link: Link,
    /// What came together and was not wholly acknowledged: its receipts, and of how many the server knows that they are done with.
    blocks: HashMap<TaskId, (Vec<Receipt>, usize)>,
    next_block: TaskId,
    renewed: Instant,
    /// When something went on last.
    lively: Instant,
    /// Bytes of an item, about.
    each: u64,
}

impl Getter {
    fn run(mut self) {
        if let Err(error) = self.serve() {
            let end = End::HostGone(error.to_string());
            self.both.shared.end(&end);
        }
        self.both.over.store(true, Ordering::Release);
        self.both.shared.waker.wake();
    }

    fn serve(&mut self) -> Result<()> {
        let both = Arc::clone(&self.both);
        let lease = both.engine.lease();
        loop {
            if both.over.load(Ordering::Acquire) {
                return self.leave();
            }
            if self.link.connection.is_none() {
                self.lost();
                if self.link.get(&both)?.is_none() {
                    both.bell
                        .wait(self.link.next.saturating_duration_since(Instant::now()));
                    continue;
                }
                self.renewed = Instant::now();
                both.shared.has_way();
            }
            match self.turn(lease) {
                // Nothing was asked of it where nobody wants anything.
                Ok(true) => self.link.worked(&both),
                Ok(false) => {}
                Err(error) => self.link.failed(&both, error)?,
            }
        }
    }

    /// One round: says what is done with, renews, takes more, or sleeps. Whether the server has answered to what was asked of it.
    fn turn(&mut self, lease: Option<Duration>) -> Result<bool> {
        let both = Arc::clone(&self.both);
        self.acknowledge()?;
        let third = lease.map(|lease| lease / 3);
        if third.is_some_and(|third| self.renewed.elapsed() >= third) {
            self.renewed = Instant::now();
            let held = self.receipts();
            if let Some(connection) = self.link.get(&both)?
                && !held.is_empty()
            {
                connection.renew(&held)?;
            }
        }
        let appetite = both.shared.appetite();
        if appetite.items == 0 || appetite.over {
            let lively = self.lively.elapsed() < LIVELY;
            let asleep = both.shared.sleeps(!lively);
            let time = match (asleep, self.blocks.is_empty()) {
                (false, _) => ROUND,
                (true, true) => Duration::from_secs(1),
                (true, false) => Duration::from_secs(1).min(third.unwrap_or(Duration::MAX)),
            };
            both.bell.wait(time);
            return Ok(false);
        }
        let wait = match (appetite.waiting, self.blocks.is_empty()) {
            (false, _) => Duration::ZERO,
            (true, true) => EMPTY_HANDED,
            (true, false) => WITH_SOME,
        };
        let most = match AHEAD_BYTES.checked_div(self.each) {
            Some(fit) => appetite.items.min(fit.max(1)),
            None => appetite.items,
        };
        let Some(connection) = self.link.get(&both)? else {
            return Ok(false);
        };
        match connection.take(most.min(MOST) as usize, wait)? {
            Taken::Items(items) if items.is_empty() => {
                if !appetite.waiting {
                    both.bell.wait(ROUND);
                }
            }
            Taken::Items(items) => {
                self.lively = Instant::now();
                let bytes: usize = items.iter().map(|delivery| delivery.item.len()).sum();
                self.each = (bytes / items.len()) as u64;
                both.held.fetch_add(items.len() as u64, Ordering::AcqRel);
                let (mut receipts, items): (VecDeque<Receipt>, Vec<Bytes>) = items
                    .into_iter()
                    .map(|delivery| (delivery.receipt, delivery.item))
                    .unzip();
                let first = self.next_block;
                for count in both.shared.arrived(first, &items) {
                    let some = receipts
                        .drain(..receipts.len().min(count as usize))
                        .collect();
                    self.blocks.insert(self.next_block, (some, 0));
                    self.next_block += 1;
                }
                both.changes.fetch_add(2, Ordering::AcqRel);
            }
            Taken::ShutDown => both.shared.gets_are_over(),
        }
        Ok(true)
    }

    /// Says what the program is done with.
    fn acknowledge(&mut self) -> Result<()> {
        let mut done = Vec::new();
        for (block, count) in self.both.shared.news() {
            let Some((receipts, said)) = self.blocks.get_mut(&block) else {
                continue;
            };
            let count = (count as usize).min(receipts.len());
            done.extend_from_slice(receipts.get(*said..count).unwrap_or_default());
            *said = (*said).max(count);
            if *said == receipts.len() {
                self.blocks.remove(&block);
            }
        }
        if done.is_empty() {
            return Ok(());
        }
        self.lively = Instant::now();
        let both = Arc::clone(&self.both);
        both.changes.fetch_add(1, Ordering::AcqRel);
        let told = match self.link.get(&both) {
            Ok(Some(connection)) => connection.done(&done),
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        if told.is_ok() {
            both.held.fetch_sub(done.len() as u64, Ordering::AcqRel);
        }
        both.changes.fetch_add(1, Ordering::AcqRel);
        told
    }

    fn receipts(&self) -> Vec<Receipt> {
        let blocks = self.blocks.values();
        blocks
            .flat_map(|(receipts, said)| receipts.get(*said..).unwrap_or_default())
            .copied()
            .collect()
    }

    /// The connection is gone, and with it every lease: what was not taken will come again.
    fn lost(&mut self) {
        if !self.blocks.is_empty() || self.both.held.load(Ordering::Acquire) > 0 {
            self.both.shared.forget_untaken();
            self.blocks.clear();
            self.both.held.store(0, Ordering::Release);
            self.both.changes.fetch_add(2, Ordering::AcqRel);
        }
    }

    /// Gives back what was not taken.
    fn leave(&mut self) -> Result<()> {
        self.acknowledge()?;
        self.both.shared.forget_untaken();
        // Of what was taken and is not done with nobody will say that it is.
        let held = self.receipts();
        let both = Arc::clone(&self.both);
        if !held.is_empty()
            && let Some(connection) = self.link.get(&both)?
        {
            connection.give_back(&held)?;
        }
        Ok(())
    }
}
