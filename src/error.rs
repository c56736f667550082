//! What can go wrong: each error says what failed, where, why, and what to do.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

use crate::process::ProcessEnd;
use crate::registry::Failure;

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
         take tcp://127.0.0.1:PORT or ipc://PATH if nobody comes from elsewhere; else \
         give --keys DIR (procession keygen makes one), or --ticket-out FILE for a ticket with which others join this run, \
         or --insecure on a network where everyone is trusted; \
         in a program: keys (or PROCESSION_KEYS=DIR), ticket, insecure"
    )]
    BeyondLoopback {
        /// The endpoint.
        endpoint: String,
    },
    /// A ventilator beyond this machine is to be joined without keys.
    #[error(
        "{endpoint} is on another machine, and nothing proves who answers there, or keeps others from listening; \
         give --keys DIR, or --ticket FILE (what the other side wrote with --ticket-out), \
         or --insecure on a network where everyone is trusted; \
         in a program: keys (or PROCESSION_KEYS=DIR), ticket, insecure"
    )]
    ConnectBeyondLoopback {
        /// The endpoint.
        endpoint: String,
    },
    /// A key, a list of keys, or a ticket cannot be used.
    #[error("cannot use {}: {why}", path.display())]
    Keys {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Who listens there does not let us in.
    #[error("{endpoint} turns this {who} away: {why}")]
    TurnedAway {
        /// Who came.
        who: &'static str,
        /// Where.
        endpoint: String,
        /// Why, and what to do.
        why: String,
    },
    /// The libzmq of this program cannot encrypt.
    #[error(
        "this program's libzmq was built without CURVE, so it cannot use TCP but with insecure; \
         add the two lines of procession's README to its Cargo.toml ([patch.crates-io] zmq-sys)"
    )]
    NoCurve,
    /// A journal cannot be used, or not be written any more.
    #[error("journal {}: {why}", path.display())]
    Journal {
        /// Its file.
        path: PathBuf,
        /// The reason, and what to do.
        why: String,
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
    /// The process that hosts a queue is gone, and what was not sent here yet with it.
    #[error("the queue at {endpoint} is gone: {why}")]
    HostGone {
        /// Where it was.
        endpoint: String,
        /// What is known of it.
        why: String,
    },
    /// The queue was shut down: nobody puts any more, and what was in it has been taken.
    #[error("the queue was shut down")]
    ShutDown,
    /// This process has closed its end of the queue, and puts no more.
    #[error("this process has closed its end of the queue: put before close()")]
    Closed,
    /// There is no room in the queue (in the given time).
    #[error("the queue is full: {maxsize} items are in it that nobody has taken")]
    Full {
        /// How many may be.
        maxsize: u64,
    },
    /// There is nothing in the queue (in the given time).
    #[error("the queue is empty")]
    Empty,
    /// The host has not accepted all that was put (in the given time).
    #[error("the queue at {endpoint} has not accepted {items} items yet")]
    NotAccepted {
        /// Where it is.
        endpoint: String,
        /// How many.
        items: u64,
    },
    /// `task_done()` was called more often than `get()` in this process.
    #[error("task_done() was called more often than items were got in this process")]
    NotGot,
    /// A handle does not fit what is at its other end, or cannot be used here.
    #[error("cannot use this handle of {endpoint}: {why}")]
    BadHandle {
        /// Where it leads.
        endpoint: String,
        /// What is wrong, and what to do.
        why: String,
    },
    /// A task that a pool ran has no value: it panicked, returned an error, or could not be run.
    #[error("task {task} (call {call}) {how} in worker process {pid} on {host}{}: {message}", at(.location.as_deref()))]
    TaskFailed {
        /// The task's name.
        task: Box<str>,
        /// Which call, counted from 0 in the order of the items.
        call: u64,
        /// In which way.
        how: &'static str,
        /// The panic's message, or the error's text.
        message: String,
        /// Where it panicked: file, line and column.
        location: Option<Box<str>>,
        /// The worker's process.
        pid: u32,
        /// The worker's host.
        host: Box<str>,
    },
    /// A task that a pool ran took longer than it may; its worker was replaced.
    #[error("task {task} (call {call}) took longer than its limit of {} in worker process {pid} on {host}, which was ended", seconds(*.limit))]
    TaskTimedOut {
        /// The task's name.
        task: Box<str>,
        /// Which call, counted from 0 in the order of the items.
        call: u64,
        /// How long it might have taken.
        limit: Duration,
        /// The worker's process.
        pid: u32,
        /// The worker's host.
        host: Box<str>,
    },
    /// A worker died while it ran this task, and it was tried as often as it may be.
    #[error(
        "task {task} (call {call}) was given up: worker process {pid} on {host} {how} while it ran it, in attempt {attempt}; \
         look for what the task does to its process (memory, aborts), or allow more attempts with `retries`"
    )]
    WorkerDied {
        /// The task's name.
        task: Box<str>,
        /// Which call, counted from 0 in the order of the items.
        call: u64,
        /// The last worker's process.
        pid: u32,
        /// Its host.
        host: Box<str>,
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
    /// A thread ended without giving its value.
    #[error("thread {name} {failure}")]
    Thread {
        /// The thread's name.
        name: String,
        /// What happened.
        failure: Failure,
    },
    /// A thread cannot be started.
    #[error(
        "cannot start thread {name}: {source}; there may be too many (see ulimit -u), or no memory for its stack"
    )]
    ThreadStart {
        /// The name that it was to have.
        name: String,
        /// The system's reason.
        source: io::Error,
    },
    /// A thread waits for its own end.
    #[error("thread {name} cannot join itself: it would wait for ever")]
    JoinsItself {
        /// Its name.
        name: String,
    },
    /// A call that a pool of threads made has no value: it panicked or returned an error.
    #[error("task {task} (call {call}) in thread {thread} {failure}")]
    CallFailed {
        /// The function's name.
        task: Box<str>,
        /// Which call, counted from 0 in the order of the items.
        call: u64,
        /// The name of the thread.
        thread: Box<str>,
        /// What happened.
        failure: Failure,
    },
    /// A lock is released, or its condition used, by a thread that does not hold it.
    #[error(
        "this thread does not hold the {what}: only the thread that acquired it can release it, and whoever uses its condition \
         must hold it; to let another thread go on use an Event or a Semaphore"
    )]
    NotHeld {
        /// What is not held.
        what: &'static str,
    },
    /// A thread waits for a lock that it holds.
    #[error(
        "this thread holds the lock already and would wait for itself for ever: release it first, or use an RLock"
    )]
    HeldAlready,
    /// What is behind a lock may still be changed by a process of which a thread has ended with the lock.
    #[error(
        "a thread of process {pid} has ended without giving up this lock, and the process lives on, where references to what is behind the \
         lock may be left: nobody can have it before process {pid} has ended; there, let no guard be forgotten (mem::forget, exec)"
    )]
    LeftLocked {
        /// The process.
        pid: u64,
    },
    /// A lock that another process hosts is out of reach, and what this process held or waited for is lost.
    #[error(
        "lost the {what} at {endpoint}: {why}; if it was held here, others may have it since, and have a higher fencing number: acquire it again"
    )]
    LeaseLost {
        /// A lock or a semaphore.
        what: &'static str,
        /// Where it is hosted.
        endpoint: String,
        /// What is known of it.
        why: String,
    },
    /// A lock was acquired by one thread more often than can be counted.
    #[error("this thread has acquired the lock {times} times without releasing it")]
    TooOften {
        /// So often.
        times: u32,
    },
    /// A bounded semaphore was released more often than it was acquired.
    #[error(
        "the semaphore was released more often than it was acquired: it has {limit} units in all"
    )]
    ReleasedTooOften {
        /// What it began with.
        limit: usize,
    },
    /// Not all will meet at the barrier: one was late, gave up, panicked or died, or the barrier was reset.
    #[error(
        "the barrier is broken: one who was to meet there was late, gave up, panicked or died, or it was reset; reset() makes it usable again"
    )]
    BrokenBarrier,
    /// So many wait for a condition of processes already that there is no place for one more.
    #[error(
        "{limit} threads wait for the condition already, and it has no place for more; make several conditions of one lock"
    )]
    TooManyWait {
        /// How many can wait.
        limit: usize,
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
    /// Everything that was sent has been received, and nobody is left to send more: all processes that held the other end of the
    /// pipe have closed it or died.
    #[error("end of file: every process that held the other end of the pipe has closed it or died")]
    EndOfFile,
    /// Nobody is left to receive what is sent.
    #[error(
        "broken pipe: every process that held the other end has closed it or died; the message was not sent"
    )]
    BrokenPipe,
    /// Another process uses this end of the pipe.
    #[error(
        "this end of the pipe is in use by process {}; one process at a time can use an end: close it there, or make a pipe for each",
        pid.map_or_else(|| "(unknown)".to_owned(), |pid| pid.to_string())
    )]
    Busy {
        /// The process that has it, if it could be read.
        pid: Option<u32>,
    },
    /// The connection, listener or queue was closed in this process.
    #[error("this connection was closed in this process")]
    ConnectionClosed,
    /// The next message on the pipe is of the other kind, and stays.
    #[error(
        "the next message on this pipe is {}",
        if *bytes { "bytes, which recv_bytes takes; recv takes what send has sent" } else { "a value, which recv takes; recv_bytes takes what send_bytes has sent" }
    )]
    OtherKind {
        /// It is bytes; otherwise a value.
        bytes: bool,
    },
    /// The next message on the pipe is longer than allowed, and stays.
    #[error(
        "the next message has {len} bytes, and at most {limit} were asked for; receive it with a larger limit or buffer"
    )]
    TooLong {
        /// Its length, in bytes.
        len: u64,
        /// The limit, in bytes.
        limit: u64,
    },
    /// A buffer has no such part.
    #[error(
        "a buffer of {len} bytes has no {} bytes from {offset} on", size.map_or_else(String::new, |size| size.to_string())
    )]
    OutOfRange {
        /// Where the part was to begin, in bytes.
        offset: usize,
        /// Its length, in bytes.
        size: Option<usize>,
        /// What the buffer has, in bytes.
        len: usize,
    },
    /// A one-way pipe has no such direction.
    #[error(
        "this end of a one-way pipe can only {}; Pipe::new makes one for both directions",
        if *can_send { "send" } else { "receive" }
    )]
    OneWay {
        /// It can send; otherwise it can receive.
        can_send: bool,
    },
    /// There is not so much memory to share.
    #[error("no room for {size} bytes of shared memory: {why}")]
    NoRoom {
        /// How much was asked for, in bytes.
        size: usize,
        /// What it was too much for.
        why: String,
    },
    /// The text cannot be a name of shared memory.
    #[error(
        "{name:?} cannot be a name of shared memory: {why}; a name is a word as \"results-1\", and no path"
    )]
    BadName {
        /// As it was given.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Somebody has shared memory of that name.
    #[error(
        "there is shared memory of the name {name} already: attach to it, unlink it, or choose another name"
    )]
    NameExists {
        /// The name.
        name: String,
    },
    /// There is no shared memory of that name, or nobody holds it any more.
    #[error(
        "there is no shared memory of the name {name} (looked for in {}): nobody has created it, it was unlinked, or all who held it have ended",
        directory.display()
    )]
    NoSuchName {
        /// The name.
        name: String,
        /// Where this user's names are.
        directory: PathBuf,
    },
    /// Shared memory is used as something that it is not.
    #[error("this shared memory is {found}, and not {wanted}; use it as what it was created as")]
    OtherMemory {
        /// What it is.
        found: String,
        /// As what it was to be used.
        wanted: String,
    },
    /// An atomic number cannot be there.
    #[error("an atomic number of 8 bytes cannot begin at byte {offset}: take a multiple of 8")]
    Unaligned {
        /// Where it was to be, in bytes.
        offset: usize,
    },
    /// An array has no such elements.
    #[error(
        "an array of {len} elements has no {}", if *count == 1 { format!("element {index}") } else { format!("{count} elements from {index} on") }
    )]
    NoSuchElement {
        /// The first that was asked for.
        index: usize,
        /// How many.
        count: usize,
        /// What the array has.
        len: usize,
    },
    /// Whoever changed it last died or panicked in the middle.
    #[error(
        "this {what} may be half changed: whoever held its lock was killed, or panicked, while changing it; lock() it, set it right, and say so with \
         mark_consistent()"
    )]
    Inconsistent {
        /// What.
        what: &'static str,
    },
    /// Shared data cannot be read or written; nothing was changed.
    #[error("shared data at {at}: {why}")]
    SharedData {
        /// Where it is kept; without a password.
        at: String,
        /// What is wrong, and what to do.
        why: String,
    },
    /// The process that held shared data has ended, and what it held with it.
    #[error(
        "the manager at {at} has ended, and what it held with it: {why}; what must outlive a process is kept by sqlite:, redis:// or postgres://"
    )]
    ManagerGone {
        /// Where it was.
        at: String,
        /// What is known of it.
        why: String,
    },
    /// Whether something was done elsewhere is not known.
    #[error(
        "lost {at} while it was asked to {what}, and nobody knows whether it has: {why}; look before you do it again"
    )]
    FateUnknown {
        /// Where; without a password.
        at: String,
        /// What was asked for.
        what: String,
        /// How it was lost.
        why: String,
    },
    /// A method that was called at a manager has no value: it panicked, returned an error, or its arguments are not what it takes.
    #[error("{method} at {at} {failure}")]
    MethodFailed {
        /// The type and the method.
        method: String,
        /// The manager.
        at: String,
        /// What happened there.
        failure: Failure,
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
        Some(rustix::io::Errno::NOENT) => "; it is found by /proc/self/exe: /proc must be mounted",
        Some(rustix::io::Errno::AGAIN) => "; there are too many processes (see ulimit -u)",
        _ => "",
    }
}

fn seconds(time: Duration) -> String {
    format!("{} s", time.as_secs_f64())
}
