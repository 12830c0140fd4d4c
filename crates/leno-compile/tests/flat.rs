//! A change costs what it concerns, however large the mesh is: counted, not timed.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;

use leno_compile::{
    Compilations, Compiler, Input, Key, Place, Program, RegisteredPort, WorkloadRecord,
};
use leno_config::{Kind, SplitBackend, admit, httproute_split};
use leno_ir::Health;
use leno_types::{DnsLabel, ServiceName, WorkloadUid};
use serde_json::{Value, json};

fn label(text: &str) -> DnsLabel {
    text.parse().unwrap()
}

fn name(number: u32) -> ServiceName {
    ServiceName::new(label("shop"), label(&format!("s{number}")))
}

fn workload(number: u32, of: u32, health: Health) -> Input {
    let [_, high, middle, low] = number.to_be_bytes();
    let mut uid = [0; 16];
    uid[12..].copy_from_slice(&number.to_be_bytes());
    let uid = WorkloadUid::from_bytes(uid);
    let program = Program {
        uid,
        agent: label("host"),
        namespace: label("shop"),
        name: format!("w{number}").into(),
        service_account: label("default"),
        service: Some(name(of).name),
        version: None,
        ports: Box::new([RegisteredPort {
            service_port: Some(80),
            workload_port: 8080,
            protocol: None,
            published: None,
        }]),
    };
    let place = Place {
        addresses: vec![[10, high, middle, low].into()],
        hbone_port: 15008,
    };
    let record = WorkloadRecord {
        program: Arc::new(program),
        place: Arc::new(place),
        versioned: true,
        health,
        ready: true,
    };
    Input::Workload(uid, Some(record))
}

fn object(kind: Kind, value: Value) -> Input {
    let resource = admit(kind, value).unwrap().resource;
    let meta = resource.meta();
    let (namespace, name) = (meta.namespace.clone(), meta.name.clone());
    Input::Object(kind, namespace, name, Some(Arc::new(resource.clone())))
}

fn service(number: u32, selector: &Value) -> Input {
    let value = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": "shop", "name": format!("s{number}")},
        "spec": {"selector": selector, "ports": [{"port": 80, "targetPort": 8080}]},
    });
    object(Kind::Service, value)
}

fn route(number: u32, weight: u32) -> Input {
    let backend = SplitBackend {
        service: name(number).name,
        port: 80,
        weight,
    };
    object(
        Kind::HttpRoute,
        httproute_split(&name(number), None, &[backend]),
    )
}

/// So many applied services that select their three workloads by a label, each with a route.
fn mesh(services: u32) -> Compiler {
    let mut compiler = Compiler::new("default.leno".parse().unwrap());
    let mut inputs = Vec::new();
    for of in 0..services {
        inputs.push(service(of, &json!({"app": format!("s{of}")})));
        inputs.push(route(of, 1));
        inputs.extend((0..3).map(|nth| workload(of * 3 + nth, of, Health::Healthy)));
    }
    assert!(!compiler.apply(inputs).is_empty());
    compiler
}

/// What was compiled, how many candidates of selectors were looked at, and what came out different.
type Cost = (Compilations, u64, Vec<Key>);

/// Counts since before.
fn since(before: Compilations, now: Compilations) -> Compilations {
    Compilations {
        destinations: now.destinations - before.destinations,
        hosts: now.hosts - before.hosts,
        endpoints: now.endpoints - before.endpoints,
        workloads: now.workloads - before.workloads,
        hostnames: now.hostnames - before.hostnames,
    }
}

/// What changes of each kind cost in a mesh of so many services.
fn costs(services: u32) -> Vec<Cost> {
    let mut compiler = mesh(services);
    // Of these none has a number that depends on the size.
    let changes = [
        workload(16, 5, Health::Unhealthy),
        workload(1 << 20, 5, Health::Healthy),
        workload(1 << 20, 6, Health::Healthy),
        Input::Workload(WorkloadUid::from_bytes([0; 16]), None),
        route(7, 2),
        service(8, &json!({"app": "s9"})),
        service(
            8,
            &json!({"leno.dev/service-account": "default", "app": "s8"}),
        ),
        service(1 << 20, &json!({"app": "nobody"})),
    ];
    let cost = |change: Input| {
        let (before, looked) = (compiler.compilations(), compiler.looked_at());
        let changed = compiler.apply(vec![change]);
        let changed = changed.into_iter().map(|(key, _)| key).collect();
        let compiled = since(before, compiler.compilations());
        (compiled, compiler.looked_at() - looked, changed)
    };
    changes.into_iter().map(cost).collect()
}

#[test]
fn a_change_costs_as_much_in_a_large_mesh_as_in_a_small_one() {
    let small = costs(20);
    for (_, looked, changed) in &small {
        assert!(!changed.is_empty() && *looked < 40, "{looked}, {changed:?}");
    }
    assert!(small.iter().any(|(_, looked, _)| *looked > 0));
    assert_eq!(small, costs(200));
    assert_eq!(small, costs(1_000));
}

#[test]
fn a_name_that_leads_nowhere_is_compared_with_the_services_of_a_small_namespace_alone() {
    let said = |services: u32| {
        let mut compiler = Compiler::new("default.leno".parse().unwrap());
        let there = (0..services).map(|number| service(number, &json!({"app": "x"})));
        compiler.apply(there.chain([route(1_000, 1)]).collect());
        let route = httproute_split(&name(1_000), None, &[]);
        let of_route = label(route["metadata"]["name"].as_str().unwrap());
        let conditions = compiler.conditions(Kind::HttpRoute, &label("shop"), &of_route);
        let messages = conditions.into_iter().map(|condition| condition.message);
        messages.collect::<Vec<String>>().join("; ")
    };
    let small = said(256);
    assert!(small.contains("there is no service shop/s1000"), "{small}");
    assert!(small.contains("did you mean"), "{small}");
    let large = said(257);
    assert!(large.contains("there is no service shop/s1000"), "{large}");
    assert!(!large.contains("did you mean"), "{large}");
}
