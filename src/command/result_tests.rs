//! Results as they travel: the same after as before, in memory and not, and errors for all else.

use super::*;

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn result() -> CommandResult {
    CommandResult {
        input: Bytes::from_static(b"a \xff"),
        command: Bytes::from_static(b"echo 'a \xff'"),
        host: "h".into(),
        worker: "w1".into(),
        slot: 2,
        start: 1.5,
        seconds: 0.25,
        exit: -1,
        signal: 9,
        timed_out: true,
        sent: 300,
        note: Some("n".into()),
        stdout: Body::from("out"),
        stderr: Body::from("err\n"),
    }
}

fn assert_same(a: &CommandResult, b: &CommandResult) -> io::Result<()> {
    let without_output = |result: &CommandResult| {
        let result = CommandResult {
            stdout: Body::empty(),
            stderr: Body::empty(),
            ..result.clone()
        };
        format!("{result:?}")
    };
    assert_eq!(without_output(a), without_output(b));
    assert!(
        a.stdout.to_bytes()? == b.stdout.to_bytes()?,
        "stdout differs"
    );
    assert!(
        a.stderr.to_bytes()? == b.stderr.to_bytes()?,
        "stderr differs"
    );
    Ok(())
}

#[test]
fn the_bytes_of_a_result_are_those_of_the_protocol() -> Outcome {
    let body = result().to_body()?.to_bytes()?;
    let expected: Vec<u8> = [
        &b"\x9e"[..],
        b"\xc4\x03a \xff",
        b"\xc4\x0aecho 'a \xff'",
        b"\xa1h",
        b"\xa2w1",
        b"\x02",
        b"\xcb\x3f\xf8\0\0\0\0\0\0",
        b"\xcb\x3f\xd0\0\0\0\0\0\0",
        b"\xff",
        b"\x09",
        b"\xc3",
        b"\xcd\x01\x2c",
        b"\xa1n",
        b"\x03",
        b"\x04",
        b"outerr\n",
    ]
    .concat();
    assert_eq!(body, expected);
    assert_same(&CommandResult::from_body(&body.into())?, &result())?;
    assert!(CommandResult::default().succeeded());
    assert_eq!(result().status(), (-1, 15));
    Ok(())
}

#[test]
fn a_result_with_much_output_travels_through_a_file() -> Outcome {
    let mut writer = BodyWriter::new();
    for n in 0..700_000_u32 {
        writer.write_all(&n.to_le_bytes())?;
    }
    let large = writer.finish()?;
    for (stdout, stderr) in [
        (large.clone(), Body::from("e")),
        (Body::from("o"), large.clone()),
        (large.slice(5, 99), large.slice(1000, 2_000_000)),
        (large.slice(0, 10), Body::empty()),
    ] {
        let result = CommandResult {
            // Longer than what is read at first.
            command: vec![b'c'; FIRST_READ * 3].into(),
            stdout,
            stderr,
            ..result()
        };
        let body = result.to_body()?;
        let received = CommandResult::from_body(&body)?;
        assert_same(&received, &result)?;
        if body.len() > IN_MEMORY as u64 {
            assert_eq!(body.in_memory() + received.stdout.in_memory(), 0);
        }
    }
    Ok(())
}

#[test]
fn an_endless_input_travels_cut() -> Outcome {
    let result = CommandResult {
        input: vec![b'i'; LONGEST_TEXT + 5].into(),
        ..CommandResult::default()
    };
    let received = CommandResult::from_body(&result.to_body()?)?;
    assert_eq!(received.input.len(), LONGEST_TEXT);
    Ok(())
}

#[test]
fn output_that_became_shorter_is_an_error() -> Outcome {
    let mut file = tempfile::NamedTempFile::new()?;
    file.write_all(b"0123")?;
    let result = CommandResult {
        stdout: Body::range(file.path(), 0, 5),
        ..CommandResult::default()
    };
    assert!(result.to_body().is_err());
    Ok(())
}

#[test]
fn malformed_results_are_errors_that_say_why() -> Outcome {
    let whole = result().to_body()?.to_bytes()?;
    for len in 0..whole.len() {
        let cut = Body::from(whole.slice(..len));
        let error = CommandResult::from_body(&cut)
            .map(drop)
            .map_err(|error| error.to_string());
        assert!(
            error.is_err_and(|text| text.starts_with("malformed result: ")),
            "{len}"
        );
    }
    for (bytes, why) in [
        (&b"\x93\x01\x02\x03"[..], "3 fields instead of 14"),
        (b"\xc0", "begin with an array"),
        (b"\x9e\xc6\xff\xff\xff\xff", "input is cut off"),
        (b"\x9e\xc4\x00\xc4\x00\xa1\xff", "host is not UTF-8"),
        (b"\x9e\xc4\x00\xc4\x00\xa0\xa0\xff", "slot is -1"),
    ] {
        let error = CommandResult::from_body(&bytes.to_vec().into())
            .map(drop)
            .map_err(|error| error.to_string());
        assert!(
            error.as_ref().is_err_and(|text| text.contains(why)),
            "{error:?}"
        );
    }
    let longer = Body::from([&whole[..], b"x"].concat());
    assert!(CommandResult::from_body(&longer).is_err());
    // Lengths whose sum overflows.
    let mut header = whole[..whole.len() - 9].to_vec();
    header.extend_from_slice(
        b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff\xcf\xff\xff\xff\xff\xff\xff\xff\xff",
    );
    assert!(CommandResult::from_body(&header.into()).is_err());
    Ok(())
}

#[test]
fn what_other_languages_encode_otherwise_is_understood() -> Outcome {
    // Texts as str or bin, and whole seconds as an integer.
    let bytes = b"\x9e\xa1a\xa1b\xc4\x01h\xc4\x01w\xcc\x01\x05\xca\x3f\x00\x00\x00\xd0\x00\x00\xc2\xcf\0\0\0\0\0\0\0\0\xc0\x01\x00X";
    let result = CommandResult::from_body(&Body::from(bytes.to_vec()))?;
    assert_eq!(
        (
            &result.input[..],
            &*result.host,
            result.start,
            result.seconds
        ),
        (&b"a"[..], "h", 5.0, 0.5)
    );
    assert_eq!(&result.stdout.to_bytes()?[..], b"X");
    Ok(())
}

#[test]
fn random_bytes_never_panic() {
    use proptest::test_runner::{Config, TestRunner};
    let config = Config {
        failure_persistence: None,
        ..Config::with_cases(4000)
    };
    let bytes = proptest::collection::vec(proptest::num::u8::ANY, 0..80);
    let outcome = TestRunner::new(config).run(&(proptest::bool::ANY, bytes), |(begun, bytes)| {
        let bytes = if begun {
            [&b"\x9e"[..], &bytes].concat()
        } else {
            bytes
        };
        drop(CommandResult::from_body(&bytes.into()));
        Ok(())
    });
    assert!(outcome.is_ok(), "{outcome:?}");
}
