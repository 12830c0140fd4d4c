//! Watches: nothing lost, nothing twice, and a clear end.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test may panic")]

mod common;

use std::{collections::BTreeMap, sync::atomic::Ordering, time::Duration};

use common::{ROUTES, SERVICES, Server, route, service, slice, version};
use http::{Method, StatusCode};
use leno_api::Limits;
use leno_store::Options;
use serde_json::{Value, json};

const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";

#[tokio::test]
async fn a_watch_tells_every_change_after_its_revision() {
    let server = Server::start().await;
    server.post(SERVICES, &service("old", 80)).await;
    let list = server.get(SERVICES).await.body;
    let mut events = server
        .watch(&format!(
            "{SERVICES}?watch=1&resourceVersion={}",
            version(&list)
        ))
        .await;
    server.post(SERVICES, &service("cart", 80)).await;
    server.post(ROUTES, &route("other-kind", 1)).await;
    let mut elsewhere = service("elsewhere", 80);
    elsewhere["metadata"]["namespace"] = json!("pay");
    server
        .post("/api/v1/namespaces/pay/services", &elsewhere)
        .await;
    server
        .post(
            "/meshes/other/api/v1/namespaces/shop/services",
            &service("other-mesh", 80),
        )
        .await;
    let changed = server
        .put(&format!("{SERVICES}/cart"), &service("cart", 81))
        .await
        .body;
    server.delete(&format!("{SERVICES}/cart")).await;
    assert_eq!(events.short().await, "ADDED cart");
    let modified = events.next().await.unwrap();
    assert_eq!(
        (modified["type"].as_str(), &modified["object"]),
        (Some("MODIFIED"), &changed)
    );
    let deleted = events.next().await.unwrap();
    assert_eq!(deleted["type"], "DELETED");
    assert_eq!(deleted["object"]["spec"], changed["spec"]);
    let at: u64 = version(&deleted["object"]).parse().unwrap();
    assert!(
        at > version(&changed).parse().unwrap(),
        "a client resumes after the deletion"
    );

    // Resumed in the middle: the rest, once.
    let mut resumed = server
        .watch(&format!(
            "{SERVICES}?watch=1&resourceVersion={}",
            version(&changed)
        ))
        .await;
    assert_eq!(resumed.short().await, "DELETED cart");
    server.post(SERVICES, &service("next", 80)).await;
    assert_eq!(resumed.short().await, "ADDED next");
    assert_eq!(events.short().await, "ADDED next");
}

#[tokio::test]
async fn a_watch_without_a_version_begins_with_the_state() {
    let server = Server::start().await;
    server.post(SERVICES, &service("a", 80)).await;
    server.post(SERVICES, &service("b", 80)).await;
    for query in ["watch=true", "watch=1&resourceVersion=0"] {
        let mut events = server.watch(&format!("{SERVICES}?{query}")).await;
        assert_eq!(events.short().await, "ADDED a");
        assert_eq!(events.short().await, "ADDED b");
        server
            .put(
                &format!("{SERVICES}/a"),
                &service("a", if query.ends_with('0') { 82 } else { 81 }),
            )
            .await;
        assert_eq!(events.short().await, "MODIFIED a");
    }
}

#[tokio::test]
async fn initial_events_end_with_their_bookmark() {
    let server = Server::start().await;
    server.post(SERVICES, &service("a", 80)).await;
    let query =
        "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut events = server.watch(&format!("{SERVICES}?{query}")).await;
    assert_eq!(events.short().await, "ADDED a");
    let bookmark = events.next().await.unwrap();
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(bookmark["object"]["kind"], "Service");
    assert_eq!(
        bookmark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"],
        "true"
    );
    assert_eq!(
        version(&bookmark["object"]),
        version(&server.get(SERVICES).await.body)
    );
    server.post(SERVICES, &service("b", 80)).await;
    assert_eq!(events.short().await, "ADDED b");
    let wrong = server
        .get(&format!("{SERVICES}?watch=1&sendInitialEvents=true"))
        .await;
    assert_eq!(wrong.code, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_quiet_watch_gets_bookmarks_and_ends_when_its_time_is_over() {
    let limits = Limits {
        bookmark_interval: Duration::from_millis(20),
        watch_time: Duration::from_secs(1),
        ..Limits::default()
    };
    let server = Server::with(Options::default(), limits).await;
    let mut events = server
        .watch(&format!(
            "{SERVICES}?watch=1&allowWatchBookmarks=true&timeoutSeconds=600"
        ))
        .await;
    server.post(ROUTES, &route("unrelated", 1)).await;
    let mut last = Value::Null;
    while let Some(event) = events.next().await {
        assert_eq!(event["type"], "BOOKMARK");
        last = event;
    }
    // The bookmark is newer than anything this watch has told: it stays resumable.
    assert_eq!(
        version(&last["object"]),
        version(&server.get(SERVICES).await.body)
    );
    let mut silent = server.watch(&format!("{SERVICES}?watch=1")).await;
    assert_eq!(silent.next().await, None);
}

#[tokio::test]
async fn a_selector_makes_its_own_view() {
    let server = Server::start().await;
    let mut events = server
        .watch(&format!("{SERVICES}?watch=1&labelSelector=team%3Dweb"))
        .await;
    let path = format!("{SERVICES}/cart");
    let label = async |team: Value| {
        let body = json!({"metadata": {"labels": {"team": team}}});
        assert_eq!(
            server
                .patch(&path, "application/merge-patch+json", &body)
                .await
                .code,
            StatusCode::OK
        );
    };
    server.post(SERVICES, &service("cart", 80)).await;
    label(json!("web")).await;
    server
        .put(
            &path,
            &json!({"metadata": {"labels": {"team": "web"}}, "spec": {"ports": [{"port": 99}]}}),
        )
        .await;
    label(json!("db")).await;
    label(json!("other")).await;
    label(json!("web")).await;
    server.delete(&path).await;
    let mut told = Vec::new();
    for _ in 0..5 {
        let event = events.next().await.unwrap();
        let team = event["object"]["metadata"]["labels"]["team"]
            .as_str()
            .unwrap_or("-")
            .to_owned();
        told.push(format!("{} {team}", event["type"].as_str().unwrap()));
    }
    assert_eq!(
        told,
        [
            "ADDED web",
            "MODIFIED web",
            "DELETED web",
            "ADDED web",
            "DELETED web"
        ]
    );
    let mut one = server
        .watch(&format!(
            "{SERVICES}?watch=1&fieldSelector=metadata.name%3Dcart"
        ))
        .await;
    server.post(SERVICES, &service("other", 80)).await;
    server.post(SERVICES, &service("cart", 80)).await;
    assert_eq!(one.short().await, "ADDED cart");
}

#[tokio::test]
async fn a_watch_from_a_compacted_revision_is_told_410_and_a_new_list_heals_it() {
    let options = Options {
        max_changes: 5,
        ..Options::default()
    };
    let server = Server::with(options, Limits::default()).await;
    let first = server.post(SERVICES, &service("cart", 80)).await.body;
    for port in 1..10 {
        server
            .put(&format!("{SERVICES}/cart"), &service("cart", port))
            .await;
    }
    for from in [version(&first), "99999".into()] {
        let mut events = server
            .watch(&format!("{SERVICES}?watch=1&resourceVersion={from}"))
            .await;
        let error = events.next().await.unwrap();
        assert_eq!(error["type"], "ERROR");
        assert_eq!(
            (&error["object"]["code"], &error["object"]["reason"]),
            (&json!(410), &json!("Expired"))
        );
        assert_eq!(events.next().await, None, "nothing follows");
    }
    let list = server.get(SERVICES).await.body;
    let mut events = server
        .watch(&format!(
            "{SERVICES}?watch=1&resourceVersion={}",
            version(&list)
        ))
        .await;
    server.delete(&format!("{SERVICES}/cart")).await;
    assert_eq!(events.short().await, "DELETED cart");
}

#[tokio::test]
async fn a_client_that_lists_watches_and_lists_again_loses_nothing() {
    let options = Options {
        max_changes: 20,
        ..Options::default()
    };
    let server = Server::with(options, Limits::default()).await;
    let mut rounds = fastrand::Rng::with_seed(7);
    let mut state: BTreeMap<String, String> = BTreeMap::new();
    let mut from = String::new();
    let mut relisted = 0;
    for round in 0..60 {
        for _ in 0..rounds.usize(1..12) {
            let name = format!("s{}", rounds.u8(0..6));
            let path = format!("{SERVICES}/{name}");
            if rounds.u8(0..4) == 0 {
                server.delete(&path).await;
            } else if server
                .put(&path, &service(&name, rounds.u16(1..9_999)))
                .await
                .code
                == StatusCode::NOT_FOUND
            {
                server.post(SERVICES, &service(&name, 80)).await;
            }
        }
        if from.is_empty() {
            let list = server.get(SERVICES).await.body;
            let items = list["items"].as_array().unwrap().clone();
            state = items
                .iter()
                .map(|item| (item["metadata"]["name"].to_string(), version(item)))
                .collect();
            from = version(&list);
            relisted += 1;
        } else if round % 3 == 0 {
            let head = version(&server.get(SERVICES).await.body);
            let mut events = server
                .watch(&format!("{SERVICES}?watch=1&resourceVersion={from}"))
                .await;
            while from != head {
                let event = events.next().await.unwrap();
                let object = &event["object"];
                let name = object["metadata"]["name"].to_string();
                match event["type"].as_str().unwrap() {
                    "ADDED" => {
                        assert!(state.insert(name, version(object)).is_none(), "added twice")
                    }
                    "MODIFIED" => {
                        assert!(state.insert(name, version(object)).is_some(), "never added")
                    }
                    "DELETED" => assert!(state.remove(&name).is_some(), "deleted twice"),
                    _ => {
                        assert_eq!(object["code"], 410);
                        from = String::new();
                        break;
                    }
                }
                from = version(object);
            }
        }
        if !from.is_empty() && from == version(&server.get(SERVICES).await.body) {
            let list = server.get(SERVICES).await.body;
            let items = list["items"].as_array().unwrap().clone();
            let truth = items
                .iter()
                .map(|item| (item["metadata"]["name"].to_string(), version(item)))
                .collect();
            assert_eq!(state, truth);
        }
    }
    assert!(relisted > 1, "the log was outrun at least once");
}

#[tokio::test]
async fn derived_kinds_are_watched_too() {
    let server = Server::start().await;
    server.plane.set_slices(vec![
        slice("cart-1", "10.0.0.1"),
        slice("pay-1", "10.0.1.1"),
    ]);
    let list = server.get(SLICES).await.body;
    let mut events = server
        .watch(&format!(
            "{SLICES}?watch=1&resourceVersion={}",
            version(&list)
        ))
        .await;
    server.plane.set_slices(vec![
        slice("cart-1", "10.0.0.2"),
        slice("web-1", "10.0.2.1"),
    ]);
    let mut told = [
        events.short().await,
        events.short().await,
        events.short().await,
    ];
    told.sort();
    assert_eq!(told, ["ADDED web-1", "DELETED pay-1", "MODIFIED cart-1"]);
    // Resumed from the list, it is told the same again.
    let mut resumed = server
        .watch(&format!(
            "{SLICES}?watch=1&resourceVersion={}",
            version(&list)
        ))
        .await;
    assert_eq!(resumed.short().await, "DELETED pay-1");
    let mut old = server
        .watch(&format!("{SLICES}?watch=1&resourceVersion=1"))
        .await;
    assert_eq!(
        old.next().await.unwrap()["object"]["code"],
        410,
        "from before this control plane"
    );
}

#[tokio::test]
async fn kubectl_get_w_gets_tables() {
    let server = Server::start().await;
    server.post(ROUTES, &route("split", 1)).await;
    let accept = (
        "accept",
        "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
    );
    let mut events = server
        .watch_as(&format!("{ROUTES}?watch=true"), &[accept])
        .await;
    server
        .put(&format!("{ROUTES}/split"), &route("split", 2))
        .await;
    let first = events.next().await.unwrap();
    assert_eq!(
        (&first["type"], &first["object"]["kind"]),
        (&json!("ADDED"), &json!("Table"))
    );
    assert_eq!(first["object"]["columnDefinitions"][0]["name"], "Name");
    assert_eq!(first["object"]["rows"][0]["cells"][0], "split");
    let second = events.next().await.unwrap();
    assert_eq!(
        (&second["type"], &second["object"]["columnDefinitions"]),
        (&json!("MODIFIED"), &Value::Null)
    );
}

#[tokio::test]
async fn one_callers_watches_leave_room_for_anothers() {
    let limits = Limits {
        watches: leno_api::Share {
            all: 4,
            mesh: 4,
            caller: 2,
        },
        ..Limits::default()
    };
    let server = Server::with(Options::default(), limits).await;
    let path = format!("{SERVICES}?watch=1");
    let _greedy = [server.watch(&path).await, server.watch(&path).await];
    let refused = server.get(&path).await;
    assert_eq!(refused.code, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(
        refused.body["message"],
        "too many watches: your limit is 2; try again later"
    );
    assert_eq!(refused.body["details"]["retryAfterSeconds"], 1);
    let other = [("x-test-caller", "viewer")];
    server.watch_as(&path, &other).await;
}

#[tokio::test]
async fn watches_are_bounded_and_given_back() {
    let limits = Limits {
        watches: leno_api::Share {
            all: 2,
            mesh: 2,
            caller: 2,
        },
        ..Limits::default()
    };
    let server = Server::with(Options::default(), limits).await;
    let path = format!("{SERVICES}?watch=1");
    let first = server.watch(&path).await;
    let second = server.watch(&path).await;
    let third = server.send(Method::GET, &path, &[], "").await;
    assert_eq!(third.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(third.headers()["retry-after"], "1");
    assert_eq!(server.counters.watches_exceeded.load(Ordering::Relaxed), 1);
    assert_eq!(server.counters.watches.load(Ordering::Relaxed), 2);
    assert_eq!(
        server.get(SERVICES).await.code,
        StatusCode::OK,
        "others are served"
    );
    drop((first, second));
    while server.counters.watches.load(Ordering::Relaxed) > 0 {
        tokio::task::yield_now().await;
    }
    server.watch(&path).await;
}

fn derived_service(name: &str, port: u16) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "shop", "labels": {"leno.dev/derived": "true"}},
        "spec": {"ports": [{"port": port}]},
    })
}

#[tokio::test]
async fn a_status_that_changes_is_told_though_nobody_wrote_and_once() {
    let server = Server::start().await;
    server.post(ROUTES, &route("split", 5)).await;
    let mut events = server.watch(&format!("{ROUTES}?watch=1")).await;
    let status = |event: &Value| event["object"]["status"]["conditions"][0]["status"].clone();
    let first = events.next().await.unwrap();
    assert_eq!(
        (first["type"].as_str(), status(&first)),
        (Some("ADDED"), json!("True"))
    );
    server.plane.set_programmed("False");
    let told = events.next().await.unwrap();
    assert_eq!(
        (told["type"].as_str(), status(&told)),
        (Some("MODIFIED"), json!("False"))
    );
    // Its version is none that goes back, and is one by which the object can be written.
    server.post(SERVICES, &service("other", 80)).await;
    server.plane.set_programmed("True");
    let told = events.next().await.unwrap();
    assert!(
        version(&told["object"]) > version(&first["object"]),
        "{told}"
    );
    let mut changed = route("split", 6);
    changed["metadata"]["resourceVersion"] = version(&first["object"]).into();
    let path = format!("{ROUTES}/split");
    let dry = format!("{path}?dryRun=All");
    assert_eq!(server.put(&dry, &changed).await.code, StatusCode::OK);
    changed["metadata"]["resourceVersion"] = version(&told["object"]).into();
    assert_eq!(server.put(&path, &changed).await.code, StatusCode::OK);
    assert_eq!(server.put(&path, &changed).await.code, StatusCode::CONFLICT);
    assert_eq!(events.short().await, "MODIFIED split");
    // One that is as it was is none.
    server.plane.set_programmed("True");
    server.delete(&format!("{ROUTES}/split")).await;
    assert_eq!(events.short().await, "DELETED split");
}

#[tokio::test]
async fn services_of_what_runs_are_watched_as_those_that_somebody_wrote() {
    let server = Server::start().await;
    server.plane.set_services(vec![derived_service("cart", 80)]);
    let list = server.get(SERVICES).await.body;
    assert_eq!(list["items"][0]["metadata"]["name"], "cart");
    assert!(!version(&list["items"][0]).is_empty());
    let path = format!("{SERVICES}?watch=1&resourceVersion={}", version(&list));
    let mut events = server.watch(&path).await;
    // It was there at that very revision: told again, not lost.
    assert_eq!(events.short().await, "ADDED cart");
    server.plane.set_services(vec![derived_service("cart", 81)]);
    assert_eq!(events.short().await, "MODIFIED cart");
    server.plane.set_services(vec![
        derived_service("cart", 81),
        derived_service("pay", 80),
    ]);
    assert_eq!(events.short().await, "ADDED pay");
    server.plane.set_services(vec![derived_service("pay", 80)]);
    let gone = events.next().await.unwrap();
    assert_eq!(
        (gone["type"].as_str(), &gone["object"]["metadata"]["name"]),
        (Some("DELETED"), &json!("cart"))
    );
    // Somebody writes the other: the derived one's end is not told, there still is one of that name.
    server.post(SERVICES, &service("pay", 90)).await;
    server.plane.set_services(Vec::new());
    assert_eq!(events.short().await, "ADDED pay");
    server.post(SERVICES, &service("last", 90)).await;
    assert_eq!(events.short().await, "ADDED last");
}

#[tokio::test]
async fn a_watch_that_resumes_learns_what_ended_meanwhile() {
    let server = Server::start().await;
    server.plane.set_services(vec![derived_service("cart", 80)]);
    server.post(SERVICES, &service("a", 80)).await;
    let list = server.get(SERVICES).await.body;
    server.plane.set_services(Vec::new());
    // Somebody looks: that is when it is seen to be gone.
    server.get(SERVICES).await;
    server.post(SERVICES, &service("b", 80)).await;
    let path = format!("{SERVICES}?watch=1&resourceVersion={}", version(&list));
    let mut events = server.watch(&path).await;
    let told = [events.short().await, events.short().await];
    assert_eq!(told, ["DELETED cart", "ADDED b"]);
}
