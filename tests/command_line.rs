//! Every option of the command, by what comes of it, with the real binary. Where GNU parallel has the same option, the
//! expected text is what its manual says.

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use common::{Ended, Scene, Signal, assert_each_once, joblog, numbers};

/// `procession ARGS` with this input, to its end.
fn given(input: &[u8], args: &[&str]) -> Ended {
    let scene = Scene::new();
    let ended = scene.procession(args).input(input).run();
    assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
    scene.assert_nothing_left();
    ended
}

/// `procession ARGS` without input, to its end.
fn done(args: &[&str]) -> Ended {
    given(b"", args)
}

fn sorted_lines(text: &str) -> Vec<String> {
    let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

fn objects(stdout: &[u8]) -> Vec<serde_json::Value> {
    String::from_utf8_lossy(stdout)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|why| panic!("{why}: {line}")))
        .collect()
}

// ---- the words ----

#[test]
fn options_end_at_the_first_word_that_is_none_or_at_two_dashes() {
    let rows: &[(&[&str], &str)] = &[
        (&["run", "echo", "-k", "--tag", ":::", "a"], "-k --tag a\n"),
        (&["run", "-k", "echo", "-n", ":::", "a", "b"], "ab"),
        (
            &["run", "--", "echo", "--", "-j9", ":::", "a"],
            "-- -j9 a\n",
        ),
        (&["run", "-k", "--tag", "--", "echo", ":::", "a"], "a\ta\n"),
        (&["run", "-k", "echo", ":::", "-j", "--tag"], "-j\n--tag\n"),
        (&["run", "-k", "-j2", "echo", ":::", ""], "\n"),
    ];
    for (args, expected) in rows {
        let ended = done(args);
        ended.assert_success();
        assert_eq!(ended.text(), *expected, "{args:?}");
    }
}

#[test]
fn several_words_are_executed_directly_and_one_word_is_a_script() {
    let rows: &[(&[&str], &[&str], &str)] = &[
        (&["printf", "%s\\n"], &["a  b"], "a  b\n"),
        (
            &["printf", "%s\\n"],
            &["$(echo no)", "`id`", "*"],
            "$(echo no)\n`id`\n*\n",
        ),
        (&["printf", "<%s>", "x{}y{}"], &["1;2"], "<x1;2y1;2>"),
        (
            &["printf '<%s>' {} | tr a-z A-Z"],
            &["it's", "$(id)"],
            "<IT'S><$(ID)>",
        ),
        (&["printf '<%s>'"], &["a  b"], "<a  b>"),
        (&["echo"], &["a  b"], "a  b\n"),
        // Without COMMAND, and with {} alone, the value is the command.
        (&[], &["echo 1; echo 2", "echo $((1 + 2))"], "1\n2\n3\n"),
        (&["{}"], &["echo 1 | cat"], "1\n"),
    ];
    for (command, values, expected) in rows {
        let args = [&["run", "-k"], *command, &[":::"], *values].concat();
        let ended = done(&args);
        ended.assert_success();
        assert_eq!(ended.text(), *expected, "{command:?} {values:?}");
    }
}

#[test]
fn placeholders_stand_for_what_they_do_in_gnu_parallel() {
    let rows = [
        ("a/b.c.d", "a/b.c.d|a/b.c|b.c.d|a|b.c"),
        ("file.txt", "file.txt|file|file.txt|.|file"),
        ("/etc/passwd", "/etc/passwd|/etc/passwd|passwd|/etc|passwd"),
        ("/x", "/x|/x|x|/|x"),
        ("dir.d/none", "dir.d/none|dir.d/none|none|dir.d|none"),
        ("a b/c d.e", "a b/c d.e|a b/c d|c d.e|a b|c d"),
    ];
    for (value, expected) in rows {
        for command in [
            &["echo", "{}|{.}|{/}|{//}|{/.}"][..],
            &["printf '%s|%s|%s|%s|%s\\n' {} {.} {/} {//} {/.}"],
        ] {
            let args = [&["run"], command, &[":::", value]].concat();
            assert_eq!(
                done(&args).text(),
                format!("{expected}\n"),
                "{value} {command:?}"
            );
        }
    }
    let numbered = done(&["run", "-k", "-j1", "echo", "{#}{%}", ":::", "a", "b", "c"]);
    assert_eq!(
        numbered.text(),
        "11 a\n21 b\n31 c\n"
            .replace(" a", "")
            .replace(" b", "")
            .replace(" c", "")
    );
}

#[test]
fn slots_are_numbered_from_one_to_the_number_of_jobs() {
    let ended = given(&numbers(100), &["run", "-j3", "sleep 0.01; echo {%} # {}"]);
    ended.assert_success();
    let slots = sorted_lines(&ended.text());
    assert_eq!(slots.len(), 100);
    assert!(
        slots
            .iter()
            .all(|slot| ["1", "2", "3"].contains(&slot.as_str())),
        "{slots:?}"
    );
}

#[test]
fn any_byte_but_nul_survives_as_argument_and_in_a_script() {
    // Every byte but the line end, which ends the task, and NUL.
    let bytes: Vec<u8> = (1..=255u8).filter(|byte| *byte != b'\n').collect();
    for command in [&["printf", "%s\\n"][..], &["printf '%s\\n' {}"]] {
        let ended = given(&[&bytes[..], b"\n"].concat(), &[&["run"], command].concat());
        ended.assert_success();
        assert_eq!(ended.stdout, [&bytes[..], b"\n"].concat(), "{command:?}");
    }
    let with_line_ends = b"a\nb\0\nc\n\0".to_vec();
    let ended = given(&with_line_ends, &["run", "-0", "-k", "printf '<%s>' {}"]);
    assert_eq!(ended.text(), "<a\nb><\nc\n>");
}

#[test]
fn a_placeholder_in_the_script_of_an_own_shell_is_warned_of_once() {
    let ended = done(&["run", "-k", "sh", "-c", "echo {}", ":::", "a", "b"]);
    ended.assert_success().assert_stdout(b"a\nb\n");
    assert_eq!(
        ended.stderr.matches("is not quoted").count(),
        1,
        "{}",
        ended.stderr
    );
    assert!(ended.stderr.contains("$0"), "{}", ended.stderr);
    let quiet = done(&["run", "sh", "-c", "echo \"$0\"", "{}", ":::", "$(id)"]);
    quiet.assert_success().assert_stdout(b"$(id)\n");
    assert_eq!(quiet.stderr, "");
}

#[test]
fn commands_read_an_empty_input_and_see_who_they_are() {
    let command =
        "cat; echo $PROCESSION_TASK $PROCESSION_SLOT $PROCESSION_ATTEMPT ${#PROCESSION_WORKER}";
    let ended = given(b"a\nb\n", &["run", "-k", "-j1", command, "#"]);
    let ended_again = given(b"a\nb\n", &["run", "-k", "-j1", "sh", "-c", command]);
    ended_again
        .assert_success()
        .assert_stdout(b"1 1 1 16\n2 1 1 16\n");
    drop(ended);
}

#[test]
fn an_argument_that_is_too_long_fails_its_task_and_the_message_names_pipe() {
    let long = "x".repeat(200_000);
    for command in [&["echo"][..], &["echo {} | wc -c"], &[]] {
        let input = format!("a\n{long}\nb\n");
        let args = [&["run", "--joblog", "log"], command].concat();
        let scene = Scene::new();
        let ended = scene.procession(&args).input(input).run();
        // Without COMMAND, `a` and `b` are not found either.
        ended.assert_code(if command.is_empty() { 3 } else { 1 });
        assert!(ended.stderr.contains("--pipe"), "{}", ended.stderr);
        assert!(ended.stderr.len() < 5000, "{} bytes", ended.stderr.len());
        assert_eq!(joblog(&scene.path("log")).len(), 3);
    }
}

// ---- the input ----

#[test]
fn lines_are_tasks_and_their_bytes_are_kept() {
    let rows: &[(&[u8], &[u8])] = &[
        (b"a\nb\n", b"<a><b>"),
        (b"a\nb", b"<a><b>"),
        (b"\n\na\n", b"<><><a>"),
        (b" a \t\n", b"< a \t>"),
        (b"a\r\nb\r\n", b"<a\r><b\r>"),
        (b"\xff\xfe\n", b"<\xff\xfe>"),
    ];
    for (input, expected) in rows {
        let ended = given(input, &["run", "-k", "printf", "<%s>"]);
        ended.assert_success();
        assert_eq!(&ended.stdout, expected, "{input:?}");
    }
}

#[test]
fn several_files_are_read_one_after_the_other_and_a_dash_is_standard_input() {
    let scene = Scene::new();
    std::fs::write(scene.path("one"), "1\n2").expect("a file");
    std::fs::write(scene.path("two"), "3\n").expect("a file");
    let ended = scene
        .procession(["run", "-k", "-a", "one", "-a", "-", "-a", "two", "echo"])
        .input("x\n")
        .run();
    ended.assert_success().assert_stdout(b"1\n2\nx\n3\n");
}

#[test]
fn a_pipe_cuts_at_line_ends_and_loses_nothing() {
    let input = numbers(200_000);
    for from_file in [false, true] {
        let scene = Scene::new();
        std::fs::write(scene.path("input"), &input).expect("a file");
        let run = |options: &[&str]| {
            let args = [&["run", "-j2", "--pipe"], options].concat();
            let program = scene.procession(&args);
            if from_file {
                program
            } else {
                program.input(input.clone())
            }
        };
        let file: &[&str] = if from_file { &["-a", "input"] } else { &[] };
        let whole = run(&[&["-k", "--block", "100K"], file, &["cat"]].concat()).run();
        whole.assert_success().assert_stdout(&input);
        let counts = run(&[&["-k", "--block", "100K"], file, &["wc", "-lc"]].concat()).run();
        let counts: Vec<Vec<u64>> = counts
            .text()
            .lines()
            .map(|line| line.split_whitespace().flat_map(str::parse).collect())
            .collect();
        assert_eq!(counts.iter().map(|count| count[0]).sum::<u64>(), 200_000);
        assert_eq!(
            counts.iter().map(|count| count[1]).sum::<u64>(),
            input.len() as u64
        );
        assert!(counts.len() > 10, "{} blocks", counts.len());
        assert!(counts.iter().all(|count| count[1] < 210_000), "{counts:?}");
        let ends = run(&[&["--block", "10K"], file, &["tail -c1 | wc -l"]].concat()).run();
        assert!(
            ends.text().lines().all(|line| line.trim() == "1"),
            "cut within a line"
        );
        // Whoever does not read all of its block succeeds all the same.
        run(&[&["--block", "1M"], file, &["head", "-n1"]].concat())
            .run()
            .assert_success();
        // A failed task is tried with the same block.
        let again = "cat >$PROCESSION_TASK; test $PROCESSION_ATTEMPT = 2 && cat $PROCESSION_TASK";
        let again = run(&[&["-k", "--retries", "2", "--block", "300K"], file, &[again]].concat());
        again.run().assert_success().assert_stdout(&input);
    }
}

#[test]
fn a_file_that_goes_away_while_its_blocks_are_read_is_named() {
    let scene = Scene::new();
    std::fs::write(scene.path("blocks"), numbers(10)).expect("a file");
    let run = scene
        .procession(["run", "-j1", "-k", "--pipe", "--block", "10"])
        .args(["-a", "blocks", "cat; rm -f blocks"])
        .run();
    // The first block's command takes the file away from the others.
    run.assert_code(2).assert_stdout(b"1\n2\n3\n4\n5\n");
    assert!(
        run.stderr.contains("blocks: No such file"),
        "{}",
        run.stderr
    );
    scene.assert_nothing_left();
}

#[test]
fn placeholders_of_a_value_are_refused_where_there_is_none() {
    for mode in ["--pipe", "--filter"] {
        let ended = given(b"a\n", &["run", mode, "grep", "{}"]);
        ended.assert_code(255);
        assert!(ended.stderr.contains("{}"), "{}", ended.stderr);
        let without = given(b"a\n", &["run", mode]);
        assert_ne!(without.code(), Some(0));
        assert!(without.stderr.contains("COMMAND"), "{}", without.stderr);
    }
}

#[test]
fn a_filter_answers_each_line_with_one() {
    let upper: Vec<u8> = numbers(20_000);
    let ended = given(&upper, &["run", "-j2", "-k", "--filter", "cat"]);
    ended.assert_success().assert_stdout(&upper);
    let any = given(&upper, &["run", "-j2", "--filter", "cat"]);
    any.assert_success();
    assert_each_once(
        "lines",
        any.text().lines().map(str::to_owned),
        (1..=20_000).map(|n| n.to_string()),
    );
    // sed answers nothing before its input ends; it still comes to its end.
    let buffered = given(
        &numbers(1000),
        &["run", "-j1", "-k", "--filter", "sed", "s/^/x/"],
    );
    let expected: String = (1..=1000).map(|n| format!("x{n}\n")).collect();
    buffered.assert_success().assert_stdout(expected.as_bytes());
    let null = given(b"a\nb\0c\0", &["run", "-0", "-k", "--filter", "cat"]);
    null.assert_success();
    assert!(null.text().contains("a\nb"), "{:?}", null.text());
}

#[test]
fn a_filter_that_dies_is_started_again_and_what_it_had_not_answered_is_tried_again() {
    let dies = "n=0; while read line; do n=$((n+1)); test $n -lt 4 || exit 1; echo \"$line\"; done";
    let ended = given(
        &numbers(30),
        &[
            "run",
            "-j1",
            "-k",
            "--retries",
            "100",
            "--filter",
            "sh",
            "-c",
            dies,
        ],
    );
    ended.assert_success().assert_stdout(&numbers(30));
    assert!(ended.stderr.contains("the filter"), "{}", ended.stderr);
}

#[test]
fn a_filter_with_an_answer_too_many_or_too_few_is_an_error() {
    for filter in ["sed -u p", "sed -u 2d"] {
        let ended = given(&numbers(10), &["run", "-j1", "-k", "--filter", filter]);
        assert_ne!(ended.code(), Some(0), "{filter}: {}", ended.stderr);
        assert!(
            ended.stderr.contains("answer"),
            "{filter}: {}",
            ended.stderr
        );
    }
}

#[test]
fn a_filter_that_is_silent_for_five_seconds_is_warned_of_once() {
    let scene = Scene::new();
    let mut run = scene
        .procession(["run", "-j1", "--filter", "sed", "s/^/x/"])
        .open_input()
        .start();
    let mut input = run.stdin.take().expect("a pipe");
    std::io::Write::write_all(&mut input, b"1\n").expect("it reads");
    scene.until_true("the warning", || run.stderr_so_far().contains("stdbuf -oL"));
    drop(input);
    let run = run.wait();
    run.assert_success().assert_stdout(b"x1\n");
    assert!(run.stderr.contains("sed -u"), "{}", run.stderr);
    assert_eq!(run.stderr.matches("stdbuf").count(), 1, "{}", run.stderr);
}

// ---- trying, and the time ----

#[test]
fn retries_are_tries_in_all_and_the_last_result_counts() {
    let rows = [
        ("1", "test $PROCESSION_ATTEMPT = 2", 1, 1),
        ("2", "test $PROCESSION_ATTEMPT = 2", 0, 2),
        ("3", "false", 1, 3),
        ("0", "test $PROCESSION_ATTEMPT = 7", 0, 7),
        ("2", "test $PROCESSION_ATTEMPT = 2 || kill -9 $$", 0, 2),
    ];
    for (tries, command, code, attempts) in rows {
        let command = format!("{command} # {{}}");
        let ended = done(&["run", "--retries", tries, "--json", &command, ":::", "a"]);
        ended.assert_code(code);
        let results = objects(&ended.stdout);
        assert_eq!(results.len(), 1, "one result only: {command}");
        assert_eq!(results[0]["attempts"], attempts, "{command}");
    }
}

#[test]
fn a_task_that_takes_too_long_is_killed_with_its_whole_group() {
    let scene = Scene::new();
    let ended = scene
        .procession(["run", "-j2", "-k", "--timeout", "0.5", "--joblog", "log"])
        .args(["echo {}; sleep {} & sleep {}", ":::", "1000", "0"])
        .run();
    ended.assert_code(1).assert_stdout(b"1000\n0\n");
    assert!(ended.stderr.contains("--timeout"), "{}", ended.stderr);
    let log = joblog(&scene.path("log"));
    let ends: BTreeMap<_, _> = log
        .iter()
        .map(|line| (line.seq, (line.exit, line.signal)))
        .collect();
    assert_eq!(ends, BTreeMap::from([(1, (-1, 15)), (2, (0, 0))]));
    scene.assert_nothing_left();
}

// ---- the workers ----

#[test]
fn jobs_are_a_number_more_or_less_than_the_cores_or_a_part_of_them() {
    for jobs in ["1", "4", "+1", "-1", "50%", "0", "100%"] {
        let ended = given(&numbers(20), &["run", "-k", "-j", jobs, "echo"]);
        ended.assert_success().assert_stdout(&numbers(20));
    }
    for jobs in ["x", "", "1.5", "%"] {
        let ended = done(&["run", "-j", jobs, "echo", ":::", "a"]);
        ended.assert_code(255);
        assert!(ended.stderr.contains("--jobs"), "{}", ended.stderr);
    }
}

#[test]
fn so_many_commands_run_at_once_as_there_are_jobs() {
    // Each waits until all are there, so fewer at once would never end.
    let command =
        "touch here.{}; until test -e here.1 -a -e here.2 -a -e here.3; do sleep 0.01; done";
    for jobs in ["3", "0"] {
        let scene = Scene::new();
        let run = scene
            .procession(["run", "-j", jobs, command, ":::", "1", "2", "3"])
            .run();
        run.assert_success();
    }
    let alone = "mkdir here && sleep 0.02 && rmdir here # {}";
    given(&numbers(10), &["run", "-j1", alone]).assert_success();
}

#[test]
fn a_workers_own_command_replaces_the_ventilators() {
    let scene = Scene::new();
    let endpoint = scene.ipc("jobs");
    let worker = scene
        .procession([
            "worker",
            "--connect",
            &endpoint,
            "-j1",
            "echo",
            "own {} {#}",
        ])
        .start();
    let sink = scene
        .procession(["sink", "--connect", &endpoint, "-k"])
        .start();
    let ventilator = scene
        .procession(["ventilator", "--bind", &endpoint, "false", ":::", "a", "b"])
        .run();
    ventilator.assert_success();
    sink.wait()
        .assert_success()
        .assert_stdout(b"own a 1\nown b 2\n");
    worker.wait().assert_success();
}

#[test]
fn with_bind_and_no_jobs_the_work_is_left_to_others_who_run_it_where_they_are() {
    let scene = Scene::new();
    let endpoint = scene.ipc("jobs");
    std::fs::create_dir(scene.path("elsewhere")).expect("a folder");
    let run = scene
        .procession(["run", "--bind", &endpoint, "-j0", "-k", "pwd; echo $OWN; #"])
        .args([":::", "a"])
        .start();
    let worker = scene
        .procession(["worker", "--connect", &endpoint])
        .env("OWN", "mine")
        .with(|worker| {
            worker.current_dir(scene.path("elsewhere"));
        })
        .run();
    worker.assert_success();
    let run = run.wait();
    run.assert_success();
    assert!(run.text().ends_with("/elsewhere\nmine\n"), "{}", run.text());
    scene.assert_nothing_left();
}

#[test]
fn a_workers_exit_is_a_success_however_its_tasks_went() {
    let scene = Scene::new();
    let endpoint = scene.ipc("jobs");
    let worker = scene.procession(["worker", "--connect", &endpoint]).start();
    let sink = scene.procession(["sink", "--connect", &endpoint]).start();
    let ventilator = scene
        .procession([
            "ventilator",
            "--bind",
            &endpoint,
            "exit {}",
            ":::",
            "0",
            "1",
            "2",
        ])
        .run();
    ventilator.assert_code(2);
    sink.wait().assert_code(2);
    worker.wait().assert_success();
}

// ---- the results ----

#[test]
fn the_output_of_a_task_is_kept_whole_and_in_order_if_wanted() {
    let command = "for i in 1 2 3 4 5; do echo {}.$i; sleep 0.0$(({} % 3)); done";
    let ended = given(&numbers(30), &["run", "-j4", "-k", command]);
    let expected: String = (1..=30)
        .flat_map(|n| (1..=5).map(move |i| format!("{n}.{i}\n")))
        .collect();
    ended.assert_success().assert_stdout(expected.as_bytes());
    let any = given(&numbers(30), &["run", "-j4", command]);
    any.assert_success();
    let text = any.text();
    let tasks: Vec<&str> = text
        .lines()
        .map(|line| line.split('.').next().unwrap_or(""))
        .collect();
    assert!(
        tasks
            .chunks(5)
            .all(|five| five.iter().all(|task| *task == five[0])),
        "{text}"
    );
}

#[test]
fn standard_error_of_commands_goes_to_standard_error() {
    let ended = done(&["run", "-k", "echo out {}; echo err {} >&2", ":::", "1", "2"]);
    ended.assert_success().assert_stdout(b"out 1\nout 2\n");
    assert_eq!(ended.stderr, "err 1\nerr 2\n");
}

#[test]
fn a_tag_begins_each_line_of_both_outputs() {
    let command = "echo one; echo two; echo err >&2; printf 'no end'";
    let ended = done(&[
        "run",
        "-k",
        "--tag",
        &format!("{command} # {{}}"),
        ":::",
        "a b",
        "c",
    ]);
    ended.assert_success();
    assert_eq!(
        ended.text(),
        "a b\tone\na b\ttwo\na b\tno endc\tone\nc\ttwo\nc\tno end"
    );
    assert_eq!(ended.stderr, "a b\terr\nc\terr\n");
}

#[test]
fn json_is_one_object_a_result_with_every_field() {
    let ended = done(&[
        "run",
        "-k",
        "--json",
        "echo {}; echo err >&2; exit 2",
        ":::",
        "a\"b\\",
        "é",
    ]);
    ended.assert_code(2);
    let results = objects(&ended.stdout);
    assert_eq!(results.len(), 2);
    for (n, (result, value)) in results.iter().zip(["a\"b\\", "é"]).enumerate() {
        assert_eq!(result["id"], n + 1);
        assert_eq!(result["input"], value);
        assert_eq!(result["stdout"], format!("{value}\n"));
        assert_eq!(result["stderr"], "err\n");
        assert_eq!((&result["exit"], &result["signal"]), (&2.into(), &0.into()));
        assert_eq!(result["attempts"], 1);
        for field in ["worker", "host"] {
            assert!(
                result[field].as_str().is_some_and(|text| !text.is_empty()),
                "{field}"
            );
        }
        for field in ["start", "seconds"] {
            assert!(
                result[field].as_f64().is_some_and(|number| number > 0.0),
                "{field}"
            );
        }
    }
    assert_eq!(ended.stderr, "", "it is in the objects");
    let bytes = given(b"\xff\n", &["run", "--json", "printf", "%s"]);
    let result = &objects(&bytes.stdout)[0];
    assert_eq!(result["input"], "\u{fffd}");
    assert_eq!(
        (&result["stdout_base64"], &result["input_base64"]),
        (&"/w==".into(), &"/w==".into())
    );
}

#[test]
fn the_joblog_has_gnu_parallels_columns() {
    let scene = Scene::new();
    let command = "case {} in kill) kill -9 $$;; esac; echo {}; exit {}";
    let ended = scene
        .procession([
            "run", "-j1", "-k", "--joblog", "log", command, ":::", "0", "3", "kill",
        ])
        .run();
    ended.assert_code(2);
    assert!(ended.stderr.contains("signal 9"), "{}", ended.stderr);
    let text = std::fs::read_to_string(scene.path("log")).expect("a log");
    let mut lines = text.lines();
    assert_eq!(
        lines.next(),
        Some("Seq\tHost\tStarttime\tJobRuntime\tSend\tReceive\tExitval\tSignal\tCommand")
    );
    let rows: Vec<Vec<&str>> = lines.map(|line| line.split('\t').collect()).collect();
    let ends: Vec<_> = rows
        .iter()
        .map(|row| (row[0], row[1], row[4], row[5], row[6], row[7]))
        .collect();
    assert_eq!(
        ends,
        [
            ("1", ":", "0", "2", "0", "0"),
            ("2", ":", "0", "2", "3", "0"),
            ("3", ":", "0", "0", "0", "9"),
        ]
    );
    assert_eq!(
        rows[1][8],
        "case 3 in kill) kill -9 $$;; esac; echo 3; exit 3"
    );
    for row in &rows {
        // As `%10.3f` has them.
        assert_eq!((row[2].len(), row[3].len()), (14, 10), "{row:?}");
    }
}

#[test]
fn a_joblog_is_begun_anew_and_with_a_plus_continued() {
    let scene = Scene::new();
    let run = |log: &str, value: &str| {
        scene
            .procession(["run", "--joblog", log, "echo", ":::", value])
            .run()
            .assert_success();
        std::fs::read_to_string(scene.path("log"))
            .expect("a log")
            .lines()
            .count()
    };
    assert_eq!(run("log", "a"), 2);
    assert_eq!(run("log", "b"), 2);
    assert_eq!(run("+log", "c"), 3);
    assert_eq!(joblog(&scene.path("log")).len(), 2);
    std::fs::remove_file(scene.path("log")).expect("a log");
    assert_eq!(run("+log", "d"), 2, "one that is not there is begun");
}

#[test]
fn a_joblog_in_use_is_refused() {
    let scene = Scene::new();
    let first = scene
        .procession([
            "run",
            "--joblog",
            "log",
            "touch began; until test -e go; do sleep 0.01; done #",
        ])
        .args([":::", "a"])
        .start();
    scene.until_true("it begins", || scene.path("began").exists());
    let second = scene
        .procession(["run", "--joblog", "log", "echo", ":::", "b"])
        .run();
    second.assert_code(255);
    assert!(second.stderr.contains("log"), "{}", second.stderr);
    std::fs::write(scene.path("go"), "").expect("a file");
    first.wait().assert_success();
    assert_eq!(joblog(&scene.path("log")).len(), 1);
}

fn tree(root: &Path) -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(root).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.path().is_dir() {
            files.extend(
                tree(&entry.path())
                    .into_iter()
                    .map(|(path, text)| (format!("{name}/{path}"), text)),
            );
        } else {
            files.insert(
                name,
                std::fs::read_to_string(entry.path()).unwrap_or_default(),
            );
        }
    }
    files
}

#[test]
fn results_are_kept_in_gnu_parallels_layout() {
    let scene = Scene::new();
    let ended = scene
        .procession([
            "run",
            "-k",
            "--results",
            "out",
            "echo o {}; echo e {} >&2",
            ":::",
            "a",
            "b",
        ])
        .run();
    ended.assert_success().assert_stdout(b"o a\no b\n");
    let expected = [
        ("1/a/seq", "1"),
        ("1/a/stderr", "e a\n"),
        ("1/a/stdout", "o a\n"),
        ("1/b/seq", "2"),
        ("1/b/stderr", "e b\n"),
        ("1/b/stdout", "o b\n"),
    ];
    let found = tree(&scene.path("out"));
    let found: Vec<_> = found
        .iter()
        .map(|(path, text)| (path.as_str(), text.trim_end_matches('\0')))
        .collect();
    let trimmed: Vec<_> = found
        .iter()
        .map(|(path, text)| {
            (
                *path,
                if path.ends_with("seq") {
                    text.trim()
                } else {
                    text
                },
            )
        })
        .collect();
    assert_eq!(trimmed, expected);
}

#[test]
fn results_of_strange_values_stay_within_their_directory() {
    let scene = Scene::new();
    let long = "x".repeat(300);
    let ended = scene
        .procession(["run", "-k", "--results", "out", "printf %s", ":::"])
        .args(["../../escape", "/etc/x", ".", "..", "", &long, "a/b"])
        .run();
    ended.assert_success();
    assert!(!scene.path("escape").exists() && !scene.dir().join("../escape").exists());
    let files = tree(&scene.path("out"));
    let outputs: Vec<&String> = files
        .iter()
        .filter(|(path, _)| path.ends_with("/stdout"))
        .map(|(_, text)| text)
        .collect();
    let expected = ["../../escape", "/etc/x", ".", "..", "", &long, "a/b"].map(str::to_owned);
    assert_each_once("outputs", outputs, &expected);
}

// ---- everybody's options ----

#[test]
fn the_exit_code_counts_failures_up_to_a_hundred_and_one() {
    let rows = [
        (0, 3, 0),
        (1, 3, 1),
        (100, 0, 100),
        (101, 0, 101),
        (150, 1, 101),
    ];
    for (failing, succeeding, code) in rows {
        let input = ["1\n".repeat(failing), "0\n".repeat(succeeding)].concat();
        given(input.as_bytes(), &["run", "-j2", "-q", "exit {}"]).assert_code(code);
    }
}

#[test]
fn an_option_of_another_role_is_a_usage_error_that_names_it() {
    let rows = [
        ("worker", "-k", "sink"),
        ("worker", "--retries=2", "ventilator"),
        ("worker", "--pipe", "ventilator"),
        ("sink", "--timeout=1", "ventilator"),
        ("sink", "-j2", "worker"),
        ("sink", "--advertise=x", "ventilator"),
        ("ventilator", "-j2", "worker"),
        ("ventilator", "--joblog=x", "sink"),
        ("ventilator", "--tag", "sink"),
    ];
    for (role, option, owner) in rows {
        let bind = if role == "ventilator" {
            "--bind"
        } else {
            "--connect"
        };
        let ended = done(&[role, bind, "ipc:///tmp/none", option]);
        ended.assert_code(255);
        let name = option.split('=').next().unwrap_or(option);
        let name = if name.starts_with("--") {
            name
        } else {
            &name[..2]
        };
        assert!(
            ended.stderr.contains(name) && ended.stderr.contains(owner),
            "{}",
            ended.stderr
        );
        assert_eq!(ended.text(), "");
    }
}

#[test]
fn misuse_is_255_and_goes_to_standard_error() {
    for args in [
        &[][..],
        &["fly"],
        &["run", "--no-such-option"],
        &["ventilator", "echo"],
        &["worker"],
        &["run", "--timeout", "x", "echo"],
        &["run", "--retries", "-1", "echo"],
        &["run", "--block", "3x", "--pipe", "cat"],
        &["run", "--pipe", "--filter", "cat"],
        &["run", "--advertise", "x", "echo"],
        &["run", "--lane-ports", "9-1", "echo"],
        &["worker", "--connect", "ipc:///tmp/none", "echo", ":::", "a"],
    ] {
        let ended = done(args);
        ended.assert_code(255);
        assert!(
            ended.text().is_empty() && !ended.stderr.is_empty(),
            "{args:?}"
        );
    }
}

#[test]
fn help_and_version_go_to_standard_output_and_succeed() {
    for args in [
        &["--help"][..],
        &["--version"],
        &["run", "--help"],
        &["sink", "-h"],
        &["help", "worker"],
    ] {
        let ended = done(args);
        ended.assert_success();
        assert!(
            ended.text().contains("procession") && ended.stderr.is_empty(),
            "{args:?}"
        );
    }
}

#[test]
fn standard_output_has_results_only_and_levels_choose_the_messages() {
    let rows: &[(&[&str], Option<&str>, bool, bool)] = &[
        // Options, RUST_LOG, whether a warning is said, whether information is.
        (&[], None, true, false),
        (&["-q"], None, false, false),
        (&["-v"], None, true, true),
        (&[], Some("info"), true, true),
        (&[], Some("error"), false, false),
    ];
    for (options, level, warns, informs) in rows {
        let scene = Scene::new();
        let mut run =
            scene
                .procession(["run"])
                .args(*options)
                .args(["no-such-command", ":::", "a"]);
        if let Some(level) = level {
            run = run.env("RUST_LOG", level);
        }
        let ended = run.run();
        ended.assert_code(1).assert_stdout(b"");
        assert_eq!(
            ended.stderr.contains("cannot start"),
            *warns,
            "{options:?} {level:?}: {}",
            ended.stderr
        );
        assert_eq!(
            ended.stderr.contains("joins"),
            *informs,
            "{options:?} {level:?}: {}",
            ended.stderr
        );
        assert!(!ended.stderr.contains('\x1b'), "no colours in a pipe");
    }
}

#[test]
fn a_bar_is_a_plain_line_where_there_is_no_terminal() {
    let ended = given(&numbers(50), &["run", "-j2", "--bar", "-k", "echo"]);
    ended.assert_success().assert_stdout(&numbers(50));
    assert!(ended.stderr.contains("50"), "{:?}", ended.stderr);
    assert!(
        !ended.stderr.contains('\x1b') && !ended.stderr.contains('\r'),
        "{:?}",
        ended.stderr
    );
}

#[test]
fn status_tells_what_waits_runs_and_is_done_and_who_is_there() {
    let scene = Scene::new();
    let nobody = scene.procession(["status", "--json"]).run();
    nobody.assert_success().assert_stdout(b"");
    let command = "test {} = 1 || { touch began; until test -e go; do sleep 0.01; done; }";
    let run = scene
        .procession(["run", "-j1", command, ":::", "1", "2", "3"])
        .start();
    scene.until_true("the second begins", || scene.path("began").exists());
    let state = scene.until("the first is done", || {
        let status = scene.procession(["status", "--json"]).run();
        let state: serde_json::Value = serde_json::from_slice(&status.stdout).ok()?;
        (state["done"] == 1 && state["running"] == 1).then_some(state)
    });
    assert_eq!(state["pid"], run.pid());
    assert_eq!((&state["failed"], &state["total"]), (&0.into(), &3.into()));
    let waiting = state["waiting"].as_u64().unwrap_or(0) + state["leased"].as_u64().unwrap_or(0);
    assert_eq!(waiting, 2, "{state}");
    let roles: Vec<_> = state["peers"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|peer| peer["role"].as_str())
        .collect();
    assert_each_once("roles", roles, [Some("sink"), Some("worker")]);
    let text = scene.procession(["status"]).run().text();
    for words in [
        &run.pid().to_string(),
        "1 done of 3",
        "1 running",
        "worker",
        "sink",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    // SIGUSR1 asks the run itself.
    run.signal(Signal::USR1);
    scene.until_true("it answers", || run.stderr_so_far().contains("1 done of 3"));
    std::fs::write(scene.path("go"), "").expect("a file");
    run.wait().assert_success();
    scene.assert_nothing_left();
}

#[test]
fn lanes_results_and_acknowledgements_keep_to_their_ports() {
    // Ports that were free a moment ago; the range has to have room for a lane, results and acknowledgements.
    let scene = Scene::new();
    let endpoint = common::tcp();
    let base = 20_000 + std::process::id() % 20_000;
    let ports = format!("{base}-{}", base + 9);
    let ventilator = scene
        .procession(["ventilator", "--bind", &endpoint, "--lane-ports", &ports])
        .args([
            "touch began; until test -e go; do sleep 0.01; done; echo",
            ":::",
            "a",
        ])
        .start();
    let sink = scene
        .procession(["sink", "--connect", &endpoint, "--lane-ports", &ports])
        .start();
    let worker = scene.procession(["worker", "--connect", &endpoint]).start();
    scene.until_true("it begins", || scene.path("began").exists());
    // Of a line: number, local address, remote address, state; 0A is listening.
    let listening = ["/proc/net/tcp", "/proc/net/tcp6"]
        .map(|table| std::fs::read_to_string(table).unwrap_or_default());
    let within = listening
        .iter()
        .flat_map(|table| table.lines())
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|fields| fields.get(3) == Some(&"0A"))
        .filter_map(|fields| u32::from_str_radix(fields[1].rsplit(':').next()?, 16).ok())
        .filter(|port| (base..base + 10).contains(port))
        .count();
    assert!(within >= 2, "{within} in {ports}: {listening:?}");
    std::fs::write(scene.path("go"), "").expect("a file");
    ventilator.wait().assert_success();
    sink.wait().assert_success().assert_stdout(b"a\n");
    worker.wait().assert_success();
}
