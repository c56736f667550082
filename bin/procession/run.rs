//! `procession run`: all three roles in one process; others may join.

use std::error::Error;

use procession::Body;
use procession::command::CommandResult;
use procession::pipeline::{Journal, Sink, Ventilator, Worker};

use crate::access;
use crate::args::RunArgs;
use crate::args::options::OutputArgs;
use crate::args::quantity::Jobs;
use crate::chaos::{Ledger, Meeting};
use crate::commands::Commands;
use crate::exit_code::ExitCode;
use crate::journal::{self, Opened};
use crate::output::{Gathered, Keeping, Output};
use crate::resume::Resume;
use crate::stop::{Level, Stop};
use crate::{feed, sink, ventilator, worker};

/// Where the three roles meet.
const HERE: &str = "inproc://run";

/// Runs the subcommand.
///
/// # Errors
/// With what is to be said.
pub fn run(args: RunArgs) -> Result<ExitCode, Box<dyn Error>> {
    let job = feed::job(&args.input)?;
    let input = feed::open(&args.input)?;
    let rehearsal = args.chaos.chaos.map(Meeting::new).transpose()?;
    let journal = match journal::open(&args.journal, &journal::subject("run", &args.input))? {
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
    .bind_also(HERE);
    if let Some(meeting) = &rehearsal {
        builder = builder.bind_also(meeting.endpoint());
    }
    let resume = match &args.output.joblog {
        Some(log) if args.resume || args.retry_failed => {
            Some(Resume::read(&log.path, &job, args.retry_failed)?)
        }
        _ => None,
    };
    if let Some(resume) = &resume {
        let (done, failed) = resume.done();
        builder = builder.done_before(done, failed);
    }
    if let Some(bind) = &args.bind {
        feed::between_processes(bind)?;
        builder = builder.bind_also(bind);
    }
    builder = builder.limits(access::limits(&args.limits));
    if args.tickets.ticket_out.is_some() {
        builder = builder.ticket();
    }
    let ventilator: Ventilator<Body> = builder.start()?;
    let _ticket = access::write(args.tickets.ticket_out.as_ref(), &ventilator)?;
    ventilator::say_port(args.bind.as_deref().unwrap_or_default(), &ventilator);
    let handle = ventilator.handle();
    let stop = Stop::new()?;
    let kill = stop.clone();
    ventilator::listen(
        handle.clone(),
        Some(Box::new(move || kill.raise(Level::Kill))),
    )?;
    let mut sink: Sink<CommandResult> =
        sink_builder(&args, &ventilator, journal.as_ref(), rehearsal.is_some()).connect(HERE)?;
    let keeping = Keeping {
        restartable: journal.is_some(),
        sync: args.journal.journal_sync,
    };
    let mut output = Output::open(output_args(&args), &mut sink, keeping)?;

    // With --bind, -j0 leaves the work to others.
    let local = args.bind.is_none() || args.jobs.jobs != Jobs::Unlimited;
    let crew = match (&rehearsal, local) {
        (Some(meeting), true) => {
            let most = input.tasks_total().filter(|_| args.bind.is_none());
            Some(meeting.start(worker::slots(args.jobs.jobs, most), args.common.words())?)
        }
        _ => None,
    };
    let working = match local && crew.is_none() {
        true => Some(start_worker(
            &args,
            &ventilator,
            input.tasks_total(),
            job,
            &stop,
        )?),
        false => None,
    };
    let guardian = match working {
        Some(_) => None,
        None => ventilator::guard(&ventilator),
    };
    if let (Some(guardian), Some(meeting)) = (&guardian, &rehearsal) {
        guardian.remove_on_death(meeting.folder());
    }
    let reading = feed::start(input, ventilator.putter(), handle.clone(), resume)?;
    let watching = ventilator::watch(args.common.bar, handle.clone(), reading.clone());

    let gathered = output.gather(&mut sink, |_| {});
    let doubles = sink.doubles_dropped();
    let mut failure = None;
    match gathered {
        Ok(Gathered::Closed) => sink.close_and_end("the output was closed")?,
        Ok(_) => sink.close()?,
        Err(error) => {
            handle.halt(255);
            handle.kill();
            stop.raise(Level::Kill);
            failure = Some(error);
            sink.close_and_end("the results cannot be kept")?;
        }
    }
    let summary = ventilator.wait();
    if let Some(crew) = crew {
        let handle = crew.handle();
        crew.finish();
        if let (Ok(summary), Some(meeting)) = (&summary, &rehearsal) {
            let ledger = Ledger::new(summary, output.written(), doubles);
            meeting.say(&ledger, handle.done());
        }
    }
    let mut filter_failed = false;
    if let Some(working) = working {
        match working.join() {
            Ok(Ok(failed)) => filter_failed = failed,
            Ok(Err(error)) => log::error!("{error}"),
            Err(_) => log::error!("the worker's thread panicked"),
        }
    }
    watching.stop();
    drop(guardian);
    if let Some(error) = failure {
        return Err(error);
    }
    let summary = summary?;
    output.finish()?;
    reading.say_unfinished(&summary);
    let code = feed::exit_code(summary.failed, summary.cause);
    let code = if reading.has_failed() || filter_failed {
        code.merge(ExitCode::Error)
    } else {
        code
    };
    journal::finish(journal.as_ref(), &summary, code)?;
    Ok(code)
}

/// With --resume the log goes on behind what is there.
fn output_args(args: &RunArgs) -> OutputArgs {
    let mut output = args.output.clone();
    if let Some(log) = &mut output.joblog {
        log.append |= args.resume || args.retry_failed;
    }
    output
}

/// The sink listens where workers from elsewhere can reach it as well.
fn sink_builder(
    args: &RunArgs,
    ventilator: &Ventilator<Body>,
    journal: Option<&Journal>,
    to_processes: bool,
) -> procession::pipeline::SinkBuilder {
    use procession::Endpoint;
    let builder = sink::builder(&args.output, &args.common, journal);
    let builder = match to_processes {
        true => builder.bind(results_here(ventilator)),
        false => builder,
    };
    let outside = args
        .bind
        .as_ref()
        .and_then(|_| ventilator.endpoints().last());
    match outside {
        Some(Endpoint::Ipc(_)) => builder.bind(results_here(ventilator)),
        Some(Endpoint::Tcp { host, .. }) => builder.gather_on(host.clone()),
        _ => builder,
    }
}

/// Where worker processes of this host bring results.
fn results_here(ventilator: &Ventilator<Body>) -> String {
    let results = ventilator.private_dir().join("results");
    format!("ipc://{}", results.display())
}

/// The local worker, in a thread of its own.
fn start_worker(
    args: &RunArgs,
    ventilator: &Ventilator<Body>,
    tasks: Option<u64>,
    job: procession::command::Job,
    stop: &Stop,
) -> Result<std::thread::JoinHandle<procession::Result<bool>>, Box<dyn Error>> {
    let on_kill = stop.clone();
    // Others may take tasks that come late, so only without --bind does the number of tasks bound that of the slots.
    let most = tasks.filter(|_| args.bind.is_none());
    let worker = Worker::builder()
        .slots(worker::slots(args.jobs.jobs, most))
        .patience(args.common.reach.patience)
        .on_kill(move || on_kill.raise(Level::Kill))
        .connect(HERE)?;
    let commands = Commands::new(&worker, job, stop.clone());
    if let Some(guardian) = commands.guardian() {
        ventilator::protect(guardian, ventilator);
    }
    Ok(std::thread::Builder::new()
        .name("worker".to_owned())
        .spawn(move || commands.serve(worker).map(|_| commands.filter_failed()))?)
}
