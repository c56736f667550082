//! A stream of bytes as its lines.

use std::fs::File;
use std::io::{self, Read, Write};

use bytes::Bytes;
use procession::{Body, BodyWriter};

/// How much is read at a time, in bytes.
const BUFFER: usize = 128 << 10;

/// The lines of a file, pipe or terminal, each as soon as it is there.
///
/// Each line is a copy: slices that share the buffer would be no faster for short lines, and one unfinished task would
/// hold all of it in memory.
#[derive(Debug)]
pub struct Lines {
    file: File,
    end: u8,
    buffer: Box<[u8]>,
    /// What has been read and not taken yet is `buffer[start..filled]`; up to `searched` there is no line end in it.
    start: usize,
    searched: usize,
    filled: usize,
    /// The beginning of a line that is longer than the buffer.
    long: Option<BodyWriter>,
    at_end: bool,
    taken: u64,
}

impl Lines {
    /// The lines of `file`, which end in `end`.
    pub fn new(file: File, end: u8) -> Self {
        Self {
            file,
            end,
            buffer: vec![0; BUFFER].into_boxed_slice(),
            start: 0,
            searched: 0,
            filled: 0,
            long: None,
            at_end: false,
            taken: 0,
        }
    }

    /// Bytes that have become lines, their ends included.
    pub fn bytes_taken(&self) -> u64 {
        self.taken
    }

    /// The line `buffer[start..at]`, which `ends` bytes of line end follow.
    fn take(&mut self, at: usize, ends: usize) -> io::Result<Body> {
        let piece = &self.buffer[self.start..at];
        self.taken += (piece.len() + ends) as u64;
        let body = match self.long.take() {
            None => Body::Memory(Bytes::copy_from_slice(piece)),
            Some(mut long) => {
                long.write_all(piece)?;
                long.finish()?
            }
        };
        self.start = at + ends;
        self.searched = self.start;
        Ok(body)
    }

    /// Reads more behind what is there; `false` at the end.
    fn fill(&mut self) -> io::Result<bool> {
        if self.filled == BUFFER && self.start == 0 {
            // One line fills all of it.
            self.long.get_or_insert_default().write_all(&self.buffer)?;
            self.taken += BUFFER as u64;
            self.filled = 0;
        } else {
            self.buffer.copy_within(self.start..self.filled, 0);
            self.filled -= self.start;
            self.start = 0;
        }
        self.searched = self.filled;
        let n = read_some(&mut self.file, &mut self.buffer[self.filled..])?;
        self.filled += n;
        Ok(n > 0)
    }
}

impl Iterator for Lines {
    type Item = io::Result<Body>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(n) = memchr::memchr(self.end, &self.buffer[self.searched..self.filled]) {
                return Some(self.take(self.searched + n, 1));
            }
            if !self.at_end {
                match self.fill() {
                    Ok(more) => self.at_end = !more,
                    Err(error) => return Some(Err(error)),
                }
                continue;
            }
            if self.start < self.filled || self.long.is_some() {
                return Some(self.take(self.filled, 0));
            }
            return None;
        }
    }
}

/// One read, tried again when a signal interrupts it.
pub fn read_some(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match file.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}
