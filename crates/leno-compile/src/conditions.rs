//! What is said about objects: `Accepted` and `ResolvedRefs`, in the words of the Gateway API (CP12).

use leno_config::{AccessPolicy, AccessTarget, HttpRoute, Meta, ParentRef};

use crate::{
    Condition,
    route::{Attached, attach, check_backend},
    view::View,
};

fn condition(
    meta: &Meta,
    parent: Option<&ParentRef>,
    r#type: &'static str,
    fault: Option<(&'static str, String)>,
) -> Condition {
    let status = fault.is_none();
    let (reason, message) = fault.unwrap_or((r#type, String::new()));
    Condition {
        parent: parent.cloned(),
        r#type,
        status,
        reason,
        message,
        observed_generation: meta.generation,
    }
}

/// A service that was applied is accepted.
pub(crate) fn of_service(meta: &Meta) -> Vec<Condition> {
    vec![condition(meta, None, "Accepted", None)]
}

/// Both conditions for each parent of a route.
pub(crate) fn of_route(view: &View<'_>, route: &HttpRoute) -> Vec<Condition> {
    let refs = unresolved_backends(view, route);
    let mut conditions = Vec::new();
    for parent in &route.parents {
        let accepted = refused_parent(view, parent);
        let meta = &route.meta;
        conditions.push(condition(meta, Some(parent), "Accepted", accepted));
        conditions.push(condition(meta, Some(parent), "ResolvedRefs", refs.clone()));
    }
    conditions
}

fn refused_parent(view: &View<'_>, parent: &ParentRef) -> Option<(&'static str, String)> {
    let name = &parent.service;
    let Some(service) = view.effective(name) else {
        return Some(("NoMatchingParent", format!("there is no service {name}")));
    };
    match attach(&service, parent.port) {
        Attached::To(_) => None,
        Attached::NoSuchPort(port) => {
            let has: Vec<String> = service
                .ports
                .iter()
                .map(|port| port.port.to_string())
                .collect();
            let has = has.join(", ");
            let message = format!("service {name} has no port {port}; it has {has}");
            Some(("NoMatchingParent", message))
        }
        Attached::NotHttp => {
            let message = format!("no port that it is for speaks HTTP in service {name}");
            Some(("UnsupportedProtocol", message))
        }
    }
}

fn unresolved_backends(view: &View<'_>, route: &HttpRoute) -> Option<(&'static str, String)> {
    let mut reason = None;
    let mut messages = Vec::new();
    for (rule_index, rule) in route.rules.iter().enumerate() {
        for (index, backend) in rule.backends.iter().enumerate() {
            let Some(fault) = check_backend(view, &route.meta, backend) else {
                continue;
            };
            reason.get_or_insert(fault.reason());
            let message = fault.message(&backend.service, backend.port);
            messages.push(format!(
                "spec.rules[{rule_index}].backendRefs[{index}]: {message}"
            ));
        }
    }
    reason.map(|reason| (reason, messages.join("; ")))
}

/// A policy is accepted; a service that it protects may not be there (yet).
pub(crate) fn of_policy(view: &View<'_>, policy: &AccessPolicy) -> Vec<Condition> {
    let missing: Vec<String> = policy
        .targets
        .iter()
        .enumerate()
        .filter_map(|(index, target)| match target {
            AccessTarget::Service(name) if view.effective(name).is_none() => Some(format!(
                "spec.targetRefs[{index}]: there is no service {name}"
            )),
            AccessTarget::Service(_) | AccessTarget::Namespace(_) | AccessTarget::Mesh => None,
        })
        .collect();
    let fault = (!missing.is_empty()).then(|| ("TargetNotFound", missing.join("; ")));
    vec![
        condition(&policy.meta, None, "Accepted", None),
        condition(&policy.meta, None, "ResolvedRefs", fault),
    ]
}
