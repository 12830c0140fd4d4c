//! What an address or a name means: services with their routes, and hosts.

use std::net::IpAddr;

use leno_ir::{Destination, EndpointPort, Host, Hostname, Service};
use leno_types::{HostName, ServiceName};

use crate::{WorkloadRecord, hostnames::Hostnames, route, service, view::View};

/// A service with its routes; `None` when there is no such service.
pub(crate) fn of_service(view: &View<'_>, name: &ServiceName) -> Option<Destination> {
    let effective = view.effective(name)?;
    let vips = match effective.headless {
        true => Vec::new(),
        false => vips(view, name),
    };
    Some(Destination::Service(Service {
        name: name.clone(),
        vips,
        headless: effective.headless,
        ports: effective.ports.clone(),
        routes: route::routes(view, &effective),
    }))
}

/// The addresses that were allocated; before that, those that the document itself asks for.
fn vips(view: &View<'_>, name: &ServiceName) -> Vec<IpAddr> {
    let allocated = view.vips(name);
    if !allocated.is_empty() {
        return allocated.to_vec();
    }
    let applied = view.applied(name);
    applied
        .map(|service| service.cluster_ips.clone())
        .unwrap_or_default()
}

/// The workloads at an address; `None` when there are none.
pub(crate) fn of_host(view: &View<'_>, address: IpAddr) -> Option<Destination> {
    let mut endpoints = Vec::new();
    for uid in view.at(address) {
        let Some(record) = view.workload(uid) else {
            continue;
        };
        endpoints.extend(service::endpoint(view, record, own_ports(record)));
    }
    if endpoints.is_empty() {
        return None;
    }
    Some(Destination::Host(Host { address, endpoints }))
}

/// Whose name it is; `None` when no service has it.
pub(crate) fn of_hostname(
    view: &View<'_>,
    hostnames: &Hostnames,
    name: &HostName,
) -> Option<Destination> {
    let service = view.holder(hostnames, name)?;
    let name = name.clone();
    Some(Destination::Hostname(Hostname { name, service }))
}

/// Its ports, whichever services they belong to.
fn own_ports(record: &WorkloadRecord) -> Vec<EndpointPort> {
    let mut ports: Vec<EndpointPort> = Vec::new();
    for port in &*record.ports {
        let own = EndpointPort {
            service_port: 0,
            workload_port: port.workload_port,
            protocol: port.protocol,
            published: port.published,
        };
        if !ports.contains(&own) {
            ports.push(own);
        }
    }
    ports
}
