//! [`RawMutex`]: a mutex in memory that processes share, which tells when its holder has died.
//!
//! It is the system's own (`pthread_mutex_t`: process-shared, robust, error-checking). The kernel keeps a list of those that each thread
//! holds, and when the thread ends, killed or not, marks them and wakes one that waits: nothing else notices the death of a holder at
//! once, wherever it happens. Uncontended it is one atomic operation each way, with no system call.
//!
//! Whoever comes first after such a death has the mutex, and [`died`](RawMutex::died) says so until somebody says that all is well again.
//!
//! # What it needs
//!
//! - **Its memory stays mapped while a thread of this process holds it**, because the list goes through it. Whoever unmaps it asks
//!   [`is_held_by_this_process`](RawMutex::is_held_by_this_process) before, and leaves it mapped if so.
//! - All its processes see each other's thread numbers: they are in one PID namespace.
//! - They trust each other: the list's links are in the shared memory.

use std::cell::UnsafeCell;
use std::io;
use std::mem::MaybeUninit;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::here::here;
use crate::error::{Error, Result};

/// The same in glibc and musl; `libc` does not have it.
const PTHREAD_MUTEX_ROBUST: libc::c_int = 1;

/// Of the word that the kernel knows: the number of the thread. Part of its interface.
const FUTEX_TID_MASK: u32 = 0x3fff_ffff;

/// What two programs must have in common to use one mutex, for the names of what contains one: a mutex is laid out as the C library of the
/// program has it.
pub(crate) const ABI: &str = match () {
    () if cfg!(all(target_env = "gnu", target_pointer_width = "64")) => "gnu, 64 bits, layout 2",
    () if cfg!(all(target_env = "musl", target_pointer_width = "64")) => "musl, 64 bits, layout 2",
    () if cfg!(all(target_env = "gnu", target_pointer_width = "32")) => "gnu, 32 bits, layout 2",
    () if cfg!(all(target_env = "musl", target_pointer_width = "32")) => "musl, 32 bits, layout 2",
    () => "other, layout 2",
};

/// How often a waiter looks whether the holder has gone, before it sleeps. About the time that it takes to wake a sleeper: who holds it
/// for moments only is done by then.
const LOOKS: u32 = 200;

/// How long a waiter sleeps before it looks again by itself.
const PIECE: Duration = Duration::from_millis(100);

/// A mutex in shared memory. See the [module](self).
#[repr(C)]
pub(crate) struct RawMutex {
    mutex: UnsafeCell<libc::pthread_mutex_t>,
    /// The [number](here()) of the thread that holds it; 0: none does. Of a holder that was killed it stays.
    owner: AtomicU64,
    /// Whether a holder has died and nobody has said since that all is well.
    died: AtomicU32,
}

// SAFETY: all access to the cell is by pthread's functions, which are made for several threads, and processes.
unsafe impl Send for RawMutex {}
// SAFETY: as above.
unsafe impl Sync for RawMutex {}

impl RawMutex {
    /// Makes one at this place.
    ///
    /// # Errors
    /// The system's, if it has no such mutexes.
    ///
    /// # Safety
    /// `place` is aligned and valid for writes, nobody else uses it yet, and what is there is never moved or written by other means.
    pub(crate) unsafe fn init(place: *mut Self) -> io::Result<()> {
        let check = |code: libc::c_int| match code {
            0 => Ok(()),
            code => Err(io::Error::from_raw_os_error(code)),
        };
        let mut attributes = MaybeUninit::uninit();
        // SAFETY: the attributes are initialised by the first call, used by the others, and destroyed by the last; `place` is the caller's.
        unsafe {
            check(libc::pthread_mutexattr_init(attributes.as_mut_ptr()))?;
            let attributes = attributes.assume_init_mut();
            let made = check(libc::pthread_mutexattr_setpshared(
                attributes,
                libc::PTHREAD_PROCESS_SHARED,
            ))
            .and_then(|()| {
                check(libc::pthread_mutexattr_setrobust(
                    attributes,
                    PTHREAD_MUTEX_ROBUST,
                ))
            })
            .and_then(|()| {
                check(libc::pthread_mutexattr_settype(
                    attributes,
                    libc::PTHREAD_MUTEX_ERRORCHECK,
                ))
            })
            .and_then(|()| {
                let mutex = UnsafeCell::raw_get(&raw const (*place).mutex);
                check(libc::pthread_mutex_init(mutex, attributes))
            });
            libc::pthread_mutexattr_destroy(attributes);
            made?;
            (&raw mut (*place).owner).write(AtomicU64::new(0));
            (&raw mut (*place).died).write(AtomicU32::new(0));
        }
        Ok(())
    }

    /// Waits for it.
    ///
    /// # Errors
    /// [`Error::HeldAlready`] when this thread holds it; the system's, if its memory was overwritten.
    pub(crate) fn acquire(&self) -> Result<()> {
        self.acquire_until(None).map(drop)
    }

    /// Waits for it until then; whether it is held.
    ///
    /// # Errors
    /// As [`acquire`](Self::acquire).
    #[inline]
    pub(crate) fn acquire_until(&self, deadline: Option<Instant>) -> Result<bool> {
        match self.attempt() {
            0 => Ok(self.is_taken()),
            code => self.acquire_slowly(code, deadline),
        }
    }

    /// Holds it if nobody does now, this thread included; whether it does.
    #[inline]
    pub(crate) fn try_acquire(&self) -> bool {
        match self.attempt() {
            0 => self.is_taken(),
            libc::EOWNERDEAD => self.is_taken_over(),
            _ => false,
        }
    }

    #[inline]
    fn attempt(&self) -> libc::c_int {
        // SAFETY: it was initialised, as whoever makes a reference knows.
        unsafe { libc::pthread_mutex_trylock(self.mutex.get()) }
    }

    #[cold]
    fn acquire_slowly(&self, mut code: libc::c_int, deadline: Option<Instant>) -> Result<bool> {
        let mut looks = if may_spin() { LOOKS } else { 0 };
        loop {
            match code {
                0 => return Ok(self.is_taken()),
                libc::EOWNERDEAD => return Ok(self.is_taken_over()),
                // Which of the two the attempt says of a mutex of one's own is not the same everywhere.
                libc::EBUSY | libc::EDEADLK if self.is_mine() => return Err(Error::HeldAlready),
                libc::EBUSY if looks > 0 => {
                    while looks > 0 && self.owner.load(Ordering::Relaxed) != 0 {
                        std::hint::spin_loop();
                        looks -= 1;
                    }
                    looks = looks.saturating_sub(1);
                    code = self.attempt();
                }
                libc::EBUSY | libc::EINTR => code = self.sleep(deadline),
                libc::ETIMEDOUT => {
                    // By whatever clock that was: this one decides.
                    if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                        return Ok(false);
                    }
                    code = self.sleep(deadline);
                }
                libc::EDEADLK => return Err(Error::HeldAlready),
                code => {
                    return Err(Error::system(
                        "cannot use a lock in shared memory, which may have been overwritten",
                        io::Error::from_raw_os_error(code),
                    ));
                }
            }
        }
    }

    /// Sleeps for it in short pieces. A release wakes one waiter, who then sees to it that the next release wakes another; if it is killed
    /// before, nobody else is woken though the mutex is free, and the kernel sees only a part of such cases.
    fn sleep(&self, deadline: Option<Instant>) -> libc::c_int {
        let piece = deadline.map_or(PIECE, |deadline| {
            PIECE.min(deadline.saturating_duration_since(Instant::now()))
        });
        // SAFETY: as in `attempt`; the time is valid while it is read.
        unsafe { sleep_until(self.mutex.get(), piece) }
    }

    #[inline]
    fn is_taken(&self) -> bool {
        self.owner.store(here(), Ordering::Relaxed);
        true
    }

    /// The holder has died, and this thread has the mutex in its stead.
    #[cold]
    fn is_taken_over(&self) -> bool {
        // First, so that whoever takes over from this one is told too.
        self.died.store(1, Ordering::Relaxed);
        // SAFETY: as in `attempt`; this thread holds it and was told that the holder before it has died.
        let code = unsafe { libc::pthread_mutex_consistent(self.mutex.get()) };
        debug_assert_eq!(code, 0, "only then is this called");
        self.is_taken()
    }

    /// Lets others have it; `false` when this thread does not hold it.
    #[inline]
    pub(crate) fn release(&self) -> bool {
        self.is_mine() && self.release_mine()
    }

    /// The same, by a thread that knows that it holds it.
    #[inline]
    pub(super) fn release_mine(&self) -> bool {
        // Before, because afterwards it is another's.
        self.owner.store(0, Ordering::Relaxed);
        // SAFETY: as in `attempt`. If this thread does not hold it after all, that is an error and nothing happens.
        unsafe { libc::pthread_mutex_unlock(self.mutex.get()) == 0 }
    }

    /// Whether this thread holds it.
    #[inline]
    pub(crate) fn is_mine(&self) -> bool {
        self.owner.load(Ordering::Relaxed) == here()
    }

    /// Whether anybody holds it, at this moment. One that was killed, or whose thread has ended, does not. Only looks: nobody who tries to
    /// have it fails because of this.
    pub(crate) fn is_held(&self) -> bool {
        match self.word() {
            // The kernel takes the number of a thread that ends out of it.
            Some(word) => word.load(Ordering::Relaxed) & FUTEX_TID_MASK != 0,
            None => self.owner.load(Ordering::Relaxed) != 0,
        }
    }

    /// The word in which the kernel finds the number of the thread that holds it, as its list of robust mutexes says; where that is in
    /// this system's mutex, if known.
    fn word(&self) -> Option<&AtomicU32> {
        let index = match () {
            () if cfg!(target_env = "gnu") => 0,
            () if cfg!(target_env = "musl") => 1,
            () => return None,
        };
        const { assert!(size_of::<libc::pthread_mutex_t>() >= 2 * size_of::<u32>()) };
        // SAFETY: it is inside of the mutex and aligned as its numbers are, and pthread and the kernel change it by atomic operations only.
        Some(unsafe { AtomicU32::from_ptr(self.mutex.get().cast::<u32>().add(index)) })
    }

    /// Whether a thread of this process holds it, or has ended holding it: then its memory must stay where it is.
    pub(crate) fn is_held_by_this_process(&self) -> bool {
        let owner = self.owner.load(Ordering::Relaxed);
        owner != 0 && owner >> 32 == here() >> 32
    }

    /// Whether a holder has died, and nobody has said [since](Self::forget_death) that all is well.
    pub(crate) fn died(&self) -> bool {
        self.died.load(Ordering::Relaxed) != 0
    }

    /// The same as what the death of a holder does.
    pub(super) fn tell_of_death(&self) {
        self.died.store(1, Ordering::Relaxed);
    }

    /// What was guarded is in order again.
    pub(crate) fn forget_death(&self) {
        self.died.store(0, Ordering::Relaxed);
    }
}

/// # Safety
/// As for pthread's functions: `mutex` is one.
#[cfg(target_env = "gnu")]
unsafe fn sleep_until(mutex: *mut libc::pthread_mutex_t, left: Duration) -> libc::c_int {
    unsafe extern "C" {
        // In glibc since 2.30; `libc` does not have it.
        fn pthread_mutex_clocklock(
            mutex: *mut libc::pthread_mutex_t,
            clock: libc::clockid_t,
            until: *const libc::timespec,
        ) -> libc::c_int;
    }
    let until = later(rustix::time::ClockId::Monotonic, left);
    // SAFETY: the caller's.
    unsafe { pthread_mutex_clocklock(mutex, libc::CLOCK_MONOTONIC, &raw const until) }
}

/// # Safety
/// As for pthread's functions: `mutex` is one.
#[cfg(not(target_env = "gnu"))]
unsafe fn sleep_until(mutex: *mut libc::pthread_mutex_t, left: Duration) -> libc::c_int {
    // By the time of day, which may be set: the caller sleeps in pieces, and looks at the other clock.
    let until = later(rustix::time::ClockId::Realtime, left);
    // SAFETY: the caller's.
    unsafe { libc::pthread_mutex_timedlock(mutex, &raw const until) }
}

/// The time on this clock, so much later.
fn later(clock: rustix::time::ClockId, time: Duration) -> libc::timespec {
    let now = rustix::time::clock_gettime(clock);
    let nanos = now.tv_nsec as u64 + u64::from(time.subsec_nanos());
    let seconds = time.as_secs() + nanos / 1_000_000_000;
    // SAFETY: it is two numbers, and on some systems padding.
    let mut until: libc::timespec = unsafe { std::mem::zeroed() };
    until.tv_sec = (now.tv_sec as libc::time_t)
        .saturating_add(libc::time_t::try_from(seconds).unwrap_or(libc::time_t::MAX));
    until.tv_nsec = (nanos % 1_000_000_000) as _;
    until
}

/// Whether others can go on while this thread looks and looks.
fn may_spin() -> bool {
    static SEVERAL: OnceLock<bool> = OnceLock::new();
    *SEVERAL.get_or_init(|| std::thread::available_parallelism().is_ok_and(|count| count.get() > 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    /// One in memory that this program's threads share.
    fn mutex() -> io::Result<&'static RawMutex> {
        let place: &'static mut MaybeUninit<RawMutex> = Box::leak(Box::new(MaybeUninit::uninit()));
        // SAFETY: it is new, aligned, and stays where it is.
        unsafe {
            RawMutex::init(place.as_mut_ptr())?;
            Ok(place.assume_init_ref())
        }
    }

    #[test]
    fn it_is_held_by_one_thread_which_alone_can_release_it()
    -> Result<(), Box<dyn std::error::Error>> {
        let mutex = mutex()?;
        assert!(!mutex.is_held() && !mutex.release());
        mutex.acquire()?;
        assert!(mutex.is_mine() && mutex.is_held() && mutex.is_held_by_this_process());
        assert!(matches!(mutex.acquire(), Err(Error::HeldAlready)));
        assert!(!mutex.try_acquire());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                assert!(!mutex.is_mine() && mutex.is_held() && !mutex.release());
                assert!(!mutex.try_acquire());
                let soon = Instant::now() + Duration::from_millis(5);
                assert!(!mutex.acquire_until(Some(soon)).expect("not this thread's"));
            });
        });
        assert!(mutex.release() && !mutex.release());
        assert!(!mutex.is_held() && !mutex.died());
        Ok(())
    }

    #[test]
    fn the_end_of_its_holder_is_told_to_the_next_and_to_all_until_it_is_forgotten()
    -> Result<(), Box<dyn std::error::Error>> {
        let mutex = mutex()?;
        for take in [
            |mutex: &RawMutex| mutex.acquire(),
            |mutex: &RawMutex| mutex.try_acquire().then_some(()).ok_or(Error::HeldAlready),
            |mutex: &RawMutex| {
                let late = Instant::now() + Duration::from_secs(60);
                mutex.acquire_until(Some(late)).map(drop)
            },
        ] {
            std::thread::spawn(|| mutex.acquire())
                .join()
                .map_err(|_| "it panicked")??;
            take(mutex)?;
            assert!(mutex.died() && mutex.is_mine());
            assert!(mutex.release());
            mutex.acquire()?;
            assert!(mutex.died());
            mutex.forget_death();
            assert!(mutex.release() && !mutex.died());
        }
        Ok(())
    }

    #[test]
    fn to_ask_whether_it_is_held_makes_nobody_fail_who_tries()
    -> Result<(), Box<dyn std::error::Error>> {
        let (mutex, asks, done) = (mutex()?, AtomicBool::new(false), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    std::hint::black_box(mutex.is_held());
                    asks.store(true, Ordering::Relaxed);
                }
            });
            while !asks.load(Ordering::Relaxed) {
                std::thread::yield_now();
            }
            let had = (0..200_000)
                .filter(|_| mutex.try_acquire() && mutex.is_held() && mutex.release())
                .count();
            done.store(true, Ordering::Relaxed);
            assert_eq!(had, 200_000, "nobody else wants it");
        });
        Ok(())
    }

    #[test]
    fn a_thread_that_has_ended_does_not_hold_it() -> Result<(), Box<dyn std::error::Error>> {
        let mutex = mutex()?;
        std::thread::spawn(|| mutex.acquire().map(|()| assert!(mutex.is_held())))
            .join()
            .map_err(|_| "it panicked")??;
        assert!(!mutex.is_held());
        Ok(())
    }

    #[test]
    fn one_that_sleeps_is_woken_by_a_release_and_by_a_death()
    -> Result<(), Box<dyn std::error::Error>> {
        let (mutex, sleeps) = (mutex()?, AtomicBool::new(false));
        for dies in [false, true] {
            std::thread::scope(|scope| {
                let holder = scope.spawn(|| {
                    mutex.acquire().expect("it is free");
                    while !sleeps.swap(false, Ordering::SeqCst) {
                        std::thread::yield_now();
                    }
                    if !dies {
                        mutex.release();
                    }
                });
                while !mutex.is_held() {
                    std::thread::yield_now();
                }
                sleeps.store(true, Ordering::SeqCst);
                mutex.acquire().expect("it is another's");
                assert_eq!(mutex.died(), dies);
                mutex.release();
                holder.join().expect("it has nothing to panic about");
            });
        }
        Ok(())
    }
}
