//! The ways in which a program can end, and what becomes of its processes: a worker, and a daemon.
//!
//! ```text
//! cargo run --example endings -- return    main returns: the worker is joined, the daemon is ended, exit code 0
//! cargo run --example endings -- error     main returns an error: it is printed, then the same, exit code 1
//! cargo run --example endings -- code      main returns an exit code: the same, exit code 42
//! cargo run --example endings -- panic     main panics: the same, exit code 101
//! cargo run --example endings -- exit      main calls std::process::exit: the worker is ended too, exit code 7
//! cargo run --example endings -- killed    main is killed: the worker is ended too, exit code 137 in a shell
//! ```
//!
//! You should see "worker: done" in the first four, and "daemon: done" in none.

use std::io::Write;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use procession::Process;

#[procession::task]
fn work() {
    sleep(Duration::from_millis(300));
    println!("worker: done");
}

#[procession::task]
fn serve() {
    sleep(Duration::from_secs(3600));
    println!("daemon: done");
}

#[procession::main]
fn main() -> Result<ExitCode, String> {
    let way = std::env::args().nth(1).unwrap_or_default();
    let told = |error: procession::Error| error.to_string();
    let worker = Process::builder()
        .name("worker")
        .spawn(work, ())
        .map_err(told)?;
    let daemon = Process::builder()
        .name("daemon")
        .daemon(true)
        .spawn(serve, ())
        .map_err(told)?;
    println!("pids {} {}", worker.pid(), daemon.pid());
    match way.as_str() {
        "return" => Ok(ExitCode::SUCCESS),
        "error" => Err("no more of this".to_owned()),
        "code" => Ok(ExitCode::from(42)),
        "panic" => panic!("all is lost"),
        "exit" => std::process::exit(7),
        "killed" => {
            let _ = std::io::stdout().flush();
            let _ = rustix::process::kill_process(
                rustix::process::getpid(),
                rustix::process::Signal::KILL,
            );
            unreachable!("SIGKILL cannot be caught")
        }
        _ => Err("usage: endings return | error | code | panic | exit | killed".to_owned()),
    }
}
