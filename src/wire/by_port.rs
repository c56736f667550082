//! How programs of one user find each other's keys on loopback: a file of mode 0600 in the private folder of who listens, named by the
//! port. It has a [`Ticket`], so what is found is used as a ticket is, and it is gone with the folder.
//!
//! Who is another user cannot read it, and so can neither join nor, by listening at a port that was left, pass for who listened there.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, ToSocketAddrs};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use crate::error::{Error, Result};
use crate::keys::Ticket;
use crate::wire::endpoint::Endpoint;
use crate::wire::runtime_dir;

/// All addresses of this machine.
const ANY: &str = "any";

/// The file for a port of an address, in this network namespace: others have the same ports again.
fn name(port: u16, address: &str) -> String {
    let namespace = fs::metadata("/proc/self/ns/net").map_or(0, |found| found.ino());
    format!("port-{namespace}-{port}-{address}")
}

/// The addresses that `host` stands for, as they are in names of files.
fn addresses(host: &str) -> Vec<String> {
    if matches!(host, "*" | "0.0.0.0" | "::") {
        return vec![ANY.to_owned()];
    }
    match (host, 0).to_socket_addrs() {
        Ok(found) => found
            // What it is bound to, whatever the name stands for here.
            .chain((host == "localhost").then_some((Ipv4Addr::LOCALHOST, 0).into()))
            .map(|found| match found.ip() {
                IpAddr::V6(ip) => ip
                    .to_ipv4_mapped()
                    .map_or(IpAddr::V6(ip), IpAddr::V4)
                    .to_string(),
                ip => ip.to_string(),
            })
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect(),
        Err(_) => vec![host.replace('/', "_")],
    }
}

/// Puts the keys where this user's programs find them: into `dir`, the folder below the private directory of who listens.
pub(crate) fn publish(ticket: &Ticket, dir: &Path) -> Result<()> {
    let Endpoint::Tcp { host, port } = ticket.endpoint() else {
        return Ok(());
    };
    for address in addresses(host) {
        let name = name(*port, &address);
        // Whole, or not there.
        let beside = dir.join(format!(".{name}"));
        write(&beside, ticket)
            .and_then(|()| fs::rename(&beside, dir.join(name)))
            .map_err(|source| Error::PrivateDirectory {
                path: dir.to_owned(),
                source,
            })?;
    }
    Ok(())
}

fn write(path: &Path, ticket: &Ticket) -> io::Result<()> {
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(ticket.to_line().as_bytes())
}

/// The keys of who listens at `endpoint` on this machine, if that is a program of this user's that lives.
pub(crate) fn find(endpoint: &Endpoint) -> Option<Ticket> {
    let Endpoint::Tcp { host, port } = endpoint else {
        return None;
    };
    let folders: Vec<_> = fs::read_dir(runtime_dir::base().ok()?)
        .ok()?
        .flatten()
        .map(|entry| entry.path())
        .collect();
    addresses(host)
        .iter()
        .map(String::as_str)
        .chain([ANY])
        .map(|address| name(*port, address))
        .find_map(|name| {
            let mut files = folders
                .iter()
                .map(|folder| (folder, folder.join(&name)))
                .filter(|(folder, file)| file.exists() && runtime_dir::is_alive(folder));
            files.find_map(|(_, file)| Ticket::read(&file).ok())
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::KeyPair;
    use crate::wire::runtime_dir::RuntimeDir;

    #[test]
    fn what_is_published_is_found_while_its_process_lives()
    -> std::result::Result<(), Box<dyn std::error::Error>> {
        // A port below 1024, where no other test listens.
        let endpoint: Endpoint = "tcp://localhost:7".parse()?;
        let server = KeyPair::generate()?.public();
        let ticket = Ticket::new(endpoint.clone(), server, KeyPair::generate()?);
        let dir = RuntimeDir::create(&format!("t{:x}", crate::pipeline::random_id()?))?;
        publish(&ticket, dir.path())?;
        let found = find(&endpoint).ok_or("it is not found")?;
        assert_eq!(found.server(), ticket.server());
        assert!(find(&"tcp://localhost:8".parse()?).is_none());
        let mode = fs::metadata(dir.path().join(name(7, &addresses("localhost")[0])))?.mode();
        assert_eq!(mode & 0o777, 0o600);
        // As one that a killed process has left.
        let alive = dir.path().join("alive.lock");
        fs::rename(&alive, dir.path().join("held"))?;
        fs::write(alive, "")?;
        assert!(find(&endpoint).is_none());
        drop(dir);
        assert!(find(&endpoint).is_none());
        Ok(())
    }
}
