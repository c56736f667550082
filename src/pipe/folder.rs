//! A pipe's private folder: who holds which side, who uses it, and what is in transit (docs/pipe.md). Every such statement is
//! a lock that the kernel releases when its process ends.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::FlockOperation;

use super::frame::Key;
use crate::error::{Error, Result};
use crate::wire::runtime_dir;

/// Folders of pipes are called so, and 32 hexadecimal digits.
const PREFIX: &str = "pipe-";
/// A folder that is younger may still be without its first holders.
const TOO_YOUNG: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Side {
    Zero,
    One,
}

impl Side {
    pub(crate) const fn number(self) -> u8 {
        match self {
            Self::Zero => 0,
            Self::One => 1,
        }
    }

    pub(crate) const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Zero),
            1 => Some(Self::One),
            _ => None,
        }
    }

    pub(crate) const fn other(self) -> Self {
        match self {
            Self::Zero => Self::One,
            Self::One => Self::Zero,
        }
    }
}

/// A lock that is given up when it is dropped, even while a child that has just been forked has a copy of the descriptor.
#[derive(Debug)]
pub(crate) struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}

pub(crate) fn flock(file: &File, operation: FlockOperation) -> io::Result<()> {
    loop {
        match rustix::fs::flock(file, operation) {
            Err(rustix::io::Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

/// Locks it if nobody has it.
fn try_lock(path: &Path) -> io::Result<Option<Lock>> {
    let file = open(path)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(Lock(file))),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32)
        .open(path)
}

/// An end in transit: it counts as held until whoever gets it holds it, or this is dropped.
#[derive(Debug)]
pub(crate) struct Ticket {
    path: PathBuf,
    file: File,
}

impl Ticket {
    /// Whether it was redeemed.
    pub(crate) fn is_used(&self) -> bool {
        self.file.metadata().map_or(true, |file| file.nlink() == 0)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.is_used() {
            let _ = fs::remove_file(&self.path);
        }
        let _ = flock(&self.file, FlockOperation::Unlock);
        if let Some(folder) = self.path.parent() {
            Folder::at(folder.to_owned()).remove_if_abandoned();
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Folder {
    path: PathBuf,
}

impl Folder {
    /// A new one.
    pub(crate) fn create() -> Result<Self> {
        let base = runtime_dir::base()?;
        let mut key = [0; 16];
        getrandom::fill(&mut key).map_err(|error| {
            let source = io::Error::other(error.to_string());
            Error::system("cannot get random numbers", source)
        })?;
        let path = base.join(format!("{PREFIX}{:032x}", u128::from_be_bytes(key)));
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(|source| Error::PrivateDirectory {
                path: path.clone(),
                source,
            })?;
        let folder = Self { path };
        // The gate stands for the whole folder: where it is gone, so is the pipe.
        open(&folder.file("gate")).map_err(|error| folder.failed(error))?;
        Ok(folder)
    }

    const fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// The folder that another process named. Only a private one of this user's with such a name can be a pipe's.
    pub(crate) fn found(path: PathBuf) -> io::Result<Self> {
        let found = Self { path };
        if found.key().is_none() {
            return Err(io::Error::other("that is not a name of a pipe"));
        }
        let there = fs::symlink_metadata(&found.path)?;
        let uid = rustix::process::getuid().as_raw();
        if !there.is_dir() || there.uid() != uid || there.mode() & 0o077 != 0 {
            return Err(io::Error::other(
                "it is not a private directory of this user's",
            ));
        }
        Ok(found)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The number in its name.
    pub(crate) fn key(&self) -> Option<Key> {
        let digits = self.path.file_name()?.to_str()?.strip_prefix(PREFIX)?;
        if digits.len() != 32 {
            return None;
        }
        Some(u128::from_str_radix(digits, 16).ok()?.to_be_bytes())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn of_side(&self, name: &str, side: Side) -> PathBuf {
        self.path.join(format!("{name}-{}", side.number()))
    }

    pub(super) fn failed(&self, error: io::Error) -> Error {
        Error::system(format!("pipe {}", self.path.display()), error)
    }

    pub(super) fn spool(&self, side: Side) -> PathBuf {
        self.of_side("spool", side)
    }

    /// Where side 0 listens now: a link.
    pub(super) fn pair(&self) -> PathBuf {
        self.file("pair")
    }

    /// A path for a new socket.
    pub(super) fn new_socket(&self) -> PathBuf {
        use std::sync::atomic::{AtomicU64, Ordering};
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        self.file(&format!("s{}-{number}", std::process::id()))
    }

    /// Has the link say where side 0 listens.
    pub(super) fn publish(&self, socket: &Path) -> io::Result<()> {
        let new = socket.with_extension("new");
        let Some(name) = socket.file_name() else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        std::os::unix::fs::symlink(name, &new)?;
        fs::rename(&new, self.pair())
    }

    /// Locks the folder for a moment. An error of kind `NotFound` when it has been removed.
    fn gate(&self, operation: FlockOperation) -> io::Result<Lock> {
        let path = self.file("gate");
        // Not created: it would be the gate of a folder that is being removed.
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        flock(&file, operation)?;
        let gate = Lock(file);
        if gate.0.metadata()?.nlink() == 0 {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(gate)
    }

    /// Holds a side, for this process.
    pub(crate) fn hold(&self, side: Side) -> Result<Lock> {
        self.hold_io(side).map_err(|error| self.failed(error))
    }

    fn hold_io(&self, side: Side) -> io::Result<Lock> {
        let file = open(&self.of_side("holders", side))?;
        // It waits for no longer than somebody looks.
        flock(&file, FlockOperation::LockShared)?;
        Ok(Lock(file))
    }

    /// Puts a side into transit, for whoever [`Folder::redeem`]s the name. To be called by a holder.
    pub(crate) fn issue(&self, side: Side) -> io::Result<(Ticket, String)> {
        let mut number = [0; 8];
        getrandom::fill(&mut number).map_err(|error| io::Error::other(error.to_string()))?;
        let name = format!("{:016x}", u64::from_be_bytes(number));
        let path = self.file(&format!("ticket-{}-{name}", side.number()));
        let _gate = self.gate(FlockOperation::LockExclusive)?;
        let file = open(&path)?;
        flock(&file, FlockOperation::LockExclusive)?;
        Ok((Ticket { path, file }, name))
    }

    /// Holds a side that was in transit. A ticket that was redeemed before is none, but does no harm.
    pub(crate) fn redeem(&self, side: Side, ticket: &str) -> io::Result<Lock> {
        if ticket.len() != 16 || !ticket.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(io::Error::other("that is no ticket of a pipe"));
        }
        let _gate = self.gate(FlockOperation::LockExclusive)?;
        let hold = self.hold_io(side)?;
        // Only now: while it can be seen, the side is held.
        let _ = fs::remove_file(self.file(&format!("ticket-{}-{ticket}", side.number())));
        Ok(hold)
    }

    /// Whether a process holds the side, or will. When that cannot be said at this moment, it is yes.
    pub(crate) fn is_held(&self, side: Side) -> io::Result<bool> {
        match self.gate(FlockOperation::NonBlockingLockExclusive) {
            Ok(_gate) => self.is_held_behind_gate(side),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn is_held_behind_gate(&self, side: Side) -> io::Result<bool> {
        let prefix = format!("ticket-{}-", side.number());
        // The tickets first: one that is redeemed meanwhile is a hold afterwards. (The gate is locked for those who make new ones.)
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                if try_lock(&entry.path())?.is_none() {
                    return Ok(true);
                }
                // Whoever made it has died.
                let _ = fs::remove_file(entry.path());
            }
        }
        Ok(try_lock(&self.of_side("holders", side))?.is_none())
    }

    /// Uses a side, for this process.
    pub(crate) fn claim(&self, side: Side) -> Result<Lock> {
        let path = self.of_side("use", side);
        let failed = |error| self.failed(error);
        match try_lock(&path).map_err(failed)? {
            Some(lock) => {
                let mut file = &lock.0;
                file.set_len(0)
                    .and_then(|()| file.write_all(std::process::id().to_string().as_bytes()))
                    .map_err(failed)?;
                Ok(lock)
            }
            None => {
                let mut text = String::new();
                let read = File::open(&path).and_then(|mut file| file.read_to_string(&mut text));
                Err(Error::Busy {
                    pid: read.ok().and_then(|_| text.parse().ok()),
                })
            }
        }
    }

    /// Removes it if nobody holds any side of it. Whether it is gone.
    pub(crate) fn remove_if_abandoned(&self) -> bool {
        let Ok(_gate) = self.gate(FlockOperation::LockExclusive) else {
            return false;
        };
        for side in [Side::Zero, Side::One] {
            if self.is_held_behind_gate(side).unwrap_or(true) {
                return false;
            }
        }
        fs::remove_dir_all(&self.path).is_ok()
    }
}

/// Removes what killed programs left of their pipes and listeners.
pub(crate) fn sweep() {
    let Ok(base) = runtime_dir::base() else {
        return;
    };
    let Ok(entries) = fs::read_dir(&base) else {
        return;
    };
    for entry in entries.flatten() {
        let folder = Folder::at(entry.path());
        let old = entry
            .metadata()
            .and_then(|there| there.modified())
            .is_ok_and(|then| {
                SystemTime::now()
                    .duration_since(then)
                    .is_ok_and(|age| age > TOO_YOUNG)
            });
        if folder.key().is_some() && old && folder.remove_if_abandoned() {
            log::debug!(
                "removed {}, whose programs were killed",
                folder.path.display()
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(dir: &tempfile::TempDir) -> io::Result<Folder> {
        let path = dir.path().join(format!("{PREFIX}{:032x}", 1));
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        let folder = Folder::found(path)?;
        open(&folder.file("gate"))?;
        Ok(folder)
    }

    #[test]
    fn a_side_is_held_by_holders_and_tickets_until_the_last_is_gone() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let folder = folder(&dir)?;
        let other = folder.hold_io(Side::One)?;
        assert!(!folder.is_held(Side::Zero)?);
        let first = folder.hold_io(Side::Zero)?;
        let second = folder.hold_io(Side::Zero)?;
        let (ticket, name) = folder.issue(Side::Zero)?;
        drop((first, second));
        assert!(folder.is_held(Side::Zero)?, "in transit");
        let third = folder.redeem(Side::Zero, &name)?;
        assert!(ticket.is_used());
        drop(ticket);
        assert!(folder.is_held(Side::Zero)?, "received");
        drop(third);
        assert!(!folder.is_held(Side::Zero)?);
        assert!(!folder.remove_if_abandoned(), "the other side is held");
        drop(other);
        assert!(folder.remove_if_abandoned());
        assert!(folder.redeem(Side::Zero, &name).is_err(), "it is gone");
        Ok(())
    }

    #[test]
    fn a_ticket_that_is_dropped_gives_the_side_up() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let folder = folder(&dir)?;
        let _other = folder.hold_io(Side::One)?;
        let (ticket, _) = folder.issue(Side::Zero)?;
        assert!(folder.is_held(Side::Zero)?);
        drop(ticket);
        assert!(!folder.is_held(Side::Zero)?);
        Ok(())
    }

    #[test]
    fn names_that_another_process_sends_are_not_believed() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        assert!(Folder::found(dir.path().to_owned()).is_err());
        assert!(
            Folder::found(PathBuf::from("/etc/pipe-00000000000000000000000000000001")).is_err()
        );
        let folder = folder(&dir)?;
        assert!(folder.redeem(Side::Zero, "../../etc/passwd").is_err());
        Ok(())
    }
}
