//! Incremental equals full, byte for byte, whatever was changed in whichever order (CP11).
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use leno_compile::{
    Compiler, Input, Key, Origin, Output, Place, Program, RegisteredPort, Remembered,
    WorkloadRecord,
};
use leno_config::{Kind, admit};
use leno_ir::{Health, Mesh, MtlsMode, Prefix, ResourceName, ServicePort};
use leno_types::{ServiceName, WorkloadUid};
use proptest::prelude::*;
use prost::Message;
use serde_json::{Value, json};

/// Small choices made from one number, so that an edit shrinks well.
struct Dice(u64);

impl Dice {
    fn below(&mut self, sides: u64) -> u64 {
        // The finalizer of splitmix64: every bit of the seed moves every choice.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % sides
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::try_from(self.below(of.len() as u64)).unwrap()]
    }

    fn several<T: Copy>(&mut self, most: u64, of: &[T]) -> Vec<T> {
        (0..self.below(most + 1)).map(|_| self.one(of)).collect()
    }
}

const NAMESPACES: &[&str] = &["shop", "web"];
const SERVICES: &[&str] = &["a", "b", "a-v1", "a-v2"];
const OBJECTS: &[&str] = &["x", "y", "z"];
const VERSIONS: &[&str] = &["", "v1", "v2"];
const ADDRESSES: &[&str] = &["10.0.0.1", "10.0.0.2", "fd00::1", "240.240.0.1"];
const VIPS: &[&str] = &["240.240.0.1", "240.240.0.2", "2001:2::1"];

fn meta(dice: &mut Dice, namespace: &str, name: &str) -> Value {
    let mut meta = json!({
        "namespace": namespace, "name": name, "uid": name, "generation": dice.below(3),
        "annotations": {"leno.dev/source": format!("f.yaml:{}", dice.below(3))},
    });
    if dice.below(2) == 0 {
        meta["creationTimestamp"] = json!(format!("2026-05-01T12:00:0{}Z", dice.below(3)));
    }
    if dice.below(2) == 0 {
        meta["labels"] = json!({"tier": dice.one(&["front", "Back", "no_name"])});
    }
    meta
}

fn generator(dice: &mut Dice, namespace: &str, name: &str) -> Value {
    let template = dice.one(&[
        "{{ .Name }}.{{ .Namespace }}.mesh.local",
        "{{ .Name }}.mesh.local",
        "{{ label \"tier\" }}.{{ .Mesh }}.example.com",
        "one.for.all.mesh.local",
    ]);
    let service = match dice.below(4) {
        0 => json!({"matchLabels": {"tier": "front"}}),
        1 => json!({"namespaces": [dice.one(NAMESPACES)]}),
        2 => json!({"matchLabels": {"leno.dev/derived": "true"}}),
        _ => json!({}),
    };
    json!({"apiVersion": "leno.dev/v1alpha1", "kind": "HostnameGenerator", "metadata": meta(dice, namespace, name),
        "spec": {"selector": {"service": service}, "template": template}})
}

fn service(dice: &mut Dice, namespace: &str, name: &str) -> Value {
    let selector = match dice.below(5) {
        4 => json!({"leno.dev/service-account": dice.one(&["a", "b"])}),
        0 => json!({}),
        1 => json!({"app": dice.one(&["a", "b"])}),
        2 => json!({"app": "a", "version": dice.one(&["v1", "v2"])}),
        _ => json!({"version": dice.one(&["v1", "v2"])}),
    };
    let protocol = |dice: &mut Dice| dice.one(&["http", "tcp", "grpc"]);
    let ports = match dice.below(3) {
        0 => json!([{"port": 80, "targetPort": 8080, "appProtocol": protocol(dice)}]),
        1 => json!([{"port": 80, "targetPort": "http-80"}]),
        _ => {
            json!([{"name": "a", "port": 80}, {"name": "b", "port": 81, "targetPort": 8080, "appProtocol": protocol(dice)}])
        }
    };
    let mut spec = json!({"selector": selector, "ports": ports});
    match dice.below(4) {
        0 => spec["clusterIP"] = json!("None"),
        1 => spec["clusterIP"] = json!(dice.one(VIPS)),
        _ => {}
    }
    json!({"apiVersion": "v1", "kind": "Service", "metadata": meta(dice, namespace, name), "spec": spec})
}

fn route(dice: &mut Dice, namespace: &str, name: &str) -> Value {
    let mut parents: Vec<Value> = Vec::new();
    for _ in 0..=dice.below(2) {
        let mut parent = json!({"group": "", "kind": "Service", "name": dice.one(SERVICES)});
        if dice.below(2) == 0 {
            parent["port"] = json!(dice.one(&[80, 81, 82]));
        }
        if !parents.contains(&parent) {
            parents.push(parent);
        }
    }
    let mut rules: Vec<Value> = Vec::new();
    for _ in 0..=dice.below(2) {
        let paths = dice.several(3, &["/", "/a", "/a/b"]);
        let matches: Vec<Value> = paths
            .into_iter()
            .map(
                |path| json!({"path": {"type": dice.one(&["Exact", "PathPrefix"]), "value": path}}),
            )
            .collect();
        let backends: Vec<Value> = dice
            .several(2, SERVICES)
            .into_iter()
            .map(|name| json!({"name": name, "namespace": dice.one(&[namespace, namespace, "web"]), "port": dice.one(&[80, 81])}))
            .collect();
        rules.push(json!({"matches": matches, "backendRefs": backends}));
    }
    json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": meta(dice, namespace, name),
        "spec": {"parentRefs": parents, "rules": rules}})
}

fn policy(dice: &mut Dice, namespace: &str, name: &str) -> Value {
    let mut targets: Vec<Value> = Vec::new();
    for _ in 0..=dice.below(2) {
        let target = match dice.below(4) {
            0 => json!({"kind": "Mesh"}),
            1 => json!({"kind": "Namespace", "name": namespace}),
            _ => json!({"kind": "Service", "name": dice.one(SERVICES)}),
        };
        if !targets.contains(&target) {
            targets.push(target);
        }
    }
    let accounts = ["shop/a", "web/b"];
    let (action, rules) = match dice.below(4) {
        0 => ("Allow", json!([])),
        1 => ("Deny", json!([{}])),
        2 => (
            "Allow",
            json!([{"from": [{"serviceAccounts": [dice.one(&accounts)]}, {"namespaces": ["web"]}]}]),
        ),
        _ => (
            "Deny",
            json!([{"from": [{"principals": ["spiffe://default.leno/ns/web/*"]}], "to": [{"ports": [8080]}]}]),
        ),
    };
    json!({"apiVersion": "leno.dev/v1alpha1", "kind": "AccessPolicy", "metadata": meta(dice, namespace, name),
        "spec": {"targetRefs": targets, "action": action, "rules": rules}})
}

fn authentication(dice: &mut Dice, namespace: &str, name: &str) -> Value {
    let modes = ["STRICT", "PERMISSIVE"];
    let mut spec = match dice.below(6) {
        0 => json!({"targetRefs": [{"kind": "Mesh"}]}),
        1 => json!({"targetRefs": [{"kind": "Namespace"}]}),
        2 => json!({"targetRefs": [{"kind": "Mesh"}, {"kind": "Service", "name": "a"}]}),
        3 => json!({"selector": {"matchLabels": {"version": dice.one(&["v1", "v2"])}}}),
        _ => json!({"targetRefs": [{"kind": "Service", "name": dice.one(SERVICES)}]}),
    };
    let targets = spec["targetRefs"].to_string();
    let wide = targets.contains("Mesh") || targets.contains("Namespace");
    let ports = !wide && dice.below(4) != 0;
    if ports {
        spec["portLevelMtls"] = json!({"8080": {"mode": dice.one(&modes)}});
    }
    if !ports || dice.below(2) == 0 {
        spec["mtls"] = json!({"mode": dice.one(&modes)});
    }
    json!({"apiVersion": "leno.dev/v1alpha1", "kind": "AuthenticationPolicy", "metadata": meta(dice, namespace, name), "spec": spec})
}

/// What a workload is before edits change a field of it, or all.
fn workload(dice: &mut Dice, uid: WorkloadUid) -> WorkloadRecord {
    let base = any_workload(&mut Dice(u64::from(uid.as_bytes()[0])), uid);
    let other = any_workload(dice, uid);
    let program = |program| WorkloadRecord {
        program: Arc::new(program),
        ..base.clone()
    };
    match dice.below(12) {
        0 => WorkloadRecord {
            versioned: other.versioned,
            ..base
        },
        1 => program(Program {
            service_account: other.service_account.clone(),
            ..(*base.program).clone()
        }),
        2 => program(Program {
            ports: other.ports.clone(),
            ..(*base.program).clone()
        }),
        3 => WorkloadRecord {
            place: other.place,
            ..base
        },
        4 => program(Program {
            version: other.version.clone(),
            ..(*base.program).clone()
        }),
        5 => WorkloadRecord {
            health: other.health,
            ready: other.ready,
            ..base
        },
        6 => base,
        _ => other,
    }
}

fn any_workload(dice: &mut Dice, uid: WorkloadUid) -> WorkloadRecord {
    let namespace = dice.one(NAMESPACES);
    let service = dice.one(&["", "a", "a", "b"]);
    let port = |dice: &mut Dice| RegisteredPort {
        service_port: dice.one(&[Some(80), Some(81)]),
        workload_port: dice.one(&[8080, 80]),
        protocol: dice
            .one(&[None, Some("http"), Some("tcp")])
            .map(|text| text.parse().unwrap()),
        published: dice.one(&[None, Some(9000)]),
    };
    let program = Program {
        uid,
        agent: "host".parse().unwrap(),
        namespace: namespace.parse().unwrap(),
        name: format!("w-{}", uid.as_bytes()[15]).into(),
        service_account: dice.one(&["a", "b"]).parse().unwrap(),
        service: (!service.is_empty()).then(|| service.parse().unwrap()),
        version: dice.one(VERSIONS).parse().ok(),
        ports: (0..dice.below(3)).map(|_| port(dice)).collect(),
    };
    let addresses = dice.several(2, ADDRESSES).into_iter();
    let place = Place {
        addresses: addresses.map(|text| text.parse().unwrap()).collect(),
        hbone_port: 15008,
    };
    WorkloadRecord {
        program: Arc::new(program),
        place: Arc::new(place),
        versioned: dice.below(4) != 0,
        health: dice.one(&[Health::Healthy, Health::Unhealthy, Health::Unknown]),
        ready: dice.below(16) != 0,
    }
}

fn mesh(dice: &mut Dice) -> Mesh {
    Mesh {
        name: "default".parse().unwrap(),
        trust_domain: "default.leno".parse().unwrap(),
        trust_bundle: format!("bundle {}", dice.below(3)),
        prefixes: vec!["10.0.0.0/8".parse::<Prefix>().unwrap()],
        addresses: Vec::new(),
        vip_v4: "240.240.0.0/16".parse().unwrap(),
        vip_v6: "2001:2::/48".parse().unwrap(),
        namespaces: Default::default(),
        domains: Default::default(),
    }
}

fn object(kind: Kind, value: Option<Value>, namespace: &str, name: &str) -> Input {
    let resource = value.map(|value| Arc::new(admit(kind, value).unwrap().resource));
    Input::Object(
        kind,
        namespace.parse().unwrap(),
        name.parse().unwrap(),
        resource,
    )
}

fn edit(seed: u64) -> Input {
    let dice = &mut Dice(seed);
    let namespace = dice.one(NAMESPACES);
    let gone = dice.below(4) == 0;
    match dice.below(16) {
        14 | 15 => {
            let name = dice.one(OBJECTS);
            let value = (!gone).then(|| authentication(dice, namespace, name));
            object(Kind::AuthenticationPolicy, value, namespace, name)
        }
        11 | 12 => {
            let name = dice.one(OBJECTS);
            let value = (!gone).then(|| generator(dice, namespace, name));
            object(Kind::HostnameGenerator, value, namespace, name)
        }
        13 => {
            let names = ["a.mesh.local", "a.shop.mesh.local"];
            let names = dice.several(2, &names).into_iter();
            Input::Reserved(Arc::new(names.map(|name| name.parse().unwrap()).collect()))
        }
        10 => {
            let service = format!("{namespace}/{}", dice.one(SERVICES));
            let remembered = Remembered {
                ports: vec![ServicePort {
                    port: dice.one(&[80, 81]),
                    protocol: None,
                    name: "port-80".into(),
                }],
                own: dice.below(2) == 0,
                since: (dice.below(2) == 0)
                    .then(|| format!("2026-05-01T12:00:0{}Z", dice.below(3))),
            };
            let remembered = (!gone).then(|| Arc::new(remembered));
            Input::Remembered(service.parse().unwrap(), remembered)
        }
        0 | 1 => {
            let name = dice.one(SERVICES);
            let value = (!gone).then(|| service(dice, namespace, name));
            object(Kind::Service, value, namespace, name)
        }
        2 | 3 => {
            let name = dice.one(OBJECTS);
            let value = (!gone).then(|| route(dice, namespace, name));
            object(Kind::HttpRoute, value, namespace, name)
        }
        4 => {
            let name = dice.one(OBJECTS);
            let value = (!gone).then(|| policy(dice, namespace, name));
            object(Kind::AccessPolicy, value, namespace, name)
        }
        5 => {
            let service = format!("{namespace}/{}", dice.one(SERVICES));
            let vips = dice
                .several(2, VIPS)
                .into_iter()
                .map(|text| text.parse().unwrap());
            Input::Vips(service.parse().unwrap(), vips.collect())
        }
        6 => Input::Mesh(Arc::new(mesh(dice))),
        _ => {
            let uid = WorkloadUid::from_bytes([u8::try_from(dice.below(6)).unwrap(); 16]);
            let record = (!gone).then(|| workload(dice, uid));
            Input::Workload(uid, record)
        }
    }
}

fn bytes(output: &Output) -> Vec<u8> {
    match output {
        Output::Destination(destination) => destination.to_wire().encode_to_vec(),
        Output::Endpoints(endpoints) => endpoints.to_wire().encode_to_vec(),
        Output::OwnWorkload(workload) => workload.to_wire().encode_to_vec(),
        Output::Mesh(mesh) => mesh.to_wire().encode_to_vec(),
    }
}

fn snapshot(compiler: &Compiler) -> BTreeMap<Key, Vec<u8>> {
    compiler
        .outputs()
        .map(|(key, output)| (key, bytes(&output)))
        .collect()
}

/// What identifies an input: a later one of the same replaces it.
fn identity(input: &Input) -> String {
    match input {
        Input::Object(kind, namespace, name, _) => format!("{kind} {namespace}/{name}"),
        Input::Workload(uid, _) => format!("workload {uid}"),
        Input::Remembered(name, _) => format!("remembered {name}"),
        Input::Vips(name, _) => format!("vips {name}"),
        Input::Mesh(_) => "mesh".into(),
        Input::Reserved(_) => "reserved".into(),
    }
}

fn lookups(compiler: &Compiler) -> Vec<String> {
    let mut all = Vec::new();
    for text in ADDRESSES.iter().chain(VIPS) {
        let name = ResourceName::Address(text.parse::<IpAddr>().unwrap());
        all.push(format!("{name} {:?}", compiler.resolve(&name)));
    }
    for (key, _) in compiler.outputs() {
        all.push(format!("{key:?} {:?}", compiler.aliases(&key)));
    }
    for namespace in NAMESPACES {
        for kind in [
            Kind::Service,
            Kind::HttpRoute,
            Kind::AccessPolicy,
            Kind::AuthenticationPolicy,
            Kind::HostnameGenerator,
        ] {
            for name in OBJECTS.iter().chain(SERVICES) {
                let of: ServiceName = format!("{namespace}/{name}").parse().unwrap();
                let conditions = compiler.conditions(kind, &of.namespace, &of.name);
                let carriers = compiler.resources_from(kind, &of.namespace, &of.name);
                all.push(format!("{kind} {of} {conditions:?} {carriers:?}"));
            }
        }
    }
    all.push(format!("{:?}", compiler.services().collect::<Vec<_>>()));
    all.push(format!("{:?}", compiler.given_names()));
    all
}

fn check(seeds: &[(u64, bool)]) -> Result<(), TestCaseError> {
    let domain = || "default.leno".parse().unwrap();
    let mut compiler = Compiler::new(domain());
    let mut last: BTreeMap<String, Input> = BTreeMap::new();
    let mut batch = Vec::new();
    for (index, (seed, more)) in seeds.iter().enumerate() {
        let input = edit(*seed);
        last.insert(identity(&input), input.clone());
        batch.push(input);
        if *more && index + 1 < seeds.len() {
            continue;
        }
        let before = snapshot(&compiler);
        // To look ahead leaves nothing behind, in no index either: what comes next is compared with a fresh compilation.
        let workloads = before.keys().filter_map(|key| match key {
            Key::OwnWorkload(uid) => Some(*uid),
            _ => None,
        });
        let workloads = workloads.collect();
        drop(compiler.foresee(batch.clone(), &workloads, usize::MAX));
        let changes = compiler.apply(std::mem::take(&mut batch));
        let after = snapshot(&compiler);
        // What it says that changed is what changed, no more and no less.
        let mut told = before.clone();
        for (key, output) in &changes {
            let now = output.as_ref().map(|output| bytes(output));
            prop_assert_ne!(before.get(key), now.as_ref(), "{:?} did not change", key);
            // What the wire does not give back would be refused by every proxy, and not be known here either.
            prop_assert_eq!(&compiler.get(key), output);
            match now {
                Some(bytes) => told.insert(key.clone(), bytes),
                None => told.remove(key),
            };
        }
        prop_assert_eq!(&told, &after);
        let full: BTreeMap<Key, Vec<u8>> = compiler
            .full()
            .iter()
            .map(|(key, output)| (key.clone(), bytes(output)))
            .collect();
        prop_assert_eq!(&after, &full);
    }
    // The same in another order, at once.
    let mut shuffled: Vec<Input> = last.into_values().collect();
    let turn = seeds.len() % shuffled.len().max(1);
    shuffled.rotate_left(turn);
    shuffled.reverse();
    let mut other = Compiler::new(domain());
    other.apply(shuffled);
    prop_assert_eq!(snapshot(&compiler), snapshot(&other));
    prop_assert_eq!(lookups(&compiler), lookups(&other));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn incremental_equals_full_whatever_the_order(
        seeds in prop::collection::vec((any::<u64>(), any::<bool>()), 1..60)
    ) {
        check(&seeds)?;
    }
}

/// One mesh that lives long: what is left of old edits must not matter to new ones (check 15).
#[test]
fn a_hundred_thousand_edits_leave_what_a_fresh_compilation_gives() {
    const EDITS: u64 = 100_000;
    let mut compiler = Compiler::new("default.leno".parse().unwrap());
    let mut last: BTreeMap<String, Input> = BTreeMap::new();
    let (mut dice, mut edits, mut batches) = (Dice(1), 0, 0_u64);
    while edits < EDITS {
        let count = 1 + dice.below(40);
        let batch: Vec<Input> = (0..count).map(|_| edit(dice.below(u64::MAX))).collect();
        last.extend(batch.iter().map(|input| (identity(input), input.clone())));
        compiler.apply(batch);
        (edits, batches) = (edits + count, batches + 1);
        let full = compiler.full();
        let full = full
            .iter()
            .map(|(key, output)| (key.clone(), bytes(output)));
        assert_eq!(snapshot(&compiler), full.collect(), "after {edits} edits");
        if batches.is_multiple_of(100) {
            let mut fresh = Compiler::new("default.leno".parse().unwrap());
            fresh.apply(last.values().cloned().collect());
            assert_eq!(snapshot(&compiler), snapshot(&fresh), "after {edits} edits");
            assert_eq!(lookups(&compiler), lookups(&fresh), "after {edits} edits");
        }
    }
}

/// The edits must reach what they are meant to test, or equality says nothing.
#[test]
fn the_edits_reach_everything() {
    let mut compiler = Compiler::new("default.leno".parse().unwrap());
    let (mut routes, mut invalid, mut rules, mut derived, mut selected) = (0, 0, 0, 0, 0);
    let (mut named, mut conflicts) = (0, 0);
    let (mut strict, mut levels) = (0, 0);
    for seed in 0..6_000 {
        for (_, output) in compiler.apply(vec![edit(seed)]) {
            match output.as_deref() {
                Some(Output::Destination(leno_ir::Destination::Service(service))) => {
                    routes += service.routes.len();
                    let backends = service.routes.iter().flat_map(|route| &route.backends);
                    invalid += backends.filter(|backend| backend.invalid.is_some()).count();
                }
                Some(Output::OwnWorkload(workload)) => {
                    rules += workload.access.len();
                    strict += usize::from(workload.mtls.mode == MtlsMode::Strict);
                    levels += workload
                        .ports
                        .iter()
                        .filter(|port| port.mtls.is_some())
                        .count();
                }
                Some(Output::Endpoints(endpoints)) => selected += endpoints.endpoints.len(),
                _ => {}
            }
        }
        for given in compiler.given_names().values().flat_map(|of| of.iter()) {
            match given.name {
                Ok(_) => named += 1,
                Err(("Conflict", _)) => conflicts += 1,
                Err(_) => {}
            }
        }
        derived += compiler
            .services()
            .filter(|service| service.origin != Origin::Applied)
            .count();
    }
    let counts = [
        routes, invalid, rules, derived, selected, named, conflicts, strict, levels,
    ];
    assert!(counts.iter().all(|count| *count > 200), "{counts:?}");
}
