//! Several meshes on one control plane: made and removed while it runs, and nothing of one reachable from another.

use std::{fs, path::Path};

use leno_tls::PrivateKey;
use leno_types::JoinToken;
use serde_json::{Value, json};
use tonic::Code;

use super::{
    ControlPlane, DESTINATION, ENDPOINTS, Membership, cart, client::service, redeem, test,
};

async fn make(control: &ControlPlane, name: &str) -> Value {
    let (code, answer) = control
        .admin("POST", "/meshes", Some(json!({"name": name})))
        .await;
    assert_eq!(code, 201, "{answer}");
    answer
}

async fn token(control: &ControlPlane, mesh: &str, scope: Value) -> JoinToken {
    let path = format!("/meshes/{mesh}/leno/v1/tokens");
    let (code, answer) = control.admin("POST", &path, Some(scope)).await;
    assert_eq!(code, 201, "{answer}");
    answer["token"].as_str().unwrap().parse().unwrap()
}

async fn join(control: &ControlPlane, mesh: &str, host: &str) -> Membership {
    let token = token(control, mesh, cart()).await;
    let key = PrivateKey::generate();
    let answer = redeem(control, &token, &key, host).await.unwrap();
    assert_eq!(answer.mesh, mesh);
    Membership::of(&answer, &key)
}

async fn names(control: &ControlPlane) -> Vec<String> {
    let (_, list) = control.admin("GET", "/meshes", None).await;
    let all = list.as_array().unwrap().iter();
    all.map(|mesh| mesh["name"].as_str().unwrap().to_owned())
        .collect()
}

fn cart_of(mesh: &str) -> String {
    format!("/meshes/{mesh}/api/v1/namespaces/default/services")
}

#[test]
fn two_meshes_of_the_same_names_share_nothing() {
    test("tenants", async |directory| {
        let control = ControlPlane::start(directory.path()).await;
        let made = make(&control, "shop").await;
        assert_eq!(made["trust_domain"], "shop.leno");
        let (ours, theirs) = (
            join(&control, "default", "b").await,
            join(&control, "shop", "b").await,
        );
        assert_eq!((&*ours.name, &*theirs.name), ("b", "b"), "a name each");
        assert_ne!(ours.bundle.pins(), theirs.bundle.pins());
        let (mut ours, mut theirs) = (ours.connect(&control).await, theirs.connect(&control).await);
        let here = ours.register("cart", 8080, "").await;
        let there = theirs.register("cart", 8080, "").await;
        assert_eq!(here.identity, "spiffe://default.leno/ns/default/sa/cart");
        assert_eq!(there.identity, "spiffe://shop.leno/ns/default/sa/cart");
        assert_ne!(here.uid, there.uid);
        // A certificate is given by a workload's own mesh, and asked for by its own host, only.
        let refused = ours
            .sign(&there.uid, &PrivateKey::generate())
            .await
            .unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
        // The same questions: each is told of its own.
        for (agent, own, other) in [
            (&mut ours, &here.uid, &there.uid),
            (&mut theirs, &there.uid, &here.uid),
        ] {
            agent.ask(DESTINATION, &["default/cart"]).await;
            let destination = format!("{:?}", agent.answer().await);
            assert!(!destination.contains(other.as_str()), "{destination}");
            agent.ask(ENDPOINTS, &["svc/default/cart"]).await;
            let endpoints = loop {
                let answer = agent.answer().await;
                if let Some(first) = answer.resources.first() {
                    let bytes = &first.resource.as_ref().unwrap().value;
                    break String::from_utf8_lossy(bytes).into_owned();
                }
            };
            assert!(endpoints.contains(own.as_str()), "{endpoints}");
            assert!(!endpoints.contains(other.as_str()), "{endpoints}");
        }
        // The same addresses are given in both: nothing crosses, so nothing collides.
        for mesh in ["default", "shop"] {
            let (code, answer) = control
                .admin("POST", &cart_of(mesh), Some(service("web")))
                .await;
            assert_eq!(code, 201, "{answer}");
        }
        let (_, one) = control
            .admin("GET", &format!("{}/web", cart_of("default")), None)
            .await;
        let (_, other) = control
            .admin("GET", &format!("{}/web", cart_of("shop")), None)
            .await;
        assert_ne!(one["metadata"]["uid"], other["metadata"]["uid"]);
        assert_eq!(one["spec"]["clusterIPs"], other["spec"]["clusterIPs"]);
        control.stop().await;
    });
}

#[test]
fn a_token_lets_into_the_mesh_it_names_and_no_other() {
    test("tenants-tokens", async |directory| {
        let control = ControlPlane::start(directory.path()).await;
        make(&control, "shop").await;
        let own = token(&control, "default", cart()).await;
        let mut token = token(&control, "shop", cart()).await;
        let key = PrivateKey::generate();
        token.mesh = "default".parse().unwrap();
        token.pins.clone_from(&own.pins);
        let refused = redeem(&control, &token, &key, "c").await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
        assert!(refused.message().contains("another mesh"), "{refused:?}");
        token.mesh = "nowhere".parse().unwrap();
        let refused = redeem(&control, &token, &key, "c").await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
        assert!(refused.message().contains("nowhere"), "{refused:?}");
        control.stop().await;
    });
}

#[test]
fn a_removed_mesh_takes_its_people_and_hosts_with_it_and_leaves_the_others() {
    test("tenants-removed", async |directory| {
        let control = ControlPlane::start(directory.path()).await;
        make(&control, "shop").await;
        let (stays, goes) = (
            join(&control, "default", "b").await,
            join(&control, "shop", "b").await,
        );
        let (mut stays, mut goes) = (stays.connect(&control).await, goes.connect(&control).await);
        stays.register("cart", 8080, "").await;
        goes.register("cart", 8080, "").await;
        let path = cart_of("shop");
        let (code, _) = control.admin("POST", &path, Some(service("first"))).await;
        assert_eq!(code, 201);
        let (code, answer) = control.admin("DELETE", "/meshes/shop", None).await;
        assert_eq!(code, 409, "{answer}");
        let text = answer["message"].as_str().unwrap();
        assert!(text.contains("1 of its 1 hosts"), "{text}");
        let (code, answer) = control.admin("DELETE", "/meshes/default", None).await;
        assert_eq!(code, 409, "{answer}");
        let (code, answer) = control
            .admin("DELETE", "/meshes/shop?purge=true", None)
            .await;
        assert_eq!((code, &answer["agents"]), (200, &json!(1)), "{answer}");
        assert!(goes.ended().await.is_some());
        assert_eq!(names(&control).await, ["default"]);
        assert!(!directory.path().join("data/meshes/shop").exists());
        // One of the same name and trust domain is another, and who was let in by the first is a stranger.
        make(&control, "shop").await;
        let (_, agents) = control
            .admin("GET", "/meshes/shop/leno/v1/agents", None)
            .await;
        assert_eq!(agents, json!([]));
        join(&control, "shop", "b").await.connect(&control).await;
        // Nor is anything of the first to be read in the history that both share.
        for query in [
            "watch=true&resourceVersion=2&timeoutSeconds=1",
            "resourceVersion=2&resourceVersionMatch=Exact",
        ] {
            for path in ["api/v1/services", "apis/leno.dev/v1alpha1/workloads"] {
                let path = format!("/meshes/shop/{path}?{query}");
                let (code, answer) = control.admin("GET", &path, None).await;
                let told = format!("{path}: {code} {answer}");
                assert!(code == 410 || told.contains("\"code\":410"), "{told}");
                assert!(!told.contains("first"), "{told}");
            }
        }
        stays.register("cart", 8081, "").await;
        control.stop().await;
    });
}

#[test]
fn meshes_outlive_their_control_plane_with_their_authority() {
    test("tenants-restart", async |directory| {
        let control = ControlPlane::start(directory.path()).await;
        make(&control, "shop").await;
        let host = join(&control, "shop", "b").await;
        let path = cart_of("shop");
        let (code, _) = control.admin("POST", &path, Some(service("web"))).await;
        assert_eq!(code, 201);
        control.stop().await;
        let control = ControlPlane::start(directory.path()).await;
        assert_eq!(names(&control).await, ["default", "shop"]);
        let mut agent = host.connect(&control).await;
        agent.register("cart", 8080, "").await;
        let (code, _) = control.admin("GET", &format!("{path}/web"), None).await;
        assert_eq!(code, 200);
        control.stop().await;
        // Started as that mesh, it is the same one, whatever it was called before.
        let shop = |config: &mut leno_controlplane::Config| config.mesh = "shop".parse().unwrap();
        let control = ControlPlane::start_with(directory.path(), shop).await;
        host.connect(&control).await;
        control.stop().await;
    });
}

/// The states in which a crash leaves a mesh that is being made or removed, by what is on the disk.
#[test]
fn what_a_crash_leaves_of_a_mesh_is_finished_or_gone() {
    test("tenants-crash", async |directory| {
        let control = ControlPlane::start(directory.path()).await;
        make(&control, "shop").await;
        make(&control, "gone").await;
        let host = join(&control, "shop", "b").await;
        control.stop().await;
        let meshes = directory.path().join("data/meshes");
        // Recorded, and its files not renamed yet; never recorded; removed, and its keys not deleted yet.
        fs::rename(meshes.join("shop"), meshes.join("shop.new")).unwrap();
        copy(&meshes.join("gone"), &meshes.join("half.new"));
        copy(&meshes.join("gone"), &meshes.join("old.gone"));
        // Lost: the root of a mesh that was acknowledged is not replaced by another.
        fs::remove_dir_all(meshes.join("gone")).unwrap();
        let control = ControlPlane::start(directory.path()).await;
        let mut left: Vec<String> = fs::read_dir(&meshes)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["default", "shop"]);
        host.connect(&control).await;
        let (_, list) = control.admin("GET", "/meshes", None).await;
        let states: Vec<&str> = list
            .as_array()
            .unwrap()
            .iter()
            .map(|mesh| mesh["state"].as_str().unwrap())
            .collect();
        assert_eq!(states, ["serving", "broken", "serving"], "{list}");
        let (code, _) = control.admin("DELETE", "/meshes/gone", None).await;
        assert_eq!(code, 200);
        // Files that no record speaks of may be somebody's root: they are not written over.
        copy(&meshes.join("shop"), &meshes.join("stray"));
        let (code, answer) = control
            .admin("POST", "/meshes", Some(json!({"name": "stray"})))
            .await;
        assert_eq!(code, 409, "{answer}");
        assert!(meshes.join("stray/root.key").exists());
        control.stop().await;
    });
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn a_mesh_that_cannot_be_is_refused_by_field() {
    test("tenants-refused", async |directory| {
        let control = ControlPlane::start_with(directory.path(), |config| {
            config.advertise = vec!["control.example:15012".parse().unwrap()];
        })
        .await;
        make(&control, "shop").await;
        let domain = |domain: &str| json!({"name": "b", "trustDomain": domain});
        for (request, code, word) in [
            (json!({}), 422, "name"),
            (json!({"name": "Shop"}), 422, "name"),
            (json!({"name": "shop"}), 409, "already"),
            (json!({"name": "default"}), 409, "already"),
            (
                json!({"name": "b", "trustDomain": "shop.leno"}),
                409,
                "mesh shop",
            ),
            (
                json!({"name": "b", "trustDomain": "B c"}),
                422,
                "trustDomain",
            ),
            (
                json!({"name": "b", "trustDomain": "x.mesh.leno"}),
                422,
                "trustDomain",
            ),
            (domain("shop.leno."), 422, "no domain name"),
            (domain("a..b"), 422, "no domain name"),
            (domain("10.0.0.1"), 422, "no domain name"),
            (domain("localhost"), 422, "control plane itself"),
            (domain("control.example"), 422, "control plane itself"),
            (json!({"name": "b", "prefixes": ["10"]}), 422, "prefixes"),
            (json!({"name": "b", "colour": 1}), 400, "colour"),
            (json!("shop"), 400, "body"),
        ] {
            let (got, answer) = control
                .admin("POST", "/meshes", Some(request.clone()))
                .await;
            let text = answer["message"].as_str().unwrap();
            assert!(
                got == code && text.contains(word),
                "{request}: {got} {text}"
            );
        }
        let alice = Membership::person(&control, "alice").await;
        for (method, path) in [("POST", "/meshes"), ("DELETE", "/meshes/default")] {
            let body = Some(json!({"name": "mine"}));
            let (code, answer) = alice.request(&control, method, path, body).await;
            assert_eq!(code, 403, "{answer}");
            let text = answer["message"].as_str().unwrap();
            assert!(text.contains("control plane's own admin"), "{text}");
        }
        let (_, seen) = alice.get(&control, "/meshes").await;
        assert_eq!(seen.as_array().unwrap().len(), 1, "{seen}");
        let (code, answer) = alice.get(&control, "/meshes/shop").await;
        assert_eq!(code, 403, "{answer}");
        control.stop().await;
    });
}
