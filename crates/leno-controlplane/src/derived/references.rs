//! What documents that are being written refer to: services of the mesh as readers see it, and of the same batch.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use leno_compile::{
    EffectiveService, Labels, Origin, Output, Services, dangling, labels_of, unnamed,
};
use leno_config::{Finding, HostnameGenerator, Resource};
use leno_types::{DnsLabel, HostName, MeshName, ServiceName, WorkloadUid};
use serde_json::Value;

use super::Published;
use crate::mesh::Mesh;

/// The mesh as it would be with the services of a batch.
struct With<'a> {
    published: &'a Published,
    batch: BTreeMap<ServiceName, EffectiveService>,
}

/// What is to be said of documents that are written together, for each of them.
pub(super) fn warnings(
    mesh: &MeshName,
    published: &Published,
    together: &[&Resource],
) -> Vec<Vec<Finding>> {
    let services = together.iter().filter_map(|resource| resource.as_service());
    let services = services.map(|service| (service.name(), EffectiveService::of(service)));
    let batch = services.collect();
    let with = With { published, batch };
    let of = |resource: &&Resource| {
        if let Resource::HostnameGenerator(generator) = resource {
            return unnamed_by(generator, mesh, published, together);
        }
        let dangling = dangling(resource, &with).into_iter();
        dangling.map(|found| found.finding).collect()
    };
    together.iter().map(of).collect()
}

/// The services to which a generator would give no name.
fn unnamed_by(
    generator: &HostnameGenerator,
    mesh: &MeshName,
    published: &Published,
    together: &[&Resource],
) -> Vec<Finding> {
    let named = published.services.iter();
    // A version alone gets no name.
    let named = named.filter(|(_, (service, _))| service.origin != Origin::Version);
    let stored = named.map(|(name, _)| {
        let applied = published.applied.get(name);
        (
            name.clone(),
            labels_of(applied.and_then(|of| of.as_service())),
        )
    });
    let mut services: BTreeMap<ServiceName, BTreeMap<String, String>> = stored.collect();
    let batch = together.iter().filter_map(|resource| resource.as_service());
    services.extend(batch.map(|service| (service.name(), labels_of(Some(service)))));
    let given = published.names.iter().flat_map(|(service, given)| {
        let named = given.iter().filter_map(|of| of.name.as_ref().ok());
        named.map(move |host| (host, service))
    });
    let holders: BTreeMap<&HostName, &ServiceName> = given.collect();
    let holder = |host: &HostName| holders.get(host).copied().cloned();
    unnamed(generator, mesh, services.iter(), holder)
}

impl Services for With<'_> {
    fn service(&self, name: &ServiceName) -> Option<EffectiveService> {
        let stored = || self.published.services.get(name);
        let proposed = self.batch.get(name);
        proposed.or_else(|| Some(&stored()?.0)).cloned()
    }

    fn names(&self, namespace: &DnsLabel) -> Vec<DnsLabel> {
        let names = self.published.services.keys().chain(self.batch.keys());
        names
            .filter(|name| name.namespace == *namespace)
            .map(|name| name.name.clone())
            .collect()
    }

    fn program_ports(&self, name: &ServiceName) -> BTreeSet<u16> {
        // Whom a service selects is known once it is stored.
        if self.batch.contains_key(name) {
            return BTreeSet::new();
        }
        let endpoints = self.published.endpoints.get(name);
        let Some(Output::Endpoints(endpoints)) = endpoints.map(|output| &**output) else {
            return BTreeSet::new();
        };
        let ports = &self.published.program_ports;
        let each = endpoints.endpoints.iter();
        each.filter_map(|endpoint| ports.get(&endpoint.uid))
            .flatten()
            .copied()
            .collect()
    }

    fn labelled_ports(&self, namespace: &DnsLabel, labels: &Labels) -> Option<BTreeSet<u16>> {
        let workloads = self.published.workloads.iter();
        let selected = workloads.filter(|workload| {
            let meta = &workload["metadata"];
            let has = |(name, value): (&String, &String)| meta["labels"][name] == value.as_str();
            meta["namespace"] == namespace.as_str() && labels.iter().all(has)
        });
        let ports = |workload: &Value| {
            let ports = workload["spec"]["ports"].as_array();
            let ports = ports.into_iter().flatten();
            ports
                .filter_map(|port| port["port"].as_u64()?.try_into().ok())
                .collect::<BTreeSet<u16>>()
        };
        selected.map(ports).reduce(|all, more| &all | &more)
    }
}

/// The services that somebody wrote.
pub(super) fn applied(mesh: &Mesh) -> BTreeMap<ServiceName, Arc<Resource>> {
    let services = mesh.objects.values();
    let named = services.filter_map(|of| Some((of.as_service()?.name(), Arc::clone(of))));
    named.collect()
}

/// Where each program of the mesh listens.
pub(super) fn program_ports(mesh: &Mesh) -> BTreeMap<WorkloadUid, Vec<u16>> {
    let agents = mesh.registry.agents();
    let workloads = agents.flat_map(|(_, agent)| agent.workloads.values());
    workloads
        .map(|workload| {
            let ports = workload.ports.iter();
            (workload.uid, ports.map(|port| port.workload_port).collect())
        })
        .collect()
}
