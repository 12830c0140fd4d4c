//! leno.dev/v1alpha1 `AuthenticationPolicy`: which ports take mutual TLS alone.
//!
//! Members speak mutual TLS to each other whatever it says; it decides about callers from outside the mesh. The
//! narrower scope decides: port, then workload (a Service or labels), namespace, mesh; of equals the oldest.
//! Refuses DISABLE, by which Istio's callers go over to plaintext: docs/decisions has why.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::{
    AccessTarget, AuthenticationPolicy, AuthenticationTarget, Meta, MtlsMode,
    access_policy::{self, MAX_TARGETS},
    fields::{Findings, Object},
    meta::labels,
    schema::authentication_policy as schema,
};

/// What `mode` says.
pub(crate) const MODES: &[&str] = &["STRICT", "PERMISSIVE", "UNSET"];
/// Members of `portLevelMtls`.
const MAX_PORTS: usize = 256;
/// What is said to who writes DISABLE.
const NO_DISABLE: &str = "DISABLE is not there: members never speak plaintext to each other, so that nobody can read or change what they say; \
                          PERMISSIVE takes plaintext from callers outside the mesh, which is what is needed for them";

/// Reads an AuthenticationPolicy.
pub(crate) fn read(
    meta: Option<Meta>,
    root: &mut Object<'_>,
    findings: &mut Findings,
) -> Option<AuthenticationPolicy> {
    let mut spec = root.required_object("spec", findings)?;
    spec.only(&schema::SPEC, findings);
    let before = findings.count();
    let targets = targets(&mut spec, meta.as_ref(), findings);
    let mode = mode_of(&mut spec, "mtls", findings);
    let ports = ports(&mut spec, findings);
    let wide = targets.iter().any(AuthenticationTarget::is_wide);
    if wide && !ports.is_empty() {
        let reason = "is for workloads: name Services in `targetRefs`, or labels in `selector`";
        findings.note(&spec.path("portLevelMtls"), reason);
    } else if mode.is_none() && (wide || ports.is_empty()) && findings.count() == before {
        let reason = "is required: `mode: STRICT` refuses plaintext, `mode: PERMISSIVE` lets it in";
        findings.note(&spec.path("mtls"), reason);
    }
    Some(AuthenticationPolicy {
        meta: meta?,
        targets,
        mode,
        ports,
    })
}

fn targets(
    spec: &mut Object<'_>,
    meta: Option<&Meta>,
    findings: &mut Findings,
) -> Vec<AuthenticationTarget> {
    // Without a usable namespace there is already a finding; the rest is still worth checking.
    let fallback = || "default".parse().ok();
    let Some(namespace) = meta.map(|meta| meta.namespace.clone()).or_else(fallback) else {
        return Vec::new();
    };
    let mut targets: Vec<AuthenticationTarget> = Vec::new();
    let members = spec.list("targetRefs", MAX_TARGETS, findings);
    let named = !members.is_empty();
    for (path, value) in members {
        let target = access_policy::target(value, &path, &namespace, &schema::TARGET, findings);
        let Some(target) = target.map(AuthenticationTarget::from) else {
            continue;
        };
        if targets.contains(&target) {
            findings.note(&path, "is there twice");
        } else {
            targets.push(target);
        }
    }
    if spec.has("selector") {
        if named {
            let reason = "stands alone: what has `targetRefs` is not also chosen by labels";
            findings.note(&spec.path("selector"), reason);
        }
        let labels = selector(spec, findings);
        targets.extend(labels.map(|labels| AuthenticationTarget::Labels(namespace, labels)));
    } else if !named {
        let reason = "must name what the policy is for: a Service, the Namespace or the Mesh; or choose workloads by `selector`";
        findings.note(&spec.path("targetRefs"), reason);
    }
    targets
}

fn selector(spec: &mut Object<'_>, findings: &mut Findings) -> Option<BTreeMap<String, String>> {
    let selector = spec.object("selector", findings)?;
    selector.only(&schema::SELECTOR, findings);
    let before = findings.count();
    let labels = labels(&selector, "matchLabels", findings);
    if labels.is_empty() && findings.count() == before {
        let reason = "names no label: for every workload write `targetRefs: [{kind: Namespace}]`";
        findings.note(&selector.path("matchLabels"), reason);
    }
    (!labels.is_empty()).then_some(labels)
}

/// The mode of an object `{mode: ..}`; UNSET, as Istio calls it, is none.
fn mode_of(of: &mut Object<'_>, key: &str, findings: &mut Findings) -> Option<MtlsMode> {
    let mtls = of.object(key, findings)?;
    mtls.only(&schema::MTLS, findings);
    if !mtls.has("mode") {
        findings.note(&mtls.path("mode"), "is required: STRICT or PERMISSIVE");
    }
    if mtls.raw("mode").and_then(Value::as_str) == Some("DISABLE") {
        findings.note(&mtls.path("mode"), NO_DISABLE);
        return None;
    }
    match mtls.word("mode", MODES, findings)? {
        "STRICT" => Some(MtlsMode::Strict),
        "PERMISSIVE" => Some(MtlsMode::Permissive),
        _ => None,
    }
}

fn ports(spec: &mut Object<'_>, findings: &mut Findings) -> BTreeMap<u16, MtlsMode> {
    let mut ports = BTreeMap::new();
    let Some(mut levels) = spec.object("portLevelMtls", findings) else {
        return ports;
    };
    let names: Vec<String> = levels.keys();
    if names.len() > MAX_PORTS {
        let reason = format!("has {} ports, at most {MAX_PORTS} are allowed", names.len());
        findings.note(&spec.path("portLevelMtls"), reason);
        return ports;
    }
    for name in names {
        let number = name.parse::<u16>().ok().filter(|number| *number > 0);
        let Some(number) = number.filter(|number| number.to_string() == name) else {
            let reason = "is no port: write the number at which the program listens, in quotes";
            findings.note(&levels.path(&name), reason);
            continue;
        };
        let mode = mode_of(&mut levels, &name, findings);
        ports.extend(mode.map(|mode| (number, mode)));
    }
    ports
}

impl From<AccessTarget> for AuthenticationTarget {
    fn from(target: AccessTarget) -> Self {
        match target {
            AccessTarget::Service(name) => Self::Service(name),
            AccessTarget::Namespace(name) => Self::Namespace(name),
            AccessTarget::Mesh => Self::Mesh,
        }
    }
}
