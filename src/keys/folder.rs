//! A folder of keys: `procession keygen DIR` makes it, `--keys DIR` uses it.

use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::{KeyPair, PublicKey, bad, certificate};
use crate::error::Result;

/// A folder of keys, for programs and hosts that work together for long.
///
/// | file | what it is | who needs it |
/// |---|---|---|
/// | `server.key_secret` | the pair of who listens | the ventilator, the program that binds |
/// | `server.key` | its public key | all others |
/// | `client.key_secret`, `client.key` | the pair of who connects | workers, sinks, programs that connect |
/// | `clients/NAME.key` | the public keys of those that may join; NAME is for people | the ventilator, the program that binds |
///
/// A key that is put into `clients` counts from the next attempt to connect, and one that is taken out as well; who is connected stays. All
/// of it belongs to this user, and no other may write there, or read a secret: else it is refused.
///
/// ```
/// use procession::keys::Keys;
/// let folder = tempfile::tempdir()?;
/// let dir = folder.path().join("keys");
/// Keys::generate(&dir)?;
/// assert!(dir.join("clients/client.key").exists());
/// assert!(Keys::generate(&dir).is_err(), "keys are never overwritten");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Keys {
    dir: Arc<Path>,
}

static INSTALLED: Mutex<Option<Keys>> = Mutex::new(None);

const SERVER: &str = "server";
const CLIENT: &str = "client";
/// The folder of those that may join.
const CLIENTS: &str = "clients";

impl Keys {
    /// The keys in `dir`. Each file is read when it is needed.
    ///
    /// # Errors
    /// When it is not there, or is open to others.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        check(dir, 0o022, "let others write there")?;
        if !dir.is_dir() {
            return Err(bad(
                dir,
                "it is not a directory; procession keygen makes one",
            ));
        }
        Ok(Self {
            dir: std::path::absolute(dir)
                .map_err(|error| bad(dir, error))?
                .into(),
        })
    }

    /// Uses them from now on wherever this program says nothing else: in listeners and clients, locks between hosts, and handles that came
    /// from elsewhere. Children are not told: set `PROCESSION_KEYS` for them.
    pub fn install(self) {
        *INSTALLED.lock().unwrap_or_else(PoisonError::into_inner) = Some(self);
    }

    /// The keys that were [installed](Self::install), else those in the folder that `PROCESSION_KEYS` names, if it does.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_environment() -> Result<Option<Self>> {
        let installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(keys) = &*installed {
            return Ok(Some(keys.clone()));
        }
        drop(installed);
        match std::env::var_os(super::VARIABLE) {
            Some(dir) if !dir.is_empty() => Self::open(Path::new(&dir)).map(Some),
            _ => Ok(None),
        }
    }

    /// Makes `dir` (mode 0700) with new pairs for a server and a client, and lets that client in.
    ///
    /// # Errors
    /// When there are keys already, they are left alone; when it cannot be written.
    pub fn generate(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        let clients = dir.join(CLIENTS);
        for name in [SERVER, CLIENT] {
            let file = dir.join(format!("{name}.key_secret"));
            if fs::symlink_metadata(&file).is_ok() {
                return Err(bad(
                    &file,
                    "there is a key already, and it is left alone; name another directory",
                ));
            }
        }
        for dir in [dir, &clients] {
            fs::DirBuilder::new()
                .mode(0o700)
                .recursive(true)
                .create(dir)
                .map_err(|error| bad(dir, error))?;
        }
        let host = crate::hub::host::host_name();
        for name in [SERVER, CLIENT] {
            let pair = KeyPair::generate()?;
            let comment = format!("procession, {name}, made on {host}");
            let secret = certificate::secret_text(&pair, &format!("{comment}: SECRET"));
            let public = certificate::public_text(pair.public(), &comment);
            write(&dir.join(format!("{name}.key_secret")), &secret)?;
            write(&dir.join(format!("{name}.key")), &public)?;
            if name == CLIENT {
                write(&clients.join("client.key"), &public)?;
            }
        }
        Self::open(dir)
    }

    /// Where it is.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The public key of who listens.
    ///
    /// # Errors
    /// When `server.key` is not there, is no certificate, or others may write it.
    pub fn server_key(&self) -> Result<PublicKey> {
        read_public(&self.dir.join("server.key"))
    }

    /// The pair of who listens.
    ///
    /// # Errors
    /// When `server.key_secret` is not there, is no certificate, or others may read it.
    pub fn server(&self) -> Result<KeyPair> {
        self.pair(SERVER)
    }

    /// The pair of who connects.
    ///
    /// # Errors
    /// When `client.key_secret` is not there, is no certificate, or others may read it.
    pub fn client(&self) -> Result<KeyPair> {
        self.pair(CLIENT)
    }

    fn pair(&self, name: &str) -> Result<KeyPair> {
        let path = self.dir.join(format!("{name}.key_secret"));
        let text = read(
            &path,
            0o077,
            "let others read or write it, and it is a secret",
        )?;
        certificate::read_pair(&text).map_err(|why| bad(&path, why))
    }

    /// Whose key this is, by the name of its file in `clients`; `None` when it may not join.
    ///
    /// # Errors
    /// When it is not found, and not all files could be read: it may be in one of these.
    pub(crate) fn name_of(&self, key: PublicKey) -> Result<Option<String>> {
        let mut unread = None;
        for path in self.clients()? {
            match read_public(&path) {
                Ok(found) if found == key => {
                    let name = path.file_stem().unwrap_or_default();
                    return Ok(Some(name.to_string_lossy().into_owned()));
                }
                Ok(_) => {}
                Err(error) => unread = Some(error),
            }
        }
        unread.map_or(Ok(None), Err)
    }

    /// The files of those that may join.
    ///
    /// # Errors
    /// When `clients` is not there, or others may write there.
    pub fn clients(&self) -> Result<Vec<PathBuf>> {
        let dir = self.dir.join(CLIENTS);
        check(&dir, 0o022, "let others write there")?;
        let entries = fs::read_dir(&dir).map_err(|error| bad(&dir, error))?;
        let mut found: Vec<PathBuf> = entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|end| end == "key"))
            .collect();
        found.sort();
        Ok(found)
    }
}

fn read_public(path: &Path) -> Result<PublicKey> {
    let text = read(path, 0o022, "let others write it")?;
    certificate::read_public(&text).map_err(|why| bad(path, why))
}

/// No certificate is longer, in bytes.
const LONGEST: u64 = 64 << 10;

/// The text of a file that belongs to this user and has none of the modes in `refused`. What is looked at is what is read, whatever happens to the
/// name meanwhile.
pub(super) fn read(path: &Path, refused: u32, why: &str) -> Result<zeroize::Zeroizing<String>> {
    use std::io::Read;
    let file = fs::OpenOptions::new()
        .read(true)
        // A pipe of somebody's would be waited for.
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
        .open(path)
        .map_err(|error| unreadable(path, &error))?;
    let found = file.metadata().map_err(|error| bad(path, error))?;
    judge(path, &found, refused, why)?;
    if !found.is_file() {
        return Err(bad(path, "it is not a file"));
    }
    let mut text = zeroize::Zeroizing::new(String::new());
    file.take(LONGEST)
        .read_to_string(&mut text)
        .map_err(|error| bad(path, error))?;
    Ok(text)
}

fn unreadable(path: &Path, error: &std::io::Error) -> crate::error::Error {
    match error.kind() {
        ErrorKind::NotFound => bad(
            path,
            "it is not there; procession keygen DIR makes keys, and this file is to be copied from the host that made it",
        ),
        _ => bad(path, error),
    }
}

/// Belongs to this user, and has none of the modes in `refused`.
fn check(path: &Path, refused: u32, why: &str) -> Result<()> {
    let found = fs::metadata(path).map_err(|error| unreadable(path, &error))?;
    judge(path, &found, refused, why)
}

fn judge(path: &Path, found: &fs::Metadata, refused: u32, why: &str) -> Result<()> {
    let uid = rustix::process::geteuid().as_raw();
    if found.uid() != uid && found.uid() != 0 {
        return Err(bad(
            path,
            format!("it belongs to user {}, and this is user {uid}", found.uid()),
        ));
    }
    let mode = found.mode() & 0o777;
    if mode & refused != 0 {
        let fix = mode & !0o077;
        return Err(bad(
            path,
            format!(
                "its mode is {mode:04o}, which would {why}; chmod {fix:04o} {}",
                path.display()
            ),
        ));
    }
    Ok(())
}

/// Writes a new file that only this user can read.
pub(super) fn write(path: &Path, text: &str) -> Result<()> {
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|error| bad(path, error))
}
