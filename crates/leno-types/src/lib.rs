//! Identities, names, ports and durations of a mesh: parsed once, then always valid.
//!
//! Every type here is made by parsing and cannot be wrong afterwards. Nothing here does I/O or reads a clock. Names and
//! identities are `Arc<str>` inside, so a clone is cheap.

mod app_protocol;
mod duration;
mod hidden;
mod host_name;
mod host_port;
mod identity;
mod join_token;
mod limits;
mod name;
mod overload;
mod refusal;
mod uid;

pub use app_protocol::{AppProtocol, AppProtocolError};
pub use duration::{DurationError, format_duration, parse_duration};
pub use hidden::is_hidden;
pub use host_name::{HostName, HostNameError};
pub use host_port::{HostPort, HostPortError};
pub use identity::{Identity, IdentityError, TrustDomain};
pub use join_token::{JOINING_SUFFIX, JoinToken, JoinTokenError, joining_name};
pub use limits::MAX_WORKLOAD_PORTS;
pub use name::{DnsLabel, MeshName, NameError, ServiceName, parse_service_host};
pub use overload::{Priority, Signal};
pub use refusal::Refusal;
pub use uid::{UidError, WorkloadUid, deployed_name};

/// Ports every proxy of a mesh keeps for itself; a workload may not register one and a peer may not ask for one.
pub mod ports {
    /// Proxy admin, loopback only.
    pub const ADMIN: u16 = 15000;
    /// Outbound capture.
    pub const OUTBOUND: u16 = 15001;
    /// Inbound capture of what did not come through the mesh.
    pub const INBOUND: u16 = 15006;
    /// HBONE: mutual TLS between proxies.
    pub const HBONE: u16 = 15008;
    /// Control plane: gRPC for agents, the API for people.
    pub const CONTROL_PLANE: u16 = 15012;
    /// Control plane metrics.
    pub const CONTROL_PLANE_METRICS: u16 = 15014;
    /// Proxy metrics, Prometheus text.
    pub const METRICS: u16 = 15020;
    /// Proxy readiness.
    pub const READINESS: u16 = 15021;
    /// DNS capture where port 53 is not free.
    pub const DNS: u16 = 15053;

    /// Whether `port` is one of Leno's own.
    #[must_use]
    pub fn is_reserved(port: u16) -> bool {
        matches!(
            port,
            ADMIN
                | OUTBOUND
                | INBOUND
                | HBONE
                | CONTROL_PLANE
                | CONTROL_PLANE_METRICS
                | METRICS
                | READINESS
                | DNS
        )
    }
}
