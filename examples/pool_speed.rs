//! How fast a pool of two workers is: one figure a run. `scripts/bench pool` lets it take turns with Python's `multiprocessing.Pool`.
//!
//! `pool_speed WAY COUNT`. Ways: `map` and `map-one` (items a second of a trivial function; with chunks as the pool likes, and with one
//! item a chunk), `apply` (the median of one call there and back, in µs), `uneven` (the time of CPU-heavy tasks of uneven length, over
//! half of the serial time), `uneven-threads` (the same by two threads that share a counter: what these cores can do), `idle` (what a waiting worker uses in COUNT seconds, and keeps in memory).

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use procession::Pool;

const WORKERS: u32 = 2;

#[procession::task]
fn square(n: u64) -> u64 {
    n.wrapping_mul(n)
}

/// Computes; how long depends on `rounds` alone.
#[procession::task]
fn compute(rounds: u64) -> u64 {
    (0..rounds).fold(1, |sum: u64, n| {
        std::hint::black_box(sum.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(n))
    })
}

/// Uneven lengths, the same in every run and in Python.
fn rounds(tasks: u64, unit: u64) -> Vec<u64> {
    (0..tasks).map(|n| unit * (1 + (n * 7 + 3) % 16)).collect()
}

#[procession::main]
fn main() -> procession::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let what = words.first().map_or("map", String::as_str);
    let count: u64 = words
        .get(1)
        .and_then(|word| word.parse().ok())
        .unwrap_or(100_000);
    let pool = Pool::new(WORKERS)?;
    // Everybody is there.
    pool.map(square, 0..1_000)?;
    let since = Instant::now();
    match what {
        "map" => {
            let values = pool.map(square, 0..count)?;
            say(count as f64 / since.elapsed().as_secs_f64());
            assert_eq!(values.len() as u64, count);
        }
        "map-one" => {
            let values = pool.map_chunked(square, 0..count, 1)?;
            say(count as f64 / since.elapsed().as_secs_f64());
            assert_eq!(values.len() as u64, count);
        }
        "apply" => {
            let mut times = Vec::new();
            for n in 0..count {
                let since = Instant::now();
                pool.apply(square, (n,))?;
                times.push(since.elapsed());
            }
            times.sort_unstable();
            say(times[times.len() / 2].as_secs_f64() * 1e6);
        }
        "uneven" => {
            let since = Instant::now();
            let all = rounds(count, 2_000_000);
            let serial: Vec<u64> = all.iter().map(|&rounds| compute(rounds)).collect();
            let serially = since.elapsed();
            let since = Instant::now();
            assert_eq!(pool.map(compute, all)?, serial);
            say(since.elapsed().as_secs_f64() / (serially.as_secs_f64() / f64::from(WORKERS)));
        }
        "uneven-threads" => {
            let all = rounds(count, 2_000_000);
            let since = Instant::now();
            let sum: u64 = all.iter().map(|&rounds| compute(rounds) & 1).sum();
            let serially = since.elapsed();
            let (next, odd) = (AtomicUsize::new(0), AtomicU64::new(0));
            let since = Instant::now();
            std::thread::scope(|scope| {
                for _ in 0..WORKERS {
                    scope.spawn(|| {
                        while let Some(&rounds) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                            odd.fetch_add(compute(rounds) & 1, Ordering::Relaxed);
                        }
                    });
                }
            });
            assert_eq!(odd.into_inner(), sum);
            say(since.elapsed().as_secs_f64() / (serially.as_secs_f64() / f64::from(WORKERS)));
        }
        "idle" => {
            std::thread::sleep(Duration::from_secs(1));
            let before: Vec<_> = pool.pids().into_iter().map(processor_time).collect();
            std::thread::sleep(Duration::from_secs(count));
            for (pid, before) in pool.pids().into_iter().zip(before) {
                let used = (processor_time(pid) - before) as f64 / 1e6 / count as f64;
                println!(
                    "worker: {used:.3} ms of processor time a second, {} KiB resident",
                    resident(pid)
                );
            }
        }
        other => eprintln!("{other}? one of map, map-one, apply, uneven, idle"),
    }
    pool.join()
}

fn say(figure: f64) {
    println!("{figure}");
}

/// Nanoseconds on a processor, of all threads.
fn processor_time(pid: u32) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();
    tasks
        .filter_map(|task| std::fs::read_to_string(task.path().join("schedstat")).ok())
        .filter_map(|line| line.split(' ').next()?.parse::<u64>().ok())
        .sum()
}

fn resident(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/status"))
        .unwrap_or_default()
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .map(|rest| rest.trim().trim_end_matches(" kB").to_owned())
        .unwrap_or_default()
}
