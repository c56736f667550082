//! `--results DIR`: the output of each task in files of its own, in GNU parallel's layout.
//!
//! ```text
//! DIR/1/VALUE/stdout
//! DIR/1/VALUE/stderr
//! DIR/1/VALUE/seq       the task's number; written last, so whoever sees it sees the whole output
//! ```
//!
//! In VALUE a slash is written `\_`, a tab `\t`, a NUL `\0` and a backslash `\\`, as GNU parallel does. Where it would write
//! into a directory that is not the value's own, names differ: `.` and `..` become `\.` and `\..`, the empty value `\0noarg`
//! (GNU parallel's name for no argument), a value too long for a file name is cut and ends in `\~` and the task's number, and
//! a block (`--pipe`) has its number as its name. Of equal values the last to end stays, and an older tree is overwritten.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use procession::Body;
use procession::command::CommandResult;

/// The longest file name, in bytes.
const LONGEST_NAME: usize = 255;

/// A directory that results are written to.
#[derive(Debug)]
pub struct Results {
    /// DIR/1: GNU parallel names each source of input, and here is one.
    values: PathBuf,
}

impl Results {
    /// Makes the directory if it is not there.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(directory: &Path) -> io::Result<Self> {
        let values = directory.join("1");
        fs::create_dir_all(&values).map_err(|error| explain(&values, &error))?;
        Ok(Self { values })
    }

    /// Has all that was written on the disk: one call for many small files.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn sync(&self) -> io::Result<()> {
        File::open(&self.values)
            .and_then(|directory| Ok(rustix::fs::syncfs(directory)?))
            .map_err(|error| explain(&self.values, &error))
    }

    /// Writes a task's output. `block`: the task was a block of input, so it has no value to be named after.
    ///
    /// # Errors
    /// When a file cannot be written; the error names it. No part of a file is seen under its name then.
    pub fn keep(&self, seq: u64, block: bool, result: &CommandResult) -> io::Result<()> {
        let name = match block {
            true => seq.to_string().into(),
            false => directory_name(&result.input, seq),
        };
        let directory = self.values.join(name);
        match fs::create_dir(&directory) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // Of an earlier run, or an equal value: not complete any more from now on.
                remove(&directory.join("seq"))?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Somebody has tidied up meanwhile.
                fs::create_dir_all(&directory).map_err(|error| explain(&directory, &error))?;
            }
            Err(error) => return Err(explain(&directory, &error)),
        }
        write(&directory, "stdout", &result.stdout)?;
        write(&directory, "stderr", &result.stderr)?;
        write(&directory, "seq", &Body::from(seq.to_string().into_bytes()))
    }
}

/// Writes a file under another name first: it is there whole or not at all.
fn write(directory: &Path, name: &str, body: &Body) -> io::Result<()> {
    let path = directory.join(name);
    let temporary = directory.join(format!(".{name}.procession"));
    let written = File::create(&temporary).and_then(|mut file| match body {
        Body::Memory(_) => body.write_to(&mut file),
        // A buffer that is read into directly and written as one.
        _ => {
            let mut out = io::BufWriter::with_capacity(256 << 10, file);
            body.write_to(&mut out)?;
            out.into_inner()
                .map(drop)
                .map_err(io::IntoInnerError::into_error)
        }
    });
    written
        .and_then(|()| fs::rename(&temporary, &path))
        .map_err(|error| {
            let _ = fs::remove_file(&temporary);
            explain(&path, &error)
        })
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(explain(path, &error)),
        _ => Ok(()),
    }
}

fn explain(path: &Path, error: &io::Error) -> io::Error {
    let text = format!(
        "cannot write result {}: {error}; make room or change its permissions, or choose another directory with --results",
        path.display()
    );
    io::Error::new(error.kind(), text)
}

/// The value as the name of one directory, never of one above or of the same.
fn directory_name(value: &[u8], seq: u64) -> OsString {
    let mut name = Vec::with_capacity(value.len().min(LONGEST_NAME));
    // Where the name could be cut: never within an escape.
    let end = format!("\\~{seq}");
    let mut cut = 0;
    match value {
        b"" => name.extend_from_slice(b"\\0noarg"),
        b"." | b".." => {
            name.push(b'\\');
            name.extend_from_slice(value);
        }
        _ => {
            for byte in value {
                match byte {
                    b'\\' => name.extend_from_slice(b"\\\\"),
                    b'\t' => name.extend_from_slice(b"\\t"),
                    0 => name.extend_from_slice(b"\\0"),
                    b'/' => name.extend_from_slice(b"\\_"),
                    other => name.push(*other),
                }
                if name.len() <= LONGEST_NAME - end.len() {
                    cut = name.len();
                } else if name.len() > LONGEST_NAME {
                    name.truncate(cut);
                    name.extend_from_slice(end.as_bytes());
                    break;
                }
            }
        }
    }
    OsString::from_vec(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use procession::BodyWriter;
    use std::io::Write;

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    fn result(input: &[u8], stdout: Body) -> CommandResult {
        CommandResult {
            input: input.to_vec().into(),
            stdout,
            stderr: Body::from("e\n"),
            ..CommandResult::default()
        }
    }

    #[test]
    fn values_are_named_as_gnu_parallel_names_them_where_that_is_safe() {
        for (value, name) in [
            ("a", "a"),
            ("a/b", "a\\_b"),
            ("t\tb", "t\\tb"),
            ("x\\y", "x\\\\y"),
            ("sp ace", "sp ace"),
            ("a\0b", "a\\0b"),
            ("...", "..."),
            ("/", "\\_"),
            // From here on GNU parallel writes into DIR/1, DIR/1 again, and DIR.
            ("", "\\0noarg"),
            (".", "\\."),
            ("..", "\\.."),
        ] {
            assert_eq!(directory_name(value.as_bytes(), 1), name, "{value:?}");
        }
        let long = vec![b'L'; 255];
        assert_eq!(directory_name(&long, 1), OsString::from_vec(long.clone()));
        for value in [vec![b'L'; 300], vec![b'/'; 200], vec![b'\\'; 5000]] {
            let name = directory_name(&value, 17).into_vec();
            assert!(name.len() <= LONGEST_NAME && name.len() > LONGEST_NAME - 3);
            assert!(name.ends_with(b"\\~17"));
            let escapes = name.iter().filter(|b| **b == b'\\').count();
            assert!(
                value[0] != b'\\' || escapes % 2 == 1,
                "no escape is cut apart"
            );
        }
    }

    #[test]
    fn a_result_has_three_files_and_replaces_a_stale_one() -> Outcome {
        let directory = tempfile::tempdir()?;
        let tree = directory.path().join("new/tree");
        let results = Results::create(&tree)?;
        results.keep(9, false, &result(b"a/b", Body::from("a long stale output")))?;
        results.keep(1, false, &result(b"a/b", Body::from("o\n")))?;
        results.keep(2, true, &result(b"", Body::from("block\n")))?;
        let read = |path: &str| fs::read_to_string(tree.join(path));
        assert_eq!(read("1/a\\_b/stdout")?, "o\n");
        assert_eq!(read("1/a\\_b/stderr")?, "e\n");
        assert_eq!(read("1/a\\_b/seq")?, "1");
        assert_eq!(read("1/2/stdout")?, "block\n");
        assert_eq!(
            fs::read_dir(tree.join("1/a\\_b"))?.count(),
            3,
            "nothing temporary is left"
        );
        Ok(())
    }

    #[test]
    fn large_output_goes_from_file_to_file() -> Outcome {
        let directory = tempfile::tempdir()?;
        let mut writer = BodyWriter::new();
        writer.write_all(&vec![b'x'; 5 << 20])?;
        let body = writer.finish()?;
        Results::create(directory.path())?.keep(1, false, &result(b"v", body))?;
        assert_eq!(
            fs::metadata(directory.path().join("1/v/stdout"))?.len(),
            5 << 20
        );
        Ok(())
    }

    #[test]
    fn what_stands_in_the_way_is_named() -> Outcome {
        let directory = tempfile::tempdir()?;
        let file = directory.path().join("file");
        fs::write(&file, "")?;
        let text = Results::create(&file)
            .map(drop)
            .map_err(|error| error.to_string());
        assert!(text.is_err_and(|text| text.contains("file/1") && text.contains("--results")));
        let results = Results::create(directory.path())?;
        fs::write(directory.path().join("1/v"), "")?;
        let text = results
            .keep(1, false, &result(b"v", Body::empty()))
            .map_err(|error| error.to_string());
        assert!(text.is_err_and(|text| text.contains("1/v/")));
        // An output that cannot be read leaves no seq behind that calls it complete.
        let gone = Body::range(directory.path().join("gone"), 0, 5);
        results.keep(1, false, &result(b"w", Body::from("old")))?;
        assert!(results.keep(2, false, &result(b"w", gone)).is_err());
        assert!(!directory.path().join("1/w/seq").exists());
        Ok(())
    }
}
