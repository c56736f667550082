//! The children of this process, and the one thread that watches them all.
//!
//! It takes in what they say as it comes, so that no child waits for somebody to join it; sends them arguments that are too large
//! for the channel's buffer; and reaps them at once, so that there are no zombies. It sleeps in one epoll, over two descriptors of
//! each child: the channel, and the pidfd that says when it has exited.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use rustc_hash::FxHashMap;
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::process::{PidfdFlags, pidfd_open};

use super::channel::{Channel, Incoming, Outgoing, Progress};
use super::child::Child;
use crate::wait::timespec;

/// How often exits are looked for where the system has no pidfd (before Linux 5.3, or no descriptor left).
const LOOK: Duration = Duration::from_millis(5);

pub(super) struct Children {
    epoll: OwnedFd,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    next: u64,
    links: FxHashMap<u64, Link>,
    /// How many of them have no pidfd.
    without_pidfd: usize,
}

/// One child that lives, and what goes over its channel.
struct Link {
    child: Arc<Child>,
    /// None when the child has closed it.
    channel: Option<Channel>,
    exit: Option<OwnedFd>,
    outgoing: Outgoing,
    incoming: Incoming,
}

static CHILDREN: OnceLock<Children> = OnceLock::new();

/// The children of this process; the first call starts the thread.
pub(super) fn children() -> std::io::Result<&'static Children> {
    // Two that come at the same time do not both start it.
    static STARTING: Mutex<()> = Mutex::new(());
    if let Some(children) = CHILDREN.get() {
        return Ok(children);
    }
    let _starting = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(children) = CHILDREN.get() {
        return Ok(children);
    }
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    let (ready, go) = std::sync::mpsc::channel::<&'static Children>();
    std::thread::Builder::new()
        .name("children".to_owned())
        .spawn(move || {
            if let Ok(children) = go.recv() {
                children.watch();
            }
        })?;
    let children = CHILDREN.get_or_init(|| Children {
        epoll,
        table: Mutex::default(),
    });
    let _ = ready.send(children);
    Ok(children)
}

/// Those that live, in the order in which they were started.
pub(super) fn living() -> Vec<Arc<Child>> {
    let Some(children) = CHILDREN.get() else {
        return Vec::new();
    };
    let table = children.lock();
    let mut living: Vec<_> = table.links.iter().collect();
    living.sort_unstable_by_key(|(key, _)| **key);
    living
        .into_iter()
        .map(|(_, link)| Arc::clone(&link.child))
        .collect()
}

impl Children {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches a child that has just been started. `channel` does not block, and takes what is `outgoing`.
    pub fn add(
        &self,
        child: Arc<Child>,
        channel: Channel,
        outgoing: Outgoing,
    ) -> std::io::Result<()> {
        let mut table = self.lock();
        let key = table.next;
        table.next += 1;
        let mut link = Link {
            exit: pidfd_open(child.pid, PidfdFlags::empty()).ok(),
            child,
            channel: None,
            outgoing,
            incoming: Incoming::default(),
        };
        let interest = match link.outgoing.is_sent() {
            true => EventFlags::IN,
            false => EventFlags::IN | EventFlags::OUT,
        };
        epoll::add(&self.epoll, &channel.0, channel_data(key), interest)?;
        if let Some(exit) = &link.exit
            && epoll::add(&self.epoll, exit, exit_data(key), EventFlags::IN).is_err()
        {
            link.exit = None;
        }
        if link.exit.is_none() {
            table.without_pidfd += 1;
        }
        link.channel = Some(channel);
        table.links.insert(key, link);
        Ok(())
    }

    /// The thread's loop.
    fn watch(&self) {
        let mut events = Vec::with_capacity(64);
        loop {
            let without_pidfd = self.lock().without_pidfd > 0;
            let timeout = without_pidfd.then(|| timespec(LOOK));
            events.clear();
            // An error is a signal in between; whatever else it were, the loop must go on.
            if epoll::wait(&self.epoll, spare_capacity(&mut events), timeout.as_ref()).is_err() {
                events.clear();
            }
            for event in &events {
                let data = event.data.u64();
                let mut table = self.lock();
                match data & 1 == 0 {
                    true => self.serve(&mut table, data >> 1, event.flags),
                    false => self.ended(table, data >> 1),
                }
            }
            if without_pidfd {
                self.look();
            }
        }
    }

    /// The channel can be read or written.
    fn serve(&self, table: &mut Table, key: u64, flags: EventFlags) {
        let Some(link) = table.links.get_mut(&key) else {
            return;
        };
        let Some(channel) = &link.channel else {
            return;
        };
        if flags.contains(EventFlags::OUT) && link.outgoing.send(channel) {
            let _ = epoll::modify(&self.epoll, &channel.0, channel_data(key), EventFlags::IN);
        }
        let may_read = EventFlags::IN | EventFlags::HUP | EventFlags::ERR;
        if !flags.intersects(may_read) {
            return;
        }
        // A header, and a piece of what follows it; then it is the next child's turn.
        let first = link.incoming.read(channel);
        let progress = match first {
            Progress::More => link.incoming.read(channel),
            other => other,
        };
        if progress == Progress::End {
            let _ = epoll::delete(&self.epoll, &channel.0);
            link.channel = None;
        }
    }

    /// The child has exited: what it said last is read, then it is reaped.
    fn ended(&self, mut table: MutexGuard<'_, Table>, key: u64) {
        let Some(mut link) = table.links.remove(&key) else {
            return;
        };
        if link.exit.is_none() {
            table.without_pidfd -= 1;
        }
        // Whoever waits for it is to find it gone from the list, but need not wait for what follows.
        drop(table);
        if let Some(channel) = link.channel.take() {
            while link.incoming.read(&channel) == Progress::More {}
        }
        link.child.reap(link.incoming.finish());
    }

    /// Looks for exits that no descriptor tells of.
    fn look(&self) {
        let table = self.lock();
        let unseen = table.links.iter().filter(|(_, link)| link.exit.is_none());
        let exited: Vec<_> = unseen
            .filter(|(_, link)| link.child.has_exited())
            .map(|(key, _)| *key)
            .collect();
        drop(table);
        for key in exited {
            self.ended(self.lock(), key);
        }
    }
}

fn channel_data(key: u64) -> EventData {
    EventData::new_u64(key << 1)
}

fn exit_data(key: u64) -> EventData {
    EventData::new_u64(key << 1 | 1)
}
