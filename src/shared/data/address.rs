//! Where shared data is: a URL, parsed (pure).

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use url::form_urlencoded;

use crate::error::{Error, Result};
use crate::wire::endpoint::Endpoint;

/// For how long a lost server is looked for, unless the URL says something else.
const PATIENCE: Duration = Duration::from_secs(10);

/// Who keeps the data.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// A process of ours.
    Hosted { endpoint: Endpoint, insecure: bool },
    /// A file; whether a change is on the disk before it counts.
    Sqlite { path: PathBuf, syncs: bool },
    /// A server, by its own URL.
    Redis(String),
    /// The same.
    Postgres(String),
}

impl Place {
    /// Whether it leads nowhere from another machine.
    pub(super) fn is_of_this_machine(&self) -> bool {
        match self {
            Self::Hosted { endpoint, .. } => endpoint.is_this_machine(),
            Self::Sqlite { .. } => true,
            Self::Redis(url) | Self::Postgres(url) => {
                url::Url::parse(url).is_ok_and(|url| match url.host() {
                    None => true,
                    Some(url::Host::Domain(name)) => name.is_empty() || name == "localhost",
                    Some(url::Host::Ipv4(address)) => address.is_loopback(),
                    Some(url::Host::Ipv6(address)) => address.is_loopback(),
                })
            }
        }
    }
}

/// A URL of shared data.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) place: Place,
    pub(super) name: Option<String>,
    pub(super) patience: Duration,
    /// The URL without the name: what a handle has with it. It may have a password.
    pub(super) store: String,
    /// As it is shown: without password, name and settings.
    pub(super) shown: String,
}

fn bad(text: &str, why: impl Into<String>) -> Error {
    Error::BadEndpoint {
        endpoint: without_secrets(text),
        why: why.into(),
    }
}

/// The text without what may be a password: all between the scheme and the last `@` before the path, and the query, where one may be as well.
fn without_secrets(text: &str) -> String {
    let text = text.split_once('?').map_or(text, |(before, _)| before);
    let Some((scheme, rest)) = text.split_once("://") else {
        return text.to_owned();
    };
    // A path may have one, too, in a file's name; and a password may have a slash that was not escaped.
    match rest.rfind('@') {
        Some(at) if !matches!(scheme, "ipc" | "sqlite") => {
            format!("{scheme}://{}", &rest[at + 1..])
        }
        _ => text.to_owned(),
    }
}

pub(super) fn is_name(text: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
    (1..=128).contains(&text.len()) && text.chars().all(is_part)
}

impl std::str::FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (server, query) = text.split_once('?').unwrap_or((text, ""));
        let mut name = None;
        let mut patience = None;
        let mut insecure = None;
        let mut syncs = None;
        let scheme = server.split(':').next().unwrap_or_default();
        let is_postgres = matches!(scheme, "postgres" | "postgresql");
        // What else there is, for the server's client.
        let mut others = form_urlencoded::Serializer::new(String::new());
        let mut has_others = false;
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            match (&*key, &*value) {
                ("name", given) if is_name(given) => name = Some(given.to_owned()),
                ("name", given) => {
                    return Err(bad(
                        text,
                        format!("name={given}: a name has 1 to 128 letters, digits and - _ . :"),
                    ));
                }
                ("patience", given) => match given.parse::<u64>() {
                    Ok(seconds) if seconds <= 24 * 3600 => patience = Some(seconds),
                    _ => return Err(bad(text, "patience= wants 0 to 86400 seconds")),
                },
                ("insecure", given @ ("true" | "false")) => insecure = Some(given == "true"),
                ("insecure", _) => return Err(bad(text, "insecure= is true or false")),
                ("sync", given @ ("full" | "normal")) => syncs = Some(given == "full"),
                ("sync", _) => return Err(bad(text, "sync= is full or normal")),
                _ if is_postgres => {
                    others.append_pair(&key, &value);
                    has_others = true;
                }
                _ => {
                    return Err(bad(
                        text,
                        format!(
                            "{key}= is not known; there are name=, patience=, insecure= (tcp://) and sync= (sqlite:)"
                        ),
                    ));
                }
            }
        }
        let place = match scheme {
            "tcp" | "ipc" => Place::Hosted {
                endpoint: server.parse().map_err(|_| {
                    bad(
                        text,
                        "write tcp://HOST:PORT?name=NAME or ipc://PATH?name=NAME",
                    )
                })?,
                insecure: insecure.unwrap_or(false),
            },
            "sqlite" => {
                let path = &server["sqlite".len()..];
                let path = path.strip_prefix(':').unwrap_or(path);
                let path = path.strip_prefix("//").unwrap_or(path);
                if path.is_empty() {
                    return Err(bad(text, "it names no file; write sqlite:FILE?name=NAME"));
                }
                // A child may have another working directory.
                let path = std::path::absolute(path)
                    .map_err(|error| bad(text, format!("it is no path: {error}")))?;
                Place::Sqlite {
                    path,
                    syncs: syncs.unwrap_or(true),
                }
            }
            "redis" | "postgres" | "postgresql" => {
                let url = url::Url::parse(server).map_err(|error| bad(text, error.to_string()))?;
                match scheme {
                    "redis" if url.host_str().is_none_or(str::is_empty) => {
                        return Err(bad(text, "it names no host"));
                    }
                    "redis" => Place::Redis(server.to_owned()),
                    _ if has_others => Place::Postgres(format!("{server}?{}", others.finish())),
                    _ => Place::Postgres(server.to_owned()),
                }
            }
            "rediss" => {
                return Err(bad(
                    text,
                    "TLS is not spoken here; take redis://, through a tunnel where others can listen",
                ));
            }
            _ => {
                return Err(bad(
                    text,
                    "a URL of shared data begins with tcp://, ipc://, sqlite:, redis:// or postgres://",
                ));
            }
        };
        if insecure.is_some() && !matches!(place, Place::Hosted { .. }) {
            return Err(bad(text, "insecure= is for tcp:// only"));
        }
        if syncs.is_some() && !matches!(place, Place::Sqlite { .. }) {
            return Err(bad(text, "sync= is for sqlite: only"));
        }
        let mut store = match &place {
            Place::Hosted { endpoint, .. } => endpoint.to_string(),
            Place::Sqlite { path, .. } => match path.to_str() {
                Some(path) => format!("sqlite:{path}"),
                None => return Err(bad(text, "the path is not UTF-8")),
            },
            Place::Redis(url) | Place::Postgres(url) => url.clone(),
        };
        let shown = without_secrets(&store);
        let settings = [
            patience.map(|seconds| format!("patience={seconds}")),
            insecure.map(|insecure| format!("insecure={insecure}")),
            syncs.map(|syncs| format!("sync={}", if syncs { "full" } else { "normal" })),
        ];
        for setting in settings.into_iter().flatten() {
            store.push(if store.contains('?') { '&' } else { '?' });
            store.push_str(&setting);
        }
        Ok(Self {
            place,
            name,
            patience: patience.map_or(PATIENCE, Duration::from_secs),
            store,
            shown,
        })
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        text.parse().expect(text)
    }

    fn refused(text: &str) -> String {
        text.parse::<Address>().expect_err(text).to_string()
    }

    #[test]
    fn a_store_is_found_again_by_what_a_handle_has_with_it() {
        for text in [
            "tcp://127.0.0.1:5557?name=a",
            "tcp://far:5557?name=a&insecure=true",
            "ipc:///tmp/a@b?name=a",
            "sqlite:/tmp/a@b.db?name=a&sync=normal",
            "redis://:secret@127.0.0.1:6379/0?name=a&patience=3",
            "postgres://user:secret@host/db?sslmode=disable&name=a&patience=3",
        ] {
            let first = address(text);
            assert_eq!(first.name.as_deref(), Some("a"), "{text}");
            let again = address(&first.store);
            assert!(again.place == first.place, "{text}: {}", first.store);
            assert_eq!(again.patience, first.patience, "{text}");
            assert_eq!(again.shown, first.shown, "{text}");
            assert_eq!(again.store, first.store, "{text}");
        }
        assert_eq!(address("sqlite:///a/b").shown, "sqlite:/a/b");
        assert!(address("sqlite:b").shown.starts_with("sqlite:/"));
    }

    #[test]
    fn a_password_is_in_no_message() {
        for text in [
            "redis://user:sec@ret@host/0?name=a b",
            "redis://user:sec/ret@host/0?name=a b",
            "postgres://user:secret@host/db?password=secret&name=",
            "http://user:secret@host/",
            "rediss://user:secret@host/",
        ] {
            let said = refused(text);
            assert!(!said.contains("sec") && !said.contains("ret@"), "{said}");
        }
        let shown = address("postgres://user:secret@host/db?password=secret&name=a").shown;
        assert_eq!(shown, "postgres://host/db");
    }

    #[test]
    fn mistakes_are_named() {
        assert!(refused("redis:127.0.0.1").contains("redis"));
        assert!(refused("files:a").contains("begins with tcp://"));
        assert!(refused("redis://h?nam=a").contains("nam="));
        assert!(refused("redis://h?sync=full").contains("sqlite:"));
        assert!(refused("sqlite:").contains("no file"));
        assert!(refused("tcp://h?name=a").contains("PORT"));
        assert!(refused("sqlite:a?patience=x").contains("seconds"));
    }
}
