//! Who gets in by TCP, and who does not: keys, tickets, and what programs of one user find by the port.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use common::{Ended, Program, Running, Scene, assert_same_lines, numbers, tcp};

/// Another user of the machine, as far as files can tell: one with a private directory of its own.
fn by_somebody_else(scene: &Scene, program: Program) -> Program {
    let dir = scene.path("other");
    let _ = fs::create_dir(&dir);
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).expect("its mode");
    program.env("XDG_RUNTIME_DIR", dir)
}

fn keygen(scene: &Scene, name: &str) {
    scene
        .procession(["keygen", "-q", name])
        .run()
        .assert_success();
}

fn assert_says(ended: &Ended, parts: &[&str]) {
    let said = &ended.stderr;
    for part in parts {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
}

/// A run of 1 to 20 at `endpoint`, with others' workers only.
fn run_at(scene: &Scene, endpoint: &str, more: &[&str]) -> Running {
    scene
        .procession(["run", "-k", "-j0", "--bind", endpoint])
        .args(more)
        .arg("echo {}")
        .input(numbers(20))
        .start()
}

fn assert_all_done(run: Running) {
    let ended = run.wait();
    ended.assert_success();
    assert_same_lines("output", &ended.stdout, &numbers(20));
}

#[test]
fn on_loopback_programs_of_one_user_find_each_other_and_others_do_not() {
    let scene = Scene::new();
    let endpoint = tcp();
    let run = run_at(&scene, &endpoint, &[]);
    scene.until_true("the run", || scene.status(&endpoint).is_some());
    let stranger = |words: &[&str]| {
        let worker = scene.procession(["worker", "--connect", &endpoint, "--patience=1"]);
        by_somebody_else(&scene, worker.args(words)).run()
    };
    let without = stranger(&[]);
    without.assert_code(255);
    assert_says(
        &without,
        &["no ventilator of this user's", "--ticket", "--keys"],
    );
    let insecure = stranger(&["--insecure"]);
    insecure.assert_code(255);
    assert_says(&insecure, &["give --keys or --ticket"]);
    let ours = scene.procession(["worker", "--connect", &endpoint]).run();
    ours.assert_success();
    assert_all_done(run);
    scene.assert_nothing_left();
}

/// A program of another user's has taken the port: whoever connects there must not run what it says.
#[test]
fn nobody_runs_commands_of_a_stranger_who_took_the_port() {
    let scene = Scene::new();
    let endpoint = tcp();
    // Ours was killed, and has left its file.
    let mut ours = run_at(&scene, &endpoint, &[]);
    scene.until_true("the run", || scene.status(&endpoint).is_some());
    ours.kill();
    ours.wait();
    for open in [true, false] {
        let mark = scene.path("ran");
        let command = format!("touch {}", mark.display());
        let theirs = scene
            .procession(["run", "-j0", "--patience=60", "--bind", &endpoint])
            .args(open.then_some("--insecure"))
            .args([&command, ":::", "1"]);
        let mut theirs = by_somebody_else(&scene, theirs).start();
        let (_, port) = endpoint.rsplit_once(':').expect("a port");
        let address = format!("127.0.0.1:{port}");
        scene.until_true("theirs", || TcpStream::connect(&address).is_ok());
        let worker = scene
            .procession(["worker", "--connect", &endpoint, "--patience=1"])
            .run();
        worker.assert_code(255);
        assert_says(&worker, &["no ventilator of this user's"]);
        assert!(!mark.exists(), "it ran a stranger's command");
        theirs.kill();
        theirs.wait();
    }
}

#[test]
fn who_comes_before_the_ventilator_finds_its_keys_when_it_is_there() {
    let scene = Scene::new();
    let endpoint = tcp();
    let early = scene.procession(["worker", "--connect", &endpoint]).start();
    let sink = scene
        .procession(["sink", "-k", "--connect", &endpoint])
        .start();
    let ventilator = scene
        .procession(["ventilator", "--bind", &endpoint, "echo {}"])
        .input(numbers(20))
        .run();
    ventilator.assert_success();
    early.wait().assert_success();
    let sink = sink.wait();
    sink.assert_success();
    assert_same_lines("output", &sink.stdout, &numbers(20));
    scene.assert_nothing_left();
}

#[test]
fn a_ticket_lets_its_bearer_join_this_run_and_no_other() {
    let scene = Scene::new();
    let endpoint = tcp();
    let join = |ticket: &str| {
        let worker = scene.procession(["worker", "--ticket", ticket, "--patience=20"]);
        by_somebody_else(&scene, worker)
    };
    // It may come before the ticket.
    let early = join("ticket").start();
    let run = run_at(&scene, &endpoint, &["--ticket-out=ticket"]);
    scene.until_true("the ticket", || scene.path("ticket").exists());
    let mode = fs::metadata(scene.path("ticket")).map(|found| found.permissions().mode() & 0o777);
    let _ = fs::copy(scene.path("ticket"), scene.path("old"));
    early.wait().assert_success();
    assert_all_done(run);
    assert_eq!(mode.ok(), Some(0o600));
    assert!(!scene.path("ticket").exists(), "it ends with its run");

    let mut next = run_at(&scene, &endpoint, &["--ticket-out=ticket"]);
    scene.until_true("the ticket", || scene.path("ticket").exists());
    let late = join("old").run();
    late.assert_code(255);
    assert_says(&late, &["A ticket is good for one run only"]);
    next.kill();
    next.wait();
}

#[test]
fn a_ticket_on_standard_input_serves_as_well_and_a_ticket_in_argv_is_refused() {
    let scene = Scene::new();
    let endpoint = tcp();
    let run = run_at(&scene, &endpoint, &["--ticket-out=-"]);
    // What is to be pasted is on stderr.
    let line = scene.until("the ticket", || {
        let said = run.stderr_so_far();
        let (_, rest) = said.split_once("echo '")?;
        Some(rest.split_once('\'')?.0.to_owned())
    });
    let in_argv = scene.procession(["worker", "--ticket", &line]).run();
    in_argv.assert_code(255);
    assert_says(&in_argv, &["--ticket", "standard input"]);
    let secret = line.rsplit(' ').next().expect("words");
    let cut = line.strip_suffix(secret).unwrap_or_default();
    for (text, part) in [
        ("x", "it is no ticket"),
        (cut, "4 words"),
        (&line[..line.len() - 1], "damaged"),
    ] {
        let worker = scene.procession(["worker", "--ticket=-"]).input(text).run();
        worker.assert_code(255);
        assert_says(&worker, &[part]);
        assert!(!worker.stderr.contains(secret));
    }
    let worker = scene.procession(["worker", "--ticket=-"]).input(line);
    by_somebody_else(&scene, worker).run().assert_success();
    assert_all_done(run);
}

/// Three processes with no private directory in common.
#[test]
fn with_keys_those_join_whose_key_is_in_the_list() {
    let scene = Scene::new();
    let endpoint = tcp();
    keygen(&scene, "ant");
    keygen(&scene, "bee");
    fs::copy(scene.path("ant/server.key"), scene.path("bee/server.key")).expect("a copy");
    let run = run_at(&scene, &endpoint, &["--keys=ant"]);
    scene.until_true("the run", || scene.status(&endpoint).is_some());
    let worker = |keys: &str| {
        let worker = scene.procession(["worker", "--connect", &endpoint, "--keys", keys]);
        by_somebody_else(&scene, worker).run()
    };
    let refused = worker("bee");
    refused.assert_code(255);
    assert_says(&refused, &["is not among those that may join", "clients"]);
    // Whoever runs the ventilator reads who was turned away.
    scene.until_true("the run says it", || {
        run.stderr_so_far().contains("turned away a peer whose key")
    });
    // Let in while it runs.
    let list = scene.path("ant/clients/bee.key");
    fs::copy(scene.path("bee/client.key"), list).expect("a copy");
    worker("bee").assert_success();
    assert_all_done(run);
}

#[test]
fn who_has_another_servers_key_does_not_join() {
    let scene = Scene::new();
    let endpoint = tcp();
    keygen(&scene, "ant");
    keygen(&scene, "bee");
    let mut run = run_at(&scene, &endpoint, &["--keys=ant"]);
    scene.until_true("the run", || scene.status(&endpoint).is_some());
    let worker = scene.procession(["worker", "--connect", &endpoint, "--keys=bee"]);
    let worker = by_somebody_else(&scene, worker).run();
    worker.assert_code(255);
    assert_says(
        &worker,
        &["server.key has to be that of the ventilator's host"],
    );
    run.kill();
    run.wait();
}

#[test]
fn keys_that_others_can_read_or_write_are_refused() {
    let scene = Scene::new();
    keygen(&scene, "keys");
    let again = scene.procession(["keygen", "keys"]).run();
    again.assert_code(255);
    assert_says(&again, &["there is a key already"]);
    for (file, mode, needed, role) in [
        ("server.key_secret", 0o640, 0o600, "run"),
        ("client.key_secret", 0o604, 0o600, "worker"),
        ("server.key", 0o666, 0o600, "worker"),
        ("clients", 0o777, 0o700, "run"),
        (".", 0o775, 0o700, "run"),
    ] {
        let path = scene.path("keys").join(file);
        let set = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode));
        set(mode).expect("its mode");
        let at = match role {
            "run" => ["run", "--bind=tcp://127.0.0.1:*", "--keys=keys", "true"],
            _ => ["worker", "--connect=tcp://127.0.0.1:9", "--keys=keys", "-q"],
        };
        let ended = scene.procession(at).run();
        ended.assert_code(255);
        let fix = format!("chmod {needed:04o}");
        assert_says(&ended, &[&format!("{mode:04o}"), &fix]);
        set(needed).expect("its mode");
    }
}

#[test]
fn beyond_loopback_each_way_in_is_named() {
    let scene = Scene::new();
    let bind = scene.procession(["run", "--bind=tcp://*:*", "true"]).run();
    bind.assert_code(255);
    assert_says(&bind, &["--keys", "--ticket-out", "--insecure"]);
    let connect = scene
        .procession(["worker", "--connect=tcp://192.0.2.7:9"])
        .run();
    connect.assert_code(255);
    assert_says(&connect, &["--keys", "--ticket", "--insecure"]);
}

/// The mechanism that a ZeroMQ socket announces in its greeting (ZMTP 3.1, 64 bytes, of which 20 from the 12th).
fn mechanism(port: u16) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .ok()?;
    let mut greeting = [0; 64];
    greeting[0] = 0xff;
    greeting[9] = 0x7f;
    greeting[10] = 3;
    greeting[11] = 1;
    // Signature and version: behind our mechanism, which is another, it would close the connection.
    stream.write_all(&greeting[..12]).ok()?;
    let mut answer = [0; 64];
    stream.read_exact(&mut answer).ok()?;
    let name = answer[12..32].split(|byte| *byte == 0).next()?;
    Some(String::from_utf8_lossy(name).into_owned())
}

/// Somebody says what is no greeting, or one of an old version, and goes away.
fn disturb(port: u16) {
    let old = [0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 1, 5];
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &old, &[0; 100]] {
        if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) {
            let _ = stream.write_all(bytes);
            // It hangs up, or is hung up on.
            let _ = stream.set_read_timeout(Some(Duration::from_millis(20)));
            let _ = stream.read(&mut [0; 64]);
        }
    }
}

/// The TCP ports at which a process listens.
fn ports(pid: u32) -> Vec<u16> {
    let sockets: Vec<String> = fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .filter_map(|link| {
            let name = link.to_str()?.strip_prefix("socket:[")?;
            Some(name.strip_suffix(']')?.to_owned())
        })
        .collect();
    let mut found = Vec::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let text = fs::read_to_string(table).unwrap_or_default();
        for line in text.lines().skip(1) {
            let words: Vec<&str> = line.split_whitespace().collect();
            // Its own address, its state (0A: it listens), its inode.
            let [_, address, _, "0A", _, _, _, _, _, inode, ..] = words[..] else {
                continue;
            };
            if sockets.iter().any(|socket| socket == inode) {
                let port = address.rsplit(':').next().unwrap_or_default();
                found.extend(u16::from_str_radix(port, 16));
            }
        }
    }
    found
}

#[test]
fn every_tcp_socket_of_a_run_is_encrypted() {
    let scene = Scene::new();
    let endpoint = tcp();
    let mut ventilator = scene
        .procession(["ventilator", "--bind", &endpoint, "cat"])
        .open_input()
        .start();
    let sink = scene.procession(["sink", "--connect", &endpoint]).start();
    let worker = scene.procession(["worker", "--connect", &endpoint]).start();
    scene.until_true("all are there", || {
        scene.status(&endpoint).is_some_and(|state| {
            state["peers"]
                .as_array()
                .is_some_and(|peers| peers.len() == 2)
        })
    });
    // Control, a lane, acknowledgements; results.
    let (theirs, its) = (ports(ventilator.pid()), ports(sink.pid()));
    assert!(theirs.len() >= 3, "{theirs:?}");
    assert!(!its.is_empty());
    // Several times, as whoever connects and goes away must not pass for the peer that is there.
    for port in theirs.into_iter().chain(its).cycle().take(30) {
        assert_eq!(mechanism(port).as_deref(), Some("CURVE"), "port {port}");
        disturb(port);
    }
    drop(ventilator.stdin.take());
    for role in [ventilator, sink, worker] {
        let ended = role.wait();
        ended.assert_success();
        assert_eq!(ended.stderr, "", "nobody was lost on the way");
    }
}

/// The same of a connection between programs that share no parent.
#[test]
fn a_connection_outlives_strangers_at_its_port() -> procession::Result<()> {
    use procession::{Client, Connection, Listener};
    let listener = Listener::<u32, u32>::bind("tcp://127.0.0.1:*")?;
    let endpoint = listener.endpoint().to_string();
    let client = std::thread::spawn(move || Client::connect::<u32, u32>(endpoint));
    let here: Connection<u32, u32> = listener.accept()?;
    let there = client.join().expect("no panic")?;
    let ports = ports(std::process::id());
    assert!(ports.len() >= 2, "{ports:?}");
    for port in ports.into_iter().cycle().take(20) {
        assert!(mechanism(port).is_some(), "port {port}");
        disturb(port);
        here.send(&7)?;
        assert_eq!(there.recv()?, 7);
        there.send(&8)?;
        assert_eq!(here.recv()?, 8);
    }
    Ok(())
}

fn secrets(dir: &Path) -> Vec<String> {
    ["server.key_secret", "client.key_secret"]
        .iter()
        .filter_map(|name| fs::read_to_string(dir.join(name)).ok())
        .filter_map(|text| {
            let (_, rest) = text.split_once("secret-key = \"")?;
            Some(rest.split('"').next()?.to_owned())
        })
        .collect()
}

#[test]
fn secrets_are_neither_in_logs_nor_in_argv() {
    let scene = Scene::new();
    let endpoint = tcp();
    keygen(&scene, "keys");
    let run = run_at(
        &scene,
        &endpoint,
        &["--keys=keys", "--ticket-out=ticket", "-vvv"],
    );
    scene.until_true("the ticket", || scene.path("ticket").exists());
    let ticket = fs::read_to_string(scene.path("ticket")).expect("a ticket");
    let mut hidden = secrets(&scene.path("keys"));
    assert_eq!(hidden.len(), 2);
    hidden.extend(ticket.split_whitespace().last().map(str::to_owned));
    let worker = |words: &[&str]| {
        let worker = scene.procession(["worker", "-vvv"]).args(words);
        by_somebody_else(&scene, worker).start()
    };
    let workers = [
        worker(&[
            "--ticket=ticket",
            "cat /proc/[0-9]*/cmdline >>seen 2>&1; echo",
        ]),
        worker(&[
            "--connect",
            &endpoint,
            "--keys=keys",
            "cat /proc/[0-9]*/cmdline >>seen 2>&1; echo",
        ]),
    ];
    let mut said = String::new();
    for worker in workers {
        let ended = worker.wait();
        ended.assert_success();
        said += &ended.stderr;
    }
    let ended = run.wait();
    ended.assert_success();
    said += &ended.stderr;
    let seen = fs::read(scene.path("seen")).expect("the commands have looked");
    said += &String::from_utf8_lossy(&seen);
    assert!(said.contains("trace"), "they say all that they can");
    for secret in hidden {
        assert!(!said.contains(&secret), "a secret was shown");
    }
}

/// As the user `nobody`, where this user may do that.
fn as_nobody(scene: &Scene, words: &[&str]) -> Option<Program> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("NOT RUN: what another user may do is tried as root only");
        return None;
    }
    // The build's own folder may be closed to others.
    let copy = scene.path("procession");
    fs::copy(env!("CARGO_BIN_EXE_procession"), &copy).expect("a copy");
    let open = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode));
    open(&copy, 0o755).expect("its mode");
    open(scene.dir(), 0o777).expect("its mode");
    let theirs = scene.path("theirs");
    let _ = fs::create_dir(&theirs);
    std::os::unix::fs::chown(&theirs, Some(65534), Some(65534)).expect("a folder of theirs");
    Some(
        scene
            .program("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(&copy)
            .args(words)
            .env("XDG_RUNTIME_DIR", theirs),
    )
}

#[test]
fn nobody_runs_commands_of_another_user_who_made_the_socket_first() {
    let scene = Scene::new();
    let endpoint = scene.ipc("jobs");
    let words = ["run", "-j0", "--bind", &endpoint, "touch ran", ":::", "1"];
    let Some(theirs) = as_nobody(&scene, &words) else {
        return;
    };
    let mut theirs = theirs.start();
    scene.until_true("theirs", || scene.path("jobs").exists());
    let worker = scene.procession(["worker", "--connect", &endpoint]).run();
    worker.assert_code(255);
    assert_says(&worker, &["a process of user 65534 listens there"]);
    assert!(!scene.path("ran").exists());
    theirs.kill();
    theirs.wait();
}

#[test]
fn another_user_does_not_join_by_a_socket_whatever_its_mode() {
    let scene = Scene::new();
    let endpoint = scene.ipc("jobs");
    let words = ["worker", "--patience=2", "--connect", &endpoint];
    let Some(theirs) = as_nobody(&scene, &words) else {
        return;
    };
    let run = run_at(&scene, &endpoint, &[]);
    scene.until_true("the run", || scene.status(&endpoint).is_some());
    let open = fs::Permissions::from_mode(0o666);
    fs::set_permissions(scene.path("jobs"), open).expect("its mode");
    theirs.run().assert_code(255);
    scene
        .procession(["worker", "--connect", &endpoint])
        .run()
        .assert_success();
    assert_all_done(run);
}
