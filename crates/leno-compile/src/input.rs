//! What is compiled: objects as people wrote them, and what the registry knows.

use std::{collections::BTreeSet, net::IpAddr, ops::Deref, sync::Arc};

use leno_config::{Kind, Resource};
use leno_ir::{Health, Mesh, ServicePort};
use leno_types::{
    AppProtocol, DnsLabel, HostName, Identity, ServiceName, TrustDomain, WorkloadUid,
};

/// One change of what is known. `None` means that it is gone.
#[derive(Clone, Debug)]
pub enum Input {
    /// An applied object: kind, namespace, name. The resource is of that kind and has that name.
    Object(Kind, DnsLabel, DnsLabel, Option<Arc<Resource>>),
    /// A registered workload.
    Workload(WorkloadUid, Option<WorkloadRecord>),
    /// A service that workloads were registered for, kept for when none is; `None`: forgotten.
    Remembered(ServiceName, Option<Arc<Remembered>>),
    /// The virtual addresses of a service; none when it has none (any more).
    Vips(ServiceName, Vec<IpAddr>),
    /// The mesh; below which domains services have further names is filled in.
    Mesh(Arc<Mesh>),
    /// Names by which the control plane is reached: no service gets one.
    Reserved(Arc<BTreeSet<HostName>>),
}

/// What stays of a derived service when its last workload is gone: its name goes on, and nobody answers (503, reason
/// UH). A name that came and went with its programs would be kept as unknown by whoever asked in between.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// Whether workloads were registered for it, not only for a version of another service: then no version's name
    /// may take its place.
    pub own: bool,
    /// When workloads first were, as [`leno_config::Meta::creation`] has it.
    pub since: Option<String>,
}

/// A program as it was registered and the registry authorised it (CP5): what stays the same for as long as that stands.
/// It is kept once, by whoever knows of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Its id.
    pub uid: WorkloadUid,
    /// The agent that hosts it.
    pub agent: DnsLabel,
    /// Its namespace.
    pub namespace: DnsLabel,
    /// Its name. It ends as its id begins, so that two of one name are rare, and told apart by their ids.
    pub name: Box<str>,
    /// Its service account.
    pub service_account: DnsLabel,
    /// The service that it is registered for; `None` when it only calls.
    pub service: Option<DnsLabel>,
    /// Its version.
    pub version: Option<DnsLabel>,
    /// What it serves.
    pub ports: Box<[RegisteredPort]>,
}

/// Where the programs of an agent are reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The addresses of its proxy.
    pub addresses: Vec<IpAddr>,
    /// The port of its proxy there.
    pub hbone_port: u16,
}

/// A registered workload: its program, and how that is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadRecord {
    /// What it is.
    pub program: Arc<Program>,
    /// Where it is.
    pub place: Arc<Place>,
    /// Whether its version makes a service `SERVICE-VERSION`; not where that name was promised to others.
    pub versioned: bool,
    /// Whether its checks pass.
    pub health: Health,
    /// Whether its checks ever passed: before that it is no endpoint of a service.
    pub ready: bool,
}

impl Deref for WorkloadRecord {
    type Target = Program;

    fn deref(&self) -> &Program {
        &self.program
    }
}

/// A port a workload was registered with: `--port 80:8080/http`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisteredPort {
    /// The port of its service; `None` when it belongs to none.
    pub service_port: Option<u16>,
    /// Where the program listens.
    pub workload_port: u16,
    /// What it speaks; `None` is detected.
    pub protocol: Option<AppProtocol>,
    /// The port of the host for callers from outside the mesh.
    pub published: Option<u16>,
}

impl RegisteredPort {
    /// The name by which a `targetPort` may mean this port, and which a derived service's port has: `http-80`.
    #[must_use]
    pub fn name(&self) -> String {
        let prefix = self.protocol.map_or("port", AppProtocol::as_str);
        format!("{prefix}-{}", self.of_service())
    }

    /// The port of its service, which is the program's own unless it was registered with another.
    #[must_use]
    pub fn of_service(&self) -> u16 {
        self.service_port.unwrap_or(self.workload_port)
    }
}

impl Program {
    /// Who it is.
    #[must_use]
    pub fn identity(&self, domain: &TrustDomain) -> Identity {
        Identity::workload(domain, &self.namespace, &self.service_account)
    }

    /// The service that it is registered for.
    #[must_use]
    pub fn service_name(&self) -> Option<ServiceName> {
        let name = self.service.clone()?;
        Some(ServiceName::new(self.namespace.clone(), name))
    }

    /// The service for its version alone, `cart-v2`; `None` where that is no name.
    #[must_use]
    pub fn version_service(&self) -> Option<ServiceName> {
        let (service, version) = (self.service.as_ref()?, self.version.as_ref()?);
        let name = format!("{service}-{version}").parse().ok()?;
        Some(ServiceName::new(self.namespace.clone(), name))
    }

    /// Its version; empty when it has none.
    #[must_use]
    pub fn version_text(&self) -> &str {
        self.version.as_ref().map_or("", DnsLabel::as_str)
    }

    /// The labels that selectors see: what was authorised, and nothing that a program says of itself.
    pub fn labels(&self) -> impl Iterator<Item = (&'static str, &str)> {
        LABELS
            .into_iter()
            .filter_map(|name| Some((name, self.label(name)?)))
    }

    /// One of [`Program::labels`].
    #[must_use]
    pub fn label(&self, name: &str) -> Option<&str> {
        let label = match name {
            "app" | "leno.dev/service" => self.service.as_ref()?,
            "leno.dev/service-account" => &self.service_account,
            "version" => self.version.as_ref()?,
            _ => return None,
        };
        Some(label.as_str())
    }
}

/// Names of labels that workloads may have, in order.
const LABELS: [&str; 4] = [
    "app",
    "leno.dev/service",
    "leno.dev/service-account",
    "version",
];

impl WorkloadRecord {
    /// The service that its version makes.
    #[must_use]
    pub fn made_service(&self) -> Option<ServiceName> {
        self.version_service().filter(|_| self.versioned)
    }

    /// The services it is registered for: its own and its version's.
    pub(crate) fn registered_for(&self) -> impl Iterator<Item = ServiceName> {
        self.service_name().into_iter().chain(self.made_service())
    }

    /// Whether everything that routes and services depend on is the same; health, readiness and place may differ.
    pub(crate) fn same_shape(&self, other: &Self) -> bool {
        self.namespace == other.namespace
            && self.service_account == other.service_account
            && self.service == other.service
            && self.version == other.version
            && self.versioned == other.versioned
            && self.ports == other.ports
    }
}
