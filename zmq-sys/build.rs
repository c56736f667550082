//! Compiles libzmq with CURVE, from the sources in `zeromq-src`, against the libsodium that
//! `libsodium-sys-stable` compiled. A libzmq or libsodium of the system is never used.

use std::{env, process};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let folder = |variable: &str| {
        env::var(variable).ok().filter(|path| !path.is_empty()).unwrap_or_else(|| {
            eprintln!(
                "zmq-sys: {variable} is not set: libsodium was not compiled by libsodium-sys-stable; \
                 unset SODIUM_LIB_DIR and SODIUM_USE_PKG_CONFIG and build again"
            );
            process::exit(1)
        })
    };
    let libsodium =
        zeromq_src::LibLocation::new(folder("DEP_SODIUM_LIB"), folder("DEP_SODIUM_INCLUDE"));

    // What its own build finds out on Linux, and `zeromq-src` does not say: threads wake one another by an eventfd, which is one
    // descriptor and a brief call, instead of a pair of Unix sockets; and descriptors are never inherited, not even for a moment.
    // Whose process is at the other end of a Unix socket is asked. Connections are accepted by src/accept.c, which says why.
    let on_linux = match env::var("CARGO_CFG_TARGET_OS").as_deref() {
        Ok("linux" | "android") => {
            "-DZMQ_HAVE_EVENTFD -DZMQ_HAVE_EVENTFD_CLOEXEC -DZMQ_HAVE_SOCK_CLOEXEC -DZMQ_HAVE_SO_PEERCRED -DHAVE_ACCEPT4 -Daccept4=zmq_sys_accept4"
        }
        _ => "",
    };

    // SAFETY: this process has one thread.
    unsafe {
        // libzmq is on the path of every message: optimised in each profile, also in tests.
        env::set_var("OPT_LEVEL", "2");
        // Without its debug information, which is many times its code.
        env::set_var("DEBUG", "false");
        // Its warnings are not ours to mend, and cargo would print each of them.
        for flags in ["CFLAGS", "CXXFLAGS"] {
            // And its epoll descriptors must not be inherited by the commands that we start.
            let ours = format!("-w -DZMQ_IOTHREAD_POLLER_USE_EPOLL_CLOEXEC {on_linux}");
            let theirs = env::var(flags).unwrap_or_default();
            env::set_var(flags, format!("{theirs} {ours}"));
        }
    }
    zeromq_src::Build::new()
        .with_libsodium(Some(libsodium))
        .build();
    if !on_linux.is_empty() {
        println!("cargo:rerun-if-changed=src/accept.c");
        cc::Build::new()
            .file("src/accept.c")
            .compile("zmq_sys_accept");
    }
}
