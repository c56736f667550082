//! Queues between threads: [`Queue`] (first in, first out), [`LifoQueue`] and [`PriorityQueue`]. Python's `queue`.
//!
//! | file | what it is |
//! |---|---|
//! | `queue/fifo` | first in, first out |
//! | `queue/sorted` | last in, first out; lowest first |
//! | `queue/tasks` | how many were done with |

mod fifo;
mod sorted;
mod tasks;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fifo::Fifo;
use sorted::{Heap, Sorted, Stack};

use super::deadline;
use crate::error::{Error, Result};
use crate::queue::PutError;
use crate::wait::{Subscribers, Waitable, Watch, sealed};

/// How long somebody waits.
#[derive(Clone, Copy)]
enum Patience {
    No,
    /// `None`: for ever.
    Until(Option<Instant>),
}

impl Patience {
    fn of(time: Duration) -> Self {
        match time.is_zero() {
            true => Self::No,
            false => Self::Until(deadline(time)),
        }
    }

    fn deadline(self) -> Option<Option<Instant>> {
        match self {
            Self::No => None,
            Self::Until(deadline) => Some(deadline),
        }
    }
}

enum NotPut {
    Full,
    ShutDown,
}

enum NoItem {
    Empty,
    ShutDown,
}

/// What is behind each of the queues.
trait Shelves<T> {
    fn with_maxsize(maxsize: usize) -> Self;
    fn maxsize(&self) -> usize;
    fn put(&self, item: T, patience: Patience) -> Result<(), (T, NotPut)>;
    fn get(&self, patience: Patience) -> Result<T, NoItem>;
    fn len(&self) -> usize;
    /// Whether there is nothing, and will be nothing.
    fn is_over(&self) -> bool;
    fn shut_down(&self, immediately: bool);
    fn task_done(&self) -> bool;
    /// Whether all are done with, before the time is up.
    fn join(&self, deadline: Option<Instant>) -> bool;
    fn unfinished(&self) -> usize;
    fn subscribers(&self) -> &Subscribers;
}

impl<T> Queue<T> {
    /// Whether it was shut down.
    pub(super) fn is_shut(&self) -> bool {
        self.shelves.is_shut()
    }
}

fn put_into<T, S: Shelves<T>>(shelves: &S, item: T, patience: Patience) -> Result<(), PutError<T>> {
    shelves.put(item, patience).map_err(|(item, why)| {
        let why = Box::new(match why {
            NotPut::ShutDown => Error::ShutDown,
            NotPut::Full => Error::Full {
                maxsize: shelves.maxsize() as u64,
            },
        });
        PutError { item, why }
    })
}

fn get_from<T, S: Shelves<T>>(shelves: &S, patience: Patience) -> Result<T> {
    shelves.get(patience).map_err(|why| match why {
        NoItem::Empty => Error::Empty,
        NoItem::ShutDown => Error::ShutDown,
    })
}

/// Python's `queue.Queue`: first in, first out, between threads.
///
/// Any type that is `Send`, and nothing is encoded. A handle is cheap to clone, and a clone is the same queue; between processes it is
/// [`procession::Queue`](crate::Queue) with the same verbs.
///
/// ```
/// use procession::thread::{Queue, Thread};
///
/// let queue = Queue::with_maxsize(100);
/// let worker = Thread::spawn(
///     |queue: Queue<Box<dyn Fn() -> u64 + Send>>| {
///         let mut sum = 0;
///         for work in &queue {
///             sum += work();
///             queue.task_done()?;
///         }
///         Ok::<_, procession::Error>(sum)
///     },
///     (queue.clone(),),
/// )?;
/// for number in 1..=4 {
///     queue.put(Box::new(move || number * number))?;
/// }
/// queue.join(); // every item has been done with
/// queue.shutdown();
/// assert_eq!(worker.join_once()??, 30);
/// # Ok::<(), procession::Error>(())
/// ```
///
/// **Order** is that of the puts, over all threads. **Each item** is returned by exactly one `get`, or dropped with the queue's last
/// handle or by [`shutdown_now`](Self::shutdown_now). **A thread that panics** takes nothing along but what it has got. `get` on a queue
/// whose other handles are gone waits for ever, as in Python: shut it down.
pub struct Queue<T> {
    shelves: Arc<Fifo<T>>,
}

/// Python's `queue.LifoQueue`: last in, first out, between threads.
///
/// Everything else is as with [`Queue`].
///
/// ```
/// use procession::thread::LifoQueue;
///
/// let queue = LifoQueue::new();
/// for word in ["first", "second", "third"] {
///     queue.put(word)?;
/// }
/// assert_eq!(queue.get()?, "third");
/// queue.shutdown();
/// assert_eq!(queue.iter().collect::<Vec<_>>(), ["second", "first"]);
/// # Ok::<(), procession::Error>(())
/// ```
pub struct LifoQueue<T> {
    shelves: Arc<Sorted<Stack<T>>>,
}

/// Python's `queue.PriorityQueue`: lowest first, between threads.
///
/// Of equal items the one that was put first (Python leaves that open). Everything else is as with [`Queue`].
///
/// ```
/// use procession::thread::PriorityQueue;
/// use std::cmp::Reverse;
///
/// let queue = PriorityQueue::new();
/// for task in [(3, "tidy up"), (1, "put out the fire"), (2, "eat")] {
///     queue.put(task)?;
/// }
/// assert_eq!(queue.get()?, (1, "put out the fire"));
///
/// let highest_first = PriorityQueue::new();
/// highest_first.put(Reverse(1))?;
/// highest_first.put(Reverse(2))?;
/// assert_eq!(highest_first.get()?.0, 2);
/// # Ok::<(), procession::Error>(())
/// ```
pub struct PriorityQueue<T> {
    shelves: Arc<Sorted<Heap<T>>>,
}

/// Takes item after item, until the queue is shut down and empty; made by the queues' `iter`.
#[derive(Debug)]
pub struct Iter<'a, Q>(&'a Q);

macro_rules! queue {
    ($queue:ident, $name:literal $(, $bound:ident)?) => {
        impl<T $(: $bound)?> $queue<T> {
            /// A queue for any number of items.
            #[must_use]
            pub fn new() -> Self {
                Self::with_maxsize(0)
            }

            /// A queue for up to `maxsize` items; `put` waits while there are so many. 0 stands for any number.
            #[must_use]
            pub fn with_maxsize(maxsize: usize) -> Self {
                let shelves = Arc::new(Shelves::<T>::with_maxsize(maxsize));
                Self { shelves }
            }

            /// How many items may be in it; `None`: any number.
            #[must_use]
            pub fn maxsize(&self) -> Option<usize> {
                Some(Shelves::<T>::maxsize(&*self.shelves)).filter(|maxsize| *maxsize != 0)
            }

            /// Puts an item; waits while the queue is full.
            ///
            /// # Errors
            /// With the item: [`Error::ShutDown`].
            pub fn put(&self, item: T) -> Result<(), PutError<T>> {
                put_into(&*self.shelves, item, Patience::Until(None))
            }

            /// Puts an item if there is room now.
            ///
            /// # Errors
            /// With the item: [`Error::Full`], [`Error::ShutDown`].
            #[doc(alias = "put_nowait")]
            pub fn try_put(&self, item: T) -> Result<(), PutError<T>> {
                put_into(&*self.shelves, item, Patience::No)
            }

            /// Puts an item; waits no longer than `time` for room.
            ///
            /// # Errors
            /// As [`try_put`](Self::try_put).
            pub fn put_timeout(&self, item: T, time: Duration) -> Result<(), PutError<T>> {
                put_into(&*self.shelves, item, Patience::of(time))
            }

            /// Puts item after item; how many.
            ///
            /// # Errors
            /// At the first that cannot be put, with that item; those before it are in the queue.
            pub fn put_many(
                &self,
                items: impl IntoIterator<Item = T>,
            ) -> Result<usize, PutError<T>> {
                let mut count = 0;
                for item in items {
                    self.put(item)?;
                    count += 1;
                }
                Ok(count)
            }

            /// Takes the next item; waits for one.
            ///
            /// # Errors
            /// [`Error::ShutDown`] when there will be none.
            pub fn get(&self) -> Result<T> {
                get_from(&*self.shelves, Patience::Until(None))
            }

            /// Takes the next item if there is one.
            ///
            /// # Errors
            /// [`Error::Empty`], [`Error::ShutDown`].
            #[doc(alias = "get_nowait")]
            pub fn try_get(&self) -> Result<T> {
                get_from(&*self.shelves, Patience::No)
            }

            /// Takes the next item; waits no longer than `time` for one.
            ///
            /// # Errors
            /// As [`try_get`](Self::try_get).
            pub fn get_timeout(&self, time: Duration) -> Result<T> {
                get_from(&*self.shelves, Patience::of(time))
            }

            /// Takes item after item until the queue is shut down and empty; waits for each.
            #[must_use]
            pub fn iter(&self) -> Iter<'_, Self> {
                Iter(self)
            }

            /// How many items are in it.
            #[must_use]
            #[doc(alias = "qsize")]
            pub fn len(&self) -> usize {
                Shelves::<T>::len(&*self.shelves)
            }

            /// Whether a `get` would have to wait. Another thread may be faster: `try_get` asks and takes in one.
            #[must_use]
            pub fn is_empty(&self) -> bool {
                self.len() == 0
            }

            /// Whether a `put` would have to wait.
            #[must_use]
            pub fn is_full(&self) -> bool {
                self.maxsize().is_some_and(|maxsize| self.len() >= maxsize)
            }

            /// An item that was got is done with: whatever one does with items, once for each.
            ///
            /// # Errors
            /// [`Error::NotGot`] when all that were got are done with: one `task_done` too many.
            pub fn task_done(&self) -> Result<()> {
                match Shelves::<T>::task_done(&*self.shelves) {
                    true => Ok(()),
                    false => Err(Error::NotGot),
                }
            }

            /// Waits until each item that was put has been done with. Those that [`shutdown_now`](Self::shutdown_now) drops are.
            ///
            /// A thread that ends without its `task_done` keeps this waiting, as in Python; with
            /// [`JoinableQueue`](crate::JoinableQueue), between processes, it does not.
            pub fn join(&self) {
                Shelves::<T>::join(&*self.shelves, None);
            }

            /// As [`join`](Self::join), for no longer than `time`; whether all are done with.
            #[must_use]
            pub fn join_timeout(&self, time: Duration) -> bool {
                // A time that no clock holds is for ever.
                Shelves::<T>::join(&*self.shelves, deadline(time))
            }

            /// How many items were put and not done with.
            #[must_use]
            pub fn unfinished(&self) -> usize {
                Shelves::<T>::unfinished(&*self.shelves)
            }

            /// Nobody puts any more: those who do, or wait for room, have [`Error::ShutDown`] and their item back. Getters take what is
            /// there and then see the end ([`Error::ShutDown`], or the end of [`iter`](Self::iter)).
            pub fn shutdown(&self) {
                Shelves::<T>::shut_down(&*self.shelves, false);
            }

            /// As [`shutdown`](Self::shutdown), and what is there is dropped, and done with.
            pub fn shutdown_now(&self) {
                Shelves::<T>::shut_down(&*self.shelves, true);
            }
        }

        impl<T $(: $bound)?> Default for $queue<T> {
            fn default() -> Self {
                Self::new()
            }
        }

        impl<T> Clone for $queue<T> {
            fn clone(&self) -> Self {
                let shelves = Arc::clone(&self.shelves);
                Self { shelves }
            }
        }

        impl<T $(: $bound)?> Iterator for Iter<'_, $queue<T>> {
            type Item = T;

            fn next(&mut self) -> Option<T> {
                self.0.get().ok()
            }
        }

        impl<'a, T $(: $bound)?> IntoIterator for &'a $queue<T> {
            type Item = T;
            type IntoIter = Iter<'a, $queue<T>>;

            fn into_iter(self) -> Self::IntoIter {
                self.iter()
            }
        }

        impl<T> sealed::Sealed for $queue<T> {}

        impl<T $(: $bound)?> Waitable for $queue<T> {
            fn is_ready(&self) -> bool {
                self.len() > 0 || Shelves::<T>::is_over(&*self.shelves)
            }

            fn watch<'a>(&'a self, watch: &mut Watch<'a>) {
                watch.subscribe(Shelves::<T>::subscribers(&*self.shelves));
            }
        }

        impl<T> fmt::Debug for $queue<T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct($name).finish_non_exhaustive()
            }
        }
    };
}

queue!(Queue, "Queue");
queue!(LifoQueue, "LifoQueue");
queue!(PriorityQueue, "PriorityQueue", Ord);
