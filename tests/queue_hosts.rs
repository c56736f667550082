//! Hosts of queues by name (`procession queue`, `QueueHost`): who finds which queue, what is refused, and what a journal keeps when the host is
//! killed.

mod children;
mod common;

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use children::{Outcome, in_time, next, rest, until, value};
use common::{Program, Running, Scene, Signal, let_pass, tcp};
use procession::{Error, JoinableQueue, Process, Queue, QueueHost};

type Numbers = Queue<u64>;
type Jobs = JoinableQueue<u64>;

/// `procession queue` at `endpoint`, with the private directory of this test, so that it is found by the port.
fn program(scene: &Scene, endpoint: &str, more: &[&str]) -> Program {
    let program = scene
        .procession(["queue", "--bind", endpoint])
        .args(more)
        .with(|command| {
            command.env_remove("XDG_RUNTIME_DIR");
        });
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(dir) => program.env("XDG_RUNTIME_DIR", dir),
        None => program,
    }
}

fn start(scene: &Scene, endpoint: &str, more: &[&str]) -> Running {
    let mut running = program(scene, endpoint, more).start();
    scene.until_true("it listens", || {
        let said = running.stderr_so_far();
        assert!(running.is_running(), "it has ended: {said}");
        said.contains("listening at")
    });
    running
}

fn at(endpoint: &str, name: &str) -> String {
    format!("{endpoint}?queue={name}")
}

// ---- names ----

#[procession::task]
fn double(url: String, answers: Numbers) -> procession::Result<u64> {
    let questions = Jobs::open(&url)?;
    let mut count = 0;
    for number in questions.iter() {
        answers.put(number? * 2)?;
        questions.task_done()?;
        count += 1;
    }
    Ok(count)
}

#[test]
fn programs_meet_at_a_name_and_two_names_do_not_see_each_other() -> Outcome {
    in_time(|| {
        let scene = Scene::new();
        for endpoint in [tcp(), scene.ipc("q")] {
            let host = start(&scene, &endpoint, &[]);
            let questions = Jobs::open(&at(&endpoint, "questions"))?;
            let answers = Numbers::open(&at(&endpoint, "answers"))?;
            // One finds it by its name, and the other by a handle.
            let children: Vec<_> = (0..2)
                .map(|_| {
                    let args = (at(&endpoint, "questions"), answers.clone());
                    Process::spawn(double, args)
                })
                .collect::<Result<_, _>>()?;
            questions.put_many(0..200)?;
            let mut found: Vec<u64> = (0..200).map(|_| next(&answers)).collect::<Result<_, _>>()?;
            found.sort_unstable();
            assert_eq!(found, (0..200).map(|n| n * 2).collect::<Vec<_>>());
            questions.join()?;
            questions.shutdown()?;
            let mut served = 0;
            for child in &children {
                served += value(child)?;
            }
            assert_eq!(served, 200);
            // The other one goes on.
            answers.put(7)?;
            assert_eq!(next(&answers)?, 7);
            assert!(matches!(questions.get(), Err(Error::ShutDown)));
            assert_eq!(answers.endpoint(), at(&endpoint, "answers"));
            drop((questions, answers));
            host.signal(Signal::TERM);
            host.wait().assert_code(143);
        }
        Ok(())
    })
}

#[test]
fn who_is_first_says_how_it_is_and_another_wish_is_an_error() -> Outcome {
    in_time(|| {
        let host = QueueHost::bind("tcp://127.0.0.1:*")?;
        let url = host.url("a");
        let queue = Numbers::open(&format!("{url}&maxsize=2"))?;
        assert_eq!(queue.maxsize(), Some(2));
        // Not said is as it is, and the same is the same.
        assert_eq!(Numbers::open(&url)?.maxsize(), Some(2));
        Numbers::open(&format!("{url}&maxsize=2"))?;
        queue.put(1)?;
        queue.put(2)?;
        let full = queue.try_put(3).expect_err("it is full");
        assert!(matches!(*full.why, Error::Full { maxsize: 2 }), "{full}");
        for (wrong, why) in [
            (
                Numbers::open(&format!("{url}&maxsize=3")).err(),
                "was made with maxsize=2, and here it is opened with maxsize=3",
            ),
            (Jobs::open(&url).err(), "it is no JoinableQueue"),
            (
                Numbers::open(&url.replace("?queue=a", "")).err(),
                "say which one with ?queue=NAME",
            ),
            (
                Numbers::open(&url.replace("queue=a", "maxsize=3")).err(),
                "it names no queue",
            ),
        ] {
            let said = wrong.map(|error| error.to_string()).unwrap_or_default();
            assert!(said.contains(why), "{why:?} is not in {said:?}");
        }
        // A program that hosts one queue has no names.
        let one = Numbers::bind("tcp://127.0.0.1:*")?;
        let error = Numbers::open(&at(&one.endpoint(), "a")).expect_err("there is no name");
        assert!(error.to_string().contains("leave ?queue=a out"), "{error}");
        assert_eq!((next(&queue)?, next(&queue)?), (1, 2));
        Ok(())
    })
}

#[test]
fn more_queues_than_allowed_are_refused_and_unused_ones_are_forgotten() -> Outcome {
    in_time(|| {
        let host = QueueHost::builder()
            .bind("tcp://127.0.0.1:*")
            .queues(2)
            .forget_after(Duration::from_millis(300))
            .heartbeat(Duration::from_millis(100))
            .start()?;
        let kept = Numbers::open(&host.url("kept"))?;
        kept.put(5)?;
        kept.flush()?;
        let handle = rmp_serde::to_vec(&kept)?;
        drop(kept);
        let used = Numbers::open(&host.url("used"))?;
        let error = Numbers::open(&host.url("third")).expect_err("there are two");
        assert!(matches!(error, Error::Refused { .. }), "{error}");
        assert!(error.to_string().contains("2 queues are there"), "{error}");
        // What has an item stays, and what somebody has joined.
        let_pass(Duration::from_secs(1));
        assert_eq!(host.queues().len(), 2);
        let handle: Numbers = rmp_serde::from_slice(&handle)?;
        assert_eq!(next(&handle)?, 5);
        let late = rmp_serde::to_vec(&handle)?;
        drop(handle);
        until("one is forgotten", || Ok(host.queues().len() == 1))?;
        // A handle that was still on its way leads to a queue of that name all the same.
        let late: Numbers = rmp_serde::from_slice(&late)?;
        late.put(6)?;
        assert_eq!(next(&Numbers::open(&host.url("kept"))?)?, 6);
        used.put(1)?;
        assert_eq!(next(&used)?, 1);
        Ok(())
    })
}

// ---- the command ----

#[test]
fn what_is_dropped_is_said_and_what_is_kept_is_there_again() -> Outcome {
    in_time(|| {
        let scene = Scene::new();
        let endpoint = scene.ipc("q");
        let put = |name: &str, count: u64| -> Outcome {
            let queue = Numbers::open(&at(&endpoint, name))?;
            queue.put_many(0..count)?;
            queue.flush()?;
            Ok(())
        };
        let host = start(&scene, &endpoint, &[]);
        put("a", 3)?;
        put("b", 2)?;
        host.signal(Signal::INT);
        let ended = host.wait();
        ended.assert_code(130);
        let said = "5 items in 2 queues are dropped; --journal FILE keeps them";
        assert!(ended.stderr.contains(said), "{}", ended.stderr);

        let journal = ["--journal", "queues.sqlite"];
        let host = start(&scene, &endpoint, &journal);
        put("a", 3)?;
        put("large", 0)?;
        let large: Queue<serde_bytes::ByteBuf> = Queue::open(&at(&endpoint, "large"))?;
        let bytes: Vec<u8> = (0..5_000_000_u32).map(|n| (n % 251) as u8).collect();
        large.put(serde_bytes::ByteBuf::from(bytes.clone()))?;
        large.flush()?;
        drop(large);
        host.signal(Signal::TERM);
        let ended = host.wait();
        ended.assert_code(143);
        let said = "4 items in 2 queues are kept in the journal";
        assert!(ended.stderr.contains(said), "{}", ended.stderr);

        let host = start(&scene, &endpoint, &journal);
        scene.until_true("it says what there is", || {
            let said = "going on with journal queues.sqlite: 4 items in 2 queues";
            host.stderr_so_far().contains(said)
        });
        let queue = Numbers::open(&at(&endpoint, "a"))?;
        let found: Vec<u64> = (0..3).map(|_| next(&queue)).collect::<Result<_, _>>()?;
        assert_eq!(found, [0, 1, 2]);
        let large: Queue<serde_bytes::ByteBuf> = Queue::open(&at(&endpoint, "large"))?;
        assert!(next(&large)?.into_vec() == bytes, "other bytes");
        // Shut down is shut down, in the next life too.
        queue.shutdown()?;
        drop((queue, large));
        let mut host = host;
        host.kill();
        let host = start(&scene, &endpoint, &journal);
        let queue = Numbers::open(&at(&endpoint, "a"))?;
        assert!(matches!(queue.get(), Err(Error::ShutDown)));
        drop(queue);
        host.signal(Signal::TERM);
        host.wait().assert_code(143);
        scene.assert_nothing_left();
        Ok(())
    })
}

#[test]
fn a_journal_that_cannot_be_used_is_refused_and_left_as_it_is() -> Outcome {
    in_time(|| {
        let scene = Scene::new();
        let refused = |file: &str, why: &str| {
            let ended = program(&scene, &scene.ipc("r"), &["--journal", file]).run();
            ended.assert_code(255);
            assert!(ended.stderr.contains(why), "{why:?}: {}", ended.stderr);
        };
        let run = scene.procession(["run", "-j1", "--journal", "run.sqlite", "true", ":::", "1"]);
        run.run().assert_success();
        refused(
            "run.sqlite",
            "it is the journal of `run true`, and this is `procession queue`",
        );
        fs::write(
            scene.path("text"),
            "no journal, and longer than a header of SQLite's would be, which has 100 bytes. Really.",
        )?;
        refused("text", "no journal");
        refused("nowhere/file", "cannot be opened");
        let host = start(&scene, &scene.ipc("q"), &["--journal", "queues.sqlite"]);
        refused("queues.sqlite", "another process has it");
        host.signal(Signal::TERM);
        host.wait().assert_code(143);
        let host = start(
            &scene,
            &scene.ipc("q"),
            &["--journal", "queues.sqlite", "--journal-sync"],
        );
        let queue = Numbers::open(&at(&scene.ipc("q"), "a"))?;
        queue.put(1)?;
        queue.flush()?;
        drop(queue);
        host.signal(Signal::TERM);
        host.wait().assert_code(143);
        let other = rusqlite::Connection::open(scene.path("queues.sqlite"))?;
        other.execute("UPDATE block SET items = 7", [])?;
        drop(other);
        refused(
            "queues.sqlite",
            "block 1 of queue a has other items than it says",
        );
        let other = rusqlite::Connection::open(scene.path("queues.sqlite"))?;
        other.pragma_update(None, "user_version", 9)?;
        drop(other);
        refused("queues.sqlite", "it has format 9");
        Ok(())
    })
}

#[test]
fn a_forgotten_queue_is_gone_from_the_journal_and_made_anew() -> Outcome {
    in_time(|| {
        let folder = tempfile::tempdir_in("/tmp")?;
        let host = || {
            QueueHost::builder()
                .bind(format!("ipc://{}/q", folder.path().display()))
                .journal(folder.path().join("queues.sqlite"))
                .forget_after(Duration::from_millis(200))
                .start()
        };
        let first = host()?;
        let url = first.url("a");
        let queue = Numbers::open(&format!("{url}&maxsize=1"))?;
        queue.put(1)?;
        assert_eq!(next(&queue)?, 1);
        drop(queue);
        until("it is forgotten", || Ok(first.queues().is_empty()))?;
        let queue = Jobs::open(&url)?;
        assert_eq!(queue.maxsize(), None);
        queue.put_many(0..3)?;
        assert_eq!(next(&queue)?, 0);
        queue.task_done()?;
        // Got, and not done with.
        assert_eq!(next(&queue)?, 1);
        drop(queue);
        let left = first.shutdown()?;
        assert_eq!((left.queues, left.items, left.kept), (1, 2, true));
        let second = host()?;
        let queue = Jobs::open(&url)?;
        assert_eq!((next(&queue)?, next(&queue)?), (1, 2));
        assert_eq!(queue.unfinished()?, 2);
        drop(queue);
        second.shutdown()?;
        Ok(())
    })
}

#[test]
fn the_command_line_says_what_it_needs() {
    let scene = Scene::new();
    let without = scene.procession(["queue"]).run();
    without.assert_code(255);
    assert!(
        without.stderr.contains("the queue needs --bind ENDPOINT"),
        "{}",
        without.stderr
    );
    let beyond = scene.procession(["queue", "--bind", "tcp://*:*"]).run();
    beyond.assert_code(255);
    assert!(beyond.stderr.contains("--keys DIR"), "{}", beyond.stderr);
    let inproc = scene.procession(["queue", "--bind", "inproc://a"]).run();
    inproc.assert_code(255);
    assert!(
        inproc.stderr.contains("within its own process"),
        "{}",
        inproc.stderr
    );
}

// ---- death ----

/// Puts these numbers, some at a time, and says when all were accepted.
#[procession::task]
fn put_all(url: String, joinable: bool, from: u64, count: u64) -> procession::Result<()> {
    let queue = open(&url, joinable)?;
    for number in from..from + count {
        queue.put(number)?;
        if number % 50 == 0 {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    queue.flush()
}

fn open(url: &str, joinable: bool) -> procession::Result<Numbers> {
    match joinable {
        true => Ok((*Jobs::open(url)?).clone()),
        false => Numbers::open(url),
    }
}

/// Writes down what it gets, before it is done with it.
#[procession::task]
fn get_all(url: String, joinable: bool, to: PathBuf) -> procession::Result<u64> {
    let write = |number: u64| {
        let file = OpenOptions::new().create(true).append(true).open(&to);
        file.and_then(|mut file| writeln!(file, "{number}"))
            .expect("a line in a file");
    };
    let mut count = 0;
    if joinable {
        let jobs = Jobs::open(&url)?;
        for number in jobs.iter() {
            write(number?);
            jobs.task_done()?;
            count += 1;
        }
    } else {
        for number in Numbers::open(&url)?.iter() {
            write(number?);
            count += 1;
        }
    }
    Ok(count)
}

/// Three put and two get, while the host is killed again and again; a getter too, if its items come back.
fn each_accepted_item_is_got(endpoint: &str, scene: &Scene, joinable: bool) -> Outcome {
    let more = ["--journal", "queues.sqlite", "--heartbeat", "0.3"];
    let mut host = start(scene, endpoint, &more);
    let seen = kill_and_count(&mut host, endpoint, scene, joinable);
    if seen.is_err() {
        let lives = if host.is_running() {
            "lives"
        } else {
            "is dead"
        };
        let files: Vec<_> = fs::read_dir(scene.dir())?
            .flatten()
            .map(|file| file.file_name())
            .collect();
        eprintln!(
            "the host {lives}, and says: {}; there are {files:?}",
            host.stderr_so_far()
        );
    }
    seen?;
    host.signal(Signal::TERM);
    host.wait().assert_code(143);
    Ok(())
}

fn kill_and_count(host: &mut Running, endpoint: &str, scene: &Scene, joinable: bool) -> Outcome {
    const EACH: u64 = 20_000;
    let more = ["--journal", "queues.sqlite", "--heartbeat", "0.3"];
    let url = format!("{}&maxsize=3000", at(endpoint, "numbers"));
    let putters: Vec<_> = (0..3)
        .map(|n| Process::spawn(put_all, (url.clone(), joinable, n * EACH, EACH)))
        .collect::<Result<_, _>>()?;
    let file = |n: usize| scene.path(&format!("got-{joinable}-{n}"));
    let getter = |n: usize| Process::spawn(get_all, (url.clone(), joinable, file(n)));
    let mut getters = vec![getter(0)?, getter(1)?];
    for life in 0..4 {
        let_pass(Duration::from_millis(400));
        host.kill();
        if life == 2 && joinable {
            children::kill(&getters[0])?;
            getters[0] = getter(2)?;
        }
        *host = start(scene, endpoint, &more);
    }
    for putter in &putters {
        value(putter)?;
    }
    if joinable {
        Jobs::open(&url)?.join()?;
    }
    let queue = open(&url, joinable)?;
    queue.shutdown()?;
    let left = rest(&queue)?;
    let mut served = left.len() as u64;
    for getter in &getters {
        served += value(getter)?;
    }
    let mut got: Vec<u64> = left;
    for n in 0..3 {
        got.extend(numbers_in(&file(n))?);
    }
    let seen = got.len() as u64;
    got.sort_unstable();
    got.dedup();
    let missing: Vec<u64> = (0..3 * EACH)
        .filter(|number| got.binary_search(number).is_err())
        .collect();
    assert!(
        missing.is_empty(),
        "{} are lost: {missing:?}",
        missing.len()
    );
    assert!(got.iter().all(|number| *number < 3 * EACH), "invented");
    eprintln!(
        "{} items, {served} served to the end, {} seen twice",
        3 * EACH,
        seen - 3 * EACH
    );
    Ok(())
}

fn numbers_in(file: &Path) -> Outcome<Vec<u64>> {
    match fs::read_to_string(file) {
        Ok(text) => Ok(text.lines().map(str::parse).collect::<Result<_, _>>()?),
        Err(_) => Ok(Vec::new()),
    }
}

#[test]
fn of_a_joinable_queue_in_a_journal_nothing_is_lost_when_its_host_is_killed() -> Outcome {
    in_time(|| {
        let scene = Scene::new();
        each_accepted_item_is_got(&scene.ipc("q"), &scene, true)
    })
}

#[test]
fn of_a_queue_in_a_journal_nothing_is_lost_when_its_host_is_killed() -> Outcome {
    in_time(|| {
        let scene = Scene::new();
        each_accepted_item_is_got(&tcp(), &scene, false)
    })
}

#[test]
fn without_a_journal_the_death_of_the_host_is_the_end_of_its_queues() -> Outcome {
    in_time(|| {
        let scene = Scene::new();
        let endpoint = scene.ipc("q");
        let mut host = start(&scene, &endpoint, &[]);
        let queue = Numbers::open(&at(&endpoint, "a"))?;
        queue.put(1)?;
        assert_eq!(next(&queue)?, 1);
        host.kill();
        assert!(matches!(queue.get(), Err(Error::HostGone { .. })));
        let error = queue.put(2).expect_err("its host is gone");
        assert!(matches!(*error.why, Error::HostGone { .. }), "{error}");
        Ok(())
    })
}

// ---- who gets in ----

#[procession::task]
fn try_to_open(url: String) -> String {
    let opened = Numbers::builder()
        .patience(Duration::from_secs(2))
        .connect(&url);
    opened.map_or_else(|error| error.to_string(), |_| "open".to_owned())
}

#[test]
fn nobody_gets_in_by_tcp_without_the_key() -> Outcome {
    in_time(|| {
        let scene = Scene::new();
        for keys in ["ant", "bee"] {
            scene
                .procession(["keygen", "-q", keys])
                .run()
                .assert_success();
        }
        let endpoint = tcp();
        let ant = scene.path("ant");
        let host = start(&scene, &endpoint, &["--keys", &ant.display().to_string()]);
        let other = scene.path("other");
        fs::create_dir(&other)?;
        fs::set_permissions(&other, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
        let open = |keys: Option<&str>| -> Outcome<String> {
            // Another user, as far as files can tell.
            let mut there = Process::builder().env("XDG_RUNTIME_DIR", &other);
            if let Some(keys) = keys {
                there = there.env("PROCESSION_KEYS", scene.path(keys));
            }
            value(&there.spawn(try_to_open, (at(&endpoint, "a"),))?)
        };
        let said = open(None)?;
        assert!(said.contains("no queue of this user's"), "{said}");
        fs::copy(scene.path("ant/server.key"), scene.path("bee/server.key"))?;
        let said = open(Some("bee"))?;
        assert!(said.contains("is not among those that may join"), "{said}");
        fs::copy(
            scene.path("bee/client.key"),
            scene.path("ant/clients/bee.key"),
        )?;
        assert_eq!(open(Some("bee"))?, "open");
        host.signal(Signal::TERM);
        host.wait().assert_code(143);
        Ok(())
    })
}
