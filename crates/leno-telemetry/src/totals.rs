//! All traffic counted so far: the sum of many workers' deltas, and its Prometheus text.
//!
//! Names and labels are Istio's standard ones, so that existing dashboards work. Their workload is what was deployed and
//! not one instance of it: instances are added up here, so that a program that comes and goes leaves no series behind.
//! Invariant: no label set is written twice, and the same totals give the same text.

use std::{collections::BTreeMap, sync::Arc};

use leno_types::{Identity, Refusal, deployed_name};

use crate::{
    Delta, EdgeKey, LatencyHistogram, MAX_EDGES, Protocol, Requests, ResponseKey, Tcp,
    prometheus::{self, Labels, Milliseconds},
    recorder::Counted,
};

/// The sum of deltas.
#[derive(Debug)]
pub struct Totals {
    edges: BTreeMap<Arc<EdgeKey>, Counted>,
    max_edges: usize,
    edges_overflowed: u64,
    responses_overflowed: u64,
}

impl Default for Totals {
    fn default() -> Self {
        Self::with_max_edges(MAX_EDGES)
    }
}

impl Totals {
    /// Holds up to `max_edges` edges; what is beyond is counted as `other`.
    #[must_use]
    pub fn with_max_edges(max_edges: usize) -> Self {
        Self {
            edges: BTreeMap::new(),
            max_edges,
            edges_overflowed: 0,
            responses_overflowed: 0,
        }
    }

    /// Adds one worker's delta.
    pub fn merge(&mut self, delta: &Delta) {
        self.edges_overflowed = self.edges_overflowed.saturating_add(delta.edges_overflowed);
        self.responses_overflowed = self
            .responses_overflowed
            .saturating_add(delta.responses_overflowed);
        for edge in &delta.edges {
            let key = of_workloads(&edge.key);
            let full = self.edges.len() >= self.max_edges && !self.edges.contains_key(&key);
            let key = if full {
                self.edges_overflowed = self.edges_overflowed.saturating_add(1);
                Arc::new(EdgeKey::other(key.reporter, key.protocol, key.mtls))
            } else {
                key
            };
            let beyond = self.edges.entry(key).or_default().merge(&edge.counted);
            self.responses_overflowed = self.responses_overflowed.saturating_add(beyond);
        }
    }

    /// Every edge with its latencies to the first byte.
    pub fn edges(&self) -> impl Iterator<Item = (&EdgeKey, &LatencyHistogram)> {
        self.edges
            .iter()
            .map(|(key, counted)| (&**key, &counted.latency))
    }

    /// How the requests on one edge ended.
    pub fn requests(&self, edge: &EdgeKey) -> impl Iterator<Item = (ResponseKey, &Requests)> {
        let counted = self.edges.get(edge).into_iter();
        counted.flat_map(|counted| {
            counted
                .requests
                .iter()
                .map(|(key, requests)| (*key, requests))
        })
    }

    /// How many connections there were on one edge.
    pub fn tcp(&self, edge: &EdgeKey) -> impl Iterator<Item = (Option<Refusal>, Tcp)> {
        let counted = self.edges.get(edge).into_iter();
        counted.flat_map(|counted| counted.tcp.iter().copied())
    }

    /// Appends all metrics in Prometheus text format.
    pub fn prometheus(&self, out: &mut String) {
        self.http(out);
        self.connections(out);
        let overflows = [
            (
                "leno_telemetry_edges_overflow_total",
                "Edges counted as \"other\".",
                self.edges_overflowed,
            ),
            (
                "leno_telemetry_responses_overflow_total",
                "Responses counted as \"other\".",
                self.responses_overflowed,
            ),
        ];
        for (name, help, value) in overflows {
            prometheus::counters(out, name, help, std::iter::once(("", value)));
        }
    }

    fn http(&self, out: &mut String) {
        // Two protocols of ours can be one of Istio's: what has the same labels is one series.
        let mut series: BTreeMap<String, Requests> = BTreeMap::new();
        for (edge, counted) in &self.edges {
            for (response, requests) in &counted.requests {
                series
                    .entry(http_labels(edge, *response))
                    .or_default()
                    .merge(requests);
            }
        }
        let each = || {
            series
                .iter()
                .map(|(labels, requests)| (labels.as_str(), requests))
        };
        let counts = each().map(|(labels, requests)| (labels, requests.count));
        prometheus::counters(out, "istio_requests_total", "Requests handled.", counts);
        let name = "istio_request_duration_milliseconds";
        let durations = each().map(|(labels, requests)| (labels, &requests.milliseconds));
        prometheus::histograms(out, name, "Duration of requests.", durations);
        let sizes = each().map(|(labels, requests)| (labels, &requests.request_bytes));
        prometheus::histograms(
            out,
            "istio_request_bytes",
            "Sizes of request bodies.",
            sizes,
        );
        let sizes = each().map(|(labels, requests)| (labels, &requests.response_bytes));
        prometheus::histograms(
            out,
            "istio_response_bytes",
            "Sizes of response bodies.",
            sizes,
        );
    }

    fn connections(&self, out: &mut String) {
        let mut series: BTreeMap<String, Tcp> = BTreeMap::new();
        for (edge, counted) in &self.edges {
            for (refusal, tcp) in &counted.tcp {
                series
                    .entry(tcp_labels(edge, *refusal))
                    .or_default()
                    .merge(tcp);
            }
        }
        type Pick = fn(&Tcp) -> u64;
        let metrics: [(&str, &str, Pick); 4] = [
            (
                "istio_tcp_connections_opened_total",
                "Connections opened.",
                |tcp| tcp.opened,
            ),
            (
                "istio_tcp_connections_closed_total",
                "Connections closed.",
                |tcp| tcp.closed,
            ),
            (
                "istio_tcp_sent_bytes_total",
                "Bytes sent to the caller.",
                |tcp| tcp.sent,
            ),
            (
                "istio_tcp_received_bytes_total",
                "Bytes received from the caller.",
                |tcp| tcp.received,
            ),
        ];
        for (name, help, pick) in metrics {
            let values = series
                .iter()
                .map(|(labels, tcp)| (labels.as_str(), pick(tcp)));
            prometheus::counters(out, name, help, values);
        }
        let mut series: BTreeMap<String, Milliseconds> = BTreeMap::new();
        for (edge, counted) in &self.edges {
            if let Some(first) = &counted.tcp_first_byte {
                let labels = edge_labels(edge, Protocol::Tcp).finish();
                series.entry(labels).or_default().merge(first);
            }
        }
        let first = series
            .iter()
            .map(|(labels, first)| (labels.as_str(), first));
        prometheus::histograms(
            out,
            "leno_tcp_first_byte_milliseconds",
            "Time to the first byte back on a connection.",
            first,
        );
    }
}

/// The edge between what two instances are of.
fn of_workloads(key: &Arc<EdgeKey>) -> Arc<EdgeKey> {
    let (source, destination) = (&key.source_workload, &key.destination_workload);
    let (from, to) = (deployed_name(source), deployed_name(destination));
    if (from.len(), to.len()) == (source.len(), destination.len()) {
        return Arc::clone(key);
    }
    Arc::new(EdgeKey {
        source_workload: from.into(),
        destination_workload: to.into(),
        ..EdgeKey::clone(key)
    })
}

fn http_labels(edge: &EdgeKey, response: ResponseKey) -> String {
    let ResponseKey {
        code,
        grpc_status,
        refusal,
    } = response;
    let code = code.map_or_else(|| "other".to_owned(), |code| code.to_string());
    let mut labels = edge_labels(edge, edge.protocol).with("response_code", &code);
    if let Some(status) = grpc_status {
        labels = labels.with("grpc_response_status", &status.to_string());
    }
    labels.with("response_flags", flags(refusal)).finish()
}

fn tcp_labels(edge: &EdgeKey, refusal: Option<Refusal>) -> String {
    edge_labels(edge, Protocol::Tcp)
        .with("response_flags", flags(refusal))
        .finish()
}

fn flags(refusal: Option<Refusal>) -> &'static str {
    refusal.map_or("-", Refusal::code)
}

fn edge_labels(edge: &EdgeKey, protocol: Protocol) -> Labels {
    let EdgeKey {
        reporter,
        source_workload,
        source_namespace,
        source_identity,
        destination_workload,
        destination_namespace,
        destination_service,
        destination_version,
        destination_identity,
        protocol: _,
        mtls,
    } = edge;
    let (service_name, service_namespace) = service_parts(destination_service);
    let policy = if *mtls { "mutual_tls" } else { "none" };
    Labels::default()
        .with("reporter", reporter.as_str())
        .with("source_workload", source_workload)
        .with("source_canonical_service", source_workload)
        .with("source_workload_namespace", source_namespace)
        .with("source_principal", principal(source_identity.as_ref()))
        .with("destination_workload", destination_workload)
        .with("destination_canonical_service", destination_workload)
        .with("destination_workload_namespace", destination_namespace)
        .with(
            "destination_principal",
            principal(destination_identity.as_ref()),
        )
        .with("destination_service", destination_service)
        .with("destination_service_name", service_name)
        .with("destination_service_namespace", service_namespace)
        .with("destination_version", destination_version)
        .with("destination_canonical_revision", destination_version)
        .with("request_protocol", protocol.istio())
        .with("connection_security_policy", policy)
}

fn principal(identity: Option<&Identity>) -> &str {
    identity.map_or("unknown", Identity::as_str)
}

/// Name and namespace of a service's host; one from outside the mesh is its own name, in no namespace known.
fn service_parts(host: &str) -> (&str, &str) {
    host.strip_suffix(".svc.cluster.local")
        .and_then(|short| short.split_once('.'))
        .filter(|(_, namespace)| !namespace.contains('.'))
        .unwrap_or((host, "unknown"))
}

#[cfg(test)]
mod tests;
