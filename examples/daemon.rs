//! Daemons: processes that end when `main` ends. So join them before that, if what they do matters.
//!
//! ```text
//! cargo run --example daemon
//! ```
//!
//! You should see that the worker ends by itself although nobody joins it, because `main` waits for processes that are no daemons;
//! that the daemon which is joined counts to its end as well; and that the one which is not is ended in the middle.

use std::thread::sleep;
use std::time::Duration;

use procession::Process;
use procession::process::current_process;

const TICK: Duration = Duration::from_millis(100);

#[procession::task]
fn count(to: u32) {
    let this = current_process();
    for number in 1..=to {
        println!("{}: {number}", this.name());
        sleep(TICK);
    }
    println!("{}: done", this.name());
}

#[procession::task]
fn have_children() -> Result<(), procession::Error> {
    Process::spawn(count, (1,))?.join()
}

#[procession::main]
fn main() -> procession::Result<()> {
    let daemon = |name: &str| Process::builder().name(name).daemon(true);

    let joined = daemon("joined daemon").spawn(count, (3,))?;
    daemon("forgotten daemon").spawn(count, (1_000_000,))?;
    Process::builder().name("worker").spawn(count, (5,))?;

    joined.join()?;

    // Whatever a daemon starts would be ended with it, at any time.
    if let Err(error) = daemon("parent").spawn(have_children, ())?.join() {
        println!("{error}");
    }
    println!("main: done");
    Ok(())
}
