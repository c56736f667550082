//! Queues on beanstalkd: a tube for the items, and others beside it. See docs/engines.md.

mod protocol;

use std::collections::HashMap;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use url::Url;

use self::protocol::{Client, Reply};
use super::parts::Head;
use super::{
    Accepted, Address, Connection, Count, Delivery, Engine, Guarantees, Receipt, Taken, bad,
    name_on_server,
};
use crate::error::{Error, Result};

/// For how long an item is its getter's (time-to-run), unless the URL says otherwise.
const LEASE: Duration = Duration::from_secs(30);
/// The priority of all items: the server gives out those of one priority in the order in which they were put, also what came back.
const PRIORITY: u32 = 1024;
/// How much is sent before the answers are read.
const BATCH_JOBS: usize = 256;
const BATCH_BYTES: usize = 1 << 20;
/// How many items are reserved in one round trip.
const BATCH_TAKEN: usize = 64;
/// How often the queue is looked at in the last second of a wait: the server counts in seconds.
const GLANCE: Duration = Duration::from_millis(10);

/// What beanstalkd promises.
pub(super) static GUARANTEES: Guarantees = Guarantees {
    engine: "beanstalkd",
    url: "beanstalk://HOST[:11300]?queue=NAME",
    delivery: "At least once: an item whose getter dies is given to another one. Items whose putting was not answered before the connection was \
               lost are put again, and may be there twice.",
    order: "That of putting, over all putters. What comes back is given out in its old place, before later ones.",
    maxsize: "Approximate: each putter counts before it puts, so several together may put too many by one batch each.",
    durability: "In the server's memory; with -b DIRECTORY on its disk as well.",
    restart: "Nothing with -b (-f0; else the last 50 ms when the machine goes down); everything without -b.",
    lease: "A killed getter's items are given out at once: its connection ends. One that vanished with its host: when the lease is over (30 s, or \
            lease=, as it was where the item was put). After a shutdown puts are refused by each putter that looks, which it does before each batch: \
            one that looked before may still put its batch.",
    limits: "Items above max-job-size (65,535 bytes by default) go in parts, up to about 500 MB. Whoever dies while putting parts leaves them until \
             the queue is removed. What others hold cannot be removed. beanstalkd 1.12 has been seen to forget the lease of a getter that stays connected and says nothing: \
             its items come back when its connection ends. No passwords, no TLS.",
    speed: "28,000 small items a second through a Queue, put by one thread and got by another beside the server on two cores; a plain loop, one item at a time: 5,100.",
};

/// A queue on beanstalkd.
#[derive(Debug)]
pub struct Beanstalk {
    address: Address,
    host: String,
    port: u16,
    joinable: bool,
}

impl Beanstalk {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// [`Error::BadEndpoint`]: it is no URL of beanstalkd.
    pub fn new(address: &Address, joinable: bool) -> Result<Self> {
        let url = Url::parse(&address.server).map_err(|error| bad(address, &error.to_string()))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(bad(
                address,
                "beanstalkd knows no users and passwords; leave them out",
            ));
        }
        let host = url.host_str().unwrap_or_default();
        Ok(Self {
            address: address.clone(),
            host: host.trim_matches(['[', ']']).to_owned(),
            port: url.port().unwrap_or(11300),
            joinable,
        })
    }
}

impl Engine for Beanstalk {
    fn connect(&self) -> Result<Box<dyn Connection>> {
        let tubes = Tubes::new(&self.address.queue);
        let mut server = Client::connect(&self.address, &self.host, self.port)?;
        let (own, other, found) = if self.joinable {
            (&tubes.joinable, &tubes.plain, "Queue")
        } else {
            (&tubes.plain, &tubes.joinable, "JoinableQueue")
        };
        if server.jobs_in(other)?.all() > 0 {
            return Err(Error::BadHandle {
                endpoint: self.address.to_string(),
                why: format!(
                    "there is a {found} of that name; open it as what it is, or take another queue=NAME"
                ),
            });
        }
        if server.jobs_in(own)?.all() == 0 {
            server.mark(own)?;
        }
        let limit = server.max_job_size()?;
        server.watch_only(&tubes.items)?;
        server.use_tube(&tubes.items)?;
        Ok(Box::new(Link {
            address: self.address.clone(),
            server,
            tubes,
            limit,
            receipts: 0,
            held: HashMap::new(),
        }))
    }

    fn lease(&self) -> Option<Duration> {
        Some(self.address.lease.unwrap_or(LEASE))
    }

    fn guarantees(&self) -> &'static Guarantees {
        &GUARANTEES
    }
}

/// A queue's tubes. What stands in the last three is never given out: that it is there is what it says.
#[derive(Debug)]
struct Tubes {
    items: String,
    parts: String,
    end: String,
    plain: String,
    joinable: String,
}

impl Tubes {
    fn new(queue: &str) -> Self {
        // A tube's name has no colon, and a queue's no semicolon.
        let queue = queue.replace(':', ";");
        let tube = |what| name_on_server(&queue, what);
        Self {
            items: tube(""),
            parts: tube("/parts"),
            end: tube("/end"),
            plain: tube("/plain"),
            joinable: tube("/joinable"),
        }
    }
}

/// An item that was taken.
#[derive(Debug)]
struct Held {
    job: u64,
    parts: Vec<u64>,
}

struct Link {
    address: Address,
    server: Client,
    tubes: Tubes,
    /// The longest job that the server takes.
    limit: usize,
    receipts: Receipt,
    held: HashMap<Receipt, Held>,
}

impl Link {
    fn time_to_run(&self) -> u64 {
        self.address.lease.unwrap_or(LEASE).as_secs().max(1)
    }

    fn parts_of(&self, item: &Bytes) -> usize {
        if item.len() <= self.limit {
            0
        } else {
            item.len().div_ceil(self.limit)
        }
    }

    /// Puts an item's parts aside, and gives its head.
    fn upload(&mut self, item: &Bytes) -> Result<Bytes> {
        self.server.use_tube(&self.tubes.parts)?;
        let parts: Vec<Bytes> = item
            .chunks(self.limit)
            .map(|part| item.slice_ref(part))
            .collect();
        let mut place = Vec::with_capacity(parts.len() * 8);
        let mut left = &parts[..];
        while !left.is_empty() {
            let (now, rest) = left.split_at(self.batch(left));
            for job in self.server.put(PRIORITY, self.time_to_run(), now)? {
                place.extend_from_slice(&job.to_be_bytes());
            }
            left = rest;
        }
        self.server.use_tube(&self.tubes.items)?;
        let len = item.len() as u64;
        Ok(Head { len, place }.encode().into())
    }

    /// How many of these go out before answers are read.
    fn batch(&self, bodies: &[Bytes]) -> usize {
        let mut bytes = 0;
        let fits = bodies.iter().take(BATCH_JOBS).take_while(|body| {
            let before = bytes;
            bytes += body.len();
            before == 0 || bytes <= BATCH_BYTES
        });
        fits.count().max(1)
    }

    /// The item behind a head, and its parts; `None` if they are not there.
    fn download(&mut self, head: &Head) -> Result<Option<(Bytes, Vec<u64>)>> {
        if !head.place.len().is_multiple_of(8) {
            return Ok(None);
        }
        let parts: Vec<u64> = head
            .place
            .chunks_exact(8)
            .filter_map(|id| Some(u64::from_be_bytes(id.try_into().ok()?)))
            .collect();
        let mut item = Vec::new();
        for jobs in parts.chunks(16) {
            for part in self.server.peek(jobs)? {
                let Some(part) = part else {
                    return Ok(None);
                };
                item.extend_from_slice(&part);
            }
        }
        let whole = item.len() as u64 == head.len;
        Ok(whole.then(|| (item.into(), parts)))
    }

    fn deliver(&mut self, jobs: Vec<(u64, Bytes)>) -> Result<Vec<Delivery>> {
        let mut items = Vec::with_capacity(jobs.len());
        for (job, body) in jobs {
            let (mut item, mut parts) = (body, Vec::new());
            if let Some(head) = Head::decode(&item) {
                // A head without its parts is somebody's garbage, and handed on as such.
                if let Some(whole) = self.download(&head)? {
                    (item, parts) = whole;
                }
            }
            self.receipts += 1;
            self.held.insert(self.receipts, Held { job, parts });
            items.push(Delivery {
                receipt: self.receipts,
                item,
            });
        }
        Ok(items)
    }

    fn jobs(&self, receipts: &[Receipt]) -> Vec<u64> {
        let held = receipts.iter().filter_map(|one| self.held.get(one));
        held.map(|held| held.job).collect()
    }

    fn is_shut_down(&mut self) -> Result<bool> {
        Ok(self.server.jobs_in(&self.tubes.end)?.all() > 0)
    }

    /// Removes what nobody holds, and what belongs to it.
    fn purge(&mut self, tube: &str, with_parts: bool) -> Result<()> {
        self.server.watch_only(tube)?;
        self.server.use_tube(tube)?;
        while self.server.kick(tube)? > 0 {}
        loop {
            let jobs = self.server.reserve(BATCH_TAKEN, 0)?;
            if jobs.is_empty() {
                break;
            }
            let mut gone = Vec::new();
            for (job, body) in jobs {
                gone.push(job);
                if let Some(head) = Head::decode(&body).filter(|_| with_parts)
                    && let Some((_, parts)) = self.download(&head)?
                {
                    gone.extend(parts);
                }
            }
            self.server.delete(&gone)?;
        }
        self.server.watch_only(&self.tubes.items)?;
        self.server.use_tube(&self.tubes.items)
    }
}

impl Connection for Link {
    fn put(&mut self, items: &[Bytes]) -> Result<Accepted> {
        let most_parts = (self.limit - Head::size(0).min(self.limit)) / 8;
        for item in items {
            if self.parts_of(item) > most_parts {
                return Err(Error::Encoding {
                    what: format!("an item of {} bytes", item.len()),
                    why: format!(
                        "{} takes {} bytes at most; start beanstalkd with a larger -z",
                        self.address,
                        most_parts.saturating_mul(self.limit)
                    ),
                });
            }
        }
        let mut put = 0;
        while put < items.len() {
            if self.is_shut_down()? {
                return Ok(Accepted::ShutDown(put));
            }
            let mut len = self.batch(&items[put..]);
            if let Some(most) = self.address.maxsize.filter(|most| *most > 0) {
                let room = most.saturating_sub(self.server.jobs_in(&self.tubes.items)?.all());
                if room == 0 {
                    return Ok(Accepted::Full(put));
                }
                len = len.min(usize::try_from(room).unwrap_or(usize::MAX));
            }
            let mut bodies = Vec::with_capacity(len);
            for item in &items[put..put + len] {
                let is_large = self.parts_of(item) > 0 || Head::decode(item).is_some();
                bodies.push(if is_large {
                    self.upload(item)?
                } else {
                    item.clone()
                });
            }
            self.server.put(PRIORITY, self.time_to_run(), &bodies)?;
            put += len;
        }
        Ok(Accepted::All)
    }

    fn take(&mut self, most: usize, wait: Duration) -> Result<Taken> {
        let end = Instant::now() + wait;
        let most = most.clamp(1, BATCH_TAKEN);
        loop {
            let jobs = self.server.reserve(most, 0)?;
            if !jobs.is_empty() {
                return Ok(Taken::Items(self.deliver(jobs)?));
            }
            // First whether it is the end, then whether something is there: nothing is put after the end.
            if self.is_shut_down()? && self.server.jobs_in(&self.tubes.items)?.all() == 0 {
                return Ok(Taken::ShutDown);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Taken::Items(Vec::new()));
            }
            if left < Duration::from_secs(1) {
                thread::sleep(left.min(GLANCE));
                continue;
            }
            let jobs = self.server.reserve(1, 1)?;
            if !jobs.is_empty() {
                return Ok(Taken::Items(self.deliver(jobs)?));
            }
        }
    }

    fn done(&mut self, receipts: &[Receipt]) -> Result<()> {
        let held: Vec<Held> = receipts
            .iter()
            .filter_map(|receipt| self.held.remove(receipt))
            .collect();
        let jobs: Vec<u64> = held.iter().map(|held| held.job).collect();
        let gone = self.server.delete(&jobs)?;
        // Parts of those only that were still ours: whoever has the item now needs them.
        let parts: Vec<u64> = held
            .into_iter()
            .zip(gone)
            .filter(|(_, gone)| *gone)
            .flat_map(|(held, _)| held.parts)
            .collect();
        self.server.delete(&parts)?;
        Ok(())
    }

    fn give_back(&mut self, receipts: &[Receipt]) -> Result<()> {
        self.server.release(PRIORITY, &self.jobs(receipts))?;
        for receipt in receipts {
            self.held.remove(receipt);
        }
        Ok(())
    }

    fn renew(&mut self, receipts: &[Receipt]) -> Result<()> {
        self.server.touch(&self.jobs(receipts))
    }

    fn count(&mut self) -> Result<Count> {
        let items = self.server.jobs_in(&self.tubes.items)?;
        Ok(Count {
            ready: items.ready + items.delayed + items.buried,
            held: items.reserved,
            shut_down: self.is_shut_down()?,
        })
    }

    fn shutdown(&mut self, drop_rest: bool) -> Result<()> {
        if !self.is_shut_down()? {
            self.server.mark(&self.tubes.end)?;
            self.server.use_tube(&self.tubes.items)?;
        }
        if drop_rest {
            let tube = self.tubes.items.clone();
            self.purge(&tube, true)?;
        }
        Ok(())
    }

    fn remove(&mut self) -> Result<()> {
        // What this connection holds is the queue's, too.
        let mine: Vec<Receipt> = self.held.keys().copied().collect();
        self.done(&mine)?;
        for tube in [
            self.tubes.items.clone(),
            self.tubes.parts.clone(),
            self.tubes.end.clone(),
            self.tubes.plain.clone(),
            self.tubes.joinable.clone(),
        ] {
            self.purge(&tube, false)?;
        }
        Ok(())
    }
}

/// What a reply that was not expected means.
fn unexpected(address: &Address, asked: &str, reply: &Reply) -> Error {
    let why = match reply.words.first().map(String::as_str) {
        Some("DRAINING") => {
            "the server takes no more (it was told to drain, by SIGUSR1); use another one".into()
        }
        Some("OUT_OF_MEMORY" | "BURIED") => {
            "the server has no memory left; take items, or give it more".into()
        }
        _ => format!(
            "to {asked} it answers {:?}, which beanstalkd does not; is that its port?",
            reply.words.join(" ")
        ),
    };
    Error::Connect {
        endpoint: address.to_string(),
        why,
    }
}
