//! Puts its arguments into the queue of `queue_server`, which says what to type.
//!
//! You should see how many words were handed over. `--last` shuts the queue down: the server takes what is left, and ends.

use procession::Queue;
use serde::{Deserialize, Serialize};

/// The same in `queue_server`: the two need not be one program.
#[derive(Debug, Serialize, Deserialize)]
struct Word {
    host: String,
    pid: u32,
    text: String,
}

#[procession::main]
fn main() -> procession::Result<()> {
    let mut args = std::env::args().skip(1);
    let Some(endpoint) = args.next() else {
        eprintln!("usage: queue_client ENDPOINT [WORD… | --last]");
        std::process::exit(2);
    };
    let queue = Queue::<Word>::connect(&endpoint)?;
    let words: Vec<String> = args.collect();
    if words == ["--last"] {
        return queue.shutdown();
    }
    let host = rustix::system::uname();
    let host = host.nodename().to_string_lossy();
    let count = queue.put_many(words.into_iter().map(|text| Word {
        host: host.clone().into_owned(),
        pid: std::process::id(),
        text,
    }))?;
    queue.flush()?;
    println!("{count} words handed over");
    Ok(())
}
