//! The process that keeps a lock: a thread that lets others in, and one for each of them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::ledger::{Client, Grant, Ledger};
use super::{Answer, Kind, LEASE, Request, VERSION};
use crate::error::{Error, Result};
use crate::pipe::{Connection, Listener};
use crate::wire::endpoint::Endpoint;

type Link = Arc<Connection<Answer, Request>>;

pub(super) struct Host {
    listener: Arc<Listener<Answer, Request>>,
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    kind: Kind,
    ledger: Ledger,
    clients: HashMap<Client, Link>,
    next: Client,
    is_over: bool,
}

impl Shared {
    fn tell(&self, client: Client, answer: &Answer) {
        if let Some(link) = self.clients.get(&client)
            && let Err(error) = link.send(answer)
        {
            // Its own thread hears of that, too.
            log::debug!("client {client} of a lock: {error}");
        }
    }

    fn tell_all(&self, grants: impl IntoIterator<Item = Grant>) {
        for grant in grants {
            let (client, number) = grant.to;
            let answer = Answer::Granted {
                number,
                fence: grant.fence,
                holder_died: grant.holder_died,
            };
            self.tell(client, &answer);
        }
    }

    fn hear(&mut self, client: Client, request: Request) {
        match request {
            Request::Ask { number, waits } => {
                let grant = self.ledger.ask((client, number), waits);
                if grant.is_none() && !waits {
                    self.tell(client, &Answer::Refused { number });
                }
                self.tell_all(grant);
            }
            Request::Withdraw { number } => {
                if self.ledger.withdraw((client, number)) {
                    self.tell(client, &Answer::Refused { number });
                }
            }
            Request::Give { number } => {
                let grants = self.ledger.give((client, number));
                self.tell(client, &Answer::Given { number });
                self.tell_all(grants);
            }
            Request::Add { number, units } => {
                // A lock has one, and that is all.
                let grants = match self.kind {
                    Kind::Semaphore => self.ledger.add(units),
                    Kind::Lock => Vec::new(),
                };
                self.tell(client, &Answer::Given { number });
                self.tell_all(grants);
            }
            Request::Look { number } => {
                let answer = Answer::State {
                    number,
                    left: self.ledger.left(),
                    holder_died: self.ledger.holder_died(),
                };
                self.tell(client, &answer);
            }
            Request::Consistent { number } => {
                self.ledger.is_consistent();
                self.tell(client, &Answer::Given { number });
            }
            Request::Beat { number } => self.tell(client, &Answer::Beat { number }),
        }
    }

    fn gone(&mut self, client: Client) {
        if self.clients.remove(&client).is_some() {
            let grants = self.ledger.gone(client);
            self.tell_all(grants);
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
        // Rises over restarts: no host makes a grant each nanosecond.
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
        let fence = since_1970.map_or(0, |time| time.as_nanos() as u64);
        let shared = Arc::new(Mutex::new(Shared {
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
        Ok(Self { listener, shared })
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
            link.close();
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
    let link = Arc::new(connection);
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
        lease: LEASE,
    };
    state.tell(client, &welcome);
    drop(state);
    let of_thread = Arc::clone(shared);
    let spawned = spawn("lock-client", move || {
        let why = attend(&of_thread, client, &link);
        log::debug!("client {client} of a lock is gone: {why}");
        lock(&of_thread).gone(client);
        link.close();
    });
    if let Err(error) = spawned {
        log::warn!("one who wants to use the lock is sent away: {error}");
        lock(shared).gone(client);
    }
}

/// Does what a client says, until it is gone; why it is.
fn attend(shared: &Mutex<Shared>, client: Client, link: &Link) -> String {
    let mut heard = Instant::now();
    loop {
        let left = LEASE.saturating_sub(heard.elapsed());
        // Also when it is late: this process may have been stopped, and what was said meanwhile counts.
        match link.recv_timeout(left) {
            Ok(Some(request)) => {
                heard = Instant::now();
                lock(shared).hear(client, request);
            }
            Ok(None) if heard.elapsed() < LEASE => {}
            Ok(None) => match link.try_recv() {
                Ok(Some(request)) => {
                    heard = Instant::now();
                    lock(shared).hear(client, request);
                }
                Ok(None) => {
                    log::warn!(
                        "a process that uses the lock was not heard for {LEASE:?}; what it held goes to others"
                    );
                    return "not heard".to_owned();
                }
                Err(error) => return error.to_string(),
            },
            Err(error) => return error.to_string(),
        }
    }
}
