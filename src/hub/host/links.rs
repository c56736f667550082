//! Links that come and go, and what that says about who was at their other end.

use crate::hub::outside::Instant;

use super::{Dead, Host, Peer};
use crate::hub::lane::Link;
use crate::hub::ledger::Gone;
use crate::wire::frame::{PeerId, kind};
use crate::wire::socket::LinkEvent;

/// How often what members have put is read before one that has died is believed to be dead.
const LAST_TURNS: u32 = 1000;

impl Host {
    pub(super) fn read_links(&mut self) {
        let mut gone = Vec::new();
        let mut intruded = Vec::new();
        for (&id, peer) in &mut self.peers {
            match peer.lane.link() {
                Link::Down => {
                    let lane = peer.lane.address.clone();
                    gone.push((id, lane, peer.same_machine, peer.goodbye));
                }
                Link::Intruder => {
                    log::warn!(
                        "somebody else connected to the lane of worker {id:016x}; it gets another one"
                    );
                    intruded.push(id);
                }
                Link::Up | Link::Unchanged => {}
            }
        }
        for id in intruded {
            // Its hello says what it holds; what went elsewhere is leased anew.
            let rejoin = self.pill(kind::REJOIN);
            if let Some(peer) = self.peers.get(&id) {
                self.control.send_to(&peer.route, rejoin);
            }
        }
        for (id, lane, same_machine, goodbye) in gone {
            if self.closing.is_some() || goodbye {
                self.remove(id, Gone::Left);
            } else if same_machine {
                // What it had said before is read first: it may have been a goodbye, or a hello, with which it left that lane. And what it
                // had put; others, who may put more meanwhile, get their turn again at some time.
                self.read_control();
                for _ in 0..LAST_TURNS {
                    if !self.read_puts() {
                        break;
                    }
                }
                let has_it = |peer: &Peer| peer.lane.address == lane;
                if let Some(peer) = self.peers.get(&id).filter(|peer| has_it(peer)) {
                    let why = match peer.doomed {
                        true => Gone::Left,
                        false => Gone::Died,
                    };
                    self.remove(id, why);
                }
            } else if let Some(peer) = self.peers.get(&id) {
                let rejoin = self.pill(kind::REJOIN);
                self.control.send_to(&peer.route, rejoin);
            }
        }
        let mut sink_down = false;
        if let Some(sink) = &mut self.sink {
            for event in sink.acks.link_events() {
                match event {
                    LinkEvent::Up if !sink.up => {
                        sink.up = true;
                        let address = sink.address.clone();
                        sink.acks.unbind(&address);
                    }
                    LinkEvent::Down if sink.up => sink_down = sink.same_machine,
                    _ => {}
                }
            }
        }
        if sink_down {
            self.read_acks();
            self.read_control();
            self.sink_gone("is gone");
        }
        if self.verdicts.link_lost() {
            self.verdicts.reconnect();
        }
    }

    /// Takes back a lane, with all that is leased to its consumer; what a member had put so far stays known.
    pub(super) fn forget_lane(&mut self, id: PeerId) {
        if let Some(peer) = self.peers.remove(&id) {
            self.routes.remove(&peer.route);
        }
        self.ledger.gone(id, Gone::Left);
    }

    pub(super) fn remove(&mut self, id: PeerId, why: Gone) {
        self.absorbed.remove(&id);
        if let Some(peer) = self.peers.remove(&id) {
            self.routes.remove(&peer.route);
            if why == Gone::Died && self.members.is_some() {
                log::warn!(
                    "process {} on {} died; what it had not confirmed goes to others",
                    peer.pid,
                    peer.host
                );
            } else if peer.doomed && self.closing.is_none() {
                log::info!(
                    "worker {id:016x} (process {} on {}) was killed, as it had said; its tasks are handed on",
                    peer.pid,
                    peer.host
                );
            } else if why == Gone::Died && self.closing.is_none() {
                log::warn!(
                    "worker {id:016x} (process {} on {}) died; its tasks are handed on",
                    peer.pid,
                    peer.host
                );
                self.died.push(Dead {
                    id,
                    pid: peer.pid,
                    host: peer.host,
                    out_of_memory: peer.oom_kills.count() > peer.oom_before,
                });
            }
        }
        // Items kill nobody, so there is nobody to blame.
        let of_items = self.members.is_some();
        self.ledger
            .gone(id, if of_items { Gone::Left } else { why });
        self.member_gone(id);
        if self.peers.is_empty() {
            self.alone_since = Instant::now();
        }
    }
}
