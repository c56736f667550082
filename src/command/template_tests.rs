//! What GNU parallel 20221122 made of the same values, and what the shell makes of ours.

use super::*;

fn template(words: &[&str]) -> Template {
    Template::parse(&words.iter().map(OsString::from).collect::<Vec<_>>())
}

fn display(words: &[&str], value: &[u8]) -> String {
    let run = template(words).fill(Some(value), 3, 2);
    String::from_utf8_lossy(&run.map(|run| run.display).unwrap_or_default()).into_owned()
}

#[test]
fn placeholders_mean_what_they_mean_to_gnu_parallel() {
    // value, {.}, {/}, {//}, {/.} as `parallel --dry-run 'echo [{}] [{.}] [{/}] [{//}] [{/.}]'` showed them.
    let rows: [(&str, &str, &str, &str, &str); 34] = [
        ("a", "a", "a", ".", "a"),
        ("a.txt", "a", "a.txt", ".", "a"),
        (".bashrc", "", ".bashrc", ".", ""),
        ("dir.d/file", "dir.d/file", "file", "dir.d", "file"),
        (
            "dir.d/f.tar.gz",
            "dir.d/f.tar",
            "f.tar.gz",
            "dir.d",
            "f.tar",
        ),
        ("dir/", "dir/", "", ".", ""),
        ("/", "/", "", "/", ""),
        ("", "", "", ".", ""),
        (".", "", ".", ".", ""),
        ("..", ".", "..", ".", "."),
        ("a b.c", "a b", "a b.c", ".", "a b"),
        ("/x", "/x", "x", "/", "x"),
        ("x/", "x/", "", ".", ""),
        ("x/.hid", "x/", ".hid", "x", ""),
        ("a.", "a", "a.", ".", "a"),
        ("sub/a.", "sub/a", "a.", "sub", "a"),
        ("it's.x", "it's", "it's.x", ".", "it's"),
        ("a..b", "a.", "a..b", ".", "a."),
        ("//x", "//x", "x", "/", "x"),
        ("/a/b/", "/a/b/", "", "/a", ""),
        ("a//b", "a//b", "b", "a", "b"),
        ("foo.d/", "foo.d/", "", ".", ""),
        ("./a", "./a", "a", ".", "a"),
        ("a/b/", "a/b/", "", "a", ""),
        ("a//", "a//", "", ".", ""),
        ("//a", "//a", "a", "/", "a"),
        ("///", "///", "", "/", ""),
        ("a/b//c", "a/b//c", "c", "a/b", "c"),
        ("a/./b", "a/./b", "b", "a/.", "b"),
        ("..//", "..//", "", ".", ""),
        ("a//b//", "a//b//", "", "a", ""),
        ("-n", "-n", "-n", ".", "-n"),
        ("x.y\n", "x", "x.y\n", ".", "x"),
        ("p\nq/r.s", "p\nq/r", "r.s", "p\nq", "r"),
    ];
    let words = [
        "echo", "[{}]", "[{.}]", "[{/}]", "[{//}]", "[{/.}]", "{#}", "{%}",
    ];
    for (value, stem, name, directory, name_stem) in rows {
        let run = template(&words).fill(Some(value.as_bytes()), 3, 2);
        let bracketed = [value, stem, name, directory, name_stem].map(|text| format!("[{text}]"));
        let expected: Vec<OsString> = bracketed
            .iter()
            .map(OsString::from)
            .chain(["3".into(), "2".into()])
            .collect();
        assert_eq!(run.map(|run| run.args), Ok(expected), "{value:?}");
    }
    let bytes = Placeholder::Stem.of(Some(b"\xff.\xfe"));
    assert_eq!(bytes, Ok(&b"\xff"[..]));
}

#[test]
fn commands_are_displayed_as_gnu_parallel_logs_them() {
    for (words, value, expected) in [
        (&["echo {}"][..], "a b", "echo 'a b'"),
        (&["echo o{}; echo e >&2"], "", "echo o''; echo e >&2"),
        (
            &["sh -c \"exit 2\"; echo {}"],
            "a b",
            "sh -c \"exit 2\"; echo 'a b'",
        ),
        (&["echo x"], "a", "echo x a"),
        (&["echo", "a", "b"], "1", "echo a b 1"),
        (&["echo {#} {%}"], "a", "echo 3 2"),
        (&["echo", "{#}"], "a", "echo 3"),
        (&["echo {foo} {1x} {"], "q", "echo {foo} {1x} { q"),
        (&["nonexist", "{}"], "1", "nonexist 1"),
        (&[], "kill -9 $$", "kill -9 $$"),
        (&["{}"], "echo hi", "echo hi"),
        (
            &["printf", "%s\\n", "a b", "{}"],
            "*",
            "printf '%s\\n' 'a b' '*'",
        ),
    ] {
        assert_eq!(display(words, value.as_bytes()), expected, "{words:?}");
    }
}

#[test]
fn one_word_is_a_script_only_with_shell_characters_in_it() {
    for script in [
        "a b", "a|b", "a&", "x;y", ">f", "$X", "`x`", "a\\b", "'a'", "\"a\"", "*", "a?", "[",
        "~/x", "A=1", "{}\n", "{} {}", "(x)",
    ] {
        assert!(
            matches!(template(&[script]), Template::Shell(_)),
            "{script:?}"
        );
    }
    for program in [
        "true", "./a.b", "{.}.txt", "{//}/run", "{foo}", "a%b", "{#}", "naïve",
    ] {
        assert!(
            matches!(template(&[program]), Template::Words(_)),
            "{program:?}"
        );
    }
    assert_eq!(template(&["{}"]), Template::Input);
    assert!(matches!(template(&["a b", "c"]), Template::Words(_)));
}

#[test]
fn a_script_that_begins_like_an_option_is_none() -> Result<(), Box<dyn std::error::Error>> {
    for script in ["-n 2>&1", "+x", "--help"] {
        let run = Template::Input.fill(Some(script.as_bytes()), 1, 1)?;
        let output = std::process::Command::new(run.program)
            .args(run.args)
            .output()?;
        assert_eq!(
            output.status.code(),
            Some(127),
            "{script} was looked up as a command"
        );
    }
    Ok(())
}

#[test]
fn values_that_no_argument_can_hold_are_refused_with_the_way_out() {
    let long = vec![b'x'; LONGEST_ARGUMENT + 1];
    for words in [&["echo"][..], &["echo {}"], &["echo", "{.}"], &[]] {
        let template = template(words);
        assert_eq!(template.fill(Some(b"a\0b"), 1, 1), Err(FillError::Nul));
        let error = template
            .fill(Some(&long), 1, 1)
            .map_err(|error| error.to_string());
        assert!(
            error.is_err_and(|text| text.contains("--pipe")),
            "{words:?}"
        );
    }
    assert!(template(&["echo"]).fill(Some(&long[1..]), 1, 1).is_ok());
    assert_eq!(
        template(&["a"]).filler().display(Some(b"x\0y"), 1, 1),
        b"a 'x\0y'"
    );
}

#[test]
fn without_a_value_only_the_numbers_can_be_used() {
    assert_eq!(Template::Input.fill(None, 1, 1), Err(FillError::NoCommand));
    for (words, placeholder, shown) in [
        (&["wc", "{}"][..], "{}", "wc '{}'"),
        (&["wc {/.}"], "{/.}", "wc {/.}"),
    ] {
        let template = template(words);
        assert_eq!(
            template.fill(None, 1, 1),
            Err(FillError::NoValue { placeholder })
        );
        assert_eq!(template.filler().display(None, 1, 1), shown.as_bytes());
    }
    let run = template(&["wc -l >{#}.{%}"]).fill(None, 3, 2);
    assert_eq!(run.map(|run| run.display), Ok(b"wc -l >3.2".to_vec()));
    let run = template(&["wc", "-l"]).fill(None, 3, 2);
    assert_eq!(run.map(|run| run.args), Ok(vec!["-l".into()]));
}

#[test]
fn placeholders_that_the_shell_would_misread_are_warned_of() {
    let warned = |words: &[&str]| template(words).warning().is_some();
    assert!(warned(&["sh", "-c", "echo {}"]));
    assert!(warned(&["/bin/bash", "-ec", "echo {.}", "x"]));
    assert!(warned(&["env", "A=1", "bash", "-c", "{}"]));
    assert!(!warned(&["sh", "-c", "echo \"$0\"", "{}"]));
    assert!(!warned(&["sh", "-c", "echo {#}"]));
    assert!(!warned(&["sh", "script", "{}"]));
    assert!(warned(&["echo \"{}\""]));
    assert!(warned(&["echo '{/}'"]));
    assert!(warned(&["echo \"a $(x) {}\""]));
    assert!(!warned(&["echo \"$(basename {})\" \\\" {}"]));
    assert!(!warned(&["echo 'it' {}"]));
    let text = template(&["sh", "-c", "echo {}"]).warning();
    assert!(text.is_some_and(|text| text.contains("sh -c '… \"$0\" …' {}")));
}

#[test]
fn every_byte_but_nul_survives_a_script() {
    use proptest::test_runner::{Config, TestRunner};
    let config = Config {
        failure_persistence: None,
        ..Config::with_cases(300)
    };
    let filler = template(&["printf '%s|' {} x{/}y {.}"]).filler();
    let values = proptest::collection::vec(1..=255_u8, 0..64);
    let outcome = TestRunner::new(config).run(&values, |value| {
        let run = filler.fill(Some(&value), 1, 1)?;
        let output = std::process::Command::new(run.program)
            .args(run.args)
            .output()?;
        let expected = [&value, &b"|x"[..], name(&value), b"y|", stem(&value), b"|"].concat();
        proptest::prop_assert_eq!(output.stdout, expected);
        Ok(())
    });
    assert!(outcome.is_ok(), "{outcome:?}");
}

#[test]
fn templates_travel_as_byte_strings() -> Result<(), Box<dyn std::error::Error>> {
    let templates = [
        Template::Input,
        Template::Shell(b"a \xff".to_vec()),
        Template::Words(vec![b"a".to_vec(), b"\xff{}".to_vec()]),
    ];
    for template in templates {
        let encoded = rmp_serde::to_vec(&template)?;
        assert_eq!(rmp_serde::from_slice::<Template>(&encoded)?, template);
    }
    let none = rmp_serde::to_vec(&std::collections::BTreeMap::from([(
        "Words",
        Vec::<u8>::new(),
    )]))?;
    assert!(
        rmp_serde::from_slice::<Template>(&none).is_err(),
        "no words are no command"
    );
    Ok(())
}
