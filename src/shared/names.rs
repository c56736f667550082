//! Names of shared memory: a directory of this user's, with a small file for each name that says who has the memory.
//!
//! The memory itself is never in the directory. A name's file tells its id and, in a slot for each holder, which process has it as
//! which open file. That a name is alive, no text says: its holders have the file locked (shared), and the kernel releases such a lock
//! when its process ends, in whatever way. So a name that nobody has locked is left over, and whoever makes or looks for any name
//! removes it. All of this is done behind the lock of the directory itself. Where no name is left the directory goes, too.
//!
//! ```text
//! /dev/shm/procession-UID/NAME    0: "procession memory 1 ID\n", padded to 64 bytes
//!                                64: "PID STARTED FD\n", padded to 64 bytes, for each holder; blank: free
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, OFlags};

use super::segment::{Id, Segment};
use super::ticket::{open_file, started};
use crate::error::{Error, Result};
use crate::pipe::flock;
use crate::wire::runtime_dir;

/// Of a line, padding included.
const LINE: usize = 64;
const TITLE: &str = "procession memory 1 ";
/// As the system's names have.
const LONGEST: usize = 255;
/// The directory goes when it is empty, so that it may have to be made again and again while others come and go.
const TRIES: u32 = 1000;
/// How long the directory may be locked by others, who do so for moments: then one of them has been stopped with it.
const PATIENCE: Duration = Duration::from_secs(10);
/// The same, where a program ends: what it cannot remove the next one does.
pub(super) const PATIENCE_AT_THE_END: Duration = Duration::from_secs(1);

/// # Errors
/// [`Error::BadName`].
pub(super) fn check(name: &str) -> Result<()> {
    let why = match name {
        "" => "it is empty",
        _ if name.len() > LONGEST => "it has more than 255 bytes",
        _ if name.contains(['/', '\0']) => "it has a '/' or a zero byte in it",
        _ if name.starts_with('.') => "it begins with a dot",
        _ => return Ok(()),
    };
    Err(Error::BadName {
        name: name.to_owned(),
        why,
    })
}

/// The directory of names: the same for all programs of this user.
fn directory() -> Result<PathBuf> {
    let uid = rustix::process::getuid().as_raw();
    let path = PathBuf::from(format!("/dev/shm/procession-{uid}"));
    match make_directory(&path, uid) {
        Ok(()) => return Ok(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            log::debug!("cannot use {}: {error}", path.display());
        }
        Err(error) => {
            static ONCE: Once = Once::new();
            ONCE.call_once(|| {
                log::warn!(
                    "names of shared memory are not in {}, where they belong, but in another directory of this user's: {error}; \
                     remove it, or programs that see another XDG_RUNTIME_DIR will not find them",
                    path.display()
                );
            });
        }
    }
    let path = runtime_dir::base()?.join(runtime_dir::NAMES);
    match runtime_dir::make_private(&path, uid) {
        Ok(()) => Ok(path),
        Err(source) => Err(Error::PrivateDirectory { path, source }),
    }
}

/// # Errors
/// Of kind `NotFound` when there is nothing that it could be in.
fn make_directory(path: &Path, uid: u32) -> io::Result<()> {
    let mut tries = 0;
    loop {
        match runtime_dir::make_private(path, uid) {
            // Removed meanwhile, as it was empty: no reason to go elsewhere.
            Err(error)
                if error.kind() == io::ErrorKind::NotFound
                    && path.parent().is_some_and(Path::is_dir)
                    && tries < TRIES =>
            {
                tries += 1;
            }
            other => return other,
        }
    }
}

/// Locks a file that others have locked for moments only, and waits for no longer than that.
///
/// # Errors
/// Of kind `TimedOut` when they had it for longer.
fn lock_until(file: &File, operation: FlockOperation, deadline: Instant) -> io::Result<()> {
    let mut pause = Duration::from_micros(20);
    loop {
        match flock(file, operation) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            other => return other,
        }
        if Instant::now() >= deadline {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "another process has it locked, for longer than any does that runs: look for one that is stopped (`fuser -v` on it), \
                 and have it go on or kill it",
            ));
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(2));
    }
}

/// The locked directory.
struct Gate {
    path: PathBuf,
    directory: File,
}

impl Gate {
    fn lock() -> Result<Self> {
        Self::lock_until(Instant::now() + PATIENCE)
    }

    fn lock_until(deadline: Instant) -> Result<Self> {
        let mut tries = 0;
        loop {
            let path = directory()?;
            match Self::of(&path, deadline) {
                Ok(Some(directory)) => return Ok(Self { path, directory }),
                // It was removed meanwhile, as it was empty.
                Ok(None) if tries < TRIES => tries += 1,
                Err(error) if error.kind() == io::ErrorKind::NotFound && tries < TRIES => {
                    tries += 1
                }
                Ok(None) => {
                    let source = io::Error::other("it is removed again and again");
                    return Err(Error::PrivateDirectory { path, source });
                }
                Err(source) if source.kind() == io::ErrorKind::TimedOut => {
                    let what = format!("names of shared memory: directory {}", path.display());
                    return Err(Error::system(what, source));
                }
                Err(source) => return Err(Error::PrivateDirectory { path, source }),
            }
        }
    }

    fn of(path: &Path, deadline: Instant) -> io::Result<Option<File>> {
        let directory = OpenOptions::new()
            .read(true)
            .custom_flags((OFlags::DIRECTORY | OFlags::NOFOLLOW).bits() as i32)
            .open(path)?;
        // What was looked at before may have been removed, and another user's be there.
        if directory.metadata()?.uid() != rustix::process::getuid().as_raw() {
            return Err(io::Error::other("it is another user's"));
        }
        lock_until(
            &directory,
            FlockOperation::NonBlockingLockExclusive,
            deadline,
        )?;
        Ok(is_at(&directory, path).then_some(directory))
    }

    /// The file of a name, if it is there.
    fn open(&self, name: &str) -> io::Result<Option<File>> {
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32)
            .open(self.path.join(name));
        let file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
                return Err(io::Error::other("it is a symbolic link"));
            }
            Err(error) if error.kind() == io::ErrorKind::IsADirectory => {
                return Err(io::Error::other("it is a directory"));
            }
            Err(error) => return Err(error),
        };
        let there = file.metadata()?;
        if !there.is_file() || there.uid() != rustix::process::getuid().as_raw() {
            return Err(io::Error::other("it is no file of this user's"));
        }
        Ok(Some(file))
    }

    /// Removes names that nobody holds.
    fn sweep(&self) {
        let entries = fs::read_dir(&self.path).into_iter().flatten().flatten();
        for entry in entries {
            let name = entry.file_name();
            let file = name
                .to_str()
                .and_then(|name| self.open(name).ok().flatten());
            // Locked until it is removed.
            if let Some(file) = file
                && is_left(&file)
            {
                log::debug!("removes the name {name:?}, whose holders were killed");
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// A name's file, which somebody holds.
    fn find(&self, name: &str) -> Result<(File, Text)> {
        let failed = |error| self.failed(name, error);
        let file = self.open(name).map_err(failed)?;
        let file = file.ok_or_else(|| Error::NoSuchName {
            name: name.to_owned(),
            directory: self.path.clone(),
        })?;
        let text = Text::read(&file).map_err(failed)?;
        Ok((file, text))
    }

    fn failed(&self, name: &str, error: io::Error) -> Error {
        Error::system(
            format!("shared memory {}", self.path.join(name).display()),
            error,
        )
    }

    fn hold(&self, file: File, name: &str, text: &Text, fd: i32) -> io::Result<Holder> {
        let deadline = Instant::now() + PATIENCE_AT_THE_END;
        lock_until(&file, FlockOperation::NonBlockingLockShared, deadline)?;
        let slot = text.free_slot();
        let pid = std::process::id();
        let line = padded(&format!("{pid} {} {fd}\n", started(pid)?))?;
        file.write_all_at(&line, offset(slot))?;
        Ok(Holder {
            path: self.path.join(name),
            file,
            slot,
            deadline: None,
        })
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        // Only where it is empty.
        let _ = fs::remove_dir(&self.path);
        let _ = flock(&self.directory, FlockOperation::Unlock);
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    let there = fs::symlink_metadata(path);
    file.metadata().is_ok_and(|ours| {
        there.is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino()))
    })
}

/// Whether nobody holds it. To be asked behind the gate. If so, it is locked.
fn is_left(file: &File) -> bool {
    flock(file, FlockOperation::NonBlockingLockExclusive).is_ok()
}

fn padded(text: &str) -> io::Result<[u8; LINE]> {
    let mut line = [b' '; LINE];
    let place = line.get_mut(..text.len());
    place
        .ok_or(io::ErrorKind::InvalidInput)?
        .copy_from_slice(text.as_bytes());
    Ok(line)
}

fn offset(slot: usize) -> u64 {
    ((slot + 1) * LINE) as u64
}

/// What a name's file says.
struct Text {
    id: Id,
    /// Of each slot: process, when it was started, file.
    slots: Vec<Option<(u32, u64, i32)>>,
}

impl Text {
    fn title(id: Id) -> io::Result<[u8; LINE]> {
        padded(&format!("{TITLE}{id}\n"))
    }

    fn read(file: &File) -> io::Result<Self> {
        const MOST: u64 = 4 << 20;
        let mut bytes = Vec::new();
        let read = file.take(MOST).read_to_end(&mut bytes);
        let text = String::from_utf8_lossy(&bytes);
        let id = read.ok().and_then(|_| {
            let id = text.lines().next()?.strip_prefix(TITLE)?;
            let half = |at: std::ops::Range<usize>| u64::from_str_radix(id.get(at)?, 16).ok();
            (id.len() == 32).then_some(Id(half(0..16)?, half(16..32)?))
        });
        let id = id.ok_or_else(|| {
            io::Error::other(
                "it is no name of shared memory that this version of the library knows",
            )
        })?;
        let slots = text.as_bytes().chunks_exact(LINE).skip(1).map(|line| {
            let mut words = std::str::from_utf8(line).ok()?.split_ascii_whitespace();
            let pid = words.next()?.parse().ok()?;
            let started = words.next()?.parse().ok()?;
            Some((pid, started, words.next()?.parse().ok()?))
        });
        Ok(Self {
            id,
            slots: slots.collect(),
        })
    }

    /// A slot that is blank, or whose process has ended.
    fn free_slot(&self) -> usize {
        let free = |slot: &Option<(u32, u64, i32)>| match slot {
            Some((pid, since, _)) => started(*pid).ok() != Some(*since),
            None => true,
        };
        let found = self.slots.iter().position(free);
        found.unwrap_or(self.slots.len())
    }

    /// The files of the holders that can be reached.
    fn files(&self) -> impl Iterator<Item = File> {
        self.slots
            .iter()
            .flatten()
            .filter(|(pid, since, _)| started(*pid).ok() == Some(*since))
            .filter_map(|(pid, _, fd)| open_file(*pid, *fd).ok())
    }
}

/// This process is a holder of a name, until this is dropped.
#[derive(Debug)]
pub(super) struct Holder {
    path: PathBuf,
    file: File,
    slot: usize,
    /// Until when it waits for others when it is dropped; `None`: as long as any.
    deadline: Option<Instant>,
}

impl Holder {
    /// The same as to drop it, but for no longer than that. What could not be removed then the next one does that makes or looks for a name.
    pub(super) fn leave_by(mut self, deadline: Instant) {
        self.deadline = Some(deadline);
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let deadline = self.deadline;
        let gate = Gate::lock_until(deadline.unwrap_or_else(|| Instant::now() + PATIENCE));
        if let Err(error) = &gate {
            log::debug!("leaves {} to others: {error}", self.path.display());
        }
        let blank = padded("\n").unwrap_or([b' '; LINE]);
        let _ = self.file.write_all_at(&blank, offset(self.slot));
        // By name of the lock, not by closing: a child that is just being started has a copy of the file until it runs.
        let _ = flock(&self.file, FlockOperation::Unlock);
        if gate.is_ok() && is_at(&self.file, &self.path) && is_left(&self.file) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Makes a name for memory of which this process is the first holder.
pub(super) fn create(name: &str, id: Id, fd: i32) -> Result<Holder> {
    let gate = Gate::lock()?;
    gate.sweep();
    let path = gate.path.join(name);
    let new = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path);
    let file = match new {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(Error::NameExists {
                name: name.to_owned(),
            });
        }
        Err(error) => return Err(gate.failed(name, error)),
    };
    let text = Text {
        id,
        slots: Vec::new(),
    };
    let held = Text::title(id)
        .and_then(|title| file.write_all_at(&title, 0))
        .and_then(|()| gate.hold(file, name, &text, fd));
    held.map_err(|error| {
        let _ = fs::remove_file(&path);
        gate.failed(name, error)
    })
}

/// What a name leads to.
pub(super) enum Found {
    /// Memory that this process has mapped already.
    Here(Arc<Segment>),
    /// Its file, and this process as a holder.
    There(Arc<OwnedFd>, Id, Holder),
}

/// Looks for a name; `here` says what this process has of an id. `None`: somebody holds the name, but nobody who has the memory can be
/// reached, at this moment.
pub(super) fn attach(
    name: &str,
    here: impl FnOnce(Id) -> Option<Arc<Segment>>,
) -> Result<Option<Found>> {
    let gate = Gate::lock()?;
    gate.sweep();
    let (file, text) = gate.find(name)?;
    if let Some(segment) = here(text.id) {
        return Ok(Some(Found::Here(segment)));
    }
    let Some(memory) = text.files().find(|file| Segment::is(file, text.id)) else {
        return Ok(None);
    };
    let memory: Arc<OwnedFd> = Arc::new(memory.into());
    let holder = gate.hold(file, name, &text, memory.as_raw_fd());
    let holder = holder.map_err(|error| gate.failed(name, error))?;
    Ok(Some(Found::There(memory, text.id, holder)))
}

/// Becomes a holder of a name, if it still leads to that memory.
pub(super) fn join(name: &str, id: Id, fd: i32) -> Result<Option<Holder>> {
    check(name)?;
    let gate = Gate::lock()?;
    gate.sweep();
    match gate.find(name) {
        Ok((file, text)) if text.id == id => {
            let holder = gate.hold(file, name, &text, fd);
            holder.map(Some).map_err(|error| gate.failed(name, error))
        }
        Ok(_) | Err(Error::NoSuchName { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Takes a name away. Those who have the memory keep it.
pub(super) fn unlink(name: &str) -> Result<()> {
    check(name)?;
    let gate = Gate::lock()?;
    gate.sweep();
    gate.find(name)?;
    let removed = fs::remove_file(gate.path.join(name));
    removed.map_err(|error| gate.failed(name, error))
}

/// As [`unlink`], but only if the name still leads to that memory; whether it did.
pub(super) fn unlink_if(name: &str, id: Id) -> Result<bool> {
    check(name)?;
    let gate = Gate::lock()?;
    gate.sweep();
    match gate.find(name) {
        Ok((_, text)) if text.id == id => {
            let removed = fs::remove_file(gate.path.join(name));
            removed.map_err(|error| gate.failed(name, error))?;
            Ok(true)
        }
        Ok(_) | Err(Error::NoSuchName { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes the names whose holders were all killed.
pub(super) fn sweep() -> Result<()> {
    Gate::lock().map(|gate| gate.sweep())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every test has names of its own: the directory is that of all programs of this user.
    fn name(test: &str) -> String {
        format!("unit-test-{test}-{}", std::process::id())
    }

    fn path(name: &str) -> Result<PathBuf> {
        Ok(directory()?.join(name))
    }

    #[test]
    fn a_name_lives_as_long_as_a_holder() -> Result<()> {
        let name = name("lives");
        let segment = Segment::create(&name, "test", 10)?;
        assert!(Arc::ptr_eq(&segment, &Segment::attach(&name, "test")?));
        let again = Segment::create(&name, "test", 10);
        assert!(matches!(again, Err(Error::NameExists { .. })), "{again:?}");
        drop(segment);
        assert!(!path(&name)?.exists());
        let gone = Segment::attach(&name, "test");
        assert!(matches!(gone, Err(Error::NoSuchName { .. })), "{gone:?}");
        Ok(())
    }

    #[test]
    fn a_name_that_was_unlinked_can_be_given_again() -> Result<()> {
        let name = name("unlinked");
        let old = Segment::create(&name, "test", 10)?;
        unlink(&name)?;
        let new = Segment::create(&name, "test", 20)?;
        old.unlink()?;
        drop(old);
        assert_eq!(
            Segment::attach(&name, "test")?.len(),
            20,
            "it is the new one's"
        );
        new.unlink()?;
        assert!(matches!(unlink(&name), Err(Error::NoSuchName { .. })));
        Ok(())
    }

    #[test]
    fn another_kind_is_refused() -> Result<()> {
        let name = name("kind");
        let _segment = Segment::create(&name, "test", 10)?;
        let other = Segment::attach(&name, "other");
        assert!(matches!(other, Err(Error::OtherMemory { .. })), "{other:?}");
        Ok(())
    }

    #[test]
    fn a_name_whose_holders_were_killed_is_removed() -> Result<()> {
        let name = name("killed");
        let keep = Segment::create(&format!("{name}-keep"), "test", 1)?;
        let path = path(&name)?;
        let failed = |error| Error::system("test", error);
        // What a killed holder leaves: no lock.
        let title = Text::title(Id(1, 2)).map_err(failed)?;
        fs::write(&path, title).map_err(failed)?;
        sweep()?;
        assert!(!path.exists());
        // And half a file.
        fs::write(&path, "").map_err(failed)?;
        drop(Segment::create(&name, "test", 1)?);
        assert!(!path.exists());
        drop(keep);
        Ok(())
    }

    #[test]
    fn files_that_are_no_names_are_errors() -> Result<()> {
        let name = name("garbage");
        let _keep = Segment::create(&format!("{name}-keep"), "test", 1)?;
        let path = path(&name)?;
        let failed = |error| Error::system("test", error);
        for garbage in ["", "x", "procession memory 1 zz", "procession memory 2 \n"] {
            fs::write(&path, garbage).map_err(failed)?;
            let file = File::open(&path).map_err(failed)?;
            flock(&file, FlockOperation::LockShared).map_err(failed)?;
            let error = Segment::attach(&name, "test")
                .expect_err(garbage)
                .to_string();
            assert!(error.contains("no name of shared memory"), "{error}");
            fs::remove_file(&path).map_err(failed)?;
        }
        // A good title, but nobody who has it.
        let title = Text::title(Id(1, 2)).map_err(failed)?;
        fs::write(&path, [title.as_slice(), &[b'\xff'; 200]].concat()).map_err(failed)?;
        let file = File::open(&path).map_err(failed)?;
        flock(&file, FlockOperation::LockShared).map_err(failed)?;
        assert!(Segment::attach(&name, "test").is_err());
        fs::remove_file(&path).map_err(failed)?;
        std::os::unix::fs::symlink("/etc/passwd", &path).map_err(failed)?;
        let error = Segment::attach(&name, "test")
            .expect_err("a link")
            .to_string();
        assert!(error.contains("symbolic link"), "{error}");
        assert!(matches!(
            Segment::create(&name, "test", 1),
            Err(Error::NameExists { .. })
        ));
        fs::remove_file(&path).map_err(failed)?;
        fs::create_dir(&path).map_err(failed)?;
        assert!(Segment::attach(&name, "test").is_err());
        fs::remove_dir(&path).map_err(failed)
    }

    #[test]
    fn who_waits_for_a_stopped_process_gives_up_and_names_the_directory() -> Result<()> {
        let failed = |error| Error::system("test", error);
        let dir = tempfile::tempdir().map_err(failed)?;
        let stopped = File::open(dir.path()).map_err(failed)?;
        flock(&stopped, FlockOperation::LockExclusive).map_err(failed)?;
        let deadline = || Instant::now() + Duration::from_millis(20);
        let error = Gate::of(dir.path(), deadline()).expect_err("it is locked");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(error.to_string().contains("is stopped"), "{error}");
        flock(&stopped, FlockOperation::Unlock).map_err(failed)?;
        assert!(Gate::of(dir.path(), deadline()).map_err(failed)?.is_some());
        Ok(())
    }

    #[test]
    fn a_directory_of_another_user_is_never_used() -> Result<()> {
        let failed = |error| Error::system("test", error);
        let dir = tempfile::tempdir().map_err(failed)?;
        let uid = rustix::process::getuid().as_raw();
        make_directory(dir.path(), uid).map_err(failed)?;
        let error = make_directory(dir.path(), uid + 1).expect_err("it is not that one's");
        assert_ne!(error.kind(), io::ErrorKind::NotFound, "it is told: {error}");
        let nowhere = dir.path().join("not/there");
        let error = make_directory(&nowhere, uid).expect_err("it cannot be");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        Ok(())
    }

    #[test]
    fn names_are_no_paths() {
        for bad in ["", ".", "..", ".x", "a/b", "a\0b", &"x".repeat(256)] {
            let error = Segment::create(bad, "test", 1).expect_err(bad);
            assert!(matches!(error, Error::BadName { .. }), "{error}");
        }
        assert!(check("results-1 é").is_ok());
    }

    #[test]
    fn slots_of_holders_that_left_are_used_again() -> Result<()> {
        let failed = |error| Error::system("test", error);
        let me = std::process::id();
        let since = started(me).map_err(failed)?;
        let text = |slots| Text {
            id: Id(1, 2),
            slots,
        };
        let here = Some((me, since, 3));
        assert_eq!(text(vec![]).free_slot(), 0);
        assert_eq!(text(vec![here, None]).free_slot(), 1);
        assert_eq!(text(vec![here, here]).free_slot(), 2);
        assert_eq!(text(vec![here, Some((me, since + 1, 3))]).free_slot(), 1);
        Ok(())
    }
}
