//! `--journal`: what a journal is of, and what is said when one is opened and when its run is over.

use std::error::Error;
use std::ffi::OsString;

use procession::pipeline::{Finished, Journal, Summary};

use crate::args::options::{InputArgs, JournalArgs};
use crate::exit_code::ExitCode;

/// What there is to go on with.
pub enum Opened {
    /// A run to begin or to go on with, with its journal if there shall be one.
    Run(Option<Journal>),
    /// The run is over, and was so.
    Finished(ExitCode),
}

/// Opens the journal, if there shall be one, and says what is in it. `what`: what it has to be of.
///
/// # Errors
/// When it cannot be used.
pub fn open(args: &JournalArgs, what: &str) -> Result<Opened, Box<dyn Error>> {
    let Some(path) = &args.journal else {
        return Ok(Opened::Run(None));
    };
    let journal = Journal::open(path, what)?;
    if args.journal_sync {
        journal.sync()?;
    }
    if let Some(finished) = journal.finished()? {
        say_finished(&journal, &finished);
        return Ok(Opened::Finished(ExitCode::of_status(
            finished.code,
            finished.failed,
        )));
    }
    match journal.done_before() {
        0 => {}
        done => log::warn!(
            "going on with journal {}: {done} tasks are done",
            path.display()
        ),
    }
    Ok(Opened::Run(Some(journal)))
}

fn say_finished(journal: &Journal, finished: &Finished) {
    // To the second, in UTC.
    let at = jiff::Timestamp::try_from(finished.at)
        .map(|at| format!("{at:.0}"))
        .unwrap_or_default();
    let failed = match finished.failed {
        0 => String::new(),
        failed => format!(" ({failed} of them failed)"),
    };
    log::warn!(
        "all {} done at {at}{failed}; remove {} to run again",
        finished.done,
        journal.path().display()
    );
}

/// The run is over: that is written down, unless something was left undone by a signal or an error.
///
/// # Errors
/// When it cannot be written.
pub fn finish(
    journal: Option<&Journal>,
    summary: &Summary,
    code: ExitCode,
) -> Result<(), Box<dyn Error>> {
    if let (Some(journal), 0) = (journal, summary.cause) {
        if summary.unread > 0 {
            log::warn!(
                "{} tasks that journal {} knows were not in the input this time, and are not done",
                summary.unread,
                journal.path().display()
            );
        }
        journal.finish(code.status())?;
    }
    Ok(())
}

/// What a journal of this role is of: all that says what becomes of a task, and how the input is cut into tasks.
pub fn subject(role: &str, input: &InputArgs) -> String {
    let mut words = vec![role.to_owned()];
    if input.null {
        words.push("-0".to_owned());
    }
    if input.pipe {
        words.push(format!("--pipe --block {}", input.block));
    }
    if input.filter {
        words.push("--filter".to_owned());
    }
    words.extend(input.command.iter().map(word));
    words.join(" ")
}

/// A word so that no two are the same: quoted where it is not plain.
fn word(word: &OsString) -> String {
    match word.to_str() {
        Some(plain) if plain.chars().all(|c| c.is_ascii_graphic() && c != '"') => plain.to_owned(),
        _ => format!("{word:?}"),
    }
}
