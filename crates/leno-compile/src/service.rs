//! Which services exist, and who belongs to them.

use leno_config::{Service, TargetPort};
use leno_ir::{Endpoint, EndpointPort, Endpoints, Health, ServicePort};
use leno_types::ServiceName;

use crate::{EffectiveService, Origin, RegisteredPort, WorkloadRecord, view::View};

impl EffectiveService {
    /// The service that a document makes.
    #[must_use]
    pub fn of(applied: &Service) -> Self {
        let port = |port: &leno_config::ServicePort| ServicePort {
            port: port.port,
            protocol: port.protocol,
            name: port.name.clone(),
        };
        Self {
            name: applied.name(),
            ports: applied.ports.iter().map(port).collect(),
            origin: Origin::Applied,
            headless: applied.headless,
        }
    }
}

/// The service of a name: as applied, otherwise derived from who is registered for it, or was.
pub(crate) fn effective(view: &View<'_>, name: &ServiceName) -> Option<EffectiveService> {
    if let Some(applied) = view.applied(name) {
        return Some(EffectiveService::of(applied));
    }
    let registered = view.registered(name);
    if registered.is_empty() {
        let remembered = view.remembered(name)?;
        return Some(EffectiveService {
            name: name.clone(),
            ports: remembered.ports.clone(),
            origin: Origin::Remembered,
            headless: false,
        });
    }
    // Where two registrations disagree about a port, the one with the lower id is believed.
    let mut ports: Vec<ServicePort> = Vec::new();
    for port in registered.iter().flat_map(|record| &*record.ports) {
        let number = port.of_service();
        if ports.iter().all(|known| known.port != number) {
            ports.push(ServicePort {
                port: number,
                protocol: port.protocol,
                name: port.name(),
            });
        }
    }
    ports.sort_by_key(|port| port.port);
    let own = (registered.iter()).any(|record| record.service_name().as_ref() == Some(name));
    let origin = if own {
        Origin::Registered
    } else {
        Origin::Version
    };
    Some(EffectiveService {
        name: name.clone(),
        ports,
        origin,
        headless: false,
    })
}

/// The registered port that a port of an applied service means. A port that nobody registered is not reached: a
/// document must not open what its program's owner did not.
pub(crate) fn registered_port<'r>(
    record: &'r WorkloadRecord,
    port: &leno_config::ServicePort,
) -> Option<&'r RegisteredPort> {
    record.ports.iter().find(|registered| match &port.target {
        TargetPort::Number(number) => registered.workload_port == *number,
        TargetPort::Name(name) => registered.name() == *name,
    })
}

/// The ports of a workload by the ports of a service it belongs to.
pub(crate) fn ports_of(record: &WorkloadRecord, applied: Option<&Service>) -> Vec<EndpointPort> {
    let endpoint_port = |registered: &RegisteredPort, service_port| EndpointPort {
        service_port,
        workload_port: registered.workload_port,
        protocol: registered.protocol,
        published: registered.published,
    };
    let Some(applied) = applied else {
        let all = record.ports.iter();
        return all
            .map(|registered| endpoint_port(registered, registered.of_service()))
            .collect();
    };
    let of_service = applied.ports.iter().filter_map(|port| {
        let mut found = endpoint_port(registered_port(record, port)?, port.port);
        found.protocol = port.protocol.or(found.protocol);
        Some(found)
    });
    of_service.collect()
}

/// The endpoints of a service; `None` when there is no such service.
pub(crate) fn endpoints(view: &View<'_>, name: &ServiceName) -> Option<Endpoints> {
    let applied = view.applied(name);
    let members = match applied {
        Some(service) if !service.selector.is_empty() => view.selected(service),
        Some(_) | None => view.registered(name),
    };
    if applied.is_none() && members.is_empty() && view.remembered(name).is_none() {
        return None;
    }
    let mut endpoints = Vec::new();
    for member in members {
        // The range above says who; this read says in which state they are.
        let Some(record) = view.workload(member.uid) else {
            continue;
        };
        // What was never ready is no endpoint at all: a balancer's last resort is for what may still answer.
        if !record.ready {
            continue;
        }
        let ports = ports_of(record, applied);
        if !ports.is_empty() {
            endpoints.extend(endpoint(view, record, ports));
        }
    }
    Some(Endpoints {
        service: name.clone(),
        endpoints,
    })
}

/// A workload as its callers see it; `None` while nobody knows where it is.
pub(crate) fn endpoint(
    view: &View<'_>,
    record: &WorkloadRecord,
    ports: Vec<EndpointPort>,
) -> Option<Endpoint> {
    if record.place.addresses.is_empty() {
        return None;
    }
    let service = match &record.service {
        Some(service) => service.to_string(),
        None => {
            let memberships = view.memberships(record);
            memberships
                .first()
                .map(|first| first.name.to_string())
                .unwrap_or_default()
        }
    };
    // Who calls a host by its own address gets it, ready or not; absence would mean that it is no member.
    let health = match record.health {
        Health::Healthy if !record.ready => Health::Unhealthy,
        health => health,
    };
    Some(Endpoint {
        uid: record.uid,
        name: record.name.to_string(),
        namespace: record.namespace.to_string(),
        identity: record.identity(view.domain()),
        version: record.version_text().to_owned(),
        service,
        addresses: record.place.addresses.clone(),
        hbone_port: record.place.hbone_port,
        ports,
        health,
    })
}
