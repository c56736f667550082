//! Every message of the protocol and its bytes: one MessagePack array in one ZeroMQ frame, first its kind, then the run's id,
//! then its fields. `docs/protocol.md` says who sends which when, and what the receiver does; these files and that page change together.
//!
//! Pure: bytes in, messages out. Nothing here believes a length or a number that it has not checked, and nothing panics on
//! any bytes.

// Writing MessagePack into a Vec cannot fail.
macro_rules! written {
    ($($call:expr),* $(,)?) => {{ $( let _ = $call; )* }};
}

mod ack;
mod batch;
mod control;
mod greeting;
mod obituary;
mod place;
mod queue;
mod state;

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use ack::{Ack, Kept};
pub use batch::{Batch, Part, ResultEntry, Results, TaskEntry, Tasks, encode_part};
pub use control::{Again, Credit, Done, Goodbye, Heartbeat, Pill, SinkAt, TaskList};
pub use greeting::{Hello, Refused, Role, Welcome};
pub use obituary::Obituaries;
pub use place::Place;
pub use queue::{
    Ask, Confirm, Confirmed, Find, Found, Items, ItemsEntry, Put, PutEntry, QueueInfo, Room, Want,
};
pub use state::{PeerState, State, StatusRequest};

/// The version of the protocol. Who speaks another is refused with a message that names both.
pub const VERSION: u16 = 1;
/// The word that every first message has behind its kind.
pub const MAGIC: &str = "procession";
/// The largest frame, in bytes.
pub const MAX_FRAME: usize = 1 << 20;
/// How many payload bytes go into one [`Part`], in bytes.
pub const PART_SIZE: usize = 256 << 10;
/// Bodies up to this size travel inside their batch; larger ones as parts before it, in bytes.
pub const INLINE: usize = 64 << 10;
/// A batch is sent when it has this many bytes, or when there is no more for it.
pub const BATCH: usize = 64 << 10;

/// One life of a pipeline.
pub type RunId = u64;
/// One life of a process in a role.
pub type PeerId = u64;
/// The number of a task, from 1, in the order of input.
pub type TaskId = u64;

/// The bytes are not a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed(pub String);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "malformed message: {}", self.0)
    }
}

impl std::error::Error for Malformed {}

/// Numbers of the kinds.
pub mod kind {
    #![allow(missing_docs)]
    pub const HELLO: u8 = 1;
    pub const WELCOME: u8 = 2;
    pub const REFUSED: u8 = 3;
    pub const CREDIT: u8 = 4;
    pub const HEARTBEAT: u8 = 5;
    pub const RETURNED: u8 = 6;
    pub const AGAIN: u8 = 7;
    pub const GOODBYE: u8 = 8;
    pub const SINK: u8 = 9;
    pub const DONE: u8 = 10;
    pub const REVOKE: u8 = 11;
    pub const REJOIN: u8 = 12;
    pub const PILL: u8 = 13;
    pub const TASKS: u8 = 14;
    pub const PART: u8 = 15;
    pub const RESULTS: u8 = 16;
    pub const ACK: u8 = 17;
    pub const STATUS: u8 = 18;
    pub const STATE: u8 = 19;
    pub const STOP: u8 = 20;
    pub const LAST: u8 = 21;
    pub const ITEMS: u8 = 22;
    pub const PUT: u8 = 23;
    pub const ROOM: u8 = 24;
    pub const WANT: u8 = 25;
    pub const CONFIRM: u8 = 26;
    pub const ASK: u8 = 27;
    pub const JOIN: u8 = 28;
    pub const SHUTDOWN: u8 = 29;
    pub const DROP: u8 = 30;
    pub const ANSWER: u8 = 31;
    pub const OBITUARIES: u8 = 32;
    pub const DOOMED: u8 = 33;
    pub const FIND: u8 = 34;
    pub const FOUND: u8 = 35;
}

/// Any message.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub enum Message {
    Hello(Hello),
    Welcome(Welcome),
    Refused(Refused),
    Credit(Credit),
    Heartbeat(Heartbeat),
    Returned(TaskList),
    Again(Again),
    Goodbye(Goodbye),
    SinkAt(SinkAt),
    Done(Done),
    Revoke(TaskList),
    Rejoin(Pill),
    Pill(Pill),
    Stop(Pill),
    Last(Pill),
    Tasks(Tasks),
    Part(Part),
    Results(Results),
    Ack(Ack),
    Status(StatusRequest),
    State(State),
    Items(Items),
    Put(Put),
    Room(Room),
    Want(Want),
    Confirm(Confirm),
    /// ASK, JOIN, SHUTDOWN or DROP.
    Ask(Ask),
    Answer(Ask),
    Obituaries(Obituaries),
    Doomed(Heartbeat),
    Find(Find),
    Found(Found),
    /// A first message of another version: its number.
    OtherVersion(u16),
}

/// The bytes of a message that is a plain struct.
///
/// ```
/// use procession::wire::frame::{Heartbeat, Message, decode, encode, kind};
/// let bytes = encode(&Heartbeat { kind: kind::HEARTBEAT, run: 7, ack: 0 });
/// assert_eq!(bytes, [0x93, 5, 7, 0]);
/// assert!(matches!(decode(&bytes.into()), Ok(Message::Heartbeat(_))));
/// ```
pub fn encode<M: Serialize>(message: &M) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(64);
    // Structs of numbers, strings and lists into memory: there is nothing that could fail.
    let written = rmp_serde::encode::write(&mut bytes, message);
    debug_assert!(written.is_ok(), "{written:?}");
    bytes
}

/// The message that these bytes are.
///
/// # Errors
/// When they are none.
pub fn decode(bytes: &Bytes) -> Result<Message, Malformed> {
    if bytes.len() > MAX_FRAME {
        return Err(Malformed(format!("{} bytes", bytes.len())));
    }
    let mut rest: &[u8] = bytes;
    let fields = rmp::decode::read_array_len(&mut rest)
        .map_err(|_| Malformed("it is not a MessagePack array".to_owned()))?;
    let kind: u8 = rmp::decode::read_int(&mut rest)
        .map_err(|_| Malformed("it does not start with its kind".to_owned()))?;
    if matches!(kind, kind::HELLO | kind::STATUS | kind::FIND) {
        let version = greeting(fields, rest)?;
        if version != VERSION {
            return Ok(Message::OtherVersion(version));
        }
    }
    Ok(match kind {
        kind::HELLO => Message::Hello(whole(bytes)?),
        kind::WELCOME => Message::Welcome(whole(bytes)?),
        kind::REFUSED => Message::Refused(whole(bytes)?),
        kind::CREDIT => Message::Credit(whole(bytes)?),
        kind::HEARTBEAT => Message::Heartbeat(whole(bytes)?),
        kind::RETURNED => Message::Returned(whole(bytes)?),
        kind::AGAIN => Message::Again(whole(bytes)?),
        kind::GOODBYE => Message::Goodbye(whole(bytes)?),
        kind::SINK => Message::SinkAt(whole(bytes)?),
        kind::DONE => Message::Done(whole(bytes)?),
        kind::REVOKE => Message::Revoke(whole(bytes)?),
        kind::REJOIN => Message::Rejoin(whole(bytes)?),
        kind::PILL => Message::Pill(whole(bytes)?),
        kind::STOP => Message::Stop(whole(bytes)?),
        kind::LAST => Message::Last(whole(bytes)?),
        kind::TASKS => Message::Tasks(batch::tasks(bytes)?),
        kind::PART => Message::Part(batch::part(bytes)?),
        kind::RESULTS => Message::Results(batch::results(bytes)?),
        kind::ACK => Message::Ack(whole(bytes)?),
        kind::STATUS => Message::Status(whole(bytes)?),
        kind::STATE => Message::State(whole(bytes)?),
        kind::ITEMS => Message::Items(queue::items(bytes)?),
        kind::PUT => Message::Put(queue::put(bytes)?),
        kind::ROOM => Message::Room(whole(bytes)?),
        kind::WANT => Message::Want(whole(bytes)?),
        kind::CONFIRM => Message::Confirm(whole(bytes)?),
        kind::ASK | kind::JOIN | kind::SHUTDOWN | kind::DROP => Message::Ask(whole(bytes)?),
        kind::ANSWER => Message::Answer(whole(bytes)?),
        kind::OBITUARIES => Message::Obituaries(whole(bytes)?),
        kind::DOOMED => Message::Doomed(whole(bytes)?),
        kind::FIND => Message::Find(whole(bytes)?),
        kind::FOUND => Message::Found(whole(bytes)?),
        other => return Err(Malformed(format!("kind {other} is not known"))),
    })
}

fn greeting(fields: u32, mut rest: &[u8]) -> Result<u16, Malformed> {
    let not_ours = || Malformed(format!("it does not greet with {MAGIC:?}"));
    if fields < 3 {
        return Err(not_ours());
    }
    let (word, mut rest) = {
        let (word, tail) = rmp::decode::read_str_from_slice(rest).map_err(|_| not_ours())?;
        rest = tail;
        (word, rest)
    };
    if word != MAGIC {
        return Err(not_ours());
    }
    rmp::decode::read_int(&mut rest).map_err(|_| not_ours())
}

fn whole<'a, M: Deserialize<'a>>(bytes: &'a [u8]) -> Result<M, Malformed> {
    let mut reader = rmp_serde::Deserializer::from_read_ref(bytes);
    // Messages are flat; a deep nest can only be an attack on the stack.
    reader.set_max_depth(16);
    let message = M::deserialize(&mut reader).map_err(|error| Malformed(error.to_string()))?;
    Ok(message)
}
