//! The same program on every engine: pages are fetched (so to say) by several processes, wherever their addresses are kept.
//!
//! ```text
//! cargo run --example any_engine                                                no server: a host of queues in this process
//! cargo run --example any_engine -- 'redis://127.0.0.1:6379/0?queue=pages'
//! cargo run --example any_engine -- 'amqp://guest:guest@127.0.0.1:5672/%2f?queue=pages'
//! cargo run --example any_engine -- 'beanstalk://127.0.0.1:11300?queue=pages'
//! cargo run --example any_engine -- 'tcp://127.0.0.1:5557?queue=pages'         beside: procession queue --bind tcp://127.0.0.1:5557
//! ```
//!
//! You should see `12 pages, 171 letters` whatever the engine is.

use std::error::Error;

use procession::engine::Address;
use procession::{JoinableQueue, Process, Queue, QueueHost};
use serde::{Deserialize, Serialize};

/// A page, when it was fetched.
#[derive(Debug, Deserialize, Serialize)]
struct Page {
    address: String,
    letters: usize,
}

/// Takes addresses until there are no more.
#[procession::task]
fn fetch(addresses: JoinableQueue<String>, pages: Queue<Page>) -> Result<(), String> {
    for address in addresses.iter() {
        let address = address.map_err(|error| error.to_string())?;
        let letters = address.len();
        let page = Page { address, letters };
        pages.put(page).map_err(|error| error.to_string())?;
        // Before it is done with: dead in between, another process would fetch it again.
        pages.flush().map_err(|error| error.to_string())?;
        addresses.task_done().map_err(|error| error.to_string())?;
    }
    Ok(())
}

#[procession::main]
fn main() -> Result<(), Box<dyn Error>> {
    let mut host = None;
    let url = match std::env::args().nth(1) {
        Some(url) => url,
        None => {
            let here = QueueHost::bind("tcp://127.0.0.1:*")?;
            host.insert(here).url("pages")
        }
    };
    let address: Address = url.parse()?;
    let found = address.named(&format!("{}.found", address.queue));
    let addresses: JoinableQueue<String> = JoinableQueue::open(&url)?;
    let pages: Queue<Page> = Queue::open(&found.url())?;
    let fetchers = [1, 2, 3].map(|_| Process::spawn(fetch, (addresses.clone(), pages.clone())));
    for number in 1..=12 {
        addresses.put(format!("https://{number}.org/"))?;
    }
    addresses.join()?;
    addresses.shutdown()?;
    for fetcher in fetchers {
        fetcher?.join()?;
    }
    pages.shutdown()?;
    let (mut count, mut letters) = (0, 0);
    for page in &pages {
        let page = page?;
        assert!(page.address.starts_with("https://"));
        count += 1;
        letters += page.letters;
    }
    println!("{count} pages, {letters} letters");
    Ok(())
}
