//! What a process is given before it is started.

use std::ffi::OsString;
use std::io;
use std::sync::Arc;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::Signal;
use serde::Serialize;

use super::channel::{Answer, Channel, Order, Outgoing};
use super::child::Child;
use super::children::children;
use super::identity::{as_parent, current_process, next_child};
use super::stdio::Stdio;
use super::{Process, Run, inside, start};
use crate::error::{Error, Result};
use crate::pipe::transit::{InTransit, gather};
use crate::registry::{self, Task};

/// A process that is not started yet: its name, whether it is a daemon, its environment and its standard streams.
///
/// ```
/// use procession::Process;
/// use procession::process::Stdio;
/// use std::io::Read;
///
/// #[procession::task]
/// fn greet() {
///     println!("{} {}", std::env::var("GREETING").unwrap_or_default(), std::env::var("NAME").unwrap_or_default());
/// }
///
/// #[procession::main]
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     let mut process = Process::builder()
///         .name("greeter")
///         .env("GREETING", "hello")
///         .env("NAME", "world")
///         .stdout(Stdio::piped())
///         .spawn(greet, ())?;
///     let mut said = String::new();
///     if let Some(mut stdout) = process.stdout.take() {
///         stdout.read_to_string(&mut said)?;
///     }
///     process.join()?;
///     assert_eq!(said, "hello world\n");
///     assert_eq!(process.name(), "greeter");
///     Ok(())
/// }
/// ```
#[derive(Debug)]
#[must_use = "nothing is started before spawn or start"]
pub struct Builder {
    name: Option<String>,
    is_daemon: bool,
    variables: Vec<(OsString, OsString)>,
    stdin: Stdio,
    stdout: Stdio,
    stderr: Stdio,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            name: None,
            is_daemon: false,
            variables: Vec::new(),
            // As Python's: several processes that read one terminal would each get some of what is typed.
            stdin: Stdio::null(),
            stdout: Stdio::inherit(),
            stderr: Stdio::inherit(),
        }
    }
}

impl Builder {
    /// A process with a name of Python's (`Process-1`), no daemon, with this process's environment, standard output and error,
    /// and an empty standard input.
    pub fn new() -> Self {
        Self::default()
    }

    /// Its name, for people: in errors, and as `ps` shows it (the first 15 bytes).
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Whether it is a daemon: ended when `main` ends, instead of being joined. A daemon may have no children.
    pub fn daemon(mut self, daemon: bool) -> Self {
        self.is_daemon = daemon;
        self
    }

    /// Sets a variable of its environment. The others are those of this process at the time of the start.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.variables.push((name.into(), value.into()));
        self
    }

    /// Its standard input: empty, unless something else is said here.
    pub fn stdin(mut self, stdin: impl Into<Stdio>) -> Self {
        self.stdin = stdin.into();
        self
    }

    /// Its standard output: that of this process, unless something else is said here.
    pub fn stdout(mut self, stdout: impl Into<Stdio>) -> Self {
        self.stdout = stdout.into();
        self
    }

    /// Its standard error: that of this process, unless something else is said here.
    pub fn stderr(mut self, stderr: impl Into<Stdio>) -> Self {
        self.stderr = stderr.into();
        self
    }

    /// Starts a process that calls `task` with `args`.
    ///
    /// # Errors
    /// As [`Process::spawn`].
    pub fn spawn<T: Task>(self, task: T, args: T::Args) -> Result<Process<T::Output>> {
        let _ = task;
        self.launch("Process", T::NAME, &args)
    }

    /// Starts a process that calls the `run` of `process`.
    ///
    /// # Errors
    /// As [`Process::spawn`].
    pub fn start<P: Run>(self, process: P) -> Result<Process<P::Output>> {
        // Without its module and, of `Type<Argument>`, without those.
        let path = std::any::type_name::<P>();
        let path = path.split('<').next().unwrap_or(path);
        let kind = path.rsplit("::").next().unwrap_or(path);
        self.launch(kind, P::NAME, &process)
    }

    fn launch<R>(self, kind: &str, task: &str, args: &impl Serialize) -> Result<Process<R>> {
        let this = current_process();
        if this.daemon() {
            return Err(Error::DaemonWithChildren {
                name: this.name().to_owned(),
            });
        }
        // Before there is a child that could find it out.
        registry::find(task)?;
        let (arguments, in_transit) = gather(|| rmp_serde::to_vec(args));
        let arguments = arguments.map_err(|error| Error::Encoding {
            what: format!("cannot encode the arguments of {task}"),
            why: error.to_string(),
        })?;
        let (numbers, counted) = next_child(kind);
        let name = self.name.clone().unwrap_or(counted);
        let order = Order::new(
            task,
            name.clone(),
            numbers,
            self.is_daemon,
            as_parent(),
            &arguments,
        );
        self.start_child(name.clone(), &order, arguments, in_transit)
            .map_err(|source| Error::Start { name, source })
    }

    fn start_child<R>(
        self,
        name: String,
        order: &Order,
        arguments: Vec<u8>,
        in_transit: InTransit,
    ) -> io::Result<Process<R>> {
        inside::check_that_children_are_known()?;
        let children = children()?;
        let flags = SocketFlags::CLOEXEC;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        rustix::io::ioctl_fionbio(&ours, true)?;
        let ours = Channel(ours);
        // Most orders are small, and then they are there before the child is.
        let mut outgoing = Outgoing::new(order.encode()?, arguments);
        outgoing.send(&ours);

        let (stdin, our_stdin) = self.stdin.open(true)?;
        let (stdout, our_stdout) = self.stdout.open(false)?;
        let (stderr, our_stderr) = self.stderr.open(false)?;
        let pid = start::start(&theirs, [stdin, stdout, stderr], &self.variables)?;
        drop(theirs);
        let child = Arc::new(Child::new(pid, name, self.is_daemon, in_transit));
        if let Err(error) = children.add(Arc::clone(&child), ours, outgoing) {
            // Nobody would watch it.
            let _ = child.signal(Signal::KILL);
            child.reap(Answer::Nothing);
            return Err(error);
        }
        Ok(Process {
            stdin: our_stdin.map(Into::into),
            stdout: our_stdout.map(Into::into),
            stderr: our_stderr.map(Into::into),
            ..Process::of(child)
        })
    }
}
