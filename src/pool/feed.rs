//! A job's input on its way in: items become chunks, and no more are handed in than the window allows.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::Serialize;

use super::chunk::Entries;
use super::inner::Inner;
use super::job::{Fewer, Job, Lost, Segment, What};
use super::table::Entry;
use crate::error::Result;
use crate::wire::body::{Body, BodyWriter, IN_MEMORY};

/// A chunk has about so many bytes at most: what travels inside a batch.
const CHUNK_BYTES: usize = 32 << 10;
/// Arguments under way have so many bytes at most, unless workers would have nothing to do.
const BYTES_UNDER_WAY: u64 = 8 << 20;
/// Results that somebody takes one by one have about so many bytes at most, unless workers would have nothing to do.
const RESULT_BYTES: u64 = 64 << 20;
/// Chunks of a group share an allocation up to about this size, in bytes.
const ARENA: usize = 16 << 10;
/// Chunks are handed in in groups of so many at most.
const GROUP: usize = 256;
/// An input that gives an item after so long only is waited for no longer than necessary.
const SLOW_INPUT: Duration = Duration::from_millis(1);

/// The input of one job.
pub(super) struct Feed<I> {
    pool: Arc<Inner>,
    job: Arc<Job>,
    items: I,
    given: u64,
    ended: bool,
    scratch: Vec<u8>,
    /// The bytes of a group of chunks, so that small ones share an allocation.
    arena: Vec<u8>,
    /// The input was slow.
    slow: bool,
    /// Results are taken one by one, and those that were not taken yet count.
    is_lazy: bool,
    /// Nobody asks again when nothing is under way.
    is_background: bool,
}

/// A chunk that is written, before its group is handed in.
struct Draft {
    first: u64,
    calls: u32,
    len: usize,
    /// Where it is when it is too large for the arena.
    body: Option<Body>,
}

impl<I: Iterator> Feed<I>
where
    I::Item: Serialize,
{
    pub(super) fn new(pool: Arc<Inner>, job: Arc<Job>, items: I) -> Self {
        Self {
            pool,
            job,
            items,
            given: 0,
            ended: false,
            scratch: Vec::new(),
            arena: Vec::new(),
            slow: true,
            is_lazy: false,
            is_background: false,
        }
    }

    /// The same for results that are taken one by one: what came back counts as well until it is taken, so that the input is not
    /// read for as long as workers keep up.
    pub(super) const fn lazy(mut self) -> Self {
        self.is_lazy = true;
        self
    }

    /// The same for one whose results nobody looks at before all are here: only what comes back has more handed in, so that items
    /// that cannot be sent must not stop it.
    pub(super) const fn background(mut self) -> Self {
        self.is_background = true;
        self
    }

    pub(super) const fn has_ended(&self) -> bool {
        self.ended
    }

    /// Half of what is under way, or of what may be.
    pub(super) fn half(&self) -> u64 {
        let room = self.job.room(self.pool.workers());
        room.window.min(room.calls) / 2
    }

    /// Hands in everything, however much is under way.
    ///
    /// # Errors
    /// When the pool has ended.
    pub(super) fn fill_all(&mut self) -> Result<()> {
        while !self.ended {
            if let Some(entry) = self.next_chunk(1) {
                let group = self.entries(vec![entry]);
                let handed_in = self.pool.table.hand_in(group, false);
                handed_in.map_err(|end| end.error())?;
            }
        }
        self.job.set_total(self.given);
        Ok(())
    }

    /// Hands in items until the window is full. `held`: calls whose results were taken and that nobody has looked at yet; they count.
    ///
    /// # Errors
    /// When the pool has ended.
    pub(super) fn fill(&mut self, held: u64) -> Result<()> {
        if self.ended {
            return Ok(());
        }
        let workers = self.pool.workers();
        // Items that cannot be sent have come back already, and nobody has looked at them.
        let mut held = held;
        while !self.ended {
            let room = self.job.room(workers);
            let few = u64::from(workers) * 2;
            let window = match self.is_lazy {
                true => room
                    .window
                    .min((RESULT_BYTES / room.result.max(1)).max(few))
                    .saturating_sub(room.here),
                false => room.window,
            };
            let mut open = window.saturating_sub(room.calls + held);
            if open == 0 {
                return Ok(());
            }
            if room.bytes >= BYTES_UNDER_WAY && room.calls >= few {
                return Ok(());
            }
            let mut group = Vec::new();
            self.arena = Vec::with_capacity(ARENA);
            let mut bytes = room.bytes;
            let since = Instant::now();
            let mut slow = false;
            while open > 0 && !self.ended && group.len() < GROUP {
                let given = self.given;
                let Some(draft) = self.next_chunk(workers) else {
                    let lost = self.given - given;
                    if !self.is_background {
                        // Otherwise they are counted with what is here.
                        held += if self.is_lazy { 0 } else { lost };
                        open = open.saturating_sub(lost);
                    }
                    continue;
                };
                bytes += draft.len as u64;
                open = open.saturating_sub(draft.calls.into());
                group.push(draft);
                // The clock is not looked at for each of many, unless the input was slow before.
                if self.slow || group.len().is_multiple_of(16) || open == 0 {
                    slow = since.elapsed() > SLOW_INPUT;
                }
                if slow || bytes >= BYTES_UNDER_WAY || self.arena.len() >= ARENA {
                    break;
                }
            }
            self.slow = slow;
            if group.is_empty() && self.ended {
                break;
            }
            let group = self.entries(group);
            let handed: u64 = group.iter().map(|entry| u64::from(entry.calls)).sum();
            self.pool
                .table
                .hand_in(group, false)
                .map_err(|end| end.error())?;
            // Who waits for results would rather have these than more items.
            if !self.ended && slow && room.calls + held + handed >= few {
                return Ok(());
            }
        }
        self.job.set_total(self.given);
        Ok(())
    }

    /// The next chunk; `None` when there was no item that can be sent.
    fn next_chunk(&mut self, workers: u32) -> Option<Draft> {
        let (least, most) = self.items.size_hint();
        let left = most.filter(|most| *most == least).map(|most| most as u64);
        let calls = self.job.chunk(left, workers);
        let first = self.given;
        let rules = &self.job.rules;
        let start = self.arena.len();
        let arena = std::mem::take(&mut self.arena);
        let mut entries = Entries::arguments_behind(arena, rules.task, rules.manner);
        let mut unsent = None;
        while entries.count() < calls && entries.len() - start < CHUNK_BYTES {
            let Some(item) = self.items.next() else {
                self.ended = true;
                break;
            };
            self.given += 1;
            self.scratch.clear();
            match rmp_serde::encode::write(&mut self.scratch, &item) {
                Ok(()) => entries.push(&self.scratch),
                Err(error) => {
                    unsent = Some(format!("its arguments cannot be encoded: {error}"));
                    break;
                }
            }
        }
        if self.scratch.capacity() > IN_MEMORY {
            self.scratch = Vec::new();
        }
        if let Some(why) = unsent {
            self.lost(self.given - 1, 1, why);
        }
        let calls = entries.count();
        self.arena = entries.finish();
        if calls == 0 {
            self.arena.truncate(start);
            return None;
        }
        let len = (self.arena.len() - start) as u64;
        let body = if len <= IN_MEMORY as u64 {
            None
        } else {
            match to_body(self.arena.split_off(start)) {
                Ok(body) => Some(body),
                Err(error) => {
                    let why = format!("there is no room for its arguments: {error}");
                    self.lost(first, calls, why);
                    return None;
                }
            }
        };
        Some(Draft {
            first,
            calls,
            len: len as usize,
            body,
        })
    }

    /// The chunks of a group, each with its part of the arena.
    fn entries(&mut self, group: Vec<Draft>) -> Vec<Entry> {
        let mut arena = Bytes::from(std::mem::take(&mut self.arena));
        let entries = group.into_iter().map(|draft| Entry {
            first: draft.first,
            calls: draft.calls,
            body: draft
                .body
                .unwrap_or_else(|| Body::Memory(arena.split_to(draft.len))),
            left: self.job.rules.retries,
            job: Arc::clone(&self.job),
        });
        entries.collect()
    }

    fn lost(&self, first: u64, calls: u32, why: String) {
        let what = What::Lost(Lost::Bytes(why));
        let segment = Segment { first, calls, what };
        self.job.came_back([segment], Fewer::default());
    }
}

/// Bytes as a body: in a temporary file when they are many.
pub(super) fn to_body(bytes: Vec<u8>) -> std::io::Result<Body> {
    if bytes.len() <= IN_MEMORY {
        return Ok(Body::from(bytes));
    }
    let mut writer = BodyWriter::new();
    std::io::Write::write_all(&mut writer, &bytes)?;
    writer.finish()
}
