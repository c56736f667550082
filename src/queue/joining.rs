//! How a process becomes a member of a queue: on first use, on the thread that serves it from then on, so that who has no time need
//! not wait for it.

use crate::hub::outside::Instant;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;

use crate::error::{Error, Result};
use crate::hub::member::{self, Member, Shared, Wait, served, wait_on};
use crate::wait::Subscribers;

/// Where the queue is.
pub(super) enum Way {
    /// A process of ours hosts it.
    Hosted(member::Settings),
    /// It is on a server.
    Served(served::Settings),
}

impl Way {
    /// Goes there, says so, and serves this process's threads until they leave.
    fn go(self, watchers: Subscribers, joined: impl FnOnce(&Arc<Shared>)) -> Result<()> {
        match self {
            Self::Hosted(settings) => {
                let (member, shared) = Member::connect(member::Settings {
                    watchers,
                    ..settings
                })?;
                joined(&shared);
                member.run();
            }
            Self::Served(settings) => {
                let settings = served::Settings {
                    watchers,
                    ..settings
                };
                let (member, shared) = served::Member::connect(settings)?;
                joined(&shared);
                member.run();
            }
        }
        Ok(())
    }
}

/// One process's membership of one queue, or its way there.
#[derive(Default)]
pub(super) struct Joining {
    state: Mutex<State>,
    changed: Condvar,
    member: OnceLock<Arc<Shared>>,
    watchers: Subscribers,
}

#[derive(Default)]
struct State {
    phase: Phase,
    /// So many wait for an item without taking it: of these the host is told when there is one.
    expecting: u32,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
enum Phase {
    /// Nobody dials: not yet, or it has been done.
    #[default]
    Idle,
    Dialling,
    /// Until somebody is told.
    Failed(Error),
    /// Somebody was told, while others waited: these are to ask, too.
    Told,
    /// The handles are gone.
    Left,
}

impl Joining {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The membership, if there is one already.
    pub(super) fn member(&self) -> Option<&Arc<Shared>> {
        self.member.get()
    }

    /// Those who wait for an item, or the end, among other things; the same before and after joining.
    pub(super) const fn watchers(&self) -> &Subscribers {
        &self.watchers
    }

    /// The membership; `None`: not in time. It is dialled by `way` if nobody does.
    pub(super) fn join(
        self: &Arc<Self>,
        wait: Wait,
        way: impl Fn() -> Result<Way>,
    ) -> Result<Option<&Arc<Shared>>> {
        if let Some(member) = self.member.get() {
            return Ok(Some(member));
        }
        let mut state = self.lock();
        loop {
            if let Some(member) = self.member.get() {
                return Ok(Some(member));
            }
            match std::mem::take(&mut state.phase) {
                Phase::Failed(error) => {
                    if state.expecting > 0 {
                        state.phase = Phase::Told;
                    }
                    return Err(error);
                }
                Phase::Idle | Phase::Told => self.dial(&mut state, way()?)?,
                Phase::Dialling => state.phase = Phase::Dialling,
                Phase::Left => {
                    state.phase = Phase::Left;
                    return Err(Error::Closed);
                }
            }
            let (guard, in_time) = wait_on(&self.changed, state, wait);
            state = guard;
            if !in_time {
                return Ok(None);
            }
        }
    }

    /// Has it dialled, and waits for nothing. Should that fail, the next [`join`](Self::join) says so.
    pub(super) fn begin(self: &Arc<Self>, way: impl Fn() -> Result<Way>) {
        match self.join(Wait::No, way) {
            Ok(_) => {}
            Err(error) => self.failed(error),
        }
    }

    /// Whether the next [`join`](Self::join) says at once that it cannot be done.
    pub(super) fn has_failed(&self) -> bool {
        self.member.get().is_none() && matches!(self.lock().phase, Phase::Failed(_) | Phase::Told)
    }

    /// The next [`join`](Self::join) is to say this, unless somebody dials meanwhile.
    pub(super) fn failed(&self, error: Error) {
        let mut state = self.lock();
        if matches!(state.phase, Phase::Idle | Phase::Told) {
            state.phase = Phase::Failed(error);
        }
        drop(state);
        self.watchers.wake();
    }

    fn dialled_in_vain(&self, error: Error) {
        let mut state = self.lock();
        if matches!(state.phase, Phase::Dialling) {
            state.phase = Phase::Failed(error);
        }
        drop(state);
        self.changed.notify_all();
        self.watchers.wake();
    }

    fn dial(self: &Arc<Self>, state: &mut State, way: Way) -> Result<()> {
        let watchers = self.watchers.clone();
        let joining = Arc::clone(self);
        let thread = std::thread::Builder::new()
            .name("queue".to_owned())
            .spawn(move || {
                // Once it has joined, the handles alone keep the membership: this thread's stack lives on.
                let mut dialling = Some(joining);
                let went = way.go(watchers, |shared| {
                    if let Some(joining) = dialling.take() {
                        joining.joined(shared);
                    }
                });
                if let (Err(error), Some(joining)) = (went, dialling) {
                    joining.dialled_in_vain(error);
                }
            })
            .map_err(|error| Error::system("cannot start a queue's thread", error))?;
        state.thread = Some(thread);
        state.phase = Phase::Dialling;
        Ok(())
    }

    fn joined(&self, shared: &Arc<Shared>) {
        let mut state = self.lock();
        if matches!(state.phase, Phase::Left) {
            shared.leave();
            return;
        }
        if self.member.set(Arc::clone(shared)).is_err() {
            shared.leave();
            return;
        }
        for _ in 0..state.expecting {
            shared.expect(true);
        }
        state.phase = Phase::Idle;
        drop(state);
        self.changed.notify_all();
        self.watchers.wake();
    }

    /// Somebody waits for an item without taking it, or does no longer.
    pub(super) fn expect(&self, expecting: bool) {
        let mut state = self.lock();
        if expecting {
            state.expecting += 1;
        } else {
            state.expecting = state.expecting.saturating_sub(1);
        }
        if let Some(member) = self.member.get() {
            member.expect(expecting);
        }
    }

    /// Hands over what was put, gives back what was not taken; how many items were not accepted.
    pub(super) fn leave(&self, until: Instant) -> u64 {
        let mut state = self.lock();
        let thread = state.thread.take();
        state.phase = Phase::Left;
        drop(state);
        self.changed.notify_all();
        // Who still dials sees that nobody waits for it, and has put nothing.
        let (Some(member), Some(thread)) = (self.member.get(), thread) else {
            return 0;
        };
        let lost = match member.flush(Wait::Until(until)) {
            Ok(()) => 0,
            Err((lost, _)) => lost,
        };
        member.leave();
        let _ = thread.join();
        lost
    }
}
