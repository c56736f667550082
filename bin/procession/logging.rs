//! Messages to stderr: short lines such as `procession worker: warning: …`.
//!
//! stdout carries results and nothing else. The level is `RUST_LOG`'s if that is set, else what
//! `-v` and `-q` say; times are printed from `-v` on. Lines go through [`progress::suspend`], so
//! that they do not garble the bar.

use std::fmt::Arguments;
use std::io::{self, Write};

use env_logger::{Builder, Target, WriteStyle};
use log::{Level, LevelFilter};

use crate::progress;

/// Starts logging. The `subcommand` is named in each line; only `run`, which is all roles, is not.
///
/// A second call changes nothing.
pub fn start(subcommand: &str, verbose: u8, quiet: bool) {
    let prefix = match subcommand {
        "run" => "procession".to_owned(),
        role => format!("procession {role}"),
    };
    let colour = progress::wants_colour();
    let timed = verbose > 0;
    let mut builder = Builder::new();
    // An empty RUST_LOG is as none, not as "nothing at all".
    match std::env::var("RUST_LOG") {
        Ok(filters) if !filters.trim().is_empty() => builder.parse_filters(&filters),
        _ => builder.filter_level(level(verbose, quiet)),
    };
    builder.target(Target::Pipe(Box::new(Stderr)));
    // Of a pipe env_logger cannot know that it ends at a terminal.
    builder.write_style(if colour {
        WriteStyle::Always
    } else {
        WriteStyle::Never
    });
    builder.format(move |out, record| {
        if timed {
            let timestamp = out.timestamp_millis();
            write!(out, "{timestamp} ")?;
        }
        writeln!(
            out,
            "{}",
            text(&prefix, record.level(), record.args(), colour)
        )
    });
    let _ = builder.try_init();
}

/// What `-v` and `-q` say.
fn level(verbose: u8, quiet: bool) -> LevelFilter {
    match (quiet, verbose) {
        (true, _) => LevelFilter::Error,
        (_, 0) => LevelFilter::Warn,
        (_, 1) => LevelFilter::Info,
        (_, 2) => LevelFilter::Debug,
        _ => LevelFilter::Trace,
    }
}

fn text(prefix: &str, level: Level, message: &Arguments<'_>, colour: bool) -> String {
    let (word, paint) = match level {
        Level::Error => ("error", "\x1b[1;31m"),
        Level::Warn => ("warning", "\x1b[1;33m"),
        Level::Info => ("info", "\x1b[32m"),
        Level::Debug => ("debug", "\x1b[34m"),
        Level::Trace => ("trace", "\x1b[2m"),
    };
    if colour {
        format!("{prefix}: {paint}{word}:\x1b[0m {message}")
    } else {
        format!("{prefix}: {word}: {message}")
    }
}

/// stderr, with the bar out of the way.
struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // The whole line at once: several processes may write to one terminal.
        progress::suspend(|| io::stderr().write_all(bytes))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_option_has_its_level() {
        let rows = [
            (0, false, LevelFilter::Warn),
            (1, false, LevelFilter::Info),
            (2, false, LevelFilter::Debug),
            (3, false, LevelFilter::Trace),
            (200, false, LevelFilter::Trace),
            (0, true, LevelFilter::Error),
        ];
        for (verbose, quiet, expected) in rows {
            assert_eq!(level(verbose, quiet), expected, "{verbose} {quiet}");
        }
    }

    #[test]
    fn a_line_names_the_role_and_the_level() {
        assert_eq!(
            text(
                "procession worker",
                Level::Warn,
                &format_args!("lost {}", 3),
                false
            ),
            "procession worker: warning: lost 3"
        );
        assert_eq!(
            text("procession", Level::Error, &format_args!("x"), true),
            "procession: \x1b[1;31merror:\x1b[0m x"
        );
    }
}
