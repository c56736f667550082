//! How an attempt at a task ended that failed.
//!
//! Whoever sees it end writes an [`Obituary`]: the worker whose command or function failed, the ventilator whose worker died. They
//! travel with the task from attempt to attempt, so that its result comes with all of them
//! ([`Outcome::obituaries`](crate::pipeline::Outcome::obituaries)), whoever dies on the way.

mod oom_kills;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use oom_kills::OomKills;

use crate::process::signal_name;

/// So many obituaries of a task are kept: those of its last attempts.
pub const MOST: usize = 4;
/// So much of what a command wrote last to standard error is kept, in bytes and in lines.
const LONGEST_STDERR: usize = 1 << 10;
const MOST_LINES: usize = 8;
/// More of any other text says nothing more, in bytes.
const LONGEST_TEXT: usize = 512;

/// How an attempt at a task ended that failed.
///
/// What is not known is 0, or empty.
///
/// ```
/// use procession::obituary::Obituary;
///
/// let obituary = Obituary {
///     attempt: 2,
///     host: "ant".into(),
///     pid: 4711,
///     signal: 9,
///     out_of_memory: true,
///     seconds: 1.5,
///     peak_memory: 512 << 20,
///     ..Obituary::default()
/// };
/// assert_eq!(
///     obituary.to_string(),
///     "attempt 2 on ant (process 4711): killed by SIGKILL, as the kernel was out of memory, after 1.500 s, peak memory 512.0 MiB"
/// );
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Obituary {
    /// Which attempt it was, from 1.
    pub attempt: u32,
    /// The name of the host.
    pub host: String,
    /// The worker's id.
    pub worker: u64,
    /// The process that ended: the command's, or the worker's when that died.
    pub pid: u32,
    /// The exit code.
    pub exit: i32,
    /// The signal that ended it.
    pub signal: i32,
    /// Whether the kernel killed for want of memory in its cgroup while it ran.
    pub out_of_memory: bool,
    /// The most memory that it had resident, in bytes. Never less than what its worker had when it started it.
    pub peak_memory: u64,
    /// How long it ran, in seconds; when a worker died, since the worker got the task.
    pub seconds: f64,
    /// What else is to be said: a panic's message, or that its time was up.
    pub cause: String,
    /// The last lines of what it wrote to standard error.
    pub stderr: String,
}

impl Obituary {
    /// The last lines of an output, as they stand in an obituary.
    #[must_use]
    pub fn last_lines(output: &[u8]) -> String {
        let tail = &output[output.len().saturating_sub(LONGEST_STDERR)..];
        let tail = tail.strip_suffix(b"\n").unwrap_or(tail);
        let lines: Vec<&[u8]> = tail
            .rsplit(|byte| *byte == b'\n')
            .take(MOST_LINES)
            .collect();
        let lines: Vec<_> = lines
            .iter()
            .rev()
            .map(|line| String::from_utf8_lossy(line))
            .collect();
        lines.join("\n")
    }

    /// The same with no more text than anybody may have us keep.
    pub(crate) fn bounded(mut self) -> Self {
        shorten(&mut self.host, LONGEST_TEXT);
        shorten(&mut self.cause, LONGEST_TEXT);
        // Bytes that are no text have become three each.
        shorten(&mut self.stderr, 3 * LONGEST_STDERR);
        self
    }

    /// What it counts where bytes are counted.
    pub(crate) fn weight(&self) -> u64 {
        (64 + self.host.len() + self.cause.len() + self.stderr.len()) as u64
    }
}

/// Adds an obituary to those of the same task: the last ones are kept.
pub(crate) fn add(all: &mut Vec<Obituary>, obituary: Obituary) {
    if all.len() >= MOST {
        all.drain(..=all.len() - MOST);
    }
    all.push(obituary.bounded());
}

fn shorten(text: &mut String, most: usize) {
    if text.len() > most {
        let end = (0..=most).rev().find(|&at| text.is_char_boundary(at));
        text.truncate(end.unwrap_or(0));
    }
}

impl fmt::Display for Obituary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "attempt {}", self.attempt)?;
        if !self.host.is_empty() {
            write!(f, " on {}", self.host)?;
        }
        match (self.worker, self.pid) {
            (0, 0) => {}
            (0, pid) => write!(f, " (process {pid})")?,
            (worker, 0) => write!(f, " (worker {worker:016x})")?,
            (worker, pid) => write!(f, " (worker {worker:016x}, process {pid})")?,
        }
        match (self.signal, self.exit) {
            (0, 0) => write!(f, ": failed")?,
            (0, exit) => write!(f, ": failed with exit status {exit}")?,
            (signal, _) => write!(f, ": killed by {}", signal_name(signal))?,
        }
        if self.out_of_memory {
            f.write_str(", as the kernel was out of memory")?;
        }
        if self.seconds > 0.0 {
            write!(f, ", after {:.3} s", self.seconds)?;
        }
        if self.peak_memory > 0 {
            let mib = self.peak_memory as f64 / f64::from(1 << 20);
            write!(f, ", peak memory {mib:.1} MiB")?;
        }
        if !self.cause.is_empty() {
            write!(f, ": {}", self.cause)?;
        }
        if !self.stderr.is_empty() {
            write!(f, "; last on stderr: {}", self.stderr.escape_debug())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_the_last_and_bounded() {
        let all: String = (1..=20).map(|line| format!("line {line}\n")).collect();
        let last = Obituary::last_lines(all.as_bytes());
        assert!(
            last.starts_with("line 13\n") && last.ends_with("\nline 20"),
            "{last}"
        );
        assert_eq!(Obituary::last_lines(b""), "");
        assert_eq!(Obituary::last_lines(b"a\xffb\n"), "a\u{fffd}b");
        assert!(Obituary::last_lines(&[b'x'; 1 << 20]).len() <= LONGEST_STDERR);
    }

    #[test]
    fn the_last_attempts_are_kept() {
        let mut all = Vec::new();
        for attempt in 1..=9 {
            let cause = "é".repeat(10_000);
            add(
                &mut all,
                Obituary {
                    attempt,
                    cause,
                    ..Obituary::default()
                },
            );
        }
        let attempts: Vec<u32> = all.iter().map(|obituary| obituary.attempt).collect();
        assert_eq!(attempts, [6, 7, 8, 9]);
        assert!(
            all.iter()
                .all(|obituary| obituary.cause.len() <= LONGEST_TEXT)
        );
    }
}
