//! `--json`: one object a result, one line each.
//!
//! ```json
//! {"id":1,"input":"a","command":"echo a","exit":0,"signal":0,"timed_out":false,"attempts":1,"worker":"6f1c","host":"h",
//!  "slot":1,"start":1795450558.130,"seconds":0.002413,"stdout":"a\n","stderr":""}
//! ```
//!
//! JSON is text, output is bytes: where `input`, `command`, `stdout` or `stderr` is not UTF-8, each byte that does not fit in
//! is shown as U+FFFD, and a field of the same name with `_base64` follows that holds all bytes as they are. `note` is there
//! if there is something to be said: why a command could not be started, for instance. `exit` and `signal` are those of
//! `--joblog`: -1 and 15 for a timeout. `failures` is there if attempts at the task failed, this one or earlier ones: an array of
//! objects with attempt, host, worker, pid, exit, signal, out_of_memory, peak_memory (in bytes), seconds, cause and stderr (its last
//! lines), the last four of them.
//!
//! Output is streamed: a gigabyte of it never stands in memory.

use std::io::{self, Read, Write};

use procession::Body;
use procession::command::CommandResult;
use procession::obituary::Obituary;

/// How much output is read at a time, in bytes; a multiple of 3, as base64 has it.
const PIECE: usize = 192 << 10;

/// Writes the line of a result. `attempts`: how often the task was begun in all.
///
/// # Errors
/// When the output cannot be read or `out` cannot be written; a part of the line may be written then.
pub fn write_json(
    out: &mut impl Write,
    id: u64,
    attempts: u32,
    result: &CommandResult,
    failures: &[Obituary],
) -> io::Result<()> {
    let (exit, signal) = result.status();
    write!(out, "{{\"id\":{id}")?;
    field(out, "input", &Body::Memory(result.input.clone()))?;
    field(out, "command", &Body::Memory(result.command.clone()))?;
    write!(
        out,
        ",\"exit\":{exit},\"signal\":{signal},\"timed_out\":{},\"attempts\":{attempts}",
        result.timed_out
    )?;
    text_field(out, "worker", &result.worker)?;
    text_field(out, "host", &result.host)?;
    write!(
        out,
        ",\"slot\":{},\"start\":{:.3},\"seconds\":{:.6}",
        result.slot,
        finite(result.start),
        finite(result.seconds)
    )?;
    if let Some(note) = &result.note {
        text_field(out, "note", note)?;
    }
    if !failures.is_empty() {
        out.write_all(b",\"failures\":")?;
        put_failures(out, failures)?;
    }
    field(out, "stdout", &result.stdout)?;
    field(out, "stderr", &result.stderr)?;
    out.write_all(b"}\n")
}

/// How attempts ended that failed. They are small, and text.
fn put_failures(out: &mut impl Write, failures: &[Obituary]) -> io::Result<()> {
    let failures: Vec<serde_json::Value> = failures
        .iter()
        .map(|failure| {
            serde_json::json!({
                "attempt": failure.attempt,
                "host": failure.host,
                "worker": format!("{:016x}", failure.worker),
                "pid": failure.pid,
                "exit": failure.exit,
                "signal": failure.signal,
                "out_of_memory": failure.out_of_memory,
                "peak_memory": failure.peak_memory,
                "seconds": finite(failure.seconds),
                "cause": failure.cause,
                "stderr": failure.stderr,
            })
        })
        .collect();
    serde_json::to_writer(out, &failures).map_err(io::Error::from)
}

/// JSON has no word for what is not a number.
fn finite(number: f64) -> f64 {
    if number.is_finite() { number } else { 0.0 }
}

fn text_field(out: &mut impl Write, name: &str, text: &str) -> io::Result<()> {
    write!(out, ",\"{name}\":\"")?;
    escape(out, text)?;
    out.write_all(b"\"")
}

fn field(out: &mut impl Write, name: &str, body: &Body) -> io::Result<()> {
    write!(out, ",\"{name}\":\"")?;
    let utf8 = match body {
        Body::Memory(bytes) => {
            let mut text = Text::default();
            text.put(out, bytes, true)?;
            text.utf8
        }
        _ => put_streamed(out, body)?,
    };
    out.write_all(b"\"")?;
    if !utf8 {
        write!(out, ",\"{name}_base64\":\"")?;
        put_base64(out, body)?;
        out.write_all(b"\"")?;
    }
    Ok(())
}

fn put_streamed(out: &mut impl Write, body: &Body) -> io::Result<bool> {
    let mut reader = body.reader()?;
    let mut text = Text::default();
    let mut piece = vec![0; PIECE];
    // What is carried from one piece to the next: a character cut in two, at most 3 bytes.
    let mut carried = 0;
    loop {
        let n = read_full(&mut reader, &mut piece[carried..])?;
        let end = n < piece.len() - carried;
        let filled = carried + n;
        let used = text.put(out, &piece[..filled], end)?;
        if end {
            return Ok(text.utf8);
        }
        piece.copy_within(used..filled, 0);
        carried = filled - used;
    }
}

/// As much as there is, up to the buffer's length.
fn read_full(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Bytes as text, and whether they were.
struct Text {
    utf8: bool,
}

impl Default for Text {
    fn default() -> Self {
        Self { utf8: true }
    }
}

impl Text {
    /// Writes what of `bytes` is complete, or, at the `end`, all; returns how many bytes that was.
    fn put(&mut self, out: &mut impl Write, bytes: &[u8], end: bool) -> io::Result<usize> {
        let mut at = 0;
        loop {
            let error = match std::str::from_utf8(&bytes[at..]) {
                Ok(text) => {
                    escape(out, text)?;
                    return Ok(bytes.len());
                }
                Err(error) => error,
            };
            let valid = at + error.valid_up_to();
            // Up to there it was just found to be UTF-8.
            escape(
                out,
                std::str::from_utf8(&bytes[at..valid]).unwrap_or_default(),
            )?;
            at = match error.error_len() {
                None if !end => return Ok(valid),
                None => bytes.len(),
                Some(len) => valid + len,
            };
            self.utf8 = false;
            out.write_all("\u{fffd}".as_bytes())?;
        }
    }
}

/// Writes text as it stands between the quotes of a JSON string.
fn escape(out: &mut impl Write, text: &str) -> io::Result<()> {
    let bytes = text.as_bytes();
    let mut plain = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        if byte >= b' ' && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.write_all(&bytes[plain..at])?;
        plain = at + 1;
        match byte {
            b'"' => out.write_all(b"\\\"")?,
            b'\\' => out.write_all(b"\\\\")?,
            b'\n' => out.write_all(b"\\n")?,
            b'\t' => out.write_all(b"\\t")?,
            b'\r' => out.write_all(b"\\r")?,
            other => write!(out, "\\u{other:04x}")?,
        }
    }
    out.write_all(&bytes[plain..])
}

fn put_base64(out: &mut impl Write, body: &Body) -> io::Result<()> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut reader = body.reader()?;
    let room = usize::try_from(body.len()).unwrap_or(PIECE).min(PIECE);
    // Filled to a multiple of 3 each time but the last, so that padding stands at the end only.
    let mut piece = vec![0; room.next_multiple_of(3)];
    let mut encoded = Vec::with_capacity(piece.len() / 3 * 4);
    loop {
        let n = read_full(&mut reader, &mut piece)?;
        encoded.clear();
        for three in piece[..n].chunks(3) {
            let byte = |i: usize| u32::from(three.get(i).copied().unwrap_or(0));
            let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
            for digit in 0..4 {
                encoded.push(match digit <= three.len() {
                    true => DIGITS[(bits >> (18 - 6 * digit) & 63) as usize],
                    false => b'=',
                });
            }
        }
        out.write_all(&encoded)?;
        if n < piece.len() || n == 0 {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use procession::BodyWriter;
    use serde_json::Value;

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    fn json(result: &CommandResult) -> Result<Value, Box<dyn std::error::Error>> {
        let mut line = Vec::new();
        write_json(&mut line, 7, 2, result, &[])?;
        assert_eq!(line.iter().filter(|b| **b == b'\n').count(), 1);
        assert_eq!(line.last(), Some(&b'\n'));
        Ok(serde_json::from_slice(&line)?)
    }

    #[test]
    fn a_result_is_one_object_on_one_line() -> Outcome {
        let result = CommandResult {
            input: "a\"\\\n\u{1}é".into(),
            host: "h".into(),
            worker: "w".into(),
            slot: 3,
            start: 1.5,
            seconds: 0.25,
            timed_out: true,
            signal: 9,
            note: Some("why".into()),
            stdout: Body::from("1\n2\n"),
            ..CommandResult::default()
        };
        let expected = serde_json::json!({
            "id": 7, "input": "a\"\\\n\u{1}é", "command": "", "exit": -1, "signal": 15, "timed_out": true, "attempts": 2,
            "worker": "w", "host": "h", "slot": 3, "start": 1.5, "seconds": 0.25, "note": "why", "stdout": "1\n2\n",
            "stderr": ""
        });
        assert_eq!(json(&result)?, expected);
        let without = json(&CommandResult {
            start: f64::NAN,
            ..CommandResult::default()
        })?;
        assert!(without.get("note").is_none() && without.get("stdout_base64").is_none());
        Ok(())
    }

    #[test]
    fn failed_attempts_are_told_one_by_one() -> Outcome {
        let mut line = Vec::new();
        let failure = Obituary {
            attempt: 1,
            host: "h".into(),
            worker: 0xb1,
            signal: 9,
            out_of_memory: true,
            peak_memory: 4096,
            seconds: f64::NAN,
            stderr: "no\nroom".into(),
            ..Obituary::default()
        };
        write_json(&mut line, 7, 2, &CommandResult::default(), &[failure])?;
        let value: Value = serde_json::from_slice(&line)?;
        let expected = serde_json::json!([{
            "attempt": 1, "host": "h", "worker": "00000000000000b1", "pid": 0, "exit": 0, "signal": 9, "out_of_memory": true,
            "peak_memory": 4096, "seconds": 0.0, "cause": "", "stderr": "no\nroom"
        }]);
        assert_eq!(value["failures"], expected);
        Ok(())
    }

    #[test]
    fn bytes_that_are_no_text_come_in_base64_as_well() -> Outcome {
        for (bytes, text, base64) in [
            (&b"\xff"[..], "\u{fffd}", "/w=="),
            (b"a\xffb", "a\u{fffd}b", "Yf9i"),
            (b"ab\xc3", "ab\u{fffd}", "YWLD"),
            (b"abcd\xfe", "abcd\u{fffd}", "YWJjZP4="),
        ] {
            let value = json(&CommandResult {
                stdout: bytes.to_vec().into(),
                ..CommandResult::default()
            })?;
            assert_eq!(value["stdout"], text);
            assert_eq!(value["stdout_base64"], base64);
        }
        Ok(())
    }

    #[test]
    fn characters_survive_wherever_a_piece_ends() -> Outcome {
        for shift in 0..4 {
            let text = "x".repeat(shift) + &"€😀".repeat(300_000);
            let mut writer = BodyWriter::new();
            writer.write_all(text.as_bytes())?;
            let body = writer.finish()?;
            assert_eq!(body.in_memory(), 0);
            let value = json(&CommandResult {
                stdout: body,
                ..CommandResult::default()
            })?;
            assert!(value["stdout"] == text, "shifted by {shift}");
            assert!(value.get("stdout_base64").is_none());
        }
        Ok(())
    }

    #[test]
    fn large_output_that_is_no_text_is_all_there() -> Outcome {
        let bytes: Vec<u8> = (0..2_000_003_u32).map(|n| (n % 251) as u8 ^ 0x80).collect();
        let mut writer = BodyWriter::new();
        writer.write_all(&bytes)?;
        let value = json(&CommandResult {
            stderr: writer.finish()?,
            ..CommandResult::default()
        })?;
        assert_eq!(
            value["stderr"].as_str(),
            Some(&*String::from_utf8_lossy(&bytes))
        );
        let encoded = value["stderr_base64"].as_str().unwrap_or_default();
        assert_eq!(encoded.len(), bytes.len().div_ceil(3) * 4);
        let digit = |c: u8| {
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
                .iter()
                .position(|d| *d == c)
        };
        let mut decoded = Vec::new();
        for four in encoded.as_bytes().chunks(4) {
            let bits = four
                .iter()
                .fold(0, |bits, c| bits << 6 | digit(*c).unwrap_or(0));
            decoded.extend([(bits >> 16) as u8, (bits >> 8) as u8, bits as u8]);
        }
        decoded.truncate(bytes.len());
        assert!(decoded == bytes);
        Ok(())
    }
}
