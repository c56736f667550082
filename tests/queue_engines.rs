//! What every engine does alike: the same tests of queues on a host of queues and on each server.

mod children;
mod servers;

use std::collections::HashSet;
use std::process::Command;
use std::time::{Duration, Instant};

use children::{Outcome, assert_each_once, in_time, kill, next, rest, until, value};
use procession::{Bytes, Error, JoinableQueue, Pool, Process, Queue, QueueHost, wait};
use servers::proxy::Proxy;

/// Where the test's queues are.
struct Place {
    server: String,
    _host: Option<QueueHost>,
}

impl Place {
    fn hosted() -> Outcome<Option<Self>> {
        let host = QueueHost::bind("tcp://127.0.0.1:*")?;
        let endpoint = host.endpoints().last().ok_or("an endpoint")?.to_string();
        Ok(Some(Self {
            server: endpoint,
            _host: Some(host),
        }))
    }

    fn on(variable: &str) -> Outcome<Option<Self>> {
        Ok(servers::url(variable).map(|server| Self {
            server,
            _host: None,
        }))
    }

    /// The URL of a new queue, with these settings.
    fn queue(&self, name: &str, settings: &str) -> String {
        let lease = if self._host.is_some() { "" } else { "&lease=2" };
        let name = servers::unique(name);
        format!("{}?queue={name}{lease}{settings}", self.server)
    }

    fn is_exact(&self) -> bool {
        self._host.is_some() || self.server.starts_with("redis")
    }
}

// ---- order, lengths, ends ----

fn items_come_once_and_in_the_order_of_their_putter(place: Place) -> Outcome {
    let queue: Queue<u64> = Queue::open(&place.queue("order", ""))?;
    let other: Queue<u64> = Queue::open(&place.queue("other", ""))?;
    other.put(77)?;
    let putter = queue.clone();
    let putting = std::thread::spawn(move || putter.put_many(0..5_000).map_err(|e| e.to_string()));
    for number in 0..5_000 {
        assert_eq!(next(&queue)?, number);
    }
    assert_eq!(putting.join().expect("no panic")?, 5_000);
    assert!(matches!(queue.try_get(), Err(Error::Empty)));
    assert!(matches!(
        queue.get_timeout(Duration::from_millis(30)),
        Err(Error::Empty)
    ));
    assert_eq!(next(&other)?, 77, "queues of other names are others");
    Ok(())
}

fn it_knows_how_many_there_are(place: Place) -> Outcome {
    let queue: Queue<String> = Queue::open(&place.queue("len", ""))?;
    assert!(queue.is_empty()?);
    for number in 0..10 {
        queue.put(format!("item {number}"))?;
    }
    assert_eq!(queue.len()?, 10);
    assert_eq!(queue.try_get()?, "item 0");
    assert_eq!(queue.len()?, 9);
    Ok(())
}

fn every_getter_sees_the_end_also_one_that_comes_later(place: Place) -> Outcome {
    let url = place.queue("end", "");
    let queue: Queue<u64> = Queue::open(&url)?;
    let getters: Vec<_> = (0..4)
        .map(|_| Process::spawn(take_all, (queue.clone(), url.clone())))
        .collect::<Result<_, _>>()?;
    queue.put_many(0..2_000)?;
    queue.shutdown()?;
    let mut all = Vec::new();
    for getter in &getters {
        all.extend(value(getter)?);
    }
    assert_each_once(all, 0..2_000);
    let late: Queue<u64> = Queue::open(&url)?;
    assert!(rest(&late)?.is_empty());
    let refused = late.put(1).is_err() || late.flush().is_err();
    assert!(refused, "nobody puts behind the end");
    assert!(queue.put(1).is_err());
    Ok(())
}

#[procession::task]
fn take_all(queue: Queue<u64>, url: String) -> Result<Vec<u64>, String> {
    let _ = url;
    rest(&queue).map_err(|error| error.to_string())
}

fn a_full_queue_holds_the_putter_back(place: Place) -> Outcome {
    let queue: Queue<u64> = Queue::open(&place.queue("full", "&maxsize=5"))?;
    for number in 0..5 {
        queue.put_timeout(number, Duration::from_secs(20))?;
    }
    queue.flush()?;
    assert!(queue.is_full()?);
    if place.is_exact() {
        let full = queue.try_put(5).expect_err("it is full");
        assert!(matches!(*full.why, Error::Full { maxsize: 5 }), "{full}");
        assert_eq!(full.item, 5);
    }
    let putter = queue.clone();
    let putting = std::thread::spawn(move || putter.put(5).map_err(|error| error.to_string()));
    std::thread::sleep(Duration::from_millis(60));
    assert!(!putting.is_finished(), "it waits for room");
    for number in 0..6 {
        assert_eq!(next(&queue)?, number);
    }
    putting.join().expect("no panic")?;
    Ok(())
}

// ---- deaths ----

#[procession::task]
fn take_and_hang(queue: JoinableQueue<u64>, told: Queue<u64>) -> Result<(), String> {
    loop {
        let number = queue.get().map_err(|error| error.to_string())?;
        told.put(number).map_err(|error| error.to_string())?;
        if number % 3 == 2 {
            // Has two that it is not done with.
            std::thread::sleep(Duration::from_secs(3600));
        }
        if number % 3 == 0 {
            queue.task_done().map_err(|error| error.to_string())?;
        }
    }
}

fn what_a_killed_getter_was_not_done_with_goes_to_another(place: Place) -> Outcome {
    let queue: JoinableQueue<u64> = JoinableQueue::open(&place.queue("killed", ""))?;
    let told = Queue::new()?;
    for number in 0..9 {
        queue.put(number)?;
    }
    queue.flush()?;
    let getter = Process::spawn(take_and_hang, (queue.clone(), told.clone()))?;
    for number in 0..3 {
        assert_eq!(next(&told)?, number);
    }
    // What it is done with has been said a moment later.
    until("one is done with", || Ok(queue.unfinished()? == 8))?;
    kill(&getter)?;
    let mut left: Vec<u64> = Vec::new();
    while left.len() < 8 {
        left.push(next(&queue)?);
        queue.task_done()?;
    }
    left.sort_unstable();
    assert_eq!(left, [1, 2, 3, 4, 5, 6, 7, 8]);
    queue.join()?;
    assert!(matches!(queue.try_get(), Err(Error::Empty)));
    Ok(())
}

fn an_item_stays_its_getters_for_longer_than_a_lease(place: Place) -> Outcome {
    let url = place.queue("lease", "");
    let queue: JoinableQueue<u64> = JoinableQueue::open(&url)?;
    queue.put(1)?;
    assert_eq!(next(&queue)?, 1);
    let other = Process::spawn(wait_for_one, (queue.clone(), 6.0))?;
    assert_eq!(value(&other)?, None, "nobody else gets it");
    queue.task_done()?;
    queue.join()?;
    Ok(())
}

#[procession::task]
fn wait_for_one(queue: JoinableQueue<u64>, seconds: f64) -> Result<Option<u64>, String> {
    match queue.get_timeout(Duration::from_secs_f64(seconds)) {
        Ok(number) => Ok(Some(number)),
        Err(Error::Empty) => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

#[procession::task]
fn put_and_leave(queue: Queue<u64>, from: u64, to: u64) -> Result<(), String> {
    queue
        .put_many(from..to)
        .map(drop)
        .map_err(|e| e.to_string())
}

fn putters_that_end_lose_nothing_however_many_there_are(place: Place) -> Outcome {
    let queue: Queue<u64> = Queue::open(&place.queue("putters", ""))?;
    let putters: Vec<_> = (0..4)
        .map(|n| Process::spawn(put_and_leave, (queue.clone(), n * 1_000, (n + 1) * 1_000)))
        .collect::<Result<_, _>>()?;
    for putter in &putters {
        value(putter)?;
    }
    queue.shutdown()?;
    assert_each_once(rest(&queue)?, 0..4_000);
    Ok(())
}

fn a_connection_that_is_cut_again_and_again_loses_nothing(place: Place) -> Outcome {
    if place._host.is_some() {
        // Hosts of queues are tested with deaths of the host itself: tests/queue_hosts.rs.
        return Ok(());
    }
    const ITEMS: u64 = 2_000;
    let proxy = Proxy::new(servers::port(&place.server));
    let name = servers::unique("cut");
    let server = servers::by_way_of(&place.server, proxy.port);
    let queue: JoinableQueue<u64> = JoinableQueue::open(&format!("{server}?queue={name}&lease=2"))?;
    let putter = queue.clone();
    let putting = std::thread::spawn(move || -> Result<(), String> {
        for number in 0..ITEMS {
            putter.put(number).map_err(|error| error.to_string())?;
            if number % 100 == 99 {
                putter.flush().map_err(|error| error.to_string())?;
            }
        }
        Ok(())
    });
    let mut found = HashSet::new();
    let mut cuts = [ITEMS / 8, ITEMS / 3, ITEMS / 2, ITEMS - 5]
        .into_iter()
        .peekable();
    while found.len() < ITEMS as usize {
        let number = next(&queue)?;
        if found.insert(number) && cuts.next_if_eq(&(found.len() as u64)).is_some() {
            proxy.cut();
        }
        queue.task_done()?;
    }
    putting.join().expect("no panic")?;
    // What was done with and not said before a cut comes again, and is done with again.
    while !queue.join_timeout(Duration::from_millis(300))? {
        while let Ok(again) = queue.get_timeout(Duration::from_millis(50)) {
            assert!(found.contains(&again));
            queue.task_done()?;
        }
    }
    assert_eq!(found, (0..ITEMS).collect());
    Ok(())
}

// ---- task_done and join ----

fn join_waits_for_the_last_task(place: Place) -> Outcome {
    let queue: JoinableQueue<u64> = JoinableQueue::open(&place.queue("join", ""))?;
    for number in 0..100 {
        queue.put(number)?;
    }
    assert!(!queue.join_timeout(Duration::from_millis(20))?);
    let worker = queue.clone();
    let thread = std::thread::spawn(move || -> Result<u64, String> {
        let mut count = 0;
        while worker.get_timeout(Duration::from_secs(20)).is_ok() {
            worker.task_done().map_err(|error| error.to_string())?;
            count += 1;
            if count == 100 {
                break;
            }
        }
        Ok(count)
    });
    queue.join()?;
    assert_eq!(thread.join().expect("no panic")?, 100);
    assert_eq!(queue.unfinished()?, 0);
    assert!(matches!(queue.task_done(), Err(Error::NotGot)));
    Ok(())
}

// ---- what items there are ----

fn items_of_all_sizes_arrive_whole(place: Place) -> Outcome {
    let queue: Queue<Bytes> = Queue::open(&place.queue("large", ""))?;
    let pattern = |size: usize| -> Vec<u8> { (0..size).map(|at| (at * 7 % 251) as u8).collect() };
    let sizes = [0, 1, 60_000, 65_536, 300_000, 3 << 20];
    for size in sizes {
        queue.put(Bytes::from(pattern(size)))?;
    }
    for size in sizes {
        assert!(next(&queue)?[..] == pattern(size)[..], "{size} bytes");
    }
    assert!(queue.is_empty()?);
    Ok(())
}

fn what_is_no_item_of_ours_is_an_error_and_the_next_one_comes(place: Place) -> Outcome {
    let url = place.queue("garbage", "");
    let queue: Queue<u64> = Queue::open(&url)?;
    let texts: Queue<String> = Queue::open(&url)?;
    queue.put(1)?;
    texts.put("no number".to_owned())?;
    texts.flush()?;
    queue.put(2)?;
    assert_eq!(next(&queue)?, 1);
    let error = queue.get().expect_err("a text");
    assert!(matches!(error, Error::Encoding { .. }), "{error}");
    assert_eq!(next(&queue)?, 2);
    assert!(queue.is_empty()?);
    Ok(())
}

// ---- pools ----

#[procession::task]
fn square(n: u64) -> u64 {
    n * n
}

#[procession::task]
fn kill_once(flag: String, n: u64) -> u64 {
    if std::fs::File::create_new(flag).is_ok() {
        std::process::abort();
    }
    n + 1
}

#[procession::task]
fn fail(why: String) -> Result<u64, String> {
    Err(why)
}

#[procession::task]
fn work_at(url: String) -> Result<(), String> {
    let worker = Pool::worker(&url).workers(2);
    worker.run().map_err(|error| error.to_string())
}

fn pools_make_their_calls_wherever_somebody_works(place: Place) -> Outcome {
    let url = place.queue("pool", "");
    let pool = Pool::open(&url)?;
    let first = pool.apply_async(square, (12,))?;
    let workers = Process::spawn(work_at, (url.clone(),))?;
    assert_eq!(first.get()?, 144);
    assert_eq!(
        pool.map(square, 0..2_000)?,
        (0..2_000).map(|n| n * n).collect::<Vec<_>>()
    );
    let other = Pool::open(&url)?;
    // Their calls have the same numbers, and are not mistaken for each other.
    let theirs = std::thread::spawn(move || {
        let squares = other.tasks(square).chunksize(1).map(1_000..1_400);
        squares.map(|squares| (other, squares))
    });
    let ours = pool.tasks(square).chunksize(1).map(0..400)?;
    assert_eq!(ours, (0..400).map(|n| n * n).collect::<Vec<_>>());
    let (other, theirs) = theirs.join().expect("no panic")?;
    assert_eq!(theirs, (1_000..1_400).map(|n| n * n).collect::<Vec<_>>());
    let failed = pool
        .apply(fail, ("no luck".to_owned(),))
        .expect_err("it fails");
    assert!(failed.to_string().contains("no luck"), "{failed}");
    let dir = tempfile::tempdir()?;
    let flag = dir.path().join("flag").display().to_string();
    assert_eq!(pool.apply(kill_once, (flag, 6))?, 7);
    other.join()?;
    pool.join()?;
    // Workers at a queue go on for other pools till they are told to end.
    assert!(workers.is_alive());
    kill(&workers)
}

// ---- other languages ----

/// A program in another language, beside which procession puts and gets.
fn reads_and_puts(
    place: &Place,
    reader: impl Fn(&[&str]) -> std::io::Result<std::process::Output>,
) -> Outcome {
    let url = place.queue("languages", "");
    let queue: Queue<(u64, String)> = Queue::open(&url)?;
    queue.put((1, "one".to_owned()))?;
    queue.put((2, "two".to_owned()))?;
    queue.flush()?;
    let read = reader(&[&url])?;
    let said = String::from_utf8_lossy(&read.stdout).replace(", ", ",");
    assert_eq!(said, "[1,\"one\"]\n[2,\"two\"]\n", "{read:?}");
    assert_eq!(queue.len()?, 0);
    let put = reader(&[&url, "put", "[3, \"three\"]"])?;
    assert!(put.status.success() && put.stdout.is_empty(), "{put:?}");
    assert_eq!(next(&queue)?, (3, "three".to_owned()));
    Ok(())
}

fn programs_in_python_read_and_put_with_the_servers_own_client(place: Place) -> Outcome {
    if place._host.is_some() {
        // ZeroMQ's frames are another thing: examples/python_worker.py, and the gateway.
        return Ok(());
    }
    let Some(python) = std::env::var_os("PROCESSION_TEST_PYTHON") else {
        eprintln!(
            "NOT RUN: a queue read from Python, because PROCESSION_TEST_PYTHON is not set; make test makes it"
        );
        return Ok(());
    };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/queue_reader.py");
    reads_and_puts(&place, |words| {
        Command::new(&python).arg(script).args(words).output()
    })
}

fn programs_in_go_read_and_put_with_the_servers_own_client(place: Place) -> Outcome {
    if place._host.is_some() || place.server.starts_with("beanstalk") {
        // For beanstalkd no client comes with Debian.
        return Ok(());
    }
    let Some(go) = std::env::var_os("PROCESSION_TEST_GO") else {
        eprintln!(
            "NOT RUN: a queue read from Go, because PROCESSION_TEST_GO is not set; make test gets it"
        );
        return Ok(());
    };
    let dir = tempfile::tempdir()?;
    let program = dir.path().join("queue_reader");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/queue_reader.go");
    let built = Command::new(&go)
        .args(["build", "-o"])
        .arg(&program)
        .arg(source)
        .env("GO111MODULE", "off")
        .env("GOPATH", "/usr/share/gocode")
        .env("GOCACHE", std::env::temp_dir().join("procession-go"))
        .output()?;
    assert!(built.status.success(), "{built:?}");
    reads_and_puts(&place, |words| Command::new(&program).args(words).output())
}

// ---- together with others ----

fn it_is_among_the_things_that_wait_waits_for(place: Place) -> Outcome {
    let served: Queue<u64> = Queue::open(&place.queue("wait", ""))?;
    let other: Queue<u64> = Queue::new()?;
    assert!(wait(&[&served, &other], Some(Duration::from_millis(30)))?.is_empty());
    let putter = served.clone();
    let putting = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        putter.put(4).map_err(|error| error.to_string())
    });
    let ready = wait(&[&served, &other], Some(Duration::from_secs(20)))?;
    assert_eq!(ready, [0]);
    assert_eq!(served.try_get()?, 4);
    putting.join().expect("no panic")?;
    Ok(())
}

fn an_idle_getter_uses_next_to_no_time(place: Place) -> Outcome {
    use rustix::time::{ClockId, clock_gettime};
    let queue: Queue<u64> = Queue::open(&place.queue("idle", ""))?;
    queue.put(1)?;
    next(&queue)?;
    let cpu = || {
        let time = clock_gettime(ClockId::ProcessCPUTime);
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    };
    let (before, since) = (cpu(), Instant::now());
    assert!(matches!(
        queue.get_timeout(Duration::from_secs(2)),
        Err(Error::Empty)
    ));
    assert!(since.elapsed() >= Duration::from_secs(2));
    let used = cpu() - before;
    // Other tests of this program run at the same time when they are not run alone; a loop that spins takes all of it.
    println!("an idle getter and its neighbours: {used:?} in 2 s");
    Ok(())
}

/// Each of these on each of the engines.
macro_rules! on_all {
    ($($test:ident),* $(,)?) => {
        on_all!(@ hosted, crate::Place::hosted(), $($test),*);
        on_all!(@ redis, crate::Place::on("PROCESSION_TEST_REDIS"), $($test),*);
        on_all!(@ rabbitmq, crate::Place::on("PROCESSION_TEST_AMQP"), $($test),*);
        on_all!(@ beanstalkd, crate::Place::on("PROCESSION_TEST_BEANSTALK"), $($test),*);
    };
    (@ $engine:ident, $place:expr, $($test:ident),*) => {
        mod $engine {
            $(
                #[test]
                fn $test() -> crate::children::Outcome {
                    match $place? {
                        Some(place) => crate::in_time(move || crate::$test(place)),
                        None => Ok(()),
                    }
                }
            )*
        }
    };
}

on_all!(
    items_come_once_and_in_the_order_of_their_putter,
    it_knows_how_many_there_are,
    every_getter_sees_the_end_also_one_that_comes_later,
    a_full_queue_holds_the_putter_back,
    what_a_killed_getter_was_not_done_with_goes_to_another,
    an_item_stays_its_getters_for_longer_than_a_lease,
    putters_that_end_lose_nothing_however_many_there_are,
    a_connection_that_is_cut_again_and_again_loses_nothing,
    join_waits_for_the_last_task,
    items_of_all_sizes_arrive_whole,
    what_is_no_item_of_ours_is_an_error_and_the_next_one_comes,
    pools_make_their_calls_wherever_somebody_works,
    programs_in_python_read_and_put_with_the_servers_own_client,
    programs_in_go_read_and_put_with_the_servers_own_client,
    it_is_among_the_things_that_wait_waits_for,
    an_idle_getter_uses_next_to_no_time,
);
