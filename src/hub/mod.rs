//! The one mechanism: a host that hands items to consumers, each over a lane of its own, and knows who holds what.
//!
//! | file | what it is |
//! |---|---|
//! | [`ledger`] | what waits, what is leased to whom, what is done; who is to blame for a death (pure) |
//! | `task_table` | its tasks by id |
//! | [`deal`] | who gets how many of the tasks that wait, and from whom some are taken back (pure) |
//! | `intake` | where a program puts tasks, and waits while there are enough |
//! | `host` | the event loop around the ledger: admission, lanes, acknowledgements |
//! | `outbox` | results on their way to the sink, kept until acknowledged |
//! | `hand_over` | large bodies between roles of one process |
//! | `lane` | one consumer's private PUSH→PULL, with its byte credit |

pub(crate) mod consumer;
pub mod deal;
pub(crate) mod dial;
pub(crate) mod gather;
pub(crate) mod hand_over;
pub(crate) mod host;
pub(crate) mod intake;
pub(crate) mod lane;
pub mod ledger;
pub(crate) mod outbox;
mod task_table;
