//! Where a queue is: an endpoint, and its name there if that is a host of several.

use std::fmt;
use std::str::FromStr;

use crate::engine::Address;
use crate::error::{Error, Result};
use crate::wire::endpoint::Endpoint;
use crate::wire::frame::QueueInfo;

/// A queue's place, as a URL or an endpoint says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) endpoint: Endpoint,
    name: Option<String>,
    /// How many items may be in it, if that was said.
    maxsize: Option<u64>,
}

impl Place {
    /// By what a host of queues is asked for it, with how it shall be, should it be made.
    pub(super) fn named(&self, plan: QueueInfo) -> Option<(String, QueueInfo)> {
        let info = QueueInfo {
            maxsize: self.maxsize.unwrap_or(plan.maxsize),
            ..plan
        };
        Some((self.name.clone()?, info))
    }

    /// Whether the queue that is there is the one that was meant; why not.
    pub(super) fn check(&self, there: QueueInfo, joinable: bool) -> Result<(), String> {
        let size = |maxsize| match maxsize {
            0 => "no maxsize".to_owned(),
            maxsize => format!("maxsize={maxsize}"),
        };
        match self.maxsize {
            _ if there.joinable && !joinable => {
                Err("a JoinableQueue is there; connect with JoinableQueue::connect".to_owned())
            }
            _ if joinable && !there.joinable => {
                Err("it is no JoinableQueue; connect with Queue::connect".to_owned())
            }
            Some(maxsize) if maxsize != there.maxsize => Err(format!(
                "it was made with {}, and here it is opened with {}; leave maxsize= out where the queue may be there already, \
                 or take another name",
                size(there.maxsize),
                size(maxsize)
            )),
            _ => Ok(()),
        }
    }
}

impl From<Endpoint> for Place {
    fn from(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            name: None,
            maxsize: None,
        }
    }
}

impl FromStr for Place {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let is_ours = text.starts_with("tcp://") || text.starts_with("ipc://");
        if !(is_ours && text.contains('?')) {
            return text.parse().map(|endpoint: Endpoint| endpoint.into());
        }
        let bad = |why: &str| Error::BadEndpoint {
            endpoint: text.to_owned(),
            why: why.to_owned(),
        };
        let address: Address = text.parse()?;
        if address.queue.is_empty() {
            return Err(bad("it names no queue; write ?queue=NAME behind it"));
        }
        if address.lease.is_some() {
            return Err(bad(
                "lease= is for servers; by tcp:// and ipc:// an item is its getter's for as long as that is heard",
            ));
        }
        Ok(Self {
            endpoint: address.server.parse()?,
            name: Some(address.queue),
            maxsize: address.maxsize,
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{}?queue={name}", self.endpoint),
            None => self.endpoint.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_has_a_place_and_perhaps_a_name() -> Result<()> {
        let place: Place = "tcp://127.0.0.1:5557?queue=jobs&maxsize=9".parse()?;
        let named = place.named(QueueInfo::default());
        let info = QueueInfo {
            maxsize: 9,
            joinable: false,
        };
        assert_eq!(named, Some(("jobs".to_owned(), info)));
        assert_eq!(place.to_string(), "tcp://127.0.0.1:5557?queue=jobs");
        let place: Place = "ipc:///tmp/a?queue=b".parse()?;
        assert_eq!(place.endpoint, "ipc:///tmp/a".parse()?);
        let place: Place = "inproc://what?".parse()?;
        assert_eq!((place.name, place.maxsize), (None, None));
        for (text, why) in [
            ("tcp://127.0.0.1:1?maxsize=3", "?queue=NAME"),
            ("tcp://127.0.0.1:1?queue=a/b", "letters, digits"),
            ("tcp://127.0.0.1:1?queue=a&lease=3", "lease="),
            ("tcp://127.0.0.1?queue=a", "needs a port"),
        ] {
            let error = text.parse::<Place>().expect_err(text).to_string();
            assert!(error.contains(why), "{error}");
        }
        Ok(())
    }

    #[test]
    fn another_kind_or_size_is_named() {
        let place: Place = "tcp://127.0.0.1:1?queue=a&maxsize=3"
            .parse()
            .expect("a place");
        let there = |maxsize, joinable| QueueInfo { maxsize, joinable };
        assert_eq!(place.check(there(3, true), true), Ok(()));
        for (there, joinable, why) in [
            (there(3, true), false, "JoinableQueue is there"),
            (there(3, false), true, "no JoinableQueue"),
            (there(0, false), false, "made with no maxsize"),
            (there(4, true), true, "made with maxsize=4"),
        ] {
            let said = place.check(there, joinable).expect_err(why);
            assert!(said.contains(why), "{said}");
        }
    }
}
