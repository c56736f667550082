//! The ledger of a queue in virtual time: putters, getters that take, confirm, give back, are asked to, leave, and die, all from one
//! seed, next to a model that knows where each item is. No item is lost or in two places, the counts are exact, and a single
//! getter sees each putter's order.
//!
//! A failure names its seed; `SEED=n cargo test --test block_simulation` replays it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use procession::Body;
use procession::hub::ledger::{Action, Gone, Ledger};
use procession::wire::block;
use procession::wire::frame::Confirmed;

/// A small generator of our own, so that a seed means the same for ever (xorshift64*).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }
}

fn block_of(items: std::ops::Range<u64>) -> Body {
    let mut bytes = Vec::new();
    for item in items {
        block::push(&mut bytes, |out| {
            out.extend_from_slice(&item.to_be_bytes());
            Ok::<(), ()>(())
        })
        .expect("it can be written");
    }
    Body::from(bytes)
}

fn number(bytes: &[u8]) -> u64 {
    u64::from_be_bytes(bytes.try_into().expect("eight bytes"))
}

fn items_of(body: &Body, items: u32) -> Vec<u64> {
    let bytes = body.to_bytes().expect("it is in memory");
    if items == 0 {
        return vec![number(&bytes)];
    }
    let (mut at, mut all) = (0, Vec::new());
    while let Some((range, next)) = block::item(&bytes, at) {
        all.push(number(&bytes[range]));
        at = next;
    }
    assert_eq!(all.len(), items as usize, "a block has what it says");
    all
}

/// A block at a getter.
struct Held {
    id: u64,
    attempt: u32,
    items: Vec<u64>,
    kept: u32,
    taken: u32,
    done: u32,
    /// Items that came before it.
    place: u64,
}

impl Held {
    fn left(&self) -> u64 {
        u64::from(self.kept - self.taken)
    }

    fn confirmed(&self) -> Confirmed {
        Confirmed {
            id: self.id,
            attempt: self.attempt,
            kept: self.kept,
            taken: self.taken,
            done: self.done,
        }
    }
}

#[derive(Default)]
struct Getter {
    held: VecDeque<Held>,
    received: u64,
    /// Has it been asked to give back, and what.
    revoked: Option<Vec<(u64, u32)>>,
    order: Vec<u64>,
}

impl Getter {
    fn untaken(&self) -> u64 {
        self.held.iter().map(Held::left).sum()
    }

    /// How far it is on its lane; what it gave back behind an item that it has not taken is not passed.
    fn passed(&self) -> u64 {
        let next = self.held.iter().find(|held| held.left() > 0);
        next.map_or(self.received, |held| held.place + u64::from(held.taken))
    }
}

struct Simulation {
    random: Random,
    now: Duration,
    ledger: Ledger,
    joinable: bool,
    single: bool,
    getters: BTreeMap<u64, Getter>,
    next_getter: u64,
    /// A getter that takes nothing any more, and lives.
    asleep: Option<u64>,
    put: u64,
    goal: u64,
    /// How often each item was taken, and done with as the ledger was told.
    taken: BTreeMap<u64, u32>,
    done: BTreeSet<u64>,
    /// Items that somebody had when it died or left without having said so: these may be taken again.
    excused: BTreeSet<u64>,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        Self {
            joinable: random.chance(50),
            single: random.chance(30),
            goal: 1 + random.below(2_000),
            random,
            now: Duration::ZERO,
            ledger: Ledger::new(),
            getters: BTreeMap::new(),
            next_getter: 1,
            asleep: None,
            put: 0,
            taken: BTreeMap::new(),
            done: BTreeSet::new(),
            excused: BTreeSet::new(),
        }
    }

    fn put(&mut self) {
        let left = self.goal - self.put;
        if left == 0 {
            return;
        }
        if self.random.chance(20) {
            let body = Body::from(self.put.to_be_bytes().to_vec());
            self.ledger.put_block(body, 0);
            self.put += 1;
        } else {
            let most = if self.random.chance(20) { 400 } else { 12 };
            let items = (1 + self.random.below(most)).min(left);
            let body = block_of(self.put..self.put + items);
            self.ledger.put_block(body, items as u32);
            self.put += items;
        }
    }

    fn join(&mut self) {
        let id = self.next_getter;
        self.next_getter += 1;
        self.getters.insert(id, Getter::default());
        self.ledger.join(id, 1, &[], self.now);
        self.credit(id);
    }

    fn credit(&mut self, id: u64) {
        let want = match self.random.below(4) {
            0 => 0,
            1 => 1,
            2 => 1 + self.random.below(20),
            _ => self.random.below(600),
        };
        let Some(getter) = self.getters.get(&id) else {
            return;
        };
        let untaken = getter.untaken();
        let (want, running) = match self.asleep {
            Some(asleep) if asleep == id => (0, true),
            Some(_) if untaken == 0 => (want.max(1), false),
            _ => (want, self.random.chance(50)),
        };
        let tasks = getter.received + want.saturating_sub(untaken);
        self.ledger
            .credit(id, tasks, u64::MAX, getter.passed(), running.into());
    }

    /// Its program takes some, and is done with some.
    fn take(&mut self, id: u64) {
        if self.asleep == Some(id) {
            return;
        }
        let Some(getter) = self.getters.get_mut(&id) else {
            return;
        };
        for _ in 0..self.random.below(30) {
            let Some(held) = getter.held.iter_mut().find(|held| held.left() > 0) else {
                break;
            };
            let item = held.items[held.taken as usize];
            held.taken += 1;
            getter.order.push(item);
            let times = self.taken.entry(item).or_default();
            *times += 1;
            assert!(
                *times == 1 || self.excused.contains(&item),
                "item {item} was taken twice, and nobody who had it is gone"
            );
        }
        for held in &mut getter.held {
            if !self.joinable {
                held.done = held.taken;
            } else if held.done < held.taken {
                held.done += self.random.below(u64::from(held.taken - held.done) + 1) as u32;
            }
        }
    }

    fn confirm(&mut self, id: u64) {
        let Some(getter) = self.getters.get_mut(&id) else {
            return;
        };
        for held in &getter.held {
            self.ledger.confirm(id, &held.confirmed());
            self.done.extend(&held.items[..held.done as usize]);
        }
        getter.held.retain(|held| held.done < held.kept);
    }

    /// Gives back what was asked for, or all.
    fn give_back(&mut self, id: u64, all: bool) {
        let Some(getter) = self.getters.get_mut(&id) else {
            return;
        };
        let list = getter.revoked.take();
        if list.is_none() && !all {
            return;
        }
        let mut back = Vec::new();
        getter.held.retain_mut(|held| {
            let asked = list
                .as_ref()
                .is_some_and(|list| list.contains(&(held.id, held.attempt)));
            if !(asked || all) || held.left() == 0 {
                return true;
            }
            if held.taken == 0 {
                back.push((held.id, held.attempt));
                return false;
            }
            held.kept = held.taken;
            true
        });
        self.confirm(id);
        self.ledger.has_given_back(id);
        self.ledger.returned(id, &back);
    }

    /// It dies, or leaves after having said all.
    fn end(&mut self, id: u64) {
        let leaves = self.random.chance(50);
        if leaves {
            self.give_back(id, true);
        }
        let Some(getter) = self.getters.remove(&id) else {
            return;
        };
        for held in &getter.held {
            // Taken and not known to be done with.
            self.excused
                .extend(&held.items[held.done as usize..held.taken as usize]);
            self.excused.extend(
                held.items[..held.taken as usize]
                    .iter()
                    .filter(|item| !self.done.contains(item)),
            );
        }
        self.ledger.gone(id, Gone::Left);
    }

    fn act(&mut self) {
        self.ledger.set_clock(self.now);
        self.ledger.deal();
        for action in self.ledger.actions() {
            match action {
                Action::Lease { to, tasks } => {
                    for (id, attempt, _) in tasks {
                        let items = self.ledger.items(id);
                        let body = self.ledger.body(id).expect("what is leased is there");
                        let items = items_of(body, items);
                        let getter = self.getters.get_mut(&to).expect("who gets it is there");
                        let place = getter.received;
                        getter.received += items.len() as u64;
                        for item in &items {
                            assert!(!self.done.contains(item), "item {item} was done with");
                        }
                        getter.held.push_back(Held {
                            id,
                            attempt,
                            kept: items.len() as u32,
                            items,
                            taken: 0,
                            done: 0,
                            place,
                        });
                    }
                }
                Action::Revoke { from, tasks } => {
                    if let Some(getter) = self.getters.get_mut(&from) {
                        assert!(getter.revoked.is_none(), "asked twice");
                        getter.revoked = Some(tasks);
                    }
                }
                Action::Condemn { id, .. } => panic!("block {id} was condemned"),
            }
        }
    }

    /// Where each item is, as the getters know it, is what the ledger counts.
    fn check(&mut self) {
        let ids: Vec<u64> = self.getters.keys().copied().collect();
        for id in ids {
            self.confirm(id);
        }
        let mut inside: BTreeSet<u64> = (0..self.put).collect();
        let mut unfinished = inside.clone();
        for item in &self.done {
            inside.remove(item);
            unfinished.remove(item);
        }
        let mut at: BTreeMap<u64, u64> = BTreeMap::new();
        for (id, getter) in &self.getters {
            for held in &getter.held {
                for (index, item) in held.items[..held.kept as usize].iter().enumerate() {
                    if !self.done.contains(item) {
                        let other = at.insert(*item, *id);
                        assert!(other.is_none(), "item {item} is at {other:?} and at {id}");
                    }
                    if index < held.taken as usize {
                        inside.remove(item);
                    }
                }
            }
        }
        assert_eq!(self.ledger.items_inside(), inside.len() as u64, "inside");
        assert_eq!(
            self.ledger.items_unfinished(),
            unfinished.len() as u64,
            "unfinished"
        );
        assert_eq!(
            self.ledger.waiting(),
            unfinished
                .iter()
                .filter(|item| !at.contains_key(item))
                .count() as u64,
            "waiting"
        );
    }

    fn step(&mut self, faults: bool) {
        self.now += Duration::from_millis(self.random.below(80));
        if self.random.chance(60) {
            self.put();
        }
        let most = if self.single { 1 } else { 5 };
        if self.getters.is_empty() || (self.getters.len() < most && self.random.chance(10)) {
            self.join();
        }
        let ids: Vec<u64> = self.getters.keys().copied().collect();
        for id in ids {
            match self.random.below(6) {
                0 | 1 => self.take(id),
                2 => self.confirm(id),
                3 | 4 => self.credit(id),
                _ => self.give_back(id, false),
            }
            if faults && !self.single && self.random.chance(1) {
                self.end(id);
            }
        }
        self.act();
        if self.random.chance(10) {
            self.check();
        }
    }

    fn run(&mut self) {
        for _ in 0..60 {
            self.step(true);
        }
        if !self.single && self.random.chance(50) {
            // What it holds is to come to the others.
            self.asleep = self.getters.keys().next().copied();
            self.join();
        }
        let mut steps = 0;
        while self.put < self.goal || self.ledger.items_unfinished() > 0 {
            self.step(false);
            if self.joinable {
                // In the end everybody is done with everything.
                for getter in self.getters.values_mut() {
                    for held in &mut getter.held {
                        held.done = held.taken;
                    }
                }
            }
            steps += 1;
            assert!(
                steps < 20_000,
                "it does not end: {} of {} done, {} wait",
                self.done.len(),
                self.goal,
                self.ledger.waiting()
            );
        }
        self.ledger.end();
        assert!(self.ledger.is_over() && self.ledger.is_drained());
        assert_eq!(self.done.len() as u64, self.goal, "each item is done with");
        assert_eq!(self.taken.len() as u64, self.goal, "each item was taken");
        if self.single {
            for getter in self.getters.values() {
                let ordered: Vec<u64> = (0..self.goal).collect();
                assert_eq!(getter.order, ordered, "in the order of the puts");
            }
        }
    }
}

#[test]
fn each_item_is_in_one_place_whatever_happens() {
    if let Some(seed) = std::env::var("SEED")
        .ok()
        .and_then(|text| text.parse().ok())
    {
        Simulation::new(seed).run();
        return;
    }
    for seed in 1..=2_000 {
        let outcome = std::panic::catch_unwind(|| Simulation::new(seed).run());
        assert!(outcome.is_ok(), "seed {seed} failed; see above");
    }
}
