//! Semaphores between processes: how many at a time, signals, and what is given back when a process is killed.

mod children;
mod shared_numbers;

use std::time::Duration;

use children::{DEADLINE, Outcome, in_time, kill, until, value};
use procession::sync::{BoundedSemaphore, Semaphore};
use procession::{Error, Process, SimpleQueue};
use shared_numbers::Numbers;

const SHORT: Duration = Duration::from_millis(5);

fn path(dir: &tempfile::TempDir) -> String {
    dir.path().join("numbers").display().to_string()
}

/// Counts those who are inside at a time (0), the most there were (1), and all visits (2).
#[procession::task]
fn visit(semaphore: Semaphore, path: String, times: u64, by_hand: bool) -> procession::Result<()> {
    let numbers = Numbers::open(path).map_err(|error| Error::system("the numbers", error))?;
    let inside = || {
        let now = numbers.add(0, 1);
        if now > numbers.get(1) {
            numbers.set(1, now);
        }
        numbers.add(2, 1);
        std::thread::yield_now();
        numbers.add(0, u64::MAX);
    };
    for _ in 0..times {
        if by_hand {
            semaphore.acquire();
            inside();
            semaphore.release();
        } else {
            let _unit = semaphore.lock();
            inside();
        }
    }
    Ok(())
}

#[test]
fn never_more_are_inside_than_there_are_units() -> Outcome {
    in_time(|| {
        let dir = tempfile::tempdir()?;
        let semaphore = Semaphore::new(3)?;
        let processes = (0..8)
            .map(|number| {
                let by_hand = number % 2 == 0;
                Process::spawn(visit, (semaphore.clone(), path(&dir), 5_000, by_hand))
            })
            .collect::<Result<Vec<_>, _>>()?;
        for process in &processes {
            value(process)?;
        }
        let numbers = Numbers::open(path(&dir))?;
        assert_eq!((numbers.get(0), numbers.get(2)), (0, 40_000));
        assert!((1..=3).contains(&numbers.get(1)), "{}", numbers.get(1));
        assert_eq!(semaphore.value(), 3);
        Ok(())
    })
}

#[procession::task]
fn take_all(semaphore: BoundedSemaphore, hands: usize, guards: usize, say: SimpleQueue<usize>) {
    for _ in 0..hands {
        semaphore.acquire();
    }
    let _units: Vec<_> = (0..guards).map(|_| semaphore.lock()).collect();
    say.put(semaphore.value()).expect("somebody listens");
    std::thread::sleep(Duration::from_secs(600));
}

#[test]
fn what_a_killed_process_had_is_given_back_to_those_who_wait() -> Outcome {
    in_time(|| {
        let (semaphore, says) = (BoundedSemaphore::new(5)?, SimpleQueue::new()?);
        let args = (semaphore.clone(), 2, 3, says.clone());
        let holder = Process::spawn(take_all, args)?;
        assert_eq!(says.get()?, 0);
        assert!(!semaphore.try_acquire() && !semaphore.acquire_timeout(Duration::from_millis(250)));
        let waits = {
            let semaphore = semaphore.clone();
            std::thread::spawn(move || semaphore.acquire_timeout(DEADLINE))
        };
        kill(&holder)?;
        assert!(waits.join().map_err(|_| "it panicked")?);
        let units: Vec<_> = (0..4)
            .map(|_| semaphore.lock_timeout(DEADLINE).ok_or("four are left"))
            .collect::<Result<_, _>>()?;
        assert!(semaphore.try_lock().is_none() && semaphore.lock_timeout(SHORT).is_none());
        drop(units);
        semaphore.release()?;
        assert_eq!(semaphore.value(), 5);
        assert!(matches!(
            semaphore.release(),
            Err(Error::ReleasedTooOften { limit: 5 })
        ));
        Ok(())
    })
}

#[test]
fn who_only_tries_has_what_a_killed_process_had_too() -> Outcome {
    in_time(|| {
        let (semaphore, says) = (BoundedSemaphore::new(1)?, SimpleQueue::new()?);
        let holder = Process::spawn(take_all, (semaphore.clone(), 0, 1, says.clone()))?;
        says.get()?;
        kill(&holder)?;
        until("it is given back", || Ok(semaphore.try_acquire()))
    })
}

/// Waits for so many signals, says so, and stays.
#[procession::task]
fn consume(signals: Semaphore, times: usize, own: usize, say: SimpleQueue<bool>) {
    for _ in 0..times {
        signals.acquire();
    }
    let _units: Vec<_> = (0..own).map(|_| signals.lock()).collect();
    say.put(true).expect("somebody listens");
    std::thread::sleep(Duration::from_secs(600));
}

#[test]
fn signals_that_a_killed_process_had_taken_are_not_given_again() -> Outcome {
    in_time(|| {
        let (signals, says) = (Semaphore::new(0)?, SimpleQueue::new()?);
        let consumer = Process::spawn(consume, (signals.clone(), 100, 1, says.clone()))?;
        for _ in 0..50 {
            signals.release();
        }
        signals.release_many(51);
        says.get()?;
        assert_eq!(signals.value(), 0);
        kill(&consumer)?;
        // The one of its guard is, and no other.
        assert!(signals.acquire_timeout(DEADLINE));
        assert!(!signals.acquire_timeout(Duration::from_millis(250)));
        Ok(())
    })
}

/// Takes units in all ways and gives them back, for ever.
#[procession::task]
fn come_and_go(semaphore: BoundedSemaphore, path: String) -> procession::Result<()> {
    let numbers = Numbers::open(path).map_err(|error| Error::system("the numbers", error))?;
    loop {
        semaphore.acquire();
        let unit = semaphore.try_lock();
        semaphore.release()?;
        drop(unit);
        if semaphore.acquire_timeout(SHORT) {
            semaphore.release()?;
        }
        numbers.add(0, 1);
    }
}

#[test]
fn wherever_processes_are_killed_there_are_as_many_units_as_before() -> Outcome {
    in_time(|| {
        let dir = tempfile::tempdir()?;
        let (semaphore, numbers) = (BoundedSemaphore::new(3)?, Numbers::open(path(&dir))?);
        for round in 0..20 {
            let processes = (0..3)
                .map(|_| Process::spawn(come_and_go, (semaphore.clone(), path(&dir))))
                .collect::<Result<Vec<_>, _>>()?;
            let before = numbers.get(0);
            until("they work", || Ok(numbers.get(0) > before + 100 + round))?;
            for process in &processes {
                kill(process)?;
            }
            let units: Vec<_> = (0..3)
                .map(|_| semaphore.lock_timeout(DEADLINE).ok_or("one is lost"))
                .collect::<Result<_, _>>()?;
            assert_eq!(semaphore.value(), 0, "one too many in round {round}");
            drop(units);
            assert_eq!(semaphore.value(), 3);
        }
        Ok(())
    })
}

#[test]
fn a_unit_that_is_released_wakes_one_that_waits_for_long() -> Outcome {
    in_time(|| {
        let (semaphore, says) = (Semaphore::new(0)?, SimpleQueue::new()?);
        let waiters = (0..3)
            .map(|_| Process::spawn(consume, (semaphore.clone(), 1, 0, says.clone())))
            .collect::<Result<Vec<_>, _>>()?;
        for _ in 0..3 {
            semaphore.release();
            assert!(says.get()?);
        }
        for waiter in &waiters {
            kill(waiter)?;
        }
        semaphore.release_many(usize::MAX);
        assert_eq!(semaphore.value(), usize::MAX);
        Ok(())
    })
}
