//! `run --chaos`: where the run meets its workers, which are processes of their own, and the ledger at its end.

use std::ffi::OsString;
use std::io;

use procession::pipeline::Summary;
use tempfile::TempDir;

use super::{Crew, Done, Faults};

/// Where a run meets the workers whose faults are rehearsed.
#[derive(Debug)]
pub struct Meeting {
    folder: TempDir,
    faults: Faults,
}

/// What came in, and what went out.
#[derive(Clone, Copy, Debug)]
pub struct Ledger {
    /// Tasks that were put, and how often they were leased.
    pub tasks: u64,
    /// Leases in all.
    pub attempts: u64,
    /// Results that were written, and of how many different tasks they were.
    pub written: u64,
    /// … different ones.
    pub distinct: u64,
    /// Results that were dropped, as their tasks had one.
    pub dropped: u64,
}

impl Meeting {
    /// In a folder that is this user's alone.
    ///
    /// # Errors
    /// When that cannot be made.
    pub fn new(faults: Faults) -> io::Result<Self> {
        Ok(Self {
            folder: tempfile::Builder::new()
                .prefix("procession-chaos-")
                .tempdir()?,
            faults: faults.seeded(super::random_seed()),
        })
    }

    /// Where the ventilator listens for them.
    pub fn endpoint(&self) -> String {
        format!("ipc://{}", self.folder.path().join("run").display())
    }

    /// The folder, to be removed whatever happens.
    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// Starts the workers; `words` are options that they get.
    ///
    /// # Errors
    /// When none can be started.
    pub fn start(&self, workers: u32, words: Vec<OsString>) -> io::Result<Crew> {
        let mut all: Vec<OsString> = vec!["--connect".into(), self.endpoint().into()];
        all.extend(words);
        Crew::start(workers, self.faults, all)
    }

    /// Says what became of the tasks, whatever the level of the log: that is what a rehearsal is for.
    pub fn say(&self, ledger: &Ledger, done: Done) {
        eprintln!(
            "procession: chaos: {}; {done} (seed {})",
            ledger,
            self.faults.seed()
        );
    }
}

impl Ledger {
    /// Of a run that has ended. `written`: results that were written, and of how many tasks; `dropped`: doubles that were not.
    pub fn new(summary: &Summary, (written, distinct): (u64, u64), dropped: u64) -> Self {
        let tasks = summary.done + summary.unfinished;
        Self {
            tasks,
            attempts: tasks + summary.again,
            written,
            distinct,
            dropped,
        }
    }
}

impl std::fmt::Display for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            tasks,
            attempts,
            written,
            distinct,
            dropped,
        } = self;
        let lost = tasks.saturating_sub(*distinct);
        let doubled = written.saturating_sub(*distinct);
        write!(
            f,
            "{tasks} in, {written} out ({lost} lost, {doubled} doubled), {attempts} attempts, {dropped} duplicates dropped"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ledger_tells_what_is_lost_and_doubled() {
        let ledger = Ledger {
            tasks: 10,
            attempts: 13,
            written: 10,
            distinct: 9,
            dropped: 2,
        };
        assert_eq!(
            ledger.to_string(),
            "10 in, 10 out (1 lost, 1 doubled), 13 attempts, 2 duplicates dropped"
        );
    }
}
