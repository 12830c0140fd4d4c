#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;

use leno_config::{Kind, admit};
use leno_types::WorkloadUid;
use serde_json::json;

use super::*;
use crate::{Input, Place, Program, RegisteredPort};

/// A workload as policies about plaintext see it.
struct Scanned<'a> {
    /// Those it belongs to, and those it is registered for.
    services: &'a BTreeSet<ServiceName>,
    program: &'a Program,
}

impl Scanned<'_> {
    /// What one of its ports does under these policies.
    fn mode(&self, policies: &[&AuthenticationPolicy], port: u16) -> MtlsMode {
        let oldest = |means: &dyn Fn(&AuthenticationTarget) -> bool| {
            let of = policies.iter().filter(|of| of.targets.iter().any(means));
            of.min_by_key(|of| aged(of)).copied()
        };
        let own = oldest(&|target| match target {
            AuthenticationTarget::Service(name) => self.services.contains(name),
            AuthenticationTarget::Labels(namespace, labels) => {
                let has =
                    |(name, value): (&String, &String)| self.program.label(name) == Some(value);
                *namespace == self.program.namespace && labels.iter().all(has)
            }
            AuthenticationTarget::Namespace(_) | AuthenticationTarget::Mesh => false,
        });
        let of_port = own.and_then(|of| of.ports.get(&port).copied());
        let namespace = AuthenticationTarget::Namespace(self.program.namespace.clone());
        let wider = [namespace, AuthenticationTarget::Mesh];
        let wider = wider
            .iter()
            .filter_map(|wide| oldest(&|target| target == wide));
        let each = own.into_iter().chain(wider).find_map(|of| of.mode);
        of_port.or(each).unwrap_or(MtlsMode::Permissive)
    }
}

fn workload() -> WorkloadRecord {
    let port = |workload_port| RegisteredPort {
        service_port: Some(workload_port),
        workload_port,
        protocol: None,
        published: Some(workload_port),
    };
    let program = Program {
        uid: WorkloadUid::from_bytes([7; 16]),
        agent: "a".parse().unwrap(),
        namespace: "shop".parse().unwrap(),
        name: "web-1".into(),
        service_account: "web".parse().unwrap(),
        service: Some("web".parse().unwrap()),
        version: Some("v2".parse().unwrap()),
        ports: Box::new([port(8080), port(8081)]),
    };
    let place = Place {
        addresses: vec!["10.0.0.1".parse().unwrap()],
        hbone_port: 15008,
    };
    WorkloadRecord {
        program: Arc::new(program),
        place: Arc::new(place),
        versioned: true,
        health: leno_ir::Health::Healthy,
        ready: true,
    }
}

#[test]
fn the_index_says_what_a_scan_says() {
    let (strict, open) = (json!({"mode": "STRICT"}), json!({"mode": "PERMISSIVE"}));
    let on = |kind: &str, name: &str| json!([{"kind": kind, "name": name}]);
    let specs = [
        json!({"targetRefs": [{"kind": "Mesh"}], "mtls": strict}),
        json!({"targetRefs": [{"kind": "Namespace"}], "mtls": open}),
        json!({"targetRefs": on("Service", "web"), "portLevelMtls": {"8081": strict}}),
        json!({"targetRefs": on("Service", "web-v2"), "mtls": open, "portLevelMtls": {"8080": strict}}),
        json!({"selector": {"matchLabels": {"app": "web", "version": "v2"}}, "mtls": strict}),
        json!({"selector": {"matchLabels": {"app": "web", "version": "v1"}}, "mtls": strict}),
    ];
    let (mut said, record) = (BTreeSet::new(), workload());
    // Every choice of them, the first or the last of them the oldest.
    for choice in 0_u32..128 {
        let chosen = (0..specs.len()).filter(|index| choice & (1 << index) != 0);
        let policies = chosen.map(|index| {
            let age = if choice & 64 == 0 { index } else { 9 - index };
            let value = json!({
                "apiVersion": "leno.dev/v1alpha1", "kind": "AuthenticationPolicy",
                "metadata": {"name": format!("p{index}"), "namespace": "shop",
                    "creationTimestamp": format!("2026-11-01T00:00:0{age}Z")},
                "spec": specs[index],
            });
            Arc::new(admit(Kind::AuthenticationPolicy, value).unwrap().resource)
        });
        let policies: Vec<_> = policies.collect();
        let mut compiler = Compiler::new("d.leno".parse().unwrap());
        let object = |of: &Arc<leno_config::Resource>| {
            let meta = &of.as_authentication_policy().unwrap().meta;
            let (namespace, name) = (meta.namespace.clone(), meta.name.clone());
            Input::Object(of.kind(), namespace, name, Some(Arc::clone(of)))
        };
        let mut inputs: Vec<Input> = policies.iter().map(object).collect();
        inputs.push(Input::Workload(record.uid, Some(record.clone())));
        compiler.apply(inputs);
        let mut services = View::fresh(&compiler.known).memberships(&record);
        services.extend(record.registered_for());
        let of = Scanned {
            services: &services,
            program: &record,
        };
        let all = policies.iter();
        let all = all.filter_map(|of| of.as_authentication_policy());
        let all: Vec<&AuthenticationPolicy> = all.collect();
        let told = compiler.mtls_of(record.uid);
        assert_eq!(told.len(), 2);
        for port in told {
            let mode = of.mode(&all, port.port).as_str();
            assert_eq!(mode, port.mode, "{choice:b} {}", port.port);
            said.insert((port.port, mode));
        }
    }
    assert_eq!(said.len(), 4, "each mode at each port");
}
