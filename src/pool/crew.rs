//! The worker processes of a pool on this host: started, and replaced when they end.
//!
//! Each place has a thread that starts a process, waits for its end, and starts the next. When processes end before they are
//! ready for tasks several times in a row, the crew gives up and says why.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::AFTER_THE_PILL;
use super::child::{ChildEnd, Orders, pool_worker};
use crate::error::{Error, Result};
use crate::hub::host::host_name;
use crate::process::{Process, ProcessEnd};
use crate::wire::runtime_dir::RuntimeDir;

/// An initializer that has failed so often in a row fails always.
const FAILURES: u32 = 3;
/// Processes that were killed before they were ready: it may have been for reasons of others, so there are more tries.
const EARLY_DEATHS: u32 = 10;
/// A process that ended sooner than this was no success: the next one waits a little, and longer each time.
const BRIEF: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// The ends of so many processes are remembered.
const REMEMBERED: usize = 256;
/// How long to wait for the word of how a process ended whose connection has just been closed.
const UNTIL_REAPED: Duration = Duration::from_secs(1);

/// What a crew needs to know.
pub(super) struct Settings {
    pub(super) workers: u32,
    pub(super) name: String,
    /// [`Orders::ready`] is filled in for each process.
    pub(super) orders: Orders,
    /// Called when the crew gives up.
    pub(super) on_give_up: Box<dyn Fn(&str) + Send + Sync>,
}

pub(super) struct Crew {
    shared: Arc<Shared>,
    places: Mutex<Vec<JoinHandle<()>>>,
}

struct Shared {
    settings: Settings,
    dir: RuntimeDir,
    started: AtomicU64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// No more processes are started.
    stopping: bool,
    alive: Vec<Arc<Process<ChildEnd>>>,
    /// How those ended that did, the last ones.
    ends: VecDeque<(u32, String)>,
    /// Ends before being ready, since one was.
    failures: u32,
    early_deaths: u32,
    gave_up: Option<String>,
    /// Processes that live or are being started.
    open: u32,
    /// Since when it is known that the pool has ended.
    pill: Option<Instant>,
}

impl Crew {
    /// Starts all processes; does not wait until they are ready.
    pub(super) fn start(settings: Settings) -> Result<Self> {
        let dir = RuntimeDir::create(&format!("c{:016x}", crate::pipeline::random_id()?))?;
        let workers = settings.workers;
        let shared = Arc::new(Shared {
            settings,
            dir,
            started: AtomicU64::new(0),
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let crew = Self {
            shared,
            places: Mutex::default(),
        };
        for _ in 0..workers {
            // Dropped half-way, the crew ends those that were started.
            let (process, ready) = crew.shared.spawn()?;
            crew.shared.state().open += 1;
            let shared = Arc::clone(&crew.shared);
            let place = std::thread::Builder::new()
                .name("pool-place".to_owned())
                .spawn(move || shared.keep(process, ready))
                .map_err(|error| Error::system("cannot start a thread of the pool", error))?;
            crew.places().push(place);
        }
        Ok(crew)
    }

    fn places(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Processes that live now.
    pub(super) fn pids(&self) -> Vec<u32> {
        self.shared
            .state()
            .alive
            .iter()
            .map(|process| process.pid())
            .collect()
    }

    /// What a process of this crew died of; waits a moment for that word if need be. `None` for one of somebody else's.
    pub(super) fn how_it_died(&self, pid: u32, host: &str) -> Option<String> {
        if host != host_name() {
            return None;
        }
        let deadline = Instant::now() + UNTIL_REAPED;
        let mut state = self.shared.state();
        loop {
            let ended = state.ends.iter().rev().find(|(ended, _)| *ended == pid);
            if let Some((_, how)) = ended {
                return Some(how.clone());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || !state.alive.iter().any(|process| process.pid() == pid) {
                return None;
            }
            state = self
                .shared
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Nobody is replaced any more.
    pub(super) fn stop_replacing(&self) {
        self.shared.state().stopping = true;
        self.shared.changed.notify_all();
    }

    /// Waits until every process has ended; after `patience`, or a while after the first has had its pill, they are killed.
    pub(super) fn join(&self, patience: Option<Duration>) {
        let deadline = patience.and_then(|patience| Instant::now().checked_add(patience));
        let mut state = self.shared.state();
        while state.open > 0 {
            let end = deadline.or(state.pill.map(|since| since + AFTER_THE_PILL));
            state = match end {
                None => self
                    .shared
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        break;
                    }
                    self.shared
                        .changed
                        .wait_timeout(state, left)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
            };
        }
        if state.open > 0 {
            state.stopping = true;
            kill_all(&state);
        }
        drop(state);
        for place in std::mem::take(&mut *self.places()) {
            if place.join().is_err() {
                log::error!("a thread of the pool panicked");
            }
        }
    }

    /// Kills every process, and waits for that.
    pub(super) fn kill(&self) {
        {
            let mut state = self.shared.state();
            state.stopping = true;
            kill_all(&state);
        }
        self.shared.changed.notify_all();
        self.join(None);
    }

    /// Why it gave up.
    pub(super) fn gave_up(&self) -> Option<String> {
        self.shared.state().gave_up.clone()
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.kill();
    }
}

fn kill_all(state: &State) {
    for process in &state.alive {
        if let Err(error) = process.kill() {
            log::warn!("{error}");
        }
    }
}

/// What a place does after a process has ended.
enum Next {
    Replace,
    /// The next one may fare no better.
    ReplaceLater,
    Stop,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spawn(&self) -> Result<(Arc<Process<ChildEnd>>, PathBuf)> {
        let number = self.started.fetch_add(1, Ordering::Relaxed) + 1;
        let ready = self.dir.path().join(number.to_string());
        let orders = Orders {
            ready: ready.clone(),
            ..self.settings.orders.clone()
        };
        let process = Process::builder()
            .name(format!("{}-{number}", self.settings.name))
            .daemon(true)
            .spawn(pool_worker, (orders,))?;
        let process = Arc::new(process);
        let mut state = self.state();
        state.alive.push(Arc::clone(&process));
        if state.stopping {
            kill_all(&state);
        }
        Ok((process, ready))
    }

    /// One place: its process, and those that replace it.
    fn keep(&self, mut process: Arc<Process<ChildEnd>>, mut ready: PathBuf) {
        let mut pause = Duration::ZERO;
        loop {
            let since = Instant::now();
            let outcome = process.join();
            let was_ready = std::fs::remove_file(&ready).is_ok();
            match self.ended(&process, outcome, was_ready) {
                Next::Stop => break,
                Next::Replace if since.elapsed() > BRIEF => pause = Duration::ZERO,
                Next::Replace => {}
                Next::ReplaceLater if pause.is_zero() && was_ready => pause = PAUSE / 10,
                Next::ReplaceLater => pause = (pause * 2).clamp(PAUSE, LONGEST_PAUSE),
            }
            if !self.pause(pause) {
                break;
            }
            match self.spawn() {
                Ok((next, its_ready)) => (process, ready) = (next, its_ready),
                Err(error) => {
                    self.give_up(format!("a worker cannot be replaced: {error}"));
                    break;
                }
            }
        }
        self.state().open -= 1;
        self.changed.notify_all();
    }

    /// Waits a little; whether another process shall be started.
    fn pause(&self, time: Duration) -> bool {
        let deadline = Instant::now() + time;
        let mut state = self.state();
        loop {
            if state.stopping {
                return false;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            state = self
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    fn ended(
        &self,
        process: &Process<ChildEnd>,
        outcome: Result<ChildEnd>,
        was_ready: bool,
    ) -> Next {
        let how = match &outcome {
            Ok(_) => "ended".to_owned(),
            Err(error) => how(error),
        };
        let mut state = self.state();
        let pid = process.pid();
        state.alive.retain(|alive| alive.pid() != pid);
        if state.ends.len() >= REMEMBERED {
            state.ends.pop_front();
        }
        state.ends.push_back((pid, how.clone()));
        if was_ready {
            state.failures = 0;
            state.early_deaths = 0;
        }
        let stopping = state.stopping;
        let next = match outcome {
            _ if stopping => Next::Stop,
            Ok(ChildEnd::Pill) => {
                // Whoever was just on the way may find nobody any more.
                state.stopping = true;
                state.pill.get_or_insert_with(Instant::now);
                Next::Stop
            }
            Ok(ChildEnd::Retired) => Next::Replace,
            Ok(ChildEnd::Initializer(why)) => {
                state.failures += 1;
                let failures = state.failures;
                drop(state);
                self.next_or_give_up(
                    failures >= FAILURES,
                    format!("{why}; it failed {failures} times in a row"),
                )
            }
            Ok(ChildEnd::Lost(why)) => {
                drop(state);
                self.next_or_give_up(true, why)
            }
            Err(error) => {
                if was_ready {
                    log::info!("{error}; it is replaced");
                    Next::ReplaceLater
                } else {
                    state.early_deaths += 1;
                    let deaths = state.early_deaths;
                    drop(state);
                    let initializer = match &self.settings.orders.initializer {
                        Some((name, _)) => format!(" (in initializer {name}, if it came so far)"),
                        None => String::new(),
                    };
                    self.next_or_give_up(
                        deaths >= EARLY_DEATHS,
                        format!(
                            "{error}, before it was ready for tasks{initializer}; so did the {} before it",
                            deaths - 1
                        ),
                    )
                }
            }
        };
        self.changed.notify_all();
        next
    }

    fn next_or_give_up(&self, give_up: bool, why: String) -> Next {
        if give_up {
            self.give_up(why);
            Next::Stop
        } else {
            log::warn!("{why}");
            Next::ReplaceLater
        }
    }

    fn give_up(&self, why: String) {
        {
            let mut state = self.state();
            state.stopping = true;
            if state.gave_up.is_some() {
                return;
            }
            state.gave_up = Some(why.clone());
            kill_all(&state);
        }
        self.changed.notify_all();
        log::error!("{why}");
        (self.settings.on_give_up)(&why);
    }
}

/// What a process ended of, to stand behind «worker process N».
fn how(error: &Error) -> String {
    match error {
        Error::Process {
            end: ProcessEnd::Exited(code),
            ..
        } => format!("exited with code {code}"),
        Error::Process {
            end: ProcessEnd::Killed { signal, .. },
            ..
        } => match rustix::process::Signal::from_named_raw(*signal) {
            Some(name) => format!("was killed by signal {signal} ({name:?})"),
            None => format!("was killed by signal {signal}"),
        },
        Error::Process { end, .. } => end.to_string(),
        other => other.to_string(),
    }
}
