//! The ring on plain memory against a queue, on memory that makes no sense, and with two threads in all orders (loom).

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use proptest::prelude::*;

use super::*;

/// The memory of one thread.
#[derive(Clone)]
struct Plain(Rc<Bytes>);

struct Bytes {
    data: RefCell<Vec<u8>>,
    written: Cell<u64>,
    read: Cell<u64>,
    asleep: Cell<bool>,
}

impl Plain {
    fn new(data: Vec<u8>) -> Self {
        Self(Rc::new(Bytes {
            data: RefCell::new(data),
            written: Cell::new(0),
            read: Cell::new(0),
            asleep: Cell::new(false),
        }))
    }
}

impl Memory for Plain {
    fn size(&self) -> u64 {
        self.0.data.borrow().len() as u64
    }

    fn written(&self, _: Ordering) -> u64 {
        self.0.written.get()
    }

    fn set_written(&self, at: u64, _: Ordering) {
        self.0.written.set(at);
    }

    fn read(&self, _: Ordering) -> u64 {
        self.0.read.get()
    }

    fn set_read(&self, at: u64, _: Ordering) {
        self.0.read.set(at);
    }

    fn asleep(&self, _: Ordering) -> bool {
        self.0.asleep.get()
    }

    fn swap_asleep(&self, asleep: bool, _: Ordering) -> bool {
        self.0.asleep.replace(asleep)
    }

    fn fence(&self) {}

    fn put(&self, offset: u64, bytes: &[u8]) {
        let offset = offset as usize;
        self.0.data.borrow_mut()[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    fn get(&self, offset: u64, bytes: &mut [u8]) {
        let offset = offset as usize;
        bytes.copy_from_slice(&self.0.data.borrow()[offset..offset + bytes.len()]);
    }

    fn append(&self, offset: u64, len: usize, bytes: &mut Vec<u8>) {
        let offset = offset as usize;
        bytes.extend_from_slice(&self.0.data.borrow()[offset..offset + len]);
    }
}

fn ring(size: usize) -> (Writer<Plain>, Reader<Plain>) {
    let memory = Plain::new(vec![0; size]);
    (Writer::new(memory.clone()), Reader::new(memory))
}

#[test]
fn a_full_ring_has_room_for_the_word_that_it_is_full() {
    let (mut writer, mut reader) = ring(64);
    let mut pushed = 0;
    while writer.push(&[7; 8]).is_some() {
        pushed += 1;
    }
    assert_eq!(pushed, 3, "of 16 bytes each, and 8 are kept");
    writer.push_back();
    for _ in 0..pushed {
        assert_eq!(reader.pop(), Found::Frame(vec![7; 8]));
    }
    assert_eq!(reader.pop(), Found::Back);
    assert_eq!(reader.pop(), Found::Nothing);
    assert!(writer.push(&[8; 16]).is_some());
    assert_eq!(reader.pop(), Found::Frame(vec![8; 16]));
}

#[test]
fn a_sleeper_is_woken_once() {
    let (mut writer, mut reader) = ring(64);
    assert_eq!(writer.push(b"1"), Some(false));
    assert!(!doze(reader.memory(), reader.at()), "there is something");
    reader.rise();
    reader.pop();
    assert!(doze(reader.memory(), reader.at()));
    assert_eq!(writer.push(b"2"), Some(true));
    assert_eq!(writer.push(b"3"), Some(false));
}

proptest! {
    #[test]
    fn it_is_a_queue(steps in proptest::collection::vec((any::<bool>(), 0..40_usize), 1..400)) {
        let (mut writer, mut reader) = ring(128);
        let mut model = VecDeque::new();
        let mut active = true;
        for (number, (puts, len)) in steps.into_iter().enumerate() {
            if puts && active {
                let frame = vec![number as u8; len];
                match writer.takes(len).then(|| writer.push(&frame)).flatten() {
                    Some(_) => model.push_back(Found::Frame(frame)),
                    None => {
                        writer.push_back();
                        model.push_back(Found::Back);
                        active = false;
                    }
                }
            } else {
                let found = reader.pop();
                active |= found == Found::Back;
                prop_assert_eq!(found, model.pop_front().unwrap_or(Found::Nothing));
                prop_assert_eq!(reader.is_empty(), model.is_empty());
            }
        }
    }

    #[test]
    fn any_bytes_are_frames_or_nonsense(
        words in proptest::collection::vec(prop_oneof![any::<u32>(), 0..64_u32, Just(WRAP), Just(BACK)], 32),
        written in prop_oneof![any::<u64>(), 0..300_u64],
    ) {
        let memory = Plain::new(words.iter().flat_map(|word| word.to_le_bytes()).collect());
        memory.set_written(written, Ordering::Relaxed);
        let mut reader = Reader::new(memory);
        for _ in 0..100 {
            if matches!(reader.pop(), Found::Nonsense | Found::Nothing) {
                break;
            }
        }
    }

    #[test]
    fn a_reader_that_lies_does_no_harm(read: u64, frames in proptest::collection::vec(0..30_usize, 1..50)) {
        let (mut writer, _) = ring(128);
        for len in frames {
            writer.memory().set_read(read, Ordering::Relaxed);
            let _ = writer.push(&vec![1; len]);
            writer.used();
        }
    }
}

/// Two threads in all orders that the memory model allows.
mod in_all_orders {
    use loom::cell::UnsafeCell;
    use loom::sync::atomic::{AtomicBool, AtomicU64, fence};
    use loom::sync::{Arc, Condvar, Mutex};

    use super::super::*;

    /// Each byte is a cell, so that loom sees who reads what another one writes.
    #[derive(Clone)]
    struct Watched(Arc<Cells>);

    struct Cells {
        data: Vec<UnsafeCell<u8>>,
        written: AtomicU64,
        read: AtomicU64,
        asleep: AtomicBool,
    }

    // SAFETY: loom panics when two threads use a cell at the same time.
    unsafe impl Send for Watched {}

    impl Memory for Watched {
        fn size(&self) -> u64 {
            self.0.data.len() as u64
        }

        fn written(&self, order: Ordering) -> u64 {
            self.0.written.load(order)
        }

        fn set_written(&self, at: u64, order: Ordering) {
            self.0.written.store(at, order);
        }

        fn read(&self, order: Ordering) -> u64 {
            self.0.read.load(order)
        }

        fn set_read(&self, at: u64, order: Ordering) {
            self.0.read.store(at, order);
        }

        fn asleep(&self, order: Ordering) -> bool {
            self.0.asleep.load(order)
        }

        fn swap_asleep(&self, asleep: bool, order: Ordering) -> bool {
            self.0.asleep.swap(asleep, order)
        }

        fn fence(&self) {
            fence(Ordering::SeqCst);
        }

        fn put(&self, offset: u64, bytes: &[u8]) {
            for (cell, byte) in self.0.data[offset as usize..].iter().zip(bytes) {
                // SAFETY: loom checks that nobody else uses the cell.
                cell.with_mut(|cell| unsafe { *cell = *byte });
            }
        }

        fn get(&self, offset: u64, bytes: &mut [u8]) {
            for (cell, byte) in self.0.data[offset as usize..].iter().zip(bytes) {
                // SAFETY: loom checks that nobody else uses the cell.
                *byte = cell.with(|cell| unsafe { *cell });
            }
        }

        fn append(&self, offset: u64, len: usize, bytes: &mut Vec<u8>) {
            let mut frame = vec![0; len];
            self.get(offset, &mut frame);
            bytes.extend(frame);
        }
    }

    fn ring(size: usize) -> (Writer<Watched>, Reader<Watched>) {
        let memory = Watched(Arc::new(Cells {
            data: (0..size).map(|_| UnsafeCell::new(0)).collect(),
            written: AtomicU64::new(0),
            read: AtomicU64::new(0),
            asleep: AtomicBool::new(false),
        }));
        (Writer::new(memory.clone()), Reader::new(memory))
    }

    #[test]
    fn frames_come_whole_and_in_order_through_a_ring_that_wraps() {
        loom::model(|| {
            // Room for one frame of 1 byte and the word behind it, and then some.
            let (mut writer, mut reader) = ring(40);
            let thread = loom::thread::spawn(move || {
                for byte in 0..3 {
                    while writer.push(&[byte]).is_none() {
                        loom::thread::yield_now();
                    }
                }
            });
            for byte in 0..3 {
                loop {
                    match reader.pop() {
                        Found::Frame(frame) => {
                            assert_eq!(frame, [byte]);
                            break;
                        }
                        Found::Nothing => loom::thread::yield_now(),
                        other => panic!("{other:?}"),
                    }
                }
            }
            thread.join().expect("no panic");
        });
    }

    /// What the pipe does: a byte for who sleeps on it.
    #[derive(Default)]
    struct Pipe {
        rung: Mutex<bool>,
        changed: Condvar,
    }

    #[test]
    fn no_wake_up_is_lost() {
        let mut model = loom::model::Builder::new();
        // In all orders with so many changes of threads at once; without a bound it takes half a minute, and finds no more.
        model.preemption_bound = Some(3);
        model.check(|| {
            let (mut writer, mut reader) = ring(64);
            let pipe = Arc::new(Pipe::default());
            let bell = Arc::clone(&pipe);
            let thread = loom::thread::spawn(move || {
                for byte in 0..2 {
                    if writer.push(&[byte]).expect("there is room") {
                        *bell.rung.lock().expect("no panic") = true;
                        bell.changed.notify_one();
                    }
                }
            });
            let mut next = 0;
            while next < 2 {
                match reader.pop() {
                    Found::Frame(frame) => {
                        assert_eq!(frame, [next]);
                        next += 1;
                    }
                    Found::Nothing => {
                        if doze(reader.memory(), reader.at()) {
                            // A lost wake-up is a deadlock, and loom says so.
                            let mut rung = pipe.rung.lock().expect("no panic");
                            while !*rung {
                                rung = pipe.changed.wait(rung).expect("no panic");
                            }
                            *rung = false;
                        }
                        reader.rise();
                    }
                    other => panic!("{other:?}"),
                }
            }
            thread.join().expect("no panic");
        });
    }
}
