//! Inputs for a decoder: the samples in `tests/corpus/NAME`, and what becomes of them when they are damaged.
//!
//! Which inputs there are follows from a seed, which is said when one of them fails. It is always the same one, unless
//! `FUZZ_SECONDS` says how long to go on with each decoder; `FUZZ_SEED` repeats what was found.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fastrand::Rng;

/// No input is longer, in bytes.
const LONGEST: usize = 64 << 10;
/// A decoder that has not come to an end after this time hangs. Far more than the slowest takes on a busy machine.
const HANGS: Duration = Duration::from_secs(120);
/// Where numbers of any width go wrong.
const EDGES: [u64; 12] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    i64::MAX as u64,
    u64::MAX - 1,
    u64::MAX,
];

/// Gives `decoder` every sample and `most` damaged ones; panics when it does, and says with which.
pub fn fuzz(name: &str, most: u64, decoder: impl Fn(&[u8])) {
    let corpus = samples(name);
    let number = |name| Some(std::env::var(name).ok()?.parse::<u64>().expect(name));
    let seconds = number("FUZZ_SECONDS");
    let seed = number("FUZZ_SEED").unwrap_or_else(|| seconds.map_or(1, |_| fastrand::u64(..)));
    let at = Arc::new(AtomicU64::new(0));
    watch(name, seed, &at);
    let run = |what: &str, input: &[u8]| {
        at.fetch_add(1, Ordering::Relaxed);
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| decoder(input))) {
            eprintln!(
                "{name}: {what} fails; as a file for tests/corpus/{name}, by printf:\n{}",
                escaped(input)
            );
            resume_unwind(panic);
        }
    };
    for (file, sample) in &corpus {
        run(file, sample);
    }
    let start = Instant::now();
    let goes_on = |n: u64| match seconds {
        None => n < most,
        Some(seconds) => start.elapsed() < Duration::from_secs(seconds),
    };
    let mut random = Rng::with_seed(seed);
    let mut n = 0;
    while goes_on(n) {
        n += 1;
        let input = damaged(&corpus, &mut random);
        run(&format!("input {n} of FUZZ_SEED={seed}"), &input);
    }
    at.store(u64::MAX, Ordering::Relaxed);
    println!(
        "{name}: {} samples and {n} damaged inputs, FUZZ_SEED={seed}, in {:.1} s",
        corpus.len(),
        start.elapsed().as_secs_f64()
    );
}

fn samples(name: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/corpus")
        .join(name);
    let mut samples: Vec<(String, Vec<u8>)> = std::fs::read_dir(&folder)
        .expect(name)
        .map(|entry| {
            let path = entry.expect(name).path();
            (
                path.display().to_string(),
                std::fs::read(&path).expect(name),
            )
        })
        .collect();
    // So that a seed means the same everywhere.
    samples.sort();
    assert!(!samples.is_empty(), "{} is empty", folder.display());
    samples
}

/// Ends the program when one input takes for ever: threads cannot be ended.
fn watch(name: &str, seed: u64, at: &Arc<AtomicU64>) {
    let (name, at) = (name.to_owned(), Arc::clone(at));
    std::thread::spawn(move || {
        let mut before = 0;
        loop {
            std::thread::sleep(HANGS);
            let now = at.load(Ordering::Relaxed);
            if now == u64::MAX {
                return;
            }
            if now == before {
                eprintln!("{name}: input {now}, samples counted, of FUZZ_SEED={seed} hangs");
                std::process::abort();
            }
            before = now;
        }
    });
}

fn damaged(corpus: &[(String, Vec<u8>)], random: &mut Rng) -> Vec<u8> {
    let any = |random: &mut Rng| corpus[random.usize(..corpus.len())].1.as_slice();
    let mut input = any(random).to_vec();
    for _ in 0..random.usize(1..=4) {
        damage(&mut input, any(random), random);
    }
    input.truncate(LONGEST);
    input
}

fn damage(input: &mut Vec<u8>, other: &[u8], random: &mut Rng) {
    let at = random.usize(..=input.len());
    let len = random.usize(..=(input.len() - at).min(32));
    match random.u8(..8) {
        // A bit, a byte.
        0 => {
            if let Some(byte) = input.get_mut(at) {
                *byte ^= 1 << random.u8(..8);
            }
        }
        1 => {
            if let Some(byte) = input.get_mut(at) {
                *byte = random.u8(..);
            }
        }
        // A number at its edge, in either order and any width, as a length for instance.
        2 => {
            let edge = EDGES[random.usize(..EDGES.len())];
            let width = 1 << random.usize(..4);
            let (big, little) = (edge.to_be_bytes(), edge.to_le_bytes());
            let bytes = match random.bool() {
                true => &big[8 - width..],
                false => &little[..width],
            };
            for (byte, new) in input[at..].iter_mut().zip(bytes) {
                *byte = *new;
            }
        }
        3 => input.truncate(at),
        4 => drop(input.drain(at..at + len)),
        5 => {
            let again = input[at..at + len].to_vec();
            input.splice(at..at, again);
        }
        // The rest, or a piece, of another sample.
        6 => {
            input.truncate(at);
            input.extend_from_slice(&other[random.usize(..=other.len())..]);
        }
        _ => {
            let from = random.usize(..=other.len());
            let to = (from + random.usize(..16)).min(other.len());
            input.splice(at..at + len, other[from..to].iter().copied());
        }
    }
}

fn escaped(input: &[u8]) -> String {
    input.iter().map(|byte| format!("\\x{byte:02x}")).collect()
}
