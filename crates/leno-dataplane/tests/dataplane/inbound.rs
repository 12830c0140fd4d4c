//! What a proxy lets in, and what it does not.

use std::time::Duration;

use ::bytes::Bytes;
use leno_dataplane::Update;
use leno_ir::{AccessAction, AccessRule, Principal, Provenance};
use leno_telemetry::counters::{Family, Limit};
use leno_tls::Alpn;
use leno_types::{AppProtocol, Identity, Refusal, WorkloadUid};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    apps::{ask, call, get, grpc, h2c, http1, ok, read_message, server_first},
    host::{Host, Workload, World},
    run,
};

fn rule(action: AccessAction, world: &World, account: &str) -> AccessRule {
    AccessRule {
        action,
        principals: vec![Principal::Exact(world.identity(account))],
        namespaces: Vec::new(),
        ports: Vec::new(),
        provenance: Provenance {
            kind: "AccessPolicy".into(),
            namespace: "shop".into(),
            name: "who".into(),
            ..Provenance::default()
        },
        unknown_feature: None,
    }
}

/// A peer of somebody else's making: a right certificate (`web`'s), HTTP/2, and whatever it likes to ask.
async fn stranger(world: &World, to: &Workload, alpn: &[Alpn]) -> h2::client::SendRequest<Bytes> {
    let connected = world.shake_hands(to, alpn).await;
    let (send, connection) = h2::client::handshake(connected.stream).await.unwrap();
    tokio::task::spawn_local(async move { drop(connection.await) });
    send.ready().await.unwrap()
}

async fn status(send: &mut h2::client::SendRequest<Bytes>, to: Option<&str>) -> (u16, String) {
    let mut request = http::Request::get("http://cart/").header(
        "x-forwarded-client-cert",
        "URI=spiffe://test.leno/ns/shop/sa/admin",
    );
    if let Some(to) = to {
        request = request.header("x-leno-to", to);
    }
    let request = request.body(()).unwrap();
    let (response, _) = send.send_request(request, true).unwrap();
    let response = response.await.unwrap();
    let refused = response.headers().get("x-leno-refused");
    let refused = refused.map_or("", |value| value.to_str().unwrap());
    (response.status().as_u16(), refused.to_owned())
}

#[test]
fn forged_destinations_are_refused_and_recorded() {
    run(async {
        let world = World::new();
        let two = Host::start(&world);
        let (port, log) = http1(two.ip, |_| ok("cart"));
        let (other_port, other_log) = http1(two.ip, |_| ok("other"));
        let cart = two.workload("cart", &[(80, port, None)]).await;
        two.workload("other", &[(80, other_port, None)]).await;
        let mut send = stranger(&world, &cart, &[Alpn::Leno1]).await;
        let right = format!("1 {}:{port} - a", two.ip);
        assert_eq!(status(&mut send, Some(&right)).await.0, 200);
        for forged in [
            None,
            Some("nonsense".to_owned()),
            Some(format!("1 127.0.0.1:{port} - a")),
            Some("1 127.0.0.1:15000 - a".to_owned()),
            Some(format!("1 {}:15000 - a", two.ip)),
            Some(format!("1 {}:{} - a", two.ip, two.hbone_port)),
            // Another workload of this very host.
            Some(format!("1 {}:{other_port} - a", two.ip)),
        ] {
            let (code, refused) = status(&mut send, forged.as_deref()).await;
            assert_eq!(code, 403, "{forged:?}");
            assert!(refused.starts_with("FD; by=cart-1; id="), "{refused}");
        }
        assert_eq!((log.borrow().len(), other_log.borrow().len()), (1, 0));
        assert!(!log.borrow()[0].contains("client-cert"));
        two.seen
            .until("seven refusals", |seen| seen.refusals.borrow().len() == 7)
            .await;
        assert!(two.seen.refusals.borrow().iter().all(|record| {
            record.reason == Refusal::ForgedDestination
                && record.caller == Some(world.identity("web"))
        }));
    });
}

#[test]
fn a_peer_makes_no_edges_by_inventing_names() {
    run(async {
        let world = World::new();
        let two = Host::start_with(&world, |config| config.limits.caller_names = 3);
        let (port, _) = http1(two.ip, |_| ok("cart"));
        let cart = two.workload("cart", &[(80, port, None)]).await;
        let mut send = stranger(&world, &cart, &[Alpn::Leno1]).await;
        for number in 0..20 {
            let service = if number == 0 { "cart" } else { "invented" };
            let to = format!("1 {}:{port} shop/{service}{number}:80 a", two.ip);
            let to = to.replace("cart0", "cart");
            let from = format!("1 shop web-{number} v1 shop/web");
            let request = http::Request::get("http://cart/")
                .header("x-leno-to", to)
                .header("x-leno-from", from)
                .body(())
                .unwrap();
            let (response, _) = send.send_request(request, true).unwrap();
            assert_eq!(response.await.unwrap().status(), 200);
        }
        two.seen
            .until("twenty requests", |seen| {
                let totals = seen.totals.borrow();
                let counted = totals.edges().flat_map(|(edge, _)| totals.requests(edge));
                counted.map(|(_, requests)| requests.count).sum::<u64>() == 20
            })
            .await;
        let totals = two.seen.totals.borrow();
        let mut edges: Vec<_> = totals
            .edges()
            .map(|(edge, _)| {
                let service = edge.destination_service.split('.').next().unwrap();
                format!("{} {service}", edge.source_workload)
            })
            .collect();
        edges.sort_unstable();
        assert_eq!(
            edges,
            ["web cart", "web-0 cart", "web-1 cart", "web-2 cart"]
        );
        let counters = two.seen.counters.borrow();
        assert_eq!(counters.get_limit(Limit::CallerNames), 17);
    });
}

#[test]
fn agents_people_and_the_control_plane_are_no_callers_of_workloads() {
    run(async {
        let world = World::new();
        let two = Host::start(&world);
        let (port, log) = http1(two.ip, |_| ok("cart"));
        let cart = two.workload("cart", &[(80, port, None)]).await;
        let name = "somebody".parse().unwrap();
        let others = [
            Identity::agent(&world.domain, &name),
            Identity::user(&world.domain, &name),
            Identity::control_plane(&world.domain),
        ];
        for who in &others {
            let lifetime = Duration::from_secs(600);
            let connected = world
                .shake_hands_as(who, lifetime, &cart, &[Alpn::Leno1])
                .await;
            let mut stream = connected.stream;
            // It may be gone before it is written to.
            drop(stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await);
            let mut answer = Vec::new();
            drop(stream.read_to_end(&mut answer).await);
            assert!(answer.is_empty(), "{who}: {answer:?}");
        }
        assert_eq!(log.borrow().len(), 0);
        // A control plane asks whether the workload is there, and that is no attack.
        let refused = others.len() as u64 - 1;
        two.seen
            .until("the refused handshakes", |seen| {
                seen.counters
                    .borrow()
                    .get_labelled(Family::HandshakeFailed, "no_workload")
                    == refused
            })
            .await;
    });
}

/// A GET as a frame, END_STREAM and END_HEADERS, no name or value indexed.
fn get_frame(stream: u32, to: &str) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in [
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", "cart"),
        (":path", "/"),
        ("x-leno-to", to),
    ] {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend(text.as_bytes());
        }
    }
    let mut frame = u32::try_from(block.len()).unwrap().to_be_bytes()[1..].to_vec();
    frame.extend([1, 5]);
    frame.extend(stream.to_be_bytes());
    frame.extend(block);
    frame
}

#[test]
fn a_peer_that_does_not_go_begins_nothing_after_its_certificates_end() {
    run(async {
        let world = World::new();
        let two = Host::start(&world);
        let (port, log) = http1(two.ip, |_| ok("cart"));
        let cart = two.workload("cart", &[(80, port, None)]).await;
        let (web, lifetime) = (world.identity("web"), Duration::from_secs(2));
        // A certificate's end is a whole second.
        let end = std::time::Instant::now() + lifetime + Duration::from_secs(1);
        let connected = world
            .shake_hands_as(&web, lifetime, &cart, &[Alpn::Leno1])
            .await;
        let mut stream = connected.stream;
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
        stream.write_all(preface).await.unwrap();
        let to = format!("1 {}:{port} - a", two.ip);
        let mut answered = 0;
        let mut number = 1_u32;
        // GOAWAY and PING are left unanswered.
        let reset = loop {
            let late = std::time::Instant::now() > end;
            stream.write_all(&get_frame(number, &to)).await.unwrap();
            let (kind, payload) = loop {
                let mut head = [0; 9];
                stream.read_exact(&mut head).await.unwrap();
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
                let mut payload = vec![0; usize::try_from(length).unwrap()];
                stream.read_exact(&mut payload).await.unwrap();
                if head[5..] == number.to_be_bytes() && matches!(head[3], 1 | 3) {
                    break (head[3], payload);
                }
            };
            if kind == 3 {
                break payload;
            }
            assert!(!late, "served after the certificate's end");
            answered += 1;
            number += 2;
        };
        assert_eq!(reset, 7_u32.to_be_bytes(), "REFUSED_STREAM");
        assert!(answered > 0);
        assert_eq!(log.borrow().len(), answered);
    });
}

#[test]
fn a_peer_of_alpn_h2_opens_connect_streams_and_nothing_else() {
    run(async {
        let world = World::new();
        let two = Host::start(&world);
        let port = server_first(two.ip, "ready");
        let db = two.workload("db", &[(3306, port, None)]).await;
        let mut send = stranger(&world, &db, &[Alpn::H2]).await;
        assert_eq!(status(&mut send, None).await.0, 400);
        let request = http::Request::connect(format!("{}:{port}", two.ip))
            .body(())
            .unwrap();
        let (response, _stream) = send.send_request(request, false).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), 200);
        let banner = response.into_body().data().await.unwrap().unwrap();
        assert_eq!(&banner[..], b"ready");
        for (authority, code) in [
            (format!("{}:15000", two.ip), 403),
            ("127.0.0.1:22".into(), 403),
            ("db:3306".into(), 400),
        ] {
            let request = http::Request::connect(authority).body(()).unwrap();
            let (response, _) = send.send_request(request, false).unwrap();
            assert_eq!(response.await.unwrap().status(), code);
        }
    });
}

#[test]
fn a_caller_that_is_denied_is_refused_with_the_rule_and_its_open_streams_end() {
    run(async {
        let world = World::new();
        let (one, two) = (Host::start(&world), Host::start(&world));
        let (port, log) = http1(two.ip, |_| ok("cart"));
        let echo = server_first(two.ip, "");
        let web = one.workload("web", &[]).await;
        let http = Some(AppProtocol::Http);
        let tcp = Some(AppProtocol::Tcp);
        let cart = two
            .workload("cart", &[(80, port, http), (7, echo, tcp)])
            .await;
        let vip = world.service("shop/cart", 80, http, vec![cart.endpoint.clone()]);
        let raw = world.service("shop/raw", 7, tcp, vec![cart.endpoint.clone()]);
        let captured = one.capture(&web);
        let mut requests = captured.connect(vip).await;
        assert_eq!(ask(&mut requests, &get("/")).await.status(), 200);
        let mut stream = captured.connect(raw).await;
        stream.write_all(b"x").await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'x');

        two.allow(&cart, vec![rule(AccessAction::Deny, &world, "web")]);
        // The stream ends without a word from anybody.
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(1), stream.read_to_end(&mut rest));
        drop(ended.await.expect("the stream ends within a second"));
        let refused = ask(&mut requests, &get("/")).await;
        assert_eq!(refused.status(), 403);
        let field = refused.field("x-leno-refused").unwrap();
        assert!(field.starts_with("RBAC; by=cart-1; id="), "{field}");
        assert_eq!(log.borrow().len(), 1);
        two.seen
            .until("the refusal with its rule", |seen| {
                let mut refusals = seen.refusals.borrow().clone().into_iter();
                refusals.any(|record| {
                    record.reason == Refusal::Denied
                        && record.rule.starts_with("AccessPolicy shop/who")
                })
            })
            .await;

        two.allow(&cart, vec![rule(AccessAction::Allow, &world, "web")]);
        loop {
            let answer = ask(&mut requests, &get("/")).await;
            if answer.status() == 200 {
                break;
            }
        }
    });
}

#[test]
fn two_services_that_exchanged_certificates_are_refused_and_never_called_in_clear() {
    run(async {
        let world = World::new();
        let (one, two) = (Host::start(&world), Host::start(&world));
        let (port, log) = http1(two.ip, |_| ok("cart"));
        let web = one.workload("web", &[]).await;
        let cart = two.workload("cart", &[(80, port, None)]).await;
        let mut endpoint = cart.endpoint;
        endpoint.identity = world.identity("payments");
        let vip = world.service("shop/payments", 80, Some(AppProtocol::Http), vec![endpoint]);
        let mut stream = one.capture(&web).connect(vip).await;
        let refused = ask(&mut stream, &get("/")).await;
        assert_eq!(refused.status(), 503);
        assert!(
            refused.field("x-leno-refused").unwrap().starts_with("PI; "),
            "{}",
            refused.head
        );
        assert!(log.borrow().is_empty());
    });
}

#[test]
fn a_workload_without_a_certificate_calls_nobody() {
    run(async {
        let world = World::new();
        let (one, two) = (Host::start(&world), Host::start(&world));
        let (port, log) = http1(two.ip, |_| ok("cart"));
        let web = one.workload("web", &[]).await;
        let cart = two.workload("cart", &[(80, port, None)]).await;
        let vip = world.service(
            "shop/cart",
            80,
            Some(AppProtocol::Http),
            vec![cart.endpoint],
        );
        let mut own = web.own.clone();
        own.uid = WorkloadUid::from_bytes([5; 16]);
        one.send(Update::Workload(Box::new(own.clone())));
        let naked = Workload { own, ..web };
        let mut stream = one.capture(&naked).connect(vip).await;
        let refused = ask(&mut stream, &get("/")).await;
        assert!(
            refused
                .field("x-leno-refused")
                .unwrap()
                .starts_with("CERT; ")
        );
        assert!(log.borrow().is_empty());
    });
}

#[test]
fn who_says_nothing_at_a_published_port_makes_room_for_who_does() {
    run(async {
        let world = World::new();
        let two = Host::start_with(&world, |config| config.limits.silent_connections = 3);
        // Declared, and so never dialled before the caller speaks; and to be detected, by either side's first word.
        for protocol in [Some(AppProtocol::Http), None] {
            let (port, _) = http1(two.ip, |_| ok("web"));
            let mut web = two.workload("web", &[(80, port, protocol)]).await;
            let at = two.publish(&mut web);
            let mut silent = Vec::new();
            for _ in 0..4 {
                silent.push(TcpStream::connect(at).await.unwrap());
            }
            // Only the oldest was ended; the next takes the place of the second, and is served.
            let mut end = [0];
            let ended = silent[0].read(&mut end).await;
            assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
            let mut talks = TcpStream::connect(at).await.unwrap();
            assert_eq!(ask(&mut talks, &get("/")).await.status(), 200);
            assert_eq!(ask(&mut silent[3], &get("/")).await.status(), 200);
        }
        two.seen
            .until("the ceiling was counted", |seen| {
                seen.counters.borrow().get_limit(Limit::SilentConnections) >= 4
            })
            .await;
    });
}

#[test]
fn a_published_port_lets_a_server_speak_first_and_gives_way_to_http2() {
    run(async {
        let world = World::new();
        let two = Host::start(&world);
        let mut db = two
            .workload("db", &[(3306, server_first(two.ip, "ready"), None)])
            .await;
        let at = two.publish(&mut db);
        let mut stream = TcpStream::connect(at).await.unwrap();
        let mut banner = [0; 5];
        stream.read_exact(&mut banner).await.unwrap();
        assert_eq!(&banner, b"ready");
        let (port, _) = grpc(two.ip);
        let mut api = two
            .workload("api", &[(80, port, Some(AppProtocol::Grpc))])
            .await;
        let at = two.publish(&mut api);
        let mut send = h2c(TcpStream::connect(at).await.unwrap()).await;
        let called = call(&mut send, b"x").await;
        assert_eq!(
            called.trailers.get("grpc-status").map(String::as_str),
            Some("0")
        );
    });
}

#[test]
fn a_program_that_speaks_http1_only_gets_no_grpc_but_its_caller_gets_a_status() {
    run(async {
        let world = World::new();
        let (one, two) = (Host::start(&world), Host::start(&world));
        let (port, log) = http1(two.ip, |_| ok("no gRPC"));
        let web = one.workload("web", &[]).await;
        let http = Some(AppProtocol::Http);
        let cart = two.workload("cart", &[(80, port, http)]).await;
        let vip = world.service("shop/cart", 80, http, vec![cart.endpoint]);
        let mut send = h2c(one.capture(&web).connect(vip).await).await;
        let called = call(&mut send, b"x").await;
        assert_eq!(called.status, 200);
        let status = called.headers.get("grpc-status").is_some()
            || called.trailers.contains_key("grpc-status");
        assert!(status, "{:?} {:?}", called.headers, called.trailers);
        assert!(log.borrow().is_empty());
    });
}

#[test]
fn more_requests_than_a_program_takes_wait_for_a_connection() {
    run(async {
        let world = World::new();
        let one = Host::start(&world);
        let two = Host::start_with(&world, |config| config.limits.app_connections = 2);
        let (port, log) = http1(two.ip, |_| ok("cart"));
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
        let captured = one.capture(&web);
        let mut work = Vec::new();
        for _ in 0..20 {
            work.push(tokio::task::spawn_local(async move {
                let mut stream = captured.connect(vip).await;
                stream.write_all(get("/").as_bytes()).await.unwrap();
                read_message(&mut stream).await.unwrap().status()
            }));
        }
        for task in work {
            assert_eq!(task.await.unwrap(), 200);
        }
        assert_eq!(log.borrow().len(), 20);
    });
}
