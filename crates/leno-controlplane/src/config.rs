//! What a control plane is told at its start.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use leno_ir::Prefix;
use leno_types::{HostPort, MeshName, TrustDomain, ports};

/// Shortest life of a workload's certificate: below it, renewal would be most of what a mesh does.
pub const SHORTEST_WORKLOAD_TTL: Duration = Duration::from_secs(10);

/// What a control plane is told at its start.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the store, the keys and the state are; made with mode 0700.
    pub data_dir: PathBuf,
    /// Where the TLS port listens.
    pub listen: Vec<SocketAddr>,
    /// How others reach it: written into join tokens and the certificate. Empty: found from `listen`.
    pub advertise: Vec<HostPort>,
    /// The Unix socket for people on this machine.
    pub admin_socket: PathBuf,
    /// Where metrics are read, in clear.
    pub metrics: Option<SocketAddr>,
    /// The mesh.
    pub mesh: MeshName,
    /// Its trust domain; `MESH.leno` when not given.
    pub trust_domain: Option<TrustDomain>,
    /// Networks of the mesh's members; what lies inside is never called in clear (CP7).
    pub prefixes: Vec<Prefix>,
    /// Life of a workload's certificate.
    pub workload_ttl: Duration,
    /// Life of the intermediate CA, which renews itself at half of it.
    pub intermediate_ttl: Duration,
    /// Changes that the store keeps for watches that were cut.
    pub watch_history: u32,
    /// Written (JSON: pid, addresses) once everything listens; removed at the end.
    pub ready_file: Option<PathBuf>,
}

impl Config {
    /// The defaults, with all state under `data_dir`.
    #[must_use]
    pub fn new(data_dir: PathBuf) -> Self {
        let port = ports::CONTROL_PLANE;
        Self {
            admin_socket: data_dir.join("admin.sock"),
            data_dir,
            listen: vec![
                (Ipv4Addr::UNSPECIFIED, port).into(),
                (Ipv6Addr::UNSPECIFIED, port).into(),
            ],
            advertise: Vec::new(),
            metrics: Some((Ipv4Addr::LOCALHOST, ports::CONTROL_PLANE_METRICS).into()),
            mesh: "default".parse().expect("a legal name"),
            trust_domain: None,
            prefixes: Vec::new(),
            workload_ttl: Duration::from_secs(24 * 3600),
            intermediate_ttl: Duration::from_secs(90 * 24 * 3600),
            watch_history: 10_000,
            ready_file: None,
        }
    }
}
