//! What the control plane says of the mesh, as findings.
//!
//! Owns what of it is trouble: hosts away or refusing what they are given, programs not ready, routes to nobody, calls
//! that fail. Each is told once, with the next step.

use std::collections::BTreeSet;

use leno_config::Kind;
use serde_json::Value;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{Check, Finding, control_plane, ill, objects, plaintext, told, well};
use crate::{
    client::Client,
    commands::{failing, mtls, path_of},
    exit::CommandError,
    output::{items, text},
    run::humanize,
};

/// Everything that it says.
pub(super) async fn mesh(client: &Client, findings: &mut Vec<Finding>) {
    let status = match client.get("/leno/v1/status").await {
        Ok(status) => status,
        Err(error) => {
            findings.push(silent(CommandError::from(error)));
            return;
        }
    };
    findings.push(well(
        Check::ControlPlaneAnswers,
        format!(
            "the control plane answers (version {}, mesh {})",
            text(&status, "/version"),
            client.mesh()
        ),
    ));
    match client.get("/leno/v1/control-plane").await {
        Ok(vitals) => findings.extend(control_plane::findings(&vitals, OffsetDateTime::now_utc())),
        Err(error) => findings.push(incomplete(CommandError::from(error))),
    }
    objects::objects(client, findings).await;
    if let Err(error) = parts(client, findings).await {
        findings.push(incomplete(error));
    }
}

fn incomplete(error: CommandError) -> Finding {
    ill(
        Check::ControlPlaneComplete,
        "the control plane does not say everything",
        error.what,
        "is it of another version? compare leno --version here and there",
    )
}

/// It was not reached, or said no. The error knows best what to do: where it runs elsewhere, nothing is started here.
fn silent(error: CommandError) -> Finding {
    let hint = if error.hint.is_empty() {
        "is it running? its own log says more".into()
    } else {
        error.hint
    };
    ill(
        Check::ControlPlaneAnswers,
        "the control plane does not answer",
        error.what,
        hint,
    )
}

async fn parts(client: &Client, findings: &mut Vec<Finding>) -> Result<(), CommandError> {
    let list = client.get(crate::top::PROXIES).await?;
    let now = OffsetDateTime::now_utc();
    findings.extend(items(&list, "").flat_map(|of| proxy(of, now)));
    findings.extend(workloads(&list));
    findings.extend(lasting(&list, now));
    let routes = client.get(&path_of(Kind::HttpRoute, None, None)).await?;
    if items(&routes, "/items").next().is_some() {
        let services = client.get(&path_of(Kind::Service, None, None)).await?;
        let slices = client
            .get(&path_of(Kind::EndpointSlice, None, None))
            .await?;
        findings.extend(self::routes(&routes, &services, &slices));
    }
    findings.extend(calls(&failing::failing(client).await?));
    findings.extend(plaintext::plaintext(&mtls::list(client).await?));
    Ok(())
}

/// Of a host's proxy.
fn proxy(proxy: &Value, now: OffsetDateTime) -> Vec<Finding> {
    let host = text(proxy, "/host");
    if text(proxy, "/state") == "stopped" {
        return Vec::new();
    }
    if !connected(proxy) {
        return vec![ill(
            Check::ProxyConnected,
            format!("{host} is away"),
            "its workloads are not offered to others",
            "is the host up, is its agent running (leno agent), does it reach the control plane's port 15012?",
        )];
    }
    let mut found = Vec::new();
    for nack in items(proxy, "/nacks") {
        let why = format!(
            "it refuses {} {}: {}",
            text(nack, "/type"),
            text(nack, "/resource"),
            text(nack, "/reason")
        );
        found.push(ill(
            Check::ProxyAccepts,
            format!("{host} does not run what it was given"),
            why,
            "is it of an older version? leno proxy status",
        ));
    }
    found.extend(items(proxy, "/missing").map(|missing| too_old(host, missing)));
    let silent: Vec<&str> = items(proxy, "/unproven")
        .filter_map(Value::as_str)
        .collect();
    if !silent.is_empty() && items(proxy, "/workloads").next().is_some() {
        found.push(ill(
            Check::ProxyAddresses,
            format!("{host} does not answer at all its addresses"),
            format!("not at {}, which are not used", silent.join(", ")),
            "is a firewall in the way of port 15008? leno agent --address says which it has",
        ));
    }
    found.extend(late(proxy, now));
    let quiet = found.is_empty();
    found.extend(other_version(proxy));
    if quiet {
        let what = format!("{host} is connected and runs what it was given");
        found.push(well(Check::ProxyAccepts, what));
    }
    found
}

/// That a proxy does not know what protects its workloads, and lets nobody in to them (CP10).
fn too_old(host: &str, missing: &Value) -> Finding {
    let workloads = items(missing, "/workloads").filter_map(Value::as_str);
    let workloads: Vec<&str> = workloads.collect();
    ill(
        Check::ProxyUnderstands,
        format!("{host} is too old for what protects its workloads"),
        format!(
            "it does not know {} and lets nobody in to {}",
            text(missing, "/feature"),
            workloads.join(", ")
        ),
        "update Leno on that host",
    )
}

/// Works, one version apart; worth knowing.
fn other_version(proxy: &Value) -> Option<Finding> {
    let (host, theirs) = (text(proxy, "/host"), text(proxy, "/version"));
    let ours = env!("CARGO_PKG_VERSION");
    (!theirs.is_empty() && theirs != ours).then(|| {
        told(
            Check::ProxyVersion,
            format!("{host} is of another version"),
            format!("{theirs} there, {ours} here: restart its agent with this one when you can"),
        )
    })
}

/// A certificate with little time left was not renewed, as each is at half its life. One of a test may live seconds.
fn late(proxy: &Value, now: OffsetDateTime) -> Option<Finding> {
    let ended = items(proxy, "/certificates").find(|certificate| {
        OffsetDateTime::parse(text(certificate, "/not_after"), &Rfc3339).is_ok_and(|end| end <= now)
    })?;
    Some(ill(
        Check::ProxyCertificates,
        format!("a certificate on {} has ended", text(proxy, "/host")),
        format!(
            "{}: nobody is called with it, and it serves nobody",
            text(ended, "/identity")
        ),
        "its agent's log says why it was not renewed",
    ))
}

fn connected(proxy: &Value) -> bool {
    proxy.get("connected").and_then(Value::as_bool) == Some(true)
}

/// For how long the control plane may stay away: until then every program has a certificate.
fn lasting(proxies: &Value, now: OffsetDateTime) -> Option<Finding> {
    let all = items(proxies, "").filter(|proxy| connected(proxy));
    let ends = all.flat_map(|proxy| {
        items(proxy, "/certificates").filter_map(move |certificate| {
            let end = OffsetDateTime::parse(text(certificate, "/not_after"), &Rfc3339).ok()?;
            Some((end, text(proxy, "/host")))
        })
    });
    let (end, host) = ends.min()?;
    let left = u64::try_from((end - now).whole_seconds()).unwrap_or(0);
    let what = format!(
        "it may stay away for {}: then the first certificate ends, on {host}",
        humanize(left)
    );
    Some(well(Check::ControlPlaneAway, what))
}

/// Of the programs; those of a host that is away have been told with it.
fn workloads(proxies: &Value) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut healthy = 0;
    for proxy in items(proxies, "").filter(|proxy| connected(proxy)) {
        for workload in items(proxy, "/workloads") {
            if text(workload, "/health") == "healthy" {
                healthy += 1;
                continue;
            }
            let name = text(workload, "/name");
            found.push(ill(
                Check::WorkloadReady,
                format!("{name} on {} is not ready", text(proxy, "/host")),
                format!("its check fails: {}", checked(workload)),
                "look at the program's own output; leno run --check says how it is checked",
            ));
        }
    }
    if healthy > 0 && found.is_empty() {
        let what = match healthy {
            1 => "the only program is ready".into(),
            all => format!("all {all} programs are ready"),
        };
        found.push(well(Check::WorkloadReady, what));
    }
    found
}

/// What is asked of a program.
fn checked(workload: &Value) -> String {
    match workload.pointer("/ports/0").and_then(Value::as_str) {
        Some(port) => format!("nothing fit to be called at its port {port}"),
        None => "it is not fit to be called".into(),
    }
}

/// Routes that lead to a service nobody serves. One that does not exist at all the route's own status tells.
fn routes(routes: &Value, services: &Value, slices: &Value) -> Vec<Finding> {
    let key = |namespace: &str, name: &str| (namespace.to_owned(), name.to_owned());
    let named = |object: &Value| {
        let namespace = text(object, "/metadata/namespace");
        key(namespace, text(object, "/metadata/name"))
    };
    let there: BTreeSet<_> = items(services, "/items").map(named).collect();
    let ready = |slice: &&Value| {
        let mut endpoints = items(slice, "/endpoints");
        endpoints.any(|of| of.pointer("/conditions/ready").and_then(Value::as_bool) == Some(true))
    };
    let served = |slice: &Value| {
        let labels = slice.pointer("/metadata/labels");
        let service = labels.and_then(|labels| labels.get("kubernetes.io/service-name"));
        let service = service.and_then(Value::as_str).unwrap_or_default();
        key(text(slice, "/metadata/namespace"), service)
    };
    let served: BTreeSet<_> = items(slices, "/items").filter(ready).map(served).collect();
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    for route in items(routes, "/items") {
        let (namespace, name) = named(route);
        let rules = items(route, "/spec/rules");
        for backend in rules.flat_map(|rule| items(rule, "/backendRefs")) {
            let of = match text(backend, "/namespace") {
                "" => namespace.as_str(),
                other => other,
            };
            let service = key(of, text(backend, "/name"));
            let called = backend.get("weight").and_then(Value::as_u64) != Some(0);
            if !called || !there.contains(&service) || served.contains(&service) {
                continue;
            }
            if seen.insert((namespace.clone(), name.clone(), service.clone())) {
                found.push(ill(
                    Check::RouteServed,
                    format!("httproute {namespace}/{name} leads to no program"),
                    format!("no program serves {}/{}: its share of the calls gets 503", service.0, service.1),
                    "start one (leno run --service .. --version ..), or take it out of the route (leno split)",
                ));
            }
        }
    }
    let every = items(routes, "/items").all(objects::resolved);
    if found.is_empty() && every {
        found.push(well(
            Check::RouteServed,
            "every route leads to programs that are ready",
        ));
    }
    found
}

/// Calls of the last minute.
fn calls(failing: &[failing::Failing]) -> Vec<Finding> {
    if failing.is_empty() {
        return vec![well(
            Check::CallsSucceed,
            "no call failed in the last minute",
        )];
    }
    let one = |of: &failing::Failing| {
        let (why, hint) = match &of.last {
            Some(last) => (
                format!("{}: {}", of.what, last.cause),
                format!("leno explain {}", last.id),
            ),
            None => (
                of.what.clone(),
                "leno top shows them live; leno explain CODE says what a code means".into(),
            ),
        };
        if of.trouble {
            let what = format!("{}: calls fail", of.edge);
            ill(Check::CallsSucceed, what, why, hint)
        } else {
            told(Check::CallsSucceed, of.edge.as_str(), of.what.as_str())
        }
    };
    failing.iter().map(one).collect()
}

#[cfg(test)]
mod tests;
