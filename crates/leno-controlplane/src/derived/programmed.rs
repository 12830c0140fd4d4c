//! Whether proxies run what an object says: the condition `Programmed` (CP12).

use std::collections::{BTreeMap, BTreeSet};

use leno_compile::{Condition, Kept, Key};
use leno_config::Kind;
use leno_ir::Feature;
use leno_types::{DnsLabel, ServiceName};

use super::hostnames;
use crate::{
    distribution::{Programmed, type_of},
    mesh::Mesh,
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
        let of = type_of(&key);
        let version = mesh.compiler.kept(&key).map(Kept::version);
        let names = mesh.asked_names(&key);
        if let Key::OwnWorkload(uid) = &key
            && let Some((name, agent, _)) = mesh.registry.workload(uid)
        {
            let lacks = mesh.lacks(agent, *uid);
            if !lacks.is_empty() {
                let denying = found.denying.entry(name.clone()).or_default();
                denying.extend(lacks);
            }
        }
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
    let (status, reason, message) = judged(&found);
    condition_programmed(status, reason, message)
}

/// What the proxies' answers mean for an object.
fn judged(found: &Programmed) -> (bool, &'static str, String) {
    // Who is not connected is not asked.
    let denying: BTreeMap<&DnsLabel, &BTreeSet<Feature>> = found
        .denying
        .iter()
        .filter(|(proxy, _)| found.proxies.contains(*proxy))
        .collect();
    // One proxy may have several of the resources, and runs the object when it runs them all.
    let not_running: BTreeSet<&DnsLabel> = (found.behind.iter())
        .chain(found.refused.keys())
        .chain(denying.keys().copied())
        .collect();
    let all = found.proxies.len();
    let running = (found.proxies.iter())
        .filter(|proxy| !not_running.contains(proxy))
        .count();
    if all == 0 {
        return (true, "Programmed", "0 proxies".to_owned());
    }
    let mut parts = vec![format!("{running} of {all} proxies")];
    let refused = found.refused.iter().take(NAMED);
    parts.extend(refused.map(|(proxy, reason)| format!("{proxy} rejected: {reason}")));
    let denied = denying.iter().take(NAMED);
    parts.extend(denied.map(|(proxy, features)| {
        let features: Vec<&str> = features.iter().map(|feature| feature.name()).collect();
        let features = features.join(", ");
        format!("{proxy} lets nobody in instead: it does not know {features} (update Leno there)")
    }));
    let pending = found.behind.iter();
    let pending: Vec<&str> = pending
        .filter(|proxy| !found.refused.contains_key(*proxy))
        .take(NAMED)
        .map(DnsLabel::as_str)
        .collect();
    if !pending.is_empty() {
        parts.push(format!("waiting for {}", pending.join(", ")));
    }
    let reason = match (found.refused.is_empty(), denying.is_empty()) {
        _ if running == all => "Programmed",
        (false, _) => "Rejected",
        (true, false) => "NotUnderstood",
        (true, true) => "Pending",
    };
    (running == all, reason, parts.join(", "))
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
