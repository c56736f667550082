//! The poison pill: the message that ends a consumer. After it there is no more work.
//!
//! The ventilator puts one on every lane when the input has ended and every task has a result, and sends the sink its own
//! after the last acknowledgement. It says how the run ended, so that every role can exit alike.

/// Why a run ended, as the pill says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// Every task has a result.
    AllDone,
    /// A signal stopped the ventilator: its number.
    Signal(u8),
    /// The ventilator gave up with an error.
    Error,
}

impl Cause {
    pub(crate) const fn from_number(number: u8) -> Self {
        match number {
            0 => Self::AllDone,
            255 => Self::Error,
            signal => Self::Signal(signal),
        }
    }
}
