//! A pool whose workers may be on other hosts: this program hands out the work, and `pool_worker` does it.
//!
//! In two terminals, in any order:
//!
//! ```text
//! cargo run --example pool_server -- tcp://127.0.0.1:5557
//! cargo run --example pool_worker -- tcp://127.0.0.1:5557      as many as you like
//! ```
//!
//! From another host tunnel the port (`ssh -L 5557:localhost:5557 HOST`). You should see how many primes there are below a million,
//! and which processes counted them. The same function is in both programs, under the same name.

use std::collections::BTreeMap;

use procession::Pool;

/// How many primes there are in `from..to`, and who counted them.
#[procession::task(name = "primes")]
fn primes(from: u32, to: u32) -> (u32, u32) {
    let is_prime = |n: &u32| {
        *n > 1
            && (2..)
                .take_while(|d| d * d <= *n)
                .all(|d| !n.is_multiple_of(d))
    };
    (
        (from..to).filter(is_prime).count() as u32,
        std::process::id(),
    )
}

#[procession::main]
fn main() -> procession::Result<()> {
    let endpoint = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "tcp://127.0.0.1:*".to_owned());
    // No processes of its own: all is done by those that join.
    let pool = Pool::builder().workers(0).bind(endpoint).start()?;
    if let Some(endpoint) = pool.endpoint() {
        println!("waiting for workers at {endpoint}");
    }
    let ranges = (0..1_000).map(|n| (n * 1_000, (n + 1) * 1_000));
    let mut done_by: BTreeMap<u32, u32> = BTreeMap::new();
    let mut all = 0;
    for (found, pid) in pool.starmap(primes, ranges)? {
        all += found;
        *done_by.entry(pid).or_default() += 1;
    }
    println!("{all} primes below 1000000");
    for (pid, ranges) in done_by {
        println!("process {pid} did {ranges} of 1000 ranges");
    }
    pool.join()
}
