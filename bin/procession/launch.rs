//! Starting one program: found in `PATH` once, spawned cheaply, and a failure said in words that help.
//!
//! Everything here keeps to what lets the standard library use `posix_spawn`, which does not copy the page tables:
//! no `pre_exec`, and no change of `PATH` for a program that is still to be looked up.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use procession::command::Invocation;
use rustc_hash::FxHashMap;
use rustix::fs::{Access, AtFlags, CWD, accessat};
use rustix::io::Errno;

/// Where programs are looked for when `PATH` is not set, as `execvp` does.
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// What a shell says of a command that is not there.
pub const NOT_FOUND: i32 = 127;
/// What a shell says of a command that is there and cannot be started.
pub const NOT_EXECUTABLE: i32 = 126;

/// Why a program could not be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CannotStart {
    /// [`NOT_FOUND`] or [`NOT_EXECUTABLE`].
    pub exit: i32,
    /// The program, the reason and what to do.
    pub note: String,
}

/// Starts programs, and remembers where they are.
#[derive(Debug, Default)]
pub struct Launcher {
    found: FxHashMap<OsString, PathBuf>,
    nothing: Option<File>,
}

impl Launcher {
    /// One that has found nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty standard input: `/dev/null`, opened once.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn empty_input(&mut self) -> io::Result<Stdio> {
        let nothing = match self.nothing.take() {
            Some(file) => file,
            None => File::open("/dev/null")?,
        };
        let copy = nothing.try_clone();
        self.nothing = Some(nothing);
        copy.map(Stdio::from)
    }

    /// Spawns the program as the leader of a process group of its own. `prepare` sets descriptors and environment,
    /// and is called again when a second attempt is made.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(
        &mut self,
        invocation: &Invocation,
        mut prepare: impl FnMut(&mut Self, &mut Command) -> io::Result<()>,
    ) -> Result<Child, CannotStart> {
        let program = &invocation.program;
        let mut attempt = |launcher: &mut Self, path: &Path| {
            let mut command = Command::new(path);
            command.arg0(program).args(&invocation.args);
            prepare(launcher, &mut command)?;
            let result = command.process_group(0).spawn();
            if !is(&result, Errno::NOEXEC) {
                return result;
            }
            // A script without `#!`: run by the shell, as `execvp` and every shell do.
            let mut command = Command::new("/bin/sh");
            command.arg(path).args(&invocation.args);
            prepare(launcher, &mut command)?;
            command.process_group(0).spawn()
        };
        let known = self.found.contains_key(program);
        let mut path = self.find(program)?;
        let mut result = attempt(self, &path);
        if known && is(&result, Errno::NOENT) {
            // It was there a moment ago: a package that is being upgraded, or another of that name further on.
            self.found.remove(program);
            path = self.find(program)?;
            result = attempt(self, &path);
        }
        result.map_err(|error| explain(program, &path, &error))
    }

    /// Takes it for granted that a program is at this path.
    #[cfg(test)]
    pub fn remember(&mut self, program: &str, path: &Path) {
        self.found.insert(program.into(), path.into());
    }

    /// The file that a program's name means.
    fn find(&mut self, program: &OsStr) -> Result<PathBuf, CannotStart> {
        if let Some(path) = self.found.get(program) {
            return Ok(path.clone());
        }
        if program.as_bytes().contains(&b'/') {
            return Ok(program.into());
        }
        let path = std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
        let mut forbidden = None;
        for folder in std::env::split_paths(&path) {
            // An empty entry means the working directory.
            let file = match folder.as_os_str().is_empty() {
                true => Path::new(".").join(program),
                false => folder.join(program),
            };
            if program.is_empty() || !file.is_file() {
                continue;
            }
            if accessat(CWD, &file, Access::EXEC_OK, AtFlags::EACCESS).is_ok() {
                self.found.insert(program.to_owned(), file.clone());
                return Ok(file);
            }
            forbidden.get_or_insert(file);
        }
        Err(match forbidden {
            Some(file) => explain(program, &file, &Errno::ACCESS.into()),
            None => CannotStart {
                exit: NOT_FOUND,
                note: format!(
                    "cannot start {program:?}: no such command in PATH; check its name, or give its path"
                ),
            },
        })
    }
}

fn is<T>(result: &io::Result<T>, errno: Errno) -> bool {
    matches!(result, Err(error) if Errno::from_io_error(error) == Some(errno))
}

/// The exit code and the words for an error of spawning `path`.
fn explain(program: &OsStr, path: &Path, error: &io::Error) -> CannotStart {
    let (exit, why) = match Errno::from_io_error(error) {
        Some(Errno::NOENT) if path.exists() => (
            NOT_FOUND,
            "the interpreter that its first line names was not found".to_owned(),
        ),
        Some(Errno::NOENT | Errno::NOTDIR) => {
            (NOT_FOUND, "no such file; check the path".to_owned())
        }
        Some(Errno::ACCESS) if path.is_dir() => (NOT_EXECUTABLE, "it is a directory".to_owned()),
        Some(Errno::ACCESS) => (
            NOT_EXECUTABLE,
            format!(
                "permission denied; make it executable (chmod +x {})",
                path.display()
            ),
        ),
        Some(Errno::TOOBIG) => (
            NOT_EXECUTABLE,
            "its arguments and environment are longer than the system allows; \
             give the value on its standard input with --pipe"
                .to_owned(),
        ),
        Some(Errno::AGAIN | Errno::NOMEM | Errno::MFILE | Errno::NFILE) => (
            NOT_EXECUTABLE,
            format!("{error}; run fewer at once with -j, or raise the limits (ulimit -u, -n)"),
        ),
        _ => (NOT_EXECUTABLE, error.to_string()),
    };
    CannotStart {
        exit,
        note: format!("cannot start {program:?}: {why}"),
    }
}
