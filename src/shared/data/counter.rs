//! [`Counter`]: a number by URL.

use std::collections::VecDeque;

use super::link::{Life, Row, Write};
use super::object::{Object, Step, decode_row, encode, handle};
use super::watch::{Raw, Watch};
use crate::bytes::Bytes;
use crate::error::{Error, Result};

/// MessagePack's nil: a counter's only key.
const KEY: u8 = 0xc0;

/// A whole number that many processes, on many hosts, count up and down. It begins with 0.
///
/// ```
/// use procession::shared::{Counter, Manager};
///
/// let manager = Manager::new()?;
/// let visits: Counter = manager.counter()?; // or Counter::open("postgres://localhost/shop?name=visits")
/// assert_eq!(visits.add(1)?, 1);
/// assert_eq!(visits.add(-3)?, -2);
/// assert!(visits.compare_and_swap(-2, 10)?);
/// assert_eq!(visits.get()?, 10);
/// # Ok::<(), procession::Error>(())
/// ```
///
/// No addition is lost, and none is done twice, also when the connection is lost in the middle. Between processes of one host that have a common parent
/// [`AtomicCounter`](crate::shared::AtomicCounter) is ten thousand times faster. When it fails: as a [`Dict`](super::Dict#when-it-fails).
pub struct Counter {
    object: Object,
}

handle!(Counter, "counter");

fn key() -> Bytes {
    Bytes::from(vec![KEY])
}

fn number(row: Option<&Row>) -> Result<i64> {
    Ok(decode_row(row)?.unwrap_or(0))
}

fn write(number: i64) -> Result<Write> {
    Ok(Write {
        key: key(),
        value: Some(encode(&number)?),
        life: Life::Forever,
    })
}

impl Counter {
    pub(super) const fn of_object(object: Object) -> Self {
        Self { object }
    }

    /// Its value at this moment.
    ///
    /// # Errors
    /// As [`Dict`](super::Dict#when-it-fails).
    pub fn get(&self) -> Result<i64> {
        number(self.object.read_one(key())?.as_ref())
    }

    /// Sets it, whatever it was.
    ///
    /// # Errors
    /// As [`Dict`](super::Dict#when-it-fails).
    pub fn set(&self, value: i64) -> Result<()> {
        self.object.write(false, vec![write(value)?])
    }

    /// Adds to it, and returns what it is then: of many who add 1, each gets another number.
    ///
    /// # Errors
    /// As [`Dict`](super::Dict#when-it-fails); [`Error::SharedData`] also when it would be beyond `i64`, and then it stays as it was.
    #[doc(alias = "increment")]
    pub fn add(&self, number: i64) -> Result<i64> {
        let sum = self.update(|value| value.checked_add(number))?;
        sum.ok_or_else(|| Error::SharedData {
            at: self.object.shown(),
            why: format!("adding {number} would take the counter beyond 64 bits; it is as it was"),
        })
    }

    /// Sets it to what `change` makes of it, as one step: called again when somebody else was faster. With `None` it stays. What it has become, or `None` if it has
    /// stayed.
    ///
    /// ```
    /// # let manager = procession::shared::Manager::new()?;
    /// let seats = manager.counter()?;
    /// seats.set(1)?;
    /// let take = |left: i64| (left > 0).then(|| left - 1);
    /// assert_eq!(seats.update(take)?, Some(0));
    /// assert_eq!(seats.update(take)?, None, "none is left");
    /// # Ok::<(), procession::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Dict`](super::Dict#when-it-fails).
    #[doc(alias = "fetch_update")]
    pub fn update(&self, mut change: impl FnMut(i64) -> Option<i64>) -> Result<Option<i64>> {
        self.object.change(vec![key()], |rows| {
            let before = number(rows.first().and_then(Option::as_ref))?;
            Ok(match change(before) {
                Some(after) => Step::write(write(after)?, Some(after)),
                None => Step::Leave(None),
            })
        })
    }

    /// Sets it to `new` if it is `current`; whether it was.
    ///
    /// # Errors
    /// As [`Dict`](super::Dict#when-it-fails).
    #[doc(alias = "compare_exchange")]
    pub fn compare_and_swap(&self, current: i64, new: i64) -> Result<bool> {
        let swapped = self.update(|value| (value == current).then_some(new))?;
        Ok(swapped.is_some())
    }

    /// Tells its value whenever it has changed, from now on. Of changes in quick succession, the last.
    ///
    /// # Errors
    /// As [`Dict`](super::Dict#when-it-fails).
    pub fn watch(&self) -> Result<Watch<i64>> {
        Watch::new(self.object.clone(), next_value)
    }
}

fn next_value(object: &Object, ready: &mut VecDeque<Raw>) -> Result<Option<i64>> {
    // What has come is older than what is there now.
    ready.clear();
    number(object.read_one(key())?.as_ref()).map(Some)
}
