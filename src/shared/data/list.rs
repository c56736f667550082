//! [`List`]: Python's `Manager().list()`.

use std::collections::VecDeque;
use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::dict::Rows;
use super::link::{Life, MOST_WRITES, Row, Write};
use super::object::{Object, Step, decode, encode, handle};
use super::watch::{Raw, Watch};
use crate::bytes::Bytes;
use crate::error::{Error, Result};

/// MessagePack's nil: the key of a list's [`Head`].
const HEAD: u8 = 0xc0;
/// MessagePack's `uint 64`, in front of the positions of elements: all as long as each other, so that they are in order, and behind the head.
const POSITION: u8 = 0xcf;
/// Where the first element of all is, so that there is room in front.
const MIDDLE: u64 = 1 << 63;
/// So many elements are moved in one step: with them the head and one more element are written.
const MOST_MOVED: u64 = MOST_WRITES as u64 - 2;
/// One commit of many new elements.
const BATCH: usize = 4096;
const BATCH_BYTES: usize = 16 << 20;

/// Where the elements are: without gaps from the first on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Head {
    first: u64,
    len: u64,
}

const EMPTY: Head = Head {
    first: MIDDLE,
    len: 0,
};

/// A list that many processes, on many hosts, read and change at once.
///
/// ```
/// use procession::shared::Manager;
///
/// let manager = Manager::new()?;
/// let names = manager.list::<String>()?; // or List::open("sqlite:names.db?name=names")
/// names.push("Ada")?;
/// names.extend(["Grace", "Edsger"])?;
/// assert_eq!(names.get(1)?.as_deref(), Some("Grace"));
/// assert_eq!(names.remove(0)?.as_deref(), Some("Ada"));
/// assert_eq!(names.to_vec()?, ["Grace", "Edsger"]);
/// # Ok::<(), procession::Error>(())
/// ```
///
/// Each change is one step, and done wholly or not at all. At both ends it costs the same however long the list is; in the middle, the shorter side is moved, which is
/// possible for up to 9,998 elements. It is no queue: who takes from it has to come back again and again, and what it has taken is lost when it dies; take a
/// [`JoinableQueue`](crate::JoinableQueue). When it fails: as a [`Dict`](super::Dict#when-it-fails).
pub struct List<T> {
    object: Object,
    /// As it was seen last: a guess where an element is.
    seen: Arc<Mutex<Head>>,
    types: PhantomData<fn(T) -> T>,
}

handle!(List<T>, "list");

fn head_key() -> Bytes {
    Bytes::from(vec![HEAD])
}

fn key(position: u64) -> Bytes {
    let mut key = vec![POSITION];
    key.extend_from_slice(&position.to_be_bytes());
    Bytes::from(key)
}

fn set(key: Bytes, value: Bytes) -> Write {
    Write {
        key,
        value: Some(value),
        life: Life::AsBefore,
    }
}

fn gone(position: u64) -> Write {
    Write {
        key: key(position),
        value: None,
        life: Life::Forever,
    }
}

impl Head {
    fn of(row: Option<&Row>) -> Result<Self> {
        let Some(row) = row else { return Ok(EMPTY) };
        let (first, len): (u64, u64) = decode(&row.value)?;
        // One step further in either direction has to be a position, too.
        match first.checked_add(len) {
            Some(end) if first > 0 && end < u64::MAX => Ok(Self { first, len }),
            _ => Err(Error::Encoding {
                what: "the head of a shared list".to_owned(),
                why: format!("it says {len} elements from position {first} on"),
            }),
        }
    }

    fn write(self) -> Result<Write> {
        Ok(set(head_key(), encode(&(self.first, self.len))?))
    }

    /// The position of an element, or of what would be behind the last.
    const fn position(self, index: u64) -> u64 {
        self.first.saturating_add(index)
    }
}

impl<T> List<T> {
    pub(super) fn of_object(object: Object) -> Self {
        Self {
            object,
            seen: Arc::new(Mutex::new(EMPTY)),
            types: PhantomData,
        }
    }

    fn seen(&self) -> Head {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn see(&self, head: Head) -> Head {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = head;
        head
    }

    fn head(&self) -> Result<Head> {
        let row = self.object.read_one(head_key())?;
        Ok(self.see(Head::of(row.as_ref())?))
    }

    /// How many elements it has.
    ///
    /// # Errors
    /// As [`Dict`](super::Dict#when-it-fails).
    pub fn len(&self) -> Result<usize> {
        Ok(self.head()?.len as usize)
    }

    /// Whether it has no elements.
    ///
    /// # Errors
    /// As [`Dict`](super::Dict#when-it-fails).
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.head()?.len == 0)
    }

    /// Removes all elements, in one step.
    ///
    /// # Errors
    /// As [`Dict`](super::Dict#when-it-fails).
    pub fn clear(&self) -> Result<()> {
        self.object.write(true, Vec::new())
    }

    fn none(&self, index: usize, len: u64) -> Error {
        Error::SharedData {
            at: self.object.shown(),
            why: format!("the list has {len} elements, and none with index {index}"),
        }
    }

    fn too_many(&self, count: u64) -> Error {
        Error::SharedData {
            at: self.object.shown(),
            why: format!(
                "{count} elements would have to move, and {MOST_MOVED} may in one step: change the list at its ends, or take a Dict"
            ),
        }
    }

    fn missing(&self, position: u64) -> Error {
        Error::Encoding {
            what: format!("the shared list at {}", self.object.shown()),
            why: format!(
                "there is nothing at position {position}, where an element should be; something else has written there"
            ),
        }
    }

    /// Changes what is at some positions, which `wants` says: head and rows of these positions are of one moment when `change` is called.
    fn change<R>(
        &self,
        guess: impl Fn(Head) -> Vec<u64>,
        mut change: impl FnMut(Head, &[Option<Row>]) -> Result<Step<R>>,
    ) -> Result<R> {
        let keys = |positions: &[u64]| -> Vec<Bytes> {
            let elements = positions.iter().map(|position| key(*position));
            std::iter::once(head_key()).chain(elements).collect()
        };
        let mut read = guess(self.seen());
        self.object.change(keys(&read), |rows| {
            let (head, elements) = match rows.split_first() {
                Some((head, elements)) => (head.as_ref(), elements),
                None => (None, rows),
            };
            let head = self.see(Head::of(head)?);
            let wanted = guess(head);
            if wanted != read {
                let step = Step::Read(keys(&wanted));
                read = wanted;
                return Ok(step);
            }
            change(head, elements)
        })
    }
}

impl<T: Serialize + DeserializeOwned> List<T> {
    /// The element with that index, or `None` behind the last.
    ///
    /// # Errors
    /// As [`Dict`](super::Dict#when-it-fails).
    pub fn get(&self, index: usize) -> Result<Option<T>> {
        self.change(
            |head| vec![head.position(index as u64)],
            |head, rows| match rows {
                _ if index as u64 >= head.len => Ok(Step::Leave(None)),
                [Some(row)] => Ok(Step::Leave(Some(decode(&row.value)?))),
                _ => Err(self.missing(head.position(index as u64))),
            },
        )
    }

    /// Sets the element with that index.
    ///
    /// # Errors
    /// [`Error::SharedData`] when there is none. Otherwise as [`Dict`](super::Dict#when-it-fails).
    pub fn set<W>(&self, index: usize, value: &W) -> Result<()>
    where
        T: std::borrow::Borrow<W>,
        W: Serialize + ?Sized,
    {
        let value = encode(value)?;
        let at = index as u64;
        self.change(
            |_| Vec::new(),
            |head, _| match at < head.len {
                true => Ok(Step::write(set(key(head.position(at)), value.clone()), ())),
                false => Err(self.none(index, head.len)),
            },
        )
    }

    /// Makes of the element with that index what `change` makes of it, as one step: called again when somebody else was faster. What it has become, or
    /// `None` if there is no such element.
    ///
    /// ```
    /// # let manager = procession::shared::Manager::new()?;
    /// let sums = manager.list::<u64>()?;
    /// sums.extend([0, 0])?;
    /// assert_eq!(sums.update(1, |sum| sum + 5)?, Some(5));
    /// # Ok::<(), procession::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Dict`](super::Dict#when-it-fails).
    pub fn update(&self, index: usize, mut change: impl FnMut(T) -> T) -> Result<Option<T>> {
        self.change(
            |head| vec![head.position(index as u64)],
            |head, rows| match rows {
                _ if index as u64 >= head.len => Ok(Step::Leave(None)),
                [Some(row)] => {
                    let after = change(decode(&row.value)?);
                    let write = set(key(head.position(index as u64)), encode(&after)?);
                    Ok(Step::write(write, Some(after)))
                }
                _ => Err(self.missing(head.position(index as u64))),
            },
        )
    }

    /// Sets the element with that index to `new` if it is `current`, as one step; whether it was. Compared by their encoding.
    ///
    /// # Errors
    /// As [`Dict`](super::Dict#when-it-fails).
    #[doc(alias = "compare_exchange")]
    pub fn compare_and_swap(&self, index: usize, current: &T, new: &T) -> Result<bool> {
        let (current, new) = (encode(current)?, encode(new)?);
        self.change(
            |head| vec![head.position(index as u64)],
            |head, rows| match rows {
                [Some(row)] if (index as u64) < head.len && row.value == current => {
                    let write = set(key(head.position(index as u64)), new.clone());
                    Ok(Step::write(write, true))
                }
                _ => Ok(Step::Leave(false)),
            },
        )
    }

    /// Puts an element behind the last; its index.
    ///
    /// # Errors
    /// As [`Dict`](super::Dict#when-it-fails).
    #[doc(alias = "append")]
    pub fn push<W>(&self, value: &W) -> Result<usize>
    where
        T: std::borrow::Borrow<W>,
        W: Serialize + ?Sized,
    {
        let value = encode(value)?;
        self.append(std::slice::from_ref(&value))
    }

    /// Puts elements behind the last one, in this order. Up to 4,096 of them, or 16 MiB, are one step; others may come in between two steps.
    ///
    /// # Errors
    /// As [`Dict`](super::Dict#when-it-fails); the steps before it were done.
    pub fn extend<W: Serialize>(&self, values: impl IntoIterator<Item = W>) -> Result<()> {
        let mut batch = Vec::new();
        let mut bytes = 0;
        for value in values {
            let value = encode(&value)?;
            if batch.len() == BATCH || bytes + value.len() > BATCH_BYTES {
                self.append(&batch)?;
                batch.clear();
                bytes = 0;
            }
            bytes += value.len();
            batch.push(value);
        }
        match batch.is_empty() {
            true => Ok(()),
            false => self.append(&batch).map(drop),
        }
    }

    fn append(&self, values: &[Bytes]) -> Result<usize> {
        self.change(
            |_| Vec::new(),
            |head, _| {
                let last = head.first.checked_add(head.len);
                let last = last.and_then(|last| last.checked_add(values.len() as u64));
                let Some(last) = last else {
                    return Err(self.none(usize::MAX, head.len));
                };
                let longer = Head {
                    len: last - head.first,
                    ..head
                };
                let mut writes = vec![longer.write()?];
                for (value, index) in values.iter().zip(head.len..) {
                    writes.push(set(key(head.position(index)), value.clone()));
                }
                self.see(longer);
                Ok(Step::Commit {
                    clears: false,
                    writes,
                    value: head.len as usize,
                })
            },
        )
    }

    /// Takes the last element out, if there is one. Of many who try it at once, each gets another one.
    ///
    /// # Errors
    /// As [`Dict`](super::Dict#when-it-fails).
    pub fn pop(&self) -> Result<Option<T>> {
        self.take(|len| len.checked_sub(1))
    }

    /// Takes the element with that index out; those behind it move up. `None` if there is none.
    ///
    /// # Errors
    /// As [`Dict`](super::Dict#when-it-fails); [`Error::SharedData`] also when there are more than 9,998 elements, or 64 MiB of them, on either side of it.
    pub fn remove(&self, index: usize) -> Result<Option<T>> {
        self.take(|len| Some(index as u64).filter(|index| *index < len))
    }

    fn take(&self, which: impl Fn(u64) -> Option<u64>) -> Result<Option<T>> {
        let taken = self.change(
            |head| match which(head.len) {
                Some(index) => {
                    let moved = Moved::by(head, index, head.len - 1 - index);
                    std::iter::once(head.position(index))
                        .chain(moved.positions())
                        .collect()
                }
                None => Vec::new(),
            },
            |head, rows| {
                let Some(index) = which(head.len) else {
                    return Ok(Step::Leave(None));
                };
                let moved = Moved::by(head, index, head.len - 1 - index);
                if moved.count > MOST_MOVED {
                    return Err(self.too_many(moved.count));
                }
                let Some((Some(taken), rest)) = rows.split_first() else {
                    return Err(self.missing(head.position(index)));
                };
                // Those before it move back by one, or those behind it forward.
                let shorter = Head {
                    first: head.first + u64::from(moved.is_front),
                    len: head.len - 1,
                };
                let mut writes = vec![shorter.write()?];
                for (row, position) in rest.iter().zip(moved.positions()) {
                    let row = row.as_ref().ok_or_else(|| self.missing(position))?;
                    let to = if moved.is_front {
                        position + 1
                    } else {
                        position - 1
                    };
                    writes.push(set(key(to), row.value.clone()));
                }
                writes.push(gone(match moved.is_front {
                    true => head.first,
                    false => head.position(head.len - 1),
                }));
                self.see(shorter);
                Ok(Step::Commit {
                    clears: false,
                    writes,
                    value: Some(taken.value.clone()),
                })
            },
        )?;
        taken.map(|value| decode(&value)).transpose()
    }

    /// Puts an element in front of the one with that index, which is then behind it; with the list's length, behind the last.
    ///
    /// # Errors
    /// [`Error::SharedData`] when the list is shorter, and when there are more than 9,998 elements, or 64 MiB of them, on either side.
    /// Otherwise as [`Dict`](super::Dict#when-it-fails).
    pub fn insert<W>(&self, index: usize, value: &W) -> Result<()>
    where
        T: std::borrow::Borrow<W>,
        W: Serialize + ?Sized,
    {
        let value = encode(value)?;
        let at = index as u64;
        let moved = |head: Head| Moved::by(head, at.min(head.len), head.len - at.min(head.len));
        self.change(
            |head| moved(head).positions().collect(),
            |head, rows| {
                if at > head.len {
                    return Err(self.none(index, head.len));
                }
                let moved = moved(head);
                if moved.count > MOST_MOVED {
                    return Err(self.too_many(moved.count));
                }
                let longer = Head {
                    first: head.first - u64::from(moved.is_front),
                    len: head.len + 1,
                };
                let mut writes = vec![longer.write()?];
                for (row, position) in rows.iter().zip(moved.positions()) {
                    let row = row.as_ref().ok_or_else(|| self.missing(position))?;
                    let to = if moved.is_front {
                        position - 1
                    } else {
                        position + 1
                    };
                    writes.push(set(key(to), row.value.clone()));
                }
                writes.push(set(key(longer.position(at)), value.clone()));
                self.see(longer);
                Ok(Step::Commit {
                    clears: false,
                    writes,
                    value: (),
                })
            },
        )
    }

    /// Puts these elements in place of all that are there, in one step. Up to 9,999 of them.
    ///
    /// ```
    /// # let manager = procession::shared::Manager::new()?;
    /// let numbers = manager.list::<u8>()?;
    /// numbers.extend([3, 1, 2])?;
    /// let mut sorted = numbers.to_vec()?;
    /// sorted.sort();
    /// numbers.replace(&sorted)?;
    /// assert_eq!(numbers.to_vec()?, [1, 2, 3]);
    /// # Ok::<(), procession::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Dict`](super::Dict#when-it-fails).
    pub fn replace(&self, values: &[T]) -> Result<()> {
        let head = Head {
            len: values.len() as u64,
            ..EMPTY
        };
        let mut writes = vec![head.write()?];
        for (value, index) in values.iter().zip(0..) {
            writes.push(set(key(head.position(index)), encode(value)?));
        }
        self.object.write(true, writes)
    }

    /// All elements, in order, in pages: each page is of one moment, and what changes meanwhile may be seen or not. Where elements are moved meanwhile
    /// ([`insert`](Self::insert), [`remove`](Self::remove) in the middle), one may be seen twice or left out.
    #[must_use]
    pub fn iter(&self) -> ListIter<T> {
        ListIter {
            rows: Rows::behind(self.object.clone(), Some(head_key())),
            types: PhantomData,
        }
    }

    /// All elements, as [`iter`](Self::iter) finds them.
    ///
    /// # Errors
    /// As [`Dict`](super::Dict#when-it-fails).
    pub fn to_vec(&self) -> Result<Vec<T>> {
        self.iter().collect()
    }

    /// Tells that it has changed, from now on, with its length at that time. Several changes may be told as one.
    ///
    /// # Errors
    /// As [`Dict`](super::Dict#when-it-fails).
    pub fn watch(&self) -> Result<Watch<usize>> {
        Watch::new(self.object.clone(), next_len)
    }
}

fn next_len(object: &Object, ready: &mut VecDeque<Raw>) -> Result<Option<usize>> {
    // What has come is older than what is there now.
    ready.clear();
    let row = object.read_one(head_key())?;
    Ok(Some(Head::of(row.as_ref())?.len as usize))
}

/// Which elements move when there is one more or less between two parts of a list: those of the shorter part.
struct Moved {
    is_front: bool,
    from: u64,
    count: u64,
}

impl Moved {
    /// `before` elements are in front of the place, and `behind` elements behind it.
    const fn by(head: Head, before: u64, behind: u64) -> Self {
        if before < behind {
            return Self {
                is_front: true,
                from: head.first,
                count: before,
            };
        }
        Self {
            is_front: false,
            from: head.position(head.len - behind),
            count: behind,
        }
    }

    /// Too many are not even asked for.
    fn positions(&self) -> impl Iterator<Item = u64> + use<> {
        self.from..self.from.saturating_add(self.count.min(MOST_MOVED + 1))
    }
}

/// The elements of a [`List`]; see [`List::iter`].
pub struct ListIter<T> {
    rows: Rows,
    types: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Iterator for ListIter<T> {
    type Item = Result<T>;

    fn next(&mut self) -> Option<Self::Item> {
        let row = self.rows.next()?;
        Some(row.and_then(|(_, value)| decode(&value)))
    }
}

impl<T> fmt::Debug for ListIter<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ListIter").finish_non_exhaustive()
    }
}
