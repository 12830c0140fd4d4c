//! What an address or a name means: a service with its routes, or the mesh's workloads at one host.

use std::net::IpAddr;

use leno_types::{AppProtocol, HostName, Identity, ServiceName, WorkloadUid};

use crate::Route;

/// The answer to "what is this destination".
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// A service, by name or by one of its virtual addresses.
    Service(Service),
    /// A member of the mesh, by its own address.
    Host(Host),
    /// Another name of a service, which is to be looked up by its own.
    Hostname(Hostname),
}

/// A further name of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hostname {
    /// The name.
    pub name: HostName,
    /// Whose it is.
    pub service: ServiceName,
}

/// A service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: ServiceName,
    /// Its virtual addresses.
    pub vips: Vec<IpAddr>,
    /// It has no virtual address and gets none: its name means its endpoints.
    pub headless: bool,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// Its routes in order; when there are none, everything goes to its own endpoints.
    pub routes: Vec<Route>,
}

impl Service {
    /// The port with this number.
    #[must_use]
    pub fn port(&self, number: u16) -> Option<&ServicePort> {
        self.ports.iter().find(|port| port.port == number)
    }
}

/// A port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Its number.
    pub port: u16,
    /// What it speaks; `None` is detected.
    pub protocol: Option<AppProtocol>,
    /// Its name; may be empty.
    pub name: String,
}

/// Everything of the mesh that answers at one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// The address.
    pub address: IpAddr,
    /// The workloads there.
    pub endpoints: Vec<Endpoint>,
}

impl Host {
    /// The workload that serves `port` there, by its own or its published port.
    #[must_use]
    pub fn at(&self, port: u16) -> Option<(&Endpoint, &EndpointPort)> {
        self.endpoints.iter().find_map(|endpoint| {
            let found = endpoint
                .ports
                .iter()
                .find(|p| p.workload_port == port || p.published == Some(port));
            found.map(|port| (endpoint, port))
        })
    }
}

/// The endpoints of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoints {
    /// The service.
    pub service: ServiceName,
    /// Its workloads, healthy or not.
    pub endpoints: Vec<Endpoint>,
}

/// A workload as its callers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its id, sent as SNI.
    pub uid: WorkloadUid,
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Who it must prove to be.
    pub identity: Identity,
    /// Its `version` label.
    pub version: String,
    /// Its first service, for labels; empty when it only calls.
    pub service: String,
    /// Where its proxy is reached; at least one.
    pub addresses: Vec<IpAddr>,
    /// The port of its proxy there.
    pub hbone_port: u16,
    /// Its ports.
    pub ports: Vec<EndpointPort>,
    /// Whether it is fit to be called.
    pub health: Health,
}

impl Endpoint {
    /// The workload's port behind a port of the service.
    #[must_use]
    pub fn port_of_service(&self, service_port: u16) -> Option<&EndpointPort> {
        self.ports
            .iter()
            .find(|port| port.service_port == service_port)
    }
}

/// A port of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointPort {
    /// The service's port; 0 in a [`Host`].
    pub service_port: u16,
    /// Where the program listens.
    pub workload_port: u16,
    /// What it speaks; `None` is detected.
    pub protocol: Option<AppProtocol>,
    /// The host's port for callers from outside the mesh.
    pub published: Option<u16>,
}

/// Whether an endpoint is fit to be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Health {
    /// Its checks pass.
    Healthy,
    /// Its checks fail: called only when nothing better is there.
    Unhealthy,
    /// Its agent is silent, but too many are at once for that to be its own doing.
    Unknown,
}
