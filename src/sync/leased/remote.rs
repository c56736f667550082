//! What a process has of a lock that is kept elsewhere: one connection, on which all its threads ask.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use super::{Answer, BEAT, Kind, LEASE, Request, VERSION};
use crate::error::{Error, Result};
use crate::pipe::{Client, Connection};
use crate::wire::endpoint::Endpoint;

/// How long a host is looked for.
const PATIENCE: Duration = Duration::from_secs(30);
/// The same, for those who do not want to wait for a unit.
const GLANCE: Duration = Duration::from_secs(2);

type Link = Arc<Connection<Request, Answer>>;

/// How long somebody waits for a unit.
#[derive(Clone, Copy)]
pub(super) enum Wait {
    No,
    /// None: for ever.
    Until(Option<Instant>),
}

/// How a unit is given back.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    Guard,
    Hand,
    /// It is no unit.
    Question,
}

/// A unit that is held.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    pub(super) number: u64,
    pub(super) fence: u64,
    pub(super) holder_died: bool,
}

pub(super) struct Remote {
    pub(super) kind: Kind,
    endpoint: Endpoint,
    insecure: bool,
    /// Which lock it is; none: whichever is there.
    id: Option<u64>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    link: Option<Up>,
    /// Of the last link, and of the last request.
    links: u64,
    requests: u64,
    /// Somebody connects.
    is_dialling: bool,
    open: BTreeMap<u64, Open>,
}

/// A connection.
struct Up {
    number: u64,
    /// Of the lock.
    id: u64,
    link: Link,
    /// Until then the host will not give to others what is held here.
    lease_until: Now,
}

/// A time, by a clock that goes on while the machine is suspended: since it was started.
type Now = Duration;

fn now() -> Now {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// A request that somebody here still cares about.
struct Open {
    thread: ThreadId,
    by: By,
    fate: Fate,
}

#[derive(Clone)]
enum Fate {
    Waits,
    Granted(Held),
    Refused,
    /// Done, or given back.
    Given,
    State {
        left: usize,
        holder_died: bool,
    },
    Lost(String),
}

impl State {
    fn is_valid(&self) -> bool {
        let link = self.link.as_ref();
        link.is_some_and(|up| now() < up.lease_until)
    }
}

impl Remote {
    pub(super) fn new(
        endpoint: Endpoint,
        insecure: bool,
        kind: Kind,
        id: Option<u64>,
    ) -> Arc<Self> {
        Arc::new(Self {
            kind,
            endpoint,
            insecure,
            id,
            state: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lost(&self, why: String) -> Error {
        Error::LeaseLost {
            what: self.kind.name(),
            endpoint: self.endpoint.to_string(),
            why,
        }
    }

    /// Connects, unless it is; which lock it is.
    pub(super) fn connect(self: &Arc<Self>) -> Result<u64> {
        let state = self.connected(Wait::Until(None))?;
        Ok(state.link.as_ref().map_or(0, |up| up.id))
    }

    fn connected(self: &Arc<Self>, wait: Wait) -> Result<MutexGuard<'_, State>> {
        let begun = Instant::now();
        let patience = match wait {
            Wait::No => GLANCE,
            Wait::Until(until) => until.map_or(PATIENCE, |until| {
                let left = until.saturating_duration_since(begun);
                left.clamp(GLANCE, PATIENCE)
            }),
        };
        self.notice();
        let mut state = self.lock();
        while state.link.is_none() && state.is_dialling {
            if begun.elapsed() >= patience {
                return Err(self.nobody(patience, "is its host running?"));
            }
            state = self.sleep(state, Some(begun + patience));
        }
        if state.link.is_some() {
            return Ok(state);
        }
        state.is_dialling = true;
        drop(state);
        let dialled = self.dial(begun, patience);
        state = self.lock();
        state.is_dialling = false;
        self.changed.notify_all();
        let (link, id) = dialled?;
        state.links += 1;
        let number = state.links;
        // Whatever is granted was asked for after this, and heard by the host after this.
        let lease_until = now() + LEASE;
        state.link = Some(Up {
            number,
            id,
            link: Arc::clone(&link),
            lease_until,
        });
        let lock = Arc::downgrade(self);
        let spawned = std::thread::Builder::new()
            .name("lock-lease".to_owned())
            .spawn(move || keep(&lock, number, &link));
        if let Err(error) = spawned {
            if let Some(up) = state.link.take() {
                up.link.close();
            }
            return Err(Error::system("cannot start a lock's thread", error));
        }
        Ok(state)
    }

    fn nobody(&self, waited: Duration, advice: &str) -> Error {
        Error::NobodyThere {
            who: "client",
            endpoint: self.endpoint.to_string(),
            waited,
            advice: advice.to_owned(),
        }
    }

    fn dial(&self, begun: Instant, patience: Duration) -> Result<(Link, u64)> {
        let endpoint = self.endpoint.to_string();
        let left = || patience.saturating_sub(begun.elapsed());
        let connection = match self.insecure {
            true => Client::connect_insecure(&endpoint, left()),
            false => Client::connect_timeout(&endpoint, left()),
        };
        let connection = connection.map_err(|error| match error {
            Error::NobodyThere { .. } => self.nobody(patience, "is its host running?"),
            other => other,
        })?;
        let bad = |why: String| Error::BadHandle {
            endpoint: endpoint.clone(),
            why,
        };
        let strange = |why: String| Error::Connect {
            endpoint: endpoint.clone(),
            why: format!("what listens there is no {}: {why}", self.kind.name()),
        };
        match connection.recv_timeout(left().max(GLANCE)) {
            Ok(Some(Answer::Welcome { version, .. })) if version != VERSION => Err(bad(format!(
                "the host speaks version {version} of what is said about locks, and this program {VERSION}"
            ))),
            Ok(Some(Answer::Welcome { kind, .. })) if kind != self.kind => Err(bad(format!(
                "a {0} is there; connect with {0}::connect",
                kind.type_name()
            ))),
            Ok(Some(Answer::Welcome { id, .. })) if self.id.is_some_and(|mine| mine != id) => {
                Err(bad(format!(
                    "the {} of this handle has ended, and another one is there now; connect to that one with its endpoint",
                    self.kind.name()
                )))
            }
            Ok(Some(Answer::Welcome { id, .. })) => Ok((Arc::new(connection), id)),
            Ok(Some(other)) => Err(strange(format!("it says {other:?}"))),
            Ok(None) => Err(self.nobody(
                patience,
                "somebody is there, and does not answer; is it stopped?",
            )),
            Err(Error::EndOfFile | Error::BrokenPipe) => {
                Err(self.nobody(patience, "its host is ending"))
            }
            Err(error) => Err(strange(error.to_string())),
        }
    }

    fn sleep<'a>(
        &'a self,
        state: MutexGuard<'a, State>,
        until: Option<Instant>,
    ) -> MutexGuard<'a, State> {
        match until {
            None => self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner),
            Some(until) => {
                let left = until.saturating_duration_since(Instant::now());
                let waited = self.changed.wait_timeout(state, left);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
        }
    }

    /// Makes a request of the host.
    fn begin(
        self: &Arc<Self>,
        by: By,
        wait: Wait,
        make: impl FnOnce(u64) -> Request,
    ) -> Result<u64> {
        let mut state = self.connected(wait)?;
        state.requests += 1;
        let number = state.requests;
        let open = Open {
            thread: std::thread::current().id(),
            by,
            fate: Fate::Waits,
        };
        state.open.insert(number, open);
        self.say(&state, &make(number));
        Ok(number)
    }

    /// If it cannot be said, the thread that listens hears why.
    fn say(&self, state: &State, request: &Request) {
        if let Some(up) = &state.link
            && let Err(error) = up.link.send(request)
        {
            log::debug!("{}: {error}", self.endpoint);
        }
    }

    /// What has become of a request, if it is known by then.
    fn fate(&self, number: u64, until: Option<Instant>) -> Option<Fate> {
        let mut state = self.lock();
        loop {
            match state.open.get(&number).map(|open| &open.fate) {
                Some(Fate::Waits) => {}
                Some(fate) => return Some(fate.clone()),
                None => return Some(Fate::Given),
            }
            if until.is_some_and(|until| until <= Instant::now()) {
                return None;
            }
            state = self.sleep(state, until);
        }
    }

    fn forget(&self, number: u64) {
        self.lock().open.remove(&number);
    }

    /// Makes a request that the host answers at once.
    fn ask(self: &Arc<Self>, make: impl FnOnce(u64) -> Request) -> Result<Fate> {
        let number = self.begin(By::Question, Wait::Until(None), make)?;
        let fate = self.fate(number, None);
        self.forget(number);
        match fate {
            Some(Fate::Lost(why)) => Err(self.lost(why)),
            Some(fate) => Ok(fate),
            None => Err(self.lost("it does not answer".to_owned())),
        }
    }

    /// A unit, if there is one in time.
    pub(super) fn acquire(self: &Arc<Self>, by: By, wait: Wait) -> Result<Option<Held>> {
        self.notice();
        let me = std::thread::current().id();
        let mut state = self.lock();
        let mut open = state.open.values();
        let is_mine = |open: &Open| open.thread == me && matches!(open.fate, Fate::Granted(_));
        if self.kind == Kind::Lock && open.any(is_mine) {
            return Err(Error::HeldAlready);
        }
        // What this thread had by hand and has lost is forgotten: it begins anew.
        let is_lost = |open: &Open| matches!(open.fate, Fate::Lost(_));
        (state.open).retain(|_, open| open.thread != me || open.by != By::Hand || !is_lost(open));
        drop(state);
        let waits = matches!(wait, Wait::Until(_));
        let number = self.begin(by, wait, |number| Request::Ask { number, waits })?;
        let until = match wait {
            Wait::No => None,
            Wait::Until(until) => until,
        };
        let fate = self.fate(number, until).or_else(|| {
            self.say(&self.lock(), &Request::Withdraw { number });
            self.fate(number, None)
        });
        let fate = match fate {
            // It may have been granted long ago, to a process that was stopped.
            Some(Fate::Granted(_)) => {
                self.notice();
                self.fate(number, None)
            }
            other => other,
        };
        match fate {
            Some(Fate::Granted(held)) => return Ok(Some(held)),
            Some(Fate::Lost(why)) => {
                self.forget(number);
                return Err(self.lost(why));
            }
            _ => {}
        }
        self.forget(number);
        Ok(None)
    }

    /// Gives back what is held under that number, unless it was given back by hand.
    pub(super) fn give(&self, number: u64) -> Result<()> {
        self.give_one(|_| Some(number)).map(drop)
    }

    /// Gives back what was acquired here: by this thread, if it is a lock; by hand, if it is a semaphore, by this thread rather than by others. Whether
    /// there was something.
    pub(super) fn give_mine(&self) -> Result<bool> {
        self.give_one(|state| self.mine(state))
    }

    fn mine(&self, state: &State) -> Option<u64> {
        let me = std::thread::current().id();
        let is_one = |open: &Open| match self.kind {
            Kind::Lock => open.by != By::Question && open.thread == me,
            Kind::Semaphore => open.by == By::Hand,
        };
        let rank = |open: &Open| {
            let is_lost = match open.fate {
                Fate::Granted(_) => false,
                Fate::Lost(_) => true,
                _ => return None,
            };
            Some((open.thread != me, is_lost, open.by != By::Hand))
        };
        let open = state.open.iter().filter(|(_, open)| is_one(open));
        let ranked = open.filter_map(|(&number, open)| Some((rank(open)?, number)));
        ranked.min().map(|(_, number)| number)
    }

    fn give_one(&self, choose: impl FnOnce(&State) -> Option<u64>) -> Result<bool> {
        self.notice();
        let mut state = self.lock();
        let number = choose(&state);
        let Some((number, open)) = number.and_then(|number| {
            let open = state.open.get_mut(&number)?;
            Some((number, open))
        }) else {
            return Ok(false);
        };
        if let Fate::Lost(why) = std::mem::replace(&mut open.fate, Fate::Waits) {
            state.open.remove(&number);
            return Err(self.lost(why));
        }
        self.say(&state, &Request::Give { number });
        drop(state);
        // So that a program that ends right now is not taken for one that was killed.
        let fate = self.fate(number, None);
        self.forget(number);
        match fate {
            Some(Fate::Lost(why)) => Err(self.lost(why)),
            _ => Ok(true),
        }
    }

    pub(super) fn is_held(&self, number: u64) -> bool {
        let state = self.lock();
        let fate = state.open.get(&number).map(|open| &open.fate);
        matches!(fate, Some(Fate::Granted(_))) && state.is_valid()
    }

    pub(super) fn add(self: &Arc<Self>, units: usize) -> Result<()> {
        self.ask(|number| Request::Add { number, units }).map(drop)
    }

    /// How many units are left, and whether a holder died.
    pub(super) fn look(self: &Arc<Self>) -> Result<(usize, bool)> {
        match self.ask(|number| Request::Look { number })? {
            Fate::State { left, holder_died } => Ok((left, holder_died)),
            _ => Err(self.lost("it answers something else".to_owned())),
        }
    }

    /// One who holds it says that what is guarded is in order: under that number, or this thread.
    pub(super) fn mark_consistent(self: &Arc<Self>, held: Option<u64>) -> Result<()> {
        let not_held = Error::NotHeld {
            what: self.kind.name(),
        };
        let held = held.or_else(|| self.mine(&self.lock())).ok_or(not_held)?;
        match self.ask(|number| Request::Consistent { number, held })? {
            Fate::Refused => Err(self.lost("it is not held any more".to_owned())),
            _ => Ok(()),
        }
    }

    fn hear(&self, link: u64, answer: Answer) {
        let mut state = self.lock();
        let Some(up) = state.link.as_ref().filter(|up| up.number == link) else {
            return;
        };
        if up.lease_until <= now() {
            // Whatever it says was said before it gave up this process.
            drop(state);
            self.end(link, &silence());
            return;
        }
        let (number, fate) = match answer {
            Answer::Granted {
                number,
                fence,
                holder_died,
            } => (
                number,
                Fate::Granted(Held {
                    number,
                    fence,
                    holder_died,
                }),
            ),
            Answer::Refused { number } => (number, Fate::Refused),
            Answer::Given { number } => (number, Fate::Given),
            Answer::State {
                number,
                left,
                holder_died,
            } => (number, Fate::State { left, holder_died }),
            Answer::Welcome { .. } | Answer::Beat { .. } => return,
        };
        if let Some(open) = state.open.get_mut(&number) {
            open.fate = fate;
        }
        drop(state);
        self.changed.notify_all();
    }

    fn is_link(&self, number: u64) -> bool {
        let state = self.lock();
        state.link.as_ref().is_some_and(|up| up.number == number)
    }

    /// Begins anew if the lease is over and the thread that keeps it has not noticed yet: it was stopped, with all others of the process.
    fn notice(&self) {
        let state = self.lock();
        let over = (state.link.as_ref()).filter(|up| up.lease_until <= now());
        let number = over.map(|up| up.number);
        drop(state);
        if let Some(number) = number {
            self.end(number, &silence());
        }
    }

    /// The lease lasts until then.
    fn prolong(&self, link: u64, until: Now) {
        let mut state = self.lock();
        if let Some(up) = state.link.as_mut().filter(|up| up.number == link) {
            up.lease_until = until;
        }
    }

    /// The connection is of no use any more.
    fn end(&self, link: u64, why: &str) {
        let mut state = self.lock();
        if let Some(up) = state.link.take_if(|up| up.number == link) {
            // So that the host knows at once. It may take a while, and nobody waits for it.
            let closes = std::thread::Builder::new().name("lock-close".to_owned());
            let _ = closes.spawn(move || up.link.close());
            for open in state.open.values_mut() {
                if matches!(open.fate, Fate::Waits | Fate::Granted(_)) {
                    open.fate = Fate::Lost(why.to_owned());
                }
            }
            log::debug!("{}: {why}", self.endpoint);
        }
        drop(state);
        self.changed.notify_all();
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        if let Some(up) = state.unwrap_or_else(PoisonError::into_inner).link.take() {
            up.link.close();
        }
    }
}

fn silence() -> String {
    format!("its host was not heard for {LEASE:?}")
}

/// Keeps the lease, and hands answers to those who wait for them, until there is no lease or nobody who wants it.
fn keep(lock: &Weak<Remote>, number: u64, link: &Link) {
    let mut beats = VecDeque::new();
    let mut beat = 0;
    let mut next_beat = now();
    let mut lease_until = next_beat + LEASE;
    let why = loop {
        let begun = now();
        if begun >= next_beat {
            beat += 1;
            next_beat = begun + BEAT;
            // A time before it was said.
            beats.push_back((beat, begun));
            if let Err(error) = link.send(&Request::Beat { number: beat }) {
                break why_lost(error);
            }
        }
        let until = next_beat.min(lease_until);
        let answer = match link.recv_timeout(until.saturating_sub(now())) {
            Ok(answer) => answer,
            Err(error) => break why_lost(error),
        };
        let Some(lock) = lock.upgrade().filter(|lock| lock.is_link(number)) else {
            break "it was given up".to_owned();
        };
        match answer {
            Some(Answer::Beat { number: answered }) => {
                while let Some(&(beat, said)) = beats.front()
                    && beat <= answered
                {
                    lease_until = said + LEASE;
                    beats.pop_front();
                }
                lock.prolong(number, lease_until);
            }
            Some(answer) => lock.hear(number, answer),
            None if now() >= lease_until => break silence(),
            None => {}
        }
    };
    if let Some(lock) = lock.upgrade() {
        lock.end(number, &why);
    }
    link.close();
}

fn why_lost(error: Error) -> String {
    match error {
        Error::EndOfFile | Error::BrokenPipe => {
            "its host has ended, or has not heard this process for too long".to_owned()
        }
        error => error.to_string(),
    }
}

/// What this process has of the locks that it uses, by what they are.
static OPEN: Mutex<Option<HashMap<u64, Weak<Remote>>>> = Mutex::new(None);

/// The one there is of this lock, or this one.
pub(super) fn of_lock(id: u64, make: impl FnOnce() -> Arc<Remote>) -> Arc<Remote> {
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    let table = open.get_or_insert_with(HashMap::new);
    table.retain(|_, remote| remote.strong_count() > 0);
    if let Some(remote) = table.get(&id).and_then(Weak::upgrade) {
        return remote;
    }
    let remote = make();
    table.insert(id, Arc::downgrade(&remote));
    remote
}
