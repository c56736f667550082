//! `--joblog`: a line a task, in GNU parallel's nine columns, which outlives its sink.
//!
//! The columns are those of GNU parallel byte for byte: a runtime of `%10.3f`, a start with three decimals, `:` for this
//! host, -1 and 15 for a timeout, newlines in the command as NUL. Lines stand in the order in which tasks ended.
//!
//! A file is one sink's at a time (it is locked), and every line in it is whole: what a full disk cut is taken back. While a
//! run lasts whose sink may be started again, a small file beside the log (`.NAME.procession`) says where the run's own
//! lines begin, so that Seqs of earlier runs are never taken for this one's.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use procession::command::CommandResult;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

const HEADER: &[u8] =
    b"Seq\tHost\tStarttime\tJobRuntime\tSend\tReceive\tExitval\tSignal\tCommand\n";
/// How much is gathered before it is written unasked, in bytes.
const PENDING: usize = 64 << 10;
/// More than the eight columns before the command can have, in bytes; host names have at most 255.
const COLUMNS: usize = 512;

/// A job log that is being written.
#[derive(Debug)]
pub struct Joblog {
    file: File,
    path: PathBuf,
    /// The name of this host, which is logged as `:`.
    here: Vec<u8>,
    pending: Vec<u8>,
    /// Up to here there are whole lines in the file; `None` if it is no regular file.
    len: Option<u64>,
    note: Option<PathBuf>,
}

/// A task that a log says is done.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Kept {
    /// The task's number.
    pub seq: u64,
    /// Its exit code; −1 for a timeout.
    pub exit: i32,
    /// The signal that ended it, or 0.
    pub signal: i32,
    /// How long it took, in seconds.
    pub seconds: f64,
}

impl Joblog {
    /// Begins the log anew, or with `append` (`+FILE`) behind what is there. `run` is the run's id, if its sink may be
    /// started again and will then [`resume`](Self::resume).
    ///
    /// # Errors
    /// When the file cannot be opened or written, is another sink's, or, with `append`, is something else than a job log.
    pub fn create(path: &Path, append: bool, run: Option<&str>) -> io::Result<Self> {
        let mut log = Self::open(path)?;
        if let Some(len) = log.len {
            let kept = if append { log.whole_lines(len)? } else { 0 };
            if append && kept < len {
                log.say_cut();
            }
            log.cut(kept)?;
            if let Some(run) = run {
                log.write_note(run, kept);
            } else {
                // What a killed run may have left says nothing about this one.
                let _ = std::fs::remove_file(note_path(path));
            }
        }
        log.begin()?;
        Ok(log)
    }

    /// Goes on with the log of a run whose earlier sink is gone: cuts off a torn last line, and gives each task of this run
    /// that is in it to `kept`. Of another run's tasks, or where the earlier sink had no log, nothing is taken as kept.
    ///
    /// # Errors
    /// As [`create`](Self::create) with `append`.
    pub fn resume(path: &Path, run: &str, mut kept: impl FnMut(Kept)) -> io::Result<Self> {
        let mut log = Self::open(path)?;
        let Some(len) = log.len else {
            log.begin()?;
            return Ok(log);
        };
        let note = note_path(path);
        match read_note(&note, run) {
            Some(from) if from <= len => {
                let whole = log
                    .read_lines(from, &mut kept)
                    .map_err(|error| log.explain(error))?;
                if whole < len {
                    log.say_cut();
                }
                log.cut(whole)?;
                log.note = Some(note);
            }
            _ => {
                let whole = log.whole_lines(len)?;
                log.cut(whole)?;
                log.write_note(run, whole);
            }
        }
        log.begin()?;
        Ok(log)
    }

    /// Adds a task's line; it is in the file after the next [`flush`](Self::flush), or before when much has gathered.
    ///
    /// # Errors
    /// As [`flush`](Self::flush).
    pub fn append(&mut self, seq: u64, result: &CommandResult) -> io::Result<()> {
        let (exit, signal) = result.status();
        let host = result.host.as_bytes();
        let host = if host.is_empty() || host == self.here {
            b":"
        } else {
            host
        };
        let out = &mut self.pending;
        // Writing to a Vec does not fail.
        write!(out, "{seq}\t")?;
        out.extend(
            host.iter()
                .map(|b| if b.is_ascii_whitespace() { b'_' } else { *b }),
        );
        write!(
            out,
            "\t{:.3}\t{:>10.3}\t{}\t{}\t{exit}\t{signal}\t",
            result.start,
            result.seconds,
            result.sent,
            result.stdout.len(),
        )?;
        out.extend(
            result
                .command
                .iter()
                .map(|b| if *b == b'\n' { 0 } else { *b }),
        );
        out.push(b'\n');
        match self.pending.len() {
            0..PENDING => Ok(()),
            _ => self.flush(),
        }
    }

    /// Writes what has gathered; afterwards it survives this process.
    ///
    /// # Errors
    /// When the disk is full, for instance. No part of what was to be written is in the file then, and another flush tries
    /// all of it again.
    pub fn flush(&mut self) -> io::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        if let Err(error) = self.file.write_all(&self.pending) {
            if let Some(len) = self.len {
                // If even this fails, the next sink cuts off the torn line.
                let _ = self.file.set_len(len);
            }
            return Err(self.explain(error));
        }
        self.len = self.len.map(|len| len + self.pending.len() as u64);
        self.pending.clear();
        Ok(())
    }

    /// Has what was flushed on the disk.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn sync(&self) -> io::Result<()> {
        match self.len {
            Some(_) => self.file.sync_data().map_err(|error| self.explain(error)),
            None => Ok(()),
        }
    }

    /// Writes what has gathered; the run is over and nobody will resume it.
    ///
    /// # Errors
    /// As [`flush`](Self::flush).
    pub fn finish(mut self) -> io::Result<()> {
        self.flush()?;
        if let Some(note) = &self.note {
            let _ = std::fs::remove_file(note);
        }
        Ok(())
    }

    /// Opens and locks the file and changes nothing in it.
    fn open(path: &Path) -> io::Result<Self> {
        let mut log = Self {
            // No truncation here: it may be another sink's.
            file: OpenOptions::new()
                .read(true)
                .append(true)
                .create(true)
                .open(path)
                .or_else(|error| match error.kind() {
                    // A pipe or terminal that can only be written.
                    io::ErrorKind::PermissionDenied => OpenOptions::new().append(true).open(path),
                    _ => Err(error),
                })
                .map_err(|error| explain(path, error))?,
            path: path.into(),
            here: rustix::system::uname().nodename().to_bytes().to_vec(),
            pending: Vec::new(),
            len: None,
            note: None,
        };
        let metadata = log.file.metadata().map_err(|error| explain(path, error))?;
        if metadata.is_file() {
            match flock(&log.file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => {
                    let text = format!(
                        "joblog {} is in use by another sink; end that one, or choose another file with --joblog",
                        path.display()
                    );
                    return Err(io::Error::new(io::ErrorKind::ResourceBusy, text));
                }
                Err(error) => return Err(explain(path, error.into())),
            }
            // Only now: whoever held the lock may have written until then.
            log.len = Some(
                log.file
                    .metadata()
                    .map_err(|error| explain(path, error))?
                    .len(),
            );
        }
        Ok(log)
    }

    /// Writes the header if there is none yet, so that a full disk is known before the first task.
    fn begin(&mut self) -> io::Result<()> {
        if self.len.unwrap_or(0) == 0 {
            self.pending.extend_from_slice(HEADER);
        }
        self.flush()
    }

    fn say_cut(&self) {
        log::warn!(
            "joblog {}: its last line is half-written and is left out",
            self.path.display()
        );
    }

    fn cut(&mut self, len: u64) -> io::Result<()> {
        if self.len != Some(len) {
            self.file
                .set_len(len)
                .map_err(|error| self.explain(error))?;
            self.len = Some(len);
        }
        Ok(())
    }

    /// The length up to the last line end, after a look whether this is a job log at all: another file's end is not ours to
    /// cut off.
    fn whole_lines(&self, len: u64) -> io::Result<u64> {
        let mut begin = vec![0; HEADER.len().min(usize::try_from(len).unwrap_or(usize::MAX))];
        self.file
            .read_exact_at(&mut begin, 0)
            .map_err(|error| self.explain(error))?;
        if !HEADER.starts_with(&begin) {
            let text = format!(
                "{} is no joblog: its first line is another; choose another file with --joblog, or begin it anew without +",
                self.path.display()
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        let mut high = len;
        let mut piece = vec![0; PENDING];
        while high > 0 {
            let low = high.saturating_sub(PENDING as u64);
            let piece = &mut piece[..(high - low) as usize];
            self.file
                .read_exact_at(piece, low)
                .map_err(|error| self.explain(error))?;
            if let Some(last) = memchr::memrchr(b'\n', piece) {
                return Ok(low + last as u64 + 1);
            }
            high = low;
        }
        Ok(0)
    }

    /// Gives the tasks in the lines from `from` to `kept`; returns the length without a torn last line. Memory does not grow
    /// with the file, nor with its lines.
    fn read_lines(&self, from: u64, kept: &mut impl FnMut(Kept)) -> io::Result<u64> {
        let mut file = &self.file;
        file.seek(SeekFrom::Start(from))?;
        let mut reader = BufReader::with_capacity(128 << 10, file);
        let mut at = from;
        let mut columns = Vec::with_capacity(COLUMNS);
        loop {
            columns.clear();
            let len = (&mut reader)
                .take(COLUMNS as u64)
                .read_until(b'\n', &mut columns)?;
            if len == 0 {
                return Ok(at);
            }
            let mut line = len as u64;
            let mut whole = columns.last() == Some(&b'\n');
            if !whole {
                line += skip_line(&mut reader, &mut whole)?;
            }
            let task = parse(&columns);
            if let Some(task) = task.filter(|_| whole) {
                kept(task);
            } else if !whole || reader.fill_buf()?.is_empty() {
                // The last line. A header alone is whole, though it is no task.
                return Ok(if whole && columns == HEADER {
                    at + line
                } else {
                    at
                });
            } else if columns != HEADER {
                log::warn!(
                    "joblog {}: the line at byte {at} is malformed and is left out",
                    self.path.display()
                );
            }
            at += line;
        }
    }

    /// Says beside the log where the run's lines begin. Without it (the directory may be read-only) a restarted sink takes
    /// nothing as kept: it may log tasks again, but loses none.
    fn write_note(&mut self, run: &str, from: u64) {
        let note = note_path(&self.path);
        match std::fs::write(&note, format!("{run} {from}\n")) {
            Ok(()) => self.note = Some(note),
            Err(error) => log::debug!("cannot write {}: {error}", note.display()),
        }
    }

    fn explain(&self, error: io::Error) -> io::Error {
        explain(&self.path, error)
    }
}

fn explain(path: &Path, error: io::Error) -> io::Error {
    let advice = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "make room on its disk, or choose another file with --joblog"
        }
        io::ErrorKind::NotFound => "make its directory first, or choose another file with --joblog",
        io::ErrorKind::IsADirectory => "name a file with --joblog",
        _ => "choose another file with --joblog",
    };
    io::Error::new(
        error.kind(),
        format!("cannot write joblog {}: {error}; {advice}", path.display()),
    )
}

fn note_path(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".procession");
    path.with_file_name(name)
}

/// Where the lines of `run` begin, if the note is of that run and whole.
fn read_note(note: &Path, run: &str) -> Option<u64> {
    let text = std::fs::read_to_string(note).ok()?;
    let (noted, from) = text.strip_suffix('\n')?.rsplit_once(' ')?;
    (noted == run).then(|| from.parse().ok())?
}

/// Skips to behind the line's end; returns how many bytes.
fn skip_line(reader: &mut impl BufRead, whole: &mut bool) -> io::Result<u64> {
    let mut skipped = 0;
    loop {
        let piece = reader.fill_buf()?;
        if piece.is_empty() {
            return Ok(skipped);
        }
        let end = memchr::memchr(b'\n', piece);
        let len = end.map_or(piece.len(), |end| end + 1);
        reader.consume(len);
        skipped += len as u64;
        if end.is_some() {
            *whole = true;
            return Ok(skipped);
        }
    }
}

/// The task of a line, of which at least the first eight columns and the tab behind them are there.
fn parse(line: &[u8]) -> Option<Kept> {
    let mut columns = line.splitn(9, |b| *b == b'\t');
    let mut next = || Some(std::str::from_utf8(columns.next()?).ok()?.trim_start());
    let seq = next()?.parse().ok()?;
    let (_host, start) = (next()?, next()?);
    start.parse::<f64>().ok()?;
    let seconds = next()?.parse().ok()?;
    let (_sent, _received) = (next()?, next()?);
    let exit = next()?.parse().ok()?;
    let signal = next()?.parse().ok()?;
    columns.next()?;
    Some(Kept {
        seq,
        exit,
        signal,
        seconds,
    })
}

#[cfg(test)]
#[path = "joblog_tests.rs"]
mod tests;
