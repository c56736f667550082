//! What holds of a host at any time, for the simulation to look at.

use super::Host;
use crate::hub::ledger::Ledger;
use crate::wire::frame::RunId;

impl Host {
    pub(in crate::hub) const fn run_id(&self) -> RunId {
        self.settings.run
    }

    pub(in crate::hub) const fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Who is sent something is known to the ledger, and the other way round.
    pub(in crate::hub) fn check_peers(&self) -> Result<(), String> {
        for (id, peer) in &self.peers {
            if self.ledger.consumer(*id).is_none() {
                return Err(format!(
                    "{id:x} has a lane, and the ledger does not know it"
                ));
            }
            if self.routes.get(&peer.route) != Some(id) {
                return Err(format!("{id:x} is not found by its route"));
            }
        }
        for (id, consumer) in self.ledger.consumers() {
            if consumer.leases() > 0 && !self.peers.contains_key(&id) && self.closing.is_none() {
                return Err(format!("{id:x} holds leases, and has no lane"));
            }
        }
        Ok(())
    }
}
