//! What the program's threads put, on its way to the host: gathered into blocks, kept until the host has accepted it.

use crate::hub::outside::Instant;
use std::collections::VecDeque;
use std::sync::PoisonError;
use std::time::Duration;

use bytes::Bytes;

use super::{End, Member, Shared, Wait, wait_on};
use crate::hub::lane::read_part;
use crate::wire::block;
use crate::wire::body::Body;
use crate::wire::endpoint::Transport;
use crate::wire::frame::{Batch, INLINE, Part, Place, Room, Want, encode, encode_part, kind};

/// How many bytes may be put and not accepted, in bytes.
const WINDOW: u64 = 4 << 20;
/// While many items come, what there is of them goes out so often.
const HOLD_BACK: Duration = Duration::from_millis(1);
/// So many full blocks do not wait for that.
const WAKE: usize = 4;
/// So many at once are many.
const MANY: u64 = 32;
/// Room that was asked for ahead and is not used is given back after so long.
const UNUSED: Duration = Duration::from_millis(8);

/// An encoded item.
#[derive(Debug)]
pub(crate) enum Encoded<'a> {
    /// It goes into a block.
    Small(&'a [u8]),
    /// It goes as it is.
    Large(Body),
}

/// Why an item was not put.
#[derive(Debug)]
pub(crate) enum NotPut {
    Full,
    /// This process has closed its end.
    Closed,
    Ended(End),
}

#[derive(Debug)]
pub(crate) struct Putting {
    /// The block that is being filled.
    open: Vec<u8>,
    open_items: u32,
    /// Full ones, and large items.
    full: VecDeque<(Body, u32)>,
    /// Items that were put, went out, were accepted, and may be put.
    items: u64,
    sent: u64,
    accepted: u64,
    granted: u64,
    /// Bytes that were put and not accepted.
    bytes: u64,
    /// That the server can never take, and of which nobody was told yet.
    lost: u64,
    /// How many threads wait for room, and for acceptance.
    waiting: u64,
    flushing: u32,
    /// Somebody wants to know whether there is room now: the number of the next WANT must be answered.
    urgent: bool,
    want_sent: u64,
    want_answered: u64,
    /// The loop is to be told of the first item.
    hungry: bool,
    last_put: Instant,
    pub(super) closed: bool,
    /// What was put came too late for a shutdown.
    pub(super) refused: bool,
    pub(super) end: Option<End>,
}

impl Default for Putting {
    fn default() -> Self {
        Self {
            open: Vec::new(),
            open_items: 0,
            full: VecDeque::new(),
            items: 0,
            sent: 0,
            accepted: 0,
            granted: 0,
            bytes: 0,
            lost: 0,
            waiting: 0,
            flushing: 0,
            urgent: false,
            want_sent: 0,
            want_answered: 0,
            hungry: true,
            last_put: Instant::now(),
            closed: false,
            refused: false,
            end: None,
        }
    }
}

impl Putting {
    fn seal(&mut self) {
        if self.open_items > 0 {
            let capacity = block::FULL + (4 << 10);
            let full = std::mem::replace(&mut self.open, Vec::with_capacity(capacity));
            self.full
                .push_back((full.into(), std::mem::take(&mut self.open_items)));
        }
    }
}

impl Shared {
    /// Puts an item, waiting for room as `wait` says.
    pub(crate) fn put(&self, item: &Encoded<'_>, wait: Wait) -> Result<(), NotPut> {
        let mut put = self.putting();
        let mut answered_by = None;
        loop {
            if put.closed {
                return Err(NotPut::Closed);
            }
            if let Some(end) = &put.end {
                return Err(NotPut::Ended(end.clone()));
            }
            let granted = put.items < put.granted;
            if granted && put.bytes < WINDOW {
                break;
            }
            if wait == Wait::No && !granted {
                // What the host says after this moment.
                let number = *answered_by.get_or_insert(put.want_sent + 1);
                if put.want_answered >= number {
                    return Err(NotPut::Full);
                }
                put.urgent = true;
            }
            put.waiting += 1;
            self.waker.wake();
            let (guard, in_time) = wait_on(&self.room, put, wait.or_forever());
            put = guard;
            put.waiting -= 1;
            if !in_time {
                return Err(NotPut::Full);
            }
        }
        let len = match item {
            Encoded::Small(bytes) => {
                let pushed = block::push(&mut put.open, |out| {
                    out.extend_from_slice(bytes);
                    Ok::<(), std::convert::Infallible>(())
                });
                put.open_items += 1;
                let len = pushed.unwrap_or_default();
                if put.open.len() >= block::FULL || put.open_items >= block::MOST_ITEMS {
                    put.seal();
                }
                len as u64
            }
            Encoded::Large(body) => {
                put.seal();
                put.full.push_back((body.clone(), 0));
                body.len()
            }
        };
        put.items += 1;
        put.bytes += len;
        // While many items come the loop looks for them by itself, every millisecond.
        let wake = put.hungry || put.full.len() >= WAKE;
        if wake {
            put.hungry = false;
            drop(put);
            self.waker.wake();
        }
        Ok(())
    }

    /// Waits until the host has accepted all that was put before; how many items it has not.
    pub(crate) fn flush(&self, wait: Wait) -> Result<(), (u64, Option<End>)> {
        let mut put = self.putting();
        let goal = put.items;
        loop {
            if put.accepted >= goal {
                return match std::mem::take(&mut put.lost) {
                    0 => Ok(()),
                    lost => Err((lost, None)),
                };
            }
            // After a shutdown what was put before is still accepted, unless the host says otherwise.
            if let Some(end) = &put.end
                && (*end != End::ShutDown || put.refused)
            {
                return Err((goal - put.accepted, Some(end.clone())));
            }
            put.flushing += 1;
            self.waker.wake();
            let (guard, in_time) = wait_on(&self.room, put, wait);
            put = guard;
            put.flushing -= 1;
            if !in_time {
                return Err((goal.saturating_sub(put.accepted), None));
            }
        }
    }

    /// Any number of items may be put.
    pub(super) fn set_endless(&self) {
        self.putting().granted = u64::MAX;
        self.room.notify_all();
    }

    /// What was put since this was called last, item by item, and whether somebody waits for its acceptance.
    pub(super) fn take_items(&self) -> (Vec<Bytes>, bool) {
        let (bodies, prompt) = {
            let mut put = self.putting();
            put.hungry = true;
            put.seal();
            put.sent = put.items;
            (
                std::mem::take(&mut put.full),
                put.flushing > 0 || put.waiting > 0,
            )
        };
        let mut items = Vec::new();
        for (body, count) in bodies {
            match body {
                Body::Memory(block) if count > 0 => {
                    let mut at = 0;
                    while let Some((range, next)) = block::item(&block, at) {
                        items.push(block.slice(range));
                        at = next;
                    }
                }
                body => match body.to_bytes() {
                    Ok(bytes) => items.push(bytes),
                    Err(error) => {
                        log::error!(
                            "an item cannot be read back from its temporary file and is lost: {error}"
                        );
                        self.accepted(1, body.len());
                    }
                },
            }
        }
        (items, prompt)
    }

    /// The next item can never be put: whoever flushes is told.
    pub(super) fn lost(&self, bytes: u64) {
        self.putting().lost += 1;
        self.accepted(1, bytes);
    }

    /// The server has so many more items, of so many bytes.
    pub(super) fn accepted(&self, items: u64, bytes: u64) {
        let mut put = self.putting();
        put.accepted += items;
        put.bytes = put.bytes.saturating_sub(bytes);
        let told = put.waiting > 0 || put.flushing > 0;
        drop(put);
        if told {
            self.room.notify_all();
        }
    }

    /// The queue was shut down; what is under way from here came too late (`refused`), or nothing is.
    pub(super) fn puts_are_over(&self, refused: bool) {
        let mut put = self.putting();
        put.end.get_or_insert(End::ShutDown);
        put.refused |= refused;
        drop(put);
        self.room.notify_all();
    }

    /// For how many items there is to be room that there is not: those that wait, and some that will come. 0: for none.
    pub(super) fn wanted_room(&self, ahead: &mut u64, maxsize: u64) -> u64 {
        let mut put = self.putting();
        if put.items > 0 && put.last_put.elapsed() > UNUSED && put.granted > put.items {
            // What was found free some time ago may not be any more.
            put.granted = put.items;
            *ahead = 0;
        }
        if put.granted > put.items || put.waiting == 0 {
            return 0;
        }
        put.last_put = Instant::now();
        let wanted = put.waiting + *ahead;
        *ahead = (*ahead * 2 + 1).min((maxsize / 4).min(1024));
        wanted
    }

    /// There is room for so many more items than were put, or none: who does not wait is told so.
    pub(super) fn grant(&self, room: u64) {
        let mut put = self.putting();
        put.granted = put.items.saturating_add(room);
        if std::mem::take(&mut put.urgent) {
            put.want_sent += 1;
            put.want_answered = put.want_sent;
        }
        drop(put);
        self.room.notify_all();
    }

    /// This process puts no more.
    pub(crate) fn close(&self) {
        self.putting().closed = true;
        self.room.notify_all();
    }

    pub(super) fn putting(&self) -> std::sync::MutexGuard<'_, Putting> {
        self.put.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The loop's side: what is under way.
#[derive(Default)]
pub(super) struct UnderWay {
    /// Blocks that were not accepted, by their numbers, in order.
    blocks: VecDeque<(u64, u32, Body)>,
    next_number: u64,
    /// How many of them, from the front, went out on this link; and how much of the next one.
    out: usize,
    offset: u64,
    pub(super) link: u32,
    sent: u64,
    absorbed: u64,
    /// When something went out last, and whether there was much.
    last: Option<Instant>,
    dense: bool,
    wanted: u64,
    ahead: u64,
    pub(super) holding: bool,
}

impl UnderWay {
    /// A new link: everything that was not accepted goes out again.
    pub(super) fn restart(&mut self) {
        self.link += 1;
        self.out = 0;
        self.offset = 0;
        self.sent = 0;
        self.absorbed = 0;
        self.last = None;
    }
}

impl Member {
    /// Takes what was put, and sends what may go.
    pub(super) fn pump_puts(&mut self) {
        let prompt = self.take_puts();
        if self.link.is_some() {
            self.send_puts(prompt);
        }
        self.say_want();
    }

    fn take_puts(&mut self) -> bool {
        let mut put = self.shared.putting();
        let under_way = &mut self.under_way;
        let fresh = put.items - put.sent;
        let prompt = put.flushing > 0 || put.waiting > 0;
        under_way.holding = false;
        if fresh == 0 {
            put.hungry = true;
            return prompt;
        }
        let early = under_way
            .last
            .is_some_and(|last| last.elapsed() < HOLD_BACK);
        if !prompt && under_way.dense && early && put.full.is_empty() {
            under_way.holding = true;
            return prompt;
        }
        put.last_put = Instant::now();
        under_way.dense = fresh >= MANY;
        put.hungry = !under_way.dense;
        under_way.holding = under_way.dense;
        under_way.last = Some(Instant::now());
        put.seal();
        put.sent = put.items;
        for (body, items) in std::mem::take(&mut put.full) {
            under_way.next_number += 1;
            under_way
                .blocks
                .push_back((under_way.next_number, items, body));
        }
        prompt
    }

    fn send_puts(&mut self, prompt: bool) {
        let Some(link) = &self.link else {
            return;
        };
        let local = self.settings.endpoint.transport() == Transport::Inproc;
        let (run, peer) = (self.run, self.settings.peer);
        let under_way = &mut self.under_way;
        let new_batch = |number| Batch::puts(run, peer, number, prompt);
        let mut batch = new_batch(under_way.link);
        while let Some((number, items, body)) = under_way.blocks.get(under_way.out) {
            if under_way.sent.saturating_sub(under_way.absorbed) >= WINDOW {
                break;
            }
            let len = body.len();
            let place = match body {
                Body::Memory(bytes) if len <= INLINE as u64 => Place::Inline(bytes.clone()),
                body if local => match self.handed_over.put(body.clone()) {
                    Some(key) => Place::Handed(key),
                    None => break,
                },
                body if under_way.offset < len => {
                    if !batch.is_empty() {
                        let full = std::mem::replace(&mut batch, new_batch(under_way.link));
                        link.send(full.finish());
                    }
                    match read_part(body, under_way.offset) {
                        Ok(bytes) => {
                            under_way.offset += bytes.len() as u64;
                            under_way.sent += bytes.len() as u64;
                            link.send(encode_part(&Part {
                                run,
                                peer,
                                link: under_way.link,
                                id: *number,
                                attempt: 0,
                                offset: under_way.offset - bytes.len() as u64,
                                bytes,
                            }));
                            continue;
                        }
                        Err(error) => {
                            log::error!(
                                "an item cannot be read back from its temporary file and is lost: {error}"
                            );
                            Place::Error(error.to_string())
                        }
                    }
                }
                _ => Place::Parts(len),
            };
            let inline = match &place {
                Place::Inline(bytes) => bytes.len(),
                _ => 0,
            };
            if batch.is_full_for(inline) {
                let full = std::mem::replace(&mut batch, new_batch(under_way.link));
                link.send(full.finish());
            }
            batch.push_put(*number, *items, &place);
            // What is in parts was counted with them.
            under_way.sent += match place {
                Place::Parts(_) | Place::Error(_) => 0,
                _ => len,
            };
            under_way.offset = 0;
            under_way.out += 1;
        }
        if !batch.is_empty() || (prompt && !under_way.blocks.is_empty() && !self.prompted) {
            // An empty batch asks for the answer to those before.
            self.prompted = prompt;
            link.send(batch.finish());
        }
    }

    /// How many items this putter wants room for, where that is bounded.
    fn say_want(&mut self) {
        let Some(info) = self.shared.info() else {
            return;
        };
        if info.maxsize == 0 || self.dial.is_greeting() {
            return;
        }
        let (want, urgent) = {
            let mut put = self.shared.putting();
            let left = put.granted - put.items.min(put.granted);
            let idle = put.last_put.elapsed() > UNUSED;
            let under_way = &mut self.under_way;
            if put.waiting > 0 && left == 0 {
                // It goes on putting: some more at once saves it many questions.
                let most = (info.maxsize / 4).min(1024);
                under_way.ahead = if idle {
                    0
                } else {
                    (under_way.ahead * 2 + 1).min(most)
                };
            } else if idle {
                under_way.ahead = 0;
            }
            let wanted = match put.end {
                Some(_) => put.items,
                None => {
                    put.items + put.waiting.max(if left == 0 { 0 } else { 1 }) + under_way.ahead
                }
            };
            let wanted = if put.waiting == 0 && idle {
                put.items
            } else {
                wanted
            };
            let more = put.waiting > 0 && left < put.waiting && wanted > under_way.wanted;
            let less = idle && put.waiting == 0 && wanted < under_way.wanted.min(put.granted);
            if !(more || less || put.urgent) {
                return;
            }
            let urgent = std::mem::take(&mut put.urgent);
            put.want_sent += 1;
            under_way.wanted = wanted;
            put.granted = put.granted.min(wanted).max(put.items);
            let want = Want {
                kind: kind::WANT,
                run: self.run,
                items: wanted,
                number: put.want_sent,
            };
            (want, urgent)
        };
        if urgent {
            // What was taken here has left room.
            self.confirm_now();
        }
        self.send(encode(&want));
    }

    /// Whoever waits for room asks again from time to time: the host may have taken us for dead and forgotten it.
    pub(super) fn want_again(&self) {
        let mut put = self.shared.putting();
        put.urgent |= put.waiting > 0 && put.granted <= put.items;
    }

    /// Whether room is held that is to be given back when it is not used.
    pub(super) fn holds_room(&self) -> bool {
        let bounded = self.shared.info().is_some_and(|info| info.maxsize > 0);
        bounded && {
            let put = self.shared.putting();
            put.granted > put.items
        }
    }

    pub(super) fn on_room(&mut self, room: &Room) {
        let under_way = &mut self.under_way;
        let mut put = self.shared.putting();
        if room.link == under_way.link {
            under_way.absorbed = under_way.absorbed.max(room.absorbed);
        }
        while let Some(&(number, items, ref body)) = under_way.blocks.front() {
            if number > room.accepted {
                break;
            }
            put.accepted += u64::from(items.max(1));
            put.bytes = put.bytes.saturating_sub(match items {
                0 => body.len(),
                // Each item has a head of five bytes in its block.
                items => body.len() - 5 * u64::from(items),
            });
            under_way.blocks.pop_front();
            if under_way.out > 0 {
                under_way.out -= 1;
            } else {
                under_way.offset = 0;
            }
        }
        if self.shared.info().is_some_and(|info| info.maxsize > 0) {
            put.granted = room
                .items
                .min(under_way.wanted)
                .max(put.items.min(room.items));
        } else {
            put.granted = u64::MAX;
        }
        put.want_answered = put.want_answered.max(room.want);
        if room.closed && put.end.is_none() {
            put.end = Some(End::ShutDown);
        }
        // All has arrived there, and not all was accepted.
        put.refused |= room.closed
            && room.link == under_way.link
            && under_way.out == under_way.blocks.len()
            && under_way.out > 0
            && under_way.absorbed >= under_way.sent;
        self.prompted = false;
        let told = put.waiting > 0 || put.flushing > 0;
        drop(put);
        if told {
            self.shared.room.notify_all();
        }
    }
}
