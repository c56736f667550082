//! The guardian: a small process that ends what a killed program of ours would leave behind.
//!
//! Whoever is killed with SIGKILL cannot clean up. So the program starts one guardian, which waits for the end of the
//! *life pipe*, whose writing end only the program holds: when the pipe closes, however that came about, the guardian
//! kills the process groups that the program's slots list, removes the files that it was told of, and exits.
//!
//! The list is a file in memory (memfd) that the program writes and the guardian reads, one number for each slot, so
//! that a task costs two small writes and no message. The guardian keeps nothing else of the program open, in
//! particular not its output: who reads that sees it end when the program does.
//!
//! ```text
//! life pipe:  '+' LENGTH(u32, native) PATH    remove PATH when the pipe closes
//!             '-' LENGTH(u32, native) PATH    no longer
//! memfd:      one i32 (native) for each slot: a group's number, 0 for none, -1 while a command is being spawned
//! ```

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, PipeWriter, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{FlockOperation, MemfdFlags, flock, memfd_create};
use rustix::process::{Pid, Signal, kill_process_group};

/// The hidden subcommand that [`main`] is the entry of.
pub const SUBCOMMAND: &str = "__guardian";

const NONE: i32 = 0;
const SPAWNING: i32 = -1;
const ENTRY: u64 = size_of::<i32>() as u64;
const ADD: u8 = b'+';

/// A running guardian, from the side of the program that it guards.
#[derive(Debug)]
pub struct Guardian {
    process: Child,
    life: Mutex<PipeWriter>,
    groups: Arc<File>,
}

impl Guardian {
    /// Starts one, and does not wait until it is there: what happens before is not forgotten, as the pipe keeps it.
    ///
    /// `worker` is the value of `PROCESSION_WORKER` in the environment of the commands.
    ///
    /// # Errors
    /// When the program cannot be started a second time, or the system has no descriptor left.
    pub fn start(worker: &str) -> io::Result<Self> {
        let groups = File::from(memfd_create("procession-groups", MemfdFlags::CLOEXEC)?);
        let (life, writer) = io::pipe()?;
        // The link, not what it points to: the file may have been replaced since by a newer version.
        let this = Path::new("/proc/self/exe");
        let mut command = match this.exists() {
            true => Command::new(this),
            false => Command::new(std::env::current_exe()?),
        };
        let process = command
            .arg0("procession")
            .arg(SUBCOMMAND)
            .arg(worker)
            .stdin(life)
            .stdout(groups.try_clone()?)
            .stderr(Stdio::null())
            // Out of reach of the terminal's Ctrl-C and of whoever signals the group of the program.
            .process_group(0)
            .spawn()?;
        Ok(Self {
            process,
            life: Mutex::new(writer),
            groups: Arc::new(groups),
        })
    }

    /// The handle of a slot, from 1. The list grows with the highest that is used.
    pub fn slot(&self, slot: u32) -> GroupSlot {
        GroupSlot {
            groups: Some(Arc::clone(&self.groups)),
            offset: u64::from(slot.saturating_sub(1)) * ENTRY,
        }
    }

    /// Has a file (a socket) or an empty directory removed if the program is killed. Files are removed before the
    /// directories that they are in are, whatever the order in which they were named.
    pub fn remove_on_death(&self, path: &Path) {
        self.tell(path);
    }

    /// As [`remove_on_death`](Self::remove_on_death), of a socket and the lock beside it.
    pub fn remove_socket_on_death(&self, path: &Path) {
        self.remove_on_death(path);
        let mut lock = path.as_os_str().to_owned();
        lock.push(".lock");
        self.remove_on_death(lock.as_ref());
    }

    fn tell(&self, path: &Path) {
        let path = path.as_os_str().as_bytes();
        let Ok(length) = u32::try_from(path.len()) else {
            return;
        };
        let mut record = vec![ADD];
        record.extend_from_slice(&length.to_ne_bytes());
        record.extend_from_slice(path);
        let mut life = self.life.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = life.write_all(&record) {
            log::debug!("the guardian is gone: {error}");
        }
    }
}

impl Drop for Guardian {
    /// The program ends in order and has cleaned up itself: the guardian is sent home before it sees the pipe close.
    fn drop(&mut self) {
        // SIGKILL, as it has nothing to finish, may not be there yet, and may even be stopped.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Where a slot says which process group it runs. Without a guardian it does nothing.
#[derive(Clone, Debug, Default)]
pub struct GroupSlot {
    groups: Option<Arc<File>>,
    offset: u64,
}

impl GroupSlot {
    /// A slot that nobody guards.
    pub fn unguarded() -> Self {
        Self::default()
    }

    /// A command is about to be spawned: its number is not known yet, but its environment is.
    pub fn spawning(&self) {
        self.set(SPAWNING);
    }

    /// The group of this leader runs.
    pub fn running(&self, leader: u32) {
        self.set(i32::try_from(leader).unwrap_or(NONE));
    }

    /// Nothing runs. To be said before the leader is reaped, while its number cannot be somebody else's.
    pub fn clear(&self) {
        self.set(NONE);
    }

    fn set(&self, value: i32) {
        if let Some(groups) = &self.groups {
            // A write into memory that is there already; there is nobody to tell if it failed.
            let _ = groups.write_at(&value.to_ne_bytes(), self.offset);
        }
    }
}

/// The guardian's side: the entry of the hidden subcommand. `args` are what follows its name.
///
/// To be called first thing in the program's `main`, before anything is set up that the guardian does not need.
pub fn main(mut args: impl Iterator<Item = OsString>) -> ExitCode {
    // "exe" is what `ps` would call it otherwise.
    let _ = rustix::thread::set_name(c"proc-guardian");
    for signal in [
        Signal::HUP,
        Signal::INT,
        Signal::QUIT,
        Signal::TERM,
        Signal::USR1,
        Signal::USR2,
    ] {
        // Caught and not looked at. It must outlive the program; whoever wants both gone kills the program.
        let _ = signal_hook::flag::register(signal.as_raw(), Arc::new(AtomicBool::new(false)));
    }
    let worker = args.next().unwrap_or_default();
    let files = read_life(&mut io::stdin().lock());
    kill_groups(&worker);
    remove(files);
    // What the killed commands shared, if they are programs of this library.
    let _ = procession::shared::sweep();
    ExitCode::SUCCESS
}

/// Reads the life pipe to its end; returns the files that are to be removed.
fn read_life(life: &mut impl Read) -> Vec<OsString> {
    let mut files: Vec<OsString> = Vec::new();
    let mut record = || -> io::Result<(u8, OsString)> {
        let mut head = [0; 5];
        life.read_exact(&mut head)?;
        let length = u32::from_ne_bytes([head[1], head[2], head[3], head[4]]);
        let mut path = Vec::new();
        life.take(length.into()).read_to_end(&mut path)?;
        match path.len() == length as usize {
            true => Ok((head[0], OsStr::from_bytes(&path).to_owned())),
            // The program was killed in the middle of a record: half a name is nobody's.
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    };
    while let Ok((what, path)) = record() {
        files.retain(|file| *file != path);
        if what == ADD {
            files.push(path);
        }
    }
    files
}

/// Kills the groups that the list names, and finds those that were being spawned.
fn kill_groups(worker: &OsStr) {
    let Ok(list) = io::stdout().as_fd().try_clone_to_owned().map(File::from) else {
        return;
    };
    let mut entry = [0; ENTRY as usize];
    let mut spawning = Vec::new();
    for slot in 1.. {
        if list.read_exact_at(&mut entry, (slot - 1) * ENTRY).is_err() {
            break;
        }
        match i32::from_ne_bytes(entry) {
            SPAWNING => spawning.push(slot),
            // 1 is everybody's parent and never a command's group.
            group if group > 1 => kill(group),
            _ => {}
        }
    }
    // The pipe closes when its last holder is gone, and a command that is being spawned holds it until its program
    // is loaded: so each of them is there now, with its environment.
    if !spawning.is_empty() {
        leaders_of(worker, &spawning).for_each(kill);
    }
}

fn kill(group: i32) {
    if let Some(group) = Pid::from_raw(group) {
        let _ = kill_process_group(group, Signal::KILL);
    }
}

/// The group leaders among all processes that are commands of this worker in one of these slots.
fn leaders_of<'a>(worker: &'a OsStr, slots: &'a [u64]) -> impl Iterator<Item = i32> + 'a {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    processes.filter_map(move |process| {
        let id: i32 = process.file_name().to_str()?.parse().ok()?;
        let environment = std::fs::read(process.path().join("environ")).ok()?;
        let value = |name: &[u8]| {
            environment
                .split(|byte| *byte == 0)
                .find_map(|entry| entry.strip_prefix(name))
        };
        let slot = std::str::from_utf8(value(b"PROCESSION_SLOT=")?).ok()?;
        let is_ours = value(b"PROCESSION_WORKER=")? == worker.as_bytes()
            && slots.contains(&slot.parse().ok()?);
        let leads = rustix::process::getpgid(Pid::from_raw(id))
            .ok()?
            .as_raw_nonzero()
            .get()
            == id;
        (is_ours && leads).then_some(id)
    })
}

/// Removes files first, then directories, the innermost first; whoever has put something into one keeps it.
fn remove(files: Vec<OsString>) {
    let (mut folders, files): (Vec<_>, Vec<_>) = files
        .into_iter()
        .partition(|path| std::fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir()));
    let mut held = Locks {
        known: files.iter().cloned().collect(),
        ..Locks::default()
    };
    for file in files {
        // Who is started again at once may listen there already. Until all are removed nobody else does.
        if held.take_for(&file) {
            let _ = std::fs::remove_file(file);
        }
    }
    drop(held);
    folders.sort_by_key(|folder| std::cmp::Reverse(folder.len()));
    for folder in folders {
        remove_sockets(Path::new(&folder));
        let _ = std::fs::remove_dir(folder);
    }
}

/// Locks of sockets, by their paths, of programs that are gone.
#[derive(Default)]
struct Locks {
    /// All that is to be removed: a lock that is among it was there once.
    known: HashSet<OsString>,
    held: HashMap<OsString, Option<File>>,
}

impl Locks {
    /// Takes the lock of a socket, or one that is named itself, where there is one; `false` where a living process has it.
    fn take_for(&mut self, file: &OsStr) -> bool {
        let mut lock = file.to_owned();
        if Path::new(file).extension() != Some(OsStr::new("lock")) {
            lock.push(".lock");
        }
        if let Some(held) = self.held.get(&lock) {
            return held.is_some();
        }
        let Ok(opened) = File::open(&lock) else {
            // One that was there is gone: somebody has removed what was left, and somebody else may listen there by now.
            return !self.known.contains(&lock);
        };
        // The life pipe may close a moment before the program's other files do.
        let free = (0..50).any(|_| {
            let free = flock(&opened, FlockOperation::NonBlockingLockExclusive).is_ok();
            if !free {
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            free
        });
        // What was held may be a file that has been removed meanwhile.
        let free = free && is_at(&opened, &lock);
        self.held.insert(lock, free.then_some(opened));
        free
    }
}

/// Whether this is the file of that name.
fn is_at(file: &File, name: &OsStr) -> bool {
    let there = (file.metadata(), std::fs::metadata(name));
    matches!(there, (Ok(ours), Ok(there)) if (ours.dev(), ours.ino()) == (there.dev(), there.ino()))
}

/// Removes the sockets in a folder, the locks beside them, and the keys for ports: lanes come and go too often to be told of one by one.
fn remove_sockets(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let is_socket = entry.file_type().is_ok_and(|kind| kind.is_socket());
        let is_lock = entry.path().extension() == Some(OsStr::new("lock"));
        // What lets others find the keys of who listens.
        let is_ticket = entry.file_name().as_encoded_bytes().starts_with(b"port-");
        if is_socket || is_lock || is_ticket {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(what: u8, path: &str) -> Vec<u8> {
        let mut record = vec![what];
        record.extend_from_slice(&(path.len() as u32).to_ne_bytes());
        record.extend_from_slice(path.as_bytes());
        record
    }

    #[test]
    fn the_life_pipe_names_what_is_to_be_removed() {
        let mut life = [record(ADD, "/a"), record(ADD, "/b"), record(ADD, "/c")].concat();
        assert_eq!(read_life(&mut &life[..]), ["/a", "/b", "/c"]);
        life.truncate(life.len() - 1);
        assert_eq!(
            read_life(&mut &life[..]),
            ["/a", "/b"],
            "a torn record counts"
        );
    }

    #[test]
    fn files_go_before_the_folders_that_they_are_in() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let inner = folder.path().join("run");
        let kept = folder.path().join("kept");
        for each in [&inner, &kept] {
            std::fs::create_dir(each)?;
            std::fs::write(each.join("socket"), "")?;
        }
        remove(vec![
            inner.clone().into(),
            kept.clone().into(),
            inner.join("socket").into(),
        ]);
        assert!(!inner.exists());
        assert!(kept.join("socket").exists());
        Ok(())
    }

    #[test]
    fn a_slot_writes_its_group_where_the_guardian_reads_it() -> io::Result<()> {
        let groups = Arc::new(tempfile::tempfile()?);
        groups.set_len(3 * ENTRY)?;
        let slot = GroupSlot {
            groups: Some(Arc::clone(&groups)),
            offset: ENTRY,
        };
        let read = || -> io::Result<i32> {
            let mut entry = [0; 4];
            groups.read_exact_at(&mut entry, ENTRY)?;
            Ok(i32::from_ne_bytes(entry))
        };
        slot.spawning();
        assert_eq!(read()?, SPAWNING);
        slot.running(4711);
        assert_eq!(read()?, 4711);
        slot.clear();
        assert_eq!(read()?, NONE);
        Ok(())
    }

    #[test]
    fn a_command_is_found_by_its_environment() -> io::Result<()> {
        let mut command = Command::new("cat")
            .env("PROCESSION_WORKER", "guardian-test")
            .env("PROCESSION_SLOT", "7")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()?;
        let id = command.id() as i32;
        let worker = OsStr::new("guardian-test");
        let here: Vec<_> = leaders_of(worker, &[3, 7]).collect();
        let elsewhere: Vec<_> = leaders_of(worker, &[3]).collect();
        drop(command.stdin.take());
        command.wait()?;
        assert_eq!(here, [id]);
        assert!(elsewhere.is_empty(), "{elsewhere:?}");
        Ok(())
    }
}
