//! COMMAND with its placeholders: what was typed, and the program and arguments that it becomes for each value.
//!
//! | placeholder | stands for | `logs/a b.tar.gz` |
//! |---|---|---|
//! | `{}` | the value | `logs/a b.tar.gz` |
//! | `{.}` | without its extension | `logs/a b.tar` |
//! | `{/}` | without its directory | `a b.tar.gz` |
//! | `{//}` | its directory, `.` if none | `logs` |
//! | `{/.}` | neither directory nor extension | `a b.tar` |
//! | `{#}` | the task's number, from 1 | |
//! | `{%}` | the slot's number, from 1 | |
//!
//! They mean what they mean to GNU parallel; other braces stay as they are. Where no placeholder is, the value is appended.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use serde::{Deserialize, Serialize};

use super::quote;

/// How long one argument may be, in bytes: Linux's `MAX_ARG_STRLEN` less the NUL at the end.
pub const LONGEST_ARGUMENT: usize = 131_071;

/// What was typed as COMMAND.
///
/// ```
/// use procession::command::Template;
/// assert_eq!(Template::parse(&[]), Template::Input);
/// assert_eq!(Template::parse(&["wc -l <{}".into()]), Template::Shell(b"wc -l <{}".to_vec()));
/// assert_eq!(Template::parse(&["wc".into()]), Template::Words(vec![b"wc".to_vec()]));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Template {
    /// No COMMAND: each value is a command line for `sh -c`. The one word `{}` is the same, as in GNU parallel.
    Input,
    /// A script for `sh -c`; what a placeholder stands for is quoted, so placeholders stand outside quotes.
    Shell(#[serde(with = "serde_bytes")] Vec<u8>),
    /// A program and its arguments, run without a shell; what a placeholder stands for is put in as it is.
    Words(#[serde(with = "byte_strings")] Vec<Vec<u8>>),
}

/// A program with its arguments, ready to be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invocation {
    /// The program: a path, or a name to be looked up in `PATH`.
    pub program: OsString,
    /// Its arguments, without the program's name.
    pub args: Vec<OsString>,
    /// The command as a user would type it, for the joblog: a shell's script as it is, or the words, quoted where needed.
    pub display: Vec<u8>,
}

/// Why a value cannot become a command.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FillError {
    /// Arguments end in NUL, so they can't have one.
    #[error(
        "the value has a NUL byte, which no argument can hold; split the input at NUL with -0, or feed it to the command's standard input with --pipe"
    )]
    Nul,
    /// One argument is longer than [`LONGEST_ARGUMENT`].
    #[error(
        "an argument of {len} bytes is longer than the {LONGEST_ARGUMENT} that the system allows; feed the input to the command's standard input with --pipe"
    )]
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// With `--pipe` and `--filter` there is no value that a placeholder could stand for.
    #[error(
        "{placeholder} has no value with --pipe or --filter, where the input goes to the command's standard input; only {{#}} and {{%}} can be used"
    )]
    NoValue {
        /// The placeholder as written.
        placeholder: &'static str,
    },
    /// With `--pipe` and `--filter` the input cannot be the command as well.
    #[error(
        "there is no COMMAND to be run; --pipe and --filter need one that reads the input from its standard input"
    )]
    NoCommand,
}

impl Template {
    /// The template that the words of COMMAND mean.
    ///
    /// One word is a script for a shell if it has white space or any of ``|&;<>()$`\"'*?[#~=!`` in it.
    pub fn parse(words: &[OsString]) -> Self {
        match words {
            [] => Self::Input,
            [word] if word.as_bytes() == b"{}" => Self::Input,
            [word] if is_script(word.as_bytes()) => Self::Shell(word.as_bytes().to_vec()),
            _ => Self::Words(words.iter().map(|w| w.as_bytes().to_vec()).collect()),
        }
    }

    /// What the user should know about the quoting of this template, if anything: one sentence, to be said once.
    ///
    /// There are two cases: a placeholder inside the script of `sh -c` given as several words, whose value the shell would
    /// read as part of the script; and a placeholder inside quotes in a script of ours, where the value's own quotes end them.
    pub fn warning(&self) -> Option<String> {
        match self {
            Self::Input => None,
            Self::Words(words) => words.windows(3).find_map(|three| {
                let [shell, flag, script] = three else {
                    return None;
                };
                let placeholder = first_value_placeholder(script)?;
                (is_shell(shell) && is_script_flag(flag)).then(|| {
                    let shell = String::from_utf8_lossy(shell);
                    let flag = String::from_utf8_lossy(flag);
                    format!(
                        "{placeholder} inside the script of {shell} {flag} is not quoted: a value with shell characters is run \
                         as part of the script; pass it as an argument instead: {shell} {flag} '… \"$0\" …' {placeholder}"
                    )
                })
            }),
            Self::Shell(script) => placeholder_in_quotes(script).map(|placeholder| {
                format!(
                    "{placeholder} stands inside quotes, but its value is quoted already, and the two end one another: \
                     write {placeholder} without quotes around it"
                )
            }),
        }
    }

    /// The same, taken apart once, for many values.
    #[must_use]
    pub fn filler(&self) -> Filler {
        Filler {
            form: match self {
                Self::Input => Form::Input,
                Self::Shell(script) => Form::Shell {
                    parts: parts(script),
                    append: !has_placeholder(&parts(script)),
                },
                Self::Words(words) => {
                    let words: Vec<_> = words.iter().map(|word| parts(word)).collect();
                    let append = !words.iter().any(|word| has_placeholder(word));
                    Form::Words { words, append }
                }
            },
        }
    }

    /// The command for one value; `None` with `--pipe` and `--filter`. `seq` is `{#}`, `slot` is `{%}`.
    ///
    /// Where many values follow, [`Template::filler`] saves taking the template apart each time.
    ///
    /// # Errors
    /// When the value cannot be an argument, or a placeholder has no value.
    pub fn fill(&self, value: Option<&[u8]>, seq: u64, slot: u32) -> Result<Invocation, FillError> {
        self.filler().fill(value, seq, slot)
    }
}

/// A [`Template`] taken apart, which makes commands of values quickly.
///
/// ```
/// use procession::command::Template;
/// let filler = Template::parse(&["cp".into(), "{}".into(), "{/}.{#}".into()]).filler();
/// let run = filler.fill(Some(b"a/b"), 7, 1)?;
/// assert_eq!(run.args, ["a/b", "b.7"]);
/// assert_eq!(run.display, b"cp a/b b.7");
/// # Ok::<(), procession::command::FillError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Filler {
    form: Form,
}

#[derive(Clone, Debug)]
enum Form {
    Input,
    Shell { parts: Vec<Part>, append: bool },
    Words { words: Vec<Vec<Part>>, append: bool },
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(Vec<u8>),
    Place(Placeholder),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Placeholder {
    Value,
    Stem,
    Name,
    Directory,
    NameStem,
    Seq,
    Slot,
}

/// Longer ones first where one begins like another.
const PLACEHOLDERS: [(&str, Placeholder); 7] = [
    ("{}", Placeholder::Value),
    ("{.}", Placeholder::Stem),
    ("{/}", Placeholder::Name),
    ("{//}", Placeholder::Directory),
    ("{/.}", Placeholder::NameStem),
    ("{#}", Placeholder::Seq),
    ("{%}", Placeholder::Slot),
];

impl Filler {
    /// As [`Template::fill`].
    ///
    /// # Errors
    /// When the value cannot be an argument, or a placeholder has no value.
    pub fn fill(&self, value: Option<&[u8]>, seq: u64, slot: u32) -> Result<Invocation, FillError> {
        if value.is_some_and(|value| memchr::memchr(0, value).is_some()) {
            return Err(FillError::Nul);
        }
        let task = Task { value, seq, slot };
        match &self.form {
            Form::Input => shell(value.ok_or(FillError::NoCommand)?.to_vec()),
            Form::Shell { parts, append } => shell(script(parts, *append, &task)?),
            Form::Words { words, append } => {
                let mut args = Vec::with_capacity(words.len() + usize::from(*append));
                let mut display = Vec::new();
                let mut add = |word: Vec<u8>| {
                    if word.len() > LONGEST_ARGUMENT {
                        return Err(FillError::TooLong { len: word.len() });
                    }
                    if !args.is_empty() {
                        display.push(b' ');
                    }
                    quote(&word, &mut display);
                    args.push(OsString::from_vec(word));
                    Ok(())
                };
                for word in words {
                    let mut filled = Vec::new();
                    for part in word {
                        part.put(&task, &mut filled)?;
                    }
                    add(filled)?;
                }
                if let (true, Some(value)) = (append, value) {
                    add(value.to_vec())?;
                }
                if args.is_empty() {
                    return Err(FillError::NoCommand);
                }
                let program = args.remove(0);
                Ok(Invocation {
                    program,
                    args,
                    display,
                })
            }
        }
    }

    /// The command as a user would type it, also where [`Filler::fill`] refuses the value: for the log of a task that failed
    /// because of it. A placeholder without a value stays as it is.
    #[must_use]
    pub fn display(&self, value: Option<&[u8]>, seq: u64, slot: u32) -> Vec<u8> {
        let task = Task { value, seq, slot };
        let or_as_written =
            |part: &Part,
             out: &mut Vec<u8>,
             put: &dyn Fn(&mut Vec<u8>) -> Result<(), FillError>| {
                if let (Err(_), Part::Place(placeholder)) = (put(out), part) {
                    out.extend_from_slice(placeholder.as_written().as_bytes());
                }
            };
        let mut out = Vec::new();
        match &self.form {
            Form::Input => out.extend_from_slice(value.unwrap_or_default()),
            Form::Shell { parts, append } => {
                for part in parts {
                    or_as_written(part, &mut out, &|out| part.put_quoted(&task, out));
                }
                if let (true, Some(value)) = (append, value) {
                    out.push(b' ');
                    quote(value, &mut out);
                }
            }
            Form::Words { words, append } => {
                for (n, word) in words.iter().enumerate() {
                    let mut filled = Vec::new();
                    for part in word {
                        or_as_written(part, &mut filled, &|out| part.put(&task, out));
                    }
                    if n > 0 {
                        out.push(b' ');
                    }
                    quote(&filled, &mut out);
                }
                if let (true, Some(value)) = (append, value) {
                    out.push(b' ');
                    quote(value, &mut out);
                }
            }
        }
        out
    }
}

struct Task<'a> {
    value: Option<&'a [u8]>,
    seq: u64,
    slot: u32,
}

impl Part {
    /// Appends the part, the value as it is.
    fn put(&self, task: &Task<'_>, out: &mut Vec<u8>) -> Result<(), FillError> {
        match self {
            Self::Text(text) => out.extend_from_slice(text),
            Self::Place(Placeholder::Seq) => out.extend_from_slice(task.seq.to_string().as_bytes()),
            Self::Place(Placeholder::Slot) => {
                out.extend_from_slice(task.slot.to_string().as_bytes())
            }
            Self::Place(placeholder) => out.extend_from_slice(placeholder.of(task.value)?),
        }
        Ok(())
    }

    /// Appends the part, the value quoted for the shell.
    fn put_quoted(&self, task: &Task<'_>, out: &mut Vec<u8>) -> Result<(), FillError> {
        match self {
            Self::Text(_) | Self::Place(Placeholder::Seq | Placeholder::Slot) => {
                return self.put(task, out);
            }
            Self::Place(placeholder) => quote(placeholder.of(task.value)?, out),
        }
        Ok(())
    }
}

impl Placeholder {
    fn as_written(self) -> &'static str {
        // Every placeholder is in the table.
        PLACEHOLDERS
            .iter()
            .find(|(_, placeholder)| *placeholder == self)
            .map_or("{}", |(text, _)| text)
    }

    fn takes_value(self) -> bool {
        !matches!(self, Self::Seq | Self::Slot)
    }

    fn of(self, value: Option<&[u8]>) -> Result<&[u8], FillError> {
        let value = value.ok_or(FillError::NoValue {
            placeholder: self.as_written(),
        })?;
        Ok(match self {
            Self::Stem => stem(value),
            Self::Name => name(value),
            Self::Directory => directory(value),
            Self::NameStem => stem(name(value)),
            Self::Value | Self::Seq | Self::Slot => value,
        })
    }
}

/// Up to the last dot of the last component, a leading dot included.
fn stem(value: &[u8]) -> &[u8] {
    match memchr::memrchr2(b'.', b'/', value) {
        Some(at) if value[at] == b'.' => &value[..at],
        _ => value,
    }
}

/// What follows the last slash.
fn name(value: &[u8]) -> &[u8] {
    memchr::memrchr(b'/', value).map_or(value, |at| &value[at + 1..])
}

/// As dirname(1) has it: without the last component and the slashes around it.
fn directory(value: &[u8]) -> &[u8] {
    let trimmed = without_end_slashes(value);
    let above = without_end_slashes(&trimmed[..trimmed.len() - name(trimmed).len()]);
    match (above, value.first()) {
        ([], Some(b'/')) => b"/",
        ([], _) => b".",
        _ => above,
    }
}

fn without_end_slashes(value: &[u8]) -> &[u8] {
    let end = value
        .iter()
        .rposition(|&b| b != b'/')
        .map_or(0, |at| at + 1);
    &value[..end]
}

fn parts(text: &[u8]) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut rest = text;
    let mut plain = 0;
    while let Some(brace) = memchr::memchr(b'{', &rest[plain..]) {
        let at = plain + brace;
        let found = PLACEHOLDERS
            .iter()
            .find(|(text, _)| rest[at..].starts_with(text.as_bytes()));
        let Some((text, placeholder)) = found else {
            plain = at + 1;
            continue;
        };
        if at > 0 {
            parts.push(Part::Text(rest[..at].to_vec()));
        }
        parts.push(Part::Place(*placeholder));
        rest = &rest[at + text.len()..];
        plain = 0;
    }
    if !rest.is_empty() {
        parts.push(Part::Text(rest.to_vec()));
    }
    parts
}

fn has_placeholder(parts: &[Part]) -> bool {
    parts.iter().any(|part| matches!(part, Part::Place(_)))
}

fn script(parts: &[Part], append: bool, task: &Task<'_>) -> Result<Vec<u8>, FillError> {
    let mut script = Vec::with_capacity(64);
    for part in parts {
        part.put_quoted(task, &mut script)?;
    }
    if let (true, Some(value)) = (append, task.value) {
        script.push(b' ');
        quote(value, &mut script);
    }
    Ok(script)
}

fn shell(script: Vec<u8>) -> Result<Invocation, FillError> {
    if script.len() > LONGEST_ARGUMENT {
        return Err(FillError::TooLong { len: script.len() });
    }
    let mut args = vec![OsString::from("-c")];
    // A script that begins like an option would be taken for one.
    if matches!(script.first(), Some(b'-' | b'+')) {
        args.push("--".into());
    }
    args.push(OsString::from_vec(script.clone()));
    Ok(Invocation {
        program: "sh".into(),
        args,
        display: script,
    })
}

/// Whether a single word is meant for a shell. What is in a placeholder does not count.
fn is_script(word: &[u8]) -> bool {
    parts(word).iter().any(|part| match part {
        Part::Text(text) => text
            .iter()
            .any(|b| b.is_ascii_whitespace() || b"|&;<>()$`\\\"'*?[#~=!".contains(b)),
        Part::Place(_) => false,
    })
}

fn is_shell(word: &[u8]) -> bool {
    const SHELLS: [&[u8]; 9] = [
        b"sh", b"bash", b"dash", b"ash", b"ksh", b"mksh", b"zsh", b"yash", b"fish",
    ];
    SHELLS.contains(&name(word))
}

/// `-c`, also with other letters before it: `-ec`, `-lc`.
fn is_script_flag(word: &[u8]) -> bool {
    word.len() > 1
        && word[0] == b'-'
        && word[1..].iter().all(u8::is_ascii_alphabetic)
        && word.ends_with(b"c")
}

fn first_value_placeholder(text: &[u8]) -> Option<&'static str> {
    parts(text).iter().find_map(|part| match part {
        Part::Place(placeholder) if placeholder.takes_value() => Some(placeholder.as_written()),
        _ => None,
    })
}

/// A placeholder that takes a value and stands between quotes. Good enough for a warning, and only for that: here-documents
/// and backquotes are not followed.
fn placeholder_in_quotes(script: &[u8]) -> Option<&'static str> {
    // The contexts that are open: ' and " are quotes, ( is a $( or a subshell, in which quotes begin anew.
    let mut open: Vec<u8> = Vec::new();
    let mut escaped = false;
    for part in parts(script) {
        let text = match part {
            Part::Place(placeholder)
                if placeholder.takes_value() && matches!(open.last(), Some(b'\'' | b'"')) =>
            {
                return Some(placeholder.as_written());
            }
            Part::Place(_) => continue,
            Part::Text(text) => text,
        };
        let mut before = 0;
        for b in text {
            match (open.last(), b) {
                _ if escaped => escaped = false,
                (Some(b'\''), b'\'') => drop(open.pop()),
                (Some(b'\''), _) => {}
                (_, b'\\') => escaped = true,
                (Some(b'"'), b'"') | (Some(b'('), b')') => drop(open.pop()),
                (Some(b'"'), b'(') if before == b'$' => open.push(b'('),
                (Some(b'"'), _) => {}
                (_, b'\'' | b'"' | b'(') => open.push(b),
                _ => {}
            }
            before = b;
        }
    }
    None
}

/// A list of byte strings, each as one MessagePack bin.
mod byte_strings {
    use serde::{Deserialize, Deserializer, Serializer};
    use serde_bytes::{ByteBuf, Bytes};

    pub fn serialize<S: Serializer>(words: &[Vec<u8>], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(words.iter().map(|word| Bytes::new(word)))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<Vec<u8>>, D::Error> {
        let words = Vec::<ByteBuf>::deserialize(deserializer)?;
        if words.is_empty() {
            return Err(serde::de::Error::custom("a command of no words"));
        }
        Ok(words.into_iter().map(ByteBuf::into_vec).collect())
    }
}

#[cfg(test)]
#[path = "template_tests.rs"]
mod tests;
