//! Requests of programs, through both proxies.

use std::rc::Rc;

use leno_ir::{Backend, PathMatch, Provenance, Route, RouteMatch};
use leno_telemetry::{Protocol, Reporter};
use leno_types::AppProtocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    apps::{ask, call, get, grpc, h2c, http1, ok},
    host::{Host, World},
    run,
};

#[test]
fn an_http1_request_crosses_the_mesh_unchanged_and_both_ends_record_it_alike() {
    run(async {
        let world = World::new();
        let (one, two) = (Host::start(&world), Host::start(&world));
        let (port, log) = http1(two.ip, |_| {
            "HTTP/1.1 201 Made\r\nX-CaSe: Kept\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nX-Leno-Secret: no\r\n\
             Content-Length: 5\r\n\r\nhello"
                .into()
        });
        let web = one.workload("web", &[]).await;
        let cart = two
            .workload("cart", &[(80, port, Some(AppProtocol::Http))])
            .await;
        let vip = world.service(
            "shop/cart",
            80,
            Some(AppProtocol::Http),
            vec![cart.endpoint],
        );
        let mut stream = one.capture(&web).connect(vip).await;
        let request = "POST /a?b=c HTTP/1.1\r\nHost: Cart\r\nX-MiXed: 1\r\nx-leno-to: 1 127.0.0.1:1 - a\r\n\
                       X-Forwarded-Client-Cert: URI=spiffe://test.leno/ns/shop/sa/admin\r\n\
                       X-MiXed: 2\r\nContent-Length: 3\r\n\r\nabc";
        let answer = ask(&mut stream, request).await;
        assert_eq!((answer.status(), answer.text().as_str()), (201, "hello"));
        assert!(
            answer.head.contains("\r\nX-CaSe: Kept\r\n"),
            "{}",
            answer.head
        );
        assert!(answer.head.contains("Set-Cookie: a\r\nSet-Cookie: b\r\n"));
        assert!(!answer.head.to_ascii_lowercase().contains("x-leno-"));

        let head = log.borrow()[0].clone();
        assert!(head.starts_with("POST /a?b=c HTTP/1.1\r\n"), "{head}");
        assert!(
            head.contains("Host: Cart\r\n") || head.contains("host: Cart\r\n"),
            "{head}"
        );
        assert!(
            head.contains("X-MiXed: 1\r\n") && head.contains("X-MiXed: 2\r\n"),
            "{head}"
        );
        let lower = head.to_ascii_lowercase();
        assert!(
            !lower.contains("x-leno-") && !lower.contains("client-cert"),
            "{head}"
        );
        assert!(head.contains("traceparent: 00-"), "{head}");

        for (host, reporter) in [(&one, Reporter::Source), (&two, Reporter::Destination)] {
            host.seen
                .until("the request", |seen| {
                    seen.totals.borrow().edges().next().is_some()
                })
                .await;
            let totals = host.seen.totals.borrow();
            let (edge, _) = totals.edges().next().unwrap();
            assert_eq!(edge.reporter, reporter);
            assert_eq!(
                (&*edge.source_workload, &*edge.destination_workload),
                ("web-1", "cart-1")
            );
            assert_eq!(&*edge.destination_service, "cart.shop.svc.cluster.local");
            assert_eq!(edge.source_identity, Some(world.identity("web")));
            assert_eq!(edge.destination_identity, Some(world.identity("cart")));
            assert_eq!((edge.protocol, edge.mtls), (Protocol::Http1, true));
            let (key, requests) = totals.requests(edge).next().unwrap();
            assert_eq!(
                (key.code, key.refusal, requests.count),
                (Some(201), None, 1)
            );
        }
    });
}

#[test]
fn requests_of_one_connection_are_served_one_after_the_other_and_large_bodies_arrive_whole() {
    run(async {
        let world = World::new();
        let (one, two) = (Host::start(&world), Host::start(&world));
        let (port, log) = http1(two.ip, |message| ok(&message.body.len().to_string()));
        let web = one.workload("web", &[]).await;
        let cart = two.workload("cart", &[(80, port, None)]).await;
        let vip = world.service("shop/cart", 80, None, vec![cart.endpoint]);
        let mut stream = one.capture(&web).connect(vip).await;
        for size in [0_usize, 10, 1_000_000] {
            let head = format!("POST / HTTP/1.1\r\nHost: cart\r\nContent-Length: {size}\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            stream.write_all(&vec![b'x'; size]).await.unwrap();
            let answer = crate::apps::read_message(&mut stream).await.unwrap();
            assert_eq!((answer.status(), answer.text()), (200, size.to_string()));
        }
        assert_eq!(log.borrow().len(), 3);
    });
}

#[test]
fn grpc_keeps_its_messages_and_trailers() {
    run(async {
        let world = World::new();
        let (one, two) = (Host::start(&world), Host::start(&world));
        let (port, log) = grpc(two.ip);
        let web = one.workload("web", &[]).await;
        let cart = two
            .workload("cart", &[(80, port, Some(AppProtocol::Grpc))])
            .await;
        let vip = world.service(
            "shop/cart",
            80,
            Some(AppProtocol::Grpc),
            vec![cart.endpoint],
        );
        let stream = one.capture(&web).connect(vip).await;
        let mut send = h2c(stream).await;
        for _ in 0..3 {
            let called = call(&mut send, b"payload").await;
            assert_eq!(
                (called.status, called.body.as_slice()),
                (200, &b"payload"[..])
            );
            assert_eq!(
                called.trailers.get("grpc-status").map(String::as_str),
                Some("0")
            );
            assert_eq!(
                called.trailers.get("grpc-message").map(String::as_str),
                Some("fine")
            );
        }
        assert_eq!(log.borrow().len(), 3);
        two.seen
            .until("gRPC", |seen| {
                let totals = seen.totals.borrow();
                totals
                    .edges()
                    .any(|(edge, _)| edge.protocol == Protocol::Grpc)
            })
            .await;
    });
}

#[test]
fn a_websocket_is_upgraded_and_counted_when_it_begins() {
    run(async {
        let world = World::new();
        let (one, two) = (Host::start(&world), Host::start(&world));
        let (port, _) = http1(two.ip, |_| {
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
                .into()
        });
        let web = one.workload("web", &[]).await;
        let feed = two
            .workload("feed", &[(80, port, Some(AppProtocol::Http))])
            .await;
        let vip = world.service(
            "shop/feed",
            80,
            Some(AppProtocol::Http),
            vec![feed.endpoint],
        );
        let mut stream = one.capture(&web).connect(vip).await;
        let request = "GET /ws HTTP/1.1\r\nHost: feed\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                       Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        let answer = ask(&mut stream, request).await;
        assert_eq!(answer.status(), 101, "{}", answer.head);
        let accept = answer.head.to_ascii_lowercase();
        assert!(
            accept.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="),
            "{accept}"
        );
        for text in [&b"one"[..], b"two"] {
            stream.write_all(text).await.unwrap();
            let mut back = vec![0; text.len()];
            stream.read_exact(&mut back).await.unwrap();
            assert_eq!(back, text);
        }
        one.seen
            .until("the upgrade", |seen| {
                let totals = seen.totals.borrow();
                totals
                    .edges()
                    .any(|(edge, _)| edge.protocol == Protocol::WebSocket)
            })
            .await;
    });
}

#[test]
fn routes_choose_the_backend_and_one_without_a_match_refuses_with_a_reason() {
    run(async {
        let world = World::new();
        let (one, two) = (Host::start(&world), Host::start(&world));
        let web = one.workload("web", &[]).await;
        let mut vip = None;
        for version in ["v1", "v2"] {
            let (port, _) = http1(two.ip, move |_| ok(version));
            let name = format!("cart-{version}");
            let workload = two.workload(&name, &[(80, port, None)]).await;
            world.service(
                &format!("shop/{name}"),
                80,
                None,
                vec![workload.endpoint.clone()],
            );
            vip = Some(world.service("shop/cart", 80, None, vec![workload.endpoint]));
        }
        let route = |path: &str, backend: &str| Route {
            provenance: Provenance::default(),
            matches: vec![RouteMatch {
                path: Some(PathMatch::Prefix(path.into())),
                ..RouteMatch::default()
            }],
            backends: vec![Backend {
                service: backend.parse().unwrap(),
                port: 80,
                weight: 1,
                invalid: None,
                field_path: String::new(),
            }],
            request_timeout: None,
            backend_request_timeout: None,
            ports: Vec::new(),
        };
        let mut nowhere = route("/nowhere", "shop/nowhere");
        nowhere.backends[0].invalid = Some("there is no service shop/nowhere".into());
        world.route(
            "shop/cart",
            vec![
                route("/one", "shop/cart-v1"),
                route("/two", "shop/cart-v2"),
                nowhere,
            ],
        );
        let mut stream = one.capture(&web).connect(vip.unwrap()).await;
        assert_eq!(ask(&mut stream, &get("/one/x")).await.text(), "v1");
        let refused = ask(&mut stream, &get("/nowhere")).await;
        assert_eq!(refused.status(), 500, "as the Gateway API demands");
        let field = refused.field("x-leno-refused").unwrap();
        assert!(field.starts_with("NB; by=web-1; id="), "{field}");
        assert_eq!(ask(&mut stream, &get("/two")).await.text(), "v2");
        let refused = ask(&mut stream, &get("/three")).await;
        assert_eq!(refused.status(), 404);
        let field = refused.field("x-leno-refused").unwrap().to_owned();
        assert!(field.starts_with("NR; by=web-1; id="), "{field}");
        one.seen
            .until("the refusal", |seen| !seen.refusals.borrow().is_empty())
            .await;
        let refusals = one.seen.refusals.borrow();
        let told = |id| field.ends_with(&format!("id={id:016x}"));
        assert!(refusals.iter().any(|record| told(record.id)));
    });
}

#[test]
fn a_workload_that_calls_itself_is_served_once() {
    run(async {
        let world = World::new();
        let one = Host::start(&world);
        let (port, log) = http1(one.ip, |_| ok("me"));
        let cart = one.workload("cart", &[(80, port, None)]).await;
        let vip = world.service("shop/cart", 80, None, vec![cart.endpoint.clone()]);
        world.host(one.ip, vec![cart.endpoint.clone()]);
        let captured = one.capture(&cart);
        let mut by_vip = captured.connect(vip).await;
        assert_eq!(ask(&mut by_vip, &get("/")).await.text(), "me");
        let own = std::net::SocketAddr::new(one.ip, port);
        let mut by_address = captured.connect(own).await;
        assert_eq!(ask(&mut by_address, &get("/")).await.text(), "me");
        assert_eq!(log.borrow().len(), 2);
    });
}

#[test]
fn two_identities_behind_one_proxy_are_never_mixed() {
    run(async {
        let world = World::new();
        let (one, two) = (Host::start(&world), Host::start(&world));
        let (port, _) = http1(two.ip, |message| {
            ok(message.field("X-Who").unwrap_or("nobody"))
        });
        let cart = two.workload("cart", &[(80, port, None)]).await;
        let vip = world.service("shop/cart", 80, None, vec![cart.endpoint]);
        let mut work = Vec::new();
        for name in ["web", "admin"] {
            let workload = one.workload(name, &[]).await;
            let captured = one.capture(&workload);
            work.push(tokio::task::spawn_local(async move {
                let mut stream = captured.connect(vip).await;
                for _ in 0..200 {
                    let request = format!("GET / HTTP/1.1\r\nHost: cart\r\nX-Who: {name}\r\n\r\n");
                    assert_eq!(ask(&mut stream, &request).await.text(), name);
                }
            }));
        }
        for task in work {
            task.await.unwrap();
        }
        let seen = Rc::clone(&two.seen);
        for name in ["web", "admin"] {
            let identity = world.identity(name);
            seen.until("200 requests of each", |seen| {
                let totals = seen.totals.borrow();
                let mut edges = totals.edges();
                edges.any(|(edge, _)| {
                    edge.source_identity.as_ref() == Some(&identity)
                        && totals.requests(edge).map(|(_, r)| r.count).sum::<u64>() == 200
                })
            })
            .await;
        }
    });
}
