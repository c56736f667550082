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
    link: Link,
    /// Until then the host will not give to others what is held here.
    lease_until: Instant,
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
        link.is_some_and(|up| Instant::now() < up.lease_until)
    }
}

impl Remote {
    pub(super) fn new(endpoint: Endpoint, insecure: bool, kind: Kind) -> Arc<Self> {
        Arc::new(Self {
            kind,
            endpoint,
            insecure,
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

    /// Connects, unless it is.
    pub(super) fn connect(self: &Arc<Self>, wait: Wait) -> Result<()> {
        self.connected(wait).map(drop)
    }

    fn connected(self: &Arc<Self>, wait: Wait) -> Result<MutexGuard<'_, State>> {
        let now = Instant::now();
        let patience = match wait {
            Wait::No => GLANCE,
            Wait::Until(until) => until.map_or(PATIENCE, |until| {
                until.saturating_duration_since(now).clamp(GLANCE, PATIENCE)
            }),
        };
        self.notice();
        let mut state = self.lock();
        while state.link.is_none() && state.is_dialling {
            state = self.sleep(state, None);
        }
        if state.link.is_some() {
            return Ok(state);
        }
        state.is_dialling = true;
        drop(state);
        let dialled = self.dial(now + patience);
        state = self.lock();
        state.is_dialling = false;
        self.changed.notify_all();
        let link = dialled?;
        state.links += 1;
        let number = state.links;
        // Whatever is granted was asked for after this, and heard by the host after this.
        let lease_until = Instant::now() + LEASE;
        state.link = Some(Up {
            number,
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

    fn dial(&self, until: Instant) -> Result<Link> {
        let endpoint = self.endpoint.to_string();
        let left = || until.saturating_duration_since(Instant::now());
        let connection = match self.insecure {
            true => Client::connect_insecure(&endpoint, left())?,
            false => Client::connect_timeout(&endpoint, left())?,
        };
        let strange = |why: String| Error::Connect {
            endpoint: endpoint.clone(),
            why: format!("what listens there is no {}: {why}", self.kind.name()),
        };
        match connection.recv_timeout(left().max(GLANCE)) {
            Ok(Some(Answer::Welcome {
                version: VERSION,
                kind,
                ..
            })) if kind == self.kind => Ok(Arc::new(connection)),
            Ok(Some(Answer::Welcome {
                version: VERSION,
                kind,
                ..
            })) => Err(Error::BadHandle {
                endpoint,
                why: format!(
                    "a {0} is there; connect with {0}::connect",
                    kind.type_name()
                ),
            }),
            Ok(Some(Answer::Welcome { version, .. })) => Err(Error::BadHandle {
                endpoint,
                why: format!(
                    "the host speaks version {version} of what is said about locks, and this program {VERSION}"
                ),
            }),
            Ok(Some(other)) => Err(strange(format!("it says {other:?}"))),
            Ok(None) => Err(strange("it says nothing".to_owned())),
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
        let number = self.begin(By::Hand, Wait::Until(None), make)?;
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
        if self.kind == Kind::Lock {
            let me = std::thread::current().id();
            self.notice();
            let mut state = self.lock();
            let mut open = state.open.values();
            if open.any(|open| open.thread == me && matches!(open.fate, Fate::Granted(_))) {
                return Err(Error::HeldAlready);
            }
            // What this thread had lost is forgotten: it begins anew.
            let is_lost = |open: &Open| matches!(open.fate, Fate::Lost(_));
            (state.open)
                .retain(|_, open| open.thread != me || open.by == By::Guard || !is_lost(open));
        }
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

    /// Gives back what is held under that number.
    pub(super) fn give(&self, number: u64) -> Result<()> {
        self.notice();
        let mut state = self.lock();
        let Some(open) = state.open.get_mut(&number) else {
            // It was given back by hand.
            return Ok(());
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
            _ => Ok(()),
        }
    }

    /// The number of what was acquired here: by this thread, if it is a lock; the first that was acquired by hand, if it is a semaphore.
    pub(super) fn number_of_mine(&self) -> Option<u64> {
        let me = std::thread::current().id();
        let state = self.lock();
        let mut open = state.open.iter();
        let is_mine = |open: &Open| match self.kind {
            Kind::Lock => open.thread == me,
            Kind::Semaphore => open.by == By::Hand,
        };
        let found = open.find(|(_, open)| {
            is_mine(open) && matches!(open.fate, Fate::Granted(_) | Fate::Lost(_))
        });
        found.map(|(&number, _)| number)
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

    pub(super) fn mark_consistent(self: &Arc<Self>) -> Result<()> {
        self.ask(|number| Request::Consistent { number }).map(drop)
    }

    fn hear(&self, link: u64, answer: Answer) {
        let mut state = self.lock();
        if state.link.as_ref().is_none_or(|up| up.number != link) {
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
        let over = (state.link.as_ref()).filter(|up| up.lease_until <= Instant::now());
        let number = over.map(|up| up.number);
        drop(state);
        if let Some(number) = number {
            self.end(number, &silence());
        }
    }

    /// The lease lasts until then.
    fn prolong(&self, link: u64, until: Instant) {
        let mut state = self.lock();
        if let Some(up) = state.link.as_mut().filter(|up| up.number == link) {
            up.lease_until = until;
        }
    }

    /// The connection is of no use any more.
    fn end(&self, link: u64, why: &str) {
        let mut state = self.lock();
        if state.link.as_ref().is_some_and(|up| up.number == link) {
            state.link = None;
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
    let mut next_beat = Instant::now();
    let mut lease_until = next_beat + LEASE;
    let why = loop {
        let now = Instant::now();
        if now >= next_beat {
            beat += 1;
            next_beat = now + BEAT;
            // A time before it was said.
            beats.push_back((beat, now));
            if let Err(error) = link.send(&Request::Beat { number: beat }) {
                break why_lost(error);
            }
        }
        let until = next_beat.min(lease_until);
        let answer = match link.recv_timeout(until.saturating_duration_since(Instant::now())) {
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
            None if Instant::now() >= lease_until => break silence(),
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

/// What this process has of the locks that it uses, by endpoint.
static OPEN: Mutex<Option<HashMap<Name, Weak<Remote>>>> = Mutex::new(None);

type Name = (String, Kind);

/// The one there is of this name, or a new one; `how` it connects, and whether it may connect beyond this machine.
pub(super) fn of_endpoint(
    name: &str,
    kind: Kind,
    how: impl FnOnce() -> (Endpoint, bool),
) -> Arc<Remote> {
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    let table = open.get_or_insert_with(HashMap::new);
    table.retain(|_, remote| remote.strong_count() > 0);
    let key = (name.to_owned(), kind);
    if let Some(remote) = table.get(&key).and_then(Weak::upgrade) {
        return remote;
    }
    let (endpoint, insecure) = how();
    let remote = Remote::new(endpoint, insecure, kind);
    table.insert(key, Arc::downgrade(&remote));
    remote
}
