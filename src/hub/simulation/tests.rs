//! Thousands of seeds; one that is named; and seeds for as long as one likes.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::course::{Course, Figures};

/// What a seed comes to; why it failed.
fn simulate(seed: u64) -> Result<Figures, String> {
    let result = catch_unwind(AssertUnwindSafe(|| {
        let mut course = Course::new(seed);
        course.run()
    }));
    match result {
        Ok(result) => result,
        Err(panic) => Err(crate::registry::panics::text_of(panic)),
    }
}

/// With `RUST_LOG` set, what the loops log, with the process and the virtual time.
struct Log;

impl log::Log for Log {
    fn enabled(&self, metadata: &log::Metadata) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &log::Record) {
        if let Some((process, time)) = super::network::whereabouts() {
            println!(
                "{:.6} {process} {}: {}",
                time.as_secs_f64() - 86400.0,
                record.level(),
                record.args()
            );
        }
    }

    fn flush(&self) {}
}

fn log_if_wanted() {
    let level = std::env::var("RUST_LOG")
        .ok()
        .and_then(|level| level.parse().ok());
    if let Some(level) = level
        && log::set_boxed_logger(Box::new(Log)).is_ok()
    {
        log::set_max_level(level);
    }
}

#[test]
fn first() {
    let from = std::env::var("SEED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1u64);
    let count = std::env::var("SEEDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(100u64);
    log_if_wanted();
    let mut failed = 0;
    let began = std::time::Instant::now();
    for seed in from..from + count {
        let since = std::time::Instant::now();
        let result = simulate(seed);
        if since.elapsed() > Duration::from_millis(500) {
            println!(
                "seed {seed} took {:?}: {result:?} {:?}",
                since.elapsed(),
                super::plan::Plan::new(seed).workers
            );
        }
        if let Err(why) = result {
            failed += 1;
            println!("seed {seed}: {why}");
            if count == 1 {
                println!("{:?}", super::plan::Plan::new(seed));
            }
            if failed > 20 {
                break;
            }
        }
    }
    println!("{:?}", began.elapsed());
    assert_eq!(failed, 0);
}
