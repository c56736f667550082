//! Shared data by URL: one set of cases, run on every store. `cargo test --test shared_data redis::` runs those of one.
//!
//! Redis and PostgreSQL are found by `PROCESSION_TEST_REDIS` and `PROCESSION_TEST_POSTGRES`, which `scripts/services run COMMAND` sets. Without them their cases do
//! not run, and say so; with `PROCESSION_TEST_SERVERS=required` they fail.

mod children;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use children::{DEADLINE, Outcome, in_time, kill, next, until, value};
use procession::shared::{Change, Counter, Dict, List, Manager, Namespace, Watch};
use procession::{Error, Process, Queue};
use serde::{Deserialize, Serialize};

/// What keeps the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    /// A manager of this process.
    Here,
    /// One of another process.
    Elsewhere,
    /// The same by TCP.
    Tcp,
    Sqlite,
    Redis,
    Postgres,
}

/// Where it is kept.
struct Place {
    which: Which,
    store: String,
    /// In front of all names, so that two runs on one server do not meet.
    run: String,
    _keeps: Keeps,
}

/// What has to be there as long as the data.
enum Keeps {
    Nothing,
    Manager { _manager: Manager },
    Host(Process<()>),
    Folder { _folder: tempfile::TempDir },
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Keeps::Host(host) = &self._keeps {
            let _ = kill(host);
        }
    }
}

/// Holds data for others.
#[procession::task]
fn hold(endpoint: String, tell: Queue<String>) -> procession::Result<()> {
    let manager = match endpoint.is_empty() {
        true => Manager::new()?,
        false => Manager::bind(endpoint)?,
    };
    tell.put(manager.url("x"))?;
    tell.flush()?;
    loop {
        std::thread::park();
    }
}

fn start_host(endpoint: &str) -> Outcome<(Process<()>, String)> {
    let told = Queue::new()?;
    let process = Process::spawn(hold, (endpoint.to_owned(), told.clone()))?;
    let url = next(&told)?;
    Ok((process, url.trim_end_matches("?name=x").to_owned()))
}

/// The server of that variable; `None`: its cases do not run, which was said.
fn server(variable: &str) -> Outcome<Option<String>> {
    match std::env::var(variable) {
        Ok(url) => Ok(Some(url)),
        Err(_) => {
            let said = format!(
                "NOT RUN: a case of shared data, because {variable} is not set (scripts/services run COMMAND sets it)"
            );
            if std::env::var_os("PROCESSION_TEST_SERVERS").is_some_and(|all| all == "required") {
                return Err(said.into());
            }
            // Not eprintln!, which the test's harness would keep to itself.
            writeln!(std::io::stderr(), "{said}")?;
            Ok(None)
        }
    }
}

impl Place {
    fn new(which: Which) -> Outcome<Option<Self>> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let (store, keeps) = match which {
            Which::Here => {
                let manager = Manager::new()?;
                let url = manager.url("x");
                let store = url.trim_end_matches("?name=x").to_owned();
                (store, Keeps::Manager { _manager: manager })
            }
            Which::Elsewhere | Which::Tcp => {
                let endpoint = match which {
                    Which::Tcp => "tcp://127.0.0.1:*",
                    _ => "",
                };
                let (process, store) = start_host(endpoint)?;
                (store, Keeps::Host(process))
            }
            Which::Sqlite => {
                let folder = tempfile::tempdir()?;
                let store = format!("sqlite:{}", folder.path().join("data.db").display());
                (store, Keeps::Folder { _folder: folder })
            }
            Which::Redis | Which::Postgres => {
                let variable = match which {
                    Which::Redis => "PROCESSION_TEST_REDIS",
                    _ => "PROCESSION_TEST_POSTGRES",
                };
                match server(variable)? {
                    Some(store) => (store, Keeps::Nothing),
                    None => return Ok(None),
                }
            }
        };
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
        let run = format!("{}-{}-{number}", std::process::id(), time.as_nanos());
        Ok(Some(Self {
            which,
            store,
            run,
            _keeps: keeps,
        }))
    }

    fn url(&self, name: &str) -> String {
        let sign = if self.store.contains('?') { '&' } else { '?' };
        format!("{}{sign}name={}-{name}", self.store, self.run)
    }

    fn dict<K, V>(&self, name: &str) -> Outcome<Dict<K, V>> {
        Ok(Dict::open(self.url(name))?)
    }

    fn list<T>(&self, name: &str) -> Outcome<List<T>> {
        Ok(List::open(self.url(name))?)
    }

    fn counter(&self, name: &str) -> Outcome<Counter> {
        Ok(Counter::open(self.url(name))?)
    }
}

fn run(which: Which, case: fn(&Place) -> Outcome) -> Outcome {
    in_time(move || match Place::new(which)? {
        Some(place) => case(&place),
        None => Ok(()),
    })
}

macro_rules! on_every_store {
    ($($case:ident)*) => {
        on_every_store!(@ here Here $($case)*);
        on_every_store!(@ elsewhere Elsewhere $($case)*);
        on_every_store!(@ tcp Tcp $($case)*);
        on_every_store!(@ sqlite Sqlite $($case)*);
        on_every_store!(@ redis Redis $($case)*);
        on_every_store!(@ postgres Postgres $($case)*);
    };
    (@ $module:ident $which:ident $($case:ident)*) => {
        mod $module {
            $(
                #[test]
                fn $case() -> super::Outcome {
                    super::run(super::Which::$which, super::$case)
                }
            )*
        }
    };
}

on_every_store! {
    a_dict_is_set_read_removed_and_iterated
    a_dict_of_many_pages_is_seen_exactly_once
    updates_by_several_processes_are_exact
    an_update_that_panics_changes_nothing
    of_those_who_compare_and_swap_one_wins
    what_expires_is_gone_and_is_told
    a_watcher_sees_what_another_process_does
    a_watcher_of_many_changes_ends_with_what_is_there
    a_list_does_what_a_vector_does
    elements_pushed_and_popped_by_several_processes_are_there_once
    counters_of_several_processes_are_exact
    attributes_have_types_of_their_own
    what_is_too_large_is_refused_and_what_is_large_is_not
    a_writer_killed_half_way_leaves_nothing_half_done
    names_and_kinds_are_apart_and_types_are_told
    what_a_process_leaves_is_there_for_the_next
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
struct Place2D {
    x: i32,
    y: i32,
}

fn a_dict_is_set_read_removed_and_iterated(place: &Place) -> Outcome {
    let dict: Dict<Place2D, String> = place.dict("places")?;
    let at = |x, y| Place2D { x, y };
    assert!(dict.is_empty()? && dict.get(&at(0, 0))?.is_none());
    dict.insert(&at(0, 0), "origin")?;
    dict.insert(&at(3, 4), "five away")?;
    dict.insert(&at(0, 0), "here")?;
    assert_eq!(dict.get(&at(0, 0))?.as_deref(), Some("here"));
    assert!(dict.contains(&at(3, 4))? && !dict.contains(&at(4, 3))?);
    assert_eq!(dict.len()?, 2);
    let all: HashMap<_, _> = dict.iter().collect::<Result<_, _>>()?;
    assert_eq!(all[&at(3, 4)], "five away");
    let mut keys = dict.keys().collect::<Result<Vec<_>, _>>()?;
    keys.sort();
    assert_eq!(keys, [at(0, 0), at(3, 4)]);
    assert_eq!(dict.values().collect::<Result<Vec<_>, _>>()?.len(), 2);
    assert!(!dict.insert_if_absent(&at(0, 0), "there")?);
    assert!(dict.insert_if_absent(&at(9, 9), "there")?);
    assert_eq!(dict.remove(&at(9, 9))?.as_deref(), Some("there"));
    assert_eq!(dict.remove(&at(9, 9))?, None);
    let longer = dict.update(&at(0, 0), |text| text.map(|text| text + "!"))?;
    assert_eq!(longer.as_deref(), Some("here!"));
    assert_eq!(dict.update(&at(0, 0), |_| None)?, None);
    assert_eq!(dict.update(&at(0, 0), |_| None)?, None);
    assert_eq!(dict.len()?, 1);
    dict.clear()?;
    assert!(dict.is_empty()? && dict.iter().next().is_none());
    dict.insert(&at(1, 1), "again")?;
    assert_eq!(dict.len()?, 1);
    // A clone and a handle that has travelled are the same dictionary.
    let travelled: Dict<Place2D, String> = rmp_serde::from_slice(&rmp_serde::to_vec(&dict)?)?;
    assert_eq!(travelled.get(&at(1, 1))?.as_deref(), Some("again"));
    assert_eq!(dict.clone().name(), travelled.name());
    Ok(())
}

fn a_dict_of_many_pages_is_seen_exactly_once(place: &Place) -> Outcome {
    let dict: Dict<u32, Vec<u8>> = place.dict("pages")?;
    // Many small ones, and some that fill a page alone.
    let size = |key: u32| if key.is_multiple_of(100) { 700_000 } else { 10 };
    for key in 0..700 {
        dict.insert(&key, &vec![1; size(key)])?;
    }
    let mut seen = BTreeMap::new();
    for row in dict.iter() {
        let (key, value) = row?;
        assert_eq!(value.len(), size(key));
        assert!(seen.insert(key, ()).is_none(), "{key} twice");
        // What comes and goes meanwhile harms nobody.
        if key.is_multiple_of(50) {
            dict.insert(&(key + 10_000), &vec![1; 700_000])?;
            dict.remove(&(key + 10_000))?;
        }
        if key == 500 {
            dict.insert(&key, &vec![1; size(key)])?;
        }
    }
    assert!(seen.keys().copied().eq(0..700), "{} keys", seen.len());
    assert_eq!(dict.len()?, 700);
    Ok(())
}

#[procession::task]
fn add_to_all(dict: Dict<String, u64>, counts: List<u64>, times: u64) -> procession::Result<()> {
    for _ in 0..times {
        dict.update("count", |count| Some(count.unwrap_or(0) + 1))?;
        counts.update(1, |count| count + 1)?;
    }
    Ok(())
}

fn updates_by_several_processes_are_exact(place: &Place) -> Outcome {
    const TIMES: u64 = 60;
    let dict: Dict<String, u64> = place.dict("counts")?;
    let list: List<u64> = place.list("counts")?;
    list.extend([0, 0])?;
    let add = || Process::spawn(add_to_all, (dict.clone(), list.clone(), TIMES));
    let processes = (0..3).map(|_| add()).collect::<Result<Vec<_>, _>>()?;
    // Threads of one process as well.
    std::thread::scope(|scope| -> Outcome {
        let add = || {
            (0..TIMES).try_for_each(|_| {
                dict.update("count", |count| Some(count.unwrap_or(0) + 1))
                    .map(drop)
            })
        };
        let threads = [scope.spawn(add), scope.spawn(add)];
        for thread in threads {
            thread.join().map_err(|_| "it panicked")??;
        }
        Ok(())
    })?;
    for process in &processes {
        value(process)?;
    }
    assert_eq!(dict.get("count")?, Some(5 * TIMES));
    assert_eq!(list.to_vec()?, [0, 3 * TIMES]);
    Ok(())
}

fn an_update_that_panics_changes_nothing(place: &Place) -> Outcome {
    let dict: Dict<String, u64> = place.dict("panics")?;
    dict.insert("a", &1)?;
    let panics = || dict.update("a", |_| panic!("on purpose"));
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(panics));
    assert!(caught.is_err());
    assert_eq!(
        dict.update("a", |value| value.map(|value| value + 1))?,
        Some(2)
    );
    // Whatever the closure does, also to the same key.
    let nested = dict.update("a", |value| {
        if value == Some(2) {
            dict.insert("a", &10).expect("it can be set");
        }
        value.map(|value| value + 1)
    })?;
    assert_eq!(nested, Some(11), "it was called again with what is there");
    Ok(())
}

#[procession::task]
fn become_leader(dict: Dict<String, u32>, me: u32, go: Counter) -> procession::Result<bool> {
    go.add(1)?;
    while go.get()? < 4 {
        std::thread::sleep(Duration::from_millis(1));
    }
    dict.compare_and_swap("leader", None, Some(&me))
}

fn of_those_who_compare_and_swap_one_wins(place: &Place) -> Outcome {
    let dict: Dict<String, u32> = place.dict("leader")?;
    let go = place.counter("go")?;
    let processes = (0..4)
        .map(|me| Process::spawn(become_leader, (dict.clone(), me, go.clone())))
        .collect::<Result<Vec<_>, _>>()?;
    let mut winners = Vec::new();
    for (me, process) in (0..).zip(&processes) {
        if value(process)? {
            winners.push(me);
        }
    }
    assert_eq!(winners.len(), 1, "{winners:?}");
    assert_eq!(dict.get("leader")?, Some(winners[0]));
    assert!(!dict.compare_and_swap("leader", Some(&99), Some(&1))?);
    assert!(dict.compare_and_swap("leader", Some(&winners[0]), Some(&winners[0]))?);
    assert!(dict.compare_and_swap("leader", Some(&winners[0]), None)?);
    assert!(!dict.compare_and_swap("leader", Some(&winners[0]), None)?);
    assert!(dict.compare_and_swap("leader", None, None)? && dict.is_empty()?);
    let list: List<String> = place.list("words")?;
    list.push("one")?;
    let (one, two) = ("one".to_owned(), "two".to_owned());
    assert!(!list.compare_and_swap(0, &two, &one)? && list.compare_and_swap(0, &one, &two)?);
    assert!(!list.compare_and_swap(1, &two, &one)?);
    assert_eq!(list.to_vec()?, ["two"]);
    Ok(())
}

fn soon<T>(watch: &mut Watch<T>) -> Outcome<T> {
    watch
        .recv_timeout(DEADLINE)?
        .ok_or_else(|| "no change was told".into())
}

fn what_expires_is_gone_and_is_told(place: &Place) -> Outcome {
    const SHORT: Duration = Duration::from_millis(400);
    const LONG: Duration = Duration::from_secs(1000);
    let dict: Dict<String, u32> = place.dict("brief")?;
    let mut watch = dict.watch()?;
    dict.insert("stays", &0)?;
    dict.insert_with_expiry("long", &1, LONG)?;
    dict.insert_with_expiry("brief", &2, SHORT)?;
    let left = dict.expires_in("brief")?;
    assert!(left.is_none_or(|left| left <= SHORT), "{left:?}");
    assert!(dict.expires_in("long")? > Some(LONG / 2));
    assert_eq!(dict.expires_in("stays")?, None);
    // It keeps its time when it is changed, and loses it when it is set.
    dict.update("long", |value| value.map(|value| value + 10))?;
    assert!(dict.expires_in("long")? > Some(LONG / 2));
    assert!(dict.compare_and_swap("long", Some(&11), Some(&12))?);
    assert!(dict.expires_in("long")? > Some(LONG / 2));
    assert!(dict.persist("long")? && dict.expires_in("long")?.is_none());
    assert!(dict.expire("long", LONG)? && dict.expires_in("long")?.is_some());
    dict.insert("long", &3)?;
    assert_eq!(dict.expires_in("long")?, None);
    assert!(!dict.expire("nobody", LONG)? && !dict.persist("nobody")?);
    // Nobody does anything, and it is told.
    let begun = Instant::now();
    loop {
        match soon(&mut watch)? {
            Change::Removed { key } => {
                assert_eq!(key, "brief");
                break;
            }
            Change::Set { key, .. } => assert!(["stays", "long", "brief"].contains(&&*key)),
            other => return Err(format!("{other:?}").into()),
        }
    }
    assert!(begun.elapsed() < DEADLINE);
    assert_eq!(dict.get("brief")?, None);
    assert_eq!(dict.len()?, 2);
    assert!(dict.keys().all(|key| key.is_ok_and(|key| key != "brief")));
    assert!(dict.insert_if_absent("brief", &4)? && dict.expires_in("brief")?.is_none());
    // Readers see it go also when nobody watches.
    drop(watch);
    for key in 0..300 {
        dict.insert_with_expiry(&format!("{key}"), &0, Duration::from_millis(50))?;
    }
    until("all have expired", || Ok(dict.len()? == 3))?;
    assert_eq!(dict.iter().count(), 3);
    assert_eq!(
        dict.update("7", |value| Some(value.map_or(1, |_| 2)))?,
        Some(1)
    );
    assert_eq!(
        dict.expires_in("7")?,
        None,
        "a new one does not take over what has expired"
    );
    Ok(())
}

#[procession::task]
fn change_much(dict: Dict<String, u32>) -> procession::Result<()> {
    for number in 0..50 {
        dict.insert(&format!("{}", number % 10), &number)?;
    }
    dict.remove("3")?;
    dict.insert("last", &0)
}

fn a_watcher_sees_what_another_process_does(place: &Place) -> Outcome {
    let dict: Dict<String, u32> = place.dict("watched")?;
    dict.insert("before", &1)?;
    let mut watch = dict.watch()?;
    assert_eq!(watch.try_recv()?, None);
    assert_eq!(watch.recv_timeout(Duration::from_millis(30))?, None);
    let process = Process::spawn(change_much, (dict.clone(),))?;
    let mut seen = HashMap::new();
    loop {
        match soon(&mut watch)? {
            Change::Set { key, value } => {
                let before = seen.insert(key.clone(), value);
                assert!(
                    before.is_none_or(|before| before < value),
                    "{key}: {value} after {before:?}"
                );
                if key == "last" {
                    break;
                }
            }
            Change::Removed { key } => {
                assert_eq!(key, "3");
                seen.remove(&key);
            }
            other => return Err(format!("{other:?}").into()),
        }
    }
    value(&process)?;
    dict.remove("before")?;
    let now: HashMap<_, _> = dict.iter().collect::<Result<_, _>>()?;
    assert_eq!(seen, now);
    assert_eq!(
        soon(&mut watch)?,
        Change::Removed {
            key: "before".to_owned()
        }
    );
    dict.clear()?;
    dict.insert("new", &5)?;
    assert_eq!(soon(&mut watch)?, Change::Cleared);
    let set = Change::Set {
        key: "new".to_owned(),
        value: 5,
    };
    assert_eq!(soon(&mut watch)?, set);
    assert_eq!(watch.try_recv()?, None);
    Ok(())
}

fn a_watcher_of_many_changes_ends_with_what_is_there(place: &Place) -> Outcome {
    let dict: Dict<u32, Vec<u8>> = place.dict("many")?;
    let mut watch = dict.watch()?;
    let list: List<u32> = place.list("many")?;
    let mut lengths = list.watch()?;
    list.extend(0..1000)?;
    // More than one page, by number and by size.
    for key in 0..600 {
        dict.insert(&key, &vec![0; if key % 100 == 0 { 700_000 } else { 3 }])?;
    }
    for key in (0..600).step_by(2) {
        dict.remove(&key)?;
    }
    dict.insert(&1000, &Vec::new())?;
    let mut order = Vec::new();
    loop {
        match soon(&mut watch)? {
            Change::Set { key: 1000, .. } => break,
            Change::Set { key, .. } => order.push((key, true)),
            Change::Removed { key } => order.push((key, false)),
            other => return Err(format!("{other:?}").into()),
        }
    }
    let set = order
        .iter()
        .filter(|(_, is_set)| *is_set)
        .map(|(key, _)| *key);
    assert!(set.eq((1..600).step_by(2)));
    let removed = order
        .iter()
        .filter(|(_, is_set)| !*is_set)
        .map(|(key, _)| *key);
    assert!(removed.eq((0..600).step_by(2)));
    assert_eq!(soon(&mut lengths)?, 1000);
    // As many pages, as many words.
    while lengths.try_recv()?.is_some() {}
    list.set(999, &7)?;
    assert_eq!(soon(&mut lengths)?, 1000, "elements count, too");
    Ok(())
}

fn a_list_does_what_a_vector_does(place: &Place) -> Outcome {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let list: List<u32> = place.list("list")?;
    let mut model: VecDeque<u32> = VecDeque::new();
    for round in 0..250 {
        let index = random.usize(0..=model.len() + 1);
        match random.u32(0..12) {
            0..3 => assert_eq!(list.push(&round)?, {
                model.push_back(round);
                model.len() - 1
            }),
            3 => assert_eq!(list.pop()?, model.pop_back()),
            4..7 => match index <= model.len() {
                true => {
                    list.insert(index, &round)?;
                    model.insert(index, round);
                }
                false => assert!(list.insert(index, &round).is_err()),
            },
            7 => assert_eq!(list.remove(index)?, model.remove(index)),
            8 => match model.get_mut(index) {
                Some(element) => {
                    list.set(index, &round)?;
                    *element = round;
                }
                None => {
                    let error = list
                        .set(index, &round)
                        .expect_err("there is none")
                        .to_string();
                    assert!(
                        error.contains(&format!("none with index {index}")),
                        "{error}"
                    );
                }
            },
            9 => assert_eq!(list.get(index)?, model.get(index).copied()),
            10 => {
                let changed = model.get_mut(index).map(|element| {
                    *element += 1;
                    *element
                });
                assert_eq!(list.update(index, |element| element + 1)?, changed);
            }
            _ => {
                list.extend([round, round])?;
                model.extend([round, round]);
            }
        }
        assert_eq!(list.len()?, model.len());
    }
    assert_eq!(VecDeque::from(list.to_vec()?), model);
    // Another handle, which has not seen where the elements are.
    let other: List<u32> = place.list("list")?;
    assert_eq!(other.get(0)?, model.front().copied());
    assert_eq!(other.pop()?, model.pop_back());
    list.replace(&[3, 2, 1])?;
    assert_eq!((other.to_vec()?, other.len()?), (vec![3, 2, 1], 3));
    list.clear()?;
    assert!(other.is_empty()? && other.pop()?.is_none() && other.get(0)?.is_none());
    list.extend(0..5000)?;
    assert_eq!(other.len()?, 5000);
    assert!(
        other
            .iter()
            .map(|element| element.unwrap_or(u32::MAX))
            .eq(0..5000)
    );
    assert_eq!(other.remove(2)?, Some(2));
    assert_eq!(
        (other.get(2)?, other.get(4998)?, other.get(4999)?),
        (Some(3), Some(4999), None)
    );
    Ok(())
}

#[procession::task]
fn push_and_pop(
    list: List<(u32, u32)>,
    taken: List<(u32, u32)>,
    me: u32,
) -> procession::Result<()> {
    for number in 0..30 {
        list.push(&(me, number))?;
        if number % 2 == 0 {
            let element = list.remove(0)?;
            taken.extend(element)?;
        }
    }
    Ok(())
}

fn elements_pushed_and_popped_by_several_processes_are_there_once(place: &Place) -> Outcome {
    let (list, taken) = (place.list("list")?, place.list("taken")?);
    let processes = (0..3)
        .map(|me| Process::spawn(push_and_pop, (list.clone(), taken.clone(), me)))
        .collect::<Result<Vec<_>, _>>()?;
    for process in &processes {
        value(process)?;
    }
    let left = list.to_vec()?;
    assert_eq!((left.len(), taken.len()?), (45, 45));
    for me in 0..3 {
        let mine = left.iter().filter(|(whose, _)| *whose == me);
        assert!(mine.is_sorted_by_key(|(_, number)| *number), "{left:?}");
    }
    let mut all = taken.to_vec()?;
    all.extend(left);
    all.sort_unstable();
    let expected = (0..3).flat_map(|me| (0..30).map(move |number| (me, number)));
    assert!(all.iter().copied().eq(expected), "{all:?}");
    Ok(())
}

#[procession::task]
fn add_up(counter: Counter, times: u32) -> procession::Result<Vec<i64>> {
    (0..times).map(|_| counter.add(1)).collect()
}

fn counters_of_several_processes_are_exact(place: &Place) -> Outcome {
    const TIMES: u32 = 80;
    let counter = place.counter("counter")?;
    assert_eq!(counter.get()?, 0);
    let mut watch = counter.watch()?;
    let processes = (0..3)
        .map(|_| Process::spawn(add_up, (counter.clone(), TIMES)))
        .collect::<Result<Vec<_>, _>>()?;
    let mut all = Vec::new();
    for process in &processes {
        all.extend(value(process)?);
    }
    all.sort_unstable();
    assert!(
        all.iter().copied().eq(1..=i64::from(3 * TIMES)),
        "each number once: {all:?}"
    );
    let mut last = 0;
    while last < i64::from(3 * TIMES) {
        let now = soon(&mut watch)?;
        assert!(now >= last, "{now} after {last}");
        last = now;
    }
    assert!(counter.compare_and_swap(i64::from(3 * TIMES), i64::MAX)?);
    assert!(!counter.compare_and_swap(0, 1)?);
    let error = counter.add(1).expect_err("there is no more").to_string();
    assert!(error.contains("beyond 64 bits"), "{error}");
    assert_eq!(counter.get()?, i64::MAX);
    counter.set(i64::MIN)?;
    assert_eq!(counter.add(1)?, i64::MIN + 1);
    assert_eq!(counter.update(|_| None)?, None);
    Ok(())
}

fn attributes_have_types_of_their_own(place: &Place) -> Outcome {
    let namespace = Namespace::open(place.url("settings"))?;
    let mut watch = namespace.watch()?;
    assert_eq!(namespace.get::<u32>("x")?, None);
    namespace.set("x", &7_u32)?;
    namespace.set("name", "census")?;
    namespace.set("place", &Place2D { x: 1, y: 2 })?;
    assert_eq!(namespace.get::<u32>("x")?, Some(7));
    assert_eq!(namespace.get::<String>("name")?.as_deref(), Some("census"));
    assert_eq!(
        namespace.get::<Place2D>("place")?,
        Some(Place2D { x: 1, y: 2 })
    );
    let error = namespace.get::<u32>("name").expect_err("it is a text");
    assert!(matches!(error, Error::Encoding { .. }), "{error}");
    let mut names = namespace.names()?;
    names.sort();
    assert_eq!(names, ["name", "place", "x"]);
    assert_eq!(
        namespace.update("x", |x: Option<u32>| x.map(|x| x + 1))?,
        Some(8)
    );
    assert!(namespace.remove("name")? && !namespace.remove("name")?);
    loop {
        match soon(&mut watch)? {
            Change::Set { key, value } if key == "x" => assert!(value.get::<u32>()? >= 7),
            Change::Removed { key } => {
                assert_eq!(key, "name");
                break;
            }
            _ => {}
        }
    }
    Ok(())
}

fn what_is_too_large_is_refused_and_what_is_large_is_not(place: &Place) -> Outcome {
    let dict: Dict<String, procession::Bytes> = place.dict("large")?;
    let large: Vec<u8> = (0..9 << 20).map(|at| (at % 251) as u8).collect();
    let large = procession::Bytes::from(large);
    dict.insert("large", &large)?;
    assert!(dict.get("large")? == Some(large.clone()));
    dict.insert("other", &large)?;
    let all = dict.iter().collect::<Result<Vec<_>, _>>()?;
    assert!(all.len() == 2 && all.iter().all(|(_, value)| *value == large));
    let error = dict.insert("large", &procession::Bytes::from(vec![0; 33 << 20]));
    assert!(
        matches!(
            error,
            Err(Error::TooLong {
                limit: 33_554_432,
                ..
            })
        ),
        "{error:?}"
    );
    let error = dict.insert(&"k".repeat(3000), &procession::Bytes::new());
    assert!(
        matches!(error, Err(Error::TooLong { limit: 2000, .. })),
        "{error:?}"
    );
    dict.insert(&"k".repeat(1990), &procession::Bytes::new())?;
    assert!(dict.contains(&"k".repeat(1990))?);
    assert!(dict.get("large")? == Some(large));
    let list: List<u32> = place.list("large")?;
    let error = list
        .replace(&vec![0; 10_001])
        .expect_err("too many at once")
        .to_string();
    assert!(error.contains("in one step"), "{error}");
    assert!(list.is_empty()?);
    Ok(())
}

/// Changes several things that belong together, without an end.
#[procession::task]
fn write_and_write(
    list: List<u64>,
    pair: Dict<String, (u64, Vec<u64>)>,
    told: Queue<u32>,
) -> procession::Result<()> {
    for round in 0.. {
        // Elements move, so that many rows are written.
        list.insert(list.len()? / 2, &round)?;
        if round % 3 == 0 {
            list.remove(1)?;
        }
        pair.update("pair", |pair| {
            let (count, mut all) = pair.unwrap_or_default();
            all.push(count);
            Some((count + 1, all))
        })?;
        if round == 1 {
            told.put(1)?;
            told.flush()?;
        }
    }
    Ok(())
}

fn a_writer_killed_half_way_leaves_nothing_half_done(place: &Place) -> Outcome {
    let (list, pair) = (place.list("list")?, place.dict("pair")?);
    list.extend(0..40)?;
    for _ in 0..4 {
        let told = Queue::new()?;
        let writer = Process::spawn(write_and_write, (list.clone(), pair.clone(), told.clone()))?;
        next(&told)?;
        std::thread::sleep(Duration::from_micros(fastrand::u64(0..20_000)));
        kill(&writer)?;
        // What it had sent last, a server may be doing yet.
        let mut all = list.to_vec()?;
        until("nothing changes any more", || {
            std::thread::sleep(Duration::from_millis(50));
            let before = std::mem::replace(&mut all, list.to_vec()?);
            Ok(before == all)
        })?;
        assert_eq!(all.len(), list.len()?, "without gaps");
        for (index, element) in all.iter().enumerate() {
            assert_eq!(list.get(index)?, Some(*element));
        }
        let (count, numbers) = pair.get("pair")?.ok_or("nothing was written")?;
        assert!(numbers.iter().copied().eq(0..count));
        // Nothing is locked: others go on at once.
        assert_eq!(list.push(&1000)?, all.len());
        assert_eq!(list.pop()?, Some(1000));
        pair.update("pair", |pair| pair)?;
    }
    Ok(())
}

fn names_and_kinds_are_apart_and_types_are_told(place: &Place) -> Outcome {
    let one: Dict<String, u32> = place.dict("a")?;
    let other: Dict<String, u32> = place.dict("b")?;
    let list: List<String> = place.list("a")?;
    one.insert("x", &1)?;
    list.push("element")?;
    assert!(other.is_empty()? && one.len()? == 1 && list.len()? == 1);
    let wrong: Dict<String, String> = place.dict("a")?;
    let error = wrong.get("x").expect_err("it is a number").to_string();
    assert!(
        error.contains("String") && error.contains("same types"),
        "{error}"
    );
    let encoded = rmp_serde::to_vec(&one)?;
    let error = rmp_serde::from_slice::<List<u32>>(&encoded).expect_err("it is a dict");
    assert!(error.to_string().contains("no list"), "{error}");
    // Nothing that is shown has a password in it.
    let secret = place
        .store
        .split_once("://")
        .and_then(|(_, rest)| Some(rest.split_once('@')?.0));
    let secret = secret.map(|secret| secret.rsplit(':').next().unwrap_or(secret));
    let shown = format!("{one:?} {list:?} {:?} {error}", one.watch()?);
    assert!(
        secret.is_none_or(|secret| !shown.contains(secret)),
        "{shown}"
    );
    assert!(shown.contains("Dict("), "{shown}");
    assert_eq!(
        secret.is_some(),
        matches!(place.which, Which::Redis | Which::Postgres)
    );
    Ok(())
}

#[procession::task]
fn leave_something(url: String) -> procession::Result<()> {
    Dict::<String, String>::open(url)?.insert("left", "by one who has ended")
}

fn what_a_process_leaves_is_there_for_the_next(place: &Place) -> Outcome {
    value(&Process::spawn(leave_something, (place.url("left"),))?)?;
    let dict: Dict<String, String> = place.dict("left")?;
    assert_eq!(dict.get("left")?.as_deref(), Some("by one who has ended"));
    Ok(())
}

#[test]
fn the_end_of_a_manager_is_told_and_another_one_begins_with_nothing() -> Outcome {
    in_time(|| {
        let folder = tempfile::tempdir()?;
        let endpoint = format!("ipc://{}", folder.path().join("manager").display());
        let (process, store) = start_host(&endpoint)?;
        let url = format!("{store}?name=a");
        let dict = Dict::<String, u32>::open(&url)?;
        dict.insert("a", &1)?;
        let mut watch = dict.watch()?;
        std::thread::scope(|scope| -> Outcome {
            let waits = scope.spawn(|| watch.recv());
            kill(&process)?;
            let error = waits
                .join()
                .map_err(|_| "it panicked")?
                .expect_err("it has ended");
            assert!(matches!(error, Error::ManagerGone { .. }), "{error}");
            Ok(())
        })?;
        let error = dict.get("a").expect_err("it has ended").to_string();
        assert!(
            error.contains("has ended, and what it held with it") && error.contains("sqlite:"),
            "{error}"
        );
        let (process, _) = start_host(&endpoint)?;
        let error = dict
            .insert("a", &2)
            .expect_err("it is another one")
            .to_string();
        assert!(error.contains("another one is there now"), "{error}");
        let dict = Dict::<String, u32>::open(&url)?;
        assert!(dict.is_empty()?);
        kill(&process)
    })
}

#[test]
fn what_is_wrong_with_a_url_is_said() -> Outcome {
    in_time(|| {
        let text = |url: &str| Dict::<String, u32>::open(url).expect_err(url).to_string();
        assert!(text("sqlite:/tmp/x.db").contains("?name=NAME"));
        assert!(text("sqlite:/nowhere/at/all/x.db?name=a").contains("is its folder there"));
        assert!(text("sqlite:/etc/passwd?name=a").contains("something else"));
        let folder = tempfile::tempdir()?;
        let nobody = format!("ipc://{}/nobody?name=a&patience=1", folder.path().display());
        assert!(text(&nobody).contains("heard nobody"), "{}", text(&nobody));
        for scheme in ["redis", "postgres"] {
            let error = text(&format!(
                "{scheme}://user:hidden@127.0.0.1:1/0?name=a&patience=1"
            ));
            assert!(
                error.contains("is it running") && !error.contains("hidden"),
                "{error}"
            );
        }
        // A file of ours that is of another kind.
        let path = folder.path().join("other.db");
        rusqlite::Connection::open(&path)?.execute_batch("CREATE TABLE a (b)")?;
        let error = text(&format!("sqlite:{}?name=a", path.display()));
        assert!(error.contains("left as it is"), "{error}");
        if let Some(url) = server("PROCESSION_TEST_REDIS")? {
            let (_, at) = url.split_once('@').ok_or("it has a password")?;
            let error = text(&format!("redis://:wrong-one@{at}?name=a"));
            assert!(
                error.contains("give the password") && !error.contains("wrong-one"),
                "{error}"
            );
        }
        if let Some(url) = server("PROCESSION_TEST_POSTGRES")? {
            let (_, at) = url.split_once('@').ok_or("it has a password")?;
            let error = text(&format!("postgres://procession:wrong-one@{at}?name=a"));
            assert!(
                error.contains("password authentication failed") && !error.contains("wrong-one"),
                "{error}"
            );
        }
        Ok(())
    })
}

#[test]
fn many_processes_may_make_one_file_at_the_same_time() -> Outcome {
    in_time(|| {
        for _ in 0..3 {
            let folder = tempfile::tempdir()?;
            let url = format!(
                "sqlite:{}?name=left&sync=normal",
                folder.path().join("new.db").display()
            );
            let processes = (0..6)
                .map(|_| Process::spawn(leave_something, (url.clone(),)))
                .collect::<Result<Vec<_>, _>>()?;
            for process in &processes {
                value(process)?;
            }
        }
        Ok(())
    })
}

#[test]
fn a_manager_that_is_full_says_so_and_goes_on() -> Outcome {
    in_time(|| {
        let manager = Manager::new()?;
        manager.limit(1 << 20);
        let dict = manager.dict::<u32, Vec<u8>>()?;
        let error = (0..100).try_for_each(|key| dict.insert(&key, &vec![1; 100_000]));
        let error = error.expect_err("it is full").to_string();
        assert!(
            error.contains("holds as much as it may, 1048576 bytes"),
            "{error}"
        );
        let there = dict.len()?;
        assert!((5..11).contains(&there), "{there}");
        dict.remove(&0)?;
        dict.insert(&0, &vec![2; 100_000])?;
        dict.clear()?;
        dict.insert(&0, &vec![2; 100_000])?;
        Ok(())
    })
}

/// A way to a server that is cut again and again.
struct Cutter {
    address: std::net::SocketAddr,
    cuts: Arc<AtomicU64>,
    is_away: Arc<AtomicBool>,
    is_over: Arc<AtomicBool>,
    streams: Arc<Mutex<Vec<TcpStream>>>,
}

impl Cutter {
    /// Passes so many of the server's answers on, each connection fewer than twice that, and then cuts it: mostly after a request was passed on.
    fn new(server: String, answers: u64) -> Outcome<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let cutter = Self {
            address: listener.local_addr()?,
            cuts: Arc::default(),
            is_away: Arc::default(),
            is_over: Arc::default(),
            streams: Arc::default(),
        };
        let (cuts, is_away) = (Arc::clone(&cutter.cuts), Arc::clone(&cutter.is_away));
        let (is_over, streams) = (Arc::clone(&cutter.is_over), Arc::clone(&cutter.streams));
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let Ok(client) = client else { return };
                if is_over.load(Ordering::Relaxed) {
                    return;
                }
                if is_away.load(Ordering::Relaxed) {
                    continue;
                }
                let Ok(server) = TcpStream::connect(&server) else {
                    continue;
                };
                let mut all = streams.lock().unwrap_or_else(PoisonError::into_inner);
                all.extend(client.try_clone());
                drop(all);
                let left = answers + fastrand::u64(0..answers.max(1));
                let cuts = Arc::clone(&cuts);
                std::thread::spawn(move || {
                    let ways = (client.try_clone(), server.try_clone());
                    let (Ok(from_client), Ok(to_server)) = ways else {
                        return;
                    };
                    std::thread::spawn(move || pass(from_client, to_server, u64::MAX));
                    if pass(server, client, left) {
                        cuts.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        Ok(cutter)
    }

    /// Cuts everything, and lets nobody in.
    fn away(&self, is_away: bool) {
        self.is_away.store(is_away, Ordering::Relaxed);
        for stream in self
            .streams
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .drain(..)
        {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Cutter {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        self.away(true);
        let _ = TcpStream::connect(self.address);
    }
}

/// Passes so many pieces on, and then drops one and cuts; whether it has come to that.
fn pass(mut from: TcpStream, mut to: TcpStream, pieces: u64) -> bool {
    let mut buffer = vec![0; 64 << 10];
    let mut passed = 0;
    let was_cut = loop {
        match from.read(&mut buffer) {
            Ok(len) if len > 0 => {
                if passed == pieces {
                    break true;
                }
                passed += 1;
                if to.write_all(&buffer[..len]).is_err() {
                    break false;
                }
            }
            _ => break false,
        }
    };
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
    was_cut
}

/// Nothing is lost and nothing done twice, although answers are lost all the time.
fn changes_by_a_way_that_is_cut_are_exact(variable: &str, answers: u64) -> Outcome {
    let Some(direct) = server(variable)? else {
        return Ok(());
    };
    let (_, at) = direct.split_once('@').ok_or("it has a password")?;
    let at = at.split('/').next().unwrap_or(at);
    let cutter = Cutter::new(at.to_owned(), answers)?;
    let cut = direct.replace(at, &cutter.address.to_string());
    let name = format!("cut-{}-{}", std::process::id(), fastrand::u64(..));
    let counter = Counter::open(format!("{cut}?name={name}"))?;
    let list = List::<u32>::open(format!("{cut}?name={name}"))?;
    let mut watch = list.watch()?;
    for number in 0..120 {
        assert_eq!(counter.add(1)?, i64::from(number) + 1);
        list.push(&number)?;
        if number == 60 {
            cutter.away(true);
            std::thread::sleep(Duration::from_millis(300));
            cutter.away(false);
        }
    }
    while soon(&mut watch)? < 120 {}
    let direct_list = List::<u32>::open(format!("{direct}?name={name}"))?;
    assert!(direct_list.to_vec()?.into_iter().eq(0..120));
    let cuts = cutter.cuts.load(Ordering::Relaxed);
    assert!(cuts >= 5, "it was cut {cuts} times only");
    // If it does not come back, that is an error in time, which says that nobody knows.
    let brief = Counter::open(format!("{cut}?name={name}&patience=1"))?;
    brief.add(1)?;
    cutter.away(true);
    let error = brief.set(5).expect_err("it is away");
    assert!(
        matches!(error, Error::FateUnknown { .. } | Error::SharedData { .. }),
        "{error}"
    );
    let error = brief.get().expect_err("it is away").to_string();
    assert!(error.contains("not to be reached for 1 s"), "{error}");
    Ok(())
}

#[test]
fn changes_in_redis_by_a_way_that_is_cut_are_exact() -> Outcome {
    in_time(|| changes_by_a_way_that_is_cut_are_exact("PROCESSION_TEST_REDIS", 20))
}

#[test]
fn changes_in_postgres_by_a_way_that_is_cut_are_exact() -> Outcome {
    in_time(|| changes_by_a_way_that_is_cut_are_exact("PROCESSION_TEST_POSTGRES", 40))
}

/// Runs the script with a server of this test's own.
fn services(state: &Path, arguments: &[&str]) -> Outcome<std::process::Output> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/services");
    let output = Command::new(script)
        .args(arguments)
        .env("PROCESSION_SERVICES", state)
        .output()?;
    match output.status.success() {
        true => Ok(output),
        false => Err(String::from_utf8_lossy(&output.stderr).into()),
    }
}

struct Own(tempfile::TempDir, &'static str);

impl Drop for Own {
    fn drop(&mut self) {
        let _ = services(self.0.path(), &["down", self.1]);
    }
}

fn a_server_that_is_started_anew_is_found_again(variable: &str, name: &'static str) -> Outcome {
    // Where there are no servers, this one is not there either.
    if server(variable)?.is_none() {
        return Ok(());
    }
    let own = Own(tempfile::tempdir()?, name);
    services(own.0.path(), &["up", name])?;
    let told = services(own.0.path(), &["env", name])?;
    let told = String::from_utf8(told.stdout)?;
    let url = told.split('\'').nth(1).ok_or("env says no URL")?;
    let url = format!("{url}?name=restarts&patience=60");
    let counter = Counter::open(&url)?;
    let mut watch = counter.watch()?;
    let child = Process::spawn(add_until, (counter.clone(),))?;
    until("it counts", || Ok(counter.get()? > 20))?;
    services(own.0.path(), &["restart", name])?;
    // In the other process, and in this one.
    let now = counter.get()?;
    until("it counts on", || Ok(counter.get()? > now + 20))?;
    counter.update(|count| count.checked_add(1 << 40))?;
    let added = value(&child)?;
    assert_eq!(
        counter.get()?,
        (1 << 40) + added,
        "what was confirmed was done once, and is there"
    );
    while soon(&mut watch)? < 1 << 40 {}
    Ok(())
}

/// Adds one by one until somebody has added much; how much.
#[procession::task]
fn add_until(counter: Counter) -> procession::Result<i64> {
    let mut added = 0;
    loop {
        let now = counter.add(1)?;
        added += 1;
        if now > 1 << 40 {
            return Ok(added);
        }
    }
}

#[test]
fn redis_that_is_started_anew_is_found_again() -> Outcome {
    in_time(|| a_server_that_is_started_anew_is_found_again("PROCESSION_TEST_REDIS", "redis"))
}

#[test]
fn postgres_that_is_started_anew_is_found_again() -> Outcome {
    in_time(|| a_server_that_is_started_anew_is_found_again("PROCESSION_TEST_POSTGRES", "postgres"))
}
