//! A program in the host's network: a cgroup of its own, by which the agent tells its connections.
//!
//! This process is in the cgroup only while it starts the program: what it does itself is not captured.

use std::{
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use leno_net::cgroup;

use crate::exit::CommandError;

/// The dead leave a cgroup a moment after they are killed.
const EMPTIES: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(10);

/// The program's cgroup.
pub(crate) struct HostPlace {
    path: PathBuf,
    /// Where this process was before.
    home: PathBuf,
}

/// Makes a cgroup: below the one that this process is in, which is where a user may, if anywhere.
pub(crate) fn make() -> Result<HostPlace, CommandError> {
    let hint = "leave --network host away: in a network of its own a program needs no cgroup";
    let root = cgroup::root().map_err(|error| {
        CommandError::permission(format!("--network host needs cgroup v2: {error}")).hint(format!(
            "mount it (mount -t cgroup2 none /sys/fs/cgroup, on a host that uses none), or {hint}"
        ))
    })?;
    let pid = std::process::id();
    let made = cgroup::of_process(pid.cast_signed()).and_then(|home| {
        let path = home.join(format!("leno-run-{pid}"));
        std::fs::create_dir(&path)?;
        Ok(HostPlace { path, home })
    });
    made.map_err(|error| refused(&root, &error, hint))
}

fn refused(root: &Path, error: &io::Error, hint: &str) -> CommandError {
    let root = root.display();
    let (what, how) = match error.kind() {
        io::ErrorKind::PermissionDenied => (
            format!("no cgroup can be made below {root}: you may not"),
            "run it as root (sudo leno run ..), or in a cgroup that is yours (systemd-run --user --scope -p \
             Delegate=yes leno run ..)",
        ),
        io::ErrorKind::ReadOnlyFilesystem => (
            format!(
                "no cgroup can be made: {root} is mounted read-only here, as containers commonly do"
            ),
            "run it outside of the container, or mount the container's cgroup hierarchy writable",
        ),
        _ => (
            format!("no cgroup can be made below {root}: {error}"),
            "look at what /proc/self/cgroup says",
        ),
    };
    CommandError::permission(what).hint(format!("{how}; or {hint}"))
}

impl HostPlace {
    /// Its directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Starts something inside.
    pub(crate) fn within<T>(
        &self,
        start: impl FnOnce() -> Result<T, CommandError>,
    ) -> Result<T, CommandError> {
        let pid = std::process::id().cast_signed();
        cgroup::move_process(&self.path, pid).map_err(|error| {
            let path = self.path.display();
            CommandError::permission(format!(
                "the program cannot be put into cgroup {path}: {error}"
            ))
            .hint("leave --network host away, or run it as root")
        })?;
        let started = start();
        if let Err(error) = cgroup::move_process(&self.home, pid) {
            say!("leno: this process stays in the program's cgroup: {error}");
        }
        started
    }

    /// Ends what the program left behind, and removes the cgroup.
    pub(crate) async fn remove(&self) {
        // Gone already is as good.
        drop(cgroup::kill_all(&self.path));
        let until = Instant::now() + EMPTIES;
        while cgroup::remove(&self.path).is_err() && Instant::now() < until {
            tokio::time::sleep(LOOK).await;
        }
    }
}

impl Drop for HostPlace {
    /// When the program was never started.
    fn drop(&mut self) {
        drop(cgroup::remove(&self.path));
    }
}

/// Why names of the mesh would not be found: the one resolver that cannot be captured.
pub(crate) fn deaf_resolver() -> Option<String> {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    asks_loopback(&text).map(|address| {
        format!(
            "this host asks {address} for names, and nothing on loopback but 127.0.0.53 is captured: the program finds no \
             names of the mesh (call its services by their addresses, or leave --network host away)"
        )
    })
}

fn asks_loopback(resolv_conf: &str) -> Option<String> {
    let server = |line: &str| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver"))
            .then(|| words.next())?
            .map(str::to_owned)
    };
    let first = resolv_conf.lines().find_map(server)?;
    let loopback = first
        .parse()
        .is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
    (loopback && first != "127.0.0.53").then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resolver_on_loopback_is_named_unless_it_is_the_stub() {
        assert_eq!(
            asks_loopback("search a\nnameserver 127.0.0.1\nnameserver 10.0.0.1\n").as_deref(),
            Some("127.0.0.1")
        );
        assert_eq!(asks_loopback("nameserver ::1").as_deref(), Some("::1"));
        for fine in [
            "nameserver 127.0.0.53\n",
            "nameserver 10.0.0.1\nnameserver 127.0.0.1",
            "",
        ] {
            assert_eq!(asks_loopback(fine), None, "{fine}");
        }
    }

    #[test]
    fn each_reason_against_a_cgroup_has_its_own_next_step() {
        let text =
            |kind| refused(Path::new("/cg"), &io::Error::from(kind), "go without").to_string();
        assert!(text(io::ErrorKind::PermissionDenied).contains("Delegate=yes"));
        assert!(text(io::ErrorKind::ReadOnlyFilesystem).contains("read-only"));
        assert!(text(io::ErrorKind::NotFound).contains("/proc/self/cgroup"));
    }
}
