//! The journal's file: SQLite in WAL mode, held by one connection for as long as it is open.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, ErrorCode, OptionalExtension, params};

use super::Finished;
use super::roll::Digest;
use crate::error::Error;
use crate::hub::ledger::Totals;
use crate::wire::frame::{Kept, TaskId};
use crate::wire::id_set::IdSet;

/// In SQLite's header: what the file is. "Proc".
const APPLICATION: i32 = 0x5072_6f63;
const VERSION: i32 = 1;

/// What every journal has.
const HEADER: &str = "
    CREATE TABLE journal (
        what TEXT NOT NULL,
        run TEXT,
        lives INTEGER NOT NULL DEFAULT 0,
        ended REAL,
        code INTEGER
    );
";

/// `kept` has one row for several tasks that ended alike; a task in two rows counts by the first.
const SCHEMA: &str = "
    CREATE TABLE put (first INTEGER PRIMARY KEY, digests BLOB NOT NULL);
    CREATE TABLE kept (
        first INTEGER NOT NULL,
        count INTEGER NOT NULL,
        exit INTEGER NOT NULL,
        signal INTEGER NOT NULL,
        micros INTEGER NOT NULL
    );
    CREATE TABLE tried (task INTEGER PRIMARY KEY, attempts INTEGER NOT NULL, tries INTEGER NOT NULL);
";

/// Something that happened.
#[derive(Debug)]
pub(crate) enum Record {
    /// New tasks, with the numbers from `first` on.
    Put { first: TaskId, digests: Vec<Digest> },
    /// Results that were kept.
    Kept(Vec<Kept>),
    /// A try that failed, and how many tries are left.
    Tried {
        id: TaskId,
        attempts: u32,
        tries: u32,
    },
}

/// Opens or makes a journal's file, with these tables; nothing in it is changed where it is not a journal of `what`.
pub(super) fn open_file(path: &Path, what: &str, schema: &str) -> Result<Connection, Error> {
    let failed = |error: rusqlite::Error| explain(path, &error);
    let mut db = Connection::open(path).map_err(failed)?;
    // Whoever was killed just now may still be ending.
    db.busy_timeout(Duration::from_millis(300))
        .map_err(failed)?;
    // Before anything is read: from then on nobody else can open it, and no memory needs to be shared.
    db.pragma_update(None, "locking_mode", "EXCLUSIVE")
        .map_err(failed)?;
    let number = |db: &Connection, pragma: &str| {
        db.pragma_query_value(None, pragma, |row| row.get::<_, i32>(0))
    };
    let application = number(&db, "application_id").map_err(failed)?;
    let tables: i64 = db
        .query_row("SELECT count(*) FROM sqlite_master", [], |row| row.get(0))
        .map_err(failed)?;
    if (application, tables) != (0, 0) {
        if application != APPLICATION {
            return Err(not_a_journal(path));
        }
        let version = number(&db, "user_version").map_err(failed)?;
        if version != VERSION {
            return Err(error(
                path,
                format!(
                    "it has format {version}, and this program writes format {VERSION}; go on with the version that made it, or choose another file"
                ),
            ));
        }
    }
    db.pragma_update(None, "journal_mode", "WAL")
        .map_err(failed)?;
    db.pragma_update(None, "synchronous", "NORMAL")
        .map_err(failed)?;
    // 16 MiB at most between two checkpoints.
    db.pragma_update(None, "wal_autocheckpoint", 4096)
        .map_err(failed)?;
    if tables == 0 {
        let making = db.transaction().map_err(failed)?;
        making.execute_batch(HEADER).map_err(failed)?;
        making.execute_batch(schema).map_err(failed)?;
        making
            .execute("INSERT INTO journal (what) VALUES (?1)", [what])
            .map_err(failed)?;
        making
            .pragma_update(None, "application_id", APPLICATION)
            .map_err(failed)?;
        making
            .pragma_update(None, "user_version", VERSION)
            .map_err(failed)?;
        making.commit().map_err(failed)?;
    }
    let is_of: String = db
        .query_row("SELECT what FROM journal", [], |row| row.get(0))
        .map_err(failed)?;
    if is_of != what {
        return Err(error(
            path,
            format!(
                "it is the journal of `{is_of}`, and this is `{what}`; choose another file, or remove it to forget that run"
            ),
        ));
    }
    // It takes the lock for writing, so that a file that is read-only is known now.
    db.execute("UPDATE journal SET what = what", [])
        .map_err(failed)?;
    Ok(db)
}

#[derive(Debug)]
pub(super) struct Store {
    db: Connection,
    path: std::path::PathBuf,
    /// The tasks whose results are recorded as kept.
    done: IdSet,
}

impl Store {
    /// Opens or makes the file; nothing in it is changed where it is not a journal of `what`.
    pub(super) fn open(path: &Path, what: &str) -> Result<Self, Error> {
        let db = open_file(path, what, SCHEMA)?;
        let mut store = Self {
            db,
            path: path.to_owned(),
            done: IdSet::new(),
        };
        store.done = store.read_done().map_err(|error| explain(path, &error))?;
        Ok(store)
    }

    /// From now on each transaction is on the disk before it counts.
    pub(super) fn sync(&mut self) -> Result<(), Error> {
        self.db
            .pragma_update(None, "synchronous", "FULL")
            .map_err(|error| explain(&self.path, &error))
    }

    fn change(&self, statement: &str, values: impl rusqlite::Params) -> rusqlite::Result<usize> {
        self.db.prepare_cached(statement)?.execute(values)
    }

    fn read_done(&self) -> rusqlite::Result<IdSet> {
        let mut statement = self.db.prepare("SELECT first, count FROM kept")?;
        let rows = statement.query_map([], |row| Ok((id(row.get(0)?), id(row.get(1)?))))?;
        rows.collect()
    }

    pub(super) const fn done(&self) -> &IdSet {
        &self.done
    }

    /// How the recorded tasks ended.
    pub(super) fn totals(&self) -> Result<Totals, Error> {
        let mut totals = Totals::default();
        let mut seen = IdSet::new();
        self.each_kept(|kept| {
            let fresh: u64 = seen
                .missing(kept.first, kept.count)
                .iter()
                .map(|&(_, count)| count)
                .sum();
            seen.insert_range(kept.first, kept.count);
            totals.done += fresh;
            totals.failed += if kept.failed() { fresh } else { 0 };
            totals.micros = totals.micros.saturating_add(kept.micros);
        })?;
        Ok(totals)
    }

    /// Gives all that was kept, in the order in which it was.
    pub(super) fn each_kept(&self, mut with: impl FnMut(Kept)) -> Result<(), Error> {
        let mut read = || -> rusqlite::Result<()> {
            let mut statement = self.db.prepare_cached(
                "SELECT first, count, exit, signal, micros FROM kept ORDER BY rowid",
            )?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                with(Kept {
                    first: id(row.get(0)?),
                    count: id(row.get(1)?),
                    attempt: 0,
                    worker: 0,
                    exit: row.get(2)?,
                    signal: row.get(3)?,
                    micros: id(row.get(4)?),
                });
            }
            Ok(())
        };
        read().map_err(|error| explain(&self.path, &error))
    }

    /// The digests of some tasks from `first` on; none behind the last.
    pub(super) fn digests(&self, first: TaskId) -> Result<Vec<Digest>, Error> {
        let row: Option<(i64, Vec<u8>)> = self
            .db
            .prepare_cached(
                "SELECT first, digests FROM put WHERE first <= ?1 ORDER BY first DESC LIMIT 1",
            )
            .and_then(|mut statement| {
                statement
                    .query_row([first as i64], |row| Ok((row.get(0)?, row.get(1)?)))
                    .optional()
            })
            .map_err(|error| explain(&self.path, &error))?;
        let Some((start, blob)) = row else {
            return Ok(Vec::new());
        };
        let (digests, _) = blob.as_chunks::<16>();
        let skip = first.saturating_sub(id(start)) as usize;
        Ok(digests.get(skip..).unwrap_or_default().to_vec())
    }

    /// The number behind that of the last task put.
    pub(super) fn next_id(&self) -> Result<TaskId, Error> {
        self.db
            .query_row(
                "SELECT first + length(digests) / 16 FROM put ORDER BY first DESC LIMIT 1",
                [],
                |row| row.get(0),
            )
            .optional()
            .map(|next| next.map_or(1, id))
            .map_err(|error| explain(&self.path, &error))
    }

    /// Attempts and tries left of tasks that had failed and were to be tried again.
    pub(super) fn tried(&self) -> Result<Vec<(TaskId, u32, u32)>, Error> {
        self.db
            .prepare("SELECT task, attempts, tries FROM tried")
            .and_then(|mut statement| {
                statement
                    .query_map([], |row| Ok((id(row.get(0)?), row.get(1)?, row.get(2)?)))?
                    .collect()
            })
            .map_err(|error| explain(&self.path, &error))
    }

    /// The run's id; 0 while there is none.
    pub(super) fn run(&self) -> Result<u64, Error> {
        let run: Option<String> = self
            .db
            .query_row("SELECT run FROM journal", [], |row| row.get(0))
            .map_err(|error| explain(&self.path, &error))?;
        match run {
            None => Ok(0),
            Some(run) => u64::from_str_radix(&run, 16).map_err(|_| not_a_journal(&self.path)),
        }
    }

    pub(super) fn set_run(&self, run: u64) -> Result<(), Error> {
        self.change("UPDATE journal SET run = ?1", [format!("{run:016x}")])
            .map(drop)
            .map_err(|error| explain(&self.path, &error))
    }

    /// How many lives the run had before this one.
    pub(super) fn begin_life(&self) -> Result<u32, Error> {
        self.change("UPDATE journal SET lives = lives + 1", [])
            .and_then(|_| {
                self.db
                    .query_row("SELECT lives - 1 FROM journal", [], |row| row.get(0))
            })
            .map_err(|error| explain(&self.path, &error))
    }

    pub(super) fn finished(&self) -> Result<Option<Finished>, Error> {
        let ended: Option<(f64, u8)> = self
            .db
            .query_row(
                "SELECT ended, code FROM journal WHERE ended IS NOT NULL",
                [],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )
            .optional()
            .map_err(|error| explain(&self.path, &error))?;
        let Some((ended, code)) = ended else {
            return Ok(None);
        };
        let totals = self.totals()?;
        let since = std::time::Duration::try_from_secs_f64(ended).unwrap_or_default();
        Ok(Some(Finished {
            done: totals.done,
            failed: totals.failed,
            at: UNIX_EPOCH + since,
            code,
        }))
    }

    pub(super) fn finish(&self, code: u8) -> Result<(), Error> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        self.change(
            "UPDATE journal SET ended = ?1, code = ?2",
            params![now.as_secs_f64(), code],
        )
        .map(drop)
        .map_err(|error| explain(&self.path, &error))
    }

    /// Writes records in one transaction: all of them or none.
    pub(super) fn write(&mut self, records: &[Record]) -> Result<(), Error> {
        let mut kept: Vec<Kept> = Vec::new();
        for record in records {
            if let Record::Kept(some) = record {
                for one in some {
                    for (first, count) in self.done.missing(one.first, one.count) {
                        kept.push(Kept {
                            first,
                            count,
                            ..*one
                        });
                    }
                }
            }
        }
        let kept = joined(kept);
        let mut write = || -> rusqlite::Result<()> {
            let transaction = self.db.transaction()?;
            for record in records {
                match record {
                    Record::Put { first, digests } => {
                        transaction
                            .prepare_cached("INSERT INTO put VALUES (?1, ?2)")?
                            .execute(params![*first as i64, digests.as_flattened()])?;
                    }
                    Record::Tried {
                        id,
                        attempts,
                        tries,
                    } => {
                        transaction
                            .prepare_cached("INSERT OR REPLACE INTO tried VALUES (?1, ?2, ?3)")?
                            .execute(params![*id as i64, attempts, tries])?;
                    }
                    Record::Kept(_) => {}
                }
            }
            let mut insert =
                transaction.prepare_cached("INSERT INTO kept VALUES (?1, ?2, ?3, ?4, ?5)")?;
            for one in &kept {
                insert.execute(params![
                    one.first as i64,
                    one.count as i64,
                    one.exit,
                    one.signal,
                    one.micros as i64
                ])?;
            }
            drop(insert);
            transaction.commit()
        };
        write().map_err(|error| explain(&self.path, &error))?;
        for one in kept {
            self.done.insert_range(one.first, one.count);
        }
        Ok(())
    }
}

/// Tasks that ended alike, in as few ranges as possible: who ran them in which attempt is not recorded.
fn joined(mut kept: Vec<Kept>) -> Vec<Kept> {
    kept.sort_by_key(|one| one.first);
    kept.dedup_by(|one, before| {
        let end = before.first + before.count;
        if one.first < end {
            // Twice in one transaction: the first word counts.
            return one.first + one.count <= end;
        }
        let alike = one.first == end && (one.exit, one.signal) == (before.exit, before.signal);
        if alike {
            before.count += one.count;
            before.micros = before.micros.saturating_add(one.micros);
        }
        alike
    });
    kept
}

/// SQLite's integers have a sign; ours were written from numbers without one.
pub(super) const fn id(number: i64) -> u64 {
    number as u64
}

fn error(path: &Path, why: String) -> Error {
    Error::Journal {
        path: path.to_owned(),
        why,
    }
}

pub(super) fn not_a_journal(path: &Path) -> Error {
    error(
        path,
        "it is no journal of procession's, and is left as it is; choose another file".to_owned(),
    )
}

pub(super) fn explain(path: &Path, failed: &rusqlite::Error) -> Error {
    let why = match failed.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            "another process has it: the run that it is of is still going on; wait for its end, or end it first".to_owned()
        }
        Some(ErrorCode::NotADatabase) => return not_a_journal(path),
        Some(ErrorCode::DatabaseCorrupt) => format!(
            "it is damaged ({failed}); nothing was changed in it: restore it from a copy, or remove it to run all again"
        ),
        Some(ErrorCode::DiskFull) => "its disk is full; make room and start again: what is recorded is safe".to_owned(),
        Some(ErrorCode::ReadOnly) => {
            "it, or the folder that it is in, cannot be written; change the permissions, or choose another file".to_owned()
        }
        Some(ErrorCode::CannotOpen) => {
            "it cannot be opened; its folder must exist and be writable, and it must be a file".to_owned()
        }
        _ => format!("{failed}; make sure that its disk is well, and start again: what is recorded is safe"),
    };
    error(path, why)
}
