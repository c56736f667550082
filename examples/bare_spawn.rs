//! What a machine can do at most: commands started with `posix_spawn` and waited for, some at a time, and nothing else.
//!
//! `make bench` puts it beside `procession run`, which does the same and keeps account of it.
//!
//! ```text
//! cargo run --release --example bare_spawn -- 5000 2 true      5,000 times `true`, two at a time
//! ```
//!
//! You should see how many were started in a second.

use std::error::Error;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [times, at_a_time, program, arguments @ ..] = words.as_slice() else {
        return Err("usage: bare_spawn TIMES AT_A_TIME PROGRAM [ARGUMENT]...".into());
    };
    let (times, at_a_time): (u64, usize) = (times.parse()?, at_a_time.parse()?);
    let started = AtomicU64::new(0);
    let since = Instant::now();
    std::thread::scope(|scope| -> std::io::Result<()> {
        let threads: Vec<_> = (0..at_a_time)
            .map(|_| {
                scope.spawn(|| -> std::io::Result<()> {
                    while started.fetch_add(1, Ordering::Relaxed) < times {
                        Command::new(program)
                            .args(arguments)
                            .stdin(Stdio::null())
                            .status()?;
                    }
                    Ok(())
                })
            })
            .collect();
        for thread in threads {
            thread
                .join()
                .map_err(|_| std::io::Error::other("a thread panicked"))??;
        }
        Ok(())
    })?;
    println!(
        "{:.0} a second",
        times as f64 / since.elapsed().as_secs_f64()
    );
    Ok(())
}
