//! What clients ask besides objects: schemas, how strictly a write is read, what the caller may do.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test may panic")]

mod common;

use common::{JSON, ROUTES, SERVICES, Server, route, service};
use http::{Method, StatusCode};
use serde_json::{Value, json};

#[tokio::test]
async fn schemas_are_found_from_their_index_and_fetched_once() {
    let server = Server::start().await;
    let index = server.get("/openapi/v3").await.body;
    let paths = index["paths"].as_object().unwrap();
    assert_eq!(paths.len(), 4);
    for (path, entry) in paths {
        let url = entry["serverRelativeURL"].as_str().unwrap();
        assert!(url.starts_with(&format!("/meshes/default/openapi/v3/{path}?hash=")));
        let answer = server.send(Method::GET, url, &[], "").await;
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers()["cache-control"], "public, immutable");
        let tag = answer.headers()["etag"].to_str().unwrap().to_owned();
        let again = server
            .send(Method::GET, url, &[("if-none-match", &tag)], "")
            .await;
        assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
    }
    let core = server.get("/openapi/v3/api/v1").await.body;
    let ports = "/components/schemas/io.k8s.api.core.v1.Service/properties/spec/properties/ports";
    let ports = core.pointer(ports).unwrap();
    assert_eq!(ports["x-kubernetes-patch-merge-key"], "port");
    assert_eq!(
        server.get("/openapi/v2").await.body["swagger"],
        json!("2.0")
    );
}

#[tokio::test]
async fn an_older_client_gets_its_schemas_as_protobuf_and_others_learn_what_there_is() {
    let server = Server::start().await;
    for media in [
        "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
        "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
    ] {
        let answer = server
            .call(Method::GET, "/openapi/v2", &[("accept", media)], "")
            .await;
        assert_eq!(answer.code, StatusCode::OK);
        assert_eq!(
            answer.media,
            "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
        );
    }
    for (path, media) in [
        ("/openapi/v2", "text/html"),
        ("/openapi/v2", "application/vnd.kubernetes.protobuf"),
        (
            "/openapi/v3/api/v1",
            "application/com.github.proto-openapi.spec.v3.v1.0+protobuf",
        ),
    ] {
        let answer = server
            .call(Method::GET, path, &[("accept", media)], "")
            .await;
        assert_eq!(answer.code, StatusCode::NOT_ACCEPTABLE, "{path} {media}");
        assert!(answer.body["message"].as_str().unwrap().contains("json"));
    }
}

fn with_typo() -> Value {
    let mut route = route("split", 5);
    route["spec"]["rules"][0]["backendRef"] = json!([]);
    route
}

#[tokio::test]
async fn a_field_that_there_is_not_is_refused_unless_the_caller_asks_otherwise() {
    let server = Server::start().await;
    for query in ["", "?fieldValidation=", "?fieldValidation=Strict"] {
        let refused = server.post(&format!("{ROUTES}{query}"), &with_typo()).await;
        assert_eq!(refused.code, StatusCode::BAD_REQUEST);
        assert_eq!(
            refused.body["message"],
            "HTTPRoute in version \"v1\" cannot be handled as a HTTPRoute: strict decoding error: \
             unknown field \"spec.rules[0].backendRef\" (did you mean backendRefs?)"
        );
        let causes = &refused.body["details"]["causes"];
        assert_eq!(causes[0]["field"], "spec.rules[0].backendRef");
    }
    let told = "299 - \"unknown field \\\"spec.rules[0].backendRef\\\"\"";
    for (mode, warned) in [("Warn", true), ("Ignore", false)] {
        let path = format!("{ROUTES}?dryRun=All&fieldValidation={mode}");
        let taken = server.post(&path, &with_typo()).await;
        assert_eq!(taken.code, StatusCode::CREATED, "{}", taken.body);
        assert_eq!(taken.warnings.iter().any(|of| of == told), warned, "{mode}");
        assert!(taken.body.pointer("/spec/rules/0/backendRef").is_none());
    }
    let answer = server
        .post(&format!("{ROUTES}?fieldValidation=Lax"), &with_typo())
        .await;
    assert_eq!(answer.code, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_field_that_stands_twice_is_refused_unless_the_caller_asks_otherwise() {
    let server = Server::start().await;
    let text = service("cart", 80).to_string().replace(
        "\"spec\":{",
        "\"spec\":{\"type\":\"ClusterIP\",\"type\":\"ClusterIP\",",
    );
    let send = async |mode: &str| {
        let path = format!("{SERVICES}?dryRun=All&fieldValidation={mode}");
        server.call(Method::POST, &path, &JSON, text.clone()).await
    };
    let refused = send("Strict").await;
    assert_eq!(refused.code, StatusCode::BAD_REQUEST);
    let message = refused.body["message"].as_str().unwrap();
    assert!(
        message.contains("duplicate field \"spec.type\""),
        "{message}"
    );
    let taken = send("Warn").await;
    assert_eq!(taken.code, StatusCode::CREATED);
    assert!(
        taken.warnings[0].contains("duplicate field"),
        "{:?}",
        taken.warnings
    );
    let taken = send("Ignore").await;
    assert_eq!(taken.code, StatusCode::CREATED);
    assert!(taken.warnings.is_empty());
}

#[tokio::test]
async fn a_policy_is_never_read_in_part() {
    let server = Server::start().await;
    // With `from` left out the rule would let everybody in.
    let policy = json!({
        "apiVersion": "leno.dev/v1alpha1",
        "kind": "AccessPolicy",
        "metadata": {"name": "cart", "namespace": "shop"},
        "spec": {
            "targetRefs": [{"kind": "Service", "name": "cart"}],
            "action": "Allow",
            "rules": [{"form": [{"namespaces": ["shop"]}]}],
        },
    });
    for mode in ["Strict", "Warn", "Ignore"] {
        let path = format!(
            "/apis/leno.dev/v1alpha1/namespaces/shop/accesspolicies?fieldValidation={mode}"
        );
        let refused = server.post(&path, &policy).await;
        assert_eq!(refused.code, StatusCode::BAD_REQUEST, "{mode}");
    }
}

#[tokio::test]
async fn what_is_applied_twice_is_as_it_was_written() {
    let server = Server::start().await;
    let made = server.post(ROUTES, &route("split", 5)).await;
    assert_eq!(made.body["spec"], route("split", 5)["spec"]);
}

#[tokio::test]
async fn callers_learn_what_they_may() {
    let server = Server::start().await;
    let ask = async |verb: &str, resource: &str| {
        let review = json!({
            "kind": "SelfSubjectAccessReview",
            "apiVersion": "authorization.k8s.io/v1",
            "spec": {"resourceAttributes": {"verb": verb, "resource": resource, "namespace": "shop"}},
        });
        let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
        let answer = server.post(path, &review).await;
        assert_eq!(answer.code, StatusCode::CREATED, "{}", answer.body);
        answer.body["status"].clone()
    };
    assert_eq!(ask("create", "services").await["allowed"], true);
    let pods = ask("list", "pods").await;
    assert_eq!(pods["allowed"], false);
    assert_eq!(pods["reason"], "there is no such kind here");
    let rules = server
        .post(
            "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews",
            &json!({"spec": {"namespace": "shop"}}),
        )
        .await;
    let rules = rules.body["status"]["resourceRules"].clone();
    assert_eq!(
        rules.as_array().unwrap().len(),
        leno_config::Kind::ALL.len()
    );
    let answer = server.get("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews");
    assert_eq!(answer.await.code, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn who_looks_around_finds_the_paths() {
    let server = Server::start().await;
    for path in ["/healthz", "/livez", "/readyz"] {
        assert_eq!(server.get(path).await.code, StatusCode::OK);
    }
    let paths = server.get("/").await.body;
    for path in paths["paths"].as_array().unwrap() {
        let path = path.as_str().unwrap();
        assert_eq!(server.get(path).await.code, StatusCode::OK, "{path}");
    }
}
