//! What became of a refusal's rules and endpoints since: asked of the API, and noted beside what the proxies remember.
//!
//! An agent may say anything: what is no name is not asked for.

use leno_config::Kind;
use leno_types::DnsLabel;
use serde_json::{Value, json};

use super::super::{known, path_of};
use crate::{
    client::{CallError, Client},
    output::{items, text},
};

/// Notes at each rule what has become of it, as `now`; and at the first side who serves and is not ready, as `unready`.
pub(super) async fn note(client: &Client, refusal: &mut Value) {
    let Some(sides) = refusal.get_mut("sides").and_then(Value::as_array_mut) else {
        return;
    };
    for side in sides.iter_mut() {
        if let Some(rule) = side.get_mut("rule") {
            of_rule(client, rule).await;
        }
        let allowing = side.get_mut("allowing").and_then(Value::as_array_mut);
        for rule in allowing.into_iter().flatten() {
            of_rule(client, rule).await;
        }
    }
    if let Some(side) = sides.first_mut().filter(|side| side.is_object()) {
        let service = text(side, "/backend/service").to_owned();
        if !service.is_empty() && items(side, "/endpoints").next().is_none() {
            side["unready"] = unready(client, &service).await;
        }
    }
}

async fn of_rule(client: &Client, rule: &mut Value) {
    let label = |field: &str| text(rule, field).parse::<DnsLabel>().ok();
    let kind = Kind::ALL.iter().find(|of| of.kind() == text(rule, "/kind"));
    let (Some(kind), Some(namespace), Some(name)) = (kind, label("/namespace"), label("/name"))
    else {
        return;
    };
    let path = path_of(*kind, Some(namespace.as_str()), Some(name.as_str()));
    let now = match client.get(&path).await {
        Ok(object) => stands(rule, &object),
        Err(CallError::Refused(refusal)) if refusal.code == 404 => "deleted",
        Err(_) => return,
    };
    rule["now"] = now.into();
}

/// Whether an object is what the rule was of.
fn stands(rule: &Value, object: &Value) -> &'static str {
    if text(rule, "/uid") != text(object, "/metadata/uid") {
        return "replaced";
    }
    match rule.get("generation") == object.pointer("/metadata/generation") {
        true => "as then",
        false => "changed",
    }
}

/// The programs of a service that nobody calls, for they are not ready.
async fn unready(client: &Client, service: &str) -> Value {
    let proxies = known::proxies(client).await.unwrap_or_default();
    let all = proxies
        .iter()
        .flat_map(|proxy| proxy.workloads.iter().map(|of| (proxy.host.as_str(), of)));
    let of_it = all.filter(|(_, of)| {
        let versioned = |name: &str| match of.version.as_str() {
            "" => name.to_owned(),
            version => format!("{name}-{version}"),
        };
        let name = of.service.as_deref();
        let is = |name: String| format!("{}/{name}", of.namespace) == service;
        of.health != "healthy" && name.is_some_and(|name| is(name.into()) || is(versioned(name)))
    });
    of_it
        .map(|(host, of)| json!({"name": of.name, "host": host, "health": of.health}))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_stands_as_long_as_its_object_is_the_same_generation() {
        let rule = json!({"uid": "u", "generation": 3});
        let object = |uid: &str, generation: u64| json!({"metadata": {"uid": uid, "generation": generation}});
        assert_eq!(stands(&rule, &object("u", 3)), "as then");
        assert_eq!(stands(&rule, &object("u", 4)), "changed");
        assert_eq!(stands(&rule, &object("v", 3)), "replaced");
    }
}
