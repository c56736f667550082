//! How the command exits: one enum, and one rule for joining what several parts of it say.

/// The outcome of a run, as its exit status tells it.
///
/// | status | meaning |
/// |---|---|
/// | 0 | all tasks succeeded |
/// | 1–100 | that many failed |
/// | 101 | more failed |
/// | 129, 130, 143 | ended by SIGHUP, Ctrl-C, SIGTERM |
/// | 255 | anything else, usage included |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExitCode {
    /// All tasks succeeded
    #[default]
    Success,
    /// So many tasks failed
    Failed(u64),
    /// Something other than a task failed
    Error,
    /// SIGHUP: no more was started
    HungUp,
    /// SIGTERM
    Terminated,
    /// SIGINT
    Interrupted,
}

impl ExitCode {
    /// The outcome of a run of which so many tasks failed.
    pub fn of_failures(failed: u64) -> Self {
        match failed {
            0 => Self::Success,
            failed => Self::Failed(failed),
        }
    }

    /// The outcome that had this exit status, with so many failures.
    pub fn of_status(status: u8, failed: u64) -> Self {
        match status {
            129 => Self::HungUp,
            130 => Self::Interrupted,
            143 => Self::Terminated,
            102.. => Self::Error,
            _ => Self::of_failures(failed),
        }
    }

    /// Joins what two parts say of the same run: the graver of the two.
    ///
    /// A signal outranks an error, because stopping in the middle causes errors, and a script that
    /// sees 130 knows to stop as well. The roles count the same tasks, so failures are not added:
    /// the larger count is the one that has heard more.
    #[must_use]
    pub fn merge(self, other: Self) -> Self {
        if other.gravity() > self.gravity() {
            other
        } else {
            self
        }
    }

    /// The exit status.
    pub fn status(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Failed(failed) => u8::try_from(failed).unwrap_or(101).min(101),
            Self::HungUp => 129,
            Self::Interrupted => 130,
            Self::Terminated => 143,
            Self::Error => 255,
        }
    }

    fn gravity(self) -> (u8, u64) {
        match self {
            Self::Success => (0, 0),
            Self::Failed(failed) => (1, failed),
            Self::Error => (2, 0),
            Self::HungUp => (3, 0),
            Self::Terminated => (4, 0),
            Self::Interrupted => (5, 0),
        }
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        code.status().into()
    }
}

#[cfg(test)]
mod tests {
    use super::ExitCode::*;
    use super::*;

    #[test]
    fn each_outcome_has_its_status() {
        let rows = [
            (ExitCode::of_failures(0), 0),
            (ExitCode::of_failures(1), 1),
            (ExitCode::of_failures(100), 100),
            (ExitCode::of_failures(101), 101),
            (ExitCode::of_failures(129), 101),
            (ExitCode::of_failures(256), 101),
            (ExitCode::of_failures(u64::MAX), 101),
            (HungUp, 129),
            (Interrupted, 130),
            (Terminated, 143),
            (Error, 255),
        ];
        for (code, status) in rows {
            assert_eq!(code.status(), status, "{code:?}");
        }
    }

    #[test]
    fn the_graver_outcome_wins_in_either_order() {
        let rows = [
            (Success, Success, Success),
            (Success, Failed(3), Failed(3)),
            (Failed(3), Failed(7), Failed(7)),
            (Failed(3), Failed(3), Failed(3)),
            (Failed(3), Error, Error),
            (Error, Interrupted, Interrupted),
            (Failed(9), HungUp, HungUp),
            (HungUp, Interrupted, Interrupted),
            (Terminated, HungUp, Terminated),
            (Success, Terminated, Terminated),
        ];
        for (one, other, expected) in rows {
            assert_eq!(one.merge(other), expected, "{one:?} {other:?}");
            assert_eq!(other.merge(one), expected, "{other:?} {one:?}");
        }
    }
}
