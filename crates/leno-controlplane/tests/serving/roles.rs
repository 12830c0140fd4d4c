//! Who may do what: every route, by every role, of one's own mesh and of another.

use std::collections::BTreeSet;

use leno_tls::{Alpn, control::ControlConnector};
use leno_wire::agent::RedeemResponse;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{
    ControlPlane, Membership, cart,
    client::{LONG, request, service},
    test,
};

/// What a route needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Need {
    /// Any certificate: what it shows depends on who asks.
    Known,
    Viewer,
    Admin,
    /// The admin socket.
    Owner,
}

use Need::{Admin, Known, Owner, Viewer};

/// Every route that is no object's, as src/http.rs has it.
const ROUTES: &[(&str, &str, Need)] = &[
    ("GET", "/leno/v1/backup", Owner),
    ("GET", "/meshes", Known),
    ("POST", "/meshes", Owner),
    ("GET", "/meshes/{mesh}", Viewer),
    ("DELETE", "/meshes/{mesh}", Owner),
    ("GET", "/meshes/{mesh}/leno/v1/tokens", Viewer),
    ("POST", "/meshes/{mesh}/leno/v1/tokens", Admin),
    ("DELETE", "/meshes/{mesh}/leno/v1/tokens/{id}", Admin),
    ("GET", "/meshes/{mesh}/leno/v1/agents", Viewer),
    ("DELETE", "/meshes/{mesh}/leno/v1/agents/{name}", Admin),
    ("GET", "/meshes/{mesh}/leno/v1/telemetry/edges", Viewer),
    ("GET", "/meshes/{mesh}/leno/v1/telemetry/totals", Viewer),
    ("GET", "/meshes/{mesh}/leno/v1/proxies", Viewer),
    (
        "GET",
        "/meshes/{mesh}/leno/v1/proxies/{host}/{what}",
        Viewer,
    ),
    ("GET", "/meshes/{mesh}/leno/v1/mtls", Viewer),
    ("GET", "/meshes/{mesh}/leno/v1/refusals", Viewer),
    ("GET", "/meshes/{mesh}/leno/v1/refusals/{id}", Viewer),
    ("GET", "/meshes/{mesh}/leno/v1/logs", Viewer),
    ("GET", "/meshes/{mesh}/leno/v1/mtls", Viewer),
    ("GET", "/meshes/{mesh}/leno/v1/status", Viewer),
    ("GET", "/meshes/{mesh}/leno/v1/control-plane", Viewer),
    ("GET", "/meshes/{mesh}/leno/v1/ca", Viewer),
    ("POST", "/meshes/{mesh}/leno/v1/local-agent", Owner),
    ("POST", "/meshes/{mesh}/leno/v1/local-user", Owner),
    ("GET", "/meshes/{mesh}/leno/v1/audit", Admin),
    ("GET", "/meshes/{mesh}/leno/v1/users", Viewer),
    ("DELETE", "/meshes/{mesh}/leno/v1/users/{name}", Admin),
];

/// The API of objects: each kind has the same.
const OBJECTS: &[(&str, &str, Need)] = &[
    ("GET", "/meshes/{mesh}/version", Viewer),
    ("GET", "/meshes/{mesh}/api", Viewer),
    ("GET", "/meshes/{mesh}/apis", Viewer),
    ("GET", "/meshes/{mesh}/api/v1", Viewer),
    ("GET", "/meshes/{mesh}/openapi/v3", Viewer),
    ("POST", "/meshes/{mesh}/leno/v1/apply", Admin),
    ("GET", "/meshes/{mesh}{objects}", Viewer),
    (
        "GET",
        "/meshes/{mesh}{objects}?watch=true&timeoutSeconds=1",
        Viewer,
    ),
    ("POST", "/meshes/{mesh}{objects}?dryRun=All", Admin),
    ("POST", "/meshes/{mesh}{objects}", Admin),
    ("GET", "/meshes/{mesh}{objects}/none", Viewer),
    ("PUT", "/meshes/{mesh}{objects}/none", Admin),
    ("PATCH", "/meshes/{mesh}{objects}/none", Admin),
    ("DELETE", "/meshes/{mesh}{objects}/none", Admin),
    ("DELETE", "/meshes/{mesh}{objects}", Admin),
];

const COLLECTIONS: [&str; 5] = [
    "/api/v1/namespaces/default/services",
    "/apis/gateway.networking.k8s.io/v1/namespaces/default/httproutes",
    "/apis/leno.dev/v1alpha1/namespaces/default/accesspolicies",
    "/apis/leno.dev/v1alpha1/namespaces/default/authenticationpolicies",
    "/apis/leno.dev/v1alpha1/namespaces/default/hostnamegenerators",
];

/// The paths and methods that the source has.
fn in_the_source() -> BTreeSet<(String, String)> {
    let sources = [
        include_str!("../../src/http.rs"),
        include_str!("../../src/http/meshes.rs"),
    ];
    let routes = sources
        .into_iter()
        .flat_map(|source| source.split(".route(").skip(1));
    let routes = routes.map(|rest| {
        let rest = rest.split(".layer(").next().unwrap();
        let mut quoted = rest.split('"');
        let path = quoted.nth(1).unwrap().to_owned();
        let methods = ["get", "post", "put", "patch", "delete"].into_iter();
        let there = methods.filter(move |of| rest.contains(&format!("{of}(")));
        there.map(move |method| (method.to_uppercase(), path.clone()))
    });
    routes.flatten().collect()
}

/// Who asks.
enum Who {
    /// No certificate.
    Nobody,
    Holder(Membership),
    Owner,
}

impl Who {
    async fn ask(&self, control: &ControlPlane, method: &str, path: &str) -> (u16, Value) {
        let body = (method != "GET").then(|| json!({}));
        match self {
            Self::Owner => control.admin(method, path, body).await,
            Self::Holder(holder) => holder.request(control, method, path, body).await,
            Self::Nobody => {
                let pins = control.token(cart()).await.pins;
                let connector = ControlConnector::pinned(&pins, &[Alpn::Http11]).unwrap();
                let socket = TcpStream::connect(control.address).await.unwrap();
                let stream = connector.connect(socket).await.unwrap().stream;
                request(stream, method, path, body).await
            }
        }
    }
}

/// Somebody with a role.
async fn person(control: &ControlPlane, mesh: &str, name: &str, role: &str) -> Membership {
    let key = leno_tls::PrivateKey::generate();
    let csr = key.csr().unwrap();
    let csr = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, csr);
    let path = format!("/meshes/{mesh}/leno/v1/local-user");
    let body = json!({"name": name, "csr": csr, "role": role});
    let (code, answer) = control.admin("POST", &path, Some(body)).await;
    assert_eq!(code, 201, "{answer}");
    let text = |name: &str| answer[name].as_str().unwrap_or_default().to_owned();
    let answer = RedeemResponse {
        trust_domain: text("trust_domain"),
        trust_bundle: text("trust_bundle"),
        chain: text("chain"),
        ..Default::default()
    };
    Membership::of(&answer, &key)
}

async fn shop(control: &ControlPlane) {
    let made = control
        .admin("POST", "/meshes", Some(json!({"name": "shop"})))
        .await;
    assert_eq!(made.0, 201, "{made:?}");
}

#[test]
fn every_route_is_open_to_the_roles_it_is_for_and_to_nobody_else() {
    let table: BTreeSet<_> = ROUTES
        .iter()
        .map(|(method, path, _)| ((*method).to_owned(), (*path).to_owned()))
        .collect();
    assert_eq!(in_the_source(), table, "a route without a line here");
    test("roles", async |directory| {
        let control = ControlPlane::start(directory.path()).await;
        shop(&control).await;
        let of = async |mesh, name, role| Who::Holder(person(&control, mesh, name, role).await);
        let agent = Membership::join(&control, "b", cart()).await;
        let everybody = [
            ("nobody", Who::Nobody, None),
            ("agent", Who::Holder(agent), Some(Known)),
            (
                "viewer",
                of("default", "vera", "viewer").await,
                Some(Viewer),
            ),
            ("admin", of("default", "adam", "admin").await, Some(Admin)),
            (
                "viewer of shop",
                of("shop", "vera", "viewer").await,
                Some(Known),
            ),
            (
                "admin of shop",
                of("shop", "adam", "admin").await,
                Some(Known),
            ),
            ("owner", Who::Owner, Some(Owner)),
        ];
        let objects = COLLECTIONS
            .iter()
            .enumerate()
            .flat_map(|(number, collection)| {
                let routes = OBJECTS
                    .iter()
                    .filter(move |(_, path, _)| number == 0 || path.contains("{objects}"));
                routes.map(move |(method, path, need)| {
                    (*method, path.replace("{objects}", collection), *need)
                })
            });
        let others = ROUTES
            .iter()
            .map(|(method, path, need)| (*method, (*path).to_owned(), *need));
        let mut asked = 0;
        for (method, path, need) in others.chain(objects) {
            let path = path
                .replace("{mesh}", "default")
                .replace("{what}", "config")
                .replace("{id}", "none")
                .replace("{name}", "none")
                .replace("{host}", "none")
                .replace("/logs", "/logs?of=none");
            for (name, who, has) in &everybody {
                let (code, answer) = who.ask(&control, method, &path).await;
                let told = format!("{name}: {method} {path}: {code} {answer}");
                match has {
                    // What is the owner's alone asks for no certificate.
                    None => assert!(code == 401 || code == 403 && need == Owner, "{told}"),
                    Some(has) if *has >= need => assert!(![401, 403].contains(&code), "{told}"),
                    Some(has) => {
                        assert_eq!(code, 403, "{told}");
                        let text = answer["message"].as_str().unwrap();
                        let needs = match (has, need) {
                            (Viewer, Admin) => "viewer, which only reads, and this needs admin",
                            (_, Owner) => "admin",
                            _ => "no role",
                        };
                        assert!(need == Owner || text.contains(needs), "{told}");
                    }
                }
                asked += 1;
            }
        }
        assert!(asked > 400, "{asked}");
        control.stop().await;
    });
}

#[test]
fn a_role_that_is_taken_away_or_changed_is_so_at_once() {
    test("roles-revoked", async |directory| {
        let control = ControlPlane::start(directory.path()).await;
        let services = "/meshes/default/api/v1/namespaces/default/services";
        let users = "/meshes/default/leno/v1/users";
        let vera = person(&control, "default", "vera", "viewer").await;
        let adam = person(&control, "default", "adam", "admin").await;
        let write = async |who: &Membership, name| {
            who.request(&control, "POST", services, Some(service(name)))
                .await
                .0
        };
        assert_eq!(write(&vera, "a").await, 403);
        assert_eq!(write(&adam, "a").await, 201);
        let (_, list) = vera.get(&control, users).await;
        let roles: Vec<(&Value, &Value)> = list
            .as_array()
            .unwrap()
            .iter()
            .map(|user| (&user["name"], &user["role"]))
            .collect();
        assert_eq!(
            roles,
            [
                (&json!("adam"), &json!("admin")),
                (&json!("vera"), &json!("viewer"))
            ]
        );
        // Another role for the same person: the certificate of before has it too.
        person(&control, "default", "vera", "admin").await;
        assert_eq!(write(&vera, "b").await, 201);
        // A watch that is open ends with the role that let it.
        let connector =
            ControlConnector::trusted(&adam.bundle, Some(&adam.certificate), &[Alpn::Http11]);
        let socket = TcpStream::connect(control.address).await.unwrap();
        let mut stream = connector.unwrap().connect(socket).await.unwrap().stream;
        let watch = format!("GET {services}?watch=true HTTP/1.1\r\nhost: leno\r\n\r\n");
        stream.write_all(watch.as_bytes()).await.unwrap();
        let mut head = [0; 12];
        stream.read_exact(&mut head).await.unwrap();
        assert_eq!(&head, b"HTTP/1.1 200");
        let (code, _) = control
            .admin("DELETE", &format!("{users}/adam"), None)
            .await;
        assert_eq!(code, 200);
        let rest = timeout(LONG, stream.read_to_end(&mut Vec::new())).await;
        assert!(rest.is_ok(), "it goes on");
        assert_eq!(write(&adam, "c").await, 403);
        let (code, _) = control
            .admin("DELETE", &format!("{users}/adam"), None)
            .await;
        assert_eq!(code, 404);
        // And so it is after a restart.
        control.stop().await;
        let control = ControlPlane::start(directory.path()).await;
        assert_eq!(vera.get(&control, services).await.0, 200);
        assert_eq!(adam.get(&control, services).await.0, 403);
        control.stop().await;
    });
}
