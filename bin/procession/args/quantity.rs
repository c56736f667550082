//! Numbers with units: jobs, sizes, durations, port ranges. Spelled as GNU parallel spells them.

use std::ops::RangeInclusive;
use std::time::Duration;

/// How many commands a worker runs at a time, as typed: see [`Jobs::resolve`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Jobs {
    /// `N`
    Count(u32),
    /// `+N`: the cores and N more
    Plus(u32),
    /// `-N`: all cores but N
    Minus(u32),
    /// `N%` of the cores
    Percent(f64),
    /// `0`: as many as possible
    Unlimited,
}

impl Jobs {
    /// The number of slots on so many cores, at least one; `None` is as many as possible.
    pub fn resolve(self, cores: u32) -> Option<u32> {
        let slots = match self {
            Self::Count(count) => count,
            Self::Plus(more) => cores.saturating_add(more),
            Self::Minus(fewer) => cores.saturating_sub(fewer),
            // The cast saturates, as it should.
            Self::Percent(percent) => (f64::from(cores) * percent / 100.0) as u32,
            Self::Unlimited => return None,
        };
        Some(slots.max(1))
    }
}

/// `N`, `+N`, `-N`, `N%` or `0`.
pub(super) fn jobs(text: &str) -> Result<Jobs, String> {
    let garbage = || {
        "expected a number (4), +N, -N, a percentage of the cores (50%), or 0 for as many as possible".to_owned()
    };
    let number = |digits: &str| digits_only(digits).and_then(|digits| digits.parse::<u32>().ok());
    if let Some(percent) = text.strip_suffix('%') {
        return decimal(percent).map(Jobs::Percent).ok_or_else(garbage);
    }
    let jobs = if let Some(more) = text.strip_prefix('+') {
        number(more).map(Jobs::Plus)
    } else if let Some(fewer) = text.strip_prefix('-') {
        number(fewer).map(Jobs::Minus)
    } else {
        number(text).map(|count| {
            if count == 0 {
                Jobs::Unlimited
            } else {
                Jobs::Count(count)
            }
        })
    };
    jobs.ok_or_else(garbage)
}

/// Tries in all; `0` is no limit.
pub(super) fn tries(text: &str) -> Result<u32, String> {
    match digits_only(text).and_then(|digits| digits.parse().ok()) {
        Some(0) => Ok(u32::MAX),
        Some(tries) => Ok(tries),
        None => Err("expected a whole number of tries, or 0 for no limit".into()),
    }
}

/// Bytes: K, M, G, T are powers of 1024; k, m, g, t of 1000.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let garbage =
        || "expected a size such as 65536, 64K, 10M or 1G (k, m, g are powers of 1000)".to_owned();
    let unit = |unit| match unit {
        'K' => Some(1_u64 << 10),
        'M' => Some(1 << 20),
        'G' => Some(1 << 30),
        'T' => Some(1 << 40),
        'k' => Some(1_000),
        'm' => Some(1_000_000),
        'g' => Some(1_000_000_000),
        't' => Some(1_000_000_000_000),
        _ => None,
    };
    let (number, factor) = match text.char_indices().next_back() {
        Some((at, last)) if !last.is_ascii_digit() => {
            (&text[..at], unit(last).ok_or_else(garbage)?)
        }
        _ => (text, 1),
    };
    let bytes = match digits_only(number).map(str::parse::<u64>) {
        Some(Ok(count)) => count.checked_mul(factor).ok_or("this size is too large")?,
        Some(Err(_)) => return Err("this size is too large".into()),
        // 1.5M: the cast is exact enough, and large ones are refused.
        None => {
            let bytes = decimal(number).ok_or_else(garbage)? * factor as f64;
            if bytes >= u64::MAX as f64 {
                return Err("this size is too large".into());
            }
            bytes as u64
        }
    };
    if bytes == 0 {
        return Err("a block cannot be empty".into());
    }
    Ok(bytes)
}

/// Seconds, fractions allowed, or with the units s, m, h, d, also several: `1h30m`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    /// Over thirty years: no one waits so long, and clocks can still add it.
    const LONGEST: f64 = 1e9;
    let garbage =
        || "expected seconds (10 or 0.5), or a time such as 30s, 5m, 1h or 1h30m".to_owned();
    let mut seconds = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let (number, tail) = rest.split_at(end);
        let number = decimal(number).ok_or_else(garbage)?;
        let mut tail = tail.chars();
        seconds += number
            * match tail.next() {
                None | Some('s') => 1.0,
                Some('m') => 60.0,
                Some('h') => 3_600.0,
                Some('d') => 86_400.0,
                Some(_) => return Err(garbage()),
            };
        rest = tail.as_str();
    }
    if text.is_empty() {
        return Err(garbage());
    }
    let duration = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
    if duration.is_zero() {
        return Err("it must be more than 0".into());
    }
    if seconds > LONGEST {
        return Err("this is over thirty years".into());
    }
    Ok(duration)
}

/// `A-B`, both ends included.
pub(super) fn ports(text: &str) -> Result<RangeInclusive<u16>, String> {
    let port = |digits: &str| {
        digits_only(digits)
            .and_then(|digits| digits.parse::<u16>().ok())
            .filter(|port| *port != 0)
    };
    let (low, high) = text
        .split_once('-')
        .and_then(|(low, high)| Some((port(low)?, port(high)?)))
        .ok_or("expected a range of ports between 1 and 65535, such as 40000-40099")?;
    if low > high {
        return Err(format!("the range is empty; did you mean {high}-{low}?"));
    }
    Ok(low..=high)
}

/// `str::parse` would also take a sign.
fn digits_only(text: &str) -> Option<&str> {
    (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())).then_some(text)
}

/// Digits with at most one point; `str::parse` would also take `inf`, `nan` and `1e5`.
fn decimal(text: &str) -> Option<f64> {
    text.bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.')
        .then(|| text.parse().ok())
        .flatten()
}

/// One of the limits of `--limit`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Limit {
    /// How many may be there at a time.
    Peers(u64),
    /// How many may come in a second.
    Joins(u64),
    /// The longest message of control, in bytes.
    Message(u64),
    /// What may wait of one peer's messages, in bytes.
    Memory(u64),
}

/// `peers=3`.
pub fn limit(text: &str) -> Result<Limit, String> {
    let known = "a limit is peers=N, joins=N, message=SIZE or memory=SIZE";
    let (name, value) = text.split_once('=').ok_or(known)?;
    let number = || match value.parse() {
        Ok(0) => Err("a limit is at least 1".to_owned()),
        Ok(number) => Ok(number),
        Err(_) => Err(format!("{value:?} is not a number")),
    };
    match name {
        "peers" => number().map(Limit::Peers),
        "joins" => number().map(Limit::Joins),
        "memory" => size(value).map(Limit::Memory),
        "message" => match size(value)? {
            bytes @ 0x1000..=0x10_0000 => Ok(Limit::Message(bytes)),
            _ => Err("a message may have from 4K to 1M".to_owned()),
        },
        _ => Err(known.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_are_read_and_resolved_on_eight_cores() {
        let rows = [
            ("3", Jobs::Count(3), Some(3)),
            ("+2", Jobs::Plus(2), Some(10)),
            ("-2", Jobs::Minus(2), Some(6)),
            ("-20", Jobs::Minus(20), Some(1)),
            ("50%", Jobs::Percent(50.0), Some(4)),
            ("150%", Jobs::Percent(150.0), Some(12)),
            ("1%", Jobs::Percent(1.0), Some(1)),
            ("0", Jobs::Unlimited, None),
        ];
        for (text, expected, slots) in rows {
            assert_eq!(jobs(text), Ok(expected), "{text}");
            assert_eq!(expected.resolve(8), slots, "{text}");
        }
    }

    #[test]
    fn garbage_is_no_number_of_jobs() {
        for text in [
            "",
            "x",
            "2x",
            "+",
            "-",
            "%",
            "++2",
            "-+2",
            "1e3%",
            "nan%",
            "1.5",
            "99999999999",
            "--k",
        ] {
            assert!(jobs(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_have_units_of_1024_and_of_1000() {
        let rows = [
            ("1", 1),
            ("65536", 65_536),
            ("64K", 65_536),
            ("1M", 1 << 20),
            ("2G", 2 << 30),
            ("1T", 1 << 40),
            ("1k", 1_000),
            ("1m", 1_000_000),
            ("3g", 3_000_000_000),
            ("1.5K", 1_536),
        ];
        for (text, expected) in rows {
            assert_eq!(size(text), Ok(expected), "{text}");
        }
        for text in [
            "",
            "0",
            "0K",
            "K",
            "1X",
            "1KK",
            "-1",
            "+1",
            "1é",
            "99999999999999999999",
            "99999999T",
            "0.1",
        ] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_are_seconds_or_have_units() {
        let rows = [
            ("1", 1_000),
            ("0.25", 250),
            (".5", 500),
            ("30s", 30_000),
            ("5m", 300_000),
            ("1h", 3_600_000),
            ("1d", 86_400_000),
            ("1h30m", 5_400_000),
            ("1m1.5s", 61_500),
        ];
        for (text, expected) in rows {
            assert_eq!(
                duration(text),
                Ok(Duration::from_millis(expected)),
                "{text}"
            );
        }
        for text in [
            "",
            "0",
            "0s",
            "-1",
            "x",
            "s",
            "1x",
            "200%",
            "inf",
            "nan",
            "1e3",
            "1..5",
            "99999999999",
            "1e-12",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn ports_are_a_range_that_is_not_empty() {
        assert_eq!(ports("40000-40099"), Ok(40_000..=40_099));
        assert_eq!(ports("7-7"), Ok(7..=7));
        for text in [
            "", "40000", "0-5", "5-", "-5", "5-4", "1-65536", "a-b", "1-2-3",
        ] {
            assert!(ports(text).is_err(), "{text}");
        }
    }

    #[test]
    fn no_limit_of_tries_is_the_largest_number() {
        assert_eq!(tries("3"), Ok(3));
        assert_eq!(tries("0"), Ok(u32::MAX));
        assert!(tries("-1").is_err());
        assert!(tries("x").is_err());
    }
}
