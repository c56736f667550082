//! The frames of a connection: one kind byte and what belongs to it (docs/pipe.md). Pure.

use crate::wire::frame::MAX_FRAME;

pub(crate) const VALUE: u8 = 1;
pub(crate) const BYTES: u8 = 2;
pub(crate) const LONG_VALUE: u8 = 3;
pub(crate) const LONG_BYTES: u8 = 4;
pub(crate) const PART: u8 = 5;
pub(crate) const TAKEN: u8 = 6;
pub(crate) const CLOSE: u8 = 7;
pub(crate) const HELLO: u8 = 8;
pub(crate) const WELCOME: u8 = 9;
pub(crate) const BEGIN: u8 = 10;
pub(crate) const KNOCK: u8 = 11;
pub(crate) const ROOM: u8 = 12;

/// The protocol's version, in HELLO and KNOCK.
pub(crate) const VERSION: u8 = 1;

/// The longest message that is one frame, in bytes; what is longer goes in pieces of this size.
pub(crate) const WHOLE: usize = MAX_FRAME - 1;

/// What a pipe or a visit is known by.
pub(crate) type Key = [u8; 16];

/// What a frame counts in the bytes that are under way: a little more than it has, so that empty messages are bounded too.
pub(crate) const fn weight(frame: &[u8]) -> u64 {
    frame.len() as u64 + 63
}

/// Whether a message is a value or bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Value,
    Bytes,
}

impl What {
    /// The kinds of a message in one frame, and of one in parts.
    pub(crate) const fn kinds(self) -> (u8, u8) {
        match self {
            Self::Value => (VALUE, LONG_VALUE),
            Self::Bytes => (BYTES, LONG_BYTES),
        }
    }
}

/// How a message begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Head {
    /// It is all in this frame, behind the first byte; its length.
    Whole(What, usize),
    /// So many bytes follow in parts.
    Long(What, u64),
}

impl Head {
    /// The first frame of a message; `None` for any other.
    pub(crate) fn read(frame: &[u8]) -> Option<Self> {
        let (kind, rest) = frame.split_first()?;
        let what = match *kind {
            VALUE | LONG_VALUE => What::Value,
            BYTES | LONG_BYTES => What::Bytes,
            _ => return None,
        };
        Some(match *kind {
            VALUE | BYTES => Self::Whole(what, rest.len()),
            _ => Self::Long(what, number(rest)?),
        })
    }

    pub(crate) const fn what(self) -> What {
        match self {
            Self::Whole(what, _) | Self::Long(what, _) => what,
        }
    }

    pub(crate) const fn len(self) -> u64 {
        match self {
            Self::Whole(_, len) => len as u64,
            Self::Long(_, len) => len,
        }
    }
}

/// A frame of a kind and a number.
pub(crate) fn numbered(kind: u8, value: u64) -> [u8; 9] {
    let mut frame = [kind; 9];
    frame[1..].copy_from_slice(&value.to_be_bytes());
    frame
}

/// The number behind the kind.
pub(crate) fn number(rest: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(rest.try_into().ok()?))
}

/// HELLO or KNOCK.
pub(crate) fn greeting(kind: u8, key: &Key) -> Vec<u8> {
    let mut frame = vec![kind, VERSION];
    frame.extend_from_slice(key);
    frame
}

/// The key of HELLO or KNOCK, if it is of this version.
pub(crate) fn greeted(kind: u8, frame: &[u8]) -> Option<Key> {
    let key = frame.strip_prefix(&[kind, VERSION])?;
    key.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_or_refused() {
        let rows: &[(&[u8], Option<Head>)] = &[
            (&[VALUE, 0xc0], Some(Head::Whole(What::Value, 1))),
            (&[BYTES], Some(Head::Whole(What::Bytes, 0))),
            (&numbered(LONG_BYTES, 7), Some(Head::Long(What::Bytes, 7))),
            (
                &numbered(LONG_VALUE, 1 << 40),
                Some(Head::Long(What::Value, 1 << 40)),
            ),
            (&[], None),
            (&[LONG_VALUE, 1, 2], None),
            (&[PART, 1, 2], None),
            (&[0], None),
            (&[255, 1], None),
        ];
        for (frame, expected) in rows {
            assert_eq!(Head::read(frame), *expected, "{frame:?}");
        }
    }

    #[test]
    fn a_greeting_of_another_version_or_length_is_none() {
        let key = [7; 16];
        let frame = greeting(HELLO, &key);
        assert_eq!(greeted(HELLO, &frame), Some(key));
        assert_eq!(greeted(KNOCK, &frame), None);
        assert_eq!(greeted(HELLO, &frame[..17]), None);
        let mut newer = frame;
        newer[1] += 1;
        assert_eq!(greeted(HELLO, &newer), None);
    }
}
