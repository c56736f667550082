//! Quoting for `sh`, in GNU parallel's manner, so that the joblog's Command column is the same byte for byte.

/// Appends `word` to `out` so that `sh` reads it as one word of the same bytes.
///
/// Any byte but NUL survives. What needs no quotes gets none; the empty word becomes `''`.
///
/// ```
/// use procession::command::quote;
/// let mut line = b"cat ".to_vec();
/// quote(b"it's here", &mut line);
/// assert_eq!(line, br#"cat 'it'"'"'s here'"#);
/// ```
pub fn quote(word: &[u8], out: &mut Vec<u8>) {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"-_.+/".contains(b);
    if word.is_empty() {
        out.extend_from_slice(b"''");
        return;
    }
    if word.iter().all(plain) {
        out.extend_from_slice(word);
        return;
    }
    // Runs between single quotes are put in them; a single quote stands in double quotes. Two single quotes that enclose
    // nothing are kept between two quotes and left out at the ends: so GNU parallel does.
    let mut runs = word.split(|&b| b == b'\'').peekable();
    let mut first = true;
    while let Some(run) = runs.next() {
        let last = runs.peek().is_none();
        if !(run.is_empty() && (first || last)) {
            out.push(b'\'');
            out.extend_from_slice(run);
            out.push(b'\'');
        }
        if !last {
            out.extend_from_slice(b"\"'\"");
        }
        first = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quoted(word: &[u8]) -> String {
        let mut out = Vec::new();
        quote(word, &mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn words_are_quoted_as_gnu_parallel_quotes_them() {
        // As seen in `parallel --dry-run 'echo {}' ::: VALUE`, version 20221122.
        for (word, expected) in [
            ("", "''"),
            ("-n", "-n"),
            ("a.b_c+d/E9", "a.b_c+d/E9"),
            ("'", "\"'\""),
            ("''", "\"'\"''\"'\""),
            ("a,b", "'a,b'"),
            ("a:b", "'a:b'"),
            ("x=y", "'x=y'"),
            ("@", "'@'"),
            ("~", "'~'"),
            ("%", "'%'"),
            ("it's", r#"'it'"'"'s'"#),
            ("'a", r#""'"'a'"#),
            ("a'", r#"'a'"'""#),
        ] {
            assert_eq!(quoted(word.as_bytes()), expected, "{word:?}");
        }
    }

    #[test]
    fn a_shell_gives_back_every_byte() {
        use proptest::test_runner::{Config, TestRunner};
        use std::os::unix::ffi::OsStringExt;
        let config = Config {
            failure_persistence: None,
            ..Config::with_cases(400)
        };
        let words = proptest::collection::vec(1..=255_u8, 0..200);
        let outcome = TestRunner::new(config).run(&words, |word| {
            let mut script = b"printf %s ".to_vec();
            quote(&word, &mut script);
            let output = std::process::Command::new("sh")
                .arg("-c")
                .arg(std::ffi::OsString::from_vec(script))
                .output()?;
            proptest::prop_assert_eq!(output.stdout, word);
            Ok(())
        });
        assert!(outcome.is_ok(), "{outcome:?}");
    }
}
