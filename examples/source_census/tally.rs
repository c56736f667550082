//! What is counted in one file, and in all.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io::Write;
use std::path::Path;
use std::str::FromStr;

use flate2::Compression;
use flate2::write::GzEncoder;

/// Of a file's name: what it is written in.
pub fn language(file: &Path) -> Option<&'static str> {
    Some(match file.extension()?.to_str()? {
        "rs" => "Rust",
        "c" | "h" => "C",
        "cc" | "cpp" | "hpp" => "C++",
        "S" | "asm" => "Assembler",
        "sh" | "ac" | "am" | "m4" | "in" | "cmake" => "Build scripts",
        "py" => "Python",
        "toml" => "TOML",
        "md" => "Markdown",
        _ => return None,
    })
}

/// The count of one file. As text it is one line, which [`FromStr`] reads again.
#[derive(Debug, Default, PartialEq)]
pub struct Tally {
    language: String,
    lines: u64,
    bytes: u64,
    compressed: u64,
    identifiers: BTreeMap<String, u64>,
}

impl Tally {
    pub fn of(file: &Path) -> std::io::Result<Self> {
        let text = std::fs::read(file)?;
        let mut identifiers: BTreeMap<String, u64> = BTreeMap::new();
        let in_word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
        for word in text.split(|byte| !in_word(byte)) {
            if word.len() > 1 && !word[0].is_ascii_digit() {
                let word = String::from_utf8_lossy(word).into_owned();
                *identifiers.entry(word).or_default() += 1;
            }
        }
        let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
        gzip.write_all(&text)?;
        Ok(Self {
            language: language(file).unwrap_or("other").to_owned(),
            lines: text.iter().filter(|&&byte| byte == b'\n').count() as u64,
            bytes: text.len() as u64,
            compressed: gzip.finish()?.len() as u64,
            identifiers,
        })
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, line: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            language,
            lines,
            bytes,
            compressed,
            identifiers,
        } = self;
        write!(line, "{language}\t{lines}\t{bytes}\t{compressed}\t")?;
        for (word, times) in identifiers {
            write!(line, "{word} {times} ")?;
        }
        Ok(())
    }
}

impl FromStr for Tally {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let malformed = || format!("not a line of a census: {line:.60}");
        let mut fields = line.split('\t');
        let mut field = || fields.next().ok_or_else(malformed);
        let number = |text: &str| text.parse::<u64>().map_err(|_| malformed());
        let language = field()?.to_owned();
        let (lines, bytes, compressed) = (number(field()?)?, number(field()?)?, number(field()?)?);
        let words: Vec<&str> = field()?.split_ascii_whitespace().collect();
        let identifiers = words
            .chunks_exact(2)
            .map(|pair| Ok((pair[0].to_owned(), number(pair[1])?)))
            .collect::<Result<_, String>>()?;
        Ok(Self {
            language,
            lines,
            bytes,
            compressed,
            identifiers,
        })
    }
}

/// The counts of many files. As text it is a table.
#[derive(Debug, Default, PartialEq)]
pub struct Census {
    languages: BTreeMap<String, Language>,
}

#[derive(Debug, Default, PartialEq)]
struct Language {
    files: u64,
    lines: u64,
    bytes: u64,
    compressed: u64,
    identifiers: HashMap<String, u64>,
}

impl Census {
    pub fn add(&mut self, tally: Tally) {
        let language = self.languages.entry(tally.language).or_default();
        language.files += 1;
        language.lines += tally.lines;
        language.bytes += tally.bytes;
        language.compressed += tally.compressed;
        for (word, times) in tally.identifiers {
            *language.identifiers.entry(word).or_default() += times;
        }
    }

    pub fn bytes(&self) -> u64 {
        self.languages.values().map(|language| language.bytes).sum()
    }
}

impl fmt::Display for Census {
    fn fmt(&self, table: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            table,
            "{:<14} {:>6} {:>10} {:>8} {:>7} {:>12}  most common",
            "language", "files", "lines", "MB", "gzip", "identifiers"
        )?;
        let mut languages: Vec<_> = self.languages.iter().collect();
        languages.sort_by_key(|(name, language)| (std::cmp::Reverse(language.bytes), *name));
        for (name, language) in languages {
            let mut words: Vec<_> = language.identifiers.iter().collect();
            words.sort_by_key(|&(word, times)| (std::cmp::Reverse(times), word));
            let most: Vec<_> = words
                .iter()
                .take(4)
                .map(|(word, _)| word.as_str())
                .collect();
            writeln!(
                table,
                "{name:<14} {:>6} {:>10} {:>8.2} {:>6.1}x {:>12}  {}",
                language.files,
                language.lines,
                language.bytes as f64 / 1e6,
                language.bytes as f64 / language.compressed.max(1) as f64,
                language.identifiers.len(),
                most.join(", ")
            )?;
        }
        Ok(())
    }
}
