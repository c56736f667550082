//! Processes that each compute a part of an array, and one that dies in the middle.
//!
//! ```text
//! cargo run --example shared_array
//! ```
//!
//! You should see the squares, which four processes have written to where all see them, and what is told about another array whose
//! holder has died while it changed it.

use procession::Process;
use procession::shared::{Array, RawArray};

const EACH: usize = 5;

/// Every process has elements of its own, so that they need no lock.
#[procession::task]
fn squares(part: usize, all: RawArray<u64>) -> procession::Result<()> {
    for index in part * EACH..(part + 1) * EACH {
        all.set(index, (index * index) as u64)?;
    }
    Ok(())
}

/// What belongs together is changed under a lock.
#[procession::task]
fn transfer_and_die(accounts: Array<i64>) -> procession::Result<()> {
    let mut held = accounts.lock()?;
    held[0] -= 30;
    std::process::abort(); // before the 30 have come to anybody
}

#[procession::main]
fn main() -> procession::Result<()> {
    let all = RawArray::new(4 * EACH)?;
    let children = [0, 1, 2, 3].map(|part| Process::spawn(squares, (part, all.clone())));
    for child in children {
        child?.join()?;
    }
    println!("squares: {:?}", all.to_vec());

    let accounts = Array::from_slice(&[100, 0])?;
    let clumsy = Process::spawn(transfer_and_die, (accounts.clone(),))?;
    if clumsy.join().is_err() {
        println!("it died in the middle");
    }
    if let Err(error) = accounts.get(0) {
        println!("{error}");
    }
    // The lock is free, and says what has happened.
    let mut held = accounts.lock()?;
    println!("consistent: {}, {held:?}", held.is_consistent());
    held[0] = 100 - held[1];
    held.mark_consistent();
    drop(held);
    println!("set right: {:?}", accounts.to_vec()?);
    Ok(())
}
