//! The queues of a host, by name: made when somebody asks for them, and forgotten when nobody has for long and nothing is in them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use super::{HostedQueue, Leftover};
use crate::engine::address::is_name;
use crate::error::{Error, Result};
use crate::hub::host::{Host, Orders, Settings, Summary, host_name};
use crate::hub::intake::Intake;
use crate::hub::ledger::DEATHS_ALONE;
use crate::hub::limits::Limits;
use crate::hub::outside::Instant;
use crate::journal::queues::{Past, Pen, QueueJournal};
use crate::pipeline::random_id;
use crate::wire::access::Listening;
use crate::wire::endpoint::{Endpoint, Transport};
use crate::wire::frame::{Find, QueueInfo, RunId, State, kind};
use crate::wire::runtime_dir::RuntimeDir;
use crate::wire::wake::Waker;

/// So many queues are named where somebody asks how things stand.
const SHOWN: usize = 20;

/// How each queue shall be.
pub(super) struct Plan {
    pub(super) heartbeat: Duration,
    pub(super) patience: Duration,
    pub(super) ports: Option<(u16, u16)>,
    pub(super) limits: Limits,
    pub(super) listening: Option<Arc<Listening>>,
    /// Where the host listens: its queues do so by the same ways.
    pub(super) binds: Vec<Endpoint>,
    pub(super) most: usize,
    pub(super) forget: Duration,
}

/// The queues by name.
pub(super) struct Directory {
    plan: Plan,
    life: RunId,
    queues: BTreeMap<String, Hosted>,
    // Behind the queues, which write into it to their end.
    journal: Option<QueueJournal>,
}

struct Hosted {
    info: QueueInfo,
    endpoints: Vec<Endpoint>,
    orders: Arc<Orders>,
    waker: Waker,
    thread: JoinHandle<Result<Summary>>,
    /// Since when nobody is there and nothing is in it.
    unused: Option<Instant>,
}

type Refusal = (String, bool);

impl Directory {
    pub(super) fn new(plan: Plan, life: RunId, journal: Option<QueueJournal>) -> Self {
        Self {
            plan,
            life,
            queues: BTreeMap::new(),
            journal,
        }
    }

    /// Whether queues outlive their host.
    pub(super) const fn is_lasting(&self) -> bool {
        self.journal.is_some()
    }

    /// A queue of this name is the same, however often it is forgotten and made anew, as long as the host lives or keeps a journal: a handle
    /// that is still on its way leads to it.
    fn run_of(&self, name: &str) -> RunId {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.life.to_le_bytes());
        hasher.update(name.as_bytes());
        let mut run = [0; 8];
        hasher.finalize_xof().fill(&mut run);
        // 0 stands for none.
        RunId::from_le_bytes(run).max(1)
    }

    /// Where the queue is that is asked for; or why there is none, and whether to ask again.
    pub(super) fn find(&mut self, find: &Find) -> Result<Vec<Endpoint>, Refusal> {
        if !is_name(&find.queue) {
            let why = "a queue's name has 1 to 128 letters, digits and - _ . :";
            return Err((why.to_owned(), false));
        }
        if find.run != 0 && find.run != self.run_of(&find.queue) {
            let why = format!(
                "its queue {} was at a host that has ended, and this one knows nothing of it (a host with --journal keeps its queues); open it again",
                find.queue
            );
            return Err((why, false));
        }
        // One that is just ending is made anew.
        self.bury(&find.queue);
        if let Some(there) = self.queues.get(&find.queue) {
            return Ok(there.endpoints.clone());
        }
        if self.queues.len() >= self.plan.most {
            let why = format!(
                "{} queues are there, and no more are made (--queues N, in a program: queues); take one that is there, or let some be forgotten",
                self.queues.len()
            );
            return Err((why, false));
        }
        let info = QueueInfo {
            maxsize: find.maxsize,
            joinable: find.joinable,
        };
        let waker = waker().map_err(refusal)?;
        let kept = match &mut self.journal {
            Some(journal) => {
                let pen = journal.pen_for_new(&find.queue, info, waker.clone());
                Some(pen.map_err(refusal)?)
            }
            None => None,
        };
        log::info!("makes queue {}", find.queue);
        self.make(&find.queue, info, waker, kept).map_err(refusal)
    }

    /// A queue that an earlier life of the host had.
    pub(super) fn resume(&mut self, kept: crate::journal::queues::Kept) -> Result<()> {
        let waker = waker()?;
        let Some(journal) = &self.journal else {
            return Ok(());
        };
        let pen = journal.pen(kept.id, waker.clone())?;
        self.make(&kept.name, kept.info, waker, Some((pen, kept.past)))
            .map(drop)
    }

    fn make(
        &mut self,
        name: &str,
        info: QueueInfo,
        waker: Waker,
        keeping: Option<(Pen, Past)>,
    ) -> Result<Vec<Endpoint>> {
        let plan = &self.plan;
        // Of this life: what is left of an earlier one is removed when it is removed.
        let dir = RuntimeDir::create(&format!("q{:016x}", random_id()?))?;
        let mut binds = Vec::new();
        for transport in [Transport::Ipc, Transport::Tcp] {
            let by_it = |bind: &&Endpoint| bind.transport() == transport;
            binds.extend(plan.binds.iter().find(by_it).map(|bind| match bind {
                Endpoint::Tcp { host, .. } => Endpoint::Tcp {
                    host: host.clone(),
                    port: 0,
                },
                _ => Endpoint::Ipc(dir.path().join("queue")),
            }));
        }
        let orders = Arc::new(Orders::default());
        let settings = Settings {
            run: self.run_of(name),
            binds,
            heartbeat: plan.heartbeat,
            patience: plan.patience,
            ports: plan.ports,
            advertise: None,
            job: Vec::new(),
            title: format!("queue {name}"),
            tries: 1,
            queue: Some(info),
            deaths: DEATHS_ALONE,
            given_up: None,
            listening: plan.listening.clone(),
            limits: plan.limits,
            journal: None,
            done_before: Default::default(),
            keeping,
            one_of_many: true,
        };
        let intake = Intake::new(waker.clone());
        let (host, endpoints) =
            Host::bind(settings, dir, waker.clone(), intake, Arc::clone(&orders))?;
        let thread = std::thread::Builder::new()
            .name("queue-host".to_owned())
            .spawn(move || host.run())
            .map_err(|error| Error::system("cannot start a queue's thread", error))?;
        let hosted = Hosted {
            info,
            endpoints: endpoints.clone(),
            orders,
            waker,
            thread,
            unused: None,
        };
        self.queues.insert(name.to_owned(), hosted);
        Ok(endpoints)
    }

    /// Removes a queue whose thread has ended; what it failed of.
    fn bury(&mut self, name: &str) -> Option<Error> {
        if !self.queues.get(name)?.thread.is_finished() {
            return None;
        }
        let ended = self.queues.remove(name)?.thread.join();
        ended.ok().and_then(Result::err)
    }

    /// Forgets queues that nobody uses, and notices those that failed.
    pub(super) fn look_after(&mut self, now: Instant) -> Result<()> {
        if let Some(error) = self.journal.as_ref().and_then(QueueJournal::take_error) {
            return Err(error);
        }
        let ended: Vec<String> = self
            .queues
            .iter()
            .filter(|(_, queue)| queue.thread.is_finished())
            .map(|(name, _)| name.clone())
            .collect();
        for name in ended {
            match self.bury(&name) {
                Some(error @ Error::Journal { .. }) => return Err(error),
                Some(error) => log::error!("queue {name}: {error}"),
                None => log::info!("forgets queue {name}: nobody uses it, and nothing is in it"),
            }
        }
        for queue in self.queues.values_mut() {
            let gauge = queue.orders.gauge();
            if gauge.members > 0 || gauge.unfinished > 0 {
                queue.unused = None;
            } else if now.duration_since(*queue.unused.get_or_insert(now)) >= self.plan.forget {
                queue.orders.forget();
                queue.waker.wake();
            }
        }
        Ok(())
    }

    pub(super) fn list(&self) -> Vec<HostedQueue> {
        self.queues
            .iter()
            .map(|(name, queue)| {
                let gauge = queue.orders.gauge();
                HostedQueue {
                    name: name.clone(),
                    joinable: queue.info.joinable,
                    maxsize: queue.info.maxsize,
                    members: gauge.members,
                    items: gauge.inside,
                    unfinished: gauge.unfinished,
                    shut_down: gauge.shut,
                }
            })
            .collect()
    }

    /// For who asks how things stand.
    pub(super) fn state(&self, age: Duration, turned_away: u64) -> State {
        let all = self.list();
        let mut shown: Vec<String> = all
            .iter()
            .take(SHOWN)
            .map(|queue| format!("{} ({} items)", queue.name, queue.items))
            .collect();
        if all.len() > SHOWN {
            shown.push("…".to_owned());
        }
        State {
            kind: kind::STATE,
            run: self.life,
            pid: std::process::id(),
            host: host_name(),
            title: format!("{} queues: {}", all.len(), shown.join(", ")),
            seconds: age.as_secs_f64(),
            waiting: all.iter().map(|queue| queue.items).sum(),
            turned_away,
            ..State::default()
        }
    }

    /// Ends all queues; what was left in them.
    pub(super) fn end(&mut self) -> Result<Leftover> {
        let mut left = Leftover {
            kept: self.is_lasting(),
            ..Leftover::default()
        };
        for queue in self.queues.values() {
            queue.orders.leave(Instant::now());
            queue.waker.wake();
        }
        let mut failed = None;
        for (name, queue) in std::mem::take(&mut self.queues) {
            match queue.thread.join() {
                Ok(Ok(summary)) => {
                    left.queues += usize::from(summary.unfinished > 0);
                    left.items += summary.unfinished;
                }
                Ok(Err(error)) => {
                    log::error!("queue {name}: {error}");
                    failed.get_or_insert(error);
                }
                Err(_) => log::error!("queue {name}: its thread panicked"),
            }
        }
        if let Some(journal) = self.journal.take()
            && let Some(error) = journal.take_error()
        {
            failed.get_or_insert(error);
        }
        failed.map_or(Ok(left), Err)
    }
}

fn waker() -> Result<Waker> {
    Waker::new().map_err(|error| Error::system("cannot make an eventfd", error))
}

/// Whoever asks again may find that there is room.
fn refusal(error: Error) -> Refusal {
    (format!("the queue cannot be made: {error}"), true)
}
