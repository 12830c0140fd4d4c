//! What has a label, by namespace: the workloads that have it, and the services whose selectors name it.
//!
//! So that a service finds its workloads, and a workload its services, without a look at all of a namespace.
//! Invariant: a value is found under a label exactly while it was inserted with it.

use std::collections::{BTreeMap, BTreeSet};

use leno_config::Service;
use leno_types::{DnsLabel, ServiceName, WorkloadUid};

use crate::{
    WorkloadRecord,
    known::{Known, Member},
};

/// Values by namespace, name of a label, and its value.
#[derive(Debug)]
pub(crate) struct Labelled<V>(BTreeMap<DnsLabel, ByName<V>>);

type ByName<V> = BTreeMap<String, BTreeMap<String, BTreeSet<V>>>;

impl<V: Clone + Ord> Labelled<V> {
    /// Nothing has a label.
    pub(crate) fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// Something has a label.
    pub(crate) fn insert(&mut self, namespace: &DnsLabel, label: (&str, &str), value: V) {
        let names = self.0.entry(namespace.clone()).or_default();
        let values = names.entry(label.0.to_owned()).or_default();
        values.entry(label.1.to_owned()).or_default().insert(value);
    }

    /// Something has a label no more.
    pub(crate) fn remove(&mut self, namespace: &DnsLabel, label: (&str, &str), value: &V) {
        let Some(names) = self.0.get_mut(namespace) else {
            return;
        };
        if let Some(values) = names.get_mut(label.0) {
            if let Some(all) = values.get_mut(label.1) {
                all.remove(value);
                if all.is_empty() {
                    values.remove(label.1);
                }
            }
            if values.is_empty() {
                names.remove(label.0);
            }
        }
        if names.is_empty() {
            self.0.remove(namespace);
        }
    }

    /// Everything that has a label.
    pub(crate) fn of(&self, namespace: &DnsLabel, label: (&str, &str)) -> Option<&BTreeSet<V>> {
        self.0.get(namespace)?.get(label.0)?.get(label.1)
    }
}

/// The label under which a selector is found: any one of its own will do.
pub(crate) fn anchor(selector: &BTreeMap<String, String>) -> Option<(&str, &str)> {
    let (name, value) = selector.first_key_value()?;
    Some((name, value))
}

/// Whether a label says which service a workload is registered for: who has it is found by that.
fn is_of_service(name: &str) -> bool {
    matches!(name, "app" | "leno.dev/service")
}

/// The labels of a workload by which it is found here.
pub(crate) fn found_by(record: &WorkloadRecord) -> impl Iterator<Item = (&'static str, &str)> {
    record.labels().filter(|(name, _)| !is_of_service(name))
}

impl Known {
    /// The applied services that select a workload.
    pub(crate) fn selecting<'a>(&'a self, member: &Member) -> impl Iterator<Item = &'a Service> {
        let mut found = BTreeSet::new();
        for label in member.record.labels() {
            let services = self.selecting.of(&member.record.namespace, label);
            let services = services.into_iter().flatten();
            found.extend(services.filter(|name| {
                self.look();
                let service = self.service(name);
                service.is_some_and(|service| member.is_selected(&service.selector))
            }));
        }
        found.into_iter().filter_map(|name| self.service(name))
    }

    /// The workloads of a namespace that have every label of a selector.
    pub(crate) fn selected(
        &self,
        namespace: &DnsLabel,
        selector: &BTreeMap<String, String>,
    ) -> impl Iterator<Item = &Member> {
        // What has the rarest of these labels may have all of them.
        let each = selector.iter();
        let each = each.map(|(name, value)| self.having(namespace, (name, value)));
        let rarest = each.min_by_key(|of| of.map_or(0, BTreeSet::len));
        let may = rarest.flatten().into_iter().flatten();
        let may = may.filter_map(|uid| self.workload(*uid));
        may.filter(|member| {
            self.look();
            member.is_selected(selector)
        })
    }

    /// The workloads that have a label.
    fn having(&self, namespace: &DnsLabel, label: (&str, &str)) -> Option<&BTreeSet<WorkloadUid>> {
        if !is_of_service(label.0) {
            return self.labelled.of(namespace, label);
        }
        let service = ServiceName::new(namespace.clone(), label.1.parse().ok()?);
        self.registered.get(&service)
    }

    fn look(&self) {
        self.looked_at.set(self.looked_at.get().saturating_add(1));
    }

    /// How many workloads and services were looked at for a selector.
    pub(crate) fn looked_at(&self) -> u64 {
        self.looked_at.get()
    }
}
