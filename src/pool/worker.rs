//! Workers of a pool that another program, perhaps on another host, has bound.

use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use serde_bytes::ByteBuf;

use super::builder::default_workers;
use super::child::Orders;
use super::crew::{Crew, Settings};
use super::living;
use crate::error::{Error, Result};
use crate::keys::Keys;
use crate::pipeline::by_queue;
use crate::pipeline::{Answer, Slot, Worker};
use crate::wire::body::Body;
use crate::wire::runtime_dir;

/// Worker processes of this program for a pool that another one has bound: what [`Pool::worker`](super::Pool::worker) gives.
///
/// Both programs must have the tasks, under the same names; one that is not known here is that task's error. The pool's initializer
/// is run here, too.
#[derive(Clone, Debug)]
#[must_use = "nobody joins before run"]
pub struct PoolWorker {
    endpoint: String,
    workers: Option<u32>,
    name: String,
    max_tasks: u64,
    patience: Duration,
    insecure: bool,
    keys: Option<Keys>,
}

impl PoolWorker {
    pub(super) fn new(endpoint: &str) -> Self {
        Self {
            endpoint: endpoint.to_owned(),
            workers: None,
            name: "PoolWorker".to_owned(),
            max_tasks: 0,
            patience: Duration::from_secs(30),
            insecure: false,
            keys: None,
        }
    }

    /// How many processes (as many as this process may use processors).
    pub const fn workers(mut self, workers: u32) -> Self {
        self.workers = Some(if workers == 0 { 1 } else { workers });
        self
    }

    /// The workers' name, for people (`PoolWorker`).
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// After how many calls a worker leaves and is replaced by a fresh one; 0: never (0).
    pub const fn max_tasks_per_child(mut self, tasks: u64) -> Self {
        self.max_tasks = tasks;
        self
    }

    /// How long to wait for the pool, at the start or when it is lost, and for a process when none can be started (30 s).
    pub const fn patience(mut self, time: Duration) -> Self {
        self.patience = time;
        self
    }

    /// Uses these keys by TCP, instead of those that `PROCESSION_KEYS` names.
    pub fn keys(mut self, keys: Keys) -> Self {
        self.keys = Some(keys);
        self
    }

    /// Allows plain TCP, also beyond this machine.
    pub const fn insecure(mut self, allowed: bool) -> Self {
        self.insecure = allowed;
        self
    }

    /// Joins the pool and works until it ends.
    ///
    /// A worker that is killed is replaced, as in the pool's own program.
    ///
    /// # Errors
    /// [`Error::NobodyThere`] when there is no pool; [`Error::Ended`] when it is lost for longer than
    /// [`patience`](Self::patience), or the workers do not start.
    pub fn run(self) -> Result<()> {
        runtime_dir::sweep();
        let initializer = match by_queue::is_queue(&self.endpoint) {
            true => None,
            false => match self.ask()? {
                Asked::Initializer(initializer) => initializer,
                Asked::Ended => return Ok(()),
            },
        };
        let crew = Crew::start(Settings {
            workers: self.workers.unwrap_or_else(default_workers),
            name: self.name,
            orders: Orders {
                endpoint: self.endpoint,
                insecure: self.insecure,
                keys: self.keys.map(|keys| keys.dir().to_owned()),
                patience: self.patience,
                initializer,
                max_tasks: self.max_tasks,
                came: PathBuf::new(),
            },
            start_patience: self.patience,
            of_pool: false,
            on_give_up: Box::new(|_| {}),
        })?;
        let crew = Arc::new(crew);
        let living: Weak<Crew> = Arc::downgrade(&crew);
        living::remember(living);
        crew.join(None);
        match crew.gave_up() {
            Some(why) => Err(Error::Ended(why)),
            None => Ok(()),
        }
    }

    /// Joins and leaves at once, to hear what every worker has to do first.
    fn ask(&self) -> Result<Asked> {
        let mut visitor = Worker::builder()
            .patience(self.patience)
            .insecure(self.insecure);
        if let Some(keys) = &self.keys {
            visitor = visitor.proof(keys.clone());
        }
        let visitor = visitor.connect(&self.endpoint)?;
        let initializer: Option<(String, ByteBuf)> = visitor.job().unwrap_or_default();
        visitor.handle().leave();
        let end = visitor.serve(|mut slot: Slot<Body, Body>| {
            while let Some(lease) = slot.get() {
                slot.finish(lease, Answer::failed("nobody works here"));
            }
        })?;
        Ok(match end.cause {
            Some(_) => Asked::Ended,
            None => Asked::Initializer(initializer),
        })
    }
}

/// What a pool says to who comes.
enum Asked {
    Initializer(Option<(String, ByteBuf)>),
    Ended,
}
