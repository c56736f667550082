//! How fast locks between processes are acquired and released: beside parking_lot's mutex where nobody else wants them, and by several
//! processes at once.
//!
//! `lock_speed WAY TIMES [PROCESSES]` prints how often a second, all processes together. Ways: `lock`, `rlock`, `semaphore` (of one
//! unit), `leased` (a lock for several hosts, over TCP on this one), `counter` (no lock: an atomic number in shared memory), `parking-lot` (in one process only), `thread-lock` (in one process only).

use std::time::Instant;

use procession::shared::AtomicCounter;
use procession::sync::{Barrier, LeasedLock, Lock, RLock, Semaphore};
use procession::{Process, Result};
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize)]
enum Way {
    Lock(Lock),
    RLock(RLock),
    Semaphore(Semaphore),
    Leased(LeasedLock),
    Counter(AtomicCounter),
}

impl Way {
    fn run(&self, times: u64) -> Result<()> {
        match self {
            Self::Lock(lock) => {
                for _ in 0..times {
                    drop(lock.lock()?);
                }
            }
            Self::RLock(lock) => {
                for _ in 0..times {
                    drop(lock.lock()?);
                }
            }
            Self::Semaphore(semaphore) => {
                for _ in 0..times {
                    drop(semaphore.lock());
                }
            }
            Self::Leased(lock) => {
                for _ in 0..times {
                    lock.lock()?.release()?;
                }
            }
            Self::Counter(counter) => {
                for _ in 0..times {
                    counter.add(1);
                }
            }
        }
        Ok(())
    }
}

#[procession::task]
fn run(way: Way, barrier: Barrier, times: u64) -> Result<()> {
    barrier.wait()?;
    way.run(times)
}

fn by_processes(way: &Way, times: u64, processes: u64) -> Result<f64> {
    let barrier = Barrier::new(processes as usize)?;
    let each = times / processes;
    let children = (1..processes)
        .map(|_| Process::spawn(run, (way.clone(), barrier.clone(), each)))
        .collect::<Result<Vec<_>>>()?;
    barrier.wait()?;
    let since = Instant::now();
    way.run(each)?;
    for child in children {
        child.join()?;
    }
    Ok((each * processes) as f64 / since.elapsed().as_secs_f64())
}

fn here(times: u64, mut once: impl FnMut() -> Result<()>) -> Result<f64> {
    let since = Instant::now();
    for _ in 0..times {
        once()?;
    }
    Ok(times as f64 / since.elapsed().as_secs_f64())
}

#[procession::main]
fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [way, times, rest @ ..] = &words[..] else {
        return Err("lock_speed WAY TIMES [PROCESSES]".into());
    };
    let times: u64 = times.parse()?;
    let processes: u64 = rest.first().map_or(Ok(1), |word| word.parse())?;
    let rate = match way.as_str() {
        "lock" => by_processes(&Way::Lock(Lock::new()?), times, processes)?,
        "rlock" => by_processes(&Way::RLock(RLock::new()?), times, processes)?,
        "semaphore" => by_processes(&Way::Semaphore(Semaphore::new(1)?), times, processes)?,
        "leased" => {
            let lock = Lock::bind("tcp://127.0.0.1:*")?;
            by_processes(&Way::Leased(lock), times, processes)?
        }
        "counter" => by_processes(&Way::Counter(AtomicCounter::new(0)?), times, processes)?,
        "parking-lot" => {
            let mutex = std::hint::black_box(parking_lot::Mutex::new(()));
            here(times, || {
                drop(std::hint::black_box(&mutex).lock());
                Ok(())
            })?
        }
        "thread-lock" => {
            let lock = procession::thread::Lock::new();
            here(times, || lock.lock().map(drop))?
        }
        way => return Err(format!("no way {way}").into()),
    };
    println!("{rate}");
    Ok(())
}
