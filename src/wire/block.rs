//! A block: several items of a queue in one body, each as one MessagePack bin.
//!
//! Pure. Bytes that are no block give fewer items, never a panic.

use bytes::Bytes;

/// How many items go into one block at most.
pub const MOST_ITEMS: u32 = 4096;
/// A block is closed when it has so many bytes; with the last item it has no more than [`INLINE`](super::frame::INLINE), in bytes.
pub const FULL: usize = 40 << 10;
/// An item up to this size goes into a block, in bytes; a larger one is sent as it is.
pub const LARGEST: usize = 20 << 10;

/// Bytes before an item.
const HEAD: usize = 5;
/// bin 32: all items alike, so that the length can be filled in when the item has been written.
const BIN_32: u8 = 0xc6;

/// Adds what `write` writes as one item. When `write` fails nothing is added.
///
/// # Errors
/// That of `write`.
pub fn push<E>(
    block: &mut Vec<u8>,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
) -> Result<usize, E> {
    let start = block.len();
    block.extend_from_slice(&[BIN_32, 0, 0, 0, 0]);
    if let Err(error) = write(block) {
        block.truncate(start);
        return Err(error);
    }
    let len = block.len() - start - HEAD;
    // Longer than a length can say: the caller takes it out again, as it is larger than an item of a block may be.
    let said = u32::try_from(len).unwrap_or(u32::MAX);
    block[start + 1..start + HEAD].copy_from_slice(&said.to_be_bytes());
    Ok(len)
}

/// The item at `at`, as a range, and where the next one starts. `None` at the end, or where there is no item.
#[must_use]
pub fn item(block: &[u8], at: usize) -> Option<(std::ops::Range<usize>, usize)> {
    let head = block.get(at..)?;
    let (head_len, len) = match *head {
        [0xc4, len, ..] => (2, usize::from(len)),
        [0xc5, a, b, ..] => (3, usize::from(u16::from_be_bytes([a, b]))),
        [BIN_32, a, b, c, d, ..] => (HEAD, u32::from_be_bytes([a, b, c, d]) as usize),
        _ => return None,
    };
    let start = at + head_len;
    let end = start.checked_add(len).filter(|&end| end <= block.len())?;
    Some((start..end, end))
}

/// How many items there are; `None` when there is something else among them, or at the end.
#[must_use]
pub fn count(block: &[u8]) -> Option<u32> {
    let (mut at, mut items) = (0, 0u32);
    while at < block.len() {
        at = item(block, at)?.1;
        items = items.checked_add(1)?;
    }
    Some(items)
}

/// The first `keep` items, and the rest. `None` when there are not so many.
#[must_use]
pub fn split(block: &Bytes, keep: u32) -> Option<(Bytes, Bytes)> {
    let mut at = 0;
    for _ in 0..keep {
        at = item(block, at)?.1;
    }
    Some((block.slice(..at), block.slice(at..)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn block_of(items: &[Vec<u8>]) -> Bytes {
        let mut block = Vec::new();
        for bytes in items {
            let pushed = push(&mut block, |out| {
                out.extend_from_slice(bytes);
                Ok::<(), ()>(())
            });
            assert_eq!(pushed, Ok(bytes.len()));
        }
        block.into()
    }

    fn items_of(block: &[u8]) -> Vec<Vec<u8>> {
        let (mut at, mut all) = (0, Vec::new());
        while let Some((range, next)) = item(block, at) {
            all.push(block[range].to_vec());
            at = next;
        }
        all
    }

    proptest! {
        #[test]
        fn a_block_gives_its_items_back_and_splits_anywhere(
            items in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..40), keep in 0u32..50
        ) {
            let block = block_of(&items);
            prop_assert_eq!(count(&block), Some(items.len() as u32));
            prop_assert_eq!(items_of(&block), items.clone());
            match split(&block, keep) {
                Some((head, tail)) => {
                    prop_assert_eq!(items_of(&head), items[..keep as usize].to_vec());
                    prop_assert_eq!(items_of(&tail), items[keep as usize..].to_vec());
                }
                None => prop_assert!(keep as usize > items.len()),
            }
        }

        #[test]
        fn bytes_that_are_no_block_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..64), keep in 0u32..9) {
            let block = Bytes::from(bytes);
            let _ = (count(&block), split(&block, keep), items_of(&block));
        }
    }

    #[test]
    fn what_could_not_be_written_leaves_the_block_as_it_was() {
        let mut block = block_of(&[b"one".to_vec()]).to_vec();
        let before = block.clone();
        let failed = push(&mut block, |out| {
            out.extend_from_slice(b"half of");
            Err("no more")
        });
        assert_eq!(failed, Err("no more"));
        assert_eq!(block, before);
    }
}
