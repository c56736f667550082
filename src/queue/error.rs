//! An item that could not be put, and why.

use std::fmt;

use crate::error::Error;

/// Why an item was not put; it gives the item back.
///
/// `?` turns it into an [`Error`], without the item.
pub struct PutError<T> {
    /// The item.
    pub item: T,
    /// What was in its way.
    pub why: Box<Error>,
}

impl<T> fmt::Debug for PutError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PutError")
            .field("why", &self.why)
            .finish_non_exhaustive()
    }
}

impl<T> fmt::Display for PutError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.why.fmt(f)
    }
}

impl<T> std::error::Error for PutError<T> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.why.source()
    }
}

impl<T> From<PutError<T>> for Error {
    fn from(error: PutError<T>) -> Self {
        *error.why
    }
}
