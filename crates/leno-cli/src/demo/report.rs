//! The one document of `leno demo -o json`. Its names are stable.

use leno_controlplane::documents::{Edge, Proxy};
use serde::Serialize;

use super::plan::{self, Expected};

/// What was seen, from the start to the end.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Leno's.
    version: &'static str,
    mesh: String,
    trust_domain: String,
    /// From the start of the process to traffic on every edge.
    ready_ms: u64,
    edges: Vec<Edge>,
    proxies: Vec<ProxyReport>,
}

#[derive(Debug, Serialize)]
struct ProxyReport {
    host: String,
    workloads: Vec<String>,
    rss_bytes: u64,
    pss_bytes: u64,
    config_version: String,
}

impl Report {
    pub(super) fn new(
        mesh: &str,
        trust_domain: String,
        ready_ms: u64,
        mut edges: Vec<Edge>,
        proxies: Vec<Proxy>,
    ) -> Self {
        // The document's shape is promised, and has no reasons.
        for edge in &mut edges {
            edge.refusals.clear();
        }
        let proxy = |proxy: Proxy| ProxyReport {
            host: proxy.host,
            workloads: proxy
                .workloads
                .into_iter()
                .map(|workload| workload.name)
                .collect(),
            rss_bytes: proxy.rss_bytes,
            pss_bytes: proxy.pss_bytes,
            config_version: proxy.config_version,
        };
        Self {
            version: env!("CARGO_PKG_VERSION"),
            mesh: mesh.into(),
            trust_domain,
            ready_ms,
            edges,
            proxies: proxies.into_iter().map(proxy).collect(),
        }
    }
}

/// The expected edges without traffic, or with traffic of another kind than expected.
pub(super) fn missing(edges: &[Edge]) -> Vec<&'static Expected> {
    let carried = |expected: &Expected| {
        edges.iter().any(|edge| {
            edge.requests > edge.failures
                && edge.source == expected.source
                && edge.destination == expected.destination
                && edge.protocol == expected.protocol
                && edge.mtls == expected.mtls
        })
    };
    plan::EDGES
        .iter()
        .filter(|expected| !carried(expected))
        .collect()
}

/// One line that names what [`missing`] found.
pub(super) fn name_missing(missing: &[&Expected]) -> String {
    let name = |of: &&Expected| {
        let how = if of.mtls {
            "over mutual TLS"
        } else {
            "in clear"
        };
        format!(
            "{} → {} ({}, {how})",
            of.source, of.destination, of.protocol
        )
    };
    missing.iter().map(name).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use leno_controlplane::documents::ProxyWorkload;

    use super::*;

    fn edges() -> Vec<Edge> {
        let edge = |of: &Expected| Edge {
            source: of.source.into(),
            destination: of.destination.into(),
            protocol: of.protocol.into(),
            mtls: of.mtls,
            requests: 4,
            failures: 1,
            success_rate: Some(0.75),
            rps: 2.0,
            ..Edge::default()
        };
        plan::EDGES.iter().map(edge).collect()
    }

    #[test]
    fn an_edge_counts_only_as_it_was_expected() {
        let edges = edges();
        assert!(missing(&edges).is_empty());
        for change in [
            |edge: &mut Edge| edge.failures = edge.requests,
            |edge: &mut Edge| edge.mtls = !edge.mtls,
            |edge: &mut Edge| edge.protocol = "carrier pigeon".into(),
            |edge: &mut Edge| edge.requests = 0,
        ] {
            let mut changed = edges.clone();
            change(&mut changed[2]);
            assert_eq!(missing(&changed), [&plan::EDGES[2]]);
        }
        let text = name_missing(&missing(&edges[1..]));
        assert_eq!(text, "storefront → catalog-v1 (http/1.1, over mutual TLS)");
        assert_eq!(missing(&[]).len(), plan::EDGES.len());
    }

    #[test]
    fn the_document_has_the_promised_shape() {
        let workload = ProxyWorkload {
            name: "storefront-9f2c".into(),
            ..ProxyWorkload::default()
        };
        let proxy = Proxy {
            host: "web".into(),
            workloads: vec![workload],
            rss_bytes: 9,
            pss_bytes: 5,
            config_version: "17".into(),
            ..Proxy::default()
        };
        let edges = edges().into_iter().take(1).collect();
        let report = Report::new("demo", "demo.leno".into(), 2_345, edges, vec![proxy]);
        let expected = serde_json::json!({
            "version": env!("CARGO_PKG_VERSION"), "mesh": "demo", "trust_domain": "demo.leno", "ready_ms": 2345,
            "edges": [{
                "source": "storefront", "destination": "catalog-v1", "protocol": "http/1.1", "requests": 4,
                "failures": 1, "success_rate": 0.75, "rps": 2.0, "p50_ms": null, "p99_ms": null, "mtls": true,
                "source_identity": null, "destination_identity": null
            }],
            "proxies": [{
                "host": "web", "workloads": ["storefront-9f2c"], "rss_bytes": 9, "pss_bytes": 5,
                "config_version": "17"
            }]
        });
        assert_eq!(serde_json::to_value(&report).unwrap(), expected);
    }
}
