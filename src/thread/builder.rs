//! What a thread is given before it is started.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::Mutex;

use super::living::Record;
use super::{Run, Target, Thread};
use crate::error::{Error, Result};
use crate::registry::panics::{caught, keep_locations};
use crate::registry::{Failure, FailureKind};

/// A thread that is not started yet: its name, whether it is a daemon, the size of its stack.
///
/// ```
/// use procession::thread::Thread;
///
/// let thread = Thread::builder().name("counter").daemon(true).spawn(|| (1..=10).sum::<u64>(), ())?;
/// assert_eq!(thread.name(), "counter");
/// assert!(thread.daemon());
/// assert_eq!(thread.join()?, 55);
/// # Ok::<(), procession::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "nothing is started before spawn or start"]
pub struct Builder {
    name: Option<String>,
    is_daemon: bool,
    stack_size: Option<usize>,
    /// What fails is told to somebody, and need not be printed.
    is_quiet: bool,
}

impl Builder {
    /// A thread with a name of Python's (`Thread-1`), no daemon, with the usual stack.
    pub fn new() -> Self {
        Self::default()
    }

    /// Its name, for people: in errors and panics, and as `top -H` shows it (the first 15 bytes).
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Whether it is a daemon: not joined when the program ends, which ends it wherever it is.
    pub fn daemon(mut self, daemon: bool) -> Self {
        self.is_daemon = daemon;
        self
    }

    /// The size of its stack, in bytes (2 MiB, or what `RUST_MIN_STACK` says).
    pub fn stack_size(mut self, bytes: usize) -> Self {
        self.stack_size = Some(bytes);
        self
    }

    pub(super) fn quiet(mut self) -> Self {
        self.is_quiet = true;
        self
    }

    /// Starts a thread that calls `target` with `args`.
    ///
    /// # Errors
    /// As [`Thread::spawn`].
    pub fn spawn<M, T: Target<M>>(self, target: T, args: T::Args) -> Result<Thread<T::Output>> {
        self.launch("Thread", move || target.call_with(args))
    }

    /// Starts a thread that calls the `run` of `thread`.
    ///
    /// # Errors
    /// As [`Thread::spawn`].
    pub fn start<P: Run>(self, thread: P) -> Result<Thread<P::Output>> {
        // Without its module and, of `Type<Argument>`, without those.
        let path = std::any::type_name::<P>();
        let path = path.split('<').next().unwrap_or(path);
        let kind = path.rsplit("::").next().unwrap_or(path);
        self.launch(kind, move || thread.call())
    }

    pub(super) fn launch<R: Send + 'static>(
        self,
        kind: &str,
        call: impl FnOnce() -> std::result::Result<R, String> + Send + 'static,
    ) -> Result<Thread<R>> {
        static COUNT: AtomicU32 = AtomicU32::new(1);
        keep_locations();
        let name = self
            .name
            .unwrap_or_else(|| format!("{kind}-{}", COUNT.fetch_add(1, Ordering::Relaxed)));
        let record = Record::new(name, self.is_daemon);
        let value = Arc::new(Mutex::new(None));
        let body = {
            let (record, value) = (Arc::clone(&record), Arc::clone(&value));
            move || {
                record.begin();
                let outcome = caught(|| {
                    let given = call().map_err(returned)?;
                    *value.lock() = Some(given);
                    // If nobody can ask for it any more it is dropped here, which may panic as well.
                    drop(value);
                    Ok(())
                });
                if let (Err(failure), false) = (&outcome, self.is_quiet) {
                    tell(&record.name, failure);
                }
                record.finish(outcome);
            }
        };
        // The system's names have no NUL.
        let mut builder = std::thread::Builder::new().name(record.name.replace('\0', " "));
        if let Some(bytes) = self.stack_size {
            builder = builder.stack_size(bytes);
        }
        record.enlist();
        {
            // Whoever joins it before its handle is stored waits here.
            let mut system = record.system.lock();
            match builder.spawn(body) {
                Ok(thread) => *system = Some(thread),
                Err(source) => {
                    // Somebody may wait for all threads already, and for this one with them.
                    record.finish(Err(returned(format!("it could not be started: {source}"))));
                    let name = record.name.clone();
                    return Err(Error::ThreadStart { name, source });
                }
            }
        }
        Ok(Thread::new(record, value))
    }
}

fn returned(message: String) -> Failure {
    Failure {
        message,
        location: None,
        kind: FailureKind::Error,
    }
}

/// Says on standard error what nobody may ask for. A panic has been printed where it happened.
fn tell(name: &str, failure: &Failure) {
    if failure.kind != FailureKind::Panic {
        let words = format!("thread {name}: error: {}\n", failure.message);
        // Not eprintln!, which panics when standard error is closed.
        let _ = std::io::Write::write_all(&mut std::io::stderr(), words.as_bytes());
    }
}
