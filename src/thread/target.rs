//! What a thread can run: functions, closures and tasks.

use crate::registry::Task;

/// What [`Thread::spawn`](super::Thread::spawn) can run once: a function or closure of up to eight arguments, or a
/// [task](macro@crate::task).
///
/// It is implemented for them all; the type parameter is found by the compiler, and tells the ways apart.
#[diagnostic::on_unimplemented(
    message = "a thread cannot run `{Self}`",
    label = "not a function, a closure or a task that can be sent to a thread",
    note = "a closure's arguments need their types, as in |number: u64|, and all that it captures must be Send and 'static (move)"
)]
pub trait Target<Way>: Send + 'static {
    /// The arguments: a tuple, also of one, `(f64,)`, or of none, `()`.
    type Args: Send + 'static;
    /// The value: what the function returns; of a task that returns a `Result<T, E>`, `T`.
    type Output: Send + 'static;

    /// Calls it.
    ///
    /// # Errors
    /// The text of the error that a task returned.
    fn call_with(self, args: Self::Args) -> Result<Self::Output, String>;
}

/// What a [`Pool`](super::Pool) can run any number of times and in several threads at once: a function or a closure of up to eight
/// arguments, or a [task](macro@crate::task).
#[diagnostic::on_unimplemented(
    message = "threads cannot run `{Self}` any number of times",
    label = "not a function, a closure or a task that several threads can share",
    note = "a closure's arguments need their types, as in |number: u64|, and all that it captures must be Send, Sync and 'static (move)"
)]
pub trait Function<Way>: Send + Sync + 'static {
    /// As [`Target::Args`].
    type Args: Send + 'static;
    /// As [`Target::Output`].
    type Output: Send + 'static;

    /// Calls it.
    ///
    /// # Errors
    /// The text of the error that a task returned.
    fn call_again(&self, args: Self::Args) -> Result<Self::Output, String>;

    /// Its name, for people.
    #[must_use]
    fn title() -> &'static str {
        std::any::type_name::<Self>()
    }
}

/// A task.
#[derive(Debug)]
pub struct ByTask;

impl<T: Task> Target<ByTask> for T {
    type Args = T::Args;
    type Output = T::Output;

    fn call_with(self, args: T::Args) -> Result<T::Output, String> {
        self.call(args)
    }
}

impl<T: Task> Function<ByTask> for T {
    type Args = T::Args;
    type Output = T::Output;

    fn call_again(&self, args: T::Args) -> Result<T::Output, String> {
        self.call(args)
    }

    fn title() -> &'static str {
        T::NAME
    }
}

macro_rules! by_call {
    ($($argument:ident)*) => {
        impl<F, R, $($argument),*> Target<fn($($argument),*) -> R> for F
        where
            F: FnOnce($($argument),*) -> R + Send + 'static,
            R: Send + 'static,
            $($argument: Send + 'static,)*
        {
            type Args = ($($argument,)*);
            type Output = R;

            #[allow(non_snake_case)]
            fn call_with(self, ($($argument,)*): Self::Args) -> Result<R, String> {
                Ok(self($($argument),*))
            }
        }

        impl<F, R, $($argument),*> Function<fn($($argument),*) -> R> for F
        where
            F: Fn($($argument),*) -> R + Send + Sync + 'static,
            R: Send + 'static,
            $($argument: Send + 'static,)*
        {
            type Args = ($($argument,)*);
            type Output = R;

            #[allow(non_snake_case)]
            fn call_again(&self, ($($argument,)*): Self::Args) -> Result<R, String> {
                Ok(self($($argument),*))
            }
        }
    };
}

by_call!();
by_call!(A);
by_call!(A B);
by_call!(A B C);
by_call!(A B C D);
by_call!(A B C D E);
by_call!(A B C D E G);
by_call!(A B C D E G H);
by_call!(A B C D E G H I);
