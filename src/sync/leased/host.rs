//! The process that keeps a lock: a thread that lets others in, and one for each of them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::ledger::{Client, Grant, Ledger};
use super::{Answer, Kind, LEASE, Request, VERSION};
use crate::error::{Error, Result};
use crate::pipe::{Connection, Listener};
use crate::pipeline::random_id;
use crate::wire::endpoint::Endpoint;

/// How long somebody may take to make room for an answer.
const ROOM: Duration = Duration::from_secs(1);

type Link = Arc<Guest>;

struct Guest {
    connection: Connection<Answer, Request>,
    /// It does not read what it asks for.
    is_sent_away: AtomicBool,
}

pub(super) struct Host {
    listener: Arc<Listener<Answer, Request>>,
    shared: Arc<Mutex<Shared>>,
    id: u64,
}

struct Shared {
    id: u64,
    kind: Kind,
    ledger: Ledger,
    clients: HashMap<Client, Link>,
    next: Client,
    is_over: bool,
}

/// What is to be said, to whom. It is said when nothing is locked any more: who does not read harms nobody else.
type Said = Vec<(Link, Answer)>;

impl Shared {
    fn say(&self, said: &mut Said, client: Client, answer: Answer) {
        if let Some(link) = self.clients.get(&client) {
            said.push((Arc::clone(link), answer));
        }
    }

    fn say_all(&self, said: &mut Said, grants: impl IntoIterator<Item = Grant>) {
        for grant in grants {
            let (client, number) = grant.to;
            let answer = Answer::Granted {
                number,
                fence: grant.fence,
                holder_died: grant.holder_died,
            };
            self.say(said, client, answer);
        }
    }

    fn hear(&mut self, client: Client, request: Request) -> Said {
        let mut said = Vec::new();
        match request {
            Request::Ask { number, waits } => {
                let grant = self.ledger.ask((client, number), waits);
                if grant.is_none() && !waits {
                    self.say(&mut said, client, Answer::Refused { number });
                }
                self.say_all(&mut said, grant);
            }
            Request::Withdraw { number } => {
                if self.ledger.withdraw((client, number)) {
                    self.say(&mut said, client, Answer::Refused { number });
                }
            }
            Request::Give { number } => {
                let grants = self.ledger.give((client, number));
                self.say(&mut said, client, Answer::Given { number });
                self.say_all(&mut said, grants);
            }
            Request::Add { number, units } => {
                // A lock has one, and that is all.
                let grants = match self.kind {
                    Kind::Semaphore => self.ledger.add(units),
                    Kind::Lock => Vec::new(),
                };
                self.say(&mut said, client, Answer::Given { number });
                self.say_all(&mut said, grants);
            }
            Request::Look { number } => {
                let answer = Answer::State {
                    number,
                    left: self.ledger.left(),
                    holder_died: self.ledger.holder_died(),
                };
                self.say(&mut said, client, answer);
            }
            Request::Consistent { number, held } => {
                let is_done = self.ledger.is_consistent((client, held));
                let answer = match is_done {
                    true => Answer::Given { number },
                    false => Answer::Refused { number },
                };
                self.say(&mut said, client, answer);
            }
            Request::Beat { number } => self.say(&mut said, client, Answer::Beat { number }),
        }
        said
    }

    fn gone(&mut self, client: Client) -> Said {
        let mut said = Vec::new();
        if self.clients.remove(&client).is_some() {
            let grants = self.ledger.gone(client);
            self.say_all(&mut said, grants);
        }
        said
    }
}

/// Says it. Who has made no room for it in that time does not read what it asks for, and is sent away, by its own thread.
fn say(said: Said) {
    for (link, answer) in said {
        if link.is_sent_away.load(Ordering::Relaxed) {
            continue;
        }
        let until = Some(Instant::now() + ROOM);
        match link.connection.send_until(&answer, until) {
            Ok(true) => {}
            Ok(false) => link.is_sent_away.store(true, Ordering::Relaxed),
            Err(error) => log::debug!("a process that uses a lock: {error}"),
        }
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Host {
    pub(super) fn new(endpoint: &str, insecure: bool, kind: Kind, units: usize) -> Result<Self> {
        let listener = Arc::new(match insecure {
            true => Listener::bind_insecure(endpoint)?,
            false => Listener::bind(endpoint)?,
        });
        let id = random_id()?;
        // Rises over restarts: no host makes a grant each nanosecond.
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
        let fence = since_1970.map_or(0, |time| time.as_nanos() as u64);
        let shared = Arc::new(Mutex::new(Shared {
            id,
            kind,
            ledger: Ledger::new(units, fence),
            clients: HashMap::new(),
            next: 0,
            is_over: false,
        }));
        let (door, state) = (Arc::clone(&listener), Arc::clone(&shared));
        spawn("lock-host", move || {
            loop {
                match door.accept() {
                    Ok(connection) => let_in(&state, connection),
                    Err(Error::ConnectionClosed) => return,
                    Err(error) => {
                        log::warn!("nobody new can use the lock for the moment: {error}");
                        // What is missing may be there again then.
                        std::thread::sleep(Duration::from_millis(100));
                    }
                }
            }
        })?;
        Ok(Self {
            listener,
            shared,
            id,
        })
    }

    pub(super) const fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        self.listener.endpoint()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.listener.close();
        let mut shared = lock(&self.shared);
        shared.is_over = true;
        let clients = std::mem::take(&mut shared.clients);
        drop(shared);
        // Their threads see that, and end.
        for link in clients.values() {
            link.connection.close();
        }
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<()> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(run)
        .map(drop)
        .map_err(|error| Error::system("cannot start a lock's thread", error))
}

fn let_in(shared: &Arc<Mutex<Shared>>, connection: Connection<Answer, Request>) {
    let link = Arc::new(Guest {
        connection,
        is_sent_away: AtomicBool::new(false),
    });
    let mut state = lock(shared);
    if state.is_over {
        return;
    }
    state.next += 1;
    let client = state.next;
    state.clients.insert(client, Arc::clone(&link));
    let welcome = Answer::Welcome {
        version: VERSION,
        kind: state.kind,
        id: state.id,
    };
    let mut said = Vec::new();
    state.say(&mut said, client, welcome);
    drop(state);
    let of_thread = Arc::clone(shared);
    let spawned = spawn("lock-client", move || {
        say(said);
        // Where it was closed here, the lock ends: nobody gets what others have.
        if let Some(why) = attend(&of_thread, client, &link) {
            log::debug!("client {client} of a lock is gone: {why}");
            let said = lock(&of_thread).gone(client);
            say(said);
            link.connection.close();
        }
    });
    if let Err(error) = spawned {
        log::warn!("one who wants to use the lock is sent away: {error}");
        lock(shared).gone(client);
    }
}

/// Does what a client says, until it is gone; why it is, unless this process has closed the connection.
fn attend(shared: &Mutex<Shared>, client: Client, link: &Link) -> Option<String> {
    let mut heard = Instant::now();
    loop {
        let left = LEASE.saturating_sub(heard.elapsed());
        // Also when it is late: this process may have been stopped, and what was said meanwhile counts.
        let request = match link.connection.recv_timeout(left) {
            Ok(None) if heard.elapsed() >= LEASE => link.connection.try_recv(),
            other => other,
        };
        if link.is_sent_away.load(Ordering::Relaxed) {
            log::warn!(
                "a process that uses the lock does not read what it is told, and is sent away"
            );
            return Some("it does not read".to_owned());
        }
        match request {
            Ok(Some(request)) => {
                heard = Instant::now();
                let said = lock(shared).hear(client, request);
                say(said);
            }
            Ok(None) if heard.elapsed() < LEASE => {}
            Ok(None) => {
                log::warn!(
                    "a process that uses the lock was not heard for {LEASE:?}; what it held goes to others"
                );
                return Some("not heard".to_owned());
            }
            Err(Error::ConnectionClosed) => return None,
            Err(error) => return Some(error.to_string()),
        }
    }
}
