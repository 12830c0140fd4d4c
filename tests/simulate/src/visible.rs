//! What an agent may see: its own workloads, and of its own mesh what it asks for.

use leno_controlplane::{simulation::Who, uids::UidMint};
use leno_types::WorkloadUid;
use leno_wire::{discovery::Resource, mesh as wire, type_url};
use prost::Message;

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
            let uid = resource.name.parse::<WorkloadUid>();
            if !uid.is_ok_and(|uid| mint.is_of(uid, &who.agent)) {
                return Err(format!("workload {}, another host's", resource.name));
            }
        }
        type_url::ENDPOINTS => {
            let endpoints = wire::Endpoints::decode(bytes).map_err(unreadable)?;
            for endpoint in &endpoints.endpoints {
                let ours = format!("spiffe://{}/", who.domain);
                if !endpoint.identity.starts_with(&ours) {
                    return Err(format!("{} of another mesh", endpoint.identity));
                }
            }
        }
        _ => {}
    }
    Ok(())
}
