//! Errors that name the role: what clap says about an unknown or missing option, with what it
//! cannot know added. All of it is looked up in the definitions of the subcommands themselves.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command, CommandFactory};

use super::CommandLine;

/// The subcommand of a command line: the first word that is no option.
pub(super) fn subcommand(typed: &[OsString]) -> Option<String> {
    let word = typed
        .iter()
        .skip(1)
        .find(|word| !word.as_encoded_bytes().starts_with(b"-"))?;
    word.to_str().map(str::to_owned)
}

/// A usage error of ours, in clap's form: `error: MESSAGE`, the usage, where to find help.
pub(super) fn usage(kind: ErrorKind, subcommand: Option<&str>, message: &str) -> clap::Error {
    let mut root = CommandLine::command();
    root.build();
    match subcommand.and_then(|name| root.find_subcommand_mut(name)) {
        Some(command) => command.error(kind, message),
        None => root.error(kind, message),
    }
}

/// Replaces an error of clap's where we know better, and leaves the others as they are.
pub(super) fn explain(error: clap::Error, subcommand: Option<&str>) -> clap::Error {
    let message = match error.kind() {
        ErrorKind::UnknownArgument => unknown_option(&error, subcommand),
        ErrorKind::MissingRequiredArgument => missing_endpoint(&error, subcommand),
        ErrorKind::InvalidSubcommand => unknown_subcommand(&error),
        _ => None,
    };
    match message {
        Some(message) => usage(error.kind(), subcommand, &message),
        None => error,
    }
}

/// How a subcommand is called in a sentence: the roles are things, `run` and `status` are words.
pub(super) fn the(name: &str) -> String {
    match name {
        "run" | "status" => name.to_owned(),
        role => format!("the {role}"),
    }
}

fn unknown_option(error: &clap::Error, subcommand: Option<&str>) -> Option<String> {
    let ContextValue::String(option) = error.get(ContextKind::InvalidArg)? else {
        return None;
    };
    let mut root = CommandLine::command();
    root.build();
    let mut owners: Vec<&str> = root
        .get_subcommands()
        .filter(|command| !command.is_hide_set() && takes(command, option))
        .map(Command::get_name)
        .collect();
    let Some(typed) =
        subcommand.filter(|name| root.find_subcommand(name).is_some() && !owners.contains(name))
    else {
        // It stands before the subcommand.
        let first = owners.first()?;
        return Some(format!(
            "{option} comes after the subcommand: procession {} {option} …",
            subcommand
                .filter(|name| owners.contains(name))
                .unwrap_or(first)
        ));
    };
    let run = owners
        .iter()
        .position(|name| *name == "run")
        .map(|at| owners.remove(at));
    let roles: Vec<String> = owners
        .iter()
        .map(|name| format!("of {}", the(name)))
        .collect();
    let whose = match (roles.as_slice(), run) {
        ([], None) => return None,
        ([], Some(_)) => "of run".to_owned(),
        (roles, None) => enumerate(roles),
        (roles, Some(_)) => format!("{} (and of run)", enumerate(roles)),
    };
    Some(format!(
        "{option} is an option {whose}; give it there, not to {}",
        the(typed)
    ))
}

/// `a, b and c`
fn enumerate(names: &[String]) -> String {
    match names {
        [first @ .., next, last] => {
            let first: String = first.iter().map(|name| format!("{name}, ")).collect();
            format!("{first}{next} and {last}")
        }
        few => few.concat(),
    }
}

/// Whether a subcommand has an option of that spelling, aliases included.
fn takes(command: &Command, option: &str) -> bool {
    let has = |arg: &Arg| match option.strip_prefix("--") {
        Some(long) => {
            arg.get_long() == Some(long)
                || arg
                    .get_all_aliases()
                    .is_some_and(|aliases| aliases.contains(&long))
        }
        None => {
            let short = option.chars().nth(1);
            arg.get_short() == short && short.is_some()
                || arg
                    .get_all_short_aliases()
                    .is_some_and(|aliases| aliases.into_iter().any(|alias| Some(alias) == short))
        }
    };
    command.get_arguments().any(has)
}

fn missing_endpoint(error: &clap::Error, subcommand: Option<&str>) -> Option<String> {
    let ContextValue::Strings(missing) = error.get(ContextKind::InvalidArg)? else {
        return None;
    };
    let subcommand = subcommand?;
    let role = the(subcommand);
    let needs = |option: &str| missing.iter().any(|text| text.starts_with(option));
    if needs("--connect") {
        Some(format!(
            "{role} needs --connect ENDPOINT, the one that the ventilator was given as --bind, \
             for instance --connect ipc:///tmp/jobs or --connect tcp://127.0.0.1:5557"
        ))
    } else if needs("--bind") && subcommand == "run" {
        // The one option of `run` that depends on another role's presence.
        Some(
            "--advertise is of use only with --bind ENDPOINT, where the others will connect to"
                .into(),
        )
    } else if needs("--bind") {
        Some(format!(
            "{role} needs --bind ENDPOINT, where the others will connect to, \
             for instance --bind ipc:///tmp/jobs or --bind tcp://127.0.0.1:5557"
        ))
    } else {
        None
    }
}

/// `procession gzip ::: *.log`: GNU parallel and xargs have no subcommands.
fn unknown_subcommand(error: &clap::Error) -> Option<String> {
    // A slip of the finger has its suggestion already.
    if error.get(ContextKind::SuggestedSubcommand).is_some() {
        return None;
    }
    let ContextValue::String(word) = error.get(ContextKind::InvalidSubcommand)? else {
        return None;
    };
    Some(format!(
        "there is no subcommand '{word}'; to run it as a command: procession run {word} …"
    ))
}
