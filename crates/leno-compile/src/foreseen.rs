//! What workloads would do with their callers if other objects stood, before anybody writes these.
//!
//! The compiler itself says it, of what is known with the proposed objects in it; they are taken out again at once, and
//! nothing else is compiled.
//! Invariant: afterwards everything known is as it was.

use std::collections::BTreeSet;

use leno_ir::OwnWorkload;
use leno_types::{ServiceName, WorkloadUid};

use crate::{
    Compiler, Input, Key,
    known::{Known, ObjectName, Touched},
    view::View,
    workload,
};

/// A workload under what stands, and under what is proposed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreseen {
    /// As it is told now.
    pub now: OwnWorkload,
    /// As it would be told.
    pub then: OwnWorkload,
}

impl Compiler {
    /// What those of these workloads that the proposed objects concern would do if they stood, `most` at most, and how
    /// many more there are. Inputs that are no objects are passed over.
    pub fn foresee(
        &mut self,
        proposed: Vec<Input>,
        workloads: &BTreeSet<WorkloadUid>,
        most: usize,
    ) -> (Vec<Foreseen>, usize) {
        let (standing, touched) = self.exchange(proposed);
        let concerned: Vec<WorkloadUid> = {
            let dirty = self.output_reads.dirty(&touched.reads);
            let keys = dirty.into_iter().chain(touched.keys);
            let uids: BTreeSet<WorkloadUid> = keys
                .filter_map(|key| match key {
                    Key::OwnWorkload(uid) => Some(uid),
                    _ => None,
                })
                .collect();
            uids.intersection(workloads).copied().collect()
        };
        let own = |known: &Known, uid| workload::own(&View::fresh(known), uid);
        let looked_at = concerned.iter().take(most);
        let then: Vec<OwnWorkload> = looked_at.filter_map(|uid| own(&self.known, *uid)).collect();
        self.exchange(standing);
        let foreseen = then.into_iter().filter_map(|then| {
            let now = own(&self.known, then.uid)?;
            Some(Foreseen { now, then })
        });
        (foreseen.collect(), concerned.len().saturating_sub(most))
    }

    /// Puts objects in their places; gives what was there, the last first, and what they touch, of which nobody is told.
    fn exchange(&mut self, objects: Vec<Input>) -> (Vec<Input>, Touched) {
        let mut standing = Vec::with_capacity(objects.len());
        let mut untold = Touched::default();
        for object in objects {
            let Input::Object(kind, namespace, name, _) = &object else {
                continue;
            };
            let (kind, namespace, name) = (*kind, namespace.clone(), name.clone());
            let at = ObjectName::new(namespace.clone(), name.clone());
            let before = self.known.object(kind, &at).cloned();
            standing.push(Input::Object(kind, namespace, name, before));
            self.known.set(object, &mut untold);
        }
        standing.reverse();
        (standing, untold)
    }

    /// Workloads that serve a name: at most `most` of those registered for it and as many of those that its selector
    /// selects. Those that one service has are told the same but for labels, so that a few stand for all.
    #[must_use]
    pub fn serving(&self, name: &ServiceName, most: usize) -> BTreeSet<WorkloadUid> {
        let registered = self.known.registered(name).take(most);
        let service = self.known.service(name);
        let selected = service
            .into_iter()
            .flat_map(|of| self.known.selected(&of.meta.namespace, &of.selector))
            .take(most);
        registered
            .chain(selected)
            .map(|member| member.record.uid)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use std::sync::Arc;

    use leno_config::{Kind, admit};
    use leno_ir::MtlsMode;
    use serde_json::{Value, json};

    use super::*;
    use crate::{Place, Program, RegisteredPort, WorkloadRecord};

    const UID: WorkloadUid = WorkloadUid::from_bytes([7; 16]);

    fn mesh() -> Compiler {
        let program = Program {
            uid: UID,
            agent: "a".parse().unwrap(),
            namespace: "shop".parse().unwrap(),
            name: "web-1".into(),
            service_account: "web".parse().unwrap(),
            service: Some("web".parse().unwrap()),
            version: None,
            ports: Box::new([RegisteredPort {
                service_port: Some(80),
                workload_port: 8080,
                protocol: None,
                published: Some(8080),
            }]),
        };
        let place = Place {
            addresses: vec!["10.0.0.1".parse().unwrap()],
            hbone_port: 15008,
        };
        let record = WorkloadRecord {
            program: Arc::new(program),
            place: Arc::new(place),
            versioned: true,
            health: leno_ir::Health::Healthy,
            ready: true,
        };
        let mut compiler = Compiler::new("d.leno".parse().unwrap());
        compiler.apply(vec![Input::Workload(UID, Some(record))]);
        compiler
    }

    fn policy(kind: Kind, name: &str, spec: Value) -> Input {
        let value = json!({"apiVersion": "leno.dev/v1alpha1", "kind": kind.kind(),
            "metadata": {"name": name, "namespace": "shop"}, "spec": spec});
        let resource = Arc::new(admit(kind, value).unwrap().resource);
        let name = name.parse().unwrap();
        Input::Object(kind, "shop".parse().unwrap(), name, Some(resource))
    }

    #[test]
    fn what_is_foreseen_is_what_comes_and_until_then_nothing_is_different() {
        let web = || json!([{"kind": "Service", "name": "web"}]);
        let strict = |mode: &str| json!({"targetRefs": [{"kind": "Mesh"}], "mtls": {"mode": mode}});
        let mtls = Kind::AuthenticationPolicy;
        let access = Kind::AccessPolicy;
        let rules = json!([{"from": [{"serviceAccounts": ["shop/front"]}]}]);
        let deny = json!({"targetRefs": web(), "action": "Deny", "rules": rules});
        let steps = [
            policy(mtls, "mesh", strict("STRICT")),
            policy(access, "cart", deny.clone()),
            policy(mtls, "mesh", strict("PERMISSIVE")),
            policy(
                access,
                "cart",
                json!({"targetRefs": web(), "action": "Allow"}),
            ),
            Input::Object(
                access,
                "shop".parse().unwrap(),
                "cart".parse().unwrap(),
                None,
            ),
            Input::Object(mtls, "shop".parse().unwrap(), "mesh".parse().unwrap(), None),
        ];
        let mut compiler = mesh();
        for step in steps {
            let before = compiler.full();
            let (foreseen, more) = compiler.foresee(vec![step.clone()], &BTreeSet::from([UID]), 8);
            assert_eq!(more, 0);
            assert_eq!(compiler.full(), before, "{step:?}");
            compiler.apply(vec![step.clone()]);
            let told = workload::own(&View::fresh(&compiler.known), UID).unwrap();
            assert_eq!(foreseen.len(), 1);
            assert_eq!(foreseen[0].then, told, "{step:?}");
            assert_ne!(foreseen[0].now, told, "{step:?}");
        }
    }

    #[test]
    fn several_at_once_stand_together_and_go_together() {
        let mut compiler = mesh();
        let mode = |mode: &str| json!({"targetRefs": [{"kind": "Mesh"}], "mtls": {"mode": mode}});
        let kind = Kind::AuthenticationPolicy;
        // Of one object the last counts, and the first is what is put back.
        let twice = [
            policy(kind, "mesh", mode("PERMISSIVE")),
            policy(kind, "mesh", mode("STRICT")),
        ];
        let before = compiler.full();
        let uid = BTreeSet::from([UID]);
        let (foreseen, _) = compiler.foresee(twice.to_vec(), &uid, 8);
        assert_eq!(foreseen[0].then.mtls.mode, MtlsMode::Strict);
        assert_eq!(compiler.full(), before);
        let gone = WorkloadUid::from_bytes([8; 16]);
        let gone = BTreeSet::from([gone]);
        assert_eq!(compiler.foresee(twice.to_vec(), &gone, 8), (Vec::new(), 0));
        assert_eq!(compiler.foresee(twice.to_vec(), &uid, 0), (Vec::new(), 1));
        // What is for another is not looked at, however many there are of it.
        let other =
            json!({"targetRefs": [{"kind": "Service", "name": "other"}], "action": "Allow"});
        let other = vec![policy(Kind::AccessPolicy, "other", other)];
        assert_eq!(compiler.foresee(other, &uid, 8), (Vec::new(), 0));
    }

    #[test]
    fn who_serves_a_name_is_found_by_registration_and_by_selector() {
        let mut compiler = mesh();
        let name = |text: &str| text.parse::<ServiceName>().unwrap();
        let web = BTreeSet::from([UID]);
        assert_eq!(compiler.serving(&name("shop/web"), 8), web);
        assert!(compiler.serving(&name("shop/front"), 8).is_empty());
        let value = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "front", "namespace": "shop"},
            "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}});
        let front = Arc::new(admit(Kind::Service, value).unwrap().resource);
        let front = Input::Object(
            Kind::Service,
            "shop".parse().unwrap(),
            "front".parse().unwrap(),
            Some(front),
        );
        compiler.apply(vec![front]);
        assert_eq!(compiler.serving(&name("shop/front"), 8), web);
    }
}
