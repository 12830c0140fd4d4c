//! What memory this process has, and what it could still get: of the machine, and of every control group it is in
//! (version 2 of them; where there is none, the machine's counts).
//!
//! What its neighbours hold is neither its own nor free. Memory that the kernel gives back when it is asked for, as
//! that of files, is free.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// What memory this process has and could still get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Bytes it has: its heap and stacks.
    pub own: u64,
    /// Bytes it could still get.
    pub free: u64,
}

/// What this process has and could still get; `None` where the system does not say.
#[must_use]
pub fn room() -> Option<Room> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let machine = fs::read_to_string("/proc/meminfo").ok()?;
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let free = kilobytes(&machine, "MemAvailable")?;
    Some(Room {
        own: kilobytes(&status, "RssAnon")?,
        free: of_groups(Path::new("/sys/fs/cgroup"), &groups)
            .map_or(free, |of_group| of_group.min(free)),
    })
}

/// What the fullest group leaves, of those this process is in.
fn of_groups(mount: &Path, groups: &str) -> Option<u64> {
    let path = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let own: PathBuf = mount.join(path);
    let all = own.ancestors().take_while(|dir| dir.starts_with(mount));
    all.filter_map(of_group).min()
}

/// What one group leaves; `None` without a limit.
fn of_group(dir: &Path) -> Option<u64> {
    let number = |file: &str| -> Option<u64> {
        let text = fs::read_to_string(dir.join(file)).ok()?;
        // `max` is no limit.
        text.trim().parse().ok()
    };
    let limit = match (number("memory.max"), number("memory.high")) {
        (Some(max), Some(high)) => max.min(high),
        (max, high) => max.or(high)?,
    };
    let used = number("memory.current")?;
    let free = limit.saturating_sub(used);
    if free > limit / 2 {
        return Some(free);
    }
    // The kernel adds this up when it is asked, which is not for nothing.
    let stat = fs::read_to_string(dir.join("memory.stat")).unwrap_or_default();
    let kept: u64 = ["active_file", "inactive_file", "slab_reclaimable"]
        .iter()
        .filter_map(|name| {
            let line = stat
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line?.trim().parse::<u64>().ok()
        })
        .sum();
    Some(limit.saturating_sub(used.saturating_sub(kept)))
}

fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let number = line.trim().strip_suffix("kB")?.trim().parse::<u64>();
    number.ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn this_process_has_some_and_could_get_more() {
        let room = room().unwrap();
        assert!(room.own > 0 && room.free > room.own, "{room:?}");
    }

    #[test]
    fn the_fullest_group_counts_and_what_files_hold_is_free() {
        let dir = std::env::temp_dir().join(format!("leno-room-{}", std::process::id()));
        let group = dir.join("a/b");
        fs::create_dir_all(&group).unwrap();
        let say = |at: &Path, file: &str, text: &str| fs::write(at.join(file), text).unwrap();
        assert_eq!(of_groups(&dir, "0::/a/b\n"), None);
        say(&group, "memory.max", "max\n");
        say(&group, "memory.high", "1000\n");
        say(&group, "memory.current", "100\n");
        assert_eq!(of_groups(&dir, "0::/a/b\n"), Some(900));
        // The group around it is smaller.
        say(&dir.join("a"), "memory.max", "500\n");
        say(&dir.join("a"), "memory.high", "max\n");
        say(&dir.join("a"), "memory.current", "480\n");
        say(
            &dir.join("a"),
            "memory.stat",
            "anon 80\nfile 400\nactive_file 100\ninactive_file 250\n",
        );
        assert_eq!(of_groups(&dir, "1:name=systemd:/x\n0::/a/b\n"), Some(370));
        // Nothing of another's, and no version 1.
        assert_eq!(of_groups(&dir, "4:memory:/a/b\n"), None);
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn what_is_no_number_is_none() {
        assert_eq!(
            kilobytes("MemAvailable:  12 kB\n", "MemAvailable"),
            Some(12 * 1024)
        );
        assert_eq!(kilobytes("MemAvailable: 12\n", "MemAvailable"), None);
        assert_eq!(kilobytes("", "MemAvailable"), None);
    }
}
