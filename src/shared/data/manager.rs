//! [`Manager`]: a process that holds data for others, as Python's.

use std::fmt;
use std::sync::Arc;

use super::address::Address;
use super::host::{Here, Host};
use super::object::Object;
use super::proxy::{Caller, Proxy, caller_of};
use super::remote::Remote;
use super::store::{Store, shared};
use super::{Counter, Dict, List, Namespace};
use crate::error::{Error, Result};
use crate::hub::host::host_name;
use crate::pipeline::random_id;
use crate::wire::runtime_dir::RuntimeDir;

/// Holds dictionaries, lists, counters, namespaces, and objects of your own types, in this process, for others to use.
///
/// ```
/// use procession::Process;
/// use procession::shared::{Dict, List, Manager};
///
/// #[procession::task]
/// fn work(results: Dict<String, u32>, log: List<String>) -> procession::Result<()> {
///     results.insert("answer", &42)?;
///     log.push("done")?;
///     Ok(())
/// }
///
/// #[procession::main]
/// fn main() -> procession::Result<()> {
///     let manager = Manager::new()?;
///     let (results, log) = (manager.dict()?, manager.list()?);
///     Process::spawn(work, (results.clone(), log.clone()))?.join()?;
///     assert_eq!(results.get("answer")?, Some(42));
///     assert_eq!(log.to_vec()?, ["done"]);
///     Ok(())
/// }
/// ```
///
/// Python's `Manager()` starts a process for this; here it is this one, in threads of its own: one for each connection. So handles that are used in this process ask nobody.
///
/// What it holds is in memory. It ends, and all is gone, when this process ends, or when the manager, its clones, and all handles *in this process* are dropped. Others get
/// [`Error::ManagerGone`] then, also when another manager is at the same endpoint. For what must outlive a process, see `Dict::open("sqlite:…")` and its like. It takes
/// up to 500 connections, and 1 GiB of data unless [`limit`](Self::limit) says something else.
#[derive(Clone)]
pub struct Manager {
    host: Arc<Host>,
    store: Arc<Store>,
    /// Kept, so that others in this process find it.
    caller: Arc<Caller>,
    url: String,
}

impl Manager {
    /// A manager for this process, its children and theirs, and whoever of this user is given a handle or the [`url`](Self::url).
    ///
    /// # Errors
    /// When the private directory for sockets cannot be used, or there are too many open files.
    pub fn new() -> Result<Self> {
        let life = random_id()?;
        let dir = RuntimeDir::create(&format!("m{life:016x}"))?;
        let endpoint = format!("ipc://{}", dir.path().join("manager").display());
        Self::host(&endpoint, false, life, Some(dir))
    }

    /// A manager at `tcp://127.0.0.1:PORT` (`*` takes a free port) or `ipc://PATH`, for all programs of this user on this machine. With
    /// [keys](crate::keys) (`PROCESSION_KEYS`) also at an endpoint that other machines can reach.
    ///
    /// ```
    /// use procession::shared::{Dict, Manager};
    ///
    /// let manager = Manager::bind("tcp://127.0.0.1:*")?;
    /// // In another program:
    /// let prices = Dict::<String, u32>::open(manager.url("prices"))?;
    /// prices.insert("tea", &3)?;
    /// # Ok::<(), procession::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Bind`] when somebody listens there already; [`Error::BeyondLoopback`] for an endpoint that other machines can reach, without keys;
    /// [`Error::BadEndpoint`].
    pub fn bind(endpoint: impl AsRef<str>) -> Result<Self> {
        Self::host(endpoint.as_ref(), false, random_id()?, None)
    }

    /// The same, also where other machines can reach it. Nothing is encrypted and nobody is asked who they are: whoever reaches the endpoint can read and change
    /// everything, and call the methods of registered types. Others need `insecure=true` in their URL.
    ///
    /// # Errors
    /// As [`bind`](Self::bind), less [`Error::BeyondLoopback`].
    pub fn bind_insecure(endpoint: impl AsRef<str>) -> Result<Self> {
        Self::host(endpoint.as_ref(), true, random_id()?, None)
    }

    fn host(endpoint: &str, insecure: bool, life: u64, dir: Option<RuntimeDir>) -> Result<Self> {
        let host = Arc::new(Host::new(endpoint, insecure, life, dir)?);
        let bound = host.endpoint().clone().with_host_if_any(&host_name());
        let mut url = bound.to_string();
        if insecure {
            url.push_str("?insecure=true");
        }
        let address: Address = url.parse()?;
        let here = Here::new(Arc::clone(&host), address.shown.clone());
        let store = Store::new(Box::new(here), address.shown, address.patience, Some(life));
        let store = shared(&url, Some(life), || Ok(store))?;
        let caller = caller_of(life, || Caller::Here(Arc::clone(&host)));
        Ok(Self {
            host,
            store,
            caller,
            url,
        })
    }

    /// The URL of what has that name: for `Dict::open` and its like, and, with the name of a type, for [`Proxy::open`].
    #[must_use]
    pub fn url(&self, name: &str) -> String {
        let sign = if self.url.contains('?') { '&' } else { '?' };
        format!("{}{sign}name={name}", self.url)
    }

    fn object(&self, kind: &str) -> Result<Object> {
        // Without a name that others could guess by accident.
        let name = format!("{:016x}", random_id()?);
        let store = Arc::clone(&self.store);
        Ok(Object::new(store, &self.url, kind, &name))
    }

    /// A new dictionary. Pass its handle to others; where they only have the URL, all open [`url`](Self::url)`("NAME")` instead, here as well.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn dict<K, V>(&self) -> Result<Dict<K, V>> {
        Ok(Dict::of_object(self.object("dict")?))
    }

    /// A new list.
    ///
    /// # Errors
    /// As [`dict`](Self::dict).
    pub fn list<T>(&self) -> Result<List<T>> {
        Ok(List::of_object(self.object("list")?))
    }

    /// A new counter.
    ///
    /// # Errors
    /// As [`dict`](Self::dict).
    pub fn counter(&self) -> Result<Counter> {
        Ok(Counter::of_object(self.object("counter")?))
    }

    /// A new namespace.
    ///
    /// # Errors
    /// As [`dict`](Self::dict).
    pub fn namespace(&self) -> Result<Namespace> {
        Ok(Namespace::of_object(self.object("namespace")?))
    }

    /// From now on others can call the methods of this type, by [`Proxy`].
    ///
    /// # Errors
    /// [`Error::BadHandle`] when there is a type of that name already.
    pub fn register<T: Send + 'static>(&self, remote: Remote<T>) -> Result<()> {
        let registered = self.host.state.register(Arc::new(remote));
        registered.map_err(|why| Error::BadHandle {
            endpoint: self.store.shown.clone(),
            why,
        })
    }

    /// The one object of a registered type that all share; made at its first use.
    ///
    /// # Errors
    /// [`Error::BadHandle`] when there is no such type, with those that there are, or making it panicked.
    pub fn proxy(&self, type_name: &str) -> Result<Proxy> {
        let caller = Arc::clone(&self.caller);
        Proxy::shared(caller, &self.url, self.host.life, type_name.to_owned())
    }

    /// A new object of a registered type: Python's `manager.TypeName()`. It is there until it is [removed](Proxy::remove).
    ///
    /// # Errors
    /// As [`proxy`](Self::proxy).
    pub fn create(&self, type_name: &str) -> Result<Proxy> {
        let caller = Arc::clone(&self.caller);
        Proxy::created(caller, &self.url, self.host.life, type_name.to_owned())
    }

    /// How many bytes its dictionaries, lists, counters and namespaces may take, about; beyond that, writes are errors. 1 GiB unless this is called.
    pub fn limit(&self, bytes: usize) {
        self.host.state.set_limit(bytes);
    }
}

impl fmt::Debug for Manager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Manager")
            .field("at", &self.store.shown)
            .finish_non_exhaustive()
    }
}
