//! Queues between unrelated programs, handles on their ways, strangers on a queue's endpoint, and sizes and numbers at the limit.

mod children;

use std::time::Duration;

use children::{DEADLINE, Outcome, assert_each_once, in_time, next, until, value, within};
use procession::pipeline::{Ventilator, Worker};
use procession::process::Stdio;
use procession::{Error, Process, Queue};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

type Numbers = Queue<u64>;

// ---- handles ----

#[procession::task]
fn answer_there(questions: Queue<(u64, Numbers)>) -> procession::Result<()> {
    for question in questions.iter() {
        let (number, answers) = question?;
        answers.put(number * 2)?;
    }
    Ok(())
}

#[test]
fn handles_go_through_queues_to_children_and_back_to_the_creator() -> Outcome {
    in_time(|| {
        let questions = Queue::new()?;
        let child = Process::spawn(answer_there, (questions.clone(),))?;
        for number in 0..20 {
            let answers = Numbers::new()?;
            questions.put((number, answers.clone()))?;
            assert_eq!(next(&answers)?, number * 2);
        }
        questions.shutdown()?;
        value(&child)?;
        // There and back, in the same process: it is the same queue, with the same member.
        let ways = Queue::new()?;
        let numbers = Numbers::with_maxsize(3)?;
        ways.put(numbers.clone())?;
        numbers.put(1)?;
        let back = next(&ways)?;
        back.put(2)?;
        assert_eq!((next(&back)?, next(&numbers)?), (1, 2));
        assert_eq!(
            (back.maxsize(), back.endpoint()),
            (Some(3), numbers.endpoint())
        );
        Ok(())
    })
}

#[test]
fn a_queue_whose_handles_here_are_gone_lives_for_those_who_have_one() -> Outcome {
    in_time(|| {
        let ways = Queue::new()?;
        {
            let numbers = Numbers::new()?;
            numbers.put(1)?;
            ways.put(numbers)?;
        }
        let numbers = next(&ways)?;
        numbers.put(2)?;
        assert_eq!((next(&numbers)?, next(&numbers)?), (1, 2));
        Ok(())
    })
}

#[test]
fn a_handle_has_no_keys_and_an_ipc_one_is_of_no_use_on_another_machine() -> Outcome {
    in_time(|| {
        let queue = Numbers::new()?;
        let mut bytes = rmp_serde::to_vec(&queue)?;
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        let boot = boot.trim().as_bytes();
        let at = bytes
            .windows(boot.len())
            .position(|window| window == boot)
            .ok_or("a handle says on which machine it was made")?;
        bytes[at..at + 8].copy_from_slice(b"00000000");
        // Another run, as this process would find its own queue by it: the number is behind the endpoint.
        let end = queue.endpoint().len() + 3;
        bytes[end + 2] ^= 1;
        let elsewhere: Numbers = rmp_serde::from_slice(&bytes)?;
        let error = elsewhere.put(5).expect_err("it leads nowhere");
        assert_eq!(error.item, 5);
        let text = error.to_string();
        assert!(matches!(*error.why, Error::BadHandle { .. }), "{text}");
        assert!(text.contains("bind(\"tcp://"), "{text}");
        assert!(matches!(elsewhere.get(), Err(Error::BadHandle { .. })));
        // A TCP one leads somewhere.
        assert!(rmp_serde::from_slice::<Numbers>(b"no handle").is_err());
        Ok(())
    })
}

// ---- unrelated programs ----

#[procession::task]
fn connect_and_add(endpoint: String, from: u64, count: u64) -> procession::Result<u64> {
    let queue = Numbers::connect(&endpoint)?;
    queue.put_many(from..from + count)?;
    Ok(queue.maxsize().unwrap_or(0) as u64)
}

#[test]
fn programs_that_share_nothing_but_an_endpoint_meet() -> Outcome {
    in_time(|| {
        let folder = tempfile::tempdir_in("/tmp")?;
        let ipc = format!("ipc://{}/q", folder.path().display());
        for endpoint in ["tcp://127.0.0.1:*", &ipc] {
            let queue = Queue::builder().maxsize(100).bind(endpoint).open()?;
            let children: Vec<_> = (0..3)
                .map(|n| Process::spawn(connect_and_add, (queue.endpoint(), n * 2_000, 2_000)))
                .collect::<Result<_, _>>()?;
            let mut all = Vec::new();
            for _ in 0..6_000 {
                all.push(next(&queue)?);
            }
            assert_each_once(all, 0..6_000);
            for child in &children {
                assert_eq!(value(child)?, 100, "maxsize is known there");
            }
        }
        Ok(())
    })
}

#[test]
fn an_endpoint_that_is_in_use_or_that_nobody_has_is_an_error_that_says_so() -> Outcome {
    in_time(|| {
        let queue = Numbers::bind("tcp://127.0.0.1:*")?;
        let error = Numbers::bind(&queue.endpoint()).expect_err("it is in use");
        assert!(matches!(error, Error::Bind { .. }), "{error}");
        let error = Numbers::bind("tcp://*:*").expect_err("it is beyond this machine");
        assert!(matches!(error, Error::BeyondLoopback { .. }), "{error}");
        let error = Numbers::connect("nonsense").expect_err("it is no endpoint");
        assert!(matches!(error, Error::BadEndpoint { .. }), "{error}");
        let port = std::net::TcpListener::bind("127.0.0.1:0")?
            .local_addr()?
            .port();
        let error = Numbers::builder()
            .patience(Duration::from_millis(300))
            .connect(&format!("tcp://127.0.0.1:{port}"))
            .expect_err("nobody is there");
        let text = error.to_string();
        assert!(matches!(error, Error::NobodyThere { .. }), "{text}");
        assert!(
            text.contains("queue") && !text.contains("ventilator"),
            "{text}"
        );
        Ok(())
    })
}

#[test]
fn other_roles_at_the_wrong_place_are_told_what_is_there() -> Outcome {
    in_time(|| {
        let queue = Numbers::bind("tcp://127.0.0.1:*")?;
        let endpoint = queue.endpoint();
        let run = move || Worker::connect(&endpoint)?.run(|number: u64| number);
        let error = within(DEADLINE, run)?
            .expect_err("a queue is no ventilator")
            .to_string();
        assert!(error.contains("a queue is here and no pipeline"), "{error}");
        let ventilator = Ventilator::<u64>::bind("tcp://127.0.0.1:*")?;
        let endpoint = ventilator.endpoints()[0].to_string();
        let error = within(DEADLINE, move || Numbers::connect(&endpoint))?
            .expect_err("a ventilator is no queue")
            .to_string();
        assert!(error.contains("a pipeline is here and no queue"), "{error}");
        queue.put(3)?;
        assert_eq!(next(&queue)?, 3);
        Ok(())
    })
}

// ---- strangers ----

#[test]
fn garbage_on_a_queues_endpoints_harms_nobody() -> Outcome {
    in_time(|| {
        let queue = Numbers::bind("tcp://127.0.0.1:*")?;
        let friend = Numbers::connect(&queue.endpoint())?;
        let context = zmq::Context::new();
        let mut strangers = Vec::new();
        for kind in [zmq::DEALER, zmq::PUSH, zmq::REQ, zmq::PAIR, zmq::SUB] {
            for endpoint in queue.endpoints() {
                let stranger = context.socket(kind)?;
                stranger.set_linger(0)?;
                stranger.connect(&endpoint.to_string())?;
                for number in 0..200_usize {
                    let junk: Vec<u8> = (0..number * 7 % 300)
                        .map(|byte| (byte * number) as u8)
                        .collect();
                    let _ = stranger.send(junk, zmq::DONTWAIT);
                    let _ = stranger.send_multipart([&b"a"[..], b"", &[0x9e, 1]], zmq::DONTWAIT);
                }
                strangers.push(stranger);
            }
        }
        // Bytes that are no ZeroMQ at all.
        let address = queue.endpoint();
        let mut plain = std::net::TcpStream::connect(address.trim_start_matches("tcp://"))?;
        std::io::Write::write_all(&mut plain, b"GET / HTTP/1.1\r\n\r\n")?;
        friend.put_many(0..5_000)?;
        for number in 0..5_000 {
            assert_eq!(next(&queue)?, number);
        }
        assert!(queue.is_empty()?);
        Ok(())
    })
}

// ---- limits ----

fn descriptors() -> Outcome<usize> {
    Ok(std::fs::read_dir("/proc/self/fd")?.count())
}

#[procession::task]
fn take_part(queue: Numbers, back: Numbers, number: u64) -> procession::Result<()> {
    back.put(number)?;
    back.flush()?;
    for item in queue.iter() {
        back.put(item?)?;
    }
    Ok(())
}

/// Hosts two queues for many processes, under a limit of descriptors; how many each process cost it.
#[procession::task]
fn host_many(soft: u64, hard: Option<u64>, members: u64) -> Result<f64, String> {
    let run = || -> Outcome<f64> {
        let limit = getrlimit(Resource::Nofile);
        setrlimit(
            Resource::Nofile,
            Rlimit {
                current: Some(soft),
                maximum: hard.or(limit.maximum),
            },
        )?;
        let (queue, back) = (Numbers::with_maxsize(1_000)?, Numbers::new()?);
        let before = descriptors()?;
        let children: Vec<_> = (0..members)
            .map(|number| Process::spawn(take_part, (queue.clone(), back.clone(), number)))
            .collect::<Result<_, _>>()?;
        let mut here = Vec::new();
        for _ in 0..members {
            here.push(next(&back)?);
        }
        assert_each_once(here, 0..members);
        queue.put_many(0..members * 20)?;
        let mut all = Vec::new();
        for _ in 0..members * 20 {
            all.push(next(&back)?);
        }
        assert_each_once(all, 0..members * 20);
        let each = (descriptors()? - before) as f64 / members as f64;
        queue.shutdown()?;
        for child in &children {
            value(child)?;
        }
        until("their descriptors are free again", || {
            Ok(descriptors()? < before + 20)
        })?;
        Ok(each)
    };
    run().map_err(|error| error.to_string())
}

#[test]
fn two_hundred_processes_share_a_queue_under_the_stock_limit_of_descriptors() -> Outcome {
    in_time(|| {
        let each = value(&Process::spawn(host_many, (1_024, None, 200))?)?;
        // Said in the docs: seven for each queue that it gets from or puts into.
        assert!(
            each < 16.0,
            "a process at two queues costs their host {each} descriptors"
        );
        Ok(())
    })
}

#[test]
fn under_a_hard_limit_of_descriptors_fifty_processes_share_two_queues() -> Outcome {
    in_time(|| {
        value(&Process::spawn(host_many, (1_024, Some(1_024), 50))?)?;
        Ok(())
    })
}

/// A number that changes when a byte does, or its place.
fn sum(bytes: &[u8]) -> u64 {
    let words = bytes
        .chunks_exact(8)
        .map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes")));
    words.fold(0, |sum, word| {
        (sum ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15)
    })
}

#[test]
fn an_item_of_1_gib_arrives() -> Outcome {
    in_time(|| {
        let queue = Queue::new()?;
        let child = Process::spawn(sum_of, (queue.clone(),))?;
        let mut bytes = vec![7_u8; 1 << 30];
        for (index, page) in bytes.chunks_mut(4096).enumerate() {
            page[index % 4096] = index as u8;
        }
        let expected = (1 << 30, sum(&bytes));
        queue.put(serde_bytes::ByteBuf::from(bytes))?;
        queue.shutdown()?;
        assert_eq!(value(&child)?, [expected]);
        Ok(())
    })
}

#[procession::task]
fn sum_of(queue: Queue<serde_bytes::ByteBuf>) -> procession::Result<Vec<(usize, u64)>> {
    let items = queue.iter();
    items
        .map(|bytes| bytes.map(|bytes| (bytes.len(), sum(&bytes))))
        .collect()
}

/// Hosts a queue with so many descriptors left, until it is told to have more; what it got in the end.
#[procession::task]
fn host_with_few_descriptors(ways: Queue<Numbers>, left: u64) -> Result<u64, String> {
    let run = || -> Outcome<u64> {
        let queue = Numbers::new()?;
        // What it needs itself is open.
        queue.put(1)?;
        let one = queue.get()?;
        let limit = getrlimit(Resource::Nofile);
        let open = std::fs::read_dir("/proc/self/fd")?.count() as u64;
        let few = Rlimit {
            current: Some(open + left),
            maximum: limit.maximum,
        };
        ways.put(queue.clone())?;
        ways.flush()?;
        setrlimit(Resource::Nofile, few)?;
        // Standard input needs no descriptor more.
        std::io::stdin().read_line(&mut String::new())?;
        setrlimit(Resource::Nofile, limit)?;
        Ok(one + queue.get()?)
    };
    run().map_err(|error| error.to_string())
}

#[test]
fn a_host_without_descriptors_refuses_connections_and_lives() -> Outcome {
    in_time(|| {
        for left in [0, 1, 7] {
            let ways = Queue::new()?;
            let mut host = Process::builder()
                .stdin(Stdio::piped())
                .spawn(host_with_few_descriptors, (ways.clone(), left))?;
            let queue = next(&ways)?;
            let path = queue.endpoints()[0].path().ok_or("a path")?.to_owned();
            let mut refused = 0;
            let mut streams = Vec::new();
            until("it refuses some", || {
                let mut stream = std::os::unix::net::UnixStream::connect(&path)?;
                stream.set_read_timeout(Some(Duration::from_secs(10)))?;
                let mut greeting = [0; 10];
                // A listener that accepts says something first.
                match std::io::Read::read(&mut stream, &mut greeting) {
                    Ok(0) | Err(_) => refused += 1,
                    Ok(_) => streams.push(stream),
                }
                Ok(refused >= 20)
            })?;
            assert!(host.is_alive(), "{left}");
            drop(host.stdin.take());
            until("it takes connections again", || {
                Ok(queue.put_timeout(41, DEADLINE).is_ok())
            })?;
            assert_eq!(value(&host)?, 42, "{left}");
        }
        Ok(())
    })
}
