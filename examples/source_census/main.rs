//! A census of the source files of this project's dependencies, by processes that work together: what `make demo` runs.
//!
//! For each file: its lines, how often each identifier is in it, and how far it can be compressed. A ventilator hands the files
//! out, workers run `source_census count` for every twenty or so, a sink gathers what they print; every one is a process of its own, the
//! `procession` command. One of the workers is killed on the way.
//!
//! ```text
//! make demo
//! ```
//!
//! You should see progress, a table of languages, the speed-up over one worker, and that all ways of counting agree.

use std::error::Error;
use std::ffi::OsStr;
use std::io::{self, BufRead, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use cast::{Cast, Plan};
use tally::{Census, Tally};

mod cast;
mod sources;
mod tally;

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// The number of the signal that asked for the end; 0 for none.
pub type Interrupt = Arc<AtomicI32>;

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args_os().skip(1).collect();
    let interrupt = Interrupt::default();
    let outcome = match words.as_slice() {
        [] => demo(&interrupt),
        [word] if word == "count" => count(),
        _ => Err("usage: source_census [count <FILES]".into()),
    };
    let signal = interrupt.load(Ordering::Relaxed);
    match outcome {
        // Of a program that a signal ended.
        _ if signal != 0 => ExitCode::from(128 + signal as u8),
        Ok(()) => ExitCode::SUCCESS,
        // Who reads our output has had enough.
        Err(error) if is_broken_pipe(&*error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("source_census: {error}");
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &(dyn Error + 'static)) -> bool {
    let error = error.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// One task: the files whose names stand on standard input, a line each.
fn count() -> Outcome {
    let mut out = io::stdout().lock();
    for name in io::stdin().lock().split(b'\n') {
        let name = name?;
        let file = Path::new(OsStr::from_bytes(&name));
        let tally = Tally::of(file).map_err(|error| format!("{}: {error}", file.display()))?;
        writeln!(out, "{tally}")?;
    }
    Ok(())
}

fn demo(interrupt: &Interrupt) -> Outcome {
    cast::listen(interrupt)?;
    let mut out = io::stdout();
    let files = sources::list()?;
    let folder = tempfile::Builder::new()
        .prefix("procession-demo-")
        .tempdir()?;
    let tasks = folder.path().join("files");
    sources::save(&files, &tasks)?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    writeln!(
        out,
        "{} source files of the dependencies are to be counted and compressed, on {cores} cores.\n",
        files.len()
    )?;

    writeln!(
        out,
        "1. In a single process, file by file, without procession."
    )?;
    let since = Instant::now();
    let mut alone = Census::default();
    let bar = indicatif::ProgressBar::new(files.len() as u64);
    for file in bar.wrap_iter(files.iter()) {
        if interrupt.load(Ordering::Relaxed) != 0 {
            return Ok(());
        }
        alone.add(Tally::of(file)?);
    }
    bar.finish_and_clear();
    let alone_took = since.elapsed();

    writeln!(
        out,
        "2. With a ventilator, one worker and a sink, each a process:\n\
         \x20  procession ventilator --bind ipc://DIR/census --bar --pipe --block 2K -a DIR/files source_census count\n\
         \x20  procession worker --connect ipc://DIR/census -j1\n\
         \x20  procession sink --connect ipc://DIR/census"
    )?;
    let one = Plan {
        folder: folder.path(),
        tasks: &tasks,
        files: files.len(),
        workers: 1,
        slots: 1,
        kill: false,
    };
    let (census, one_took) = Cast::start(&one, interrupt)?.gather(&one)?;
    let mut agree = census == alone;

    // The two workers that are left have a slot for each core.
    let many = Plan {
        workers: 3,
        slots: cores.div_ceil(2),
        kill: true,
        ..one
    };
    writeln!(
        out,
        "3. With a ventilator, {} workers (-j{}) and a sink; one worker is killed on the way.",
        many.workers, many.slots
    )?;
    let (census, many_took) = Cast::start(&many, interrupt)?.gather(&many)?;
    agree &= census == alone;

    writeln!(out, "\n{census}")?;
    let speed = |took: Duration| {
        format!(
            "{:6.1} s {:7.1} MB/s {:6.2} times one worker",
            took.as_secs_f64(),
            census.bytes() as f64 / 1e6 / took.as_secs_f64(),
            one_took.as_secs_f64() / took.as_secs_f64()
        )
    };
    writeln!(out, "a single process             {}", speed(alone_took))?;
    writeln!(out, "one worker                   {}", speed(one_took))?;
    writeln!(out, "3 workers, one of them killed{}\n", speed(many_took))?;
    if !agree {
        return Err("the three counts differ: results were lost or came twice".into());
    }
    writeln!(
        out,
        "All three counts are the same: nothing was lost and nothing came twice.\n\
         As a library, with tasks and results of types of one's own: see examples/typed_pipeline.rs"
    )?;
    Ok(())
}
