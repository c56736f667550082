//! Ends that were encoded and not received yet: this process answers for them until they are.

use std::cell::RefCell;
use std::sync::{Mutex, PoisonError};

use super::folder::Ticket;

/// Tickets that are nobody's in particular: until they are used, or this process ends.
static LOOSE: Mutex<Vec<Ticket>> = Mutex::new(Vec::new());

thread_local! {
    /// The tickets of what this thread is encoding for somebody in particular.
    static GATHERED: RefCell<Option<Vec<Ticket>>> = const { RefCell::new(None) };
}

/// Keeps a ticket until it is used.
pub(super) fn keep(ticket: Ticket) {
    let loose = GATHERED.with_borrow_mut(|gathered| match gathered {
        Some(gathered) => {
            gathered.push(ticket);
            None
        }
        None => Some(ticket),
    });
    if let Some(ticket) = loose {
        let mut all = LOOSE.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(ticket);
        let used = extract_used(&mut all);
        drop(all);
        // Without the lock, because each looks into its folder.
        drop(used);
    }
}

fn extract_used(all: &mut Vec<Ticket>) -> Vec<Ticket> {
    all.extract_if(.., |ticket| ticket.is_used()).collect()
}

/// The ends that a message to somebody in particular has in it. While this lives they count as held, unless they were received; it
/// is to be dropped when whoever should receive them is gone.
#[derive(Debug, Default)]
pub(crate) struct InTransit {
    _tickets: Vec<Ticket>,
}

/// Encodes something for somebody in particular, for instance the arguments of a process.
pub(crate) fn gather<T>(encode: impl FnOnce() -> T) -> (T, InTransit) {
    /// Also when encoding panics, the thread's next message is not for the same receiver.
    struct Restore(Option<Vec<Ticket>>);
    impl Drop for Restore {
        fn drop(&mut self) {
            GATHERED.with_borrow_mut(|gathered| *gathered = self.0.take());
        }
    }
    let restore = Restore(GATHERED.replace(Some(Vec::new())));
    let encoded = encode();
    let tickets = GATHERED.take().unwrap_or_default();
    drop(restore);
    (encoded, InTransit { _tickets: tickets })
}
