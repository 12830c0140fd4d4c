//! What is refused, and that every refusal is a `Status` that says why.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test may panic")]

mod common;

use std::{sync::atomic::Ordering, time::Duration};

use common::{JSON, ROUTES, SERVICES, Server, route, service};
use http::{Method, StatusCode};
use leno_api::Limits;
use leno_store::{Options, Store};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn who_may_not_is_told_so() {
    let server = Server::start().await;
    server.post(SERVICES, &service("cart", 80)).await;
    let as_caller = async |name: &str, method: Method, path: &str| {
        let headers = [
            ("x-test-caller", name),
            ("content-type", "application/json"),
        ];
        server
            .call(method, path, &headers, service("new", 80).to_string())
            .await
    };
    for path in [SERVICES, "/version", "/nothing", "/leno/v1/apply"] {
        let answer = as_caller("nobody", Method::GET, path).await;
        assert_eq!(
            (answer.code, answer.body["reason"].as_str()),
            (StatusCode::UNAUTHORIZED, Some("Unauthorized"))
        );
    }
    assert_eq!(
        as_caller("viewer", Method::GET, SERVICES).await.code,
        StatusCode::OK
    );
    let cart = format!("{SERVICES}/cart");
    for (method, path) in [
        (Method::POST, SERVICES),
        (Method::PUT, &cart),
        (Method::PATCH, &cart),
        (Method::DELETE, &cart),
        (Method::POST, "/leno/v1/apply"),
        (Method::GET, "/meshes/other/api/v1/services"),
        (Method::GET, "/meshes/nowhere/api"),
    ] {
        let answer = as_caller("viewer", method, path).await;
        assert_eq!(answer.code, StatusCode::FORBIDDEN, "{path}");
        assert!(
            answer.body["message"]
                .as_str()
                .unwrap()
                .contains("victor may not"),
            "{}",
            answer.body
        );
    }
    assert_eq!(server.store.revision(), 2);
    assert_eq!(
        server.get("/meshes/nowhere/api").await.body["message"],
        "mesh \"nowhere\" not found"
    );
}

#[tokio::test]
async fn meshes_do_not_see_each_other() {
    let server = Server::start().await;
    server.post(SERVICES, &service("cart", 80)).await;
    let other = "/meshes/other/api/v1/namespaces/shop/services";
    assert_eq!(
        server.get(&format!("{other}/cart")).await.code,
        StatusCode::NOT_FOUND
    );
    assert_eq!(server.get(other).await.body["items"], json!([]));
    assert_eq!(
        server.delete(&format!("{other}/cart")).await.code,
        StatusCode::NOT_FOUND
    );
    assert_eq!(
        server.post(other, &service("cart", 99)).await.code,
        StatusCode::CREATED
    );
    assert_eq!(
        server.get(&format!("{SERVICES}/cart")).await.body["spec"]["ports"][0]["port"],
        80
    );
}

#[tokio::test]
async fn a_wrong_object_names_every_field() {
    let server = Server::start().await;
    let mut wrong = route("split", 5);
    wrong["spec"]["rules"][0]["backendRef"] = json!([]);
    wrong["spec"]["rules"][0]["backendRefs"][0]["port"] = json!(70_000);
    let answer = server
        .post(&format!("{ROUTES}?fieldValidation=Strict"), &wrong)
        .await;
    assert_eq!(
        (answer.code, answer.body["reason"].as_str()),
        (StatusCode::UNPROCESSABLE_ENTITY, Some("Invalid"))
    );
    let causes = answer.body["details"]["causes"].as_array().unwrap();
    let fields: Vec<_> = causes
        .iter()
        .map(|cause| cause["field"].as_str().unwrap())
        .collect();
    assert!(fields.contains(&"spec.rules[0].backendRef"), "{fields:?}");
    assert!(
        fields.contains(&"spec.rules[0].backendRefs[0].port"),
        "{fields:?}"
    );
    assert_eq!(answer.body["details"]["kind"], "HTTPRoute");
}

#[tokio::test]
async fn a_body_that_does_not_fit_its_path_is_refused() {
    let server = Server::start().await;
    let mut elsewhere = service("cart", 80);
    elsewhere["metadata"]["namespace"] = json!("pay");
    let mut versioned = service("cart", 80);
    versioned["metadata"]["resourceVersion"] = json!("7");
    for body in [
        route("cart", 1),
        elsewhere,
        versioned,
        json!([]),
        json!("text"),
        json!(null),
    ] {
        assert_eq!(
            server.post(SERVICES, &body).await.code,
            StatusCode::BAD_REQUEST,
            "{body}"
        );
    }
    server.post(SERVICES, &service("cart", 80)).await;
    let path = format!("{SERVICES}/cart");
    assert_eq!(
        server.put(&path, &service("other", 80)).await.code,
        StatusCode::BAD_REQUEST
    );
    let mut other = service("cart", 80);
    other["metadata"]["uid"] = json!("11111111-1111-4111-8111-111111111111");
    assert_eq!(server.put(&path, &other).await.code, StatusCode::CONFLICT);
    // A condition that is no text would not be read, and so always hold.
    let apply = async |item: &Value| {
        server
            .post("/leno/v1/apply", &json!({"items": [item]}))
            .await
    };
    assert_eq!(apply(&other).await.code, StatusCode::CONFLICT);
    for field in ["name", "uid", "resourceVersion"] {
        let mut odd = service("cart", 81);
        odd["metadata"][field] = json!(7);
        let answer = server.put(&path, &odd).await;
        assert_eq!(answer.code, StatusCode::BAD_REQUEST, "{field}");
        let answer = apply(&odd).await;
        let text = answer.body.to_string();
        let told = text.contains(&format!("metadata.{field}")) && text.contains("in quotes");
        assert_eq!(answer.code, StatusCode::UNPROCESSABLE_ENTITY, "{text}");
        assert!(told, "{text}");
        for odd in [json!({ field: 7 }), json!([field]), json!({"uuid": "x"})] {
            let options = json!({"preconditions": odd}).to_string();
            let answer = server.call(Method::DELETE, &path, &JSON, options).await;
            assert_eq!(answer.code, StatusCode::BAD_REQUEST, "{odd}");
        }
    }
    let list = server.call(Method::DELETE, &path, &JSON, "[7]").await;
    assert_eq!(list.code, StatusCode::BAD_REQUEST);
    for path in ["/api/v1/services", SERVICES] {
        let method = if path == SERVICES {
            Method::PUT
        } else {
            Method::POST
        };
        let answer = server
            .call(method, path, &JSON, service("x", 80).to_string())
            .await;
        assert_eq!(answer.code, StatusCode::METHOD_NOT_ALLOWED);
    }
    assert_eq!(
        server.call(Method::OPTIONS, SERVICES, &[], "").await.code,
        StatusCode::METHOD_NOT_ALLOWED
    );
}

#[tokio::test]
async fn forms_that_are_not_spoken_are_named() {
    let server = Server::start().await;
    for media in [
        "application/vnd.kubernetes.protobuf",
        "application/yaml",
        "text/plain",
    ] {
        let answer = server
            .call(Method::POST, SERVICES, &[("content-type", media)], "x")
            .await;
        assert_eq!(answer.code, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }
    let accept = async |value: &str| {
        server
            .call(Method::GET, SERVICES, &[("accept", value)], "")
            .await
            .code
    };
    assert_eq!(
        accept("application/vnd.kubernetes.protobuf").await,
        StatusCode::NOT_ACCEPTABLE
    );
    assert_eq!(
        accept("application/vnd.kubernetes.protobuf,application/json").await,
        StatusCode::OK
    );
    assert_eq!(accept("*/*").await, StatusCode::OK);
    let twice = r#"{"metadata":{"name":"a","labels":{"x":"1","x":"2"}},"spec":{}}"#;
    let answer = server.call(Method::POST, SERVICES, &JSON, twice).await;
    assert_eq!(answer.code, StatusCode::BAD_REQUEST);
    assert!(
        answer.body["message"]
            .as_str()
            .unwrap()
            .contains("duplicate field \"metadata.labels.x\"")
    );
}

#[tokio::test]
async fn a_body_has_a_size_and_a_time() {
    let limits = Limits {
        body_time: Duration::from_millis(50),
        ..Limits::default()
    };
    let server = Server::with(Options::default(), limits).await;
    let mut large = service("cart", 80);
    large["metadata"]["annotations"] = json!({"text": "x".repeat(2 << 20)});
    let answer = server.post(SERVICES, &large).await;
    assert_eq!(
        (answer.code, answer.body["reason"].as_str()),
        (StatusCode::PAYLOAD_TOO_LARGE, Some("RequestEntityTooLarge"))
    );
    assert!(answer.body["message"].as_str().unwrap().contains("1572864"));
    let mut slow = tokio::net::TcpStream::connect(server.address)
        .await
        .unwrap();
    let head = format!(
        "POST /meshes/default{SERVICES} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{{"
    );
    slow.write_all(head.as_bytes()).await.unwrap();
    let mut answer = vec![0; 12];
    slow.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, b"HTTP/1.1 408");
    assert_eq!(server.counters.bodies_exceeded.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_patch_that_multiplies_a_text_is_refused_before_it_does() {
    let server = Server::start().await;
    server.post(SERVICES, &service("cart", 80)).await;
    let mut operations = vec![
        json!({"op": "add", "path": "/x", "value": "x".repeat(1 << 20)}),
        json!({"op": "add", "path": "/y", "value": []}),
    ];
    let copy = json!({"op": "copy", "from": "/x", "path": "/y/-"});
    operations.extend(std::iter::repeat_n(copy, 9_000));
    let path = format!("{SERVICES}/cart");
    let media = "application/json-patch+json";
    let refused = server.patch(&path, media, &operations.into()).await;
    assert_eq!(refused.code, StatusCode::BAD_REQUEST);
    assert_eq!(
        refused.body["message"],
        "operation 9: the patch copies or moves too much"
    );
}

#[tokio::test]
async fn bodies_that_are_read_at_once_have_a_size_together() {
    let limits = Limits {
        bodies: leno_api::Share {
            all: 200 << 10,
            mesh: 200 << 10,
            caller: 100 << 10,
        },
        ..Limits::default()
    };
    let server = Server::with(Options::default(), limits).await;
    let head = format!(
        "POST /meshes/default{SERVICES} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 90000\r\n\r\n{{"
    );
    let begin = async || {
        let stream = tokio::net::TcpStream::connect(server.address);
        let mut stream = stream.await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        stream
    };
    // What is announced takes nobody's room; what has come does.
    let large = json!({"text": "x".repeat(50_000)});
    let _announced = [begin().await, begin().await];
    let taken = server.post(SERVICES, &large).await;
    assert_eq!(taken.code, StatusCode::UNPROCESSABLE_ENTITY);
    // Of two that come at once either is refused: until it is not the one that stays.
    let (first, refused) = loop {
        let mut first = begin().await;
        first.write_all(&[b'x'; 80_000]).await.unwrap();
        let answer = server.post(SERVICES, &large).await;
        if answer.code == StatusCode::TOO_MANY_REQUESTS {
            break (first, answer);
        }
        assert_eq!(answer.code, StatusCode::UNPROCESSABLE_ENTITY);
    };
    assert_eq!(refused.body["details"]["retryAfterSeconds"], 1);
    assert_eq!(
        server.post(SERVICES, &service("cart", 80)).await.code,
        StatusCode::CREATED
    );
    assert!(server.counters.requests_exceeded.load(Ordering::Relaxed) > 0);
    drop(first);
}

#[tokio::test]
async fn answers_that_nobody_takes_use_up_their_callers_share() {
    let limits = Limits {
        answers: leno_api::Share {
            all: 80 << 20,
            mesh: 80 << 20,
            caller: 30 << 20,
        },
        ..Limits::default()
    };
    let server = Server::with(Options::default(), limits).await;
    let mut large = service("cart", 80);
    large["metadata"]["annotations"] = json!({"text": "x".repeat(250_000)});
    for index in 0..52 {
        large["metadata"]["name"] = format!("s{index}").into();
        assert_eq!(
            server.post(SERVICES, &large).await.code,
            StatusCode::CREATED
        );
    }
    // A list of 13 MB is more than the sockets of both ends take.
    let mut unread = Vec::new();
    loop {
        let answer = server.send(Method::GET, SERVICES, &[], "").await;
        if answer.status() == StatusCode::TOO_MANY_REQUESTS {
            break;
        }
        assert_eq!(answer.status(), StatusCode::OK);
        unread.push(answer);
        assert!(unread.len() < 8, "nothing is ever refused");
    }
    assert_eq!(unread.len(), 2);
    let other = [("x-test-caller", "carol")];
    let answer = server.call(Method::GET, SERVICES, &other, "").await;
    assert_eq!(answer.code, StatusCode::OK, "another caller is answered");
    drop(unread);
}

#[tokio::test]
async fn a_full_store_refuses_writes_and_reads_on() {
    let options = Options {
        max_file_bytes: 300 << 10,
        ..Options::default()
    };
    let server = Server::with(options, Limits::default()).await;
    server.post(SERVICES, &service("first", 80)).await;
    let mut made = Vec::new();
    let refused = loop {
        let mut large = service(&format!("s{}", made.len()), 80);
        large["metadata"]["annotations"] = json!({"text": "x".repeat(50 << 10)});
        let answer = server.post(SERVICES, &large).await;
        if answer.code != StatusCode::CREATED {
            break answer;
        }
        made.push(answer);
        assert!(made.len() < 20);
    };
    assert_eq!(
        (refused.code, refused.body["reason"].as_str()),
        (StatusCode::INSUFFICIENT_STORAGE, Some("StoreFull"))
    );
    assert!(
        refused.body["message"]
            .as_str()
            .unwrap()
            .starts_with("store full")
    );
    assert_eq!(
        server.get(&format!("{SERVICES}/first")).await.code,
        StatusCode::OK
    );
}

/// Values to build nonsense from: every shape at every place.
fn nonsense(random: &mut fastrand::Rng, depth: u8) -> Value {
    match random.u8(0..if depth == 0 { 6 } else { 9 }) {
        0 => Value::Null,
        1 => json!(random.bool()),
        2 => json!(random.i64(..)),
        3 => json!(random.f64()),
        4 => json!("x".repeat(random.usize(0..80))),
        5 => json!(["a", "default", "$patch", "é\u{0}\u{ffff}", "-", "0", "/"][random.usize(0..7)]),
        6 => (0..random.usize(0..4))
            .map(|_| nonsense(random, depth - 1))
            .collect(),
        _ => {
            const NAMES: [&str; 22] = [
                "metadata",
                "name",
                "namespace",
                "labels",
                "annotations",
                "spec",
                "ports",
                "port",
                "$patch",
                "rules",
                "$setElementOrder/ports",
                "$deleteFromPrimitiveList/finalizers",
                "$retainKeys",
                "op",
                "path",
                "value",
                "from",
                "items",
                "kind",
                "apiVersion",
                "resourceVersion",
                "preconditions",
            ];
            let object = (0..random.usize(0..5)).map(|_| {
                (
                    NAMES[random.usize(0..NAMES.len())].to_owned(),
                    nonsense(random, depth - 1),
                )
            });
            Value::Object(object.collect())
        }
    }
}

#[tokio::test]
async fn nonsense_never_gets_anything_but_a_status() {
    let server = Server::start().await;
    server.post(SERVICES, &service("cart", 80)).await;
    server.post(ROUTES, &route("split", 5)).await;
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let (cart, split) = (format!("{SERVICES}/cart"), format!("{ROUTES}/split"));
    let targets = [
        (Method::POST, SERVICES, "application/json"),
        (Method::POST, ROUTES, "application/json"),
        (Method::POST, "/leno/v1/apply", "application/json"),
        (Method::PUT, &cart, "application/json"),
        (Method::PATCH, &cart, "application/json-patch+json"),
        (Method::PATCH, &cart, "application/merge-patch+json"),
        (
            Method::PATCH,
            &cart,
            "application/strategic-merge-patch+json",
        ),
        (Method::PATCH, &split, "application/json-patch+json"),
        (Method::PATCH, &split, "application/merge-patch+json"),
    ];
    let mut refused = 0;
    for _ in 0..1_500 {
        let (method, path, media) = &targets[random.usize(0..targets.len())];
        let mut body = if random.u8(0..4) == 0 {
            // A right object with one wrong part.
            let mut object = if path.contains("httproutes") {
                route("split", 5)
            } else {
                service("cart", 80)
            };
            let part = ["metadata", "spec", "kind"][random.usize(0..3)];
            object[part] = nonsense(&mut random, 4);
            object.to_string().into_bytes()
        } else if random.u8(0..3) == 0 {
            let all = ["add", "remove", "move", "copy", "test", "replace"];
            let name = all[random.usize(0..all.len())];
            let value = nonsense(&mut random, 3);
            let operation =
                json!([{"op": name, "path": "/spec/ports/0", "from": "/spec", "value": value}]);
            operation.to_string().into_bytes()
        } else {
            nonsense(&mut random, 5).to_string().into_bytes()
        };
        if random.u8(0..8) == 0 {
            body = (0..random.usize(0..200)).map(|_| random.u8(..)).collect();
        }
        // `call` holds every error to the form of a Status; a panic would cut the connection.
        let answer = server
            .call(method.clone(), path, &[("content-type", media)], body)
            .await;
        assert!(!answer.code.is_server_error(), "{}", answer.body);
        refused += u32::from(answer.code.is_client_error());
    }
    assert!(refused > 500, "most of it was nonsense: {refused}");
    let deep = "[".repeat(100_000);
    assert_eq!(
        server.call(Method::POST, SERVICES, &JSON, deep).await.code,
        StatusCode::BAD_REQUEST
    );
}

#[tokio::test]
async fn odd_paths_and_queries_are_answered() {
    let server = Server::start().await;
    let random: Vec<String> = (0..200)
        .map(|_| {
            (0..fastrand::usize(1..40))
                .map(|_| char::from(*fastrand::choice(b"/?&=%._-!,()abz019").unwrap()))
                .collect()
        })
        .collect();
    for path in random
        .iter()
        .map(|path| format!("/meshes/default/{path}"))
        .chain([
            "/meshes/DEFAULT/api".into(),
            "/meshes//api".into(),
            format!("{SERVICES}?continue=___&limit=1"),
            format!("{SERVICES}?continue=18446744073709551615_a_b"),
            format!("{SERVICES}?labelSelector=((((("),
            format!("{SERVICES}?labelSelector={}", "a,".repeat(500)),
            format!("{SERVICES}?resourceVersion=18446744073709551615&resourceVersionMatch=Exact"),
            format!("{SERVICES}/..%2f..%2fetc"),
        ])
    {
        if let Ok(uri) = path.parse::<http::Uri>()
            && uri.path().starts_with('/')
        {
            let answer = server.get(&path).await;
            assert!(
                answer.code.is_client_error() || answer.code == StatusCode::OK,
                "{path}: {}",
                answer.code
            );
        }
    }
}
