//! Data that another process of ours holds: what is asked of a [`Host`](super::host::Host).

use std::time::{Duration, Instant};

use super::link::{Changes, Commit, Dial, Done, Fault, Link, Outcome, Page, Row, Version};
use super::talk::{Answer, Line, Request, SILENCE, SLOW, VERSION, hear, say};
use crate::bytes::Bytes;
use crate::error::{Error, Result};
use crate::pipe::Client;
use crate::wire::endpoint::Endpoint;

/// How long a manager that was there is looked for: it does not come back, but the connection may have been cut.
const GLANCE: Duration = Duration::from_secs(3);

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(20);

/// A manager, by where it is and which one it is.
#[derive(Clone)]
pub(super) struct Hosted {
    endpoint: Endpoint,
    insecure: bool,
    life: u64,
}

/// Comes in, and hears which manager it is.
fn enter(endpoint: &Endpoint, insecure: bool, patience: Duration) -> Done<(Line, u64)> {
    let at = endpoint.to_string();
    let line = match insecure {
        true => Client::connect_insecure(&at, patience),
        false => Client::connect_timeout(&at, patience),
    }?;
    let strange = |why: String| {
        Fault::Final(Error::Connect {
            endpoint: at.clone(),
            why: format!("what listens there is no manager of shared data: {why}"),
        })
    };
    match hear(&line, SLOW) {
        Ok(Answer::Welcome { version, life }) if version == VERSION => Ok((line, life)),
        Ok(Answer::Welcome { version, .. }) => Err(strange(format!(
            "it speaks version {version} of what is said to managers, and this program {VERSION}"
        ))),
        Ok(Answer::Refused(why)) => Err(Fault::Lost(why)),
        Ok(other) => Err(strange(format!("it says {other:?}"))),
        Err(why) if why.contains("closed") => Err(Fault::Lost("it is ending".to_owned())),
        Err(why) => Err(strange(why)),
    }
}

/// Which manager is there; waits for one.
pub(super) fn life_of(endpoint: &Endpoint, insecure: bool, patience: Duration) -> Result<u64> {
    match enter(endpoint, insecure, patience) {
        Ok((_, life)) => Ok(life),
        Err(Fault::Final(error)) => Err(error),
        Err(Fault::Lost(why)) => Err(Error::Connect {
            endpoint: endpoint.to_string(),
            why,
        }),
    }
}

impl Hosted {
    pub(super) const fn new(endpoint: Endpoint, insecure: bool, life: u64) -> Self {
        Self {
            endpoint,
            insecure,
            life,
        }
    }

    pub(super) fn shown(&self) -> String {
        self.endpoint.to_string()
    }

    fn gone(&self, why: impl Into<String>) -> Fault {
        Fault::Final(Error::ManagerGone {
            at: self.shown(),
            why: why.into(),
        })
    }

    /// A connection to this manager, and no other.
    pub(super) fn enter(&self, patience: Duration) -> Done<Line> {
        let begun = Instant::now();
        let patience = patience.min(GLANCE);
        loop {
            let left = patience.saturating_sub(begun.elapsed());
            match enter(&self.endpoint, self.insecure, left) {
                Ok((line, life)) if life == self.life => return Ok(line),
                Ok(_) => {
                    return Err(self.gone("another one is there now; open what that one holds"));
                }
                Err(Fault::Final(Error::NobodyThere { .. })) => {
                    return Err(self.gone("nobody is there"));
                }
                // One that is ending, or was killed just now, may be connected to, and says nothing.
                Err(
                    Fault::Final(Error::Connect { .. } | Error::TurnedAway { .. }) | Fault::Lost(_),
                ) if !left.is_zero() => {
                    std::thread::sleep(PAUSE);
                }
                Err(fault) => return Err(fault),
            }
        }
    }
}

impl Dial for Hosted {
    fn dial(&self, patience: Duration) -> Done<Box<dyn Link>> {
        let line = self.enter(patience)?;
        Ok(Box::new(Asks {
            line,
            shown: self.shown(),
        }))
    }
}

struct Asks {
    line: Line,
    shown: String,
}

impl Asks {
    fn ask(&mut self, request: &Request, wait: Duration) -> Done<Answer> {
        say(&self.line, request).map_err(Fault::Lost)?;
        match hear(&self.line, SILENCE + wait) {
            Ok(Answer::Refused(why)) => Err(Fault::Final(Error::SharedData {
                at: self.shown.clone(),
                why,
            })),
            Ok(answer) => Ok(answer),
            Err(why) => Err(Fault::Lost(why)),
        }
    }
}

fn other(answer: &Answer) -> Fault {
    log::debug!("a manager answers {answer:?}");
    Fault::Lost("it answers something else than was asked".to_owned())
}

impl Link for Asks {
    fn read(&mut self, object: &str, keys: &[Bytes]) -> Done<Vec<Option<Row>>> {
        let request = Request::Read {
            object: object.to_owned(),
            keys: keys.to_vec(),
        };
        match self.ask(&request, Duration::ZERO)? {
            Answer::Rows(rows) => Ok(rows),
            answer => Err(other(&answer)),
        }
    }

    fn commit(&mut self, object: &str, commit: &Commit) -> Done<Outcome> {
        let request = Request::Commit {
            object: object.to_owned(),
            commit: commit.clone(),
        };
        match self.ask(&request, Duration::ZERO)? {
            Answer::Outcome(outcome) => Ok(outcome),
            answer => Err(other(&answer)),
        }
    }

    fn scan(&mut self, object: &str, after: Option<&Bytes>) -> Done<Page> {
        let request = Request::Scan {
            object: object.to_owned(),
            after: after.cloned(),
        };
        match self.ask(&request, Duration::ZERO)? {
            Answer::Page(page) => Ok(page),
            answer => Err(other(&answer)),
        }
    }

    fn count(&mut self, object: &str) -> Done<u64> {
        let request = Request::Count {
            object: object.to_owned(),
        };
        match self.ask(&request, Duration::ZERO)? {
            Answer::Count(count) => Ok(count),
            answer => Err(other(&answer)),
        }
    }

    fn changes(&mut self, object: &str, after: Option<Version>, wait: Duration) -> Done<Changes> {
        let request = Request::Changes {
            object: object.to_owned(),
            after,
            wait,
        };
        match self.ask(&request, wait)? {
            Answer::Changes(changes) => Ok(changes),
            answer => Err(other(&answer)),
        }
    }
}
