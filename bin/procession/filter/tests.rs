//! The filter against real processes.

use super::*;

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex};

/// Tasks numbered from 0, and what became of them.
struct Given {
    tasks: Mutex<VecDeque<(usize, Bytes)>>,
    answers: Mutex<Vec<(usize, Outcome)>>,
    /// None is said only when this many are answered: as where a ventilator waits for results.
    end_after: usize,
    answered: Condvar,
    no_progress: Duration,
}

impl Given {
    fn new<L: Into<Bytes>>(lines: impl IntoIterator<Item = L>) -> Self {
        Self {
            tasks: Mutex::new(lines.into_iter().map(Into::into).enumerate().collect()),
            answers: Mutex::default(),
            end_after: 0,
            answered: Condvar::new(),
            no_progress: NO_PROGRESS,
        }
    }

    fn numbers(count: usize) -> Self {
        Self::new((1..=count).map(|number| number.to_string()))
    }

    fn run(self, script: &str) -> (io::Result<()>, Vec<Outcome>) {
        self.run_with(script, false)
    }

    fn run_with(self, script: &str, null: bool) -> (io::Result<()>, Vec<Outcome>) {
        let invocation = Invocation {
            program: "sh".into(),
            args: vec!["-c".into(), script.into()],
            display: script.into(),
        };
        let result = self.run_invocation(&invocation, null);
        (result, self.outcomes())
    }

    fn run_invocation(&self, invocation: &Invocation, null: bool) -> io::Result<()> {
        let spec = FilterSpec {
            invocation,
            null,
            slot: 1,
            worker: "test",
            no_progress: self.no_progress,
        };
        run(&spec, self, &GroupSlot::unguarded(), &Stop::new()?)
    }

    fn outcomes(self) -> Vec<Outcome> {
        let mut answers = self.answers.into_inner().unwrap();
        answers.sort_by_key(|(number, _)| *number);
        let numbers: Vec<usize> = answers.iter().map(|(number, _)| *number).collect();
        assert_eq!(numbers, (0..numbers.len()).collect::<Vec<_>>(), "each once");
        answers.into_iter().map(|(_, outcome)| outcome).collect()
    }
}

impl FilterTasks for Given {
    type Token = usize;

    fn take(&self, max_tasks: usize, max_bytes: usize) -> io::Result<Option<Vec<(usize, Bytes)>>> {
        let mut tasks = self.tasks.lock().unwrap();
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while batch.len() < max_tasks
            && let Some((_, line)) = tasks.front()
            && (batch.is_empty() || bytes + line.len() < max_bytes)
        {
            bytes += line.len() + 1;
            batch.extend(tasks.pop_front());
        }
        if batch.is_empty() {
            let answers = self.answers.lock().unwrap();
            drop(
                self.answered
                    .wait_while(answers, |answers| answers.len() < self.end_after)
                    .unwrap(),
            );
            return Ok(None);
        }
        Ok(Some(batch))
    }

    fn answer(&self, answers: Vec<(usize, Outcome)>) {
        self.answers.lock().unwrap().extend(answers);
        self.answered.notify_all();
    }
}

fn line(text: impl Into<Bytes>) -> Outcome {
    Outcome::Line(text.into())
}

fn numbers(range: std::ops::RangeInclusive<usize>) -> Vec<Outcome> {
    range.map(|number| line(number.to_string())).collect()
}

fn note(outcome: &Outcome) -> &str {
    match outcome {
        Outcome::Failed { note, .. } => note,
        Outcome::Line(line) => panic!("answered {line:?}"),
    }
}

#[test]
fn each_line_is_answered_in_order() -> io::Result<()> {
    for script in [
        "cat",
        "sed -u 's/^/=/;s/=//'",
        "sed 's/^/=/;s/=//'",
        "awk '{print $1}'",
    ] {
        for count in [0, 1, 2, 100_000] {
            let (result, outcomes) = Given::numbers(count).run(script);
            result?;
            assert!(outcomes == numbers(1..=count), "{script}, {count}");
        }
    }
    Ok(())
}

#[test]
fn answers_come_while_the_input_stays_open() -> io::Result<()> {
    let mut given = Given::numbers(1_000);
    given.end_after = 1_000;
    let (result, outcomes) = given.run("cat");
    result?;
    assert_eq!(outcomes, numbers(1..=1_000));
    Ok(())
}

#[test]
fn a_filter_that_buffers_is_made_to_answer_although_more_may_come() -> io::Result<()> {
    let mut given = Given::numbers(10);
    given.end_after = 10;
    given.no_progress = Duration::from_millis(20);
    let (result, outcomes) = given.run("sed 's/^/=/;s/=//'");
    result?;
    assert_eq!(outcomes, numbers(1..=10));
    Ok(())
}

#[test]
fn lines_of_any_length_and_bytes_pass() -> io::Result<()> {
    let long = vec![b'x'; 3 * WINDOW];
    let lines = [&b""[..], b"\xff\xfe", &long, b"", b"\r"];
    let (result, outcomes) = Given::new(lines.map(<[u8]>::to_vec)).run("cat");
    result?;
    assert!(outcomes == lines.map(|bytes| line(bytes.to_vec())));
    Ok(())
}

#[test]
fn with_null_lines_may_be_in_a_task_and_without_it_they_are_refused() -> io::Result<()> {
    let (result, outcomes) = Given::new(["a\nb", "c"]).run_with("cat", true);
    result?;
    assert_eq!(outcomes, [line("a\nb"), line("c")]);
    let (result, outcomes) = Given::new(["a\nb", "c"]).run("cat");
    result?;
    assert!(note(&outcomes[0]).contains("-0"), "{outcomes:?}");
    assert_eq!(outcomes[1], line("c"));
    Ok(())
}

#[test]
fn a_filter_that_ends_early_is_started_again() -> io::Result<()> {
    let (result, outcomes) = Given::numbers(200).run("sed -u 7q");
    result?;
    assert!(outcomes == numbers(1..=200), "{outcomes:?}");
    Ok(())
}

#[test]
fn a_task_that_kills_the_filter_each_time_fails_alone() -> io::Result<()> {
    let script = "while read -r n; do [ $n = 50 ] && exit 3; echo $n; done";
    let (result, outcomes) = Given::numbers(100).run(script);
    result?;
    let mut expected = numbers(1..=100);
    assert!(note(&outcomes[49]).contains("exit 3"), "{:?}", outcomes[49]);
    expected[49] = outcomes[49].clone();
    assert!(outcomes == expected, "{outcomes:?}");
    Ok(())
}

#[test]
fn a_filter_that_buffers_and_dies_loses_one_task_too() -> io::Result<()> {
    let script =
        "all=; while read -r n; do [ $n = 50 ] && exit 3; all=\"$all$n\n\"; done; printf \"$all\"";
    let (result, outcomes) = Given::numbers(60).run(script);
    result?;
    let mut expected = numbers(1..=60);
    assert!(note(&outcomes[49]).contains("exit 3"), "{:?}", outcomes[49]);
    expected[49] = outcomes[49].clone();
    assert_eq!(outcomes, expected);
    Ok(())
}

#[test]
fn too_many_answers_are_an_error() {
    let (_, outcomes) = Given::numbers(3).run("sed p");
    assert_eq!(outcomes.len(), 3);
    assert!(
        outcomes
            .iter()
            .all(|outcome| note(outcome).contains("more lines"))
    );
    // With nobody left to carry it, it is an error of the run.
    let mut given = Given::numbers(1);
    given.end_after = 1;
    let (result, outcomes) = given.run("cat; echo more");
    let error = result.expect_err("a line too many");
    assert!(error.to_string().contains("more lines"), "{error}");
    assert_eq!(outcomes, numbers(1..=1));
}

#[test]
fn too_few_answers_are_an_error() -> io::Result<()> {
    let (result, outcomes) = Given::numbers(3).run("sed 3d");
    result?;
    assert_eq!(outcomes[..2], numbers(1..=2));
    assert!(
        note(&outcomes[2]).contains("without an answer to 1"),
        "{outcomes:?}"
    );
    Ok(())
}

#[test]
fn a_last_line_without_terminator_counts() -> io::Result<()> {
    let (result, outcomes) =
        Given::numbers(2).run("read -r a; read -r b; cat; printf '%s\n%s' $a $b");
    result?;
    assert_eq!(outcomes, numbers(1..=2));
    Ok(())
}

#[test]
fn a_filter_that_cannot_be_started_fails_every_task() -> io::Result<()> {
    let given = Given::numbers(3);
    let invocation = Invocation {
        program: "/no/such/filter".into(),
        args: Vec::new(),
        display: Vec::new(),
    };
    given.run_invocation(&invocation, false)?;
    for outcome in given.outcomes() {
        let Outcome::Failed { exit, note, .. } = outcome else {
            panic!("answered");
        };
        assert_eq!(exit, 127);
        assert!(note.contains("/no/such/filter"), "{note}");
    }
    Ok(())
}

#[test]
fn a_stop_ends_a_filter_that_is_busy() -> io::Result<()> {
    let given = Given::numbers(3);
    let invocation = Invocation {
        program: "sleep".into(),
        args: vec!["1000".into()],
        display: Vec::new(),
    };
    let stop = Stop::new()?;
    let spec = FilterSpec {
        invocation: &invocation,
        null: false,
        slot: 1,
        worker: "test",
        no_progress: NO_PROGRESS,
    };
    std::thread::scope(|scope| {
        let running = scope.spawn(|| run(&spec, &given, &GroupSlot::unguarded(), &stop));
        stop.raise(crate::stop::Level::Kill);
        running.join().expect("no panic")
    })?;
    // Those that were taken are answered; whether any was depends on who was first.
    for outcome in given.outcomes() {
        assert!(note(&outcome).contains("stopped"));
    }
    Ok(())
}
