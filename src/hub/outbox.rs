//! Results on their way to the sink: kept until they are acknowledged, sent again when the sink or the link is another one,
//! and never more bytes under way than the sink's window.

use std::collections::VecDeque;
use std::sync::Arc;

use super::hand_over::HandedOver;
use super::lane::read_part;
use super::task_table::TaskTable;
use crate::hub::outside::Socket;
use crate::obituary::Obituary;
use crate::wire::access::Client;
use crate::wire::body::Body;
use crate::wire::endpoint::{Endpoint, Transport};
use crate::wire::frame::{
    self, Batch, INLINE, Obituaries, Part, PeerId, Place, ResultEntry, RunId, TaskId, encode_part,
    kind,
};
use crate::wire::same_host;
use crate::wire::socket::{Kind, LinkEvent};

/// A result that is kept.
#[derive(Clone, Debug)]
pub(crate) struct Finished {
    pub(crate) id: TaskId,
    pub(crate) attempt: u32,
    pub(crate) exit: i32,
    pub(crate) signal: i32,
    pub(crate) micros: u64,
    pub(crate) body: Body,
    /// There is no value: the body is an error's text.
    pub(crate) error: bool,
    /// How the task's attempts ended that failed, this one too if it did.
    pub(crate) obituaries: Vec<Obituary>,
}

/// An error's text travels inside its batch, in bytes.
const LONGEST_ERROR: usize = 8 << 10;

/// A text as the body of a result without a value.
pub(crate) fn error_body(mut text: String) -> Body {
    if text.len() > LONGEST_ERROR {
        let end = (0..=LONGEST_ERROR)
            .rev()
            .find(|&at| text.is_char_boundary(at));
        text.truncate(end.unwrap_or(0));
    }
    Body::from(text.into_bytes())
}

pub(crate) struct Outbox {
    run: RunId,
    peer: PeerId,
    sink: PeerId,
    endpoint: Option<Endpoint>,
    /// With what it proves itself there.
    client: Option<Arc<Client>>,
    pub(crate) socket: Option<Socket>,
    /// Counts the sockets that led to a sink: bytes are counted for each anew.
    link: u32,
    kept: TaskTable<Finished>,
    unsent: VecDeque<TaskId>,
    /// How much of the first unsent result has gone out as parts.
    offset: u64,
    sent: u64,
    absorbed: u64,
    window: u64,
    /// Bytes of kept bodies in memory.
    memory: usize,
    handed_over: HandedOver,
}

impl Outbox {
    pub(crate) fn new(run: RunId, peer: PeerId) -> Self {
        Self {
            run,
            peer,
            sink: 0,
            endpoint: None,
            client: None,
            socket: None,
            link: 0,
            kept: TaskTable::default(),
            unsent: VecDeque::new(),
            offset: 0,
            sent: 0,
            absorbed: 0,
            window: 0,
            memory: 0,
            handed_over: HandedOver::default(),
        }
    }

    /// Whether the sink is in this process.
    fn is_local(&self) -> bool {
        matches!(self.endpoint, Some(Endpoint::Inproc(_)))
    }

    pub(crate) fn set_run(&mut self, run: RunId) {
        self.run = run;
    }

    /// The sink is now this one (0: none). `dialled` is how we reached the ventilator, whose word for hosts is `*`.
    pub(crate) fn set_sink(
        &mut self,
        sink: PeerId,
        endpoints: &[String],
        window: u64,
        dialled: &Endpoint,
        client: Option<Arc<Client>>,
    ) -> Result<(), String> {
        self.window = window;
        self.client = client;
        if sink == self.sink && (sink == 0 || self.socket.is_some()) {
            return Ok(());
        }
        self.sink = sink;
        self.socket = None;
        self.endpoint = None;
        if sink == 0 {
            return Ok(());
        }
        let endpoint = choose(endpoints, dialled).ok_or_else(|| {
            format!(
                "the sink gathers results at {}, which cannot be reached from here (we dialled {dialled}); start it with --bind tcp://HOST:PORT",
                endpoints.join(", ")
            )
        })?;
        self.endpoint = Some(endpoint);
        self.reconnect();
        Ok(())
    }

    /// Opens a new link to the same sink, and sends all that is kept on it.
    pub(crate) fn reconnect(&mut self) {
        self.socket = None;
        let Some(endpoint) = &self.endpoint else {
            return;
        };
        let made = Socket::new(Kind::Push)
            .map(Socket::without_reconnect)
            .and_then(|socket| match endpoint.transport() {
                Transport::Inproc => Ok(socket),
                _ => socket.monitored(),
            })
            .map(|socket| socket.offering_rings(endpoint, same_host::SMALL))
            .map(|socket| socket.proving(self.client.as_ref()))
            .and_then(|mut socket| socket.connect(endpoint).map(|()| socket));
        match made {
            Ok(socket) => self.socket = Some(socket),
            Err(error) => log::warn!("{error}"),
        }
        self.link += 1;
        self.sent = 0;
        self.absorbed = 0;
        self.offset = 0;
        let mut all: Vec<TaskId> = self.kept.values().map(|result| result.id).collect();
        all.sort_unstable();
        self.unsent = all.into();
    }

    /// Whether the link was lost; whoever calls it decides when to [`reconnect`](Self::reconnect).
    pub(crate) fn link_lost(&self) -> bool {
        self.socket
            .as_ref()
            .is_some_and(|socket| socket.link_events().iter().any(LinkEvent::is_loss))
    }

    pub(crate) fn add(&mut self, result: Finished) {
        self.memory += result.body.in_memory();
        self.unsent.push_back(result.id);
        if let Some(before) = self.kept.get(result.id) {
            self.memory -= before.body.in_memory();
        }
        self.kept.insert(result.id, result);
    }

    /// These were acknowledged, or are not wanted any more.
    pub(crate) fn done(&mut self, first: TaskId, count: u64) {
        if count as usize > self.kept.len() {
            let within = first..first.saturating_add(count);
            let ids = self.kept.values().map(|result| result.id);
            let done: Vec<TaskId> = ids.filter(|id| within.contains(id)).collect();
            done.into_iter().for_each(|id| self.forget(id));
        } else {
            (first..first.saturating_add(count)).for_each(|id| self.forget(id));
        }
        if let Some(at) = self.unsent.front()
            && self.offset > 0
            && self.kept.get(*at).is_none()
        {
            self.offset = 0;
            self.unsent.pop_front();
        }
    }

    fn forget(&mut self, id: TaskId) {
        if let Some(result) = self.kept.remove(id) {
            self.memory -= result.body.in_memory();
        }
    }

    pub(crate) fn absorbed(&mut self, link: u32, bytes: u64) {
        if link == self.link {
            self.absorbed = self.absorbed.max(bytes);
        }
    }

    pub(crate) fn kept(&self) -> usize {
        self.kept.len()
    }

    pub(crate) fn held(&self) -> impl Iterator<Item = (TaskId, u32)> + '_ {
        self.kept.values().map(|result| (result.id, result.attempt))
    }

    pub(crate) fn memory(&self) -> usize {
        self.memory
    }

    /// Sends what the window allows; results whose bytes cannot be read back are replaced by that error.
    pub(crate) fn flush(&mut self) {
        if self.socket.is_none() {
            return;
        }
        let mut batch = Batch::results(self.run, self.peer, self.link);
        while let Some(&id) = self.unsent.front() {
            if self.sent.saturating_sub(self.absorbed) >= self.window {
                break;
            }
            let Some(result) = self.kept.get(id) else {
                self.unsent.pop_front();
                self.offset = 0;
                continue;
            };
            let len = result.body.len();
            let place = match &result.body {
                Body::Memory(bytes) if result.error => {
                    Place::Error(String::from_utf8_lossy(bytes).into_owned())
                }
                Body::Memory(bytes) if len <= INLINE as u64 => Place::Inline(bytes.clone()),
                body if self.is_local() && len > INLINE as u64 => {
                    match self.handed_over.put(body.clone()) {
                        Some(key) => Place::Handed(key),
                        None => break,
                    }
                }
                body if self.offset < len => {
                    match read_part(body, self.offset) {
                        Ok(bytes) => {
                            let part = Part {
                                run: self.run,
                                peer: self.peer,
                                link: self.link,
                                id,
                                attempt: result.attempt,
                                offset: self.offset,
                                bytes,
                            };
                            self.offset += part.bytes.len() as u64;
                            self.sent += part.bytes.len() as u64;
                            let frame = encode_part(&part);
                            self.send(frame);
                        }
                        Err(error) => self.replace(id, &error),
                    }
                    continue;
                }
                _ => Place::Parts(len),
            };
            let inline = match &place {
                Place::Inline(bytes) => bytes.len(),
                Place::Error(text) => text.len(),
                _ => 0,
            };
            let entry = ResultEntry {
                id,
                attempt: result.attempt,
                exit: result.exit,
                signal: result.signal,
                micros: result.micros,
                place,
            };
            let obituaries = result.obituaries.clone();
            if batch.is_full_for(inline) {
                let next = Batch::results(self.run, self.peer, self.link);
                let full = std::mem::replace(&mut batch, next);
                self.send(full.finish());
            }
            if !obituaries.is_empty() {
                self.sent += weight(&obituaries);
                self.send(frame::encode(&Obituaries {
                    kind: kind::OBITUARIES,
                    run: self.run,
                    peer: self.peer,
                    tasks: vec![(id, entry.attempt, obituaries)],
                }));
            }
            batch.push_result(&entry);
            self.sent += cost(inline);
            self.offset = 0;
            self.unsent.pop_front();
        }
        if !batch.is_empty() {
            self.send(batch.finish());
        }
    }

    fn send(&self, frame: Vec<u8>) {
        if let Some(socket) = &self.socket {
            socket.send(frame);
        }
    }

    fn replace(&mut self, id: TaskId, error: &std::io::Error) {
        log::error!("task {id}: its result cannot be read back from its temporary file: {error}");
        self.offset = 0;
        if let Some(result) = self.kept.get_mut(id) {
            result.exit = 255;
            result.error = true;
            result.body = error_body(format!("the result was lost: {error}"));
        }
    }
}

/// What a result in a batch counts against the window, in bytes.
pub(crate) const fn cost(inline: usize) -> u64 {
    inline as u64 + 32
}

/// What obituaries count against the window, in bytes.
pub(crate) fn weight(obituaries: &[Obituary]) -> u64 {
    obituaries.iter().map(Obituary::weight).sum()
}

/// The endpoint of the sink's that is nearest to how we came ourselves.
pub(crate) fn choose(endpoints: &[String], dialled: &Endpoint) -> Option<Endpoint> {
    let all: Vec<Endpoint> = endpoints
        .iter()
        .filter_map(|text| text.parse().ok())
        .collect();
    let reach: &[Transport] = match dialled.transport() {
        Transport::Inproc => &[Transport::Inproc, Transport::Ipc, Transport::Tcp],
        Transport::Ipc => &[Transport::Ipc, Transport::Tcp],
        Transport::Tcp if dialled.is_this_machine() => &[Transport::Tcp, Transport::Ipc],
        Transport::Tcp => &[Transport::Tcp],
    };
    reach
        .iter()
        .find_map(|transport| {
            all.iter()
                .find(|endpoint| endpoint.transport() == *transport)
        })
        .cloned()
        .map(|endpoint| endpoint.with_host_if_any(dialled.host().unwrap_or("127.0.0.1")))
}
