//! [`Units`]: a semaphore's units, and which process has how many of them.
//!
//! A process that has died is found by those who wait (and by those who try in vain), a tenth of a second after they began, and what it had
//! is given back. What it *had* is clear for units of guards. A unit that was acquired by hand may be meant to be released by another
//! process, as a signal is, and then nobody has it. So such units count as the process's for as long as nobody has released a unit
//! that its process had not acquired; from then on they count as nobody's.
//!
//! A bounded semaphore is never a signal: what is released there was acquired by somebody. A unit that a process releases for another is
//! taken off one that has some by hand, so that the units that are left and those that processes have are never more than there are.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::futex::{left, left_until_look};
use super::life::{LOOK, Life};
use super::monitor::{Bell, Inside, Monitor};
use super::place::Shared;

/// How many processes can have units at once and be known.
const PROCESSES: usize = 256;

// What the numbers of the monitor are.
const LEFT: usize = 0;
const LIMIT: usize = 1;
const IS_SIGNAL: usize = 2;
const LOOKED: usize = 3;
/// How many units were acquired by hand by processes that there was no place for.
const BY_STRANGERS: usize = 4;
const FIRST: usize = 5;
// Of each process:
const PID: usize = 0;
const STARTED: usize = 1;
const BY_GUARD: usize = 2;
const BY_HAND: usize = 3;
const PER_PROCESS: usize = 4;
const NUMBERS: usize = FIRST + PROCESSES * PER_PROCESS;

type Numbers<'a> = Inside<'a, NUMBERS>;

/// How a unit is acquired.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    Guard,
    Hand,
}

impl By {
    const fn number(self) -> usize {
        match self {
            Self::Guard => BY_GUARD,
            Self::Hand => BY_HAND,
        }
    }
}

/// The units of a semaphore. See the [module](self).
#[repr(C)]
pub(super) struct Units<const BOUNDED: bool> {
    monitor: Monitor<NUMBERS>,
    more: Bell,
}

// SAFETY: atomics and a system mutex for several processes, `repr(C)`.
unsafe impl<const BOUNDED: bool> Shared for Units<BOUNDED> {
    const KIND: &'static str = match BOUNDED {
        true => "sync::BoundedSemaphore",
        false => "sync::Semaphore",
    };

    unsafe fn init(place: *mut Self) -> io::Result<()> {
        // SAFETY: the caller's; for the rest zeros are right.
        unsafe { Monitor::init(&raw mut (*place).monitor) }
    }
}

impl<const BOUNDED: bool> Units<BOUNDED> {
    /// Before anybody else knows it: so many units.
    pub(super) fn begin(&self, units: usize) {
        let mut inside = self.monitor.enter();
        inside.set(LEFT, units as u64);
        let limit = if BOUNDED { units as u64 } else { u64::MAX };
        inside.set(LIMIT, limit);
    }

    pub(super) fn left(&self) -> usize {
        let left = self.monitor.enter().get(LEFT);
        usize::try_from(left).unwrap_or(usize::MAX)
    }

    pub(super) fn limit(&self) -> usize {
        let limit = self.monitor.enter().get(LIMIT);
        usize::try_from(limit).unwrap_or(usize::MAX)
    }

    /// Takes a unit; waits for one until then.
    pub(super) fn take(&self, by: By, deadline: Option<Instant>) -> bool {
        loop {
            let mut inside = self.monitor.enter();
            if take_now(&mut inside, by) {
                return true;
            }
            if left(deadline).is_some_and(|left| left.is_zero()) {
                return false;
            }
            let rings = self.more.hear();
            drop(inside);
            self.more.sleep(rings, left_until_look(deadline));
            self.look();
        }
    }

    /// Takes a unit if there is one.
    pub(super) fn try_take(&self, by: By) -> bool {
        take_now(&mut self.monitor.enter(), by)
            || self.look() && take_now(&mut self.monitor.enter(), by)
    }

    /// Gives back a unit that was taken for a guard. Where all are there already, because somebody has released it by hand, its process has
    /// it no longer all the same.
    fn give_back_of_guard(&self) {
        let mut inside = self.monitor.enter();
        if let Some(at) = place_of_this_process(&mut inside, false) {
            let had = inside.get(at + BY_GUARD);
            inside.set(at + BY_GUARD, had.saturating_sub(1));
        }
        let left = inside.get(LEFT);
        let sum = left.saturating_add(1).min(inside.get(LIMIT));
        inside.set(LEFT, sum);
        self.more.ring(1);
        if sum == left {
            log::debug!("a semaphore was released more often than it was acquired");
        }
    }

    /// Gives so many more, by hand; `false` and nothing where there would be too many then.
    pub(super) fn give(&self, units: usize) -> bool {
        let mut inside = self.monitor.enter();
        let (left, limit) = (inside.get(LEFT), inside.get(LIMIT));
        let is_possible = left
            .checked_add(units as u64)
            .is_some_and(|sum| sum <= limit && usize::try_from(sum).is_ok());
        if !is_possible {
            return false;
        }
        let mut units_left = units as u64;
        if inside.get(IS_SIGNAL) == 0 {
            let mine = place_of_this_process(&mut inside, false).map(|at| at + BY_HAND);
            for at in mine.into_iter().chain([BY_STRANGERS]) {
                units_left -= hand_back(&mut inside, at, units_left);
            }
            if BOUNDED && units_left > 0 {
                for at in places() {
                    units_left -= hand_back(&mut inside, at + BY_HAND, units_left);
                    // Each for good: they may be more than can be undone. One that is killed now has given back some of them.
                    inside.commit();
                }
            } else if units_left > 0 {
                inside.set(IS_SIGNAL, 1);
            }
        }
        let left = inside.get(LEFT);
        inside.set(LEFT, left.saturating_add(units_left));
        self.more.ring(units);
        true
    }

    /// As many as there can be.
    pub(super) fn fill(&self) {
        let mut inside = self.monitor.enter();
        let all = inside.get(LIMIT).min(usize::MAX as u64);
        inside.set(LEFT, all);
        self.more.ring(usize::MAX);
    }

    /// Gives back what processes had that have died, if nobody has looked a moment ago; whether that may have been something.
    fn look(&self) -> bool {
        let holders = {
            let mut inside = self.monitor.enter();
            let now = super::millis();
            let looked = inside.get(LOOKED);
            if now.wrapping_sub(looked) < LOOK.as_millis() as u64 {
                return false;
            }
            inside.set(LOOKED, now);
            holders(&inside)
        };
        // Outside, as asking takes its time.
        let dead: Vec<_> = holders
            .into_iter()
            .filter(|(_, life)| life.has_ended())
            .collect();
        for (at, life) in &dead {
            self.bury(*at, *life);
        }
        !dead.is_empty()
    }

    fn bury(&self, at: usize, life: Life) {
        let mut inside = self.monitor.enter();
        if life_at(&inside, at) != life {
            return;
        }
        let by_hand = match inside.get(IS_SIGNAL) {
            0 => inside.get(at + BY_HAND),
            _ => 0,
        };
        let units = inside.get(at + BY_GUARD).saturating_add(by_hand);
        for number in 0..PER_PROCESS {
            inside.set(at + number, 0);
        }
        let sum = inside.get(LEFT).saturating_add(units);
        let limit = inside.get(LIMIT);
        inside.set(LEFT, sum.min(limit));
        self.more.ring(usize::try_from(units).unwrap_or(usize::MAX));
        drop(inside);
        if units > 0 {
            log::warn!(
                "process {} has ended with {units} units of a semaphore: they are given back",
                life.pid
            );
        }
    }
}

/// The units of either semaphore, for a guard.
pub(super) trait GiveBack: Send + Sync {
    /// Gives back a unit of a guard.
    fn give_back(&self);
}

impl<const BOUNDED: bool> GiveBack for Units<BOUNDED> {
    fn give_back(&self) {
        self.give_back_of_guard();
    }
}

fn take_now(inside: &mut Numbers<'_>, by: By) -> bool {
    let Some(left) = inside.get(LEFT).checked_sub(1) else {
        return false;
    };
    inside.set(LEFT, left);
    if by == By::Guard || inside.get(IS_SIGNAL) == 0 {
        let at = match place_of_this_process(inside, true) {
            Some(at) => Some(at + by.number()),
            None => (by == By::Hand).then_some(BY_STRANGERS),
        };
        if let Some(at) = at {
            let had = inside.get(at);
            inside.set(at, had + 1);
        }
    }
    true
}

/// Of the units that are known by that number at most so many are there again; how many it was.
fn hand_back(inside: &mut Numbers<'_>, at: usize, most: u64) -> u64 {
    let had = inside.get(at);
    let units = had.min(most);
    if units > 0 {
        let left = inside.get(LEFT);
        inside.set(at, had - units);
        inside.set(LEFT, left.saturating_add(units));
    }
    units
}

fn life_at(inside: &Numbers<'_>, at: usize) -> Life {
    Life {
        pid: inside.get(at + PID),
        started: inside.get(at + STARTED),
    }
}

fn has_none(inside: &Numbers<'_>, at: usize) -> bool {
    inside.get(at + BY_GUARD) == 0 && inside.get(at + BY_HAND) == 0
}

fn places() -> impl Iterator<Item = usize> {
    (FIRST..NUMBERS).step_by(PER_PROCESS)
}

/// The other processes that have units.
fn holders(inside: &Numbers<'_>) -> Vec<(usize, Life)> {
    places()
        .filter(|at| !has_none(inside, *at))
        .map(|at| (at, life_at(inside, at)))
        .filter(|(_, life)| *life != Life::here())
        .collect()
}

/// Where this process's numbers are; if `make` and there is room, from now on.
fn place_of_this_process(inside: &mut Numbers<'_>, make: bool) -> Option<usize> {
    /// Where they were in the semaphore that was used last: mostly it is that one again, or a process's first.
    static LAST: AtomicUsize = AtomicUsize::new(FIRST);
    let here = Life::here();
    let last = LAST.load(Ordering::Relaxed);
    if life_at(inside, last) == here {
        return Some(last);
    }
    let mine = places().find(|at| life_at(inside, *at) == here);
    let at = match mine {
        Some(at) => at,
        None if make => {
            let at = places().find(|at| has_none(inside, *at))?;
            inside.set(at + PID, here.pid);
            inside.set(at + STARTED, here.started);
            at
        }
        None => return None,
    };
    LAST.store(at, Ordering::Relaxed);
    Some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::sync::place::Place;

    fn units<const BOUNDED: bool>(units: usize) -> crate::Result<Place<Units<BOUNDED>>> {
        let place = Place::<Units<BOUNDED>>::new()?;
        place.begin(units);
        Ok(place)
    }

    /// As if a process that has ended had so many.
    fn left_by_a_dead_one<const BOUNDED: bool>(units: &Units<BOUNDED>, guards: u64, hands: u64) {
        let mut inside = units.monitor.enter();
        let at = places()
            .find(|at| has_none(&inside, *at) && life_at(&inside, *at) != Life::here())
            .expect("there is room");
        inside.set(at + PID, u64::from(u32::MAX >> 1));
        inside.set(at + STARTED, 1);
        inside.set(at + BY_GUARD, guards);
        inside.set(at + BY_HAND, hands);
        let left = inside.get(LEFT);
        inside.set(LEFT, left - guards - hands);
    }

    fn bury_all<const BOUNDED: bool>(units: &Units<BOUNDED>) {
        units.monitor.enter().set(LOOKED, 0);
        units.look();
    }

    fn had<const BOUNDED: bool>(units: &Units<BOUNDED>, by: By) -> u64 {
        let inside = units.monitor.enter();
        places().map(|at| inside.get(at + by.number())).sum()
    }

    #[test]
    fn a_guard_gives_up_its_unit_even_where_all_are_there_already() -> crate::Result<()> {
        let units = units::<true>(1)?;
        assert!(units.try_take(By::Guard));
        assert!(units.give(1), "by hand, in its stead");
        assert!(!units.give(1), "one is all");
        units.give_back();
        assert_eq!((units.left(), had(&units, By::Guard)), (1, 0));
        Ok(())
    }

    #[test]
    fn a_release_too_many_does_not_take_from_a_bounded_one_what_the_dead_had() -> crate::Result<()>
    {
        let units = units::<true>(6)?;
        left_by_a_dead_one(&units, 1, 2);
        assert!(units.give(1), "that one had two by hand");
        assert_eq!((units.left(), had(&units, By::Hand)), (4, 1));
        bury_all(&units);
        assert_eq!(
            (units.left(), had(&units, By::Hand), had(&units, By::Guard)),
            (6, 0, 0)
        );
        Ok(())
    }

    #[test]
    fn many_units_of_many_processes_can_be_released_at_once() -> crate::Result<()> {
        let units = units::<true>(100)?;
        for _ in 0..40 {
            left_by_a_dead_one(&units, 1, 1);
        }
        assert!(units.give(50), "forty by hand, and ten of guards");
        assert_eq!((units.left(), had(&units, By::Hand)), (70, 0));
        bury_all(&units);
        assert_eq!(units.left(), 100, "and no more");
        Ok(())
    }

    #[test]
    fn units_beyond_the_processes_that_are_known_make_no_signal_of_it() -> crate::Result<()> {
        let units = units::<false>(1000)?;
        for _ in 0..PROCESSES {
            left_by_a_dead_one(&units, 1, 1);
        }
        assert!(
            units.try_take(By::Hand),
            "by one that there is no place for"
        );
        assert!(units.give(1));
        assert_eq!(units.monitor.enter().get(IS_SIGNAL), 0);
        assert!(units.give(1), "which nobody had");
        assert_eq!(units.monitor.enter().get(IS_SIGNAL), 1);
        Ok(())
    }
}
