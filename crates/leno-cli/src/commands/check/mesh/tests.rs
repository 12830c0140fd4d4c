#![allow(clippy::unwrap_used, reason = "a test may panic")]

use serde_json::json;

use super::{super::State, *};

fn troubles(findings: &[Finding]) -> Vec<&str> {
    let ill = findings.iter().filter(|of| of.is_trouble());
    ill.map(|of| of.what.as_str()).collect()
}

fn host(connected: bool, nacks: &Value, health: &str) -> Value {
    json!({"host": "b", "connected": connected, "nacks": nacks, "unproven": [],
        "workloads": [{"name": "cart-11aa", "health": health, "ports": ["80:8080"]}]})
}

#[test]
fn a_host_is_well_or_ill_and_told_once() {
    let refuses = json!([{"type": "Destination", "resource": "default/cart", "reason": "no"}]);
    for (host, trouble) in [
        (host(true, &json!([]), "healthy"), None),
        (host(false, &json!([]), "healthy"), Some("b is away")),
        (
            host(true, &refuses, "healthy"),
            Some("b does not run what it was given"),
        ),
    ] {
        let findings = proxy(&host, OffsetDateTime::now_utc());
        assert_eq!(findings.len(), 1, "{host}");
        assert_eq!(troubles(&findings), trouble.into_iter().collect::<Vec<_>>());
    }
    let mut deaf = host(true, &json!([]), "healthy");
    deaf["unproven"] = json!(["10.0.0.2"]);
    assert_eq!(
        troubles(&proxy(&deaf, OffsetDateTime::now_utc())),
        ["b does not answer at all its addresses"]
    );
}

#[test]
fn a_program_that_is_not_ready_is_trouble_unless_its_host_is() {
    let all = |connected, health| workloads(&json!([host(connected, &json!([]), health)]));
    assert_eq!(
        troubles(&all(true, "unhealthy")),
        ["cart-11aa on b is not ready"]
    );
    assert_eq!(
        troubles(&all(true, "unknown")),
        ["cart-11aa on b is not ready"]
    );
    assert!(all(false, "unhealthy").is_empty());
    assert!(troubles(&all(true, "healthy")).is_empty() && all(true, "healthy").len() == 1);
}

#[test]
fn a_route_to_a_service_without_a_ready_program_is_trouble() {
    let route = |weight: u64| {
        json!({"items": [{"metadata": {"namespace": "default", "name": "catalog"}, "spec": {"rules": [{"backendRefs": [
            {"name": "catalog-v1", "port": 80, "weight": 9}, {"name": "catalog-v2", "port": 80, "weight": weight},
            {"name": "misspelt", "port": 80},
        ]}]}}]})
    };
    let service = |name: &str| json!({"metadata": {"namespace": "default", "name": name}});
    let services = json!({"items": [service("catalog-v1"), service("catalog-v2")]});
    let slice = |name: &str, ready: bool| {
        json!({"metadata": {"namespace": "default", "labels": {"kubernetes.io/service-name": name}},
            "endpoints": [{"conditions": {"ready": ready}}]})
    };
    let slices = |ready| json!({"items": [slice("catalog-v1", true), slice("catalog-v2", ready)]});
    let found = |weight, ready| routes(&route(weight), &services, &slices(ready));
    assert_eq!(
        troubles(&found(1, false)),
        ["httproute default/catalog leads to no program"]
    );
    assert!(troubles(&found(1, true)).is_empty());
    assert!(
        troubles(&found(0, false)).is_empty(),
        "nobody is sent there"
    );
}

#[test]
fn a_route_whose_reference_is_not_there_is_not_said_to_lead_to_programs() {
    let route = |resolved: &str| {
        json!({"items": [{"metadata": {"namespace": "default", "name": "cart"},
            "spec": {"rules": [{"backendRefs": [{"name": "misspelt", "port": 80}]}]},
            "status": {"parents": [{"conditions": [{"type": "ResolvedRefs", "status": resolved,
                "reason": "BackendNotFound", "message": "service default/misspelt is not there"}]}]}}]})
    };
    let none = json!({"items": []});
    let found = |resolved| routes(&route(resolved), &none, &none);
    assert!(
        found("False").is_empty(),
        "told with the route's own status"
    );
    assert_eq!(found("True").len(), 1);
    assert!(troubles(&found("True")).is_empty());
}

#[test]
fn calls_that_fail_are_trouble_and_denied_ones_are_told() {
    let failing = |trouble| failing::Failing::plain("front → cart", "3 of 9 calls failed", trouble);
    let findings = calls(&[failing(true), failing(false)]);
    assert_eq!(troubles(&findings), ["front → cart: calls fail"]);
    assert_eq!(findings.len(), 2);
    assert!(troubles(&calls(&[])).is_empty());
}

#[test]
fn a_control_plane_elsewhere_is_not_to_be_started_here() {
    let error = CommandError::unreachable("10.0.0.1:15012 cannot be reached");
    let finding = silent(error.hint("is it running there?"));
    let State::Ill { why, hint } = finding.state else {
        panic!("{finding:?}");
    };
    assert!(why.contains("cannot be reached"), "{why}");
    assert_eq!(hint, "is it running there?");
}

#[test]
fn the_first_certificate_that_ends_says_how_long_the_control_plane_may_be_away() {
    let end = |time: &str| json!({"not_after": format!("2026-01-01T{time}:00Z")});
    let proxies = json!([
        {"host": "a", "connected": true, "certificates": [end("18:00"), end("15:00")]},
        {"host": "b", "connected": true, "certificates": [end("13:30")]},
        {"host": "c", "connected": false, "certificates": [end("12:01")]},
    ]);
    let now = OffsetDateTime::parse("2026-01-01T12:00:00Z", &Rfc3339).unwrap();
    let said = lasting(&proxies, now).unwrap();
    assert!(
        said.what.contains("away for 90m") && said.what.ends_with("on b"),
        "{}",
        said.what
    );
    assert!(lasting(&json!([]), now).is_none());
}
