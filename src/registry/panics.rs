//! Panics of tasks. Where one happened only a panic hook is told, so a child process has one, and so has a process with threads.

use std::any::Any;
use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::sync::Once;

use super::{Failure, FailureKind};

thread_local! {
    static LOCATION: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Calls it; a panic becomes a [`Failure`].
pub(crate) fn caught<T>(call: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    forget();
    // Nothing of ours is left half done by a panic; what the user's function shares with others is the user's.
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|payload| {
        Err(Failure {
            message: text_of(payload),
            location: location(),
            kind: FailureKind::Panic,
        })
    })
}

/// What a panic that was caught said.
pub(crate) fn text_of(payload: Box<dyn Any + Send>) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic whose payload is no text")
        .to_owned();
    // It may panic when it is dropped, and then nobody would catch it.
    std::mem::forget(payload);
    text
}

/// From now on the location of a panic is kept, and the panic is told as before.
pub(crate) fn keep_locations() {
    static ONCE: Once = Once::new();
    // A hook cannot be set by a thread that panics; then the next one does it.
    if std::thread::panicking() {
        return;
    }
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            note(info);
            before(info);
        }));
    });
}

fn note(info: &PanicHookInfo<'_>) {
    let location = info.location().map(ToString::to_string);
    // It may be that the thread is ending and has no such variable any more.
    let _ = LOCATION.try_with(|place| {
        if let Ok(mut place) = place.try_borrow_mut() {
            *place = location;
        }
    });
}

/// From now on a panic is printed with the name of the process before it, as Python does, and its location is kept. To be called
/// once, in a child.
pub(crate) fn install(process: String) {
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        note(info);
        // Not eprintln!, which panics when standard error is closed.
        let _ = std::io::Write::write_all(
            &mut std::io::stderr(),
            format!("process {process}:\n").as_bytes(),
        );
        before(info);
    }));
}

/// What panicked before does not count.
fn forget() {
    LOCATION.with_borrow_mut(|place| *place = None);
}

/// Where this thread panicked last; none where no hook of ours is installed.
fn location() -> Option<String> {
    LOCATION.with_borrow_mut(Option::take)
}
