//! RabbitMQ: a queue is a durable queue of the server.
//!
//! | on the server | what it is |
//! |---|---|
//! | queue `procession.NAME` | the items, one a message |
//! | queue `procession.NAME.end` | a message in it: the queue was shut down |
//! | queue `procession.NAME.unfinished` | of a [`JoinableQueue`](crate::JoinableQueue): one message for each item that is not done with |
//! | exchange `procession.NAME.put` | of such a queue: puts each item into both |
//!
//! RabbitMQ does not tell how many messages its consumers hold. So each item of a joinable queue leaves a copy in a second queue, by one
//! publish, and whoever is done with the item takes one out of there: what is left is what is unfinished.
//!
//! One item is fetched by `basic.get`, so that nobody has more than it can do with; many by a consumer with so much prefetch.

use std::collections::{BTreeMap, VecDeque};
use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::{join_all, try_join_all};
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicGetOptions, BasicNackOptions,
    BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions, ExchangeDeclareOptions,
    ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
    QueuePurgeOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, ConnectionProperties, Consumer, ExchangeKind};
use tokio::runtime::Runtime;
use tokio::time::timeout;

use super::{Accepted, Address, Connection, Count, Delivery, Engine, Guarantees, Receipt, Taken};
use crate::error::{Error, Result};

/// The largest message that RabbitMQ takes unless it was told otherwise, in bytes.
const LARGEST: usize = 128 << 20;
/// From so many on, items are fetched by a consumer.
const MANY: usize = 8;
/// As many as a consumer may have unacknowledged.
const DEEPEST: usize = 8192;
/// What a server that lives answers within.
const PATIENCE: Duration = Duration::from_secs(30);
/// More of those that are on their way come within.
const MORE: Duration = Duration::from_millis(1);
/// Messages are kept on disk.
const PERSISTENT: u8 = 2;

/// What RabbitMQ promises.
pub const GUARANTEES: Guarantees = Guarantees {
    engine: "RabbitMQ",
    url: "amqp://USER:PASSWORD@HOST:5672/%2f?queue=NAME, amqps://",
    delivery: "at least once: puts are confirmed by the server; what was put and not confirmed when a connection is lost is put again, and may be \
               there twice; what a getter had not acknowledged comes again",
    order: "that of the puts of one putter; what comes back takes its old place as far as RabbitMQ can",
    maxsize: "each putter asks before it puts: putters that put at the same moment may go beyond it, by as much as each has at once; \
              counts items that no getter holds, with a JoinableQueue all that are unfinished",
    durability: "on the server's disk: durable queues, persistent messages, confirmed when they are written",
    restart: "nothing that was confirmed; what getters held comes again",
    lease: "as long as the getter's connection lives (one that vanishes silently: two missed heartbeats), and no longer than the server's \
            consumer_timeout (30 minutes), after which RabbitMQ takes the item back: raise it for longer tasks",
    limits: "an item has at most 128 MiB; len() of a Queue does not count what other getters hold",
    speed: "",
};

/// A queue on RabbitMQ.
#[derive(Debug)]
pub struct RabbitMq {
    address: Address,
    joinable: bool,
}

impl RabbitMq {
    /// The queue at this address.
    #[must_use]
    pub fn new(address: &Address, joinable: bool) -> Self {
        Self {
            address: address.clone(),
            joinable,
        }
    }
}

impl Engine for RabbitMq {
    fn connect(&self) -> Result<Box<dyn Connection>> {
        let runtime = runtime()?;
        let (connection, channel, names) = runtime.block_on(async {
            let connecting = open(&self.address, self.joinable);
            match timeout(PATIENCE, connecting).await {
                Ok(Ok(open)) => Ok(open),
                Ok(Err(error)) => Err(self.failed(&error)),
                Err(_) => Err(Error::Connect {
                    endpoint: self.address.to_string(),
                    why: "the server does not answer".to_owned(),
                }),
            }
        })?;
        Ok(Box::new(Link {
            shown: self.address.to_string(),
            joinable: self.joinable,
            maxsize: self.address.maxsize,
            runtime,
            connection,
            channel,
            names,
            consumer: None,
            held: BTreeMap::new(),
            early: VecDeque::new(),
        }))
    }

    fn lease(&self) -> Option<Duration> {
        None
    }

    fn guarantees(&self) -> &'static Guarantees {
        &GUARANTEES
    }
}

impl RabbitMq {
    fn failed(&self, error: &lapin::Error) -> Error {
        Error::Connect {
            endpoint: self.address.to_string(),
            why: explain(error),
        }
    }
}

/// The server's reason, and what to do where that is known.
fn explain(error: &lapin::Error) -> String {
    let text = error.to_string();
    if text.contains("ACCESS_REFUSED") {
        return format!(
            "{text}; look at the user and password of the URL (guest is let in from the server's own host only)"
        );
    }
    if text.contains("PRECONDITION_FAILED") {
        return format!("{text}; another program has made a queue of that name in another way");
    }
    text
}

/// The thread on which all connections live, so that heartbeats go out while the program computes.
fn runtime() -> Result<&'static Runtime> {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    if let Some(runtime) = RUNTIME.get() {
        return Ok(runtime);
    }
    let made = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("amqp")
        .enable_all()
        .build()
        .map_err(|error| Error::system("cannot start a thread for AMQP", error))?;
    Ok(RUNTIME.get_or_init(|| made))
}

/// What a queue is made of on the server.
struct Names {
    items: String,
    end: String,
    unfinished: String,
    exchange: String,
}

impl Names {
    fn of(queue: &str) -> Self {
        let items = format!("procession.{queue}");
        Self {
            end: format!("{items}.end"),
            unfinished: format!("{items}.unfinished"),
            exchange: format!("{items}.put"),
            items,
        }
    }
}

async fn open(
    address: &Address,
    joinable: bool,
) -> lapin::Result<(lapin::Connection, Channel, Names)> {
    let properties = ConnectionProperties::default().with_connection_name("procession".into());
    let connection = lapin::Connection::connect(&address.server, properties).await?;
    let channel = connection.create_channel().await?;
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await?;
    let names = Names::of(&address.queue);
    declare(&channel, &names, joinable).await?;
    Ok((connection, channel, names))
}

async fn declare(channel: &Channel, names: &Names, joinable: bool) -> lapin::Result<()> {
    let durable = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    for queue in [&names.items, &names.end] {
        channel
            .queue_declare(queue.as_str().into(), durable, FieldTable::default())
            .await?;
    }
    if !joinable {
        return Ok(());
    }
    let exchange = ExchangeDeclareOptions {
        durable: true,
        ..ExchangeDeclareOptions::default()
    };
    channel
        .exchange_declare(
            names.exchange.as_str().into(),
            ExchangeKind::Fanout,
            exchange,
            FieldTable::default(),
        )
        .await?;
    channel
        .queue_declare(
            names.unfinished.as_str().into(),
            durable,
            FieldTable::default(),
        )
        .await?;
    for queue in [&names.unfinished, &names.items] {
        channel
            .queue_bind(
                queue.as_str().into(),
                names.exchange.as_str().into(),
                "".into(),
                QueueBindOptions::default(),
                FieldTable::default(),
            )
            .await?;
    }
    Ok(())
}

/// One connection, with one channel.
struct Link {
    shown: String,
    joinable: bool,
    maxsize: Option<u64>,
    runtime: &'static Runtime,
    /// Closed when it is dropped.
    #[allow(dead_code, reason = "the channel lives as long as it does")]
    connection: lapin::Connection,
    channel: Channel,
    names: Names,
    /// What pushes items to us, and how many at most.
    consumer: Option<(Consumer, usize)>,
    /// What was taken and not acknowledged: receipts are delivery tags.
    held: BTreeMap<Receipt, ()>,
    /// Pushed to us after nobody wanted more.
    early: VecDeque<Delivery>,
}

impl Drop for Link {
    fn drop(&mut self) {
        // What it held is given to others when the server sees the connection closed.
        let connection = &self.connection;
        let closing = connection.close(200, "done".into());
        let _ = self
            .runtime
            .block_on(async { timeout(Duration::from_secs(2), closing).await });
    }
}

impl Link {
    /// Runs it to its end, for no longer than a server that lives takes.
    fn call<T>(&self, call: impl Future<Output = lapin::Result<T>>) -> Result<T> {
        self.call_within(PATIENCE, call)
    }

    fn call_within<T>(
        &self,
        time: Duration,
        call: impl Future<Output = lapin::Result<T>>,
    ) -> Result<T> {
        let failed = |why| Error::Connect {
            endpoint: self.shown.clone(),
            why,
        };
        match self.runtime.block_on(async { timeout(time, call).await }) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(failed(explain(&error))),
            Err(_) => Err(failed("the server does not answer".to_owned())),
        }
    }

    /// How many messages a queue has that no consumer holds.
    async fn ready(&self, queue: &str) -> lapin::Result<u64> {
        let passive = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        let queue = self
            .channel
            .queue_declare(queue.into(), passive, FieldTable::default())
            .await?;
        Ok(u64::from(queue.message_count()))
    }

    async fn publish(&self, item: &[u8]) -> lapin::Result<lapin::PublisherConfirm> {
        let (exchange, key) = match self.joinable {
            true => (self.names.exchange.as_str(), ""),
            false => ("", self.names.items.as_str()),
        };
        let properties = BasicProperties::default()
            .with_delivery_mode(PERSISTENT)
            .with_content_type("application/msgpack".into());
        self.channel
            .basic_publish(
                exchange.into(),
                key.into(),
                BasicPublishOptions::default(),
                item,
                properties,
            )
            .await
    }

    /// One message of a queue, if there is one.
    async fn get(&self, queue: &str, options: BasicGetOptions) -> lapin::Result<Option<Delivery>> {
        let got = self.channel.basic_get(queue.into(), options).await?;
        Ok(got.map(|message| delivery(message.delivery)))
    }

    async fn get_some(&self, most: usize) -> lapin::Result<Vec<Delivery>> {
        let gets = (0..most).map(|_| self.get(&self.names.items, BasicGetOptions::default()));
        Ok(try_join_all(gets).await?.into_iter().flatten().collect())
    }

    /// A consumer that pushes up to so many.
    async fn consume(&self, prefetch: usize) -> lapin::Result<Consumer> {
        let count = u16::try_from(prefetch).unwrap_or(u16::MAX);
        self.channel
            .basic_qos(count, BasicQosOptions::default())
            .await?;
        self.channel
            .basic_consume(
                self.names.items.as_str().into(),
                "".into(),
                BasicConsumeOptions::default(),
                FieldTable::default(),
            )
            .await
    }

    /// Ends a consumer, and returns what it had been given by then.
    async fn cancel(&self, mut consumer: Consumer) -> lapin::Result<Vec<Delivery>> {
        self.channel
            .basic_cancel(consumer.tag(), BasicCancelOptions::default())
            .await?;
        let mut rest = Vec::new();
        while let Ok(Some(pushed)) = timeout(MORE, consumer.next()).await {
            rest.push(delivery(pushed?));
        }
        Ok(rest)
    }

    /// The first of those that come within this time, and up to `most` that are here then.
    async fn pushed(
        consumer: &mut Consumer,
        most: usize,
        wait: Duration,
    ) -> lapin::Result<Vec<Delivery>> {
        let mut items = Vec::new();
        let mut time = wait.max(MORE);
        while items.len() < most
            && let Ok(Some(pushed)) = timeout(time, consumer.next()).await
        {
            items.push(delivery(pushed?));
            time = MORE;
        }
        Ok(items)
    }

    fn fetch(&mut self, most: usize, wait: Duration) -> Result<Vec<Delivery>> {
        let wanted = self.held.len() + most;
        let fits = |prefetch: usize| most >= MANY && prefetch >= wanted.min(DEEPEST);
        if let Some((consumer, prefetch)) = self.consumer.take() {
            if fits(prefetch) {
                let mut consumer = consumer;
                let items =
                    self.call_within(wait + PATIENCE, Self::pushed(&mut consumer, most, wait))?;
                self.consumer = Some((consumer, prefetch));
                return Ok(items);
            }
            let rest = self.call(self.cancel(consumer))?;
            self.early.extend(rest);
            let early = self.take_early(most);
            if !early.is_empty() {
                return Ok(early);
            }
        }
        if most >= MANY {
            let prefetch = wanted.next_power_of_two().min(DEEPEST);
            let mut consumer = self.call(self.consume(prefetch))?;
            let items =
                self.call_within(wait + PATIENCE, Self::pushed(&mut consumer, most, wait))?;
            self.consumer = Some((consumer, prefetch));
            return Ok(items);
        }
        let items = self.call(self.get_some(most))?;
        if !items.is_empty() || wait.is_zero() {
            return Ok(items);
        }
        // One that is not there yet is pushed, so that nobody has to ask again and again.
        self.call_within(wait + PATIENCE, async {
            let mut consumer = self.consume(1).await?;
            let mut items = Self::pushed(&mut consumer, 1, wait).await?;
            items.extend(self.cancel(consumer).await?);
            Ok(items)
        })
    }

    fn take_early(&mut self, most: usize) -> Vec<Delivery> {
        let count = most.min(self.early.len());
        self.early.drain(..count).collect()
    }
}

fn delivery(message: lapin::message::Delivery) -> Delivery {
    Delivery {
        receipt: message.delivery_tag,
        item: message.data.into(),
    }
}

impl Connection for Link {
    fn put(&mut self, items: &[Bytes]) -> Result<Accepted> {
        if let Some(large) = items.iter().find(|item| item.len() > LARGEST) {
            return Err(Error::Encoding {
                what: format!("an item for {}", self.shown),
                why: format!(
                    "it has {} bytes, and RabbitMQ takes {LARGEST}; put it into a file or a database, and its name into the queue",
                    large.len()
                ),
            });
        }
        let (ended, room) = self.call(async {
            let ended = self.ready(&self.names.end).await? > 0;
            let room = match self.maxsize {
                Some(maxsize) if maxsize > 0 => {
                    let counted = match self.joinable {
                        true => &self.names.unfinished,
                        false => &self.names.items,
                    };
                    maxsize.saturating_sub(self.ready(counted).await?)
                }
                _ => u64::MAX,
            };
            Ok((ended, room))
        })?;
        if ended {
            return Ok(Accepted::ShutDown(0));
        }
        let fit = items.len().min(usize::try_from(room).unwrap_or(usize::MAX));
        let refused = self.call(async {
            let mut confirms = Vec::with_capacity(fit);
            for item in &items[..fit] {
                confirms.push(self.publish(item).await?);
            }
            let confirmed = join_all(confirms).await;
            let mut refused = false;
            for confirm in confirmed {
                refused |= confirm?.is_nack();
            }
            Ok(refused)
        })?;
        if refused {
            return Err(Error::Connect {
                endpoint: self.shown.clone(),
                why: "the server did not keep what was put (is its disk full?)".to_owned(),
            });
        }
        Ok(match fit == items.len() {
            true => Accepted::All,
            false => Accepted::Full(fit),
        })
    }

    fn take(&mut self, most: usize, wait: Duration) -> Result<Taken> {
        let most = most.clamp(1, DEEPEST);
        let early = self.take_early(most);
        let items = match early.is_empty() {
            true => self.fetch(most, wait)?,
            false => early,
        };
        for item in &items {
            self.held.insert(item.receipt, ());
        }
        if items.is_empty() {
            let over = self.call(async {
                Ok(self.ready(&self.names.end).await? > 0
                    && self.ready(&self.names.items).await? == 0
                    && (!self.joinable || self.ready(&self.names.unfinished).await? == 0))
            })?;
            if over {
                return Ok(Taken::ShutDown);
            }
        }
        Ok(Taken::Items(items))
    }

    fn done(&mut self, receipts: &[Receipt]) -> Result<()> {
        let mut known: Vec<Receipt> = receipts
            .iter()
            .copied()
            .filter(|receipt| self.held.remove(receipt).is_some())
            .collect();
        known.sort_unstable();
        let Some(&last) = known.last() else {
            return Ok(());
        };
        // All up to the last one, if nobody holds one of those before it.
        let first_held = self.held.keys().next();
        let first_early = self.early.front().map(|early| &early.receipt);
        let multiple = first_held.is_none_or(|first| *first > last)
            && first_early.is_none_or(|first| *first > last);
        self.call(async {
            if self.joinable {
                let one = || {
                    let options = BasicGetOptions { no_ack: false };
                    self.get(&self.names.unfinished, options)
                };
                // Both go together, so that a death takes neither or both back, as nearly as can be.
                let tokens = try_join_all(known.iter().map(|_| one())).await?;
                for token in tokens.into_iter().flatten() {
                    let options = BasicAckOptions::default();
                    self.channel.basic_ack(token.receipt, options).await?;
                }
                for receipt in known {
                    let options = BasicAckOptions::default();
                    self.channel.basic_ack(receipt, options).await?;
                }
            } else if multiple {
                let options = BasicAckOptions { multiple: true };
                self.channel.basic_ack(last, options).await?;
            } else {
                for receipt in known {
                    let options = BasicAckOptions::default();
                    self.channel.basic_ack(receipt, options).await?;
                }
            }
            Ok(())
        })
    }

    fn give_back(&mut self, receipts: &[Receipt]) -> Result<()> {
        let early: Vec<Receipt> = self.early.drain(..).map(|early| early.receipt).collect();
        let known: Vec<Receipt> = receipts
            .iter()
            .copied()
            .filter(|receipt| self.held.remove(receipt).is_some())
            .chain(early)
            .collect();
        self.call(async {
            for receipt in known {
                let options = BasicNackOptions {
                    multiple: false,
                    requeue: true,
                };
                self.channel.basic_nack(receipt, options).await?;
            }
            Ok(())
        })
    }

    fn renew(&mut self, _: &[Receipt]) -> Result<()> {
        // They are held as long as the connection lives.
        Ok(())
    }

    fn count(&mut self) -> Result<Count> {
        self.call(async {
            let ready = self.ready(&self.names.items).await?;
            let held = match self.joinable {
                true => Some(
                    self.ready(&self.names.unfinished)
                        .await?
                        .saturating_sub(ready),
                ),
                false => None,
            };
            Ok(Count {
                ready,
                held,
                shut_down: self.ready(&self.names.end).await? > 0,
            })
        })
    }

    fn shutdown(&mut self, drop_rest: bool) -> Result<()> {
        self.call(async {
            if self.ready(&self.names.end).await? == 0 {
                let properties = BasicProperties::default().with_delivery_mode(PERSISTENT);
                let confirm = self
                    .channel
                    .basic_publish(
                        "".into(),
                        self.names.end.as_str().into(),
                        BasicPublishOptions::default(),
                        b"",
                        properties,
                    )
                    .await?;
                confirm.await?;
            }
            if drop_rest {
                let items = self.names.items.as_str().into();
                let dropped = self
                    .channel
                    .queue_purge(items, QueuePurgeOptions::default())
                    .await?;
                if self.joinable {
                    let options = BasicGetOptions { no_ack: true };
                    for _ in 0..dropped {
                        if self.get(&self.names.unfinished, options).await?.is_none() {
                            break;
                        }
                    }
                }
            }
            Ok(())
        })
    }

    fn remove(&mut self) -> Result<()> {
        self.consumer = None;
        self.early.clear();
        self.held.clear();
        self.call(async {
            let names = &self.names;
            for queue in [&names.items, &names.end, &names.unfinished] {
                self.channel
                    .queue_delete(queue.as_str().into(), QueueDeleteOptions::default())
                    .await?;
            }
            self.channel
                .exchange_delete(
                    names.exchange.as_str().into(),
                    ExchangeDeleteOptions::default(),
                )
                .await?;
            declare(&self.channel, names, self.joinable).await
        })
    }
}
