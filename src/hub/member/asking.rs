//! What only the host knows: how many items there are, and whether all are done with.

use std::sync::PoisonError;

use super::{End, Member, Shared, Wait, wait_on};
use crate::wire::frame::{Ask, encode, kind};

/// Not on the wire: as ASK, by who wants to know whether there is something to take, wherever the number can tell that.
pub(super) const LOOK: u8 = 0;

#[derive(Debug, Default)]
pub(super) struct Asking {
    next: u64,
    /// Asked and not answered: number, kind, whether it went out.
    open: Vec<(u64, u8, bool)>,
    answers: Vec<Ask>,
    end: Option<End>,
}

/// There is no answer: the queue has ended, or it took too long.
pub(crate) type Unanswered = Option<End>;

impl Shared {
    /// Asks the host; what was put and taken before has been said when it answers, if it was flushed.
    pub(crate) fn ask(&self, kind: u8, wait: Wait) -> Result<Ask, Unanswered> {
        let mut asking = self.asking();
        if asking.end.is_some() {
            return Err(asking.end.clone());
        }
        asking.next += 1;
        let number = asking.next;
        asking.open.push((number, kind, false));
        self.waker.wake();
        loop {
            if let Some(at) = asking.answers.iter().position(|a| a.number == number) {
                return Ok(asking.answers.swap_remove(at));
            }
            if let Some(end) = &asking.end {
                return Err(Some(end.clone()));
            }
            let (guard, in_time) = wait_on(&self.answered, asking, wait);
            asking = guard;
            if !in_time {
                asking.open.retain(|&(open, ..)| open != number);
                return Err(None);
            }
        }
    }

    /// The questions that are open and were not looked at yet: number and kind.
    pub(super) fn questions(&self) -> Vec<(u64, u8)> {
        let mut asking = self.asking();
        let fresh = asking.open.iter_mut().filter(|open| !open.2);
        fresh
            .map(|open| {
                open.2 = true;
                (open.0, open.1)
            })
            .collect()
    }

    /// What was looked at and not answered is to be looked at again.
    pub(super) fn ask_again(&self) {
        for open in &mut self.asking().open {
            open.2 = false;
        }
    }

    /// Whether whoever asked this still waits for the answer.
    pub(super) fn is_open(&self, number: u64) -> bool {
        self.asking().open.iter().any(|open| open.0 == number)
    }

    pub(super) fn on_answer(&self, answer: &Ask) {
        let mut asking = self.asking();
        let before = asking.open.len();
        asking.open.retain(|&(number, ..)| number != answer.number);
        if asking.open.len() < before {
            asking.answers.push(*answer);
            drop(asking);
            self.answered.notify_all();
        }
    }

    /// Whether a question is to go out.
    pub(super) fn is_asking(&self) -> bool {
        self.asking().open.iter().any(|open| !open.2)
    }

    pub(super) fn end_asking(&self, end: &End) {
        self.asking().end = Some(end.clone());
        self.answered.notify_all();
    }

    fn asking(&self) -> std::sync::MutexGuard<'_, Asking> {
        self.asking.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Member {
    /// Questions go out behind what was confirmed before.
    pub(super) fn send_asks(&mut self) {
        if self.dial.is_greeting() {
            return;
        }
        let asks = self.shared.questions();
        if !asks.is_empty() {
            self.confirm_now();
        }
        for (number, kind) in asks {
            // A host counts what can be had together with what is on its way.
            let kind = if kind == LOOK { kind::ASK } else { kind };
            let ask = Ask {
                kind,
                run: self.run,
                number,
                inside: 0,
                unfinished: 0,
            };
            self.send(encode(&ask));
        }
    }

    /// On a new connection what was asked on the old one is asked again.
    pub(super) fn ask_again(&mut self) {
        self.shared.ask_again();
    }
}
