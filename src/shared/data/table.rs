//! Rows in memory, as a [`Manager`](super::Manager) holds them. **Pure**: the time is an argument, in microseconds since 1970.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::ops::Bound;
use std::time::Duration;

use super::link::{
    Changes, Commit, Life, Outcome, PAGE_BYTES, PAGE_ROWS, Page, REMOVALS, Row, Version,
};
use crate::bytes::Bytes;

/// What a row costs besides its key and value, about.
const ROW: usize = 200;
/// What an object costs besides its rows, about.
const OBJECT: usize = 1000;
/// So many commits of an object are known again.
const TOKENS: usize = 1024;

/// All objects of a manager.
#[derive(Debug)]
pub(super) struct Table {
    objects: HashMap<String, Object>,
    /// What they take, about.
    bytes: usize,
    limit: usize,
}

/// There is no room for a commit.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full {
    pub(super) limit: usize,
}

#[derive(Debug, Default)]
struct Object {
    rows: BTreeMap<Bytes, Kept>,
    /// Rows by their versions.
    order: BTreeMap<Version, Bytes>,
    /// Keys whose rows were removed, and when.
    removed: HashMap<Bytes, Version>,
    removed_order: BTreeMap<Version, Bytes>,
    expiry: BTreeSet<(u64, Bytes)>,
    revision: Version,
    cleared: Version,
    /// Removals up to here are forgotten.
    pruned: Version,
    tokens: VecDeque<Bytes>,
    known: HashSet<Bytes>,
    /// What rows and remembered removals take, about.
    bytes: usize,
}

#[derive(Debug)]
struct Kept {
    value: Bytes,
    version: Version,
    expires: Option<u64>,
}

fn cost(key: &Bytes, value: &[u8]) -> usize {
    key.len() + value.len() + ROW
}

impl Object {
    fn next(&mut self, now: u64) -> Version {
        self.revision = now.max(self.revision + 1);
        self.revision
    }

    fn row(&self, key: &Bytes, now: u64) -> Option<Row> {
        self.rows.get(key).map(|kept| Row {
            value: kept.value.clone(),
            version: kept.version,
            left: (kept.expires).map(|at| Duration::from_micros(at.saturating_sub(now))),
        })
    }

    /// Takes a row out; until when it was to be there.
    fn take(&mut self, key: &Bytes) -> Option<Option<u64>> {
        let kept = self.rows.remove(key)?;
        self.bytes -= cost(key, &kept.value);
        self.order.remove(&kept.version);
        if let Some(at) = kept.expires {
            self.expiry.remove(&(at, key.clone()));
        }
        Some(kept.expires)
    }

    /// Removes a row and remembers that.
    fn remove(&mut self, key: &Bytes, now: u64) {
        if self.take(key).is_none() {
            return;
        }
        let version = self.next(now);
        self.bytes += cost(key, &[]);
        self.removed.insert(key.clone(), version);
        self.removed_order.insert(version, key.clone());
        if self.removed.len() > REMOVALS
            && let Some((version, key)) = self.removed_order.pop_first()
        {
            self.bytes -= cost(&key, &[]);
            self.removed.remove(&key);
            self.pruned = version;
        }
    }

    fn set(&mut self, key: &Bytes, value: &Bytes, life: Life, now: u64) {
        let before = self.take(key).flatten();
        if let Some(version) = self.removed.remove(key) {
            self.bytes -= cost(key, &[]);
            self.removed_order.remove(&version);
        }
        let version = self.next(now);
        let expires = match life {
            Life::AsBefore => before,
            other => u64::try_from(other.micros())
                .ok()
                .map(|micros| now + micros),
        };
        if let Some(at) = expires {
            self.expiry.insert((at, key.clone()));
        }
        self.bytes += cost(key, value);
        self.order.insert(version, key.clone());
        let kept = Kept {
            value: value.clone(),
            version,
            expires,
        };
        self.rows.insert(key.clone(), kept);
    }

    fn clear(&mut self, now: u64) {
        self.rows.clear();
        self.order.clear();
        self.removed.clear();
        self.removed_order.clear();
        self.expiry.clear();
        self.bytes = 0;
        self.cleared = self.next(now);
    }

    fn remember(&mut self, token: &Bytes) {
        if self.tokens.len() >= TOKENS
            && let Some(old) = self.tokens.pop_front()
        {
            self.known.remove(&old);
        }
        self.tokens.push_back(token.clone());
        self.known.insert(token.clone());
    }

    fn changes(&self, after: Version) -> Changes {
        let mut changes = Changes {
            version: self.revision,
            missed: after > self.revision || after.max(self.cleared) < self.pruned,
            cleared: self.cleared > after,
            rows: Vec::new(),
        };
        if changes.missed {
            changes.cleared = false;
            return changes;
        }
        let behind = (Bound::Excluded(after.max(self.cleared)), Bound::Unbounded);
        let mut set = self.order.range(behind).peekable();
        let mut removed = self.removed_order.range(behind).peekable();
        let mut bytes = 0;
        loop {
            let takes_set = match (set.peek(), removed.peek()) {
                (Some(set), Some(removed)) => set.0 < removed.0,
                (Some(_), None) => true,
                (None, Some(_)) => false,
                (None, None) => break,
            };
            let next = if takes_set {
                set.next()
            } else {
                removed.next()
            };
            let Some((&version, key)) = next else { break };
            let value = match takes_set {
                true => self.rows.get(key).map(|kept| kept.value.clone()),
                false => None,
            };
            bytes += value.as_ref().map_or(0, |value| value.len());
            if !changes.rows.is_empty() && (changes.rows.len() == PAGE_ROWS || bytes > PAGE_BYTES) {
                break;
            }
            changes.version = version;
            changes.rows.push((key.clone(), value));
            if set.peek().is_none() && removed.peek().is_none() {
                changes.version = self.revision;
            }
        }
        changes
    }
}

impl Table {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            objects: HashMap::new(),
            bytes: 0,
            limit,
        }
    }

    /// From now on it may take so much; what is there stays.
    pub(super) const fn set_limit(&mut self, bytes: usize) {
        self.limit = bytes;
    }

    /// Removes what has expired; whether anything has.
    pub(super) fn sweep(&mut self, object: &str, now: u64) -> bool {
        let Some(object) = self.objects.get_mut(object) else {
            return false;
        };
        let before = object.bytes;
        let mut any = false;
        while let Some((at, key)) = object.expiry.first().cloned()
            && at <= now
        {
            object.remove(&key, now);
            any = true;
        }
        self.bytes = self.bytes + object.bytes - before;
        any
    }

    /// When something of that object expires next.
    pub(super) fn next_expiry(&self, object: &str) -> Option<u64> {
        let first = self.objects.get(object)?.expiry.first();
        first.map(|(at, _)| *at)
    }

    pub(super) fn read(&mut self, object: &str, keys: &[Bytes], now: u64) -> Vec<Option<Row>> {
        self.sweep(object, now);
        let object = self.objects.get(object);
        let row = |key| object.and_then(|object| object.row(key, now));
        keys.iter().map(row).collect()
    }

    pub(super) fn commit(
        &mut self,
        name: &str,
        commit: &Commit,
        now: u64,
    ) -> Result<Outcome, Full> {
        self.sweep(name, now);
        let absent = Object::default();
        let object = self.objects.get(name).unwrap_or(&absent);
        if object.known.contains(&commit.token) {
            return Ok(Outcome::Done);
        }
        let row = |key: &Bytes| object.rows.get(key);
        let holds =
            |(key, version): &(Bytes, Version)| row(key).map_or(0, |kept| kept.version) == *version;
        if !commit.checks.iter().all(holds) {
            let rows = commit.checks.iter().map(|(key, _)| object.row(key, now));
            return Ok(Outcome::Conflict(rows.collect()));
        }
        let more: usize = (commit.writes.iter())
            .filter_map(|write| Some(cost(&write.key, write.value.as_ref()?)))
            .sum();
        let replaced = |write: &super::link::Write| Some(cost(&write.key, &row(&write.key)?.value));
        let less: usize = match commit.clears {
            true => object.bytes,
            false => commit.writes.iter().filter_map(replaced).sum(),
        };
        let is_new = !self.objects.contains_key(name);
        let more = more + if is_new { OBJECT } else { 0 };
        // Whoever makes it smaller may do so at any time.
        if more > less && self.bytes + more - less > self.limit {
            return Err(Full { limit: self.limit });
        }
        if is_new {
            self.bytes += OBJECT;
        }
        let object = self.objects.entry(name.to_owned()).or_default();
        let before = object.bytes;
        if commit.clears {
            object.clear(now);
        }
        for write in &commit.writes {
            match &write.value {
                None => object.remove(&write.key, now),
                Some(value) => object.set(&write.key, value, write.life, now),
            }
        }
        self.bytes = self.bytes + object.bytes - before;
        object.remember(&commit.token);
        Ok(Outcome::Done)
    }

    pub(super) fn scan(&mut self, object: &str, after: Option<&Bytes>, now: u64) -> Page {
        self.sweep(object, now);
        let mut page = Page {
            rows: Vec::new(),
            is_last: true,
        };
        let Some(object) = self.objects.get(object) else {
            return page;
        };
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut bytes = 0;
        for (key, kept) in object.rows.range::<Bytes, _>((from, Bound::Unbounded)) {
            bytes += kept.value.len();
            if !page.rows.is_empty() && (page.rows.len() == PAGE_ROWS || bytes > PAGE_BYTES) {
                page.is_last = false;
                break;
            }
            page.rows.push((key.clone(), kept.value.clone()));
        }
        page
    }

    pub(super) fn count(&mut self, object: &str, now: u64) -> u64 {
        self.sweep(object, now);
        let object = self.objects.get(object);
        object.map_or(0, |object| object.rows.len() as u64)
    }

    pub(super) fn changes(&mut self, object: &str, after: Option<Version>, now: u64) -> Changes {
        self.sweep(object, now);
        match (self.objects.get(object), after) {
            (Some(object), Some(after)) => object.changes(after),
            (Some(object), None) => Changes {
                version: object.revision,
                ..Changes::default()
            },
            (None, after) => Changes {
                missed: after.is_some_and(|after| after > 0),
                ..Changes::default()
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &str) -> Bytes {
        Bytes::from(text.as_bytes().to_vec())
    }

    fn set(key: &str, value: &str, life: Life) -> super::super::link::Write {
        super::super::link::Write {
            key: bytes(key),
            value: Some(bytes(value)),
            life,
        }
    }

    fn commit(token: &str, writes: Vec<super::super::link::Write>) -> Commit {
        Commit {
            token: bytes(token),
            checks: Vec::new(),
            clears: false,
            writes,
        }
    }

    #[test]
    fn a_commit_that_comes_twice_is_done_once() {
        let mut table = Table::new(1 << 20);
        let one = commit("a", vec![set("k", "1", Life::Forever)]);
        let other = commit("b", vec![set("k", "2", Life::Forever)]);
        for one in [&one, &other, &one] {
            assert_eq!(table.commit("o", one, 5), Ok(Outcome::Done));
        }
        let rows = table.read("o", &[bytes("k")], 5);
        assert_eq!(rows[0].as_ref().map(|row| &row.value[..]), Some(&b"2"[..]));
    }

    #[test]
    fn versions_follow_the_clock_and_rise_when_it_is_set_back() {
        let mut table = Table::new(1 << 20);
        let mut versions = Vec::new();
        for (token, now) in [("a", 1000), ("b", 10), ("c", 2000)] {
            let one = commit(token, vec![set("k", token, Life::Forever)]);
            assert_eq!(table.commit("o", &one, now), Ok(Outcome::Done));
            let rows = table.read("o", &[bytes("k")], now);
            versions.extend(rows.into_iter().flatten().map(|row| row.version));
        }
        assert_eq!(versions, [1000, 1001, 2000]);
    }

    #[test]
    fn what_expires_is_a_change_and_room_is_counted_exactly() {
        let mut table = Table::new(10_000);
        let brief = Life::For(Duration::from_micros(100));
        let one = commit(
            "a",
            vec![set("k", "1", brief), set("l", "2", Life::Forever)],
        );
        assert_eq!(table.commit("o", &one, 1000), Ok(Outcome::Done));
        assert_eq!((table.count("o", 1099), table.count("o", 1100)), (2, 1));
        let changes = table.changes("o", Some(1001), 1100);
        assert_eq!(changes.rows, [(bytes("k"), None)]);
        let large = "x".repeat(20_000);
        let large = commit("b", vec![set("l", &large, Life::Forever)]);
        assert_eq!(table.commit("o", &large, 1200), Err(Full { limit: 10_000 }));
        let mut clear = commit("c", Vec::new());
        clear.clears = true;
        assert_eq!(table.commit("o", &clear, 1300), Ok(Outcome::Done));
        assert_eq!(table.bytes, OBJECT);
        let changes = table.changes("o", Some(1001), 1300);
        assert!(changes.cleared && changes.rows.is_empty());
    }

    #[test]
    fn who_is_too_far_behind_is_told() {
        let mut table = Table::new(100 << 20);
        for number in 0..=REMOVALS as u64 {
            let key = number.to_string();
            let mut one = commit(&format!("s{key}"), vec![set(&key, "", Life::Forever)]);
            assert_eq!(table.commit("o", &one, 1), Ok(Outcome::Done));
            one.token = bytes(&format!("r{key}"));
            one.writes[0].value = None;
            assert_eq!(table.commit("o", &one, 1), Ok(Outcome::Done));
        }
        assert!(table.changes("o", Some(1), 1).missed);
        assert!(table.changes("o", Some(u64::MAX), 1).missed);
        let mut after = 2;
        let mut seen = 0;
        loop {
            let changes = table.changes("o", Some(after), 1);
            assert!(!changes.missed);
            if changes.is_empty() {
                break;
            }
            seen += changes.rows.len();
            after = changes.version;
        }
        assert_eq!(seen, REMOVALS);
    }
}
