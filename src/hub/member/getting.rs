//! What has come from the host and the program's threads take: blocks in the order of the lane, and how far each has been taken.

use crate::hub::outside::Instant;
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::PoisonError;
use std::thread::ThreadId;
use std::time::Duration;

use bytes::Bytes;

use super::asking::LOOK;
use super::{End, Member, ROUND, Shared, Wait, wait_on};
use crate::hub::consumer::inbox::weight;
use crate::wire::block;
use crate::wire::body::Body;
use crate::wire::frame::{
    self, Confirm, Confirmed, Credit, Message, TaskId, TaskList, encode, kind,
};
use crate::wire::socket::LinkEvent;

/// How much lies ahead of the program: as many items as it takes in so long.
const HORIZON: Duration = Duration::from_millis(20);
/// Items ahead at most.
const DEEPEST: u64 = 16_384;
/// So many items are confirmed at once, and not after a while only.
const MANY: u64 = 8_192;
/// Bytes of blocks that may be here, in bytes.
const BUDGET: u64 = 8 << 20;
/// Who has asked whether there is something now waits so long for what is said to be there.
const COMING: Duration = Duration::from_millis(50);
/// And so long when it is the first item, for which a lane is to be made.
const FIRST_COMING: Duration = Duration::from_secs(2);

/// And no longer than so long for the host's answer.
pub(crate) const AT_ONCE: Duration = Duration::from_secs(2);

/// So many blocks that were taken are remembered, should the connection be lost.
const MOST_TOLD: usize = 20_000;

/// Why there is no item.
#[derive(Debug)]
pub(crate) enum NoItem {
    Empty,
    Ended(End),
}

/// An item as it came.
pub(crate) enum Arrived<'a> {
    /// Of a block.
    Small(&'a [u8]),
    /// By itself.
    Large(Body),
}

/// An item by its block, which is of an attempt, and its place there.
pub(crate) type Taken = ((TaskId, u32), u32);

#[derive(Debug)]
pub(crate) struct Getting {
    /// In the order of the lane; those in front may be taken and not done with.
    held: VecDeque<Held>,
    /// Which of them is next to be taken from.
    open: usize,
    current: Current,
    /// Its getters say when they are done with an item.
    pub(super) joinable: bool,
    /// Of such a queue: what each thread has taken and not said to be done with, in order.
    taken_by: HashMap<ThreadId, VecDeque<Taken>>,
    /// Items here that were not taken.
    untaken: u64,
    lane: u32,
    /// Bytes of blocks of the present lane that are no longer here.
    consumed: u64,
    pub(super) waiting: u32,
    /// Taken or done with, and not said.
    unsaid: u64,
    /// When the first item of the present block was taken; when the program came back for more than there was.
    opened: Option<Instant>,
    since_open: u32,
    /// How long the program takes over an item, in nanoseconds; 0: not known.
    mean: u64,
    /// When fewer than so many are here the loop is told.
    low: u64,
    /// So many may be taken before it is said, where room is bounded.
    pub(super) say_each: u64,
    pub(super) wants_lane: bool,
    pub(super) asleep: bool,
    /// What is to be said is to be said now.
    prompt: bool,
    taken_in_all: u64,
    pub(super) end: Option<End>,
}

/// The block that is being taken.
#[derive(Debug, Default)]
struct Current {
    body: Body,
    is_block: bool,
    at: usize,
    /// Items that are left in it, and that were when it was entered last what was taken.
    left: u32,
    counted: u32,
}

#[derive(Debug)]
struct Held {
    id: TaskId,
    attempt: u32,
    /// 0: one large item.
    items: u32,
    body: Body,
    kept: u32,
    taken: u32,
    /// So many, from the first, the program is done with; and these of the others.
    done: u32,
    done_early: BTreeSet<u32>,
    lane: u32,
    /// The place of its first item on that lane, from 0.
    place: u64,
    said: (u32, u32),
}

impl Held {
    /// The program is done with this item.
    fn finish(&mut self, item: u32) {
        self.done_early.insert(item);
        while self.done_early.remove(&self.done) {
            self.done += 1;
        }
    }

    /// The first item that was taken and that nobody is done with.
    fn first_undone(&self) -> Option<u32> {
        (self.done..self.taken).find(|item| !self.done_early.contains(item))
    }

    fn undone(&self) -> u64 {
        u64::from(self.taken - self.done) - self.done_early.len() as u64
    }

    const fn confirmed(&self) -> Confirmed {
        Confirmed {
            id: self.id,
            attempt: self.attempt,
            kept: self.kept,
            taken: self.taken,
            done: self.done,
        }
    }
}

impl Default for Getting {
    fn default() -> Self {
        Self {
            held: VecDeque::new(),
            open: 0,
            current: Current::default(),
            joinable: false,
            taken_by: HashMap::new(),
            untaken: 0,
            lane: 0,
            consumed: 0,
            waiting: 0,
            unsaid: 0,
            opened: None,
            since_open: 0,
            mean: 0,
            low: 0,
            say_each: u64::MAX,
            wants_lane: false,
            asleep: true,
            prompt: false,
            taken_in_all: 0,
            end: None,
        }
    }
}

impl Getting {
    fn observe(&mut self, now: Instant) {
        if let Some(since) = self.opened.take()
            && self.since_open > 0
        {
            let each = now.duration_since(since).as_nanos() as u64 / u64::from(self.since_open);
            self.mean = match self.mean {
                0 => each.max(1),
                before => ((before * 3 + each) / 4).max(1),
            };
        }
    }

    /// Whether something is to be said or asked for.
    pub(super) const fn unsent(&self) -> bool {
        self.unsaid > 0 || self.current.counted > self.current.left
    }

    /// Whether an item can be taken.
    pub(super) fn has_item(&self) -> bool {
        self.untaken > 0
    }

    /// Takes the next item; whether the loop is to be told.
    /// `leased`: of a joinable queue, an item that is spoken of by itself, and not as the first of those that its thread has.
    fn take<T>(
        &mut self,
        leased: bool,
        read: impl FnOnce(Arrived<'_>) -> T,
    ) -> Option<(T, bool, Taken)> {
        if self.current.left == 0 && !self.open_next() {
            return None;
        }
        let mut taken = ((0, 0), 0);
        if self.joinable
            && let Some(held) = self.held.get(self.open)
        {
            let item = held.taken + (self.current.counted - self.current.left);
            taken = ((held.id, held.attempt), item);
            if !leased {
                let mine = self.taken_by.entry(std::thread::current().id());
                mine.or_default().push_back(taken);
            }
        }
        let current = &mut self.current;
        current.left -= 1;
        self.untaken -= 1;
        let value = match &current.body {
            Body::Memory(bytes) if current.is_block => {
                let (range, next) = block::item(bytes, current.at).unwrap_or((0..0, bytes.len()));
                current.at = next;
                read(Arrived::Small(&bytes[range]))
            }
            body => read(Arrived::Large(body.clone())),
        };
        if current.left > 0 && !self.asleep && self.say_each == u64::MAX {
            return Some((value, false, taken));
        }
        let finished = current.left == 0;
        self.settle();
        if finished {
            self.close_open();
        }
        let wake =
            self.asleep || (finished && self.untaken <= self.low) || self.unsaid >= self.say_each;
        Some((value, wake, taken))
    }

    /// Opens the next block that is here.
    fn open_next(&mut self) -> bool {
        // Nothing, unless reading the last item of a block ended in a panic.
        self.settle();
        while self
            .held
            .get(self.open)
            .is_some_and(|held| held.taken >= held.kept)
        {
            self.open += 1;
        }
        if self.open >= self.held.len() {
            return false;
        }
        let now = Instant::now();
        self.observe(now);
        self.opened = Some(now);
        self.since_open = 0;
        let held = &self.held[self.open];
        let left = held.kept - held.taken;
        self.current = Current {
            body: held.body.clone(),
            is_block: held.items > 0,
            at: 0,
            left,
            counted: left,
        };
        true
    }

    /// Enters what was taken of the open block since this was done last: so little is done for each item.
    fn settle(&mut self) {
        let taken = self.current.counted - self.current.left;
        self.current.counted = self.current.left;
        if taken == 0 {
            return;
        }
        self.since_open += taken;
        self.unsaid += u64::from(taken);
        self.taken_in_all += u64::from(taken);
        if let Some(held) = self.held.get_mut(self.open) {
            held.taken += taken;
            if !self.joinable {
                held.done = held.taken;
            }
        }
    }

    /// How far on the present lane, of which `received` items came, the program is. What lies behind an item that it has not
    /// taken is not passed, though it was given back: the host takes places before this one as taken.
    fn passed(&self, received: u64) -> u64 {
        let mut ahead = self.held.iter().skip(self.open);
        let next = ahead.find(|held| held.lane == self.lane && held.taken < held.kept);
        next.map_or(received, |held| held.place + u64::from(held.taken))
    }

    /// The open block is taken: what is done with needs no memory while it waits for being said.
    fn close_open(&mut self) {
        self.current = Current::default();
        if let Some(held) = self.held.get_mut(self.open) {
            if held.lane == self.lane {
                self.consumed += weight(&held.body);
            }
            held.body = Body::empty();
            self.open += 1;
        }
    }

    /// The calling thread is done with the item that it took first of those that it is not done with; if it has none, it speaks for
    /// another thread, of the item that was taken first. `false`: there is none.
    fn task_done(&mut self) -> bool {
        self.settle();
        let me = std::thread::current().id();
        if let Some((block, item)) = self.next_of(me) {
            return self.finish(block, item);
        }
        let first = self.held.iter().take(self.open + 1).find_map(|held| {
            let item = held.first_undone()?;
            Some(((held.id, held.attempt), item))
        });
        let Some(first) = first else {
            return false;
        };
        // It is the first that its thread has, too.
        let its = self.taken_by.iter();
        let its = its.filter(|(_, taken)| taken.front() == Some(&first));
        if let Some(thread) = its.map(|(thread, _)| *thread).next() {
            self.next_of(thread);
        }
        self.finish(first.0, first.1)
    }

    /// What this thread took first and is not done with: not any more.
    fn next_of(&mut self, thread: ThreadId) -> Option<Taken> {
        let taken = self.taken_by.get_mut(&thread)?;
        let next = taken.pop_front();
        if taken.is_empty() {
            self.taken_by.remove(&thread);
        }
        next
    }

    fn finish(&mut self, block: (TaskId, u32), item: u32) -> bool {
        let held = self
            .held
            .iter_mut()
            .find(|held| (held.id, held.attempt) == block);
        if let Some(held) = held {
            held.finish(item);
            self.unsaid += 1;
        }
        true
    }

    fn undone(&self) -> u64 {
        let held = self.held.iter().take(self.open + 1);
        held.map(Held::undone).sum()
    }

    /// How many items are to be here: for those who wait, and as many ahead as the program takes in a while.
    fn target(&mut self) -> u64 {
        let mean = Duration::from_nanos(self.mean);
        let ahead = if mean.is_zero() {
            0
        } else {
            // None for who takes longer: what lies there cannot go to others without coming behind later ones.
            ((HORIZON.as_nanos() / mean.as_nanos().max(1)) as u64).min(DEEPEST)
        };
        let target = u64::from(self.waiting) + ahead;
        self.low = target / 2;
        target
    }

    /// How far the program is with each block of which that was not said (`all`: with each of which it has taken something), and
    /// the blocks that it is done with, which are forgotten.
    fn progress(&mut self, all: bool) -> (Vec<Confirmed>, Vec<Confirmed>) {
        self.unsaid = 0;
        let (mut blocks, mut finished) = (Vec::new(), Vec::new());
        for held in self.held.iter_mut().take(self.open + 1) {
            if held.said != (held.taken, held.done) || all {
                held.said = (held.taken, held.done);
                if held.taken > 0 {
                    blocks.push(held.confirmed());
                }
            }
        }
        while self
            .held
            .front()
            .is_some_and(|held| held.done == held.kept && held.said == (held.taken, held.done))
        {
            finished.extend(self.held.pop_front().map(|held| held.confirmed()));
            self.open = self.open.saturating_sub(1);
        }
        (blocks, finished)
    }

    /// Forgets what was not taken; the blocks of which nothing was.
    fn drop_untaken(&mut self, which: impl Fn(TaskId, u32) -> bool) -> Vec<(TaskId, u32)> {
        self.settle();
        let mut untouched = Vec::new();
        let (lane, mut untaken, mut bytes) = (self.lane, 0, 0);
        self.held.retain_mut(|held| {
            if !which(held.id, held.attempt) || held.taken >= held.kept {
                return true;
            }
            untaken += u64::from(held.kept - held.taken);
            if held.lane == lane {
                bytes += weight(&held.body);
            }
            if held.taken == 0 {
                untouched.push((held.id, held.attempt));
                return false;
            }
            held.kept = held.taken;
            held.body = Body::empty();
            true
        });
        if self
            .held
            .get(self.open)
            .is_none_or(|open| open.taken >= open.kept)
        {
            self.current = Current::default();
        }
        self.untaken -= untaken;
        self.consumed += bytes;
        untouched
    }
}

impl Shared {
    /// Takes the next item, waiting for one as `wait` says; `read` is called once, with what came.
    pub(crate) fn get<T>(
        &self,
        wait: Wait,
        read: impl FnOnce(Arrived<'_>) -> T,
    ) -> Result<T, NoItem> {
        self.get_as(false, wait, read).map(|(value, _)| value)
    }

    /// As [`get`](Self::get), of a joinable queue: the item is done with when [`settle`](Self::settle) says so of it.
    pub(crate) fn lease<T>(
        &self,
        wait: Wait,
        read: impl FnOnce(Arrived<'_>) -> T,
    ) -> Result<(T, Taken), NoItem> {
        self.get_as(true, wait, read)
    }

    /// An item that was leased is done with.
    pub(crate) fn settle(&self, (block, item): Taken) {
        let mut get = self.getting();
        get.settle();
        get.finish(block, item);
        get.prompt |= get.untaken == 0 && get.undone() == 0;
        let wake = get.asleep || get.prompt;
        drop(get);
        if wake {
            self.waker.wake();
        }
    }

    fn get_as<T>(
        &self,
        leased: bool,
        wait: Wait,
        read: impl FnOnce(Arrived<'_>) -> T,
    ) -> Result<(T, Taken), NoItem> {
        let mut get = self.getting();
        let mut read = Some(read);
        let mut coming: Option<Instant> = None;
        loop {
            if get.has_item() {
                let taken = get.take(leased, |item| read.take().map(|read| read(item)));
                if let Some((Some(value), wake, taken)) = taken {
                    drop(get);
                    if wake {
                        self.waker.wake();
                    }
                    return Ok((value, taken));
                }
            }
            if let Some(end) = &get.end {
                return Err(NoItem::Ended(end.clone()));
            }
            let wait = match (wait, coming) {
                (Wait::No, None) => {
                    let time = if get.lane == 0 { FIRST_COMING } else { COMING };
                    drop(get);
                    let is_inside = self.is_inside();
                    get = self.getting();
                    coming = Some(Instant::now() + time);
                    if is_inside || get.has_item() || get.end.is_some() {
                        continue;
                    }
                    return Err(NoItem::Empty);
                }
                (Wait::No, Some(until)) => Wait::Until(until),
                (wait, _) => wait,
            };
            let now = Instant::now();
            get.observe(now);
            get.waiting += 1;
            get.wants_lane = true;
            self.waker.wake();
            let (guard, in_time) = wait_on(&self.items, get, wait);
            get = guard;
            get.waiting -= 1;
            if !in_time && !get.has_item() {
                return Err(NoItem::Empty);
            }
        }
    }

    /// Whether there is something in the queue now, which only the host knows; own puts come first.
    fn is_inside(&self) -> bool {
        self.expect(true);
        let patience = Wait::Until(Instant::now() + self.patience.min(AT_ONCE));
        let _ = self.flush(patience);
        let inside = self.ask(LOOK, patience);
        self.expect(false);
        inside.is_ok_and(|answer| answer.inside > 0)
    }

    /// Whether a `get` that does not wait would return something: as [`is_ready`](Self::is_ready), after asking the host.
    pub(crate) fn look(&self) -> bool {
        if self.is_ready() {
            return true;
        }
        self.expect(true);
        if self.is_inside() {
            let mut get = self.getting();
            let time = if get.lane == 0 { FIRST_COMING } else { COMING };
            let until = Wait::Until(Instant::now() + time);
            while !get.has_item() && get.end.is_none() {
                let (guard, in_time) = wait_on(&self.items, get, until);
                get = guard;
                if !in_time {
                    break;
                }
            }
        }
        self.expect(false);
        self.is_ready()
    }

    /// See [`Getting::task_done`].
    pub(crate) fn task_done(&self) -> bool {
        let mut get = self.getting();
        let known = get.task_done();
        // Whoever waits for all to be done with is to hear of the last at once.
        get.prompt |= get.untaken == 0 && get.undone() == 0;
        let wake = get.asleep || get.prompt;
        drop(get);
        if wake {
            self.waker.wake();
        }
        known
    }

    /// Whether a `get` would return at once.
    pub(crate) fn is_ready(&self) -> bool {
        let get = self.getting();
        get.has_item() || get.end.is_some()
    }

    /// Somebody waits for an item without taking it.
    pub(crate) fn expect(&self, expecting: bool) {
        let mut get = self.getting();
        if expecting {
            get.waiting += 1;
            get.wants_lane = true;
        } else {
            get.waiting = get.waiting.saturating_sub(1);
        }
        drop(get);
        self.waker.wake();
    }

    /// What has come from a server, in order, under consecutive numbers from `first` on: one block for all of them, or one for each
    /// item where getters say of each that they are done. How many blocks.
    pub(super) fn arrived(&self, first: TaskId, items: &[Bytes]) -> Vec<u32> {
        let mut get = self.getting();
        let mut counts = Vec::new();
        let mut left = items;
        while let [item, rest @ ..] = left {
            let id = first + counts.len() as u64;
            let (body, count) = if item.len() > block::LARGEST {
                left = rest;
                (Body::Memory(item.clone()), 0)
            } else {
                let most = if get.joinable { 1 } else { block::MOST_ITEMS };
                let (block, count) = block_of(left, most);
                left = &left[count as usize..];
                (Body::from(block), count)
            };
            let kept = count.max(1);
            let lane = get.lane;
            get.held.push_back(Held {
                id,
                attempt: 0,
                items: count,
                body,
                kept,
                taken: 0,
                done: 0,
                done_early: BTreeSet::new(),
                lane,
                place: 0,
                said: (0, 0),
            });
            counts.push(kept);
        }
        get.untaken += items.len() as u64;
        drop(get);
        self.items.notify_all();
        self.watchers.wake();
        counts
    }

    /// Nothing will come any more.
    pub(super) fn gets_are_over(&self) {
        self.getting().end.get_or_insert(End::ShutDown);
        self.items.notify_all();
        self.watchers.wake();
    }

    /// With how many items of each block the program is done, where that is news.
    pub(super) fn news(&self) -> Vec<(TaskId, u32)> {
        let mut get = self.getting();
        get.settle();
        get.prompt = false;
        if get.unsaid == 0 {
            return Vec::new();
        }
        let (blocks, _) = get.progress(false);
        blocks.iter().map(|held| (held.id, held.done)).collect()
    }

    /// What is wanted from the server.
    pub(super) fn appetite(&self) -> Appetite {
        let mut get = self.getting();
        get.settle();
        let target = get.target();
        Appetite {
            waiting: get.waiting > 0,
            items: target.saturating_sub(get.untaken),
            ever: get.wants_lane,
            over: get.end.is_some(),
        }
    }

    /// How many items lie here that were not taken; whether the program is done with some and that was not said.
    pub(super) fn ahead(&self) -> (u64, bool) {
        let mut get = self.getting();
        get.settle();
        (get.untaken, get.unsaid > 0)
    }

    /// The loop sleeps for longer than a moment, and is to be told of what is taken; or it does not. Not if there is news.
    pub(super) fn sleeps(&self, asleep: bool) -> bool {
        let mut get = self.getting();
        get.settle();
        get.asleep = asleep && !get.unsent();
        get.asleep
    }

    /// What was not taken goes to others: it is not here any more.
    pub(super) fn forget_untaken(&self) {
        self.getting().drop_untaken(|_, _| true);
    }

    /// What is there can come here now.
    pub(super) fn has_way(&self) {
        self.getting().lane = 1;
    }

    pub(super) fn set_joinable(&self, joinable: bool) {
        self.getting().joinable = joinable;
    }

    pub(super) fn getting(&self) -> std::sync::MutexGuard<'_, Getting> {
        self.get.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a program wants from a server.
pub(super) struct Appetite {
    /// Somebody waits for an item.
    pub(super) waiting: bool,
    /// So many more are to be here.
    pub(super) items: u64,
    /// Somebody has ever wanted one.
    pub(super) ever: bool,
    /// None will come any more.
    pub(super) over: bool,
}

/// As many of these items, up to `most` small ones, as go into one block, and how many.
fn block_of(items: &[Bytes], most: u32) -> (Vec<u8>, u32) {
    let (mut block, mut count) = (Vec::new(), 0);
    for item in items {
        let large = item.len() > block::LARGEST;
        if count == most || large || (count > 0 && block.len() >= block::FULL) {
            break;
        }
        // Bytes in memory are written without fail.
        let _ = block::push(&mut block, |out| {
            out.extend_from_slice(item);
            Ok::<(), std::convert::Infallible>(())
        });
        count += 1;
    }
    (block, count)
}

impl Member {
    pub(super) fn read_lane(&mut self) {
        let (has_message, has_event) = self.ready.lane;
        if !(has_message || has_event) {
            return;
        }
        let Some(lane) = &mut self.lane else {
            return;
        };
        let local = self.settings.endpoint.transport() == crate::wire::endpoint::Transport::Inproc;
        let mut fresh = Vec::new();
        let mut pill = None;
        while let Some(bytes) = lane.socket.recv() {
            match frame::decode(&bytes) {
                Ok(Message::Items(items)) if items.run == self.run => {
                    for entry in items.entries {
                        let count = entry.items.max(1);
                        let place = lane.received;
                        lane.received += u64::from(count);
                        match lane.body((entry.id, entry.attempt), entry.place, local) {
                            Ok(body) => fresh.push(Held {
                                id: entry.id,
                                attempt: entry.attempt,
                                items: entry.items,
                                body,
                                kept: count,
                                taken: 0,
                                done: 0,
                                done_early: BTreeSet::new(),
                                lane: self.lanes,
                                place,
                                said: (0, 0),
                            }),
                            Err(why) => log::error!("an item was lost on its way: {why}"),
                        }
                    }
                }
                Ok(Message::Part(part)) if part.run == self.run => lane.add(&part),
                Ok(Message::Pill(end)) if end.run == self.run => pill = Some(end),
                Ok(other) => log::debug!("ignored on a lane: {other:?}"),
                Err(error) => log::warn!("ignored a message on a lane: {error}"),
            }
        }
        let lost = has_event && lane.socket.link_events().iter().any(LinkEvent::is_loss);
        if lost && pill.is_none() && !self.pilled {
            self.lane = None;
            // Who has said goodbye does not come back: its lane may be closed before the answer is here.
            if !self.dial.is_greeting() && self.goodbye_at.is_none() {
                self.hello();
            }
        }
        if !fresh.is_empty() {
            let mut get = self.shared.getting();
            let mut came = 0;
            for held in fresh {
                came += u64::from(held.kept);
                get.held.push_back(held);
            }
            get.untaken += came;
            let waiting = get.waiting;
            drop(get);
            match waiting {
                0 => {}
                1 => self.shared.items.notify_one(),
                _ => self.shared.items.notify_all(),
            }
            self.shared.watchers.wake();
        }
        if let Some(pill) = pill {
            self.on_pill(&pill);
        }
    }

    /// Says how far the program is; whether there was something to say.
    pub(super) fn confirm(&mut self, answer: bool) -> bool {
        let blocks;
        {
            let mut get = self.shared.getting();
            get.settle();
            let enough = std::mem::take(&mut get.prompt)
                || get.unsaid >= MANY.min(get.say_each)
                || self.confirmed.elapsed() >= ROUND
                || self.shared.is_asking();
            if !answer && (get.unsaid == 0 || !enough) {
                return get.unsaid > 0;
            }
            self.confirmed = Instant::now();
            let (said, finished) = get.progress(answer);
            blocks = said;
            let now = self.confirmed;
            self.told
                .extend(finished.into_iter().map(|held| (now, held)));
        }
        let said = !blocks.is_empty();
        if said || answer {
            self.send_confirm(blocks, answer);
        }
        said
    }

    fn send_confirm(&mut self, blocks: Vec<Confirmed>, answer: bool) {
        let mut blocks = blocks.into_iter().peekable();
        loop {
            let some: Vec<Confirmed> = blocks.by_ref().take(8_000).collect();
            let last = blocks.peek().is_none();
            let confirm = Confirm {
                kind: kind::CONFIRM,
                run: self.run,
                answer: answer && last,
                blocks: some,
            };
            self.send(encode(&confirm));
            if last {
                return;
            }
        }
    }

    /// On a new connection: what was said on the old one may not have arrived.
    pub(super) fn confirm_again(&mut self) {
        let blocks: Vec<Confirmed> = self.told.iter().map(|told| told.1).collect();
        if !blocks.is_empty() {
            self.send_confirm(blocks, false);
        }
        let mut get = self.shared.getting();
        for held in &mut get.held {
            held.said = (0, 0);
        }
        get.unsaid += 1;
        get.prompt = true;
    }

    /// What was said some time before the host was heard last has arrived there.
    pub(super) fn forget_told(&mut self) {
        let (heard, heartbeat) = (self.dial.last_heard, self.heartbeat);
        let old = |at: Instant| heard.saturating_duration_since(at) > heartbeat;
        while self.told.len() > MOST_TOLD || self.told.front().is_some_and(|told| old(told.0)) {
            self.told.pop_front();
        }
    }

    /// Says how far the program is before something is asked that depends on it.
    pub(super) fn confirm_now(&mut self) {
        self.shared.getting().prompt = true;
        self.confirm(false);
    }

    /// Gives back what was not taken, of these blocks or of all.
    pub(super) fn give_back(&mut self, which: Option<&[(TaskId, u32)]>) {
        let wanted: Option<HashSet<(TaskId, u32)>> =
            which.map(|list| list.iter().copied().collect());
        let is_wanted = |id, attempt| {
            let wanted = wanted.as_ref();
            wanted.is_none_or(|wanted| wanted.contains(&(id, attempt)))
        };
        let returned = self.shared.getting().drop_untaken(is_wanted);
        self.confirm(true);
        for some in returned.chunks(30_000) {
            let list = TaskList {
                kind: kind::RETURNED,
                run: self.run,
                tasks: some.to_vec(),
            };
            self.send(encode(&list));
        }
    }

    /// What this member holds, for a hello; also what its program has taken all of, and of which the host has not heard.
    pub(super) fn held(&self) -> Vec<(TaskId, u32)> {
        let get = self.shared.getting();
        let held = get.held.iter().map(|held| (held.id, held.attempt));
        held.take(50_000 - MOST_TOLD)
            .chain(self.told.iter().map(|(_, told)| (told.id, told.attempt)))
            .take(50_000)
            .collect()
    }

    /// A new lane: what is here came on another one.
    pub(super) fn on_new_lane(&mut self) {
        self.lanes += 1;
        self.said = None;
        let mut get = self.shared.getting();
        get.settle();
        get.lane = self.lanes;
        get.consumed = 0;
    }

    /// The program has stopped taking: what was thought of its speed is over.
    pub(super) fn note_pause(&mut self) {
        let mut get = self.shared.getting();
        get.settle();
        if get.waiting == 0 && get.taken_in_all == self.taken_before {
            get.mean = 0;
        }
        self.taken_before = get.taken_in_all;
    }

    pub(super) fn say_credit(&mut self) {
        let Some(lane) = &self.lane else {
            return;
        };
        if self.dial.is_greeting() || self.pilled {
            return;
        }
        let mut get = self.shared.getting();
        get.settle();
        let target = get.target();
        let credit = Credit {
            kind: kind::CREDIT,
            run: self.run,
            tasks: lane.received + target.saturating_sub(get.untaken),
            bytes: get.consumed + lane.spilled + BUDGET,
            taken: get.passed(lane.received),
            running: u32::from(get.waiting == 0),
        };
        // While the host believes that something lies here, it asks nobody else for anything.
        let is_dry = get.waiting > 0 && get.untaken == 0;
        drop(get);
        let is_late = is_dry && self.credited.elapsed() >= ROUND;
        let worth_saying = self.said.is_none_or(|said: Credit| {
            let unused = said.tasks.saturating_sub(lane.received);
            let more = credit.tasks.saturating_sub(said.tasks);
            said.running != credit.running
                || (is_late && said.taken != credit.taken)
                || credit.tasks < said.tasks
                || more > unused / 2
                || credit.bytes.saturating_sub(said.bytes) > BUDGET / 4
        });
        if worth_saying && self.said != Some(credit) {
            self.said = Some(credit);
            self.credited = Instant::now();
            self.send(encode(&credit));
        }
    }
}
