//! What fails, and is not noticed by anybody.

use std::{cell::Cell, net::IpAddr, rc::Rc, time::Duration};

use leno_ir::OwnWorkload;
use leno_telemetry::counters::Counter;
use leno_types::AppProtocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    apps::{ask, call, get, grpc, h2c, http1, ok, server_first},
    host::{Host, World, listen},
    run,
};

const HTTP: Option<AppProtocol> = Some(AppProtocol::Http);

#[test]
fn a_host_that_is_gone_is_avoided_without_a_failed_request() {
    run(async {
        let world = World::new();
        let (one, two) = (Host::start(&world), Host::start(&world));
        let (port, log) = http1(two.ip, |_| ok("cart"));
        let web = one.workload("web", &[]).await;
        let cart = two.workload("cart", &[(80, port, HTTP)]).await;
        let mut dead = cart.endpoint.clone();
        dead.uid = leno_types::WorkloadUid::from_bytes([1; 16]);
        // A port that was free a moment ago.
        dead.hbone_port = listen(two.ip).local_addr().unwrap().port();
        let vip = world.service("shop/cart", 80, HTTP, vec![dead, cart.endpoint]);
        let captured = one.capture(&web);
        let mut stream = captured.connect(vip).await;
        for _ in 0..50 {
            assert_eq!(ask(&mut stream, &get("/")).await.status(), 200);
        }
        assert_eq!(log.borrow().len(), 50);
    });
}

#[test]
fn a_replica_whose_program_died_is_avoided_without_a_failed_request() {
    run(async {
        let world = World::new();
        let (one, two, three) = (
            Host::start(&world),
            Host::start(&world),
            Host::start(&world),
        );
        let (port, log) = http1(two.ip, |_| ok("cart"));
        let web = one.workload("web", &[]).await;
        let cart = two.workload("cart", &[(80, port, HTTP)]).await;
        let free = listen(three.ip).local_addr().unwrap().port();
        let dead = three.workload("cart", &[(80, free, HTTP)]).await;
        let vip = world.service("shop/cart", 80, HTTP, vec![dead.endpoint, cart.endpoint]);
        let captured = one.capture(&web);
        let mut stream = captured.connect(vip).await;
        for _ in 0..50 {
            let answer = ask(&mut stream, &get("/")).await;
            assert_eq!(answer.status(), 200, "{}", answer.head);
        }
        assert_eq!(log.borrow().len(), 50);
    });
}

#[test]
fn without_any_endpoint_that_answers_the_refusal_says_why() {
    run(async {
        let world = World::new();
        let (one, two) = (Host::start(&world), Host::start(&world));
        let web = one.workload("web", &[]).await;
        let free = listen(two.ip).local_addr().unwrap().port();
        let cart = two.workload("cart", &[(80, free, HTTP)]).await;
        let vip = world.service("shop/cart", 80, HTTP, vec![cart.endpoint]);
        let none = world.service("shop/none", 80, HTTP, Vec::new());
        let captured = one.capture(&web);
        let refused = ask(&mut captured.connect(vip).await, &get("/")).await;
        let field = refused.field("x-leno-refused").unwrap();
        // The far side knows best.
        assert!(field.starts_with("UF; by=cart-1; "), "{field}");
        let refused = ask(&mut captured.connect(none).await, &get("/")).await;
        assert!(refused.field("x-leno-refused").unwrap().starts_with("UH; "));
    });
}

/// Renews a workload's certificate again and again until told to stop.
fn rotate(host: Rc<Host>, own: OwnWorkload, stop: Rc<Cell<bool>>) {
    tokio::task::spawn_local(async move {
        while !stop.get() {
            host.certify(&own, Duration::from_secs(3600));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
}

#[test]
fn certificates_are_rotated_under_load_without_a_failure_and_streams_live_on() {
    run(async {
        let world = World::new();
        let (one, two) = (Rc::new(Host::start(&world)), Rc::new(Host::start(&world)));
        let (port, log) = http1(two.ip, |message| ok(message.field("X-Id").unwrap_or("")));
        let echo = server_first(two.ip, "");
        let (rpc, _) = grpc(two.ip);
        let web = one.workload("web", &[]).await;
        let tcp = Some(AppProtocol::Tcp);
        let h2 = Some(AppProtocol::Grpc);
        let cart = two
            .workload("cart", &[(80, port, HTTP), (7, echo, tcp), (90, rpc, h2)])
            .await;
        let vip = world.service("shop/cart", 80, HTTP, vec![cart.endpoint.clone()]);
        let raw = world.service("shop/raw", 7, tcp, vec![cart.endpoint.clone()]);
        let api = world.service("shop/api", 90, h2, vec![cart.endpoint.clone()]);
        let captured = one.capture(&web);
        let mut stream = captured.connect(raw).await;
        stream.write_all(b"a").await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'a');

        let stop = Rc::new(Cell::new(false));
        rotate(Rc::clone(&one), web.own, Rc::clone(&stop));
        rotate(Rc::clone(&two), cart.own, Rc::clone(&stop));
        let mut work = Vec::new();
        for number in 0..4 {
            work.push(tokio::task::spawn_local(async move {
                let mut stream = captured.connect(vip).await;
                for round in 0..150 {
                    let id = format!("{number}-{round}");
                    let request = format!(
                        "POST / HTTP/1.1\r\nHost: cart\r\nX-Id: {id}\r\nContent-Length: 2\r\n\r\nhi"
                    );
                    let answer = ask(&mut stream, &request).await;
                    assert_eq!(
                        (answer.status(), answer.text()),
                        (200, id),
                        "{}",
                        answer.head
                    );
                }
            }));
        }
        work.push(tokio::task::spawn_local(async move {
            let mut send = h2c(captured.connect(api).await).await;
            for _ in 0..150 {
                let called = call(&mut send, b"payload").await;
                assert_eq!(
                    called.trailers.get("grpc-status").map(String::as_str),
                    Some("0")
                );
            }
        }));
        for task in work {
            task.await.unwrap();
        }
        stop.set(true);
        stream.write_all(b"b").await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'b', "the stream lives on");
        assert_eq!(log.borrow().len(), 600, "each request arrived once");
        one.seen
            .until("rotations", |seen| {
                seen.counters.borrow().get(Counter::RotationDrains) > 1
            })
            .await;
    });
}

#[test]
fn nothing_begins_on_a_certificate_past_its_end() {
    run(async {
        let world = World::new();
        let (one, two) = (Host::start(&world), Host::start(&world));
        let (port, _) = http1(two.ip, |_| ok("cart"));
        let web = one.workload("web", &[]).await;
        let cart = two.workload("cart", &[(80, port, HTTP)]).await;
        let vip = world.service("shop/cart", 80, HTTP, vec![cart.endpoint]);
        let captured = one.capture(&web);
        one.certify(&web.own, Duration::from_secs(2));
        let mut stream = captured.connect(vip).await;
        // It works as long as it is valid, and is refused from then on, on the very same connection. At that very
        // moment the other side may be the first to see that the certificate has ended.
        while ask(&mut stream, &get("/")).await.status() == 200 {}
        loop {
            let answer = ask(&mut stream, &get("/")).await;
            assert_ne!(answer.status(), 200);
            if answer
                .field("x-leno-refused")
                .unwrap()
                .starts_with("CERT; ")
            {
                break;
            }
        }
        one.certify(&web.own, Duration::from_secs(3600));
        while ask(&mut stream, &get("/")).await.status() != 200 {}
    });
}

#[test]
fn a_drain_finishes_what_is_open_and_takes_nothing_new() {
    run(async {
        let world = World::new();
        let (one, two) = (Host::start(&world), Host::start(&world));
        let port = server_first(two.ip, "");
        let web = one.workload("web", &[]).await;
        let tcp = Some(AppProtocol::Tcp);
        let db = two.workload("db", &[(7, port, tcp)]).await;
        let vip = world.service("shop/db", 7, tcp, vec![db.endpoint]);
        let mut stream = one.capture(&web).connect(vip).await;
        stream.write_all(b"a").await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'a');
        two.stop.trigger();
        stream.write_all(b"b").await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'b');
        assert!(!two.seen.drained.get());
        drop(stream);
        two.seen.until("the end", |seen| seen.drained.get()).await;
        let gone = tokio::net::TcpStream::connect((two.ip, two.hbone_port)).await;
        assert!(gone.is_err(), "nobody listens any more");
    });
}

#[test]
fn a_workload_that_left_is_reached_no_more() {
    run(async {
        let world = World::new();
        let (one, two) = (Host::start(&world), Host::start(&world));
        let (port, _) = http1(two.ip, |_| ok("cart"));
        let web = one.workload("web", &[]).await;
        let cart = two.workload("cart", &[(80, port, HTTP)]).await;
        let vip = world.service("shop/cart", 80, HTTP, vec![cart.endpoint]);
        let mut stream = one.capture(&web).connect(vip).await;
        assert_eq!(ask(&mut stream, &get("/")).await.status(), 200);
        world.set_endpoints("shop/cart", Vec::new());
        two.send(leno_dataplane::Update::WorkloadGone(cart.own.uid));
        let refused = loop {
            let answer = ask(&mut stream, &get("/")).await;
            if answer.status() != 200 {
                break answer;
            }
        };
        assert_eq!(refused.status(), 503);
        assert!(refused.field("x-leno-refused").unwrap().starts_with("UH; "));
    });
}

#[test]
fn a_client_that_goes_away_takes_its_request_with_it() {
    run(async {
        let world = World::new();
        let (one, two) = (Host::start(&world), Host::start(&world));
        // A program that never answers, and says when its caller is gone.
        let listener = tokio::net::TcpListener::from_std(listen(two.ip)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (tell, gone) = tokio::sync::oneshot::channel();
        let (began, begun) = tokio::sync::oneshot::channel();
        tokio::task::spawn_local(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut buffer = [0; 1024];
            assert!(stream.read(&mut buffer).await.unwrap() > 0);
            began.send(()).unwrap();
            while let Ok(1..) = stream.read(&mut buffer).await {}
            tell.send(()).unwrap();
        });
        let web = one.workload("web", &[]).await;
        let cart = two.workload("cart", &[(80, port, HTTP)]).await;
        let vip = world.service("shop/cart", 80, HTTP, vec![cart.endpoint]);
        let mut stream = one.capture(&web).connect(vip).await;
        stream.write_all(get("/").as_bytes()).await.unwrap();
        begun.await.unwrap();
        // A FIN alone may be a half-close: the answer would still be wanted.
        stream.set_zero_linger().unwrap();
        drop(stream);
        gone.await.unwrap();
    });
}

#[test]
fn a_loop_is_broken_at_its_first_turn() {
    run(async {
        let world = World::new();
        let one = Host::start(&world);
        let web = one.workload("web", &[]).await;
        let captured = one.capture(&web);
        let to: IpAddr = [10, 77, 0, 1].into();
        let stream = captured.connect((to, 80).into()).await;
        let own = stream.local_addr().unwrap();
        let mut stream = stream;
        let request = format!("GET / HTTP/1.1\r\nHost: x\r\nx-leno-hop: {own}\r\n\r\n");
        world.host(to, vec![]);
        let refused = ask(&mut stream, &request).await;
        assert_eq!(refused.status(), 508, "{}", refused.head);
    });
}

#[test]
fn a_program_that_closes_without_an_answer_is_named_as_the_reason_at_both_ends() {
    run(async {
        let world = World::new();
        let (one, two) = (Host::start(&world), Host::start(&world));
        let listener = tokio::net::TcpListener::from_std(listen(two.ip)).unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::task::spawn_local(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let read = stream.read(&mut [0; 1024]).await;
                assert!(read.unwrap() > 0);
            }
        });
        let web = one.workload("web", &[]).await;
        let cart = two.workload("cart", &[(80, port, HTTP)]).await;
        let vip = world.service("shop/cart", 80, HTTP, vec![cart.endpoint]);
        let mut stream = one.capture(&web).connect(vip).await;
        let post = "POST / HTTP/1.1\r\nHost: cart\r\nContent-Length: 2\r\n\r\nhi";
        let refused = ask(&mut stream, post).await;
        let field = refused.field("x-leno-refused").unwrap();
        assert!(field.starts_with("UC; by=cart-1; id="), "{field}");
        for host in [&one, &two] {
            host.seen
                .until("the reason", |seen| {
                    let totals = seen.totals.borrow();
                    let mut keys = totals.edges().flat_map(|(edge, _)| totals.requests(edge));
                    keys.any(|(key, _)| key.refusal == Some(leno_types::Refusal::UpstreamReset))
                })
                .await;
        }
    });
}

#[test]
fn what_is_no_request_is_refused_with_a_reason_and_recorded() {
    run(async {
        let world = World::new();
        let (one, two) = (Host::start(&world), Host::start(&world));
        let (port, log) = http1(two.ip, |_| ok("cart"));
        let web = one.workload("web", &[]).await;
        let cart = two.workload("cart", &[(80, port, HTTP)]).await;
        let vip = world.service("shop/cart", 80, HTTP, vec![cart.endpoint]);
        let mut stream = one.capture(&web).connect(vip).await;
        let both =
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n";
        let refused = ask(&mut stream, both).await;
        assert_eq!(refused.status(), 400);
        let field = refused.field("x-leno-refused").unwrap().to_owned();
        assert!(field.starts_with("DPE; by=web-1; id="), "{field}");
        one.seen
            .until("the record", |seen| !seen.refusals.borrow().is_empty())
            .await;
        let id = one.seen.refusals.borrow()[0].id;
        assert!(field.ends_with(&format!("{id:016x}")), "{field}");
        assert!(log.borrow().is_empty());
    });
}
