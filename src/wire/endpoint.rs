//! Endpoints: where a pipeline listens, and where it is found.
//!
//! An [`Endpoint`] is parsed and judged before any socket sees it, so that a mistake is named in the user's words.

use std::fmt;
use std::net::{IpAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::error::Error;

/// The longest path of a Unix socket, in bytes (`sockaddr_un` has 108, one of them the closing NUL).
pub const LONGEST_IPC_PATH: usize = 107;

/// A place to listen at or to connect to.
///
/// ```
/// use procession::Endpoint;
/// let endpoint: Endpoint = "tcp://127.0.0.1:5557".parse()?;
/// assert!(endpoint.is_this_machine());
/// assert_eq!(endpoint.to_string(), "tcp://127.0.0.1:5557");
/// assert!("tcp://127.0.0.1".parse::<Endpoint>().is_err());
/// # Ok::<(), procession::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// Between threads of one process.
    Inproc(String),
    /// A Unix socket.
    Ipc(PathBuf),
    /// TCP. Port 0 stands for `*`, any free port; host `*` for all interfaces.
    Tcp {
        /// A name or an address, an IPv6 one without its brackets; or `*`.
        host: String,
        /// The port; 0 is any free one.
        port: u16,
    },
}

/// The way that bytes take, in the numbers of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Transport {
    /// Between threads.
    Inproc = 0,
    /// Unix sockets.
    Ipc = 1,
    /// TCP.
    Tcp = 2,
}

impl Transport {
    /// The transport of that number.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Inproc),
            1 => Some(Self::Ipc),
            2 => Some(Self::Tcp),
            _ => None,
        }
    }
}

impl Endpoint {
    /// Its transport.
    #[must_use]
    pub const fn transport(&self) -> Transport {
        match self {
            Self::Inproc(_) => Transport::Inproc,
            Self::Ipc(_) => Transport::Ipc,
            Self::Tcp { .. } => Transport::Tcp,
        }
    }

    /// Whether only this machine can be reached there, or reach us there. A name counts by what it resolves to.
    #[must_use]
    pub fn is_this_machine(&self) -> bool {
        let Self::Tcp { host, .. } = self else {
            return true;
        };
        if let Ok(address) = host.parse::<IpAddr>() {
            return address.is_loopback();
        }
        if host == "localhost" {
            return true;
        }
        host != "*"
            && (host.as_str(), 1)
                .to_socket_addrs()
                .is_ok_and(|mut all| all.all(|address| address.ip().is_loopback()))
    }

    /// The same endpoint, with `host` in place of `*`; what has no host stays as it is. Addresses are announced by port,
    /// because only who dialled knows by which name the other machine is reached.
    #[must_use]
    pub fn with_host_if_any(self, host: &str) -> Self {
        match self {
            Self::Tcp { host: any, port } if matches!(&*any, "*" | "0.0.0.0" | "::") => Self::Tcp {
                host: host.to_owned(),
                port,
            },
            other => other,
        }
    }

    /// The same endpoint announced by port only: host `*`.
    pub(crate) fn with_any_host(self) -> Self {
        match self {
            Self::Tcp { port, .. } => Self::Tcp {
                host: "*".to_owned(),
                port,
            },
            other => other,
        }
    }

    /// The host of a TCP endpoint.
    #[must_use]
    pub fn host(&self) -> Option<&str> {
        match self {
            Self::Tcp { host, .. } => Some(host),
            _ => None,
        }
    }

    /// The path of an `ipc://` endpoint.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Ipc(path) => Some(path),
            _ => None,
        }
    }

    /// As ZeroMQ's bind takes it: it knows addresses and interfaces, but not names.
    pub(crate) fn to_bind(&self) -> String {
        match self {
            Self::Tcp { host, port: 0 } => format!("tcp://{}:*", bind_host(host)),
            Self::Tcp { host, port } => format!("tcp://{}:{port}", bind_host(host)),
            other => other.to_string(),
        }
    }
}

fn bind_host(host: &str) -> String {
    if host == "localhost" {
        return "127.0.0.1".to_owned();
    }
    bracketed(host)
}

fn bracketed(host: &str) -> String {
    if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inproc(name) => write!(f, "inproc://{name}"),
            Self::Ipc(path) => write!(f, "ipc://{}", path.display()),
            Self::Tcp { host, port: 0 } => write!(f, "tcp://{}:*", bracketed(host)),
            Self::Tcp { host, port } => write!(f, "tcp://{}:{port}", bracketed(host)),
        }
    }
}

impl FromStr for Endpoint {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = |why: String| Error::BadEndpoint {
            endpoint: text.to_owned(),
            why,
        };
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(bad(
                "it has no scheme; write tcp://HOST:PORT or ipc://PATH".to_owned()
            ));
        };
        if rest.contains('\0') {
            return Err(bad("there is a NUL in it".to_owned()));
        }
        match scheme {
            "inproc" if rest.is_empty() => Err(bad("inproc:// needs a name".to_owned())),
            "inproc" => Ok(Self::Inproc(rest.to_owned())),
            "ipc" if rest.is_empty() => Err(bad(
                "ipc:// needs a path, for instance ipc:///tmp/run.ipc".to_owned(),
            )),
            // ZeroMQ makes a socket without a file of the first, which every user of the machine can open, and a file of a name
            // that nobody is told of the second.
            "ipc" if rest.starts_with('@') || rest == "*" => Err(bad(format!(
                "{} is no file that belongs to a user; write a path, for instance ipc://./{rest}",
                match rest {
                    "*" => "a name that is left open",
                    _ => "a name that begins with @",
                }
            ))),
            "ipc" if rest.len() + ".lock".len() > LONGEST_IPC_PATH => Err(bad(format!(
                "the path has {} bytes and a Unix socket's may have {}; choose a shorter one",
                rest.len(),
                LONGEST_IPC_PATH - ".lock".len()
            ))),
            "ipc" => Ok(Self::Ipc(PathBuf::from(rest))),
            "tcp" => parse_tcp(rest).map_err(bad),
            other => Err(bad(format!(
                "{other}:// is not known here; write tcp://HOST:PORT or ipc://PATH"
            ))),
        }
    }
}

fn parse_tcp(rest: &str) -> Result<Endpoint, String> {
    let Some((host, port)) = rest.rsplit_once(':') else {
        return Err("tcp:// needs a port, for instance tcp://127.0.0.1:5557".to_owned());
    };
    let host = match host.strip_prefix('[').map(|inner| inner.strip_suffix(']')) {
        Some(Some(inner)) => inner,
        Some(None) => return Err(format!("{host} lacks its closing bracket")),
        None if host.contains(':') => {
            return Err(format!("write an IPv6 address in brackets: [{host}]"));
        }
        None => host,
    };
    if host.is_empty() {
        return Err("there is no host; write 127.0.0.1 for this machine".to_owned());
    }
    if host.contains(|c: char| c.is_whitespace() || "/;[]".contains(c)) {
        return Err(format!("{host:?} is not a host"));
    }
    let port = match port {
        "*" => 0,
        digits => match digits.parse::<u16>() {
            Ok(0) | Err(_) => {
                return Err(format!(
                    "{digits:?} is not a port (1 to 65535, or * for a free one)"
                ));
            }
            Ok(port) => port,
        },
    };
    Ok(Endpoint::Tcp {
        host: host.to_owned(),
        port,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_parsed_or_refused_with_a_reason() {
        let long = format!("ipc:///{}", "x".repeat(120));
        let rows: &[(&str, Result<&str, &str>)] = &[
            ("tcp://127.0.0.1:5557", Ok("tcp://127.0.0.1:5557")),
            ("tcp://*:5557", Ok("tcp://*:5557")),
            ("tcp://localhost:*", Ok("tcp://localhost:*")),
            ("tcp://[::1]:80", Ok("tcp://[::1]:80")),
            ("ipc:///tmp/a b", Ok("ipc:///tmp/a b")),
            ("ipc://relative", Ok("ipc://relative")),
            ("ipc://./@x", Ok("ipc://./@x")),
            ("inproc://x", Ok("inproc://x")),
            ("ipc://@x", Err("begins with @")),
            ("ipc://*", Err("left open")),
            ("127.0.0.1:5557", Err("no scheme")),
            ("tcp://127.0.0.1", Err("needs a port")),
            ("tcp://127.0.0.1:0", Err("not a port")),
            ("tcp://127.0.0.1:70000", Err("not a port")),
            ("tcp://:80", Err("no host")),
            ("tcp://::1:80", Err("in brackets")),
            ("tcp://[::1:80", Err("closing bracket")),
            ("tcp://a b:80", Err("not a host")),
            ("tcp://[[a]]:80", Err("not a host")),
            ("ipc://", Err("needs a path")),
            ("inproc://", Err("needs a name")),
            ("http://localhost:80", Err("not known")),
            (&long, Err("choose a shorter one")),
        ];
        for (text, expected) in rows {
            match (text.parse::<Endpoint>(), expected) {
                (Ok(endpoint), Ok(shown)) => assert_eq!(&endpoint.to_string(), shown),
                (Err(error), Err(part)) => {
                    let message = error.to_string();
                    assert!(message.contains(part), "{text}: {message}");
                    assert!(message.contains(text), "{message} does not name {text}");
                }
                (got, _) => panic!("{text}: {got:?}"),
            }
        }
    }

    #[test]
    fn only_loopback_counts_as_this_machine() {
        for (text, here) in [
            ("tcp://127.0.0.1:1", true),
            ("tcp://127.3.2.1:1", true),
            ("tcp://[::1]:1", true),
            ("tcp://localhost:1", true),
            ("tcp://*:1", false),
            ("tcp://0.0.0.0:1", false),
            ("tcp://192.0.2.7:1", false),
            ("ipc:///x", true),
            ("inproc://x", true),
        ] {
            let endpoint: Endpoint = text.parse().expect(text);
            assert_eq!(endpoint.is_this_machine(), here, "{text}");
        }
    }
}
