//! What goes over the wire, from meaning to bytes.
//!
//! | file | what it is |
//! |---|---|
//! | [`payload`] | a user's value ⇄ the bytes of a task or result |
//! | [`block`] | several items of a queue in one body (pure) |
//! | [`body`] | those bytes, in memory or in a temporary file |
//! | [`frame`] | every message of the protocol ⇄ one MessagePack frame (pure; docs/protocol.md) |
//! | `frame/greeting` | hello, welcome, refused |
//! | `frame/control` | what is said on control after the welcome |
//! | `frame/batch` | batches of tasks and results, and parts of large bodies |
//! | `frame/place` | where the body of an entry is |
//! | `frame/ack` | what the sink has kept |
//! | `frame/queue` | what a queue's host and members say |
//! | `frame/state` | a run's state, for who asks |
//! | [`id_set`] | sets of task ids as ranges |
//! | [`endpoint`] | `tcp://`, `ipc://`, `inproc://`: parsed and judged |
//! | `access` | who may use TCP, and how each side proves who it is |
//! | `by_port` | how programs of one user find each other's keys on loopback |
//! | [`runtime_dir`] | the private directory for sockets |
//! | `same_host` | rings of shared memory below sockets, between ends on one host |
//! | `socket` | the only user of the `zmq` crate; `socket/curve`: encryption, and who is let in |
//! | `wake` | how another thread interrupts an event loop |

pub(crate) mod access;
pub mod block;
pub mod body;
pub(crate) mod by_port;
pub mod endpoint;
pub mod frame;
pub mod id_set;
pub mod payload;
pub mod runtime_dir;
#[cfg_attr(test, allow(dead_code, reason = "the simulation has no rings"))]
pub(crate) mod same_host;
#[cfg_attr(
    test,
    allow(dead_code, reason = "the simulation takes the place of some of it")
)]
pub(crate) mod socket;
#[cfg_attr(test, allow(dead_code, reason = "the simulation does not sleep"))]
pub(crate) mod wake;
