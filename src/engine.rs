//! Engines: what carries a queue. ZeroMQ is built in and needs no server; Redis, RabbitMQ and beanstalkd are a change of URL.
//!
//! ```no_run
//! use procession::JoinableQueue;
//! let queue: JoinableQueue<String> = JoinableQueue::open("redis://127.0.0.1:6379/0?queue=pages")?;
//! queue.put("https://example.org/".to_owned())?;
//! # Ok::<(), procession::Error>(())
//! ```
//!
//! What each promises, and what it does not, is in [`Guarantees`], which `procession guarantees URL` prints.
//!
//! A program's threads see the same on all engines: what they put and get goes through the same two places
//! (`hub/member/putting`, `getting`), and only the loop behind these is another one.
//!
//! | file | what it is |
//! |---|---|
//! | `engine/address` | a queue's URL, parsed (pure) |
//! | `engine/guarantees` | what each engine promises (pure) |
//! | `engine/member` | the loops between a program's threads and a [`Connection`] |
//! | `engine/redis`, `rabbitmq`, `beanstalk` | one server each |
//! | `engine/parts` | how a large item says where its parts are (pure) |

pub mod address;
#[cfg(feature = "beanstalk")]
mod beanstalk;
pub mod guarantees;
#[cfg(any(feature = "redis", feature = "amqp", feature = "beanstalk"))]
mod parts;
#[cfg(feature = "amqp")]
mod rabbitmq;
#[cfg(feature = "redis")]
mod redis;

#[cfg(any(feature = "redis", feature = "amqp"))]
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

pub use address::{Address, Scheme};
pub use guarantees::Guarantees;

use crate::error::{Error, Result};

/// A kind of server that carries queues. One value is one queue on one server; it connects when asked to.
pub trait Engine: Send + Sync + 'static {
    /// A connection of its own for one thread: putting and asking, or getting. Makes the queue if it is not there.
    ///
    /// # Errors
    /// [`Error::Connect`] when the server cannot be reached or does not let us in (tried again while there is
    /// patience); [`Error::BadHandle`] when a queue of another kind has that name, which is final.
    fn connect(&self) -> Result<Box<dyn Connection>>;

    /// For how long an item is its getter's unless renewed; `None`: as long as the getter's connection lives.
    fn lease(&self) -> Option<Duration>;

    /// What it promises.
    fn guarantees(&self) -> &'static Guarantees;
}

/// What an item that was taken is known by on its connection; given out by the engine, increasing.
pub type Receipt = u64;

/// An item that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// By which it is acknowledged, on the connection on which it came.
    pub receipt: Receipt,
    /// One value, as MessagePack: the very bytes that were put.
    pub item: Bytes,
}

/// How putting went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// The server has them all.
    All,
    /// So many, from the first: there is no room for more.
    Full(usize),
    /// So many, from the first: the queue was shut down.
    ShutDown(usize),
}

/// What came of taking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taken {
    /// These, in the queue's order; none when the time is over.
    Items(Vec<Delivery>),
    /// The queue was shut down, and nothing is left to be given out. Each getter sees this, however many there are, and again when it
    /// asks again.
    ShutDown,
}

/// How many items there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// That no getter has been given.
    pub ready: u64,
    /// That getters hold, and have not acknowledged.
    pub held: u64,
    /// The queue was shut down.
    pub shut_down: bool,
}

/// One connection to a server, for one queue, used by one thread.
///
/// Every call may fail with [`Error::Connect`] when the connection is lost: the caller drops it and makes another one, puts again what was
/// not accepted (which may then be there twice, where the engine cannot tell: [`Guarantees::delivery`]), and forgets what it had taken
/// and not acknowledged: the server gives it to others, or to it again.
pub trait Connection: Send {
    /// Puts items, in this order, and waits until the server has them for good. Sends them in as few round trips as it can.
    ///
    /// # Errors
    /// A lost connection; [`Error::Encoding`] for an item that this server can never take, however it is cut, which must say so before
    /// anything is sent.
    fn put(&mut self, items: &[Bytes]) -> Result<Accepted>;

    /// Takes up to `most` items; waits no longer than `wait` for the first, and for the others not at all. What a dead getter held comes first,
    /// as soon as that is known.
    ///
    /// Whatever is in the queue that nobody of ours has put is handed on as it is: who decodes it says so.
    ///
    /// # Errors
    /// A lost connection.
    fn take(&mut self, most: usize, wait: Duration) -> Result<Taken>;

    /// These are done with, and gone for good. One whose lease was over meanwhile is passed over.
    ///
    /// # Errors
    /// A lost connection.
    fn done(&mut self, receipts: &[Receipt]) -> Result<()>;

    /// These go to others, before those that were put later.
    ///
    /// # Errors
    /// A lost connection.
    fn give_back(&mut self, receipts: &[Receipt]) -> Result<()>;

    /// These are still held: the lease begins anew. Called about three times in a lease.
    ///
    /// # Errors
    /// A lost connection.
    fn renew(&mut self, receipts: &[Receipt]) -> Result<()>;

    /// How many items there are, in the queue as a whole.
    ///
    /// # Errors
    /// A lost connection.
    fn count(&mut self) -> Result<Count>;

    /// No more puts, anywhere: getters take what is there and then see the end. With `drop_rest` what nobody holds is removed.
    ///
    /// # Errors
    /// A lost connection.
    fn shutdown(&mut self, drop_rest: bool) -> Result<()>;

    /// Removes the queue and all that is in it; what it was named may be used anew.
    ///
    /// # Errors
    /// A lost connection.
    fn remove(&mut self) -> Result<()>;
}

/// The engine of that URL, for one queue.
///
/// # Errors
/// When this program was built without it, or the URL asks for what its client cannot do.
pub fn open(address: &Address, joinable: bool) -> Result<Arc<dyn Engine>> {
    match address.scheme {
        #[cfg(feature = "redis")]
        Scheme::Redis => Ok(Arc::new(redis::Redis::new(address, joinable)?)),
        #[cfg(feature = "amqp")]
        Scheme::Amqp => Ok(Arc::new(rabbitmq::RabbitMq::new(address, joinable)?)),
        #[cfg(feature = "beanstalk")]
        Scheme::Beanstalk => Ok(Arc::new(beanstalk::Beanstalk::new(address, joinable)?)),
        Scheme::ZeroMq => Err(bad(
            address,
            "ZeroMQ has no server to open a queue at; connect to the program that has bound it",
        )),
        #[cfg(not(all(feature = "redis", feature = "amqp", feature = "beanstalk")))]
        _ => {
            let _ = joinable;
            Err(bad(
                address,
                "this program was built without that engine; build procession with its feature redis, amqp or beanstalk",
            ))
        }
    }
}

/// What the engine of that URL promises. Nothing is connected to.
///
/// ```
/// let address = "tcp://127.0.0.1:5557?queue=pages".parse()?;
/// let promised = procession::engine::guarantees(&address)?;
/// assert_eq!(promised.engine, "ZeroMQ");
/// assert!(promised.to_string().contains("order"));
/// # Ok::<(), procession::Error>(())
/// ```
///
/// # Errors
/// As [`open`].
pub fn guarantees(address: &Address) -> Result<&'static Guarantees> {
    match address.scheme {
        Scheme::ZeroMq => Ok(&guarantees::ZEROMQ),
        _ => Ok(open(address, false)?.guarantees()),
    }
}

fn bad(address: &Address, why: &str) -> Error {
    Error::BadEndpoint {
        endpoint: address.to_string(),
        why: why.to_owned(),
    }
}

/// The name on a server of a queue's items, or of what else there is to it (`what`, which begins with a slash). No queue's name has a slash
/// in it, so those of two queues are never the same.
#[cfg(any(feature = "redis", feature = "amqp", feature = "beanstalk"))]
fn name_on_server(queue: &str, what: &str) -> String {
    format!("procession/{queue}{what}")
}

/// A name that nothing else has.
#[cfg(any(feature = "redis", feature = "amqp"))]
fn unique() -> Result<String> {
    let number = getrandom::u64()
        .map_err(|error| Error::system("random number", io::Error::other(error)))?;
    Ok(format!("{number:016x}"))
}
