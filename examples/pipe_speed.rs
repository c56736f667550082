//! How fast a pipe between two processes is, for the table of speeds; `scripts/pipe_speed.py` measures Python's.
//!
//! ```text
//! cargo run --release --example pipe_speed            all of it
//! cargo run --release --example pipe_speed -- quick   a tenth
//! ```
//!
//! You should see the median time of a round trip of 64 bytes, how many small values go through in a second, and how many bytes
//! in messages of 1 MiB and of 64 MiB.

use std::time::Instant;

use procession::{Connection, Pipe, Process};

type Blind = Connection<u64, u64>;

#[procession::task]
fn echo(connection: Blind) -> procession::Result<()> {
    let mut buffer = [0; 64];
    while let Ok(len) = connection.recv_bytes_into(&mut buffer) {
        connection.send_bytes(&buffer[..len])?;
    }
    Ok(())
}

#[procession::task]
fn count(connection: Blind, values: u64) -> procession::Result<()> {
    let mut sum = 0;
    for _ in 0..values {
        sum += connection.recv()?;
    }
    connection.send(&sum)
}

#[procession::task]
fn drain(connection: Blind, len: usize, messages: u64) -> procession::Result<()> {
    let mut buffer = vec![0; len];
    for _ in 0..messages {
        connection.recv_bytes_into(&mut buffer)?;
    }
    connection.send(&messages)
}

#[procession::main]
fn main() -> procession::Result<()> {
    let scale = match std::env::args().nth(1).as_deref() {
        Some("quick") => 10,
        _ => 1,
    };

    let (here, there) = Pipe::new()?;
    let process = Process::spawn(echo, (there,))?;
    let message = [7; 64];
    let mut buffer = [0; 64];
    let mut times = Vec::new();
    for _ in 0..20_000 / scale {
        let since = Instant::now();
        here.send_bytes(&message)?;
        here.recv_bytes_into(&mut buffer)?;
        times.push(since.elapsed());
    }
    times.sort();
    here.close();
    process.join()?;
    println!(
        "round trip of 64 bytes: {:.1} µs",
        times[times.len() / 2].as_secs_f64() * 1e6
    );

    let values = 1_000_000 / scale as u64;
    let (here, there) = Pipe::new()?;
    let process = Process::spawn(count, (there, values))?;
    here.poll(std::time::Duration::from_millis(50))?;
    let since = Instant::now();
    for value in 0..values {
        here.send(&value)?;
    }
    here.recv()?;
    println!(
        "values: {:.2} M/s",
        values as f64 / since.elapsed().as_secs_f64() / 1e6
    );
    process.join()?;

    for (len, messages) in [(1 << 20, 2_000), (64 << 20, 50)] {
        let messages = (messages / scale as u64).max(3);
        let (here, there) = Pipe::new()?;
        let process = Process::spawn(drain, (there, len, messages))?;
        here.poll(std::time::Duration::from_millis(50))?;
        let buffer = vec![7; len];
        let since = Instant::now();
        for _ in 0..messages {
            here.send_bytes(&buffer)?;
        }
        here.recv()?;
        let bytes = (len as u64 * messages) as f64;
        println!(
            "messages of {} MiB: {:.2} GB/s",
            len >> 20,
            bytes / since.elapsed().as_secs_f64() / 1e9
        );
        process.join()?;
    }
    Ok(())
}
