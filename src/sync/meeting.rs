//! [`Meeting`]: who is at a barrier, who may come, and how the rounds ended.
//!
//! Whoever waits holds the mutex of a seat, so that the last one that comes sees at once whether all the others still live: nobody goes on from
//! a round of which one was killed.

use std::io;
use std::time::{Duration, Instant};

use super::futex::{left, left_until_look};
use super::life::{LOOK, Life};
use super::monitor::{Bell, Inside, Monitor};
use super::place::Shared;
use super::raw_mutex::RawMutex;
use crate::error::{Error, Result};

/// How many processes can have a handle at once and be missed when they die.
const PROCESSES: usize = 256;

/// How many can wait at once and be missed when they die.
const SEATS: usize = 256;
/// How many rounds that were broken are known: those who waited in one may be woken when others are in later ones.
const BREAKS: usize = 64;

// What the numbers of the monitor are.
const PARTIES: usize = 0;
/// How many are here.
const COUNT: usize = 1;
/// How many rounds are over.
const ROUND: usize = 2;
/// How many of them were broken.
const BROKEN_ROUNDS: usize = 3;
const IS_BROKEN: usize = 4;
const LOOKED: usize = 5;
/// Which rounds were broken, the last of them: by their number from 1.
const FIRST_BREAK: usize = 6;
/// In which round each seat was taken last, from 1.
const FIRST_SEAT: usize = FIRST_BREAK + BREAKS;
const FIRST: usize = FIRST_SEAT + SEATS;
// Of each process:
const PID: usize = 0;
const STARTED: usize = 1;
/// How many handles it has.
const HANDLES: usize = 2;
const PER_PROCESS: usize = 3;
const NUMBERS: usize = FIRST + PROCESSES * PER_PROCESS;

type Numbers<'a> = Inside<'a, NUMBERS>;

/// What a barrier's processes share. See the [module](self).
#[repr(C)]
pub(super) struct Meeting {
    monitor: Monitor<NUMBERS>,
    over: Bell,
    /// Each is held by one that waits.
    seats: [RawMutex; SEATS],
}

// SAFETY: atomics and a system mutex for several processes, `repr(C)`.
unsafe impl Shared for Meeting {
    const KIND: &'static str = "sync::Barrier";

    unsafe fn init(place: *mut Self) -> io::Result<()> {
        // SAFETY: the caller's; all are inside, and for the rest zeros are right.
        unsafe {
            Monitor::init(&raw mut (*place).monitor)?;
            for index in 0..SEATS {
                RawMutex::init(&raw mut (*place).seats[index])?;
            }
        }
        Ok(())
    }

    fn is_held_by_this_process(&self) -> bool {
        self.seats.iter().any(RawMutex::is_held_by_this_process)
    }
}

impl Meeting {
    /// Before anybody else knows it: for so many.
    pub(super) fn begin(&self, parties: usize) {
        let mut inside = self.monitor.enter();
        inside.set(PARTIES, parties.max(1) as u64);
    }

    /// This process has one handle more, and is missed when it dies with it.
    pub(super) fn join(&self) {
        let mut inside = self.monitor.enter();
        if let Some(at) = place_of_this_process(&mut inside, true) {
            let handles = inside.get(at + HANDLES);
            inside.set(at + HANDLES, handles + 1);
        }
    }

    /// This process has one handle less.
    pub(super) fn leave(&self) {
        let mut inside = self.monitor.enter();
        if let Some(at) = place_of_this_process(&mut inside, false) {
            let handles = inside.get(at + HANDLES);
            inside.set(at + HANDLES, handles.saturating_sub(1));
        }
    }

    pub(super) fn wait(&self, deadline: Option<Instant>) -> Result<usize> {
        let mut inside = self.monitor.enter();
        if inside.get(IS_BROKEN) != 0 {
            return Err(Error::BrokenBarrier);
        }
        let (place, round) = (inside.get(COUNT), inside.get(ROUND));
        if place + 1 >= inside.get(PARTIES) {
            return match self.is_one_dead(&inside) {
                false => {
                    self.end_round(&mut inside, true);
                    Ok(place as usize)
                }
                true => {
                    self.shatter(&mut inside);
                    log::warn!("a process was killed while it waited at a barrier: it is broken");
                    Err(Error::BrokenBarrier)
                }
            };
        }
        inside.set(COUNT, place + 1);
        let seat = self.sit_down(&mut inside, place as usize);
        let result = loop {
            let rings = self.over.hear();
            drop(inside);
            self.over.sleep(rings, left_until_look(deadline));
            self.look();
            inside = self.monitor.enter();
            if inside.get(ROUND) != round {
                break match has_met(&inside, round) {
                    true => Ok(place as usize),
                    false => Err(Error::BrokenBarrier),
                };
            }
            if left(deadline) == Some(Duration::ZERO) {
                self.shatter(&mut inside);
                break Err(Error::BrokenBarrier);
            }
        };
        drop(inside);
        if let Some(seat) = seat {
            seat.release();
        }
        result
    }

    /// A seat for this round, if one is free: to be released by this thread when the round is over.
    fn sit_down(&self, inside: &mut Numbers<'_>, place: usize) -> Option<&RawMutex> {
        let round = inside.get(ROUND) + 1;
        // Mostly the first is free. Those of the round before may still have to wake up.
        let (at, seat) = (0..SEATS)
            .map(|index| (place + index) % SEATS)
            .map(|index| (FIRST_SEAT + index, &self.seats[index]))
            // One in which somebody was killed in this round says so until the round is over.
            .find(|(at, seat)| inside.get(*at) != round && seat.try_acquire())?;
        inside.set(at, round);
        Some(seat)
    }

    /// Whether one that has come in this round was killed.
    fn is_one_dead(&self, inside: &Numbers<'_>) -> bool {
        let round = inside.get(ROUND) + 1;
        let mut seats = self.seats.iter().enumerate();
        seats.any(|(index, seat)| inside.get(FIRST_SEAT + index) == round && !seat.is_held())
    }

    fn end_round(&self, inside: &mut Numbers<'_>, met: bool) {
        let round = inside.get(ROUND);
        if !met {
            let breaks = inside.get(BROKEN_ROUNDS);
            inside.set(FIRST_BREAK + (breaks % BREAKS as u64) as usize, round + 1);
            inside.set(BROKEN_ROUNDS, breaks + 1);
        }
        inside.set(ROUND, round + 1);
        inside.set(COUNT, 0);
        // For good: those who are woken find it so.
        inside.commit();
        self.over.ring(usize::MAX);
    }

    fn shatter(&self, inside: &mut Numbers<'_>) {
        inside.set(IS_BROKEN, 1);
        self.end_round(inside, false);
    }

    pub(super) fn abort(&self) {
        self.shatter(&mut self.monitor.enter());
    }

    pub(super) fn reset(&self) {
        let dead = self.dead();
        let mut inside = self.monitor.enter();
        for (at, life) in dead {
            // Whoever comes in their stead is a new one.
            if life_at(&inside, at) == life {
                inside.set(at + HANDLES, 0);
            }
            inside.commit();
        }
        inside.set(IS_BROKEN, 0);
        self.end_round(&mut inside, false);
    }

    pub(super) fn parties(&self) -> usize {
        self.monitor.enter().get(PARTIES) as usize
    }

    pub(super) fn count(&self) -> usize {
        self.monitor.enter().get(COUNT) as usize
    }

    pub(super) fn is_broken(&self) -> bool {
        self.monitor.enter().get(IS_BROKEN) != 0
    }

    /// Breaks it if one that has a handle has died, unless somebody has looked a moment ago.
    fn look(&self) {
        {
            let mut inside = self.monitor.enter();
            let now = super::millis();
            let looked = inside.get(LOOKED);
            // Nobody is missed where nobody waits.
            if now.wrapping_sub(looked) < LOOK.as_millis() as u64 || inside.get(COUNT) == 0 {
                return;
            }
            inside.set(LOOKED, now);
        }
        let dead = self.dead();
        if let Some((at, life)) = dead.first() {
            let mut inside = self.monitor.enter();
            let is_still = life_at(&inside, *at) == *life && inside.get(at + HANDLES) > 0;
            if is_still && inside.get(IS_BROKEN) == 0 {
                self.shatter(&mut inside);
                drop(inside);
                log::warn!(
                    "process {} has ended with a barrier: it is broken",
                    life.pid
                );
            }
        }
    }

    /// The processes that have died with a handle.
    fn dead(&self) -> Vec<(usize, Life)> {
        let members: Vec<_> = {
            let inside = self.monitor.enter();
            places()
                .filter(|at| inside.get(at + HANDLES) > 0)
                .map(|at| (at, life_at(&inside, at)))
                .filter(|(_, life)| *life != Life::here())
                .collect()
        };
        // Outside, as asking takes its time.
        members
            .into_iter()
            .filter(|(_, life)| life.has_ended())
            .collect()
    }
}

/// Whether all were there in a round that is over. Where so many were broken since that nobody knows, it counts as broken.
fn has_met(inside: &Numbers<'_>, round: u64) -> bool {
    let breaks = || (0..BREAKS).map(|index| inside.get(FIRST_BREAK + index));
    // Unused ones are 0.
    let is_known = breaks().any(|broken| broken <= round);
    is_known && breaks().all(|broken| broken != round + 1)
}

fn places() -> impl Iterator<Item = usize> {
    (FIRST..NUMBERS).step_by(PER_PROCESS)
}

fn life_at(inside: &Numbers<'_>, at: usize) -> Life {
    Life {
        pid: inside.get(at + PID),
        started: inside.get(at + STARTED),
    }
}

/// Where this process's numbers are; if `make` and there is room, from now on.
fn place_of_this_process(inside: &mut Numbers<'_>, make: bool) -> Option<usize> {
    let here = Life::here();
    let mine = places().find(|at| life_at(inside, *at) == here);
    if mine.is_some() || !make {
        return mine;
    }
    let at = places().find(|at| inside.get(at + HANDLES) == 0)?;
    inside.set(at + PID, here.pid);
    inside.set(at + STARTED, here.started);
    Some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::sync::place::Place;

    fn meeting(parties: usize) -> Result<Place<Meeting>> {
        let meeting = Place::<Meeting>::new()?;
        meeting.begin(parties);
        Ok(meeting)
    }

    #[test]
    fn how_a_round_ended_is_known_however_many_came_after_it() -> Result<()> {
        let meeting = meeting(1)?;
        assert_eq!(meeting.wait(None)?, 0);
        meeting.abort();
        meeting.reset();
        for _ in 0..1000 {
            meeting.wait(None)?;
        }
        let inside = meeting.monitor.enter();
        let met = [0, 1, 2, 3, 500, 1002].map(|round| has_met(&inside, round));
        assert_eq!(met, [true, false, false, true, true, true]);
        Ok(())
    }

    #[test]
    fn of_so_many_broken_rounds_that_not_all_are_known_none_counts_as_met() -> Result<()> {
        let meeting = meeting(1)?;
        for _ in 0..BREAKS + 2 {
            meeting.reset();
        }
        meeting.wait(None)?;
        let inside = meeting.monitor.enter();
        let last = inside.get(ROUND) - 1;
        let met = [0, 1, 2, 3, last - 1, last].map(|round| has_met(&inside, round));
        assert_eq!(met, [false, false, false, false, false, true]);
        Ok(())
    }

    #[test]
    fn more_than_have_a_seat_meet_too() -> Result<()> {
        let meeting = meeting(SEATS + 10)?;
        for _ in 0..3 {
            let mut places: Vec<_> = std::thread::scope(|scope| {
                let waiting: Vec<_> = (0..SEATS + 10)
                    .map(|_| {
                        scope.spawn(|| meeting.wait(Some(Instant::now() + Duration::from_secs(60))))
                    })
                    .collect();
                let places = waiting.into_iter().map(|one| one.join().expect("no panic"));
                places.collect::<Result<_>>()
            })?;
            places.sort_unstable();
            assert!(places.into_iter().eq(0..SEATS + 10));
        }
        Ok(())
    }
}
