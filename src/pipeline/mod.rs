//! Ventilator, workers and sink: a job spread over processes and hosts, in which nothing is lost and nothing is done twice.
//!
//! ```text
//!   put ──► Ventilator ══lanes══► Worker(s) ══results══► Sink ──► get
//!               ▲                                          │
//!               └──────────── acknowledgements ────────────┘        and behind the last task, the poison pill
//! ```
//!
//! Each role is a value of its own, in a process or thread of its own; all meet at the ventilator's endpoint and may
//! start in any order. A task is done when the sink says so: what a killed worker held is run elsewhere, and of two results
//! of one task the first one kept wins. Choose it over a queue when results have to come back, exactly one a task.
//!
//! ```
//! use std::thread;
//! use procession::pipeline::{Sink, Ventilator, Worker};
//!
//! let ventilator = Ventilator::<u64>::bind("inproc://squares")?;
//! let worker = thread::spawn(|| Worker::connect("inproc://squares")?.run(|n: u64| n * n));
//! let gather = thread::spawn(|| -> procession::Result<u64> {
//!     let mut sum = 0;
//!     for outcome in Sink::<u64>::connect("inproc://squares")? {
//!         sum += outcome?.result.expect("squaring does not fail");
//!     }
//!     Ok(sum)
//! });
//! for n in 1..=10 {
//!     ventilator.put(n)?;
//! }
//! let summary = ventilator.finish()?;
//! assert_eq!(summary.done, 10);
//! assert_eq!(gather.join().expect("no panic")?, 385);
//! worker.join().expect("no panic")?;
//! # Ok::<(), procession::Error>(())
//! ```
//!
//! **What blocks.** [`Ventilator::put`] while enough is under way; [`Sink::get`] until there is a result; [`Worker::run`] until the
//! pill. **What is guaranteed.** Each task's result is given to the sink's program exactly once while that program lives; a task may
//! run more than once (after a death or a lost connection). Order is that of completion, or of input with
//! [`SinkBuilder::keep_order`].

pub(crate) mod by_queue;
mod poison_pill;
mod sink;
mod ventilator;
mod worker;

pub use crate::hub::host::Summary;
pub use crate::hub::limits::Limits;
pub use crate::journal::{Finished, Journal};
pub use crate::wire::frame::{PeerState, State};
pub use poison_pill::Cause;
pub use sink::{Got, Outcome, Receipt, Sink, SinkBuilder, SinkHandle, TaskError};
pub use ventilator::{
    Putter, Ventilator, VentilatorBuilder, VentilatorHandle, status, status_with,
};
pub use worker::{Answer, Lease, Slot, Worker, WorkerBuilder, WorkerEnd, WorkerHandle};

use crate::error::{Error, Result};

/// A random number that is not 0.
pub(crate) fn random_id() -> Result<u64> {
    loop {
        let id = getrandom::u64().map_err(|error| {
            Error::system(
                "cannot get random numbers",
                std::io::Error::other(error.to_string()),
            )
        })?;
        if id != 0 {
            return Ok(id);
        }
    }
}
