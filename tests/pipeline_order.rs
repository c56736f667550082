//! Results come out complete and in order, whichever roles run where, and in whatever order they were started.

mod common;

use common::{Running, Scene, numbers, tcp};

const TASKS: u64 = 10_000;

#[test]
fn run_with_keep_order_prints_what_went_in() {
    let scene = Scene::new();
    let run = scene
        .procession(["run", "-j4", "-k", "echo", "{}"])
        .input(numbers(TASKS))
        .run();
    run.assert_success().assert_stdout(&numbers(TASKS));
    assert_eq!(run.stderr, "", "nothing to say");
    scene.assert_nothing_left();
}

#[test]
fn run_without_keep_order_prints_each_once() {
    let scene = Scene::new();
    let run = scene
        .procession(["run", "-j4", "echo"])
        .input(numbers(TASKS))
        .run();
    run.assert_success();
    let text = run.text();
    let found = text
        .lines()
        .map(|line| line.parse::<u64>().expect("a number"));
    common::assert_each_once("stdout", found, 1..=TASKS);
    scene.assert_nothing_left();
}

/// Who is started, in this order.
#[derive(Clone, Copy)]
enum Role {
    Ventilator,
    Worker,
    Sink,
}

use Role::{Sink, Ventilator, Worker};

/// Every distinct place that the ventilator and the sink may have among the workers.
const ORDERS: [[Role; 5]; 6] = [
    [Ventilator, Worker, Worker, Worker, Sink],
    [Ventilator, Sink, Worker, Worker, Worker],
    [Worker, Worker, Worker, Sink, Ventilator],
    [Sink, Worker, Worker, Worker, Ventilator],
    [Worker, Ventilator, Worker, Sink, Worker],
    [Worker, Sink, Worker, Ventilator, Worker],
];

/// Each of them says that it is there, or waits to be, before the next is started.
fn started(
    scene: &Scene,
    endpoint: &str,
    role: Role,
    tasks: u64,
    so_far: &[(Role, Running)],
) -> Running {
    let program = match role {
        Ventilator => scene
            .procession(["ventilator", "--bind", endpoint, "echo", "{}"])
            .input(numbers(tasks)),
        Worker => scene.procession(["worker", "--connect", endpoint, "-j2"]),
        Sink => scene.procession(["sink", "--connect", endpoint, "-k"]),
    };
    let running = program.start();
    let has_ventilator = so_far.iter().any(|(role, _)| matches!(role, Ventilator));
    let present = so_far.len() as u64;
    // Behind the last one the work may be done before anybody looks.
    let is_last = so_far.len() + 1 == ORDERS[0].len();
    if (has_ventilator || matches!(role, Ventilator)) && !is_last {
        scene.until("all who were started are there", || {
            let state = scene.status(endpoint)?;
            // The ventilator is not in its own list.
            let peers = state["peers"].as_array()?.len() as u64;
            (peers == present).then_some(())
        });
    }
    running
}

fn in_any_order(mut endpoint: impl FnMut(&Scene) -> String) {
    for (at, order) in ORDERS.into_iter().enumerate() {
        // The number matters once; the orders do, and they are many.
        let tasks = if at == 0 { TASKS } else { TASKS / 5 };
        let scene = Scene::new();
        let endpoint = endpoint(&scene);
        let mut all: Vec<(Role, Running)> = Vec::new();
        for role in order {
            let running = started(&scene, &endpoint, role, tasks, &all);
            all.push((role, running));
        }
        for (role, running) in all {
            let ended = running.wait();
            ended.assert_success();
            assert_eq!(ended.stderr, "", "nothing to say: {}", ended.label);
            match role {
                Sink => ended.assert_stdout(&numbers(tasks)),
                Ventilator | Worker => ended.assert_stdout(b""),
            };
        }
        scene.assert_nothing_left();
    }
}

#[test]
fn separate_processes_over_ipc_start_in_any_order() {
    in_any_order(|scene| scene.ipc("v"));
}

#[test]
fn separate_processes_over_tcp_start_in_any_order() {
    in_any_order(|_| tcp());
}
