//! `--chaos`: faults are rehearsed on our own workers, and a ledger says what became of the tasks.
//!
//! The workers are processes of their own, `procession worker --rehearse`, each with one slot. A worker decides itself when a fault is
//! due ([`rehearsal`]), as it knows its tasks. The [`Crew`] starts it, stops it when it asks for that, and replaces it when it is
//! killed. The socket between the two is the worker's standard input: it ends when either does.

mod faults;
mod meeting;
mod rehearsal;

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

pub use faults::{Fault, Faults};
pub use meeting::{Ledger, Meeting};
pub use rehearsal::Rehearsal;

/// More processes than this are started for nobody.
pub const MOST_WORKERS: u32 = 64;
/// Who dies before it has joined may do so again.
const PAUSE: Duration = Duration::from_millis(100);
/// So many deaths in a row before joining are no accident.
const EARLY_DEATHS: u32 = 10;
/// How long workers have at the end of a run, and how often it is looked whether they have ended.
const GRACE: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(5);

/// What was done to the workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Workers that were killed.
    pub kills: u64,
    /// … stopped for a while.
    pub stops: u64,
    /// … cut off.
    pub cuts: u64,
    /// Workers that died without our doing.
    pub deaths: u64,
}

impl std::fmt::Display for Done {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            kills,
            stops,
            cuts,
            deaths,
        } = self;
        write!(f, "{kills} kills, {stops} stops, {cuts} cuts")?;
        match deaths {
            0 => Ok(()),
            deaths => write!(f, ", {deaths} deaths of other causes"),
        }
    }
}

/// Worker processes whose faults are rehearsed.
pub struct Crew {
    shared: Arc<Shared>,
    places: Vec<JoinHandle<()>>,
}

/// What ends a crew from elsewhere.
#[derive(Clone)]
pub struct CrewHandle(Arc<Shared>);

struct Shared {
    words: Vec<OsString>,
    kills: AtomicU64,
    stops: AtomicU64,
    cuts: AtomicU64,
    deaths: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Nobody is replaced any more.
    ending: bool,
    alive: Vec<Pid>,
    /// Those of them that have come to the run.
    joined: Vec<Pid>,
    /// A worker has ended with an error.
    failed: bool,
}

impl Crew {
    /// Starts so many workers; `words` are the options of `procession worker` that they get besides.
    ///
    /// # Errors
    /// When the first one cannot be started.
    pub fn start(workers: u32, faults: Faults, mut words: Vec<OsString>) -> io::Result<Self> {
        words.splice(
            0..0,
            ["worker", "-j1", "--rehearse"]
                .map(OsString::from)
                .into_iter()
                .chain([faults.to_string().into()]),
        );
        let shared = Arc::new(Shared {
            words,
            kills: AtomicU64::new(0),
            stops: AtomicU64::new(0),
            cuts: AtomicU64::new(0),
            deaths: AtomicU64::new(0),
            state: Mutex::default(),
        });
        let mut places = Vec::new();
        for number in 0..workers.clamp(1, MOST_WORKERS) {
            let first = match shared.spawn() {
                Ok(first) => first,
                Err(error) if number == 0 => return Err(error),
                Err(error) => {
                    log::warn!("cannot start more than {number} workers: {error}");
                    break;
                }
            };
            let keeper = Arc::clone(&shared);
            places.push(
                std::thread::Builder::new()
                    .name("crew".to_owned())
                    .spawn(move || keeper.keep(first))?,
            );
        }
        Ok(Self { shared, places })
    }

    /// For other threads.
    pub fn handle(&self) -> CrewHandle {
        CrewHandle(Arc::clone(&self.shared))
    }

    /// The run is over: who knows that ends by itself; who is stopped, or has only just come, is ended.
    pub fn finish(self) {
        let deadline = Instant::now() + GRACE;
        {
            let mut state = self.shared.state();
            state.ending = true;
            state.kill_strangers();
        }
        while Instant::now() < deadline && !self.shared.state().alive.is_empty() {
            std::thread::sleep(LOOK);
        }
        self.handle().end(Signal::KILL);
        self.join();
    }

    /// Waits until all workers have ended; whether each did so as it should.
    pub fn join(self) -> bool {
        for place in self.places {
            if place.join().is_err() {
                log::error!("a thread of the crew panicked");
            }
        }
        !self.shared.state().failed
    }
}

/// A seed for those who gave none.
pub fn random_seed() -> u64 {
    // Short enough to be typed again.
    getrandom::u32().unwrap_or(1).into()
}

impl CrewHandle {
    /// Nobody is replaced any more; all get this signal.
    pub fn end(&self, signal: Signal) {
        let mut state = self.0.state();
        state.ending = true;
        for pid in &state.alive {
            // Those that are stopped hear it when they go on; a kill at once.
            let _ = kill_process(*pid, signal);
        }
    }

    /// What was done so far.
    pub fn done(&self) -> Done {
        let count = |number: &AtomicU64| number.load(Ordering::Relaxed);
        Done {
            kills: count(&self.0.kills),
            stops: count(&self.0.stops),
            cuts: count(&self.0.cuts),
            deaths: count(&self.0.deaths),
        }
    }
}

impl State {
    /// Kills those who have not come to the run.
    fn kill_strangers(&self) {
        for stranger in self.alive.iter().filter(|pid| !self.joined.contains(pid)) {
            let _ = kill_process(*stranger, Signal::KILL);
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spawn(&self) -> io::Result<(Child, UnixStream)> {
        let (ours, theirs) = UnixStream::pair()?;
        let mut state = self.state();
        let child = Command::new(Path::new("/proc/self/exe"))
            .arg0("procession")
            .args(&self.words)
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            // Ctrl-C on a terminal is for us, who tell them what to do.
            .process_group(0)
            .spawn()?;
        state.alive.push(Pid::from_child(&child));
        Ok((child, ours))
    }

    /// One place: its worker, and those that replace it.
    fn keep(&self, mut member: (Child, UnixStream)) {
        let mut early = 0;
        loop {
            let (mut child, socket) = member;
            let pid = Pid::from_child(&child);
            let (joined, announced) = self.listen(pid, socket);
            let status = child.wait();
            let mut state = self.state();
            state.alive.retain(|alive| *alive != pid);
            state.joined.retain(|alive| *alive != pid);
            let killed = matches!(&status, Ok(status) if status.signal().is_some());
            if killed && !announced && !state.ending {
                self.deaths.fetch_add(1, Ordering::Relaxed);
            }
            early = if joined { 0 } else { early + 1 };
            if !killed {
                let ended_well = matches!(&status, Ok(status) if status.success());
                state.failed |= !ended_well && !state.ending;
                // The run is over: who has not come to it yet will find nobody.
                state.ending = true;
                state.kill_strangers();
            }
            if state.ending {
                return;
            }
            if early >= EARLY_DEATHS {
                log::error!(
                    "{early} workers in a row were killed before they joined: there will be no more"
                );
                state.failed = true;
                return;
            }
            drop(state);
            if early > 0 {
                std::thread::sleep(PAUSE);
            }
            member = match self.spawn() {
                Ok(next) => next,
                Err(error) => {
                    log::error!("a worker cannot be replaced: {error}");
                    self.state().failed = true;
                    return;
                }
            };
            if self.state().ending {
                let _ = member.0.kill();
            }
        }
    }

    /// Does what a worker asks for until it ends; whether it had joined, and whether its end was announced.
    fn listen(&self, pid: Pid, socket: UnixStream) -> (bool, bool) {
        let (mut joined, mut announced) = (false, false);
        for line in BufReader::new(socket).lines() {
            let Ok(line) = line else { break };
            match line.split_once(' ').unwrap_or((&line, "")) {
                ("joined", _) => {
                    joined = true;
                    self.state().joined.push(pid);
                }
                ("kill", _) => {
                    announced = true;
                    self.kills.fetch_add(1, Ordering::Relaxed);
                }
                ("cut", _) => {
                    self.cuts.fetch_add(1, Ordering::Relaxed);
                }
                ("stop", millis) => {
                    // It is not reaped before this thread does that: the number is its own.
                    let _ = kill_process(pid, Signal::STOP);
                    self.stops.fetch_add(1, Ordering::Relaxed);
                    let until = Instant::now() + Duration::from_millis(millis.parse().unwrap_or(0));
                    while Instant::now() < until && !self.state().ending {
                        std::thread::sleep(LOOK);
                    }
                    let _ = kill_process(pid, Signal::CONT);
                }
                _ => {}
            }
        }
        (joined, announced)
    }
}
