//! How fast items go from thread to thread: this library's queues, beside crossbeam-channel's bounded channel.
//!
//! `thread_queue_speed WAY ITEMS [THREADS]` prints items a second, with as many threads that put as that get (1). Ways: `queue`,
//! `crossbeam` (both with room for 1,000 items), `queue-unbounded`, `crossbeam-unbounded`, `lifo`, `priority`, `task-done` (the queue,
//! and each item is done with).

use std::time::Instant;

use procession::thread::{LifoQueue, PriorityQueue, Queue};

const ROOM: usize = 1_000;

/// The same small struct with a string as between processes; here its string is moved.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Reading {
    number: u64,
    place: String,
}

fn reading(number: u64) -> Reading {
    Reading {
        // Not in order, so that the lowest is not always the next.
        number: number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32,
        place: String::new(),
    }
}

/// Runs `threads` of each kind; `get` returns `None` at the end. Items a second.
fn run(
    items: u64,
    threads: u64,
    put: impl Fn(Reading) + Sync,
    get: impl Fn() -> Option<Reading> + Sync,
    end: impl Fn(),
) -> f64 {
    let each = items / threads;
    let since = Instant::now();
    let got: u64 = std::thread::scope(|scope| {
        let (put, get) = (&put, &get);
        let putters: Vec<_> = (0..threads)
            .map(|thread| {
                scope.spawn(move || (0..each).for_each(|n| put(reading(thread * each + n))))
            })
            .collect();
        let getters: Vec<_> = (0..threads)
            .map(|_| scope.spawn(move || std::iter::from_fn(get).count() as u64))
            .collect();
        for putter in putters {
            putter.join().expect("no panic");
        }
        end();
        getters
            .into_iter()
            .map(|getter| getter.join().expect("no panic"))
            .sum()
    });
    assert_eq!(got, each * threads);
    got as f64 / since.elapsed().as_secs_f64()
}

macro_rules! queue {
    ($queue:expr, $items:expr, $threads:expr) => {{
        let queue = $queue;
        let put = |item| queue.put(item).expect("it is not shut down");
        run(
            $items,
            $threads,
            put,
            || queue.get().ok(),
            || {
                queue.shutdown();
            },
        )
    }};
}

fn crossbeam(
    (sender, receiver): (
        crossbeam_channel::Sender<Reading>,
        crossbeam_channel::Receiver<Reading>,
    ),
    items: u64,
    threads: u64,
) -> f64 {
    let each = items / threads;
    let since = Instant::now();
    let got: u64 = std::thread::scope(move |scope| {
        for thread in 0..threads {
            let sender = sender.clone();
            scope.spawn(move || {
                for n in 0..each {
                    let item = reading(thread * each + n);
                    sender.send(item).expect("somebody listens");
                }
            });
        }
        // The channel ends when those of the putters are gone, too.
        drop(sender);
        let getters: Vec<_> = (0..threads)
            .map(|_| {
                let receiver = receiver.clone();
                scope.spawn(move || std::iter::from_fn(|| receiver.recv().ok()).count() as u64)
            })
            .collect();
        getters
            .into_iter()
            .map(|getter| getter.join().expect("no panic"))
            .sum()
    });
    assert_eq!(got, each * threads);
    got as f64 / since.elapsed().as_secs_f64()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [way, items, rest @ ..] = &words[..] else {
        return Err("thread_queue_speed WAY ITEMS [THREADS]".into());
    };
    let items: u64 = items.parse()?;
    let threads: u64 = rest.first().map_or(Ok(1), |word| word.parse())?;
    let rate = match way.as_str() {
        "queue" => queue!(Queue::with_maxsize(ROOM), items, threads),
        "queue-unbounded" => queue!(Queue::new(), items, threads),
        "lifo" => queue!(LifoQueue::with_maxsize(ROOM), items, threads),
        "priority" => queue!(PriorityQueue::with_maxsize(ROOM), items, threads),
        "task-done" => {
            let queue = Queue::with_maxsize(ROOM);
            let put = |item| queue.put(item).expect("it is not shut down");
            let get = || {
                let item = queue.get().ok()?;
                queue.task_done().expect("it was got");
                Some(item)
            };
            run(items, threads, put, get, || {
                queue.join();
                queue.shutdown();
            })
        }
        "crossbeam" => crossbeam(crossbeam_channel::bounded(ROOM), items, threads),
        "crossbeam-unbounded" => crossbeam(crossbeam_channel::unbounded(), items, threads),
        other => return Err(format!("no way {other}").into()),
    };
    println!("{rate:.0}");
    Ok(())
}
