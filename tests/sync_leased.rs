//! Locks and semaphores between hosts: excluding others, and what is left of them when a holder or the host is gone.

mod children;
mod shared_numbers;

use std::time::Duration;

use children::{DEADLINE, Outcome, in_time, kill, next, until, value, within};
use procession::sync::{LeasedLock, LeasedSemaphore, Lock, Semaphore};
use procession::{Error, Listener, Process, Queue};
use rustix::process::{Pid, Signal, kill_process};
use shared_numbers::Numbers;

const SHORT: Duration = Duration::from_millis(20);
const HERE: &str = "tcp://127.0.0.1:*";

fn send(process: &Process<impl serde::de::DeserializeOwned + 'static>, signal: Signal) -> Outcome {
    let pid = Pid::from_raw(process.pid() as i32).ok_or("no process")?;
    Ok(kill_process(pid, signal)?)
}

/// For the first form on even numbers, and for the second on odd ones.
#[procession::task]
fn count(endpoint: String, path: String, times: u64, number: u64) -> procession::Result<Vec<u64>> {
    let lock = Lock::connect(endpoint)?;
    let numbers = Numbers::open(path).map_err(|error| Error::system("the numbers", error))?;
    let mut fences = Vec::new();
    for _ in 0..times {
        if number.is_multiple_of(2) {
            let held = lock.lock()?;
            numbers.add_one(0);
            fences.push(held.fence());
        } else {
            fences.push(lock.acquire()?);
            numbers.add_one(0);
            lock.release()?;
        }
    }
    Ok(fences)
}

#[test]
fn increments_by_several_processes_under_one_lock_are_exact_and_no_fencing_number_comes_twice()
-> Outcome {
    in_time(|| {
        const TIMES: u64 = 300;
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("numbers").display().to_string();
        let sockets = [
            HERE.to_owned(),
            format!("ipc://{}", dir.path().join("lock").display()),
        ];
        for (done, endpoint) in sockets.iter().enumerate() {
            let lock = Lock::bind(endpoint)?;
            let processes = (0..6)
                .map(|number| {
                    let endpoint = lock.endpoint().to_owned();
                    Process::spawn(count, (endpoint, path.clone(), TIMES, number))
                })
                .collect::<Result<Vec<_>, _>>()?;
            let mut fences = Vec::new();
            for process in &processes {
                let mine = value(process)?;
                assert!(mine.is_sorted_by(|one, next| one < next));
                fences.extend(mine);
            }
            fences.sort_unstable();
            fences.dedup();
            assert_eq!(fences.len() as u64, 6 * TIMES);
            let all = (done as u64 + 1) * 6 * TIMES;
            assert_eq!(Numbers::open(path.clone())?.get(0), all);
            assert!(
                !lock.locked()? && !lock.holder_died()?,
                "all have ended, and released before"
            );
        }
        Ok(())
    })
}

/// Everything that another one is told while the caller holds the lock.
#[procession::task]
fn try_what_is_held(lock: LeasedLock) -> procession::Result<Vec<bool>> {
    Ok(vec![
        lock.locked()?,
        lock.try_lock()?.is_none(),
        lock.try_acquire()?.is_none(),
        lock.acquire_timeout(SHORT)?.is_none(),
        lock.lock_timeout(SHORT)?.is_none(),
        matches!(lock.release(), Err(Error::NotHeld { .. })),
        lock.locked()?,
    ])
}

#[test]
fn what_another_process_holds_is_not_had_and_not_released() -> Outcome {
    in_time(|| {
        let lock = Lock::bind(HERE)?;
        let held = lock.lock()?;
        let found = value(&Process::spawn(try_what_is_held, (lock.clone(),))?)?;
        assert_eq!(found, vec![true; 7]);
        assert!(matches!(lock.lock(), Err(Error::HeldAlready)));
        assert!(matches!(lock.try_acquire(), Err(Error::HeldAlready)));
        assert!(held.is_held());
        held.release()?;
        assert!(!lock.locked()?);
        let first = lock.acquire()?;
        lock.release()?;
        assert!(matches!(lock.release(), Err(Error::NotHeld { .. })));
        assert!(lock.acquire_timeout(SHORT)? > Some(first));
        lock.release()?;
        Ok(())
    })
}

#[test]
fn threads_of_one_process_exclude_each_other_and_who_gave_up_is_passed_over() -> Outcome {
    in_time(|| {
        let lock = Lock::bind(HERE)?;
        let held = lock.lock()?;
        std::thread::scope(|scope| -> Outcome {
            let impatient = scope.spawn(|| lock.lock_timeout(SHORT).map(|held| held.is_none()));
            assert!(impatient.join().map_err(|_| "it panicked")??);
            let patient = scope.spawn(|| lock.lock().map(|held| held.fence()));
            let fence = held.fence();
            drop(held);
            assert!(patient.join().map_err(|_| "it panicked")?? > fence);
            Ok(())
        })
    })
}

/// Acquires, says so, and stays.
#[procession::task]
fn hold(lock: LeasedLock, said: Queue<u64>) -> procession::Result<()> {
    said.put(lock.acquire()?)?;
    said.flush()?;
    loop {
        std::thread::park();
    }
}

#[test]
fn the_lock_of_a_holder_that_is_killed_goes_to_the_next_who_is_told() -> Outcome {
    in_time(|| {
        let lock = Lock::bind(HERE)?;
        let said = Queue::new()?;
        let holder = Process::spawn(hold, (lock.clone(), said.clone()))?;
        let first = next(&said)?;
        let waiter = Process::spawn(hold, (lock.clone(), said.clone()))?;
        kill(&holder)?;
        let second = next(&said)?;
        kill(&waiter)?;
        let held = lock.lock()?;
        assert!(first < second && second < held.fence() && held.holder_died());
        drop(held);
        let held = lock.lock()?;
        assert!(held.holder_died(), "nobody has put it in order");
        held.mark_consistent()?;
        drop(held);
        assert!(!lock.lock()?.holder_died());
        Ok(())
    })
}

/// Holds it while it is stopped; what it is told afterwards.
#[procession::task]
fn hold_too_long(lock: LeasedLock, said: Queue<u64>) -> procession::Result<Vec<bool>> {
    let held = lock.lock()?;
    said.put(held.fence())?;
    said.flush()?;
    while held.is_held() {
        std::thread::sleep(SHORT);
    }
    let lost = matches!(held.release(), Err(Error::LeaseLost { .. }));
    // By then it is released again.
    let again = lock.lock()?;
    Ok(vec![lost, again.is_held(), again.holder_died()])
}

#[test]
fn a_holder_that_is_stopped_loses_its_lease_and_finds_out() -> Outcome {
    in_time(|| {
        let lock = Lock::bind(HERE)?;
        let said = Queue::new()?;
        let holder = Process::spawn(hold_too_long, (lock.clone(), said.clone()))?;
        let fence = next(&said)?;
        assert!(lock.lock_timeout(SHORT)?.is_none());
        send(&holder, Signal::STOP)?;
        let held = lock.lock()?;
        assert!(held.fence() > fence && held.holder_died());
        held.mark_consistent()?;
        send(&holder, Signal::CONT)?;
        drop(held);
        assert_eq!(value(&holder)?, [true, true, false]);
        Ok(())
    })
}

/// Hosts a lock there.
#[procession::task]
fn keep(endpoint: String, said: Queue<u64>) -> procession::Result<()> {
    let lock = Lock::bind(endpoint)?;
    said.put(lock.acquire()?)?;
    lock.release()?;
    said.flush()?;
    loop {
        std::thread::park();
    }
}

#[test]
fn the_end_of_the_host_is_an_error_for_those_who_hold_and_wait_and_a_new_host_goes_on() -> Outcome {
    in_time(|| {
        let dir = tempfile::tempdir()?;
        let endpoint = format!("ipc://{}", dir.path().join("lock").display());
        let said = Queue::new()?;
        let host = Process::spawn(keep, (endpoint.clone(), said.clone()))?;
        let lock = Lock::connect(&endpoint)?;
        next(&said)?;
        let held = lock.lock()?;
        std::thread::scope(|scope| -> Outcome {
            let waiter = scope.spawn(|| lock.lock().map(drop));
            kill(&host)?;
            let error = waiter.join().map_err(|_| "it panicked")?.err();
            let text = error.map(|error| error.to_string()).unwrap_or_default();
            // If it had not asked yet, it has heard nobody.
            let why = ["its host has ended", "heard nobody"];
            assert!(
                text.contains(&endpoint) && why.iter().any(|why| text.contains(why)),
                "{text}"
            );
            Ok(())
        })?;
        assert!(!held.is_held());
        let before = held.fence();
        assert!(matches!(held.release(), Err(Error::LeaseLost { .. })));
        let host = Process::spawn(keep, (endpoint.clone(), said.clone()))?;
        let of_host = next(&said)?;
        let held = lock.lock()?;
        assert!(before < of_host && of_host < held.fence());
        drop(held);
        kill(&host)
    })
}

#[test]
fn a_lock_ends_with_its_last_handle_in_the_process_that_made_it() -> Outcome {
    in_time(|| {
        let dir = tempfile::tempdir()?;
        let endpoint = format!("ipc://{}", dir.path().join("lock").display());
        let lock = Lock::bind(&endpoint)?;
        let said = Queue::new()?;
        let holder = Process::spawn(hold, (lock.clone(), said.clone()))?;
        next(&said)?;
        drop(lock);
        // Its endpoint is free again.
        let again = within(DEADLINE, move || Lock::bind(&endpoint))??;
        assert!(again.try_lock()?.is_some());
        kill(&holder)
    })
}

/// Acquires so many units and ends, by hand or by guards that it forgets.
#[procession::task]
fn take_and_end(units: LeasedSemaphore, times: usize, by_hand: bool) -> procession::Result<()> {
    for _ in 0..times {
        if by_hand {
            units.acquire()?;
        } else {
            std::mem::forget(units.lock()?);
        }
    }
    Ok(())
}

/// Makes units of nothing.
#[procession::task]
fn give(units: LeasedSemaphore, times: usize) -> procession::Result<()> {
    (0..times).try_for_each(|_| units.release())
}

#[test]
fn units_of_processes_that_have_ended_are_there_again_and_those_made_stay() -> Outcome {
    in_time(|| {
        let units = Semaphore::bind(HERE, 2)?;
        for by_hand in [true, false] {
            for _ in 0..3 {
                value(&Process::spawn(take_and_end, (units.clone(), 2, by_hand))?)?;
            }
        }
        until("all are back", || Ok(units.value()? == 2))?;
        value(&Process::spawn(give, (units.clone(), 3))?)?;
        assert_eq!(units.value()?, 5);
        for _ in 0..5 {
            assert!(units.try_acquire()?.is_some());
        }
        assert!(units.try_lock()?.is_none());
        assert!(units.acquire_timeout(SHORT)?.is_none());
        let waiter = Process::spawn(take_and_end, (units.clone(), 1, false))?;
        units.release()?;
        value(&waiter)?;
        for _ in 0..4 {
            units.release()?;
        }
        until("all are back", || Ok(units.value()? == 5))?;
        Ok(())
    })
}

#[test]
fn what_is_wrong_with_an_endpoint_is_said() -> Outcome {
    in_time(|| {
        let text = |error: Option<Error>| error.map(|error| error.to_string()).unwrap_or_default();
        let lock = Lock::bind(HERE)?;
        let error = text(Semaphore::connect(lock.endpoint()).err());
        assert!(
            error.contains("a Lock is there; connect with Lock::connect"),
            "{error}"
        );
        let error = text(Lock::bind(lock.endpoint()).err());
        assert!(error.contains(lock.endpoint()), "{error}");
        for error in [
            Lock::bind("tcp://*:*").err(),
            Lock::connect("tcp://192.0.2.1:5555").err(),
        ] {
            let error = text(error);
            assert!(error.contains("insecure"), "{error}");
        }
        let other = Listener::<u32, u32>::bind(HERE)?;
        let endpoint = other.endpoint().to_string();
        let error = std::thread::scope(|scope| {
            scope.spawn(|| other.accept().and_then(|connection| connection.send(&7)));
            text(Lock::connect(&endpoint).err())
        });
        assert!(error.contains("what listens there is no lock"), "{error}");
        Ok(())
    })
}
