//! A set of task ids, kept as ranges: ids are given out in order and finished nearly in order, so that a set of millions is
//! a handful of ranges.

use std::collections::BTreeMap;

/// A set of ids as disjoint ranges.
///
/// ```
/// use procession::wire::id_set::IdSet;
/// let mut set = IdSet::new();
/// assert!(set.insert(1) && set.insert(2) && set.insert(4));
/// assert!(!set.insert(2));
/// assert_eq!(set.ranges().collect::<Vec<_>>(), [(1, 2), (4, 1)]);
/// assert_eq!(set.first_missing(1), 3);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdSet {
    /// First id → one past the last.
    ranges: BTreeMap<u64, u64>,
}

impl IdSet {
    /// The empty set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether `id` is in it.
    #[must_use]
    pub fn contains(&self, id: u64) -> bool {
        self.ranges
            .range(..=id)
            .next_back()
            .is_some_and(|(_, &end)| id < end)
    }

    /// Adds `id`; whether it was new. The largest number is no id.
    pub fn insert(&mut self, id: u64) -> bool {
        // Nearly always the id behind the last one.
        if let Some(mut last) = self.ranges.last_entry()
            && *last.get() == id
        {
            *last.get_mut() = id.saturating_add(1);
            return id < u64::MAX;
        }
        if self.contains(id) || id == u64::MAX {
            return false;
        }
        self.insert_range(id, 1);
        true
    }

    /// Adds `count` ids from `first`.
    pub fn insert_range(&mut self, first: u64, count: u64) {
        let mut start = first;
        let mut end = first.saturating_add(count);
        if end == first {
            return;
        }
        if let Some((&before, &until)) = self.ranges.range(..=start).next_back()
            && until >= start
        {
            start = before;
            end = end.max(until);
        }
        while let Some((&next, &until)) = self.ranges.range(start..=end).next() {
            end = end.max(until);
            self.ranges.remove(&next);
        }
        self.ranges.insert(start, end);
    }

    /// The lowest id from `from` on that is not in it.
    #[must_use]
    pub fn first_missing(&self, from: u64) -> u64 {
        match self.ranges.range(..=from).next_back() {
            Some((_, &end)) if from < end => end,
            _ => from,
        }
    }

    /// Those of `count` ids from `first` that are not in it, as ranges.
    #[must_use]
    pub fn missing(&self, first: u64, count: u64) -> Vec<(u64, u64)> {
        let end = first.saturating_add(count);
        let mut missing = Vec::new();
        let mut at = self.first_missing(first);
        while at < end {
            let next = self.ranges.range(at..end).next();
            let until = next.map_or(end, |(&start, _)| start);
            missing.push((at, until - at));
            at = self.first_missing(until);
        }
        missing
    }

    /// The ranges in order, each as its first id and its length.
    pub fn ranges(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.ranges
            .iter()
            .map(|(&start, &end)| (start, end - start))
    }

    /// How many ids there are.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.ranges().map(|(_, count)| count).sum()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }
}

impl FromIterator<(u64, u64)> for IdSet {
    fn from_iter<I: IntoIterator<Item = (u64, u64)>>(ranges: I) -> Self {
        let mut set = Self::new();
        for (first, count) in ranges {
            set.insert_range(first, count);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::IdSet;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn it_holds_what_a_plain_set_holds(inserts in prop::collection::vec((0u64..200, 1u64..9), 0..80)) {
            let mut ids = IdSet::new();
            let mut plain = BTreeSet::new();
            for (first, count) in inserts {
                if count == 1 {
                    prop_assert_eq!(ids.insert(first), plain.insert(first));
                } else {
                    ids.insert_range(first, count);
                    plain.extend(first..first + count);
                }
                prop_assert_eq!(ids.len(), plain.len() as u64);
                for id in 0..220 {
                    prop_assert_eq!(ids.contains(id), plain.contains(&id));
                    let missing = (id..).find(|i| !plain.contains(i));
                    prop_assert_eq!(Some(ids.first_missing(id)), missing);
                }
                let missing: Vec<u64> = ids
                    .missing(20, 150)
                    .into_iter()
                    .flat_map(|(first, count)| first..first + count)
                    .collect();
                let expected: Vec<u64> = (20..170).filter(|id| !plain.contains(id)).collect();
                prop_assert_eq!(missing, expected);
                let again: IdSet = ids.ranges().collect();
                prop_assert_eq!(&again, &ids);
            }
        }
    }
}
