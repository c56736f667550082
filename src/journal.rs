//! A pipeline's journal: what a ventilator or a sink must know again when it is started again after it was killed.
//!
//! See docs/journal.md for who records what before what.

pub(crate) mod queues;
mod recorder;
mod roll;
mod store;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

pub(crate) use recorder::Recorder;
pub(crate) use roll::Digest;
use roll::{Pages, Roll};
pub(crate) use store::Record;
use store::Store;

use crate::error::{Error, Result};
use crate::hub::ledger::Totals;
use crate::wire::body::Body;
use crate::wire::frame::{Kept, TaskId};
use crate::wire::id_set::IdSet;

/// A file by which a [`Ventilator`](super::pipeline::Ventilator) or a [`Sink`](super::pipeline::Sink) that was killed goes on where
/// it was, when its program is started again: tasks that have a result are not done again, and no result is lost or given twice.
///
/// Give it to [`VentilatorBuilder::journal`](super::pipeline::VentilatorBuilder::journal), to
/// [`SinkBuilder::journal`](super::pipeline::SinkBuilder::journal), or to both when they are in one process, put the same tasks again, and
/// say [`finish`](Self::finish) at the end. A task is known by the bytes that it is encoded to, and by how often the same came before;
/// so its type must always encode the same value to the same bytes. A clone is another handle.
///
/// ```
/// use procession::pipeline::{Journal, Sink, Ventilator, Worker};
/// use std::thread;
///
/// let dir = tempfile::tempdir()?;
/// let file = dir.path().join("squares.journal");
/// for life in 1..=2 {
///     let journal = Journal::open(&file, "squares")?;
///     if let Some(finished) = journal.finished()? {
///         // The second time.
///         assert_eq!((life, finished.done, finished.code), (2, 3, 0));
///         break;
///     }
///     let endpoint = "inproc://journal";
///     let ventilator = Ventilator::<()>::builder(endpoint).journal(&journal).start::<u64>()?;
///     let worker = thread::spawn(move || Worker::connect(endpoint)?.run(|n: u64| n * n));
///     let sink = Sink::<()>::builder().journal(&journal).connect::<u64>(endpoint)?;
///     let gather = thread::spawn(move || sink.map(|outcome| outcome.map(|o| o.id)).collect::<Vec<_>>());
///     for n in [2, 3, 4] {
///         ventilator.put(n)?;
///     }
///     ventilator.finish()?;
///     assert_eq!(gather.join().expect("no panic").len(), 3);
///     worker.join().expect("no panic")?;
///     journal.finish(0)?;
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Journal {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    // Locked in this order.
    roll: Mutex<Roll>,
    store: Mutex<Store>,
    /// What had a result when the journal was opened.
    done_before: IdSet,
}

/// How the run of a journal ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finished {
    /// How many tasks have a result.
    pub done: u64,
    /// How many of these failed.
    pub failed: u64,
    /// When it was.
    pub at: SystemTime,
    /// What [`Journal::finish`] was told.
    pub code: u8,
}

/// What a task that is put is to the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// It has a result.
    Done,
    /// It had this number before.
    Known(TaskId),
    /// It is to be recorded under its new number.
    Fresh(Digest),
}

/// What an earlier life of the run had come to.
#[derive(Debug)]
pub(crate) struct Past {
    pub(crate) run: u64,
    pub(crate) done: IdSet,
    pub(crate) next_id: TaskId,
    pub(crate) totals: Totals,
    /// How many lives there were.
    pub(crate) lives: u32,
    pub(crate) tried: Vec<(TaskId, u32, u32)>,
}

impl Journal {
    /// Opens the journal at `path`, or makes it. `what` says what the run is: a journal of something else is refused.
    ///
    /// # Errors
    /// [`Error::Journal`]: it is another run's, another process has it, it cannot be written, or it is no journal. Nothing in it is
    /// changed then.
    pub fn open(path: impl AsRef<Path>, what: &str) -> Result<Self> {
        let path = path.as_ref();
        let store = Store::open(path, what)?;
        Ok(Self {
            inner: Arc::new(Inner {
                path: path.to_owned(),
                roll: Mutex::default(),
                done_before: store.done().clone(),
                store: Mutex::new(store),
            }),
        })
    }

    /// From now on what is recorded is safe from a power failure too, not only from the death of the program: each transaction waits
    /// for the disk.
    ///
    /// # Errors
    /// [`Error::Journal`].
    pub fn sync(&self) -> Result<()> {
        self.store().sync()
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// How many tasks had a result when it was opened.
    #[must_use]
    pub fn done_before(&self) -> u64 {
        self.inner.done_before.len()
    }

    /// How the run ended, if it did.
    ///
    /// # Errors
    /// [`Error::Journal`].
    pub fn finished(&self) -> Result<Option<Finished>> {
        self.store().finished()
    }

    /// The run is over; `code` is for whoever starts it again.
    ///
    /// # Errors
    /// [`Error::Journal`].
    pub fn finish(&self, code: u8) -> Result<()> {
        self.store().finish(code)
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.inner
            .store
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// All of these, or an error and none of them.
    pub(crate) fn write(&self, records: &[Record]) -> Result<()> {
        self.store().write(records)
    }

    /// What this task, which is put next, is.
    pub(crate) fn entry(&self, task: &Body) -> Result<Entry> {
        let digest = digest(task).map_err(|error| {
            Error::system("cannot read a task to know it again by its content", error)
        })?;
        let mut roll = self
            .inner
            .roll
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        Ok(match roll.call(&digest, &mut &*self.inner)? {
            Some(id) if self.inner.done_before.contains(id) => Entry::Done,
            Some(id) => Entry::Known(id),
            None => Entry::Fresh(digest),
        })
    }

    /// A ventilator goes on with it; `fresh` is its run's id if there is none yet.
    pub(crate) fn begin(&self, fresh: u64) -> Result<Past> {
        let store = self.store();
        let mut run = store.run()?;
        if run == 0 {
            run = fresh;
            store.set_run(run)?;
        }
        Ok(Past {
            run,
            done: store.done().clone(),
            next_id: store.next_id()?,
            totals: store.totals()?,
            lives: store.begin_life()?,
            tried: store.tried()?,
        })
    }

    /// The run that it is of; 0 before anybody has said.
    pub(crate) fn run(&self) -> Result<u64> {
        self.store().run()
    }

    /// A sink has joined this run.
    pub(crate) fn set_run(&self, run: u64) -> Result<()> {
        self.store().set_run(run)
    }

    /// Gives what was kept, and is not in `acked`.
    pub(crate) fn each_kept(&self, acked: &IdSet, mut with: impl FnMut(Kept)) -> Result<()> {
        self.store().each_kept(|kept| {
            if !acked.missing(kept.first, kept.count).is_empty() {
                with(kept);
            }
        })
    }

    /// The tasks that had a result when it was opened.
    pub(crate) fn done(&self) -> &IdSet {
        &self.inner.done_before
    }
}

impl Pages for &Inner {
    type Error = Error;

    fn page(&mut self, first: TaskId) -> Result<Vec<Digest>> {
        self.store
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .digests(first)
    }
}

fn digest(task: &Body) -> std::io::Result<Digest> {
    let mut hasher = blake3::Hasher::new();
    match task {
        Body::Memory(bytes) => hasher.update(bytes),
        body => hasher.update_reader(body.reader()?)?,
    };
    let mut digest = Digest::default();
    hasher.finalize_xof().fill(&mut digest);
    Ok(digest)
}
