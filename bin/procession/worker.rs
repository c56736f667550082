//! `procession worker`: runs the tasks of a ventilator.

use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};

use procession::command::{Job, Template};
use procession::pipeline::{Cause, Worker, WorkerHandle};
use rustix::process::Signal;

use crate::access;
use crate::allow::Allowed;
use crate::args::WorkerArgs;
use crate::args::options::TicketFile;
use crate::args::quantity::Jobs;
use crate::chaos::{self, Crew, Faults, Rehearsal};
use crate::commands::Commands;
use crate::exit_code::ExitCode;
use crate::signals::{self, Ending, Order};
use crate::stop::{Level, Stop};

/// Runs the subcommand.
///
/// # Errors
/// With what is to be said.
pub fn run(args: WorkerArgs) -> Result<ExitCode, Box<dyn Error>> {
    if let Some(faults) = args.chaos.chaos {
        if args.join.ticket == Some(TicketFile::Standard) {
            return Err("with --chaos there are several workers, and one standard input: give --ticket the name of a file".into());
        }
        return rehearse(&args, faults);
    }
    let joining = access::joining(
        args.connect.as_ref().or(args.queue.as_ref()),
        &args.join,
        &args.common.reach,
    )?;
    let stop = Stop::new()?;
    let handle: Arc<Mutex<Option<WorkerHandle>>> = Arc::default();
    let exit: Arc<Mutex<Option<ExitCode>>> = Arc::default();
    listen(Arc::clone(&handle), Arc::clone(&exit))?;
    let on_kill = stop.clone();
    let mut builder = Worker::builder();
    if let Some(proof) = joining.proof {
        builder = builder.proof(proof);
    }
    let worker = builder
        .slots(slots(args.jobs.jobs, None))
        .patience(args.common.reach.patience)
        .insecure(args.common.reach.insecure)
        .on_kill(move || on_kill.raise(Level::Kill))
        .on_dial(move |dialling| {
            *handle.lock().unwrap_or_else(PoisonError::into_inner) = Some(dialling);
        })
        .connect(&joining.endpoint);
    let worker = match worker {
        Ok(worker) => worker,
        // Told to leave while it looked for the queue.
        Err(procession::Error::Ended(_)) => return Ok(exit_code(&exit)),
        Err(error) => return Err(error.into()),
    };
    let mut job = match worker.job::<Job>() {
        Ok(job) => job,
        // The run ended before we came, or we were told to leave while we waited.
        Err(procession::Error::Encoding { .. }) => return Ok(exit_code(&exit)),
        Err(error) => return Err(error.into()),
    };
    if !args.command.is_empty() {
        job.template = Template::parse(&args.command);
        if let Some(warning) = job.template.warning() {
            log::warn!("{warning}");
        }
    }
    let rehearsal = match args.rehearse {
        Some(faults) => Some(Rehearsal::begin(faults, &worker)?),
        None => None,
    };
    let commands = Commands::new(&worker, job, stop)
        .allowing(Allowed::new(args.allow))
        .rehearsing(rehearsal);
    let end = commands.serve(worker)?;
    log::info!("{} tasks ran here", end.tasks);
    if end.cause == Some(Cause::Error) {
        log::warn!("the ventilator gave up");
    }
    Ok(exit_code(&exit))
}

/// `--chaos`: the same worker as several processes, whose faults are rehearsed.
fn rehearse(args: &WorkerArgs, faults: Faults) -> Result<ExitCode, Box<dyn Error>> {
    let faults = faults.seeded(chaos::random_seed());
    let crew = Crew::start(slots(args.jobs.jobs, None), faults, args.words())?;
    let handle = crew.handle();
    let exit: Arc<Mutex<Option<ExitCode>>> = Arc::default();
    let exits = Arc::clone(&exit);
    let leaving = handle.clone();
    let mut ending = Ending::default();
    signals::listen(move |event| {
        let order = ending.on(event);
        *exits.lock().unwrap_or_else(PoisonError::into_inner) = ending.exit_code();
        match order {
            Some(Order::PrintStatus) => eprintln!("procession worker: chaos: {}", leaving.done()),
            // As each of them takes it: first and second.
            Some(_) => leaving.end(Signal::TERM),
            None => {}
        }
    })?;
    let ended_well = crew.join();
    eprintln!(
        "procession worker: chaos: {} (seed {})",
        handle.done(),
        faults.seed()
    );
    let code = exit_code(&exit);
    Ok(if ended_well {
        code
    } else {
        code.merge(ExitCode::Error)
    })
}

fn exit_code(exit: &Mutex<Option<ExitCode>>) -> ExitCode {
    exit.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .unwrap_or_default()
}

fn listen(
    handle: Arc<Mutex<Option<WorkerHandle>>>,
    exit: Arc<Mutex<Option<ExitCode>>>,
) -> std::io::Result<()> {
    let mut ending = Ending::default();
    signals::listen(move |event| {
        let order = ending.on(event);
        *exit.lock().unwrap_or_else(PoisonError::into_inner) = ending.exit_code();
        let handle = handle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        match (order, handle) {
            (Some(Order::PrintStatus), Some(handle)) => {
                eprintln!("procession worker: {} tasks ran here", handle.ran());
            }
            (Some(order @ (Order::StartNoMore | Order::Drain)), Some(handle)) => {
                let next = signals::to_kill(order, "it");
                log::warn!("leaving: what runs is finished, the rest goes to others; {next}");
                handle.leave();
            }
            (Some(Order::Kill), Some(handle)) => {
                log::warn!("killing what runs");
                handle.kill();
            }
            _ => {}
        }
    })
}

/// How many slots: at most as many as there are tasks, where that is known.
pub fn slots(jobs: Jobs, tasks: Option<u64>) -> u32 {
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
    let slots = jobs.resolve(cores).unwrap_or_else(as_many_as_possible);
    let most = tasks.map_or(u64::MAX, |tasks| tasks.max(1));
    u32::try_from(u64::from(slots).min(most)).unwrap_or(slots)
}

/// What the limits of open files and processes allow, and a thousand at most: each is a thread here.
fn as_many_as_possible() -> u32 {
    use rustix::process::{Resource, getrlimit};
    const EACH_OPENS: u64 = 8;
    let files = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let processes = getrlimit(Resource::Nproc).current.unwrap_or(u64::MAX);
    let most = (files / EACH_OPENS).min(processes / 2).clamp(1, 1000);
    u32::try_from(most).unwrap_or(1)
}
