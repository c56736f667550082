//! What processes share: memory, on one host (Python's `multiprocessing.sharedctypes`, `Value` and `Array`, and `shared_memory`), and
//! [data](#data-by-url) by URL, on any number of hosts (Python's `Manager`).
//!
//! ```
//! use procession::Process;
//! use procession::shared::{Array, Value};
//!
//! #[procession::task]
//! fn work(total: Value<u64>, squares: Array<f64>) -> procession::Result<()> {
//!     for index in 0..squares.len() {
//!         squares.set(index, (index * index) as f64)?;
//!         total.update(|total| *total += 1)?; // nobody comes in between
//!     }
//!     Ok(())
//! }
//!
//! #[procession::main]
//! fn main() -> procession::Result<()> {
//!     let (total, squares) = (Value::new(0)?, Array::new(4)?);
//!     let child = Process::spawn(work, (total.clone(), squares.clone()))?;
//!     child.join()?;
//!     assert_eq!(total.get()?, 4);
//!     assert_eq!(squares.to_vec()?, [0.0, 1.0, 4.0, 9.0]);
//!     Ok(())
//! }
//! ```
//!
//! **When not.** Who shares memory has to think of everything that another process may do in between. A [`Queue`](crate::Queue) or a
//! [`Pipe`](crate::pipe) asks for none of that, reaches other hosts, and is fast enough for most. Shared memory is for large data that stays
//! where it is, for counters, and for state of which everybody wants the latest only. Between threads take a `Mutex` or an atomic.
//!
//! # What is here
//!
//! | | | Python |
//! |---|---|---|
//! | [`Value`], [`Array`] | one value, or many of one type, behind a lock of their own | `Value`, `Array` |
//! | [`RawValue`], [`RawArray`] | without a lock: faster, and a larger value may be seen half written | `RawValue`, `RawArray` |
//! | [`AtomicCounter`] | a number that is changed in one step, without a lock | |
//! | [`Memory`] | bytes, also under a name | `shared_memory.SharedMemory` |
//!
//! | [`Dict`], [`List`], [`Counter`], [`Namespace`] | data by URL: held by a process, a file, or a server | `Manager().dict()`, `.list()`, `.Value()`, `.Namespace()` |
//! | [`Manager`], [`Remote`], [`Proxy`] | a process that holds data, and objects of your own types for others to call | `Manager`, `BaseManager.register` |
//!
//! All of them are handles: a clone is the same memory, and so is what another process makes of its encoding. So they can be arguments of a
//! process, items of a queue, and messages on a pipe.
//!
//! # Data by URL
//!
//! ```
//! use procession::shared::{Counter, Dict, Manager};
//!
//! let manager = Manager::new()?; // this process holds it
//! let visits: Counter = manager.counter()?;
//! visits.add(1)?;
//!
//! # let folder = tempfile::tempdir().map_err(|error| procession::Error::system("a folder", error))?;
//! # let url = format!("sqlite:{}?name=prices", folder.path().join("prices.db").display());
//! // Or a file does, or a server: "sqlite:prices.db?name=prices", "redis://127.0.0.1/0?name=prices",
//! // "postgres://localhost/shop?name=prices", "tcp://host:5557?name=prices" (another program's manager).
//! let prices: Dict<String, u32> = Dict::open(url)?;
//! prices.insert("tea", &3)?;
//! prices.update("tea", |price| price.map(|price| price + 1))?; // nobody comes in between
//! assert_eq!(prices.get("tea")?, Some(4));
//! # Ok::<(), procession::Error>(())
//! ```
//!
//! Any type that serde knows can be in it, everything is changed wholly or not at all, whoever is killed when, and nothing is locked. It is for state that many
//! look at and change: settings, totals, who is there. What flows from one to another is better put on a queue. What each store promises, and what not, is in
//! docs/shared-data.md. The rest of this page is about memory.
//!
//! # What can be in it
//!
//! Plain data, which the compiler checks: types of which every pattern of bits is a value, without padding and without pointers, because what
//! is there was perhaps written by a process that no longer lives. These are the integers, floats, arrays of them, and structs for which
//! [`Pod`] is derived:
//!
//! ```
//! use procession::shared::{Pod, Value, Zeroable};
//!
//! #[derive(Clone, Copy, Pod, Zeroable)]
//! #[repr(C)]
//! #[bytemuck(crate = "procession::shared::bytemuck")]
//! struct Point {
//!     x: f64,
//!     y: f64,
//! }
//!
//! let point = Value::new(Point { x: 1.0, y: 2.0 })?;
//! point.update(|point| point.x += point.y)?;
//! assert_eq!(point.get()?.x, 3.0);
//! # Ok::<(), procession::Error>(())
//! ```
//!
//! A `String`, a reference or a `bool` is none:
//!
//! ```compile_fail
//! let value = procession::shared::Value::new(String::new());
//! ```
//!
//! # How long it lives
//!
//! The kernel frees the memory when the last process that has it has dropped it, has ended or was killed; nothing can be left behind. A
//! [name](Memory::create) lives as long as one who holds it; that of killed holders is removed when anybody creates or looks for any
//! name, and the memory was free before.
//!
//! **Whoever lends memory must live until it was received.** A handle on its way is a few numbers, by which the receiver finds the memory
//! *in the process that lent it*. So a child that returns an [`Array`] that it has made itself returns a handle of something that ends with it
//! (the error says so): make it in the parent, and pass it down. For the same reason a process that has passed a handle on keeps
//! the memory until it ends, as nobody can know whether a handle is still under way; each costs an open file. `unlink` says that
//! none is.
//!
//! # When it fails
//!
//! All memory is taken when it is made: too little is an [error](crate::Error::NoRoom) there, and later nobody is killed for touching it. It cannot
//! be made shorter. Handles lead nowhere on another host, in another container or for another user, and say so.

mod array;
mod counter;
mod data;
mod guarded;
mod memfd;
mod memory;
mod names;
mod raw;
mod room;
mod segment;
mod table;
mod ticket;
mod value;
mod words;

pub use array::{Array, ArrayGuard};
pub use counter::AtomicCounter;
pub use data::{
    Attribute, Change, Changing, Counter, Dict, Iter, List, ListIter, Looking, Manager, Method,
    Namespace, Proxy, Remote, Watch,
};
pub use memory::Memory;
pub use raw::{RawArray, RawValue};
pub use value::{Value, ValueGuard};

/// The crate whose derives say that a type is plain data.
#[doc(no_inline)]
pub use bytemuck;
#[doc(no_inline)]
pub use bytemuck::{Pod, Zeroable};

pub(crate) use segment::Segment;
pub(crate) use ticket::Ticket;
pub(crate) use ticket::started;

use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};

use crate::error::Result;
use crate::sync::raw_mutex::ABI;

/// Removes the names of [`Memory`] whose holders were all killed. [`Memory::create`] and [`Memory::attach`] do so by themselves; this is for a
/// program that only cleans up.
///
/// # Errors
/// When the directory of names cannot be used.
pub fn sweep() -> Result<()> {
    names::sweep()
}

/// Takes a name away, without attaching to its memory. Those who have it keep it.
///
/// # Errors
/// [`Error::NoSuchName`](crate::Error::NoSuchName), [`Error::BadName`](crate::Error::BadName).
pub fn unlink(name: &str) -> Result<()> {
    names::unlink(name)
}

/// What a block for values of this type is called. Other types have other names, and those of another size too.
fn kind_of<T>(what: &str) -> String {
    format!(
        "shared::{what}<{}> ({} bytes)",
        std::any::type_name::<T>(),
        size_of::<T>()
    )
}

/// The same, of what has a lock.
fn kind_with_lock<T>(what: &str) -> String {
    format!("{} ({ABI})", kind_of::<T>(what))
}

/// Every block is aligned to that.
const ALIGNMENT: usize = 128;

fn lend<S: Serializer>(segment: &Segment, serializer: S) -> Result<S::Ok, S::Error> {
    segment
        .lend()
        .map_err(ser::Error::custom)?
        .serialize(serializer)
}

/// Finds what a handle leads to, of a length that is right for it.
fn redeem<'de, D: Deserializer<'de>>(
    deserializer: D,
    kind: &str,
    is_right: impl FnOnce(usize) -> bool,
) -> Result<Arc<Segment>, D::Error> {
    let segment = Ticket::deserialize(deserializer)?
        .redeem(kind)
        .map_err(de::Error::custom)?;
    match is_right(segment.len()) {
        true => Ok(segment),
        false => Err(de::Error::custom(format!(
            "shared memory of {} bytes is no {kind}: build both programs with one version of this library",
            segment.len()
        ))),
    }
}
