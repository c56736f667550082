//! How attempts at tasks ended that failed, beside the tasks and results themselves.

use serde::{Deserialize, Serialize};

use super::{PeerId, RunId, TaskId};
use crate::obituary::Obituary;

/// The obituaries of tasks, ahead of the message that they belong to: AGAIN on control, TASKS on a lane, RESULTS on the way to the
/// sink.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Obituaries {
    /// [`kind::OBITUARIES`](super::kind::OBITUARIES).
    pub kind: u8,
    /// The run.
    pub run: RunId,
    /// Among results: the sender. Otherwise 0.
    pub peer: PeerId,
    /// Task, attempt (of the entry that follows), and how attempts ended.
    pub tasks: Vec<(TaskId, u32, Vec<Obituary>)>,
}
