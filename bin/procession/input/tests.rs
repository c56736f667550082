//! Every input becomes the tasks that GNU parallel makes of it, however long its lines are and however it is read.

use std::io::Write;
use std::thread;

use super::*;

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn bodies(input: Input) -> io::Result<Vec<Vec<u8>>> {
    input.map(|body| Ok(body?.to_bytes()?.to_vec())).collect()
}

fn file(bytes: &[u8]) -> io::Result<tempfile::NamedTempFile> {
    let mut file = tempfile::NamedTempFile::new()?;
    file.write_all(bytes)?;
    Ok(file)
}

/// A pipe's end to be read, into which another thread writes the bytes, a piece at a time.
fn pipe(bytes: &[u8], piece: usize) -> io::Result<File> {
    let (reader, writer) = rustix::pipe::pipe()?;
    let mut writer = File::from(writer);
    let bytes = bytes.to_vec();
    thread::spawn(move || {
        bytes
            .chunks(piece)
            .try_for_each(|piece| writer.write_all(piece))
    });
    Ok(File::from(reader))
}

#[test]
fn values_are_tasks_as_they_are() -> Outcome {
    let values = ["a", "", "b c\nd"].map(OsString::from).to_vec();
    let input = Input::open(Source::Values(values), false, None)?;
    assert_eq!((input.tasks_total(), input.bytes_total()), (Some(3), None));
    assert_eq!(bodies(input)?, [&b"a"[..], b"", b"b c\nd"]);
    Ok(())
}

#[test]
fn lines_are_what_gnu_parallel_takes_for_lines() -> Outcome {
    for (text, null, lines) in [
        (&b""[..], false, &[][..]),
        (b"a", false, &[&b"a"[..]]),
        (b"a\n", false, &[b"a"]),
        (b"a\n\nb\n", false, &[b"a", b"", b"b"]),
        (b"\n\n", false, &[b"", b""]),
        (b"x\r\ny\r\n", false, &[b"x\r", b"y\r"]),
        (b"\xff\0\xfe\nz", false, &[b"\xff\0\xfe", b"z"]),
        (b"a b\0c\nd\0", true, &[b"a b", b"c\nd"]),
        (b"\0\0x", true, &[b"", b"", b"x"]),
    ] {
        let file = file(text)?;
        let source = Source::Files(vec![file.path().into()]);
        let mut input = Input::open(source, null, None)?;
        assert_eq!(
            input.bytes_total(),
            (!text.is_empty()).then_some(text.len() as u64)
        );
        let mut taken = Vec::new();
        for body in input.by_ref() {
            taken.push(body?.to_bytes()?);
        }
        assert_eq!(taken, lines, "{text:?}");
        assert_eq!(input.bytes_read(), text.len() as u64);
        assert!(input.next().is_none());
    }
    Ok(())
}

#[test]
fn files_follow_one_another_and_no_line_spans_two() -> Outcome {
    let (a, b) = (file(b"1\n2")?, file(b"3\n")?);
    let paths = vec![a.path().into(), b.path().into(), a.path().into()];
    let input = Input::open(Source::Files(paths.clone()), false, None)?;
    assert_eq!(input.bytes_total(), Some(8));
    assert_eq!(bodies(input)?, [b"1", b"2", b"3", b"1", b"2"]);
    let input = Input::open(Source::Files(paths), false, Some(100))?;
    assert_eq!(bodies(input)?, [&b"1\n2"[..], b"3\n", b"1\n2"]);
    Ok(())
}

#[test]
fn lines_of_any_length_come_out_of_a_pipe_whole() -> Outcome {
    let lengths = [
        0,
        1,
        7,
        131_071,
        131_072,
        131_073,
        262_144,
        5,
        3 << 20,
        0,
        1 << 20,
        9,
    ];
    let lines: Vec<Vec<u8>> = lengths.iter().map(|&len| vec![b'x'; len]).collect();
    let text = lines.join(&b'\n');
    for piece in [4099, 1 << 16] {
        let mut read = Vec::new();
        for body in Lines::new(pipe(&text, piece)?, b'\n') {
            let body = body?;
            assert!(body.in_memory() <= 1 << 20);
            read.push(body.to_bytes()?.to_vec());
        }
        assert!(read == lines, "pieces of {piece}");
    }
    Ok(())
}

#[test]
fn a_line_is_there_before_the_pipe_ends() -> Outcome {
    let (reader, writer) = rustix::pipe::pipe()?;
    let mut writer = File::from(writer);
    let mut lines = Lines::new(File::from(reader), b'\n');
    writer.write_all(b"one\ntwo\nthr")?;
    let mut next =
        || -> io::Result<_> { lines.next().transpose()?.map(|b| b.to_bytes()).transpose() };
    assert_eq!(next()?, Some("one".into()));
    assert_eq!(next()?, Some("two".into()));
    writer.write_all(b"ee")?;
    drop(writer);
    assert_eq!(next()?, Some("three".into()));
    assert_eq!(next()?, None);
    Ok(())
}

/// Every block but the last ends in a line end, holds as many lines as fit, and all together are the text.
fn assert_blocks(blocks: &[Vec<u8>], text: &[u8], size: usize) {
    assert!(
        blocks.concat() == text,
        "the blocks of {size} are not the text"
    );
    let (last, others) = blocks
        .split_last()
        .map_or((&[][..], &[][..]), |(last, others)| (last, others));
    assert_eq!(last.is_empty(), text.is_empty());
    for block in others {
        assert_eq!(block.last(), Some(&b'\n'));
        if block.len() > size {
            let lines = block.iter().filter(|b| **b == b'\n').count();
            let first = block.iter().position(|b| *b == b'\n');
            assert!(
                lines >= 1 && first >= Some(size.min(block.len() - 1)),
                "larger only for a long first line"
            );
        }
    }
}

#[test]
fn blocks_are_cut_after_line_ends_of_files_and_pipes_alike() -> Outcome {
    let mut text = Vec::new();
    for n in 0..60_000_usize {
        text.extend(std::iter::repeat_n(b'a', n * 7919 % 97));
        text.push(b'\n');
    }
    text.extend(std::iter::repeat_n(b'l', 1_500_000));
    text.extend_from_slice(b"\nend\nno end");
    let named = file(&text)?;
    for size in [1, 100, 5000, 65_536, 1 << 20, 2_500_000, 10 << 20] {
        if size < 5000 {
            // Each block is a task: enough of them.
            let short = file(&text[..20_000])?;
            let source = Source::Files(vec![short.path().into()]);
            assert_blocks(
                &bodies(Input::open(source, false, Some(size as u64))?)?,
                &text[..20_000],
                size,
            );
            let blocks = StreamBlocks::new(pipe(&text[..20_000], 999)?, size as u64, b'\n');
            let blocks: io::Result<Vec<_>> =
                blocks.map(|body| Ok(body?.to_bytes()?.to_vec())).collect();
            assert_blocks(&blocks?, &text[..20_000], size);
            continue;
        }
        let source = Source::Files(vec![named.path().into()]);
        let ranges: io::Result<Vec<Body>> =
            Input::open(source, false, Some(size as u64))?.collect();
        let ranges = ranges?;
        assert!(
            ranges
                .iter()
                .all(|body| matches!(body, Body::Range { path, .. } if path.is_absolute()))
        );
        let ranges: io::Result<Vec<_>> = ranges
            .iter()
            .map(|body| Ok(body.to_bytes()?.to_vec()))
            .collect();
        assert_blocks(&ranges?, &text, size);
        let mut blocks = Vec::new();
        for body in StreamBlocks::new(pipe(&text, 70_001)?, size as u64, b'\n') {
            let body = body?;
            assert!(body.in_memory() <= 1 << 20);
            blocks.push(body.to_bytes()?.to_vec());
        }
        assert_blocks(&blocks, &text, size);
    }
    Ok(())
}

#[test]
fn blocks_of_nul_terminated_records_end_in_nul() -> Outcome {
    let named = file(b"a\nb\0c\n\0d")?;
    let source = Source::Files(vec![named.path().into()]);
    assert_eq!(
        bodies(Input::open(source, true, Some(5))?)?,
        [&b"a\nb\0"[..], b"c\n\0d"]
    );
    Ok(())
}

#[test]
fn a_fifo_is_read_once_and_like_standard_input() -> Outcome {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("fifo");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &path,
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )?;
    let input = Input::open(Source::Files(vec![path.clone()]), false, Some(4))?;
    assert_eq!(input.bytes_total(), None);
    let writer = thread::spawn(move || std::fs::write(path, b"a\nb\nc\n"));
    assert_eq!(bodies(input)?, [b"a\nb\n".to_vec(), b"c\n".to_vec()]);
    assert!(writer.join().is_ok_and(|written| written.is_ok()));
    Ok(())
}

#[test]
fn what_cannot_be_read_is_known_at_once_and_named() -> Outcome {
    let directory = tempfile::tempdir()?;
    let good = file(b"1\n")?;
    let missing = directory.path().join("missing");
    for (path, why, advice) in [
        (
            directory.path(),
            "it is a directory",
            "give its files as values: ::: ",
        ),
        (&*missing, "No such file", "check the name after -a"),
    ] {
        let paths = vec![good.path().into(), path.into()];
        let error = Input::open(Source::Files(paths), false, None)
            .map(drop)
            .map_err(|error| error.to_string());
        let text = error.err().unwrap_or_default();
        assert!(
            text.starts_with(&format!("cannot read {}: {why}", path.display())),
            "{text}"
        );
        assert!(text.contains(advice), "{text}");
    }
    Ok(())
}

#[test]
fn a_file_that_goes_away_meanwhile_is_an_error_and_the_end() -> Outcome {
    let (a, b) = (file(b"1\n")?, file(b"2\n")?);
    let paths = vec![a.path().into(), b.path().into()];
    let mut input = Input::open(Source::Files(paths), false, None)?;
    drop(b);
    assert!(matches!(input.next(), Some(Ok(_))));
    let error = input.next().and_then(Result::err).map(|error| error.kind());
    assert_eq!(error, Some(io::ErrorKind::NotFound));
    assert!(input.next().is_none());
    Ok(())
}
