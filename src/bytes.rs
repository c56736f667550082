//! [`Bytes`]: a binary item that goes over the wire as it is.

use std::fmt;
use std::ops::{Deref, DerefMut};

use serde::de::{Deserialize, Deserializer};
use serde::ser::{Serialize, Serializer};

/// Binary data as one item: one MessagePack *bin*, copied at memory speed.
///
/// A plain `Vec<u8>` is a list of numbers to serde, and is coded number by number: about a hundred times slower, and up to twice
/// as large. So binary items, and binary fields of items, are better `Bytes`. It behaves like a `Vec<u8>` that cannot grow.
///
/// ```
/// use procession::{Bytes, Pipe};
///
/// let (here, there) = Pipe::new::<Bytes, Bytes>()?;
/// here.send(&Bytes::from(vec![0; 1000]))?;
/// let bytes = there.recv()?;
/// assert_eq!(bytes.len(), 1000);
/// let plain: Vec<u8> = bytes.into();
/// assert_eq!(plain, [0; 1000]);
/// # Ok::<(), procession::Error>(())
/// ```
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(Vec<u8>);

impl Bytes {
    /// No bytes.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// The bytes, without a copy.
    #[must_use]
    pub fn into_vec(self) -> Vec<u8> {
        self.0
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for Bytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl std::borrow::Borrow<[u8]> for Bytes {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Bytes {
    /// As byte string literals are written; of many bytes, the first and the number of all.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 64;
        let shown = &self.0[..self.0.len().min(SHOWN)];
        write!(f, "b\"{}\"", shown.escape_ascii())?;
        if self.0.len() > SHOWN {
            write!(f, "... ({} bytes)", self.0.len())?;
        }
        Ok(())
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl From<Bytes> for Vec<u8> {
    fn from(bytes: Bytes) -> Self {
        bytes.0
    }
}

impl From<&[u8]> for Bytes {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }
}

impl<const N: usize> From<[u8; N]> for Bytes {
    fn from(bytes: [u8; N]) -> Self {
        Self(bytes.to_vec())
    }
}

impl<const N: usize> From<&[u8; N]> for Bytes {
    fn from(bytes: &[u8; N]) -> Self {
        Self(bytes.to_vec())
    }
}

impl From<String> for Bytes {
    fn from(text: String) -> Self {
        Self(text.into_bytes())
    }
}

impl From<&str> for Bytes {
    fn from(text: &str) -> Self {
        Self(text.as_bytes().to_vec())
    }
}

impl FromIterator<u8> for Bytes {
    fn from_iter<I: IntoIterator<Item = u8>>(bytes: I) -> Self {
        Self(bytes.into_iter().collect())
    }
}

impl PartialEq<[u8]> for Bytes {
    fn eq(&self, other: &[u8]) -> bool {
        self.0 == other
    }
}

impl<const N: usize> PartialEq<[u8; N]> for Bytes {
    fn eq(&self, other: &[u8; N]) -> bool {
        self.0 == other
    }
}

impl PartialEq<Vec<u8>> for Bytes {
    fn eq(&self, other: &Vec<u8>) -> bool {
        self.0 == *other
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    /// Takes a list of numbers as well, which is what a `Vec<u8>` at the other side sends.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        serde_bytes::ByteBuf::deserialize(deserializer).map(|bytes| Self(bytes.into_vec()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_one_bin_and_a_list_of_numbers_is_understood()
    -> Result<(), Box<dyn std::error::Error>> {
        let coded = rmp_serde::to_vec(&Bytes::from([1, 200, 3]))?;
        assert_eq!(coded, [0xc4, 3, 1, 200, 3]);
        let back: Bytes = rmp_serde::from_slice(&coded)?;
        assert_eq!(back, [1, 200, 3]);
        let listed: Bytes = rmp_serde::from_slice(&rmp_serde::to_vec(&vec![1_u8, 200, 3])?)?;
        assert_eq!(listed, back);
        Ok(())
    }

    #[test]
    fn many_bytes_are_shown_in_short() {
        assert_eq!(format!("{:?}", Bytes::from("a\n\"")), r#"b"a\n\"""#);
        let many = format!("{:?}", Bytes::from(vec![b'x'; 1 << 20]));
        assert!(many.ends_with("xx\"... (1048576 bytes)"), "{many}");
    }
}
