//! A manager: objects of a type of your own, held by this process, whose methods other processes call by name.
//!
//! ```text
//! cargo run --example manager
//! ```
//!
//! Three children deposit and withdraw at one bank. You see that no money is lost, what a refused withdrawal says, and that the children share a log.

use std::collections::HashMap;

use procession::Process;
use procession::shared::{List, Manager, Proxy, Remote};

/// Knows nothing of processes.
#[derive(Default)]
struct Bank {
    accounts: HashMap<String, u64>,
}

impl Bank {
    fn deposit(&mut self, owner: String, amount: u64) -> u64 {
        let balance = self.accounts.entry(owner).or_default();
        *balance += amount;
        *balance
    }

    fn withdraw(&mut self, owner: String, amount: u64) -> Result<u64, String> {
        let balance = self.accounts.get_mut(&owner).ok_or("no such account")?;
        *balance = balance
            .checked_sub(amount)
            .ok_or_else(|| format!("{owner} has {balance} only"))?;
        Ok(*balance)
    }

    fn total(&self) -> u64 {
        self.accounts.values().sum()
    }
}

/// A child: a customer with a habit.
#[procession::task]
fn save(name: String, bank: Proxy, log: List<String>) -> procession::Result<()> {
    for _ in 0..100 {
        bank.call::<_, u64>("deposit", (&name, 3))?;
        bank.call::<_, u64>("withdraw", (&name, 2))?;
    }
    log.push(&format!("{name} is done"))?;
    Ok(())
}

#[procession::main]
fn main() -> procession::Result<()> {
    let manager = Manager::new()?;
    manager.register(
        Remote::new("Bank", Bank::default)
            .method("deposit", Bank::deposit)
            .try_method("withdraw", Bank::withdraw)
            .method("total", Bank::total),
    )?;
    let bank = manager.proxy("Bank")?;
    let log = manager.list::<String>()?;
    let customers: Vec<_> = ["Ada", "Grace", "Edsger"]
        .into_iter()
        .map(|name| Process::spawn(save, (name.to_owned(), bank.clone(), log.clone())))
        .collect::<procession::Result<_>>()?;
    for customer in customers {
        customer.join()?;
    }
    println!("{} entries in the log", log.len()?);
    println!("{} in the bank", bank.call::<_, u64>("total", ())?);
    if let Err(error) = bank.call::<_, u64>("withdraw", ("Ada", 1000)) {
        println!("{error}");
    }
    Ok(())
}
