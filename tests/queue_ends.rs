//! A program whose main returns while its children still use a queue of its own.

mod children;

use std::time::Duration;

use children::{DEADLINE, Outcome, in_time, next, value, within};
use procession::process::Stdio;
use procession::{Process, Queue};

type Numbers = Queue<u64>;

/// Longer than a program waits for children that wait for each other.
const LONG: Duration = Duration::from_secs(13);

#[procession::task]
fn fill(queue: Numbers, count: u64, told: Queue<String>) -> Result<(), String> {
    let put = (0..count).try_for_each(|number| queue.put(number));
    let said = put.map_or_else(|error| error.to_string(), |()| "all put".to_owned());
    told.put(said).map_err(|error| error.to_string())
}

/// A program that has no more to do itself: it ends when its children have.
#[procession::task]
fn return_before_a_putter(count: u64, told: Queue<String>) -> procession::Result<()> {
    let queue = Numbers::with_maxsize(2)?;
    Process::spawn(fill, (queue, count, told))?;
    Ok(())
}

#[test]
fn a_main_that_returns_ends_although_its_child_puts_into_a_queue_that_nobody_reads() -> Outcome {
    in_time(|| {
        let told = Queue::new()?;
        let mut program = Process::builder()
            .stderr(Stdio::piped())
            .spawn(return_before_a_putter, (100, told.clone()))?;
        let said = next(&told)?;
        assert!(
            said.contains("the process that made the queue has ended"),
            "{said}"
        );
        value(&program)?;
        let mut words = String::new();
        let mut stderr = program.stderr.take().ok_or("it is piped")?;
        let words = within(DEADLINE, move || {
            std::io::Read::read_to_string(&mut stderr, &mut words).map(|_| words)
        })??;
        assert!(words.contains("waiting for 10 s for room"), "{words}");
        assert!(
            words.contains("and 2 items in it that nobody has taken are dropped"),
            "{words}"
        );
        Ok(())
    })
}

#[procession::task]
fn read_late(queue: Numbers) -> procession::Result<u64> {
    std::thread::sleep(LONG);
    let mut sum = 0;
    for _ in 0..100 {
        sum += queue.get()?;
    }
    Ok(sum)
}

/// As [`return_before_a_putter`], but somebody will read.
#[procession::task]
fn return_before_a_late_reader(told: Queue<String>) -> procession::Result<()> {
    let queue = Numbers::with_maxsize(2)?;
    Process::spawn(fill, (queue.clone(), 100, told))?;
    Process::spawn(read_late, (queue,))?;
    Ok(())
}

#[test]
fn a_main_that_returns_waits_for_a_child_that_may_still_read() -> Outcome {
    in_time(|| {
        let told = Queue::new()?;
        let program = Process::spawn(return_before_a_late_reader, (told.clone(),))?;
        assert_eq!(next(&told)?, "all put");
        value(&program)
    })
}
