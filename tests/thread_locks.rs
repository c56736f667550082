//! What threads wait by: locks in both forms, conditions, semaphores, events and barriers.

mod deadline;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use deadline::deadline;
use procession::thread::{
    Barrier, BoundedSemaphore, Condition, Event, Lock, Queue, RLock, Semaphore, Thread,
};
use procession::{Error, Result};

/// Far more than anything here takes.
const DEADLINE: Duration = Duration::from_secs(240);
const SHORT: Duration = Duration::from_millis(5);

fn is_not_held<T: std::fmt::Debug>(result: Result<T>) -> bool {
    matches!(result, Err(Error::NotHeld { .. }))
}

/// Waits until it is so. For what no event tells: that another thread waits.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = std::time::Instant::now() + DEADLINE;
    while !is_so() {
        assert!(std::time::Instant::now() < end, "{what}");
        std::thread::yield_now();
    }
}

/// Adds in two steps, so that what two threads do at the same time is lost.
fn add_one(counter: &AtomicU64) {
    let value = counter.load(Ordering::Relaxed);
    std::hint::spin_loop();
    counter.store(value + 1, Ordering::Relaxed);
}

#[test]
fn a_counter_is_exact_under_a_lock_in_both_forms() -> Result<()> {
    deadline();
    const TIMES: u64 = 20_000;
    let (lock, rlock, counter) = (Lock::new(), RLock::new(), Arc::new(AtomicU64::new(0)));
    for reentrant in [false, true] {
        counter.store(0, Ordering::Relaxed);
        let threads: Vec<_> = (0..8)
            .map(|number| {
                let (lock, rlock, counter) = (lock.clone(), rlock.clone(), counter.clone());
                let body = move || {
                    for _ in 0..TIMES {
                        match (reentrant, number % 2) {
                            (false, 0) => {
                                let _held = lock.lock()?;
                                add_one(&counter);
                            }
                            (false, _) => {
                                lock.acquire()?;
                                add_one(&counter);
                                lock.release()?;
                            }
                            (true, 0) => {
                                let _outer = rlock.lock()?;
                                let _inner = rlock.lock()?;
                                add_one(&counter);
                            }
                            (true, _) => {
                                rlock.acquire()?;
                                add_one(&counter);
                                rlock.release()?;
                            }
                        }
                    }
                    Ok::<_, Error>(())
                };
                Thread::spawn(body, ())
            })
            .collect::<Result<_>>()?;
        for thread in threads {
            thread.join_once()??;
        }
        assert_eq!(counter.load(Ordering::Relaxed), 8 * TIMES);
    }
    assert!(!lock.locked() && !rlock.locked());
    Ok(())
}

#[test]
fn a_guard_is_released_by_a_panic_and_the_next_one_has_the_lock() -> Result<()> {
    deadline();
    let (lock, rlock, semaphore) = (Lock::new(), RLock::new(), Semaphore::new(1));
    let thread = {
        let (lock, rlock, semaphore) = (lock.clone(), rlock.clone(), semaphore.clone());
        let body = move || {
            let _lock = lock.lock().expect("free");
            let _once = rlock.lock().expect("free");
            let _twice = rlock.lock().expect("mine");
            let _unit = semaphore.lock();
            panic!("in the middle");
        };
        Thread::spawn(body, ())?
    };
    assert!(thread.join().is_err());
    assert!(lock.lock_timeout(DEADLINE).is_some());
    assert!(rlock.lock_timeout(DEADLINE).is_some());
    assert!(semaphore.lock_timeout(DEADLINE).is_some());
    assert_eq!(semaphore.value(), 1);
    Ok(())
}

#[test]
fn a_lock_is_released_by_its_holder_only() -> Result<()> {
    deadline();
    let (lock, rlock) = (Lock::new(), RLock::new());
    assert!(is_not_held(lock.release()));
    assert!(is_not_held(rlock.release()));
    lock.acquire()?;
    rlock.acquire()?;
    let other = {
        let (lock, rlock) = (lock.clone(), rlock.clone());
        Thread::spawn(
            move || (is_not_held(lock.release()), is_not_held(rlock.release())),
            (),
        )?
    };
    assert_eq!(other.join()?, (true, true));
    assert!(lock.locked() && rlock.locked());
    lock.release()?;
    rlock.release()?;
    assert!(is_not_held(lock.release()));
    assert!(is_not_held(rlock.release()));
    Ok(())
}

#[test]
fn a_lock_that_a_thread_holds_is_not_given_to_it_again() -> Result<()> {
    deadline();
    let lock = Lock::new();
    let held = lock.lock()?;
    assert!(matches!(lock.lock(), Err(Error::HeldAlready)));
    assert!(matches!(lock.acquire(), Err(Error::HeldAlready)));
    assert!(!lock.try_acquire());
    assert!(!lock.acquire_timeout(SHORT));
    assert!(lock.try_lock().is_none());
    drop(held);
    assert!(lock.try_lock().is_some());
    Ok(())
}

#[test]
fn a_guard_whose_lock_was_released_by_hand_takes_nothing_from_others() -> Result<()> {
    deadline();
    let lock = Lock::new();
    let held = lock.lock()?;
    lock.release()?;
    let (has_it, go_on) = (Event::new(), Event::new());
    let other = {
        let (lock, has_it, go_on) = (lock.clone(), has_it.clone(), go_on.clone());
        let body = move || {
            let _held = lock.lock()?;
            has_it.set();
            go_on.wait();
            Ok::<_, Error>(())
        };
        Thread::spawn(body, ())?
    };
    has_it.wait();
    drop(held);
    assert!(lock.locked());
    assert!(!lock.try_acquire());
    go_on.set();
    other.join_once()?
}

#[test]
fn an_rlock_is_free_when_it_was_released_as_often_as_acquired() -> Result<()> {
    deadline();
    let lock = RLock::new();
    let tries = || {
        let lock = lock.clone();
        let body = move || {
            let got = lock.acquire_timeout(SHORT);
            if got {
                lock.release()?;
            }
            Ok::<_, Error>((got, lock.try_lock().is_some()))
        };
        Thread::spawn(body, ())?.join_once()?
    };
    lock.acquire()?;
    assert!(lock.try_acquire());
    assert!(lock.acquire_timeout(Duration::ZERO));
    for _ in 0..3 {
        assert_eq!(tries()?, (false, false));
        lock.release()?;
    }
    assert_eq!(tries()?, (true, true));
    Ok(())
}

#[test]
fn a_wait_with_a_time_that_no_clock_holds_waits() -> Result<()> {
    deadline();
    let lock = Lock::new();
    assert!(lock.acquire_timeout(Duration::MAX));
    lock.release()?;
    let event = Event::new();
    let waiter = Thread::spawn(
        |event: Event| event.wait_timeout(Duration::MAX),
        (event.clone(),),
    )?;
    event.set();
    assert!(waiter.join()?);
    Ok(())
}

#[test]
fn a_condition_wakes_as_many_as_it_is_told_in_their_order() -> Result<()> {
    deadline();
    let (condition, woken, waits) = (Condition::new(), Queue::new(), Queue::new());
    let mut threads = Vec::new();
    for number in 0..5 {
        let (condition, woken, begun) = (condition.clone(), woken.clone(), waits.clone());
        let body = move || {
            let _held = condition.lock()?;
            // Whoever has the lock after this finds this thread waiting.
            begun.put(())?;
            condition.wait()?;
            woken.put(number)?;
            Ok::<_, Error>(())
        };
        threads.push(Thread::spawn(body, ())?);
        waits.get()?;
    }
    let notify = |count| {
        let _held = condition.lock()?;
        condition.notify(count)
    };
    notify(2)?;
    let mut first = [woken.get()?, woken.get()?];
    first.sort_unstable();
    assert_eq!(first, [0, 1]);
    {
        let _held = condition.lock()?;
        condition.notify_one()?;
    }
    assert_eq!(woken.get()?, 2);
    assert!(matches!(woken.get_timeout(SHORT), Err(Error::Empty)));
    notify(100)?;
    for thread in threads {
        thread.join_once()??;
    }
    assert_eq!(woken.len(), 2);
    Ok(())
}

#[test]
fn a_condition_that_nobody_notifies_gives_the_lock_back_after_its_time() -> Result<()> {
    deadline();
    let condition = Condition::new();
    condition.acquire()?;
    condition.acquire()?;
    assert!(!condition.wait_timeout(Duration::ZERO)?);
    assert!(!condition.wait_timeout(SHORT)?);
    assert!(!condition.wait_for_timeout(|| false, SHORT)?);
    assert!(condition.wait_for_timeout(|| true, Duration::ZERO)?);
    // A notify for nobody is not kept.
    condition.notify_all()?;
    assert!(!condition.wait_timeout(SHORT)?);
    condition.release()?;
    condition.release()?;
    assert!(is_not_held(condition.release()));
    Ok(())
}

#[test]
fn a_condition_wants_its_lock_held() {
    deadline();
    let condition = Condition::new();
    assert!(is_not_held(condition.wait()));
    assert!(is_not_held(condition.wait_timeout(SHORT)));
    assert!(is_not_held(condition.wait_for(|| true)));
    assert!(is_not_held(condition.notify_all()));
    let text = condition.notify(1).expect_err("not held").to_string();
    assert!(
        text.contains("does not hold the condition's lock"),
        "{text}"
    );
}

#[test]
fn a_condition_releases_a_lock_that_is_held_several_times_while_it_waits() -> Result<()> {
    deadline();
    let lock = RLock::new();
    let (full, empty) = (
        Condition::with_lock(lock.clone()),
        Condition::with_lock(lock.clone()),
    );
    let stock = Arc::new(AtomicUsize::new(0));
    let consumer = {
        let (full, empty, stock) = (full.clone(), empty.clone(), stock.clone());
        let body = move || {
            for _ in 0..1_000 {
                let _outer = full.lock()?;
                let _inner = full.lock()?;
                full.wait_for(|| stock.load(Ordering::Relaxed) > 0)?;
                stock.fetch_sub(1, Ordering::Relaxed);
                empty.notify_one()?;
            }
            Ok::<_, Error>(())
        };
        Thread::spawn(body, ())?
    };
    for _ in 0..1_000 {
        let _held = lock.lock()?;
        empty.wait_for(|| stock.load(Ordering::Relaxed) == 0)?;
        stock.fetch_add(1, Ordering::Relaxed);
        full.notify_one()?;
    }
    consumer.join_once()??;
    assert_eq!(stock.load(Ordering::Relaxed), 0);
    Ok(())
}

#[test]
fn a_notify_that_comes_as_a_wait_ends_is_not_lost() -> Result<()> {
    deadline();
    // As many are woken as were notified, whatever the times; those that are late say so.
    let condition = Condition::new();
    let notified = Arc::new(AtomicUsize::new(0));
    let threads: Vec<_> = (0..8)
        .map(|number: u64| {
            let (condition, notified) = (condition.clone(), notified.clone());
            let body = move || {
                for round in 0..100 {
                    let _held = condition.lock()?;
                    let time = Duration::from_micros((number * 13 + round * 7) % 50);
                    if condition.wait_timeout(time)? {
                        notified.fetch_add(1, Ordering::Relaxed);
                    }
                }
                Ok::<_, Error>(())
            };
            Thread::spawn(body, ())
        })
        .collect::<Result<_>>()?;
    while threads.iter().any(|thread| thread.is_alive()) {
        let _held = condition.lock()?;
        condition.notify_one()?;
    }
    for thread in threads {
        thread.join_once()??;
    }
    Ok(())
}

#[test]
fn a_semaphore_lets_so_many_in_at_a_time() -> Result<()> {
    deadline();
    let semaphore = BoundedSemaphore::new(3);
    let (inside, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let threads: Vec<_> = (0..12)
        .map(|_| {
            let (semaphore, inside, most) = (semaphore.clone(), inside.clone(), most.clone());
            let body = move || {
                for _ in 0..500 {
                    let _unit = semaphore.lock();
                    let now = inside.fetch_add(1, Ordering::SeqCst) + 1;
                    most.fetch_max(now, Ordering::SeqCst);
                    std::thread::yield_now();
                    inside.fetch_sub(1, Ordering::SeqCst);
                }
            };
            Thread::spawn(body, ())
        })
        .collect::<Result<_>>()?;
    for thread in threads {
        thread.join()?;
    }
    assert_eq!(most.load(Ordering::SeqCst), 3);
    assert_eq!(semaphore.value(), 3);
    Ok(())
}

#[test]
fn a_semaphore_has_timeouts_and_any_thread_can_release_it() -> Result<()> {
    deadline();
    let semaphore = Semaphore::new(0);
    assert!(!semaphore.try_acquire());
    assert!(!semaphore.acquire_timeout(Duration::ZERO));
    assert!(!semaphore.acquire_timeout(SHORT));
    assert!(semaphore.try_lock().is_none());
    let waiters: Vec<_> = (0..3)
        .map(|_| {
            let semaphore = semaphore.clone();
            Thread::spawn(move || semaphore.acquire(), ())
        })
        .collect::<Result<_>>()?;
    semaphore.release_many(3);
    for waiter in waiters {
        waiter.join()?;
    }
    semaphore.release();
    assert!(semaphore.acquire_timeout(Duration::ZERO));
    semaphore.release_many(usize::MAX);
    semaphore.release();
    assert_eq!(semaphore.value(), usize::MAX);
    Ok(())
}

#[test]
fn a_bounded_semaphore_is_not_released_more_often_than_acquired() -> Result<()> {
    deadline();
    let semaphore = BoundedSemaphore::new(2);
    let too_often = |result| matches!(result, Err(Error::ReleasedTooOften { limit: 2 }));
    assert!(too_often(semaphore.release()));
    semaphore.acquire();
    assert!(too_often(semaphore.release_many(2)));
    assert_eq!(semaphore.value(), 1);
    semaphore.release()?;
    assert!(too_often(semaphore.release()));
    Ok(())
}

#[test]
fn an_event_lets_all_go_on_until_it_is_cleared() -> Result<()> {
    deadline();
    let event = Event::new();
    assert!(!event.is_set());
    assert!(!event.wait_timeout(Duration::ZERO));
    assert!(!event.wait_timeout(SHORT));
    let waiters: Vec<_> = (0..4)
        .map(|_| {
            Thread::spawn(
                |event: Event| event.wait_timeout(DEADLINE),
                (event.clone(),),
            )
        })
        .collect::<Result<_>>()?;
    event.set();
    for waiter in waiters {
        assert!(waiter.join()?);
    }
    event.wait();
    assert!(event.wait_timeout(Duration::ZERO));
    event.clear();
    assert!(!event.is_set());
    assert!(!event.wait_timeout(Duration::ZERO));
    Ok(())
}

#[test]
fn a_barrier_lets_nobody_through_before_all_are_there_round_after_round() -> Result<()> {
    deadline();
    const PARTIES: usize = 4;
    const ROUNDS: usize = 200;
    let (here, acted) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let barrier = {
        let (here, acted) = (here.clone(), acted.clone());
        Barrier::with_action(PARTIES, move || {
            let round = acted.fetch_add(1, Ordering::SeqCst) + 1;
            assert_eq!(here.load(Ordering::SeqCst), round * PARTIES);
        })
    };
    let threads: Vec<_> = (0..PARTIES)
        .map(|_| {
            let (barrier, here, acted) = (barrier.clone(), here.clone(), acted.clone());
            let body = move || {
                let mut places = Vec::new();
                for round in 1..=ROUNDS {
                    here.fetch_add(1, Ordering::SeqCst);
                    places.push(barrier.wait()?);
                    assert!(acted.load(Ordering::SeqCst) >= round);
                }
                Ok::<_, Error>(places)
            };
            Thread::spawn(body, ())
        })
        .collect::<Result<_>>()?;
    let mut by_round = vec![Vec::new(); ROUNDS];
    for thread in threads {
        for (round, place) in thread.join_once()??.into_iter().enumerate() {
            by_round[round].push(place);
        }
    }
    for mut places in by_round {
        places.sort_unstable();
        assert_eq!(places, [0, 1, 2, 3]);
    }
    assert_eq!(acted.load(Ordering::SeqCst), ROUNDS);
    assert_eq!((barrier.parties(), barrier.waiting()), (PARTIES, 0));
    Ok(())
}

/// Two that wait at a barrier for three.
fn two_wait(barrier: &Barrier) -> Result<Vec<Thread<Result<usize>>>> {
    let threads = (0..2)
        .map(|_| Thread::spawn(|barrier: Barrier| barrier.wait(), (barrier.clone(),)))
        .collect::<Result<_>>()?;
    until("both wait", || barrier.waiting() == 2);
    Ok(threads)
}

fn all_are_told(threads: Vec<Thread<Result<usize>>>) -> Result<()> {
    for thread in threads {
        assert!(matches!(thread.join_once()?, Err(Error::BrokenBarrier)));
    }
    Ok(())
}

#[test]
fn a_barrier_is_broken_for_all_by_one_that_is_late_aborts_or_panics() -> Result<()> {
    deadline();
    let barrier = Barrier::new(4);
    let waiting = two_wait(&barrier)?;
    assert!(matches!(
        barrier.wait_timeout(SHORT),
        Err(Error::BrokenBarrier)
    ));
    all_are_told(waiting)?;
    assert!(barrier.is_broken());
    assert!(
        matches!(barrier.wait(), Err(Error::BrokenBarrier)),
        "at once"
    );

    barrier.reset();
    assert!(!barrier.is_broken());
    let waiting = two_wait(&barrier)?;
    barrier.abort();
    all_are_told(waiting)?;
    assert!(barrier.is_broken());

    let barrier = Barrier::with_action(3, || panic!("the action"));
    let waiting = two_wait(&barrier)?;
    let last = Thread::spawn(|barrier: Barrier| barrier.wait(), (barrier.clone(),))?;
    let text = last.join_once().expect_err("the panic").to_string();
    assert!(text.ends_with("the action"), "{text}");
    all_are_told(waiting)?;
    assert!(barrier.is_broken());
    Ok(())
}

#[test]
fn a_reset_sends_those_away_who_wait_and_begins_anew() -> Result<()> {
    deadline();
    let barrier = Barrier::new(3);
    let waiting = two_wait(&barrier)?;
    barrier.reset();
    all_are_told(waiting)?;
    let waiting = two_wait(&barrier)?;
    assert_eq!(barrier.wait()?, 2);
    for thread in waiting {
        assert!(thread.join_once()?? < 2);
    }
    Ok(())
}

#[test]
fn a_barrier_whose_action_takes_long_is_not_broken_by_that() -> Result<()> {
    deadline();
    let (acts, go_on) = (Event::new(), Event::new());
    let barrier = {
        let (acts, go_on) = (acts.clone(), go_on.clone());
        Barrier::with_action(2, move || {
            acts.set();
            go_on.wait();
        })
    };
    let is_late = Arc::new(AtomicBool::new(false));
    let first = {
        let (barrier, is_late) = (barrier.clone(), is_late.clone());
        let body = move || {
            let place = barrier.wait_timeout(Duration::from_millis(50));
            is_late.store(true, Ordering::SeqCst);
            place
        };
        Thread::spawn(body, ())?
    };
    until("it waits", || barrier.waiting() == 1 || barrier.is_broken());
    if barrier.is_broken() {
        // This machine was so slow that the first has given up before.
        return Ok(());
    }
    let last = Thread::spawn(|barrier: Barrier| barrier.wait(), (barrier.clone(),))?;
    acts.wait();
    // Its time goes by while the action is being called.
    std::thread::sleep(Duration::from_millis(100));
    assert!(!is_late.load(Ordering::SeqCst));
    go_on.set();
    assert_eq!((first.join_once()??, last.join_once()??), (0, 1));
    Ok(())
}

#[test]
fn a_barrier_for_one_lets_it_through() -> Result<()> {
    deadline();
    for parties in [0, 1] {
        assert_eq!(Barrier::new(parties).wait()?, 0);
    }
    Ok(())
}
