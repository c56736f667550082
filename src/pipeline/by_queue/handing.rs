//! The ventilator's loop: hands tasks over to the queue.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{About, Queues, Reply, Task};
use crate::JoinableQueue;
use crate::error::{Error, Result};
use crate::hub::host::{Orders, Summary, host_name};
use crate::hub::intake::{Fresh, Intake};
use crate::hub::outside::{Instant, poll};
use crate::wire::frame::{State, kind};
use crate::wire::wake::Waker;

/// So many tasks are taken from the program ahead.
const ROOM: u64 = 4096;
/// How often it is told how far the run is.
const PUBLISH: Duration = Duration::from_millis(50);

/// A ventilator whose tasks go into a queue.
pub(crate) struct Handing {
    queues: Queues,
    tasks: JoinableQueue<Task>,
    /// A run's; a pool has nothing to say there.
    about: Option<JoinableQueue<About>>,
    reply: Reply,
    intake: Intake,
    orders: Arc<Orders>,
    waker: Waker,
    job: Vec<u8>,
    tries: u32,
    title: String,
    put: u64,
    started: Instant,
    published: Option<Instant>,
}

impl Handing {
    /// Joins the queues, and says what the run is about.
    pub(crate) fn connect(
        queues: Queues,
        (intake, orders, waker): (Intake, Arc<Orders>, Waker),
        job: Vec<u8>,
        tries: u32,
        title: String,
        reply: Option<Reply>,
    ) -> Result<Self> {
        let (tasks, about) = match &reply {
            Some(_) => (queues.tasks()?, None),
            None => {
                let (tasks, about) = Self::begin(&queues, &job)?;
                (tasks, Some(about))
            }
        };
        Ok(Self {
            queues,
            tasks,
            about,
            reply: reply.unwrap_or_default(),
            intake,
            orders,
            waker,
            job,
            tries: tries.max(1),
            title,
            put: 0,
            started: Instant::now(),
            published: None,
        })
    }

    /// Says what the run is about.
    fn begin(queues: &Queues, job: &[u8]) -> Result<(JoinableQueue<Task>, JoinableQueue<About>)> {
        let (mut tasks, mut about) = (queues.tasks()?, queues.about(|| false)?);
        let begin = |about: &JoinableQueue<About>| {
            let begin = About::Begin { job: job.to_vec() };
            about.put(begin).map_err(|error| *error.why)?;
            about.flush()
        };
        match begin(&about) {
            Err(Error::ShutDown) => {
                // A run of this name is over.
                drop((tasks, about));
                queues.clear()?;
                (tasks, about) = (queues.tasks()?, queues.about(|| false)?);
                begin(&about)?;
            }
            begun => begun?,
        }
        Ok((tasks, about))
    }

    /// Hands over what the program puts, till it puts no more or is told to stop.
    pub(crate) fn run(mut self) -> Result<Summary> {
        let handed = self.hand_over();
        self.intake.close();
        self.reply.over.store(true, Ordering::Release);
        let cause = handed?;
        self.tasks.flush()?;
        let end = About::End {
            total: self.put,
            cause,
        };
        if let Some(about) = &self.about {
            about.put(end).map_err(|error| *error.why)?;
            about.flush()?;
        }
        self.publish();
        log::info!(
            "{} tasks were handed over to {}",
            self.put,
            self.queues.shown()
        );
        Ok(Summary {
            done: 0,
            cause,
            ..Summary::default()
        })
    }

    fn hand_over(&mut self) -> Result<u8> {
        loop {
            if let Some(cause) = self.orders.halted() {
                return Ok(cause);
            }
            let (fresh, ended) = self.intake.take(ROOM, true);
            if fresh.is_empty() && ended {
                return Ok(0);
            }
            if fresh.is_empty() {
                poll(&[], &self.waker, Duration::from_secs(1))?;
            }
            for task in fresh {
                if !self.put(task)? {
                    break;
                }
            }
            if self.published.is_none_or(|at| at.elapsed() >= PUBLISH) {
                self.publish();
            }
        }
    }

    /// Puts a task, waiting for room; `false` when told to stop meanwhile.
    fn put(&mut self, fresh: Fresh) -> Result<bool> {
        let body = fresh
            .body
            .to_bytes()
            .map_err(|error| Error::system("cannot read a task", error))?;
        let mut task = Task {
            id: self.put + 1,
            attempt: 1,
            tries_left: self.tries - 1,
            job: self.job.clone(),
            body: body.into(),
            obituaries: Vec::new(),
            reply: self.reply.name.clone(),
        };
        loop {
            match self.tasks.put_timeout(task, super::TURN) {
                Ok(()) => break,
                Err(error) => match *error.why {
                    Error::Full { .. } if self.orders.halted().is_some() => return Ok(false),
                    Error::Full { .. } => task = error.item,
                    why => return Err(why),
                },
            }
        }
        self.put += 1;
        Ok(true)
    }

    fn publish(&mut self) {
        self.published = Some(Instant::now());
        self.orders.publish(State {
            kind: kind::STATE,
            run: self.queues.run(),
            pid: std::process::id(),
            host: host_name(),
            title: self.title.clone(),
            seconds: self.started.elapsed().as_secs_f64(),
            // Who runs them is known to the queue alone.
            waiting: self.put,
            ..State::default()
        });
    }
}
