//! Results of tasks that were submitted, until somebody asks for them. **Pure** but for its lock: the time is an argument.

use std::collections::HashMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// So many tasks may have no result yet.
pub(super) const MOST_RUNNING: usize = 100_000;
/// Results that wait to be asked for take no more than this, in bytes, and one more; others stay in their queue.
const ROOM: usize = 64 << 20;
/// A result that nobody asks for is forgotten after so long, and one that was given after so long.
const KEPT: Duration = Duration::from_secs(3600);
const KEPT_GIVEN: Duration = Duration::from_secs(60);
/// A task without a result is forgotten after so long.
const AWAITED: Duration = Duration::from_secs(7 * 24 * 3600);

/// What came of a task: what it gave, or why it failed.
pub(super) type Outcome = Result<Vec<u8>, String>;

/// What is known of an id.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    There(Outcome),
    /// Not in that time.
    NotYet,
    /// It was not submitted here, or has been forgotten.
    Unknown,
}

#[derive(Debug, Default)]
pub(super) struct Results {
    table: Mutex<Table>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Table {
    tasks: HashMap<String, Task>,
    running: usize,
    bytes: usize,
}

#[derive(Debug)]
struct Task {
    since: Instant,
    outcome: Option<Outcome>,
    given: bool,
}

impl Task {
    fn bytes(&self) -> usize {
        match &self.outcome {
            None => 0,
            Some(Ok(bytes)) => bytes.len(),
            Some(Err(why)) => why.len(),
        }
    }

    fn is_over(&self, now: Instant) -> bool {
        let kept = match (&self.outcome, self.given) {
            (None, _) => AWAITED,
            (Some(_), false) => KEPT,
            (Some(_), true) => KEPT_GIVEN,
        };
        now.saturating_duration_since(self.since) >= kept
    }
}

impl Table {
    fn forget(&mut self, now: Instant) {
        let (running, bytes) = (&mut self.running, &mut self.bytes);
        self.tasks.retain(|id, task| {
            let over = task.is_over(now);
            if over {
                *running -= usize::from(task.outcome.is_none());
                *bytes -= task.bytes();
                log::info!("forgets task {id}");
            }
            !over
        });
    }
}

impl Results {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A task is about to be put; `false`: too many have no result yet.
    pub(super) fn begin(&self, id: &str, now: Instant) -> bool {
        let mut table = self.lock();
        if table.running >= MOST_RUNNING {
            table.forget(now);
        }
        if table.running >= MOST_RUNNING {
            return false;
        }
        table.running += 1;
        let task = Task {
            since: now,
            outcome: None,
            given: false,
        };
        table.tasks.insert(id.to_owned(), task);
        true
    }

    /// It was not put after all.
    pub(super) fn cancel(&self, id: &str) {
        let mut table = self.lock();
        if table.tasks.remove(id).is_some() {
            table.running -= 1;
        }
    }

    /// A worker has answered; `false`: nobody knows that task, or it has its result.
    pub(super) fn done(&self, id: &str, outcome: Outcome, now: Instant) -> bool {
        let mut table = self.lock();
        let Some(task) = table
            .tasks
            .get_mut(id)
            .filter(|task| task.outcome.is_none())
        else {
            return false;
        };
        task.outcome = Some(outcome);
        task.since = now;
        let bytes = task.bytes();
        table.bytes += bytes;
        table.running -= 1;
        drop(table);
        self.changed.notify_all();
        true
    }

    /// Whether another result may be taken from its queue.
    pub(super) fn has_room(&self, now: Instant) -> bool {
        let mut table = self.lock();
        table.forget(now);
        table.bytes <= ROOM
    }

    /// The result of a task, if it comes in time.
    pub(super) fn wait(&self, id: &str, time: Duration) -> Answer {
        let until = Instant::now() + time;
        let mut table = self.lock();
        loop {
            let now = Instant::now();
            match table.tasks.get_mut(id) {
                None => return Answer::Unknown,
                Some(task) => {
                    if let Some(outcome) = &task.outcome {
                        if !task.given {
                            task.given = true;
                            task.since = now;
                        }
                        return Answer::There(outcome.clone());
                    }
                }
            }
            let left = until.saturating_duration_since(now);
            if left.is_zero() {
                return Answer::NotYet;
            }
            let waited = self.changed.wait_timeout(table, left);
            table = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// How many tasks have no result yet, and how many results are here.
    pub(super) fn count(&self) -> (usize, usize) {
        let table = self.lock();
        (table.running, table.tasks.len() - table.running)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_given_again_for_a_while_and_then_forgotten() {
        let results = Results::default();
        let now = Instant::now();
        assert!(results.begin("a", now));
        assert_eq!(results.wait("a", Duration::ZERO), Answer::NotYet);
        assert!(results.done("a", Ok(vec![1]), now));
        assert!(!results.done("a", Ok(vec![2]), now), "the first one counts");
        for _ in 0..2 {
            assert_eq!(
                results.wait("a", Duration::ZERO),
                Answer::There(Ok(vec![1]))
            );
        }
        assert_eq!(results.count(), (0, 1));
        assert!(results.has_room(now + KEPT_GIVEN * 2));
        assert_eq!(results.wait("a", Duration::ZERO), Answer::Unknown);
        assert!(!results.done("b", Err("nobody asked".to_owned()), now));
        assert!(results.begin("c", now));
        results.cancel("c");
        assert_eq!(results.count(), (0, 0));
    }

    #[test]
    fn results_that_nobody_asks_for_take_no_more_than_their_room() {
        let results = Results::default();
        let now = Instant::now();
        for id in ["a", "b"] {
            results.begin(id, now);
            assert!(results.has_room(now));
            results.done(id, Ok(vec![0; ROOM / 2 + 1]), now);
        }
        assert!(!results.has_room(now));
        assert!(results.has_room(now + KEPT));
    }
}
