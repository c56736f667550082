//! The thread in which a pool's callbacks are called: the user's functions may take their time, and results still come in.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::registry::panics::text_of;

pub(crate) type Call = Box<dyn FnOnce() + Send>;

#[derive(Default)]
pub(crate) struct Callbacks {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    sender: Option<Sender<Call>>,
    thread: Option<JoinHandle<()>>,
    closed: bool,
}

impl Callbacks {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has it called in that thread, which is started for the first.
    pub(crate) fn call(&self, call: Call) {
        let mut state = self.state();
        if state.sender.is_none() && !state.closed {
            let (sender, calls) = channel::<Call>();
            let thread = std::thread::Builder::new()
                .name("pool-callbacks".to_owned())
                .spawn(move || calls.into_iter().for_each(run));
            match thread {
                Ok(thread) => {
                    state.thread = Some(thread);
                    state.sender = Some(sender);
                }
                Err(error) => log::error!("no thread for callbacks: {error}"),
            }
        }
        let unsent = match &state.sender {
            Some(sender) => sender.send(call).map_err(|unsent| unsent.0),
            None => Err(call),
        };
        drop(state);
        if let Err(call) = unsent {
            run(call);
        }
    }

    /// No more calls come; waits for those that have come if `wait` says so.
    pub(crate) fn end(&self, wait: bool) {
        let thread = {
            let mut state = self.state();
            state.closed = true;
            state.sender = None;
            // One who does not wait leaves it to one who does.
            if wait { state.thread.take() } else { None }
        };
        if let Some(thread) = thread
            && thread.thread().id() != std::thread::current().id()
            && thread.join().is_err()
        {
            log::error!("the thread for callbacks panicked");
        }
    }
}

fn run(call: Call) {
    // Nothing of ours is left half done by a panic, and what the user shares with others is the user's.
    if let Err(panic) = catch_unwind(AssertUnwindSafe(call)) {
        log::error!("a callback panicked: {}", text_of(panic));
    }
}
