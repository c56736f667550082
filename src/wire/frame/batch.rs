//! Batches of tasks and of results, and parts of large bodies: entries are written where they arise, and read as slices of
//! the message.

use bytes::Bytes;
use rmp::encode as put;

use super::place::{Place, RawPlace, write_place};
use super::{BATCH, Malformed, PeerId, RunId, TaskId, kind, whole};

/// A piece of a body that is too large for a batch, before the entry that it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The run.
    pub run: RunId,
    /// The worker that sends it; 0 for a ventilator.
    pub peer: PeerId,
    /// The sender's link (see [`Done`](super::Done)).
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

/// A batch being written: [`Tasks`] or [`Results`], whose number of entries is known at its end only.
#[derive(Debug)]
pub struct Batch {
    bytes: Vec<u8>,
    count_at: usize,
    count: u32,
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

    /// A batch of blocks on a lane.
    #[must_use]
    pub fn items(run: RunId) -> Self {
        let mut bytes = Vec::with_capacity(1024);
        written!(
            put::write_array_len(&mut bytes, 3),
            put::write_uint(&mut bytes, kind::ITEMS.into()),
            put::write_uint(&mut bytes, run),
        );
        Self::open(bytes)
    }

    /// A batch of blocks on their way to the host; `prompt`: its putter waits for the answer.
    #[must_use]
    pub fn puts(run: RunId, peer: PeerId, link: u32, prompt: bool) -> Self {
        let mut bytes = Vec::with_capacity(1024);
        written!(
            put::write_array_len(&mut bytes, 6),
            put::write_uint(&mut bytes, kind::PUT.into()),
            put::write_uint(&mut bytes, run),
            put::write_uint(&mut bytes, peer),
            put::write_uint(&mut bytes, link.into()),
            put::write_bool(&mut bytes, prompt),
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

    /// Adds a block to a batch of [`puts`](Self::puts).
    pub fn push_put(&mut self, number: u64, items: u32, place: &Place) {
        let out = &mut self.bytes;
        written!(
            put::write_array_len(out, 3),
            put::write_uint(out, number),
            put::write_uint(out, items.into()),
        );
        write_place(out, place);
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

pub(super) fn part(bytes: &Bytes) -> Result<Part, Malformed> {
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

pub(super) fn tasks(bytes: &Bytes) -> Result<Tasks, Malformed> {
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

pub(super) fn results(bytes: &Bytes) -> Result<Results, Malformed> {
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
