//! Get, list, create, update, patch, delete, as Kubernetes clients expect them.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test may panic")]

mod common;

use common::{JSON, ROUTES, SERVICES, Server, route, service, slice, version};
use http::{Method, StatusCode};
use leno_store::{Options, Store};
use serde_json::{Value, json};

#[tokio::test]
async fn a_reference_to_nowhere_is_a_warning_that_kubectl_prints() {
    let server = Server::start().await;
    let warning = r#"299 - "spec.parentRefs[0].name: there is no service shop/\"catalog\"""#;
    let dry = format!("{ROUTES}?dryRun=All");
    for path in [dry.as_str(), ROUTES] {
        let created = server.post(path, &route("split", 5)).await;
        assert_eq!(created.code, StatusCode::CREATED);
        assert_eq!(created.warnings, [warning]);
    }
    let one = format!("{ROUTES}/split");
    let patch = json!({"metadata": {"labels": {"a": "b"}}});
    let media = "application/merge-patch+json";
    assert_eq!(server.patch(&one, media, &patch).await.warnings, [warning]);
    assert_eq!(
        server.put(&one, &route("split", 6)).await.warnings,
        [warning]
    );
    assert!(server.get(&one).await.warnings.is_empty());
    let service = server.post(SERVICES, &service("cart", 80)).await;
    assert!(service.warnings.is_empty(), "{:?}", service.warnings);
}

#[tokio::test]
async fn an_object_lives_from_create_to_delete() {
    let server = Server::start().await;
    let made = server.post(SERVICES, &service("cart", 80)).await;
    assert_eq!(made.code, StatusCode::CREATED, "{}", made.body);
    let metadata = &made.body["metadata"];
    assert_eq!(metadata["generation"], 1);
    assert_eq!(metadata["uid"].as_str().unwrap().len(), 36);
    assert!(
        metadata["creationTimestamp"]
            .as_str()
            .unwrap()
            .ends_with('Z')
    );
    assert_eq!(version(&made.body), server.store.revision().to_string());
    assert_eq!(
        made.body["spec"]["clusterIP"], "240.240.0.7",
        "the control plane gave an address"
    );
    let cart = format!("{SERVICES}/cart");
    assert_eq!(server.get(&cart).await.body, made.body);
    assert_eq!(server.get(&format!("{cart}/status")).await.body, made.body);

    let again = server.post(SERVICES, &service("cart", 80)).await;
    assert_eq!(
        (again.code, again.body["reason"].as_str()),
        (StatusCode::CONFLICT, Some("AlreadyExists"))
    );

    let mut next = made.body.clone();
    next["spec"]["ports"][0]["port"] = json!(81);
    let updated = server.put(&cart, &next).await;
    assert_eq!(updated.code, StatusCode::OK, "{}", updated.body);
    assert_eq!(updated.body["metadata"]["generation"], 2);
    for field in ["uid", "creationTimestamp"] {
        assert_eq!(
            updated.body["metadata"][field],
            made.body["metadata"][field]
        );
    }
    assert_ne!(version(&updated.body), version(&made.body));

    let stale = server.put(&cart, &next).await;
    assert_eq!(
        (stale.code, stale.body["reason"].as_str()),
        (StatusCode::CONFLICT, Some("Conflict"))
    );

    let gone = server.delete(&cart).await;
    assert_eq!(
        (gone.code, gone.body["status"].as_str()),
        (StatusCode::OK, Some("Success"))
    );
    assert_eq!(gone.body["details"]["uid"], made.body["metadata"]["uid"]);
    for answer in [
        server.get(&cart).await,
        server.delete(&cart).await,
        server.put(&cart, &service("cart", 1)).await,
    ] {
        assert_eq!(
            (answer.code, answer.body["reason"].as_str()),
            (StatusCode::NOT_FOUND, Some("NotFound"))
        );
    }
    assert_eq!(
        server.get(&cart).await.body["message"],
        "services \"cart\" not found"
    );
}

#[tokio::test]
async fn where_a_spec_was_written_is_not_said_of_another() {
    let server = Server::start().await;
    let said = json!({
        "leno.dev/source": "shop.yaml:1", "leno.dev/source-map": "spec.rules[0]=9", "team": "web",
    });
    let mut written = route("split", 5);
    written["metadata"]["annotations"] = said.clone();
    let batch = json!({"items": [written]});
    let apply = async || server.post("/leno/v1/apply", &batch).await;
    let path = format!("{ROUTES}/split");
    let annotations = async || server.get(&path).await.body["metadata"]["annotations"].clone();
    assert_eq!(apply().await.code, StatusCode::OK);
    let media = "application/merge-patch+json";
    let label = json!({"metadata": {"labels": {"a": "b"}}});
    server.patch(&path, media, &label).await;
    assert_eq!(annotations().await, said, "its spec is what the file says");

    let mut edited = server.get(&path).await.body;
    edited["spec"]["rules"][0]["backendRefs"][0]["weight"] = json!(7);
    assert_eq!(server.put(&path, &edited).await.code, StatusCode::OK);
    assert_eq!(annotations().await, json!({"team": "web"}));

    assert_eq!(apply().await.code, StatusCode::OK);
    assert_eq!(annotations().await, said, "the file is what holds again");
    let spec = json!({"spec": {"rules": edited["spec"]["rules"]}});
    server.patch(&path, media, &spec).await;
    assert_eq!(annotations().await, json!({"team": "web"}));
}

#[tokio::test]
async fn only_a_change_of_the_spec_is_a_new_generation_and_no_change_is_no_write() {
    let server = Server::start().await;
    let made = server.post(ROUTES, &route("split", 5)).await;
    assert_eq!(made.code, StatusCode::CREATED, "{}", made.body);
    assert_eq!(
        made.body["status"]["conditions"][0]["type"], "Programmed",
        "the status is computed"
    );
    let path = format!("{ROUTES}/split");
    let same = server.put(&path, &route("split", 5)).await;
    assert_eq!(version(&same.body), version(&made.body));
    let mut labelled = made.body.clone();
    labelled["metadata"]["labels"] = json!({"team": "web"});
    labelled["status"] = json!({"conditions": []});
    let labelled = server.put(&path, &labelled).await;
    assert_eq!(labelled.code, StatusCode::OK, "{}", labelled.body);
    assert_eq!(labelled.body["metadata"]["generation"], 1);
    assert_eq!(
        labelled.body["status"], made.body["status"],
        "nobody writes a status"
    );
    let status = server.put(&format!("{path}/status"), &labelled.body).await;
    assert_eq!(status.code, StatusCode::METHOD_NOT_ALLOWED);
    let changed = server.put(&path, &route("split", 6)).await;
    assert_eq!(changed.body["metadata"]["generation"], 2);
}

#[tokio::test]
async fn of_two_writers_on_one_version_exactly_one_gets_409() {
    let server = Server::start().await;
    let mut made = server.post(SERVICES, &service("cart", 80)).await.body;
    let path = format!("{SERVICES}/cart");
    for round in 0..20 {
        let mut left = made.clone();
        left["metadata"]["labels"]["round"] = json!(format!("{round}-left"));
        let mut right = made.clone();
        right["metadata"]["labels"]["round"] = json!(format!("{round}-right"));
        let (left, right) = tokio::join!(server.put(&path, &left), server.put(&path, &right));
        let mut codes = [left.code.as_u16(), right.code.as_u16()];
        codes.sort_unstable();
        assert_eq!(codes, [200, 409]);
        made = if left.code == StatusCode::OK {
            left.body
        } else {
            right.body
        };
        assert_eq!(server.get(&path).await.body, made);
    }
}

#[tokio::test]
async fn writers_that_name_no_version_all_win() {
    let server = Server::start().await;
    server.post(SERVICES, &service("cart", 80)).await;
    let path = format!("{SERVICES}/cart");
    let patch = |name: &'static str| {
        let (server, path) = (&server, &path);
        async move {
            let body = json!({"metadata": {"labels": {name: "yes"}}});
            server
                .patch(path, "application/merge-patch+json", &body)
                .await
                .code
        }
    };
    let codes = tokio::join!(patch("a"), patch("b"), patch("c"), patch("d"));
    assert_eq!(
        codes,
        (
            StatusCode::OK,
            StatusCode::OK,
            StatusCode::OK,
            StatusCode::OK
        )
    );
    let labels = server.get(&path).await.body["metadata"]["labels"].clone();
    assert_eq!(
        labels,
        json!({"app": "cart", "a": "yes", "b": "yes", "c": "yes", "d": "yes"})
    );
}

#[tokio::test]
async fn patches_of_three_kinds_change_a_service() {
    let server = Server::start().await;
    server.post(SERVICES, &service("cart", 80)).await;
    let path = format!("{SERVICES}/cart");
    // What `kubectl apply` sends for a second port.
    let strategic = json!({
        "metadata": {"annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}"}},
        "spec": {
            "$setElementOrder/ports": [{"port": 81}, {"port": 80}],
            "ports": [{"name": "admin", "port": 81, "targetPort": 8081}],
        },
    });
    let answer = server
        .patch(&path, "application/strategic-merge-patch+json", &strategic)
        .await;
    assert_eq!(answer.code, StatusCode::OK, "{}", answer.body);
    let ports = |body: &Value| {
        let ports = body["spec"]["ports"].as_array().unwrap();
        ports
            .iter()
            .map(|port| port["port"].as_u64().unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(ports(&answer.body), [81, 80]);
    assert_eq!(answer.body["metadata"]["generation"], 2);
    let json_patch = json!([
        {"op": "test", "path": "/spec/ports/1/port", "value": 80},
        {"op": "remove", "path": "/spec/ports/1"},
        {"op": "add", "path": "/metadata/labels/team", "value": "web"},
    ]);
    let answer = server
        .patch(&path, "application/json-patch+json", &json_patch)
        .await;
    assert_eq!(
        (answer.code, ports(&answer.body)),
        (StatusCode::OK, vec![81])
    );
    let answer = server
        .patch(&path, "application/json-patch+json", &json_patch)
        .await;
    assert_eq!(
        answer.code,
        StatusCode::UNPROCESSABLE_ENTITY,
        "the test does not hold any more"
    );
    let merge = json!({"metadata": {"labels": {"team": null, "app": "basket"}}});
    let answer = server
        .patch(&path, "application/merge-patch+json; charset=utf-8", &merge)
        .await;
    assert_eq!(answer.body["metadata"]["labels"], json!({"app": "basket"}));
    let before = version(&answer.body);
    let nothing = server
        .patch(&path, "application/merge-patch+json", &merge)
        .await;
    assert_eq!(version(&nothing.body), before);
    let stale = json!({"metadata": {"resourceVersion": "1", "labels": {"a": "b"}}});
    let answer = server
        .patch(&path, "application/merge-patch+json", &stale)
        .await;
    assert_eq!(answer.code, StatusCode::CONFLICT);
    let renamed = json!({"metadata": {"name": "other"}});
    let answer = server
        .patch(&path, "application/merge-patch+json", &renamed)
        .await;
    assert_eq!(answer.code, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn what_a_patch_cannot_be_says_so() {
    let server = Server::start().await;
    server.post(ROUTES, &route("split", 5)).await;
    let path = format!("{ROUTES}/split");
    for (media, says) in [
        (
            "application/strategic-merge-patch+json",
            "accepted media types include",
        ),
        (
            "application/apply-patch+yaml",
            "server-side apply is not there yet",
        ),
        ("application/json", "accepted media types include"),
    ] {
        let answer = server.patch(&path, media, &json!({})).await;
        assert_eq!(answer.code, StatusCode::UNSUPPORTED_MEDIA_TYPE);
        assert!(
            answer.body["message"].as_str().unwrap().contains(says),
            "{}",
            answer.body
        );
    }
    for (media, body) in [
        ("application/json-patch+json", json!({"op": "add"})),
        (
            "application/json-patch+json",
            json!([{"op": "grow", "path": "/a"}]),
        ),
        (
            "application/json-patch+json",
            json!([{"op": "add", "path": "a", "value": 1}]),
        ),
        ("application/merge-patch+json", json!([1])),
        ("application/merge-patch+json", json!("text")),
    ] {
        let answer = server.patch(&path, media, &body).await;
        assert_eq!(answer.code, StatusCode::BAD_REQUEST, "{body}");
    }
    let answer = server
        .patch(
            &path,
            "application/merge-patch+json",
            &json!({"spec": {"rulez": []}}),
        )
        .await;
    assert_eq!(answer.code, StatusCode::BAD_REQUEST);
    assert_eq!(answer.body["details"]["causes"][0]["field"], "spec.rulez");
    assert_eq!(answer.body["details"]["causes"][0]["suggestion"], "rules");
}

#[tokio::test]
async fn lists_select_by_namespace_label_and_field() {
    let server = Server::start().await;
    for name in ["a", "b", "c"] {
        server.post(SERVICES, &service(name, 80)).await;
    }
    let mut other = service("a", 80);
    other["metadata"]["namespace"] = json!("pay");
    server.post("/api/v1/namespaces/pay/services", &other).await;
    let names = async |path: &str| {
        let answer = server.get(path).await;
        assert_eq!(answer.code, StatusCode::OK, "{path}: {}", answer.body);
        assert_eq!(answer.body["kind"], "ServiceList");
        let items = answer.body["items"].as_array().unwrap().clone();
        let name = |item: &Value| {
            let text = |field: &str| item["metadata"][field].as_str().unwrap().to_owned();
            format!("{}/{}", text("namespace"), text("name"))
        };
        items.iter().map(name).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(
        names("/api/v1/services").await,
        "pay/a shop/a shop/b shop/c"
    );
    assert_eq!(names(SERVICES).await, "shop/a shop/b shop/c");
    let select = async |query: &str| names(&format!("/api/v1/services?{query}")).await;
    assert_eq!(select("labelSelector=app%3Da").await, "pay/a shop/a");
    assert_eq!(
        select("labelSelector=app%20in%20(a,c),app!%3Dc").await,
        "pay/a shop/a"
    );
    assert_eq!(select("labelSelector=app%20notin%20(a,c)").await, "shop/b");
    assert_eq!(select("labelSelector=!app").await, "");
    assert_eq!(
        select("fieldSelector=metadata.name%3Da,metadata.namespace!%3Dpay").await,
        "shop/a"
    );
    for wrong in [
        "fieldSelector=spec.type%3Dx",
        "labelSelector=a%20among%20b",
        "limit=x",
        "watch=maybe",
        "resourceVersion=-1",
    ] {
        let answer = server.get(&format!("/api/v1/services?{wrong}")).await;
        assert_eq!(answer.code, StatusCode::BAD_REQUEST, "{wrong}");
    }
}

#[tokio::test]
async fn the_pages_of_a_list_are_of_one_moment() {
    let options = Options {
        max_changes: 8,
        ..Options::default()
    };
    let server = Server::with(options, leno_api::Limits::default()).await;
    for name in ["a", "b", "c", "d"] {
        server.post(SERVICES, &service(name, 80)).await;
    }
    let first = server.get(&format!("{SERVICES}?limit=2")).await.body;
    assert_eq!(first["items"].as_array().unwrap().len(), 2);
    assert_eq!(first["metadata"]["remainingItemCount"], 2);
    let next = first["metadata"]["continue"].as_str().unwrap().to_owned();
    server.delete(&format!("{SERVICES}/c")).await;
    server.post(SERVICES, &service("cc", 80)).await;
    server
        .put(&format!("{SERVICES}/d"), &service("d", 99))
        .await;
    let second = server
        .get(&format!("{SERVICES}?limit=2&continue={next}"))
        .await
        .body;
    let names: Vec<_> = second["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["metadata"]["name"].clone())
        .collect();
    assert_eq!(names, ["c", "d"]);
    assert_eq!(
        second["items"][1]["spec"]["ports"][0]["port"], 80,
        "as it was then"
    );
    assert_eq!(version(&second), version(&first));
    assert!(second["metadata"].get("continue").is_none());
    let exact = format!(
        "{SERVICES}?resourceVersion={}&resourceVersionMatch=Exact",
        version(&first)
    );
    assert_eq!(
        server.get(&exact).await.body["items"]
            .as_array()
            .unwrap()
            .len(),
        4
    );
    for n in 0..9 {
        server
            .put(&format!("{SERVICES}/d"), &service("d", 100 + n))
            .await;
    }
    for path in [format!("{SERVICES}?limit=2&continue={next}"), exact] {
        let late = server.get(&path).await;
        assert_eq!(
            (late.code, late.body["reason"].as_str()),
            (StatusCode::GONE, Some("Expired"))
        );
    }
    let future = server
        .get(&format!("{SERVICES}?resourceVersion=99999"))
        .await;
    assert_eq!(future.code, StatusCode::GATEWAY_TIMEOUT);
}

#[tokio::test]
async fn a_dry_run_answers_as_if_and_changes_nothing() {
    let server = Server::start().await;
    server.post(SERVICES, &service("cart", 80)).await;
    let revision = server.store.revision();
    let cart = format!("{SERVICES}/cart?dryRun=All");
    let answers = [
        server
            .post(
                &format!("{SERVICES}?dryRun=All&fieldValidation=Strict"),
                &service("new", 80),
            )
            .await,
        server.put(&cart, &service("cart", 81)).await,
        server
            .patch(
                &cart,
                "application/merge-patch+json",
                &json!({"metadata": {"labels": {"a": "b"}}}),
            )
            .await,
        server.delete(&cart).await,
        server
            .call(
                Method::DELETE,
                &format!("{SERVICES}/cart"),
                &JSON,
                r#"{"dryRun":["All"]}"#,
            )
            .await,
    ];
    let codes: Vec<_> = answers.iter().map(|answer| answer.code.as_u16()).collect();
    assert_eq!(codes, [201, 200, 200, 200, 200]);
    assert_eq!(answers[1].body["metadata"]["generation"], 2);
    assert_eq!(
        server
            .post(&format!("{SERVICES}?dryRun=All"), &service("cart", 80))
            .await
            .code,
        StatusCode::CONFLICT
    );
    assert_eq!(server.store.revision(), revision);
}

#[tokio::test]
async fn deletion_has_preconditions() {
    let server = Server::start().await;
    server.post(SERVICES, &service("cart", 80)).await;
    let path = format!("{SERVICES}/cart");
    for wrong in [
        r#"{"preconditions":{"uid":"other"}}"#,
        r#"{"preconditions":{"resourceVersion":"99"}}"#,
    ] {
        assert_eq!(
            server.call(Method::DELETE, &path, &JSON, wrong).await.code,
            StatusCode::CONFLICT
        );
    }
    for (query, options) in [
        ("", r#"{"kind":"Service"}"#),
        ("", r#"{"propagationPolicy":"Perhaps"}"#),
        ("?propagationPolicy=Perhaps", ""),
    ] {
        let path = format!("{path}{query}");
        assert_eq!(
            server
                .call(Method::DELETE, &path, &JSON, options)
                .await
                .code,
            StatusCode::BAD_REQUEST,
            "{query} {options}"
        );
    }
    let right = r#"{"kind":"DeleteOptions","apiVersion":"v1","propagationPolicy":"Background","preconditions":{"resourceVersion":"2"}}"#;
    assert_eq!(
        server.call(Method::DELETE, &path, &JSON, right).await.code,
        StatusCode::OK
    );
}

#[tokio::test]
async fn tables_have_columns_and_rows() {
    let server = Server::start().await;
    server.post(SERVICES, &service("cart", 80)).await;
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
    let table = server
        .call(Method::GET, SERVICES, &[("accept", accept)], "")
        .await
        .body;
    assert_eq!(
        (table["kind"].as_str(), table["apiVersion"].as_str()),
        (Some("Table"), Some("meta.k8s.io/v1"))
    );
    let columns: Vec<_> = table["columnDefinitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        columns,
        [
            "Name",
            "Type",
            "Cluster-IP",
            "External-IP",
            "Port(s)",
            "Age",
            "Selector",
            "Hostnames"
        ]
    );
    let cells = table["rows"][0]["cells"].as_array().unwrap();
    assert_eq!(
        cells[..5],
        ["cart", "ClusterIP", "240.240.0.7", "<none>", "80/TCP"]
    );
    assert!(cells[5].as_str().unwrap().ends_with('s'));
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let one = format!("{SERVICES}/cart?includeObject=Object");
    let one = server
        .call(Method::GET, &one, &[("accept", accept)], "")
        .await
        .body;
    assert_eq!(one["rows"][0]["object"]["kind"], "Service");
    let metadata = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    let list = server
        .call(Method::GET, SERVICES, &[("accept", metadata)], "")
        .await
        .body;
    assert_eq!(list["kind"], "PartialObjectMetadataList");
    assert!(list["items"][0].get("spec").is_none());
}

#[tokio::test]
async fn derived_kinds_are_read_only() {
    let server = Server::start().await;
    let path = "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices";
    server.plane.set_slices(vec![
        slice("cart-1", "10.0.0.1"),
        slice("cart-2", "10.0.0.2"),
    ]);
    let list = server.get(path).await.body;
    assert_eq!(list["items"].as_array().unwrap().len(), 2);
    let one = server.get(&format!("{path}/cart-2")).await;
    assert_eq!(one.body["endpoints"][0]["addresses"][0], "10.0.0.2");
    assert_eq!(
        server.get(&format!("{path}/cart-3")).await.code,
        StatusCode::NOT_FOUND
    );
    assert_eq!(
        server.post(path, &slice("cart-3", "10.0.0.3")).await.code,
        StatusCode::METHOD_NOT_ALLOWED
    );
    assert_eq!(
        server.delete(&format!("{path}/cart-2")).await.code,
        StatusCode::METHOD_NOT_ALLOWED
    );
    let before = version(&server.get(path).await.body);
    server.plane.set_slices(vec![
        slice("cart-1", "10.0.0.1"),
        slice("cart-2", "10.0.0.9"),
    ]);
    let after = server.get(path).await.body;
    assert_ne!(version(&after), before);
    assert_eq!(
        after["items"][0]["metadata"]["resourceVersion"],
        list["items"][0]["metadata"]["resourceVersion"]
    );
}

#[tokio::test]
async fn discovery_lists_what_there_is() {
    let server = Server::start().await;
    assert_eq!(server.get("/version").await.body["major"], "1");
    assert_eq!(
        server.get("/meshes/default/version").await.body["minor"],
        "33"
    );
    assert_eq!(server.get("/api").await.body["versions"], json!(["v1"]));
    let groups = server.get("/apis").await.body;
    let names: Vec<_> = groups["groups"]
        .as_array()
        .unwrap()
        .iter()
        .map(|group| group["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        ["discovery.k8s.io", "gateway.networking.k8s.io", "leno.dev"]
    );
    assert_eq!(
        server.get("/apis/leno.dev").await.body["preferredVersion"]["version"],
        "v1alpha1"
    );
    let core = server.get("/api/v1").await.body;
    assert_eq!(core["resources"][0]["name"], "services");
    assert_eq!(core["resources"][0]["shortNames"], json!(["svc"]));
    let derived = server.get("/apis/discovery.k8s.io/v1").await.body;
    assert_eq!(
        derived["resources"][0]["verbs"],
        json!(["get", "list", "watch"])
    );
    let accept =
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    for (path, count) in [("/api", 1), ("/apis", 3)] {
        let answer = server
            .call(Method::GET, path, &[("accept", accept)], "")
            .await;
        assert_eq!(
            answer.media,
            "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
        );
        assert_eq!(answer.body["items"].as_array().unwrap().len(), count);
    }
    for path in [
        "/openapi/v4",
        "/openapi/v3/apis/apps/v1",
        "/apis/apps/v1",
        "/api/v1/pods",
        "/api/v2",
    ] {
        assert_eq!(server.get(path).await.code, StatusCode::NOT_FOUND, "{path}");
    }
}
