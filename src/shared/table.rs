//! The shared memory of this process: each piece is mapped once, and what was lent is kept.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError, Weak};
use std::time::Instant;

use super::names;
use super::segment::{Id, Segment};

#[derive(Default)]
pub(super) struct Table {
    open: HashMap<Id, Weak<Segment>>,
    /// A handle is a few numbers: nobody can know whether one is still under way. So these files stay open until the process ends, or
    /// its user says so.
    lent: HashMap<Id, Arc<OwnedFd>>,
}

static TABLE: Mutex<Option<Table>> = Mutex::new(None);

/// The table, for a moment. No segment may be dropped meanwhile, as that locks it.
pub(super) struct Locked(MutexGuard<'static, Option<Table>>);

pub(super) fn lock() -> Locked {
    Locked(TABLE.lock().unwrap_or_else(PoisonError::into_inner))
}

impl Locked {
    fn table(&mut self) -> &mut Table {
        self.0.get_or_insert_default()
    }

    pub(super) fn get(&mut self, id: Id) -> Option<Arc<Segment>> {
        self.table().open.get(&id)?.upgrade()
    }

    pub(super) fn remember(&mut self, segment: &Arc<Segment>) {
        if segment.name().is_some() {
            static AT_EXIT: Once = Once::new();
            AT_EXIT.call_once(|| crate::at_exit::register(leave_names));
        }
        self.table()
            .open
            .insert(segment.id(), Arc::downgrade(segment));
    }

    /// One that was dropped; unless it has been mapped again meanwhile.
    pub(super) fn clean(&mut self, id: Id) {
        let open = &mut self.table().open;
        if open.get(&id).is_some_and(|there| there.strong_count() == 0) {
            open.remove(&id);
        }
    }

    pub(super) fn lend(&mut self, segment: &Segment) {
        self.table()
            .lent
            .insert(segment.id(), Arc::clone(segment.file()));
    }

    /// The file that is kept although it is not mapped any more.
    pub(super) fn lent(&mut self, id: Id) -> Option<Arc<OwnedFd>> {
        self.table().lent.get(&id).cloned()
    }

    pub(super) fn forget_lent(&mut self, id: Id) {
        self.table().lent.remove(&id);
    }
}

/// A program that ends holds its names no longer, even where what holds them is never dropped.
fn leave_names() {
    let all: Vec<Arc<Segment>> = lock()
        .table()
        .open
        .values()
        .filter_map(Weak::upgrade)
        .collect();
    // Of all together.
    let deadline = Instant::now() + names::PATIENCE_AT_THE_END;
    for segment in all {
        segment.leave_name(deadline);
    }
}
