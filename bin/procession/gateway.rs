//! `procession gateway`: a queue, for programs in any language that Thrift knows.
//!
//! | file | what it is |
//! |---|---|
//! | `gateway/server` | connections: how many, how long a message may be and take |
//! | `gateway/session` | what one client asks for, by the queue's means |
//! | `gateway/results` | results of tasks, until they are asked for |
//! | `gateway/procession` | what the Thrift compiler makes of `thrift/procession.thrift`; a test says when it is stale |

use std::error::Error;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::Arc;
use std::sync::mpsc;

use procession::engine::Address;

use crate::access;
use crate::args::GatewayArgs;
use crate::exit_code::ExitCode;
use crate::signals::{self, Ending, Order};

// As the compiler has written it, but for what the compiler of Rust says of it.
#[allow(dead_code, missing_docs, unused, unexpected_cfgs, clippy::all)]
#[rustfmt::skip]
#[path = "gateway/procession.rs"]
mod api;
mod results;
mod server;
mod session;

use server::Server;
use session::Gateway;

/// Runs the subcommand.
///
/// # Errors
/// With what is to be said.
pub fn run(args: GatewayArgs) -> Result<ExitCode, Box<dyn Error>> {
    let (tell, told) = mpsc::channel();
    let mut ending = Ending::default();
    signals::listen(move |event| {
        let order = ending.on(event);
        // Nobody hears it who has ended.
        let _ = tell.send((order, ending.exit_code()));
    })?;
    crate::feed::between_processes(&args.queue)?;
    let results = match &args.results {
        Some(url) => Some(url.clone()),
        None => results_of(&args.queue),
    };
    let listener = TcpListener::bind(&*addresses(&args)?)
        .map_err(|error| format!("cannot listen at {}: {error}", args.thrift))?;
    let keys = access::keys(&args.reach)?;
    let gateway = Arc::new(Gateway::open(
        &args.queue,
        results,
        keys,
        args.reach.insecure,
        args.reach.patience,
    )?);
    let server = Server {
        gateway: Arc::clone(&gateway),
        clients: usize::try_from(args.clients)?,
        message: usize::try_from(args.message)?,
    };
    eprintln!("procession: listening at {}", listener.local_addr()?);
    // It ends with the process.
    let _ = std::thread::Builder::new()
        .name("thrift".to_owned())
        .spawn(move || server.serve(&listener))?;
    for (order, code) in told {
        match order {
            Some(Order::PrintStatus) => eprintln!("{}", gateway.line()),
            Some(_) => {
                log::info!("ending: what clients hold and are not done with goes to others");
                return Ok(code.unwrap_or_default());
            }
            None => {}
        }
    }
    Ok(ExitCode::Success)
}

/// The queue of results beside a queue, if that has a name.
fn results_of(url: &str) -> Option<String> {
    let (server, _) = url.split_once('?')?;
    let address: Address = url.parse().ok()?;
    (!address.queue.is_empty()).then(|| format!("{server}?queue={}.results", address.queue))
}

/// Where to listen.
fn addresses(args: &GatewayArgs) -> Result<Vec<SocketAddr>, String> {
    let at = match args.thrift.strip_suffix(":*") {
        Some(host) => format!("{host}:0"),
        None => args.thrift.clone(),
    };
    let found: Vec<SocketAddr> = at
        .to_socket_addrs()
        .map_err(|error| {
            format!(
                "--thrift {}: {error}; write HOST:PORT, for instance 127.0.0.1:9090",
                args.thrift
            )
        })?
        .collect();
    if !args.reach.insecure && found.iter().any(|address| !address.ip().is_loopback()) {
        return Err(format!(
            "{} can be reached from other machines, and Thrift neither encrypts nor asks who comes: anyone who reaches it could put items and take them; \
             take 127.0.0.1:PORT, and a tunnel from elsewhere (ssh -L); or --insecure on a network where everyone is trusted",
            args.thrift
        ));
    }
    Ok(found)
}
