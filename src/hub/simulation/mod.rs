//! Ventilator, workers and sink in virtual time, from one seed (docs/simulation.md).
//!
//! | file | what it is |
//! |---|---|
//! | `clock` | the clock that the event loops read |
//! | `network` | sockets, connections, and what goes wrong with them |
//! | `process` | an event loop that stands still in its poll |
//! | `plan` | what a seed stands for |
//! | `course` | a run: what the programs around the loops do, and what is checked |
//! | `random` | numbers from the seed |

pub(crate) mod clock;
mod course;
pub(crate) mod network;
mod plan;
mod process;
mod random;
#[cfg(test)]
mod tests;

pub(super) use course::look_at;
