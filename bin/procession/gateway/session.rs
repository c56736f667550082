//! What one client asks for, by the queue's means.

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use procession::keys::Keys;
use procession::{Bytes, Error, JoinableQueue};
use thrift::Error as Answered;

use super::api::{
    Empty, Failed, Full, GatewaySyncHandler, NotGot, Refused, ShutDown, Status, Unavailable,
};
use super::results::{Answer, MOST_RUNNING, Results};

/// The longest time that a client may wait with one call.
const LONGEST: Duration = Duration::from_secs(60);
/// How long a queue is dialled while a client waits.
const PATIENCE: Duration = Duration::from_secs(5);

/// A queue whose items are not looked into.
type Raw = JoinableQueue<Bytes>;
/// A task's id, whether it succeeded, and what came of it.
type TaskResult = (String, bool, Bytes);

/// What all clients share.
pub(super) struct Gateway {
    url: String,
    results_url: Option<String>,
    keys: Option<Keys>,
    insecure: bool,
    /// For all that is put, and asked.
    queue: Mutex<Option<Raw>>,
    results: Arc<Results>,
    /// Results are gathered since the first task.
    gathering: Mutex<bool>,
    clients: AtomicUsize,
    /// Of this gateway's life: tasks of another one have other ids.
    life: String,
    tasks: AtomicU64,
}

/// A client's place among those that are connected.
pub(super) struct Place(Arc<Gateway>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.clients.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Gateway {
    /// Opens the queue, so that what is wrong with it is said at once.
    pub(super) fn open(
        url: &str,
        results_url: Option<String>,
        keys: Option<Keys>,
        insecure: bool,
        patience: Duration,
    ) -> procession::Result<Self> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|error| Error::Ended(error.to_string()))?;
        let gateway = Self {
            url: url.to_owned(),
            results_url,
            keys,
            insecure,
            queue: Mutex::default(),
            results: Arc::default(),
            gathering: Mutex::new(false),
            clients: AtomicUsize::new(0),
            life: format!("{:016x}", u64::from_ne_bytes(random)),
            tasks: AtomicU64::new(0),
        };
        let queue = gateway.connect(url, patience)?;
        *lock(&gateway.queue) = Some(queue);
        Ok(gateway)
    }

    fn connect<T: procession::Item>(
        &self,
        url: &str,
        patience: Duration,
    ) -> procession::Result<JoinableQueue<T>> {
        let mut builder = JoinableQueue::builder()
            .insecure(self.insecure)
            .patience(patience);
        if let Some(keys) = &self.keys {
            builder = builder.keys(keys.clone());
        }
        builder.connect(url)
    }

    /// A place for one more client, if so many may be there.
    pub(super) fn enter(self: &Arc<Self>, most: usize) -> Option<Place> {
        let one_more = |here: usize| (here < most).then_some(here + 1);
        let entered = self
            .clients
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more);
        entered.is_ok().then(|| Place(Arc::clone(self)))
    }

    /// The queue, for what all clients do alike; dialled anew when it was lost.
    fn with<R>(&self, call: impl FnOnce(&Raw) -> procession::Result<R>) -> thrift::Result<R> {
        let queue = {
            let mut shared = lock(&self.queue);
            match &*shared {
                Some(queue) => queue.clone(),
                None => {
                    let queue = self.connect(&self.url, PATIENCE).map_err(answer)?;
                    shared.insert(queue).clone()
                }
            }
        };
        call(&queue).map_err(|error| {
            if matches!(error, Error::HostGone { .. }) {
                *lock(&self.queue) = None;
            }
            answer(error)
        })
    }

    fn put(&self, item: &[u8], wait_ms: i32) -> thrift::Result<()> {
        let wait = time(wait_ms)?;
        self.with(|queue| {
            queue.put_encoded(item, wait)?;
            // From now on it survives this process.
            queue.flush_timeout(LONGEST)
        })
    }

    fn submit(&self, payload: Vec<u8>, wait_ms: i32) -> thrift::Result<String> {
        self.gather()?;
        let id = format!(
            "{}-{}",
            self.life,
            self.tasks.fetch_add(1, Ordering::Relaxed)
        );
        if !self.results.begin(&id, Instant::now()) {
            return Err(refused(format!(
                "{MOST_RUNNING} tasks have no result yet; wait for some"
            )));
        }
        let task = rmp_serde::to_vec(&(&id, Bytes::from(payload)))
            .map_err(|error| refused(error.to_string()));
        task.and_then(|task| self.put(&task, wait_ms))
            .inspect_err(|_| self.results.cancel(&id))?;
        Ok(id)
    }

    /// Gathers results, from the first task on.
    fn gather(&self) -> thrift::Result<()> {
        let mut gathering = lock(&self.gathering);
        if *gathering {
            return Ok(());
        }
        let Some(url) = self.results_url.clone() else {
            return Err(refused(
                "the gateway's queue has no name, so it is not known where results come; start it with --queue URL?queue=NAME, or --results URL"
                    .to_owned(),
            ));
        };
        let queue: JoinableQueue<TaskResult> = self.connect(&url, PATIENCE).map_err(answer)?;
        let results = Arc::clone(&self.results);
        let (keys, insecure) = (self.keys.clone(), self.insecure);
        std::thread::Builder::new()
            .name("results".to_owned())
            .spawn(move || {
                let again = || {
                    let mut builder = JoinableQueue::builder().insecure(insecure);
                    if let Some(keys) = &keys {
                        builder = builder.keys(keys.clone());
                    }
                    builder.connect(&url)
                };
                gather(queue, &results, again);
            })
            .map_err(|error| unavailable(error.to_string()))?;
        *gathering = true;
        Ok(())
    }

    fn status(&self) -> thrift::Result<Status> {
        let (items, unfinished) = self.with(|queue| Ok((queue.len()?, queue.unfinished()?)))?;
        let (running, results) = self.results.count();
        let whole = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        Ok(Status {
            queue: shown(&self.url),
            items: whole(items),
            unfinished: whole(unfinished),
            connections: i32::try_from(self.clients.load(Ordering::Acquire)).unwrap_or(i32::MAX),
            running: whole(running),
            results: whole(results),
        })
    }

    /// How things stand here, for people.
    pub(super) fn line(&self) -> String {
        let (running, results) = self.results.count();
        format!(
            "gateway to {}: {} clients, {running} tasks run, {results} results wait to be asked for",
            shown(&self.url),
            self.clients.load(Ordering::Acquire)
        )
    }
}

/// Without a password.
fn shown(url: &str) -> String {
    let address = url.parse::<procession::engine::Address>();
    address.map_or_else(|_| "its queue".to_owned(), |address| address.to_string())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes results as long as there is room for them.
fn gather(
    mut queue: JoinableQueue<TaskResult>,
    results: &Results,
    again: impl Fn() -> procession::Result<JoinableQueue<TaskResult>>,
) {
    const ROUND: Duration = Duration::from_secs(1);
    loop {
        if !results.has_room(Instant::now()) {
            std::thread::sleep(ROUND);
            continue;
        }
        match queue.get_timeout(ROUND) {
            Ok((id, good, outcome)) => {
                let outcome = match good {
                    true => Ok(outcome.into_vec()),
                    false => Err(String::from_utf8_lossy(&outcome).into_owned()),
                };
                if !results.done(&id, outcome, Instant::now()) {
                    log::debug!("a result of task {id}, which has one, or was not submitted here");
                }
            }
            Err(Error::Empty) => continue,
            Err(Error::Encoding { why, .. }) => {
                log::warn!("dropped an item among results, which is none: {why}");
            }
            Err(error) => {
                log::warn!("results: {error}");
                std::thread::sleep(ROUND);
                match again() {
                    Ok(anew) => queue = anew,
                    Err(error) => log::warn!("results: {error}"),
                }
                continue;
            }
        }
        if let Err(error) = queue.task_done() {
            log::warn!("results: {error}");
        }
    }
}

/// One client. What it has got is its own: with its connection this queue's membership ends, and what it was not done with goes to others.
pub(super) struct Session {
    gateway: Arc<Gateway>,
    queue: RefCell<Option<Raw>>,
    held: Cell<u64>,
}

impl Session {
    pub(super) const fn new(gateway: Arc<Gateway>) -> Self {
        Self {
            gateway,
            queue: RefCell::new(None),
            held: Cell::new(0),
        }
    }

    /// The queue is gone, and what was held of it: it is dialled anew when something is asked for again.
    fn lost(&self, error: Error) -> Answered {
        if matches!(error, Error::HostGone { .. }) {
            self.queue.replace(None);
            self.held.set(0);
        }
        answer(error)
    }
}

impl GatewaySyncHandler for Session {
    fn handle_put(&self, item: Vec<u8>, wait_ms: i32) -> thrift::Result<()> {
        self.gateway.put(&item, wait_ms)
    }

    fn handle_get(&self, wait_ms: i32) -> thrift::Result<Vec<u8>> {
        let wait = time(wait_ms)?;
        let here = self.queue.borrow().clone();
        let queue = match here {
            Some(queue) => queue,
            None => {
                let gateway = &self.gateway;
                let queue: Raw = gateway.connect(&gateway.url, PATIENCE).map_err(answer)?;
                self.queue.replace(Some(queue.clone()));
                queue
            }
        };
        let item = queue.get_encoded(wait).map_err(|error| self.lost(error))?;
        self.held.set(self.held.get() + 1);
        Ok(item)
    }

    fn handle_task_done(&self) -> thrift::Result<()> {
        if self.held.get() == 0 {
            return Err(Answered::from(NotGot::new()));
        }
        let queue = self.queue.borrow().clone();
        let done = queue
            .as_ref()
            .map_or(Err(Error::NotGot), |queue| queue.task_done());
        done.map_err(|error| self.lost(error))?;
        self.held.set(self.held.get() - 1);
        Ok(())
    }

    fn handle_submit(&self, payload: Vec<u8>, wait_ms: i32) -> thrift::Result<String> {
        self.gateway.submit(payload, wait_ms)
    }

    fn handle_result(&self, id: String, wait_ms: i32) -> thrift::Result<Vec<u8>> {
        match self.gateway.results.wait(&id, time(wait_ms)?) {
            Answer::There(Ok(outcome)) => Ok(outcome),
            Answer::There(Err(why)) => Err(Answered::from(Failed::new(why))),
            Answer::NotYet => Err(Answered::from(Empty::new())),
            Answer::Unknown => Err(refused(
                "no task of this id was submitted at this gateway, or its result was forgotten: a minute after it was given, or an hour after it came"
                    .to_owned(),
            )),
        }
    }

    fn handle_status(&self) -> thrift::Result<Status> {
        self.gateway.status()
    }
}

fn time(wait_ms: i32) -> thrift::Result<Duration> {
    let wait = u64::try_from(wait_ms).map_err(|_| {
        refused(format!(
            "wait_ms is {wait_ms}; 0 or more milliseconds are meant"
        ))
    })?;
    Ok(Duration::from_millis(wait).min(LONGEST))
}

fn refused(why: String) -> Answered {
    Answered::from(Refused::new(why))
}

fn unavailable(why: String) -> Answered {
    Answered::from(Unavailable::new(why))
}

/// An error of the queue's, as the client sees it.
fn answer(error: Error) -> Answered {
    match error {
        Error::Full { maxsize } => {
            Answered::from(Full::new(i64::try_from(maxsize).unwrap_or(i64::MAX)))
        }
        Error::Empty => Answered::from(Empty::new()),
        Error::ShutDown => Answered::from(ShutDown::new()),
        Error::NotGot => Answered::from(NotGot::new()),
        error @ (Error::Encoding { .. } | Error::BadHandle { .. }) => refused(error.to_string()),
        error => unavailable(error.to_string()),
    }
}
