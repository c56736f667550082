//! The C interface of libzmq 4.3.5, as far as the `zmq` crate uses it; see README.md.
//!
//! Names, types and meanings are those of the [manual](https://libzmq.readthedocs.io/en/zeromq4-x/).
//! One function differs: [`zmq_ctx_new`] raises the number of sockets that a context may open.

#![allow(non_camel_case_types)]

mod constants;
pub mod errno;

use std::ffi::{c_char, c_int, c_long, c_short, c_void};

pub use constants::*;
pub use std::os::fd::RawFd;

/// A message. libzmq keeps its own state in it; only the size and the alignment are public.
#[repr(C)]
#[derive(Debug)]
pub struct zmq_msg_t {
    state: [u8; 64],
    // As a pointer's; a number, so that a message may move between threads, as libzmq allows.
    alignment: [usize; 0],
}

impl Default for zmq_msg_t {
    /// Zeroes, to be handed to one of the `zmq_msg_init` functions before any other.
    fn default() -> zmq_msg_t {
        zmq_msg_t {
            state: [0; 64],
            alignment: [],
        }
    }
}

/// Frees the body that was given to [`zmq_msg_init_data`]: called with the body and the hint.
pub type zmq_free_fn = Option<unsafe extern "C" fn(data: *mut c_void, hint: *mut c_void)>;

/// A socket or a file descriptor to poll.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct zmq_pollitem_t {
    /// The socket; null to poll `fd`.
    pub socket: *mut c_void,
    /// The file descriptor, if `socket` is null.
    pub fd: RawFd,
    /// What to wait for.
    pub events: c_short,
    /// What happened.
    pub revents: c_short,
}

/// The most sockets that libzmq can number in one context.
const MOST_SOCKETS: c_int = 65_535;

/// Creates a context that may open as many sockets as this libzmq can number, 65,535 at most.
///
/// libzmq's own default is 1,023. The `zmq` crate cannot change it, and a lane is three sockets, so
/// a pool would end at 340 lanes. The price is a table of some 800 kB per context, allocated with
/// its first socket; each socket still needs a file descriptor.
///
/// Null if the context cannot be created; [`zmq_errno`] tells why.
pub fn zmq_ctx_new() -> *mut c_void {
    // SAFETY: the function has no preconditions.
    let context = unsafe { new_context() };
    if !context.is_null() {
        // SAFETY: `context` was created above and nothing has terminated it.
        let limit = unsafe { zmq_ctx_get(context, ZMQ_SOCKET_LIMIT as c_int) };
        if limit > 0 {
            // SAFETY: as above. Refused, the context keeps its default, which still works.
            unsafe { zmq_ctx_set(context, ZMQ_MAX_SOCKETS as c_int, limit.min(MOST_SOCKETS)) };
        }
    }
    context
}

unsafe extern "C" {
    #[link_name = "zmq_ctx_new"]
    fn new_context() -> *mut c_void;
}

/// The number of the last error of this thread, as one that the `zmq` crate knows: it panics on any other.
pub fn zmq_errno() -> c_int {
    // SAFETY: the function has no preconditions.
    errno::known(unsafe { raw_errno() })
}

// The library.
unsafe extern "C" {
    #[link_name = "zmq_errno"]
    fn raw_errno() -> c_int;
    pub fn zmq_strerror(error: c_int) -> *const c_char;
    pub fn zmq_version(major: *mut c_int, minor: *mut c_int, patch: *mut c_int);
    pub fn zmq_has(capability: *const c_char) -> c_int;
}

// Contexts.
unsafe extern "C" {
    pub fn zmq_ctx_term(context: *mut c_void) -> c_int;
    pub fn zmq_ctx_set(context: *mut c_void, option: c_int, value: c_int) -> c_int;
    pub fn zmq_ctx_get(context: *mut c_void, option: c_int) -> c_int;
}

// Messages.
unsafe extern "C" {
    pub fn zmq_msg_init(message: *mut zmq_msg_t) -> c_int;
    pub fn zmq_msg_init_size(message: *mut zmq_msg_t, size: usize) -> c_int;
    pub fn zmq_msg_init_data(
        message: *mut zmq_msg_t,
        data: *mut c_void,
        size: usize,
        free: zmq_free_fn,
        hint: *mut c_void,
    ) -> c_int;
    pub fn zmq_msg_send(message: *mut zmq_msg_t, socket: *mut c_void, flags: c_int) -> c_int;
    pub fn zmq_msg_recv(message: *mut zmq_msg_t, socket: *mut c_void, flags: c_int) -> c_int;
    pub fn zmq_msg_close(message: *mut zmq_msg_t) -> c_int;
    pub fn zmq_msg_data(message: *mut zmq_msg_t) -> *mut c_void;
    pub fn zmq_msg_size(message: *const zmq_msg_t) -> usize;
    pub fn zmq_msg_more(message: *const zmq_msg_t) -> c_int;
    pub fn zmq_msg_gets(message: *const zmq_msg_t, property: *const c_char) -> *const c_char;
}

// Sockets.
unsafe extern "C" {
    pub fn zmq_socket(context: *mut c_void, kind: c_int) -> *mut c_void;
    pub fn zmq_close(socket: *mut c_void) -> c_int;
    pub fn zmq_setsockopt(
        socket: *mut c_void,
        option: c_int,
        value: *const c_void,
        size: usize,
    ) -> c_int;
    pub fn zmq_getsockopt(
        socket: *mut c_void,
        option: c_int,
        value: *mut c_void,
        size: *mut usize,
    ) -> c_int;
    pub fn zmq_bind(socket: *mut c_void, endpoint: *const c_char) -> c_int;
    pub fn zmq_connect(socket: *mut c_void, endpoint: *const c_char) -> c_int;
    pub fn zmq_unbind(socket: *mut c_void, endpoint: *const c_char) -> c_int;
    pub fn zmq_disconnect(socket: *mut c_void, endpoint: *const c_char) -> c_int;
    pub fn zmq_recv(socket: *mut c_void, buffer: *mut c_void, size: usize, flags: c_int) -> c_int;
    pub fn zmq_socket_monitor(socket: *mut c_void, endpoint: *const c_char, events: c_int)
    -> c_int;
}

// Several sockets at once.
unsafe extern "C" {
    pub fn zmq_poll(items: *mut zmq_pollitem_t, count: c_int, timeout: c_long) -> c_int;
    pub fn zmq_proxy(frontend: *mut c_void, backend: *mut c_void, capture: *mut c_void) -> c_int;
    pub fn zmq_proxy_steerable(
        frontend: *mut c_void,
        backend: *mut c_void,
        capture: *mut c_void,
        control: *mut c_void,
    ) -> c_int;
}

// Keys.
unsafe extern "C" {
    pub fn zmq_curve_keypair(public: *mut c_char, secret: *mut c_char) -> c_int;
    pub fn zmq_z85_encode(text: *mut c_char, data: *const u8, size: usize) -> *mut c_char;
    pub fn zmq_z85_decode(data: *mut u8, text: *const c_char) -> *mut u8;
}
