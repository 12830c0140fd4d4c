//! How many services an agent makes by its versions, which it chooses freely and which outlive their workloads.
//!
//! Refuses what is too many: such a workload serves all the same, and its version has no name of its own.
//! Invariant: an agent is counted for at most [`MAX_VERSIONS`] names of one service, each for as long as there is such a
//! service, served or remembered. The control plane's own machine, which may host anything, is not counted.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use leno_types::{DnsLabel, ServiceName};

use super::Mesh;
use crate::registry::{Agent, Workload};

/// Most versions of a service that one agent makes names for, with those that are remembered.
pub(super) const MAX_VERSIONS: usize = 64;

/// Who made which names.
#[derive(Debug, Default)]
pub(super) struct Versions {
    made: BTreeMap<(DnsLabel, DnsLabel), BTreeSet<ServiceName>>,
}

impl Versions {
    /// Whether a workload's version may have a name of its own, which is counted for its agent.
    pub(super) fn take(&mut self, name: &DnsLabel, agent: &Agent, of: &Workload) -> bool {
        match (&of.service, of.version_service()) {
            (Some(service), Some(version)) if !agent.scope.any => {
                self.count(name, service, &version)
            }
            _ => true,
        }
    }

    /// Counts a version of `service` for an agent; whether there is room for its name.
    fn count(&mut self, agent: &DnsLabel, service: &DnsLabel, version: &ServiceName) -> bool {
        let key = (agent.clone(), service.clone());
        let made = self.made.entry(key).or_default();
        if made.len() < MAX_VERSIONS {
            made.insert(version.clone());
        }
        made.contains(version)
    }

    /// Whether a name is one of those that an agent made.
    fn has(&self, agent: &DnsLabel, service: &DnsLabel, version: &ServiceName) -> bool {
        let key = (agent.clone(), service.clone());
        self.made
            .get(&key)
            .is_some_and(|made| made.contains(version))
    }

    /// All that are counted.
    pub(super) fn all(&self) -> impl Iterator<Item = &ServiceName> {
        self.made.values().flatten()
    }

    /// Counts what is gone no more; tells who has room now.
    fn end(&mut self, gone: &BTreeSet<ServiceName>) -> BTreeSet<DnsLabel> {
        let mut agents = BTreeSet::new();
        self.made.retain(|(agent, _), made| {
            let before = made.len();
            made.retain(|version| !gone.contains(version));
            if made.len() < before {
                agents.insert(agent.clone());
            }
            !made.is_empty()
        });
        agents
    }
}

impl Mesh {
    /// The version that has no name of its own because its agent made too many.
    pub(super) fn version_over_limit(
        &self,
        name: &DnsLabel,
        agent: &Agent,
        of: &Workload,
    ) -> Option<ServiceName> {
        let version = of.version_service().filter(|_| !agent.scope.any)?;
        let known = self.versions.has(name, of.service.as_ref()?, &version);
        (!known).then_some(version)
    }

    /// These services are gone, and not remembered. Who made one of them has room for another.
    pub(super) fn end_versions(&mut self, gone: &BTreeSet<ServiceName>) {
        if gone.is_empty() {
            return;
        }
        for agent in self.versions.end(gone) {
            let workloads = self.registry.agent(&agent).map(|of| of.workloads.clone());
            for workload in workloads.into_iter().flat_map(BTreeMap::into_values) {
                self.workload_changed(Arc::clone(&workload.program));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn an_agent_makes_so_many_names_and_another_once_one_is_forgotten() {
        let mut versions = Versions::default();
        let (a, b, cart) = ("a", "b", "cart");
        let label = |text: &str| text.parse::<DnsLabel>().unwrap();
        let name = |number: usize| format!("shop/cart-v{number}").parse().unwrap();
        for number in 0..MAX_VERSIONS {
            assert!(versions.count(&label(a), &label(cart), &name(number)));
        }
        let one_more = name(MAX_VERSIONS);
        assert!(!versions.count(&label(a), &label(cart), &one_more));
        assert!(!versions.has(&label(a), &label(cart), &one_more));
        // One that it has it may name again; others, and other services, have room of their own.
        assert!(versions.count(&label(a), &label(cart), &name(0)));
        assert!(versions.count(&label(b), &label(cart), &one_more));
        assert!(versions.count(&label(a), &label("pay"), &one_more));
        let freed = versions.end(&BTreeSet::from([name(7)]));
        assert_eq!(freed, BTreeSet::from([label(a)]));
        assert!(versions.count(&label(a), &label(cart), &one_more));
    }
}
