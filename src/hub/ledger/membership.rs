//! Consumers that join, are heard, fall silent, or are gone; and what becomes of what they held.

use std::collections::VecDeque;
use std::time::Duration;

use rustc_hash::FxHashSet;

use super::results::push_range;
use super::{Action, Consumer, CutShort, Gone, Ledger, State, Time};
use crate::wire::frame::{PeerId, TaskId};

/// A task that was leased at so many deaths, started or not, is a suspect too: the word that it had started may have died
/// with its worker.
const DEATHS_NEAR: u8 = 2;

impl Ledger {
    /// A consumer says hello, for the first time or again; `held` is what it holds.
    pub fn join(&mut self, peer: PeerId, slots: u32, held: &[(TaskId, u32)], now: Time) {
        let mut lane = VecDeque::new();
        let mut relay = Vec::new();
        let mut revoked = Vec::new();
        let before = self.consumers.remove(&peer);
        let done = before.as_ref().map_or(0, |consumer| consumer.done);
        let mut still_held = FxHashSet::default();
        self.forget_claims(peer);
        for &(id, attempt) in held {
            if !still_held.insert(id) {
                continue;
            }
            if self.is_unread(id) {
                self.claims.insert(id, (peer, attempt));
                continue;
            }
            match self.tasks.get_mut(id) {
                None if id < self.next_id => push_range(&mut relay, id, 1),
                None => {}
                Some(task) => match task.state {
                    State::Leased { to, .. } if to != peer => revoked.push((id, attempt)),
                    State::Condemned => revoked.push((id, attempt)),
                    // It was handed on, and came to the same getter again on a lane that it has left.
                    State::Leased { .. } if task.items > 0 && task.attempt != attempt => {
                        still_held.remove(&id);
                        revoked.push((id, attempt));
                    }
                    // A block that was handed on begins behind what had been confirmed: what the getter holds is another.
                    State::Waiting if task.items > 0 => revoked.push((id, attempt)),
                    state => {
                        if state == State::Waiting {
                            self.waiting_count -= task.weight();
                            self.suspects.remove(&id);
                        }
                        task.attempt = task.attempt.max(attempt);
                        task.held_as = attempt;
                        task.state = State::Leased {
                            to: peer,
                            seq: 0,
                            alone: false,
                        };
                        lane.push_back((0, id));
                    }
                },
            }
        }
        if let Some(before) = before {
            // What was on its way to it and never arrived.
            self.hand_on(peer, &before, Gone::Left, |seq, id| {
                seq != 0 || !still_held.contains(&id)
            });
        }
        let leases = lane.len();
        self.consumers.insert(
            peer,
            Consumer {
                slots: slots.max(1),
                tasks_limit: 0,
                bytes_limit: 0,
                sent_tasks: 0,
                sent_bytes: 0,
                taken: 0,
                running: 0,
                lane,
                leases,
                ready: false,
                silent: false,
                apart: false,
                alone: false,
                revoking: false,
                reserved: None,
                last_heard: now,
                handed_back: None,
                moved: now,
                relay,
                done,
            },
        );
        if !revoked.is_empty() {
            self.actions.push(Action::Revoke {
                from: peer,
                tasks: revoked,
            });
        }
    }

    /// What a consumer can take and does.
    pub fn credit(&mut self, peer: PeerId, tasks: u64, bytes: u64, taken: u64, running: u32) {
        if let Some(consumer) = self.consumers.get_mut(&peer) {
            consumer.ready = true;
            if taken > consumer.taken {
                consumer.moved = self.clock;
            }
            // Taken as said: who is about to leave says less than before.
            consumer.tasks_limit = tasks;
            consumer.bytes_limit = bytes;
            consumer.taken = consumer.taken.max(taken).min(consumer.sent_tasks);
            consumer.running = running;
        }
    }

    /// A message of this consumer's arrived. `false`: it is not known here, or was given up, and must say hello again.
    pub fn heard(&mut self, peer: PeerId, now: Time) -> bool {
        match self.consumers.get_mut(&peer) {
            Some(consumer) => {
                consumer.last_heard = now;
                !consumer.silent
            }
            None => false,
        }
    }

    /// Gives up those who were not heard since `now - patience`: they get nothing before they say hello again; who they are. What one
    /// holds goes to others, unless it `keeps` it: because it is known to live.
    pub fn give_up_silent(
        &mut self,
        now: Time,
        patience: Duration,
        keeps: impl Fn(PeerId) -> bool,
    ) -> Vec<PeerId> {
        let silent: Vec<PeerId> = self
            .consumers
            .iter()
            .filter(|(_, c)| !c.silent && now.saturating_sub(c.last_heard) > patience)
            .map(|(&peer, _)| peer)
            .collect();
        for &peer in &silent {
            self.forget_claims(peer);
            if let Some(mut consumer) = self.consumers.remove(&peer) {
                if !keeps(peer) {
                    self.hand_on(peer, &consumer, Gone::Left, |_, _| true);
                    consumer.lane.clear();
                    consumer.leases = 0;
                    consumer.running = 0;
                }
                consumer.silent = true;
                consumer.apart = false;
                consumer.alone = false;
                consumer.revoking = false;
                consumer.reserved = None;
                self.consumers.insert(peer, consumer);
            }
        }
        silent
    }

    /// What time it is, for decisions that depend on it.
    pub fn set_clock(&mut self, now: Time) {
        self.clock = now;
    }

    /// Our own clock stood still for so long (the machine slept): nobody's silence counts for that time.
    pub fn slept(&mut self, time: Duration) {
        for consumer in self.consumers.values_mut() {
            consumer.last_heard += time;
            consumer.moved += time;
        }
    }

    /// A consumer is gone for good.
    pub fn gone(&mut self, peer: PeerId, why: Gone) {
        self.forget_claims(peer);
        if let Some(consumer) = self.consumers.remove(&peer) {
            self.hand_on(peer, &consumer, why, |_, _| true);
        }
    }

    /// Puts the leases of a lost lane to the head of the queue, in their order, or under suspicion.
    fn hand_on(
        &mut self,
        peer: PeerId,
        consumer: &Consumer,
        why: Gone,
        which: impl Fn(u64, TaskId) -> bool,
    ) {
        for &(seq, id) in consumer.lane.iter().rev() {
            if !which(seq, id) {
                continue;
            }
            let Some(task) = self.tasks.get_mut(id) else {
                continue;
            };
            let State::Leased {
                to,
                seq: held,
                alone,
            } = task.state
            else {
                continue;
            };
            if to != peer || held != seq {
                continue;
            }
            if why == Gone::Died {
                // One that has ended, and whose result waits for its acknowledgement, did not die with it.
                let alone = alone && seq == consumer.sent_tasks && consumer.is_alone();
                task.deaths_near = task.deaths_near.saturating_add(1);
                task.deaths_alone += u8::from(alone);
                task.suspect |= seq <= consumer.taken || task.deaths_near >= DEATHS_NEAR;
                let to_blame = if self.deaths == 0 {
                    task.suspect
                } else {
                    alone
                };
                if alone || seq <= consumer.taken {
                    self.cut_short.push(CutShort {
                        id,
                        attempt: task.attempt,
                        consumer: peer,
                        held: self.clock.saturating_sub(task.since),
                    });
                }
                if to_blame && task.deaths_alone >= self.deaths {
                    task.state = State::Condemned;
                    self.actions.push(Action::Condemn {
                        id,
                        attempt: task.attempt,
                        consumer: peer,
                    });
                    continue;
                }
            }
            task.state = State::Waiting;
            self.items_taken -= task.untake();
            self.waiting_count += task.weight();
            if task.suspect {
                self.suspects.insert(id);
            } else {
                self.waiting.push_front(id);
            }
        }
    }
}
