//! Pipes: two ends, each in any process. Python's `multiprocessing.Pipe`, and `multiprocessing.connection`'s `Listener` and
//! `Client`.
//!
//! ```
//! use procession::{Connection, Pipe, Process};
//!
//! #[procession::task]
//! fn shout(connection: Connection<String, String>) -> procession::Result<()> {
//!     let word = connection.recv()?;
//!     connection.send(&word.to_uppercase())
//! }
//!
//! #[procession::main]
//! fn main() -> procession::Result<()> {
//!     let (here, there) = Pipe::new::<String, String>()?;
//!     let process = Process::spawn(shout, (there,))?;
//!     here.send(&"hello".to_owned())?;
//!     assert_eq!(here.recv()?, "HELLO");
//!     process.join()?;
//!     Ok(())
//! }
//! ```
//!
//! A pipe is for two; for many that put and many that get take a queue.
//!
//! # Who has an end
//!
//! An end is a serde value. Handing it to another process **duplicates** it, as in Python: afterwards both hold it, and each closes it
//! for itself. From the moment of encoding it counts as held, so the own handle can be dropped at once. (As an
//! argument of a process it counts so until that process has it or has died; anywhere else, until it was received or this process has
//! ended.)
//!
//! Several processes may hold an end, and one at a time uses it: the first call that sends, receives or polls claims it, and for other
//! processes these calls are [`Error::Busy`](crate::Error::Busy), with the number of the one that has it, until it closes the end
//! or dies. Then the next one can go on. What was under way to the one that is gone is lost, as what a process has read from a
//! Unix pipe is.
//!
//! # How it ends
//!
//! When **all** processes that held an end have closed it or died, the other end receives what was sent, and then
//! [`Error::EndOfFile`](crate::Error::EndOfFile), at once; sending is [`Error::BrokenPipe`](crate::Error::BrokenPipe). As in Python, a
//! process that waits for the end must not hold the other end itself: a process that hands an end over should drop its own handle
//! (in the example above it moves into the arguments).
//!
//! | what happens | to what was sent |
//! |---|---|
//! | `close`, drop, the end of `main` | nothing is lost: it waits until the data has left the process, at most 10 s |
//! | the sender is killed | what had left the process is received (usually all but the last millisecond's); a message that is not whole is dropped |
//! | the receiver is killed | what it had not received is lost; with another holder it goes on from there |
//! | nobody uses the other end yet | up to 1 MiB is kept, whatever becomes of the sender; then `send` waits |
//!
//! # What it costs
//!
//! An end that is not used costs one descriptor, one that is used about ten. There is no thread beside ZeroMQ's own. A `send` waits while about
//! 4 MiB are under way. Messages over 1 MiB go in parts, so memory on the way stays bounded; docs/pipe.md has the protocol.

use crate::error::Result;

mod connection;
mod end;
mod folder;
mod frame;
mod inbox;
mod link;
mod listener;
mod poller;
mod spool;
pub(crate) mod transit;

pub use connection::Connection;
pub use listener::{Client, Listener};

use connection::Can;
use end::End;
pub(crate) use folder::flock;
use folder::{Folder, Side};

/// Makes pipes: [`Pipe::new`] for both directions, [`Pipe::one_way`] for one.
#[derive(Clone, Copy, Debug)]
pub struct Pipe;

/// A value that there is none of: the type of the direction that a [one-way](Pipe::one_way) pipe does not have. So `send` at the
/// receiving end cannot be written.
///
/// ```compile_fail,E0308
/// let (receiver, _sender) = procession::Pipe::one_way::<u32>()?;
/// receiver.send(&5)?;
/// # Ok::<(), procession::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Never {}

impl Pipe {
    /// A pipe in both directions: the first end sends values of type `A` and receives `B`, the second one the reverse.
    ///
    /// ```
    /// use procession::Pipe;
    ///
    /// let (left, right) = Pipe::new::<u32, String>()?;
    /// left.send(&42)?;
    /// assert_eq!(right.recv()?, 42);
    /// right.send(&"forty-two".to_owned())?;
    /// assert_eq!(left.recv()?, "forty-two");
    /// # Ok::<(), procession::Error>(())
    /// ```
    ///
    /// # Errors
    /// When its private folder cannot be made.
    #[allow(
        clippy::new_ret_no_self,
        reason = "as in Python, a pipe is its two ends"
    )]
    pub fn new<A, B>() -> Result<(Connection<A, B>, Connection<B, A>)> {
        let (first, second) = ends()?;
        Ok((
            Connection::new(first, Can::Both),
            Connection::new(second, Can::Both),
        ))
    }

    /// A pipe in one direction, the receiving end first: Python's `Pipe(duplex=False)`.
    ///
    /// ```
    /// use procession::Pipe;
    ///
    /// let (receiver, sender) = Pipe::one_way()?;
    /// sender.send(&1_u32)?;
    /// sender.close();
    /// assert_eq!(receiver.recv()?, 1);
    /// assert!(matches!(receiver.recv(), Err(procession::Error::EndOfFile)));
    /// # Ok::<(), procession::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Pipe::new`].
    pub fn one_way<T>() -> Result<(Connection<Never, T>, Connection<T, Never>)> {
        let (first, second) = ends()?;
        Ok((
            Connection::new(first, Can::Receive),
            Connection::new(second, Can::Send),
        ))
    }
}

fn ends() -> Result<(std::sync::Arc<End>, std::sync::Arc<End>)> {
    static SWEEP: std::sync::Once = std::sync::Once::new();
    SWEEP.call_once(folder::sweep);
    let folder = Folder::create()?;
    let made = folder
        .hold(Side::Zero)
        .and_then(|first| Ok((first, folder.hold(Side::One)?)));
    match made {
        Ok((first, second)) => Ok((
            End::of_side(folder.clone(), Side::Zero, first),
            End::of_side(folder, Side::One, second),
        )),
        Err(error) => {
            folder.remove_if_abandoned();
            Err(error)
        }
    }
}
