//! The workers of `pool_server`: two processes that join its pool, on this host or another, and leave when it ends.
//!
//! ```text
//! cargo run --example pool_worker -- tcp://127.0.0.1:5557
//! ```
//!
//! Kill one of its processes: it is replaced, and what it had is done again.

use procession::Pool;

/// The same function as in `pool_server`, under the same name.
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
        .unwrap_or_else(|| "tcp://127.0.0.1:5557".to_owned());
    Pool::worker(&endpoint).workers(2).run()
}
