//! The ventilator's side of the command: from what was typed to the job, and from the input to tasks.

use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use procession::Body;
use procession::command::{CommandResult, Job, Mode, Template};
use procession::pipeline::{
    Journal, Putter, Summary, Ventilator, VentilatorBuilder, VentilatorHandle,
};

use crate::args::options::{CommonArgs, InputArgs, InputFile};
use crate::commands;
use crate::exit_code::ExitCode;
use crate::input::{Input, Source};
use crate::progress::Snapshot;
use crate::resume::Resume;

/// The cause of a run that its input ended: an error.
const ERROR: u8 = 255;
/// The cause of a run whose sink has nobody who reads its output: SIGPIPE's number.
const PIPE: u8 = 13;

/// How far the reading of the input has come.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    shared: Arc<ReadingShared>,
}

#[derive(Debug, Default)]
struct ReadingShared {
    bytes: AtomicU64,
    bytes_total: AtomicU64,
    failed: AtomicBool,
    /// All of it has been read.
    ended: AtomicBool,
}

impl Reading {
    /// Whether the input could not be read to its end.
    pub fn has_failed(&self) -> bool {
        self.shared.failed.load(Ordering::Acquire)
    }

    /// Says how much a run that was stopped has left undone.
    pub fn say_unfinished(&self, summary: &Summary) {
        if summary.unfinished == 0 || summary.cause == 0 || output_was_closed(summary.cause) {
            return;
        }
        let (done, unfinished) = (summary.done, summary.unfinished);
        if self.shared.ended.load(Ordering::Acquire) {
            log::warn!("{done} tasks are done, {unfinished} are not");
        } else {
            log::warn!(
                "{done} tasks are done, {unfinished} that were read are not, and the rest of the input was not read"
            );
        }
    }

    /// How it stands, for progress.
    pub fn snapshot(&self, handle: &VentilatorHandle) -> Snapshot {
        let state = handle.state();
        let total = self.shared.bytes_total.load(Ordering::Relaxed);
        let bytes = self.shared.bytes.load(Ordering::Relaxed);
        let put = state.done + state.leased + state.waiting;
        Snapshot {
            done: state.done,
            failed: state.failed,
            waiting: state.waiting,
            running: state.running,
            workers: state
                .peers
                .iter()
                .filter(|peer| peer.role == "worker" && peer.state == "live")
                .count() as u64,
            total: state.total,
            // What was read and is not done yet counts in proportion.
            fraction: (total > 0 && put > 0)
                .then(|| bytes as f64 / total as f64 * state.done as f64 / put as f64),
        }
    }
}

/// What the workers are told.
///
/// # Errors
/// When the options contradict the command.
pub fn job(args: &InputArgs) -> Result<Job, Box<dyn Error>> {
    let template = Template::parse(&args.command);
    let mode = match (args.pipe, args.filter) {
        (true, _) => Mode::Pipe,
        (_, true) => Mode::Filter,
        _ => Mode::Value,
    };
    if mode == Mode::Filter && args.timeout.is_some() {
        return Err("--timeout is a limit for each command, and with --filter one command runs for all tasks; put `timeout` before the filter's own command if its whole life shall be limited".into());
    }
    if mode != Mode::Value && !args.command.is_empty() {
        // A placeholder that nothing will fill is found before anything runs.
        template.fill(None, 1, 1)?;
    }
    if let Some(warning) = template.warning() {
        log::warn!("{warning}");
    }
    Ok(Job {
        mode,
        template,
        null: args.null,
        timeout: args.timeout,
        tries: args.retries,
    })
}

/// An endpoint of another process: what is within one process cannot be reached from another.
///
/// # Errors
/// With what to write instead.
pub fn between_processes(endpoint: &str) -> Result<(), String> {
    match endpoint.starts_with("inproc://") {
        true => Err(format!(
            "{endpoint} can only be reached from within its own process; write ipc://PATH or tcp://127.0.0.1:PORT"
        )),
        false => Ok(()),
    }
}

/// Opens the input.
///
/// # Errors
/// When a file cannot be opened or is a directory.
pub fn open(args: &InputArgs) -> io::Result<Input> {
    let source = match &args.values {
        Some(values) => Source::Values(values.clone()),
        None if args.files.is_empty() => Source::Stdin,
        None => Source::Files(
            args.files
                .iter()
                .map(|file| match file {
                    InputFile::Stdin => PathBuf::from("-"),
                    InputFile::Path(path) => path.clone(),
                })
                .collect(),
        ),
    };
    Input::open(source, args.null, args.pipe.then_some(args.block))
}

/// A ventilator as the options want it.
///
/// # Errors
/// When the job cannot be encoded.
pub fn builder(
    input: &InputArgs,
    common: &CommonArgs,
    advertise: Option<&str>,
    job: &Job,
    journal: Option<&Journal>,
) -> procession::Result<VentilatorBuilder> {
    let title: Vec<String> = input
        .command
        .iter()
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let mut builder = Ventilator::<()>::builder("")
        .listed()
        .heartbeat(common.heartbeat)
        .patience(common.reach.patience)
        .insecure(common.reach.insecure)
        .title(title.join(" "))
        .tries(job.tries)
        .given_up(given_up(job))
        .job(job)?;
    if let Some(keys) = crate::access::keys(&common.reach)? {
        builder = builder.keys(keys);
    }
    if let Some(journal) = journal {
        builder = builder.journal(journal);
    }
    if let Some(ports) = &common.lane_ports {
        builder = builder.lane_ports(*ports.start(), *ports.end());
    }
    if let Some(host) = advertise {
        builder = builder.advertise(host);
    }
    Ok(builder)
}

/// The result of a task that killed its workers: nobody lived to say which command it was, so the log would lack it, and the
/// files of one such task would be those of another.
fn given_up(job: &Job) -> impl Fn(u64, &Body, &str) -> CommandResult + Send + Sync + 'static {
    let (mode, filler) = (job.mode, job.template.filler());
    move |id, task, why| {
        let input = match mode {
            Mode::Pipe => None,
            _ => commands::value_of(task).ok(),
        };
        // Whoever reads the note knows the task.
        let note = why.strip_prefix(&format!("task {id} ")).unwrap_or(why);
        let value = input.as_deref().filter(|_| mode == Mode::Value);
        CommandResult {
            command: filler.display(value, id, 0).into(),
            input: input.unwrap_or_default(),
            start: commands::epoch(),
            exit: 255,
            note: Some(note.to_owned()),
            ..CommandResult::default()
        }
    }
}

/// Reads the input into the ventilator, in a thread that nobody waits for: it may be blocked in a read for ever.
pub fn start(
    mut input: Input,
    mut putter: Putter<Body>,
    handle: VentilatorHandle,
    mut resume: Option<Resume>,
) -> io::Result<Reading> {
    let reading = Reading::default();
    let shared = Arc::clone(&reading.shared);
    if let Some(total) = input.tasks_total() {
        handle.set_total(total);
    }
    shared
        .bytes_total
        .store(input.bytes_total().unwrap_or(0), Ordering::Relaxed);
    std::thread::Builder::new()
        .name("input".to_owned())
        .spawn(move || {
            while let Some(task) = input.next() {
                match task {
                    Ok(body) => {
                        match put(&mut putter, resume.as_mut(), body) {
                            Ok(()) => {}
                            Err(procession::Error::Ended(_)) => return,
                            Err(error) => {
                                log::error!("{error}");
                                shared.failed.store(true, Ordering::Release);
                                handle.halt(ERROR);
                                return;
                            }
                        }
                        shared.bytes.store(input.bytes_read(), Ordering::Relaxed);
                    }
                    Err(error) => {
                        log::error!("{error}");
                        shared.failed.store(true, Ordering::Release);
                        handle.halt(ERROR);
                        return;
                    }
                }
            }
            shared.ended.store(true, Ordering::Release);
            putter.end();
        })?;
    Ok(reading)
}

/// Puts a task, unless a joblog says that it is done.
fn put(
    putter: &mut Putter<Body>,
    resume: Option<&mut Resume>,
    task: Body,
) -> procession::Result<()> {
    let Some(resume) = resume else {
        return putter.put(task);
    };
    let number = resume
        .number(&task)
        .map_err(|error| procession::Error::system("cannot read a task", error))?;
    match number {
        Some(number) => putter.put_as(number, task),
        None => Ok(()),
    }
}

/// Whether a run ended because nobody reads the sink's output any more, of which not a word is to be said.
fn output_was_closed(cause: u8) -> bool {
    cause == PIPE
}

/// The exit code of a run that ended so.
pub fn exit_code(failed: u64, cause: u8) -> ExitCode {
    let failures = ExitCode::of_failures(failed);
    match cause {
        1 => ExitCode::HungUp,
        2 => ExitCode::Interrupted,
        15 => ExitCode::Terminated,
        ERROR => failures.merge(ExitCode::Error),
        // All done, or nobody reads the output any more.
        _ => failures,
    }
}
