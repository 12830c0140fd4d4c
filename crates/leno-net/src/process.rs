//! What `/proc` says about processes: memory, and who listens on a port (for error messages only).

use std::fs;
use std::io;

use rustix::process::{Resource, getrlimit, setrlimit};

/// A process's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Resident, shared pages counted whole.
    pub rss_bytes: u64,
    /// Resident, shared pages counted in proportion: what adds up across processes.
    pub pss_bytes: u64,
    /// Resident and backed by no file: heap and stacks.
    pub rss_anon_bytes: u64,
}

/// The memory of process `pid`. The kernel walks its page tables for this: not for a hot path.
pub fn memory(pid: i32) -> io::Result<Memory> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    parse_rollup(&text).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            "smaps_rollup lacks Rss, Pss or Anonymous",
        )
    })
}

fn parse_rollup(text: &str) -> Option<Memory> {
    let field = |name: &str| -> Option<u64> {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim()
            .strip_suffix("kB")?
            .trim()
            .parse::<u64>()
            .ok()?
            .checked_mul(1024)
    };
    Some(Memory {
        rss_bytes: field("Rss")?,
        pss_bytes: field("Pss")?,
        rss_anon_bytes: field("Anonymous")?,
    })
}

/// The process that listens on TCP `port` in this network namespace, and its program's name. For error messages
/// only: it scans `/proc`, and sees only processes it may look into.
#[must_use]
pub fn owner_of_port(port: u16) -> Option<(i32, String)> {
    let inodes: Vec<String> = ["/proc/self/net/tcp", "/proc/self/net/tcp6"]
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .flat_map(|table| listening_inodes(&table, port))
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    if inodes.is_empty() {
        return None;
    }
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let holds = fs::read_dir(entry.path().join("fd"))
            .ok()?
            .flatten()
            .filter_map(|fd| fs::read_link(fd.path()).ok())
            .any(|link| {
                inodes
                    .iter()
                    .any(|inode| link.as_os_str() == inode.as_str())
            });
        if !holds {
            return None;
        }
        let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        Some((pid, name.trim_end().to_owned()))
    })
}

/// The inodes of sockets that listen on `port`, from the text of `/proc/net/tcp` (proc(5)).
fn listening_inodes(table: &str, port: u16) -> Vec<u64> {
    const LISTEN: &str = "0A";
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let mut fields = line.split_ascii_whitespace();
            let (_, local_port) = fields.nth(1)?.rsplit_once(':')?;
            let state = fields.nth(1)?;
            let inode = fields.nth(5)?.parse().ok()?;
            let matches = state == LISTEN && u16::from_str_radix(local_port, 16) == Ok(port);
            matches.then_some(inode)
        })
        .collect()
}

/// Allows this process as many open files as the system lets it have: the customary 1,024 are one caller's to use up.
/// Not for a process that starts programs, which would inherit it (select(2) cannot take more).
pub fn allow_open_files() -> io::Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    Ok(setrlimit(Resource::Nofile, limit)?)
}

/// Keeps transparent huge pages from this process and all that it starts. In one that holds thousands of blocks for
/// days, each used in part, they keep resident what nobody uses.
///
/// # Errors
/// Where the kernel knows no such setting.
pub fn refuse_huge_pages() -> io::Result<()> {
    Ok(rustix::thread::disable_transparent_huge_pages(true)?)
}

/// How many files this process may have open.
#[must_use]
pub fn open_files() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// How many files a process of this user may have open once it asks ([`allow_open_files`]).
#[must_use]
pub fn most_open_files() -> u64 {
    getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX)
}

/// The effective user of this process.
#[must_use]
pub fn user() -> u32 {
    rustix::process::geteuid().as_raw()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn memory_of_this_process_adds_up() {
        let memory = memory(std::process::id().cast_signed()).unwrap();
        assert!(memory.rss_bytes >= memory.pss_bytes && memory.rss_bytes >= memory.rss_anon_bytes);
        assert!(memory.rss_anon_bytes > 0);
    }

    #[test]
    fn a_process_that_refuses_huge_pages_has_none() {
        refuse_huge_pages().unwrap();
        assert!(rustix::thread::transparent_huge_pages_are_disabled().unwrap());
    }

    #[test]
    fn as_many_files_are_allowed_as_the_system_lets_be() {
        allow_open_files().unwrap();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
        assert_eq!(open_files(), limit.maximum.unwrap_or(u64::MAX));
    }

    #[test]
    fn a_rollup_that_lacks_a_field_is_refused() {
        let text = "55-7f ---p 0 00:00 0 [rollup]\nRss: 12 kB\nPss:  8 kB\nAnonymous: 4 kB\n";
        let expected = Memory {
            rss_bytes: 12 * 1024,
            pss_bytes: 8 * 1024,
            rss_anon_bytes: 4 * 1024,
        };
        assert_eq!(parse_rollup(text), Some(expected));
        assert_eq!(parse_rollup(&text.replace("Pss:", "Pss_Dirty:")), None);
        assert_eq!(
            parse_rollup(&text.replace("12", "99999999999999999999")),
            None
        );
        assert_eq!(parse_rollup(""), None);
    }

    #[test]
    fn a_listener_is_found_by_its_port_and_not_by_the_other_ends() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let client = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        let (pid, name) = owner_of_port(port).unwrap();
        assert_eq!(pid, std::process::id().cast_signed());
        assert!(!name.is_empty());
        assert_eq!(owner_of_port(client.local_addr().unwrap().port()), None);
    }
}
