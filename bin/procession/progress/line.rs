//! Progress in words, for the bar and for plain lines.

use std::time::Duration;

use super::Snapshot;

/// `120/500 done, 3 failed, 31s left, 12.5/s, 4 running, 2 workers`
pub(super) fn line(snapshot: &Snapshot, rate: f64, eta: Option<Duration>) -> String {
    // What matters most comes first: a narrow terminal cuts the rest.
    let mut line = done(snapshot);
    if let Some(eta) = eta {
        line += &format!(", {} left", clock(eta));
    }
    line += &format!(", {}/s", short(rate));
    line += &format!(", {} running", snapshot.running);
    let plural = if snapshot.workers == 1 { "" } else { "s" };
    line += &format!(", {} worker{plural}", snapshot.workers);
    line
}

/// `500/500 done, 3 failed in 41s (12.2/s)`
pub(super) fn last_line(snapshot: &Snapshot, elapsed: Duration) -> String {
    let rate = snapshot.done as f64 / elapsed.as_secs_f64().max(1e-3);
    format!(
        "{} in {} ({}/s)",
        done(snapshot),
        clock(elapsed),
        short(rate)
    )
}

fn done(snapshot: &Snapshot) -> String {
    let mut text = match (snapshot.total, snapshot.expected()) {
        (Some(total), _) => format!("{}/{total} done", snapshot.done),
        (None, Some(about)) => format!("{}/~{about} done", snapshot.done),
        (None, None) => format!("{} done", snapshot.done),
    };
    if snapshot.failed > 0 {
        text += &format!(", {} failed", snapshot.failed);
    }
    text
}

fn short(rate: f64) -> String {
    match rate {
        rate if rate >= 1e6 => format!("{:.1}M", rate / 1e6),
        rate if rate >= 1e4 => format!("{:.1}k", rate / 1e3),
        rate if rate >= 100.0 => format!("{rate:.0}"),
        rate if rate >= 1.0 => format!("{rate:.1}"),
        rate => format!("{rate:.2}"),
    }
}

fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    match (
        seconds / 86_400,
        seconds / 3_600 % 24,
        seconds / 60 % 60,
        seconds % 60,
    ) {
        (0, 0, 0, _) if seconds < 10 => format!("{:.1}s", time.as_secs_f64()),
        (0, 0, 0, s) => format!("{s}s"),
        (0, 0, m, s) => format!("{m}m{s:02}s"),
        (0, h, m, _) => format!("{h}h{m:02}m"),
        (d, h, _, _) => format!("{d}d{h:02}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_say_what_is_known() {
        let counted = Snapshot {
            done: 120,
            failed: 3,
            waiting: 7,
            running: 4,
            workers: 2,
            total: Some(500),
            fraction: None,
        };
        let estimated = Snapshot {
            done: 89,
            running: 1,
            waiting: 10,
            workers: 1,
            fraction: Some(0.25),
            ..Snapshot::default()
        };
        let unknown = Snapshot::default();
        let rows = [
            (
                counted,
                12.5,
                Some(31),
                "120/500 done, 3 failed, 31s left, 12.5/s, 4 running, 2 workers",
            ),
            (
                estimated,
                250.0,
                Some(90),
                "89/~400 done, 1m30s left, 250/s, 1 running, 1 worker",
            ),
            (unknown, 0.0, None, "0 done, 0.00/s, 0 running, 0 workers"),
        ];
        for (snapshot, rate, eta, expected) in rows {
            assert_eq!(
                line(&snapshot, rate, eta.map(Duration::from_secs)),
                expected
            );
        }
        assert_eq!(
            last_line(&counted, Duration::from_secs(12)),
            "120/500 done, 3 failed in 12s (10.0/s)"
        );
    }

    #[test]
    fn times_and_rates_are_short() {
        let rows = [
            (3, "3.0s"),
            (59, "59s"),
            (61, "1m01s"),
            (3_720, "1h02m"),
            (90_000, "1d01h"),
        ];
        for (seconds, expected) in rows {
            assert_eq!(clock(Duration::from_secs(seconds)), expected);
        }
        let rows = [
            (0.5, "0.50"),
            (12.34, "12.3"),
            (1_234.0, "1234"),
            (20_000.0, "20.0k"),
            (1.5e6, "1.5M"),
        ];
        for (rate, expected) in rows {
            assert_eq!(short(rate), expected);
        }
    }
}
