//! Who a thread is.

use std::cell::{Cell, OnceCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::living::{Record, living};

/// A thread, as [`current_thread`] and [`enumerate`] tell of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    name: String,
    ident: u64,
    native_id: Option<u32>,
    is_daemon: bool,
}

impl Identity {
    /// Its name: `MainThread`, that of a [`Thread`](super::Thread), or the one that another library has given it (`Dummy-` and its
    /// number when it has none).
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its number in this process, which no other thread has or will have. (Python's may be given again.)
    #[must_use]
    #[doc(alias = "get_ident")]
    pub fn ident(&self) -> u64 {
        self.ident
    }

    /// The system's number for it, as `top -H` shows it; `None` when it has not begun.
    #[must_use]
    #[doc(alias = "get_native_id")]
    pub fn native_id(&self) -> Option<u32> {
        self.native_id
    }

    /// Whether the program ends without waiting for it. True of those that were not started here.
    #[must_use]
    pub fn daemon(&self) -> bool {
        self.is_daemon
    }

    fn of(record: &Record) -> Self {
        Self {
            name: record.name.clone(),
            ident: record.ident,
            native_id: record.native_id(),
            is_daemon: record.is_daemon,
        }
    }
}

const MAIN: u64 = 1;

thread_local! {
    // The number stands alone, so that it can be read while a thread drops its other variables.
    static IDENT: Cell<u64> = const { Cell::new(0) };
    static RECORD: OnceCell<Arc<Record>> = const { OnceCell::new() };
}

pub(super) fn next_ident() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(MAIN + 1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// This thread's number, which is never 0.
pub(super) fn ident() -> u64 {
    match IDENT.get() {
        0 => {
            let ident = if is_main() { MAIN } else { next_ident() };
            IDENT.set(ident);
            ident
        }
        ident => ident,
    }
}

pub(super) fn is_current(ident: u64) -> bool {
    self::ident() == ident
}

fn is_main() -> bool {
    native_id() == std::process::id()
}

pub(super) fn native_id() -> u32 {
    rustix::thread::gettid()
        .as_raw_nonzero()
        .get()
        .unsigned_abs()
}

/// This is the thread of that record.
pub(super) fn become_thread(record: Arc<Record>) {
    IDENT.set(record.ident);
    RECORD.with(|place| {
        let _ = place.set(record);
    });
}

/// This thread.
///
/// ```
/// use procession::thread::{Thread, current_thread};
///
/// let name = || current_thread().name().to_owned();
/// let thread = Thread::builder().name("teller").spawn(name, ())?;
/// assert_eq!(thread.join()?, "teller");
/// # Ok::<(), procession::Error>(())
/// ```
#[must_use]
pub fn current_thread() -> Identity {
    let ours = RECORD.try_with(|place| place.get().map(|record| Identity::of(record)));
    if let Ok(Some(ours)) = ours {
        return ours;
    }
    if is_main() {
        return main_thread();
    }
    let ident = ident();
    let name = std::thread::current().name().map(ToOwned::to_owned);
    Identity {
        name: name.unwrap_or_else(|| format!("Dummy-{ident}")),
        ident,
        native_id: Some(native_id()),
        is_daemon: true,
    }
}

/// The thread in which the program began.
#[must_use]
pub fn main_thread() -> Identity {
    Identity {
        name: "MainThread".to_owned(),
        ident: MAIN,
        native_id: Some(std::process::id()),
        is_daemon: false,
    }
}

/// The threads of this process that are known here: the main thread, this one, and those that were started here and run, in the order of
/// their numbers. To join them: [`active_children`](super::active_children).
#[must_use]
pub fn enumerate() -> Vec<Identity> {
    let mut known = vec![main_thread(), current_thread()];
    known.extend(living().iter().map(|record| Identity::of(record)));
    known.sort_by_key(Identity::ident);
    known.dedup_by_key(|identity| identity.ident);
    known
}

/// How many [`enumerate`] tells of.
#[must_use]
pub fn active_count() -> usize {
    enumerate().len()
}
