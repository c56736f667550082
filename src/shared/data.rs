//! Data that processes on any number of hosts share, by URL (docs/shared-data.md).
//!
//! | file | what it is |
//! |---|---|
//! | `data/dict`, `list`, `counter`, `namespace`, `watch` | what a program sees |
//! | `data/object` | one named thing in a store; a change that is tried again when others were faster |
//! | `data/address` | URLs (pure) |
//! | `data/link` | what a store can do: the trait that all of them implement |
//! | `data/store` | the connections of this process to one store, and what is done when one is lost |
//! | `data/table`, `host`, `talk`, `hosted` | data that a process of ours holds: rows in memory (pure), the thread that serves them, what is said, who asks |
//! | `data/sqlite`, `redis`, `postgres` | data that a file or a server holds |
//! | `data/manager`, `remote`, `proxy` | the process that holds data; objects of the user's types, and their callers |

mod address;
mod counter;
mod dict;
mod host;
mod hosted;
mod link;
mod list;
mod manager;
mod namespace;
mod object;
#[cfg(feature = "postgres")]
mod postgres;
mod proxy;
#[cfg(feature = "redis")]
mod redis;
mod remote;
mod sqlite;
mod store;
mod table;
mod talk;
mod watch;

pub use counter::Counter;
pub use dict::{Dict, Iter};
pub use list::{List, ListIter};
pub use manager::Manager;
pub use namespace::{Attribute, Namespace};
pub use proxy::Proxy;
pub use remote::{Changing, Looking, Method, Remote};
pub use watch::{Change, Watch};
