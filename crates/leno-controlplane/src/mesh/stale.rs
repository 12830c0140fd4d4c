//! What readers of the API must be shown anew: which services, workloads and statuses an event concerns.
//!
//! Invariant: whatever a status is made from marks it when it changes: the object, services that it asked about, what is
//! compiled from it, and what proxies say of that.

use std::sync::Arc;

use leno_compile::{Key, Output, Question};
use leno_config::Kind;
use leno_types::{DnsLabel, ServiceName};

use super::{Mesh, ObjectKey};
use crate::distribution::Type;

/// The object of a kind and name.
fn object(kind: Kind, name: &ServiceName) -> ObjectKey {
    (kind, name.namespace.clone(), name.name.clone())
}

impl Mesh {
    /// The key of what proxies ask for by a name.
    pub(super) fn key_of(&self, kind: Type, name: &str) -> Option<Key> {
        self.catalog().key(kind, name)
    }

    /// An object was written or deleted.
    pub(super) fn object_stale(&mut self, key: &ObjectKey) {
        let statuses = &mut self.stale.statuses;
        statuses.objects.insert(key.clone());
        // Of these one may be in another's way.
        if matches!(key.0, Kind::AuthenticationPolicy | Kind::HostnameGenerator) {
            statuses.kinds.insert(key.0);
        }
    }

    /// A service came, went or became different.
    pub(super) fn service_stale(&mut self, name: &ServiceName) {
        self.stale.services.insert(name.clone());
        let statuses = &mut self.stale.statuses;
        statuses.questions.insert(Question::Service(name.clone()));
        statuses
            .questions
            .insert(Question::Names(name.namespace.clone()));
        statuses.objects.insert(object(Kind::Service, name));
        statuses.kinds.insert(Kind::AuthenticationPolicy);
    }

    /// Something else is compiled for a key.
    pub(super) fn output_stale(&mut self, key: &Key, output: Option<&Output>) {
        if let Key::Endpoints(service) = key {
            self.stale.services.insert(service.clone());
            let question = Question::ProgramPorts(service.clone());
            self.stale.statuses.questions.insert(question);
        }
        if let Key::OwnWorkload(_) = key {
            self.stale.statuses.kinds.insert(Kind::AuthenticationPolicy);
        }
        if let Some(Output::OwnWorkload(own)) = output {
            let of_ports = own.ports.iter().flat_map(|port| &port.services);
            let services = of_ports.map(|of| &of.service).chain(&own.service);
            let questions = services.cloned().map(Question::ProgramPorts);
            self.stale.statuses.questions.extend(questions);
        }
        self.answer_stale(key);
    }

    /// Proxies say something of a key, or are told of it.
    fn answer_stale(&mut self, key: &Key) {
        let statuses = &mut self.stale.statuses;
        match key {
            Key::Mesh | Key::Hostname(_) => {
                statuses.kinds.insert(Kind::HostnameGenerator);
            }
            Key::Destination(name) | Key::Endpoints(name) => {
                statuses.objects.insert(object(Kind::Service, name));
            }
            Key::Host(_) | Key::OwnWorkload(_) => {}
        }
        let carried = self.compiler.carried(key).iter();
        let carried = carried.map(|(kind, name)| object(*kind, name));
        statuses.objects.extend(carried);
    }

    /// Proxies are asked, or answer, about names.
    pub(super) fn names_stale<'n>(&mut self, kind: Type, names: impl Iterator<Item = &'n str>) {
        for name in names {
            if let Some(key) = self.key_of(kind, name) {
                self.answer_stale(&key);
            }
        }
    }

    /// The proxy of an agent comes, goes or understands something else.
    pub(super) fn proxy_stale(&mut self, agent: &DnsLabel) {
        let own = self.registry.agent(agent).into_iter();
        let own = own.flat_map(|agent| agent.workloads.keys());
        let own: Vec<Key> = own.copied().map(Key::OwnWorkload).collect();
        for key in own {
            self.answer_stale(&key);
        }
        self.answer_stale(&Key::Mesh);
        let subscriber = self.hub.of_agent(agent).into_iter();
        let asked = subscriber.flat_map(|subscriber| subscriber.asked());
        let asked: Vec<(Type, Arc<str>)> =
            asked.map(|(kind, name)| (kind, Arc::clone(name))).collect();
        for (kind, name) in asked {
            self.names_stale(kind, [&*name].into_iter());
        }
    }
}
