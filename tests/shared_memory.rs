//! Memory that processes share: values, arrays, counters and blocks, and what is left when their holders are killed.

mod children;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use children::{DEADLINE, Outcome, in_time, kill, value};
use procession::shared::{
    Array, AtomicCounter, Memory, Pod, RawArray, RawValue, Value, Zeroable, sweep, unlink,
};
use procession::{Error, Pipe, Process, Queue};

/// A name that no other test, nor another run of this one, has.
fn name(test: &str) -> String {
    format!("shared-memory-{test}-{}", std::process::id())
}

/// Where this user's names are.
fn directory() -> PathBuf {
    let uid = rustix::process::getuid().as_raw();
    PathBuf::from(format!("/dev/shm/procession-{uid}"))
}

fn file(name: &str) -> PathBuf {
    directory().join(name)
}

/// A lock that is given up when it is dropped, even while a child that another test just starts has a copy of the file.
struct Held(fs::File);

impl Drop for Held {
    fn drop(&mut self) {
        let _ = rustix::fs::flock(&self.0, rustix::fs::FlockOperation::Unlock);
    }
}

/// Makes a file where names are, which another test may remove with the directory at any moment before.
fn put(path: &Path, content: &[u8]) -> Outcome<Held> {
    for _ in 0..1000 {
        let _ = fs::create_dir(directory());
        let _ = fs::set_permissions(directory(), fs::Permissions::from_mode(0o700));
        if fs::write(path, content).is_ok()
            && let Ok(file) = fs::File::open(path)
        {
            // As a holder does: what nobody has locked is removed.
            rustix::fs::flock(&file, rustix::fs::FlockOperation::LockShared)?;
            if path.exists() {
                return Ok(Held(file));
            }
        }
    }
    Err("it cannot be put there".into())
}

/// Open files of this process that are shared memory.
fn open_memory() -> usize {
    let all = fs::read_dir("/proc/self/fd").into_iter().flatten();
    all.flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .filter(|link| link.to_string_lossy().starts_with("/memfd:procession"))
        .count()
}

#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
#[bytemuck(crate = "procession::shared::bytemuck")]
struct Point {
    x: f64,
    y: f64,
    count: [u32; 4],
}

const POINT: Point = Point {
    x: 1.0,
    y: -2.5,
    count: [1, 2, 3, 4],
};

type Everything = (
    Memory,
    Value<Point>,
    Array<u16>,
    RawValue<Point>,
    RawArray<u16>,
    AtomicCounter,
);

#[procession::task]
fn change_everything(all: Everything) -> procession::Result<bool> {
    let (memory, value, array, raw_value, raw_array, counter) = all;
    let seen = memory.get::<u64>(3)? == 77
        && value.get()? == POINT
        && array.to_vec()? == [1, 2, 3]
        && raw_value.get() == POINT
        && raw_array.to_vec() == [4, 5, 6]
        && counter.get() == 7;
    memory.set(3, 78_u64)?;
    value.update(|point| point.x = 9.0)?;
    array.set(2, 30)?;
    raw_value.set(Point { x: 10.0, ..POINT });
    raw_array.set(0, 40)?;
    counter.add(10);
    Ok(seen)
}

fn everything() -> procession::Result<Everything> {
    let memory = Memory::new(100)?;
    memory.set(3, 77_u64)?;
    Ok((
        memory,
        Value::new(POINT)?,
        Array::from_slice(&[1, 2, 3])?,
        RawValue::new(POINT)?,
        RawArray::from_slice(&[4, 5, 6])?,
        AtomicCounter::new(7)?,
    ))
}

fn assert_changed(all: &Everything) -> procession::Result<()> {
    let (memory, value, array, raw_value, raw_array, counter) = all;
    assert_eq!(memory.get::<u64>(3)?, 78);
    assert_eq!(value.get()?, Point { x: 9.0, ..POINT });
    assert_eq!(array.to_vec()?, [1, 2, 30]);
    assert_eq!(raw_value.get(), Point { x: 10.0, ..POINT });
    assert_eq!(raw_array.to_vec(), [40, 5, 6]);
    assert_eq!(counter.get(), 17);
    Ok(())
}

#[test]
fn a_child_sees_what_was_written_and_its_parent_what_it_writes() -> Outcome {
    in_time(|| {
        let all = everything()?;
        let child = Process::spawn(change_everything, (all.clone(),))?;
        assert!(value(&child)?);
        assert_changed(&all)?;
        Ok(())
    })
}

#[procession::task]
fn get_and_change(queue: Queue<Everything>) -> procession::Result<bool> {
    let all = queue.get()?;
    (*change_everything)(all)
}

#[test]
fn handles_go_through_queues_and_pipes() -> Outcome {
    in_time(|| {
        let all = everything()?;
        let queue = Queue::new()?;
        queue.put(all.clone())?;
        let child = Process::spawn(get_and_change, (queue,))?;
        assert!(value(&child)?);
        assert_changed(&all)?;
        let (here, there) = Pipe::new::<Memory, Memory>()?;
        here.send(&all.0)?;
        assert_eq!(there.recv()?, all.0, "it is the same block");
        Ok(())
    })
}

#[procession::task]
fn pass_on(memory: Memory, depth: u32) -> procession::Result<u32> {
    memory
        .atomic_u64(0)?
        .fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    match depth {
        0 => Ok(0),
        _ => start_another(memory, depth - 1)?
            .join()
            .map(|below| below + 1),
    }
}

fn start_another(memory: Memory, depth: u32) -> procession::Result<Process<u32>> {
    Process::spawn(pass_on, (memory, depth))
}

#[test]
fn who_received_a_handle_can_pass_it_on() -> Outcome {
    in_time(|| {
        let memory = Memory::new(8)?;
        let child = Process::spawn(pass_on, (memory.clone(), 3))?;
        assert_eq!(value(&child)?, 3);
        assert_eq!(memory.get::<u64>(0)?, 4);
        Ok(())
    })
}

const EACH: u32 = 1_000_000;

/// Begins when all four are there, so that they do it at the same time.
fn begin_together(here: &AtomicCounter) {
    let _ = here.fetch_update(|number| Some(number + 1));
    while here.get() < 4 {
        std::thread::yield_now();
    }
}

#[procession::task]
fn count(here: AtomicCounter, counter: AtomicCounter, times: u32) {
    begin_together(&here);
    for _ in 0..times {
        counter.add(1);
    }
}

#[procession::task]
fn count_under_lock(
    here: AtomicCounter,
    total: Value<u64>,
    array: Array<u64>,
    times: u32,
) -> procession::Result<()> {
    begin_together(&here);
    for time in 0..times {
        total.update(|total| *total += 1)?;
        if time % 10 == 0 {
            let mut held = array.lock()?;
            // Two elements that belong together, read and then written.
            let first = held[0];
            held[1] += 1;
            held[0] = first + 1;
        }
    }
    Ok(())
}

#[test]
fn a_counter_is_exact_after_a_million_increments_by_each_of_four_processes() -> Outcome {
    in_time(|| {
        let (here, counter) = (AtomicCounter::new(0)?, AtomicCounter::new(0)?);
        let children: Vec<_> = (0..4)
            .map(|_| Process::spawn(count, (here.clone(), counter.clone(), EACH)))
            .collect::<Result<_, _>>()?;
        for child in &children {
            value(child)?;
        }
        assert_eq!(counter.get(), i64::from(EACH) * 4);
        Ok(())
    })
}

#[test]
fn a_value_and_an_array_are_exact_under_their_locks() -> Outcome {
    in_time(|| {
        let here = AtomicCounter::new(0)?;
        let (total, array) = (Value::new(0)?, Array::new(2)?);
        let children: Vec<_> = (0..4)
            .map(|_| {
                let handles = (here.clone(), total.clone(), array.clone(), EACH / 20);
                Process::spawn(count_under_lock, handles)
            })
            .collect::<Result<_, _>>()?;
        for child in &children {
            value(child)?;
        }
        assert_eq!(total.get()?, u64::from(EACH / 20 * 4));
        assert_eq!(array.to_vec()?, [u64::from(EACH / 200 * 4); 2]);
        Ok(())
    })
}

/// Both halves are always the same, unless somebody sees a value half written.
type Wide = [u64; 32];

#[procession::task]
fn write_until_killed(wide: Value<Wide>, began: AtomicCounter) -> procession::Result<()> {
    loop {
        wide.update(|wide| {
            for word in wide {
                *word += 1;
            }
        })?;
        began.add(1);
    }
}

#[test]
fn a_value_is_whole_whenever_its_writers_are_killed() -> Outcome {
    in_time(|| {
        let wide = Value::<Wide>::new([0; 32])?;
        let mut last = 0;
        for round in 0..30 {
            let began = AtomicCounter::new(0)?;
            let writers =
                [(); 2].map(|()| Process::spawn(write_until_killed, (wide.clone(), began.clone())));
            while began.get() < 1 + round * 7 {
                std::thread::yield_now();
            }
            for writer in writers {
                kill(&writer?)?;
            }
            let held = wide
                .lock_timeout(DEADLINE)
                .ok_or("a dead process has the lock")?;
            assert!(held.iter().all(|word| *word == held[0]), "{held:?}");
            assert!(held[0] > last);
            last = held[0];
        }
        Ok(())
    })
}

#[procession::task]
fn hold_half_changed(array: Array<u64>, changed: AtomicCounter) -> procession::Result<()> {
    let mut held = array.lock()?;
    held[0] = 1;
    changed.set(1);
    loop {
        std::thread::park();
    }
}

#[procession::task]
fn hold_unchanged(array: Array<u64>, held: AtomicCounter) -> procession::Result<()> {
    let guard = array.lock()?;
    held.set(1 + guard[0] as i64);
    loop {
        std::thread::park();
    }
}

fn is_inconsistent<T>(result: procession::Result<T>) -> bool {
    matches!(result, Err(Error::Inconsistent { .. }))
}

#[test]
fn an_array_whose_holder_was_killed_is_had_and_says_so() -> Outcome {
    in_time(|| {
        let (array, changed) = (Array::<u64>::new(2)?, AtomicCounter::new(0)?);
        let child = Process::spawn(hold_half_changed, (array.clone(), changed.clone()))?;
        while changed.get() == 0 {
            std::thread::yield_now();
        }
        assert!(array.try_lock().is_none());
        assert!(array.lock_timeout(Duration::from_millis(5)).is_none());
        kill(&child)?;
        let held = array
            .lock_timeout(DEADLINE)
            .ok_or("a dead process has the lock")?;
        assert!(!held.is_consistent());
        assert_eq!(*held, [1, 0]);
        drop(held);
        assert!(is_inconsistent(array.get(0)), "also the second time");
        assert!(is_inconsistent(array.set(0, 1)));
        assert!(is_inconsistent(array.to_vec()));
        assert!(is_inconsistent(array.update(|_| ())));
        let mut held = array.lock()?;
        held[0] = 0;
        assert!(!held.is_consistent(), "nobody has said so");
        drop(held);
        assert!(is_inconsistent(array.get(0)));
        array.lock()?.mark_consistent();
        assert_eq!(array.to_vec()?, [0, 0]);
        Ok(())
    })
}

#[test]
fn a_killed_reader_has_done_no_harm() -> Outcome {
    in_time(|| {
        let (array, held) = (Array::<u64>::new(2)?, AtomicCounter::new(0)?);
        let child = Process::spawn(hold_unchanged, (array.clone(), held.clone()))?;
        while held.get() == 0 {
            std::thread::yield_now();
        }
        kill(&child)?;
        assert_eq!(array.to_vec()?, [0, 0]);
        Ok(())
    })
}

#[test]
fn a_panic_under_the_lock_releases_it() -> Outcome {
    let (wide, array) = (Value::new(5_u32)?, Array::from_slice(&[1_u8, 2])?);
    let panics = std::panic::catch_unwind(|| {
        wide.update(|value| {
            *value = 6;
            panic!("as the test wants it");
        })
    });
    assert!(panics.is_err());
    assert_eq!(wide.get()?, 5, "nothing has changed");
    let panics = std::panic::catch_unwind(|| {
        array.update(|array| {
            array[0] = 9;
            panic!("as the test wants it");
        })
    });
    assert!(panics.is_err());
    assert!(is_inconsistent(array.get(0)));
    array.lock()?.mark_consistent();
    assert_eq!(array.to_vec()?, [9, 2]);
    Ok(())
}

#[test]
fn who_holds_the_lock_is_told_instead_of_waiting_for_itself() -> Outcome {
    let value = Value::new(1_u8)?;
    let held = value.lock()?;
    assert!(matches!(value.get(), Err(Error::HeldAlready)));
    assert!(matches!(value.clone().set(2), Err(Error::HeldAlready)));
    assert!(value.try_lock().is_none());
    assert!(value.lock_timeout(DEADLINE).is_none(), "at once");
    assert_eq!(*held, 1);
    Ok(())
}

#[test]
fn a_guard_that_is_never_dropped_does_no_harm_when_the_value_is() -> Outcome {
    let value = Value::new(1_u8)?;
    std::mem::forget(value.lock()?);
    drop(value);
    // The list of locks that the thread holds is still sound.
    for _ in 0..10 {
        Value::new(2_u8)?.update(|value| *value += 1)?;
    }
    Ok(())
}

#[test]
fn what_is_outside_is_an_error() -> Outcome {
    let memory = Memory::new(10)?;
    let mut buffer = [0; 4];
    for offset in [7, 10, 11, usize::MAX, usize::MAX - 3] {
        assert!(matches!(
            memory.read_at(offset, &mut buffer),
            Err(Error::OutOfRange { .. })
        ));
        assert!(matches!(
            memory.write_at(offset, &buffer),
            Err(Error::OutOfRange { .. })
        ));
    }
    assert_eq!(
        memory.get::<u32>(8).unwrap_err().to_string(),
        "a buffer of 10 bytes has no 4 bytes from 8 on"
    );
    memory.write_at(10, &[])?;
    assert!(memory.atomic_u64(0).is_ok());
    assert!(matches!(
        memory.atomic_u64(1),
        Err(Error::Unaligned { offset: 1 })
    ));
    assert!(memory.atomic_u64(8).is_err(), "two bytes are left there");
    let (array, raw) = (Array::<u32>::new(3)?, RawArray::<u32>::new(3)?);
    for index in [3, 4, usize::MAX] {
        assert!(matches!(array.get(index), Err(Error::NoSuchElement { .. })));
        assert!(matches!(
            array.set(index, 1),
            Err(Error::NoSuchElement { .. })
        ));
        assert!(matches!(raw.get(index), Err(Error::NoSuchElement { .. })));
        assert!(matches!(
            raw.set(index, 1),
            Err(Error::NoSuchElement { .. })
        ));
    }
    assert_eq!(
        raw.write(2, &[1, 2]).unwrap_err().to_string(),
        "an array of 3 elements has no 2 elements from 2 on"
    );
    assert!(raw.read(usize::MAX, &mut [1, 2]).is_err());
    assert!(Array::<u32>::new(0)?.is_empty());
    assert!(RawArray::<u32>::new(0)?.to_vec().is_empty());
    Ok(())
}

#[test]
fn sizes_that_cannot_be_are_errors() -> Outcome {
    assert!(matches!(Memory::new(0), Err(Error::NoRoom { .. })));
    for size in [usize::MAX, isize::MAX as usize, 1 << 50, 1 << 44] {
        let error = Memory::new(size).unwrap_err();
        assert!(matches!(error, Error::NoRoom { .. }), "{error}");
        let name = name("huge");
        assert!(matches!(
            Memory::create(&name, size),
            Err(Error::NoRoom { .. })
        ));
        assert!(!file(&name).exists());
        assert!(matches!(Array::<u64>::new(size), Err(Error::NoRoom { .. })));
        assert!(matches!(
            RawArray::<[u8; 3]>::new(size),
            Err(Error::NoRoom { .. })
        ));
    }
    Ok(())
}

#[procession::task]
fn make_more_than_a_file_may_have() -> String {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let limit = Rlimit {
        current: Some(1 << 20),
        maximum: Some(1 << 20),
    };
    if let Err(error) = setrlimit(Resource::Fsize, limit) {
        return error.to_string();
    }
    Memory::new(2 << 20).map_or_else(|error| error.to_string(), |_| "it is there".to_owned())
}

#[test]
fn a_limit_of_file_sizes_is_an_error_and_no_signal() -> Outcome {
    in_time(|| {
        let child = Process::spawn(make_more_than_a_file_may_have, ())?;
        let said = value(&child)?;
        assert!(said.contains("no room for 2097152 bytes"), "{said}");
        assert!(said.contains("ulimit -f"), "{said}");
        Ok(())
    })
}

#[test]
fn a_handle_is_good_for_its_own_type_only() -> Outcome {
    in_time(|| {
        fn as_other<A: serde::Serialize, B: serde::de::DeserializeOwned + std::fmt::Debug>(
            value: &A,
        ) -> Outcome<String> {
            let bytes = rmp_serde::to_vec(value)?;
            let other = rmp_serde::from_slice::<B>(&bytes);
            Ok(other.expect_err("it is another type").to_string())
        }
        let value = Value::new(1_u64)?;
        for error in [
            as_other::<_, Value<i64>>(&value)?,
            as_other::<_, RawValue<u64>>(&value)?,
            as_other::<_, Array<u64>>(&value)?,
            as_other::<_, Memory>(&value)?,
            as_other::<_, AtomicCounter>(&value)?,
        ] {
            assert!(
                error.contains("this shared memory is shared::Value<u64> (8 bytes) ("),
                "{error}"
            );
        }
        as_other::<_, RawArray<u8>>(&RawArray::<i8>::new(1)?)?;
        value.unlink();
        let bytes = rmp_serde::to_vec(&value)?;
        assert_eq!(rmp_serde::from_slice::<Value<u64>>(&bytes)?.get()?, 1);
        Ok(())
    })
}

#[procession::task]
fn make_and_end() -> procession::Result<Memory> {
    Memory::new(10)
}

#[procession::task]
fn receive(handles: Queue<Memory>) -> String {
    handles
        .get()
        .map_or_else(|error| error.to_string(), |memory| format!("{memory:?}"))
}

#[test]
fn a_handle_whose_lender_has_ended_says_so() -> Outcome {
    in_time(|| {
        let child = Process::spawn(make_and_end, ())?;
        let error = match child.join_timeout(DEADLINE) {
            // It may be received before the child has gone.
            Ok(Some(memory)) => {
                assert_eq!(memory.size(), 10);
                return Ok(());
            }
            Ok(other) => format!("{other:?}"),
            Err(error) => error.to_string(),
        };
        // Or while it goes, with its files closed.
        let says_so = ["which lent it, has ended", "or is ending"];
        assert!(says_so.iter().any(|text| error.contains(text)), "{error}");
        Ok(())
    })
}

#[test]
fn what_was_lent_is_there_for_who_comes_late() -> Outcome {
    in_time(|| {
        let handles = Queue::new()?;
        let memory = Memory::create(&name("late"), 33)?;
        handles.put(memory.clone())?;
        drop(memory);
        let child = Process::spawn(receive, (handles,))?;
        let said = value(&child)?;
        assert!(said.contains("size: 33"), "{said}");
        Ok(())
    })
}

#[procession::task]
fn attach_and_write(name: String) -> procession::Result<usize> {
    let memory = Memory::attach(&name)?;
    memory.write_at(0, b"from a child")?;
    Ok(memory.size())
}

#[test]
fn a_name_leads_another_process_to_the_block() -> Outcome {
    in_time(|| {
        let name = name("leads");
        let memory = Memory::create(&name, 5000)?;
        assert_eq!(memory.name(), Some(name.as_str()));
        let child = Process::spawn(attach_and_write, (name.clone(),))?;
        assert_eq!(value(&child)?, 5000);
        let mut text = [0; 12];
        memory.read_at(0, &mut text)?;
        assert_eq!(&text, b"from a child");
        assert!(matches!(
            Memory::create(&name, 1),
            Err(Error::NameExists { .. })
        ));
        drop(memory);
        let error = Memory::attach(&name).unwrap_err();
        assert!(matches!(error, Error::NoSuchName { .. }), "{error}");
        assert!(!file(&name).exists());
        Ok(())
    })
}

#[procession::task]
fn attach_and_wait(name: String, ready: AtomicCounter) -> procession::Result<()> {
    let _memory = Memory::attach(&name)?;
    ready.add(1);
    loop {
        std::thread::park();
    }
}

#[procession::task]
fn create_and_wait(name: String, ready: AtomicCounter) -> procession::Result<()> {
    let memory = Memory::create(&name, 1 << 20)?;
    memory.write_at(0, b"x")?;
    ready.add(1);
    loop {
        std::thread::park();
    }
}

fn wait_for(counter: &AtomicCounter, number: i64) -> Outcome {
    children::until("the children are ready", || Ok(counter.get() >= number))
}

#[test]
fn a_name_outlives_its_creator_as_long_as_another_holds_it() -> Outcome {
    in_time(|| {
        let (name, ready) = (name("outlives"), AtomicCounter::new(0)?);
        let creator = Process::spawn(create_and_wait, (name.clone(), ready.clone()))?;
        wait_for(&ready, 1)?;
        let other = Process::spawn(attach_and_wait, (name.clone(), ready.clone()))?;
        wait_for(&ready, 2)?;
        kill(&creator)?;
        let memory = Memory::attach(&name)?;
        assert_eq!(memory.get::<u8>(0)?, b'x');
        kill(&other)?;
        drop(memory);
        assert!(!file(&name).exists());
        Ok(())
    })
}

#[test]
fn the_name_of_killed_holders_is_removed_by_whoever_comes_next() -> Outcome {
    in_time(|| {
        let (name, ready) = (name("killed"), AtomicCounter::new(0)?);
        let creator = Process::spawn(create_and_wait, (name.clone(), ready.clone()))?;
        wait_for(&ready, 1)?;
        let others =
            [(); 3].map(|()| Process::spawn(attach_and_wait, (name.clone(), ready.clone())));
        wait_for(&ready, 4)?;
        kill(&creator)?;
        for other in others {
            kill(&other?)?;
        }
        // Another name's.
        drop(Memory::create(&format!("{name}-other"), 1)?);
        assert!(!file(&name).exists());
        let again = Memory::create(&name, 2)?;
        assert_eq!(again.get::<u16>(0)?, 0, "it is new");
        again.unlink()?;
        assert!(matches!(unlink(&name), Err(Error::NoSuchName { .. })));
        Ok(())
    })
}

#[procession::task]
fn forget_and_end(name: String) -> procession::Result<()> {
    std::mem::forget(Memory::create(&name, 1)?);
    Ok(())
}

#[procession::task]
fn forget_and_exit(name: String) -> procession::Result<()> {
    std::mem::forget(Memory::create(&name, 1)?);
    std::process::exit(0)
}

#[test]
fn a_program_that_ends_leaves_no_name_although_it_drops_nothing() -> Outcome {
    in_time(|| {
        let name = name("forgotten");
        value(&Process::spawn(forget_and_end, (name.clone(),))?)?;
        assert!(!file(&name).exists());
        // Its end without a value is an error, and not of interest here.
        let _ = Process::spawn(forget_and_exit, (name.clone(),))?.join_timeout(DEADLINE);
        assert!(!file(&name).exists());
        Ok(())
    })
}

#[procession::task]
fn come_and_go(name: String, rounds: AtomicCounter) -> procession::Result<()> {
    loop {
        let memory = match Memory::create(&name, 4096) {
            Err(Error::NameExists { .. }) => match Memory::attach(&name) {
                Err(Error::NoSuchName { .. }) => continue,
                other => other?,
            },
            other => other?,
        };
        memory
            .atomic_u64(0)?
            .fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        if rounds.add(1) % 3 == 0 {
            memory.unlink()?;
        }
    }
}

#[test]
fn nothing_is_left_wherever_holders_are_killed() -> Outcome {
    in_time(|| {
        let (name, rounds) = (name("anywhere"), AtomicCounter::new(0)?);
        for round in 1..=40 {
            let children =
                [(); 2].map(|()| Process::spawn(come_and_go, (name.clone(), rounds.clone())));
            let seen = rounds.get();
            children::until("they come and go", || Ok(rounds.get() > seen + round % 5))?;
            for child in children {
                let child = child?;
                child.kill()?;
                let end = child.join_timeout(DEADLINE).err();
                let end = end.ok_or("it has ended by itself")?.to_string();
                assert!(end.contains("SIGKILL"), "{end}");
            }
        }
        sweep()?;
        assert!(!file(&name).exists());
        let fresh = Memory::create(&name, 8)?;
        assert_eq!(fresh.get::<u64>(0)?, 0);
        Ok(())
    })
}

#[test]
fn a_block_that_was_unlinked_stays_for_those_who_have_it() -> Outcome {
    let name = name("unlinked");
    let old = Memory::create(&name, 8)?;
    old.set(0, 1_u64)?;
    let other = Memory::attach(&name)?;
    old.unlink()?;
    old.unlink()?; // the second time it is no error
    assert!(matches!(
        Memory::attach(&name),
        Err(Error::NoSuchName { .. })
    ));
    let new = Memory::create(&name, 8)?;
    assert_eq!(other.get::<u64>(0)?, 1);
    assert_eq!(new.get::<u64>(0)?, 0);
    drop((old, other));
    assert_eq!(
        Memory::attach(&name)?,
        new,
        "the old one's end is not the new one's"
    );
    unlink(&name)?;
    Ok(())
}

#[test]
fn names_are_words() -> Outcome {
    let long = "x".repeat(256);
    for bad in ["", ".", "..", ".hidden", "a/b", "/a", "../x", "a\0b", &long] {
        for error in [
            Memory::create(bad, 1).unwrap_err(),
            Memory::attach(bad).unwrap_err(),
            unlink(bad).unwrap_err(),
        ] {
            assert!(matches!(error, Error::BadName { .. }), "{bad:?}: {error}");
        }
    }
    let odd = format!("{} ü %s -r *", name("odd"));
    let _memory = Memory::create(&odd, 1)?;
    Memory::attach(&odd)?;
    Ok(())
}

#[test]
fn files_that_are_no_names_are_errors_and_crash_nobody() -> Outcome {
    let name = name("garbage");
    let path = file(&name);
    let title = |id: &str| format!("{:<63}\n", format!("procession memory 1 {id}"));
    let nobody = title(&"1".repeat(32));
    let liar = format!("{nobody}{:<63}\n", format!("{} 1 0", std::process::id()));
    for garbage in [
        b"".as_slice(),
        b"\0",
        b"procession memory 1 ",
        b"procession memory 9 11111111111111111111111111111111\n",
        &[0xff; 5000],
        title(&"z".repeat(32)).as_bytes(),
        title(&"é".repeat(16)).as_bytes(),
        nobody.as_bytes(),
        liar.as_bytes(),
        [nobody.as_bytes(), &[0xff; 300]].concat().as_slice(),
    ] {
        let held = put(&path, garbage)?;
        let error = Memory::attach(&name).unwrap_err();
        assert!(
            matches!(error, Error::System { .. } | Error::BadHandle { .. }),
            "{error}"
        );
        assert!(error.to_string().contains(&name), "{error}");
        assert!(matches!(
            Memory::create(&name, 1),
            Err(Error::NameExists { .. })
        ));
        drop(held);
        // Nobody holds it any more.
        sweep()?;
        assert!(!path.exists());
    }
    Ok(())
}

#[test]
fn a_link_in_a_names_place_is_not_followed() -> Outcome {
    let name = name("link");
    let path = file(&name);
    let held = put(&file(&format!("{name}-keep")), b"")?;
    let target = tempfile::NamedTempFile::new()?;
    fs::write(&target, "precious")?;
    std::os::unix::fs::symlink(&target, &path)?;
    let error = Memory::attach(&name).unwrap_err().to_string();
    assert!(error.contains("symbolic link"), "{error}");
    assert!(matches!(
        Memory::create(&name, 1),
        Err(Error::NameExists { .. })
    ));
    assert!(unlink(&name).is_err());
    sweep()?;
    assert_eq!(fs::read_to_string(&target)?, "precious");
    fs::remove_file(&path)?;
    drop(held);
    sweep()?;
    Ok(())
}

#[test]
fn a_name_that_is_cut_off_or_removed_does_not_hurt_who_has_the_block() -> Outcome {
    let name = name("cut");
    let memory = Memory::create(&name, 1 << 20)?;
    fs::OpenOptions::new()
        .write(true)
        .open(file(&name))?
        .set_len(0)?;
    assert!(Memory::attach(&name).is_err());
    memory.set((1 << 20) - 8, 5_u64)?;
    assert_eq!(memory.get::<u64>((1 << 20) - 8)?, 5);
    fs::remove_file(file(&name))?;
    assert!(matches!(
        Memory::attach(&name),
        Err(Error::NoSuchName { .. })
    ));
    assert_eq!(memory.get::<u64>((1 << 20) - 8)?, 5);
    memory.unlink()?;
    Ok(())
}

#[procession::task]
fn make_many(times: usize) -> procession::Result<(usize, usize)> {
    let before = open_memory();
    for _ in 0..times {
        let value = Value::new([0_u8; 100])?;
        let memory = Memory::new(1 << 16)?;
        drop((value.clone(), memory.clone()));
        rmp_serde::to_vec(&memory)
            .map_err(|error| Error::system("encode", std::io::Error::other(error)))?;
        memory.unlink()?;
    }
    Ok((before, open_memory()))
}

#[test]
fn what_is_dropped_leaves_no_open_file() -> Outcome {
    in_time(|| {
        let child = Process::spawn(make_many, (5000,))?;
        let (before, after) = value(&child)?;
        assert_eq!(before, after);
        Ok(())
    })
}

#[test]
fn every_handle_of_one_block_in_one_process_is_one_open_file() -> Outcome {
    in_time(|| {
        let child = Process::spawn(receive_often, (Memory::new(100)?,))?;
        assert_eq!(value(&child)?, 1);
        Ok(())
    })
}

#[procession::task]
fn receive_often(memory: Memory) -> procession::Result<usize> {
    let (here, there) = Pipe::new::<Memory, Memory>()?;
    let mut all = vec![memory.clone()];
    for _ in 0..20 {
        here.send(&memory)?;
        all.push(there.recv()?);
    }
    Ok(open_memory())
}

#[procession::task]
fn change_wide(wide: RawArray<u64>, stop: AtomicCounter) -> procession::Result<()> {
    let mut number = 0_u64;
    while stop.get() == 0 {
        number += 1;
        // Both halves of a word are the same.
        let word = (number & 0xffff_ffff) << 32 | (number & 0xffff_ffff);
        wide.write(0, &[word; 64])?;
    }
    Ok(())
}

#[test]
fn a_word_without_a_lock_is_never_seen_half_written() -> Outcome {
    in_time(|| {
        let (wide, stop) = (RawArray::<u64>::new(64)?, AtomicCounter::new(0)?);
        let child = Process::spawn(change_wide, (wide.clone(), stop.clone()))?;
        children::until("it writes", || Ok(wide.get(63)? != 0))?;
        for _ in 0..20_000 {
            let found = wide.to_vec();
            assert!(found.iter().all(|word| word >> 32 == word & 0xffff_ffff));
        }
        stop.set(1);
        value(&child)?;
        Ok(())
    })
}
