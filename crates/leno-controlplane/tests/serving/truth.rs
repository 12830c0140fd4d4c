//! What is said of objects and proxies is what the proxies said: acknowledged, refused, not understood, away.

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
