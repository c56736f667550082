//! The ventilator: hands out tasks.

use crate::hub::outside::{Instant, poll};
use std::marker::PhantomData;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::BytesMut;
use serde::Serialize;

use super::by_queue::{self, Handing, Queues, Reply};
use super::random_id;
use crate::error::{Error, Result};
use crate::hub::dial::{Dial, Need};
use crate::hub::host::{GivenUp, Host, Orders, Settings, Summary, host_name};
use crate::hub::intake::Intake;
use crate::hub::limits::Limits;
use crate::journal::{Entry, Journal};
use crate::keys::{Keys, Proof, Ticket};
use crate::registry::panics::text_of;
use crate::wire::access::Means;
use crate::wire::body::Body;
use crate::wire::endpoint::{Endpoint, Transport};
use crate::wire::frame::{self, Message, RunId, State, StatusRequest, kind};
use crate::wire::id_set::IdSet;
use crate::wire::payload::Payload;
use crate::wire::runtime_dir::RuntimeDir;
use crate::wire::wake::Waker;

/// Hands tasks of type `T` to workers, and learns from the sink which are done.
///
/// It listens from its creation on; [`put`](Self::put) waits while enough tasks are under way, so that memory stays bounded
/// however long the input is. End it with [`finish`](Self::finish), which waits until every task has a result. Dropped
/// without that, it stops handing out, and waits for what runs.
///
/// When a worker dies its tasks are run by others; when the sink dies results wait for another one. When nobody is there for
/// [`patience`](VentilatorBuilder::patience), it gives up with [`Error::NobodyThere`].
#[derive(Debug)]
pub struct Ventilator<T: Payload> {
    intake: Intake,
    journal: Option<Journal>,
    orders: Arc<Orders>,
    waker: Waker,
    thread: Option<JoinHandle<Result<Summary>>>,
    endpoints: Vec<Endpoint>,
    ticket: Option<Ticket>,
    run: RunId,
    dir: std::path::PathBuf,
    scratch: std::sync::Mutex<BytesMut>,
    tasks: PhantomData<fn(T)>,
}

/// A job travels in one frame with what else a welcome says, in bytes.
const LONGEST_JOB: usize = 256 << 10;

/// How a [`Ventilator`] shall be.
#[derive(Clone, Debug)]
pub struct VentilatorBuilder {
    endpoints: Vec<String>,
    heartbeat: Duration,
    patience: Duration,
    ports: Option<(u16, u16)>,
    advertise: Option<String>,
    means: Means,
    limits: Limits,
    job: Vec<u8>,
    title: String,
    tries: u32,
    private: bool,
    deaths: u8,
    given_up: Option<GivenUp>,
    journal: Option<Journal>,
    done_before: (IdSet, u64),
    reply: Option<Reply>,
}

impl VentilatorBuilder {
    /// Listens at this endpoint too.
    #[must_use]
    pub fn bind_also(mut self, endpoint: impl Into<String>) -> Self {
        self.endpoints.push(endpoint.into());
        self
    }

    /// The interval of heartbeats (1 s); who misses three is silent.
    #[must_use]
    pub const fn heartbeat(mut self, interval: Duration) -> Self {
        self.heartbeat = interval;
        self
    }

    /// How long to wait when no worker, or no sink, is there (30 s).
    #[must_use]
    pub const fn patience(mut self, time: Duration) -> Self {
        self.patience = time;
        self
    }

    /// The TCP ports for lanes and acknowledgements (any free ones).
    #[must_use]
    pub const fn lane_ports(mut self, first: u16, last: u16) -> Self {
        self.ports = Some((first, last));
        self
    }

    /// The host that workers are told for a sink on this machine.
    #[must_use]
    pub fn advertise(mut self, host: impl Into<String>) -> Self {
        self.advertise = Some(host.into());
        self
    }

    /// Uses these keys by TCP, instead of those that `PROCESSION_KEYS` names.
    #[must_use]
    pub fn keys(mut self, keys: Keys) -> Self {
        self.means.keys = Some(keys);
        self
    }

    /// How much others may ask of it.
    #[must_use]
    pub const fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Lets others join with a [`Ticket`], which is made for this run: see [`Ventilator::ticket`]. So it may listen beyond this
    /// machine without other keys.
    #[must_use]
    pub const fn ticket(mut self) -> Self {
        self.means.make_ticket = true;
        self
    }

    /// Allows plain TCP, also beyond this machine, where anyone who can connect may join.
    #[must_use]
    pub const fn insecure(mut self, allowed: bool) -> Self {
        self.means.insecure = allowed;
        self
    }

    /// What every worker and the sink are told about the run when they join.
    ///
    /// # Errors
    /// When it cannot be encoded.
    pub fn job<J: Serialize>(mut self, job: &J) -> Result<Self> {
        self.job = rmp_serde::to_vec(job).map_err(|error| Error::Encoding {
            what: "the run's job".to_owned(),
            why: error.to_string(),
        })?;
        Ok(self)
    }

    /// What the run does, for people who ask for its [`State`].
    #[must_use]
    pub fn title(mut self, title: impl Into<String>) -> Self {
        self.title = title.into();
        self
    }

    /// How often a task that fails is tried in all (1).
    #[must_use]
    pub const fn tries(mut self, tries: u32) -> Self {
        self.tries = if tries == 0 { 1 } else { tries };
        self
    }

    /// How often a worker may die of a task that it runs alone before the task is given up and reported as failed (3).
    #[must_use]
    pub const fn deaths(mut self, deaths: u8) -> Self {
        self.deaths = if deaths == 0 { 1 } else { deaths };
        self
    }

    /// What the sink gets for a task that is given up, instead of an error: a result that can say which task it was. `make` is
    /// told the task's id, the task as it travels, and why; the task counts as failed all the same.
    #[must_use]
    pub fn given_up<R: Payload>(
        mut self,
        make: impl Fn(u64, &Body, &str) -> R + Send + Sync + 'static,
    ) -> Self {
        self.given_up = Some(GivenUp(Arc::new(move |id, task, why| {
            // What cannot be encoded is still reported, as an error.
            make(id, task, why).into_body(&mut BytesMut::new()).ok()
        })));
        self
    }

    /// Writes down what is put and what is done, so that the run goes on where it was when the program is started again after it was
    /// killed: put the same tasks again, and those that have a result are passed over. See [`Journal`].
    #[must_use]
    pub fn journal(mut self, journal: &Journal) -> Self {
        self.journal = Some(journal.clone());
        self
    }

    /// The tasks of these numbers have results of an earlier run, `failed` of which failed: the rest is put with
    /// [`Putter::put_as`]. Not together with a [`journal`](Self::journal), which knows that by itself.
    #[must_use]
    pub fn done_before(mut self, tasks: IdSet, failed: u64) -> Self {
        self.done_before = (tasks, failed);
        self
    }

    /// A task is reported as failed at the first death of a worker that had started it, and [`Orders::take_verdict`] says who died.
    pub(crate) const fn report_first_death(mut self) -> Self {
        self.deaths = 0;
        self
    }

    /// The tasks of a pool at a queue.
    pub(crate) fn reply(mut self, reply: Reply) -> Self {
        self.reply = Some(reply);
        self
    }

    /// Listens at an endpoint in this user's private directory too, where [`status`] without an endpoint finds the run.
    #[must_use]
    pub const fn listed(mut self) -> Self {
        self.private = true;
        self
    }

    /// Binds and starts.
    ///
    /// # Errors
    /// When an endpoint is bad, in use, or beyond this machine.
    pub fn start<T: Payload>(self) -> Result<Ventilator<T>> {
        if self.job.len() > LONGEST_JOB {
            return Err(Error::Encoding {
                what: "the run's job".to_owned(),
                why: format!(
                    "it has {} bytes and may have {LONGEST_JOB}; put long words of the command into a file or the environment",
                    self.job.len()
                ),
            });
        }
        if let [url] = &self.endpoints[..]
            && by_queue::is_queue(url)
        {
            let queues = Queues::new(url, self.means.clone(), self.patience)?;
            return self.hand_to(queues);
        }
        let life = random_id()?;
        let past = match &self.journal {
            Some(journal) => Some(journal.begin(life)?),
            None => None,
        };
        let run = past.as_ref().map_or(life, |past| past.run);
        // Of this life: what is left of an earlier one is removed when it is removed.
        let dir = RuntimeDir::create(&format!("r{life:016x}"))?;
        let dir_path = dir.path().to_owned();
        let mut binds = Vec::new();
        if self.private {
            binds.push(Endpoint::Ipc(dir.path().join("control")));
        }
        for text in &self.endpoints {
            let endpoint: Endpoint = text.parse()?;
            binds.push(endpoint);
        }
        let listening = self.means.to_listen(&binds)?.map(Arc::new);
        let ticket_host = self.advertise.clone().unwrap_or_else(host_name);
        let waker = Waker::new().map_err(|error| Error::system("cannot make an eventfd", error))?;
        let intake = Intake::new(waker.clone());
        let orders = Arc::new(Orders::default());
        let settings = Settings {
            run,
            binds,
            heartbeat: self.heartbeat,
            patience: self.patience,
            ports: self.ports,
            advertise: self.advertise,
            job: self.job,
            title: self.title,
            tries: self.tries,
            queue: None,
            deaths: self.deaths,
            given_up: self.given_up,
            listening: listening.clone(),
            limits: self.limits,
            journal: self.journal.clone().zip(past),
            done_before: self.done_before,
            keeping: None,
            one_of_many: false,
        };
        let (host, endpoints) = Host::bind(
            settings,
            dir,
            waker.clone(),
            intake.clone(),
            Arc::clone(&orders),
        )?;
        let ticket = listening
            .filter(|_| self.means.make_ticket)
            .and_then(|how| {
                let tcp = |endpoint: &&Endpoint| endpoint.transport() == Transport::Tcp;
                let endpoint = endpoints.iter().find(tcp)?.clone();
                Some(how.ticket(&endpoint.with_host_if_any(&ticket_host)))
            });
        let thread = std::thread::Builder::new()
            .name("ventilator".to_owned())
            .spawn(move || host.run())
            .map_err(|error| Error::system("cannot start the ventilator's thread", error))?;
        Ok(Ventilator {
            intake,
            journal: self.journal,
            orders,
            waker,
            thread: Some(thread),
            endpoints,
            ticket,
            run,
            dir: dir_path,
            scratch: std::sync::Mutex::default(),
            tasks: PhantomData,
        })
    }

    /// A ventilator whose tasks go into a queue.
    fn hand_to<T: Payload>(self, queues: Queues) -> Result<Ventilator<T>> {
        if let Some(journal) = &self.journal {
            return Err(Error::Journal {
                path: journal.path().to_owned(),
                why: "the tasks of this run are kept by its queue, not by a journal; leave it out"
                    .to_owned(),
            });
        }
        let run = queues.run();
        let waker = Waker::new().map_err(|error| Error::system("cannot make an eventfd", error))?;
        let intake = Intake::new(waker.clone());
        let orders = Arc::new(Orders::default());
        let shared = (intake.clone(), Arc::clone(&orders), waker.clone());
        let handing =
            Handing::connect(queues, shared, self.job, self.tries, self.title, self.reply)?;
        let thread = std::thread::Builder::new()
            .name("ventilator".to_owned())
            .spawn(move || handing.run())
            .map_err(|error| Error::system("cannot start the ventilator's thread", error))?;
        Ok(Ventilator {
            intake,
            journal: None,
            orders,
            waker,
            thread: Some(thread),
            endpoints: Vec::new(),
            ticket: None,
            run,
            dir: std::path::PathBuf::new(),
            scratch: std::sync::Mutex::default(),
            tasks: PhantomData,
        })
    }
}

impl<T: Payload> Ventilator<T> {
    /// A ventilator that listens at `endpoint`.
    ///
    /// # Errors
    /// As [`VentilatorBuilder::start`].
    pub fn bind(endpoint: &str) -> Result<Self> {
        Ventilator::<()>::builder(endpoint).start()
    }

    /// Puts a task; waits while enough are under way. Tasks are numbered from 1 in the order in which they are put.
    ///
    /// # Errors
    /// [`Error::Ended`] when the run was stopped or gave up ([`finish`](Self::finish) says why); [`Error::Encoding`].
    pub fn put(&self, task: T) -> Result<()> {
        let body = {
            let mut scratch = self
                .scratch
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            task.into_body(&mut scratch)
                .map_err(|why| Error::Encoding {
                    what: "a task".to_owned(),
                    why,
                })?
        };
        put(&self.intake, self.journal.as_ref(), body)
    }

    /// Puts tasks from another thread, and says there when there are no more.
    #[must_use]
    pub fn putter(&self) -> Putter<T> {
        Putter {
            intake: self.intake.clone(),
            journal: self.journal.clone(),
            scratch: BytesMut::new(),
            tasks: PhantomData,
        }
    }

    /// Waits for the end of a run whose tasks come from a [`Putter`], whether it has said that there are no more or the run was
    /// stopped.
    ///
    /// # Errors
    /// What ended the run instead.
    pub fn wait(mut self) -> Result<Summary> {
        self.join()
    }

    /// For callers that bound by themselves how much is under way.
    pub(crate) fn intake(&self) -> &Intake {
        &self.intake
    }

    /// What the host shows other threads.
    pub(crate) fn orders(&self) -> &Arc<Orders> {
        &self.orders
    }

    /// This run's private directory, with its sockets; it is removed at the end.
    #[must_use]
    pub fn private_dir(&self) -> &std::path::Path {
        &self.dir
    }

    /// There are no more tasks: waits until each has a result, gives every worker and the sink their pill, and ends.
    ///
    /// # Errors
    /// What ended the run instead.
    pub fn finish(mut self) -> Result<Summary> {
        self.intake.end();
        self.join()
    }

    fn join(&mut self) -> Result<Summary> {
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(outcome)) => outcome,
            Some(Err(panic)) => Err(Error::Ended(format!(
                "the ventilator's thread panicked: {}",
                text_of(panic)
            ))),
            None => Ok(Summary::default()),
        }
    }

    /// Where it listens, with real ports.
    #[must_use]
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// The ticket with which others join this run, if it was [asked for](VentilatorBuilder::ticket) and it listens by TCP.
    #[must_use]
    pub const fn ticket(&self) -> Option<&Ticket> {
        self.ticket.as_ref()
    }

    /// The run's id.
    #[must_use]
    pub const fn run_id(&self) -> u64 {
        self.run
    }

    /// A handle for other threads.
    #[must_use]
    pub fn handle(&self) -> VentilatorHandle {
        VentilatorHandle {
            orders: Arc::clone(&self.orders),
            waker: self.waker.clone(),
        }
    }
}

impl Ventilator<()> {
    /// Settings of a ventilator that listens at `endpoint`; an empty one stands for none yet.
    #[must_use]
    pub fn builder(endpoint: &str) -> VentilatorBuilder {
        VentilatorBuilder {
            endpoints: Some(endpoint.to_owned())
                .filter(|endpoint| !endpoint.is_empty())
                .into_iter()
                .collect(),
            heartbeat: Duration::from_secs(1),
            patience: Duration::from_secs(30),
            ports: None,
            advertise: None,
            means: Means::default(),
            limits: Limits::default(),
            job: Vec::new(),
            title: String::new(),
            tries: 1,
            private: false,
            deaths: crate::hub::ledger::DEATHS_ALONE,
            given_up: None,
            journal: None,
            done_before: Default::default(),
            reply: None,
        }
    }
}

impl<T: Payload> Drop for Ventilator<T> {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.handle().halt(255);
            if let Err(error) = self.join() {
                log::warn!("{error}");
            }
        }
    }
}

/// Puts a task, if the journal does not say that it has its result.
fn put(intake: &Intake, journal: Option<&Journal>, body: Body) -> Result<()> {
    let known = match journal {
        None => None,
        Some(journal) => match journal.entry(&body)? {
            Entry::Done => return Ok(()),
            known => Some(known),
        },
    };
    intake.put(body, known).map_err(|_| no_more())
}

fn no_more() -> Error {
    Error::Ended("the run takes no more tasks".to_owned())
}

/// Puts tasks into a [`Ventilator`] from another thread.
#[derive(Debug)]
pub struct Putter<T: Payload> {
    intake: Intake,
    journal: Option<Journal>,
    scratch: BytesMut,
    tasks: PhantomData<fn(T)>,
}

impl<T: Payload> Putter<T> {
    /// As [`Ventilator::put`].
    ///
    /// # Errors
    /// As there.
    pub fn put(&mut self, task: T) -> Result<()> {
        let body = task
            .into_body(&mut self.scratch)
            .map_err(|why| Error::Encoding {
                what: "a task".to_owned(),
                why,
            })?;
        put(&self.intake, self.journal.as_ref(), body)
    }

    /// As [`put`](Self::put), under a number of the program's own: of a task that had it in an earlier run, for instance. One that
    /// has a result, or was put before, is passed over. All tasks of a run are put so, or none.
    ///
    /// # Errors
    /// As there.
    pub fn put_as(&mut self, id: u64, task: T) -> Result<()> {
        if let Some(journal) = &self.journal {
            return Err(Error::Journal {
                path: journal.path().to_owned(),
                why: "it numbers the tasks by itself; use put, or no journal".to_owned(),
            });
        }
        let body = task
            .into_body(&mut self.scratch)
            .map_err(|why| Error::Encoding {
                what: "a task".to_owned(),
                why,
            })?;
        self.intake
            .put(body, Some(Entry::Known(id)))
            .map_err(|_| no_more())
    }

    /// There are no more tasks.
    pub fn end(self) {
        self.intake.end();
    }
}

/// Stops a [`Ventilator`] and looks at it, from any thread.
#[derive(Clone, Debug)]
pub struct VentilatorHandle {
    orders: Arc<Orders>,
    waker: Waker,
}

impl VentilatorHandle {
    /// Hands out no more; the run ends when what runs has ended. `cause` is the number of the signal that is the reason.
    pub fn halt(&self, cause: u8) {
        self.orders.halt(cause);
        self.waker.wake();
    }

    /// Tells every worker to kill what runs.
    pub fn kill(&self) {
        self.orders.kill();
        self.waker.wake();
    }

    /// How many tasks there will be in all, for progress.
    pub fn set_total(&self, total: u64) {
        self.orders.set_total(total);
    }

    /// What waits, runs and is done, and who is there; at most a twentieth of a second old while work goes on.
    #[must_use]
    pub fn state(&self) -> State {
        self.orders.state()
    }
}

/// Asks the ventilator at `endpoint` for its state.
///
/// # Errors
/// When nobody answers within `patience`.
pub fn status(endpoint: &str, patience: Duration, insecure: bool) -> Result<State> {
    ask(endpoint, patience, &Means::insecure(insecure))
}

/// The same, of one that asks for proof.
///
/// # Errors
/// As there, and when the proof cannot be used.
pub fn status_with(endpoint: &str, patience: Duration, proof: impl Into<Proof>) -> Result<State> {
    let mut means = Means::default();
    means.show(proof.into());
    ask(endpoint, patience, &means)
}

fn ask(endpoint: &str, patience: Duration, means: &Means) -> Result<State> {
    let endpoint: Endpoint = endpoint.parse()?;
    let credentials = means.to_dial(&endpoint)?;
    let mut dial = Dial::new("status", &endpoint, credentials, patience)?;
    let waker = Waker::new().map_err(|error| Error::system("cannot make an eventfd", error))?;
    let request = frame::encode(&StatusRequest {
        kind: kind::STATUS,
        magic: frame::MAGIC.to_owned(),
        version: frame::VERSION,
    });
    dial.greeted(request.clone());
    let asked = Instant::now();
    loop {
        poll(&[&dial.socket], &waker, Duration::from_millis(50))?;
        dial.read_links()?;
        while let Some(bytes) = dial.recv() {
            match frame::decode(&bytes) {
                Ok(Message::State(state)) => return Ok(state),
                Ok(Message::Refused(refused)) => {
                    return Err(Error::Refused {
                        who: "question",
                        endpoint: endpoint.to_string(),
                        why: refused.why,
                    });
                }
                _ => {}
            }
        }
        if asked.elapsed() > patience {
            dial.last_heard = asked;
        }
        if dial.tick(Duration::from_secs(1))? == Need::Hello {
            dial.greeted(request.clone());
        }
    }
}
