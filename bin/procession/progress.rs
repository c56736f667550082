//! `--bar`: how far the run is, on stderr. On a terminal a bar, elsewhere a plain line now and
//! then; without `--bar` nothing.
//!
//! While a bar is drawn, whatever else writes to the terminal must go through [`suspend`], or the
//! two garble each other. The logger does.

use std::io::{IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

mod line;
mod speed;

use line::{last_line, line};
use speed::Speed;

/// Where the run stands.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// Tasks that have ended, failed ones included
    pub done: u64,
    /// Tasks that have failed
    pub failed: u64,
    /// Tasks that were read and not started
    pub waiting: u64,
    /// Tasks that run
    pub running: u64,
    /// Worker processes
    pub workers: u64,
    /// All tasks, once the input has ended
    pub total: Option<u64>,
    /// The part of the input's bytes that was read, where its size is known
    pub fraction: Option<f64>,
}

impl Snapshot {
    /// All tasks: counted, or estimated by how much of the input those so far were.
    fn expected(&self) -> Option<u64> {
        let read = self.done + self.running + self.waiting;
        self.total.or_else(|| {
            let fraction = self.fraction.filter(|fraction| *fraction > 0.0)?;
            // The cast saturates; never fewer than were read.
            Some(((read as f64 / fraction) as u64).max(read))
        })
    }
}

/// Shows progress; one for a process.
pub struct Progress {
    display: Display,
    speed: Speed,
}

enum Display {
    Nothing,
    Bar(ProgressBar),
    Lines { next: Instant },
}

impl Progress {
    /// Between plain lines: often enough to see life, seldom enough for a log file.
    const LINE_INTERVAL: Duration = Duration::from_secs(15);

    /// Begins to show progress on stderr, if it is `wanted` (`--bar`).
    pub fn new(wanted: bool, now: Instant) -> Self {
        let display = if !wanted {
            Display::Nothing
        } else if draws_bars() {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.set_style(style(false, wants_colour()));
            *lock_bar() = Some(bar.clone());
            Display::Bar(bar)
        } else {
            Display::Lines {
                next: now + Self::LINE_INTERVAL,
            }
        };
        Self {
            display,
            speed: Speed::new(now),
        }
    }

    /// Whether [`show`](Self::show) does anything, so that nobody need gather a snapshot for it.
    pub fn is_shown(&self) -> bool {
        !matches!(self.display, Display::Nothing)
    }

    /// Shows how it stands now. To be called about once a second or more often: it draws no more
    /// than is useful.
    pub fn show(&mut self, snapshot: &Snapshot, now: Instant) {
        if !self.is_shown() {
            return;
        }
        self.speed.observe(snapshot.done, now);
        match &mut self.display {
            Display::Nothing => {}
            Display::Bar(bar) => draw(bar, snapshot, &self.speed),
            Display::Lines { next } if now >= *next => {
                *next = now + Self::LINE_INTERVAL;
                print(&line(snapshot, self.speed.rate(), self.speed.eta(snapshot)));
            }
            Display::Lines { .. } => {}
        }
    }

    /// Takes the bar away and leaves one line that says how it ended.
    pub fn finish(&mut self, snapshot: &Snapshot, now: Instant) {
        match std::mem::replace(&mut self.display, Display::Nothing) {
            Display::Nothing => return,
            Display::Bar(_) => take_down(),
            Display::Lines { .. } => {}
        }
        print(&last_line(
            snapshot,
            now.saturating_duration_since(self.speed.start),
        ));
    }
}

impl Drop for Progress {
    /// An end by an error must not leave half a bar behind.
    fn drop(&mut self) {
        if let Display::Bar(_) = &self.display {
            take_down();
        }
    }
}

/// Takes the bar away for good, if one is drawn: also to be called before `process::exit`.
pub fn take_down() {
    let bar = lock_bar().take();
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
}

/// Takes the bar, if one is drawn, off the terminal while `write` writes to it.
///
/// `write` must not log or call this again: the bar is locked meanwhile.
pub fn suspend<R>(write: impl FnOnce() -> R) -> R {
    let bar = lock_bar().clone();
    match bar {
        Some(bar) => bar.suspend(write),
        None => write(),
    }
}

/// The bar that is drawn now. Global, because the terminal is.
static BAR: Mutex<Option<ProgressBar>> = Mutex::new(None);

fn lock_bar() -> std::sync::MutexGuard<'static, Option<ProgressBar>> {
    BAR.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether stderr can show a bar. indicatif would draw nothing elsewhere, not even a line.
fn draws_bars() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("TERM").is_some_and(|term| term != "dumb")
}

/// Whether colour is welcome on stderr: a terminal that can, and no `NO_COLOR`.
pub fn wants_colour() -> bool {
    draws_bars() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn print(line: &str) {
    // A closed stderr is no reason to end a run.
    let _ = writeln!(std::io::stderr(), "procession: {line}");
}

fn draw(bar: &ProgressBar, snapshot: &Snapshot, speed: &Speed) {
    let length = snapshot.expected();
    if bar.length().is_some() != length.is_some() {
        bar.set_style(style(length.is_some(), wants_colour()));
    }
    if let Some(length) = length {
        bar.set_length(length);
    }
    bar.set_message(line(snapshot, speed.rate(), speed.eta(snapshot)));
    bar.set_position(snapshot.done);
}

/// The message is cut at the terminal's edge: a bar of two lines could not be redrawn in place.
fn style(known: bool, colour: bool) -> ProgressStyle {
    let template = match (known, colour) {
        (true, true) => "{bar:20.cyan/blue} {percent:>3}%  {wide_msg}",
        (true, false) => "{bar:20} {percent:>3}%  {wide_msg}",
        (false, true) => "{spinner:.cyan} {wide_msg}",
        (false, false) => "{spinner} {wide_msg}",
    };
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("#>-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_estimate_is_never_below_what_was_read() {
        let read = Snapshot {
            done: 10,
            fraction: Some(1.0),
            ..Snapshot::default()
        };
        assert_eq!(read.expected(), Some(10));
        assert_eq!(
            Snapshot {
                fraction: Some(7.0),
                ..read
            }
            .expected(),
            Some(10)
        );
        assert_eq!(
            Snapshot {
                fraction: Some(0.0),
                ..read
            }
            .expected(),
            None
        );
    }

    #[test]
    fn nothing_is_shown_unasked() {
        let now = Instant::now();
        let mut progress = Progress::new(false, now);
        assert!(!progress.is_shown());
        progress.show(&Snapshot::default(), now);
        progress.finish(&Snapshot::default(), now);
        assert_eq!(suspend(|| 7), 7);
    }

    #[test]
    fn no_plain_line_comes_at_the_start() {
        let now = Instant::now();
        let mut progress = Progress {
            display: Display::Lines {
                next: now + Progress::LINE_INTERVAL,
            },
            speed: Speed::new(now),
        };
        progress.show(&Snapshot::default(), now);
        let Display::Lines { next } = progress.display else {
            panic!("it shows lines");
        };
        assert_eq!(next, now + Progress::LINE_INTERVAL);
    }
}
