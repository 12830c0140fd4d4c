//! What documents that are being written refer to: services of the mesh as readers see it, and of the same batch.

use std::collections::{BTreeMap, BTreeSet};

use leno_compile::{
    EffectiveService, Labels, Origin, Output, Services, dangling, labels_of, unnamed,
};
use leno_config::{Finding, HostnameGenerator, Resource};
use leno_types::{DnsLabel, HostName, MeshName, ServiceName};

use super::Published;
use crate::registry::Workload;

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
    let named = named.filter(|(_, shown)| shown.service.origin != Origin::Version);
    let stored = named.map(|(name, shown)| {
        let applied = shown.applied.as_deref();
        (
            name.clone(),
            labels_of(applied.and_then(Resource::as_service)),
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
        proposed.or_else(|| Some(&*stored()?.service)).cloned()
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
        let shown = self.published.services.get(name);
        let endpoints = shown.and_then(|shown| shown.endpoints.as_ref()?.output());
        let Some(Output::Endpoints(endpoints)) = endpoints else {
            return BTreeSet::new();
        };
        let each = endpoints.endpoints.iter();
        let workloads = each.filter_map(|of| self.published.workloads.get(&of.uid));
        let ports = workloads.flat_map(|workload| &*workload.ports);
        ports.map(|port| port.workload_port).collect()
    }

    fn labelled_ports(&self, namespace: &DnsLabel, labels: &Labels) -> Option<BTreeSet<u16>> {
        let workloads = self.published.workloads.values().map(|of| &**of);
        let selected = workloads.filter(|workload| {
            let has =
                |(name, value): (&String, &String)| workload.label(name) == Some(value.as_str());
            workload.namespace == *namespace && labels.iter().all(has)
        });
        let ports = |workload: &Workload| -> BTreeSet<u16> {
            let ports = workload.ports.iter();
            ports.map(|port| port.workload_port).collect()
        };
        selected.map(ports).reduce(|all, more| &all | &more)
    }
}
