//! A type with a `run` method: Python's "inheritance".

use super::{Builder, Thread};
use crate::error::Result;
use crate::registry::{Failure, FailureKind};

/// A thread as a type: what it needs are its fields, what it does is `run`.
///
/// Written with [`#[procession::thread]`](macro@crate::thread), which fills in everything but [`run`](Self::run). As with threads
/// nothing is encoded, the type may hold anything that is `Send`.
///
/// ```
/// use procession::thread::{Queue, Run};
///
/// struct Adder {
///     numbers: Queue<u64>,
/// }
///
/// #[procession::thread]
/// impl Run for Adder {
///     fn run(self) -> u64 {
///         self.numbers.iter().sum()
///     }
/// }
///
/// let numbers = Queue::new();
/// let adder = Adder { numbers: numbers.clone() }.start()?;
/// numbers.put(1)?;
/// numbers.put(2)?;
/// numbers.shutdown();
/// assert_eq!(adder.join()?, 3);
/// // Its name is that of the type, counted.
/// assert!(adder.name().starts_with("Adder-"));
/// # Ok::<(), procession::Error>(())
/// ```
pub trait Run: Sized + Send + 'static {
    /// What `run` returns.
    type Return;
    /// The value of the thread: what `run` returns, or of a `Result<T, E>`, `T`.
    type Output: Send + 'static;
    /// Its module and name, for people.
    const NAME: &'static str;

    /// What the thread does.
    fn run(self) -> Self::Return;

    /// Calls `run`, in this thread.
    ///
    /// # Errors
    /// The text of the error that it returned.
    fn call(self) -> std::result::Result<Self::Output, String>;

    /// Starts a thread that runs it. With a name, as a daemon and so on: [`Builder::start`].
    ///
    /// # Errors
    /// As [`Thread::spawn`].
    fn start(self) -> Result<Thread<Self::Output>> {
        Builder::new().start(self)
    }

    /// What [`#[procession::process]`](macro@crate::process) registers, so that it can stand here, too.
    #[doc(hidden)]
    fn run_encoded(_: &[u8]) -> std::result::Result<Vec<u8>, Failure> {
        Err(Failure {
            message: format!(
                "{} is a thread: it cannot be run by another process",
                Self::NAME
            ),
            location: None,
            kind: FailureKind::Unknown,
        })
    }
}
