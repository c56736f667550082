//! Small items a second through an engine: by `Queue`, and by a plain loop of the same client.
//!
//! ```text
//! engine_speed URL [COUNT]          a queue: one thread puts, another one gets
//! engine_speed bare URL [COUNT]     the client alone: put, take and acknowledge, one item after the other
//! ```
//!
//! Prints items a second. The plain loop puts all items and then takes them, and its two times are added; the queue's run at the same time.

use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::Instant;

use procession::Queue;
use procession::engine::{Address, Scheme};

type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> Outcome {
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    let bare = words.first().is_some_and(|word| word == "bare");
    if bare {
        words.remove(0);
    }
    let url = words.first().ok_or("which URL?")?;
    let count: u64 = words.get(1).map_or(Ok(20_000), |count| count.parse())?;
    let address: Address = url.parse()?;
    let own = format!("{}-{}", address.queue, std::process::id());
    let since = Instant::now();
    if bare {
        match address.scheme {
            Scheme::Redis => redis(&address, &own, count)?,
            Scheme::Amqp => rabbitmq(&address, &own, count)?,
            Scheme::Beanstalk => beanstalkd(&address, &own, count)?,
            Scheme::ZeroMq => return Err("there is no server".into()),
        }
    } else {
        queue(&address.named(&own).url(), count)?;
    }
    println!("{:.0}", count as f64 / since.elapsed().as_secs_f64());
    Ok(())
}

fn item(number: u64) -> (u64, String) {
    (number, format!("item number {number}"))
}

fn queue(url: &str, count: u64) -> Outcome {
    let queue: Queue<(u64, String)> = Queue::open(url)?;
    let putter = queue.clone();
    let putting = std::thread::spawn(move || putter.put_many((0..count).map(item)).map(drop));
    for number in 0..count {
        assert_eq!(queue.get()?.0, number);
    }
    putting.join().map_err(|_| "the putter panicked")??;
    queue.shutdown()?;
    Ok(())
}

fn bytes(number: u64) -> Outcome<Vec<u8>> {
    Ok(rmp_serde::to_vec(&item(number))?)
}

/// Of each stream its name and its entries: id, and fields with their values.
type Streams = Vec<(String, Vec<(String, Vec<Vec<u8>>)>)>;

fn redis(address: &Address, own: &str, count: u64) -> Outcome {
    let client = redis::Client::open(&*address.server)?;
    let mut connection = client.get_connection()?;
    let command = |words: &[&str]| {
        let mut command = redis::cmd(words[0]);
        for word in &words[1..] {
            command.arg(*word);
        }
        command
    };
    command(&["XGROUP", "CREATE", own, "all", "0", "MKSTREAM"]).exec(&mut connection)?;
    for number in 0..count {
        let mut add = command(&["XADD", own, "*", "item"]);
        add.arg(bytes(number)?).exec(&mut connection)?;
    }
    for _ in 0..count {
        let read = command(&[
            "XREADGROUP",
            "GROUP",
            "all",
            "one",
            "COUNT",
            "1",
            "STREAMS",
            own,
            ">",
        ]);
        let reply: Streams = read.query(&mut connection)?;
        let entry = reply.first().and_then(|(_, entries)| entries.first());
        let id = &entry.ok_or("no item")?.0;
        command(&["XACK", own, "all", id]).exec(&mut connection)?;
        command(&["XDEL", own, id]).exec(&mut connection)?;
    }
    command(&["DEL", own]).exec(&mut connection)?;
    Ok(())
}

fn rabbitmq(address: &Address, own: &str, count: u64) -> Outcome {
    use lapin::options::{
        BasicAckOptions, BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions,
        QueueDeclareOptions, QueueDeleteOptions,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let connection =
            lapin::Connection::connect(&address.server, lapin::ConnectionProperties::default());
        let channel = connection.await?.create_channel().await?;
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await?;
        let durable = QueueDeclareOptions::durable();
        channel
            .queue_declare(own.into(), durable, Default::default())
            .await?;
        for number in 0..count {
            let properties = lapin::BasicProperties::default().with_delivery_mode(2);
            let options = BasicPublishOptions::default();
            let item = bytes(number)?;
            channel
                .basic_publish("".into(), own.into(), options, &item, properties)
                .await?
                .await?;
        }
        for _ in 0..count {
            let got = channel
                .basic_get(own.into(), BasicGetOptions::default())
                .await?;
            let got = got.ok_or("no item")?;
            channel
                .basic_ack(got.delivery.delivery_tag, BasicAckOptions::default())
                .await?;
        }
        channel
            .queue_delete(own.into(), QueueDeleteOptions::default())
            .await?;
        Ok(())
    })
}

fn beanstalkd(address: &Address, own: &str, count: u64) -> Outcome {
    let server = address
        .server
        .split_once("://")
        .map_or("", |(_, rest)| rest);
    let stream = TcpStream::connect(server.trim_end_matches('/'))?;
    stream.set_nodelay(true)?;
    let mut answers = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    let mut ask = |words: String, body: Option<&[u8]>| -> Outcome<Vec<String>> {
        let mut request = format!("{words}\r\n").into_bytes();
        if let Some(body) = body {
            request.extend_from_slice(body);
            request.extend_from_slice(b"\r\n");
        }
        stream.write_all(&request)?;
        let mut line = String::new();
        answers.read_line(&mut line)?;
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        if words.first().is_some_and(|word| word == "RESERVED") {
            let len: usize = words.get(2).ok_or("no length")?.parse()?;
            let mut body = vec![0; len + 2];
            std::io::Read::read_exact(&mut answers, &mut body)?;
        }
        Ok(words)
    };
    ask(format!("use {own}"), None)?;
    ask(format!("watch {own}"), None)?;
    for number in 0..count {
        let item = bytes(number)?;
        ask(format!("put 0 0 60 {}", item.len()), Some(&item))?;
    }
    for _ in 0..count {
        let reserved = ask("reserve".to_owned(), None)?;
        let id = reserved.get(1).ok_or("no item")?;
        ask(format!("delete {id}"), None)?;
    }
    Ok(())
}
