//! The executor against real commands.

use super::*;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;

use crate::stop::Level;

fn invocation(program: &str, args: &[&str]) -> Invocation {
    Invocation {
        program: program.into(),
        args: args.iter().map(Into::into).collect(),
        display: program.into(),
    }
}

fn execute(invocation: &Invocation, stdin: Option<&Body>, limits: &Limits) -> CommandResult {
    let stop = Stop::new().expect("a descriptor");
    execute_until(invocation, stdin, limits, &stop)
}

fn execute_until(
    invocation: &Invocation,
    stdin: Option<&Body>,
    limits: &Limits,
    stop: &Stop,
) -> CommandResult {
    let env = TaskEnv {
        task: 7,
        slot: 2,
        worker: "w",
        attempt: 3,
    };
    let slot = GroupSlot::unguarded();
    Executor::new().execute(invocation, stdin, &env, limits, &slot, stop)
}

fn sh(script: &str) -> CommandResult {
    execute(&invocation("sh", &["-c", script]), None, &Limits::default())
}

fn text(body: &Body) -> String {
    String::from_utf8_lossy(&body.to_bytes().expect("readable")).into_owned()
}

fn ended(result: &CommandResult) -> (i32, i32) {
    (result.exit, result.signal)
}

#[test]
fn both_outputs_the_exit_code_and_the_environment_are_as_they_should_be() {
    let result = sh(
        "echo $PROCESSION_TASK $PROCESSION_SLOT $PROCESSION_WORKER $PROCESSION_ATTEMPT; cat; echo bad >&2; exit 3",
    );
    assert_eq!(text(&result.stdout), "7 2 w 3\n");
    assert_eq!(text(&result.stderr), "bad\n");
    assert_eq!(ended(&result), (3, 0));
    assert_eq!(result.note, None);
    assert!(result.start > 0.0 && result.seconds > 0.0);
}

#[test]
fn a_killed_command_has_a_signal_and_no_exit_code() {
    let result = sh("echo before; kill -9 $$");
    assert_eq!(ended(&result), (0, 9));
    assert_eq!(text(&result.stdout), "before\n");
}

#[test]
fn an_output_may_be_large_on_both_sides_at_once() {
    let result = sh("head -c 10485760 /dev/zero & head -c 3000000 /dev/zero >&2; wait");
    assert_eq!(result.stdout.len(), 10 << 20);
    assert_eq!(result.stderr.len(), 3_000_000);
    assert!(matches!(result.stdout, Body::File { .. }), "spooled");
}

#[test]
fn a_command_that_closes_its_outputs_may_run_on() {
    let result = sh("exec >&- 2>&-; sleep 0.1; exit 5");
    assert_eq!(ended(&result), (5, 0));
}

/// How a command can open one end of a pipe of ours.
fn path_of(pipe: &impl AsRawFd) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), pipe.as_raw_fd())
}

#[test]
fn a_process_in_the_background_does_not_keep_the_result_back() -> io::Result<()> {
    // The one in the background lives until this pipe is closed.
    let (reader, _writer) = io::pipe()?;
    let result = sh(&format!("cat <{} & echo done", path_of(&reader)));
    assert_eq!(text(&result.stdout), "done\n");
    assert_eq!(ended(&result), (0, 0));
    Ok(())
}

#[test]
fn at_its_limit_the_whole_group_is_killed() -> io::Result<()> {
    let limits = Limits {
        timeout: Some(Duration::from_millis(100)),
    };
    for script in [
        "echo out; sleep 1000 & sleep 1000",
        // Deaf to what is asked of it, in front and in the background, where it has also left our pipes.
        "trap '' TERM; echo out; sleep 1000 >&- 2>&- & while :; do sleep 1; done",
    ] {
        // Everyone of the group holds this pipe open.
        let (mut reader, writer) = io::pipe()?;
        let script = format!("exec 9>{}; {script}", path_of(&writer));
        let result = execute(&invocation("sh", &["-c", &script]), None, &limits);
        drop(writer);
        assert!(result.timed_out);
        assert_eq!(ended(&result), (-1, 15));
        assert_eq!(text(&result.stdout), "out\n");
        let note = result.note.unwrap_or_default();
        assert!(note.contains("--timeout 0.1"), "{note}");
        // Ends when the last of them has.
        assert_eq!(reader.read(&mut [0])?, 0);
    }
    Ok(())
}

#[test]
fn a_limit_that_is_not_reached_changes_nothing() {
    let limits = Limits {
        timeout: Some(Duration::MAX),
    };
    let result = execute(&invocation("true", &[]), None, &limits);
    assert_eq!(ended(&result), (0, 0));
    assert!(!result.timed_out);
}

#[test]
fn a_stop_kills_what_runs_and_what_would_start() -> io::Result<()> {
    let stop = Stop::new()?;
    let sleep = invocation("sleep", &["1000"]);
    let result = std::thread::scope(|scope| {
        let running = scope.spawn(|| execute_until(&sleep, None, &Limits::default(), &stop));
        stop.raise(Level::Kill);
        running.join().expect("no panic")
    });
    assert_eq!(ended(&result), (0, 15));
    let result = execute_until(&sleep, None, &Limits::default(), &stop);
    assert_eq!(ended(&result), (0, 15));
    assert!(result.note.is_some_and(|note| note.contains("not started")));
    Ok(())
}

#[test]
fn what_cannot_be_started_says_why() -> io::Result<()> {
    let folder = tempfile::tempdir()?;
    let write = |name: &str, text: &str, mode| -> io::Result<String> {
        let path = folder.path().join(name);
        std::fs::write(&path, text)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))?;
        Ok(path.to_string_lossy().into_owned())
    };
    let plain = write("plain", "#!/bin/sh\n", 0o644)?;
    let lost = write("lost", "#!/no/such/interpreter\n", 0o755)?;
    let huge = vec!["x".repeat(100_000); 100];
    let huge: Vec<&str> = huge.iter().map(String::as_str).collect();
    for (program, args, exit, words) in [
        ("no-such-command", &[][..], 127, "no such command in PATH"),
        ("./no-such-file", &[], 127, "no such file"),
        ("", &[], 127, "cannot start"),
        (&plain, &[], 126, "chmod +x"),
        (&lost, &[], 127, "interpreter"),
        ("/", &[], 126, "directory"),
        ("true", &huge, 126, "--pipe"),
    ] {
        let result = execute(&invocation(program, args), None, &Limits::default());
        let note = result.note.clone().unwrap_or_default();
        assert_eq!(ended(&result), (exit, 0), "{program}: {note}");
        assert!(note.contains(words), "{program}: {note}");
        assert!(note.contains(program), "{program}: {note}");
    }
    let script = write(
        "script",
        "echo without a first line that names a shell: $1",
        0o755,
    )?;
    let result = execute(&invocation(&script, &["x"]), None, &Limits::default());
    assert!(text(&result.stdout).ends_with(": x\n"), "{result:?}");
    Ok(())
}

#[test]
fn a_program_that_has_moved_in_the_path_is_found_again() -> io::Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("moved");
    let mut launcher = Launcher::new();
    launcher.remember("true", &path);
    let child = launcher.spawn(&invocation("true", &[]), |_, _| Ok(()));
    assert!(
        child
            .map_err(|error| io::Error::other(error.note))?
            .wait()?
            .success()
    );
    Ok(())
}

#[test]
fn input_is_fed_from_memory_and_from_files() -> io::Result<()> {
    let bytes = vec![b'x'; 5 << 20];
    let mut file = tempfile::NamedTempFile::new()?;
    file.write_all(&bytes)?;
    let len = bytes.len() as u64;
    let range = Body::range(file.path(), 1, len - 1);
    for (name, body) in [
        ("empty", Body::empty()),
        ("1 MiB", Body::from(vec![b'y'; 1 << 20])),
        ("memory", Body::from(bytes)),
        ("range", range.clone()),
        ("file", range.open()?),
    ] {
        let wc = execute(&invocation("wc", &["-c"]), Some(&body), &Limits::default());
        assert_eq!(text(&wc.stdout).trim(), body.len().to_string(), "{name}");
        assert_eq!((ended(&wc), wc.sent), ((0, 0), body.len()), "{name}");
        let cat = execute(&invocation("cat", &[]), Some(&body), &Limits::default());
        assert!(cat.stdout.to_bytes()? == body.to_bytes()?, "{name}");
        let head = execute(
            &invocation("head", &["-c1"]),
            Some(&body),
            &Limits::default(),
        );
        assert_eq!(head.stdout.len(), body.len().min(1), "{name}");
        assert_eq!((ended(&head), head.note), ((0, 0), None), "{name}");
    }
    Ok(())
}

#[test]
fn an_input_that_cannot_be_read_fails_the_task() -> io::Result<()> {
    let file = tempfile::NamedTempFile::new()?;
    for body in [
        Body::range("/no/such/file", 0, 10),
        // It has become shorter.
        Body::range(file.path(), 0, 10),
    ] {
        let result = execute(&invocation("cat", &[]), Some(&body), &Limits::default());
        assert_eq!(ended(&result), (0, 15));
        assert!(result.note.is_some_and(|note| note.contains("input")));
    }
    Ok(())
}
