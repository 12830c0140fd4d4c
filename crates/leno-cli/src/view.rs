//! What people see of a mesh's traffic: one row an edge, one word a workload; for `leno top` and `leno demo`.
//!
//! Owns how numbers are written and what counts as failing. Never asks anybody: the control plane's answers are given
//! to it, so that a picture depends on nothing else.

mod columns;
mod screen;
mod terminal;
mod text;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use leno_controlplane::documents::{Edge, EdgeList, Proxy};
use leno_types::Refusal;

pub(crate) use screen::{Page, Try, draw};
pub(crate) use terminal::{Key, Screen, width};
pub(crate) use text::table;

/// One edge as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) protocol: String,
    pub(crate) rps: String,
    pub(crate) ok: String,
    pub(crate) p50: String,
    pub(crate) p99: String,
    pub(crate) identity: String,
    /// Why some failed; empty when none did.
    pub(crate) reason: String,
    pub(crate) state: State,
}

/// How an edge does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Mutual TLS, and all went well.
    Fine,
    /// Not over mutual TLS.
    Plaintext,
    /// Some failed.
    Failing,
    /// Nothing within the window.
    Quiet,
}

/// The instances of a service, or a program without one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Replicas {
    pub(crate) name: String,
    pub(crate) healthy: usize,
    pub(crate) all: usize,
}

/// The names of the columns.
pub(crate) const HEADER: [&str; 9] = [
    "FROM", "TO", "PROTO", "RPS", "OK", "P50", "P99", "IDENTITY", "REASON",
];

impl Row {
    /// The cells, in the order of [`HEADER`].
    pub(crate) fn cells(&self) -> [&str; 9] {
        let Self {
            from,
            to,
            protocol,
            rps,
            ok,
            p50,
            p99,
            identity,
            reason,
            state: _,
        } = self;
        [from, to, protocol, rps, ok, p50, p99, identity, reason]
    }
}

/// Every edge that was ever seen, with the numbers of the window; of one so slow that the window may well miss it, those
/// of the last minute, unless some failed: that is only shown while it is in the window.
pub(crate) fn rows(ever: &[Edge], minute: &EdgeList, window: &EdgeList) -> Vec<Row> {
    let key = |edge: &Edge| {
        (
            edge.source.clone(),
            edge.destination.clone(),
            edge.protocol.clone(),
        )
    };
    let mut shown: BTreeMap<_, Row> = ever
        .iter()
        .map(|edge| (key(edge), row(edge, false)))
        .collect();
    let slow = |edge: &&Edge| edge.rps * window.window_seconds < 2.0 && edge.failures == 0;
    let slow = minute.edges.iter().filter(slow);
    shown.extend(slow.map(|edge| (key(edge), row(edge, true))));
    shown.extend(window.edges.iter().map(|edge| (key(edge), row(edge, true))));
    shown.into_values().collect()
}

/// Those from or to a service, in any version.
pub(crate) fn of_service(rows: Vec<Row>, service: &str) -> Vec<Row> {
    rows.into_iter()
        .filter(|row| is_version_of(&row.from, service) || is_version_of(&row.to, service))
        .collect()
}

/// Whether an edge is from or to a service.
pub(crate) fn is_of(edge: &Edge, service: &str) -> bool {
    is_version_of(&edge.source, service) || is_version_of(&edge.destination, service)
}

/// Whether a name is that of a service, in any version.
pub(crate) fn is_version_of(name: &str, service: &str) -> bool {
    name.strip_prefix(service)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

fn row(edge: &Edge, current: bool) -> Row {
    let active = current && edge.requests > 0;
    let state = match (active, edge.failures, edge.mtls) {
        (false, ..) => State::Quiet,
        (true, 1.., _) => State::Failing,
        (true, 0, false) => State::Plaintext,
        (true, 0, true) => State::Fine,
    };
    let number = |text: String| if active { text } else { "–".into() };
    // How fast something was refused is not how fast anything is.
    let latency = |ms| millis(ms).filter(|_| edge.failures < edge.requests);
    let latency = |ms| number(latency(ms).unwrap_or_else(|| "–".into()));
    Row {
        from: edge.source.clone(),
        to: edge.destination.clone(),
        protocol: edge.protocol.clone(),
        rps: number(rate(edge.rps)),
        ok: number(share(edge.requests, edge.failures)),
        p50: latency(edge.p50_ms),
        p99: latency(edge.p99_ms),
        identity: identity(edge),
        reason: if active { reason(edge) } else { String::new() },
        state,
    }
}

/// Requests a second: a digit after the point only where it says something.
fn rate(rps: f64) -> String {
    if rps < 9.95 {
        format!("{rps:.1}")
    } else {
        format!("{rps:.0}")
    }
}

/// The share that went well; 100% only when all did.
#[expect(clippy::cast_precision_loss, reason = "shown with a few digits")]
fn share(requests: u64, failures: u64) -> String {
    let failures = failures.min(requests);
    if failures == 0 {
        return "100%".into();
    }
    let tenths = ((requests - failures) as f64 / requests.max(1) as f64 * 1_000.0).floor();
    format!("{:.1}%", tenths / 10.0)
}

fn millis(value: Option<f64>) -> Option<String> {
    value.map(|ms| match ms {
        ms if ms < 0.95 => format!("{ms:.1}ms"),
        ms if ms < 999.5 => format!("{ms:.0}ms"),
        ms => format!("{:.1}s", ms / 1_000.0),
    })
}

/// Why some failed, the most frequent two: `403 RBAC 98%`. What is no refusal of the mesh the program answered itself.
pub(crate) fn reason(edge: &Edge) -> String {
    let http = matches!(edge.protocol.as_str(), "http/1.1" | "http/2" | "websocket");
    let status = |code: &str| match code.parse::<Refusal>() {
        Ok(refusal) if http => format!("{} {code}", refusal.status()),
        _ => code.to_owned(),
    };
    let refusals = edge.refusals.iter();
    let mut found: Vec<(u64, String)> = refusals.map(|(code, n)| (*n, status(code))).collect();
    let refused = edge.refusals.values().sum();
    let own = if http { "5xx" } else { "its own" };
    found.push((edge.failures.saturating_sub(refused), own.into()));
    found.retain(|(count, _)| *count > 0);
    found.sort_by(|one, other| other.0.cmp(&one.0).then_with(|| one.1.cmp(&other.1)));
    let text = |(count, why): &(u64, String)| format!("{why} {}", percent(*count, edge.requests));
    let texts: Vec<String> = found.iter().take(2).map(text).collect();
    texts.join(", ")
}

/// A share in whole percent, and never 0 of something.
fn percent(count: u64, of: u64) -> String {
    match count.saturating_mul(100) / of.max(1) {
        0 => "<1%".into(),
        whole => format!("{}%", whole.min(100)),
    }
}

/// Who the two ends proved to be.
fn identity(edge: &Edge) -> String {
    let short = |identity: &str| {
        let service_account = identity.rfind("/sa/").and_then(|at| identity.get(at + 1..));
        service_account.unwrap_or(identity).to_owned()
    };
    let source = edge.source_identity.as_deref().map(short);
    let source = source.unwrap_or_else(|| "somebody".into());
    match edge.destination_identity.as_deref().map(short) {
        _ if !edge.mtls => "⚠ plaintext".into(),
        Some(destination) => format!("✔ {source} → {destination}"),
        // Nobody was there who could have proved anything.
        None => format!("✘ {source} → nobody reached"),
    }
}

/// How many instances each service has, and how many of them are fit to be called.
pub(crate) fn replicas(proxies: &[Proxy]) -> Vec<Replicas> {
    let mut found: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for workload in proxies.iter().flat_map(|proxy| &proxy.workloads) {
        let service = workload.service.as_deref().filter(|name| !name.is_empty());
        let base = service.map_or(workload.name.as_str(), |service| {
            service.rsplit('/').next().unwrap_or(service)
        });
        let name = match (service, workload.version.as_str()) {
            (Some(_), version) if !version.is_empty() => format!("{base}-{version}"),
            _ => base.to_owned(),
        };
        let (healthy, all) = found.entry(name).or_default();
        *healthy += usize::from(workload.health == "healthy");
        *all += 1;
    }
    found
        .into_iter()
        .map(|(name, (healthy, all))| Replicas { name, healthy, all })
        .collect()
}
