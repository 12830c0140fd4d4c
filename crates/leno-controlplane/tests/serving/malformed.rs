//! Requests that no agent of ours makes: certificate requests, redemptions and paths that are wrong in each way there is.
//! Every one is told so with its code, and others are served.

use std::time::Duration;

use leno_tls::{Alpn, PrivateKey, control::ControlConnector};
use leno_wire::agent::{Hello, RedeemRequest, SignWorkloadRequest, agent_client::AgentClient};
use tonic::{Code, Status};

use super::{
    ControlPlane, Membership, cart,
    client::{self, Agent},
    test,
};

/// Bytes of a certificate request, as docs/limits.md has it.
const MAX_CSR: usize = 8 << 10;

/// Certificate requests that are none, with what is said of each.
fn no_requests() -> Vec<(Vec<u8>, &'static str)> {
    let good = PrivateKey::generate().csr().unwrap();
    let (mut forged, mut longer, mut cut) = (good.clone(), good.clone(), good.clone());
    // The last bytes are the signature.
    *forged.last_mut().unwrap() ^= 1;
    longer.push(0);
    cut.truncate(good.len() / 2);
    // P-256 as an object identifier is 1.2.840.10045.3.1.7; ..8 is another curve, of which a key here is none.
    let mut other = good.clone();
    let curve = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
    let at = other.windows(curve.len()).position(|of| of == curve);
    other[at.unwrap() + 7] = 0x08;
    let nested = [0x30_u8, 0x80].repeat(2_000);
    vec![
        (Vec::new(), "malformed"),
        (b"-----BEGIN CERTIFICATE REQUEST-----".to_vec(), "malformed"),
        (nested, "malformed"),
        (cut, "malformed"),
        (longer, "bytes follow"),
        (vec![0x30; MAX_CSR + 1], "at most"),
        (other, "must be ECDSA P-256 or Ed25519"),
        (forged, "possession"),
    ]
}

#[test]
fn a_certificate_request_that_is_none_is_refused_with_what_is_wrong_with_it() {
    test("csr", async |directory| {
        let control = ControlPlane::start(directory.path()).await;
        let host = Membership::join(&control, "a", cart()).await;
        let mut agent = host.connect(&control).await;
        let uid = agent.register("cart", 8080, "").await.uid;
        let mut client = AgentClient::new(host.channel(&control).await);
        for (csr, word) in no_requests() {
            let request = SignWorkloadRequest {
                uid: uid.clone(),
                csr,
            };
            let refused = client.sign_workload(request).await.unwrap_err();
            assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
            assert!(refused.message().contains(word), "{word}: {refused:?}");
        }
        for uid in ["", "no-uid", &"f".repeat(33), &"A".repeat(32)] {
            let refused = agent.sign(uid, &PrivateKey::generate()).await.unwrap_err();
            assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
            assert!(
                refused.message().contains("hosts no workload"),
                "{refused:?}"
            );
        }
        agent.sign(&uid, &PrivateKey::generate()).await.unwrap();
        control.stop().await;
    });
}

#[test]
fn a_redemption_that_is_wrong_is_refused_by_field_and_spends_no_token() {
    test("redemptions", async |directory| {
        let control = ControlPlane::start(directory.path()).await;
        let token = control.token(cart()).await;
        let right = RedeemRequest {
            token_id: token.id.clone(),
            token_secret: token.secret.to_vec(),
            csr: PrivateKey::generate().csr().unwrap(),
            host: "b".into(),
            mesh: token.mesh.to_string(),
            ..RedeemRequest::default()
        };
        let redeem = async |request: RedeemRequest| -> Result<String, Status> {
            let connector = ControlConnector::pinned(&token.pins, &[Alpn::H2]).unwrap();
            let channel = client::channel(control.address, connector).await;
            let answer = AgentClient::new(channel).redeem(request).await?;
            Ok(answer.into_inner().agent)
        };
        let with = |change: &dyn Fn(&mut RedeemRequest)| {
            let mut request = right.clone();
            change(&mut request);
            request
        };
        let mut wrong: Vec<(RedeemRequest, Code)> = vec![
            (
                with(&|of| of.token_id = String::new()),
                Code::PermissionDenied,
            ),
            (
                with(&|of| of.token_id = "../agents/b".into()),
                Code::PermissionDenied,
            ),
            (
                with(&|of| of.token_id = "x".repeat(10_000)),
                Code::PermissionDenied,
            ),
            (
                with(&|of| of.token_secret = Vec::new()),
                Code::PermissionDenied,
            ),
            (
                with(&|of| of.token_secret = vec![0; 10_000]),
                Code::PermissionDenied,
            ),
            (
                with(&|of| of.mesh = "../default".into()),
                Code::InvalidArgument,
            ),
            (with(&|of| of.mesh = "other".into()), Code::PermissionDenied),
            (
                with(&|of| of.token_id = "x".repeat(100_000)),
                Code::OutOfRange,
            ),
        ];
        let csrs = no_requests().into_iter();
        wrong.extend(csrs.map(|(csr, _)| {
            let request = with(&|of| of.csr = csr.clone());
            (request, Code::InvalidArgument)
        }));
        for (request, code) in wrong {
            let refused = redeem(request.clone()).await.unwrap_err();
            let shown = format!("{request:?}").chars().take(300).collect::<String>();
            assert_eq!(refused.code(), code, "{refused:?} to {shown}");
            assert!(
                !refused.message().is_empty() && refused.message().len() < 600,
                "{refused:?}"
            );
        }
        assert_eq!(redeem(right).await.unwrap(), "b");
        control.stop().await;
    });
}

#[test]
fn who_is_asked_first_and_for_what_is_no_name_there_is_nothing() {
    test("paths", async |directory| {
        let control = ControlPlane::start(directory.path()).await;
        let token = control.token(cart()).await;
        let connector = ControlConnector::pinned(&token.pins, &[Alpn::Http11]).unwrap();
        // Nothing of a request is looked at before it is known whose it is.
        for path in [
            "logs",
            "logs?follow=x",
            "refusals/..",
            "telemetry/edges?window=x",
            "audit?since=x",
        ] {
            let path = format!("/meshes/default/leno/v1/{path}");
            let socket = tokio::net::TcpStream::connect(control.address)
                .await
                .unwrap();
            let stranger = connector.connect(socket).await.unwrap().stream;
            let (code, answer) = client::request(stranger, "GET", &path, None).await;
            assert_eq!(code, 401, "{path}: {answer}");
        }
        for namespace in ["..%2f..%2fother", "..", "%00", "A", "a.b", "a%20b"] {
            for kind in [
                "api/v1/namespaces/NS/services",
                "apis/leno.dev/v1alpha1/namespaces/NS/accesspolicies/p",
            ] {
                let path = format!("/meshes/default/{}", kind.replace("NS", namespace));
                let (code, answer) = control.admin("GET", &path, None).await;
                assert_eq!(code, 404, "{path}: {answer}");
                assert_eq!(answer["kind"], "Status", "{answer}");
            }
        }
        control.stop().await;
    });
}

#[test]
fn an_agent_that_registers_and_vanishes_a_thousand_times_leaves_nothing_and_holds_up_nobody() {
    test("vanishing", async |directory| {
        let control = ControlPlane::start_with(directory.path(), |config| {
            config.metrics = Some("127.0.0.1:0".parse().unwrap());
        })
        .await;
        let good = Membership::join(&control, "good", cart()).await;
        let mut good = good.connect(&control).await;
        let bad = Membership::join(&control, "bad", cart()).await;
        let tasks = async || -> u64 {
            let text = control.scrape().await;
            let line = text
                .lines()
                .find(|line| line.starts_with("leno_controlplane_tasks "));
            line.unwrap()
                .rsplit(' ')
                .next()
                .unwrap()
                .parse::<f64>()
                .unwrap() as u64
        };
        let before = tasks().await;
        for round in 0..40 {
            // Each session names its program, and is gone without a goodbye; some with their connection. One in 25 has a
            // program that is new.
            let mut uid = String::new();
            let channel = bad.channel(&control).await;
            for _ in 0..25 {
                let mut agent = Agent::connect(channel.clone(), Hello::default()).await;
                uid = agent.register("cart", 8080, &uid).await.uid;
            }
            // Others are served all the while.
            good.register("cart", 8_000 + round, "").await;
        }
        let path = "/meshes/default/leno/v1/status";
        let status = control
            .await_document(path, |of| of["proxies_connected"] == 1)
            .await;
        assert_eq!(status["proxies_disconnected"], 1, "{status:#}");
        let deadline = std::time::Instant::now() + client::LONG;
        while tasks().await > before + 5 {
            assert!(
                std::time::Instant::now() < deadline,
                "{} of {before}",
                tasks().await
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let path = "/meshes/default/apis/leno.dev/v1alpha1/workloads";
        let (code, list) = control.admin("GET", path, None).await;
        assert_eq!(code, 200, "{list}");
        let of_bad = list["items"].as_array().unwrap().iter();
        let of_bad = of_bad
            .filter(|of| of.to_string().contains("\"bad\""))
            .count();
        assert!(of_bad <= 512, "a host's own ceiling: {of_bad}");
        control.stop().await;
    });
}

#[test]
fn of_thousands_of_watches_each_caller_has_its_share_and_others_are_answered() {
    test("watches", async |directory| {
        let control = ControlPlane::start(directory.path()).await;
        let ada = Membership::person(&control, "ada").await;
        let bob = Membership::person(&control, "bob").await;
        let connector = ControlConnector::trusted(&ada.bundle, Some(&ada.certificate), &[Alpn::H2]);
        let connector = connector.unwrap();
        let socket = tokio::net::TcpStream::connect(control.address)
            .await
            .unwrap();
        let stream = connector.connect(socket).await.unwrap().stream;
        let (sender, connection) = hyper::client::conn::http2::handshake(
            super::raw::Local,
            hyper_util::rt::TokioIo::new(stream),
        )
        .await
        .unwrap();
        let driving = client::start(connection);
        let (mut watching, mut refused) = (Vec::new(), 0);
        for _ in 0..2_000 {
            let mut sender = sender.clone();
            let request =
                http::Request::get("https://control-plane/meshes/default/api/v1/services?watch=1")
                    .body(http_body_util::Empty::<bytes::Bytes>::new())
                    .unwrap();
            let response = sender.send_request(request).await.unwrap();
            match response.status().as_u16() {
                200 => watching.push(response),
                429 => refused += 1,
                other => panic!("{other}"),
            }
        }
        assert_eq!((watching.len(), refused), (256, 2_000 - 256));
        let (code, _) = bob.get(&control, "/meshes/default/api/v1/services").await;
        assert_eq!(code, 200);
        drop(watching);
        driving.abort();
        control.stop().await;
    });
}
