//! A large item, where a server has a limit: its parts are elsewhere, and in the queue is a head that says where.
//!
//! A head begins with 0xC1, the one byte that no MessagePack value begins with, so it is taken for no item, and no item for it.

/// What a head begins with.
const MARK: &[u8] = b"\xC1procession parts\n";

/// What stands in the queue for a large item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// The item's length, in bytes.
    pub(super) len: u64,
    /// Where its parts are, as the engine says it.
    pub(super) place: Vec<u8>,
}

impl Head {
    pub(super) fn encode(&self) -> Vec<u8> {
        [MARK, &self.len.to_be_bytes(), &self.place].concat()
    }

    /// `None`: it is no head, but an item.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (len, place) = bytes.strip_prefix(MARK)?.split_first_chunk()?;
        Some(Self {
            len: u64::from_be_bytes(*len),
            place: place.to_vec(),
        })
    }

    /// How long a head is with a place of so many bytes.
    #[cfg(feature = "beanstalk")]
    pub(super) const fn size(place: usize) -> usize {
        MARK.len() + 8 + place
    }
}

/// How many of these items go to a server together: no more than so many, and of so many bytes, but at least one. In their place a large
/// one counts as one part.
#[cfg(any(feature = "redis", feature = "amqp"))]
pub(super) fn first_batch(
    items: &[bytes::Bytes],
    (most, most_bytes): (usize, usize),
    part: usize,
) -> usize {
    let mut bytes = 0;
    items
        .iter()
        .take(most)
        .take_while(|item| {
            let before = bytes;
            bytes += item.len().min(part);
            before == 0 || bytes <= most_bytes
        })
        .count()
        .max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_as_it_was_written_and_nothing_else_is_one() {
        let head = Head {
            len: 1 << 40,
            place: b"here".to_vec(),
        };
        assert_eq!(Head::decode(&head.encode()), Some(head.clone()));
        for garbage in [
            &b""[..],
            b"\xC1",
            MARK,
            &head.encode()[..MARK.len() + 7],
            b"\x01",
        ] {
            assert_eq!(Head::decode(garbage), None, "{garbage:?}");
        }
    }
}
