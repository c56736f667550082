//! How a pool of threads shall be.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::{Failed, Fate, Inner, Pool, Work, make};
use crate::error::{Error, Result};
use crate::pool::callbacks::Callbacks;
use crate::process::cpu_count;
use crate::registry::panics::text_of;
use crate::thread::{AnyThread, Function, Queue, Thread};

type Initializer = Arc<dyn Fn() -> std::result::Result<(), String> + Send + Sync>;

/// The settings of a [`Pool`]; [`start`](Self::start) makes it.
///
/// ```
/// use procession::thread::Pool;
///
/// let pool = Pool::builder()
///     .workers(2)
///     .name("words")
///     .initializer(|language: &str| println!("ready for {language}"), ("Rust",))
///     .start()?;
/// assert_eq!(pool.map(|word: &'static str| word.len(), ["one", "three"])?, [3, 5]);
/// pool.join()
/// # ?; Ok::<(), procession::Error>(())
/// ```
#[derive(Clone)]
#[must_use = "there is no pool before start"]
pub struct PoolBuilder {
    workers: Option<u32>,
    name: String,
    initializer: Option<Initializer>,
}

impl Default for PoolBuilder {
    fn default() -> Self {
        Self {
            workers: None,
            name: "PoolThread".to_owned(),
            initializer: None,
        }
    }
}

impl PoolBuilder {
    /// How many threads (as many as this process may use processors). For calls that only wait it may be many more.
    #[doc(alias = "processes")]
    pub const fn workers(mut self, workers: u32) -> Self {
        self.workers = Some(workers);
        self
    }

    /// The threads' name, for people: `NAME-1` and so on, in errors and as `top -H` shows them (`PoolThread`).
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// What every thread calls before all else. When it panics or returns an error (as a task) in one of them the pool gives up, with
    /// [`Error::PoolStart`].
    #[doc(alias = "initargs")]
    pub fn initializer<M, T: Function<M>>(mut self, function: T, args: T::Args) -> Self
    where
        T::Args: Clone + Sync,
    {
        self.initializer = Some(Arc::new(move || {
            function.call_again(args.clone()).map(drop)
        }));
        self
    }

    /// Starts the threads.
    ///
    /// # Errors
    /// [`Error::ThreadStart`] when the system does not start one; [`Error::PoolStart`] when there are to be none.
    pub fn start(self) -> Result<Pool> {
        let workers = self.workers.map_or_else(cpu_count, |count| count as usize);
        if workers == 0 {
            return Err(Error::PoolStart {
                why: "there are none: a pool has at least one thread".to_owned(),
            });
        }
        let work = Queue::new();
        let fate = Arc::new(Fate::default());
        let mut threads: Vec<AnyThread> = Vec::new();
        for number in 1..=workers {
            let (its_work, fate) = (work.clone(), Arc::clone(&fate));
            let initializer = self.initializer.clone();
            let started = Thread::builder()
                .name(format!("{}-{number}", self.name))
                .daemon(true)
                .quiet()
                .spawn(move || run(&its_work, &fate, initializer), ());
            match started {
                Ok(thread) => threads.push((*thread).clone()),
                Err(error) => {
                    // Those that have started end by that.
                    work.shutdown_now();
                    return Err(error);
                }
            }
        }
        Ok(Pool {
            inner: Arc::new(Inner {
                work,
                threads,
                fate,
                callbacks: Callbacks::default(),
            }),
        })
    }
}

/// The life of one thread.
fn run(work: &Queue<Work>, fate: &Fate, initializer: Option<Initializer>) {
    let begun = initializer.map_or(Ok(()), |initializer| make(|| initializer()));
    if let Err(Failed::Call { thread, failure }) = begun {
        let _ = fate
            .does_not_start
            .set(format!("the initializer {failure}, in thread {thread}"));
        work.shutdown_now();
        return;
    }
    for work in work {
        // Panics of calls are caught in it; what is left is the drop of what the user's functions have captured.
        if let Err(panic) = catch_unwind(AssertUnwindSafe(work)) {
            log::error!(
                "what a call of the pool left behind panicked: {}",
                text_of(panic)
            );
        }
    }
}

impl fmt::Debug for PoolBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolBuilder")
            .field("workers", &self.workers)
            .field("name", &self.name)
            .field("initializer", &self.initializer.is_some())
            .finish()
    }
}
