//! Goldens of the Prometheus text, ceilings, and that merging loses nothing.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::{MAX_RESPONSES_PER_EDGE, Recorder, Reporter, RequestOutcome};

fn edge(protocol: Protocol) -> EdgeKey {
    EdgeKey {
        reporter: Reporter::Destination,
        source_workload: "web".into(),
        source_namespace: "shop".into(),
        source_identity: "spiffe://default.leno/ns/shop/sa/web".parse().ok(),
        destination_workload: "cart-v2".into(),
        destination_namespace: "shop".into(),
        destination_service: "cart.shop.svc.cluster.local".into(),
        destination_version: "v2".into(),
        destination_identity: "spiffe://default.leno/ns/shop/sa/cart".parse().ok(),
        protocol,
        mtls: true,
    }
}

fn outcome(code: u16, millis: u64) -> RequestOutcome {
    RequestOutcome {
        response_code: code,
        grpc_status: None,
        refusal: None,
        duration: Duration::from_millis(millis),
        first_byte: Some(Duration::from_millis(millis / 2)),
        request_bytes: 0,
        response_bytes: 700,
    }
}

fn text(totals: &Totals) -> String {
    let mut out = String::new();
    totals.prometheus(&mut out);
    out
}

#[test]
fn the_text_is_what_istios_dashboards_expect() {
    let mut recorder = Recorder::new();
    let (one, two) = (
        recorder.edge(&edge(Protocol::Http1)),
        recorder.edge(&edge(Protocol::Http2)),
    );
    recorder.request(one, &outcome(200, 3));
    recorder.request(two, &outcome(200, 30)); // the same series as the one above
    let grpc = recorder.edge(&edge(Protocol::Grpc));
    recorder.request(
        grpc,
        &RequestOutcome {
            grpc_status: Some(14),
            ..outcome(200, 3)
        },
    );
    let tcp = recorder.edge(&edge(Protocol::Tcp));
    recorder.tcp_opened(tcp);
    recorder.tcp_bytes(tcp, 5, 6);
    recorder.tcp_closed(tcp, 10, 20, None);
    recorder.tcp_closed(tcp, 1, 2, Some(Refusal::Denied));
    let stranger = EdgeKey {
        source_workload: "unknown".into(),
        source_identity: None,
        mtls: false,
        destination_service: "api.example.com".into(),
        ..edge(Protocol::Http1)
    };
    let outside = recorder.edge(&stranger);
    recorder.request(
        outside,
        &RequestOutcome {
            refusal: Some(Refusal::PlaintextRefused),
            ..outcome(403, 1)
        },
    );
    let mut totals = Totals::default();
    totals.merge(&recorder.take_delta());
    assert!(recorder.take_delta().is_empty());

    let text = text(&totals);
    let line = "istio_requests_total{reporter=\"destination\",source_workload=\"web\",source_canonical_service=\"web\",\
        source_workload_namespace=\"shop\",source_principal=\"spiffe://default.leno/ns/shop/sa/web\",\
        destination_workload=\"cart-v2\",destination_canonical_service=\"cart-v2\",\
        destination_workload_namespace=\"shop\",destination_principal=\"spiffe://default.leno/ns/shop/sa/cart\",\
        destination_service=\"cart.shop.svc.cluster.local\",destination_service_name=\"cart\",\
        destination_service_namespace=\"shop\",destination_version=\"v2\",destination_canonical_revision=\"v2\",\
        request_protocol=\"http\",connection_security_policy=\"mutual_tls\",response_code=\"200\",\
        response_flags=\"-\"} 2\n";
    assert!(text.contains(line), "{text}");
    // The rest with short names for the labels of an edge, so that people can read it.
    let mut short = text;
    for protocol in [Protocol::Http1, Protocol::Grpc, Protocol::Tcp] {
        for (name, key) in [("web", edge(protocol)), ("stranger", stranger.clone())] {
            let labels = edge_labels(&key, protocol).finish();
            short = short.replace(&labels, &format!("<{name}, {}>", protocol.istio()));
        }
    }
    assert_eq!(short, include_str!("golden.prom"));
}

#[test]
fn programs_that_come_and_go_leave_one_series() {
    let mut totals = Totals::with_max_edges(3);
    for call in 0..1_000 {
        let mut recorder = Recorder::new();
        let key = EdgeKey {
            source_workload: format!("front-{call:04x}").into(),
            destination_workload: format!("cart-2024-{:04x}", call % 2).into(),
            ..edge(Protocol::Http1)
        };
        let id = recorder.edge(&key);
        recorder.request(id, &outcome(200, 3));
        totals.merge(&recorder.take_delta());
    }
    let text = text(&totals);
    let counted = text
        .lines()
        .filter(|line| line.starts_with("istio_requests_total{"));
    let [line] = counted.collect::<Vec<_>>()[..] else {
        panic!("{text}")
    };
    let labels = [
        "source_workload=\"front\",source_canonical_service=\"front\"",
        "destination_workload=\"cart-2024\",destination_canonical_service=\"cart-2024\"",
    ];
    assert!(labels.iter().all(|of| line.contains(of)), "{line}");
    assert!(line.ends_with(" 1000"), "{line}");
    assert!(text.contains("leno_telemetry_edges_overflow_total 0\n"));
}

#[test]
fn every_label_set_is_written_once_and_every_histogram_is_cumulative() {
    let mut recorder = Recorder::new();
    for protocol in [
        Protocol::Http1,
        Protocol::Http2,
        Protocol::WebSocket,
        Protocol::Grpc,
    ] {
        let id = recorder.edge(&edge(protocol));
        [200, 404, 503]
            .into_iter()
            .for_each(|code| recorder.request(id, &outcome(code, 7)));
    }
    let mut totals = Totals::default();
    totals.merge(&recorder.take_delta());
    let text = text(&totals);
    let samples: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let mut names: Vec<_> = samples
        .iter()
        .filter_map(|line| line.rsplit_once(' '))
        .map(|(name, _)| name)
        .collect();
    let all = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all);
    let total: u64 = samples
        .iter()
        .filter(|line| line.starts_with("istio_requests_total{"))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
        .sum();
    assert_eq!(total, 12);
}

#[test]
fn edges_beyond_the_ceiling_are_one_and_counted() {
    let mut recorder = Recorder::with_max_edges(2);
    for workload in 0..100 {
        let key = EdgeKey {
            source_workload: format!("w{workload}").into(),
            ..edge(Protocol::Http1)
        };
        let id = recorder.edge(&key);
        recorder.request(id, &outcome(200, 1));
    }
    assert_eq!(recorder.len(), 3);
    let delta = recorder.take_delta();
    assert_eq!(delta.edges_overflowed, 98);
    let mut totals = Totals::with_max_edges(1);
    totals.merge(&delta);
    let other = EdgeKey::other(Reporter::Destination, Protocol::Http1, true);
    let counted: u64 = totals
        .requests(&other)
        .map(|(_, requests)| requests.count)
        .sum();
    assert_eq!(counted, 99);
    assert!(text(&totals).contains("leno_telemetry_edges_overflow_total 99\n"));
}

#[test]
fn a_destination_that_answers_with_every_status_makes_few_series() {
    let mut recorder = Recorder::new();
    let id = recorder.edge(&edge(Protocol::Http1));
    (100..1000).for_each(|code| recorder.request(id, &outcome(code, 1)));
    let delta = recorder.take_delta();
    let kinds: Vec<_> = delta
        .edges
        .iter()
        .flat_map(|edge| edge.requests())
        .collect();
    assert_eq!(kinds.len(), MAX_RESPONSES_PER_EDGE + 1);
    let beyond = 900 - MAX_RESPONSES_PER_EDGE as u64;
    assert_eq!(delta.responses_overflowed, beyond);
    let other = kinds.iter().find(|(key, _)| *key == ResponseKey::OTHER);
    assert_eq!(other.map(|(_, requests)| requests.count), Some(beyond));
}

#[test]
fn an_edge_is_interned_once_and_latency_is_to_the_first_byte() {
    let mut recorder = Recorder::new();
    let key = edge(Protocol::Http1);
    let id = recorder.edge(&key);
    assert_eq!(recorder.edge(&key), id);
    recorder.request(id, &outcome(200, 100));
    recorder.request(
        id,
        &RequestOutcome {
            first_byte: None,
            ..outcome(503, 400)
        },
    );
    let delta = recorder.take_delta();
    let latency = delta.edges[0].latency();
    assert_eq!(latency.count(), 2);
    let close = |q, millis: f64| {
        let found = latency
            .quantile(q)
            .map_or(0.0, |found| found.as_secs_f64() * 1e3);
        assert!((found - millis).abs() / millis < 0.05, "{found}");
    };
    close(0.5, 50.0);
    close(1.0, 400.0);
}

#[test]
fn a_streams_first_byte_is_told_beside_requests_latencies() {
    let mut recorder = Recorder::new();
    let id = recorder.edge(&edge(Protocol::Tcp));
    recorder.tcp_opened(id);
    recorder.tcp_first_byte(id, Duration::from_millis(7));
    let delta = recorder.take_delta();
    let found = delta.edges[0].latency().quantile(0.5).unwrap_or_default();
    assert!((found.as_secs_f64() * 1e3 - 7.0).abs() < 0.3, "{found:?}");
    let mut totals = Totals::default();
    totals.merge(&delta);
    totals.merge(&delta);
    let text = text(&totals);
    let has = |part: &str, end: &str| {
        let line = |line: &&str| line.starts_with("leno_tcp_first_byte_milliseconds");
        let mut lines = text.lines().filter(line);
        lines.any(|line| line.contains(part) && line.ends_with(end))
    };
    assert!(has("le=\"5\"", " 0") && has("le=\"10\"", " 2"), "{text}");
    assert!(has("_sum{", " 14") && has("_count{", " 2"), "{text}");
}

#[test]
fn what_counts_as_a_failure() {
    let key = |code, grpc_status, refusal| {
        ResponseKey {
            code: Some(code),
            grpc_status,
            refusal,
        }
        .is_failure()
    };
    assert!(
        !key(200, None, None)
            && !key(404, None, None)
            && !key(200, Some(0), None)
            && !key(200, Some(5), None)
    );
    assert!(key(500, None, None) && key(0, None, None) && key(200, Some(14), None));
    assert!(key(403, None, Some(Refusal::Denied)));
    assert!(!key(499, None, Some(Refusal::ClientGone)));
}

proptest! {
    #[test]
    fn two_workers_deltas_add_up_to_one_workers(events in prop::collection::vec((0..3_u8, 0..600_u16, 0..5000_u64, any::<bool>()), 0..200)) {
        let mut one = Recorder::new();
        let mut two = [Recorder::new(), Recorder::new()];
        let mut whole = Totals::default();
        let mut parts = Totals::default();
        for (protocol, code, millis, second) in events {
            let key = edge([Protocol::Http1, Protocol::Grpc, Protocol::Tcp][usize::from(protocol)]);
            for recorder in [&mut one, &mut two[usize::from(second)]] {
                let id = recorder.edge(&key);
                recorder.request(id, &outcome(code % 20, millis));
            }
            if millis % 7 == 0 {
                parts.merge(&two[usize::from(second)].take_delta());
            }
        }
        whole.merge(&one.take_delta());
        two.iter_mut().for_each(|recorder| parts.merge(&recorder.take_delta()));
        prop_assert_eq!(text(&whole), text(&parts));
    }
}
