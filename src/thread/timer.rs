//! [`Timer`]: a call that is made later, unless it is cancelled.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::{AnyThread, Builder, Target, Thread, deadline};
use crate::error::Result;

/// Python's `threading.Timer`: a thread that waits before it begins, and can be cancelled until then.
///
/// ```
/// use procession::thread::Timer;
/// use std::time::Duration;
///
/// let timer = Timer::spawn(Duration::from_millis(1), || "time is up", ())?;
/// assert_eq!(timer.join()?, Some("time is up"));
///
/// let timer = Timer::spawn(Duration::from_secs(3600), || "never", ())?;
/// assert!(timer.cancel());
/// assert_eq!(timer.join()?, None);
/// # Ok::<(), procession::Error>(())
/// ```
///
/// Whatever a [`Thread`] can do it can, too. It is no daemon, so a program with [`#[procession::main]`](macro@crate::main) waits for it at its
/// end. It costs a thread while it waits.
pub struct Timer<R> {
    thread: Thread<Option<R>>,
    stage: Arc<Stage>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Waiting,
    Begun,
    Cancelled,
}

struct Stage {
    at: Mutex<At>,
    cancelled: Condvar,
}

impl Stage {
    /// Waits for that time; whether the call is to be made.
    fn pass(&self, time: Duration) -> bool {
        let deadline = deadline(time);
        let mut at = self.at.lock();
        while *at == At::Waiting {
            match deadline {
                // Further than any clock goes.
                None => self.cancelled.wait(&mut at),
                Some(deadline) => {
                    if self.cancelled.wait_until(&mut at, deadline).timed_out() {
                        break;
                    }
                }
            }
        }
        if *at == At::Waiting {
            *at = At::Begun;
        }
        *at == At::Begun
    }
}

impl Timer<()> {
    /// Starts a thread that waits for `interval`, and then calls `target` with `args`, a tuple.
    ///
    /// # Errors
    /// As [`Thread::spawn`].
    pub fn spawn<M, T: Target<M>>(
        interval: Duration,
        target: T,
        args: T::Args,
    ) -> Result<Timer<T::Output>> {
        let stage = Arc::new(Stage {
            at: Mutex::new(At::Waiting),
            cancelled: Condvar::new(),
        });
        let its = Arc::clone(&stage);
        let call = move || match its.pass(interval) {
            true => target.call_with(args).map(Some),
            false => Ok(None),
        };
        let thread = Builder::new().launch("Timer", call)?;
        Ok(Timer { thread, stage })
    }
}

impl<R> Timer<R> {
    /// The call is not made, if it has not begun; whether that is so. The thread ends at once.
    pub fn cancel(&self) -> bool {
        let mut at = self.stage.at.lock();
        if *at == At::Waiting {
            *at = At::Cancelled;
            self.stage.cancelled.notify_all();
        }
        *at == At::Cancelled
    }

    /// Waits until it has ended; the value, or `None` when it was cancelled.
    ///
    /// # Errors
    /// As [`Thread::join`].
    pub fn join(&self) -> Result<Option<R>>
    where
        R: Clone,
    {
        self.thread.join()
    }
}

impl<R> Deref for Timer<R> {
    type Target = AnyThread;

    fn deref(&self) -> &AnyThread {
        &self.thread
    }
}

impl<R> fmt::Debug for Timer<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timer")
            .field("thread", &self.thread)
            .field("at", &*self.stage.at.lock())
            .finish()
    }
}
