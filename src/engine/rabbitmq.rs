//! Queues on RabbitMQ: a durable queue of items, and beside it one of tokens, by which the items are counted that getters hold. See docs/engines.md.

mod link;

use std::future::Future;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::Poll;
use std::time::Duration;

use lapin::options::{
    ConfirmSelectOptions, ExchangeBindOptions, ExchangeDeclareOptions, ExchangeUnbindOptions,
    QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{Channel, ConnectionProperties, ExchangeKind};
use tokio::runtime::Runtime;

use self::link::Link;
use super::{Address, Connection, Engine, Guarantees, bad, name_on_server};
use crate::error::{Error, Result};

/// How long a server may take to answer; a connection that takes longer is given up.
const PATIENCE: Duration = Duration::from_secs(10);

/// What RabbitMQ promises.
pub(super) static GUARANTEES: Guarantees = Guarantees {
    engine: "RabbitMQ",
    url: "amqp://[USER:PASSWORD@]HOST[:5672][/VHOST]?queue=NAME",
    delivery: "At least once: an item whose getter dies is given to another one. Items whose putting was not confirmed before the connection was \
               lost are put again, and may be there twice.",
    order: "That of putting, for each putter. What comes back is given out in its old place, before later ones.",
    maxsize: "Approximate: each putter counts what is ready and held before it puts, so several together may put too many by one batch each.",
    durability: "On the server's disk: the queue is durable, items are persistent, and putting waits for the server's confirmation.",
    restart: "Nothing.",
    lease: "As long as the getter's connection lives: a killed getter's items are given out at once, those of one that vanished with its host after \
            two missed heartbeats. But the server closes the connection of a getter that holds an item for longer than its consumer_timeout \
            (30 minutes by default): set that higher for longer tasks. Held items are counted by tokens, one for each item: one that other clients \
            put without the exchange, or acknowledge without a token, makes the count wrong, and a connection that is cut in \
            the very middle of an acknowledgement can.",
    limits: "Items above 16 MiB go in parts. No TLS.",
    speed: "9,900 small items a second through a Queue, put by one thread and got by another beside the server on two cores; a plain loop of the client, one item at a time: 1,300.",
};

/// A queue on RabbitMQ.
#[derive(Debug)]
pub struct RabbitMq {
    address: Address,
    joinable: bool,
}

impl RabbitMq {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// [`Error::BadEndpoint`]: it asks for TLS.
    pub fn new(address: &Address, joinable: bool) -> Result<Self> {
        if address.server.starts_with("amqps") {
            return Err(bad(
                address,
                "TLS to RabbitMQ is not built in; take amqp:// through a tunnel (stunnel, ssh -L)",
            ));
        }
        Ok(Self {
            address: address.clone(),
            joinable,
        })
    }
}

impl Engine for RabbitMq {
    fn connect(&self) -> Result<Box<dyn Connection>> {
        let caller = Caller {
            address: self.address.clone(),
            runtime: runtime()?,
        };
        let uri = self.address.server.clone();
        let connection = caller.call(PATIENCE, async move {
            let properties =
                ConnectionProperties::default().with_connection_name("procession".into());
            lapin::Connection::connect(&uri, properties)
                .await
                .map(Arc::new)
        })?;
        let names = Names::new(&self.address.queue);
        let kind = if self.joinable {
            ExchangeKind::Topic
        } else {
            ExchangeKind::Fanout
        };
        let opened = {
            let connection = Arc::clone(&connection);
            let names = names.clone();
            caller.run(PATIENCE, async move {
                let channel = connection.create_channel().await?;
                channel
                    .confirm_select(ConfirmSelectOptions::default())
                    .await?;
                make(&channel, &names, kind).await?;
                Ok(channel)
            })
        };
        match opened {
            Ok(channel) => Ok(Box::new(Link::new(caller, connection, channel, names))),
            Err(failure) if failure.is_mismatch() => {
                link::close(&caller, &connection);
                Err(Error::BadHandle {
                    endpoint: self.address.to_string(),
                    why: format!(
                        "there is something else of that name, and a {} was wanted ({}); open it as what it is, or take another queue=NAME",
                        if self.joinable {
                            "JoinableQueue, not a Queue"
                        } else {
                            "Queue, not a JoinableQueue"
                        },
                        failure.why()
                    ),
                })
            }
            Err(failure) => {
                link::close(&caller, &connection);
                Err(caller.lost(&failure))
            }
        }
    }

    fn lease(&self) -> Option<Duration> {
        None
    }

    fn guarantees(&self) -> &'static Guarantees {
        &GUARANTEES
    }
}

/// A queue's things on the server.
#[derive(Clone, Debug)]
struct Names {
    /// The queue of items, and the exchange by which they come.
    items: String,
    /// Behind that exchange: one that gives each item its token. What is between them is cut at the end, so that nothing more gets in.
    all: String,
    /// A token for each item that is not done.
    tokens: String,
    /// There is something in it after the end.
    end: String,
    /// Where parts of large items are.
    large: String,
}

impl Names {
    fn new(queue: &str) -> Self {
        let name = |what| name_on_server(queue, what);
        Self {
            items: name(""),
            all: name("/all"),
            tokens: name("/unfinished"),
            end: name("/end"),
            large: name("/large"),
        }
    }

    fn part(&self, place: &str) -> String {
        format!("{}/part/{place}", self.items)
    }
}

/// Makes what is not there yet.
async fn make(channel: &Channel, names: &Names, kind: ExchangeKind) -> lapin::Result<()> {
    let durable = ExchangeDeclareOptions {
        durable: true,
        ..Default::default()
    };
    for (name, kind) in [(&names.items, kind), (&names.all, ExchangeKind::Fanout)] {
        let name = name.as_str().into();
        channel
            .exchange_declare(name, kind, durable, FieldTable::default())
            .await?;
    }
    for queue in [&names.items, &names.tokens, &names.end, &names.large] {
        declare(channel, queue).await?;
    }
    for queue in [&names.items, &names.tokens] {
        channel
            .queue_bind(
                queue.as_str().into(),
                names.all.as_str().into(),
                "".into(),
                QueueBindOptions::default(),
                FieldTable::default(),
            )
            .await?;
    }
    if declare(channel, &names.end).await? == 0 {
        channel
            .exchange_bind(
                names.all.as_str().into(),
                names.items.as_str().into(),
                "#".into(),
                ExchangeBindOptions::default(),
                FieldTable::default(),
            )
            .await?;
        // It may have been shut down between the two.
        if declare(channel, &names.end).await? > 0 {
            unbind(channel, names).await?;
        }
    }
    Ok(())
}

/// Makes a queue, if it is not there. How many messages are ready in it.
async fn declare(channel: &Channel, queue: &str) -> lapin::Result<u64> {
    let durable = QueueDeclareOptions {
        durable: true,
        ..Default::default()
    };
    let queue = channel
        .queue_declare(queue.into(), durable, FieldTable::default())
        .await?;
    Ok(queue.message_count().into())
}

async fn unbind(channel: &Channel, names: &Names) -> lapin::Result<()> {
    channel
        .exchange_unbind(
            names.all.as_str().into(),
            names.items.as_str().into(),
            "#".into(),
            ExchangeUnbindOptions::default(),
            FieldTable::default(),
        )
        .await
}

/// The thread on which lapin runs, one for the process: it answers the server's heartbeats, whatever the program does.
fn runtime() -> Result<&'static Runtime> {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    static MAKING: Mutex<()> = Mutex::new(());
    let _making = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(runtime) = RUNTIME.get() {
        return Ok(runtime);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("amqp")
        .enable_all()
        .build()
        .map_err(|error| Error::system("cannot start the thread for RabbitMQ", error))?;
    Ok(RUNTIME.get_or_init(|| runtime))
}

/// Why something that was asked of the server has no answer.
#[derive(Debug)]
enum Failure {
    Refused(lapin::Error),
    TooLate,
    Ended,
}

impl Failure {
    /// The server has it, but as something else.
    fn is_mismatch(&self) -> bool {
        self.code() == Some(406)
    }

    fn is_not_there(&self) -> bool {
        self.code() == Some(404)
    }

    fn code(&self) -> Option<u16> {
        match self {
            Self::Refused(error) => match error.kind() {
                lapin::ErrorKind::ProtocolError(error) => Some(error.get_id()),
                _ => None,
            },
            _ => None,
        }
    }

    fn why(&self) -> String {
        match self {
            Self::Refused(error) => error.to_string(),
            Self::TooLate => "the server has not answered in time".to_owned(),
            Self::Ended => "the thread for RabbitMQ has ended".to_owned(),
        }
    }
}

/// Runs what waits for the server, and waits for it, but not for ever.
struct Caller {
    address: Address,
    runtime: &'static Runtime,
}

impl Caller {
    /// Not `block_on`, which may not be called in a program's own asynchronous code.
    fn run<T: Send + 'static>(
        &self,
        time: Duration,
        what: impl Future<Output = lapin::Result<T>> + Send + 'static,
    ) -> Result<T, Failure> {
        let (tell, told) = mpsc::sync_channel(1);
        let task = self.runtime.spawn(async move {
            // Who waited for it may have given up.
            let _ = tell.send(what.await);
        });
        match told.recv_timeout(time) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(Failure::Refused(error)),
            Err(RecvTimeoutError::Timeout) => {
                task.abort();
                Err(Failure::TooLate)
            }
            Err(RecvTimeoutError::Disconnected) => Err(Failure::Ended),
        }
    }

    fn call<T: Send + 'static>(
        &self,
        time: Duration,
        what: impl Future<Output = lapin::Result<T>> + Send + 'static,
    ) -> Result<T> {
        self.run(time, what).map_err(|failure| self.lost(&failure))
    }

    fn lost(&self, failure: &Failure) -> Error {
        let why = failure.why();
        let advice = match failure.code() {
            Some(403) => "; give user and password in the URL, and a vhost that the user may use",
            _ if why.contains("refused") => "; is the server running, and is that its port?",
            _ => "",
        };
        Error::Connect {
            endpoint: self.address.to_string(),
            why: format!("{why}{advice}"),
        }
    }
}

/// Waits for all of them. They are begun one right after the other, so that what they send goes out before the answers come.
async fn all<T>(futures: Vec<impl Future<Output = lapin::Result<T>>>) -> lapin::Result<Vec<T>> {
    let mut begun: Vec<_> = futures
        .into_iter()
        .map(|future| (Box::pin(future), None))
        .collect();
    std::future::poll_fn(|context| {
        for (future, value) in &mut begun {
            if let Poll::Ready(ready) = future.as_mut().poll(context) {
                *value = Some(ready);
            }
        }
        Poll::Ready(())
    })
    .await;
    let mut values = Vec::with_capacity(begun.len());
    for (future, value) in begun {
        values.push(match value {
            Some(value) => value?,
            None => future.await?,
        });
    }
    Ok(values)
}
