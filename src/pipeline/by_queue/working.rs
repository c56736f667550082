//! The worker's loop: takes tasks from one queue for its slots, and puts what they have done into the other.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustc_hash::FxHashMap;

use super::{Done, Queues, TURN, Task};
use crate::JoinableQueue;
use crate::error::{Error, Result};
use crate::hub::consumer::{Assigned, Ended, Shared};
use crate::hub::member::Taken;
use crate::hub::outbox::Finished;
use crate::hub::outside::poll;
use crate::queue::after;
use crate::wire::body::Body;
use crate::wire::frame::{PeerId, Pill, TaskId, kind};

/// While results are on their way to the queue, a look at what the slots have done.
const ROUND: Duration = Duration::from_millis(8);

/// So many tasks may wait for one of another pool that has the same number.
const MOST_WAITING: usize = 64;
/// The queues of so many pools are kept open for their results.
const POOLS: usize = 64;

/// A worker whose tasks come from a queue.
pub(crate) struct Working {
    queues: Queues,
    shared: Arc<Shared>,
    peer: PeerId,
    on_kill: Option<Box<dyn Fn() + Send>>,
    /// Where results go, by what tasks say.
    results: FxHashMap<String, JoinableQueue<Done>>,
    held: Arc<Held>,
    killed: bool,
}

/// What the loop shares with the thread that takes tasks.
struct Held {
    tasks: JoinableQueue<Task>,
    /// By number: what was taken and has no result yet, and how it came.
    leased: Mutex<FxHashMap<TaskId, (Taken, Task)>>,
    /// The first task, taken to learn what the run is about.
    first: Mutex<Option<(Task, Taken)>>,
}

impl Held {
    fn leased(&self) -> MutexGuard<'_, FxHashMap<TaskId, (Taken, Task)>> {
        self.leased.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Working {
    /// Joins the queue of tasks.
    pub(crate) fn connect(
        queues: Queues,
        peer: PeerId,
        shared: &Arc<Shared>,
        on_kill: Option<Box<dyn Fn() + Send>>,
    ) -> Result<Self> {
        let tasks = queues.tasks_to_do(|| shared.is_leaving())?;
        Ok(Self {
            queues,
            shared: Arc::clone(shared),
            peer,
            on_kill,
            results: FxHashMap::default(),
            held: Arc::new(Held {
                tasks,
                leased: Mutex::default(),
                first: Mutex::default(),
            }),
            killed: false,
        })
    }

    /// What the run is about, as the first task says, for which it waits. Empty when there will be none.
    pub(crate) fn job(&self) -> Result<Vec<u8>> {
        let mut first = self
            .held
            .first
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        while first.is_none() && !self.shared.is_leaving() {
            match self.held.tasks.lease(after(TURN)) {
                Ok(leased) => *first = Some(leased),
                Err(Error::Empty) => {}
                Err(Error::ShutDown) => break,
                Err(error @ Error::Encoding { .. }) => log::warn!("passed over: {error}"),
                Err(error) => return Err(error),
            }
        }
        Ok((first.as_ref()).map_or(Vec::new(), |(task, _)| task.job.clone()))
    }

    /// Works until the queue was shut down, until told to leave, or until the queue is gone.
    pub(crate) fn run(mut self) -> Result<Ended> {
        let (held, shared) = (Arc::clone(&self.held), Arc::clone(&self.shared));
        let taking = thread::Builder::new()
            .name("tasks".to_owned())
            .spawn(move || take(&held, &shared))
            .map_err(|error| Error::system("cannot start a thread that takes tasks", error))?;
        let served = self.serve(&taking);
        if served.is_err() {
            self.shared.kill();
            self.read_orders();
        }
        self.shared.end(true);
        let was_shut_down = match taking.join() {
            Ok(taken) => taken,
            Err(_) => Ok(false),
        };
        served?;
        let pill = Pill {
            kind: kind::PILL,
            run: self.queues.run(),
            done: 0,
            failed: 0,
            cause: 0,
            kill: false,
        };
        Ok(Ended {
            pill: was_shut_down?.then_some(pill),
        })
    }

    fn serve(&mut self, taking: &thread::JoinHandle<Result<bool>>) -> Result<()> {
        loop {
            // Asked before what is there is looked at: behind the last task come only results.
            let no_more = taking.is_finished();
            self.read_orders();
            if self.shared.is_leaving() {
                self.shared.end(true);
            }
            let busy = self.shared.here() > 0;
            let some = self.report()?;
            if no_more && !busy && !some {
                return Ok(());
            }
            poll(&[], self.shared.waker(), if busy { ROUND } else { TURN })?;
        }
    }

    fn read_orders(&mut self) {
        if self.shared.is_killed()
            && !std::mem::replace(&mut self.killed, true)
            && let Some(on_kill) = &self.on_kill
        {
            on_kill();
        }
    }

    /// Puts what was done into the queue, and is then done with the tasks; whether there was something.
    fn report(&mut self) -> Result<bool> {
        let (finished, again, returned) = self.shared.take_out();
        if finished.is_empty() && again.is_empty() && returned.is_empty() {
            return Ok(false);
        }
        if self.results.len() >= POOLS {
            // All that was put there was flushed.
            self.results.clear();
        }
        let mut done = Vec::with_capacity(finished.len());
        let mut told: Vec<String> = Vec::new();
        for result in finished {
            let Some((taken, task)) = self.held.leased().remove(&result.id) else {
                continue;
            };
            done.push(taken);
            let result = self.done(result);
            if wanted(
                self.results(&task.reply)?
                    .put(result)
                    .map_err(|error| *error.why),
            )? && !told.contains(&task.reply)
            {
                told.push(task.reply);
            }
        }
        for reply in told {
            wanted(self.results(&reply)?.flush())?;
        }
        for failed in again {
            let Some((taken, mut task)) = self.held.leased().remove(&failed.id) else {
                continue;
            };
            task.attempt += 1;
            task.tries_left = task.tries_left.saturating_sub(1);
            task.obituaries = failed.obituaries;
            if wanted(self.held.tasks.put(task).map_err(|error| *error.why))? {
                wanted(self.held.tasks.flush())?;
            }
            done.push(taken);
        }
        for taken in done {
            self.held.tasks.settle(taken);
        }
        // What was returned goes to others when this process leaves.
        Ok(true)
    }

    /// Where a task's result goes.
    fn results(&mut self, reply: &str) -> Result<&JoinableQueue<Done>> {
        if !self.results.contains_key(reply) {
            let queue = self.queues.results(reply, || self.shared.is_killed())?;
            self.results.insert(reply.to_owned(), queue);
        }
        Ok(&self.results[reply])
    }

    fn done(&self, result: Finished) -> Done {
        let (body, error) = match result.body.to_bytes() {
            Ok(bytes) => (bytes.into(), result.error),
            Err(error) => (
                format!("the result cannot be read back: {error}").into_bytes(),
                true,
            ),
        };
        Done {
            id: result.id,
            attempt: result.attempt,
            worker: self.peer,
            exit: result.exit,
            signal: result.signal,
            micros: result.micros,
            error,
            body,
            obituaries: result.obituaries,
        }
    }
}

/// Whether somebody still wants it: who has shut its queue down does not.
fn wanted(put: Result<()>) -> Result<bool> {
    match put {
        Ok(()) => Ok(true),
        Err(Error::ShutDown) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Takes tasks as the slots can do with more; whether there will be no more because the queue was shut down.
fn take(held: &Held, shared: &Shared) -> Result<bool> {
    let first = held
        .first
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take();
    // Of several pools, whose tasks have the same numbers: what waits until the one of that number is done with.
    let mut waiting: VecDeque<(Task, Taken)> = first.into_iter().collect();
    let taken = loop {
        if shared.is_leaving() {
            break Ok(false);
        }
        for _ in 0..waiting.len() {
            if let Some((task, taken)) = waiting.pop_front() {
                waiting.extend(hold(held, shared, task, taken));
            }
        }
        if shared.here() >= shared.appetite() || waiting.len() >= MOST_WAITING {
            thread::sleep(Duration::from_millis(1));
            continue;
        }
        match held.tasks.lease(after(TURN)) {
            Ok(leased) => waiting.push_back(leased),
            Err(Error::Empty) => {}
            Err(Error::ShutDown) => break Ok(true),
            Err(error @ Error::Encoding { .. }) => log::warn!("passed over: {error}"),
            Err(error) => break Err(error),
        }
    };
    shared.end(false);
    shared.waker().wake();
    taken
}

/// Gives a task to the slots, unless another pool's of the same number is here: that is given back.
fn hold(held: &Held, shared: &Shared, mut task: Task, taken: Taken) -> Option<(Task, Taken)> {
    let mut leased = held.leased();
    if let Some((before, here)) = leased.get_mut(&task.id) {
        if here.reply != task.reply {
            return Some((task, taken));
        }
        // It comes again when the connection was lost: it runs already, and the way that it came last is the one that counts.
        *before = taken;
        return None;
    }
    let body = std::mem::take(&mut task.body);
    let assigned = Assigned {
        id: task.id,
        attempt: task.attempt,
        tries_left: task.tries_left,
        body: Body::from(body.clone()),
        obituaries: std::mem::take(&mut task.obituaries),
        seq: 0,
        lane: 0,
    };
    if task.tries_left > 0 {
        task.body = body;
    }
    leased.insert(assigned.id, (taken, task));
    drop(leased);
    shared.assign(assigned);
    None
}
