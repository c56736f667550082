//! `:::`: cut off before the options are read, and put where it belongs afterwards.
//!
//! clap knows no such separator, and the words after it must not be read as options whatever they
//! look like.

use std::ffi::{OsStr, OsString};

use super::{Action, InputArgs};

/// Splits at the first `:::`. `None`: there was none, which is not the same as no value after it.
pub(super) fn split<I>(argv: I) -> (Vec<OsString>, Option<Vec<OsString>>)
where
    I: IntoIterator<Item = OsString>,
{
    let mut typed: Vec<OsString> = argv.into_iter().collect();
    // The guardian's words are not a user's.
    if typed.get(1).is_some_and(|word| word == "__guardian") {
        return (typed, None);
    }
    let Some(at) = typed.iter().position(|word| word == ":::") else {
        return (typed, None);
    };
    let values = typed.split_off(at + 1);
    typed.pop();
    (typed, Some(values))
}

/// Gives the values to the action, where it can take them; the error is a message.
pub(super) fn place(action: &mut Action, values: Option<Vec<OsString>>) -> Result<(), String> {
    match action {
        Action::Run(args) => {
            place_input(&mut args.input, values)?;
            if args.bind.is_none() {
                require_command(&args.input)?;
            }
        }
        Action::Ventilator(args) => place_input(&mut args.input, values)?,
        _ if values.is_none() => {}
        other => {
            return Err(format!(
                "values after ::: belong to the ventilator (and to run); give them there, not to {}",
                super::hint::the(other.name())
            ));
        }
    }
    Ok(())
}

fn place_input(input: &mut InputArgs, values: Option<Vec<OsString>>) -> Result<(), String> {
    let after = values.as_deref().unwrap_or_default();
    if after.iter().any(|word| word == ":::") {
        return Err(
            "only one ::: is understood: there are no combinations of several groups of values; \
             list the combinations, one a line, on standard input"
                .into(),
        );
    }
    if let Some(word) = input
        .command
        .iter()
        .chain(after)
        .find(|word| is_foreign(word))
    {
        return Err(format!(
            "{} is not understood; to read tasks from a file use -a FILE",
            word.display()
        ));
    }
    if values.is_some() && !input.files.is_empty() {
        return Err(
            "values after ::: cannot be used with -a FILE: tasks come from one of them".into(),
        );
    }
    if values.is_some() && input.pipe {
        return Err(
            "values after ::: cannot be used with --pipe, which cuts up standard input or -a FILE"
                .into(),
        );
    }
    input.values = values;
    Ok(())
}

/// With `--pipe` and `--filter` the input is data: it cannot be the command as well.
fn require_command(input: &InputArgs) -> Result<(), String> {
    let (option, example) = match (input.pipe, input.filter) {
        (true, _) => ("--pipe", "wc -l"),
        (_, true) => ("--filter", "sed -u s/a/b/"),
        _ => return Ok(()),
    };
    if input.command.is_empty() {
        return Err(format!(
            "{option} needs a COMMAND to feed, for instance: procession run {option} {example}"
        ));
    }
    Ok(())
}

/// Separators of GNU parallel's that mean something else there than a word of the command.
/// Silently passing them to the command would be worse than refusing them.
fn is_foreign(word: &OsStr) -> bool {
    [":::+", "::::", "::::+"]
        .iter()
        .any(|foreign| word == *foreign)
}
