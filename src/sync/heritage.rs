//! [`Mutex`]: a [`RawMutex`] that nobody inherits while the process of its dead holder may still go on.
//!
//! The kernel gives up the mutexes of a process that is killed thread by thread. So when the one that held it has ended, other threads of the
//! process may run for some moments more, and change what it guards: by references that were made under the lock. And where only the
//! thread has ended (it has forgotten a guard), they may do so for as long as the process lives.
//!
//! So whoever holds it has written down which process it is. Whoever has the mutex and finds that nobody has crossed that out gives it back
//! until the process has ended. What happens when it does not end, [`Heir`] says.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::life::Life;
use super::millis;
use super::raw_mutex::RawMutex;
use crate::error::{Error, Result};

/// How long the process of a holder that has died may take to end.
const DYING: Duration = Duration::from_secs(1);

/// How often those who wait for its end look.
const PIECE: Duration = Duration::from_millis(1);

/// Nobody holds it.
const FREE: u64 = 0;
/// Somebody does, or has died with it. All higher numbers: has died with it, and its process may end until then, by [`millis`].
const HELD: u64 = 1;

/// What is done where a thread has ended with the mutex, and its process lives on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heir {
    /// The next one has it: what it guards is not reached by references that it has given out.
    AnyTime,
    /// Nobody has it before the process has ended.
    AfterItsProcess,
}

/// A mutex in shared memory. See the [module](self).
#[repr(C)]
pub(crate) struct Mutex {
    raw: RawMutex,
    state: AtomicU64,
    /// Of who holds it: [`Life`].
    pid: AtomicU64,
    started: AtomicU64,
}

/// Whether one that has the raw mutex may have this one.
enum Claim {
    Granted,
    NotYet,
    Never(u64),
}

impl Mutex {
    /// Makes one in memory that is all zeros.
    ///
    /// # Errors
    /// # Safety
    /// As [`RawMutex::init`]; and the memory is all zeros.
    pub(crate) unsafe fn init(place: *mut Self) -> io::Result<()> {
        // SAFETY: the caller's; for the numbers zeros are right.
        unsafe { RawMutex::init(&raw mut (*place).raw) }
    }

    /// Waits for it until then; whether it is held.
    ///
    /// # Errors
    /// [`Error::HeldAlready`]; [`Error::LeftLocked`], only for [`Heir::AfterItsProcess`]; the system's, if its memory was overwritten.
    #[inline]
    pub(crate) fn acquire_until(&self, deadline: Option<Instant>, heir: Heir) -> Result<bool> {
        loop {
            if !self.raw.acquire_until(deadline)? {
                return Ok(false);
            }
            match self.claim(heir) {
                Claim::Granted => return Ok(true),
                Claim::Never(pid) => return Err(self.refuse(pid)),
                Claim::NotYet => {
                    self.raw.release();
                    let left = super::futex::left(deadline).unwrap_or(PIECE);
                    if left.is_zero() {
                        return Ok(false);
                    }
                    std::thread::sleep(left.min(PIECE));
                }
            }
        }
    }

    /// Holds it if nobody does now, this thread included; whether it does.
    ///
    /// # Errors
    /// [`Error::LeftLocked`], only for [`Heir::AfterItsProcess`].
    #[inline]
    pub(crate) fn try_acquire(&self, heir: Heir) -> Result<bool> {
        if !self.raw.try_acquire() {
            return Ok(false);
        }
        match self.claim(heir) {
            Claim::Granted => Ok(true),
            Claim::Never(pid) => Err(self.refuse(pid)),
            Claim::NotYet => {
                self.raw.release();
                Ok(false)
            }
        }
    }

    #[cold]
    fn refuse(&self, pid: u64) -> Error {
        self.raw.release();
        Error::LeftLocked { pid }
    }

    #[inline]
    fn claim(&self, heir: Heir) -> Claim {
        let state = self.state.load(Ordering::Relaxed);
        if state != FREE {
            match self.inherit(state, heir) {
                Claim::Granted => {}
                other => return other,
            }
        }
        // In this order, which a process that is killed keeps: who finds that it is held finds by whom. Half of it, over what the one before has
        // left, is nobody who lives.
        let here = Life::here();
        if self.pid.load(Ordering::Relaxed) != here.pid
            || self.started.load(Ordering::Relaxed) != here.started
        {
            self.pid.store(here.pid, Ordering::Release);
            self.started.store(here.started, Ordering::Release);
        }
        self.state.store(HELD, Ordering::Release);
        Claim::Granted
    }

    /// Whoever held it before has not said that it does so no longer.
    #[cold]
    fn inherit(&self, state: u64, heir: Heir) -> Claim {
        // It may have said before the kernel did that all is well.
        self.raw.tell_of_death();
        let holder = Life {
            pid: self.pid.load(Ordering::Relaxed),
            started: self.started.load(Ordering::Relaxed),
        };
        if holder.has_ended() {
            return Claim::Granted;
        }
        let now = millis();
        // That a thread has ended in this process, which runs, is clear at once.
        let is_over = holder == Life::here() || state != HELD && state <= now;
        match (is_over, heir) {
            (true, Heir::AnyTime) => Claim::Granted,
            (true, Heir::AfterItsProcess) => Claim::Never(holder.pid),
            (false, _) => {
                if state == HELD {
                    let until = now + DYING.as_millis() as u64;
                    self.state.store(until.max(HELD + 1), Ordering::Release);
                }
                Claim::NotYet
            }
        }
    }

    /// Lets others have it; `false` when this thread does not hold it.
    #[inline]
    pub(crate) fn release(&self) -> bool {
        if !self.raw.is_mine() {
            return false;
        }
        // Before, because afterwards it is another's.
        self.state.store(FREE, Ordering::Release);
        self.raw.release_mine()
    }

    /// As [`RawMutex::is_mine`].
    #[inline]
    pub(crate) fn is_mine(&self) -> bool {
        self.raw.is_mine()
    }

    /// As [`RawMutex::is_held`].
    pub(crate) fn is_held(&self) -> bool {
        self.raw.is_held()
    }

    /// As [`RawMutex::is_held_by_this_process`].
    pub(crate) fn is_held_by_this_process(&self) -> bool {
        self.raw.is_held_by_this_process()
    }

    /// As [`RawMutex::died`].
    pub(crate) fn died(&self) -> bool {
        self.raw.died()
    }

    /// As [`RawMutex::forget_death`].
    pub(crate) fn forget_death(&self) {
        self.raw.forget_death();
    }
}

/// Whether a lock is had, for those who ask for that only. That this thread holds it already is no more than that it is not had; what else goes
/// wrong is told in the log.
pub(crate) fn is_had(result: Result<bool>) -> bool {
    result.unwrap_or_else(|error| {
        if !matches!(error, Error::HeldAlready) {
            log::error!("a lock between processes is not had: {error}");
        }
        false
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::MaybeUninit;

    fn mutex() -> io::Result<&'static Mutex> {
        let place: &'static mut MaybeUninit<Mutex> = Box::leak(Box::new(MaybeUninit::zeroed()));
        // SAFETY: it is new, all zeros, aligned, and stays where it is.
        unsafe {
            Mutex::init(place.as_mut_ptr())?;
            Ok(place.assume_init_ref())
        }
    }

    /// As if a thread of that process had it when it ended.
    fn left_by(mutex: &'static Mutex, life: Life) -> Result<(), Box<dyn std::error::Error>> {
        std::thread::spawn(move || {
            assert!(
                mutex
                    .acquire_until(None, Heir::AnyTime)
                    .expect("it is free")
            );
            mutex.pid.store(life.pid, Ordering::Relaxed);
            mutex.started.store(life.started, Ordering::Relaxed);
        })
        .join()
        .map_err(|_| "it panicked".into())
    }

    #[test]
    fn nobody_has_it_before_its_dead_holders_process_has_ended()
    -> Result<(), Box<dyn std::error::Error>> {
        let mut child = std::process::Command::new("sleep").arg("60").spawn()?;
        let life = Life {
            pid: child.id().into(),
            started: crate::shared::started(child.id())?,
        };
        for heir in [Heir::AnyTime, Heir::AfterItsProcess] {
            let mutex = mutex()?;
            left_by(mutex, life)?;
            assert!(!mutex.try_acquire(heir)?, "it may be dying");
            let begun = Instant::now();
            let had = mutex.acquire_until(None, heir);
            assert!(
                begun.elapsed() >= DYING.mul_f32(0.5),
                "{:?}",
                begun.elapsed()
            );
            match heir {
                Heir::AnyTime => assert!(had? && mutex.died() && mutex.release()),
                Heir::AfterItsProcess => {
                    assert!(matches!(had, Err(Error::LeftLocked { pid }) if pid == life.pid));
                    assert!(mutex.try_acquire(heir).is_err(), "at once, and again");
                }
            }
        }
        let mutex = mutex()?;
        left_by(mutex, life)?;
        assert!(!mutex.try_acquire(Heir::AfterItsProcess)?);
        child.kill()?;
        child.wait()?;
        assert!(mutex.try_acquire(Heir::AfterItsProcess)? && mutex.died());
        assert!(mutex.release());
        mutex.forget_death();
        assert!(mutex.try_acquire(Heir::AfterItsProcess)? && !mutex.died());
        Ok(())
    }

    #[test]
    fn in_its_own_process_it_is_clear_at_once() -> Result<(), Box<dyn std::error::Error>> {
        let mutex = mutex()?;
        left_by(mutex, Life::here())?;
        assert!(mutex.try_acquire(Heir::AfterItsProcess).is_err());
        assert!(mutex.acquire_until(None, Heir::AfterItsProcess).is_err());
        assert!(mutex.try_acquire(Heir::AnyTime)? && mutex.died());
        Ok(())
    }
}
