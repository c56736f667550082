//! [`Remote`]: a type of the user's whose objects a [`Manager`](super::Manager) holds, and whose methods others call by name.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::thread::ThreadId;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::talk::Answer;
use crate::bytes::Bytes;
use crate::registry::{Failure, FailureKind, panics};

type Made<T> = Box<dyn Fn() -> T + Send + Sync>;
type Call<T> = Box<dyn Fn(&mut T, &[u8]) -> Result<Vec<u8>, Failure> + Send + Sync>;

/// A type whose objects are held by a [`Manager`](super::Manager): how one is made, and which of its methods can be called, under which names.
///
/// ```
/// use procession::shared::{Manager, Remote};
///
/// #[derive(Default)]
/// struct Account {
///     balance: u64,
/// }
///
/// impl Account {
///     fn balance(&self) -> u64 {
///         self.balance
///     }
///     fn deposit(&mut self, amount: u64) -> u64 {
///         self.balance += amount;
///         self.balance
///     }
///     fn withdraw(&mut self, amount: u64) -> Result<u64, String> {
///         self.balance = (self.balance.checked_sub(amount)).ok_or("not enough is there")?;
///         Ok(self.balance)
///     }
/// }
///
/// let manager = Manager::new()?;
/// manager.register(
///     Remote::new("Account", Account::default)
///         .method("balance", Account::balance)
///         .method("deposit", Account::deposit)
///         .try_method("withdraw", Account::withdraw),
/// )?;
/// let account = manager.proxy("Account")?; // a handle: pass it to processes
/// assert_eq!(account.call::<_, u64>("deposit", (10,))?, 10);
/// let error = account.call::<_, u64>("withdraw", (11,)).unwrap_err();
/// assert!(error.to_string().contains("not enough is there"), "{error}");
/// # Ok::<(), procession::Error>(())
/// ```
///
/// Calls of one object are made one after the other, as under a `Mutex`, in the manager's process: one that takes long keeps the others of this object waiting, and no one else. A
/// method that panics is an error for its caller; the object stays as the method has left it. A method must not call its own object by a proxy: it would wait for itself.
pub struct Remote<T> {
    name: String,
    make: Made<T>,
    methods: BTreeMap<String, Call<T>>,
}

/// A function that can be a method: its first argument is `&T` or `&mut T`, and up to six more are what is sent. `Form` is found by the compiler.
pub trait Method<T, Form>: Send + Sync + 'static {
    /// What is sent: a tuple.
    type Arguments: DeserializeOwned;
    /// What it returns.
    type Output;

    /// Calls it.
    fn call(&self, object: &mut T, arguments: Self::Arguments) -> Self::Output;
}

/// The form of a method that changes its object.
#[derive(Debug)]
pub struct Changing;
/// The form of a method that only looks at its object.
#[derive(Debug)]
pub struct Looking;

macro_rules! methods {
    ($($argument:ident),*) => {
        impl<T, F, R, $($argument),*> Method<T, (Changing, ($($argument,)*), R)> for F
        where
            F: Fn(&mut T, $($argument),*) -> R + Send + Sync + 'static,
            $($argument: DeserializeOwned,)*
        {
            type Arguments = ($($argument,)*);
            type Output = R;

            #[allow(non_snake_case, reason = "one name for type and value")]
            fn call(&self, object: &mut T, ($($argument,)*): Self::Arguments) -> R {
                self(object, $($argument),*)
            }
        }

        impl<T, F, R, $($argument),*> Method<T, (Looking, ($($argument,)*), R)> for F
        where
            F: Fn(&T, $($argument),*) -> R + Send + Sync + 'static,
            $($argument: DeserializeOwned,)*
        {
            type Arguments = ($($argument,)*);
            type Output = R;

            #[allow(non_snake_case, reason = "one name for type and value")]
            fn call(&self, object: &mut T, ($($argument,)*): Self::Arguments) -> R {
                self(object, $($argument),*)
            }
        }
    };
}

methods!();
methods!(A);
methods!(A, B);
methods!(A, B, C);
methods!(A, B, C, D);
methods!(A, B, C, D, E);
methods!(A, B, C, D, E, G);

fn failed(kind: FailureKind, message: String) -> Failure {
    Failure {
        message,
        location: None,
        kind,
    }
}

fn arguments<A: DeserializeOwned>(bytes: &[u8]) -> Result<A, Failure> {
    rmp_serde::from_slice(bytes).map_err(|error| {
        let expected = std::any::type_name::<A>();
        let message = format!("what was sent is no {expected}: {error}");
        failed(FailureKind::Arguments, message)
    })
}

fn output<R: Serialize>(value: &R) -> Result<Vec<u8>, Failure> {
    rmp_serde::to_vec(value).map_err(|error| {
        let given = std::any::type_name::<R>();
        let message = format!("cannot encode its value, a {given}: {error}");
        failed(FailureKind::Output, message)
    })
}

impl<T: Send + 'static> Remote<T> {
    /// A type of that name, and how an object of it is made: at the first use of the one that all share, and for each that is
    /// [created](super::Manager::create).
    #[must_use]
    pub fn new(name: impl Into<String>, make: impl Fn() -> T + Send + Sync + 'static) -> Self {
        Self {
            name: name.into(),
            make: Box::new(make),
            methods: BTreeMap::new(),
        }
    }

    /// A method of that name: a function `fn(&T, …) -> R` or `fn(&mut T, …) -> R` with up to six arguments. A `Result` that it returns is the caller's
    /// value as it is; where its error shall be the caller's error, see [`try_method`](Self::try_method).
    #[must_use]
    pub fn method<Form, F>(mut self, name: impl Into<String>, method: F) -> Self
    where
        F: Method<T, Form>,
        F::Output: Serialize,
    {
        let call = move |object: &mut T, bytes: &[u8]| {
            let value = method.call(object, arguments(bytes)?);
            output(&value)
        };
        self.methods.insert(name.into(), Box::new(call));
        self
    }

    /// A method of that name that returns a `Result`: its value is the caller's value, and the text of its error is in the caller's
    /// [`Error::MethodFailed`](crate::Error::MethodFailed).
    #[must_use]
    pub fn try_method<Form, F, R, E>(mut self, name: impl Into<String>, method: F) -> Self
    where
        F: Method<T, Form, Output = Result<R, E>>,
        R: Serialize,
        E: fmt::Display,
    {
        let call = move |object: &mut T, bytes: &[u8]| {
            let value = method.call(object, arguments(bytes)?);
            let value = value.map_err(|error| failed(FailureKind::Error, error.to_string()))?;
            output(&value)
        };
        self.methods.insert(name.into(), Box::new(call));
        self
    }
}

impl<T> fmt::Debug for Remote<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote")
            .field("name", &self.name)
            .field("methods", &self.methods.keys())
            .finish()
    }
}

/// A type as a host knows it.
pub(super) trait Type: Send + Sync {
    fn name(&self) -> &str;

    /// A new object of it.
    fn make(self: Arc<Self>) -> Result<Arc<dyn Held>, String>;
}

/// An object as a host knows it.
pub(super) trait Held: Send + Sync {
    /// Its type's name.
    fn name(&self) -> &str;

    fn call(&self, method: &str, arguments: &[u8]) -> Answer;
}

struct Object<T> {
    of: Arc<Remote<T>>,
    value: Mutex<T>,
    /// The thread that calls a method now.
    caller: Mutex<Option<ThreadId>>,
}

impl<T: Send + 'static> Type for Remote<T> {
    fn name(&self) -> &str {
        &self.name
    }

    fn make(self: Arc<Self>) -> Result<Arc<dyn Held>, String> {
        let made = catch_unwind(AssertUnwindSafe(|| (self.make)()));
        let value = made.map_err(|panic| {
            let text = panics::text_of(panic);
            format!("making an object of type {} panicked: {text}", self.name)
        })?;
        Ok(Arc::new(Object {
            of: self,
            value: Mutex::new(value),
            caller: Mutex::new(None),
        }))
    }
}

impl<T: Send + 'static> Held for Object<T> {
    fn name(&self) -> &str {
        &self.of.name
    }

    fn call(&self, name: &str, arguments: &[u8]) -> Answer {
        let Some(method) = self.of.methods.get(name) else {
            let known: Vec<_> = self.of.methods.keys().map(String::as_str).collect();
            return Answer::Refused(format!(
                "{} has no method {name}; it has {}",
                self.of.name,
                if known.is_empty() {
                    "none".to_owned()
                } else {
                    known.join(", ")
                }
            ));
        };
        let me = std::thread::current().id();
        let caller = || self.caller.lock().unwrap_or_else(PoisonError::into_inner);
        let mut value = match self.value.try_lock() {
            Ok(value) => value,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) if *caller() == Some(me) => {
                return Answer::Refused(format!(
                    "a method of {} calls {name} of the same object, and would wait for itself for ever",
                    self.of.name
                ));
            }
            Err(TryLockError::WouldBlock) => {
                self.value.lock().unwrap_or_else(PoisonError::into_inner)
            }
        };
        *caller() = Some(me);
        let called = panics::caught(|| method(&mut value, arguments));
        *caller() = None;
        drop(value);
        match called {
            Ok(value) => Answer::Value(Bytes::from(value)),
            Err(failure) => Answer::Failed(format!("{}.{name}", self.of.name), failure),
        }
    }
}
