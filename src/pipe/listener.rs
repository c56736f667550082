//! [`Listener`] and [`Client`]: connections between programs that have no common parent, as in Python's
//! `multiprocessing.connection`.

use std::collections::VecDeque;
use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::connection::{Can, Connection};
use super::end::End;
use super::folder::{Folder, Lock, Side};
use super::frame::{HELLO, KNOCK, Key, ROOM, WELCOME, greeted, greeting};
use super::link::{cannot_wait, dial, is_lost, pair};
use super::poller::Poller;
use crate::error::{Error, Result};
use crate::pipeline::random_id;
use crate::wait::{Subscribers, Waitable, Watch, sealed};
use crate::wire::access::{Client as Proof, Credentials, Listening, Means, Now};
use crate::wire::endpoint::Endpoint;
use crate::wire::runtime_dir::RuntimeDir;
use crate::wire::socket::{Kind, LinkEvent, Socket};

/// How long a client that has knocked may take to come in.
const PATIENCE_FOR_GUESTS: Duration = Duration::from_secs(10);
/// How many may be on their way in at a time; others are heard when they knock again.
const ROOMS: usize = 64;
/// How often a client knocks.
const KNOCK_EVERY: Duration = Duration::from_secs(1);
/// How often it is looked whether there are keys by the port.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long [`Client::connect`] tries.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits at an endpoint for programs that connect with [`Client`].
///
/// Each [`accept`](Self::accept) gives a [`Connection`] of its own, which sends values of type `S` and receives values of type
/// `R`; at the client's end it is the reverse. Clients may come one after the other or at once. `tcp://127.0.0.1:*` takes a free port, and
/// [`endpoint`](Self::endpoint) says which. When it is dropped, connections that were accepted stay open.
///
/// Only programs of this user on this machine can come, by `ipc://` and by TCP; with [keys](crate::keys) (`PROCESSION_KEYS`, or
/// [`Keys::install`](crate::keys::Keys::install)) also those elsewhere that may join; and with [`bind_insecure`](Self::bind_insecure) anyone.
///
/// ```
/// use procession::{Client, Listener};
///
/// let listener = Listener::<String, u32>::bind("tcp://127.0.0.1:*")?;
/// let endpoint = listener.endpoint().to_string();
/// let client = std::thread::spawn(move || {
///     let connection = Client::connect::<u32, String>(&endpoint)?;
///     connection.send(&7)?;
///     connection.recv()
/// });
/// let connection = listener.accept()?;
/// let number = connection.recv()?;
/// connection.send(&format!("{number} it is"))?;
/// # let client: procession::Result<String> = client.join().map_err(|_| procession::Error::EndOfFile)?;
/// # assert_eq!(client?, "7 it is");
/// # Ok::<(), procession::Error>(())
/// ```
pub struct Listener<S, R> {
    inner: Mutex<Inner>,
    poller: Poller,
    subscribers: Subscribers,
    endpoint: Endpoint,
    types: PhantomData<fn(S) -> R>,
}

struct Inner {
    /// None when it was closed.
    door: Option<Door>,
    /// Threads in `accept`.
    waiting: usize,
}

struct Door {
    router: Socket,
    rooms: Vec<Room>,
    /// Clients that are in, and were not accepted yet.
    guests: VecDeque<Socket>,
    /// Where the rooms of an `ipc` listener are.
    folder: Option<Rooms>,
    /// How it listens by TCP; plain without.
    listening: Option<Listening>,
    /// Where this user's programs find the keys for that.
    _keys: Option<RuntimeDir>,
}

/// The folder of an `ipc` listener's rooms, removed with it; what a killed one leaves is found like a pipe's.
struct Rooms {
    folder: Folder,
    hold: Option<Lock>,
}

impl Rooms {
    fn new() -> Result<Self> {
        let folder = Folder::create()?;
        let hold = folder.hold(Side::Zero)?;
        Ok(Self {
            folder,
            hold: Some(hold),
        })
    }
}

impl Drop for Rooms {
    fn drop(&mut self) {
        self.hold = None;
        self.folder.remove_if_abandoned();
    }
}

/// A socket for one client.
struct Room {
    socket: Socket,
    key: Key,
    address: String,
    since: Instant,
}

impl Door {
    /// Hears who knocks and who comes in; whether anything happened.
    fn attend(&mut self, endpoint: &Endpoint, poller: &Poller) {
        let _ = self.router.link_events();
        while let Some((from, _, frame)) = self.router.recv_from() {
            let Some(key) = greeted(KNOCK, &frame) else {
                log::debug!("{endpoint}: a message that is no client's of this version");
                continue;
            };
            if !self.rooms.iter().any(|room| room.key == key) {
                if self.rooms.len() >= ROOMS {
                    continue;
                }
                match self.open_room(endpoint, key, poller) {
                    Ok(room) => self.rooms.push(room),
                    Err(error) => {
                        log::warn!("{endpoint}: no connection for a client: {error}");
                        continue;
                    }
                }
            }
            if let Some(room) = self.rooms.iter().find(|room| room.key == key) {
                let mut answer = greeting(ROOM, &key);
                answer.extend_from_slice(room.address.as_bytes());
                self.router.send_to(&from, answer);
            }
        }
        let mut at = 0;
        while at < self.rooms.len() {
            let room = &self.rooms[at];
            let came = room.socket.recv_frame();
            let right = came
                .as_ref()
                .map(|frame| greeted(HELLO, frame) == Some(room.key));
            let is_lost = is_lost(&room.socket) && came.is_none();
            match right {
                Some(true) => {
                    let room = self.rooms.swap_remove(at);
                    room.socket.send_slice(&[WELCOME]);
                    // What it sends before it is accepted wakes nobody.
                    poller.exclude(&room.socket);
                    self.guests.push_back(room.socket);
                }
                None if !is_lost && room.since.elapsed() < PATIENCE_FOR_GUESTS => at += 1,
                // A stranger, or one who did not come, or left. A client that is still there knocks again.
                _ => {
                    self.rooms.swap_remove(at);
                }
            }
        }
    }

    fn open_room(&mut self, endpoint: &Endpoint, key: Key, poller: &Poller) -> Result<Room> {
        let server = self.listening.as_ref().map(|how| &how.server);
        let mut socket = pair(endpoint)?.guarded(server).monitored()?;
        let address = match (&self.folder, endpoint) {
            (Some(rooms), _) => socket.bind(&Endpoint::Ipc(rooms.folder.new_socket()))?,
            (None, other) => socket
                .bind_in(other.host().unwrap_or("127.0.0.1"), None)?
                .with_any_host(),
        };
        poller.include(&socket).map_err(cannot_wait)?;
        Ok(Room {
            socket,
            key,
            address: address.to_string(),
            since: Instant::now(),
        })
    }
}

impl<S, R> Listener<S, R> {
    /// Listens at `tcp://127.0.0.1:PORT` (or `*` for a free port) or `ipc://PATH`.
    ///
    /// # Errors
    /// [`Error::Bind`] when somebody listens there already; [`Error::BeyondLoopback`] for an endpoint that other machines can
    /// reach; [`Error::BadEndpoint`].
    pub fn bind(endpoint: impl AsRef<str>) -> Result<Self> {
        Self::listen(endpoint.as_ref(), false)
    }

    /// The same, also where other machines can reach it. Nothing is encrypted and nobody is asked who they are: anyone who reaches the
    /// endpoint is accepted.
    ///
    /// # Errors
    /// As [`bind`](Self::bind), less [`Error::BeyondLoopback`].
    pub fn bind_insecure(endpoint: impl AsRef<str>) -> Result<Self> {
        Self::listen(endpoint.as_ref(), true)
    }

    fn listen(endpoint: &str, insecure: bool) -> Result<Self> {
        let endpoint = parse(endpoint)?;
        let listening = Means::insecure(insecure).to_listen(std::slice::from_ref(&endpoint))?;
        let folder = match endpoint {
            Endpoint::Ipc(_) => Some(Rooms::new()?),
            _ => None,
        };
        let server = listening.as_ref().map(|how| &how.server);
        let mut router = Socket::new(Kind::Router)?.guarded(server);
        let poller = Poller::new().map_err(cannot_wait)?;
        let endpoint = router.bind(&endpoint)?;
        let keys = match &listening {
            Some(how) => {
                let dir = RuntimeDir::create(&format!("l{:016x}", random_id()?))?;
                how.publish(std::slice::from_ref(&endpoint), dir.path());
                Some(dir)
            }
            None => None,
        };
        poller.include(&router).map_err(cannot_wait)?;
        Ok(Self {
            inner: Mutex::new(Inner {
                door: Some(Door {
                    router,
                    rooms: Vec::new(),
                    guests: VecDeque::new(),
                    folder,
                    listening,
                    _keys: keys,
                }),
                waiting: 0,
            }),
            poller,
            subscribers: Subscribers::default(),
            endpoint,
            types: PhantomData,
        })
    }

    /// Where it listens, with the real port.
    #[must_use]
    pub const fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The next client; waits until there is one.
    ///
    /// # Errors
    /// [`Error::ConnectionClosed`] when the listener was closed; when the system has no descriptors left.
    pub fn accept(&self) -> Result<Connection<S, R>> {
        loop {
            if let Some(connection) = self.accept_until(None)? {
                return Ok(connection);
            }
        }
    }

    /// The next client, or `None` after so long; zero only looks.
    ///
    /// # Errors
    /// As [`accept`](Self::accept).
    pub fn accept_timeout(&self, timeout: Duration) -> Result<Option<Connection<S, R>>> {
        self.accept_until(Instant::now().checked_add(timeout))
    }

    fn accept_until(&self, until: Option<Instant>) -> Result<Option<Connection<S, R>>> {
        let mut inner = self.lock();
        loop {
            let door = inner.door.as_mut().ok_or(Error::ConnectionClosed)?;
            door.attend(&self.endpoint, &self.poller);
            let guest = door.guests.pop_front();
            // Whoever else waits has not seen what was taken in here.
            if inner.waiting > 0 {
                self.poller.wake();
            }
            if let Some(socket) = guest {
                drop(inner);
                self.subscribers.wake();
                let end = End::of_visit(socket, true)?;
                return Ok(Some(Connection::new(end, Can::Both)));
            }
            let now = Instant::now();
            if until.is_some_and(|until| until <= now) {
                return Ok(None);
            }
            // Those who do not come are forgotten in time, and a wake-up that went to another thread is made up for.
            let soon = now + Duration::from_secs(1);
            let until = until.map_or(soon, |until| until.min(soon));
            inner.waiting += 1;
            drop(inner);
            self.poller.wait(Some(until));
            inner = self.lock();
            inner.waiting -= 1;
        }
    }

    /// Listens no more. Clients that were accepted stay connected; those that were not see the end. Calls that wait return
    /// [`Error::ConnectionClosed`]. Dropping it does the same.
    pub fn close(&self) {
        let mut inner = self.lock();
        let door = inner.door.take();
        self.poller.wake();
        drop(inner);
        drop(door);
        self.subscribers.wake();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S, R> fmt::Debug for Listener<S, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener")
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

impl<S, R> sealed::Sealed for Listener<S, R> {}

impl<S, R> Waitable for Listener<S, R> {
    /// Somebody is there to be accepted, or it was closed.
    fn is_ready(&self) -> bool {
        self.poller.wait(Some(Instant::now()));
        let mut inner = self.lock();
        if inner.waiting > 0 {
            self.poller.wake();
        }
        match &mut inner.door {
            None => true,
            Some(door) => {
                door.attend(&self.endpoint, &self.poller);
                !door.guests.is_empty()
            }
        }
    }

    fn watch<'a>(&'a self, watch: &mut Watch<'a>) {
        watch.subscribe(&self.subscribers);
        watch.descriptor(std::os::fd::AsFd::as_fd(&self.poller));
    }
}

/// Connects to a [`Listener`].
#[derive(Clone, Copy, Debug)]
pub struct Client;

impl Client {
    /// Connects to the listener at `endpoint`, and waits until it is accepted: up to 30 s, so the two programs can be started in any
    /// order. The connection sends values of type `S` and receives values of type `R`.
    ///
    /// # Errors
    /// [`Error::NobodyThere`] when nobody accepted in that time; [`Error::Connect`] when what listens there is no listener;
    /// [`Error::ConnectBeyondLoopback`], [`Error::BadEndpoint`].
    pub fn connect<S, R>(endpoint: impl AsRef<str>) -> Result<Connection<S, R>> {
        Self::connect_timeout(endpoint, PATIENCE)
    }

    /// The same with another patience.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub fn connect_timeout<S, R>(
        endpoint: impl AsRef<str>,
        timeout: Duration,
    ) -> Result<Connection<S, R>> {
        Self::dial(endpoint.as_ref(), timeout, false)
    }

    /// The same, also to another machine. Nothing is encrypted, and nothing proves who answers there.
    ///
    /// # Errors
    /// As [`connect`](Self::connect), less [`Error::ConnectBeyondLoopback`].
    pub fn connect_insecure<S, R>(
        endpoint: impl AsRef<str>,
        timeout: Duration,
    ) -> Result<Connection<S, R>> {
        Self::dial(endpoint.as_ref(), timeout, true)
    }

    fn dial<S, R>(endpoint: &str, timeout: Duration, insecure: bool) -> Result<Connection<S, R>> {
        let endpoint = parse(endpoint)?;
        let credentials = Means::insecure(insecure).to_dial(&endpoint)?;
        let deadline = Instant::now().checked_add(timeout);
        let mut visit = Visit::begin(&endpoint, credentials)?;
        loop {
            if let Some(socket) = visit.step(&endpoint)? {
                let end = End::of_visit(socket, false)?;
                return Ok(Connection::new(end, Can::Both));
            }
            let now = Instant::now();
            if deadline.is_some_and(|deadline| deadline <= now) {
                return Err(Error::NobodyThere {
                    who: "client",
                    endpoint: endpoint.to_string(),
                    waited: timeout,
                    advice: match visit.is_keyless() {
                        false => "is the listener running, and does it accept?",
                        true => "no listener of this user's is there on this machine; for others set PROCESSION_KEYS on both sides",
                    }
                    .to_owned(),
                });
            }
            let next = match visit.is_keyless() {
                false => visit.knocked + KNOCK_EVERY,
                true => now + LOOK_EVERY,
            };
            let until = deadline.map_or(next, |deadline| deadline.min(next));
            visit.poller.wait(Some(until));
        }
    }
}

/// A client on its way in.
struct Visit {
    dealer: Socket,
    poller: Arc<Poller>,
    key: Key,
    knocked: Instant,
    room: Option<Socket>,
    credentials: Credentials,
    /// It is on its way, with this.
    out: Option<Option<Arc<Proof>>>,
}

impl Visit {
    fn begin(endpoint: &Endpoint, credentials: Credentials) -> Result<Self> {
        let mut key = [0; 16];
        getrandom::fill(&mut key).map_err(|error| {
            let source = std::io::Error::other(error.to_string());
            Error::system("cannot get random numbers", source)
        })?;
        let dealer = Socket::new(Kind::Dealer)?.monitored()?;
        let poller = Arc::new(Poller::new().map_err(cannot_wait)?);
        poller.include(&dealer).map_err(cannot_wait)?;
        let mut visit = Self {
            dealer,
            poller,
            key,
            knocked: Instant::now(),
            room: None,
            credentials,
            out: None,
        };
        visit.set_out(endpoint)?;
        Ok(visit)
    }

    /// Connects and knocks, once there is what to prove itself with.
    fn set_out(&mut self, endpoint: &Endpoint) -> Result<()> {
        let client = match self.credentials.now(endpoint) {
            Now::NotYet => return Ok(()),
            Now::Plain => None,
            Now::With(client) => Some(client),
        };
        self.dealer.prove(client.as_ref());
        self.dealer.connect(endpoint)?;
        self.dealer.send(greeting(KNOCK, &self.key));
        self.knocked = Instant::now();
        self.out = Some(client);
        Ok(())
    }

    const fn is_keyless(&self) -> bool {
        self.out.is_none()
    }

    /// Goes on as far as it can now; the connection, once the listener has opened it.
    fn step(&mut self, endpoint: &Endpoint) -> Result<Option<Socket>> {
        if self.is_keyless() {
            self.set_out(endpoint)?;
        }
        for event in self.dealer.link_events() {
            match event {
                LinkEvent::Foreign(why) => {
                    return Err(Error::Connect {
                        endpoint: endpoint.to_string(),
                        why,
                    });
                }
                LinkEvent::OneSided => {
                    return Err(Error::TurnedAway {
                        who: "client",
                        endpoint: endpoint.to_string(),
                        why: "one of both has keys, and the other is plain: set PROCESSION_KEYS on both sides, or take the insecure form on both".to_owned(),
                    });
                }
                LinkEvent::TurnedAway => {
                    return Err(Error::TurnedAway {
                        who: "client",
                        endpoint: endpoint.to_string(),
                        why: "its key is not among those that may join; put its client.key into the folder clients there".to_owned(),
                    });
                }
                _ => {}
            }
        }
        while let Some(frame) = self.dealer.recv_frame() {
            let head = greeting(ROOM, &self.key);
            let address = frame.strip_prefix(&head[..]);
            let address = address
                .and_then(|address| std::str::from_utf8(address).ok())
                .and_then(|address| Endpoint::from_str(address).ok());
            let Some(address) = address else {
                return Err(Error::Connect {
                    endpoint: endpoint.to_string(),
                    why: "what answers there is not a Listener of this version".to_owned(),
                });
            };
            if self.room.is_none() {
                let address = address.with_host_if_any(endpoint.host().unwrap_or("127.0.0.1"));
                let room = dial(&address, &self.key, self.out.iter().flatten().next())?;
                self.poller.include(&room).map_err(cannot_wait)?;
                self.room = Some(room);
            }
        }
        // Also one that is new: ZeroMQ tells of changes to those who have found nothing.
        if let Some(room) = self.room.take() {
            let frame = room.recv_frame();
            let is_lost = is_lost(&room);
            match frame.as_deref() {
                Some([WELCOME]) => return Ok(Some(room)),
                None if !is_lost => self.room = Some(room),
                // Somebody else was first there, or the listener has given us up.
                _ => {}
            }
        }
        if self.knocked.elapsed() >= KNOCK_EVERY {
            self.knocked = Instant::now();
            if self.room.is_none() {
                self.dealer.send(greeting(KNOCK, &self.key));
            }
        }
        Ok(None)
    }
}

fn parse(text: &str) -> Result<Endpoint> {
    let endpoint: Endpoint = text.parse()?;
    match endpoint {
        Endpoint::Inproc(_) => Err(Error::BadEndpoint {
            endpoint: text.to_owned(),
            why: "a listener is for other processes; between threads of one take Pipe::new, or tcp:// or ipc://"
                .to_owned(),
        }),
        other => Ok(other),
    }
}
