//! `--resume` and `--retry-failed`: which tasks a joblog says are done. A task is known by its command, with its value in it, and by
//! how often the same command came before; not by its place in the list.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use procession::Body;
use procession::command::{Job, Mode, Template};
use procession::wire::id_set::IdSet;

use crate::commands;

/// What a command is known by.
type Digest = blake3::Hash;

/// The tasks of a joblog, and which numbers are taken.
pub struct Resume {
    template: Template,
    known: HashMap<Digest, VecDeque<u64>>,
    done: IdSet,
    failed: u64,
    taken: IdSet,
    place: u64,
}

impl Resume {
    /// Reads the log of an earlier run of this job, if there is one. What failed counts as done unless it is to be `retried`.
    ///
    /// # Errors
    /// When it is the log of another command, or the job's tasks cannot be told apart by their commands.
    pub fn read(path: &Path, job: &Job, retried: bool) -> Result<Self, Box<dyn std::error::Error>> {
        if job.mode != Mode::Value {
            return Err("--resume and --retry-failed know a task by its command in the joblog, and with --pipe and --filter all have the same; use --journal".into());
        }
        let shape = Shape::of(&job.template)?;
        let mut resume = Self {
            template: job.template.clone(),
            known: HashMap::new(),
            done: IdSet::new(),
            failed: 0,
            taken: IdSet::new(),
            place: 0,
        };
        // Of a task that was tried again the last line counts.
        let mut tasks: BTreeMap<u64, (Digest, bool)> = BTreeMap::new();
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(resume),
            opened => {
                opened.map_err(|error| format!("cannot read joblog {}: {error}", path.display()))?
            }
        };
        let mut lines = BufReader::with_capacity(128 << 10, file);
        let mut line = Vec::new();
        for number in 1_u64.. {
            line.clear();
            if lines.read_until(b'\n', &mut line)? == 0 {
                break;
            }
            if line.pop() != Some(b'\n') {
                // It is cut off, and that is said, when the log is opened to be gone on with.
                break;
            }
            let Some((seq, ok, command)) = task_of(&line) else {
                continue;
            };
            if !shape.fits(command) {
                return Err(format!(
                    "line {number} of joblog {} is of another command: `{}`; choose another file with --joblog, or leave out --resume",
                    path.display(),
                    String::from_utf8_lossy(command)
                )
                .into());
            }
            tasks.insert(seq, (blake3::hash(command), ok));
        }
        for (seq, (command, ok)) in tasks {
            resume.known.entry(command).or_default().push_back(seq);
            resume.taken.insert(seq);
            if ok || !retried {
                resume.done.insert(seq);
                resume.failed += u64::from(!ok);
            }
        }
        Ok(resume)
    }

    /// The tasks that are done, and how many of them failed.
    pub fn done(&self) -> (IdSet, u64) {
        (self.done.clone(), self.failed)
    }

    /// The number of the next task of the input; `None`: it is done. A new one has its place in the list, if no other has that.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn number(&mut self, task: &Body) -> io::Result<Option<u64>> {
        self.place += 1;
        let value = commands::value_of(task).map_err(io::Error::other)?;
        let command = logged(&self.template, &value, self.place);
        let known = self.known.get_mut(&blake3::hash(&command));
        if let Some(seq) = known.and_then(VecDeque::pop_front) {
            return Ok((!self.done.contains(seq)).then_some(seq));
        }
        let number = if self.taken.contains(self.place) {
            let last = self.taken.ranges().last();
            last.map_or(1, |(first, count)| first + count)
        } else {
            self.place
        };
        self.taken.insert(number);
        Ok(Some(number))
    }
}

/// A command as a joblog has it.
fn logged(template: &Template, value: &[u8], seq: u64) -> Vec<u8> {
    let mut command = template.filler().display(Some(value), seq, 1);
    for byte in &mut command {
        if *byte == b'\n' {
            *byte = 0;
        }
    }
    command
}

/// How all commands of a template begin and end.
struct Shape {
    begin: Vec<u8>,
    end: Vec<u8>,
}

impl Shape {
    fn of(template: &Template) -> Result<Self, String> {
        // Two values without anything in common, whatever is taken of them.
        let one = logged(template, b"a", 1);
        let filler = template.filler();
        if filler.display(Some(b"a"), 1, 1) != filler.display(Some(b"a"), 1, 2) {
            return Err("--resume and --retry-failed know a task by its command in the joblog, and with {%} that is another in each slot; use --journal".to_owned());
        }
        let other = logged(template, b"b.c/d e", 22);
        let alike = |(one, other): &(&u8, &u8)| one == other;
        let begin = one.iter().zip(&other).take_while(alike).count();
        let end = one.iter().rev().zip(other.iter().rev());
        let end = end.take_while(alike).count();
        Ok(Self {
            begin: one[..begin].to_vec(),
            end: one[one.len() - end..].to_vec(),
        })
    }

    fn fits(&self, command: &[u8]) -> bool {
        command.starts_with(&self.begin) && command.ends_with(&self.end)
    }
}

/// The task of a line: its number, whether it succeeded, and its command.
fn task_of(line: &[u8]) -> Option<(u64, bool, &[u8])> {
    let mut columns = line.splitn(9, |byte| *byte == b'\t');
    let seq = std::str::from_utf8(columns.next()?).ok()?.parse().ok()?;
    let exit = columns.nth(5)?;
    let signal = columns.next()?;
    Some((seq, (exit, signal) == (b"0", b"0"), columns.next()?))
}
