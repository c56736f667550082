//! What comes in on control: from whom, and who handles it.

use crate::hub::outside::Instant;

use super::{Host, TURN};
use crate::hub::ledger::Gone;
use crate::wire::frame::{
    self, Again, Ask, Confirm, Credit, Goodbye, Heartbeat, Message, Obituaries, Refused, TaskList,
    Want, kind,
};

/// The cause of a run whose output was closed: the number of SIGPIPE.
const OUTPUT_CLOSED: u8 = 13;

impl Host {
    pub(super) fn read_control(&mut self) {
        for _ in 0..TURN {
            let Some((route, address, bytes)) = self.control.recv_from() else {
                break;
            };
            if self.door.is_offender(&route) {
                continue;
            }
            match frame::decode(&bytes) {
                Ok(message) => self.on_control(&route, address.as_deref(), message),
                Err(error) => {
                    log::warn!(
                        "from now on ignores {}, which sent what is no message: {error}",
                        address.as_deref().unwrap_or("a peer on this host")
                    );
                    self.drop_offender(&route);
                }
            }
        }
    }

    /// Whoever has broken the protocol is heard no more. What it held goes to others.
    fn drop_offender(&mut self, route: &[u8]) {
        self.door.offend(route);
        if let Some(id) = self.routes.get(route).copied() {
            self.remove(id, Gone::Left);
        } else if self.sink.as_ref().is_some_and(|sink| sink.route == route) {
            self.sink_gone("has broken the protocol");
        }
    }

    fn on_control(&mut self, route: &[u8], address: Option<&str>, message: Message) {
        match message {
            Message::Hello(hello) => self.on_hello(route, address, hello),
            Message::OtherVersion(version) => self.refuse(
                route,
                format!(
                    "it speaks version {version} of the protocol and this ventilator version {}; \
                     install the same procession on both sides",
                    frame::VERSION
                ),
                false,
            ),
            Message::Status(_) => {
                self.publish();
                let state = self.orders.state();
                self.control.send_to(route, frame::encode(&state));
            }
            Message::Find(find) => self.refuse(
                route,
                format!(
                    "it is not a host of queues by name; for the one queue that may be here leave ?queue={} out",
                    find.queue.escape_debug()
                ),
                false,
            ),
            message => self.on_member(route, message),
        }
    }

    /// Messages of those who have been welcomed.
    fn on_member(&mut self, route: &[u8], message: Message) {
        let run = match &message {
            Message::Credit(Credit { run, .. })
            | Message::Heartbeat(Heartbeat { run, .. })
            | Message::Doomed(Heartbeat { run, .. })
            | Message::Obituaries(Obituaries { run, .. })
            | Message::Returned(TaskList { run, .. })
            | Message::Again(Again { run, .. })
            | Message::Want(Want { run, .. })
            | Message::Confirm(Confirm { run, .. })
            | Message::Ask(Ask { run, .. })
            | Message::Goodbye(Goodbye { run, .. }) => *run,
            other => {
                log::debug!("ignored on control: {other:?}");
                return;
            }
        };
        let rejoin = self.pill(kind::REJOIN);
        if run != self.settings.run {
            return self.refuse(
                route,
                "the run that it belonged to is over, and this is another; start it again to join"
                    .to_owned(),
                false,
            );
        }
        if let Some(sink) = &mut self.sink
            && sink.route == route
        {
            sink.last_heard = Instant::now();
            if let Message::Goodbye(goodbye) = message {
                sink.goodbye = true;
                self.answer_goodbye(route);
                if self.closing.is_none() {
                    self.read_acks();
                    if !goodbye.end {
                        self.sink_gone("said goodbye");
                    } else {
                        // Nobody will read what is still to come.
                        log::info!("the sink ends the run: {}", goodbye.why);
                        if !self.ledger.is_halted() {
                            self.cause = OUTPUT_CLOSED;
                        }
                        self.ledger.halt();
                        self.orders.kill();
                        self.sink_gone("has closed");
                        self.abandoned = true;
                    }
                }
            }
            return;
        }
        let Some(&id) = self.routes.get(route) else {
            if !matches!(message, Message::Goodbye(_)) {
                self.control.send_to(route, rejoin);
            }
            return;
        };
        if self.on_queue(id, route, &message) {
            let now = self.now();
            self.ledger.heard(id, now);
            return;
        }
        let now = self.now();
        let only_puts = self.members.is_some() && !self.peers.contains_key(&id);
        if only_puts && !matches!(message, Message::Goodbye(_)) {
            return;
        }
        if !self.ledger.heard(id, now) && !matches!(message, Message::Goodbye(_)) {
            // Given up as silent, and there it is: it must say what it still holds.
            self.control.send_to(route, rejoin);
            return;
        }
        match message {
            Message::Credit(credit) => {
                self.ledger
                    .credit(id, credit.tasks, credit.bytes, credit.taken, credit.running);
                if let Some(peer) = self.peers.get_mut(&id) {
                    peer.lane.allow(credit.bytes);
                }
            }
            Message::Returned(list) => self.ledger.returned(id, &list.tasks),
            Message::Again(again) => {
                self.ledger.again(id, again.id, again.attempt);
                self.record_try(again.id);
            }
            Message::Obituaries(of) => {
                for (task, _, obituaries) in of.tasks {
                    for obituary in obituaries {
                        self.bury(task, obituary);
                    }
                }
            }
            Message::Doomed(doomed) => {
                if let Some(peer) = self.peers.get_mut(&id) {
                    peer.doomed = true;
                    self.control.send_to(route, frame::encode(&doomed));
                }
            }
            Message::Goodbye(_) => {
                log::info!("worker {id:016x} leaves");
                self.answer_goodbye(route);
                self.remove(id, Gone::Left);
            }
            _ => {}
        }
    }

    /// Whoever leaves waits for it, so that its word comes before the end of its connections.
    fn answer_goodbye(&self, route: &[u8]) {
        let answer = Goodbye {
            kind: kind::GOODBYE,
            run: self.settings.run,
            why: String::new(),
            end: false,
        };
        self.control.send_to(route, frame::encode(&answer));
    }

    pub(super) fn refuse(&self, route: &[u8], why: String, again: bool) {
        log::warn!("refused a peer: {why}");
        let refused = Refused {
            kind: kind::REFUSED,
            version: frame::VERSION,
            why,
            again,
        };
        self.control.send_to(route, frame::encode(&refused));
    }
}
