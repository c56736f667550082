//! The numbers of `zmq.h` that the `zmq` crate asks for, under their names in C.
//!
//! A test compares every one of them with the header that libzmq was compiled from.

/// Declares the constants, and for the test a table of them.
macro_rules! constants {
    ($($name:ident = $value:literal,)*) => {
        $(
            #[doc = concat!("`", stringify!($name), "` of zmq.h.")]
            pub const $name: u32 = $value;
        )*

        #[cfg(test)]
        const DECLARED: &[(&str, u32)] = &[$((stringify!($name), $value)),*];
    };
}

constants! {
    // What a context can be told or asked.
    ZMQ_IO_THREADS = 1,
    ZMQ_MAX_SOCKETS = 2,
    ZMQ_SOCKET_LIMIT = 3,

    // The types of sockets.
    ZMQ_PAIR = 0,
    ZMQ_PUB = 1,
    ZMQ_SUB = 2,
    ZMQ_REQ = 3,
    ZMQ_REP = 4,
    ZMQ_DEALER = 5,
    ZMQ_ROUTER = 6,
    ZMQ_PULL = 7,
    ZMQ_PUSH = 8,
    ZMQ_XPUB = 9,
    ZMQ_XSUB = 10,
    ZMQ_STREAM = 11,

    // Flags of a send or a receive.
    ZMQ_DONTWAIT = 1,
    ZMQ_SNDMORE = 2,

    // What to poll for.
    ZMQ_POLLIN = 1,
    ZMQ_POLLOUT = 2,
    ZMQ_POLLERR = 4,

    // The security mechanisms of a connection.
    ZMQ_NULL = 0,
    ZMQ_PLAIN = 1,
    ZMQ_CURVE = 2,
    ZMQ_GSSAPI = 3,

    // What a socket monitor reports, one bit each.
    ZMQ_EVENT_CONNECTED = 0x0001,
    ZMQ_EVENT_CONNECT_DELAYED = 0x0002,
    ZMQ_EVENT_CONNECT_RETRIED = 0x0004,
    ZMQ_EVENT_LISTENING = 0x0008,
    ZMQ_EVENT_BIND_FAILED = 0x0010,
    ZMQ_EVENT_ACCEPTED = 0x0020,
    ZMQ_EVENT_ACCEPT_FAILED = 0x0040,
    ZMQ_EVENT_CLOSED = 0x0080,
    ZMQ_EVENT_CLOSE_FAILED = 0x0100,
    ZMQ_EVENT_DISCONNECTED = 0x0200,
    ZMQ_EVENT_MONITOR_STOPPED = 0x0400,
    ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL = 0x0800,
    ZMQ_EVENT_HANDSHAKE_SUCCEEDED = 0x1000,
    ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL = 0x2000,
    ZMQ_EVENT_HANDSHAKE_FAILED_AUTH = 0x4000,
    ZMQ_EVENT_ALL = 0xFFFF,

    // The options of a socket.
    ZMQ_AFFINITY = 4,
    ZMQ_ROUTING_ID = 5,
    ZMQ_SUBSCRIBE = 6,
    ZMQ_UNSUBSCRIBE = 7,
    ZMQ_RATE = 8,
    ZMQ_RECOVERY_IVL = 9,
    ZMQ_SNDBUF = 11,
    ZMQ_RCVBUF = 12,
    ZMQ_RCVMORE = 13,
    ZMQ_FD = 14,
    ZMQ_EVENTS = 15,
    ZMQ_TYPE = 16,
    ZMQ_LINGER = 17,
    ZMQ_RECONNECT_IVL = 18,
    ZMQ_BACKLOG = 19,
    ZMQ_RECONNECT_IVL_MAX = 21,
    ZMQ_MAXMSGSIZE = 22,
    ZMQ_SNDHWM = 23,
    ZMQ_RCVHWM = 24,
    ZMQ_MULTICAST_HOPS = 25,
    ZMQ_RCVTIMEO = 27,
    ZMQ_SNDTIMEO = 28,
    ZMQ_LAST_ENDPOINT = 32,
    ZMQ_ROUTER_MANDATORY = 33,
    ZMQ_TCP_KEEPALIVE = 34,
    ZMQ_TCP_KEEPALIVE_CNT = 35,
    ZMQ_TCP_KEEPALIVE_IDLE = 36,
    ZMQ_TCP_KEEPALIVE_INTVL = 37,
    ZMQ_IMMEDIATE = 39,
    ZMQ_XPUB_VERBOSE = 40,
    ZMQ_IPV6 = 42,
    ZMQ_MECHANISM = 43,
    ZMQ_PLAIN_SERVER = 44,
    ZMQ_PLAIN_USERNAME = 45,
    ZMQ_PLAIN_PASSWORD = 46,
    ZMQ_CURVE_SERVER = 47,
    ZMQ_CURVE_PUBLICKEY = 48,
    ZMQ_CURVE_SECRETKEY = 49,
    ZMQ_CURVE_SERVERKEY = 50,
    ZMQ_PROBE_ROUTER = 51,
    ZMQ_REQ_CORRELATE = 52,
    ZMQ_REQ_RELAXED = 53,
    ZMQ_CONFLATE = 54,
    ZMQ_ZAP_DOMAIN = 55,
    ZMQ_ROUTER_HANDOVER = 56,
    ZMQ_TOS = 57,
    ZMQ_GSSAPI_SERVER = 62,
    ZMQ_GSSAPI_PRINCIPAL = 63,
    ZMQ_GSSAPI_SERVICE_PRINCIPAL = 64,
    ZMQ_GSSAPI_PLAINTEXT = 65,
    ZMQ_HANDSHAKE_IVL = 66,
    ZMQ_SOCKS_PROXY = 68,
    ZMQ_XPUB_WELCOME_MSG = 72,
    ZMQ_HEARTBEAT_IVL = 75,
    ZMQ_HEARTBEAT_TTL = 76,
    ZMQ_HEARTBEAT_TIMEOUT = 77,
    ZMQ_CONNECT_TIMEOUT = 79,
}

#[cfg(test)]
mod tests {
    use super::DECLARED;

    #[test]
    fn every_number_is_the_one_in_the_header() {
        let header = include_str!(concat!(env!("OUT_DIR"), "/source/include/zmq.h"));
        let defined = |name: &str| {
            let text = header.lines().find_map(|line| {
                let (first, value) = line.strip_prefix("#define ")?.split_once(' ')?;
                (first == name).then_some(value.trim())
            })?;
            match text.strip_prefix("0x") {
                Some(digits) => u32::from_str_radix(digits, 16).ok(),
                None => text.parse().ok(),
            }
        };
        for &(name, value) in DECLARED {
            assert_eq!(defined(name), Some(value), "{name}");
        }
    }
}
