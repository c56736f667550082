//! What is done as time passes: heartbeats are sent, silent peers given up, and patience ends.

use crate::hub::outside::Instant;

use rustc_hash::FxHashSet;

use super::{Host, MISSED, Peer, host_name};
use crate::error::Error;
use crate::hub::ledger::Gone;
use crate::wire::endpoint::Transport;
use crate::wire::frame::{self, Heartbeat, PeerId, kind};

impl Host {
    pub(super) fn tick(&mut self, now: Instant) {
        let heartbeat = self.settings.heartbeat;
        let mut beat = Heartbeat {
            kind: kind::HEARTBEAT,
            run: self.settings.run,
            ack: 0,
        };
        for peer in self.peers.values_mut() {
            if now.duration_since(peer.last_sent) >= heartbeat / 2 {
                peer.last_sent = now;
                self.control.send_to(&peer.route, frame::encode(&beat));
            }
        }
        let silence = heartbeat * MISSED;
        self.tick_members(now, &frame::encode(&beat), silence);
        self.note_blocked(now);
        // Of a process on this machine the kernel tells when it dies, once its lane is up: a getter that is stopped has what it has,
        // and nobody sees it twice. Tasks are another matter: whoever stands still holds up their run.
        let is_queue = self.members.is_some();
        let is_near = |peer: &Peer| peer.lane.up && peer.lane.address.transport() != Transport::Tcp;
        let near: FxHashSet<PeerId> = self
            .peers
            .iter()
            .filter(|(_, peer)| is_queue && is_near(peer))
            .map(|(&id, _)| id)
            .collect();
        let keeps = |id| near.contains(&id);
        for id in self.ledger.give_up_silent(self.now(), silence, keeps) {
            if let Some(peer) = self.peers.get(&id) {
                let consequence = match (is_queue, keeps(id)) {
                    (true, true) => "gets nothing more until it is",
                    (true, false) => "is taken for dead: what it had not confirmed goes to others",
                    (false, _) => "its tasks are handed on",
                };
                log::warn!(
                    "{} {id:016x} (process {} on {}) was not heard for {:.1} s; {consequence}",
                    if is_queue { "getter" } else { "worker" },
                    peer.pid,
                    peer.host,
                    silence.as_secs_f64()
                );
            }
            if self.closing.is_some() {
                self.remove(id, Gone::Left);
            } else if self.peers.get(&id).is_some_and(|peer| !peer.lane.up) {
                // Nothing tells of the end of who never dialled; whoever only stood still hears that it must say hello again.
                self.forget_lane(id);
            }
        }
        if let Some(sink) = &mut self.sink {
            if now.duration_since(sink.last_sent) >= heartbeat / 2 {
                sink.last_sent = now;
                beat.ack = sink.number;
                self.control.send_to(&sink.route, frame::encode(&beat));
            }
            // A sink on this machine is gone when its link is; a stopped one is waited for. Of one that has never connected (it was
            // killed behind its hello) no link tells.
            let link_tells = sink.same_machine && sink.up;
            if !link_tells && now.duration_since(sink.last_heard) > silence {
                self.sink_gone("was not heard for three heartbeats");
            }
        }
        self.check_patience(now);
    }

    fn check_patience(&mut self, now: Instant) {
        if self.closing.is_some() || self.error.is_some() || self.members.is_some() {
            return;
        }
        let live = self.ledger.consumers().any(|(_, c)| !c.is_silent());
        if live {
            self.alone_since = now;
        }
        if self.sink.is_some() {
            self.sinkless_since = now;
        }
        let patience = self.settings.patience;
        let endpoint = self
            .settings
            .binds
            .last()
            .map(|endpoint| endpoint.clone().with_host_if_any(&host_name()).to_string())
            .unwrap_or_default();
        let waited = |since: Instant| now.duration_since(since);
        let missing = if waited(self.sinkless_since) > patience {
            Some(("sink", "procession sink --connect"))
        } else if waited(self.alone_since) > patience {
            Some(("worker", "procession worker --connect"))
        } else {
            None
        };
        if let Some((who, command)) = missing {
            self.error = Some(Error::NobodyThere {
                who: "ventilator",
                waited: patience,
                advice: format!(
                    "no {who} is there: start one with `{command} {endpoint}`, or wait longer (--patience, in a program: patience)"
                ),
                endpoint,
            });
        }
    }
}
