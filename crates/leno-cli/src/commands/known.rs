//! What the mesh has at this moment, for commands that refuse a name nobody has.

use std::collections::BTreeSet;

use leno_config::{Kind, nearest};
use leno_controlplane::documents::{EdgeList, Proxy};
use leno_types::{DnsLabel, Identity, ServiceName};
use serde_json::Value;

use super::path_of;
use crate::{
    client::{CallError, Client},
    exit::CommandError,
    output::{items, text},
    top::{PROXIES, ask},
};

/// A service account, with its namespace.
pub(super) type Account = (DnsLabel, DnsLabel);

/// The services of the whole mesh, applied and derived.
pub(super) async fn services(client: &Client) -> Result<BTreeSet<ServiceName>, CallError> {
    let answer = client.get(&path_of(Kind::Service, None, None)).await?;
    let name = |object: &Value| {
        let namespace = text(object, "/metadata/namespace").parse().ok()?;
        let name = text(object, "/metadata/name").parse().ok()?;
        Some(ServiceName::new(namespace, name))
    };
    Ok(items(&answer, "/items").filter_map(name).collect())
}

/// Who called whom in the last ten minutes.
pub(super) async fn recent(client: &Client) -> Result<EdgeList, CommandError> {
    ask(client, "/leno/v1/telemetry/edges?window=600s").await
}

/// The proxies and their workloads.
pub(super) async fn proxies(client: &Client) -> Result<Vec<Proxy>, CommandError> {
    ask(client, PROXIES).await
}

/// Everybody who may call: who runs, who called of late, and whom a token lets in.
pub(super) async fn accounts(
    client: &Client,
    proxies: &[Proxy],
    edges: &EdgeList,
) -> BTreeSet<Account> {
    let workloads = proxies.iter().flat_map(|proxy| &proxy.workloads);
    let identities = workloads.map(|workload| workload.identity.as_str());
    let callers = edges.edges.iter();
    let callers = callers.filter_map(|edge| edge.source_identity.as_deref());
    let mut found: BTreeSet<Account> = identities.chain(callers).filter_map(account).collect();
    // Who may not see the tokens does without.
    let tokens = client.get("/leno/v1/tokens").await.unwrap_or(Value::Null);
    for token in items(&tokens, "").filter(|token| text(token, "/state") != "expired") {
        let Ok(namespace) = text(token, "/scope/namespace").parse::<DnsLabel>() else {
            continue;
        };
        let services = items(token, "/scope/services").filter_map(Value::as_str);
        let names = match text(token, "/scope/serviceAccount") {
            "" => services.collect(),
            account => vec![account],
        };
        let names = names.into_iter().filter_map(|name| name.parse().ok());
        found.extend(names.map(|name| (namespace.clone(), name)));
    }
    found
}

/// The account of an identity that the mesh wrote down.
pub(super) fn account(identity: &str) -> Option<Account> {
    let identity: Identity = identity.parse().ok()?;
    let namespace = identity.namespace()?.parse().ok()?;
    Some((namespace, identity.service_account()?.parse().ok()?))
}

/// `did you mean cart?`, or what there is; for a name that nobody has.
pub(super) fn meant(name: &str, there: &[&str]) -> String {
    const SHOWN: usize = 12;
    if let Some(near) = nearest(name, there) {
        return format!("did you mean {near}?");
    }
    match there.len() {
        0 => "there are none".into(),
        1..=SHOWN => format!("there are {}", there.join(", ")),
        all => format!("there are {all}: {}, ..", there[..SHOWN].join(", ")),
    }
}

/// Every name by which a log is asked for: hosts with a proxy, services and workloads.
pub(super) async fn places(client: &Client) -> Result<BTreeSet<String>, CommandError> {
    let mut found = BTreeSet::new();
    for proxy in proxies(client).await? {
        found.insert(proxy.host);
        for workload in proxy.workloads {
            found.extend(workload.service);
            found.insert(workload.name);
        }
    }
    Ok(found)
}

/// The same as [`meant()`], in the namespace that is meant or another; for a name that nobody has.
pub(super) fn instead(
    name: &str,
    namespace: &DnsLabel,
    there: &[(&DnsLabel, &DnsLabel)],
) -> String {
    let here = there.iter().filter(|(of, _)| *of == namespace);
    let names: Vec<&str> = here.map(|(_, name)| name.as_str()).collect();
    if nearest(name, &names).is_some() {
        return meant(name, &names);
    }
    if let Some((namespace, name)) = there.iter().find(|(_, of)| of.as_str() == name) {
        return format!("there is one in another namespace: {namespace}/{name}");
    }
    if names.is_empty() {
        return format!("namespace {namespace} has none");
    }
    meant(name, &names)
}
