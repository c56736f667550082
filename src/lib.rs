//! Python's `multiprocessing` and `threading`, for Rust, over ZeroMQ: from threads to processes to hosts, and the same
//! machinery as a command.
//!
//! Two journeys:
//!
//! ```text
//! a task:   ventilator ──lane──► worker ──► sink        and behind the last task, the poison pill   [pipeline]
//! its bytes: value ─► payload ─► frame ─► socket ─► frame ─► payload ─► value                         [wire]
//! ```
//!
//! | module | what it is |
//! |---|---|
//! | [`pipeline`] | ventilator, workers and sink |
//! | [`command`] | tasks that are commands, as the `procession` program runs them |
//! | [`pool`] | a pool of processes that run tasks: `map`, `apply`, `imap` |
//! | [`process`](mod@process) | processes that run a function, or a type's `run` method |
//! | [`Queue`], [`JoinableQueue`], [`SimpleQueue`] | items from any number of putters to any number of getters |
//! | [`QueueHost`] | a process that hosts queues by name, for programs that come and go |
//! | [`pipe`] | two ends, each in any process |
//! | [`thread`](mod@thread) | threads of the same shape as processes, and their [`Queue`](thread::Queue), [`LifoQueue`](thread::LifoQueue), [`PriorityQueue`](thread::PriorityQueue), [`Lock`](thread::Lock), [`RLock`](thread::RLock), [`Condition`](thread::Condition), [`Semaphore`](thread::Semaphore), [`BoundedSemaphore`](thread::BoundedSemaphore), [`Event`](thread::Event), [`Barrier`](thread::Barrier), [`Timer`](thread::Timer), [`Pool`](thread::Pool) |
//! | [`sync`] | between processes of one host: [`Lock`](sync::Lock), [`RLock`](sync::RLock), [`Semaphore`](sync::Semaphore), [`BoundedSemaphore`](sync::BoundedSemaphore), [`Condition`](sync::Condition), [`Event`](sync::Event), [`Barrier`](sync::Barrier) |
//! | [`shared`] | memory that processes share: [`Value`](shared::Value), [`Array`](shared::Array), [`AtomicCounter`](shared::AtomicCounter), and [`Memory`](shared::Memory), with and without a name; and data by URL, on any number of hosts: [`Dict`](shared::Dict), [`List`](shared::List), [`Counter`](shared::Counter), [`Namespace`](shared::Namespace), [`Manager`](shared::Manager) |
//! | [`keys`] | who may join over TCP: encryption, allow-lists, tickets |
//! | [`mod@bytes`] | binary items |
//! | [`registry`] | the program's tasks by name |
//! | [`wait`](mod@wait) | waiting for the first of several things |
//! | [`hub`] | the mechanism beneath: who holds what, and who gets what next |
//! | [`wire`] | messages, bodies, endpoints |

// What the attributes write names this crate from outside, and its own tests use them too.
extern crate self as procession;

mod at_exit;
pub mod bytes;
pub mod command;
pub mod engine;
pub mod error;
pub mod hub;
mod joinable_queue;
mod journal;
pub mod keys;
pub mod obituary;
pub mod pipe;
pub mod pipeline;
pub mod pool;
pub mod process;
mod queue;
mod queue_host;
pub mod registry;
pub mod shared;
mod simple_queue;
pub mod sync;
pub mod thread;
pub mod wait;
pub mod wire;

pub use crate::bytes::Bytes;
pub use error::{Error, Result};
pub use joinable_queue::JoinableQueue;
pub use pipe::{Client, Connection, Listener, Pipe};
pub use pool::Pool;
pub use process::{Process, Run};
pub use procession_macros::{main, process, task, thread};
pub use queue::{Item, Iter, PutError, Queue, QueueBuilder};
pub use queue_host::{HostedQueue, Leftover, QueueHost, QueueHostBuilder};
pub use registry::Task;
pub use simple_queue::SimpleQueue;
pub use wait::{Waitable, wait};
pub use wire::body::{Body, BodyWriter};
pub use wire::endpoint::Endpoint;
pub use wire::payload::Payload;

/// What the attributes write, and nobody else.
#[doc(hidden)]
pub mod __private {
    pub use crate::process::ending::{ByDebug, ByDisplay, Shown, main, outcome, report_error};
    pub use crate::process::inside::MAINS;
    pub use crate::registry::{TASKS, run_task};
    pub use linkme;
}

/// The version of libzmq that was built in, and whether it can encrypt (CURVE).
#[must_use]
pub fn zeromq() -> ((i32, i32, i32), bool) {
    (wire::socket::zmq_version(), wire::socket::has_curve())
}

/// The table for who comes from Python begins with a program.
#[cfg(doctest)]
#[doc = include_str!("../docs/from-python.md")]
struct FromPython;

/// The README's program is compiled and run like every other example.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
