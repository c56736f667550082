//! Threads that run a function, or a type's `run` method, and what they talk and wait by: Python's `threading` and `queue`.
//!
//! ```
//! use procession::thread::{Lock, Queue, Thread};
//!
//! fn main() -> procession::Result<()> {
//!     let (numbers, lock) = (Queue::new(), Lock::new());
//!     let consumer = Thread::spawn(
//!         |numbers: Queue<u64>, lock: Lock| {
//!             let mut sum = 0;
//!             for number in &numbers {
//!                 let _held = lock.lock()?; // released at the end of the block, also by a panic
//!                 sum += number;
//!             }
//!             Ok::<_, procession::Error>(sum)
//!         },
//!         (numbers.clone(), lock),
//!     )?;
//!     for number in 1..=4 {
//!         numbers.put(number)?;
//!     }
//!     numbers.shutdown();
//!     assert_eq!(consumer.join_once()??, 10);
//!     Ok(())
//! }
//! ```
//!
//! Choose threads for what waits, and for what shares much memory; they use all processors, unlike Python's. Choose
//! [processes](mod@crate::process) for what may crash, leak or be killed, and for what is to move to other hosts later. What only
//! borrows from its caller is done best by [`std::thread::scope`].
//!
//! # The same shape as `process`
//!
//! This module has what [`process`](mod@crate::process) has, under the same names ([`Process`], [`Run`], [`Builder`],
//! [`active_children`], [`current_process`], [`wait`], [`cpu_count`]). So a program that imports those becomes one with threads when
//! `process` is changed to `thread` in the import:
//!
//! ```
//! use procession::thread::{Process, Run}; // or: use procession::process::{Process, Run};
//! use serde::{Deserialize, Serialize};
//!
//! #[procession::task]
//! fn add(left: u64, right: u64) -> u64 {
//!     left + right
//! }
//!
//! #[derive(Serialize, Deserialize)]
//! struct Square(u64);
//!
//! #[procession::process]
//! impl Run for Square {
//!     fn run(self) -> u64 {
//!         self.0 * self.0
//!     }
//! }
//!
//! #[procession::main]
//! fn main() -> procession::Result<()> {
//!     assert_eq!(Process::spawn(add, (1, 2))?.join()?, 3);
//!     assert_eq!(Square(4).start()?.join()?, 16);
//!     Ok(())
//! }
//! ```
//!
//! What a thread cannot do is not there: it has no environment and no standard streams of its own, and nobody can kill it.
//!
//! # How it ends
//!
//! | the thread | [`join`](Thread::join) |
//! |---|---|
//! | returns a value | the value |
//! | returns `Err`, as a task or a [`Run`] | the error's text |
//! | panics | the message and where |
//!
//! [`#[procession::main]`](macro@crate::main) joins all threads that are no *daemons* ([`Builder::daemon`]) when its function has
//! returned, as Python does, and so does the runner of a child process. Daemons end with the process, wherever they are. In a program
//! without it all threads end when `main` returns, as everywhere in Rust, and also when `std::process::exit` is called: join them.
//!
//! # What is here
//!
//! | | |
//! |---|---|
//! | [`Thread`], [`Run`], [`Timer`] | a thread from a function or a closure, from a type, and one that begins later |
//! | [`Queue`], [`LifoQueue`], [`PriorityQueue`] | items of any type, nothing is encoded |
//! | [`Lock`], [`RLock`], [`Condition`] | one at a time |
//! | [`Semaphore`], [`BoundedSemaphore`] | so many at a time |
//! | [`Event`], [`Barrier`] | go on when something has happened, or when all are here |
//! | [`Pool`] | threads that run functions: `map`, `apply`, `imap` |
//!
//! All of them are handles: a clone is the same object, so they can be moved into threads. Where a lock guards *data*, Rust has
//! something better than Python: `std::sync::Mutex<T>` lets nobody reach the data without it.

mod barrier;
mod builder;
mod condition;
mod event;
mod handle;
mod identity;
mod living;
mod lock;
mod pool;
mod queue;
mod rlock;
mod run;
mod semaphore;
mod target;
mod timer;

pub use barrier::Barrier;
pub use builder::Builder;
pub use condition::Condition;
pub use event::Event;
pub use handle::{AnyThread, Thread};
pub use identity::{Identity, active_count, current_thread, enumerate, main_thread};
pub use living::active_children;
pub(crate) use living::join_all;
pub use lock::{Lock, LockGuard};
pub use pool::{Imap, Pool, PoolBuilder};
pub use queue::{Iter, LifoQueue, PriorityQueue, Queue};
pub use rlock::{RLock, RLockGuard};
pub use run::Run;
pub use semaphore::{BoundedSemaphore, Semaphore, SemaphoreGuard};
pub use target::{Function, Target};
pub use timer::Timer;

#[doc(no_inline)]
pub use crate::pool::AsyncResult;
#[doc(no_inline)]
pub use crate::process::cpu_count;
#[doc(no_inline)]
pub use crate::queue::PutError;
#[doc(no_inline)]
pub use crate::wait::wait;

/// [`AnyThread`], under the name that `process` has for it.
#[doc(no_inline)]
pub use handle::AnyThread as AnyProcess;
/// [`Thread`], under the name that `process` has for it.
#[doc(no_inline)]
pub use handle::Thread as Process;
/// [`Identity`], under the name that `process` has for it.
#[doc(no_inline)]
pub use identity::Identity as CurrentProcess;
/// [`current_thread`], under the name that `process` has for it.
#[doc(no_inline)]
pub use identity::current_thread as current_process;

use std::time::{Duration, Instant};

/// When a wait of this length ends; `None`: never, as no clock holds such a time.
fn deadline(time: Duration) -> Option<Instant> {
    Instant::now().checked_add(time)
}
