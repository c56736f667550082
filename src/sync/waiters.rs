//! [`Waiters`]: those who wait for a condition's notify, in the order in which they came.
//!
//! Each has a place, and holds the place's mutex while it has it: so it is seen at once, and by whoever looks, that a waiter was killed, and
//! a notify chooses one that lives. A place is kept until its waiter has the condition's lock again: if it is killed between the
//! notify and that, those who still wait find it when they next look, and one of them is notified in its stead.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::futex::{self, left, left_until_look};
use super::life::LOOK;
use super::monitor::{Inside, Monitor};
use super::place::Shared;
use super::raw_mutex::RawMutex;

/// How many can wait at once.
pub(super) const LIMIT: usize = 256;

// What the numbers of the monitor are.
const NEXT_TICKET: usize = 0;
/// How many places are in use.
const USED: usize = 1;
const LOOKED: usize = 2;
const FIRST: usize = 3;
// Of each place:
const STATE: usize = 0;
/// Of one that waits: its number, by order of coming. Of one that is notified: the number of who comes next then.
const TICKET: usize = 1;
const PER_PLACE: usize = 2;
const NUMBERS: usize = FIRST + LIMIT * PER_PLACE;

const FREE: u64 = 0;
const WAITS: u64 = 1;
const IS_NOTIFIED: u64 = 2;

type Numbers<'a> = Inside<'a, NUMBERS>;

/// What of a place is outside the monitor.
#[repr(C)]
struct Bed {
    /// Held by its waiter.
    alive: RawMutex,
    /// Becomes 1 with a notify. Only for sleeping: whether there was one is in the monitor.
    call: AtomicU32,
}

/// Those who wait. See the [module](self).
#[repr(C)]
pub(super) struct Waiters {
    monitor: Monitor<NUMBERS>,
    beds: [Bed; LIMIT],
}

// SAFETY: atomics and system mutexes for several processes, `repr(C)`.
unsafe impl Shared for Waiters {
    const KIND: &'static str = "sync::Condition";

    unsafe fn init(place: *mut Self) -> io::Result<()> {
        // SAFETY: the caller's; all are inside, and for the rest zeros are right.
        unsafe {
            Monitor::init(&raw mut (*place).monitor)?;
            for index in 0..LIMIT {
                RawMutex::init(&raw mut (*place).beds[index].alive)?;
            }
        }
        Ok(())
    }
}

const fn state(place: usize) -> usize {
    FIRST + place * PER_PLACE + STATE
}

const fn ticket(place: usize) -> usize {
    FIRST + place * PER_PLACE + TICKET
}

/// One that waits. To be [left](Self::leave) by the thread that has made it.
pub(super) struct Waiter<'a> {
    all: &'a Waiters,
    place: usize,
}

impl Waiters {
    /// A place for this thread, behind all others; `None` when there is none.
    pub(super) fn join(&self) -> Option<Waiter<'_>> {
        let mut inside = self.monitor.enter();
        let place = (0..LIMIT).find(|place| match inside.get(state(*place)) {
            FREE => self.beds[*place].alive.try_acquire(),
            WAITS => self.is_dead(*place) && self.beds[*place].alive.try_acquire(),
            // If it has died, another is to be notified.
            _ => false,
        })?;
        let number = inside.get(NEXT_TICKET);
        if inside.get(state(place)) == FREE {
            let used = inside.get(USED);
            inside.set(USED, used + 1);
        }
        inside.set(NEXT_TICKET, number + 1);
        inside.set(ticket(place), number);
        inside.set(state(place), WAITS);
        self.beds[place].call.store(0, Ordering::Relaxed);
        Some(Waiter { all: self, place })
    }

    /// Whether whoever has this place was killed, or its thread has ended.
    fn is_dead(&self, place: usize) -> bool {
        !self.beds[place].alive.is_held()
    }

    /// How many wait, or have not got the lock again.
    pub(super) fn count(&self) -> usize {
        self.monitor.enter().get(USED) as usize
    }

    /// Notifies those `count` that have waited longest.
    pub(super) fn notify(&self, count: usize) {
        let mut inside = self.monitor.enter();
        if inside.get(USED) == 0 {
            return;
        }
        let next = inside.get(NEXT_TICKET);
        self.notify_before(&mut inside, next, count);
    }

    /// Only those whose ticket is lower than that. What was changed before and is not committed is so for good together with the first
    /// notify, or, where there is nobody to be notified, with the return.
    fn notify_before(&self, inside: &mut Numbers<'_>, end: u64, mut count: usize) {
        let mut waiting: Vec<_> = (0..LIMIT)
            .filter(|place| inside.get(state(*place)) == WAITS)
            .map(|place| (inside.get(ticket(place)), place))
            .filter(|(number, _)| *number < end)
            .collect();
        waiting.sort_unstable();
        for (_, place) in &waiting {
            if count == 0 {
                break;
            }
            // Nothing is said of these for now: that would be for good before a notify is.
            if self.is_dead(*place) {
                continue;
            }
            inside.set(state(*place), IS_NOTIFIED);
            // Whose stead it could be taken in.
            inside.set(ticket(*place), end);
            count -= 1;
            // One by one, each for good: those who are called find it so.
            inside.commit();
            let call = &self.beds[*place].call;
            call.store(1, Ordering::Relaxed);
            futex::wake(call, 1);
        }
        inside.commit();
        for (_, place) in waiting {
            if inside.get(state(place)) == WAITS && self.is_dead(place) {
                free(inside, place);
                inside.commit();
            }
        }
    }

    /// Has others notified in the place of those that were notified and have died, if nobody has looked a moment ago.
    fn look(&self) {
        let mut inside = self.monitor.enter();
        let now = super::millis();
        let looked = inside.get(LOOKED);
        if now.wrapping_sub(looked) < LOOK.as_millis() as u64 {
            return;
        }
        inside.set(LOOKED, now);
        inside.commit();
        for place in 0..LIMIT {
            if inside.get(state(place)) == IS_NOTIFIED && self.is_dead(place) {
                // Nobody who came after the notify.
                let end = inside.get(ticket(place));
                // The one is for good when the other is.
                free(&mut inside, place);
                self.notify_before(&mut inside, end, 1);
            }
        }
    }
}

fn free(inside: &mut Numbers<'_>, place: usize) {
    inside.set(state(place), FREE);
    let used = inside.get(USED);
    inside.set(USED, used.saturating_sub(1));
}

impl Waiter<'_> {
    /// Waits for a notify until then; whether there was one.
    pub(super) fn wait(&self, deadline: Option<Instant>) -> bool {
        let call = &self.all.beds[self.place].call;
        loop {
            let is_over = left(deadline) == Some(Duration::ZERO);
            {
                let mut inside = self.all.monitor.enter();
                if inside.get(state(self.place)) == IS_NOTIFIED {
                    return true;
                }
                if is_over {
                    // From now on nobody chooses it.
                    free(&mut inside, self.place);
                    return false;
                }
                // One that was killed in the middle of its notify may have called.
                call.store(0, Ordering::Relaxed);
            }
            futex::sleep(call, 0, Some(left_until_look(deadline)));
            if call.load(Ordering::Relaxed) == 0 {
                self.all.look();
            }
        }
    }

    /// Gives the place up.
    pub(super) fn leave(self) {
        let mut inside = self.all.monitor.enter();
        if inside.get(state(self.place)) != FREE {
            free(&mut inside, self.place);
        }
        inside.commit();
        self.all.beds[self.place].alive.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    use crate::sync::place::Place;
    use crate::sync::sudden_death::child_comes_to_its_end;

    fn look(all: &Waiters) {
        all.monitor.enter().set(LOOKED, 0);
        all.look();
    }

    #[test]
    fn a_notify_is_handed_on_once_wherever_who_hands_it_on_is_killed() -> crate::Result<()> {
        for steps in 0.. {
            let all = Place::<Waiters>::new()?;
            let (come, go) = (Barrier::new(4), Barrier::new(4));
            // The first is notified. All three end before they have the lock again.
            let [first, second] = std::thread::scope(|scope| {
                let three = [(); 3].map(|()| {
                    scope.spawn(|| {
                        all.join().expect("there is a place");
                        come.wait();
                        go.wait();
                    })
                });
                come.wait();
                let those_after = [(); 2].map(|()| all.join().expect("there is a place"));
                all.notify(1);
                go.wait();
                // The scope alone would wait for what they do, and not for their ends.
                for one in three {
                    one.join().expect("it does not panic");
                }
                those_after
            });
            let notified = (0..LIMIT)
                .find(|place| all.monitor.enter().get(state(*place)) == IS_NOTIFIED)
                .expect("one was notified");
            let is_done = child_comes_to_its_end(steps, || look(&all));
            look(&all);
            {
                let inside = all.monitor.enter();
                let states = [&first, &second].map(|waiter| inside.get(state(waiter.place)));
                assert_eq!(states, [IS_NOTIFIED, WAITS], "after {steps} steps");
                assert_ne!(inside.get(state(notified)), IS_NOTIFIED);
            }
            first.leave();
            second.leave();
            if is_done {
                assert!(steps > 10, "it dies in the middle, too");
                assert_eq!(all.count(), 0);
                return Ok(());
            }
        }
        Ok(())
    }
}
