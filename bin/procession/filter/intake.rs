//! Tasks on their way from where they come from to the thread that writes them to the filter. Taking may block for
//! long, so it is done in a thread of its own, which takes no more than the window has room for.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

use super::{
    Answers, FilterTasks, Outcome, Tasks, WINDOW, WINDOW_TASKS, failed, stopped, terminator,
};

/// Tasks on their way from the thread that takes them to the one that writes them.
pub struct Intake<K> {
    state: Mutex<IntakeState<K>>,
    room: Condvar,
    /// Readable when the state has something new.
    news: OwnedFd,
}

struct IntakeState<K> {
    arrived: Tasks<K>,
    /// Tasks that were refused, and why.
    refused: Answers<K>,
    /// Tasks and their bytes that are taken and not answered.
    tasks: usize,
    bytes: usize,
    /// No more will come, for this reason.
    ended: Option<io::Result<()>>,
    /// Nobody wants more.
    closed: bool,
}

/// What [`Intake::news`] says.
pub struct News<K> {
    /// Tasks to be done.
    pub arrived: Tasks<K>,
    /// Tasks that no filter can do, and why.
    pub refused: Answers<K>,
    /// No more will come, for this reason.
    pub ended: Option<io::Result<()>>,
}

impl<K> Intake<K> {
    /// An empty one.
    ///
    /// # Errors
    /// When the system has no descriptor left.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            state: Mutex::new(IntakeState {
                arrived: Vec::new(),
                refused: Vec::new(),
                tasks: 0,
                bytes: 0,
                ended: None,
                closed: false,
            }),
            room: Condvar::new(),
            news: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        })
    }

    fn lock(&self) -> MutexGuard<'_, IntakeState<K>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Becomes readable when there is news.
    pub fn news_fd(&self) -> BorrowedFd<'_> {
        self.news.as_fd()
    }

    /// Makes [`Intake::news_fd`] unreadable; to be done before [`Intake::news`] is asked.
    pub fn clear_news(&self) {
        let _ = rustix::io::read(&self.news, &mut [0u8; 8]);
    }

    /// What is new since the last time.
    pub fn news(&self) -> News<K> {
        let mut state = self.lock();
        News {
            arrived: std::mem::take(&mut state.arrived),
            refused: std::mem::take(&mut state.refused),
            ended: state.ended.take(),
        }
    }

    /// So many tasks, of so many bytes, are answered: there is room for others.
    pub fn release(&self, tasks: usize, bytes: usize) {
        if tasks > 0 {
            let mut state = self.lock();
            state.tasks -= tasks;
            state.bytes -= bytes;
            drop(state);
            self.room.notify_one();
        }
    }

    /// The whole life of the thread that takes tasks.
    pub fn fill_from<T: FilterTasks<Token = K>>(&self, tasks: &T, null: bool) {
        let terminator = terminator(null);
        loop {
            let mut state = self.lock();
            // Half a window of room, so that batches are not of the size of one answer.
            while !state.closed && (state.bytes > WINDOW / 2 || state.tasks > WINDOW_TASKS / 2) {
                state = self
                    .room
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            if state.closed {
                return;
            }
            let (room_tasks, room_bytes) = (WINDOW_TASKS - state.tasks, WINDOW - state.bytes);
            drop(state);
            let taken = tasks.take(room_tasks, room_bytes);
            let mut state = self.lock();
            if state.closed {
                drop(state);
                if let Ok(Some(taken)) = taken {
                    tasks.answer(
                        taken
                            .into_iter()
                            .map(|(token, _)| (token, stopped()))
                            .collect(),
                    );
                }
                return;
            }
            let is_end = match taken {
                Ok(Some(taken)) => {
                    for (token, line) in taken {
                        if memchr::memchr(terminator, &line).is_some() {
                            state.refused.push((token, refusal(null)));
                            continue;
                        }
                        state.tasks += 1;
                        state.bytes += line.len() + 1;
                        state.arrived.push((token, line));
                    }
                    false
                }
                Ok(None) => {
                    state.ended = Some(Ok(()));
                    true
                }
                Err(error) => {
                    state.ended = Some(Err(error));
                    true
                }
            };
            drop(state);
            // Cannot fail: the counter would have to overflow.
            let _ = rustix::io::write(&self.news, &1u64.to_ne_bytes());
            if is_end {
                return;
            }
        }
    }
}

/// Ends the thread that takes tasks, when it has returned from where it waits.
pub struct CloseOnDrop<'a, K>(pub &'a Intake<K>);

impl<K> Drop for CloseOnDrop<'_, K> {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.room.notify_all();
    }
}

fn refusal(null: bool) -> Outcome {
    failed(
        1,
        0,
        match null {
            true => "a value with a NUL in it cannot be one task of a filter",
            false => {
                "a value of several lines cannot be one line of a filter; \
                 use -0, with a filter that reads and answers NUL-terminated lines (sed -z)"
            }
        },
    )
}
