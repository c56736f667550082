//! A pool of four processes that square numbers: `apply`, `map`, `imap`, and what a task that fails looks like.
//!
//! ```text
//! cargo run --example pool
//! ```
//!
//! You should see the squares, which of the processes did how many of them, and the errors of two tasks: one that panics, and one
//! whose worker is killed, which is nobody else's business.

use std::collections::BTreeMap;
use std::time::Duration;

use procession::Pool;

#[procession::task]
fn square(n: u64) -> u64 {
    n * n
}

#[procession::task]
fn who(_task: u32) -> u32 {
    std::thread::sleep(Duration::from_millis(5));
    std::process::id()
}

#[procession::task]
fn divide(left: i64, right: i64) -> i64 {
    left / right
}

#[procession::task]
fn abort() {
    std::process::abort();
}

#[procession::main]
fn main() -> procession::Result<()> {
    let pool = Pool::new(4)?;
    println!("apply: {}", pool.apply(square, (10,))?);
    println!("map: {:?}", pool.map(square, 1..=10)?);

    // The input has no end; what is read of it is what is asked for, and a little more.
    let over_a_million = |value: &u64| *value > 1_000_000;
    let first = pool
        .imap(square, 1..)?
        .map_while(Result::ok)
        .find(over_a_million);
    if let Some(first) = first {
        println!("imap: the first square over a million is {first}");
    }

    let mut done_by: BTreeMap<u32, u32> = BTreeMap::new();
    for pid in pool.imap_unordered(who, 0..100)? {
        *done_by.entry(pid?).or_default() += 1;
    }
    println!("100 tasks were done by {} processes", done_by.len());

    let later = pool.apply_async(divide, (1, 0))?;
    println!("starmap: {:?}", pool.starmap(divide, [(84, 2), (-9, 3)])?);
    if let Err(error) = later.get() {
        println!("error: {error}");
    }
    if let Err(error) = pool.tasks(abort).retries(1).apply(()) {
        println!("error: {error}");
    }
    println!("and the pool goes on: {}", pool.apply(square, (11,))?);
    pool.join()
}
