//! Thousands of seeds; one that is named (`SEED=n`); and seeds for as long as one likes (`make soak`).

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::course::{Course, Figures};
use super::plan::Plan;
use crate::registry::panics::text_of;

/// How many seeds a run of all tests takes, unless `SEEDS` says otherwise.
const SEEDS: u64 = 2_000;

/// What a seed comes to; why it failed.
fn simulate(seed: u64) -> Result<Figures, String> {
    let result = catch_unwind(AssertUnwindSafe(|| Course::new(seed).run()));
    result.unwrap_or_else(|panic| Err(text_of(panic)))
}

/// With `RUST_LOG` set, what the loops log, with the process and the virtual time.
struct Log;

impl log::Log for Log {
    fn enabled(&self, metadata: &log::Metadata) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &log::Record) {
        if let Some((process, time)) = super::network::whereabouts() {
            let (seconds, level, text) =
                (time.as_secs_f64() - 86_400.0, record.level(), record.args());
            println!("{seconds:.6} process {process} {level}: {text}");
        }
    }

    fn flush(&self) {}
}

fn log_if_wanted() {
    if let Some(level) = number("RUST_LOG")
        && log::set_boxed_logger(Box::new(Log)).is_ok()
    {
        log::set_max_level(level);
    }
}

fn number<T: std::str::FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok()?.parse().ok()
}

/// Each simulated worker has a descriptor, for the waker of its loop.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit);
}

/// What many seeds came to.
#[derive(Default)]
struct Sum {
    seeds: u64,
    tasks: u64,
    again: u64,
    steps: u64,
    seconds: u64,
    faults: BTreeMap<&'static str, u64>,
    failures: Vec<(u64, String)>,
}

impl Sum {
    fn add(&mut self, seed: u64, result: Result<Figures, String>) {
        self.seeds += 1;
        match result {
            Ok(figures) => {
                self.tasks += figures.tasks;
                self.again += figures.again;
                self.steps += figures.steps;
                self.seconds += figures.seconds;
                for (what, count) in figures.faults {
                    *self.faults.entry(what).or_default() += count;
                }
            }
            Err(why) => {
                println!(
                    "seed {seed}: {why}; replay it with SEED={seed} cargo test --lib simulation"
                );
                self.failures.push((seed, why));
            }
        }
    }

    fn say(&self) {
        println!(
            "{} seeds, {} tasks, {} leases again, {} steps in {} virtual seconds, {} failures; faults: {:?}",
            self.seeds,
            self.tasks,
            self.again,
            self.steps,
            self.seconds,
            self.failures.len(),
            self.faults
        );
    }
}

/// Seeds from `first` on, on two threads, until `until` says that it is enough or one has failed.
fn simulate_from(first: u64, until: impl Fn(u64) -> bool + Sync) -> Sum {
    raise_file_limit();
    let next = AtomicU64::new(first);
    let sum = Mutex::new(Sum::default());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if until(seed) || !lock(&sum).failures.is_empty() {
                        return;
                    }
                    let result = simulate(seed);
                    lock(&sum).add(seed, result);
                }
            });
        }
    });
    sum.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn lock(sum: &Mutex<Sum>) -> std::sync::MutexGuard<'_, Sum> {
    sum.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn whatever_happens_each_task_has_one_result_and_the_run_ends() {
    log_if_wanted();
    if let Some(seed) = number::<u64>("SEED") {
        println!("{:?}", Plan::new(seed));
        println!("{:?}", simulate(seed).expect("the run is right"));
        return;
    }
    let seeds = number("SEEDS").unwrap_or(SEEDS);
    let sum = simulate_from(1, |seed| seed > seeds);
    sum.say();
    assert!(sum.failures.is_empty(), "{:?}", sum.failures);
}

/// Each of them showed a mistake once: a sink that died behind its hello and was waited for for ever; a task that was blamed for a
/// death behind its end; a task lost that came back under an earlier attempt; a window that stayed shut after a lost connection; a lowest
/// task that waited behind others for credit that only its own result would free.
#[test]
fn seeds_that_showed_mistakes_stay_right() {
    for seed in [
        68, 109, 172, 197, 212, 758, 1030, 1211, 5847, 6015, 6102, 7099, 7196,
    ] {
        if let Err(why) = simulate(seed) {
            panic!("seed {seed}: {why}");
        }
    }
}

#[test]
fn a_seed_means_the_same_each_time() {
    for seed in [3, 17, 228] {
        assert_eq!(simulate(seed), simulate(seed), "seed {seed}");
    }
}

/// Until it is stopped, or a seed fails: `make soak`.
#[test]
#[ignore = "it does not end"]
fn soak() {
    let first = number("SEED").unwrap_or_else(|| getrandom::u64().map_or(1, |random| random >> 24));
    let hours = Duration::from_secs(number::<u64>("HOURS").unwrap_or(24 * 365) * 3600);
    let began = Instant::now();
    let mut from = first;
    while began.elapsed() < hours {
        let sum = simulate_from(from, |seed| seed >= from + 2_000);
        from += 2_000;
        println!(
            "seeds {first} to {}, after {} s:",
            from - 1,
            began.elapsed().as_secs()
        );
        sum.say();
        assert!(sum.failures.is_empty(), "{:?}", sum.failures);
    }
}
