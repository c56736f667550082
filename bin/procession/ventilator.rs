//! `procession ventilator`: hands out tasks to the workers that connect.

use std::error::Error;
use std::time::{Duration, Instant};

use procession::pipeline::{Ventilator, VentilatorHandle};

use crate::access;
use crate::args::VentilatorArgs;
use crate::exit_code::ExitCode;
use crate::feed::{self, Reading};
use crate::guardian::Guardian;
use crate::journal::{self, Opened};
use crate::progress::Progress;
use crate::signals::{self, Ending, Order};

/// Runs the subcommand.
///
/// # Errors
/// With what is to be said.
pub fn run(args: VentilatorArgs) -> Result<ExitCode, Box<dyn Error>> {
    let place = args.queue.or(args.bind).unwrap_or_default();
    feed::between_processes(&place)?;
    let job = feed::job(&args.input)?;
    let input = feed::open(&args.input)?;
    let journal = match journal::open(&args.journal, &journal::subject("ventilator", &args.input))?
    {
        Opened::Run(journal) => journal,
        Opened::Finished(code) => return Ok(code),
    };
    let mut builder = feed::builder(
        &args.input,
        &args.common,
        args.advertise.as_deref(),
        &job,
        journal.as_ref(),
    )?
    .bind_also(&place)
    .limits(access::limits(&args.limits));
    if args.tickets.ticket_out.is_some() {
        builder = builder.ticket();
    }
    let ventilator: Ventilator<procession::Body> = builder.start()?;
    let _ticket = access::write(args.tickets.ticket_out.as_ref(), &ventilator)?;
    say_port(&place, &ventilator);
    let guardian = guard(&ventilator);
    let handle = ventilator.handle();
    listen(handle.clone(), None)?;
    let reading = feed::start(input, ventilator.putter(), handle.clone(), None)?;
    let watching = watch(args.common.bar, handle, reading.clone());
    let summary = ventilator.wait();
    watching.stop();
    drop(guardian);
    let summary = summary?;
    reading.say_unfinished(&summary);
    let code = feed::exit_code(summary.failed, summary.cause);
    journal::finish(journal.as_ref(), &summary, code)?;
    Ok(code)
}

/// A port that was left to us to choose is said, whatever the level: nobody could come otherwise.
pub fn say_port(bind: &str, ventilator: &Ventilator<procession::Body>) {
    if let (true, Some(endpoint)) = (bind.ends_with(":*"), ventilator.endpoints().last()) {
        eprintln!("procession: listening at {endpoint}");
    }
}

/// A guardian that removes the run's sockets should we be killed.
pub fn guard(ventilator: &Ventilator<procession::Body>) -> Option<Guardian> {
    let guardian = Guardian::start("").ok()?;
    protect(&guardian, ventilator);
    Some(guardian)
}

/// Has the run's private directory, and sockets elsewhere, removed should we be killed.
pub fn protect(guardian: &Guardian, ventilator: &Ventilator<procession::Body>) {
    if !ventilator.private_dir().as_os_str().is_empty() {
        guardian.remove_on_death(ventilator.private_dir());
    }
    for path in ventilator.endpoints().iter().filter_map(|e| e.path()) {
        guardian.remove_socket_on_death(path);
    }
}

/// Signals: the first stops the handing out, the second kills what runs; `kill` does that here.
pub fn listen(
    handle: VentilatorHandle,
    kill: Option<Box<dyn Fn() + Send>>,
) -> Result<(), Box<dyn Error>> {
    let mut ending = Ending::default();
    signals::listen(move |event| match ending.on(event) {
        Some(Order::PrintStatus) => {
            let state = handle.state();
            eprintln!("{}", crate::status::line(&state));
        }
        Some(order @ (Order::StartNoMore | Order::Drain)) => {
            let code = ending.exit_code().map_or(255, ExitCode::status);
            let running = handle.state().running;
            let next = signals::to_kill(order, "them");
            log::warn!("stopping: nothing more is started, {running} that run may finish; {next}");
            handle.halt(code.saturating_sub(128));
        }
        Some(Order::Kill) => {
            log::warn!("killing what runs");
            handle.kill();
            if let Some(kill) = &kill {
                kill();
            }
        }
        None => {}
    })?;
    Ok(())
}

/// Draws progress in a thread of its own until it is stopped.
pub struct Watching {
    stop: std::sync::mpsc::Sender<()>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Watching {
    /// Draws the end, and stops.
    pub fn stop(mut self) {
        drop(self.stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Starts to draw progress, when it is wanted.
pub fn watch(wanted: bool, handle: VentilatorHandle, reading: Reading) -> Watching {
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let thread = wanted.then(|| {
        std::thread::spawn(move || {
            let mut progress = Progress::new(true, Instant::now());
            while stopped.recv_timeout(Duration::from_millis(200))
                == Err(std::sync::mpsc::RecvTimeoutError::Timeout)
            {
                progress.show(&reading.snapshot(&handle), Instant::now());
            }
            progress.finish(&reading.snapshot(&handle), Instant::now());
        })
    });
    Watching { stop, thread }
}
