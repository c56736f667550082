//! [`Dict`]: Python's `Manager().dict()`.

use std::borrow::Borrow;
use std::collections::VecDeque;
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::link::{Life, Page, Write};
use super::object::{Object, Step, decode, decode_row, encode, handle};
use super::watch::{Change, Raw, Watch};
use crate::bytes::Bytes;
use crate::error::Result;

/// A dictionary that many processes, on many hosts, read and change at once.
///
/// ```
/// use procession::Process;
/// use procession::shared::{Dict, Manager};
///
/// #[procession::task]
/// fn count_words(words: Vec<String>, counts: Dict<String, u64>) -> procession::Result<()> {
///     for word in words {
///         // Read, changed and written as one: nobody comes in between.
///         counts.update(&word, |count| Some(count.unwrap_or(0) + 1))?;
///     }
///     Ok(())
/// }
///
/// #[procession::main]
/// fn main() -> procession::Result<()> {
///     // Or Dict::open("redis://127.0.0.1/0?name=counts"), "sqlite:counts.db?name=counts", …
///     let manager = Manager::new()?;
///     let counts = manager.dict()?;
///     let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
///     let one = Process::spawn(count_words, (words("to be or"), counts.clone()))?;
///     let other = Process::spawn(count_words, (words("not to be"), counts.clone()))?;
///     one.join()?;
///     other.join()?;
///     assert_eq!(counts.get("be")?, Some(2));
///     assert_eq!(counts.len()?, 4);
///     Ok(())
/// }
/// ```
///
/// Keys and values are of any type that serde knows; they are kept as MessagePack, and **keys are compared by their bytes**. Each method asks the store, which costs a
/// round trip: nothing is kept here. A clone is the same dictionary, and so is what another process makes of its encoding, in which the URL is **with its password**.
///
/// One key at a time is changed, wholly or not at all, whoever is killed when. Where two must be changed together, let them be fields of one value. What the
/// stores promise: docs/shared-data.md.
///
/// # When it fails
/// Each method may fail with [`Error::SharedData`](crate::Error::SharedData) when the store is lost and not found again in time (10 s, unless the URL says
/// `patience=`), and when it refuses something; with [`Error::ManagerGone`](crate::Error::ManagerGone) when the process that held the data has ended; with
/// [`Error::Encoding`](crate::Error::Encoding) when what is there is not of these types; those that change something also with
/// [`Error::FateUnknown`](crate::Error::FateUnknown) when the store was lost before it answered and is not there again, and [`Error::TooLong`](crate::Error::TooLong).
pub struct Dict<K, V> {
    object: Object,
    types: Types<K, V>,
}

/// A handle can be sent whatever its types are: it has no values.
type Types<K, V> = PhantomData<fn(K, V) -> (K, V)>;

handle!(Dict<K, V>, "dict");

impl<K, V> Dict<K, V> {
    pub(super) const fn of_object(object: Object) -> Self {
        Self {
            object,
            types: PhantomData,
        }
    }

    /// How many keys it has.
    ///
    /// # Errors
    /// See [there](Self#when-it-fails).
    pub fn len(&self) -> Result<usize> {
        Ok(usize::try_from(self.object.count()?).unwrap_or(usize::MAX))
    }

    /// Whether it has no keys.
    ///
    /// # Errors
    /// See [there](Self#when-it-fails).
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.object.count()? == 0)
    }

    /// Removes everything, in one step.
    ///
    /// # Errors
    /// See [there](Self#when-it-fails).
    pub fn clear(&self) -> Result<()> {
        self.object.write(true, Vec::new())
    }
}

impl<K: Serialize + DeserializeOwned, V: Serialize + DeserializeOwned> Dict<K, V> {
    /// The value of a key.
    ///
    /// # Errors
    /// See [there](Self#when-it-fails).
    pub fn get<Q: Serialize + ?Sized>(&self, key: &Q) -> Result<Option<V>>
    where
        K: Borrow<Q>,
    {
        decode_row(self.object.read_one(encode(key)?)?.as_ref())
    }

    /// Whether there is such a key.
    ///
    /// # Errors
    /// See [there](Self#when-it-fails).
    #[doc(alias = "contains_key")]
    pub fn contains<Q: Serialize + ?Sized>(&self, key: &Q) -> Result<bool>
    where
        K: Borrow<Q>,
    {
        Ok(self.object.read_one(encode(key)?)?.is_some())
    }

    /// Sets the value of a key, whatever it was. It does not expire.
    ///
    /// ```
    /// # let manager = procession::shared::Manager::new()?;
    /// let prices = manager.dict::<String, u32>()?;
    /// prices.insert("tea", &3)?;
    /// assert_eq!(prices.get("tea")?, Some(3));
    /// # Ok::<(), procession::Error>(())
    /// ```
    ///
    /// # Errors
    /// See [there](Self#when-it-fails).
    #[doc(alias = "set")]
    pub fn insert<Q, W>(&self, key: &Q, value: &W) -> Result<()>
    where
        K: Borrow<Q>,
        V: Borrow<W>,
        Q: Serialize + ?Sized,
        W: Serialize + ?Sized,
    {
        self.put(key, value, Life::Forever)
    }

    /// Sets the value of a key that is removed by itself after so long, in milliseconds, by the store's clock.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # let manager = procession::shared::Manager::new()?;
    /// let seen = manager.dict::<String, ()>()?;
    /// seen.insert_with_expiry("worker-1", &(), Duration::from_secs(60))?;
    /// assert!(seen.expires_in("worker-1")? > Some(Duration::from_secs(50)));
    /// # Ok::<(), procession::Error>(())
    /// ```
    ///
    /// # Errors
    /// See [there](Self#when-it-fails).
    pub fn insert_with_expiry<Q, W>(&self, key: &Q, value: &W, after: Duration) -> Result<()>
    where
        K: Borrow<Q>,
        V: Borrow<W>,
        Q: Serialize + ?Sized,
        W: Serialize + ?Sized,
    {
        self.put(key, value, Life::For(after))
    }

    fn put<Q, W>(&self, key: &Q, value: &W, life: Life) -> Result<()>
    where
        Q: Serialize + ?Sized,
        W: Serialize + ?Sized,
    {
        let write = Write {
            key: encode(key)?,
            value: Some(encode(value)?),
            life,
        };
        self.object.write(false, vec![write])
    }

    /// Sets the value of a key if it has none; whether it had none. Python's `setdefault`: of many who try it at once, it is true for one.
    ///
    /// # Errors
    /// See [there](Self#when-it-fails).
    #[doc(alias = "setdefault")]
    pub fn insert_if_absent<Q, W>(&self, key: &Q, value: &W) -> Result<bool>
    where
        K: Borrow<Q>,
        V: Borrow<W>,
        Q: Serialize + ?Sized,
        W: Serialize + ?Sized,
    {
        let (key, value) = (encode(key)?, encode(value)?);
        self.object.change(vec![key.clone()], |rows| {
            Ok(match rows {
                [Some(_)] => Step::Leave(false),
                _ => Step::write(
                    Write {
                        key: key.clone(),
                        value: Some(value.clone()),
                        life: Life::Forever,
                    },
                    true,
                ),
            })
        })
    }

    /// Removes a key; the value that it had. Of many who try it at once, one has the value.
    ///
    /// # Errors
    /// See [there](Self#when-it-fails).
    #[doc(alias = "pop")]
    pub fn remove<Q: Serialize + ?Sized>(&self, key: &Q) -> Result<Option<V>>
    where
        K: Borrow<Q>,
    {
        let key = encode(key)?;
        let removed = self.object.change(vec![key.clone()], |rows| {
            Ok(match rows {
                [Some(row)] => Step::write(removal(&key), Some(row.value.clone())),
                _ => Step::Leave(None),
            })
        })?;
        removed.map(|value| decode(&value)).transpose()
    }

    /// Makes of the value of a key what `change` makes of it, as one step: if somebody else changes it meanwhile, `change` is called again, with
    /// what is there then. `None` stands for a key that is not there. What it has become.
    ///
    /// ```
    /// # let manager = procession::shared::Manager::new()?;
    /// let stock = manager.dict::<String, u32>()?;
    /// stock.insert("tea", &1)?;
    /// let take = |left: Option<u32>| left?.checked_sub(1).filter(|left| *left > 0);
    /// assert_eq!(stock.update("tea", take)?, None, "none is left, and the key is removed");
    /// assert!(!stock.contains("tea")?);
    /// # Ok::<(), procession::Error>(())
    /// ```
    ///
    /// When it expires stays as it was. If `change` panics, nothing is changed.
    ///
    /// # Errors
    /// See [there](Self#when-it-fails); [`Error::SharedData`](crate::Error::SharedData) also when others were faster for 30 s.
    pub fn update<Q: Serialize + ?Sized>(
        &self,
        key: &Q,
        mut change: impl FnMut(Option<V>) -> Option<V>,
    ) -> Result<Option<V>>
    where
        K: Borrow<Q>,
    {
        let key = encode(key)?;
        self.object.change(vec![key.clone()], |rows| {
            let row = rows.first().and_then(Option::as_ref);
            let before = decode_row(row)?;
            Ok(match (change(before), row) {
                (None, None) => Step::Leave(None),
                (None, Some(_)) => Step::write(removal(&key), None),
                (Some(after), row) => {
                    let value = encode(&after)?;
                    match row {
                        Some(row) if row.value == value => Step::Leave(Some(after)),
                        _ => Step::write(
                            Write {
                                key: key.clone(),
                                value: Some(value),
                                life: Life::AsBefore,
                            },
                            Some(after),
                        ),
                    }
                }
            })
        })
    }

    /// Sets the value of a key to `new` if it is `current`, as one step; whether it was. `None` stands for a key that is not there. Values are compared
    /// by their encoding. When it expires stays as it was.
    ///
    /// ```
    /// # let manager = procession::shared::Manager::new()?;
    /// let leader = manager.dict::<String, u32>()?;
    /// assert!(leader.compare_and_swap("leader", None, Some(&1))?);
    /// assert!(!leader.compare_and_swap("leader", None, Some(&2))?);
    /// assert!(leader.compare_and_swap("leader", Some(&1), None)?);
    /// # Ok::<(), procession::Error>(())
    /// ```
    ///
    /// # Errors
    /// See [there](Self#when-it-fails).
    #[doc(alias = "compare_exchange")]
    pub fn compare_and_swap<Q: Serialize + ?Sized>(
        &self,
        key: &Q,
        current: Option<&V>,
        new: Option<&V>,
    ) -> Result<bool>
    where
        K: Borrow<Q>,
    {
        let key = encode(key)?;
        let current = current.map(encode).transpose()?;
        let new = new.map(encode).transpose()?;
        self.object.change(vec![key.clone()], |rows| {
            let row = rows.first().and_then(Option::as_ref);
            if row.map(|row| &row.value) != current.as_ref() {
                return Ok(Step::Leave(false));
            }
            if current == new {
                return Ok(Step::Leave(true));
            }
            let write = Write {
                key: key.clone(),
                value: new.clone(),
                life: Life::AsBefore,
            };
            Ok(Step::write(write, true))
        })
    }

    /// Has a key removed by itself after so long; whether there is such a key.
    ///
    /// # Errors
    /// See [there](Self#when-it-fails).
    pub fn expire<Q: Serialize + ?Sized>(&self, key: &Q, after: Duration) -> Result<bool>
    where
        K: Borrow<Q>,
    {
        self.live(encode(key)?, Life::For(after))
    }

    /// Has a key not removed by itself any more; whether there is such a key.
    ///
    /// # Errors
    /// See [there](Self#when-it-fails).
    pub fn persist<Q: Serialize + ?Sized>(&self, key: &Q) -> Result<bool>
    where
        K: Borrow<Q>,
    {
        self.live(encode(key)?, Life::Forever)
    }

    fn live(&self, key: Bytes, life: Life) -> Result<bool> {
        self.object.change(vec![key.clone()], |rows| {
            Ok(match rows {
                [Some(row)] => Step::write(
                    Write {
                        key: key.clone(),
                        value: Some(row.value.clone()),
                        life,
                    },
                    true,
                ),
                _ => Step::Leave(false),
            })
        })
    }

    /// In how long a key will be removed by itself; `None` if it is not there or stays.
    ///
    /// # Errors
    /// See [there](Self#when-it-fails).
    pub fn expires_in<Q: Serialize + ?Sized>(&self, key: &Q) -> Result<Option<Duration>>
    where
        K: Borrow<Q>,
    {
        let row = self.object.read_one(encode(key)?)?;
        Ok(row.and_then(|row| row.left))
    }

    /// All keys and values, in pages: what was there all the time is seen exactly once, what came or went meanwhile perhaps. In no order that says anything.
    ///
    /// ```
    /// # let manager = procession::shared::Manager::new()?;
    /// use std::collections::HashMap;
    /// let prices = manager.dict::<String, u32>()?;
    /// prices.insert("tea", &3)?;
    /// let all: HashMap<String, u32> = prices.iter().collect::<procession::Result<_>>()?;
    /// assert_eq!(all["tea"], 3);
    /// # Ok::<(), procession::Error>(())
    /// ```
    ///
    /// Each item is an error when the store is lost (and then it ends) or something is there that is not of these types.
    #[doc(alias = "items")]
    #[must_use]
    pub fn iter(&self) -> Iter<K, V> {
        Iter {
            rows: Rows::new(self.object.clone()),
            types: PhantomData,
        }
    }

    /// All keys, as [`iter`](Self::iter) finds them.
    pub fn keys(&self) -> impl Iterator<Item = Result<K>> + use<K, V> {
        Rows::new(self.object.clone()).map(|row| decode(&row?.0))
    }

    /// All values, as [`iter`](Self::iter) finds them.
    pub fn values(&self) -> impl Iterator<Item = Result<V>> + use<K, V> {
        Rows::new(self.object.clone()).map(|row| decode(&row?.1))
    }

    /// Tells what changes from now on.
    ///
    /// # Errors
    /// See [there](Self#when-it-fails).
    pub fn watch(&self) -> Result<Watch<Change<K, V>>> {
        Watch::new(self.object.clone(), next_change)
    }
}

fn removal(key: &Bytes) -> Write {
    Write {
        key: key.clone(),
        value: None,
        life: Life::Forever,
    }
}

fn next_change<K: DeserializeOwned, V: DeserializeOwned>(
    _: &Object,
    ready: &mut VecDeque<Raw>,
) -> Result<Option<Change<K, V>>> {
    Ok(match ready.pop_front() {
        None => None,
        Some(Raw::Cleared) => Some(Change::Cleared),
        Some(Raw::Missed) => Some(Change::Missed),
        Some(Raw::Row(key, None)) => Some(Change::Removed { key: decode(&key)? }),
        Some(Raw::Row(key, Some(value))) => Some(Change::Set {
            key: decode(&key)?,
            value: decode(&value)?,
        }),
    })
}

/// The rows of an object, page by page.
pub(super) struct Rows {
    object: Object,
    page: std::vec::IntoIter<(Bytes, Bytes)>,
    after: Option<Bytes>,
    is_over: bool,
}

impl Rows {
    pub(super) fn new(object: Object) -> Self {
        Self::behind(object, None)
    }

    /// Those behind a key.
    pub(super) fn behind(object: Object, after: Option<Bytes>) -> Self {
        Self {
            object,
            page: Vec::new().into_iter(),
            after,
            is_over: false,
        }
    }
}

impl Iterator for Rows {
    type Item = Result<(Bytes, Bytes)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(row) = self.page.next() {
                return Some(Ok(row));
            }
            if self.is_over {
                return None;
            }
            match self.object.scan(self.after.as_ref()) {
                Ok(Page { rows, is_last }) => {
                    self.is_over = is_last || rows.is_empty();
                    self.after = rows.last().map(|(key, _)| key.clone());
                    self.page = rows.into_iter();
                }
                Err(error) => {
                    self.is_over = true;
                    return Some(Err(error));
                }
            }
        }
    }
}

/// The keys and values of a [`Dict`]; see [`Dict::iter`].
pub struct Iter<K, V> {
    rows: Rows,
    types: PhantomData<fn() -> (K, V)>,
}

impl<K: DeserializeOwned, V: DeserializeOwned> Iterator for Iter<K, V> {
    type Item = Result<(K, V)>;

    fn next(&mut self) -> Option<Self::Item> {
        let row = self.rows.next()?;
        Some(row.and_then(|(key, value)| Ok((decode(&key)?, decode(&value)?))))
    }
}

impl<K, V> fmt::Debug for Iter<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Iter").field(&self.rows.object).finish()
    }
}
