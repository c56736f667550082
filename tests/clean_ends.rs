//! However it ends (signals, a closed pipe, a mistake, a foreign peer), it ends clearly, and nothing is left behind.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

use common::{Ended, Running, Scene, Signal, joblog, numbers, signal, tcp};

/// Waits until a program has said this on its standard error.
fn until_said(scene: &Scene, program: &Running, words: &str) {
    scene.until_true(words, || program.stderr_so_far().contains(words));
}

/// Its standard error names all of these, and no panic.
fn assert_says(ended: &Ended, words: &[&str]) {
    for word in words {
        assert!(
            ended.stderr.contains(word),
            "{}: stderr lacks {word:?}:\n{}",
            ended.label,
            ended.stderr
        );
    }
    assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
}

/// How many tasks have begun: each makes a file `began.N`.
fn began(scene: &Scene) -> usize {
    std::fs::read_dir(scene.dir())
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b"began."))
        .count()
}

/// Says that it began, waits for the file `go`, prints its value.
const WAITS_FOR_GO: &str = "touch began.{#}; until test -e go; do sleep 0.02; done; echo {}";
/// Says that it began, and has a process group of three that does not end by itself.
const ENDLESS: &str = "touch began.{#}; sleep 1000 & sleep 1000; echo {}";

fn run_of_ten(scene: &Scene, command: &str) -> Running {
    let run = scene
        .procession(["run", "-j2", command, ":::"])
        .args((1..=10).map(|n| n.to_string()))
        .start();
    scene.until_true("two tasks begin", || began(scene) == 2);
    run
}

/// The first signal: what runs is finished and printed, nothing more is begun.
fn drains(number: Signal, code: i32) {
    let scene = Scene::new();
    let run = run_of_ten(&scene, WAITS_FOR_GO);
    run.signal(number);
    until_said(&scene, &run, "nothing more is started");
    std::fs::write(scene.path("go"), "").expect("the file go");
    let run = run.wait();
    run.assert_code(code);
    assert_eq!(began(&scene), 2, "nothing more was begun");
    let mut lines: Vec<_> = run.text().lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, ["1", "2"]);
    assert_says(&run, &["2 tasks are done"]);
    scene.assert_nothing_left();
}

#[test]
fn ctrl_c_lets_what_runs_finish_and_exits_130() {
    drains(Signal::INT, 130);
}

#[test]
fn sigterm_lets_what_runs_finish_and_exits_143() {
    drains(Signal::TERM, 143);
}

#[test]
fn sighup_lets_what_runs_finish_and_exits_129() {
    if sighup_is_ignored() {
        return;
    }
    drains(Signal::HUP, 129);
}

/// Under nohup it is ignored from the start, and stays so.
fn sighup_is_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0);
    if ignored & 1 != 0 {
        eprintln!("NOT RUN: SIGHUP is ignored here, as under nohup");
    }
    ignored & 1 != 0
}

#[test]
fn after_sighup_it_is_ctrl_c_twice_that_kills_and_the_exit_stays_129() {
    if sighup_is_ignored() {
        return;
    }
    let scene = Scene::new();
    let run = run_of_ten(&scene, ENDLESS);
    run.signal(Signal::HUP);
    until_said(&scene, &run, "Ctrl-C twice to kill them");
    run.signal(Signal::INT);
    until_said(&scene, &run, "once more to kill them");
    run.signal(Signal::INT);
    let run = run.wait();
    run.assert_code(129);
    assert_says(&run, &["killing what runs"]);
    scene.assert_nothing_left();
}

/// The second signal: what runs is killed, whole process groups.
fn kills(first: Signal, second: Signal, code: i32) {
    let scene = Scene::new();
    let run = run_of_ten(&scene, ENDLESS);
    run.signal(first);
    until_said(&scene, &run, "once more to kill");
    run.signal(second);
    let run = run.wait();
    run.assert_code(code);
    assert_eq!(began(&scene), 2, "nothing more was begun");
    assert_eq!(run.text(), "");
    assert_says(&run, &["killing what runs"]);
    scene.assert_nothing_left();
}

#[test]
fn ctrl_c_twice_kills_what_runs() {
    kills(Signal::INT, Signal::INT, 130);
}

#[test]
fn sigterm_twice_kills_what_runs() {
    kills(Signal::TERM, Signal::TERM, 143);
}

#[test]
fn ctrl_c_ends_a_run_that_waits_for_its_input() {
    let scene = Scene::new();
    let run = scene
        .procession(["run", "echo", "got"])
        .open_input()
        .start();
    let mut run = run;
    if let Some(input) = &mut run.stdin {
        input.write_all(b"1\n").expect("it reads");
    }
    scene.until_true("the first line is worked off", || {
        run.stdout_so_far() == b"got 1\n"
    });
    let input = run.stdin.take();
    run.signal(Signal::INT);
    run.wait().assert_code(130);
    drop(input);
    scene.assert_nothing_left();
}

#[test]
fn ctrl_c_to_the_ventilator_ends_all_three_roles() {
    let scene = Scene::new();
    let endpoint = scene.ipc("jobs");
    let worker = scene
        .procession(["worker", "--connect", &endpoint, "-j2"])
        .start();
    let sink = scene.procession(["sink", "--connect", &endpoint]).start();
    let ventilator = scene
        .procession(["ventilator", "--bind", &endpoint, WAITS_FOR_GO, ":::"])
        .args((1..=10).map(|n| n.to_string()))
        .start();
    scene.until_true("two tasks begin", || began(&scene) == 2);
    ventilator.signal(Signal::INT);
    until_said(&scene, &ventilator, "nothing more is started");
    std::fs::write(scene.path("go"), "").expect("the file go");
    ventilator.wait().assert_code(130);
    let sink = sink.wait();
    sink.assert_code(130);
    worker.wait().assert_success();
    assert_eq!(sink.text().lines().count(), 2, "{}", sink.text());
    scene.assert_nothing_left();
}

#[test]
fn ctrl_c_to_a_worker_hands_its_tasks_to_the_others() {
    let scene = Scene::new();
    let endpoint = scene.ipc("jobs");
    let leaves = scene
        .procession(["worker", "--connect", &endpoint, "-j2"])
        .start();
    let sink = scene
        .procession(["sink", "--connect", &endpoint, "-k"])
        .start();
    let ventilator = scene
        .procession(["ventilator", "--bind", &endpoint, WAITS_FOR_GO, ":::"])
        .args((1..=10).map(|n| n.to_string()))
        .start();
    scene.until_true("two tasks begin", || began(&scene) == 2);
    leaves.signal(Signal::INT);
    until_said(&scene, &leaves, "the rest goes to others");
    std::fs::write(scene.path("go"), "").expect("the file go");
    leaves.wait().assert_code(130);
    let stays = scene
        .procession(["worker", "--connect", &endpoint, "-j2"])
        .start();
    ventilator.wait().assert_success();
    stays.wait().assert_success();
    sink.wait().assert_success().assert_stdout(&numbers(10));
    scene.assert_nothing_left();
}

#[test]
fn a_reader_that_has_enough_ends_the_run_quietly() {
    for order in [&["-j2"][..], &["-j2", "-k"]] {
        let scene = Scene::new();
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let yes = scene.program("yes").with(|yes| {
            yes.stdout(std::process::Stdio::piped());
        });
        // The input has no end, so only the closed pipe can end it.
        let (input, endless) = std::io::pipe().expect("a pipe");
        let yes = yes.stdout(endless).start();
        let run = scene
            .procession(["run"])
            .args(order)
            .arg("echo")
            .with(|run| {
                run.stdin(input);
            })
            .stdout(writer)
            .start();
        let mut line = String::new();
        let mut reader = BufReader::new(reader);
        reader.read_line(&mut line).expect("a line");
        drop(reader);
        assert_eq!(line, "y\n");
        let run = run.wait();
        run.assert_success();
        assert_eq!(run.stderr, "", "quietly");
        assert_eq!(yes.wait().signal(), Some(13), "SIGPIPE ends it");
        scene.assert_nothing_left();
    }
}

#[test]
fn a_reader_that_has_enough_of_a_sink_ends_every_role_quietly() {
    let scene = Scene::new();
    let endpoint = scene.ipc("jobs");
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let ventilator = scene
        .procession(["ventilator", "--bind", &endpoint, "echo"])
        .input(numbers(100_000))
        .start();
    let worker = scene
        .procession(["worker", "--connect", &endpoint, "-j2"])
        .start();
    let sink = scene
        .procession(["sink", "--connect", &endpoint])
        .stdout(writer)
        .start();
    let mut line = String::new();
    let mut reader = BufReader::new(reader);
    reader.read_line(&mut line).expect("a line");
    drop(reader);
    for role in [ventilator, worker, sink] {
        let role = role.wait();
        role.assert_success();
        assert_eq!(role.stderr, "", "quietly: {}", role.label);
    }
    scene.assert_nothing_left();
}

#[test]
fn an_empty_input_is_a_success_without_a_word() {
    for args in [
        &["run", "echo"][..],
        &["run", "-k", "--joblog", "log", "echo"],
        &["run", "--pipe", "cat"],
        &["run", "--filter", "cat"],
        &["run", "-a", "/dev/null"],
        &["run", "echo", ":::"],
    ] {
        let scene = Scene::new();
        let run = scene.procession(args).run();
        run.assert_success();
        assert_eq!(
            (run.text().as_str(), run.stderr.as_str()),
            ("", ""),
            "{args:?}"
        );
        scene.assert_nothing_left();
    }
}

#[test]
fn an_empty_input_ends_all_three_roles() {
    // Whoever comes last finds that all is over, and must hear it all the same.
    for last in ["worker", "sink", "ventilator"] {
        let scene = Scene::new();
        let endpoint = scene.ipc("jobs");
        let mut roles = ["worker", "sink", "ventilator"];
        roles.sort_by_key(|role| *role == last);
        let ends = roles.map(|role| match role {
            "ventilator" => scene
                .procession([role, "--bind", &endpoint, "echo"])
                .start(),
            _ => scene.procession([role, "--connect", &endpoint]).start(),
        });
        for end in ends {
            end.wait().assert_success().assert_stdout(b"");
        }
        scene.assert_nothing_left();
    }
}

#[test]
fn a_command_that_cannot_be_started_fails_its_tasks_and_is_named() {
    let rows = [
        ("no-such-command", 127, "no such command"),
        ("./no/such/file", 127, "./no/such/file"),
        ("./plain-file", 126, "chmod +x"),
        ("/", 126, "\"/\""),
    ];
    for (command, exit, words) in rows {
        let scene = Scene::new();
        std::fs::write(scene.path("plain-file"), "text").expect("a file");
        let run = scene
            .procession(["run", "--joblog", "log", command, ":::", "a", "b"])
            .run();
        run.assert_code(2);
        assert_says(&run, &[command, words]);
        let log = joblog(&scene.path("log"));
        let ends: Vec<_> = log.iter().map(|line| (line.exit, line.signal)).collect();
        assert_eq!(ends, [(exit, 0), (exit, 0)], "{command}");
        scene.assert_nothing_left();
    }
}

#[test]
fn an_input_file_that_cannot_be_read_is_named() {
    let rows = [("/tmp", "is a directory"), ("no-such-file", "No such file")];
    for (file, why) in rows {
        for command in [&["echo"][..], &["--pipe", "cat"]] {
            let scene = Scene::new();
            let run = scene.procession(["run", "-a", file]).args(command).run();
            run.assert_code(255);
            assert_says(&run, &["cannot read", file, why]);
            scene.assert_nothing_left();
        }
    }
}

#[test]
fn a_directory_as_standard_input_is_an_error() {
    let scene = Scene::new();
    let directory = std::fs::File::open("/tmp").expect("a directory");
    let run = scene
        .procession(["run", "echo"])
        .with(|run| {
            run.stdin(directory);
        })
        .run();
    run.assert_code(255);
    assert_says(&run, &["directory"]);
    scene.assert_nothing_left();
}

#[test]
fn a_place_for_results_that_is_full_or_absent_ends_the_run_with_its_name() {
    let rows = [
        (["--joblog", "/dev/full"], "No space left"),
        (["--joblog", "no/such/dir/log"], "No such file or directory"),
        (["--joblog", "/tmp"], "irectory"),
        (["--results", "/dev/null/out"], "Not a directory"),
    ];
    for (option, why) in rows {
        let scene = Scene::new();
        let run = scene
            .procession(["run", "-j2"])
            .args(option)
            .arg("echo")
            .input(numbers(1000))
            .run();
        run.assert_code(255);
        assert_says(&run, &[option[1], why, option[0]]);
        scene.assert_nothing_left();
    }
}

#[test]
fn a_full_disk_under_standard_output_is_an_error() {
    let scene = Scene::new();
    let full = std::fs::File::options()
        .write(true)
        .open("/dev/full")
        .expect("/dev/full");
    let run = scene
        .procession(["run", "-j2", "echo"])
        .input(numbers(1000))
        .stdout(full)
        .run();
    run.assert_code(255);
    assert_says(&run, &["standard output", "No space left"]);
    scene.assert_nothing_left();
}

#[test]
fn an_endpoint_in_use_is_refused_and_its_holder_undisturbed() {
    for by_tcp in [false, true] {
        let scene = Scene::new();
        let endpoint = if by_tcp { tcp() } else { scene.ipc("jobs") };
        let first = scene
            .procession(["ventilator", "--bind", &endpoint, "echo", ":::", "a"])
            .start();
        scene.until("the first listens", || scene.status(&endpoint));
        for args in [
            &["ventilator", "--bind", &endpoint, "echo", ":::", "b"][..],
            &["run", "--bind", &endpoint, "echo", ":::", "b"],
        ] {
            let second = scene.procession(args).run();
            second.assert_code(255);
            assert_says(&second, &[&endpoint, "in use", "choose another"]);
        }
        let worker = scene.procession(["worker", "--connect", &endpoint]).start();
        let sink = scene.procession(["sink", "--connect", &endpoint]).run();
        sink.assert_success().assert_stdout(b"a\n");
        first.wait().assert_success();
        worker.wait().assert_success();
        scene.assert_nothing_left();
    }
}

#[test]
fn a_socket_file_that_nobody_holds_is_taken_over() {
    let scene = Scene::new();
    let path = scene.path("jobs");
    drop(std::os::unix::net::UnixListener::bind(&path).expect("a socket file"));
    let run = scene
        .procession(["run", "--bind", &scene.ipc("jobs"), "echo", ":::", "a"])
        .run();
    run.assert_success().assert_stdout(b"a\n");
    scene.assert_nothing_left();
}

#[test]
fn a_bad_endpoint_is_named_with_what_is_wrong() {
    let long = format!("ipc:///tmp/{}", "x".repeat(200));
    let rows = [
        ("foo", "no scheme"),
        ("udp://127.0.0.1:5000", "not known"),
        ("tcp://127.0.0.1", "port"),
        ("tcp://127.0.0.1:99999", "not a port"),
        ("tcp://:5000", "host"),
        ("tcp://::1:5000", "brackets"),
        ("ipc://", "path"),
        // Every user of the machine could open it.
        ("ipc://@jobs", "begins with @"),
        (&long, "shorter"),
    ];
    for (endpoint, why) in rows {
        for args in [
            ["ventilator", "--bind", endpoint, "echo"],
            ["run", "--bind", endpoint, "echo"],
            ["worker", "--connect", endpoint, "echo"],
            ["sink", "--connect", endpoint, "-k"],
            ["status", "--connect", endpoint, "--json"],
        ] {
            let scene = Scene::new();
            let ended = scene.procession(args).run();
            ended.assert_code(255);
            assert_says(&ended, &[endpoint, why]);
        }
    }
}

#[test]
fn an_endpoint_that_cannot_be_bound_is_named_with_the_reason() {
    let rows = [
        ("ipc:///no/such/directory/jobs", "is not a directory"),
        ("ipc:///etc/passwd", "not a socket"),
    ];
    for (endpoint, why) in rows {
        let scene = Scene::new();
        let ended = scene
            .procession(["ventilator", "--bind", endpoint, "echo", ":::", "a"])
            .run();
        ended.assert_code(255);
        assert_says(&ended, &["cannot bind", endpoint, why]);
        scene.assert_nothing_left();
    }
}

#[test]
fn tcp_beyond_loopback_is_refused_and_the_ways_out_are_named() {
    let endpoint = "tcp://192.0.2.1:5557";
    for args in [
        ["ventilator", "--bind", "tcp://*:5557", "echo"],
        ["run", "--bind", endpoint, "echo"],
        ["worker", "--connect", endpoint, "echo"],
        ["sink", "--connect", endpoint, "-k"],
        ["status", "--connect", endpoint, "--json"],
    ] {
        let scene = Scene::new();
        let ended = scene.procession(args).run();
        ended.assert_code(255);
        assert_says(&ended, &[args[2], "--keys", "--ticket", "--insecure"]);
        if args[1] == "--bind" {
            assert_says(&ended, &["tcp://127.0.0.1:PORT", "ipc://PATH"]);
        }
        scene.assert_nothing_left();
    }
}

#[test]
fn without_a_ventilator_patience_ends() {
    let scene = Scene::new();
    for endpoint in [scene.ipc("jobs"), tcp()] {
        for role in ["worker", "sink", "status"] {
            let ended = scene
                .procession([role, "--connect", &endpoint, "--patience", "1"])
                .run();
            ended.assert_code(255);
            assert_says(&ended, &[&endpoint, "for 1 s", "--bind", "--patience"]);
        }
    }
    scene.assert_nothing_left();
}

#[test]
fn without_a_sink_or_workers_patience_ends() {
    let scene = Scene::new();
    let endpoint = scene.ipc("jobs");
    let ventilator = |scene: &Scene| {
        scene
            .procession(["ventilator", "--bind", &endpoint, "--patience", "1"])
            .args(["echo", ":::", "a"])
            .run()
    };
    let ended = ventilator(&scene);
    ended.assert_code(255);
    assert_says(&ended, &[&endpoint, "for 1 s", "--patience"]);
    let sink = scene.procession(["sink", "--connect", &endpoint]).start();
    let ended = ventilator(&scene);
    ended.assert_code(255);
    assert_says(&ended, &["worker", &endpoint, "for 1 s", "--patience"]);
    sink.wait().assert_code(255);
    scene.assert_nothing_left();
}

/// A server that does `answer` with each connection, for as long as the test program lives.
fn serve(answer: impl Fn(std::net::TcpStream) + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("its address").port();
    thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            answer(connection);
        }
    });
    format!("tcp://127.0.0.1:{port}")
}

#[test]
fn a_server_of_another_protocol_is_told_from_a_ventilator() {
    let http = serve(|mut connection| {
        let _ = connection.read(&mut [0; 1024]);
        let _ = connection.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
    });
    let closes = serve(drop);
    let held = std::sync::Mutex::new(Vec::new());
    let silent = serve(move |connection| {
        held.lock().expect("no panic").push(connection);
    });
    let rows = [
        (http, "does not answer as ZeroMQ does"),
        (closes, "does not answer as ZeroMQ does"),
        (silent, "heard nobody"),
    ];
    let scene = Scene::new();
    for (endpoint, why) in &rows {
        for role in ["worker", "sink", "status"] {
            let ended = scene
                .procession([role, "--connect", endpoint, "--patience", "2"])
                .arg("--insecure")
                .run();
            ended.assert_code(255);
            assert_says(&ended, &[endpoint, why, "ventilator"]);
        }
    }
    scene.assert_nothing_left();
}

/// Who is killed before it has answered was no stranger.
#[test]
fn one_that_listened_and_went_before_it_answered_is_absent_and_no_stranger() {
    let scene = Scene::new();
    let path = scene.path("jobs");
    let endpoint = scene.ipc("jobs");
    for role in ["worker", "sink"] {
        let listener = std::os::unix::net::UnixListener::bind(&path).expect("a free path");
        let other = scene
            .procession([role, "--connect", &endpoint, "--patience", "2"])
            .start();
        let connection = listener.accept().expect("it connects");
        std::fs::remove_file(&path).expect("it is there");
        drop((connection, listener));
        let other = other.wait();
        other.assert_code(255);
        assert_says(&other, &[&endpoint, "start a ventilator with --bind"]);
    }
    scene.assert_nothing_left();
}

/// A frame as MessagePack.
fn packed(message: &impl serde::Serialize) -> Vec<u8> {
    rmp_serde::to_vec(message).expect("memory")
}

#[test]
fn a_peer_of_another_protocol_version_is_refused_and_the_others_work_on() {
    let scene = Scene::new();
    let endpoint = scene.ipc("jobs");
    let ventilator = scene
        .procession(["ventilator", "--bind", &endpoint, "echo", ":::", "a"])
        .start();
    scene.until("it listens", || scene.status(&endpoint));
    let context = zmq::Context::new();
    let stranger = context.socket(zmq::DEALER).expect("a socket");
    stranger.connect(&endpoint).expect("an endpoint");
    stranger.set_rcvtimeo(60_000).expect("an option");
    // Of the first message's fields only the first three are the same in every version.
    let hello = packed(&(1, "procession", 999, "what", "ever", ("comes", 4)));
    stranger.send(hello, 0).expect("it is there");
    let answer = stranger.recv_bytes(0).expect("an answer");
    let (kind, version, why, again): (u8, u16, String, bool) =
        rmp_serde::from_slice(&answer).expect("a refusal");
    assert_eq!((kind, version, again), (3, 1, false));
    assert!(why.contains("999") && why.contains("version 1"), "{why}");
    // What is no message at all is ignored.
    for garbage in [
        &b"garbage"[..],
        b"",
        &[0xdd, 0xff, 0xff, 0xff, 0xff],
        &[0x91, 0xc0],
    ] {
        stranger.send(garbage, 0).expect("it is there");
    }
    drop(stranger);
    let worker = scene.procession(["worker", "--connect", &endpoint]).start();
    let sink = scene.procession(["sink", "--connect", &endpoint]).run();
    sink.assert_success().assert_stdout(b"a\n");
    ventilator.wait().assert_success();
    worker.wait().assert_success();
    scene.assert_nothing_left();
}

#[test]
fn a_ventilator_of_another_protocol_version_is_left_with_both_versions_named() {
    let context = zmq::Context::new();
    for role in ["worker", "sink", "status"] {
        let scene = Scene::new();
        let router = context.socket(zmq::ROUTER).expect("a socket");
        let endpoint = scene.ipc("jobs");
        router.bind(&endpoint).expect("a free path");
        router.set_rcvtimeo(60_000).expect("an option");
        let peer = scene.procession([role, "--connect", &endpoint]).start();
        let hello = router.recv_multipart(0).expect("a hello");
        let why = "it speaks version 1 of the protocol and this ventilator version 999";
        let refused = packed(&(3, 999, why, false));
        router
            .send_multipart([&hello[0], &refused], 0)
            .expect("it is there");
        let peer = peer.wait();
        peer.assert_code(255);
        assert_says(&peer, &[&endpoint, "refused", "version 1 ", "999"]);
    }
}

/// The groups of what a killed program ran end, and so do its guardian and its sockets. The wait is a deadline, not a
/// measurement.
fn assert_gone_soon(scene: &Scene, what: &str, is_gone: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !is_gone() {
        assert!(
            Instant::now() < end,
            "{what}: {:#?} {:#?}",
            scene.live(),
            scene.leftovers()
        );
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_killed_run_leaves_no_process_and_no_socket() {
    let scene = Scene::new();
    let endpoint = scene.ipc("jobs");
    let mut run = scene
        .procession(["run", "-j2", "--bind", &endpoint, ENDLESS, ":::"])
        .args(["1", "2", "3"])
        .start();
    scene.until_true("two tasks begin", || began(&scene) == 2);
    // Two groups of a shell and two sleeps each, the run, and its guardian.
    scene.until_true("both groups are complete", || scene.live().len() >= 8);
    run.kill();
    assert_gone_soon(&scene, "a killed run", || {
        scene.live().is_empty() && scene.leftovers().is_empty()
    });
}

#[test]
fn a_killed_run_of_filters_leaves_no_process() {
    let scene = Scene::new();
    let mut run = scene
        .procession(["run", "-j2", "--filter", "sh", "-c", "sleep 1000 & cat"])
        .open_input()
        .start();
    let mut input = run.stdin.take().expect("a pipe");
    input.write_all(b"1\n2\n3\n4\n").expect("it reads");
    scene.until_true("the filters run", || scene.live().len() >= 5);
    run.kill();
    assert_gone_soon(&scene, "a killed run of filters", || {
        scene.live().is_empty() && scene.leftovers().is_empty()
    });
}

#[test]
fn a_killed_worker_takes_its_commands_with_it_and_others_do_its_tasks() {
    for by_tcp in [false, true] {
        let scene = Scene::new();
        let endpoint = if by_tcp { tcp() } else { scene.ipc("jobs") };
        let command = "touch began.{#}; test $PROCESSION_ATTEMPT -gt 1 || { sleep 1000 & sleep 1000; }; echo {}";
        let ventilator = scene
            .procession(["ventilator", "--bind", &endpoint, command, ":::", "1", "2"])
            .start();
        let sink = scene
            .procession(["sink", "--connect", &endpoint, "-k"])
            .start();
        let mut worker = scene
            .procession(["worker", "--connect", &endpoint, "-j2"])
            .start();
        scene.until_true("two tasks begin", || began(&scene) == 2);
        let sleeps = || {
            let live = scene.live();
            live.iter()
                .filter(|(_, line)| line.contains("sleep 1000") && !line.contains("procession"))
                .count()
        };
        scene.until_true("both groups are complete", || sleeps() >= 6);
        worker.kill();
        assert_gone_soon(&scene, "a killed worker's groups", || sleeps() == 0);
        let second = scene
            .procession(["worker", "--connect", &endpoint, "-j2"])
            .start();
        ventilator.wait().assert_success();
        sink.wait().assert_success().assert_stdout(b"1\n2\n");
        second.wait().assert_success();
        scene.assert_nothing_left();
    }
}

#[test]
fn a_killed_ventilator_is_missed_by_the_others() {
    let scene = Scene::new();
    let endpoint = scene.ipc("jobs");
    let mut ventilator = scene
        .procession(["ventilator", "--bind", &endpoint, ENDLESS, ":::", "1", "2"])
        .start();
    let others = ["worker", "sink"].map(|role| {
        scene
            .procession([role, "--connect", &endpoint, "--patience", "2"])
            .start()
    });
    scene.until_true("a task begins, and the sink has joined, too", || {
        let has_sink = |state: serde_json::Value| {
            let peers = state["peers"].as_array();
            peers.is_some_and(|peers| peers.iter().any(|peer| peer["role"] == "sink"))
        };
        began(&scene) > 0 && scene.status(&endpoint).is_some_and(has_sink)
    });
    ventilator.kill();
    for other in others {
        let other = other.wait();
        other.assert_code(255);
        assert_says(&other, &[&endpoint, "lost the ventilator"]);
    }
    scene.assert_nothing_left();
}

#[test]
fn a_killed_sink_leaves_no_socket() {
    let scene = Scene::new();
    let endpoint = scene.ipc("jobs");
    let ventilator = scene
        .procession(["ventilator", "--bind", &endpoint, "echo", ":::", "1"])
        .start();
    let mut sink = scene.procession(["sink", "--connect", &endpoint]).start();
    scene.until_true("the sink joins", || {
        scene
            .status(&endpoint)
            .is_some_and(|state| state["peers"][0]["role"] == "sink")
    });
    sink.kill();
    ventilator.signal(Signal::INT);
    ventilator.wait().assert_code(130);
    scene.assert_nothing_left();
}

#[test]
fn a_second_sink_is_refused_while_the_first_lives() {
    let scene = Scene::new();
    let endpoint = scene.ipc("jobs");
    let ventilator = scene
        .procession(["ventilator", "--bind", &endpoint, "echo", ":::", "1"])
        .start();
    let first = scene.procession(["sink", "--connect", &endpoint]).start();
    scene.until_true("the sink joins", || {
        scene
            .status(&endpoint)
            .is_some_and(|state| state["peers"][0]["role"] == "sink")
    });
    let second = scene.procession(["sink", "--connect", &endpoint]).run();
    second.assert_code(255);
    assert_says(
        &second,
        &[&endpoint, "has a sink already", &first.pid().to_string()],
    );
    let worker = scene.procession(["worker", "--connect", &endpoint]).start();
    ventilator.wait().assert_success();
    first.wait().assert_success().assert_stdout(b"1\n");
    worker.wait().assert_success();
    scene.assert_nothing_left();
}

#[test]
fn a_signal_to_the_whole_group_as_a_terminal_sends_it_ends_every_role() {
    let scene = Scene::new();
    let run = run_of_ten(&scene, WAITS_FOR_GO);
    // Commands have groups of their own: a terminal's Ctrl-C does not reach them, and they finish.
    for (pid, line) in scene.live() {
        if line.contains("procession") {
            signal(pid.unsigned_abs(), Signal::INT);
        }
    }
    until_said(&scene, &run, "nothing more is started");
    std::fs::write(scene.path("go"), "").expect("the file go");
    let run = run.wait();
    run.assert_code(130);
    assert_eq!(run.text().lines().count(), 2);
    scene.assert_nothing_left();
}
