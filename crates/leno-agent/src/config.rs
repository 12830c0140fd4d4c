//! What an agent is told when it is started.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use leno_ir::Prefix;
use leno_types::{DnsLabel, ports};

use crate::{RunUser, protocol::Start};

/// What an agent is told when it is started. Every port can be moved; 0 lets the kernel choose.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where its identity is kept: mode 0700, one file each for key, certificate and what was joined.
    pub data_dir: PathBuf,
    /// Where its socket is, and what does not outlive a reboot: mode 0755 (a tmpfs; `/run/leno`).
    pub run_dir: PathBuf,
    /// The host's name.
    pub host: DnsLabel,
    /// Its addresses, as others reach it; the first of each family is the one programs get.
    pub addresses: Vec<IpAddr>,
    /// The port of mutual TLS between proxies, on every address.
    pub hbone_port: u16,
    /// Proxy admin, on loopback.
    pub admin: SocketAddr,
    /// Metrics for Prometheus.
    pub metrics: SocketAddr,
    /// Readiness.
    pub readiness: SocketAddr,
    /// Resolvers for names outside the mesh.
    pub dns_upstreams: Vec<SocketAddr>,
    /// The host's search domains (resolv.conf(5)).
    pub dns_search: Vec<String>,
    /// Users who may run programs here, and as whom, besides root and the agent's own.
    pub run_users: Vec<RunUser>,
    /// Take the listeners over from the agent that runs here now.
    pub takeover: bool,
    /// Where the access log goes; none is written without it.
    pub access_log: Option<PathBuf>,
    /// The workload that this whole namespace is, for a container's sidecar: every connection of the namespace is
    /// captured, and the agent registers the workload itself. Its `uid` and `sockets` are not looked at. Needs
    /// `CAP_NET_ADMIN` in the namespace.
    pub sidecar: Option<Start>,
    /// Which of a sidecar's connections go past the mesh.
    pub exclusions: Exclusions,
}

/// Connections of a wholly captured namespace that are left alone, as they are: in clear, unseen, under no policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exclusions {
    /// Ports on which the workload is called.
    pub inbound_ports: Vec<u16>,
    /// Ports that the workload calls, wherever they are.
    pub outbound_ports: Vec<u16>,
    /// Networks that the workload calls.
    pub outbound_networks: Vec<Prefix>,
    /// Users as whom programs of the namespace run that call past the mesh, their DNS included.
    pub outbound_users: Vec<u32>,
}

impl Config {
    /// The defaults for a host with these addresses.
    #[must_use]
    pub fn new(
        host: DnsLabel,
        addresses: Vec<IpAddr>,
        data_dir: PathBuf,
        run_dir: PathBuf,
    ) -> Self {
        let any = |port: u16| SocketAddr::from(([0, 0, 0, 0], port));
        Self {
            data_dir,
            run_dir,
            host,
            addresses,
            hbone_port: ports::HBONE,
            admin: SocketAddr::from(([127, 0, 0, 1], ports::ADMIN)),
            metrics: any(ports::METRICS),
            readiness: any(ports::READINESS),
            dns_upstreams: Vec::new(),
            dns_search: Vec::new(),
            run_users: Vec::new(),
            takeover: false,
            access_log: None,
            sidecar: None,
            exclusions: Exclusions::default(),
        }
    }

    /// Where `leno run` finds the agent.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        socket(&self.run_dir)
    }
}

/// Where the socket of a run directory is.
pub(crate) fn socket(run_dir: &Path) -> PathBuf {
    run_dir.join("agent.sock")
}
