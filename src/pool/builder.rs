//! How a pool shall be.

use std::path::PathBuf;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use serde_bytes::ByteBuf;

use super::Pool;
use super::callbacks::Callbacks;
use super::child::Orders;
use super::crew::{Crew, Settings};
use super::gather::{deal_with, watch};
use super::inner::{Inner, Parts};
use super::job::End;
use super::living;
use super::table::Table;
use crate::error::{Error, Result};
use crate::keys::Keys;
use crate::pipeline::by_queue::{self, Reply};
use crate::pipeline::{Sink, Ventilator, random_id};
use crate::registry::Task;
use crate::wire::body::Body;
use crate::wire::endpoint::Endpoint;
use crate::wire::runtime_dir;

/// A worker that has lost its pool looks for it so long; on this host a pool that is gone is gone at once, with its processes.
const LOST: Duration = Duration::from_secs(60);
/// Nobody counts the time in which a pool has no worker but the pool itself.
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// The settings of a [`Pool`]; [`start`](Self::start) makes it.
///
/// ```
/// use procession::Pool;
/// use std::time::Duration;
///
/// #[procession::task]
/// fn load_words(path: String) {
///     // into a static of this process, which every task in it can use
/// }
///
/// #[procession::task]
/// fn count(letter: char) -> usize {
///     "procession".matches(letter).count()
/// }
///
/// #[procession::main]
/// fn main() -> procession::Result<()> {
///     let pool = Pool::builder()
///         .workers(2)
///         .name("words")
///         .initializer(load_words, ("/usr/share/dict/words".to_owned(),))?
///         .max_tasks_per_child(1_000)
///         .time_limit(Duration::from_secs(30))
///         .start()?;
///     assert_eq!(pool.map(count, ['s', 'o', 'x'])?, [2, 2, 0]);
///     pool.join()
/// }
/// ```
#[derive(Clone, Debug)]
#[must_use = "there is no pool before start"]
pub struct PoolBuilder {
    workers: Option<u32>,
    name: String,
    initializer: Option<(String, ByteBuf)>,
    max_tasks: u64,
    retries: u32,
    time_limit: Option<Duration>,
    endpoint: Option<String>,
    /// The URL of a queue through which calls go.
    queue: Option<String>,
    insecure: bool,
    keys: Option<Keys>,
    patience: Duration,
}

impl Default for PoolBuilder {
    fn default() -> Self {
        Self {
            workers: None,
            name: "PoolWorker".to_owned(),
            initializer: None,
            max_tasks: 0,
            retries: 2,
            time_limit: None,
            endpoint: None,
            queue: None,
            insecure: false,
            keys: None,
            patience: Duration::from_secs(30),
        }
    }
}

impl PoolBuilder {
    /// How many processes (as many as this process may use processors). With [`bind`](Self::bind) it may be 0: all work is done by
    /// workers of other programs. Each costs about ten descriptors here, so with a hard limit of 1,024 (`ulimit -Hn`) there may be a
    /// hundred of them.
    #[doc(alias = "processes")]
    pub const fn workers(mut self, workers: u32) -> Self {
        self.workers = Some(workers);
        self
    }

    /// The workers' name, for people: `NAME-1` and so on, in errors and as `ps` shows them (`PoolWorker`).
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// A task that every worker runs before all others, also one that replaces another. When it fails three times in a row and no
    /// worker is ready, the pool gives up, with [`Error::PoolStart`], instead of starting workers for ever as Python's does.
    ///
    /// # Errors
    /// When the arguments cannot be encoded.
    #[doc(alias = "initargs")]
    pub fn initializer<T: Task>(mut self, task: T, args: T::Args) -> Result<Self> {
        let _ = task;
        let args = rmp_serde::to_vec(&args).map_err(|error| Error::Encoding {
            what: format!("the arguments of initializer {}", T::NAME),
            why: error.to_string(),
        })?;
        self.initializer = Some((T::NAME.to_owned(), ByteBuf::from(args)));
        Ok(self)
    }

    /// After how many calls a worker leaves and is replaced by a fresh one: against functions that leak. 0: never (0). Python counts
    /// chunks; here each item of a `map` counts.
    #[doc(alias = "maxtasksperchild")]
    pub const fn max_tasks_per_child(mut self, tasks: u64) -> Self {
        self.max_tasks = tasks;
        self
    }

    /// How often a call is made again because its worker died (2). Only calls that were known to run when it died count; what had not
    /// begun is made elsewhere and is nobody's fault. As the word that a call has begun may die with its worker, one that kills at once
    /// may be made once more than that.
    pub const fn retries(mut self, retries: u32) -> Self {
        self.retries = retries;
        self
    }

    /// How long a call may take, see [`Tasks::time_limit`](super::Tasks::time_limit) (as long as it likes).
    pub const fn time_limit(mut self, limit: Duration) -> Self {
        self.time_limit = Some(limit);
        self
    }

    /// Listens here for workers of other programs and hosts, which join with [`Pool::worker`]: `tcp://127.0.0.1:*`, `ipc://PATH`.
    pub fn bind(mut self, endpoint: impl Into<String>) -> Self {
        self.endpoint = Some(endpoint.into());
        self
    }

    /// A pool whose calls go through a queue; see [`Pool::open`].
    ///
    /// # Errors
    /// As there; [`Error::PoolStart`] with an [`initializer`](Self::initializer): its workers are no children of this pool.
    pub fn open(mut self, url: &str) -> Result<Pool> {
        if !by_queue::is_queue(url) {
            return Err(Error::BadEndpoint {
                endpoint: url.to_owned(),
                why: "it names no queue: redis://HOST?queue=NAME, amqp://, beanstalk://, or tcp://HOST:PORT?queue=NAME of a procession queue; \
                      to listen there yourself, bind"
                    .to_owned(),
            });
        }
        if self.initializer.is_some() {
            return Err(Error::PoolStart {
                why: "the workers at a queue are started by other programs, for any number of pools: an initializer is for workers of one's own"
                    .to_owned(),
            });
        }
        self.queue = Some(url.to_owned());
        self.workers = Some(0);
        self.start()
    }

    /// Uses these keys by TCP, instead of those that `PROCESSION_KEYS` names.
    pub fn keys(mut self, keys: Keys) -> Self {
        self.keys = Some(keys);
        self
    }

    /// Allows plain TCP, also beyond this machine, where anyone who can connect may take tasks and give results.
    pub const fn insecure(mut self, allowed: bool) -> Self {
        self.insecure = allowed;
        self
    }

    /// How long tasks wait when no worker is there (30 s); then they fail, and the pool ends. In a pool that has no processes of its
    /// own they fail with [`Error::NobodyThere`]; in one that has, and cannot start another because descriptors, processes or memory
    /// have run out, with [`Error::PoolStart`].
    pub const fn patience(mut self, time: Duration) -> Self {
        self.patience = time;
        self
    }

    /// Starts the workers; returns as soon as their processes exist.
    ///
    /// # Errors
    /// When an endpoint is bad or in use, or one of the processes cannot be started now ([`Error::Start`]; later it is tried again, see
    /// [`patience`](Self::patience)); [`Error::DaemonWithChildren`] in a worker
    /// of a pool, because it is a daemon: make the inner pool in the program itself, or use threads there.
    pub fn start(self) -> Result<Pool> {
        let workers = self.workers.unwrap_or_else(default_workers);
        if workers == 0 && self.endpoint.is_none() && self.queue.is_none() {
            return Err(Error::PoolStart {
                why: "there are none: a pool has at least one worker, or `bind`s an endpoint at which others can join".to_owned(),
            });
        }
        runtime_dir::sweep();
        let name = match &self.queue {
            Some(url) => url.clone(),
            None => format!("inproc://pool-{:016x}", random_id()?),
        };
        let reply = Reply::new()?;
        let mut builder = Ventilator::<()>::builder(&name)
            .listed()
            .title(format!("pool {}", self.name))
            .insecure(self.insecure)
            .patience(match self.queue {
                Some(_) => self.patience,
                None => FOR_EVER,
            })
            .report_first_death();
        if let Some(endpoint) = &self.endpoint {
            builder = builder.bind_also(endpoint).job(&self.initializer)?;
        }
        if let Some(keys) = &self.keys {
            builder = builder.keys(keys.clone());
        }
        if self.queue.is_some() {
            builder = builder.reply(reply.clone());
        }
        let ventilator: Ventilator<Body> = builder.start()?;
        let dir = ventilator.private_dir().to_owned();
        let mut sink = Sink::<()>::builder().insecure(self.insecure);
        if self.queue.is_some() {
            sink = sink.reply(reply).patience(self.patience);
            if let Some(keys) = &self.keys {
                sink = sink.proof(keys.clone());
            }
        } else {
            sink = sink.bind(format!("ipc://{}", dir.join("results").display()));
        }
        let public = ventilator
            .endpoints()
            .iter()
            .find(|bound| self.endpoint.is_some() && is_public(bound, &dir))
            .cloned();
        if let Some(Endpoint::Tcp { host, .. }) = &public {
            sink = sink.gather_on(host.clone());
        }
        let table = Arc::new(Table::new(ventilator.intake().clone()));
        let inner = Arc::new(Inner {
            table: Arc::clone(&table),
            orders: Arc::clone(ventilator.orders()),
            handle: ventilator.handle(),
            local: workers,
            seen: AtomicU32::new(workers),
            seen_at: Mutex::new(None),
            // At a queue nobody knows who works there.
            patience: (workers == 0 && self.queue.is_none()).then_some(self.patience),
            endpoint: public.as_ref().map(ToString::to_string).unwrap_or_default(),
            crew: Mutex::default(),
            feeds: Mutex::default(),
            callbacks: Callbacks::default(),
            parts: Mutex::default(),
            terminating: Mutex::default(),
            nobody_since: Mutex::default(),
        });
        // A program that ends while this pool is there ends it.
        let living: Weak<Inner> = Arc::downgrade(&inner);
        living::remember(living);
        let deliver = {
            let inner = Arc::clone(&inner);
            Box::new(move |results| deal_with(&inner, results))
        };
        let sink: Sink<Body> = sink.deliver(deliver).connect(&name)?;
        let gatherer = {
            let inner = Arc::clone(&inner);
            std::thread::Builder::new()
                .name("pool-results".to_owned())
                .spawn(move || watch(&inner, sink))
                .map_err(|error| Error::system("cannot start a thread of the pool", error))?
        };
        // From here on dropping the pool ends what has been started.
        *inner.parts() = Some(Parts {
            ventilator,
            gatherer,
        });
        let pool = Pool {
            inner: Arc::clone(&inner),
            public,
            time_limit: self.time_limit,
            retries: self.retries,
        };
        if self.queue.is_some() {
            return Ok(pool);
        }
        let crew = Crew::start(Settings {
            workers,
            name: self.name,
            orders: Orders {
                endpoint: format!("ipc://{}", dir.join("control").display()),
                insecure: false,
                keys: None,
                patience: LOST,
                initializer: self.initializer,
                max_tasks: self.max_tasks,
                came: PathBuf::new(),
            },
            start_patience: self.patience,
            of_pool: true,
            on_give_up: Box::new({
                let inner = Arc::downgrade(&inner);
                move |why| {
                    table.end(&End::Start {
                        why: why.to_owned(),
                    });
                    if let Some(inner) = inner.upgrade() {
                        inner.refill();
                    }
                }
            }),
        })?;
        *inner.crew() = Some(Arc::new(crew));
        Ok(pool)
    }
}

/// Whether it is the endpoint that the user gave, and not one of our own.
fn is_public(endpoint: &Endpoint, dir: &std::path::Path) -> bool {
    match endpoint {
        Endpoint::Inproc(_) => false,
        Endpoint::Ipc(path) => !path.starts_with(dir),
        Endpoint::Tcp { .. } => true,
    }
}

/// As many as this process may use processors.
pub(super) fn default_workers() -> u32 {
    std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32)
}
