//! The worker's side of the command: what a slot does with its tasks.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use procession::Body;
use procession::command::{
    CommandResult, FillError, Filler, Invocation, Job, LONGEST_ARGUMENT, Mode,
};
use procession::pipeline::{Answer, Lease, Slot, Worker, WorkerEnd};

use crate::allow::Allowed;
use crate::chaos::Rehearsal;
use crate::executor::{Executor, Limits, TaskEnv};
use crate::filter::{self, Answers, FilterSpec, FilterTasks, Outcome, Tasks};
use crate::guardian::{GroupSlot, Guardian};
use crate::stop::Stop;

/// Lines that wait for a filter, beyond those under way to it.
const FILTER_AHEAD: u64 = 4096;

type CommandSlot = Slot<Body, CommandResult>;
type CommandLease = Lease<Body>;

/// What all slots of a worker share.
pub struct Commands {
    job: Job,
    filler: Filler,
    worker: String,
    host: String,
    guardian: Option<Guardian>,
    stop: Stop,
    allowed: Allowed,
    rehearsal: Option<Rehearsal>,
    filter_failed: AtomicBool,
}

impl Commands {
    /// For a worker that has been welcomed. `stop` ends what runs.
    pub fn new(worker: &Worker, job: Job, stop: Stop) -> Self {
        let id = format!("{:016x}", worker.id());
        let guardian = Guardian::start(&id)
            .inspect_err(|error| {
                log::warn!(
                    "no guardian: commands would outlive a procession that is killed: {error}"
                );
            })
            .ok();
        Self {
            filler: job.template.filler(),
            job,
            worker: id,
            host: rustix::system::uname()
                .nodename()
                .to_string_lossy()
                .into_owned(),
            guardian,
            stop,
            allowed: Allowed::default(),
            rehearsal: None,
            filter_failed: AtomicBool::new(false),
        }
    }

    /// Runs these programs only.
    pub fn allowing(mut self, allowed: Allowed) -> Self {
        self.allowed = allowed;
        self
    }

    /// Has tasks meet faults.
    pub fn rehearsing(mut self, rehearsal: Option<Rehearsal>) -> Self {
        self.rehearsal = rehearsal;
        self
    }

    fn meet(&self, lease: &CommandLease) {
        if let Some(rehearsal) = &self.rehearsal {
            rehearsal.meet(lease.id(), lease.attempt());
        }
    }

    /// The guardian, for files that it shall remove.
    pub fn guardian(&self) -> Option<&Guardian> {
        self.guardian.as_ref()
    }

    /// Whether a filter went wrong behind its last task.
    pub fn filter_failed(&self) -> bool {
        self.filter_failed.load(Ordering::Acquire)
    }

    /// Runs the worker to its end.
    ///
    /// # Errors
    /// When the ventilator is lost.
    pub fn serve(&self, worker: Worker) -> procession::Result<WorkerEnd> {
        if self.job.mode == Mode::Filter {
            worker.fetch_ahead(FILTER_AHEAD);
        }
        worker.serve(|slot: CommandSlot| match self.job.mode {
            Mode::Value | Mode::Pipe => self.run_each(slot),
            Mode::Filter => self.run_filter(slot),
        })
    }

    fn group(&self, slot: u32) -> GroupSlot {
        self.guardian
            .as_ref()
            .map_or_else(GroupSlot::unguarded, |guardian| guardian.slot(slot))
    }

    // ---- a command for each task ----

    fn run_each(&self, mut slot: CommandSlot) {
        let mut executor = Executor::new();
        let group = self.group(slot.number());
        while let Some(lease) = slot.get() {
            self.meet(&lease);
            let mut refused = false;
            let mut result =
                self.run_one(&mut executor, &group, slot.number(), &lease, &mut refused);
            result.host.clone_from(&self.host);
            let (exit, signal) = result.status();
            let obituary = executor.obituary(&result);
            slot.finish(
                lease,
                Answer {
                    value: Ok(result),
                    exit,
                    signal,
                    obituary,
                    is_final: refused,
                },
            );
        }
    }

    fn run_one(
        &self,
        executor: &mut Executor,
        group: &GroupSlot,
        slot: u32,
        lease: &CommandLease,
        refused: &mut bool,
    ) -> CommandResult {
        let id = lease.id();
        let body = match lease.task() {
            Ok(body) => body,
            Err(why) => return self.not_started(slot, Bytes::new(), Bytes::new(), why),
        };
        let (value, stdin) = match self.job.mode {
            Mode::Pipe => (None, Some(&body)),
            _ => match value_of(&body) {
                Ok(value) => (Some(value), None),
                Err(why) => return self.not_started(slot, Bytes::new(), Bytes::new(), why),
            },
        };
        let shown = value.clone().unwrap_or_default();
        match self.filler.fill(value.as_deref(), id, slot) {
            Ok(invocation) if !self.allowed.permits(&invocation.program) => {
                *refused = true;
                let note = self.allowed.refusal(&invocation.program, &self.host);
                self.not_started(slot, shown, invocation.display.into(), note)
            }
            Ok(invocation) => {
                let env = TaskEnv {
                    task: id,
                    slot,
                    worker: &self.worker,
                    attempt: lease.attempt(),
                };
                let limits = Limits {
                    timeout: self.job.timeout,
                };
                let mut result =
                    executor.execute(&invocation, stdin, &env, &limits, group, &self.stop);
                result.input = shown;
                result
            }
            Err(error) => {
                let command = self.filler.display(value.as_deref(), id, slot);
                self.not_started(slot, shown, command.into(), error.to_string())
            }
        }
    }

    fn not_started(&self, slot: u32, input: Bytes, command: Bytes, note: String) -> CommandResult {
        CommandResult {
            input,
            command,
            host: self.host.clone(),
            worker: self.worker.clone(),
            slot,
            start: epoch(),
            exit: 126,
            note: Some(note),
            ..CommandResult::default()
        }
    }

    // ---- one command for all tasks ----

    fn run_filter(&self, slot: CommandSlot) {
        let number = slot.number();
        let group = self.group(number);
        let invocation = self.filler.fill(None, 0, number);
        let refused = matches!(&invocation, Ok(it) if !self.allowed.permits(&it.program));
        let tasks = FilterSlot {
            refused,
            next: Mutex::default(),
            answers: Mutex::new(slot.twin()),
            slot,
            commands: self,
            display: Bytes::from(self.filler.display(None, 0, number)),
        };
        // The filter's input is closed when there is nothing more for now; should there be more after all, it starts again.
        while tasks.wait_for_more() {
            let outcome = invocation
                .as_ref()
                .map_err(|error: &FillError| io::Error::other(error.to_string()))
                .and_then(|invocation: &Invocation| {
                    if refused {
                        let why = self.allowed.refusal(&invocation.program, &self.host);
                        return Err(io::Error::other(why));
                    }
                    let spec = FilterSpec {
                        invocation,
                        null: self.job.null,
                        slot: number,
                        worker: &self.worker,
                        no_progress: filter::NO_PROGRESS,
                    };
                    filter::run(&spec, &tasks, &group, &self.stop)
                });
            if let Err(error) = outcome {
                log::error!("the filter in slot {number}: {error}");
                if !tasks.fail_next(&error.to_string()) {
                    // There is no task left that could say so.
                    self.filter_failed.store(true, Ordering::Release);
                }
            }
        }
    }
}

/// A slot as a filter sees it: one thread takes, another answers.
struct FilterSlot<'a> {
    /// It may not be run here.
    refused: bool,
    slot: CommandSlot,
    /// Taken while waiting, and to be given first.
    next: Mutex<VecDeque<CommandLease>>,
    answers: Mutex<CommandSlot>,
    commands: &'a Commands,
    display: Bytes,
}

impl FilterSlot<'_> {
    /// Waits for a task; `false` when there will be none.
    fn wait_for_more(&self) -> bool {
        match self.slot.get() {
            Some(lease) => {
                self.commands.meet(&lease);
                self.next().push_back(lease);
                true
            }
            None => false,
        }
    }

    fn next(&self) -> std::sync::MutexGuard<'_, VecDeque<CommandLease>> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The filter cannot be run: what was to be its first task says so, if there is one.
    fn fail_next(&self, note: &str) -> bool {
        let waiting: Vec<CommandLease> = self.next().drain(..).collect();
        let any = !waiting.is_empty();
        let answers = waiting
            .into_iter()
            .map(|lease| {
                let outcome = Outcome::Failed {
                    exit: 126,
                    signal: 0,
                    note: note.to_owned(),
                };
                let line = lease.task().ok().and_then(|body| body.to_bytes().ok());
                ((lease, line.unwrap_or_default()), outcome)
            })
            .collect();
        self.answer(answers);
        any
    }
}

impl FilterTasks for FilterSlot<'_> {
    type Token = (CommandLease, Bytes);

    fn take(&self, max_tasks: usize, max_bytes: usize) -> io::Result<Option<Tasks<Self::Token>>> {
        let waiting: Vec<CommandLease> = self.next().drain(..).collect();
        let leases = if waiting.is_empty() {
            match self.slot.get_many_or_last(max_tasks, max_bytes as u64) {
                Some(leases) if !leases.is_empty() => {
                    leases.iter().for_each(|lease| self.commands.meet(lease));
                    leases
                }
                _ => return Ok(None),
            }
        } else {
            waiting
        };
        let mut tasks = Vec::with_capacity(leases.len());
        for lease in leases {
            let line = lease
                .task()
                .map_err(io::Error::other)
                .and_then(|body| body.to_bytes());
            match line {
                Ok(line) => tasks.push(((lease, line.clone()), line)),
                Err(error) => {
                    let note = format!("its line cannot be read back: {error}");
                    self.answer(vec![(
                        (lease, Bytes::new()),
                        Outcome::Failed {
                            exit: 126,
                            signal: 0,
                            note,
                        },
                    )]);
                }
            }
        }
        Ok(Some(tasks))
    }

    fn answer(&self, answers: Answers<Self::Token>) {
        let commands = self.commands;
        let end = if commands.job.null { 0 } else { b'\n' };
        let now = epoch();
        let mut slot = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let number = slot.number();
        let answers = answers.into_iter().map(|((lease, input), outcome)| {
            let mut result = CommandResult {
                input,
                command: self.display.clone(),
                host: commands.host.clone(),
                worker: commands.worker.clone(),
                slot: number,
                start: now,
                ..CommandResult::default()
            };
            match outcome {
                Outcome::Line(line) => {
                    let mut stdout = Vec::with_capacity(line.len() + 1);
                    // Into memory: it cannot fail.
                    let _ = stdout.write_all(&line);
                    stdout.push(end);
                    result.stdout = Body::from(stdout);
                }
                Outcome::Failed { exit, signal, note } => {
                    result.exit = exit;
                    result.signal = signal;
                    result.note = Some(note);
                }
            }
            let (exit, signal) = result.status();
            let answer = Answer {
                value: Ok(result),
                exit,
                signal,
                obituary: None,
                is_final: self.refused,
            };
            (lease, answer)
        });
        slot.finish_many(answers);
    }
}

/// The value of a task; one that no argument could hold is not read into memory.
///
/// # Errors
/// With why not.
pub fn value_of(body: &Body) -> Result<Bytes, String> {
    if body.len() > LONGEST_ARGUMENT as u64 {
        return Err(FillError::TooLong {
            len: usize::try_from(body.len()).unwrap_or(usize::MAX),
        }
        .to_string());
    }
    body.to_bytes()
        .map_err(|error| format!("its value cannot be read back: {error}"))
}

/// Seconds since 1970.
pub fn epoch() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}
