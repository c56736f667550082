//! Pipes between real processes: what is sent arrives, whoever dies; the end is seen, and by nobody too early.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use procession::{Bytes, Client, Connection, Error, Listener, Pipe, Process, wait};

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// Ends a test that hangs; far more than any of them takes.
const DEADLINE: Duration = Duration::from_secs(120);

/// The deadline of one test: the whole program is ended when it passes, because a call that hangs cannot be.
struct Deadline(std::sync::Arc<AtomicBool>);

fn deadline() -> Deadline {
    let is_over = std::sync::Arc::new(AtomicBool::new(false));
    let watch = std::sync::Arc::clone(&is_over);
    let name = std::thread::current().name().map(str::to_owned);
    std::thread::spawn(move || {
        let end = Instant::now() + DEADLINE;
        while !watch.load(Ordering::Relaxed) {
            if Instant::now() > end {
                eprintln!("{name:?} ran into its deadline");
                std::process::abort();
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    Deadline(is_over)
}

impl Drop for Deadline {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Waits until something is so.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !is_so() {
        assert!(Instant::now() < end, "not {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[procession::task]
fn echo(connection: Connection<Bytes, Bytes>) -> procession::Result<u64> {
    let mut count = 0;
    loop {
        match connection.recv() {
            Ok(bytes) => connection.send(&bytes)?,
            Err(Error::EndOfFile) => return Ok(count),
            Err(error) => return Err(error),
        }
        count += 1;
    }
}

#[test]
fn a_child_answers_until_the_end_of_file() -> Outcome {
    let _deadline = deadline();
    let (here, there) = Pipe::new::<Bytes, Bytes>()?;
    let process = Process::spawn(echo, (there,))?;
    let lengths = [
        0,
        1,
        31,
        32,
        33,
        1000,
        65_536,
        (1 << 20) - 8,
        (1 << 20) - 6,
        (1 << 20) - 5,
        1 << 20,
        3_000_000,
        20_000_000,
    ];
    for len in lengths {
        let bytes = Bytes::from(vec![7; len]);
        here.send(&bytes)?;
        assert!(here.recv()? == bytes, "{len} bytes differ");
    }
    here.close();
    assert_eq!(process.join()?, lengths.len() as u64);
    Ok(())
}

#[procession::task]
fn echo_bytes(connection: Connection<(), ()>) -> procession::Result<()> {
    loop {
        match connection.recv_bytes(None) {
            Ok(bytes) => connection.send_bytes(&bytes)?,
            Err(Error::EndOfFile) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

#[test]
fn bytes_of_every_length_come_back_as_they_are() -> Outcome {
    let _deadline = deadline();
    let (here, there) = Pipe::new::<(), ()>()?;
    let process = Process::spawn(echo_bytes, (there,))?;
    for len in [
        0,
        1,
        100,
        65_536,
        (1 << 20) - 1,
        1 << 20,
        (1 << 20) + 1,
        2 << 20,
        10_000_000,
    ] {
        let bytes: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
        here.send_bytes(&bytes)?;
        assert!(here.recv_bytes(None)? == bytes, "{len} bytes differ");
    }
    here.send_bytes_at(b"0123456789", 3, 4)?;
    assert_eq!(here.recv_bytes(None)?, b"3456");
    here.send_bytes_at(b"0123456789", 8, None)?;
    assert_eq!(here.recv_bytes(None)?, b"89");
    for (offset, size) in [(8, Some(3)), (11, None), (usize::MAX, Some(2))] {
        let refused = here.send_bytes_at(b"0123456789", offset, size);
        assert!(
            matches!(refused, Err(Error::OutOfRange { .. })),
            "{refused:?}"
        );
    }
    drop(here);
    process.join()?;
    Ok(())
}

#[procession::task]
fn say_and_go(connection: Connection<String, ()>, words: Vec<String>) -> procession::Result<()> {
    for word in &words {
        connection.send(word)?;
    }
    Ok(())
}

#[test]
fn what_a_child_sent_before_it_exited_is_received_by_a_parent_that_joins_first() -> Outcome {
    let _deadline = deadline();
    for is_used_before in [false, true] {
        let (here, there) = Pipe::new::<(), String>()?;
        if is_used_before {
            assert_eq!(here.try_recv()?, None);
        }
        let words: Vec<String> = (0..1000).map(|i| i.to_string()).collect();
        Process::spawn(say_and_go, (there, words.clone()))?.join()?;
        for word in &words {
            assert_eq!(here.recv()?, *word);
        }
        assert!(matches!(here.recv(), Err(Error::EndOfFile)));
        assert!(matches!(here.send(&()), Err(Error::BrokenPipe)));
    }
    Ok(())
}

#[procession::task]
fn answer_and_go(connection: Connection<Vec<u64>, u64>) -> procession::Result<()> {
    let count = connection.recv()?;
    for i in 0..count {
        connection.send(&vec![i; 100])?;
    }
    Ok(())
}

#[test]
fn what_a_child_sent_last_on_a_connection_survives_it() -> Outcome {
    let _deadline = deadline();
    for count in [1, 10, 3000] {
        let (here, there) = Pipe::new::<u64, Vec<u64>>()?;
        let process = Process::spawn(answer_and_go, (there,))?;
        here.send(&count)?;
        process.join()?;
        for i in 0..count {
            assert_eq!(here.recv()?, vec![i; 100]);
        }
        assert!(matches!(here.recv(), Err(Error::EndOfFile)));
    }
    Ok(())
}

#[procession::task]
fn send_until_killed(connection: Connection<u64, ()>) -> procession::Result<()> {
    for number in 0.. {
        connection.send(&number)?;
    }
    Ok(())
}

#[test]
fn of_a_killed_sender_what_had_left_it_is_received_in_order_and_then_the_end() -> Outcome {
    let _deadline = deadline();
    let (here, there) = Pipe::new::<(), u64>()?;
    let process = Process::spawn(send_until_killed, (there,))?;
    for expected in 0..10_000 {
        assert_eq!(here.recv()?, expected);
    }
    process.kill()?;
    let mut expected = 10_000;
    let end = loop {
        match here.recv() {
            Ok(number) => assert_eq!(number, expected),
            Err(error) => break error,
        }
        expected += 1;
    };
    assert!(matches!(end, Error::EndOfFile), "{end}");
    Ok(())
}

#[procession::task]
fn send_large_until_killed(connection: Connection<(), ()>) -> procession::Result<()> {
    let bytes = vec![1; 300 << 20];
    loop {
        connection.send_bytes(&bytes)?;
    }
}

#[test]
fn of_a_sender_killed_in_the_middle_of_a_message_the_end_is_seen() -> Outcome {
    let _deadline = deadline();
    let (here, there) = Pipe::new::<(), ()>()?;
    let process = Process::spawn(send_large_until_killed, (there,))?;
    assert!(here.poll(Duration::MAX)?);
    std::thread::scope(|scope| {
        let receiver = scope.spawn(|| {
            loop {
                if let Err(error) = here.recv_bytes_into(&mut vec![0; 300 << 20]) {
                    break error;
                }
            }
        });
        process.kill().expect("it can be killed");
        let end = receiver.join().expect("no panic");
        assert!(matches!(end, Error::EndOfFile), "{end}");
    });
    Ok(())
}

#[procession::task]
fn receive_until_killed(connection: Connection<(), u64>) -> procession::Result<()> {
    loop {
        connection.recv()?;
    }
}

#[test]
fn a_sender_sees_that_its_receiver_was_killed() -> Outcome {
    let _deadline = deadline();
    let (here, there) = Pipe::new::<u64, ()>()?;
    let process = Process::spawn(receive_until_killed, (there,))?;
    for number in 0..10_000 {
        here.send(&number)?;
    }
    process.kill()?;
    let error = loop {
        if let Err(error) = here.send(&1) {
            break error;
        }
    };
    assert!(matches!(error, Error::BrokenPipe), "{error}");
    assert!(matches!(here.recv(), Err(Error::EndOfFile)));
    Ok(())
}

#[procession::task]
fn do_not_read(connection: Connection<(), Bytes>) -> procession::Result<()> {
    connection.poll(Duration::MAX)?;
    std::thread::sleep(DEADLINE);
    Ok(())
}

#[test]
fn a_sender_that_waits_for_room_sees_that_its_receiver_was_killed() -> Outcome {
    let _deadline = deadline();
    for len in [1000, 100 << 20] {
        let (here, there) = Pipe::new::<Bytes, ()>()?;
        let process = Process::spawn(do_not_read, (there,))?;
        let sent = std::sync::atomic::AtomicU64::new(0);
        std::thread::scope(|scope| {
            let sender = scope.spawn(|| {
                loop {
                    if let Err(error) = here.send(&Bytes::from(vec![0; len])) {
                        break error;
                    }
                    sent.fetch_add(len as u64, Ordering::Relaxed);
                }
            });
            // Until it has been the same for a while: then it waits for room.
            let (mut last, mut since) = (u64::MAX, Instant::now());
            until("waiting", || {
                let now = sent.load(Ordering::Relaxed);
                if now != last {
                    (last, since) = (now, Instant::now());
                }
                since.elapsed() > Duration::from_millis(300)
            });
            assert!(last < 8 << 20, "{last} bytes are under way");
            process.kill().expect("it can be killed");
            let error = sender.join().expect("no panic");
            assert!(matches!(error, Error::BrokenPipe), "{error}");
        });
    }
    Ok(())
}

#[procession::task]
fn hold(connection: Connection<(), ()>, gate: Connection<(), ()>) -> procession::Result<()> {
    let _ = connection;
    let _ = gate.recv();
    Ok(())
}

#[test]
fn the_end_is_seen_only_when_all_holders_are_gone() -> Outcome {
    let _deadline = deadline();
    let (here, there) = Pipe::new::<(), ()>()?;
    let (gate, gate_there) = Pipe::new::<(), ()>()?;
    let first = Process::spawn(hold, (there.clone(), gate_there))?;
    let (_other_gate, other_gate_there) = Pipe::new::<(), ()>()?;
    let second = Process::spawn(hold, (there.clone(), other_gate_there))?;
    drop(there);
    assert_eq!(here.recv_timeout(Duration::from_millis(200))?, None);
    drop(gate);
    first.join()?;
    assert_eq!(here.recv_timeout(Duration::from_millis(200))?, None);
    second.kill()?;
    assert!(matches!(here.recv(), Err(Error::EndOfFile)));
    Ok(())
}

#[test]
fn closing_in_one_process_leaves_the_other_processs_end_open() -> Outcome {
    let _deadline = deadline();
    let (here, there) = Pipe::new::<Bytes, Bytes>()?;
    let process = Process::spawn(echo, (there.clone(),))?;
    there.close();
    assert!(there.is_closed());
    assert!(matches!(there.recv(), Err(Error::ConnectionClosed)));
    assert!(rmp_serde::to_vec(&there).is_err());
    for i in 0..10_u8 {
        here.send(&Bytes::from([i]))?;
        assert_eq!(here.recv()?, [i]);
    }
    drop(here);
    assert_eq!(process.join()?, 10);
    Ok(())
}

#[test]
fn a_handle_that_is_dropped_in_transit_is_held_and_one_that_its_child_never_took_is_not() -> Outcome
{
    let _deadline = deadline();
    let (here, there) = Pipe::new::<u32, u32>()?;
    let passed = rmp_serde::to_vec(&there)?;
    drop(there);
    here.send(&1)?;
    assert_eq!(
        here.recv_timeout(Duration::from_millis(200))?,
        None,
        "in transit"
    );
    let there: Connection<u32, u32> = rmp_serde::from_slice(&passed)?;
    assert_eq!(there.recv()?, 1);
    drop(there);
    assert!(matches!(here.recv(), Err(Error::EndOfFile)));
    drop(here);
    let late = rmp_serde::from_slice::<Connection<u32, u32>>(&passed);
    let error = late.expect_err("the pipe is gone").to_string();
    assert!(error.contains("there is no pipe"), "{error}");

    let (here, there) = Pipe::new::<Bytes, Bytes>()?;
    // Usually before it has decoded its arguments.
    let process = Process::spawn(echo, (there,))?;
    process.kill()?;
    assert!(matches!(here.recv(), Err(Error::EndOfFile)));
    Ok(())
}

#[procession::task]
fn relay(from: Connection<(), Connection<u32, u32>>) -> procession::Result<()> {
    let received = from.recv()?;
    received.send(&(received.recv()? + 1))
}

#[test]
fn an_end_can_be_sent_over_another_pipe() -> Outcome {
    let _deadline = deadline();
    let (to, from) = Pipe::new::<Connection<u32, u32>, ()>()?;
    let process = Process::spawn(relay, (from,))?;
    let (here, there) = Pipe::new::<u32, u32>()?;
    to.send(&there)?;
    drop(there);
    here.send(&41)?;
    assert_eq!(here.recv()?, 42);
    assert!(matches!(here.recv(), Err(Error::EndOfFile)));
    process.join()?;
    Ok(())
}

#[procession::task]
fn take_over(
    connection: Connection<u32, u32>,
    told: Connection<String, ()>,
) -> procession::Result<()> {
    let outcome = connection.recv_timeout(Duration::ZERO);
    told.send(&format!("{}", outcome.expect_err("it is in use")))?;
    // Until the other process is gone.
    loop {
        match connection.recv() {
            Err(Error::Busy { .. }) => std::thread::sleep(Duration::from_millis(5)),
            Ok(number) => return connection.send(&(number + 1)),
            Err(error) => return Err(error),
        }
    }
}

#[test]
fn a_second_process_is_told_who_uses_the_end_and_takes_over_when_it_is_free() -> Outcome {
    let _deadline = deadline();
    let (here, there) = Pipe::new::<u32, u32>()?;
    let (tell, told) = Pipe::new::<String, ()>()?;
    assert_eq!(there.try_recv()?, None);
    let process = Process::spawn(take_over, (there.clone(), tell))?;
    let said = told.recv()?;
    let own = format!("in use by process {}", std::process::id());
    assert!(said.contains(&own), "{said}");
    drop(there);
    here.send(&1)?;
    assert_eq!(here.recv()?, 2);
    process.join()?;
    Ok(())
}

#[test]
fn two_ends_in_one_process_and_many_threads() -> Outcome {
    let _deadline = deadline();
    let (here, there) = Pipe::new::<u32, u32>()?;
    let (threads, each) = (4_u32, 3000_u32);
    let (sum, back) = std::thread::scope(|scope| {
        for thread in 0..threads {
            let (here, there) = (here.clone(), there.clone());
            scope.spawn(move || (0..each).try_for_each(|i| here.send(&(thread * each + i))));
            scope.spawn(move || (0..each).try_for_each(|i| there.send(&(thread * each + i))));
        }
        let receive = |connection: Connection<u32, u32>| {
            scope.spawn(move || {
                (0..each).try_fold(0_u64, |sum, _| {
                    Ok::<_, Error>(sum + u64::from(connection.recv()?))
                })
            })
        };
        let takers: Vec<_> = (0..threads)
            .map(|_| (receive(there.clone()), receive(here.clone())))
            .collect();
        takers
            .into_iter()
            .fold((0, 0), |(sum, back), (there, here)| {
                (
                    sum + there.join().expect("no panic").expect("received"),
                    back + here.join().expect("no panic").expect("received"),
                )
            })
    });
    let all = u64::from(threads * each);
    assert_eq!((sum, back), (all * (all - 1) / 2, all * (all - 1) / 2));
    drop(there);
    assert!(matches!(here.recv(), Err(Error::EndOfFile)));
    Ok(())
}

#[test]
fn closing_ends_calls_that_wait_in_other_threads() -> Outcome {
    let _deadline = deadline();
    let (here, _there) = Pipe::new::<u32, u32>()?;
    std::thread::scope(|scope| {
        let waiting: Vec<_> = (0..3)
            .map(|_| {
                let here = here.clone();
                scope.spawn(move || here.recv())
            })
            .collect();
        std::thread::sleep(Duration::from_millis(50));
        here.close();
        for thread in waiting {
            let end = thread.join().expect("no panic");
            assert!(matches!(end, Err(Error::ConnectionClosed)), "{end:?}");
        }
    });
    Ok(())
}

#[test]
fn what_does_not_fit_or_is_of_the_other_kind_stays() -> Outcome {
    let _deadline = deadline();
    let (here, there) = Pipe::new::<String, String>()?;
    for len in [10, 5 << 20] {
        std::thread::scope(|scope| -> Outcome {
            // The larger one is more than may be under way.
            scope.spawn(|| here.send_bytes(&vec![1; len]));
            let error = there.recv_bytes(len - 1).expect_err("too long");
            assert!(
                matches!(error, Error::TooLong { len: l, limit } if l == len as u64 && limit == l - 1),
                "{error}"
            );
            let short = there.recv_bytes_into(&mut vec![0; len - 1]);
            assert!(matches!(short, Err(Error::TooLong { .. })), "{short:?}");
            let other = there.recv();
            assert!(
                matches!(other, Err(Error::OtherKind { bytes: true })),
                "{other:?}"
            );
            assert_eq!(there.recv_bytes(len)?.len(), len);
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_message_of_another_type_loses_only_itself() -> Outcome {
    let _deadline = deadline();
    let (here, there) = Pipe::new::<String, ()>()?;
    here.send(&"first".to_owned())?;
    here.send(&"second".to_owned())?;
    let passed = rmp_serde::to_vec(&there)?;
    let wrong: Connection<(), (u32, u32)> = rmp_serde::from_slice(&passed)?;
    let error = wrong.recv().expect_err("it is a text").to_string();
    assert!(error.contains("is not a (u32, u32)"), "{error}");
    assert_eq!(there.recv()?, "second");
    Ok(())
}

#[test]
fn a_one_way_pipe_has_one_direction() -> Outcome {
    let _deadline = deadline();
    let (receiver, sender) = Pipe::one_way::<u32>()?;
    assert!(matches!(
        receiver.send_bytes(b"no"),
        Err(Error::OneWay { can_send: false })
    ));
    assert!(matches!(
        sender.poll(Duration::ZERO),
        Err(Error::OneWay { can_send: true })
    ));
    let sender: Connection<u32, procession::pipe::Never> =
        rmp_serde::from_slice(&rmp_serde::to_vec(&sender)?)?;
    assert!(sender.recv_bytes(None).is_err());
    sender.send(&3)?;
    assert_eq!(receiver.recv()?, 3);
    Ok(())
}

#[procession::task]
fn send_gigabyte(connection: Connection<u64, ()>) -> procession::Result<()> {
    let bytes: Vec<u8> = vec![0xa5; 1 << 30];
    connection.send_bytes(&bytes)?;
    connection.send(&peak_kib())
}

/// The most memory that this process has had, in KiB.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM"));
    let digits = line.and_then(|line| line.split_whitespace().nth(1));
    digits.and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

#[test]
fn a_gigabyte_needs_no_second_one_on_the_way() -> Outcome {
    let _deadline = deadline();
    let (here, there) = Pipe::new::<(), u64>()?;
    let process = Process::spawn(send_gigabyte, (there,))?;
    let mut buffer = vec![0; 1 << 30];
    assert_eq!(here.recv_bytes_into(&mut buffer)?, 1 << 30);
    assert!(buffer.iter().all(|byte| *byte == 0xa5));
    let peak = here.recv()?;
    assert!(peak < (1 << 20) + (100 << 10), "the sender had {peak} KiB");
    process.join()?;
    Ok(())
}

#[test]
fn who_waits_for_a_connection_sleeps() -> Outcome {
    use rustix::time::{ClockId, clock_gettime};
    let used = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    };
    let (here, _there) = Pipe::new::<u64, u64>()?;
    let time = Duration::from_millis(500);
    let before = used();
    assert_eq!(procession::wait(&[&here], Some(time))?, [] as [usize; 0]);
    assert!(
        used() - before < time / 4,
        "{:?} of {time:?}",
        used() - before
    );
    Ok(())
}

#[test]
fn several_are_waited_for_at_once() -> Outcome {
    let _deadline = deadline();
    let (first, first_there) = Pipe::new::<Bytes, Bytes>()?;
    let (second, second_there) = Pipe::new::<Bytes, Bytes>()?;
    let processes = [
        Process::spawn(echo, (first_there,))?,
        Process::spawn(echo, (second_there,))?,
    ];
    assert_eq!(
        wait(&[&first, &second], Some(Duration::from_millis(20)))?,
        [0_usize; 0]
    );
    for _ in 0..100 {
        second.send(&Bytes::new())?;
        assert_eq!(wait(&[&first, &second, &processes[0]], None)?, [1]);
        second.recv()?;
        first.send(&Bytes::new())?;
        assert_eq!(wait(&[&first, &second, &processes[0]], None)?, [0]);
        first.recv()?;
    }
    processes[1].kill()?;
    assert_eq!(wait(&[&first, &second], None)?, [1]);
    assert!(matches!(second.recv(), Err(Error::EndOfFile)));
    drop(first);
    assert_eq!(processes[0].join()?, 100);
    Ok(())
}

#[test]
fn closing_does_not_wait_for_a_process_that_is_dead_and_nothing_is_left() -> Outcome {
    let _deadline = deadline();
    // The child uses the second end, which connects, and the first one, which binds.
    for is_first in [false, true] {
        let (first, second) = Pipe::new::<Bytes, Bytes>()?;
        let (here, there) = if is_first {
            (second, first)
        } else {
            (first, second)
        };
        let process = Process::spawn(echo, (there,))?;
        here.send(&Bytes::new())?;
        here.recv()?;
        let shown = format!("{here:?}");
        let folder = shown.split('"').nth(1).expect("its folder").to_owned();
        assert!(std::fs::exists(&folder)?);
        process.kill()?;
        let _ = process.join();
        let since = Instant::now();
        let _ = here.send(&Bytes::new());
        here.close();
        // Half of the time that closing waits for those who are alive.
        assert!(since.elapsed() < Duration::from_secs(5), "it waited");
        assert!(!std::fs::exists(&folder)?, "{folder} is left");
    }
    Ok(())
}

#[procession::task]
fn visit(endpoint: String, number: u64) -> procession::Result<u64> {
    let connection = Client::connect::<u64, u64>(&endpoint)?;
    connection.send(&number)?;
    connection.recv()
}

#[test]
fn clients_of_other_processes_come_at_once_and_one_after_the_other() -> Outcome {
    let _deadline = deadline();
    let dir = tempfile::tempdir()?;
    let path = format!("ipc://{}", dir.path().join("listener").display());
    for endpoint in ["tcp://127.0.0.1:*", path.as_str()] {
        let listener = Listener::<u64, u64>::bind(endpoint)?;
        let endpoint = listener.endpoint().to_string();
        assert!(
            listener
                .accept_timeout(Duration::from_millis(10))?
                .is_none()
        );
        let spawn = |number| Process::spawn(visit, (endpoint.clone(), number));
        let visitors = (0..5).map(spawn).collect::<procession::Result<Vec<_>>>()?;
        assert_eq!(wait(&[&listener], None)?, [0]);
        let mut open = Vec::new();
        for _ in 0..5 {
            let connection = listener.accept()?;
            let number = connection.recv()?;
            open.push((connection, number));
        }
        for (connection, number) in &open {
            connection.send(&(number * 10))?;
        }
        for (number, visitor) in visitors.iter().enumerate() {
            assert_eq!(visitor.join()?, number as u64 * 10);
        }
        for (connection, _) in &open {
            assert!(matches!(connection.recv(), Err(Error::EndOfFile)));
            assert!(rmp_serde::to_vec(connection).is_err());
        }
        let last = spawn(7)?;
        let connection = listener.accept()?;
        drop(listener);
        connection.send(&connection.recv()?)?;
        assert_eq!(last.join()?, 7);
    }
    assert_eq!(std::fs::read_dir(dir.path())?.count(), 0, "nothing is left");
    Ok(())
}

#[test]
fn a_client_finds_a_listener_that_comes_later_and_is_told_when_none_does() -> Outcome {
    let _deadline = deadline();
    let dir = tempfile::tempdir()?;
    let endpoint = format!("ipc://{}", dir.path().join("listener").display());
    let error = Client::connect_timeout::<(), ()>(&endpoint, Duration::from_millis(50))
        .expect_err("nobody is there")
        .to_string();
    assert!(error.contains("heard nobody at ipc://"), "{error}");
    let visitor = Process::spawn(visit, (endpoint.clone(), 1))?;
    let listener = Listener::<u64, u64>::bind(&endpoint)?;
    let taken = Listener::<u64, u64>::bind(&endpoint)
        .expect_err("in use")
        .to_string();
    assert!(taken.contains("address in use"), "{taken}");
    let connection = listener.accept()?;
    connection.send(&connection.recv()?)?;
    assert_eq!(visitor.join()?, 1);
    for beyond in ["tcp://0.0.0.0:*", "tcp://192.0.2.1:1", "inproc://x"] {
        assert!(Listener::<(), ()>::bind(beyond).is_err(), "{beyond}");
    }
    Ok(())
}

#[test]
fn a_killed_client_is_the_end_of_its_connection_only() -> Outcome {
    let _deadline = deadline();
    let listener = Listener::<u64, u64>::bind("tcp://127.0.0.1:*")?;
    let endpoint = listener.endpoint().to_string();
    let victim = Process::spawn(visit, (endpoint.clone(), 1))?;
    let first = listener.accept()?;
    let other = Process::spawn(visit, (endpoint, 2))?;
    let second = listener.accept()?;
    victim.kill()?;
    assert_eq!(first.recv()?, 1);
    assert!(matches!(first.recv(), Err(Error::EndOfFile)));
    second.send(&second.recv()?)?;
    assert_eq!(other.join()?, 2);
    Ok(())
}

#[test]
fn one_thread_may_use_both_ends() {
    let (left, right) = Pipe::new::<u32, String>().expect("a pipe");
    for number in 0..100 {
        left.send(&number).expect("it is sent");
        let back = number.to_string();
        assert_eq!(right.recv().expect("it comes"), number);
        right.send(&back).expect("it is sent");
        assert_eq!(left.recv().expect("it comes"), back);
    }
}
