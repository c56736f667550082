//! The thread that writes for an event loop: what has gathered while a transaction was written is the next one.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::Journal;
use super::store::Record;
use crate::error::{Error, Result};
use crate::wire::wake::Waker;

/// So many records are one transaction at most.
const MOST: usize = 4096;

/// Takes records from an event loop, and wakes it when they are written.
pub(crate) struct Recorder {
    records: Option<Sender<Record>>,
    given: u64,
    written: Arc<Written>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Written {
    count: AtomicU64,
    error: Mutex<Option<Error>>,
}

impl Recorder {
    pub(crate) fn start(journal: Journal, waker: Waker) -> Result<Self> {
        let (records, given) = channel();
        let written = Arc::new(Written::default());
        let shared = Arc::clone(&written);
        let thread = std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || write(&journal, &given, &shared, &waker))
            .map_err(|error| Error::system("cannot start the journal's thread", error))?;
        Ok(Self {
            records: Some(records),
            given: 0,
            written,
            thread: Some(thread),
        })
    }

    /// Takes a record; its number, which [`written`](Self::written) will reach.
    pub(crate) fn record(&mut self, record: Record) -> u64 {
        self.given += 1;
        if let Some(records) = &self.records {
            // It fails only behind an error, which the loop will see.
            let _ = records.send(record);
        }
        self.given
    }

    /// How many records are written.
    pub(crate) fn written(&self) -> u64 {
        self.written.count.load(Ordering::Acquire)
    }

    /// What the writing has failed of.
    pub(crate) fn take_error(&self) -> Option<Error> {
        self.written
            .error
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }
}

impl Drop for Recorder {
    /// Waits until all that was given is written.
    fn drop(&mut self) {
        self.records = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn write(journal: &Journal, given: &Receiver<Record>, written: &Written, waker: &Waker) {
    while let Ok(first) = given.recv() {
        let mut records = vec![first];
        records.extend(given.try_iter().take(MOST));
        if let Err(error) = journal.write(&records) {
            *written.error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            waker.wake();
            return;
        }
        written
            .count
            .fetch_add(records.len() as u64, Ordering::AcqRel);
        waker.wake();
    }
}
