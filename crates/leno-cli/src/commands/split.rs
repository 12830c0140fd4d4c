//! `leno split`: the shares of a service's versions, in the route that there is or in a new one.
//!
//! Invariant: of a route that people wrote, nothing changes but the backends of its one rule for all requests.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use clap::Args;
use leno_config::{
    HttpRoute, Kind, PROVENANCE, PathMatch, RouteRule, SplitBackend, admit, httproute_split,
    nearest,
};
use leno_controlplane::documents::Proxy;
use leno_types::{DnsLabel, ServiceName};
use serde_json::{Value, json};

use super::{apply::apply_values, known, label, path_of, shortcuts::Common};
use crate::{
    client::{CallError, Client},
    exit::{CommandError, Outcome},
    output::{items, text},
};

/// Split a service's requests between its versions.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  leno split catalog v1=95 v2=5
  leno split catalog v1=0 v2=100
  leno split catalog v1=95 v2=5 --dry-run -o yaml > canary.yaml")]
pub(crate) struct SplitArgs {
    /// The service
    service: String,
    /// Shares by version, such as v1=95 v2=5
    #[arg(required = true, value_name = "VERSION=WEIGHT")]
    shares: Vec<String>,
    /// Its port (default: every port it has)
    #[arg(long)]
    port: Option<u16>,
    #[command(flatten)]
    common: Common,
}

/// What is to be written.
#[derive(Debug)]
struct Change {
    document: Value,
    /// Backends that get nothing any more.
    dropped: Vec<String>,
}

/// Changes the weights of the service's route, or writes one that is named as the service.
pub(crate) async fn split(client: &Client, args: &SplitArgs) -> Outcome {
    let service = ServiceName::new(args.common.namespace(client)?, label(&args.service)?);
    let ports = ports(client, &service).await?;
    let port = args.port.or_else(|| ports.first().copied()).unwrap_or(80);
    if !ports.is_empty() && !ports.contains(&port) {
        return Err(
            CommandError::failed(format!("service {} has no port {port}", service.name))
                .hint(format!("it has {ports:?}")),
        );
    }
    let backends = backends(&args.shares, &service, port)?;
    if ports.is_empty() {
        exists(client, &service).await?;
    }
    for backend in &backends {
        let name = ServiceName::new(service.namespace.clone(), backend.service.clone());
        if self::ports(client, &name).await?.is_empty() {
            let proxies = known::proxies(client).await?;
            return Err(no_version(&service, &backend.service, &proxies));
        }
    }
    let path = path_of(Kind::HttpRoute, Some(service.namespace.as_str()), None);
    let answer = client.get(&path).await?;
    let routes: Vec<&Value> = items(&answer, "/items").collect();
    let one_port = ports.len() == 1;
    let Change {
        mut document,
        dropped,
    } = change(&routes, &service, args.port, one_port, &backends)?;
    for name in dropped {
        say!("⚠ {name} gets no requests any more: it is not among the shares");
    }
    let common = &args.common;
    if common.dry_run {
        as_written(&mut document);
    }
    apply_values(
        client,
        &[document],
        common.dry_run,
        !common.no_wait,
        common.output,
    )
    .await
}

/// Refuses a service that there is not, where another is called nearly so.
async fn exists(client: &Client, service: &ServiceName) -> Result<(), CommandError> {
    let services = known::services(client).await?;
    let here = services
        .iter()
        .filter(|of| of.namespace == service.namespace);
    let names: Vec<&str> = here.map(|of| of.name.as_str()).collect();
    let name = service.name.as_str();
    match nearest(name, &names) {
        Some(near) if !names.contains(&name) => {
            let what = format!(
                "there is no service {name} in namespace {}",
                service.namespace
            );
            Err(CommandError::refused(what).hint(format!("did you mean {near}?")))
        }
        Some(_) | None => Ok(()),
    }
}

/// What is to be done about a version that there is not.
fn no_version(service: &ServiceName, missing: &DnsLabel, proxies: &[Proxy]) -> CommandError {
    let name = service.name.as_str();
    let prefix = format!("{name}-");
    let version = missing.as_str().strip_prefix(&prefix).unwrap_or_default();
    let workloads = proxies.iter().flat_map(|proxy| &proxy.workloads);
    let own = workloads.filter(|of| {
        of.service.as_deref() == Some(name) && of.namespace == service.namespace.as_str()
    });
    let versions: BTreeSet<&str> = own.map(|of| of.version.as_str()).collect();
    let what = format!(
        "there is no version {version} of {name}: no service {missing} in namespace {}",
        service.namespace
    );
    let start = format!("leno run --service {name} --version {version} -- PROGRAM");
    let named: Vec<&str> = versions
        .iter()
        .copied()
        .filter(|of| !of.is_empty())
        .collect();
    let there = match (versions.contains(""), named.is_empty()) {
        (true, true) => "the programs of it that run have no version: start one with ".to_owned(),
        (true, false) => format!(
            "there are {}, and programs without a version; start one with ",
            named.join(", ")
        ),
        (false, false) => format!("there are {}; start it: ", named.join(", ")),
        (false, true) => "start it first: ".to_owned(),
    };
    CommandError::refused(what).hint(there + &start)
}

/// The shares, parsed. Requests must go somewhere.
fn backends(
    shares: &[String],
    service: &ServiceName,
    port: u16,
) -> Result<Vec<SplitBackend>, CommandError> {
    let mut backends: Vec<SplitBackend> = Vec::new();
    for share in shares {
        let usage = || {
            CommandError::usage(format!("\"{share}\" is no share"))
                .hint("write VERSION=WEIGHT, such as v2=5")
        };
        let (version, weight) = share.split_once('=').ok_or_else(usage)?;
        let weight: u32 = weight.trim_end_matches('%').parse().map_err(|_| usage())?;
        let service = label(&format!("{}-{version}", service.name))?;
        if backends.iter().any(|backend| backend.service == service) {
            let what = format!("version {version} is given two shares");
            return Err(CommandError::usage(what));
        }
        backends.push(SplitBackend {
            service,
            port,
            weight,
        });
    }
    if backends.iter().all(|backend| backend.weight == 0) {
        let what = "every share is 0: each request would be answered 500";
        return Err(CommandError::usage(what).hint("give at least one version more than 0"));
    }
    Ok(backends)
}

/// Decides in which of the namespace's routes the shares belong.
fn change(
    routes: &[&Value],
    service: &ServiceName,
    port: Option<u16>,
    one_port: bool,
    backends: &[SplitBackend],
) -> Result<Change, CommandError> {
    let read = |value: &&Value| {
        let admitted = admit(Kind::HttpRoute, Value::clone(value)).ok()?;
        admitted.resource.as_route().cloned()
    };
    let attached = |route: &HttpRoute| {
        let of = |parent: &leno_config::ParentRef| parent.service == *service;
        route.parents.iter().any(of)
    };
    let all = routes
        .iter()
        .filter_map(|value| Some((*value, read(value)?)));
    let concerned: Vec<(&Value, HttpRoute)> = all
        .filter(|(_, route)| attached(route) || route.meta.name == service.name)
        .collect();
    let refused = |name: &str, why: &str| {
        let what = format!("httproute/{name} {why}; nothing was changed");
        CommandError::refused(what).hint(format!(
            "change the weights there: leno get httproute {name} -o yaml > FILE, then leno apply -f FILE; or delete it first"
        ))
    };
    let (value, route) = match concerned.as_slice() {
        [] => {
            return Ok(Change {
                document: httproute_split(service, port, backends),
                dropped: Vec::new(),
            });
        }
        [(value, route)] => (*value, route),
        [_, (_, second), ..] => {
            let names: Vec<&str> = concerned
                .iter()
                .map(|(_, of)| of.meta.name.as_str())
                .collect();
            let why = format!(
                "is not the only route of {}: there are {}",
                service.name,
                names.join(", ")
            );
            return Err(refused(second.meta.name.as_str(), &why));
        }
    };
    let name = route.meta.name.as_str();
    let [parent] = route.parents.as_slice() else {
        return Err(refused(name, "is for several services or ports"));
    };
    if parent.service != *service {
        return Err(refused(
            name,
            &format!("is for service {}", parent.service.name),
        ));
    }
    if parent.port != port && port.is_some() && !one_port {
        let of = parent
            .port
            .map_or("every port".into(), |port| format!("port {port}"));
        return Err(refused(name, &format!("is for {of}")));
    }
    let for_all: Vec<usize> = route
        .rules
        .iter()
        .enumerate()
        .filter(|(_, rule)| is_for_all(rule))
        .map(|(index, _)| index)
        .collect();
    match for_all.as_slice() {
        [index] => Ok(in_place(value, *index, backends)),
        [] => Err(refused(name, "has no rule for all requests, only for some")),
        _ => Err(refused(name, "has several rules for all requests")),
    }
}

/// Whether a rule has a match that every request meets.
fn is_for_all(rule: &RouteRule) -> bool {
    rule.matches.iter().any(|of| {
        matches!(&of.path, PathMatch::Prefix(path) if path == "/")
            && of.method.is_none()
            && of.headers.is_empty()
            && of.query.is_empty()
    })
}

/// The route with the shares in one of its rules. It still has its version, so that nobody's change is lost.
fn in_place(route: &Value, rule: usize, backends: &[SplitBackend]) -> Change {
    let mut document = route.clone();
    if let Some(object) = document.as_object_mut() {
        object.shift_remove("status");
    }
    let pointer = format!("/spec/rules/{rule}/backendRefs");
    let old: Vec<Value> = items(route, &pointer).cloned().collect();
    let named = |name: &str| old.iter().find(|backend| text(backend, "/name") == name);
    let new = backends.iter().map(|backend| {
        let fresh = json!({"name": backend.service.as_str(), "port": backend.port});
        let mut value = named(backend.service.as_str()).cloned().unwrap_or(fresh);
        if let Some(value) = value.as_object_mut() {
            value.insert("weight".into(), backend.weight.into());
        }
        value
    });
    let new: Value = new.collect();
    if route.pointer(&pointer) != Some(&new) {
        forget_provenance(&mut document);
    }
    if let Some(rule) = document.pointer_mut(&format!("/spec/rules/{rule}")) {
        rule["backendRefs"] = new;
    }
    let is_kept = |name: &str| {
        backends
            .iter()
            .any(|backend| backend.service.as_str() == name)
    };
    let dropped = old.iter().map(|backend| text(backend, "/name"));
    let dropped = dropped.filter(|name| !is_kept(name)).map(str::to_owned);
    Change {
        document,
        dropped: dropped.collect(),
    }
}

/// Takes away what is the system's to say: what is shown may be put into a file.
fn as_written(document: &mut Value) {
    let metadata = document.get_mut("metadata").and_then(Value::as_object_mut);
    let Some(metadata) = metadata else {
        return;
    };
    for of_the_system in ["uid", "creationTimestamp", "generation", "resourceVersion"] {
        metadata.shift_remove(of_the_system);
    }
    forget_provenance(document);
}

/// No file holds this document any more as it is.
fn forget_provenance(document: &mut Value) {
    let annotations = document.pointer_mut("/metadata/annotations");
    if let Some(annotations) = annotations.and_then(Value::as_object_mut) {
        annotations.retain(|name, _| !PROVENANCE.contains(&name.as_str()));
    }
}

/// A service's ports; none when there is no such service.
async fn ports(client: &Client, service: &ServiceName) -> Result<Vec<u16>, CommandError> {
    let path = path_of(
        Kind::Service,
        Some(service.namespace.as_str()),
        Some(service.name.as_str()),
    );
    match client.get(&path).await {
        Ok(object) => Ok(items(&object, "/spec/ports")
            .filter_map(|port| port.get("port")?.as_u64()?.try_into().ok())
            .collect()),
        Err(CallError::Refused(refusal)) if refusal.code == 404 => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}
