//! Peers that mean ill, on the ports of a run that goes on: garbage, half a handshake, another protocol or socket, connections by the
//! thousand, a flood of hellos. Others notice nothing.

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use common::{Ended, Running, Scene, assert_same_lines, numbers, tcp};
use procession::wire::frame::{Hello, MAGIC, Message, VERSION, decode, encode, kind};

/// A run of 1 to 300 at `endpoint`, whose worker is another process; it does not end before its input does.
struct Run<'a> {
    scene: &'a Scene,
    endpoint: &'a str,
    /// The options by which others come to it.
    reach: &'a [&'a str],
    run: Running,
    worker: Running,
}

impl<'a> Run<'a> {
    fn start(scene: &'a Scene, endpoint: &'a str, reach: &'a [&'a str], more: &[&str]) -> Self {
        let run = scene
            .procession(["run", "-k", "-j0", "--bind", endpoint])
            .args(reach)
            .args(more)
            .arg("echo {}")
            .open_input()
            .start();
        let words = ["worker", "-j2", "--connect", endpoint];
        let worker = scene.procession(words).args(reach).start();
        let run = Self {
            scene,
            endpoint,
            reach,
            run,
            worker,
        };
        scene.until_true("the worker", || run.turned_away().is_some());
        run
    }

    /// How many were turned away, once the worker is there.
    fn turned_away(&self) -> Option<u64> {
        let words = ["status", "--json", "--connect", self.endpoint];
        let status = self.scene.procession(words).args(self.reach).run();
        let state: serde_json::Value = serde_json::from_slice(&status.stdout).ok()?;
        let peers = state["peers"].as_array()?;
        peers.iter().find(|peer| peer["role"] == "worker")?;
        state["turned_away"].as_u64()
    }

    fn address(&self) -> &str {
        self.endpoint.strip_prefix("tcp://").expect("tcp")
    }

    /// Its input comes, and all is well.
    fn assert_goes_on(mut self) -> (Ended, Ended) {
        if let Some(mut input) = self.run.stdin.take() {
            input.write_all(&numbers(300)).expect("it reads");
        }
        let (run, worker) = (self.run.wait(), self.worker.wait());
        run.assert_success();
        worker.assert_success();
        assert_same_lines("output", &run.stdout, &numbers(300));
        assert!(!run.stderr.contains("died"), "{}", run.stderr);
        (run, worker)
    }
}

fn greeting(version: u8, mechanism: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 64];
    bytes[0] = 0xff;
    bytes[9] = 0x7f;
    bytes[10] = version;
    bytes[12..12 + mechanism.len()].copy_from_slice(mechanism);
    bytes
}

#[test]
fn garbage_and_half_a_handshake_harm_nobody() {
    for reach in [&[][..], &["--insecure"]] {
        let scene = Scene::new();
        let endpoint = tcp();
        let run = Run::start(&scene, &endpoint, reach, &[]);
        let says: Vec<Vec<u8>> = vec![
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
            b"\x16\x03\x01\x02\x00".to_vec(),
            vec![0; 1000],
            vec![0xff; 100_000],
            greeting(3, b"NULL")[..10].to_vec(),
            greeting(3, b"NULL")[..40].to_vec(),
            greeting(3, b"PLAIN"),
            greeting(3, b"CURVE"),
            greeting(1, b""),
            greeting(0, b""),
            // A greeting, and then a command of 2^60 bytes.
            [&greeting(3, b"NULL")[..], &[6, 0x10, 0, 0, 0, 0, 0, 0, 0]].concat(),
            [&greeting(3, b"CURVE")[..], &[4, 200], &[7; 200]].concat(),
            Vec::new(),
        ];
        let mut held = Vec::new();
        for bytes in &says {
            for stays in [true, false] {
                let mut stranger = TcpStream::connect(run.address()).expect("it listens");
                // It may have had enough before we have said all.
                let _ = stranger.write_all(bytes);
                if stays {
                    held.push(stranger);
                }
            }
        }
        run.assert_goes_on();
    }
}

#[test]
fn another_type_of_socket_and_another_version_are_refused() -> Result<(), Box<dyn std::error::Error>>
{
    let scene = Scene::new();
    let endpoint = tcp();
    let run = Run::start(&scene, &endpoint, &["--insecure"], &[]);
    let context = zmq::Context::new();
    for kind in [
        zmq::PUSH,
        zmq::PULL,
        zmq::PUB,
        zmq::SUB,
        zmq::PAIR,
        zmq::REQ,
        zmq::ROUTER,
    ] {
        let stranger = context.socket(kind)?;
        stranger.set_linger(0)?;
        stranger.connect(&endpoint)?;
        for _ in 0..10 {
            let _ = stranger.send_multipart([&b"x"[..], b"", b"y"], zmq::DONTWAIT);
        }
    }
    let old = context.socket(zmq::DEALER)?;
    old.set_rcvtimeo(60_000)?;
    old.set_linger(0)?;
    old.connect(&endpoint)?;
    old.send(encode(&hello(1, VERSION + 1)), 0)?;
    let answer = decode(&old.recv_bytes(0)?.into())?;
    assert!(matches!(answer, Message::Refused(_)), "{answer:?}");
    run.assert_goes_on();
    Ok(())
}

fn hello(peer: u64, version: u16) -> Hello {
    Hello {
        kind: kind::HELLO,
        magic: MAGIC.to_owned(),
        version,
        role: 0,
        peer,
        run: 0,
        via: 2,
        slots: 1,
        host: "ant".to_owned(),
        machine: String::new(),
        pid: 1,
        held: vec![],
        ordered: false,
        endpoints: vec![],
        rings: false,
        key: String::new(),
    }
}

#[test]
fn a_flood_of_hellos_is_slowed_down_and_no_more_come_than_may()
-> Result<(), Box<dyn std::error::Error>> {
    let scene = Scene::new();
    let endpoint = tcp();
    let limits = ["--limit=peers=8,joins=20"];
    let run = Run::start(&scene, &endpoint, &["--insecure"], &limits);
    let context = zmq::Context::new();
    let flood = context.socket(zmq::DEALER)?;
    flood.set_linger(0)?;
    flood.set_rcvtimeo(60_000)?;
    flood.connect(&endpoint)?;
    for peer in 0..500 {
        flood.send(encode(&hello(1000 + peer, VERSION)), 0)?;
    }
    let (mut welcomed, mut refused) = (0, 0);
    while welcomed + refused < 500 {
        match decode(&flood.recv_bytes(0)?.into())? {
            Message::Welcome(_) => welcomed += 1,
            Message::Refused(refusal) => {
                refused += 1;
                assert!(refusal.again, "{}", refusal.why);
                assert!(refusal.why.contains("--limit"), "{}", refusal.why);
            }
            // Each has the route of the one before it, which is told so.
            _ => {}
        }
    }
    assert!(welcomed <= 8, "{welcomed} were let in");
    assert!(run.turned_away().is_some_and(|number| number >= 492));
    drop(flood);
    run.assert_goes_on();
    Ok(())
}

#[test]
fn a_message_beyond_the_limit_costs_its_sender_the_connection()
-> Result<(), Box<dyn std::error::Error>> {
    let scene = Scene::new();
    let endpoint = tcp();
    let run = Run::start(&scene, &endpoint, &["--insecure"], &["--limit=message=4K"]);
    let mut stranger = TcpStream::connect(run.address())?;
    stranger.set_read_timeout(Some(Duration::from_secs(60)))?;
    stranger.write_all(&greeting(3, b"NULL"))?;
    let mut ready = b"\x04\x1c\x05READY\x0bSocket-Type\0\0\0\x06DEALER".to_vec();
    ready[1] = u8::try_from(ready.len() - 2)?;
    stranger.write_all(&ready)?;
    let mut seen = [0; 64];
    stranger.read_exact(&mut seen)?;
    // A long frame of 5,000 bytes.
    stranger.write_all(&[2, 0, 0, 0, 0, 0, 0, 0x13, 0x88])?;
    let _ = stranger.write_all(&[0; 5000]);
    let mut rest = Vec::new();
    // The end, or a reset: it is closed either way.
    let closed = stranger.read_to_end(&mut rest);
    assert!(
        !matches!(&closed, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock),
        "it is still open"
    );
    run.assert_goes_on();
    Ok(())
}

/// What the kernel says of a process's memory, in KiB.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

/// A peer that sends more than the host reads: what waits is bounded, and the rest stays with the sender.
#[test]
fn what_one_peer_makes_the_host_hold_is_bounded() -> Result<(), Box<dyn std::error::Error>> {
    let scene = Scene::new();
    let endpoint = tcp();
    let run = Run::start(&scene, &endpoint, &["--insecure"], &["--limit=memory=4M"]);
    let context = zmq::Context::new();
    let flood = context.socket(zmq::DEALER)?;
    flood.set_linger(0)?;
    flood.set_sndhwm(10)?;
    flood.set_sndtimeo(100)?;
    flood.connect(&endpoint)?;
    // The host stands still, so it reads nothing.
    run.run.signal(common::Signal::STOP);
    let before = resident(run.run.pid());
    let message = vec![0xc1; 900 << 10];
    let end = Instant::now() + Duration::from_secs(10);
    let mut sent = 0;
    while sent < 500 && Instant::now() < end && flood.send(&message[..], 0).is_ok() {
        sent += 1;
    }
    run.run.signal(common::Signal::CONT);
    // As soon as it goes on it finds what has come, and hears this one no more; what it held meanwhile is what counts.
    assert!(sent < 500, "all was taken");
    scene.until_true("it is turned away", || {
        run.turned_away().is_some_and(|n| n > 0)
    });
    let after = resident(run.run.pid());
    assert!(
        after < before + (64 << 10),
        "{before} KiB became {after} KiB"
    );
    drop(flood);
    run.assert_goes_on();
    Ok(())
}

/// Ten thousand connections, or as many as this machine allows; they say nothing.
#[test]
fn thousands_of_silent_connections_harm_nobody() {
    let scene = Scene::new();
    let endpoint = tcp();
    let run = Run::start(&scene, &endpoint, &[], &[]);
    // In a process of its own, whose limit of descriptors is its own.
    let script = "import resource, socket, sys, time
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 12000), hard))
host, port = sys.argv[1].split(':')
held = []
try:
    while len(held) < 10000: held.append(socket.create_connection((host, int(port)), 10))
except OSError as error: print(error, file=sys.stderr)
print(len(held), flush=True)
sys.stdin.read()";
    let mut crowd = scene
        .program("python3")
        .args(["-c", script, run.address()])
        .open_input()
        .start();
    let there = scene.until("the crowd", || {
        let said = String::from_utf8_lossy(&crowd.stdout_so_far()).into_owned();
        said.trim().parse::<u64>().ok()
    });
    assert!(there > 500, "only {there} could connect");
    run.assert_goes_on();
    drop(crowd.stdin.take());
    crowd.wait();
}

/// What a worker of another run has is not taken: each result names its run.
#[test]
fn results_of_another_run_are_not_taken() -> Result<(), Box<dyn std::error::Error>> {
    let scene = Scene::new();
    let endpoint = tcp();
    let run = Run::start(&scene, &endpoint, &["--insecure"], &[]);
    let context = zmq::Context::new();
    let stranger = context.socket(zmq::DEALER)?;
    stranger.set_linger(0)?;
    stranger.set_rcvtimeo(60_000)?;
    stranger.connect(&endpoint)?;
    stranger.send(encode(&hello(7, VERSION)), 0)?;
    let Message::Welcome(welcome) = decode(&stranger.recv_bytes(0)?.into())? else {
        return Err("it was not welcomed".into());
    };
    let results = welcome
        .endpoints
        .iter()
        .find(|at| at.starts_with("tcp"))
        .ok_or("no results")?;
    let link = context.socket(zmq::PUSH)?;
    link.set_linger(0)?;
    link.connect(&results.replace('*', "127.0.0.1"))?;
    // Recorded in another run: the right form, the wrong run.
    for id in 1..=300u64 {
        let entry = (id, 1, 0, 0, 0, "forged");
        link.send(
            rmp_serde::to_vec(&(kind::RESULTS, welcome.run ^ 1, 7u64, 1, vec![entry]))?,
            0,
        )?;
    }
    stranger.send(
        encode(&procession::wire::frame::Goodbye {
            kind: kind::GOODBYE,
            run: welcome.run,
            why: String::new(),
            end: false,
        }),
        0,
    )?;
    let (ended, _) = run.assert_goes_on();
    assert!(!ended.text().contains("forged"));
    Ok(())
}
