//! A lock between processes, in both forms: held by a guard until the end of a block, and acquired and released by hand. The same program
//! with threads is `lock`.
//!
//! ```text
//! cargo run --example lock_processes
//! ```
//!
//! You should see that four processes which write to a file in two steps, reading a number and writing the next, lose nothing; that a
//! process which panics in its critical section releases the lock if it has a guard; that one which is killed there does not leave the
//! others waiting, and that they are told; and what a release by somebody else is told.

use std::fs;
use std::path::PathBuf;

use procession::sync::{Event, Lock};
use procession::{Error, Process, Result};

const TIMES: u64 = 500;

/// Reads, and then writes: what another process adds between the two is lost.
fn add_one(file: &PathBuf) -> Result<()> {
    let failed = |error| Error::system("the counter", error);
    let text = fs::read_to_string(file).map_err(failed)?;
    let value: u64 = text.trim().parse().unwrap_or(0);
    fs::write(file, (value + 1).to_string()).map_err(failed)
}

/// Python's `with lock:`. Whatever happens in the block, a panic or a `?`, the lock is released at its end.
#[procession::task]
fn with_guard(lock: Lock, file: PathBuf) -> Result<()> {
    for _ in 0..TIMES {
        let _held = lock.lock()?;
        add_one(&file)?;
    }
    Ok(())
}

/// Python's `try: lock.acquire() … finally: lock.release()`. In Rust nothing stands for the `finally`, so what can fail is kept until
/// the lock is released.
#[procession::task]
fn by_hand(lock: Lock, file: PathBuf) -> Result<()> {
    for _ in 0..TIMES {
        lock.acquire()?;
        let added = add_one(&file);
        lock.release()?;
        added?;
    }
    Ok(())
}

#[procession::task]
fn panics_in_between(lock: Lock) {
    let _held = lock.lock().expect("nobody else has it for long");
    panic!("in the critical section");
}

#[procession::task]
fn stays(lock: Lock, here: Event) -> Result<()> {
    let _held = lock.lock()?;
    here.set();
    loop {
        std::thread::park();
    }
}

#[procession::task]
fn release(lock: Lock) -> Option<String> {
    lock.release().err().map(|error| error.to_string())
}

#[procession::main]
fn main() -> Result<()> {
    let lock = Lock::new()?;
    let dir = tempfile::tempdir().map_err(|error| Error::system("a folder", error))?;
    let file = dir.path().join("counter");
    fs::write(&file, "0").map_err(|error| Error::system("the counter", error))?;
    let children = [
        Process::spawn(with_guard, (lock.clone(), file.clone()))?,
        Process::spawn(with_guard, (lock.clone(), file.clone()))?,
        Process::spawn(by_hand, (lock.clone(), file.clone()))?,
        Process::spawn(by_hand, (lock.clone(), file.clone()))?,
    ];
    for child in children {
        child.join()?;
    }
    let counted = fs::read_to_string(&file).map_err(|error| Error::system("the counter", error))?;
    println!("counted {counted}");

    if let Err(Error::Process { end, .. }) =
        Process::spawn(panics_in_between, (lock.clone(),))?.join()
    {
        println!("the clumsy one {end}");
    }
    println!("locked after the panic: {}", lock.locked());

    let here = Event::new()?;
    let killed = Process::spawn(stays, (lock.clone(), here.clone()))?;
    here.wait();
    println!("locked by the one that stays: {}", lock.locked());
    killed.kill()?;
    {
        let held = lock.lock()?;
        println!("a holder was killed: {}", held.holder_died());
        // Here the counter would be put in order, if it were not.
        held.mark_consistent();
    }

    lock.acquire()?;
    if let Some(error) = Process::spawn(release, (lock.clone(),))?.join()? {
        println!("another process's release: {error}");
    }
    lock.release()
}
