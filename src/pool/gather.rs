//! What comes back from the workers finds its job; what has to be done again is handed in anew.
//!
//! | came back | what follows |
//! |---|---|
//! | a result of all calls of a chunk | the job has it |
//! | one of its first calls only (the worker left, or the chunk took too long) | the job has these, the rest is handed in anew |
//! | its worker died | a single call is run again, alone on its worker, as often as `retries` says; of a chunk nobody knows which call it was, so it is run again in parts, each alone, that become single calls with the last retry |

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::chunk::{self, Manner};
use super::feed::to_body;
use super::inner::Inner;
use super::job::{End, Fewer, Job, Lost, Segment, What};
use super::table::Entry;
use crate::hub::gather::Arrived;
use crate::pipeline::{Got, Sink};
use crate::wire::body::Body;

/// The exit status of a chunk whose last call took longer than its limit.
pub(super) const TIMED_OUT: i32 = 124;
/// That of one with another call that has no value.
pub(super) const FAILED: i32 = 1;

/// How often to look whether workers of other programs are there.
const GLANCE: Duration = Duration::from_millis(500);

/// What is told to one job at once.
#[derive(Default)]
struct News {
    segments: Vec<Segment>,
    fewer: Fewer,
}

/// Waits until the pill, or until the sink is told to leave; tells then all who wait.
pub(super) fn watch(pool: &Arc<Inner>, mut sink: Sink<Body>) {
    let why = loop {
        // Results do not come this way: they are delivered. A pool without processes of its own looks from time to time whether
        // anybody is there.
        let next = match pool.patience {
            None => sink.get().map(|_| Got::Ended),
            Some(_) => sink.get_timeout(GLANCE),
        };
        match next {
            Ok(Got::Ended) => break "the pool has ended".to_owned(),
            Ok(_) => pool.check_patience(),
            Err(error) => break format!("the pool's results cannot be gathered: {error}"),
        }
    };
    pool.table.end(&End::Ended(why));
    pool.refill();
}

/// Takes results to their jobs. Runs in the sink's thread.
pub(super) fn deal_with(pool: &Arc<Inner>, results: VecDeque<Arrived>) {
    let entries = pool.table.take(results.iter().map(|result| result.id));
    let mut job: Option<Arc<Job>> = None;
    let mut news = News::default();
    for (result, entry) in results.into_iter().zip(entries) {
        // One whose pool has ended is nobody's.
        let Some(entry) = entry else {
            continue;
        };
        if !job.as_ref().is_some_and(|job| Arc::ptr_eq(job, &entry.job)) {
            tell(job.as_ref(), &mut news);
            job = Some(Arc::clone(&entry.job));
        }
        news.fewer.calls += u64::from(entry.calls);
        news.fewer.bytes += entry.body.len();
        news.fewer.failed |= result.exit != 0;
        if !result.error {
            let time = Duration::from_micros(result.micros);
            returned(pool, entry, &result.body, result.exit, time, &mut news);
        } else if let Some(verdict) = pool.orders.take_verdict(result.id) {
            let how = pool.how_it_died(verdict.pid, &verdict.host);
            died(pool, entry, verdict.pid, &verdict.host, how, &mut news);
        } else {
            let text = result.body.to_bytes().unwrap_or_default();
            let why = String::from_utf8_lossy(&text).into_owned();
            lost(&entry, Lost::Bytes(why), &mut news);
        }
    }
    tell(job.as_ref(), &mut news);
    pool.table.dealt();
    pool.refill();
}

fn tell(job: Option<&Arc<Job>>, news: &mut News) {
    if let Some(job) = job {
        let News { segments, fewer } = std::mem::take(news);
        job.came_back(segments, fewer);
    }
}

fn lost(entry: &Entry, lost: Lost, news: &mut News) {
    news.segments.push(Segment {
        first: entry.first,
        calls: entry.calls,
        what: What::Lost(lost),
    });
}

/// A result: of all calls, or of the first of them.
fn returned(
    pool: &Arc<Inner>,
    entry: Entry,
    body: &Body,
    exit: i32,
    time: Duration,
    news: &mut News,
) {
    let bytes = match body.to_bytes() {
        Ok(bytes) => bytes,
        Err(error) => {
            let why = format!("its value cannot be read back: {error}");
            return lost(&entry, Lost::Bytes(why), news);
        }
    };
    let Some(made) = chunk::calls_in(&bytes).filter(|made| *made <= entry.calls) else {
        let why = "the worker's answer cannot be read; are both sides of the same version?";
        return lost(&entry, Lost::Bytes(why.to_owned()), news);
    };
    news.fewer.measured += u64::from(made);
    news.fewer.time += time;
    let again = exit == TIMED_OUT && entry.job.rules.retry_timed_out && entry.left > 0;
    let kept = if again { made.saturating_sub(1) } else { made };
    if kept > 0 {
        news.segments.push(Segment {
            first: entry.first,
            calls: kept,
            what: What::Result(bytes),
        });
    }
    if again {
        hand_in_part(pool, &entry, kept, made, entry.left - 1, false, news);
    }
    if made < entry.calls {
        hand_in_part(pool, &entry, made, entry.calls, entry.left, false, news);
    }
}

/// Its worker died while it ran it, as far as is known.
fn died(pool: &Arc<Inner>, entry: Entry, pid: u32, host: &str, how: String, news: &mut News) {
    let rules = &entry.job.rules;
    if entry.left == 0 {
        log::warn!(
            "{} is given up: worker process {pid} on {host} {how}",
            rules.task
        );
        let attempt = rules.retries + 1;
        let host = host.to_owned();
        return lost(
            &entry,
            Lost::Died {
                pid,
                host,
                how,
                attempt,
            },
            news,
        );
    }
    log::info!(
        "worker process {pid} on {host} {how} while it ran {}; it is run again",
        rules.task
    );
    let size = part_size(entry.calls, entry.left);
    let mut from = 0;
    while from < entry.calls {
        let to = (from + size).min(entry.calls);
        hand_in_part(pool, &entry, from, to, entry.left - 1, true, news);
        from = to;
    }
}

/// Into how large parts a chunk is cut, so that those of the last of `left` runs are single calls.
fn part_size(calls: u32, left: u32) -> u32 {
    if left <= 1 {
        return 1;
    }
    let parts = f64::from(calls).powf(1.0 / f64::from(left)).ceil();
    calls.div_ceil(parts as u32).max(1)
}

fn hand_in_part(
    pool: &Arc<Inner>,
    entry: &Entry,
    from: u32,
    to: u32,
    left: u32,
    alone: bool,
    news: &mut News,
) {
    let rules = &entry.job.rules;
    // What is run because somebody died must not be cut short again and again.
    let manner = Manner {
        cut: if alone { 0 } else { rules.manner.cut },
        ..rules.manner
    };
    let part = entry
        .body
        .to_bytes()
        .map_err(|error| format!("its arguments cannot be read back: {error}"))
        .and_then(|bytes| chunk::part(&bytes, manner, from, to).map_err(str::to_owned))
        .and_then(|bytes| to_body(bytes).map_err(|error| error.to_string()));
    let first = entry.first + u64::from(from);
    let calls = to - from;
    match part {
        Ok(body) => {
            let part = Entry {
                job: Arc::clone(&entry.job),
                first,
                calls,
                body,
                left,
            };
            if let Err(end) = pool.table.hand_in(vec![part], alone) {
                entry.job.end(&end);
            }
        }
        Err(why) => news.segments.push(Segment {
            first,
            calls,
            what: What::Lost(Lost::Bytes(why)),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::part_size;

    #[test]
    fn a_chunk_is_single_calls_with_the_last_retry() {
        for calls in [1, 2, 7, 100, 4096] {
            for retries in 1..5 {
                let mut size = calls;
                for left in (1..=retries).rev() {
                    let part = part_size(size, left);
                    assert!(part <= size && part > 0);
                    size = part;
                }
                assert_eq!(size, 1, "{calls} calls, {retries} retries");
            }
        }
        assert_eq!(part_size(4096, 2), 64);
    }
}
