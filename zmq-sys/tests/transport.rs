//! What procession relies on in this build of libzmq: its version, CURVE, the transports, and
//! enough sockets. Run with `cargo test -p zmq-sys`.

use zmq::{Context, CurveKeyPair, Socket, SocketType};

/// No receive waits longer: a lost message fails a test instead of stopping it.
const DEADLINE_MS: i32 = 20_000;

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

fn socket(context: &Context, kind: SocketType) -> Result<Socket> {
    let socket = context.socket(kind)?;
    socket.set_rcvtimeo(DEADLINE_MS)?;
    socket.set_sndtimeo(DEADLINE_MS)?;
    socket.set_linger(0)?;
    Ok(socket)
}

/// The endpoint that `socket` is bound to, with the port or name that was chosen for it.
fn endpoint(socket: &Socket) -> Result<String> {
    socket
        .get_last_endpoint()?
        .map_err(|_| "an endpoint that is not UTF-8".into())
}

/// Sends a short and a long message, in two parts, from a PUSH to a PULL bound at `address`.
fn round_trip(address: &str) -> Result {
    let context = Context::new();
    let pull = socket(&context, zmq::PULL)?;
    pull.bind(address)?;
    let push = socket(&context, zmq::PUSH)?;
    push.connect(&endpoint(&pull)?)?;

    let long: Vec<u8> = (0..1_000_000u32).map(|byte| byte as u8).collect();
    push.send("task", zmq::SNDMORE)?;
    push.send(long.clone(), 0)?;
    assert_eq!(pull.recv_multipart(0)?, [b"task".to_vec(), long]);
    Ok(())
}

#[test]
fn the_library_is_4_3_5() {
    assert_eq!(zmq::version(), (4, 3, 5));
}

#[test]
fn curve_and_ipc_are_compiled_in() {
    assert_eq!(zmq::has("curve"), Some(true));
    assert_eq!(zmq::has("ipc"), Some(true));
}

#[test]
fn ipc_carries_a_message() -> Result {
    let folder = tempfile::tempdir()?;
    round_trip(&format!("ipc://{}/pull", folder.path().display()))
}

#[test]
fn inproc_carries_a_message() -> Result {
    round_trip("inproc://pull")
}

#[test]
fn tcp_carries_a_message() -> Result {
    round_trip("tcp://127.0.0.1:*")
}

#[test]
fn curve_carries_a_message() -> Result {
    let (server, client) = (CurveKeyPair::new()?, CurveKeyPair::new()?);
    assert_ne!(server.public_key, client.public_key);

    let context = Context::new();
    let pull = socket(&context, zmq::PULL)?;
    pull.set_curve_server(true)?;
    pull.set_curve_secretkey(&server.secret_key)?;
    pull.bind("tcp://127.0.0.1:*")?;

    let push = socket(&context, zmq::PUSH)?;
    push.set_curve_serverkey(&server.public_key)?;
    push.set_curve_publickey(&client.public_key)?;
    push.set_curve_secretkey(&client.secret_key)?;
    push.connect(&endpoint(&pull)?)?;

    push.send("task", 0)?;
    assert_eq!(pull.recv_bytes(0)?, b"task");
    assert_eq!(pull.get_mechanism()?, zmq::Mechanism::ZMQ_CURVE);
    Ok(())
}

#[test]
fn curve_refuses_a_peer_with_the_wrong_server_key() -> Result {
    let (server, other, client) = (
        CurveKeyPair::new()?,
        CurveKeyPair::new()?,
        CurveKeyPair::new()?,
    );

    let context = Context::new();
    let pull = socket(&context, zmq::PULL)?;
    pull.set_curve_server(true)?;
    pull.set_curve_secretkey(&server.secret_key)?;
    pull.monitor("inproc://events", zmq::SocketEvent::ALL.to_raw().into())?;
    let events = socket(&context, zmq::PAIR)?;
    events.connect("inproc://events")?;
    pull.bind("tcp://127.0.0.1:*")?;

    let push = socket(&context, zmq::PUSH)?;
    push.set_curve_serverkey(&other.public_key)?;
    push.set_curve_publickey(&client.public_key)?;
    push.set_curve_secretkey(&client.secret_key)?;
    push.connect(&endpoint(&pull)?)?;

    loop {
        let event = events.recv_multipart(0)?;
        match zmq::SocketEvent::from_raw(u16::from_ne_bytes([event[0][0], event[0][1]])) {
            zmq::SocketEvent::HANDSHAKE_FAILED_PROTOCOL => return Ok(()),
            zmq::SocketEvent::HANDSHAKE_SUCCEEDED => return Err("the handshake succeeded".into()),
            _ => {}
        }
    }
}

#[test]
fn a_context_may_open_more_sockets_than_the_default() {
    let context = zmq_sys::zmq_ctx_new();
    assert!(!context.is_null());
    // SAFETY: the context was created above, and is terminated after its last use.
    let (most, limit) = unsafe {
        let most = zmq_sys::zmq_ctx_get(context, zmq_sys::ZMQ_MAX_SOCKETS as i32);
        let limit = zmq_sys::zmq_ctx_get(context, zmq_sys::ZMQ_SOCKET_LIMIT as i32);
        assert_eq!(zmq_sys::zmq_ctx_term(context), 0);
        (most, limit)
    };
    assert!(most > 1_023, "{most}");
    assert_eq!(most, limit.min(65_535));
}
