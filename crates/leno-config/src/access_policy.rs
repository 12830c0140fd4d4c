//! leno.dev/v1alpha1 `AccessPolicy`: who may call, by identity.
//!
//! Deny beats allow. A workload that no Allow policy targets may be called by everybody; once one does, only what
//! some Allow rule matches may call it, so an Allow policy with no rules (`rules: []`) denies everybody, and an empty
//! rule (`rules: [{}]`) matches everybody, callers without identity included.

use leno_types::{DnsLabel, Identity, ServiceName};
use serde_json::Value;

use crate::{
    AccessAction, AccessPolicy, AccessRule, AccessSource, AccessTarget, Finding, Meta, Principal,
    fields::{Findings, Object, number_of, text_of},
    schema::{Fields, access_policy as schema},
};

/// `targetRefs` of an AccessPolicy.
pub(crate) const MAX_TARGETS: usize = 16;
/// `rules` of an AccessPolicy.
pub(crate) const MAX_RULES: usize = 64;
/// Entries of `from` in one rule; as many of `to`.
pub(crate) const MAX_SOURCES: usize = 64;
/// Members of one list in such an entry: `principals`, `namespaces`, `serviceAccounts`, `ports`.
pub(crate) const MAX_MEMBERS: usize = 256;

/// What `action` says.
pub(crate) const ACTIONS: &[&str] = &["Allow", "Deny"];
/// What a policy can be about.
pub(crate) const TARGETS: &[&str] = &["Service", "Namespace", "Mesh"];

/// Reads an AccessPolicy.
pub(crate) fn read(
    meta: Option<Meta>,
    root: &mut Object<'_>,
    findings: &mut Findings,
) -> Option<AccessPolicy> {
    let mut spec = root.required_object("spec", findings)?;
    spec.only(&schema::SPEC, findings);
    // Without a usable namespace there is already a finding; the rest is still worth checking.
    let namespace = match &meta {
        Some(meta) => meta.namespace.clone(),
        None => "default".parse().ok()?,
    };
    let mut targets: Vec<AccessTarget> = Vec::new();
    let members = spec.list("targetRefs", MAX_TARGETS, findings);
    if members.is_empty() {
        let reason = "must name what the policy protects: a Service, the Namespace or the Mesh";
        findings.note("spec.targetRefs", reason);
    }
    for (path, value) in members {
        let Some(target) = target(value, &path, &namespace, &schema::TARGET, findings) else {
            continue;
        };
        if targets.contains(&target) {
            findings.note(&path, "is there twice");
        } else {
            targets.push(target);
        }
    }
    if !spec.has("action") {
        findings.note("spec.action", "is required: Allow or Deny");
    }
    let action = match spec.word("action", ACTIONS, findings) {
        Some("Allow") => Some(AccessAction::Allow),
        Some(_) => Some(AccessAction::Deny),
        None => None,
    };
    let mut rules = Vec::new();
    for (path, value) in spec.list("rules", MAX_RULES, findings) {
        rules.extend(rule(value, &path, findings));
    }
    if action == Some(AccessAction::Deny) && rules.is_empty() {
        let reason =
            "a Deny policy without rules denies nothing: write `rules: [{}]` to deny everybody";
        findings.note("spec.rules", reason);
    }
    Some(AccessPolicy {
        meta: meta?,
        targets,
        action: action?,
        rules,
    })
}

/// What a member of `targetRefs` means.
pub(crate) fn target(
    value: &mut Value,
    path: &str,
    namespace: &DnsLabel,
    table: &'static Fields,
    findings: &mut Findings,
) -> Option<AccessTarget> {
    let mut target = Object::at(value, path, findings)?;
    target.only(table, findings);
    if !target.has("kind") {
        findings.note(
            &target.path("kind"),
            "is required: Service, Namespace or Mesh",
        );
    }
    let kind = target.word("kind", TARGETS, findings)?;
    let group = if kind == "Mesh" { "leno.dev" } else { "" };
    target.default("group", group);
    if target
        .text("group", findings)
        .is_some_and(|found| found != group)
    {
        findings.note(
            &target.path("group"),
            format!("must be \"{group}\" for a {kind}"),
        );
    }
    match kind {
        "Service" => {
            let name = target.required_parsed("name", findings)?;
            Some(AccessTarget::Service(ServiceName::new(
                namespace.clone(),
                name,
            )))
        }
        "Namespace" => {
            target.default("name", namespace.as_str());
            let name: DnsLabel = target.parsed("name", findings)?;
            if name != *namespace {
                let reason = format!("a policy protects its own namespace, {namespace}");
                findings.note(&target.path("name"), reason);
            }
            Some(AccessTarget::Namespace(name))
        }
        _ => {
            if target.has("name") {
                let reason =
                    "there is one mesh, which is the one the policy is in: leave the name out";
                findings.note(&target.path("name"), reason);
            }
            Some(AccessTarget::Mesh)
        }
    }
}

fn rule(value: &mut Value, path: &str, findings: &mut Findings) -> Option<AccessRule> {
    let mut rule = Object::at(value, path, findings)?;
    rule.only(&schema::RULE, findings);
    let mut from = Vec::new();
    let (written, before) = (rule.has("from"), findings.count());
    for (path, value) in rule.list("from", MAX_SOURCES, findings) {
        from.extend(source(value, &path, findings));
    }
    if written && from.is_empty() && findings.count() == before {
        let reason = "names nobody: leave `from` out for every caller";
        findings.note(&rule.path("from"), reason);
    }
    let mut ports: Vec<u16> = Vec::new();
    let (written, before) = (rule.has("to"), findings.count());
    for (path, value) in rule.list("to", MAX_SOURCES, findings) {
        let Some(mut to) = Object::at(value, &path, findings) else {
            continue;
        };
        to.only(&schema::TO, findings);
        let (had, before) = (ports.len(), findings.count());
        for (path, value) in to.list("ports", MAX_MEMBERS, findings) {
            let port = number_of(value, 1..=65_535, &path, findings);
            ports.extend(port.and_then(|port| u16::try_from(port).ok()));
        }
        if ports.len() == had && findings.count() == before {
            findings.note(&to.path("ports"), "must name at least one port");
        }
    }
    if written && ports.is_empty() && findings.count() == before {
        findings.note(
            &rule.path("to"),
            "names no port: leave `to` out for every port",
        );
    }
    ports.sort_unstable();
    ports.dedup();
    Some(AccessRule { from, ports })
}

fn source(value: &mut Value, path: &str, findings: &mut Findings) -> Option<AccessSource> {
    let mut source = Object::at(value, path, findings)?;
    let before = findings.count();
    source.only(&schema::SOURCE, findings);
    let mut principals = Vec::new();
    for (path, value) in source.list("principals", MAX_MEMBERS, findings) {
        principals.extend(principal(value, &path, findings));
    }
    let named = !principals.is_empty();
    let mut accounts = Vec::new();
    for (path, value) in source.list("serviceAccounts", MAX_MEMBERS, findings) {
        accounts.extend(account(value, &path, findings));
    }
    let namespaces: Vec<DnsLabel> = source.parsed_list("namespaces", MAX_MEMBERS, findings);
    if !accounts.is_empty() && (named || !namespaces.is_empty()) {
        let reason =
            "stands alone in its entry: write principals and namespaces in another entry of `from`";
        findings.note(&source.path("serviceAccounts"), reason);
    }
    principals.extend(accounts);
    if principals.is_empty() && namespaces.is_empty() {
        if findings.count() == before {
            let reason = "names nobody: write principals, serviceAccounts or namespaces";
            findings.note(path, reason);
        }
        return None;
    }
    Some(AccessSource {
        principals,
        namespaces,
    })
}

fn principal(value: &Value, path: &str, findings: &mut Findings) -> Option<Principal> {
    let text = text_of(value, path, findings)?;
    if text == "*" {
        return Some(Principal::AnyAuthenticated);
    }
    if !text.starts_with("spiffe://") {
        let shown: String = text.chars().take(128).collect();
        let finding = Finding::new(
            path,
            "a principal is a SPIFFE ID, or begins as one and ends with *",
        );
        let rest = shown.trim_start_matches('/').to_owned();
        findings.add(finding.with_suggestion(Some(format!("spiffe://{rest}"))));
        return None;
    }
    // A prefix must end inside the path: `spiffe://shop*` would also mean the domain shop-of-somebody-else.
    let parsed = match text.strip_suffix('*') {
        None => text.parse::<Identity>().map(Principal::Exact),
        Some(prefix) => {
            let probe = format!("{prefix}x");
            probe
                .parse::<Identity>()
                .map(|_| Principal::Prefix(prefix.into()))
        }
    };
    match parsed {
        Ok(principal) => Some(principal),
        Err(error) => {
            findings.note(path, error.to_string());
            None
        }
    }
}

fn account(value: &Value, path: &str, findings: &mut Findings) -> Option<Principal> {
    let text = text_of(value, path, findings)?;
    let parts = text.split_once('/').and_then(|(namespace, name)| {
        Some(Principal::ServiceAccount {
            namespace: namespace.parse().ok()?,
            name: name.parse().ok()?,
        })
    });
    if parts.is_none() {
        let shown: String = text.chars().take(64).collect();
        let reason = format!("\"{shown}\" is no service account: write NAMESPACE/NAME");
        findings.note(path, reason);
    }
    parts
}
