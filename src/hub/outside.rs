//! What the event loops have from outside: time, sockets, and which machine they are on. In the simulation
//! (docs/simulation.md) these are virtual, and the loops are the same.

#[cfg(not(test))]
pub(crate) use std::time::Instant;

#[cfg(test)]
pub(crate) use super::simulation::clock::Instant;
#[cfg(test)]
pub(crate) use super::simulation::network::{Socket, poll};
#[cfg(not(test))]
pub(crate) use crate::wire::socket::{Socket, poll};

/// This boot of this machine: who has the same one dies with its sockets.
pub(crate) fn machine_id() -> String {
    #[cfg(test)]
    if let Some(machine) = super::simulation::network::machine() {
        return machine;
    }
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim().to_owned())
        .unwrap_or_else(|_| host_name())
}

/// This host's name.
pub(crate) fn host_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}
