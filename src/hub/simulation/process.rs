//! A process of the simulation: an event loop on a stack of its own, which stands still in its poll and is resumed when that
//! is over. Dropped, it is killed: its stack is unwound, wherever it stands.

use std::cell::Cell;

use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, CoroutineResult, Yielder};

thread_local! {
    static RUNNING: Cell<*const Yielder<(), ()>> = const { Cell::new(std::ptr::null()) };
}

/// Stacks of event loops are shallow.
const STACK: usize = 256 << 10;

pub(super) struct Loop<T: 'static> {
    coroutine: Coroutine<(), (), T>,
    yielder: std::rc::Rc<Cell<*const Yielder<(), ()>>>,
}

impl<T: 'static> Loop<T> {
    pub(super) fn new(body: impl FnOnce() -> T + 'static) -> Self {
        let yielder = std::rc::Rc::new(Cell::new(std::ptr::null()));
        let mine = std::rc::Rc::clone(&yielder);
        let stack = DefaultStack::new(STACK).expect("memory for a stack");
        let coroutine = Coroutine::with_stack(stack, move |yielder, ()| {
            mine.set(yielder);
            RUNNING.set(yielder);
            body()
        });
        Self { coroutine, yielder }
    }

    /// Lets it run until it stands still, or has ended.
    pub(super) fn resume(&mut self) -> Option<T> {
        RUNNING.set(self.yielder.get());
        let result = self.coroutine.resume(());
        RUNNING.set(std::ptr::null());
        match result {
            CoroutineResult::Yield(()) => None,
            CoroutineResult::Return(value) => Some(value),
        }
    }
}

/// Hands control back to the simulation, until it is resumed.
pub(super) fn stand_still() {
    let yielder = RUNNING.get();
    assert!(!yielder.is_null(), "a poll outside of every process");
    // SAFETY: it was set by the resume that runs now, to the yielder on the stack of the loop that calls this.
    unsafe { &*yielder }.suspend(());
}
