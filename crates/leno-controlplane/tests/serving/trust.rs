//! Certificates and those who give them over time: people, the intermediate's renewal, a bundle of two roots, a token
//! that two hosts spend at once.

use std::time::{Duration, SystemTime};

use leno_tls::{
    Alpn, PrivateKey, TrustBundle, WorkloadCertificate, ca::RootAuthority,
    control::ControlConnector,
};
use leno_wire::mesh as wire;
use prost::Message;
use serde_json::json;
use tokio::net::TcpStream;
use tonic::Code;

use super::{ControlPlane, MESH, Membership, cart, raw, redeem, test};

#[test]
fn a_persons_certificate_opens_the_api_of_its_mesh_and_nothing_of_agents() {
    test("person", async |directory| {
        let control = ControlPlane::start(directory.path()).await;
        let alice = Membership::person(&control, "alice").await;
        let identity = "spiffe://default.leno/leno/user/alice";
        assert_eq!(alice.certificate.identity().as_str(), identity);
        let left = alice.certificate.remaining(SystemTime::now()).unwrap();
        let (shortest, longest) = (
            Duration::from_secs(12 * 3600 - 60),
            Duration::from_secs(12 * 3600),
        );
        assert!(left > shortest && left <= longest, "{left:?}");
        let (code, answer) = alice.get(&control, "/meshes/default/api/v1/services").await;
        assert_eq!((code, &answer["kind"]), (200, &json!("ServiceList")));
        let (code, _) = alice.get(&control, "/meshes/default/leno/v1/tokens").await;
        assert_eq!(code, 200);
        let (code, _) = alice.get(&control, "/meshes/other/api/v1/services").await;
        assert_eq!(code, 403);
        // Nobody becomes another by it, and it makes no agent.
        let path = "/meshes/default/leno/v1/local-user";
        let (code, refused) = alice
            .request(
                &control,
                "POST",
                path,
                Some(json!({"name": "root", "csr": "AA=="})),
            )
            .await;
        assert_eq!(code, 403, "{refused}");
        let refused = alice.refused(&control).await;
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
        for (name, csr) in [("not a name", "AA=="), ("bob", "AA=="), ("bob", "%")] {
            let request = json!({"name": name, "csr": csr});
            let (code, refused) = control.admin("POST", path, Some(request)).await;
            assert_eq!(code, 422, "{refused}");
        }
        control.stop().await;
    });
}

#[test]
fn an_intermediate_that_is_renewed_interrupts_nobody() {
    test("intermediate", async |directory| {
        let pem = directory
            .path()
            .join("data/meshes/default/intermediate.pem");
        let pem = || std::fs::read_to_string(&pem).unwrap();
        let control = ControlPlane::start(directory.path()).await;
        let first = pem();
        let host = Membership::join(&control, "b", cart()).await;
        let mut agent = host.connect(&control).await;
        let registered = agent.register("cart", 8080, "").await;
        let key = PrivateKey::generate();
        let before = agent.sign(&registered.uid, &key).await.unwrap();
        assert!(before.chain.contains(first.trim()));
        drop(agent);
        control.stop().await;
        // Due at once: of a life that is more than twice as long, less than a half is left.
        let longer = |config: &mut leno_controlplane::Config| config.intermediate_ttl *= 3;
        let control = ControlPlane::start_with(directory.path(), longer).await;
        let second = pem();
        assert_ne!(first, second);
        // Who joined before comes back with what it has; the new certificate is of the new issuer, both are good.
        let mut agent = host.connect(&control).await;
        agent.register("cart", 8080, &registered.uid).await;
        let after = agent.sign(&registered.uid, &key).await.unwrap();
        assert!(after.chain.contains(second.trim()) && !after.chain.contains(first.trim()));
        let uid = registered.uid.parse().unwrap();
        for chain in [&before.chain, &after.chain] {
            let now = SystemTime::now();
            WorkloadCertificate::new(Some(uid), chain, &key, &host.bundle, 1, now).unwrap();
        }
        control.stop().await;
    });
}

#[test]
fn a_bundle_of_two_roots_reaches_everybody_and_the_pins_of_tokens() {
    test("two-roots", async |directory| {
        let control = ControlPlane::start(directory.path()).await;
        let host = Membership::join(&control, "b", cart()).await;
        control.stop().await;
        let domain = "default.leno".parse().unwrap();
        let other = RootAuthority::generate(&domain, SystemTime::now()).unwrap();
        let place = directory.path().join("data/meshes/default/root-other.pem");
        std::fs::write(place, other.cert_pem()).unwrap();
        let control = ControlPlane::start(directory.path()).await;
        // Who joined under one root comes back, and learns of the other.
        let mut agent = host.connect(&control).await;
        agent.ask(MESH, &["*"]).await;
        let answer = agent.answer().await;
        let any = answer.resources[0].resource.as_ref().unwrap();
        let mesh = wire::Mesh::decode(&*any.value).unwrap();
        let registered = agent.register("cart", 8080, "").await;
        let signed = agent
            .sign(&registered.uid, &PrivateKey::generate())
            .await
            .unwrap();
        let token = control.token(cart()).await;
        assert!(token.pins.contains(&other.pin()), "{:?}", token.pins);
        let joined = redeem(&control, &token, &PrivateKey::generate(), "c").await;
        for pem in [
            mesh.trust_bundle,
            signed.trust_bundle,
            joined.unwrap().trust_bundle,
        ] {
            let bundle = TrustBundle::from_pem(domain.clone(), &pem).unwrap();
            assert_eq!(bundle.pins().len(), 2);
            assert!(bundle.pins().contains(&other.pin()));
        }
        // Who trusts the other one alone is told that this is not it.
        let only = TrustBundle::from_pem(domain, &other.cert_pem()).unwrap();
        let connector = ControlConnector::trusted(&only, None, &[Alpn::Http11]).unwrap();
        let socket = TcpStream::connect(control.address).await.unwrap();
        assert!(connector.connect(socket).await.is_err());
        control.stop().await;
    });
}

#[test]
fn a_token_for_one_host_that_many_spend_at_once_makes_exactly_one() {
    test("race", async |directory| {
        let control = ControlPlane::start(directory.path()).await;
        for _ in 0..10 {
            let token = control.token(cart()).await;
            let hosts = (0..8).map(|host| {
                let (control, token) = (&control, &token);
                async move {
                    let key = PrivateKey::generate();
                    redeem(control, token, &key, &format!("host{host}")).await
                }
            });
            let outcomes = futures_util::future::join_all(hosts).await;
            let (made, refused): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
            assert_eq!((made.len(), refused.len()), (1, 7));
            for refused in refused {
                let refused = refused.unwrap_err();
                assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
                assert!(refused.message().contains("is spent"), "{refused:?}");
            }
        }
        let (_, list) = control
            .admin("GET", "/meshes/default/leno/v1/tokens", None)
            .await;
        let spent = |token: &serde_json::Value| {
            token["state"] == "spent" && token["redeemed_by"].as_array().unwrap().len() == 1
        };
        let list = list.as_array().unwrap();
        assert!(list.len() == 10 && list.iter().all(spent), "{list:#?}");
        control.stop().await;
    });
}

#[test]
fn a_live_view_is_a_line_of_json_each_second_until_its_reader_goes() {
    test("live", async |directory| {
        let control = ControlPlane::start(directory.path()).await;
        let path = "/meshes/default/leno/v1/telemetry/edges?window=1s&watch=1";
        let mut lines = raw::lines(&control, path).await;
        for _ in 0..2 {
            let line = lines.next().await;
            assert_eq!(line["edges"], json!([]), "{line}");
            assert!(line["window_seconds"].as_f64().unwrap() >= 1.0, "{line}");
        }
        // A control plane that stops ends it.
        control.stop().await;
        lines.ended().await;
    });
}
