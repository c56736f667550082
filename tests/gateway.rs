//! `procession gateway`: a queue by Thrift, from Python with the client that the Thrift compiler makes, and from clients that behave badly.
//!
//! These tests need the Thrift compiler, and a Python with the package `thrift` that `PROCESSION_TEST_PYTHON` names; `make test` gets both. Without
//! they do not run, and say so; with `PROCESSION_TEST_SERVERS=required` that is a failure.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use common::{Running, Scene, Signal};

const IDL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/thrift/procession.thrift");
/// The compiler by which the code that is checked in was made.
const COMPILER: &str = "Thrift version 0.17.0";

/// What a test cannot do without, or nothing after having said why it did not run.
fn needed<T>(test: &str, found: Option<T>, what: &str) -> Option<T> {
    if found.is_none() {
        let said = format!("NOT RUN: {test}: {what}; `make test` sets it up");
        let required = std::env::var_os("PROCESSION_TEST_SERVERS");
        assert!(required.is_none_or(|word| word != "required"), "{said}");
        eprintln!("{said}");
    }
    found
}

fn compiler() -> Option<String> {
    let asked = Command::new("thrift").arg("--version").output().ok()?;
    String::from_utf8(asked.stdout).ok()
}

fn python() -> Option<PathBuf> {
    let python = PathBuf::from(std::env::var_os("PROCESSION_TEST_PYTHON")?);
    let works = Command::new(&python)
        .args(["-c", "import thrift, msgpack"])
        .output();
    works
        .is_ok_and(|works| works.status.success())
        .then_some(python)
}

fn generate(language: &str, into: &Path) {
    let made = Command::new("thrift")
        .args(["--gen", language, "-out"])
        .args([into, Path::new(IDL)])
        .status()
        .expect("the Thrift compiler");
    assert!(made.success());
}

#[test]
fn the_code_that_is_checked_in_is_what_the_compiler_makes_of_the_interface() {
    let test = "the check of generated code";
    let version = needed(test, compiler(), "there is no Thrift compiler");
    let Some(version) = version else { return };
    let fits = version.starts_with(COMPILER).then_some(());
    let what = format!("the compiler is {}, and not {COMPILER}", version.trim());
    if needed(test, fits, &what).is_none() {
        return;
    }
    let scene = Scene::new();
    generate("rs", scene.dir());
    let fresh = fs::read_to_string(scene.path("procession.rs")).expect("it was made");
    let kept = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/bin/procession/gateway/procession.rs"
    );
    let kept = fs::read_to_string(kept).expect("it is checked in");
    assert!(
        fresh == kept,
        "bin/procession/gateway/procession.rs is stale: thrift --gen rs -out bin/procession/gateway thrift/procession.thrift"
    );
}

/// A host of queues and a gateway to one of them, and where clients connect.
struct Gate {
    host: Running,
    gateway: Running,
    port: u16,
    queue: String,
}

impl Gate {
    fn start(scene: &Scene, more: &[&str]) -> Self {
        let endpoint = scene.ipc("q");
        let host = scene.procession(["queue", "--bind", &endpoint]).start();
        scene.until_true("the host", || host.stderr_so_far().contains("listening at"));
        let queue = format!("{endpoint}?queue=jobs");
        let gateway = scene
            .procession(["gateway", "--thrift", "127.0.0.1:*", "--queue", &queue])
            .args(more)
            .start();
        let port = scene.until("the gateway", || {
            let said = gateway.stderr_so_far();
            let at = said.split("listening at 127.0.0.1:").nth(1)?;
            at.lines().next()?.parse().ok()
        });
        Self {
            host,
            gateway,
            port,
            queue,
        }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).expect("it listens");
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .expect("a time");
        stream
    }

    fn end(self) {
        self.gateway.signal(Signal::TERM);
        self.gateway.wait().assert_code(143);
        self.host.signal(Signal::TERM);
        self.host.wait().assert_code(143);
    }
}

/// A call of `status` as a framed binary message, and whether it is answered.
fn status(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    // Version 1, a call; its name; number 7; no arguments.
    let call = [
        &[0x80, 1, 0, 1, 0, 0, 0, 6][..],
        b"status",
        &[0, 0, 0, 7, 0],
    ]
    .concat();
    stream.write_all(&(call.len() as u32).to_be_bytes())?;
    stream.write_all(&call)?;
    let mut head = [0; 4];
    stream.read_exact(&mut head)?;
    let mut answer = vec![0; u32::from_be_bytes(head) as usize];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

/// Whether the other side has closed it.
fn is_closed(stream: &mut TcpStream) -> bool {
    // It may have been reset.
    stream.read(&mut [0; 1]).map_or(true, |read| read == 0)
}

#[test]
fn a_slow_client_stops_nobody_and_one_that_says_too_much_is_turned_away() {
    let scene = Scene::new();
    let gate = Gate::start(&scene, &["--clients", "4", "--message", "64K"]);
    // Half a frame, and half a head; both stay.
    let mut slow = gate.connect();
    slow.write_all(&[0, 0, 1, 0, 0x80, 1]).expect("a few bytes");
    let mut slower = gate.connect();
    slower.write_all(&[0]).expect("a byte");
    let mut good = gate.connect();
    for _ in 0..20 {
        let answer = status(&mut good).expect("an answer");
        assert_eq!(&answer[..4], [0x80, 1, 0, 2], "a reply");
        assert!(answer.windows(4).any(|name| name == b"jobs"));
    }
    // The fourth is the last one that gets in; it says that it will say too much.
    let mut large = gate.connect();
    large
        .write_all(&(64_u32 * 1024 + 1).to_be_bytes())
        .expect("a head");
    let mut fifth = gate.connect();
    assert!(is_closed(&mut large));
    assert!(
        is_closed(&mut fifth) || status(&mut fifth).is_ok(),
        "its place may be free again"
    );
    // A string that is longer than its frame, and garbage.
    for bad in [
        &[0x80, 1, 0, 1, 0x7f, 0xff, 0xff, 0xff, b'x'][..],
        b"GET / HTTP/1.1\r\n\r\n",
        &[0x80, 1, 0, 1, 0xff, 0xff, 0xff, 0xff],
    ] {
        let mut bad_client = scene.until("a place", || {
            let mut stream = gate.connect();
            status(&mut stream).ok().map(|_| stream)
        });
        bad_client
            .write_all(&(bad.len() as u32).to_be_bytes())
            .expect("a head");
        bad_client.write_all(bad).expect("a body");
        assert!(is_closed(&mut bad_client));
    }
    assert!(status(&mut good).is_ok());
    let said = gate.gateway.stderr_so_far();
    assert!(
        said.contains("it announced a message of 65537 bytes"),
        "{said}"
    );
    assert_eq!(gate.queue, format!("{}?queue=jobs", scene.ipc("q")));
    gate.end();
}

#[test]
fn beyond_this_machine_it_listens_only_when_that_is_meant() {
    let scene = Scene::new();
    let gateway = |at: &str| {
        let queue = format!("{}?queue=a", scene.ipc("nowhere"));
        let args = ["gateway", "--thrift", at, "--queue", &queue, "--patience=1"];
        let ended = scene.procession(args).run();
        ended.assert_code(255);
        ended.stderr
    };
    let said = gateway("0.0.0.0:*");
    assert!(
        said.contains("Thrift neither encrypts nor asks who comes"),
        "{said}"
    );
    let said = gateway("127.0.0.1");
    assert!(said.contains("write HOST:PORT"), "{said}");
    let said = gateway("127.0.0.1:*");
    assert!(said.contains("heard nobody"), "{said}");
}

const SCRIPT: &str = r#"
import sys, msgpack
from thrift.transport import TSocket, TTransport
from thrift.protocol import TBinaryProtocol
from procession_thrift import Gateway
from procession_thrift.ttypes import Empty, Failed, Full, NotGot, Refused, ShutDown

def connect():
    socket = TSocket.TSocket("127.0.0.1", int(sys.argv[1]))
    socket.setTimeout(60000)
    transport = TTransport.TFramedTransport(socket)
    transport.open()
    return Gateway.Client(TBinaryProtocol.TBinaryProtocol(transport)), transport

def raises(kind, call, *args):
    try:
        call(*args)
    except kind as error:
        return error
    raise AssertionError(f"{call} raised no {kind}")

one, first = connect()
other, second = connect()

# Items.
for number in range(10):
    one.put(msgpack.packb({"number": number}), 1000)
raises(Refused, one.put, b"\x92\x01", 0)
raises(Refused, one.put, b"", 0)
raises(Refused, one.put, msgpack.packb(1), -1)
raises(NotGot, one.task_done)
assert msgpack.unpackb(one.get(5000)) == {"number": 0}
one.task_done()
raises(NotGot, one.task_done)
assert other.status().unfinished == 9

# What a client holds that goes is another's.
held = [msgpack.unpackb(other.get(5000))["number"] for _ in range(3)]
second.close()
left = []
while len(left) < 9:
    left.append(msgpack.unpackb(one.get(20000))["number"])
    one.task_done()
assert sorted(left) == list(range(1, 10)), (held, left)
raises(Empty, one.get, 100)
status = one.status()
assert (status.items, status.unfinished, status.connections) == (0, 0, 1), status

# A large one.
large = msgpack.packb(bytes(3 << 20))
one.put(large, 1000)
assert one.get(20000) == large
one.task_done()
first.close()

# Tasks, whose worker is examples/gateway_worker.rs.
one, first = connect()
good = one.submit(b"how many words are these", 1000)
bad = one.submit(b"\xff\xfe", 1000)
print("submitted", flush=True)
sys.stdin.readline()
assert one.result(good, 30000) == b"5"
assert one.result(good, 0) == b"5"
assert "no text" in raises(Failed, one.result, bad, 30000).why
assert "no task of this id" in raises(Refused, one.result, "x", 0).why
ids = [one.submit(b"a " * n, 1000) for n in range(200)]
assert [int(one.result(id, 30000)) for id in ids] == list(range(200))
print("done", flush=True)
"#;

#[test]
fn python_puts_gets_and_has_tasks_done_with_the_client_that_thrift_makes() {
    let test = "the gateway from Python";
    let found = python();
    let Some(python) = needed(
        test,
        found,
        "PROCESSION_TEST_PYTHON names no Python with thrift and msgpack",
    ) else {
        return;
    };
    if needed(test, compiler(), "there is no Thrift compiler").is_none() {
        return;
    }
    let scene = Scene::new();
    generate("py", scene.dir());
    fs::write(scene.path("client.py"), SCRIPT).expect("a script");
    let gate = Gate::start(&scene, &[]);
    let mut client = scene
        .program(&python)
        .args(["client.py", &gate.port.to_string()])
        .env("PYTHONPATH", scene.dir())
        .open_input()
        .start();
    scene.until_true("two tasks", || {
        let running = client.is_running();
        assert!(running, "{}", client.stderr_so_far());
        client.stdout_so_far().starts_with(b"submitted")
    });
    let mut worker = example(&scene, "gateway_worker")
        .args([&gate.queue, &format!("{}.results", gate.queue)])
        .start();
    writeln!(client.stdin.as_mut().expect("a pipe")).expect("a line");
    let ended = client.wait();
    ended.assert_success();
    assert!(ended.text().ends_with("done\n"));
    worker.kill();
    worker.wait();
    gate.end();
}

/// One of the examples, which cargo builds with the tests.
fn example(scene: &Scene, name: &str) -> common::Program {
    let folder = Path::new(env!("CARGO_BIN_EXE_procession")).parent();
    scene.program(folder.expect("a folder").join("examples").join(name))
}
