//! What people read and take away beside objects: tokens, the authority, totals, what a proxy has.

use leno_tls::PrivateKey;
use leno_wire::mesh as wire;
use prost::Message;
use serde_json::json;
use tonic::Code;

use super::{ControlPlane, ENDPOINTS, MESH, Membership, cart, redeem, service, test};

#[test]
fn proxies_are_told_the_namespaces_that_have_services() {
    test("namespaces", async |directory| {
        let control = ControlPlane::start(directory.path()).await;
        let host = Membership::join(&control, "b", cart()).await;
        let mut agent = host.connect(&control).await;
        agent.ask(MESH, &["*"]).await;
        let mut told = async || {
            let answer = agent.answer().await;
            let body = answer.resources[0].resource.clone().unwrap().value;
            wire::Mesh::decode(&*body).unwrap().namespaces
        };
        assert_eq!(told().await, [""; 0]);
        let mut vault = service("vault");
        vault["metadata"]["namespace"] = json!("bank");
        control
            .apply("/api/v1/namespaces/bank/services", vault)
            .await;
        while told().await != ["bank"] {}
        control.stop().await;
    });
}

#[test]
fn a_batch_that_gives_two_services_one_address_is_refused_whole() {
    test("addresses", async |directory| {
        let control = ControlPlane::start(directory.path()).await;
        let named = |name: &str| {
            let mut service = service(name);
            service["spec"]["clusterIP"] = json!("240.240.0.9");
            service
        };
        let batch = json!({"items": [named("a"), named("b")]});
        let path = "/meshes/default/leno/v1/apply";
        let (code, answer) = control.admin("POST", path, Some(batch)).await;
        let told = answer.to_string();
        assert_eq!(code, 422, "{told}");
        assert!(told.contains("belongs to service default/a"), "{told}");
        let list = "/meshes/default/api/v1/namespaces/default/services";
        let (_, services) = control.admin("GET", list, None).await;
        assert_eq!(services["items"], json!([]), "nothing of it is written");
        let batch = json!({"items": [named("a")]});
        let (code, answer) = control.admin("POST", path, Some(batch)).await;
        assert_eq!(code, 200, "{answer}");
        control.stop().await;
    });
}

#[test]
fn a_deleted_token_makes_no_agent() {
    test("deletion", async |directory| {
        let control = ControlPlane::start(directory.path()).await;
        let token = control.token(cart()).await;
        let path = format!("/meshes/default/leno/v1/tokens/{}", token.id);
        let (code, answer) = control.admin("DELETE", &path, None).await;
        assert_eq!(code, 200, "{answer}");
        let refused = redeem(&control, &token, &PrivateKey::generate(), "b").await;
        assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
        let (_, list) = control
            .admin("GET", "/meshes/default/leno/v1/tokens", None)
            .await;
        assert_eq!(list, json!([]));
        control.stop().await;
    });
}

#[test]
fn the_authority_and_totals_are_shown() {
    test("authority", async |directory| {
        let control = ControlPlane::start(directory.path()).await;
        let token = control.token(cart()).await;
        let (code, ca) = control
            .admin("GET", "/meshes/default/leno/v1/ca", None)
            .await;
        assert_eq!((code, &ca["trust_domain"]), (200, &json!("default.leno")));
        assert_eq!(ca["pins"].as_array().unwrap().len(), token.pins.len());
        assert!(ca["bundle"].as_str().unwrap().contains("BEGIN CERTIFICATE"));
        assert_eq!(ca["workload_ttl_seconds"], 86_400);
        let path = "/meshes/default/leno/v1/telemetry/totals";
        let (code, totals) = control.admin("GET", path, None).await;
        assert_eq!((code, &totals["edges"]), (200, &json!([])));
        control.stop().await;
    });
}

#[test]
fn the_endpoints_a_proxy_has_are_shown() {
    test("shown", async |directory| {
        let control = ControlPlane::start(directory.path()).await;
        let host = Membership::join(&control, "b", cart()).await;
        let mut agent = host.connect(&control).await;
        agent.register("cart", 8080, "").await;
        agent.ask(ENDPOINTS, &["svc/default/cart"]).await;
        while agent.answer().await.resources.is_empty() {}
        let path = "/meshes/default/leno/v1/proxies/b/endpoints";
        let shown = control
            .await_document(path, |shown| shown[0]["state"] == "acked")
            .await;
        assert_eq!(shown[0]["name"], "svc/default/cart", "{shown:#}");
        control.stop().await;
    });
}
