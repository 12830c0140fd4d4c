//! What programs, keys and the store need of this machine.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use super::{Check, Finding, conntrack, ill, told, well};

/// Below so many a busy proxy runs out of them.
const FEW_FILES: u64 = 4_096;
/// Below so many bytes of memory left, the next program may be the last.
const LITTLE_MEMORY: u64 = 128 << 20;
/// Below so many bytes of disk left, the store is soon full.
const LITTLE_DISK: u64 = 64 << 20;

/// Everything that can be looked at without a mesh.
pub(super) fn findings(data_dir: &Path, run_dir: &Path) -> Vec<Finding> {
    let root = leno_net::netns::has_admin_capability();
    let mut findings = vec![namespaces(root)];
    findings.extend(user_namespaces(root));
    findings.push(ip_versions(leno_net::link::ipv6_enabled()));
    findings.extend(conntrack::finding());
    findings.push(open_files(leno_net::process::most_open_files()));
    findings.extend(leno_net::room::room().map(|room| memory(room.free)));
    findings.extend(disk(data_dir));
    findings.extend(state_private(data_dir));
    findings.extend(keys_in_memory(run_dir));
    findings.push(control_groups());
    let resolvers = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    findings.push(resolver(&resolvers));
    findings
}

fn number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn namespaces(root: bool) -> Finding {
    let allowed = number("/proc/sys/user/max_user_namespaces").unwrap_or(0);
    if root || allowed > 0 {
        let what = "programs can be given a network namespace (no way to the host's 127.0.0.1: --network host)";
        return well(Check::Namespaces, what);
    }
    ill(
        Check::Namespaces,
        "programs cannot be given a network namespace",
        "user namespaces are forbidden (user.max_user_namespaces is 0)",
        "as root: sysctl -w user.max_user_namespaces=10000; or run leno as root",
    )
}

/// Root needs no user namespace.
fn user_namespaces(root: bool) -> Option<Finding> {
    if root {
        return None;
    }
    let restricted = number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == Some(1);
    Some(if restricted {
        ill(
            Check::UserNamespaces,
            "your namespaces may do nothing here",
            "AppArmor restricts the user namespaces of ordinary users",
            "as root: sysctl -w kernel.apparmor_restrict_unprivileged_userns=0; or run leno as root",
        )
    } else {
        well(
            Check::UserNamespaces,
            "no security module restricts your namespaces",
        )
    })
}

fn ip_versions(ipv6: bool) -> Finding {
    let what = if ipv6 {
        "IPv4 and IPv6"
    } else {
        "IPv4 only: IPv6 is switched off, names have no AAAA"
    };
    well(Check::IpVersions, what)
}

fn open_files(most: u64) -> Finding {
    if most < FEW_FILES {
        let why =
            format!("{most}: a proxy needs two for a request; raise LimitNOFILE (ulimit -Hn)");
        return told(Check::OpenFiles, "a process may have few files open", why);
    }
    well(
        Check::OpenFiles,
        format!("a process may have {most} files open"),
    )
}

fn memory(free: u64) -> Finding {
    if free < LITTLE_MEMORY {
        let why = format!(
            "{} MiB: proxies refuse the less important first when it runs out",
            free >> 20
        );
        return told(Check::Memory, "little memory is left", why);
    }
    well(
        Check::Memory,
        format!("{} MiB of memory are left", free >> 20),
    )
}

/// The room of the file system that holds, or will hold, the state.
fn disk(data_dir: &Path) -> Option<Finding> {
    let there = data_dir.ancestors().find(|path| path.exists())?;
    let of = rustix::fs::statvfs(there).ok()?;
    Some(judge_disk(
        of.f_bavail.saturating_mul(of.f_frsize),
        data_dir,
    ))
}

fn judge_disk(free: u64, data_dir: &Path) -> Finding {
    let place = data_dir.display();
    if free < LITTLE_DISK {
        return ill(
            Check::Disk,
            format!("the disk of {place} is nearly full"),
            format!(
                "{} MiB are left: a full one refuses changes of the mesh",
                free >> 20
            ),
            "free some, or keep state elsewhere with --data-dir",
        );
    }
    well(
        Check::Disk,
        format!("{} MiB are left on the disk of {place}", free >> 20),
    )
}

fn state_private(data_dir: &Path) -> Option<Finding> {
    let found = fs::metadata(data_dir).ok()?;
    Some(judge_mode(found.mode(), data_dir))
}

fn judge_mode(mode: u32, directory: &Path) -> Finding {
    let place = directory.display();
    // It may be listed by others: what is in it is 0600 or in directories of 0700.
    if mode & 0o022 != 0 {
        return ill(
            Check::StatePrivate,
            format!("others may write to {place}"),
            format!(
                "its mode is {:o}: who writes there can put keys of their own in the place of Leno's",
                mode & 0o777
            ),
            format!("chmod 700 {place}"),
        );
    }
    well(
        Check::StatePrivate,
        format!("nobody else may write to {place}"),
    )
}

fn keys_in_memory(run_dir: &Path) -> Option<Finding> {
    let there = run_dir.ancestors().find(|path| path.exists())?;
    let place = run_dir.display();
    Some(match leno_net::memory::is_in_memory(there) {
        Ok(true) => well(
            Check::KeysInMemory,
            format!("programs' keys stay in memory ({place})"),
        ),
        Ok(false) => told(
            Check::KeysInMemory,
            format!("{place} is on a disk"),
            "programs' keys are kept in the agent's memory alone there: after its restart without a control plane they are gone; \
             --run-dir with a directory on tmpfs",
        ),
        Err(error) => told(
            Check::KeysInMemory,
            format!("{place} was not looked at"),
            error.to_string(),
        ),
    })
}

fn control_groups() -> Finding {
    match leno_net::cgroup::root() {
        Ok(_) => well(
            Check::ControlGroups,
            "control groups are there (leno run --network host)",
        ),
        Err(error) => told(
            Check::ControlGroups,
            "leno run --network host does not work here",
            format!("{error}; programs in a network of their own do not need it"),
        ),
    }
}

fn resolver(text: &str) -> Finding {
    let mut named = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next())?
    });
    match named.next() {
        Some(first) => well(
            Check::Resolver,
            format!("names outside the mesh are asked of {first}"),
        ),
        None => told(
            Check::Resolver,
            "there is no resolver for names outside the mesh",
            "/etc/resolv.conf names none: add one, or start the agent with --dns ADDRESS:PORT",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_short_is_told_and_what_is_unsafe_is_trouble() {
        let shown = |finding: Finding| format!("{:?}", finding.state);
        assert!(shown(open_files(1_024)).contains("LimitNOFILE"));
        assert_eq!(shown(open_files(1 << 20)), "Well");
        assert!(shown(memory(1 << 20)).contains("Told"));
        assert_eq!(shown(memory(1 << 30)), "Well");
        let place = Path::new("/state");
        assert!(judge_disk(1 << 20, place).is_trouble());
        assert!(!judge_disk(1 << 30, place).is_trouble());
        for (mode, trouble) in [
            (0o40700, false),
            (0o40755, false),
            (0o40775, true),
            (0o40707, true),
        ] {
            assert_eq!(judge_mode(mode, place).is_trouble(), trouble, "{mode:o}");
        }
    }

    #[test]
    fn a_file_without_a_resolver_is_told_of() {
        assert!(matches!(
            resolver("# nameserver 10.0.0.1\noptions rotate\n").state,
            super::super::State::Told(_)
        ));
        let found = resolver("search corp\nnameserver 10.0.0.1\nnameserver 10.0.0.2\n");
        assert!(found.what.contains("10.0.0.1"), "{}", found.what);
    }
}
