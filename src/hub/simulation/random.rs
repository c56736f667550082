//! A small generator of our own, so that a seed means the same for ever (xorshift64*).

use std::ops::Range;
use std::time::Duration;

#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        let mut random = Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5DEE_CE66_D1CE_4E5B | 1);
        // The first numbers of neighbouring seeds are alike.
        for _ in 0..4 {
            random.next();
        }
        random
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number from 0 to below `n`.
    pub(super) fn below(&mut self, n: usize) -> usize {
        ((self.next() >> 32) % n.max(1) as u64) as usize
    }

    pub(super) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent as usize
    }

    /// A time in the range, short ones as likely as long ones ten times as long.
    pub(super) fn time(&mut self, range: Range<Duration>) -> Duration {
        let (low, high) = (
            range.start.as_nanos().max(1) as f64,
            range.end.as_nanos().max(1) as f64,
        );
        let part = self.below(1 << 20) as f64 / f64::from(1 << 20);
        Duration::from_nanos((low * (high / low).powf(part)) as u64)
    }
}
