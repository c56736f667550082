//! How much more a worker can take, and when that is worth saying.
//!
//! Credit follows the length of tasks: as many tasks ahead of the slots as they do in [`HORIZON`], so that microsecond
//! tasks come thousands at a time and tasks of a second one by one. Results that wait for a slow sink stop it.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Consumer, Shared};
use crate::wire::frame::{self, Credit, kind};

/// How much work lies ahead of the slots.
const HORIZON: Duration = Duration::from_millis(20);
/// Tasks ahead of one slot at most.
const DEEPEST: u64 = 8_192;
/// Tasks longer than this are not fetched ahead at all.
const LONG: Duration = Duration::from_millis(500);
/// How many results may wait for their acknowledgement.
const KEPT: usize = 16_384;
/// How many bytes of results in memory may, in bytes.
const KEPT_BYTES: usize = 4 << 20;

impl Consumer {
    /// Says what can be taken, when that is something new.
    pub(super) fn say_credit(&mut self) {
        let Some(lane) = &self.lane else {
            return;
        };
        if self.dial.is_greeting() || self.goodbye_at.is_some() {
            return;
        }
        let inbox = self.shared.inbox();
        let open = inbox.tasks.len() as u64 + inbox.running.len() as u64;
        let taken = inbox.tasks.front().map_or(lane.received, |first| {
            if first.lane == self.lanes {
                first.seq - 1
            } else {
                0
            }
        });
        let budget = (4 << 20) + u64::from(self.settings.slots).min(28) * (1 << 20);
        let credit = Credit {
            kind: kind::CREDIT,
            run: self.run,
            tasks: lane.received + self.target().saturating_sub(open),
            bytes: inbox.consumed + lane.spilled + budget,
            taken,
            running: inbox.running.len() as u32,
        };
        drop(inbox);
        // While there is plenty, a few tasks of credit more need not be said one by one.
        let worth_saying = self.said.is_none_or(|said| {
            let unused = said.tasks.saturating_sub(lane.received);
            let more = credit.tasks.saturating_sub(said.tasks);
            said.running != credit.running
                || credit.tasks < said.tasks
                || more > unused / 4
                || credit.bytes - said.bytes.min(credit.bytes) > budget / 4
                || (said.taken != credit.taken && !self.shared.local)
        });
        if worth_saying && self.said != Some(credit) {
            self.said = Some(credit);
            self.send(frame::encode(&credit));
        }
    }

    /// How many tasks should be here, running or not.
    fn target(&self) -> u64 {
        if self.leaving || self.pill.is_some() {
            return 0;
        }
        if self.outbox.kept() >= KEPT || self.outbox.memory() >= KEPT_BYTES {
            return 0;
        }
        self.shared.appetite()
    }
}

impl Shared {
    /// How many tasks should be here, running or not: one for each slot, and what these do in a while.
    pub(crate) fn appetite(&self) -> u64 {
        let slots = u64::from(self.slots);
        let mean = Duration::from_nanos(self.mean.load(Ordering::Relaxed));
        let fixed = self.ahead.load(Ordering::Relaxed);
        let ahead = if fixed > 0 {
            fixed * slots
        } else if mean.is_zero() || mean > LONG {
            0
        } else {
            let each = (HORIZON.as_nanos() / mean.as_nanos().max(1)) as u64;
            (slots * each.min(DEEPEST)).max(1)
        };
        slots + ahead.min(KEPT as u64)
    }
}
