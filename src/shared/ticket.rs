//! A handle of shared memory on its way to another process: who has it, and where there.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::sync::{Arc, LazyLock};

use rustix::fs::{FileType, Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::segment::{Id, Segment};
use super::{names, table};
use crate::error::{Error, Result};
use crate::hub::host::{host_name, machine_id};

/// What a handle is when it travels. Whoever redeems it opens the lender's file by way of `/proc`, which the lender keeps open for that.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Ticket {
    id: Id,
    pid: u32,
    /// When the lender was started: its number may be somebody else's later.
    started: u64,
    fd: i32,
    uid: u32,
    name: Option<String>,
    /// The machine (this boot of it), the lender's processes as it sees them (a container has its own), and the host's name, for people.
    machine: String,
    processes: u64,
    host: String,
}

/// This boot of this machine, and the process numbers that hold here.
static HERE: LazyLock<(String, u64)> = LazyLock::new(|| {
    let processes = fs::metadata("/proc/self/ns/pid").map_or(0, |there| there.ino());
    (machine_id(), processes)
});

impl Segment {
    /// A handle for other processes. From now on this process keeps the memory until it ends, or until [`unlink`](Self::unlink):
    /// nobody can know whether a handle is still under way.
    ///
    /// # Errors
    /// When `/proc` is not there.
    pub(crate) fn lend(&self) -> Result<Ticket> {
        let (machine, processes) = HERE.clone();
        let pid = std::process::id();
        let started = started(pid)
            .map_err(|error| Error::system("cannot lend shared memory: /proc", error))?;
        table::lock().lend(self);
        Ok(Ticket {
            id: self.id(),
            pid,
            started,
            fd: self.file().as_raw_fd(),
            uid: rustix::process::getuid().as_raw(),
            name: self.name().map(ToOwned::to_owned),
            machine,
            processes,
            host: host_name(),
        })
    }
}

impl Ticket {
    /// The memory that it is a handle of.
    ///
    /// # Errors
    /// [`Error::BadHandle`] when it cannot be reached: its lender has ended, or is on another host, in another container or another
    /// user's; [`Error::OtherMemory`] when it is of another kind.
    pub(crate) fn redeem(self, kind: &str) -> Result<Arc<Segment>> {
        // It is part of a path later.
        if let Some(name) = &self.name {
            names::check(name)?;
        }
        let segment = self.segment()?;
        segment.check_kind(kind)?;
        // The table is not locked any more, as others may have to be waited for.
        segment.hold_name();
        Ok(segment)
    }

    fn segment(&self) -> Result<Arc<Segment>> {
        let mut table = table::lock();
        if let Some(segment) = table.get(self.id) {
            return Ok(segment);
        }
        let file = match table.lent(self.id) {
            Some(file) => file,
            None => Arc::new(self.open()?),
        };
        let segment = Segment::map(file, self.id).map_err(|error| self.unusable(&error))?;
        let segment = Arc::new(segment.with_name(self.name.clone()));
        table.remember(&segment);
        Ok(segment)
    }

    fn open(&self) -> Result<OwnedFd> {
        let (machine, processes) = &*HERE;
        let elsewhere = |place: &str| {
            self.error(format!(
            "it is {place} on {}, and memory is shared within one; send the data itself, by a Queue or a Pipe", self.host
        ))
        };
        if self.machine != *machine {
            return Err(elsewhere("on another host or another boot of it,"));
        }
        if self.processes != *processes {
            return Err(elsewhere("in another container"));
        }
        if started(self.pid).ok() != Some(self.started) {
            return Err(self.ended());
        }
        match open_file(self.pid, self.fd) {
            Ok(file) => Ok(file.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(match started(self.pid).ok() == Some(self.started) {
                    true => self.error(format!(
                        "process {} has given it up (unlink), or is ending",
                        self.pid
                    )),
                    false => self.ended(),
                })
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let uid = rustix::process::getuid().as_raw();
                Err(match self.uid == uid {
                    true => self.unusable(&error),
                    false => self.error(format!(
                        "it is of user {}, and this is user {uid}; memory is shared by processes of one user",
                        self.uid
                    )),
                })
            }
            Err(error) => Err(self.unusable(&error)),
        }
    }

    fn ended(&self) -> Error {
        self.error(format!(
            "process {}, which lent it, has ended; whoever lends memory must live until the handle has been received",
            self.pid
        ))
    }

    fn unusable(&self, error: &io::Error) -> Error {
        self.error(format!("process {}, file {}: {error}", self.pid, self.fd))
    }

    fn error(&self, why: String) -> Error {
        let endpoint = match &self.name {
            Some(name) => format!("shared memory {name}"),
            None => format!("shared memory of process {}", self.pid),
        };
        Error::BadHandle { endpoint, why }
    }
}

/// Opens a file that another process has open. It may be anything, if the process is not what was thought: only what can be memory is
/// opened, because opening can have effects. (`O_PATH` has none. What was looked at that way is what is opened then, whatever the other
/// process has in its place meanwhile.)
pub(super) fn open_file(pid: u32, fd: i32) -> io::Result<File> {
    let path = format!("/proc/{pid}/fd/{fd}");
    let there = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    if FileType::from_raw_mode(rustix::fs::fstat(&there)?.st_mode) != FileType::RegularFile {
        return Err(io::Error::other("it is no shared memory"));
    }
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags((OFlags::NONBLOCK | OFlags::NOCTTY).bits() as i32)
        .open(format!("/proc/self/fd/{}", there.as_raw_fd()))
}

/// When a process was started, in ticks since the boot.
///
/// # Errors
/// Of kind `NotFound` when there is none of that number, or only what is left of one that has ended (a zombie).
pub(crate) fn started(pid: u32) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // Its name, in brackets, may have anything in it. The state is the third field, this the twenty-second.
    let behind_name = stat.rsplit_once(')').map(|(_, fields)| fields);
    behind_name
        .and_then(|fields| {
            let mut fields = fields.split_ascii_whitespace();
            // Its memory is given up before a zombie is reaped.
            let state = fields.next()?;
            let started = fields.nth(18)?.parse().ok()?;
            (!matches!(state, "Z" | "X")).then_some(started)
        })
        .ok_or_else(|| io::ErrorKind::NotFound.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lent() -> Result<(Arc<Segment>, Ticket)> {
        let segment = Segment::anonymous("test", 10)?;
        let ticket = segment.lend()?;
        Ok((segment, ticket))
    }

    fn why(ticket: Ticket) -> String {
        ticket.redeem("test").expect_err("it is bad").to_string()
    }

    #[test]
    fn handles_of_one_piece_in_one_process_are_one_mapping() -> Result<()> {
        let (segment, ticket) = lent()?;
        assert!(Arc::ptr_eq(&segment, &ticket.redeem("test")?));
        Ok(())
    }

    #[test]
    fn what_was_lent_stays_until_it_is_unlinked() -> Result<()> {
        let (segment, ticket) = lent()?;
        let id = segment.id();
        drop(segment);
        let again = ticket.clone().redeem("test")?;
        assert_eq!(again.id(), id);
        again.unlink()?;
        assert_eq!(ticket.clone().redeem("test")?.id(), id, "it is still here");
        drop(again);
        assert!(ticket.redeem("test").is_err());
        Ok(())
    }

    #[test]
    fn another_kind_is_refused_and_does_no_harm() -> Result<()> {
        let (segment, ticket) = lent()?;
        drop(segment);
        let error = ticket.clone().redeem("other").expect_err("it is a test");
        assert!(matches!(&error, Error::OtherMemory { .. }), "{error}");
        ticket.redeem("test").map(drop)
    }

    #[test]
    fn what_is_no_file_is_not_opened() -> io::Result<()> {
        let (reader, writer) = io::pipe()?;
        let null = File::open("/dev/null")?;
        for fd in [reader.as_raw_fd(), writer.as_raw_fd(), null.as_raw_fd()] {
            let error = open_file(std::process::id(), fd).expect_err("it is no file");
            assert!(error.to_string().contains("no shared memory"), "{error}");
        }
        let file = tempfile::tempfile()?;
        open_file(std::process::id(), file.as_raw_fd()).map(drop)
    }

    #[test]
    fn a_name_that_is_a_path_is_refused() -> Result<()> {
        let (segment, ticket) = lent()?;
        for bad in ["../../etc/passwd", "", "."] {
            let ticket = Ticket {
                name: Some(bad.to_owned()),
                ..ticket.clone()
            };
            let error = ticket.redeem("test").expect_err("it is bad");
            assert!(matches!(error, Error::BadName { .. }), "{error}");
        }
        drop(segment);
        Ok(())
    }

    #[test]
    fn handles_that_lead_nowhere_say_why() -> Result<()> {
        let (segment, ticket) = lent()?;
        let other = Id(1, 2);
        let with = |change: &dyn Fn(&mut Ticket)| {
            let mut ticket = Ticket {
                id: other,
                ..ticket.clone()
            };
            change(&mut ticket);
            why(ticket)
        };
        assert!(with(&|_| ()).contains("other memory than was meant"));
        assert!(with(&|it| it.started += 1).contains("has ended"));
        assert!(with(&|it| it.pid = u32::MAX).contains("has ended"));
        assert!(with(&|it| it.fd = i32::MAX).contains("given it up"));
        assert!(with(&|it| it.fd = 0).contains("shared memory"));
        assert!(with(&|it| it.machine.push('x')).contains("another host"));
        assert!(with(&|it| it.processes += 1).contains("another container"));
        drop(segment);
        Ok(())
    }
}
