//! Processes that count together: without a lock, under one, and in the way that loses counts.
//!
//! ```text
//! cargo run --example shared_counter             four processes, 100,000 each
//! cargo run --example shared_counter -- 2 1000   two processes, 1,000 each
//! ```
//!
//! You should see that the atomic counter and the value under its lock are exact, although all add at the same time, and how many are
//! lost by reading a value and then writing it.

use procession::Process;
use procession::shared::{AtomicCounter, RawValue, Value};

#[procession::task]
fn count(
    times: u64,
    atomic: AtomicCounter,
    locked: Value<u64>,
    careless: RawValue<u64>,
) -> procession::Result<()> {
    for _ in 0..times {
        atomic.add(1);
        locked.update(|count| *count += 1)?;
        // Python's `value.value += 1`: what others add between the reading and the writing is lost.
        careless.set(careless.get() + 1);
    }
    Ok(())
}

#[procession::main]
fn main() -> procession::Result<()> {
    let mut args = std::env::args().skip(1).map(|arg| arg.parse::<u64>());
    let mut next = |otherwise| args.next().and_then(Result::ok).unwrap_or(otherwise);
    let (processes, times) = (next(4), next(100_000));

    let atomic = AtomicCounter::new(0)?;
    let locked = Value::new(0)?;
    let careless = RawValue::new(0)?;
    let children: Vec<_> = (0..processes)
        .map(|_| {
            let handles = (times, atomic.clone(), locked.clone(), careless.clone());
            Process::spawn(count, handles)
        })
        .collect::<procession::Result<_>>()?;
    for child in &children {
        child.join()?;
    }
    println!("expected {}", processes * times);
    println!("atomic   {}", atomic.get());
    println!("locked   {}", locked.get()?);
    println!("careless {}", careless.get());
    Ok(())
}
