//! Ventilator, workers and sink as four processes, with tasks and results of types of one's own.
//!
//! A year of thermometer readings in degrees Fahrenheit goes out, degrees Celsius come back, and the sink keeps each
//! station's coldest and warmest day.
//!
//! ```text
//! cargo run --release --example typed_pipeline                 all four processes, a million readings
//! cargo run --release --example typed_pipeline -- 5000000      as many as you like
//! ```
//!
//! Or in four terminals, started in any order (each with `cargo run --release --example typed_pipeline --` before it):
//!
//! ```text
//! ventilator ipc:///tmp/readings 1000000
//! worker ipc:///tmp/readings
//! worker ipc:///tmp/readings
//! sink ipc:///tmp/readings
//! ```
//!
//! You should see a table of stations, and behind it how many readings went through in a second.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::Write;
use std::process::{Child, Command};
use std::time::Instant;

use procession::pipeline::{Journal, Sink, Ventilator, Worker};
use serde::{Deserialize, Serialize};

/// A task.
#[derive(Deserialize, Serialize)]
struct Reading {
    day: u32,
    fahrenheit: i32,
    station: String,
}

/// A result.
#[derive(Deserialize, Serialize)]
struct Converted {
    day: u32,
    millicelsius: i32,
    station: String,
}

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

const STATIONS: [&str; 6] = ["Bergen", "Cusco", "Dakar", "Hobart", "Oulu", "Yakutsk"];

/// The reading of that number: weather that is the same in every run.
fn reading(number: u64) -> Reading {
    let noise = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 57;
    let place = (number % STATIONS.len() as u64) as usize;
    Reading {
        day: (number / STATIONS.len() as u64 % 365) as u32 + 1,
        fahrenheit: 20 + noise as i32 - 10 * place as i32,
        station: STATIONS[place].to_owned(),
    }
}

fn convert(reading: Reading) -> Converted {
    Converted {
        day: reading.day,
        millicelsius: (reading.fahrenheit - 32) * 5000 / 9,
        station: reading.station,
    }
}

/// With a journal it may be killed and started again, and goes on where it was.
fn ventilator(endpoint: &str, readings: u64, journal: Option<&str>) -> Outcome {
    let journal = match journal {
        Some(file) => Some(Journal::open(file, "a year of readings")?),
        None => None,
    };
    let mut builder = Ventilator::<()>::builder(endpoint);
    if let Some(journal) = &journal {
        builder = builder.journal(journal);
    }
    let ventilator = builder.start::<Reading>()?;
    for number in 0..readings {
        ventilator.put(reading(number))?;
    }
    // Waits until each has its result, then sends the poison pill.
    ventilator.finish()?;
    if let Some(journal) = journal {
        journal.finish(0)?;
    }
    Ok(())
}

fn worker(endpoint: &str) -> Outcome {
    let end = Worker::connect(endpoint)?.run(convert)?;
    eprintln!("a worker did {} readings", end.tasks);
    Ok(())
}

#[derive(Default)]
struct Extremes {
    readings: u64,
    coldest: Option<(i32, u32)>,
    warmest: Option<(i32, u32)>,
}

fn sink(endpoint: &str) -> Outcome {
    let mut stations: BTreeMap<String, Extremes> = BTreeMap::new();
    let mut since = None;
    let mut readings = 0_u64;
    for outcome in Sink::<Converted>::connect(endpoint)? {
        since.get_or_insert_with(Instant::now);
        let converted = outcome?.result?;
        readings += 1;
        let seen = (converted.millicelsius, converted.day);
        if !stations.contains_key(&converted.station) {
            stations.insert(converted.station.clone(), Extremes::default());
        }
        if let Some(station) = stations.get_mut(&converted.station) {
            station.readings += 1;
            // Of equals the first day, whichever came first: the table does not depend on who was faster.
            let colder = station.coldest.is_none_or(|coldest| seen < coldest);
            let (warmth, day) = seen;
            let warmer = station
                .warmest
                .is_none_or(|(most, first)| warmth > most || warmth == most && day < first);
            station.coldest = if colder { Some(seen) } else { station.coldest };
            station.warmest = if warmer { Some(seen) } else { station.warmest };
        }
    }
    let seconds = since.map_or(0.0, |since| since.elapsed().as_secs_f64());
    let mut out = std::io::stdout().lock();
    writeln!(out, "station     readings      coldest          warmest")?;
    for (name, station) in &stations {
        let say = |seen: Option<(i32, u32)>| {
            let (millicelsius, day) = seen.unwrap_or_default();
            format!("{:6.1} °C day {day:3}", f64::from(millicelsius) / 1000.0)
        };
        writeln!(
            out,
            "{name:9} {:10}  {}  {}",
            station.readings,
            say(station.coldest),
            say(station.warmest)
        )?;
    }
    writeln!(
        out,
        "{readings} readings in {seconds:.3} s: {:.0} a second",
        readings as f64 / seconds.max(1e-9)
    )?;
    Ok(())
}

/// This program again, in another role.
fn start(
    role: &str,
    endpoint: &str,
    readings: u64,
    journal: Option<&str>,
) -> std::io::Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args([role, endpoint]);
    if role == "ventilator" {
        command.arg(readings.to_string()).args(journal);
    }
    command.spawn()
}

fn all_four(readings: u64, journal: Option<&str>) -> Outcome {
    let folder = tempfile::tempdir()?;
    let endpoint = format!("ipc://{}", folder.path().join("readings").display());
    let mut processes = Vec::new();
    for role in ["sink", "worker", "worker", "ventilator"] {
        processes.push((role, start(role, &endpoint, readings, journal)?));
    }
    for (role, mut process) in processes {
        let status = process.wait()?;
        if !status.success() {
            return Err(format!("the {role} failed: {status}").into());
        }
    }
    Ok(())
}

fn main() -> Outcome {
    const READINGS: u64 = 1_000_000;
    // Who comes and goes is told to the log: RUST_LOG=info shows it.
    env_logger::init();
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        [] => all_four(READINGS, None),
        ["ventilator", endpoint] => ventilator(endpoint, READINGS, None),
        ["ventilator", endpoint, readings] => ventilator(endpoint, readings.parse()?, None),
        ["ventilator", endpoint, readings, journal] => {
            ventilator(endpoint, readings.parse()?, Some(journal))
        }
        ["worker", endpoint] => worker(endpoint),
        ["sink", endpoint] => sink(endpoint),
        [readings] => all_four(readings.parse()?, None),
        [readings, journal] => all_four(readings.parse()?, Some(journal)),
        _ => Err("usage: typed_pipeline [READINGS [JOURNAL] | ventilator ENDPOINT [READINGS [JOURNAL]] | worker ENDPOINT | sink ENDPOINT]".into()),
    }
}
