//! The lines are GNU parallel's, and none is lost, torn or taken for another run's.

use super::*;
use procession::Body;

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn result(command: &'static str) -> CommandResult {
    CommandResult {
        command: command.into(),
        start: 1_795_450_558.13,
        seconds: 0.0024,
        stdout: Body::from("oa\n"),
        ..CommandResult::default()
    }
}

/// The tasks that a sink started again takes as kept.
fn resumed(path: &Path, run: &str) -> io::Result<Vec<Kept>> {
    let mut kept = Vec::new();
    Joblog::resume(path, run, |task| kept.push(task))?;
    Ok(kept)
}

fn seqs(path: &Path, run: &str) -> io::Result<Vec<u64>> {
    Ok(resumed(path, run)?.iter().map(|task| task.seq).collect())
}

#[test]
fn lines_are_those_of_gnu_parallel() -> Outcome {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("log");
    let mut log = Joblog::create(&path, false, None)?;
    log.append(
        1,
        &CommandResult {
            host: String::from_utf8(log.here.clone())?,
            ..result("echo oa; echo e >&2")
        },
    )?;
    log.append(
        2,
        &CommandResult {
            exit: 3,
            signal: 0,
            host: "far".into(),
            sent: 7,
            ..result("echo a\tb")
        },
    )?;
    log.append(
        12,
        &CommandResult {
            timed_out: true,
            signal: 9,
            seconds: 1.582,
            ..result("sleep 5")
        },
    )?;
    log.append(
        3,
        &CommandResult {
            signal: 9,
            stdout: Body::empty(),
            ..result("echo 'x\ny'")
        },
    )?;
    log.finish()?;
    // As seen in logs of GNU parallel 20221122, but for the host.
    let expected = "Seq\tHost\tStarttime\tJobRuntime\tSend\tReceive\tExitval\tSignal\tCommand\n\
        1\t:\t1795450558.130\t     0.002\t0\t3\t0\t0\techo oa; echo e >&2\n\
        2\tfar\t1795450558.130\t     0.002\t7\t3\t3\t0\techo a\tb\n\
        12\t:\t1795450558.130\t     1.582\t0\t3\t-1\t15\tsleep 5\n\
        3\t:\t1795450558.130\t     0.002\t0\t0\t0\t9\techo 'x\0y'\n";
    assert_eq!(std::fs::read_to_string(&path)?, expected);
    assert_eq!(std::fs::read_dir(directory.path())?.count(), 1);
    Ok(())
}

#[test]
fn a_restarted_sink_cuts_a_torn_line_and_takes_the_rest_as_kept() -> Outcome {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("log");
    let mut log = Joblog::create(&path, false, Some("r1"))?;
    log.append(5, &result("a"))?;
    // Longer than what is looked at of a line.
    log.append(
        2,
        &CommandResult {
            exit: 3,
            command: vec![b'x'; 300_000].into(),
            ..result("")
        },
    )?;
    log.append(
        9,
        &CommandResult {
            timed_out: true,
            ..result("")
        },
    )?;
    log.flush()?;
    drop(log);
    let whole = std::fs::read(&path)?;
    let kept = [(5, 0, 0), (2, 3, 0), (9, -1, 15)];
    for torn in [
        &b""[..],
        b"7",
        b"7\t:\t1.000\t     0.002\t0\t3\t0\t0\tno end",
        b"7\t:\t1.000\n",
        b"garbage\n",
    ] {
        std::fs::write(&path, [&whole, torn].concat())?;
        let read: Vec<_> = resumed(&path, "r1")?
            .iter()
            .map(|task| (task.seq, task.exit, task.signal))
            .collect();
        assert_eq!(read, kept, "{torn:?}");
        assert!(
            std::fs::read(&path)? == whole,
            "{torn:?} is cut off, and nothing else"
        );
    }
    for torn in 0..HEADER.len() {
        std::fs::write(&path, &HEADER[..torn])?;
        assert_eq!(resumed(&path, "r1")?, []);
        assert_eq!(std::fs::read(&path)?, HEADER);
    }
    let mut log = Joblog::resume(&path, "r1", drop)?;
    log.append(1, &result("a"))?;
    log.finish()?;
    assert_eq!(
        std::fs::read_dir(directory.path())?.count(),
        1,
        "the note is gone"
    );
    Ok(())
}

#[test]
fn tasks_of_other_runs_are_never_taken_as_kept() -> Outcome {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("log");
    let mut log = Joblog::create(&path, false, None)?;
    log.append(1, &result("old"))?;
    log.append(2, &result("old"))?;
    log.finish()?;
    assert_eq!(
        seqs(&path, "r1")?,
        [0_u64; 0],
        "the earlier sink of this run had no log"
    );
    let mut log = Joblog::create(&path, true, Some("r2"))?;
    log.append(2, &result("new"))?;
    log.flush()?;
    drop(log);
    assert_eq!(seqs(&path, "r2")?, [2]);
    assert_eq!(seqs(&path, "r3")?, [0_u64; 0]);
    let text = std::fs::read_to_string(&path)?;
    assert_eq!(
        text.lines()
            .map(|line| line.split('\t').next().unwrap_or(""))
            .collect::<Vec<_>>(),
        ["Seq", "1", "2", "2"]
    );
    Ok(())
}

#[test]
fn a_file_that_is_no_joblog_is_not_appended_to() -> Outcome {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("notes");
    std::fs::write(&path, "dear diary")?;
    for outcome in [
        Joblog::create(&path, true, None),
        Joblog::resume(&path, "r", drop),
    ] {
        let text = outcome
            .map(drop)
            .map_err(|error| error.to_string())
            .err()
            .unwrap_or_default();
        assert!(
            text.contains("notes is no joblog") && text.contains("--joblog"),
            "{text}"
        );
    }
    assert_eq!(std::fs::read(&path)?, b"dear diary");
    Ok(())
}

#[test]
fn a_log_is_one_sinks_at_a_time() -> Outcome {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("log");
    let mut first = Joblog::create(&path, false, Some("r"))?;
    first.append(1, &result("a"))?;
    first.flush()?;
    for outcome in [
        Joblog::create(&path, false, None),
        Joblog::resume(&path, "r", drop),
    ] {
        let text = outcome
            .map(drop)
            .map_err(|error| error.to_string())
            .err()
            .unwrap_or_default();
        assert!(text.contains("in use by another sink"), "{text}");
    }
    drop(first);
    assert_eq!(seqs(&path, "r")?, [1], "nobody else has emptied it");
    Ok(())
}

#[test]
fn a_full_disk_and_other_hindrances_are_named() -> Outcome {
    let directory = tempfile::tempdir()?;
    let missing = directory.path().join("missing/log");
    for (path, why) in [
        (
            Path::new("/dev/full"),
            "cannot write joblog /dev/full: No space left on device",
        ),
        (&missing, "make its directory first"),
        (directory.path(), "name a file with --joblog"),
    ] {
        let text = Joblog::create(path, false, None)
            .map(drop)
            .map_err(|error| error.to_string());
        assert!(
            text.as_ref().is_err_and(|text| text.contains(why)),
            "{text:?}"
        );
    }
    let mut log = Joblog::create(Path::new("/dev/null"), false, Some("r"))?;
    log.append(1, &result("a"))?;
    log.finish()?;
    Ok(())
}

#[path = "../../tests/mutation/mod.rs"]
mod mutation;

/// Part of the fuzzing: see tests/decoders.rs.
#[test]
fn a_log_of_any_bytes_is_read_or_refused() {
    use crate::resume::Resume;
    use procession::command::{Job, Template};

    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("log");
    let job = Job {
        template: Template::Words(vec![b"echo".to_vec()]),
        ..Job::default()
    };
    mutation::fuzz("joblog", 400, |input| {
        std::fs::write(&path, input).expect("a file");
        for retried in [false, true] {
            if let Ok(mut resume) = Resume::read(&path, &job, retried) {
                let _ = resume.done();
                for value in ["oa", "x", "x"] {
                    let _ = resume.number(&Body::from(value));
                }
            }
        }
        // All of it, then without the run's note.
        std::fs::write(note_path(&path), "run 0\n").expect("a note");
        if let Ok(log) = Joblog::resume(&path, "run", |_| ()) {
            log.finish().expect("there is room");
            // What was kept is whole lines.
            let left = std::fs::read(&path).expect("a file");
            assert_eq!(left.last(), Some(&b'\n'));
        }
        if let Ok(log) = Joblog::create(&path, true, None) {
            log.finish().expect("there is room");
        }
    });
}
