//! [`Link`]: what a store has to be able to do. Everything else is written once, on top of it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::bytes::Bytes;
use crate::error::Error;

/// The longest key, in bytes: what fits in an index of PostgreSQL's.
pub(super) const LONGEST_KEY: usize = 2000;
/// The longest value, in bytes.
pub(super) const LONGEST_VALUE: usize = 32 << 20;
/// The keys and values of one commit, in bytes, and how many they may be.
pub(super) const LARGEST_COMMIT: usize = 64 << 20;
pub(super) const MOST_WRITES: usize = 10_000;
/// A page of rows, or of changes: so many, or so many bytes of values, but at least one.
pub(super) const PAGE_ROWS: usize = 256;
pub(super) const PAGE_BYTES: usize = 1 << 20;
/// So many removals are remembered for those who watch.
pub(super) const REMOVALS: usize = 10_000;
/// What has expired becomes a removal so many at a time.
pub(super) const SWEEP: usize = 100;

/// Of a row: rises with each change of the object that it belongs to, and is never given twice. Follows the store's clock, in microseconds since
/// 1970, so that a server that comes back with an older state does not give numbers again. 0: there is no such row.
pub(super) type Version = u64;

/// A row that is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Row {
    pub(super) value: Bytes,
    pub(super) version: Version,
    /// For so long.
    pub(super) left: Option<Duration>,
}

/// For how long a row is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Life {
    Forever,
    For(Duration),
    /// As long as the row before.
    AsBefore,
}

impl Life {
    /// In microseconds; −1: for ever, −2: as before. As SQL and Lua are told it.
    pub(super) fn micros(self) -> i64 {
        match self {
            Self::Forever => -1,
            Self::AsBefore => -2,
            // 100 years, as sums of it and today's time have to fit as well.
            Self::For(time) => i64::try_from(time.as_micros())
                .map_or(100 * 366 * 86_400_000_000, |micros| {
                    micros.min(100 * 366 * 86_400_000_000)
                }),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Write {
    pub(super) key: Bytes,
    /// None: the row is removed.
    pub(super) value: Option<Bytes>,
    pub(super) life: Life,
}

/// Several changes of one object: all of them if the checks hold, or none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Commit {
    /// By which a store knows one that it is sent again.
    pub(super) token: Bytes,
    /// The row of that key has this version.
    pub(super) checks: Vec<(Bytes, Version)>,
    /// All rows are removed before anything is written.
    pub(super) clears: bool,
    pub(super) writes: Vec<Write>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Outcome {
    Done,
    /// A check does not hold; how the rows of all checks are.
    Conflict(Vec<Option<Row>>),
}

/// Rows in the order of their keys' bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Page {
    pub(super) rows: Vec<(Bytes, Bytes)>,
    pub(super) is_last: bool,
}

/// What has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Changes {
    /// Go on from here.
    pub(super) version: Version,
    /// More was changed than is remembered, or the store came back with an older state.
    pub(super) missed: bool,
    /// Everything was removed at once, before what follows.
    pub(super) cleared: bool,
    /// What is there now, or `None`, in the order of the changes.
    pub(super) rows: Vec<(Bytes, Option<Bytes>)>,
}

impl Changes {
    /// Nothing that a watcher wants to be told.
    pub(super) const fn is_empty(&self) -> bool {
        !self.missed && !self.cleared && self.rows.is_empty()
    }
}

/// Why a store did not do it.
#[derive(Debug)]
pub(super) enum Fault {
    /// The connection is of no use any more; what was asked for may have been done. Another connection may be better.
    Lost(String),
    /// It was not done, and would not be if it were asked for again.
    Final(Error),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

pub(super) type Done<T> = Result<T, Fault>;

/// A connection to a store, used by one thread at a time. One that has returned [`Fault::Lost`] is dropped.
///
/// `object` is `KIND:NAME`. Each call is atomic: it sees the object at one moment, and what has expired by then is not there. Every call returns within seconds, also if
/// nobody answers.
pub(super) trait Link: Send {
    /// The rows of these keys.
    fn read(&mut self, object: &str, keys: &[Bytes]) -> Done<Vec<Option<Row>>>;

    /// Does all of it or nothing. A commit whose token was seen before is [`Outcome::Done`], and not done again.
    fn commit(&mut self, object: &str, commit: &Commit) -> Done<Outcome>;

    /// The rows behind a key.
    fn scan(&mut self, object: &str, after: Option<&Bytes>) -> Done<Page>;

    /// How many rows there are.
    fn count(&mut self, object: &str) -> Done<u64>;

    /// What has changed after that version; waits about that long for something. Without a version: only where to go on from.
    fn changes(&mut self, object: &str, after: Option<Version>, wait: Duration) -> Done<Changes>;
}

/// Makes connections to one store.
pub(super) trait Dial: Send + Sync {
    /// A new connection, within about that time.
    fn dial(&self, patience: Duration) -> Done<Box<dyn Link>>;
}
