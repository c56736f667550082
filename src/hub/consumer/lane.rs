//! The worker's end of its lane: tasks come in, and those that had not started go back.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::Consumer;
use super::inbox::{Assigned, weight};
use crate::error::Result;
use crate::hub::dial::say_malformed;
use crate::hub::hand_over;
use crate::hub::outbox::{Finished, error_body};
use crate::hub::outside::Socket;
use crate::obituary::Obituary;
use crate::wire::access::Client;
use crate::wire::body::{Arriving, Body, IN_MEMORY};
use crate::wire::endpoint::{Endpoint, Transport};
use crate::wire::frame::{self, Message, Part, Place, TaskId, TaskList, kind};
use crate::wire::socket::{Kind, LinkEvent};

pub(in crate::hub) struct Lane {
    pub(in crate::hub) socket: Socket,
    /// How many tasks or items came.
    pub(in crate::hub) received: u64,
    /// Bodies that come in parts.
    parts: FxHashMap<(TaskId, u32), Arriving>,
    /// How earlier attempts at tasks ended that come next.
    obituaries: FxHashMap<(TaskId, u32), Vec<Obituary>>,
    /// Bytes of parts that went to a temporary file and hold no memory.
    pub(in crate::hub) spilled: u64,
}

impl Lane {
    /// Pulls from the lane at `address`.
    pub(in crate::hub) fn connect(
        address: &Endpoint,
        client: Option<&Arc<Client>>,
    ) -> Result<Self> {
        let mut socket = Socket::new(Kind::Pull)?
            .without_reconnect()
            .taking_rings()
            .proving(client);
        if address.transport() != Transport::Inproc {
            socket = socket.monitored()?;
        }
        socket.connect(address)?;
        Ok(Self {
            socket,
            received: 0,
            parts: FxHashMap::default(),
            obituaries: FxHashMap::default(),
            spilled: 0,
        })
    }

    /// The body of an entry that has come; or why it is not there. `local`: the other end is in this process.
    pub(in crate::hub) fn body(
        &mut self,
        key: (TaskId, u32),
        place: Place,
        local: bool,
    ) -> std::result::Result<Body, String> {
        match place {
            Place::Inline(bytes) => Ok(Body::Memory(bytes)),
            // Only of our own process a path is believed.
            Place::File(body) if local => Ok(body),
            Place::Parts(len) => self.parts.remove(&key).unwrap_or_default().finish(len),
            Place::Handed(number) => match hand_over::take(number) {
                Some(body) => {
                    // A body in a file is in nobody's memory.
                    self.spilled += body.len() - weight(&body);
                    Ok(body)
                }
                None => Err("it was handed over and is not there".to_owned()),
            },
            Place::File(_) | Place::Error(_) => Err("it is not here".to_owned()),
        }
    }

    pub(in crate::hub) fn add(&mut self, part: &Part) {
        let key = (part.id, part.attempt);
        let arriving = self.parts.entry(key).or_default();
        let before = arriving.len();
        arriving.add(part.offset, &part.bytes);
        if arriving.len() > IN_MEMORY as u64 {
            let counted = if before > IN_MEMORY as u64 { before } else { 0 };
            self.spilled += arriving.len().saturating_sub(counted);
        }
    }
}

impl Consumer {
    /// `link`: its connection has news, too.
    pub(super) fn read_lane(&mut self, link: bool) {
        let Some(lane) = &mut self.lane else {
            return;
        };
        let mut pill = None;
        let mut fresh = Vec::new();
        let mut lost = Vec::new();
        let mut last = false;
        while let Some(bytes) = lane.socket.recv() {
            match frame::decode(&bytes) {
                Ok(Message::Last(end)) if end.run == self.run => last = true,
                Ok(Message::Tasks(tasks)) if tasks.run == self.run => {
                    last = false;
                    for entry in tasks.entries {
                        lane.received += 1;
                        let key_of = (entry.id, entry.attempt);
                        let body = match lane.body(key_of, entry.place, self.shared.local) {
                            Ok(body) => body,
                            Err(why) => {
                                lost.push((key_of, why));
                                continue;
                            }
                        };
                        fresh.push(Assigned {
                            id: entry.id,
                            attempt: entry.attempt,
                            tries_left: entry.tries_left,
                            body,
                            obituaries: lane.obituaries.remove(&key_of).unwrap_or_default(),
                            seq: lane.received,
                            lane: self.lanes,
                        });
                    }
                }
                Ok(Message::Part(part)) if part.run == self.run => lane.add(&part),
                Ok(Message::Obituaries(of)) if of.run == self.run => {
                    for (id, attempt, obituaries) in of.tasks {
                        lane.obituaries.insert((id, attempt), obituaries);
                    }
                }
                Ok(Message::Pill(at_end)) if at_end.run == self.run => pill = Some(at_end),
                Ok(other) => log::debug!("ignored on a lane: {other:?}"),
                Err(error) => say_malformed("worker", &error),
            }
        }
        let link_lost = link && lane.socket.link_events().iter().any(LinkEvent::is_loss);
        if link_lost && self.pill.is_none() && pill.is_none() {
            // Not ours to decide whether it is an accident: the ventilator tells us, or is not heard.
            self.lane = None;
            if !self.dial.is_greeting() && self.goodbye_at.is_none() {
                self.hello();
            }
        }
        for ((id, attempt), why) in lost {
            // It would be no other at the next attempt: that is what became of the task.
            self.outbox.add(Finished {
                id,
                attempt,
                exit: 255,
                signal: 0,
                micros: 0,
                body: error_body(format!("its input was lost at the worker: {why}")),
                error: true,
                obituaries: Vec::new(),
            });
        }
        if !fresh.is_empty() {
            if self.leaving {
                let back: Vec<_> = fresh.iter().map(|task| (task.id, task.attempt)).collect();
                self.send_returned(back);
            } else {
                let mut inbox = self.shared.inbox();
                inbox.last = last;
                inbox.tasks.extend(fresh);
                let (tasks, waiting) = (inbox.tasks.len(), inbox.waiting_slots);
                drop(inbox);
                match waiting as usize {
                    0 => {}
                    waiting if waiting <= tasks => self.shared.ready.notify_all(),
                    _ => (0..tasks).for_each(|_| self.shared.ready.notify_one()),
                }
            }
        }
        if last {
            self.shared.inbox().last = true;
            self.shared.ready.notify_all();
        }
        if let Some(pill) = pill {
            self.on_pill(pill);
        }
    }

    pub(super) fn give_back(&mut self, tasks: &[(TaskId, u32)]) {
        let mut back = Vec::new();
        {
            let wanted: std::collections::HashSet<(TaskId, u32)> = tasks.iter().copied().collect();
            let mut inbox = self.shared.inbox();
            let lane = inbox.lane;
            let mut bytes = 0;
            inbox.tasks.retain(|task| {
                let key = (task.id, task.attempt);
                let out = wanted.contains(&key);
                if out {
                    back.push(key);
                    if task.lane == lane {
                        bytes += weight(&task.body);
                    }
                }
                !out
            });
            inbox.consumed += bytes;
        }
        self.send_returned(back);
    }

    pub(super) fn send_returned(&mut self, tasks: Vec<(TaskId, u32)>) {
        let returned = TaskList {
            kind: kind::RETURNED,
            run: self.run,
            tasks,
        };
        self.send(frame::encode(&returned));
    }
}
