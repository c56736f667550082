//! Locks and semaphores between hosts, held under a lease (docs/locks-between-hosts.md).
//!
//! | file | what it is |
//! |---|---|
//! | `leased/ledger` | who has a unit, who waits (pure) |
//! | `leased/host` | the process that keeps it |
//! | `leased/remote` | what each other process has of it |

mod host;
mod ledger;
mod remote;

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use self::host::Host;
use self::remote::{By, Held, Remote, Wait, of_lock};
use super::{Lock, Semaphore, deadline};
use crate::error::{Error, Result};
use crate::hub::host::{host_name, machine_id};
use crate::wire::access::Means;
use crate::wire::endpoint::Endpoint;

/// Of what is said.
const VERSION: u32 = 1;
/// Who is not heard for so long has lost what it held.
const LEASE: Duration = Duration::from_secs(5);
/// How often everybody is heard.
const BEAT: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
enum Kind {
    Lock,
    Semaphore,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Lock => "lock",
            Self::Semaphore => "semaphore",
        }
    }

    const fn type_name(self) -> &'static str {
        match self {
            Self::Lock => "Lock",
            Self::Semaphore => "Semaphore",
        }
    }
}

/// What a process says to the host. Numbers are the process's own.
#[derive(Debug, Serialize, Deserialize)]
enum Request {
    Ask { number: u64, waits: bool },
    Withdraw { number: u64 },
    Give { number: u64 },
    Add { number: u64, units: usize },
    Look { number: u64 },
    Consistent { number: u64, held: u64 },
    Beat { number: u64 },
}

/// What the host says.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Welcome {
        version: u32,
        kind: Kind,
        id: u64,
    },
    Granted {
        number: u64,
        fence: u64,
        holder_died: bool,
    },
    Refused {
        number: u64,
    },
    Given {
        number: u64,
    },
    State {
        number: u64,
        left: usize,
        holder_died: bool,
    },
    Beat {
        number: u64,
    },
}

/// What a handle is when it travels.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Ticket {
    endpoint: String,
    kind: Kind,
    /// Which lock it is: another one may be there later.
    id: u64,
    machine: String,
    host: String,
    insecure: bool,
}

impl Ticket {
    fn new(endpoint: &Endpoint, kind: Kind, id: u64, insecure: bool) -> Self {
        Self {
            endpoint: endpoint.to_string(),
            kind,
            id,
            machine: machine_id(),
            host: host_name(),
            insecure,
        }
    }
}

/// What both are.
#[derive(Clone)]
struct Leased {
    ticket: Ticket,
    remote: Arc<Remote>,
    /// Where it was made.
    host: Option<Arc<Host>>,
}

impl Leased {
    fn bind(endpoint: &str, insecure: bool, kind: Kind, units: usize) -> Result<Self> {
        let host = Host::new(endpoint, insecure, kind, units)?;
        let bound = host.endpoint();
        let here = bound.clone().with_host_if_any("127.0.0.1");
        let remote = of_lock(host.id(), || Remote::new(here, true, kind, Some(host.id())));
        let endpoint = bound.clone().with_host_if_any(&host_name());
        Ok(Self {
            ticket: Ticket::new(&endpoint, kind, host.id(), insecure),
            remote,
            host: Some(Arc::new(host)),
        })
    }

    fn connect(endpoint: &str, insecure: bool, kind: Kind) -> Result<Self> {
        let endpoint: Endpoint = endpoint.parse()?;
        Means::insecure(insecure).to_dial(&endpoint)?;
        let remote = Remote::new(endpoint.clone(), insecure, kind, None);
        let id = remote.connect()?;
        Ok(Self {
            ticket: Ticket::new(&endpoint, kind, id, insecure),
            // Under another name it may be known here already.
            remote: of_lock(id, || remote),
            host: None,
        })
    }

    fn of_ticket(ticket: Ticket) -> Result<Self> {
        let endpoint: Endpoint = ticket.endpoint.parse()?;
        if endpoint.is_this_machine() && ticket.machine != machine_id() {
            return Err(Error::BadHandle {
                endpoint: endpoint.to_string(),
                why: format!(
                    "the {} is on {}, and its endpoint leads nowhere from {}; make it with bind_insecure(\"tcp://*:PORT\")",
                    ticket.kind.name(),
                    ticket.host,
                    host_name()
                ),
            });
        }
        Means::insecure(ticket.insecure).to_dial(&endpoint)?;
        let remote = of_lock(ticket.id, || {
            Remote::new(endpoint, ticket.insecure, ticket.kind, Some(ticket.id))
        });
        Ok(Self {
            ticket,
            remote,
            host: None,
        })
    }

    fn endpoint(&self) -> &str {
        &self.ticket.endpoint
    }

    fn guard(&self, held: Held) -> LeasedGuard<'_> {
        LeasedGuard {
            remote: &self.remote,
            held,
            here: PhantomData,
        }
    }

    fn lock(&self, wait: Wait) -> Result<Option<LeasedGuard<'_>>> {
        let held = self.remote.acquire(By::Guard, wait)?;
        Ok(held.map(|held| self.guard(held)))
    }

    fn acquire(&self, wait: Wait) -> Result<Option<u64>> {
        let held = self.remote.acquire(By::Hand, wait)?;
        Ok(held.map(|held| held.fence))
    }
}

impl Serialize for Leased {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.ticket.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Leased {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let ticket = Ticket::deserialize(deserializer)?;
        Self::of_ticket(ticket).map_err(de::Error::custom)
    }
}

/// A lock between hosts: what [`Lock::bind`] and [`Lock::connect`] return.
///
/// One process keeps it, the *host*, and others reach it by its endpoint, from the same machine or another. It is held under a **lease** that ends
/// with the holder's life: when the holder's process ends or is killed, at once; when nothing is heard from it (its machine is gone, the network, it is
/// stopped), after 5 seconds. The next one has the lock then and [is told](LeasedGuard::holder_died).
///
/// ```
/// use procession::Process;
/// use procession::sync::Lock;
///
/// #[procession::task]
/// fn report(endpoint: String) -> procession::Result<u64> {
///     let lock = Lock::connect(endpoint)?; // as on any host
///     let held = lock.lock()?; // released at the end of the block, also by a panic
///     // …
///     Ok(held.fence())
/// }
///
/// #[procession::main]
/// fn main() -> procession::Result<()> {
///     let lock = Lock::bind("tcp://127.0.0.1:*")?;
///     lock.acquire()?;
///     let child = Process::spawn(report, (lock.endpoint().to_owned(),))?;
///     lock.release()?;
///     child.join()?;
///     Ok(())
/// }
/// ```
///
/// **Between hosts no lock keeps a late holder from writing.** It may have been stopped for a minute, and find out only afterwards that others have the lock.
/// So each grant has a [fencing number](LeasedGuard::fence), higher than all before: send it with what you write, and have the store refuse lower
/// ones. [`is_held`](LeasedGuard::is_held) is a look at this process's clock, and [`release`](Self::release) an error when the lease was lost.
///
/// It costs a round trip to acquire and one to release. Between processes of one host that have a common parent [`Lock::new`] needs none.
///
/// A handle is a serde value: pass it to a child, or give others the endpoint. The lock ends with the last handle in the process that made it, and with that process: calls
/// under way are [`Error::LeaseLost`] then, later ones look for it for 30 seconds. When somebody makes one again there, handles that `connect` has returned go on with
/// that one; handles that travelled are errors, as they belong to the one before. What a process holds by hand is given up when it drops its last handle. Some 500 processes can
/// use one lock at a time. All processes that reach its endpoint can use it: see [`Lock::bind_insecure`].
#[derive(Clone, Serialize, Deserialize)]
pub struct LeasedLock {
    leased: Leased,
}

/// A semaphore between hosts: what [`Semaphore::bind`] and [`Semaphore::connect`] return. As [`LeasedLock`], of which there are several units.
///
/// ```
/// use procession::sync::Semaphore;
///
/// let licences = Semaphore::bind("tcp://127.0.0.1:*", 2)?;
/// let elsewhere = Semaphore::connect(licences.endpoint())?;
/// let one = licences.lock()?; // given back at the end of the block
/// let two = elsewhere.lock()?;
/// assert!(two.fence() > one.fence());
/// assert!(elsewhere.try_lock()?.is_none());
/// drop(one);
/// assert_eq!(elsewhere.value()?, 1);
/// # drop(two);
/// # Ok::<(), procession::Error>(())
/// ```
///
/// Units that a process has when it ends, is killed or is not heard for 5 seconds go to others, those acquired by hand as well. A process that
/// [releases](Self::release) without having acquired by hand makes a new unit, which is nobody's: a signal.
#[derive(Clone, Serialize, Deserialize)]
pub struct LeasedSemaphore {
    leased: Leased,
}

/// Holds a [`LeasedLock`], or a unit of a [`LeasedSemaphore`], until it is dropped, in the thread that acquired it.
#[must_use = "it is released when the guard is dropped: let _held = lock.lock()?"]
pub struct LeasedGuard<'a> {
    remote: &'a Arc<Remote>,
    held: Held,
    /// Not to be sent to another thread.
    here: PhantomData<*const ()>,
}

impl LeasedGuard<'_> {
    /// The fencing number: higher than that of each holder before, so that a store can refuse what a late holder writes.
    #[must_use]
    pub const fn fence(&self) -> u64 {
        self.held.fence
    }

    /// Whether nobody else can have it now. It may be over a moment later; see [`fence`](Self::fence).
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.remote.is_held(self.held.number)
    }

    /// Whether a holder has died, or was not heard for too long, and nobody has said since that what is guarded is in order.
    #[must_use]
    pub const fn holder_died(&self) -> bool {
        self.held.holder_died
    }

    /// Says that what is guarded is in order, after the death of a holder.
    ///
    /// # Errors
    /// [`Error::LeaseLost`] when it is not held any more.
    pub fn mark_consistent(&self) -> Result<()> {
        self.remote.mark_consistent(Some(self.held.number))
    }

    /// Gives it back, and says whether it was held until now, as dropping it cannot.
    ///
    /// # Errors
    /// [`Error::LeaseLost`]: others may have had it meanwhile.
    pub fn release(self) -> Result<()> {
        let given = self.remote.give(self.held.number);
        std::mem::forget(self);
        given
    }
}

impl Drop for LeasedGuard<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.remote.give(self.held.number) {
            log::warn!("{error}");
        }
    }
}

impl fmt::Debug for LeasedGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeasedGuard")
            .field("fence", &self.held.fence)
            .field("is_held", &self.is_held())
            .finish()
    }
}

macro_rules! acquire {
    ($type:ident, $what:literal) => {
        impl $type {
            /// Where it is, for `connect`; with the real port.
            #[must_use]
            pub fn endpoint(&self) -> &str {
                self.leased.endpoint()
            }

            #[doc = concat!("Waits for ", $what, " and holds it until the guard is dropped.")]
            ///
            /// # Errors
            /// [`Error::LeaseLost`] when its host ends while it waits, or is not heard for 5 seconds; [`Error::NobodyThere`] when it has
            /// ended before and is not there again within 30 seconds. For a lock, [`Error::HeldAlready`] when this thread holds it.
            pub fn lock(&self) -> Result<LeasedGuard<'_>> {
                loop {
                    if let Some(guard) = self.leased.lock(Wait::Until(None))? {
                        return Ok(guard);
                    }
                }
            }

            #[doc = concat!("Holds ", $what, " until the guard is dropped, if there is one to be had now.")]
            ///
            /// # Errors
            /// As [`lock`](Self::lock); a host that is not there is looked for for 2 seconds.
            pub fn try_lock(&self) -> Result<Option<LeasedGuard<'_>>> {
                self.leased.lock(Wait::No)
            }

            /// As [`lock`](Self::lock), but waits for at most `time`, and for a host that does not answer at most 5 seconds more.
            ///
            /// # Errors
            /// As [`lock`](Self::lock).
            pub fn lock_timeout(&self, time: Duration) -> Result<Option<LeasedGuard<'_>>> {
                self.leased.lock(Wait::Until(deadline(time)))
            }

            #[doc = concat!("Waits for ", $what, " and holds it until [`release`](Self::release); its")]
            /// [fencing number](LeasedGuard::fence).
            ///
            /// # Errors
            /// As [`lock`](Self::lock).
            pub fn acquire(&self) -> Result<u64> {
                loop {
                    if let Some(fence) = self.leased.acquire(Wait::Until(None))? {
                        return Ok(fence);
                    }
                }
            }

            #[doc = concat!("Acquires ", $what, " if there is one to be had now; its fencing number.")]
            ///
            /// # Errors
            /// As [`try_lock`](Self::try_lock).
            pub fn try_acquire(&self) -> Result<Option<u64>> {
                self.leased.acquire(Wait::No)
            }

            /// As [`acquire`](Self::acquire), but waits for at most `time`.
            ///
            /// # Errors
            /// As [`lock`](Self::lock).
            pub fn acquire_timeout(&self, time: Duration) -> Result<Option<u64>> {
                self.leased.acquire(Wait::Until(deadline(time)))
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($type))
                    .field("endpoint", &self.endpoint())
                    .field("is_host", &self.leased.host.is_some())
                    .finish()
            }
        }
    };
}

acquire!(LeasedLock, "it");
acquire!(LeasedSemaphore, "a unit");

impl LeasedLock {
    /// Lets others have it.
    ///
    /// # Errors
    /// [`Error::NotHeld`] when this thread does not hold it; [`Error::LeaseLost`] when others may have had it meanwhile.
    pub fn release(&self) -> Result<()> {
        match self.leased.remote.give_mine()? {
            true => Ok(()),
            false => Err(Error::NotHeld { what: "lock" }),
        }
    }

    /// Whether anybody holds it, at this moment.
    ///
    /// # Errors
    /// As [`lock`](Self::lock).
    pub fn locked(&self) -> Result<bool> {
        Ok(self.leased.remote.look()?.0 == 0)
    }

    /// As [`LeasedGuard::holder_died`], to be asked by a holder.
    ///
    /// # Errors
    /// As [`lock`](Self::lock).
    pub fn holder_died(&self) -> Result<bool> {
        Ok(self.leased.remote.look()?.1)
    }

    /// As [`LeasedGuard::mark_consistent`].
    ///
    /// # Errors
    /// [`Error::NotHeld`] when this thread does not hold it; [`Error::LeaseLost`] when it does so no longer.
    pub fn mark_consistent(&self) -> Result<()> {
        self.leased.remote.mark_consistent(None)
    }
}

impl LeasedSemaphore {
    /// Gives back the unit that this process has had longest by hand. If it has none, there is one unit more.
    ///
    /// # Errors
    /// [`Error::LeaseLost`] when the unit may have been another's meanwhile, or the host is gone.
    pub fn release(&self) -> Result<()> {
        match self.leased.remote.give_mine()? {
            true => Ok(()),
            false => self.leased.remote.add(1),
        }
    }

    /// How many units there are, at this moment.
    ///
    /// # Errors
    /// As [`lock`](Self::lock).
    #[doc(alias = "get_value")]
    pub fn value(&self) -> Result<usize> {
        Ok(self.leased.remote.look()?.0)
    }
}

macro_rules! reach {
    ($local:ident, $type:ident, $kind:expr, $units:expr $(, $argument:ident)?) => {
        impl $local {
            /// Makes one that others can use from other programs and hosts, under a lease: see
            #[doc = concat!("[`", stringify!($type), "`].")]
            /// At `tcp://127.0.0.1:PORT` (`*` takes a free port) or `ipc://PATH`.
            ///
            /// # Errors
            /// [`Error::Bind`] when somebody listens there already; [`Error::BeyondLoopback`] for an endpoint that other machines can
            /// reach; [`Error::BadEndpoint`].
            pub fn bind(endpoint: impl AsRef<str> $(, $argument: usize)?) -> Result<$type> {
                let leased = Leased::bind(endpoint.as_ref(), false, $kind, $units)?;
                Ok($type { leased })
            }

            /// The same, also where other machines can reach it. Nothing is encrypted and nobody is asked who they are: whoever reaches the
            /// endpoint can use it.
            ///
            /// # Errors
            /// As [`bind`](Self::bind), less [`Error::BeyondLoopback`].
            pub fn bind_insecure(endpoint: impl AsRef<str> $(, $argument: usize)?) -> Result<$type> {
                let leased = Leased::bind(endpoint.as_ref(), true, $kind, $units)?;
                Ok($type { leased })
            }

            /// Reaches the one at `endpoint`; waits up to 30 seconds until it is there.
            ///
            /// # Errors
            /// [`Error::NobodyThere`]; [`Error::Connect`] or [`Error::BadHandle`] when something else is there; [`Error::ConnectBeyondLoopback`];
            /// [`Error::BadEndpoint`].
            pub fn connect(endpoint: impl AsRef<str>) -> Result<$type> {
                let leased = Leased::connect(endpoint.as_ref(), false, $kind)?;
                Ok($type { leased })
            }

            /// The same, also on another machine. Nothing is encrypted, and nothing proves who answers there.
            ///
            /// # Errors
            /// As [`connect`](Self::connect), less [`Error::ConnectBeyondLoopback`].
            pub fn connect_insecure(endpoint: impl AsRef<str>) -> Result<$type> {
                let leased = Leased::connect(endpoint.as_ref(), true, $kind)?;
                Ok($type { leased })
            }
        }
    };
}

reach!(Lock, LeasedLock, Kind::Lock, 1);
reach!(Semaphore, LeasedSemaphore, Kind::Semaphore, units, units);
