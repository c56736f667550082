//! The tasks under way to one filter: which line is whose, and what a death of the filter means for each. Pure: no
//! process, pipe or clock.
//!
//! Lines are matched first in, first out. A filter that dies is started again with what it had not answered. Whom to
//! blame is not known then: a filter that buffers loses the answers of lines that it got over well. So:
//!
//! - The oldest unanswered task is the suspect. A death counts against it; an answer to it clears it.
//! - After a second death with the same suspect the window is *careful*: it sends one task alone, then two, then four
//!   … as long as they are answered, and half as many after each death, so that the guilty one is found by halving.
//! - A task with [`DEATHS`] deaths, the last ones alone, is given up, and the window is careless again.

use std::collections::VecDeque;

use bytes::Bytes;

/// How often a filter may die over one task before that is given up.
pub const DEATHS: u32 = 3;

/// How many deaths with the same suspect it takes to be careful.
const CAREFUL: u32 = 2;

/// Tasks that were taken and are not answered, oldest first.
#[derive(Debug)]
pub struct Window<T> {
    tasks: VecDeque<(T, Bytes)>,
    /// How many of `tasks`, from the front, the present process has been given.
    sent: usize,
    /// Deaths that count against the front task.
    deaths: u32,
    /// Whether any process has ever answered anything: until then one death is enough to give a task up, once one
    /// was given up. What cannot work at all shall not be tried three times for each of a million tasks.
    answered: bool,
    hopeless: bool,
    careful: Option<Careful>,
}

#[derive(Debug)]
struct Careful {
    /// How many may be sent at once.
    batch: usize,
    /// How many answers it takes to be careless again.
    left: usize,
}

impl<T> Window<T> {
    /// An empty one.
    pub fn new() -> Self {
        Self {
            tasks: VecDeque::new(),
            sent: 0,
            deaths: 0,
            answered: false,
            hopeless: false,
            careful: None,
        }
    }

    /// Adds tasks at the end.
    pub fn extend(&mut self, tasks: impl IntoIterator<Item = (T, Bytes)>) {
        self.tasks.extend(tasks);
    }

    /// Whether there is no task.
    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// How many tasks the present process has been given and not answered.
    pub fn under_way(&self) -> usize {
        self.sent
    }

    /// Whether one task or few are sent at a time, because the filter died of them.
    pub fn is_careful(&self) -> bool {
        self.careful.is_some()
    }

    /// Whether there is a task that the present process may be given now.
    pub fn has_to_send(&self) -> bool {
        self.sent < self.limit()
    }

    fn limit(&self) -> usize {
        match &self.careful {
            // The next batch only when this one is answered.
            Some(_) if self.sent > 0 => self.sent,
            Some(careful) => careful.batch.min(self.tasks.len()),
            None => self.tasks.len(),
        }
    }

    /// Gives the present process the next tasks: appends them to `out`, each with its terminator, until that has
    /// `enough` bytes. A careful window ignores `enough`, as its batch has to go whole.
    pub fn send(&mut self, out: &mut Vec<u8>, terminator: u8, enough: usize) {
        let limit = self.limit();
        let whole = self.is_careful();
        for (_, line) in self.tasks.range(self.sent..limit) {
            if out.len() >= enough && !whole {
                break;
            }
            out.extend_from_slice(line);
            out.push(terminator);
            self.sent += 1;
        }
    }

    /// The present process has answered its oldest task: returns whose answer it is, and the length of its line. None
    /// if it has none, which makes the answer one too many.
    pub fn answer(&mut self) -> Option<(T, usize)> {
        if self.sent == 0 {
            return None;
        }
        let (token, line) = self.tasks.pop_front()?;
        self.sent -= 1;
        self.deaths = 0;
        self.answered = true;
        if let Some(careful) = &mut self.careful {
            careful.left = careful.left.saturating_sub(1);
            if careful.left == 0 {
                self.careful = None;
            } else if self.sent == 0 {
                careful.batch *= 2;
            }
        }
        Some((token, line.len()))
    }

    /// The present process has died; the next one starts anew. Returns the task that is given up, if one is, with the
    /// length of its line and the number of deaths.
    pub fn died(&mut self) -> Option<(T, usize, u32)> {
        let sent = std::mem::take(&mut self.sent);
        if sent == 0 {
            return None;
        }
        match &mut self.careful {
            Some(careful) if sent > 1 => {
                careful.batch = sent / 2;
                return None;
            }
            _ => self.deaths += 1,
        }
        if self.deaths >= DEATHS || self.hopeless {
            self.hopeless = !self.answered;
            self.careful = None;
            let deaths = std::mem::take(&mut self.deaths);
            let (token, line) = self.tasks.pop_front()?;
            return Some((token, line.len(), deaths));
        }
        if self.deaths >= CAREFUL {
            self.careful.get_or_insert(Careful {
                batch: 1,
                left: sent,
            });
        }
        None
    }

    /// The present process has ended in good order, or was ended, and what it left unanswered is not tried again.
    pub fn take_unanswered(&mut self) -> Vec<(T, usize)> {
        self.deaths = 0;
        if let Some(careful) = &mut self.careful {
            careful.left = careful.left.saturating_sub(self.sent);
            if careful.left == 0 {
                self.careful = None;
            }
        }
        let unanswered = self.tasks.drain(..std::mem::take(&mut self.sent));
        unanswered
            .map(|(token, line)| (token, line.len()))
            .collect()
    }

    /// Everything, sent or not: nobody will answer any of it.
    pub fn take_all(&mut self) -> Vec<(T, usize)> {
        self.sent = self.tasks.len();
        self.careful = None;
        self.take_unanswered()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(tasks: u32) -> Window<u32> {
        let mut window = Window::new();
        window.extend((1..=tasks).map(|task| (task, Bytes::from(task.to_string()))));
        window
    }

    /// Runs the window against a filter that dies of the task `guilty`, answering before it only what does not wait in
    /// a buffer; returns who was answered, who was given up, and how many processes it took.
    fn run(mut window: Window<u32>, guilty: u32, buffers: bool) -> (Vec<u32>, Vec<u32>, u32) {
        let (mut answered, mut given_up, mut processes) = (Vec::new(), Vec::new(), 0);
        while !window.is_empty() {
            processes += 1;
            assert!(processes < 1_000, "endless: {window:?}");
            let mut out = Vec::new();
            window.send(&mut out, b'\n', usize::MAX);
            let given: Vec<u32> = out
                .split(|byte| *byte == b'\n')
                .filter(|line| !line.is_empty())
                .map(|line| std::str::from_utf8(line).unwrap().parse().unwrap())
                .collect();
            let dies = given.contains(&guilty);
            for task in given {
                if task == guilty || (dies && buffers) {
                    break;
                }
                answered.push(window.answer().unwrap().0);
                assert_eq!(answered.last(), Some(&task));
            }
            if dies {
                given_up.extend(window.died().map(|(task, ..)| task));
            }
        }
        (answered, given_up, processes)
    }

    #[test]
    fn the_guilty_task_is_given_up_and_the_others_are_answered_in_order() {
        for tasks in [1, 2, 3, 100, 1_000] {
            for guilty in [1, 2, 77, 1_000] {
                for buffers in [false, true] {
                    let (answered, given_up, processes) = run(window(tasks), guilty, buffers);
                    let name = format!("{tasks} tasks, {guilty} kills, buffers: {buffers}");
                    let rest: Vec<u32> = (1..=tasks).filter(|task| *task != guilty).collect();
                    assert_eq!(answered, rest, "{name}");
                    let lost: Vec<u32> = (1..=tasks).filter(|task| *task == guilty).collect();
                    assert_eq!(given_up, lost, "{name}");
                    assert!(processes < 150, "{name}: {processes} processes");
                }
            }
        }
    }

    #[test]
    fn a_death_after_an_answer_is_held_against_nobody_for_long() {
        let mut window = window(100);
        let mut answered = 0;
        while !window.is_empty() {
            window.send(&mut Vec::new(), b'\n', usize::MAX);
            // A filter that exits after each fifth line.
            for _ in 0..5 {
                answered += u32::from(window.answer().is_some());
            }
            assert!(window.died().is_none());
        }
        assert_eq!(answered, 100);
    }

    #[test]
    fn a_filter_that_never_worked_is_tried_once_for_each_task_after_the_first() {
        let mut window = window(10);
        let mut deaths = 0;
        while !window.is_empty() {
            window.send(&mut Vec::new(), b'\n', usize::MAX);
            window.died();
            deaths += 1;
        }
        assert_eq!(deaths, DEATHS + 9);
    }

    #[test]
    fn an_answer_to_nothing_is_one_too_many() {
        let mut window = window(1);
        assert!(window.answer().is_none(), "nothing was sent");
        window.send(&mut Vec::new(), b'\n', 1);
        assert_eq!(window.answer(), Some((1, 1)));
        assert!(window.answer().is_none());
    }
}
