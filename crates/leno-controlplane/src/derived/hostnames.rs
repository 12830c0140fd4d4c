//! What the status of services and generators says of further names.

use leno_compile::{Generated, GeneratorNames};
use leno_types::{HostName, ServiceName};
use serde_json::{Value, json};

use crate::{distribution::Type, mesh::Mesh};

/// Adds to the status of a service what it is called besides, and what generators could not give to it.
pub(super) fn of_service(status: &mut Value, generated: &[Generated]) {
    let Some(status) = status.as_object_mut() else {
        return;
    };
    let by = |of: &Generated| json!({"namespace": of.generator.namespace.as_str(), "name": of.generator.name.as_str()});
    let address = |of: &Generated| {
        let hostname = of.name.as_ref().ok()?.as_str();
        Some(json!({
            "hostname": hostname,
            "origin": "HostnameGenerator",
            "hostnameGeneratorRef": by(of),
        }))
    };
    let outcome = |of: &Generated| {
        let (is, reason, message) = match &of.name {
            Ok(name) => ("True", "Generated", name.to_string()),
            Err((reason, message)) => ("False", *reason, message.clone()),
        };
        let condition =
            json!({"type": "Generated", "status": is, "reason": reason, "message": message});
        json!({"hostnameGeneratorRef": by(of), "conditions": [condition]})
    };
    let addresses: Vec<Value> = generated.iter().filter_map(address).collect();
    let outcomes: Vec<Value> = generated.iter().map(outcome).collect();
    status.insert("addresses".into(), addresses.into());
    status.insert("hostnameGenerators".into(), outcomes.into());
}

/// Adds to the status of a generator how many services it selects, and how many have their name by it.
pub(super) fn of_generator(status: &mut Value, names: &GeneratorNames) {
    if let Some(status) = status.as_object_mut() {
        status.insert("services".into(), names.services.into());
        status.insert("names".into(), names.names.into());
    }
}

/// The names of a generator that some proxy has asked for.
pub(super) fn asked<'a>(
    mesh: &'a Mesh,
    generator: &'a ServiceName,
) -> impl Iterator<Item = HostName> + 'a {
    let asked = mesh.hub.asked_below(Type::Destination, "name/");
    asked
        .filter_map(|name| name.strip_prefix("name/")?.parse().ok())
        .filter(|name| mesh.compiler.generator_of(name) == Some(generator))
}
