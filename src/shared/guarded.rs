//! [`Guarded`]: shared memory that begins with a lock.

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::{Duration, Instant};

use super::segment::Segment;
use crate::error::{Error, Result};
use crate::sync::heritage::{Heir, Mutex, is_had};

/// Behind the lock: a number of its user's, who alone knows what it is.
pub(super) const STATE: usize = 96;
/// And behind that the rest.
pub(super) const REST: usize = STATE + size_of::<u64>();

/// A guard gives out references to the memory, which may outlive its thread if it is forgotten.
const HEIR: Heir = Heir::AfterItsProcess;

/// Shared memory that begins with a lock. A clone is the same.
#[derive(Clone)]
pub(super) struct Guarded {
    segment: Arc<Segment>,
}

impl Guarded {
    pub(super) fn new(kind: &str, len: usize) -> Result<Self> {
        const { assert!(size_of::<Mutex>() <= STATE) };
        let segment = Segment::anonymous(kind, len.max(REST))?;
        // SAFETY: it is new, zeroed, aligned and long enough, and nobody else has it; it is never moved.
        unsafe { Mutex::init(segment.as_ptr().cast()) }
            .map_err(|error| Error::system("cannot make a lock in shared memory", error))?;
        Ok(Self::of(segment))
    }

    /// What [`new`](Self::new) has made, here or in another process.
    pub(super) fn of(segment: Arc<Segment>) -> Self {
        // SAFETY: it begins with a mutex, which was made before anybody else had it.
        segment.stays_if(|start| unsafe { &*start.cast::<Mutex>() }.is_held_by_this_process());
        Self { segment }
    }

    pub(super) const fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }

    fn mutex(&self) -> &Mutex {
        // SAFETY: it begins with one, which was made before anybody else had it, and stays mapped as long as this lives.
        unsafe { &*self.segment.as_ptr().cast::<Mutex>() }
    }

    /// The number behind the lock.
    pub(super) fn state(&self) -> &AtomicU32 {
        // SAFETY: it is inside and aligned, is never anything else than an atomic, and stays mapped as long as this lives.
        unsafe { AtomicU32::from_ptr(self.segment.as_ptr().add(STATE).cast()) }
    }

    pub(super) fn lock(&self) -> Result<Held<'_>> {
        self.mutex().acquire_until(None, HEIR)?;
        Ok(self.held())
    }

    pub(super) fn try_lock(&self) -> Option<Held<'_>> {
        is_had(self.mutex().try_acquire(HEIR)).then(|| self.held())
    }

    pub(super) fn lock_timeout(&self, time: Duration) -> Option<Held<'_>> {
        // A time that no clock holds is for ever.
        let deadline = Instant::now().checked_add(time);
        is_had(self.mutex().acquire_until(deadline, HEIR)).then(|| self.held())
    }

    fn held(&self) -> Held<'_> {
        Held {
            guarded: self,
            was_panicking: std::thread::panicking(),
            here: PhantomData,
        }
    }
}

/// Releases the lock when dropped, in the thread that acquired it.
pub(super) struct Held<'a> {
    guarded: &'a Guarded,
    was_panicking: bool,
    here: PhantomData<*const ()>,
}

impl Held<'_> {
    pub(super) const fn guarded(&self) -> &Guarded {
        self.guarded
    }

    /// Whether a panic goes through the block in which it is held.
    pub(super) fn is_unwound(&self) -> bool {
        !self.was_panicking && std::thread::panicking()
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        // A death was told by what its user keeps in the state, and more exactly.
        self.guarded.mutex().forget_death();
        self.guarded.mutex().release();
    }
}
