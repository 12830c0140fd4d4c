//! Documents that commands write for people: `leno split`, `allow`, `deny`, `mtls`. Ordinary ones, as anyone would write them.

use std::collections::BTreeMap;

use leno_types::{AppProtocol, DnsLabel, ServiceName};
use serde_json::{Map, Value, json};

use crate::{AccessAction, AuthenticationTarget, Kind, MtlsMode};

/// One side of a split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitBackend {
    /// The service, of the namespace of the split one.
    pub service: DnsLabel,
    /// Its port.
    pub port: u16,
    /// Its share of the sum of weights.
    pub weight: u32,
}

/// A Service whose workloads have all labels of `selector`; an empty one means those registered for it by name.
/// Ports: number, the workloads' port, protocol.
#[must_use]
pub fn service_template(
    name: &ServiceName,
    selector: &BTreeMap<String, String>,
    ports: &[(u16, u16, Option<AppProtocol>)],
) -> Value {
    let mut spec = Map::new();
    if !selector.is_empty() {
        spec.insert("selector".into(), json!(selector));
    }
    let port = |(port, target, protocol): &(u16, u16, Option<AppProtocol>)| {
        let prefix = protocol.map_or("port", AppProtocol::as_str);
        let name = format!("{prefix}-{port}");
        let mut value = json!({"name": name, "port": port, "targetPort": target});
        if let (Some(map), Some(protocol)) = (value.as_object_mut(), protocol) {
            map.insert("appProtocol".into(), protocol.as_str().into());
        }
        value
    };
    spec.insert("ports".into(), ports.iter().map(port).collect());
    document(Kind::Service, name, spec.into())
}

/// An HTTPRoute, named as its service, that splits the requests to `port` of it (all ports when `None`).
#[must_use]
pub fn httproute_split(
    service: &ServiceName,
    port: Option<u16>,
    backends: &[SplitBackend],
) -> Value {
    let mut parent = json!({"group": "", "kind": "Service", "name": service.name.as_str()});
    if let (Some(map), Some(port)) = (parent.as_object_mut(), port) {
        map.insert("port".into(), port.into());
    }
    let backend = |backend: &SplitBackend| json!({"name": backend.service.as_str(), "port": backend.port, "weight": backend.weight});
    let backends: Vec<Value> = backends.iter().map(backend).collect();
    let spec = json!({"parentRefs": [parent], "rules": [{"backendRefs": backends}]});
    document(Kind::HttpRoute, service, spec)
}

/// An AccessPolicy for the workloads of one service about callers by service account. No caller means every one:
/// [`AccessAction::Allow`] then lets in all who prove who they are, [`AccessAction::Deny`] nobody at all.
#[must_use]
pub fn access_policy(
    name: &DnsLabel,
    target: &ServiceName,
    action: AccessAction,
    callers: &[(DnsLabel, DnsLabel)],
) -> Value {
    let accounts: Vec<String> = callers
        .iter()
        .map(|(namespace, account)| format!("{namespace}/{account}"))
        .collect();
    let rules = match (accounts.is_empty(), action) {
        (true, AccessAction::Allow) => json!([{"from": [{"principals": ["*"]}]}]),
        // An empty rule matches callers without identity, too.
        (true, AccessAction::Deny) => json!([{}]),
        (false, _) => json!([{"from": [{"serviceAccounts": accounts}]}]),
    };
    let spec = json!({
        "targetRefs": [{"kind": "Service", "name": target.name.as_str()}],
        "action": action.as_str(),
        "rules": rules,
    });
    let named = ServiceName::new(target.namespace.clone(), name.clone());
    document(Kind::AccessPolicy, &named, spec)
}

/// An AuthenticationPolicy with one target. Without a mode it has some for ports.
#[must_use]
pub fn authentication_template(
    namespace: &DnsLabel,
    name: &str,
    target: &AuthenticationTarget,
    mode: Option<MtlsMode>,
    ports: &BTreeMap<u16, MtlsMode>,
) -> Value {
    let of = |mode: MtlsMode| json!({"mode": mode.as_str()});
    let mut spec = match target {
        AuthenticationTarget::Service(name) => {
            json!({"targetRefs": [{"kind": "Service", "name": name.name.as_str()}]})
        }
        AuthenticationTarget::Labels(_, labels) => json!({"selector": {"matchLabels": labels}}),
        AuthenticationTarget::Namespace(_) => json!({"targetRefs": [{"kind": "Namespace"}]}),
        AuthenticationTarget::Mesh => json!({"targetRefs": [{"kind": "Mesh"}]}),
    };
    if let Some(mode) = mode {
        spec["mtls"] = of(mode);
    }
    if !ports.is_empty() {
        let levels = ports
            .iter()
            .map(|(port, mode)| (port.to_string(), of(*mode)));
        spec["portLevelMtls"] = levels.collect::<Map<String, Value>>().into();
    }
    json!({
        "apiVersion": Kind::AuthenticationPolicy.api_version(),
        "kind": Kind::AuthenticationPolicy.kind(),
        "metadata": {"namespace": namespace.as_str(), "name": name},
        "spec": spec,
    })
}

fn document(kind: Kind, name: &ServiceName, spec: Value) -> Value {
    json!({
        "apiVersion": kind.api_version(),
        "kind": kind.kind(),
        "metadata": {"namespace": name.namespace.as_str(), "name": name.name.as_str()},
        "spec": spec,
    })
}
