//! The thread that concerns itself with the filter's process: starts it, writes tasks, reads answers, and decides what
//! becomes of a task when the filter does not do what it must.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::Signal;

use super::intake::{Intake, News};
use super::process::Live;
use super::window::Window;
use super::{Answers, FilterSpec, FilterTasks, Outcome, WINDOW, failed, stopped, terminator};
use crate::guardian::GroupSlot;
use crate::launch::{CannotStart, Launcher, NOT_EXECUTABLE};
use crate::process_group::timespec;
use crate::stop::Stop;

/// How long an answer may be, in bytes. A filter that never ends its line must not fill the memory.
const LONGEST_ANSWER: usize = 16 << 20;
/// How long a careful window waits for an answer before it closes the input of a filter that may buffer.
const CAREFUL_WAIT: Duration = Duration::from_millis(500);
/// How long a filter may live on after it has closed its output.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The thread that concerns itself with the process.
pub struct Driver<'a, T: FilterTasks> {
    spec: &'a FilterSpec<'a>,
    tasks: &'a T,
    slot: &'a GroupSlot,
    stop: &'a Stop,
    intake: &'a Intake<T::Token>,
    launcher: Launcher,
    window: Window<T::Token>,
    /// The message of an answer too many that no task carries yet.
    excess: Option<String>,
    warned: bool,
    /// The filter answers only when its input ends: learned while careful.
    buffers: bool,
}

/// What a round of the loop found out about the process.
enum Seen {
    Nothing,
    /// An answer too many, or one too long: the message.
    Misbehaved(String),
    Exited,
}

impl<'a, T: FilterTasks> Driver<'a, T> {
    /// Of no process yet: the first task starts one.
    pub fn new(
        spec: &'a FilterSpec<'a>,
        tasks: &'a T,
        slot: &'a GroupSlot,
        stop: &'a Stop,
        intake: &'a Intake<T::Token>,
    ) -> Self {
        Self {
            spec,
            tasks,
            slot,
            stop,
            intake,
            launcher: Launcher::new(),
            window: Window::new(),
            excess: None,
            warned: false,
            buffers: false,
        }
    }

    /// Works until there are no more tasks, or the run is stopped.
    ///
    /// # Errors
    /// See [`super::run`].
    pub fn drive(mut self) -> io::Result<()> {
        let mut live: Option<Live<T::Token>> = None;
        let mut buffer = vec![0; WINDOW];
        let mut ended = None;
        loop {
            if self.stop.is_kill() {
                self.end_now(live);
                return Ok(());
            }
            ended = self.take_news().or(ended);
            if live.is_none() {
                if self.window.is_empty() {
                    if let Some(result) = ended {
                        return match self.excess {
                            Some(note) => Err(io::Error::other(note)),
                            None => result,
                        };
                    }
                } else {
                    match self.start() {
                        Ok(started) => live = Some(started),
                        Err(error) => {
                            // Whatever comes later is tried again, once for each batch: a lack of processes passes.
                            let all = self.window.take_all();
                            self.fail(all, &failed(error.exit, 0, error.note));
                            continue;
                        }
                    }
                }
            }
            let Some(process) = &mut live else {
                self.wait_for_news();
                continue;
            };
            self.write(process, ended.is_some());
            let believed = match self.wait(process, &mut buffer) {
                Seen::Nothing => continue,
                Seen::Misbehaved(note) => {
                    log::error!("{note}");
                    process.group.terminate();
                    let unanswered = self.window.take_unanswered();
                    self.fail(unanswered, &failed(1, 0, note));
                    false
                }
                Seen::Exited => true,
            };
            if let Some(process) = live.take() {
                self.bury(process, &mut buffer, believed);
            }
        }
    }

    /// Moves what has arrived into the window; returns how the tasks ended, if they did.
    fn take_news(&mut self) -> Option<io::Result<()>> {
        let News {
            arrived,
            refused,
            ended,
        } = self.intake.news();
        let mut arrived = arrived.into_iter();
        if let Some(note) = self.excess.take_if(|_| arrived.len() > 0)
            && let Some((token, line)) = arrived.next()
        {
            self.fail(vec![(token, line.len())], &failed(1, 0, note));
        }
        self.window.extend(arrived);
        if !refused.is_empty() {
            self.tasks.answer(refused);
        }
        ended
    }

    fn wait_for_news(&self) {
        let mut fds = [
            PollFd::from_borrowed_fd(self.intake.news_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.stop.kill_fd(), PollFlags::IN),
        ];
        let _ = poll(&mut fds, None);
        self.intake.clear_news();
    }

    fn start(&mut self) -> Result<Live<T::Token>, CannotStart> {
        let spec = *self.spec;
        let cannot = |error: io::Error| CannotStart {
            exit: NOT_EXECUTABLE,
            note: format!("cannot start {:?}: {error}", spec.invocation.program),
        };
        let (unread, stdin) = io::pipe().map_err(cannot)?;
        self.slot.spawning();
        let child = self.launcher.spawn(spec.invocation, |_, command| {
            command
                .stdin(unread.try_clone()?)
                .stdout(Stdio::piped())
                .stderr(Stdio::inherit())
                .env("PROCESSION_SLOT", spec.slot.to_string())
                .env("PROCESSION_WORKER", spec.worker);
            Ok(())
        });
        let child = child.inspect_err(|_| self.slot.clear())?;
        self.slot.running(child.id());
        log::debug!("filter {} started", child.id());
        Ok(Live::new(child, unread.into(), stdin.into()))
    }

    /// Writes what the pipe takes of what the window gives; closes the input behind the last task.
    fn write(&mut self, live: &mut Live<T::Token>, ended: bool) {
        let idle = self.window.under_way() == 0;
        while let Some(stdin) = &live.stdin {
            if live.written == live.out.len() {
                live.out.clear();
                live.written = 0;
                if !self.window.has_to_send() {
                    let is_last = match self.window.is_careful() {
                        true => self.buffers && self.window.under_way() > 0,
                        false => ended,
                    };
                    if is_last {
                        live.close();
                    }
                    break;
                }
                let terminator = terminator(self.spec.null);
                self.window.send(&mut live.out, terminator, WINDOW / 4);
            }
            match rustix::io::write(stdin, &live.out[live.written..]) {
                Ok(n) => live.written += n,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                // It reads no more: it is about to exit, or it has read enough. Its exit will tell.
                Err(_) => live.stdin = None,
            }
        }
        if idle {
            live.progress = Instant::now();
        }
    }

    /// Waits until something can be done, and reads answers.
    fn wait(&mut self, live: &mut Live<T::Token>, buffer: &mut [u8]) -> Seen {
        let wait = self.patience(live);
        let mut fds = Vec::with_capacity(5);
        let mut add = |fd, flags| {
            fds.push(PollFd::from_borrowed_fd(fd, flags));
            fds.len() - 1
        };
        let news = add(self.intake.news_fd(), PollFlags::IN);
        add(self.stop.kill_fd(), PollFlags::IN);
        let stdout = (live.stdout.as_ref()).map(|fd| add(fd.as_fd(), PollFlags::IN));
        let exit = live.group.exit_fd().map(|fd| add(fd, PollFlags::IN));
        if let Some(stdin) = &live.stdin
            && live.written < live.out.len()
        {
            add(stdin.as_fd(), PollFlags::OUT);
        }
        let wait = live.group.patience(wait).map(timespec);
        match poll(&mut fds, wait.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            // Out of memory, as `poll` has no other reason.
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
        let is_ready =
            |index: Option<usize>| index.is_some_and(|index| !fds[index].revents().is_empty());
        let (has_news, has_output) = (is_ready(Some(news)), is_ready(stdout));
        let has_exited = is_ready(exit) || (exit.is_none() && live.group.has_exited());
        if has_news {
            self.intake.clear_news();
        }
        if has_exited {
            return Seen::Exited;
        }
        if has_output {
            return match self.read(live, buffer) {
                Ok(()) => Seen::Nothing,
                Err(note) => Seen::Misbehaved(note),
            };
        }
        self.urge(live);
        Seen::Nothing
    }

    /// How long to wait for the filter before [`Driver::urge`] has something to do; for ever if it never has.
    fn patience(&self, live: &Live<T::Token>) -> Option<Duration> {
        let left = |since: Instant, limit: Duration| limit.saturating_sub(since.elapsed());
        if let Some(idle) = live.ending {
            return Some(left(idle, LAST_WORDS));
        }
        if self.window.under_way() == 0 {
            return None;
        }
        match live.stdin.is_some() {
            // Once it is known to buffer, its input is closed as soon as all is written.
            true if self.window.is_careful() && !self.buffers => {
                Some(left(live.progress, CAREFUL_WAIT))
            }
            true => Some(left(live.progress, self.spec.no_progress)),
            false if !self.warned => Some(left(live.progress, self.spec.no_progress)),
            false => None,
        }
    }

    /// Does what is due when the filter has not answered for some time.
    fn urge(&mut self, live: &mut Live<T::Token>) {
        if live
            .ending
            .is_some_and(|since| since.elapsed() >= LAST_WORDS)
        {
            live.ending = None;
            if self.window.under_way() > 0 {
                // Its output is closed: it can never answer.
                live.group.terminate();
            }
            self.deliver(std::mem::take(&mut live.held));
            return;
        }
        if self.window.under_way() == 0 {
            return;
        }
        let silence = live.progress.elapsed();
        if self.window.is_careful() && silence >= CAREFUL_WAIT {
            self.buffers = true;
        }
        if silence < self.spec.no_progress {
            return;
        }
        // From here on it is asked again after as long a time.
        live.progress = Instant::now();
        if !self.warned {
            self.warned = true;
            log::warn!(
                "the filter has answered nothing for {} s with {} of its tasks under way; if it keeps its answers in a \
                 buffer, make it write each line at once: sed -u, grep --line-buffered, awk with fflush(), or \
                 stdbuf -oL before the command",
                self.spec.no_progress.as_secs_f64(),
                self.window.under_way(),
            );
        }
        // Whoever has not even read what it was given is busy, and is left alone.
        if live.stdin.is_some() && live.has_read_all() {
            log::debug!("the input of the filter is closed, so that it answers");
            live.close();
        }
    }

    /// Reads answers and hands them on. Fails with a message if there is one too many, or one too long.
    fn read(&mut self, live: &mut Live<T::Token>, buffer: &mut [u8]) -> Result<(), String> {
        let mut answers = std::mem::take(&mut live.held);
        let (mut tasks, mut bytes) = (0, 0);
        let result = loop {
            let Some(stdout) = &live.stdout else {
                break Ok(());
            };
            let n = match rustix::io::read(stdout, &mut *buffer) {
                Ok(0) => {
                    live.stdout = None;
                    live.ending = Some(Instant::now());
                    break Ok(());
                }
                Ok(n) => n,
                Err(Errno::INTR) => continue,
                Err(_) => break Ok(()),
            };
            let Some(chunk) = live.complete_lines(&buffer[..n], terminator(self.spec.null)) else {
                if live.partial.len() > LONGEST_ANSWER {
                    break Err(format!(
                        "the filter has answered a line of more than {LONGEST_ANSWER} bytes; \
                         is its line end the right one (-0)?"
                    ));
                }
                continue;
            };
            let mut start = 0;
            let mut excess = false;
            for end in memchr::memchr_iter(terminator(self.spec.null), &chunk) {
                let Some((token, length)) = self.window.answer() else {
                    excess = true;
                    break;
                };
                answers.push((token, Outcome::Line(chunk.slice(start..end))));
                tasks += 1;
                bytes += length + 1;
                start = end + 1;
            }
            if excess {
                break Err(format!(
                    "the filter has answered more lines than it was given ({} tasks were under way); it must answer \
                     one line to each; answers before this one may belong to other tasks",
                    answers.len()
                ));
            }
            // When nothing is under way any more, a line too many would follow at once: it is looked for before
            // the answers are believed.
            if self.window.under_way() > 0 {
                break Ok(());
            }
        };
        self.intake.release(tasks, bytes);
        if let Err(note) = &result {
            if answers.is_empty() && self.window.under_way() == 0 {
                self.excess = Some(note.clone());
            }
            for (_, outcome) in &mut answers {
                *outcome = failed(1, 0, note.clone());
            }
        } else if !answers.is_empty() {
            live.progress = Instant::now();
            if live.closed && self.window.under_way() == 0 && live.stdout.is_some() {
                // The last answers: believed when the output ends with them.
                live.held = answers;
                live.ending.get_or_insert_with(Instant::now);
                return Ok(());
            }
        }
        self.deliver(answers);
        result
    }

    /// Takes leave of a process that has exited: its last answers, and what becomes of the tasks that it leaves.
    fn bury(&mut self, mut live: Live<T::Token>, buffer: &mut [u8], believed: bool) {
        let mut result = Ok(());
        while believed && live.stdout.is_some() && result.is_ok() {
            let before = self.window.under_way();
            result = self.read(&mut live, buffer);
            if self.window.under_way() == before {
                break;
            }
        }
        let closed = live.closed;
        let partial = std::mem::take(&mut live.partial);
        let held = std::mem::take(&mut live.held);
        let (id, has_read_all) = (live.group.id(), live.has_read_all());
        if !(believed && closed) {
            // Others of its group, which would go on writing.
            live.group.signal(Signal::KILL);
        }
        let (exit, signal) = match live.group.reap(self.slot) {
            Ok(status) => (status.code().unwrap_or(0), status.signal().unwrap_or(0)),
            Err(_) => (1, 0),
        };
        let ending = match (exit, signal) {
            (exit, 0) => format!("exit {exit}"),
            (_, signal) => format!("signal {signal}"),
        };
        log::debug!("filter {id} ended: {ending}");
        let is_clean = believed && closed && has_read_all && exit == 0 && signal == 0;
        let mut last = held;
        if result.is_ok() && is_clean && !partial.is_empty() {
            match self.window.answer() {
                Some((token, length)) => {
                    self.intake.release(1, length + 1);
                    last.push((token, Outcome::Line(partial.into())));
                }
                None => {
                    let note = "the filter has answered more lines than it was given; it must answer one line to each";
                    result = Err(note.to_owned());
                    if last.is_empty() {
                        self.excess = Some(note.to_owned());
                    }
                    for (_, outcome) in &mut last {
                        *outcome = failed(1, 0, note);
                    }
                }
            }
        }
        self.deliver(last);
        if let Err(note) = result {
            log::error!("{note}");
            return;
        }
        let left = self.window.under_way();
        if left == 0 {
            if !is_clean && believed {
                log::warn!(
                    "the filter has ended ({ending}); it is started again when there are tasks"
                );
            }
        } else if is_clean {
            let note = format!(
                "the filter has ended without an answer to {left} of its tasks; it must answer one line to each"
            );
            log::error!("{note}; answers before these may belong to other tasks");
            let unanswered = self.window.take_unanswered();
            self.fail(unanswered, &failed(1, 0, note));
        } else {
            log::warn!("the filter has died ({ending}); it is started again with {left} tasks");
            if let Some((token, length, deaths)) = self.window.died() {
                let note = format!("the filter died of this task ({ending}; tries: {deaths})");
                self.fail(vec![(token, length)], &failed(exit, signal, note));
            }
        }
    }

    /// The run was stopped: nobody waits for answers any more.
    fn end_now(mut self, live: Option<Live<T::Token>>) {
        if let Some(live) = live {
            live.group.terminate();
            // That it ended is known; how does not matter.
            let _ = live.group.reap(self.slot);
            self.deliver(live.held);
        }
        let _ = self.take_news();
        let all = self.window.take_all();
        self.fail(all, &stopped());
    }

    fn fail(&self, tasks: Vec<(T::Token, usize)>, outcome: &Outcome) {
        let bytes = tasks.iter().map(|(_, length)| length + 1).sum();
        self.intake.release(tasks.len(), bytes);
        self.deliver(
            tasks
                .into_iter()
                .map(|(token, _)| (token, outcome.clone()))
                .collect(),
        );
    }

    fn deliver(&self, answers: Answers<T::Token>) {
        if !answers.is_empty() {
            self.tasks.answer(answers);
        }
    }
}
