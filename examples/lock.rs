//! A lock in both forms: held by a guard until the end of a block, and acquired and released by hand.
//!
//! ```text
//! cargo run --example lock
//! ```
//!
//! You should see that four threads which add to a counter in two steps, reading and writing, lose nothing; that a thread that panics
//! in its critical section releases the lock if it has a guard; and what a release by somebody else is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use procession::thread::{Lock, Thread};

const TIMES: u64 = 10_000;

/// Reads, and then writes: what another thread adds between the two is lost.
fn add_one(counter: &AtomicU64) {
    let value = counter.load(Ordering::Relaxed);
    counter.store(value + 1, Ordering::Relaxed);
}

/// Python's `with lock:`. Whatever happens in the block, a panic or a `?`, the lock is released at its end.
fn with_guard(lock: Lock, counter: Arc<AtomicU64>) -> procession::Result<()> {
    for _ in 0..TIMES {
        let _held = lock.lock()?;
        add_one(&counter);
    }
    Ok(())
}

/// Python's `try: lock.acquire() … finally: lock.release()`. In Rust nothing stands for the `finally`: if what is in between could
/// return early or panic, take the other form.
fn by_hand(lock: Lock, counter: Arc<AtomicU64>) -> procession::Result<()> {
    for _ in 0..TIMES {
        lock.acquire()?;
        add_one(&counter);
        lock.release()?;
    }
    Ok(())
}

fn panics_in_between(lock: Lock) {
    let _held = lock.lock().expect("nobody else has it for long");
    panic!("in the critical section");
}

fn main() -> procession::Result<()> {
    let (lock, counter) = (Lock::new(), Arc::new(AtomicU64::new(0)));
    let threads = [
        Thread::spawn(with_guard, (lock.clone(), counter.clone()))?,
        Thread::spawn(with_guard, (lock.clone(), counter.clone()))?,
        Thread::spawn(by_hand, (lock.clone(), counter.clone()))?,
        Thread::spawn(by_hand, (lock.clone(), counter.clone()))?,
    ];
    for thread in threads {
        thread.join_once()??;
    }
    println!("counted {}", counter.load(Ordering::Relaxed));

    let clumsy = Thread::builder().name("clumsy");
    if let Err(error) = clumsy.spawn(panics_in_between, (lock.clone(),))?.join() {
        println!("{error}");
    }
    println!("locked after the panic: {}", lock.locked());

    lock.acquire()?;
    let other = Thread::spawn(|lock: Lock| lock.release(), (lock.clone(),))?;
    if let Err(error) = other.join_once()? {
        println!("another thread's release: {error}");
    }
    lock.release()
}
