//! The private directory for Unix sockets: mode 0700, one for each user, one folder below it for each run or sink.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::wire::endpoint::LONGEST_IPC_PATH;

/// This user's directory: `$XDG_RUNTIME_DIR/procession`, or, where that cannot be used, `/tmp/procession-UID`. Made when it is not
/// there.
///
/// # Errors
/// When it cannot be made, belongs to another user, or is open to others.
pub fn base() -> Result<PathBuf, Error> {
    let uid = rustix::process::getuid().as_raw();
    let of_session = std::env::var_os("XDG_RUNTIME_DIR")
        .map(PathBuf::from)
        // A socket's path may have 107 bytes, and about forty come behind this.
        .filter(|dir| dir.is_absolute() && dir.as_os_str().len() < LONGEST_IPC_PATH - 50)
        .map(|dir| dir.join("procession"));
    if let Some(dir) = of_session {
        // After `su`, or in a container, it is somebody else's, or not there.
        match make_private(&dir, uid) {
            Ok(()) => return Ok(dir),
            Err(error) => log::debug!("cannot use {}: {error}", dir.display()),
        }
    }
    let path = PathBuf::from(format!("/tmp/procession-{uid}"));
    match make_private(&path, uid) {
        Ok(()) => Ok(path),
        Err(source) => Err(Error::PrivateDirectory { path, source }),
    }
}

/// Below [`base`]: where names of shared memory are, if they cannot be where they belong. What is in it is locked in another way than here.
pub(crate) const NAMES: &str = "shared";

/// Makes a directory that only this user can look into, or sees that it is one.
pub(crate) fn make_private(path: &Path, uid: u32) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    // Not followed: a link here is somebody's trap.
    let found = fs::symlink_metadata(path)?;
    if !found.is_dir() || found.uid() != uid {
        return Err(io::Error::other("it is not a directory of this user's"));
    }
    if found.mode() & 0o077 != 0 {
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// The control sockets of this user's runs that are alive; what a killed one left is removed.
///
/// # Errors
/// As [`base`], or when it cannot be listed.
pub fn runs() -> Result<Vec<PathBuf>, Error> {
    let base = base()?;
    let list = |source| Error::system(format!("cannot list {}", base.display()), source);
    let mut controls = Vec::new();
    for entry in fs::read_dir(&base).map_err(list)? {
        let dir = entry.map_err(list)?.path();
        if dir.ends_with(NAMES) {
            continue;
        }
        for name in ["control", "results"] {
            let socket = dir.join(name);
            if !socket.exists() {
                continue;
            }
            if !is_locked(&dir.join(format!("{name}.lock"))) {
                let _ = fs::remove_dir_all(&dir);
            } else if name == "control" {
                controls.push(socket);
            }
        }
    }
    controls.sort();
    Ok(controls)
}

/// Removes what killed programs left below this user's directory, once in a process: folders with locks that nobody holds.
pub(crate) fn sweep() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let Ok(entries) =
            base().and_then(|base| fs::read_dir(base).map_err(|e| Error::system("", e)))
        else {
            return;
        };
        for dir in entries.flatten().map(|entry| entry.path()) {
            if is_left(&dir) {
                log::debug!("removes {}, which a killed program left", dir.display());
                let _ = fs::remove_dir_all(&dir);
            }
        }
    });
}

/// Whether a killed program has left this folder.
fn is_left(dir: &Path) -> bool {
    if dir.ends_with(NAMES) {
        return false;
    }
    let alive = dir.join(ALIVE);
    // It was held before it had this name, so it is never young.
    let is_certain = alive.exists();
    if is_certain && is_locked(&alive) {
        return false;
    }
    let locks: Vec<PathBuf> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            let is_lock = path.extension().is_some_and(|end| end == "lock");
            is_lock || path.ends_with(NOT_ALIVE_YET)
        })
        .collect();
    // One that is being made has a lock that is not held yet.
    let old = || {
        fs::metadata(dir)
            .and_then(|found| found.modified())
            .is_ok_and(|then| then.elapsed().is_ok_and(|age| age > NEW))
    };
    (is_certain || old()) && !locks.is_empty() && !locks.iter().any(|lock| is_locked(lock))
}

/// Held by the process that made a folder; a folder without it may be half made for [`NEW`].
const ALIVE: &str = "alive.lock";
const NOT_ALIVE_YET: &str = "alive.new";
const NEW: std::time::Duration = std::time::Duration::from_secs(10);

/// Whether the process that made this folder lives.
pub(crate) fn is_alive(dir: &Path) -> bool {
    is_locked(&dir.join(ALIVE))
}

/// Whether the program that made this lock lives.
fn is_locked(lock: &Path) -> bool {
    fs::File::open(lock).is_ok_and(|file| {
        rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockShared).is_err()
    })
}

/// A folder below [`base`] for one run, sink, queue or crew, removed with all in it when dropped; if its process is killed, by the
/// next program that looks for what is left.
#[derive(Debug)]
pub struct RuntimeDir {
    path: PathBuf,
    /// Given up by the kernel when this process ends, in whatever way.
    _alive: Option<fs::File>,
}

impl RuntimeDir {
    /// Makes `name` below [`base`].
    ///
    /// # Errors
    /// As [`base`].
    pub fn create(name: &str) -> Result<Self, Error> {
        let path = base()?.join(name);
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(|source| Error::PrivateDirectory {
                path: path.clone(),
                source,
            })?;
        let alive = hold(&path)
            .inspect_err(|error| log::debug!("cannot lock {}: {error}", path.display()))
            .ok();
        Ok(Self {
            path,
            _alive: alive,
        })
    }

    /// Removes it now, for a program that ends with it in its hands.
    pub(crate) fn remove(&self) {
        let _ = fs::remove_dir_all(&self.path);
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// A new folder's lock, which is held from the moment at which it is there.
fn hold(dir: &Path) -> io::Result<fs::File> {
    let file = fs::File::create_new(dir.join(NOT_ALIVE_YET))?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)?;
    fs::rename(dir.join(NOT_ALIVE_YET), dir.join(ALIVE))?;
    Ok(file)
}

impl Drop for RuntimeDir {
    fn drop(&mut self) {
        self.remove();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_of_names_is_never_left_whatever_the_names_are() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        for (name, is_ours) in [(NAMES, false), ("run", true)] {
            let names = dir.path().join(name);
            fs::create_dir(&names)?;
            // Names of memory, held as such are: by a lock that is shared.
            let held = fs::File::create_new(names.join(ALIVE))?;
            rustix::fs::flock(&held, rustix::fs::FlockOperation::LockShared)?;
            assert_eq!(is_left(&names), is_ours, "{name}");
        }
        Ok(())
    }

    #[test]
    fn a_folder_is_left_when_nobody_holds_its_locks() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        assert!(!is_left(dir.path()), "it is somebody else's");
        let held = hold(dir.path())?;
        assert!(!is_left(dir.path()), "its process lives");
        drop(held);
        assert!(is_left(dir.path()));
        fs::remove_file(dir.path().join(ALIVE))?;
        let lock = fs::File::create_new(dir.path().join("control.lock"))?;
        assert!(!is_left(dir.path()), "it may be half made");
        fs::File::open(dir.path())?.set_modified(std::time::SystemTime::UNIX_EPOCH)?;
        assert!(is_left(dir.path()));
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive)?;
        assert!(!is_left(dir.path()), "its process lives");
        Ok(())
    }
}
