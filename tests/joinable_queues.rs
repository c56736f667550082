//! Joinable queues: an item is done with when its getter says so, and not when it dies.

mod children;

use std::time::Duration;

use children::{
    DEADLINE, Outcome, assert_each_once, in_time, kill, next, rest, until, value, within,
};
use procession::{Error, JoinableQueue, Process, Queue};

type Tasks = JoinableQueue<u64>;

const SOON: Duration = Duration::from_millis(30);

/// Tells of each item, and then says that it is done with; the last of `count` it does not say.
#[procession::task]
fn work(tasks: Tasks, told: Queue<u64>, count: u64) -> procession::Result<()> {
    let mut got = 0;
    for number in tasks.iter() {
        told.put(number?)?;
        told.flush()?;
        got += 1;
        if got == count {
            loop {
                std::thread::park();
            }
        }
        tasks.task_done()?;
    }
    Ok(())
}

#[test]
fn join_waits_until_each_item_has_been_done_with() -> Outcome {
    in_time(|| {
        for maxsize in [0, 2] {
            let tasks = Tasks::with_maxsize(maxsize)?;
            tasks.join()?;
            assert!(
                tasks.join_timeout(Duration::ZERO)?,
                "an empty queue is done with"
            );
            tasks.put_many([1, 2])?;
            assert!(!tasks.join_timeout(SOON)?);
            assert_eq!(tasks.unfinished()?, 2);
            assert_eq!((next(&tasks)?, next(&tasks)?), (1, 2));
            assert_eq!((tasks.len()?, tasks.unfinished()?), (0, 2));
            tasks.task_done()?;
            assert!(!tasks.join_timeout(SOON)?);
            let joiner = tasks.clone();
            let joiner = std::thread::spawn(move || joiner.join());
            tasks.task_done()?;
            within(DEADLINE, || joiner.join().expect("no panic"))??;
            assert_eq!(tasks.unfinished()?, 0);
            // It can be used and joined again.
            tasks.put(3)?;
            assert!(!tasks.join_timeout(SOON)?);
            assert_eq!(next(&tasks)?, 3);
            tasks.task_done()?;
            tasks.join()?;
        }
        Ok(())
    })
}

#[test]
fn one_task_done_too_many_is_an_error() -> Outcome {
    in_time(|| {
        let tasks = Tasks::new()?;
        assert!(matches!(tasks.task_done(), Err(Error::NotGot)));
        tasks.put(1)?;
        assert!(
            matches!(tasks.task_done(), Err(Error::NotGot)),
            "it was not got"
        );
        assert_eq!(next(&tasks)?, 1);
        tasks.task_done()?;
        let error = tasks.task_done().expect_err("one too many");
        assert_eq!(
            error.to_string(),
            "task_done() was called more often than items were got in this process"
        );
        tasks.put_many(0..5_000)?;
        for _ in 0..5_000 {
            next(&tasks)?;
        }
        for _ in 0..5_000 {
            tasks.task_done()?;
        }
        assert!(matches!(tasks.task_done(), Err(Error::NotGot)));
        tasks.join()?;
        Ok(())
    })
}

#[test]
fn many_workers_do_each_item_once_and_join_ends() -> Outcome {
    in_time(|| {
        for maxsize in [0, 10] {
            let (tasks, told) = (Tasks::with_maxsize(maxsize)?, Queue::new()?);
            let workers: Vec<_> = (0..3)
                .map(|_| Process::spawn(work, (tasks.clone(), told.clone(), 0)))
                .collect::<Result<_, _>>()?;
            tasks.put_many(0..2_000)?;
            assert!(tasks.join_timeout(DEADLINE)?);
            assert_eq!((tasks.len()?, tasks.unfinished()?), (0, 0));
            tasks.shutdown()?;
            for worker in &workers {
                value(worker)?;
            }
            told.shutdown()?;
            assert_each_once(rest(&told)?, 0..2_000);
        }
        Ok(())
    })
}

#[test]
fn an_item_whose_getter_dies_before_task_done_goes_to_another() -> Outcome {
    in_time(|| {
        let (tasks, told) = (Tasks::new()?, Queue::new()?);
        tasks.put_many(0..300)?;
        let joiner = tasks.clone();
        let joiner = std::thread::spawn(move || joiner.join());
        let mut seen = vec![0; 300];
        for round in 0..3 {
            // All but the 50th are said to be done with.
            let worker = Process::spawn(work, (tasks.clone(), told.clone(), 50))?;
            for _ in 0..50 {
                seen[next(&told)? as usize] += 1;
            }
            until("the others are known to be done with", || {
                Ok(tasks.unfinished()? == 300 - 49 * (round + 1))
            })?;
            kill(&worker)?;
            assert!(!joiner.is_finished());
        }
        let worker = Process::spawn(work, (tasks.clone(), told.clone(), 0))?;
        within(DEADLINE, || joiner.join().expect("no panic"))??;
        tasks.shutdown()?;
        value(&worker)?;
        told.shutdown()?;
        for number in rest(&told)? {
            seen[number as usize] += 1;
        }
        assert!(seen.iter().all(|times| *times >= 1), "an item is lost");
        let again: usize = seen.iter().map(|times| times - 1).sum();
        assert_eq!(
            again, 3,
            "only those that were not said to be done with come again"
        );
        Ok(())
    })
}

/// Gets some and ends without having done them.
#[procession::task]
fn get_and_end(tasks: Tasks, count: usize, exit: bool) -> procession::Result<()> {
    for number in tasks.iter().take(count) {
        number?;
    }
    match exit {
        true => std::process::exit(0),
        false => Ok(()),
    }
}

#[test]
fn an_item_whose_getter_ends_normally_before_task_done_goes_to_another_too() -> Outcome {
    in_time(|| {
        for exit in [false, true] {
            let tasks = Tasks::new()?;
            tasks.put_many(0..100)?;
            let getter = Process::spawn(get_and_end, (tasks.clone(), 40, exit))?;
            value(&getter)?;
            assert_eq!((tasks.len()?, tasks.unfinished()?), (100, 100));
            let mut all = Vec::new();
            for _ in 0..100 {
                all.push(next(&tasks)?);
                tasks.task_done()?;
            }
            assert_each_once(all, 0..100);
            assert!(tasks.join_timeout(DEADLINE)?);
        }
        Ok(())
    })
}

#[test]
fn join_behind_a_shutdown_waits_for_what_is_left() -> Outcome {
    in_time(|| {
        let (tasks, told) = (Tasks::new()?, Queue::new()?);
        tasks.put_many(0..100)?;
        tasks.shutdown()?;
        assert!(!tasks.join_timeout(SOON)?);
        // One of them dies with an item.
        let dying = Process::spawn(work, (tasks.clone(), told.clone(), 10))?;
        for _ in 0..10 {
            next(&told)?;
        }
        kill(&dying)?;
        let worker = Process::spawn(work, (tasks.clone(), told.clone(), 0))?;
        assert!(tasks.join_timeout(DEADLINE)?);
        value(&worker)?;
        assert!(matches!(tasks.get(), Err(Error::ShutDown)));
        Ok(())
    })
}

#[test]
fn a_shutdown_at_once_ends_a_join() -> Outcome {
    in_time(|| {
        let tasks = Tasks::new()?;
        tasks.put_many(0..10_000)?;
        assert_eq!(next(&tasks)?, 0);
        let joiner = tasks.clone();
        let joiner = std::thread::spawn(move || joiner.join());
        tasks.shutdown_now()?;
        tasks.task_done()?;
        // What had been sent here already may still be taken.
        while tasks.get().is_ok() {
            tasks.task_done()?;
        }
        within(DEADLINE, || joiner.join().expect("no panic"))??;
        Ok(())
    })
}

#[test]
fn who_is_killed_in_join_harms_nobody() -> Outcome {
    in_time(|| {
        let (tasks, ready) = (Tasks::new()?, Queue::new()?);
        tasks.put(1)?;
        let joiner = Process::spawn(join_it, (tasks.clone(), ready.clone()))?;
        next(&ready)?;
        assert!(joiner.join_timeout(SOON)?.is_none());
        kill(&joiner)?;
        let joiner = Process::spawn(join_it, (tasks.clone(), ready.clone()))?;
        next(&ready)?;
        assert_eq!(next(&tasks)?, 1);
        tasks.task_done()?;
        value(&joiner)
    })
}

#[procession::task]
fn join_it(tasks: Tasks, ready: Queue<()>) -> procession::Result<()> {
    ready.put(())?;
    ready.flush()?;
    tasks.join()
}

#[test]
fn a_host_that_is_killed_ends_a_join() -> Outcome {
    in_time(|| {
        let hand_out = Queue::new()?;
        let host = Process::spawn(host_tasks, (hand_out.clone(),))?;
        let tasks: Tasks = next(&hand_out)?;
        let joiner = tasks.clone();
        let joiner = std::thread::spawn(move || joiner.join());
        assert_eq!(next(&tasks)?, 7);
        kill(&host)?;
        let joined = within(DEADLINE, || joiner.join().expect("no panic"))?;
        assert!(matches!(joined, Err(Error::HostGone { .. })), "{joined:?}");
        assert!(matches!(tasks.unfinished(), Err(Error::HostGone { .. })));
        Ok(())
    })
}

#[procession::task]
fn host_tasks(hand_out: Queue<Tasks>) -> procession::Result<()> {
    let tasks = Tasks::new()?;
    tasks.put(7)?;
    tasks.flush()?;
    hand_out.put(tasks)?;
    hand_out.flush()?;
    loop {
        std::thread::park();
    }
}

#[test]
fn handles_of_the_two_kinds_are_not_taken_for_each_other() -> Outcome {
    in_time(|| {
        let tasks = Tasks::bind("tcp://127.0.0.1:*")?;
        let plain = Queue::<u64>::bind("tcp://127.0.0.1:*")?;
        let error = Queue::<u64>::connect(&tasks.endpoint()).expect_err("it is joinable");
        assert!(matches!(error, Error::BadHandle { .. }), "{error}");
        assert!(
            error.to_string().contains("JoinableQueue::connect"),
            "{error}"
        );
        let error = Tasks::connect(&plain.endpoint()).expect_err("it is not joinable");
        assert!(
            error.to_string().contains("connect with Queue::connect"),
            "{error}"
        );
        let bytes = rmp_serde::to_vec(&plain)?;
        let error = rmp_serde::from_slice::<Tasks>(&bytes).expect_err("it is not joinable");
        assert!(
            error.to_string().contains("not of a JoinableQueue"),
            "{error}"
        );
        let again: Tasks = rmp_serde::from_slice(&rmp_serde::to_vec(&tasks)?)?;
        again.put(4)?;
        assert_eq!(next(&tasks)?, 4);
        again.task_done()?;
        assert!(tasks.join_timeout(DEADLINE)?);
        Ok(())
    })
}

/// Its first thread keeps the first item; another one is done with the second.
#[procession::task]
fn keep_the_first(tasks: Tasks, told: Queue<u64>) -> procession::Result<()> {
    told.put(tasks.get()?)?;
    let second = tasks.clone();
    let other = std::thread::spawn(move || -> procession::Result<u64> {
        let number = second.get()?;
        second.task_done()?;
        Ok(number)
    });
    told.put(other.join().expect("no panic")?)?;
    told.flush()?;
    loop {
        std::thread::park();
    }
}

#[test]
fn a_thread_speaks_of_its_own_item_and_another_ones_is_not_lost() -> Outcome {
    in_time(|| {
        let (tasks, told) = (Tasks::new()?, Queue::new()?);
        for number in [1, 2] {
            tasks.put(number)?;
            tasks.flush()?;
        }
        let getter = Process::spawn(keep_the_first, (tasks.clone(), told.clone()))?;
        assert_eq!((next(&told)?, next(&told)?), (1, 2));
        until("the host has heard of it", || Ok(tasks.unfinished()? == 1))?;
        kill(&getter)?;
        assert_eq!(next(&tasks)?, 1);
        tasks.task_done()?;
        tasks.join()?;
        Ok(())
    })
}

#[test]
fn a_thread_that_has_got_nothing_speaks_for_the_others() -> Outcome {
    in_time(|| {
        let tasks = Tasks::new()?;
        tasks.put_many(0..100)?;
        let getter = tasks.clone();
        let got = std::thread::spawn(move || {
            (0..100)
                .map(|_| next(&getter).map_err(|error| error.to_string()))
                .collect::<Result<Vec<_>, _>>()
        });
        assert_eq!(got.join().expect("no panic")?.len(), 100);
        for left in (0..100).rev() {
            tasks.task_done()?;
            assert_eq!(tasks.unfinished()?, left);
        }
        let one_too_many = tasks.task_done();
        assert!(
            matches!(one_too_many, Err(Error::NotGot)),
            "{one_too_many:?}"
        );
        tasks.join()?;
        Ok(())
    })
}
