//! One consumer's lane: a PUSH bound for it alone, watched by its monitor, with bodies cut into batches and parts under the
//! consumer's byte credit.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::hand_over::HandedOver;
use crate::error::Result;
use crate::hub::outside::Socket;
use crate::wire::access::Server;
use crate::wire::body::Body;
use crate::wire::endpoint::{Endpoint, Transport};
use crate::wire::frame::{
    self, Batch, INLINE, Obituaries, PART_SIZE, Part, Place, RunId, TaskId, encode_part,
};
use crate::wire::same_host;
use crate::wire::socket::{Kind, LinkEvent};

pub(crate) struct Lane {
    pub(crate) socket: Socket,
    /// As the consumer is told.
    pub(crate) address: Endpoint,
    transport: Transport,
    /// Carries blocks of a queue instead of tasks.
    of_items: bool,
    /// Its consumer is connected.
    pub(crate) up: bool,
    unbound: bool,
    /// The consumer was told that what it has is the last for now.
    pub(crate) told_last: bool,
    queue: VecDeque<Leased>,
    /// How earlier attempts at tasks of the queue ended, encoded; they go before all of it.
    obituaries: Vec<Vec<u8>>,
    handed_over: HandedOver,
    /// Bytes of parts that went out, and that may.
    bytes: u64,
    bytes_limit: u64,
}

/// The common case, written without a detour, in bytes.
const SMALL: usize = 4096;

struct Leased {
    id: TaskId,
    attempt: u32,
    /// A task's tries that are left, or how many items a block has.
    extra: u32,
    body: Body,
    /// How much of a large body is out.
    offset: u64,
}

/// What became of the first task of a lane.
#[derive(PartialEq, Eq)]
enum Step {
    /// It is in the batch.
    Gone,
    /// A part of it went out.
    Part,
    /// It waits for credit.
    Waits,
}

/// A task, its attempt, and why its body cannot be read.
pub(crate) type Unreadable = (TaskId, u32, std::io::Error);

/// What a lane's monitor told.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Link {
    Unchanged,
    Up,
    Down,
    /// Somebody else connected to it.
    Intruder,
}

impl Lane {
    /// Binds a lane for a consumer that came by `transport`.
    pub(crate) fn bind(
        transport: Transport,
        host: &str,
        ports: Option<(u16, u16)>,
        dir: &Path,
        number: u64,
        run: RunId,
        server: Option<&Arc<Server>>,
    ) -> Result<Self> {
        let mut socket = Socket::new(Kind::Push)?.without_reconnect().guarded(server);
        if transport != Transport::Inproc {
            socket = socket.monitored()?;
        }
        let address = match transport {
            Transport::Inproc => {
                socket.bind(&Endpoint::Inproc(format!("{run:x}-lane-{number}")))?
            }
            Transport::Ipc => socket.bind(&Endpoint::Ipc(dir.join(format!("l{number}"))))?,
            Transport::Tcp => socket.bind_in(host, ports)?,
        };
        Ok(Self {
            socket,
            address,
            transport,
            of_items: false,
            up: transport == Transport::Inproc,
            unbound: false,
            told_last: false,
            queue: VecDeque::new(),
            obituaries: Vec::new(),
            handed_over: HandedOver::default(),
            bytes: 0,
            bytes_limit: 0,
        })
    }

    /// The same lane for blocks of a queue.
    pub(crate) fn of_items(mut self) -> Self {
        self.of_items = true;
        self
    }

    /// Its consumer understands the same-host path.
    pub(crate) fn offering_rings(mut self) -> Self {
        self.socket = self.socket.offering_rings(&self.address, same_host::SMALL);
        self
    }

    /// What its monitor has to say. Once its consumer is there nobody else may come: the endpoint is given up, and its file.
    pub(crate) fn link(&mut self) -> Link {
        let mut link = Link::Unchanged;
        for event in self.socket.link_events() {
            match event {
                LinkEvent::Up if self.up => {
                    // A PUSH would deal to both, and nobody would know what the other one got.
                    self.up = false;
                    link = Link::Intruder;
                }
                LinkEvent::Up => {
                    self.up = true;
                    link = Link::Up;
                    if !std::mem::replace(&mut self.unbound, true) {
                        let address = self.address.clone();
                        self.socket.unbind(&address);
                    }
                }
                LinkEvent::Down if self.up => {
                    self.up = false;
                    if link != Link::Intruder {
                        link = Link::Down;
                    }
                }
                _ => {}
            }
        }
        link
    }

    pub(crate) fn allow(&mut self, bytes: u64) {
        self.bytes_limit = self.bytes_limit.max(bytes);
    }

    /// Puts a task (`extra`: its tries left) or a block (`extra`: its items) on its way.
    pub(crate) fn push(&mut self, id: TaskId, attempt: u32, extra: u32, body: Body) {
        self.told_last = false;
        self.queue.push_back(Leased {
            id,
            attempt,
            extra,
            body,
            offset: 0,
        });
    }

    /// Says beforehand how earlier attempts at a task ended.
    pub(crate) fn announce(&mut self, obituaries: Obituaries) {
        self.obituaries.push(frame::encode(&obituaries));
    }

    /// Tasks that have not gone out need not be asked back.
    pub(crate) fn withdraw(&mut self, ids: &[(TaskId, u32)]) -> Vec<(TaskId, u32)> {
        let mut withdrawn = Vec::new();
        self.queue.retain(|leased| {
            let out = leased.offset == 0 && ids.contains(&(leased.id, leased.attempt));
            if out {
                withdrawn.push((leased.id, leased.attempt));
            }
            !out
        });
        withdrawn
    }

    /// Sends what can be sent; the tasks whose bodies cannot be read any more.
    pub(crate) fn flush(&mut self, run: RunId) -> Vec<Unreadable> {
        let mut unreadable = Vec::new();
        if self.up {
            for obituaries in self.obituaries.drain(..) {
                self.socket.send(obituaries);
            }
        }
        let mut batch = self.batch(run);
        while self.up && !self.queue.is_empty() {
            match self.step(&mut batch, run) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    if let Some(first) = self.queue.pop_front() {
                        unreadable.push((first.id, first.attempt, error));
                    }
                }
            }
        }
        self.send_batch(&mut batch, run);
        unreadable
    }

    fn batch(&self, run: RunId) -> Batch {
        if self.of_items {
            Batch::items(run)
        } else {
            Batch::tasks(run)
        }
    }

    fn send_batch(&self, batch: &mut Batch, run: RunId) {
        if !batch.is_empty() {
            let full = std::mem::replace(batch, self.batch(run));
            // A lane that is up takes everything; one that has just gone down is reported by its monitor, and its leases handed on.
            self.socket.send(full.finish());
        }
    }

    /// Puts the first task, or its next part, on its way; `false` when it must wait for credit.
    fn step(&mut self, batch: &mut Batch, run: RunId) -> std::io::Result<bool> {
        let Some(mut first) = self.queue.pop_front() else {
            return Ok(false);
        };
        let len = first.body.len();
        if let Body::Memory(bytes) = &first.body
            && bytes.len() <= SMALL
        {
            if batch.is_full_for(bytes.len()) {
                self.send_batch(batch, run);
            }
            batch.push_inline_task(first.id, first.attempt, first.extra, bytes);
            self.bytes += len;
            return Ok(true);
        }
        let sent = self.step_large(&mut first, batch, run);
        if !matches!(sent, Ok(Step::Gone)) {
            self.queue.push_front(first);
        }
        sent.map(|step| step != Step::Waits)
    }

    fn step_large(
        &mut self,
        first: &mut Leased,
        batch: &mut Batch,
        run: RunId,
    ) -> std::io::Result<Step> {
        let len = first.body.len();
        let place = match &first.body {
            Body::Range { .. } if self.transport == Transport::Inproc => {
                Place::File(first.body.clone())
            }
            Body::Memory(bytes) if len <= INLINE as u64 => Place::Inline(bytes.clone()),
            body if len <= INLINE as u64 => Place::Inline(body.to_bytes()?),
            body if self.transport == Transport::Inproc => {
                match self.handed_over.put(body.clone()) {
                    Some(key) => Place::Handed(key),
                    None => return Err(std::io::Error::other("there are no random numbers")),
                }
            }
            body => {
                if first.offset == 0 {
                    first.body = body.open()?;
                }
                if first.offset < len {
                    if self.bytes + first.offset >= self.bytes_limit {
                        return Ok(Step::Waits);
                    }
                    // Its parts go before its entry, and must not overtake the entries before it.
                    self.send_batch(batch, run);
                    send_part(&self.socket, first, run)?;
                    return Ok(Step::Part);
                }
                Place::Parts(len)
            }
        };
        let inline = match &place {
            Place::Inline(bytes) => bytes.len(),
            _ => 0,
        };
        if batch.is_full_for(inline) {
            self.send_batch(batch, run);
        }
        batch.push_task(first.id, first.attempt, first.extra, &place);
        self.bytes += len;
        Ok(Step::Gone)
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.queue.is_empty()
    }
}

fn send_part(socket: &Socket, leased: &mut Leased, run: RunId) -> std::io::Result<()> {
    let bytes = read_part(&leased.body, leased.offset)?;
    let len = bytes.len() as u64;
    socket.send(encode_part(&Part {
        run,
        peer: 0,
        link: 0,
        id: leased.id,
        attempt: leased.attempt,
        offset: leased.offset,
        bytes,
    }));
    leased.offset += len;
    Ok(())
}

/// The piece of a body from `offset` on that goes into one part.
pub(crate) fn read_part(body: &Body, offset: u64) -> std::io::Result<Bytes> {
    let len = (body.len() - offset).min(PART_SIZE as u64);
    if let Body::Memory(bytes) = body {
        let start = offset as usize;
        return Ok(bytes.slice(start..start + len as usize));
    }
    let mut piece = vec![0; len as usize];
    let mut filled = 0;
    while filled < piece.len() {
        filled += body.read_at(offset + filled as u64, &mut piece[filled..])?;
    }
    Ok(piece.into())
}
