//! Semaphores between processes: so many at a time, and signals.
//!
//! ```text
//! cargo run --example semaphore
//! ```
//!
//! You should see that of six processes never more than two are inside at a time; that a process which is killed inside does not keep
//! the others out; and how one process tells another that there is something to do.

use std::time::Duration;

use procession::sync::{BoundedSemaphore, Semaphore};
use procession::{Process, Result, SimpleQueue};

/// Where two can be at a time.
#[procession::task]
fn visit(room: BoundedSemaphore, door: SimpleQueue<i64>) -> Result<()> {
    let _unit = room.lock(); // given back at the end of the block, also by a panic
    door.put(1)?;
    std::thread::sleep(Duration::from_millis(20));
    Ok(door.put(-1)?)
}

#[procession::task]
fn stay(room: BoundedSemaphore, door: SimpleQueue<i64>) -> Result<()> {
    let _units = (room.lock(), room.lock());
    door.put(2)?;
    loop {
        std::thread::park();
    }
}

/// Waits for signals: it acquires, and somebody else releases.
#[procession::task]
fn work(signals: Semaphore, times: usize) -> usize {
    for _ in 0..times {
        signals.acquire();
    }
    times
}

#[procession::main]
fn main() -> Result<()> {
    let (room, door) = (BoundedSemaphore::new(2)?, SimpleQueue::new()?);
    let visitors = (0..6)
        .map(|_| Process::spawn(visit, (room.clone(), door.clone())))
        .collect::<Result<Vec<_>>>()?;
    // Those who go say so before they give their unit back, so nobody is counted who is not there.
    let (mut inside, mut most) = (0, 0);
    for _ in 0..2 * visitors.len() {
        inside += door.get()?;
        most = most.max(inside);
    }
    for visitor in visitors {
        visitor.join()?;
    }
    println!(
        "six came, {} at a time",
        if most <= 2 { "two" } else { "too many" }
    );

    let killed = Process::spawn(stay, (room.clone(), door.clone()))?;
    door.get()?;
    println!("one has all: {}", room.value() == 0);
    killed.kill()?;
    let unit = room.lock_timeout(Duration::from_secs(60));
    println!("given back after it was killed: {}", unit.is_some());
    drop(unit);
    println!("units: {}", room.value());
    if let Err(error) = room.release() {
        println!("one release too many: {error}");
    }

    let signals = Semaphore::new(0)?;
    let worker = Process::spawn(work, (signals.clone(), 3))?;
    for _ in 0..3 {
        signals.release();
    }
    println!("heard {} signals", worker.join()?);
    Ok(())
}
