//! Counts words in several processes, in one dictionary. Where it is kept is the only argument, and nothing else depends on it.
//!
//! ```text
//! cargo run --example shared_dict                                        # held by this process
//! cargo run --example shared_dict sqlite:words.db?name=words             # in a file: run it twice, and it counts on
//! cargo run --example shared_dict redis://127.0.0.1/0?name=words
//! cargo run --example shared_dict postgres://user@127.0.0.1/db?name=words
//! cargo run --example shared_dict tcp://127.0.0.1:5557?name=words        # held by a program that has bound a Manager there
//! ```
//!
//! You see the watcher tell of changes (some of them together), and then the counts, each exact.

use procession::Process;
use procession::shared::{Change, Dict, Manager};

const TEXTS: [&str; 3] = [
    "the quick brown fox jumps over the lazy dog",
    "the dog sleeps and the fox jumps again",
    "over and over the fox jumps",
];

/// A child: counts the words of a text.
#[procession::task]
fn count_words(text: String, counts: Dict<String, u64>) -> procession::Result<()> {
    for word in text.split(' ') {
        // As one step: another process that counts the same word at this moment is not overwritten.
        counts.update(word, |count| Some(count.unwrap_or(0) + 1))?;
    }
    Ok(())
}

#[procession::main]
fn main() -> procession::Result<()> {
    let manager;
    let counts: Dict<String, u64> = match std::env::args().nth(1) {
        Some(url) => Dict::open(url)?,
        None => {
            manager = Manager::new()?;
            manager.dict()?
        }
    };
    let mut changes = counts.watch()?;
    let children: Vec<_> = TEXTS
        .iter()
        .map(|text| Process::spawn(count_words, ((*text).to_owned(), counts.clone())))
        .collect::<procession::Result<_>>()?;
    for child in children {
        child.join()?;
    }
    let mut told = 0;
    while let Some(change) = changes.try_recv()? {
        if let Change::Set { key, value } = change {
            println!("{key} is at {value}");
            told += 1;
        }
    }
    println!("{told} words have changed");
    let mut all = counts.iter().collect::<procession::Result<Vec<_>>>()?;
    all.sort_by(|one, other| other.1.cmp(&one.1).then_with(|| one.0.cmp(&other.0)));
    for (word, count) in &all[..3] {
        println!("{count} {word}");
    }
    Ok(())
}
