//! A workload for the agent that hosts it: its ports, the services behind them, who may call.

use std::collections::BTreeSet;

use leno_config::{AccessAction, AccessPolicy, AccessTarget};
use leno_ir::{AccessRule, Feature, OwnWorkload, Principal, ServicePortRef, WorkloadPort};
use leno_types::{Identity, ServiceName, TrustDomain, WorkloadUid};

use crate::{WorkloadRecord, authentication, route::provenance, service, view::View};

/// No identity begins so (each begins with `spiffe://` and a trust domain): a rule for these callers is for nobody.
const NOBODY: &str = "nobody/";

/// A workload; `None` when it is not registered.
pub(crate) fn own(view: &View<'_>, uid: WorkloadUid) -> Option<OwnWorkload> {
    let record = view.workload(uid)?;
    let memberships = view.memberships(record);
    let service = record
        .service_name()
        .or_else(|| memberships.first().cloned());
    let mut ports = ports(view, record, &memberships);
    let mtls = authentication::mtls(view, record, &memberships, &mut ports);
    // Who does not know modes of ports would let in, at one of them, whom the workload does not.
    let levels = ports.iter().any(|port| port.mtls.is_some());
    let must_understand = levels
        .then_some(Feature::Authentication)
        .into_iter()
        .collect();
    Some(OwnWorkload {
        uid,
        namespace: record.namespace.clone(),
        name: record.name.to_string(),
        identity: record.identity(view.domain()),
        version: record.version_text().to_owned(),
        service,
        addresses: record.place.addresses.clone(),
        mtls,
        ports,
        access: access(view, record, memberships),
        must_understand,
    })
}

fn ports(
    view: &View<'_>,
    record: &WorkloadRecord,
    memberships: &BTreeSet<ServiceName>,
) -> Vec<WorkloadPort> {
    let mut ports: Vec<WorkloadPort> = Vec::new();
    for port in &*record.ports {
        let same = |known: &WorkloadPort| {
            known.port == port.workload_port && known.published == port.published
        };
        if !ports.iter().any(same) {
            ports.push(WorkloadPort {
                port: port.workload_port,
                protocol: port.protocol,
                published: port.published,
                services: Vec::new(),
                mtls: None,
            });
        }
    }
    for name in memberships {
        for of_service in service::ports_of(record, view.applied(name)) {
            let reference = ServicePortRef {
                service: name.clone(),
                port: of_service.service_port,
            };
            let behind = ports
                .iter_mut()
                .filter(|port| port.port == of_service.workload_port);
            for port in behind {
                port.protocol = port.protocol.or(of_service.protocol);
                if !port.services.contains(&reference) {
                    port.services.push(reference.clone());
                }
            }
        }
    }
    ports
}

fn access(
    view: &View<'_>,
    record: &WorkloadRecord,
    memberships: BTreeSet<ServiceName>,
) -> Vec<AccessRule> {
    // A policy of a service also protects what is registered for it by name: an applied Service whose selector misses
    // a workload must not take its protection away.
    let services = memberships
        .into_iter()
        .chain(record.registered_for())
        .map(AccessTarget::Service);
    let wider = [
        AccessTarget::Namespace(record.namespace.clone()),
        AccessTarget::Mesh,
    ];
    let policies = view.policies(services.chain(wider));
    policies
        .into_iter()
        .flat_map(|policy| access_rules(policy, view.domain()))
        .collect()
}

/// What a policy says, as the proxies of the workloads that it protects are told.
#[must_use]
pub fn access_rules(policy: &AccessPolicy, domain: &TrustDomain) -> Vec<AccessRule> {
    let action = match policy.action {
        AccessAction::Allow => leno_ir::AccessAction::Allow,
        AccessAction::Deny => leno_ir::AccessAction::Deny,
    };
    let rule = |field_path: String| AccessRule {
        action,
        principals: Vec::new(),
        namespaces: Vec::new(),
        ports: Vec::new(),
        provenance: provenance("AccessPolicy", &policy.meta, field_path),
        unknown_feature: None,
    };
    if policy.rules.is_empty() {
        // The workload now has a rule, so that what no rule allows is denied; and this one allows nobody.
        return vec![AccessRule {
            principals: vec![Principal::Prefix(NOBODY.into())],
            ..rule("spec.rules".into())
        }];
    }
    let mut rules = Vec::new();
    for (index, of) in policy.rules.iter().enumerate() {
        let path = format!("spec.rules[{index}]");
        let ports = || of.ports.clone();
        if of.from.is_empty() {
            rules.push(AccessRule {
                ports: ports(),
                ..rule(path.clone())
            });
        }
        for (source_index, source) in of.from.iter().enumerate() {
            let principals = source.principals.iter();
            rules.push(AccessRule {
                principals: principals
                    .map(|principal| lower_principal(principal, domain))
                    .collect(),
                namespaces: source.namespaces.iter().map(ToString::to_string).collect(),
                ports: ports(),
                ..rule(format!("{path}.from[{source_index}]"))
            });
        }
    }
    rules
}

fn lower_principal(principal: &leno_config::Principal, domain: &TrustDomain) -> Principal {
    match principal {
        leno_config::Principal::AnyAuthenticated => Principal::AnyAuthenticated,
        leno_config::Principal::Exact(identity) => Principal::Exact(identity.clone()),
        leno_config::Principal::Prefix(prefix) => Principal::Prefix(prefix.clone()),
        leno_config::Principal::ServiceAccount { namespace, name } => {
            Principal::Exact(Identity::workload(domain, namespace, name))
        }
    }
}
