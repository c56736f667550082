//! How long it takes to start and join processes that do nothing, for the table of speeds.
//!
//! ```text
//! cargo run --release --example start_and_join          100 processes
//! cargo run --release --example start_and_join -- 1000  as many as you like
//! ```
//!
//! You should see the time for each process: started and joined one after the other, and started all before the first is joined.

use std::time::Instant;

use procession::Process;

#[procession::task]
fn nothing() {}

#[procession::main]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let count: u32 = match std::env::args().nth(1) {
        Some(word) => word.parse()?,
        None => 100,
    };
    let each = |since: Instant| since.elapsed().as_secs_f64() * 1e6 / f64::from(count.max(1));

    let since = Instant::now();
    for _ in 0..count {
        Process::spawn(nothing, ())?.join()?;
    }
    println!("one after the other: {:.0} µs a process", each(since));

    let since = Instant::now();
    let mut processes = Vec::new();
    for _ in 0..count {
        processes.push(Process::spawn(nothing, ())?);
    }
    for process in processes {
        process.join()?;
    }
    println!("all at once: {:.0} µs a process", each(since));
    Ok(())
}
