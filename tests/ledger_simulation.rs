//! The ledger in virtual time: workers that join, die, fall silent and come back, tasks that kill, messages that are late, all
//! from one seed. Whatever happens, each task has exactly one result, and the run ends when the faults end.
//!
//! A failure names its seed; `SEED=n cargo test --test ledger_simulation` replays it.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use procession::Body;
use procession::hub::ledger::{Action, Gone, Ledger};
use procession::wire::frame::Kept;

/// A small generator of our own, so that a seed means the same for ever (xorshift64*).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }
}

#[derive(Clone, Debug)]
enum ToWorker {
    Tasks(Vec<(u64, u32, u32)>),
    Revoke(Vec<(u64, u32)>),
    Done(Vec<(u64, u64)>),
    Welcome,
    Rejoin,
}

#[derive(Clone, Debug)]
enum ToHost {
    Hello(Vec<(u64, u32)>),
    Credit {
        tasks: u64,
        taken: u64,
        running: u32,
    },
    Returned(Vec<(u64, u32)>),
    Again(u64, u32),
}

#[derive(Default)]
struct Worker {
    slots: u32,
    depth: u64,
    inbox: VecDeque<(u64, u32, u32)>,
    running: Vec<(u64, u32, u32)>,
    kept: BTreeMap<u64, u32>,
    /// Tasks received on this lane, and how many of those in the inbox came on an earlier one.
    received: u64,
    old: usize,
    frozen: bool,
    to_worker: VecDeque<ToWorker>,
    to_host: VecDeque<ToHost>,
}

impl Worker {
    fn credit(&mut self) {
        let open = (self.inbox.len() + self.running.len()) as u64;
        let credit = ToHost::Credit {
            tasks: self.received + (u64::from(self.slots) + self.depth).saturating_sub(open),
            taken: self.received - self.inbox.len().saturating_sub(self.old) as u64,
            running: self.running.len() as u32,
        };
        self.to_host.push_back(credit);
    }

    /// Drops tasks from the inbox.
    fn discard(&mut self, mut which: impl FnMut(u64, u32) -> bool) {
        let mut at = 0;
        let mut old = self.old;
        self.inbox.retain(|&(id, attempt, _)| {
            let out = which(id, attempt);
            if out && at < self.old {
                old -= 1;
            }
            at += 1;
            !out
        });
        self.old = old;
    }

    fn held(&self) -> Vec<(u64, u32)> {
        self.inbox
            .iter()
            .chain(&self.running)
            .map(|&(id, attempt, _)| (id, attempt))
            .chain(self.kept.iter().map(|(&id, &attempt)| (id, attempt)))
            .collect()
    }
}

struct Simulation {
    random: Random,
    now: Duration,
    ledger: Ledger,
    workers: BTreeMap<u64, Worker>,
    next_worker: u64,
    tasks: u64,
    put: u64,
    killers: BTreeSet<u64>,
    flaky: BTreeSet<u64>,
    /// What the sink has: the first result of each task.
    sink: HashMap<u64, bool>,
    acks: VecDeque<Kept>,
    deaths: u64,
}

const PATIENCE: Duration = Duration::from_millis(300);

impl Simulation {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let tasks = 1 + random.below(300) as u64;
        let killers = (1..=tasks).filter(|_| random.chance(1)).collect();
        let flaky = (1..=tasks).filter(|_| random.chance(5)).collect();
        let mut ledger = Ledger::new();
        ledger.set_ordered(random.chance(50));
        Self {
            random,
            now: Duration::ZERO,
            ledger,
            workers: BTreeMap::new(),
            next_worker: 1,
            tasks,
            put: 0,
            killers,
            flaky,
            sink: HashMap::new(),
            acks: VecDeque::new(),
            deaths: 0,
        }
    }

    fn join(&mut self) {
        let id = self.next_worker;
        self.next_worker += 1;
        let mut worker = Worker {
            slots: 1 + self.random.below(4) as u32,
            depth: self.random.below(20) as u64,
            ..Worker::default()
        };
        worker.to_host.push_back(ToHost::Hello(Vec::new()));
        self.workers.insert(id, worker);
    }

    fn kill(&mut self, id: u64) {
        if let Some(mut worker) = self.workers.remove(&id) {
            // Some of what it had said arrives, the rest dies with it.
            let arrives = self.random.below(worker.to_host.len() + 1);
            for message in worker.to_host.drain(..arrives) {
                self.host(id, message);
            }
            self.deaths += 1;
            self.ledger.gone(id, Gone::Died);
        }
    }

    fn host(&mut self, id: u64, message: ToHost) {
        if let ToHost::Hello(held) = &message {
            let slots = self.workers.get(&id).map_or(1, |worker| worker.slots);
            self.ledger.join(id, slots, held, self.now);
            if let Some(worker) = self.workers.get_mut(&id) {
                worker.to_worker.push_back(ToWorker::Welcome);
            }
            return;
        }
        if !self.ledger.heard(id, self.now) {
            if let Some(worker) = self.workers.get_mut(&id) {
                worker.to_worker.push_back(ToWorker::Rejoin);
            }
            return;
        }
        match message {
            ToHost::Hello(_) => {}
            ToHost::Credit {
                tasks,
                taken,
                running,
            } => self.ledger.credit(id, tasks, u64::MAX, taken, running),
            ToHost::Returned(list) => self.ledger.returned(id, &list),
            ToHost::Again(task, attempt) => self.ledger.again(id, task, attempt),
        }
    }

    /// One message to a worker.
    fn deliver(&mut self, id: u64) {
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        let Some(message) = worker.to_worker.pop_front() else {
            return;
        };
        match message {
            ToWorker::Tasks(tasks) => {
                worker.received += tasks.len() as u64;
                worker.inbox.extend(tasks);
            }
            ToWorker::Revoke(list) => {
                let mut back = Vec::new();
                worker.discard(|id, attempt| {
                    let out = list.contains(&(id, attempt));
                    if out {
                        back.push((id, attempt));
                    }
                    out
                });
                worker.to_host.push_back(ToHost::Returned(back));
                worker.credit();
            }
            ToWorker::Done(ranges) => {
                for (first, count) in ranges {
                    for id in first..first + count {
                        worker.kept.remove(&id);
                        worker.discard(|task, _| task == id);
                    }
                }
            }
            ToWorker::Welcome => {
                // A new lane: what was on the old one is lost.
                worker
                    .to_worker
                    .retain(|message| !matches!(message, ToWorker::Tasks(_)));
                worker.received = 0;
                worker.old = worker.inbox.len();
                worker.credit();
            }
            ToWorker::Rejoin => {
                worker
                    .to_worker
                    .retain(|message| !matches!(message, ToWorker::Tasks(_)));
                let hello = ToHost::Hello(worker.held());
                worker.to_host.push_back(hello);
            }
        }
    }

    fn work(&mut self, id: u64) {
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        let free = (worker.running.len() as u32) < worker.slots;
        if free
            && self.random.chance(60)
            && let Some(task) = worker.inbox.pop_front()
        {
            worker.old = worker.old.saturating_sub(1);
            worker.running.push(task);
            if self.random.chance(80) {
                worker.credit();
            }
            if self.killers.contains(&task.0) {
                self.kill(id);
            }
            return;
        }
        if !worker.running.is_empty() {
            let at = self.random.below(worker.running.len());
            let (task, attempt, tries_left) = worker.running.swap_remove(at);
            if self.flaky.contains(&task) && tries_left > 0 {
                worker.to_host.push_back(ToHost::Again(task, attempt));
            } else {
                worker.kept.insert(task, attempt);
            }
            worker.credit();
        }
    }

    /// A kept result reaches the sink, perhaps not for the first time.
    fn gather(&mut self, id: u64) {
        let Some(worker) = self.workers.get(&id) else {
            return;
        };
        let kept: Vec<(u64, u32)> = worker.kept.iter().map(|(&t, &a)| (t, a)).collect();
        for (task, attempt) in kept {
            if self.random.chance(70) {
                self.sink.entry(task).or_insert(false);
                self.acks.push_back(kept_by(task, attempt, id, 0));
            }
        }
    }

    fn act(&mut self) {
        self.ledger.deal();
        for action in self.ledger.actions() {
            match action {
                Action::Lease { to, tasks } => {
                    for &(id, _, _) in &tasks {
                        assert!(
                            self.ledger.body(id).is_some(),
                            "task {id} was leased after its end"
                        );
                    }
                    if let Some(worker) = self.workers.get_mut(&to) {
                        worker.to_worker.push_back(ToWorker::Tasks(tasks));
                    }
                }
                Action::Revoke { from, tasks } => {
                    if let Some(worker) = self.workers.get_mut(&from) {
                        worker.to_worker.push_back(ToWorker::Revoke(tasks));
                    }
                }
                Action::Condemn { id, attempt, .. } => {
                    assert!(
                        self.killers.contains(&id) || self.deaths > 2,
                        "task {id} was condemned"
                    );
                    // A result of it may be on its way: the first one kept wins, at the sink.
                    self.sink.entry(id).or_insert(true);
                    self.acks.push_back(kept_by(id, attempt, 0, 255));
                }
            }
        }
        let ids: Vec<u64> = self.workers.keys().copied().collect();
        for id in ids {
            let done = self.ledger.relay(id);
            if !done.is_empty()
                && let Some(worker) = self.workers.get_mut(&id)
            {
                worker.to_worker.push_back(ToWorker::Done(done));
            }
        }
    }

    fn step(&mut self, faults: bool) {
        self.now += Duration::from_millis(self.random.below(10) as u64);
        let room = self.ledger.room().min(self.tasks - self.put);
        for _ in 0..self.random.below(room as usize + 1) {
            self.put += 1;
            self.ledger.put(Body::empty(), 3);
        }
        if self.put == self.tasks {
            self.ledger.end();
        }
        if faults {
            let random = &mut self.random;
            let victim = self
                .workers
                .keys()
                .copied()
                .nth(random.below(self.workers.len()));
            if let Some(victim) = victim {
                match random.below(40) {
                    0 => self.kill(victim),
                    1 => {
                        if let Some(worker) = self.workers.get_mut(&victim) {
                            worker.frozen = !worker.frozen;
                        }
                    }
                    2 => self.now += PATIENCE * 2,
                    _ => {}
                }
            }
        }
        if self.workers.is_empty() || (faults && self.workers.len() < 6 && self.random.chance(10)) {
            self.join();
        }
        let ids: Vec<u64> = self.workers.keys().copied().collect();
        for id in ids {
            if self
                .workers
                .get(&id)
                .is_some_and(|worker| worker.frozen && faults)
            {
                continue;
            }
            if self.random.chance(70) {
                self.deliver(id);
            }
            if self.random.chance(70) {
                self.work(id);
            }
            if self.random.chance(50) {
                self.gather(id);
            }
            if self.random.chance(70) {
                if let Some(message) = self
                    .workers
                    .get_mut(&id)
                    .and_then(|w| w.to_host.pop_front())
                {
                    self.host(id, message);
                } else {
                    // A heartbeat.
                    if !self.ledger.heard(id, self.now)
                        && let Some(worker) = self.workers.get_mut(&id)
                    {
                        let known = worker
                            .to_host
                            .iter()
                            .any(|message| matches!(message, ToHost::Hello(_)));
                        if !known {
                            worker.to_worker.push_back(ToWorker::Rejoin);
                        }
                    }
                }
            }
        }
        self.ledger.give_up_silent(self.now, PATIENCE, |_| false);
        while self.random.chance(80) {
            let Some(ack) = self.acks.pop_front() else {
                break;
            };
            self.ledger.acknowledge(&ack);
        }
        self.act();
    }

    fn run(&mut self) {
        for _ in 0..2_000 {
            self.step(true);
        }
        let mut steps = 0;
        while !self.ledger.is_over() {
            self.step(false);
            steps += 1;
            assert!(
                steps < 200_000,
                "it does not end: {} of {} done, {} waiting, {} leased, workers {:?}",
                self.ledger.totals().done,
                self.tasks,
                self.ledger.waiting(),
                self.ledger.leased(),
                self.ledger.consumers().collect::<Vec<_>>()
            );
        }
        let totals = self.ledger.totals();
        assert_eq!(totals.done, self.tasks, "each task has one result");
        assert_eq!(self.sink.len() as u64, self.tasks);
        assert_eq!(self.ledger.acked().len(), self.tasks);
        for killer in &self.killers {
            assert_eq!(
                self.sink.get(killer),
                Some(&true),
                "killer {killer} was not condemned"
            );
        }
    }
}

fn kept_by(id: u64, attempt: u32, worker: u64, exit: i32) -> Kept {
    Kept {
        first: id,
        count: 1,
        attempt,
        worker,
        exit,
        signal: 0,
        micros: 0,
    }
}

#[test]
fn each_task_has_one_result_whatever_happens() {
    if let Some(seed) = std::env::var("SEED")
        .ok()
        .and_then(|text| text.parse().ok())
    {
        Simulation::new(seed).run();
        return;
    }
    for seed in 1..=1_000 {
        let outcome = std::panic::catch_unwind(|| Simulation::new(seed).run());
        assert!(outcome.is_ok(), "seed {seed} failed; see above");
    }
}

#[test]
fn with_no_deaths_allowed_the_first_one_is_reported_and_a_task_put_alone_waits_for_an_idle_consumer()
 {
    use procession::Body;
    use procession::hub::ledger::{Action, Gone, Ledger};
    use std::time::Duration;

    let mut ledger = Ledger::new();
    ledger.set_deaths(0);
    let started = ledger.put(Body::from("a"), 1);
    let unstarted = ledger.put(Body::from("b"), 1);
    ledger.join(1, 1, &[], Duration::ZERO);
    ledger.credit(1, 10, 1 << 20, 0, 0);
    ledger.deal();
    ledger.credit(1, 10, 1 << 20, 1, 1);
    let alone = ledger.put_alone(Body::from("c"), 1);
    ledger.deal();
    let leased: Vec<u64> = ledger
        .actions()
        .into_iter()
        .filter_map(|action| match action {
            Action::Lease { tasks, .. } => Some(tasks),
            _ => None,
        })
        .flatten()
        .map(|(id, ..)| id)
        .collect();
    assert_eq!(leased, [started, unstarted]);
    assert_eq!(ledger.attempt(alone), 0, "somebody runs something else");
    ledger.gone(1, Gone::Died);
    let condemned: Vec<u64> = ledger
        .actions()
        .into_iter()
        .filter_map(|action| match action {
            Action::Condemn { id, .. } => Some(id),
            _ => None,
        })
        .collect();
    assert_eq!(condemned, [started]);
    assert_eq!(ledger.waiting(), 2);
}
