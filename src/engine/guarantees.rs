//! What each engine promises, and what it does not: one table, for `procession guarantees` and docs/engines.md.

use std::fmt;

/// What an engine promises. Each is a sentence or two for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guarantees {
    /// Its name, as its makers write it.
    pub engine: &'static str,
    /// The URLs that lead to it.
    pub url: &'static str,
    /// How often an item may be seen, and when it is lost.
    pub delivery: &'static str,
    /// In which order items come.
    pub order: &'static str,
    /// How exact `maxsize` is.
    pub maxsize: &'static str,
    /// Where items are, and what they outlive.
    pub durability: &'static str,
    /// What is lost when the server is started anew.
    pub restart: &'static str,
    /// When what a dead getter held goes to another one.
    pub lease: &'static str,
    /// The largest item, and the like.
    pub limits: &'static str,
    /// Items a second, as measured, and how.
    pub speed: &'static str,
}

/// What ZeroMQ promises, with a process of ours as host.
pub(super) static ZEROMQ: Guarantees = Guarantees {
    engine: "ZeroMQ",
    url: "tcp://HOST:PORT?queue=NAME, ipc://PATH?queue=NAME: a host of queues (procession queue); without ?queue= the queue of a program that has \
          bound it there",
    delivery: "While processes live, each item is returned by exactly one get. Of a getter that is killed, what it had not confirmed goes to others: \
               items of its last 8 ms may be seen twice. With a JoinableQueue an item is seen again until it was done with.",
    order: "That of putting, for each putter. What comes back goes to the head, before later ones.",
    maxsize: "Exact: items that no get has returned, those on their way included.",
    durability: "In the memory of the host's process; with procession queue --journal FILE in a file, before a put is accepted.",
    restart: "Everything, and members see HostGone; with --journal nothing, and members wait for the host: what getters held may be seen twice.",
    lease: "As long as the getter's connection lives; between hosts three missed heartbeats (3 s).",
    limits: "None of its own: large items go in parts of 256 KiB.",
    speed: "5 million small items a second through a Queue by TCP on loopback, put by one thread and got by another beside the host on two cores.",
};

impl Guarantees {
    /// Its rows: what is promised about, and what.
    #[must_use]
    pub const fn rows(&self) -> [(&'static str, &'static str); 9] {
        [
            ("URL", self.url),
            ("delivery", self.delivery),
            ("order", self.order),
            ("maxsize", self.maxsize),
            ("durability", self.durability),
            ("restart", self.restart),
            ("lease", self.lease),
            ("limits", self.limits),
            ("speed", self.speed),
        ]
    }
}

impl fmt::Display for Guarantees {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.engine)?;
        for (about, what) in self.rows() {
            write!(f, "\n{about:<11} {what}")?;
        }
        Ok(())
    }
}

#[cfg(all(test, feature = "redis", feature = "amqp", feature = "beanstalk"))]
mod tests {
    use crate::engine;

    #[test]
    fn the_documentation_has_the_same_table() {
        let page = include_str!("../../docs/engines.md");
        let mut rest = page;
        for address in ["tcp://h:1", "redis://h", "amqp://h", "beanstalk://h"] {
            let promised = engine::guarantees(&address.parse().unwrap()).unwrap();
            let rows = promised.rows();
            let table: String = rows
                .iter()
                .map(|(about, what)| format!("| {about} | {what} |\n"))
                .collect();
            let at = rest.find(&table);
            let at = at.unwrap_or_else(|| panic!("docs/engines.md wants this table:\n{table}"));
            rest = &rest[at + table.len()..];
        }
    }
}
