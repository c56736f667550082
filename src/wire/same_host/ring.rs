//! A ring of frames from one writer to one reader (pure: the memory and its atomics are behind [`Memory`]; docs/same-host.md).
//!
//! Positions count bytes from the beginning of time; where a byte lies is its position modulo the size. An entry is a length and the
//! bytes, rounded up to [`ALIGN`], and never wraps: in front of the end lies a mark that says that the rest is nothing.

use std::sync::atomic::Ordering;

/// Entries begin at multiples of it, in bytes; their heads are as long.
pub(crate) const ALIGN: u64 = 8;
/// An empty ring goes on at the beginning behind so many bytes.
const KEPT: u64 = 64 << 10;
/// Whether it is empty is looked for behind so many bytes.
const LOOK_EVERY: u64 = 4 << 10;
/// Instead of a length: go on at the beginning.
const WRAP: u32 = u32::MAX;
/// Instead of a length: what follows comes by the socket.
const BACK: u32 = u32::MAX - 1;

/// The memory of a ring.
pub(crate) trait Memory {
    /// Bytes of data, a multiple of [`ALIGN`].
    fn size(&self) -> u64;
    /// How far the writer is.
    fn written(&self, order: Ordering) -> u64;
    fn set_written(&self, at: u64, order: Ordering);
    /// How far the reader is.
    fn read(&self, order: Ordering) -> u64;
    fn set_read(&self, at: u64, order: Ordering);
    /// Whether the reader sleeps, and wants to be woken.
    fn asleep(&self, order: Ordering) -> bool;
    fn swap_asleep(&self, asleep: bool, order: Ordering) -> bool;
    fn fence(&self);
    /// Copies bytes to `offset`. Only the writer does it, where the reader has been.
    fn put(&self, offset: u64, bytes: &[u8]);
    /// Copies bytes from `offset`. Only the reader does it, where the writer has been.
    fn get(&self, offset: u64, bytes: &mut [u8]);
    /// The same, behind what `bytes` has.
    fn append(&self, offset: u64, len: usize, bytes: &mut Vec<u8>);
}

const fn entry(len: u64) -> u64 {
    ALIGN + len.next_multiple_of(ALIGN)
}

/// The end that writes.
pub(crate) struct Writer<M> {
    memory: M,
    at: u64,
    /// Where the reader was when it was looked for last.
    read: u64,
    /// Where it is looked for again although there is room.
    look_at: u64,
}

impl<M: Memory> Writer<M> {
    pub(crate) const fn new(memory: M) -> Self {
        Self {
            memory,
            at: 0,
            read: 0,
            look_at: 0,
        }
    }

    pub(crate) const fn memory(&self) -> &M {
        &self.memory
    }

    /// Whether frames of that length can be in it at all: several at once, or it is of no use for them.
    pub(crate) fn takes(&self, len: usize) -> bool {
        len as u64 <= self.memory.size() / 4
    }

    /// Bytes that lie in it.
    pub(crate) fn used(&mut self) -> u64 {
        self.read = self.memory.read(Ordering::Acquire);
        // It is another process that says so.
        self.at.saturating_sub(self.read)
    }

    /// Writes a frame; `None` when there is no room, otherwise whether the reader sleeps and is to be woken.
    pub(crate) fn push(&mut self, frame: &[u8]) -> Option<bool> {
        let size = self.memory.size();
        let len = frame.len() as u64;
        let offset = self.at % size;
        let to_end = size - offset;
        // An empty ring begins anew before much of it was touched, so that little memory carries much, and stays in the cache.
        let anew =
            offset >= KEPT.min(size / 2) && self.is_seen_empty() && entry(len) + ALIGN <= offset;
        let skipped = if anew || entry(len) > to_end {
            to_end
        } else {
            0
        };
        // A mark has always room behind it.
        let needed = skipped + entry(len) + ALIGN;
        if needed > size.saturating_sub(self.at.saturating_sub(self.read))
            && needed > size.saturating_sub(self.used())
        {
            return None;
        }
        if skipped > 0 {
            self.memory.put(offset, &WRAP.to_le_bytes());
        }
        let offset = (offset + skipped) % size;
        self.memory.put(offset + ALIGN, frame);
        self.memory.put(offset, &(len as u32).to_le_bytes());
        self.publish(skipped + entry(len));
        Some(self.is_asleep())
    }

    /// Whether it is empty, as far as that is known without looking each time: the reader's position is in another core's cache.
    fn is_seen_empty(&mut self) -> bool {
        if self.at >= self.look_at {
            self.look_at = self.at + LOOK_EVERY.min(self.memory.size() / 8);
            self.used();
        }
        self.at == self.read
    }

    /// Writes that what follows comes by the socket. There is room for that behind every frame; whether the reader is to be woken.
    pub(crate) fn push_back(&mut self) -> bool {
        let offset = self.at % self.memory.size();
        self.memory.put(offset, &BACK.to_le_bytes());
        self.publish(ALIGN);
        self.is_asleep()
    }

    fn publish(&mut self, bytes: u64) {
        self.at += bytes;
        self.memory.set_written(self.at, Ordering::Release);
    }

    /// Whether the reader sleeps; whoever is told wakes it.
    fn is_asleep(&self) -> bool {
        // Either this sees that it sleeps, or it sees what was written.
        self.memory.fence();
        self.memory.asleep(Ordering::Relaxed) && self.memory.swap_asleep(false, Ordering::AcqRel)
    }
}

/// The end that reads.
pub(crate) struct Reader<M> {
    memory: M,
    at: u64,
    /// Where the writer was when it was looked for last.
    written: u64,
}

/// What a reader finds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Frame(Vec<u8>),
    /// What follows comes by the socket.
    Back,
    Nothing,
    /// No writer of ours has written this.
    Nonsense,
}

impl<M: Memory> Reader<M> {
    pub(crate) const fn new(memory: M) -> Self {
        Self {
            memory,
            at: 0,
            written: 0,
        }
    }

    pub(crate) const fn memory(&self) -> &M {
        &self.memory
    }

    /// How far it is.
    pub(crate) const fn at(&self) -> u64 {
        self.at
    }

    /// How far the writer is.
    pub(crate) fn end(&self) -> u64 {
        self.memory.written(Ordering::Acquire)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.at == self.written && self.at == self.memory.written(Ordering::Acquire)
    }

    pub(crate) fn pop(&mut self) -> Found {
        let size = self.memory.size();
        loop {
            if self.at == self.written {
                self.written = self.memory.written(Ordering::Acquire);
                if self.at == self.written {
                    return Found::Nothing;
                }
            }
            let there = self.written.wrapping_sub(self.at);
            if there > size || there < ALIGN || !there.is_multiple_of(ALIGN) {
                return Found::Nonsense;
            }
            let offset = self.at % size;
            let to_end = size - offset;
            let mut head = [0; 4];
            self.memory.get(offset, &mut head);
            match u32::from_le_bytes(head) {
                WRAP if to_end < there => self.took(to_end),
                WRAP => return Found::Nonsense,
                BACK => {
                    self.took(ALIGN);
                    return Found::Back;
                }
                len if entry(len.into()) > to_end.min(there) => return Found::Nonsense,
                len => {
                    let mut frame = Vec::with_capacity(len as usize);
                    self.memory.append(offset + ALIGN, len as usize, &mut frame);
                    self.took(entry(len.into()));
                    return Found::Frame(frame);
                }
            }
        }
    }

    fn took(&mut self, bytes: u64) {
        self.at += bytes;
        self.memory.set_read(self.at, Ordering::Release);
    }

    /// Says that it does not.
    pub(crate) fn rise(&self) {
        if self.memory.asleep(Ordering::Relaxed) {
            self.memory.swap_asleep(false, Ordering::AcqRel);
        }
    }
}

/// Says that the reader, who is at `at`, sleeps; whether it may: nothing has come meanwhile.
pub(crate) fn doze(memory: &impl Memory, at: u64) -> bool {
    memory.swap_asleep(true, Ordering::AcqRel);
    // Either this sees what was written, or its writer sees that the reader sleeps.
    memory.fence();
    memory.written(Ordering::Acquire) == at
}

#[cfg(test)]
mod tests;
