//! What is finished when a program ends: queues hand over what was put, and let others take what is left.
//!
//! It runs once, whichever comes first: the end of `#[procession::main]`'s function, the end of a child's task, or the C
//! library's `exit`, to which a plain `main` that returns and `std::process::exit` lead.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, Once, PoisonError};

type Call = Box<dyn FnOnce() + Send>;

static CALLS: Mutex<Vec<Call>> = Mutex::new(Vec::new());

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
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if atexit(on_exit) != 0 {
            log::warn!("cannot be told of the program's end: what is put last may be lost");
        }
    });
    let mut calls = CALLS.lock().unwrap_or_else(PoisonError::into_inner);
    calls.push(Box::new(call));
}

/// Calls what was registered, once.
pub(crate) fn run() {
    loop {
        let call = CALLS.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let Some(call) = call else {
            return;
        };
        // An end must not be kept from the others by one of them.
        let _ = catch_unwind(AssertUnwindSafe(call));
    }
}
