//! What a thread that waits on an end sleeps on: one epoll for the socket, its monitor, a waker and a timer. The sockets come
//! and go under the lock of the end; the epoll stays, so it can be slept on without the lock.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};

use crate::wait::timespec;
use crate::wire::socket::Socket;
use crate::wire::wake::Waker;

const SOCKET: u64 = 0;
const MONITOR: u64 = 1;
const WAKER: u64 = 2;
const TIMER: u64 = 3;
const RINGS: u64 = 4;

pub(super) struct Poller {
    epoll: OwnedFd,
    waker: Waker,
    timer: OwnedFd,
}

/// What there is to look at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ready {
    pub(super) socket: bool,
    pub(super) monitor: bool,
    pub(super) timer: bool,
    /// A ring may have a frame.
    pub(super) rings: bool,
    /// Somebody has woken a sleeper for that.
    pub(super) rung: bool,
}

impl Ready {
    pub(super) const ALL: Self = Self {
        socket: true,
        monitor: true,
        timer: false,
        rings: true,
        rung: false,
    };
    pub(super) const RINGS: Self = Self {
        socket: false,
        monitor: false,
        timer: false,
        rings: true,
        rung: false,
    };
}

impl Poller {
    pub(super) fn new() -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let waker = Waker::new()?;
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        epoll::add(&epoll, &waker, EventData::new_u64(WAKER), EventFlags::IN)?;
        epoll::add(&epoll, &timer, EventData::new_u64(TIMER), EventFlags::IN)?;
        Ok(Self {
            epoll,
            waker,
            timer,
        })
    }

    /// Includes a socket until it is dropped.
    pub(super) fn include(&self, socket: &Socket) -> io::Result<()> {
        let data = EventData::new_u64(SOCKET);
        epoll::add(&self.epoll, socket.changes(), data, EventFlags::IN)?;
        if let Some(changes) = socket.link_changes() {
            let data = EventData::new_u64(MONITOR);
            epoll::add(&self.epoll, changes, data, EventFlags::IN)?;
        }
        if let Some(changes) = socket.ring_changes() {
            let data = EventData::new_u64(RINGS);
            epoll::add(&self.epoll, changes, data, EventFlags::IN)?;
        }
        Ok(())
    }

    /// Forgets a socket that lives on.
    pub(super) fn exclude(&self, socket: &Socket) {
        // It was included, or there is nothing to do.
        let _ = epoll::delete(&self.epoll, socket.changes());
        let others = [socket.link_changes(), socket.ring_changes()];
        for changes in others.into_iter().flatten() {
            let _ = epoll::delete(&self.epoll, changes);
        }
    }

    /// Whether the present or the next sleep was ended.
    pub(super) fn is_woken(&self) -> bool {
        self.waker.is_told()
    }

    /// Ends the present or the next sleep.
    pub(super) fn wake(&self) {
        self.waker.wake();
    }

    /// Ends a sleep after so long.
    pub(super) fn arm(&self, time: Duration) {
        self.set(time.max(Duration::from_nanos(1)));
    }

    /// Ends none.
    pub(super) fn disarm(&self) {
        self.set(Duration::ZERO);
    }

    fn set(&self, time: Duration) {
        let spec = Itimerspec {
            it_interval: timespec(Duration::ZERO),
            it_value: timespec(time),
        };
        // It fails for times that are none only.
        let _ = timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &spec);
    }

    /// Sleeps until there is something, or it is `until`. Signals are no reason.
    pub(super) fn wait(&self, until: Option<Instant>) -> Ready {
        let mut events = [const {
            Event {
                flags: EventFlags::empty(),
                data: EventData::new_u64(0),
            }
        }; 5];
        let mut ready = Ready::default();
        let count = loop {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            match epoll::wait(&self.epoll, &mut events[..], left.map(timespec).as_ref()) {
                Ok(count) => break count,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    // Nothing of ours makes it fail; if it does, looking slowly is better than not at all.
                    log::error!("cannot wait on a pipe: {error}");
                    std::thread::sleep(Duration::from_millis(10));
                    return Ready::ALL;
                }
            }
        };
        for event in &events[..count] {
            let data = event.data;
            match data.u64() {
                SOCKET => ready.socket = true,
                MONITOR => ready.monitor = true,
                WAKER => self.waker.hear(),
                RINGS => {
                    ready.rings = true;
                    ready.rung = true;
                }
                _ => {
                    let mut times = [0; 8];
                    let _ = rustix::io::read(&self.timer, &mut times);
                    ready.timer = true;
                }
            }
        }
        ready
    }
}

impl AsFd for Poller {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}
