//! `procession status`: what waits, runs and is done, and who is there.

use std::error::Error;
use std::io::Write;
use std::time::Duration;

use procession::pipeline::{State, status, status_with};
use procession::wire::runtime_dir;

use crate::access;
use crate::args::StatusArgs;
use crate::exit_code::ExitCode;

/// How long a run of this user's is asked, when all are.
const BRIEF: Duration = Duration::from_secs(2);

/// Runs the subcommand.
///
/// # Errors
/// With what is to be said.
pub fn run(args: StatusArgs) -> Result<ExitCode, Box<dyn Error>> {
    let reach = &args.reach;
    let states = if args.connect.is_none() && args.join.ticket.is_none() {
        own_runs()?
    } else {
        let joining = access::joining(args.connect.as_ref(), &args.join, reach)?;
        let (endpoint, patience) = (&joining.endpoint, reach.patience);
        vec![match joining.proof {
            Some(proof) => status_with(endpoint, patience, proof)?,
            None => status(endpoint, patience, reach.insecure)?,
        }]
    };
    let mut out = std::io::stdout().lock();
    let printed = if args.json {
        states.iter().try_for_each(|state| {
            serde_json::to_writer(&mut out, &json(state))?;
            writeln!(out)
        })
    } else if states.is_empty() {
        log::warn!("no run of this user's is there");
        Ok(())
    } else {
        states.iter().try_for_each(|state| print(&mut out, state))
    };
    match printed {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(ExitCode::Success),
    }
}

fn own_runs() -> procession::Result<Vec<State>> {
    let mut states = Vec::new();
    for control in runtime_dir::runs()? {
        let endpoint = format!("ipc://{}", control.display());
        match status(&endpoint, BRIEF, false) {
            Ok(state) => states.push(state),
            Err(error) => log::info!("{error}"),
        }
    }
    Ok(states)
}

/// One run in one line.
pub fn line(state: &State) -> String {
    let total = state
        .total
        .map_or(String::new(), |total| format!(" of {total}"));
    format!(
        "run {:016x} (process {} on {}): {} done{total}, {} failed, {} running, {} waiting, {} handed on or tried again, {:.1} s",
        state.run,
        state.pid,
        state.host,
        state.done,
        state.failed,
        state.running,
        state.waiting + state.leased.saturating_sub(state.running),
        state.again,
        state.seconds
    )
}

fn print(out: &mut impl Write, state: &State) -> std::io::Result<()> {
    writeln!(out, "{}", line(state))?;
    if !state.title.is_empty() {
        writeln!(out, "  {}", state.title)?;
    }
    for peer in &state.peers {
        let work = match (peer.role.as_str(), peer.slots) {
            ("sink", _) => String::new(),
            (_, 1) => format!("1 slot, {} running, {} leased, ", peer.running, peer.leased),
            (_, slots) => format!(
                "{slots} slots, {} running, {} leased, ",
                peer.running, peer.leased
            ),
        };
        writeln!(
            out,
            "  {:<6} {:016x}  process {} on {}: {work}{} done, {}",
            peer.role, peer.peer, peer.pid, peer.host, peer.done, peer.state
        )?;
    }
    Ok(())
}

fn json(state: &State) -> serde_json::Value {
    let peers: Vec<_> = state
        .peers
        .iter()
        .map(|peer| {
            serde_json::json!({
                "id": format!("{:016x}", peer.peer),
                "role": peer.role,
                "host": peer.host,
                "pid": peer.pid,
                "slots": peer.slots,
                "running": peer.running,
                "leased": peer.leased,
                "done": peer.done,
                "state": peer.state,
            })
        })
        .collect();
    serde_json::json!({
        "run": format!("{:016x}", state.run),
        "pid": state.pid,
        "host": state.host,
        "title": state.title,
        "seconds": state.seconds,
        "waiting": state.waiting,
        "leased": state.leased,
        "running": state.running,
        "done": state.done,
        "failed": state.failed,
        "total": state.total,
        "again": state.again,
        "turned_away": state.turned_away,
        "peers": peers,
    })
}
