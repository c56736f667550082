//! beanstalkd's protocol: lines, and bodies of a told length. Several commands go out before their answers are read.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use bytes::Bytes;

use super::unexpected;
use crate::engine::Address;
use crate::error::{Error, Result};

/// How long a server may take to answer, beyond what it was asked to wait; a connection that takes longer is given up.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a line of an answer may be: the protocol's are shorter.
const LINE: u64 = 1024;
/// The longest body that is believed: a server's job size has 30 bits at most.
const BODY: usize = 1 << 30;
/// How many commands without a body go out before answers are read.
const PIPELINED: usize = 512;

pub(super) struct Client {
    address: Address,
    reader: BufReader<TcpStream>,
    used: String,
    watched: String,
    /// What is to be sent; kept for its memory.
    out: Vec<u8>,
}

/// The words of an answer's line.
pub(super) struct Reply {
    pub(super) words: Vec<String>,
}

impl Reply {
    fn is(&self, word: &str) -> bool {
        self.words.first().is_some_and(|first| first == word)
    }

    fn number<T: std::str::FromStr>(&self, at: usize) -> Option<T> {
        self.words.get(at)?.parse().ok()
    }
}

/// How many jobs a tube has.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Jobs {
    pub(super) ready: u64,
    pub(super) reserved: u64,
    pub(super) delayed: u64,
    pub(super) buried: u64,
}

impl Jobs {
    pub(super) const fn all(self) -> u64 {
        self.ready + self.reserved + self.delayed + self.buried
    }
}

impl Client {
    pub(super) fn connect(address: &Address, host: &str, port: u16) -> Result<Self> {
        let stream = open(host, port).map_err(|error| {
            let advice = match error.kind() {
                io::ErrorKind::ConnectionRefused => {
                    "; is beanstalkd running, and is that its port?"
                }
                _ => "",
            };
            Error::Connect {
                endpoint: address.to_string(),
                why: format!("{error}{advice}"),
            }
        })?;
        Ok(Self {
            address: address.clone(),
            reader: BufReader::with_capacity(64 << 10, stream),
            used: "default".to_owned(),
            watched: "default".to_owned(),
            out: Vec::new(),
        })
    }

    fn lost(&self, error: &io::Error) -> Error {
        let why = match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                "the server has not answered in time".to_owned()
            }
            io::ErrorKind::UnexpectedEof => "the server has closed the connection".to_owned(),
            _ => error.to_string(),
        };
        Error::Connect {
            endpoint: self.address.to_string(),
            why,
        }
    }

    fn command(&mut self, line: &str) {
        self.out.extend_from_slice(line.as_bytes());
        self.out.extend_from_slice(b"\r\n");
    }

    fn send(&mut self) -> Result<()> {
        let sent = self.reader.get_mut().write_all(&self.out);
        self.out.clear();
        sent.map_err(|error| self.lost(&error))
    }

    fn reply(&mut self) -> Result<Reply> {
        let mut line = Vec::new();
        (&mut self.reader)
            .take(LINE)
            .read_until(b'\n', &mut line)
            .map_err(|error| self.lost(&error))?;
        if !line.ends_with(b"\n") && (line.len() as u64) < LINE {
            return Err(self.lost(&io::ErrorKind::UnexpectedEof.into()));
        }
        let line = String::from_utf8_lossy(&line);
        let words = line.split_whitespace().map(str::to_owned).collect();
        Ok(Reply { words })
    }

    /// A body, and the line end behind it.
    fn body(&mut self, len: usize) -> Result<Bytes> {
        let mut body = Vec::new();
        (&mut self.reader)
            .take(len as u64 + 2)
            .read_to_end(&mut body)
            .map_err(|error| self.lost(&error))?;
        if body.len() < len + 2 {
            return Err(self.lost(&io::ErrorKind::UnexpectedEof.into()));
        }
        body.truncate(len);
        Ok(body.into())
    }

    fn unexpected<T>(&self, asked: &str, reply: &Reply) -> Result<T> {
        Err(unexpected(&self.address, asked, reply))
    }

    fn ask(&mut self, line: &str) -> Result<Reply> {
        self.command(line);
        self.send()?;
        self.reply()
    }

    pub(super) fn use_tube(&mut self, tube: &str) -> Result<()> {
        if self.used != tube {
            let reply = self.ask(&format!("use {tube}"))?;
            if !reply.is("USING") {
                return self.unexpected("use", &reply);
            }
            tube.clone_into(&mut self.used);
        }
        Ok(())
    }

    pub(super) fn watch_only(&mut self, tube: &str) -> Result<()> {
        if self.watched != tube {
            let old = std::mem::replace(&mut self.watched, tube.to_owned());
            for line in [format!("watch {tube}"), format!("ignore {old}")] {
                let reply = self.ask(&line)?;
                if !reply.is("WATCHING") {
                    return self.unexpected("watch", &reply);
                }
            }
        }
        Ok(())
    }

    /// The jobs' numbers.
    pub(super) fn put(
        &mut self,
        priority: u32,
        time_to_run: u64,
        bodies: &[Bytes],
    ) -> Result<Vec<u64>> {
        for body in bodies {
            self.command(&format!("put {priority} 0 {time_to_run} {}", body.len()));
            self.out.extend_from_slice(body);
            self.out.extend_from_slice(b"\r\n");
        }
        self.send()?;
        let mut jobs = Vec::with_capacity(bodies.len());
        for _ in bodies {
            let reply = self.reply()?;
            match reply.number(1) {
                Some(job) if reply.is("INSERTED") => jobs.push(job),
                _ => return self.unexpected("put", &reply),
            }
        }
        Ok(jobs)
    }

    /// Makes it so that there is something in that tube.
    pub(super) fn mark(&mut self, tube: &str) -> Result<()> {
        self.use_tube(tube)?;
        self.put(0, 1, &[Bytes::new()])?;
        Ok(())
    }

    /// Up to so many jobs; waits so many seconds for each.
    pub(super) fn reserve(&mut self, most: usize, seconds: u64) -> Result<Vec<(u64, Bytes)>> {
        for _ in 0..most {
            self.command(&format!("reserve-with-timeout {seconds}"));
        }
        self.send()?;
        let mut jobs = Vec::new();
        for _ in 0..most {
            let reply = self.reply()?;
            match (reply.number(1), reply.number(2)) {
                (Some(job), Some(len @ ..=BODY)) if reply.is("RESERVED") => {
                    jobs.push((job, self.body(len)?));
                }
                // The latter: the time of a job that we hold is nearly over.
                _ if reply.is("TIMED_OUT") || reply.is("DEADLINE_SOON") => {}
                _ => return self.unexpected("reserve", &reply),
            }
        }
        Ok(jobs)
    }

    /// The bodies of jobs, whoever has them; `None` where there is none.
    pub(super) fn peek(&mut self, jobs: &[u64]) -> Result<Vec<Option<Bytes>>> {
        for job in jobs {
            self.command(&format!("peek {job}"));
        }
        self.send()?;
        let mut bodies = Vec::with_capacity(jobs.len());
        for _ in jobs {
            let reply = self.reply()?;
            match reply.number(2) {
                Some(len @ ..=BODY) if reply.is("FOUND") => bodies.push(Some(self.body(len)?)),
                _ if reply.is("NOT_FOUND") => bodies.push(None),
                _ => return self.unexpected("peek", &reply),
            }
        }
        Ok(bodies)
    }

    /// Does something with each job; which of them were there, and ours.
    fn each(
        &mut self,
        jobs: &[u64],
        done: &str,
        line: impl Fn(u64) -> String,
    ) -> Result<Vec<bool>> {
        let mut were = Vec::with_capacity(jobs.len());
        for jobs in jobs.chunks(PIPELINED) {
            for job in jobs {
                self.command(&line(*job));
            }
            self.send()?;
            for _ in jobs {
                let reply = self.reply()?;
                if !reply.is(done) && !reply.is("NOT_FOUND") {
                    return self.unexpected(done, &reply);
                }
                were.push(reply.is(done));
            }
        }
        Ok(were)
    }

    pub(super) fn delete(&mut self, jobs: &[u64]) -> Result<Vec<bool>> {
        self.each(jobs, "DELETED", |job| format!("delete {job}"))
    }

    pub(super) fn release(&mut self, priority: u32, jobs: &[u64]) -> Result<()> {
        self.each(jobs, "RELEASED", |job| {
            format!("release {job} {priority} 0")
        })?;
        Ok(())
    }

    pub(super) fn touch(&mut self, jobs: &[u64]) -> Result<()> {
        self.each(jobs, "TOUCHED", |job| format!("touch {job}"))?;
        Ok(())
    }

    /// Makes buried and delayed jobs ready, many at a time; how many.
    pub(super) fn kick(&mut self, tube: &str) -> Result<u64> {
        self.use_tube(tube)?;
        let reply = self.ask("kick 1000000")?;
        match reply.number(1) {
            Some(count) if reply.is("KICKED") => Ok(count),
            _ => self.unexpected("kick", &reply),
        }
    }

    /// What the lines `key: number` of an answer say.
    fn statistics(&mut self, command: &str) -> Result<Option<String>> {
        let reply = self.ask(command)?;
        match reply.number(1) {
            Some(len @ ..=BODY) if reply.is("OK") => {
                let body = self.body(len)?;
                Ok(Some(String::from_utf8_lossy(&body).into_owned()))
            }
            _ if reply.is("NOT_FOUND") => Ok(None),
            _ => self.unexpected(command, &reply),
        }
    }

    pub(super) fn jobs_in(&mut self, tube: &str) -> Result<Jobs> {
        let Some(text) = self.statistics(&format!("stats-tube {tube}"))? else {
            return Ok(Jobs::default());
        };
        let of = |key| value(&text, key).unwrap_or(0);
        Ok(Jobs {
            ready: of("current-jobs-ready"),
            reserved: of("current-jobs-reserved"),
            delayed: of("current-jobs-delayed"),
            buried: of("current-jobs-buried"),
        })
    }

    pub(super) fn max_job_size(&mut self) -> Result<usize> {
        let text = self.statistics("stats")?.unwrap_or_default();
        let size = value(&text, "max-job-size").unwrap_or(65_535);
        Ok(usize::try_from(size).unwrap_or(BODY).clamp(1024, BODY))
    }
}

fn value(text: &str, key: &str) -> Option<u64> {
    text.lines()
        .filter_map(|line| line.split_once(": "))
        .find(|(found, _)| *found == key)
        .and_then(|(_, value)| value.trim().parse().ok())
}

fn open(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "this host has no address");
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}
