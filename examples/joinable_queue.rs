//! A joinable queue: the producer waits until each item has been done with, even if a consumer dies over one.
//!
//! ```text
//! cargo run --example joinable_queue
//! ```
//!
//! You should see that the clumsy consumer dies over the third item that it takes, that the other consumers do it all the same, and
//! that `join` returns when all twenty have been done with. In Python `join` would never return.

use procession::{JoinableQueue, Process, Queue};

#[procession::task]
fn consumer(name: String, tasks: JoinableQueue<u32>, done: Queue<u32>) -> procession::Result<()> {
    for task in tasks.iter() {
        let task = task?;
        println!("{name}: {task}");
        done.put(task)?;
        tasks.task_done()?;
    }
    Ok(())
}

#[procession::task]
fn clumsy_consumer(tasks: JoinableQueue<u32>) -> procession::Result<()> {
    for (count, task) in tasks.iter().enumerate() {
        let task = task?;
        if count == 2 {
            println!("clumsy: dies over {task}");
            std::process::abort();
        }
        println!("clumsy: {task}");
        tasks.task_done()?;
    }
    Ok(())
}

#[procession::main]
fn main() -> procession::Result<()> {
    let (tasks, done) = (JoinableQueue::new()?, Queue::new()?);
    let clumsy = Process::spawn(clumsy_consumer, (tasks.clone(),))?;
    tasks.put_many(1..=3)?;
    if let Err(error) = clumsy.join() {
        println!("{error}");
    }

    let consumers: Vec<_> = ["first", "second"]
        .map(|name| Process::spawn(consumer, (name.to_owned(), tasks.clone(), done.clone())))
        .into_iter()
        .collect::<Result<_, _>>()?;
    tasks.put_many(4..=20)?;
    tasks.join()?;
    println!("all done");
    tasks.shutdown()?;
    for process in consumers {
        process.join()?;
    }

    done.shutdown()?;
    let mut all: Vec<u32> = done.iter().collect::<Result<_, _>>()?;
    all.sort_unstable();
    println!("done by others: {all:?}");
    Ok(())
}
