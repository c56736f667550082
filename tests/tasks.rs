//! What can be a task, and what it is then: forms of functions, names, and the registry.

use std::fmt;
use std::time::Duration;

use procession::{Process, Run, Task, registry, task};
use serde::{Deserialize, Serialize};

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

const DEADLINE: Duration = Duration::from_secs(240);

mod shapes {
    //! Tasks in a module, with types of its own.

    use super::*;

    #[derive(Debug, PartialEq, Deserialize, Serialize)]
    pub(crate) struct Pair(pub i32, pub i32);

    /// Swaps, so the documentation and the visibility are those of the function.
    #[task]
    #[inline(never)]
    pub(crate) fn swap(Pair(left, mut right): Pair) -> Pair {
        right += 0;
        Pair(right, left)
    }

    pub mod inner {
        use super::{Pair, task};

        #[task(name = "sum of a pair")]
        pub(crate) fn sum(pair: Pair) -> i32 {
            pair.0 + pair.1
        }
    }
}

#[task]
fn never() -> ! {
    std::process::exit(5)
}

#[task]
fn format_error() -> fmt::Result {
    Err(fmt::Error)
}

#[task]
#[cfg(any(unix, not(unix)))]
#[allow(clippy::too_many_arguments)]
fn many(a: u8, b: u16, c: u32, d: u64, e: i8, f: i16, g: (i32,), h: [i64; 2]) -> i64 {
    let sum = i64::from(a) + i64::from(b) + i64::from(c) + d as i64;
    sum + i64::from(e) + i64::from(f) + i64::from(g.0) + h.iter().sum::<i64>()
}

#[task]
#[cfg(not(unix))]
fn many() -> NoSuchType {}

#[derive(Deserialize, Serialize)]
struct Generic<T>(T);

#[procession::process(name = "a generic of u8")]
impl Run for Generic<u8> {
    fn run(self) -> u16 {
        u16::from(self.0) * 2
    }
}

#[test]
fn functions_of_many_forms_are_tasks() -> Outcome {
    use shapes::{Pair, inner::sum, swap};
    let swapped = Process::spawn(swap, (Pair(1, 2),))?;
    assert_eq!(swapped.join_timeout(DEADLINE)?, Some(Pair(2, 1)));
    assert_eq!(swap(Pair(3, 4)), Pair(4, 3));
    let summed = Process::spawn(sum, (Pair(1, 2),))?;
    assert_eq!(summed.join_timeout(DEADLINE)?, Some(3));
    let added = Process::spawn(many, (1, 2, 3, 4, 5, 6, (7,), [8, 9]))?;
    assert_eq!(added.join_timeout(DEADLINE)?, Some(45));
    let generic = Generic(21).start()?;
    assert_eq!(generic.join_timeout(DEADLINE)?, Some(42));
    assert!(generic.name().starts_with("Generic-"), "{generic:?}");
    Ok(())
}

#[test]
fn one_that_never_returns_and_one_whose_result_has_no_type_written() -> Outcome {
    let process: Process<()> = Process::spawn(never, ())?;
    assert!(process.join_timeout(DEADLINE).is_err());
    assert_eq!(process.exit_code(), Some(5));
    let process: Process<()> = Process::spawn(format_error, ())?;
    let error = process.join_timeout(DEADLINE).expect_err("it is an error");
    assert!(
        error.to_string().ends_with(&fmt::Error.to_string()),
        "{error}"
    );
    Ok(())
}

#[test]
fn names_are_those_of_modules_or_given() -> Outcome {
    assert_eq!(<shapes::swap as Task>::NAME, "tasks::shapes::swap");
    assert_eq!(<shapes::inner::sum as Task>::NAME, "sum of a pair");
    assert_eq!(<Generic<u8> as Run>::NAME, "a generic of u8");
    let entry = registry::find("tasks::shapes::swap")?;
    let arguments = rmp_serde::to_vec(&(shapes::Pair(1, 2),))?;
    let value = entry.run(&arguments).map_err(|failure| failure.message)?;
    assert_eq!(
        rmp_serde::from_slice::<shapes::Pair>(&value)?,
        shapes::Pair(2, 1)
    );
    Ok(())
}
