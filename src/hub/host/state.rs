//! What other threads tell the host, and what it shows them.

use crate::hub::outside::Instant;
use std::sync::{Mutex, PoisonError};

use rustc_hash::FxHashMap;

use super::{Host, host_name};
use crate::wire::frame::{PeerState, State, TaskId, kind};

/// What other threads tell the host, and ask of it.
#[derive(Debug, Default)]
pub(crate) struct Orders {
    inner: Mutex<OrdersInner>,
}

#[derive(Debug, Default)]
struct OrdersInner {
    /// Stop handing out; the cause as in [`Pill`](crate::wire::frame::Pill).
    halt: Option<u8>,
    kill: bool,
    /// A queue is to be forgotten, if nobody is there and nothing is in it.
    forget: bool,
    /// What a queue's host shows.
    gauge: Gauge,
    /// A queue's creator ends: till then others may take what is here.
    leave: Option<Instant>,
    /// The processes that wait for room in a queue from which no other process gets, and since when.
    blocked: Vec<(u32, Instant)>,
    total: Option<u64>,
    state: State,
    /// Of whose death a task was given up, until somebody asks.
    condemned: FxHashMap<TaskId, Verdict>,
}

/// How things stand at a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Gauge {
    /// Processes that have joined.
    pub(crate) members: u64,
    /// Items that were put and no program has taken.
    pub(crate) inside: u64,
    /// Items that are not done with.
    pub(crate) unfinished: u64,
    /// Nobody puts any more.
    pub(crate) shut: bool,
}

/// The worker process that died with a task which was given up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) pid: u32,
    pub(crate) host: String,
}

impl Orders {
    fn lock(&self) -> std::sync::MutexGuard<'_, OrdersInner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn halt(&self, cause: u8) {
        self.lock().halt.get_or_insert(cause);
    }

    pub(crate) fn kill(&self) {
        self.lock().kill = true;
    }

    pub(crate) fn leave(&self, until: Instant) {
        self.lock().leave = Some(until);
    }

    pub(crate) fn forget(&self) {
        self.lock().forget = true;
    }

    pub(super) fn take_forget(&self) -> bool {
        std::mem::take(&mut self.lock().forget)
    }

    pub(crate) fn gauge(&self) -> Gauge {
        self.lock().gauge
    }

    pub(super) fn set_blocked(&self, blocked: Vec<(u32, Instant)>) {
        self.lock().blocked = blocked;
    }

    /// Since when this process has been waiting for room in a queue from which no other process gets.
    pub(crate) fn blocked_since(&self, pid: u32) -> Option<Instant> {
        let orders = self.lock();
        let of_it = orders.blocked.iter().filter(|(blocked, _)| *blocked == pid);
        of_it.map(|(_, since)| *since).min()
    }

    pub(super) fn condemned(&self, id: TaskId, verdict: Verdict) {
        self.lock().condemned.insert(id, verdict);
    }

    /// Who died with this task, which was given up; to be asked once.
    pub(crate) fn take_verdict(&self, id: TaskId) -> Option<Verdict> {
        self.lock().condemned.remove(&id)
    }

    /// The cause for which it was told to stop.
    pub(crate) fn halted(&self) -> Option<u8> {
        self.lock().halt
    }

    /// What [`state`](Self::state) shows from now on.
    pub(crate) fn publish(&self, state: State) {
        let mut orders = self.lock();
        let total = orders.total;
        orders.state = State { total, ..state };
    }

    pub(crate) fn set_total(&self, total: u64) {
        self.lock().total = Some(total);
    }

    pub(crate) fn state(&self) -> State {
        self.lock().state.clone()
    }
}

impl Host {
    pub(super) fn read_orders(&mut self) {
        let (halt, kill, leave) = {
            let orders = self.orders.lock();
            (orders.halt, orders.kill, orders.leave)
        };
        if let Some(members) = &mut self.members {
            members.until = leave;
        }
        // Behind the end there is nothing to halt, and the pill has said how it ended.
        let running = self.closing.is_none() && !self.ledger.is_halted();
        if let (Some(cause), true) = (halt, running) {
            self.cause = cause;
            self.intake.close();
            self.ledger.halt();
        }
        if kill && !self.killed {
            self.killed = true;
            let stop = self.pill(kind::STOP);
            for peer in self.peers.values() {
                self.control.send_to(&peer.route, stop.clone());
            }
        }
    }

    /// What [`Orders::state`] shows.
    pub(super) fn publish(&mut self) {
        let totals = self.ledger.totals();
        let mut peers: Vec<PeerState> = self
            .peers
            .iter()
            .map(|(&id, peer)| {
                let consumer = self.ledger.consumer(id);
                PeerState {
                    peer: id,
                    role: "worker".to_owned(),
                    host: peer.host.clone(),
                    pid: peer.pid,
                    slots: peer.slots,
                    running: consumer.map_or(0, |c| c.running()),
                    leased: consumer.map_or(0, |c| c.leases() as u64),
                    done: consumer.map_or(0, |c| c.done()),
                    state: match consumer {
                        Some(c) if c.is_silent() => "silent",
                        _ => "live",
                    }
                    .to_owned(),
                }
            })
            .collect();
        peers.sort_by_key(|peer| peer.peer);
        if let Some(sink) = &self.sink {
            peers.push(PeerState {
                peer: sink.id,
                role: "sink".to_owned(),
                host: sink.host.clone(),
                pid: sink.pid,
                state: "live".to_owned(),
                done: totals.done,
                ..PeerState::default()
            });
        }
        let gauge = self.members.as_ref().map(|members| Gauge {
            members: members.number() as u64,
            inside: self.ledger.items_inside() + self.keeping.coming,
            unfinished: self.ledger.items_unfinished() + self.keeping.coming,
            shut: self.ledger.has_ended(),
        });
        let mut orders = self.orders.lock();
        orders.gauge = gauge.unwrap_or_default();
        let known = self.ledger.has_ended().then(|| self.ledger.put_in_all());
        orders.state = State {
            kind: kind::STATE,
            run: self.settings.run,
            pid: std::process::id(),
            host: host_name(),
            title: self.settings.title.clone(),
            seconds: self.started.elapsed().as_secs_f64(),
            waiting: self.ledger.waiting(),
            leased: self.ledger.leased(),
            running: self
                .ledger
                .consumers()
                .map(|(_, c)| u64::from(c.running()))
                .sum(),
            done: totals.done,
            failed: totals.failed,
            total: known.or(orders.total),
            again: totals.again,
            peers,
            turned_away: self.door.turned_away(),
        };
    }
}
