//! How attempts at unfinished tasks have ended so far: kept by the host, and sent along with the next lease. **Pure.**

use rustc_hash::FxHashMap;

use crate::obituary::{self, Obituary};
use crate::wire::frame::TaskId;

/// Beyond so many bytes in all, obituaries lose their texts.
const MEMORY: u64 = 4 << 20;

#[derive(Debug, Default)]
pub(crate) struct Obituaries {
    of: FxHashMap<TaskId, Vec<Obituary>>,
    bytes: u64,
}

impl Obituaries {
    pub(crate) fn add(&mut self, id: TaskId, mut obituary: Obituary) {
        if self.bytes > MEMORY {
            obituary.cause.clear();
            obituary.stderr.clear();
        }
        let all = self.of.entry(id).or_default();
        self.bytes -= weight(all);
        // Of an attempt whose worker fell silent and came back there may be one already.
        all.retain(|before| before.attempt != obituary.attempt);
        obituary::add(all, obituary);
        self.bytes += weight(all);
    }

    pub(crate) fn of(&self, id: TaskId) -> &[Obituary] {
        self.of.get(&id).map_or(&[], Vec::as_slice)
    }

    /// These tasks have their results.
    pub(crate) fn forget(&mut self, first: TaskId, count: u64) {
        if self.of.is_empty() {
            return;
        }
        let ids = first..first.saturating_add(count);
        let done: Vec<TaskId> = match count < self.of.len() as u64 {
            true => ids.filter(|id| self.of.contains_key(id)).collect(),
            false => self
                .of
                .keys()
                .copied()
                .filter(|id| ids.contains(id))
                .collect(),
        };
        for id in done {
            if let Some(all) = self.of.remove(&id) {
                self.bytes -= weight(&all);
            }
        }
    }
}

fn weight(all: &[Obituary]) -> u64 {
    all.iter().map(Obituary::weight).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(attempt: u32, text: usize) -> Obituary {
        Obituary {
            attempt,
            stderr: "x".repeat(text),
            ..Obituary::default()
        }
    }

    #[test]
    fn each_attempt_has_one_until_the_task_is_done() {
        let mut all = Obituaries::default();
        all.add(7, of(1, 0));
        all.add(7, of(2, 0));
        all.add(7, of(2, 5));
        all.add(8, of(1, 0));
        let attempts: Vec<u32> = all.of(7).iter().map(|one| one.attempt).collect();
        assert_eq!(attempts, [1, 2]);
        all.forget(1, 7);
        assert!(all.of(7).is_empty());
        assert_eq!(all.of(8).len(), 1);
        all.forget(8, u64::MAX);
        assert_eq!(all.bytes, 0);
    }

    #[test]
    fn many_lose_their_texts() {
        let mut all = Obituaries::default();
        (1..20_000).for_each(|id| all.add(id, of(1, 1000)));
        assert!(all.bytes < MEMORY + (20_000 << 7), "{}", all.bytes);
        assert_eq!(all.of(19_999).len(), 1);
    }
}
