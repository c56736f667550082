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
//! | [`wait`](mod@wait) | waiting for the first of several things |
//! | [`hub`] | the mechanism beneath: who holds what, and who gets what next |
//! | [`wire`] | messages, bodies, endpoints |

pub mod command;
pub mod error;
pub mod hub;
pub mod pipeline;
pub mod wait;
pub mod wire;

pub use error::{Error, Result};
pub use wait::{Waitable, wait};
pub use wire::body::{Body, BodyWriter};
pub use wire::endpoint::Endpoint;
pub use wire::payload::Payload;

/// The version of libzmq that was built in, and whether it can encrypt (CURVE).
#[must_use]
pub fn zeromq() -> ((i32, i32, i32), bool) {
    (wire::socket::zmq_version(), wire::socket::has_curve())
}

/// The README's program is compiled and run like every other example.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
