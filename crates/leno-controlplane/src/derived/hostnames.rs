//! What the status of services and generators says of further names.

use leno_compile::{Compiler, Generated};
use leno_types::ServiceName;
use serde_json::{Value, json};

/// Adds to the status of a service what it is called besides, and what generators could not give to it.
pub(super) fn of_service(status: &mut Value, generated: &[Generated]) {
    let Some(status) = status.as_object_mut().filter(|_| !generated.is_empty()) else {
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
pub(super) fn of_generator(status: &mut Value, compiler: &Compiler, generator: &ServiceName) {
    let generated = compiler.generated_by(generator);
    let names = generated.iter().filter(|(_, of)| of.name.is_ok()).count();
    if let Some(status) = status.as_object_mut() {
        status.insert("services".into(), generated.len().into());
        status.insert("names".into(), names.into());
    }
}
