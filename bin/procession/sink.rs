//! `procession sink`: gathers the results of a ventilator's tasks.

use std::error::Error;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use procession::command::CommandResult;
use procession::pipeline::{Cause, Journal, Sink, SinkHandle};

use crate::access;
use crate::args::SinkArgs;
use crate::args::options::{CommonArgs, OutputArgs};
use crate::exit_code::ExitCode;
use crate::feed;
use crate::guardian::Guardian;
use crate::journal::{self, Opened};
use crate::output::{Gathered, Keeping, Output};
use crate::progress::{Progress, Snapshot};
use crate::signals::{self, Ending, Order};

/// Runs the subcommand.
///
/// # Errors
/// With what is to be said.
pub fn run(args: SinkArgs) -> Result<ExitCode, Box<dyn Error>> {
    let joining = access::joining(
        args.connect.as_ref().or(args.queue.as_ref()),
        &args.join,
        &args.common.reach,
    )?;
    if let Some(bind) = &args.bind {
        feed::between_processes(bind)?;
    }
    let journal = match journal::open(&args.journal, "sink")? {
        Opened::Run(journal) => journal,
        Opened::Finished(code) => return Ok(code),
    };
    let handle: Arc<Mutex<Option<SinkHandle>>> = Arc::default();
    let exit: Arc<Mutex<Option<ExitCode>>> = Arc::default();
    listen(Arc::clone(&handle), Arc::clone(&exit))?;
    // Held to the end: it removes our sockets should we be killed.
    let guardian: Arc<Mutex<Option<Guardian>>> = Arc::default();
    let starting = Arc::clone(&guardian);
    let bind = args.bind.clone();
    let mut builder =
        builder(&args.output, &args.common, journal.as_ref()).on_dial(move |dialling| {
            *starting.lock().unwrap_or_else(PoisonError::into_inner) =
                guard(dialling.private_dir(), bind.as_deref());
            *handle.lock().unwrap_or_else(PoisonError::into_inner) = Some(dialling);
        });
    if let Some(bind) = &args.bind {
        builder = builder.bind(bind);
    }
    if let Some(proof) = joining.proof {
        builder = builder.proof(proof);
    }
    let told = || {
        exit.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .unwrap_or_default()
    };
    let mut sink: Sink<CommandResult> = match builder.connect(&joining.endpoint) {
        Ok(sink) => sink,
        // Told to leave while it looked for the queue.
        Err(procession::Error::Ended(_)) => return Ok(told()),
        Err(error) => return Err(error.into()),
    };
    if sink.run_id() == 0 {
        // The run ended before we came, or we were told to leave while we waited.
        return Ok(told().merge(match sink.end() {
            Some((cause, _, failed)) => of_pill(cause, failed),
            None => ExitCode::Success,
        }));
    }
    let knows_what_was_kept = args.output.joblog.is_some() || journal.is_some();
    if args.queue.is_some() && sink.is_resumed() && !knows_what_was_kept {
        return Err("this run has had a sink, and what that one has kept only its --joblog or --journal knows; \
                    start this one with the same, or the run under another name"
            .into());
    }
    let mut output = Output::open(
        args.output,
        &mut sink,
        Keeping {
            restartable: true,
            sync: args.journal.journal_sync,
        },
    )?;
    let mut progress = Progress::new(args.common.bar, Instant::now());
    let mut done = sink.done_before().len();
    let gathered = output.gather(&mut sink, |results| {
        done += results;
        let snapshot = Snapshot {
            done,
            ..Snapshot::default()
        };
        progress.show(&snapshot, Instant::now());
    })?;
    let code = match gathered {
        Gathered::Pill(cause, failed) => {
            output.finish()?;
            sink.close()?;
            let code = of_pill(cause, failed);
            if let (Some(journal), Cause::AllDone) = (&journal, cause) {
                journal.finish(code.status())?;
            }
            code
        }
        Gathered::Left => {
            sink.close()?;
            ExitCode::Success
        }
        Gathered::Closed => {
            sink.close_and_end("the sink's output was closed")?;
            ExitCode::Success
        }
    };
    Ok(told().merge(code))
}

/// A guardian that removes the sink's sockets should we be killed.
fn guard(dir: Option<&Path>, bind: Option<&str>) -> Option<Guardian> {
    let bound = bind.and_then(|bind| bind.strip_prefix("ipc://"));
    if dir.is_none() && bound.is_none() {
        return None;
    }
    let guardian = Guardian::start("").ok()?;
    if let Some(dir) = dir {
        guardian.remove_on_death(dir);
    }
    if let Some(socket) = bound {
        guardian.remove_socket_on_death(Path::new(socket));
    }
    Some(guardian)
}

/// A sink as the options want it.
pub fn builder(
    output: &OutputArgs,
    common: &CommonArgs,
    journal: Option<&Journal>,
) -> procession::pipeline::SinkBuilder {
    let mut builder = Sink::builder()
        .keep_order(output.keep_order)
        .keep_by_hand()
        .patience(common.reach.patience)
        .insecure(common.reach.insecure);
    if let Some(journal) = journal {
        builder = builder.journal(journal);
    }
    if let Some(ports) = &common.lane_ports {
        builder = builder.lane_ports(*ports.start(), *ports.end());
    }
    builder
}

fn of_pill(cause: Cause, failed: u64) -> ExitCode {
    match cause {
        Cause::Signal(number) => feed::exit_code(failed, number),
        Cause::Error => feed::exit_code(failed, 255),
        _ => feed::exit_code(failed, 0),
    }
}

fn listen(
    handle: Arc<Mutex<Option<SinkHandle>>>,
    exit: Arc<Mutex<Option<ExitCode>>>,
) -> std::io::Result<()> {
    let mut ending = Ending::default();
    signals::listen(move |event| {
        let order = ending.on(event);
        *exit.lock().unwrap_or_else(PoisonError::into_inner) = ending.exit_code();
        match order {
            Some(Order::StartNoMore | Order::Drain) => {
                log::warn!("leaving: results wait for another sink");
                if let Some(handle) = &*handle.lock().unwrap_or_else(PoisonError::into_inner) {
                    handle.leave();
                }
            }
            Some(Order::Kill) => {
                // It may hang in a write that nobody reads; nothing is lost that was not acknowledged.
                crate::progress::take_down();
                let code = ending.exit_code().unwrap_or(ExitCode::Error);
                std::process::exit(code.status().into());
            }
            Some(Order::PrintStatus) | None => {}
        }
    })
}
