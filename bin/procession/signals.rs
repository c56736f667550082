//! Signals: how the user ends a run, and how each of them is answered.
//!
//! SIGINT comes through `ctrlc`; SIGTERM, SIGHUP and SIGUSR1 through `signal-hook`, because `ctrlc`
//! does not say which signal it was. Both call the same closure, from threads of their own: it may
//! do what any thread may. SIGPIPE stays ignored, as Rust leaves it, so a closed pipe is an error
//! of the write that met it.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::Signal;

use crate::exit_code::ExitCode;

/// What arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// SIGINT: Ctrl-C
    Interrupt,
    /// SIGTERM
    Terminate,
    /// SIGHUP: the terminal went away
    HangUp,
    /// SIGUSR1: say how things stand
    Status,
}

/// What is to be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Start nothing more, finish what runs, exit with the signal's code
    StartNoMore,
    /// Hand out nothing more, finish what runs, report, exit with the signal's code
    Drain,
    /// Kill what runs, now
    Kill,
    /// Print the status
    PrintStatus,
}

/// How far the end has come: the first Ctrl-C or SIGTERM drains, the second of either kills.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ending {
    stage: Stage,
    exit: Option<ExitCode>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Running,
    StartingNoMore,
    Draining,
    Killed,
}

impl Ending {
    /// Takes an event in and says what to do, if anything new.
    pub fn on(&mut self, event: Event) -> Option<Order> {
        let (stage, order, exit) = match (event, self.stage) {
            (Event::Status, _) => return Some(Order::PrintStatus),
            (_, Stage::Killed) => return None,
            (Event::HangUp, Stage::Running) => (
                Stage::StartingNoMore,
                Order::StartNoMore,
                Some(ExitCode::HungUp),
            ),
            (Event::HangUp, _) => return None,
            (Event::Interrupt | Event::Terminate, Stage::Draining) => {
                (Stage::Killed, Order::Kill, self.exit)
            }
            (Event::Interrupt, _) => (
                Stage::Draining,
                Order::Drain,
                self.exit.or(Some(ExitCode::Interrupted)),
            ),
            (Event::Terminate, _) => (
                Stage::Draining,
                Order::Drain,
                self.exit.or(Some(ExitCode::Terminated)),
            ),
        };
        self.stage = stage;
        self.exit = exit;
        Some(order)
    }

    /// How to exit: by the signal that began the end; `None` while no signal ends the run.
    pub fn exit_code(&self) -> Option<ExitCode> {
        self.exit
    }
}

/// How what runs can be killed after an order that lets it finish: a second SIGHUP does not do that.
pub fn to_kill(order: Order, what: &str) -> String {
    match order {
        Order::StartNoMore => format!("Ctrl-C twice to kill {what}"),
        _ => format!("once more to kill {what}"),
    }
}

/// Calls `on_event` for each signal, one at a time, from now on until the process ends.
///
/// Once in a process: a second call is an error. A SIGHUP that was ignored when the program
/// started (`nohup`) stays ignored. An ignored SIGINT does not: a shell script ignores it for what
/// it starts with `&`, and then `kill -INT` would have no effect.
pub fn listen<F>(on_event: F) -> io::Result<()>
where
    F: FnMut(Event) + Send + 'static,
{
    let on_event = Arc::new(Mutex::new(on_event));
    let call = |handler: &Mutex<F>, event| {
        let mut handler = handler.lock().unwrap_or_else(PoisonError::into_inner);
        (*handler)(event);
    };

    let for_interrupt = Arc::clone(&on_event);
    ctrlc::set_handler(move || call(&for_interrupt, Event::Interrupt)).map_err(
        |error| match error {
            ctrlc::Error::System(error) => error,
            other => io::Error::other(other),
        },
    )?;

    let mut wanted = vec![Signal::TERM.as_raw(), Signal::USR1.as_raw()];
    if !is_ignored(Signal::HUP) {
        wanted.push(Signal::HUP.as_raw());
    }
    let mut signals = signal_hook::iterator::Signals::new(wanted)?;
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for signal in &mut signals {
                let event = match Signal::from_named_raw(signal) {
                    Some(Signal::TERM) => Event::Terminate,
                    Some(Signal::HUP) => Event::HangUp,
                    _ => Event::Status,
                };
                call(&on_event, event);
            }
        })?;
    Ok(())
}

/// Whether a signal is ignored now. Where there is no /proc to ask, it is taken not to be.
fn is_ignored(signal: Signal) -> bool {
    std::fs::read_to_string("/proc/self/status")
        .is_ok_and(|status| ignored_in(&status, signal.as_raw()))
}

/// The mask is hexadecimal; bit 0 is signal 1.
fn ignored_in(status: &str, signal: i32) -> bool {
    status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_end_comes_in_stages() {
        use Event::*;
        type Row<'a> = (&'a [Event], &'a [Option<Order>], Option<ExitCode>);
        let rows: &[Row] = &[
            (&[], &[], None),
            (&[Status], &[Some(Order::PrintStatus)], None),
            (
                &[Interrupt],
                &[Some(Order::Drain)],
                Some(ExitCode::Interrupted),
            ),
            (
                &[Terminate],
                &[Some(Order::Drain)],
                Some(ExitCode::Terminated),
            ),
            (
                &[HangUp, HangUp],
                &[Some(Order::StartNoMore), None],
                Some(ExitCode::HungUp),
            ),
            (
                &[Interrupt, Status, Interrupt, Interrupt],
                &[
                    Some(Order::Drain),
                    Some(Order::PrintStatus),
                    Some(Order::Kill),
                    None,
                ],
                Some(ExitCode::Interrupted),
            ),
            (
                &[Terminate, Interrupt],
                &[Some(Order::Drain), Some(Order::Kill)],
                Some(ExitCode::Terminated),
            ),
            (
                &[Interrupt, Terminate],
                &[Some(Order::Drain), Some(Order::Kill)],
                Some(ExitCode::Interrupted),
            ),
            (
                &[HangUp, Interrupt, Interrupt],
                &[
                    Some(Order::StartNoMore),
                    Some(Order::Drain),
                    Some(Order::Kill),
                ],
                Some(ExitCode::HungUp),
            ),
            (
                &[Interrupt, HangUp],
                &[Some(Order::Drain), None],
                Some(ExitCode::Interrupted),
            ),
        ];
        for (events, orders, exit) in rows {
            let mut ending = Ending::default();
            let got: Vec<_> = events.iter().map(|event| ending.on(*event)).collect();
            assert_eq!(&got, orders, "{events:?}");
            assert_eq!(ending.exit_code(), *exit, "{events:?}");
        }
    }

    #[test]
    fn the_mask_of_ignored_signals_is_read() {
        let status = "Name:\tx\nSigBlk:\t0000000000000001\nSigIgn:\t0000000000001001\n";
        assert!(ignored_in(status, 1));
        assert!(!ignored_in(status, 2));
        assert!(ignored_in(status, 13));
        assert!(!ignored_in("Name:\tx\n", 1));
    }

    #[test]
    fn each_signal_is_told_apart() {
        let (sender, events) = mpsc::channel();
        let hang_up_is_ignored = is_ignored(Signal::HUP);
        listen(move |event| {
            let _ = sender.send(event);
        })
        .unwrap();
        assert!(listen(|_| {}).is_err(), "one listener only");
        let mut rows = vec![
            (Signal::INT, Event::Interrupt),
            (Signal::TERM, Event::Terminate),
            (Signal::USR1, Event::Status),
        ];
        if !hang_up_is_ignored {
            rows.push((Signal::HUP, Event::HangUp));
        }
        for (signal, event) in rows {
            rustix::process::kill_process(rustix::process::getpid(), signal).unwrap();
            assert_eq!(events.recv_timeout(Duration::from_secs(60)), Ok(event));
        }
    }
}
