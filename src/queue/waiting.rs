//! Queues among the things that [`wait`](crate::wait()) waits for.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Queue;
use crate::hub::member::Shared;
use crate::wait::{Waitable, Watch, sealed::Sealed};
use crate::{Item, JoinableQueue, SimpleQueue};

/// Somebody waits for an item without taking it: the host is asked for one.
struct Expecting(Arc<Shared>);

impl Expecting {
    fn new(member: &Arc<Shared>) -> Self {
        member.expect(true);
        Self(Arc::clone(member))
    }
}

impl Drop for Expecting {
    fn drop(&mut self) {
        self.0.expect(false);
    }
}

impl<T> Sealed for Queue<T> {}

impl<T> Waitable for Queue<T> {
    /// Whether a `get` would return at once.
    fn is_ready(&self) -> bool {
        match self.inner.joined() {
            Some(member) => member.is_ready(),
            None => self.inner.failed.load(Ordering::Acquire),
        }
    }

    fn watch<'a>(&'a self, watch: &mut Watch<'a>) {
        match self.member() {
            Ok(member) => {
                watch.subscribe(member.watchers());
                watch.keep(Expecting::new(member));
            }
            // The get that follows says why.
            Err(error) => {
                log::debug!("{error}");
                self.inner.failed.store(true, Ordering::Release);
            }
        }
    }
}

impl<T: Item> Sealed for JoinableQueue<T> {}

impl<T: Item> Waitable for JoinableQueue<T> {
    fn is_ready(&self) -> bool {
        Queue::is_ready(self)
    }

    fn watch<'a>(&'a self, watch: &mut Watch<'a>) {
        Queue::watch(self, watch);
    }
}

impl<T: Item> Sealed for SimpleQueue<T> {}

impl<T: Item> Waitable for SimpleQueue<T> {
    fn is_ready(&self) -> bool {
        self.queue().is_ready()
    }

    fn watch<'a>(&'a self, watch: &mut Watch<'a>) {
        self.queue().watch(watch);
    }
}
