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

/// The user in libzmq's address of a peer at a Unix socket (`:uid:gid:pid`), if it is not this one.
pub(super) fn other_user(address: &str) -> Option<u32> {
    let mut words = address.strip_prefix(':')?.split(':');
    let (user, _, _, None) = (words.next()?, words.next()?, words.next()?, words.next()) else {
        return None;
    };
    let user = user.parse().ok()?;
    (user != rustix::process::geteuid().as_raw()).then_some(user)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_user_is_told_from_this_one_and_from_addresses() {
        let this = rustix::process::geteuid().as_raw();
        assert_eq!(other_user(&format!(":{}:0:7", this + 1)), Some(this + 1));
        for none in [
            &format!(":{this}:0:7"),
            "",
            ":",
            "127.0.0.1",
            "::1",
            "::ffff:127.0.0.1",
            ":x:0:7",
            ":1:2:3:4",
        ] {
            assert_eq!(other_user(none), None, "{none}");
        }
    }
}
