//! Events, conditions and barriers between processes, and processes that are killed at them.

mod children;
mod shared_numbers;

use std::time::Duration;

use children::{DEADLINE, Outcome, in_time, kill, until, value};
use procession::sync::{Barrier, Condition, Event, RLock};
use procession::{Error, Process, SimpleQueue};
use shared_numbers::Numbers;

const SHORT: Duration = Duration::from_millis(5);

fn path(dir: &tempfile::TempDir) -> String {
    dir.path().join("numbers").display().to_string()
}

fn numbers(path: &str) -> procession::Result<Numbers> {
    Numbers::open(path).map_err(|error| Error::system("the numbers", error))
}

#[procession::task]
fn wait_for_event(event: Event, here: Event) -> bool {
    here.set();
    event.wait_timeout(DEADLINE)
}

#[test]
fn an_event_lets_all_go_on_until_it_is_cleared() -> Outcome {
    in_time(|| {
        let event = Event::new()?;
        assert!(!event.is_set() && !event.wait_timeout(Duration::ZERO));
        assert!(!event.wait_timeout(SHORT));
        let here = Event::new()?;
        let waiters = (0..4)
            .map(|_| Process::spawn(wait_for_event, (event.clone(), here.clone())))
            .collect::<Result<Vec<_>, _>>()?;
        here.wait();
        event.set();
        for waiter in &waiters {
            assert!(value(waiter)?);
        }
        event.wait();
        event.set();
        assert!(event.wait_timeout(Duration::ZERO));
        event.clear();
        assert!(!event.is_set() && !event.wait_timeout(Duration::ZERO));
        Ok(())
    })
}

/// Hands a turn there and back.
#[procession::task]
fn answer(ask: Event, answer: Event, rounds: u64) {
    for _ in 0..rounds {
        ask.wait();
        ask.clear();
        answer.set();
    }
}

#[test]
fn no_set_is_missed_by_one_that_waits() -> Outcome {
    in_time(|| {
        const ROUNDS: u64 = 5_000;
        let (ask, answered) = (Event::new()?, Event::new()?);
        let child = Process::spawn(answer, (ask.clone(), answered.clone(), ROUNDS))?;
        for round in 0..ROUNDS {
            ask.set();
            assert!(answered.wait_timeout(DEADLINE), "round {round}");
            answered.clear();
        }
        value(&child)
    })
}

#[test]
fn an_event_can_be_waited_for_together_with_a_process() -> Outcome {
    in_time(|| {
        let (event, here) = (Event::new()?, Event::new()?);
        let child = Process::spawn(wait_for_event, (event.clone(), here.clone()))?;
        assert_eq!(procession::wait(&[&child, &here], Some(DEADLINE))?, [1]);
        event.set();
        value(&child).map(|was_set| assert!(was_set))
    })
}

/// Takes one from number 0 whenever there is one, and adds it to number 1.
#[procession::task]
fn take_from(condition: Condition, path: String, times: u64) -> procession::Result<()> {
    let numbers = numbers(&path)?;
    for _ in 0..times {
        let _held = condition.lock()?;
        condition.wait_for(|| numbers.get(0) > 0)?;
        numbers.set(0, numbers.get(0) - 1);
        numbers.add_one(1);
    }
    Ok(())
}

#[test]
fn each_notify_wakes_one_that_waits() -> Outcome {
    in_time(|| {
        const EACH: u64 = 500;
        let dir = tempfile::tempdir()?;
        let (condition, numbers) = (Condition::new()?, Numbers::open(path(&dir))?);
        let takers = (0..4)
            .map(|_| Process::spawn(take_from, (condition.clone(), path(&dir), EACH)))
            .collect::<Result<Vec<_>, _>>()?;
        for _ in 0..4 * EACH {
            let _held = condition.lock()?;
            numbers.add_one(0);
            condition.notify_one()?;
        }
        for taker in &takers {
            value(taker)?;
        }
        assert_eq!((numbers.get(0), numbers.get(1)), (0, 4 * EACH));
        Ok(())
    })
}

/// Waits for one notify, under the lock twice; its number is added to those who wait (2), and is what was notified last (3).
#[procession::task]
fn wait_once(condition: Condition, path: String, number: u64) -> procession::Result<bool> {
    let numbers = numbers(&path)?;
    let _held = condition.lock()?;
    let _again = condition.lock()?;
    numbers.add_one(2);
    let notified = condition.wait_timeout(DEADLINE)?;
    numbers.set(3, number);
    Ok(notified)
}

/// So many children that wait, in this order.
fn waiting(
    condition: &Condition,
    dir: &tempfile::TempDir,
    count: u64,
) -> Outcome<Vec<Process<bool>>> {
    let numbers = Numbers::open(path(dir))?;
    let mut processes = Vec::new();
    for number in 0..count {
        let before = numbers.get(2);
        let args = (condition.clone(), path(dir), number);
        processes.push(Process::spawn(wait_once, args)?);
        // Who sees the number under the lock finds its process waiting.
        until("it waits", || {
            let _held = condition.lock()?;
            Ok(numbers.get(2) > before)
        })?;
    }
    Ok(processes)
}

#[test]
fn those_that_have_waited_longest_are_woken_and_no_others() -> Outcome {
    in_time(|| {
        let dir = tempfile::tempdir()?;
        let (condition, numbers) = (Condition::new()?, Numbers::open(path(&dir))?);
        let processes = waiting(&condition, &dir, 4)?;
        for first in 0..2 {
            condition.acquire()?;
            condition.notify_one()?;
            condition.release()?;
            assert!(value(&processes[first as usize])?);
            assert_eq!(numbers.get(3), first);
        }
        assert!(processes[2].is_alive() && processes[3].is_alive());
        {
            let _held = condition.lock()?;
            condition.notify_all()?;
        }
        assert!(value(&processes[2])? && value(&processes[3])?);
        let _held = condition.lock()?;
        assert!(!condition.wait_timeout(SHORT)?, "nobody notifies");
        assert!(!condition.wait_for_timeout(|| false, SHORT)?);
        assert!(condition.wait_for_timeout(|| true, Duration::ZERO)?);
        Ok(())
    })
}

#[test]
fn a_notify_passes_over_one_that_was_killed_while_it_waited() -> Outcome {
    in_time(|| {
        let dir = tempfile::tempdir()?;
        let condition = Condition::with_lock(RLock::new()?)?;
        let processes = waiting(&condition, &dir, 3)?;
        kill(&processes[0])?;
        kill(&processes[1])?;
        {
            let _held = condition.lock()?;
            condition.notify_one()?;
        }
        assert!(value(&processes[2])?);
        assert!(!condition.holder_died());
        Ok(())
    })
}

#[test]
fn a_notify_is_another_ones_if_its_process_is_killed_before_it_has_the_lock() -> Outcome {
    in_time(|| {
        let dir = tempfile::tempdir()?;
        let condition = Condition::new()?;
        let processes = waiting(&condition, &dir, 2)?;
        {
            let _held = condition.lock()?;
            condition.notify_one()?;
            // It waits for this lock now.
            kill(&processes[0])?;
        }
        assert!(value(&processes[1])?);
        Ok(())
    })
}

#[test]
fn conditions_are_used_under_their_lock() -> Outcome {
    in_time(|| {
        let condition = Condition::new()?;
        assert!(matches!(condition.wait(), Err(Error::NotHeld { .. })));
        assert!(matches!(condition.notify_all(), Err(Error::NotHeld { .. })));
        let text = condition.notify_one().expect_err("not held").to_string();
        assert!(
            text.contains("does not hold the condition's lock"),
            "{text}"
        );
        assert!(matches!(condition.release(), Err(Error::NotHeld { .. })));
        Ok(())
    })
}

/// Tokens (0) are handed round by those that wait for one.
#[procession::task]
fn hand_on(condition: Condition, path: String) -> procession::Result<()> {
    let numbers = numbers(&path)?;
    loop {
        let _held = condition.lock()?;
        condition.wait_for(|| numbers.get(0) > 0)?;
        numbers.set(0, numbers.get(0) - 1);
        numbers.set(0, numbers.get(0) + 1);
        numbers.add_one(1);
        condition.notify_one()?;
    }
}

#[test]
fn wherever_waiters_are_killed_the_condition_goes_on() -> Outcome {
    in_time(|| {
        let dir = tempfile::tempdir()?;
        let (condition, numbers) = (Condition::new()?, Numbers::open(path(&dir))?);
        let survivor = Process::spawn(hand_on, (condition.clone(), path(&dir)))?;
        for round in 0..20 {
            let victims = [
                Process::spawn(hand_on, (condition.clone(), path(&dir)))?,
                Process::spawn(hand_on, (condition.clone(), path(&dir)))?,
            ];
            {
                let _held = condition.lock()?;
                numbers.set(0, 1);
                condition.notify_one()?;
            }
            let before = numbers.get(1);
            until("they work", || Ok(numbers.get(1) > before + 20 + round))?;
            for victim in &victims {
                kill(victim)?;
            }
            {
                let _held = condition.lock()?;
                numbers.set(0, 1);
                condition.mark_consistent();
                condition.notify_one()?;
            }
            let before = numbers.get(1);
            until("the other one goes on", || Ok(numbers.get(1) > before))?;
        }
        kill(&survivor)
    })
}

#[procession::task]
fn meet(barrier: Barrier, rounds: u64) -> procession::Result<Vec<usize>> {
    (0..rounds).map(|_| barrier.wait()).collect()
}

#[test]
fn a_barrier_lets_nobody_through_before_all_are_there_round_after_round() -> Outcome {
    in_time(|| {
        const ROUNDS: u64 = 300;
        let barrier = Barrier::new(4)?;
        let children = (0..3)
            .map(|_| Process::spawn(meet, (barrier.clone(), ROUNDS)))
            .collect::<Result<Vec<_>, _>>()?;
        let mut all = vec![meet(barrier.clone(), ROUNDS)?];
        for child in &children {
            all.push(value(child)?);
        }
        for round in 0..ROUNDS as usize {
            let mut places: Vec<_> = all.iter().map(|places| places[round]).collect();
            places.sort_unstable();
            assert_eq!(places, [0, 1, 2, 3], "round {round}");
        }
        assert_eq!((barrier.parties(), barrier.waiting()), (4, 0));
        assert!(!barrier.is_broken());
        Ok(())
    })
}

fn is_broken<T>(result: procession::Result<T>) -> bool {
    matches!(result, Err(Error::BrokenBarrier))
}

#[procession::task]
fn finds_it_broken(barrier: Barrier) -> bool {
    is_broken(barrier.wait())
}

fn two_wait(barrier: &Barrier) -> Outcome<Vec<Process<bool>>> {
    let processes = (0..2)
        .map(|_| Process::spawn(finds_it_broken, (barrier.clone(),)))
        .collect::<Result<_, _>>()?;
    until("both wait", || Ok(barrier.waiting() == 2))?;
    Ok(processes)
}

fn all_are_told(processes: &[Process<bool>]) -> Outcome {
    for process in processes {
        assert!(value(process)?);
    }
    Ok(())
}

#[test]
fn a_barrier_is_broken_for_all_by_one_that_is_late_or_aborts_until_it_is_reset() -> Outcome {
    in_time(|| {
        let barrier = Barrier::new(4)?;
        let waiting = two_wait(&barrier)?;
        assert!(is_broken(barrier.wait_timeout(SHORT)));
        all_are_told(&waiting)?;
        assert!(barrier.is_broken() && is_broken(barrier.wait()), "at once");
        barrier.reset();
        assert!(!barrier.is_broken());
        let waiting = two_wait(&barrier)?;
        barrier.abort();
        all_are_told(&waiting)?;
        barrier.reset();
        let waiting = two_wait(&barrier)?;
        barrier.reset();
        all_are_told(&waiting)?;
        assert!(!barrier.is_broken());
        Ok(())
    })
}

#[procession::task]
fn dawdle(barrier: Barrier, say: SimpleQueue<bool>) {
    say.put(barrier.is_broken()).expect("somebody listens");
    std::thread::sleep(Duration::from_secs(600));
}

#[test]
fn a_party_that_is_killed_before_it_comes_or_while_it_waits_breaks_it() -> Outcome {
    in_time(|| {
        let (barrier, says) = (Barrier::new(3)?, SimpleQueue::new()?);
        let killed_before = Process::spawn(dawdle, (barrier.clone(), says.clone()))?;
        says.get()?;
        let waits = Process::spawn(finds_it_broken, (barrier.clone(),))?;
        until("it waits", || Ok(barrier.waiting() == 1))?;
        kill(&killed_before)?;
        assert!(value(&waits)?);
        assert!(is_broken(barrier.wait()));

        barrier.reset();
        let waiting = two_wait(&barrier)?;
        kill(&waiting[0])?;
        assert!(value(&waiting[1])?);

        barrier.reset();
        let children = (0..2)
            .map(|_| Process::spawn(meet, (barrier.clone(), 1)))
            .collect::<Result<Vec<_>, _>>()?;
        barrier.wait()?;
        for child in &children {
            value(child)?;
        }
        Ok(())
    })
}

#[test]
fn who_comes_last_does_not_go_on_from_a_round_of_which_one_was_killed() -> Outcome {
    in_time(|| {
        let barrier = Barrier::new(2)?;
        let waits = Process::spawn(finds_it_broken, (barrier.clone(),))?;
        until("it waits", || Ok(barrier.waiting() == 1))?;
        kill(&waits)?;
        // Nobody else waits, who would have found it.
        assert!(!barrier.is_broken());
        assert!(is_broken(barrier.wait()));
        assert!(barrier.is_broken() && barrier.waiting() == 0);
        Ok(())
    })
}

#[test]
fn processes_that_have_ended_in_order_are_not_missed() -> Outcome {
    in_time(|| {
        let barrier = Barrier::new(2)?;
        for _ in 0..3 {
            let child = Process::spawn(meet, (barrier.clone(), 1))?;
            assert!(barrier.wait()? < 2);
            value(&child)?;
            // Longer than those who wait look for the dead.
            let child = Process::spawn(meet, (barrier.clone(), 1))?;
            until("it waits", || Ok(barrier.waiting() == 1))?;
            std::thread::sleep(Duration::from_millis(250));
            assert!(barrier.wait()? < 2);
            value(&child)?;
        }
        Ok(())
    })
}
