//! `--keys`, `--ticket`, `--ticket-out` and `procession keygen`: what they mean.

use std::error::Error;
use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use procession::Body;
use procession::keys::{Keys, Proof, Ticket};
use procession::pipeline::{Limits, Ventilator};

use crate::args::KeygenArgs;
use crate::args::options::{JoinArgs, LimitArgs, ReachArgs, TicketFile};
use crate::args::quantity::Limit;
use crate::exit_code::ExitCode;

/// How often it is looked whether the ticket's file is there.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Where to join, and with what.
pub struct Joining {
    /// The ventilator's endpoint.
    pub endpoint: String,
    /// What is shown there, if anything was given.
    pub proof: Option<Proof>,
}

/// Reads what was given.
///
/// # Errors
/// When the keys or the ticket cannot be used, or nothing says where to join.
pub fn joining(
    connect: Option<&String>,
    join: &JoinArgs,
    reach: &ReachArgs,
) -> Result<Joining, Box<dyn Error>> {
    let ticket = match &join.ticket {
        Some(from) => Some(read(from, reach.patience)?),
        None => None,
    };
    let endpoint = match (connect, &ticket) {
        (Some(endpoint), _) => endpoint.clone(),
        (None, Some(ticket)) => ticket.endpoint().to_string(),
        (None, None) => return Err("nothing says where to join: give --connect or --ticket".into()),
    };
    crate::feed::between_processes(&endpoint)?;
    let proof = match ticket {
        Some(ticket) => Some(Proof::Ticket(ticket)),
        None => keys(reach)?.map(Proof::Keys),
    };
    Ok(Joining { endpoint, proof })
}

/// The keys that were given.
///
/// # Errors
/// When they cannot be used.
pub fn keys(reach: &ReachArgs) -> procession::Result<Option<Keys>> {
    reach.keys.as_ref().map(Keys::open).transpose()
}

fn read(from: &TicketFile, patience: Duration) -> Result<Ticket, Box<dyn Error>> {
    let path = match from {
        TicketFile::Path(path) => path,
        TicketFile::Standard => {
            let mut input = std::io::stdin().lock();
            if input.is_terminal() {
                eprintln!("procession: paste the ticket here, and a line end");
                let mut line = String::new();
                std::io::stdin().read_line(&mut line)?;
                return Ok(line.parse()?);
            }
            let mut text = String::new();
            input.by_ref().take(64 << 10).read_to_string(&mut text)?;
            return Ok(text.parse()?);
        }
    };
    // Who writes it may come later than we.
    let since = Instant::now();
    let mut said = false;
    while !path.exists() && since.elapsed() < patience {
        if !std::mem::replace(&mut said, true) {
            log::info!("waits for the ticket in {}", path.display());
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(Ticket::read(path)?)
}

/// The file of a ticket that was written, removed with the run.
pub struct TicketOut(Option<PathBuf>);

impl Drop for TicketOut {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Writes the run's ticket where it was asked for.
///
/// # Errors
/// When it cannot be written, or there is nothing to join by TCP.
pub fn write(
    to: Option<&TicketFile>,
    ventilator: &Ventilator<Body>,
) -> Result<TicketOut, Box<dyn Error>> {
    let Some(to) = to else {
        return Ok(TicketOut(None));
    };
    let Some(ticket) = ventilator.ticket() else {
        return Err("--ticket-out is for a run that others join by TCP: give --bind tcp://HOST:PORT (by ipc:// nobody needs a ticket)".into());
    };
    match to {
        TicketFile::Path(path) => {
            ticket.write(path)?;
            Ok(TicketOut(Some(path.clone())))
        }
        TicketFile::Standard => {
            eprintln!(
                "procession: who types this joins the run (it is a secret, and ends with the run):\n  echo '{}' | procession worker --ticket -",
                ticket.to_line().as_str()
            );
            Ok(TicketOut(None))
        }
    }
}

/// `procession keygen`.
///
/// # Errors
/// When there are keys already, or they cannot be written.
pub fn keygen(args: &KeygenArgs) -> Result<ExitCode, Box<dyn Error>> {
    let dir: &Path = &args.dir;
    let keys = Keys::generate(dir)?;
    let shown = dir.display();
    log::warn!(
        "made keys in {shown}: whoever listens takes --keys {shown}; others need a folder with server.key, client.key and client.key_secret \
         of it, or one of their own (keygen there) with this server.key in it, and their client.key in {shown}/clients. \
         The server's key is {}",
        keys.server_key()?
    );
    Ok(ExitCode::Success)
}

/// The limits that were given, and the usual ones for the rest.
pub fn limits(given: &LimitArgs) -> Limits {
    let mut limits = Limits::default();
    for limit in &given.limits {
        let whole = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        match *limit {
            Limit::Peers(number) => limits.peers = whole(number),
            Limit::Joins(number) => limits.joins = u32::try_from(number).unwrap_or(u32::MAX),
            Limit::Message(bytes) => limits.message = whole(bytes),
            Limit::Memory(bytes) => limits.memory = whole(bytes),
        }
    }
    limits
}
