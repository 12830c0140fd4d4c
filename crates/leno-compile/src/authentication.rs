//! Which AuthenticationPolicy decides what a workload does with plaintext.
//!
//! Owns the order: the narrower scope goes first (port, then workload, namespace, mesh); of several of one scope the
//! oldest decides, and the others are not in force there.
//! Invariant: the index says exactly what a scan of the policies would.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use leno_config::{AuthenticationPolicy, AuthenticationTarget, MtlsMode};
use leno_ir::{Mtls, Provenance, WorkloadPort};
use leno_types::{DnsLabel, ServiceName, WorkloadUid};

use crate::{
    Compiler, Condition, Key, Output, WorkloadRecord,
    hostnames::Born,
    index::remove,
    known::{Known, ObjectName},
    route::provenance,
    view::View,
};

/// Workloads that a message names.
const NAMED: usize = 5;

/// A policy's place among those of its scope: the least decides.
pub(crate) type Aged = (Born, ObjectName);

/// The policies by what they are for.
#[derive(Debug, Default)]
pub(crate) struct Authentications {
    of: BTreeMap<AuthenticationTarget, BTreeSet<Aged>>,
    /// Those that choose by labels, by namespace.
    by_labels: BTreeMap<DnsLabel, BTreeSet<Aged>>,
}

impl Authentications {
    /// Takes a policy in.
    pub(crate) fn insert(&mut self, policy: &AuthenticationPolicy) {
        let aged = aged(policy);
        for target in &policy.targets {
            if let AuthenticationTarget::Labels(namespace, _) = target {
                let of = self.by_labels.entry(namespace.clone()).or_default();
                of.insert(aged.clone());
            }
            let of = self.of.entry(target.clone()).or_default();
            of.insert(aged.clone());
        }
    }

    /// Takes a policy out.
    pub(crate) fn remove(&mut self, policy: &AuthenticationPolicy) {
        let aged = aged(policy);
        for target in &policy.targets {
            if let AuthenticationTarget::Labels(namespace, _) = target {
                remove(&mut self.by_labels, namespace, &aged);
            }
            remove(&mut self.of, target, &aged);
        }
    }

    /// Those for a target, the oldest first.
    pub(crate) fn of(&self, target: &AuthenticationTarget) -> impl Iterator<Item = &Aged> {
        self.of.get(target).into_iter().flatten()
    }

    /// Those that choose workloads of a namespace by labels, the oldest first.
    pub(crate) fn by_labels(&self, namespace: &DnsLabel) -> impl Iterator<Item = &Aged> {
        self.by_labels.get(namespace).into_iter().flatten()
    }
}

fn aged(policy: &AuthenticationPolicy) -> Aged {
    let meta = &policy.meta;
    let name = ObjectName::new(meta.namespace.clone(), meta.name.clone());
    (Born::of_meta(meta), name)
}

/// What a workload does with plaintext; ports that have a mode of their own get it.
pub(crate) fn mtls(
    view: &View<'_>,
    record: &WorkloadRecord,
    memberships: &BTreeSet<ServiceName>,
    ports: &mut [WorkloadPort],
) -> Mtls {
    let own = of_workload(view, record, memberships);
    if let Some(own) = own {
        for port in ports {
            let mode = own.ports.get(&port.port);
            let path = || format!("spec.portLevelMtls.{}", port.port);
            port.mtls = mode.map(|mode| says(own, *mode, path()));
        }
    }
    let wider = [
        AuthenticationTarget::Namespace(record.namespace.clone()),
        AuthenticationTarget::Mesh,
    ];
    let wider = wider
        .iter()
        .filter_map(|target| view.authentication(target));
    let mut policies = own.into_iter().chain(wider);
    let found = policies.find_map(|policy| Some((policy, policy.mode?)));
    found.map_or_else(Mtls::default, |(policy, mode)| {
        says(policy, mode, "spec.mtls.mode".into())
    })
}

fn says(policy: &AuthenticationPolicy, mode: MtlsMode, field: String) -> Mtls {
    let mode = match mode {
        MtlsMode::Strict => leno_ir::MtlsMode::Strict,
        MtlsMode::Permissive => leno_ir::MtlsMode::Permissive,
    };
    let provenance: Provenance = provenance("AuthenticationPolicy", &policy.meta, field);
    Mtls {
        mode,
        provenance: Some(provenance),
    }
}

/// The policy that names this workload, by a service or by labels: the oldest of them.
fn of_workload<'a>(
    view: &View<'a>,
    record: &WorkloadRecord,
    memberships: &BTreeSet<ServiceName>,
) -> Option<&'a AuthenticationPolicy> {
    // As with an AccessPolicy: an applied Service whose selector misses a workload takes no protection away from it.
    let services = memberships.iter().cloned().chain(record.registered_for());
    let named = services.map(AuthenticationTarget::Service);
    let named = named.filter_map(|target| view.authentication(&target));
    let policies = named.chain(view.authentication_by_labels(record));
    policies.min_by_key(|policy| aged(policy))
}

/// Where an older policy decides in this one's place.
struct Overruled {
    /// By which, and where.
    by: BTreeSet<(ObjectName, String)>,
    /// Whether there is a target at which this one decides, or would.
    elsewhere: bool,
}

fn overruled(known: &Known, policy: &AuthenticationPolicy) -> Overruled {
    let me = aged(policy);
    let mut found = Overruled {
        by: BTreeSet::new(),
        elsewhere: false,
    };
    // Most policies have no older one beside them, and need no look at workloads.
    let rival = |of: &AuthenticationPolicy| {
        aged(of) < me && !of.targets.iter().all(AuthenticationTarget::is_wide)
    };
    let rivals = known.authentications_in(&policy.meta.namespace).any(rival);
    for target in &policy.targets {
        let first = known.authentications_of().of(target).next();
        if let Some((_, other)) = first.filter(|first| **first != me) {
            found.by.insert((other.clone(), target.to_string()));
            continue;
        }
        let members = if rivals {
            members(known, target)
        } else {
            Vec::new()
        };
        let all = members.len();
        let mut lost = 0_usize;
        for record in members {
            let view = View::fresh(known);
            let memberships = view.memberships(record);
            let decides = of_workload(&view, record, &memberships);
            let other = decides.map(aged).filter(|other| *other != me);
            if let Some((_, other)) = other {
                lost += 1;
                found.by.insert((other, record.name.to_string()));
            }
        }
        found.elsewhere |= all == 0 || lost < all;
    }
    found
}

/// The workloads that a target names.
fn members<'a>(known: &'a Known, target: &AuthenticationTarget) -> Vec<&'a WorkloadRecord> {
    match target {
        AuthenticationTarget::Service(name) => {
            let view = View::fresh(known);
            let selected = known.service(name).map(|service| view.selected(service));
            let mut members = view.registered(name);
            members.extend(selected.into_iter().flatten());
            members
        }
        AuthenticationTarget::Labels(namespace, labels) => known
            .selected(namespace, labels)
            .map(|member| &member.record)
            .collect(),
        AuthenticationTarget::Namespace(_) | AuthenticationTarget::Mesh => Vec::new(),
    }
}

/// A policy is not accepted where older ones decide everywhere in its place; where they do at some of its targets,
/// `Effective` says so.
pub(crate) fn conditions(known: &Known, policy: &AuthenticationPolicy) -> Vec<Condition> {
    let overruled = overruled(known, policy);
    let shown = overruled.by.iter().take(NAMED);
    let mut by: Vec<String> = shown
        .map(|(other, at)| format!("the older AuthenticationPolicy {other} decides for {at}"))
        .collect();
    let more = overruled.by.len().saturating_sub(NAMED);
    if more > 0 {
        by.push(format!("and {more} more"));
    }
    let of = |r#type: &'static str, status: bool| Condition {
        parent: None,
        r#type,
        status,
        reason: if status { r#type } else { "Conflicted" },
        message: if status { String::new() } else { by.join("; ") },
        observed_generation: policy.meta.generation,
    };
    let accepted = overruled.by.is_empty() || overruled.elsewhere;
    let mut conditions = vec![of("Accepted", accepted)];
    if accepted && !overruled.by.is_empty() {
        conditions.push(of("Effective", false));
    }
    conditions
}

/// What a port of a workload does with plaintext, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortMode {
    /// The program's port.
    pub port: u16,
    /// Where callers from outside the mesh reach it.
    pub published: Option<u16>,
    /// The services it belongs to.
    pub services: Vec<ServiceName>,
    /// What it does.
    pub mode: &'static str,
    /// How narrow the policy is that says so: `port`, `workload`, `namespace`, `mesh`; empty where none does.
    pub scope: &'static str,
    /// Where it is written.
    pub provenance: Option<Provenance>,
}

impl Compiler {
    /// What the ports of a workload do with plaintext; none where there is no such workload.
    #[must_use]
    pub fn mtls_of(&self, uid: WorkloadUid) -> Vec<PortMode> {
        let output = self.get(&Key::OwnWorkload(uid));
        let Some(Output::OwnWorkload(own)) = output.as_deref() else {
            return Vec::new();
        };
        let view = View::fresh(&self.known);
        let record = view.workload(uid);
        let scope = record.map_or("", |record| {
            let memberships = view.memberships(record);
            let named = of_workload(&view, record, &memberships);
            let namespace = AuthenticationTarget::Namespace(record.namespace.clone());
            if named.is_some_and(|policy| policy.mode.is_some()) {
                "workload"
            } else if view.authentication(&namespace).is_some() {
                "namespace"
            } else if view.authentication(&AuthenticationTarget::Mesh).is_some() {
                "mesh"
            } else {
                ""
            }
        });
        let of = |port: &WorkloadPort| {
            let mtls = port.mtls.as_ref().unwrap_or(&own.mtls);
            PortMode {
                port: port.port,
                published: port.published,
                services: port.services.iter().map(|of| of.service.clone()).collect(),
                mode: match mtls.mode {
                    leno_ir::MtlsMode::Strict => MtlsMode::Strict.as_str(),
                    leno_ir::MtlsMode::Permissive => MtlsMode::Permissive.as_str(),
                },
                scope: if port.mtls.is_some() { "port" } else { scope },
                provenance: mtls.provenance.clone(),
            }
        };
        own.ports.iter().map(of).collect()
    }
}
