//! Which recorded task a put one is: by its content, and by how often the same content came before.
//!
//! **Pure**: digests come in as arguments. While tasks come in the recorded order, the record is read beside them a page at a
//! time; from the first difference on, what is left of it is in a table.

use rustc_hash::FxHashMap;

use crate::wire::frame::TaskId;

/// What a task's bytes are known by.
pub(crate) type Digest = [u8; 16];

/// Where the digests of the tasks from this one on come from: one page at a time, an empty one behind the last.
pub(crate) trait Pages {
    /// What reading them can fail of.
    type Error;

    /// The digests of some tasks from `first` on.
    fn page(&mut self, first: TaskId) -> Result<Vec<Digest>, Self::Error>;
}

/// The recorded tasks that have not come again yet.
#[derive(Debug, Default)]
pub(crate) struct Roll {
    /// The task before the page's first one.
    before: TaskId,
    page: Vec<Digest>,
    at: usize,
    rest: Option<FxHashMap<Digest, Vec<TaskId>>>,
}

impl Roll {
    /// The recorded task that the next put one is, if it is one.
    pub(crate) fn call<P: Pages>(
        &mut self,
        digest: &Digest,
        pages: &mut P,
    ) -> Result<Option<TaskId>, P::Error> {
        if self.rest.is_none() {
            if self.at == self.page.len() {
                self.next_page(pages)?;
            }
            match self.page.get(self.at) {
                // From now on what is put is new, and what is recorded from now on is this life's own.
                None => self.rest = Some(FxHashMap::default()),
                Some(expected) if expected == digest => {
                    self.at += 1;
                    return Ok(Some(self.before + self.at as u64));
                }
                Some(_) => self.tabulate(pages)?,
            }
        }
        let Some(rest) = &mut self.rest else {
            return Ok(None);
        };
        let Some(ids) = rest.get_mut(digest) else {
            return Ok(None);
        };
        let id = ids.pop();
        if ids.is_empty() {
            rest.remove(digest);
        }
        Ok(id)
    }

    fn next_page<P: Pages>(&mut self, pages: &mut P) -> Result<(), P::Error> {
        self.before += self.page.len() as u64;
        self.at = 0;
        self.page = pages.page(self.before + 1)?;
        Ok(())
    }

    fn tabulate<P: Pages>(&mut self, pages: &mut P) -> Result<(), P::Error> {
        let mut rest: FxHashMap<Digest, Vec<TaskId>> = FxHashMap::default();
        while self.at < self.page.len() {
            for digest in &self.page[self.at..] {
                self.at += 1;
                let id = self.before + self.at as u64;
                rest.entry(*digest).or_default().push(id);
            }
            self.next_page(pages)?;
        }
        // The first one is taken first, from the end.
        rest.values_mut().for_each(|ids| ids.reverse());
        self.rest = Some(rest);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::convert::Infallible;

    struct Recorded(Vec<u8>);

    impl Pages for Recorded {
        type Error = Infallible;

        fn page(&mut self, first: TaskId) -> Result<Vec<Digest>, Infallible> {
            let from = self.0.len().min(first as usize - 1);
            let to = self.0.len().min(from + 3);
            Ok(self.0[from..to].iter().map(|byte| [*byte; 16]).collect())
        }
    }

    proptest! {
        #[test]
        fn the_nth_of_equal_tasks_is_the_nth_recorded(
            recorded in prop::collection::vec(0u8..5, 0..30),
            put in prop::collection::vec(0u8..6, 0..40),
        ) {
            let mut pages = Recorded(recorded.clone());
            let mut roll = Roll::default();
            for (at, digest) in put.iter().enumerate() {
                let before = put[..at].iter().filter(|other| *other == digest).count();
                let expected = recorded
                    .iter()
                    .enumerate()
                    .filter(|(_, other)| *other == digest)
                    .nth(before)
                    .map(|(id, _)| id as u64 + 1);
                prop_assert_eq!(roll.call(&[*digest; 16], &mut pages), Ok(expected));
            }
        }
    }

    #[test]
    fn what_this_life_records_is_not_called() {
        let mut pages = Recorded(vec![1, 2]);
        let mut roll = Roll::default();
        let mut calls = Vec::new();
        for digest in [1, 2, 3, 4, 3] {
            let known = roll.call(&[digest; 16], &mut pages);
            if known == Ok(None) {
                pages.0.push(digest);
            }
            calls.push(known);
        }
        assert_eq!(
            calls,
            [Ok(Some(1)), Ok(Some(2)), Ok(None), Ok(None), Ok(None)]
        );
    }

    #[test]
    fn the_same_list_is_followed_page_by_page_and_kept_nowhere() {
        let list: Vec<u8> = (0..200).collect();
        let mut pages = Recorded(list.clone());
        let mut roll = Roll::default();
        for (at, digest) in list.iter().enumerate() {
            assert_eq!(
                roll.call(&[*digest; 16], &mut pages),
                Ok(Some(at as u64 + 1))
            );
            assert!(roll.rest.is_none() && roll.page.len() <= 3);
        }
        assert_eq!(roll.call(&[7; 16], &mut pages), Ok(None));
    }
}
