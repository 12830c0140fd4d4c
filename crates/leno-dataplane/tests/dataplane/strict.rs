//! Plaintext from outside the mesh under AuthenticationPolicies: what is open ends, what comes is refused, by port.

use std::{
    cell::RefCell,
    net::IpAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use leno_dataplane::Update;
use leno_ir::{Mtls, MtlsMode, OwnWorkload, Provenance};
use leno_types::{AppProtocol, Refusal};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::{
    apps::{ask, get, http1, ok, read_message},
    host::{Host, Seen, World, listen},
    run,
};

fn says(mode: MtlsMode, field: &str) -> Mtls {
    Mtls {
        mode,
        provenance: Some(Provenance {
            kind: "AuthenticationPolicy".into(),
            namespace: "shop".into(),
            name: "strict".into(),
            field_path: field.into(),
            ..Provenance::default()
        }),
    }
}

/// Sends the same workload, which now takes no plaintext.
fn forbid(host: &Host, own: &mut OwnWorkload) {
    own.mtls = says(MtlsMode::Strict, "spec.mtls.mode");
    host.send(Update::Workload(Box::new(own.clone())));
}

/// A program that echoes, and all it heard.
fn echo(ip: IpAddr) -> (u16, Rc<RefCell<Vec<u8>>>) {
    let listener = TcpListener::from_std(listen(ip)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let heard = Rc::new(RefCell::default());
    let log: Rc<RefCell<Vec<u8>>> = Rc::clone(&heard);
    tokio::task::spawn_local(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let log = Rc::clone(&log);
            tokio::task::spawn_local(async move {
                let mut buffer = [0; 64];
                while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                    log.borrow_mut().extend(&buffer[..count]);
                    let _gone = stream.write_all(&buffer[..count]).await;
                }
            });
        }
    });
    (port, heard)
}

/// Waits until a connection has ended, which takes no second.
async fn ended(stream: &mut TcpStream) {
    let since = Instant::now();
    let mut rest = Vec::new();
    let end = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut rest)).await;
    assert!(end.is_ok(), "the connection goes on");
    assert_eq!(rest, b"");
    assert!(
        since.elapsed() < Duration::from_secs(1),
        "{:?}",
        since.elapsed()
    );
}

#[test]
fn a_published_port_serves_callers_from_outside_until_strict_refuses_them() {
    run(async {
        let world = World::new();
        let two = Host::start(&world);
        let (port, log) = http1(two.ip, |_| {
            "HTTP/1.1 200 OK\r\nx-leno-secret: no\r\nContent-Length: 2\r\n\r\nhi".into()
        });
        let mut cart = two.workload("cart", &[(80, port, None)]).await;
        let at = two.publish(&mut cart);
        let mut stream = TcpStream::connect(at).await.unwrap();
        for _ in 0..2 {
            let request = "GET / HTTP/1.1\r\nHost: x\r\nx-leno-to: 1 1.2.3.4:5 - a\r\n\
                X-Forwarded-Client-Cert: URI=spiffe://test.leno/ns/shop/sa/admin\r\n\r\n";
            let answer = ask(&mut stream, request).await;
            assert_eq!(answer.text(), "hi");
            assert!(
                !answer.head.to_ascii_lowercase().contains("x-leno-"),
                "{}",
                answer.head
            );
        }
        let log = log.borrow().join("").to_ascii_lowercase();
        assert!(
            !log.contains("x-leno-") && !log.contains("client-cert"),
            "{log}"
        );

        cart.own.mtls.mode = MtlsMode::Strict;
        two.send(Update::Workload(Box::new(cart.own.clone())));
        // What is open ends without another word to the program; who comes anew is told.
        ended(&mut stream).await;
        let mut stream = TcpStream::connect(at).await.unwrap();
        let refused = ask(&mut stream, &get("/")).await;
        assert_eq!(refused.status(), 403);
        assert!(
            refused.field("x-leno-refused").is_none(),
            "the outside is told no details"
        );
        two.seen
            .until("the refusal", |seen| {
                let refusals = seen.refusals.borrow();
                refusals
                    .iter()
                    .any(|record| record.reason == Refusal::PlaintextRefused)
            })
            .await;
        // The name of a caller from outside is not known, and no TLS is claimed.
        let totals = two.seen.totals.borrow();
        assert!(totals.edges().all(|(edge, _)| {
            &*edge.source_workload == "unknown" && !edge.mtls && edge.source_identity.is_none()
        }));
    });
}

#[test]
fn bytes_in_clear_end_when_plaintext_is_refused_and_what_was_not_said_yet_reaches_nobody() {
    run(async {
        let world = World::new();
        let two = Host::start(&world);
        for protocol in [Some(AppProtocol::Tcp), None] {
            let (port, heard) = echo(two.ip);
            let mut cart = two.workload("cart", &[(80, port, protocol)]).await;
            let at = two.publish(&mut cart);
            let mut talks = TcpStream::connect(at).await.unwrap();
            talks.write_all(b"\0one").await.unwrap();
            let mut back = [0; 4];
            talks.read_exact(&mut back).await.unwrap();
            let mut silent = TcpStream::connect(at).await.unwrap();
            forbid(&two, &mut cart.own);
            ended(&mut talks).await;
            // Its first word may cross the end of the connection on the way.
            let _gone = silent.write_all(b"\0two").await;
            let mut rest = Vec::new();
            let _reset = silent.read_to_end(&mut rest).await;
            let mut late = TcpStream::connect(at).await.unwrap();
            let _refused = late.write_all(b"\0three").await;
            let _reset = late.read_to_end(&mut rest).await;
            assert_eq!(rest, b"");
            assert_eq!(*heard.borrow(), b"\0one");
        }
        let told = |seen: &Seen, reason| {
            let refusals = seen.refusals.borrow();
            refusals.iter().filter(|of| of.reason == reason).count() >= 2
        };
        let until = "what was ended and what was refused are told";
        two.seen
            .until(until, |seen| {
                told(seen, Refusal::StreamEnded) && told(seen, Refusal::PlaintextRefused)
            })
            .await;
    });
}

#[test]
fn a_port_has_a_mode_of_its_own_and_the_refusal_names_the_policy() {
    run(async {
        let world = World::new();
        let two = Host::start(&world);
        let (port, _) = http1(two.ip, |_| ok("cart"));
        let mut cart = two
            .workload("cart", &[(80, port, Some(AppProtocol::Http))])
            .await;
        let at = two.publish(&mut cart);
        let status = async || {
            // `None`: the change ended it, perhaps before the caller had looked.
            let mut stream = TcpStream::connect(at).await.ok()?;
            stream.write_all(get("/").as_bytes()).await.ok()?;
            read_message(&mut stream)
                .await
                .map(|answer| answer.status())
        };
        let until = async |wanted| {
            while status().await != Some(wanted) {
                tokio::task::yield_now().await;
            }
        };
        until(200).await;
        forbid(&two, &mut cart.own);
        until(403).await;
        for of in &mut cart.own.ports {
            of.mtls = Some(says(MtlsMode::Permissive, "spec.portLevelMtls.8080"));
        }
        two.send(Update::Workload(Box::new(cart.own.clone())));
        until(200).await;
        two.seen
            .until("the refusal names its rule", |seen| {
                let refusals = seen.refusals.borrow();
                refusals.iter().any(|of| {
                    of.reason == Refusal::PlaintextRefused
                        && of.rule == "AuthenticationPolicy shop/strict spec.mtls.mode"
                        && of.detail.contains("STRICT")
                })
            })
            .await;
    });
}

#[test]
fn bytes_in_clear_end_when_the_grace_of_a_workload_that_left_is_over() {
    run(async {
        let world = World::new();
        let two = Host::start_with(&world, |config| {
            config.drain_grace = Duration::from_millis(50);
        });
        let (port, _) = echo(two.ip);
        let tcp = Some(AppProtocol::Tcp);
        let mut cart = two.workload("cart", &[(80, port, tcp)]).await;
        let at = two.publish(&mut cart);
        let mut talks = TcpStream::connect(at).await.unwrap();
        talks.write_all(b"\0one").await.unwrap();
        talks.read_exact(&mut [0; 4]).await.unwrap();
        two.send(Update::WorkloadGone(cart.own.uid));
        // An end or a reset.
        let rest = talks.read(&mut [0; 4]).await.unwrap_or(0);
        assert_eq!(rest, 0);
        let told = |seen: &Seen| {
            let refusals = seen.refusals.borrow();
            refusals
                .iter()
                .any(|of| of.reason == Refusal::StreamEnded && of.detail.contains("left the mesh"))
        };
        two.seen.until("it is told", told).await;
    });
}
