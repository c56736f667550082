//! Three hosts, each a network namespace, on a network that delays, loses, is cut, and from which a host vanishes.
//!
//! Needs root, `ip` and `tc`. What cannot be made here is said, and not tested.

mod common;

use std::process::Command;
use std::time::Duration;

use common::{Program, Scene, assert_each_once, joblog, let_pass, numbers};

/// Namespaces with names of this process's own, joined by a bridge in one more; removed in the end, however that comes.
struct Network {
    name: String,
}

fn run(command: &str) -> Result<(), String> {
    let mut words = command.split(' ');
    let program = words.next().unwrap_or_default();
    let output = Command::new(program)
        .args(words)
        .output()
        .map_err(|error| format!("{command}: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!(
            "{command}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )),
    }
}

impl Network {
    fn new(hosts: u32) -> Result<Self, String> {
        // Interfaces have names of at most 15 characters.
        let network = Self {
            name: format!("pr{}", std::process::id()),
        };
        let name = &network.name;
        let hub = format!("{name}h0");
        run(&format!("ip netns add {hub}"))?;
        run(&format!("ip -n {hub} link add br0 type bridge"))?;
        run(&format!("ip -n {hub} link set br0 up"))?;
        for host in 1..=hosts {
            let space = network.space(host);
            run(&format!("ip netns add {space}"))?;
            run(&format!(
                "ip -n {hub} link add v{host} type veth peer name eth0 netns {space}"
            ))?;
            run(&format!("ip -n {hub} link set v{host} master br0"))?;
            run(&format!("ip -n {hub} link set v{host} up"))?;
            run(&format!(
                "ip -n {space} addr add 10.77.0.{host}/24 dev eth0"
            ))?;
            run(&format!("ip -n {space} link set eth0 up"))?;
            run(&format!("ip -n {space} link set lo up"))?;
        }
        Ok(network)
    }

    fn space(&self, host: u32) -> String {
        format!("{}h{host}", self.name)
    }

    /// Delay and loss on what each host sends.
    fn make_bad(&self, hosts: u32) -> Result<(), String> {
        (1..=hosts).try_for_each(|host| {
            let space = self.space(host);
            run(&format!(
                "tc -n {space} qdisc add dev eth0 root netem delay 50ms loss 5%"
            ))
        })
    }

    /// The host's cable is pulled, which nobody is told, or plugged in again.
    fn plug(&self, host: u32, state: &str) {
        run(&format!("ip -n {}h0 link set v{host} {state}", self.name)).expect("a cable");
    }

    fn on(&self, scene: &Scene, host: u32, args: &[&str]) -> Program {
        scene
            .program("ip")
            .args([
                "netns",
                "exec",
                &self.space(host),
                env!("CARGO_BIN_EXE_procession"),
            ])
            .args(args)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for host in 0..=3 {
            // Those that were not made are not there.
            let _ = run(&format!("ip netns del {}", self.space(host)));
        }
    }
}

#[test]
fn a_bad_network_a_cut_and_a_host_that_vanishes_cost_no_result() {
    const TASKS: u64 = 600;
    let network = match Network::new(3) {
        Ok(network) => network,
        Err(why) => return eprintln!("NOT RUN: no network of three hosts can be made here: {why}"),
    };
    let bad = network.make_bad(3);
    if let Err(why) = &bad {
        eprintln!("without delay and loss, which this kernel does not have: {why}");
    }
    let scene = Scene::new();
    let endpoint = "tcp://10.77.0.1:5557";
    let ventilator = network
        .on(
            &scene,
            1,
            &[
                "ventilator",
                "--bind",
                endpoint,
                "--insecure",
                "sleep 0.1; echo {}",
            ],
        )
        .input(numbers(TASKS))
        .start();
    let sink = network
        .on(
            &scene,
            1,
            &[
                "sink",
                "--connect",
                endpoint,
                "--insecure",
                "--joblog",
                "log",
            ],
        )
        .start();
    let worker = |host, patience| {
        let options = [
            "worker",
            "--connect",
            endpoint,
            "--insecure",
            "-j2",
            "--patience",
            patience,
        ];
        network.on(&scene, host, &options).start()
    };
    let (cut, vanishing) = (worker(2, "60"), worker(3, "10"));
    let log = scene.path("log");
    let done = || joblog(&log).len();
    scene.until_true("both work", || done() >= 40);
    network.plug(3, "down");
    let before = done();
    scene.until_true("the other one goes on", || done() >= before + 20);
    network.plug(2, "down");
    let_pass(Duration::from_secs(20));
    let before = done();
    assert!((before as u64) < TASKS, "it was cut off before the end");
    network.plug(2, "up");
    sink.wait().assert_success();
    ventilator.wait().assert_success();
    cut.wait().assert_success();
    assert_each_once("log", joblog(&log).iter().map(|line| line.seq), 1..=TASKS);
    // It has heard nobody for its patience, and says so.
    vanishing.wait().assert_code(255);
    println!(
        "{TASKS} tasks on three hosts{}, one cut off for 20 s, one vanished: none lost, none doubled",
        if bad.is_ok() {
            ", 50 ms delay, 5 % loss"
        } else {
            ""
        }
    );
}
