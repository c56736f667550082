//! Messages of a queue: between its host and the members who put and get.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::place::{Place, RawPlace};
use super::{Malformed, PeerId, RunId, TaskId, whole};

/// What a queue's host tells a member about it: the `job` of its [`Welcome`](super::Welcome).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueInfo {
    /// How many items may be inside; 0 stands for any number.
    pub maxsize: u64,
    /// Whether getters say when they are done with an item (`task_done`), and not only that they have taken it.
    pub joinable: bool,
}

/// Where is the queue of this name? The first message of a member to a host of many queues, on control; the queue is made if it is not
/// there. Its first three fields never change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Find {
    /// [`kind::FIND`](super::kind::FIND).
    pub kind: u8,
    /// [`MAGIC`](super::MAGIC).
    pub magic: String,
    /// [`VERSION`](super::VERSION).
    pub version: u16,
    /// Who asks.
    pub peer: PeerId,
    /// The queue's run, where that is known; 0: whichever it is.
    pub run: RunId,
    /// The [`Transport`](crate::wire::endpoint::Transport) by which it dialled.
    pub via: u8,
    /// The queue's name.
    pub queue: String,
    /// Should it be made: as its [`QueueInfo`] says.
    pub maxsize: u64,
    /// As there.
    pub joinable: bool,
}

/// The answer to [`Find`]: HELLO is to be said there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// [`kind::FOUND`](super::kind::FOUND).
    pub kind: u8,
    /// Who asked.
    pub peer: PeerId,
    /// The queue's control. Host `*`: the host that was dialled.
    pub address: String,
    /// Whether it outlives its host: when that is lost, FIND is to be said again.
    pub lasting: bool,
}

/// How far a getter is with one block. Counts are of the block's items, from its first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirmed {
    /// The block.
    pub id: TaskId,
    /// The attempt under which it holds it.
    pub attempt: u32,
    /// How many items it keeps; the others it gives back.
    pub kept: u32,
    /// How many its program has taken.
    pub taken: u32,
    /// How many its program is done with.
    pub done: u32,
}

/// A getter's progress.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirm {
    /// [`kind::CONFIRM`](super::kind::CONFIRM).
    pub kind: u8,
    /// The run.
    pub run: RunId,
    /// Whether it answers a REVOKE.
    pub answer: bool,
    /// The blocks with which it is further than it has said.
    pub blocks: Vec<Confirmed>,
}

/// What a putter may put, and what was accepted of it. Numbers and counts are of this putter, from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Room {
    /// [`kind::ROOM`](super::kind::ROOM).
    pub kind: u8,
    /// The run.
    pub run: RunId,
    /// The number of the last block that was accepted.
    pub accepted: u64,
    /// How many items may have been put in all.
    pub items: u64,
    /// The number of the last [`Want`] that this takes into account.
    pub want: u64,
    /// The link whose bytes the next field counts.
    pub link: u32,
    /// How many bytes were taken in on that link in all.
    pub absorbed: u64,
    /// Nobody puts any more.
    pub closed: bool,
}

/// How many items a putter wants to have put in all; less than before gives back what it was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Want {
    /// [`kind::WANT`](super::kind::WANT).
    pub kind: u8,
    /// The run.
    pub run: RunId,
    /// Items in all, from this putter's start.
    pub items: u64,
    /// Counts up.
    pub number: u64,
}

/// A member's question, and the answer: [`kind::ASK`](super::kind::ASK), [`kind::JOIN`](super::kind::JOIN) (answered when all
/// is done with), [`kind::SHUTDOWN`](super::kind::SHUTDOWN), [`kind::DROP`](super::kind::DROP) (shutdown that forgets what
/// is inside), [`kind::ANSWER`](super::kind::ANSWER).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// Which of them.
    pub kind: u8,
    /// The run.
    pub run: RunId,
    /// The asker's number of the question; the answer has the same.
    pub number: u64,
    /// In an answer: items inside, put and not yet taken. Otherwise 0.
    pub inside: u64,
    /// In an answer: items put and not done with. Otherwise 0.
    pub unfinished: u64,
}

/// A block on its lane.
#[derive(Clone, Debug)]
pub struct ItemsEntry {
    /// The block.
    pub id: TaskId,
    /// The attempt, from 1.
    pub attempt: u32,
    /// How many items it has; 0: it is one large item, as it is.
    pub items: u32,
    /// Its body.
    pub place: Place,
}

/// Blocks on a lane.
#[derive(Clone, Debug)]
pub struct Items {
    /// The run.
    pub run: RunId,
    /// In the order in which they are to be taken.
    pub entries: Vec<ItemsEntry>,
}

/// A block on its way to the host.
#[derive(Clone, Debug)]
pub struct PutEntry {
    /// Its number, from 1, in the order of this putter.
    pub number: u64,
    /// How many items it has; 0: it is one large item, as it is.
    pub items: u32,
    /// Its body.
    pub place: Place,
}

/// Blocks on their way to the host.
#[derive(Clone, Debug)]
pub struct Put {
    /// The run.
    pub run: RunId,
    /// The putter.
    pub peer: PeerId,
    /// Which of its connections this is, from 1.
    pub link: u32,
    /// Whether it waits for the answer.
    pub prompt: bool,
    /// The blocks, in order.
    pub entries: Vec<PutEntry>,
}

pub(super) fn items(bytes: &Bytes) -> Result<Items, Malformed> {
    type Raw<'a> = (u8, u64, Vec<(u64, u32, u32, RawPlace<'a>)>);
    let (_, run, raw): Raw<'_> = whole(bytes)?;
    let entries = raw
        .into_iter()
        .map(|(id, attempt, items, place)| ItemsEntry {
            id,
            attempt,
            items,
            place: place.of(bytes),
        })
        .collect();
    Ok(Items { run, entries })
}

pub(super) fn put(bytes: &Bytes) -> Result<Put, Malformed> {
    type Raw<'a> = (u8, u64, u64, u32, bool, Vec<(u64, u32, RawPlace<'a>)>);
    let (_, run, peer, link, prompt, raw): Raw<'_> = whole(bytes)?;
    if raw
        .iter()
        .any(|entry| matches!(entry.2, RawPlace::File(..)))
    {
        return Err(Malformed("an item is in a file".to_owned()));
    }
    let entries = raw
        .into_iter()
        .map(|(number, items, place)| PutEntry {
            number,
            items,
            place: place.of(bytes),
        })
        .collect();
    Ok(Put {
        run,
        peer,
        link,
        prompt,
        entries,
    })
}
