//! The protocol as `docs/protocol.md` has it: the bytes of each example there are what the code writes and reads, and nothing
//! that is no message does harm.
//!
//! Whoever changes a message changes the page and this file with it: run `cargo test --test protocol`, which says the bytes
//! that it expected.

mod encoding;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use encoding::encode_again;
use procession::command::{CommandResult, Job, Mode, Template};
use procession::obituary::Obituary;
use procession::pipeline::{Ventilator, status};
use procession::wire::block;
use procession::wire::frame::{
    Ack, Again, Ask, Batch, Confirm, Confirmed, Credit, Done, Find, Found, Goodbye, Heartbeat,
    Hello, Kept, MAGIC, MAX_FRAME, Message, Obituaries, PART_SIZE, Part, PeerState, Pill, Place,
    Refused, ResultEntry, Role, Room, SinkAt, State, StatusRequest, TaskList, VERSION, Want,
    Welcome, decode, encode, encode_part, kind,
};
use proptest::prelude::*;

const RUN: u64 = 0xa1a2_a3a4_a5a6_a7a8;
const WORKER: u64 = 0xb1b2_b3b4_b5b6_b7b8;
const SINK: u64 = 0xc1c2_c3c4_c5c6_c7c8;

/// The messages of the examples, by the names that they have on the page.
fn examples() -> BTreeMap<&'static str, Vec<u8>> {
    let mut all = pipeline_examples();
    all.extend(queue_examples());
    all
}

/// Two items, `1` and `"ab"`, in a block.
fn block_of_two() -> Bytes {
    let mut block = Vec::new();
    for item in [&[0x01][..], &[0xa2, 0x61, 0x62]] {
        let pushed = block::push(&mut block, |out| {
            out.extend_from_slice(item);
            Ok::<(), ()>(())
        });
        assert_eq!(pushed, Ok(item.len()));
    }
    block.into()
}

fn queue_examples() -> BTreeMap<&'static str, Vec<u8>> {
    let ask = |kind| Ask {
        kind,
        run: RUN,
        number: 3,
        inside: 0,
        unfinished: 0,
    };
    BTreeMap::from([
        ("HELLO of a member", {
            let hello = hello_of_a_worker();
            encode(&Hello {
                role: Role::Member as u8,
                run: 0,
                slots: 0,
                held: Vec::new(),
                ..hello
            })
        }),
        ("ITEMS", {
            let mut batch = Batch::items(RUN);
            batch.push_task(7, 1, 2, &Place::Inline(block_of_two()));
            batch.push_task(8, 1, 0, &Place::Parts(2 << 20));
            batch.finish()
        }),
        ("PUT", {
            let mut batch = Batch::puts(RUN, WORKER, 1, true);
            batch.push_put(4, 2, &Place::Inline(block_of_two()));
            batch.finish()
        }),
        (
            "ROOM",
            encode(&Room {
                kind: kind::ROOM,
                run: RUN,
                accepted: 4,
                items: 100,
                want: 2,
                link: 1,
                absorbed: 300,
                closed: false,
            }),
        ),
        (
            "WANT",
            encode(&Want {
                kind: kind::WANT,
                run: RUN,
                items: 101,
                number: 3,
            }),
        ),
        (
            "CONFIRM",
            encode(&Confirm {
                kind: kind::CONFIRM,
                run: RUN,
                answer: false,
                blocks: vec![Confirmed {
                    id: 7,
                    attempt: 1,
                    kept: 2,
                    taken: 2,
                    done: 1,
                }],
            }),
        ),
        (
            "FIND",
            encode(&Find {
                kind: kind::FIND,
                magic: MAGIC.to_owned(),
                version: VERSION,
                peer: WORKER,
                run: 0,
                via: 2,
                queue: "jobs".to_owned(),
                maxsize: 1000,
                joinable: true,
            }),
        ),
        (
            "FOUND",
            encode(&Found {
                kind: kind::FOUND,
                peer: WORKER,
                address: "tcp://*:40001".to_owned(),
                lasting: true,
            }),
        ),
        ("ASK", encode(&ask(kind::ASK))),
        ("JOIN", encode(&ask(kind::JOIN))),
        ("SHUTDOWN", encode(&ask(kind::SHUTDOWN))),
        ("DROP", encode(&ask(kind::DROP))),
        (
            "ANSWER",
            encode(&Ask {
                kind: kind::ANSWER,
                inside: 12,
                unfinished: 14,
                ..ask(0)
            }),
        ),
    ])
}

fn obituary() -> Obituary {
    Obituary {
        attempt: 1,
        host: "ant".to_owned(),
        worker: WORKER,
        pid: 4711,
        exit: 0,
        signal: 9,
        out_of_memory: true,
        peak_memory: 1 << 20,
        seconds: 1.5,
        cause: String::new(),
        stderr: "no".to_owned(),
    }
}

fn pipeline_examples() -> BTreeMap<&'static str, Vec<u8>> {
    BTreeMap::from([
        ("HELLO of a worker", encode(&hello_of_a_worker())),
        (
            "OBITUARIES",
            encode(&Obituaries {
                kind: kind::OBITUARIES,
                run: RUN,
                peer: WORKER,
                tasks: vec![(7, 2, vec![obituary()])],
            }),
        ),
        (
            "DOOMED",
            encode(&Heartbeat {
                kind: kind::DOOMED,
                run: RUN,
                ack: 0,
            }),
        ),
        ("HELLO of a sink", encode(&hello_of_a_sink())),
        ("WELCOME of a worker", encode(&welcome_of_a_worker())),
        ("WELCOME of a sink", encode(&welcome_of_a_sink())),
        (
            "REFUSED",
            encode(&Refused {
                kind: kind::REFUSED,
                version: VERSION,
                why: "it has no id".to_owned(),
                again: false,
            }),
        ),
        (
            "CREDIT",
            encode(&Credit {
                kind: kind::CREDIT,
                run: RUN,
                tasks: 300,
                bytes: 8 << 20,
                taken: 2,
                running: 2,
            }),
        ),
        (
            "HEARTBEAT",
            encode(&Heartbeat {
                kind: kind::HEARTBEAT,
                run: RUN,
                ack: 0,
            }),
        ),
        ("RETURNED", encode(&list(kind::RETURNED))),
        ("REVOKE", encode(&list(kind::REVOKE))),
        (
            "AGAIN",
            encode(&Again {
                kind: kind::AGAIN,
                run: RUN,
                id: 7,
                attempt: 1,
                exit: -1,
                signal: 15,
            }),
        ),
        (
            "GOODBYE",
            encode(&Goodbye {
                kind: kind::GOODBYE,
                run: RUN,
                why: String::new(),
                end: false,
            }),
        ),
        (
            "SINK",
            encode(&SinkAt {
                kind: kind::SINK,
                run: RUN,
                sink: SINK,
                endpoints: vec!["tcp://*:40001".to_owned()],
                window: 1 << 20,
                key: String::new(),
            }),
        ),
        (
            "DONE",
            encode(&Done {
                kind: kind::DONE,
                run: RUN,
                tasks: vec![(1, 128), (200, 1)],
                link: 1,
                absorbed: 5000,
            }),
        ),
        ("REJOIN", encode(&pill(kind::REJOIN))),
        ("PILL", encode(&pill(kind::PILL))),
        ("STOP", encode(&pill(kind::STOP))),
        ("LAST", encode(&pill(kind::LAST))),
        ("TASKS", tasks()),
        ("TASKS with a range", tasks_with_a_range()),
        ("TASKS handed over", tasks_handed_over()),
        ("PART", encode_part(&part())),
        ("RESULTS", results()),
        ("ACK", encode(&ack())),
        (
            "STATUS",
            encode(&StatusRequest {
                kind: kind::STATUS,
                magic: MAGIC.to_owned(),
                version: VERSION,
            }),
        ),
        ("STATE", encode(&state())),
    ])
}

fn hello_of_a_worker() -> Hello {
    Hello {
        kind: kind::HELLO,
        magic: MAGIC.to_owned(),
        version: VERSION,
        role: 0,
        peer: WORKER,
        run: RUN,
        via: 2,
        slots: 2,
        host: "ant".to_owned(),
        machine: "0f1e".to_owned(),
        pid: 4711,
        held: vec![(5, 1), (7, 2)],
        ordered: false,
        endpoints: vec![],
        rings: false,
        key: String::new(),
    }
}

fn hello_of_a_sink() -> Hello {
    Hello {
        role: 1,
        peer: SINK,
        run: 0,
        slots: 0,
        held: vec![],
        ordered: true,
        endpoints: vec!["tcp://*:40001".to_owned()],
        rings: false,
        ..hello_of_a_worker()
    }
}

fn welcome_of_a_worker() -> Welcome {
    Welcome {
        kind: kind::WELCOME,
        run: RUN,
        peer: WORKER,
        heartbeat: 1000,
        address: "tcp://*:40002".to_owned(),
        job: vec![0xc0],
        sink: SINK,
        endpoints: vec!["tcp://*:40001".to_owned()],
        window: 1 << 20,
        acked: vec![],
        resumed: false,
        ack: 0,
        key: String::new(),
        pass: String::new(),
    }
}

fn welcome_of_a_sink() -> Welcome {
    Welcome {
        peer: SINK,
        address: "tcp://*:40003".to_owned(),
        sink: 0,
        endpoints: vec![],
        acked: vec![(1, 4), (6, 1)],
        resumed: true,
        ack: 3,
        ..welcome_of_a_worker()
    }
}

fn list(kind: u8) -> TaskList {
    TaskList {
        kind,
        run: RUN,
        tasks: vec![(7, 1), (8, 1)],
    }
}

fn pill(kind: u8) -> Pill {
    Pill {
        kind,
        run: RUN,
        done: 1000,
        failed: 3,
        cause: 0,
        kill: false,
    }
}

fn tasks() -> Vec<u8> {
    let mut batch = Batch::tasks(RUN);
    batch.push_task(7, 1, 0, &Place::Inline(Bytes::from_static(b"a.txt")));
    batch.push_task(8, 2, 1, &Place::Parts(300_000));
    batch.finish()
}

fn tasks_with_a_range() -> Vec<u8> {
    let mut batch = Batch::tasks(RUN);
    let range = procession::Body::range("/tmp/in", 65_536, 1000);
    batch.push_task(9, 1, 0, &Place::File(range));
    batch.finish()
}

fn tasks_handed_over() -> Vec<u8> {
    let mut batch = Batch::tasks(RUN);
    batch.push_task(10, 1, 0, &Place::Handed(0xd1d2_d3d4_d5d6_d7d8));
    batch.finish()
}

fn part() -> Part {
    Part {
        run: RUN,
        peer: WORKER,
        link: 1,
        id: 8,
        attempt: 2,
        offset: PART_SIZE as u64,
        bytes: Bytes::from_static(b"the end"),
    }
}

fn results() -> Vec<u8> {
    let entry = |id, exit, signal, place| ResultEntry {
        id,
        attempt: 1,
        exit,
        signal,
        micros: 1500,
        place,
    };
    let mut batch = Batch::results(RUN, WORKER, 1);
    batch.push_result(&entry(7, 0, 0, Place::Inline(Bytes::from_static(b"\x2a"))));
    batch.push_result(&entry(8, 0, 9, Place::Parts(262_151)));
    batch.push_result(&entry(9, -1, 0, Place::Error("too late".to_owned())));
    batch.finish()
}

fn ack() -> Ack {
    Ack {
        kind: kind::ACK,
        run: RUN,
        sink: SINK,
        number: 4,
        kept: vec![Kept {
            first: 7,
            count: 2,
            attempt: 1,
            worker: WORKER,
            exit: 0,
            signal: 0,
            micros: 3000,
        }],
        absorbed: vec![(WORKER, 1, 5000)],
    }
}

fn state() -> State {
    State {
        kind: kind::STATE,
        run: RUN,
        pid: 4710,
        host: "ant".to_owned(),
        title: "gzip".to_owned(),
        seconds: 1.5,
        waiting: 10,
        leased: 4,
        running: 2,
        done: 100,
        failed: 1,
        total: None,
        again: 0,
        peers: vec![PeerState {
            peer: WORKER,
            role: "worker".to_owned(),
            host: "ant".to_owned(),
            pid: 4711,
            slots: 2,
            running: 2,
            leased: 4,
            done: 100,
            state: "live".to_owned(),
        }],
        turned_away: 0,
    }
}

/// The examples of the page: the blocks of this language, with the name behind it. What follows `#` in a line is for people.
fn page(language: &str) -> Result<BTreeMap<String, Vec<u8>>, Box<dyn std::error::Error>> {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/protocol.md"))?;
    let mut blocks = BTreeMap::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some((fence, name)) = line.split_once(' ') else {
            continue;
        };
        if fence.strip_prefix("```") != Some(language) {
            continue;
        }
        let mut bytes = Vec::new();
        for line in lines.by_ref().take_while(|line| *line != "```") {
            let digits = line.split('#').next().unwrap_or_default();
            for pair in digits.split_whitespace() {
                bytes.push(u8::from_str_radix(pair, 16)?);
            }
        }
        if blocks.insert(name.to_owned(), bytes).is_some() {
            return Err(format!("{name} is there twice").into());
        }
    }
    Ok(blocks)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x} ")).collect()
}

/// What on the page differs from the code.
fn differences(page: &BTreeMap<String, Vec<u8>>, code: &BTreeMap<&str, Vec<u8>>) -> String {
    let mut wrong = String::new();
    for (name, bytes) in code {
        if page.get(*name) != Some(bytes) {
            let there = page
                .get(*name)
                .map_or("nothing".to_owned(), |there| hex(there));
            wrong += &format!("{name}\n page: {there}\n code: {}\n", hex(bytes));
        }
    }
    for name in page.keys().filter(|name| !code.contains_key(name.as_str())) {
        wrong += &format!("{name} is no example here\n");
    }
    wrong
}

#[test]
fn the_page_has_the_bytes_of_every_message() -> Result<(), Box<dyn std::error::Error>> {
    let examples = examples();
    let wrong = differences(&page("hex")?, &examples);
    assert!(
        wrong.is_empty(),
        "docs/protocol.md and the code differ:\n{wrong}"
    );
    let kinds: std::collections::BTreeSet<u8> = examples
        .values()
        // Behind the array's head, which has three bytes when there are more than 15 fields.
        .map(|bytes| if bytes[0] == 0xdc { bytes[3] } else { bytes[1] })
        .collect();
    assert!(
        kinds.into_iter().eq(1..=kind::FOUND),
        "a kind has no example"
    );
    Ok(())
}

#[test]
fn the_page_has_the_bytes_of_the_jobs_and_results_of_commands()
-> Result<(), Box<dyn std::error::Error>> {
    let job = Job {
        mode: Mode::Value,
        template: Template::Words(vec![b"gzip".to_vec(), b"{}".to_vec()]),
        timeout: Some(Duration::from_millis(1500)),
        ..Job::default()
    };
    let result = CommandResult {
        input: "a.txt".into(),
        command: "gzip a.txt".into(),
        host: "ant".to_owned(),
        worker: format!("{WORKER:016x}"),
        slot: 1,
        start: 1.5,
        seconds: 0.25,
        stdout: "out".into(),
        stderr: "err!".into(),
        ..CommandResult::default()
    };
    let bodies = BTreeMap::from([
        ("JOB", rmp_serde::to_vec(&job)?),
        ("COMMAND RESULT", result.to_body()?.to_bytes()?.to_vec()),
    ]);
    let page = page("hex-body")?;
    let wrong = differences(&page, &bodies);
    assert!(
        wrong.is_empty(),
        "docs/protocol.md and the code differ:\n{wrong}"
    );
    assert_eq!(rmp_serde::from_slice::<Job>(&page["JOB"])?, job);
    let read = CommandResult::from_body(&page["COMMAND RESULT"].clone().into())?;
    assert_eq!(&read.stderr.to_bytes()?[..], b"err!");
    Ok(())
}

#[test]
fn every_example_is_read_back_as_it_was_written() -> Result<(), Box<dyn std::error::Error>> {
    for (name, bytes) in page("hex")? {
        let message = decode(&bytes.clone().into()).map_err(|error| format!("{name}: {error}"))?;
        assert_eq!(hex(&encode_again(&message)), hex(&bytes), "{name}");
    }
    Ok(())
}

#[test]
fn a_message_that_was_cut_short_is_malformed() {
    for (name, bytes) in examples() {
        for len in 0..bytes.len() {
            let cut = Bytes::copy_from_slice(&bytes[..len]);
            assert!(decode(&cut).is_err(), "{name} cut to {len} bytes");
        }
    }
}

#[test]
fn a_message_with_a_field_too_many_or_too_few_is_malformed() {
    for (name, bytes) in examples() {
        let fields = bytes[0] & 0x0f;
        for other in [fields - 1, fields + 1] {
            if other > 15 {
                continue;
            }
            let mut changed = bytes.clone();
            changed[0] = 0x90 | other;
            changed.push(0);
            let what = format!("{name} as {other} fields");
            // With one field fewer the bytes of the last are left over; both are refused.
            assert!(decode(&changed.into()).is_err(), "{what}");
        }
    }
}

#[test]
fn a_frame_over_one_mebibyte_is_malformed() {
    let mut largest = part();
    let room = MAX_FRAME - encode_part(&largest).len() + largest.bytes.len();
    // A longer bin takes a longer header: five bytes instead of two.
    largest.bytes = vec![0; room - 3].into();
    let frame = encode_part(&largest);
    assert_eq!(frame.len(), MAX_FRAME);
    assert!(decode(&frame.into()).is_ok());
    largest.bytes = vec![0; room - 2].into();
    assert!(decode(&encode_part(&largest).into()).is_err());
}

#[test]
fn a_greeting_of_another_version_is_known_by_its_number() {
    for version in [0, VERSION + 1, u16::MAX] {
        let hello = Hello {
            version,
            ..hello_of_a_worker()
        };
        let status = StatusRequest {
            kind: kind::STATUS,
            magic: MAGIC.to_owned(),
            version,
        };
        // What comes behind the version may be anything.
        let later = encode(&(
            kind::HELLO,
            MAGIC,
            version,
            "fields of later days",
            [1, 2, 3],
        ));
        for bytes in [encode(&hello), encode(&status), later] {
            let message = decode(&bytes.into());
            assert!(
                matches!(message, Ok(Message::OtherVersion(other)) if other == version),
                "{message:?}"
            );
        }
    }
}

#[test]
fn a_greeting_without_the_magic_word_is_malformed() {
    for bytes in [
        encode(&(kind::HELLO, "possession", VERSION)),
        encode(&(kind::HELLO, 1, VERSION)),
        encode(&(kind::STATUS, MAGIC)),
    ] {
        assert!(decode(&bytes.into()).is_err());
    }
}

#[test]
fn a_result_that_names_a_file_is_malformed() {
    let mut batch = Batch::results(RUN, WORKER, 1);
    batch.push_result(&ResultEntry {
        id: 1,
        attempt: 1,
        exit: 0,
        signal: 0,
        micros: 0,
        place: Place::File(procession::Body::range("/etc/passwd", 0, 10)),
    });
    assert!(decode(&batch.finish().into()).is_err());
}

#[test]
fn numbers_are_read_in_any_width() {
    // A heartbeat, and the length of parts, as a language writes them that has signed numbers of 64 bits only.
    let beat = [
        0x93, 5, 0xd3, 0, 0, 0, 0, 0, 0, 0, 7, 0xd3, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    let beat = decode(&Bytes::copy_from_slice(&beat));
    assert!(
        matches!(beat, Ok(Message::Heartbeat(Heartbeat { run: 7, .. }))),
        "{beat:?}"
    );
    let mut tasks = vec![0x93, kind::TASKS, 1, 0x91, 0x94, 1, 1, 0, 0xd3];
    tasks.extend(300_000i64.to_be_bytes());
    match decode(&tasks.into()) {
        Ok(Message::Tasks(tasks)) => {
            assert!(matches!(tasks.entries[0].place, Place::Parts(300_000)))
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_deep_nest_of_arrays_is_malformed_and_no_stack_overflow() {
    let mut bytes = vec![0x93, kind::TASKS, 1];
    bytes.extend(std::iter::repeat_n(0x91, 500_000));
    assert!(decode(&bytes.into()).is_err());
}

#[test]
fn a_length_that_is_not_there_allocates_nothing() {
    // Four thousand million entries announced, none there.
    for head in [
        [0x93, kind::TASKS, 1].as_slice(),
        &[0x95, kind::RESULTS, 1, 1, 1],
    ] {
        let mut bytes = head.to_vec();
        bytes.extend([0xdd, 0xff, 0xff, 0xff, 0xff]);
        assert!(decode(&bytes.into()).is_err());
    }
}

#[test]
fn a_ventilator_outlives_what_is_no_message_and_refuses_another_version()
-> Result<(), Box<dyn std::error::Error>> {
    // Insecure, so that a stranger comes so far as to say something.
    let ventilator: Ventilator<u64> = Ventilator::<()>::builder("tcp://127.0.0.1:*")
        .insecure(true)
        .start()?;
    let endpoint = ventilator.endpoints()[0].to_string();
    let context = zmq::Context::new();
    let come = || -> Result<zmq::Socket, zmq::Error> {
        let stranger = context.socket(zmq::DEALER)?;
        stranger.set_linger(0)?;
        stranger.set_rcvtimeo(30_000)?;
        stranger.connect(&endpoint)?;
        Ok(stranger)
    };
    let offender = come()?;
    offender.send_multipart([b"two".as_slice(), b"frames"], 0)?;
    offender.send("GET / HTTP/1.1", 0)?;
    offender.send(Vec::new(), 0)?;
    let stranger = come()?;
    stranger.send(
        encode(&Hello {
            version: VERSION + 1,
            ..hello_of_a_worker()
        }),
        0,
    )?;
    match decode(&stranger.recv_bytes(0)?.into())? {
        Message::Refused(refused) => {
            assert_eq!((refused.version, refused.again), (VERSION, false));
            assert!(refused.why.contains("version 2"), "{}", refused.why);
            assert!(refused.why.contains("version 1"), "{}", refused.why);
        }
        other => return Err(format!("{other:?}").into()),
    }
    // A frame that is too long costs its sender the connection, and nobody else anything.
    stranger.send(vec![0; MAX_FRAME + 1], 0)?;
    // Who sends what is no message is not heard any more, and counted; until it is, as it came on a connection of its own.
    loop {
        let state = status(&endpoint, Duration::from_secs(30), true)?;
        if state.turned_away > 0 {
            assert_eq!((state.turned_away, state.done), (1, 0));
            break;
        }
    }
    offender.set_rcvtimeo(0)?;
    offender.send(encode(&hello_of_a_worker()), 0)?;
    status(&endpoint, Duration::from_secs(30), true)?;
    assert!(offender.recv_bytes(0).is_err(), "it is heard");
    Ok(())
}

proptest! {
    #[test]
    fn any_bytes_are_a_message_or_malformed(bytes: Vec<u8>) {
        let _ = decode(&bytes.into());
    }

    #[test]
    fn any_bytes_behind_a_kind_are_a_message_or_malformed(
        fields in 0x90..=0x9fu8,
        kind in 0..=24u8,
        rest: Vec<u8>,
    ) {
        let mut bytes = vec![fields, kind];
        bytes.extend(rest);
        let _ = decode(&bytes.into());
    }

    #[test]
    fn an_example_with_some_bytes_changed_is_a_message_or_malformed(
        which: prop::sample::Index,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let examples: Vec<Vec<u8>> = examples().into_values().collect();
        let mut bytes = examples[which.index(examples.len())].clone();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(message) = decode(&bytes.into()) {
            // What was understood can be said.
            let _ = encode_again(&message);
        }
    }
}
