//! A queue's handle in one process: where its host is, and this process's membership, made on first use.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Once, OnceLock, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::hub::host::{Host, Orders, Settings, Summary, host_name, machine_id};
use crate::hub::intake::Intake;
use crate::hub::ledger::DEATHS_ALONE;
use crate::hub::member::{self, Member, Shared, Wait};
use crate::pipeline::{check_dial, check_reach, random_id};
use crate::wire::endpoint::{Endpoint, Transport};
use crate::wire::frame::{QueueInfo, RunId};
use crate::wire::runtime_dir::{self, RuntimeDir};
use crate::wire::wake::Waker;

/// How long the end of a process waits for what it has put to be accepted, and a queue's creator for others to take what is left.
pub(super) const LAST_CALL: Duration = Duration::from_secs(10);

/// What a handle is when it travels: no keys, only where to ask.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Ticket {
    pub(super) endpoint: String,
    pub(super) run: RunId,
    pub(super) joinable: bool,
    pub(super) maxsize: u64,
    /// The machine (this boot of it) on which an `ipc` endpoint is, and its name, for people.
    machine: String,
    host: String,
    insecure: bool,
    patience: Duration,
}

/// How a queue shall be.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) info: QueueInfo,
    pub(super) binds: Vec<String>,
    pub(super) insecure: bool,
    pub(super) patience: Duration,
    pub(super) heartbeat: Duration,
    pub(super) ports: Option<(u16, u16)>,
}

/// The process's end of a queue. All handles of one queue in one process share it.
pub(super) struct Inner {
    pub(super) ticket: Ticket,
    membership: OnceLock<Membership>,
    connecting: Mutex<()>,
    hosted: Mutex<Option<Hosted>>,
    /// The host is in this process.
    here: Option<Endpoint>,
    endpoints: Vec<Endpoint>,
    /// It could not be joined: a get says why at once.
    pub(super) failed: std::sync::atomic::AtomicBool,
    /// Another process may have a handle.
    lent: std::sync::atomic::AtomicBool,
}

struct Membership {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Hosted {
    orders: Arc<Orders>,
    waker: Waker,
    thread: JoinHandle<Result<Summary>>,
    name: String,
}

/// The queues of this process, by run. There are several of one where a program connects to a queue of its own.
static OPEN: Mutex<Option<HashMap<RunId, Vec<Weak<Inner>>>>> = Mutex::new(None);
/// Hosts whose last handle here is gone, while other processes may still use them.
static LINGERING: Mutex<Vec<Hosted>> = Mutex::new(Vec::new());

impl Inner {
    /// Makes a queue, hosted by this process.
    pub(super) fn create(plan: &Plan) -> Result<Arc<Self>> {
        runtime_dir::sweep();
        let run = random_id()?;
        let dir = RuntimeDir::create(&format!("q{run:016x}"))?;
        let here = Endpoint::Inproc(format!("{run:016x}-queue"));
        let private = Endpoint::Ipc(dir.path().join("queue"));
        let mut binds = vec![here.clone(), private];
        for text in &plan.binds {
            let endpoint: Endpoint = text.parse()?;
            check_reach(&endpoint, plan.insecure)?;
            binds.push(endpoint);
        }
        let waker = Waker::new().map_err(|error| Error::system("cannot make an eventfd", error))?;
        let orders = Arc::new(Orders::default());
        let settings = Settings {
            run,
            binds,
            heartbeat: plan.heartbeat,
            patience: plan.patience,
            ports: plan.ports,
            advertise: None,
            job: Vec::new(),
            title: "queue".to_owned(),
            tries: 1,
            deaths: DEATHS_ALONE,
            given_up: None,
            queue: Some(plan.info),
        };
        let intake = Intake::new(waker.clone());
        let (host, bound) = Host::bind(settings, dir, waker.clone(), intake, Arc::clone(&orders))?;
        let thread = std::thread::Builder::new()
            .name("queue-host".to_owned())
            .spawn(move || host.run())
            .map_err(|error| Error::system("cannot start a queue's thread", error))?;
        let told = bound.last().cloned().unwrap_or_else(|| here.clone());
        let endpoint = told.with_host_if_any(&host_name());
        let inner = Arc::new(Self {
            ticket: Ticket {
                endpoint: endpoint.to_string(),
                run,
                joinable: plan.info.joinable,
                maxsize: plan.info.maxsize,
                machine: machine_id(),
                host: host_name(),
                insecure: plan.insecure,
                patience: plan.patience,
            },
            membership: OnceLock::new(),
            connecting: Mutex::default(),
            hosted: Mutex::new(Some(Hosted {
                orders,
                waker,
                thread,
                name: endpoint.to_string(),
            })),
            here: Some(here),
            endpoints: bound.into_iter().skip(1).collect(),
            failed: false.into(),
            lent: (!plan.binds.is_empty()).into(),
        });
        remember(&inner);
        Ok(inner)
    }

    /// The process's end of a queue whose handle came from another process.
    pub(super) fn of_ticket(ticket: Ticket) -> Arc<Self> {
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(inner) = open
            .as_ref()
            .and_then(|open| open.get(&ticket.run))
            .and_then(|all| all.iter().find_map(Weak::upgrade))
        {
            return inner;
        }
        let inner = Arc::new(Self {
            endpoints: ticket.endpoint.parse().into_iter().collect(),
            ticket,
            membership: OnceLock::new(),
            connecting: Mutex::default(),
            hosted: Mutex::default(),
            here: None,
            failed: false.into(),
            lent: true.into(),
        });
        let table = open.get_or_insert_with(HashMap::new);
        let all = table.entry(inner.ticket.run).or_default();
        all.push(Arc::downgrade(&inner));
        drop(open);
        at_the_end();
        inner
    }

    /// Joins the queue at an endpoint.
    pub(super) fn connect(endpoint: &str, plan: &Plan) -> Result<Arc<Self>> {
        let endpoint: Endpoint = endpoint.parse()?;
        check_dial(&endpoint, plan.insecure)?;
        let (membership, info) = Membership::connect(&endpoint, 0, plan.patience, false)?;
        if info.joinable != plan.info.joinable {
            membership.leave(Instant::now());
            return Err(Error::BadHandle {
                endpoint: endpoint.to_string(),
                why: if info.joinable {
                    "a JoinableQueue is there; connect with JoinableQueue::connect"
                } else {
                    "it is no JoinableQueue; connect with Queue::connect"
                }
                .to_owned(),
            });
        }
        let inner = Arc::new(Self {
            ticket: Ticket {
                endpoint: endpoint.to_string(),
                run: membership.shared.run(),
                joinable: info.joinable,
                maxsize: info.maxsize,
                machine: machine_id(),
                host: host_name(),
                insecure: plan.insecure,
                patience: plan.patience,
            },
            membership: OnceLock::from(membership),
            connecting: Mutex::default(),
            hosted: Mutex::default(),
            here: None,
            endpoints: vec![endpoint],
            failed: false.into(),
            lent: true.into(),
        });
        remember(&inner);
        Ok(inner)
    }

    pub(super) fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    pub(super) fn lend(&self) -> &Ticket {
        self.lent.store(true, std::sync::atomic::Ordering::Release);
        &self.ticket
    }

    /// This process's membership; joins on first use.
    pub(super) fn member(&self) -> Result<&Arc<Shared>> {
        if let Some(membership) = self.membership.get() {
            return Ok(&membership.shared);
        }
        let _one = self
            .connecting
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(membership) = self.membership.get() {
            return Ok(&membership.shared);
        }
        let endpoint = match &self.here {
            Some(here) => here.clone(),
            None => self.ticket.endpoint.parse()?,
        };
        let elsewhere = self.here.is_none() && self.ticket.machine != machine_id();
        if elsewhere && endpoint.transport() != Transport::Tcp {
            return Err(Error::BadHandle {
                endpoint: endpoint.to_string(),
                why: format!(
                    "the queue is on {}, and its endpoint leads nowhere from {}; make it with bind(\"tcp://…\")",
                    self.ticket.host,
                    host_name()
                ),
            });
        }
        check_dial(&endpoint, self.ticket.insecure)?;
        if let Some(path) = endpoint.path()
            && !path.exists()
        {
            return Err(Error::HostGone {
                endpoint: endpoint.to_string(),
                why: "its process has ended".to_owned(),
            });
        }
        let (membership, _) =
            Membership::connect(&endpoint, self.ticket.run, self.ticket.patience, !elsewhere)?;
        Ok(&self.membership.get_or_init(|| membership).shared)
    }

    /// The membership, if there is one already.
    pub(super) fn joined(&self) -> Option<&Arc<Shared>> {
        self.membership.get().map(|membership| &membership.shared)
    }

    /// Hands over what was put, gives back what was not taken; how many items were not accepted.
    fn leave(&self, until: Instant) -> u64 {
        self.membership
            .get()
            .map_or(0, |membership| membership.leave(until))
    }
}

impl Membership {
    fn connect(
        endpoint: &Endpoint,
        run: RunId,
        patience: Duration,
        same_machine: bool,
    ) -> Result<(Self, QueueInfo)> {
        let (member, shared) = Member::connect(member::Settings {
            endpoint: endpoint.clone(),
            peer: random_id()?,
            run,
            patience,
            same_machine,
        })?;
        let info = shared.info().unwrap_or_default();
        let thread = std::thread::Builder::new()
            .name("queue".to_owned())
            .spawn(move || member.run())
            .map_err(|error| Error::system("cannot start a queue's thread", error))?;
        let thread = Mutex::new(Some(thread));
        Ok((Self { shared, thread }, info))
    }

    fn leave(&self, until: Instant) -> u64 {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(thread) = thread.take() else {
            return 0;
        };
        let lost = match self.shared.flush(Wait::Until(until)) {
            Ok(()) => 0,
            Err((lost, _)) => lost,
        };
        self.shared.leave();
        let _ = thread.join();
        lost
    }
}

impl Hosted {
    /// Lets others take what is here, until then.
    fn end(self, until: Instant) {
        self.orders.leave(until);
        self.waker.wake();
        match self.thread.join() {
            Ok(Ok(summary)) if summary.unfinished > 0 => say(&format!(
                "the queue at {} ends with its process, and {} items in it that nobody has taken are dropped",
                self.name, summary.unfinished
            )),
            Ok(Err(error)) => say(&error.to_string()),
            Ok(Ok(_)) | Err(_) => {}
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let lost = self.leave(Instant::now() + LAST_CALL);
        say_lost(&self.ticket.endpoint, lost);
        let hosted = self
            .hosted
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(hosted) = hosted {
            if *self.lent.get_mut() {
                let mut lingering = LINGERING.lock().unwrap_or_else(PoisonError::into_inner);
                lingering.push(hosted);
            } else {
                hosted.end(Instant::now());
            }
        }
        if let Some(open) = &mut *OPEN.lock().unwrap_or_else(PoisonError::into_inner)
            && let Some(all) = open.get_mut(&self.ticket.run)
        {
            all.retain(|inner| inner.strong_count() > 0);
            if all.is_empty() {
                open.remove(&self.ticket.run);
            }
        }
    }
}

fn remember(inner: &Arc<Inner>) {
    OPEN.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .get_or_insert_with(HashMap::new)
        .entry(inner.ticket.run)
        .or_default()
        .push(Arc::downgrade(inner));
    at_the_end();
}

/// When the program ends, all queues hand over what was put, and those made here end.
fn at_the_end() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| crate::at_exit::register(end_all));
}

fn end_all() {
    let until = Instant::now() + LAST_CALL;
    let open: Vec<Arc<Inner>> = OPEN
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .iter()
        .flat_map(HashMap::values)
        .flatten()
        .filter_map(Weak::upgrade)
        .collect();
    for inner in &open {
        say_lost(&inner.ticket.endpoint, inner.leave(until));
    }
    let mut hosts = std::mem::take(&mut *LINGERING.lock().unwrap_or_else(PoisonError::into_inner));
    for inner in &open {
        let mut hosted = inner.hosted.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.extend(hosted.take());
    }
    for hosted in hosts {
        hosted.end(until);
    }
}

fn say_lost(endpoint: &str, lost: u64) {
    if lost > 0 {
        say(&format!(
            "{lost} items that this process has put were not accepted by the queue at {endpoint} and are lost"
        ));
    }
}

/// Items that are lost are no secret: where nobody logs they are told on stderr.
fn say(text: &str) {
    if log::log_enabled!(log::Level::Warn) {
        log::warn!("{text}");
    } else {
        eprintln!("procession: {text}");
    }
}
