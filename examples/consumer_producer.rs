//! A producer that tells its consumer that there is no more: by a sentinel, and by the queue's own pill.
//!
//! ```text
//! cargo run --example consumer_producer
//! ```
//!
//! You should see the consumer print 1 to 4 and that it is done, twice. The first is Python's program as it is written there, with
//! `None` as the sentinel: with several consumers it takes one `None` for each. The second needs none: `shutdown` lets all
//! consumers take what is left, and then ends their loops.

use procession::{Process, Queue};

#[procession::task]
fn consumer(input: Queue<Option<u32>>) -> procession::Result<()> {
    while let Some(item) = input.get()? {
        println!("{item}");
    }
    println!("Consumer done");
    Ok(())
}

fn producer(
    sequence: impl IntoIterator<Item = u32>,
    output: &Queue<Option<u32>>,
) -> procession::Result<()> {
    for item in sequence {
        output.put(Some(item))?;
    }
    Ok(())
}

#[procession::task]
fn consumer_until_the_end(input: Queue<u32>) -> procession::Result<()> {
    for item in input.iter() {
        println!("{}", item?);
    }
    println!("Consumer done");
    Ok(())
}

#[procession::main]
fn main() -> procession::Result<()> {
    let queue = Queue::new()?;
    let process = Process::spawn(consumer, (queue.clone(),))?;
    producer([1, 2, 3, 4], &queue)?;
    queue.put(None)?;
    process.join()?;

    let queue = Queue::new()?;
    let process = Process::spawn(consumer_until_the_end, (queue.clone(),))?;
    queue.put_many([1, 2, 3, 4])?;
    queue.shutdown()?;
    process.join()
}
