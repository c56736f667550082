//! What the ventilator tells each worker about the run, once.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Template;

/// What a task's bytes are to the command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// A value, which is put into the command line.
    #[default]
    Value,
    /// A block of input, which is the command's standard input (`--pipe`).
    Pipe,
    /// One line of input to a command that stays, which answers with one line (`--filter`).
    Filter,
}

/// The command of a run, and how each task goes to it.
///
/// It is sent as MessagePack, the fields in this order.
///
/// ```
/// use procession::command::{Job, Mode, Template};
/// let job = Job {
///     mode: Mode::Pipe,
///     template: Template::parse(&["wc".into(), "-l".into()]),
///     ..Job::default()
/// };
/// assert_eq!(job.tries, 1);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// What a task's bytes are to the command.
    pub mode: Mode,
    /// The command; a worker that was given its own uses that instead.
    pub template: Template,
    /// Whether records end in NUL instead of a newline: of the input, and of a filter's answers.
    pub null: bool,
    /// How long the command may take before its process group is killed; `None`: for ever.
    pub timeout: Option<Duration>,
    /// How often a command that fails is run in all, at least once.
    pub tries: u32,
}

impl Default for Job {
    fn default() -> Self {
        Self {
            mode: Mode::Value,
            template: Template::Input,
            null: false,
            timeout: None,
            tries: 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_arrives_as_it_was_sent() -> Result<(), Box<dyn std::error::Error>> {
        let job = Job {
            mode: Mode::Filter,
            template: Template::Words(vec![b"sed".to_vec(), b"-u".to_vec()]),
            null: true,
            timeout: Some(Duration::from_millis(1500)),
            tries: 3,
        };
        for job in [job, Job::default()] {
            let encoded = rmp_serde::to_vec(&job)?;
            assert_eq!(rmp_serde::from_slice::<Job>(&encoded)?, job);
        }
        Ok(())
    }
}
