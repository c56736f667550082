//! How programs of one user find each other's keys on loopback: a file of mode 0600 in the private directory, named by the port, held
//! (locked) by who listens there. It has a [`Ticket`], so what is found is used as a ticket is.
//!
//! Who is another user cannot read it, and so can neither join nor, by listening at a port that was left, pass for who listened there.

use std::fs;
use std::io::{self, Write};
use std::net::{IpAddr, ToSocketAddrs};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::keys::Ticket;
use crate::wire::endpoint::Endpoint;
use crate::wire::runtime_dir;

/// Its file is removed when it is dropped; if its process is killed, the next that listens at that port replaces it.
#[derive(Debug)]
pub(crate) struct ByPort {
    path: PathBuf,
    /// Held, and given up by the kernel when this process ends.
    _held: fs::File,
}

impl Drop for ByPort {
    fn drop(&mut self) {
        // Removed while held, so it is ours.
        let _ = fs::remove_file(&self.path);
    }
}

/// Below the private directory.
const FOLDER: &str = "ports";
/// All addresses of this machine.
const ANY: &str = "any";

/// The file for a port of an address, in this network namespace: others have the same ports again.
fn name(port: u16, address: &str) -> String {
    let namespace = fs::metadata("/proc/self/ns/net").map_or(0, |found| found.ino());
    format!("{namespace}-{port}-{address}")
}

/// The addresses that `host` stands for, as they are in names of files.
fn addresses(host: &str) -> Vec<String> {
    if matches!(host, "*" | "0.0.0.0" | "::") {
        return vec![ANY.to_owned()];
    }
    match (host, 0).to_socket_addrs() {
        Ok(found) => found
            .map(|found| match found.ip() {
                IpAddr::V6(ip) => ip
                    .to_ipv4_mapped()
                    .map_or(IpAddr::V6(ip), IpAddr::V4)
                    .to_string(),
                ip => ip.to_string(),
            })
            .collect(),
        Err(_) => vec![host.replace('/', "_")],
    }
}

/// Puts the keys where this user's programs find them.
pub(crate) fn publish(ticket: &Ticket) -> Result<ByPort> {
    let Endpoint::Tcp { host, port } = ticket.endpoint() else {
        return Err(Error::BadEndpoint {
            endpoint: ticket.endpoint().to_string(),
            why: "it has no port".to_owned(),
        });
    };
    let dir = runtime_dir::base()?.join(FOLDER);
    let failed = |source| Error::PrivateDirectory {
        path: dir.clone(),
        source,
    };
    runtime_dir::make_private(&dir, rustix::process::getuid().as_raw()).map_err(failed)?;
    let address = addresses(host).into_iter().next();
    let path = dir.join(name(*port, &address.unwrap_or_else(|| ANY.to_owned())));
    // Whole and held, or not there.
    let beside = dir.join(format!(
        ".{}-{port}-{:x}",
        std::process::id(),
        crate::pipeline::random_id()?
    ));
    let made = write(&beside, ticket).and_then(|file| {
        fs::rename(&beside, &path)?;
        Ok(file)
    });
    match made {
        Ok(held) => Ok(ByPort { path, _held: held }),
        Err(error) => {
            let _ = fs::remove_file(&beside);
            Err(failed(error))
        }
    }
}

fn write(path: &PathBuf, ticket: &Ticket) -> io::Result<fs::File> {
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)?;
    file.write_all(ticket.to_line().as_bytes())?;
    Ok(file)
}

/// The keys of who listens at `endpoint` on this machine, if that is a program of this user's that lives.
pub(crate) fn find(endpoint: &Endpoint) -> Option<Ticket> {
    let Endpoint::Tcp { host, port } = endpoint else {
        return None;
    };
    let dir = runtime_dir::base().ok()?.join(FOLDER);
    addresses(host)
        .iter()
        .map(String::as_str)
        .chain([ANY])
        .map(|address| dir.join(name(*port, address)))
        .filter(|path| runtime_dir::is_locked(path))
        .find_map(|path| Ticket::read(&path).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::KeyPair;

    #[test]
    fn what_is_published_is_found_until_it_is_dropped()
    -> std::result::Result<(), Box<dyn std::error::Error>> {
        // A port below 1024, where no other test listens.
        let endpoint: Endpoint = "tcp://localhost:7".parse()?;
        let ticket = Ticket::new(
            endpoint,
            KeyPair::generate()?.public(),
            KeyPair::generate()?,
        );
        let published = publish(&ticket)?;
        let found =
            find(&"tcp://127.0.0.1:7".parse()?).or_else(|| find(&"tcp://[::1]:7".parse().ok()?));
        let found = found.ok_or("it is not found by its address")?;
        assert_eq!(found.server(), ticket.server());
        assert!(find(&"tcp://localhost:7".parse()?).is_some());
        assert!(find(&"tcp://localhost:8".parse()?).is_none());
        let path = published.path.clone();
        drop(published);
        assert!(find(&"tcp://localhost:7".parse()?).is_none());
        // Left by a killed process: nobody holds it.
        fs::write(&path, ticket.to_line().as_bytes())?;
        assert!(find(&"tcp://localhost:7".parse()?).is_none());
        fs::remove_file(path)?;
        Ok(())
    }
}
