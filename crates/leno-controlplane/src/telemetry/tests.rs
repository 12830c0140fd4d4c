#![allow(clippy::unwrap_used, reason = "a test may panic")]

use super::*;

struct Known;

impl Names for Known {
    fn display(&self, workload: &str) -> Option<String> {
        (workload == "catalog-11aa").then(|| "catalog-v1".into())
    }
}

fn edge(reporter: u32, source: &str, requests: u64) -> EdgeDelta {
    let mut latency = LatencyHistogram::default();
    for _ in 0..requests {
        latency.record(Duration::from_millis(4));
    }
    EdgeDelta {
        reporter,
        source_workload: source.into(),
        source_identity: "spiffe://default.leno/ns/shop/sa/storefront".into(),
        destination_workload: "catalog-11aa".into(),
        destination_identity: "spiffe://default.leno/ns/shop/sa/catalog".into(),
        protocol: "http/1.1".into(),
        mtls: true,
        requests,
        failures: requests / 10,
        latency: latency.encode(),
        ..EdgeDelta::default()
    }
}

fn second(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn an_edge_is_named_by_service_and_version_and_counted_once() {
    let mut telemetry = Telemetry::default();
    telemetry.record(&[edge(0, "storefront-b7f2", 100)], &Known, second(20));
    telemetry.record(&[edge(1, "storefront-b7f2", 100)], &Known, second(20));
    let (seconds, edges) = telemetry.window(second(10), second(21));
    assert!((seconds - 10.0).abs() < 1e-9);
    let [edge] = edges.as_slice() else {
        panic!("{edges:?}")
    };
    assert_eq!(
        (edge.source.as_str(), edge.destination.as_str()),
        ("storefront", "catalog-v1")
    );
    assert_eq!((edge.requests, edge.failures), (100, 10));
    assert!((edge.success_rate.unwrap() - 0.9).abs() < 1e-9 && (edge.rps - 10.0).abs() < 1e-9);
    assert!((edge.p50_ms.unwrap() - 4.0).abs() < 0.2, "{edge:?}");
    assert!(edge.mtls);
}

#[test]
fn a_caller_without_a_proxy_is_seen_by_its_destination() {
    let mut telemetry = Telemetry::default();
    let plain = EdgeDelta {
        source_identity: String::new(),
        mtls: false,
        latency: Vec::new(),
        ..edge(1, "", 3)
    };
    telemetry.record(&[plain], &Known, second(1));
    let (_, edges) = telemetry.totals(second(2));
    let [edge] = edges.as_slice() else {
        panic!("{edges:?}")
    };
    assert_eq!(
        (edge.source.as_str(), edge.mtls, edge.requests),
        (LEGACY, false, 3)
    );
    assert_eq!((edge.p50_ms, &edge.source_identity), (None, &None));
}

#[test]
fn reasons_are_those_of_failures_and_of_a_closed_set() {
    let mut telemetry = Telemetry::default();
    let refused = |code: &str, count| EdgeDelta {
        refusals: [(code.to_owned(), count)].into(),
        failures: 60,
        ..edge(0, "storefront-b7f2", 100)
    };
    for made_up in 0..1_000 {
        telemetry.record(&[refused(&format!("X{made_up}"), 1)], &Known, second(1));
    }
    // Whose client went away did not fail, and nothing fails more often than it was asked.
    let more = [refused("DC", 4), refused("UF", 9), refused("RBAC", 7_000)];
    telemetry.record(&more, &Known, second(1));
    telemetry.record(&[refused("UF", 1)], &Known, second(2));
    let expected = [("RBAC".to_owned(), 60), ("UF".to_owned(), 10)].into();
    for edges in [
        telemetry.window(second(10), second(3)).1,
        telemetry.window(second(300), second(11)).1,
        telemetry.totals(second(3)).1,
    ] {
        assert_eq!(edges[0].refusals, expected);
    }
}

#[test]
fn names_that_agents_make_up_cannot_command_a_terminal() {
    let escape = "\u{1b}]0;owned\u{7}\u{9b}2J\n";
    let mut telemetry = Telemetry::default();
    for destination in ["", escape] {
        let edge = EdgeDelta {
            destination_workload: destination.into(),
            destination_service: escape.into(),
            destination_version: escape.into(),
            destination_identity: escape.into(),
            source_identity: escape.into(),
            ..edge(0, escape, 1)
        };
        telemetry.record(&[edge], &Known, second(1));
    }
    let kept = format!("{:?}", telemetry.totals(second(2)).1);
    assert!(kept.contains("?]0;owned??2J?"), "{kept}");
    // As Debug writes control characters.
    assert!(!kept.contains("\\u{") && !kept.contains("\\n"), "{kept}");
}

#[test]
fn a_window_forgets_what_is_older_and_totals_do_not() {
    let mut telemetry = Telemetry::default();
    for at in 0..700 {
        telemetry.record(&[edge(0, "web-0000", 1)], &Known, second(at));
    }
    let requests = |window: u64| {
        telemetry
            .window(second(window), second(700))
            .1
            .first()
            .map(|edge| edge.requests)
    };
    assert_eq!(requests(10), Some(10));
    assert_eq!(requests(60), Some(60));
    assert_eq!(requests(600), Some(600));
    assert_eq!(
        telemetry
            .totals(second(699))
            .1
            .first()
            .map(|edge| edge.requests),
        Some(700)
    );
    assert!(telemetry.fine.len() as u64 <= FINE && telemetry.coarse.len() as u64 <= COARSE);
    assert!(telemetry.window(second(10), second(5_000)).1.is_empty());
}

#[test]
fn series_are_bounded_and_the_rest_is_counted() {
    let mut telemetry = Telemetry::default();
    for number in 0..MAX_SERIES + 5 {
        telemetry.record(
            &[edge(0, &format!("program{number}"), 1)],
            &Known,
            second(1),
        );
    }
    assert_eq!((telemetry.len(), telemetry.dropped), (MAX_SERIES, 5));
    // An hour later the old ones are idle, and give way.
    telemetry.record(&[edge(0, "another", 1)], &Known, second(3_600));
    assert_eq!(telemetry.dropped, 5);
    assert_eq!(telemetry.len(), MAX_SERIES);
    let broken = EdgeDelta {
        latency: vec![9, 9, 9],
        ..edge(0, "a", 1)
    };
    telemetry.record(&[broken], &Known, second(3_600));
    assert_eq!(telemetry.malformed, 1);
}

#[test]
fn the_second_that_still_runs_is_not_in_a_rate() {
    let mut telemetry = Telemetry::default();
    for half in 0..20 {
        let at = Duration::from_millis(500 * half);
        telemetry.record(&[edge(0, "web-0000", 20)], &Known, at);
        if at >= second(4) {
            let (_, edges) = telemetry.window(second(3), at);
            assert!((edges[0].rps - 40.0).abs() < 1e-9, "{at:?}: {edges:?}");
            let (_, edges) = telemetry.window(second(1), at);
            assert!((edges[0].rps - 40.0).abs() < 1e-9, "{at:?}: {edges:?}");
        }
    }
}

#[test]
fn a_long_window_reaches_up_to_the_last_second() {
    for (now, window, seconds, requests) in [
        (4, 600, 4.0, 4),
        (14, 61, 14.0, 14),
        (125, 600, 125.0, 125),
        (125, 61, 75.0, 75),
    ] {
        let mut telemetry = Telemetry::default();
        for at in 0..=now {
            telemetry.record(&[edge(0, "web-0000", 1)], &Known, second(at));
        }
        let (covered, edges) = telemetry.window(second(window), second(now));
        let counted: u64 = edges.iter().map(|edge| edge.requests).sum();
        assert_eq!((covered, counted), (seconds, requests), "{now} {window}");
    }
}

#[test]
fn who_was_served_is_known_for_ten_minutes_and_who_was_only_refused_is_not() {
    let mut telemetry = Telemetry::default();
    telemetry.record(&[edge(0, "storefront-b7f2", 100)], &Known, second(20));
    let mut refused = edge(0, "legacy-0001", 10);
    refused.failures = 10;
    telemetry.record(&[refused], &Known, second(30));
    let served = |telemetry: &Telemetry, at| {
        let served = telemetry.served(second(at));
        let pair = |of: &Served<'_>| (of.source.to_owned(), of.destination.to_owned());
        served.iter().map(pair).collect::<Vec<_>>()
    };
    let expected = [("storefront".to_owned(), "catalog-v1".to_owned())];
    assert_eq!(served(&telemetry, 31), expected);
    assert_eq!(served(&telemetry, 619), expected);
    assert!(served(&telemetry, 631).is_empty());
}
