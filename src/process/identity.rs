//! Who this process is, and whose child.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use serde::{Deserialize, Serialize};

/// This process, as [`current_process`] tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CurrentProcess {
    name: String,
    numbers: Vec<u32>,
    is_daemon: bool,
    parent: Option<Parent>,
}

impl CurrentProcess {
    /// Its name: `MainProcess`, or that of the child that it is.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its number.
    #[must_use]
    pub fn pid(&self) -> u32 {
        std::process::id()
    }

    /// Whether it is a daemon, and so may have no children.
    #[must_use]
    pub fn daemon(&self) -> bool {
        self.is_daemon
    }
}

/// The process that started this one, as [`parent_process`] tells of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parent {
    pub(super) name: String,
    pub(super) pid: u32,
}

impl Parent {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its number.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether it lives. A child ends with its parent, so whoever can ask will hardly ever hear `false`.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        let parent = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get());
        parent.and_then(|pid| u32::try_from(pid).ok()) == Some(self.pid)
    }
}

static THIS: OnceLock<CurrentProcess> = OnceLock::new();

fn this() -> &'static CurrentProcess {
    THIS.get_or_init(|| CurrentProcess {
        name: "MainProcess".to_owned(),
        numbers: Vec::new(),
        is_daemon: false,
        parent: None,
    })
}

/// This process: its name, and whether it is a daemon.
///
/// ```
/// let this = procession::process::current_process();
/// assert_eq!(this.name(), "MainProcess");
/// ```
#[must_use]
pub fn current_process() -> CurrentProcess {
    this().clone()
}

/// The process that started this one, if that was done with this library; `None` in the main process.
#[must_use]
pub fn parent_process() -> Option<Parent> {
    this().parent.clone()
}

/// This process is a child. To be called before anybody asks.
pub(super) fn become_child(name: String, numbers: Vec<u32>, is_daemon: bool, parent: Parent) {
    let _ = THIS.set(CurrentProcess {
        name,
        numbers,
        is_daemon,
        parent: Some(parent),
    });
}

/// This process, as its children know it.
pub(super) fn as_parent() -> Parent {
    Parent {
        name: this().name.clone(),
        pid: std::process::id(),
    }
}

/// The next child's numbers, and with them the name that it has unless it is given another: `Process-1`, and its second child
/// `Process-1:2`.
pub(super) fn next_child(kind: &str) -> (Vec<u32>, String) {
    static COUNT: AtomicU32 = AtomicU32::new(1);
    let mut numbers = this().numbers.clone();
    numbers.push(COUNT.fetch_add(1, Ordering::Relaxed));
    let words: Vec<_> = numbers.iter().map(ToString::to_string).collect();
    let name = format!("{kind}-{}", words.join(":"));
    (numbers, name)
}
