//! The bytes of a pool's tasks and results. Pure.
//!
//! A **chunk** is one task of the pipeline: a function's name, how it is to be run, and the arguments of one call or of many. Its
//! result has an entry for each call that was made; those at its end that were not made are missing, and are made elsewhere.
//!
//! | | MessagePack |
//! |---|---|
//! | chunk | array: name (str), time limit of a call in ms, 0 for none (u64), after how many ms to stop between calls, 0 for never (u64), arguments (array 32 of bin, each an encoded tuple) |
//! | result | array 32 of: bin, an encoded return value; or an array: kind (u8), message (str), location (str or nil), process (u32), host (str) |

use rmp::Marker;
use rmp::decode as take;
use rmp::encode as put;
use serde::{Deserialize, Serialize};

use crate::registry::{Failure, FailureKind};

/// How the calls of a chunk are to be made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Manner {
    /// A call may take so many milliseconds; 0: as long as it likes.
    pub(super) limit: u64,
    /// A chunk that has taken so many milliseconds stops between two calls; 0: never.
    pub(super) cut: u64,
}

/// What went wrong in one call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Fault {
    pub(super) kind: u8,
    pub(super) message: String,
    pub(super) location: Option<String>,
    pub(super) pid: u32,
    pub(super) host: String,
}

/// Kinds of faults.
pub(super) mod kind {
    /// The function panicked.
    pub(in crate::pool) const PANIC: u8 = 0;
    /// The function returned an error.
    pub(in crate::pool) const ERROR: u8 = 1;
    /// The arguments could not be decoded.
    pub(in crate::pool) const ARGUMENTS: u8 = 2;
    /// The value could not be encoded.
    pub(in crate::pool) const OUTPUT: u8 = 3;
    /// There is no such task.
    pub(in crate::pool) const UNKNOWN: u8 = 4;
    /// It took longer than its limit.
    pub(in crate::pool) const TIMED_OUT: u8 = 5;
}

impl Fault {
    pub(super) fn new(kind: u8, message: String) -> Self {
        Self {
            kind,
            message,
            location: None,
            pid: std::process::id(),
            host: crate::hub::host::host_name(),
        }
    }

    pub(super) fn of(failure: Failure) -> Self {
        let number = match failure.kind {
            FailureKind::Panic => kind::PANIC,
            FailureKind::Error => kind::ERROR,
            FailureKind::Arguments => kind::ARGUMENTS,
            FailureKind::Output => kind::OUTPUT,
            FailureKind::Unknown => kind::UNKNOWN,
        };
        Self {
            location: failure.location,
            ..Self::new(number, failure.message)
        }
    }
}

/// Writing to a `Vec` does not fail.
macro_rules! written {
    ($($write:expr),+ $(,)?) => { $( let _ = $write; )+ };
}

/// Arguments as they are gathered, or results.
#[derive(Debug, Default)]
pub(super) struct Entries {
    bytes: Vec<u8>,
    count_at: usize,
    count: u32,
}

impl Entries {
    /// Arguments of a chunk.
    pub(super) fn arguments(name: &str, manner: Manner) -> Self {
        Self::arguments_behind(Vec::with_capacity(name.len() + 64), name, manner)
    }

    /// Arguments of a chunk whose bytes begin where `bytes` ends.
    pub(super) fn arguments_behind(mut bytes: Vec<u8>, name: &str, manner: Manner) -> Self {
        written!(
            put::write_array_len(&mut bytes, 4),
            put::write_str(&mut bytes, name),
            put::write_uint(&mut bytes, manner.limit),
            put::write_uint(&mut bytes, manner.cut),
        );
        Self::open(bytes)
    }

    /// Results of a chunk of so many calls.
    pub(super) fn results(calls: u32) -> Self {
        Self::open(Vec::with_capacity(16 + 8 * calls as usize))
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

    /// Adds an encoded value, or argument tuple.
    pub(super) fn push(&mut self, value: &[u8]) {
        written!(put::write_bin(&mut self.bytes, value));
        self.count += 1;
    }

    /// Adds what went wrong in place of a value.
    pub(super) fn push_fault(&mut self, fault: &Fault) {
        // A tuple of numbers and texts always encodes.
        let _ = rmp_serde::encode::write(&mut self.bytes, fault);
        self.count += 1;
    }

    pub(super) const fn count(&self) -> u32 {
        self.count
    }

    pub(super) const fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        self.bytes[self.count_at..self.count_at + 4].copy_from_slice(&self.count.to_be_bytes());
        self.bytes
    }
}

/// What a chunk says, read.
#[derive(Debug)]
pub(super) struct Chunk<'a> {
    pub(super) name: &'a str,
    pub(super) manner: Manner,
    pub(super) arguments: Arguments<'a>,
}

/// The arguments of a chunk, one after the other.
#[derive(Clone, Debug)]
pub(super) struct Arguments<'a> {
    left: u32,
    bytes: &'a [u8],
}

const MALFORMED: &str = "these bytes are no task of a pool";

impl<'a> Chunk<'a> {
    pub(super) fn read(mut bytes: &'a [u8]) -> Result<Self, &'static str> {
        let head = &mut bytes;
        if take::read_array_len(head).map_err(|_| MALFORMED)? != 4 {
            return Err(MALFORMED);
        }
        let len = take::read_str_len(head).map_err(|_| MALFORMED)? as usize;
        let (name, rest) = head.split_at_checked(len).ok_or(MALFORMED)?;
        *head = rest;
        let name = std::str::from_utf8(name).map_err(|_| MALFORMED)?;
        let limit = take::read_int(head).map_err(|_| MALFORMED)?;
        let cut = take::read_int(head).map_err(|_| MALFORMED)?;
        let left = take::read_array_len(head).map_err(|_| MALFORMED)?;
        Ok(Self {
            name,
            manner: Manner { limit, cut },
            arguments: Arguments { left, bytes },
        })
    }
}

impl Arguments<'_> {
    pub(super) const fn left(&self) -> u32 {
        self.left
    }
}

impl<'a> Iterator for Arguments<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        self.left = self.left.checked_sub(1)?;
        read_bin(&mut self.bytes)
    }
}

fn read_bin<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = take::read_bin_len(bytes).ok()? as usize;
    let (value, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some(value)
}

/// The same chunk with calls `from..to` of its own only, to be made in `manner`.
pub(super) fn part(
    chunk: &[u8],
    manner: Manner,
    from: u32,
    to: u32,
) -> Result<Vec<u8>, &'static str> {
    let chunk = Chunk::read(chunk)?;
    let mut entries = Entries::arguments(chunk.name, manner);
    let calls = (to - from) as usize;
    for arguments in chunk.arguments.skip(from as usize).take(calls) {
        entries.push(arguments);
    }
    if entries.count() as usize != calls {
        return Err(MALFORMED);
    }
    Ok(entries.finish())
}

/// How many calls a result is of.
pub(super) fn calls_in(mut result: &[u8]) -> Option<u32> {
    take::read_array_len(&mut result).ok()
}

/// The entries of a result, one after the other.
#[derive(Clone, Debug)]
pub(super) struct Results<'a> {
    left: u32,
    bytes: &'a [u8],
    whole: usize,
}

impl<'a> Results<'a> {
    /// The entries from byte `at` on, of which `left` are left; 0 is the start.
    pub(super) fn resume(bytes: &'a [u8], at: usize, left: u32) -> Self {
        let mut rest = bytes.get(at..).unwrap_or_default();
        if at == 0 && take::read_array_len(&mut rest).is_err() {
            rest = &[];
        }
        Self {
            left,
            bytes: rest,
            whole: bytes.len(),
        }
    }

    /// Where the next entry starts.
    pub(super) const fn at(&self) -> usize {
        self.whole - self.bytes.len()
    }

    fn read(&mut self) -> Option<Result<&'a [u8], Fault>> {
        let marker = *self.bytes.first()?;
        if matches!(
            Marker::from_u8(marker),
            Marker::Bin8 | Marker::Bin16 | Marker::Bin32
        ) {
            return read_bin(&mut self.bytes).map(Ok);
        }
        let mut reader = rmp_serde::Deserializer::new(&mut self.bytes);
        Fault::deserialize(&mut reader).ok().map(Err)
    }
}

impl<'a> Iterator for Results<'a> {
    type Item = Result<&'a [u8], Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        Some(self.read().unwrap_or_else(|| {
            self.bytes = &[];
            Err(Fault::new(
                kind::OUTPUT,
                "the worker's answer cannot be read; are both sides of the same version?"
                    .to_owned(),
            ))
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_reads_as_it_was_written_and_so_do_parts_of_it() {
        let manner = Manner {
            limit: 70_000,
            cut: 3,
        };
        let mut entries = Entries::arguments("module::square", manner);
        for n in 0..300u32 {
            entries.push(&n.to_be_bytes());
        }
        let bytes = entries.finish();
        let chunk = Chunk::read(&bytes).expect("a chunk");
        assert_eq!((chunk.name, chunk.manner), ("module::square", manner));
        assert_eq!(chunk.arguments.left(), 300);
        assert!(
            chunk
                .arguments
                .clone()
                .enumerate()
                .all(|(n, bytes)| bytes == (n as u32).to_be_bytes())
        );
        assert_eq!(chunk.arguments.count(), 300);
        let other = part(&bytes, Manner::default(), 298, 300).expect("a part");
        let read = Chunk::read(&other).expect("a chunk");
        assert_eq!(read.manner, Manner::default());
        assert_eq!(
            read.arguments.collect::<Vec<_>>(),
            [298u32.to_be_bytes(), 299u32.to_be_bytes()]
        );
        assert!(part(&bytes, manner, 299, 301).is_err());
    }

    #[test]
    fn results_can_be_read_on_from_where_one_stopped() {
        let fault = Fault::new(kind::PANIC, "oh".to_owned());
        let mut entries = Entries::results(3);
        entries.push(b"one");
        entries.push_fault(&fault);
        entries.push(b"three");
        let bytes = entries.finish();
        assert_eq!(calls_in(&bytes), Some(3));
        let mut results = Results::resume(&bytes, 0, 3);
        assert_eq!(results.next(), Some(Ok(&b"one"[..])));
        let mut rest = Results::resume(&bytes, results.at(), 2);
        assert_eq!(rest.next(), Some(Err(fault)));
        assert_eq!(rest.next(), Some(Ok(&b"three"[..])));
        assert_eq!(rest.next(), None);
    }

    #[test]
    fn random_bytes_are_refused_and_never_a_panic() {
        for seed in 0..2_000u64 {
            let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
            let bytes: Vec<u8> = (0..seed % 40)
                .map(|_| {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    (state >> 32) as u8
                })
                .collect();
            if let Ok(chunk) = Chunk::read(&bytes) {
                let _ = chunk.arguments.take(50).count();
            }
            let _ = part(&bytes, Manner::default(), 0, 1);
            let _ = Results::resume(&bytes, 0, 5).count();
        }
    }
}
