//! The command line: what was typed, and nothing of what it means.
//!
//! Each role's options are defined once, in [`options`]; `run` holds all three roles, so it
//! flattens all of them. Values that need care are read in [`quantity`], `:::` is cut off before
//! clap sees it in [`words`], and [`hint`] turns clap's errors into ones that name the role an
//! option belongs to.

use std::ffi::OsString;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};

use crate::allow;
use crate::chaos::Faults;
use crate::exit_code::ExitCode;

mod hint;
pub mod options;
pub mod quantity;
#[cfg(test)]
mod tests;
mod words;

use options::{
    ChaosArgs, CommonArgs, InputArgs, JobsArgs, JoinArgs, JournalArgs, LimitArgs, LogArgs,
    OutputArgs, ReachArgs, TicketArgs,
};

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "procession",
    version,
    about = "Run a command for each line of input, in parallel, on one machine or many, and lose no result",
    before_long_help = ROOT_EXAMPLES,
    args_override_self = true,
    subcommand_value_name = "SUBCOMMAND",
    subcommand_help_heading = "Subcommands",
    max_term_width = 100
)]
struct CommandLine {
    #[command(subcommand)]
    action: Action,
}

/// The subcommand that was typed, with its options.
#[derive(Clone, Debug, PartialEq, Subcommand)]
pub enum Action {
    /// Run all three roles here: hand out tasks, run them, and gather the results
    #[command(
        override_usage = "procession run [OPTIONS] [COMMAND [ARG]...] [::: VALUE...]",
        before_long_help = RUN_EXAMPLES
    )]
    Run(RunArgs),
    /// Hand out tasks to the workers that connect
    #[command(
        override_usage = "procession ventilator --bind ENDPOINT|--queue URL [OPTIONS] [COMMAND [ARG]...] [::: VALUE...]",
        before_long_help = VENTILATOR_EXAMPLES
    )]
    Ventilator(VentilatorArgs),
    /// Run the tasks of a ventilator
    #[command(
        override_usage = "procession worker --connect ENDPOINT|--ticket FILE|--queue URL [OPTIONS] [COMMAND [ARG]...]",
        before_long_help = WORKER_EXAMPLES
    )]
    Worker(WorkerArgs),
    /// Gather the results of a ventilator's tasks
    #[command(
        override_usage = "procession sink --connect ENDPOINT|--ticket FILE|--queue URL [--bind ENDPOINT] [OPTIONS]",
        before_long_help = SINK_EXAMPLES
    )]
    Sink(SinkArgs),
    /// Host queues by name, for programs that come and go
    #[command(
        override_usage = "procession queue --bind ENDPOINT [OPTIONS]",
        before_long_help = QUEUE_EXAMPLES
    )]
    Queue(QueueArgs),
    /// Let programs in other languages use a queue, by Thrift
    #[command(
        override_usage = "procession gateway --thrift HOST:PORT --queue URL [OPTIONS]",
        before_long_help = GATEWAY_EXAMPLES
    )]
    Gateway(GatewayArgs),
    /// Say what a queue of such a URL promises, and what not
    #[command(override_usage = "procession guarantees [URL]...")]
    Guarantees(GuaranteesArgs),
    /// Show what waits, runs and is done, and who is there
    #[command(
        override_usage = "procession status [--connect ENDPOINT] [--json]",
        before_long_help = STATUS_EXAMPLES
    )]
    Status(StatusArgs),
    /// Make keys for --keys: who may join by TCP, and who is believed there
    #[command(before_long_help = KEYGEN_EXAMPLES)]
    Keygen(KeygenArgs),
    /// Watch over the command's process groups (started by procession itself)
    #[command(name = "__guardian", hide = true)]
    Guardian(GuardianArgs),
}

/// `procession run`: every role's options, and who else may join.
#[derive(Args, Clone, Debug, PartialEq)]
pub struct RunArgs {
    /// Also listen on ENDPOINT, so that other workers may join
    #[arg(long, value_name = "ENDPOINT")]
    pub bind: Option<String>,

    /// Host name or address by which the others reach this one
    #[arg(long, value_name = "HOST", requires = "bind")]
    pub advertise: Option<String>,

    #[command(flatten)]
    pub tickets: TicketArgs,

    #[command(flatten)]
    pub limits: LimitArgs,

    #[command(flatten, next_help_heading = "Input")]
    pub input: InputArgs,

    #[command(flatten, next_help_heading = "Workers")]
    pub jobs: JobsArgs,

    #[command(flatten)]
    pub chaos: ChaosArgs,

    #[command(flatten, next_help_heading = "Output")]
    pub output: OutputArgs,

    #[command(flatten, next_help_heading = "Going on after a death")]
    pub journal: JournalArgs,

    /// Pass over the tasks that are in the joblog, known by command and value, wherever they stand in the input
    #[arg(long, requires = "joblog", conflicts_with_all = ["journal", "pipe", "filter"], help_heading = "Going on after a death")]
    pub resume: bool,

    /// As --resume, and run again those that failed
    #[arg(long, requires = "joblog", conflicts_with_all = ["journal", "pipe", "filter"], alias = "resume-failed", help_heading = "Going on after a death")]
    pub retry_failed: bool,

    #[command(flatten, next_help_heading = "All roles")]
    pub common: CommonArgs,
}

/// `procession ventilator`.
#[derive(Args, Clone, Debug, PartialEq)]
pub struct VentilatorArgs {
    /// Listen on ENDPOINT, the one that workers and the sink connect to
    #[arg(long, value_name = "ENDPOINT", required_unless_present = "queue")]
    pub bind: Option<String>,

    /// Put the tasks into this queue instead, and leave
    ///
    /// URL is redis://HOST/0?queue=NAME, amqp://HOST?queue=NAME, beanstalk://HOST?queue=NAME, or
    /// tcp://HOST:PORT?queue=NAME and ipc://PATH?queue=NAME for a procession queue there. Workers and the
    /// sink take the same URL. With &maxsize=N it waits while N tasks are there that nobody has done.
    /// procession guarantees URL says what such a queue promises.
    #[arg(long, value_name = "URL", conflicts_with_all = ["bind", "advertise", "ticket_out"])]
    pub queue: Option<String>,

    /// Host name or address by which the others reach this one
    #[arg(long, value_name = "HOST")]
    pub advertise: Option<String>,

    #[command(flatten)]
    pub tickets: TicketArgs,

    #[command(flatten)]
    pub limits: LimitArgs,

    #[command(flatten, next_help_heading = "Input")]
    pub input: InputArgs,

    #[command(flatten, next_help_heading = "Going on after a death")]
    pub journal: JournalArgs,

    #[command(flatten, next_help_heading = "All roles")]
    pub common: CommonArgs,
}

/// `procession worker`.
#[derive(Args, Clone, Debug, PartialEq)]
pub struct WorkerArgs {
    /// The ventilator's endpoint
    #[arg(long, value_name = "ENDPOINT", required_unless_present_any = ["ticket", "queue"])]
    pub connect: Option<String>,

    /// Take tasks through this queue instead (see ventilator --queue)
    #[arg(long, value_name = "URL", conflicts_with_all = ["connect", "ticket"])]
    pub queue: Option<String>,

    #[command(flatten)]
    pub join: JoinArgs,

    /// Run this instead of the ventilator's COMMAND
    #[arg(value_name = "COMMAND", trailing_var_arg = true)]
    pub command: Vec<OsString>,

    #[command(flatten, next_help_heading = "Workers")]
    pub jobs: JobsArgs,

    #[command(flatten)]
    pub chaos: ChaosArgs,

    /// Run no programs but these: names that are found in PATH here, or patterns of absolute paths
    ///
    /// For instance gzip,/opt/jobs/*. A star stands for a part of one name. What the ventilator sends
    /// for a shell is the program sh: who allows that allows everything. A task that wants something
    /// else fails, and is not tried again.
    #[arg(long, value_name = "PROGRAM,...", value_delimiter = ',', value_parser = allow::pattern)]
    pub allow: Vec<glob::Pattern>,

    /// A worker whose faults are rehearsed by the one that started it.
    #[arg(long, hide = true, value_parser = str::parse::<Faults>, conflicts_with = "chaos")]
    pub rehearse: Option<Faults>,

    #[command(flatten, next_help_heading = "All roles")]
    pub common: CommonArgs,
}

/// `procession sink`.
#[derive(Args, Clone, Debug, PartialEq)]
pub struct SinkArgs {
    /// The ventilator's endpoint
    #[arg(long, value_name = "ENDPOINT", required_unless_present_any = ["ticket", "queue"])]
    pub connect: Option<String>,

    /// Take results through this queue instead (see ventilator --queue)
    #[arg(long, value_name = "URL", conflicts_with_all = ["connect", "ticket"])]
    pub queue: Option<String>,

    #[command(flatten)]
    pub join: JoinArgs,

    /// Receive results on ENDPOINT, instead of one that is chosen
    #[arg(long, value_name = "ENDPOINT")]
    pub bind: Option<String>,

    #[command(flatten, next_help_heading = "Output")]
    pub output: OutputArgs,

    #[command(flatten, next_help_heading = "Going on after a death")]
    pub journal: JournalArgs,

    #[command(flatten, next_help_heading = "All roles")]
    pub common: CommonArgs,
}

/// `procession queue`.
#[derive(Args, Clone, Debug, PartialEq)]
pub struct QueueArgs {
    /// Listen on ENDPOINT; may be repeated
    ///
    /// A program opens a queue there as ENDPOINT?queue=NAME. Who is the first to open a name makes the queue, with &maxsize=N if that is given.
    #[arg(long, value_name = "ENDPOINT", required = true)]
    pub bind: Vec<String>,

    /// How many queues there may be
    #[arg(long, value_name = "N", default_value = "1000", value_parser = clap::value_parser!(u32).range(1..))]
    pub queues: u32,

    /// Forget a queue that nobody has used for SECS, and that is empty
    #[arg(long, value_name = "SECS", default_value = "600", value_parser = quantity::duration)]
    pub forget: Duration,

    #[command(flatten)]
    pub limits: LimitArgs,

    /// Keep the queues in FILE: killed, and started again with it, they are there, with what was in them
    ///
    /// An item is in FILE before its putter is told that it is accepted, until it is taken or done with. FILE is an SQLite database.
    #[arg(long, value_name = "FILE")]
    pub journal: Option<PathBuf>,

    /// Have the journal survive a power failure too; waits for the disk
    #[arg(long, requires = "journal")]
    pub journal_sync: bool,

    /// Time between heartbeats; three missed mean that the other is gone
    #[arg(long, value_name = "SECS", default_value = "1", value_parser = quantity::duration)]
    pub heartbeat: Duration,

    /// TCP ports for the queues and their lanes, for instance 40000-40099
    #[arg(long, value_name = "A-B", value_parser = quantity::ports)]
    pub lane_ports: Option<RangeInclusive<u16>>,

    /// Prove by the keys in DIR who comes and who listens, by TCP (procession keygen makes them)
    ///
    /// Without it, the folder that PROCESSION_KEYS names. On loopback neither is needed among programs of one user.
    #[arg(long, value_name = "DIR")]
    pub keys: Option<PathBuf>,

    /// Allow plain TCP, also beyond this machine: unencrypted and open to anyone
    #[arg(long, conflicts_with = "keys")]
    pub insecure: bool,

    #[command(flatten)]
    pub log: LogArgs,
}

/// `procession gateway`.
#[derive(Args, Clone, Debug, PartialEq)]
pub struct GatewayArgs {
    /// Where Thrift clients connect to (a port * is any free one)
    #[arg(long, value_name = "HOST:PORT")]
    pub thrift: String,

    /// The queue, a JoinableQueue: tcp://HOST:PORT?queue=NAME, or as any program opens it
    #[arg(long, value_name = "URL")]
    pub queue: String,

    /// Where workers put the results of tasks; without it, the queue NAME.results at the same place
    #[arg(long, value_name = "URL")]
    pub results: Option<String>,

    /// How many clients may be connected; more are turned away
    #[arg(long, value_name = "N", default_value = "256", value_parser = clap::value_parser!(u32).range(1..))]
    pub clients: u32,

    /// The longest message of a client's; who sends a longer one loses the connection
    #[arg(long, value_name = "SIZE", default_value = "16M", value_parser = quantity::size)]
    pub message: u64,

    #[command(flatten)]
    pub reach: ReachArgs,

    #[command(flatten)]
    pub log: LogArgs,
}

/// `procession status`.
#[derive(Args, Clone, Debug, PartialEq)]
pub struct StatusArgs {
    /// The ventilator's endpoint; without it, all runs of this user
    #[arg(long, value_name = "ENDPOINT")]
    pub connect: Option<String>,

    #[command(flatten)]
    pub join: JoinArgs,

    /// Print one JSON object a run
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    pub reach: ReachArgs,

    #[command(flatten)]
    pub log: LogArgs,
}

/// `procession guarantees`.
#[derive(Args, Clone, Debug, PartialEq)]
pub struct GuaranteesArgs {
    /// A queue's URL, as --queue takes it; nothing is connected to. Without one, all engines
    #[arg(value_name = "URL")]
    pub urls: Vec<String>,

    #[command(flatten)]
    pub log: LogArgs,
}

/// `procession keygen`.
#[derive(Args, Clone, Debug, PartialEq)]
pub struct KeygenArgs {
    /// The directory to make, or one without keys
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,

    #[command(flatten)]
    pub log: LogArgs,
}

/// `procession __guardian`: its words are between the guardian and its parent.
#[derive(Args, Clone, Debug, PartialEq)]
pub struct GuardianArgs {
    /// What the parent passes on
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub words: Vec<OsString>,
}

impl WorkerArgs {
    /// The words by which another process is such a worker, but for `-j` and `--chaos`.
    pub fn words(&self) -> Vec<OsString> {
        let mut words: Vec<OsString> = Vec::new();
        if let Some(connect) = &self.connect {
            words.extend(["--connect".into(), connect.into()]);
        }
        if let Some(options::TicketFile::Path(path)) = &self.join.ticket {
            words.extend(["--ticket".into(), path.into()]);
        }
        words.extend(self.common.words());
        for pattern in &self.allow {
            words.extend(["--allow".into(), pattern.as_str().into()]);
        }
        if !self.command.is_empty() {
            words.push("--".into());
            words.extend(self.command.iter().cloned());
        }
        words
    }
}

impl CommonArgs {
    /// The words that matter to a worker.
    pub fn words(&self) -> Vec<OsString> {
        let patience = self.reach.patience.as_secs_f64().to_string();
        let mut words: Vec<OsString> = vec!["--patience".into(), patience.into()];
        if let Some(keys) = &self.reach.keys {
            words.extend(["--keys".into(), keys.into()]);
        }
        if self.reach.insecure {
            words.push("--insecure".into());
        }
        if self.log.quiet {
            words.push("-q".into());
        }
        words.extend((0..self.log.verbose).map(|_| OsString::from("-v")));
        words
    }
}

impl Action {
    /// The role's name, as it begins each message on stderr: `procession worker: …`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Run(_) => "run",
            Self::Ventilator(_) => "ventilator",
            Self::Worker(_) => "worker",
            Self::Sink(_) => "sink",
            Self::Queue(_) => "queue",
            Self::Gateway(_) => "gateway",
            Self::Status(_) => "status",
            Self::Guarantees(_) => "guarantees",
            Self::Keygen(_) => "keygen",
            Self::Guardian(_) => "guardian",
        }
    }

    /// `-v` and `-q`.
    pub fn log(&self) -> Option<&LogArgs> {
        match self {
            Self::Run(args) => Some(&args.common.log),
            Self::Ventilator(args) => Some(&args.common.log),
            Self::Worker(args) => Some(&args.common.log),
            Self::Sink(args) => Some(&args.common.log),
            Self::Queue(args) => Some(&args.log),
            Self::Gateway(args) => Some(&args.log),
            Self::Status(args) => Some(&args.log),
            Self::Guarantees(args) => Some(&args.log),
            Self::Keygen(args) => Some(&args.log),
            Self::Guardian(_) => None,
        }
    }
}

/// Reads a command line, the program's name included.
///
/// The error is also how `--help` and `--version` come back: see [`report`].
pub fn parse<I>(argv: I) -> Result<Action, clap::Error>
where
    I: IntoIterator<Item = OsString>,
{
    let (typed, values) = words::split(argv);
    let subcommand = hint::subcommand(&typed);
    let mut action = CommandLine::try_parse_from(&typed)
        .map_err(|error| hint::explain(error, subcommand.as_deref()))?
        .action;
    words::place(&mut action, values).map_err(|message| {
        hint::usage(ErrorKind::ArgumentConflict, subcommand.as_deref(), &message)
    })?;
    Ok(action)
}

/// Prints what [`parse`] returned instead of an action, and says how to exit: help and version go
/// to stdout and are a success, misuse goes to stderr.
pub fn report(error: &clap::Error) -> ExitCode {
    // Nobody is left to hear of a closed stdout or stderr.
    let _ = error.print();
    if error.use_stderr() {
        ExitCode::Error
    } else {
        ExitCode::Success
    }
}

const ROOT_EXAMPLES: &str = "\
Examples:
  procession run gzip ::: *.log                     compress, one file a core
  find . -name '*.png' -print0 | procession run -0 optipng
  procession run -k 'wc -l {} | tr a-z A-Z' ::: *.txt

  Three roles, three processes, one machine or several:
  procession ventilator --bind ipc:///tmp/jobs --pipe wc -l < big.txt
  procession worker --connect ipc:///tmp/jobs -j4
  procession sink --connect ipc:///tmp/jobs --joblog jobs.tsv";

const RUN_EXAMPLES: &str = "\
Examples:
  procession run gzip -9 ::: *.log                  values from the command line
  seq 100 | procession run -j4 -k echo {}           lines of standard input, output in order
  procession run ::: 'make -C a' 'make -C b'        each value is a command
  procession run 'sort {} | uniq -c > {.}.count' ::: *.txt
  procession run --pipe --block 10M wc -l < big.txt
  procession run -- -odd-name ::: a b               a COMMAND that begins with a dash";

const VENTILATOR_EXAMPLES: &str = "\
Examples:
  procession ventilator --bind ipc:///tmp/jobs gzip ::: *.log
  procession ventilator --bind tcp://127.0.0.1:5557 -a hosts.txt ping -c1 {}
  procession ventilator --bind 'tcp://*:5557' --ticket-out jobs.ticket gzip ::: *.log";

const WORKER_EXAMPLES: &str = "\
Examples:
  procession worker --connect ipc:///tmp/jobs -j4
  procession worker --connect tcp://127.0.0.1:5557 zstd   zstd here, whatever others run
  procession worker --ticket jobs.ticket            of a run on another machine, which wrote it";

const SINK_EXAMPLES: &str = "\
Examples:
  procession sink --connect ipc:///tmp/jobs -k > results.txt
  procession sink --connect ipc:///tmp/jobs --joblog jobs.tsv --results out";

const KEYGEN_EXAMPLES: &str = "\
Examples:
  procession keygen ~/.config/procession/keys
  procession ventilator --bind 'tcp://*:5557' --keys ~/.config/procession/keys gzip ::: *.log
  procession worker --connect tcp://ant:5557 --keys ~/.config/procession/keys";

const QUEUE_EXAMPLES: &str = "\
Examples:
  procession queue --bind ipc:///tmp/queues
  procession queue --bind tcp://127.0.0.1:5557 --journal queues.sqlite
  procession queue --bind 'tcp://*:5557' --keys ~/.config/procession/keys --lane-ports 40000-40999

  In a program: JoinableQueue::open(\"tcp://127.0.0.1:5557?queue=jobs&maxsize=1000\")";

const GATEWAY_EXAMPLES: &str = "\
Examples:
  procession queue --bind ipc:///tmp/queues --journal queues.sqlite
  procession gateway --thrift 127.0.0.1:9090 --queue 'ipc:///tmp/queues?queue=jobs'
  thrift --gen py thrift/procession.thrift          the client, in Python; in any other language alike";

const STATUS_EXAMPLES: &str = "\
Examples:
  procession status                                 all runs of this user
  procession status --connect ipc:///tmp/jobs --json";
