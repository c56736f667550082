//! The one mechanism: a host that hands items to consumers, each over a lane of its own, and knows who holds what.
//!
//! | file | what it is |
//! |---|---|
//! | [`ledger`] | what waits, what is leased to whom, what is done; who is to blame for a death (pure) |
//! | `ledger/holder` | one consumer as the ledger sees it |
//! | `ledger/membership` | consumers that join, fall silent, are gone; what becomes of what they held |
//! | `ledger/leases` | leases given, asked back, handed back, tried again |
//! | `ledger/results` | results that were kept, and whom to tell |
//! | `ledger/resumed` | a run that goes on after its ventilator was gone |
//! | `task_table` | its tasks by id |
//! | [`deal`] | who gets how many of the tasks that wait, and from whom some are taken back (pure) |
//! | `intake` | where a program puts tasks, and waits while there are enough |
//! | `host` | the event loop around the ledger |
//! | `host/control` | what comes in on control, and who handles it |
//! | `host/admission` | hello: a worker with its lane, the sink, or a refusal |
//! | `host/sink` | the run's sink: where it is, what it has kept, that it is gone |
//! | `host/links` | links that come and go |
//! | `host/dispatch` | leases, revocations and acknowledgements on their way out |
//! | `host/journal` | what is recorded, and what waits until it is |
//! | `host/keeping` | the same of a queue that outlives its host |
//! | `host/heartbeat` | heartbeats, silence, patience |
//! | `host/state` | what other threads tell the host, and what it shows them |
//! | `host/ending` | when a run is over, and how it ended |
//! | `consumer` | the other end: a worker's event loop |
//! | `consumer/inbox` | what its slots and the loop share |
//! | `consumer/joining` | its hello, what it holds, its welcome |
//! | `consumer/lane` | tasks come in, unstarted ones go back |
//! | `consumer/credit` | how much more it can take |
//! | `host/members` | a queue's members: what they put, their room, their questions |
//! | `limits` | how much others may ask of a host, and who has broken the protocol (pure) |
//! | `member` | one process at a queue: its event loop |
//! | `member/putting` | items on their way to the host, in blocks |
//! | `member/getting` | items that came, and how far they are taken |
//! | `member/asking` | what only the host knows |
//! | `outbox` | results on their way to the sink, kept until acknowledged |
//! | `outside` | time, sockets and machine of the event loops: the real ones, or those of the simulation |
//! | `simulation` | all of it in virtual time (docs/simulation.md) |
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
pub(crate) mod limits;
pub(crate) mod member;
mod obituaries;
pub(crate) mod outbox;
pub(crate) mod outside;
#[cfg(test)]
mod simulation;
pub(crate) mod task_table;

/// How long the answer to a goodbye is waited for: it comes from a loop that is there, or from nobody.
const GOODBYE: std::time::Duration = std::time::Duration::from_secs(2);
