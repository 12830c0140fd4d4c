//! What is compiled: objects as people wrote them, and what the registry knows.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use leno_config::{Kind, Resource};
use leno_ir::{Health, Mesh, ServicePort};
use leno_types::{AppProtocol, DnsLabel, HostName, ServiceName, WorkloadUid};

/// One change of what is known. `None` means that it is gone.
#[derive(Clone, Debug)]
pub enum Input {
    /// An applied object: kind, namespace, name. The resource is of that kind and has that name.
    Object(Kind, DnsLabel, DnsLabel, Option<Arc<Resource>>),
    /// A registered workload.
    Workload(WorkloadUid, Option<Arc<WorkloadRecord>>),
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

/// A registered workload, as the registry authorised it (CP5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadRecord {
    /// Its id.
    pub uid: WorkloadUid,
    /// Its namespace.
    pub namespace: DnsLabel,
    /// Its name, unique in the mesh while it lives.
    pub name: String,
    /// Its service account.
    pub service_account: DnsLabel,
    /// The service it is registered for; `None` when it only calls.
    pub service: Option<ServiceName>,
    /// Its version; empty when it has none.
    pub version: String,
    /// Whether its version makes a service `SERVICE-VERSION`; not where that name was promised to others.
    pub versioned: bool,
    /// Labels beside those that [`WorkloadRecord::all_labels`] adds. Selectors believe them, so that only what the
    /// registry authorised may stand here.
    pub labels: BTreeMap<String, String>,
    /// Where its proxy is reached.
    pub addresses: Vec<IpAddr>,
    /// The port of its proxy there.
    pub hbone_port: u16,
    /// The agent that hosts it.
    pub agent: DnsLabel,
    /// What it serves.
    pub ports: Vec<RegisteredPort>,
    /// Whether its checks pass.
    pub health: Health,
    /// Whether its checks ever passed: before that it is no endpoint of a service.
    pub ready: bool,
}

/// A port a workload was registered with: `--port 80:8080/http`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisteredPort {
    /// The port of its service.
    pub service_port: u16,
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
        format!("{prefix}-{}", self.service_port)
    }
}

/// The service for a version of another alone, `cart-v2`; `None` where that is no name.
#[must_use]
pub fn version_service(
    namespace: &DnsLabel,
    service: &DnsLabel,
    version: &str,
) -> Option<ServiceName> {
    let version = version.to_ascii_lowercase().replace(['.', '_'], "-");
    let name = format!("{service}-{version}").parse().ok()?;
    Some(ServiceName::new(namespace.clone(), name))
}

impl WorkloadRecord {
    /// The labels that selectors see: its own, and `app`, `version`, `leno.dev/service` and
    /// `leno.dev/service-account` as registered, whatever its own labels say.
    #[must_use]
    pub fn all_labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.labels.clone();
        for own in ["leno.dev/service", "leno.dev/service-account"] {
            labels.remove(own);
        }
        if let Some(service) = &self.service {
            labels.insert("app".into(), service.name.to_string());
            labels.insert("leno.dev/service".into(), service.name.to_string());
        }
        if !self.version.is_empty() {
            labels.insert("version".into(), self.version.clone());
        }
        labels.insert(
            "leno.dev/service-account".into(),
            self.service_account.to_string(),
        );
        labels
    }

    /// One of [`WorkloadRecord::all_labels`].
    #[must_use]
    pub fn label(&self, name: &str) -> Option<&str> {
        let service = || self.service.as_ref().map(|service| service.name.as_str());
        match name {
            "leno.dev/service" => service(),
            "leno.dev/service-account" => Some(self.service_account.as_str()),
            "app" if self.service.is_some() => service(),
            "version" if !self.version.is_empty() => Some(&self.version),
            _ => self.labels.get(name).map(String::as_str),
        }
    }

    /// The service for its version alone, `cart-v2`; `None` where that is no name.
    #[must_use]
    pub fn version_service(&self) -> Option<ServiceName> {
        let service = self.service.as_ref()?;
        if self.version.is_empty() || !self.versioned {
            return None;
        }
        version_service(&service.namespace, &service.name, &self.version)
    }

    /// The services it is registered for: its own and its version's.
    pub(crate) fn registered_for(&self) -> impl Iterator<Item = ServiceName> {
        self.service
            .clone()
            .into_iter()
            .chain(self.version_service())
    }

    /// Whether everything that routes and services depend on is the same; health, readiness and place may differ.
    pub(crate) fn same_shape(&self, other: &Self) -> bool {
        self.namespace == other.namespace
            && self.service_account == other.service_account
            && self.service == other.service
            && self.version == other.version
            && self.versioned == other.versioned
            && self.labels == other.labels
            && self.ports == other.ports
    }
}
