//! Faults on purpose for the library: getters, workers and holders are killed at random, and what each of them promises holds.
//!
//! The kills follow a seed that is printed; `PROCESSION_CHAOS_SEED` gives another one.

mod children;
mod shared_numbers;

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use children::{Outcome, in_time, kill, until, value};
use procession::sync::{LeasedLock, Lock};
use procession::{JoinableQueue, Pool, Process, Queue};
use rustix::process::{Pid, Signal, kill_process};
use shared_numbers::Numbers;

/// How many processes are killed in each test.
const KILLS: u64 = 20;

/// Numbers from a seed: SplitMix64.
struct Random(u64);

impl Random {
    /// Says the seed, so that whoever sees a failure has it.
    fn new(what: &str) -> Self {
        let seed = std::env::var("PROCESSION_CHAOS_SEED")
            .ok()
            .and_then(|seed| seed.parse().ok())
            .unwrap_or_else(|| u64::from(std::process::id()));
        println!("{what}: PROCESSION_CHAOS_SEED={seed}");
        Self(seed)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % limit
    }
}

/// One write each, so that a killed writer leaves whole lines.
fn tell(path: &str, number: u64) -> std::io::Result<()> {
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    file.write_all(format!("{number}\n").as_bytes())
}

fn told(path: &Path) -> Vec<u64> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

/// How many of `1..=count` are not there, and how many more there are than different ones.
fn missing_and_doubled(mut found: Vec<u64>, expected: u64) -> (u64, u64) {
    let all = found.len() as u64;
    found.sort_unstable();
    found.dedup();
    (expected - found.len() as u64, all - found.len() as u64)
}

#[procession::task]
fn take(queue: Queue<u64>, path: String) -> procession::Result<()> {
    for number in queue.iter() {
        tell(&path, number?).map_err(|error| procession::Error::system("telling", error))?;
        // So slowly that little is taken between two confirmations.
        std::thread::sleep(Duration::from_micros(100));
    }
    Ok(())
}

#[procession::task]
fn finish(tasks: JoinableQueue<u64>, path: String) -> procession::Result<()> {
    for number in tasks.iter() {
        tell(&path, number?).map_err(|error| procession::Error::system("telling", error))?;
        tasks.task_done()?;
    }
    Ok(())
}

/// Kills and replaces processes at random while `progress` goes on; those that are there at the end.
fn kill_at_random(
    random: &mut Random,
    start: impl Fn() -> procession::Result<Process<()>>,
    progress: impl Fn() -> u64,
) -> Outcome<Vec<Process<()>>> {
    let mut all = (0..3).map(|_| start()).collect::<Result<Vec<_>, _>>()?;
    for _ in 0..KILLS {
        // Whatever the machine does, something is done between two kills.
        let goal = progress() + 1 + random.below(60);
        until("something is done", || Ok(progress() >= goal))?;
        let victim = random.below(all.len() as u64) as usize;
        kill(&all[victim])?;
        all[victim] = start()?;
    }
    Ok(all)
}

/// Far more than are done between all kills.
const ITEMS: u64 = 20_000;

#[test]
fn a_queue_whose_getters_are_killed_loses_only_what_they_had_in_hand() -> Outcome {
    in_time(|| {
        let mut random = Random::new("queue");
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("told");
        let queue: Queue<u64> = Queue::new()?;
        queue.put_many(1..=ITEMS)?;
        let shown = path.display().to_string();
        let getters = kill_at_random(
            &mut random,
            || Process::spawn(take, (queue.clone(), shown.clone())),
            || fs::metadata(&path).map_or(0, |file| file.len() / 6),
        )?;
        queue.shutdown()?;
        for getter in &getters {
            value(getter)?;
        }
        let (missing, doubled) = missing_and_doubled(told(&path), ITEMS);
        // What a program has taken it may have lost: one item each. What was not confirmed comes again.
        assert!(missing <= KILLS, "{missing} of {ITEMS} items are lost");
        assert!(doubled < ITEMS / 2, "{doubled} of {ITEMS} items came twice");
        println!("queue: {KILLS} getters killed, {missing} in their hands, {doubled} seen twice");
        Ok(())
    })
}

#[test]
fn a_joinable_queue_whose_getters_are_killed_loses_nothing() -> Outcome {
    in_time(|| {
        let mut random = Random::new("joinable queue");
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("told");
        let tasks: JoinableQueue<u64> = JoinableQueue::new()?;
        tasks.put_many(1..=ITEMS)?;
        let shown = path.display().to_string();
        let getters = kill_at_random(
            &mut random,
            || Process::spawn(finish, (tasks.clone(), shown.clone())),
            || fs::metadata(&path).map_or(0, |file| file.len() / 6),
        )?;
        tasks.join()?;
        assert_eq!(tasks.unfinished()?, 0);
        tasks.shutdown()?;
        for getter in &getters {
            value(getter)?;
        }
        let (missing, doubled) = missing_and_doubled(told(&path), ITEMS);
        assert_eq!(missing, 0, "items are lost");
        println!("joinable queue: {KILLS} getters killed, none lost, {doubled} done twice");
        Ok(())
    })
}

#[procession::task]
fn square(n: u64) -> u64 {
    std::thread::sleep(Duration::from_micros(300));
    n * n
}

#[test]
fn a_pool_whose_workers_are_killed_has_one_result_for_each_call() -> Outcome {
    in_time(|| {
        const CALLS: u64 = 6_000;
        let mut random = Random::new("pool");
        let pool = Pool::builder().workers(3).retries(1_000).start()?;
        let mut kills = 0;
        let mut next_kill = 1 + random.below(200);
        for (n, result) in (0..CALLS).zip(pool.imap(square, 0..CALLS)?) {
            assert_eq!(result?, n * n);
            let pids = pool.pids();
            if n >= next_kill && kills < KILLS && !pids.is_empty() {
                let victim = pids[random.below(pids.len() as u64) as usize];
                if let Some(pid) = Pid::from_raw(victim as i32) {
                    // It may have gone by itself.
                    let _ = kill_process(pid, Signal::KILL);
                }
                kills += 1;
                next_kill = n + 1 + random.below(200);
            }
        }
        println!("pool: {kills} workers killed, {CALLS} calls, one result each");
        Ok(())
    })
}

/// Adds in two steps under a lock, and says in one that it has.
fn add(numbers: &Numbers) {
    numbers.add_one(0);
    numbers.add(1, 1);
}

#[procession::task]
fn count(lock: Lock, path: String) -> procession::Result<()> {
    let numbers =
        Numbers::open(path).map_err(|error| procession::Error::system("numbers", error))?;
    while numbers.get(2) == 0 {
        let _held = lock.lock()?;
        add(&numbers);
    }
    Ok(())
}

#[procession::task]
fn count_leased(lock: LeasedLock, path: String) -> procession::Result<()> {
    let numbers =
        Numbers::open(path).map_err(|error| procession::Error::system("numbers", error))?;
    while numbers.get(2) == 0 {
        let _held = lock.lock()?;
        add(&numbers);
    }
    Ok(())
}

/// The counter is exact, but for those who were killed between adding and saying so.
fn check_counter(what: &str, start: impl Fn(String) -> procession::Result<Process<()>>) -> Outcome {
    let mut random = Random::new(what);
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("numbers").display().to_string();
    let numbers = Numbers::open(&path)?;
    let holders = kill_at_random(&mut random, || start(path.clone()), || numbers.get(1))?;
    numbers.set(2, 1);
    for holder in &holders {
        value(holder)?;
    }
    let (counted, said) = (numbers.get(0), numbers.get(1));
    assert!(
        (said..=said + KILLS).contains(&counted),
        "{counted} counted, and {said} said"
    );
    println!("{what}: {KILLS} holders and waiters killed, {counted} counted, {said} said");
    Ok(())
}

#[test]
fn a_lock_whose_holders_are_killed_excludes_the_others() -> Outcome {
    in_time(|| {
        let lock = Lock::new()?;
        check_counter("lock", |path| Process::spawn(count, (lock.clone(), path)))
    })
}

#[test]
fn a_leased_lock_whose_holders_are_killed_excludes_the_others() -> Outcome {
    in_time(|| {
        let lock = Lock::bind("tcp://127.0.0.1:*")?;
        check_counter("leased lock", |path| {
            Process::spawn(count_leased, (lock.clone(), path))
        })
    })
}
