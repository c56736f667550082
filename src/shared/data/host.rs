//! [`Host`]: the process that holds shared data: a thread that lets others in, and one for each of them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::link::{
    Changes, Commit, Dial, Done, Fault, LARGEST_COMMIT, LONGEST_KEY, LONGEST_VALUE, Link,
    MOST_WRITES, Outcome, Page, Row, Version,
};
use super::remote::{Held, Type};
use super::table::{Full, Table};
use super::talk::{Answer, BEAT_EVERY, Line, Request, Target, VERSION, beat, hear, say};
use crate::bytes::Bytes;
use crate::error::{Error, Result};
use crate::pipe::Listener;
use crate::registry::panics;
use crate::wire::endpoint::Endpoint;
use crate::wire::runtime_dir::RuntimeDir;

/// What all data of a manager may take, unless it is told something else.
const LIMIT: usize = 1 << 30;
/// So many connections at a time.
const MOST_GUESTS: usize = 500;
/// So many objects of the user's types.
const MOST_CREATED: usize = 100_000;
/// How long somebody may wait for changes before asking again.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// The longest name of an object, with its kind.
const LONGEST_NAME: usize = 160;

pub(super) struct Host {
    listener: Arc<Listener<(), ()>>,
    pub(super) state: Arc<State>,
    pub(super) life: u64,
    /// Where its private endpoint is.
    _dir: Option<RuntimeDir>,
}

/// What the threads of a host share.
pub(super) struct State {
    table: Mutex<Table>,
    /// Something was changed, or it is over.
    changed: Condvar,
    clock: Clock,
    guests: Mutex<Guests>,
    types: Mutex<HashMap<String, Arc<dyn Type>>>,
    /// Objects of these types.
    shared: Mutex<HashMap<String, Arc<dyn Held>>>,
    created: Mutex<Created>,
    is_over: AtomicBool,
}

#[derive(Default)]
struct Guests {
    lines: HashMap<u64, Arc<Guest>>,
    next: u64,
}

#[derive(Default)]
struct Created {
    objects: HashMap<u64, Arc<dyn Held>>,
    next: u64,
}

struct Guest {
    line: Line,
    /// A method runs for it.
    is_calling: AtomicBool,
}

/// Microseconds since 1970, which go on when somebody sets the machine's clock.
struct Clock {
    begun: Instant,
    micros: u64,
}

impl Clock {
    fn new() -> Self {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            begun: Instant::now(),
            micros: since_1970.map_or(1, |time| time.as_micros() as u64),
        }
    }

    fn now(&self) -> u64 {
        self.micros + self.begun.elapsed().as_micros() as u64
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<()> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(run)
        .map(drop)
        .map_err(|error| Error::system("cannot start a manager's thread", error))
}

impl Host {
    pub(super) fn new(
        endpoint: &str,
        insecure: bool,
        life: u64,
        dir: Option<RuntimeDir>,
    ) -> Result<Self> {
        let listener = Arc::new(match insecure {
            true => Listener::bind_insecure(endpoint)?,
            false => Listener::bind(endpoint)?,
        });
        panics::keep_locations();
        let state = Arc::new(State {
            table: Mutex::new(Table::new(LIMIT)),
            changed: Condvar::new(),
            clock: Clock::new(),
            guests: Mutex::default(),
            types: Mutex::default(),
            shared: Mutex::default(),
            created: Mutex::default(),
            is_over: AtomicBool::new(false),
        });
        let (door, of_door) = (Arc::clone(&listener), Arc::clone(&state));
        spawn("manager", move || {
            loop {
                match door.accept() {
                    Ok(line) => let_in(&of_door, line, life),
                    Err(Error::ConnectionClosed) => return,
                    Err(error) => {
                        log::warn!("nobody new can use the manager for the moment: {error}");
                        // What is missing may be there again then.
                        std::thread::sleep(Duration::from_millis(100));
                    }
                }
            }
        })?;
        let of_beats = Arc::downgrade(&state);
        if let Err(error) = spawn("manager-beats", move || tell_that_methods_run(&of_beats)) {
            listener.close();
            return Err(error);
        }
        Ok(Self {
            listener,
            state,
            life,
            _dir: dir,
        })
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        self.listener.endpoint()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.listener.close();
        self.state.is_over.store(true, Ordering::Release);
        drop(self.state.table());
        self.state.changed.notify_all();
        let guests = std::mem::take(&mut lock(&self.state.guests).lines);
        // Their threads see that, and end.
        for guest in guests.values() {
            guest.line.close();
        }
    }
}

/// Whoever waits for a method hears from time to time that it still runs.
fn tell_that_methods_run(state: &Weak<State>) {
    loop {
        std::thread::sleep(BEAT_EVERY);
        let Some(state) = state.upgrade().filter(|state| !state.is_over()) else {
            return;
        };
        let guests: Vec<_> = lock(&state.guests).lines.values().cloned().collect();
        for guest in guests {
            if guest.is_calling.load(Ordering::Acquire) {
                beat(&guest.line);
            }
        }
    }
}

fn let_in(state: &Arc<State>, line: Line, life: u64) {
    let guest = Arc::new(Guest {
        line,
        is_calling: AtomicBool::new(false),
    });
    let mut guests = lock(&state.guests);
    if state.is_over() {
        return;
    }
    let welcome = match guests.lines.len() < MOST_GUESTS {
        true => Answer::Welcome {
            version: VERSION,
            life,
        },
        false => Answer::Refused(format!(
            "{MOST_GUESTS} connections use this manager already, and it takes no more"
        )),
    };
    guests.next += 1;
    let number = guests.next;
    guests.lines.insert(number, Arc::clone(&guest));
    drop(guests);
    let of_thread = Arc::clone(state);
    let spawned = spawn("manager-guest", move || {
        let is_welcome = matches!(welcome, Answer::Welcome { .. });
        let why = say(&guest.line, &welcome).err();
        let why = match (is_welcome, why) {
            (true, None) => attend(&of_thread, &guest),
            (_, why) => why.unwrap_or_else(|| "there are too many".to_owned()),
        };
        log::debug!("connection {number} to a manager is over: {why}");
        lock(&of_thread.guests).lines.remove(&number);
        guest.line.close();
    });
    if let Err(error) = spawned {
        log::warn!("one who wants to use the manager is sent away: {error}");
        lock(&state.guests).lines.remove(&number);
    }
}

/// Answers one who asks, until it is gone; why it is.
fn attend(state: &State, guest: &Guest) -> String {
    loop {
        let request = match hear(&guest.line, Duration::MAX) {
            Ok(request) => request,
            Err(why) => return why,
        };
        guest.is_calling.store(
            matches!(
                request,
                Request::Call { .. } | Request::Create(_) | Request::Find(_)
            ),
            Ordering::Release,
        );
        let answer = state.answer(request);
        guest.is_calling.store(false, Ordering::Release);
        if state.is_over() {
            return "the manager ends".to_owned();
        }
        if let Err(why) = say(&guest.line, &answer) {
            return why;
        }
    }
}

/// What is wrong with a request that a program of ours would not make.
fn judge(request: &Request) -> Result<(), String> {
    let name_fits = |name: &str| name.len() <= LONGEST_NAME;
    let key_fits = |key: &Bytes| key.len() <= LONGEST_KEY;
    let fits = match request {
        Request::Read { object, keys } => {
            name_fits(object) && keys.len() <= MOST_WRITES && keys.iter().all(key_fits)
        }
        Request::Commit { object, commit } => {
            let bytes: usize = (commit.writes.iter())
                .map(|write| write.key.len() + write.value.as_ref().map_or(0, |value| value.len()))
                .sum();
            name_fits(object)
                && commit.token.len() <= 16
                && commit.checks.len() <= MOST_WRITES
                && commit.writes.len() <= MOST_WRITES
                && bytes <= LARGEST_COMMIT
                && commit.writes.iter().all(|write| {
                    key_fits(&write.key)
                        && (write.value.as_ref()).is_none_or(|value| value.len() <= LONGEST_VALUE)
                })
        }
        Request::Scan { object, .. }
        | Request::Count { object }
        | Request::Changes { object, .. } => name_fits(object),
        Request::Find(_) | Request::Create(_) | Request::Remove(_) | Request::Call { .. } => true,
    };
    match fits {
        true => Ok(()),
        false => Err("it is larger than a manager takes".to_owned()),
    }
}

fn say_full(full: &Full) -> String {
    format!(
        "the manager holds as much as it may, {} bytes: remove something, or have its program allow more with limit()",
        full.limit
    )
}

impl State {
    fn table(&self) -> MutexGuard<'_, Table> {
        lock(&self.table)
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }

    pub(super) fn set_limit(&self, bytes: usize) {
        self.table().set_limit(bytes);
    }

    fn answer(&self, request: Request) -> Answer {
        if let Err(why) = judge(&request) {
            return Answer::Refused(why);
        }
        match request {
            Request::Read { object, keys } => match self.read(&object, &keys) {
                Ok(rows) => Answer::Rows(rows),
                Err(why) => Answer::Refused(why),
            },
            Request::Commit { object, commit } => match self.commit(&object, &commit) {
                Ok(outcome) => Answer::Outcome(outcome),
                Err(why) => Answer::Refused(why),
            },
            Request::Scan { object, after } => Answer::Page(self.scan(&object, after.as_ref())),
            Request::Count { object } => Answer::Count(self.count(&object)),
            Request::Changes {
                object,
                after,
                wait,
            } => Answer::Changes(self.changes(&object, after, wait)),
            Request::Find(target) => match self.find(&target) {
                Ok(found) => Answer::Found(found.name().to_owned()),
                Err(why) => Answer::Refused(why),
            },
            Request::Create(name) => match self.create(&name) {
                Ok(id) => Answer::Created { id, name },
                Err(why) => Answer::Refused(why),
            },
            Request::Remove(id) => {
                self.remove(id);
                Answer::Removed
            }
            Request::Call {
                target,
                method,
                arguments,
            } => self.call(&target, &method, &arguments),
        }
    }

    fn read(&self, object: &str, keys: &[Bytes]) -> Result<Vec<Option<Row>>, String> {
        let rows = self.table().read(object, keys, self.clock.now());
        fits(&rows)?;
        Ok(rows)
    }

    fn commit(&self, object: &str, commit: &Commit) -> Result<Outcome, String> {
        let outcome = self.table().commit(object, commit, self.clock.now());
        match outcome {
            Ok(Outcome::Done) => {
                self.changed.notify_all();
                Ok(Outcome::Done)
            }
            Ok(Outcome::Conflict(rows)) => {
                fits(&rows)?;
                Ok(Outcome::Conflict(rows))
            }
            Err(full) => Err(say_full(&full)),
        }
    }

    fn scan(&self, object: &str, after: Option<&Bytes>) -> Page {
        self.table().scan(object, after, self.clock.now())
    }

    fn count(&self, object: &str) -> u64 {
        self.table().count(object, self.clock.now())
    }

    fn changes(&self, object: &str, after: Option<Version>, wait: Duration) -> Changes {
        let until = Instant::now() + wait.min(LONGEST_WAIT);
        let mut table = self.table();
        loop {
            let now = self.clock.now();
            let changes = table.changes(object, after, now);
            let left = until.saturating_duration_since(Instant::now());
            if after.is_none() || !changes.is_empty() || left.is_zero() || self.is_over() {
                return changes;
            }
            let expiry = table.next_expiry(object);
            let expiry = expiry.map(|at| Duration::from_micros(at.saturating_sub(now) + 1));
            let sleep = expiry.map_or(left, |expiry| expiry.min(left));
            let waited = self.changed.wait_timeout(table, sleep);
            table = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    pub(super) fn register(&self, new: Arc<dyn Type>) -> Result<(), String> {
        let mut types = lock(&self.types);
        if types.contains_key(new.name()) {
            return Err(format!(
                "the manager has a type of the name {} already; give them different names",
                new.name()
            ));
        }
        types.insert(new.name().to_owned(), new);
        Ok(())
    }

    fn type_of(&self, name: &str) -> Result<Arc<dyn Type>, String> {
        let types = lock(&self.types);
        types.get(name).cloned().ok_or_else(|| {
            let mut names: Vec<_> = types.keys().map(String::as_str).collect();
            names.sort_unstable();
            match names.is_empty() {
                true => {
                    format!("there is no type {name}; none was registered, with Manager::register")
                }
                false => format!("there is no type {name}; there is {}", names.join(", ")),
            }
        })
    }

    pub(super) fn find(&self, target: &Target) -> Result<Arc<dyn Held>, String> {
        match target {
            Target::Created(id) => lock(&self.created)
                .objects
                .get(id)
                .cloned()
                .ok_or_else(|| "the object was removed, with Proxy::remove".to_owned()),
            Target::Shared(name) => {
                let found = self.type_of(name)?;
                if let Some(held) = lock(&self.shared).get(name) {
                    return Ok(Arc::clone(held));
                }
                // The user's code runs without a lock of ours. Of two that are made at once, the first stays.
                let new = found.make()?;
                Ok(Arc::clone(
                    lock(&self.shared).entry(name.clone()).or_insert(new),
                ))
            }
        }
    }

    pub(super) fn create(&self, name: &str) -> Result<u64, String> {
        let new = self.type_of(name)?.make()?;
        let mut created = lock(&self.created);
        if created.objects.len() >= MOST_CREATED {
            return Err(format!(
                "the manager has {MOST_CREATED} objects already; remove some, with Proxy::remove"
            ));
        }
        created.next += 1;
        let id = created.next;
        created.objects.insert(id, new);
        Ok(id)
    }

    pub(super) fn remove(&self, id: u64) {
        let removed = lock(&self.created).objects.remove(&id);
        // The user's Drop may panic.
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(removed)))
            .map_err(panics::text_of);
    }

    pub(super) fn call(&self, target: &Target, method: &str, arguments: &[u8]) -> Answer {
        let held = match self.find(target) {
            Ok(held) => held,
            Err(why) => return Answer::Refused(why),
        };
        held.call(method, arguments)
    }
}

/// Rows that are too many for one answer.
fn fits(rows: &[Option<Row>]) -> Result<(), String> {
    let bytes: usize = rows.iter().flatten().map(|row| row.value.len()).sum();
    match bytes <= LARGEST_COMMIT {
        true => Ok(()),
        false => Err(format!(
            "these rows have {bytes} bytes, and {LARGEST_COMMIT} may go in one answer"
        )),
    }
}

/// The way to the data for the process that holds it.
pub(super) struct Here {
    host: Arc<Host>,
    shown: String,
}

impl Here {
    pub(super) const fn new(host: Arc<Host>, shown: String) -> Self {
        Self { host, shown }
    }

    fn refused(&self, why: String) -> Fault {
        Fault::Final(Error::SharedData {
            at: self.shown.clone(),
            why,
        })
    }
}

impl Dial for Here {
    fn dial(&self, _: Duration) -> Done<Box<dyn Link>> {
        Ok(Box::new(Self::new(
            Arc::clone(&self.host),
            self.shown.clone(),
        )))
    }
}

impl Link for Here {
    fn read(&mut self, object: &str, keys: &[Bytes]) -> Done<Vec<Option<Row>>> {
        let rows = self.host.state.read(object, keys);
        rows.map_err(|why| self.refused(why))
    }

    fn commit(&mut self, object: &str, commit: &Commit) -> Done<Outcome> {
        let outcome = self.host.state.commit(object, commit);
        outcome.map_err(|why| self.refused(why))
    }

    fn scan(&mut self, object: &str, after: Option<&Bytes>) -> Done<Page> {
        Ok(self.host.state.scan(object, after))
    }

    fn count(&mut self, object: &str) -> Done<u64> {
        Ok(self.host.state.count(object))
    }

    fn changes(&mut self, object: &str, after: Option<Version>, wait: Duration) -> Done<Changes> {
        Ok(self.host.state.changes(object, after, wait))
    }
}
