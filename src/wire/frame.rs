//! Every message of the protocol and its bytes: one MessagePack array in one ZeroMQ frame, first its kind, then the run's id,
//! then its fields. `docs/protocol.md` says who sends which when, and what the receiver does; this file and that page change together.
//!
//! Pure: bytes in, messages out. Nothing here believes a length or a number that it has not checked, and nothing panics on
//! any bytes.

use std::fmt;

use bytes::Bytes;
use rmp::encode as put;
use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::wire::body::Body;

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
}

/// What a peer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Role {
    /// Runs tasks.
    Worker = 0,
    /// Gathers results.
    Sink = 1,
}

/// The first message of a worker or sink, on control. Its first three fields never change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`kind::HELLO`].
    pub kind: u8,
    /// [`MAGIC`].
    pub magic: String,
    /// [`VERSION`].
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
}

/// The answer to [`Hello`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// [`kind::WELCOME`].
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
    /// A sink that comes back: the number of the last [`Ack`] that arrived.
    pub ack: u64,
}

/// No, and why. `again` says that asking again may help.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// [`kind::REFUSED`].
    pub kind: u8,
    /// [`VERSION`] of the refuser.
    pub version: u16,
    /// The reason, for people.
    pub why: String,
    /// Whether it may be otherwise soon.
    pub again: bool,
}

/// A worker's statement of what it can take and what it does. Counts are of this lane, from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credit {
    /// [`kind::CREDIT`].
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
    /// [`kind::HEARTBEAT`].
    pub kind: u8,
    /// The run.
    pub run: RunId,
    /// To a sink: the number of the last [`Ack`] that arrived. Otherwise 0.
    pub ack: u64,
}

/// A list of tasks: [`kind::RETURNED`] (a worker gives back what it had not started), [`kind::REVOKE`] (a ventilator asks for that).
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
    /// [`kind::AGAIN`].
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
    /// [`kind::GOODBYE`].
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
    /// [`kind::SINK`].
    pub kind: u8,
    /// The run.
    pub run: RunId,
    /// The sink's peer id; 0: there is none now, keep your results.
    pub sink: PeerId,
    /// Where it gathers results.
    pub endpoints: Vec<String>,
    /// How many bytes a worker may have under way to it.
    pub window: u64,
}

/// Relayed acknowledgements: drop these tasks' results, or do not start them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// [`kind::DONE`].
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
    /// [`kind::PILL`], [`kind::REJOIN`], [`kind::STOP`] or [`kind::LAST`].
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

/// A piece of a body that is too large for a batch, before the entry that it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The run.
    pub run: RunId,
    /// The worker that sends it; 0 for a ventilator.
    pub peer: PeerId,
    /// The sender's link (see [`Done`]).
    pub link: u32,
    /// The task.
    pub id: TaskId,
    /// The attempt.
    pub attempt: u32,
    /// Where in the body these bytes are.
    pub offset: u64,
    /// The bytes.
    pub bytes: Bytes,
}

/// Where the body of an entry is.
#[derive(Clone, Debug)]
pub enum Place {
    /// Here.
    Inline(Bytes),
    /// In the parts before, so many bytes in all.
    Parts(u64),
    /// In a file that the receiver can open: it is the same process.
    File(Body),
    /// In this process, handed over under this number.
    Handed(u64),
    /// No value: the text of the error that stands for it.
    Error(String),
}

/// A task on its lane.
#[derive(Clone, Debug)]
pub struct TaskEntry {
    /// The task.
    pub id: TaskId,
    /// The attempt, from 1.
    pub attempt: u32,
    /// How many tries are left should this one fail.
    pub tries_left: u32,
    /// Its body.
    pub place: Place,
}

/// A batch of tasks.
#[derive(Clone, Debug)]
pub struct Tasks {
    /// The run.
    pub run: RunId,
    /// In the order in which they are to be taken up.
    pub entries: Vec<TaskEntry>,
}

/// A result on its way to the sink.
#[derive(Clone, Debug)]
pub struct ResultEntry {
    /// The task.
    pub id: TaskId,
    /// The attempt.
    pub attempt: u32,
    /// Exit status; 0 is success.
    pub exit: i32,
    /// The signal that ended it; 0 for none.
    pub signal: i32,
    /// How long it ran, in microseconds.
    pub micros: u64,
    /// The user's value, or the text of the error that came instead of one.
    pub place: Place,
}

impl ResultEntry {
    /// Whether it counts as failed.
    #[must_use]
    pub const fn failed(&self) -> bool {
        self.exit != 0 || self.signal != 0
    }
}

/// A batch of results.
#[derive(Clone, Debug)]
pub struct Results {
    /// The run.
    pub run: RunId,
    /// The worker; 0 for the ventilator itself, which reports tasks that nobody survives.
    pub peer: PeerId,
    /// The worker's link to the sink.
    pub link: u32,
    /// The results.
    pub entries: Vec<ResultEntry>,
}

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
    /// [`kind::ACK`].
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

/// The first and only message of who asks for the state; its first three fields are those of [`Hello`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusRequest {
    /// [`kind::STATUS`].
    pub kind: u8,
    /// [`MAGIC`].
    pub magic: String,
    /// [`VERSION`].
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
    /// [`kind::STATE`].
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
    if kind == kind::HELLO || kind == kind::STATUS {
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
        kind::TASKS => Message::Tasks(tasks(bytes)?),
        kind::PART => Message::Part(part(bytes)?),
        kind::RESULTS => Message::Results(results(bytes)?),
        kind::ACK => Message::Ack(whole(bytes)?),
        kind::STATUS => Message::Status(whole(bytes)?),
        kind::STATE => Message::State(whole(bytes)?),
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

// ---- batches: entries are written where they arise, and read as slices of the message ----

/// A batch being written: [`Tasks`] or [`Results`], whose number of entries is known at its end only.
#[derive(Debug)]
pub struct Batch {
    bytes: Vec<u8>,
    count_at: usize,
    count: u32,
}

// Writing MessagePack into a Vec cannot fail.
macro_rules! written {
    ($($call:expr),* $(,)?) => {{ $( let _ = $call; )* }};
}

impl Batch {
    /// A batch of tasks.
    #[must_use]
    pub fn tasks(run: RunId) -> Self {
        let mut bytes = Vec::with_capacity(1024);
        written!(
            put::write_array_len(&mut bytes, 3),
            put::write_uint(&mut bytes, kind::TASKS.into()),
            put::write_uint(&mut bytes, run),
        );
        Self::open(bytes)
    }

    /// A batch of results.
    #[must_use]
    pub fn results(run: RunId, peer: PeerId, link: u32) -> Self {
        let mut bytes = Vec::with_capacity(1024);
        written!(
            put::write_array_len(&mut bytes, 5),
            put::write_uint(&mut bytes, kind::RESULTS.into()),
            put::write_uint(&mut bytes, run),
            put::write_uint(&mut bytes, peer),
            put::write_uint(&mut bytes, link.into()),
        );
        Self::open(bytes)
    }

    fn open(mut bytes: Vec<u8>) -> Self {
        // array 32, so that the count can be filled in afterwards.
        bytes.push(0xdd);
        let count_at = bytes.len();
        bytes.extend_from_slice(&[0; 4]);
        Self {
            bytes,
            count_at,
            count: 0,
        }
    }

    /// Adds a task.
    pub fn push_task(&mut self, id: TaskId, attempt: u32, tries_left: u32, place: &Place) {
        let out = &mut self.bytes;
        written!(
            put::write_array_len(out, 4),
            put::write_uint(out, id),
            put::write_uint(out, attempt.into()),
            put::write_uint(out, tries_left.into()),
        );
        write_place(out, place);
        self.count += 1;
    }

    /// Adds a task whose body is here.
    pub fn push_inline_task(&mut self, id: TaskId, attempt: u32, tries_left: u32, body: &[u8]) {
        let out = &mut self.bytes;
        written!(
            put::write_array_len(out, 4),
            put::write_uint(out, id),
            put::write_uint(out, attempt.into()),
            put::write_uint(out, tries_left.into()),
            put::write_bin(out, body),
        );
        self.count += 1;
    }

    /// Adds a result.
    pub fn push_result(&mut self, entry: &ResultEntry) {
        let out = &mut self.bytes;
        written!(
            put::write_array_len(out, 6),
            put::write_uint(out, entry.id),
            put::write_uint(out, entry.attempt.into()),
            put::write_sint(out, entry.exit.into()),
            put::write_sint(out, entry.signal.into()),
            put::write_uint(out, entry.micros),
        );
        write_place(out, &entry.place);
        self.count += 1;
    }

    /// How many entries there are.
    #[must_use]
    pub const fn len(&self) -> u32 {
        self.count
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether another entry of `body` bytes should rather go into the next batch.
    #[must_use]
    pub fn is_full_for(&self, body: usize) -> bool {
        self.count > 0 && self.bytes.len() + body > BATCH
    }

    /// The message's bytes.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.bytes[self.count_at..self.count_at + 4].copy_from_slice(&self.count.to_be_bytes());
        self.bytes
    }
}

fn write_place(out: &mut Vec<u8>, place: &Place) {
    match place {
        Place::Inline(bytes) => written!(put::write_bin(out, bytes)),
        Place::Parts(len) => written!(put::write_uint(out, *len)),
        Place::Error(text) => written!(put::write_str(out, text)),
        Place::Handed(key) => written!(put::write_array_len(out, 1), put::write_uint(out, *key)),
        Place::File(Body::Range { path, offset, len }) => {
            use std::os::unix::ffi::OsStrExt;
            written!(
                put::write_array_len(out, 3),
                put::write_bin(out, path.as_os_str().as_bytes()),
                put::write_uint(out, *offset),
                put::write_uint(out, *len),
            );
        }
        // Only ranges of named files are sent as places.
        Place::File(body) => written!(put::write_uint(out, body.len())),
    }
}

/// The bytes of a part.
#[must_use]
pub fn encode_part(part: &Part) -> Vec<u8> {
    let mut out = Vec::with_capacity(part.bytes.len() + 64);
    written!(
        put::write_array_len(&mut out, 8),
        put::write_uint(&mut out, kind::PART.into()),
        put::write_uint(&mut out, part.run),
        put::write_uint(&mut out, part.peer),
        put::write_uint(&mut out, part.link.into()),
        put::write_uint(&mut out, part.id),
        put::write_uint(&mut out, part.attempt.into()),
        put::write_uint(&mut out, part.offset),
        put::write_bin(&mut out, &part.bytes),
    );
    out
}

fn part(bytes: &Bytes) -> Result<Part, Malformed> {
    type Raw<'a> = (u8, u64, u64, u32, u64, u32, u64, &'a serde_bytes::Bytes);
    let raw: Raw<'_> = whole(bytes)?;
    Ok(Part {
        run: raw.1,
        peer: raw.2,
        link: raw.3,
        id: raw.4,
        attempt: raw.5,
        offset: raw.6,
        bytes: bytes.slice_ref(raw.7),
    })
}

fn tasks(bytes: &Bytes) -> Result<Tasks, Malformed> {
    type Raw<'a> = (u8, u64, Vec<(u64, u32, u32, RawPlace<'a>)>);
    let (_, run, raw): Raw<'_> = whole(bytes)?;
    let entries = raw
        .into_iter()
        .map(|(id, attempt, tries_left, place)| TaskEntry {
            id,
            attempt,
            tries_left,
            place: place.of(bytes),
        })
        .collect();
    Ok(Tasks { run, entries })
}

fn results(bytes: &Bytes) -> Result<Results, Malformed> {
    type Entry<'a> = (u64, u32, i32, i32, u64, RawPlace<'a>);
    let (_, run, peer, link, raw): (u8, u64, u64, u32, Vec<Entry<'_>>) = whole(bytes)?;
    // A worker names no files for the sink to open: it may be another user's, on another host.
    if raw
        .iter()
        .any(|entry| matches!(entry.5, RawPlace::File(..)))
    {
        return Err(Malformed("a result is in a file".to_owned()));
    }
    let entries = raw
        .into_iter()
        .map(|(id, attempt, exit, signal, micros, place)| ResultEntry {
            id,
            attempt,
            exit,
            signal,
            micros,
            place: place.of(bytes),
        })
        .collect();
    Ok(Results {
        run,
        peer,
        link,
        entries,
    })
}

/// A place as it is read: slices of the message.
enum RawPlace<'a> {
    Inline(&'a [u8]),
    Parts(u64),
    File(&'a [u8], u64, u64),
    Error(&'a str),
    Handed(u64),
}

impl RawPlace<'_> {
    fn of(self, message: &Bytes) -> Place {
        match self {
            Self::Inline([]) => Place::Inline(Bytes::new()),
            Self::Inline(bytes) => Place::Inline(message.slice_ref(bytes)),
            Self::Parts(len) => Place::Parts(len),
            Self::Error(text) => Place::Error(text.to_owned()),
            Self::Handed(key) => Place::Handed(key),
            Self::File(path, offset, len) => {
                use std::os::unix::ffi::OsStrExt;
                let path = std::path::Path::new(std::ffi::OsStr::from_bytes(path));
                Place::File(Body::range(path, offset, len))
            }
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for RawPlace<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Places;
        impl<'de> Visitor<'de> for Places {
            type Value = RawPlace<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes, a text, a length, a file's range, or a number")
            }
            fn visit_borrowed_bytes<E>(self, bytes: &'de [u8]) -> Result<Self::Value, E> {
                Ok(RawPlace::Inline(bytes))
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(RawPlace::Error(text))
            }
            fn visit_u64<E>(self, len: u64) -> Result<Self::Value, E> {
                Ok(RawPlace::Parts(len))
            }
            // Some languages write every number as a signed one.
            fn visit_i64<E: de::Error>(self, len: i64) -> Result<Self::Value, E> {
                u64::try_from(len)
                    .map(RawPlace::Parts)
                    .map_err(|_| E::invalid_value(de::Unexpected::Signed(len), &self))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                // A path is bytes and a number stands for a body that was handed over, as outside of a list.
                let path = match seq.next_element()? {
                    Some(RawPlace::Inline(path)) => path,
                    Some(RawPlace::Parts(key)) => return Ok(RawPlace::Handed(key)),
                    _ => return Err(de::Error::invalid_length(0, &self)),
                };
                let offset = seq
                    .next_element()?
                    .ok_or_else(|| de::Error::invalid_length(1, &self))?;
                let len = seq
                    .next_element()?
                    .ok_or_else(|| de::Error::invalid_length(2, &self))?;
                Ok(RawPlace::File(path, offset, len))
            }
        }
        deserializer.deserialize_any(Places)
    }
}
