//! Who gets how many of the tasks that wait, and from whom some are taken back when others have nothing to do.
//!
//! 1. A suspect (see [`ledger`](super::ledger)) goes to a consumer that runs nothing; when there is none, one is emptied for it.
//! 2. Slots that have nothing come first; what is left is shared in proportion to credit.
//! 3. When nothing waits and somebody is idle, half of what the fullest lane has not started is asked back.

use super::ledger::{Consumer, Ledger};
use crate::wire::frame::PeerId;

impl Ledger {
    /// Hands out what can be handed out now.
    pub fn deal(&mut self) {
        if self.is_halted() {
            return;
        }
        self.sweep();
        self.deal_suspects();
        self.deal_waiting();
        self.lease_reserved();
        self.take_back();
    }

    fn deal_suspects(&mut self) {
        for consumer in self.consumers.values_mut() {
            if !consumer.is_busy() {
                consumer.apart = false;
                consumer.alone = false;
            }
            // One that was being emptied for a suspect which has ended elsewhere.
            consumer.apart &= consumer.alone || !self.suspects.is_empty();
        }
        if self.suspects.is_empty() {
            return;
        }
        let mut free: Vec<PeerId> = self
            .consumers
            .iter()
            .filter(|(_, c)| c.takes_more(self.clock) && !c.is_busy())
            .map(|(&peer, _)| peer)
            .collect();
        free.sort_unstable();
        for peer in free {
            if !self.lease_suspect(peer) {
                return;
            }
        }
        let someone_apart = self.consumers.values().any(|c| c.apart && !c.silent);
        if self.suspects.is_empty() || someone_apart {
            return;
        }
        let freest = self
            .consumers
            .iter()
            .filter(|(_, c)| c.ready && !c.silent)
            .min_by_key(|(peer, c)| (u64::from(c.running) + c.ahead(), **peer))
            .map(|(&peer, _)| peer);
        if let Some(peer) = freest {
            if let Some(consumer) = self.consumers.get_mut(&peer) {
                consumer.apart = true;
            }
            self.revoke(peer, usize::MAX);
        }
    }

    fn deal_waiting(&mut self) {
        let mut open: Vec<(PeerId, u64, u64)> = self
            .consumers
            .iter()
            .filter(|(_, c)| !c.apart)
            .map(|(&peer, c)| (peer, c.credit(), c.idle_slots()))
            .filter(|&(_, credit, _)| credit > 0)
            .collect();
        let waiting =
            self.waiting_count - self.suspects.len().min(self.waiting_count as usize) as u64;
        if open.is_empty() || waiting == 0 {
            return;
        }
        open.sort_unstable_by_key(|&(peer, _, idle)| (std::cmp::Reverse(idle), peer));
        let credit_in_all: u64 = open.iter().map(|&(_, credit, _)| credit).sum();
        if waiting >= credit_in_all {
            for (peer, credit, _) in open {
                self.lease(peer, credit);
            }
            return;
        }
        let mut left = waiting;
        let mut rest = Vec::with_capacity(open.len());
        for (peer, credit, idle) in open {
            let first = idle.min(credit).min(left);
            left -= first;
            rest.push((peer, credit - first, first));
        }
        let credit_left: u64 = rest.iter().map(|&(_, credit, _)| credit).sum();
        for (peer, credit, first) in rest {
            let share = if credit_left == 0 {
                0
            } else {
                (left.saturating_mul(credit)).div_ceil(credit_left)
            };
            self.lease(peer, first + share.min(credit));
        }
    }

    fn take_back(&mut self) {
        self.undecided = false;
        if self.waiting_count > 0 {
            return;
        }
        let idle = self
            .consumers
            .values()
            .any(|c| !c.apart && c.credit() > 0 && c.idle_slots() > 0);
        if !idle || self.consumers.values().any(|c| c.revoking && !c.silent) {
            return;
        }
        // What lies in front of a free slot will start by itself; what lies behind busy ones can be done elsewhere.
        let held_back = |c: &Consumer| !c.silent && c.queued() > 0;
        self.undecided = self
            .consumers
            .values()
            .any(|c| held_back(c) && !self.may_take_back(c));
        let fullest = self
            .consumers
            .iter()
            .filter(|(_, c)| held_back(c) && self.may_take_back(c))
            .map(|(&peer, c)| (self.unstarted(peer).len(), c.queued(), peer))
            .max();
        if let Some((unstarted, queued, peer)) = fullest {
            let queued = usize::try_from(queued).unwrap_or(usize::MAX);
            self.revoke(peer, unstarted.div_ceil(2).min(queued));
        }
    }
}
