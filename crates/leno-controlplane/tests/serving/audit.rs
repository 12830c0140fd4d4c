//! Who changed what is written down: for every kind of change, with what was there before, and for refusals.

use std::fs;

use serde_json::{Value, json};

use super::{ControlPlane, Membership, cart, client::service, test};

const SERVICES: &str = "/meshes/default/api/v1/namespaces/default/services";
const AUDIT: &str = "/meshes/default/leno/v1/audit";

fn lines(text: &Value) -> Vec<Value> {
    let text = match text {
        Value::String(text) => text.clone(),
        one => one.to_string(),
    };
    let parse = |line: &str| serde_json::from_str(line).unwrap();
    text.lines().map(parse).collect()
}

async fn log(control: &ControlPlane) -> Vec<Value> {
    let (code, text) = control.admin("GET", AUDIT, None).await;
    assert_eq!(code, 200, "{text}");
    lines(&text)
}

/// Verb, kind, name, outcome.
fn said(line: &Value) -> String {
    let text = |field: &str| line[field].as_str().unwrap_or_default();
    let (verb, kind, name) = (text("verb"), text("kind"), text("name"));
    format!("{verb} {kind} {name} {}", text("outcome"))
}

#[test]
fn every_change_has_a_line_with_who_and_what_and_no_secret() {
    test("audit", async |directory| {
        let control = ControlPlane::start(directory.path()).await;
        let alice = Membership::person(&control, "alice").await;
        let ask = async |method: &str, path: &str, body: Option<Value>| {
            let (code, answer) = alice.request(&control, method, path, body).await;
            assert!(code < 300, "{method} {path}: {answer}");
            answer
        };
        ask("POST", SERVICES, Some(service("web"))).await;
        // Nothing changes: a dry run, and the same once more.
        ask(
            "POST",
            &format!("{SERVICES}?dryRun=All"),
            Some(service("dry")),
        )
        .await;
        let mut changed = service("web");
        changed["spec"]["ports"][0]["port"] = json!(81);
        let batch = json!({"items": [changed, service("shop")]});
        ask("POST", "/meshes/default/leno/v1/apply", Some(batch.clone())).await;
        ask("POST", "/meshes/default/leno/v1/apply", Some(batch)).await;
        ask("DELETE", &format!("{SERVICES}/web"), None).await;
        let token = ask("POST", "/meshes/default/leno/v1/tokens", Some(cart())).await;
        let id = token["id"].as_str().unwrap().to_owned();
        let secret = token["token"].as_str().unwrap().to_owned();
        ask(
            "DELETE",
            &format!("/meshes/default/leno/v1/tokens/{id}"),
            None,
        )
        .await;
        let host = Membership::join(&control, "b", cart()).await;
        ask(
            "DELETE",
            &format!("/meshes/default/leno/v1/agents/{}", host.name),
            None,
        )
        .await;
        let all = log(&control).await;
        let told: Vec<String> = all.iter().map(said).collect();
        let joined = told.iter().find(|line| line.contains("joined")).unwrap();
        assert_eq!(joined, "joined Agent b done");
        let expected = [
            "created User alice done".to_owned(),
            "created Service web done".into(),
            "configured Service web done".into(),
            "created Service shop done".into(),
            "deleted Service web done".into(),
            format!("created Token {id} done"),
            format!("deleted Token {id} done"),
        ];
        assert_eq!(told[..7], expected, "{told:?}");
        assert_eq!(told.last().unwrap(), "revoked Agent b done");
        let (configured, deleted) = (&all[2], &all[4]);
        assert_eq!(configured["who"], "spiffe://default.leno/leno/user/alice");
        assert_eq!(configured["from"], "127.0.0.1");
        assert_eq!(configured["before"]["spec"]["ports"][0]["port"], 80);
        assert_eq!(configured["after"]["spec"]["ports"][0]["port"], 81);
        assert!(deleted["before"].is_object() && deleted["after"].is_null());
        let revisions: Vec<u64> = all
            .iter()
            .map(|line| line["revision"].as_u64().unwrap())
            .collect();
        assert!(revisions.is_sorted(), "{revisions:?}");
        let text = fs::read_to_string(directory.path().join("data/audit/default/changes.ndjson"));
        let text = text.unwrap();
        let middle = &secret[20..60];
        assert!(
            !text.contains(middle) && !text.contains("secret_hash"),
            "{text}"
        );
        assert!(
            !text.contains("PRIVATE KEY") && !text.contains("BEGIN"),
            "{text}"
        );
        // It is there after a restart.
        control.stop().await;
        let control = ControlPlane::start(directory.path()).await;
        assert_eq!(log(&control).await.len(), all.len());
        let (_, none) = control
            .admin("GET", &format!("{AUDIT}?since=0s"), None)
            .await;
        assert!(lines(&none).is_empty(), "{none}");
        let (code, _) = control
            .admin("GET", &format!("{AUDIT}?since=x"), None)
            .await;
        assert_eq!(code, 422);
        control.stop().await;
    });
}

#[test]
fn who_was_refused_is_written_down_too() {
    test("audit-refused", async |directory| {
        let control = ControlPlane::start(directory.path()).await;
        let host = Membership::join(&control, "b", cart()).await;
        let (code, _) = host
            .request(&control, "POST", SERVICES, Some(service("web")))
            .await;
        assert_eq!(code, 403);
        let tokens = "/meshes/default/leno/v1/tokens";
        let (code, _) = host.request(&control, "POST", tokens, Some(cart())).await;
        assert_eq!(code, 403);
        let (code, _) = control.admin("POST", SERVICES, Some(service("web"))).await;
        assert_eq!(code, 201);
        let (code, _) = control.admin("POST", SERVICES, Some(service("web"))).await;
        assert_eq!(code, 409);
        // A dry run changes nothing and is no attempt; what only looks like one in the text of the query, is.
        let again = Some(service("web"));
        for (query, code) in [("dryRun=All", 409), ("ask=dryRun=All", 409)] {
            let path = format!("{SERVICES}?{query}");
            assert_eq!(control.admin("POST", &path, again.clone()).await.0, code);
        }
        let all = log(&control).await;
        let refused: Vec<(u64, &str, &str)> = all
            .iter()
            .filter(|line| line["outcome"] == "refused")
            .map(|line| {
                let text = |field: &str| line[field].as_str().unwrap();
                (line["code"].as_u64().unwrap(), text("who"), text("kind"))
            })
            .collect();
        let agent = "spiffe://default.leno/leno/agent/b";
        let owner = format!("uid {}", rustix::process::getuid().as_raw());
        assert_eq!(
            refused,
            [
                (403, agent, "Service"),
                (403, agent, "path"),
                (409, &*owner, "Service"),
                (409, &*owner, "Service")
            ]
        );
        control.stop().await;
    });
}

#[test]
fn a_mesh_sees_its_own_lines_only() {
    test("audit-meshes", async |directory| {
        let control = ControlPlane::start(directory.path()).await;
        let made = control
            .admin("POST", "/meshes", Some(json!({"name": "shop"})))
            .await;
        assert_eq!(made.0, 201);
        let (code, _) = control.admin("POST", SERVICES, Some(service("web"))).await;
        assert_eq!(code, 201);
        let (_, text) = control
            .admin("GET", "/meshes/shop/leno/v1/audit", None)
            .await;
        let told: Vec<String> = lines(&text).iter().map(said).collect();
        assert_eq!(told, ["created Mesh shop done"]);
        let told: Vec<String> = log(&control).await.iter().map(said).collect();
        assert_eq!(told, ["created Service web done"]);
        let (code, _) = control.admin("DELETE", "/meshes/shop", None).await;
        assert_eq!(code, 200);
        let kept = directory
            .path()
            .join("data/audit/shop.removed/changes.ndjson");
        assert!(fs::read_to_string(kept).unwrap().contains("deleted"));
        control.stop().await;
    });
}

#[test]
fn a_change_that_cannot_be_written_down_is_not_made() {
    test("audit-full", async |directory| {
        let control = ControlPlane::start(directory.path()).await;
        let blocked = directory.path().join("data/audit");
        fs::write(&blocked, "in the way").unwrap();
        let headless = |number| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": format!("s{number}"), "namespace": "default"}, "spec": {"clusterIP": "None", "ports": [{"port": 80}]}});
        let made = 1_024;
        let batch = json!({"items": (0..made).map(headless).collect::<Vec<_>>()});
        let apply = "/meshes/default/leno/v1/apply";
        let (code, answer) = control.admin("POST", apply, Some(batch)).await;
        assert_eq!(code, 200, "{answer}");
        let refused = control.admin("POST", SERVICES, Some(service("web"))).await;
        let text = refused.1["message"].as_str().unwrap();
        assert!(
            refused.0 == 507 && text.contains("audit log"),
            "{refused:?}"
        );
        fs::remove_file(&blocked).unwrap();
        // What waited is written, and changes are made again.
        let tried = async || {
            control
                .admin("POST", SERVICES, Some(service("web")))
                .await
                .0
        };
        while tried().await == 507 {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        assert_eq!(log(&control).await.len(), made + 1);
        control.stop().await;
    });
}
