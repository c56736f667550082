//! [`QueueHost`]: a process that hosts queues for others, by name.

mod directory;
mod reception;

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use directory::{Directory, Plan};
use reception::Reception;

use crate::error::{Error, Result};
use crate::hub::host::host_name;
use crate::hub::limits::Limits;
use crate::journal::queues::QueueJournal;
use crate::keys::Keys;
use crate::pipeline::random_id;
use crate::wire::access::Means;
use crate::wire::endpoint::{Endpoint, Transport};
use crate::wire::runtime_dir::{self, RuntimeDir};
use crate::wire::wake::Waker;

/// Hosts any number of queues at one endpoint, each by a name: `procession queue --bind URL` as a type.
///
/// A [`Queue`](crate::Queue) is else hosted by the program that made it, and ends with that. Here no program has to be there first, or last: whoever
/// opens a name first makes the queue, with its `maxsize` and its kind, and the others join it.
///
/// ```
/// use procession::{JoinableQueue, Queue, QueueHost};
/// let host = QueueHost::bind("tcp://127.0.0.1:*")?;
///
/// // In any program of this user, or with keys on any machine:
/// let jobs: JoinableQueue<String> = JoinableQueue::open(&host.url("jobs"))?;
/// let found: Queue<u32> = Queue::open(&format!("{}&maxsize=100", host.url("found")))?;
/// jobs.put("a".to_owned())?;
/// found.put(1)?;
/// assert_eq!(jobs.get()?, "a");
/// jobs.task_done()?;
/// jobs.join()?;
///
/// let names: Vec<String> = host.queues().into_iter().map(|queue| queue.name).collect();
/// assert_eq!(names, ["found", "jobs"]);
/// let left = host.shutdown()?;
/// assert_eq!((left.queues, left.items), (1, 1));
/// # Ok::<(), procession::Error>(())
/// ```
///
/// **When the host ends or is killed** its queues are gone, and members see [`Error::HostGone`], as of any queue. With a
/// [`journal`](QueueHostBuilder::journal) they are not: what was accepted is served again by a host that is started with the same file, and members
/// wait for that for their patience; docs/queues.md says what is seen twice then.
///
/// **When a member dies** is as with any queue.
pub struct QueueHost {
    directory: Arc<Mutex<Directory>>,
    endpoints: Vec<Endpoint>,
    stop: Arc<AtomicBool>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
    error: Arc<Mutex<Option<Error>>>,
}

/// A queue as [`QueueHost::queues`] shows it; at most a twentieth of a second old while something happens.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HostedQueue {
    /// Its name.
    pub name: String,
    /// Whether it is a [`JoinableQueue`](crate::JoinableQueue).
    pub joinable: bool,
    /// How many items may be in it; 0: any number.
    pub maxsize: u64,
    /// How many processes have joined it.
    pub members: u64,
    /// How many items were put that no program has taken.
    pub items: u64,
    /// How many items were put and are not done with: of a [`JoinableQueue`](crate::JoinableQueue) those that were taken, too.
    pub unfinished: u64,
    /// Whether nobody puts into it any more.
    pub shut_down: bool,
}

/// What was in the queues when their host ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Leftover {
    /// How many queues had something in them.
    pub queues: usize,
    /// How many items these were.
    pub items: u64,
    /// Whether the journal has them. Otherwise they are gone.
    pub kept: bool,
}

/// How a [`QueueHost`] shall be.
#[derive(Clone, Debug)]
pub struct QueueHostBuilder {
    binds: Vec<String>,
    means: Means,
    limits: Limits,
    ports: Option<(u16, u16)>,
    heartbeat: Duration,
    most: usize,
    forget: Duration,
    journal: Option<PathBuf>,
    sync: bool,
}

impl QueueHostBuilder {
    /// Listens at this endpoint, too: `tcp://HOST:PORT` (`*`: any free port) or `ipc://PATH`.
    #[must_use]
    pub fn bind(mut self, endpoint: impl Into<String>) -> Self {
        self.binds.push(endpoint.into());
        self
    }

    /// Uses these keys by TCP, instead of those that `PROCESSION_KEYS` names.
    #[must_use]
    pub fn keys(mut self, keys: Keys) -> Self {
        self.means.keys = Some(keys);
        self
    }

    /// Allows TCP beyond this machine, where anyone who can connect may put and get.
    #[must_use]
    pub const fn insecure(mut self, allowed: bool) -> Self {
        self.means.insecure = allowed;
        self
    }

    /// How much others may ask of each queue; the number of hellos in a second also of the host.
    #[must_use]
    pub const fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// How many queues there may be (1,000). Who asks for one more is refused, with the reason. Each takes a thread, and about ten descriptors.
    #[must_use]
    pub const fn queues(mut self, most: usize) -> Self {
        self.most = most;
        self
    }

    /// The TCP ports for the queues and their lanes (any free ones): two for each queue, and one for each process that gets.
    #[must_use]
    pub const fn lane_ports(mut self, first: u16, last: u16) -> Self {
        self.ports = Some((first, last));
        self
    }

    /// The interval of heartbeats (1 s); a getter that misses three is taken for dead, as one that was stopped.
    #[must_use]
    pub const fn heartbeat(mut self, interval: Duration) -> Self {
        self.heartbeat = interval;
        self
    }

    /// After how long a queue is forgotten that nobody has joined and nothing is in (10 min). It is made anew when somebody asks for it, so the only
    /// thing that is lost is its `maxsize`, its kind, and that it was shut down.
    #[must_use]
    pub const fn forget_after(mut self, time: Duration) -> Self {
        self.forget = time;
        self
    }

    /// Keeps the queues in this file (SQLite): an item is in it before its putter is told that it is accepted, and until it is taken, or with a
    /// [`JoinableQueue`](crate::JoinableQueue) done with. A host that was killed goes on with it when it is started again.
    #[must_use]
    pub fn journal(mut self, file: impl Into<PathBuf>) -> Self {
        self.journal = Some(file.into());
        self
    }

    /// What the journal has is safe from a power failure too, not only from the death of the program: each transaction waits for the disk.
    #[must_use]
    pub const fn journal_sync(mut self, sync: bool) -> Self {
        self.sync = sync;
        self
    }

    /// Binds and starts. What the journal has is served from now on.
    ///
    /// # Errors
    /// When an endpoint is bad, in use, or beyond this machine; [`Error::Journal`] when the journal cannot be used.
    pub fn start(self) -> Result<QueueHost> {
        runtime_dir::sweep();
        let mut binds = Vec::new();
        for text in &self.binds {
            let endpoint: Endpoint = text.parse()?;
            if endpoint.transport() == Transport::Inproc {
                return Err(Error::BadEndpoint {
                    endpoint: text.clone(),
                    why: "a host of queues is for other processes; write tcp://HOST:PORT or ipc://PATH, or make a Queue"
                        .to_owned(),
                });
            }
            binds.push(endpoint);
        }
        if binds.is_empty() {
            return Err(Error::BadEndpoint {
                endpoint: String::new(),
                why: "a host of queues needs one to listen at: bind".to_owned(),
            });
        }
        let mut life = random_id()?;
        let listening = self.means.to_listen(&binds)?.map(Arc::new);
        let waker = Waker::new().map_err(|error| Error::system("cannot make an eventfd", error))?;
        let (journal, kept) = match &self.journal {
            None => (None, Vec::new()),
            Some(path) => {
                let (journal, kept) = QueueJournal::open(path, life, self.sync)?;
                life = journal.life;
                (Some(journal), kept)
            }
        };
        let dir = RuntimeDir::create(&format!("h{:016x}", random_id()?))?;
        let (listener, endpoints) =
            Reception::bind(&binds, self.limits, listening.as_ref(), dir, waker.clone())?;
        let plan = Plan {
            heartbeat: self.heartbeat,
            patience: Duration::from_secs(30),
            ports: self.ports,
            limits: self.limits,
            listening: listening.clone(),
            binds: endpoints.clone(),
            most: self.most,
            forget: self.forget,
        };
        let mut directory = Directory::new(plan, life, journal);
        for queue in kept {
            directory.resume(queue)?;
        }
        // Nobody is let in before all queues are there.
        if let Some(how) = &listening {
            how.publish(&endpoints, listener.dir());
        }
        let directory = Arc::new(Mutex::new(directory));
        let stop = Arc::new(AtomicBool::new(false));
        let reception = listener.with(Arc::clone(&directory), Arc::clone(&stop));
        let error = Arc::<Mutex<Option<Error>>>::default();
        let failed = Arc::clone(&error);
        let thread = std::thread::Builder::new()
            .name("reception".to_owned())
            .spawn(move || {
                if let Err(error) = reception.run() {
                    *lock(&failed) = Some(error);
                }
            })
            .map_err(|error| Error::system("cannot start the thread of a host of queues", error))?;
        Ok(QueueHost {
            directory,
            endpoints,
            stop,
            waker,
            thread: Some(thread),
            error,
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl QueueHost {
    /// A host that listens at `endpoint`.
    ///
    /// # Errors
    /// As [`QueueHostBuilder::start`].
    pub fn bind(endpoint: &str) -> Result<Self> {
        Self::builder().bind(endpoint).start()
    }

    /// Settings of a host, which must be [told](QueueHostBuilder::bind) where to listen.
    #[must_use]
    pub fn builder() -> QueueHostBuilder {
        QueueHostBuilder {
            binds: Vec::new(),
            means: Means::default(),
            limits: Limits::default(),
            ports: None,
            heartbeat: Duration::from_secs(1),
            most: 1_000,
            forget: Duration::from_secs(600),
            journal: None,
            sync: false,
        }
    }

    /// Where it listens, with real ports, in the order in which it was told to.
    #[must_use]
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// The URL by which the queue of this name is opened: at the endpoint that was bound last.
    #[must_use]
    pub fn url(&self, queue: &str) -> String {
        let last = self.endpoints.last().cloned();
        let endpoint = last.map(|endpoint| endpoint.with_host_if_any(&host_name()));
        endpoint.map_or_else(String::new, |endpoint| format!("{endpoint}?queue={queue}"))
    }

    /// Its queues, by name.
    #[must_use]
    pub fn queues(&self) -> Vec<HostedQueue> {
        lock(&self.directory).list()
    }

    /// Whether it serves: nothing ends it but [`shutdown`](Self::shutdown), unless something fails that it stands on.
    ///
    /// # Errors
    /// What that is, once: [`Error::Journal`], when a disk is full for instance.
    pub fn check(&self) -> Result<()> {
        let failed = lock(&self.error).take();
        failed.map_or(Ok(()), Err)
    }

    /// Ends it. Members are told, and what is left in the queues is counted.
    ///
    /// # Errors
    /// What it has failed of.
    pub fn shutdown(mut self) -> Result<Leftover> {
        let left = self.end();
        self.check()?;
        left
    }

    fn end(&mut self) -> Result<Leftover> {
        self.stop.store(true, Ordering::Release);
        self.waker.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        lock(&self.directory).end()
    }
}

impl Drop for QueueHost {
    fn drop(&mut self) {
        if self.thread.is_none() {
            return;
        }
        match self.end() {
            Ok(left) if left.items > 0 && !left.kept => log::warn!(
                "a host of queues ends, and {} items in {} queues are dropped",
                left.items,
                left.queues
            ),
            Ok(_) => {}
            Err(error) => log::error!("{error}"),
        }
    }
}

impl fmt::Debug for QueueHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueueHost")
            .field("endpoints", &self.endpoints)
            .finish_non_exhaustive()
    }
}
