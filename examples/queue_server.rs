//! A queue for programs that do not share a parent: this one makes it and gets, `queue_client` puts.
//!
//! ```text
//! terminal 1:  cargo run --example queue_server -- tcp://127.0.0.1:5599
//! terminal 2:  cargo run --example queue_client -- tcp://127.0.0.1:5599 hello world
//! terminal 3:  cargo run --example queue_client -- tcp://127.0.0.1:5599 --last
//! ```
//!
//! You should see each word, and from which process on which host it came; after `--last` the server ends. Over two hosts the
//! endpoint is one that both reach: the end of a tunnel (`ssh -L`).

use procession::Queue;
use serde::{Deserialize, Serialize};

/// The same in `queue_client`: the two need not be one program.
#[derive(Debug, Serialize, Deserialize)]
struct Word {
    host: String,
    pid: u32,
    text: String,
}

#[procession::main]
fn main() -> procession::Result<()> {
    let endpoint = std::env::args().nth(1);
    let queue = Queue::<Word>::bind(endpoint.as_deref().unwrap_or("tcp://127.0.0.1:*"))?;
    println!("listening at {}", queue.endpoint());
    for word in queue.iter() {
        let word = word?;
        println!("{} (process {} on {})", word.text, word.pid, word.host);
    }
    println!("shut down");
    Ok(())
}
