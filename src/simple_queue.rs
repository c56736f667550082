//! [`SimpleQueue`]: put, get, empty, close.

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::queue::{Item, PutError, Queue};

/// Python's `multiprocessing.SimpleQueue`: a [`Queue`] without room to set and without times.
///
/// ```
/// use procession::SimpleQueue;
/// let queue = SimpleQueue::new()?;
/// queue.put(1)?;
/// assert!(!queue.empty()?);
/// assert_eq!(queue.get()?, 1);
/// # Ok::<(), procession::Error>(())
/// ```
#[derive(Debug, Serialize, Deserialize)]
#[serde(transparent, bound = "")]
pub struct SimpleQueue<T> {
    queue: Queue<T>,
}

impl<T: Item> SimpleQueue<T> {
    /// A queue, hosted by this process.
    ///
    /// # Errors
    /// As [`Queue::new`].
    pub fn new() -> Result<Self> {
        Queue::new().map(|queue| Self { queue })
    }

    pub(crate) const fn queue(&self) -> &Queue<T> {
        &self.queue
    }

    /// Puts an item.
    ///
    /// # Errors
    /// As [`Queue::put`].
    pub fn put(&self, item: T) -> Result<(), PutError<T>> {
        self.queue.put(item)
    }

    /// Takes the next item; waits for one.
    ///
    /// # Errors
    /// As [`Queue::get`].
    pub fn get(&self) -> Result<T> {
        self.queue.get()
    }

    /// Whether there is nothing in it.
    ///
    /// # Errors
    /// As [`Queue::is_empty`].
    pub fn empty(&self) -> Result<bool> {
        self.queue.is_empty()
    }

    /// This process puts no more.
    ///
    /// # Errors
    /// As [`Queue::close`].
    pub fn close(&self) -> Result<()> {
        self.queue.close()
    }
}

impl<T> Clone for SimpleQueue<T> {
    fn clone(&self) -> Self {
        Self {
            queue: self.queue.clone(),
        }
    }
}
