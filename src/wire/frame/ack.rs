//! What a sink has kept, as it says so.

use serde::{Deserialize, Serialize};

use super::{PeerId, RunId, TaskId};

/// Results kept: `count` tasks from `first` on that ended alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// The first task.
    pub first: TaskId,
    /// How many.
    pub count: u64,
    /// The attempt whose result was kept; 0 when it is not known any more.
    pub attempt: u32,
    /// Who ran them; 0 when it is not known any more.
    pub worker: PeerId,
    /// Exit status.
    pub exit: i32,
    /// Signal.
    pub signal: i32,
    /// Microseconds that they ran, in all.
    pub micros: u64,
}

impl Kept {
    /// Whether these count as failed.
    #[must_use]
    pub const fn failed(&self) -> bool {
        self.exit != 0 || self.signal != 0
    }
}

/// A sink's acknowledgements.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ack {
    /// [`kind::ACK`](super::kind::ACK).
    pub kind: u8,
    /// The run.
    pub run: RunId,
    /// The sink.
    pub sink: PeerId,
    /// The number of this message, from 1.
    pub number: u64,
    /// What was kept.
    pub kept: Vec<Kept>,
    /// Bytes taken in, in all, of each (worker, link).
    pub absorbed: Vec<(PeerId, u32, u64)>,
}
