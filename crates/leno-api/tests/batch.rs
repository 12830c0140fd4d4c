//! The batch of `leno apply`: all or nothing.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test may panic")]

mod common;

use common::{Server, route, service};
use http::StatusCode;
use leno_store::Store;
use serde_json::{Value, json};

const APPLY: &str = "/leno/v1/apply";

fn results(body: &Value) -> Vec<&str> {
    let items = body["items"].as_array().unwrap();
    items
        .iter()
        .map(|item| item["result"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn a_reference_to_nowhere_is_a_warning_beside_its_document() {
    let server = Server::start().await;
    for dry_run in [true, false] {
        let batch = json!({"items": [service("cart", 80), route("split", 5)], "dryRun": dry_run});
        let answer = server.post(APPLY, &batch).await;
        assert_eq!(answer.code, StatusCode::OK);
        let warning = json!({
            "field": "spec.parentRefs[0].name",
            "message": "there is no service shop/\"catalog\"",
            "suggestion": null,
        });
        assert_eq!(answer.body["items"][0]["warnings"], json!([]));
        assert_eq!(answer.body["items"][1]["warnings"], json!([warning]));
    }
    let together = json!({"items": [route("split", 6), service("catalog", 80)]});
    let answer = server.post(APPLY, &together).await;
    assert_eq!(
        answer.body["items"][0]["warnings"],
        json!([]),
        "it comes with it"
    );
}

#[tokio::test]
async fn a_batch_is_one_transaction_and_tells_what_became_of_each() {
    let server = Server::start().await;
    let first = server
        .post(
            APPLY,
            &json!({"items": [service("cart", 80), service("catalog", 80)]}),
        )
        .await;
    assert_eq!(
        (first.code, results(&first.body)),
        (StatusCode::OK, vec!["created", "created"])
    );
    let items = [
        service("cart", 80),
        service("catalog", 81),
        route("split", 5),
    ];
    let second = server.post(APPLY, &json!({"items": items})).await;
    assert_eq!(
        results(&second.body),
        ["unchanged", "configured", "created"]
    );
    let again = server
        .post(APPLY, &json!({"items": items, "dryRun": false}))
        .await;
    assert_eq!(results(&again.body), ["unchanged"; 3]);
    for (item, path) in [
        (0, "/api/v1/namespaces/shop/services/cart"),
        (1, "/api/v1/namespaces/shop/services/catalog"),
        (
            2,
            "/apis/gateway.networking.k8s.io/v1/namespaces/shop/httproutes/split",
        ),
    ] {
        let object = server.get(path).await.body;
        for body in [&second.body, &again.body] {
            for field in ["resourceVersion", "uid", "generation"] {
                assert_eq!(
                    body["items"][item][field], object["metadata"][field],
                    "{path} {field}"
                );
            }
        }
    }
    assert_eq!(server.store.revision(), 5);
    assert_eq!(
        server
            .counters
            .changes
            .load(std::sync::atomic::Ordering::Relaxed),
        4
    );
}

#[tokio::test]
async fn a_document_that_says_what_it_replaces_replaces_nothing_newer() {
    let server = Server::start().await;
    let first = server
        .post(APPLY, &json!({"items": [service("cart", 80)]}))
        .await;
    let mut next = service("cart", 81);
    next["metadata"]["resourceVersion"] = first.body["items"][0]["resourceVersion"].clone();
    let batch = json!({"items": [next.clone(), service("other", 80)]});
    assert_eq!(server.post(APPLY, &batch).await.code, StatusCode::OK);
    next["spec"]["ports"][0]["port"] = 82.into();
    let batch = json!({"items": [next, service("third", 80)]});
    assert_eq!(server.post(APPLY, &batch).await.code, StatusCode::CONFLICT);
    let third = server.get("/api/v1/namespaces/shop/services/third").await;
    assert_eq!(third.code, StatusCode::NOT_FOUND, "nothing of the batch");
}

#[tokio::test]
async fn a_dry_run_of_a_batch_says_the_same_and_does_nothing() {
    let server = Server::start().await;
    let batch = json!({"items": [service("cart", 80)], "dryRun": true});
    let answer = server.post(APPLY, &batch).await;
    assert_eq!(results(&answer.body), ["created"]);
    assert_eq!(
        (
            answer.body["dryRun"].as_bool(),
            &answer.body["items"][0]["resourceVersion"]
        ),
        (Some(true), &Value::Null)
    );
    assert_eq!(server.store.revision(), 1);
}

#[tokio::test]
async fn everything_that_is_wrong_is_told_and_nothing_is_applied() {
    let server = Server::start().await;
    let mut misspelt = route("split", 5);
    misspelt["spec"]["rulez"] = json!([]);
    misspelt["spec"]["rules"][0]["backendRefs"][0]["weight"] = json!("much");
    let mut unknown = service("x", 80);
    unknown["kind"] = json!("Servise");
    let mut version = route("y", 1);
    version["apiVersion"] = json!("gateway.networking.k8s.io/v1beta1");
    let derived =
        json!({"apiVersion": "leno.dev/v1alpha1", "kind": "Workload", "metadata": {"name": "w"}});
    let items = json!([
        service("good", 80),
        misspelt,
        unknown,
        version,
        derived,
        service("good", 81),
        "text",
        null
    ]);
    let answer = server.post(APPLY, &json!({"items": items})).await;
    assert_eq!(
        (answer.code, answer.body["reason"].as_str()),
        (StatusCode::UNPROCESSABLE_ENTITY, Some("Invalid"))
    );
    let causes = answer.body["details"]["causes"].as_array().unwrap();
    let found: Vec<_> = causes
        .iter()
        .map(|cause| {
            format!(
                "{} {} {}",
                cause["item"],
                cause["field"].as_str().unwrap(),
                cause["suggestion"].as_str().unwrap_or("-")
            )
        })
        .collect();
    let expected = [
        "1 spec.rulez rules",
        "1 spec.rules[0].backendRefs[0].weight -",
        "2 kind Service",
        "3 apiVersion gateway.networking.k8s.io/v1",
        "4 kind -",
        "5 metadata.name -",
        "6 kind -",
        "7 kind -",
    ];
    for line in expected {
        assert!(
            found.iter().any(|f| f == line),
            "{line} is not in {found:#?}"
        );
    }
    assert_eq!(found.len(), expected.len());
    assert_eq!(server.store.revision(), 1);
    // What only the control plane sees, too.
    let answer = server
        .post(
            APPLY,
            &json!({"items": [service("good", 80), service("forbidden-name", 80)]}),
        )
        .await;
    assert_eq!(
        answer.body["details"]["causes"][0]["message"],
        "this name is taken"
    );
    assert_eq!(server.store.revision(), 1);
}

#[tokio::test]
async fn a_batch_has_a_form_and_a_size() {
    let limits = leno_api::Limits {
        batch_objects: 2,
        object_bytes: 2_000,
        batch_bytes: 20_000,
        ..leno_api::Limits::default()
    };
    let server = Server::with(leno_store::Options::default(), limits).await;
    for wrong in [
        json!([]),
        json!({}),
        json!({"items": 1}),
        json!({"items": [], "dry": true}),
        json!({"items": [], "dryRun": "yes"}),
    ] {
        assert_eq!(
            server.post(APPLY, &wrong).await.code,
            StatusCode::BAD_REQUEST,
            "{wrong}"
        );
    }
    let three = json!({"items": [service("a", 1), service("b", 1), service("c", 1)]});
    assert_eq!(
        server.post(APPLY, &three).await.code,
        StatusCode::PAYLOAD_TOO_LARGE
    );
    let mut large = service("a", 1);
    large["metadata"]["annotations"] = json!({"text": "x".repeat(3_000)});
    let answer = server.post(APPLY, &json!({"items": [large]})).await;
    assert_eq!(answer.code, StatusCode::UNPROCESSABLE_ENTITY);
    let endless = json!({"items": ["x".repeat(30_000)]});
    assert_eq!(
        server.post(APPLY, &endless).await.code,
        StatusCode::PAYLOAD_TOO_LARGE
    );
    assert_eq!(server.get(APPLY).await.code, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(
        server.post(APPLY, &json!({"items": []})).await.body["items"],
        json!([])
    );
}

#[tokio::test]
async fn batches_at_once_are_serial() {
    let server = Server::start().await;
    let batch = |port: u16| json!({"items": [service("a", port), service("b", port)]});
    let batches = [batch(1), batch(2), batch(3), batch(4)];
    let answers = tokio::join!(
        server.post(APPLY, &batches[0]),
        server.post(APPLY, &batches[1]),
        server.post(APPLY, &batches[2]),
        server.post(APPLY, &batches[3]),
    );
    for answer in [answers.0, answers.1, answers.2, answers.3] {
        assert_eq!(answer.code, StatusCode::OK, "{}", answer.body);
    }
    let port = async |name: &str| {
        server
            .get(&format!("/api/v1/namespaces/shop/services/{name}"))
            .await
            .body["spec"]["ports"][0]["port"]
            .clone()
    };
    assert_eq!(port("a").await, port("b").await);
}
