//! The attributes of `procession`: what they mean is documented there, where they are re-exported.
//!
//! | file | what it is |
//! |---|---|
//! | `task` | a function that can be run in another process |
//! | `process` | a type that can, or that is a thread |
//! | `program` | `main`, of a program that starts them |
//! | `outcome` | what a function returns: a value, or a `Result` of one |

use proc_macro::TokenStream;

mod outcome;
mod process;
mod program;
mod task;

/// Makes a function a task: something that another process can run, found there by its name.
///
/// ```
/// use procession::{Process, task};
///
/// #[task]
/// fn add(left: u64, right: u64) -> u64 {
///     left + right
/// }
///
/// #[procession::main]
/// fn main() -> procession::Result<()> {
///     let sum = Process::spawn(add, (1, 2))?;
///     assert_eq!(sum.join()?, 3);
///     // It is still a function.
///     assert_eq!(add(3, 4), 7);
///     Ok(())
/// }
/// ```
///
/// Arguments and the value must be serde's `Serialize` and `Deserialize`; no references, no generics, not `async`. Of a function
/// that returns a `Result<T, E>`, where `E` is `Display`, the value is `T`; its error is that of [`Process::join`]. (A return
/// type is a `Result` if its last word is; an alias with another name is a value like any other.)
///
/// Its name is that of its module and its own, `program::module::add`, which differs if the module is moved or the program
/// renamed. `#[task(name = "add")]` gives another, for programs of different builds that are to find each other's tasks.
///
/// A reference cannot be sent, nor can another process be told of a closure or of type arguments:
///
/// ```compile_fail
/// #[procession::task]
/// fn greet(name: &str) {}
/// ```
///
/// What is written as a function becomes a value of a type of that name, which can be called like the function, and derefs to a
/// function pointer (`*add` where a `fn(u64, u64) -> u64` is wanted). One difference shows: a variable cannot have the name of a
/// task that is in scope (`let add = …` is error E0530), so name it for what it is, `sum` above.
///
/// [`Process::join`]: https://docs.rs/procession/latest/procession/struct.Process.html#method.join
#[proc_macro_attribute]
pub fn task(attributes: TokenStream, item: TokenStream) -> TokenStream {
    task::expand(attributes.into(), item.into())
        .unwrap_or_else(syn::Error::into_compile_error)
        .into()
}

/// Makes a type with a `run` method a process: Python's "inheritance".
///
/// ```
/// use procession::Run;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Square {
///     of: u64,
/// }
///
/// #[procession::process]
/// impl Run for Square {
///     fn run(self) -> u64 {
///         self.of * self.of
///     }
/// }
///
/// #[procession::main]
/// fn main() -> procession::Result<()> {
///     let process = Square { of: 3 }.start()?;
///     assert_eq!(process.join()?, 9);
///     Ok(())
/// }
/// ```
///
/// The type must be serde's `Serialize` and `Deserialize`, and so must be what `run` returns; of a `Result<T, E>` that is `T`, as
/// with [`task`](macro@task). `#[process(name = "square")]` gives it another name than that of its module and type.
#[proc_macro_attribute]
pub fn process(attributes: TokenStream, item: TokenStream) -> TokenStream {
    process::expand(process::Kind::Process, attributes.into(), item.into())
        .unwrap_or_else(syn::Error::into_compile_error)
        .into()
}

/// Makes a type with a `run` method a thread: Python's "inheritance".
///
/// ```
/// use procession::thread::Run;
///
/// struct Square<T> {
///     of: T,
/// }
///
/// #[procession::thread]
/// impl<T: std::ops::Mul<Output = T> + Copy + Send + 'static> Run for Square<T> {
///     fn run(self) -> T {
///         self.of * self.of
///     }
/// }
///
/// let thread = Square { of: 3 }.start()?;
/// assert_eq!(thread.join()?, 9);
/// # Ok::<(), procession::Error>(())
/// ```
///
/// Of a `Result<T, E>` that `run` returns, the thread's value is `T`. [`#[process]`](macro@process) does as well here, so that a program of
/// processes becomes one of threads by its imports; but it asks for more, and puts the type into the list of what other processes can run.
#[proc_macro_attribute]
pub fn thread(attributes: TokenStream, item: TokenStream) -> TokenStream {
    process::expand(process::Kind::Thread, attributes.into(), item.into())
        .unwrap_or_else(syn::Error::into_compile_error)
        .into()
}

/// Makes `main` that of a program with processes.
///
/// In a child the task is run instead of it. In the program itself it is run, and when it has returned:
///
/// 1. an error that it returned is printed, as `NAME: error: …`;
/// 2. the threads and the children that are no daemons are joined;
/// 3. children that are daemons are ended: by SIGTERM, and after two seconds by SIGKILL;
/// 4. what is to be finished at exit is finished;
/// 5. the program exits with main's value: 0, 1 after an error, or what its `ExitCode` says.
///
/// The same is done after a panic, as Python does it, and then the exit code is 101. (Python ends the daemons first; here they
/// can still serve those that are joined.)
///
/// A program without it works as well (its children run their task before its `main`), but when its `main` returns, or
/// `std::process::exit` is called, the children and all threads end at once: join them.
///
/// Other attributes go below it: `#[procession::main] #[tokio::main] async fn main() { … }`.
#[proc_macro_attribute]
pub fn main(attributes: TokenStream, item: TokenStream) -> TokenStream {
    program::expand(attributes.into(), item.into())
        .unwrap_or_else(syn::Error::into_compile_error)
        .into()
}
