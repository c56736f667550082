//! Processes that are well: started in both ways, named, given what they need, waited for, joined.
//!
//! The children of these tests are this test program again, whose `main` is the test harness.

use std::io::{Read, Write};
use std::time::Duration;

use procession::process::{AnyProcess, Stdio, active_children, current_process, parent_process};
use procession::{Error, Process, Run, wait};
use serde::{Deserialize, Serialize};

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// Ends a test that hangs; far more than any of them takes.
const DEADLINE: Duration = Duration::from_secs(240);

/// The value of a process, which must be there in time.
fn value<R: serde::de::DeserializeOwned + 'static>(process: &Process<R>) -> Outcome<R> {
    let joined = process.join_timeout(DEADLINE)?;
    joined.ok_or_else(|| format!("{process:?} runs and runs").into())
}

#[procession::task]
fn add(left: u64, right: u64) -> u64 {
    left + right
}

#[procession::task]
fn nothing() {}

#[procession::task]
fn nap(millis: u64) {
    std::thread::sleep(Duration::from_millis(millis));
}

#[test]
fn a_value_comes_back_and_can_be_had_again() -> Outcome {
    let process = Process::spawn(add, (1, 2))?;
    assert_eq!(value(&process)?, 3);
    assert_eq!(process.join()?, 3, "a second time");
    assert_eq!(process.exit_code(), Some(0));
    assert!(!process.is_alive());
    Ok(())
}

#[test]
fn a_task_is_still_a_function() {
    assert_eq!(add(3, 4), 7);
    let pointer: fn(u64, u64) -> u64 = *add;
    assert_eq!([1, 2].map(|number| pointer(number, 1)), [2, 3]);
}

#[derive(Debug, PartialEq, Deserialize, Serialize)]
struct Nothing;

#[derive(Debug, PartialEq, Deserialize, Serialize)]
enum Shape {
    Point,
    Circle { radius: f64 },
    Path(Vec<(i32, i32)>),
}

#[procession::task]
fn give_back(
    first: (Nothing, ()),
    second: Vec<Shape>,
    third: Option<String>,
) -> ((Nothing, ()), Vec<Shape>, Option<String>) {
    (first, second, third)
}

#[test]
fn values_of_all_shapes_and_of_none_go_there_and_back() -> Outcome {
    let shapes = || {
        vec![
            Shape::Point,
            Shape::Circle { radius: 0.5 },
            Shape::Path(vec![(1, -1)]),
        ]
    };
    let words = || Some("«words»".to_owned());
    let process = Process::spawn(give_back, ((Nothing, ()), shapes(), words()))?;
    assert_eq!(value(&process)?, ((Nothing, ()), shapes(), words()));
    value(&Process::spawn(nothing, ())?)?;
    Ok(())
}

#[procession::task]
fn parse(text: String) -> Result<u32, std::num::ParseIntError> {
    // Recursion is to the function itself.
    if let Some(rest) = text.strip_prefix('+') {
        return parse(rest.to_owned());
    }
    text.parse()
}

#[test]
fn of_a_result_the_value_is_what_is_in_it() -> Outcome {
    let process = Process::spawn(parse, ("++17".to_owned(),))?;
    let seventeen: u32 = value(&process)?;
    assert_eq!(seventeen, 17);
    Ok(())
}

#[procession::task]
fn reverse(mut bytes: serde_bytes::ByteBuf) -> serde_bytes::ByteBuf {
    bytes.reverse();
    bytes
}

#[test]
fn arguments_and_values_of_64_mib_go_there_and_back() -> Outcome {
    let size = 64 << 20;
    let bytes: Vec<u8> = (0..size).map(|index: u32| (index % 251) as u8).collect();
    let mut expected = bytes.clone();
    expected.reverse();
    let process = Process::spawn(reverse, (serde_bytes::ByteBuf::from(bytes),))?;
    assert!(value(&process)?.as_slice() == expected, "it differs");
    Ok(())
}

#[derive(Deserialize, Serialize)]
struct Square {
    of: u32,
}

#[procession::process]
impl Run for Square {
    fn run(self) -> Result<u32, String> {
        self.of
            .checked_mul(self.of)
            .ok_or_else(|| format!("{} is too large", self.of))
    }
}

#[test]
fn a_type_with_a_run_method_is_a_process() -> Outcome {
    let process = Square { of: 12 }.start()?;
    assert!(process.name().starts_with("Square-"), "{process:?}");
    assert_eq!(value(&process)?, 144);
    let process = Process::builder()
        .name("root")
        .start(Square { of: u32::MAX })?;
    let error = value(&process).expect_err("too large").to_string();
    assert!(error.starts_with("process root (pid "), "{error}");
    assert!(
        error.ends_with("returned an error: 4294967295 is too large"),
        "{error}"
    );
    Ok(())
}

#[test]
fn a_hundred_at_once() -> Outcome {
    let processes: Vec<_> = (0..100)
        .map(|number| Process::spawn(add, (number, 1000)))
        .collect::<Result<_, _>>()?;
    for (number, process) in (0..).zip(&processes) {
        assert_eq!(value(process)?, number + 1000);
    }
    // Each has been reaped, so there is no such process any more, not even a zombie.
    for process in &processes {
        let state = std::fs::read_to_string(format!("/proc/{}/stat", process.pid()));
        let is_other = state.is_ok_and(|state| !state.contains("processes"));
        assert!(is_other || !std::path::Path::new(&format!("/proc/{}", process.pid())).exists());
    }
    Ok(())
}

#[test]
fn joining_can_be_bounded_in_time() -> Outcome {
    let process = Process::spawn(nap, (600_000,))?;
    assert!(process.is_alive());
    assert_eq!(process.exit_code(), None);
    assert_eq!(process.join_timeout(Duration::ZERO)?, None);
    assert_eq!(process.join_timeout(Duration::from_millis(10))?, None);
    process.kill()?;
    assert!(process.join().is_err());
    Ok(())
}

#[test]
fn several_threads_can_join_the_same_process() -> Outcome {
    let process = Process::spawn(add, (20, 22))?;
    std::thread::scope(|scope| {
        let joins: Vec<_> = (0..4).map(|_| scope.spawn(|| process.join())).collect();
        for join in joins {
            assert_eq!(join.join().expect("no panic").expect("a value"), 42);
        }
    });
    Ok(())
}

#[test]
fn the_first_to_end_is_waited_for() -> Outcome {
    let long = Process::spawn(nap, (600_000,))?;
    let short = Process::spawn(add, (1, 1))?;
    assert_eq!(wait(&[&long, &short], Some(DEADLINE))?, [1]);
    assert_eq!(wait(&[&long], Some(Duration::from_millis(10)))?, [0; 0]);
    long.terminate()?;
    assert_eq!(procession::process::wait(&[&long], Some(DEADLINE))?, [0]);
    assert_eq!(wait(&[&short, &long], None)?, [0, 1]);
    Ok(())
}

/// Name, parent's name, parent's pid, the names of two children.
type Family = (String, String, u32, Vec<String>);

#[procession::task]
fn family() -> Result<Family, Error> {
    let parent = parent_process().ok_or(Error::Ended("there is no parent".to_owned()))?;
    assert!(parent.is_alive());
    let children = [Process::spawn(add, (1, 1))?, Process::spawn(add, (1, 1))?];
    let names = children
        .iter()
        .map(|child| child.name().to_owned())
        .collect();
    let name = current_process().name().to_owned();
    Ok((name, parent.name().to_owned(), parent.pid(), names))
}

#[test]
fn names_are_those_of_python() -> Outcome {
    assert_eq!(current_process().name(), "MainProcess");
    assert!(parent_process().is_none());
    let process = Process::spawn(family, ())?;
    let (name, parent, pid, children) = value(&process)?;
    let number = name
        .strip_prefix("Process-")
        .and_then(|number| number.parse::<u32>().ok());
    let number = number.ok_or_else(|| format!("{name} has no number"))?;
    assert_eq!(name, process.name());
    assert_eq!((&*parent, pid), ("MainProcess", std::process::id()));
    assert_eq!(
        children,
        [format!("Process-{number}:1"), format!("Process-{number}:2")]
    );
    Ok(())
}

#[test]
fn active_children_are_those_that_run() -> Outcome {
    let running = Process::builder().name("runs").spawn(nap, (600_000,))?;
    let ended = Process::spawn(nothing, ())?;
    value(&ended)?;
    let find = |pid| {
        active_children()
            .into_iter()
            .find(|child| child.pid() == pid)
    };
    assert!(find(ended.pid()).is_none());
    let found: AnyProcess = find(running.pid()).ok_or("it runs")?;
    assert_eq!(found.name(), "runs");
    found.kill()?;
    assert!(found.join().is_err());
    assert_eq!(running.exit_code(), Some(-9));
    Ok(())
}

#[procession::task]
fn start_a_child() -> Result<u64, Error> {
    Process::spawn(add, (1, 1))?.join()
}

#[test]
fn a_daemon_may_have_no_children() -> Outcome {
    assert_eq!(value(&Process::spawn(start_a_child, ())?)?, 2);
    let daemon = Process::builder()
        .daemon(true)
        .name("d")
        .spawn(start_a_child, ())?;
    assert!(daemon.daemon());
    let error = value(&daemon).expect_err("it is a daemon").to_string();
    assert!(
        error.contains("d is a daemon process, and a daemon may have no children"),
        "{error}"
    );
    Ok(())
}

#[procession::task]
fn look_around() -> (String, Option<String>, Vec<String>, String) {
    let mut input = String::new();
    let read = std::io::stdin().read_to_string(&mut input);
    let variable = std::env::var("PROCESSION_CHILD").ok();
    let own = std::env::var("TEST_VARIABLE").unwrap_or_default();
    // What a program that it starts would have open: nothing of ours.
    let listing = std::process::Command::new("ls")
        .args(["-l", "/proc/self/fd"])
        .output();
    let listing = listing.map_or_else(
        |error| error.to_string(),
        |done| String::from_utf8_lossy(&done.stdout).into_owned(),
    );
    let sockets = listing
        .lines()
        .filter(|line| line.contains("socket:"))
        .map(str::to_owned);
    (
        format!("{read:?} {input}"),
        variable,
        sockets.collect(),
        own,
    )
}

#[test]
fn a_child_has_its_variables_an_empty_input_and_passes_nothing_on() -> Outcome {
    let builder = Process::builder()
        .env("TEST_VARIABLE", "first")
        .env("TEST_VARIABLE", "second");
    // A test harness may itself have been started with sockets as output.
    let process = builder
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn(look_around, ())?;
    let (input, variable, sockets, own) = value(&process)?;
    assert_eq!(input, "Ok(0) ");
    assert_eq!(variable, None);
    assert_eq!(sockets, [""; 0]);
    assert_eq!(own, "second");
    let error = Process::builder()
        .env("a=b", "c")
        .spawn(nothing, ())
        .expect_err("no name");
    assert!(error.to_string().contains("a=b"), "{error}");
    Ok(())
}

#[procession::task]
fn shout() -> Result<(), std::io::Error> {
    for line in std::io::stdin().lines() {
        let line = line?;
        writeln!(std::io::stdout(), "{}!", line.to_uppercase())?;
        writeln!(std::io::stderr(), "{}", line.len())?;
    }
    Ok(())
}

#[test]
fn standard_streams_can_be_pipes_and_files() -> Outcome {
    let file = tempfile::NamedTempFile::new()?;
    let mut process = Process::builder()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(file.reopen()?)
        .spawn(shout, ())?;
    let mut stdin = process.stdin.take().ok_or("it is piped")?;
    stdin.write_all(b"hello\nworld\n")?;
    drop(stdin);
    let mut said = String::new();
    process
        .stdout
        .take()
        .ok_or("it is piped")?
        .read_to_string(&mut said)?;
    value(&process)?;
    assert_eq!(said, "HELLO!\nWORLD!\n");
    assert_eq!(std::fs::read_to_string(file.path())?, "5\n5\n");
    assert!(process.stderr.is_none());
    Ok(())
}
