//! From the store and the registry to the compiler's inputs.

use std::{collections::BTreeSet, sync::Arc};

use leno_api::store_resource;
use leno_compile::{Input, Program, WorkloadRecord};
use leno_config::{Kind, Resource};
use leno_ir::Health;
use leno_store::{Change, Entry, Key as StoreKey, Store, StoreError};
use leno_types::{DnsLabel, ServiceName};

use super::{
    Mesh, ObjectKey,
    grace::{Grace, RESTART_GRACE},
    remembered::SERVICES,
};
use crate::{
    distribution::Type,
    people::USERS,
    records::Record,
    registry::{Agent, AgentScope, Effects, Workload},
    tokens::{AGENTS, AgentRecord, TOKENS, TokenRecord},
    vips::VipRecord,
};

/// The collection of virtual addresses in the store.
pub(super) const VIPS: &str = "leno/vips";
/// Kinds that people write.
pub(super) const STORED: [Kind; 5] = [
    Kind::Service,
    Kind::HttpRoute,
    Kind::AccessPolicy,
    Kind::AuthenticationPolicy,
    Kind::HostnameGenerator,
];

impl Mesh {
    /// Reads everything the store has of this mesh; what is no longer there goes.
    pub(crate) fn load(&mut self, store: &dyn Store) -> Result<(), StoreError> {
        let first = self.revision == 0;
        if first {
            let own = self.server_names();
            let own = own
                .iter()
                .filter_map(|name| name.to_ascii_lowercase().parse().ok());
            self.pending.push(Input::Reserved(Arc::new(own.collect())));
        }
        for kind in STORED {
            let (entries, _) = store.list(&self.settings.name, &store_resource(kind), None)?;
            let mut there = BTreeSet::new();
            for entry in &entries {
                there.extend(object_key(kind, &entry.key));
                self.put_object(kind, entry);
            }
            let gone: Vec<ObjectKey> = self
                .objects
                .keys()
                .filter(|key| key.0 == kind && !there.contains(*key))
                .cloned()
                .collect();
            for key in gone {
                self.delete_object(key);
            }
        }
        for entry in store.list(&self.settings.name, VIPS, None)?.0 {
            self.put_vip(&entry);
        }
        for entry in store.list(&self.settings.name, SERVICES, None)?.0 {
            self.put_remembered(&entry);
        }
        let (people, revision) = store.list(&self.settings.name, USERS, None)?;
        self.people.replace(&people, revision);
        let agents = store.list(&self.settings.name, AGENTS, None)?.0;
        let there: BTreeSet<&str> = agents.iter().map(|entry| &*entry.key.name).collect();
        self.known_agents
            .retain(|name, _| there.contains(name.as_str()));
        for entry in &agents {
            self.put_agent(entry);
        }
        self.token_networks.clear();
        for entry in store.list(&self.settings.name, TOKENS, None)?.0 {
            self.put_token(&entry);
        }
        self.revision = store.revision();
        self.mesh_due = true;
        if first && !self.known_agents.is_empty() {
            self.grace = Some(Grace::new(RESTART_GRACE));
        }
        Ok(())
    }

    /// Takes in one change of the store.
    pub(crate) fn change(&mut self, change: &Change) {
        let key = change.key();
        let kind = STORED
            .into_iter()
            .find(|kind| store_resource(*kind) == *key.resource);
        match (change, kind, &*key.resource) {
            (Change::Put(entry), Some(kind), _) => self.put_object(kind, entry),
            (Change::Delete { .. }, Some(kind), _) => {
                if let Some(key) = object_key(kind, key) {
                    self.delete_object(key);
                }
            }
            (Change::Put(entry), None, AGENTS) => self.put_agent(entry),
            (Change::Delete { .. }, None, AGENTS) => {
                if let Ok(name) = key.name.parse::<DnsLabel>() {
                    self.known_agents.remove(&name);
                    self.promise_agent(&name, None);
                    self.end_agent(&name, "this agent was removed from the mesh");
                    self.registry.forget(&name);
                }
            }
            (Change::Put(entry), None, TOKENS) => self.put_token(entry),
            (Change::Delete { .. }, None, TOKENS) => {
                self.token_networks.remove(&*key.name);
                self.promise_token(&key.name, None);
                self.mesh_due = true;
            }
            (Change::Put(entry), None, USERS) => {
                self.people
                    .change(&key.name, Some(entry), change.revision());
            }
            (Change::Delete { .. }, None, USERS) => {
                self.people.change(&key.name, None, change.revision());
            }
            (Change::Delete { .. }, None, SERVICES) => self.delete_remembered(key),
            (_, None, _) => {}
        }
    }

    fn put_object(&mut self, kind: Kind, entry: &Entry) {
        let Some(key) = object_key(kind, &entry.key) else {
            return;
        };
        match read_object(kind, entry) {
            Ok(resource) => {
                if self
                    .objects
                    .get(&key)
                    .is_some_and(|known| **known == resource)
                {
                    return;
                }
                let resource = Arc::new(resource);
                let (_, namespace, name) = key.clone();
                if kind == Kind::Service {
                    // Its addresses are no matter of the compiler.
                    let service = ServiceName::new(namespace.clone(), name.clone());
                    self.revisited.insert(service);
                }
                self.object_stale(&key);
                self.pending.push(Input::Object(
                    kind,
                    namespace,
                    name,
                    Some(Arc::clone(&resource)),
                ));
                self.objects.insert(key, resource);
            }
            Err(reason) => {
                // The last good one stays: invalid configuration never fails open.
                self.counters.refused_objects = self.counters.refused_objects.saturating_add(1);
                tracing::error!(key = %entry.key, reason, "a stored object cannot be used");
            }
        }
    }

    fn delete_object(&mut self, key: ObjectKey) {
        if self.objects.remove(&key).is_some() {
            self.object_stale(&key);
            if key.0 == Kind::Service {
                let service = ServiceName::new(key.1.clone(), key.2.clone());
                self.revisited.insert(service);
            }
            self.pending.push(Input::Object(key.0, key.1, key.2, None));
        }
    }

    fn put_vip(&mut self, entry: &Entry) {
        let service = service_of(&entry.key);
        let record = serde_json::from_slice::<VipRecord>(&entry.value).ok();
        if let (Some(service), Some(record)) = (service, record) {
            let known = self.vips().record(&service).is_some();
            if !known {
                self.vips().load(service, record);
            }
        }
    }

    fn put_agent(&mut self, entry: &Entry) {
        let Some(mut record) = AgentRecord::read(entry) else {
            tracing::error!(key = %entry.key, "a stored agent cannot be read");
            return;
        };
        record.revision = Some(entry.revision);
        if let Ok(name) = record.name.parse::<DnsLabel>() {
            let known = self.known_agents.get(&name);
            // It joined again, which was noted before what is older was taken in.
            if known.is_some_and(|known| known.revision > record.revision) {
                return;
            }
            // Where it is may still be on its way to the store, or somebody else's write was faster.
            let same =
                |of: &AgentRecord| of.places == record.places && of.stopped == record.stopped;
            if let Some(known) = known.filter(|known| !same(known)) {
                record.places = known.places.clone();
                record.stopped = known.stopped;
                self.noted.insert(name.clone());
            }
            let revoked = record.revoked;
            record.scope = self.promised.shared(record.scope);
            self.promise_agent(&name, Some(&record.scope).filter(|_| !revoked));
            self.known_agents.insert(name.clone(), record);
            self.mesh_due = true;
            if revoked {
                self.end_agent(&name, "this agent's certificate was revoked");
            }
        }
    }

    fn put_token(&mut self, entry: &Entry) {
        let Some(record) = TokenRecord::read(entry) else {
            tracing::error!(key = %entry.key, "a stored token cannot be read");
            return;
        };
        let scope = AgentScope::from_document(&record.scope).ok();
        self.promise_token(&record.id, scope.as_ref());
        if let Some(network) = scope.and_then(|scope| scope.cidr) {
            self.token_networks.insert(record.id, network);
            self.mesh_due = true;
        }
    }

    /// Does what the registry says follows from an event.
    pub(super) fn follow(&mut self, fx: Effects) {
        for (session, sequence) in fx.ping {
            self.ping(session, sequence);
        }
        for (session, reason) in fx.end {
            self.end_session(session, reason);
        }
        for was in fx.changed.into_values() {
            self.workload_changed(was);
        }
        self.mesh_due |= fx.members;
    }

    /// A workload came, went or is different; `was` is its program before that.
    pub(super) fn workload_changed(&mut self, was: Arc<Program>) {
        let uid = was.uid;
        self.publish_due = true;
        self.stale.workloads.insert(uid);
        // Also of one that is there: it may have been taken from its proxy and come back before anything was compiled, so
        // that what is compiled of it is not different.
        let own = Type::OwnWorkload;
        let touched = self.hub.changed_wildcard(own, Some(&was.agent));
        self.ready.extend(touched);
        let Some((agent_name, agent, workload)) = self.registry.workload(&uid) else {
            self.pending.push(Input::Workload(uid, None));
            self.former.insert(was, self.registry.len());
            return;
        };
        let mut record = record_of(agent, workload);
        record.versioned = self.promised_to_others(agent, workload).is_none()
            && self.versions.take(agent_name, agent, workload);
        // One that is counted and comes to nothing is given back.
        self.revisited.extend(workload.version_service());
        if !Arc::ptr_eq(&was, &workload.program) {
            self.former.insert(was, self.registry.len());
        }
        self.pending.push(Input::Workload(uid, Some(record)));
    }
}

pub(super) fn object_key(kind: Kind, key: &StoreKey) -> Option<ObjectKey> {
    Some((kind, key.namespace.parse().ok()?, key.name.parse().ok()?))
}

pub(super) fn service_of(key: &StoreKey) -> Option<ServiceName> {
    Some(ServiceName::new(
        key.namespace.parse().ok()?,
        key.name.parse().ok()?,
    ))
}

pub(super) fn read_object(kind: Kind, entry: &Entry) -> Result<Resource, String> {
    let value = serde_json::from_slice(&entry.value).map_err(|error| error.to_string())?;
    let admitted = leno_config::admit(kind, value).map_err(|findings| {
        let texts: Vec<String> = findings.iter().map(ToString::to_string).collect();
        texts.join("; ")
    })?;
    Ok(admitted.resource)
}

pub(super) fn record_of(agent: &Agent, workload: &Workload) -> WorkloadRecord {
    let health = if agent.is_unknown() {
        Health::Unknown
    } else if workload.healthy {
        Health::Healthy
    } else {
        Health::Unhealthy
    };
    WorkloadRecord {
        program: Arc::clone(&workload.program),
        place: Arc::clone(&agent.place),
        versioned: true,
        health,
        ready: workload.ready,
    }
}
