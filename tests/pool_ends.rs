//! How pools end: by `join`, `terminate` and drop, with their program, and what becomes of those who still read from them.

mod children;

use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use children::{DEADLINE, Outcome, in_time, next, until, value, within};
use procession::process::Stdio;
use procession::{Error, Pool, Process, Queue, Result};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize, Serializer};

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

fn signal(pid: u32, signal: Signal) -> Outcome {
    let pid = Pid::from_raw(i32::try_from(pid)?).ok_or("no process id")?;
    Ok(kill_process(pid, signal)?)
}

fn is_alive(pid: u32) -> bool {
    // One that nobody has reaped is dead.
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        !stat
            .rsplit(") ")
            .next()
            .is_some_and(|rest| rest.starts_with('Z'))
    })
}

/// What is in the private directory of programs whose runtime directory this is.
fn left_in(runtime: &Path) -> std::io::Result<Vec<String>> {
    std::fs::read_dir(runtime.join("procession"))?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect()
}

// ---- the end ----

#[test]
fn join_waits_for_what_was_begun_and_leaves_no_process() -> Result<()> {
    let pool = Pool::new(2)?;
    let results: Vec<_> = (0..20)
        .map(|_| pool.apply_async(nap, (20,)))
        .collect::<Result<_>>()?;
    let many = pool.map_async(square, 0..100_000)?;
    let pids = pool.pids();
    pool.close();
    assert!(matches!(pool.apply(square, (1,)), Err(Error::Ended(_))));
    pool.join()?;
    assert!(results.iter().all(procession::pool::AsyncResult::ready));
    assert_eq!(many.get()?.len(), 100_000);
    assert!(pids.iter().all(|&pid| !is_alive(pid)));
    pool.join()
}

#[test]
fn drop_kills_what_runs_and_tells_who_waits() -> Outcome {
    let pool = Pool::new(2)?;
    let long: Vec<_> = (0..8)
        .map(|_| pool.apply_async(nap, (600_000,)))
        .collect::<Result<_>>()?;
    let mut results = pool.map_async(nap, vec![600_000u64; 8])?;
    let _ = &mut results;
    let pids = pool.pids();
    until("the first to run", || Ok(pool.pids().len() == 2))?;
    let waiter = thread::spawn(move || long[0].get().expect_err("it was terminated").to_string());
    drop(pool);
    let text = waiter.join().expect("no panic");
    assert!(text.contains("terminated"), "{text}");
    assert!(matches!(results.get(), Err(Error::Ended(_))));
    assert!(pids.iter().all(|&pid| !is_alive(pid)));
    Ok(())
}

#[test]
fn terminate_ends_a_map_of_another_thread() -> Outcome {
    let pool = Pool::new(1)?;
    thread::scope(|scope| {
        let pool = &pool;
        let map = scope.spawn(move || pool.map(nap, vec![600_000u64; 4]));
        until("the map to begin", || Ok(!pool.pids().is_empty()))?;
        thread::sleep(Duration::from_millis(50));
        pool.terminate();
        assert!(matches!(
            map.join().expect("no panic"),
            Err(Error::Ended(_))
        ));
        Ok(())
    })
}

#[test]
fn join_waits_for_callbacks() -> Outcome {
    in_time(|| {
        let pool = Pool::new(1)?;
        let called = std::sync::Arc::new(AtomicBool::new(false));
        let call = std::sync::Arc::clone(&called);
        pool.apply_async_with(
            square,
            (7,),
            move |_| {
                // Long enough for the pool to end meanwhile, if it did not wait.
                thread::sleep(Duration::from_millis(200));
                call.store(true, Ordering::SeqCst);
            },
            |error| panic!("{error}"),
        )?;
        pool.join()?;
        assert!(called.load(Ordering::SeqCst));
        Ok(())
    })
}

// ---- imap ----

#[test]
fn an_imap_goes_on_after_close_and_join_does_not_wait_for_one_that_was_dropped() -> Outcome {
    in_time(|| {
        for ordered in [true, false] {
            let pool = Pool::new(2)?;
            let mut results: Box<dyn Iterator<Item = Result<u64>>> = match ordered {
                true => Box::new(pool.imap(square, 0..)?),
                false => Box::new(pool.imap_unordered(square, 0..)?),
            };
            pool.close();
            assert!(matches!(pool.imap(square, 0..), Err(Error::Ended(_))));
            for _ in 0..50_000 {
                results.next().ok_or("it is endless")??;
            }
            drop(results);
            pool.join()?;
        }
        Ok(())
    })
}

#[test]
fn an_imap_that_was_not_read_to_its_end_before_join_says_so_behind_what_is_there() -> Outcome {
    in_time(|| {
        let pool = Pool::new(2)?;
        let mut results = pool.imap(square, 0..)?;
        assert_eq!(results.next().ok_or("it is endless")??, 0);
        pool.join()?;
        let mut expected = 1;
        let error = loop {
            match results.next().ok_or("an error comes first")? {
                Ok(value) => assert_eq!(value, expected * expected),
                Err(error) => break error,
            }
            expected += 1;
        };
        assert!(expected > 1, "what was worked on is there");
        assert!(error.to_string().contains("before that"), "{error}");
        assert!(results.next().is_none());
        // One whose items were all read is complete.
        let pool = Pool::new(2)?;
        let results = pool.tasks(nap).chunksize(1).imap([1; 4])?;
        pool.join()?;
        assert_eq!(results.collect::<Result<Vec<_>>>()?.len(), 4);
        Ok(())
    })
}

#[test]
fn an_endless_imap_ends_with_its_pool() -> Outcome {
    in_time(|| {
        for (ordered, is_dropped) in [(true, true), (true, false), (false, true), (false, false)] {
            let pool = Pool::new(2)?;
            let mut results: Box<dyn Iterator<Item = Result<u64>>> = match ordered {
                true => Box::new(pool.imap(square, 0..)?),
                false => Box::new(pool.imap_unordered(square, 0..)?),
            };
            results.next().ok_or("it is endless")??;
            let pids = pool.pids();
            match is_dropped {
                true => drop(pool),
                false => pool.terminate(),
            }
            assert!(pids.iter().all(|&pid| !is_alive(pid)));
            let error = results.find_map(Result::err).ok_or("it does not say so")?;
            assert!(matches!(error, Error::Ended(_)), "{error:?}");
            assert!(results.next().is_none());
        }
        Ok(())
    })
}

#[test]
fn terminate_ends_an_imap_that_another_thread_reads() -> Outcome {
    in_time(|| {
        let pool = Pool::new(1)?;
        let mut results = pool.imap(nap, std::iter::repeat(600_000))?;
        let reader = thread::spawn(move || results.next());
        until("a call to be made", || Ok(!pool.pids().is_empty()))?;
        pool.terminate();
        let said = within(DEADLINE, || reader.join())?.map_err(|_| "it panicked")?;
        assert!(matches!(said, Some(Err(Error::Ended(_)))), "{said:?}");
        Ok(())
    })
}

/// A number that cannot be encoded when it is odd, and not even tried when it is 9,000.
#[derive(Deserialize)]
struct Stubborn(u64);

impl Serialize for Stubborn {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self.0 {
            9_000 => panic!("no further"),
            n if n % 2 == 1 => Err(serde::ser::Error::custom("it is odd")),
            n => serializer.serialize_u64(n),
        }
    }
}

#[procession::task]
fn soften(stubborn: Stubborn) -> u64 {
    stubborn.0
}

#[test]
fn items_that_cannot_be_encoded_are_errors_of_their_own_in_an_endless_input_too() -> Outcome {
    in_time(|| {
        let pool = Pool::new(1)?;
        let mut odd = pool.imap(soften, (0..).map(|n| Stubborn(2 * n + 1)))?;
        for _ in 0..5_000 {
            let error = odd.next().ok_or("it is endless")?.expect_err("it is odd");
            assert!(error.to_string().contains("it is odd"), "{error}");
        }
        drop(odd);
        let mixed = pool.imap(soften, (10_000..).map(Stubborn))?;
        for (n, result) in (10_000..15_000).zip(mixed) {
            assert_eq!(result.ok(), (n % 2 == 0).then_some(n));
        }
        pool.terminate();
        assert!(pool.imap(soften, (10_000..).map(Stubborn)).is_err());
        Ok(())
    })
}

#[test]
fn a_job_of_items_that_cannot_be_encoded_ends() -> Outcome {
    in_time(|| {
        let pool = Pool::new(1)?;
        for count in [1, 33, 5_000] {
            let result = pool.map_async(soften, (0..count).map(|n| Stubborn(2 * n + 1)))?;
            let error = result.get_timeout(DEADLINE).expect_err("they are odd");
            assert!(error.to_string().contains("it is odd"), "{error}");
        }
        Ok(())
    })
}

#[procession::task]
fn soften_slowly(stubborn: Stubborn) -> u64 {
    thread::sleep(Duration::from_micros(100));
    stubborn.0
}

#[test]
fn a_panic_while_arguments_are_encoded_is_an_error_of_who_waits() -> Outcome {
    in_time(|| {
        let pool = Pool::new(2)?;
        let items = (0..6_000).map(|n| Stubborn(2 * n));
        let result = pool.tasks(soften_slowly).chunksize(1).map_async(items)?;
        let error = result.get_timeout(DEADLINE).expect_err("an item panics");
        assert!(error.to_string().contains("no further"), "{error}");
        assert_eq!(pool.apply(square, (7,))?, 49);
        Ok(pool.join()?)
    })
}

// ---- the program's end ----

static POOL: OnceLock<Pool> = OnceLock::new();

/// Ends with a pool that was not dropped and that works.
#[procession::task]
fn end_with_a_pool(way: String, pids: Queue<Vec<u32>>) -> Result<()> {
    let pool = Pool::new(2)?;
    pool.map(square, 0..1_000)?;
    pool.map_async(nap, vec![600_000; 10])?;
    pids.put(pool.pids())?;
    pids.flush()?;
    match &*way {
        "static" => drop(POOL.set(pool)),
        "static that is used" => {
            let pool = POOL.get_or_init(|| pool);
            thread::spawn(|| pool.map(nap, vec![600_000; 10]));
            thread::spawn(|| pool.join());
            thread::spawn(|| pool.imap_unordered(square, 0..).map(Iterator::count));
        }
        "forgotten" => std::mem::forget(pool),
        "exit" => std::process::exit(0),
        "exit of a thread" => {
            let _ = thread::spawn(|| std::process::exit(0)).join();
        }
        "exit of a callback" => {
            let exit = |_| std::process::exit(0);
            pool.tasks(soften)
                .map_async_with([Stubborn(1)], |_| (), exit)?;
            thread::sleep(LONG);
        }
        "killed" => {
            let _ = kill_process(rustix::process::getpid(), Signal::KILL);
            thread::sleep(LONG);
        }
        _ => drop(pool),
    }
    Ok(())
}

fn start_and_end(way: &str, runtime: &Path) -> Outcome<(Process<()>, Vec<u32>)> {
    let pids = Queue::new()?;
    let process = Process::builder()
        .env("XDG_RUNTIME_DIR", runtime)
        .stderr(Stdio::null())
        .spawn(end_with_a_pool, (way.to_owned(), pids.clone()))?;
    let workers = next(&pids)?;
    match process.join_timeout(DEADLINE) {
        Ok(None) => Err(format!("{way}: it does not end").into()),
        _ => Ok((process, workers)),
    }
}

#[test]
fn a_pool_that_is_not_dropped_is_terminated_at_the_end_of_its_program() -> Outcome {
    in_time(|| {
        for way in [
            "static",
            "static that is used",
            "forgotten",
            "exit",
            "exit of a thread",
            "exit of a callback",
        ] {
            let runtime = tempfile::tempdir()?;
            let (process, workers) = start_and_end(way, runtime.path())?;
            assert_eq!(process.exit_code(), Some(0), "{way}");
            until("the workers' end", || {
                Ok(!workers.iter().any(|&pid| is_alive(pid)))
            })?;
            assert!(left_in(runtime.path())?.is_empty(), "{way}");
        }
        Ok(())
    })
}

/// Ends while it has workers for another program's pool.
#[procession::task]
fn lend_workers(endpoint: String, enough: Queue<()>) -> Result<()> {
    thread::spawn(move || Pool::worker(&endpoint).workers(2).run());
    enough.get()?;
    std::process::exit(0)
}

#[test]
fn a_program_that_ends_with_workers_for_another_one_leaves_nothing() -> Outcome {
    in_time(|| {
        let runtime = tempfile::tempdir()?;
        let meeting = tempfile::tempdir()?;
        let pool = Pool::builder()
            .workers(0)
            .bind(format!("ipc://{}/pool", meeting.path().display()))
            .start()?;
        let endpoint = pool.endpoint().ok_or("it is bound")?.to_string();
        let enough = Queue::new()?;
        let lender = Process::builder()
            .env("XDG_RUNTIME_DIR", runtime.path())
            .spawn(lend_workers, (endpoint, enough.clone()))?;
        let worker = pool.apply(nap, (0,))?;
        assert!(!left_in(runtime.path())?.is_empty());
        enough.put(())?;
        value(&lender)?;
        until("the worker's end", || Ok(!is_alive(worker)))?;
        let left = left_in(runtime.path())?;
        assert!(left.is_empty(), "{left:?}");
        Ok(())
    })
}

#[procession::task]
fn make_a_queue() -> Result<()> {
    Queue::<u64>::new().map(drop)
}

#[test]
fn what_a_killed_program_leaves_of_its_pool_is_removed_by_the_next_one() -> Outcome {
    in_time(|| {
        for next_has_a_pool in [true, false] {
            let runtime = tempfile::tempdir()?;
            let (killed, workers) = start_and_end("killed", runtime.path())?;
            assert_eq!(killed.exit_code(), Some(-9));
            until("the workers' end", || {
                Ok(!workers.iter().any(|&pid| is_alive(pid)))
            })?;
            assert!(
                !left_in(runtime.path())?.is_empty(),
                "there is something to be removed"
            );
            if next_has_a_pool {
                start_and_end("dropped", runtime.path())?;
            } else {
                let builder = Process::builder().env("XDG_RUNTIME_DIR", runtime.path());
                value(&builder.spawn(make_a_queue, ())?)?;
            }
            let left = left_in(runtime.path())?;
            assert!(left.is_empty(), "{left:?}");
        }
        Ok(())
    })
}

// ---- Ctrl-C ----

/// Says that it has begun, and ends when it may.
#[procession::task]
fn from_to(begun: String, go: String) -> std::io::Result<u32> {
    std::fs::write(begun, "")?;
    while !Path::new(&go).exists() {
        thread::sleep(Duration::from_millis(2));
    }
    Ok(std::process::id())
}

#[test]
fn workers_do_not_end_by_ctrl_c() -> Outcome {
    in_time(|| {
        let folder = tempfile::tempdir()?;
        let path = |name: &str| folder.path().join(name).display().to_string();
        let pool = Pool::builder().workers(1).retries(0).start()?;
        let worker = pool.apply(nap, (0,))?;
        // Idle, then busy.
        signal(worker, Signal::INT)?;
        let result = pool.apply_async(from_to, (path("begun"), path("go")))?;
        until("its begin", || Ok(Path::new(&path("begun")).exists()))?;
        signal(worker, Signal::INT)?;
        std::fs::write(path("go"), "")?;
        assert_eq!(result.get_timeout(DEADLINE)?, Some(worker));
        Ok(pool.join()?)
    })
}

#[procession::task]
fn run_a_command() -> std::result::Result<Option<i32>, String> {
    use std::os::unix::process::ExitStatusExt;
    let ended = std::process::Command::new("sh")
        .args(["-c", "kill -INT $$; exit 3"])
        .status();
    ended
        .map(|status| status.signal())
        .map_err(|error| error.to_string())
}

#[test]
fn commands_of_a_task_end_by_ctrl_c() -> Outcome {
    in_time(|| {
        let pool = Pool::new(1)?;
        assert_eq!(pool.apply(run_a_command, ())?, Some(2));
        Ok(())
    })
}

/// A program with a pool that works for ever.
#[procession::task]
fn work_for_ever(pids: Queue<Vec<u32>>) -> Result<()> {
    let pool = Pool::new(2)?;
    pool.map(square, 0..1_000)?;
    pids.put(pool.pids())?;
    pids.flush()?;
    pool.map(nap, vec![600_000; 10]).map(drop)
}

#[test]
fn ctrl_c_ends_a_program_without_a_handler_and_its_workers_with_it() -> Outcome {
    in_time(|| {
        let pids = Queue::new()?;
        let program = Process::spawn(work_for_ever, (pids.clone(),))?;
        let workers = next(&pids)?;
        // As the terminal does it: to all of them.
        for &worker in &workers {
            signal(worker, Signal::INT)?;
        }
        assert!(workers.iter().all(|&pid| is_alive(pid)));
        signal(program.pid(), Signal::INT)?;
        assert!(value(&program).is_err());
        assert_eq!(program.exit_code(), Some(-2));
        until("the workers' end", || {
            Ok(!workers.iter().any(|&pid| is_alive(pid)))
        })
    })
}
