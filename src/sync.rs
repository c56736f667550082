//! What processes of one host wait by, in shared memory: Python's `multiprocessing.Lock` and its kin.
//!
//! ```
//! use procession::Process;
//! use procession::sync::Lock;
//!
//! #[procession::task]
//! fn report(lock: Lock, name: String) -> procession::Result<()> {
//!     let _held = lock.lock()?; // released at the end of the block, also by a panic
//!     println!("{name} begins");
//!     println!("{name} ends");
//!     Ok(())
//! }
//!
//! #[procession::main]
//! fn main() -> procession::Result<()> {
//!     let lock = Lock::new()?;
//!     let child = Process::spawn(report, (lock.clone(), "child".to_owned()))?;
//!     report(lock, "parent".to_owned())?;
//!     child.join()
//! }
//! ```
//!
//! | | | when a process is killed |
//! |---|---|---|
//! | [`Lock`], [`RLock`] | one at a time | a holder: the next one has it at once, and [is told](Lock::holder_died) |
//! | [`Condition`] | wait under a lock until something has changed | one that waits is passed over |
//! | [`Semaphore`], [`BoundedSemaphore`] | so many at a time | what it had [is given back](Semaphore#when-a-process-dies) |
//! | [`Event`] | go on when something has happened | |
//! | [`Barrier`] | go on when all are here | it is [broken](Barrier) for all |
//!
//! **Between hosts**: [`Lock::bind`] and [`Lock::connect`], [`Semaphore::bind`] and [`Semaphore::connect`]. What they return is held under a lease
//! that ends with the holder's life, with a fencing number: see [`LeasedLock`].
//!
//! Choose messages first: a [`Queue`](crate::Queue) needs no lock, and goes on working when the program is spread over hosts. These are for
//! what is shared all the same: a file, a terminal, a device, memory. Between the threads of one process the ones of
//! [`thread`](mod@crate::thread) do, which have the same names and methods; here `new` can fail, as it needs memory and a file descriptor.
//!
//! Each is a handle. A clone is the same object, and so is what another process receives: pass it to [`Process::spawn`](crate::Process),
//! put it on a queue. They are for processes of one host, one user and one container.
//!
//! # How long it lives
//!
//! As [shared memory](crate::shared#how-long-it-lives) does: until the last process that has it has dropped it, has ended or was killed. A process
//! that has sent a handle keeps the object, and an open file, until it ends, as nobody can know whether the handle is still under way.
//! Who makes objects again and again, and sends them, says `unlink` when they were received:
//!
//! ```
//! # use procession::Process;
//! use procession::sync::Event;
//!
//! # #[procession::task]
//! # fn work(done: Event) {
//! #     done.set();
//! # }
//! # #[procession::main]
//! # fn main() -> procession::Result<()> {
//! for _ in 0..3 {
//!     let done = Event::new()?;
//!     let child = Process::spawn(work, (done.clone(),))?;
//!     done.wait();
//!     done.unlink(); // the child has it, and no other handle was sent
//!     child.join()?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # fork and exec
//!
//! A child that was made by `fork` without `exec` (by `libc::fork`; [`Process`](crate::Process) makes none) holds nothing of what its parent holds.
//! Guards that it has from its parent are its parent's: it must leave by `_exit`, or forget them. A semaphore's unit that such a child
//! gives back would be there twice. The numbers by which threads and processes are known are the child's own, so it can use every object. A barrier
//! misses it only if it has received the handle itself.
//!
//! A program that replaces itself (`exec`) is the same process to all others: it keeps the units of semaphores that it had, until it ends, and the
//! locks that it held are left as by a thread that has ended.
//!
//! # Cost
//!
//! What nobody else wants is acquired and released without a system call. Who waits for a lock looks for as long as it takes to wake a
//! sleeper, and then sleeps. Who waits wakes up ten times a second to see whether somebody has died (for an event once a second). Where nobody waits nothing runs.
//!
//! # How it works
//!
//! A lock is the system's robust mutex, whose holder the kernel knows. The others are a few numbers under such a mutex: what a killed
//! process had half changed is undone by whoever comes next. Sleeping is done on a futex outside of it.

mod barrier;
mod condition;
mod event;
mod futex;
mod here;
pub(crate) mod heritage;
mod leased;
mod life;
mod lock;
mod meeting;
mod monitor;
mod place;
pub(crate) mod raw_mutex;
mod rlock;
mod semaphore;
#[cfg(test)]
mod sudden_death;
mod units;
mod waiters;

pub use barrier::Barrier;
pub use condition::Condition;
pub use event::Event;
pub use leased::{LeasedGuard, LeasedLock, LeasedSemaphore};
pub use lock::{Lock, LockGuard};
pub use rlock::{RLock, RLockGuard};
pub use semaphore::{BoundedSemaphore, Semaphore, SemaphoreGuard};

use std::time::{Duration, Instant};

/// When a wait of this length ends; `None`: never, as no clock holds such a time.
fn deadline(time: Duration) -> Option<Instant> {
    Instant::now().checked_add(time)
}

/// The time in milliseconds, by a clock that is the same in all processes of the host.
fn millis() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
}
