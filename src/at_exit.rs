//! What is finished when a program ends: pools are terminated, and, when the children have ended, queues hand over what was put
//! and let others take what is left.
//!
//! It runs once, whichever comes first: the end of `#[procession::main]`'s function, the end of a child's task, or the C
//! library's `exit`, to which a plain `main` that returns and `std::process::exit` lead.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, Once, OnceLock, PoisonError};

use crate::registry::panics::text_of;

type Call = Box<dyn FnOnce() + Send>;

/// Before the children are waited for, and behind that.
static FIRST: Mutex<Vec<Call>> = Mutex::new(Vec::new());
static CALLS: Mutex<Vec<Call>> = Mutex::new(Vec::new());
/// The process in which something was registered. One that was forked from it has its memory, but not its threads.
static OWNER: OnceLock<u32> = OnceLock::new();

unsafe extern "C" {
    /// The C library's.
    // SAFETY: it only adds a function to a list; that function is ours and does not unwind.
    safe fn atexit(call: extern "C" fn()) -> std::ffi::c_int;
}

extern "C" fn on_exit() {
    run();
}

/// Has `call` called when the program ends normally; the last one first.
pub(crate) fn register(call: impl FnOnce() + Send + 'static) {
    add(&CALLS, Box::new(call));
}

/// As [`register`], but called before this program's children are waited for.
pub(crate) fn register_first(call: impl FnOnce() + Send + 'static) {
    add(&FIRST, Box::new(call));
}

fn add(calls: &Mutex<Vec<Call>>, call: Call) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if atexit(on_exit) != 0 {
            log::warn!("cannot be told of the program's end: what is put last may be lost");
        }
    });
    OWNER.get_or_init(std::process::id);
    let mut calls = calls.lock().unwrap_or_else(PoisonError::into_inner);
    calls.push(call);
}

/// Calls what was registered, once.
pub(crate) fn run() {
    run_first();
    call_all(&CALLS);
}

/// Calls what was registered by [`register_first`], once.
pub(crate) fn run_first() {
    call_all(&FIRST);
}

fn call_all(calls: &Mutex<Vec<Call>>) {
    if OWNER
        .get()
        .is_some_and(|owner| *owner != std::process::id())
    {
        return;
    }
    loop {
        let call = calls.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let Some(call) = call else {
            return;
        };
        // An end must not be kept from the others by one of them.
        if let Err(panic) = catch_unwind(AssertUnwindSafe(call)) {
            log::error!("what is done at the end panicked: {}", text_of(panic));
        }
    }
}
