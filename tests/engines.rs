//! What every engine does, written once and run on each server: `scripts/services run cargo test --test engines`, or `make test`.
//!
//! A server is known by its variable, PROCESSION_TEST_REDIS, …_BEANSTALK or …_AMQP. Without it the tests of that server say aloud that they did not run;
//! with PROCESSION_TEST_SERVERS=required they fail.

mod deadline;
mod servers;

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use deadline::deadline;
use procession::Error;
use procession::engine::{self, Accepted, Address, Connection, Count, Delivery, Engine, Taken};
use servers::proxy::Proxy;

/// What must come at last is waited for so long; nothing takes nearly as much.
const LONG: Duration = Duration::from_secs(60);
/// So long it is looked whether something comes that must not.
const BRIEF: Duration = Duration::from_millis(400);

/// A server, and a queue of a name of its own there, which is removed at the end.
struct Place {
    variable: &'static str,
    server: String,
    queue: String,
}

impl Place {
    /// `None`: the server is not there.
    fn new(variable: &'static str) -> Option<Self> {
        deadline();
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let Ok(server) = std::env::var(variable) else {
            let why = format!(
                "NOT RUN: {variable} is not set; make test starts the servers (scripts/services)"
            );
            assert!(
                std::env::var("PROCESSION_TEST_SERVERS").as_deref() != Ok("required"),
                "{why}"
            );
            eprintln!("{why}");
            return None;
        };
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        Some(Self {
            variable,
            server,
            queue: format!("test:{}-{count}", std::process::id()),
        })
    }

    fn url(&self, settings: &str) -> String {
        format!("{}?queue={}{settings}", self.server, self.queue)
    }

    fn engine(&self, joinable: bool, settings: &str) -> Arc<dyn Engine> {
        open(&self.url(settings), joinable)
    }

    fn connect(&self) -> Box<dyn Connection> {
        self.engine(true, "").connect().unwrap()
    }

    fn is(&self, name: &str) -> bool {
        self.variable.ends_with(name)
    }

    /// Its URL with another host and port.
    fn by_way_of(&self, port: u16) -> String {
        let server = servers::by_way_of(&self.server, port);
        format!("{server}?queue={}", self.queue)
    }

    fn port(&self) -> u16 {
        servers::port(&self.server)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for joinable in [true, false] {
            if let Ok(mut connection) = self.engine(joinable, "").connect() {
                let _ = connection.remove();
            }
        }
    }
}

fn open(url: &str, joinable: bool) -> Arc<dyn Engine> {
    let address: Address = url.parse().unwrap();
    engine::open(&address, joinable).unwrap()
}

fn item(number: u32) -> Bytes {
    Bytes::from(format!("item {number}"))
}

fn items(numbers: std::ops::Range<u32>) -> Vec<Bytes> {
    numbers.map(item).collect()
}

fn bodies(taken: &[Delivery]) -> Vec<Bytes> {
    taken.iter().map(|one| one.item.clone()).collect()
}

fn receipts(taken: &[Delivery]) -> Vec<u64> {
    taken.iter().map(|one| one.receipt).collect()
}

/// Exactly so many, however they come.
fn take(connection: &mut dyn Connection, count: usize) -> Vec<Delivery> {
    let end = Instant::now() + LONG;
    let mut all = Vec::new();
    while all.len() < count {
        assert!(Instant::now() < end, "{} of {count} have come", all.len());
        match connection
            .take(count - all.len(), Duration::from_secs(2))
            .unwrap()
        {
            Taken::Items(items) => {
                assert!(items.len() <= count - all.len(), "more than were asked for");
                all.extend(items);
            }
            Taken::ShutDown => panic!("the end after {} of {count}", all.len()),
        }
    }
    all
}

fn takes_nothing(connection: &mut dyn Connection) {
    assert_eq!(connection.take(5, BRIEF).unwrap(), Taken::Items(vec![]));
}

fn sees_the_end(connection: &mut dyn Connection) {
    let end = Instant::now() + LONG;
    loop {
        match connection.take(5, Duration::from_secs(2)).unwrap() {
            Taken::ShutDown => return,
            Taken::Items(items) => assert_eq!(items, []),
        }
        assert!(Instant::now() < end, "the end is not seen");
    }
}

fn until_count(connection: &mut dyn Connection, wanted: Count) {
    let end = Instant::now() + LONG;
    loop {
        let count = connection.count().unwrap();
        if count == wanted {
            return;
        }
        assert!(Instant::now() < end, "{count:?} instead of {wanted:?}");
        thread::sleep(Duration::from_millis(10));
    }
}

const fn counted(ready: u64, held: u64) -> Count {
    Count {
        ready,
        held,
        shut_down: false,
    }
}

/// Connects as soon as the server answers.
fn connected(engine: &dyn Engine) -> Box<dyn Connection> {
    let end = Instant::now() + LONG;
    loop {
        match engine.connect() {
            Ok(connection) => return connection,
            Err(Error::Connect { .. }) if Instant::now() < end => {
                thread::sleep(Duration::from_millis(50));
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// It is said where, and not by which password.
fn is_lost_connection(error: &Error, place: &Place) {
    let said = error.to_string();
    assert!(matches!(error, Error::Connect { .. }), "{said}");
    assert!(said.contains(&place.queue), "{said}");
    if let Some((_, secret)) = place
        .server
        .split_once("://")
        .unwrap()
        .1
        .split_once('@')
        .map(|(user, _)| user)
        .and_then(|user| user.split_once(':'))
    {
        assert!(!said.contains(secret), "{said}");
    }
}

/// A process that has taken so many items, and holds them until it is killed.
fn holder(place: &Place, settings: &str, count: u32) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--ignored",
            "--exact",
            "a_process_that_holds",
            "--nocapture",
        ])
        .env("HOLDER_URL", place.url(settings))
        .env("HOLDER_COUNT", count.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("it holds them")));
    child
}

#[test]
#[ignore = "it is the process that others start"]
fn a_process_that_holds() {
    let (Ok(url), Ok(count)) = (std::env::var("HOLDER_URL"), std::env::var("HOLDER_COUNT")) else {
        return;
    };
    let mut connection = open(&url, true).connect().unwrap();
    let taken = take(&mut *connection, count.parse().unwrap());
    println!("it holds them");
    let all = receipts(&taken);
    for _ in 0..240 {
        thread::sleep(Duration::from_millis(500));
        connection.renew(&all).unwrap();
    }
}

/// A server of its own, for a test that stops it.
struct OwnServer {
    state: tempfile::TempDir,
    name: &'static str,
}

impl OwnServer {
    fn new(place: &Place) -> Self {
        let name = match place.variable {
            "PROCESSION_TEST_REDIS" => "redis",
            "PROCESSION_TEST_AMQP" => "rabbitmq",
            _ => "beanstalkd",
        };
        let server = Self {
            state: tempfile::tempdir().unwrap(),
            name,
        };
        server.services("up");
        server
    }

    fn services(&self, what: &str) -> String {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/services");
        let done = Command::new(script)
            .args([what, self.name])
            .env("PROCESSION_SERVICES", self.state.path())
            .stderr(Stdio::inherit())
            .output()
            .unwrap();
        assert!(
            done.status.success(),
            "scripts/services {what} {}",
            self.name
        );
        String::from_utf8(done.stdout).unwrap()
    }

    fn url(&self, place: &Place) -> String {
        let line = self.services("env");
        line.split('\'').nth(1).unwrap().to_owned() + "?queue=" + &place.queue
    }
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        self.services("down");
    }
}

fn items_come_as_they_were_put_and_in_order(place: &Place) {
    let mut putter = place.connect();
    let mut getter = place.connect();
    let mut all = items(0..1500);
    all.push(Bytes::new());
    all.push(Bytes::from((0..=255).collect::<Vec<u8>>()));
    all.push(Bytes::from_static(b"\r\nput 0 0 0 3\r\n\0\xC1"));
    assert_eq!(putter.put(&all).unwrap(), Accepted::All);
    assert_eq!(putter.put(&[]).unwrap(), Accepted::All);
    let taken = take(&mut *getter, all.len());
    assert!(bodies(&taken) == all);
    assert_eq!(putter.count().unwrap(), counted(0, all.len() as u64));
    getter.done(&receipts(&taken)).unwrap();
    assert_eq!(putter.count().unwrap(), counted(0, 0));
    takes_nothing(&mut *getter);
}

fn a_waiting_getter_is_woken(place: &Place) {
    let mut getter = place.connect();
    let mut putter = place.connect();
    let waiting = thread::spawn(move || {
        let taken = take(&mut *getter, 1);
        getter.done(&receipts(&taken)).unwrap();
        bodies(&taken)
    });
    thread::sleep(BRIEF);
    putter.put(&[item(7)]).unwrap();
    assert_eq!(waiting.join().unwrap(), [item(7)]);
}

fn what_is_held_counts_for_maxsize(place: &Place) {
    let mut putter = place.engine(true, "&maxsize=10").connect().unwrap();
    let mut getter = place.connect();
    assert_eq!(putter.put(&items(0..15)).unwrap(), Accepted::Full(10));
    assert_eq!(putter.put(&items(10..15)).unwrap(), Accepted::Full(0));
    let taken = take(&mut *getter, 4);
    assert_eq!(putter.put(&items(10..15)).unwrap(), Accepted::Full(0));
    getter.done(&receipts(&taken)).unwrap();
    assert_eq!(putter.put(&items(10..15)).unwrap(), Accepted::Full(4));
    assert_eq!(bodies(&take(&mut *getter, 10)), items(4..14));
}

fn what_is_given_back_comes_first(place: &Place) {
    let mut putter = place.connect();
    let (mut one, mut other) = (place.connect(), place.connect());
    putter.put(&items(0..6)).unwrap();
    let taken = take(&mut *one, 3);
    assert_eq!(bodies(&take(&mut *other, 1)), [item(3)]);
    one.give_back(&receipts(&taken)[1..]).unwrap();
    assert_eq!(putter.count().unwrap(), counted(4, 2));
    let mut next = bodies(&take(&mut *other, 4));
    assert_eq!(next.split_off(2), [item(4), item(5)]);
    next.sort();
    assert_eq!(next, items(1..3));
    // What it has given back it cannot finish any more.
    one.done(&receipts(&taken)).unwrap();
    until_count(&mut *putter, counted(0, 5));
}

fn what_a_closed_connection_held_goes_to_others(place: &Place) {
    let mut putter = place.connect();
    let (mut one, mut other) = (place.connect(), place.connect());
    putter.put(&items(0..5)).unwrap();
    assert_eq!(bodies(&take(&mut *one, 3)), items(0..3));
    drop(one);
    let mut found = bodies(&take(&mut *other, 5));
    found.sort();
    assert_eq!(found, items(0..5));
}

fn what_a_killed_process_held_goes_to_others(place: &Place) {
    let mut connection = place.connect();
    connection.put(&items(0..10)).unwrap();
    // Not by its lease, which is far longer.
    let mut child = holder(place, "&lease=3600", 4);
    until_count(&mut *connection, counted(6, 4));
    takes_first(&mut *connection, 4);
    child.kill().unwrap();
    child.wait().unwrap();
    let mut taken = take(&mut *connection, 4);
    connection.done(&receipts(&taken)).unwrap();
    taken.sort_by_key(|one| one.item.clone());
    assert_eq!(bodies(&taken), items(0..4));
    until_count(&mut *connection, counted(0, 6));
}

/// Takes what nobody holds, so that only what comes back is left.
fn takes_first(connection: &mut dyn Connection, from: u32) {
    assert_eq!(bodies(&take(connection, 6)), items(from..from + 6));
    takes_nothing(connection);
}

fn what_is_renewed_stays_with_its_getter(place: &Place) {
    let engine = place.engine(true, "&lease=2");
    let (mut one, mut other) = (engine.connect().unwrap(), engine.connect().unwrap());
    one.put(&items(0..2)).unwrap();
    let taken = take(&mut *one, 2);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(6) {
        one.renew(&receipts(&taken)).unwrap();
        takes_nothing(&mut *other);
    }
    one.done(&receipts(&taken)).unwrap();
    until_count(&mut *other, counted(0, 0));
}

fn what_is_not_renewed_goes_to_others(place: &Place) {
    if place.is("AMQP") {
        // Its getter's as long as that is connected: there is nothing to renew.
        return;
    }
    if place.is("BEANSTALK") {
        eprintln!(
            "NOT RUN: beanstalkd 1.12 does not always end the time-to-run of a silent connection; see its limits in docs/engines.md"
        );
        return;
    }
    let engine = place.engine(true, "&lease=1");
    let (mut one, mut other) = (engine.connect().unwrap(), engine.connect().unwrap());
    one.put(&items(0..1)).unwrap();
    let late = take(&mut *one, 1);
    let taken = take(&mut *other, 1);
    assert_eq!(bodies(&taken), [item(0)]);
    // It is the other's now, and neither renewed, given back nor finished by the first.
    one.renew(&receipts(&late)).unwrap();
    one.give_back(&receipts(&late)).unwrap();
    one.done(&receipts(&late)).unwrap();
    other.renew(&receipts(&taken)).unwrap();
    assert_eq!(one.count().unwrap(), counted(0, 1));
    other.done(&receipts(&taken)).unwrap();
    assert_eq!(one.count().unwrap(), counted(0, 0));
}

fn every_getter_sees_the_end_when_nothing_is_left(place: &Place) {
    let mut putter = place.connect();
    let mut one = place.connect();
    let mut others: Vec<_> = (0..3).map(|_| place.connect()).collect();
    putter.put(&items(0..3)).unwrap();
    let taken = take(&mut *one, 1);
    putter.shutdown(false).unwrap();
    putter.shutdown(false).unwrap();
    assert_eq!(putter.put(&items(3..5)).unwrap(), Accepted::ShutDown(0));
    assert!(putter.count().unwrap().shut_down);
    let rest = take(&mut *others[0], 2);
    assert_eq!(bodies(&rest), items(1..3));
    others[0].done(&receipts(&rest)).unwrap();
    // What is held may come back.
    takes_nothing(&mut *others[1]);
    drop(one);
    let again = take(&mut *others[1], 1);
    assert_eq!(bodies(&again), bodies(&taken));
    takes_nothing(&mut *others[2]);
    others[1].done(&receipts(&again)).unwrap();
    others.push(place.connect());
    for getter in &mut others {
        sees_the_end(&mut **getter);
        sees_the_end(&mut **getter);
    }
    let mut late = place.connect();
    assert_eq!(late.put(&items(3..5)).unwrap(), Accepted::ShutDown(0));
    sees_the_end(&mut *late);
}

fn a_plain_queue_has_the_same_end(place: &Place) {
    let engine = place.engine(false, "");
    let (mut one, mut other) = (engine.connect().unwrap(), engine.connect().unwrap());
    one.put(&items(0..2)).unwrap();
    let taken = take(&mut *one, 2);
    one.shutdown(false).unwrap();
    takes_nothing(&mut *other);
    one.done(&receipts(&taken)).unwrap();
    sees_the_end(&mut *other);
    sees_the_end(&mut *one);
}

fn a_shutdown_can_drop_the_rest(place: &Place) {
    let (mut one, mut other) = (place.connect(), place.connect());
    let large = Bytes::from(vec![7; 200_000]);
    let all: Vec<Bytes> = items(0..300).into_iter().chain([large]).collect();
    one.put(&all).unwrap();
    let taken = take(&mut *one, 2);
    other.shutdown(true).unwrap();
    let count = other.count().unwrap();
    assert_eq!((count.ready, count.held), (0, 2));
    one.done(&receipts(&taken)).unwrap();
    sees_the_end(&mut *other);
}

fn a_queue_of_another_kind_is_refused(place: &Place) {
    drop(place.connect());
    let refused = place.engine(false, "").connect();
    let Err(error @ Error::BadHandle { .. }) = refused.map(|_| ()) else {
        panic!("a JoinableQueue is taken for a Queue");
    };
    assert!(error.to_string().contains("JoinableQueue"), "{error}");
}

fn queues_of_other_names_are_not_seen(place: &Place) {
    let Some(other) = Place::new(place.variable) else {
        return;
    };
    let (mut here, mut there) = (place.connect(), other.connect());
    here.put(&items(0..3)).unwrap();
    there.shutdown(false).unwrap();
    sees_the_end(&mut *there);
    there.remove().unwrap();
    assert_eq!(here.count().unwrap(), counted(3, 0));
    assert_eq!(here.put(&items(3..4)).unwrap(), Accepted::All);
    assert_eq!(bodies(&take(&mut *here, 4)), items(0..4));
}

fn large_items_arrive_whole(place: &Place) {
    let mut putter = place.connect();
    let (mut one, mut other) = (place.connect(), place.connect());
    let large = |seed: u32, len: u32| -> Bytes {
        (0..len)
            .map(|at| (at.wrapping_mul(seed) >> 8) as u8)
            .collect::<Vec<u8>>()
            .into()
    };
    let all = [
        large(2_654_435_761, 40 << 20),
        item(1),
        large(40_503, 70_000),
    ];
    assert_eq!(putter.put(&all).unwrap(), Accepted::All);
    assert!(bodies(&take(&mut *one, 3)) == all);
    // Whoever dies with them leaves them to others.
    drop(one);
    let mut taken = take(&mut *other, 3);
    taken.sort_by_key(|one| std::cmp::Reverse(one.item.len()));
    assert!(taken[0].item == all[0] && taken[1].item == all[2] && taken[2].item == all[1]);
    other.done(&receipts(&taken)).unwrap();
    assert_eq!(putter.count().unwrap(), counted(0, 0));
    putter.put(&all[..1]).unwrap();
    putter.remove().unwrap();
    drop((putter, other));
    assert_eq!(place.connect().count().unwrap(), counted(0, 0));
    nothing_is_left(place);
}

fn nothing_is_left(place: &Place) {
    place.connect().remove().unwrap();
    if place.is("REDIS") {
        let mut server = ::redis::Client::open(place.server.as_str())
            .unwrap()
            .get_connection()
            .unwrap();
        let keys: Vec<String> = ::redis::cmd("KEYS")
            .arg(format!("*{}*", place.queue))
            .query(&mut server)
            .unwrap();
        assert_eq!(keys, [""; 0]);
    }
    if place.is("BEANSTALK") {
        let end = Instant::now() + LONG;
        let tube = place.queue.replace(':', ";");
        // A tube is there as long as there is a job in it, or a connection that uses it.
        while ask_beanstalk(place, "list-tubes\r\n").contains(&tube) {
            assert!(Instant::now() < end, "jobs are left");
            thread::sleep(Duration::from_millis(50));
        }
    }
}

fn ask_beanstalk(place: &Place, command: &str) -> String {
    let mut server = TcpStream::connect(("127.0.0.1", place.port())).unwrap();
    server.write_all(command.as_bytes()).unwrap();
    server.shutdown(Shutdown::Write).unwrap();
    let mut text = Vec::new();
    server.read_to_end(&mut text).unwrap();
    String::from_utf8_lossy(&text).into_owned()
}

fn what_others_have_put_is_handed_on(place: &Place) {
    let mut getter = place.connect();
    let garbage = [
        Bytes::from_static(b"\xC1procession parts\n"),
        Bytes::from_static(b"\xC1procession parts\n\0\0\0\0\0\0\0\x05nothing!"),
        Bytes::from_static(b"\xC1\xFF\0"),
    ];
    for body in &garbage {
        foreign_put(place, body);
    }
    let taken = take(&mut *getter, garbage.len());
    assert_eq!(bodies(&taken), garbage);
    getter.done(&receipts(&taken)).unwrap();
    until_count(&mut *getter, counted(0, 0));
}

/// As a client does that is not ours.
fn foreign_put(place: &Place, body: &[u8]) {
    if place.is("REDIS") {
        let mut server = ::redis::Client::open(place.server.as_str())
            .unwrap()
            .get_connection()
            .unwrap();
        let key = format!("procession/{}", place.queue);
        let _: String = ::redis::cmd("XADD")
            .arg(key)
            .arg("*")
            .arg("whatever")
            .arg(body)
            .query(&mut server)
            .unwrap();
    } else if place.is("BEANSTALK") {
        let mut server = TcpStream::connect(("127.0.0.1", place.port())).unwrap();
        let tube = place.queue.replace(':', ";");
        let mut bytes =
            format!("use procession/{tube}\r\nput 1024 0 60 {}\r\n", body.len()).into_bytes();
        bytes.extend_from_slice(body);
        bytes.extend_from_slice(b"\r\n");
        server.write_all(&bytes).unwrap();
        server.shutdown(Shutdown::Write).unwrap();
        let mut said = String::new();
        server.read_to_string(&mut said).unwrap();
        assert!(said.contains("INSERTED"), "{said}");
    } else {
        tokio::runtime::Runtime::new().unwrap().block_on(async {
            let connection = lapin::Connection::connect(&place.server, Default::default())
                .await
                .unwrap();
            let channel = connection.create_channel().await.unwrap();
            channel.confirm_select(Default::default()).await.unwrap();
            let exchange = format!("procession/{}", place.queue);
            let confirmed = channel
                .basic_publish(
                    exchange.into(),
                    "".into(),
                    Default::default(),
                    body,
                    Default::default(),
                )
                .await
                .unwrap();
            assert!(confirmed.await.unwrap().is_ack());
            connection.close(200, "".into()).await.unwrap();
        });
    }
}

fn a_cut_connection_loses_nothing(place: &Place) {
    let proxy = Proxy::new(place.port());
    let engine = open(&place.by_way_of(proxy.port), true);
    let (mut putter, mut getter) = (engine.connect().unwrap(), engine.connect().unwrap());
    assert_eq!(putter.put(&items(0..100)).unwrap(), Accepted::All);
    assert_eq!(take(&mut *getter, 10).len(), 10);
    proxy.cut();
    is_lost_connection(&putter.put(&items(100..200)).unwrap_err(), place);
    is_lost_connection(&getter.take(1, Duration::from_secs(1)).unwrap_err(), place);
    drop((putter, getter));
    let mut putter = connected(&*engine);
    let mut getter = connected(&*engine);
    assert_eq!(putter.put(&items(100..200)).unwrap(), Accepted::All);
    let mut found: HashSet<Bytes> = HashSet::new();
    while found.len() < 200 {
        let taken = take(&mut *getter, 1);
        getter.done(&receipts(&taken)).unwrap();
        found.extend(bodies(&taken));
    }
    assert_eq!(found, items(0..200).into_iter().collect());
}

fn a_batch_put_again_is_there_once(place: &Place) {
    if !place.is("REDIS") {
        // The others say in their guarantees that it may be there twice.
        return;
    }
    let proxy = Proxy::new(place.port());
    let engine = open(&place.by_way_of(proxy.port), true);
    let mut putter = engine.connect().unwrap();
    let mut direct = place.connect();
    // It arrives, but the answer does not.
    putter.put(&items(0..1)).unwrap();
    let answers = proxy.streams.lock().unwrap()[0].try_clone().unwrap();
    answers.shutdown(Shutdown::Write).unwrap();
    is_lost_connection(&putter.put(&items(1..51)).unwrap_err(), place);
    until_count(&mut *direct, counted(51, 0));
    let mut putter = connected(&*engine);
    assert_eq!(putter.put(&items(1..60)).unwrap(), Accepted::All);
    assert_eq!(bodies(&take(&mut *direct, 60)), items(0..60));
    // The same again, but on purpose.
    putter.put(&items(1..51)).unwrap();
    assert_eq!(direct.count().unwrap(), counted(50, 60));
}

fn a_server_that_hangs_is_given_up(place: &Place) {
    let proxy = Proxy::new(place.port());
    let engine = open(&place.by_way_of(proxy.port), true);
    let mut one = engine.connect().unwrap();
    let mut other = engine.connect().unwrap();
    proxy.stopped.store(true, Ordering::Relaxed);
    let begun = Instant::now();
    let putting = thread::spawn(move || other.put(&items(0..3)).map(|_| ()));
    let connecting = {
        let engine = Arc::clone(&engine);
        thread::spawn(move || engine.connect().map(|_| ()))
    };
    is_lost_connection(&one.take(1, Duration::from_millis(100)).unwrap_err(), place);
    is_lost_connection(&putting.join().unwrap().unwrap_err(), place);
    is_lost_connection(&connecting.join().unwrap().unwrap_err(), place);
    assert!(begun.elapsed() < LONG, "{:?}", begun.elapsed());
    proxy.stopped.store(false, Ordering::Relaxed);
    proxy.cut();
}

fn a_server_that_is_not_there_is_named(place: &Place) {
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let error = open(&place.by_way_of(port), true)
        .connect()
        .map(|_| ())
        .unwrap_err();
    is_lost_connection(&error, place);
    assert!(error.to_string().contains("refused"), "{error}");
}

fn a_server_that_restarts_loses_nothing(place: &Place) {
    let server = OwnServer::new(place);
    let engine = open(&server.url(place), true);
    let (mut putter, mut getter) = (engine.connect().unwrap(), engine.connect().unwrap());
    putter.put(&items(0..20)).unwrap();
    let taken = take(&mut *getter, 5);
    getter.done(&receipts(&taken)[..2]).unwrap();
    server.services("restart");
    is_lost_connection(&putter.put(&items(20..21)).unwrap_err(), place);
    is_lost_connection(&getter.take(1, BRIEF).unwrap_err(), place);
    let (mut putter, mut getter) = (connected(&*engine), connected(&*engine));
    assert_eq!(putter.put(&items(20..25)).unwrap(), Accepted::All);
    let mut taken = take(&mut *getter, 23);
    getter.done(&receipts(&taken)).unwrap();
    taken.sort_by_key(|one| one.item.len());
    let found: HashSet<Bytes> = bodies(&taken).into_iter().collect();
    assert_eq!(found, items(2..25).into_iter().collect());
    putter.shutdown(false).unwrap();
    sees_the_end(&mut *getter);
}

fn a_removed_queue_is_made_anew(place: &Place) {
    let mut one = place.connect();
    one.put(&items(0..5)).unwrap();
    one.shutdown(false).unwrap();
    one.remove().unwrap();
    // Of the other kind now.
    let mut anew = place.engine(false, "").connect().unwrap();
    assert_eq!(anew.count().unwrap(), counted(0, 0));
    assert_eq!(anew.put(&items(5..6)).unwrap(), Accepted::All);
    assert_eq!(bodies(&take(&mut *anew, 1)), [item(5)]);
    anew.remove().unwrap();
}

macro_rules! on_every_engine {
    ($($test:ident)*) => {
        on_every_engine! { @ redis "PROCESSION_TEST_REDIS" $($test)* }
        on_every_engine! { @ beanstalkd "PROCESSION_TEST_BEANSTALK" $($test)* }
        on_every_engine! { @ rabbitmq "PROCESSION_TEST_AMQP" $($test)* }
    };
    (@ $engine:ident $variable:literal $($test:ident)*) => {
        mod $engine {
            $(
                #[test]
                fn $test() {
                    if let Some(place) = super::Place::new($variable) {
                        super::$test(&place);
                    }
                }
            )*
        }
    };
}

on_every_engine! {
    items_come_as_they_were_put_and_in_order
    a_waiting_getter_is_woken
    what_is_held_counts_for_maxsize
    what_is_given_back_comes_first
    what_a_closed_connection_held_goes_to_others
    what_a_killed_process_held_goes_to_others
    what_is_renewed_stays_with_its_getter
    what_is_not_renewed_goes_to_others
    every_getter_sees_the_end_when_nothing_is_left
    a_plain_queue_has_the_same_end
    a_shutdown_can_drop_the_rest
    a_queue_of_another_kind_is_refused
    queues_of_other_names_are_not_seen
    large_items_arrive_whole
    what_others_have_put_is_handed_on
    a_cut_connection_loses_nothing
    a_batch_put_again_is_there_once
    a_server_that_hangs_is_given_up
    a_server_that_is_not_there_is_named
    a_server_that_restarts_loses_nothing
    a_removed_queue_is_made_anew
}
