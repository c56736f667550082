//! Data in a file: SQLite in WAL mode. A change is one transaction of one process; others wait for its end.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rusqlite::{
    Connection, ErrorCode, OptionalExtension, Transaction, TransactionBehavior, params,
};

use super::link::{
    Changes, Commit, Dial, Done, Fault, Life, Link, Outcome, PAGE_BYTES, PAGE_ROWS, Page, REMOVALS,
    Row, SWEEP, Version,
};
use crate::bytes::Bytes;
use crate::error::Error;

/// In SQLite's header: what the file is. "PrSd".
const APPLICATION: i32 = 0x5072_5364;
const VERSION: i32 = 1;
/// How long a process waits for another one that writes.
const BUSY: Duration = Duration::from_secs(10);
/// How often it is looked whether anybody has written.
const LOOK: Duration = Duration::from_millis(5);

/// Times are in microseconds since 1970. A row whose value is null was removed, and is remembered for those who watch.
const SCHEMA: &str = "
    CREATE TABLE procession_objects (
        object TEXT PRIMARY KEY,
        revision INTEGER NOT NULL,
        cleared INTEGER NOT NULL DEFAULT 0,
        pruned INTEGER NOT NULL DEFAULT 0
    ) WITHOUT ROWID;
    CREATE TABLE procession_rows (
        object TEXT NOT NULL,
        key BLOB NOT NULL,
        version INTEGER NOT NULL,
        expires INTEGER,
        value BLOB,
        PRIMARY KEY (object, key)
    );
    CREATE INDEX procession_changes ON procession_rows (object, version);
    CREATE INDEX procession_removals ON procession_rows (object, version) WHERE value IS NULL;
    CREATE INDEX procession_expiry ON procession_rows (object, expires) WHERE expires IS NOT NULL;
";

pub(super) struct Sqlite {
    path: PathBuf,
    syncs: bool,
}

impl Sqlite {
    pub(super) const fn new(path: PathBuf, syncs: bool) -> Self {
        Self { path, syncs }
    }
}

impl Dial for Sqlite {
    fn dial(&self, _: Duration) -> Done<Box<dyn Link>> {
        let failed = |error: rusqlite::Error| explain(&self.path, &error);
        let mut db = Connection::open(&self.path).map_err(failed)?;
        db.busy_timeout(BUSY).map_err(failed)?;
        db.set_prepared_statement_cache_capacity(32);
        prepare(&mut db, &self.path, self.syncs)?;
        Ok(Box::new(File {
            db,
            path: self.path.clone(),
        }))
    }
}

/// Makes the tables, unless they are there; nothing is changed in a file that is of something else.
fn prepare(db: &mut Connection, path: &Path, syncs: bool) -> Done<()> {
    let failed = |error: rusqlite::Error| explain(path, &error);
    let number = |db: &Connection, pragma: &str| {
        db.pragma_query_value(None, pragma, |row| row.get::<_, i32>(0))
    };
    let tables = |db: &Connection| {
        db.query_row("SELECT count(*) FROM sqlite_master", [], |row| {
            row.get::<_, i64>(0)
        })
    };
    // In this order: whoever makes the tables says at the same moment what they are.
    let is_empty = tables(db).map_err(failed)? == 0;
    let application = number(db, "application_id").map_err(failed)?;
    if application != APPLICATION && (application != 0 || !is_empty) {
        return Err(refused(
            path,
            "it is a file of something else, and is left as it is; choose another file",
        ));
    }
    // Others may be doing the same at this moment, and this is not waited for by SQLite itself.
    let begun = Instant::now();
    loop {
        match db.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get::<_, String>(0))
        {
            Ok(mode) if mode.eq_ignore_ascii_case("wal") => break,
            Ok(mode) => {
                return Err(refused(
                    path,
                    &format!(
                        "this file system allows no write-ahead log (mode {mode}); put it on a local disk"
                    ),
                ));
            }
            Err(error) if is_busy(&error) && begun.elapsed() < BUSY => {
                std::thread::sleep(LOOK);
            }
            Err(error) => return Err(failed(error)),
        }
    }
    let synchronous = if syncs { "FULL" } else { "NORMAL" };
    db.pragma_update(None, "synchronous", synchronous)
        .map_err(failed)?;
    let making = db
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(failed)?;
    if tables(&making).map_err(failed)? == 0 {
        making.execute_batch(SCHEMA).map_err(failed)?;
        making
            .pragma_update(None, "application_id", APPLICATION)
            .map_err(failed)?;
        making
            .pragma_update(None, "user_version", VERSION)
            .map_err(failed)?;
    }
    let version = number(&making, "user_version").map_err(failed)?;
    if version != VERSION {
        return Err(refused(
            path,
            &format!(
                "it has format {version}, and this program reads format {VERSION}; use the version that made it, or another file"
            ),
        ));
    }
    making.commit().map_err(failed)
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
    )
}

fn refused(path: &Path, why: &str) -> Fault {
    Fault::Final(Error::SharedData {
        at: format!("sqlite:{}", path.display()),
        why: why.to_owned(),
    })
}

fn explain(path: &Path, error: &rusqlite::Error) -> Fault {
    let why = match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => format!(
            "another process has been writing for {} s; is it stopped?",
            BUSY.as_secs()
        ),
        Some(ErrorCode::NotADatabase) => {
            "it is a file of something else, and is left as it is; choose another file".to_owned()
        }
        Some(ErrorCode::DiskFull) => "the disk is full".to_owned(),
        Some(ErrorCode::ReadOnly) => "the file or its folder may not be written".to_owned(),
        Some(ErrorCode::CannotOpen) => {
            "it cannot be opened or made; is its folder there, and may it be written?".to_owned()
        }
        _ => error.to_string(),
    };
    refused(path, &why)
}

fn now() -> i64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
    since_1970.map_or(1, |time| time.as_micros() as i64)
}

struct File {
    db: Connection,
    path: PathBuf,
}

type Sql<T> = rusqlite::Result<T>;

fn row_of(db: &Connection, object: &str, key: &[u8], now: i64) -> Sql<Option<Row>> {
    db.prepare_cached(
        "SELECT value, version, expires FROM procession_rows
         WHERE object = ?1 AND key = ?2 AND value IS NOT NULL AND (expires IS NULL OR expires > ?3)",
    )?
    .query_row(params![object, key, now], |row| {
        let expires: Option<i64> = row.get(2)?;
        Ok(Row {
            value: Bytes::from(row.get::<_, Vec<u8>>(0)?),
            version: row.get::<_, i64>(1)? as u64,
            left: expires.map(|at| Duration::from_micros((at - now).max(0) as u64)),
        })
    })
    .optional()
}

/// The versions that a transaction gives.
struct Revision {
    last: i64,
    now: i64,
}

impl Revision {
    fn next(&mut self) -> i64 {
        self.last = self.now.max(self.last + 1);
        self.last
    }
}

fn remove(db: &Connection, object: &str, key: &[u8], revision: &mut Revision) -> Sql<bool> {
    let version = revision.next();
    let removed = db
        .prepare_cached(
            "UPDATE procession_rows SET value = NULL, expires = NULL, version = ?3
             WHERE object = ?1 AND key = ?2 AND value IS NOT NULL",
        )?
        .execute(params![object, key, version])?;
    Ok(removed > 0)
}

/// Makes removals of what has expired, a part of it at a time; whether there was anything.
fn sweep(db: &Connection, object: &str, revision: &mut Revision) -> Sql<bool> {
    let keys: Vec<Vec<u8>> = db
        .prepare_cached(
            "SELECT key FROM procession_rows WHERE object = ?1 AND expires <= ?2 ORDER BY expires LIMIT ?3",
        )?
        .query_map(params![object, revision.now, SWEEP as i64], |row| row.get(0))?
        .collect::<Sql<_>>()?;
    for key in &keys {
        remove(db, object, key, revision)?;
    }
    Ok(!keys.is_empty())
}

/// Forgets old removals.
fn prune(db: &Connection, object: &str) -> Sql<()> {
    let oldest: Option<i64> = db
        .prepare_cached(
            "SELECT version FROM procession_rows WHERE object = ?1 AND value IS NULL
             ORDER BY version DESC LIMIT 1 OFFSET ?2",
        )?
        .query_row(params![object, REMOVALS as i64], |row| row.get(0))
        .optional()?;
    if let Some(version) = oldest {
        db.execute(
            "DELETE FROM procession_rows WHERE object = ?1 AND value IS NULL AND version <= ?2",
            params![object, version],
        )?;
        db.execute(
            "UPDATE procession_objects SET pruned = ?2 WHERE object = ?1",
            params![object, version],
        )?;
    }
    Ok(())
}

/// Begins a change of an object: nobody else changes anything before the end.
fn revision_of(db: &Connection, object: &str) -> Sql<Revision> {
    let last = db
        .prepare_cached("SELECT revision FROM procession_objects WHERE object = ?1")?
        .query_row([object], |row| row.get(0))
        .optional()?;
    Ok(Revision {
        last: last.unwrap_or(0),
        now: now(),
    })
}

fn set_revision(db: &Connection, object: &str, revision: &Revision) -> Sql<()> {
    db.prepare_cached(
        "INSERT INTO procession_objects (object, revision) VALUES (?1, ?2)
         ON CONFLICT (object) DO UPDATE SET revision = excluded.revision",
    )?
    .execute(params![object, revision.last])?;
    Ok(())
}

fn write(db: Transaction<'_>, object: &str, commit: &Commit) -> Sql<Outcome> {
    let mut revision = revision_of(&db, object)?;
    let now = revision.now;
    let mut found = Vec::with_capacity(commit.checks.len());
    for (key, _) in &commit.checks {
        found.push(row_of(&db, object, key, now)?);
    }
    let versions = found
        .iter()
        .map(|row| row.as_ref().map_or(0, |row| row.version));
    if !versions.eq(commit.checks.iter().map(|(_, version)| *version)) {
        return Ok(Outcome::Conflict(found));
    }
    sweep(&db, object, &mut revision)?;
    if commit.clears {
        db.prepare_cached("DELETE FROM procession_rows WHERE object = ?1")?
            .execute([object])?;
        let version = revision.next();
        set_revision(&db, object, &revision)?;
        db.execute(
            "UPDATE procession_objects SET cleared = ?2 WHERE object = ?1",
            params![object, version],
        )?;
    }
    let mut removes = false;
    for write in &commit.writes {
        let Some(value) = &write.value else {
            removes |= remove(&db, object, &write.key, &mut revision)?;
            continue;
        };
        let version = revision.next();
        let micros = write.life.micros();
        db.prepare_cached(
            "INSERT INTO procession_rows (object, key, value, version, expires) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (object, key) DO UPDATE SET value = excluded.value, version = excluded.version,
             expires = CASE WHEN NOT ?6 THEN excluded.expires
                       WHEN procession_rows.expires > ?7 THEN procession_rows.expires END",
        )?
        .execute(params![
            object,
            &write.key[..],
            &value[..],
            version,
            (micros >= 0).then(|| now + micros),
            write.life == Life::AsBefore,
            now,
        ])?;
    }
    set_revision(&db, object, &revision)?;
    // Now and then is enough.
    if removes && revision.last % 64 == 0 {
        prune(&db, object)?;
    }
    db.commit()?;
    Ok(Outcome::Done)
}

fn read(db: &Transaction<'_>, object: &str, keys: &[Bytes]) -> Sql<Vec<Option<Row>>> {
    let now = now();
    keys.iter()
        .map(|key| row_of(db, object, key, now))
        .collect()
}

fn scan(db: &Connection, object: &str, after: Option<&Bytes>) -> Sql<Page> {
    let mut statement = db.prepare_cached(
        "SELECT key, value FROM procession_rows
         WHERE object = ?1 AND key > ?2 AND value IS NOT NULL AND (expires IS NULL OR expires > ?3)
         ORDER BY key",
    )?;
    // No key of MessagePack's is empty.
    let after = after.map_or(&[][..], |after| after);
    let mut found = statement.query(params![object, after, now()])?;
    let mut page = Page {
        rows: Vec::new(),
        is_last: true,
    };
    let mut bytes = 0;
    while let Some(row) = found.next()? {
        let (key, value): (Vec<u8>, Vec<u8>) = (row.get(0)?, row.get(1)?);
        bytes += value.len();
        if !page.rows.is_empty() && (page.rows.len() == PAGE_ROWS || bytes > PAGE_BYTES) {
            page.is_last = false;
            break;
        }
        page.rows.push((Bytes::from(key), Bytes::from(value)));
    }
    Ok(page)
}

fn count(db: &Connection, object: &str) -> Sql<u64> {
    let mut statement = db.prepare_cached(
        "SELECT count(*) FROM procession_rows
         WHERE object = ?1 AND value IS NOT NULL AND (expires IS NULL OR expires > ?2)",
    )?;
    let count: i64 = statement.query_row(params![object, now()], |row| row.get(0))?;
    Ok(count as u64)
}

/// What has changed, and when something expires next.
fn changes(db: &Transaction<'_>, object: &str, after: Option<i64>) -> Sql<(Changes, Option<i64>)> {
    let marks: Option<(i64, i64, i64)> = db
        .prepare_cached(
            "SELECT revision, cleared, pruned FROM procession_objects WHERE object = ?1",
        )?
        .query_row([object], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    let (revision, cleared, pruned) = marks.unwrap_or_default();
    let mut changes = Changes {
        version: revision as u64,
        ..Changes::default()
    };
    let Some(after) = after else {
        return Ok((changes, None));
    };
    let from = after.max(cleared);
    changes.missed = after > revision || from < pruned;
    if changes.missed {
        return Ok((changes, None));
    }
    changes.cleared = cleared > after;
    let mut statement = db.prepare_cached(
        "SELECT key, value, version FROM procession_rows WHERE object = ?1 AND version > ?2 ORDER BY version",
    )?;
    let mut found = statement.query(params![object, from])?;
    let mut bytes = 0;
    while let Some(row) = found.next()? {
        let (key, value): (Vec<u8>, Option<Vec<u8>>) = (row.get(0)?, row.get(1)?);
        bytes += value.as_ref().map_or(0, Vec::len);
        if !changes.rows.is_empty() && (changes.rows.len() == PAGE_ROWS || bytes > PAGE_BYTES) {
            return Ok((changes, None));
        }
        changes.version = row.get::<_, i64>(2)? as u64;
        changes
            .rows
            .push((Bytes::from(key), value.map(Bytes::from)));
    }
    changes.version = revision as u64;
    let expiry = db
        .prepare_cached(
            "SELECT min(expires) FROM procession_rows WHERE object = ?1 AND expires IS NOT NULL",
        )?
        .query_row([object], |row| row.get(0))?;
    Ok((changes, expiry))
}

impl File {
    fn explain(&self, error: &rusqlite::Error) -> Fault {
        explain(&self.path, error)
    }

    /// Several statements that see the file at one moment.
    fn at_once<T>(&mut self, look: impl FnOnce(&Transaction<'_>) -> Sql<T>) -> Done<T> {
        let path = &self.path;
        let seen = self.db.transaction().and_then(|moment| look(&moment));
        seen.map_err(|error| explain(path, &error))
    }

    fn data_version(&self) -> Done<i64> {
        let version = self
            .db
            .pragma_query_value(None, "data_version", |row| row.get(0));
        version.map_err(|error| self.explain(&error))
    }

    fn expire(&mut self, object: &str) -> Sql<()> {
        let db = self
            .db
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut revision = revision_of(&db, object)?;
        if sweep(&db, object, &mut revision)? {
            set_revision(&db, object, &revision)?;
        }
        db.commit()
    }
}

impl Link for File {
    fn read(&mut self, object: &str, keys: &[Bytes]) -> Done<Vec<Option<Row>>> {
        self.at_once(|moment| read(moment, object, keys))
    }

    fn commit(&mut self, object: &str, commit: &Commit) -> Done<Outcome> {
        // The token is not needed: nothing can be lost between this process and the file.
        let path = &self.path;
        let begun = self
            .db
            .transaction_with_behavior(TransactionBehavior::Immediate);
        let written = begun.and_then(|db| write(db, object, commit));
        written.map_err(|error| explain(path, &error))
    }

    fn scan(&mut self, object: &str, after: Option<&Bytes>) -> Done<Page> {
        scan(&self.db, object, after).map_err(|error| self.explain(&error))
    }

    fn count(&mut self, object: &str) -> Done<u64> {
        count(&self.db, object).map_err(|error| self.explain(&error))
    }

    fn changes(&mut self, object: &str, after: Option<Version>, wait: Duration) -> Done<Changes> {
        let until = Instant::now() + wait;
        let from = after.map(|after| i64::try_from(after).unwrap_or(i64::MAX));
        loop {
            let version = self.data_version()?;
            let (changes, expiry) = self.at_once(|moment| changes(moment, object, from))?;
            if after.is_none() || !changes.is_empty() || Instant::now() >= until {
                return Ok(changes);
            }
            while self.data_version()? == version && Instant::now() < until {
                if expiry.is_some_and(|at| at <= now()) {
                    self.expire(object).map_err(|error| self.explain(&error))?;
                    break;
                }
                std::thread::sleep(LOOK.min(until.saturating_duration_since(Instant::now())));
            }
        }
    }
}
