//! The same-host path: rings of shared memory below a socket (docs/same-host.md).
//!
//! | file | what it is |
//! |---|---|
//! | `same_host/ring` | a ring of frames, one writer and one reader (pure) |
//! | `same_host/memory` | its memory, and the atomics in it |
//! | `same_host/outgoing` | the sender: offers, switches |
//! | `same_host/incoming` | the receiver: accepts, sleeps, is woken |
//! | `same_host/spin` | how long a receiver polls before it sleeps |

mod incoming;
mod memory;
mod outgoing;
mod ring;
mod spin;

use std::os::fd::AsRawFd;
use std::sync::OnceLock;

pub(crate) use incoming::{Heard, Incoming, Lookout};
pub(crate) use outgoing::{Outgoing, Way};
pub(crate) use spin::Spin;

/// How frames begin that are for the same-host path: no message of ours does.
const MARK: u8 = 0xc1;
const OFFER: u8 = 1;
const SWITCH: u8 = 2;

/// Data of a ring for messages that are bounded by credit, in bytes.
pub(crate) const SMALL: u32 = 2 << 20;
/// Data of a ring that holds all that a pipe may have under way, in bytes.
pub(crate) const LARGE: u32 = 8 << 20;

/// Whether a descriptor that was just opened for a ring leaves enough for sockets, which have no other way. The system gives out
/// the lowest number that is free, so it says how many there are.
fn is_spare(fd: &impl AsRawFd) -> bool {
    use rustix::process::{Resource, getrlimit};
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    (fd.as_raw_fd() as u64) < limit / 16
}

/// Whether rings are offered and accepted at all.
pub(crate) fn is_on() -> bool {
    static ON: OnceLock<bool> = OnceLock::new();
    *ON.get_or_init(|| std::env::var_os("PROCESSION_SAME_HOST").is_none_or(|word| word != "off"))
}
