//! The `procession` command: commands for lines of input, in parallel, on one machine or many.
//!
//! What was typed is read in `args`; what it means is in one file for each subcommand. All of it stands on the public library.

use std::process::ExitCode;

use crate::args::Action;

mod access;
mod allow;
mod args;
mod capture;
mod chaos;
mod commands;
mod executor;
mod exit_code;
mod feed;
mod filter;
mod gateway;
mod guarantees;
mod guardian;
mod input;
mod joblog;
mod journal;
mod json;
mod launch;
mod logging;
mod output;
mod process_group;
mod progress;
mod queue;
mod results;
mod resume;
mod run;
mod signals;
mod sink;
mod status;
mod stop;
mod ventilator;
mod worker;

fn main() -> ExitCode {
    let mut words = std::env::args_os();
    if words
        .nth(1)
        .is_some_and(|word| word == guardian::SUBCOMMAND)
    {
        return guardian::main(words);
    }
    let action = match args::parse(std::env::args_os()) {
        Ok(action) => action,
        Err(error) => return args::report(&error).into(),
    };
    if let Some(log) = action.log() {
        logging::start(action.name(), log.verbose, log.quiet);
    }
    let outcome = match action {
        Action::Run(args) => run::run(args),
        Action::Ventilator(args) => ventilator::run(args),
        Action::Worker(args) => worker::run(args),
        Action::Sink(args) => sink::run(args),
        Action::Queue(args) => queue::run(&args),
        Action::Gateway(args) => gateway::run(args),
        Action::Status(args) => status::run(args),
        Action::Guarantees(args) => guarantees::run(&args),
        Action::Keygen(args) => access::keygen(&args),
        Action::Guardian(args) => return guardian::main(args.words.into_iter()),
    };
    progress::take_down();
    match outcome {
        Ok(code) => code.into(),
        Err(error) => {
            log::error!("{error}");
            exit_code::ExitCode::Error.into()
        }
    }
}
