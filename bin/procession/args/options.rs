//! The options of each role, defined once each.

use std::ffi::{OsStr, OsString};
use std::ops::RangeInclusive;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{ArgAction, Args};

use super::quantity::{self, Jobs};
use crate::chaos::Faults;

/// The ventilator's options: where tasks come from, and how each is tried.
#[derive(Args, Clone, Debug, PartialEq)]
pub struct InputArgs {
    /// What to run for each task; without it, each line is itself a command for sh
    ///
    /// Several words are run directly, without a shell. One word with white space or shell
    /// characters is a template for `sh -c`, with every value quoted. Placeholders: {} the value,
    /// {.} without extension, {/} its base name, {//} its directory, {/.} base name without
    /// extension, {#} the task's number, {%} the slot. With none of them the value is appended.
    #[arg(
        value_name = "COMMAND",
        trailing_var_arg = true,
        help_heading = "Arguments"
    )]
    pub command: Vec<OsString>,

    /// The words after `:::`; `None` without one. They never pass through clap.
    #[arg(skip)]
    pub values: Option<Vec<OsString>>,

    /// Read tasks from FILE instead of standard input; may be repeated, - is standard input
    #[arg(short = 'a', long = "arg-file", value_name = "FILE", value_parser = OsStringValueParser::new().try_map(InputFile::parse))]
    pub files: Vec<InputFile>,

    /// Tasks end in NUL, not in a line end (and so do the answers of --filter)
    #[arg(short = '0', long)]
    pub null: bool,

    /// Cut the input into blocks at line ends; each is the standard input of one COMMAND
    #[arg(long, conflicts_with = "filter")]
    pub pipe: bool,

    /// Size of a block of --pipe: K, M, G are powers of 1024; k, m, g of 1000
    #[arg(long, value_name = "SIZE", default_value = "1M", value_parser = quantity::size, requires = "pipe")]
    pub block: u64,

    /// Start COMMAND once a slot; each task is a line to it, each result the line it answers
    #[arg(long)]
    pub filter: bool,

    /// Tries in all for a command that fails; 0: until it succeeds
    // 0 is read as u32::MAX, so that whoever counts tries needs no special case.
    #[arg(long, value_name = "N", default_value = "1", value_parser = quantity::tries)]
    pub retries: u32,

    /// Kill a task's whole process group after SECS (also 1.5, 30s, 5m, 1h)
    #[arg(long, value_name = "SECS", value_parser = quantity::duration)]
    pub timeout: Option<Duration>,

    /// Accepted so that command lines for GNU parallel work as they are.
    #[arg(long = "will-cite", hide = true)]
    pub will_cite: bool,
}

/// The worker's option.
#[derive(Args, Clone, Debug, PartialEq)]
pub struct JobsArgs {
    /// Commands at a time: N, +N or -N (cores plus or minus N), N% of the cores; 0: as many as possible
    ///
    /// The cores are those that CPU affinity and the cgroup's quota leave, not those of the host.
    #[arg(
        short,
        long,
        value_name = "N",
        alias = "max-procs",
        short_alias = 'P',
        default_value = "100%",
        allow_hyphen_values = true,
        value_parser = quantity::jobs
    )]
    pub jobs: Jobs,
}

/// Faults that are rehearsed.
#[derive(Args, Clone, Debug, PartialEq)]
pub struct ChaosArgs {
    /// Rehearse faults on our own workers, for instance kill=2%,stop=1%,cut=1%, and end with a ledger
    ///
    /// Each is a percentage of the tasks during which it happens: kill is SIGKILL of the worker and
    /// counts against no task, stop is SIGSTOP for longer than three heartbeats, cut drops the
    /// worker's connections. Workers are processes then, -j of them (64 at most). The same seed=N
    /// means the same faults.
    #[arg(long, value_name = "FAULTS", value_parser = str::parse::<Faults>)]
    pub chaos: Option<Faults>,
}

/// The sink's options: what becomes of results.
#[derive(Args, Clone, Debug, PartialEq)]
pub struct OutputArgs {
    /// Print results in the order of the input
    #[arg(short, long, alias = "keeporder")]
    pub keep_order: bool,

    /// Begin each line of output with the task's value and a tab
    #[arg(long)]
    pub tag: bool,

    /// Print one JSON object a result
    ///
    /// Its fields: id, input, exit, signal, attempts, worker, host, start, seconds, stdout, stderr; and
    /// failures, how each attempt ended that failed: host, worker, attempt, exit, signal,
    /// out_of_memory, peak_memory, seconds, and the last lines of its stderr.
    #[arg(long)]
    pub json: bool,

    /// Log each task to FILE, in GNU parallel's columns; +FILE appends
    #[arg(long, value_name = "FILE", value_parser = OsStringValueParser::new().try_map(JobLog::parse))]
    pub joblog: Option<JobLog>,

    /// Keep each task's output in files under DIR, in GNU parallel's layout
    #[arg(long, value_name = "DIR", alias = "res")]
    pub results: Option<PathBuf>,
}

/// What a ventilator, a sink and a `run` take, to go on after a death.
#[derive(Args, Clone, Debug, Default, PartialEq)]
pub struct JournalArgs {
    /// Write down in FILE what is done: killed, and started again with the same command line, it goes on
    ///
    /// Finished tasks are known by their content, and not done again. FILE is an SQLite database; remove it to run all again.
    #[arg(long, value_name = "FILE")]
    pub journal: Option<PathBuf>,

    /// Have the journal, and the output before it, survive a power failure too; waits for the disk
    #[arg(long, requires = "journal")]
    pub journal_sync: bool,
}

/// What every role takes.
#[derive(Args, Clone, Debug, PartialEq)]
pub struct CommonArgs {
    /// Show progress with rate and time left on stderr
    ///
    /// On a terminal a bar; elsewhere a plain line now and then.
    #[arg(long)]
    pub bar: bool,

    /// Time between heartbeats; three missed mean that the other is gone
    #[arg(long, value_name = "SECS", default_value = "1", value_parser = quantity::duration)]
    pub heartbeat: Duration,

    /// TCP ports for lanes, results and acknowledgements, for instance 40000-40099
    #[arg(long, value_name = "A-B", value_parser = quantity::ports)]
    pub lane_ports: Option<RangeInclusive<u16>>,

    #[command(flatten)]
    pub reach: ReachArgs,

    #[command(flatten)]
    pub log: LogArgs,
}

/// How far, and how long, to look for the others.
#[derive(Args, Clone, Debug, PartialEq)]
pub struct ReachArgs {
    /// Give up when nobody was heard for SECS
    #[arg(long, value_name = "SECS", default_value = "30", value_parser = quantity::duration)]
    pub patience: Duration,

    /// Prove by the keys in DIR who comes and who listens, by TCP (procession keygen makes them)
    ///
    /// Without it, the folder that PROCESSION_KEYS names. On loopback neither is needed among programs of one user.
    #[arg(long, value_name = "DIR")]
    pub keys: Option<PathBuf>,

    /// Allow plain TCP, also beyond this machine: unencrypted and open to anyone
    #[arg(long, conflicts_with = "keys")]
    pub insecure: bool,
}

/// What lets one in at a ventilator.
#[derive(Args, Clone, Debug, PartialEq)]
pub struct JoinArgs {
    /// Join with the ticket in FILE (see --ticket-out); - is standard input
    ///
    /// It says where, too; --connect may name another way there, for instance a tunnel.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["keys", "insecure"], value_parser = OsStringValueParser::new().try_map(TicketFile::parse))]
    pub ticket: Option<TicketFile>,
}

/// How others come to this ventilator.
#[derive(Args, Clone, Debug, PartialEq)]
pub struct TicketArgs {
    /// Write a ticket to FILE, with which others join this run by TCP; - is stderr
    ///
    /// One line, which is a secret, with keys that are made for this run and end with it.
    #[arg(long, value_name = "FILE", conflicts_with = "insecure", value_parser = OsStringValueParser::new().try_map(TicketFile::parse))]
    pub ticket_out: Option<TicketFile>,
}

/// How much others may ask of this ventilator.
#[derive(Args, Clone, Debug, Default, PartialEq)]
pub struct LimitArgs {
    /// Turn away who asks for more: peers=N (10000), joins=N in a second (1000), message=SIZE (1M), memory=SIZE for each peer (64M)
    ///
    /// Several are separated by commas. message is the longest message of control, at most 1M; memory is what one peer's messages take
    /// that were not read yet. Who is turned away is told why; status counts them.
    #[arg(long = "limit", value_name = "NAME=N", value_delimiter = ',', value_parser = quantity::limit)]
    pub limits: Vec<quantity::Limit>,
}

/// An argument of `--ticket` or `--ticket-out`.
#[derive(Clone, Debug, PartialEq)]
pub enum TicketFile {
    /// `-`
    Standard,
    /// A file by its name
    Path(PathBuf),
}

impl TicketFile {
    fn parse(word: OsString) -> Result<Self, String> {
        match word.as_encoded_bytes() {
            b"" => Err("the name of a file is needed".into()),
            b"-" => Ok(Self::Standard),
            // A ticket on the command line would be seen by everybody on the machine.
            word if word.starts_with(b"procession-ticket-") => {
                Err("this is a ticket, and the name of a file is needed: write it to a file of mode 0600, or give - and standard input".into())
            }
            _ => Ok(Self::Path(word.into())),
        }
    }
}

/// How much is said on stderr.
#[derive(Args, Clone, Debug, PartialEq)]
pub struct LogArgs {
    /// Say more on stderr: -v who comes and goes, -vv each failure, -vvv each message
    #[arg(short, long, action = ArgAction::Count)]
    pub verbose: u8,

    /// Say nothing but errors on stderr
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,
}

/// An argument of `-a`.
#[derive(Clone, Debug, PartialEq)]
pub enum InputFile {
    /// `-`
    Stdin,
    /// A file by its name
    Path(PathBuf),
}

impl InputFile {
    fn parse(word: OsString) -> Result<Self, String> {
        match word.as_encoded_bytes() {
            b"" => Err("the name of a file is needed".into()),
            b"-" => Ok(Self::Stdin),
            _ => Ok(Self::Path(word.into())),
        }
    }
}

/// An argument of `--joblog`.
#[derive(Clone, Debug, PartialEq)]
pub struct JobLog {
    /// The log file
    pub path: PathBuf,
    /// It was given as `+FILE`: what is in it stays
    pub append: bool,
}

impl JobLog {
    fn parse(word: OsString) -> Result<Self, String> {
        let (name, append) = match word.as_bytes() {
            [b'+', rest @ ..] => (rest, true),
            all => (all, false),
        };
        if name.is_empty() {
            return Err("the name of a file is needed".into());
        }
        Ok(Self {
            path: OsStr::from_bytes(name).into(),
            append,
        })
    }
}
