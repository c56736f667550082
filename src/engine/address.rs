//! A queue's URL: a server, and a queue's name there.

use std::fmt;
use std::time::Duration;

use url::Url;

use crate::error::{Error, Result};

/// The queue of a URL that names none.
const DEFAULT_QUEUE: &str = "procession";

/// What carries a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// `tcp://` or `ipc://`: ZeroMQ, to a program that has bound the queue, or a host of many (`procession queue`).
    ZeroMq,
    /// `redis://`, `rediss://`.
    Redis,
    /// `amqp://`, `amqps://`.
    Amqp,
    /// `beanstalk://`.
    Beanstalk,
}

/// Where a queue is: `SCHEME://SERVER?queue=NAME`, with `maxsize=N` and `lease=SECONDS` if one likes.
///
/// ```
/// use procession::engine::{Address, Scheme};
/// let address: Address = "redis://:secret@127.0.0.1:6379/0?queue=pages&maxsize=100".parse()?;
/// assert_eq!(address.scheme, Scheme::Redis);
/// assert_eq!(address.queue, "pages");
/// assert_eq!(address.maxsize, Some(100));
/// assert_eq!(address.server, "redis://:secret@127.0.0.1:6379/0");
/// // It is shown without its password.
/// assert_eq!(address.to_string(), "redis://127.0.0.1:6379/0?queue=pages");
/// # Ok::<(), procession::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Address {
    /// What carries it.
    pub scheme: Scheme,
    /// The server's own URL, as its other clients take it; it may have a password.
    pub server: String,
    /// The queue's name there. With ZeroMQ an empty one stands for the only queue of a program that has bound it.
    pub queue: String,
    /// How many items may be in it, if that was said.
    pub maxsize: Option<u64>,
    /// For how long an item is its getter's unless renewed, if that was said.
    pub lease: Option<Duration>,
}

impl Address {
    /// Whether the text leads to a server of its own, and not to a process of ours.
    #[must_use]
    pub fn is_of_server(text: &str) -> bool {
        let scheme = text.split_once("://").map_or("", |(scheme, _)| scheme);
        matches!(
            scheme,
            "redis" | "rediss" | "amqp" | "amqps" | "beanstalk" | "beanstalkd"
        )
    }

    /// The queue of this name on the same server, with the same settings.
    #[must_use]
    pub fn named(&self, queue: &str) -> Self {
        Self {
            queue: queue.to_owned(),
            ..self.clone()
        }
    }

    /// The whole URL, with password and settings: what [`FromStr`](std::str::FromStr) takes.
    #[must_use]
    pub fn url(&self) -> String {
        let maxsize = self.maxsize.map(|items| format!("maxsize={items}"));
        let lease = self.lease.map(|time| format!("lease={}", time.as_secs()));
        let queue = Some(format!("queue={}", self.queue)).filter(|_| !self.queue.is_empty());
        let settings: Vec<String> = [queue, maxsize, lease].into_iter().flatten().collect();
        match settings.is_empty() {
            true => self.server.clone(),
            false => format!("{}?{}", self.server, settings.join("&")),
        }
    }

    fn bad(text: &str, why: impl Into<String>) -> Error {
        Error::BadEndpoint {
            endpoint: without_password(text),
            why: why.into(),
        }
    }
}

/// The text with what stands between the scheme and the last `@` left out.
fn without_password(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else {
        return text.to_owned();
    };
    // Of all of it: a password in which a slash or a question mark was not escaped must not be shown either.
    match rest.rfind('@') {
        Some(at) => format!("{scheme}://{}", &rest[at + 1..]),
        None => text.to_owned(),
    }
}

impl std::str::FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (server, query) = text.split_once('?').unwrap_or((text, ""));
        let scheme = match server.split_once("://").map(|(scheme, _)| scheme) {
            Some("tcp" | "ipc") => Scheme::ZeroMq,
            Some("redis" | "rediss") => Scheme::Redis,
            Some("amqp" | "amqps") => Scheme::Amqp,
            Some("beanstalk" | "beanstalkd") => Scheme::Beanstalk,
            _ => {
                return Err(Self::bad(
                    text,
                    "a queue's URL begins with tcp://, ipc://, redis://, amqp:// or beanstalk://",
                ));
            }
        };
        if scheme != Scheme::ZeroMq {
            let url = Url::parse(server).map_err(|error| Self::bad(text, error.to_string()))?;
            if url.host_str().is_none_or(str::is_empty) {
                return Err(Self::bad(text, "it names no host"));
            }
        }
        let mut address = Self {
            scheme,
            server: server.to_owned(),
            queue: String::new(),
            maxsize: None,
            lease: None,
        };
        for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
            let number = || {
                value.parse::<u64>().map_err(|_| {
                    Self::bad(text, format!("{key}={value}: a whole number is wanted"))
                })
            };
            match &*key {
                "queue" if is_name(&value) => address.queue = value.into_owned(),
                "queue" => {
                    return Err(Self::bad(
                        text,
                        format!(
                            "queue={value}: a queue's name has 1 to 128 letters, digits and - _ . :"
                        ),
                    ));
                }
                "maxsize" => address.maxsize = Some(number()?),
                "lease" => {
                    let seconds = number()?;
                    if seconds == 0 || seconds > 24 * 3600 {
                        return Err(Self::bad(text, "lease= wants 1 to 86400 seconds"));
                    }
                    address.lease = Some(Duration::from_secs(seconds));
                }
                _ => {
                    return Err(Self::bad(
                        text,
                        format!("{key}= is not known; there are queue=, maxsize= and lease="),
                    ));
                }
            }
        }
        if address.queue.is_empty() && scheme != Scheme::ZeroMq {
            address.queue = DEFAULT_QUEUE.to_owned();
        }
        Ok(address)
    }
}

/// Whether a queue may have this name.
pub(crate) fn is_name(text: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
    (1..=128).contains(&text.len()) && text.chars().all(is_part)
}

/// Without password and settings.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&without_password(&self.server))?;
        if !self.queue.is_empty() {
            write!(f, "?queue={}", self.queue)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        text.parse::<Address>().unwrap_err().to_string()
    }

    #[test]
    fn what_is_not_said_is_as_usual() {
        let address: Address = "beanstalk://127.0.0.1:11300".parse().unwrap();
        assert_eq!(address.queue, "procession");
        assert_eq!((address.maxsize, address.lease), (None, None));
        let address: Address = "tcp://127.0.0.1:5557".parse().unwrap();
        assert_eq!(address.queue, "");
        assert_eq!(address.to_string(), "tcp://127.0.0.1:5557");
    }

    #[test]
    fn the_whole_url_leads_to_the_same_queue() {
        for text in [
            "redis://u:p@host:6379/0?queue=a&maxsize=3&lease=7",
            "tcp://127.0.0.1:5557",
            "ipc:///tmp/a?queue=b",
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.url(), text);
            assert_eq!(address.url().parse::<Address>().unwrap(), address);
        }
        let other = "redis://u:p@h?queue=a&lease=7".parse::<Address>().unwrap();
        let other = other.named("b");
        assert_eq!(other.to_string(), "redis://h?queue=b");
        assert_eq!(other.url(), "redis://u:p@h?queue=b&lease=7");
    }

    #[test]
    fn a_password_is_in_no_message() {
        for text in [
            "redis://user:secret@host/0?queue=a b",
            "amqp://user:secret@host:5672/%2f?lease=x",
            "amqp://user:sec@ret@host?nothing=1",
            "http://user:secret@host/",
            "redis://:ab/sec@ret@host?queue=x",
            "amqp://user:p?secret@host/v",
        ] {
            let said = refused(text);
            assert!(!said.contains("sec"), "{said}");
        }
        let address: Address = "amqp://user:secret@host:5672/%2f?queue=a".parse().unwrap();
        assert!(!format!("{address} {address:?}").contains("secret"));
    }

    #[test]
    fn mistakes_are_named() {
        assert!(refused("redis:127.0.0.1").contains("begins with tcp://"));
        assert!(refused("redis://h?queu=a").contains("queu="));
        assert!(refused("redis://h?maxsize=-1").contains("maxsize=-1"));
        assert!(refused("redis://h?lease=0").contains("lease"));
        assert!(refused("redis://h?queue=").contains("queue="));
    }
}
