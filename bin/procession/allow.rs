//! `worker --allow gzip,/opt/jobs/*`: which programs a worker runs, whatever it is sent.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use glob::{MatchOptions, Pattern};

/// A star stands for a part of one name, and does not reach into folders.
const MATCHING: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: false,
};

/// The programs that may be run; all, if no pattern was given.
#[derive(Clone, Debug, Default)]
pub struct Allowed {
    patterns: Vec<Pattern>,
}

/// A pattern as it is typed: a name, which is looked for in the worker's `PATH`, or an absolute path.
///
/// # Errors
/// With what to write instead.
pub fn pattern(text: &str) -> Result<Pattern, String> {
    if text.is_empty() {
        return Err("a program's name is needed, or a pattern such as /opt/jobs/*".to_owned());
    }
    if text.contains('/') && !text.starts_with('/') {
        return Err(format!(
            "{text} is neither a name nor an absolute path; write gzip, or /opt/jobs/*"
        ));
    }
    Pattern::new(text).map_err(|error| format!("{text}: {error}"))
}

impl Allowed {
    /// Those that match one of these.
    pub fn new(patterns: Vec<Pattern>) -> Self {
        Self { patterns }
    }

    /// Whether a program may be run. A name is matched by names and a path by paths: `gzip` allows neither `./gzip` nor `/tmp/gzip`,
    /// and a path must be written as it is, without `.` or `..`.
    pub fn permits(&self, program: &OsStr) -> bool {
        if self.patterns.is_empty() {
            return true;
        }
        // What is no text matches nothing that could be typed.
        let Some(text) = program.to_str() else {
            return false;
        };
        let is_path = program.as_bytes().contains(&b'/');
        if is_path && !is_plain(Path::new(program)) {
            return false;
        }
        self.patterns.iter().any(|pattern| {
            pattern.as_str().contains('/') == is_path && pattern.matches_with(text, MATCHING)
        })
    }

    /// The patterns as they were typed.
    fn list(&self) -> String {
        let patterns: Vec<&str> = self.patterns.iter().map(Pattern::as_str).collect();
        patterns.join(",")
    }

    /// What is said of a program that may not be run.
    pub fn refusal(&self, program: &OsStr, host: &str) -> String {
        let shell = match program == "sh" {
            true => " (a COMMAND of one word with white space or shell characters is run by sh)",
            false => "",
        };
        format!(
            "refused: the worker on {host} runs only what its --allow names ({}), and that is not {}{shell}; \
             the task is not tried again",
            self.list(),
            program.display()
        )
    }
}

/// Whether a path is absolute and has nothing in it that leads elsewhere than it seems.
fn is_plain(path: &Path) -> bool {
    let written = path.as_os_str().as_bytes();
    let has_dots = written
        .split(|byte| *byte == b'/')
        .any(|part| part == b"." || part == b"..");
    path.is_absolute()
        && !has_dots
        && path
            .components()
            .all(|part| !matches!(part, Component::ParentDir))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(patterns: &[&str]) -> Allowed {
        Allowed::new(
            patterns
                .iter()
                .map(|text| pattern(text).expect(text))
                .collect(),
        )
    }

    #[test]
    fn names_allow_names_and_paths_allow_paths() {
        let some = allowed(&["gzip", "z*cat", "/opt/jobs/*"]);
        for yes in ["gzip", "zcat", "zstdcat", "/opt/jobs/a", "/opt/jobs/a.sh"] {
            assert!(some.permits(OsStr::new(yes)), "{yes}");
        }
        for no in [
            "",
            "sh",
            "gzip2",
            "./gzip",
            "/tmp/gzip",
            "bin/gzip",
            "/opt/jobs/../../bin/sh",
            "/opt/jobs/sub/a",
            "/opt/jobs/./a",
            "/opt/jobs",
            "opt/jobs/a",
            "/opt/jobs/..",
        ] {
            assert!(!some.permits(OsStr::new(no)), "{no}");
        }
        assert!(!some.permits(OsStr::from_bytes(b"/opt/jobs/\xff")));
        assert!(!some.permits(OsStr::from_bytes(b"gzip\xff")));
    }

    #[test]
    fn without_patterns_everything_is_allowed() {
        assert!(Allowed::default().permits(OsStr::new("../sh")));
    }

    #[test]
    fn a_pattern_is_a_name_or_an_absolute_path() {
        for nonsense in ["", "./gzip", "a/b", "[", "/opt/***/x"] {
            assert!(pattern(nonsense).is_err(), "{nonsense:?}");
        }
    }
}
