//! The sender's side of a connection: over the socket at first, then by a ring if the receiver takes one.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags};

use super::memory::{Shared, State, VERSION};
use super::ring::{Memory, Writer};
use super::{MARK, OFFER, SWITCH, is_spare};

/// So many frames go before a ring is offered: most connections that carry fewer are closed soon.
const FRAMES_BEFORE: u32 = 16;

/// What decides how a frame goes.
pub(crate) struct Outgoing {
    state: Phase,
    /// Bytes of data that the ring is to have.
    size: u32,
}

enum Phase {
    /// So many frames have gone.
    Young(u32),
    /// The receiver may take it, or not; it is found by the descriptor.
    Offered { ring: Ring, _memory: OwnedFd },
    Joined {
        ring: Ring,
        wake: OwnedFd,
        /// Frames go by the ring.
        active: bool,
        /// The receiver was told so at least once.
        switched: bool,
    },
    /// It will not be.
    Never,
}

struct Ring {
    number: u64,
    writer: Writer<Shared>,
}

/// How a frame goes.
pub(crate) enum Way {
    /// It has gone.
    Gone,
    /// By the socket.
    Socket,
    /// By the socket, and before it this one.
    SocketBehind(Vec<u8>),
    /// By the ring, once the socket has taken this one: ask again.
    RingBehind(Vec<u8>),
}

impl Outgoing {
    pub(crate) const fn new(size: u32) -> Self {
        Self {
            state: Phase::Young(0),
            size,
        }
    }

    /// Sends a frame if it goes by the ring, and says what is to be done if not.
    pub(crate) fn send(&mut self, frame: &[u8]) -> Way {
        match &mut self.state {
            Phase::Joined {
                ring,
                wake,
                active: true,
                ..
            } => {
                let pushed = match ring.writer.takes(frame.len()) {
                    true => ring.writer.push(frame),
                    false => None,
                };
                let (is_asleep, way) = match pushed {
                    Some(is_asleep) => (is_asleep, Way::Gone),
                    None => (ring.writer.push_back(), Way::Socket),
                };
                if is_asleep {
                    // When the pipe is full somebody has been told often enough; when it is closed there is nobody.
                    let _ = rustix::io::write(&*wake, &[1]);
                }
                if let Phase::Joined { active, .. } = &mut self.state {
                    *active = matches!(way, Way::Gone);
                }
                way
            }
            Phase::Joined {
                ring,
                active: false,
                ..
            } => {
                let size = ring.writer.memory().size();
                if ring.writer.takes(frame.len()) && ring.writer.used() <= size / 2 {
                    Way::RingBehind(switch(ring.number))
                } else {
                    Way::Socket
                }
            }
            Phase::Young(sent) if *sent < FRAMES_BEFORE => {
                *sent += 1;
                Way::Socket
            }
            Phase::Young(_) => match offer(self.size) {
                Ok((state, offer)) => {
                    self.state = state;
                    Way::SocketBehind(offer)
                }
                Err(error) => {
                    log::debug!("no shared memory for a connection: {error}");
                    self.state = Phase::Never;
                    Way::Socket
                }
            },
            Phase::Offered { ring, .. } => {
                match ring.writer.memory().state() {
                    State::Offered => {}
                    State::Accepted => self.join(),
                    State::Joined | State::Closed => self.state = Phase::Never,
                }
                Way::Socket
            }
            Phase::Never => Way::Socket,
        }
    }

    /// The socket has taken SWITCH.
    pub(crate) fn switched(&mut self) {
        if let Phase::Joined {
            active, switched, ..
        } = &mut self.state
        {
            *active = true;
            *switched = true;
        }
    }

    fn join(&mut self) {
        let Phase::Offered { ring, .. } = std::mem::replace(&mut self.state, Phase::Never) else {
            return;
        };
        let memory = ring.writer.memory();
        match open_pipe(memory.reader()) {
            Ok(wake) => {
                memory.set_state(State::Joined);
                self.state = Phase::Joined {
                    ring,
                    wake,
                    active: false,
                    switched: false,
                };
            }
            Err(error) => {
                log::debug!("cannot wake who has accepted a ring: {error}");
                memory.set_state(State::Closed);
            }
        }
    }
}

impl Drop for Outgoing {
    /// Who has accepted a ring and was never told to read it would wait for that for ever.
    fn drop(&mut self) {
        match &self.state {
            Phase::Offered { ring, .. }
            | Phase::Joined {
                ring,
                switched: false,
                ..
            } => ring.writer.memory().set_state(State::Closed),
            _ => {}
        }
    }
}

fn offer(size: u32) -> io::Result<(Phase, Vec<u8>)> {
    let number = getrandom::u64().map_err(io::Error::other)?;
    let (memory, fd) = Shared::create(size, number)?;
    if !is_spare(&fd) {
        return Err(io::Error::other("too few descriptors are left"));
    }
    let mut offer = vec![MARK, OFFER];
    offer.extend_from_slice(&number.to_le_bytes());
    offer.extend_from_slice(&std::process::id().to_le_bytes());
    offer.extend_from_slice(&(fd.as_raw_fd() as u32).to_le_bytes());
    offer.extend_from_slice(&size.to_le_bytes());
    offer.push(VERSION);
    let ring = Ring {
        number,
        writer: Writer::new(memory),
    };
    Ok((Phase::Offered { ring, _memory: fd }, offer))
}

fn switch(number: u64) -> Vec<u8> {
    let mut switch = vec![MARK, SWITCH];
    switch.extend_from_slice(&number.to_le_bytes());
    switch
}

fn open_pipe((process, fd): (u32, u32)) -> io::Result<OwnedFd> {
    let path = format!("/proc/{process}/fd/{fd}");
    if !std::fs::read_link(&path)?
        .to_string_lossy()
        .starts_with("pipe:[")
    {
        return Err(io::Error::other("it is no pipe"));
    }
    // For reading, too: so it has a reader for as long as we write, and writing to it is no SIGPIPE when the receiver is gone.
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let pipe = rustix::fs::open(path, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&pipe)?;
    if rustix::fs::FileType::from_raw_mode(stat.st_mode).is_fifo() {
        Ok(pipe)
    } else {
        Err(io::Error::other("it is no pipe"))
    }
}
