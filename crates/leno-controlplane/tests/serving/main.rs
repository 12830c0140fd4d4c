//! A whole control plane over TLS on loopback, and agents that speak its protocol.
#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![allow(missing_docs, unreachable_pub, reason = "tests")]

mod absence;
mod arrivals;
mod asked;
mod audit;
mod client;
mod copies;
mod documents;
mod fair;
mod hostile;
mod malformed;
mod raw;
mod roles;
mod stubborn;
mod tenants;
mod trust;
mod truth;

use std::collections::BTreeSet;

use client::{
    Agent, ControlPlane, DESTINATION, ENDPOINTS, MESH, Membership, OWN_WORKLOAD, redeem,
    redeem_over, service, stranger, versions,
};
use leno_controlplane::{Bound, Config};
use leno_tls::{Acceptor, PrivateKey, ServerIdentities, TrustBundle, WorkloadCertificate};
use leno_wire::{
    agent::{EdgeDelta, Goodbye, Hello, ProxyState, Report, agent_message, control_message},
    discovery::DeltaDiscoveryRequest,
    mesh as wire,
};
use prost::Message;
use serde_json::{Value, json};
use tonic::Code;

fn test<F: Future<Output = ()>>(name: &str, work: impl FnOnce(tempfile::TempDir) -> F) {
    let directory = tempfile::tempdir().unwrap();
    leno_runtime::block_on_local(name, work(directory));
}

fn cart() -> Value {
    json!({"namespace": "default", "service": "cart"})
}

#[test]
fn a_host_joins_hosts_a_service_and_gets_its_certificate() {
    test("join", async |directory| {
        let control = ControlPlane::start(directory.path()).await;
        let host = Membership::join(&control, "b", cart()).await;
        assert_eq!(host.name, "b");
        let mut agent = host.connect(&control).await;
        let registered = agent.register("cart", 8080, "").await;
        assert_eq!(
            registered.identity,
            "spiffe://default.leno/ns/default/sa/cart"
        );
        let key = PrivateKey::generate();
        let signed = agent.sign(&registered.uid, &key).await.unwrap();
        let bundle =
            TrustBundle::from_pem("default.leno".parse().unwrap(), &signed.trust_bundle).unwrap();
        let now = std::time::SystemTime::now();
        let uid = registered.uid.parse().unwrap();
        let certificate =
            WorkloadCertificate::new(Some(uid), &signed.chain, &key, &bundle, 1, now).unwrap();
        assert_eq!(certificate.identity().as_str(), registered.identity);
        agent.ask(MESH, &["*"]).await;
        // What is compiled soon after another change waits its turn: at first nobody may be in it.
        let mesh = loop {
            let answer = agent.answer().await;
            let body = &answer.resources[0].resource.as_ref().unwrap().value;
            let mesh = wire::Mesh::decode(&**body).unwrap();
            if !mesh.addresses.is_empty() {
                break mesh;
            }
        };
        assert_eq!(mesh.addresses, ["127.0.0.1"]);
        agent.ask(OWN_WORKLOAD, &["*"]).await;
        let answer = agent.answer().await;
        assert_eq!(answer.resources[0].name, registered.uid);
        control.stop().await;
    });
}

#[test]
fn a_host_that_joins_again_stays_itself_with_what_its_new_token_allows() {
    test("again", async |directory| {
        let control = ControlPlane::start(directory.path()).await;
        let first = Membership::join(&control, "b", cart()).await;
        let mut agent = first.connect(&control).await;
        let was = agent.register("cart", 8080, "").await;
        agent
            .say(agent_message::Message::Goodbye(Goodbye { handover: false }))
            .await;
        drop(agent);
        let nobody = |list: &Value| list["items"].as_array().is_some_and(Vec::is_empty);
        let workloads = "/meshes/default/apis/leno.dev/v1alpha1/workloads";
        control.await_document(workloads, nobody).await;
        let wider = json!({"namespace": "default", "services": ["cart", "pay"]});
        let again = first.join_again(&control, wider).await;
        assert_eq!(again.name, "b");
        let mut agent = again.connect(&control).await;
        let is = agent.register("cart", 8080, &was.uid).await;
        assert_eq!((is.uid, is.name), (was.uid, was.name));
        agent.register("pay", 8081, "").await;
        let list = control
            .await_document(workloads, |list| {
                list["items"].as_array().is_some_and(|all| all.len() == 2)
            })
            .await;
        assert!(list["items"][0]["metadata"]["name"].is_string(), "{list}");
        // A copy of a disk whose host is connected is another host; so is one that has nothing to show.
        let copy = again.join_again(&control, cart()).await;
        let other = Membership::join(&control, "b", cart()).await;
        assert_ne!(copy.name, "b");
        assert!(other.name != "b" && other.name != copy.name);
        control.stop().await;
    });
}

#[test]
fn a_certificate_is_given_for_ones_own_workloads_only() {
    test("own", async |directory| {
        let control = ControlPlane::start(directory.path()).await;
        let (a, b) = (
            Membership::join(&control, "a", cart()).await,
            Membership::join(&control, "b", cart()).await,
        );
        let (mut a, b) = (a.connect(&control).await, b.connect(&control).await);
        let registered = a.register("cart", 8080, "").await;
        let refused = b
            .sign(&registered.uid, &PrivateKey::generate())
            .await
            .unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
        assert!(
            refused.message().contains("hosts no workload"),
            "{refused:?}"
        );
        control.stop().await;
    });
}

#[test]
fn a_service_outside_of_the_token_is_refused_and_the_scope_named() {
    test("scope", async |directory| {
        let control = ControlPlane::start(directory.path()).await;
        let host = Membership::join(&control, "b", cart()).await;
        let mut agent = host.connect(&control).await;
        let control_message::Message::Refused(refused) =
            agent.try_register("payments", 80, "").await
        else {
            panic!("not refused")
        };
        assert_eq!(refused.code, "scope");
        assert!(
            refused.message.contains("payments") && refused.message.contains("service cart"),
            "{}",
            refused.message
        );
        control.stop().await;
    });
}

#[test]
fn hosts_that_redeem_one_token_at_the_same_moment_all_join() {
    test("together", async |directory| {
        const HOSTS: usize = 48;
        let control = ControlPlane::start(directory.path()).await;
        let mut scope = cart();
        scope["uses"] = HOSTS.into();
        let token = control.token(scope).await;
        let keys: Vec<PrivateKey> = (0..HOSTS).map(|_| PrivateKey::generate()).collect();
        // They are connected first, so that all of them ask at once.
        let clients = keys.iter().map(|_| stranger(&control, &token));
        let clients = futures_util::future::join_all(clients).await.into_iter();
        let joins = clients.zip(&keys);
        let joins = joins.map(|(client, key)| redeem_over(client, &token, key, "b"));
        let joined = futures_util::future::join_all(joins).await.into_iter();
        let agents: BTreeSet<String> = joined.map(|answer| answer.unwrap().agent).collect();
        assert_eq!(agents.len(), HOSTS);
        control.stop().await;
    });
}

#[test]
fn a_token_that_is_spent_altered_or_unknown_is_refused_with_its_reason() {
    test("tokens", async |directory| {
        let control = ControlPlane::start(directory.path()).await;
        let token = control.token(cart()).await;
        let key = PrivateKey::generate();
        let first = redeem(&control, &token, &key, "b").await.unwrap();
        // A lost answer is had again with the same key.
        let again = redeem(&control, &token, &key, "b").await.unwrap();
        assert_eq!((&first.agent, &first.chain), (&again.agent, &again.chain));
        let other = PrivateKey::generate();
        let reason = |status: tonic::Status| {
            assert_eq!(status.code(), Code::PermissionDenied);
            status.message().to_owned()
        };
        let spent = reason(redeem(&control, &token, &other, "c").await.unwrap_err());
        assert!(spent.contains("is spent: it made b"), "{spent}");
        let mut altered = control.token(cart()).await;
        altered.secret[0] ^= 1;
        let wrong = reason(redeem(&control, &altered, &other, "c").await.unwrap_err());
        assert!(wrong.contains("altered"), "{wrong}");
        let mut unknown = altered.clone();
        unknown.id = "nothere".into();
        let foreign = reason(redeem(&control, &unknown, &other, "c").await.unwrap_err());
        assert!(foreign.contains("another mesh"), "{foreign}");
        let (code, list) = control
            .admin("GET", "/meshes/default/leno/v1/tokens", None)
            .await;
        assert_eq!(code, 200);
        assert!(!list.to_string().contains("secret"), "{list}");
        let states: Vec<&str> = list
            .as_array()
            .unwrap()
            .iter()
            .map(|token| token["state"].as_str().unwrap())
            .collect();
        assert!(
            states.contains(&"spent") && states.contains(&"valid"),
            "{states:?}"
        );
        control.stop().await;
    });
}

#[test]
fn a_name_is_never_given_twice() {
    test("names", async |directory| {
        let control = ControlPlane::start(directory.path()).await;
        let first = Membership::join(&control, "b", cart()).await;
        let second = Membership::join(&control, "b", json!({"service": "web"})).await;
        assert_ne!(first.name, second.name);
        assert!(second.name.starts_with("b-"), "{}", second.name);
        control.stop().await;
    });
}

#[test]
fn names_aliases_and_absence_are_answered_and_changes_follow() {
    test("subscribe", async |directory| {
        let control = ControlPlane::start(directory.path()).await;
        let host = Membership::join(&control, "b", cart()).await;
        let mut agent = host.connect(&control).await;
        agent.ask(DESTINATION, &["svc/default/cart"]).await;
        let absent = agent.answer().await;
        assert_eq!(absent.removed_resources, ["svc/default/cart"]);
        agent.register("cart", 8080, "").await;
        let there = agent.answer().await;
        assert_eq!(versions(&there)[0].0, "svc/default/cart");
        // Perhaps once more, when it has got its addresses.
        let mut message = there.resources[0].resource.clone().unwrap();
        loop {
            let destination = wire::Destination::decode(&*message.value).unwrap();
            let Some(wire::destination::Kind::Service(service)) = destination.kind else {
                panic!("no service")
            };
            if let [v4, v6] = service.vips.as_slice() {
                assert!(
                    v4.starts_with("240.240.") && v6.starts_with("2001:2::"),
                    "{v4} {v6}"
                );
                agent.ask(DESTINATION, &[&format!("ip/{v6}")]).await;
                let alias = agent.answer().await;
                assert_eq!(alias.resources[0].name, "svc/default/cart");
                assert_eq!(alias.resources[0].aliases, [format!("ip/{v6}")]);
                break;
            }
            message = agent.answer().await.resources[0].resource.clone().unwrap();
        }
        agent
            .ask(DESTINATION, &["ip/127.0.0.1", "ip/10.9.9.9"])
            .await;
        let host = agent.answer().await;
        assert_eq!(versions(&host)[0].0, "host/127.0.0.1");
        assert_eq!(host.removed_resources, ["ip/10.9.9.9"]);
        control.stop().await;
    });
}

async fn subscribed(agent: &mut Agent) -> Vec<(String, String)> {
    agent.ask(ENDPOINTS, &["svc/default/cart"]).await;
    loop {
        let answer = agent.answer().await;
        if !answer.resources.is_empty() {
            return versions(&answer);
        }
    }
}

#[test]
fn after_a_restart_unchanged_resources_are_not_sent_again_and_ids_are_kept() {
    test("restart", async |directory| {
        let control = ControlPlane::start(directory.path()).await;
        let host = Membership::join(&control, "b", cart()).await;
        let mut agent = host.connect(&control).await;
        let registered = agent.register("cart", 8080, "").await;
        let held = subscribed(&mut agent).await;
        let status = control
            .await_document("/meshes/default/leno/v1/status", |status| {
                status["services"] == 1
            })
            .await;
        assert_eq!(status["proxies_connected"], 1, "{status:#}");
        control.stop().await;
        drop(agent);
        let control = ControlPlane::start(directory.path()).await;
        let mut agent = host.connect(&control).await;
        // Asked before the workload is back: nothing is taken away.
        agent
            .send(DeltaDiscoveryRequest {
                type_url: ENDPOINTS.into(),
                resource_names_subscribe: vec!["svc/default/cart".into()],
                initial_resource_versions: held.into_iter().collect(),
                ..DeltaDiscoveryRequest::default()
            })
            .await;
        let again = agent.register("cart", 8080, &registered.uid).await;
        assert_eq!((again.uid, again.name), (registered.uid, registered.name));
        assert!(agent.is_silent().await);
        control.stop().await;
    });
}

#[test]
fn a_lease_ends_with_a_goodbye() {
    test("goodbye", async |directory| {
        let control = ControlPlane::start(directory.path()).await;
        let watcher = Membership::join(&control, "w", json!({})).await;
        let mut watcher = watcher.connect(&control).await;
        let host = Membership::join(&control, "b", cart()).await;
        let mut agent = host.connect(&control).await;
        agent.register("cart", 8080, "").await;
        subscribed(&mut watcher).await;
        agent
            .say(agent_message::Message::Goodbye(Goodbye { handover: false }))
            .await;
        // The service stays, and nobody answers for it.
        let left = watcher.answer().await;
        assert!(left.removed_resources.is_empty(), "{left:?}");
        let any = left.resources[0].resource.clone().unwrap();
        let endpoints = leno_wire::mesh::Endpoints::decode(&*any.value).unwrap();
        assert!(endpoints.endpoints.is_empty(), "{endpoints:?}");
        control.stop().await;
    });
}

#[test]
fn a_nack_is_visible_on_the_object_and_at_the_proxy_and_an_ack_programs() {
    test("nack", async |directory| {
        let control = ControlPlane::start(directory.path()).await;
        control
            .apply("/api/v1/namespaces/default/services", service("cart"))
            .await;
        let path = "/meshes/default/api/v1/namespaces/default/services/cart";
        let programmed = |object: &Value, status: &str| {
            let conditions = object["status"]["conditions"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            conditions
                .iter()
                .any(|of| of["type"] == "Programmed" && of["status"] == status)
        };
        let object = control
            .await_document(path, |object| programmed(object, "True"))
            .await;
        assert!(
            object["spec"]["clusterIP"]
                .as_str()
                .unwrap()
                .starts_with("240.240."),
            "{object:#}"
        );
        assert!(object.to_string().contains("0 proxies"), "{object:#}");
        let host = Membership::join(&control, "b", cart()).await;
        let mut agent = host.connect(&control).await;
        agent.ask(DESTINATION, &["svc/default/cart"]).await;
        let answer = agent.answer_unacknowledged().await;
        agent
            .refuse(&answer, "svc/default/cart: vips: too many")
            .await;
        // Until then it is not programmed either: the proxy has not answered.
        control
            .await_document(path, |object| {
                programmed(object, "False")
                    && object.to_string().contains("b rejected: vips: too many")
            })
            .await;
        let (_, proxies) = control
            .admin("GET", "/meshes/default/leno/v1/proxies", None)
            .await;
        assert_eq!(
            proxies[0]["nacks"][0]["resource"], "svc/default/cart",
            "{proxies:#}"
        );
        let (_, config) = control
            .admin("GET", "/meshes/default/leno/v1/proxies/b/config", None)
            .await;
        assert_eq!(config[0]["state"], "nacked", "{config:#}");
        control.stop().await;
    });
}

#[test]
fn what_agents_report_is_seen_as_edges() {
    test("edges", async |directory| {
        let control = ControlPlane::start(directory.path()).await;
        let host = Membership::join(&control, "b", cart()).await;
        let mut agent = host.connect(&control).await;
        let registered = agent.register("cart", 8080, "").await;
        let edge = EdgeDelta {
            source_workload: registered.name.clone(),
            source_identity: registered.identity.clone(),
            destination_service: "catalog.default.svc.cluster.local".into(),
            destination_version: "v1".into(),
            protocol: "grpc".into(),
            mtls: true,
            requests: 7,
            ..EdgeDelta::default()
        };
        let proxy = ProxyState {
            rss_bytes: 42,
            config_version: "9".into(),
            ..ProxyState::default()
        };
        agent
            .say(agent_message::Message::Report(Report {
                outsiders: Vec::new(),
                sequence: 1,
                edges: vec![edge],
                proxy: Some(proxy),
            }))
            .await;
        let path = "/meshes/default/leno/v1/telemetry/edges?window=10s";
        let list = control
            .await_document(path, |list| list["edges"][0]["requests"] == 7)
            .await;
        let edge = &list["edges"][0];
        assert_eq!(
            (&edge["source"], &edge["destination"]),
            (&json!("cart"), &json!("catalog-v1"))
        );
        assert_eq!(
            (&edge["protocol"], &edge["p50_ms"]),
            (&json!("grpc"), &Value::Null)
        );
        let (_, proxies) = control
            .admin("GET", "/meshes/default/leno/v1/proxies", None)
            .await;
        assert_eq!(proxies[0]["rss_bytes"], 42, "{proxies:#}");
        let (code, refused) = control
            .admin(
                "GET",
                "/meshes/default/leno/v1/telemetry/edges?window=1h",
                None,
            )
            .await;
        assert_eq!(code, 422, "{refused}");
        control.stop().await;
    });
}

#[test]
fn an_agent_may_not_use_the_api_and_a_stranger_may_do_nothing_but_redeem() {
    test("strangers", async |directory| {
        let control = ControlPlane::start(directory.path()).await;
        let host = Membership::join(&control, "b", cart()).await;
        for path in ["tokens", "proxies", "status", "telemetry/edges"] {
            let (code, body) = host
                .get(&control, &format!("/meshes/default/leno/v1/{path}"))
                .await;
            assert_eq!(code, 403, "{path}: {body}");
        }
        let (code, body) = host.get(&control, "/meshes/default/api/v1/services").await;
        assert_eq!(code, 403, "{body}");
        let (code, body) = host.get(&control, "/meshes/other/leno/v1/status").await;
        assert_eq!(code, 403, "{body}");
        let (code, body) = control
            .admin("GET", "/meshes/other/leno/v1/status", None)
            .await;
        assert_eq!(code, 404, "{body}");
        let (code, meshes) = control.admin("GET", "/meshes", None).await;
        assert_eq!((code, &meshes[0]["name"]), (200, &json!("default")));
        control.stop().await;
    });
}

#[test]
fn the_machines_own_agent_needs_no_token_and_may_host_anything() {
    test("local", async |directory| {
        let control = ControlPlane::start(directory.path()).await;
        let host = Membership::of_this_machine(&control).await;
        let mut agent = host.connect(&control).await;
        agent.register("payments", 8080, "").await;
        control.stop().await;
    });
}

#[test]
fn a_second_session_of_an_agent_ends_the_first() {
    test("replaced", async |directory| {
        let control = ControlPlane::start(directory.path()).await;
        let host = Membership::join(&control, "b", cart()).await;
        let mut first = host.connect(&control).await;
        let mut second = host.connect(&control).await;
        let ended = first.ended().await.unwrap();
        assert_eq!(ended.code(), Code::Aborted, "{ended:?}");
        second.register("cart", 8080, "").await;
        control.stop().await;
    });
}

#[test]
fn a_further_address_counts_once_the_agent_answers_at_it() {
    test("challenge", async |directory| {
        let control = ControlPlane::start(directory.path()).await;
        let host = Membership::join(&control, "b", cart()).await;
        let proxy = tokio::net::TcpListener::bind("127.0.0.2:0").await.unwrap();
        let hello = Hello {
            addresses: vec!["127.0.0.1".into(), "127.0.0.2".into(), "127.0.0.3".into()],
            hbone_port: proxy.local_addr().unwrap().port().into(),
            ..Hello::default()
        };
        let mut agent = host.connect_with(&control, hello).await;
        let registered = agent.register("cart", 8080, "").await;
        let (key, now) = (PrivateKey::generate(), std::time::SystemTime::now());
        let signed = agent.sign(&registered.uid, &key).await.unwrap();
        let uid = registered.uid.parse().unwrap();
        let certificate =
            WorkloadCertificate::new(Some(uid), &signed.chain, &key, &host.bundle, 1, now).unwrap();
        let identities = ServerIdentities::new(vec![certificate], host.bundle.clone(), now);
        let acceptor = Acceptor::new(&identities).unwrap();
        let (socket, _) = proxy.accept().await.unwrap();
        let accepted = acceptor.accept(socket).await.unwrap();
        assert_eq!(
            accepted.peer.identity.as_str(),
            "spiffe://default.leno/leno/control-plane"
        );
        let path = "/meshes/default/leno/v1/proxies";
        let both = json!(["127.0.0.1", "127.0.0.2"]);
        control
            .await_document(path, |proxies| proxies[0]["addresses"] == both)
            .await;
        control.stop().await;
    });
}

#[test]
fn a_taken_port_is_named_with_its_holder() {
    test("taken", async |directory| {
        let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut config = Config::new(directory.path().join("data"));
        config.listen = vec![holder.local_addr().unwrap()];
        config.metrics = None;
        let error = Bound::bind(config).await.unwrap_err().to_string();
        let pid = std::process::id();
        assert!(error.contains(&format!("is taken by pid {pid}")), "{error}");
        assert!(error.contains("--listen"), "{error}");
    });
}

#[test]
fn a_second_control_plane_on_one_data_directory_says_so() {
    test("second", async |directory| {
        let control = ControlPlane::start(directory.path()).await;
        let mut config = Config::new(directory.path().join("data"));
        config.listen = vec!["127.0.0.1:0".parse().unwrap()];
        let error = Bound::bind(config).await.unwrap_err();
        let source = std::error::Error::source(&error)
            .map(ToString::to_string)
            .unwrap_or_default();
        assert!(
            format!("{error} {source}").contains("in use by another process"),
            "{error}: {source}"
        );
        control.stop().await;
    });
}

#[test]
fn metrics_tell_of_the_mesh() {
    test("metrics", async |directory| {
        let mut config = Config::new(directory.path().join("data"));
        config.listen = vec!["127.0.0.1:0".parse().unwrap()];
        config.metrics = Some("127.0.0.1:0".parse().unwrap());
        let bound = Bound::bind(config).await.unwrap();
        let address = bound.metrics_address().unwrap();
        let stop = leno_runtime::Stop::new();
        let asking = async {
            let socket = tokio::net::TcpStream::connect(address).await.unwrap();
            let (code, text) = client::request(socket, "GET", "/metrics", None).await;
            stop.trigger();
            (code, text)
        };
        let (served, (code, text)) = tokio::join!(bound.serve(stop.clone()), asking);
        served.unwrap();
        assert_eq!(code, 200);
        let text = text.as_str().unwrap();
        for line in [
            "leno_registry_workloads{mesh=\"default\"} 0",
            "leno_store_commit_seconds_count",
            "leno_ca_intermediate_expiry_seconds{mesh=\"default\"}",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    });
}
