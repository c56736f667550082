//! The servers that `scripts/services` starts for tests, by the URLs that it says.
#![allow(dead_code, reason = "no test uses all of it")]

pub mod proxy;

/// The URL of a server; `None`, and said, where none was started. Where all are required that is a failure.
pub fn url(variable: &str) -> Option<String> {
    let url = std::env::var(variable).ok().filter(|url| !url.is_empty());
    if url.is_none() {
        let thread = std::thread::current();
        let test = thread.name().unwrap_or("this test");
        assert_ne!(
            std::env::var("PROCESSION_TEST_SERVERS").as_deref(),
            Ok("required"),
            "{variable} is not set, and all servers are required"
        );
        eprintln!("NOT RUN: {test}, because {variable} is not set; make test starts the servers");
    }
    url
}

/// A name that no other test's queue has.
pub fn unique(base: &str) -> String {
    use std::time::{SystemTime, UNIX_EPOCH};
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = since.map_or(0, |since| since.as_nanos());
    format!("{base}-{}-{now}", std::process::id())
}

/// The port of a server's URL.
pub fn port(url: &str) -> u16 {
    let after = url.rsplit_once(':').expect("a port").1;
    after
        .split('/')
        .next()
        .and_then(|port| port.parse().ok())
        .expect("a port")
}

/// The same URL, by way of another port of the loopback.
pub fn by_way_of(url: &str, way: u16) -> String {
    let port = port(url);
    url.replacen(&format!(":{port}"), &format!(":{way}"), 1)
}
