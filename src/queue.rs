//! [`Queue`]: items from any number of putters to any number of getters, in any number of processes, on any number of hosts.

mod encoded;
mod error;
mod handle;
mod hosting;
mod joining;
mod place;
mod waiting;

use crate::hub::outside::Instant;
use std::cell::RefCell;
use std::fmt;
use std::io::Write;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use error::PutError;
use handle::{Inner, Plan, Ticket};
pub(crate) use hosting::end_unread;

use crate::error::{Error, Result};
use crate::hub::limits::Limits;
use crate::hub::member::{AT_ONCE, Arrived, Encoded, End, NoItem, NotPut, Shared, Taken, Wait};
use crate::keys::Keys;
use crate::wire::block;
use crate::wire::body::{Body, BodyWriter, IN_MEMORY};
use crate::wire::endpoint::Endpoint;
use crate::wire::frame::{QueueInfo, kind};

/// A value that can be put into a [`Queue`]: any type that serde can write and read.
pub trait Item: Serialize + DeserializeOwned + Send + 'static {}

impl<T: Serialize + DeserializeOwned + Send + 'static> Item for T {}

/// Python's `multiprocessing.Queue`: first in, first out, between processes and hosts.
///
/// Whoever makes it hosts it. A handle is cheap to clone, can be used by many threads at once, and is itself a serde value: hand it
/// to a child, or put it into another queue, and it works there. Programs that do not share a parent use
/// [`bind`](Self::bind) and [`connect`](Self::connect).
///
/// ```
/// use procession::Queue;
/// let queue = Queue::new()?;
/// queue.put("first".to_owned())?;
/// queue.put("second".to_owned())?;
/// assert_eq!(queue.get()?, "first");
/// assert_eq!(queue.len()?, 1);
/// queue.shutdown()?;
/// let rest: Vec<String> = queue.iter().collect::<Result<_, _>>()?;
/// assert_eq!(rest, ["second"]);
/// # Ok::<(), procession::Error>(())
/// ```
///
/// **Order** is that of the puts of one putter. **While processes live**, each item is returned by exactly one `get`.
///
/// **When a getter is killed**, the items that its program has not taken go to others, and those of the last 8 ms
/// may be seen a second time. Where that matters use a [`JoinableQueue`](crate::JoinableQueue).
///
/// **When a putter ends normally** what it has put is handed over first, for up to 10 s, and what was not is said. When it is killed, what was
/// not handed over is lost: [`flush`](Self::flush) returns when all is.
///
/// **When the host ends** (the process that made the queue) normally, it serves those who get until its queue is empty, for up to
/// 10 s, and says what it drops. After that, or when it is killed, `put` fails with [`Error::HostGone`] and gives the item back, and
/// `get` returns what has come here already, then fails with it, too.
///
/// Bytes: use `procession::Bytes` for binary items. A plain `Vec<u8>` is encoded number by number.
pub struct Queue<T> {
    inner: Arc<Inner>,
    items: PhantomData<fn(T) -> T>,
}

/// How a [`Queue`] or [`JoinableQueue`](crate::JoinableQueue) shall be.
///
/// ```
/// # use std::time::Duration;
/// use procession::Queue;
/// let queue: Queue<u32> = Queue::<u32>::builder().maxsize(100).bind("tcp://127.0.0.1:*").open()?;
/// let other: Queue<u32> = Queue::<u32>::builder().patience(Duration::from_secs(5)).connect(&queue.endpoint())?;
/// other.put(7)?;
/// assert_eq!(queue.get()?, 7);
/// # Ok::<(), procession::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct QueueBuilder<Q> {
    plan: Plan,
    made: PhantomData<fn() -> Q>,
}

impl<Q> QueueBuilder<Q> {
    pub(crate) fn new(joinable: bool) -> Self {
        Self {
            plan: Plan {
                info: QueueInfo {
                    maxsize: 0,
                    joinable,
                },
                binds: Vec::new(),
                insecure: false,
                keys: None,
                limits: Limits::default(),
                patience: Duration::from_secs(30),
                heartbeat: Duration::from_secs(1),
                ports: None,
            },
            made: PhantomData,
        }
    }

    /// How many items may be in it that no `get` has returned, those on their way included; 0 (the default): any number.
    #[must_use]
    pub const fn maxsize(mut self, items: usize) -> Self {
        self.plan.info.maxsize = items as u64;
        self
    }

    /// Listens at this endpoint, too: `tcp://HOST:PORT` (`*`: any free port) or `ipc://PATH`.
    #[must_use]
    pub fn bind(mut self, endpoint: impl Into<String>) -> Self {
        self.plan.binds.push(endpoint.into());
        self
    }

    /// How much others may ask of its host.
    #[must_use]
    pub const fn limits(mut self, limits: Limits) -> Self {
        self.plan.limits = limits;
        self
    }

    /// Uses these keys by TCP, instead of those that `PROCESSION_KEYS` names.
    #[must_use]
    pub fn keys(mut self, keys: Keys) -> Self {
        self.plan.keys = Some(keys);
        self
    }

    /// Allows TCP beyond this machine, where anyone who can connect may put and get.
    #[must_use]
    pub const fn insecure(mut self, allowed: bool) -> Self {
        self.plan.insecure = allowed;
        self
    }

    /// How long to wait for a host that does not answer (30 s).
    #[must_use]
    pub const fn patience(mut self, time: Duration) -> Self {
        self.plan.patience = time;
        self
    }

    /// The interval of heartbeats (1 s); a getter that misses three is taken for dead, as one that was stopped.
    #[must_use]
    pub const fn heartbeat(mut self, interval: Duration) -> Self {
        self.plan.heartbeat = interval;
        self
    }

    /// The TCP ports for lanes (any free ones).
    #[must_use]
    pub const fn lane_ports(mut self, first: u16, last: u16) -> Self {
        self.plan.ports = Some((first, last));
        self
    }

    pub(crate) fn create<T>(self) -> Result<Queue<T>> {
        Inner::create(&self.plan).map(Queue::of)
    }

    pub(crate) fn dial<T>(self, endpoint: &str) -> Result<Queue<T>> {
        Inner::connect(endpoint, &self.plan).map(Queue::of)
    }
}

impl<T: Item> QueueBuilder<Queue<T>> {
    /// Makes the queue; this process hosts it.
    ///
    /// # Errors
    /// A bad endpoint, one in use, or one beyond this machine.
    pub fn open(self) -> Result<Queue<T>> {
        self.create()
    }

    /// Joins the queue that listens at `endpoint`.
    ///
    /// # Errors
    /// [`Error::NobodyThere`], [`Error::Refused`], or [`Error::BadHandle`] when another kind of queue is there.
    pub fn connect(self, endpoint: &str) -> Result<Queue<T>> {
        self.dial(endpoint)
    }
}

impl<T> Queue<T> {
    fn of(inner: Arc<Inner>) -> Self {
        Self {
            inner,
            items: PhantomData,
        }
    }

    pub(crate) fn is_joinable(&self) -> bool {
        self.inner.ticket.joinable
    }

    pub(crate) fn member(&self) -> Result<&Arc<Shared>> {
        let member = self.inner.member(Wait::Forever)?;
        member.ok_or(Error::Closed)
    }

    /// The membership, where it is to be had in time.
    fn member_within(&self, wait: Wait) -> Result<Option<&Arc<Shared>>> {
        self.inner.member(match wait {
            Wait::No => after(AT_ONCE),
            wait => wait,
        })
    }

    /// Where it is found by [`connect`](Self::connect): the endpoint that was bound last, with its real port.
    #[must_use]
    pub fn endpoint(&self) -> String {
        self.inner.ticket.endpoint.clone()
    }

    /// Where it listens: the private endpoint of this host first, then those that were bound.
    #[must_use]
    pub fn endpoints(&self) -> &[Endpoint] {
        self.inner.endpoints()
    }

    /// How many items may be in it; `None`: any number.
    #[must_use]
    pub fn maxsize(&self) -> Option<usize> {
        match self.inner.ticket.maxsize {
            0 => None,
            maxsize => usize::try_from(maxsize).ok(),
        }
    }

    pub(crate) fn gone(&self, end: End) -> Error {
        match end {
            End::ShutDown => Error::ShutDown,
            End::HostGone(why) => Error::HostGone {
                endpoint: self.inner.ticket.endpoint.clone(),
                why,
            },
        }
    }
}

impl<T: Item> Queue<T> {
    /// A queue for any number of items, hosted by this process.
    ///
    /// # Errors
    /// When the private directory for sockets cannot be used, or there are too many open files.
    pub fn new() -> Result<Self> {
        Self::builder().open()
    }

    /// A queue for up to `maxsize` items; `put` waits while there are so many. 0 stands for any number.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_maxsize(maxsize: usize) -> Result<Self> {
        Self::builder().maxsize(maxsize).open()
    }

    /// A queue that others find at `endpoint`, hosted by this process.
    ///
    /// # Errors
    /// As [`new`](Self::new); a bad endpoint, one in use, or one beyond this machine.
    pub fn bind(endpoint: &str) -> Result<Self> {
        Self::builder().bind(endpoint).open()
    }

    /// The queue that a URL leads to: `tcp://HOST:PORT?queue=NAME` or `ipc://PATH?queue=NAME` is the one of that name at a host of queues
    /// ([`QueueHost`](crate::QueueHost), `procession queue`), which makes it if nobody has before, with `&maxsize=N` for that many items;
    /// without a name it is the one queue of a program that has bound it there, as with [`connect`](Self::connect).
    ///
    /// ```
    /// use procession::{Queue, QueueHost};
    /// let host = QueueHost::bind("tcp://127.0.0.1:*")?;
    /// let here: Queue<u32> = Queue::open(&host.url("numbers"))?;
    /// let there: Queue<u32> = Queue::open(&host.url("numbers"))?;
    /// here.put(7)?;
    /// assert_eq!(there.get()?, 7);
    /// # Ok::<(), procession::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub fn open(url: &str) -> Result<Self> {
        Self::builder().connect(url)
    }

    /// The queue that another program has bound at `endpoint`; with `?queue=NAME`, as [`open`](Self::open).
    ///
    /// # Errors
    /// [`Error::NobodyThere`] when nobody answers for 30 s; [`Error::Refused`]; [`Error::BadHandle`] when it is another kind of queue, or
    /// has another `maxsize` than was said; [`Error::BadEndpoint`].
    pub fn connect(endpoint: &str) -> Result<Self> {
        Self::builder().connect(endpoint)
    }

    /// Settings of a queue.
    #[must_use]
    pub fn builder() -> QueueBuilder<Self> {
        QueueBuilder::new(false)
    }

    /// Puts an item; waits while the queue is full.
    ///
    /// # Errors
    /// With the item: [`Error::Closed`], [`Error::ShutDown`], [`Error::HostGone`], [`Error::Encoding`].
    pub fn put(&self, item: T) -> Result<(), PutError<T>> {
        self.put_waiting(item, Wait::Forever)
    }

    /// Puts an item if there is room now.
    ///
    /// # Errors
    /// With the item: [`Error::Full`]; else as [`put`](Self::put).
    pub fn try_put(&self, item: T) -> Result<(), PutError<T>> {
        self.put_waiting(item, Wait::No)
    }

    /// Puts an item; waits no longer than `time` for room.
    ///
    /// # Errors
    /// With the item: [`Error::Full`]; else as [`put`](Self::put).
    pub fn put_timeout(&self, item: T, time: Duration) -> Result<(), PutError<T>> {
        self.put_waiting(item, no_longer_than(time))
    }

    /// Puts item after item; how many.
    ///
    /// # Errors
    /// At the first that cannot be put, with that item; those before it are in the queue.
    pub fn put_many(&self, items: impl IntoIterator<Item = T>) -> Result<usize, PutError<T>> {
        let mut count = 0;
        for item in items {
            self.put(item)?;
            count += 1;
        }
        Ok(count)
    }

    fn put_waiting(&self, item: T, wait: Wait) -> Result<(), PutError<T>> {
        let full = || Error::Full {
            maxsize: self.inner.ticket.maxsize,
        };
        let member = match self.member_within(wait) {
            Ok(Some(member)) => member,
            other => {
                let why = Box::new(other.err().unwrap_or_else(full));
                return Err(PutError { item, why });
            }
        };
        let put = with_encoded(&item, |encoded| member.put(encoded, wait));
        let why = match put {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(NotPut::Full)) => full(),
            Ok(Err(NotPut::Closed)) => Error::Closed,
            Ok(Err(NotPut::Ended(end))) => self.gone(end),
            Err(why) => Error::Encoding {
                what: "an item".to_owned(),
                why,
            },
        };
        let why = Box::new(why);
        Err(PutError { item, why })
    }

    /// Takes the next item; waits for one.
    ///
    /// # Errors
    /// [`Error::ShutDown`] when there will be none; [`Error::HostGone`]; [`Error::Encoding`] when what came is no `T` (the
    /// item is taken all the same).
    pub fn get(&self) -> Result<T> {
        self.get_waiting(Wait::Forever)
    }

    /// Takes the next item if there is one.
    ///
    /// # Errors
    /// [`Error::Empty`]; else as [`get`](Self::get).
    pub fn try_get(&self) -> Result<T> {
        self.get_waiting(Wait::No)
    }

    /// Takes the next item; waits no longer than `time` for one.
    ///
    /// # Errors
    /// [`Error::Empty`]; else as [`get`](Self::get).
    pub fn get_timeout(&self, time: Duration) -> Result<T> {
        self.get_waiting(no_longer_than(time))
    }

    fn get_waiting(&self, wait: Wait) -> Result<T> {
        let member = self.member_within(wait)?.ok_or(Error::Empty)?;
        self.decoded(member.get(wait, Came::of))
    }

    /// Takes the next item of a joinable queue, which is done with when [`settle`](Self::settle) is told so. What is no `T` is done
    /// with at once.
    pub(crate) fn lease(&self, wait: Wait) -> Result<(T, Taken)> {
        let member = self.member_within(wait)?.ok_or(Error::Empty)?;
        let (came, taken) = match member.lease(wait, Came::of) {
            Ok((came, taken)) => (Ok(came), taken),
            Err(none) => (Err(none), Taken::default()),
        };
        let is_here = came.is_ok();
        match self.decoded(came) {
            Ok(item) => Ok((item, taken)),
            Err(error) => {
                if is_here {
                    member.settle(taken);
                }
                Err(error)
            }
        }
    }

    /// What was [leased](Self::lease) is done with.
    pub(crate) fn settle(&self, taken: Taken) {
        if let Some(member) = self.inner.joining().member() {
            member.settle(taken);
        }
    }

    fn decoded(&self, came: std::result::Result<Came<T>, NoItem>) -> Result<T> {
        match came {
            Ok(Came::Decoded(Ok(item))) => Ok(item),
            Ok(Came::Decoded(Err(error))) => Err(self.no_item_of_ours(&error.to_string())),
            Ok(Came::Large(body)) => {
                crate::wire::payload::decode(&body).map_err(|why| self.no_item_of_ours(&why))
            }
            Err(NoItem::Empty) => Err(Error::Empty),
            Err(NoItem::Ended(end)) => Err(self.gone(end)),
        }
    }

    fn no_item_of_ours(&self, why: &str) -> Error {
        Error::Encoding {
            what: format!(
                "an item of the queue at {} is no {}",
                self.inner.ticket.endpoint,
                std::any::type_name::<T>()
            ),
            why: why.to_owned(),
        }
    }

    /// Takes item after item until the queue is shut down and empty.
    pub fn iter(&self) -> Iter<'_, T> {
        Iter {
            queue: self,
            ended: false,
        }
    }

    /// How many items were put and no `get` has returned, those on their way included. What this process has put and got is counted;
    /// what others got in the last 8 ms may not be.
    ///
    /// # Errors
    /// [`Error::HostGone`].
    pub fn len(&self) -> Result<usize> {
        let answer = self.ask(kind::ASK)?;
        Ok(usize::try_from(answer.inside).unwrap_or(usize::MAX))
    }

    /// Whether [`len`](Self::len) is 0.
    ///
    /// # Errors
    /// As there.
    pub fn is_empty(&self) -> Result<bool> {
        self.len().map(|len| len == 0)
    }

    /// Whether a `put` would have to wait.
    ///
    /// # Errors
    /// As [`len`](Self::len).
    pub fn is_full(&self) -> Result<bool> {
        match self.maxsize() {
            None => Ok(false),
            Some(maxsize) => self.len().map(|len| len >= maxsize),
        }
    }

    /// Waits until the host has accepted all that this process has put: from then on it survives this process.
    ///
    /// # Errors
    /// [`Error::HostGone`]; [`Error::ShutDown`] when some came too late.
    pub fn flush(&self) -> Result<()> {
        self.flush_until(Wait::Forever)
    }

    /// As [`flush`](Self::flush), for no longer than `time`.
    ///
    /// # Errors
    /// As there; [`Error::NotAccepted`].
    pub fn flush_timeout(&self, time: Duration) -> Result<()> {
        self.flush_until(after(time))
    }

    fn flush_until(&self, wait: Wait) -> Result<()> {
        let Some(member) = self.inner.joining().member() else {
            return Ok(());
        };
        member.flush(wait).map_err(|(items, end)| match end {
            Some(End::ShutDown) => Error::ShutDown,
            Some(end) => self.gone(end),
            None => Error::NotAccepted {
                endpoint: self.inner.ticket.endpoint.clone(),
                items,
            },
        })
    }

    /// This process puts no more: what it has put is handed over, and the next `put` here fails. Getting goes on.
    ///
    /// # Errors
    /// As [`flush_timeout`](Self::flush_timeout), with 10 s.
    pub fn close(&self) -> Result<()> {
        let member = self.member()?;
        member.close();
        self.flush_until(after(hosting::LAST_CALL))
    }

    /// The built-in poison pill: nobody puts any more, anywhere; getters take what is there and then see the end
    /// ([`Error::ShutDown`], or the end of [`iter`](Self::iter)).
    ///
    /// # Errors
    /// [`Error::HostGone`].
    pub fn shutdown(&self) -> Result<()> {
        self.ask(kind::SHUTDOWN).map(drop)
    }

    /// As [`shutdown`](Self::shutdown), and what is there and not taken is dropped.
    ///
    /// # Errors
    /// [`Error::HostGone`].
    pub fn shutdown_now(&self) -> Result<()> {
        self.ask(kind::DROP).map(drop)
    }

    pub(crate) fn ask(&self, kind: u8) -> Result<crate::wire::frame::Ask> {
        self.ask_waiting(kind, Wait::Forever)?.ok_or(Error::Empty)
    }

    /// `None`: not in time.
    pub(crate) fn ask_waiting(
        &self,
        kind: u8,
        wait: Wait,
    ) -> Result<Option<crate::wire::frame::Ask>> {
        let Some(member) = self.member_within(wait)? else {
            return Ok(None);
        };
        match member.flush(wait) {
            // What came too late for a shutdown is not in the queue, and not counted.
            Ok(()) | Err((_, Some(End::ShutDown))) => {}
            Err((_, Some(end))) => return Err(self.gone(end)),
            Err((_, None)) => return Ok(None),
        }
        match member.ask(kind, wait) {
            Ok(answer) => Ok(Some(answer)),
            Err(Some(end)) => Err(self.gone(end)),
            Err(None) => Ok(None),
        }
    }
}

/// An item as it came: decoded if it is small, and a large one not yet.
enum Came<T> {
    Decoded(Result<T, rmp_serde::decode::Error>),
    Large(Body),
}

impl<T: DeserializeOwned> Came<T> {
    fn of(arrived: Arrived<'_>) -> Self {
        match arrived {
            Arrived::Small(bytes) => Self::Decoded(rmp_serde::from_slice(bytes)),
            Arrived::Large(body) => Self::Large(body),
        }
    }
}

/// Calls `call` with the item's bytes.
fn with_encoded<T: Serialize, R>(
    item: &T,
    call: impl FnOnce(&Encoded<'_>) -> R,
) -> std::result::Result<R, String> {
    thread_local! {
        static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    // An item whose encoding puts into a queue itself finds the buffer in use.
    let mut scratch = SCRATCH.try_with(RefCell::take).unwrap_or_default();
    scratch.clear();
    let encoded = rmp_serde::encode::write(&mut scratch, item)
        .map_err(|error| format!("cannot encode {}: {error}", std::any::type_name::<T>()));
    let called = encoded.and_then(|()| {
        if scratch.len() <= block::LARGEST {
            Ok(call(&Encoded::Small(&scratch)))
        } else if scratch.len() <= IN_MEMORY {
            Ok(call(&Encoded::Large(Body::from(scratch.clone()))))
        } else {
            let mut writer = BodyWriter::new();
            let body = writer
                .write_all(&scratch)
                .and_then(|()| writer.finish())
                .map_err(|error| format!("cannot keep {} bytes: {error}", scratch.len()))?;
            scratch = Vec::new();
            Ok(call(&Encoded::Large(body)))
        }
    });
    if scratch.capacity() <= IN_MEMORY {
        let _ = SCRATCH.try_with(|kept| kept.replace(scratch));
    }
    called
}

/// No time at all is not to wait, which asks the host once all the same.
fn no_longer_than(time: Duration) -> Wait {
    if time.is_zero() {
        Wait::No
    } else {
        after(time)
    }
}

pub(crate) fn after(time: Duration) -> Wait {
    // A time that no clock can hold is for ever.
    Instant::now()
        .checked_add(time)
        .map_or(Wait::Forever, Wait::Until)
}

/// Takes item after item; see [`Queue::iter`].
#[derive(Debug)]
pub struct Iter<'a, T> {
    queue: &'a Queue<T>,
    ended: bool,
}

impl<T: Item> Iterator for Iter<'_, T> {
    type Item = Result<T>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        match self.queue.get() {
            Err(Error::ShutDown) => {
                self.ended = true;
                None
            }
            Err(error) => {
                self.ended = matches!(error, Error::HostGone { .. });
                Some(Err(error))
            }
            item => Some(item),
        }
    }
}

impl<'a, T: Item> IntoIterator for &'a Queue<T> {
    type Item = Result<T>;
    type IntoIter = Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Self::of(Arc::clone(&self.inner))
    }
}

impl<T> fmt::Debug for Queue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue")
            .field("endpoint", &self.inner.ticket.endpoint)
            .field("maxsize", &self.maxsize())
            .finish_non_exhaustive()
    }
}

impl<T> Serialize for Queue<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        self.inner.lend().serialize(serializer)
    }
}

impl<'de, T> Deserialize<'de> for Queue<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        Ticket::deserialize(deserializer).map(|ticket| Self::of(Inner::of_ticket(ticket)))
    }
}
