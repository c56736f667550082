//! Calls with a time, or with none, on queues that this process has not joined yet, or whose host stands still.

mod children;

use std::time::Duration;

use children::{DEADLINE, Outcome, in_time, next, until, value};
use procession::{Error, Process, Queue, wait};
use rustix::process::{Pid, Signal, kill_process};

type Numbers = Queue<u64>;

const SOON: Duration = Duration::from_millis(50);

#[procession::task]
fn host_until_told(ways: Queue<Numbers>, end: Queue<()>) -> procession::Result<u64> {
    let queue = Numbers::with_maxsize(10)?;
    ways.put(queue.clone())?;
    end.get()?;
    queue.get()
}

#[test]
fn a_time_is_kept_although_the_host_of_a_queue_that_was_not_joined_stands_still() -> Outcome {
    in_time(|| {
        let (ways, end) = (Queue::new()?, Queue::new()?);
        let host = Process::spawn(host_until_told, (ways.clone(), end.clone()))?;
        let queue = next(&ways)?;
        let pid = Pid::from_raw(i32::try_from(host.pid())?).ok_or("no process id")?;
        kill_process(pid, Signal::STOP)?;
        until("it is stopped", || {
            let state = std::fs::read_to_string(format!("/proc/{}/stat", host.pid()))?;
            Ok(state.contains(") T "))
        })?;
        // Were the time not kept, these would wait for longer than any host may take, and then say that nobody is there.
        let empty = queue.get_timeout(SOON);
        assert!(matches!(empty, Err(Error::Empty)), "{empty:?}");
        let full = queue
            .put_timeout(1, SOON)
            .expect_err("nobody has given room");
        assert!(matches!(*full.why, Error::Full { .. }), "{full}");
        assert_eq!(full.item, 1);
        assert_eq!(wait(&[&queue], Some(SOON))?, [0_usize; 0]);
        assert_eq!(wait(&[&queue], Some(Duration::ZERO))?, [0_usize; 0]);
        let empty = queue.try_get();
        assert!(matches!(empty, Err(Error::Empty)), "{empty:?}");
        kill_process(pid, Signal::CONT)?;
        queue.put_timeout(7, DEADLINE)?;
        end.put(())?;
        assert_eq!(value(&host)?, 7);
        Ok(())
    })
}

#[procession::task]
fn what_is_seen_at_once(queue: Numbers) -> procession::Result<(usize, usize)> {
    let nothing: Numbers = Queue::new()?;
    let seen = wait(&[&nothing, &queue], Some(Duration::ZERO))?;
    let number = queue.get()?;
    let left = wait(&[&nothing, &queue], Some(Duration::ZERO))?;
    Ok((
        seen.len(),
        left.len() + usize::try_from(number).unwrap_or(99),
    ))
}

#[test]
fn a_wait_of_no_time_sees_an_item_that_is_still_at_the_host() -> Outcome {
    in_time(|| {
        for _ in 0..10 {
            let queue = Numbers::new()?;
            queue.put(0)?;
            queue.flush()?;
            let child = Process::spawn(what_is_seen_at_once, (queue.clone(),))?;
            assert_eq!(value(&child)?, (1, 0));
            queue.put(1)?;
            assert_eq!(wait(&[&queue], Some(Duration::ZERO))?, [0]);
        }
        Ok(())
    })
}

#[test]
fn a_wait_on_a_queue_whose_host_has_ended_is_over_and_the_get_says_why() -> Outcome {
    in_time(|| {
        let (ways, end) = (Queue::new()?, Queue::new()?);
        let host = Process::spawn(host_until_told, (ways.clone(), end.clone()))?;
        let queue = next(&ways)?;
        host.kill()?;
        let _ = host.join();
        assert_eq!(wait(&[&queue], Some(DEADLINE))?, [0]);
        assert_eq!(wait(&[&queue], Some(Duration::ZERO))?, [0]);
        let gone = queue.get();
        assert!(matches!(gone, Err(Error::HostGone { .. })), "{gone:?}");
        Ok(())
    })
}
