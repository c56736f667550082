//! The same-host path: that it is taken, that order and contents survive its switches, that it falls back, and what deaths leave.

mod children;

use children::{DEADLINE, Outcome, assert_each_once, in_time, kill, next, rest, until, value};
use procession::{Connection, Pipe, Pool, Process, Queue};
use rustix::process::{Resource, Rlimit, setrlimit};

type Both = Connection<Vec<u8>, Vec<u8>>;

/// How many rings a process has mapped.
fn rings(pid: u32) -> Outcome<usize> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
    Ok(maps.matches("procession-ring").count())
}

#[procession::task]
fn echo(connection: Both) -> procession::Result<()> {
    while let Ok(message) = connection.recv() {
        connection.send(&message)?;
    }
    Ok(())
}

#[test]
fn a_pipe_that_is_in_use_goes_by_shared_memory_unless_it_is_told_not_to() -> Outcome {
    in_time(|| {
        for word in ["on", "off"] {
            let (here, there) = Pipe::new()?;
            let child = Process::builder()
                .env("PROCESSION_SAME_HOST", word)
                .spawn(echo, (there,))?;
            for number in 0..200_u8 {
                here.send(&vec![number; 100])?;
                assert_eq!(here.recv()?, vec![number; 100]);
            }
            // One for each direction.
            assert_eq!(rings(child.pid())?, if word == "on" { 2 } else { 0 });
            drop(here);
            value(&child)?;
        }
        // With the pipes went their rings.
        until("no ring is left", || Ok(rings(std::process::id())? == 0))
    })
}

#[procession::task]
fn add_up(numbers: Queue<u64>, sums: Queue<u64>) -> procession::Result<()> {
    for number in numbers.iter() {
        sums.put(number? + 1)?;
    }
    Ok(())
}

#[procession::task]
fn add(left: u64, right: u64) -> u64 {
    left + right
}

#[test]
fn queues_and_pools_go_by_shared_memory_as_well() -> Outcome {
    in_time(|| {
        let (numbers, sums) = (Queue::new()?, Queue::new()?);
        let child = Process::spawn(add_up, (numbers.clone(), sums.clone()))?;
        for number in 0..2_000 {
            numbers.put(number)?;
            assert_eq!(next(&sums)?, number + 1);
        }
        assert!(rings(child.pid())? >= 2, "lane and blocks");
        numbers.shutdown()?;
        value(&child)?;

        let pool = Pool::new(1)?;
        for number in 0..500 {
            assert_eq!(pool.apply(add, (number, 1))?, number + 1);
        }
        let worker = *pool.pids().first().ok_or("it has one")?;
        assert!(rings(worker)? >= 2, "lane and results");
        Ok(())
    })
}

#[procession::task]
fn send_all(connection: Both, sizes: Vec<usize>) -> procession::Result<()> {
    for (number, &size) in sizes.iter().enumerate() {
        connection.send(&vec![number as u8; size])?;
    }
    Ok(())
}

#[test]
fn messages_of_all_sizes_stay_in_order_while_they_change_their_way() -> Outcome {
    in_time(|| {
        // What a ring takes, what it does not, and what is sent in parts; sometimes more than the window before anybody reads.
        let sizes: Vec<usize> = (0..600)
            .map(|number| match number % 60 {
                20 => 3 << 20,
                40 => (1 << 20) - 10,
                50..55 => 700_000,
                other => other * other * 7,
            })
            .collect();
        for pauses in [false, true] {
            let (here, there) = Pipe::new()?;
            let child = Process::spawn(send_all, (there, sizes.clone()))?;
            for (number, &size) in sizes.iter().enumerate() {
                if pauses && number % 100 == 99 {
                    std::thread::sleep(std::time::Duration::from_millis(20));
                }
                let message = here.recv_timeout(DEADLINE)?.ok_or("it does not come")?;
                assert!(
                    message.len() == size && message.iter().all(|&byte| byte == number as u8),
                    "message {number} of {size} bytes"
                );
            }
            value(&child)?;
        }
        Ok(())
    })
}

#[procession::task]
fn put_blocks(queue: Queue<(u64, Vec<u8>)>, putter: u64) -> procession::Result<()> {
    for number in 0..400 {
        // Now and then more than a ring takes, so that its putter goes back to the socket while others stay.
        let size = if number % 50 == 7 { 2_000_000 } else { 3_000 };
        queue.put((putter << 32 | number, vec![putter as u8; size]))?;
    }
    Ok(())
}

#[test]
fn several_putters_with_small_and_large_items_each_keep_their_order() -> Outcome {
    in_time(|| {
        let queue = Queue::new()?;
        let putters: Vec<_> = (0..4)
            .map(|putter| Process::spawn(put_blocks, (queue.clone(), putter)))
            .collect::<Result<_, _>>()?;
        let mut last = [None; 4];
        for _ in 0..4 * 400 {
            let (number, bytes) = next(&queue)?;
            let putter = (number >> 32) as usize;
            assert!(bytes.iter().all(|&byte| byte == putter as u8));
            assert!(last[putter] < Some(number), "{putter} in order");
            last[putter] = Some(number);
        }
        for putter in &putters {
            value(putter)?;
        }
        Ok(())
    })
}

/// Sends for ever, and says how far it is.
#[procession::task]
fn count_up(connection: Connection<u64, ()>) -> procession::Result<()> {
    for number in 0.. {
        connection.send(&number)?;
    }
    Ok(())
}

#[test]
fn what_a_killed_sender_has_sent_is_an_unbroken_beginning() -> Outcome {
    in_time(|| {
        for round in 0..20 {
            let (here, there) = Pipe::new::<(), u64>()?;
            let child = Process::spawn(count_up, (there,))?;
            for number in 0..round * 50 {
                assert_eq!(here.recv()?, number);
            }
            kill(&child)?;
            let mut number = round * 50;
            while let Ok(next) = here.recv() {
                assert_eq!(next, number);
                number += 1;
            }
        }
        until("no ring is left", || Ok(rings(std::process::id())? == 0))
    })
}

#[procession::task]
fn without_descriptors(numbers: Queue<u64>, sums: Queue<u64>) -> Result<usize, String> {
    // A ring wants one sixteenth of them at most.
    let limit = Rlimit {
        current: Some(128),
        maximum: Some(128),
    };
    setrlimit(Resource::Nofile, limit).map_err(|error| error.to_string())?;
    for number in numbers.iter() {
        let number = number.map_err(|error| error.to_string())?;
        sums.put(number).map_err(|error| error.to_string())?;
    }
    rings(std::process::id()).map_err(|error| error.to_string())
}

#[test]
fn without_descriptors_to_spare_it_goes_by_the_socket() -> Outcome {
    in_time(|| {
        let (numbers, sums) = (Queue::new()?, Queue::new()?);
        let child = Process::spawn(without_descriptors, (numbers.clone(), sums.clone()))?;
        for number in 0..2_000 {
            numbers.put(number)?;
            assert_eq!(next(&sums)?, number);
        }
        numbers.shutdown()?;
        assert_eq!(value(&child)?, 0);
        sums.shutdown()?;
        assert_each_once(rest(&sums)?, 0..0);
        Ok(())
    })
}
