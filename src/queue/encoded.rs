//! Items that are encoded already, for who hands them on between a queue and something else.

use std::time::Duration;

use super::{Item, Queue, no_longer_than};
use crate::error::{Error, Result};
use crate::hub::member::{Arrived, Encoded, NoItem, NotPut};
use crate::wire::block;
use crate::wire::body::Body;

impl<T: Item> Queue<T> {
    /// Puts an item that is encoded already: one MessagePack value, whoever has written it. Getters decode it as any other. Waits no longer than
    /// `time` for room.
    ///
    /// ```
    /// use std::time::Duration;
    /// use procession::Queue;
    /// let queue: Queue<Vec<u8>> = Queue::new()?;
    /// queue.put_encoded(&[0x93, 1, 2, 3], Duration::ZERO)?;
    /// assert_eq!(queue.get()?, [1, 2, 3]);
    /// queue.put(vec![4])?;
    /// assert_eq!(queue.get_encoded(Duration::from_secs(9))?, [0x91, 4]);
    /// # Ok::<(), procession::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Encoding`] when it is not one whole value; [`Error::Full`], [`Error::Closed`], [`Error::ShutDown`], [`Error::HostGone`].
    pub fn put_encoded(&self, item: &[u8], time: Duration) -> Result<()> {
        is_one_value(item).map_err(|why| Error::Encoding {
            what: "an item that is to be one MessagePack value".to_owned(),
            why,
        })?;
        let full = || Error::Full {
            maxsize: self.inner.ticket.maxsize,
        };
        let wait = no_longer_than(time);
        let member = self.member_within(wait)?.ok_or_else(full)?;
        let put = if item.len() <= block::LARGEST {
            member.put(&Encoded::Small(item), wait)
        } else {
            member.put(&Encoded::Large(Body::from(item.to_vec())), wait)
        };
        put.map_err(|why| match why {
            NotPut::Full => full(),
            NotPut::Closed => Error::Closed,
            NotPut::Ended(end) => self.gone(end),
        })
    }

    /// Takes the next item as it is encoded: one MessagePack value. Waits no longer than `time` for one.
    ///
    /// # Errors
    /// [`Error::Empty`], [`Error::ShutDown`], [`Error::HostGone`]; [`Error::Encoding`] when a large one cannot be read back from its temporary file.
    pub fn get_encoded(&self, time: Duration) -> Result<Vec<u8>> {
        let wait = no_longer_than(time);
        let member = self.member_within(wait)?.ok_or(Error::Empty)?;
        let came = member.get(wait, |arrived| match arrived {
            Arrived::Small(bytes) => Ok(bytes.to_vec()),
            Arrived::Large(body) => body.to_bytes().map(|bytes| bytes.to_vec()),
        });
        match came {
            Ok(Ok(item)) => Ok(item),
            Ok(Err(error)) => Err(Error::Encoding {
                what: "a large item".to_owned(),
                why: error.to_string(),
            }),
            Err(NoItem::Empty) => Err(Error::Empty),
            Err(NoItem::Ended(end)) => Err(self.gone(end)),
        }
    }
}

/// Whether these bytes are one MessagePack value and nothing else; if not, why. How deep it is does not matter here: who decodes it has a limit.
fn is_one_value(bytes: &[u8]) -> Result<(), String> {
    let mut at = 0;
    // Values that are still to come.
    let mut open = 1_u64;
    while open > 0 {
        let (len, inside) = value_at(bytes, at)?;
        at = len
            .checked_add(at)
            .filter(|&end| end <= bytes.len())
            .ok_or("it ends in the middle")?;
        open = open - 1 + inside;
    }
    match bytes.len() - at {
        0 => Ok(()),
        behind => Err(format!("there are {behind} bytes behind it")),
    }
}

/// How many bytes the value at `at` has up to the first value inside, and how many values are in it.
fn value_at(bytes: &[u8], at: usize) -> Result<(usize, u64), String> {
    let marker = *bytes.get(at).ok_or("it ends in the middle")?;
    let number = |width: usize| {
        let digits = bytes.get(at + 1..at + 1 + width);
        let digits = digits.ok_or_else(|| "it ends in the middle".to_owned())?;
        let number = digits
            .iter()
            .fold(0, |sum, &digit| sum << 8 | u64::from(digit));
        Ok::<u64, String>(number)
    };
    // Behind a length of that width comes so much, and `more` bytes.
    let long = |width: usize, more: usize| {
        let len = usize::try_from(number(width)?).unwrap_or(usize::MAX);
        Ok((len.saturating_add(1 + width + more), 0))
    };
    Ok(match marker {
        0x00..=0x7f | 0xe0..=0xff | 0xc0 | 0xc2 | 0xc3 => (1, 0),
        0x80..=0x8f => (1, 2 * u64::from(marker & 0x0f)),
        0x90..=0x9f => (1, u64::from(marker & 0x0f)),
        0xa0..=0xbf => (1 + usize::from(marker & 0x1f), 0),
        0xc1 => return Err(format!("byte {at} begins no value")),
        0xc4 | 0xd9 => return long(1, 0),
        0xc5 | 0xda => return long(2, 0),
        0xc6 | 0xdb => return long(4, 0),
        0xc7 => return long(1, 1),
        0xc8 => return long(2, 1),
        0xc9 => return long(4, 1),
        0xcc | 0xd0 => (2, 0),
        0xcd | 0xd1 => (3, 0),
        0xca | 0xce | 0xd2 => (5, 0),
        0xcb | 0xcf | 0xd3 => (9, 0),
        // A fixed length, and the kind of an extension before it.
        0xd4..=0xd8 => (2 + (1 << (marker - 0xd4)), 0),
        0xdc => (3, number(2)?),
        0xdd => (5, number(4)?),
        0xde => (3, 2 * number(2)?),
        0xdf => (5, 2 * number(4)?),
    })
}

#[cfg(test)]
mod tests {
    use super::is_one_value;

    #[test]
    fn one_whole_value_is_told_from_anything_else() {
        for good in [
            &[0xc0][..],
            &[0x01],
            &[0x92, 0xa1, b'a', 0xc4, 1, 0],
            &[0x81, 1, 0x80],
            &[0xd5, 7, 1, 2],
            &[0xc7, 1, 7, 1],
            &[0xdc, 0, 1, 0xcb, 0, 0, 0, 0, 0, 0, 0, 0],
        ] {
            assert_eq!(is_one_value(good), Ok(()), "{good:x?}");
        }
        let unfinished = [0x91; 100_000];
        for bad in [
            &[][..],
            &[0x92, 1],
            &[1, 2],
            &[0xc1],
            &[0xdb, 255, 255, 255, 255, 0],
            &unfinished,
        ] {
            assert!(is_one_value(bad).is_err(), "{:x?}", bad.get(..8));
        }
    }
}
