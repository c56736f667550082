//! `--chaos kill=2%,stop=1%,cut=1%`: which faults, and which attempts meet one. Pure: the same seed is the same faults.

use std::fmt;
use std::str::FromStr;

/// A task that has met so many faults is left alone: the run shall end, however many faults are wanted.
const MOST_A_TASK: u32 = 8;

/// What can be done to a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is killed (SIGKILL).
    Kill,
    /// It is stopped (SIGSTOP) for longer than three heartbeats, and goes on.
    Stop,
    /// Its connections are dropped.
    Cut,
}

/// How often each fault happens, as a part of all attempts at tasks.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Faults {
    kill: f64,
    stop: f64,
    cut: f64,
    seed: Option<u64>,
}

impl Faults {
    /// The same with a seed; the one that was asked for stays.
    pub fn seeded(self, seed: u64) -> Self {
        Self {
            seed: self.seed.or(Some(seed)),
            ..self
        }
    }

    /// The seed, 0 before there is one.
    pub fn seed(&self) -> u64 {
        self.seed.unwrap_or(0)
    }

    /// The fault that this attempt meets, and how far into its time the fault is put (0 to 1).
    pub fn meet(&self, task: u64, attempt: u32) -> Option<(Fault, f64)> {
        if attempt > MOST_A_TASK {
            return None;
        }
        let number = mix(self.seed() ^ mix(task ^ mix(attempt.into())));
        let mut lot = unit(number);
        for (fault, rate) in [
            (Fault::Kill, self.kill),
            (Fault::Stop, self.stop),
            (Fault::Cut, self.cut),
        ] {
            if lot < rate {
                return Some((fault, unit(mix(number))));
            }
            lot -= rate;
        }
        None
    }
}

/// The finalizer of SplitMix64: each bit of the input changes half of those of the output.
fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// From 0 to 1, without 1.
fn unit(number: u64) -> f64 {
    (number >> 11) as f64 / (1_u64 << 53) as f64
}

impl FromStr for Faults {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut faults = Self::default();
        for part in text.split(',') {
            let (name, value) = part.split_once('=').ok_or_else(|| {
                format!("{part:?} is no fault; write kill=2%, stop=1%, cut=1% or seed=42, with commas between them")
            })?;
            let rate = match name {
                "kill" => &mut faults.kill,
                "stop" => &mut faults.stop,
                "cut" => &mut faults.cut,
                "seed" => {
                    let seed = value
                        .parse()
                        .map_err(|_| format!("the seed {value:?} is no whole number below 2^64"))?;
                    faults.seed = Some(seed);
                    continue;
                }
                _ => {
                    return Err(format!(
                        "there is no fault {name:?}; there are kill, stop and cut (and seed)"
                    ));
                }
            };
            *rate = value
                .strip_suffix('%')
                .and_then(|percent| percent.parse::<f64>().ok())
                .filter(|percent| (0.0..=100.0).contains(percent))
                .map(|percent| percent / 100.0)
                .ok_or_else(|| {
                    format!("{part:?}: how often is a percentage of the tasks, as 2% or 0.5%")
                })?;
        }
        if faults.kill + faults.stop + faults.cut > 1.0 {
            return Err(
                "kill, stop and cut are more than 100% together, and a task meets one of them"
                    .to_owned(),
            );
        }
        Ok(faults)
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |rate: f64| rate * 100.0;
        write!(
            f,
            "kill={}%,stop={}%,cut={}%",
            percent(self.kill),
            percent(self.stop),
            percent(self.cut)
        )?;
        match self.seed {
            Some(seed) => write!(f, ",seed={seed}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nonsense_is_explained() -> Result<(), String> {
        let faults: Faults = "kill=2%,stop=0.5%,seed=7".parse()?;
        assert_eq!(faults.to_string(), "kill=2%,stop=0.5%,cut=0%,seed=7");
        assert_eq!(faults.to_string().parse::<Faults>()?, faults);
        assert_eq!(faults.seeded(9).seed(), 7);
        for (nonsense, word) in [
            ("", "no fault"),
            ("kill", "no fault"),
            ("kill=2", "percentage"),
            ("kill=-1%", "percentage"),
            ("kill=NaN%", "percentage"),
            ("kill=101%", "percentage"),
            ("burn=1%", "kill, stop and cut"),
            ("seed=x", "whole number"),
            ("kill=60%,cut=60%", "100%"),
        ] {
            let error = nonsense.parse::<Faults>().expect_err(nonsense);
            assert!(error.contains(word), "{nonsense}: {error}");
        }
        Ok(())
    }

    #[test]
    fn the_rates_hold_and_the_seed_decides() -> Result<(), String> {
        let faults: Faults = "kill=20%,stop=10%,cut=5%,seed=1".parse()?;
        let count = |faults: &Faults, wanted| {
            (1..=100_000)
                .filter(|task| {
                    faults
                        .meet(*task, 1)
                        .is_some_and(|(fault, _)| fault == wanted)
                })
                .count()
        };
        for (fault, expected) in [
            (Fault::Kill, 20_000),
            (Fault::Stop, 10_000),
            (Fault::Cut, 5_000),
        ] {
            let seen = count(&faults, fault);
            assert!(seen.abs_diff(expected) < 600, "{fault:?}: {seen}");
        }
        let other = "kill=20%,stop=10%,cut=5%,seed=2".parse::<Faults>()?;
        assert!((1..100).any(|task| faults.meet(task, 1) != other.meet(task, 1)));
        assert_eq!(faults.meet(5, 1), faults.meet(5, 1));
        Ok(())
    }

    #[test]
    fn no_task_is_killed_for_ever() -> Result<(), String> {
        let faults: Faults = "kill=100%".parse()?;
        assert!(faults.meet(1, 1).is_some() && faults.meet(1, MOST_A_TASK + 1).is_none());
        Ok(())
    }
}
