//! CURVE keys: who may join over TCP, and how each side proves who it is.
//!
//! TCP is encrypted and both sides prove who they are by [CURVE](https://rfc.zeromq.org/spec/26/) (curve25519, by libsodium). There are
//! three ways to the keys for it, and none of them needs a line of the others:
//!
//! - **On this machine** nothing is to be done: who listens on loopback keeps keys of its own for the time that it listens, in a file that only
//!   the same user can read, and the same user's programs find it by the port.
//! - **A ticket**, for one run: the ventilator writes a line ([`Ticket`]) that lets its bearer join this run, and no other.
//! - **A folder of keys** ([`Keys`]), for hosts that work together for long: each has a key pair of its own, and who listens has a list of those
//!   that may come.
//!
//! ```
//! use procession::keys::{Keys, KeyPair};
//!
//! let folder = tempfile::tempdir()?;
//! let dir = folder.path().join("keys");
//! Keys::generate(&dir)?;              // as `procession keygen DIR`
//! let keys = Keys::open(&dir)?;
//! assert_eq!(keys.server_key()?.to_string().len(), 40);
//!
//! // Nobody prints a secret by accident.
//! assert!(!format!("{:?}", KeyPair::generate()?).contains("secret_key: \""));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Files are certificates as CZMQ and pyzmq write them: `NAME.key` with the public key, `NAME.key_secret` with both; keys are in
//! [Z85](https://rfc.zeromq.org/spec/32/). A file of a secret that others can read is refused.

mod certificate;
mod folder;
mod ticket;

use std::fmt;
use std::str::FromStr;

use zeroize::Zeroizing;

use crate::error::{Error, Result};

pub use folder::Keys;
pub use ticket::Ticket;

/// The variable that names the folder of [`Keys`] of a program that was given none.
pub const VARIABLE: &str = "PROCESSION_KEYS";

/// How long a key is, in Z85 characters.
const LENGTH: usize = 40;

/// A public key: who somebody is. Shown in Z85, 40 characters.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    pub(crate) const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub(crate) const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&z85::encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl FromStr for PublicKey {
    type Err = BadKey;

    fn from_str(text: &str) -> std::result::Result<Self, BadKey> {
        decode(text).map(|bytes| Self(*bytes))
    }
}

/// A public key and its secret. The secret is never shown: not by `Debug`, not in an error.
#[derive(Clone)]
pub struct KeyPair {
    public: PublicKey,
    secret: Zeroizing<[u8; 32]>,
}

impl KeyPair {
    /// A new pair, of the system's random numbers.
    ///
    /// # Errors
    /// When the libzmq of this program was built without CURVE.
    pub fn generate() -> Result<Self> {
        let (public, secret) = crate::wire::socket::curve::generate()?;
        Ok(Self {
            public: PublicKey(public),
            secret,
        })
    }

    /// The public key.
    #[must_use]
    pub const fn public(&self) -> PublicKey {
        self.public
    }

    pub(crate) fn secret_bytes(&self) -> &[u8; 32] {
        &self.secret
    }

    /// Both in Z85, for messages that are encrypted and files that are private.
    pub(crate) fn to_z85(&self) -> (String, Zeroizing<String>) {
        let secret = Zeroizing::new(z85::encode(&self.secret[..]));
        (self.public.to_string(), secret)
    }

    pub(crate) fn from_z85(public: &str, secret: &str) -> std::result::Result<Self, BadKey> {
        Ok(Self {
            public: public.parse()?,
            secret: decode(secret)?,
        })
    }
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyPair")
            .field("public", &self.public)
            .finish_non_exhaustive()
    }
}

/// The text is no key. It does not say which text: that may be a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a key has {LENGTH} characters of Z85, and this is not one")]
pub struct BadKey;

fn decode(text: &str) -> std::result::Result<Zeroizing<[u8; 32]>, BadKey> {
    if text.len() != LENGTH {
        return Err(BadKey);
    }
    let bytes = Zeroizing::new(z85::decode(text).map_err(|_| BadKey)?);
    let mut key = Zeroizing::new([0; 32]);
    if bytes.len() != key.len() {
        return Err(BadKey);
    }
    key.copy_from_slice(&bytes);
    Ok(key)
}

/// What somebody shows where it connects.
#[derive(Clone, Debug)]
pub enum Proof {
    /// The client's pair of these keys; and only who has their server's is believed.
    Keys(Keys),
    /// The ticket of one run.
    Ticket(Ticket),
}

impl From<Keys> for Proof {
    fn from(keys: Keys) -> Self {
        Self::Keys(keys)
    }
}

impl From<Ticket> for Proof {
    fn from(ticket: Ticket) -> Self {
        Self::Ticket(ticket)
    }
}

fn bad(path: &std::path::Path, why: impl fmt::Display) -> Error {
    Error::Keys {
        path: path.to_owned(),
        why: why.to_string(),
    }
}
