//! Connections of Thrift clients: a thread each, so that a slow one is no matter to another; framed, so that a message is bounded before it is read.

use std::io::{self, Cursor, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use thrift::TConfiguration;
use thrift::protocol::{TBinaryInputProtocol, TBinaryOutputProtocol};
use thrift::server::TProcessor;

use super::api::GatewaySyncProcessor;
use super::session::{Gateway, Session};

/// How long a connection may be silent between two messages.
const IDLE: Duration = Duration::from_secs(600);
/// How long a message may take that has begun, in either direction.
const MESSAGE: Duration = Duration::from_secs(30);
/// What is read at once: a length that was said is not believed before so much of it is there.
const PIECE: usize = 64 << 10;

/// Serves clients.
pub(super) struct Server {
    pub(super) gateway: Arc<Gateway>,
    pub(super) clients: usize,
    pub(super) message: usize,
}

impl Server {
    /// Takes connections, for ever.
    pub(super) fn serve(&self, listener: &TcpListener) {
        for stream in listener.incoming() {
            let stream = match stream {
                Ok(stream) => stream,
                Err(error) => {
                    log::warn!("cannot take a connection: {error}");
                    // Where descriptors are short, some may be closed soon.
                    std::thread::sleep(Duration::from_millis(100));
                    continue;
                }
            };
            let Some(place) = self.gateway.enter(self.clients) else {
                log::warn!(
                    "turned a client away: {} are connected (--clients N)",
                    self.clients
                );
                continue;
            };
            let (gateway, message) = (Arc::clone(&self.gateway), self.message);
            let started = std::thread::Builder::new()
                .name("client".to_owned())
                .spawn(move || {
                    let _place = place;
                    if let Err(error) = serve(stream, gateway, message) {
                        log::warn!("closed a client's connection: {error}");
                    }
                });
            if let Err(error) = started {
                log::warn!("turned a client away: {error}");
            }
        }
    }
}

/// Serves one client until it goes.
fn serve(mut stream: TcpStream, gateway: Arc<Gateway>, most: usize) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(MESSAGE))?;
    let limits = TConfiguration::builder()
        .max_frame_size(Some(most))
        .max_message_size(Some(most))
        .max_string_size(Some(most))
        .max_container_size(Some(1024))
        .build()
        .map_err(io::Error::other)?;
    let processor = GatewaySyncProcessor::new(Session::new(gateway));
    while let Some(message) = read(&mut stream, most)? {
        let mut answer = vec![0; 4];
        {
            let mut from =
                TBinaryInputProtocol::with_config(Cursor::new(message), false, limits.clone());
            let mut to = TBinaryOutputProtocol::new(&mut answer, true);
            processor
                .process(&mut from, &mut to)
                .map_err(io::Error::other)?;
        }
        let length = i32::try_from(answer.len() - 4).map_err(io::Error::other)?;
        answer[..4].copy_from_slice(&length.to_be_bytes());
        stream.write_all(&answer)?;
    }
    Ok(())
}

/// The next message; `None`: the client has gone, or has said nothing for long.
fn read(stream: &mut TcpStream, most: usize) -> io::Result<Option<Vec<u8>>> {
    let mut head = [0; 4];
    stream.set_read_timeout(Some(IDLE))?;
    match stream.read(&mut head[..1]) {
        Ok(0) => return Ok(None),
        Err(error) if is_timeout(&error) => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => return read(stream, most),
        Err(error) => return Err(error),
        Ok(_) => {}
    }
    let until = Instant::now() + MESSAGE;
    read_by(stream, &mut head[1..], until)?;
    let length = usize::try_from(i32::from_be_bytes(head)).unwrap_or(usize::MAX);
    if length > most {
        return Err(io::Error::other(format!(
            "it announced a message of {length} bytes, and it may have {most} (--message SIZE); or it does not use the framed transport"
        )));
    }
    let mut message = Vec::new();
    while message.len() < length {
        let at = message.len();
        message.resize(length.min(at + PIECE), 0);
        read_by(stream, &mut message[at..], until)?;
    }
    Ok(Some(message))
}

/// Fills the buffer in time.
fn read_by(stream: &mut TcpStream, mut buffer: &mut [u8], until: Instant) -> io::Result<()> {
    while !buffer.is_empty() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::other(format!(
                "a message was not there after {} s",
                MESSAGE.as_secs()
            )));
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => buffer = &mut buffer[read..],
            Err(error) if is_timeout(&error) || error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}
