//! What a running agent keeps on a tmpfs, so that its restart without a control plane serves on (CP3): the workloads
//! it hosts with their keys and certificates, and the last good configuration. After a reboot it is gone.
//!
//! Files of mode 0600, replaced whole: the workloads as JSON, the configuration as protobuf, the routes as JSON.

use std::{io, net::IpAddr, path::Path};

use leno_wire::discovery::DeltaDiscoveryResponse;
use prost::Message;
use serde::{Deserialize, Serialize};

use crate::{files, host_network::Ports, protocol::Start};

/// What is in the run directory while no agent runs: secrets of programs, and the last good configuration.
pub const KEPT_FILES: [&str; 3] = [WORKLOADS, ROUTES, CONFIGURATION];
const WORKLOADS: &str = "workloads.json";
const ROUTES: &str = "routes.json";
const CONFIGURATION: &str = "configuration.pb";

/// One hosted workload, as saved.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SavedWorkload {
    pub(crate) uid: String,
    pub(crate) identity: String,
    pub(crate) name: String,
    pub(crate) run_user: u32,
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

/// Writes the workloads.
pub(crate) fn save_workloads(run_dir: &Path, workloads: &[SavedWorkload]) -> io::Result<()> {
    files::write_private(&run_dir.join(WORKLOADS), &serde_json::to_vec(workloads)?)
}

/// Writes which routes were added to this host.
pub(crate) fn save_routes(run_dir: &Path, routes: &[(IpAddr, u8)]) -> io::Result<()> {
    files::write_private(&run_dir.join(ROUTES), &serde_json::to_vec(routes)?)
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
    files::write_private(&run_dir.join(CONFIGURATION), &content)
}

/// The workloads that a predecessor hosted; none when it left none, or what it left cannot be read.
pub(crate) fn load_workloads(run_dir: &Path) -> Vec<SavedWorkload> {
    let content = files::read_optional(&run_dir.join(WORKLOADS))
        .ok()
        .flatten();
    content
        .and_then(|content| serde_json::from_slice(&content).ok())
        .unwrap_or_default()
}

/// The configuration that a predecessor ran, as far as it can be read.
pub(crate) fn load_configuration(run_dir: &Path) -> Vec<DeltaDiscoveryResponse> {
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
