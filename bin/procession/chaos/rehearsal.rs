//! The side of the worker whose faults are rehearsed: it knows its tasks, so it decides when a fault is due, says so to its
//! ventilator, so that nobody is blamed, and to whoever started it, over its standard input.
//!
//! ```text
//! worker → its crew, one line each:  joined    kill    cut    stop MILLISECONDS
//! ```

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use procession::pipeline::{Worker, WorkerHandle};
use rustix::process::{Signal, getpid, kill_process};

use super::{Fault, Faults};

/// A fault happens within this time from the task's start: tasks are often that short, and what comes after one is of interest, too.
const WITHIN: Duration = Duration::from_millis(20);
/// Longer than three heartbeats, in tenths of a heartbeat.
const STOPPED: u32 = 35;

/// Does a worker's faults.
#[derive(Debug)]
pub struct Rehearsal {
    faults: Faults,
    worker: WorkerHandle,
    heartbeat: Duration,
    crew: Arc<Mutex<File>>,
    /// A fault is on its way: others would come too late, or to a worker that is not there.
    pending: Arc<AtomicBool>,
}

impl Rehearsal {
    /// For a worker that was welcomed, and whose standard input leads to its crew. Ends the worker when the crew has ended.
    ///
    /// # Errors
    /// When there is no such standard input.
    pub fn begin(faults: Faults, worker: &Worker) -> io::Result<Self> {
        let mut crew = File::from(io::stdin().as_fd().try_clone_to_owned()?);
        let copy = crew.try_clone()?;
        let handle = worker.handle();
        std::thread::Builder::new()
            .name("crew-watch".to_owned())
            .spawn(move || {
                let mut nothing = [0];
                // Nothing is ever written to us: this ends with the crew's process.
                while matches!(crew.read(&mut nothing), Ok(n) if n > 0) {}
                handle.kill();
            })?;
        let rehearsal = Self {
            faults,
            worker: worker.handle(),
            heartbeat: worker.heartbeat(),
            crew: Arc::new(Mutex::new(copy)),
            pending: Arc::default(),
        };
        say(&rehearsal.crew, "joined");
        Ok(rehearsal)
    }

    /// A task begins: if it is to meet a fault, that happens soon.
    pub fn meet(&self, task: u64, attempt: u32) {
        let Some((fault, when)) = self.faults.meet(task, attempt) else {
            return;
        };
        if self.pending.swap(true, Ordering::AcqRel) {
            return;
        }
        // Who could not say so would have its tasks blamed.
        if fault != Fault::Stop && !self.worker.announce_doom(self.heartbeat * 3) {
            self.pending.store(false, Ordering::Release);
            return;
        }
        let pending = Arc::clone(&self.pending);
        let (worker, crew) = (self.worker.clone(), Arc::clone(&self.crew));
        let stopped = self.heartbeat * STOPPED / 10;
        let begun = std::thread::Builder::new()
            .name("fault".to_owned())
            .spawn(move || {
                std::thread::sleep(WITHIN.mul_f64(when));
                match fault {
                    Fault::Kill => {
                        say(&crew, "kill");
                        if kill_process(getpid(), Signal::KILL).is_err() {
                            std::process::abort();
                        }
                    }
                    Fault::Stop => say(&crew, &format!("stop {}", stopped.as_millis())),
                    Fault::Cut => {
                        say(&crew, "cut");
                        worker.cut();
                    }
                }
                pending.store(false, Ordering::Release);
            });
        if let Err(error) = begun {
            log::warn!("no fault for task {task}: {error}");
            self.pending.store(false, Ordering::Release);
        }
    }
}

fn say(crew: &Mutex<File>, what: &str) {
    let mut crew = crew.lock().unwrap_or_else(PoisonError::into_inner);
    // The crew's end is noticed by whoever reads.
    let _ = writeln!(crew, "{what}");
}
