//! What the ledger decided, and what was acknowledged, goes out to the workers; verdicts of the host's own go to the sink.

use crate::hub::outside::{Instant, Socket};

use super::state::Verdict;
use super::{HOLD_BACK, Host};
use crate::hub::ledger::Action;
use crate::hub::outbox::{Finished, error_body};
use crate::obituary::Obituary;
use crate::wire::frame::{self, Done, Obituaries, TaskId, TaskList, kind};

/// A group of so many is relayed at once.
const RELAY: u64 = 512;

impl Host {
    /// Notes how an attempt ended of a task that is to be tried again.
    pub(super) fn bury(&mut self, id: TaskId, obituary: Obituary) {
        // Of what has its result meanwhile, or was never here, nothing is kept.
        if self.ledger.body(id).is_some() {
            log::info!("task {id}: {obituary}");
            self.obituaries.add(id, obituary);
        }
    }

    /// Writes the obituaries of what died with its worker.
    fn bury_the_dead(&mut self) {
        for attempt in self.ledger.cut_short() {
            let Some(dead) = self.died.iter().find(|dead| dead.id == attempt.consumer) else {
                continue;
            };
            let obituary = Obituary {
                attempt: attempt.attempt,
                host: dead.host.clone(),
                worker: dead.id,
                pid: dead.pid,
                out_of_memory: dead.out_of_memory,
                seconds: attempt.held.as_secs_f64(),
                cause: "its worker died".to_owned(),
                ..Obituary::default()
            };
            self.bury(attempt.id, obituary);
        }
    }

    pub(super) fn act(&mut self) {
        self.bury_the_dead();
        for action in self.ledger.actions() {
            match action {
                Action::Lease { to, tasks } => {
                    let Some(peer) = self.peers.get_mut(&to) else {
                        continue;
                    };
                    for (id, attempt, tries_left) in tasks {
                        let obituaries = self.obituaries.of(id);
                        if !obituaries.is_empty() {
                            peer.lane.announce(Obituaries {
                                kind: kind::OBITUARIES,
                                run: self.settings.run,
                                peer: 0,
                                tasks: vec![(id, attempt, obituaries.to_vec())],
                            });
                        }
                        if let Some(body) = self.ledger.body(id) {
                            let extra = match self.members {
                                Some(_) => self.ledger.items(id),
                                None => tries_left,
                            };
                            peer.lane.push(id, attempt, extra, body.clone());
                        }
                    }
                }
                Action::Revoke { from, tasks } => {
                    let Some(peer) = self.peers.get_mut(&from) else {
                        continue;
                    };
                    let withdrawn = peer.lane.withdraw(&tasks);
                    let rest: Vec<_> = tasks
                        .into_iter()
                        .filter(|task| !withdrawn.contains(task))
                        .collect();
                    for &(id, attempt) in withdrawn.iter().rev() {
                        self.ledger.recall(from, id, attempt);
                    }
                    if rest.is_empty() {
                        self.ledger.returned(from, &[]);
                    } else {
                        let revoke = frame::encode(&TaskList {
                            kind: kind::REVOKE,
                            run: self.settings.run,
                            tasks: rest,
                        });
                        self.control.send_to(&peer.route, revoke);
                    }
                }
                Action::Condemn {
                    id,
                    attempt,
                    consumer,
                } => {
                    let (pid, host) = self
                        .died
                        .iter()
                        .find(|dead| dead.id == consumer)
                        .map(|dead| (dead.pid, dead.host.clone()))
                        .unwrap_or_default();
                    let who =
                        format!("{consumer:016x} (process {pid} on {host}) in attempt {attempt}");
                    let text = match self.settings.deaths {
                        0 => format!("task {id} was given up: worker {who} died while it ran it"),
                        deaths => format!(
                            "task {id} was given up: {deaths} workers died while they ran it and nothing else, the last of them {who}"
                        ),
                    };
                    if self.settings.deaths == 0 {
                        // Whoever wants the first death reported may try again.
                        log::debug!("{text}");
                        self.orders.condemned(id, Verdict { pid, host });
                    } else {
                        log::error!("{text}");
                    }
                    self.verdict(id, attempt, text);
                }
            }
        }
        self.died.clear();
    }

    /// Reports a task as failed in the host's own name.
    fn verdict(&mut self, id: u64, attempt: u32, text: String) {
        let made = match (&self.settings.given_up, self.ledger.body(id)) {
            (Some(make), Some(task)) => make.0(id, task, &text),
            _ => None,
        };
        let error = made.is_none();
        self.verdicts.add(Finished {
            id,
            attempt,
            exit: 255,
            signal: 0,
            micros: 0,
            body: made.unwrap_or_else(|| error_body(text)),
            error,
            obituaries: self.obituaries.of(id).to_vec(),
        });
    }

    pub(super) fn flush(&mut self) {
        let run = self.settings.run;
        let mut unreadable = Vec::new();
        let no_more =
            self.members.is_none() && self.ledger.has_ended() && self.ledger.waiting() == 0;
        let last = self.pill(kind::LAST);
        let now = Instant::now();
        self.held_back = false;
        for (&id, peer) in &mut self.peers {
            if !peer.lane.is_idle() {
                unreadable.extend(peer.lane.flush(run));
            }
            if no_more && peer.lane.up && peer.lane.is_idle() && !peer.lane.told_last {
                peer.lane.told_last = true;
                peer.lane.socket.send(last.clone());
            }
            let waiting = self.ledger.relay_len(id);
            if waiting == 0 && peer.absorbed.is_none() {
                continue;
            }
            if waiting < RELAY && now.duration_since(peer.relayed) < HOLD_BACK {
                self.held_back = true;
            } else {
                peer.relayed = now;
                let absorbed = peer.absorbed.take();
                let (link, absorbed) = absorbed.unwrap_or((0, 0));
                let done = Done {
                    kind: kind::DONE,
                    run,
                    tasks: self.ledger.relay(id),
                    link,
                    absorbed,
                };
                send_done(&self.control, &peer.route, done);
                peer.last_sent = Instant::now();
            }
        }
        for (id, attempt, error) in unreadable {
            if self.members.is_some() {
                log::error!(
                    "an item cannot be read back from its temporary file and is lost: {error}"
                );
                self.ledger.lose(id);
                continue;
            }
            let text = format!("task {id} cannot be read any more: {error}");
            log::error!("{text}");
            self.verdict(id, attempt, text);
        }
        self.verdicts.flush();
    }
}

/// A list of ranges may be longer than a frame takes.
fn send_done(control: &Socket, route: &[u8], done: Done) {
    const MOST: usize = 30_000;
    for tasks in done.tasks.chunks(MOST) {
        control.send_to(
            route,
            frame::encode(&Done {
                tasks: tasks.to_vec(),
                ..done.clone()
            }),
        );
    }
    if done.tasks.is_empty() {
        control.send_to(route, frame::encode(&done));
    }
}
