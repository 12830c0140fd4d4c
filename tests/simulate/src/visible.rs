//! What an agent may see: its own workloads, and of its own mesh what it asks for.

use std::collections::BTreeSet;

use leno_agent::simulation::Wanted;
use leno_controlplane::{simulation::Who, uids::UidMint};
use leno_types::WorkloadUid;
use leno_wire::{discovery::Resource, mesh as wire, type_url};
use prost::Message;

use crate::documents;

/// Says what of a resource `who` must not see.
pub(crate) fn check(
    who: &Who,
    mint: &UidMint,
    kind: &str,
    resource: &Resource,
) -> Result<(), String> {
    let Some(content) = &resource.resource else {
        return Err(format!("{} without content", resource.name));
    };
    let bytes = content.value.as_slice();
    let unreadable = |error: prost::DecodeError| format!("{}: {error}", resource.name);
    match kind {
        type_url::MESH => {
            let mesh = wire::Mesh::decode(bytes).map_err(unreadable)?;
            if mesh.trust_domain != who.domain.as_str() {
                return Err(format!("mesh {}", mesh.trust_domain));
            }
        }
        type_url::OWN_WORKLOAD => {
            let own = wire::OwnWorkload::decode(bytes).map_err(unreadable)?;
            let uid = resource.name.parse::<WorkloadUid>();
            if own.uid != resource.name || !uid.is_ok_and(|uid| mint.is_of(uid, &who.agent)) {
                return Err(format!("workload {}, another host's", resource.name));
            }
            of_this_mesh(who, &own.identity)?;
        }
        type_url::ENDPOINTS => {
            let endpoints = wire::Endpoints::decode(bytes).map_err(unreadable)?;
            for endpoint in &endpoints.endpoints {
                of_this_mesh(who, &endpoint.identity)?;
            }
        }
        type_url::DESTINATION => {
            let destination = wire::Destination::decode(bytes).map_err(unreadable)?;
            if let Some(wire::destination::Kind::Host(host)) = &destination.kind {
                for endpoint in &host.endpoints {
                    of_this_mesh(who, &endpoint.identity)?;
                }
            }
        }
        _ => {}
    }
    for (mesh, service) in documents::OWN {
        let others = who.domain.as_str() != format!("{mesh}.leno");
        if others && resource.name.contains(service) {
            return Err(format!("{}, which only {mesh} has", resource.name));
        }
    }
    Ok(())
}

fn of_this_mesh(who: &Who, identity: &str) -> Result<(), String> {
    match identity.starts_with(&format!("spiffe://{}/", who.domain)) {
        true => Ok(()),
        false => Err(format!("{identity} of another mesh")),
    }
}

/// Says what of a resource nobody asked for.
pub(crate) fn asked(
    asked_for: &BTreeSet<(Wanted, String)>,
    kind: &str,
    resource: &Resource,
) -> Result<(), String> {
    let wanted = match kind {
        type_url::DESTINATION => Wanted::Destination,
        type_url::ENDPOINTS => Wanted::Endpoints,
        // All that are its own, unasked.
        _ => return Ok(()),
    };
    let mut names = resource.aliases.iter().chain([&resource.name]);
    match names.any(|name| asked_for.contains(&(wanted, name.clone()))) {
        true => Ok(()),
        false => Err(format!("{}, for which it never asked", resource.name)),
    }
}

/// Whom a resource names as endpoints.
pub(crate) fn endpoints(resource: &Resource) -> Vec<WorkloadUid> {
    let content = resource.resource.as_ref().map(|of| of.value.as_slice());
    let endpoints = content.and_then(|bytes| wire::Endpoints::decode(bytes).ok());
    let endpoints = endpoints.into_iter().flat_map(|of| of.endpoints);
    endpoints.filter_map(|of| of.uid.parse().ok()).collect()
}
