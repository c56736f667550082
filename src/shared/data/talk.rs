//! What processes say to a manager, and it to them: questions and answers by turns, on connections of [`Client`](crate::Client) and
//! [`Listener`](crate::Listener).

use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::link::{Changes, Commit, LARGEST_COMMIT, Outcome, Page, Row, Version};
use crate::bytes::Bytes;
use crate::error::{Error, Result};
use crate::pipe::Connection;
use crate::registry::Failure;

/// Of what is said.
pub(super) const VERSION: u32 = 1;
/// The longest message, in bytes: the largest commit, and what belongs to it.
pub(super) const LONGEST: usize = LARGEST_COMMIT + (4 << 20);
/// A message goes in pieces of this size, each of which must find room in time.
const PIECE: usize = 512 << 10;
/// A frame: one of these, and what belongs to it.
const MORE: u8 = 0;
const LAST: u8 = 1;
const BEAT: u8 = 2;
/// The longest frame.
const FRAME: usize = PIECE + 1;
/// How long a piece may take.
pub(super) const SLOW: Duration = Duration::from_secs(10);
/// How often a manager says that a method still runs.
pub(super) const BEAT_EVERY: Duration = Duration::from_secs(1);
/// Who is not heard for so long is gone.
pub(super) const SILENCE: Duration = Duration::from_secs(5);

pub(super) type Line = Connection<(), ()>;

/// An object of a type of the user's.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) enum Target {
    /// The one of this type that all share.
    Shared(String),
    /// One that was created.
    Created(u64),
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    Read {
        object: String,
        keys: Vec<Bytes>,
    },
    Commit {
        object: String,
        commit: Commit,
    },
    Scan {
        object: String,
        after: Option<Bytes>,
    },
    Count {
        object: String,
    },
    Changes {
        object: String,
        after: Option<Version>,
        wait: Duration,
    },
    /// Whether there is such a type, or object.
    Find(Target),
    Create(String),
    Remove(u64),
    Call {
        target: Target,
        method: String,
        arguments: Bytes,
    },
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    /// Said first.
    Welcome {
        version: u32,
        life: u64,
    },
    Rows(Vec<Option<Row>>),
    Outcome(Outcome),
    Page(Page),
    Count(u64),
    Changes(Changes),
    /// What was asked about is there, under this name.
    Found(String),
    Created {
        id: u64,
        name: String,
    },
    Removed,
    Value(Bytes),
    /// A method has failed; its name.
    Failed(String, Failure),
    /// It was not done, and why.
    Refused(String),
}

/// Says something; each piece of it has to find room in time.
pub(super) fn say<T: Serialize>(line: &Line, message: &T) -> Result<(), String> {
    let bytes = rmp_serde::to_vec(message).map_err(|error| error.to_string())?;
    if bytes.len() > LONGEST {
        return Err(format!(
            "a message of {} bytes; there may be {LONGEST}",
            bytes.len()
        ));
    }
    let mut pieces = bytes.chunks(PIECE).peekable();
    while let Some(piece) = pieces.next() {
        let head = if pieces.peek().is_some() { MORE } else { LAST };
        match line.send_frame_until(head, piece, Instant::now() + SLOW) {
            Ok(true) => {}
            Ok(false) => return Err(format!("it does not read for {SLOW:?}")),
            Err(error) => return Err(why(error)),
        }
    }
    Ok(())
}

/// Says that there will be an answer.
pub(super) fn beat(line: &Line) {
    // If there is no room, there is enough to hear already.
    let _ = line.send_frame_until(BEAT, &[], Instant::now());
}

/// Hears something that begins within that time; a beat begins it anew.
pub(super) fn hear<T: DeserializeOwned>(line: &Line, patience: Duration) -> Result<T, String> {
    let mut message = Vec::new();
    let mut wait = patience;
    loop {
        match line.poll(wait) {
            Ok(true) => {}
            Ok(false) => return Err(format!("nothing was heard for {wait:?}")),
            Err(error) => return Err(why(error)),
        }
        let frame = line.recv_bytes(FRAME).map_err(why)?;
        let Some((&head, piece)) = frame.split_first() else {
            return Err("an empty message".to_owned());
        };
        match head {
            BEAT => continue,
            MORE | LAST if message.len() + piece.len() <= LONGEST => {
                message.extend_from_slice(piece);
            }
            MORE | LAST => return Err(format!("a message of more than {LONGEST} bytes")),
            other => return Err(format!("a message of kind {other}, which is not known")),
        }
        if head == LAST {
            break;
        }
        wait = SLOW;
    }
    rmp_serde::from_slice(&message).map_err(|error| format!("a message that is not known: {error}"))
}

fn why(error: Error) -> String {
    match error {
        Error::EndOfFile | Error::BrokenPipe => "the connection was closed".to_owned(),
        error => error.to_string(),
    }
}
