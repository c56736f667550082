//! Queues while all is well: what each method does, order, room, sizes, and who gets what. The children are this test program again.

mod children;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use children::{DEADLINE, Outcome, assert_each_once, in_time, next, rest, until, value, within};
use procession::{Error, Process, Queue, SimpleQueue, wait};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

type Numbers = Queue<u64>;

const SOON: Duration = Duration::from_millis(30);

// ---- one process ----

#[test]
fn items_come_in_the_order_of_their_puts() -> Outcome {
    in_time(|| {
        let queue = Queue::new()?;
        assert_eq!(queue.put_many(0..10_000u64)?, 10_000);
        assert_eq!(queue.len()?, 10_000);
        for number in 0..10_000 {
            assert_eq!(next(&queue)?, number);
        }
        assert!(queue.is_empty()? && queue.len()? == 0 && !queue.is_full()?);
        assert_eq!(queue.maxsize(), None);
        Ok(())
    })
}

#[test]
fn an_item_that_was_put_is_there_for_a_get_that_does_not_wait() -> Outcome {
    in_time(|| {
        for round in 0..200u64 {
            let queue = Queue::new()?;
            queue.put(round)?;
            assert_eq!(queue.try_get()?, round, "in a new queue");
            queue.put(round)?;
            assert_eq!(queue.try_get()?, round, "in one that was used");
        }
        Ok(())
    })
}

#[test]
fn what_was_taken_here_is_not_counted_any_more() -> Outcome {
    in_time(|| {
        let queue = Queue::new()?;
        for count in 1..300 {
            queue.put_many(0..count)?;
            for _ in 0..count {
                next(&queue)?;
            }
            assert_eq!(queue.len()?, 0, "round {count}");
        }
        Ok(())
    })
}

#[test]
fn an_empty_queue_says_so_at_once_or_after_the_time() -> Outcome {
    in_time(|| {
        let queue = Numbers::new()?;
        assert!(matches!(queue.try_get(), Err(Error::Empty)));
        let before = Instant::now();
        assert!(matches!(queue.get_timeout(SOON), Err(Error::Empty)));
        assert!(before.elapsed() >= SOON);
        assert!(matches!(
            queue.get_timeout(Duration::ZERO),
            Err(Error::Empty)
        ));
        assert_eq!(Error::Empty.to_string(), "the queue is empty");
        // A time beyond every clock's end is no error.
        queue.put(1)?;
        assert_eq!(queue.get_timeout(Duration::MAX)?, 1);
        Ok(())
    })
}

#[test]
fn a_full_queue_gives_the_item_back_at_once_or_after_the_time() -> Outcome {
    in_time(|| {
        let queue = Queue::with_maxsize(3)?;
        for word in ["one", "two", "three"] {
            queue.try_put(word.to_owned())?;
        }
        assert!(queue.is_full()?);
        assert_eq!((queue.len()?, queue.maxsize()), (3, Some(3)));
        let full = queue
            .try_put("four".to_owned())
            .expect_err("there is no room");
        assert_eq!(full.item, "four");
        assert!(matches!(*full.why, Error::Full { maxsize: 3 }), "{full:?}");
        assert_eq!(
            full.to_string(),
            "the queue is full: 3 items are in it that nobody has taken"
        );
        let before = Instant::now();
        let full = queue
            .put_timeout("four".to_owned(), SOON)
            .expect_err("there is no room");
        assert!(before.elapsed() >= SOON && full.item == "four");
        assert_eq!(next(&queue)?, "one");
        queue.try_put("four".to_owned())?;
        assert!(queue.try_put(String::new()).is_err());
        for word in ["two", "three", "four"] {
            assert_eq!(next(&queue)?, word);
        }
        assert!(!queue.is_full()?);
        Ok(())
    })
}

#[test]
fn what_this_process_has_taken_leaves_room_at_once() -> Outcome {
    in_time(|| {
        for maxsize in [1, 3, 1_000] {
            let queue = Queue::with_maxsize(maxsize)?;
            queue.put_many(0..maxsize as u64)?;
            for number in 0..100 {
                assert_eq!(next(&queue)?, number);
                queue.try_put(maxsize as u64 + number)?;
            }
            assert!(queue.is_full()?);
        }
        Ok(())
    })
}

#[test]
fn a_put_that_waits_goes_on_when_there_is_room() -> Outcome {
    in_time(|| {
        let queue = Queue::with_maxsize(1)?;
        queue.put(0u64)?;
        let putter = queue.clone();
        let thread = std::thread::spawn(move || putter.put_many(1..100));
        for number in 0..100 {
            assert_eq!(next(&queue)?, number);
        }
        assert_eq!(thread.join().expect("no panic")?, 99);
        Ok(())
    })
}

#[test]
fn after_close_nothing_is_put_here_and_getting_goes_on() -> Outcome {
    in_time(|| {
        let queue = Queue::new()?;
        queue.put("first".to_owned())?;
        queue.close()?;
        queue.close()?;
        for put in [
            queue.put("late".to_owned()),
            queue.try_put("late".to_owned()),
            queue.put_timeout("late".to_owned(), DEADLINE),
        ] {
            let error = put.expect_err("it was closed");
            assert_eq!(error.item, "late");
            assert!(matches!(*error.why, Error::Closed), "{error:?}");
            assert_eq!(
                Error::from(error).to_string(),
                "this process has closed its end of the queue: put before close()"
            );
        }
        assert_eq!(next(&queue)?, "first");
        Ok(())
    })
}

#[test]
fn a_put_that_waits_ends_when_the_queue_is_closed_or_shut_down() -> Outcome {
    in_time(|| {
        for shutdown in [false, true] {
            let queue = Queue::with_maxsize(1)?;
            queue.put(1u64)?;
            let putter = queue.clone();
            let thread = std::thread::spawn(move || putter.put(2));
            assert!(queue.put_timeout(3, SOON).is_err(), "it is full");
            if shutdown {
                queue.shutdown()?;
            } else {
                queue.close()?;
            }
            let put = within(DEADLINE, || thread.join().expect("no panic"))?;
            let error = put.expect_err("no more is put");
            assert_eq!(error.item, 2);
            match *error.why {
                Error::ShutDown if shutdown => {}
                Error::Closed if !shutdown => {}
                other => return Err(other.into()),
            }
            assert_eq!(next(&queue)?, 1);
        }
        Ok(())
    })
}

#[test]
fn shutdown_lets_getters_take_what_is_there_and_then_see_the_end() -> Outcome {
    in_time(|| {
        let queue = Queue::new()?;
        queue.put_many(0..1_000u64)?;
        queue.shutdown()?;
        queue.shutdown()?;
        let error = queue.put(7).expect_err("no more is put");
        assert!(error.item == 7 && matches!(*error.why, Error::ShutDown));
        assert_eq!(error.to_string(), "the queue was shut down");
        assert_eq!(queue.len()?, 1_000);
        assert_eq!(queue.get()?, 0);
        assert_eq!(queue.try_get()?, 1);
        let all: Vec<u64> = queue.iter().collect::<Result<_, _>>()?;
        assert_eq!(all, (2..1_000).collect::<Vec<_>>());
        assert!(matches!(queue.get(), Err(Error::ShutDown)));
        assert!(matches!(queue.try_get(), Err(Error::ShutDown)));
        assert!(matches!(queue.get_timeout(DEADLINE), Err(Error::ShutDown)));
        assert_eq!(queue.iter().count(), 0);
        assert!(queue.is_empty()?);
        Ok(())
    })
}

#[test]
fn shutdown_now_drops_what_is_there_and_what_had_been_sent_ahead() -> Outcome {
    in_time(|| {
        let queue = Queue::new()?;
        queue.put_many(0..50_000u64)?;
        // Quick gets let items be sent ahead.
        for number in 0..10_000 {
            assert_eq!(queue.get()?, number);
        }
        queue.shutdown_now()?;
        let left = rest(&queue)?;
        assert!(
            left.len() < 20_000,
            "{} items came all the same",
            left.len()
        );
        until("it is empty", || Ok(queue.is_empty()?))?;
        assert!(matches!(queue.try_get(), Err(Error::ShutDown)));
        Ok(())
    })
}

#[test]
fn a_get_that_waits_ends_when_the_queue_is_shut_down() -> Outcome {
    in_time(|| {
        for now in [false, true] {
            let queue = Numbers::new()?;
            let child = Process::spawn(get_one, (queue.clone(),))?;
            let getters: Vec<_> = (0..3)
                .map(|_| {
                    let queue = queue.clone();
                    std::thread::spawn(move || queue.get())
                })
                .collect();
            assert!(matches!(queue.get_timeout(SOON), Err(Error::Empty)));
            if now {
                queue.shutdown_now()?;
            } else {
                queue.shutdown()?;
            }
            for getter in getters {
                let got = within(DEADLINE, || getter.join().expect("no panic"))?;
                assert!(matches!(got, Err(Error::ShutDown)), "{got:?}");
            }
            assert_eq!(value(&child)?, "the queue was shut down");
        }
        Ok(())
    })
}

/// What came, or the error's text.
#[procession::task]
fn get_one(queue: Numbers) -> String {
    match queue.get() {
        Ok(number) => number.to_string(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn several_threads_use_one_handle() -> Outcome {
    in_time(|| {
        let queue = Queue::with_maxsize(64)?;
        let putters: Vec<_> = (0..4u64)
            .map(|putter| {
                let queue = queue.clone();
                std::thread::spawn(move || queue.put_many(putter * 5_000..(putter + 1) * 5_000))
            })
            .collect();
        let getters: Vec<_> = (0..4)
            .map(|_| {
                let queue = queue.clone();
                std::thread::spawn(move || rest(&queue))
            })
            .collect();
        for putter in putters {
            assert_eq!(putter.join().expect("no panic")?, 5_000);
        }
        queue.shutdown()?;
        let mut all = Vec::new();
        for getter in getters {
            all.extend(getter.join().expect("no panic")?);
        }
        assert_each_once(all, 0..20_000);
        Ok(())
    })
}

#[test]
fn a_simple_queue_has_its_four_methods() -> Outcome {
    in_time(|| {
        let queue = SimpleQueue::new()?;
        assert!(queue.empty()?);
        let child = Process::spawn(echo_simple, (queue.clone(), SimpleQueue::new()?))?;
        queue.put("there".to_owned())?;
        assert_eq!(value(&child)?, "there");
        queue.put("back".to_owned())?;
        assert!(!queue.empty()?);
        assert_eq!(queue.get()?, "back");
        queue.close()?;
        let error = queue.put("late".to_owned()).expect_err("it was closed");
        assert!(error.item == "late" && matches!(*error.why, Error::Closed));
        Ok(())
    })
}

#[procession::task]
fn echo_simple(queue: SimpleQueue<String>, unused: SimpleQueue<u8>) -> procession::Result<String> {
    drop(unused);
    queue.get()
}

// ---- several processes ----

#[procession::task]
fn put_range(queue: Queue<(u64, u64)>, putter: u64, count: u64) -> procession::Result<()> {
    for number in 0..count {
        queue.put((putter, number))?;
    }
    Ok(())
}

#[procession::task]
fn gather(queue: Queue<(u64, u64)>) -> procession::Result<Vec<(u64, u64)>> {
    queue.iter().collect()
}

#[test]
fn each_item_goes_to_one_getter_and_each_putters_order_is_kept() -> Outcome {
    in_time(|| {
        for maxsize in [0, 1, 10, 5_000] {
            let queue = Queue::with_maxsize(maxsize)?;
            let count = if maxsize == 1 { 300 } else { 8_000 };
            let spawn = |putter| Process::spawn(put_range, (queue.clone(), putter, count));
            let putters: Vec<_> = (0..3).map(spawn).collect::<Result<_, _>>()?;
            let getters: Vec<_> = (0..3)
                .map(|_| Process::spawn(gather, (queue.clone(),)))
                .collect::<Result<_, _>>()?;
            for putter in &putters {
                value(putter)?;
            }
            queue.shutdown()?;
            let mut all: HashMap<u64, Vec<u64>> = HashMap::new();
            for getter in &getters {
                let mut last: HashMap<u64, u64> = HashMap::new();
                for (putter, number) in value(getter)? {
                    let before = last.insert(putter, number);
                    assert!(
                        before.is_none_or(|before| before < number),
                        "maxsize {maxsize}: {number} of {putter} comes after {before:?}"
                    );
                    all.entry(putter).or_default().push(number);
                }
            }
            for numbers in all.into_values() {
                assert_each_once(numbers, 0..count);
            }
        }
        Ok(())
    })
}

#[procession::task]
fn ping_pong(from: Numbers, to: Numbers) -> procession::Result<()> {
    for number in from.iter() {
        to.put(number? + 1)?;
    }
    Ok(())
}

#[test]
fn one_item_goes_to_and_fro_between_two_queues() -> Outcome {
    in_time(|| {
        for maxsize in [0, 1] {
            let (there, back) = (Queue::with_maxsize(maxsize)?, Queue::with_maxsize(maxsize)?);
            let child = Process::spawn(ping_pong, (there.clone(), back.clone()))?;
            for number in 0..1_000 {
                there.put(number)?;
                assert_eq!(next(&back)?, number + 1);
            }
            there.shutdown()?;
            value(&child)?;
        }
        Ok(())
    })
}

/// Says after each item that it has it, and how many it has; takes the next when it is told.
#[procession::task]
fn get_slowly(queue: Numbers, got: Numbers, go: Queue<()>) -> procession::Result<()> {
    for number in queue.iter() {
        got.put(number?)?;
        go.get()?;
    }
    Ok(())
}

/// Puts until it is told that the queue is full, and says how many it has put.
#[procession::task]
fn put_until_full(queue: Numbers, full: Queue<()>) -> procession::Result<u64> {
    let mut count = 0;
    while full.try_get().is_err() {
        count += u64::from(queue.put_timeout(count, SOON).is_ok());
    }
    Ok(count)
}

#[test]
fn maxsize_bounds_what_is_put_and_not_returned_with_several_putters_and_slow_getters() -> Outcome {
    in_time(|| {
        for maxsize in [1, 7, 40] {
            let queue = Numbers::with_maxsize(maxsize)?;
            let (got, go, full) = (Queue::new()?, Queue::new()?, Queue::new()?);
            let getters: Vec<_> = (0..2)
                .map(|_| Process::spawn(get_slowly, (queue.clone(), got.clone(), go.clone())))
                .collect::<Result<_, _>>()?;
            let putters: Vec<_> = (0..3)
                .map(|_| Process::spawn(put_until_full, (queue.clone(), full.clone())))
                .collect::<Result<_, _>>()?;
            // Each getter has one and waits to be told; the rest fill the queue.
            next(&got)?;
            next(&got)?;
            until("it is full", || Ok(queue.is_full()?))?;
            full.put_many([(); 3])?;
            let mut put = 0;
            for putter in &putters {
                put += value(putter)?;
            }
            assert_eq!(put, maxsize as u64 + 2, "maxsize {maxsize}");
            assert_eq!((queue.len()?, queue.is_full()?), (maxsize, true));
            assert!(matches!(
                queue.try_put(9).map_err(|error| *error.why),
                Err(Error::Full { .. })
            ));
            for _ in 0..maxsize {
                go.put(())?;
                next(&got)?;
            }
            until("it is empty", || Ok(queue.is_empty()?))?;
            queue.shutdown()?;
            go.put_many([(), ()])?;
            for getter in &getters {
                value(getter)?;
            }
        }
        Ok(())
    })
}

#[test]
fn maxsize_is_never_passed_while_quick_getters_get_items_ahead() -> Outcome {
    in_time(|| {
        let queue = Numbers::with_maxsize(20)?;
        let getters: Vec<_> = (0..2)
            .map(|_| Process::spawn(drain, (queue.clone(),)))
            .collect::<Result<_, _>>()?;
        let putter = queue.clone();
        let thread = std::thread::spawn(move || putter.put_many(0..30_000));
        while !thread.is_finished() {
            let len = queue.len()?;
            assert!(len <= 20, "{len} items are in it");
        }
        thread.join().expect("no panic")?;
        queue.shutdown()?;
        let mut all = Vec::new();
        for getter in &getters {
            all.extend(value(getter)?);
        }
        assert_each_once(all, 0..30_000);
        Ok(())
    })
}

#[procession::task]
fn drain(queue: Numbers) -> procession::Result<Vec<u64>> {
    queue.iter().collect()
}

#[procession::task]
fn take_some_then_wait(
    queue: Numbers,
    count: u64,
    told: Queue<u64>,
    go: Queue<()>,
) -> procession::Result<()> {
    for _ in 0..count {
        queue.get()?;
    }
    told.put(count)?;
    // The end of the queue that nobody puts into.
    let _ = go.get();
    Ok(())
}

#[test]
fn len_counts_what_was_sent_ahead_and_own_puts() -> Outcome {
    in_time(|| {
        let queue = Numbers::new()?;
        let (told, go) = (Queue::new()?, Queue::<()>::new()?);
        for count in 1..=100 {
            queue.put(count)?;
            assert_eq!(queue.len()?, count as usize, "own puts count at once");
        }
        queue.put_many(0..20_000)?;
        let getter = Process::spawn(
            take_some_then_wait,
            (queue.clone(), 5_000, told.clone(), go.clone()),
        )?;
        assert_eq!(next(&told)?, 5_000);
        // What it took is known within 8 ms; what lies there ahead is inside.
        until("15,100 are inside", || Ok(queue.len()? == 15_100))?;
        go.shutdown()?;
        value(&getter)?;
        assert_eq!(queue.len()?, 15_100);
        let mut left = 0;
        while queue.try_get().is_ok() {
            left += 1;
        }
        assert_eq!((left, queue.len()?), (15_100, 0));
        Ok(())
    })
}

#[procession::task]
fn take_slowly(queue: Numbers, millis: u64) -> procession::Result<u64> {
    let mut count = 0;
    for item in queue.iter() {
        item?;
        count += 1;
        std::thread::sleep(Duration::from_millis(millis));
    }
    Ok(count)
}

#[test]
fn a_slow_getter_holds_nothing_that_an_idle_one_could_have() -> Outcome {
    in_time(|| {
        let queue = Numbers::new()?;
        let slow = Process::spawn(take_slowly, (queue.clone(), 1_000))?;
        let fast = Process::spawn(take_slowly, (queue.clone(), 5))?;
        let before = Instant::now();
        queue.put_many(0..400)?;
        queue.shutdown()?;
        let (slow, fast) = (value(&slow)?, value(&fast)?);
        assert_eq!(slow + fast, 400);
        // Each second that the whole takes the slow one may have one; had it held more, it would have taken longer.
        let seconds = before.elapsed().as_secs();
        assert!(
            slow <= seconds + 1,
            "the slow one got {slow} in {seconds} s"
        );
        Ok(())
    })
}

#[test]
fn what_a_getter_does_not_take_any_more_goes_to_who_asks() -> Outcome {
    in_time(|| {
        let queue = Numbers::new()?;
        let (told, go) = (Queue::new()?, Queue::<()>::new()?);
        queue.put_many(0..3_000)?;
        let getter = Process::spawn(
            take_some_then_wait,
            (queue.clone(), 1_000, told.clone(), go.clone()),
        )?;
        next(&told)?;
        for _ in 0..2_000 {
            next(&queue)?;
        }
        assert!(queue.is_empty()?);
        go.shutdown()?;
        value(&getter)
    })
}

// ---- items ----

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Unit;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Empty {}

#[test]
fn items_without_a_size_and_items_of_units_are_items() -> Outcome {
    in_time(|| {
        let units = Queue::new()?;
        units.put_many(std::iter::repeat_n((), 5_000))?;
        assert_eq!(units.len()?, 5_000);
        units.shutdown()?;
        assert_eq!(rest(&units)?.len(), 5_000);
        let queue = Queue::with_maxsize(2)?;
        queue.put((Unit, Empty {}, [(); 3], String::new(), None::<()>))?;
        assert_eq!(
            next(&queue)?,
            (Unit, Empty {}, [(); 3], String::new(), None)
        );
        let bytes = Queue::new()?;
        bytes.put(serde_bytes::ByteBuf::new())?;
        assert!(next(&bytes)?.is_empty());
        Ok(())
    })
}

fn pattern(size: usize) -> serde_bytes::ByteBuf {
    let mut bytes = vec![0; size];
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = (index % 251) as u8;
    }
    serde_bytes::ByteBuf::from(bytes)
}

#[procession::task]
fn echo_bytes(
    from: Queue<serde_bytes::ByteBuf>,
    to: Queue<serde_bytes::ByteBuf>,
) -> procession::Result<()> {
    for bytes in from.iter() {
        to.put(bytes?)?;
    }
    Ok(())
}

#[test]
fn items_of_all_sizes_up_to_64_mib_go_there_and_back_in_order() -> Outcome {
    in_time(|| {
        for tcp in [false, true] {
            let open = || match tcp {
                false => Queue::new(),
                true => Queue::bind("tcp://127.0.0.1:*"),
            };
            let (there, back) = (open()?, open()?);
            let child = Process::spawn(echo_bytes, (there.clone(), back.clone()))?;
            let sizes = [
                0,
                1,
                20_475,
                20_476,
                20_480,
                20_481,
                40_000,
                65_535,
                65_536,
                1 << 20,
                (1 << 20) + 1,
                3,
                5 << 20,
                64 << 20,
                7,
            ];
            let putter = {
                let there = there.clone();
                std::thread::spawn(move || there.put_many(sizes.map(pattern)))
            };
            for size in sizes {
                let bytes = next(&back)?;
                assert_eq!(bytes.len(), size);
                assert!(bytes == pattern(size), "{size} bytes differ");
            }
            putter.join().expect("no panic")?;
            there.shutdown()?;
            value(&child)?;
        }
        Ok(())
    })
}

/// It can be written if it is even, and read if it is divisible by four.
#[derive(Debug, PartialEq)]
struct Moody(u64);

impl Serialize for Moody {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 % 2 {
            0 => serializer.serialize_u64(self.0),
            _ => Err(serde::ser::Error::custom("it is odd")),
        }
    }
}

impl<'de> Deserialize<'de> for Moody {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = u64::deserialize(deserializer)?;
        assert_ne!(number, 6, "six is too much");
        match number % 4 {
            0 => Ok(Self(number)),
            _ => Err(serde::de::Error::custom("it is not divisible by four")),
        }
    }
}

#[test]
fn an_item_that_cannot_be_encoded_is_given_back_and_nothing_else_is_lost() -> Outcome {
    in_time(|| {
        let queue = Queue::with_maxsize(2)?;
        queue.put(Moody(4))?;
        let error = queue.put(Moody(5)).expect_err("it is odd");
        assert_eq!(error.item, Moody(5));
        assert!(
            matches!(&*error.why, Error::Encoding { why, .. } if why.contains("Moody") && why.contains("it is odd")),
            "{error}"
        );
        queue.try_put(Moody(8))?;
        assert_eq!(queue.len()?, 2);
        assert_eq!((next(&queue)?, next(&queue)?), (Moody(4), Moody(8)));
        Ok(())
    })
}

#[test]
fn an_item_that_cannot_be_decoded_is_an_error_and_the_next_one_comes() -> Outcome {
    in_time(|| {
        let queue = Queue::new()?;
        queue.put_many([Moody(4), Moody(2), Moody(8)])?;
        assert_eq!(next(&queue)?, Moody(4));
        let error = queue.get().expect_err("it is not divisible");
        let text = error.to_string();
        assert!(matches!(error, Error::Encoding { .. }), "{text}");
        assert!(
            text.contains(&queue.endpoint()) && text.contains("by four"),
            "{text}"
        );
        assert_eq!(next(&queue)?, Moody(8));
        assert!(queue.is_empty()?);
        Ok(())
    })
}

#[test]
fn a_panic_while_an_item_is_decoded_costs_that_item_alone() -> Outcome {
    in_time(|| {
        let queue = Queue::new()?;
        queue.put_many([Moody(4), Moody(6), Moody(8), Moody(6)])?;
        let mut got = Vec::new();
        for _ in 0..4 {
            let getter = queue.clone();
            got.push(std::thread::spawn(move || getter.get()).join().ok());
        }
        let got: Vec<_> = got
            .into_iter()
            .map(|got| got.and_then(Result::ok))
            .collect();
        assert_eq!(got, [Some(Moody(4)), None, Some(Moody(8)), None]);
        assert!(matches!(queue.try_get(), Err(Error::Empty)));
        queue.put(Moody(12))?;
        assert_eq!(next(&queue)?, Moody(12));
        assert!(queue.is_empty()?);
        Ok(())
    })
}

#[test]
fn bytes_that_are_no_item_of_this_type_are_an_error_that_says_so() -> Outcome {
    in_time(|| {
        let queue = Queue::bind("tcp://127.0.0.1:*")?;
        let words: Queue<String> = Queue::connect(&queue.endpoint())?;
        words.put("no number".to_owned())?;
        words.flush()?;
        queue.put(7u64)?;
        let error = queue.get().expect_err("it is a word").to_string();
        assert!(error.contains("is no u64"), "{error}");
        assert_eq!(next(&queue)?, 7);
        Ok(())
    })
}

// ---- waiting for several ----

#[test]
fn queues_and_processes_are_waited_for_together() -> Outcome {
    in_time(|| {
        let (one, other, simple) = (Numbers::new()?, Numbers::new()?, SimpleQueue::<u8>::new()?);
        assert!(wait(&[&one, &simple, &other], Some(SOON))?.is_empty());
        let child = Process::spawn(put_one, (other.clone(), 5))?;
        let ready = wait(&[&one, &simple, &other], None)?;
        assert_eq!(ready, [2]);
        assert_eq!(other.try_get()?, 5);
        assert_eq!(wait(&[&one, &child], None)?, [1]);
        value(&child)?;
        // What is waited for and not taken is not kept from others.
        simple.put(3)?;
        one.put(4)?;
        assert_eq!(wait(&[&one], Some(DEADLINE))?, [0]);
        assert_eq!(wait(&[&simple], Some(DEADLINE))?, [0]);
        assert_eq!(wait(&[&other, &one, &simple], None)?, [1, 2]);
        let taker = Process::spawn(get_one_of, (one.clone(),))?;
        assert_eq!(value(&taker)?, 4);
        one.shutdown()?;
        assert_eq!(
            wait(&[&one], Some(DEADLINE))?,
            [0],
            "the end is something, too"
        );
        Ok(())
    })
}

#[procession::task]
fn put_one(queue: Numbers, number: u64) -> procession::Result<()> {
    Ok(queue.put(number)?)
}

#[procession::task]
fn get_one_of(queue: Numbers) -> procession::Result<u64> {
    queue.get()
}

#[test]
fn no_time_at_all_is_enough_for_what_is_there() -> Outcome {
    in_time(|| {
        let queue = Numbers::with_maxsize(2)?;
        let none = Duration::ZERO;
        queue.put_timeout(1, none)?;
        queue.put_timeout(2, none)?;
        assert!(queue.put_timeout(3, none).is_err());
        assert_eq!(queue.get_timeout(none)?, 1);
        assert_eq!(queue.get_timeout(none)?, 2);
        assert!(matches!(queue.get_timeout(none), Err(Error::Empty)));
        Ok(())
    })
}
