//! What documents that are being written refer to: services of the mesh as readers see it, and of the same batch.

use std::collections::{BTreeMap, BTreeSet};

use leno_compile::{EffectiveService, Output, Services, dangling};
use leno_config::{Finding, Resource};
use leno_types::{DnsLabel, ServiceName, WorkloadUid};

use super::Published;
use crate::mesh::Mesh;

/// The mesh as it would be with the services of a batch.
struct With<'a> {
    published: &'a Published,
    batch: BTreeMap<ServiceName, EffectiveService>,
}

/// What is to be said of documents that are written together, for each of them.
pub(super) fn warnings(published: &Published, together: &[&Resource]) -> Vec<Vec<Finding>> {
    let services = together.iter().filter_map(|resource| match resource {
        Resource::Service(service) => Some((service.name(), EffectiveService::of(service))),
        Resource::HttpRoute(_) | Resource::AccessPolicy(_) | Resource::HostnameGenerator(_) => None,
    });
    let batch = services.collect();
    let with = With { published, batch };
    let of = |resource: &&Resource| {
        let dangling = dangling(resource, &with).into_iter();
        dangling.map(|found| found.finding).collect()
    };
    together.iter().map(of).collect()
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
