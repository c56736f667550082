//! How fast items go from one process to another: this library's queue, beside plain loops over ZeroMQ and beside the encoding alone.
//!
//! `queue_speed WAY ITEMS` prints items a second. The putter is this program run again. Ways: `queue`, `loop1` (one rmp-serde value a
//! message over PUSH/PULL), `loop64` (64 values a message), `codec` (encode, then decode, the slower of both).

use std::process::{Command, Stdio};
use std::time::Instant;

use procession::Queue;
use serde::{Deserialize, Serialize};

type Failure = Box<dyn std::error::Error>;

/// A small struct with a string.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Reading {
    number: u64,
    value: f64,
    place: String,
}

fn reading(number: u64) -> Reading {
    Reading {
        number,
        value: number as f64 / 3.0,
        place: "a small place".to_owned(),
    }
}

fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[1..] {
        ["put", way, endpoint, items] => put(way, endpoint, items.parse()?),
        [way, items] => get(way, items.parse()?),
        _ => Err("queue_speed queue|loop1|loop64|codec ITEMS".into()),
    }
}

/// Starts the putter.
fn putter(way: &str, endpoint: &str, items: u64) -> Result<std::process::Child, Failure> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["put", way, endpoint, &items.to_string()]);
    Ok(command.stdin(Stdio::piped()).spawn()?)
}

fn put(way: &str, endpoint: &str, items: u64) -> Result<(), Failure> {
    if way == "queue" {
        let queue = Queue::connect(endpoint)?;
        for number in 0..items {
            queue.put(reading(number))?;
        }
        queue.flush()?;
        return Ok(());
    }
    let socket = zmq::Context::new().socket(zmq::PUSH)?;
    socket.connect(endpoint)?;
    let each = if way == "loop64" { 64 } else { 1 };
    let mut buffer = Vec::new();
    for first in (0..items).step_by(each) {
        for number in first..items.min(first + each as u64) {
            rmp_serde::encode::write(&mut buffer, &reading(number))?;
        }
        socket.send(&buffer, 0)?;
        buffer.clear();
    }
    // A reader that is held up by its high-water mark loses what a closed connection still has: wait till it has all.
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    Ok(())
}

fn get(way: &str, items: u64) -> Result<(), Failure> {
    let seconds = match way {
        "codec" => codec(items)?,
        "queue" => {
            let queue: Queue<Reading> = Queue::new()?;
            let mut child = putter(way, &queue.endpoint(), items)?;
            assert_eq!(queue.get()?.number, 0);
            let since = Instant::now();
            for number in 1..items {
                assert_eq!(queue.get()?.number, number);
            }
            let seconds = since.elapsed().as_secs_f64();
            child.wait()?;
            seconds
        }
        way => {
            let dir = tempfile::tempdir()?;
            let endpoint = format!("ipc://{}/loop", dir.path().display());
            let socket = zmq::Context::new().socket(zmq::PULL)?;
            socket.bind(&endpoint)?;
            let mut child = putter(way, &endpoint, items)?;
            let mut seen = 0;
            let mut since = Instant::now();
            while seen < items {
                let message = socket.recv_msg(0)?;
                let mut rest: &[u8] = &message;
                while !rest.is_empty() {
                    let item: Reading = rmp_serde::decode::from_read(&mut rest)?;
                    assert_eq!(item.number, seen);
                    seen += 1;
                }
                if seen <= 64 {
                    since = Instant::now();
                }
            }
            let seconds = since.elapsed().as_secs_f64();
            drop(child.stdin.take());
            child.wait()?;
            seconds
        }
    };
    println!("{:.0}", items as f64 / seconds);
    Ok(())
}

/// The slower of encoding and decoding.
fn codec(items: u64) -> Result<f64, Failure> {
    let mut buffer = Vec::new();
    let since = Instant::now();
    for number in 0..items {
        buffer.clear();
        rmp_serde::encode::write(&mut buffer, &reading(std::hint::black_box(number)))?;
    }
    let encoding = since.elapsed();
    let since = Instant::now();
    for _ in 0..items {
        let item: Reading = rmp_serde::from_slice(std::hint::black_box(&buffer))?;
        std::hint::black_box(item);
    }
    Ok(encoding.max(since.elapsed()).as_secs_f64())
}
