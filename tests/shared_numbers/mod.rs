//! Numbers that several test processes read and write, in a file that each has mapped.
#![allow(dead_code, reason = "no test uses all of it")]

use std::fs::OpenOptions;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::mm::{MapFlags, ProtFlags, mmap};

const COUNT: usize = 8;

/// Eight numbers, mapped until the process ends.
pub struct Numbers(&'static [AtomicU64; COUNT]);

impl Numbers {
    /// Those of this file, which is made if need be.
    pub fn open(path: impl AsRef<Path>) -> std::io::Result<Self> {
        let mut options = OpenOptions::new();
        let file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        let len = size_of::<[AtomicU64; COUNT]>();
        file.set_len(len as u64)?;
        // SAFETY: a new mapping of a file that is as long and stays so; it is never unmapped, and only used as atomics.
        unsafe {
            let there = mmap(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                &file,
                0,
            )?;
            Ok(Self(&*there.cast()))
        }
    }

    pub fn get(&self, index: usize) -> u64 {
        self.0[index].load(Ordering::SeqCst)
    }

    pub fn set(&self, index: usize, value: u64) {
        self.0[index].store(value, Ordering::SeqCst);
    }

    /// In two steps: what another adds between them is lost.
    pub fn add_one(&self, index: usize) -> u64 {
        let value = self.0[index].load(Ordering::Relaxed) + 1;
        self.0[index].store(value, Ordering::Relaxed);
        value
    }

    /// In one step.
    pub fn add(&self, index: usize, more: u64) -> u64 {
        self.0[index]
            .fetch_add(more, Ordering::SeqCst)
            .wrapping_add(more)
    }
}
