//! Whether proxies run what an object says: the condition `Programmed` (CP12).

use std::collections::BTreeSet;

use leno_compile::{Condition, Key};
use leno_config::Kind;
use leno_types::{DnsLabel, ServiceName};

use super::hostnames;
use crate::{
    distribution::Programmed,
    mesh::{Mesh, resource_of},
};

/// Proxies that a message names.
const NAMED: usize = 5;

/// Whether the proxies concerned run what an object says (CP12).
pub(super) fn programmed(
    mesh: &Mesh,
    kind: Kind,
    namespace: &DnsLabel,
    name: &DnsLabel,
) -> Condition {
    let mut found = Programmed::default();
    let mut keys = mesh.compiler.resources_from(kind, namespace, name);
    if kind == Kind::HostnameGenerator {
        let generator = ServiceName::new(namespace.clone(), name.clone());
        keys.extend(hostnames::asked(mesh, &generator).map(Key::Hostname));
    }
    for key in keys {
        let (of, canonical) = resource_of(&key);
        let resource = mesh.catalog.get(of, &canonical);
        let version = resource.map(|resource| resource.version.as_ref());
        let names = mesh.asked_names(&key);
        let owners: Vec<Option<&DnsLabel>> = match &key {
            Key::OwnWorkload(uid) => {
                vec![mesh.registry.workload(uid).map(|(agent, _, _)| agent)]
            }
            // Every proxy is told without asking.
            Key::Mesh => mesh
                .hub
                .streams()
                .map(|(_, agent, _)| Some(agent))
                .collect(),
            Key::Destination(_) | Key::Host(_) | Key::Hostname(_) | Key::Endpoints(_) => vec![None],
        };
        for owner in owners {
            mesh.hub.programmed(of, &names, version, owner, &mut found);
        }
    }
    // One proxy may have several of the resources, and runs the object when it runs them all.
    let behind: BTreeSet<&DnsLabel> = found.behind.iter().chain(found.refused.keys()).collect();
    let running = found
        .proxies
        .iter()
        .filter(|proxy| !behind.contains(proxy))
        .count();
    let all = found.proxies.len();
    let (status, reason, message) = if all == 0 {
        (true, "Programmed", "0 proxies".to_owned())
    } else if found.refused.is_empty() && running == all {
        (true, "Programmed", format!("{all} of {all} proxies"))
    } else {
        let refused: Vec<String> = found
            .refused
            .iter()
            .take(NAMED)
            .map(|(proxy, reason)| format!("{proxy} rejected: {reason}"))
            .collect();
        let pending: Vec<&str> = found
            .behind
            .iter()
            .filter(|proxy| !found.refused.contains_key(*proxy))
            .take(NAMED)
            .map(DnsLabel::as_str)
            .collect();
        let mut message = format!("{running} of {all} proxies");
        if !refused.is_empty() {
            message = format!("{message}, {}", refused.join(", "));
        }
        if !pending.is_empty() {
            message = format!("{message}, waiting for {}", pending.join(", "));
        }
        let reason = if refused.is_empty() {
            "Pending"
        } else {
            "Rejected"
        };
        (false, reason, message)
    };
    condition_programmed(status, reason, message)
}

pub(super) fn condition_programmed(
    status: bool,
    reason: &'static str,
    message: String,
) -> Condition {
    Condition {
        parent: None,
        r#type: "Programmed",
        status,
        reason,
        message,
        observed_generation: 0,
    }
}
