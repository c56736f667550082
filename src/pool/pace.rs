//! How many calls go into a chunk, and how many are under way at once. Pure.
//!
//! A chunk costs some microseconds wherever it passes, so brief calls go many at a time; but what is in a chunk waits for what is
//! before it, and nobody else can take it. So a chunk is as long as calls take about [`TARGET`] by what was measured, and towards
//! the end of an input of known length shorter, that all workers end together.

use std::time::Duration;

/// How long a chunk should take.
const TARGET: Duration = Duration::from_millis(2);
/// Calls in a chunk at most.
const MOST: u64 = 4096;
/// A chunk has at most so many times the calls of the one before: the first calls may not be like the rest.
const GROWTH: u64 = 8;
/// How much work is under way for each worker: more than it fetches ahead.
const UNDER_WAY: Duration = Duration::from_millis(50);
/// So many chunks for each worker may be under way, however long they take: behind a long one others are done.
const CHUNKS: u64 = 16;
/// Chunks under way in all, at most.
const MOST_CHUNKS: u64 = 16_384;

/// What was measured of the calls of one job.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    /// The chunk size that was asked for.
    fixed: Option<u32>,
    /// The mean time of a call in nanoseconds; 0 before the first has ended.
    mean: u64,
    last: u64,
}

impl Pace {
    pub(super) const fn new(fixed: Option<u32>) -> Self {
        Self {
            fixed,
            mean: 0,
            last: 0,
        }
    }

    /// So many calls took so long.
    pub(super) fn observe(&mut self, calls: u64, time: Duration) {
        if calls == 0 {
            return;
        }
        // Times come in whole microseconds.
        let now = ((time.as_nanos() as u64).max(500) / calls).max(20);
        self.mean = match self.mean {
            0 => now,
            mean => (mean * 3 + now) / 4,
        };
    }

    /// Calls in the next chunk, when so many are left in the input (as far as it is known).
    pub(super) fn chunk(&mut self, left: Option<u64>, workers: u32) -> u32 {
        if let Some(fixed) = self.fixed {
            return fixed.max(1);
        }
        let by_time = match self.mean {
            0 => 1,
            mean => (TARGET.as_nanos() as u64 / mean).clamp(1, MOST),
        };
        let by_end = left.map_or(MOST, |left| left.div_ceil(3 * u64::from(workers.max(1))));
        let by_growth = self.last.max(1) * if self.mean == 0 { 1 } else { GROWTH };
        let calls = by_time.min(by_growth);
        self.last = calls;
        calls.min(by_end.max(1)) as u32
    }

    /// Calls that may be under way, for so many workers.
    pub(super) fn window(&self, workers: u32) -> u64 {
        let workers = u64::from(workers.max(1));
        let chunk = u64::from(self.fixed.unwrap_or(self.last.max(1) as u32).max(1));
        let by_time = match self.mean {
            0 => 0,
            mean => UNDER_WAY.as_nanos() as u64 / mean * workers,
        };
        by_time
            .max(CHUNKS * workers * chunk)
            .min(MOST_CHUNKS * chunk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brief_calls_go_many_at_a_time_and_long_ones_alone() {
        let mut pace = Pace::new(None);
        assert_eq!(pace.chunk(None, 2), 1, "nothing is known yet");
        for _ in 0..10 {
            pace.observe(100, Duration::from_micros(10));
            pace.chunk(None, 2);
        }
        assert_eq!(u64::from(pace.chunk(None, 2)), MOST);
        assert_eq!(pace.chunk(Some(12), 2), 2, "the end is near");
        for _ in 0..20 {
            pace.observe(1, Duration::from_millis(30));
        }
        assert_eq!(pace.chunk(Some(1_000_000), 2), 1);
        assert_eq!(pace.window(2), CHUNKS * 2);
    }

    #[test]
    fn a_chunk_size_that_was_asked_for_is_kept() {
        let mut pace = Pace::new(Some(7));
        pace.observe(1_000_000, Duration::from_micros(10));
        assert_eq!(pace.chunk(Some(1), 64), 7);
        assert!(pace.window(1) <= MOST_CHUNKS * 7);
    }

    #[test]
    fn chunks_grow_by_steps() {
        let mut pace = Pace::new(None);
        assert_eq!(pace.chunk(None, 1), 1);
        pace.observe(1, Duration::ZERO);
        assert_eq!(pace.chunk(None, 1), GROWTH as u32);
        assert_eq!(pace.chunk(None, 1), (GROWTH * GROWTH) as u32);
    }
}
