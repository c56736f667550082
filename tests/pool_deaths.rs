//! Pools whose workers die, or cannot be replaced: only the tasks that a worker died of feel it.

mod children;

use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use children::{DEADLINE, Outcome, in_time, until, value};
use procession::{Error, Pool, Process, Result};
use rustix::process::{Pid, Resource, Rlimit, Signal, getpid, getrlimit, kill_process, setrlimit};

/// Longer than anything here takes; a test that waits for it hangs.
const LONG: Duration = Duration::from_secs(600);

#[procession::task]
fn square(n: u64) -> u64 {
    n * n
}

#[procession::task]
fn nap(millis: u64) -> u32 {
    thread::sleep(Duration::from_millis(millis));
    std::process::id()
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

#[procession::task]
fn exits(code: i32) {
    std::process::exit(code);
}

/// Kills its process the first time, by a file that says that it was here.
#[procession::task]
fn dies_once(path: String) -> u32 {
    if std::fs::File::create_new(&path).is_ok() {
        kill_process(getpid(), Signal::KILL).expect("a signal to oneself");
        thread::sleep(LONG);
    }
    std::process::id()
}

fn kill(pid: u32) {
    let pid = Pid::from_raw(pid as i32).expect("a process");
    // It may have gone by itself.
    let _ = kill_process(pid, Signal::KILL);
}

// ---- workers that die ----

#[test]
fn a_task_that_kills_its_worker_fails_alone_and_says_of_what() -> Result<()> {
    let pool = Pool::new(2)?;
    let results: Vec<_> = pool.imap(unlucky, 0..500)?.collect();
    assert_eq!(results.len(), 500);
    for (n, result) in (0u64..).zip(results) {
        match result {
            Ok(value) => assert_eq!(value, n),
            Err(error) => {
                assert_eq!(n, 13);
                let text = error.to_string();
                assert!(
                    text.contains("signal 9 (") && text.contains("attempt 3"),
                    "{text}"
                );
            }
        }
    }
    assert_eq!(pool.apply(square, (3,))?, 9);
    Ok(())
}

#[test]
fn an_exit_is_a_death_and_its_code_is_told() -> Result<()> {
    let pool = Pool::builder().workers(1).retries(0).start()?;
    let error = pool.apply(exits, (7,)).expect_err("it exits");
    assert!(error.to_string().contains("exited with code 7"), "{error}");
    assert!(
        matches!(error, Error::WorkerDied { attempt: 1, .. }),
        "{error:?}"
    );
    Ok(())
}

#[test]
fn a_task_is_run_again_after_a_death() -> Result<()> {
    let folder = tempfile::tempdir().expect("a folder");
    let pool = Pool::new(1)?;
    let before = pool.pids();
    let path = folder.path().join("was here").display().to_string();
    let pid = pool.apply(dies_once, (path,))?;
    assert!(!before.contains(&pid));
    Ok(())
}

#[test]
fn workers_killed_in_turn_and_all_at_once_cost_no_result() -> Result<()> {
    let pool = Pool::builder().workers(3).retries(1_000).start()?;
    let stop = AtomicBool::new(false);
    let done = AtomicU64::new(0);
    thread::scope(|scope| -> Result<()> {
        let pool = &pool;
        let stop = &stop;
        let done = &done;
        let killer = scope.spawn(move || {
            let mut deaths = 0;
            let mut before = 0;
            while !stop.load(Ordering::Relaxed) {
                // However slow the machine is: between two deaths something is done.
                let now = done.load(Ordering::Relaxed);
                if now < before + 50 {
                    thread::sleep(Duration::from_millis(1));
                    continue;
                }
                before = now;
                let pids = pool.pids();
                if deaths % 4 == 3 {
                    pids.iter().for_each(|&pid| kill(pid));
                } else if let Some(&pid) = pids.first() {
                    kill(pid);
                }
                deaths += 1;
                thread::sleep(Duration::from_millis(30));
            }
            deaths
        });
        let calls = || -> Result<()> {
            for chunksize in [1, 100] {
                let results = pool.tasks(square).chunksize(chunksize).imap(0..20_000)?;
                let mut expected = 0u64;
                for result in results {
                    assert_eq!(result?, expected * expected);
                    expected += 1;
                    done.fetch_add(1, Ordering::Relaxed);
                }
                assert_eq!(expected, 20_000);
            }
            for result in pool.tasks(nap).chunksize(1).imap_unordered(vec![2; 600])? {
                result?;
                done.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        };
        let outcome = calls();
        stop.store(true, Ordering::Relaxed);
        let deaths = killer.join().expect("no panic");
        outcome?;
        assert!(deaths > 5, "{deaths} deaths are a poor test");
        Ok(())
    })?;
    pool.join()
}

#[test]
fn idle_workers_that_are_killed_are_replaced() -> Outcome {
    let pool = Pool::new(2)?;
    pool.map(square, 0..100)?;
    let before = pool.pids();
    assert_eq!(before.len(), 2);
    before.iter().for_each(|&pid| kill(pid));
    until("two new workers", || {
        let now = pool.pids();
        Ok(now.len() == 2 && now.iter().all(|pid| !before.contains(pid)))
    })?;
    assert_eq!(pool.apply(square, (5,))?, 25);
    Ok(())
}

// ---- workers that cannot be started ----

/// This process's limit of descriptors while none can be opened; it is as before when this is dropped.
struct NoDescriptors(Rlimit);

/// All descriptors below this number are taken before there is a pool, and none above is allowed when they run out. (It is larger
/// than the number of those that are polled at once.)
const FEW: u64 = 24;

impl NoDescriptors {
    /// To be called before there is a pool.
    fn prepare() -> std::io::Result<Vec<File>> {
        use std::os::fd::AsRawFd;
        let mut taken = Vec::new();
        loop {
            let next = File::open("/dev/null")?;
            if next.as_raw_fd() as u64 >= FEW {
                return Ok(taken);
            }
            taken.push(next);
        }
    }

    fn run_out() -> Outcome<Self> {
        let before = getrlimit(Resource::Nofile);
        let few = Rlimit {
            current: Some(FEW),
            ..before
        };
        setrlimit(Resource::Nofile, few)?;
        assert!(File::open("/dev/null").is_err(), "none is left");
        Ok(Self(before))
    }
}

impl Drop for NoDescriptors {
    fn drop(&mut self) {
        setrlimit(Resource::Nofile, self.0).expect("it was allowed before");
    }
}

/// Waits until both workers of a pool have made calls. (One that could not connect, for want of a descriptor, would not be there.)
fn both_work(pool: &Pool) -> Outcome {
    until("both workers", || {
        let mut pids = pool.tasks(nap).chunksize(1).map(vec![5; 4])?;
        pids.sort_unstable();
        pids.dedup();
        Ok(pids.len() == 2)
    })
}

fn goes_on_with_the_others() -> Outcome {
    let _taken = NoDescriptors::prepare()?;
    let pool = Pool::builder()
        .workers(2)
        .patience(Duration::from_millis(50))
        .start()?;
    both_work(&pool)?;
    let before = pool.pids();
    let none = NoDescriptors::run_out()?;
    kill(before[0]);
    until("a death", || Ok(pool.pids() == before[1..]))?;
    // Longer than the patience, which is for a pool that has nobody.
    let since = Instant::now();
    while since.elapsed() < Duration::from_millis(300) {
        assert_eq!(pool.apply(square, (7,))?, 49);
    }
    drop(none);
    until("another worker", || Ok(pool.pids().len() == 2))?;
    assert_eq!(pool.map(square, 0..1_000)?.len(), 1_000);
    Ok(pool.join()?)
}

fn waits_until_there_are_some_again() -> Outcome {
    let _taken = NoDescriptors::prepare()?;
    let pool = Pool::builder().workers(2).patience(LONG).start()?;
    both_work(&pool)?;
    let none = NoDescriptors::run_out()?;
    pool.pids().into_iter().for_each(kill);
    until("their deaths", || Ok(pool.pids().is_empty()))?;
    let result = pool.apply_async(square, (7,))?;
    assert!(!result.wait_timeout(Duration::from_millis(50)));
    drop(none);
    assert_eq!(result.get_timeout(DEADLINE)?, Some(49));
    until("all workers", || Ok(pool.pids().len() == 2))?;
    Ok(pool.join()?)
}

fn says_why_when_there_are_none_for_too_long() -> Outcome {
    let _taken = NoDescriptors::prepare()?;
    let pool = Pool::builder()
        .workers(2)
        .patience(Duration::from_millis(200))
        .start()?;
    both_work(&pool)?;
    let none = NoDescriptors::run_out()?;
    let waiting = pool.map_async(nap, vec![600_000; 10])?;
    pool.pids().into_iter().for_each(kill);
    let error = waiting
        .get_timeout(DEADLINE)
        .expect_err("there is no worker");
    let text = error.to_string();
    assert!(matches!(error, Error::PoolStart { .. }), "{error:?}");
    assert!(
        text.contains("could be started for 0.2 s") && text.contains("open files"),
        "{text}"
    );
    assert!(matches!(
        pool.apply(square, (7,)),
        Err(Error::PoolStart { .. })
    ));
    assert!(pool.join().is_err());
    drop(none);
    Ok(())
}

fn refuses_more_than_there_is_room_for() -> Outcome {
    let limit = Rlimit {
        current: Some(200),
        maximum: Some(200),
    };
    setrlimit(Resource::Nofile, limit)?;
    let error = Pool::new(100).expect_err("they have no room");
    assert!(matches!(error, Error::Start { .. }), "{error:?}");
    let pool = Pool::new(10)?;
    assert_eq!(pool.map(square, 0..10_000)?.len(), 10_000);
    Ok(pool.join()?)
}

/// Runs one of these in a process of its own: limits are those of a process.
#[procession::task]
fn with_limits(which: String) -> Result<(), String> {
    let outcome = match &*which {
        "goes on" => goes_on_with_the_others(),
        "waits" => waits_until_there_are_some_again(),
        "refuses" => refuses_more_than_there_is_room_for(),
        _ => says_why_when_there_are_none_for_too_long(),
    };
    outcome.map_err(|error| error.to_string())
}

#[test]
fn a_worker_that_cannot_be_replaced_now_is_replaced_later_and_the_others_go_on() -> Outcome {
    in_time(|| value(&Process::spawn(with_limits, ("goes on".to_owned(),))?))
}

#[test]
fn tasks_wait_while_no_worker_can_be_started_for_a_moment() -> Outcome {
    in_time(|| value(&Process::spawn(with_limits, ("waits".to_owned(),))?))
}

#[test]
fn tasks_fail_and_say_why_when_no_worker_can_be_started_for_too_long() -> Outcome {
    in_time(|| value(&Process::spawn(with_limits, ("says why".to_owned(),))?))
}

#[test]
fn a_pool_of_more_workers_than_descriptors_allow_is_refused() -> Outcome {
    in_time(|| value(&Process::spawn(with_limits, ("refuses".to_owned(),))?))
}

/// Succeeds in the first worker. In others it fails, when there is a file of that name.
#[procession::task]
fn only_once(path: String, go: String) -> std::io::Result<()> {
    let first = File::create_new(path).map(drop);
    while first.is_err() && !std::path::Path::new(&go).exists() {
        thread::sleep(Duration::from_millis(2));
    }
    first
}

#[test]
fn a_worker_that_is_ready_goes_on_while_the_initializer_of_others_fails() -> Outcome {
    in_time(|| {
        let folder = tempfile::tempdir()?;
        let path = |name: &str| folder.path().join(name).display().to_string();
        let pool = Pool::builder()
            .workers(2)
            .initializer(only_once, (path("once"), path("go")))?
            .start()?;
        let ready = pool.apply(nap, (0,))?;
        File::create(path("go"))?;
        // More than it takes to give up when nobody is ready.
        for _ in 0..5 {
            let before = pool.pids();
            until("another try", || Ok(pool.pids() != before))?;
            assert_eq!(pool.apply(nap, (0,))?, ready);
        }
        Ok(())
    })
}
