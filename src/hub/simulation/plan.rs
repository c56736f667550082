//! What one seed stands for: how many workers and tasks, on how many machines, and what goes wrong.

use std::time::Duration;

use super::network::Weather;
use super::random::Random;

/// What can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    KillWorker,
    StopWorker,
    LeaveWorker,
    DesertWorker,
    /// Its machine is gone, and nobody is told.
    VanishWorker,
    NewWorker,
    KillSink,
    LeaveSink,
    StopSink,
    StopVentilator,
    /// The run is lost, and another one begins at the same endpoint.
    KillVentilator,
    CutLink,
    SlowLink,
    BreakConnection,
    JumpClock,
}

const FAULTS: [Fault; 14] = [
    Fault::KillWorker,
    Fault::StopWorker,
    Fault::LeaveWorker,
    Fault::DesertWorker,
    Fault::VanishWorker,
    Fault::NewWorker,
    Fault::KillSink,
    Fault::LeaveSink,
    Fault::StopSink,
    Fault::StopVentilator,
    Fault::CutLink,
    Fault::SlowLink,
    Fault::BreakConnection,
    Fault::JumpClock,
];

#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) workers: usize,
    pub(super) slots: u32,
    pub(super) tasks: u64,
    pub(super) machines: usize,
    pub(super) heartbeat: Duration,
    pub(super) patience: Duration,
    pub(super) ordered: bool,
    /// The sink's program takes results as they come, in the sink's own loop.
    pub(super) delivered: bool,
    pub(super) tries: u32,
    /// How long tasks run.
    pub(super) run_time: (Duration, Duration),
    /// Of a hundred tasks.
    pub(super) killers: u64,
    pub(super) flaky: u64,
    /// Bytes of a large body, and how many of a hundred tasks have one.
    pub(super) large: (usize, u64),
    /// How long the sink's program takes for a result.
    pub(super) keep_time: Duration,
    pub(super) faults: Vec<Fault>,
    pub(super) fault_gap: Duration,
    pub(super) fault_time: Duration,
    pub(super) weather: Weather,
}

impl Plan {
    pub(super) fn new(seed: u64) -> Self {
        let random = &mut Random::new(seed);
        let ms = Duration::from_millis;
        let us = Duration::from_micros;
        let workers = match random.below(1000) {
            0 => 300 + random.below(701),
            1..=9 => 30 + random.below(100),
            10..=99 => 6 + random.below(20),
            _ => 1 + random.below(5),
        };
        let machines = match random.below(3) {
            0 => 1,
            _ => 2 + random.below(workers.min(4)),
        };
        let tasks = match workers {
            0..=5 => 1 + random.below(120),
            _ => workers + random.below(4 * workers),
        };
        let run_time = match random.below(4) {
            0 => (us(5), us(300)),
            1 => (ms(1), ms(60)),
            2 => (ms(100), ms(1500)),
            _ => (us(50), ms(3000)),
        };
        let some = |random: &mut Random, percent: u64, value: u64| match random.chance(percent) {
            true => value,
            false => 0,
        };
        let mut faults: Vec<Fault> = FAULTS.into_iter().filter(|_| random.chance(35)).collect();
        let delivered = random.chance(20);
        if delivered {
            // As in a pool: the sink lives as long as its program.
            faults.retain(|fault| !matches!(fault, Fault::KillSink | Fault::LeaveSink));
        }
        if random.chance(12) {
            faults.push(Fault::KillVentilator);
        }
        let few = workers > 100;
        let large = match random.below(12) {
            0 if workers < 10 => (200_000 + random.below(600_000), 8),
            1..=3 => (4_000 + random.below(70_000), 20),
            _ => (0, 0),
        };
        Self {
            workers,
            slots: 1 + random.below(4) as u32,
            tasks: tasks as u64,
            machines,
            heartbeat: ms([200, 500, 1000][random.below(3)]),
            patience: Duration::from_secs(120),
            ordered: random.chance(30),
            delivered,
            tries: 1 + random.below(3) as u32,
            run_time,
            killers: some(random, 15, 2),
            flaky: some(random, 30, 10),
            large,
            keep_time: random.time(us(1)..ms(50)),
            fault_gap: random.time(ms(20)..ms(2000)),
            fault_time: if faults.is_empty() {
                Duration::ZERO
            } else {
                random.time(ms(500)..ms(if few { 3_000 } else { 15_000 }))
            },
            faults,
            weather: Weather {
                latency: random.time(us(80)..ms(60)),
                doubles: some(random, 30, 5),
            },
        }
    }
}
