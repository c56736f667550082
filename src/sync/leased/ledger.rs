//! Who has a unit and who waits for one: the pure core of a lock's host.

use std::collections::{HashMap, VecDeque};

/// A process that is connected.
pub(super) type Client = u64;
/// A request, by the number that its process has given it.
pub(super) type Request = (Client, u64);

/// A unit was given to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grant {
    pub(super) to: Request,
    pub(super) fence: u64,
    pub(super) holder_died: bool,
}

#[derive(Debug)]
pub(super) struct Ledger {
    free: usize,
    /// Of the last grant.
    fence: u64,
    held: HashMap<Request, u64>,
    /// In the order in which they asked.
    waiting: VecDeque<Request>,
    holder_died: bool,
}

impl Ledger {
    /// So many units; the first grant has a number above `fence`.
    pub(super) fn new(units: usize, fence: u64) -> Self {
        Self {
            free: units,
            fence,
            held: HashMap::new(),
            waiting: VecDeque::new(),
            holder_died: false,
        }
    }

    /// A unit for a request, if one is free; otherwise it waits, if it wants to.
    pub(super) fn ask(&mut self, request: Request, waits: bool) -> Option<Grant> {
        // One that was made twice has what it has.
        if self.held.contains_key(&request) || self.waiting.contains(&request) {
            return None;
        }
        if self.free > 0 {
            return Some(self.grant(request));
        }
        if waits {
            self.waiting.push_back(request);
        }
        None
    }

    fn grant(&mut self, to: Request) -> Grant {
        self.free -= 1;
        self.fence += 1;
        self.held.insert(to, self.fence);
        Grant {
            to,
            fence: self.fence,
            holder_died: self.holder_died,
        }
    }

    /// Whether the request waited, which it does no longer.
    pub(super) fn withdraw(&mut self, request: Request) -> bool {
        let place = self.waiting.iter().position(|&waits| waits == request);
        place.is_some_and(|place| self.waiting.remove(place).is_some())
    }

    /// What was granted to the request is given back, and granted to the next.
    pub(super) fn give(&mut self, request: Request) -> Vec<Grant> {
        match self.held.remove(&request) {
            Some(_) => self.add(1),
            None => Vec::new(),
        }
    }

    /// So many units more.
    pub(super) fn add(&mut self, units: usize) -> Vec<Grant> {
        self.free = self.free.saturating_add(units);
        let mut grants = Vec::new();
        while self.free > 0 {
            let Some(next) = self.waiting.pop_front() else {
                break;
            };
            grants.push(self.grant(next));
        }
        grants
    }

    /// A process is gone, with all its requests; what it had is granted to the next.
    pub(super) fn gone(&mut self, client: Client) -> Vec<Grant> {
        self.waiting.retain(|request| request.0 != client);
        let before = self.held.len();
        self.held.retain(|request, _| request.0 != client);
        let had = before - self.held.len();
        self.holder_died |= had > 0;
        self.add(had)
    }

    pub(super) const fn left(&self) -> usize {
        self.free
    }

    pub(super) const fn holder_died(&self) -> bool {
        self.holder_died
    }

    /// One who holds a unit says that what is guarded is in order again; whether it does.
    pub(super) fn is_consistent(&mut self, request: Request) -> bool {
        let is_held = self.held.contains_key(&request);
        self.holder_died &= !is_held;
        is_held
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(grants: &[Grant]) -> Vec<Request> {
        grants.iter().map(|grant| grant.to).collect()
    }

    #[test]
    fn who_asked_first_is_granted_first_and_numbers_rise() {
        let mut ledger = Ledger::new(1, 10);
        let first = ledger.ask((1, 1), true);
        assert_eq!(
            first,
            Some(Grant {
                to: (1, 1),
                fence: 11,
                holder_died: false
            })
        );
        assert_eq!(ledger.ask((2, 1), true), None);
        assert_eq!(ledger.ask((3, 1), true), None);
        assert_eq!(ledger.ask((4, 1), false), None, "it does not wait");
        assert_eq!(ledger.give((2, 1)), [], "it has none");
        let second = ledger.give((1, 1));
        assert_eq!((to(&second), second[0].fence), (vec![(2, 1)], 12));
        assert_eq!(ledger.give((1, 1)), [], "a second time");
        assert_eq!(to(&ledger.give((2, 1))), [(3, 1)]);
        assert_eq!(ledger.give((3, 1)), []);
        assert_eq!(ledger.left(), 1);
    }

    #[test]
    fn who_has_withdrawn_is_passed_over_and_a_grant_is_not_withdrawn() {
        let mut ledger = Ledger::new(1, 0);
        assert!(ledger.ask((1, 1), true).is_some());
        assert!(!ledger.withdraw((1, 1)));
        assert_eq!(ledger.ask((2, 1), true), None);
        assert_eq!(ledger.ask((3, 1), true), None);
        assert!(ledger.withdraw((2, 1)));
        assert_eq!(to(&ledger.give((1, 1))), [(3, 1)]);
    }

    #[test]
    fn what_the_dead_had_goes_to_the_next_who_is_told() {
        let mut ledger = Ledger::new(2, 0);
        for number in 1..=2 {
            assert!(ledger.ask((1, number), true).is_some());
        }
        assert_eq!(ledger.ask((1, 3), true), None);
        assert_eq!(ledger.ask((2, 1), true), None);
        let grants = ledger.gone(1);
        assert_eq!(to(&grants), [(2, 1)], "the dead one waits no longer");
        assert!(grants[0].holder_died && ledger.holder_died());
        assert_eq!(ledger.left(), 1);
        assert!(!ledger.is_consistent((1, 1)) && ledger.holder_died());
        assert!(ledger.is_consistent((2, 1)));
        assert_eq!(ledger.gone(3), []);
        assert!(!ledger.holder_died(), "that one had nothing");
    }

    #[test]
    fn units_that_are_added_go_to_those_who_wait() {
        let mut ledger = Ledger::new(0, 0);
        for client in 1..=3 {
            assert_eq!(ledger.ask((client, 1), true), None);
        }
        assert_eq!(to(&ledger.add(2)), [(1, 1), (2, 1)]);
        assert_eq!(to(&ledger.add(usize::MAX)), [(3, 1)]);
        assert_eq!(ledger.add(usize::MAX), [], "as many as can be");
        assert_eq!(ledger.left(), usize::MAX);
    }
}
