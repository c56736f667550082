//! Locks between processes: in both forms, under many processes, and with holders that are killed.

mod children;
mod shared_numbers;

use std::time::Duration;

use children::{DEADLINE, Outcome, in_time, kill, until, value};
use procession::sync::{Barrier, BoundedSemaphore, Condition, Event, Lock, RLock, Semaphore};
use procession::{Error, Process, Queue, SimpleQueue};
use serde::Serialize;
use serde::de::DeserializeOwned;
use shared_numbers::Numbers;

const SHORT: Duration = Duration::from_millis(5);

/// For the first form on even numbers, and for the second on odd ones.
#[procession::task]
fn count(lock: Lock, path: String, times: u64, number: u64) -> procession::Result<()> {
    let numbers = Numbers::open(path).map_err(|error| Error::system("the numbers", error))?;
    for _ in 0..times {
        if number.is_multiple_of(2) {
            let _held = lock.lock()?;
            numbers.add_one(0);
        } else {
            lock.acquire()?;
            numbers.add_one(0);
            lock.release()?;
        }
    }
    Ok(())
}

fn path(dir: &tempfile::TempDir) -> String {
    dir.path().join("numbers").display().to_string()
}

#[test]
fn a_million_increments_by_64_processes_under_one_lock_are_a_million() -> Outcome {
    in_time(|| {
        const PROCESSES: u64 = 64;
        const TIMES: u64 = 15_625;
        let dir = tempfile::tempdir()?;
        let lock = Lock::new()?;
        let processes = (0..PROCESSES)
            .map(|number| Process::spawn(count, (lock.clone(), path(&dir), TIMES, number)))
            .collect::<Result<Vec<_>, _>>()?;
        for process in &processes {
            value(process)?;
        }
        assert_eq!(Numbers::open(path(&dir))?.get(0), 1_000_000);
        assert!(!lock.locked() && !lock.holder_died());
        Ok(())
    })
}

/// Everything that the other one is told while the caller holds the lock.
#[procession::task]
fn try_what_is_held(lock: Lock) -> Vec<bool> {
    vec![
        lock.locked(),
        lock.try_lock().is_none(),
        !lock.try_acquire(),
        !lock.acquire_timeout(SHORT),
        lock.lock_timeout(SHORT).is_none(),
        matches!(lock.release(), Err(Error::NotHeld { .. })),
        lock.locked(),
    ]
}

#[test]
fn what_another_process_holds_is_not_had_and_not_released() -> Outcome {
    in_time(|| {
        let lock = Lock::new()?;
        let held = lock.lock()?;
        let found = value(&Process::spawn(try_what_is_held, (lock.clone(),))?)?;
        assert_eq!(found, vec![true; 7]);
        assert!(matches!(lock.lock(), Err(Error::HeldAlready)));
        assert!(!lock.try_acquire() && !lock.acquire_timeout(SHORT));
        drop(held);
        assert!(matches!(lock.release(), Err(Error::NotHeld { .. })));
        let found = value(&Process::spawn(try_what_is_held, (lock.clone(),))?)?;
        assert_eq!(found[..2], [false; 2]);
        Ok(())
    })
}

#[procession::task]
fn panics(lock: Lock) {
    let _held = lock.lock().expect("it is free");
    panic!("in the critical section");
}

#[test]
fn a_panic_releases_it() -> Outcome {
    in_time(|| {
        let lock = Lock::new()?;
        assert!(Process::spawn(panics, (lock.clone(),))?.join().is_err());
        assert!(!lock.locked());
        assert!(!lock.lock()?.holder_died());
        Ok(())
    })
}

#[procession::task]
fn hold(lock: Lock, rlock: RLock, say: SimpleQueue<bool>) {
    let _held = lock.lock().expect("it is free");
    let _once = rlock.lock().expect("it is free");
    let _twice = rlock.lock().expect("it is free");
    say.put(true).expect("somebody listens");
    std::thread::sleep(Duration::from_secs(600));
}

#[test]
fn the_death_of_a_holder_is_told_to_the_next_until_all_is_well_again() -> Outcome {
    in_time(|| {
        let (lock, rlock, says) = (Lock::new()?, RLock::new()?, SimpleQueue::new()?);
        let spawn = || {
            let holder = Process::spawn(hold, (lock.clone(), rlock.clone(), says.clone()))?;
            says.get()?;
            Ok::<_, procession::Error>(holder)
        };
        let holder = spawn()?;
        assert!(lock.try_lock().is_none() && rlock.try_lock().is_none());
        let waits = {
            let lock = lock.clone();
            std::thread::spawn(move || lock.lock().map(|held| held.holder_died()))
        };
        kill(&holder)?;
        let was_told = waits.join().map_err(|_| "it panicked")??;
        assert!(was_told);
        assert!(!lock.locked());
        let held = lock.lock_timeout(DEADLINE).ok_or("it is free")?;
        assert!(held.holder_died());
        held.mark_consistent();
        drop(held);
        assert!(!lock.lock()?.holder_died());

        let held = rlock.try_lock().ok_or("it is free")?;
        assert!(held.holder_died());
        held.mark_consistent();
        drop(held);
        assert!(!rlock.locked(), "its one acquire was released");
        assert!(!rlock.lock()?.holder_died());
        Ok(())
    })
}

/// Keeps two numbers the same, but for moments.
#[procession::task]
fn keep_equal(lock: Lock, path: String) -> procession::Result<()> {
    let numbers = Numbers::open(path).map_err(|error| Error::system("the numbers", error))?;
    loop {
        let held = lock.lock()?;
        if held.holder_died() {
            numbers.set(1, numbers.get(0));
            held.mark_consistent();
        }
        assert_eq!(numbers.get(0), numbers.get(1));
        numbers.add_one(0);
        numbers.add_one(1);
        drop(held);
        numbers.add(2, 1);
    }
}

#[test]
fn wherever_its_holders_are_killed_the_lock_goes_on_and_tells() -> Outcome {
    in_time(|| {
        let dir = tempfile::tempdir()?;
        let (lock, numbers) = (Lock::new()?, Numbers::open(path(&dir))?);
        let mut told = 0;
        for round in 0..30 {
            let pair = [
                Process::spawn(keep_equal, (lock.clone(), path(&dir)))?,
                Process::spawn(keep_equal, (lock.clone(), path(&dir)))?,
            ];
            let before = numbers.get(2);
            until("they work", || Ok(numbers.get(2) > before + 100 + round))?;
            for process in &pair {
                kill(process)?;
            }
            let held = lock.lock_timeout(DEADLINE).ok_or("it is left held")?;
            if held.holder_died() {
                told += 1;
                numbers.set(1, numbers.get(0));
                held.mark_consistent();
            }
            assert_eq!(numbers.get(0), numbers.get(1));
        }
        assert!(told > 0, "none was killed while it held the lock");
        Ok(())
    })
}

#[procession::task]
fn nest(lock: RLock) -> procession::Result<Vec<bool>> {
    let others = !lock.try_acquire() && lock.lock_timeout(SHORT).is_none();
    Ok(vec![others, lock.release().is_err(), lock.locked()])
}

#[test]
fn an_rlock_is_released_as_often_as_it_was_acquired() -> Outcome {
    in_time(|| {
        let lock = RLock::new()?;
        let others = || -> Outcome<Vec<bool>> { value(&Process::spawn(nest, (lock.clone(),))?) };
        let outer = lock.lock()?;
        lock.acquire()?;
        assert!(lock.try_acquire() && lock.acquire_timeout(SHORT) && lock.locked());
        for _ in 0..3 {
            assert_eq!(others()?, [true; 3]);
            lock.release()?;
        }
        assert_eq!(others()?, [true; 3]);
        drop(outer);
        assert!(!lock.locked() && lock.release().is_err());
        assert_eq!(others()?, [false; 3]);
        assert!(!lock.lock()?.holder_died());
        Ok(())
    })
}

#[procession::task]
fn lock_from(locks: Queue<Lock>) -> procession::Result<bool> {
    let (first, second) = (locks.get()?, locks.get()?);
    let _held = first.lock()?;
    Ok(second.locked() && matches!(second.lock(), Err(Error::HeldAlready)))
}

#[test]
fn a_handle_that_came_by_a_queue_is_the_same_lock_in_every_process() -> Outcome {
    in_time(|| {
        let (lock, queue) = (Lock::new()?, Queue::new()?);
        queue.put(lock.clone())?;
        queue.put(lock)?;
        assert!(value(&Process::spawn(lock_from, (queue,))?)?);
        Ok(())
    })
}

/// Whether a handle that was sent is good after all handles here were dropped, and whether it is if `unlink` was said before.
fn outlives<T: Serialize + DeserializeOwned + Clone>(
    object: T,
    unlink: fn(&T),
) -> Outcome<(bool, bool)> {
    let sent = rmp_serde::to_vec(&object)?;
    let is_good = || rmp_serde::from_slice::<T>(&sent);
    drop(object);
    let again = is_good();
    let without = again.is_ok();
    let again = again?;
    unlink(&again);
    let same = again.clone();
    drop(again);
    assert!(is_good().is_ok(), "somebody here has it");
    drop(same);
    Ok((without, is_good().is_ok()))
}

#[test]
fn what_was_sent_is_kept_until_unlink() -> Outcome {
    in_time(|| {
        let outcomes = [
            outlives(Lock::new()?, Lock::unlink)?,
            outlives(RLock::new()?, RLock::unlink)?,
            outlives(Semaphore::new(1)?, Semaphore::unlink)?,
            outlives(BoundedSemaphore::new(1)?, BoundedSemaphore::unlink)?,
            outlives(Condition::new()?, Condition::unlink)?,
            outlives(Event::new()?, Event::unlink)?,
            outlives(Barrier::new(1)?, Barrier::unlink)?,
        ];
        assert_eq!(outcomes, [(true, false); 7]);
        Ok(())
    })
}

#[test]
fn a_lock_that_is_dropped_while_it_is_held_does_no_harm() -> Outcome {
    in_time(|| {
        for _ in 0..100 {
            let (dropped, kept) = (Lock::new()?, Lock::new()?);
            dropped.acquire()?;
            let held = kept.lock()?;
            drop(dropped);
            drop(held);
            let forgotten = Lock::new()?;
            std::mem::forget(forgotten.lock()?);
        }
        // The kernel goes through what this thread holds when it ends.
        Ok(())
    })
}
