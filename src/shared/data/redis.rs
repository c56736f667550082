//! Data in Redis. Each of a store's calls is one script, which Redis runs as a whole.
//!
//! An object is these keys, of one hash tag, so that a cluster keeps them together. What is behind the last colon:
//!
//! | key | type | what is in it |
//! |---|---|---|
//! | `values` | hash | the rows: key, value |
//! | `keys` | sorted set | the same keys, by their bytes |
//! | `order`, `removed` | sorted sets | keys of rows, and of removed rows, by version |
//! | `expiry` | sorted set | keys by the time at which they expire |
//! | `meta` | hash | the object's version, that of its last clearing, and up to which removals are forgotten |
//! | `tokens` | sorted set | the last commits, by version |
//! | `log` | stream | the last version, for who waits for another one |

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use redis::{
    Client, Connection, ErrorKind, RedisError, Script, ScriptInvocation, ServerErrorKind, Value,
};

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
/// So many commits of an object are known again.
const TOKENS: usize = 1024;

/// What all scripts begin with. Numbers are printed whole: Lua would round them.
fn script(rest: &str) -> Script {
    let preamble = format!(
        "
        local meta, values, keys, order, removed, expiry, tokens, log = unpack(KEYS)
        local function text(number) return string.format('%.0f', number) end
        local time = redis.call('TIME')
        local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
        local revision = tonumber(redis.call('HGET', meta, 'revision') or '0')
        local before = revision
        local function following()
            revision = math.max(revision + 1, now)
            return text(revision)
        end
        local function expires(key)
            local at = redis.call('ZSCORE', expiry, key)
            return at and tonumber(at)
        end
        local function version_of(key)
            local version = redis.call('ZSCORE', order, key)
            if not version then return 0 end
            local at = expires(key)
            if at and at <= now then return 0 end
            return tonumber(version)
        end
        local function row(key)
            local version = version_of(key)
            if version == 0 then return false end
            local at = expires(key)
            return {{redis.call('HGET', values, key), text(version), at and text(at - now) or '-1'}}
        end
        local function remove(key)
            if redis.call('HDEL', values, key) == 0 then return end
            redis.call('ZREM', keys, key)
            redis.call('ZREM', order, key)
            redis.call('ZREM', expiry, key)
            redis.call('ZADD', removed, following(), key)
            if redis.call('ZCARD', removed) > {REMOVALS} then
                local oldest = redis.call('ZRANGE', removed, 0, 0, 'WITHSCORES')
                redis.call('ZREM', removed, oldest[1])
                redis.call('HSET', meta, 'pruned', text(tonumber(oldest[2])))
            end
        end
        local function sweep()
            for _, key in ipairs(redis.call('ZRANGEBYSCORE', expiry, '-inf', text(now), 'LIMIT', 0, {SWEEP})) do
                remove(key)
            end
        end
        local function finish()
            if revision == before then return end
            redis.call('HSET', meta, 'revision', text(revision))
            redis.call('XADD', log, 'MAXLEN', 1, text(revision) .. '-0', 'v', 1)
        end
        "
    );
    Script::new(&(preamble + rest))
}

static READ: LazyLock<Script> = LazyLock::new(|| {
    script(
        "
        local rows = {}
        for at, key in ipairs(ARGV) do rows[at] = row(key) end
        return rows
        ",
    )
});

/// Arguments: token, whether it clears, how many checks, each key and version, and for each write key, life, whether there is a value, value.
static COMMIT: LazyLock<Script> = LazyLock::new(|| {
    script(&format!(
        "
        if redis.call('ZSCORE', tokens, ARGV[1]) then return {{1}} end
        local checks = tonumber(ARGV[3])
        local writes = 4 + checks * 2
        local holds = true
        for at = 4, writes - 1, 2 do
            if version_of(ARGV[at]) ~= tonumber(ARGV[at + 1]) then holds = false end
        end
        if not holds then
            local rows = {{0}}
            for at = 4, writes - 1, 2 do rows[#rows + 1] = row(ARGV[at]) end
            return rows
        end
        sweep()
        if ARGV[2] == '1' then
            redis.call('DEL', values, keys, order, removed, expiry)
            redis.call('HSET', meta, 'cleared', following())
        end
        for at = writes, #ARGV, 4 do
            local key, life = ARGV[at], tonumber(ARGV[at + 1])
            if ARGV[at + 2] == '0' then
                remove(key)
            else
                local expires_at = nil
                if life >= 0 then
                    expires_at = now + life
                elseif life == -2 and version_of(key) ~= 0 then
                    expires_at = expires(key)
                end
                redis.call('HSET', values, key, ARGV[at + 3])
                redis.call('ZADD', keys, 0, key)
                redis.call('ZADD', order, following(), key)
                redis.call('ZREM', removed, key)
                if expires_at then
                    redis.call('ZADD', expiry, text(expires_at), key)
                else
                    redis.call('ZREM', expiry, key)
                end
            end
        end
        redis.call('ZADD', tokens, text(revision), ARGV[1])
        if redis.call('ZCARD', tokens) > {TOKENS} then redis.call('ZREMRANGEBYRANK', tokens, 0, 0) end
        finish()
        return {{1}}
        "
    ))
});

/// Arguments: the key behind which to begin, or nothing.
static SCAN: LazyLock<Script> = LazyLock::new(|| {
    script(&format!(
        "
        local from = ARGV[1] == '' and '-' or '(' .. ARGV[1]
        local page, rows, bytes, is_over = {{'1'}}, 0, 0, false
        repeat
            local batch = redis.call('ZRANGEBYLEX', keys, from, '+', 'LIMIT', 0, {PAGE_ROWS} + 1)
            for _, key in ipairs(batch) do
                if version_of(key) ~= 0 then
                    bytes = bytes + redis.call('HSTRLEN', values, key)
                    if rows > 0 and (rows == {PAGE_ROWS} or bytes > {PAGE_BYTES}) then
                        page[1] = '0'
                        is_over = true
                        break
                    end
                    rows = rows + 1
                    page[#page + 1] = key
                    page[#page + 1] = redis.call('HGET', values, key)
                end
                from = '(' .. key
            end
        until is_over or #batch <= {PAGE_ROWS}
        return page
        "
    ))
});

static COUNT: LazyLock<Script> = LazyLock::new(|| {
    script("return redis.call('ZCARD', keys) - redis.call('ZCOUNT', expiry, '-inf', text(now))")
});

/// Argument: the version after which to begin, or `-`. Gives the version to go on from, whether something was missed, whether all was cleared, in how
/// many microseconds something expires, and for each change key and value.
static CHANGES: LazyLock<Script> = LazyLock::new(|| {
    script(&format!(
        "
        sweep()
        finish()
        local next = redis.call('ZRANGE', expiry, 0, 0, 'WITHSCORES')[2]
        local changes = {{text(revision), '0', '0', next and text(tonumber(next) - now) or '-1'}}
        if ARGV[1] == '-' then return changes end
        local after = tonumber(ARGV[1])
        local cleared = tonumber(redis.call('HGET', meta, 'cleared') or '0')
        local pruned = tonumber(redis.call('HGET', meta, 'pruned') or '0')
        local from = math.max(after, cleared)
        if after > revision or from < pruned then
            changes[2] = '1'
            return changes
        end
        if cleared > after then changes[3] = '1' end
        local limit = {PAGE_ROWS} + 1
        local set = redis.call('ZRANGEBYSCORE', order, '(' .. text(from), '+inf', 'WITHSCORES', 'LIMIT', 0, limit)
        local gone = redis.call('ZRANGEBYSCORE', removed, '(' .. text(from), '+inf', 'WITHSCORES', 'LIMIT', 0, limit)
        local s, g, rows, bytes = 1, 1, 0, 0
        while set[s] or gone[g] do
            local is_set = set[s] and (not gone[g] or tonumber(set[s + 1]) < tonumber(gone[g + 1]))
            local key, version, value
            if is_set then
                key, version = set[s], set[s + 1]
                value = redis.call('HGET', values, key)
                bytes = bytes + #value
                s = s + 2
            else
                key, version, value = gone[g], gone[g + 1], false
                g = g + 2
            end
            if rows > 0 and (rows == {PAGE_ROWS} or bytes > {PAGE_BYTES}) then return changes end
            rows = rows + 1
            changes[1] = text(tonumber(version))
            changes[#changes + 1] = key
            changes[#changes + 1] = value
        end
        changes[1] = text(revision)
        return changes
        "
    ))
});

pub(super) struct Redis {
    client: Client,
    shown: String,
}

impl Redis {
    pub(super) fn new(url: &str, shown: &str) -> Result<Self> {
        let client = Client::open(url).map_err(|error| Error::BadEndpoint {
            endpoint: shown.to_owned(),
            why: error.to_string(),
        })?;
        Ok(Self {
            client,
            shown: shown.to_owned(),
        })
    }
}

impl Dial for Redis {
    fn dial(&self, patience: Duration) -> Done<Box<dyn Link>> {
        let failed = |error: RedisError| explain(&self.shown, &error);
        let time = patience.clamp(Duration::from_millis(500), SLOW);
        let connection = self
            .client
            .get_connection_with_timeout(time)
            .map_err(failed)?;
        connection.set_read_timeout(Some(SLOW)).map_err(failed)?;
        connection.set_write_timeout(Some(SLOW)).map_err(failed)?;
        Ok(Box::new(Server {
            connection,
            shown: self.shown.clone(),
        }))
    }
}

/// Whether another connection, or a later time, may help.
fn explain(shown: &str, error: &RedisError) -> Fault {
    let is_passing = match error.kind() {
        ErrorKind::Io | ErrorKind::Parse => true,
        ErrorKind::Server(kind) => matches!(
            kind,
            ServerErrorKind::BusyLoading
                | ServerErrorKind::TryAgain
                | ServerErrorKind::ClusterDown
                | ServerErrorKind::MasterDown
        ),
        _ => false,
    };
    if is_passing || error.is_connection_dropped() || error.is_timeout() {
        return Fault::Lost(error.to_string());
    }
    let advice = match (error.kind(), error.code()) {
        (ErrorKind::AuthenticationFailed, _) | (_, Some("NOAUTH" | "WRONGPASS")) => {
            "; give the password in the URL: redis://:PASSWORD@HOST"
        }
        (_, Some("OOM")) => "; the server's memory is full (maxmemory)",
        (_, Some("MISCONF")) => "; the server cannot write to its disk",
        (_, Some("READONLY")) => "; this is a replica: take the URL of its master",
        (_, Some("NOPERM")) => "; its user may not do that (ACL)",
        _ => "",
    };
    Fault::Final(Error::SharedData {
        at: shown.to_owned(),
        why: format!("{error}{advice}"),
    })
}

struct Server {
    connection: Connection,
    shown: String,
}

const PARTS: [&str; 8] = [
    "meta", "values", "keys", "order", "removed", "expiry", "tokens", "log",
];

fn key_of(object: &str, part: &str) -> String {
    format!("procession:{{{object}}}:{part}")
}

fn of<'a>(script: &'a Script, object: &str) -> ScriptInvocation<'a> {
    let mut call = script.prepare_invoke();
    for part in PARTS {
        call.key(key_of(object, part));
    }
    call
}

fn strange() -> Fault {
    Fault::Lost("the server answers something else than was asked".to_owned())
}

fn bytes(value: Value) -> Done<Vec<u8>> {
    match value {
        Value::BulkString(bytes) => Ok(bytes),
        _ => Err(strange()),
    }
}

fn number(value: Value) -> Done<i64> {
    match value {
        Value::Int(number) => Ok(number),
        Value::BulkString(text) => {
            let text = std::str::from_utf8(&text).ok();
            text.and_then(|text| text.parse().ok()).ok_or_else(strange)
        }
        _ => Err(strange()),
    }
}

/// A number that has to be there.
fn next_number(values: &mut impl Iterator<Item = Value>) -> Done<i64> {
    number(values.next().ok_or_else(strange)?)
}

fn row(value: Value) -> Done<Option<Row>> {
    let parts = match value {
        Value::Nil => return Ok(None),
        Value::Array(parts) => parts,
        _ => return Err(strange()),
    };
    let mut parts = parts.into_iter();
    let value = bytes(parts.next().ok_or_else(strange)?)?;
    let version = next_number(&mut parts)?;
    let left = next_number(&mut parts)?;
    Ok(Some(Row {
        value: Bytes::from(value),
        version: version as u64,
        left: u64::try_from(left).ok().map(Duration::from_micros),
    }))
}

impl Server {
    fn run(&mut self, call: &ScriptInvocation<'_>) -> Done<Value> {
        let shown = &self.shown;
        call.invoke(&mut self.connection)
            .map_err(|error| explain(shown, &error))
    }

    fn run_for_many(&mut self, call: &ScriptInvocation<'_>) -> Done<std::vec::IntoIter<Value>> {
        match self.run(call)? {
            Value::Array(values) => Ok(values.into_iter()),
            _ => Err(strange()),
        }
    }

    /// What has changed, and in how long something expires.
    fn look(&mut self, object: &str, after: Option<Version>) -> Done<(Changes, Option<Duration>)> {
        let mut call = of(&CHANGES, object);
        call.arg(after.map_or("-".to_owned(), |after| after.to_string()));
        let mut values = self.run_for_many(&call)?;
        let version = next_number(&mut values)?;
        let missed = next_number(&mut values)? == 1;
        let cleared = next_number(&mut values)? == 1;
        let expiry = next_number(&mut values)?;
        let mut changes = Changes {
            version: version as u64,
            missed,
            cleared,
            rows: Vec::new(),
        };
        while let (Some(key), Some(value)) = (values.next(), values.next()) {
            let value = match value {
                Value::Nil => None,
                value => Some(Bytes::from(bytes(value)?)),
            };
            changes.rows.push((Bytes::from(bytes(key)?), value));
        }
        let expiry = u64::try_from(expiry).ok().map(Duration::from_micros);
        Ok((changes, expiry))
    }
}

impl Link for Server {
    fn read(&mut self, object: &str, keys: &[Bytes]) -> Done<Vec<Option<Row>>> {
        let mut call = of(&READ, object);
        for key in keys {
            call.arg(&key[..]);
        }
        self.run_for_many(&call)?.map(row).collect()
    }

    fn commit(&mut self, object: &str, commit: &Commit) -> Done<Outcome> {
        let mut call = of(&COMMIT, object);
        call.arg(&commit.token[..]);
        call.arg(if commit.clears { "1" } else { "0" });
        call.arg(commit.checks.len());
        for (key, version) in &commit.checks {
            call.arg(&key[..]).arg(*version);
        }
        for write in &commit.writes {
            call.arg(&write.key[..]).arg(write.life.micros());
            match &write.value {
                Some(value) => call.arg("1").arg(&value[..]),
                None => call.arg("0").arg(""),
            };
        }
        let mut values = self.run_for_many(&call)?;
        match next_number(&mut values)? {
            1 => Ok(Outcome::Done),
            _ => values.map(row).collect::<Done<_>>().map(Outcome::Conflict),
        }
    }

    fn scan(&mut self, object: &str, after: Option<&Bytes>) -> Done<Page> {
        let mut call = of(&SCAN, object);
        call.arg(after.map_or(&[][..], |after| after));
        let mut values = self.run_for_many(&call)?;
        let mut page = Page {
            rows: Vec::new(),
            is_last: next_number(&mut values)? == 1,
        };
        while let (Some(key), Some(value)) = (values.next(), values.next()) {
            let row = (Bytes::from(bytes(key)?), Bytes::from(bytes(value)?));
            page.rows.push(row);
        }
        Ok(page)
    }

    fn count(&mut self, object: &str) -> Done<u64> {
        let count = self.run(&of(&COUNT, object))?;
        Ok(number(count)?.max(0) as u64)
    }

    fn changes(&mut self, object: &str, after: Option<Version>, wait: Duration) -> Done<Changes> {
        let until = Instant::now() + wait;
        let mut from = after;
        loop {
            let (changes, expiry) = self.look(object, from)?;
            let left = until.saturating_duration_since(Instant::now());
            if after.is_none() || !changes.is_empty() || left < Duration::from_millis(1) {
                return Ok(changes);
            }
            from = Some(changes.version);
            let sleep = expiry.map_or(ROUND, |expiry| expiry.min(ROUND)).min(left);
            // Zero would be for ever.
            let millis = sleep.as_millis().max(1) as u64;
            let waited: std::result::Result<Value, RedisError> = redis::cmd("XREAD")
                .arg("COUNT")
                .arg(1)
                .arg("BLOCK")
                .arg(millis)
                .arg("STREAMS")
                .arg(key_of(object, "log"))
                .arg(format!("{}-0", changes.version))
                .query(&mut self.connection);
            waited.map_err(|error| explain(&self.shown, &error))?;
        }
    }
}
