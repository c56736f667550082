//! `procession queue`: hosts queues by name.

use std::error::Error;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use procession::{Endpoint, Leftover, QueueHost};

use crate::access;
use crate::args::QueueArgs;
use crate::exit_code::ExitCode;
use crate::feed;
use crate::guardian::Guardian;
use crate::signals::{self, Ending, Order};

/// How often it is looked whether the host serves.
const GLANCE: Duration = Duration::from_millis(200);

/// How long an endpoint is tried that is in use.
const PATIENCE: Duration = Duration::from_secs(2);

/// Runs the subcommand.
///
/// # Errors
/// With what is to be said.
pub fn run(args: &QueueArgs) -> Result<ExitCode, Box<dyn Error>> {
    let (tell, told) = mpsc::channel();
    let mut ending = Ending::default();
    // Before anything listens: a signal that comes early is not to leave anything behind.
    signals::listen(move |event| {
        let order = ending.on(event);
        // Nobody hears it who has ended.
        let _ = tell.send((order, ending.exit_code()));
    })?;
    let host = start(args)?;
    let _guardian = guard(&host);
    for endpoint in host.endpoints() {
        // Said at any level: a port may have been left to us to choose.
        eprintln!("procession: listening at {endpoint}");
    }
    let before: Vec<_> = host.queues();
    if let (Some(journal), false) = (&args.journal, before.is_empty()) {
        let items: u64 = before.iter().map(|queue| queue.unfinished).sum();
        log::warn!(
            "going on with journal {}: {items} items in {} queues",
            journal.display(),
            before.len()
        );
    }
    let code = loop {
        match told.recv_timeout(GLANCE) {
            Ok((Some(Order::PrintStatus), _)) => print_status(&host),
            Ok((Some(_), code)) => break code,
            Ok((None, _)) => {}
            Err(RecvTimeoutError::Timeout) => host.check()?,
            Err(RecvTimeoutError::Disconnected) => break None,
        }
    };
    log::info!("ending: members are told");
    say_left(&host.shutdown()?);
    Ok(code.unwrap_or_default())
}

fn start(args: &QueueArgs) -> Result<QueueHost, Box<dyn Error>> {
    let mut builder = QueueHost::builder()
        .limits(access::limits(&args.limits))
        .queues(usize::try_from(args.queues)?)
        .forget_after(args.forget)
        .heartbeat(args.heartbeat)
        .insecure(args.insecure)
        .journal_sync(args.journal_sync);
    for bind in &args.bind {
        feed::between_processes(bind)?;
        builder = builder.bind(bind);
    }
    if let Some(keys) = &args.keys {
        builder = builder.keys(procession::keys::Keys::open(keys)?);
    }
    if let Some(ports) = &args.lane_ports {
        builder = builder.lane_ports(*ports.start(), *ports.end());
    }
    if let Some(journal) = &args.journal {
        builder = builder.journal(journal);
    }
    let began = Instant::now();
    loop {
        match builder.clone().start() {
            // What a killed host has left at a path may be cleaned up at this moment.
            Err(procession::Error::Bind { .. })
                if args.journal.is_some() && began.elapsed() < PATIENCE =>
            {
                std::thread::sleep(GLANCE);
            }
            started => return Ok(started?),
        }
    }
}

/// A guardian that removes sockets at paths of the user's should we be killed. Those in the private directory are removed by the next program
/// that listens.
fn guard(host: &QueueHost) -> Option<Guardian> {
    let paths = || host.endpoints().iter().filter_map(Endpoint::path);
    paths().next()?;
    let guardian = Guardian::start("").ok()?;
    for path in paths() {
        guardian.remove_socket_on_death(path);
    }
    Some(guardian)
}

fn print_status(host: &QueueHost) {
    for queue in host.queues() {
        eprintln!(
            "queue {}: {} items, {} not done with, {} members{}{}",
            queue.name,
            queue.items,
            queue.unfinished,
            queue.members,
            match queue.maxsize {
                0 => String::new(),
                maxsize => format!(", maxsize {maxsize}"),
            },
            if queue.shut_down { ", shut down" } else { "" }
        );
    }
}

fn say_left(left: &Leftover) {
    match (left.items, left.kept) {
        (0, _) => {}
        (items, true) => log::warn!(
            "{items} items in {} queues are kept in the journal",
            left.queues
        ),
        (items, false) => log::warn!(
            "{items} items in {} queues are dropped; --journal FILE keeps them",
            left.queues
        ),
    }
}
