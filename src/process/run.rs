//! A type with a `run` method: Python's "inheritance".

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Builder, Process};
use crate::error::Result;
use crate::registry::{self, Failure};

/// A process as a type: what it needs are its fields, what it does is `run`.
///
/// Written with [`#[procession::process]`](macro@crate::process), which fills in everything but [`run`](Self::run):
///
/// ```
/// use procession::{Process, Run};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Greeting {
///     name: String,
/// }
///
/// #[procession::process]
/// impl Run for Greeting {
///     fn run(self) -> String {
///         format!("hello {}", self.name)
///     }
/// }
///
/// #[procession::main]
/// fn main() -> procession::Result<()> {
///     let greeting = Greeting { name: "world".to_owned() };
///     let process = greeting.start()?;
///     assert_eq!(process.join()?, "hello world");
///     // Its name is that of the type, counted, as in Python.
///     assert_eq!(process.name(), "Greeting-1");
///     Ok(())
/// }
/// ```
pub trait Run: Serialize + DeserializeOwned + Send + 'static {
    /// What `run` returns.
    type Return;
    /// The value of the process: what `run` returns, or of a `Result<T, E>`, `T`.
    type Output: Serialize + DeserializeOwned + Send + 'static;
    /// The name by which another process finds it.
    const NAME: &'static str;

    /// What the process does.
    fn run(self) -> Self::Return;

    /// Calls `run`, in this process.
    ///
    /// # Errors
    /// The text of the error that it returned.
    fn call(self) -> std::result::Result<Self::Output, String>;

    /// Starts a process that runs it. With a name, as a daemon and so on: [`Builder::start`].
    ///
    /// # Errors
    /// As [`Process::spawn`].
    fn start(self) -> Result<Process<Self::Output>> {
        Builder::new().start(self)
    }

    /// Decodes one and runs it. What the attribute registers.
    #[doc(hidden)]
    fn run_encoded(value: &[u8]) -> std::result::Result<Vec<u8>, Failure> {
        registry::run_type::<Self>(value)
    }
}
