//! A pool of threads: its verbs, its failures, and its ends.

mod deadline;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use deadline::deadline;
use procession::thread::{Barrier, Event, Pool, Queue, current_thread};
use procession::{Error, Result, wait};

/// Far more than anything here takes.
const DEADLINE: Duration = Duration::from_secs(240);

#[procession::task]
fn square(n: u64) -> u64 {
    n * n
}

#[procession::task]
fn halve(number: u64) -> std::result::Result<u64, String> {
    match number % 2 {
        0 => Ok(number / 2),
        _ => Err(format!("{number} is odd")),
    }
}

fn divide(left: i64, right: i64) -> i64 {
    left / right
}

#[test]
fn the_verbs_give_what_those_of_processes_give() -> Result<()> {
    deadline();
    let pool = Pool::new(3)?;
    assert_eq!(pool.apply(square, (7,))?, 49);
    assert_eq!(pool.apply(divide, (7, 2))?, 3);
    assert_eq!(
        pool.map(square, 0..1_000)?,
        (0..1_000).map(|n| n * n).collect::<Vec<_>>()
    );
    assert_eq!(
        pool.map_chunked(square, 0..10, 3)?,
        (0..10).map(|n| n * n).collect::<Vec<_>>()
    );
    assert_eq!(pool.map(square, [])?, [] as [u64; 0]);
    assert_eq!(pool.starmap(divide, [(84, 2), (-9, 3)])?, [42, -3]);
    assert_eq!(pool.map_async(square, 0..5)?.get()?, [0, 1, 4, 9, 16]);
    assert_eq!(pool.map_async(square, [])?.get()?, [] as [u64; 0]);
    assert_eq!(pool.starmap_async(divide, [(9, 3)])?.get()?, [3]);
    let ordered: Vec<u64> = pool.imap(square, 0..500)?.collect::<Result<_>>()?;
    assert!(ordered.into_iter().eq((0..500).map(|n| n * n)));
    let mut unordered: Vec<u64> = pool
        .imap_unordered(square, 0..500)?
        .collect::<Result<_>>()?;
    unordered.sort_unstable();
    assert!(unordered.into_iter().eq((0..500).map(|n| n * n)));
    pool.join()
}

#[test]
fn closures_capture_and_values_need_not_be_cloned() -> Result<()> {
    deadline();
    struct Unique(usize);
    let pool = Pool::new(2)?;
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let values = pool.map(
        move |word: &'static str| {
            counted.fetch_add(1, Ordering::Relaxed);
            Unique(word.len())
        },
        ["a", "bb", "ccc"],
    )?;
    let lengths: Vec<_> = values.iter().map(|value| value.0).collect();
    assert_eq!(lengths, [1, 2, 3]);
    assert_eq!(calls.load(Ordering::Relaxed), 3);
    let text = String::from("moved");
    assert_eq!(pool.apply(move || text, ())?, "moved");
    Ok(())
}

#[test]
fn all_threads_take_part() -> Result<()> {
    deadline();
    let pool = Pool::builder().workers(4).name("worker").start()?;
    // Nobody gets through before four are there.
    let barrier = Barrier::new(4);
    let meet = move |_: u32| {
        barrier.wait_timeout(DEADLINE)?;
        Ok::<_, Error>(current_thread().name().to_owned())
    };
    let mut names: Vec<String> = pool
        .imap_unordered(meet, 0..4)?
        .map(|name| name?)
        .collect::<Result<_>>()?;
    names.sort();
    assert_eq!(names, ["worker-1", "worker-2", "worker-3", "worker-4"]);
    assert_eq!(pool.threads().len(), 4);
    assert!(pool.threads().iter().all(|thread| thread.daemon()));
    Ok(())
}

#[test]
fn a_call_that_fails_is_told_and_the_pool_goes_on() -> Result<()> {
    deadline();
    let pool = Pool::builder().workers(2).name("worker").start()?;
    let text = pool.apply(halve, (7,)).expect_err("it is odd").to_string();
    assert!(text.contains("returned an error: 7 is odd"), "{text}");
    let text = pool
        .starmap(divide, [(1, 1), (2, 0), (3, 1)])
        .expect_err("the second fails")
        .to_string();
    assert!(text.contains("divide (call 1) in thread worker-"), "{text}");
    assert!(text.contains("panicked at tests/thread_pool.rs:"), "{text}");
    assert!(text.contains("attempt to divide by zero"), "{text}");

    let later = pool.apply_async(divide, (1, 0))?;
    later.wait();
    assert_eq!((later.ready(), later.successful()), (true, Some(false)));
    for _ in 0..2 {
        assert!(matches!(
            later.get(),
            Err(Error::CallFailed { call: 0, .. })
        ));
    }
    let results: Vec<_> = pool.imap(halve, 0..6)?.map(|value| value.ok()).collect();
    assert_eq!(results, [Some(0), None, Some(1), None, Some(2), None]);
    assert_eq!(pool.apply(square, (3,))?, 9);
    Ok(())
}

#[test]
fn a_result_can_be_waited_for_and_asked_for_again() -> Result<()> {
    deadline();
    let pool = Pool::new(1)?;
    let go_on = Event::new();
    let event = go_on.clone();
    let result = pool.apply_async(move || event.wait_timeout(DEADLINE), ())?;
    assert!(!result.ready());
    assert_eq!(result.successful(), None);
    assert!(!result.wait_timeout(Duration::ZERO));
    assert_eq!(result.get_timeout(Duration::from_millis(2))?, None);
    assert!(wait(&[&result], Some(Duration::ZERO))?.is_empty());
    go_on.set();
    assert_eq!(wait(&[&result], Some(DEADLINE))?, [0]);
    for _ in 0..2 {
        assert!(result.get()?);
    }
    assert_eq!(result.successful(), Some(true));
    Ok(())
}

#[test]
fn callbacks_are_called_one_after_the_other() -> Result<()> {
    deadline();
    let pool = Pool::new(2)?;
    let called = Queue::new();
    let on_result = |called: &Queue<String>| {
        let called = called.clone();
        move |value: u64| drop(called.put(value.to_string()))
    };
    let on_error = |called: &Queue<String>| {
        let called = called.clone();
        move |error: Error| drop(called.put(error.to_string()))
    };
    pool.apply_async_with(halve, (8,), on_result(&called), on_error(&called))?;
    assert_eq!(called.get_timeout(DEADLINE)?, "4");
    pool.apply_async_with(halve, (7,), on_result(&called), on_error(&called))?;
    assert!(called.get_timeout(DEADLINE)?.contains("7 is odd"));
    let sum = called.clone();
    pool.map_async_with(
        square,
        0..4,
        move |values: Vec<u64>| drop(sum.put(values.iter().sum::<u64>().to_string())),
        on_error(&called),
    )?;
    assert_eq!(called.get_timeout(DEADLINE)?, "14");
    for number in 0..100 {
        pool.apply_async_with(square, (number,), on_result(&called), on_error(&called))?;
    }
    pool.join()?;
    assert_eq!(called.len(), 100, "join waits for callbacks");
    Ok(())
}

#[test]
fn a_call_that_cannot_be_begun_is_an_error_and_no_callback() -> Result<()> {
    deadline();
    let pool = Pool::new(1)?;
    pool.close();
    let called = Queue::new();
    let (first, second) = (called.clone(), called.clone());
    let result = pool.apply_async_with(
        square,
        (1,),
        move |_| drop(first.put(())),
        move |_| drop(second.put(())),
    );
    assert!(result.is_err());
    pool.join()?;
    assert!(called.is_empty());
    Ok(())
}

#[test]
fn what_a_function_has_captured_may_panic_when_it_is_dropped() -> Result<()> {
    struct Fragile;
    impl Drop for Fragile {
        fn drop(&mut self) {
            panic!("it breaks");
        }
    }
    deadline();
    let pool = Pool::new(2)?;
    let captured = Fragile;
    let add = move |n: u64| {
        let _ = &captured;
        n + 1
    };
    assert_eq!(pool.map(add, 0..100)?, (1..=100).collect::<Vec<_>>());
    pool.join()
}

#[test]
fn imap_reads_a_bounded_way_ahead_of_what_is_taken() -> Result<()> {
    deadline();
    let pool = Pool::new(2)?;
    let read = std::cell::Cell::new(0usize);
    let endless = std::iter::repeat_with(|| {
        read.set(read.get() + 1);
        1u64
    });
    let mut taken = 0;
    for value in pool.imap(square, endless)?.take(1_000) {
        assert_eq!(value?, 1);
        taken += 1;
        assert!(
            read.get() <= taken + 2 * 16,
            "{} read, {taken} taken",
            read.get()
        );
    }
    Ok(())
}

#[test]
fn a_closed_pool_takes_no_more_and_does_what_it_has() -> Result<()> {
    deadline();
    let pool = Pool::new(1)?;
    let go_on = Event::new();
    let event = go_on.clone();
    let blocker = pool.apply_async(move || event.wait_timeout(DEADLINE), ())?;
    let behind = pool.map_async(square, 0..3)?;
    let mut lazy = pool.imap(square, 0..)?;
    pool.close();
    assert!(matches!(pool.apply(square, (1,)), Err(Error::Ended(_))));
    assert!(matches!(pool.map(square, 0..2), Err(Error::Ended(_))));
    assert!(matches!(pool.imap(square, 0..2), Err(Error::Ended(_))));
    go_on.set();
    assert!(blocker.get()?);
    assert_eq!(behind.get()?, [0, 1, 4]);
    // What was read ahead is done, and then it ends with the reason.
    let rest: Vec<_> = lazy.by_ref().collect();
    let (last, values) = rest.split_last().expect("something was read ahead");
    assert!(matches!(last, Err(Error::Ended(_))));
    assert!(values.iter().all(|value| value.is_ok()));
    assert_eq!(values.len(), 16);
    assert!(lazy.next().is_none());
    pool.join()
}

#[test]
fn a_pool_that_is_terminated_makes_no_calls_that_have_not_begun() -> Result<()> {
    deadline();
    for by_drop in [false, true] {
        let pool = Pool::new(1)?;
        let (begun, go_on) = (Event::new(), Event::new());
        let (has_begun, event) = (begun.clone(), go_on.clone());
        let running = pool.apply_async(
            move || {
                has_begun.set();
                event.wait_timeout(DEADLINE)
            },
            (),
        )?;
        let called = Arc::new(AtomicBool::new(false));
        let flag = called.clone();
        let waiting = pool.apply_async(move || flag.store(true, Ordering::SeqCst), ())?;
        let many = pool.map_async(square, 0..100)?;
        let mut lazy = pool.imap_unordered(square, 0..)?;
        begun.wait();
        pool.terminate();
        let text = waiting.get().expect_err("it is not made").to_string();
        assert_eq!(text, "the pool was terminated before this was done");
        assert!(matches!(many.get(), Err(Error::Ended(_))));
        assert!(lazy.by_ref().take(17).all(|value| value.is_err()));
        assert!(!running.ready(), "what runs goes on");
        go_on.set();
        match by_drop {
            true => drop(pool),
            false => pool.join()?,
        }
        assert!(running.get()?);
        assert!(!called.load(Ordering::SeqCst));
    }
    Ok(())
}

#[test]
fn an_initializer_is_called_in_every_thread_before_all_else() -> Result<()> {
    deadline();
    thread_local!(static LANGUAGE: std::cell::RefCell<String> = const { std::cell::RefCell::new(String::new()) });
    let pool = Pool::builder()
        .workers(2)
        .initializer(
            |language: String| LANGUAGE.set(language),
            ("Rust".to_owned(),),
        )
        .start()?;
    let seen = pool.map(|_: u32| LANGUAGE.with_borrow(Clone::clone), 0..10)?;
    assert!(seen.iter().all(|language| language == "Rust"), "{seen:?}");
    pool.join()
}

#[test]
fn a_pool_whose_initializer_fails_gives_up() -> Result<()> {
    deadline();
    let go_on = Event::new();
    let event = go_on.clone();
    let pool = Pool::builder()
        .workers(2)
        .name("worker")
        .initializer(
            move |number: u64| {
                event.wait_timeout(DEADLINE);
                assert_eq!(number % 2, 0, "an odd number");
            },
            (7,),
        )
        .start()?;
    let early = pool.apply_async(square, (1,))?;
    go_on.set();
    let text = early.get().expect_err("nobody runs it").to_string();
    assert!(
        text.starts_with("the pool's workers do not start: the initializer panicked at tests/"),
        "{text}"
    );
    let error = pool.join().expect_err("it has given up");
    assert!(matches!(error, Error::PoolStart { .. }), "{error}");
    assert!(matches!(
        pool.apply(square, (1,)),
        Err(Error::PoolStart { .. })
    ));
    Ok(())
}

#[test]
fn a_pool_has_at_least_one_thread() {
    deadline();
    assert!(matches!(Pool::new(0), Err(Error::PoolStart { .. })));
}

#[test]
fn many_threads_use_one_pool() -> Result<()> {
    deadline();
    let pool = Pool::new(2)?;
    std::thread::scope(|scope| {
        let users: Vec<_> = (0..8)
            .map(|user| {
                let pool = &pool;
                scope.spawn(move || -> Result<u64> {
                    let mut sum = 0;
                    for n in 0..50 {
                        sum += pool.apply(square, (n,))?;
                        sum += pool.map(square, 0..user)?.iter().sum::<u64>();
                    }
                    Ok(sum)
                })
            })
            .collect();
        for (user, handle) in (0..8u64).zip(users) {
            let squares = |n: u64| (0..n).map(|n| n * n).sum::<u64>();
            let sum = handle.join().expect("no panic").expect("no error");
            assert_eq!(sum, squares(50) + 50 * squares(user));
        }
    });
    pool.join()
}
