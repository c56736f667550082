//! What the command `procession` sends through a pipeline: its tasks are values, lines or blocks of bytes
//! ([`Body`](crate::Body)), its results are [`CommandResult`]s, and a [`Job`] tells each worker once what to do with them.
//!
//! ```text
//! ventilator                       worker                                     sink
//!   line, value, block ──Body──►   Job.template.fill(value) ─► Invocation
//!   Job, once a worker ────────►   run it ─► CommandResult ─────Body──────►   stdout, --joblog, --results, --json
//! ```
//!
//! A program of yours can take the place of any of the three: read the tasks of `procession ventilator` with a worker that
//! never starts a command, or gather [`CommandResult`]s in a sink of your own. When both ends are yours, don't use these
//! types: a [pipeline](crate::pipeline) carries any type that serde can encode.
//!
//! What COMMAND means is decided once, by [`Template::parse`], and what becomes of a value, by [`Template::fill`]:
//!
//! | COMMAND | what runs | the value |
//! |---|---|---|
//! | none, or the one word `{}` | `sh -c VALUE` | is the command line |
//! | one word with white space or shell characters | `sh -c COMMAND` | quoted for the shell; any byte but NUL survives |
//! | anything else | the words, without a shell | as it is, inside its word |
//!
//! ```
//! use procession::command::Template;
//!
//! let template = Template::parse(&["gzip -c {} >{/.}.gz".into()]);
//! let run = template.fill(Some(b"logs/it's here.txt"), 1, 1)?;
//! assert_eq!(run.program, "sh");
//! assert_eq!(run.args[1], r#"gzip -c 'logs/it'"'"'s here.txt' >'it'"'"'s here'.gz"#);
//!
//! let template = Template::parse(&["gzip".into(), "-9".into()]);
//! let run = template.fill(Some(b"two words.txt"), 1, 1)?;
//! assert_eq!((run.program, run.args), ("gzip".into(), vec!["-9".into(), "two words.txt".into()]));
//! # Ok::<(), procession::command::FillError>(())
//! ```
//!
//! Nothing here blocks except where a [`CommandResult`] with much output is copied from and to temporary files, and nothing
//! here starts a process.

mod job;
mod quote;
mod result;
mod template;

pub use job::{Job, Mode};
pub use quote::quote;
pub use result::{CommandResult, ResultError};
pub use template::{FillError, Filler, Invocation, LONGEST_ARGUMENT, Template};
