//! A table by task id. Ids are given out in order and most end soon, so it is pages of neighbours instead of a hash of each:
//! a task that takes hours keeps one page.

use rustc_hash::FxHashMap;

use crate::wire::frame::TaskId;

const PAGE: u64 = 256;

#[derive(Debug)]
pub(crate) struct TaskTable<T> {
    pages: FxHashMap<u64, Page<T>>,
    len: usize,
}

#[derive(Debug)]
struct Page<T> {
    entries: Box<[Option<T>]>,
    len: usize,
}

impl<T> Default for TaskTable<T> {
    fn default() -> Self {
        Self {
            pages: FxHashMap::default(),
            len: 0,
        }
    }
}

impl<T> TaskTable<T> {
    pub(crate) fn get(&self, id: TaskId) -> Option<&T> {
        self.pages.get(&(id / PAGE))?.entries[(id % PAGE) as usize].as_ref()
    }

    pub(crate) fn get_mut(&mut self, id: TaskId) -> Option<&mut T> {
        self.pages.get_mut(&(id / PAGE))?.entries[(id % PAGE) as usize].as_mut()
    }

    /// Adds an entry; the id must be a new one.
    pub(crate) fn insert(&mut self, id: TaskId, entry: T) {
        let page = self.pages.entry(id / PAGE).or_insert_with(|| Page {
            entries: (0..PAGE).map(|_| None).collect(),
            len: 0,
        });
        if page.entries[(id % PAGE) as usize].replace(entry).is_none() {
            page.len += 1;
            self.len += 1;
        }
    }

    pub(crate) fn remove(&mut self, id: TaskId) -> Option<T> {
        let page = self.pages.get_mut(&(id / PAGE))?;
        let entry = page.entries[(id % PAGE) as usize].take()?;
        page.len -= 1;
        self.len -= 1;
        if page.len == 0 {
            self.pages.remove(&(id / PAGE));
        }
        Some(entry)
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &T> {
        self.pages
            .values()
            .flat_map(|page| page.entries.iter().flatten())
    }

    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.len == 0
    }
}

#[cfg(test)]
mod tests {
    use super::TaskTable;

    #[test]
    fn pages_come_and_go_with_their_entries() {
        let mut table = TaskTable::default();
        for id in 1..=1000 {
            table.insert(id, id * 2);
        }
        for id in (1..=1000).filter(|id| id % 7 != 0) {
            assert_eq!(table.remove(id), Some(id * 2));
            assert_eq!(table.remove(id), None);
        }
        assert_eq!(table.len(), 1000 / 7);
        assert_eq!(table.values().count(), 1000 / 7);
        assert_eq!(table.get(7), Some(&14));
        assert_eq!(table.get(8), None);
        for id in (7..=1000).step_by(7) {
            table.remove(id);
        }
        assert!(table.is_empty() && table.pages.is_empty());
    }
}
