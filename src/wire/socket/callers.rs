//! Who is connected to a bound socket that has one peer, as its monitor tells. **Pure**.
//!
//! libzmq says which connection was accepted, and which was closed, but not whose handshake has succeeded; and some that fail it says nothing of at
//! all. So the peer is one of those that were there when a handshake succeeded, and who comes later never is.

/// Connections, by their descriptors.
#[derive(Debug, Default)]
pub(super) struct Callers {
    /// Those that are open.
    open: Vec<u32>,
    /// Those of them of which one is the peer.
    known: Vec<u32>,
}

impl Callers {
    /// A connection was accepted.
    pub(super) fn came(&mut self, caller: u32) {
        self.open.push(caller);
    }

    /// The handshake of one that is open has succeeded.
    pub(super) fn is_known(&mut self) {
        self.known.clone_from(&self.open);
    }

    /// A connection was closed: whether the peer is gone with it. Where a stranger was there when the peer came, that is known when both are
    /// gone; a stranger's handshake is given up after seconds.
    pub(super) fn was_peer(&mut self, caller: u32) -> bool {
        self.open.retain(|open| *open != caller);
        let before = self.known.len();
        self.known.retain(|known| *known != caller);
        before > 0 && self.known.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_come_and_go_and_the_peer_is_the_last_to_be_missed() {
        let mut callers = Callers::default();
        callers.came(5);
        assert!(!callers.was_peer(5), "nobody was known");
        callers.came(5);
        callers.is_known();
        callers.came(6);
        assert!(!callers.was_peer(6), "it came behind the peer");
        assert!(!callers.was_peer(9), "it never came");
        assert!(callers.was_peer(5));
        // Again, with a stranger that was there before.
        callers.came(7);
        callers.came(8);
        callers.is_known();
        assert!(!callers.was_peer(8), "it may have been either");
        assert!(callers.was_peer(7));
        assert!(!callers.was_peer(7));
    }
}
