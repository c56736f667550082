//! A join ticket: one line with which its bearer joins one run.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use zeroize::Zeroizing;

use super::{BadKey, KeyPair, PublicKey, folder};
use crate::error::{Error, Result};
use crate::wire::endpoint::Endpoint;

/// One line with which a worker or a sink joins one run: where it is, the key that it has, and a pair that it lets in. It ends with the
/// run, because all these keys are made for it, and are nowhere else.
///
/// Whoever has it can join: send it as one sends a password. It has no `Display`, and is written only where it is said to be.
///
/// ```
/// use procession::keys::Ticket;
/// assert!("tcp://192.0.2.7:5557".parse::<Ticket>().is_err());
/// ```
#[derive(Clone)]
pub struct Ticket {
    endpoint: Endpoint,
    server: PublicKey,
    client: KeyPair,
}

/// The first word of a ticket, with the version of what follows.
const FIRST: &str = "procession-ticket-1";

impl Ticket {
    pub(crate) const fn new(endpoint: Endpoint, server: PublicKey, client: KeyPair) -> Self {
        Self {
            endpoint,
            server,
            client,
        }
    }

    /// Where the run is.
    #[must_use]
    pub const fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    pub(crate) const fn server(&self) -> PublicKey {
        self.server
    }

    pub(crate) const fn client(&self) -> &KeyPair {
        &self.client
    }

    /// The line itself, without its end.
    #[must_use]
    pub fn to_line(&self) -> Zeroizing<String> {
        let (public, secret) = self.client.to_z85();
        Zeroizing::new(format!(
            "{FIRST} {} {} {public} {}",
            self.endpoint,
            self.server,
            secret.as_str()
        ))
    }

    /// Writes it to a file of mode 0600, in place of one that is there.
    ///
    /// # Errors
    /// When that cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let line = Zeroizing::new(format!("{}\n", self.to_line().as_str()));
        // Whole or not at all: a worker may look for it at any time.
        let mut beside = path.as_os_str().to_owned();
        beside.push(format!(".{:016x}", crate::pipeline::random_id()?));
        let beside = std::path::PathBuf::from(beside);
        if path.exists() && !path.is_file() {
            return Err(super::bad(path, "it is not a file"));
        }
        folder::write(&beside, &line)?;
        std::fs::rename(&beside, path).map_err(|error| super::bad(path, error))
    }

    /// Reads it from a file that only this user can read.
    ///
    /// # Errors
    /// When it is not there, others can read it, or it is no ticket.
    pub fn read(path: &Path) -> Result<Self> {
        let text = folder::read(
            path,
            0o077,
            "let others read or write it, and it is a secret",
        )?;
        text.parse().map_err(|why| super::bad(path, why))
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket")
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

/// Why a line is no ticket. It does not show the line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadTicket {
    /// It does not begin as one.
    #[error("it is no ticket: that is one line, which begins with {FIRST} (see --ticket-out)")]
    Other,
    /// Words are missing, or there are too many.
    #[error("the ticket has {0} words instead of 5; was it copied whole?")]
    Words(usize),
    /// Where it leads cannot be.
    #[error("the ticket's endpoint is none that can be connected to: {0}")]
    Endpoint(String),
    /// One of its keys is none.
    #[error("a key of the ticket is damaged ({0}); was it copied whole?")]
    Key(#[from] BadKey),
}

impl FromStr for Ticket {
    type Err = BadTicket;

    fn from_str(text: &str) -> std::result::Result<Self, BadTicket> {
        let mut lines = text.lines().filter(|line| !line.trim().is_empty());
        let (Some(line), None) = (lines.next(), lines.next()) else {
            return Err(BadTicket::Other);
        };
        let words: Vec<&str> = line.split_whitespace().collect();
        if words.first() != Some(&FIRST) {
            return Err(BadTicket::Other);
        }
        let [_, endpoint, server, public, secret] = words[..] else {
            return Err(BadTicket::Words(words.len()));
        };
        let endpoint = match endpoint.parse::<Endpoint>() {
            Ok(found @ Endpoint::Tcp { port: 1.., .. }) => found,
            Ok(_) => return Err(BadTicket::Endpoint("it is not tcp".to_owned())),
            Err(Error::BadEndpoint { why, .. }) => return Err(BadTicket::Endpoint(why)),
            Err(other) => return Err(BadTicket::Endpoint(other.to_string())),
        };
        Ok(Self {
            endpoint,
            server: server.parse()?,
            client: KeyPair::from_z85(public, secret)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket() -> std::result::Result<Ticket, Box<dyn std::error::Error>> {
        let endpoint = "tcp://192.0.2.7:5557".parse()?;
        Ok(Ticket::new(
            endpoint,
            KeyPair::generate()?.public(),
            KeyPair::generate()?,
        ))
    }

    #[test]
    fn a_line_is_read_as_it_was_written_and_debug_hides_it()
    -> std::result::Result<(), Box<dyn std::error::Error>> {
        let ticket = ticket()?;
        let read: Ticket = format!("\n{}\r\n", ticket.to_line().as_str()).parse()?;
        assert_eq!(read.endpoint(), ticket.endpoint());
        assert_eq!(read.server(), ticket.server());
        assert_eq!(read.client().secret_bytes(), ticket.client().secret_bytes());
        let (_, secret) = ticket.client().to_z85();
        assert!(!format!("{ticket:?}").contains(secret.as_str()));
        Ok(())
    }

    #[test]
    fn whatever_is_cut_off_is_said_and_not_shown()
    -> std::result::Result<(), Box<dyn std::error::Error>> {
        let ticket = ticket()?;
        let line = ticket.to_line();
        let (_, secret) = ticket.client().to_z85();
        for end in 0..line.len() {
            if let Some(part) = line.get(..end) {
                let error = part
                    .parse::<Ticket>()
                    .expect_err("it was cut off")
                    .to_string();
                assert!(!error.contains(&secret[..10]), "{error}");
            }
        }
        for other in [
            "two\nlines",
            "procession-ticket-2 a b c d",
            "\u{fffd}",
            "a b c d e",
        ] {
            assert_eq!(other.parse::<Ticket>().map(|_| ()), Err(BadTicket::Other));
        }
        Ok(())
    }
}
