//! What a proxy asks for: services and hosts, and who answers for them.

use std::net::IpAddr;

use leno_wire::mesh as wire;

use super::{
    WireError, all, optional_port, parse, parse_all, port, protocol_from_wire, protocol_to_wire,
    route::{route_from_wire, route_to_wire},
    texts,
};
use crate::{
    Destination, Endpoint, EndpointPort, Endpoints, Health, Host, Hostname, Service, ServicePort,
};

impl Destination {
    /// The message that says this.
    #[must_use]
    pub fn to_wire(&self) -> wire::Destination {
        let kind = match self {
            Self::Service(service) => wire::destination::Kind::Service(service_to_wire(service)),
            Self::Host(host) => wire::destination::Kind::Host(wire::Host {
                address: host.address.to_string(),
                endpoints: host.endpoints.iter().map(endpoint_to_wire).collect(),
            }),
            Self::Hostname(of) => wire::destination::Kind::Hostname(wire::Hostname {
                name: of.name.to_string(),
                service: of.service.to_string(),
            }),
        };
        wire::Destination { kind: Some(kind) }
    }

    /// What the message says.
    ///
    /// # Errors
    /// The first field that cannot be used.
    pub fn from_wire(message: &wire::Destination) -> Result<Self, WireError> {
        match message
            .kind
            .as_ref()
            .ok_or(WireError::Unknown("destination"))?
        {
            wire::destination::Kind::Service(service) => {
                service_from_wire(service).map(Self::Service)
            }
            wire::destination::Kind::Host(host) => Ok(Self::Host(Host {
                address: parse("address", &host.address)?,
                endpoints: all(&host.endpoints, endpoint_from_wire)?,
            })),
            wire::destination::Kind::Hostname(of) => Ok(Self::Hostname(Hostname {
                name: parse("name", &of.name)?,
                service: parse("service", &of.service)?,
            })),
        }
    }
}

impl Endpoints {
    /// The message that says this.
    #[must_use]
    pub fn to_wire(&self) -> wire::Endpoints {
        wire::Endpoints {
            service: self.service.to_string(),
            endpoints: self.endpoints.iter().map(endpoint_to_wire).collect(),
        }
    }

    /// What the message says.
    ///
    /// # Errors
    /// The first field that cannot be used.
    pub fn from_wire(message: &wire::Endpoints) -> Result<Self, WireError> {
        Ok(Self {
            service: parse("service", &message.service)?,
            endpoints: all(&message.endpoints, endpoint_from_wire)?,
        })
    }
}

fn service_to_wire(service: &Service) -> wire::Service {
    let port = |port: &ServicePort| wire::ServicePort {
        port: port.port.into(),
        protocol: protocol_to_wire(port.protocol),
        name: port.name.clone(),
    };
    wire::Service {
        name: service.name.to_string(),
        vips: texts(&service.vips),
        headless: service.headless,
        ports: service.ports.iter().map(port).collect(),
        routes: service.routes.iter().map(route_to_wire).collect(),
    }
}

fn service_from_wire(message: &wire::Service) -> Result<Service, WireError> {
    let service_port = |of: &wire::ServicePort| {
        Ok(ServicePort {
            port: port("port", of.port)?,
            protocol: protocol_from_wire(of.protocol)?,
            name: of.name.clone(),
        })
    };
    Ok(Service {
        name: parse("name", &message.name)?,
        vips: parse_all("vips", &message.vips)?,
        headless: message.headless,
        ports: all(&message.ports, service_port)?,
        routes: all(&message.routes, route_from_wire)?,
    })
}

fn endpoint_to_wire(endpoint: &Endpoint) -> wire::Endpoint {
    let health = match endpoint.health {
        Health::Healthy => wire::Health::Healthy,
        Health::Unhealthy => wire::Health::Unhealthy,
        Health::Unknown => wire::Health::Unknown,
    };
    let port = |port: &EndpointPort| wire::EndpointPort {
        service_port: port.service_port.into(),
        workload_port: port.workload_port.into(),
        protocol: protocol_to_wire(port.protocol),
        published: port.published.unwrap_or(0).into(),
    };
    wire::Endpoint {
        uid: endpoint.uid.to_string(),
        name: endpoint.name.clone(),
        namespace: endpoint.namespace.clone(),
        identity: endpoint.identity.to_string(),
        version: endpoint.version.clone(),
        addresses: texts(&endpoint.addresses),
        ports: endpoint.ports.iter().map(port).collect(),
        health: health.into(),
        hbone_port: endpoint.hbone_port.into(),
        service: endpoint.service.clone(),
    }
}

fn endpoint_from_wire(message: &wire::Endpoint) -> Result<Endpoint, WireError> {
    let endpoint_port = |of: &wire::EndpointPort| {
        Ok(EndpointPort {
            // 0 where no service has it: the endpoint of a host.
            service_port: optional_port("service_port", of.service_port)?.unwrap_or(0),
            workload_port: port("workload_port", of.workload_port)?,
            protocol: protocol_from_wire(of.protocol)?,
            published: optional_port("published", of.published)?,
        })
    };
    let addresses: Vec<IpAddr> = parse_all("addresses", &message.addresses)?;
    if addresses.is_empty() {
        return Err(WireError::Missing("addresses"));
    }
    Ok(Endpoint {
        uid: parse("uid", &message.uid)?,
        name: message.name.clone(),
        namespace: message.namespace.clone(),
        identity: parse("identity", &message.identity)?,
        version: message.version.clone(),
        service: message.service.clone(),
        addresses,
        hbone_port: port("hbone_port", message.hbone_port)?,
        ports: all(&message.ports, endpoint_port)?,
        // A health that only a later version knows is not a reason to drop the endpoint.
        health: match wire::Health::try_from(message.health) {
            Ok(wire::Health::Healthy) => Health::Healthy,
            Ok(wire::Health::Unhealthy) => Health::Unhealthy,
            Ok(wire::Health::Unknown) | Err(_) => Health::Unknown,
        },
    })
}
