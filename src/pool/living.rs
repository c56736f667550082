//! The pools of this process that have not ended, for the end of the program: one that is in a `static`, or was leaked, is not
//! dropped.

use std::sync::{Mutex, Once, PoisonError, Weak};

/// What is to be ended with the program.
pub(super) trait Living: Send + Sync {
    /// Ends it now. After its end it does nothing.
    fn end(&self);
}

static LIVING: Mutex<Vec<Weak<dyn Living>>> = Mutex::new(Vec::new());

/// Has it ended when the program ends, if it is still there.
pub(super) fn remember(one: Weak<dyn Living>) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| crate::at_exit::register_first(end_all));
    let mut living = LIVING.lock().unwrap_or_else(PoisonError::into_inner);
    living.retain(|one| one.strong_count() > 0);
    living.push(one);
}

fn end_all() {
    let living = std::mem::take(&mut *LIVING.lock().unwrap_or_else(PoisonError::into_inner));
    for one in living.iter().filter_map(Weak::upgrade) {
        one.end();
    }
}
