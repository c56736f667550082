//! A queue's handle in one process: where its host is, and this process's membership, made on first use.

use crate::hub::outside::Instant;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::hosting::{Hosted, LAST_CALL, at_the_end, say};
use super::joining::{Joining, Way};
use super::place::Place;
use crate::engine::Address;
use crate::error::{Error, Result};
use crate::hub::host::{Host, Orders, Settings, host_name, machine_id};
use crate::hub::intake::Intake;
use crate::hub::ledger::DEATHS_ALONE;
use crate::hub::limits::Limits;
use crate::hub::member::{self, Shared, Wait, served};
use crate::keys::Keys;
use crate::pipeline::random_id;
use crate::wait::Subscribers;
use crate::wire::access::Means;
use crate::wire::endpoint::{Endpoint, Transport};
use crate::wire::frame::{QueueInfo, RunId};
use crate::wire::runtime_dir::{self, RuntimeDir};
use crate::wire::wake::Waker;

/// What a handle is when it travels: no keys, only where to ask.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Ticket {
    /// As it is shown: without a password.
    pub(super) endpoint: String,
    /// The whole URL of a queue that is on a server; else nothing.
    server: String,
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
    pub(super) keys: Option<Keys>,
    pub(super) limits: Limits,
    pub(super) patience: Duration,
    pub(super) heartbeat: Duration,
    pub(super) ports: Option<(u16, u16)>,
}

impl Plan {
    fn means(&self) -> Means {
        Means {
            insecure: self.insecure,
            keys: self.keys.clone(),
            ..Means::default()
        }
    }
}

/// The process's end of a queue. All handles of one queue in one process share it.
pub(super) struct Inner {
    pub(super) ticket: Ticket,
    joining: Arc<Joining>,
    hosted: Mutex<Option<Hosted>>,
    /// The host is in this process.
    here: Option<Endpoint>,
    endpoints: Vec<Endpoint>,
    /// Another process may have a handle.
    lent: std::sync::atomic::AtomicBool,
}

/// The queues of this process, by run. There are several of one where a program connects to a queue of its own.
static OPEN: Mutex<Option<HashMap<RunId, Vec<Weak<Inner>>>>> = Mutex::new(None);
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
            binds.push(endpoint);
        }
        let listening = plan.means().to_listen(&binds)?.map(Arc::new);
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
            journal: None,
            done_before: Default::default(),
            keeping: None,
            one_of_many: false,
            queue: Some(plan.info),
            listening,
            limits: plan.limits,
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
                server: String::new(),
                run,
                joinable: plan.info.joinable,
                maxsize: plan.info.maxsize,
                machine: machine_id(),
                host: host_name(),
                insecure: plan.insecure,
                patience: plan.patience,
            },
            joining: Arc::default(),
            hosted: Mutex::new(Some(Hosted {
                orders,
                waker,
                thread,
                name: endpoint.to_string(),
            })),
            here: Some(here),
            endpoints: bound.into_iter().skip(1).collect(),
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
            .and_then(|all| {
                let mut all = all.iter().filter_map(Weak::upgrade);
                // A server may be there again that was given up.
                all.find(|inner| ticket.server.is_empty() || !inner.is_gone())
            })
        {
            return inner;
        }
        let inner = Arc::new(Self {
            endpoints: match ticket.server.is_empty() {
                true => (ticket.endpoint.parse().into_iter())
                    .map(|place: Place| place.endpoint)
                    .collect(),
                false => Vec::new(),
            },
            ticket,
            joining: Arc::default(),
            hosted: Mutex::default(),
            here: None,
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
        if Address::is_of_server(endpoint) {
            return Self::open(endpoint, plan);
        }
        let place: Place = endpoint.parse()?;
        let endpoint = place.endpoint.clone();
        let credentials = plan.means().to_dial(&endpoint)?;
        let joining = Arc::<Joining>::default();
        let named = place.named(plan.info);
        let way = || {
            Ok(Way::Hosted(member::Settings {
                endpoint: endpoint.clone(),
                credentials: credentials.clone(),
                peer: random_id()?,
                run: 0,
                patience: plan.patience,
                same_machine: false,
                watchers: Subscribers::default(),
                named: named.clone(),
            }))
        };
        let nobody = || Error::HostGone {
            endpoint: endpoint.to_string(),
            why: "it was not joined".to_owned(),
        };
        let member = joining.join(Wait::Forever, way)?.ok_or_else(nobody)?;
        let (run, info) = (member.run(), member.info().unwrap_or_default());
        if let Err(why) = place.check(info, plan.info.joinable) {
            joining.leave(Instant::now());
            return Err(Error::BadHandle {
                endpoint: place.to_string(),
                why,
            });
        }
        let inner = Arc::new(Self {
            ticket: Ticket {
                endpoint: place.to_string(),
                server: String::new(),
                run,
                joinable: info.joinable,
                maxsize: info.maxsize,
                machine: machine_id(),
                host: host_name(),
                insecure: plan.insecure,
                patience: plan.patience,
            },
            joining,
            hosted: Mutex::default(),
            here: None,
            endpoints: vec![endpoint],
            lent: true.into(),
        });
        remember(&inner);
        Ok(inner)
    }

    /// Joins the queue that a server has, or makes it there.
    fn open(url: &str, plan: &Plan) -> Result<Arc<Self>> {
        let mut address: Address = url.parse()?;
        if plan.info.maxsize > 0 {
            address.maxsize = Some(plan.info.maxsize);
        }
        // Whoever opens the same queue twice shares what it has of it.
        let named = format!(
            "{} {} {}",
            address.server, address.queue, plan.info.joinable
        );
        let hash = blake3::hash(named.as_bytes());
        let mut run = [0; 8];
        run.copy_from_slice(&hash.as_bytes()[..8]);
        let inner = Self::of_ticket(Ticket {
            endpoint: address.to_string(),
            server: address.url(),
            run: RunId::from_le_bytes(run),
            joinable: plan.info.joinable,
            maxsize: address.maxsize.unwrap_or_default(),
            machine: machine_id(),
            host: host_name(),
            insecure: plan.insecure,
            patience: plan.patience,
        });
        inner.member(Wait::Forever)?;
        Ok(inner)
    }

    fn is_gone(&self) -> bool {
        self.joining.member().is_some_and(|member| member.is_gone())
    }

    pub(super) fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    pub(super) fn lend(&self) -> &Ticket {
        self.lent.store(true, std::sync::atomic::Ordering::Release);
        &self.ticket
    }

    /// This process's membership; joins on first use. `None`: not in time.
    pub(super) fn member(&self, wait: Wait) -> Result<Option<&Arc<Shared>>> {
        self.joining.join(wait, || self.way())
    }

    /// Joins, and does not wait for it.
    pub(super) fn begin(&self) {
        self.joining.begin(|| self.way());
    }

    pub(super) const fn joining(&self) -> &Arc<Joining> {
        &self.joining
    }

    fn way(&self) -> Result<Way> {
        if !self.ticket.server.is_empty() {
            let address: Address = self.ticket.server.parse()?;
            return Ok(Way::Served(served::Settings {
                engine: crate::engine::open(&address, self.ticket.joinable)?,
                shown: self.ticket.endpoint.clone(),
                run: self.ticket.run,
                info: QueueInfo {
                    maxsize: self.ticket.maxsize,
                    joinable: self.ticket.joinable,
                },
                patience: self.ticket.patience,
                watchers: Subscribers::default(),
            }));
        }
        let place = match &self.here {
            Some(here) => Place::from(here.clone()),
            None => self.ticket.endpoint.parse()?,
        };
        let named = place.named(QueueInfo {
            maxsize: self.ticket.maxsize,
            joinable: self.ticket.joinable,
        });
        let endpoint = place.endpoint;
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
        // A handle carries no keys: they are this process's own.
        let credentials = Means::insecure(self.ticket.insecure).to_dial(&endpoint)?;
        // A host of queues that is not there may come back.
        if let (Some(path), None) = (endpoint.path(), &named)
            && !path.exists()
        {
            return Err(Error::HostGone {
                endpoint: endpoint.to_string(),
                why: "its process has ended".to_owned(),
            });
        }
        Ok(Way::Hosted(member::Settings {
            endpoint,
            credentials,
            peer: random_id()?,
            run: self.ticket.run,
            patience: self.ticket.patience,
            same_machine: !elsewhere,
            watchers: Subscribers::default(),
            named,
        }))
    }

    /// The host, where it is of this process and has not ended.
    pub(super) fn hosted(&self) -> MutexGuard<'_, Option<Hosted>> {
        self.hosted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands over what was put, gives back what was not taken; says how many items were not accepted.
    pub(super) fn leave(&self, until: Instant) {
        let lost = self.joining.leave(until);
        if lost > 0 {
            say(&format!(
                "{lost} items that this process has put were not accepted by the queue at {} and are lost",
                self.ticket.endpoint
            ));
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.leave(Instant::now() + LAST_CALL);
        let hosted = self.hosted().take();
        if let Some(hosted) = hosted {
            if *self.lent.get_mut() {
                hosted.linger();
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

/// The queues of which this process has a handle.
pub(super) fn all_open() -> Vec<Arc<Inner>> {
    OPEN.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .iter()
        .flat_map(HashMap::values)
        .flatten()
        .filter_map(Weak::upgrade)
        .collect()
}
