//! Queues between threads: order, bounds, timeouts, joining, shutting down, and exact counts when many use them at the same time.
//!
//! What holds for all three is written once, for a trait that only these tests have.

mod deadline;

use std::collections::{BinaryHeap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use deadline::deadline;
use procession::thread::{LifoQueue, PriorityQueue, PutError, Queue, Thread};
use procession::{Error, Result};
use proptest::prelude::*;

/// Far more than anything here takes.
const DEADLINE: Duration = Duration::from_secs(240);
const SHORT: Duration = Duration::from_millis(5);

/// What the three have in common.
trait Any<T: Ord + Send + 'static>: Clone + Send + Sync + 'static {
    fn with_maxsize(maxsize: usize) -> Self;
    fn put(&self, item: T) -> Result<(), PutError<T>>;
    fn try_put(&self, item: T) -> Result<(), PutError<T>>;
    fn put_timeout(&self, item: T, time: Duration) -> Result<(), PutError<T>>;
    fn get(&self) -> Result<T>;
    fn try_get(&self) -> Result<T>;
    fn get_timeout(&self, time: Duration) -> Result<T>;
    fn len(&self) -> usize;
    fn is_full(&self) -> bool;
    fn maxsize(&self) -> Option<usize>;
    fn task_done(&self) -> Result<()>;
    fn join(&self);
    fn join_timeout(&self, time: Duration) -> bool;
    fn unfinished(&self) -> usize;
    fn shutdown(&self);
    fn shutdown_now(&self);
    /// Which of these, put in this order, is next.
    fn next(inside: &[T]) -> usize;
}

macro_rules! any {
    ($queue:ident, $next:expr) => {
        impl<T: Ord + Send + 'static> Any<T> for $queue<T> {
            fn with_maxsize(maxsize: usize) -> Self {
                $queue::with_maxsize(maxsize)
            }
            fn put(&self, item: T) -> Result<(), PutError<T>> {
                $queue::put(self, item)
            }
            fn try_put(&self, item: T) -> Result<(), PutError<T>> {
                $queue::try_put(self, item)
            }
            fn put_timeout(&self, item: T, time: Duration) -> Result<(), PutError<T>> {
                $queue::put_timeout(self, item, time)
            }
            fn get(&self) -> Result<T> {
                $queue::get(self)
            }
            fn try_get(&self) -> Result<T> {
                $queue::try_get(self)
            }
            fn get_timeout(&self, time: Duration) -> Result<T> {
                $queue::get_timeout(self, time)
            }
            fn len(&self) -> usize {
                $queue::len(self)
            }
            fn is_full(&self) -> bool {
                $queue::is_full(self)
            }
            fn maxsize(&self) -> Option<usize> {
                $queue::maxsize(self)
            }
            fn task_done(&self) -> Result<()> {
                $queue::task_done(self)
            }
            fn join(&self) {
                $queue::join(self)
            }
            fn join_timeout(&self, time: Duration) -> bool {
                $queue::join_timeout(self, time)
            }
            fn unfinished(&self) -> usize {
                $queue::unfinished(self)
            }
            fn shutdown(&self) {
                $queue::shutdown(self)
            }
            fn shutdown_now(&self) {
                $queue::shutdown_now(self)
            }
            fn next(inside: &[T]) -> usize {
                let next: fn(&[T]) -> usize = $next;
                next(inside)
            }
        }
    };
}

any!(Queue, |_| 0);
any!(LifoQueue, |inside| inside.len() - 1);
any!(PriorityQueue, |inside| {
    // The first of the lowest.
    let lowest = inside.iter().min();
    inside
        .iter()
        .position(|item| Some(item) == lowest)
        .unwrap_or_default()
});

macro_rules! each {
    ($($name:ident)*) => {
        mod fifo { $(#[test] fn $name() { super::deadline(); super::$name::<procession::thread::Queue<u64>>() })* }
        mod lifo { $(#[test] fn $name() { super::deadline(); super::$name::<procession::thread::LifoQueue<u64>>() })* }
        mod priority { $(#[test] fn $name() { super::deadline(); super::$name::<procession::thread::PriorityQueue<u64>>() })* }
    };
}

each! {
    a_full_queue_gives_the_item_back
    an_empty_queue_says_so
    a_putter_waits_for_room_and_a_getter_for_an_item
    every_item_is_got_exactly_once_by_many_threads
    every_item_is_got_exactly_once_with_timeouts_and_little_room
    join_waits_until_all_are_done_with
    one_task_done_too_many_is_an_error
    after_a_shutdown_what_is_there_is_got_and_then_the_end_is_seen
    a_shutdown_wakes_all_who_wait
    a_shutdown_now_drops_what_is_there_and_is_done_with_it
    no_item_is_lost_when_a_shutdown_comes_among_puts
    a_thread_that_panics_takes_along_what_it_has_got_and_no_more
}

fn why<T>(put: Result<(), PutError<T>>) -> (T, Error) {
    let error = put.expect_err("it cannot be put");
    (error.item, *error.why)
}

fn a_full_queue_gives_the_item_back<Q: Any<u64>>() {
    let queue = Q::with_maxsize(2);
    assert_eq!(queue.maxsize(), Some(2));
    for item in [1, 2] {
        assert!(!queue.is_full());
        queue.try_put(item).expect("there is room");
    }
    assert!(queue.is_full());
    assert_eq!(queue.len(), 2);
    for put in [
        queue.try_put(3),
        queue.put_timeout(3, Duration::ZERO),
        queue.put_timeout(3, SHORT),
    ] {
        let (item, error) = why(put);
        assert_eq!(item, 3);
        assert!(matches!(error, Error::Full { maxsize: 2 }), "{error}");
    }
    // Room for exactly one, at once.
    queue.get().expect("an item");
    queue.try_put(4).expect("there is room");
    assert!(matches!(why(queue.try_put(5)), (5, Error::Full { .. })));
    assert_eq!(Q::with_maxsize(0).maxsize(), None);
    assert!(!Q::with_maxsize(0).is_full());
}

fn an_empty_queue_says_so<Q: Any<u64>>() {
    let queue = Q::with_maxsize(0);
    for got in [
        queue.try_get(),
        queue.get_timeout(Duration::ZERO),
        queue.get_timeout(SHORT),
    ] {
        assert!(matches!(got, Err(Error::Empty)));
    }
    queue.put(1).expect("no bound");
    assert_eq!(queue.get_timeout(Duration::ZERO).expect("an item"), 1);
}

fn a_putter_waits_for_room_and_a_getter_for_an_item<Q: Any<u64>>() {
    let queue = Q::with_maxsize(1);
    let other = queue.clone();
    // One item at a time, there and back, so that each side waits again and again.
    let putter = Thread::spawn(
        move || (0..2_000).all(|item| other.put_timeout(item, DEADLINE).is_ok()),
        (),
    )
    .expect("it starts");
    for item in 0..2_000 {
        if item % 64 == 0 {
            // Now and then long enough for the other side to sleep.
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(queue.get_timeout(DEADLINE).expect("it comes"), item);
    }
    assert!(putter.join().expect("no panic"));
    let other = queue.clone();
    let getter = Thread::spawn(move || other.get(), ()).expect("it starts");
    std::thread::sleep(SHORT);
    queue.put(7).expect("there is room");
    assert_eq!(getter.join_once().expect("no panic").expect("an item"), 7);
}

/// Puts the numbers from several threads and gets them in several, each by its own way; what was got must be each number once.
fn exactly_once<Q: Any<u64>>(
    maxsize: usize,
    put: fn(&Q, u64),
    get: fn(&Q) -> Option<u64>,
    threads: u64,
    each: u64,
) {
    let queue = Q::with_maxsize(maxsize);
    let putters: Vec<_> = (0..threads)
        .map(|thread| {
            let queue = queue.clone();
            let body = move || (0..each).for_each(|n| put(&queue, thread * each + n));
            Thread::spawn(body, ()).expect("it starts")
        })
        .collect();
    let most = Arc::new(AtomicUsize::new(0));
    let getters: Vec<_> = (0..threads)
        .map(|_| {
            let (queue, most) = (queue.clone(), most.clone());
            let body = move || {
                let mut got = Vec::new();
                while let Some(item) = get(&queue) {
                    most.fetch_max(queue.len(), Ordering::Relaxed);
                    got.push(item);
                    queue.task_done().expect("one was got");
                }
                got
            };
            Thread::spawn(body, ()).expect("it starts")
        })
        .collect();
    for putter in putters {
        putter.join().expect("no panic");
    }
    assert!(
        queue.join_timeout(DEADLINE),
        "{} not done",
        queue.unfinished()
    );
    queue.shutdown();
    let mut all: Vec<u64> = Vec::new();
    for getter in getters {
        all.extend(getter.join_once().expect("no panic"));
    }
    assert_eq!(all.len() as u64, threads * each);
    all.sort_unstable();
    assert!(all.iter().copied().eq(0..threads * each));
    assert_eq!((queue.len(), queue.unfinished()), (0, 0));
    assert!(maxsize == 0 || most.load(Ordering::Relaxed) <= maxsize);
}

fn every_item_is_got_exactly_once_by_many_threads<Q: Any<u64>>() {
    for maxsize in [0, 1, 7, 1_000] {
        let put = |queue: &Q, item| queue.put(item).expect("not shut down");
        exactly_once::<Q>(maxsize, put, |queue| queue.get().ok(), 4, 5_000);
    }
}

fn every_item_is_got_exactly_once_with_timeouts_and_little_room<Q: Any<u64>>() {
    fn put<Q: Any<u64>>(queue: &Q, mut item: u64) {
        for attempt in 0u32.. {
            let put = match attempt % 3 {
                0 => queue.try_put(item),
                1 => queue.put_timeout(item, Duration::from_micros(20)),
                _ => queue.put_timeout(item, Duration::from_millis(2)),
            };
            match put {
                Ok(()) => return,
                Err(error) => {
                    assert!(matches!(*error.why, Error::Full { .. }), "{error}");
                    item = error.item;
                }
            }
        }
    }
    fn get<Q: Any<u64>>(queue: &Q) -> Option<u64> {
        for attempt in 0u32.. {
            let got = match attempt % 3 {
                0 => queue.try_get(),
                1 => queue.get_timeout(Duration::from_micros(20)),
                _ => queue.get_timeout(Duration::from_millis(2)),
            };
            match got {
                Ok(item) => return Some(item),
                Err(Error::Empty) => {}
                Err(_) => break,
            }
        }
        None
    }
    exactly_once::<Q>(2, put::<Q>, get::<Q>, 4, 2_000);
}

fn join_waits_until_all_are_done_with<Q: Any<u64>>() {
    let queue = Q::with_maxsize(0);
    assert!(queue.join_timeout(Duration::ZERO), "nothing was put");
    queue.join();
    for item in 0..3 {
        queue.put(item).expect("no bound");
    }
    assert!(!queue.join_timeout(Duration::ZERO));
    let joiner = {
        let queue = queue.clone();
        Thread::spawn(move || queue.join(), ()).expect("it starts")
    };
    for left in (0..3).rev() {
        queue.get().expect("an item");
        assert!(!queue.join_timeout(SHORT), "got is not done with");
        assert!(joiner.is_alive());
        queue.task_done().expect("one was got");
        assert_eq!(queue.unfinished(), left);
    }
    joiner.join().expect("no panic");
    assert!(queue.join_timeout(Duration::MAX));
}

fn one_task_done_too_many_is_an_error<Q: Any<u64>>() {
    let queue = Q::with_maxsize(0);
    assert!(matches!(queue.task_done(), Err(Error::NotGot)));
    queue.put(1).expect("no bound");
    assert!(
        matches!(queue.task_done(), Err(Error::NotGot)),
        "it was put, not got"
    );
    queue.get().expect("an item");
    queue.task_done().expect("one was got");
    assert!(matches!(queue.task_done(), Err(Error::NotGot)));
    assert_eq!(queue.unfinished(), 0);
}

fn after_a_shutdown_what_is_there_is_got_and_then_the_end_is_seen<Q: Any<u64>>() {
    let queue = Q::with_maxsize(5);
    for item in 0..3 {
        queue.put(item).expect("there is room");
    }
    queue.shutdown();
    for put in [queue.put(9), queue.try_put(9), queue.put_timeout(9, SHORT)] {
        assert!(matches!(why(put), (9, Error::ShutDown)));
    }
    let mut got = [queue.get(), queue.try_get(), queue.get_timeout(SHORT)];
    got.sort_unstable_by_key(|item| *item.as_ref().expect("an item"));
    assert_eq!(got.len(), 3);
    for got in [queue.get(), queue.try_get(), queue.get_timeout(SHORT)] {
        assert!(matches!(got, Err(Error::ShutDown)));
    }
    // Those that were got are to be done with all the same.
    assert!(!queue.join_timeout(Duration::ZERO));
    for _ in 0..3 {
        queue.task_done().expect("it was got");
    }
    queue.join();
    queue.shutdown();
    queue.shutdown_now();
}

fn a_shutdown_wakes_all_who_wait<Q: Any<u64>>() {
    for now in [false, true] {
        let (full, empty) = (Q::with_maxsize(1), Q::with_maxsize(1));
        full.put(0).expect("there is room");
        let putters: Vec<_> = (1..=3)
            .map(|item| {
                let queue = full.clone();
                let body = move || match item {
                    1 => queue.put_timeout(item, DEADLINE),
                    _ => queue.put(item),
                };
                Thread::spawn(body, ()).expect("it starts")
            })
            .collect();
        let getters: Vec<_> = (1..=3)
            .map(|item| {
                let queue = empty.clone();
                let body = move || match item {
                    1 => queue.get_timeout(DEADLINE),
                    _ => queue.get(),
                };
                Thread::spawn(body, ()).expect("it starts")
            })
            .collect();
        // Whether they sleep already or come later must not matter; most will.
        std::thread::sleep(Duration::from_millis(20));
        for queue in [&full, &empty] {
            match now {
                true => queue.shutdown_now(),
                false => queue.shutdown(),
            }
        }
        for (putter, item) in putters.into_iter().zip(1..) {
            let (back, error) = why(putter.join_once().expect("no panic"));
            assert_eq!(back, item);
            assert!(matches!(error, Error::ShutDown), "{error}");
        }
        for getter in getters {
            let got = getter.join_once().expect("no panic");
            assert!(matches!(got, Err(Error::ShutDown)));
        }
        assert_eq!(full.try_get().is_ok(), !now);
    }
}

fn a_shutdown_now_drops_what_is_there_and_is_done_with_it<Q: Any<u64>>() {
    let queue = Q::with_maxsize(0);
    for item in 0..5 {
        queue.put(item).expect("no bound");
    }
    queue.get().expect("an item");
    let joiner = {
        let queue = queue.clone();
        Thread::spawn(move || queue.join(), ()).expect("it starts")
    };
    queue.shutdown_now();
    assert_eq!((queue.len(), queue.unfinished()), (0, 1));
    assert!(matches!(queue.try_get(), Err(Error::ShutDown)));
    assert!(joiner.is_alive(), "one was got, and is not done with");
    queue.task_done().expect("it was got");
    joiner.join().expect("no panic");
    assert!(matches!(queue.task_done(), Err(Error::NotGot)));
}

fn no_item_is_lost_when_a_shutdown_comes_among_puts<Q: Any<u64>>() {
    for round in 0..100 {
        let queue = Q::with_maxsize(round % 4);
        let putters: Vec<_> = (0..3)
            .map(|_| {
                let queue = queue.clone();
                let body = move || (0..).take_while(|item| queue.put(*item).is_ok()).count();
                Thread::spawn(body, ()).expect("it starts")
            })
            .collect();
        let getters: Vec<_> = (0..2)
            .map(|_| {
                let queue = queue.clone();
                let body = move || std::iter::from_fn(|| queue.get().ok()).count();
                Thread::spawn(body, ()).expect("it starts")
            })
            .collect();
        let end = Instant::now() + Duration::from_micros(50 * round as u64);
        while Instant::now() < end {
            std::thread::yield_now();
        }
        queue.shutdown();
        let count = |threads: Vec<Thread<usize>>| -> usize {
            let each = threads.iter().map(|thread| thread.join());
            each.map(|count| count.expect("no panic")).sum()
        };
        assert_eq!(count(putters), count(getters), "round {round}");
        assert_eq!(queue.len(), 0);
    }
}

fn a_thread_that_panics_takes_along_what_it_has_got_and_no_more<Q: Any<u64>>() {
    let queue = Q::with_maxsize(0);
    for item in 0..3 {
        queue.put(item).expect("no bound");
    }
    let other = queue.clone();
    let thread = Thread::spawn(
        move || {
            let item = other.get().expect("an item");
            panic!("over {item}");
        },
        (),
    )
    .expect("it starts");
    assert!(thread.join().is_err());
    assert_eq!((queue.len(), queue.unfinished()), (2, 3));
    queue.put(9).expect("it still works");
    assert_eq!(queue.len(), 3);
}

#[test]
fn items_of_one_putter_come_in_their_order_to_one_getter() {
    deadline();
    for maxsize in [0, 1, 3, 100] {
        let queue = Queue::with_maxsize(maxsize);
        let putters: Vec<_> = (0..3u64)
            .map(|putter| {
                let queue = queue.clone();
                let body = move || queue.put_many((0..5_000u64).map(|n| (putter, n))).is_ok();
                Thread::spawn(body, ()).expect("it starts")
            })
            .collect();
        let mut next = [0; 3];
        for _ in 0..15_000 {
            let (putter, number) = queue.get_timeout(DEADLINE).expect("it comes");
            assert_eq!(number, next[putter as usize]);
            next[putter as usize] += 1;
        }
        for putter in putters {
            assert!(putter.join().expect("no panic"));
        }
    }
}

#[test]
fn equal_priorities_are_first_in_first_out() -> Result<()> {
    deadline();
    #[derive(Debug, PartialEq, Eq)]
    struct Task(u8, &'static str);
    impl Ord for Task {
        fn cmp(&self, other: &Self) -> std::cmp::Ordering {
            self.0.cmp(&other.0)
        }
    }
    impl PartialOrd for Task {
        fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
            Some(self.cmp(other))
        }
    }
    let queue = PriorityQueue::new();
    let words = [(2, "c"), (1, "a"), (2, "d"), (1, "b"), (2, "e")];
    queue.put_many(words.map(|(priority, word)| Task(priority, word)))?;
    queue.shutdown();
    let order: String = queue.iter().map(|task| task.1).collect();
    assert_eq!(order, "abcde");
    Ok(())
}

#[test]
fn items_that_cannot_be_cloned_encoded_or_shared_go_through() -> Result<()> {
    deadline();
    let queue: Queue<Box<dyn FnOnce() -> std::cell::Cell<u32> + Send>> = Queue::new();
    queue.put(Box::new(|| std::cell::Cell::new(7)))?;
    let thread = Thread::spawn(
        |queue: Queue<Box<dyn FnOnce() -> std::cell::Cell<u32> + Send>>| {
            queue.get().map(|call| call().get())
        },
        (queue,),
    )?;
    assert_eq!(thread.join_once()??, 7);
    Ok(())
}

#[test]
fn what_is_left_is_dropped_with_the_last_handle_and_outside_of_locks() {
    deadline();
    struct Counted(Arc<AtomicUsize>, Option<Queue<Counted>>);
    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
            // It may look at its queue.
            let _ = self.1.as_ref().map(Queue::len);
        }
    }
    let count = Arc::new(AtomicUsize::new(0));
    let queue = Queue::new();
    for _ in 0..3 {
        assert!(queue.put(Counted(count.clone(), None)).is_ok());
    }
    drop(queue.clone());
    assert_eq!(count.load(Ordering::SeqCst), 0);
    drop(queue);
    assert_eq!(count.load(Ordering::SeqCst), 3);
    let queue = Queue::new();
    assert!(
        queue
            .put(Counted(count.clone(), Some(queue.clone())))
            .is_ok()
    );
    queue.shutdown_now();
    assert_eq!(count.load(Ordering::SeqCst), 4);
}

#[derive(Clone, Debug)]
enum Step {
    Put(u64),
    Get,
    Done,
    ShutDown,
    ShutDownNow,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..6u64).prop_map(Step::Put),
        6 => Just(Step::Get),
        4 => Just(Step::Done),
        1 => Just(Step::ShutDown),
        1 => Just(Step::ShutDownNow),
    ]
}

/// The queue beside a list that does the same by hand.
fn behaves_as_its_model<Q: Any<(u64, usize)>>(maxsize: usize, steps: &[Step]) {
    let queue = Q::with_maxsize(maxsize);
    let mut inside: Vec<(u64, usize)> = Vec::new();
    let (mut put, mut got, mut done, mut is_shut) = (0, 0, 0, false);
    for (number, step) in steps.iter().enumerate() {
        match step {
            Step::Put(item) => {
                let is_full = maxsize != 0 && inside.len() >= maxsize;
                match queue.try_put((*item, number)) {
                    Ok(()) => {
                        assert!(!is_shut && !is_full);
                        inside.push((*item, number));
                        put += 1;
                    }
                    Err(error) => {
                        assert_eq!(error.item, (*item, number));
                        match *error.why {
                            Error::ShutDown => assert!(is_shut),
                            Error::Full { .. } => assert!(is_full && !is_shut),
                            other => panic!("{other}"),
                        }
                    }
                }
            }
            Step::Get => match queue.try_get() {
                Ok(item) => {
                    assert_eq!(item, inside.remove(Q::next(&inside)));
                    got += 1;
                }
                Err(Error::Empty) => assert!(inside.is_empty() && !is_shut),
                Err(Error::ShutDown) => assert!(inside.is_empty() && is_shut),
                Err(other) => panic!("{other}"),
            },
            Step::Done => {
                let is_one = done < got;
                assert_eq!(queue.task_done().is_ok(), is_one);
                done += usize::from(is_one);
            }
            Step::ShutDown => {
                queue.shutdown();
                is_shut = true;
            }
            Step::ShutDownNow => {
                queue.shutdown_now();
                is_shut = true;
                got += inside.len();
                done += inside.len();
                inside.clear();
            }
        }
        assert_eq!(queue.len(), inside.len());
        assert_eq!(queue.is_full(), maxsize != 0 && inside.len() >= maxsize);
        assert_eq!(queue.unfinished(), put - done);
        assert_eq!(queue.join_timeout(Duration::ZERO), put == done);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_queues_behave_as_their_models(maxsize in 0..5usize, steps in prop::collection::vec(step(), 0..60)) {
        behaves_as_its_model::<Queue<_>>(maxsize, &steps);
        behaves_as_its_model::<LifoQueue<_>>(maxsize, &steps);
        behaves_as_its_model::<PriorityQueue<_>>(maxsize, &steps);
    }

    #[test]
    fn the_orders_are_those_of_a_list_a_stack_and_a_heap(items in prop::collection::vec(0..1000u64, 0..200)) {
        let fifo = Queue::new();
        let lifo = LifoQueue::new();
        let priority = PriorityQueue::new();
        for item in &items {
            prop_assert!(fifo.put(*item).is_ok() && lifo.put(*item).is_ok() && priority.put(*item).is_ok());
        }
        fifo.shutdown();
        lifo.shutdown();
        priority.shutdown();
        let list: VecDeque<u64> = items.iter().copied().collect();
        prop_assert!(fifo.iter().eq(list));
        prop_assert!(lifo.iter().eq(items.iter().rev().copied()));
        let heap: BinaryHeap<u64> = items.into_iter().collect();
        prop_assert!(priority.iter().eq(heap.into_sorted_vec()));
    }
}

#[test]
fn items_that_cannot_be_compared_are_not_lost() {
    deadline();
    /// Panics as soon as it is compared while others look on.
    struct Odd(u64);
    thread_local! {
        static ARE_COMPARED: std::cell::Cell<bool> = const { std::cell::Cell::new(true) };
    }
    impl Ord for Odd {
        fn cmp(&self, other: &Self) -> std::cmp::Ordering {
            assert!(ARE_COMPARED.get(), "no order");
            self.0.cmp(&other.0)
        }
    }
    impl PartialOrd for Odd {
        fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
            Some(self.cmp(other))
        }
    }
    impl PartialEq for Odd {
        fn eq(&self, other: &Self) -> bool {
            self.cmp(other).is_eq()
        }
    }
    impl Eq for Odd {}

    let queue = PriorityQueue::new();
    for number in 0..10 {
        queue.put(Odd(number)).expect("no bound");
    }
    ARE_COMPARED.set(false);
    let put = catch_unwind(AssertUnwindSafe(|| queue.put(Odd(10))));
    assert!(put.is_err(), "whoever puts hears of it");
    let mut all: Vec<u64> = (0..11)
        .map(|_| {
            let item = queue.try_get().expect("it is there");
            queue.task_done().expect("it was got");
            item.0
        })
        .collect();
    queue.join();
    all.sort_unstable();
    assert_eq!(all, (0..11).collect::<Vec<_>>());
}
