//! One connection to RabbitMQ, with one channel.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_lite::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicGetOptions, BasicNackOptions,
    BasicPublishOptions, BasicQosOptions, ExchangeDeleteOptions, QueueDeclareOptions,
    QueueDeleteOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Confirmation};

use super::{Caller, Failure, Names, PATIENCE, all, declare, unbind};
use crate::engine::parts::{Head, first_batch};
use crate::engine::{Accepted, Connection, Count, Delivery, Receipt, Taken, unique};
use crate::error::{Error, Result};

/// How much is sent before confirmations are waited for.
const BATCH_ITEMS: usize = 256;
const BATCH_BYTES: usize = 4 << 20;
/// How many items are asked for in one round trip.
const BATCH_TAKEN: usize = 64;
/// An item that is longer goes in parts of this length: servers refuse messages beyond 128 MiB, later ones beyond 16 MiB.
const PART: usize = 16 << 20;
/// How often a getter that waits looks whether this is the end.
const GLANCE: Duration = Duration::from_millis(500);
/// Sending or reading a part of a large item may take longer than a small one.
const LARGE_PATIENCE: Duration = Duration::from_secs(30);
/// The parts that a getter was reading when it died are in their queue again after its connection is found to be closed.
const PARTS_COME_BACK: Duration = Duration::from_secs(5);

/// An item that was taken.
#[derive(Debug)]
struct Held {
    tag: u64,
    /// Where its parts are; empty if it has none.
    place: String,
}

pub(super) struct Link {
    caller: Caller,
    connection: Arc<lapin::Connection>,
    channel: Channel,
    names: Names,
    receipts: Receipt,
    held: HashMap<Receipt, Held>,
}

/// How many of a batch have come in, and why not all.
struct Published {
    accepted: usize,
    returned: bool,
}

async fn publish(
    channel: &Channel,
    exchange: &str,
    key: &str,
    bodies: &[Bytes],
) -> lapin::Result<Published> {
    let options = BasicPublishOptions {
        // What no queue gets comes back: after the end.
        mandatory: true,
        ..Default::default()
    };
    let properties = || BasicProperties::default().with_delivery_mode(2);
    let sent = bodies
        .iter()
        .map(|body| channel.basic_publish(exchange.into(), key.into(), options, body, properties()))
        .collect();
    let mut published = Published {
        accepted: 0,
        returned: false,
    };
    // What was accepted behind one that was not counts as not accepted either: it is put again, rather than another one lost.
    let mut refused = false;
    for confirmed in all(sent).await? {
        match confirmed.await? {
            Confirmation::Ack(None) | Confirmation::NotRequested => {
                published.accepted += usize::from(!refused);
            }
            Confirmation::Ack(Some(_)) => {
                published.returned = true;
                refused = true;
            }
            Confirmation::Nack(_) => refused = true,
        }
    }
    Ok(published)
}

/// What is ready in a queue; `None` for one that is not there would close the channel, so it is only asked for those that are.
async fn ready(channel: &Channel, queue: &str) -> lapin::Result<u64> {
    let passive = QueueDeclareOptions {
        passive: true,
        durable: true,
        ..Default::default()
    };
    let queue = channel
        .queue_declare(queue.into(), passive, FieldTable::default())
        .await?;
    Ok(queue.message_count().into())
}

/// Up to so many messages; waits for none.
async fn get(channel: &Channel, queue: &str, most: usize) -> lapin::Result<Vec<(u64, Vec<u8>)>> {
    let asked = (0..most)
        .map(|_| channel.basic_get(queue.into(), BasicGetOptions::default()))
        .collect();
    let mut messages: Vec<(u64, Vec<u8>)> = all(asked)
        .await?
        .into_iter()
        .flatten()
        .map(|message| (message.delivery.delivery_tag, message.delivery.data))
        .collect();
    messages.sort_unstable_by_key(|(tag, _)| *tag);
    Ok(messages)
}

/// Waits for messages, the first of them no longer than that.
async fn wait_for(
    channel: &Channel,
    queue: &str,
    most: usize,
    time: Duration,
) -> lapin::Result<Vec<(u64, Vec<u8>)>> {
    let most = u16::try_from(most).unwrap_or(u16::MAX);
    channel.basic_qos(most, BasicQosOptions::default()).await?;
    let mut consumer = channel
        .basic_consume(
            queue.into(),
            "".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        )
        .await?;
    let mut messages = Vec::new();
    if let Ok(Some(first)) = tokio::time::timeout(time, consumer.next()).await {
        messages.push(first?);
    }
    // Nothing is sent here while nobody waits: others could have it. What was on its way is ours.
    channel
        .basic_cancel(consumer.tag(), BasicCancelOptions::default())
        .await?;
    while let Some(next) = consumer.next().await {
        messages.push(next?);
    }
    Ok(messages
        .into_iter()
        .map(|message| (message.delivery_tag, message.data))
        .collect())
}

async fn acknowledge(channel: &Channel, tags: Vec<u64>) -> lapin::Result<()> {
    let acks = tags
        .into_iter()
        .map(|tag| channel.basic_ack(tag, BasicAckOptions::default()))
        .collect();
    all(acks).await?;
    Ok(())
}

impl Link {
    pub(super) fn new(
        caller: Caller,
        connection: Arc<lapin::Connection>,
        channel: Channel,
        names: Names,
    ) -> Self {
        Self {
            caller,
            connection,
            channel,
            names,
            receipts: 0,
            held: HashMap::new(),
        }
    }

    /// Ready items, tokens and marks of the end. What was asked before on this channel has been done when this is answered.
    fn counts(&self) -> Result<(u64, u64, u64)> {
        let (channel, names) = (self.channel.clone(), self.names.clone());
        self.caller.call(PATIENCE, async move {
            let asked = vec![
                ready(&channel, &names.items),
                ready(&channel, &names.tokens),
                ready(&channel, &names.end),
            ];
            let counts = all(asked).await?;
            Ok((counts[0], counts[1], counts[2]))
        })
    }

    fn publish(&self, exchange: String, key: String, bodies: Vec<Bytes>) -> Result<Published> {
        let channel = self.channel.clone();
        let large = bodies.iter().map(Bytes::len).sum::<usize>() > BATCH_BYTES;
        let patience = if large { LARGE_PATIENCE } else { PATIENCE };
        self.caller.call(patience, async move {
            publish(&channel, &exchange, &key, &bodies).await
        })
    }

    /// Straight into a queue.
    fn publish_to(&self, queue: &str, body: Bytes) -> Result<()> {
        let published = self.publish(String::new(), queue.to_owned(), vec![body])?;
        if published.accepted == 0 {
            return Err(Error::Connect {
                endpoint: self.caller.address.to_string(),
                why: format!(
                    "the server does not take a message for its queue {queue}; is there a limit on it?"
                ),
            });
        }
        Ok(())
    }

    /// Puts an item's parts aside, and gives its head.
    fn upload(&self, item: &Bytes) -> Result<Bytes> {
        let place = unique()?;
        let queue = self.names.part(&place);
        // First of all, so that it is found when the queue is removed.
        self.publish_to(&self.names.large, place.clone().into())?;
        let (channel, name) = (self.channel.clone(), queue.clone());
        self.caller
            .call(PATIENCE, async move { declare(&channel, &name).await })?;
        for part in item.chunks(PART) {
            self.publish_to(&queue, item.slice_ref(part))?;
        }
        let len = item.len() as u64;
        let place = place.into_bytes();
        Ok(Head { len, place }.encode().into())
    }

    /// The item behind a head; `None` if its parts are not there.
    fn download(&self, place: &str, len: u64) -> Result<Option<Bytes>> {
        let end = Instant::now() + PARTS_COME_BACK;
        loop {
            let (connection, queue) = (Arc::clone(&self.connection), self.names.part(place));
            let read = self.caller.run(LARGE_PATIENCE, async move {
                // What is not acknowledged is in the queue again when its channel is closed; and a queue that is not there closes it, too.
                let channel = connection.create_channel().await?;
                ready(&channel, &queue).await?;
                let mut item = Vec::new();
                while (item.len() as u64) < len {
                    let part = get(&channel, &queue, 1).await?;
                    let Some((_, part)) = part.into_iter().next() else {
                        break;
                    };
                    item.extend_from_slice(&part);
                }
                channel.close(200, "".into()).await?;
                Ok(item)
            });
            match read {
                Ok(item) if item.len() as u64 == len => return Ok(Some(item.into())),
                Ok(_) if Instant::now() >= end => return Ok(None),
                Ok(_) => std::thread::sleep(Duration::from_millis(50)),
                Err(failure) if failure.is_not_there() => return Ok(None),
                Err(failure) => return Err(self.caller.lost(&failure)),
            }
        }
    }

    fn deliver(&mut self, messages: Vec<(u64, Vec<u8>)>) -> Result<Vec<Delivery>> {
        let mut items = Vec::with_capacity(messages.len());
        for (tag, body) in messages {
            let (mut item, mut place) = (Bytes::from(body), String::new());
            if let Some(head) = Head::decode(&item) {
                let at = String::from_utf8_lossy(&head.place).into_owned();
                // A head without its parts is somebody's garbage, and handed on as such. A place is a number in hexadecimal.
                if at.len() == 16
                    && at.bytes().all(|byte| byte.is_ascii_hexdigit())
                    && let Some(whole) = self.download(&at, head.len)?
                {
                    (item, place) = (whole, at);
                }
            }
            let receipt = self.hold(tag, place);
            items.push(Delivery { receipt, item });
        }
        Ok(items)
    }

    fn hold(&mut self, tag: u64, place: String) -> Receipt {
        self.receipts += 1;
        self.held.insert(self.receipts, Held { tag, place });
        self.receipts
    }

    fn fetch(&self, most: usize) -> Result<Vec<(u64, Vec<u8>)>> {
        let (channel, queue) = (self.channel.clone(), self.names.items.clone());
        self.caller.call(
            LARGE_PATIENCE,
            async move { get(&channel, &queue, most).await },
        )
    }

    fn delete(&self, queue: String) -> Result<()> {
        let channel = self.channel.clone();
        self.caller.call(PATIENCE, async move {
            channel
                .queue_delete(queue.as_str().into(), QueueDeleteOptions::default())
                .await?;
            Ok(())
        })
    }
}

impl Connection for Link {
    fn put(&mut self, items: &[Bytes]) -> Result<Accepted> {
        let mut put = 0;
        while put < items.len() {
            let mut len = first_batch(&items[put..], (BATCH_ITEMS, BATCH_BYTES), PART);
            let is_large = |item: &Bytes| item.len() > PART || Head::decode(item).is_some();
            let any_large = items[put..put + len].iter().any(is_large);
            if any_large || self.caller.address.maxsize.is_some_and(|most| most > 0) {
                let (_, tokens, end) = self.counts()?;
                if end > 0 {
                    return Ok(Accepted::ShutDown(put));
                }
                let most = self.caller.address.maxsize.filter(|most| *most > 0);
                let room = most.unwrap_or(u64::MAX).saturating_sub(tokens);
                if room == 0 {
                    return Ok(Accepted::Full(put));
                }
                len = len.min(usize::try_from(room).unwrap_or(usize::MAX));
            }
            let mut bodies = Vec::with_capacity(len);
            for item in &items[put..put + len] {
                bodies.push(if is_large(item) {
                    self.upload(item)?
                } else {
                    item.clone()
                });
            }
            let published = self.publish(self.names.items.clone(), String::new(), bodies)?;
            put += published.accepted;
            if published.returned {
                return Ok(Accepted::ShutDown(put));
            }
            if published.accepted < len {
                return Ok(Accepted::Full(put));
            }
        }
        Ok(Accepted::All)
    }

    fn take(&mut self, most: usize, wait: Duration) -> Result<Taken> {
        let end = Instant::now() + wait;
        let most = most.clamp(1, BATCH_TAKEN);
        loop {
            let messages = self.fetch(most)?;
            if !messages.is_empty() {
                return Ok(Taken::Items(self.deliver(messages)?));
            }
            let (ready, tokens, marks) = self.counts()?;
            if marks > 0 && ready == 0 && tokens == 0 {
                return Ok(Taken::ShutDown);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Taken::Items(Vec::new()));
            }
            let (channel, queue) = (self.channel.clone(), self.names.items.clone());
            let messages = self
                .caller
                .call(LARGE_PATIENCE.min(PATIENCE + GLANCE), async move {
                    wait_for(&channel, &queue, most, left.min(GLANCE)).await
                })?;
            if !messages.is_empty() {
                return Ok(Taken::Items(self.deliver(messages)?));
            }
        }
    }

    fn done(&mut self, receipts: &[Receipt]) -> Result<()> {
        let held: Vec<Held> = receipts
            .iter()
            .filter_map(|receipt| self.held.remove(receipt))
            .collect();
        for held in held.chunks(BATCH_ITEMS) {
            let tags: Vec<u64> = held.iter().map(|held| held.tag).collect();
            let (channel, tokens) = (self.channel.clone(), self.names.tokens.clone());
            self.caller.call(PATIENCE, async move {
                // Tokens are taken first and acknowledged together with the items: until then, both come back if this connection is lost.
                let tokens = get(&channel, &tokens, tags.len()).await?;
                let tokens = tokens.into_iter().map(|(tag, _)| tag);
                acknowledge(&channel, tags.into_iter().chain(tokens).collect()).await
            })?;
        }
        if !held.is_empty() {
            self.counts()?;
        }
        for held in held {
            if !held.place.is_empty() {
                self.delete(self.names.part(&held.place))?;
            }
        }
        Ok(())
    }

    fn give_back(&mut self, receipts: &[Receipt]) -> Result<()> {
        let tags: Vec<u64> = receipts
            .iter()
            .filter_map(|receipt| self.held.remove(receipt))
            .map(|held| held.tag)
            .collect();
        let channel = self.channel.clone();
        self.caller.call(PATIENCE, async move {
            let requeue = BasicNackOptions {
                requeue: true,
                ..Default::default()
            };
            all(tags
                .into_iter()
                .map(|tag| channel.basic_nack(tag, requeue))
                .collect())
            .await?;
            Ok(())
        })?;
        self.counts()?;
        Ok(())
    }

    fn renew(&mut self, _: &[Receipt]) -> Result<()> {
        // What is held is held as long as the connection lives, which lapin sees to.
        if self.channel.status().connected() {
            Ok(())
        } else {
            Err(self.caller.lost(&Failure::Ended))
        }
    }

    fn count(&mut self) -> Result<Count> {
        let (ready, tokens, end) = self.counts()?;
        Ok(Count {
            ready,
            held: tokens.saturating_sub(ready),
            shut_down: end > 0,
        })
    }

    fn shutdown(&mut self, drop_rest: bool) -> Result<()> {
        let (_, _, end) = self.counts()?;
        if end == 0 {
            self.publish_to(&self.names.end, Bytes::new())?;
        }
        let (channel, names) = (self.channel.clone(), self.names.clone());
        self.caller
            .call(PATIENCE, async move { unbind(&channel, &names).await })?;
        if !drop_rest {
            return Ok(());
        }
        loop {
            let messages = self.fetch(BATCH_TAKEN)?;
            if messages.is_empty() {
                return Ok(());
            }
            let mut dropped = Vec::new();
            for (tag, body) in messages {
                let head = Head::decode(&body);
                let place = head.map(|head| String::from_utf8_lossy(&head.place).into_owned());
                dropped.push(self.hold(tag, place.unwrap_or_default()));
            }
            self.done(&dropped)?;
        }
    }

    fn remove(&mut self) -> Result<()> {
        self.held.clear();
        loop {
            let (channel, queue) = (self.channel.clone(), self.names.large.clone());
            let places = self.caller.call(PATIENCE, async move {
                let places = get(&channel, &queue, BATCH_TAKEN).await?;
                acknowledge(&channel, places.iter().map(|(tag, _)| *tag).collect()).await?;
                Ok(places)
            })?;
            if places.is_empty() {
                break;
            }
            for (_, place) in places {
                self.delete(self.names.part(&String::from_utf8_lossy(&place)))?;
            }
        }
        let (channel, names) = (self.channel.clone(), self.names.clone());
        self.caller.call(PATIENCE, async move {
            for exchange in [&names.items, &names.all] {
                channel
                    .exchange_delete(exchange.as_str().into(), ExchangeDeleteOptions::default())
                    .await?;
            }
            for queue in [&names.items, &names.tokens, &names.end, &names.large] {
                channel
                    .queue_delete(queue.as_str().into(), QueueDeleteOptions::default())
                    .await?;
            }
            Ok(())
        })
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        close(&self.caller, &self.connection);
    }
}

/// So that what it holds is given to others at once. Waits no longer than the moment that takes with a server that answers.
pub(super) fn close(caller: &Caller, connection: &Arc<lapin::Connection>) {
    if connection.status().connected() {
        let connection = Arc::clone(connection);
        // What cannot be closed is lost already.
        let _ = caller.run(Duration::from_secs(2), async move {
            connection.close(200, "".into()).await
        });
    }
}
