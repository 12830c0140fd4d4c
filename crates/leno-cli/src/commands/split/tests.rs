#![allow(clippy::unwrap_used, reason = "a test may panic")]

use leno_config::parse_documents;

use super::*;

fn service() -> ServiceName {
    "default/catalog".parse().unwrap()
}

fn shares(of: &[&str]) -> Result<Vec<SplitBackend>, CommandError> {
    let of: Vec<String> = of.iter().map(ToString::to_string).collect();
    backends(&of, &service(), 80)
}

fn route(name: &str, spec: &str) -> Value {
    let text = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}, namespace: default, resourceVersion: \"7\"}}\nspec:\n{spec}"
    );
    parse_documents("test.yaml", &text).unwrap().remove(0).value
}

const PARENT: &str = "  parentRefs: [{kind: Service, group: '', name: catalog}]\n";
const RICH: &str = "  rules:
  - {matches: [{path: {type: PathPrefix, value: /beta}}], backendRefs: [{name: catalog-v2, port: 80}], timeouts: {request: 5s}}
  - {backendRefs: [{name: catalog-v1, port: 8080, weight: 95}, {name: catalog-v3, port: 80, weight: 5}], timeouts: {request: 5s}}
";

fn decide(routes: &[Value], of: &[&str]) -> Result<Change, CommandError> {
    let routes: Vec<&Value> = routes.iter().collect();
    change(&routes, &service(), None, true, &shares(of).unwrap())
}

#[test]
fn a_richer_route_keeps_everything_but_the_weights() {
    let before = route("mine", &format!("{PARENT}{RICH}"));
    let changed = decide(std::slice::from_ref(&before), &["v1=60", "v2=40"]).unwrap();
    let mut wanted = before;
    wanted["spec"]["rules"][1]["backendRefs"] = json!([
        {"name": "catalog-v1", "port": 8080, "weight": 60},
        {"name": "catalog-v2", "port": 80, "weight": 40},
    ]);
    assert_eq!(changed.document, wanted);
    assert_eq!(changed.dropped, ["catalog-v3"]);
}

#[test]
fn new_shares_stand_at_no_line_of_the_file_that_the_route_was_applied_from() {
    let mut before = route("mine", &format!("{PARENT}{RICH}"));
    before["metadata"]["annotations"] = json!({
        "leno.dev/source": "shop.yaml:1", "leno.dev/source-map": "spec.rules[1]=9", "team": "web",
    });
    let same = ["v1=95", "v3=5"];
    let same = decide(std::slice::from_ref(&before), &same).unwrap();
    assert_eq!(same.document, before, "it says what the file says");
    let changed = decide(&[before], &["v1=60", "v2=40"]).unwrap();
    let annotations = &changed.document["metadata"]["annotations"];
    assert_eq!(*annotations, json!({"team": "web"}));
}

#[test]
fn without_a_route_one_is_written_that_is_named_as_the_service() {
    let other = "  parentRefs: [{kind: Service, group: '', name: cart}]\n  rules: [{}]\n";
    let changed = decide(&[route("other", other)], &["v1=1"]).unwrap();
    assert_eq!(changed.document["metadata"]["name"], "catalog");
}

#[test]
fn a_route_in_which_the_shares_have_no_one_place_is_left_alone() {
    let some = "  rules: [{matches: [{path: {type: PathPrefix, value: /beta}}], backendRefs: [{name: catalog-v2, port: 80}]}]\n";
    let two = "  rules: [{name: a}, {name: b}]\n";
    let elsewhere = "  parentRefs: [{kind: Service, group: '', name: cart}]\n  rules: [{}]\n";
    let many = "  parentRefs: [{kind: Service, group: '', name: catalog}, {kind: Service, group: '', name: cart}]\n  rules: [{}]\n";
    for (routes, why) in [
        (
            vec![route("r", &format!("{PARENT}{some}"))],
            "has no rule for all",
        ),
        (
            vec![route("r", &format!("{PARENT}{two}"))],
            "has several rules",
        ),
        (vec![route("catalog", elsewhere)], "is for service cart"),
        (vec![route("r", many)], "is for several"),
        (
            vec![
                route("a", &format!("{PARENT}{RICH}")),
                route("r", &format!("{PARENT}{RICH}")),
            ],
            "is not the only route of catalog: there are a, r",
        ),
    ] {
        let error = decide(&routes, &["v1=1", "v2=1"]).unwrap_err();
        assert_eq!(error.code, 6);
        assert!(error.what.contains(why), "{why}: {error}");
        assert!(error.what.contains("nothing was changed"), "{error}");
    }
}

#[test]
fn shares_that_send_requests_nowhere_are_refused() {
    for (of, why) in [
        (vec!["v1=0", "v2=0"], "every share is 0"),
        (vec!["v1=5", "v1=6"], "two shares"),
        (vec!["v1"], "is no share"),
        (vec!["v1=-1"], "is no share"),
    ] {
        let error = shares(&of).unwrap_err();
        assert_eq!(error.code, 2);
        assert!(error.what.contains(why), "{why}: {error}");
    }
    assert_eq!(shares(&["v1=0", "v2=100%"]).unwrap()[1].weight, 100);
}

#[test]
fn a_version_that_is_not_there_is_told_with_what_is() {
    let service = ServiceName::new("default".parse().unwrap(), "cart".parse().unwrap());
    let missing = "cart-v1".parse().unwrap();
    let workload = |version: &str| leno_controlplane::documents::ProxyWorkload {
        service: Some("cart".into()),
        namespace: "default".into(),
        version: version.into(),
        ..Default::default()
    };
    let hint = |versions: &[&str]| {
        let proxy = Proxy {
            workloads: versions.iter().map(|version| workload(version)).collect(),
            ..Proxy::default()
        };
        let error = no_version(&service, &missing, &[proxy]);
        assert_eq!(error.code, 6);
        assert!(
            error.hint.contains("--service cart --version v1"),
            "{error}"
        );
        error.hint
    };
    assert!(hint(&[""]).contains("have no version"));
    assert!(hint(&["v2"]).contains("there are v2"));
    assert!(hint(&["", "v2"]).contains("without a version"));
    assert!(hint(&[]).contains("start it first"));
}
