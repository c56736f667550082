//! How often the kernel has killed for want of memory, as a cgroup tells.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// How many processes of a cgroup the kernel has killed for want of memory so far.
///
/// A count that has risen while a process ran, and was killed, is as much as the kernel says of whom it has killed.
///
/// ```
/// use procession::obituary::OomKills;
/// let kills = OomKills::of_self();
/// let before = kills.count();
/// // … something is killed …
/// assert!(kills.count() >= before);
/// ```
#[derive(Debug, Default)]
pub struct OomKills {
    /// `memory.events` (version 2) or `memory.oom_control` (version 1), held open: it is read twice a command.
    file: Option<File>,
}

impl OomKills {
    /// Of this process's own cgroup.
    #[must_use]
    pub fn of_self() -> Self {
        Self::of("self")
    }

    /// Of the cgroup of a process on this host.
    pub(crate) fn of_process(pid: u32) -> Self {
        Self::of(&pid.to_string())
    }

    fn of(process: &str) -> Self {
        let text = std::fs::read_to_string(format!("/proc/{process}/cgroup")).unwrap_or_default();
        let root = Path::new("/sys/fs/cgroup");
        Self {
            file: candidates(root, &text).find_map(|path| File::open(path).ok()),
        }
    }

    /// How many; 0 where nobody counts them.
    #[must_use]
    pub fn count(&self) -> u64 {
        let mut text = [0; 512];
        self.file
            .as_ref()
            .and_then(|file| file.read_at(&mut text, 0).ok())
            .and_then(|len| counted(&text[..len]))
            .unwrap_or(0)
    }
}

/// Where the count may stand for a process with these cgroups. In a container the path may be that of the host, and what is
/// seen at the root be the container's own.
fn candidates(root: &Path, cgroups: &str) -> impl Iterator<Item = PathBuf> {
    let mut paths = Vec::new();
    for line in cgroups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else {
            continue;
        };
        let (folder, file) = if controllers.is_empty() {
            (root.to_owned(), "memory.events")
        } else if controllers.split(',').any(|name| name == "memory") {
            (root.join("memory"), "memory.oom_control")
        } else {
            continue;
        };
        paths.push(folder.join(path.trim_start_matches('/')).join(file));
        paths.push(folder.join(file));
    }
    paths.into_iter()
}

fn counted(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?;
    let count = text
        .lines()
        .find_map(|line| line.strip_prefix("oom_kill "))?;
    count.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_of_cgroups_are_found_and_read() {
        let of = |text: &str| -> Vec<PathBuf> { candidates(Path::new("/c"), text).collect() };
        assert_eq!(
            of("0::/a/b\n"),
            [
                Path::new("/c/a/b/memory.events"),
                Path::new("/c/memory.events")
            ]
        );
        assert_eq!(
            of("5:cpu:/x\n4:memory:/y\n"),
            [
                Path::new("/c/memory/y/memory.oom_control"),
                Path::new("/c/memory/memory.oom_control")
            ]
        );
        assert!(of("").is_empty() && of("nonsense\n1:").is_empty());
        assert_eq!(
            counted(b"low 0\nhigh 1\nmax 2\noom 3\noom_kill 4\noom_group_kill 0\n"),
            Some(4)
        );
        assert_eq!(
            counted(b"oom_kill_disable 0\nunder_oom 0\noom_kill 7\n"),
            Some(7)
        );
        assert_eq!(counted(b"oom_kill_disable 0\n"), None);
        assert_eq!(counted(b"\xff"), None);
    }

    #[test]
    fn nobody_who_counts_is_no_error() {
        assert_eq!(OomKills::default().count(), 0);
        assert_eq!(OomKills::of_process(u32::MAX).count(), 0);
    }
}
