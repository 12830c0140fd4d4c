//! Since when derived objects are there, as this control plane saw it: after its restart they begin anew.

use std::{collections::BTreeMap, sync::Arc};

use leno_types::{ServiceName, WorkloadUid};

/// RFC 3339 times. Invariant: of what is gone nothing is kept.
#[derive(Clone, Debug, Default)]
pub(super) struct Ages {
    services: BTreeMap<ServiceName, Arc<str>>,
    workloads: BTreeMap<WorkloadUid, Arc<str>>,
}

impl Ages {
    /// Takes in what is there now.
    pub(super) fn update(
        &mut self,
        services: impl Iterator<Item = ServiceName>,
        workloads: impl Iterator<Item = WorkloadUid>,
        now: &str,
    ) {
        self.services = kept(&self.services, services, now);
        self.workloads = kept(&self.workloads, workloads, now);
    }

    /// Since when a service is there.
    pub(super) fn service(&self, name: &ServiceName) -> &str {
        self.services.get(name).map_or("", |since| since)
    }

    /// Since when a workload is there.
    pub(super) fn workload(&self, uid: WorkloadUid) -> &str {
        self.workloads.get(&uid).map_or("", |since| since)
    }
}

fn kept<K: Ord>(
    before: &BTreeMap<K, Arc<str>>,
    there: impl Iterator<Item = K>,
    now: &str,
) -> BTreeMap<K, Arc<str>> {
    let since = |key: K| {
        let since = before.get(&key).cloned().unwrap_or_else(|| now.into());
        (key, since)
    };
    there.map(since).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn an_object_keeps_its_time_until_it_is_gone() {
        let (a, b): (ServiceName, ServiceName) = ("d/a".parse().unwrap(), "d/b".parse().unwrap());
        let mut ages = Ages::default();
        let none = std::iter::empty;
        ages.update([a.clone()].into_iter(), none(), "1");
        ages.update([a.clone(), b.clone()].into_iter(), none(), "2");
        assert_eq!((ages.service(&a), ages.service(&b)), ("1", "2"));
        ages.update([b.clone()].into_iter(), none(), "3");
        assert_eq!((ages.service(&a), ages.service(&b)), ("", "2"));
        ages.update([a.clone()].into_iter(), none(), "4");
        assert_eq!(ages.service(&a), "4");
    }
}
