//! A proxy that tests cut.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// Between a client and the server: cuts the connections, or holds up what goes through them.
pub struct Proxy {
    /// Where clients come in.
    pub port: u16,
    /// Of each client its stream, and ours to the server.
    pub streams: Arc<Mutex<Vec<TcpStream>>>,
    /// What comes is held up as long as this is set.
    pub stopped: Arc<AtomicBool>,
}

impl Proxy {
    /// To the server at this port of the loopback.
    pub fn new(to: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let streams: Arc<Mutex<Vec<TcpStream>>> = Arc::default();
        let stopped = Arc::new(AtomicBool::new(false));
        let (all, stop) = (Arc::clone(&streams), Arc::clone(&stopped));
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", to)) else {
                    continue;
                };
                for (from, into) in [(&client, &server), (&server, &client)] {
                    let (from, into) = (from.try_clone().unwrap(), into.try_clone().unwrap());
                    let stop = Arc::clone(&stop);
                    thread::spawn(move || carry(from, into, &stop));
                }
                all.lock().unwrap().extend([client, server]);
            }
        });
        Self {
            port,
            streams,
            stopped,
        }
    }

    /// Ends all connections that there are.
    pub fn cut(&self) {
        for stream in self.streams.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn carry(mut from: TcpStream, mut into: TcpStream, stop: &AtomicBool) {
    let mut piece = [0; 16 << 10];
    while let Ok(len @ 1..) = from.read(&mut piece) {
        while stop.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(10));
        }
        if into.write_all(&piece[..len]).is_err() {
            return;
        }
    }
    let _ = into.shutdown(Shutdown::Both);
}
