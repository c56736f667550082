//! The sink's side of the command: what becomes of results.
//!
//! A result is kept when it is on stdout, in `--results` and in `--joblog`, in this order: a log that names a task whose output was
//! lost would be worse than output that is repeated. Only then is it acknowledged.

use std::collections::HashMap;
use std::error::Error;
use std::fmt;
use std::io::{self, BufWriter, IsTerminal, Stdout, Write};
use std::time::{Duration, Instant};

use procession::command::{CommandResult, Job, Mode};
use procession::obituary::Obituary;
use procession::pipeline::{Cause, Got, Outcome, Receipt, Sink};
use procession::wire::id_set::IdSet;

use crate::args::options::OutputArgs;
use crate::joblog::Joblog;
use crate::json::write_json;
use crate::progress;
use crate::results::Results;

/// Kept results are acknowledged after so many at the latest; fewer where each must be in a log before.
const GROUP: usize = 2048;
const GROUP_WITH_LOG: usize = 128;

/// Why results cannot be kept.
#[derive(Debug)]
pub enum OutputError {
    /// Nobody reads our stdout any more. That is not an error of anyone's.
    Closed,
    /// Something else, as a message.
    Failed(String),
}

impl fmt::Display for OutputError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("the output was closed"),
            Self::Failed(message) => f.write_str(message),
        }
    }
}

impl Error for OutputError {}

/// How the gathering ended.
#[derive(Debug)]
pub enum Gathered {
    /// Behind the pill: why the run ended, and how many tasks failed.
    Pill(Cause, u64),
    /// We were told to leave.
    Left,
    /// Nobody reads our stdout any more.
    Closed,
}

/// What is to outlive the sink, and what more.
#[derive(Clone, Copy, Debug)]
pub struct Keeping {
    /// Another sink may go on with this one's log.
    pub restartable: bool,
    /// What was written is to be on the disk before it counts as kept.
    pub sync: bool,
}

/// Where results go.
pub struct Output {
    keeping: Keeping,
    args: OutputArgs,
    job: Job,
    stdout: BufWriter<Stdout>,
    to_terminal: bool,
    joblog: Option<Joblog>,
    results: Option<Results>,
    receipts: Vec<Receipt>,
    /// How many results were written, and of which tasks.
    written: u64,
    ids: IdSet,
    /// Why tasks failed, and how many for each reason.
    reasons: HashMap<String, u64>,
}

/// The same reason is given for so many tasks; the others are counted.
const SAME_REASON: u64 = 5;
/// So many different reasons are told apart.
const REASONS: usize = 1000;

impl Output {
    /// Opens what is to be written. A sink that takes the place of another one goes on with its log: what is in it was kept.
    ///
    /// # Errors
    /// When a file cannot be made, or belongs to another sink.
    pub fn open(
        args: OutputArgs,
        sink: &mut Sink<CommandResult>,
        keeping: Keeping,
    ) -> Result<Self, Box<dyn Error>> {
        let job: Job = sink.job()?;
        let run = format!("{:016x}", sink.run_id());
        let joblog = match &args.joblog {
            None => None,
            Some(log) if sink.is_resumed() => Some(Joblog::resume(&log.path, &run, |kept| {
                sink.keep_from_before(
                    kept.seq,
                    kept.exit,
                    kept.signal,
                    Duration::try_from_secs_f64(kept.seconds).unwrap_or_default(),
                );
            })?),
            Some(log) => Some(Joblog::create(
                &log.path,
                log.append,
                keeping.restartable.then_some(run.as_str()),
            )?),
        };
        sink.acknowledge();
        let results = args.results.as_deref().map(Results::create).transpose()?;
        Ok(Self {
            keeping,
            args,
            job,
            stdout: BufWriter::with_capacity(128 << 10, io::stdout()),
            to_terminal: io::stdout().is_terminal(),
            joblog,
            results,
            receipts: Vec::new(),
            written: 0,
            ids: IdSet::new(),
            reasons: HashMap::new(),
        })
    }

    /// Writes and acknowledges results until the run ends. `now_and_then` is told how many there were since it was told last.
    ///
    /// # Errors
    /// When something cannot be written, or the ventilator is lost.
    pub fn gather(
        &mut self,
        sink: &mut Sink<CommandResult>,
        mut now_and_then: impl FnMut(u64),
    ) -> Result<Gathered, Box<dyn Error>> {
        let group = if self.joblog.is_some() {
            GROUP_WITH_LOG
        } else {
            GROUP
        };
        let mut due = Instant::now();
        let mut written = 0;
        loop {
            let mut got = sink.try_get()?;
            if matches!(got, Got::Nothing) {
                if let Err(error) = self.flush(sink) {
                    return self.stopped(error);
                }
                now_and_then(std::mem::take(&mut written));
                got = sink.get_timeout(Duration::from_millis(200))?;
            }
            match got {
                Got::Outcome(outcome) => {
                    if let Err(error) = self.write(*outcome) {
                        return self.stopped(error);
                    }
                    written += 1;
                }
                Got::Nothing => {}
                Got::Ended => break,
            }
            if self.receipts.len() >= group {
                if let Err(error) = self.flush(sink) {
                    return self.stopped(error);
                }
                let now = Instant::now();
                if now >= due {
                    due = now + Duration::from_millis(100);
                    now_and_then(std::mem::take(&mut written));
                }
            }
        }
        if let Err(error) = self.flush(sink) {
            return self.stopped(error);
        }
        Ok(match sink.end() {
            Some((cause, _, failed)) => Gathered::Pill(cause, failed),
            None => Gathered::Left,
        })
    }

    fn stopped(&mut self, error: OutputError) -> Result<Gathered, Box<dyn Error>> {
        match error {
            OutputError::Closed => Ok(Gathered::Closed),
            failed => Err(failed.into()),
        }
    }

    /// Says why a task failed; what is the same for many is said for a few.
    fn say_failure(&mut self, id: u64, result: &CommandResult, last: Option<&Obituary>) {
        let Some(note) = &result.note else {
            return say_failure(id, result, last);
        };
        if self.reasons.len() >= REASONS && !self.reasons.contains_key(note) {
            return log::warn!("task {id}: {note}");
        }
        let times = self.reasons.entry(note.clone()).or_default();
        *times += 1;
        if *times <= SAME_REASON {
            log::warn!("task {id}: {note}");
        } else if *times == SAME_REASON + 1 {
            log::warn!("task {id} and others, counted at the end: {note}");
        }
    }

    /// Says how many tasks failed for the reasons that were not said each time.
    fn say_counts(&mut self) {
        for (note, times) in self.reasons.drain() {
            if times > SAME_REASON {
                log::warn!("{times} tasks in all: {note}");
            }
        }
    }

    /// How many results were written, and of how many different tasks.
    pub fn written(&self) -> (u64, u64) {
        (self.written, self.ids.len())
    }

    /// Closes the log in order: another sink of this run will not go on with it.
    ///
    /// # Errors
    /// When what was held back cannot be written.
    pub fn finish(mut self) -> io::Result<()> {
        self.say_counts();
        match self.joblog {
            Some(joblog) => joblog.finish(),
            None => Ok(()),
        }
    }

    fn write(&mut self, outcome: Outcome<CommandResult>) -> Result<(), OutputError> {
        let failed = outcome.failed();
        let (id, attempt, receipt) = (outcome.id, outcome.attempt, outcome.receipt);
        let (exit, signal, seconds) = (outcome.exit, outcome.signal, outcome.time.as_secs_f64());
        let result = outcome.result.unwrap_or_else(|error| CommandResult {
            exit,
            signal,
            seconds,
            note: Some(error.to_string()),
            ..CommandResult::default()
        });
        if failed {
            self.say_failure(id, &result, outcome.obituaries.last());
        }
        if self.args.json {
            write_json(&mut self.stdout, id, attempt, &result, &outcome.obituaries)
                .map_err(stdout_error)?;
        } else {
            self.print(&result)?;
        }
        if let Some(results) = &self.results {
            results
                .keep(id, self.job.mode == Mode::Pipe, &result)
                .map_err(|error| OutputError::Failed(error.to_string()))?;
        }
        if let Some(joblog) = &mut self.joblog {
            // Held back until the next flush, which comes behind stdout's.
            joblog
                .append(id, &result)
                .map_err(|error| OutputError::Failed(error.to_string()))?;
        }
        self.written += 1;
        self.ids.insert(id);
        self.receipts.push(receipt);
        Ok(())
    }

    fn print(&mut self, result: &CommandResult) -> Result<(), OutputError> {
        let tag = self.args.tag.then(|| result.input.clone());
        let out = &mut self.stdout;
        let print = |out: &mut BufWriter<Stdout>| match &tag {
            None => result.stdout.write_to(out),
            Some(tag) => write_tagged(out, tag, &mut result.stdout.reader()?),
        };
        if self.to_terminal {
            progress::suspend(|| print(out).and_then(|()| out.flush())).map_err(stdout_error)?;
        } else {
            print(out).map_err(stdout_error)?;
        }
        if !result.stderr.is_empty() {
            // In the order of the tasks: what is before it on stdout comes first.
            out.flush().map_err(stdout_error)?;
            let mut stderr = io::stderr().lock();
            // Nobody is left to hear of a closed stderr.
            let _ = progress::suspend(|| match &tag {
                None => result.stderr.write_to(&mut stderr),
                Some(tag) => result
                    .stderr
                    .reader()
                    .and_then(|mut reader| write_tagged(&mut stderr, tag, &mut reader)),
            });
        }
        Ok(())
    }

    /// Makes sure of what was written, and acknowledges it.
    fn flush(&mut self, sink: &mut Sink<CommandResult>) -> Result<(), OutputError> {
        self.stdout.flush().map_err(stdout_error)?;
        let failed = |error: io::Error| OutputError::Failed(error.to_string());
        let sync = self.keeping.sync && !self.receipts.is_empty();
        if sync {
            sync_stdout().map_err(failed)?;
            if let Some(results) = &self.results {
                results.sync().map_err(failed)?;
            }
        }
        if let Some(joblog) = &mut self.joblog {
            joblog.flush().map_err(failed)?;
            if sync {
                joblog.sync().map_err(failed)?;
            }
        }
        if !self.receipts.is_empty() {
            for receipt in self.receipts.drain(..) {
                sink.keep(receipt);
            }
            sink.acknowledge();
        }
        Ok(())
    }
}

/// Has what was written on the disk, where stdout is a file.
fn sync_stdout() -> io::Result<()> {
    match rustix::fs::fdatasync(io::stdout()) {
        // A pipe or a terminal, which keep nothing.
        Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::ROFS) => Ok(()),
        Err(error) => Err(io::Error::new(
            io::Error::from(error).kind(),
            format!("standard output cannot be brought to its disk: {error}"),
        )),
    }
}

/// What failed without a note, in a way that its own output does not tell, is said.
fn say_failure(id: u64, result: &CommandResult, last: Option<&Obituary>) {
    let command = String::from_utf8_lossy(&result.command);
    let command: String = command.chars().take(200).collect();
    let (_, signal) = result.status();
    if result.timed_out {
        log::warn!("task {id} ran into --timeout and was ended: {command}");
    } else if signal != 0 {
        log::warn!(
            "task {id} was killed by signal {signal}: {command}{}",
            how(last)
        );
    } else {
        log::info!(
            "task {id} failed with exit status {}: {command}{}",
            result.exit,
            how(last)
        );
    }
}

/// What else is known of it.
fn how(last: Option<&Obituary>) -> String {
    last.map(|obituary| format!(" ({obituary})"))
        .unwrap_or_default()
}

fn write_tagged(out: &mut impl Write, tag: &[u8], text: &mut impl io::Read) -> io::Result<()> {
    use io::BufRead;
    let mut text = io::BufReader::with_capacity(64 << 10, text);
    let mut at_start = true;
    loop {
        let piece = text.fill_buf()?;
        if piece.is_empty() {
            return Ok(());
        }
        let end = memchr::memchr(b'\n', piece).map(|at| at + 1);
        if at_start {
            out.write_all(tag)?;
            out.write_all(b"\t")?;
        }
        let len = end.unwrap_or(piece.len());
        out.write_all(&piece[..len])?;
        at_start = end.is_some();
        text.consume(len);
    }
}

fn stdout_error(error: io::Error) -> OutputError {
    match error.kind() {
        io::ErrorKind::BrokenPipe => OutputError::Closed,
        _ => OutputError::Failed(format!(
            "cannot write to standard output: {error}; the results that were not written are not acknowledged"
        )),
    }
}
