//! CURVE on sockets, and who is let in: the handler of [ZAP](https://rfc.zeromq.org/spec/27/), which libzmq asks in each handshake.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use zeroize::Zeroizing;

use super::{context, has_curve, to_io};
use crate::error::{Error, Result};
use crate::keys::PublicKey;
use crate::wire::access::{Client, Guests, Server};

/// A new pair: public and secret.
pub(crate) fn generate() -> Result<([u8; 32], Zeroizing<[u8; 32]>)> {
    if !has_curve() {
        return Err(Error::NoCurve);
    }
    let pair = zmq::CurveKeyPair::new()
        .map_err(|error| Error::system("cannot make a key pair", to_io(error)))?;
    Ok((pair.public_key, Zeroizing::new(pair.secret_key)))
}

/// What is bound next lets in whom `server` lets in.
pub(super) fn serve(socket: &mut zmq::Socket, server: &Server) -> zmq::Result<()> {
    handler();
    register(server);
    enforce(socket)?;
    socket.set_curve_server(true)?;
    socket.set_curve_secretkey(server.pair().secret_bytes())?;
    socket.set_zap_domain(server.domain())
}

/// What is connected next says who it is, and believes nobody else than the one with that key.
pub(super) fn visit(socket: &zmq::Socket, client: &Client) -> zmq::Result<()> {
    socket.set_curve_publickey(client.pair().public().as_bytes())?;
    socket.set_curve_secretkey(client.pair().secret_bytes())?;
    socket.set_curve_serverkey(client.server().as_bytes())
}

/// What is connected next is plain.
pub(super) fn plain(socket: &zmq::Socket) -> zmq::Result<()> {
    socket.set_curve_server(false)
}

/// Without a handler nobody gets in. libzmq's default is to let everybody in then.
fn enforce(socket: &mut zmq::Socket) -> zmq::Result<()> {
    const ZAP_ENFORCE_DOMAIN: i32 = 93;
    match set_option(socket, ZAP_ENFORCE_DOMAIN, 1) {
        true => Ok(()),
        false => Err(zmq::Error::EINVAL),
    }
}

/// Sets an option that the crate has no method for, and that is a number; whether libzmq knows it.
pub(super) fn set_option(socket: &mut zmq::Socket, option: i32, value: i32) -> bool {
    // SAFETY: the socket is open while it is borrowed; the option is an int, and that is what is pointed to.
    let result = unsafe {
        zmq_sys::zmq_setsockopt(
            socket.as_mut_ptr(),
            option,
            (&raw const value).cast(),
            size_of_val(&value),
        )
    };
    result == 0
}

/// Who is let in where, by domain.
static GUESTS: Mutex<Option<HashMap<String, Weak<Guests>>>> = Mutex::new(None);

fn register(server: &Server) {
    let mut all = GUESTS.lock().unwrap_or_else(PoisonError::into_inner);
    let all = all.get_or_insert_with(HashMap::new);
    all.retain(|_, guests| guests.strong_count() > 0);
    all.insert(server.domain().to_owned(), Arc::downgrade(server.guests()));
}

/// Starts the handler, once in a process. It is never taken down, as its context is not.
fn handler() {
    static STARTED: OnceLock<()> = OnceLock::new();
    STARTED.get_or_init(|| {
        let bound = context().socket(zmq::REP).and_then(|socket| {
            socket.set_linger(0)?;
            socket.bind("inproc://zeromq.zap.01")?;
            Ok(socket)
        });
        let started = bound.map_err(to_io).and_then(|socket| {
            std::thread::Builder::new()
                .name("zap".to_owned())
                .spawn(move || {
                    loop {
                        let answered = socket
                            .recv_multipart(0)
                            .and_then(|request| socket.send_multipart(answer(&request), 0));
                        match answered {
                            Ok(()) | Err(zmq::Error::EINTR) => {}
                            Err(error) => {
                                log::error!(
                                    "authentication has ended, so nobody can join by TCP: {error}"
                                );
                                break;
                            }
                        }
                    }
                })
        });
        if let Err(error) = started {
            // Nobody gets in, as this is enforced.
            log::error!(
                "cannot start the handler of authentication, so nobody can join by TCP: {error}"
            );
        }
    });
}

/// Why somebody does not get in.
enum Refusal {
    /// Who may is not to be found out now.
    Later(String),
    No(String),
}

/// The answer to one request: version, id, status, text, user, metadata.
fn answer(request: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let id = request.get(1).cloned().unwrap_or_default();
    let (status, text, user) = match judge(request) {
        Ok(name) => ("200", String::new(), name),
        // libzmq closes the connection without a word, and the other side tries again.
        Err(Refusal::Later(why)) => {
            // A sink knows nobody before it is welcomed.
            if !why.is_empty() {
                log::warn!("cannot say now who may join: {why}");
            }
            ("300", why, String::new())
        }
        Err(Refusal::No(why)) => {
            let from = request.get(3).map(|from| String::from_utf8_lossy(from));
            log::warn!("{why} (from {})", from.unwrap_or_default());
            ("400", why, String::new())
        }
    };
    let words = [status.to_owned(), text, user, String::new()];
    [b"1.0".to_vec(), id]
        .into_iter()
        .chain(words.map(String::into_bytes))
        .collect()
}

/// The guest's name, or why it is none. The request: version, id, domain, address, identity, mechanism, key.
fn judge(request: &[Vec<u8>]) -> std::result::Result<String, Refusal> {
    let [version, _, domain, _, _, mechanism, key] = request else {
        let why = "a request for authentication that is malformed";
        return Err(Refusal::No(why.to_owned()));
    };
    let guests = std::str::from_utf8(domain).ok().and_then(|domain| {
        let all = GUESTS.lock().unwrap_or_else(PoisonError::into_inner);
        all.as_ref()?.get(domain)?.upgrade()
    });
    match (
        &version[..],
        &mechanism[..],
        guests,
        <[u8; 32]>::try_from(&key[..]),
    ) {
        (b"1.0", b"CURVE", Some(guests), Ok(key)) => {
            let key = PublicKey::from_bytes(key);
            match guests.name_of(key) {
                Ok(Some(name)) => Ok(name),
                Ok(None) if guests.is_empty() => Err(Refusal::Later(String::new())),
                Ok(None) => Err(Refusal::No(format!(
                    "turned away a peer whose key {key} is not in the list of those that may join"
                ))),
                Err(error) => Err(Refusal::Later(error.to_string())),
            }
        }
        _ => Err(Refusal::No("a peer that is not authenticated".to_owned())),
    }
}
