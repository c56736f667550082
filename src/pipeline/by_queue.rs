//! A run whose tasks and results go through queues, which somebody else carries: a server, or a host of queues
//! (`procession queue`). So the roles need not meet, and the ventilator may leave when it has handed over its last task.
//!
//! ```text
//!   ventilator ─► NAME.tasks ─► workers ─► NAME.results ─► sink
//!            └──────────────► NAME.about ───────────────────┘
//! ```
//!
//! All are [`JoinableQueue`]s. A worker is done with a task when its result is in the other queue; the sink is done with a result when the
//! program has kept it. So what a dead worker held is run again, what a dead sink had not kept comes to the next one, and of several results
//! of one task the sink takes the first. In the third queue the ventilator says what the run is about, and at its end how many tasks there
//! are. The sink holds these items until the run is over, so that the next sink hears them, too, and none before; and it says there that it was here. When
//! it has kept as many results as there are tasks, it shuts the queues down: that is the poison pill.
//!
//! The program's side of each role is that of a run with a ventilator of its own; only the loop behind it is another one.

mod gathering;
mod handing;
mod working;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub(crate) use gathering::Gathering;
pub(crate) use handing::Handing;
pub(crate) use working::Working;

use super::random_id;
use crate::JoinableQueue;
use crate::engine::{Address, Scheme};
use crate::error::{Error, Result};
use crate::obituary::Obituary;
use crate::queue::Item;
use crate::wire::access::Means;
use crate::wire::frame::RunId;

/// So long a loop waits for one thing before it looks at the others.
const TURN: Duration = Duration::from_millis(50);

/// An item of `NAME.tasks`.
#[derive(Debug, Serialize, Deserialize)]
struct Task {
    /// From 1, in the order of input.
    id: u64,
    /// From 1.
    attempt: u32,
    tries_left: u32,
    /// What the ventilator's program says about the run.
    #[serde(with = "serde_bytes")]
    job: Vec<u8>,
    #[serde(with = "serde_bytes")]
    body: Vec<u8>,
    obituaries: Vec<Obituary>,
    /// Its result goes to `NAME.results.REPLY`, where a pool waits for it; else to `NAME.results`.
    reply: String,
}

/// An item of `NAME.about`.
#[derive(Debug, Serialize, Deserialize)]
enum About {
    /// What the run is about. The sink holds it, so there is one sink at a time.
    Begin {
        #[serde(with = "serde_bytes")]
        job: Vec<u8>,
    },
    /// The run has had a sink.
    Gathered,
    /// So many tasks there are; why there are no more: as in [`Pill`](crate::wire::frame::Pill).
    End { total: u64, cause: u8 },
}

/// An item of `NAME.results`: what came of a task.
#[derive(Debug, Serialize, Deserialize)]
struct Done {
    id: u64,
    attempt: u32,
    worker: u64,
    exit: i32,
    signal: i32,
    micros: u64,
    /// There is no value: the body is an error's text.
    error: bool,
    #[serde(with = "serde_bytes")]
    body: Vec<u8>,
    obituaries: Vec<Obituary>,
}

/// Of a pool, of which there may be several at one queue of tasks: where its results go, and when it is over.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reply {
    name: String,
    over: Arc<AtomicBool>,
}

impl Reply {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            name: format!("{:016x}", random_id()?),
            over: Arc::default(),
        })
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }
}

/// Whether a run that is named so goes through queues.
pub(crate) fn is_queue(url: &str) -> bool {
    Address::is_of_server(url) || url.contains("?queue=") || url.contains("&queue=")
}

/// The two queues of a run.
#[derive(Clone, Debug)]
pub(crate) struct Queues {
    address: Address,
    means: Means,
    patience: Duration,
}

impl Queues {
    pub(crate) fn new(url: &str, means: Means, patience: Duration) -> Result<Self> {
        let address: Address = url.parse()?;
        if address.queue.is_empty() {
            return Err(Error::BadEndpoint {
                endpoint: address.to_string(),
                why: "a run's queue has a name: add ?queue=NAME".to_owned(),
            });
        }
        Ok(Self {
            address,
            means,
            patience,
        })
    }

    /// As it is shown.
    fn shown(&self) -> String {
        self.address.to_string()
    }

    /// The run's number, which follows from its name: whoever comes again comes to the same run.
    pub(crate) fn run(&self) -> RunId {
        let named = format!("{} {}", self.address.server, self.address.queue);
        let mut number = [0; 8];
        number.copy_from_slice(&blake3::hash(named.as_bytes()).as_bytes()[..8]);
        RunId::from_le_bytes(number).max(1)
    }

    /// For who puts tasks.
    fn tasks(&self) -> Result<JoinableQueue<Task>> {
        self.open(&self.part("tasks"), || false)
    }

    /// For who takes them: a task that is tried again finds room in any case, or nobody would ever make some. A host of queues, which
    /// does not count what was taken, is asked for the queue as it is.
    fn tasks_to_do(&self, leaving: impl Fn() -> bool) -> Result<JoinableQueue<Task>> {
        let mut address = self.part("tasks");
        if address.scheme != Scheme::ZeroMq {
            address.maxsize = None;
        }
        self.open(&address, leaving)
    }

    fn results(&self, reply: &str, leaving: impl Fn() -> bool) -> Result<JoinableQueue<Done>> {
        let part = match reply {
            "" => "results".to_owned(),
            reply => format!("results.{reply}"),
        };
        // Bounding these as well, a sink that waits for one more would wait for ever.
        let address = Address {
            maxsize: None,
            ..self.part(&part)
        };
        self.open(&address, leaving)
    }

    fn about(&self, leaving: impl Fn() -> bool) -> Result<JoinableQueue<About>> {
        let address = Address {
            maxsize: None,
            ..self.part("about")
        };
        self.open(&address, leaving)
    }

    fn part(&self, part: &str) -> Address {
        self.address
            .named(&format!("{}.{part}", self.address.queue))
    }

    /// Opens it, unless told to leave meanwhile: [`Error::Ended`] then.
    fn open<T: Item>(
        &self,
        address: &Address,
        leaving: impl Fn() -> bool,
    ) -> Result<JoinableQueue<T>> {
        let mut builder = JoinableQueue::<T>::builder()
            .patience(self.patience)
            .insecure(self.means.insecure);
        if let Some(keys) = &self.means.keys {
            builder = builder.keys(keys.clone());
        }
        let url = address.url();
        let (tell, told) = mpsc::channel();
        thread::Builder::new()
            .name("queue-opening".to_owned())
            .spawn(move || {
                // Nobody hears it who has left.
                let _ = tell.send(builder.connect(&url));
            })
            .map_err(|error| Error::system("cannot start a thread that opens a queue", error))?;
        loop {
            match told.recv_timeout(TURN) {
                Ok(opened) => return opened,
                Err(RecvTimeoutError::Timeout) if !leaving() => {}
                Err(_) => {
                    return Err(Error::Ended(format!(
                        "told to leave before {} was there",
                        self.shown()
                    )));
                }
            }
        }
    }

    /// Removes what is left of a run of this name that is over.
    fn clear(&self) -> Result<()> {
        if self.address.scheme == Scheme::ZeroMq {
            return Err(Error::Refused {
                who: "ventilator",
                endpoint: self.shown(),
                why: "a run of this name is over, and its host of queues still knows it; take another name".to_owned(),
            });
        }
        for part in ["tasks", "results", "about"] {
            crate::engine::open(&self.part(part), true)?
                .connect()?
                .remove()?;
        }
        Ok(())
    }
}
