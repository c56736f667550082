//! Data in PostgreSQL. A commit is one call of a function in the server, so that a program that is killed has done all or nothing, and holds no lock.
//!
//! The client's own calls wait without an end and may not be made in an asynchronous program, so each connection has a thread, which is asked, and given up when it
//! does not answer.

use std::error::Error as _;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use postgres::config::Config;
use postgres::error::SqlState;
use postgres::fallible_iterator::FallibleIterator;
use postgres::{Client, NoTls};

use super::link::{
    Changes, Commit, Dial, Done, Fault, Link, Outcome, PAGE_BYTES, PAGE_ROWS, Page, REMOVALS, Row,
    SWEEP, Version,
};
use crate::bytes::Bytes;
use crate::error::{Error, Result};

/// How long the server may take to answer.
const SLOW: Duration = Duration::from_secs(10);
/// How long a connection may wait for a change before it looks for what has expired.
const ROUND: Duration = Duration::from_secs(1);
/// How long a commit is known again.
const TOKENS: Duration = Duration::from_secs(600);
/// The lock under which the tables are made. "process".
const MAKING: i64 = 0x70_726f_6365_7373;

/// Whether the tables and functions of this version are there.
const IS_MADE: &str = "SELECT to_regprocedure('procession_sweep_1(text, bigint)') IS NOT NULL";

/// Times are in microseconds since 1970. A row whose value is null was removed, and is remembered for those who watch. The row in `procession_objects` is locked
/// first, so that changes of one object are one after the other, and versions become visible in their order.
fn schema() -> String {
    let tokens = TOKENS.as_micros();
    format!(
        "
        CREATE TABLE IF NOT EXISTS procession_objects (
            object text PRIMARY KEY,
            revision bigint NOT NULL DEFAULT 0,
            cleared bigint NOT NULL DEFAULT 0,
            pruned bigint NOT NULL DEFAULT 0
        );
        CREATE TABLE IF NOT EXISTS procession_rows (
            object text NOT NULL,
            key bytea NOT NULL,
            version bigint NOT NULL,
            expires bigint,
            value bytea,
            PRIMARY KEY (object, key)
        );
        CREATE INDEX IF NOT EXISTS procession_changes ON procession_rows (object, version);
        CREATE INDEX IF NOT EXISTS procession_removals ON procession_rows (object, version) WHERE value IS NULL;
        CREATE INDEX IF NOT EXISTS procession_expiry ON procession_rows (object, expires) WHERE expires IS NOT NULL;
        CREATE TABLE IF NOT EXISTS procession_commits (
            object text NOT NULL,
            token bytea NOT NULL,
            revision bigint NOT NULL,
            PRIMARY KEY (object, token)
        );
        CREATE INDEX IF NOT EXISTS procession_old_commits ON procession_commits (object, revision);

        CREATE OR REPLACE FUNCTION procession_now_1() RETURNS bigint LANGUAGE sql VOLATILE AS
            'SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint';

        -- Makes removals of what has expired; the version then.
        CREATE OR REPLACE FUNCTION procession_sweep_1(o text, last bigint) RETURNS bigint LANGUAGE plpgsql AS $body$
        DECLARE
            now_is bigint := procession_now_1();
            revision_is bigint := last;
            one record;
        BEGIN
            FOR one IN SELECT r.key FROM procession_rows r WHERE r.object = o AND r.expires <= now_is ORDER BY r.expires LIMIT {SWEEP} LOOP
                revision_is := greatest(revision_is + 1, now_is);
                UPDATE procession_rows r SET value = NULL, expires = NULL, version = revision_is
                    WHERE r.object = o AND r.key = one.key;
            END LOOP;
            RETURN revision_is;
        END $body$;

        CREATE OR REPLACE FUNCTION procession_expire_1(o text) RETURNS void LANGUAGE plpgsql AS $body$
        DECLARE
            before bigint;
            revision_is bigint;
        BEGIN
            SELECT p.revision INTO before FROM procession_objects p WHERE p.object = o FOR UPDATE;
            revision_is := procession_sweep_1(o, before);
            IF revision_is > before THEN
                UPDATE procession_objects p SET revision = revision_is WHERE p.object = o;
                PERFORM pg_notify('procession', o);
            END IF;
        END $body$;

        CREATE OR REPLACE FUNCTION procession_commit_1(
            o text, t bytea, clears boolean,
            check_keys bytea[], check_versions bigint[],
            write_keys bytea[], write_values bytea[], lives bigint[]
        ) RETURNS TABLE (is_done boolean, is_value bytea, is_version bigint, is_left bigint) LANGUAGE plpgsql AS $body$
        DECLARE
            revision_is bigint;
            now_is bigint;
            one record;
            oldest bigint;
        BEGIN
            INSERT INTO procession_objects (object) VALUES (o) ON CONFLICT DO NOTHING;
            SELECT p.revision INTO revision_is FROM procession_objects p WHERE p.object = o FOR UPDATE;
            now_is := procession_now_1();
            IF EXISTS (SELECT FROM procession_commits c WHERE c.object = o AND c.token = t) THEN
                RETURN QUERY SELECT true, NULL::bytea, NULL::bigint, NULL::bigint;
                RETURN;
            END IF;
            IF EXISTS (
                SELECT FROM unnest(check_keys, check_versions) AS c (k, v)
                LEFT JOIN procession_rows r ON r.object = o AND r.key = c.k AND r.value IS NOT NULL
                    AND (r.expires IS NULL OR r.expires > now_is)
                WHERE coalesce(r.version, 0) <> c.v
            ) THEN
                RETURN QUERY
                    SELECT false, r.value, r.version, r.expires - now_is
                    FROM unnest(check_keys) WITH ORDINALITY AS c (k, n)
                    LEFT JOIN procession_rows r ON r.object = o AND r.key = c.k AND r.value IS NOT NULL
                        AND (r.expires IS NULL OR r.expires > now_is)
                    ORDER BY c.n;
                RETURN;
            END IF;
            revision_is := procession_sweep_1(o, revision_is);
            IF clears THEN
                DELETE FROM procession_rows r WHERE r.object = o;
                revision_is := greatest(revision_is + 1, now_is);
                UPDATE procession_objects p SET cleared = revision_is WHERE p.object = o;
            END IF;
            FOR one IN SELECT * FROM unnest(write_keys, write_values, lives) AS w (k, v, l) LOOP
                revision_is := greatest(revision_is + 1, now_is);
                IF one.v IS NULL THEN
                    UPDATE procession_rows r SET value = NULL, expires = NULL, version = revision_is
                        WHERE r.object = o AND r.key = one.k AND r.value IS NOT NULL;
                ELSE
                    INSERT INTO procession_rows AS r (object, key, value, version, expires)
                        VALUES (o, one.k, one.v, revision_is, CASE WHEN one.l >= 0 THEN now_is + one.l END)
                    ON CONFLICT (object, key) DO UPDATE SET value = excluded.value, version = excluded.version,
                        expires = CASE WHEN one.l <> -2 THEN excluded.expires
                                       WHEN r.expires > now_is THEN r.expires END;
                END IF;
            END LOOP;
            INSERT INTO procession_commits (object, token, revision) VALUES (o, t, revision_is);
            -- Now and then is enough.
            IF get_byte(t, 0) < 4 THEN
                DELETE FROM procession_commits c WHERE c.object = o AND c.revision < now_is - {tokens};
                SELECT r.version INTO oldest FROM procession_rows r WHERE r.object = o AND r.value IS NULL
                    ORDER BY r.version DESC LIMIT 1 OFFSET {REMOVALS};
                IF oldest IS NOT NULL THEN
                    DELETE FROM procession_rows r WHERE r.object = o AND r.value IS NULL AND r.version <= oldest;
                    UPDATE procession_objects p SET pruned = oldest WHERE p.object = o;
                END IF;
            END IF;
            UPDATE procession_objects p SET revision = revision_is WHERE p.object = o;
            PERFORM pg_notify('procession', o);
            RETURN QUERY SELECT true, NULL::bytea, NULL::bigint, NULL::bigint;
        END $body$;
        "
    )
}

const READ: &str = "
    SELECT r.value, r.version, r.expires - n.now_is
    FROM (SELECT procession_now_1() AS now_is) n
    CROSS JOIN unnest($2::bytea[]) WITH ORDINALITY AS k (key, n)
    LEFT JOIN procession_rows r ON r.object = $1 AND r.key = k.key AND r.value IS NOT NULL
        AND (r.expires IS NULL OR r.expires > n.now_is)
    ORDER BY k.n";

const COMMIT: &str = "SELECT is_done, is_value, is_version, is_left FROM procession_commit_1($1, $2, $3, $4, $5, $6, $7, $8)";

const COUNT: &str = "
    SELECT count(*) FROM procession_rows r
    WHERE r.object = $1 AND r.value IS NOT NULL AND (r.expires IS NULL OR r.expires > (SELECT procession_now_1()))";

/// A page ends where it would be too large; the last column says how many rows there would be.
const SCAN: &str = "
    SELECT key, value, total FROM (
        SELECT key, value, count(*) OVER () AS total, row_number() OVER (ORDER BY key) AS n, sum(length(value)) OVER (ORDER BY key) AS upto
        FROM (
            SELECT r.key, r.value FROM procession_rows r
            WHERE r.object = $1 AND r.key > $2 AND r.value IS NOT NULL
                AND (r.expires IS NULL OR r.expires > (SELECT procession_now_1()))
            ORDER BY r.key LIMIT $3
        ) page
    ) sized
    WHERE n = 1 OR (n < $3 AND upto <= $4) ORDER BY key";

/// All of one moment, so it is one statement.
const CHANGES: &str = "
    SELECT o.revision, o.cleared, o.pruned,
        (SELECT min(e.expires) FROM procession_rows e WHERE e.object = $1 AND e.expires IS NOT NULL) - procession_now_1(),
        p.key, p.value, p.version, p.total
    FROM procession_objects o
    LEFT JOIN LATERAL (
        SELECT key, value, version, count(*) OVER () AS total, row_number() OVER (ORDER BY version) AS n,
            sum(coalesce(length(value), 0)) OVER (ORDER BY version) AS upto
        FROM (
            SELECT r.key, r.value, r.version FROM procession_rows r
            WHERE r.object = $1 AND r.version > greatest($2, o.cleared)
            ORDER BY r.version LIMIT $3
        ) page
    ) p ON p.n = 1 OR (p.n < $3 AND p.upto <= $4)
    WHERE o.object = $1 ORDER BY p.version";

pub(super) struct Postgres {
    config: Config,
    shown: String,
}

impl Postgres {
    pub(super) fn new(url: &str, shown: &str) -> Result<Self> {
        let config: Config = url
            .parse()
            .map_err(|error: postgres::Error| Error::BadEndpoint {
                endpoint: shown.to_owned(),
                why: without_url(&error, url),
            })?;
        Ok(Self {
            config,
            shown: shown.to_owned(),
        })
    }
}

/// An error's text and its cause's, unless the URL is in it.
fn without_url(error: &postgres::Error, url: &str) -> String {
    let text = match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    match text.contains(url) {
        true => "it is no URL of PostgreSQL's".to_owned(),
        false => text,
    }
}

type Job = Box<dyn FnOnce(&mut Session) + Send>;

/// What a connection's thread has.
struct Session {
    client: Client,
    statements: Vec<(&'static str, postgres::Statement)>,
    is_listening: bool,
    shown: String,
}

struct Server {
    jobs: mpsc::Sender<Job>,
}

impl Dial for Postgres {
    fn dial(&self, patience: Duration) -> Done<Box<dyn Link>> {
        let time = patience.clamp(Duration::from_millis(500), SLOW);
        let mut config = self.config.clone();
        config
            .connect_timeout(time)
            .tcp_user_timeout(SLOW)
            .keepalives_idle(SLOW);
        let shown = self.shown.clone();
        let (jobs, todo) = mpsc::channel::<Job>();
        let (tell, told) = mpsc::channel();
        let spawned = std::thread::Builder::new()
            .name("postgres".to_owned())
            .spawn(move || {
                let mut session = match begin(&config, shown) {
                    Ok(session) => session,
                    Err(fault) => {
                        let _ = tell.send(Err(fault));
                        return;
                    }
                };
                if tell.send(Ok(())).is_err() {
                    return;
                }
                while let Ok(job) = todo.recv() {
                    job(&mut session);
                }
            });
        if let Err(error) = spawned {
            return Err(Error::system("cannot start the thread of a connection", error).into());
        }
        match told.recv_timeout(time + SLOW) {
            Ok(Ok(())) => Ok(Box::new(Server { jobs })),
            Ok(Err(fault)) => Err(fault),
            Err(_) => Err(silent()),
        }
    }
}

fn silent() -> Fault {
    Fault::Lost(format!("no answer within {} s", SLOW.as_secs()))
}

fn begin(config: &Config, shown: String) -> Done<Session> {
    let mut client = config
        .connect(NoTls)
        .map_err(|error| explain(&shown, &error))?;
    let mut prepare = || {
        // What waits for a lock, or has begun and does not go on, is ended by the server.
        let settings = format!(
            "SET statement_timeout = {0}; SET lock_timeout = {0}; SET idle_in_transaction_session_timeout = {0}; SET client_min_messages = warning",
            SLOW.as_millis() - 1000
        );
        client.batch_execute(&settings)?;
        let is_made = |client: &mut Client| -> std::result::Result<bool, postgres::Error> {
            client.query_one(IS_MADE, &[])?.try_get(0)
        };
        if !is_made(&mut client)? {
            let mut making = client.transaction()?;
            making.execute("SELECT pg_advisory_xact_lock($1)", &[&MAKING])?;
            making.batch_execute(&schema())?;
            making.commit()?;
        }
        Ok(())
    };
    prepare().map_err(|error| explain(&shown, &error))?;
    Ok(Session {
        client,
        statements: Vec::new(),
        is_listening: false,
        shown,
    })
}

/// Whether another connection, or a later time, may help.
fn explain(shown: &str, error: &postgres::Error) -> Fault {
    let text = match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    let Some(code) = error.code() else {
        return match error.is_closed() || is_of_io(error) {
            true => Fault::Lost(text),
            false => refused(shown, text),
        };
    };
    let is_passing = code.code().starts_with("08")
        || [
            SqlState::ADMIN_SHUTDOWN,
            SqlState::CRASH_SHUTDOWN,
            SqlState::CANNOT_CONNECT_NOW,
            SqlState::TOO_MANY_CONNECTIONS,
            SqlState::T_R_SERIALIZATION_FAILURE,
            SqlState::T_R_DEADLOCK_DETECTED,
            SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
        ]
        .contains(code);
    if is_passing {
        return Fault::Lost(text);
    }
    let advice = match *code {
        SqlState::INSUFFICIENT_PRIVILEGE => {
            "; the tables and functions procession_… are made at first use, for which the user needs CREATE in its schema"
        }
        SqlState::LOCK_NOT_AVAILABLE | SqlState::QUERY_CANCELED => {
            "; something keeps the tables procession_… locked"
        }
        _ => "",
    };
    refused(shown, format!("{text}{advice}"))
}

/// Whether there was no connection, or it has broken.
fn is_of_io(error: &postgres::Error) -> bool {
    let mut source = error.source();
    while let Some(one) = source {
        if one.is::<std::io::Error>() {
            return true;
        }
        source = one.source();
    }
    // It has no way to tell that it has not come to an end in time.
    let text = error.to_string();
    text.contains("connecting to server") || text.contains("timeout")
}

fn refused(shown: &str, why: String) -> Fault {
    Fault::Final(Error::SharedData {
        at: shown.to_owned(),
        why,
    })
}

type Sql<T> = std::result::Result<T, postgres::Error>;

impl Session {
    fn statement(&mut self, text: &'static str) -> Sql<postgres::Statement> {
        if let Some((_, statement)) = self.statements.iter().find(|(known, _)| *known == text) {
            return Ok(statement.clone());
        }
        let statement = self.client.prepare(text)?;
        self.statements.push((text, statement.clone()));
        Ok(statement)
    }

    fn read(&mut self, object: &str, keys: &[Bytes]) -> Sql<Vec<Option<Row>>> {
        let statement = self.statement(READ)?;
        let keys: Vec<&[u8]> = keys.iter().map(|key| &key[..]).collect();
        let rows = self.client.query(&statement, &[&object, &keys])?;
        rows.iter().map(|found| row(found, 0)).collect()
    }

    fn commit(&mut self, object: &str, commit: &Commit) -> Sql<Outcome> {
        let statement = self.statement(COMMIT)?;
        let check_keys: Vec<&[u8]> = commit.checks.iter().map(|(key, _)| &key[..]).collect();
        let versions: Vec<i64> = (commit.checks.iter())
            .map(|(_, version)| *version as i64)
            .collect();
        let keys: Vec<&[u8]> = commit.writes.iter().map(|write| &write.key[..]).collect();
        let values: Vec<Option<&[u8]>> = (commit.writes.iter())
            .map(|write| write.value.as_ref().map(|value| &value[..]))
            .collect();
        let lives: Vec<i64> = (commit.writes.iter())
            .map(|write| write.life.micros())
            .collect();
        let rows = self.client.query(
            &statement,
            &[
                &object,
                &&commit.token[..],
                &commit.clears,
                &check_keys,
                &versions,
                &keys,
                &values,
                &lives,
            ],
        )?;
        if let Some(first) = rows.first()
            && first.try_get(0)?
        {
            return Ok(Outcome::Done);
        }
        let rows: Sql<Vec<_>> = rows.iter().map(|found| row(found, 1)).collect();
        Ok(Outcome::Conflict(rows?))
    }

    fn scan(&mut self, object: &str, after: Option<&Bytes>) -> Sql<Page> {
        let statement = self.statement(SCAN)?;
        // No key of MessagePack's is empty.
        let after = after.map_or(&[][..], |after| after);
        let (rows, bytes) = (PAGE_ROWS as i64 + 1, PAGE_BYTES as i64);
        let found = self
            .client
            .query(&statement, &[&object, &after, &rows, &bytes])?;
        let mut page = Page::default();
        let mut total = 0;
        for row in &found {
            let (key, value): (Vec<u8>, Vec<u8>) = (row.try_get(0)?, row.try_get(1)?);
            total = row.try_get(2)?;
            page.rows.push((Bytes::from(key), Bytes::from(value)));
        }
        page.is_last = page.rows.len() as i64 == total;
        Ok(page)
    }

    fn count(&mut self, object: &str) -> Sql<u64> {
        let statement = self.statement(COUNT)?;
        let count: i64 = self.client.query_one(&statement, &[&object])?.try_get(0)?;
        Ok(count as u64)
    }

    /// What has changed, and in how many microseconds something expires.
    fn look(&mut self, object: &str, after: Option<i64>) -> Sql<(Changes, Option<i64>)> {
        let statement = self.statement(CHANGES)?;
        let (rows, bytes) = (PAGE_ROWS as i64 + 1, PAGE_BYTES as i64);
        let from = after.unwrap_or(i64::MAX);
        let found = self
            .client
            .query(&statement, &[&object, &from, &rows, &bytes])?;
        let mut changes = Changes::default();
        let Some(first) = found.first() else {
            changes.missed = after.is_some_and(|after| after > 0);
            return Ok((changes, None));
        };
        let (revision, cleared, pruned): (i64, i64, i64) =
            (first.try_get(0)?, first.try_get(1)?, first.try_get(2)?);
        let expiry = first.try_get(3)?;
        changes.version = revision as u64;
        let Some(after) = after else {
            return Ok((changes, expiry));
        };
        changes.missed = after > revision || after.max(cleared) < pruned;
        if changes.missed {
            return Ok((changes, expiry));
        }
        changes.cleared = cleared > after;
        let mut total = 0;
        let mut last = revision;
        for row in &found {
            let Some(key) = row.try_get::<_, Option<Vec<u8>>>(4)? else {
                break;
            };
            let value: Option<Vec<u8>> = row.try_get(5)?;
            last = row.try_get(6)?;
            total = row.try_get(7)?;
            changes
                .rows
                .push((Bytes::from(key), value.map(Bytes::from)));
        }
        if (changes.rows.len() as i64) < total {
            changes.version = last as u64;
        }
        Ok((changes, expiry))
    }

    fn changes(&mut self, object: &str, after: Option<i64>, wait: Duration) -> Sql<Changes> {
        let until = Instant::now() + wait;
        // Before it looks, so that it hears of what comes afterwards.
        if after.is_some() && !self.is_listening {
            self.client.batch_execute("LISTEN procession")?;
            self.is_listening = true;
        }
        loop {
            let (changes, expiry) = self.look(object, after)?;
            let left = until.saturating_duration_since(Instant::now());
            if after.is_none() || !changes.is_empty() || left.is_zero() {
                return Ok(changes);
            }
            let expiry = expiry.map(|micros| Duration::from_micros(micros.max(0) as u64));
            let round = Instant::now() + expiry.unwrap_or(ROUND).min(ROUND).min(left);
            // What is told of other objects wakes nobody.
            loop {
                let left = round.saturating_duration_since(Instant::now());
                let mut told = self.client.notifications();
                match told.timeout_iter(left).next()? {
                    Some(told) if told.payload() == object => break,
                    Some(_) => {}
                    None => break,
                }
            }
            if expiry.is_some_and(|expiry| expiry <= ROUND) {
                let statement = self.statement("SELECT procession_expire_1($1)")?;
                self.client.execute(&statement, &[&object])?;
            }
        }
    }
}

/// A row's value, version and time left, from that column on.
fn row(found: &postgres::Row, first: usize) -> Sql<Option<Row>> {
    let Some(value) = found.try_get::<_, Option<Vec<u8>>>(first)? else {
        return Ok(None);
    };
    let version: i64 = found.try_get(first + 1)?;
    let left: Option<i64> = found.try_get(first + 2)?;
    Ok(Some(Row {
        value: Bytes::from(value),
        version: version as u64,
        left: left.map(|micros| Duration::from_micros(micros.max(0) as u64)),
    }))
}

impl Server {
    fn run<T: Send + 'static>(
        &self,
        wait: Duration,
        run: impl FnOnce(&mut Session) -> Sql<T> + Send + 'static,
    ) -> Done<T> {
        let (tell, told) = mpsc::channel();
        let job = move |session: &mut Session| {
            let done = run(session).map_err(|error| explain(&session.shown, &error));
            // Whoever asked may have given it up.
            let _ = tell.send(done);
        };
        let gone = || Fault::Lost("the connection has ended".to_owned());
        self.jobs.send(Box::new(job)).map_err(|_| gone())?;
        match told.recv_timeout(wait + SLOW) {
            Ok(done) => done,
            Err(mpsc::RecvTimeoutError::Timeout) => Err(silent()),
            Err(mpsc::RecvTimeoutError::Disconnected) => Err(gone()),
        }
    }
}

impl Link for Server {
    fn read(&mut self, object: &str, keys: &[Bytes]) -> Done<Vec<Option<Row>>> {
        let (object, keys) = (object.to_owned(), keys.to_vec());
        self.run(Duration::ZERO, move |session| session.read(&object, &keys))
    }

    fn commit(&mut self, object: &str, commit: &Commit) -> Done<Outcome> {
        let (object, commit) = (object.to_owned(), commit.clone());
        self.run(Duration::ZERO, move |session| {
            session.commit(&object, &commit)
        })
    }

    fn scan(&mut self, object: &str, after: Option<&Bytes>) -> Done<Page> {
        let (object, after) = (object.to_owned(), after.cloned());
        self.run(Duration::ZERO, move |session| {
            session.scan(&object, after.as_ref())
        })
    }

    fn count(&mut self, object: &str) -> Done<u64> {
        let object = object.to_owned();
        self.run(Duration::ZERO, move |session| session.count(&object))
    }

    fn changes(&mut self, object: &str, after: Option<Version>, wait: Duration) -> Done<Changes> {
        let object = object.to_owned();
        let after = after.map(|after| i64::try_from(after).unwrap_or(i64::MAX));
        self.run(wait, move |session| session.changes(&object, after, wait))
    }
}
