//! What comes out: one resource for each key, and what is to be said about objects.

use std::net::IpAddr;

use leno_config::ParentRef;
use leno_types::{HostName, ServiceName, WorkloadUid};

/// What a proxy can be told about.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key {
    /// What every proxy of the mesh knows.
    Mesh,
    /// A service: its ports and routes.
    Destination(ServiceName),
    /// The workloads at one address.
    Host(IpAddr),
    /// The workloads of a service.
    Endpoints(ServiceName),
    /// A workload, for the agent that hosts it.
    OwnWorkload(WorkloadUid),
    /// A further name of a service.
    Hostname(HostName),
}

/// What it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// For [`Key::Destination`], [`Key::Host`] and [`Key::Hostname`].
    Destination(leno_ir::Destination),
    /// For [`Key::Endpoints`].
    Endpoints(leno_ir::Endpoints),
    /// For [`Key::OwnWorkload`].
    OwnWorkload(leno_ir::OwnWorkload),
    /// For [`Key::Mesh`].
    Mesh(leno_ir::Mesh),
}

/// Why a service exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Somebody wrote it.
    Applied,
    /// Workloads are registered for it.
    Registered,
    /// Workloads are registered for a version of another.
    Version,
    /// Workloads were.
    Remembered,
}

/// A service that exists: applied, or derived from registrations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EffectiveService {
    /// Its name.
    pub name: ServiceName,
    /// Its ports.
    pub ports: Vec<leno_ir::ServicePort>,
    /// Why it exists.
    pub origin: Origin,
    /// `clusterIP: None`: it is given no address.
    pub headless: bool,
}

/// What is said about an object (`status.conditions`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// The parent of a route that it is about.
    pub parent: Option<ParentRef>,
    /// `Accepted`, `ResolvedRefs` or `Generated`.
    pub r#type: &'static str,
    /// Whether it holds.
    pub status: bool,
    /// One word for machines.
    pub reason: &'static str,
    /// A sentence for people.
    pub message: String,
    /// The generation of the object that it is about.
    pub observed_generation: u64,
}

/// What a generator gives to a service that it selects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generated {
    /// The generator: its namespace and its name.
    pub generator: ServiceName,
    /// The name that the service has by it; otherwise one word for machines and a sentence for people.
    pub name: Result<HostName, (&'static str, String)>,
}
