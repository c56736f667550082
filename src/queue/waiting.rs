//! Queues among the things that [`wait`](crate::wait()) waits for.

use std::sync::Arc;

use super::Queue;
use super::joining::Joining;
use crate::hub::member::AT_ONCE;
use crate::wait::{Waitable, Watch, sealed::Sealed};
use crate::{Item, JoinableQueue, SimpleQueue};

/// Somebody waits for an item without taking it: the host is asked for one.
struct Expecting(Arc<Joining>);

impl Expecting {
    fn new(joining: &Arc<Joining>) -> Self {
        joining.expect(true);
        Self(Arc::clone(joining))
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
        let joining = self.inner.joining();
        match joining.member() {
            Some(member) => member.is_ready(),
            None => joining.has_failed(),
        }
    }

    fn look(&self) -> bool {
        match self.inner.member(super::after(AT_ONCE)) {
            Ok(Some(member)) => member.look(),
            Ok(None) => false,
            Err(error) => {
                // The get that follows says why.
                self.inner.joining().failed(error);
                true
            }
        }
    }

    fn watch<'a>(&'a self, watch: &mut Watch<'a>) {
        let joining = self.inner.joining();
        watch.subscribe(joining.watchers());
        watch.keep(Expecting::new(joining));
        self.inner.begin();
    }
}

impl<T: Item> Sealed for JoinableQueue<T> {}

impl<T: Item> Waitable for JoinableQueue<T> {
    fn is_ready(&self) -> bool {
        Queue::is_ready(self)
    }

    fn look(&self) -> bool {
        Queue::look(self)
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

    fn look(&self) -> bool {
        self.queue().look()
    }

    fn watch<'a>(&'a self, watch: &mut Watch<'a>) {
        self.queue().watch(watch);
    }
}
