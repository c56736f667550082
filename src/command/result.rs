//! What became of one command: how it ended, when and where, and its output, which may be large.
//!
//! On the wire a result is a MessagePack array of fourteen fields, followed by the raw bytes of stdout and of stderr:
//!
//! ```text
//! [input bin, command bin, host str, worker str, slot, start float, seconds float, exit, signal, timed_out bool, sent,
//!  note str|nil, stdout_len, stderr_len] stdout_len bytes stderr_len bytes
//! ```
//!
//! So output is never encoded in memory: it is copied from one file to another, and a reader slices what it received.

use std::io::{self, BufWriter, Read, Write};

use bytes::Bytes;
use rmp::Marker;

use crate::wire::body::{Body, BodyWriter, IN_MEMORY};

/// How much of the input and of the command travel with a result, in bytes each.
const LONGEST_TEXT: usize = 4 << 20;
/// More than a header with both of them can have, in bytes.
const LONGEST_HEADER: usize = 3 * LONGEST_TEXT;
/// How much of a result in a file is read at first, in bytes: more than nearly every header has.
const FIRST_READ: usize = 64 << 10;
const FIELDS: u32 = 14;

/// What became of one command.
///
/// ```
/// use procession::Body;
/// use procession::command::CommandResult;
///
/// let result = CommandResult {
///     input: "a".into(),
///     exit: 3,
///     stdout: Body::from("hello\n"),
///     ..CommandResult::default()
/// };
/// let received = CommandResult::from_body(&result.to_body()?)?;
/// assert_eq!(received.status(), (3, 0));
/// assert_eq!(&received.stdout.to_bytes()?[..], b"hello\n");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct CommandResult {
    /// The value or line; empty for a block. At most its first 4 MiB travel.
    pub input: Bytes,
    /// The command as [`Invocation::display`](super::Invocation::display) has it. At most its first 4 MiB travel.
    pub command: Bytes,
    /// The name of the host that it ran on.
    pub host: String,
    /// The id of the worker that ran it.
    pub worker: String,
    /// The slot that it ran in, from 1.
    pub slot: u32,
    /// When it started, in seconds since 1970.
    pub start: f64,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// The exit code; 127 or 126 if it could not be started; 0 if a signal ended it.
    pub exit: i32,
    /// The signal that ended it, or 0.
    pub signal: i32,
    /// Whether it was killed because its time was up.
    pub timed_out: bool,
    /// How many bytes were written to its standard input.
    pub sent: u64,
    /// What else is to be said: why it could not be started, or was given up.
    pub note: Option<String>,
    /// What it wrote to standard output.
    pub stdout: Body,
    /// What it wrote to standard error.
    pub stderr: Body,
}

/// Why bytes are no [`CommandResult`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResultError {
    /// They could not be read.
    #[error("cannot read a result: {0}")]
    Io(#[from] io::Error),
    /// They are not laid out as a result is.
    #[error("malformed result: {what}")]
    Malformed {
        /// What is wrong, and at which field.
        what: String,
    },
}

impl CommandResult {
    /// Exit code and signal as GNU parallel logs them: a timeout is −1 and 15, whatever the command made of its signal.
    #[must_use]
    pub fn status(&self) -> (i32, i32) {
        if self.timed_out {
            (-1, 15)
        } else {
            (self.exit, self.signal)
        }
    }

    /// Whether it exited with 0, of its own accord.
    #[must_use]
    pub fn succeeded(&self) -> bool {
        self.status() == (0, 0)
    }

    /// The result as it travels: in memory while it is small, otherwise in a temporary file.
    ///
    /// # Errors
    /// When the output cannot be read, or the temporary file cannot be written.
    pub fn to_body(&self) -> io::Result<Body> {
        let output = self.stdout.len().saturating_add(self.stderr.len());
        let mut header = Vec::with_capacity(self.header_room());
        self.put_header(&mut header);
        let in_memory = header.len() as u64 + output <= IN_MEMORY as u64;
        if let (true, Body::Memory(stdout), Body::Memory(stderr)) =
            (in_memory, &self.stdout, &self.stderr)
        {
            header.extend_from_slice(stdout);
            header.extend_from_slice(stderr);
            return Ok(header.into());
        }
        let mut writer = BodyWriter::new();
        writer.write_all(&header)?;
        // A large buffer, which io::copy reads into directly: the output goes from file to file.
        let mut writer = BufWriter::with_capacity(256 << 10, writer);
        for output in [&self.stdout, &self.stderr] {
            let copied = io::copy(&mut output.reader()?, &mut writer)?;
            if copied != output.len() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        writer
            .into_inner()
            .map_err(io::IntoInnerError::into_error)?
            .finish()
    }

    /// The result that `body` holds; its output shares the body's memory or file.
    ///
    /// # Errors
    /// When the body cannot be read, or is not a result.
    pub fn from_body(body: &Body) -> Result<Self, ResultError> {
        if let Body::Memory(bytes) = body {
            let mut header = Header { bytes, at: 0 };
            let (mut result, lengths) = header.result()?;
            result.take_output(body, header.at as u64, lengths)?;
            return Ok(result);
        }
        // Opened once, so that the file may lose its name meanwhile.
        let body = body.open()?;
        let all = usize::try_from(body.len())
            .unwrap_or(usize::MAX)
            .min(LONGEST_HEADER);
        let mut want = all.min(FIRST_READ);
        loop {
            let mut bytes = Vec::with_capacity(want);
            body.slice(0, want as u64)
                .reader()?
                .read_to_end(&mut bytes)?;
            let bytes = Bytes::from(bytes);
            let mut header = Header {
                bytes: &bytes,
                at: 0,
            };
            match header.result() {
                Ok((mut result, lengths)) => {
                    // What is kept must not hold on to the whole piece that was read.
                    result.input = Bytes::copy_from_slice(&result.input);
                    result.command = Bytes::copy_from_slice(&result.command);
                    result.take_output(&body, header.at as u64, lengths)?;
                    return Ok(result);
                }
                Err(error) if want == all => return Err(error),
                Err(_) => want = want.saturating_mul(4).min(all),
            }
        }
    }

    fn header_room(&self) -> usize {
        let output = self.stdout.in_memory() + self.stderr.in_memory();
        let texts = self.input.len() + self.command.len() + self.host.len() + self.worker.len();
        let note = self.note.as_deref().map_or(0, str::len);
        // Eight numbers and six lengths of at most 9 bytes each.
        128 + texts.min(2 * LONGEST_TEXT) + note + output.min(IN_MEMORY)
    }

    fn put_header(&self, out: &mut Vec<u8>) {
        use rmp::encode as put;
        let text = |out: &mut Vec<u8>, bytes: &[u8]| {
            let bytes = &bytes[..bytes.len().min(LONGEST_TEXT)];
            put::write_bin(out, bytes)
        };
        // Writing to a Vec cannot fail, so there is one result, and nobody to tell of it.
        let written = (|| {
            put::write_array_len(out, FIELDS)?;
            text(out, &self.input)?;
            text(out, &self.command)?;
            put::write_str(out, &self.host)?;
            put::write_str(out, &self.worker)?;
            put::write_uint(out, self.slot.into())?;
            put::write_f64(out, self.start)?;
            put::write_f64(out, self.seconds)?;
            put::write_sint(out, self.exit.into())?;
            put::write_sint(out, self.signal.into())?;
            put::write_bool(out, self.timed_out).map_err(put::ValueWriteError::InvalidDataWrite)?;
            put::write_uint(out, self.sent)?;
            match &self.note {
                Some(note) => put::write_str(out, note)?,
                None => put::write_nil(out).map_err(put::ValueWriteError::InvalidMarkerWrite)?,
            }
            put::write_uint(out, self.stdout.len())?;
            put::write_uint(out, self.stderr.len())?;
            Ok::<_, put::ValueWriteError>(())
        })();
        debug_assert!(written.is_ok(), "{written:?}");
    }

    fn take_output(
        &mut self,
        body: &Body,
        at: u64,
        (stdout, stderr): (u64, u64),
    ) -> Result<(), ResultError> {
        let end = at
            .checked_add(stdout)
            .and_then(|end| end.checked_add(stderr));
        if end != Some(body.len()) {
            return Err(malformed(format!(
                "{stdout} and {stderr} bytes of output are announced after a header of {at}, but the whole has {}",
                body.len()
            )));
        }
        self.stdout = body.slice(at, stdout);
        self.stderr = body.slice(at + stdout, stderr);
        Ok(())
    }
}

fn malformed(what: impl Into<String>) -> ResultError {
    ResultError::Malformed { what: what.into() }
}

/// Reads a header field by field. Numbers may have any width and texts be str or bin, since languages differ in what they
/// encode them as.
struct Header<'a> {
    bytes: &'a Bytes,
    at: usize,
}

impl Header<'_> {
    fn result(&mut self) -> Result<(CommandResult, (u64, u64)), ResultError> {
        let mut rest = &self.bytes[self.at..];
        let fields = rmp::decode::read_array_len(&mut rest)
            .map_err(|_| malformed("it does not begin with an array"))?;
        self.at = self.bytes.len() - rest.len();
        if fields != FIELDS {
            return Err(malformed(format!("{fields} fields instead of {FIELDS}")));
        }
        let result = CommandResult {
            input: self.text("input")?,
            command: self.text("command")?,
            host: self.string("host")?,
            worker: self.string("worker")?,
            slot: self.integer("slot")?,
            start: self.float("start")?,
            seconds: self.float("seconds")?,
            exit: self.integer("exit")?,
            signal: self.integer("signal")?,
            timed_out: self.boolean("timed_out")?,
            sent: self.integer("sent")?,
            note: self.string_or_nil("note")?,
            stdout: Body::empty(),
            stderr: Body::empty(),
        };
        let lengths = (self.integer("stdout_len")?, self.integer("stderr_len")?);
        Ok((result, lengths))
    }

    fn marker(&self, field: &str) -> Result<Marker, ResultError> {
        let byte = self.bytes.get(self.at);
        byte.map(|byte| Marker::from_u8(*byte))
            .ok_or_else(|| malformed(format!("it ends before {field}")))
    }

    /// Reads with one of rmp's functions, which take what they read off the front of a slice.
    fn read<T, E>(
        &mut self,
        field: &str,
        read: impl FnOnce(&mut &[u8]) -> Result<T, E>,
    ) -> Result<T, ResultError> {
        let mut rest = &self.bytes[self.at..];
        let value = read(&mut rest)
            .map_err(|_| malformed(format!("{field} is of another type, or cut off")))?;
        self.at = self.bytes.len() - rest.len();
        Ok(value)
    }

    fn text(&mut self, field: &str) -> Result<Bytes, ResultError> {
        let len = match self.marker(field)? {
            Marker::Bin8 | Marker::Bin16 | Marker::Bin32 => {
                self.read(field, |rest| rmp::decode::read_bin_len(rest))?
            }
            _ => self.read(field, |rest| rmp::decode::read_str_len(rest))?,
        };
        // u32 fits: only 32-bit and wider hosts are supported.
        let end = self
            .at
            .checked_add(len as usize)
            .filter(|end| *end <= self.bytes.len());
        let end = end.ok_or_else(|| malformed(format!("{field} is cut off")))?;
        let text = self.bytes.slice(self.at..end);
        self.at = end;
        Ok(text)
    }

    fn string(&mut self, field: &str) -> Result<String, ResultError> {
        let text = self.text(field)?;
        String::from_utf8(text.into()).map_err(|_| malformed(format!("{field} is not UTF-8")))
    }

    fn string_or_nil(&mut self, field: &str) -> Result<Option<String>, ResultError> {
        if self.marker(field)? == Marker::Null {
            self.at += 1;
            return Ok(None);
        }
        self.string(field).map(Some)
    }

    fn integer<T: TryFrom<i128>>(&mut self, field: &str) -> Result<T, ResultError> {
        let value: i128 = match self.marker(field)? {
            Marker::U64 => self.read(field, |rest| rmp::decode::read_u64(rest))?.into(),
            _ => self
                .read(field, |rest| rmp::decode::read_int::<i64, _>(rest))?
                .into(),
        };
        T::try_from(value)
            .map_err(|_| malformed(format!("{field} is {value}, which is out of range")))
    }

    fn float(&mut self, field: &str) -> Result<f64, ResultError> {
        match self.marker(field)? {
            Marker::F64 => self.read(field, |rest| rmp::decode::read_f64(rest)),
            Marker::F32 => self
                .read(field, |rest| rmp::decode::read_f32(rest))
                .map(f64::from),
            // Whole seconds; exact for two hundred million years.
            _ => self.integer::<i64>(field).map(|whole| whole as f64),
        }
        .and_then(|value| {
            let finite = value.is_finite().then_some(value);
            finite.ok_or_else(|| malformed(format!("{field} is not a finite number")))
        })
    }

    fn boolean(&mut self, field: &str) -> Result<bool, ResultError> {
        self.read(field, |rest| rmp::decode::read_bool(rest))
    }
}

impl crate::Payload for CommandResult {
    fn into_body(self, _: &mut bytes::BytesMut) -> Result<Body, String> {
        self.to_body().map_err(|error| {
            let folder = std::env::temp_dir();
            format!(
                "cannot keep the output in {}: {error}; TMPDIR names another folder",
                folder.display()
            )
        })
    }

    fn from_body(body: Body) -> Result<Self, String> {
        Self::from_body(&body).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
#[path = "result_tests.rs"]
mod tests;
