//! The other end of a lane: takes tasks in, hands them to slots, keeps results until they are acknowledged, and says how
//! much more it can take.

mod credit;
pub(in crate::hub) mod inbox;
mod joining;
pub(in crate::hub) mod lane;

use crate::hub::outside::{Instant, poll};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

pub(crate) use inbox::{Assigned, Shared, Want};
use inbox::{Doom, Out, ROUND};

use self::lane::Lane;
use super::dial::{Dial, Need, say_malformed};
use super::host::MISSED;
use super::outbox::Outbox;
use crate::error::Result;
use crate::keys::KeyPair;
use crate::wire::access::Credentials;
use crate::wire::endpoint::Endpoint;
use crate::wire::frame::{
    self, Again, Credit, Goodbye, Heartbeat, Message, Obituaries, PeerId, Pill, RunId, TaskId, kind,
};

/// What a consumer needs to know.
pub(crate) struct Settings {
    pub(crate) endpoint: Endpoint,
    pub(crate) credentials: Credentials,
    pub(crate) peer: PeerId,
    pub(crate) slots: u32,
    pub(crate) patience: Duration,
    /// Called once when what runs is to be killed.
    pub(crate) on_kill: Option<Box<dyn Fn() + Send>>,
}

/// How it ended.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ended {
    /// The pill's words, when it was a pill.
    pub(crate) pill: Option<Pill>,
}

pub(crate) struct Consumer {
    settings: Settings,
    shared: Arc<Shared>,
    dial: Dial,
    run: RunId,
    heartbeat: Duration,
    lane: Option<Lane>,
    lanes: u32,
    outbox: Outbox,
    said: Option<Credit>,
    last_sent: Instant,
    pill: Option<Pill>,
    leaving: bool,
    killed: bool,
    /// Since when it only waits for acknowledgements before it leaves.
    idle_since: Option<Instant>,
    goodbye_at: Option<Instant>,
    goodbye_heard: bool,
    link_retry: Option<Instant>,
    /// What it shows to the sink.
    pass: Option<KeyPair>,
    /// What poll has said.
    ready: Ready,
}

/// Where there is something to read: a message, and an event of the link. A socket that has nothing is not asked, because each
/// question is a system call.
#[derive(Clone, Copy)]
struct Ready {
    dial: (bool, bool),
    lane: (bool, bool),
    outbox: (bool, bool),
}

impl Ready {
    /// Before the first poll.
    const ALL: Self = Self {
        dial: (true, true),
        lane: (true, true),
        outbox: (true, true),
    };
}

impl Consumer {
    /// The ventilator's interval.
    pub(crate) const fn heartbeat(&self) -> Duration {
        self.heartbeat
    }

    /// Works until the pill, until told to leave, or until the ventilator is lost.
    pub(crate) fn run(mut self) -> Result<Ended> {
        let outcome = self.serve();
        if outcome.is_err() {
            // Nobody wants what runs here any more.
            self.shared.kill();
            self.read_orders();
        }
        // Whatever happened, no slot waits any longer.
        self.shared.inbox().ended = true;
        self.shared.ready.notify_all();
        outcome.map(|()| Ended { pill: self.pill })
    }

    fn serve(&mut self) -> Result<()> {
        let mut next_tick = Instant::now() + self.heartbeat / 2;
        loop {
            self.pump()?;
            if self.is_finished() {
                return Ok(());
            }
            let now = Instant::now();
            let timeout = match self.goodbye_at {
                Some(_) => Duration::from_millis(20),
                None if self.shared.is_at_it() => ROUND,
                None => next_tick.saturating_duration_since(now),
            };
            self.wait(timeout)?;
            let now = Instant::now();
            if now > next_tick + self.heartbeat {
                self.dial.slept(now - next_tick);
            }
            if now >= next_tick {
                next_tick = now + self.heartbeat / 2;
                self.tick(now)?;
            }
        }
    }

    fn wait(&mut self, timeout: Duration) -> Result<()> {
        let mut sockets = vec![&self.dial.socket];
        sockets.extend(self.lane.as_ref().map(|lane| &lane.socket));
        sockets.extend(self.outbox.socket.as_ref());
        let mut ready = poll(&sockets, &self.shared.waker, timeout)?.into_iter();
        let nothing = (false, false);
        self.ready = Ready {
            dial: ready.next().unwrap_or(nothing),
            lane: self
                .lane
                .as_ref()
                .and_then(|_| ready.next())
                .unwrap_or(nothing),
            outbox: ready.next().unwrap_or(nothing),
        };
        Ok(())
    }

    /// Everything that can be done without waiting.
    fn pump(&mut self) -> Result<()> {
        let ready = self.ready;
        if ready.dial.1 {
            self.dial.read_links()?;
        }
        while ready.dial.0
            && let Some(bytes) = self.dial.recv()
        {
            match frame::decode(&bytes) {
                Ok(message) => self.on_control(message)?,
                Err(error) => say_malformed("worker", &error),
            }
        }
        if ready.lane.0 || ready.lane.1 {
            self.read_lane(ready.lane.1);
        }
        self.read_slots();
        self.read_orders();
        self.rehearse()?;
        if ready.outbox.1 && self.outbox.link_lost() {
            // Not at once: who refuses a connection would be asked without pause.
            self.link_retry = Some(Instant::now() + Duration::from_millis(100));
            self.outbox.socket = None;
        }
        self.outbox.flush();
        self.say_credit();
        Ok(())
    }

    fn on_control(&mut self, message: Message) -> Result<()> {
        match message {
            Message::Welcome(welcome) => self.on_welcome(&welcome)?,
            Message::SinkAt(at) if at.run == self.run => {
                self.set_sink(at.sink, &at.endpoints, &at.key, at.window)?;
            }
            Message::Done(done) if done.run == self.run => {
                for &(first, count) in &done.tasks {
                    let before = self.outbox.kept();
                    self.outbox.done(first, count);
                    let removed = before - self.outbox.kept();
                    if (removed as u64) < count {
                        // Somebody else's result was kept first.
                        let ids = first..first.saturating_add(count);
                        self.shared
                            .inbox()
                            .tasks
                            .retain(|task| !ids.contains(&task.id));
                    }
                }
                self.outbox.absorbed(done.link, done.absorbed);
            }
            Message::Revoke(list) if list.run == self.run => self.give_back(&list.tasks),
            Message::Rejoin(pill) if pill.run == self.run && !self.dial.is_greeting() => {
                self.hello();
            }
            Message::Pill(pill) => self.on_pill(pill),
            Message::Stop(pill) if pill.run == self.run => {
                self.shared.kill();
            }
            Message::Goodbye(_) => self.goodbye_heard = true,
            Message::Doomed(doomed) if doomed.run == self.run => {
                *self
                    .shared
                    .doom
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner) = Doom::Known;
                self.shared.doom_known.notify_all();
            }
            Message::Refused(refused) => {
                self.dial
                    .refused(refused.why, refused.again, self.heartbeat)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn on_pill(&mut self, pill: Pill) {
        self.pill = Some(pill);
        if pill.kill {
            self.shared.kill();
        }
        self.note_end();
    }

    fn note_end(&self) {
        if self.pill.is_some() {
            self.shared.inbox().ended = true;
            self.shared.ready.notify_all();
        }
    }

    fn send(&mut self, frame: Vec<u8>) {
        self.dial.socket.send(frame);
        self.last_sent = Instant::now();
    }

    // ---- the slots ----

    fn read_slots(&mut self) {
        let Out {
            finished,
            again,
            returned,
        } = std::mem::take(&mut *self.shared.out());
        if !returned.is_empty() {
            self.send_returned(returned);
        }
        for result in finished {
            self.outbox.add(result);
        }
        for failed in again {
            let (id, attempt) = (failed.id, failed.attempt);
            // The ventilator knows of the others.
            if let Some(obituary) = failed.obituaries.last() {
                self.send(frame::encode(&Obituaries {
                    kind: kind::OBITUARIES,
                    run: self.run,
                    peer: 0,
                    tasks: vec![(id, attempt, vec![obituary.clone()])],
                }));
            }
            let again = Again {
                kind: kind::AGAIN,
                run: self.run,
                id,
                attempt,
                exit: failed.exit,
                signal: failed.signal,
            };
            self.send(frame::encode(&again));
        }
    }

    fn read_orders(&mut self) {
        if self.shared.is_killed()
            && !std::mem::replace(&mut self.killed, true)
            && let Some(on_kill) = &self.settings.on_kill
        {
            on_kill();
        }
        if self.shared.leave.load(Ordering::Acquire) && !std::mem::replace(&mut self.leaving, true)
        {
            let all: Vec<(TaskId, u32)> = {
                let inbox = self.shared.inbox();
                inbox
                    .tasks
                    .iter()
                    .map(|task| (task.id, task.attempt))
                    .collect()
            };
            if !all.is_empty() {
                self.give_back(&all);
            }
            self.shared.inbox().ended = true;
            self.shared.ready.notify_all();
        }
    }

    /// Announces that this process is about to be killed, and drops its connections, when that is asked for.
    fn rehearse(&mut self) -> Result<()> {
        if self.run == 0 || self.dial.is_greeting() {
            return Ok(());
        }
        let say = {
            let mut doom = self
                .shared
                .doom
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let say = *doom == Doom::ToBeSaid;
            if say {
                *doom = Doom::Said;
            }
            say
        };
        if say {
            let doomed = Heartbeat {
                kind: kind::DOOMED,
                run: self.run,
                ack: 0,
            };
            self.send(frame::encode(&doomed));
        }
        if self.shared.cut.swap(false, Ordering::AcqRel)
            && self.pill.is_none()
            && self.goodbye_at.is_none()
        {
            self.lane = None;
            self.outbox.socket = None;
            self.link_retry = Some(Instant::now());
            self.dial.reopen()?;
            self.hello();
        }
        Ok(())
    }

    // ---- time and the end ----

    fn tick(&mut self, now: Instant) -> Result<()> {
        if self.goodbye_at.is_some() || self.pill.is_some() {
            return Ok(());
        }
        if self.dial.tick(self.heartbeat)? == Need::Hello {
            log::warn!(
                "lost the ventilator at {}; dialling again",
                self.dial.endpoint()
            );
            self.hello();
        }
        if now.duration_since(self.last_sent) >= self.heartbeat / 2 && !self.dial.is_greeting() {
            let beat = Heartbeat {
                kind: kind::HEARTBEAT,
                run: self.run,
                ack: 0,
            };
            self.send(frame::encode(&beat));
        }
        if self.link_retry.is_some_and(|at| now >= at) {
            self.link_retry = None;
            self.outbox.reconnect();
        }
        Ok(())
    }

    /// Says goodbye when there is nothing left here, and waits a little for the answer.
    fn is_finished(&mut self) -> bool {
        if let Some(at) = self.goodbye_at {
            return self.goodbye_heard || at.elapsed() > super::GOODBYE;
        }
        if self.pill.is_none() && !self.leaving {
            return false;
        }
        let busy = {
            let inbox = self.shared.inbox();
            !inbox.running.is_empty() || !inbox.tasks.is_empty()
        };
        let unsaid = {
            let out = self.shared.out();
            !(out.finished.is_empty() && out.again.is_empty() && out.returned.is_empty())
        };
        // Behind a pill all that counts was acknowledged; who leaves by himself waits for that.
        let kept = self.pill.is_none() && !self.killed && self.outbox.kept() > 0;
        if busy || unsaid {
            return false;
        }
        if kept {
            // Under keep-order they may wait for a task that nobody is there to do. Whoever comes does them anew.
            let since = *self.idle_since.get_or_insert_with(Instant::now);
            if since.elapsed() < self.heartbeat * MISSED {
                return false;
            }
            log::warn!(
                "leaving {} results that the sink has not acknowledged; their tasks are done elsewhere",
                self.outbox.kept()
            );
        }
        if self.run == 0 {
            return true;
        }
        let goodbye = Goodbye {
            kind: kind::GOODBYE,
            run: self.run,
            why: String::new(),
            end: false,
        };
        self.send(frame::encode(&goodbye));
        self.goodbye_at = Some(Instant::now());
        false
    }
}
