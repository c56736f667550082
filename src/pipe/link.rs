//! The connection of an end, from «not used» to «over»: how it is made, kept, lost and made again (docs/pipe.md). Everything
//! here happens under the end's lock, by whichever thread is there.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::folder::{Folder, Lock, Side};
use super::frame::{
    BEGIN, CLOSE, HELLO, Head, Key, PART, TAKEN, WELCOME, greeted, greeting, number, numbered,
    weight,
};
use super::inbox::{Arrived, Inbox};
use super::poller::{Poller, Ready};
use super::spool;
use crate::error::Result;
use crate::wire::access::Client;
use crate::wire::endpoint::Endpoint;
use crate::wire::same_host::{self, Lookout};
use crate::wire::socket::{Frame, Kind, Socket};

/// So many bytes may be under way.
pub(super) const WINDOW: u64 = 4 << 20;
/// So many are taken before the other end is told.
const TELL: u64 = 1 << 20;
/// How often a sender that never waits looks whether the other end is still there.
const GLANCE: Duration = Duration::from_millis(1);
/// The pauses between two looks at who holds the other side.
const SHORTEST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_millis(50);
/// How long closing waits for the kernel to take what was sent.
const LINGER: Duration = Duration::from_secs(10);

/// How the two ends find one another.
pub(super) enum Meeting {
    /// In a pipe's folder.
    Folder { folder: Folder, side: Side },
    /// They have found one another, once and for all.
    Visit,
}

pub(super) enum State {
    /// No call has needed the other end yet.
    Unused,
    /// In use, without a connection.
    Apart(Apart),
    Joined(Joined),
    /// Nobody holds the other side.
    Over,
    /// Nobody holds this side in this process.
    Closed,
}

pub(super) struct Apart {
    /// Bound, or connected and not welcomed yet.
    socket: Option<Socket>,
    pause: Duration,
}

pub(super) struct Joined {
    pub(super) socket: Socket,
    /// Which of this end's connections it is.
    pub(super) number: u64,
    /// It was bound here: what its monitor tells may be about strangers.
    is_bound: bool,
    sent: u64,
    /// How much of that the other program has taken in.
    sent_taken: u64,
    taken: u64,
    /// How much of that the other end was told.
    taken_told: u64,
    glanced: Instant,
}

impl Joined {
    pub(super) fn new(socket: Socket, number: u64, is_bound: bool) -> Self {
        Self {
            socket,
            number,
            is_bound,
            sent: 0,
            sent_taken: 0,
            taken: 0,
            taken_told: 0,
            glanced: Instant::now(),
        }
    }

    pub(super) const fn has_room(&self) -> bool {
        self.sent.saturating_sub(self.sent_taken) < WINDOW
    }

    pub(super) fn send(&mut self, frame: &[u8]) -> bool {
        let sent = self.socket.send_slice(frame);
        if sent {
            self.sent += weight(frame);
        }
        sent
    }

    /// Whether it is time to look at the socket, though nobody waits for it.
    pub(super) fn is_glance_due(&mut self) -> bool {
        let now = Instant::now();
        let due = now.duration_since(self.glanced) > GLANCE;
        if due {
            self.glanced = now;
        }
        due
    }

    fn took(&mut self, frame: &[u8]) {
        self.taken += weight(frame);
        if self.taken - self.taken_told >= TELL {
            self.taken_told = self.taken;
            self.socket.send_slice(&numbered(TAKEN, self.taken));
        }
    }
}

pub(super) struct Link {
    pub(super) state: State,
    pub(super) inbox: Inbox,
    meeting: Arc<Meeting>,
    poller: Option<Arc<Poller>>,
    hold: Option<Lock>,
    claim: Option<Lock>,
    connections: u64,
    /// The other side may not have noticed the connection yet, and leave messages in the folder.
    awaits_begin: bool,
    /// Counts what may concern who waits: frames that arrived, connections that came and went.
    pub(super) changes: u64,
}

impl Link {
    pub(super) fn unused(meeting: Arc<Meeting>, hold: Option<Lock>) -> Self {
        Self {
            state: State::Unused,
            inbox: Inbox::default(),
            meeting,
            poller: None,
            hold,
            claim: None,
            connections: 0,
            awaits_begin: false,
            changes: 0,
        }
    }

    /// A link that has its connection already.
    pub(super) fn joined(socket: Socket, is_bound: bool, poller: Arc<Poller>) -> Result<Self> {
        poller.include(&socket).map_err(cannot_wait)?;
        let mut link = Self::unused(Arc::new(Meeting::Visit), None);
        link.poller = Some(poller);
        link.state = State::Joined(Joined::new(socket, 0, is_bound));
        Ok(link)
    }

    /// Uses the end, if this process does not yet.
    pub(super) fn begin(&mut self, poller: &Arc<Poller>) -> Result<()> {
        if !matches!(self.state, State::Unused) {
            return Ok(());
        }
        if let Meeting::Folder { folder, side } = &*self.meeting {
            self.claim = Some(folder.claim(*side)?);
        }
        self.poller = Some(Arc::clone(poller));
        self.apart();
        Ok(())
    }

    /// Without a connection, from now on: drops the one there was, and looks who is there.
    fn apart(&mut self) {
        self.changes += 1;
        self.awaits_begin = false;
        self.inbox.cut();
        self.state = match &*self.meeting {
            Meeting::Folder { .. } => State::Apart(Apart {
                socket: None,
                pause: SHORTEST,
            }),
            Meeting::Visit => State::Over,
        };
        self.look();
    }

    /// Looks who holds the other side, what they have left, and whether they can be met. Only without a connection.
    fn look(&mut self) {
        let State::Apart(_) = &self.state else {
            return;
        };
        let meeting = Arc::clone(&self.meeting);
        let Meeting::Folder { folder, side } = &*meeting else {
            return;
        };
        self.take_spool(folder, *side);
        match folder.is_held(side.other()) {
            Ok(false) => {
                // They may have left something between the two looks, but nobody can now.
                self.take_spool(folder, *side);
                if let Some(poller) = &self.poller {
                    poller.disarm();
                }
                self.state = State::Over;
                self.changes += 1;
                return;
            }
            Ok(true) => {}
            // It may be better at the next look; until then nobody is declared gone.
            Err(error) => log::warn!("cannot look at {}: {error}", folder.path().display()),
        }
        let State::Apart(apart) = &mut self.state else {
            return;
        };
        let mut is_new = false;
        if apart.socket.is_none() {
            match open(folder, *side) {
                Ok(socket) => {
                    if let (Some(poller), Some(socket)) = (&self.poller, &socket)
                        && let Err(error) = poller.include(socket)
                    {
                        log::warn!("{}", cannot_wait(error));
                    }
                    is_new = socket.is_some();
                    apart.socket = socket;
                }
                Err(error) => log::warn!("{}: {error}", folder.path().display()),
            }
        }
        let pause = apart.pause;
        apart.pause = (pause * 2).min(LONGEST);
        if let Some(poller) = &self.poller {
            poller.arm(pause);
        }
        if is_new {
            // ZeroMQ tells of changes to those who have found nothing.
            self.attend(Ready::ALL);
        }
    }

    /// The other side has a connection and has not noticed: its program does not use the pipe at this moment. What it has left in the
    /// folder meanwhile is looked for from time to time.
    fn look_again(&mut self) {
        let meeting = Arc::clone(&self.meeting);
        if let Meeting::Folder { folder, side } = &*meeting {
            self.take_spool(folder, *side);
        }
        if let Some(poller) = &self.poller {
            poller.arm(LONGEST);
        }
    }

    fn take_spool(&mut self, folder: &Folder, side: Side) {
        match spool::take(&folder.spool(side.other())) {
            Ok(frames) => {
                self.changes += frames.len() as u64;
                self.inbox.push_spooled(frames);
            }
            Err(error) => log::warn!("cannot read from {}: {error}", folder.path().display()),
        }
    }

    /// Keeps a frame for the other side in the folder; `false` when there is no room.
    pub(super) fn leave(&mut self, frame: &[u8]) -> bool {
        let Meeting::Folder { folder, side } = &*self.meeting else {
            return false;
        };
        match spool::append(&folder.spool(*side), frame) {
            Ok(kept) => kept,
            Err(error) => {
                log::warn!(
                    "cannot keep a message in {}: {error}",
                    folder.path().display()
                );
                false
            }
        }
    }

    /// Takes in what there is.
    pub(super) fn attend(&mut self, ready: Ready) {
        if let Some(socket) = self.socket() {
            socket.rise(ready.rung);
        }
        if ready.socket || ready.monitor || ready.rings {
            while self.fetch() {}
        }
        if ready.timer && self.awaits_begin {
            self.look_again();
        } else if ready.timer {
            self.look();
        }
        let gone = match &mut self.state {
            State::Joined(joined) => {
                if joined.is_bound {
                    // Either may be known first, and the news is told once.
                    let is_down = ready.monitor
                        && (joined.socket.link_events())
                            .contains(&crate::wire::socket::LinkEvent::Down);
                    is_down || ((ready.socket || ready.monitor) && self.has_lost_peer())
                } else {
                    ready.monitor && is_lost(&joined.socket)
                }
            }
            State::Apart(apart) => {
                let lost = ready.monitor && apart.socket.as_ref().is_some_and(is_lost);
                if lost {
                    // Whoever came, or was there, is gone again.
                    apart.socket = None;
                }
                false
            }
            _ => false,
        };
        if gone {
            // What the kernel had was given to us before it said so, but perhaps not before we asked last.
            while self.fetch() {}
            if matches!(self.state, State::Joined(_)) {
                self.apart();
            }
        }
    }

    /// Whether the peer of a bound socket is gone.
    fn has_lost_peer(&mut self) -> bool {
        loop {
            let State::Joined(joined) = &self.state else {
                return false;
            };
            match joined.socket.has_frame_and_peer() {
                (true, _) => self.fetch(),
                (false, has_peer) => return !has_peer,
            };
        }
    }

    fn socket(&self) -> Option<&Socket> {
        match &self.state {
            State::Joined(joined) => Some(&joined.socket),
            State::Apart(apart) => apart.socket.as_ref(),
            _ => None,
        }
    }

    /// What is looked at before a sleep.
    pub(super) fn lookout(&self) -> Lookout {
        self.socket().map_or_else(Lookout::default, Socket::lookout)
    }

    /// Who sleeps by a lookout of another number does not see all that may come.
    pub(super) fn lookout_number(&self) -> (u64, u64) {
        let switches = self.socket().map_or(0, Socket::switches);
        (self.connections, switches)
    }

    /// Takes one frame off the socket, if one is there.
    pub(super) fn fetch(&mut self) -> bool {
        let Some(frame) = self.socket().and_then(Socket::recv_frame) else {
            return false;
        };
        self.arrive(frame);
        true
    }

    fn arrive(&mut self, frame: Frame) {
        self.changes += 1;
        let kind = frame.first().copied();
        match &mut self.state {
            State::Joined(joined) => match kind {
                Some(TAKEN) if let Some(total) = number(&frame[1..]) => {
                    joined.sent_taken = joined.sent_taken.max(total.min(joined.sent));
                }
                Some(CLOSE) => self.apart(),
                Some(BEGIN) => {
                    let meeting = Arc::clone(&self.meeting);
                    if let Meeting::Folder { folder, side } = &*meeting {
                        self.take_spool(folder, *side);
                    }
                    self.awaits_begin = false;
                    if let Some(poller) = &self.poller {
                        poller.disarm();
                    }
                }
                _ => self.inbox.push(Arrived::on(joined.number, frame)),
            },
            State::Apart(_) => self.meet(&frame),
            _ => {}
        }
    }

    /// HELLO or WELCOME.
    fn meet(&mut self, frame: &[u8]) {
        let meeting = Arc::clone(&self.meeting);
        let Meeting::Folder { folder, side } = &*meeting else {
            return;
        };
        let is_bound = *side == Side::Zero;
        let expected = match side {
            Side::Zero => folder.key() == greeted(HELLO, frame),
            Side::One => *frame == [WELCOME],
        };
        let State::Apart(apart) = &mut self.state else {
            return;
        };
        let Some(socket) = apart.socket.take() else {
            return;
        };
        if !expected {
            log::warn!(
                "{}: the other end does not speak this version of the protocol; both must be built with the same one",
                folder.path().display()
            );
            return;
        }
        self.connections += 1;
        let answer = if is_bound { WELCOME } else { BEGIN };
        socket.send_slice(&[answer]);
        self.state = State::Joined(Joined::new(socket, self.connections, is_bound));
        self.awaits_begin = is_bound;
        if let Some(poller) = &self.poller {
            if is_bound {
                poller.arm(SHORTEST);
            } else {
                poller.disarm();
            }
        }
        self.take_spool(folder, *side);
    }

    /// The program has taken this frame in.
    pub(super) fn took(&mut self, frame: &Arrived) {
        if let State::Joined(joined) = &mut self.state
            && frame.connection == Some(joined.number)
        {
            joined.took(frame);
        }
    }

    /// Takes it all apart; the answer is to be [`Closing::finish`]ed without the lock.
    pub(super) fn close(&mut self) -> Closing {
        // Before CLOSE is said, so that whoever hears it sees that this process holds the side no more.
        self.hold = None;
        let state = std::mem::replace(&mut self.state, State::Closed);
        self.inbox = Inbox::default();
        if let Some(poller) = &self.poller {
            poller.disarm();
        }
        Closing {
            joined: match state {
                State::Joined(joined) => Some(joined),
                _ => None,
            },
            claim: self.claim.take(),
            meeting: Arc::clone(&self.meeting),
        }
    }
}

/// An end on its way out.
pub(super) struct Closing {
    joined: Option<Joined>,
    claim: Option<Lock>,
    meeting: Arc<Meeting>,
}

impl Closing {
    pub(super) fn finish(self) {
        if let Some(Joined {
            socket, is_bound, ..
        }) = self.joined
        {
            socket.send_slice(&[CLOSE]);
            let since = Instant::now();
            if !socket.close_within(LINGER, !is_bound) && since.elapsed() >= LINGER {
                log::warn!(
                    "what was sent last on a pipe may be lost: the other process did not take it for {} s",
                    LINGER.as_secs()
                );
            }
        }
        drop(self.claim);
        if let Meeting::Folder { folder, .. } = &*self.meeting {
            folder.remove_if_abandoned();
        }
    }
}

/// A new socket for a side: bound and announced, or on its way; none when there is nobody to go to yet.
fn open(folder: &Folder, side: Side) -> Result<Option<Socket>> {
    match side {
        Side::Zero => {
            let path = folder.new_socket();
            let endpoint = Endpoint::Ipc(path.clone());
            let mut socket = pair(&endpoint)?.monitored()?;
            socket.bind(&endpoint)?;
            folder
                .publish(&path)
                .map_err(|error| folder.failed(error))?;
            Ok(Some(socket))
        }
        Side::One => {
            if !folder.pair().exists() {
                return Ok(None);
            }
            let Some(key) = folder.key() else {
                return Ok(None);
            };
            dial(&Endpoint::Ipc(folder.pair()), &key, None).map(Some)
        }
    }
}

/// A PAIR, whose peer is or will be met at `endpoint`.
pub(super) fn pair(endpoint: &Endpoint) -> Result<Socket> {
    let socket = Socket::new(Kind::Pair)?.taking_rings();
    Ok(socket.offering_rings(endpoint, same_host::LARGE))
}

/// A socket on its way to a PAIR, with HELLO on it.
pub(super) fn dial(endpoint: &Endpoint, key: &Key, client: Option<&Arc<Client>>) -> Result<Socket> {
    let mut socket = pair(endpoint)?.staying_lost().proving(client).monitored()?;
    socket.connect(endpoint)?;
    socket.send(greeting(HELLO, key));
    Ok(socket)
}

pub(super) fn is_lost(socket: &Socket) -> bool {
    // All of them, or the monitor's descriptor would not tell of the next.
    let events = socket.link_events();
    events.iter().any(crate::wire::socket::LinkEvent::is_loss)
}

pub(super) fn cannot_wait(error: std::io::Error) -> crate::error::Error {
    crate::error::Error::system("cannot wait on a pipe", error)
}

/// Whether a frame that arrived can begin a message; PARTs belong to one that has begun.
pub(super) fn head(frame: &[u8]) -> Option<Head> {
    match frame.first() {
        Some(&PART) => None,
        _ => Head::read(frame),
    }
}
