//! A run's state, as whoever asks for it is told.

use serde::{Deserialize, Serialize};

use super::{PeerId, RunId};

/// The first and only message of who asks for the state; its first three fields are those of [`Hello`](super::Hello).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusRequest {
    /// [`kind::STATUS`](super::kind::STATUS).
    pub kind: u8,
    /// [`MAGIC`](super::MAGIC).
    pub magic: String,
    /// [`VERSION`](super::VERSION).
    pub version: u16,
}

/// One peer in [`State`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PeerState {
    /// Its id.
    pub peer: PeerId,
    /// `worker` or `sink`.
    pub role: String,
    /// Its host's name.
    pub host: String,
    /// Its process.
    pub pid: u32,
    /// Its slots.
    pub slots: u32,
    /// Tasks that run on it.
    pub running: u32,
    /// Tasks leased to it.
    pub leased: u64,
    /// Tasks whose result of it was kept.
    pub done: u64,
    /// `live`, `silent` or `leaving`.
    pub state: String,
}

/// The answer to [`StatusRequest`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// [`kind::STATE`](super::kind::STATE).
    pub kind: u8,
    /// The run.
    pub run: RunId,
    /// The ventilator's process.
    pub pid: u32,
    /// Its host's name.
    pub host: String,
    /// What it runs, for people.
    pub title: String,
    /// Seconds since its start.
    pub seconds: f64,
    /// Tasks read from the input and not leased.
    pub waiting: u64,
    /// Tasks leased.
    pub leased: u64,
    /// Tasks that run, as far as workers have said.
    pub running: u64,
    /// Tasks that have a result.
    pub done: u64,
    /// Those of them that failed.
    pub failed: u64,
    /// All tasks, when that is known.
    pub total: Option<u64>,
    /// Leases given beyond one a task: tried again, handed on.
    pub again: u64,
    /// Who is there.
    pub peers: Vec<PeerState>,
    /// How many were turned away: over a limit, or because they sent what is no message.
    pub turned_away: u64,
}
