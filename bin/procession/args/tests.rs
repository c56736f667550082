//! The command line in rows: what is typed, what comes out.

use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

use super::options::{InputFile, JobLog, LimitArgs, TicketArgs};
use super::quantity::Jobs;
use super::*;

fn typed(words: &[&str]) -> Result<Action, clap::Error> {
    parse(
        std::iter::once("procession")
            .chain(words.iter().copied())
            .map(OsString::from),
    )
}

fn run(words: &[&str]) -> RunArgs {
    match typed(&[&["run"], words].concat()) {
        Ok(Action::Run(args)) => args,
        other => panic!("{words:?}: {other:?}"),
    }
}

fn strings(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

#[test]
fn the_definitions_are_sound() {
    use clap::CommandFactory;
    CommandLine::command().debug_assert();
}

#[test]
fn options_end_at_the_first_word_that_is_not_one() {
    type Row<'a> = (&'a [&'a str], &'a [&'a str], Option<&'a [&'a str]>);
    let rows: &[Row] = &[
        (&[], &[], None),
        (
            &["-j2", "gzip", "-9", ":::", "a", "b"],
            &["gzip", "-9"],
            Some(&["a", "b"]),
        ),
        (
            &[":::", "echo a", "echo b"],
            &[],
            Some(&["echo a", "echo b"]),
        ),
        (&["echo", ":::"], &["echo"], Some(&[])),
        (&["--", "-weird", ":::", "x"], &["-weird"], Some(&["x"])),
        (&["--", ":::", "x"], &[], Some(&["x"])),
        (
            &["git", "--", "x", "-k", "--help"],
            &["git", "--", "x", "-k", "--help"],
            None,
        ),
        (&["--", "git", "--", "-h"], &["git", "--", "-h"], None),
        (
            &["echo", ":::", "-k", "--", "--help"],
            &["echo"],
            Some(&["-k", "--", "--help"]),
        ),
        (&["-k", "echo", "{}"], &["echo", "{}"], None),
        (&["echo", "-j", "4"], &["echo", "-j", "4"], None),
        (&["-j", "-1", "-0", "x"], &["x"], None),
        (&["-a", "f", "-", "x"], &["-", "x"], None),
    ];
    for (words, command, values) in rows {
        let args = run(words);
        assert_eq!(args.input.command, strings(command), "{words:?}");
        assert_eq!(args.input.values, values.map(strings), "{words:?}");
    }
}

#[test]
fn what_is_not_typed_has_its_default() {
    let args = run(&["true"]);
    let expected = RunArgs {
        tickets: TicketArgs { ticket_out: None },
        limits: LimitArgs::default(),
        bind: None,
        advertise: None,
        journal: JournalArgs::default(),
        resume: false,
        retry_failed: false,
        input: InputArgs {
            command: strings(&["true"]),
            values: None,
            files: vec![],
            null: false,
            pipe: false,
            block: 1 << 20,
            filter: false,
            retries: 1,
            timeout: None,
            will_cite: false,
        },
        chaos: ChaosArgs { chaos: None },
        jobs: JobsArgs {
            jobs: Jobs::Percent(100.0),
        },
        output: OutputArgs {
            keep_order: false,
            tag: false,
            json: false,
            joblog: None,
            results: None,
        },
        common: CommonArgs {
            bar: false,
            heartbeat: Duration::from_secs(1),
            lane_ports: None,
            reach: ReachArgs {
                keys: None,
                patience: Duration::from_secs(30),
                insecure: false,
            },
            log: LogArgs {
                verbose: 0,
                quiet: false,
            },
        },
    };
    assert_eq!(args, expected);
}

#[test]
fn run_has_every_option() {
    let args = run(&[
        "--bind",
        "tcp://127.0.0.1:5557",
        "--advertise",
        "me",
        "-a",
        "x",
        "-a-",
        "--arg-file=y",
        "-0",
        "--pipe",
        "--block",
        "2k",
        "--retries",
        "3",
        "--timeout",
        "1.5",
        "-j+2",
        "-k",
        "--tag",
        "--json",
        "--joblog",
        "+log",
        "--results",
        "out",
        "--journal",
        "j",
        "--journal-sync",
        "--bar",
        "--patience",
        "5",
        "--heartbeat",
        "0.1",
        "--lane-ports",
        "4000-4009",
        "--insecure",
        "-vv",
        "-v",
        "--will-cite",
        "wc",
        "-l",
    ]);
    let expected = RunArgs {
        tickets: TicketArgs { ticket_out: None },
        limits: LimitArgs::default(),
        bind: Some("tcp://127.0.0.1:5557".into()),
        advertise: Some("me".into()),
        journal: JournalArgs {
            journal: Some("j".into()),
            journal_sync: true,
        },
        resume: false,
        retry_failed: false,
        input: InputArgs {
            command: strings(&["wc", "-l"]),
            values: None,
            files: vec![
                InputFile::Path("x".into()),
                InputFile::Stdin,
                InputFile::Path("y".into()),
            ],
            null: true,
            pipe: true,
            block: 2_000,
            filter: false,
            retries: 3,
            timeout: Some(Duration::from_millis(1_500)),
            will_cite: true,
        },
        chaos: ChaosArgs { chaos: None },
        jobs: JobsArgs {
            jobs: Jobs::Plus(2),
        },
        output: OutputArgs {
            keep_order: true,
            tag: true,
            json: true,
            joblog: Some(JobLog {
                path: "log".into(),
                append: true,
            }),
            results: Some("out".into()),
        },
        common: CommonArgs {
            bar: true,
            heartbeat: Duration::from_millis(100),
            lane_ports: Some(4_000..=4_009),
            reach: ReachArgs {
                keys: None,
                patience: Duration::from_secs(5),
                insecure: true,
            },
            log: LogArgs {
                verbose: 3,
                quiet: false,
            },
        },
    };
    assert_eq!(args, expected);
}

#[test]
fn the_last_of_a_repeated_option_counts() {
    assert_eq!(
        run(&["-j2", "-j", "4", "-k", "-k"]).jobs.jobs,
        Jobs::Count(4)
    );
    assert_eq!(run(&["-P0"]).jobs.jobs, Jobs::Unlimited);
    assert_eq!(run(&["--max-procs", "50%"]).jobs.jobs, Jobs::Percent(50.0));
}

#[test]
fn words_need_not_be_utf8() {
    let odd = OsString::from_vec(vec![b'a', 0xff]);
    let mut argv = strings(&["procession", "run", "--joblog"]);
    argv.extend([
        OsString::from_vec(vec![b'+', 0xfe]),
        "-a".into(),
        odd.clone(),
        odd.clone(),
    ]);
    let Ok(Action::Run(args)) = parse(argv) else {
        panic!()
    };
    assert_eq!(args.input.command, std::slice::from_ref(&odd));
    assert_eq!(args.input.files, [InputFile::Path(odd.clone().into())]);
    let expected = JobLog {
        path: OsString::from_vec(vec![0xfe]).into(),
        append: true,
    };
    assert_eq!(args.output.joblog, Some(expected));

    let mut argv = strings(&["procession", "run", "echo", ":::"]);
    argv.push(odd.clone());
    let Ok(Action::Run(args)) = parse(argv) else {
        panic!()
    };
    assert_eq!(args.input.values, Some(vec![odd]));
}

#[test]
fn each_role_reads_its_own_options() {
    let Ok(Action::Ventilator(args)) = typed(&[
        "ventilator",
        "--bind",
        "ipc:///x",
        "--filter",
        "cat",
        ":::",
        "a",
    ]) else {
        panic!()
    };
    assert_eq!(
        (args.bind.as_deref(), args.input.filter),
        (Some("ipc:///x"), true)
    );
    assert_eq!(args.input.values, Some(strings(&["a"])));
    let Ok(Action::Worker(args)) =
        typed(&["worker", "--connect=ipc:///x", "-j", "3", "gzip", "-9"])
    else {
        panic!()
    };
    assert_eq!(
        (args.connect.as_deref(), args.jobs.jobs),
        (Some("ipc:///x"), Jobs::Count(3))
    );
    assert_eq!(args.command, strings(&["gzip", "-9"]));
    let Ok(Action::Sink(args)) =
        typed(&["sink", "--connect", "ipc:///x", "--bind", "ipc:///y", "-k"])
    else {
        panic!()
    };
    assert_eq!(
        (args.bind.as_deref(), args.output.keep_order),
        (Some("ipc:///y"), true)
    );
    let Ok(Action::Status(args)) = typed(&["status", "--json", "-v"]) else {
        panic!()
    };
    assert_eq!((args.connect, args.json, args.log.verbose), (None, true, 1));
    let Ok(Action::Guardian(args)) = typed(&["__guardian", "-x", ":::", "--", "7"]) else {
        panic!()
    };
    assert_eq!(args.words, strings(&["-x", ":::", "--", "7"]));
}

#[test]
fn misuse_is_told_and_the_way_out_with_it() {
    let rows: &[(&[&str], &[&str])] = &[
        (
            &["worker", "--connect", "e", "--joblog", "x"],
            &[
                "error: --joblog is an option of the sink (and of run); give it there, not to the worker",
            ],
        ),
        (
            &["worker", "--joblog=x"],
            &[
                "--joblog is an option of the sink (and of run)",
                "Usage: procession worker --connect ENDPOINT",
            ],
        ),
        (
            &["worker", "--connect", "e", "-vk"],
            &["-k is an option of the sink (and of run)"],
        ),
        (
            &["worker", "--connect", "e", "--bind", "e"],
            &["--bind is an option of the ventilator, of the sink and of the queue (and of run)"],
        ),
        (
            &["ventilator", "--bind", "e", "-j4"],
            &["-j is an option of the worker (and of run); give it there, not to the ventilator"],
        ),
        (
            &["ventilator", "--bind", "e", "--max-procs", "4"],
            &["--max-procs is an option of the worker (and of run)"],
        ),
        (
            &["ventilator", "--bind", "e", "--json"],
            &["--json is an option of the sink and of status (and of run)"],
        ),
        (
            &["sink", "--connect", "e", "--timeout", "3"],
            &["--timeout is an option of the ventilator (and of run)"],
        ),
        (
            &["sink", "--connect", "e", "--arg-file", "3"],
            &["--arg-file is an option of the ventilator (and of run)"],
        ),
        (
            &["status", "--bar"],
            &[
                "--bar is an option of the ventilator, of the worker and of the sink (and of run); give it there, not to status",
            ],
        ),
        (
            &["run", "--connect", "e"],
            &[
                "--connect is an option of the worker, of the sink and of status; give it there, not to run",
            ],
        ),
        (
            &["-j4", "gzip"],
            &["-j comes after the subcommand: procession run -j"],
        ),
        (
            &["--joblog", "x", "sink"],
            &["--joblog comes after the subcommand: procession run --joblog"],
        ),
        (
            &["run", "--keep-ordr", "x"],
            &[
                "unexpected argument '--keep-ordr'",
                "a similar argument exists: '--keep-order'",
            ],
        ),
        (
            &["run", "--nonsense"],
            &["unexpected argument '--nonsense'"],
        ),
        (&["runn", "x"], &["unrecognized subcommand 'runn'", "'run'"]),
        (
            &["gzip", ":::", "x"],
            &["there is no subcommand 'gzip'; to run it as a command: procession run gzip"],
        ),
        (
            &["worker"],
            &[
                "the worker needs --connect ENDPOINT, the one that the ventilator was given as --bind",
            ],
        ),
        (&["sink", "-k"], &["the sink needs --connect ENDPOINT"]),
        (
            &["ventilator", "true"],
            &["the ventilator needs --bind ENDPOINT"],
        ),
        (
            &["sink", "--connect", "e", "extra"],
            &["unexpected argument 'extra'"],
        ),
        (
            &["worker", "--connect", "e", "x", ":::", "y"],
            &[
                "values after ::: belong to the ventilator (and to run); give them there, not to the worker",
            ],
        ),
        (
            &["run", "echo", ":::", "a", ":::", "b"],
            &["only one ::: is understood"],
        ),
        (
            &["run", "echo", "::::", "a"],
            &[":::: is not understood; to read tasks from a file use -a FILE"],
        ),
        (
            &["run", "echo", ":::", "a", ":::+", "b"],
            &[":::+ is not understood"],
        ),
        (
            &["run", "-a", "f", "echo", ":::", "a"],
            &["values after ::: cannot be used with -a FILE"],
        ),
        (
            &["run", "-a", ":::", "a"],
            &["a value is required for '--arg-file <FILE>'"],
        ),
        (
            &["run", "--pipe", "wc", ":::", "a"],
            &["values after ::: cannot be used with --pipe"],
        ),
        (&["run", "--pipe"], &["--pipe needs a COMMAND to feed"]),
        (&["run", "--filter"], &["--filter needs a COMMAND to feed"]),
        (
            &["run", "--pipe", "--filter", "x"],
            &["'--pipe' cannot be used with '--filter'"],
        ),
        (
            &["run", "--block", "1M", "x"],
            &["required arguments were not provided", "--pipe"],
        ),
        (
            &["run", "--advertise", "h", "x"],
            &["--advertise is of use only with --bind ENDPOINT"],
        ),
        (&["run", "-v", "-q"], &["cannot be used with"]),
        (
            &["run", "-j", "many", "x"],
            &["invalid value 'many' for '--jobs <N>': expected a number (4), +N, -N"],
        ),
        (
            &["run", "-j", "-k", "x"],
            &["invalid value '-k' for '--jobs <N>'"],
        ),
        (
            &["run", "--timeout", "0", "x"],
            &["invalid value '0' for '--timeout <SECS>': it must be more than 0"],
        ),
        (&["run", "--lane-ports", "9-5", "x"], &["did you mean 5-9?"]),
        (
            &["run", "--joblog", "+", "x"],
            &["the name of a file is needed"],
        ),
        (&[], &["Usage: procession <SUBCOMMAND>"]),
    ];
    for (words, expected) in rows {
        let Err(error) = typed(words) else {
            panic!("{words:?} was accepted")
        };
        let text = error.to_string();
        for part in *expected {
            assert!(
                text.contains(part),
                "{words:?}: {part:?} is not in:\n{text}"
            );
        }
        assert!(error.use_stderr(), "{words:?}");
    }
}

#[test]
fn help_and_version_are_no_errors() {
    for words in [
        &["--help"][..],
        &["-h"],
        &["--version"],
        &["run", "--help"],
        &["worker", "-h"],
        &["help", "sink"],
    ] {
        let Err(error) = typed(words) else {
            panic!("{words:?}")
        };
        assert!(!error.use_stderr(), "{words:?}");
    }
    let Err(long) = typed(&["run", "--help"]) else {
        panic!()
    };
    assert!(long.to_string().starts_with("Examples:\n"), "{long}");
    let Err(short) = typed(&["run", "-h"]) else {
        panic!()
    };
    let short = short.to_string();
    assert!(!short.contains("Examples:"), "{short}");
    assert!(
        short.contains("Usage: procession run [OPTIONS] [COMMAND [ARG]...] [::: VALUE...]"),
        "{short}"
    );
    assert!(
        !short.contains("__guardian") && !short.contains("will-cite"),
        "{short}"
    );
}

#[test]
fn limits_are_named() {
    use quantity::Limit;
    let args = run(&["--limit=peers=3,joins=10", "--limit", "memory=2M", "true"]);
    assert_eq!(
        args.limits.limits,
        [Limit::Peers(3), Limit::Joins(10), Limit::Memory(2 << 20)]
    );
    for (text, part) in [
        ("3", "peers=N"),
        ("flies=3", "peers=N"),
        ("peers=x", "is not a number"),
        ("peers=0", "at least 1"),
        ("message=1K", "4K to 1M"),
        ("message=2M", "4K to 1M"),
    ] {
        let error = typed(&["run", "--limit", text, "true"]).expect_err(text);
        assert!(error.to_string().contains(part), "{text}: {error}");
    }
}
