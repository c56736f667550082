//! [`Monitor`]: numbers in shared memory, changed by one thread at a time, wholly or not at all.
//!
//! A process may be killed between any two instructions. What it had half done under the mutex is undone by whoever comes next: before a
//! number is changed, the old one is noted in the shared memory; when all is done the notes are thrown away.
//!
//! Who changes them leaves at once, and never waits inside. Those who have to wait do so outside, on a [`Bell`].

use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::futex;
use super::raw_mutex::RawMutex;

/// How many changes can be undone: more than any of ours makes at once.
const NOTES: usize = 16;

/// Between two stores, where a process may be killed: tests do so.
#[inline]
fn step() {
    #[cfg(test)]
    super::sudden_death::step();
}

/// An old number, and where it was.
#[repr(C)]
struct Note {
    place: AtomicU64,
    old: AtomicU64,
}

/// `N` numbers. See the [module](self).
#[repr(C)]
pub(super) struct Monitor<const N: usize> {
    mutex: RawMutex,
    noted: AtomicU64,
    notes: [Note; NOTES],
    numbers: [AtomicU64; N],
}

impl<const N: usize> Monitor<N> {
    /// Makes one in memory that is all zeros: all its numbers are 0.
    ///
    /// # Errors
    /// # Safety
    /// As [`RawMutex::init`]; and the memory is all zeros.
    pub(super) unsafe fn init(place: *mut Self) -> io::Result<()> {
        // SAFETY: the caller's.
        unsafe { RawMutex::init(&raw mut (*place).mutex) }
    }

    /// The only one in here until it is dropped.
    pub(super) fn enter(&self) -> Inside<'_, N> {
        if let Err(error) = self.mutex.acquire() {
            // Nothing can be right any more, and nobody is helped by waiting. The numbers can be read and written all the same.
            log::error!("what processes wait by: {error}");
        }
        let inside = Inside { monitor: self };
        if self.noted.load(Ordering::Relaxed) != 0 {
            inside.undo();
        }
        inside
    }
}

/// The right to change the numbers of a [`Monitor`]: what was changed is so for good when this is dropped.
pub(super) struct Inside<'a, const N: usize> {
    monitor: &'a Monitor<N>,
}

// All stores are `Release`, because a killed process has done a prefix of them as the compiler has ordered them: none may be moved before
// another.
impl<const N: usize> Inside<'_, N> {
    pub(super) fn get(&self, place: usize) -> u64 {
        self.monitor
            .numbers
            .get(place)
            .map_or(0, |number| number.load(Ordering::Relaxed))
    }

    pub(super) fn set(&mut self, place: usize, new: u64) {
        let Some(number) = self.monitor.numbers.get(place) else {
            return;
        };
        let mut noted = self.monitor.noted.load(Ordering::Relaxed);
        if noted >= NOTES as u64 {
            debug_assert!(false, "too many changes at once");
            self.commit();
            noted = 0;
        }
        step();
        let note = &self.monitor.notes[noted as usize];
        note.place.store(place as u64, Ordering::Release);
        note.old
            .store(number.load(Ordering::Relaxed), Ordering::Release);
        step();
        self.monitor.noted.store(noted + 1, Ordering::Release);
        step();
        number.store(new, Ordering::Release);
    }

    /// What was changed until now is so for good.
    pub(super) fn commit(&mut self) {
        step();
        self.monitor.noted.store(0, Ordering::Release);
    }

    #[cold]
    fn undo(&self) {
        let noted = self.monitor.noted.load(Ordering::Relaxed) as usize;
        for note in self.monitor.notes[..noted.min(NOTES)].iter().rev() {
            let place = note.place.load(Ordering::Relaxed) as usize;
            if let Some(number) = self.monitor.numbers.get(place) {
                number.store(note.old.load(Ordering::Relaxed), Ordering::Release);
            }
        }
        self.monitor.noted.store(0, Ordering::Release);
    }
}

impl<const N: usize> Drop for Inside<'_, N> {
    fn drop(&mut self) {
        self.commit();
        self.monitor.mutex.release();
    }
}

/// What those who wait for a change of a [`Monitor`]'s numbers sleep by.
///
/// Whoever is about to sleep says so inside the monitor ([`hear`](Self::hear)), and sleeps outside. Whoever rings it (inside too) makes no
/// system call when nobody has said so. If one of those who said so was killed, the next ring finds that nobody sleeps, and that is all.
#[repr(C)]
pub(super) struct Bell {
    /// Another number after each ring.
    rings: AtomicU32,
    /// Whether somebody may sleep.
    heard: AtomicU32,
}

impl Bell {
    /// Inside the monitor: from now on a ring ends the [`sleep`](Self::sleep) that begins with this number.
    pub(super) fn hear(&self) -> u32 {
        self.heard.store(1, Ordering::Relaxed);
        self.rings.load(Ordering::Relaxed)
    }

    /// Outside the monitor: sleeps until it rings, or `time` is over.
    pub(super) fn sleep(&self, rings: u32, time: std::time::Duration) {
        futex::sleep(&self.rings, rings, Some(time));
    }

    /// Inside the monitor: wakes so many.
    pub(super) fn ring(&self, count: usize) {
        if count == 0 || self.heard.load(Ordering::Relaxed) == 0 {
            return;
        }
        // Who has heard but does not sleep yet finds another number and comes back in.
        self.rings.fetch_add(1, Ordering::Relaxed);
        if futex::wake(&self.rings, count) < count {
            self.heard.store(0, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::MaybeUninit;

    fn monitor() -> io::Result<&'static Monitor<4>> {
        let place: &'static mut MaybeUninit<Monitor<4>> =
            Box::leak(Box::new(MaybeUninit::zeroed()));
        // SAFETY: it is new, all zeros, aligned, and stays where it is.
        unsafe {
            Monitor::init(place.as_mut_ptr())?;
            Ok(place.assume_init_ref())
        }
    }

    #[test]
    fn what_its_thread_had_half_done_when_it_ended_is_undone() -> io::Result<()> {
        let monitor = monitor()?;
        monitor.enter().set(0, 1);
        for changes in 0..4 {
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let mut inside = monitor.enter();
                    inside.set(3, 3);
                    inside.commit();
                    for change in 0..changes {
                        inside.set(0, 10 + change);
                        inside.set(change as usize, 20 + change);
                    }
                    // The end of the thread is for the mutex what a SIGKILL is.
                    std::mem::forget(inside);
                });
            });
            let inside = monitor.enter();
            let numbers = [0, 1, 2, 3].map(|place| inside.get(place));
            assert_eq!(numbers, [1, 0, 0, 3], "after {changes} changes");
        }
        Ok(())
    }

    #[test]
    fn places_that_are_not_there_are_neither_read_nor_written() -> io::Result<()> {
        let monitor = monitor()?;
        let mut inside = monitor.enter();
        inside.set(4, 1);
        assert_eq!(inside.get(4), 0);
        Ok(())
    }
}
