//! Whom policies in files cut off by refusing plaintext, said before they are applied as `leno mtls strict` says it.

use std::collections::{BTreeMap, BTreeSet};

use leno_compile::Scanned;
use leno_config::{AuthenticationPolicy, Document, Kind, MtlsMode, admit};
use leno_controlplane::documents::MtlsPort;
use leno_types::{DnsLabel, ServiceName};
use serde_json::Value;

use super::{decision::read, list, show::callers};
use crate::{
    client::Client,
    commands::path_of,
    exit::CommandError,
    output::{items, text},
};

/// What a workload is called in a policy's selector.
type Labels = BTreeMap<String, String>;

/// Who came in plaintext in the last ten minutes and may not when these documents are in force; a line each.
pub(crate) async fn refused_by(
    client: &Client,
    documents: &[Document],
) -> Result<Vec<String>, CommandError> {
    let proposed = documents
        .iter()
        .filter(|document| document.kind == Kind::AuthenticationPolicy)
        .filter_map(|document| admit(document.kind, document.value.clone()).ok())
        .filter_map(|admitted| admitted.resource.as_authentication_policy().cloned());
    let proposed: Vec<AuthenticationPolicy> = proposed.collect();
    if proposed.is_empty() {
        return Ok(Vec::new());
    }
    let policies = path_of(Kind::AuthenticationPolicy, None, None);
    let policies = client.get(&policies).await?;
    let standing = items(&policies, "/items").filter_map(read).collect();
    let workloads = client.get(&path_of(Kind::Workload, None, None)).await?;
    let ports = list(client).await?.ports;
    let all: Vec<Value> = items(&workloads, "/items").cloned().collect();
    Ok(refused(standing, proposed, &ports, &all))
}

/// Who called the ports that take plaintext now and would not.
fn refused(
    standing: Vec<AuthenticationPolicy>,
    proposed: Vec<AuthenticationPolicy>,
    ports: &[MtlsPort],
    workloads: &[Value],
) -> Vec<String> {
    let after = after(standing, proposed);
    let after: Vec<&AuthenticationPolicy> = after.iter().collect();
    let closes = |port: &&MtlsPort| {
        let beside = ports
            .iter()
            .filter(|of| (&of.namespace, &of.workload) == (&port.namespace, &port.workload));
        let services: Vec<&str> = beside
            .flat_map(|of| &of.services)
            .map(String::as_str)
            .collect();
        port.mode == MtlsMode::Permissive.as_str()
            && mode(&after, port, &services, workloads) == Some(MtlsMode::Strict)
    };
    ports.iter().filter(closes).flat_map(callers).collect()
}

/// The policies as they will stand: one that is written again keeps its age.
fn after(
    mut standing: Vec<AuthenticationPolicy>,
    proposed: Vec<AuthenticationPolicy>,
) -> Vec<AuthenticationPolicy> {
    for mut new in proposed {
        let is_old = |of: &AuthenticationPolicy| {
            (&of.meta.namespace, &of.meta.name) == (&new.meta.namespace, &new.meta.name)
        };
        match standing.iter().position(is_old) {
            Some(at) => {
                let old = standing.swap_remove(at);
                new.meta.creation = old.meta.creation;
            }
            None => new.meta.creation = None,
        }
        standing.push(new);
    }
    standing
}

/// What a port of a workload of these services would do.
fn mode(
    policies: &[&AuthenticationPolicy],
    port: &MtlsPort,
    services: &[&str],
    workloads: &[Value],
) -> Option<MtlsMode> {
    let namespace: DnsLabel = port.namespace.parse().ok()?;
    let is_its = |of: &&Value| {
        text(of, "/metadata/name") == port.workload
            && text(of, "/metadata/namespace") == port.namespace
    };
    let labels = workloads.iter().find(is_its).map(|of| {
        let labels = of["metadata"]["labels"].as_object();
        let labels = labels.into_iter().flatten();
        let pair = |(name, value): (&String, &Value)| Some((name.clone(), value.as_str()?.into()));
        labels.filter_map(pair).collect::<Labels>()
    });
    let labels = labels.unwrap_or_default();
    let registered = labels.get("leno.dev/service").map(String::as_str);
    let services = services.iter().copied().chain(registered);
    let services = services.filter_map(|name| {
        let name = name.parse().ok()?;
        Some(ServiceName::new(namespace.clone(), name))
    });
    let of = Scanned {
        namespace: &namespace,
        services: &services.collect::<BTreeSet<_>>(),
        labels: &labels,
    };
    Some(of.mode(policies, port.port))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use leno_controlplane::documents::MtlsCaller;
    use serde_json::json;

    use super::*;

    fn port(port: u16) -> MtlsPort {
        MtlsPort {
            namespace: "shop".into(),
            services: vec!["web".into()],
            workload: "web-1".into(),
            port,
            mode: "PERMISSIVE".into(),
            callers: vec![MtlsCaller {
                address: "10.0.0.9".parse().unwrap(),
                host: None,
                calls: 3,
                refused: 0,
                seconds_ago: 1,
            }],
            ..MtlsPort::default()
        }
    }

    fn policy(name: &str, created: Option<&str>, spec: Value) -> AuthenticationPolicy {
        let mut metadata = json!({"name": name, "namespace": "shop"});
        if let Some(created) = created {
            metadata["creationTimestamp"] = json!(created);
        }
        let kind = "AuthenticationPolicy";
        let api = "leno.dev/v1alpha1";
        read(&json!({"apiVersion": api, "kind": kind, "metadata": metadata, "spec": spec})).unwrap()
    }

    fn told(standing: Vec<AuthenticationPolicy>, proposed: AuthenticationPolicy) -> Vec<String> {
        let workload = json!({"metadata": {
            "name": "web-1", "namespace": "shop",
            "labels": {"app": "web", "leno.dev/service": "web"},
        }});
        let ports = [port(8080), port(8081)];
        refused(standing, vec![proposed], &ports, &[workload])
    }

    #[test]
    fn who_loses_plaintext_by_a_document_is_told_and_nobody_else() {
        let of = |spec| policy("new", None, spec);
        let strict = || json!({"mode": "STRICT"});
        let all = [
            "10.0.0.9 → shop/web:8080: 3 calls",
            "10.0.0.9 → shop/web:8081: 3 calls",
        ];
        for target in [
            json!({"selector": {"matchLabels": {"app": "web"}}, "mtls": strict()}),
            json!({"targetRefs": [{"kind": "Service", "name": "web"}], "mtls": strict()}),
            json!({"targetRefs": [{"kind": "Namespace"}], "mtls": strict()}),
            json!({"targetRefs": [{"kind": "Mesh"}], "mtls": strict()}),
        ] {
            assert_eq!(told(vec![], of(target.clone())), all, "{target}");
        }
        let other = json!({"selector": {"matchLabels": {"app": "cart"}}, "mtls": strict()});
        assert!(told(vec![], of(other)).is_empty());
        let port = json!({"targetRefs": [{"kind": "Service", "name": "web"}],
            "portLevelMtls": {"8081": strict()}});
        assert_eq!(told(vec![], of(port)), all[1..]);
    }

    #[test]
    fn what_decides_already_keeps_its_say() {
        let open = json!({"targetRefs": [{"kind": "Service", "name": "web"}], "mtls": {"mode": "PERMISSIVE"}});
        let strict =
            json!({"selector": {"matchLabels": {"app": "web"}}, "mtls": {"mode": "STRICT"}});
        let old = || policy("old", Some("2026-11-01T00:00:00Z"), open.clone());
        assert!(told(vec![old()], policy("new", None, strict.clone())).is_empty());
        // In its own place it is as old as it was.
        assert_eq!(told(vec![old()], policy("old", None, strict)).len(), 2);
    }
}
