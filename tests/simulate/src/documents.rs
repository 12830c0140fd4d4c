//! The documents that people of a simulated world write: few names, so that they meet.

use leno_config::Kind;
use leno_types::MeshName;
use serde_json::{Value, json};

use crate::{dice::Dice, people::Object};

/// What is written.
pub(crate) const KINDS: [Kind; 4] = [
    Kind::Service,
    Kind::HttpRoute,
    Kind::AccessPolicy,
    Kind::HostnameGenerator,
];
/// What programs serve, and documents name.
pub(crate) const SERVICES: &[&str] = &["cart", "pay", "mail"];
const ROUTES: &[&str] = &["route-a", "route-b"];
const POLICIES: &[&str] = &["policy-a", "policy-b"];
const GENERATORS: &[&str] = &["names-a"];

const fn names(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Service => SERVICES,
        Kind::HttpRoute => ROUTES,
        Kind::AccessPolicy => POLICIES,
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
    let name = dice.one(names(kind)).copied().unwrap_or("cart");
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
    let (_, kind, name) = object;
    let metadata =
        json!({"namespace": "shop", "name": name, "annotations": {"mark": mark.to_string()}});
    let (version, spec) = match kind {
        Kind::Service => ("v1", service(dice, name)),
        Kind::HttpRoute => ("gateway.networking.k8s.io/v1", route(dice)),
        Kind::AccessPolicy => ("leno.dev/v1alpha1", policy(dice)),
        _ => ("leno.dev/v1alpha1", generator(dice)),
    };
    json!({"apiVersion": version, "kind": kind.to_string(), "metadata": metadata, "spec": spec})
}

fn service(dice: &mut Dice, name: &str) -> Value {
    let selector = match dice.below(3) {
        0 => json!({"leno.dev/service": name}),
        1 => json!({"leno.dev/service-account": dice.text(SERVICES)}),
        _ => json!({}),
    };
    let port = dice.one(&[8080, 8081]);
    json!({"selector": selector, "ports": [{"port": 80, "targetPort": port, "appProtocol": dice.text(&["http", "tcp"])}]})
}

fn route(dice: &mut Dice) -> Value {
    let backend = |dice: &mut Dice| json!({"name": dice.text(SERVICES), "port": 80, "weight": 1 + dice.below(9)});
    let backends = [backend(dice), backend(dice)];
    json!({
        "parentRefs": [{"group": "", "kind": "Service", "name": dice.text(SERVICES)}],
        "rules": [{"matches": [{"path": {"type": "PathPrefix", "value": dice.text(&["/", "/a"])}}], "backendRefs": backends}],
    })
}

fn policy(dice: &mut Dice) -> Value {
    let target = match dice.below(3) {
        0 => json!({"kind": "Mesh"}),
        1 => json!({"kind": "Namespace", "name": "shop"}),
        _ => json!({"kind": "Service", "name": dice.text(SERVICES)}),
    };
    let account = format!("shop/{}", dice.text(SERVICES));
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
