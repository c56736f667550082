//! How a process ended without giving its value.

use std::fmt;

use nix::sys::signal::Signal;

use crate::registry::Failure;

/// How a process ended that did not give its value; part of [`Error::Process`](crate::Error::Process).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProcessEnd {
    /// Its function panicked, returned an error, or could not be called; or its value could not be encoded.
    Failed(Failure),
    /// It ended by itself before its function returned, or with this exit code after it had.
    Exited(i32),
    /// A signal of this number killed it.
    Killed {
        /// The signal: 9 is SIGKILL.
        signal: i32,
        /// It was sending its value at that time.
        while_answering: bool,
    },
    /// It is gone, and its exit code was taken by somebody else: SIGCHLD is ignored, or other code of this program waits for
    /// any child.
    Unknown,
}

impl fmt::Display for ProcessEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(failure) => failure.fmt(f),
            Self::Exited(code) => write!(f, "exited with code {code} before it gave its value"),
            Self::Killed {
                signal,
                while_answering,
            } => {
                write!(f, "was killed by {}", signal_name(*signal))?;
                if *while_answering {
                    f.write_str(" while it sent its value")?;
                }
                if *signal == Signal::SIGKILL as i32 {
                    f.write_str("; if nobody did that, memory ran out (dmesg tells)")?;
                }
                Ok(())
            }
            Self::Unknown => f.write_str(
                "is gone, and its exit code was taken by somebody else: do not ignore SIGCHLD or wait for any child",
            ),
        }
    }
}

/// `SIGKILL` for 9.
pub(crate) fn signal_name(number: i32) -> String {
    Signal::try_from(number).map_or_else(
        |_| format!("signal {number}"),
        |signal| signal.as_str().to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_told_in_words() {
        let killed = |signal| ProcessEnd::Killed {
            signal,
            while_answering: false,
        };
        for (end, words) in [
            (killed(15), "was killed by SIGTERM"),
            (killed(40), "was killed by signal 40"),
            (
                killed(9),
                "was killed by SIGKILL; if nobody did that, memory ran out (dmesg tells)",
            ),
            (
                ProcessEnd::Exited(3),
                "exited with code 3 before it gave its value",
            ),
        ] {
            assert_eq!(end.to_string(), words);
        }
    }
}
