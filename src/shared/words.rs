//! Copying into and out of memory that others write at the same time.
//!
//! A plain copy would be a data race. So memory without a lock is reached by whole aligned words only, each an atomic: never by atomics of
//! other sizes, which must not be mixed either. Where a part begins or ends inside a word, that word is changed by compare-and-exchange, so
//! that a neighbour's bytes are not touched. Each word is seen as it was before or after a write; of several, some may be old and some new.

use std::sync::atomic::{AtomicU64, Ordering};

use super::segment::Segment;

const WORD: usize = size_of::<u64>();

/// The word that begins at that byte, a multiple of 8 inside the data.
///
/// Nobody may have a `&mut` to it, nor write to it but through such atomics: who does is `unsafe` ([`Memory::as_slice`]).
///
/// [`Memory::as_slice`]: super::Memory::as_slice
pub(super) fn word(segment: &Segment, at: usize) -> &AtomicU64 {
    assert!(at.is_multiple_of(WORD) && at < segment.len(), "outside");
    // SAFETY: it is aligned, as the data is, and inside: the mapping ends with a whole word. It stays mapped as long as the segment lives.
    unsafe { AtomicU64::from_ptr(segment.as_ptr().add(at).cast()) }
}

/// The words in which a part lies: where each begins, which of its bytes belong to the part, and which bytes of the part these are.
fn parts(
    offset: usize,
    len: usize,
) -> impl Iterator<Item = (usize, std::ops::Range<usize>, std::ops::Range<usize>)> {
    let end = offset + len;
    (offset - offset % WORD..end).step_by(WORD).map(move |at| {
        let from = offset.max(at);
        let to = end.min(at + WORD);
        (at, from - at..to - at, from - offset..to - offset)
    })
}

/// Copies out what is there. The part must be inside, which its user has checked.
pub(super) fn read(segment: &Segment, offset: usize, into: &mut [u8]) {
    for (at, inside, part) in parts(offset, into.len()) {
        let bytes = word(segment, at).load(Ordering::Relaxed).to_ne_bytes();
        into[part].copy_from_slice(&bytes[inside]);
    }
}

/// Copies in. The part must be inside, which its user has checked.
pub(super) fn write(segment: &Segment, offset: usize, from: &[u8]) {
    for (at, inside, part) in parts(offset, from.len()) {
        let word = word(segment, at);
        let new = &from[part];
        if let Ok(bytes) = <[u8; WORD]>::try_from(new) {
            word.store(u64::from_ne_bytes(bytes), Ordering::Relaxed);
            continue;
        }
        let change = |old: u64| {
            let mut bytes = old.to_ne_bytes();
            bytes[inside.clone()].copy_from_slice(new);
            Some(u64::from_ne_bytes(bytes))
        };
        let _ = word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, change);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Result;

    #[test]
    fn any_part_can_be_written_and_leaves_its_neighbours_alone() -> Result<()> {
        const LEN: usize = 29;
        let segment = Segment::anonymous("test", LEN)?;
        let mut expected = [0xff; LEN];
        write(&segment, 0, &expected);
        let mut next = 0;
        for from in 0..LEN {
            for to in from..=LEN {
                let part: Vec<u8> = (from..to).map(|at| (at + next) as u8).collect();
                next += 1;
                write(&segment, from, &part);
                expected[from..to].copy_from_slice(&part);
                let mut found = [0; LEN];
                read(&segment, 0, &mut found);
                assert_eq!(found, expected, "{from}..{to}");
                let mut found = vec![0; to - from];
                read(&segment, from, &mut found);
                assert_eq!(found, part);
            }
        }
        Ok(())
    }
}
