//! How a worker comes to a run, for the first time or again: its hello, what it holds, and its welcome.

use crate::hub::outside::Instant;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::inbox::Shared;
use super::lane::Lane;
use super::{Consumer, Ready, Settings};
use crate::error::{Error, Result};
use crate::hub::dial::{Dial, Need, say_malformed};
use crate::hub::host::{host_name, machine_id};
use crate::hub::outbox::Outbox;
use crate::wire::access;
use crate::wire::endpoint::{Endpoint, Transport};
use crate::wire::frame::{self, Hello, Message, PeerId, Pill, Role, TaskId, Welcome, kind};
use crate::wire::wake::Waker;

impl Consumer {
    /// Dials, says hello, and waits for the welcome; what the ventilator's program says about the run.
    pub(crate) fn connect(
        settings: Settings,
        before_dialling: impl FnOnce(&Arc<Shared>),
    ) -> Result<(Self, Arc<Shared>, Vec<u8>)> {
        let waker = Waker::new().map_err(|error| Error::system("cannot make an eventfd", error))?;
        let local = settings.endpoint.transport() == Transport::Inproc;
        let shared = Shared::new(waker, settings.slots, local);
        before_dialling(&shared);
        let mut consumer = Self {
            dial: Dial::new(
                "worker",
                &settings.endpoint,
                settings.credentials.clone(),
                settings.patience,
            )?,
            shared: Arc::clone(&shared),
            run: 0,
            heartbeat: Duration::from_secs(1),
            lane: None,
            lanes: 0,
            outbox: Outbox::new(0, settings.peer),
            said: None,
            last_sent: Instant::now(),
            pill: None,
            leaving: false,
            killed: false,
            idle_since: None,
            goodbye_at: None,
            goodbye_heard: false,
            link_retry: None,
            ready: Ready::ALL,
            pass: None,
            settings,
        };
        consumer.hello();
        let mut job = None;
        while job.is_none() && consumer.pill.is_none() {
            if consumer.shared.leave.load(Ordering::Acquire) {
                consumer.pill = Some(no_pill());
                break;
            }
            consumer.wait(Duration::from_millis(100))?;
            consumer.ready = Ready::ALL;
            consumer.dial.read_links()?;
            while let Some(bytes) = consumer.dial.recv() {
                match frame::decode(&bytes) {
                    Ok(Message::Welcome(welcome)) => {
                        job = Some(welcome.job.clone());
                        consumer.on_welcome(&welcome)?;
                    }
                    Ok(message) => consumer.on_control(message)?,
                    Err(error) => say_malformed("worker", &error),
                }
            }
            if consumer.dial.tick(consumer.heartbeat)? == Need::Hello {
                consumer.hello();
            }
        }
        consumer.note_end();
        Ok((consumer, shared, job.unwrap_or_default()))
    }

    pub(super) fn hello(&mut self) {
        let mut held: Vec<(TaskId, u32)> = Vec::new();
        {
            let inbox = self.shared.inbox();
            held.extend(inbox.tasks.iter().map(|task| (task.id, task.attempt)));
            held.extend(inbox.running.iter().map(|(&id, &attempt)| (id, attempt)));
        }
        // After the running ones: what a slot finishes meanwhile is found here.
        self.read_slots();
        held.extend(self.outbox.held());
        held.sort_unstable();
        held.dedup();
        // What does not fit in a frame counts as not held, and is done by somebody else.
        held.truncate(50_000);
        let hello = Hello {
            kind: kind::HELLO,
            magic: frame::MAGIC.to_owned(),
            version: frame::VERSION,
            role: Role::Worker as u8,
            peer: self.settings.peer,
            run: self.run,
            via: self.settings.endpoint.transport() as u8,
            slots: self.settings.slots,
            host: host_name(),
            machine: machine_id(),
            pid: std::process::id(),
            held,
            ordered: false,
            endpoints: Vec::new(),
            rings: true,
            key: String::new(),
        };
        self.dial.greeted(frame::encode(&hello));
    }

    pub(super) fn on_welcome(&mut self, welcome: &Welcome) -> Result<()> {
        if welcome.peer != self.settings.peer || !self.dial.is_greeting() {
            return Ok(());
        }
        let address: Endpoint = welcome.address.parse()?;
        let address =
            address.with_host_if_any(self.settings.endpoint.host().unwrap_or("127.0.0.1"));
        let lane = Lane::connect(&address, self.dial.client())?;
        self.dial.welcomed();
        self.run = welcome.run;
        self.outbox.set_run(welcome.run);
        self.heartbeat = Duration::from_millis(welcome.heartbeat.max(10).into());
        self.lanes += 1;
        {
            let mut inbox = self.shared.inbox();
            inbox.lane = self.lanes;
            inbox.consumed = 0;
        }
        self.lane = Some(lane);
        self.said = None;
        self.pass = welcome.pass()?;
        self.set_sink(
            welcome.sink,
            &welcome.endpoints,
            &welcome.key,
            welcome.window,
        )
    }

    pub(super) fn set_sink(
        &mut self,
        sink: PeerId,
        endpoints: &[String],
        key: &str,
        window: u64,
    ) -> Result<()> {
        self.link_retry = None;
        let client = access::to_results(key, self.pass.as_ref());
        self.outbox
            .set_sink(sink, endpoints, window, &self.settings.endpoint, client)
            .map_err(|why| Error::Connect {
                endpoint: endpoints.join(", "),
                why,
            })
    }
}

fn no_pill() -> Pill {
    Pill {
        kind: kind::PILL,
        run: 0,
        done: 0,
        failed: 0,
        cause: 0,
        kill: false,
    }
}
