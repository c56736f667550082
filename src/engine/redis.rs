//! Queues on Redis: a stream with a consumer group, and scripts for what must happen in one piece. See docs/engines.md.

mod scripts;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use redis::{Client, RedisError, Script, Value};

use super::parts::{Head, first_batch};
use super::{
    Accepted, Address, Connection, Count, Delivery, Engine, Guarantees, Receipt, Taken, bad,
    name_on_server, unique,
};
use crate::error::{Error, Result};

/// For how long an item is its getter's, unless the URL says otherwise.
const LEASE: Duration = Duration::from_secs(30);
/// How long a server may take to answer; a connection that takes longer is given up.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a getter looks for what comes back from others, and for the end, while it waits.
const GLANCE: Duration = Duration::from_millis(100);
/// How often a getter looks whether others live.
const ROUND: Duration = Duration::from_secs(1);
/// An item that is longer goes in parts of this length: the server takes 512 MB at most, and it shall not be asked for so much at once.
const PART: usize = 16 << 20;
/// How much goes to the server in one script.
const BATCH_ITEMS: usize = 512;
const BATCH_BYTES: usize = 8 << 20;
/// How many receipts go to the server in one script.
const BATCH_RECEIPTS: usize = 1000;
/// Parts of an item that was never put are gone after so many seconds.
const ABANDONED: u64 = 3600;
/// Of how many batches it is remembered that their answer did not come.
const UNSURE: usize = 8;

/// What Redis promises.
pub(super) static GUARANTEES: Guarantees = Guarantees {
    engine: "Redis",
    url: "redis://[[USER]:PASSWORD@]HOST[:6379][/DATABASE]?queue=NAME",
    delivery: "At least once: an item whose getter dies is given to another one. A batch that is put again because its answer was lost is \
               recognized for a day, so it is there once, as long as the putting program lives.",
    order: "That of putting, over all putters. What comes back is given out before all else.",
    maxsize: "Exact: one script counts what is ready and held, and puts.",
    durability: "In the server's memory, and on its disk as that is set up (appendonly, save).",
    restart: "Nothing, with appendonly yes and appendfsync always; with everysec a second's changes when it is killed; everything since the last \
              snapshot with save; everything without.",
    lease: "A killed getter's items are given out within about a second: its connection is gone from CLIENT LIST. One that vanished \
            with its host, or where CLIENT LIST is not allowed: when the lease is over (30 s, or lease=).",
    limits: "Items of any length that the server has memory for; above 16 MiB in parts. One server, no cluster, no TLS.",
    speed: "66,000 small items a second through a Queue, put by one thread and got by another beside the server on two cores; a plain loop of the client, one item at a time: 3,400.",
};

/// A queue on Redis.
#[derive(Debug)]
pub struct Redis {
    address: Address,
    client: Client,
    joinable: bool,
    unsure: Arc<Mutex<Vec<Batch>>>,
}

/// A batch on its way.
#[derive(Clone, Debug)]
struct Batch {
    /// What was to be put.
    items: Vec<Bytes>,
    /// What goes to the server for them: large ones are heads.
    bodies: Vec<Bytes>,
    putter: String,
    number: u64,
}

impl Redis {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// [`Error::BadEndpoint`]: it is no URL of Redis, or asks for TLS.
    pub fn new(address: &Address, joinable: bool) -> Result<Self> {
        if address.server.starts_with("rediss") {
            return Err(bad(
                address,
                "TLS to Redis is not built in; take redis:// through a tunnel (stunnel, ssh -L)",
            ));
        }
        let client = Client::open(address.server.as_str())
            .map_err(|error| bad(address, &error.to_string()))?;
        Ok(Self {
            address: address.clone(),
            client,
            joinable,
            unsure: Arc::default(),
        })
    }
}

impl Engine for Redis {
    fn connect(&self) -> Result<Box<dyn Connection>> {
        let lost = |error| lost(&self.address, &error);
        let mut server = self
            .client
            .get_connection_with_timeout(PATIENCE)
            .map_err(lost)?;
        server.set_read_timeout(Some(PATIENCE)).map_err(lost)?;
        server.set_write_timeout(Some(PATIENCE)).map_err(lost)?;
        let unique = unique()?;
        let keys = Keys::new(&self.address.queue);
        let kind = kind(self.joinable);
        let made: String = scripted(scripts::MAKE, &keys)
            .arg(kind)
            .invoke(&mut server)
            .map_err(|error| match error.code() {
                Some("WRONGTYPE") => self.other("something that is no queue of procession's"),
                _ => lost(error),
            })?;
        if made != kind {
            return Err(self.other(&format!("a {made}")));
        }
        // Where that is not allowed, others learn of this one's death by its lease.
        let name = format!("procession-{unique}");
        let named = redis::cmd("CLIENT")
            .arg("SETNAME")
            .arg(&name)
            .query::<()>(&mut server);
        let id = redis::cmd("CLIENT").arg("ID").query::<i64>(&mut server);
        let getter = match (named, id) {
            (Ok(()), Ok(id)) => format!("procession-{id}-{unique}"),
            _ => format!("leased-{unique}"),
        };
        Ok(Box::new(Link {
            address: self.address.clone(),
            server,
            keys,
            getter,
            putter: unique,
            batches: 0,
            receipts: 0,
            held: HashMap::new(),
            looked: None,
            unsure: Arc::clone(&self.unsure),
        }))
    }

    fn lease(&self) -> Option<Duration> {
        Some(self.address.lease.unwrap_or(LEASE))
    }

    fn guarantees(&self) -> &'static Guarantees {
        &GUARANTEES
    }
}

impl Redis {
    fn other(&self, found: &str) -> Error {
        Error::BadHandle {
            endpoint: self.address.to_string(),
            why: format!(
                "there is {found} of that name, and a {} was wanted; open it as what it is, or take another queue=NAME",
                kind(self.joinable)
            ),
        }
    }
}

const fn kind(joinable: bool) -> &'static str {
    if joinable { "JoinableQueue" } else { "Queue" }
}

/// An error of the client's. It has no password in it.
fn lost(address: &Address, error: &RedisError) -> Error {
    let advice = match error.code() {
        Some("NOAUTH" | "WRONGPASS") => {
            "; give user and password in the URL: redis://USER:PASSWORD@HOST"
        }
        Some("OOM") => "; the server has no memory left (maxmemory): take items, or give it more",
        Some("UNKNOWN") | None if error.is_connection_refusal() => {
            "; is the server running, and is that its port?"
        }
        _ if error.is_timeout() => "; it has not answered in time",
        _ => "",
    };
    Error::Connect {
        endpoint: address.to_string(),
        why: format!("{error}{advice}"),
    }
}

/// The queue's keys, as all scripts get them.
#[derive(Debug)]
struct Keys {
    items: String,
    state: String,
    puts: String,
    large: String,
}

impl Keys {
    fn new(queue: &str) -> Self {
        Self {
            items: name_on_server(queue, ""),
            state: name_on_server(queue, "/state"),
            puts: name_on_server(queue, "/puts"),
            large: name_on_server(queue, "/large"),
        }
    }

    fn part(&self, place: &str) -> String {
        format!("{}/part/{place}", self.items)
    }
}

/// A script with the queue's keys; arguments follow.
struct Scripted {
    script: Script,
    keys: [String; 4],
    arguments: Vec<Bytes>,
}

fn scripted(code: &str, keys: &Keys) -> Scripted {
    Scripted {
        script: Script::new(code),
        keys: [
            keys.items.clone(),
            keys.state.clone(),
            keys.puts.clone(),
            keys.large.clone(),
        ],
        arguments: Vec::new(),
    }
}

impl Scripted {
    fn arg(mut self, argument: impl AsRef<[u8]>) -> Self {
        self.arguments
            .push(Bytes::copy_from_slice(argument.as_ref()));
        self
    }

    fn args(mut self, arguments: impl IntoIterator<Item = Bytes>) -> Self {
        self.arguments.extend(arguments);
        self
    }

    fn invoke<T: redis::FromRedisValue>(
        self,
        server: &mut redis::Connection,
    ) -> Result<T, RedisError> {
        let mut call = self.script.prepare_invoke();
        for key in &self.keys {
            call.key(key);
        }
        for argument in &self.arguments {
            call.arg(&argument[..]);
        }
        call.invoke(server)
    }
}

/// An item that was taken.
#[derive(Debug)]
struct Held {
    id: String,
    /// Of its parts; empty if it has none.
    place: String,
}

struct Link {
    address: Address,
    server: redis::Connection,
    keys: Keys,
    /// As the server knows it among the group's consumers. With the number and the name of its connection, by which others see that it lives.
    getter: String,
    putter: String,
    batches: u64,
    receipts: Receipt,
    held: HashMap<Receipt, Held>,
    looked: Option<Instant>,
    unsure: Arc<Mutex<Vec<Batch>>>,
}

impl Link {
    fn run<T: redis::FromRedisValue>(&mut self, script: Scripted) -> Result<T> {
        script
            .invoke(&mut self.server)
            .map_err(|error| lost(&self.address, &error))
    }

    fn script(&self, code: &str) -> Scripted {
        scripted(code, &self.keys)
    }

    fn ask<T: redis::FromRedisValue>(&mut self, command: &redis::Cmd) -> Result<T> {
        command
            .query(&mut self.server)
            .map_err(|error| lost(&self.address, &error))
    }

    fn strange(&self, what: &str) -> Error {
        Error::Connect {
            endpoint: self.address.to_string(),
            why: format!("{what} is not what a Redis server answers"),
        }
    }

    /// A batch whose answer did not come, if these items begin with it; it is forgotten there.
    fn unsure(&self, items: &[Bytes]) -> Option<Batch> {
        let mut unsure = self.unsure.lock().unwrap_or_else(PoisonError::into_inner);
        let found = unsure
            .iter()
            .position(|batch| items.starts_with(&batch.items))?;
        Some(unsure.remove(found))
    }

    fn batch(&mut self, items: &[Bytes]) -> Result<Batch> {
        let mut bodies = Vec::with_capacity(items.len());
        for item in items {
            bodies.push(if item.len() > PART || Head::decode(item).is_some() {
                self.upload(item)?
            } else {
                item.clone()
            });
        }
        self.batches += 1;
        Ok(Batch {
            items: items.to_vec(),
            bodies,
            putter: self.putter.clone(),
            number: self.batches,
        })
    }

    /// Puts an item's parts aside, and gives its head.
    fn upload(&mut self, item: &Bytes) -> Result<Bytes> {
        let place = unique()?;
        let (key, large) = (self.keys.part(&place), self.keys.large.clone());
        self.ask::<()>(redis::cmd("SADD").arg(&large).arg(&place))?;
        for part in item.chunks(PART) {
            let mut pipe = redis::pipe();
            pipe.rpush(&key, part).ignore();
            pipe.cmd("EXPIRE").arg(&key).arg(ABANDONED).ignore();
            pipe.query::<()>(&mut self.server)
                .map_err(|error| lost(&self.address, &error))?;
        }
        // Before the head is there: a head without its parts would be a lost item.
        self.ask::<()>(redis::cmd("PERSIST").arg(&key))?;
        let head = Head {
            len: item.len() as u64,
            place: place.into_bytes(),
        };
        Ok(head.encode().into())
    }

    fn discard(&mut self, bodies: &[Bytes]) -> Result<()> {
        for head in bodies.iter().filter_map(|body| Head::decode(body)) {
            let place = String::from_utf8_lossy(&head.place).into_owned();
            let (key, large) = (self.keys.part(&place), self.keys.large.clone());
            self.ask::<()>(redis::cmd("DEL").arg(&key))?;
            self.ask::<()>(redis::cmd("SREM").arg(&large).arg(&place))?;
        }
        Ok(())
    }

    /// How many of them the server has accepted, and whether the queue is shut down.
    fn send(&mut self, batch: Batch) -> Result<(usize, bool)> {
        let call = self
            .script(scripts::PUT)
            .arg(&batch.putter)
            .arg(batch.number.to_string())
            .arg(self.address.maxsize.unwrap_or(0).to_string())
            .args(batch.bodies.iter().cloned());
        match self.run::<(usize, u8)>(call) {
            Ok((accepted, shut)) => {
                let accepted = accepted.min(batch.bodies.len());
                self.discard(&batch.bodies[accepted..])?;
                Ok((accepted, shut != 0))
            }
            Err(error) => {
                let mut unsure = self.unsure.lock().unwrap_or_else(PoisonError::into_inner);
                if unsure.len() >= UNSURE {
                    unsure.remove(0);
                }
                unsure.push(batch);
                Err(error)
            }
        }
    }

    /// Takes back what getters held whose connection is gone, and what was held for too long.
    fn look_after_the_dead(&mut self) -> Result<()> {
        self.looked = Some(Instant::now());
        // Getters first, connections afterwards: who is not among these was connected before, and is gone.
        let key = self.keys.items.clone();
        let getters: Vec<HashMap<String, Value>> = self.ask(
            redis::cmd("XINFO")
                .arg("CONSUMERS")
                .arg(&key)
                .arg("procession"),
        )?;
        let getters: Vec<(String, String)> = getters
            .iter()
            .filter_map(|getter| match getter.get("name") {
                Some(Value::BulkString(name)) => {
                    let name = std::str::from_utf8(name).ok()?;
                    let id = name.strip_prefix("procession-")?.split_once('-')?.0;
                    (name != self.getter).then(|| (id.to_owned(), name.to_owned()))
                }
                _ => None,
            })
            .collect();
        let mut dead = Vec::new();
        if !getters.is_empty() && !self.getter.starts_with("leased-") {
            let mut command = redis::cmd("CLIENT");
            command.arg("LIST").arg("ID");
            for (id, _) in &getters {
                command.arg(id);
            }
            match command.query::<String>(&mut self.server) {
                Ok(clients) => dead.extend(getters.into_iter().filter_map(|(id, getter)| {
                    let unique = getter.rsplit('-').next().unwrap_or_default();
                    let (id, name) = (format!("id={id} "), format!(" name=procession-{unique} "));
                    let lives =
                        |client: &str| client.starts_with(&id) && client.contains(name.as_str());
                    (!clients.lines().any(lives)).then_some(getter)
                })),
                // What is not allowed is left to the lease.
                Err(error) if error.is_io_error() || error.is_timeout() => {
                    return Err(lost(&self.address, &error));
                }
                Err(_) => {}
            }
        }
        let lease = self.address.lease.unwrap_or(LEASE).as_millis().to_string();
        let call = self.script(scripts::TAKE_BACK).arg(lease);
        self.run(call.args(dead.into_iter().map(Bytes::from)))
    }

    /// What the entries of a stream are as items.
    fn deliver(&mut self, entries: Vec<Value>) -> Result<Vec<Delivery>> {
        let mut items = Vec::with_capacity(entries.len());
        for entry in entries {
            let Value::Array(entry) = entry else {
                return Err(self.strange("an entry"));
            };
            let mut entry = entry.into_iter();
            let (Some(Value::BulkString(id)), Some(Value::Array(fields))) =
                (entry.next(), entry.next())
            else {
                return Err(self.strange("an entry"));
            };
            let mut body = Bytes::new();
            let mut fields = fields.into_iter();
            // A foreign entry may have other fields: its last one is handed on then.
            while let (Some(name), Some(Value::BulkString(value))) = (fields.next(), fields.next())
            {
                body = value.into();
                if matches!(&name, Value::BulkString(name) if name == b"item") {
                    break;
                }
            }
            let mut place = String::new();
            if let Some(head) = Head::decode(&body) {
                let at = String::from_utf8_lossy(&head.place).into_owned();
                // A head without its parts is somebody's garbage, and handed on as such.
                if let Some(item) = self.download(&at, head.len)? {
                    (body, place) = (item, at);
                }
            }
            self.receipts += 1;
            let id = String::from_utf8_lossy(&id).into_owned();
            self.held.insert(self.receipts, Held { id, place });
            items.push(Delivery {
                receipt: self.receipts,
                item: body,
            });
        }
        Ok(items)
    }

    fn download(&mut self, place: &str, len: u64) -> Result<Option<Bytes>> {
        let key = self.keys.part(place);
        let mut item = Vec::new();
        for part in 0_u64.. {
            let part: Option<Vec<u8>> = self.ask(redis::cmd("LINDEX").arg(&key).arg(part))?;
            let Some(part) = part else { break };
            item.extend_from_slice(&part);
        }
        Ok((item.len() as u64 == len).then(|| item.into()))
    }

    /// Waits for something new, no longer than that. What comes back, and the end, are not seen here.
    fn wait_for_new(&mut self, most: usize, time: Duration) -> Result<Vec<Delivery>> {
        let millis = time.as_millis();
        if millis == 0 {
            // To the server, 0 is for ever.
            thread::sleep(time);
            return Ok(Vec::new());
        }
        let key = self.keys.items.clone();
        let answer: Value = self.ask(
            redis::cmd("XREADGROUP")
                .arg("GROUP")
                .arg("procession")
                .arg(&self.getter)
                .arg("COUNT")
                .arg(most)
                .arg("BLOCK")
                .arg(millis as u64)
                .arg("STREAMS")
                .arg(&key)
                .arg(">"),
        )?;
        // One stream: its name, and its entries.
        let Value::Array(streams) = answer else {
            return Ok(Vec::new());
        };
        match streams.into_iter().next() {
            Some(Value::Array(stream)) => match stream.into_iter().nth(1) {
                Some(Value::Array(entries)) => self.deliver(entries),
                _ => Err(self.strange("a stream")),
            },
            _ => Err(self.strange("a list of streams")),
        }
    }

    fn hand(&mut self, receipts: &[Receipt], to: &str) -> Result<()> {
        for receipts in receipts.chunks(BATCH_RECEIPTS) {
            let held = receipts
                .iter()
                .filter_map(|receipt| self.held.get(receipt))
                .map(|held| Bytes::from(held.id.clone()))
                .collect::<Vec<_>>();
            let call = self.script(scripts::HAND).arg(&self.getter).arg(to);
            self.run::<()>(call.args(held))?;
        }
        Ok(())
    }
}

impl Connection for Link {
    fn put(&mut self, items: &[Bytes]) -> Result<Accepted> {
        let mut put = 0;
        while put < items.len() {
            let batch = match self.unsure(&items[put..]) {
                Some(batch) => batch,
                None => {
                    let len = first_batch(&items[put..], (BATCH_ITEMS, BATCH_BYTES), PART);
                    if items[put..put + len].iter().any(|item| item.len() > PART) {
                        // Their parts are not carried for nothing.
                        let count = self.count()?;
                        if count.shut_down {
                            return Ok(Accepted::ShutDown(put));
                        }
                        if (self.address.maxsize)
                            .is_some_and(|most| count.ready + count.held >= most)
                        {
                            return Ok(Accepted::Full(put));
                        }
                    }
                    self.batch(&items[put..put + len])?
                }
            };
            let len = batch.items.len();
            let (accepted, shut) = self.send(batch)?;
            put += accepted;
            if shut {
                return Ok(Accepted::ShutDown(put));
            }
            if accepted < len {
                return Ok(Accepted::Full(put));
            }
        }
        Ok(Accepted::All)
    }

    fn take(&mut self, most: usize, wait: Duration) -> Result<Taken> {
        let end = Instant::now() + wait;
        let most = most.max(1);
        loop {
            if self.looked.is_none_or(|looked| looked.elapsed() >= ROUND) {
                self.look_after_the_dead()?;
            }
            let call = self
                .script(scripts::TAKE)
                .arg(&self.getter)
                .arg(most.to_string());
            let (entries, over): (Vec<Value>, u8) = self.run(call)?;
            if !entries.is_empty() {
                return Ok(Taken::Items(self.deliver(entries)?));
            }
            if over != 0 {
                return Ok(Taken::ShutDown);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Taken::Items(Vec::new()));
            }
            let items = self.wait_for_new(most, left.min(GLANCE))?;
            if !items.is_empty() {
                return Ok(Taken::Items(items));
            }
        }
    }

    fn done(&mut self, receipts: &[Receipt]) -> Result<()> {
        for receipts in receipts.chunks(BATCH_RECEIPTS) {
            let mut call = self.script(scripts::DONE).arg(&self.getter);
            for receipt in receipts {
                if let Some(held) = self.held.remove(receipt) {
                    call = call.arg(&held.id).arg(&held.place);
                }
            }
            self.run::<()>(call)?;
        }
        Ok(())
    }

    fn give_back(&mut self, receipts: &[Receipt]) -> Result<()> {
        self.hand(receipts, "returned")?;
        for receipt in receipts {
            self.held.remove(receipt);
        }
        Ok(())
    }

    fn renew(&mut self, receipts: &[Receipt]) -> Result<()> {
        let getter = self.getter.clone();
        self.hand(receipts, &getter)
    }

    fn count(&mut self) -> Result<Count> {
        let call = self.script(scripts::COUNT);
        let (all, held, shut): (u64, u64, u8) = self.run(call)?;
        Ok(Count {
            ready: all.saturating_sub(held),
            held,
            shut_down: shut != 0,
        })
    }

    fn shutdown(&mut self, drop_rest: bool) -> Result<()> {
        let mark = Head {
            len: 0,
            place: Vec::new(),
        };
        let mark = mark.encode();
        let call = self
            .script(scripts::SHUT_DOWN)
            .arg(if drop_rest { "1" } else { "0" })
            .arg(&mark[..mark.len() - 8]);
        self.run(call)
    }

    fn remove(&mut self) -> Result<()> {
        let call = self.script(scripts::REMOVE);
        self.held.clear();
        self.run(call)
    }
}
