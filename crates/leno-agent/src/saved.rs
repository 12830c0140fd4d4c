//! What a running agent keeps on a tmpfs, so that its restart without a control plane serves on (CP3): the workloads
//! it hosts with their keys and certificates, and the last good configuration. After a reboot it is gone.
//!
//! Files of mode 0600, replaced whole: the workloads as JSON, the configuration as protobuf, the routes as JSON, and
//! whose they are. Where the directory is on a disk, keys are left out: they are asked for anew after a restart.
//! Invariant: an agent reads only what an agent of its name in its mesh has written: one with a root in common, as a mesh
//! made anew may have the name of one that is gone.

use std::{fs, io, net::IpAddr, path::Path};

use leno_wire::discovery::DeltaDiscoveryResponse;
use prost::Message;
use serde::{Deserialize, Serialize};

use crate::{
    files,
    host_network::Ports,
    protocol::{Network, Start},
};

/// What is in the run directory while no agent runs: secrets of programs, the last good configuration, and whose they
/// are.
pub const KEPT_FILES: [&str; 4] = [WORKLOADS, ROUTES, CONFIGURATION, OWNER];
const WORKLOADS: &str = "workloads.json";
const ROUTES: &str = "routes.json";
const CONFIGURATION: &str = "configuration.pb";
const OWNER: &str = "owner";

/// One hosted workload, as saved.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SavedWorkload {
    pub(crate) uid: String,
    pub(crate) identity: String,
    pub(crate) name: String,
    pub(crate) run_user: u32,
    /// Empty where the directory is on a disk.
    pub(crate) key: String,
    pub(crate) chain: String,
    pub(crate) bundle: String,
    pub(crate) start: Start,
    #[serde(default)]
    pub(crate) healthy: bool,
    /// Of a program on the host's network.
    #[serde(default)]
    pub(crate) ports: Option<Ports>,
}

/// What an agent finds of its predecessor.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    /// The workloads that it hosted; none when it left none, or what it left cannot be read.
    pub(crate) workloads: Vec<SavedWorkload>,
    /// The configuration that it ran, as far as it can be read.
    pub(crate) configuration: Vec<DeltaDiscoveryResponse>,
    /// Workloads of another agent, whose state was removed.
    pub(crate) left: Vec<SavedWorkload>,
}

/// Takes the directory for an agent, with what is its own there. What another left, before this host joined anew as
/// somebody else, is removed.
///
/// `pins` are those of the roots that the agent trusts.
///
/// # Errors
/// When it cannot be told, or written down, whose it is: then nothing there may be used.
pub(crate) fn claim(
    run_dir: &Path,
    (mesh, agent): (&str, &str),
    pins: &[String],
) -> io::Result<Kept> {
    let left = take(run_dir, (mesh, agent), pins)?;
    Ok(Kept {
        workloads: load_workloads(run_dir),
        configuration: load_configuration(run_dir),
        left,
    })
}

/// Makes the directory this agent's; gives the workloads of another whose it was.
fn take(
    run_dir: &Path,
    (mesh, agent): (&str, &str),
    pins: &[String],
) -> io::Result<Vec<SavedWorkload>> {
    let path = run_dir.join(OWNER);
    let owner = format!("{mesh}/{agent} {}\n", pins.join(" "));
    let mut left = Vec::new();
    match files::read_optional(&path)? {
        Some(was) if was == owner.as_bytes() => return Ok(left),
        None => {}
        // The roots change one by one.
        Some(was) if is_of(&was, &format!("{mesh}/{agent}"), pins) => {}
        Some(_) => {
            left = load_workloads(run_dir);
            for file in [WORKLOADS, CONFIGURATION] {
                match fs::remove_file(run_dir.join(file)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    Ok(()) | Err(_) => {}
                }
            }
        }
    }
    files::write_private_unsynced(&path, owner.as_bytes())?;
    Ok(left)
}

/// Whether an owner's line names this agent, with a root that is in `pins`.
fn is_of(line: &[u8], name: &str, pins: &[String]) -> bool {
    let mut words = std::str::from_utf8(line).unwrap_or_default().split(' ');
    words.next() == Some(name) && words.any(|pin| pins.iter().any(|ours| ours == pin.trim_end()))
}

/// Writes the workloads.
pub(crate) fn save_workloads(run_dir: &Path, workloads: &[SavedWorkload]) -> io::Result<()> {
    files::write_private_unsynced(&run_dir.join(WORKLOADS), &serde_json::to_vec(workloads)?)
}

/// Writes which routes were added to this host.
pub(crate) fn save_routes(run_dir: &Path, routes: &[(IpAddr, u8)]) -> io::Result<()> {
    files::write_private_unsynced(&run_dir.join(ROUTES), &serde_json::to_vec(routes)?)
}

/// The routes that a predecessor added.
pub(crate) fn load_routes(run_dir: &Path) -> Vec<(IpAddr, u8)> {
    let content = files::read_optional(&run_dir.join(ROUTES)).ok().flatten();
    content
        .and_then(|content| serde_json::from_slice(&content).ok())
        .unwrap_or_default()
}

/// Writes the configuration.
pub(crate) fn save_configuration(
    run_dir: &Path,
    messages: &[DeltaDiscoveryResponse],
) -> io::Result<()> {
    let mut content = Vec::new();
    for message in messages {
        message
            .encode_length_delimited(&mut content)
            .map_err(io::Error::other)?;
    }
    files::write_private_unsynced(&run_dir.join(CONFIGURATION), &content)
}

fn load_workloads(run_dir: &Path) -> Vec<SavedWorkload> {
    let content = files::read_optional(&run_dir.join(WORKLOADS))
        .ok()
        .flatten();
    content
        .and_then(|content| serde_json::from_slice(&content).ok())
        .unwrap_or_default()
}

/// The programs that still run on the host's network, by name: the agent of this run directory has rules for them on the
/// host, which only it, or one that follows it, takes away when they end.
#[must_use]
pub fn on_host_network(run_dir: &Path) -> Vec<String> {
    named(run_dir, false)
}

/// The programs, by name, that an agent served here to its end, but those of which it is known that they have ended since.
#[must_use]
pub fn served(run_dir: &Path) -> Vec<String> {
    named(run_dir, true)
}

/// Of one in a network of its own nothing here tells whether it runs.
fn named(run_dir: &Path, where_unknown: bool) -> Vec<String> {
    let lives = |saved: &SavedWorkload| match &saved.start.network {
        Network::Own => where_unknown,
        Network::Host { cgroup } => cgroup.is_dir(),
    };
    let saved = load_workloads(run_dir).into_iter().filter(lives);
    saved
        .map(|saved| format!("{} ({})", saved.start.program, saved.name))
        .collect()
}

fn load_configuration(run_dir: &Path) -> Vec<DeltaDiscoveryResponse> {
    let content = files::read_optional(&run_dir.join(CONFIGURATION))
        .ok()
        .flatten()
        .unwrap_or_default();
    let mut rest = content.as_slice();
    let mut messages = Vec::new();
    while !rest.is_empty() {
        let Ok(message) = DeltaDiscoveryResponse::decode_length_delimited(&mut rest) else {
            break;
        };
        messages.push(message);
    }
    messages
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn an_agent_finds_its_own_state_and_none_of_another() {
        let directory = tempfile::tempdir().unwrap();
        let dir = directory.path();
        let pins = ["sha256/a", "sha256/b", "sha256/c"].map(str::to_owned);
        let claim = |mesh, agent, pins: &[String]| claim(dir, (mesh, agent), pins).unwrap();
        assert!(claim("default", "b", &pins[..1]).left.is_empty());
        save_configuration(dir, &[DeltaDiscoveryResponse::default()]).unwrap();
        let saved = SavedWorkload {
            uid: "u".into(),
            identity: "spiffe://default.leno/ns/default/sa/cart".into(),
            name: "cart-1234".into(),
            run_user: 0,
            key: String::new(),
            chain: String::new(),
            bundle: String::new(),
            start: serde_json::from_str(r#"{"program": "cart", "sockets": []}"#).unwrap(),
            healthy: true,
            ports: None,
        };
        save_workloads(dir, &[saved]).unwrap();
        assert!(on_host_network(dir).is_empty());
        assert_eq!(served(dir), ["cart (cart-1234)"]);
        // Also while the mesh changes its root, and after that.
        for pins in [&pins[..1], &pins[..2], &pins[1..2]] {
            let kept = claim("default", "b", pins);
            let found = (
                kept.left.len(),
                kept.workloads.len(),
                kept.configuration.len(),
            );
            assert_eq!(found, (0, 1, 1));
        }
        let written = [WORKLOADS, CONFIGURATION].map(|file| fs::read(dir.join(file)).unwrap());
        // The last is of a mesh made anew under the same name.
        for (mesh, agent, pin) in [
            ("default", "b-14d4", 1),
            ("other", "b", 1),
            ("default", "b", 2),
        ] {
            claim("default", "b", &pins[1..2]);
            for (file, content) in [WORKLOADS, CONFIGURATION].into_iter().zip(&written) {
                fs::write(dir.join(file), content).unwrap();
            }
            let kept = claim(mesh, agent, &pins[pin..=pin]);
            assert_eq!(kept.left.len(), 1);
            assert!(kept.workloads.is_empty() && kept.configuration.is_empty());
        }
    }

    #[test]
    fn a_directory_of_which_nobody_can_tell_whose_it_is_gives_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let dir = directory.path();
        save_configuration(dir, &[DeltaDiscoveryResponse::default()]).unwrap();
        fs::create_dir(dir.join(OWNER)).unwrap();
        claim(dir, ("default", "b"), &["sha256/a".to_owned()]).unwrap_err();
    }

    #[test]
    fn a_program_on_the_hosts_network_is_told_of_while_its_cgroup_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let (dir, cgroup) = (directory.path(), directory.path().join("leno-run-1"));
        std::fs::create_dir(&cgroup).unwrap();
        let saved = SavedWorkload {
            uid: "u".into(),
            identity: String::new(),
            name: "cart-1234".into(),
            run_user: 0,
            key: String::new(),
            chain: String::new(),
            bundle: String::new(),
            start: serde_json::from_value(serde_json::json!({
                "program": "cart", "sockets": [], "network": {"host": {"cgroup": cgroup}},
            }))
            .unwrap(),
            healthy: true,
            ports: None,
        };
        save_workloads(dir, &[saved]).unwrap();
        assert_eq!(on_host_network(dir), ["cart (cart-1234)"]);
        std::fs::remove_dir(&cgroup).unwrap();
        assert!(on_host_network(dir).is_empty() && served(dir).is_empty());
    }
}
