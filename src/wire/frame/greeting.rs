//! The first messages: who says hello, and the answer.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{PeerId, RunId, TaskId};
use crate::error::{Error, Result};
use crate::keys::KeyPair;

/// What a peer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Role {
    /// Runs tasks.
    Worker = 0,
    /// Gathers results.
    Sink = 1,
    /// Puts items into a queue, and gets them when it has a slot.
    Member = 2,
}

/// The first message of a worker or sink, on control. Its first three fields never change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`kind::HELLO`](super::kind::HELLO).
    pub kind: u8,
    /// [`MAGIC`](super::MAGIC).
    pub magic: String,
    /// [`VERSION`](super::VERSION).
    pub version: u16,
    /// [`Role`].
    pub role: u8,
    /// Random, for the life of this process in this role.
    pub peer: PeerId,
    /// The run that it belongs to, 0 when it has none yet.
    pub run: RunId,
    /// The [`Transport`](crate::wire::endpoint::Transport) by which it dialled.
    pub via: u8,
    /// A worker's slots: how many tasks it runs at once.
    pub slots: u32,
    /// Its host's name, for people.
    pub host: String,
    /// Its machine's id (of this boot), by which it is known whether a lost connection is a death.
    pub machine: String,
    /// Its process.
    pub pid: u32,
    /// A worker that comes back: the tasks that it holds, each with its attempt. Results that it keeps count as held.
    pub held: Vec<(TaskId, u32)>,
    /// A sink: whether it wants results in order, so that nobody may run far ahead of the lowest unfinished task.
    pub ordered: bool,
    /// A sink: where it gathers results; host `*` stands for the host as the ventilator sees it.
    pub endpoints: Vec<String>,
    /// A consumer: whether it understands the same-host path (docs/same-host.md).
    pub rings: bool,
    /// A sink: its public key (Z85) where it gathers results by TCP; empty when that is plain.
    pub key: String,
}

/// The answer to [`Hello`].
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// [`kind::WELCOME`](super::kind::WELCOME).
    pub kind: u8,
    /// The run.
    pub run: RunId,
    /// To whom: a welcome that was on its way when the peer said hello anew is known by it.
    pub peer: PeerId,
    /// The interval of heartbeats, in milliseconds.
    pub heartbeat: u32,
    /// A worker's lane (it pulls), or where a sink's acknowledgements go (it pushes). Host `*`: the host that it dialled.
    pub address: String,
    /// What the ventilator's program tells every worker and the sink about the run; may be empty.
    #[serde(with = "serde_bytes")]
    pub job: Vec<u8>,
    /// The sink's peer id, 0 when there is none yet.
    pub sink: PeerId,
    /// Where the sink gathers results.
    pub endpoints: Vec<String>,
    /// How many bytes of results a worker may have under way to the sink.
    pub window: u64,
    /// A sink: the tasks that are done, as ranges (first, count).
    pub acked: Vec<(TaskId, u64)>,
    /// A sink: whether this run has had a sink before.
    pub resumed: bool,
    /// A sink that comes back: the number of the last [`Ack`](super::Ack) that arrived.
    pub ack: u64,
    /// The sink's public key (Z85) where it gathers results by TCP; empty when that is plain.
    pub key: String,
    /// The pair that all members of the run show to the sink (public and secret, Z85, 80 characters); empty when the run is plain.
    pub pass: String,
}

impl Welcome {
    /// The pair that all members of the run show to the sink.
    ///
    /// # Errors
    /// When it is none.
    pub(crate) fn pass(&self) -> Result<Option<KeyPair>> {
        if self.pass.is_empty() {
            return Ok(None);
        }
        let halves = self.pass.split_at_checked(self.pass.len() / 2);
        let (public, secret) = halves.unwrap_or_default();
        KeyPair::from_z85(public, secret)
            .map(Some)
            .map_err(|why| Error::Encoding {
                what: "the welcome's pass".to_owned(),
                why: why.to_string(),
            })
    }
}

impl fmt::Debug for Welcome {
    /// Without the pass, which is a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Welcome")
            .field("run", &self.run)
            .field("peer", &self.peer)
            .field("address", &self.address)
            .field("sink", &self.sink)
            .field("endpoints", &self.endpoints)
            .finish_non_exhaustive()
    }
}

/// No, and why. `again` says that asking again may help.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// [`kind::REFUSED`](super::kind::REFUSED).
    pub kind: u8,
    /// [`VERSION`](super::VERSION) of the refuser.
    pub version: u16,
    /// The reason, for people.
    pub why: String,
    /// Whether it may be otherwise soon.
    pub again: bool,
}
