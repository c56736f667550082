//! The number of this thread, which no other thread of this host has.

use std::cell::Cell;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

use super::life;

thread_local! {
    // No destructor, so that it can be read while a thread drops its other variables.
    static HERE: Cell<u64> = const { Cell::new(0) };
}

/// This process's random number; 0: not drawn yet.
static PROCESS: AtomicU32 = AtomicU32::new(0);

/// This thread's number on this host, never 0: its process's random number, and which of the process's threads it is. (The system's numbers
/// of threads are given again when a thread has ended, and what it held may still say that it is held.)
#[inline]
pub(crate) fn here() -> u64 {
    match HERE.get() {
        0 => first_here(),
        here => here,
    }
}

#[cold]
fn first_here() -> u64 {
    static THREADS: AtomicU32 = AtomicU32::new(1);
    let thread = THREADS.fetch_add(1, Ordering::Relaxed);
    let here = u64::from(process()) << 32 | u64::from(thread);
    HERE.set(here);
    here
}

fn process() -> u32 {
    watch_forks();
    let drawn = PROCESS.load(Ordering::Relaxed);
    if drawn != 0 {
        return drawn;
    }
    // Without randomness the process's number does nearly as well.
    let new = getrandom::u32()
        .ok()
        .filter(|number| *number != 0)
        .unwrap_or_else(std::process::id);
    // Of several threads the first one's counts.
    match PROCESS.compare_exchange(0, new, Ordering::Relaxed, Ordering::Relaxed) {
        Ok(_) => new,
        Err(first) => first,
    }
}

/// A child of a `fork` without `exec` is a process of its own, which holds nothing of what its parent does: from then on it has other
/// numbers.
pub(super) fn watch_forks() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        unsafe extern "C" {
            // In every POSIX system; `libc` does not have it everywhere.
            fn pthread_atfork(
                before: Option<unsafe extern "C" fn()>,
                in_parent: Option<unsafe extern "C" fn()>,
                in_child: Option<unsafe extern "C" fn()>,
            ) -> libc::c_int;
        }
        // SAFETY: the function stays, and does only what is allowed in such a child.
        let code = unsafe { pthread_atfork(None, None, Some(is_another_process)) };
        if code != 0 {
            log::debug!("a fork will not be noticed: pthread_atfork has failed with {code}");
        }
    });
}

/// Runs in the child, in its only thread, which may be in the middle of anything: plain stores only.
extern "C" fn is_another_process() {
    PROCESS.store(0, Ordering::Relaxed);
    let _ = HERE.try_with(|here| here.set(0));
    life::forget_here();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_threads_have_one_number_not_even_one_after_the_other()
    -> Result<(), Box<dyn std::error::Error>> {
        let mut all = vec![here()];
        for _ in 0..100 {
            all.push(std::thread::spawn(here).join().map_err(|_| "it panicked")?);
        }
        assert!(all.iter().all(|number| number >> 32 == here() >> 32));
        assert_eq!(here(), all[0], "it stays");
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 101);
        Ok(())
    }
}
