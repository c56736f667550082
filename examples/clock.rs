//! Two clocks in processes of their own, made in both ways: a function that is called with arguments, and a type with a `run` method.
//!
//! ```text
//! cargo run --example clock              every three seconds, until Ctrl-C
//! cargo run --example clock -- 2         two ticks each
//! cargo run --example clock -- 2 0.5     two ticks each, half a second apart
//! ```
//!
//! You should see the time (UTC) told by each of them, and with a number of ticks, how many each has told. `thread_clock` is the same
//! program with threads; it differs by the word `thread` in one line.

use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use procession::process::{Process, Run, current_process};
use serde::{Deserialize, Serialize};

/// Without a number of ticks it never ends.
#[procession::task]
fn clock(interval: f64, ticks: Option<u64>) -> u64 {
    tell_time(interval, ticks)
}

#[derive(Deserialize, Serialize)]
struct ClockProcess {
    interval: f64,
    ticks: Option<u64>,
}

#[procession::process]
impl Run for ClockProcess {
    fn run(self) -> u64 {
        tell_time(self.interval, self.ticks)
    }
}

fn tell_time(interval: f64, ticks: Option<u64>) -> u64 {
    let this = current_process();
    let mut told = 0;
    while ticks.is_none_or(|ticks| told < ticks) {
        println!("{}: the time is {}", this.name(), time_of_day());
        told += 1;
        sleep(Duration::from_secs_f64(interval));
    }
    told
}

fn time_of_day() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let seconds = since.map_or(0, |since| since.as_secs()) % 86_400;
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    format!("{hours:02}:{minutes:02}:{:02}", seconds % 60)
}

#[procession::main]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut words = std::env::args().skip(1);
    let ticks = words.next().map(|word| word.parse()).transpose()?;
    let interval = words.next().map_or(Ok(3.0), |word| word.parse())?;

    let function = Process::spawn(clock, (interval, ticks))?;
    let process = ClockProcess { interval, ticks }.start()?;

    println!(
        "{} told the time {} times",
        function.name(),
        function.join()?
    );
    println!("{} told the time {} times", process.name(), process.join()?);
    Ok(())
}
