//! [`Namespace`]: Python's `Manager().Namespace()`.

use std::collections::VecDeque;
use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::dict::Rows;
use super::link::{Life, Write};
use super::object::{Object, Step, decode, decode_row, encode, handle};
use super::watch::{Change, Raw, Watch};
use crate::bytes::Bytes;
use crate::error::Result;

/// Named attributes, each of a type of its own, that many processes, on many hosts, read and change.
///
/// ```
/// use procession::shared::Manager;
///
/// let manager = Manager::new()?;
/// let settings = manager.namespace()?; // or Namespace::open("sqlite:settings.db?name=settings")
/// settings.set("title", "census")?;
/// settings.set("limits", &(10, 0.5))?;
/// assert_eq!(settings.get::<String>("title")?.as_deref(), Some("census"));
/// assert_eq!(settings.get::<(u32, f64)>("limits")?, Some((10, 0.5)));
/// # Ok::<(), procession::Error>(())
/// ```
///
/// Where all values are of one type, take a [`Dict`](super::Dict), whose type says so. When it fails: as a [`Dict`](super::Dict#when-it-fails).
pub struct Namespace {
    object: Object,
}

handle!(Namespace, "namespace");

/// What an attribute was set to, of a type that only its reader knows.
#[derive(Clone, PartialEq, Eq)]
pub struct Attribute(Bytes);

impl Attribute {
    /// Its value.
    ///
    /// # Errors
    /// [`Error::Encoding`](crate::Error::Encoding) when it is of another type.
    pub fn get<T: DeserializeOwned>(&self) -> Result<T> {
        decode(&self.0)
    }
}

impl fmt::Debug for Attribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Attribute({} bytes)", self.0.len())
    }
}

impl Namespace {
    pub(super) const fn of_object(object: Object) -> Self {
        Self { object }
    }

    /// The value of an attribute; `None` if it is not set.
    ///
    /// # Errors
    /// As [`Dict`](super::Dict#when-it-fails); [`Error::Encoding`](crate::Error::Encoding) when it is of another type.
    pub fn get<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        decode_row(self.object.read_one(encode(name)?)?.as_ref())
    }

    /// Sets an attribute, whatever it was.
    ///
    /// # Errors
    /// As [`Dict`](super::Dict#when-it-fails).
    pub fn set<T: Serialize + ?Sized>(&self, name: &str, value: &T) -> Result<()> {
        let write = Write {
            key: encode(name)?,
            value: Some(encode(value)?),
            life: Life::Forever,
        };
        self.object.write(false, vec![write])
    }

    /// Removes an attribute; whether it was set.
    ///
    /// # Errors
    /// As [`Dict`](super::Dict#when-it-fails).
    pub fn remove(&self, name: &str) -> Result<bool> {
        let key = encode(name)?;
        self.object.change(vec![key.clone()], |rows| {
            Ok(match rows {
                [Some(_)] => Step::write(
                    Write {
                        key: key.clone(),
                        value: None,
                        life: Life::Forever,
                    },
                    true,
                ),
                _ => Step::Leave(false),
            })
        })
    }

    /// Makes of an attribute what `change` makes of it, as one step, as [`Dict::update`](super::Dict::update).
    ///
    /// ```
    /// # let manager = procession::shared::Manager::new()?;
    /// let settings = manager.namespace()?;
    /// let count = |count: Option<u64>| Some(count.unwrap_or(0) + 1);
    /// assert_eq!(settings.update("runs", count)?, Some(1));
    /// # Ok::<(), procession::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Dict`](super::Dict#when-it-fails).
    pub fn update<T: Serialize + DeserializeOwned>(
        &self,
        name: &str,
        change: impl FnMut(Option<T>) -> Option<T>,
    ) -> Result<Option<T>> {
        let dict = super::Dict::<String, T>::of_object(self.object.clone());
        dict.update(name, change)
    }

    /// The names of all attributes that are set.
    ///
    /// # Errors
    /// As [`Dict`](super::Dict#when-it-fails).
    pub fn names(&self) -> Result<Vec<String>> {
        let rows = Rows::new(self.object.clone());
        rows.map(|row| decode(&row?.0)).collect()
    }

    /// Tells which attributes change, from now on.
    ///
    /// ```
    /// # let manager = procession::shared::Manager::new()?;
    /// use procession::shared::Change;
    /// let settings = manager.namespace()?;
    /// let mut changes = settings.watch()?;
    /// settings.set("level", &3)?;
    /// if let Change::Set { key, value } = changes.recv()? {
    ///     assert_eq!((key.as_str(), value.get::<u8>()?), ("level", 3));
    /// }
    /// # Ok::<(), procession::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Dict`](super::Dict#when-it-fails).
    pub fn watch(&self) -> Result<Watch<Change<String, Attribute>>> {
        Watch::new(self.object.clone(), next_change)
    }
}

fn next_change(_: &Object, ready: &mut VecDeque<Raw>) -> Result<Option<Change<String, Attribute>>> {
    Ok(match ready.pop_front() {
        None => None,
        Some(Raw::Cleared) => Some(Change::Cleared),
        Some(Raw::Missed) => Some(Change::Missed),
        Some(Raw::Row(key, None)) => Some(Change::Removed { key: decode(&key)? }),
        Some(Raw::Row(key, Some(value))) => Some(Change::Set {
            key: decode(&key)?,
            value: Attribute(value),
        }),
    })
}
