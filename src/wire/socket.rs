//! ZeroMQ sockets as the event loops use them: never blocking in a send, never lingering for ever, bounded frames. This file
//! and those below it are the only users of the `zmq` crate, so that another binding can take its place.

mod callers;
pub(crate) mod curve;
mod peer;

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;

use callers::Callers;

use crate::error::{Error, Result};
use crate::wire::access::{Client, Server};
use crate::wire::endpoint::{Endpoint, Transport};
use crate::wire::frame::MAX_FRAME;
use crate::wire::same_host::{self, Heard, Incoming, Lookout, Outgoing, Spin, Way};
use crate::wire::wake::Waker;

/// The process's one context: `inproc://` endpoints meet in it. It is never torn down, because that would wait for sockets;
/// what must arrive is acknowledged by the protocol before its socket is dropped.
fn context() -> &'static zmq::Context {
    static CONTEXT: OnceLock<zmq::Context> = OnceLock::new();
    CONTEXT.get_or_init(|| {
        raise_file_limit();
        zmq::Context::new()
    })
}

/// A lane costs about five descriptors, and the usual soft limit of 1,024 ends at some two hundred workers.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current < limit.maximum {
        limit.current = limit.maximum;
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            log::debug!("cannot raise the limit of open files: {error}");
        }
    }
}

/// Whether the libzmq that was built can encrypt.
pub(crate) fn has_curve() -> bool {
    zmq::has("curve").unwrap_or(false)
}

/// libzmq's version.
pub(crate) fn zmq_version() -> (i32, i32, i32) {
    zmq::version()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Router,
    Dealer,
    Push,
    Pull,
    Pair,
}

/// What happened to a socket's connections, as its monitor tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LinkEvent {
    /// Somebody is there.
    Reached,
    /// A peer is there and speaks ZMTP.
    Up,
    /// A peer is gone: the kernel closed the connection.
    Down,
    /// An attempt to connect failed; ZeroMQ tries again, or not, as the socket was told.
    Failed,
    /// Somebody answers there who does not speak our protocol.
    Foreign(String),
    /// Our key is not in the list of who listens there.
    TurnedAway,
    /// One of both has keys, and the other is plain.
    OneSided,
}

/// libzmq's number for peers of which one encrypts and the other does not.
const MECHANISM_MISMATCH: u32 = 0x1100_0002;

impl LinkEvent {
    /// Whether there is no connection after it.
    pub(crate) const fn is_loss(&self) -> bool {
        !matches!(self, Self::Reached | Self::Up)
    }
}

pub(crate) struct Socket {
    inner: zmq::Socket,
    monitor: Option<zmq::Socket>,
    /// Locks and paths of `ipc` endpoints bound here; removed when it is dropped.
    bound: Vec<BoundPath>,
    /// The same-host path, where its peer may take it.
    outgoing: Option<RefCell<Outgoing>>,
    /// And where this one may.
    incoming: Option<RefCell<Arrivals>>,
    /// Who may use it by TCP.
    guard: Guard,
    /// It was bound to TCP as a server that lets in some.
    serves: bool,
    /// It was bound, so that anybody may try to connect.
    is_bound: bool,
    /// Who is connected there.
    callers: RefCell<Callers>,
}

/// How TCP is guarded on a socket. Other transports are guarded by their directories.
enum Guard {
    Plain,
    /// What is bound lets in whom this server lets in.
    Server(Arc<Server>),
    /// What is connected proves itself, and asks for proof.
    Client(Arc<Client>),
}

/// What comes by rings, and what came by the socket and is not its turn yet.
struct Arrivals {
    rings: Incoming,
    waits: Option<zmq::Message>,
    /// Frames by rings since the socket was asked.
    in_a_row: u32,
}

/// Behind so many frames by rings the socket is asked.
const IN_A_ROW: u32 = 64;

struct BoundPath {
    path: PathBuf,
    /// The socket at `path` is ours.
    bound: bool,
    _lock: File,
    lock_path: PathBuf,
}

impl Drop for BoundPath {
    fn drop(&mut self) {
        if self.bound {
            let _ = std::fs::remove_file(&self.path);
        }
        // Removed while held, so that nobody locks a file that is no longer there.
        let _ = std::fs::remove_file(&self.lock_path);
    }
}

impl Drop for Socket {
    /// Ends the monitor first. A dropped socket lives on in libzmq until its connections are closed, and each event of theirs is
    /// sent to the monitor's socket in a call that blocks: with nobody at its other end, libzmq's I/O thread would hang for ever.
    fn drop(&mut self) {
        if self.monitor.is_some() {
            // The only safe call that ends a monitor is one that begins another, here of no events. When the name is taken the
            // old one is ended all the same.
            let _ = self.inner.monitor("inproc://monitor-of-nothing", 0);
        }
    }
}

impl Socket {
    pub(crate) fn new(kind: Kind) -> Result<Self> {
        let failed = |error: zmq::Error| Error::system("cannot make a ZeroMQ socket", to_io(error));
        let inner = context()
            .socket(match kind {
                Kind::Router => zmq::ROUTER,
                Kind::Dealer => zmq::DEALER,
                Kind::Push => zmq::PUSH,
                Kind::Pull => zmq::PULL,
                Kind::Pair => zmq::PAIR,
            })
            .map_err(|error| match error {
                zmq::Error::EMFILE => Error::system(
                    "cannot make a ZeroMQ socket: this process has as many files or sockets open as it may (see ulimit -n)",
                    to_io(error),
                ),
                other => failed(other),
            })?;
        // What is under way is bounded by credit, in tasks and bytes; a high-water mark would only make a ROUTER drop
        // messages in silence.
        inner.set_sndhwm(0).map_err(failed)?;
        inner.set_rcvhwm(0).map_err(failed)?;
        inner.set_linger(0).map_err(failed)?;
        inner.set_maxmsgsize(MAX_FRAME as i64).map_err(failed)?;
        inner.set_ipv6(true).map_err(failed)?;
        inner.set_handshake_ivl(5_000).map_err(failed)?;
        inner.set_backlog(1024).map_err(failed)?;
        // A first attempt often comes before the other side listens.
        inner.set_reconnect_ivl(20).map_err(failed)?;
        inner.set_reconnect_ivl_max(200).map_err(failed)?;
        Ok(Self {
            inner,
            monitor: None,
            bound: Vec::new(),
            outgoing: None,
            incoming: None,
            guard: Guard::Plain,
            serves: false,
            is_bound: false,
            callers: RefCell::default(),
        })
    }

    /// Lets in whom `server` lets in, where it is bound to TCP from now on; everybody, when there is none. What is not TCP has to be bound
    /// before.
    pub(crate) fn guarded(mut self, server: Option<&Arc<Server>>) -> Self {
        self.guard = server.map_or(Guard::Plain, |server| Guard::Server(Arc::clone(server)));
        self
    }

    /// Proves itself where it is connected by TCP from now on, and asks for proof; neither, when there is no `client`.
    pub(crate) fn proving(mut self, client: Option<&Arc<Client>>) -> Self {
        self.prove(client);
        self
    }

    /// The same.
    pub(crate) fn prove(&mut self, client: Option<&Arc<Client>>) {
        self.guard = client.map_or(Guard::Plain, |client| Guard::Client(Arc::clone(client)));
    }

    /// What is bound or connected next is guarded as its transport has to be.
    fn set_guard(&mut self, transport: Transport) -> std::result::Result<(), String> {
        match (&self.guard, transport) {
            (Guard::Plain, _) => Ok(()),
            (Guard::Server(server), Transport::Tcp) => {
                self.serves = true;
                curve::serve(&mut self.inner, server)
            }
            // libzmq has no way back.
            (Guard::Server(_), Transport::Ipc) if self.serves => {
                return Err("what is plain has to be bound before TCP is".to_owned());
            }
            (Guard::Server(_), _) => Ok(()),
            (Guard::Client(client), Transport::Tcp) => curve::visit(&self.inner, client),
            (Guard::Client(_), _) => curve::plain(&self.inner),
        }
        .map_err(|error| format!("cannot encrypt there: {}", error.message()))
    }

    /// Takes frames by the same-host path, from those who offer it.
    pub(crate) fn taking_rings(mut self) -> Self {
        // Also where none is accepted: offers are to be understood.
        self.incoming = Some(RefCell::new(Arrivals {
            rings: Incoming::new(),
            waits: None,
            in_a_row: 0,
        }));
        self
    }

    /// Offers the same-host path to its one peer, who understands that and is met at `endpoint`: a ring with so many bytes of data.
    pub(crate) fn offering_rings(mut self, endpoint: &Endpoint, bytes: u32) -> Self {
        let may_be_here = match endpoint {
            Endpoint::Inproc(_) => false,
            Endpoint::Ipc(_) => true,
            // Also when all interfaces are meant: who is elsewhere cannot accept.
            Endpoint::Tcp { host, .. } => host == "*" || endpoint.is_this_machine(),
        };
        if same_host::is_on() && may_be_here {
            self.outgoing = Some(RefCell::new(Outgoing::new(bytes)));
        }
        self
    }

    /// Closes the connection of who sends a longer message, and leaves more messages than `messages` of one peer where they are: at
    /// their sender.
    pub(crate) fn taking_at_most(self, message: usize, messages: i32) -> Self {
        let longest = i64::try_from(message.min(MAX_FRAME)).unwrap_or(MAX_FRAME as i64);
        let _ = self.inner.set_maxmsgsize(longest);
        let _ = self.inner.set_rcvhwm(messages);
        self
    }

    /// Never connects again by itself once its connection is lost.
    pub(crate) fn without_reconnect(self) -> Self {
        let _ = self.inner.set_reconnect_ivl(-1);
        self
    }

    /// Does not connect again while anybody could still want what has arrived. [`Socket::without_reconnect`] is not for that:
    /// with it libzmq ends a lost connection's pipe at once, and what was received but not read is dropped.
    pub(crate) fn staying_lost(self) -> Self {
        let _ = self.inner.set_reconnect_ivl_max(0);
        let _ = self.inner.set_reconnect_ivl(24 * 3600 * 1000);
        self
    }

    /// How long dropping it may go on sending in the background.
    pub(crate) fn set_linger(&self, time: Duration) {
        let _ = self
            .inner
            .set_linger(i32::try_from(time.as_millis()).unwrap_or(i32::MAX));
    }

    /// Drops a monitored socket of one peer, and waits until the kernel has all that was sent, at most `time`; whether it has. It is given up at
    /// once when its peer is gone. `has_connected`: it has not bound.
    pub(crate) fn close_within(mut self, time: Duration, has_connected: bool) -> bool {
        if self.link_events().iter().any(LinkEvent::is_loss) {
            return false;
        }
        let mut callers = self.callers.take();
        self.set_linger(time);
        let Some(monitor) = self.monitor.take() else {
            return false;
        };
        drop(self);
        let deadline = Instant::now() + time;
        loop {
            match next_event(&monitor) {
                Some((zmq::SocketEvent::MONITOR_STOPPED, _)) => return Instant::now() < deadline,
                Some((zmq::SocketEvent::DISCONNECTED, _)) if has_connected => break,
                // libzmq may keep what was sent into a connection's end for the whole time, though nobody will ever take it.
                Some((zmq::SocketEvent::DISCONNECTED, value)) if callers.was_peer(value) => break,
                Some((zmq::SocketEvent::ACCEPTED, value)) => callers.came(value),
                Some((zmq::SocketEvent::HANDSHAKE_SUCCEEDED, _)) => callers.is_known(),
                Some(_) => {}
                None => wait_for_event(&monitor, deadline),
            }
            if Instant::now() >= deadline {
                break;
            }
        }
        // Until the socket is gone, somebody must be at this end, or libzmq's I/O thread would hang (see Drop).
        let mut left = LEFT.lock().unwrap_or_else(PoisonError::into_inner);
        left.retain(|monitor| {
            std::iter::from_fn(|| next_event(monitor))
                .all(|(event, _)| event != zmq::SocketEvent::MONITOR_STOPPED)
        });
        left.push(monitor);
        false
    }

    /// Tells of connections from now on.
    pub(crate) fn monitored(mut self) -> Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("inproc://monitor-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let failed = |error| Error::system("cannot watch a ZeroMQ socket", to_io(error));
        let events = zmq::SocketEvent::CONNECTED.to_raw()
            | zmq::SocketEvent::ACCEPTED.to_raw()
            | zmq::SocketEvent::HANDSHAKE_SUCCEEDED.to_raw()
            | zmq::SocketEvent::HANDSHAKE_FAILED_NO_DETAIL.to_raw()
            | zmq::SocketEvent::HANDSHAKE_FAILED_PROTOCOL.to_raw()
            | zmq::SocketEvent::HANDSHAKE_FAILED_AUTH.to_raw()
            | zmq::SocketEvent::DISCONNECTED.to_raw()
            | zmq::SocketEvent::CLOSED.to_raw()
            | zmq::SocketEvent::MONITOR_STOPPED.to_raw();
        self.inner
            .monitor(&name, i32::from(events))
            .map_err(failed)?;
        let monitor = context().socket(zmq::PAIR).map_err(failed)?;
        monitor.set_linger(0).map_err(failed)?;
        monitor.connect(&name).map_err(failed)?;
        self.monitor = Some(monitor);
        Ok(self)
    }

    /// What happened since it was asked last.
    pub(crate) fn link_events(&self) -> Vec<LinkEvent> {
        let mut events = Vec::new();
        let Some(monitor) = &self.monitor else {
            return events;
        };
        while let Ok(parts) = monitor.recv_multipart(zmq::DONTWAIT) {
            let Some(head) = parts.first().filter(|head| head.len() >= 6) else {
                continue;
            };
            let event = zmq::SocketEvent::from_raw(u16::from_ne_bytes([head[0], head[1]]));
            let value = u32::from_ne_bytes([head[2], head[3], head[4], head[5]]);
            if self.is_of_a_stranger(event, value) {
                continue;
            }
            events.push(match event {
                zmq::SocketEvent::CONNECTED => LinkEvent::Reached,
                zmq::SocketEvent::HANDSHAKE_SUCCEEDED => LinkEvent::Up,
                zmq::SocketEvent::DISCONNECTED => LinkEvent::Down,
                zmq::SocketEvent::CLOSED => LinkEvent::Failed,
                zmq::SocketEvent::HANDSHAKE_FAILED_PROTOCOL if value == MECHANISM_MISMATCH => {
                    LinkEvent::OneSided
                }
                zmq::SocketEvent::HANDSHAKE_FAILED_PROTOCOL => LinkEvent::Foreign(
                    "what listens there does not speak ZeroMQ's protocol, or is a socket of another type"
                        .to_owned(),
                ),
                zmq::SocketEvent::HANDSHAKE_FAILED_NO_DETAIL => LinkEvent::Foreign(
                    "what listens there does not answer as ZeroMQ does".to_owned(),
                ),
                zmq::SocketEvent::HANDSHAKE_FAILED_AUTH => LinkEvent::TurnedAway,
                _ => continue,
            });
        }
        events
    }

    /// Whether an event at a bound socket is of somebody else than its peer: anybody may try to connect there, say anything, and go away.
    fn is_of_a_stranger(&self, event: zmq::SocketEvent, value: u32) -> bool {
        if !self.is_bound {
            return false;
        }
        let mut callers = self.callers.borrow_mut();
        match event {
            zmq::SocketEvent::ACCEPTED => callers.came(value),
            zmq::SocketEvent::HANDSHAKE_SUCCEEDED => {
                callers.is_known();
                return false;
            }
            zmq::SocketEvent::DISCONNECTED => return !callers.was_peer(value),
            zmq::SocketEvent::HANDSHAKE_FAILED_PROTOCOL
            | zmq::SocketEvent::HANDSHAKE_FAILED_NO_DETAIL
            | zmq::SocketEvent::HANDSHAKE_FAILED_AUTH => {}
            _ => return false,
        }
        true
    }

    /// Listens at `endpoint`; returns it with its real port.
    pub(crate) fn bind(&mut self, endpoint: &Endpoint) -> Result<Endpoint> {
        let failed = |why: String| Error::Bind {
            endpoint: endpoint.to_string(),
            why,
        };
        let guard = match endpoint {
            Endpoint::Ipc(path) => Some(lock_path(path).map_err(failed)?),
            _ => None,
        };
        self.is_bound = true;
        self.set_guard(endpoint.transport()).map_err(failed)?;
        if endpoint.transport() == Transport::Ipc {
            peer::only_this_user(&mut self.inner);
        }
        self.inner
            .bind(&endpoint.to_bind())
            .map_err(|error| failed(bind_advice(error, endpoint)))?;
        if let Some(mut guard) = guard {
            guard.bound = true;
            // Nobody but this user; the directory is private anyway where the path is ours.
            let _ = std::fs::set_permissions(&guard.path, std::fs::Permissions::from_mode(0o600));
            self.bound.push(guard);
        }
        let last = match self.inner.get_last_endpoint() {
            Ok(Ok(last)) => last,
            _ => return Ok(endpoint.clone()),
        };
        match (endpoint, last.parse::<Endpoint>()) {
            (Endpoint::Tcp { host, .. }, Ok(Endpoint::Tcp { port, .. })) => Ok(Endpoint::Tcp {
                host: host.clone(),
                port,
            }),
            _ => Ok(endpoint.clone()),
        }
    }

    /// Listens at the first free port of `ports`, or at any when there is no range.
    pub(crate) fn bind_in(&mut self, host: &str, ports: Option<(u16, u16)>) -> Result<Endpoint> {
        let at = |port| Endpoint::Tcp {
            host: host.to_owned(),
            port,
        };
        let Some((first, last)) = ports else {
            return self.bind(&at(0));
        };
        self.is_bound = true;
        self.set_guard(Transport::Tcp).map_err(|why| Error::Bind {
            endpoint: at(first).to_string(),
            why,
        })?;
        for port in first..=last {
            match self.inner.bind(&at(port).to_bind()) {
                Ok(()) => return Ok(at(port)),
                Err(zmq::Error::EADDRINUSE) => {}
                Err(error) => {
                    return Err(Error::Bind {
                        endpoint: at(port).to_string(),
                        why: bind_advice(error, &at(port)),
                    });
                }
            }
        }
        Err(Error::Bind {
            endpoint: format!("tcp://{host}:{first}-{last}"),
            why: "every port of --lane-ports (in a program: lane_ports) is in use; give a wider range".to_owned(),
        })
    }

    /// Nobody finds the Unix socket any more that it was bound to; connections stay. A TCP port stays open: `zmq_unbind`
    /// would close the connections that were accepted there as well.
    pub(crate) fn unbind(&mut self, endpoint: &Endpoint) {
        if let Some(path) = endpoint.path() {
            self.bound.retain(|bound| bound.path != path);
        }
    }

    pub(crate) fn connect(&mut self, endpoint: &Endpoint) -> Result<()> {
        let failed = |why: String| Error::Connect {
            endpoint: endpoint.to_string(),
            why,
        };
        self.set_guard(endpoint.transport()).map_err(failed)?;
        self.inner.connect(&endpoint.to_string()).map_err(|error| {
            failed(match error {
                zmq::Error::EINVAL => "the name is not known".to_owned(),
                zmq::Error::ECONNREFUSED => "nobody listens there in this process".to_owned(),
                other => other.message().to_owned(),
            })
        })
    }

    /// Sends now; `false` when that is not possible now (nobody is connected).
    pub(crate) fn send(&self, frame: Vec<u8>) -> bool {
        trace("sent", &frame);
        self.send_by_ring(&frame)
            .unwrap_or_else(|| self.inner.send(frame, zmq::DONTWAIT).is_ok())
    }

    /// Sends by the ring, if that is its way, and what goes before it by the socket.
    fn send_by_ring(&self, frame: &[u8]) -> Option<bool> {
        let mut outgoing = self.outgoing.as_ref()?.borrow_mut();
        loop {
            match outgoing.send(frame) {
                Way::Gone => return Some(true),
                Way::Socket => return None,
                Way::SocketBehind(offer) => {
                    // If it does not go nobody accepts it.
                    let _ = self.inner.send(offer, zmq::DONTWAIT);
                    return None;
                }
                Way::RingBehind(switch) => {
                    if self.inner.send(switch, zmq::DONTWAIT).is_err() {
                        return Some(false);
                    }
                    outgoing.switched();
                }
            }
        }
    }

    /// As [`Socket::send`], of borrowed bytes.
    pub(crate) fn send_slice(&self, frame: &[u8]) -> bool {
        self.send_by_ring(frame)
            .unwrap_or_else(|| self.inner.send(frame, zmq::DONTWAIT).is_ok())
    }

    /// The next frame as it came, if one is there.
    pub(crate) fn recv_frame(&self) -> Option<Frame> {
        let Some(incoming) = &self.incoming else {
            return self.recv_message().map(Frame::Message);
        };
        let mut incoming = incoming.borrow_mut();
        let Arrivals {
            rings,
            waits,
            in_a_row,
        } = &mut *incoming;
        // Now and then the socket comes first, however much comes by rings.
        if *in_a_row >= IN_A_ROW && waits.is_none() {
            *in_a_row = 0;
            while let Some(message) = self.recv_message() {
                if let Heard::Frame = rings.hear(&message) {
                    *waits = Some(message);
                    rings.mark();
                    break;
                }
            }
        }
        loop {
            // What the rings had when a frame came from the socket was sent before it.
            let frame = match waits {
                Some(_) => rings.pop_marked(),
                None => rings.pop(),
            };
            if let Some(frame) = frame {
                *in_a_row += 1;
                return Some(Frame::Memory(frame));
            }
            if let Some(message) = waits.take() {
                return Some(Frame::Message(message));
            }
            let message = self.recv_message()?;
            if let Heard::Frame = rings.hear(&message) {
                *waits = Some(message);
                rings.mark();
            }
        }
    }

    fn recv_message(&self) -> Option<zmq::Message> {
        loop {
            let message = self.inner.recv_msg(zmq::DONTWAIT).ok()?;
            if message.get_more() {
                // No message of ours has several frames.
                while self.inner.get_rcvmore().unwrap_or(false) {
                    let _ = self.inner.recv_msg(zmq::DONTWAIT);
                }
                continue;
            }
            return Some(message);
        }
    }

    /// Whether a frame is there, and whether a PAIR has its peer: without a high-water mark it can be written while it has. As
    /// every call, this takes notice of changes: whoever is told that a frame is there must fetch it, for
    /// [`Socket::changes`] will not tell again.
    pub(crate) fn has_frame_and_peer(&self) -> (bool, bool) {
        let (has_message, has_peer) = self.inner.get_events().map_or((false, false), |events| {
            (events.contains(zmq::POLLIN), events.contains(zmq::POLLOUT))
        });
        (has_message || self.has_arrivals(), has_peer)
    }

    /// Whether there is a frame that came by a ring, or that waits for those.
    fn has_arrivals(&self) -> bool {
        let incoming = self.incoming.as_ref().map(RefCell::borrow);
        incoming.is_some_and(|incoming| incoming.waits.is_some() || incoming.rings.has_some())
    }

    /// How many rings have become active so far: who sleeps by an older lookout does not look at the newest.
    pub(crate) fn switches(&self) -> u64 {
        let incoming = self.incoming.as_ref().map(RefCell::borrow);
        incoming.map_or(0, |incoming| incoming.rings.switches())
    }

    /// What a thread that is about to sleep looks at for a moment, and tells that it sleeps.
    pub(crate) fn lookout(&self) -> Lookout {
        let incoming = self.incoming.as_ref().map(RefCell::borrow);
        incoming.map_or_else(Lookout::default, |incoming| incoming.rings.lookout())
    }

    /// To be said behind a sleep on [`Socket::ring_changes`]; `woken`: the descriptor was readable.
    pub(crate) fn rise(&self, woken: bool) {
        if let Some(incoming) = &self.incoming {
            let mut incoming = incoming.borrow_mut();
            incoming.rings.rise();
            if woken {
                incoming.rings.woken();
            }
        }
    }

    /// Readable when somebody who sleeps is to look at the rings.
    pub(crate) fn ring_changes(&self) -> Option<BorrowedFd<'_>> {
        let incoming = self.incoming.as_ref()?.borrow();
        let descriptor = incoming.rings.changes()?.as_raw_fd();
        // SAFETY: the descriptor is open for as long as the socket, which is borrowed for as long as the answer.
        Some(unsafe { BorrowedFd::borrow_raw(descriptor) })
    }

    /// Readable when something may have changed for the socket since it was last asked for a frame and had none. It tells of
    /// changes only: whoever has asked has been told.
    pub(crate) fn changes(&self) -> BorrowedFd<'_> {
        changes(&self.inner)
    }

    /// The same for [`Socket::link_events`].
    pub(crate) fn link_changes(&self) -> Option<BorrowedFd<'_>> {
        self.monitor.as_ref().map(changes)
    }

    /// Sends to one peer of a ROUTER; `false` when it is gone.
    pub(crate) fn send_to(&self, to: &[u8], frame: Vec<u8>) -> bool {
        trace("sent", &frame);
        self.inner
            .send(to, zmq::DONTWAIT | zmq::SNDMORE)
            .and_then(|()| self.inner.send(frame, zmq::DONTWAIT))
            .is_ok()
    }

    /// The next frame, if one is there.
    pub(crate) fn recv(&self) -> Option<Bytes> {
        let frame = self.recv_frame()?;
        trace("received", &frame);
        Some(match frame {
            Frame::Message(message) => to_bytes(message),
            Frame::Memory(bytes) => bytes.into(),
        })
    }

    /// The next frame, and whose process has sent it where that is another user's; meaningless but by `ipc`.
    pub(crate) fn recv_and_user(&self) -> Option<(Bytes, Option<u32>)> {
        let frame = self.recv_frame()?;
        trace("received", &frame);
        Some(match frame {
            Frame::Message(mut message) => {
                let user = message.gets("Peer-Address").and_then(peer::other_user);
                (to_bytes(message), user)
            }
            Frame::Memory(bytes) => (bytes.into(), None),
        })
    }

    /// The next frame of a ROUTER: who sent it, the address it came from, and the frame.
    pub(crate) fn recv_from(&self) -> Option<(Vec<u8>, Option<String>, Bytes)> {
        loop {
            let from = self.inner.recv_bytes(zmq::DONTWAIT).ok()?;
            let mut frame = None;
            let mut frames = 0;
            while self.inner.get_rcvmore().unwrap_or(false) {
                frame = self.inner.recv_msg(zmq::DONTWAIT).ok();
                frames += 1;
            }
            if let (Some(mut message), 1) = (frame, frames) {
                trace("received", &message);
                let address = message.gets("Peer-Address").map(str::to_owned);
                return Some((from, address, to_bytes(message)));
            }
        }
    }
}

/// Level trace: each frame, by the number of its kind.
fn trace(what: &str, frame: &[u8]) {
    if log::log_enabled!(log::Level::Trace) {
        // Behind the array's head: one byte, or three.
        let at = if frame.first() == Some(&0xdc) { 3 } else { 1 };
        let kind = frame.get(at).copied().unwrap_or_default();
        log::trace!("{what} a frame of kind {kind}, {} bytes", frame.len());
    }
}

/// Small frames are copied, so that a slice that outlives its message keeps little; large ones are shared.
fn to_bytes(message: zmq::Message) -> Bytes {
    if message.len() < 1024 {
        Bytes::copy_from_slice(&message)
    } else {
        Bytes::from_owner(Owned(message))
    }
}

/// The monitors of sockets that were dropped, and that libzmq has not given up yet.
static LEFT: Mutex<Vec<zmq::Socket>> = Mutex::new(Vec::new());

/// The next event of a monitor, with its value.
fn next_event(monitor: &zmq::Socket) -> Option<(zmq::SocketEvent, u32)> {
    let parts = monitor.recv_multipart(zmq::DONTWAIT).ok()?;
    let &[a, b, c, d, e, f] = parts.first()?.first_chunk::<6>()?;
    let event = zmq::SocketEvent::from_raw(u16::from_ne_bytes([a, b]));
    Some((event, u32::from_ne_bytes([c, d, e, f])))
}

/// Sleeps until a monitor has something to tell, or it is so late.
fn wait_for_event(monitor: &zmq::Socket, until: Instant) {
    let left = until.saturating_duration_since(Instant::now());
    let millis = i64::try_from(left.as_millis()).unwrap_or(i64::MAX);
    let _ = monitor.poll(zmq::POLLIN, millis.max(1));
}

/// A received frame.
pub(crate) enum Frame {
    /// In ZeroMQ's own memory.
    Message(zmq::Message),
    /// As it came by a ring.
    Memory(Vec<u8>),
}

impl std::ops::Deref for Frame {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Message(message) => message,
            Self::Memory(bytes) => bytes,
        }
    }
}

fn changes(socket: &zmq::Socket) -> BorrowedFd<'_> {
    // SAFETY: libzmq keeps the descriptor open as long as the socket, which is borrowed for as long as the answer.
    unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) }
}

struct Owned(zmq::Message);

impl AsRef<[u8]> for Owned {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

fn to_io(error: zmq::Error) -> io::Error {
    match error.to_raw() {
        raw if raw > 0 && raw < 4096 => io::Error::from_raw_os_error(raw),
        _ => io::Error::other(error.message()),
    }
}

fn bind_advice(error: zmq::Error, endpoint: &Endpoint) -> String {
    match error {
        zmq::Error::EADDRINUSE => {
            "address in use; stop the program that listens there, or choose another".to_owned()
        }
        zmq::Error::EADDRNOTAVAIL | zmq::Error::ENODEV => format!(
            "{} is no address of this machine",
            endpoint.host().unwrap_or_default()
        ),
        zmq::Error::EACCES => "permission denied; ports below 1024 need a privilege".to_owned(),
        zmq::Error::ENOENT => "its directory does not exist".to_owned(),
        other => other.message().to_owned(),
    }
}

const IN_USE: &str = "address in use; stop the program that listens there, or choose another path";

/// libzmq takes an `ipc` path over from whoever listens there, so "in use" has to come from a lock beside it.
fn lock_path(path: &std::path::Path) -> std::result::Result<BoundPath, String> {
    let mut lock_path = path.as_os_str().to_owned();
    lock_path.push(".lock");
    let lock_path = PathBuf::from(lock_path);
    if let Some(parent) = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        && !parent.is_dir()
    {
        return Err(format!("{} is not a directory", parent.display()));
    }
    const TIMES: u32 = 16;
    for time in 1..=TIMES {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock_path)
            .map_err(|error| format!("{}: {error}", lock_path.display()))?;
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            // Who removes what a killed program left holds it for a moment, too.
            Err(rustix::io::Errno::WOULDBLOCK) if time < TIMES => {
                std::thread::sleep(Duration::from_millis(5));
                continue;
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(IN_USE.to_owned());
            }
            Err(error) => return Err(format!("{}: {error}", lock_path.display())),
        }
        // Its last holder may have removed it between our opening and our locking.
        use std::os::unix::fs::MetadataExt;
        let same = match (file.metadata(), std::fs::metadata(&lock_path)) {
            (Ok(ours), Ok(there)) => ours.ino() == there.ino() && ours.dev() == there.dev(),
            _ => false,
        };
        if !same {
            continue;
        }
        let guard = BoundPath {
            path: path.to_owned(),
            bound: false,
            _lock: file,
            lock_path,
        };
        return match std::fs::symlink_metadata(path) {
            Ok(there) if !there.file_type().is_socket() => {
                Err("there is a file of that name that is not a socket".to_owned())
            }
            // Who listens there need not be one of us, and have no lock.
            Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => {
                Err(IN_USE.to_owned())
            }
            _ => Ok(guard),
        };
    }
    Err("address in use".to_owned())
}

/// Waits until one of the sockets has something to read, `waker` was woken, or `timeout` has passed; the answer has, for each
/// socket, whether it has a message, and whether its monitor has.
pub(crate) fn poll(
    sockets: &[&Socket],
    waker: &Waker,
    timeout: Duration,
) -> Result<Vec<(bool, bool)>> {
    thread_local! {
        static SPIN: RefCell<Spin> = const { RefCell::new(Spin::new()) };
    }
    let mut timeout = timeout;
    let mut lookout = Lookout::default();
    if sockets.iter().any(|socket| socket.has_arrivals()) {
        timeout = Duration::ZERO;
    } else {
        for socket in sockets {
            lookout.join(socket.lookout());
        }
    }
    if !lookout.is_empty() && !timeout.is_zero() {
        let sees_some = || lookout.sees_some() || waker.is_told();
        if SPIN.with_borrow_mut(|spin| spin.until(sees_some)) || !lookout.doze() {
            timeout = Duration::ZERO;
        }
    }
    let mut items = Vec::with_capacity(sockets.len() * 3 + 1);
    items.push(zmq::PollItem::from_fd(waker.raw_fd(), zmq::POLLIN));
    for socket in sockets {
        items.push(socket.inner.as_poll_item(zmq::POLLIN));
        if let Some(changes) = socket.ring_changes() {
            items.push(zmq::PollItem::from_fd(changes.as_raw_fd(), zmq::POLLIN));
        }
        if let Some(monitor) = &socket.monitor {
            items.push(monitor.as_poll_item(zmq::POLLIN));
        }
    }
    // Rounded up, or a deadline less than a millisecond away would be polled for without sleeping.
    let millis = timeout.as_nanos().div_ceil(1_000_000);
    match zmq::poll(&mut items, i64::try_from(millis).unwrap_or(i64::MAX)) {
        Ok(_) | Err(zmq::Error::EINTR) => {}
        Err(error) => return Err(Error::system("cannot wait for messages", to_io(error))),
    }
    if items[0].is_readable() {
        waker.hear();
    }
    let mut at = 1;
    let mut ready = Vec::with_capacity(sockets.len());
    for socket in sockets {
        let readable = items[at].is_readable();
        at += 1;
        if socket.ring_changes().is_some() {
            socket.rise(items[at].is_readable());
            at += 1;
        }
        let readable = readable || socket.has_arrivals();
        let watched = socket.monitor.is_some() && {
            at += 1;
            items[at - 1].is_readable()
        };
        ready.push((readable, watched));
    }
    Ok(ready)
}
