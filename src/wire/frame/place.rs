//! Where the body of an entry is, written and read.

use std::fmt;

use bytes::Bytes;
use rmp::encode as put;
use serde::Deserializer;
use serde::de::{self, Deserialize, SeqAccess, Visitor};

use crate::wire::body::Body;

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

pub(super) fn write_place(out: &mut Vec<u8>, place: &Place) {
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

/// A place as it is read: slices of the message.
pub(super) enum RawPlace<'a> {
    Inline(&'a [u8]),
    Parts(u64),
    File(&'a [u8], u64, u64),
    Error(&'a str),
    Handed(u64),
}

impl RawPlace<'_> {
    pub(super) fn of(self, message: &Bytes) -> Place {
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
