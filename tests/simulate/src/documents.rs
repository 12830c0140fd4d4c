//! The documents that people of a simulated world write: few names, so that they meet.

use leno_config::Kind;
use leno_types::MeshName;
use serde_json::{Value, json};

use crate::{dice::Dice, people::Object};

/// What is written.
pub(crate) const KINDS: [Kind; 5] = [
    Kind::Service,
    Kind::HttpRoute,
    Kind::AccessPolicy,
    Kind::AuthenticationPolicy,
    Kind::HostnameGenerator,
];
/// What programs serve, and documents name, in every mesh.
pub(crate) const SERVICES: &[&str] = &["cart", "pay", "mail"];
/// What only one mesh has, and the hosts of all ask for.
pub(crate) const OWN: &[(&str, &str)] = &[("blue", "sea"), ("red", "rose"), ("green", "leaf")];
const ALL: &[&str] = &["cart", "pay", "mail", "sea", "rose", "leaf"];
const ROUTES: &[&str] = &["route-a", "route-b"];
const POLICIES: &[&str] = &["policy-a", "policy-b"];
const AUTHENTICATIONS: &[&str] = &["mtls-a", "mtls-b"];
const GENERATORS: &[&str] = &["names-a"];

/// The services of a mesh.
pub(crate) fn services(mesh: &MeshName) -> Vec<&'static str> {
    let own = OWN.iter().filter(|(of, _)| *of == mesh.as_str());
    SERVICES
        .iter()
        .copied()
        .chain(own.map(|(_, name)| *name))
        .collect()
}

/// Any service of any mesh.
pub(crate) fn any_service(dice: &mut Dice) -> &'static str {
    dice.one(ALL).copied().unwrap_or_default()
}

const fn names(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Service => ALL,
        Kind::HttpRoute => ROUTES,
        Kind::AccessPolicy => POLICIES,
        Kind::AuthenticationPolicy => AUTHENTICATIONS,
        _ => GENERATORS,
    }
}

/// The name, if it is one that people write.
pub(crate) fn known(kind: Kind, name: &str) -> Option<&'static str> {
    names(kind).iter().find(|known| **known == name).copied()
}

/// Any object of a mesh.
pub(crate) fn any(dice: &mut Dice, mesh: &MeshName) -> Object {
    let kind = dice.one(&KINDS).copied().unwrap_or(Kind::Service);
    let services = services(mesh);
    let names = match kind {
        Kind::Service => services.as_slice(),
        _ => names(kind),
    };
    let name = dice.one(names).copied().unwrap_or("cart");
    (mesh.clone(), kind, name)
}

/// Where it, or its collection, is.
pub(crate) fn path(object: &Object, one: bool) -> String {
    let (mesh, kind, name) = object;
    let root = match kind.group() {
        "" => "api/v1".to_owned(),
        "gateway.networking.k8s.io" => "apis/gateway.networking.k8s.io/v1".to_owned(),
        group => format!("apis/{group}/v1alpha1"),
    };
    let all = format!("/meshes/{mesh}/{root}/namespaces/shop/{}", kind.plural());
    if one { format!("{all}/{name}") } else { all }
}

/// The object with some content, and a mark by which it is known again.
pub(crate) fn value(dice: &mut Dice, object: &Object, mark: u64) -> Value {
    let (mesh, kind, name) = object;
    let services = services(mesh);
    let metadata =
        json!({"namespace": "shop", "name": name, "annotations": {"mark": mark.to_string()}});
    let (version, spec) = match kind {
        Kind::Service => ("v1", service(dice, &services, name)),
        Kind::HttpRoute => ("gateway.networking.k8s.io/v1", route(dice, &services)),
        Kind::AccessPolicy => ("leno.dev/v1alpha1", policy(dice, &services)),
        Kind::AuthenticationPolicy => ("leno.dev/v1alpha1", authentication(dice, &services)),
        _ => ("leno.dev/v1alpha1", generator(dice)),
    };
    json!({"apiVersion": version, "kind": kind.to_string(), "metadata": metadata, "spec": spec})
}

fn service(dice: &mut Dice, services: &[&str], name: &str) -> Value {
    let selector = match dice.below(3) {
        0 => json!({"leno.dev/service": name}),
        1 => json!({"leno.dev/service-account": dice.text(services)}),
        _ => json!({}),
    };
    let port = dice.one(&[8080, 8081]);
    json!({"selector": selector, "ports": [{"port": 80, "targetPort": port, "appProtocol": dice.text(&["http", "tcp"])}]})
}

fn route(dice: &mut Dice, services: &[&str]) -> Value {
    let backend = |dice: &mut Dice| json!({"name": dice.text(services), "port": 80, "weight": 1 + dice.below(9)});
    let backends = [backend(dice), backend(dice)];
    json!({
        "parentRefs": [{"group": "", "kind": "Service", "name": dice.text(services)}],
        "rules": [{"matches": [{"path": {"type": "PathPrefix", "value": dice.text(&["/", "/a"])}}], "backendRefs": backends}],
    })
}

fn target(dice: &mut Dice, services: &[&str]) -> Value {
    match dice.below(4) {
        0 => json!({"kind": "Mesh"}),
        1 => json!({"kind": "Namespace", "name": "shop"}),
        _ => json!({"kind": "Service", "name": dice.text(services)}),
    }
}

fn authentication(dice: &mut Dice, services: &[&str]) -> Value {
    let mode = |dice: &mut Dice| json!({"mode": dice.text(&["STRICT", "PERMISSIVE"])});
    let port = dice.text(&["8080", "8081"]);
    match dice.below(4) {
        0 => json!({"selector": {"matchLabels": {"leno.dev/service": dice.text(services)}},
            "mtls": mode(dice), "portLevelMtls": {port: mode(dice)}}),
        1 => json!({"targetRefs": [{"kind": "Service", "name": dice.text(services)}],
            "portLevelMtls": {port: mode(dice)}}),
        _ => json!({"targetRefs": [target(dice, services)], "mtls": mode(dice)}),
    }
}

fn policy(dice: &mut Dice, services: &[&str]) -> Value {
    let target = target(dice, services);
    let account = format!("shop/{}", dice.text(services));
    json!({"targetRefs": [target], "action": dice.text(&["Allow", "Deny"]),
        "rules": [{"from": [{"serviceAccounts": [account]}]}]})
}

fn generator(dice: &mut Dice) -> Value {
    let template = dice.text(&[
        "{{ .Name }}.mesh.example",
        "{{ .Name }}.{{ .Namespace }}.mesh.example",
    ]);
    json!({"selector": {"service": {}}, "template": template})
}
