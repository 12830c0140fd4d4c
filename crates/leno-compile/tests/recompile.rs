//! A change recompiles what it touches and nothing else.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::{collections::BTreeMap, sync::Arc};

use leno_compile::{
    Compilations, Compiler, Input, Key, Output, Place, Program, RegisteredPort, WorkloadRecord,
};
use leno_config::{AccessAction, Kind, SplitBackend, access_policy, admit, httproute_split};
use leno_ir::Health;
use leno_types::{DnsLabel, ServiceName, WorkloadUid};
use serde_json::Value;
use serde_json::json;

fn label(text: &str) -> DnsLabel {
    text.parse().unwrap()
}

fn service(number: u16) -> ServiceName {
    ServiceName::new(label("shop"), label(&format!("s{number}")))
}

fn workload(number: u16, of: u16) -> WorkloadRecord {
    let [high, low] = number.to_be_bytes();
    let mut uid = [0; 16];
    uid[14] = high;
    uid[15] = low;
    let program = Program {
        uid: WorkloadUid::from_bytes(uid),
        agent: label("host"),
        namespace: label("shop"),
        name: format!("w{number}").into(),
        service_account: label("default"),
        service: Some(service(of).name),
        version: None,
        ports: Box::new([RegisteredPort {
            service_port: Some(80),
            workload_port: 8080,
            protocol: None,
            published: None,
        }]),
    };
    let place = Place {
        addresses: vec![[10, 0, high, low].into()],
        hbone_port: 15008,
    };
    WorkloadRecord {
        program: Arc::new(program),
        place: Arc::new(place),
        versioned: true,
        health: Health::Healthy,
        ready: true,
    }
}

fn input(record: WorkloadRecord) -> Input {
    Input::Workload(record.uid, Some(record))
}

fn object(kind: Kind, value: Value) -> Input {
    let resource = admit(kind, value).unwrap().resource;
    let meta = resource.meta();
    Input::Object(
        kind,
        meta.namespace.clone(),
        meta.name.clone(),
        Some(Arc::new(resource.clone())),
    )
}

/// 100 services of ten workloads, each with a route to itself and its neighbour.
fn mesh() -> Compiler {
    let mut compiler = Compiler::new("default.leno".parse().unwrap());
    let mut inputs = Vec::new();
    for of in 0..100 {
        inputs.extend((0..10).map(|nth| input(workload(of * 10 + nth, of))));
        let backend = |number| SplitBackend {
            service: service(number).name,
            port: 80,
            weight: 1,
        };
        let split = httproute_split(&service(of), None, &[backend(of), backend((of + 1) % 100)]);
        inputs.push(object(Kind::HttpRoute, split));
    }
    assert_eq!(compiler.apply(inputs).len(), 100 + 100 + 1000 + 1000);
    compiler
}

/// What a change compiled, and which keys came out different.
fn cost(compiler: &mut Compiler, change: Input) -> (Compilations, Vec<Key>) {
    let before = compiler.compilations();
    let changed = compiler
        .apply(vec![change])
        .into_iter()
        .map(|(key, _)| key)
        .collect();
    let after = compiler.compilations();
    let cost = Compilations {
        destinations: after.destinations - before.destinations,
        hosts: after.hosts - before.hosts,
        endpoints: after.endpoints - before.endpoints,
        workloads: after.workloads - before.workloads,
        hostnames: after.hostnames - before.hostnames,
    };
    (cost, changed)
}

#[test]
fn a_change_of_health_recompiles_no_route() {
    let mut compiler = mesh();
    let sick = WorkloadRecord {
        health: Health::Unhealthy,
        ..workload(55, 5)
    };
    let (cost, changed) = cost(&mut compiler, input(sick.clone()));
    assert_eq!(
        cost,
        Compilations {
            destinations: 0,
            hosts: 1,
            endpoints: 1,
            workloads: 1,
            hostnames: 0,
        }
    );
    assert_eq!(
        changed,
        [
            Key::Host(sick.place.addresses[0]),
            Key::Endpoints(service(5))
        ]
    );
}

#[test]
fn a_replica_that_comes_or_goes_recompiles_no_route() {
    let mut compiler = mesh();
    let replica = workload(2000, 5);
    let (came, changed) = cost(&mut compiler, input(replica.clone()));
    assert_eq!(
        came,
        Compilations {
            destinations: 0,
            hosts: 1,
            endpoints: 1,
            workloads: 1,
            hostnames: 0,
        }
    );
    assert_eq!(changed.len(), 3);
    let (went, changed) = cost(&mut compiler, Input::Workload(replica.uid, None));
    assert_eq!(went, came);
    assert_eq!(changed.len(), 3);
}

#[test]
fn a_service_that_goes_recompiles_only_the_routes_that_name_it() {
    let mut compiler = mesh();
    let gone = (50..60)
        .map(|number| Input::Workload(workload(number, 5).uid, None))
        .collect();
    let before = compiler.compilations().destinations;
    let changed = compiler.apply(gone);
    // Itself, and the one before it, whose second backend dangles now.
    assert_eq!(compiler.compilations().destinations - before, 2);
    assert!(changed.contains(&(Key::Destination(service(5)), None)));
    let conditions = compiler.conditions(Kind::HttpRoute, &label("shop"), &label("s4"));
    assert!(
        conditions
            .iter()
            .any(|of| !of.status && of.reason == "BackendNotFound"),
        "{conditions:?}"
    );
}

#[test]
fn a_route_or_a_policy_recompiles_what_it_names() {
    let mut compiler = mesh();
    let split = httproute_split(&service(7), Some(80), &[]);
    let (route, changed) = cost(&mut compiler, object(Kind::HttpRoute, split));
    assert_eq!(
        route,
        Compilations {
            destinations: 1,
            ..Compilations::default()
        }
    );
    assert_eq!(changed, [Key::Destination(service(7))]);
    let deny = for_nobody();
    let (policy, changed) = cost(&mut compiler, object(Kind::AccessPolicy, deny));
    assert_eq!(
        policy,
        Compilations {
            workloads: 10,
            hostnames: 0,
            ..Compilations::default()
        }
    );
    let carriers = compiler.resources_from(Kind::AccessPolicy, &label("shop"), &label("nobody"));
    assert_eq!(carriers, changed);
}

/// An Allow policy without rules, which lets nobody in.
fn for_nobody() -> serde_json::Value {
    let mut policy = access_policy(&label("nobody"), &service(7), AccessAction::Allow, &[]);
    *policy.pointer_mut("/spec/rules").unwrap() = serde_json::json!([]);
    policy
}

#[test]
fn what_says_the_same_again_changes_nothing() {
    let mut compiler = mesh();
    let (cost, changed) = cost(&mut compiler, input(workload(55, 5)));
    assert_eq!(cost, Compilations::default());
    assert_eq!(changed, []);
}

#[test]
fn a_policy_protects_a_workload_that_the_applied_service_of_its_name_misses() {
    let mut compiler = mesh();
    let deny = for_nobody();
    let selector = BTreeMap::from([("app".to_owned(), "typo".to_owned())]);
    let applied = leno_config::service_template(&service(7), &selector, &[(80, 8080, None)]);
    compiler.apply(vec![
        object(Kind::AccessPolicy, deny),
        object(Kind::Service, applied),
    ]);
    let Some(leno_compile::Output::OwnWorkload(workload)) = compiler
        .get(&Key::OwnWorkload(workload(70, 7).uid))
        .as_deref()
        .cloned()
    else {
        panic!("it is registered");
    };
    let [rule] = workload.access.as_slice() else {
        panic!("{:?}", workload.access);
    };
    // For nobody: there are callers it is about, and no identity is one of them.
    assert!(!rule.principals.is_empty());
    assert!(
        rule.principals
            .iter()
            .all(|of| !of.contains(&workload.identity))
    );
}

/// Random edits seldom change one field alone, which is where a reader is forgotten.
#[test]
fn each_field_of_a_workload_alone_reaches_whoever_depends_on_it() {
    let base = workload(1, 1);
    let program = |change: fn(&mut Program)| {
        let mut record = base.clone();
        change(Arc::make_mut(&mut record.program));
        record
    };
    let place = |change: fn(&mut Place)| {
        let mut record = base.clone();
        change(Arc::make_mut(&mut record.place));
        record
    };
    let variants = [
        program(|of| of.service_account = label("other")),
        program(|of| of.service = Some(service(2).name)),
        program(|of| of.service = None),
        program(|of| of.version = Some(label("v2"))),
        program(|of| of.namespace = label("web")),
        program(|of| of.ports = Box::default()),
        program(|of| of.name = "renamed".into()),
        place(|of| of.addresses = vec!["10.9.9.9".parse().unwrap()]),
        place(|of| of.addresses = Vec::new()),
        place(|of| of.hbone_port = 25008),
        WorkloadRecord {
            ready: false,
            ..base.clone()
        },
    ];
    let selectors = [
        ("leno.dev/service-account", "other"),
        ("version", "v2"),
        ("app", "s2"),
    ];
    for variant in variants {
        let mut compiler = Compiler::new("default.leno".parse().unwrap());
        for (number, (name, value)) in (10..).zip(selectors) {
            let selector = BTreeMap::from([(name.to_owned(), value.to_owned())]);
            let applied =
                leno_config::service_template(&service(number), &selector, &[(80, 8080, None)]);
            compiler.apply(vec![object(Kind::Service, applied)]);
        }
        for record in [&base, &variant, &base] {
            let changed = compiler.apply(vec![input(record.clone())]);
            assert!(!changed.is_empty(), "{variant:?}");
            let kept: BTreeMap<_, _> = compiler.outputs().collect();
            assert_eq!(kept, compiler.full(), "{variant:?}");
        }
    }
}

#[test]
fn a_version_gets_no_part_in_a_service_that_others_are_registered_for() {
    let endpoints = |compiler: &Compiler| -> Vec<String> {
        let name = ServiceName::new(label("shop"), label("s1-api"));
        match compiler.get(&Key::Endpoints(name)).as_deref() {
            Some(Output::Endpoints(of)) => {
                let names = of.endpoints.iter().map(|endpoint| endpoint.name.clone());
                names.collect()
            }
            _ => Vec::new(),
        }
    };
    let (mut version, mut own) = (workload(1, 1), workload(2, 2));
    Arc::make_mut(&mut version.program).version = Some(label("api"));
    Arc::make_mut(&mut own.program).service = Some(label("s1-api"));
    let (uid, gone) = (own.uid, Input::Workload(own.uid, None));
    for own_first in [true, false] {
        let mut compiler = Compiler::new("default.leno".parse().unwrap());
        let both = [input(own.clone()), input(version.clone())];
        let mut both: Vec<Input> = both.into();
        if !own_first {
            both.reverse();
        }
        for one in both {
            compiler.apply(vec![one]);
        }
        assert_eq!(endpoints(&compiler), ["w2"]);
        let Some(Output::OwnWorkload(of)) = compiler
            .get(&Key::OwnWorkload(version.uid))
            .as_deref()
            .cloned()
        else {
            panic!("it is a workload");
        };
        let services = of.ports.iter().flat_map(|port| &port.services);
        let services: Vec<String> = services.map(|of| of.service.to_string()).collect();
        assert_eq!(services, ["shop/s1"]);
        compiler.apply(vec![gone.clone()]);
        assert!(compiler.get(&Key::OwnWorkload(uid)).is_none());
        assert_eq!(endpoints(&compiler), ["w1"]);
    }
}

#[test]
fn a_generator_names_every_service_and_a_label_changes_the_names_of_one() {
    let mut compiler = mesh();
    let known = common::mesh("default");
    compiler.apply(vec![Input::Mesh(Arc::new(known))]);
    let generator = json!({
        "apiVersion": "leno.dev/v1alpha1", "kind": "HostnameGenerator",
        "metadata": {"name": "all", "namespace": "shop"},
        "spec": {"selector": {"service": {}}, "template": "{{ .DisplayName }}.mesh.local"},
    });
    let (came, changed) = cost(&mut compiler, object(Kind::HostnameGenerator, generator));
    assert_eq!((came.hostnames, came.destinations), (100, 0));
    assert_eq!((changed.len(), &changed[0]), (101, &Key::Mesh));
    let mut basket = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": service(5).name.as_str(), "namespace": "shop"},
        "spec": {"ports": [{"port": 80, "targetPort": 8080}]},
    });
    compiler.apply(vec![object(Kind::Service, basket.clone())]);
    basket["metadata"]["labels"] = json!({"leno.dev/display-name": "basket"});
    let (labelled, changed) = cost(&mut compiler, object(Kind::Service, basket));
    assert_eq!(labelled.hostnames, 2);
    let key = |name: &str| Key::Hostname(format!("{name}.mesh.local").parse().unwrap());
    assert_eq!(changed, [key("basket"), key(service(5).name.as_str())]);
}
