//! Runs the command of one task in the thread of its slot, and captures what it writes.
//!
//! Each command leads a process group of its own. It is done when it has exited and its outputs are read; a process
//! that it left in the background, and that holds its outputs open, does not keep the result back, but finds them
//! closed when it writes next. A group that has to end (time limit, stop) is ended as a whole, the background included.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use procession::Body;
use procession::command::{CommandResult, Invocation};
use procession::obituary::{Obituary, OomKills};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::Signal;
use wait4::ResUse;

use crate::capture::{Capture, Feed, FeedError, ReadBuffer};
use crate::guardian::GroupSlot;
use crate::launch::{Launcher, NOT_EXECUTABLE};
use crate::process_group::{ProcessGroup, TERMINATION, timespec};
use crate::stop::Stop;

/// How long a command is first waited for without reading its outputs. Most commands of a large run end within it, and
/// then one wake-up does it all; each further one costs a switch of threads. A pipe holds what they write so long.
const BRIEF: Duration = Duration::from_millis(5);

/// So much of what a command wrote last to standard error is looked at for its obituary, in bytes.
const LAST_OF_STDERR: u64 = 1 << 10;

/// What a command finds in its environment, on top of ours.
#[derive(Clone, Copy, Debug)]
pub struct TaskEnv<'a> {
    /// The task's number, from 1: `PROCESSION_TASK`.
    pub task: u64,
    /// The slot's, from 1: `PROCESSION_SLOT`.
    pub slot: u32,
    /// The worker's id: `PROCESSION_WORKER`. The guardian knows the worker's commands by it.
    pub worker: &'a str,
    /// Which attempt at this task it is, from 1: `PROCESSION_ATTEMPT`.
    pub attempt: u32,
}

/// What a command may use.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// How long it may run.
    pub timeout: Option<Duration>,
}

/// Runs commands, one after the other: what one slot has.
#[derive(Debug)]
pub struct Executor {
    launcher: Launcher,
    buffer: ReadBuffer,
    /// The last command wrote more than a pipe holds, so the next one's outputs are read from the start.
    chatty: bool,
    oom_kills: OomKills,
    /// What is known of the last command's process.
    last: Process,
}

/// What is known of a command's process besides its result.
#[derive(Clone, Copy, Debug, Default)]
struct Process {
    id: u32,
    peak_memory: u64,
    out_of_memory: bool,
}

/// Why a command was ended by us.
#[derive(Debug)]
enum Cause {
    Timeout(Duration),
    Stop,
    Input(io::Error),
    Output(io::Error),
}

/// A group that is being ended: the next step of [`TERMINATION`] and when it is due.
#[derive(Debug)]
struct Ending {
    cause: Cause,
    step: usize,
    due: Instant,
}

/// A command that runs.
struct Running<'a> {
    group: ProcessGroup,
    feed: Feed,
    stdout: Capture,
    stderr: Capture,
    ending: Option<Ending>,
    deadline: Option<(Instant, Duration)>,
    stop: &'a Stop,
}

impl Executor {
    /// One for a slot.
    pub fn new() -> Self {
        Self {
            launcher: Launcher::new(),
            buffer: ReadBuffer::new(),
            chatty: false,
            oom_kills: OomKills::of_self(),
            last: Process::default(),
        }
    }

    /// How the last command ended, if it failed; `result` is what came of it.
    pub fn obituary(&mut self, result: &CommandResult) -> Option<Box<Obituary>> {
        let process = std::mem::take(&mut self.last);
        if result.succeeded() {
            return None;
        }
        let tail = result.stderr.len().saturating_sub(LAST_OF_STDERR);
        let stderr = result.stderr.slice(tail, result.stderr.len() - tail);
        Some(Box::new(Obituary {
            pid: process.id,
            out_of_memory: process.out_of_memory,
            peak_memory: process.peak_memory,
            seconds: result.seconds,
            cause: result.note.clone().unwrap_or_default(),
            // What cannot be read back is said by whoever needs all of it.
            stderr: Obituary::last_lines(&stderr.to_bytes().unwrap_or_default()),
            ..Obituary::default()
        }))
    }

    /// Runs a command to its end. Whatever goes wrong is in the result: [`CommandResult::note`] says what.
    ///
    /// The result's `input` and `host` are left to the caller.
    pub fn execute(
        &mut self,
        invocation: &Invocation,
        stdin: Option<&Body>,
        env: &TaskEnv<'_>,
        limits: &Limits,
        slot: &GroupSlot,
        stop: &Stop,
    ) -> CommandResult {
        let began = Instant::now();
        self.last = Process::default();
        let mut result = CommandResult {
            command: Bytes::copy_from_slice(&invocation.display),
            worker: env.worker.to_owned(),
            slot: env.slot,
            start: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0.0, |since| since.as_secs_f64()),
            ..CommandResult::default()
        };
        if stop.is_kill() {
            result.signal = Signal::TERM.as_raw();
            result.note = Some("not started: the run was stopped".to_owned());
            return result;
        }
        let killed_before = self.oom_kills.count();
        slot.spawning();
        let spawned = self.launcher.spawn(invocation, |launcher, command| {
            let input = match stdin {
                Some(_) => Stdio::piped(),
                None => launcher.empty_input()?,
            };
            command
                .stdin(input)
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .env("PROCESSION_TASK", env.task.to_string())
                .env("PROCESSION_SLOT", env.slot.to_string())
                .env("PROCESSION_WORKER", env.worker)
                .env("PROCESSION_ATTEMPT", env.attempt.to_string());
            Ok(())
        });
        let mut child = match spawned {
            Ok(child) => child,
            Err(error) => {
                slot.clear();
                result.exit = error.exit;
                result.note = Some(error.note);
                result.seconds = began.elapsed().as_secs_f64();
                return result;
            }
        };
        slot.running(child.id());
        self.last.id = child.id();
        let input = child.stdin.take().map(Into::into);
        let stdout = child.stdout.take().map(Into::into);
        let stderr = child.stderr.take().map(Into::into);
        let mut running = Running {
            group: ProcessGroup::new(child),
            feed: Feed::nothing(),
            stdout: Capture::new(stdout),
            stderr: Capture::new(stderr),
            ending: None,
            deadline: limits
                .timeout
                .and_then(|limit| Some((began.checked_add(limit)?, limit))),
            stop,
        };
        if let Some(body) = stdin {
            match Feed::new(input, body) {
                Ok(feed) => running.feed = feed,
                Err(error) => running.fail_input(error),
            }
        }
        if !self.chatty {
            running.wait_briefly();
        }
        running.wait(&mut self.buffer);
        self.chatty = running.stdout.is_wide() || running.stderr.is_wide();
        result.seconds = began.elapsed().as_secs_f64();
        let (result, peak_memory) = running.finish(slot, result);
        self.last.peak_memory = peak_memory;
        // A shell says of a command of its own that was killed that it exited with 128 and the signal's number.
        let was_killed = [result.signal, result.exit - 128].contains(&Signal::KILL.as_raw());
        self.last.out_of_memory = was_killed && self.oom_kills.count() > killed_before;
        result
    }
}

impl Running<'_> {
    /// Feeds what fits, and waits for the exit alone: what the command writes meanwhile stays in its pipes.
    fn wait_briefly(&mut self) {
        self.push();
        if self.ending.is_some() || self.feed.fd().is_some() {
            return;
        }
        let Some(exit) = self.group.exit_fd() else {
            return;
        };
        let mut fds = [
            PollFd::from_borrowed_fd(exit, PollFlags::IN),
            PollFd::from_borrowed_fd(self.stop.kill_fd(), PollFlags::IN),
        ];
        let wait = self.deadline.map_or(BRIEF, |(_, limit)| limit.min(BRIEF));
        // Interrupted or not: the loop that follows looks at everything.
        let _ = poll(&mut fds, Some(&timespec(wait)));
    }

    /// Waits until the command has exited and its outputs are read, ending its group if that is due.
    fn wait(&mut self, buffer: &mut ReadBuffer) {
        let mut exited = false;
        loop {
            let now = Instant::now();
            self.end_if_due(now);
            if exited && self.is_over() {
                break;
            }
            let due = match (&self.ending, self.deadline) {
                (Some(ending), _) if ending.step < TERMINATION.len() => Some(ending.due),
                (None, Some((deadline, _))) => Some(deadline),
                _ => None,
            };
            let wait = due.map(|due| due.saturating_duration_since(now));
            let ready = self.poll(exited, self.group.patience(wait));
            if ready.output[0] {
                let read = self.stdout.read(buffer);
                self.check_output(read);
            }
            if ready.output[1] {
                let read = self.stderr.read(buffer);
                self.check_output(read);
            }
            if ready.input {
                self.push();
            }
            // Asked last, so that what was written before the exit is in the pipes when they are drained.
            if !exited && (ready.exit || (ready.look && self.group.has_exited())) {
                exited = true;
                self.feed.close();
            }
        }
        if self.ending.is_some() {
            // Whoever is left of the group has outlived all that was asked of it.
            self.group.signal(Signal::KILL);
        }
        let read = self.stdout.drain(buffer);
        self.check_output(read);
        let read = self.stderr.drain(buffer);
        self.check_output(read);
    }

    /// Whether a command that has exited is also done with: at once, or, while its group is being ended, when nobody
    /// holds its outputs any more or all steps were taken.
    fn is_over(&self) -> bool {
        match &self.ending {
            None => true,
            Some(ending) => {
                ending.step == TERMINATION.len()
                    || (self.stdout.is_at_end() && self.stderr.is_at_end())
            }
        }
    }

    fn end_if_due(&mut self, now: Instant) {
        if self.ending.is_none() {
            match self.deadline {
                _ if self.stop.is_kill() => self.end(Cause::Stop),
                Some((deadline, limit)) if now >= deadline => self.end(Cause::Timeout(limit)),
                _ => {}
            }
        }
        if let Some(ending) = &mut self.ending
            && let Some((signal, wait)) = TERMINATION.get(ending.step)
            && now >= ending.due
        {
            self.group.signal(*signal);
            ending.step += 1;
            ending.due = now + *wait;
        }
    }

    /// Begins to end the group; the first cause counts.
    fn end(&mut self, cause: Cause) {
        self.feed.close();
        self.ending.get_or_insert_with(|| Ending {
            cause,
            step: 0,
            due: Instant::now(),
        });
    }

    fn check_output(&mut self, read: io::Result<()>) {
        if let Err(error) = read {
            self.end(Cause::Output(error));
        }
    }

    fn push(&mut self) {
        if let Err(error) = self.feed.push() {
            self.fail_input(error);
        }
    }

    fn fail_input(&mut self, error: FeedError) {
        let (FeedError::Read(error) | FeedError::Write(error)) = error;
        self.end(Cause::Input(error));
    }

    fn poll(&self, exited: bool, wait: Option<Duration>) -> Ready {
        let mut fds = Vec::with_capacity(5);
        let mut add = |fd, flags| {
            fds.push(PollFd::from_borrowed_fd(fd, flags));
            fds.len() - 1
        };
        let stdout = self.stdout.fd().map(|fd| add(fd, PollFlags::IN));
        let stderr = self.stderr.fd().map(|fd| add(fd, PollFlags::IN));
        let stdin = self.feed.fd().map(|fd| add(fd, PollFlags::OUT));
        let exit = (self.group.exit_fd().filter(|_| !exited)).map(|fd| add(fd, PollFlags::IN));
        if self.ending.is_none() {
            add(self.stop.kill_fd(), PollFlags::IN);
        }
        match poll(&mut fds, wait.map(timespec).as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            // Out of memory, as `poll` has no other reason: look at what can be looked at without it.
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
        let is_ready =
            |index: Option<usize>| index.is_some_and(|index| !fds[index].revents().is_empty());
        Ready {
            output: [is_ready(stdout), is_ready(stderr)],
            input: is_ready(stdin),
            exit: is_ready(exit),
            look: exit.is_none(),
        }
    }

    /// Reaps the command and fills in how it ended; the most memory that it had.
    fn finish(self, slot: &GroupSlot, mut result: CommandResult) -> (CommandResult, u64) {
        let mut peak_memory = 0;
        match self.group.reap_with_usage(slot) {
            Ok(ResUse { status, rusage }) => {
                peak_memory = rusage.maxrss;
                result.exit = status.code().unwrap_or(0);
                result.signal = status.signal().unwrap_or(0);
            }
            Err(error) => {
                result.exit = NOT_EXECUTABLE;
                result.note = Some(format!("how the command ended is unknown: {error}"));
            }
        }
        result.sent = self.feed.sent();
        let mut cause = self.ending.map(|ending| ending.cause);
        for (capture, body) in [
            (self.stdout, &mut result.stdout),
            (self.stderr, &mut result.stderr),
        ] {
            match capture.finish() {
                Ok(captured) => *body = captured,
                Err(error) => cause = Some(cause.unwrap_or(Cause::Output(error))),
            }
        }
        if let Some(cause) = cause {
            // It was ended by us: it failed, even if it took the signal for a reason to exit with 0.
            if result.signal == 0 {
                result.signal = Signal::TERM.as_raw();
            }
            result.exit = 0;
            result.note = Some(match cause {
                Cause::Timeout(limit) => {
                    result.timed_out = true;
                    result.exit = -1;
                    result.signal = Signal::TERM.as_raw();
                    format!(
                        "killed: it ran for longer than --timeout {}",
                        limit.as_secs_f64()
                    )
                }
                Cause::Stop => "killed: the run was stopped".to_owned(),
                Cause::Input(error) => format!("killed: its input could not be read: {error}"),
                Cause::Output(error) => format!(
                    "killed: its output could not be kept: {error}; \
                     large outputs need room in the folder for temporary files (TMPDIR)"
                ),
            });
        }
        (result, peak_memory)
    }
}

/// What [`Running::poll`] saw.
struct Ready {
    output: [bool; 2],
    input: bool,
    exit: bool,
    /// The exit could not be polled for: it has to be looked for.
    look: bool,
}

#[cfg(test)]
mod tests;
