//! The worker processes of a pool on this host: started, and replaced when they end.
//!
//! Each place has a thread that starts a process, waits for its end, and starts the next. While none is ready and processes end
//! before they are so several times in a row, or cannot be started for a long time, the crew gives up and says why.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit};

use super::child::{ChildEnd, Orders, pool_worker};
use super::living::Living;
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
/// Workers that have had their pill have so long to end.
pub(super) const AFTER_THE_PILL: Duration = Duration::from_secs(5);
/// The ends of so many processes are remembered.
const REMEMBERED: usize = 256;
/// How long to wait for the word of how a process ended whose connection has just been closed.
const UNTIL_REAPED: Duration = Duration::from_secs(1);

/// What a worker costs here, in descriptors: two for its process, the others for its lane and its connections.
const DESCRIPTORS: u64 = 10;
/// So many are left for whatever else this program does.
const SPARE: u64 = 16;

/// Whether there are descriptors for so many workers more: one that is started with the last ones could not connect.
fn check_descriptors(workers: u64) -> std::io::Result<()> {
    let Some(limit) = getrlimit(Resource::Nofile).current else {
        return Ok(());
    };
    let open = match std::fs::read_dir("/proc/self/fd") {
        Ok(open) => open.count() as u64,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    match open + workers * DESCRIPTORS + SPARE > limit {
        true => Err(rustix::io::Errno::MFILE.into()),
        false => Ok(()),
    }
}

/// What a crew needs to know.
pub(super) struct Settings {
    pub(super) workers: u32,
    pub(super) name: String,
    /// [`Orders::came`] is filled in for each process.
    pub(super) orders: Orders,
    /// How long to try again when no process can be started and none is there.
    pub(super) start_patience: Duration,
    /// The pool is this process's own: it is there as long as this process, whatever a worker says that cannot find it.
    pub(super) of_pool: bool,
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

/// A worker process.
#[derive(Clone)]
struct Member {
    process: Arc<Process<ChildEnd>>,
    /// The file in which it says how far it came.
    came: PathBuf,
}

impl Member {
    fn stage(&self) -> Stage {
        match std::fs::metadata(&self.came) {
            Ok(found) if found.len() > 0 => Stage::Joined,
            Ok(_) => Stage::Initialized,
            Err(_) => Stage::Started,
        }
    }
}

/// How far a process came.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Started,
    Initialized,
    /// It is ready for tasks.
    Joined,
}

#[derive(Default)]
struct State {
    /// No more processes are started.
    stopping: bool,
    alive: Vec<Member>,
    /// Since when there is no process, or none that is ready, as far as somebody has looked.
    nobody_since: Option<Instant>,
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
        check_descriptors(workers.into()).map_err(|source| Error::Start {
            name: format!("{}-1 (of {workers})", crew.shared.settings.name),
            source,
        })?;
        for _ in 0..workers {
            // Dropped half-way, the crew ends those that were started.
            let member = crew.shared.spawn()?;
            crew.shared.state().open += 1;
            let shared = Arc::clone(&crew.shared);
            let place = std::thread::Builder::new()
                .name("pool-place".to_owned())
                .spawn(move || shared.keep(member))
                .map_err(|error| {
                    // Nobody watches it: who waits for the end of all must not wait for this one. Dropped, a daemon is ended.
                    crew.shared.state().open -= 1;
                    Error::system("cannot start a thread of the pool", error)
                })?;
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
            .map(|member| member.process.pid())
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
            if left.is_zero() || !state.alive.iter().any(|member| member.process.pid() == pid) {
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

impl Living for Crew {
    fn end(&self) {
        self.kill();
        self.shared.dir.remove();
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.kill();
    }
}

fn kill_all(state: &State) {
    for member in &state.alive {
        if let Err(error) = member.process.kill() {
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

impl State {
    /// Whether one of those that live came so far.
    fn is_somebody(&self, stage: Stage) -> bool {
        self.alive.iter().any(|member| member.stage() >= stage)
    }

    /// How long it is known that nobody is there.
    fn alone_for(&mut self, somebody: bool) -> Duration {
        if somebody {
            self.nobody_since = None;
            return Duration::ZERO;
        }
        let since = self.nobody_since.get_or_insert_with(Instant::now);
        since.elapsed()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spawn(&self) -> Result<Member> {
        let number = self.started.fetch_add(1, Ordering::Relaxed) + 1;
        let came = self.dir.path().join(number.to_string());
        let orders = Orders {
            came: came.clone(),
            ..self.settings.orders.clone()
        };
        let process = Process::builder()
            .name(format!("{}-{number}", self.settings.name))
            .daemon(true)
            .spawn(pool_worker, (orders,))?;
        let member = Member {
            process: Arc::new(process),
            came,
        };
        let mut state = self.state();
        state.alive.push(member.clone());
        if state.stopping {
            kill_all(&state);
        }
        Ok(member)
    }

    /// Whether there is room for one worker more, beside those that have not joined yet.
    fn check_room(&self) -> Result<()> {
        let joining = {
            let state = self.state();
            let joining = |member: &&Member| member.stage() < Stage::Joined;
            state.alive.iter().filter(joining).count() as u64
        };
        check_descriptors(joining + 1).map_err(|source| Error::Start {
            name: self.settings.name.clone(),
            source,
        })
    }

    /// The next process of a place, tried for again and again: what has run out may be there again in a moment. `None` when the crew
    /// ends or gives up.
    fn spawn_patiently(&self) -> Option<Member> {
        let mut pause = Duration::ZERO;
        loop {
            let error = match self.check_room().and_then(|()| self.spawn()) {
                Ok(member) => return Some(member),
                Err(error) => error,
            };
            let patience = self.settings.start_patience;
            let waited = {
                let mut state = self.state();
                let somebody = !state.alive.is_empty();
                state.alone_for(somebody)
            };
            if waited >= patience {
                self.give_up(format!(
                    "there is no worker, and none could be started for {} s: {error}",
                    patience.as_secs_f64()
                ));
                return None;
            }
            if pause.is_zero() {
                log::warn!("a worker cannot be replaced now, and it is tried again: {error}");
            }
            pause = (pause * 2).clamp(PAUSE, LONGEST_PAUSE);
            if !self.pause(pause.min(patience.saturating_sub(waited))) {
                return None;
            }
        }
    }

    /// One place: its process, and those that replace it.
    fn keep(&self, mut member: Member) {
        let mut pause = Duration::ZERO;
        loop {
            let since = Instant::now();
            let outcome = member.process.join();
            let stage = member.stage();
            let _ = std::fs::remove_file(&member.came);
            let was_ready = stage == Stage::Joined;
            match self.ended(&member.process, outcome, stage) {
                Next::Stop => break,
                Next::Replace if since.elapsed() > BRIEF => pause = Duration::ZERO,
                Next::Replace => {}
                Next::ReplaceLater if pause.is_zero() && was_ready => pause = PAUSE / 10,
                Next::ReplaceLater => pause = (pause * 2).clamp(PAUSE, LONGEST_PAUSE),
            }
            if !self.pause(pause) {
                break;
            }
            match self.spawn_patiently() {
                Some(next) => member = next,
                None => break,
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

    fn ended(&self, process: &Process<ChildEnd>, outcome: Result<ChildEnd>, stage: Stage) -> Next {
        let how = match &outcome {
            Ok(_) => "ended".to_owned(),
            Err(error) => how(error),
        };
        let mut state = self.state();
        let pid = process.pid();
        state.alive.retain(|member| member.process.pid() != pid);
        if state.ends.len() >= REMEMBERED {
            state.ends.pop_front();
        }
        state.ends.push_back((pid, how.clone()));
        if stage >= Stage::Initialized {
            state.failures = 0;
        }
        if stage == Stage::Joined {
            state.early_deaths = 0;
            state.nobody_since = None;
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
                let give_up = failures >= FAILURES && !state.is_somebody(Stage::Initialized);
                drop(state);
                self.next_or_give_up(
                    give_up,
                    format!("{why}; it failed {failures} times in a row"),
                )
            }
            Ok(ChildEnd::Lost(why)) => {
                // Our own pool had no descriptors left for it, say.
                let somebody = state.is_somebody(Stage::Joined);
                let waited = state.alone_for(somebody);
                let give_up = !self.settings.of_pool || waited >= self.settings.start_patience;
                drop(state);
                self.next_or_give_up(give_up, why)
            }
            Err(error) => {
                if stage == Stage::Joined {
                    log::info!("{error}; it is replaced");
                    Next::ReplaceLater
                } else {
                    state.early_deaths += 1;
                    let deaths = state.early_deaths;
                    let give_up = deaths >= EARLY_DEATHS && !state.is_somebody(Stage::Joined);
                    drop(state);
                    let initializer = match &self.settings.orders.initializer {
                        Some((name, _)) => format!(" (in initializer {name}, if it came so far)"),
                        None => String::new(),
                    };
                    self.next_or_give_up(
                        give_up,
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
