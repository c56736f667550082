//! What has arrived at an end and was not taken by the program yet. Pure.

use std::collections::VecDeque;
use std::ops::Deref;

use super::frame::{Head, PART};
use crate::wire::socket::Frame;

/// A frame, and on which connection it came.
pub(super) struct Arrived {
    data: Data,
    /// The connection on which it counts as under way; what was spooled does not.
    pub(super) connection: Option<u64>,
}

enum Data {
    Frame(Frame),
    Memory(Vec<u8>),
}

impl Arrived {
    pub(super) const fn on(connection: u64, frame: Frame) -> Self {
        Self {
            data: Data::Frame(frame),
            connection: Some(connection),
        }
    }

    const fn spooled(frame: Vec<u8>) -> Self {
        Self {
            data: Data::Memory(frame),
            connection: None,
        }
    }
}

impl Deref for Arrived {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.data {
            Data::Frame(frame) => frame,
            Data::Memory(bytes) => bytes,
        }
    }
}

#[derive(Default)]
pub(super) struct Inbox {
    queue: VecDeque<Arrived>,
    /// How many bytes of the newest message are still to come.
    missing: u64,
    /// Counts the messages whose rest will never come.
    cuts: u64,
}

impl Inbox {
    pub(super) fn push(&mut self, frame: Arrived) {
        if frame.first() == Some(&PART) {
            let len = frame.len() as u64 - 1;
            if len == 0 || len > self.missing {
                // Not a part of anything: what it would have been a part of can never be whole.
                self.cut();
                self.queue.push_back(frame);
                return;
            }
            self.missing -= len;
        } else {
            if self.missing > 0 {
                self.cut();
            }
            if let Some(Head::Long(_, len)) = Head::read(&frame) {
                self.missing = len;
            }
        }
        self.queue.push_back(frame);
    }

    pub(super) fn push_spooled(&mut self, frames: Vec<Vec<u8>>) {
        for frame in frames {
            self.push(Arrived::spooled(frame));
        }
    }

    /// The connection is gone: a message that is not whole never will be, and is dropped.
    pub(super) fn cut(&mut self) {
        if self.missing == 0 {
            return;
        }
        self.missing = 0;
        self.cuts += 1;
        while let Some(frame) = self.queue.pop_back() {
            if frame.first() != Some(&PART) {
                if !matches!(Head::read(&frame), Some(Head::Long(..))) {
                    self.queue.push_back(frame);
                }
                break;
            }
        }
    }

    /// It changes when a message that somebody is reading will not become whole.
    pub(super) const fn cuts(&self) -> u64 {
        self.cuts
    }

    pub(super) fn front(&self) -> Option<&Arrived> {
        self.queue.front()
    }

    pub(super) fn pop(&mut self) -> Option<Arrived> {
        self.queue.pop_front()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipe::frame::{BYTES, LONG_BYTES, numbered};

    fn filled(frames: &[&[u8]]) -> Inbox {
        let mut inbox = Inbox::default();
        inbox.push_spooled(frames.iter().map(|frame| frame.to_vec()).collect());
        inbox
    }

    fn kinds(inbox: &mut Inbox) -> Vec<u8> {
        std::iter::from_fn(|| inbox.pop())
            .map(|frame| frame[0])
            .collect()
    }

    #[test]
    fn a_message_that_will_not_become_whole_is_dropped_and_no_other() {
        let long = numbered(LONG_BYTES, 4);
        let mut inbox = filled(&[&[BYTES, 1], &long, &[PART, 1, 2]]);
        inbox.cut();
        assert_eq!(kinds(&mut inbox), [BYTES]);
        assert_eq!(inbox.cuts(), 1);
        let mut inbox = filled(&[&long, &[PART, 1, 2], &[PART, 3, 4]]);
        inbox.cut();
        assert_eq!(kinds(&mut inbox), [LONG_BYTES, PART, PART]);
        assert_eq!(inbox.cuts(), 0);
    }

    #[test]
    fn a_part_too_much_is_kept_as_the_error_that_it_is() {
        let long = numbered(LONG_BYTES, 1);
        let mut inbox = filled(&[&long, &[PART, 1, 2], &[BYTES]]);
        assert_eq!(kinds(&mut inbox), [PART, BYTES]);
        let mut inbox = filled(&[&[PART, 1], &long, &[BYTES]]);
        assert_eq!(kinds(&mut inbox), [PART, BYTES]);
    }
}
