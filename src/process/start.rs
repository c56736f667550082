//! Starting a child: this program again, by `posix_spawn`, with one descriptor that nobody else inherits.
//!
//! Nothing is forked, so it takes no longer in a large program than in a small one, and no lock is copied in the middle of a change.
//! The child is told by an environment variable that it is one, and on which descriptor its channel is; everything else comes over
//! that channel.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::OnceLock;

use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn};
use nix::sys::signal::SigSet;
use rustix::io::fcntl_dupfd_cloexec;
use rustix::process::Pid;

/// The variable that says that a process is a child, and on which descriptor its channel is. It is gone before anybody can look,
/// so that what a child starts is not taken for a child.
pub(super) const VARIABLE: &str = "PROCESSION_CHILD";

/// The lowest number that is not standard input, output or error.
const FIRST: RawFd = 3;

/// Starts this program again. `channel` becomes the child's, and `stdio` its standard input, output and error where they are given.
pub(super) fn start(
    channel: &OwnedFd,
    stdio: [Option<OwnedFd>; 3],
    variables: &[(OsString, OsString)],
) -> io::Result<Pid> {
    let place = place()?;
    let mut actions = PosixSpawnFileActions::init()?;
    // First of all, as the channel's own number may be one of the three that follow.
    actions.add_dup2(channel.as_raw_fd(), place)?;
    let mut kept = Vec::new();
    for (target, given) in (0..).zip(stdio) {
        if let Some(given) = given {
            // One that has one of these numbers itself (they were closed before) would be overwritten by the others.
            let given = match given.as_raw_fd() < FIRST {
                true => fcntl_dupfd_cloexec(&given, FIRST)?,
                false => given,
            };
            actions.add_dup2(given.as_raw_fd(), target)?;
            kept.push(given);
        }
    }
    let mut attributes = PosixSpawnAttr::init()?;
    attributes.set_flags(PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK)?;
    // What the calling thread has blocked is no matter of the child's main thread.
    attributes.set_sigmask(&SigSet::empty())?;
    let arguments: Vec<CString> = std::env::args_os().filter_map(to_c).collect();
    let environment = environment(variables, place)?;
    // The link, not what it points to: the file may have been replaced or removed since, and the directory be gone.
    let pid = posix_spawn(
        c"/proc/self/exe",
        &actions,
        &attributes,
        &arguments,
        &environment,
    )?;
    Pid::from_raw(pid.as_raw()).ok_or_else(|| io::ErrorKind::Other.into())
}

/// The number of the channel in every child. A descriptor of this process has it that nothing is done with, and that is closed
/// on exec, so no descriptor that is meant to be inherited can have it.
fn place() -> io::Result<RawFd> {
    static PLACE: OnceLock<OwnedFd> = OnceLock::new();
    if let Some(place) = PLACE.get() {
        return Ok(place.as_raw_fd());
    }
    let nothing = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC)?;
    let nothing = fcntl_dupfd_cloexec(nothing.as_fd(), FIRST)?;
    Ok(PLACE.get_or_init(|| nothing).as_raw_fd())
}

/// This process's environment with the child's own variables.
fn environment(variables: &[(OsString, OsString)], place: RawFd) -> io::Result<Vec<CString>> {
    let own = |name: &OsStr| name == VARIABLE || variables.iter().any(|(own, _)| own == name);
    let mut environment = Vec::new();
    for (name, value) in std::env::vars_os().filter(|(name, _)| !own(name)) {
        environment.extend(assignment(&name, &value));
    }
    for (index, (name, value)) in variables.iter().enumerate() {
        // The last of the same name counts.
        if variables[index + 1..]
            .iter()
            .any(|(later, _)| later == name)
        {
            continue;
        }
        let is_name = !name.is_empty() && !name.as_bytes().contains(&b'=');
        let made = assignment(name, value).filter(|_| is_name).ok_or_else(|| {
            let why = format!("environment variable {name:?}: no name is empty or has a «=», and nothing a NUL byte");
            io::Error::new(io::ErrorKind::InvalidInput, why)
        })?;
        environment.push(made);
    }
    environment.extend(assignment(VARIABLE.as_ref(), place.to_string().as_ref()));
    Ok(environment)
}

fn assignment(name: &OsStr, value: &OsStr) -> Option<CString> {
    CString::new([name.as_bytes(), b"=", value.as_bytes()].concat()).ok()
}

fn to_c(word: OsString) -> Option<CString> {
    CString::new(word.as_bytes()).ok()
}
