//! For tests: processes that end in the middle of a change of shared numbers, at each step of it, one after the other.

use std::sync::atomic::{AtomicI64, Ordering};

/// How many steps this process has left; below 0: it does not end by itself.
static LEFT: AtomicI64 = AtomicI64::new(-1);

const CAME_TO_ITS_END: libc::c_int = 0;
const DIED: libc::c_int = 7;

/// One step. Possibly the last.
pub(super) fn step() {
    if LEFT.load(Ordering::Relaxed) >= 0 && LEFT.fetch_sub(1, Ordering::Relaxed) == 0 {
        // SAFETY: it ends the process, as a SIGKILL would: nothing is dropped, and the kernel releases what is held.
        unsafe { libc::_exit(DIED) };
    }
}

/// Has a child, which has the same shared memory, do this for so many steps; whether it came to the end.
pub(super) fn child_comes_to_its_end(steps: i64, act: impl FnOnce()) -> bool {
    // SAFETY: the child has one thread, makes no use of what others may have locked, and leaves without running anything else.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "fork: {}", std::io::Error::last_os_error());
    if child == 0 {
        LEFT.store(steps, Ordering::Relaxed);
        act();
        // SAFETY: as above.
        unsafe { libc::_exit(CAME_TO_ITS_END) };
    }
    let mut status = 0;
    // SAFETY: it is this process's child, and the number is valid.
    let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert!(
        waited == child && libc::WIFEXITED(status),
        "it has crashed: {status}"
    );
    match libc::WEXITSTATUS(status) {
        CAME_TO_ITS_END => true,
        DIED => false,
        other => panic!("the child ended with {other}"),
    }
}
