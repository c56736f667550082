//! Queues whose putters, getters or hosts exit, are killed or are stopped, in the middle of each operation.

mod children;

use std::time::{Duration, Instant};

use children::{
    DEADLINE, Outcome, assert_each_once, in_time, kill, next, rest, until, value, within,
};
use procession::process::Stdio;
use procession::wire::endpoint::Transport;
use procession::wire::frame::{Credit, Hello, MAGIC, Message, Role, VERSION, decode, encode, kind};
use procession::{Error, Process, Queue, wait};
use rustix::process::{Pid, Signal, kill_process};

type Numbers = Queue<u64>;

const SOON: Duration = Duration::from_millis(30);

fn signal<R>(process: &Process<R>, signal: Signal) -> Outcome {
    let pid = Pid::from_raw(i32::try_from(process.pid())?).ok_or("no process id")?;
    Ok(kill_process(pid, signal)?)
}

// ---- putters ----

/// Ends in one way or the other behind its puts.
#[procession::task]
fn put_and_end(queue: Numbers, count: u64, way: String) -> Result<(), String> {
    for number in 0..count {
        queue.put(number).map_err(|error| error.to_string())?;
    }
    match &*way {
        "exit" => std::process::exit(0),
        "exit of a thread" => {
            let thread = std::thread::spawn(|| std::process::exit(0));
            let _ = thread.join();
            Ok(())
        }
        "drop" => {
            drop(queue);
            Ok(())
        }
        "forget" => {
            std::mem::forget(queue);
            Ok(())
        }
        "error" => Err("an error".to_owned()),
        "panic" => panic!("a panic"),
        "flush and abort" => {
            queue.flush().map_err(|error| error.to_string())?;
            std::process::abort()
        }
        "close and abort" => {
            queue.close().map_err(|error| error.to_string())?;
            std::process::abort()
        }
        _ => Ok(()),
    }
}

#[test]
fn a_putter_that_ends_normally_or_has_flushed_loses_nothing() -> Outcome {
    in_time(|| {
        for way in [
            "return",
            "drop",
            "forget",
            "exit",
            "exit of a thread",
            "error",
            "panic",
            "flush and abort",
            "close and abort",
        ] {
            for count in [1, 30_000] {
                let queue = Numbers::new()?;
                let putter = Process::builder()
                    .stderr(Stdio::null())
                    .spawn(put_and_end, (queue.clone(), count, way.to_owned()))?;
                let _ = value(&putter);
                assert_eq!(queue.len()? as u64, count, "{way}");
                queue.shutdown()?;
                assert_eq!(rest(&queue)?, (0..count).collect::<Vec<_>>(), "{way}");
            }
        }
        Ok(())
    })
}

#[procession::task]
fn put_for_ever(queue: Numbers, started: Queue<()>) -> procession::Result<()> {
    started.put(())?;
    started.flush()?;
    for number in 0.. {
        queue.put(number)?;
    }
    Ok(())
}

#[test]
fn a_putter_that_is_killed_leaves_an_unbroken_beginning() -> Outcome {
    in_time(|| {
        for maxsize in [0, 10, 100_000] {
            let queue = Numbers::with_maxsize(maxsize)?;
            let started = Queue::new()?;
            let putter = Process::spawn(put_for_ever, (queue.clone(), started.clone()))?;
            next(&started)?;
            for number in 0..500 {
                assert_eq!(next(&queue)?, number);
            }
            kill(&putter)?;
            queue.shutdown()?;
            let left = rest(&queue)?;
            assert_eq!(left, (500..500 + left.len() as u64).collect::<Vec<_>>());
        }
        Ok(())
    })
}

#[test]
fn room_that_a_killed_putter_had_is_there_for_others() -> Outcome {
    in_time(|| {
        let queue = Numbers::with_maxsize(5)?;
        for _ in 0..3 {
            let started = Queue::new()?;
            let putter = Process::spawn(put_for_ever, (queue.clone(), started.clone()))?;
            next(&started)?;
            until("it is full", || Ok(queue.is_full()?))?;
            assert!(queue.put_timeout(7, SOON).is_err());
            kill(&putter)?;
            for _ in 0..5 {
                next(&queue)?;
            }
            while queue.try_get().is_ok() {}
            // Its own word that it wanted more may be served before its death is seen.
            for number in 0..5 {
                queue
                    .put_timeout(number, DEADLINE)
                    .map_err(|error| error.why)?;
            }
            while queue.try_get().is_ok() {}
        }
        Ok(())
    })
}

// ---- getters ----

#[procession::task]
fn get_and_tell(queue: Numbers, told: Numbers, millis: u64) -> procession::Result<()> {
    for number in queue.iter() {
        told.put(number?)?;
        told.flush()?;
        std::thread::sleep(Duration::from_millis(millis));
    }
    Ok(())
}

#[test]
fn of_a_killed_getters_items_none_is_lost_and_few_come_again() -> Outcome {
    in_time(|| {
        let queue = Numbers::new()?;
        let told = Numbers::new()?;
        queue.put_many(0..5_000)?;
        for _ in 0..8 {
            let getter = Process::spawn(get_and_tell, (queue.clone(), told.clone(), 0))?;
            for _ in 0..100 {
                next(&told)?;
            }
            kill(&getter)?;
        }
        let getter = Process::spawn(get_and_tell, (queue.clone(), told.clone(), 0))?;
        queue.shutdown()?;
        value(&getter)?;
        told.shutdown()?;
        let mut counts = vec![0u32; 5_000];
        // Those of the first rounds were read above.
        for number in rest(&told)? {
            counts[number as usize] += 1;
        }
        let last = counts
            .iter()
            .rposition(|count| *count == 0)
            .map_or(0, |at| at + 1);
        assert!(last <= 8 * 400, "{last} is missing");
        let again: u32 = counts.iter().map(|count| count.saturating_sub(1)).sum();
        assert!(again <= 8 * 1_024, "{again} came again");
        Ok(())
    })
}

#[test]
fn what_was_sent_ahead_to_a_killed_getter_goes_to_others() -> Outcome {
    in_time(|| {
        let (queue, told) = (Numbers::new()?, Numbers::new()?);
        queue.put_many(0..20_000)?;
        let getter = Process::spawn(take_then_sleep, (queue.clone(), 5_000, told.clone()))?;
        assert_eq!(next(&told)?, 5_000);
        until("its items are confirmed", || Ok(queue.len()? == 15_000))?;
        kill(&getter)?;
        queue.shutdown()?;
        assert_each_once(rest(&queue)?, 5_000..20_000);
        Ok(())
    })
}

#[procession::task]
fn take_then_sleep(queue: Numbers, count: u64, told: Numbers) -> procession::Result<()> {
    for _ in 0..count {
        queue.get()?;
    }
    told.put(count)?;
    told.flush()?;
    loop {
        std::thread::park();
    }
}

/// Gets what nobody puts, or waits for room that nobody makes, or for other things that do not come.
#[procession::task]
fn be_in_the_middle_of(operation: String, queue: Numbers, ready: Queue<()>) -> Result<(), String> {
    ready.put(()).map_err(|error| error.to_string())?;
    ready.flush().map_err(|error| error.to_string())?;
    let text = |error: Error| error.to_string();
    match &*operation {
        "get" => drop(queue.get().map_err(text)?),
        "wait" => drop(wait(&[&queue], None).map_err(text)?),
        "put" => loop {
            queue.put(1).map_err(|error| error.to_string())?;
        },
        "flush" => loop {
            queue.put(1).map_err(|error| error.to_string())?;
            queue.flush().map_err(text)?;
        },
        "len" => loop {
            queue.len().map_err(text)?;
        },
        "close" => {
            queue.put_many(0..100).map_err(|error| error.to_string())?;
            queue.close().map_err(text)?;
        }
        "shutdown" => queue.shutdown().map_err(text)?,
        other => return Err(other.to_owned()),
    }
    loop {
        std::thread::park();
    }
}

#[test]
fn a_child_that_is_killed_in_the_middle_of_anything_harms_nobody() -> Outcome {
    in_time(|| {
        for operation in ["get", "wait", "put", "flush", "len", "close", "shutdown"] {
            for maxsize in [0, 200] {
                let queue = Numbers::with_maxsize(maxsize)?;
                let ready = Queue::new()?;
                let args = (operation.to_owned(), queue.clone(), ready.clone());
                let children: Vec<_> = (0..2)
                    .map(|_| Process::spawn(be_in_the_middle_of, args.clone()))
                    .collect::<Result<_, _>>()?;
                next(&ready)?;
                next(&ready)?;
                for child in &children {
                    kill(child)?;
                }
                while queue.try_get().is_ok() {}
                match queue.put_timeout(77, DEADLINE) {
                    Ok(()) => {
                        // What the dead had under way may still come before it.
                        while next(&queue)? != 77 {}
                    }
                    Err(error) if operation == "shutdown" => {
                        assert!(matches!(*error.why, Error::ShutDown), "{error}");
                    }
                    Err(error) => return Err(error.why.into()),
                }
                within(DEADLINE, move || queue.shutdown())??;
            }
        }
        Ok(())
    })
}

/// What a getter says before it dials the lane that it is given.
fn say_hello_and_no_more(queue: &Numbers, endpoint: &str) -> Outcome<zmq::Socket> {
    let getter = zmq::Context::new().socket(zmq::DEALER)?;
    getter.set_linger(0)?;
    getter.connect(endpoint)?;
    let hello = Hello {
        kind: kind::HELLO,
        magic: MAGIC.to_owned(),
        version: VERSION,
        role: Role::Member as u8,
        peer: 7,
        run: 0,
        via: Transport::Ipc as u8,
        slots: 1,
        host: "here".to_owned(),
        machine: String::new(),
        pid: 1,
        held: Vec::new(),
        ordered: false,
        endpoints: Vec::new(),
        rings: false,
        key: String::new(),
    };
    getter.send(encode(&hello), 0)?;
    getter.set_rcvtimeo(i32::try_from(DEADLINE.as_millis())?)?;
    let Message::Welcome(welcome) = decode(&getter.recv_bytes(0)?.into())? else {
        return Err("no welcome".into());
    };
    let credit = Credit {
        kind: kind::CREDIT,
        run: welcome.run,
        tasks: 1,
        bytes: 1_000,
        taken: 0,
        running: 0,
    };
    getter.send(encode(&credit), 0)?;
    until("its credit is there", || {
        queue.put(1)?;
        queue.flush()?;
        Ok(queue.try_get().is_err())
    })?;
    Ok(getter)
}

#[test]
fn a_getter_that_dies_before_its_lane_is_up_keeps_nothing() -> Outcome {
    in_time(|| {
        let dir = tempfile::tempdir()?;
        let endpoint = format!("ipc://{}", dir.path().join("queue").display());
        let queue = Numbers::bind(&endpoint)?;
        let getter = say_hello_and_no_more(&queue, &endpoint)?;
        drop(getter);
        assert_eq!(next(&queue)?, 1);
        assert!(queue.is_empty()?);
        Ok(())
    })
}

#[test]
fn a_full_queue_whose_getters_are_all_dead_goes_on_with_a_new_one() -> Outcome {
    in_time(|| {
        let (queue, told) = (Numbers::with_maxsize(50)?, Numbers::new()?);
        let getters: Vec<_> = (0..3)
            .map(|_| Process::spawn(get_and_tell, (queue.clone(), told.clone(), 60_000)))
            .collect::<Result<_, _>>()?;
        let putter = queue.clone();
        let thread = std::thread::spawn(move || putter.put_many(0..300));
        let mut all = Vec::new();
        for _ in 0..3 {
            all.push(next(&told)?);
        }
        until("it is full", || Ok(queue.is_full()?))?;
        for getter in &getters {
            kill(getter)?;
        }
        assert!(!thread.is_finished());
        let getter = Process::spawn(get_and_tell, (queue.clone(), told.clone(), 0))?;
        assert_eq!(thread.join().expect("no panic")?, 300);
        queue.shutdown()?;
        value(&getter)?;
        told.shutdown()?;
        // What the dead had taken may not have been confirmed yet, and come again.
        let first = all.clone();
        all.extend(
            rest(&told)?
                .into_iter()
                .filter(|number| !first.contains(number)),
        );
        assert_each_once(all, 0..300);
        Ok(())
    })
}

#[test]
fn a_getter_that_leaves_gives_back_what_it_has_not_taken() -> Outcome {
    in_time(|| {
        let queue = Numbers::new()?;
        queue.put_many(0..20_000)?;
        let mut all = Vec::new();
        for _ in 0..5 {
            let getter = Process::spawn(take, (queue.clone(), 1_500))?;
            all.extend(value(&getter)?);
        }
        queue.shutdown()?;
        all.extend(rest(&queue)?);
        assert_each_once(all, 0..20_000);
        Ok(())
    })
}

#[procession::task]
fn take(queue: Numbers, count: usize) -> procession::Result<Vec<u64>> {
    queue.iter().take(count).collect()
}

#[test]
fn a_stopped_getter_gets_nothing_more_and_keeps_what_it_has() -> Outcome {
    in_time(|| {
        let (queue, told) = (Numbers::with_maxsize(100)?, Numbers::new()?);
        queue.put_many(0..10)?;
        let getter = Process::spawn(get_and_tell, (queue.clone(), told.clone(), 0))?;
        for number in 0..10 {
            assert_eq!(next(&told)?, number);
        }
        until("all is confirmed", || Ok(queue.is_empty()?))?;
        signal(&getter, Signal::STOP)?;
        // Far beyond the time in which a getter elsewhere would be taken for dead.
        let mut all = Vec::new();
        let mut number = 10;
        let since = Instant::now();
        while since.elapsed() < Duration::from_secs(5) {
            queue.put(number)?;
            number += 1;
            all.extend(queue.get_timeout(Duration::from_millis(100)).ok());
        }
        queue.put(number)?;
        until("one that is put now comes to another getter", || {
            all.push(next(&queue)?);
            Ok(all.last() == Some(&number))
        })?;
        signal(&getter, Signal::CONT)?;
        queue.shutdown()?;
        all.extend(rest(&queue)?);
        value(&getter)?;
        told.shutdown()?;
        all.extend(rest(&told)?);
        assert_each_once(all, 10..number + 1);
        Ok(())
    })
}

// ---- hosts ----

/// Makes a queue, and hands it out through another one.
#[procession::task]
fn host_a_queue(
    hand_out: Queue<Numbers>,
    endpoint: Option<String>,
    count: u64,
    end: Queue<String>,
) -> Result<(), String> {
    let text = |error: Error| error.to_string();
    let queue = match endpoint {
        Some(endpoint) => Numbers::bind(&endpoint),
        None => Numbers::new(),
    }
    .map_err(text)?;
    for number in 0..count {
        queue.put(number).map_err(|error| error.to_string())?;
    }
    hand_out
        .put(queue.clone())
        .map_err(|error| error.to_string())?;
    match &*end.get().map_err(text)? {
        "drop" => {
            drop(queue);
            end.get().map_err(text)?;
            Ok(())
        }
        "exit" => std::process::exit(0),
        "panic" => panic!("a panic"),
        _ => Ok(()),
    }
}

struct Host {
    process: Process<()>,
    queue: Numbers,
    end: Queue<String>,
}

impl Host {
    fn start(endpoint: Option<&str>, count: u64) -> Outcome<Self> {
        let (hand_out, end) = (Queue::new()?, Queue::new()?);
        let endpoint = endpoint.map(str::to_owned);
        let process = Process::builder().stderr(Stdio::piped()).spawn(
            host_a_queue,
            (hand_out.clone(), endpoint, count, end.clone()),
        )?;
        Ok(Self {
            process,
            queue: next(&hand_out)?,
            end,
        })
    }

    /// What it says on its standard error, to its end.
    fn words(&mut self) -> Outcome<String> {
        let mut words = String::new();
        let mut stderr = self.process.stderr.take().ok_or("it is piped")?;
        within(DEADLINE, move || {
            std::io::Read::read_to_string(&mut stderr, &mut words).map(|_| words)
        })?
        .map_err(Into::into)
    }
}

const PLACES: [Option<&str>; 2] = [None, Some("tcp://127.0.0.1:*")];

#[test]
fn when_the_host_is_killed_puts_give_the_item_back_and_gets_yield_what_is_here() -> Outcome {
    in_time(|| {
        for place in PLACES {
            let host = Host::start(place, 10_000)?;
            let queue = &host.queue;
            // Quick gets let items be sent ahead.
            for number in 0..5_000 {
                assert_eq!(next(queue)?, number);
            }
            let waiting = Host::start(place, 0)?;
            let getter = waiting.queue.clone();
            let getter = std::thread::spawn(move || {
                getter
                    .iter()
                    .find_map(Result::err)
                    .expect("it does not end well")
            });
            let flusher = Process::spawn(be_in_the_middle_of_flush, (waiting.queue.clone(),))?;
            kill(&host.process)?;
            let mut expected = 5_000;
            let gone = loop {
                match queue.get_timeout(DEADLINE) {
                    Ok(number) => {
                        assert_eq!(number, expected);
                        expected += 1;
                    }
                    Err(error) => break error,
                }
            };
            assert!(matches!(gone, Error::HostGone { .. }), "{place:?}: {gone}");
            assert!(gone.to_string().contains(&queue.endpoint()), "{gone}");
            for put in [
                queue.put(9),
                queue.try_put(9),
                queue.put_timeout(9, DEADLINE),
            ] {
                let error = put.expect_err("nobody takes it");
                assert_eq!(error.item, 9);
                assert!(matches!(*error.why, Error::HostGone { .. }), "{error}");
            }
            assert!(matches!(queue.try_get(), Err(Error::HostGone { .. })));
            assert!(matches!(queue.len(), Err(Error::HostGone { .. })));
            assert!(matches!(queue.is_empty(), Err(Error::HostGone { .. })));
            assert!(matches!(queue.shutdown(), Err(Error::HostGone { .. })));
            assert_eq!(wait(&[queue], None)?, [0]);
            let mut seen = queue.iter();
            assert!(matches!(seen.next(), Some(Err(Error::HostGone { .. }))));
            assert!(seen.next().is_none());
            kill(&waiting.process)?;
            let got = within(DEADLINE, || getter.join().expect("no panic"))?;
            assert!(matches!(got, Error::HostGone { .. }), "{got:?}");
            assert!(value(&flusher)?.contains("is gone"));
        }
        Ok(())
    })
}

#[procession::task]
fn be_in_the_middle_of_flush(queue: Numbers) -> String {
    loop {
        if let Err(error) = queue
            .put(1)
            .map_err(Error::from)
            .and_then(|()| queue.flush())
        {
            return error.to_string();
        }
    }
}

#[test]
fn a_handle_that_was_never_used_says_at_once_that_its_host_was_killed() -> Outcome {
    in_time(|| {
        for place in PLACES {
            let host = Host::start(place, 1)?;
            kill(&host.process)?;
            let queue = host.queue.clone();
            assert_eq!(
                within(DEADLINE / 4, {
                    let queue = queue.clone();
                    move || wait(&[&queue], None)
                })??,
                [0]
            );
            let got = within(DEADLINE / 4, move || queue.get())?;
            assert!(
                matches!(got, Err(Error::HostGone { .. })),
                "{place:?}: {got:?}"
            );
        }
        Ok(())
    })
}

#[test]
fn a_host_that_ends_normally_lets_others_take_what_is_there() -> Outcome {
    in_time(|| {
        for (place, way) in PLACES
            .into_iter()
            .flat_map(|place| [(place, "return"), (place, "exit"), (place, "drop")])
        {
            let mut host = Host::start(place, 20_000)?;
            assert_eq!(next(&host.queue)?, 0);
            host.end.put(way.to_owned())?;
            let mut all = vec![0];
            for _ in 1..20_000 {
                all.push(next(&host.queue)?);
            }
            host.end.put(String::new())?;
            assert_each_once(all, 0..20_000);
            assert!(matches!(
                host.queue.get_timeout(DEADLINE),
                Err(Error::HostGone { .. })
            ));
            let error = host.queue.put(5).expect_err("nobody takes it");
            assert!(error.item == 5 && matches!(*error.why, Error::HostGone { .. }));
            assert_eq!(host.words()?, "", "{way}");
            value(&host.process)?;
        }
        Ok(())
    })
}

#[test]
fn a_host_that_ends_with_nobody_there_ends_and_says_what_it_drops() -> Outcome {
    in_time(|| {
        for way in ["return", "exit", "drop", "panic"] {
            let mut host = Host::start(None, 20_000)?;
            host.end.put_many([way.to_owned(), String::new()])?;
            let words = host.words()?;
            let _ = value(&host.process);
            assert!(
                words.contains(
                    "ends with its process, and 20000 items in it that nobody has taken are dropped"
                ),
                "{way}: {words}"
            );
        }
        Ok(())
    })
}

#[test]
fn a_putter_whose_items_cannot_be_accepted_any_more_says_how_many_are_lost() -> Outcome {
    in_time(|| {
        let host = Host::start(None, 0)?;
        let mut putter = Process::builder()
            .stderr(Stdio::piped())
            .spawn(put_behind_the_end, (host.queue.clone(), host.process.pid()))?;
        let _ = value(&host.process);
        value(&putter)?;
        let mut words = String::new();
        let stderr = putter.stderr.as_mut().ok_or("it is piped")?;
        std::io::Read::read_to_string(stderr, &mut words)?;
        assert!(
            words.contains("100 items that this process has put were not accepted"),
            "{words}"
        );
        Ok(())
    })
}

#[procession::task]
fn put_behind_the_end(queue: Numbers, pid: u32) -> Result<(), String> {
    queue.len().map_err(|error| error.to_string())?;
    let pid = Pid::from_raw(pid as i32).ok_or("no process id")?;
    kill_process(pid, Signal::STOP).map_err(|error| error.to_string())?;
    queue.put_many(0..100).map_err(|error| error.to_string())?;
    kill_process(pid, Signal::KILL).map_err(|error| error.to_string())
}

#[test]
fn a_host_that_stands_still_for_5_s_goes_on_and_nothing_is_lost_or_doubled() -> Outcome {
    in_time(|| {
        let host = Host::start(Some("tcp://127.0.0.1:*"), 0)?;
        let (queue, out) = (&host.queue, Numbers::new()?);
        let getter = Process::spawn(pass_on, (queue.clone(), out.clone()))?;
        let putter = Process::spawn(put_slowly, (queue.clone(), 20_000))?;
        let mut all = Vec::new();
        for _ in 0..2_000 {
            all.push(next(&out)?);
        }
        signal(&host.process, Signal::STOP)?;
        // The time itself is what this is about.
        std::thread::sleep(Duration::from_secs(5));
        signal(&host.process, Signal::CONT)?;
        value(&putter)?;
        queue.shutdown()?;
        value(&getter)?;
        out.shutdown()?;
        all.extend(rest(&out)?);
        assert_each_once(all, 0..20_000);
        host.end.put(String::new())?;
        value(&host.process)
    })
}

#[procession::task]
fn pass_on(from: Numbers, to: Numbers) -> procession::Result<()> {
    for number in from.iter() {
        to.put(number?)?;
    }
    Ok(())
}

#[procession::task]
fn put_slowly(queue: Numbers, count: u64) -> procession::Result<()> {
    for number in 0..count {
        queue.put(number)?;
        if number % 100 == 0 {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    Ok(())
}
