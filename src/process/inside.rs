//! The inside of a child: how a program finds out that it is one, and what it does then.
//!
//! Before `main`, a hook takes the channel. If the program has a `#[procession::main]`, that runs the task instead of the user's
//! function, when everything is set up as in any other program. If it has none (in a test, whose `main` is the test harness, or in a
//! program that was not written with it), the hook runs the task itself.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, PoisonError};

use linkme::distributed_slice;
use rustix::fs::{FileType, fstat};
use rustix::io::FdFlags;
use rustix::process::{Signal, getpid, kill_process};

use super::channel::{self, Channel, Order};
use super::{ending, identity, start};
use crate::registry::panics;
use crate::registry::{self, Failure, FailureKind};

/// One entry when the program has a `#[procession::main]`.
#[doc(hidden)]
#[distributed_slice]
pub static MAINS: [&str];

/// The channel of this process, if it is a child and has not begun.
static TAKEN: Mutex<Option<OwnedFd>> = Mutex::new(None);

/// Run by the system before `main`.
#[used]
// SAFETY: the section is the list of functions that are called before main, and this is one.
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = before_main;

extern "C" fn before_main() {
    let Some(channel) = take_channel() else {
        return;
    };
    if MAINS.is_empty() {
        call_remaining_constructors();
        run(channel)
    }
    *TAKEN.lock().unwrap_or_else(PoisonError::into_inner) = Some(channel);
}

/// The channel that the environment names; afterwards it names none.
fn take_channel() -> Option<OwnedFd> {
    let value = std::env::var_os(start::VARIABLE)?;
    // SAFETY: before main there is one thread, so nobody else looks at the environment.
    unsafe { std::env::remove_var(start::VARIABLE) };
    let number: RawFd = value.to_str()?.parse().ok().filter(|number| *number > 2)?;
    // SAFETY: used only to ask whether it is open, and for what.
    let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
    let is_socket = fstat(descriptor)
        .is_ok_and(|found| FileType::from_raw_mode(found.st_mode) == FileType::Socket);
    // Somebody set the variable by hand.
    if !is_socket {
        return None;
    }
    // It was inherited on purpose; whatever this process starts is not to have it.
    rustix::io::fcntl_setfd(descriptor, FdFlags::CLOEXEC).ok()?;
    // SAFETY: whoever started this process made this descriptor for us, and before main nobody else can have taken it.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Calls what comes after [`BEFORE_MAIN`] in the list: constructors of C++ libraries, for example, that a task may need. They
/// are not called a second time, because a child does not come back from here.
fn call_remaining_constructors() {
    type Constructor = extern "C" fn();
    unsafe extern "C" {
        #[link_name = "__init_array_end"]
        static END: [Option<Constructor>; 0];
    }
    // SAFETY: it says only that the symbol may be missing, and then its address is null: some linkers do not define it in a
    // shared library, which could not be loaded otherwise.
    unsafe {
        std::arch::asm!(
            ".weak __init_array_end",
            options(nomem, nostack, preserves_flags)
        )
    };
    // Hidden from the compiler, for which a static is never at null.
    let end = std::hint::black_box((&raw const END).cast::<Option<Constructor>>());
    let mut next = (&raw const BEFORE_MAIN).cast::<Option<Constructor>>();
    if end.is_null() {
        return;
    }
    loop {
        // SAFETY: the linker puts BEFORE_MAIN into the list, whose end it names, so what lies between them are its entries.
        // They are functions, called on the main thread in the list's order, as the system would. (It would give them the
        // program's arguments as well; a function that does not take them ignores them, and one that does stands earlier.)
        unsafe {
            next = next.add(1);
            if next >= end {
                return;
            }
            if let Some(constructor) = *next {
                constructor();
            }
        }
    }
}

/// This process's task, if it is a child whose channel has been taken and that has not begun. Does not return then.
pub(super) fn run_if_child() {
    let taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(channel) = taken {
        run(channel);
    }
}

/// To be called before a child is started. A child that comes here has not run its task: this program has a `#[procession::main]`
/// that is not what was run, as with documentation tests, of which several are one program. So the task is run now.
///
/// # Errors
/// When the hook was not called, so that the whole program would be started again and again.
pub(super) fn check_that_children_are_known() -> io::Result<()> {
    run_if_child();
    match std::env::var_os(start::VARIABLE) {
        None => Ok(()),
        Some(_) => Err(io::Error::other(
            "this process is a child itself and has not run its task: the program was linked without what is called before main",
        )),
    }
}

/// The life of a child: its order, its task, its answer.
fn run(channel: OwnedFd) -> ! {
    let channel = Arc::new(Channel(channel));
    let Ok((order, arguments)) = Order::read(&mut &*channel) else {
        // The parent is gone already.
        std::process::exit(1);
    };
    let Order {
        task,
        name,
        numbers,
        is_daemon,
        parent,
        ..
    } = order;
    // As `ps` shows it, instead of "exe"; the system cuts it.
    let _ = rustix::thread::set_name(&std::ffi::CString::new(name.clone()).unwrap_or_default());
    identity::become_child(name.clone(), numbers, is_daemon, parent);
    panics::install(name.clone());
    watch_parent(Arc::clone(&channel));

    let answer = registry::find(&task)
        .map_err(|error| Failure {
            message: error.to_string(),
            location: None,
            kind: FailureKind::Unknown,
        })
        .and_then(|entry| entry.run(&arguments));
    drop(arguments);
    if let Err(failure) = &answer
        && failure.kind != FailureKind::Panic
    {
        // A panic has been printed where it happened.
        let words = format!("process {name}: error: {}\n", failure.message);
        let _ = io::stderr().write_all(words.as_bytes());
    }
    // If the parent is gone, there is nobody to tell, and this process will be ended at once.
    let _ = channel::answer(&mut &*channel, &answer);
    let code = i32::from(answer.is_err());
    drop(answer);
    ending::finish();
    std::process::exit(code);
}

/// Ends this process when its parent is gone, however that ended: then the other end of the channel is closed.
fn watch_parent(channel: Arc<Channel>) {
    let watch = move || {
        let mut nothing = [0; 1];
        loop {
            match rustix::io::read(channel.0.as_fd(), &mut nothing) {
                Err(rustix::io::Errno::INTR) => {}
                // Nothing is sent after the order; but a byte too many is not the end.
                Ok(1..) => {}
                Ok(0) | Err(_) => break,
            }
        }
        // Not exit(): that would wait for locks of threads that may wait for the parent.
        let _ = kill_process(getpid(), Signal::KILL);
    };
    let started = std::thread::Builder::new()
        .name("parent-watch".to_owned())
        .stack_size(64 << 10)
        .spawn(watch);
    if let Err(error) = started {
        // Better no child than an orphan.
        let words = format!("process cannot watch its parent: {error}\n");
        let _ = io::stderr().write_all(words.as_bytes());
        std::process::exit(1);
    }
}
