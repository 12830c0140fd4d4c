//! Whom policies in files cut off, said before they are applied as `leno allow` and `leno deny` say it.

use std::collections::{BTreeMap, BTreeSet};

use leno_config::{AccessPolicy, Document, Kind, admit};
use leno_types::ServiceName;

use super::{Mesh, callers, decision::cut_off, mesh, ports};
use crate::{client::Client, exit::CommandError};

/// Services that are looked at: a policy for the whole mesh is about all of them.
const MAX_SERVICES: usize = 256;

/// For each service, who called it in the last ten minutes and may not when these documents are in force.
pub(crate) async fn cut_off_by(
    client: &Client,
    documents: &[Document],
) -> Result<BTreeMap<ServiceName, BTreeSet<String>>, CommandError> {
    let policies = documents
        .iter()
        .filter(|document| document.kind == Kind::AccessPolicy)
        .filter_map(|document| admit(document.kind, document.value.clone()).ok())
        .filter_map(|admitted| admitted.resource.as_access_policy().cloned());
    let policies: Vec<AccessPolicy> = policies.collect();
    if policies.is_empty() {
        return Ok(BTreeMap::new());
    }
    let mesh = mesh(client).await?;
    let found = services(&mesh).into_iter().filter_map(|service| {
        let (ports, callers) = (ports(&mesh, &service), callers(&mesh, &service));
        let lost = cut_off(
            &service,
            &mesh.policies,
            &policies,
            &mesh.domain,
            &ports,
            &callers,
        );
        (!lost.is_empty()).then_some((service, lost))
    });
    Ok(found.collect())
}

/// The services that run.
fn services(mesh: &Mesh) -> BTreeSet<ServiceName> {
    let workloads = mesh.proxies.iter().flat_map(|proxy| &proxy.workloads);
    let names = workloads.filter_map(|workload| {
        let name = workload.service.as_deref()?.parse().ok()?;
        Some(ServiceName::new(workload.namespace.parse().ok()?, name))
    });
    names.take(MAX_SERVICES).collect()
}
