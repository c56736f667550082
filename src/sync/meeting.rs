//! [`Meeting`]: who is at a barrier, who may come, and how the rounds ended.

use std::io;
use std::time::{Duration, Instant};

use super::futex::{left, left_until_look};
use super::life::{LOOK, Life};
use super::monitor::{Bell, Inside, Monitor};
use super::place::Shared;
use crate::error::{Error, Result};

/// How many processes can have a handle at once and be missed when they die.
const PROCESSES: usize = 256;

// What the numbers of the monitor are.
const PARTIES: usize = 0;
/// How many are here.
const COUNT: usize = 1;
/// How many rounds are over.
const ROUND: usize = 2;
/// How the last 64 ended, a bit each: those who wait may be woken when others are in later ones.
const MET: usize = 3;
const IS_BROKEN: usize = 4;
const LOOKED: usize = 5;
const FIRST: usize = 6;
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
}

// SAFETY: atomics and a system mutex for several processes, `repr(C)`.
unsafe impl Shared for Meeting {
    const KIND: &'static str = "sync::Barrier";

    unsafe fn init(place: *mut Self) -> io::Result<()> {
        // SAFETY: the caller's; for the rest zeros are right.
        unsafe { Monitor::init(&raw mut (*place).monitor) }
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
        inside.set(COUNT, place + 1);
        if place + 1 >= inside.get(PARTIES) {
            self.end_round(&mut inside, true);
            return Ok(place as usize);
        }
        loop {
            let rings = self.over.hear();
            drop(inside);
            self.over.sleep(rings, left_until_look(deadline));
            self.look();
            inside = self.monitor.enter();
            let over = inside.get(ROUND);
            if over != round {
                let has_met = over - round <= 64 && inside.get(MET) >> (round % 64) & 1 != 0;
                return match has_met {
                    true => Ok(place as usize),
                    false => Err(Error::BrokenBarrier),
                };
            }
            if left(deadline) == Some(Duration::ZERO) {
                self.shatter(&mut inside);
                return Err(Error::BrokenBarrier);
            }
        }
    }

    fn end_round(&self, inside: &mut Numbers<'_>, met: bool) {
        let round = inside.get(ROUND);
        let bit = 1 << (round % 64);
        let all = inside.get(MET) & !bit;
        inside.set(MET, if met { all | bit } else { all });
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
