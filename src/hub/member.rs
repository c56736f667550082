//! A member of a queue: what one process puts into it and gets from it, and the event loop that speaks with the host.
//!
//! ```text
//!   put ─► putting ─► link ═══► host ═══► lane ─► getting ─► get        room, confirmations, questions: control
//! ```

mod asking;
mod getting;
mod putting;
pub(crate) mod served;

use crate::hub::outside::{Instant, Socket, poll};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

pub(crate) use getting::{AT_ONCE, Arrived, NoItem, Taken};
pub(crate) use putting::{Encoded, NotPut};

use self::asking::Asking;
use self::getting::Getting;
use self::putting::{Putting, UnderWay};
use super::consumer::lane::Lane;
use super::dial::{Dial, MEMBER, Need, say_malformed};
use super::hand_over::HandedOver;
use super::host::{CREATOR_LEFT, host_name, machine_id};
use super::outbox::choose;
use crate::error::{Error, Result};
use crate::wait::Subscribers;
use crate::wire::access::Credentials;
use crate::wire::endpoint::{Endpoint, Transport};
use crate::wire::frame::{
    self, Confirmed, Credit, Find, Found, Goodbye, Heartbeat, Hello, Message, PeerId, Pill,
    QueueInfo, Role, RunId, Welcome, kind,
};
use crate::wire::same_host;
use crate::wire::socket::{Kind, LinkEvent};
use crate::wire::wake::Waker;

/// While something goes on, what was taken is confirmed so often.
const ROUND: Duration = Duration::from_millis(8);
/// For so long after something went on.
const LIVELY: Duration = Duration::from_millis(50);
/// A connection for blocks that was lost is made again so soon: one that a host without descriptors refuses would keep both busy.
const LINK_AGAIN: Duration = Duration::from_millis(100);
/// How long to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    No,
    Until(Instant),
    Forever,
}

impl Wait {
    /// For an answer that comes in any case.
    const fn or_forever(self) -> Self {
        match self {
            Self::No => Self::Forever,
            wait => wait,
        }
    }
}

/// Why there is no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Somebody shut the queue down.
    ShutDown,
    /// Its creator is gone: what was seen of that.
    HostGone(String),
}

/// What a member needs to know.
pub(crate) struct Settings {
    pub(crate) endpoint: Endpoint,
    pub(crate) credentials: Credentials,
    pub(crate) peer: PeerId,
    /// The queue's run; 0: whichever is there.
    pub(crate) run: RunId,
    pub(crate) patience: Duration,
    /// Its host is known to have listened there, on this machine: when nobody does, it is gone.
    pub(crate) same_machine: bool,
    /// Those who wait for an item, or the end, among other things.
    pub(crate) watchers: Subscribers,
    /// A host of queues is there, and this is the name of the one that is meant; with how it shall be, should it be made.
    pub(crate) named: Option<(String, QueueInfo)>,
}

/// What the program's threads and the loop share.
#[derive(Debug)]
pub(crate) struct Shared {
    put: Mutex<Putting>,
    room: Condvar,
    get: Mutex<Getting>,
    items: Condvar,
    asking: Mutex<Asking>,
    answered: Condvar,
    waker: Waker,
    info: OnceLock<QueueInfo>,
    run: OnceLock<RunId>,
    leave: AtomicBool,
    watchers: Subscribers,
    patience: Duration,
}

impl Shared {
    fn new(waker: Waker, watchers: Subscribers, patience: Duration) -> Arc<Self> {
        Arc::new(Self {
            put: Mutex::default(),
            room: Condvar::new(),
            get: Mutex::default(),
            items: Condvar::new(),
            asking: Mutex::default(),
            answered: Condvar::new(),
            waker,
            info: OnceLock::new(),
            run: OnceLock::new(),
            leave: AtomicBool::new(false),
            watchers,
            patience,
        })
    }

    /// What the host says about the queue, once it has.
    pub(crate) fn info(&self) -> Option<QueueInfo> {
        self.info.get().copied()
    }

    /// Whether nothing can be had from it any more because its host or server is gone.
    pub(crate) fn is_gone(&self) -> bool {
        matches!(self.putting().end, Some(End::HostGone(_)))
    }

    pub(crate) fn run(&self) -> RunId {
        self.run.get().copied().unwrap_or_default()
    }

    /// Gives back what was not taken, and says goodbye.
    pub(crate) fn leave(&self) {
        self.leave.store(true, Ordering::Release);
        self.waker.wake();
    }

    fn end(&self, end: &End) {
        self.putting().end = Some(end.clone());
        self.room.notify_all();
        self.getting().end.get_or_insert(end.clone());
        self.items.notify_all();
        self.end_asking(end);
        self.watchers.wake();
    }
}

/// Waits for `condition`; whether that was in time.
pub(crate) fn wait_on<'a, T>(
    condition: &Condvar,
    guard: MutexGuard<'a, T>,
    wait: Wait,
) -> (MutexGuard<'a, T>, bool) {
    match wait {
        Wait::Forever => (
            condition
                .wait(guard)
                .unwrap_or_else(PoisonError::into_inner),
            true,
        ),
        Wait::No => (guard, false),
        Wait::Until(deadline) => {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return (guard, false);
            }
            let (guard, _) = condition
                .wait_timeout(guard, left)
                .unwrap_or_else(PoisonError::into_inner);
            (guard, true)
        }
    }
}

/// Where there is something to read: a message, and an event of the link. A socket that has nothing is not asked, because each
/// question is a system call.
#[derive(Clone, Copy)]
struct Ready {
    dial: (bool, bool),
    lane: (bool, bool),
    link: (bool, bool),
}

impl Ready {
    const NOTHING: Self = Self {
        dial: (false, false),
        lane: (false, false),
        link: (false, false),
    };
}

pub(crate) struct Member {
    settings: Settings,
    ready: Ready,
    /// The connection by which blocks go out was lost; and since when there was one, or an attempt.
    link_down: bool,
    link_since: Instant,
    shared: Arc<Shared>,
    dial: Dial,
    /// A host of queues is asked where the one is that is meant.
    finding: bool,
    /// The queue outlives its host: that is looked for again.
    lasting: bool,
    run: RunId,
    heartbeat: Duration,
    lane: Option<Lane>,
    /// The one before, till the host has given another one.
    left_lane: Option<Lane>,
    lanes: u32,
    /// Blocks go out here.
    link: Option<Socket>,
    under_way: UnderWay,
    prompted: bool,
    handed_over: HandedOver,
    said: Option<Credit>,
    /// When.
    credited: Instant,
    slots: u32,
    last_sent: Instant,
    lively: Instant,
    taken_before: u64,
    /// When it was said last what was taken.
    confirmed: Instant,
    /// Blocks that were taken and of which the host may not have heard yet, should the connection be lost.
    told: VecDeque<(Instant, Confirmed)>,
    /// The queue was shut down and this getter has heard so.
    pilled: bool,
    host_left: bool,
    /// It has ended and may come back: it is to be looked for.
    host_left_for_now: bool,
    goodbye_at: Option<Instant>,
    goodbye_heard: bool,
}

impl Member {
    /// Dials, and waits for the welcome.
    pub(crate) fn connect(settings: Settings) -> Result<(Self, Arc<Shared>)> {
        let waker = Waker::new().map_err(|error| Error::system("cannot make an eventfd", error))?;
        let shared = Shared::new(waker, settings.watchers.clone(), settings.patience);
        let dial = Dial::new(
            MEMBER,
            &settings.endpoint,
            settings.credentials.clone(),
            settings.patience,
        )?;
        let now = Instant::now();
        let mut member = Self {
            run: settings.run,
            finding: settings.named.is_some(),
            lasting: false,
            settings,
            ready: Ready::NOTHING,
            link_down: false,
            link_since: now,
            shared: Arc::clone(&shared),
            dial,
            heartbeat: Duration::from_secs(1),
            lane: None,
            left_lane: None,
            lanes: 0,
            link: None,
            under_way: UnderWay::default(),
            prompted: false,
            handed_over: HandedOver::default(),
            said: None,
            credited: now,
            slots: 0,
            last_sent: now,
            lively: now,
            taken_before: 0,
            confirmed: now,
            told: VecDeque::new(),
            pilled: false,
            host_left: false,
            host_left_for_now: false,
            goodbye_at: None,
            goodbye_heard: false,
        };
        member.hello();
        let mut next_tick = now + member.heartbeat / 2;
        while shared.info().is_none() && !member.host_left {
            member.wait(Duration::from_millis(100))?;
            member.read_control()?;
            member.check_host()?;
            if Instant::now() >= next_tick {
                next_tick = Instant::now() + member.heartbeat / 2;
                if member.dial.tick(member.heartbeat)? == Need::Hello {
                    member.begin_again()?;
                }
            }
        }
        if member.host_left {
            return Err(Error::HostGone {
                endpoint: member.settings.endpoint.to_string(),
                why: "it is ending".to_owned(),
            });
        }
        Ok((member, shared))
    }

    /// Serves the program's threads until told to leave, or the host is gone.
    pub(crate) fn run(mut self) {
        let end = match self.serve() {
            Ok(()) => End::HostGone("this process has left the queue".to_owned()),
            Err(Error::HostGone { why, .. }) => End::HostGone(why),
            Err(Error::VentilatorLost { waited, .. }) => {
                End::HostGone(format!("not heard for {} s", waited.as_secs_f64()))
            }
            Err(error) => End::HostGone(error.to_string()),
        };
        self.shared.end(&end);
    }

    fn serve(&mut self) -> Result<()> {
        let mut next_tick = Instant::now() + self.heartbeat / 2;
        loop {
            self.pump()?;
            if self.is_finished() {
                return Ok(());
            }
            let now = Instant::now();
            let mut timeout = next_tick.saturating_duration_since(now);
            let lively = now.duration_since(self.lively) < LIVELY || self.holds_room();
            if lively {
                timeout = timeout.min(ROUND);
            }
            if self.link_down {
                timeout = timeout.min(LINK_AGAIN);
            }
            if self.under_way.holding {
                timeout = timeout.min(Duration::from_millis(1));
            }
            if self.goodbye_at.is_some() {
                timeout = timeout.min(Duration::from_millis(20));
            }
            {
                let mut get = self.shared.getting();
                get.asleep = !lively;
                if get.asleep && get.unsent() {
                    get.asleep = false;
                    continue;
                }
            }
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
        sockets.extend(self.link.as_ref());
        let mut ready = poll(&sockets, &self.shared.waker, timeout)?.into_iter();
        let mut next = |is_there: bool| {
            let next = is_there.then(|| ready.next()).flatten();
            next.unwrap_or((false, false))
        };
        self.ready = Ready {
            dial: next(true),
            lane: next(self.lane.is_some()),
            link: next(self.link.is_some()),
        };
        Ok(())
    }

    fn check_host(&self) -> Result<()> {
        if self.settings.same_machine && self.dial.has_failed() && self.settings.named.is_none() {
            return Err(Error::HostGone {
                endpoint: self.settings.endpoint.to_string(),
                why: "its process has ended".to_owned(),
            });
        }
        Ok(())
    }

    fn pump(&mut self) -> Result<()> {
        self.read_control()?;
        self.read_lane();
        self.check_host()?;
        let lost = self.dial.is_lost();
        let by_tcp = self.settings.endpoint.transport() == Transport::Tcp;
        if lost && self.settings.named.is_some() && (by_tcp || self.lasting) {
            // A connection to where the host of queues is heard is made again by itself.
            if !self.finding {
                self.look_for_host()?;
            }
        } else if lost && !by_tcp {
            // On one host a connection that closes is a death.
            return Err(Error::HostGone {
                endpoint: self.settings.endpoint.to_string(),
                why: "its process has ended".to_owned(),
            });
        }
        if self.shared.leave.load(Ordering::Acquire) && self.goodbye_at.is_none() {
            self.say_goodbye();
        }
        if self.goodbye_at.is_some() {
            return Ok(());
        }
        let wants_lane = self.slots == 0 && self.shared.getting().wants_lane;
        if wants_lane && !self.dial.is_greeting() && !self.pilled {
            self.slots = 1;
            self.hello();
        }
        if self.ready.link.1
            && let Some(link) = &self.link
        {
            self.link_down |= link.link_events().iter().any(LinkEvent::is_loss);
        }
        self.ready = Ready::NOTHING;
        if self.link_down && !self.dial.is_greeting() && self.link_since.elapsed() >= LINK_AGAIN {
            self.link_down = false;
            self.link = None;
            self.hello();
        }
        if self.confirm(false) {
            self.lively = Instant::now();
        }
        self.pump_puts();
        self.say_credit();
        self.send_asks();
        Ok(())
    }

    fn read_control(&mut self) -> Result<()> {
        if self.ready.dial.1 {
            self.dial.read_links()?;
        }
        while self.ready.dial.0
            && let Some(bytes) = self.dial.recv()
        {
            match frame::decode(&bytes) {
                Ok(message) => self.on_control(message)?,
                Err(error) => say_malformed("member", &error),
            }
        }
        if std::mem::take(&mut self.host_left_for_now) && !self.finding {
            self.look_for_host()?;
        }
        Ok(())
    }

    fn on_control(&mut self, message: Message) -> Result<()> {
        match message {
            Message::Welcome(welcome) => self.on_welcome(&welcome)?,
            Message::Found(found) if found.peer == self.settings.peer && self.finding => {
                self.on_found(&found)?;
            }
            Message::Room(room) if room.run == self.run => self.on_room(&room),
            Message::Answer(answer) if answer.run == self.run => self.shared.on_answer(&answer),
            Message::Revoke(list) if list.run == self.run => {
                self.give_back(Some(&list.tasks));
            }
            Message::Rejoin(pill)
                if pill.run == self.run
                    && !self.dial.is_greeting()
                    && self.goodbye_at.is_none() =>
            {
                self.hello();
            }
            Message::Pill(pill) => self.on_pill(&pill),
            Message::Goodbye(_) => self.goodbye_heard = true,
            Message::Refused(refused) => {
                self.dial
                    .refused(refused.why, refused.again, self.heartbeat)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn on_pill(&mut self, pill: &Pill) {
        if self.may_come_back(pill) {
            self.host_left_for_now = true;
        } else if pill.cause == CREATOR_LEFT {
            self.host_left = true;
            self.shared.end(&End::HostGone(
                "the process that made the queue has ended".to_owned(),
            ));
            self.say_goodbye();
        } else {
            self.dial.welcomed();
            self.pilled = true;
            self.shared.getting().end.get_or_insert(End::ShutDown);
            self.shared.items.notify_all();
            self.shared.watchers.wake();
        }
    }

    /// Whether the host of queues ends that this one is at, and will be there again; or this queue was just being forgotten there.
    fn may_come_back(&self, pill: &Pill) -> bool {
        let left = self.shared.leave.load(Ordering::Acquire);
        let joining = self.settings.named.is_some() && self.shared.info().is_none();
        pill.cause == CREATOR_LEFT && (self.lasting || joining) && !left
    }

    /// The connection was lost, or is not answered: a new one.
    fn begin_again(&mut self) -> Result<()> {
        if self.settings.named.is_some() && !self.finding {
            return self.look_for_host();
        }
        self.hello();
        Ok(())
    }

    /// Asks the host of queues again where this one is. Who is there may be another process than before.
    fn look_for_host(&mut self) -> Result<()> {
        self.finding = true;
        self.lane = None;
        self.left_lane = None;
        self.link = None;
        self.link_down = false;
        let there = self.settings.endpoint.clone();
        self.dial.go_to(&there)?;
        self.hello();
        Ok(())
    }

    fn on_found(&mut self, found: &Found) -> Result<()> {
        let host = self.settings.endpoint.host().unwrap_or("127.0.0.1");
        let address: Endpoint = found.address.parse()?;
        self.finding = false;
        self.lasting = found.lasting;
        self.dial.go_to(&address.with_host_if_any(host))?;
        self.hello();
        Ok(())
    }

    fn find(&mut self, queue: &str, info: QueueInfo) {
        let find = Find {
            kind: kind::FIND,
            magic: frame::MAGIC.to_owned(),
            version: frame::VERSION,
            peer: self.settings.peer,
            run: self.run,
            via: self.settings.endpoint.transport() as u8,
            queue: queue.to_owned(),
            maxsize: info.maxsize,
            joinable: info.joinable,
        };
        self.dial.greeted(frame::encode(&find));
    }

    fn hello(&mut self) {
        if let (true, Some((queue, info))) = (self.finding, self.settings.named.clone()) {
            return self.find(&queue, info);
        }
        // What comes on the old lane after this is not in what is said to be held, and goes to others. It is not closed before the host
        // knows: on one machine that would be a death.
        if let Some(lane) = self.lane.take() {
            self.left_lane = Some(lane);
        }
        let hello = Hello {
            kind: kind::HELLO,
            magic: frame::MAGIC.to_owned(),
            version: frame::VERSION,
            role: Role::Member as u8,
            peer: self.settings.peer,
            run: self.run,
            via: self.settings.endpoint.transport() as u8,
            slots: self.slots,
            host: host_name(),
            machine: machine_id(),
            pid: std::process::id(),
            held: self.held(),
            ordered: false,
            endpoints: Vec::new(),
            rings: true,
            key: String::new(),
        };
        self.dial.greeted(frame::encode(&hello));
    }

    fn on_welcome(&mut self, welcome: &Welcome) -> Result<()> {
        if welcome.peer != self.settings.peer || !self.dial.is_greeting() {
            return Ok(());
        }
        let info: QueueInfo = rmp_serde::from_slice(&welcome.job).map_err(|_| Error::Connect {
            endpoint: self.settings.endpoint.to_string(),
            why: "a pipeline is there and no queue".to_owned(),
        })?;
        self.left_lane = None;
        let host = self.settings.endpoint.host().unwrap_or("127.0.0.1");
        if !welcome.address.is_empty() {
            let address: Endpoint = welcome.address.parse()?;
            self.lane = Some(Lane::connect(
                &address.with_host_if_any(host),
                self.dial.client(),
            )?);
            self.on_new_lane();
            self.confirm_again();
        }
        self.dial.welcomed();
        self.run = welcome.run;
        self.heartbeat = Duration::from_millis(welcome.heartbeat.max(10).into());
        if self.link.is_none() {
            let endpoint =
                choose(&welcome.endpoints, &self.settings.endpoint).ok_or_else(|| {
                    Error::Connect {
                        endpoint: self.settings.endpoint.to_string(),
                        why: "its host takes items in at no address that can be reached from here"
                            .to_owned(),
                    }
                })?;
            let mut link = Socket::new(Kind::Push)?
                .without_reconnect()
                .proving(self.dial.client())
                .offering_rings(&endpoint, same_host::SMALL);
            if endpoint.transport() != Transport::Inproc {
                link = link.monitored()?;
            }
            link.connect(&endpoint)?;
            self.link = Some(link);
            self.link_since = Instant::now();
            self.under_way.restart();
        }
        self.ask_again();
        let _ = self.shared.run.set(welcome.run);
        self.shared.getting().say_each = match info.maxsize {
            0 => u64::MAX,
            maxsize => (maxsize / 4).clamp(1, 256),
        };
        self.shared.getting().joinable = info.joinable;
        if info.maxsize == 0 {
            self.shared.set_endless();
        }
        let _ = self.shared.info.set(info);
        Ok(())
    }

    fn send(&mut self, frame: Vec<u8>) {
        self.dial.socket.send(frame);
        self.last_sent = Instant::now();
    }

    fn tick(&mut self, now: Instant) -> Result<()> {
        self.note_pause();
        self.want_again();
        self.forget_told();
        if self.goodbye_at.is_some() {
            return Ok(());
        }
        if self.dial.tick(self.heartbeat)? == Need::Hello {
            log::warn!("lost the queue at {}; dialling again", self.dial.endpoint());
            self.begin_again()?;
        }
        if now.duration_since(self.last_sent) >= self.heartbeat / 2 && !self.dial.is_greeting() {
            let beat = Heartbeat {
                kind: kind::HEARTBEAT,
                run: self.run,
                ack: 0,
            };
            self.send(frame::encode(&beat));
        }
        Ok(())
    }

    fn say_goodbye(&mut self) {
        self.give_back(None);
        let goodbye = Goodbye {
            kind: kind::GOODBYE,
            run: self.run,
            why: String::new(),
            end: false,
        };
        self.send(frame::encode(&goodbye));
        self.goodbye_at = Some(Instant::now());
    }

    fn is_finished(&self) -> bool {
        self.goodbye_at.is_some_and(|at| {
            self.goodbye_heard || at.elapsed() > super::GOODBYE || self.dial.is_lost()
        })
    }
}
