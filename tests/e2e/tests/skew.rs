//! Proxies that refuse, that are too old, or away; control planes that are newer than their proxies, or come back: what is
//! said of them is true, and nothing opens or fails.

#[path = "skew/later.rs"]
mod later;
#[path = "skew/stranger.rs"]
mod stranger;

use std::{fs, net::SocketAddr, time::Duration};

use leno_e2e::{Backend, Load, SOON, response};
use leno_testkit::{Member, Mesh, Output, suite, until, until_ok};
use leno_types::ports;
use leno_wire::{
    discovery::{DeltaDiscoveryResponse, Resource},
    mesh as wire, type_url,
};
use prost::Message;
use serde_json::Value;

use later::Later;
use stranger::{Make, Stranger};

/// `cart` and `catalog` on a, called from b.
struct Fixture {
    mesh: Mesh,
    caller: Member,
    cart: Member,
    _catalog: Member,
    _backends: [Backend; 2],
}

fn start() -> Fixture {
    let mesh = Mesh::with(&["a", "b"], &["cart", "catalog", "caller"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    let cart = mesh.run(&a).service("cart").port("80:8080/http").start();
    let catalog = mesh.run(&a).service("catalog").port("80:8081/http").start();
    let say = |member: &Member, port, name: &'static str| {
        Backend::http(member.listen(port), move |_| response(200, "", name))
    };
    let backends = [say(&cart, 8080, "cart"), say(&catalog, 8081, "catalog")];
    let caller = mesh.run(&b).account("caller").start();
    for name in ["cart", "catalog"] {
        until_ok("it answers", SOON, || get(&caller, name, "/"));
    }
    Fixture {
        mesh,
        caller,
        cart,
        _catalog: catalog,
        _backends: backends,
    }
}

suite!(
    start,
    [
        a_restarted_control_plane_fails_no_request_and_sends_nothing_again,
        a_proxy_that_refuses_one_route_runs_the_others_and_is_named_with_its_reason,
        a_proxy_that_does_not_know_a_policys_feature_is_found_to_deny,
        an_agent_that_does_not_know_a_rules_feature_lets_nobody_in_until_it_is_gone,
    ]
);

fn get(member: &Member, name: &str, path: &str) -> Result<String, String> {
    let mut wire = member.try_connect(name, 80).map_err(|e| e.to_string())?;
    let asked = format!("GET {path} HTTP/1.1\r\nhost: {name}\r\nconnection: close\r\n\r\n");
    let answer = wire.try_send(asked).and_then(|()| wire.try_message());
    let answer = answer.map_err(|error| error.to_string())?;
    match answer.status() {
        200 => Ok(String::from_utf8_lossy(&answer.body).into_owned()),
        _ => Err(answer.head),
    }
}

impl Fixture {
    /// A proxy of another make on a host of its own.
    fn stranger(&mut self, host: &str, make: Make) -> Stranger {
        let on = self.mesh.network.add(host);
        let token = self.mesh.token(&["--service=old"]);
        let mut joining = self.mesh.join_command(&on, &token);
        on.run(joining.arg("--no-agent")).good();
        let control = self.mesh.host("cp");
        let at = SocketAddr::new(control.v4.into(), ports::CONTROL_PLANE);
        Stranger::start(&on, at, make)
    }

    /// What is said of a proxy.
    fn proxy(&self, host: &str) -> Value {
        let json = self.mesh.leno(&["ps", host, "-o", "json"]).good().json();
        json[0].clone()
    }

    fn until_state(&self, host: &str, state: &str) -> Value {
        until(&format!("{host} is {state}"), SOON, || {
            Some(self.proxy(host)).filter(|proxy| proxy["state"] == state)
        })
    }

    /// The condition `Programmed` of an object: its status and message.
    fn programmed(&self, kind: &str, name: &str) -> (String, String) {
        let object = self.mesh.leno(&["get", kind, name, "-o", "json"]).good();
        let object = object.json();
        let own = object.pointer("/status/conditions");
        let of = own.or_else(|| object.pointer("/status/parents/0/conditions"));
        let of = of.and_then(Value::as_array).cloned().unwrap_or_default();
        let of = of.iter().find(|of| of["type"] == "Programmed");
        let text = |name: &str| of.and_then(|of| of[name].as_str()).unwrap_or("").to_owned();
        (text("status"), text("message"))
    }
}

/// What is wrong with a command's outcome, in one text.
fn said(output: &Output) -> String {
    format!("{}{}", output.text(), output.stderr)
}

const ROUTES: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: cart}
spec:
  parentRefs: [{kind: Service, group: '', name: cart}]
  rules: [{matches: [{path: {type: PathPrefix, value: /}}], backendRefs: [{name: catalog, port: 80}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: catalog}
spec:
  parentRefs: [{kind: Service, group: '', name: catalog}]
  rules: [{matches: [{path: {type: PathPrefix, value: /}}], backendRefs: [{name: cart, port: 80}]}]
";

/// Check 14: one that cannot use the routes of cart.
fn a_proxy_that_refuses_one_route_runs_the_others_and_is_named_with_its_reason(
    fixture: &mut Fixture,
) {
    let refuses = |resource: &Resource| {
        let body = resource.resource.as_ref()?;
        let destination = wire::Destination::decode(&*body.value).ok()?;
        let Some(wire::destination::Kind::Service(service)) = destination.kind else {
            return None;
        };
        let is_cart = service.name == "default/cart" && !service.routes.is_empty();
        is_cart.then(|| "routes: this proxy has no room for them".to_owned())
    };
    let stranger = fixture.stranger(
        "s",
        Make {
            version: env!("CARGO_PKG_VERSION"),
            features: &["access/v1"],
            service: None,
            asks: &["cart", "catalog"],
            refuses,
        },
    );
    until("it was given both", SOON, || {
        let both = stranger.has("svc/default/cart") && stranger.has("svc/default/catalog");
        both.then_some(())
    });
    fixture.until_state("s", "in-sync");
    let applied = fixture.mesh.apply(ROUTES, &["--wait"]);
    let text = said(&applied);
    assert_eq!(applied.code, 6, "{text}");
    assert!(
        text.contains("httproute/catalog created   accepted ✔   programmed 2 of 2 proxies"),
        "{text}"
    );
    assert!(
        text.contains("1 of 2 proxies, s rejected: routes: this proxy has no room for them"),
        "{text}"
    );
    assert_eq!(fixture.programmed("httproute", "catalog").0, "True");
    let (status, message) = fixture.programmed("httproute", "cart");
    assert_eq!(status, "False");
    assert!(message.contains("s rejected: routes"), "{message}");
    // The others run both: each name leads to the other's program.
    for (name, body) in [("cart", "catalog"), ("catalog", "cart")] {
        assert_eq!(get(&fixture.caller, name, "/").as_deref(), Ok(body));
    }
    let proxy = fixture.until_state("s", "refuses");
    assert_eq!(proxy["nacks"][0]["resource"], "svc/default/cart", "{proxy}");
    let table = fixture.mesh.leno(&["proxy", "status"]).good().text();
    assert!(
        table.contains("⚠ s refuses Destination svc/default/cart: routes: this proxy has no room"),
        "{table}"
    );
    drop(stranger);
    fixture.until_state("s", "away");
    let table = fixture.mesh.leno(&["proxy-status"]).good().text();
    assert!(table.contains("✘ s is away"), "{table}");
    // Who is not there is not asked.
    until("only who is there counts", SOON, || {
        let (status, message) = fixture.programmed("httproute", "cart");
        (status == "True" && message == "1 of 1 proxies").then_some(())
    });
    for name in ["cart", "catalog"] {
        fixture.mesh.leno(&["delete", "httproute", name]).good();
    }
    until("the routes are gone", SOON, || {
        (get(&fixture.caller, "cart", "/").as_deref() == Ok("cart")).then_some(())
    });
}

const POLICY: &str = "apiVersion: leno.dev/v1alpha1
kind: AccessPolicy
metadata: {name: NAME}
spec:
  targetRefs: [{kind: Service, name: NAME}]
  action: Allow
  rules: [{from: [{serviceAccounts: [default/caller]}]}]
";

/// Check 16, as the control plane sees it: one that claims fewer capabilities.
fn a_proxy_that_does_not_know_a_policys_feature_is_found_to_deny(fixture: &mut Fixture) {
    let stranger = fixture.stranger(
        "t",
        Make {
            version: "0.0.1",
            features: &[],
            service: Some("old"),
            asks: &[],
            refuses: |_| None,
        },
    );
    let proxy = fixture.until_state("t", "in-sync");
    assert_eq!(proxy["skew"], "older", "{proxy}");
    let policy = POLICY.replace("NAME", "old");
    let applied = fixture.mesh.apply(&policy, &["--wait"]);
    let text = said(&applied);
    assert_eq!(applied.code, 6, "{text}");
    assert!(
        text.contains("0 of 1 proxies, t lets nobody in instead: it does not know access/v1"),
        "{text}"
    );
    let proxy = fixture.until_state("t", "denies");
    assert_eq!(proxy["missing"][0]["feature"], "access/v1", "{proxy}");
    let table = fixture.mesh.leno(&["proxy", "status"]).good().text();
    assert!(
        table.contains("⚠ t does not know access/v1 and lets nobody in to old-")
            && table.contains("0.0.1 (older)"),
        "{table}"
    );
    let check = fixture.mesh.leno(&["check"]);
    assert_eq!(check.code, 3, "{}", said(&check));
    assert!(
        said(&check).contains("t is too old for what protects its workloads"),
        "{}",
        said(&check)
    );
    fixture.mesh.leno(&["delete", "accesspolicy", "old"]).good();
    fixture.until_state("t", "in-sync");
    drop(stranger);
}

/// What an agent has, as its control plane sent it.
fn configuration(mesh: &Mesh, host: &str) -> Vec<DeltaDiscoveryResponse> {
    let path = mesh.host(host).disk().join("run/configuration.pb");
    until("the agent has written what it runs", SOON, || {
        let content = fs::read(&path).ok()?;
        let mut rest = content.as_slice();
        let mut messages = Vec::new();
        while !rest.is_empty() {
            messages.push(DeltaDiscoveryResponse::decode_length_delimited(&mut rest).ok()?);
        }
        Some(messages)
    })
}

/// What it is told of its own workloads by a control plane that needs more of it.
fn from_later(mut messages: Vec<DeltaDiscoveryResponse>) -> Vec<DeltaDiscoveryResponse> {
    messages.retain(|message| message.type_url == type_url::OWN_WORKLOAD);
    let mut protected = 0;
    for message in &mut messages {
        // There it holds what is subscribed to.
        message.removed_resources.clear();
        message.nonce = "1".into();
        for resource in &mut message.resources {
            let body = resource.resource.as_mut().expect("a body");
            let mut own = wire::OwnWorkload::decode(&*body.value).expect("a workload");
            // An allow rule that this version would take for everybody's.
            own.access = vec![wire::AccessRule {
                must_understand: vec!["access/v9".into()],
                ..wire::AccessRule::default()
            }];
            body.value = own.encode_to_vec();
            resource.version = "later".into();
            protected += 1;
        }
    }
    assert!(protected > 0, "the agent hosts something");
    messages
}

/// Check 16, as the agent sees it: a control plane that is newer.
fn an_agent_that_does_not_know_a_rules_feature_lets_nobody_in_until_it_is_gone(
    fixture: &mut Fixture,
) {
    assert_eq!(get(&fixture.caller, "cart", "/").as_deref(), Ok("cart"));
    let says = from_later(configuration(&fixture.mesh, "a"));
    let control = fixture.mesh.host("cp");
    fixture.mesh.stop_control_plane();
    let at = SocketAddr::new(control.v4.into(), ports::CONTROL_PLANE);
    let listener = control.listen(at).expect("its port is free");
    let authority = control.disk().join("default/meshes/default");
    let later = Later::start(listener, &authority, says);
    until("nobody is let in", SOON, || {
        let refused = get(&fixture.caller, "cart", "/").err()?;
        refused.contains(" 403 ").then_some(())
    });
    // Who has a connection already is no exception, and the caller is told no more than that.
    let told = get(&fixture.caller, "cart", "/").expect_err("it denies");
    assert!(told.to_lowercase().contains("rbac"), "{told}");
    drop(later);
    // It is denied as long as that is what the agent knows.
    assert!(get(&fixture.caller, "cart", "/").is_err());
    fixture.mesh.start_control_plane();
    until("it is let in again", SOON, || {
        (get(&fixture.caller, "cart", "/").as_deref() == Ok("cart")).then_some(())
    });
}

/// The sum of a metric of the control plane's.
fn metric(mesh: &Mesh, name: &str) -> u64 {
    let at = SocketAddr::from(([127, 0, 0, 1], 15014));
    let socket = mesh.host("cp").connect(at).expect("metrics are read there");
    let mut wire = leno_testkit::Wire::new(socket);
    let answer = wire.ask("GET /metrics HTTP/1.1\r\nhost: cp\r\nconnection: close\r\n\r\n");
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    let values = text.lines().filter(|line| line.starts_with(name));
    let values: Vec<u64> = values
        .filter_map(|line| line.rsplit(' ').next()?.parse().ok())
        .collect();
    assert!(!values.is_empty(), "{name} is not in\n{text}");
    values.iter().sum()
}

/// Check 13.
fn a_restarted_control_plane_fails_no_request_and_sends_nothing_again(fixture: &mut Fixture) {
    let sent = "leno_controlplane_resources_sent_total";
    assert!(metric(&fixture.mesh, sent) > 0, "it was sent something");
    let loads = [("cart", 1), ("cart", 50), ("catalog", 20)];
    let loads = loads.map(|(name, each)| Load::start(&fixture.caller, name, each));
    let more = || loads.iter().for_each(|load| load.more(100));
    more();
    for kill in [true, false] {
        match kill {
            true => fixture.mesh.kill_control_plane(),
            false => fixture.mesh.stop_control_plane(),
        }
        more();
        fixture.mesh.start_control_plane();
        for host in ["a", "b"] {
            until("it is in sync again", Duration::from_secs(30), || {
                let proxy = fixture.proxy(host);
                (proxy["state"] == "in-sync").then_some(())
            });
        }
        more();
        assert_eq!(metric(&fixture.mesh, sent), 0, "killed: {kill}");
    }
    for load in loads {
        let tally = load.stop();
        assert!(tally.good >= 100 && tally.bad.is_empty(), "{tally:?}");
    }
    assert!(fixture.cart.process.ended().is_none());
}
