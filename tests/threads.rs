//! Threads: their values and failures, names and numbers, the list of the living, what the end of a program waits for, and the examples.
//!
//! The examples are built by `cargo test`; for this file alone, `cargo build --examples` comes first.

mod common;
mod deadline;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{Program, Scene};
use deadline::deadline;
use procession::thread::{
    self, Event, Process, Queue, Run, Thread, Timer, active_children, active_count, current_thread,
    enumerate, main_thread,
};
use procession::{Error, Result, wait};

/// Far more than anything here takes.
const DEADLINE: Duration = Duration::from_secs(240);

#[procession::task]
fn add(left: u64, right: u64) -> u64 {
    left + right
}

#[procession::task]
fn halve(number: u64) -> std::result::Result<u64, String> {
    match number % 2 {
        0 => Ok(number / 2),
        _ => Err(format!("{number} is odd")),
    }
}

fn plain(words: &str, times: usize) -> String {
    words.repeat(times)
}

#[test]
fn a_function_a_task_and_a_closure_give_their_values() -> Result<()> {
    deadline();
    assert_eq!(Thread::spawn(add, (1, 2))?.join()?, 3);
    assert_eq!(Thread::spawn(plain, ("ab", 2))?.join()?, "abab");
    let captured = [1, 2, 3];
    let closure = move |factor: i32| captured.iter().sum::<i32>() * factor;
    assert_eq!(Thread::spawn(closure, (2,))?.join()?, 12);
    assert_eq!(Thread::spawn(|| (), ())?.join()?, ());
    let many = |a: u8, b: u16, c: u32, d: u64, e: i8, f: i16, g: i32, h: i64| {
        u64::from(a)
            + u64::from(b)
            + u64::from(c)
            + d
            + (i64::from(e) + i64::from(f) + i64::from(g) + h) as u64
    };
    assert_eq!(Thread::spawn(many, (1, 2, 3, 4, 5, 6, 7, 8))?.join()?, 36);
    Ok(())
}

#[test]
fn a_thread_is_joined_any_number_of_times_and_by_several() -> Result<()> {
    deadline();
    let go_on = Event::new();
    let thread = Thread::spawn(
        |event: Event| {
            event.wait();
            "value".to_owned()
        },
        (go_on.clone(),),
    )?;
    assert_eq!(thread.join_timeout(Duration::ZERO)?, None);
    assert!(thread.is_alive());
    assert_eq!(thread.exit_code(), None);
    std::thread::scope(|scope| {
        let joiners: Vec<_> = (0..4).map(|_| scope.spawn(|| thread.join())).collect();
        go_on.set();
        for joiner in joiners {
            assert_eq!(joiner.join().expect("no panic").expect("a value"), "value");
        }
    });
    assert_eq!(thread.join()?, "value");
    assert_eq!(
        thread.join_timeout(Duration::ZERO)?.as_deref(),
        Some("value")
    );
    assert!(!thread.is_alive());
    assert_eq!(thread.exit_code(), Some(0));
    assert_eq!(thread.join_once()?, "value");
    Ok(())
}

#[test]
fn a_value_that_cannot_be_cloned_is_taken() -> Result<()> {
    deadline();
    struct Unique(u32);
    let thread = Thread::spawn(|| Unique(7), ())?;
    assert_eq!(thread.join_once()?.0, 7);
    Ok(())
}

#[test]
fn a_panic_is_told_with_its_message_and_place_to_everybody_who_joins() -> Result<()> {
    deadline();
    let thread = Thread::builder()
        .name("divider")
        .spawn(|by: u64| 1 / by, (0,))?;
    for _ in 0..2 {
        let text = thread.join().expect_err("it panics").to_string();
        assert!(
            text.starts_with("thread divider panicked at tests/threads.rs:"),
            "{text}"
        );
        assert!(text.ends_with("attempt to divide by zero"), "{text}");
    }
    assert_eq!(thread.exit_code(), Some(1));
    Ok(())
}

#[test]
fn a_value_that_panics_when_it_is_dropped_ends_its_thread_all_the_same() -> Result<()> {
    deadline();
    struct Grenade;
    impl Drop for Grenade {
        fn drop(&mut self) {
            if !std::thread::panicking() {
                panic!("dropped");
            }
        }
    }
    let (go_on, ended) = (Event::new(), Queue::<()>::new());
    let name = "the one with the grenade";
    let thread = Thread::builder().name(name).spawn(
        |go_on: Event, _alive: Queue<()>| {
            go_on.wait();
            Grenade
        },
        (go_on.clone(), ended),
    )?;
    let any = active_children()
        .into_iter()
        .find(|thread| thread.name() == name)
        .expect("it runs");
    drop(thread);
    go_on.set();
    assert!(any.join().is_err());
    Ok(())
}

#[test]
fn an_error_that_a_task_returns_is_told_as_text() -> Result<()> {
    deadline();
    assert_eq!(Thread::spawn(halve, (8,))?.join()?, 4);
    let thread = Thread::builder().name("halver").spawn(halve, (7,))?;
    let text = thread.join().expect_err("7 is odd").to_string();
    assert_eq!(text, "thread halver returned an error: 7 is odd");
    Ok(())
}

#[test]
fn a_type_with_a_run_method_is_a_thread_with_the_types_name() -> Result<()> {
    deadline();
    struct Adder<T> {
        numbers: Vec<T>,
    }
    #[procession::thread]
    impl<T: std::iter::Sum + Send + 'static> Run for Adder<T> {
        fn run(self) -> std::result::Result<T, String> {
            match self.numbers.is_empty() {
                true => Err("nothing to add".to_owned()),
                false => Ok(self.numbers.into_iter().sum()),
            }
        }
    }
    let thread = Adder {
        numbers: vec![1, 2, 3],
    }
    .start()?;
    assert!(thread.name().starts_with("Adder-"), "{}", thread.name());
    assert_eq!(thread.join()?, 6);
    let nothing: Vec<u32> = Vec::new();
    let named = Thread::builder().name("empty");
    let text = named
        .start(Adder { numbers: nothing })?
        .join()
        .expect_err("there is nothing")
        .to_string();
    assert_eq!(text, "thread empty returned an error: nothing to add");
    Ok(())
}

/// With the attribute of processes, and the names that `process` has.
#[test]
fn a_program_of_processes_becomes_one_of_threads() -> Result<()> {
    deadline();
    #[derive(serde::Serialize, serde::Deserialize)]
    struct Square(u64);
    #[procession::process]
    impl Run for Square {
        fn run(self) -> u64 {
            self.0 * self.0
        }
    }
    let function: Process<u64> = Process::spawn(add, (1, 2))?;
    let process = Process::builder().name("square").start(Square(4))?;
    assert_eq!(thread::wait(&[&function], None)?, [0]);
    assert_eq!((function.join()?, process.join()?), (3, 16));
    let name = Thread::spawn(|| thread::current_process().name().to_owned(), ())?;
    assert!(name.join()?.starts_with("Thread-"));
    assert!(thread::cpu_count() >= 1);
    Ok(())
}

#[test]
fn threads_know_their_names_and_numbers() -> Result<()> {
    deadline();
    let thread = Thread::builder()
        .name("with a name that is longer than the system's")
        .daemon(true)
        .spawn(current_thread, ())?;
    let seen = thread.join()?;
    assert_eq!(seen.name(), thread.name());
    assert_eq!(seen.ident(), thread.ident());
    assert_eq!(seen.native_id(), thread.native_id());
    assert!(seen.daemon() && thread.daemon());
    assert_ne!(seen.native_id(), Some(std::process::id()));
    let other = Thread::spawn(current_thread, ())?.join()?;
    assert_ne!(other.ident(), seen.ident());
    assert!(!other.daemon());
    // A name that the system does not take.
    let odd = Thread::builder().name("a\0b").spawn(current_thread, ())?;
    assert_eq!(odd.join()?.name(), "a\0b");
    let foreign = std::thread::spawn(current_thread).join().expect("no panic");
    assert!(foreign.name().starts_with("Dummy-"), "{}", foreign.name());
    assert_eq!(main_thread().native_id(), Some(std::process::id()));
    assert_eq!(main_thread().name(), "MainThread");
    Ok(())
}

#[test]
fn the_living_are_listed_until_they_are_joined() -> Result<()> {
    deadline();
    let go_on = Event::new();
    let names = ["listed 1", "listed 2", "listed 3"];
    let threads = names
        .map(|name| {
            let event = go_on.clone();
            Thread::builder().name(name).spawn(move || event.wait(), ())
        })
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
    let listed = || {
        let living = active_children().into_iter();
        let ours = living.filter(|thread| names.contains(&thread.name()));
        ours.map(|thread| thread.name().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(listed(), names);
    assert!(active_count() >= 5, "three, this one and the main thread");
    let this = current_thread();
    let known = enumerate();
    for name in [names[0], "MainThread", this.name()] {
        assert!(known.iter().any(|thread| thread.name() == name), "{name}");
    }
    let inside = Thread::builder().name("inside").spawn(
        || {
            let in_others = active_children().iter().any(|t| t.name() == "inside");
            let in_all = enumerate().iter().filter(|t| t.name() == "inside").count();
            (in_others, in_all)
        },
        (),
    )?;
    assert_eq!(inside.join()?, (false, 1));
    go_on.set();
    for thread in &threads {
        thread.join()?;
    }
    assert!(listed().is_empty());
    Ok(())
}

#[test]
fn a_thread_that_would_join_itself_is_told() -> Result<()> {
    deadline();
    let own = Queue::<thread::AnyThread>::new();
    let thread = Thread::builder().name("narcissus").spawn(
        |own: Queue<thread::AnyThread>| {
            let own = own.get()?;
            assert!(matches!(
                own.join_timeout(DEADLINE),
                Err(Error::JoinsItself { .. })
            ));
            own.join()
        },
        (own.clone(),),
    )?;
    own.put((*thread).clone())?;
    let text = thread.join_once()?.expect_err("it cannot").to_string();
    assert_eq!(
        text,
        "thread narcissus cannot join itself: it would wait for ever"
    );
    Ok(())
}

#[test]
fn what_the_thread_holds_is_dropped_before_join_returns() -> Result<()> {
    deadline();
    struct Flag(Arc<AtomicBool>);
    impl Drop for Flag {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    thread_local!(static LAST: std::cell::RefCell<Option<Flag>> = const { std::cell::RefCell::new(None) });
    let (captured, local) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicBool::new(false)),
    );
    let (held, last) = (Flag(captured.clone()), Flag(local.clone()));
    let body = move || {
        let _held = &held;
        LAST.set(Some(last));
    };
    Thread::spawn(body, ())?.join()?;
    assert!(captured.load(Ordering::SeqCst));
    assert!(local.load(Ordering::SeqCst), "a thread-local variable");
    Ok(())
}

#[test]
fn waiting_for_several_wakes_at_the_first_that_is_ready() -> Result<()> {
    deadline();
    let (stop, event, queue) = (Event::new(), Event::new(), Queue::<u32>::new());
    let sleeper = Thread::spawn(|event: Event| event.wait(), (stop.clone(),))?;
    assert!(wait(&[&sleeper, &event, &queue], Some(Duration::ZERO))?.is_empty());
    let putter = {
        let queue = queue.clone();
        std::thread::spawn(move || queue.put(1))
    };
    assert_eq!(wait(&[&sleeper, &event, &queue], Some(DEADLINE))?, [2]);
    putter.join().expect("no panic")?;
    assert_eq!(queue.try_get()?, 1);
    let setter = {
        let event = event.clone();
        std::thread::spawn(move || event.set())
    };
    assert_eq!(wait(&[&sleeper, &event, &queue], Some(DEADLINE))?, [1]);
    setter.join().expect("no panic");
    event.clear();
    let shutter = {
        let queue = queue.clone();
        std::thread::spawn(move || queue.shutdown())
    };
    assert_eq!(wait(&[&sleeper, &event, &queue], Some(DEADLINE))?, [2]);
    shutter.join().expect("no panic");
    stop.set();
    assert_eq!(wait(&[&sleeper, &event], Some(DEADLINE))?, [0]);
    Ok(())
}

#[test]
fn a_wait_for_a_queue_sees_every_item_that_is_put_meanwhile() -> Result<()> {
    deadline();
    let queue = Queue::new();
    let putter = Thread::spawn(
        |queue: Queue<u32>| {
            for number in 0..2_000 {
                queue.put(number)?;
            }
            queue.shutdown();
            Ok::<_, Error>(())
        },
        (queue.clone(),),
    )?;
    let mut next = 0;
    loop {
        assert_eq!(wait(&[&queue], Some(DEADLINE))?, [0], "at {next}");
        match queue.try_get() {
            Ok(number) => assert_eq!(number, next),
            Err(Error::ShutDown) => break,
            Err(error) => return Err(error),
        }
        next += 1;
    }
    assert_eq!(next, 2_000);
    putter.join_once()?
}

#[test]
fn a_timer_calls_later_unless_it_is_cancelled() -> Result<()> {
    deadline();
    let timer = Timer::spawn(Duration::from_millis(1), add, (1, 2))?;
    assert!(timer.name().starts_with("Timer-"));
    assert_eq!(timer.join()?, Some(3));
    assert!(!timer.cancel(), "it is too late");
    assert_eq!(timer.join()?, Some(3));

    let never = Timer::spawn(Duration::MAX, add, (1, 2))?;
    assert!(never.is_alive());
    assert!(never.cancel());
    assert!(never.cancel(), "it stays cancelled");
    assert_eq!(never.join()?, None);

    let at_once = Timer::spawn(Duration::ZERO, || panic!("boom"), ())?;
    assert!(at_once.join().is_err());
    Ok(())
}

#[test]
fn many_threads_come_and_go() -> Result<()> {
    deadline();
    let threads: Vec<_> = (0..200u64)
        .map(|number| {
            Thread::builder()
                .stack_size(64 << 10)
                .spawn(add, (number, 1))
        })
        .collect::<Result<_>>()?;
    let mut sum = 0;
    for thread in &threads {
        sum += thread.join()?;
    }
    assert_eq!(sum, 20_100);
    Ok(())
}

fn example(scene: &Scene, name: &str) -> Program {
    let tests = std::env::current_exe().expect("this program has a path");
    let built: Option<PathBuf> = tests.ancestors().nth(2).map(|dir| dir.join("examples"));
    let program = built.expect("it is in target/PROFILE/deps").join(name);
    assert!(
        program.exists(),
        "{} is not there: cargo build --examples",
        program.display()
    );
    scene.program(program)
}

#[test]
fn the_clock_of_threads_differs_from_that_of_processes_by_one_word_of_its_imports() {
    deadline();
    let code = |text: &str| {
        let lines = text.lines().filter(|line| !line.starts_with("//!"));
        lines.map(ToOwned::to_owned).collect::<Vec<_>>()
    };
    let processes = code(include_str!("../examples/clock.rs"));
    let threads = code(include_str!("../examples/thread_clock.rs"));
    let changed: Vec<_> = processes
        .iter()
        .zip(&threads)
        .filter(|(process, thread)| process != thread)
        .collect();
    assert_eq!(processes.len(), threads.len());
    let [(process, thread)] = changed[..] else {
        panic!("{changed:?}");
    };
    assert_eq!(process.replace("::process::", "::thread::"), *thread);

    let scene = Scene::new();
    let ended = example(&scene, "thread_clock").args(["2", "0.01"]).run();
    ended.assert_success();
    let text = ended.text();
    assert_eq!(text.matches(": the time is ").count(), 4, "{text}");
    assert!(text.contains("Thread-1 told the time 2 times\n"), "{text}");
    assert!(
        text.contains("ClockProcess-2 told the time 2 times\n"),
        "{text}"
    );
}

#[test]
fn the_three_queues_each_have_their_order() {
    deadline();
    let scene = Scene::new();
    let ended = example(&scene, "thread_queues").run();
    ended.assert_success();
    ended.assert_stdout(
        b"all done with, 0 left\n\
          first in, first out: delta alpha echo bravo charlie\n\
          last in, first out: charlie bravo echo alpha delta\n\
          lowest first: alpha bravo charlie delta echo\n",
    );
}

#[test]
fn a_lock_in_both_forms_loses_nothing_and_a_panic_releases_it() {
    deadline();
    let scene = Scene::new();
    let ended = example(&scene, "lock").run();
    ended.assert_success();
    let text = ended.text();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[0], "counted 40000", "{text}");
    assert!(
        lines[1].starts_with("thread clumsy panicked at examples/lock.rs:"),
        "{text}"
    );
    assert_eq!(lines[2], "locked after the panic: false");
    assert!(
        lines[3].contains("this thread does not hold the lock"),
        "{text}"
    );
}

#[test]
fn main_waits_for_threads_that_are_no_daemons_and_children_do_too() {
    deadline();
    let scene = Scene::new();
    let ended = example(&scene, "thread_ends").run();
    ended.assert_success();
    ended.assert_stdout(
        b"main returns\nthe last thread has ended\nthe child's task returns\nthe child's thread has ended\n",
    );
}
