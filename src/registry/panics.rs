//! Where a task panicked: only a panic hook is told, so a child process has one.

use std::cell::RefCell;
use std::panic;

thread_local! {
    static LOCATION: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// From now on a panic is printed with the name of the process before it, as Python does, and its location is kept. To be called
/// once, in a child.
pub(crate) fn install(process: String) {
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let location = info.location().map(ToString::to_string);
        // It may be that the thread is ending and has no such variable any more.
        let _ = LOCATION.try_with(|place| {
            if let Ok(mut place) = place.try_borrow_mut() {
                *place = location;
            }
        });
        // Not eprintln!, which panics when standard error is closed.
        let _ = std::io::Write::write_all(
            &mut std::io::stderr(),
            format!("process {process}:\n").as_bytes(),
        );
        before(info);
    }));
}

/// What panicked before does not count.
pub(crate) fn forget() {
    LOCATION.with_borrow_mut(|place| *place = None);
}

/// Where this thread panicked last; none where no hook of ours is installed.
pub(crate) fn location() -> Option<String> {
    LOCATION.with_borrow_mut(Option::take)
}
