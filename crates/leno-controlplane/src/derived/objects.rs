//! The derived objects as JSON, in the shape of Kubernetes' where it has one.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use leno_compile::{EffectiveService, Output};
use leno_config::Kind;
use leno_ir::{Endpoint, Health};
use leno_types::{DnsLabel, ServiceName, TrustDomain};
use serde_json::{Value, json};

use super::{CONTROLLER, ShownAgent};
use crate::{registry::Workload, times::rfc3339};

/// Ports and endpoints of a slice.
type Slice = (Vec<Value>, Vec<Value>);

pub(super) fn workload_value(
    workload: &Workload,
    agent: &ShownAgent,
    domain: &TrustDomain,
) -> Value {
    let health = match (agent.unknown, workload.healthy) {
        (true, _) => "unknown",
        (false, true) => "healthy",
        (false, false) => "unhealthy",
    };
    let ports: Vec<Value> = workload
        .ports
        .iter()
        .map(|port| {
            json!({
                "servicePort": port.service_port,
                "port": port.workload_port,
                "appProtocol": port.protocol.map(leno_types::AppProtocol::as_str),
                "published": port.published,
            })
        })
        .collect();
    let labels: BTreeMap<&str, &str> = workload.labels().collect();
    json!({
        "apiVersion": Kind::Workload.api_version(),
        "kind": "Workload",
        "metadata": {
            "name": workload.name,
            "namespace": workload.namespace.as_str(),
            "uid": workload.uid.to_string(),
            "creationTimestamp": rfc3339(workload.since),
            "labels": labels,
        },
        "spec": {
            "serviceAccount": workload.service_account.as_str(),
            "service": workload.service.as_ref().map(DnsLabel::as_str),
            "version": workload.version.as_ref().map(DnsLabel::as_str),
            "host": workload.agent.as_str(),
            "addresses": agent.place.addresses,
            "hbonePort": agent.place.hbone_port,
            "ports": ports,
        },
        "status": {
            "identity": workload.identity(domain).as_str(),
            "health": health,
            "connected": agent.connected,
            "detail": workload.detail,
        },
    })
}

/// The programs' port behind each port of a service, where all of them have the same.
pub(super) fn targets(endpoints: &Output) -> BTreeMap<u16, u16> {
    let mut all: BTreeMap<u16, BTreeSet<u16>> = BTreeMap::new();
    if let Output::Endpoints(endpoints) = endpoints {
        for port in endpoints.endpoints.iter().flat_map(|of| &of.ports) {
            let of_port = all.entry(port.service_port).or_default();
            of_port.insert(port.workload_port);
        }
    }
    let of_one_mind = all.into_iter().filter(|(_, targets)| targets.len() == 1);
    of_one_mind
        .filter_map(|(port, targets)| Some((port, targets.into_iter().next()?)))
        .collect()
}

pub(super) fn derived_service(
    service: &EffectiveService,
    addresses: &[IpAddr],
    targets: &BTreeMap<u16, u16>,
    since: &str,
) -> Value {
    // Where the programs differ, or there is none, the service's own port stands for theirs.
    let target = |port: u16| targets.get(&port).copied().unwrap_or(port);
    let mut families: Vec<&str> = Vec::new();
    for address in addresses {
        let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
        if !families.contains(&family) {
            families.push(family);
        }
    }
    let ports: Vec<Value> = service
        .ports
        .iter()
        .map(|port| {
            json!({
                "name": port.name,
                "port": port.port,
                "targetPort": target(port.port),
                "protocol": "TCP",
                "appProtocol": port.protocol.map(leno_types::AppProtocol::as_str),
            })
        })
        .collect();
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": service.name.name.as_str(),
            "namespace": service.name.namespace.as_str(),
            "creationTimestamp": since,
            "labels": {"leno.dev/derived": "true"},
        },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": addresses.first().map_or_else(|| "None".into(), IpAddr::to_string),
            "clusterIPs": addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>(),
            "ipFamilies": families,
            "ipFamilyPolicy": if families.len() > 1 { "RequireDualStack" } else { "SingleStack" },
            "sessionAffinity": "None",
            "internalTrafficPolicy": "Cluster",
            "ports": ports,
        },
    })
}

/// The slices of a service: one for each family and set of ports, as Kubernetes has it.
/// A port there has the name of the service's: by it clients know which is which.
pub(super) fn endpoint_slices(
    service: &ServiceName,
    service_ports: &[leno_ir::ServicePort],
    output: &Output,
    since: &str,
) -> Vec<Value> {
    let Output::Endpoints(endpoints) = output else {
        return Vec::new();
    };
    let name = |number: u16| {
        let port = service_ports.iter().find(|port| port.port == number);
        port.map_or_else(|| format!("p{number}"), |port| port.name.to_string())
    };
    let mut groups: BTreeMap<(&'static str, String), Slice> = BTreeMap::new();
    for endpoint in &endpoints.endpoints {
        let ports: Vec<Value> = endpoint
            .ports
            .iter()
            .map(|port| {
                json!({
                    "name": name(port.service_port),
                    "port": port.workload_port,
                    "protocol": "TCP",
                    "appProtocol": port.protocol.map(leno_types::AppProtocol::as_str),
                })
            })
            .collect();
        for (family, v4) in [("IPv4", true), ("IPv6", false)] {
            let addresses: Vec<String> = endpoint
                .addresses
                .iter()
                .filter(|address| address.is_ipv4() == v4)
                .map(IpAddr::to_string)
                .collect();
            if addresses.is_empty() {
                continue;
            }
            let group = groups
                .entry((family, json!(ports).to_string()))
                .or_default();
            group.0.clone_from(&ports);
            group.1.push(endpoint_value(endpoint, &addresses));
        }
    }
    groups
        .into_iter()
        .enumerate()
        .map(|(index, ((family, _), (ports, endpoints)))| {
            json!({
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {
                    "name": format!("{}-{}-{index}", service.name, family.to_ascii_lowercase()),
                    "namespace": service.namespace.as_str(),
                    "creationTimestamp": since,
                    "labels": {
                        "kubernetes.io/service-name": service.name.as_str(),
                        "endpointslice.kubernetes.io/managed-by": CONTROLLER,
                    },
                },
                "addressType": family,
                "ports": ports,
                "endpoints": endpoints,
            })
        })
        .collect()
}

fn endpoint_value(endpoint: &Endpoint, addresses: &[String]) -> Value {
    let ready = endpoint.health != Health::Unhealthy;
    json!({
        "addresses": addresses,
        "conditions": {"ready": ready, "serving": ready, "terminating": false},
        "targetRef": {
            "kind": "Workload",
            "name": endpoint.name,
            "namespace": endpoint.namespace,
            "uid": endpoint.uid.to_string(),
        },
    })
}
