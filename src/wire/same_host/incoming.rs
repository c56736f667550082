//! The receiver's side: the rings of those who send to a socket, and what its poll sleeps on besides.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::pipe::{PipeFlags, pipe_with};

use super::memory::{Shared, State, VERSION};
use super::ring::{Found, Memory, Reader};
use super::{MARK, OFFER, SWITCH, is_on, is_spare};

/// How long the word that a dead writer has switched to its ring may take.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Incoming {
    rings: Vec<Ring>,
    /// Readable when a sleeping reader is woken, or a writer is gone; none: no ring is accepted.
    epoll: Option<OwnedFd>,
    /// The ring that comes first.
    next: usize,
    /// Counts the rings that became active: whoever sleeps does not look at those that came later.
    switches: u64,
}

struct Ring {
    number: u64,
    reader: Reader<Shared>,
    pipe: OwnedFd,
    /// Until the writer has it, so that the pipe does not seem to be closed.
    write_end: Option<OwnedFd>,
    /// Frames come by it.
    active: bool,
    writer: u32,
    /// Since when its writer is gone.
    over_since: Option<Instant>,
    /// It makes no sense.
    is_broken: bool,
    /// What was there when a frame came from the socket goes before that: up to this position.
    before: u64,
}

impl Ring {
    /// Whether something may still come by it.
    fn is_wanted(&self) -> bool {
        if self.write_end.is_some() {
            // Writers that have closed, or were killed, before they joined have no pipe by which to tell.
            let pid = rustix::process::Pid::from_raw(self.writer as i32);
            let is_dead = |pid| {
                let sent = rustix::process::test_kill_process(pid);
                sent == Err(rustix::io::Errno::SRCH)
            };
            return self.reader.memory().state() != State::Closed && !pid.is_some_and(is_dead);
        }
        let Some(since) = self.over_since else {
            return true;
        };
        // What the writer has left is read first. The word that it is there may still be in the socket, or have died with it.
        !self.reader.is_empty() && !self.is_broken && (self.active || since.elapsed() < PATIENCE)
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if self.write_end.is_some() {
            self.reader.memory().set_state(State::Closed);
        }
    }
}

/// What a frame from the socket is.
pub(crate) enum Heard {
    /// One of the protocol above.
    Frame,
    /// It was for us.
    Ours,
}

impl Incoming {
    pub(crate) fn new() -> Self {
        Self {
            rings: Vec::new(),
            epoll: is_on()
                .then(|| epoll::create(CreateFlags::CLOEXEC).ok())
                .flatten(),
            next: 0,
            switches: 0,
        }
    }

    /// What to sleep on.
    pub(crate) fn changes(&self) -> Option<BorrowedFd<'_>> {
        self.epoll.as_ref().map(AsFd::as_fd)
    }

    /// Looks at a frame from the socket.
    pub(crate) fn hear(&mut self, frame: &[u8]) -> Heard {
        let Some((&[MARK, kind], rest)) = frame.split_first_chunk() else {
            return Heard::Frame;
        };
        match kind {
            OFFER => {
                if let Err(error) = self.accept(rest) {
                    log::debug!("no ring for a connection: {error}");
                }
            }
            SWITCH => {
                let number = rest.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
                let mut rings = self.rings.iter_mut();
                match rings.find(|ring| Some(ring.number) == number) {
                    Some(ring) if ring.is_broken => {}
                    Some(ring) => {
                        ring.active = true;
                        ring.write_end = None;
                        self.switches += 1;
                    }
                    None => log::warn!("a peer switches to a ring that is not there"),
                }
            }
            _ => log::warn!("ignored a frame of the same-host path of kind {kind}"),
        }
        Heard::Ours
    }

    fn accept(&mut self, offer: &[u8]) -> io::Result<()> {
        let Some(epoll) = &self.epoll else {
            return Err(io::Error::other("none is accepted here"));
        };
        let read = |at: usize| {
            let bytes = offer.get(at..)?.first_chunk()?;
            Some(u32::from_le_bytes(*bytes))
        };
        let number = offer.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
        let (Some(number), Some(process), Some(fd), Some(size), Some(&VERSION)) =
            (number, read(8), read(12), read(16), offer.get(20))
        else {
            return Err(io::Error::other("an offer of another version"));
        };
        self.rings.retain(Ring::is_wanted);
        if self.rings.iter().any(|ring| ring.number == number) {
            return Err(io::Error::other("it was offered before"));
        }
        let memory = Shared::open(process, fd, size, number)?;
        let (pipe, write_end) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        if !is_spare(&write_end) {
            return Err(io::Error::other("too few descriptors are left"));
        }
        let data = EventData::new_u64(number);
        epoll::add(epoll, &pipe, data, EventFlags::IN)?;
        memory.set_reader(std::process::id(), write_end.as_raw_fd() as u32);
        memory.set_state(State::Accepted);
        self.rings.push(Ring {
            number,
            reader: Reader::new(memory),
            pipe,
            write_end: Some(write_end),
            active: false,
            writer: process,
            over_since: None,
            is_broken: false,
            before: 0,
        });
        Ok(())
    }

    /// The next frame of a ring.
    pub(crate) fn pop(&mut self) -> Option<Vec<u8>> {
        self.pop_where(|_| true)
    }

    /// What is in the rings now goes before what the socket gives next.
    pub(crate) fn mark(&mut self) {
        for ring in &mut self.rings {
            ring.before = ring.reader.end();
        }
    }

    /// The next frame that was there at the mark.
    pub(crate) fn pop_marked(&mut self) -> Option<Vec<u8>> {
        self.pop_where(|ring| ring.reader.at() < ring.before)
    }

    fn pop_where(&mut self, counts: impl Fn(&Ring) -> bool) -> Option<Vec<u8>> {
        let count = self.rings.len();
        for step in 0..count {
            let at = (self.next + step) % count;
            let ring = &mut self.rings[at];
            if !ring.active || !counts(ring) {
                continue;
            }
            match ring.reader.pop() {
                Found::Frame(frame) => {
                    self.next = at + 1;
                    return Some(frame);
                }
                Found::Back => ring.active = false,
                Found::Nothing => {}
                Found::Nonsense => {
                    log::warn!(
                        "what process {} has written into its ring makes no sense; it is closed",
                        ring.writer
                    );
                    ring.active = false;
                    ring.is_broken = true;
                    ring.reader.memory().set_state(State::Closed);
                }
            }
        }
        None
    }

    /// How many rings have become active so far.
    pub(crate) const fn switches(&self) -> u64 {
        self.switches
    }

    /// Whether there is a frame.
    pub(crate) fn has_some(&self) -> bool {
        let mut rings = self.rings.iter();
        rings.any(|ring| ring.active && !ring.reader.is_empty())
    }

    /// What a thread that polls looks at, without this; nothing when no frames come by rings at present.
    pub(crate) fn lookout(&self) -> Lookout {
        let rings = self.rings.iter().filter(|ring| ring.active);
        Lookout(
            rings
                .map(|ring| (ring.reader.memory().clone(), ring.reader.at()))
                .collect(),
        )
    }

    /// Says that it does not.
    pub(crate) fn rise(&self) {
        for ring in &self.rings {
            ring.reader.rise();
        }
    }

    /// Takes notice of wake-ups, and lets go of rings whose writers are gone and that are empty.
    pub(crate) fn woken(&mut self) {
        let mut events = [const {
            epoll::Event {
                flags: EventFlags::empty(),
                data: EventData::new_u64(0),
            }
        }; 16];
        let Some(epoll) = &self.epoll else {
            return;
        };
        let Ok(count) = epoll::wait(epoll, &mut events[..], Some(&Default::default())) else {
            return;
        };
        for event in &events[..count] {
            let number = event.data.u64();
            let flags = event.flags;
            let Some(at) = self.rings.iter().position(|ring| ring.number == number) else {
                continue;
            };
            let ring = &mut self.rings[at];
            let mut bytes = [0; 64];
            let read = rustix::io::read(&ring.pipe, &mut bytes);
            if matches!(read, Ok(0)) || flags.contains(EventFlags::HUP) {
                ring.over_since = Some(Instant::now());
                let _ = epoll::delete(epoll, &ring.pipe);
            }
        }
        self.rings.retain(Ring::is_wanted);
    }
}

/// The rings of a thread that polls.
#[derive(Default)]
pub(crate) struct Lookout(Vec<(Shared, u64)>);

impl Lookout {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn join(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Says that the reader sleeps; whether it may.
    pub(crate) fn doze(&self) -> bool {
        let mut rings = self.0.iter();
        rings.all(|(memory, at)| super::ring::doze(memory, *at))
    }

    /// Whether something has come.
    pub(crate) fn sees_some(&self) -> bool {
        let mut rings = self.0.iter();
        rings.any(|(memory, at)| memory.written(Ordering::Relaxed) != *at)
    }
}
