//! `procession guarantees`: what a queue of that URL promises, and what it does not.

use std::error::Error;
use std::io::Write;

use procession::engine::{self, Address};

use crate::args::GuaranteesArgs;
use crate::exit_code::ExitCode;

/// One URL of each engine, by which it is asked.
const ENGINES: [&str; 4] = [
    "tcp://localhost:1",
    "redis://localhost",
    "amqp://localhost",
    "beanstalk://localhost",
];
/// A line is not longer than this, if its words allow it.
const WIDTH: usize = 100;

/// Runs the subcommand.
///
/// # Errors
/// A bad URL.
pub fn run(args: &GuaranteesArgs) -> Result<ExitCode, Box<dyn Error>> {
    let urls = match args.urls.is_empty() {
        true => ENGINES.map(str::to_owned).to_vec(),
        false => args.urls.clone(),
    };
    let mut text = String::new();
    for url in urls {
        let address: Address = url.parse()?;
        let promised = engine::guarantees(&address)?;
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(promised.engine);
        text.push('\n');
        for (about, what) in promised.rows() {
            text.push_str(&paragraph(about, what));
        }
    }
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        // Nobody reads on.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(ExitCode::Success),
        written => written.map(|()| ExitCode::Success).map_err(Into::into),
    }
}

/// A row of the table, its text in lines behind what it is about.
fn paragraph(about: &str, what: &str) -> String {
    let mut text = format!("  {about:<11}");
    let margin = text.len();
    let mut at = margin;
    for word in what.split_whitespace() {
        if at > margin && at + 1 + word.len() > WIDTH {
            text.push('\n');
            text.push_str(&" ".repeat(margin));
            at = margin;
        }
        text.push(' ');
        text.push_str(word);
        at += 1 + word.len();
    }
    text.push('\n');
    text
}
