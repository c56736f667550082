//! [`Watch`]: what becomes of shared data, as it happens.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use super::link::Version;
use super::object::Object;
use super::store::Own;
use crate::bytes::Bytes;
use crate::error::Result;

/// How long a store is asked to wait at a time.
const ROUND: Duration = Duration::from_secs(5);

/// What has happened to a [`Dict`](super::Dict), or to the attributes of a [`Namespace`](super::Namespace).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change<K, V> {
    /// There is a value for this key that was not there before. If it was changed several times, the last one.
    Set {
        /// The key.
        key: K,
        /// What it has now.
        value: V,
    },
    /// The key was removed, or its value has expired.
    Removed {
        /// The key.
        key: K,
    },
    /// All that was there was removed at once.
    Cleared,
    /// More has happened than the store remembers, or it has come back with an older state: read anew what you need to know. What happens from
    /// now on is told again.
    Missed,
}

/// A change as the store tells it.
#[derive(Debug)]
pub(super) enum Raw {
    Row(Bytes, Option<Bytes>),
    Cleared,
    Missed,
}

/// What has come, for those who make something of it. `None`: nothing that is worth telling.
type Make<T> = fn(&Object, &mut VecDeque<Raw>) -> Result<Option<T>>;

/// Tells the changes of shared data, from when it was made. As an iterator it does not end.
///
/// ```
/// use procession::shared::{Change, Manager};
///
/// let manager = Manager::new()?;
/// let prices = manager.dict::<String, u32>()?;
/// let mut changes = prices.watch()?;
/// prices.insert("tea", &3)?;
/// prices.remove("tea")?;
/// // Two changes in quick succession may be told as one.
/// assert_eq!(changes.recv()?, Change::Removed { key: "tea".to_owned() });
/// # Ok::<(), procession::Error>(())
/// ```
///
/// It has a connection to the store of its own, and goes on where it was when that is lost. It costs the writers nothing when nobody reads it.
pub struct Watch<T> {
    object: Object,
    own: Own,
    /// What has happened up to here was told.
    after: Version,
    ready: VecDeque<Raw>,
    make: Make<T>,
}

impl<T> Watch<T> {
    pub(super) fn new(object: Object, make: Make<T>) -> Result<Self> {
        let mut own = None;
        let now = object.changes(&mut own, None, Duration::ZERO)?;
        Ok(Self {
            object,
            own,
            after: now.version,
            ready: VecDeque::new(),
            make,
        })
    }

    /// The next change; waits until there is one.
    ///
    /// # Errors
    /// When the store is lost and not found again: [`Error::ManagerGone`](crate::Error::ManagerGone),
    /// [`Error::SharedData`](crate::Error::SharedData). A later call tries again, and misses nothing. [`Error::Encoding`](crate::Error::Encoding) when something is
    /// there that is not of this type; it is passed over.
    pub fn recv(&mut self) -> Result<T> {
        loop {
            if let Some(change) = self.recv_until(None)? {
                return Ok(change);
            }
        }
    }

    /// A change that has happened already, or `None`.
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    pub fn try_recv(&mut self) -> Result<Option<T>> {
        self.recv_until(Some(Instant::now()))
    }

    /// The next change, or `None` after so long.
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<Option<T>> {
        self.recv_until(Instant::now().checked_add(timeout))
    }

    fn recv_until(&mut self, until: Option<Instant>) -> Result<Option<T>> {
        loop {
            while !self.ready.is_empty() {
                if let Some(change) = (self.make)(&self.object, &mut self.ready)? {
                    return Ok(Some(change));
                }
            }
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            let wait = left.map_or(ROUND, |left| left.min(ROUND));
            let changes = self.object.changes(&mut self.own, Some(self.after), wait)?;
            self.after = changes.version;
            if changes.missed {
                self.ready.push_back(Raw::Missed);
            }
            if changes.cleared {
                self.ready.push_back(Raw::Cleared);
            }
            let rows = changes.rows.into_iter();
            self.ready
                .extend(rows.map(|(key, value)| Raw::Row(key, value)));
            if self.ready.is_empty() && left.is_some_and(|left| left <= wait) {
                return Ok(None);
            }
        }
    }
}

impl<T> Iterator for Watch<T> {
    type Item = Result<T>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.recv())
    }
}

impl<T> fmt::Debug for Watch<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Watch").field(&self.object).finish()
    }
}
