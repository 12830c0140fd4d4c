//! What is said of objects and proxies is what the proxies said: acknowledged, refused, not understood, away.

use leno_controlplane::{Bound, Config};
use leno_wire::agent::{Goodbye, Hello, agent_message};
use serde_json::{Value, json};

use super::{ControlPlane, Membership, OWN_WORKLOAD, cart, test};

const PROXIES: &str = "/meshes/default/leno/v1/proxies";
const POLICIES: &str = "/apis/leno.dev/v1alpha1/namespaces/default/accesspolicies";

fn policy() -> Value {
    json!({
        "apiVersion": "leno.dev/v1alpha1",
        "kind": "AccessPolicy",
        "metadata": {"name": "cart", "namespace": "default"},
        "spec": {
            "targetRefs": [{"kind": "Service", "name": "cart"}],
            "action": "Allow",
            "rules": [{"from": [{"serviceAccounts": ["default/web"]}]}],
        },
    })
}

fn knowing(features: &[&str], version: &str) -> Hello {
    Hello {
        addresses: vec!["127.0.0.1".into()],
        features: features.iter().map(ToString::to_string).collect(),
        version: version.into(),
        ..Hello::default()
    }
}

/// The condition `Programmed` of an object.
fn programmed(object: &Value) -> (&str, &str, &str) {
    let conditions = object["status"]["conditions"].as_array();
    let of = conditions
        .into_iter()
        .flatten()
        .find(|of| of["type"] == "Programmed");
    let text = |name: &str| of.and_then(|of| of[name].as_str()).unwrap_or_default();
    (text("status"), text("reason"), text("message"))
}

#[test]
fn a_policy_that_a_proxy_does_not_understand_is_not_programmed_and_said_to_deny() {
    test("features", async |directory| {
        let control = ControlPlane::start(directory.path()).await;
        let host = Membership::join(&control, "b", cart()).await;
        let mut agent = host
            .connect_with(&control, knowing(&["later/v1"], "0.1.0"))
            .await;
        let registered = agent.register("cart", 8080, "").await;
        agent.ask(OWN_WORKLOAD, &["*"]).await;
        agent.answer().await;
        // Without a rule there is nothing to understand.
        let well = control
            .await_document(PROXIES, |proxies| proxies[0]["state"] == "in-sync")
            .await;
        assert_eq!(well[0]["features"], json!(["later/v1"]), "{well:#}");
        control.apply(POLICIES, policy()).await;
        let answer = agent.answer().await;
        assert_eq!(answer.resources[0].name, registered.uid);
        let path = format!("/meshes/default{POLICIES}/cart");
        let shown = control
            .await_document(&path, |object| programmed(object).1 == "NotUnderstood")
            .await;
        let (status, _, message) = programmed(&shown);
        assert_eq!(status, "False", "{shown:#}");
        assert!(
            message.contains("0 of 1 proxies, b lets nobody in instead")
                && message.contains("access/v1"),
            "{message}"
        );
        let proxies = control
            .await_document(PROXIES, |proxies| proxies[0]["state"] == "denies")
            .await;
        let missing = json!([{"feature": "access/v1", "workloads": [registered.name]}]);
        assert_eq!(proxies[0]["missing"], missing, "{proxies:#}");
        let (_, status) = control
            .admin("GET", "/meshes/default/leno/v1/status", None)
            .await;
        let findings = status["findings"].to_string();
        assert!(findings.contains("b does not know access/v1"), "{status:#}");
        // Updated, it understands.
        drop(agent);
        let mut agent = host
            .connect_with(&control, knowing(&["access/v1"], "0.1.0"))
            .await;
        agent.register("cart", 8080, &registered.uid).await;
        agent.ask(OWN_WORKLOAD, &["*"]).await;
        agent.answer().await;
        let shown = control
            .await_document(&path, |object| programmed(object).0 == "True")
            .await;
        assert_eq!(programmed(&shown).2, "1 of 1 proxies", "{shown:#}");
        control.stop().await;
    });
}

#[test]
fn a_proxy_that_is_away_is_told_of_until_it_is_back_and_one_that_said_goodbye_is_not_missed() {
    test("away", async |directory| {
        let control = ControlPlane::start(directory.path()).await;
        let host = Membership::join(&control, "b", cart()).await;
        let is = async |control: &ControlPlane, word: &str| {
            let seen = control
                .await_document(PROXIES, |proxies| proxies[0]["state"] == word)
                .await;
            let (_, status) = control
                .admin("GET", "/meshes/default/leno/v1/status", None)
                .await;
            (seen[0].clone(), status)
        };
        // Joined, and not seen yet.
        let (proxy, status) = is(&control, "away").await;
        assert_eq!((&proxy["host"], &proxy["since"]), (&json!("b"), &json!("")));
        assert_eq!(status["proxies_disconnected"], 1, "{status:#}");
        let agent = host
            .connect_with(&control, knowing(&["access/v1"], "0.0.1"))
            .await;
        let (proxy, _) = is(&control, "behind").await;
        assert_eq!(proxy["skew"], "older", "{proxy:#}");
        drop(agent);
        let (proxy, status) = is(&control, "away").await;
        assert!(
            proxy["since"]
                .as_str()
                .is_some_and(|since| !since.is_empty()),
            "{proxy:#}"
        );
        let findings = status["findings"].to_string();
        assert!(findings.contains("the agent of b is away"), "{status:#}");
        let agent = host
            .connect_with(&control, knowing(&["access/v1"], "0.1.0"))
            .await;
        agent
            .say(agent_message::Message::Goodbye(Goodbye { handover: false }))
            .await;
        let (_, status) = is(&control, "stopped").await;
        assert_eq!(status["findings"], json!([]), "{status:#}");
        // Also after a restart it is known that nobody is missed.
        control.stop().await;
        let control = ControlPlane::start(directory.path()).await;
        let (_, status) = is(&control, "stopped").await;
        assert_eq!(status["proxies_disconnected"], 0, "{status:#}");
        control.stop().await;
    });
}

/// A store as the first Leno with its schema wrote it.
const EARLIER: &[u8] = include_bytes!("../../../leno-store/testdata/schema-1.db");

fn data_of(directory: &tempfile::TempDir, store: &[u8]) -> std::path::PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let data = directory.path().join("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o700)).unwrap();
    std::fs::write(data.join("store.db"), store).unwrap();
    data
}

#[test]
fn what_an_earlier_version_stored_is_in_force_with_this_one() {
    test("earlier", async |directory| {
        // A store is not opened without its mesh's keys.
        ControlPlane::start(directory.path()).await.stop().await;
        let data = directory.path().join("data");
        for beside in ["store.db-wal", "store.db-shm"] {
            drop(std::fs::remove_file(data.join(beside)));
        }
        std::fs::write(data.join("store.db"), EARLIER).unwrap();
        let control = ControlPlane::start_with(directory.path(), |config| {
            config.metrics = Some("127.0.0.1:0".parse().unwrap());
        })
        .await;
        for (path, names) in [
            ("api/v1/services", &["cart", "web"][..]),
            ("apis/gateway.networking.k8s.io/v1/httproutes", &["cart"]),
            ("apis/leno.dev/v1alpha1/accesspolicies", &["cart", "deny"]),
            ("apis/leno.dev/v1alpha1/hostnamegenerators", &["shop"]),
        ] {
            let there = |list: &Value| {
                let items = list["items"].as_array().cloned().unwrap_or_default();
                names.iter().all(|name| {
                    let of = items.iter().find(|of| of["metadata"]["name"] == *name);
                    // Not only stored: it is compiled, and says so.
                    of.is_some_and(|of| of["status"].to_string().contains("Accepted"))
                })
            };
            control
                .await_document(&format!("/meshes/default/{path}"), there)
                .await;
        }
        let proxies = control
            .await_document(PROXIES, |list| {
                list.as_array().is_some_and(|all| all.len() == 2)
            })
            .await;
        let hosts: Vec<&Value> = proxies
            .as_array()
            .into_iter()
            .flatten()
            .map(|proxy| &proxy["host"])
            .collect();
        assert_eq!(hosts, ["a", "b"], "{proxies:#}");
        let (_, tokens) = control
            .admin("GET", "/meshes/default/leno/v1/tokens", None)
            .await;
        assert_eq!(tokens.as_array().map(Vec::len), Some(2), "{tokens:#}");
        let refused = "leno_controlplane_objects_refused_total{mesh=\"default\"} 0\n";
        let text = control.scrape().await;
        assert!(text.contains(refused), "{text}");
        control.stop().await;
    });
}

#[test]
fn what_a_later_version_stored_is_refused_with_what_to_do() {
    test("later", async |directory| {
        let mut later = EARLIER.to_vec();
        later[60..64].copy_from_slice(&9_u32.to_be_bytes());
        let mut config = Config::new(data_of(&directory, &later));
        config.listen = vec!["127.0.0.1:0".parse().unwrap()];
        config.metrics = None;
        let error = Bound::bind(config).await.unwrap_err();
        let source = std::error::Error::source(&error).map(ToString::to_string);
        let text = format!("{error}: {}", source.unwrap_or_default());
        assert!(
            text.contains("schema version 9") && text.contains("run the Leno that wrote it"),
            "{text}"
        );
    });
}
