//! The program's tasks by name: what one process asks for, another finds here.
//!
//! [`#[procession::task]`](macro@crate::task) and [`#[procession::process]`](macro@crate::process) put an [`Entry`] into a list
//! that the linker gathers, so it is complete before the program starts, and in the same program it is the same list. A name that
//! the other side lacks is an error that says so, because the two may be different builds.
//!
//! Values travel as MessagePack, structs as arrays: what the two sides share is the order and the types of fields.

use std::fmt;

use linkme::distributed_slice;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::process::Run;

pub(crate) mod panics;

/// A function that can be run in another process. Implemented by [`#[procession::task]`](macro@crate::task), for the value that
/// it makes of the function.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no task: put #[procession::task] on the function",
    label = "not a task",
    note = "closures cannot be tasks: another process finds a task by its name"
)]
pub trait Task: Copy + Send + Sync + 'static {
    /// The arguments: a tuple, also of one, `(f64,)`, or of none, `()`.
    type Args: Serialize + DeserializeOwned + Send + 'static;
    /// The value: what the function returns; of a function that returns a `Result<T, E>`, `T`.
    type Output: Serialize + DeserializeOwned + Send + 'static;
    /// The name by which another process finds it.
    const NAME: &'static str;

    /// Calls the function, in this process.
    ///
    /// # Errors
    /// The text of the error that the function returned.
    fn call(self, args: Self::Args) -> std::result::Result<Self::Output, String>;
}

/// Every task of this program, in no particular order.
#[doc(hidden)]
#[distributed_slice]
pub static TASKS: [Entry];

/// One task of this program.
#[derive(Debug)]
pub struct Entry {
    name: &'static str,
    run: fn(&[u8]) -> std::result::Result<Vec<u8>, Failure>,
}

impl Entry {
    /// What the attributes write.
    #[doc(hidden)]
    #[must_use]
    pub const fn new(
        name: &'static str,
        run: fn(&[u8]) -> std::result::Result<Vec<u8>, Failure>,
    ) -> Self {
        Self { name, run }
    }

    /// Its name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Decodes the arguments, calls the function and encodes its value. A panic does not leave it.
    ///
    /// # Errors
    /// Whatever kept the function from giving a value.
    pub fn run(&self, arguments: &[u8]) -> std::result::Result<Vec<u8>, Failure> {
        (self.run)(arguments)
    }
}

/// What kept a task from giving its value, as it travels back to whoever asked for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The panic's message, the returned error's text, or what is wrong with the arguments or the value.
    pub message: String,
    /// Where it panicked, as `file:line:column`.
    pub location: Option<String>,
    /// What kind of failure it is.
    pub kind: FailureKind,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            message,
            location,
            kind,
        } = self;
        match (kind, location) {
            (FailureKind::Panic, Some(location)) => write!(f, "panicked at {location}: {message}"),
            (FailureKind::Panic, None) => write!(f, "panicked: {message}"),
            (FailureKind::Error, _) => write!(f, "returned an error: {message}"),
            (FailureKind::Arguments, _) => write!(f, "could not read its arguments: {message}"),
            (FailureKind::Output | FailureKind::Unknown, _) => write!(f, "failed: {message}"),
        }
    }
}

/// The kinds of [`Failure`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum FailureKind {
    /// The function panicked.
    Panic,
    /// The function returned an error.
    Error,
    /// The arguments could not be decoded: the two sides differ in the task's types.
    Arguments,
    /// The value could not be encoded.
    Output,
    /// The program that was asked has no such task.
    Unknown,
}

/// The task of that name in this program.
///
/// # Errors
/// [`Error::UnknownTask`] when there is none, with those whose names are similar; [`Error::AmbiguousTask`] when there are several.
pub fn find(name: &str) -> Result<&'static Entry> {
    let mut found = TASKS.iter().filter(|entry| entry.name == name);
    match (found.next(), found.next()) {
        (Some(entry), None) => Ok(entry),
        (Some(_), Some(_)) => Err(Error::AmbiguousTask {
            name: name.to_owned(),
        }),
        (None, _) => Err(Error::UnknownTask {
            name: name.to_owned(),
            similar: similar(name, TASKS.iter().map(|entry| entry.name)),
        }),
    }
}

/// Runs a task on encoded arguments.
#[doc(hidden)]
pub fn run_task<T: Task>(task: T, arguments: &[u8]) -> std::result::Result<Vec<u8>, Failure> {
    run(arguments, |arguments: T::Args| task.call(arguments))
}

/// Runs an encoded value of a type with a run method.
pub(crate) fn run_type<P: Run>(value: &[u8]) -> std::result::Result<Vec<u8>, Failure> {
    run(value, |value: P| value.call())
}

fn run<A: DeserializeOwned, O: Serialize>(
    arguments: &[u8],
    call: impl FnOnce(A) -> std::result::Result<O, String>,
) -> std::result::Result<Vec<u8>, Failure> {
    let failed = |kind, message| Failure {
        message,
        location: None,
        kind,
    };
    // The user's own code may be in all three, so a panic in any of them is caught.
    let steps = || {
        let arguments = rmp_serde::from_slice(arguments).map_err(|error| {
            let expected = std::any::type_name::<A>();
            let message = format!("what was sent is no {expected}: {error}");
            failed(FailureKind::Arguments, message)
        })?;
        let value = call(arguments).map_err(|message| failed(FailureKind::Error, message))?;
        rmp_serde::to_vec(&value).map_err(|error| {
            let given = std::any::type_name::<O>();
            let message = format!("cannot encode its value, a {given}: {error}");
            failed(FailureKind::Output, message)
        })
    };
    panics::caught(steps)
}

/// At most three names that may have been meant: the same function elsewhere first, then those that are spelled almost so.
fn similar<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Vec<String> {
    let last = |name: &str| name.rsplit("::").next().unwrap_or_default().to_lowercase();
    let wanted = last(name);
    let mut ranked: Vec<_> = known
        .map(|known| (distance(&wanted, &last(known)), known))
        .filter(|(distance, _)| *distance <= wanted.len() / 3)
        .collect();
    ranked.sort_unstable();
    ranked.dedup();
    let names = ranked.into_iter().take(3);
    names.map(|(_, known)| known.to_owned()).collect()
}

/// How many letters must be changed, inserted or removed.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (line, letter) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = line + 1;
        for (column, other) in right.iter().enumerate() {
            let changed = diagonal + usize::from(letter != *other);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(row[column] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[crate::task]
    fn halve(number: u32) -> std::result::Result<u32, String> {
        match number % 2 {
            0 => Ok(number / 2),
            _ => Err(format!("{number} is odd")),
        }
    }

    #[crate::task(name = "a name of its own")]
    fn explode(words: String) {
        panic!("{words}");
    }

    #[test]
    fn a_task_is_found_by_its_name_and_run() -> Result<()> {
        let entry = find("procession::registry::tests::halve")?;
        let arguments = rmp_serde::to_vec(&(8,)).expect("encodes");
        let value = entry.run(&arguments).expect("a value");
        assert_eq!(rmp_serde::from_slice::<u32>(&value).expect("decodes"), 4);
        Ok(())
    }

    #[test]
    fn an_unknown_name_is_told_with_those_that_are_similar() {
        let error = find("elsewhere::halfe").expect_err("there is none");
        let text = error.to_string();
        assert!(text.contains("elsewhere::halfe"), "{text}");
        assert!(
            text.contains("procession::registry::tests::halve"),
            "{text}"
        );
    }

    #[test]
    fn an_error_a_panic_and_wrong_arguments_are_told_apart() -> Result<()> {
        let failure = |name: &str, arguments: Vec<u8>| {
            find(name).map(|entry| entry.run(&arguments).expect_err("it fails"))
        };
        let encode = |words: &str| rmp_serde::to_vec(&(words,)).expect("encodes");
        let odd = rmp_serde::to_vec(&(7,)).expect("encodes");
        let error = failure(halve::NAME, odd)?;
        assert_eq!(
            (error.kind, &*error.message),
            (FailureKind::Error, "7 is odd")
        );
        let panic = failure("a name of its own", encode("boom"))?;
        assert_eq!((panic.kind, &*panic.message), (FailureKind::Panic, "boom"));
        let wrong = failure(halve::NAME, encode("eight"))?;
        assert_eq!(wrong.kind, FailureKind::Arguments);
        Ok(())
    }

    #[test]
    fn distances_count_letters() {
        for (left, right, expected) in [
            ("", "", 0),
            ("", "abc", 3),
            ("clock", "clock", 0),
            ("clock", "clok", 1),
            ("clock", "block", 1),
            ("clock", "lockc", 2),
        ] {
            assert_eq!(distance(left, right), expected, "{left} {right}");
            assert_eq!(distance(right, left), expected, "{right} {left}");
        }
    }
}
