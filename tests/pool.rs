//! A pool of processes: what each verb gives, and that nothing that happens to a worker is felt by anybody but its task.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use procession::{Error, Pool, Result};
use rustix::process::{Pid, Signal, getpid, kill_process};

/// Longer than anything here takes; a test that waits for it hangs.
const LONG: Duration = Duration::from_secs(600);

#[procession::task]
fn square(n: u64) -> u64 {
    n * n
}

#[procession::task]
fn add(left: i32, right: i32) -> i32 {
    left + right
}

#[procession::task]
fn nap(millis: u64) -> u32 {
    thread::sleep(Duration::from_millis(millis));
    std::process::id()
}

#[procession::task]
fn whoami(_n: u64) -> u32 {
    std::process::id()
}

#[procession::task]
fn odd_fails(n: u64) -> std::result::Result<u64, String> {
    if n % 2 == 1 {
        Err(format!("{n} is odd"))
    } else {
        Ok(n)
    }
}

#[procession::task]
fn panics_at(n: u64, at: u64) -> u64 {
    assert!(n != at, "this is {n}");
    n
}

/// Kills its process when `n` is 13.
#[procession::task]
fn unlucky(n: u64) -> u64 {
    if n == 13 {
        kill_process(getpid(), Signal::KILL).expect("a signal to oneself");
        thread::sleep(LONG);
    }
    n
}

/// Sleeps for ever when `n` is 5.
#[procession::task]
fn stuck_at_five(n: u64) -> u64 {
    if n == 5 {
        thread::sleep(LONG);
    }
    n
}

static LOADED: AtomicU64 = AtomicU64::new(0);

#[procession::task]
fn load(value: u64) {
    LOADED.store(value, Ordering::SeqCst);
}

#[procession::task]
fn loaded(_n: u64) -> u64 {
    LOADED.load(Ordering::SeqCst)
}

#[procession::task]
fn cannot_load() -> std::result::Result<(), String> {
    Err("there is no such file".to_owned())
}

#[procession::task]
fn dies_loading() {
    kill_process(getpid(), Signal::KILL).expect("a signal to oneself");
    thread::sleep(LONG);
}

#[procession::task]
fn inner_pool(n: u64) -> std::result::Result<u64, String> {
    let pool = Pool::new(1).map_err(|error| error.to_string())?;
    pool.apply(square, (n,)).map_err(|error| error.to_string())
}

#[procession::task]
fn large(len: usize) -> Vec<u32> {
    vec![7; len]
}

#[procession::task]
fn total(numbers: Vec<u32>) -> u64 {
    numbers.iter().map(|&n| u64::from(n)).sum()
}

fn kill(pid: u32) {
    let pid = Pid::from_raw(pid as i32).expect("a process");
    // It may have gone by itself.
    let _ = kill_process(pid, Signal::KILL);
}

fn is_alive(pid: u32) -> bool {
    std::path::Path::new(&format!("/proc/{pid}")).exists()
}

/// Waits until `condition` holds; fails after a long time.
fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(240);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

// ---- what the verbs give ----

#[test]
fn apply_gives_the_value() -> Result<()> {
    let pool = Pool::new(2)?;
    assert_eq!(pool.apply(square, (12,))?, 144);
    assert_eq!(pool.apply(add, (2, -5))?, -3);
    Ok(())
}

#[test]
fn map_gives_the_values_in_the_order_of_the_items() -> Result<()> {
    let pool = Pool::new(3)?;
    for items in [0, 1, 2, 10, 1_000, 50_000] {
        let expected: Vec<u64> = (0..items).map(|n| n * n).collect();
        assert_eq!(pool.map(square, 0..items)?, expected);
    }
    for chunksize in [1, 7, 100_000] {
        let expected: Vec<u64> = (0..5_000).map(|n| n * n).collect();
        assert_eq!(pool.map_chunked(square, 0..5_000, chunksize)?, expected);
    }
    Ok(())
}

#[test]
fn starmap_takes_tuples() -> Result<()> {
    let pool = Pool::new(2)?;
    let items: Vec<(i32, i32)> = (0..100).map(|n| (n, -2 * n)).collect();
    let expected: Vec<i32> = (0..100).map(|n| -n).collect();
    assert_eq!(pool.starmap(add, items.clone())?, expected);
    assert_eq!(pool.starmap_async(add, items)?.get()?, expected);
    Ok(())
}

#[test]
fn async_results_are_asked_in_every_way() -> Result<()> {
    let pool = Pool::new(1)?;
    let slow = pool.apply_async(nap, (300,))?;
    assert!(!slow.ready());
    assert_eq!(slow.successful(), None);
    assert_eq!(slow.get_timeout(Duration::from_millis(1))?, None);
    assert!(!slow.wait_timeout(Duration::from_millis(1)));
    slow.wait();
    assert!(slow.ready());
    assert_eq!(slow.successful(), Some(true));
    assert_eq!(slow.get()?, slow.get()?);
    let failed = pool.apply_async(odd_fails, (3,))?;
    failed.wait();
    assert_eq!(failed.successful(), Some(false));
    let many = pool.map_async(square, 0..20_000)?;
    assert_eq!(
        many.get_timeout(LONG)?.map(|values| values.len()),
        Some(20_000)
    );
    Ok(())
}

#[test]
fn several_async_results_are_waited_for_at_once() -> Result<()> {
    let pool = Pool::new(2)?;
    let long = pool.apply_async(nap, (600_000,))?;
    let short = pool.apply_async(nap, (1,))?;
    assert_eq!(procession::wait(&[&long, &short], Some(LONG))?, [1]);
    pool.terminate();
    assert_eq!(procession::wait(&[&long, &short], Some(LONG))?, [0, 1]);
    Ok(())
}

#[test]
fn imap_of_an_endless_input_reads_it_a_bounded_way_ahead() -> Result<()> {
    let pool = Pool::new(2)?;
    let read = AtomicU64::new(0);
    let items = (0..).inspect(|_| {
        read.fetch_add(1, Ordering::Relaxed);
    });
    let mut results = pool.tasks(square).chunksize(1).imap(items)?;
    for n in 0..100_000u64 {
        assert_eq!(results.next().expect("there is no end")?, n * n);
    }
    let ahead = read.load(Ordering::Relaxed) - 100_000;
    assert!(ahead <= 20_000, "{ahead} items were read ahead");
    drop(results);
    assert_eq!(pool.apply(square, (3,))?, 9);
    Ok(())
}

#[test]
fn imap_keeps_the_order_and_imap_unordered_gives_what_is_there() -> Result<()> {
    let pool = Pool::new(2)?;
    // The first item takes longest.
    let naps = [400, 1, 1, 1, 1, 1];
    let mut unordered = pool.tasks(nap).chunksize(1).imap_unordered(naps)?;
    let mut first = 0;
    for _ in 0..5 {
        first = unordered.next().expect("six results")?;
    }
    let last = unordered.next().expect("six results")?;
    assert_ne!(first, last, "the long one was done by the other worker");
    assert!(unordered.next().is_none());
    let values: Result<Vec<u64>> = pool.imap(square, 0..3_000)?.collect();
    assert_eq!(values?, (0..3_000).map(|n| n * n).collect::<Vec<_>>());
    let values: Result<HashSet<u64>> = pool.imap_unordered(square, 0..3_000)?.collect();
    assert_eq!(values?.len(), 3_000);
    Ok(())
}

#[test]
fn callbacks_get_the_value_or_the_error() -> Result<()> {
    let pool = Pool::new(1)?;
    let (say, heard) = channel();
    for n in [2, 3] {
        let (value, error) = (say.clone(), say.clone());
        pool.apply_async_with(
            odd_fails,
            (n,),
            move |it| value.send(it.to_string()).expect("heard"),
            move |it| error.send(it.to_string()).expect("heard"),
        )?;
    }
    let (value, error) = (say.clone(), say);
    pool.tasks(square).map_async_with(
        0..3,
        move |it| value.send(format!("{it:?}")).expect("heard"),
        move |it| error.send(it.to_string()).expect("heard"),
    )?;
    pool.join()?;
    let said: Vec<String> = heard.iter().collect();
    assert_eq!(said.len(), 3, "{said:?}");
    assert_eq!(said[0], "2");
    assert!(said[1].contains("3 is odd"), "{said:?}");
    assert_eq!(said[2], "[0, 1, 4]");
    Ok(())
}

#[test]
fn many_threads_use_one_pool_and_maps_go_on_side_by_side() -> Result<()> {
    let pool = Pool::new(2)?;
    thread::scope(|scope| {
        for offset in 0..8u64 {
            let pool = &pool;
            scope.spawn(move || {
                for _ in 0..5 {
                    let items = offset * 1_000..offset * 1_000 + 500;
                    let expected: Vec<u64> = items.clone().map(|n| n * n).collect();
                    assert_eq!(pool.map(square, items).expect("values"), expected);
                    assert_eq!(
                        pool.apply(square, (offset,)).expect("a value"),
                        offset * offset
                    );
                }
            });
        }
    });
    Ok(())
}

#[test]
fn large_arguments_and_values_travel() -> Result<()> {
    let pool = Pool::new(1)?;
    let numbers = pool.apply(large, (1_000_000,))?;
    assert_eq!(numbers.len(), 1_000_000);
    assert_eq!(pool.apply(total, (numbers,))?, 7_000_000);
    let all = pool.map(large, vec![100_000; 20])?;
    assert!(all.iter().all(|numbers| numbers.len() == 100_000));
    Ok(())
}

// ---- tasks that fail ----

#[test]
fn an_error_of_a_call_is_its_own() -> Result<()> {
    let pool = Pool::new(2)?;
    let results: Vec<_> = pool.tasks(odd_fails).chunksize(50).imap(0..200)?.collect();
    assert_eq!(results.len(), 200);
    for (n, result) in (0u64..).zip(results) {
        match (n % 2, result) {
            (0, Ok(value)) => assert_eq!(value, n),
            (1, Err(error @ Error::TaskFailed { .. })) => {
                let text = error.to_string();
                assert!(text.contains(&format!("{n} is odd")), "{text}");
                assert!(
                    text.contains("odd_fails") && text.contains(&format!("call {n}")),
                    "{text}"
                );
            }
            (_, other) => panic!("{n}: {other:?}"),
        }
    }
    let first = pool
        .map(odd_fails, 0..200)
        .expect_err("every other item fails");
    assert!(first.to_string().contains("1 is odd"), "{first}");
    Ok(())
}

#[test]
fn a_panic_comes_back_with_its_message_and_place() -> Result<()> {
    let pool = Pool::new(1)?;
    let error = pool.apply(panics_at, (4, 4)).expect_err("it panics");
    let Error::TaskFailed {
        message,
        location,
        pid,
        ..
    } = &error
    else {
        panic!("{error:?}");
    };
    assert!(message.contains("this is 4"), "{message}");
    assert!(
        location.as_deref().is_some_and(|at| at.contains("pool.rs")),
        "{location:?}"
    );
    assert_eq!(pool.pids(), [*pid], "the worker goes on");
    assert_eq!(pool.apply(panics_at, (4, 5))?, 4);
    Ok(())
}

#[test]
fn a_pool_inside_a_worker_is_a_clear_error() -> Result<()> {
    let pool = Pool::new(1)?;
    let error = pool
        .apply(inner_pool, (3,))
        .expect_err("a daemon has no children");
    assert!(error.to_string().contains("daemon"), "{error}");
    Ok(())
}

// ---- time limits ----

#[test]
fn a_call_that_takes_too_long_is_its_own_error_and_nothing_else_is_lost() -> Result<()> {
    let pool = Pool::builder().workers(1).start()?;
    for chunksize in [1, 4, 20] {
        let results: Vec<_> = pool
            .tasks(stuck_at_five)
            .chunksize(chunksize)
            .time_limit(Duration::from_millis(200))
            .imap(0..20)?
            .collect();
        assert_eq!(results.len(), 20);
        for (n, result) in (0u64..).zip(results) {
            match result {
                Ok(value) => assert_eq!(value, n),
                Err(error) => {
                    assert_eq!(n, 5, "{error}");
                    assert!(matches!(error, Error::TaskTimedOut { .. }), "{error:?}");
                    assert!(error.to_string().contains("0.2 s"), "{error}");
                }
            }
        }
    }
    Ok(())
}

#[test]
fn a_worker_that_took_too_long_is_replaced_and_gone() -> Result<()> {
    let pool = Pool::builder()
        .workers(1)
        .time_limit(Duration::from_millis(100))
        .start()?;
    let before = pool.apply(whoami, (0,))?;
    let error = pool
        .apply(stuck_at_five, (5,))
        .expect_err("it takes too long");
    assert!(
        matches!(error, Error::TaskTimedOut { pid, .. } if pid == before),
        "{error:?}"
    );
    assert_ne!(pool.apply(whoami, (0,))?, before);
    until("its end", || !is_alive(before));
    Ok(())
}

#[test]
fn a_shorter_limit_is_kept_after_a_longer_one() -> Result<()> {
    let pool = Pool::new(1)?;
    let patient = pool.tasks(stuck_at_five).time_limit(LONG);
    assert_eq!(patient.apply((1,))?, 1);
    let error = pool
        .tasks(stuck_at_five)
        .time_limit(Duration::from_millis(200))
        .apply_async((5,))?
        .get_timeout(LONG / 2)
        .expect_err("it takes too long");
    assert!(matches!(error, Error::TaskTimedOut { .. }), "{error:?}");
    Ok(())
}

// ---- max_tasks_per_child, initializer ----

#[test]
fn a_worker_leaves_after_its_tasks_and_is_replaced() -> Result<()> {
    let pool = Pool::builder().workers(2).max_tasks_per_child(10).start()?;
    let mut pids: Vec<u32> = pool.map(whoami, 0..200)?;
    assert_eq!(pids.len(), 200);
    pids.sort_unstable();
    let groups: Vec<usize> = pids
        .chunk_by(|left, right| left == right)
        .map(<[u32]>::len)
        .collect();
    assert!(groups.iter().all(|&calls| calls <= 10), "{groups:?}");
    pool.join()
}

#[test]
fn every_worker_is_initialized_the_replaced_ones_too() -> Result<()> {
    let pool = Pool::builder()
        .workers(2)
        .initializer(load, (42,))?
        .max_tasks_per_child(5)
        .start()?;
    assert!(pool.map(loaded, 0..40)?.iter().all(|&value| value == 42));
    pool.pids().iter().for_each(|&pid| kill(pid));
    assert!(pool.map(loaded, 0..40)?.iter().all(|&value| value == 42));
    Ok(())
}

#[test]
fn an_initializer_that_fails_ends_in_a_clear_error() -> Result<()> {
    let pool = Pool::builder()
        .workers(2)
        .initializer(cannot_load, ())?
        .start()?;
    let error = pool.apply(square, (2,)).expect_err("no worker is ready");
    let text = error.to_string();
    assert!(
        text.contains("cannot_load") && text.contains("there is no such file"),
        "{text}"
    );
    assert!(matches!(error, Error::PoolStart { .. }));
    until("the end of all workers", || pool.pids().is_empty());
    assert!(matches!(
        pool.map(square, 0..3),
        Err(Error::PoolStart { .. })
    ));
    assert!(pool.join().is_err());
    Ok(())
}

#[test]
fn an_initializer_that_kills_its_worker_ends_in_a_clear_error() -> Result<()> {
    let pool = Pool::builder()
        .workers(2)
        .initializer(dies_loading, ())?
        .start()?;
    let error = pool.map(square, 0..10).expect_err("no worker is ready");
    let text = error.to_string();
    assert!(
        text.contains("dies_loading") && text.contains("SIGKILL"),
        "{text}"
    );
    Ok(())
}

#[test]
fn a_pool_without_workers_is_refused() {
    let error = Pool::new(0).expect_err("nobody would work");
    assert!(error.to_string().contains("at least one worker"), "{error}");
}

// ---- workers of other programs ----

#[test]
fn workers_that_join_take_part_and_end_with_the_pool() -> Result<()> {
    for endpoint in ["tcp://127.0.0.1:*", "ipc"] {
        let folder = tempfile::tempdir().expect("a folder");
        let endpoint = match endpoint {
            "ipc" => format!("ipc://{}", folder.path().join("pool").display()),
            other => other.to_owned(),
        };
        let pool = Pool::builder()
            .workers(0)
            .bind(endpoint)
            .initializer(load, (7,))?
            .start()?;
        let endpoint = pool.endpoint().expect("it is bound").to_string();
        let worker = thread::spawn(move || Pool::worker(&endpoint).workers(2).run());
        assert_eq!(pool.map(square, 0..50_000)?.len(), 50_000);
        assert_eq!(pool.apply(loaded, (0,))?, 7);
        let pids: HashSet<u32> = pool
            .tasks(nap)
            .chunksize(1)
            .map(vec![20; 20])?
            .into_iter()
            .collect();
        assert_eq!(pids.len(), 2);
        let error = pool
            .apply(unlucky, (13,))
            .expect_err("its worker dies each time");
        assert!(matches!(error, Error::WorkerDied { .. }), "{error:?}");
        assert_eq!(pool.apply(square, (5,))?, 25);
        pool.join()?;
        worker.join().expect("no panic")?;
    }
    Ok(())
}

#[test]
fn tasks_wait_for_workers_no_longer_than_patience() -> Result<()> {
    let pool = Pool::builder()
        .workers(0)
        .bind("tcp://127.0.0.1:*")
        .patience(Duration::from_millis(300))
        .start()?;
    let error = pool.apply(square, (2,)).expect_err("nobody is there");
    assert!(matches!(error, Error::NobodyThere { .. }), "{error:?}");
    assert!(error.to_string().contains("Pool::worker"), "{error}");
    Ok(())
}

#[test]
fn a_worker_without_a_pool_gives_up() {
    let error = Pool::worker("ipc:///tmp/procession-there-is-no-such-pool")
        .patience(Duration::from_millis(200))
        .run()
        .expect_err("nobody is there");
    assert!(matches!(error, Error::NobodyThere { .. }), "{error:?}");
}
