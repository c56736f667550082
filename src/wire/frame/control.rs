//! Messages on control, between a ventilator and those it has welcomed.

use serde::{Deserialize, Serialize};

use super::{PeerId, RunId, TaskId};

/// A worker's statement of what it can take and what it does. Counts are of this lane, from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credit {
    /// [`kind::CREDIT`](super::kind::CREDIT).
    pub kind: u8,
    /// The run.
    pub run: RunId,
    /// How many tasks may have been sent on this lane in all.
    pub tasks: u64,
    /// How many bytes of bodies may have been sent on this lane in all.
    pub bytes: u64,
    /// How many tasks it has taken up: started, or handed back. Tasks are taken up in the order of the lane.
    pub taken: u64,
    /// How many run now.
    pub running: u32,
}

/// I live. Both ways, when nothing else was said for an interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// [`kind::HEARTBEAT`](super::kind::HEARTBEAT).
    pub kind: u8,
    /// The run.
    pub run: RunId,
    /// To a sink: the number of the last [`Ack`](super::Ack) that arrived. Otherwise 0.
    pub ack: u64,
}

/// A list of tasks: [`kind::RETURNED`](super::kind::RETURNED) (a worker gives back what it had not started),
/// [`kind::REVOKE`](super::kind::REVOKE) (a ventilator asks for that).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskList {
    /// Which of the two.
    pub kind: u8,
    /// The run.
    pub run: RunId,
    /// Task and attempt.
    pub tasks: Vec<(TaskId, u32)>,
}

/// A try that failed, of a task that has tries left: the ventilator shall lease it anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Again {
    /// [`kind::AGAIN`](super::kind::AGAIN).
    pub kind: u8,
    /// The run.
    pub run: RunId,
    /// The task.
    pub id: TaskId,
    /// The attempt that failed.
    pub attempt: u32,
    /// Its exit status.
    pub exit: i32,
    /// Its signal, 0 for none.
    pub signal: i32,
}

/// I leave, and why. The ventilator answers a worker's with its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Goodbye {
    /// [`kind::GOODBYE`](super::kind::GOODBYE).
    pub kind: u8,
    /// The run.
    pub run: RunId,
    /// For people; empty when all went as it should.
    pub why: String,
    /// A sink: whether the run shall end with it, because nobody will read what is still to come.
    pub end: bool,
}

/// Where the sink is, told to workers when it changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkAt {
    /// [`kind::SINK`](super::kind::SINK).
    pub kind: u8,
    /// The run.
    pub run: RunId,
    /// The sink's peer id; 0: there is none now, keep your results.
    pub sink: PeerId,
    /// Where it gathers results.
    pub endpoints: Vec<String>,
    /// How many bytes a worker may have under way to it.
    pub window: u64,
    /// Its public key (Z85) where it gathers results by TCP; empty when that is plain.
    pub key: String,
}

/// Relayed acknowledgements: drop these tasks' results, or do not start them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// [`kind::DONE`](super::kind::DONE).
    pub kind: u8,
    /// The run.
    pub run: RunId,
    /// Ranges (first, count).
    pub tasks: Vec<(TaskId, u64)>,
    /// The link whose bytes the next field counts.
    pub link: u32,
    /// How many bytes the sink has taken in on that link in all.
    pub absorbed: u64,
}

/// The end, or that one should come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pill {
    /// [`kind::PILL`](super::kind::PILL), [`kind::REJOIN`](super::kind::REJOIN), [`kind::STOP`](super::kind::STOP) or [`kind::LAST`](super::kind::LAST).
    pub kind: u8,
    /// The run.
    pub run: RunId,
    /// Tasks that have a result.
    pub done: u64,
    /// Those of them that failed.
    pub failed: u64,
    /// Why it ended: 0 all done, otherwise the number of the signal that stopped the ventilator, or 255 for an error.
    pub cause: u8,
    /// Whether what runs is to be killed instead of finished.
    pub kill: bool,
}
