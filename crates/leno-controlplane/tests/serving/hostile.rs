//! What callers send that they should not: reports of others' traffic, messages of strangers, bodies without end.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use leno_tls::{Alpn, PrivateKey, control::ControlConnector};
use leno_wire::agent::{EdgeDelta, Report, agent_message};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, net::TcpStream};
use tonic::Code;

use super::{ControlPlane, Membership, cart, client, raw, redeem, test};

fn edge(reporter: u32, source: (&str, &str), destination: (&str, &str)) -> EdgeDelta {
    EdgeDelta {
        reporter,
        source_workload: source.0.into(),
        source_identity: source.1.into(),
        destination_workload: destination.0.into(),
        destination_identity: destination.1.into(),
        protocol: "http/1.1".into(),
        mtls: true,
        requests: 1,
        ..EdgeDelta::default()
    }
}

#[test]
fn an_agent_is_believed_about_its_own_workloads_only() {
    test("foreign", async |directory| {
        let control = ControlPlane::start_with(directory.path(), |config| {
            config.metrics = Some("127.0.0.1:0".parse().unwrap());
        })
        .await;
        let (honest, liar) = (
            Membership::join(&control, "honest", cart()).await,
            Membership::join(&control, "liar", json!({})).await,
        );
        let (mut honest, mut liar) = (honest.connect(&control).await, liar.connect(&control).await);
        let cart = honest.register("cart", 8080, "").await;
        let own = liar.register("", 8080, "").await;
        let (cart, own) = (
            (cart.name.as_str(), cart.identity.as_str()),
            (own.name.as_str(), own.identity.as_str()),
        );
        let nobody = ("unknown", "");
        let edges = vec![
            // Of another host's workload, on either side; of one that is nobody's; as somebody else; of no side at all.
            edge(0, cart, own),
            edge(1, own, cart),
            edge(0, ("ghost-11aa", ""), cart),
            edge(0, (own.0, cart.1), cart),
            edge(2, own, cart),
            edge(0, ("other", cart.1), ("other", "")),
            // And what it may say.
            edge(0, own, cart),
            edge(1, nobody, own),
        ];
        liar.say(agent_message::Message::Report(Report {
            outsiders: Vec::new(),
            sequence: 1,
            edges,
            proxy: None,
        }))
        .await;
        let path = "/meshes/default/leno/v1/telemetry/totals";
        let totals = control
            .await_document(path, |totals| {
                totals["edges"]
                    .as_array()
                    .is_some_and(|edges| edges.len() >= 2)
            })
            .await;
        let seen: Vec<(&Value, &Value, &Value)> = totals["edges"]
            .as_array()
            .unwrap()
            .iter()
            .map(|edge| (&edge["source"], &edge["destination"], &edge["requests"]))
            .collect();
        let (program, legacy, one) = (json!("program"), json!("legacy"), json!(1));
        assert_eq!(
            seen,
            [(&legacy, &program, &one), (&program, &json!("cart"), &one)],
            "{totals:#}"
        );
        let text = control.scrape().await;
        assert!(
            text.contains("leno_telemetry_foreign_total{mesh=\"default\"} 6\n"),
            "{text}"
        );
        control.stop().await;
    });
}

/// A connection without a certificate.
async fn stranger(
    control: &ControlPlane,
    pins: &[String],
    alpn: Alpn,
) -> impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + use<> {
    let connector = ControlConnector::pinned(pins, &[alpn]).unwrap();
    let socket = TcpStream::connect(control.address).await.unwrap();
    connector.connect(socket).await.unwrap().stream
}

/// A unary gRPC call; its status.
async fn call(control: &ControlPlane, pins: &[String], path: &str, message: Bytes) -> i32 {
    let stream = stranger(control, pins, Alpn::H2).await;
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(raw::Local, TokioIo::new(stream))
            .await
            .unwrap();
    let driving = client::start(connection);
    let request = http::Request::post(format!("https://control-plane{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(message))
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    let (head, body) = response.into_parts();
    let trailers = body.collect().await.unwrap().trailers().cloned();
    driving.abort();
    let status = head
        .headers
        .get("grpc-status")
        .or(trailers.as_ref().and_then(|of| of.get("grpc-status")));
    status.unwrap().to_str().unwrap().parse().unwrap()
}

/// A message of this many bytes: 0x0a is the first field, a string.
fn message(bytes: usize) -> Bytes {
    let mut content = vec![0x0a];
    let mut left = bytes;
    while left >= 0x80 {
        content.push(u8::try_from(left & 0x7f).unwrap() | 0x80);
        left >>= 7;
    }
    content.push(u8::try_from(left).unwrap());
    content.resize(content.len() + bytes, b'x');
    let mut framed = vec![0];
    framed.extend(u32::try_from(content.len()).unwrap().to_be_bytes());
    framed.extend(content);
    framed.into()
}

#[test]
fn a_stranger_is_asked_who_it_is_before_its_message_is_read() {
    test("anonymous", async |directory| {
        let control = ControlPlane::start(directory.path()).await;
        let pins = control.token(cart()).await.pins;
        let unauthenticated = Code::Unauthenticated as i32;
        for path in [
            "/leno.agent.v1.Agent/Renew",
            "/leno.agent.v1.Agent/SignWorkload",
            "/leno.agent.v1.Agent/Session",
            "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources",
        ] {
            // None at all, one that is rubbish, one as large as an agent's may be.
            for sent in [Bytes::new(), Bytes::from(vec![0xff; 64]), message(3 << 20)] {
                let code = call(&control, &pins, path, sent).await;
                assert_eq!(code, unauthenticated, "{path}");
            }
        }
        let redeem = "/leno.agent.v1.Agent/Redeem";
        let refused = call(&control, &pins, redeem, message(8 << 10)).await;
        assert_eq!(
            refused,
            Code::InvalidArgument as i32,
            "it is read and wrong"
        );
        let refused = call(&control, &pins, redeem, message(17 << 10)).await;
        assert_eq!(
            refused,
            Code::OutOfRange as i32,
            "it is too large to be read"
        );
        control.stop().await;
    });
}

#[test]
fn who_never_ends_its_handshake_makes_room_for_who_does() {
    test("crowd", async |directory| {
        let control = ControlPlane::start(directory.path()).await;
        let token = control.token(cart()).await;
        // Each begins a handshake and says nothing more.
        let mut crowd = Vec::new();
        for _ in 0..1_100 {
            let mut socket = TcpStream::connect(control.address).await.unwrap();
            socket.write_all(&[22, 3, 1, 2, 0]).await.unwrap();
            crowd.push(socket);
        }
        let key = PrivateKey::generate();
        let answer = redeem(&control, &token, &key, "b").await.unwrap();
        assert_eq!(answer.agent, "b");
        // The first ones were shown out.
        let ended = async {
            let mut byte = [0];
            tokio::io::AsyncReadExt::read(&mut crowd[0], &mut byte).await
        };
        let ended = tokio::time::timeout(Duration::from_secs(5), ended).await;
        assert!(matches!(ended, Ok(Ok(0) | Err(_))), "{ended:?}");
        control.stop().await;
    });
}

#[test]
fn a_body_without_measure_is_answered_and_not_cut_off() {
    test("large", async |directory| {
        let control = ControlPlane::start(directory.path()).await;
        let alice = Membership::person(&control, "alice").await;
        let size = 50 << 20;
        for path in [
            "/meshes/default/api/v1/namespaces/default/services",
            "/meshes/default/leno/v1/tokens",
        ] {
            for known in [true, false] {
                let (certificate, expected) = if known {
                    (Some(&alice.certificate), 413)
                } else {
                    (None, 401)
                };
                let connect = async |alpn| {
                    let connector =
                        ControlConnector::trusted(&alice.bundle, certificate, &[alpn]).unwrap();
                    let socket = TcpStream::connect(control.address).await.unwrap();
                    connector.connect(socket).await.unwrap().stream
                };
                let stream = connect(Alpn::Http11).await;
                let first = raw::post_stubbornly(stream, path, size).await;
                let stream = connect(Alpn::H2).await;
                let (code, answer, left) = raw::post_h2(stream, path, size).await;
                assert_eq!(left, 0, "the stream was cut off");
                for (code, answer) in [first, (code, answer)] {
                    assert_eq!(code, expected, "{path} {answer}");
                    assert_eq!(
                        (&answer["kind"], &answer["code"]),
                        (&json!("Status"), &json!(expected)),
                        "{path} {answer}"
                    );
                }
            }
        }
        control.stop().await;
    });
}
