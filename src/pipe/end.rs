//! One end of a pipe in this process: what its handles share. The calling threads do all the work, under a lock that none of
//! them holds while it sleeps.
//!
//! Of the threads that wait, one sleeps in the [`Poller`]; the others wait for it on a condition variable, and one of them takes
//! its place. ZeroMQ's descriptors tell of changes once, to whoever asks first, so a thread that has used the socket while
//! another one sleeps on it wakes that one.

use std::cell::RefCell;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use super::folder::{Folder, Side};
use super::frame::{Head, PART, WHOLE, What, numbered};
use super::inbox::Arrived;
use super::link::{Link, Meeting, State, cannot_wait, head};
use super::poller::{Poller, Ready};
use crate::error::{Error, Result};
use crate::wait::{Subscribers, Watch};
use crate::wire::same_host::Spin;
use crate::wire::socket::Socket;

pub(super) struct End {
    inner: Mutex<Inner>,
    changed: Condvar,
    poller: OnceLock<Arc<Poller>>,
    subscribers: Subscribers,
    /// None: a visit, which cannot be handed over.
    place: Option<(Folder, Side)>,
}

struct Inner {
    link: Link,
    /// A thread sleeps in the poller.
    polling: bool,
    /// The number of the lookout by which it does.
    lookout: (u64, u64),
    /// So many wait for it.
    followers: usize,
    /// A thread is in the middle of a long message.
    sending: bool,
    receiving: bool,
    /// Handles of this process that are not closed.
    handles: usize,
}

thread_local! {
    static SPIN: RefCell<Spin> = const { RefCell::new(Spin::new()) };
}

type Guard<'a> = MutexGuard<'a, Inner>;

/// Where a message goes.
pub(super) enum Target<'a> {
    /// Into memory of its own, if it is no longer than this.
    Memory(Option<usize>),
    Buffer(&'a mut [u8]),
}

/// Where a message is.
pub(super) enum Taken {
    /// In this frame, behind the first byte.
    Whole(Arrived),
    Memory(Vec<u8>),
    /// In the buffer; its length.
    Buffer(usize),
}

type EndsByPlace = FxHashMap<(PathBuf, Side), Weak<End>>;

/// Who waits for several things looks so often for what ZeroMQ has told somebody else.
const LOOK: Duration = Duration::from_millis(10);

/// The ends of this process that can be handed over.
static ENDS: Mutex<Option<EndsByPlace>> = Mutex::new(None);
/// All of them, for the end of the program.
static ALL: Mutex<Vec<Weak<End>>> = Mutex::new(Vec::new());

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Closes what this program has forgotten to close, as if it had.
fn close_all() {
    let ends = std::mem::take(&mut *lock(&ALL));
    for end in ends.iter().filter_map(Weak::upgrade) {
        end.close();
    }
}

impl End {
    fn new(link: Link, place: Option<(Folder, Side)>) -> Arc<Self> {
        let end = Arc::new(Self {
            inner: Mutex::new(Inner {
                link,
                polling: false,
                lookout: (0, 0),
                followers: 0,
                sending: false,
                receiving: false,
                handles: 1,
            }),
            changed: Condvar::new(),
            poller: OnceLock::new(),
            subscribers: Subscribers::default(),
            place,
        });
        static ONCE: std::sync::Once = std::sync::Once::new();
        ONCE.call_once(|| crate::at_exit::register(close_all));
        let mut all = lock(&ALL);
        if all.len() == all.capacity() {
            all.retain(|end| end.strong_count() > 0);
        }
        all.push(Arc::downgrade(&end));
        end
    }

    /// A side of a pipe, with one handle. If this process has it already, one handle more of the same.
    pub(super) fn of_side(folder: Folder, side: Side, hold: super::folder::Lock) -> Arc<Self> {
        let mut ends = lock(&ENDS);
        let ends = ends.get_or_insert_default();
        let key = (folder.path().to_owned(), side);
        if let Some(end) = ends.get(&key).and_then(Weak::upgrade) {
            let mut inner = lock(&end.inner);
            if inner.handles > 0 {
                inner.handles += 1;
                drop(inner);
                return end;
            }
        }
        let meeting = Meeting::Folder {
            folder: folder.clone(),
            side,
        };
        let link = Link::unused(Arc::new(meeting), Some(hold));
        let end = Self::new(link, Some((folder, side)));
        ends.insert(key, Arc::downgrade(&end));
        end
    }

    /// An end whose other end is known.
    pub(super) fn of_visit(socket: Socket, is_bound: bool) -> Result<Arc<Self>> {
        let poller = Arc::new(Poller::new().map_err(cannot_wait)?);
        let link = Link::joined(socket, is_bound, Arc::clone(&poller))?;
        let end = Self::new(link, None);
        let _ = end.poller.set(poller);
        Ok(end)
    }

    pub(super) const fn place(&self) -> Option<&(Folder, Side)> {
        self.place.as_ref()
    }

    fn poller(&self) -> Result<&Arc<Poller>> {
        if let Some(poller) = self.poller.get() {
            return Ok(poller);
        }
        let poller = Arc::new(Poller::new().map_err(cannot_wait)?);
        Ok(self.poller.get_or_init(|| poller))
    }

    /// Locked, in use, and open.
    fn enter(&self) -> Result<(Guard<'_>, &Arc<Poller>)> {
        let poller = self.poller()?;
        let mut inner = lock(&self.inner);
        inner.link.begin(poller)?;
        Ok((inner, poller))
    }

    /// Sends a whole message: kind byte and content. `false`: the other end has made no room for it until then.
    pub(super) fn send_whole(
        &self,
        is_open: impl Fn() -> bool,
        frame: &[u8],
        until: Option<Instant>,
    ) -> Result<bool> {
        let (mut inner, poller) = self.enter()?;
        loop {
            check(&inner, is_open())?;
            if !inner.sending && self.put(&mut inner, poller, frame)? {
                return Ok(true);
            }
            if until.is_some_and(|until| until <= Instant::now()) {
                return Ok(false);
            }
            inner = self.wait(inner, poller, until);
        }
    }

    /// Sends a message in parts.
    pub(super) fn send_long(
        &self,
        is_open: impl Fn() -> bool,
        what: What,
        bytes: &[u8],
    ) -> Result<()> {
        let (mut inner, poller) = self.enter()?;
        while inner.sending {
            check(&inner, is_open())?;
            inner = self.wait(inner, poller, None);
        }
        inner.sending = true;
        let mut part = Vec::with_capacity(WHOLE + 1);
        let mut on = None;
        let mut at = 0;
        let sent = loop {
            if let Err(error) = check(&inner, is_open()) {
                break Err(error);
            }
            let connection = match &inner.link.state {
                State::Joined(joined) => Some(joined.number),
                State::Over => break Err(Error::BrokenPipe),
                _ => None,
            };
            // On each connection it is sent from the start: what an earlier one had of it was dropped there.
            if connection.is_some() && connection != on {
                let begin = numbered(what.kinds().1, bytes.len() as u64);
                match self.put(&mut inner, poller, &begin) {
                    Ok(true) => {
                        on = connection;
                        at = 0;
                        continue;
                    }
                    Ok(false) => {}
                    Err(error) => break Err(error),
                }
            } else if connection.is_some() {
                let end = bytes.len().min(at + WHOLE);
                part.clear();
                part.push(PART);
                part.extend_from_slice(&bytes[at..end]);
                match self.put(&mut inner, poller, &part) {
                    Ok(true) if end == bytes.len() => break Ok(()),
                    Ok(true) => {
                        at = end;
                        // Others may use the end between two parts.
                        drop(inner);
                        inner = lock(&self.inner);
                        continue;
                    }
                    Ok(false) => {}
                    Err(error) => break Err(error),
                }
            }
            inner = self.wait(inner, poller, None);
        };
        inner.sending = false;
        self.tell(&inner, poller);
        sent
    }

    /// Puts a frame on its way; `false` when that is not possible now.
    fn put(&self, inner: &mut Inner, poller: &Arc<Poller>, frame: &[u8]) -> Result<bool> {
        loop {
            match &mut inner.link.state {
                State::Joined(joined) => {
                    let is_due = !inner.polling && joined.is_glance_due();
                    if !is_due && joined.has_room() && joined.send(frame) {
                        if inner.polling && joined.socket.has_frame_and_peer().0 {
                            poller.wake();
                        }
                        return Ok(true);
                    }
                    let (number, room) = (joined.number, joined.has_room());
                    if is_due {
                        let mut ready = poller.wait(Some(Instant::now()));
                        // Who is awake is not told of these.
                        ready.rings = true;
                        inner.link.attend(ready);
                    } else {
                        inner.link.attend(Ready::ALL);
                    }
                    self.tell(inner, poller);
                    match &inner.link.state {
                        State::Joined(joined)
                            if joined.number == number
                                && !is_due
                                && (room || !joined.has_room()) =>
                        {
                            return Ok(false);
                        }
                        _ => {}
                    }
                }
                State::Apart(_) => {
                    if !inner.polling {
                        let ready = poller.wait(Some(Instant::now()));
                        inner.link.attend(ready);
                        self.tell(inner, poller);
                    }
                    match inner.link.state {
                        // Only whole messages can be left: the parts of one belong to one connection.
                        State::Apart(_) if head(frame).is_some_and(is_whole) => {
                            return Ok(inner.link.leave(frame));
                        }
                        State::Apart(_) => return Ok(false),
                        _ => {}
                    }
                }
                State::Over => return Err(Error::BrokenPipe),
                State::Unused | State::Closed => return Err(Error::ConnectionClosed),
            }
        }
    }

    /// Takes the next message; `None` when there is none at `until`.
    pub(super) fn receive(
        &self,
        is_open: impl Fn() -> bool,
        what: What,
        mut target: Target<'_>,
        until: Option<Instant>,
    ) -> Result<Option<Taken>> {
        let (mut inner, poller) = self.enter()?;
        let mut is_last = false;
        loop {
            check(&inner, is_open())?;
            if !inner.receiving {
                if let Some(front) = inner.link.inbox.front() {
                    let begun = match head(front) {
                        Some(begun) => begun,
                        None => {
                            let kind = front.first().copied();
                            let len = front.len();
                            if let Some(frame) = inner.link.inbox.pop() {
                                inner.link.took(&frame);
                            }
                            self.tell(&inner, poller);
                            return Err(garbage(kind, len));
                        }
                    };
                    fits(begun, what, &target)?;
                    let Some(frame) = inner.link.inbox.pop() else {
                        continue;
                    };
                    inner.link.took(&frame);
                    match begun {
                        Head::Whole(..) => {
                            // Another thread may wait for what is behind it.
                            self.tell_if_more(&inner, poller);
                            drop(inner);
                            return Ok(Some(match target {
                                Target::Memory(_) => Taken::Whole(frame),
                                Target::Buffer(buffer) => {
                                    buffer[..frame.len() - 1].copy_from_slice(&frame[1..]);
                                    Taken::Buffer(frame.len() - 1)
                                }
                            }));
                        }
                        Head::Long(_, len) => {
                            inner.receiving = true;
                            let outcome;
                            (inner, outcome) =
                                self.receive_long(inner, poller, &is_open, len, &mut target);
                            inner.receiving = false;
                            self.tell(&inner, poller);
                            match outcome {
                                // Its sender is gone; there may be another one.
                                Ok(None) => continue,
                                Ok(taken) => return Ok(taken),
                                Err(error) => return Err(error),
                            }
                        }
                    }
                }
                if matches!(inner.link.state, State::Over) {
                    return Err(Error::EndOfFile);
                }
                if inner.link.fetch() {
                    self.wake_poller(&inner, poller);
                    continue;
                }
            }
            if is_last {
                return Ok(None);
            }
            // One look at everything, also when there is no time to wait.
            is_last = until.is_some_and(|until| until <= Instant::now());
            inner = self.wait(inner, poller, until);
        }
    }

    /// The parts of a message; `None` when it will not become whole.
    fn receive_long<'a>(
        &'a self,
        mut inner: Guard<'a>,
        poller: &Arc<Poller>,
        is_open: &impl Fn() -> bool,
        len: u64,
        target: &mut Target<'_>,
    ) -> (Guard<'a>, Result<Option<Taken>>) {
        let cuts = inner.link.inbox.cuts();
        let mut memory = Vec::new();
        if let Target::Memory(_) = target {
            let wanted = usize::try_from(len).unwrap_or(usize::MAX);
            if memory.try_reserve_exact(wanted).is_err() {
                // Its parts will be errors, or rather one: they are dropped here.
                let error = Error::Encoding {
                    what: format!("cannot receive a message of {len} bytes"),
                    why: "there is not enough memory; its bytes are dropped".to_owned(),
                };
                let (inner, _) = self.skip(inner, poller, is_open, len);
                return (inner, Err(error));
            }
        }
        let mut at = 0;
        while at < len {
            if let Err(error) = check(&inner, is_open()) {
                return (inner, Err(error));
            }
            if inner.link.inbox.cuts() != cuts {
                return (inner, Ok(None));
            }
            let Some(part) = inner.link.inbox.pop() else {
                if !inner.link.fetch() {
                    inner = self.wait(inner, poller, None);
                }
                continue;
            };
            inner.link.took(&part);
            // Copied without the lock: senders of this process need not wait for it.
            drop(inner);
            let bytes = &part[1..];
            match target {
                Target::Memory(_) => memory.extend_from_slice(bytes),
                Target::Buffer(buffer) => {
                    let start = at as usize;
                    buffer[start..start + bytes.len()].copy_from_slice(bytes);
                }
            }
            at += bytes.len() as u64;
            inner = lock(&self.inner);
        }
        let taken = match target {
            Target::Memory(_) => Taken::Memory(memory),
            Target::Buffer(_) => Taken::Buffer(len as usize),
        };
        (inner, Ok(Some(taken)))
    }

    /// Drops the parts of a message.
    fn skip<'a>(
        &'a self,
        mut inner: Guard<'a>,
        poller: &Arc<Poller>,
        is_open: &impl Fn() -> bool,
        len: u64,
    ) -> (Guard<'a>, ()) {
        let cuts = inner.link.inbox.cuts();
        let mut left = len;
        while left > 0 && inner.link.inbox.cuts() == cuts && check(&inner, is_open()).is_ok() {
            match inner.link.inbox.pop() {
                Some(part) => {
                    inner.link.took(&part);
                    left = left.saturating_sub(part.len() as u64 - 1);
                }
                None if inner.link.fetch() => {}
                None => inner = self.wait(inner, poller, None),
            }
        }
        (inner, ())
    }

    /// Whether there is a message, or the end of all messages; waits until `until` for either.
    pub(super) fn poll(&self, is_open: impl Fn() -> bool, until: Option<Instant>) -> Result<bool> {
        let (mut inner, poller) = self.enter()?;
        let mut is_last = false;
        loop {
            check(&inner, is_open())?;
            let over = matches!(inner.link.state, State::Over);
            if !inner.receiving {
                if !inner.link.inbox.is_empty() || over {
                    return Ok(true);
                }
                if inner.link.fetch() {
                    self.wake_poller(&inner, poller);
                    continue;
                }
            }
            if is_last {
                return Ok(false);
            }
            is_last = until.is_some_and(|until| until <= Instant::now());
            inner = self.wait(inner, poller, until);
        }
    }

    /// Gives the lock away until something has changed, or it is `until`.
    fn wait<'a>(
        &'a self,
        mut inner: Guard<'a>,
        poller: &Arc<Poller>,
        until: Option<Instant>,
    ) -> Guard<'a> {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        if inner.polling {
            if left == Some(Duration::ZERO) {
                let changes = inner.link.changes;
                inner.link.attend(Ready::ALL);
                if inner.link.changes != changes {
                    self.tell(&inner, poller);
                }
                return inner;
            }
            if inner.link.lookout_number() != inner.lookout {
                // Frames come by a ring at which the sleeper does not look.
                poller.wake();
            }
            inner.followers += 1;
            let mut inner = match left {
                None => self
                    .changed
                    .wait(inner)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(left) => {
                    self.changed
                        .wait_timeout(inner, left)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
            };
            inner.followers -= 1;
            return inner;
        }
        inner.polling = true;
        let lookout = inner.link.lookout();
        inner.lookout = inner.link.lookout_number();
        drop(inner);
        let is_awake = left != Some(Duration::ZERO) && !lookout.is_empty() && {
            let sees_some = || lookout.sees_some() || poller.is_woken();
            SPIN.with_borrow_mut(|spin| spin.until(sees_some)) && !poller.is_woken()
                || !lookout.doze()
        };
        let mut ready = match is_awake {
            true => Ready::RINGS,
            false => poller.wait(until),
        };
        if left == Some(Duration::ZERO) {
            // ZeroMQ tells of a change once, and another call may have taken notice of it.
            ready.socket = true;
            ready.monitor = true;
        }
        let mut inner = lock(&self.inner);
        inner.polling = false;
        let changes = inner.link.changes;
        inner.link.attend(ready);
        if inner.followers > 0 {
            self.changed.notify_all();
        }
        // Otherwise who waits for several things, and looks at this one, would wake itself for ever. It sleeps on the rings as well.
        if inner.link.changes != changes
            || left == Some(Duration::ZERO)
                && self.subscribers.has_some()
                && !inner.link.lookout().doze()
        {
            self.subscribers.wake();
        }
        inner
    }

    /// Something may have changed for the others.
    fn tell(&self, inner: &Inner, poller: &Arc<Poller>) {
        if inner.followers > 0 {
            self.changed.notify_all();
        }
        self.wake_poller(inner, poller);
        self.subscribers.wake();
    }

    fn wake_poller(&self, inner: &Inner, poller: &Arc<Poller>) {
        if inner.polling {
            poller.wake();
        }
    }

    fn tell_if_more(&self, inner: &Inner, poller: &Arc<Poller>) {
        if inner.polling || inner.followers > 0 {
            self.tell(inner, poller);
        }
    }

    /// One handle less; with the last one the end is closed in this process.
    pub(super) fn release(&self) {
        let mut inner = lock(&self.inner);
        inner.handles = inner.handles.saturating_sub(1);
        if inner.handles > 0 {
            // Those who wait by the handle that was closed are to notice.
            if let Some(poller) = self.poller.get() {
                self.tell(&inner, poller);
            }
            return;
        }
        drop(inner);
        self.close();
    }

    fn close(&self) {
        let mut inner = lock(&self.inner);
        inner.handles = 0;
        if matches!(inner.link.state, State::Closed) {
            return;
        }
        let closing = inner.link.close();
        if let Some(poller) = self.poller.get() {
            self.tell(&inner, poller);
        }
        drop(inner);
        if let Some((folder, side)) = &self.place {
            let mut ends = lock(&ENDS);
            if let Some(ends) = &mut *ends {
                let key = (folder.path().to_owned(), *side);
                if ends
                    .get(&key)
                    .is_some_and(|end| std::ptr::eq(end.as_ptr(), self))
                {
                    ends.remove(&key);
                }
            }
        }
        closing.finish();
    }

    /// What [`wait`](crate::wait) needs.
    pub(super) fn watch<'a>(&'a self, watch: &mut Watch<'a>) {
        watch.subscribe(&self.subscribers);
        watch.look_every(LOOK);
        if !lock(&self.inner).link.lookout().doze() {
            self.subscribers.wake();
        }
        if let Ok(poller) = self.poller() {
            watch.descriptor(std::os::fd::AsFd::as_fd(&**poller));
        }
    }
}

fn check(inner: &Inner, is_open: bool) -> Result<()> {
    if is_open && !matches!(inner.link.state, State::Closed) {
        Ok(())
    } else {
        Err(Error::ConnectionClosed)
    }
}

const fn is_whole(head: Head) -> bool {
    matches!(head, Head::Whole(..))
}

/// Whether a message is what is asked for.
fn fits(head: Head, what: What, target: &Target<'_>) -> Result<()> {
    if head.what() != what {
        return Err(Error::OtherKind {
            bytes: head.what() == What::Bytes,
        });
    }
    let limit = match target {
        Target::Memory(None) => return Ok(()),
        Target::Memory(Some(limit)) => *limit as u64,
        Target::Buffer(buffer) => buffer.len() as u64,
    };
    if head.len() > limit {
        return Err(Error::TooLong {
            len: head.len(),
            limit,
        });
    }
    Ok(())
}

fn garbage(kind: Option<u8>, len: usize) -> Error {
    Error::Encoding {
        what: "a frame on a pipe is not one of the protocol's".to_owned(),
        why: match kind {
            Some(kind) => format!("it is of kind {kind}, with {len} bytes; it was dropped"),
            None => "it is empty; it was dropped".to_owned(),
        },
    }
}
