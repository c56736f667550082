//! Whose process is at the other end of a Unix socket, as the kernel says it (`SO_PEERCRED`). The directory of the socket and its mode keep others
//! out as well; this holds where a path is in a directory that others can write to, and somebody else was there first.

use super::curve::set_option;

/// What is bound next takes connections of this user's processes only, and of root's, who could take them anyway.
pub(super) fn only_this_user(socket: &mut zmq::Socket) {
    const IPC_FILTER_UID: i32 = 59;
    let this = rustix::process::geteuid().as_raw();
    for user in [this, 0] {
        // A number, in whatever type.
        if !set_option(socket, IPC_FILTER_UID, user.cast_signed()) {
            log::debug!(
                "this libzmq does not tell whose process connects; the socket's mode keeps others out"
            );
        }
    }
}

/// The user in libzmq's address of a peer at a Unix socket (`host:uid:gid:pid`), if it is not this one.
pub(super) fn other_user(address: &str) -> Option<u32> {
    let user = address.rsplit(':').nth(2)?.parse().ok()?;
    (user != rustix::process::geteuid().as_raw()).then_some(user)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_user_is_told_from_this_one() {
        let this = rustix::process::geteuid().as_raw();
        for host in ["", "localhost", "a:b"] {
            let address = format!("{host}:{}:0:7", this + 1);
            assert_eq!(other_user(&address), Some(this + 1), "{address}");
        }
        for none in [&format!("ant:{this}:0:7"), "", ":", "::", "ant:x:0:7"] {
            assert_eq!(other_user(none), None, "{none}");
        }
    }
}
