//! How much memory there is to be had.
//!
//! Pages that are not there are not refused: to find them the system ends some process, mostly the one that asked. So whoever asks for much
//! looks first.

use std::fs;
use std::path::Path;

use rustix::process::{Resource, getrlimit};

/// So much is simply taken, as any program does with its memory.
const LITTLE: u64 = 1 << 20;

/// # Errors
/// Why there is no room for so many bytes.
pub(super) fn check(size: u64) -> Result<(), String> {
    // A file that is larger than this process may make would end it by a signal.
    if let Some(limit) = getrlimit(Resource::Fsize).current
        && size > limit
    {
        return Err(format!(
            "this process may make no file of more than {limit} bytes (ulimit -f)"
        ));
    }
    if size <= LITTLE {
        return Ok(());
    }
    let of_host = fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| of_host(&text));
    if let Some(available) = of_host.filter(|available| size > *available) {
        return Err(format!("{available} bytes are to be had"));
    }
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    match of_group(Path::new("/sys/fs/cgroup"), &groups) {
        Some(available) if size > available => Err(format!(
            "{available} bytes are left of what this container or control group may have"
        )),
        _ => Ok(()),
    }
}

/// What the system can give without taking it from programs, in bytes.
fn of_host(meminfo: &str) -> Option<u64> {
    let kilobytes = |name: &str| -> Option<u64> {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix("kB")?.trim().parse().ok()
    };
    let swap = kilobytes("SwapFree:").unwrap_or(0);
    Some(kilobytes("MemAvailable:")?.saturating_add(swap) << 10)
}

/// What is left to this process's control group and those that it is in, in bytes. `groups` is the text of `/proc/self/cgroup`, which may name
/// groups of the host that cannot be seen here.
fn of_group(root: &Path, groups: &str) -> Option<u64> {
    let left = groups.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let path = path.trim_start_matches('/');
        match controllers {
            "" => in_tree(root, path, ["memory.max", "memory.current"]),
            _ if controllers.split(',').any(|name| name == "memory") => in_tree(
                &root.join("memory"),
                path,
                ["memory.limit_in_bytes", "memory.usage_in_bytes"],
            ),
            _ => None,
        }
    });
    left.min()
}

fn in_tree(root: &Path, path: &str, [limit, used]: [&str; 2]) -> Option<u64> {
    let group = root.join(path);
    let above = group
        .ancestors()
        .take_while(|above| above.starts_with(root));
    let left = above.filter_map(|group| {
        let number = |name: &str| -> Option<u64> {
            fs::read_to_string(group.join(name))
                .ok()?
                .trim()
                .parse()
                .ok()
        };
        // Without a limit it is no number, or a huge one.
        let limit = number(limit)?;
        // Of what is used, files that nobody has used lately are given up first.
        let stat = fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
        let idle = stat
            .lines()
            .find_map(|line| line.strip_prefix("inactive_file "));
        let idle: u64 = idle.and_then(|idle| idle.trim().parse().ok()).unwrap_or(0);
        Some(limit.saturating_sub(number(used).unwrap_or(0).saturating_sub(idle)))
    });
    left.min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tightest_group_counts() -> std::io::Result<()> {
        let dir = tempfile::tempdir()?;
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap_or(dir.path()))?;
            fs::write(path, text)
        };
        assert_eq!(of_group(dir.path(), "0::/a/b\n"), None, "there is no limit");
        write("a/b/memory.max", "max\n")?;
        write("a/b/memory.current", "10\n")?;
        assert_eq!(of_group(dir.path(), "0::/a/b\n"), None);
        write("a/memory.max", "1000\n")?;
        write("a/memory.current", "500\n")?;
        write("a/memory.stat", "anon 400\ninactive_file 100\n")?;
        assert_eq!(of_group(dir.path(), "0::/a/b\n"), Some(600));
        write("a/memory.current", "5000\n")?;
        assert_eq!(of_group(dir.path(), "0::/a/b\n"), Some(0));
        write("memory/x/memory.limit_in_bytes", "70\n")?;
        write("memory/x/memory.usage_in_bytes", "20\n")?;
        assert_eq!(
            of_group(dir.path(), "5:cpu:/x\n4:memory,hugetlb:/x\n0::/\n"),
            Some(50)
        );
        // A group of the host, that cannot be seen.
        write("memory/memory.limit_in_bytes", "40\n")?;
        assert_eq!(of_group(dir.path(), "4:memory:/docker/1234\n"), Some(40));
        assert_eq!(of_group(dir.path(), "nonsense\n4:memory\n"), None);
        Ok(())
    }

    #[test]
    fn the_host_has_what_is_available_and_free_swap() {
        let text = "MemTotal: 9 kB\nMemAvailable:   5 kB\nSwapFree:  2 kB\n";
        assert_eq!(of_host(text), Some(7 << 10));
        assert_eq!(of_host("MemTotal: 9 kB\n"), None);
    }
}
