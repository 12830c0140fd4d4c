//! Looks whether what was compiled step by step is what compiling afresh gives (CP11), a few keys at a time.
//!
//! Owns which keys are still to be looked at in this round. A difference means that a change did not reach a reader: it
//! is told and mended, as no proxy may run for ever on what was true once.
//! Invariant: a round looks at every key that has an output or could have one.

use std::sync::Arc;

use leno_types::{ServiceName, WorkloadUid};

use crate::{Compiler, Kept, Key, Output, compiler::compile, service, view::View};

/// What a look found.
#[derive(Debug, Default)]
pub struct Audit {
    /// Keys that were compared.
    pub compared: u64,
    /// Keys that were wrong, with what they mean; `None`: nothing.
    pub mended: Vec<(Key, Option<Arc<Output>>)>,
}

/// How far a round is.
#[derive(Debug)]
pub(crate) enum Round {
    /// Workloads come first. They are nearly all there is, and found by the last that was looked at.
    Workloads(Option<WorkloadUid>),
    /// Then everything else, taken from the end.
    Others(Vec<Key>),
}

impl Default for Round {
    fn default() -> Self {
        Self::Workloads(None)
    }
}

impl Compiler {
    /// Compiles the next `most` keys afresh, and mends what is different. A round begins again after the last.
    pub fn audit(&mut self, most: usize) -> Audit {
        if matches!(&self.unaudited, Round::Others(keys) if keys.is_empty()) {
            self.unaudited = Round::default();
        }
        let mut audit = Audit::default();
        for _ in 0..most {
            let Some(key) = self.next_unaudited() else {
                break;
            };
            audit.compared += 1;
            let view = View::fresh(&self.known);
            let output = compile(&view, &self.hostnames, &key);
            let kept = output.as_ref().map(Kept::from);
            if self.kept(&key) == kept.as_ref() {
                self.mend_hostnames(&key, &mut audit);
                continue;
            }
            let reads = output.as_ref().map(|_| view.into_reads());
            self.output_reads.record(&key, reads.unwrap_or_default());
            if let Key::Destination(name) | Key::Endpoints(name) = &key {
                self.mend_service(name);
            }
            self.replace(&key, output.as_ref(), kept);
            audit.mended.push((key.clone(), output.map(Arc::new)));
            self.mend_hostnames(&key, &mut audit);
        }
        audit
    }

    fn next_unaudited(&mut self) -> Option<Key> {
        if let Round::Workloads(last) = self.unaudited {
            let possible = self.known.workload_after(last);
            let kept = self.outputs.workload_after(last);
            if let Some(next) = possible.into_iter().chain(kept).min() {
                self.unaudited = Round::Workloads(Some(next));
                return Some(Key::OwnWorkload(next));
            }
            self.unaudited = Round::Others(self.others());
        }
        match &mut self.unaudited {
            Round::Workloads(_) => None,
            Round::Others(keys) => keys.pop(),
        }
    }

    /// Every key that has an output or could have one, but those of workloads; the first is last.
    fn others(&self) -> Vec<Key> {
        let mut keys: Vec<Key> = self.known.possible_keys().collect();
        keys.extend(self.outputs.other_keys().cloned());
        keys.extend(self.hostnames.names().cloned().map(Key::Hostname));
        keys.extend(self.hostnames.services().cloned().map(Key::Destination));
        keys.sort_unstable_by(|one, other| other.cmp(one));
        keys.dedup();
        keys.shrink_to_fit();
        keys
    }

    /// What a service is called besides is looked at with it, as who has a name follows from all of them.
    fn mend_hostnames(&mut self, key: &Key, audit: &mut Audit) {
        let Key::Destination(service) = key else {
            return;
        };
        for host in self.set_claims(service) {
            let key = Key::Hostname(host);
            let view = View::fresh(&self.known);
            let output = compile(&view, &self.hostnames, &key);
            let reads = output.as_ref().map(|_| view.into_reads());
            self.output_reads.record(&key, reads.unwrap_or_default());
            self.replace(&key, output.as_ref(), output.as_ref().map(Kept::from));
            audit.mended.push((key, output.map(Arc::new)));
        }
        self.hostnames.refresh();
    }

    fn mend_service(&mut self, name: &ServiceName) {
        let view = View::fresh(&self.known);
        let service = service::effective(&view, name);
        let reads = service.as_ref().map(|_| view.into_reads());
        self.service_reads.record(name, reads.unwrap_or_default());
        self.changed_services.insert(name.clone());
        match service {
            Some(service) => drop(self.services.insert(name.clone(), Arc::new(service))),
            None => drop(self.services.remove(name)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use leno_ir::ServicePort;

    use super::*;
    use crate::{Input, Remembered};

    fn name(text: &str) -> ServiceName {
        text.parse().unwrap()
    }

    /// Two services that are remembered, so that there is something to compile.
    fn compiler() -> Compiler {
        let mut compiler = Compiler::new("default.leno".parse().unwrap());
        for (service, port) in [("shop/a", 80), ("shop/b", 81)] {
            let ports = vec![ServicePort {
                port,
                protocol: None,
                name: String::new(),
            }];
            let remembered = Remembered {
                ports,
                own: true,
                since: None,
            };
            let input = Input::Remembered(name(service), Some(Arc::new(remembered)));
            compiler.apply(vec![input]);
        }
        compiler
    }

    fn replace(compiler: &mut Compiler, key: &Key, output: Option<Arc<Output>>) {
        let kept = output.as_deref().map(Kept::from);
        compiler.replace(key, output.as_deref(), kept);
    }

    fn keys(audit: &Audit) -> Vec<&Key> {
        audit.mended.iter().map(|(key, _)| key).collect()
    }

    #[test]
    fn what_is_right_is_left_alone_round_after_round() {
        let mut compiler = compiler();
        for _ in 0..20 {
            let audit = compiler.audit(3);
            assert!(audit.compared > 0 && audit.mended.is_empty(), "{audit:?}");
        }
    }

    #[test]
    fn what_a_change_did_not_reach_is_found_told_and_mended() {
        let (a, b) = (
            Key::Destination(name("shop/a")),
            Key::Destination(name("shop/b")),
        );
        let mut compiler = compiler();
        let right = compiler.get(&a).unwrap();
        // One has what is another's, and one nothing.
        let wrong = compiler.get(&b);
        replace(&mut compiler, &a, wrong);
        replace(&mut compiler, &b, None);
        let audit = compiler.audit(100);
        assert_eq!(keys(&audit), [&a, &b]);
        assert_eq!(compiler.get(&a), Some(right));
        assert!(compiler.get(&b).is_some());
        assert!(compiler.audit(100).mended.is_empty());
    }

    #[test]
    fn a_name_that_a_change_did_not_reach_is_mended_whoever_has_it() {
        let (mut compiler, a) = (compiler(), name("shop/a"));
        let mesh = leno_ir::Mesh {
            name: "default".parse().unwrap(),
            trust_domain: "default.leno".parse().unwrap(),
            trust_bundle: String::new(),
            prefixes: Vec::new(),
            addresses: Vec::new(),
            vip_v4: "240.240.0.0/16".parse().unwrap(),
            vip_v6: "2001:2::/48".parse().unwrap(),
            namespaces: Default::default(),
            domains: Default::default(),
        };
        let generator = serde_json::json!({
            "apiVersion": "leno.dev/v1alpha1", "kind": "HostnameGenerator",
            "metadata": {"name": "all", "namespace": "shop"},
            "spec": {"selector": {"service": {}}, "template": "{{ .Name }}.mesh.local"},
        });
        let kind = leno_config::Kind::HostnameGenerator;
        let generator = leno_config::admit(kind, generator).unwrap().resource;
        let generator = Some(Arc::new(generator));
        let label = |text: &str| text.parse().unwrap();
        compiler.apply(vec![
            Input::Mesh(Arc::new(mesh)),
            Input::Object(kind, label("shop"), label("all"), generator),
        ]);
        let named = Key::Hostname("a.mesh.local".parse().unwrap());
        let right = compiler.get(&named);
        assert!(right.is_some());
        assert!(compiler.audit(100).mended.is_empty());
        // Its claims were lost, and with them the name.
        compiler.hostnames.set(&a, Vec::new());
        replace(&mut compiler, &named, None);
        assert_eq!(keys(&compiler.audit(100)), [&named]);
        assert_eq!(compiler.get(&named), right);
        // The name is told to be nobody's, although the claims are right.
        replace(&mut compiler, &named, None);
        assert_eq!(keys(&compiler.audit(100)), [&named]);
        assert_eq!(compiler.get(&named), right);
        assert!(compiler.audit(100).mended.is_empty());
    }

    #[test]
    fn what_should_be_gone_goes() {
        let mut compiler = compiler();
        let stale = compiler.get(&Key::Endpoints(name("shop/a")));
        let gone = [
            Key::OwnWorkload(WorkloadUid::from_bytes([7; 16])),
            Key::Endpoints(name("shop/gone")),
        ];
        for key in &gone {
            replace(&mut compiler, key, stale.clone());
        }
        let audit = compiler.audit(100);
        assert_eq!(keys(&audit), gone.each_ref());
        for key in &gone {
            assert_eq!(compiler.get(key), None);
        }
    }
}
