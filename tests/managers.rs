//! Managers: objects of the program's own types, called by name from other processes, and what is left when one side ends.

mod children;

use std::collections::BTreeMap;
use std::time::Duration;

use children::{Outcome, in_time, kill, next, until, value};
use procession::shared::{Dict, Manager, Proxy, Remote};
use procession::{Error, Process, Queue};
use serde::{Deserialize, Serialize};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Entry {
    id: u32,
    amount: i64,
}

#[derive(Default)]
struct Accounts {
    balances: BTreeMap<u32, i64>,
}

impl Accounts {
    fn deposit(&mut self, id: u32, amount: i64) -> i64 {
        let balance = self.balances.entry(id).or_default();
        // Not in one step: what another call did in between would be lost.
        let before = *balance;
        std::thread::yield_now();
        *balance = before + amount;
        *balance
    }

    fn balance(&self, id: u32) -> Option<i64> {
        self.balances.get(&id).copied()
    }

    fn withdraw(&mut self, id: u32, amount: i64) -> Result<i64, String> {
        let balance = self
            .balances
            .get_mut(&id)
            .ok_or_else(|| format!("there is no account {id}"))?;
        *balance -= amount;
        Ok(*balance)
    }

    fn entries(&self) -> Vec<Entry> {
        let entries = self.balances.iter();
        entries.map(|(&id, &amount)| Entry { id, amount }).collect()
    }

    fn fail(&mut self) {
        self.balances.insert(666, 0);
        panic!("this one always panics");
    }
}

fn accounts() -> Remote<Accounts> {
    Remote::new("Accounts", Accounts::default)
        .method("deposit", Accounts::deposit)
        .method("balance", Accounts::balance)
        .try_method("withdraw", Accounts::withdraw)
        .method("entries", Accounts::entries)
        .method("fail", Accounts::fail)
        .method("sleep", |_: &Accounts, millis: u64| {
            std::thread::sleep(Duration::from_millis(millis))
        })
        .method("echo", |_: &mut Accounts, bytes: procession::Bytes| bytes)
}

#[procession::task]
fn deposit_often(accounts: Proxy, times: u32) -> procession::Result<()> {
    for _ in 0..times {
        accounts.call::<_, i64>("deposit", (1, 2))?;
    }
    Ok(())
}

/// The same object in this process and in others.
fn from_everywhere(manager: &Manager) -> Outcome {
    const TIMES: u32 = 200;
    let accounts = manager.proxy("Accounts")?;
    let processes = (0..3)
        .map(|_| Process::spawn(deposit_often, (accounts.clone(), TIMES)))
        .collect::<Result<Vec<_>, _>>()?;
    std::thread::scope(|scope| -> Outcome {
        let deposits =
            || (0..TIMES).try_for_each(|_| accounts.call::<_, i64>("deposit", (1, 2)).map(drop));
        let threads = [scope.spawn(deposits), scope.spawn(deposits)];
        for thread in threads {
            thread.join().map_err(|_| "it panicked")??;
        }
        Ok(())
    })?;
    for process in &processes {
        value(process)?;
    }
    let all = i64::from(5 * TIMES * 2);
    assert_eq!(accounts.call::<_, Option<i64>>("balance", (1,))?, Some(all));
    assert_eq!(accounts.call::<_, Option<i64>>("balance", (2,))?, None);
    assert_eq!(
        accounts.call::<_, Vec<Entry>>("entries", ())?,
        [Entry { id: 1, amount: all }]
    );
    Ok(())
}

#[test]
fn calls_from_several_processes_are_made_one_after_the_other() -> Outcome {
    in_time(|| {
        for manager in [Manager::new()?, Manager::bind("tcp://127.0.0.1:*")?] {
            manager.register(accounts())?;
            from_everywhere(&manager)?;
        }
        Ok(())
    })
}

/// Everything that can be wrong with a call; the same from the manager's process and from others.
fn what_is_told(accounts: &Proxy, unknown: Result<Proxy, Error>) -> Outcome<Vec<String>> {
    let mut told = Vec::new();
    let text = |error: Option<Error>| error.map(|error| error.to_string()).unwrap_or_default();
    told.push(text(accounts.call::<_, i64>("withdraw", (9, 1)).err()));
    told.push(text(accounts.call::<_, ()>("fail", ()).err()));
    told.push(text(accounts.call::<_, ()>("depositt", (9, 1)).err()));
    told.push(text(accounts.call::<_, ()>("deposit", ("nine", 1)).err()));
    told.push(text(accounts.call::<_, String>("deposit", (1, 1)).err()));
    told.push(text(unknown.err()));
    // What a method has left stays, and calls go on.
    assert_eq!(accounts.call::<_, Option<i64>>("balance", (666,))?, Some(0));
    Ok(told)
}

#[procession::task]
fn try_what_is_wrong(accounts: Proxy, url: String) -> Result<Vec<String>, String> {
    what_is_told(&accounts, Proxy::open(url)).map_err(|error| error.to_string())
}

#[test]
fn errors_panics_and_mistakes_are_told_to_the_caller() -> Outcome {
    in_time(|| {
        let manager = Manager::new()?;
        manager.register(accounts())?;
        manager.register(Remote::new("Bomb", || -> u32 { panic!("no fuse") }))?;
        let again = manager
            .register(accounts())
            .expect_err("there is one")
            .to_string();
        assert!(again.contains("already"), "{again}");
        let proxy = manager.proxy("Accounts")?;
        let here = what_is_told(&proxy, manager.proxy("Account"))?;
        let there = Process::spawn(try_what_is_wrong, (proxy.clone(), manager.url("Account")))?;
        for told in [here, value(&there)?] {
            let [withdraw, fail, name, arguments, output, unknown] = &told[..] else {
                return Err("six were tried".into());
            };
            assert!(
                withdraw.contains("Accounts.withdraw at ipc://"),
                "{withdraw}"
            );
            assert!(
                withdraw.contains("returned an error: there is no account 9"),
                "{withdraw}"
            );
            assert!(fail.contains("panicked at tests/managers.rs:"), "{fail}");
            assert!(fail.contains("this one always panics"), "{fail}");
            let known =
                "no method depositt; it has balance, deposit, echo, entries, fail, sleep, withdraw";
            assert!(name.contains(known), "{name}");
            assert!(
                arguments.contains("could not read its arguments"),
                "{arguments}"
            );
            assert!(
                output.contains("are not a alloc::string::String"),
                "{output}"
            );
            assert!(
                unknown.contains("no type Account; there is Accounts, Bomb"),
                "{unknown}"
            );
        }
        let bomb = manager.create("Bomb").expect_err("it explodes").to_string();
        assert!(bomb.contains("panicked: no fuse"), "{bomb}");
        Ok(())
    })
}

#[procession::task]
fn make_one(url: String) -> procession::Result<(Proxy, i64)> {
    let mine = Proxy::create(url)?;
    let balance = mine.call("deposit", (1, 10))?;
    Ok((mine, balance))
}

#[test]
fn created_objects_are_apart_and_are_there_until_they_are_removed() -> Outcome {
    in_time(|| {
        let manager = Manager::bind("tcp://127.0.0.1:*")?;
        manager.register(accounts())?;
        let shared = Proxy::open(manager.url("Accounts"))?;
        shared.call::<_, i64>("deposit", (1, 1))?;
        let mine = manager.create("Accounts")?;
        assert_eq!(mine.call::<_, i64>("deposit", (1, 5))?, 5);
        // Another process makes one, and ends; the object stays.
        let child = Process::spawn(make_one, (manager.url("Accounts"),))?;
        let (theirs, balance) = value(&child)?;
        assert_eq!(
            (balance, theirs.call::<_, i64>("deposit", (1, 1))?),
            (10, 11)
        );
        assert_eq!(theirs.type_name(), "Accounts");
        theirs.remove()?;
        theirs.remove()?;
        let error = theirs
            .call::<_, i64>("deposit", (1, 1))
            .expect_err("it was removed")
            .to_string();
        assert!(error.contains("was removed"), "{error}");
        shared.remove()?;
        assert_eq!(
            shared.call::<_, i64>("deposit", (1, 1))?,
            2,
            "the one that all share stays"
        );
        Ok(())
    })
}

#[procession::task]
fn sleep_there(accounts: Proxy, millis: u64) -> procession::Result<()> {
    accounts.call("sleep", (millis,))
}

#[procession::task]
fn echo(accounts: Proxy) -> procession::Result<bool> {
    let bytes = procession::Bytes::from(vec![7; 20 << 20]);
    Ok(accounts.call::<_, procession::Bytes>("echo", (&bytes,))? == bytes)
}

#[test]
fn a_call_may_take_long_and_be_large_and_keeps_no_other_object_waiting() -> Outcome {
    in_time(|| {
        let manager = Manager::new()?;
        manager.register(accounts())?;
        let (one, other) = (manager.create("Accounts")?, manager.create("Accounts")?);
        // Longer than a manager that says nothing is believed to be there.
        let sleeper = Process::spawn(sleep_there, (one.clone(), 6500))?;
        let large = Process::spawn(echo, (other.clone(),))?;
        assert!(value(&large)?);
        assert!(sleeper.is_alive());
        value(&sleeper)?;
        Ok(())
    })
}

#[test]
fn a_method_that_calls_its_own_object_is_told_so() -> Outcome {
    in_time(|| {
        let manager = Manager::new()?;
        let of_method = manager.clone();
        let narcissus = Remote::new("Narcissus", || ()).method("look", move |_: &mut ()| {
            let looks = of_method
                .proxy("Narcissus")
                .and_then(|me| me.call::<_, ()>("look", ()));
            looks.expect_err("it would wait for ever").to_string()
        });
        manager.register(narcissus)?;
        let told: String = manager.proxy("Narcissus")?.call("look", ())?;
        assert!(told.contains("wait for itself"), "{told}");
        Ok(())
    })
}

#[procession::task]
fn manage(endpoint: String, told: Queue<String>) -> procession::Result<()> {
    let manager = Manager::bind(endpoint)?;
    manager.register(accounts())?;
    told.put(manager.url("Accounts"))?;
    told.flush()?;
    loop {
        std::thread::park();
    }
}

#[test]
fn the_end_of_a_manager_is_an_error_for_those_who_call_and_those_who_call_later() -> Outcome {
    in_time(|| {
        let folder = tempfile::tempdir()?;
        let endpoint = format!("ipc://{}", folder.path().join("manager").display());
        let told = Queue::new()?;
        let host = Process::spawn(manage, (endpoint.clone(), told.clone()))?;
        let url = next(&told)?;
        let proxy = Proxy::open(&url)?;
        proxy.call::<_, i64>("deposit", (1, 1))?;
        std::thread::scope(|scope| -> Outcome {
            let call = scope.spawn(|| proxy.call::<_, ()>("sleep", (100_000,)));
            // It runs when another call has to wait for it.
            until("it runs", || {
                std::thread::sleep(Duration::from_millis(100));
                Ok(true)
            })?;
            kill(&host)?;
            let error = call
                .join()
                .map_err(|_| "it panicked")?
                .expect_err("it was killed");
            let text = error.to_string();
            assert!(matches!(error, Error::FateUnknown { .. }), "{text}");
            assert!(text.contains("call Accounts.sleep"), "{text}");
            Ok(())
        })?;
        let error = proxy
            .call::<_, i64>("deposit", (1, 1))
            .expect_err("it has ended");
        assert!(matches!(error, Error::ManagerGone { .. }), "{error}");
        let host = Process::spawn(manage, (endpoint, told.clone()))?;
        next(&told)?;
        let error = proxy
            .call::<_, i64>("deposit", (1, 1))
            .expect_err("it is another one");
        assert!(
            error.to_string().contains("another one is there"),
            "{error}"
        );
        assert_eq!(Proxy::open(&url)?.call::<_, i64>("deposit", (1, 1))?, 1);
        kill(&host)
    })
}

#[test]
fn a_manager_ends_with_its_last_handle_here() -> Outcome {
    in_time(|| {
        let folder = tempfile::tempdir()?;
        let endpoint = format!("ipc://{}", folder.path().join("manager").display());
        let manager = Manager::bind(&endpoint)?;
        let dict: Dict<String, u32> = manager.dict()?;
        let in_use = Manager::bind(&endpoint)
            .expect_err("it is in use")
            .to_string();
        assert!(in_use.contains(&endpoint), "{in_use}");
        drop(manager);
        // A handle in this process keeps it.
        let child = Process::spawn(insert, (dict.clone(),))?;
        value(&child)?;
        assert_eq!(dict.get("a")?, Some(1));
        drop(dict);
        until("its endpoint is free", || {
            Ok(Manager::bind(&endpoint).is_ok())
        })
    })
}

#[procession::task]
fn insert(dict: Dict<String, u32>) -> procession::Result<()> {
    dict.insert("a", &1)
}

#[test]
fn strangers_and_garbage_harm_nobody() -> Outcome {
    in_time(|| {
        let manager = Manager::bind("tcp://127.0.0.1:*")?;
        let dict: Dict<String, u32> = Dict::open(manager.url("a"))?;
        let url = manager.url("x");
        let endpoint = url.split('?').next().ok_or("an endpoint")?;
        for garbage in [
            &b"x"[..],
            b"\x01\xff\xff\xff",
            b"\x00",
            b"\x01\x81\xa4Read\x92",
            b"",
        ] {
            let stranger = procession::Client::connect::<String, String>(endpoint)?;
            stranger.send_bytes(garbage)?;
            if garbage != b"\x00" {
                // It is sent away.
                until("it was closed", || match stranger.recv_bytes(None) {
                    Ok(_) => Ok(false),
                    Err(Error::EndOfFile) => Ok(true),
                    Err(error) => Err(error.into()),
                })?;
            }
            dict.insert("a", &1)?;
        }
        let stranger = procession::Client::connect::<String, String>(endpoint)?;
        stranger.send(&"a value".to_owned())?;
        dict.insert("a", &1)?;
        // A listener of something else is no manager.
        let other = procession::Listener::<u32, u32>::bind("tcp://127.0.0.1:*")?;
        let endpoint = other.endpoint().to_string();
        let error = std::thread::scope(|scope| {
            scope.spawn(|| {
                other
                    .accept()
                    .and_then(|connection| connection.send(&7).map(|()| connection.recv()))
            });
            Dict::<String, u32>::open(format!("{endpoint}?name=a"))
                .expect_err("no manager")
                .to_string()
        });
        assert!(error.contains("no manager of shared data"), "{error}");
        Ok(())
    })
}
