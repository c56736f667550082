//! How long a receiver polls before it sleeps: no longer than a wake-up costs, and only where that pays.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// What is polled for at most, whatever a wake-up seems to cost.
const LONGEST: Duration = Duration::from_micros(100);
/// What is still tried: what it takes to answer one who polls.
const SHORTEST: Duration = Duration::from_micros(4);
/// One of so many times in vain it is tried for longest. Where both ends sleep, an answer takes a wake-up of the other end's and more: neither would
/// see otherwise that polling pays if both do.
const PROBE: u32 = 16;
/// A look takes far less; whoever was away for longer had its core taken.
const PREEMPTED: Duration = Duration::from_micros(20);
/// So many sleeps without polling after that.
const REST: u32 = 64;

/// One thread's habit.
#[derive(Debug)]
pub(crate) struct Spin {
    budget: Duration,
    rest: u32,
    /// So many times in vain.
    vain: u32,
}

impl Spin {
    pub(crate) const fn new() -> Self {
        Self {
            budget: LONGEST,
            rest: 0,
            vain: 0,
        }
    }

    /// Polls until `sees_some`, for as long as it pays; whether it does.
    pub(crate) fn until(&mut self, sees_some: impl Fn() -> bool) -> bool {
        let cost = wake_up();
        if cost.is_zero() {
            return false;
        }
        if self.rest > 0 {
            self.rest -= 1;
            return false;
        }
        let probes = self.vain % PROBE == PROBE - 1;
        let budget = if probes {
            LONGEST
        } else {
            self.budget.min(cost)
        };
        let since = Instant::now();
        let mut looked = since;
        loop {
            for _ in 0..16 {
                if sees_some() {
                    self.budget =
                        if probes { cost } else { self.budget * 2 }.clamp(SHORTEST, LONGEST);
                    self.vain = 0;
                    return true;
                }
                std::hint::spin_loop();
            }
            let now = Instant::now();
            if now - looked > PREEMPTED {
                // Somebody else has better use for the core.
                self.rest = REST;
                return false;
            }
            if now - since >= budget {
                self.budget = (self.budget / 2).max(SHORTEST);
                self.vain = self.vain.wrapping_add(1);
                return false;
            }
            looked = now;
        }
    }
}

/// What going to sleep and being woken costs here; none: polling does not pay at all, because there is one core.
fn wake_up() -> Duration {
    static COST: OnceLock<Duration> = OnceLock::new();
    *COST.get_or_init(|| match std::thread::available_parallelism() {
        Ok(cores) if cores.get() > 1 => {
            let cost = measured().unwrap_or(LONGEST / 2);
            // Threads that were awake anyway may have taken turns on one core.
            cost.clamp(2 * SHORTEST, LONGEST)
        }
        _ => Duration::ZERO,
    })
}

/// Half of the time that a byte takes to another thread and back, through two pipes: the median of some.
fn measured() -> Option<Duration> {
    const TIMES: usize = 9;
    let (there, out) = std::io::pipe().ok()?;
    let (back, home) = std::io::pipe().ok()?;
    let echo = std::thread::Builder::new().spawn(move || {
        use std::io::{Read, Write};
        let (mut there, mut home) = (there, home);
        let mut byte = [0];
        while let Ok(1) = there.read(&mut byte) {
            if home.write_all(&byte).is_err() {
                break;
            }
        }
    });
    let echo = echo.ok()?;
    let mut times: Vec<Duration> = (0..TIMES)
        .map_while(|_| {
            use std::io::{Read, Write};
            let since = Instant::now();
            (&out).write_all(&[1]).ok()?;
            (&back).read_exact(&mut [0]).ok()?;
            Some(since.elapsed() / 2)
        })
        .collect();
    drop(out);
    let _ = echo.join();
    times.sort_unstable();
    times.get(times.len() / 2).copied()
}
