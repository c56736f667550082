//! How fast tasks are done, and how long the rest will take.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::Snapshot;

/// Tasks a second, over the last while: so that an estimate follows a worker that joins or leaves.
pub(super) struct Speed {
    pub(super) start: Instant,
    /// When, and how many were done then; the oldest first
    samples: VecDeque<(Instant, u64)>,
}

impl Speed {
    const WINDOW: Duration = Duration::from_secs(15);
    const SPACING: Duration = Duration::from_millis(500);

    pub(super) fn new(now: Instant) -> Self {
        Self {
            start: now,
            samples: VecDeque::from([(now, 0)]),
        }
    }

    pub(super) fn observe(&mut self, done: u64, now: Instant) {
        // The newest sample moves on until it is far enough from the one before it.
        let before = self
            .samples
            .len()
            .checked_sub(2)
            .map(|at| self.samples[at].0);
        if before.is_some_and(|before| now.saturating_duration_since(before) < Self::SPACING) {
            self.samples.pop_back();
        }
        self.samples.push_back((now, done));
        while self.samples.len() > 2
            && now.saturating_duration_since(self.samples[1].0) >= Self::WINDOW
        {
            self.samples.pop_front();
        }
    }

    pub(super) fn rate(&self) -> f64 {
        let (Some(first), Some(last)) = (self.samples.front(), self.samples.back()) else {
            return 0.0;
        };
        let seconds = last.0.saturating_duration_since(first.0).as_secs_f64();
        if seconds > 0.0 {
            last.1.saturating_sub(first.1) as f64 / seconds
        } else {
            0.0
        }
    }

    /// The time left at this speed; `None` where nothing can be said.
    pub(super) fn eta(&self, snapshot: &Snapshot) -> Option<Duration> {
        let left = snapshot.expected()?.saturating_sub(snapshot.done);
        let seconds = left as f64 / self.rate();
        Duration::try_from_secs_f64(seconds).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    #[test]
    fn speed_follows_the_last_while() {
        let start = Instant::now();
        let mut speed = Speed::new(start);
        assert_eq!(speed.rate(), 0.0);
        let snapshot = Snapshot {
            total: Some(10),
            ..Snapshot::default()
        };
        assert_eq!(speed.eta(&snapshot), None, "no speed, no estimate");
        for second in 1..=100 {
            speed.observe(second * 10, at(start, second * 1_000));
        }
        assert!((speed.rate() - 10.0).abs() < 1e-9);
        // Ten times as fast from now on: after the window nothing of the old speed is left.
        for second in 1..=20 {
            speed.observe(1_000 + second * 100, at(start, 100_000 + second * 1_000));
        }
        assert!((speed.rate() - 100.0).abs() < 1e-9);
        let snapshot = Snapshot {
            done: 3_000,
            total: Some(4_000),
            ..Snapshot::default()
        };
        assert_eq!(speed.eta(&snapshot), Some(Duration::from_secs(10)));
    }

    #[test]
    fn frequent_observations_need_no_memory() {
        let start = Instant::now();
        let mut speed = Speed::new(start);
        for millis in 0..100_000 {
            speed.observe(millis, at(start, millis));
        }
        assert!(speed.samples.len() < 40, "{}", speed.samples.len());
        assert!((speed.rate() - 1_000.0).abs() < 1.0);
    }
}
