//! The three queues between threads: first in first out, last in first out, lowest first; all with `task_done` and `join`.
//!
//! ```text
//! cargo run --example thread_queues
//! ```
//!
//! You should see the same five words leave each queue in its own order, then that `join` returns when a worker has done with all.

use procession::thread::{LifoQueue, PriorityQueue, Queue, Thread};

const WORDS: [&str; 5] = ["delta", "alpha", "echo", "bravo", "charlie"];

/// Takes what comes until the queue is shut down, and says when it has done with each. The same for all three, but for their type.
macro_rules! worker {
    ($name:ident, $queue:ident) => {
        fn $name(queue: $queue<&'static str>) -> procession::Result<Vec<&'static str>> {
            let mut taken = Vec::new();
            for word in &queue {
                taken.push(word);
                queue.task_done()?;
            }
            Ok(taken)
        }
    };
}

worker!(fifo_worker, Queue);
worker!(lifo_worker, LifoQueue);
worker!(priority_worker, PriorityQueue);

fn main() -> procession::Result<()> {
    let fifo = Queue::with_maxsize(10);
    fifo.put_many(WORDS)?;
    let worker = Thread::spawn(fifo_worker, (fifo.clone(),))?;
    fifo.join();
    println!("all done with, {} left", fifo.len());
    fifo.shutdown();
    println!("first in, first out: {}", worker.join_once()??.join(" "));

    let lifo = LifoQueue::new();
    lifo.put_many(WORDS)?;
    let worker = Thread::spawn(lifo_worker, (lifo.clone(),))?;
    lifo.join();
    lifo.shutdown();
    println!("last in, first out: {}", worker.join_once()??.join(" "));

    let priority = PriorityQueue::new();
    priority.put_many(WORDS)?;
    let worker = Thread::spawn(priority_worker, (priority.clone(),))?;
    priority.join();
    priority.shutdown();
    println!("lowest first: {}", worker.join_once()??.join(" "));
    Ok(())
}
