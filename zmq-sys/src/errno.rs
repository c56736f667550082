//! The error numbers that `zmq_errno` reports.

/// libzmq's own numbers, and its stand-ins for those a system lacks, begin here.
const HAUSNUMERO: i32 = 156_384_712;

pub use libc::{
    EACCES, EADDRINUSE, EADDRNOTAVAIL, EAGAIN, EBUSY, ECONNREFUSED, EFAULT, EHOSTUNREACH,
    EINPROGRESS, EINTR, EINVAL, EMFILE, EMSGSIZE, ENAMETOOLONG, ENETDOWN, ENOBUFS, ENODEV, ENOENT,
    ENOMEM, ENOTCONN, ENOTSOCK, ENOTSUP, EPROTO, EPROTONOSUPPORT,
};

/// The socket is not in a state that allows this, such as a REQ that sends twice.
pub const EFSM: i32 = HAUSNUMERO + 51;
/// The transport does not suit the type of the socket.
pub const ENOCOMPATPROTO: i32 = HAUSNUMERO + 52;
/// The context was terminated.
pub const ETERM: i32 = HAUSNUMERO + 53;
/// No I/O thread is left for the task.
pub const EMTHREAD: i32 = HAUSNUMERO + 54;

/// Stands in for `ENOTSUP` where a system lacks it; so do those below for theirs.
pub const ENOTSUP_ALT: i32 = HAUSNUMERO + 1;
/// See [`ENOTSUP_ALT`].
pub const EPROTONOSUPPORT_ALT: i32 = HAUSNUMERO + 2;
/// See [`ENOTSUP_ALT`].
pub const ENOBUFS_ALT: i32 = HAUSNUMERO + 3;
/// See [`ENOTSUP_ALT`].
pub const ENETDOWN_ALT: i32 = HAUSNUMERO + 4;
/// See [`ENOTSUP_ALT`].
pub const EADDRINUSE_ALT: i32 = HAUSNUMERO + 5;
/// See [`ENOTSUP_ALT`].
pub const EADDRNOTAVAIL_ALT: i32 = HAUSNUMERO + 6;
/// See [`ENOTSUP_ALT`].
pub const ECONNREFUSED_ALT: i32 = HAUSNUMERO + 7;
/// See [`ENOTSUP_ALT`].
pub const EINPROGRESS_ALT: i32 = HAUSNUMERO + 8;
/// See [`ENOTSUP_ALT`].
pub const ENOTSOCK_ALT: i32 = HAUSNUMERO + 9;
/// See [`ENOTSUP_ALT`].
pub const EMSGSIZE_ALT: i32 = HAUSNUMERO + 10;

/// The number itself where the `zmq` crate knows it, otherwise its nearest relative there.
pub(crate) fn known(raw: i32) -> i32 {
    match raw {
        libc::ENOTDIR | libc::ELOOP => ENOENT,
        libc::EROFS | libc::EPERM | libc::EISDIR => EACCES,
        libc::ENFILE => EMFILE,
        libc::ENOSPC | libc::EDQUOT => ENOBUFS,
        libc::ENETUNREACH | libc::ENETRESET | libc::ETIMEDOUT | libc::EHOSTDOWN => EHOSTUNREACH,
        libc::ECONNRESET | libc::ECONNABORTED | libc::EPIPE => ENOTCONN,
        libc::EAFNOSUPPORT => EPROTONOSUPPORT,
        libc::EALREADY => EINPROGRESS,
        libc::EEXIST | libc::EISCONN => EADDRINUSE,
        EACCES | EADDRINUSE | EADDRNOTAVAIL | EAGAIN | EBUSY | ECONNREFUSED | EFAULT
        | EHOSTUNREACH | EINPROGRESS | EINTR | EINVAL | EMFILE | EMSGSIZE | ENAMETOOLONG
        | ENETDOWN | ENOBUFS | ENODEV | ENOENT | ENOMEM | ENOTCONN | ENOTSOCK | ENOTSUP
        | EPROTO | EPROTONOSUPPORT => raw,
        ours if (HAUSNUMERO + 1..=HAUSNUMERO + 10).contains(&ours) => ours,
        EFSM | ENOCOMPATPROTO | ETERM | EMTHREAD => raw,
        _ => EINVAL,
    }
}
