//! Whatever bytes a decoder is given, it neither panics, nor hangs, nor takes more memory than its input is worth; and what it
//! understood means the same when it is written and read again.
//!
//! `cargo test --test decoders` is brief; `make fuzz` goes on for as long as one likes.

mod encoding;
mod mutation;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ffi::OsString;
use std::io::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use bytes::{Bytes, BytesMut};
use encoding::encode_again;
use mutation::fuzz;
use procession::command::{CommandResult, Job, LONGEST_ARGUMENT, Template};
use procession::keys::{Keys, PublicKey, Ticket};
use procession::pipeline::Journal;
use procession::wire::block;
use procession::wire::frame::{Message, decode};
use procession::wire::id_set::IdSet;
use procession::{Body, Endpoint, Payload};

/// What one allocation may have beyond this for each byte of input, in bytes.
const SPARE: usize = 4 << 20;
const FOR_EACH_BYTE: usize = 256;

thread_local! {
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

/// The system's memory, with a note of the largest piece that was asked for.
struct Noting;

impl Noting {
    fn note(size: usize) {
        // A thread that is ending has no notes any more.
        let _ = LARGEST.try_with(|largest| largest.set(largest.get().max(size)));
    }
}

// SAFETY: every call goes to the system's allocator as it came; the note allocates nothing.
unsafe impl GlobalAlloc for Noting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::note(layout.size());
        // SAFETY: the caller's promises are those that are asked for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are those that are asked for.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Self::note(layout.size());
        // SAFETY: the caller's promises are those that are asked for.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        Self::note(size);
        // SAFETY: the caller's promises are those that are asked for.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static MEMORY: Noting = Noting;

/// As [`fuzz`], and no allocation may be out of proportion to the input.
fn fuzz_in_bounds(name: &str, most: u64, decoder: impl Fn(&[u8])) {
    fuzz(name, most, |input| {
        LARGEST.set(0);
        decoder(input);
        let (largest, input) = (LARGEST.get(), input.len());
        assert!(
            largest <= SPARE + FOR_EACH_BYTE * input,
            "{largest} bytes of memory for an input of {input}"
        );
    });
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn frames() {
    fuzz_in_bounds("frames", 500_000, |input| {
        let Ok(message) = decode(&Bytes::copy_from_slice(input)) else {
            return;
        };
        // Of another version its number is all that is known.
        if matches!(message, Message::OtherVersion(_)) {
            return;
        }
        let again = encode_again(&message);
        let read = decode(&again.clone().into()).expect("it was written by us");
        assert_eq!(encode_again(&read), again);
    });
}

#[test]
fn blocks_of_items() {
    fuzz_in_bounds("blocks", 500_000, |input| {
        let all = Bytes::copy_from_slice(input);
        let (mut at, mut items) = (0, 0);
        while let Some((item, next)) = block::item(&all, at) {
            assert!(item.start > at && item.end == next && next <= all.len());
            (at, items) = (next, items + 1);
        }
        let whole = (at == all.len()).then_some(items);
        assert_eq!(block::count(&all), whole);
        for keep in [0, 1, items, items + 1] {
            match block::split(&all, keep) {
                Some((head, tail)) => {
                    assert_eq!(block::count(&head), Some(keep));
                    assert_eq!([head, tail].concat(), input);
                }
                None => assert!(keep > items),
            }
        }
    });
}

#[test]
fn sets_of_ids() {
    fuzz_in_bounds("ids", 500_000, |input| {
        let (numbers, _) = input.as_chunks::<8>();
        let (pairs, _) = numbers.as_chunks::<2>();
        let mut set = IdSet::new();
        for pair in pairs {
            let [first, count] = pair.map(u64::from_be_bytes);
            set.insert_range(first, count);
            let end = first.saturating_add(count);
            assert!(end == first || set.contains(end - 1));
            assert_eq!(set.missing(first, count), []);
            set.insert(first);
        }
        let mut before = None;
        for (first, count) in set.ranges() {
            assert!(count > 0, "{first} begins a range without an id");
            // A gap, or it would be one range.
            assert!(before.is_none_or(|end| first > end));
            before = Some(first + count);
        }
        assert_eq!(set.is_empty(), set.ranges().next().is_none());
        assert_eq!(set.ranges().collect::<IdSet>(), set);
    });
}

#[test]
fn jobs() {
    fuzz_in_bounds("jobs", 500_000, |input| {
        let body = |bytes: &[u8]| Body::Memory(Bytes::copy_from_slice(bytes));
        let Ok(job) = <Job as Payload>::from_body(body(input)) else {
            return;
        };
        let _ = job.template.warning();
        let _ = job.template.fill(Some(b"a/b.c"), u64::MAX, u32::MAX);
        let written = job.clone().into_body(&mut BytesMut::new());
        let written = written.expect("it was read");
        assert_eq!(<Job as Payload>::from_body(written), Ok(job));
    });
}

#[test]
fn results_of_commands() {
    fuzz_in_bounds("results", 500_000, |input| {
        let body = Body::Memory(Bytes::copy_from_slice(input));
        let Ok(result) = CommandResult::from_body(&body) else {
            return;
        };
        let _ = (result.status(), result.succeeded());
        let written = result.to_body().expect("it is in memory");
        let read = CommandResult::from_body(&written).expect("it was written by us");
        assert_eq!(read.status(), result.status());
        assert_eq!(
            read.to_body().and_then(|body| body.to_bytes()).ok(),
            written.to_bytes().ok()
        );
    });
}

#[test]
fn endpoints() {
    fuzz_in_bounds("endpoints", 500_000, |input| {
        let typed = text(input);
        match typed.parse::<Endpoint>() {
            Ok(endpoint) => assert_eq!(
                endpoint.to_string().parse::<Endpoint>().ok(),
                Some(endpoint)
            ),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    });
}

#[test]
fn keys() {
    fuzz_in_bounds("keys", 500_000, |input| {
        if let Ok(key) = text(input).parse::<PublicKey>() {
            assert_eq!(key.to_string().parse(), Ok(key));
        }
    });
}

#[test]
fn tickets() {
    fuzz_in_bounds("tickets", 500_000, |input| {
        let typed = text(input);
        let Ok(ticket) = typed.parse::<Ticket>() else {
            return;
        };
        let line = ticket.to_line();
        let read: Ticket = line.parse().expect("it was written by us");
        assert_eq!(read.endpoint(), ticket.endpoint());
        assert_eq!(read.to_line(), line);
    });
}

/// Writes a file that only this user can read.
fn write_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?
        .write_all(bytes)
}

#[test]
fn certificates() {
    let folder = tempfile::tempdir().expect("a directory");
    let keys = Keys::open(folder.path()).expect("its own directory");
    fuzz_in_bounds("certificates", 1_000, |input| {
        for name in ["server.key_secret", "server.key"] {
            write_private(&folder.path().join(name), input).expect("a file");
        }
        let public = keys.server_key();
        if let Ok(pair) = keys.server() {
            assert_eq!(public.ok(), Some(pair.public()));
        }
    });
}

#[test]
fn placeholders() {
    fuzz_in_bounds("placeholders", 500_000, |input| {
        // Words that end in NUL, and behind them the value, which may have newlines.
        let mut words: Vec<OsString> = input
            .split(|byte| *byte == 0)
            .map(|word| OsString::from_vec(word.to_vec()))
            .collect();
        let value = words.pop().unwrap_or_default();
        let template = Template::parse(&words);
        let _ = template.warning();
        let filler = template.filler();
        for value in [Some(value.as_bytes()), None, Some(input)] {
            let _ = filler.display(value, 7, u32::MAX);
            if let Ok(run) = filler.fill(value, 7, u32::MAX) {
                for word in run.args.iter().chain([&run.program]) {
                    assert!(word.len() <= LONGEST_ARGUMENT && !word.as_bytes().contains(&0));
                }
            }
        }
    });
}

#[test]
fn journals() {
    let folder = tempfile::tempdir().expect("a directory");
    let path = folder.path().join("journal");
    // SQLite's own memory is not counted, and pages of a damaged file may be read many times.
    fuzz_in_bounds("journals", 300, |input| {
        for name in ["journal", "journal-wal", "journal-shm", "journal-journal"] {
            let _ = std::fs::remove_file(folder.path().join(name));
        }
        std::fs::write(&path, input).expect("a file");
        if let Ok(journal) = Journal::open(&path, "a run") {
            let _ = journal.done_before();
            let _ = journal.finished();
        }
    });
}
