//! Directories of the cgroup v2 hierarchy: made, removed, identified, filled.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::capture::Cgroup;

/// Where the cgroup v2 hierarchy is mounted here.
pub fn root() -> io::Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    mount_point(&mounts)
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no cgroup v2 hierarchy is mounted"))
}

/// The mount point of the first cgroup2 file system in the text of mountinfo (proc(5)).
fn mount_point(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        if file_system.split(' ').next() != Some("cgroup2") {
            return None;
        }
        mount.split(' ').nth(4).map(PathBuf::from)
    })
}

/// The cgroup of process `pid`, as a directory below [`root`].
pub fn of_process(pid: i32) -> io::Result<PathBuf> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"));
    let path = path.ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::NotFound,
            format!("process {pid} is in no cgroup v2"),
        )
    })?;
    Ok(root()?.join(path))
}

/// Makes a directory `path` and those above it.
pub fn create(path: &Path) -> io::Result<Cgroup> {
    fs::create_dir_all(path)?;
    identify(path)
}

/// What the kernel matches the cgroup by. One that is removed and made again has another id.
pub fn identify(path: &Path) -> io::Result<Cgroup> {
    let root = root()?;
    let below = path.strip_prefix(&root).map_err(|_| {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{} is not below {}", path.display(), root.display()),
        )
    })?;
    let level = u32::try_from(below.components().count()).map_err(io::Error::other)?;
    Ok(Cgroup {
        level,
        id: fs::metadata(path)?.ino(),
    })
}

/// Removes a cgroup without processes; true when there was one.
pub fn remove(path: &Path) -> io::Result<bool> {
    match fs::remove_dir(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Moves process `pid`, with all its threads, into the cgroup. Sockets it made before stay where they were.
pub fn move_process(path: &Path, pid: i32) -> io::Result<()> {
    fs::write(path.join("cgroup.procs"), pid.to_string())
}

/// Kills every process in the cgroup and below it (Linux 5.14).
pub fn kill_all(path: &Path) -> io::Result<()> {
    fs::write(path.join("cgroup.kill"), "1")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn the_unified_hierarchy_is_found_among_others() {
        let hybrid = "31 26 0:27 / /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu\n\
                      32 26 0:28 / /sys/fs/cgroup/unified rw,relatime shared:10 master:2 - cgroup2 cgroup2 rw\n";
        assert_eq!(
            mount_point(hybrid),
            Some(PathBuf::from("/sys/fs/cgroup/unified"))
        );
        assert_eq!(mount_point("1 2 0:3 / / rw - ext4 cgroup2 rw\n"), None);
    }

    #[test]
    fn what_is_no_cgroup_is_not_identified() {
        let Ok(root) = root() else {
            return leno_testkit::skipped("no cgroup v2 here");
        };
        assert_eq!(
            identify(Path::new("/etc")).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
        assert_eq!(identify(&root).unwrap().level, 0);
    }
}
