//! [`JoinableQueue`]: a queue whose items are done with when the getter says so.

use std::fmt;
use std::ops::Deref;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Error, Result};
use crate::hub::member::Wait;
use crate::queue::{Item, Queue, QueueBuilder, after};
use crate::wire::frame::kind;

/// Python's `multiprocessing.JoinableQueue`: a [`Queue`], all of whose methods it has, with [`task_done`](Self::task_done) and
/// [`join`](Self::join).
///
/// An item whose getter dies before its `task_done` goes to another getter: this is the queue for items that must not be lost. It may then be done
/// twice.
///
/// ```
/// use procession::JoinableQueue;
/// let queue = JoinableQueue::new()?;
/// let worker = queue.clone();
/// let thread = std::thread::spawn(move || -> procession::Result<u32> {
///     let mut sum = 0;
///     for number in worker.iter() {
///         sum += number?;
///         worker.task_done()?;
///     }
///     Ok(sum)
/// });
/// for number in 1..=4 {
///     queue.put(number)?;
/// }
/// queue.join()?; // every item has been done with
/// queue.shutdown()?;
/// assert_eq!(thread.join().expect("no panic")?, 10);
/// # Ok::<(), procession::Error>(())
/// ```
pub struct JoinableQueue<T> {
    queue: Queue<T>,
}

impl<T: Item> JoinableQueue<T> {
    /// A queue for any number of items, hosted by this process.
    ///
    /// # Errors
    /// As [`Queue::new`].
    pub fn new() -> Result<Self> {
        Self::builder().open()
    }

    /// A queue for up to `maxsize` items that no `get` has returned; 0 stands for any number.
    ///
    /// # Errors
    /// As [`Queue::new`].
    pub fn with_maxsize(maxsize: usize) -> Result<Self> {
        Self::builder().maxsize(maxsize).open()
    }

    /// A queue that others find at `endpoint`, hosted by this process.
    ///
    /// # Errors
    /// As [`Queue::bind`].
    pub fn bind(endpoint: &str) -> Result<Self> {
        Self::builder().bind(endpoint).open()
    }

    /// The queue that a URL leads to.
    ///
    /// # Errors
    /// As [`Queue::open`].
    pub fn open(url: &str) -> Result<Self> {
        Self::builder().connect(url)
    }

    /// The queue that another program has bound at `endpoint`.
    ///
    /// # Errors
    /// As [`Queue::connect`].
    pub fn connect(endpoint: &str) -> Result<Self> {
        Self::builder().connect(endpoint)
    }

    /// Settings of a queue.
    #[must_use]
    pub fn builder() -> QueueBuilder<Self> {
        QueueBuilder::new(true)
    }

    /// The item that this thread has got first, of those for which it has not said so, is done with. A thread that has got none speaks for
    /// the other threads of this process, of the item that was got first: so one can get what others work on.
    ///
    /// # Errors
    /// [`Error::NotGot`] when there is none: one `task_done` too many.
    pub fn task_done(&self) -> Result<()> {
        if self.queue.member()?.task_done() {
            Ok(())
        } else {
            Err(Error::NotGot)
        }
    }

    /// Waits until each item that was put has been done with.
    ///
    /// # Errors
    /// [`Error::HostGone`].
    pub fn join(&self) -> Result<()> {
        self.queue.ask(kind::JOIN).map(drop)
    }

    /// As [`join`](Self::join), for no longer than `time`; whether all are done with.
    ///
    /// # Errors
    /// [`Error::HostGone`].
    pub fn join_timeout(&self, time: Duration) -> Result<bool> {
        if time.is_zero() {
            return self.unfinished().map(|unfinished| unfinished == 0);
        }
        let answer = self.queue.ask_waiting(kind::JOIN, after(time))?;
        Ok(answer.is_some())
    }

    /// How many items were put and not done with.
    ///
    /// # Errors
    /// [`Error::HostGone`].
    pub fn unfinished(&self) -> Result<usize> {
        let answer = self.queue.ask_waiting(kind::ASK, Wait::Forever)?;
        let unfinished = answer.map_or(0, |answer| answer.unfinished);
        Ok(usize::try_from(unfinished).unwrap_or(usize::MAX))
    }
}

impl<T: Item> QueueBuilder<JoinableQueue<T>> {
    /// Makes the queue; this process hosts it.
    ///
    /// # Errors
    /// A bad endpoint, one in use, or one beyond this machine.
    pub fn open(self) -> Result<JoinableQueue<T>> {
        self.create().map(|queue| JoinableQueue { queue })
    }

    /// Joins the queue that listens at `endpoint`.
    ///
    /// # Errors
    /// [`Error::NobodyThere`], [`Error::Refused`], or [`Error::BadHandle`] when another kind of queue is there.
    pub fn connect(self, endpoint: &str) -> Result<JoinableQueue<T>> {
        self.dial(endpoint).map(|queue| JoinableQueue { queue })
    }
}

impl<T> Deref for JoinableQueue<T> {
    type Target = Queue<T>;

    fn deref(&self) -> &Queue<T> {
        &self.queue
    }
}

impl<T> Clone for JoinableQueue<T> {
    fn clone(&self) -> Self {
        Self {
            queue: self.queue.clone(),
        }
    }
}

impl<T> fmt::Debug for JoinableQueue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("JoinableQueue").field(&self.queue).finish()
    }
}

impl<T> Serialize for JoinableQueue<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        self.queue.serialize(serializer)
    }
}

impl<'de, T> Deserialize<'de> for JoinableQueue<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let queue = Queue::deserialize(deserializer)?;
        if queue.is_joinable() {
            Ok(Self { queue })
        } else {
            Err(serde::de::Error::custom(
                "it is the handle of a Queue, and not of a JoinableQueue",
            ))
        }
    }
}
