//! When a run is over, who hears of it, and how it ended.

use crate::hub::outside::Instant;
use std::time::Duration;

use super::{Host, MISSED};
use crate::wire::endpoint::Transport;
use crate::wire::frame::{self, Pill, kind};

/// Who waits for a ventilator tries to connect at least so often twice: one that others may be waiting for lives no shorter.
const SEEN_BY_ALL: Duration = Duration::from_millis(500);

/// How long a queue that ends waits for its members to say goodbye: they do so at once, if they run at all.
const GOODBYES: Duration = Duration::from_millis(500);
/// The cause of a queue that ended with its creator.
pub(crate) const CREATOR_LEFT: u8 = 255;

/// How a run ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// Tasks that have a result.
    pub done: u64,
    /// Those of them that failed.
    pub failed: u64,
    /// Tasks that were put and have no result, because the run was stopped.
    pub unfinished: u64,
    /// Tasks that an earlier life of the run knew, that have no result, and that were not put again in this one.
    pub unread: u64,
    /// Leases beyond a task's first: tried again, handed on after a death or a silence.
    pub again: u64,
    /// Why it ended: 0 all done, otherwise the number of the signal that stopped it, or 255 for an error.
    pub cause: u8,
}

impl Host {
    pub(super) fn is_finished(&mut self, now: Instant) -> bool {
        if self.members.is_some() {
            return self.is_queue_finished(now);
        }
        if self.closing.is_none()
            && ((self.ledger.is_over() && self.unwritten.is_empty())
                || self.error.is_some()
                || self.abandoned)
        {
            self.closing = Some(now);
            self.intake.close();
            self.pill_all();
        }
        let Some(since) = self.closing else {
            return false;
        };
        // Over before anybody came, as with an empty input: whoever is dialling now still hears that there is nothing to do. And
        // those who wait for us look for us from time to time only.
        let nobody_yet = !(self.had_sink && self.had_worker)
            && now.duration_since(since) < self.settings.heartbeat * MISSED;
        let sink_elsewhere = self
            .sink
            .as_ref()
            .is_some_and(|sink| sink.address.transport() != Transport::Inproc);
        let too_brief = sink_elsewhere && self.started.elapsed() < SEEN_BY_ALL;
        let awaited = (nobody_yet || too_brief) && !self.ledger.is_halted() && self.error.is_none();
        let all_gone =
            self.peers.is_empty() && self.sink.as_ref().is_none_or(|sink| sink.goodbye) && !awaited;
        let limit = if self.killed {
            Duration::from_secs(2)
        } else {
            (self.settings.heartbeat * MISSED).max(Duration::from_secs(3))
        };
        all_gone || now.duration_since(since) > limit
    }

    /// A queue ends with its creator. That nobody puts any more and all is taken is told to the getters, and to those who come later.
    fn is_queue_finished(&mut self, now: Instant) -> bool {
        if self.left_at.is_none() && self.is_forgotten() {
            self.keeping.forget();
            self.left_at = Some(now);
            self.closing.get_or_insert(now);
            self.cause = CREATOR_LEFT;
        }
        if self.left_at.is_none()
            && (self.may_leave(now) && self.is_written(now) || self.error.is_some())
        {
            self.left_at = Some(now);
            self.closing.get_or_insert(now);
            self.cause = CREATOR_LEFT;
            self.dropped = self.ledger.items_inside() + self.keeping.coming;
            self.orders.set_blocked(Vec::new());
            self.tell_accepted(now);
            self.pill_all();
            self.pill_members();
        }
        if let Some(since) = self.left_at {
            let all_gone = self.peers.is_empty() && self.members_empty();
            return all_gone || now.duration_since(since) > GOODBYES;
        }
        if self.closing.is_none()
            && self.keeping.coming == 0
            && (self.ledger.is_over() || self.ledger.is_drained())
        {
            self.closing = Some(now);
            self.pill_all();
        }
        false
    }

    /// Nobody is there, nothing is in it, and nobody wants it any more.
    fn is_forgotten(&self) -> bool {
        let nothing = self.members_empty() && self.ledger.items_unfinished() == 0;
        self.orders.take_forget() && nothing && !self.keeping.is_busy()
    }

    /// What came is written, or takes too long.
    fn is_written(&self, now: Instant) -> bool {
        let until = self.members.as_ref().and_then(|members| members.until);
        !self.keeping.is_busy() || until.is_none_or(|until| now >= until + GOODBYES)
    }

    /// A pill on every lane, and the sink's.
    fn pill_all(&mut self) {
        let pill = self.pill(kind::PILL);
        self.peers.retain(|&id, peer| {
            // A silent one would hold up the end; it hears of it when it comes back to nobody.
            let silent = self.ledger.consumer(id).is_none_or(|c| c.is_silent());
            if peer.lane.up {
                peer.lane.socket.send(pill.clone());
            } else {
                self.control.send_to(&peer.route, pill.clone());
            }
            !silent
        });
        if let Some(sink) = &self.sink {
            self.control.send_to(&sink.route, pill);
        }
    }

    pub(super) fn pill(&self, kind: u8) -> Vec<u8> {
        let totals = self.ledger.totals();
        frame::encode(&Pill {
            kind,
            run: self.settings.run,
            done: totals.done,
            failed: totals.failed,
            cause: if self.error.is_some() {
                255
            } else {
                self.cause
            },
            kill: self.killed,
        })
    }

    pub(super) fn summary(&self) -> Summary {
        let totals = self.ledger.totals();
        if self.members.is_some() {
            return Summary {
                unfinished: self.dropped,
                ..Summary::default()
            };
        }
        Summary {
            done: totals.done,
            failed: totals.failed,
            unfinished: self.ledger.put_in_all().saturating_sub(totals.done),
            unread: self.ledger.unread(),
            again: totals.again,
            cause: self.cause,
        }
    }
}
