//! The course of a simulated run: processes that start and end, the programs around the event loops (input, slots, output), and
//! faults; and what must hold, whatever happens.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::clock::Instant;
use super::network::{self, Machine, NOBODY, ProcessId, network};
use super::plan::{Fault, Plan};
use super::process::Loop;
use super::random::Random;
use crate::error::{Error, Result};
use crate::hub::consumer::{self, Assigned, Consumer, Want};
use crate::hub::gather::{self, Arrived, Gather, Joined, KeptBox, Waited};
use crate::hub::host::{self, Host, Orders, Summary};
use crate::hub::intake::Intake;
use crate::hub::ledger::invariants::Sent;
use crate::hub::outbox::Finished;
use crate::wire::body::Body;
use crate::wire::endpoint::Endpoint;
use crate::wire::frame::{Kept, PeerId, RunId, TaskId};
use crate::wire::id_set::IdSet;
use crate::wire::runtime_dir::RuntimeDir;
use crate::wire::wake::Waker;

/// What happens to the programs.
#[derive(Clone, Debug)]
pub(in crate::hub) enum Event {
    Feed(ProcessId),
    /// A slot is ready with what it took under this number.
    Ran(ProcessId, u64),
    Keep(ProcessId),
    Fault,
    FaultsEnd,
    Mend(Machine, Machine),
    StartWorker,
    StartSink,
    StartVentilator,
}

/// What is known of a run, by those who must know it right.
#[derive(Default)]
struct Run {
    put: u64,
    /// What its sinks have kept, and how.
    log: BTreeMap<TaskId, Kept>,
    kept: IdSet,
    /// Who has a task and nothing else, and how many have died with it.
    alone: HashMap<TaskId, PeerId>,
    deaths: HashMap<TaskId, u32>,
    sent: Sent,
    waiting: u64,
    leased: u64,
    looked: u64,
}

thread_local! {
    static RUNS: RefCell<HashMap<RunId, Run>> = RefCell::new(HashMap::new());
}

fn run<R>(id: RunId, call: impl FnOnce(&mut Run) -> R) -> R {
    RUNS.with_borrow_mut(|runs| call(runs.entry(id).or_default()))
}

/// After every step of a host: what must hold.
pub(in crate::hub) fn look_at(host: &Host) {
    let checked = run(host.run_id(), |run| {
        let ledger = host.ledger();
        ledger.check_credit(&mut run.sent)?;
        run.waiting = ledger.waiting();
        run.leased = ledger.leased();
        run.alone = ledger.alone().collect();
        run.looked += 1;
        // All of it at every step where that is cheap.
        let every = 1 + run.put / 200;
        if run.looked % every != 0 {
            return Ok(());
        }
        ledger.check_tasks()?;
        host.check_peers()?;
        for (first, count) in ledger.acked().ranges() {
            for id in first..first + count {
                if !run.kept.contains(id) {
                    return Err(format!(
                        "task {id} is done, and no sink has kept its result"
                    ));
                }
            }
        }
        Ok(())
    });
    if let Err(why) = checked {
        panic!("{why}");
    }
}

/// What a sink was told at its welcome, once it was.
type Welcomed = Rc<RefCell<Option<(Joined, Arc<gather::Shared>)>>>;

enum Program {
    Ventilator {
        intake: Intake,
        run: RunId,
        ended: bool,
    },
    Worker {
        shared: Rc<RefCell<Option<Arc<consumer::Shared>>>>,
        running: HashMap<u64, Vec<Assigned>>,
        free: u32,
        started: HashSet<(TaskId, u32)>,
        /// What has ended here, and when.
        ended: HashMap<TaskId, Duration>,
        peer: PeerId,
        over: bool,
        run: RunId,
    },
    Sink {
        joined: Welcomed,
        /// Whether it has told what its log had before it came.
        told: bool,
        run: RunId,
        seen: IdSet,
        here: VecDeque<Arrived>,
        turn: BTreeMap<TaskId, Arrived>,
        mine: KeptBox,
        busy: bool,
        over: bool,
    },
}

enum Ended {
    Ventilator(Result<Summary>),
    Worker(Result<()>),
    Sink(Result<()>),
}

struct Process {
    event_loop: Option<Loop<Ended>>,
    program: Program,
}

/// What a simulated run came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Figures {
    pub(super) steps: u64,
    pub(super) tasks: u64,
    pub(super) again: u64,
    pub(super) faults: BTreeMap<&'static str, u64>,
    pub(super) seconds: u64,
}

pub(super) struct Course {
    plan: Plan,
    random: Random,
    processes: Vec<Process>,
    /// The latest of them.
    ventilator: ProcessId,
    run: RunId,
    summary: Option<Summary>,
    sink: Option<ProcessId>,
    sink_due: bool,
    workers_due: usize,
    calm: bool,
    next_id: u64,
    figures: Figures,
}

/// Longer than any patience: what has not ended by then never does.
const AFTER_FAULTS: Duration = Duration::from_secs(900);
const STEPS: u64 = 6_000_000;

/// A number that belongs to a task.
fn fate(run: RunId, id: TaskId, what: u64) -> u64 {
    Random::new(run ^ id.wrapping_mul(0xD6E8_FEB8_6659_FD93) ^ what << 56).next() >> 32
}

impl Course {
    pub(super) fn new(seed: u64) -> Self {
        let plan = Plan::new(seed);
        let mut random = Random::new(!seed);
        network::begin(Random::new(seed.rotate_left(32)), plan.weather.clone());
        RUNS.with_borrow_mut(HashMap::clear);
        random.next();
        Self {
            plan,
            random,
            processes: Vec::new(),
            ventilator: NOBODY,
            run: 0,
            summary: None,
            sink: None,
            sink_due: false,
            workers_due: 0,
            calm: false,
            next_id: 0,
            figures: Figures::default(),
        }
    }

    /// Runs to its end; what went wrong, if anything did.
    pub(super) fn run(&mut self) -> std::result::Result<Figures, String> {
        let began = network(|network| network.now);
        self.start_ventilator();
        let ms = Duration::from_millis;
        let soon = |random: &mut Random, event| {
            let time = random.time(ms(1)..ms(300));
            network(|network| network.after(time, network::Event::Program(event)));
        };
        self.sink_due = true;
        soon(&mut self.random, Event::StartSink);
        for _ in 0..self.plan.workers {
            self.workers_due += 1;
            soon(&mut self.random, Event::StartWorker);
        }
        soon(&mut self.random, Event::Fault);
        let calm_at = began + self.plan.fault_time;
        network(|network| network.at(calm_at, network::Event::Program(Event::FaultsEnd)));
        while !self.is_over() {
            let Some(event) = network(network::Network::next) else {
                return Err("nothing happens any more".to_owned());
            };
            self.figures.steps += 1;
            match event {
                network::Event::Resume(id, generation) => {
                    if network(|network| network.is_due(id, generation)) {
                        self.resume(id)?;
                    }
                }
                network::Event::Program(event) => self.on(event)?,
                event => network(|network| network.happen(event)),
            }
            let now = network(|network| network.now);
            if now > calm_at + AFTER_FAULTS || self.figures.steps > STEPS {
                return Err(format!("it does not end: {}", self.describe()));
            }
        }
        let now = network(|network| network.now);
        self.figures.seconds = (now - began).as_secs();
        self.judge()?;
        Ok(self.figures.clone())
    }

    fn describe(&self) -> String {
        let alive = |what: &str, is: fn(&Program) -> bool| {
            let those = self.processes.iter().enumerate();
            let ids: Vec<ProcessId> = those
                .filter(|(_, process)| process.event_loop.is_some() && is(&process.program))
                .map(|(id, _)| id)
                .take(5)
                .collect();
            format!("{what} {ids:?}")
        };
        let (put, kept) = run(self.run, |run| (run.put, run.kept.len()));
        let (waiting, leased) = run(self.run, |run| (run.waiting, run.leased));
        format!(
            "{}, {}, {}; {put} of {} tasks put, {waiting} wait, {leased} are leased, {kept} results kept",
            alive("ventilator", |program| matches!(
                program,
                Program::Ventilator { .. }
            )),
            alive("sink", |program| matches!(program, Program::Sink { .. })),
            alive("workers", |program| matches!(
                program,
                Program::Worker { .. }
            )),
            self.plan.tasks,
        )
    }

    fn is_over(&self) -> bool {
        self.summary.is_some()
            && self
                .processes
                .iter()
                .all(|process| process.event_loop.is_none())
    }

    /// At the end: nothing lost, nothing counted twice.
    fn judge(&mut self) -> std::result::Result<(), String> {
        let summary = self.summary.clone().unwrap_or_default();
        let tasks = self.plan.tasks;
        let (kept, failed) = run(self.run, |run| {
            (
                run.kept.len(),
                run.log.values().filter(|kept| kept.failed()).count() as u64,
            )
        });
        let expected = Summary {
            done: tasks,
            failed,
            again: summary.again,
            ..Summary::default()
        };
        if summary != expected || kept != tasks {
            return Err(format!(
                "of {tasks} tasks {kept} results were kept, and the run says {summary:?}"
            ));
        }
        self.figures.tasks = tasks;
        self.figures.again = summary.again;
        Ok(())
    }

    // ---- processes ----

    fn start(
        &mut self,
        machine: Machine,
        program: Program,
        body: impl FnOnce() -> Ended + 'static,
    ) -> ProcessId {
        let id = network(|network| network.start_process(machine));
        debug_assert_eq!(id, self.processes.len());
        self.processes.push(Process {
            event_loop: Some(Loop::new(body)),
            program,
        });
        id
    }

    fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id << 32 | self.random.next() >> 40
    }

    fn endpoint(&mut self, machine: Machine) -> Endpoint {
        let ipc = machine == 0 && self.random.chance(50);
        match ipc {
            true => Endpoint::Ipc("/simulated/control".into()),
            false => Endpoint::Tcp {
                host: if machine == 0 {
                    "127.0.0.1"
                } else {
                    "10.0.0.0"
                }
                .to_owned(),
                port: 5557,
            },
        }
    }

    fn start_ventilator(&mut self) {
        self.run = self.new_id();
        let waker = Waker::new().expect("an eventfd");
        let intake = Intake::new(waker.clone());
        let settings = host::Settings {
            listening: None,
            journal: None,
            done_before: (IdSet::new(), 0),
            // What is refused for its number is a test of its own.
            limits: crate::hub::limits::Limits {
                peers: usize::MAX,
                joins: u32::MAX,
                ..crate::hub::limits::Limits::default()
            },
            run: self.run,
            binds: vec![
                Endpoint::Ipc("/simulated/control".into()),
                Endpoint::Tcp {
                    host: "10.0.0.0".to_owned(),
                    port: 5557,
                },
            ],
            heartbeat: self.plan.heartbeat,
            patience: Duration::from_secs(3600),
            ports: None,
            advertise: None,
            job: Vec::new(),
            title: String::new(),
            tries: self.plan.tries,
            queue: None,
            keeping: None,
            one_of_many: false,
            deaths: crate::hub::ledger::DEATHS_ALONE,
            given_up: None,
        };
        let program = Program::Ventilator {
            intake: intake.clone(),
            run: self.run,
            ended: false,
        };
        let id = self.start(0, program, move || {
            let dir = RuntimeDir::create(&format!(
                "simulation{}-{:?}",
                std::process::id(),
                std::thread::current().id()
            ));
            let orders = Arc::new(Orders::default());
            let host = dir.and_then(|dir| Host::bind(settings, dir, waker, intake, orders));
            Ended::Ventilator(host.and_then(|(host, _)| host.run()))
        });
        self.ventilator = id;
        let feed = network::Event::Program(Event::Feed(id));
        network(|network| network.after(Duration::from_millis(1), feed));
    }

    fn start_worker(&mut self) {
        let machine = self.random.below(self.plan.machines);
        let settings = consumer::Settings {
            credentials: crate::wire::access::Credentials::Plain,
            endpoint: self.endpoint(machine),
            peer: self.new_id(),
            slots: self.plan.slots,
            patience: self.plan.patience,
            on_kill: None,
        };
        let shared = Rc::new(RefCell::new(None));
        let program = Program::Worker {
            shared: Rc::clone(&shared),
            running: HashMap::new(),
            free: self.plan.slots,
            started: HashSet::new(),
            ended: HashMap::new(),
            peer: settings.peer,
            over: false,
            run: 0,
        };
        self.start(machine, program, move || {
            let keep = |mine: &Arc<consumer::Shared>| {
                shared.replace(Some(Arc::clone(mine)));
            };
            let ended = Consumer::connect(settings, keep).and_then(|(consumer, ..)| consumer.run());
            Ended::Worker(ended.map(drop))
        });
    }

    fn start_sink(&mut self) {
        let machine = if self.random.chance(50) {
            0
        } else {
            self.random.below(self.plan.machines)
        };
        let (host, port) = match machine {
            0 => ("127.0.0.1", 5557),
            _ => ("10.0.0.0", 5557),
        };
        let host = host.to_owned();
        let joined_run = Arc::new(AtomicU64::new(0));
        let deliver = self.plan.delivered.then(|| {
            let of = Arc::clone(&joined_run);
            let mut seen = IdSet::new();
            Box::new(move |arrived: VecDeque<Arrived>| {
                let of = of.load(Ordering::Relaxed);
                for arrived in arrived {
                    accept(of, &arrived);
                    assert!(seen.insert(arrived.id), "task {} comes twice", arrived.id);
                    // It may be in the log from an earlier life of the sink.
                    if !run(of, |run| run.kept.contains(arrived.id)) {
                        log(of, &arrived);
                    }
                }
            }) as gather::Deliver
        });
        let settings = gather::Settings {
            credentials: crate::wire::access::Credentials::Plain,
            guard: None,
            run: 0,
            endpoint: Endpoint::Tcp { host, port },
            bind: None,
            tcp_host: None,
            ports: None,
            peer: self.new_id(),
            patience: self.plan.patience,
            ordered: self.plan.ordered,
            deliver,
        };
        let joined = Rc::new(RefCell::new(None));
        let program = Program::Sink {
            joined: Rc::clone(&joined),
            told: false,
            run: 0,
            seen: IdSet::new(),
            here: VecDeque::new(),
            turn: BTreeMap::new(),
            mine: KeptBox::default(),
            busy: false,
            over: false,
        };
        let id = self.start(machine, program, move || {
            Ended::Sink(Gather::connect(settings, |_, _| {}).and_then(
                |(gather, shared, welcome)| {
                    if welcome.is_none() {
                        // The run was over.
                        shared.leave();
                    }
                    let welcome = welcome.unwrap_or_default();
                    if !welcome.resumed {
                        // The first sink of a run begins its log anew.
                        run(welcome.run, |run| {
                            run.log.clear();
                            run.kept = IdSet::new();
                        });
                    }
                    joined_run.store(welcome.run, Ordering::Relaxed);
                    joined.replace(Some((welcome, shared)));
                    gather.run()
                },
            ))
        });
        self.sink = Some(id);
        self.sink_due = false;
    }

    fn resume(&mut self, id: ProcessId) -> std::result::Result<(), String> {
        let Some(event_loop) = &mut self.processes[id].event_loop else {
            return Ok(());
        };
        network(|network| network.current = id);
        let ended = event_loop.resume();
        if let Some(ended) = ended {
            self.processes[id].event_loop = None;
            network(|network| network.kill(id, false));
            network(|network| network.current = NOBODY);
            return self.on_end(id, ended);
        }
        let served = self.serve(id);
        network(|network| {
            network.current = NOBODY;
            network.wake_if_told(id);
        });
        served
    }

    /// What the program around a loop does when the loop has done something.
    fn serve(&mut self, id: ProcessId) -> std::result::Result<(), String> {
        match &self.processes[id].program {
            Program::Ventilator { .. } => Ok(()),
            Program::Worker { .. } => self.fill_slots(id),
            Program::Sink { .. } => self.serve_sink(id),
        }
    }

    /// As a user or a supervisor would: what has ended before its time is started again.
    fn on_end(&mut self, id: ProcessId, ended: Ended) -> std::result::Result<(), String> {
        match ended {
            Ended::Ventilator(Ok(summary)) => self.summary = Some(summary),
            Ended::Ventilator(Err(error)) => return Err(format!("the ventilator ended: {error}")),
            Ended::Worker(outcome) => {
                self.check_error(outcome.err())?;
                self.start_again(false);
            }
            Ended::Sink(outcome) => {
                self.check_error(outcome.err())?;
                if self.sink == Some(id) {
                    self.sink = None;
                    self.start_again(true);
                }
            }
        }
        Ok(())
    }

    /// What may end a worker or a sink before its time.
    fn check_error(&self, error: Option<Error>) -> std::result::Result<(), String> {
        match error {
            None | Some(Error::Refused { .. }) => Ok(()),
            // The ventilator was killed, or it ended while they could not hear it.
            Some(Error::VentilatorLost { .. } | Error::NobodyThere { .. })
                if self.summary.is_some() =>
            {
                Ok(())
            }
            Some(error) => Err(format!("a worker or sink ended: {error}")),
        }
    }

    fn start_again(&mut self, sink: bool) {
        if self.summary.is_some() {
            return;
        }
        let ms = Duration::from_millis;
        let time = self.random.time(ms(1)..ms(1500));
        let event = match sink {
            true if self.sink_due => return,
            true => {
                self.sink_due = true;
                Event::StartSink
            }
            false => {
                self.workers_due += 1;
                Event::StartWorker
            }
        };
        network(|network| network.after(time, network::Event::Program(event)));
    }

    fn kill(&mut self, id: ProcessId, gone: bool) {
        if let Program::Worker { ended, peer, .. } = &self.processes[id].program {
            // So late the word of an end may be.
            let late = Duration::from_secs(30);
            let now = network(|network| network.now);
            run(self.run, |run| {
                for (&task, _) in run.alone.iter().filter(|(_, holder)| *holder == peer) {
                    if ended.get(&task).is_none_or(|at| *at + late > now) {
                        *run.deaths.entry(task).or_default() += 1;
                    }
                }
            });
        }
        network(|network| network.kill(id, gone));
        self.processes[id].event_loop = None;
    }

    // ---- events of the programs ----

    fn on(&mut self, event: Event) -> std::result::Result<(), String> {
        match event {
            Event::Feed(id) => self.feed(id),
            Event::Ran(id, number) => return self.on_ran(id, number),
            Event::Keep(id) => return self.keep(id),
            Event::Fault => self.fault(),
            Event::FaultsEnd => self.mend_all(),
            Event::Mend(a, b) => network(|network| network.mend(a, b, 40)),
            Event::StartWorker => {
                self.workers_due -= 1;
                if self.summary.is_none() {
                    self.start_worker();
                }
            }
            Event::StartSink => {
                self.sink_due = false;
                if self.summary.is_none() && self.sink.is_none() {
                    self.start_sink();
                }
            }
            Event::StartVentilator => self.start_ventilator(),
        }
        Ok(())
    }

    /// As a process that stands still, none of its threads runs.
    fn is_stopped(&self, id: ProcessId, event: Event) -> bool {
        network(|network| {
            let until = network.process(id).stopped;
            let stopped = until > network.now;
            if stopped {
                network.at(until, network::Event::Program(event));
            }
            stopped
        })
    }

    fn within<R>(&mut self, id: ProcessId, call: impl FnOnce(&mut Self) -> R) -> R {
        network(|network| network.current = id);
        let result = call(self);
        network(|network| {
            network.current = NOBODY;
            if network.process(id).alive {
                network.wake_if_told(id);
            }
        });
        result
    }

    fn feed(&mut self, id: ProcessId) {
        if self.processes[id].event_loop.is_none() || self.is_stopped(id, Event::Feed(id)) {
            return;
        }
        let burst = 1 + self.random.below(40);
        let tasks = self.plan.tasks;
        let (large, percent) = self.plan.large;
        let done = self.within(id, |course| {
            let Program::Ventilator {
                intake,
                run: of,
                ended,
            } = &mut course.processes[id].program
            else {
                return true;
            };
            for _ in 0..burst {
                let put = run(*of, |run| run.put);
                if put == tasks {
                    intake.end();
                    *ended = true;
                    break;
                }
                if !intake.has_room() {
                    break;
                }
                let task = put + 1;
                let len = match fate(*of, task, 1) % 100 < percent {
                    true => large,
                    false => 16,
                };
                run(*of, |run| run.put += 1);
                let _ = intake.put(body_of(*of, task, len), None);
            }
            *ended
        });
        if !done {
            let ms = Duration::from_millis;
            let time = self.random.time(ms(1) / 10..ms(50));
            network(|network| network.after(time, network::Event::Program(Event::Feed(id))));
        }
    }

    fn fill_slots(&mut self, id: ProcessId) -> std::result::Result<(), String> {
        let Program::Worker {
            shared,
            running,
            free,
            started,
            over,
            run: of,
            ..
        } = &mut self.processes[id].program
        else {
            return Ok(());
        };
        let Some(shared) = shared.borrow().clone() else {
            return Ok(());
        };
        while *free > 0 && !*over {
            let want = Want {
                tasks: shared.grain().min(64),
                bytes: u64::MAX,
                deadline: Some(Instant::now()),
                until_last: false,
            };
            let Some(tasks) = shared.take(want) else {
                *over = true;
                break;
            };
            let Some(first) = tasks.first() else {
                break;
            };
            if *of == 0 {
                *of = words(&first.body).0;
            }
            let (low, high) = self.plan.run_time;
            let mut time = Duration::ZERO;
            for task in &tasks {
                if words(&task.body) != (*of, task.id) {
                    return Err(format!(
                        "task {} has the body of {:?}",
                        task.id,
                        words(&task.body)
                    ));
                }
                if !started.insert((task.id, task.attempt)) {
                    return Err(format!(
                        "task {} is started twice in attempt {}",
                        task.id, task.attempt
                    ));
                }
                time += self.random.time(low..high);
            }
            *free -= 1;
            self.next_id += 1;
            let number = self.next_id;
            running.insert(number, tasks);
            network(|network| network.after(time, network::Event::Program(Event::Ran(id, number))));
        }
        Ok(())
    }

    fn on_ran(&mut self, id: ProcessId, number: u64) -> std::result::Result<(), String> {
        if self.processes[id].event_loop.is_none() || self.is_stopped(id, Event::Ran(id, number)) {
            return Ok(());
        }
        let (killers, flaky, large) = (self.plan.killers, self.plan.flaky, self.plan.large.0);
        let Program::Worker {
            shared,
            running,
            free,
            ended,
            run: of,
            ..
        } = &mut self.processes[id].program
        else {
            return Ok(());
        };
        let of = *of;
        if let Some(tasks) = running.get(&number)
            && tasks
                .iter()
                .any(|task| fate(of, task.id, 2) % 100 < killers)
        {
            *self.figures.faults.entry("deadly tasks").or_default() += 1;
            self.kill(id, false);
            self.start_again(false);
            return Ok(());
        }
        let tasks = running.remove(&number).unwrap_or_default();
        *free += 1;
        let shared = shared.borrow().clone();
        let Some(shared) = shared else {
            return Ok(());
        };
        let killed = shared.is_killed();
        let now = network(|network| network.now);
        ended.extend(tasks.iter().map(|task| (task.id, now)));
        let finished: Vec<(Finished, u32)> = tasks
            .into_iter()
            .map(|task| {
                let fails = fate(of, task.id, 3) % 100 < flaky
                    && fate(of, task.id, 4 + u64::from(task.attempt)).is_multiple_of(2);
                let large_one = large > 0 && fate(of, task.id, 60) % 100 < 10;
                let finished = Finished {
                    obituaries: Vec::new(),
                    id: task.id,
                    attempt: task.attempt,
                    exit: i32::from(fails),
                    signal: if killed { 9 } else { 0 },
                    micros: 100,
                    body: body_of(of, task.id, if large_one { large } else { 16 }),
                    error: false,
                };
                (finished, task.tries_left)
            })
            .collect();
        self.within(id, |course| {
            shared.finish(finished);
            course.fill_slots(id)
        })
    }

    fn serve_sink(&mut self, id: ProcessId) -> std::result::Result<(), String> {
        let delivered = self.plan.delivered;
        let Program::Sink {
            joined,
            told,
            run: of,
            seen,
            here,
            turn,
            mine,
            busy,
            over,
        } = &mut self.processes[id].program
        else {
            return Ok(());
        };
        let joined = joined.borrow();
        let Some((welcome, shared)) = &*joined else {
            return Ok(());
        };
        if !std::mem::replace(told, true) {
            *of = welcome.run;
            let before: Vec<Kept> = run(*of, |run| run.log.values().copied().collect());
            for kept in before {
                seen.insert(kept.first);
                if !welcome.acked.contains(kept.first) {
                    mine.push(kept);
                }
            }
            for (first, count) in welcome.acked.ranges() {
                seen.insert_range(first, count);
            }
            shared.acknowledge(mine);
        }
        loop {
            match shared.wait(Some(Instant::now())) {
                Waited::Arrived(arrived) => {
                    for arrived in arrived {
                        let link = (arrived.worker, arrived.link);
                        *mine.absorbed.entry(link).or_default() += arrived.cost;
                        accept(*of, &arrived);
                        if seen.contains(arrived.id) {
                            // From an earlier life of the sink.
                            mine.push(arrived.kept());
                        } else if self.plan.ordered {
                            turn.insert(arrived.id, arrived);
                        } else {
                            here.push_back(arrived);
                        }
                    }
                }
                Waited::Nothing => break,
                Waited::Ended(_) => {
                    *over = true;
                    break;
                }
            }
        }
        let mut next = seen.first_missing(1);
        if self.plan.ordered {
            next = here.back().map_or(next, |last| last.id + 1);
            while seen.contains(next) {
                next += 1;
            }
            while let Some(arrived) = turn.remove(&next) {
                here.push_back(arrived);
                next += 1;
                while seen.contains(next) {
                    next += 1;
                }
            }
        }
        let work = !here.is_empty() || !mine.is_empty();
        if *over && !work {
            if delivered || turn.is_empty() {
                shared.leave();
            }
        } else if work && !std::mem::replace(busy, true) {
            let time = self.plan.keep_time;
            network(|network| network.after(time, network::Event::Program(Event::Keep(id))));
        }
        Ok(())
    }

    /// The sink's program keeps some results, and says so, sometimes later.
    fn keep(&mut self, id: ProcessId) -> std::result::Result<(), String> {
        if self.processes[id].event_loop.is_none() || self.is_stopped(id, Event::Keep(id)) {
            return Ok(());
        }
        let many = 1 + self.random.below(100);
        let later = self.random.chance(30);
        self.within(id, |course| {
            let Program::Sink {
                joined,
                run: of,
                seen,
                here,
                mine,
                busy,
                ..
            } = &mut course.processes[id].program
            else {
                return Ok(());
            };
            *busy = false;
            for arrived in here.drain(..many.min(here.len())) {
                log(*of, &arrived);
                seen.insert(arrived.id);
                mine.push(arrived.kept());
            }
            if let Some((_, shared)) = &*joined.borrow()
                && (here.is_empty() || !later)
            {
                shared.acknowledge(mine);
            }
            course.serve_sink(id)
        })
    }

    // ---- faults ----

    fn alive(&self, is: impl Fn(&Program) -> bool) -> Vec<ProcessId> {
        let all = self.processes.iter().enumerate();
        all.filter(|(_, process)| process.event_loop.is_some() && is(&process.program))
            .map(|(id, _)| id)
            .collect()
    }

    fn some_worker(&mut self) -> Option<ProcessId> {
        let workers = self.alive(|program| matches!(program, Program::Worker { .. }));
        let at = self.random.below(workers.len());
        workers.get(at).copied()
    }

    fn fault(&mut self) {
        if self.calm || self.plan.faults.is_empty() || self.summary.is_some() {
            return;
        }
        let fault = self.plan.faults[self.random.below(self.plan.faults.len())];
        if self.inflict(fault) {
            *self.figures.faults.entry(name(fault)).or_default() += 1;
        }
        let gap = self.plan.fault_gap;
        let gap = self.random.time(gap / 4..gap * 4);
        network(|network| network.after(gap, network::Event::Program(Event::Fault)));
    }

    fn inflict(&mut self, fault: Fault) -> bool {
        let ms = Duration::from_millis;
        let worker = self.some_worker();
        let a_while = self.random.time(ms(10)..ms(10_000));
        match (fault, worker) {
            (Fault::KillWorker, Some(id)) => {
                self.kill(id, false);
                self.start_again(false);
            }
            (Fault::VanishWorker, Some(id))
                if network(|network| network.process(id).machine) != 0 =>
            {
                self.kill(id, true);
                self.start_again(false);
            }
            (Fault::StopWorker, Some(id)) => network(|network| network.stop(id, a_while)),
            (Fault::LeaveWorker | Fault::DesertWorker, Some(id)) => {
                let Program::Worker { shared, .. } = &self.processes[id].program else {
                    return false;
                };
                let Some(shared) = shared.borrow().clone() else {
                    return false;
                };
                self.within(id, |_| match fault {
                    Fault::LeaveWorker => shared.leave(),
                    _ => shared.desert(),
                });
            }
            (Fault::NewWorker, _) => {
                if self
                    .alive(|program| matches!(program, Program::Worker { .. }))
                    .len()
                    > 2 * self.plan.workers
                {
                    return false;
                }
                self.start_worker();
            }
            (Fault::KillSink | Fault::LeaveSink | Fault::StopSink, _) => {
                let Some(id) = self.sink else {
                    return false;
                };
                let Program::Sink { joined, .. } = &self.processes[id].program else {
                    return false;
                };
                let shared = joined
                    .borrow()
                    .as_ref()
                    .map(|(_, shared)| Arc::clone(shared));
                match (fault, shared) {
                    (Fault::KillSink, _) => {
                        self.kill(id, false);
                        self.sink = None;
                        self.start_again(true);
                    }
                    (Fault::LeaveSink, Some(shared)) => self.within(id, |_| shared.leave()),
                    (Fault::StopSink, _) => network(|network| network.stop(id, a_while)),
                    _ => return false,
                }
            }
            (Fault::StopVentilator, _) => network(|network| network.stop(self.ventilator, a_while)),
            (Fault::KillVentilator, _) => {
                if self.processes[self.ventilator].event_loop.is_none() {
                    return false;
                }
                self.kill(self.ventilator, false);
                let time = self.random.time(ms(10)..ms(8_000));
                let event = network::Event::Program(Event::StartVentilator);
                network(|network| network.after(time, event));
            }
            (Fault::CutLink | Fault::SlowLink, _) => {
                let (a, b) = (
                    self.random.below(self.plan.machines),
                    self.random.below(self.plan.machines),
                );
                if a == b {
                    return false;
                }
                let factor = 10 + self.random.below(100) as u32;
                network(|network| {
                    match fault {
                        Fault::CutLink => network.cut(a, b),
                        _ => network.slow_down(a, b, factor),
                    }
                    network.after(a_while, network::Event::Program(Event::Mend(a, b)));
                });
            }
            (Fault::BreakConnection, _) => network(network::Network::break_one),
            (Fault::JumpClock, _) => {
                let all = self.alive(|_| true);
                let Some(&id) = all.get(self.random.below(all.len())) else {
                    return false;
                };
                network(|network| network.jump(id, a_while));
            }
            _ => return false,
        }
        true
    }

    fn mend_all(&mut self) {
        self.calm = true;
        for a in 0..self.plan.machines {
            for b in 0..a {
                network(|network| network.mend(a, b, 40));
            }
        }
    }
}

impl Drop for Course {
    fn drop(&mut self) {
        for id in 0..self.processes.len() {
            if self.processes[id].event_loop.is_some() {
                network(|network| network.current = id);
                self.kill(id, false);
            }
        }
        network::end();
    }
}

fn name(fault: Fault) -> &'static str {
    match fault {
        Fault::KillWorker => "killed workers",
        Fault::StopWorker => "stopped workers",
        Fault::LeaveWorker => "workers that left",
        Fault::DesertWorker => "workers that left at once",
        Fault::VanishWorker => "machines that vanished",
        Fault::NewWorker => "new workers",
        Fault::KillSink => "killed sinks",
        Fault::LeaveSink => "sinks that left",
        Fault::StopSink => "stopped sinks",
        Fault::StopVentilator => "stopped ventilators",
        Fault::KillVentilator => "killed ventilators",
        Fault::CutLink => "cut links",
        Fault::SlowLink => "slow links",
        Fault::BreakConnection => "broken connections",
        Fault::JumpClock => "clocks that jumped",
    }
}

/// A body says of which run and task it is.
fn body_of(run: RunId, id: TaskId, len: usize) -> Body {
    let mut bytes = Vec::with_capacity(len);
    bytes.extend_from_slice(&run.to_le_bytes());
    bytes.extend_from_slice(&id.to_le_bytes());
    bytes.resize(len.max(16), id as u8);
    Body::from(bytes)
}

fn words(body: &Body) -> (RunId, TaskId) {
    let bytes = body.to_bytes().unwrap_or_default();
    let word = |at: usize| {
        let part = bytes.get(at..at + 8).and_then(|part| part.try_into().ok());
        part.map_or(0, u64::from_le_bytes)
    };
    (word(0), word(8))
}

/// A result comes to the sink's program: it is the right one.
fn accept(of: RunId, arrived: &Arrived) {
    let id = arrived.id;
    if arrived.worker == 0 {
        let deaths = run(of, |run| run.deaths.get(&id).copied().unwrap_or_default());
        assert!(
            deaths >= crate::hub::ledger::DEATHS_ALONE.into(),
            "task {id} was given up after {deaths} deaths"
        );
        return;
    }
    let (run, task) = words(&arrived.body);
    assert!(
        (run, task) == (of, id),
        "task {id} of run {of:x} has the result of {task} of {run:x}"
    );
    let bytes = arrived.body.to_bytes().unwrap_or_default();
    assert!(
        bytes[16..].iter().all(|byte| *byte == id as u8),
        "the result of task {id} is damaged"
    );
}

/// A result is kept, once.
fn log(of: RunId, arrived: &Arrived) {
    run(of, |run| {
        let before = run.log.insert(arrived.id, arrived.kept());
        assert!(before.is_none(), "task {} has two results", arrived.id);
        run.kept.insert(arrived.id);
    });
}
