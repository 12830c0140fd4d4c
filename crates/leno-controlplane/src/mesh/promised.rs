//! Names of services that join tokens, and the agents they made, may serve: no version's label may make one of them.
//!
//! A workload of service `pay` with version `api` makes the service `pay-api` beside `pay`. Where that is a name which
//! somebody's token allows, it would be a service made by who was never allowed to serve it (CP5); so it is not made,
//! unless the same agent may serve both. Whoever registers for the name itself has it in any case.
//! Invariant: a name is promised exactly while a token or an agent whose scope lists it is known.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use leno_compile::Program;
use leno_types::{DnsLabel, ServiceName};

use super::Mesh;
use crate::registry::{Agent, AgentScope, Workload};

/// Names and how many hold a promise of each.
#[derive(Debug, Default)]
pub(super) struct Promised {
    by_holder: BTreeMap<String, AgentScope>,
    holders: BTreeMap<ServiceName, usize>,
}

impl Promised {
    /// What a token or an agent may serve now; `None`: it is gone. Tells which names came or went.
    fn set(&mut self, holder: String, scope: Option<&AgentScope>) -> BTreeSet<ServiceName> {
        let scope = scope.filter(|scope| !scope.services.is_empty());
        let mut changed = BTreeSet::new();
        for name in scope.into_iter().flat_map(AgentScope::service_names) {
            let holders = self.holders.entry(name.clone()).or_default();
            *holders += 1;
            if *holders == 1 {
                changed.insert(name);
            }
        }
        let old = match scope {
            None => self.by_holder.remove(&holder),
            Some(scope) => self.by_holder.insert(holder, scope.clone()),
        };
        for name in old.iter().flat_map(AgentScope::service_names) {
            let left = self.holders.get(&name).map_or(0, |count| count - 1);
            if left > 0 {
                self.holders.insert(name, left);
            } else {
                self.holders.remove(&name);
                changed.insert(name);
            }
        }
        changed
    }

    /// The same scope, with the names that others were promised as well: of what many agents may serve each name is kept
    /// once.
    pub(super) fn shared(&self, mut scope: AgentScope) -> AgentScope {
        let known = |name| {
            self.holders
                .get_key_value(&name)
                .map_or(name, |known| known.0.clone())
        };
        let names: Vec<ServiceName> = scope.service_names().map(known).collect();
        if let Some(first) = names.first() {
            scope.namespace = first.namespace.clone();
        }
        scope.services = names.into_iter().map(|of| of.name).collect();
        scope
    }

    /// Whether somebody's scope lists it.
    fn has(&self, name: &ServiceName) -> bool {
        self.holders.contains_key(name)
    }
}

impl Mesh {
    /// An agent's scope, or its end.
    pub(super) fn promise_agent(&mut self, agent: &DnsLabel, scope: Option<&AgentScope>) {
        self.promise(format!("agent/{agent}"), scope);
    }

    /// A token's scope, or its end.
    pub(super) fn promise_token(&mut self, id: &str, scope: Option<&AgentScope>) {
        self.promise(format!("token/{id}"), scope);
    }

    fn promise(&mut self, holder: String, scope: Option<&AgentScope>) {
        let changed = self.promised.set(holder, scope);
        if changed.is_empty() {
            return;
        }
        let versions = self.registry.agents().flat_map(|(_, agent)| {
            let concerned = |workload: &&Arc<Workload>| {
                let makes = workload.version_service();
                makes.is_some_and(|name| changed.contains(&name))
            };
            agent.workloads.values().filter(concerned)
        });
        let concerned: Vec<Arc<Program>> = versions.map(|of| Arc::clone(&of.program)).collect();
        for program in concerned {
            self.workload_changed(program);
        }
    }

    /// The service that a workload's version would make, where that name is promised to others.
    pub(super) fn promised_to_others(
        &self,
        agent: &Agent,
        workload: &Workload,
    ) -> Option<ServiceName> {
        let name = workload
            .version_service()
            .filter(|name| self.promised.has(name))?;
        let own = agent.scope.any
            || (agent.scope.namespace == name.namespace
                && agent.scope.services.contains(&name.name));
        (!own).then_some(name)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn scope(services: &[&str]) -> AgentScope {
        AgentScope {
            any: false,
            namespace: "shop".parse().unwrap(),
            account: None,
            services: services.iter().map(|name| name.parse().unwrap()).collect(),
            cidr: None,
        }
    }

    #[test]
    fn a_name_is_promised_as_long_as_somebody_may_serve_it() {
        let mut promised = Promised::default();
        let name: ServiceName = "shop/pay-api".parse().unwrap();
        let both = scope(&["pay-api", "cart"]);
        assert_eq!(promised.set("token/1".into(), Some(&both)).len(), 2);
        let changed = promised.set("agent/a".into(), Some(&scope(&["pay-api"])));
        assert!(changed.is_empty() && promised.has(&name));
        // The same again changes nothing.
        assert!(promised.set("token/1".into(), Some(&both)).is_empty());
        assert_eq!(promised.set("token/1".into(), None).len(), 1);
        assert!(promised.has(&name));
        let changed = promised.set("agent/a".into(), None);
        assert_eq!(changed, BTreeSet::from([name.clone()]));
        assert!(!promised.has(&name) && promised.holders.is_empty());
    }
}
