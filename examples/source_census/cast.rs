//! The processes: who is started, who is killed, and that nobody is left behind.

use std::io::{self, BufRead, BufReader, IsTerminal};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::tally::Census;
use crate::{Interrupt, Outcome};

/// What is to be started.
#[derive(Clone, Copy)]
pub struct Plan<'a> {
    /// For the endpoint.
    pub folder: &'a Path,
    /// The file whose lines are the tasks.
    pub tasks: &'a Path,
    /// How many tasks these are.
    pub files: usize,
    pub workers: usize,
    /// Of each worker.
    pub slots: usize,
    /// One worker dies when a tenth is done.
    pub kill: bool,
}

/// The processes of one run. Dropped before its end, it ends them.
pub struct Cast {
    ventilator: Child,
    workers: Vec<Child>,
    sink: Child,
    results: Option<BufReader<ChildStdout>>,
    since: Instant,
    interrupt: Interrupt,
    ended: bool,
}

/// Notes the signal that asks for the end; a second one does not wait for it.
pub fn listen(interrupt: &Interrupt) -> io::Result<()> {
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    let interrupt = Arc::clone(interrupt);
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            for signal in signals.forever() {
                interrupt.store(signal, Ordering::Relaxed);
            }
        })
        .map(drop)
}

/// Two folders above this example.
fn procession() -> Outcome<PathBuf> {
    let example = std::env::current_exe()?;
    let command = example
        .ancestors()
        .nth(2)
        .map(|folder| folder.join("procession"))
        .filter(|command| command.is_file());
    command
        .ok_or_else(|| "there is no procession beside this example; start it with make demo".into())
}

impl Cast {
    pub fn start(plan: &Plan, interrupt: &Interrupt) -> Outcome<Self> {
        let procession = procession()?;
        let endpoint = format!("ipc://{}", plan.folder.join("census").display());
        let role = |words: &[&str]| {
            let mut command = Command::new(&procession);
            // In a group of its own, so that Ctrl-C comes to us alone and the run ends in order.
            command.args(words).process_group(0).stdin(Stdio::null());
            command
        };
        let since = Instant::now();
        let mut sink = role(&["sink", "--connect", &endpoint])
            .stdout(Stdio::piped())
            .spawn()?;
        let results = sink.stdout.take().map(BufReader::new);
        // Some twenty names a task: to start a program for each file would take longer than to count it.
        let ventilator = role(&["ventilator", "--bar", "--bind", &endpoint])
            .args(["--pipe", "--block", "2K", "-a"])
            .arg(plan.tasks)
            .arg(std::env::current_exe()?)
            .arg("count")
            .spawn();
        let ventilator = match ventilator {
            Ok(ventilator) => ventilator,
            Err(error) => {
                let _ = sink.kill().and_then(|()| sink.wait());
                return Err(error.into());
            }
        };
        let mut cast = Self {
            ventilator,
            workers: Vec::new(),
            sink,
            results,
            since,
            interrupt: Arc::clone(interrupt),
            ended: false,
        };
        for _ in 0..plan.workers {
            let slots = format!("-j{}", plan.slots);
            let worker = role(&["worker", "--connect", &endpoint, &slots]).spawn()?;
            cast.workers.push(worker);
        }
        Ok(cast)
    }

    /// Reads what the sink prints until the poison pill has ended all; the counts, and how long it took.
    pub fn gather(mut self, plan: &Plan) -> Outcome<(Census, Duration)> {
        let mut census = Census::default();
        let mut killed = None;
        let results = self.results.take().ok_or("the sink has no output")?;
        for (done, line) in results.lines().enumerate() {
            census.add(line?.parse()?);
            if self.interrupt.load(Ordering::Relaxed) != 0 {
                return Err("stopped".into());
            }
            if plan.kill && killed.is_none() && done >= plan.files / 10 {
                let mut worker = self.workers.remove(0);
                let sent = worker.kill();
                killed = Some(worker.wait()?);
                sent?;
                say(&format!(
                    "killed a worker (process {}) with SIGKILL after {} files; the others do its work",
                    worker.id(),
                    done + 1
                ));
            }
        }
        let took = self.since.elapsed();
        self.ended = true;
        let ventilator = self.ventilator.wait()?;
        let sink = self.sink.wait()?;
        let mut statuses = vec![("ventilator", ventilator), ("sink", sink)];
        for worker in &mut self.workers {
            statuses.push(("worker", worker.wait()?));
        }
        if self.interrupt.load(Ordering::Relaxed) != 0 {
            return Err("stopped".into());
        }
        if let Some((who, status)) = statuses.iter().find(|(_, status)| !status.success()) {
            return Err(format!("the {who} failed: {status}").into());
        }
        say(&format!(
            "the poison pill has ended the ventilator, the sink and {} of {} workers",
            self.workers.len(),
            plan.workers
        ));
        Ok((census, took))
    }
}

impl Drop for Cast {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        // It hands out no more, lets what runs finish, and gives everyone the pill.
        let pid = Pid::from_child(&self.ventilator);
        let _ = kill_process(pid, Signal::TERM);
        drop(self.results.take());
        let patience = Instant::now() + Duration::from_secs(10);
        let all = [&mut self.ventilator, &mut self.sink];
        for process in all.into_iter().chain(&mut self.workers) {
            while matches!(process.try_wait(), Ok(None)) {
                if Instant::now() > patience {
                    let _ = process.kill();
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

/// A line on stderr, in the place of the progress bar where there is one.
fn say(text: &str) {
    let clear = if io::stderr().is_terminal() {
        "\r\x1b[K"
    } else {
        ""
    };
    eprintln!("{clear}   {text}");
}
