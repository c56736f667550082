//! What can go wrong: each error says what failed, where, why, and what to do.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

use crate::process::ProcessEnd;

/// The result of everything here that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The text is no endpoint.
    #[error("bad endpoint {endpoint}: {why}")]
    BadEndpoint {
        /// As it was given.
        endpoint: String,
        /// What is wrong with it.
        why: String,
    },
    /// A TCP endpoint beyond this machine, without keys.
    #[error(
        "{endpoint} can be reached from other machines, and anyone who reaches it could run commands here; \
         use tcp://127.0.0.1:PORT or ipc://PATH, tunnel a loopback port (ssh -L), or say --insecure on a network where everyone is trusted"
    )]
    BeyondLoopback {
        /// The endpoint.
        endpoint: String,
    },
    /// A ventilator beyond this machine is to be joined without keys.
    #[error(
        "{endpoint} is on another machine, and nothing proves who answers there, or keeps others from listening; \
         tunnel it to a loopback port (ssh -L), or say --insecure on a network where everyone is trusted"
    )]
    ConnectBeyondLoopback {
        /// The endpoint.
        endpoint: String,
    },
    /// A socket cannot listen there.
    #[error("cannot bind {endpoint}: {why}")]
    Bind {
        /// The endpoint.
        endpoint: String,
        /// The system's reason, and what to do.
        why: String,
    },
    /// A socket cannot connect there.
    #[error("cannot connect to {endpoint}: {why}")]
    Connect {
        /// The endpoint.
        endpoint: String,
        /// The reason, and what to do.
        why: String,
    },
    /// Nobody was heard for as long as we were told to wait.
    #[error("heard nobody at {endpoint} for {}; {advice}", seconds(*.waited))]
    NobodyThere {
        /// Who waited.
        who: &'static str,
        /// Where.
        endpoint: String,
        /// How long.
        waited: Duration,
        /// What to look at.
        advice: String,
    },
    /// The other side does not want us.
    #[error("{endpoint} refused this {who}: {why}")]
    Refused {
        /// Who asked.
        who: &'static str,
        /// Where.
        endpoint: String,
        /// The other side's words.
        why: String,
    },
    /// The ventilator of a run that we had joined is gone.
    #[error("lost the ventilator at {endpoint}: not heard for {}", seconds(*.waited))]
    VentilatorLost {
        /// Where it was.
        endpoint: String,
        /// For how long.
        waited: Duration,
    },
    /// A task or result cannot be encoded or decoded.
    #[error("{what}: {why}")]
    Encoding {
        /// Which one.
        what: String,
        /// Why.
        why: String,
    },
    /// The directory for sockets is not usable.
    #[error("cannot use {} as this user's private directory for sockets: {source}; set XDG_RUNTIME_DIR to a directory of your own", path.display())]
    PrivateDirectory {
        /// The directory.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A task that a pool ran has no value: it panicked, returned an error, or could not be run.
    #[error("task {task} (call {call}) {how} in worker process {pid} on {host}{}: {message}", at(.location.as_deref()))]
    TaskFailed {
        /// The task's name.
        task: String,
        /// Which call, counted from 0 in the order of the items.
        call: u64,
        /// In which way.
        how: &'static str,
        /// The panic's message, or the error's text.
        message: String,
        /// Where it panicked: file, line and column.
        location: Option<String>,
        /// The worker's process.
        pid: u32,
        /// The worker's host.
        host: String,
    },
    /// A task that a pool ran took longer than it may; its worker was replaced.
    #[error("task {task} (call {call}) took longer than its limit of {} in worker process {pid} on {host}, which was ended", seconds(*.limit))]
    TaskTimedOut {
        /// The task's name.
        task: String,
        /// Which call, counted from 0 in the order of the items.
        call: u64,
        /// How long it might have taken.
        limit: Duration,
        /// The worker's process.
        pid: u32,
        /// The worker's host.
        host: String,
    },
    /// A worker died while it ran this task, and it was tried as often as it may be.
    #[error(
        "task {task} (call {call}) was given up: worker process {pid} on {host} {how} while it ran it, in attempt {attempt}; \
         look for what the task does to its process (memory, aborts), or allow more attempts with `retries`"
    )]
    WorkerDied {
        /// The task's name.
        task: String,
        /// Which call, counted from 0 in the order of the items.
        call: u64,
        /// The last worker's process.
        pid: u32,
        /// Its host.
        host: String,
        /// What it died of, as far as that is known.
        how: String,
        /// Which attempt that was, from 1.
        attempt: u32,
    },
    /// No worker of a pool gets through its start.
    #[error("the pool's workers do not start: {why}")]
    PoolStart {
        /// What the last one died of.
        why: String,
    },
    /// The pipeline has ended or was stopped, and takes no more.
    #[error("{0}")]
    Ended(String),
    /// A process ended without giving its value.
    #[error("process {name} (pid {pid}) {end}")]
    Process {
        /// The process's name.
        name: String,
        /// Its number.
        pid: u32,
        /// What happened.
        end: ProcessEnd,
    },
    /// A process cannot be started.
    #[error("cannot start process {name}: {source}{}", advice_on_starting(.source))]
    Start {
        /// The name that it was to have.
        name: String,
        /// The system's reason.
        source: io::Error,
    },
    /// A daemon wants children.
    #[error(
        "{name} is a daemon process, and a daemon may have no children: it can be ended at any time, and they would be ended with it; \
         start it without daemon(true), or use threads"
    )]
    DaemonWithChildren {
        /// The daemon's name.
        name: String,
    },
    /// This program has no task of that name.
    #[error(
        "this program has no task {name}{}; both sides must be built with it, under the same name", perhaps(.similar)
    )]
    UnknownTask {
        /// The name.
        name: String,
        /// Names of this program's tasks that may have been meant.
        similar: Vec<String>,
    },
    /// This program has several tasks of that name.
    #[error(
        "this program has several tasks that are named {name}: give them names with #[task(name = \"...\")]"
    )]
    AmbiguousTask {
        /// The name.
        name: String,
    },
    /// The system refused something else.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// The system's reason.
        source: io::Error,
    },
}

impl Error {
    /// Wraps an error of the system's with what was tried.
    pub fn system(what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::System {
            what: what.into(),
            source: source.into(),
        }
    }
}

fn at(location: Option<&str>) -> String {
    location
        .map(|location| format!(" at {location}"))
        .unwrap_or_default()
}

fn perhaps(similar: &[String]) -> String {
    match similar.is_empty() {
        true => String::new(),
        false => format!(" (it has {})", similar.join(", ")),
    }
}

fn advice_on_starting(source: &io::Error) -> &'static str {
    match source
        .raw_os_error()
        .map(rustix::io::Errno::from_raw_os_error)
    {
        Some(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE) => {
            "; each running child costs two descriptors (see ulimit -n)"
        }
        Some(rustix::io::Errno::AGAIN) => "; there are too many processes (see ulimit -u)",
        _ => "",
    }
}

fn seconds(time: Duration) -> String {
    format!("{} s", time.as_secs_f64())
}
