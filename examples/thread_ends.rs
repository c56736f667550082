//! What the end of `main` waits for: threads that are no daemons, and in a child process the same.
//!
//! ```text
//! cargo run --example thread_ends
//! ```
//!
//! You should see that the thread ends after `main` has returned, and so does the child's; and the program ends although a daemon, which
//! would run for ever, has not.

use std::time::Duration;

use procession::thread::{Event, Thread};

/// Never ends.
fn forever() {
    Event::new().wait();
}

/// Begins a thread that ends later than whoever has begun it.
fn begin(name: &'static str, then: Option<fn()>) -> procession::Result<()> {
    let end = move || {
        std::thread::sleep(Duration::from_millis(100));
        println!("{name} thread has ended");
        if let Some(then) = then {
            then();
        }
    };
    Thread::spawn(end, ()).map(drop)
}

/// A thread that is started at the very end is waited for, and so is the process that it starts.
fn start_child() {
    if let Err(error) = procession::Process::spawn(child, ()) {
        println!("{error}");
    }
}

#[procession::task]
fn child() -> procession::Result<()> {
    begin("the child's", None)?;
    println!("the child's task returns");
    Ok(())
}

#[procession::main]
fn main() -> procession::Result<()> {
    Thread::builder().daemon(true).spawn(forever, ())?;
    begin("the last", Some(start_child))?;
    println!("main returns");
    Ok(())
}
