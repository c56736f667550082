//! The queues that this process hosts, and how they end with it.

use crate::hub::outside::Instant;
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::handle::{Inner, all_open};
use crate::error::Result;
use crate::hub::host::{Orders, Summary};
use crate::wire::wake::Waker;

/// How long the end of a process waits for what it has put to be accepted, and a queue's creator for others to take what is left.
pub(super) const LAST_CALL: Duration = Duration::from_secs(10);

/// A queue's host, on a thread of this process.
pub(super) struct Hosted {
    pub(super) orders: Arc<Orders>,
    pub(super) waker: Waker,
    pub(super) thread: JoinHandle<Result<Summary>>,
    pub(super) name: String,
}

/// Hosts whose last handle here is gone, while other processes may still use them.
static LINGERING: Mutex<Vec<Hosted>> = Mutex::new(Vec::new());

impl Hosted {
    /// Serves other processes until this one ends.
    pub(super) fn linger(self) {
        lingering().push(self);
    }

    /// Lets others take what is here, until then.
    pub(super) fn end(self, until: Instant) {
        self.orders.leave(until);
        self.waker.wake();
        match self.thread.join() {
            Ok(Ok(summary)) if summary.unfinished > 0 => say(&format!(
                "the queue at {} ends with its process, and {} items in it that nobody has taken are dropped",
                self.name, summary.unfinished
            )),
            Ok(Err(error)) => say(&error.to_string()),
            Ok(Ok(_)) | Err(_) => {}
        }
    }

    fn reach(&self) -> Reach {
        Reach {
            orders: Arc::clone(&self.orders),
            waker: self.waker.clone(),
            name: self.name.clone(),
        }
    }
}

fn lingering() -> std::sync::MutexGuard<'static, Vec<Hosted>> {
    LINGERING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a host can be told by.
struct Reach {
    orders: Arc<Orders>,
    waker: Waker,
    name: String,
}

/// When the program ends, all queues hand over what was put, and those made here end.
pub(super) fn at_the_end() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| crate::at_exit::register(end_all));
}

fn end_all() {
    let until = Instant::now() + LAST_CALL;
    let open = all_open();
    for inner in &open {
        inner.leave(until);
    }
    let mut hosts = std::mem::take(&mut *lingering());
    hosts.extend(open.iter().filter_map(|inner| inner.hosted().take()));
    for hosted in hosts {
        hosted.end(until);
    }
}

/// Ends the queues of this process in which all of these processes wait for room: for [`LAST_CALL`], with this program's main
/// over and no other process getting, so that nobody would ever make any. What they wait to put comes back to them as an
/// error.
pub(crate) fn end_unread(waiting: &[u32], main_over: Instant) {
    let Some(long_ago) = Instant::now().checked_sub(LAST_CALL) else {
        return;
    };
    if main_over > long_ago {
        return;
    }
    let open: Vec<Arc<Inner>> = all_open();
    let mut hosts: Vec<Reach> = lingering().iter().map(Hosted::reach).collect();
    hosts.extend(
        open.iter()
            .filter_map(|inner| inner.hosted().as_ref().map(Hosted::reach)),
    );
    let blocks = |host: &Reach, pid: u32| {
        let since = host.orders.blocked_since(pid);
        since.is_some_and(|since| since <= long_ago)
    };
    let is_stuck = |pid: &u32| hosts.iter().any(|host| blocks(host, *pid));
    if waiting.is_empty() || !waiting.iter().all(is_stuck) {
        return;
    }
    for host in &hosts {
        if let Some(pid) = waiting.iter().find(|pid| blocks(host, **pid)) {
            say(&format!(
                "the program's main has returned, and its child process {pid} has been waiting for {} s for room in the queue at {}, \
                 from which nobody gets: the queue ends",
                LAST_CALL.as_secs(),
                host.name
            ));
            host.orders.leave(Instant::now());
            host.waker.wake();
        }
    }
}

/// Items that are lost are no secret: where nobody logs they are told on stderr.
pub(super) fn say(text: &str) {
    use std::io::Write;
    if log::log_enabled!(log::Level::Warn) {
        log::warn!("{text}");
    } else {
        // Not eprintln!, which panics when standard error is closed.
        let _ = writeln!(std::io::stderr(), "procession: {text}");
    }
}
